"""Draws the figures of the first page and of "Basic concepts": ``python docs/figures/concepts.py`` writes them anew."""

from html import escape
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent / "concepts"
WIDTH: Final = 660
APP, MODEL, OLD, PART = "#fde7c4", "#cfe8d5", "#ececec", "#d7e3f4"

Box = tuple[int, int, str, str]
"""Column, row, text and colour."""
Arrow = tuple[int, int, int, int, str]
"""From a column and row to another, and what it says."""

CLUSTER: Final[list[Box]] = [
    (0, 0, "applications", "#ffffff"),
    (1, 0, "query frontend", PART),
    (0, 1, "your notebook", "#ffffff"),
    (1, 1, "management frontend", PART),
    (2, 1, "Redis", PART),
]
MANAGE: Final[list[Arrow]] = [(0, 1, 1, 1, ""), (1, 1, 2, 1, "")]


def served(text: str, row: int = 0, colour: str = MODEL) -> Box:
    return (2, row, text, colour)


APPLICATION: Final[Box] = (0, 0, "hello-world", APP)
FRONTEND: Final[Box] = (1, 0, "query frontend", PART)
ASKS: Final[Arrow] = (0, 0, 1, 0, "REST")

FIGURES: Final[dict[str, tuple[str, list[Box], list[Arrow]]]] = {
    "architecture": (
        "How a query reaches a model, and a model a cluster",
        [*CLUSTER, served("model containers"), (1, 2, "container manager", PART)],
        [
            (0, 0, 1, 0, "REST"),
            (1, 0, 2, 0, "ZeroMQ"),
            (0, 1, 1, 1, "REST"),
            (1, 1, 2, 1, ""),
            (2, 1, 1, 0, ""),
            (0, 1, 1, 2, ""),
        ],
    ),
    "start": ("start_clipper starts the frontends and Redis", CLUSTER, MANAGE),
    "register": (
        "An application answers with its default output",
        [APPLICATION, FRONTEND, (2, 0, "default output", "#ffffff")],
        [ASKS, (1, 0, 2, 0, "")],
    ),
    "deploy": (
        "A deployed model has replicas, and no queries yet",
        [APPLICATION, FRONTEND, served("sum-model:1")],
        [ASKS, (2, 0, 1, 0, "connects")],
    ),
    "link": (
        "A link sends the queries of an application to a model",
        [APPLICATION, FRONTEND, served("sum-model:1")],
        [ASKS, (1, 0, 2, 0, "")],
    ),
    "update": (
        "A new version takes over, the one before stays",
        [APPLICATION, FRONTEND, served("sum-model:1", 0, OLD), served("sum-model:2", 1)],
        [ASKS, (1, 0, 2, 1, "")],
    ),
    "rollback": (
        "set_model_version goes back to the version before",
        [APPLICATION, FRONTEND, served("sum-model:1"), served("sum-model:2", 1, OLD)],
        [ASKS, (1, 0, 2, 0, "")],
    ),
    "replicas": (
        "Replicas of a version share its queries",
        [APPLICATION, FRONTEND, *(served(f"sum-model:1 #{row}", row) for row in range(3))],
        [ASKS, *((1, 0, 2, row, "") for row in range(3))],
    ),
}


def draw(title: str, boxes: list[Box], arrows: list[Arrow]) -> str:
    height = 40 + 70 * (1 + max(row for _, row, _, _ in boxes))
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'font-family="sans-serif" font-size="14">',
        f"<title>{escape(title)}</title>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="{WIDTH // 2}" y="22" text-anchor="middle" font-weight="bold">{escape(title)}</text>',
        *map(_box, boxes),
        *map(_arrow, arrows),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _place(column: int, row: int) -> tuple[int, int]:
    """The centre of a box."""
    return 100 + 230 * column, 68 + 70 * row


def _box(box: Box) -> str:
    column, row, text, colour = box
    x, y = _place(column, row)
    return (
        f'<rect x="{x - 85}" y="{y - 22}" width="170" height="44" rx="6" fill="{colour}" stroke="#444444"/>'
        f'<text x="{x}" y="{y + 5}" text-anchor="middle">{escape(text)}</text>'
    )


def _arrow(arrow: Arrow) -> str:
    (x1, y1), (x2, y2) = _place(*arrow[:2]), _place(*arrow[2:4])
    side = 85 if x2 > x1 else -85
    line = f'<line x1="{x1 + side}" y1="{y1}" x2="{x2 - side}" y2="{y2}" stroke="#000000" marker-end="url(#head)"/>'
    label = f'<text x="{(x1 + x2) // 2}" y="{(y1 + y2) // 2 - 6}" text-anchor="middle" font-size="11">{arrow[4]}</text>'
    return line + (label if arrow[4] else "")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, figure in FIGURES.items():
        (FOLDER / f"{name}.svg").write_text(draw(*figure))

"""The target of `make` that runs each test. `pytest --target=NAME` runs only the tests of that target.

`make test` says at its end what it left to others. `pytest` by itself, as in `make test-all`, runs all tests.
"""

from collections import Counter

import pytest

OPTION = "--target"
EVERYDAY = "test"
ALL = "test-all"
BY_MARK = {
    "long": ALL,
    "other_manager": ALL,
    "notebook": "test-notebooks",
    "framework": "test-frameworks",
    "kubernetes": "test-kubernetes",
}
"""The first mark that a test has decides. One without any of them is run by `make test`."""

left_out = pytest.StashKey[Counter[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    targets = sorted({EVERYDAY, *BY_MARK.values()} - {ALL})
    parser.addoption(OPTION, choices=targets, help="run the tests of this target of `make` alone")


def target_of(item: pytest.Item) -> str:
    return next((target for mark, target in BY_MARK.items() if item.get_closest_marker(mark)), EVERYDAY)


def select(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of other targets than the one that is asked for."""
    wanted = config.getoption(OPTION)
    if wanted is None:
        return
    others = [item for item in items if target_of(item) != wanted]
    config.stash[left_out] = Counter(map(target_of, others))
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if target_of(item) == wanted]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption(OPTION) != EVERYDAY or left_out not in config.stash:
        return
    terminalreporter.section("left to other targets")
    for target, number in sorted(config.stash[left_out].items()):
        terminalreporter.line(f"{number:4} tests: make {target}")

"""Ratios and tables of the comparison, and the page that shows them."""

import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from bench import compare, publish
from bench.compare import Run
from bench.servers import PEERS, SERVERS, dependencies

PAGE = publish.PAGE.read_text()


def run(server: str, per_second: float, round: str = "1", connections: int = 64, **fields: Any) -> Run:
    run = Run(round, "10 doubles", server, connections, 0.0, per_second, 1.0, 2.0, 0.04, {server: 0.04}, 0, 0)
    return run._replace(**fields)


def test_ratio_is_the_median_of_the_rounds_ratios() -> None:
    runs = [run("yardstick", 100, "1"), run("yardstick", 10, "2"), run("yardstick", 50, "3")]
    runs += [run("clipper", 300, "1"), run("clipper", 20, "2"), run("clipper", 500, "3")]
    assert compare.ratio(runs, "clipper", "yardstick") == 3
    assert compare.ratio(runs, "clipper", "yardstick", "cpu_seconds_per_1000") == 1


def test_rounds_without_the_other_server_do_not_count() -> None:
    runs = [run("yardstick", 100, "1"), run("clipper", 300, "1"), run("clipper", 900, "2")]
    assert compare.ratio(runs, "clipper", "yardstick") == 3


def test_one_table_for_each_load_closed_loops_first() -> None:
    runs = [run("yardstick", 90, rate=100.0), run("yardstick", 100, connections=256), run("yardstick", 100)]
    titles = [table.title for table in compare.tables(runs)]
    assert [title.split(";")[0] for title in titles] == [
        "10 doubles, 64 connections, closed loop",
        "10 doubles, 256 connections, closed loop",
        "10 doubles, open loop, 100 requests/s offered",
    ]


@pytest.mark.parametrize("name", PEERS)
def test_packages_of_peers_are_pinned(name: str) -> None:
    assert all(dependency.count("==") == 1 for dependency in dependencies(name))


def test_every_server_says_what_it_is() -> None:
    assert all(server.what for server in SERVERS.values())


# --- the page ---


def document(benchmark: str, commit: str, quick: bool = False, **raw: Any) -> dict[str, Any]:
    return {"benchmark": benchmark, "machine": {"commit": commit}, "arguments": {"quick": quick}, "raw": raw}


def write(folder: Path, time: str, document: dict[str, Any]) -> Path:
    path = folder / f"{document['benchmark']}-20260101-{time}.json"
    path.write_bytes(orjson.dumps(document))
    return path


def test_newest_results_are_those_of_the_newest_commit_of_each_benchmark(tmp_path: Path) -> None:
    documents = [
        document("compare", "old", number=1),
        document("soak", "old", number=2),
        document("compare", "new", number=3),
        document("compare", "new", number=4),
        document("compare", "smoke", quick=True, number=5),
    ]
    paths = [write(tmp_path, f"00000{number}", one) for number, one in enumerate(documents)]
    assert [one["raw"]["number"] for one in publish.newest(reversed(paths))] == [2, 3, 4]


def test_only_sections_with_results_are_written_anew() -> None:
    page = "before\n<!-- bench: cpu -->\nold\n<!-- end -->\n<!-- bench: idle -->\nkept\n<!-- end -->\nafter\n"
    runs = [run("clipper", 100, cpu_by_program={"query": 0.03, "container": 0.01})._asdict()]
    written = publish.publish(page, [document("compare", "new", runs=runs, failures=[], versions={})])
    assert "old" not in written
    assert "| clipper | 10 doubles | 64 | closed | 0.03 | 0.01 |" in written
    assert written.startswith("before\n")
    assert written.endswith("<!-- bench: idle -->\nkept\n<!-- end -->\nafter\n")


def test_page_has_every_section_once() -> None:
    for name in publish.SECTIONS:
        assert PAGE.count(f"<!-- bench: {name} -->") == 1
    assert PAGE.count("<!-- bench: ") == len(publish.SECTIONS) == PAGE.count("<!-- end -->")


def test_plots_on_the_page_exist() -> None:
    shown = {part.split(")")[0] for part in PAGE.split("](figures/")[1:]}
    assert shown <= {path.name for path in publish.PLOTS.glob("*.svg")}


def test_figures_in_prose_are_those_of_the_claims() -> None:
    measured = set(re.findall(r"^\| \d+ doubles,.*? \| [^|]* \| ([\d.]+) \|", PAGE, re.MULTILINE))
    index = (publish.PAGE.parent / "index.md").read_text()
    for text in (index, PAGE.partition("## ")[0]):
        told = re.findall(r"([\d.]+)\s+times\s+as\s+many", text)
        assert told and set(told) <= measured


# --- claims ---


def test_claim_holds_by_the_median_of_the_rounds() -> None:
    claim = publish.Claim("10 doubles", 64, "clipper", "yardstick", 2)
    runs = [run("yardstick", 100, round) for round in "123"]
    runs += [run("clipper", rate, round) for rate, round in ((150, "1"), (210, "2"), (400, "3"))]
    [(_, bar, measured, spread, holds)] = claim.rows(runs)
    assert (bar, measured, spread, holds) == ("≥ 2 × yardstick's", 2.1, "1.5 to 4", "yes")


def test_claim_about_an_open_loop_is_a_difference() -> None:
    claim = publish.Claim("10 doubles", 64, "clipper", "yardstick", 1, "p50_millis", open=True)
    runs = [run("yardstick", 90, rate=100.0, p50_millis=0.5), run("clipper", 90, rate=100.0, p50_millis=2.0)]
    [(_, _, measured, _, holds)] = claim.rows(runs)
    assert (measured, holds) == (1.5, "no")


def test_claim_without_measurements_has_no_row() -> None:
    assert publish.Claim("10 doubles", 64, "clipper", "mosec", 1.5).rows([run("clipper", 100)]) == []

"""Writes the results of the benchmarks into docs/performance.md, between its markers: tables, plots, machine, versions.

Without arguments from the newest results of each benchmark, and all others of the same benchmark and commit.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

import matplotlib
import orjson

from bench import batching, compare, real_models, report, selection, soak
from bench.compare import CLIPPER, YARDSTICK, Failure, Run
from bench.programs import ROOT
from bench.report import RESULTS, Table, median, progress
from bench.servers import SERVERS

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "clipper"  # the same figures: the same file
matplotlib.rcParams["svg.fonttype"] = "none"
from matplotlib import pyplot  # noqa: E402 - after the backend is chosen

PAGE: Final = ROOT / "docs" / "performance.md"
PLOTS: Final = ROOT / "docs" / "figures"
_MARKED: Final = re.compile(r"(<!-- bench: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_PEAK_CONNECTIONS: Final = 64
COMPILED: Final = "clipper-compiled"

Document = dict[str, Any]
"""A file of results."""


class Claim(NamedTuple):
    """A claim that a figure of one server is at least, or at most, a multiple of that of another, or a number of ms
    above it."""

    workload: str
    connections: int
    server: str
    other: str
    bar: float
    figure: str = "requests_per_second"
    """More is better of this one only."""
    open: bool = False

    def rows(self, runs: list[Run]) -> list[list[object]]:
        """Return a row, or none without measurements of both."""
        load = (self.open, self.workload, self.connections)
        of_load = compare.by_load(runs).get(load, [])
        both = list(compare.pairs(of_load, self.server, self.other, self.figure))
        if not both:
            return []
        if self.open:
            measured = compare.difference(of_load, self.server, self.other, self.figure)
            rounds = [mine - its for mine, its in both]
        else:
            measured = compare.ratio(of_load, self.server, self.other, self.figure)
            rounds = [mine / its for mine, its in both]
        more = self.figure == "requests_per_second"
        holds = measured >= self.bar if more else measured <= self.bar
        unit = " ms above" if self.open else " ×"
        what = f"{self.workload}, {self.connections} connection{'s' * (self.connections > 1)}, "
        what += f"{'open' if self.open else 'closed'} loop: {_FIGURES[self.figure]} of {self.server}"
        bar = f"{'≥' if more else '≤'} {self.bar:g}{unit} {self.other}'s"
        spread = " to ".join(f"{value:.3g}" for value in sorted([min(rounds), max(rounds)], reverse=not more))
        return [[what, bar, measured, spread, "yes" if holds else "no"]]


_FIGURES: Final = {
    "requests_per_second": "requests/s",
    "cpu_seconds_per_1000": "CPU time per request",
    "p50_millis": "p50",
    "p99_millis": "p99",
}
CLAIMS: Final = [
    Claim("10 doubles", 64, CLIPPER, YARDSTICK, 2),
    Claim("10 doubles", 64, CLIPPER, YARDSTICK, 0.5, "cpu_seconds_per_1000"),
    Claim("10 doubles", 64, COMPILED, YARDSTICK, 2),
    Claim("10 doubles", 64, COMPILED, YARDSTICK, 0.5, "cpu_seconds_per_1000"),
    Claim("10 doubles", 64, CLIPPER, "mosec", 1.5),
    Claim("10 doubles", 256, CLIPPER, "mosec", 1),
    *(Claim("10 doubles", 64, CLIPPER, peer, 20) for peer in ("litserve", "bentoml", "rayserve-defaults", "rayserve")),
    Claim("784 doubles", 64, CLIPPER, YARDSTICK, 2),
    Claim("784 doubles", 64, COMPILED, YARDSTICK, 2),
    Claim("784 doubles", 64, CLIPPER, "mosec", 5),
    Claim("10 doubles", 1, CLIPPER, YARDSTICK, 2.5, "p50_millis"),
    Claim("10 doubles", 64, CLIPPER, YARDSTICK, 1, "p50_millis", open=True),
    Claim("10 doubles", 64, CLIPPER, YARDSTICK, 3, "p99_millis", open=True),
    Claim("10 doubles", 64, "clipper-cached", YARDSTICK, 2.5),
]


# --- sections ---


def comparison(documents: list[Document]) -> str:
    runs = [run for run in _runs(documents) if not run.rate]
    plots = [
        _throughput_plot(of_load)
        for (_, _, size), of_load in compare.by_load(runs).items()
        if size == _PEAK_CONNECTIONS
    ]
    return _blocks([*plots, *(table.markdown() for table in compare.tables(runs)), *_failures(documents)])


def claims(documents: list[Document]) -> str:
    made = Table("What is claimed, and what was measured", ["", "bar", "measured", "worst and best round", "holds"])
    for claim in CLAIMS:
        made.rows += claim.rows(_runs(documents))
    return made.markdown()


def open_loop(documents: list[Document]) -> str:
    return _blocks(table.markdown() for table in compare.tables([run for run in _runs(documents) if run.rate]))


def cpu(documents: list[Document]) -> str:
    return compare.cpu_table(_runs(documents)).markdown()


def versions(documents: list[Document]) -> str:
    found: dict[str, dict[str, str]] = {}
    for document in documents:
        found |= document["raw"]["versions"]
    return compare.version_table({name: found[name] for name in SERVERS if name in found}).markdown()


def machine(documents: list[Document]) -> str:
    shown = ("time", "commit", "processor", "cores", "memory_bytes", "system", "python")
    made = Table("Machine", ["", "value"])
    newest = documents[-1]["machine"]
    made.rows = [[name.replace("_bytes", ""), _machine_value(name, newest[name])] for name in shown if name in newest]
    return made.markdown()


def tables(documents: list[Document]) -> str:
    """The tables of the newest run, as it printed them."""
    return _blocks(Table(**table).markdown() for table in documents[-1]["tables"])


def soaking(documents: list[Document]) -> str:
    return _blocks([_memory_plot(documents[-1]["raw"]), tables(documents)])


def batches(documents: list[Document]) -> str:
    models, delayed = batching.read(documents)
    plots = [_goodput_plot(one) for one in models]
    return _blocks([*plots, *(table.markdown() for table in batching.tables(models, delayed))])


def on_real_models(documents: list[Document]) -> str:
    runs = [real_models.Run(**run) for document in documents for run in document["raw"]["runs"]]
    plots = [_real_model_plot(model, runs) for model in dict.fromkeys(run.model for run in runs)]
    return _blocks([*plots, *(table.markdown() for table in real_models.tables(runs))])


def selecting(documents: list[Document]) -> str:
    return _blocks([_recovery_plot(documents[-1]["raw"]), tables(documents)])


SECTIONS: Final[dict[str, tuple[str, Callable[[list[Document]], str]]]] = {
    "machine": ("compare", machine),
    "versions": ("compare", versions),
    "claims": ("compare", claims),
    "comparison": ("compare", comparison),
    "open-loop": ("compare", open_loop),
    "cpu": ("compare", cpu),
    "generator": ("open_loop", tables),
    "soak": ("soak", soaking),
    "idle": ("idle", tables),
    "scale": ("scale", tables),
    "bodies": ("bodies", tables),
    "turns": ("turns", tables),
    "poison": ("poison", tables),
    "workers": ("workers", tables),
    "batching": ("batching", batches),
    "real-models": ("real_models", on_real_models),
    "selection": ("selection", selecting),
}
"""The sections by the names of their markers: whose results a section shows, and how."""


def _runs(documents: list[Document]) -> list[Run]:
    """Return the rounds of all files. Rounds with the same number in two files are two rounds."""
    return [
        Run(**(run | {"round": f"{number}:{run['round']}"}))
        for number, document in enumerate(documents)
        for run in document["raw"]["runs"]
    ]


def _failures(documents: list[Document]) -> list[str]:
    found = {Failure(**failure) for document in documents for failure in document["raw"]["failures"]}
    return [compare.failure_table(sorted(found)).markdown()] if found else []


def _machine_value(name: str, value: Any) -> str:
    return f"{value / 2**30:.0f} GiB" if name.endswith("_bytes") else str(value)


def _blocks(parts: Iterable[str]) -> str:
    return "\n\n".join(parts)


# --- plots ---


def _throughput_plot(runs: list[Run]) -> str:
    """Requests per second and CPU time of each server, both logarithmic."""
    names = [name for name in reversed(SERVERS) if any(run.server == name for run in runs)]
    figure, (rates, cpus) = pyplot.subplots(
        1, 2, figsize=(9, 0.6 + 0.3 * len(names)), sharey=True, layout="constrained"
    )
    for axes, figure_name, title in (
        (rates, "requests_per_second", "requests/s"),
        (cpus, "cpu_seconds_per_1000", "CPU seconds per 1,000 requests"),
    ):
        values = [median(getattr(run, figure_name) for run in runs if run.server == name) for name in names]
        bars = axes.barh(names, values, color=[_colour(name) for name in names])
        axes.bar_label(bars, [f"{value:,.0f}" if value >= 10 else f"{value:.2g}" for value in values], padding=3)
        axes.set(xscale="log", title=title)
        axes.minorticks_off()
        axes.margins(x=0.2)
        axes.spines[["top", "right"]].set_visible(False)
    one = runs[0]
    return _save(f"{one.workload}, {one.connections} connections", figure)


def _colour(server: str) -> str:
    return "#1f6feb" if server.startswith(CLIPPER) else "#57606a" if server in (YARDSTICK, "ceiling") else "#afb8c1"


def _goodput_plot(model: batching.Findings) -> str:
    """Against the offered rate, one line for each way of batching."""
    curves = batching.curves(model)
    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    most = max(rate for curve in curves.values() for rate in curve)
    axes.plot([0, most], [0, most], color="0.8", linestyle=":", label="all that is offered")
    for name, curve in curves.items():
        axes.plot(list(curve), list(curve.values()), marker="o", markersize=3, label=name)
    axes.set(xlabel="offered queries/s", ylabel="answered by the model within the SLO", xlim=(0, None), ylim=(0, None))
    axes.set_title(model.name)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return _save(f"Batching {model.name}", figure)


def _real_model_plot(model: str, runs: list[real_models.Run]) -> str:
    """Throughput against connections, and the share in time against the offered rate, one line for each server."""
    of_model = [run for run in runs if run.model == model]
    closed = [run for run in of_model if not run.rate]
    slo = median(run.slo_millis for run in of_model if run.rate)
    judged = [run for run in of_model if (run.arrivals, run.slo_millis) == (real_models.ARRIVALS[0], slo)]
    figure, (throughput, goodput) = pyplot.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for axes, curves in (
        (throughput, real_models.curves(closed, "requests_per_second", "connections")),
        (goodput, real_models.curves(judged, "share", "rate")),
    ):
        for server, curve in curves.items():
            axes.plot(list(curve), list(curve.values()), marker="o", markersize=3, label=server)
        axes.set(xscale="log", ylim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
    throughput.set(xlabel="connections", ylabel="requests/s", title=f"{model}, closed loop")
    goodput.set(xlabel="offered queries/s", ylabel=f"answered within {slo:g} ms", title=f"{model}, open loop")
    throughput.legend(frameon=False)
    return _save(f"{model} beside other servers", figure)


def _recovery_plot(raw: dict[str, Any]) -> str:
    """The error over the stream of queries, one line for each way to choose."""
    figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
    axes.axvspan(*raw["degraded"], color="0.93")
    for name, curve in raw["curves"].items():
        queries = [raw["window"] * (number + 0.5) for number in range(len(curve))]
        style = (
            {}
            if name in selection.POLICIES
            else {"color": "0.4", "linestyle": ":" if name == selection.STATIC else "--"}
        )
        axes.plot(queries, curve, label=name, **style)
    axes.set(xlabel="queries (the best model answers at random where it is grey)", ylabel="error", ylim=(0, 1))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return _save("A model degrades and recovers", figure)


def _memory_plot(raw: dict[str, Any]) -> str:
    figure, axes = pyplot.subplots(figsize=(8, 3), layout="constrained")
    seconds = [sample["seconds"] for sample in raw["samples"]]
    for program in [name for name in raw["samples"][0] if name != "seconds"]:
        axes.plot(seconds, [sample[program] for sample in raw["samples"]], label=soak.title(program))
    axes.set(xlabel="seconds", ylabel="resident MiB", ylim=(0, None))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return _save(f"Memory during {raw['queries']:,} queries", figure)


def _save(title: str, figure: Any) -> str:
    """Markdown that shows it."""
    name = re.sub(r"\W+", "-", title.lower()).strip("-") + ".svg"
    PLOTS.mkdir(exist_ok=True)
    figure.savefig(PLOTS / name, metadata={"Date": None})
    pyplot.close(figure)
    return _figure(title, PLOTS / name)


def _figure(title: str, path: Path) -> str:
    return f"![{title}]({path.parent.name}/{path.name})"


# --- the program ---


def publish(page: str, results: list[Document]) -> str:
    """The page with every section whose benchmark has results written anew."""

    def section(match: re.Match[str]) -> str:
        benchmark, render = SECTIONS[match[2]]
        documents = [document for document in results if document["benchmark"] == benchmark]
        text = render(documents) if documents else ""
        return f"{match[1]}\n{text}\n\n{match[3]}" if text else match[0]

    return _MARKED.sub(section, page)


def newest(paths: Iterable[Path]) -> list[Document]:
    """Return the newest results of each benchmark, and all others of its commit, oldest first. Smoke runs do not
    count."""
    documents = [_read(path) for path in sorted(paths, key=lambda path: path.name[-20:])]
    documents = [document for document in documents if not document["arguments"]["quick"]]
    commits = {document["benchmark"]: document["machine"]["commit"] for document in documents}
    return [document for document in documents if document["machine"]["commit"] == commits[document["benchmark"]]]


def _read(path: Path) -> Document:
    document: Document = orjson.loads(path.read_bytes())
    return document | {"file": path}


def main() -> None:
    parser = report.parser("publish", __doc__)
    parser.add_argument("files", nargs="*", type=Path, help="of results; default: the newest")
    arguments = report.parse(parser)
    results = [_read(file) for file in arguments.files] or newest(RESULTS.glob("*.json"))
    if not results:
        parser.error(f"there are no results in {RESULTS.relative_to(ROOT)}: run a benchmark first")
    PAGE.write_text(publish(PAGE.read_text(), results))
    progress(f"{PAGE.relative_to(ROOT)}: {', '.join(sorted({document['benchmark'] for document in results}))}")


if __name__ == "__main__":
    main()

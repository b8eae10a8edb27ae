"""Shared by all benchmarks: the command line, tables, and the file of results."""

import os
import platform
import re
import statistics
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
import psutil

from bench.programs import ROOT, end_cleanly_on_sigterm

RESULTS: Final = ROOT / "bench" / "results"


def parser(module: str, description: str | None) -> ArgumentParser:
    """The command line of `python -m bench.<module>`, with what all of them take."""
    made = ArgumentParser(
        prog=f"python -m bench.{module}", description=description, formatter_class=RawDescriptionHelpFormatter
    )
    made.add_argument("--quick", action="store_true", help="a smoke run: shows that it works, its figures say nothing")
    return made


def parse(arguments: ArgumentParser) -> Namespace:
    end_cleanly_on_sigterm()
    return arguments.parse_args()


@dataclass
class Table:
    title: str
    columns: Sequence[str]
    rows: list[Sequence[object]] = field(default_factory=list)

    def markdown(self) -> str:
        lines = [self.columns, ["---" if i == 0 else "--:" for i in range(len(self.columns))], *self.rows]
        return "\n".join([f"**{self.title}**", "", *("| " + " | ".join(map(_cell, line)) + " |" for line in lines)])


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    if value != value:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def finish(name: str, arguments: Namespace, tables: Sequence[Table], raw: object = None) -> None:
    """Print the tables, and keep them with all that is needed to judge them."""
    print("\n" + "\n\n".join(table.markdown() for table in tables))
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    document = {
        "benchmark": name,
        "arguments": vars(arguments),
        "machine": _machine(),
        "tables": [vars(table) for table in tables],
        "raw": raw,
    }
    path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY))
    progress(f"results: {path.relative_to(ROOT)}")


def _machine() -> dict[str, Any]:
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "commit": commit.stdout.strip(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_average": os.getloadavg(),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return found[1] if found else platform.processor()


def progress(text: str) -> None:
    """Say on stderr how far we are."""
    print(text, file=sys.stderr, flush=True)


def median(values: Iterable[float]) -> float:
    known = list(values)
    return statistics.median(known) if known else float("nan")


def percentile(values: Any, rank: float) -> float:
    """The value below which `rank` percent lie; not a number where there are none."""
    return float(np.percentile(values, rank)) if len(values) else float("nan")

"""Measures what each framework costs: its image, the time until it answers, and Clipper beside the model itself.

The models are those of the tests: small ones, so that what is measured is the framework and Clipper. Images are built
anew on the image that they share. Queries come from 64 connections of wrk with the cache off; the model itself is
called in a loop, with one input at a time, in an interpreter that does nothing else.
"""

import json
import subprocess
import sys
import time
from argparse import Namespace
from typing import Any, Final

from bench import report, wrk
from bench.programs import ROOT
from bench.report import Table, progress
from clipper_admin import images

sys.path.insert(0, str(ROOT / "integration-tests"))

from framework_environments import environment_of

_RUN: Final = ROOT / "integration-tests" / "frameworks" / "run.py"
_PACKAGES: Final = {"onnx": "onnxruntime"}
"""The program that serves, if it is not a package whose version must be that of the saved model."""
_COLUMNS: Final = [
    "model",
    "version",
    "image, MB",
    "of it shared",
    "built in, s",
    "first prediction after, s",
    "queries/s",
    "p99, ms",
    "calls/s of the model",
]


def main() -> None:
    parser = report.parser("frameworks", __doc__)
    parser.add_argument("frameworks", nargs="*", default=list(images.FRAMEWORKS), help="which (default: all)")
    parser.add_argument("--manager", choices=["docker", "process"], default="docker")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement (default: %(default)s)")
    arguments = report.parse(parser)
    if not wrk.is_installed():
        sys.exit("wrk is not installed: apt-get install wrk")
    table = Table(f"Frameworks on the {arguments.manager} manager", _COLUMNS)
    for framework in arguments.frameworks:
        table.rows += _rows(framework, arguments)
    report.finish("frameworks", arguments, [table])


def _rows(framework: str, arguments: Namespace) -> list[list[object]]:
    progress(framework)
    python = environment_of(framework)
    image: list[object] = ["", "", ""]
    if arguments.manager == "docker":
        recipe = images.framework_recipes([framework])[-1]
        seconds = _build(recipe, arguments.quick)
        image = [_megabytes(recipe.component), _megabytes(recipe.base), seconds]
    command = [python, _RUN, framework, arguments.manager, f"--measure={1 if arguments.quick else arguments.seconds}"]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    reports = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    version = _version(python, framework)
    rows: list[list[object]] = [[one["model"], version, *image, *_figures(one)] for one in reports]
    for row in rows:
        progress(" | ".join(map(str, row)))
    return rows


def _figures(one: dict[str, Any]) -> list[object]:
    names = ["seconds_to_first_prediction", "queries_per_second", "p99_millis", "calls_per_second"]
    return [one[name] for name in names]


def _build(recipe: images.Recipe, quick: bool) -> float:
    """Seconds that it takes on the image below it, downloads included."""
    for each in [*images.recipes(), *images.framework_recipes(images.FRAMEWORKS)]:
        if each.component in (recipe.base, images.rpc_component()):
            _docker("build", "--quiet", *images.build_arguments(each), str(ROOT))
    started = time.monotonic()
    no_cache = [] if quick else ["--no-cache"]
    _docker("build", "--quiet", *no_cache, *images.build_arguments(recipe), str(ROOT))
    return round(time.monotonic() - started, 1)


def _megabytes(component: str) -> int:
    return round(int(_docker("image", "inspect", "--format={{.Size}}", images.image_name(component))) / 1e6)


def _docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout


def _version(python: Any, framework: str) -> str:
    package = (*images.FRAMEWORKS[framework].packages, _PACKAGES.get(framework, ""))[0]
    code = (
        f"from clipper_common.modeldir import running_versions as v; print(v(['{package}']).packages['{package}'].pin)"
    )
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()

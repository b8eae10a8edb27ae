"""Tests of how Rclipper builds models: the samples that it accepts, the objects that it saves, and its errors."""

import json
import re
from pathlib import Path

import pytest

from clipper_admin.process import bundles
from clipper_admin.process.state import ClusterFiles
from tests.containers.r_support import R, r

__all__ = ["r"]  # a fixture that is not of this file

pytestmark = pytest.mark.integration

IDENTITY = "function(inputs) inputs"
USES_ALL = """
scale_by <- 3
unused <- runif(10)
helper <- function(x) scale_by * x
predict.mine <- function(object, x, ...) object$weight * helper(x)
model <- structure(list(weight = 2), class = "mine")
counting <- function() { count <- 10; function(x) { count <<- count + 1; count } }
counter <- counting()
f <- function(inputs) lapply(inputs, function(x) {
  c(predict(model, x), counter(), as.numeric(readLines("data/offset.txt")), length(utils::head(letters)))
})
"""


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        ("TRUE", "a vector of type logical and length 1.*as.integer"),
        ("NULL", "sample_input is NULL"),
        ("c('a', 'b')", "type character and length 2.*as.list"),
        ("factor('a')", "of class factor"),
        ("1i", "type complex"),
        ("Sys.Date()", "of class Date.*unclass"),
        ("sum", "a function"),
        ("quote(x)", "of type symbol"),
    ],
)
def test_a_wrong_sample_is_refused_with_the_reason(r: R, tmp_path: Path, sample: str, reason: str) -> None:
    done = r.run(f'build_model("m", "1", {IDENTITY}, {sample}, container_manager = "process")', tmp_path)
    assert done.returncode != 0
    assert "which cannot be an input of a Clipper model" in done.stdout
    assert re.search(reason, done.stdout, re.DOTALL), done.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("function(inputs) 7, 1", "was given a list of two sample inputs, and returned 1 outputs for 2 inputs"),
        ("function(inputs) mean, 1", "returned a function, not a list with an output for each input"),
        ("function(inputs) stop('too cold'), 1", "failed on a list of two sample inputs: too cold"),
        ("'f', 1", "prediction_function is a vector of type character and length 1"),
        ("function() list(), 1", "unused argument"),
    ],
)
def test_a_wrong_function_is_refused_with_the_reason(r: R, tmp_path: Path, arguments: str, reason: str) -> None:
    done = r.run(f'save_model("m", {arguments})', tmp_path)
    assert done.returncode != 0
    assert reason in done.stdout
    assert not (tmp_path / "m").exists()


def test_what_a_function_needs_travels(r: R, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/offset.txt").write_text("7\n")
    said = r.must_run(f'{USES_ALL}\nsave_model("m", f, 1)', tmp_path)
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == [
        "file_1.txt",
        "fn.rds",
        "fn_dep_1.rds",
        "fn_dep_2.rds",
        "fn_dep_3.rds",
        "input_dep_1.rds",
        "input_dep_2.rds",
        "libs.rds",
        "obj_files_map.rds",
        "sample.rds",
    ]
    assert "unused" not in said
    (tmp_path / "data/offset.txt").unlink()
    elsewhere = f'loaded <- Rclipper:::read_folder("{tmp_path}/m"); print(unlist(loaded$predict(list(1, 2))))'
    assert r.must_run(elsewhere, tmp_path).split() == ["[1]", "6", "11", "7", "6", "12", "12", "7", "6"]


def test_packages_are_named(r: R, tmp_path: Path) -> None:
    code = """
library(tools)
fit <- lm(mpg ~ wt, mtcars)
f <- function(inputs) lapply(inputs, function(x) list(predict(fit, data.frame(wt = x)), codetools::findGlobals(sum),
  toTitleCase("a")))
save_model("m", f, 1)
cat(readRDS("m/libs.rds"))
"""
    assert r.must_run(code, tmp_path).splitlines()[-1] == "codetools stats tools"


def test_what_did_not_travel_is_noticed(r: R, tmp_path: Path) -> None:
    code = 'hidden <- 3; save_model("m", function(inputs) lapply(inputs, function(x) get(paste0("hid", "den"))), 1)'
    done = r.run(code, tmp_path)
    assert done.returncode != 0
    assert "does not work in a fresh R session" in done.stdout
    assert "object 'hidden' not found" in done.stdout


def test_a_file_outside_of_the_working_directory_is_named(r: R, tmp_path: Path) -> None:
    (tmp_path / "w.csv").write_text("1")
    code = f'save_model("m", function(inputs) {{ if (FALSE) read.csv("{tmp_path}/w.csv"); inputs }}, 1)'
    assert f"do not travel with the model, since only those below the working directory do: {tmp_path}/w.csv" in (
        r.must_run(code, tmp_path)
    )


def test_the_command_is_printed(r: R, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPPER_HOME", str(tmp_path / "home"))
    code = f'x <- build_model("test-model", 1.5, {IDENTITY}, raw(2), container_manager = "process"); cat(x)'
    said = r.must_run(code, tmp_path).splitlines()
    assert 'conn.deploy_model("test-model", "1.5", "bytes", "test-model:1.5", num_replicas=1)' in said
    assert said[-1] == "test-model:1.5"
    launch = bundles.resolve(ClusterFiles("any"), "test-model:1.5")
    assert launch.argv[:2] == ["/bin/sh", str(r.library / "Rclipper/serve.sh")]
    assert (Path(launch.model_path) / "fn.rds").is_file()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ('"Model", "1", identity, 1', "Invalid value: name='Model'"),
        ('"m", "a:b", identity, 1', "Invalid value: version='a:b'"),
        ('c("a", "b"), "1", identity, 1', "model_name is a vector of type character and length 2"),
        ('"m", "1", identity, 1, model_registry = "localhost:5000"', "are for Docker"),
        ('"m", "1", identity, 1, base_image = "mine:1"', "are for Docker"),
    ],
)
def test_wrong_arguments(r: R, tmp_path: Path, arguments: str, reason: str) -> None:
    done = r.run(f'build_model({arguments}, container_manager = "process")', tmp_path)
    assert done.returncode != 0
    assert reason in done.stdout


def test_without_clipper_admin(r: R, tmp_path: Path) -> None:
    code = f'options(Rclipper.python = "/no/such/python"); Sys.setenv(PATH = ""); build_model("m", "1", {IDENTITY}, 1)'
    done = r.run(code, tmp_path)
    assert done.returncode != 0
    assert "No Python that has clipper_admin was found" in done.stdout
    assert "Tried: /no/such/python" in done.stdout


def test_every_export_has_its_page(r: R) -> None:
    pages = Path(__file__).parents[2] / "containers/R/Rclipper/man"
    checks = "; ".join(f"print(tools::checkRd({json.dumps(str(page))}))" for page in sorted(pages.glob("*.Rd")))
    code = f'print(tools::undoc("Rclipper")); print(tools::codoc("Rclipper")); {checks}'
    assert r.must_run(code).strip() == ""

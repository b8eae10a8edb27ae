"""Tests of the Python program that the R package calls, without R."""

import json
from pathlib import Path

import pytest

from clipper_admin import rclipper
from clipper_admin.process import bundles
from clipper_admin.process.state import ClusterFiles


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLIPPER_HOME", str(tmp_path / "home"))
    (tmp_path / "model").mkdir()
    (tmp_path / "model/fn.rds").touch()
    return tmp_path / "model"


def test_an_image_for_all_clusters(model: Path) -> None:
    assert rclipper.main(["process", str(model), "m:1", "--serve", json.dumps(["sh", "-e", "serve"])]) == 0
    for name in ("one", "other"):
        launch = bundles.resolve(ClusterFiles(name), "m:1")
        assert launch.argv == ["sh", "-e", "serve"]
        assert [path.name for path in Path(launch.model_path).iterdir()] == ["fn.rds"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["process", "Model:1"], "name='Model'"),
        (["docker", "registry:5000/m:-"], "version='-'"),
        (["process", "m"], "version=''"),
        (["process", "m:1", "--push"], "are for Docker"),
    ],
)
def test_refusals(model: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str) -> None:
    manager, *rest = arguments
    assert rclipper.main([manager, str(model), *rest]) == 1
    assert reason in capsys.readouterr().err


def test_steps_of_a_dockerfile() -> None:
    assert rclipper._steps([], "7") == [
        'RUN ["Rscript", "--vanilla", "-e", "Rclipper:::check_model(\\"/model\\")"]',
    ]
    assert rclipper._steps(["glue", "digest"], "7")[:3] == [
        "USER 0",
        'RUN ["Rscript", "--vanilla", "-e", "Rclipper:::install_packages(c(\\"glue\\", \\"digest\\"))"]',
        "USER 7",
    ]

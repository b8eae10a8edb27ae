"""Tests of the modules that travel with a function, and of the errors of deployments, on each container manager."""

import importlib
import importlib.metadata
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clipper_admin import ClipperConnection, ClipperException, DockerContainerManager, images
from clipper_admin.deployers import deployer_utils
from clipper_admin.deployers import keras as keras_deployer
from clipper_admin.deployers import python as python_deployer
from clipper_admin.deployers import pytorch as pytorch_deployer
from clipper_admin.deployers import tensorflow as tensorflow_deployer

pytestmark = [pytest.mark.integration, pytest.mark.alone, pytest.mark.timeout(300)]

SLO_MICROS = 5_000_000
KNOWABLE_SECONDS = 2.0
"""Seconds within which errors are raised that can be found before anything is built."""


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of the user's, from which modules are imported."""
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path


@pytest.fixture(autouse=True)
def left_nothing(
    conn: ClipperConnection, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Neither failed nor successful deployments may leave an application, a model or a temporary folder."""
    folders = tmp_path_factory.mktemp("models")  # other tests may deploy models at the same time
    monkeypatch.setattr(deployer_utils, "CLIPPER_TEMP_DIR", str(folders))
    yield
    for app in conn.get_all_apps():
        conn.unregister_application(app)
    conn.stop_models(sorted({model["model_name"] for model in conn.get_all_models(verbose=True)}))
    assert not list(folders.iterdir())


def fails(conn: ClipperConnection, message: str, create: Callable[..., None], *args: Any, **options: Any) -> None:
    """Check that an endpoint that cannot be made says why, and leaves no application, no model and no image.

    No other test uses the model's name, since the image of a run that was killed stays in the engine.
    """
    with pytest.raises(ClipperException, match=message):
        create(conn, "never-built", "doubles", *args, **options)
    assert conn.get_all_apps() == []
    assert conn.get_all_models() == []
    assert conn.get_num_replicas("never-built", 1) == 0
    with pytest.raises(ClipperException, match="was not found"):
        conn.deploy_model("never-built", 1, "doubles", f"{conn.cm.cluster_identifier}-never-built:1")


# --- what travels ---


def test_modules_of_the_users_own(conn: ClipperConnection, own_folder: Path) -> None:
    (own_folder / "own_scales.py").write_text("import own_units\ndef meters(x): return x * own_units.factor()\n")
    (own_folder / "own_units.py").write_text("def factor():\n    from own_table import FACTOR\n    return FACTOR\n")
    (own_folder / "own_table.py").write_text("FACTOR = 1000.0\n")
    own_scales = importlib.import_module("own_scales")
    python_deployer.create_endpoint(
        conn, "own", "doubles", lambda xs: [own_scales.meters(x[0]) for x in xs], slo_micros=SLO_MICROS
    )
    assert conn.predict("own", [2.5])["output"] == 2500.0


# --- what fails before anything is built ---


def test_a_function_over_what_cannot_be_pickled(conn: ClipperConnection, own_folder: Path) -> None:
    (own_folder / "own_lock.py").write_text(
        "import threading\nlock = threading.Lock()\ndef f(x):\n    with lock: pass\n"
    )
    own_lock = importlib.import_module("own_lock")
    lock = threading.Lock()
    started = time.monotonic()
    fails(conn, "because of 'lock' .a _thread.lock.", python_deployer.create_endpoint, lambda xs: [lock for _ in xs])
    fails(
        conn,
        r"because of 'lock' .a _thread.lock. in 'own_lock'",
        python_deployer.create_endpoint,
        lambda xs: [own_lock.f(x) for x in xs],
    )
    assert time.monotonic() - started < KNOWABLE_SECONDS


@pytest.mark.parametrize(
    ("create", "func", "model", "call"),
    [
        (python_deployer.create_endpoint, lambda model, xs: xs, [], r"func\(inputs\)"),
        (python_deployer.create_endpoint, lambda: [], [], r"func\(inputs\)"),
        (pytorch_deployer.create_endpoint, lambda xs: xs, [None], r"func\(model, inputs\)"),
        (tensorflow_deployer.create_endpoint, lambda xs: xs, [None], r"func\(session, inputs\)"),
    ],
)
def test_a_function_of_the_wrong_arity(
    conn: ClipperConnection, create: Callable[..., None], func: Any, model: list[Any], call: str
) -> None:
    started = time.monotonic()
    fails(conn, rf"takes \(.*\), and it will be called as {call}", create, func, *model)
    assert time.monotonic() - started < KNOWABLE_SECONDS


@pytest.mark.parametrize("create", [keras_deployer.create_endpoint, tensorflow_deployer.create_endpoint])
def test_a_model_file_that_is_not_there(conn: ClipperConnection, create: Callable[..., None]) -> None:
    started = time.monotonic()
    fails(conn, "no/such/model.h5'. There is no such file", create, lambda model, xs: xs, "/no/such/model.h5")
    assert time.monotonic() - started < KNOWABLE_SECONDS


# --- what fails where the model is loaded ---


def test_a_missing_package(conn: ClipperConnection, own_folder: Path) -> None:
    """Of one that is known to pip, the version is named too."""
    if isinstance(conn.cm, DockerContainerManager):
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
        missing = r"pkgs_to_install=\['scikit-learn==[\d.]+'.*\]"
    else:
        # An environment of its own would be needed to lack a package. So this one goes after it was imported.
        site = own_folder / "site-packages"
        site.mkdir()
        (site / "vanishing.py").write_text("class Model:\n    pass\n")
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(site)
            model = importlib.import_module("vanishing").Model()
        missing = "It needs the module 'vanishing', which is not here. If a package has it"
    fails(conn, missing, python_deployer.create_endpoint, lambda xs: [str(model) for _ in xs])


def test_the_package_that_was_named_helps(conn: ClipperConnection) -> None:
    if not isinstance(conn.cm, DockerContainerManager):
        pytest.skip("replicas of the process manager have the packages of this environment")
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    with pytest.raises(ClipperException) as failure:
        python_deployer.deploy_python_closure(conn, "named", 1, "doubles", lambda xs: model.predict(xs))
    packages = re.findall(r"'([\w-]+==[\d.]+)'", str(failure.value))
    python_deployer.create_endpoint(
        conn,
        "named",
        "doubles",
        lambda xs: model.predict(xs),
        version=2,
        pkgs_to_install=packages,
        slo_micros=SLO_MICROS,
    )
    assert conn.predict("named", [0.9])["output"] == 1


@pytest.mark.framework
def test_packages_are_lowered_and_raised(conn: ClipperConnection, tmp_path: Path) -> None:
    """Nothing holds a model to the releases that Clipper was tested with, or to those of its base image."""

    def versions(xs: Any) -> list[str]:
        import numpy
        import sklearn

        return [f"{numpy.__version__} {sklearn.__version__}" for _ in xs]

    lower = ["numpy==1.26.4", "scikit-learn==1.4.2"]
    higher = [f"{name}=={importlib.metadata.version(name)}" for name in ("numpy", "scikit-learn")]
    base = conn.build_model("older", 1, tmp_path, images.PYTHON.name(), pkgs_to_install=lower)
    for name, packages, wanted in (("lowered", None, lower), ("raised", higher, higher)):
        python_deployer.create_endpoint(
            conn, name, "doubles", versions, base_image=base, pkgs_to_install=packages, slo_micros=SLO_MICROS
        )
        expected = " ".join(package.partition("==")[2] for package in wanted)
        assert conn.predict(name, [1.0])["output"] == expected


def test_a_model_that_was_saved_by_other_versions(conn: ClipperConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    from clipper_common import modeldir

    monkeypatch.setattr(modeldir.platform, "python_version", lambda: "3.99.1")
    fails(conn, r"saved by Python 3\.99\.1, and this is Python 3\.\d+", python_deployer.create_endpoint, lambda xs: xs)
    monkeypatch.undo()

    monkeypatch.setattr(modeldir.importlib.metadata, "version", lambda name: "0.9.1")
    with monkeypatch.context() as patch:
        patch.setattr(images, "PYTHON", images.PYTHON._replace(packages=("numpy",)))
        message = (
            r"saved with numpy 0\.9\.1, and here is numpy [\d.]+: deploy it with pkgs_to_install=\['numpy==0\.9\.1'"
        )
        fails(conn, message, python_deployer.create_endpoint, lambda xs: xs)


def test_a_model_that_crashes_while_it_is_loaded(conn: ClipperConnection) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return exec, ("import os; print('last words', flush=True); os.abort()",)

    bomb = Bomb()
    started = time.monotonic()
    fails(conn, "(?s)never-built.*last words", python_deployer.create_endpoint, lambda xs: [bomb for _ in xs])
    assert time.monotonic() - started < 15

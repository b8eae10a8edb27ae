import subprocess
import sys
from pathlib import Path

import pytest

from clipper_admin import images
from clipper_admin.exceptions import ClipperException
from clipper_admin.process import bundles
from clipper_admin.process.state import ClusterFiles, Kind, Program

pytestmark = pytest.mark.integration


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_text("1 2 3")
    return folder


@pytest.fixture
def package(tmp_path: Path) -> str:
    """A requirement that pip installs without a network: a wheel made by hand."""
    import zipfile

    wheel = tmp_path / "clipper_test_extra-7-py3-none-any.whl"
    info = "clipper_test_extra-7.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("clipper_test_extra.py", "NUMBER = 7\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: clipper-test-extra\nVersion: 7\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return str(wheel)


@pytest.mark.parametrize(
    ("image", "module"),
    [
        ("noop-container", "noop_container"),
        ("clipper/sum-container:0.5.0", "sum_container"),
        ("registry.example:5000/x/python-closure-container:dev", "python_closure_container"),
        (images.PYTHON.name(), "python_closure_container"),
    ],
)
def test_our_containers(files: ClusterFiles, image: str, module: str) -> None:
    launch = bundles.resolve(files, image)
    assert launch.argv == [sys.executable, "-P", "-m", f"clipper_containers.{module}"]


def test_script_is_run_where_it_lies(files: ClusterFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "serve.py").touch()
    monkeypatch.chdir(tmp_path)
    launch = bundles.resolve(files, "./serve.py")
    assert launch.argv == [sys.executable, str(tmp_path / "serve.py")]
    assert launch.working_directory == str(tmp_path)


def test_function_of_another_python(files: ClusterFiles) -> None:
    with pytest.raises(ClipperException, match="is for another Python than the running 3"):
        bundles.resolve(files, "clipper/python27-closure-container:0.4.1")


@pytest.mark.parametrize("image", ["nginx", "/no/such/script.py", "serve.sh"])
def test_unknown_image_lists_what_is_accepted(files: ClusterFiles, image: str) -> None:
    with pytest.raises(ClipperException, match="(?s)was not found.*noop-container.*path of an existing .py"):
        bundles.resolve(files, image)


def test_bundle_is_a_copy_with_the_command_of_its_base(files: ClusterFiles, model: Path) -> None:
    bundles.build(files, "registry/m:1", model, "sum-container", [])
    (model / "weights").write_text("changed")
    launch = bundles.resolve(files, "registry/m:1")
    assert launch.argv == bundles.resolve(files, "sum-container").argv
    assert (Path(launch.model_path) / "weights").read_text() == "1 2 3"


def test_bundle_on_a_bundle_has_the_files_of_both(files: ClusterFiles, model: Path, tmp_path: Path) -> None:
    bundles.build(files, "base", model, "sum-container", [])
    more = tmp_path / "more"
    more.mkdir()
    (more / "labels").write_text("a b")
    bundles.build(files, "derived", more, "base", [])
    folder = Path(bundles.resolve(files, "derived").model_path)
    assert sorted(path.name for path in folder.iterdir()) == ["labels", "weights"]


def test_building_again_replaces(files: ClusterFiles, model: Path) -> None:
    bundles.build(files, "m:1", model, "sum-container", [])
    old = Path(bundles.resolve(files, "m:1").model_path)
    (model / "weights").write_text("new")
    bundles.build(files, "m:1", model, "sum-container", [])
    assert (Path(bundles.resolve(files, "m:1").model_path) / "weights").read_text() == "new"
    assert not old.exists()


def test_a_replica_keeps_the_bundle_that_it_runs_from(files: ClusterFiles, model: Path) -> None:
    bundles.build(files, "m:1", model, "sum-container", [])
    old = bundles.resolve(files, "m:1")
    files.write_program(Program("m_1-0", Kind.MODEL, old.argv, "/", {"CLIPPER_MODEL_PATH": old.model_path}))
    bundles.build(files, "m:1", model, "sum-container", [])
    assert Path(old.model_path).exists()


def test_packages_come_in_front_of_the_callers(files: ClusterFiles, model: Path, package: str) -> None:
    bundles.build(files, "m:1", model, "noop-container", [package])
    launch = bundles.resolve(files, "m:1")
    code = (
        "import clipper_test_extra, clipper_containers.noop_container, psutil, sys; "
        "front = [p for p in sys.path if p.endswith('site-packages')][0]; "
        "assert clipper_test_extra.__file__.startswith(front) and not psutil.__file__.startswith(front); "
        "print(clipper_test_extra.NUMBER)"
    )
    output = subprocess.run([launch.program, "-c", code], capture_output=True, text=True)
    assert output.stdout == "7\n", output.stderr


def test_a_bundle_sees_the_packages_of_its_base(files: ClusterFiles, model: Path, package: str, tmp_path: Path) -> None:
    bundles.build(files, "base", model, "noop-container", [package])
    again = tmp_path / "again"
    again.mkdir()
    bundles.build(files, "derived", model, "base", [package])
    launch = bundles.resolve(files, "derived")
    assert subprocess.run([launch.program, "-c", "import clipper_test_extra"]).returncode == 0


def test_failed_installation_leaves_nothing(files: ClusterFiles, model: Path, tmp_path: Path) -> None:
    absent = str(tmp_path / "absent-1-py3-none-any.whl")
    with pytest.raises(ClipperException, match="(?s)Installing .*absent.* failed .exit code 1.*ERROR"):
        bundles.build(files, "m:1", model, "noop-container", [absent])
    assert list(files.images.iterdir()) == []


@pytest.mark.parametrize("package", ["--index-url=x", " -r requirements.txt", ""])
def test_options_of_pip_are_no_packages(files: ClusterFiles, model: Path, package: str) -> None:
    with pytest.raises(ClipperException, match="pkgs_to_install"):
        bundles.build(files, "m:1", model, "noop-container", ["psutil", package])
    assert not files.images.exists()


def test_absent_model_folder(files: ClusterFiles, tmp_path: Path) -> None:
    with pytest.raises(ClipperException, match="does not exist"):
        bundles.build(files, "m:1", tmp_path / "absent", "noop-container", [])


def test_shared_image_is_seen_by_every_cluster(files: ClusterFiles, model: Path) -> None:
    bundles.build_shared("m:1", model, ["program", "argument"])
    for cluster in (files, ClusterFiles("another")):
        launch = bundles.resolve(cluster, "m:1")
        assert launch.argv == ["program", "argument"]
        assert (Path(launch.model_path) / "weights").read_text() == "1 2 3"
    bundles.build(files, "m:1", model, "sum-container", [])
    assert bundles.resolve(files, "m:1").program == sys.executable


def test_a_replica_of_any_cluster_keeps_the_shared_image(files: ClusterFiles, model: Path) -> None:
    bundles.build_shared("m:1", model, ["program"])
    old = bundles.resolve(files, "m:1")
    files.write_program(Program("m_1-0", Kind.MODEL, old.argv, "/", {"CLIPPER_MODEL_PATH": old.model_path}))
    bundles.build_shared("m:1", model, ["program"])
    assert Path(old.model_path).exists()
    files.delete_programs(["m_1-0"])
    bundles.build_shared("m:1", model, ["program"])
    assert not Path(old.model_path).exists()


def test_no_python_packages_for_another_language(files: ClusterFiles, model: Path) -> None:
    bundles.build_shared("base", model, ["program"])
    with pytest.raises(ClipperException, match="no Python serves image 'base'"):
        bundles.build(files, "m:1", model, "base", ["psutil"])

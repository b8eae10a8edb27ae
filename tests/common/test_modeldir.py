"""Model folders: functions, and the versions that saved them."""

import importlib.metadata
import platform
import sys
from pathlib import Path

import cloudpickle

from clipper_common import modeldir
from clipper_common.modeldir import Differences, Package, Versions

HERE = platform.python_version()


def test_a_function_comes_back(tmp_path: Path) -> None:
    (tmp_path / "func.pkl").write_bytes(cloudpickle.dumps(lambda inputs: [value + 10 for value in inputs]))
    assert modeldir.load_function(tmp_path)([1, 2]) == [11, 12]


def test_versions_come_back(tmp_path: Path) -> None:
    versions = modeldir.running_versions(["numpy", "cloudpickle", "no_such_module"], ("numpy",))
    assert versions.packages.keys() == {"numpy", "cloudpickle"}
    assert versions.packages["numpy"].version == importlib.metadata.version("numpy")
    modeldir.save_versions(versions, tmp_path)
    assert modeldir.load_versions(tmp_path) == versions
    assert modeldir.differences(versions) == Differences()


def test_a_folder_of_clipper_0_4_says_nothing(tmp_path: Path) -> None:
    assert modeldir.load_versions(tmp_path) is None


def test_a_module_is_named_as_its_package() -> None:
    package = modeldir.running_versions(["sklearn"]).packages["sklearn"]
    assert package.pin == f"scikit-learn=={importlib.metadata.version('scikit-learn')}"


def test_another_python() -> None:
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert modeldir.differences(Versions(f"{minor}.99")).python == ""
    assert modeldir.differences(Versions("2.7.18")).python == "2.7.18"


def test_other_packages() -> None:
    numpy, absent = Package("numpy", "0.1.2"), Package("ab-sent", "1.2+cpu")
    here = Package("numpy", importlib.metadata.version("numpy"))
    found = modeldir.differences(Versions(HERE, {"numpy": numpy, "no_such_module": absent}))
    assert found == Differences(missing=(absent,), others=((numpy, here),))
    assert absent.pin == "ab-sent==1.2"
    found = modeldir.differences(Versions(HERE, {"numpy": numpy}, ("numpy",)))
    assert found == Differences(exact=((numpy, here),))


def test_patches_do_not_matter() -> None:
    here = modeldir.running_versions(["numpy"]).packages["numpy"]
    patched = Package("numpy", f"{here.minor}.77+local")
    assert modeldir.differences(Versions(HERE, {"numpy": patched}, ("numpy",))) == Differences()


def test_a_package_under_another_name() -> None:
    """Such as tensorflow, which is installed as tensorflow-cpu."""
    here = modeldir.running_versions(["numpy"]).packages["numpy"]
    saved = Package("numpy-cpu", "0.1")
    assert modeldir.differences(Versions(HERE, {"numpy": saved})).others == ((saved, here),)

"""Pickles are read by an interpreter that does not have the user's folder."""

import importlib
import io
import json
import pickle
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

from clipper_admin import ClipperException, functions, own_modules, pickling

PATIENCE_SECONDS = 10.0
FILES = {
    "helper.py": """
        import re
        import numpy as np
        import deeper
        from package import inner

        PATTERN = re.compile("a+")
        calls = 0

        class Scaler:
            def __init__(self, factor): self.factor = factor
            def scale(self, x): return deeper.twice(x) * self.factor

        def scaled(x): return inner.add(deeper.twice(x))
        def array(x): return np.asarray(x).sum()
        def count():
            global calls
            calls += 1
            return calls
        def later(x):
            import only_later
            return only_later.thrice(x)
        def failed(x): return x / 0
        failed.line = failed.__code__.co_firstlineno
        """,
    "deeper.py": """
        import helper  # in a circle
        def twice(x): return 2 * x
        def round_about(x): return helper.scaled(x)
        """,
    "only_later.py": """
        def thrice(x):
            from package.sub import other
            return other.NUMBER * x
        """,
    "package/__init__.py": "",
    "package/inner.py": """
        def add(x):
            from .sub import other
            return x + other.NUMBER
        """,
    "package/sub/other.py": "NUMBER = 3",
    "locking.py": """
        import threading
        lock = threading.Lock()
        def locked(x):
            with lock: return x
        """,
    "broken.py": "raise RuntimeError('never meant to be imported')",
}
NAMES = {name.partition(".")[0].partition("/")[0] for name in FILES}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Imports a module from a folder of the user's."""
    import textwrap

    for name, text in FILES.items():
        path = tmp_path / "own" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(tmp_path / "own")
    yield importlib.import_module
    for name in [name for name in sys.modules if name.partition(".")[0] in NAMES]:
        del sys.modules[name]


def elsewhere(function: Any, argument: Any, folder: Path) -> str:
    """Return the result of the pickled function in another interpreter, which lacks the modules."""
    (folder / "pickle").write_bytes(pickling.dumps(function))
    code = f"import cloudpickle, sys; print(cloudpickle.load(open(sys.argv[1], 'rb'))({argument!r}))"
    command = [sys.executable, "-c", code, str(folder / "pickle")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_a_module_travels_with_what_it_imports(own: Any, tmp_path: Path) -> None:
    helper = own("helper")
    assert elsewhere(lambda x: helper.scaled(x) + helper.deeper.round_about(x), 1, tmp_path) == "10"
    assert elsewhere(lambda x: int(helper.array([x, x])), 2, tmp_path) == "4"


def test_a_function_and_an_object_travel(own: Any, tmp_path: Path) -> None:
    scaled, scaler = own("helper").scaled, own("helper").Scaler(5)
    assert elsewhere(lambda x: scaled(x) + scaler.scale(x), 1, tmp_path) == "15"
    assert elsewhere(scaled, 1, tmp_path) == "5"


def test_state_that_functions_share(own: Any, tmp_path: Path) -> None:
    helper = own("helper")
    assert elsewhere(lambda x: [helper.count(), helper.count()], 1, tmp_path) == "[1, 2]"
    assert helper.calls == 0


def test_modules_that_are_imported_when_the_function_is_called(own: Any, tmp_path: Path) -> None:
    def late(x: int) -> Any:
        import package.sub.other  # type: ignore[import-not-found]
        from only_later import thrice  # type: ignore[import-not-found]

        return thrice(x) + package.sub.other.NUMBER

    assert elsewhere(late, 1, tmp_path) == "6"
    assert elsewhere(own("helper").later, 1, tmp_path) == "3"


def test_modules_on_paths_that_are_not_taken(own: Any, tmp_path: Path) -> None:
    def guarded(x: int) -> Any:
        try:
            import no_such_module_anywhere  # type: ignore[import-not-found]
        except ImportError:
            return x
        return no_such_module_anywhere

    assert elsewhere(guarded, 1, tmp_path) == "1"


def test_a_module_that_cannot_be_imported_is_named(own: Any) -> None:
    def broken(x: int) -> None:
        import broken  # type: ignore[import-not-found] # noqa: F401

    with pytest.raises(ClipperException, match=r"imports 'broken' \(.*broken.py\).*never meant"):
        pickling.dumps(broken)


def test_nothing_stays_registered(own: Any) -> None:
    helper = own("helper")
    pickling.dumps(lambda x: helper.scaled(x))
    assert not cloudpickle.list_registry_pickle_by_value()
    cloudpickle.register_pickle_by_value(helper)
    pickling.dumps(lambda x: helper.scaled(x))
    assert cloudpickle.list_registry_pickle_by_value() == {"helper"}
    cloudpickle.unregister_pickle_by_value(helper)


def test_reloading_leaves_the_modules_of_this_interpreter(own: Any) -> None:
    helper = own("helper")
    assert pickling.reload(lambda x: helper.scaled(x))(1) == 5
    assert sys.modules["helper"] is helper


def test_what_is_not_the_users_own(own: Any) -> None:
    import clipper_admin

    assert not any(map(own_modules.is_own, [np, pickle, clipper_admin, pytest, sys, cloudpickle.cloudpickle]))
    assert own_modules.is_own(own("helper"))
    assert own_modules.is_own(own("package.sub"))  # without __init__.py


def test_packages_that_are_needed(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    classifier = LogisticRegression().fit([[0], [1]], [0, 1])
    with open(tmp_path / "pickle", "wb") as file:
        assert pickling.dump(lambda x: classifier.predict(x), file) == {"sklearn", "numpy"}


def test_what_of_a_module_cannot_travel(own: Any) -> None:
    locking, locked = own("locking"), own("locking").locked
    for function in (lambda x: locking.locked(x), lambda x: locked(x), locked):
        with pytest.raises(ClipperException, match=r"because of 'lock' \(a _thread.lock\)"):
            functions.save(function, io.BytesIO())


def test_a_compiled_module_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library of Python's own, as if it were the user's."""
    import _json

    monkeypatch.setattr(pickling, "is_own", lambda module: module is _json)
    monkeypatch.setattr(_json, "__file__", "/home/user/_json.cpython-311-x86_64-linux-gnu.so", raising=False)
    with pytest.raises(ClipperException, match="'_json' .*is compiled.*pkgs_to_install.*base_image"):
        pickling.dumps(lambda x: _json.scanstring(x))


def test_tracebacks_elsewhere_name_the_file_and_line_of_the_user(own: Any, tmp_path: Path) -> None:
    """With any cloudpickle: since 3.1.3 it drops the names of files."""

    def failing(x: int) -> list[int]:
        def inner(y: int) -> Any:
            return y / 0

        return [inner(y) for y in [x]]

    class Failing:
        def __call__(self, x: int) -> Any:
            return x / 0

    failed = own("helper").failed
    (tmp_path / "pickle").write_bytes(pickling.dumps([failing, Failing(), failed]))
    code = "import cloudpickle, sys; f = cloudpickle.load(open('pickle', 'rb'))[int(sys.argv[1])]; f(1)"
    places = [
        (__file__, failing.__code__.co_firstlineno + 2),
        (__file__, Failing.__call__.__code__.co_firstlineno + 1),
        (str(tmp_path / "own" / "helper.py"), failed.line),
    ]
    for number, (file, line) in enumerate(places):
        command = [sys.executable, "-c", code, str(number)]
        result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert f'File "{file}", line {line}, in' in result.stderr


class _Hooked:
    """Does something when it is pickled for the first time."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._actions = [action]

    def __reduce__(self) -> tuple[type, tuple[()]]:
        while self._actions:
            self._actions.pop()()
        return list, ()


def test_threads_do_not_disturb_each_other(own: Any, tmp_path: Path) -> None:
    """One thread ends while another one is in the midst of it, if they are not kept apart."""
    helper, scaled = own("helper"), own("helper").scaled
    first_ended, second_began = threading.Event(), threading.Event()
    found: list[bytes] = []

    def second() -> None:
        hook = _Hooked(lambda: (second_began.set(), first_ended.wait(PATIENCE_SECONDS)))
        found.append(pickling.dumps([hook, scaled]))

    thread = threading.Thread(target=second)
    hook = _Hooked(lambda: (thread.start(), second_began.wait(0.2)))
    pickling.dumps([helper, hook])
    first_ended.set()
    thread.join(PATIENCE_SECONDS)
    (tmp_path / "pickle").write_bytes(found[0])
    code = "import cloudpickle; print(cloudpickle.load(open('pickle', 'rb'))[1](1))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (result.stdout.strip(), result.stderr) == ("5", "")
    assert not cloudpickle.list_registry_pickle_by_value()


def test_whose_a_module_is_decided_by_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name may be that of a module of Python or of ours, or of a package that is installed, or in editable mode."""
    for name in ("statistics", "clipper_common", "numpy", "edited"):
        module = types.ModuleType(name)
        module.__file__ = str(tmp_path / "own" / f"{name}.py")
        assert own_modules.is_own(module)
    metadata = tmp_path / "site-packages" / "edited-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: edited\nVersion: 1.0\n")
    (metadata / "top_level.txt").write_text("edited\n")
    (metadata / "direct_url.json").write_text(
        json.dumps({"url": (tmp_path / "project").as_uri(), "dir_info": {"editable": True}})
    )
    monkeypatch.syspath_prepend(metadata.parent)
    for cached in (own_modules._distributions, own_modules._editable_folders, own_modules._is_own):
        cached.cache_clear()
    module.__file__ = str(tmp_path / "project" / "src" / "edited.py")
    assert not own_modules.is_own(module)
    module.__file__ = str(tmp_path / "own" / "edited.py")
    assert own_modules.is_own(module)

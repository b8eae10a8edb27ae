"""The user's modules in a model's process, where neither the notebook nor the user's folder is."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

SAVE = """
import sys
from clipper_admin import functions
with open(sys.argv[1], "wb") as file:
    functions.save(function, file)
"""
LOAD = """
import sys
from pathlib import Path
from clipper_common import modeldir, namespace
namespace.take_over()
print(modeldir.load_pickle(Path(sys.argv[1]))())
"""


def run(*arguments: object) -> str:
    """Return the output of a Python program."""
    command = [sys.executable, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def elsewhere(folder: Path, script: str, load: str = LOAD, **modules: str) -> str:
    """Return the result of `function` of a script in a model's process. The script may import `modules`."""
    own = folder / "own"
    own.mkdir()
    for name, content in modules.items():
        path = own / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(content))
    (own / "script.py").write_text(textwrap.dedent(script) + SAVE)
    run(own / "script.py", folder / "pickle")
    return run("-P", "-c", load, folder / "pickle")


MODEL = """
class Model:
    made = 0
    def __init__(self): self.value = 3
    def predict(self): return self.value
    class Part: pass
def helped(x): return x + 1
"""


@pytest.mark.parametrize(
    ("first", "pickled"),
    [
        (MODEL, "Model()"),
        (MODEL, "[Model(), Model.Part()][0]"),
        ("from models import Model", "Model()"),
        ("import models", "models.Model()"),
    ],
)
def test_plain_pickle_finds_what_the_function_does_not_name(tmp_path: Path, first: str, pickled: str) -> None:
    function = f"import pickle\nDATA = pickle.dumps({pickled})\ndef function(): return pickle.loads(DATA).predict()"
    assert elsewhere(tmp_path, f"{first}\n{function}", models=MODEL) == "3"


@pytest.mark.parametrize("first", [MODEL, "from models import *"])
def test_what_plain_pickle_finds_is_what_the_function_names(tmp_path: Path, first: str) -> None:
    script = """
    import pickle
    DATA = pickle.dumps([Model, helped])
    class Sub(Model): pass
    SUB = pickle.dumps(Sub())
    def function():
        Model.made = 5
        base = type(pickle.loads(SUB)).__mro__[1]
        return [pickle.loads(DATA) == [Model, helped], base is Model, Model.made, len(pickle.dumps(Model())) > 0]
    """
    assert elsewhere(tmp_path, first + textwrap.dedent(script), models=MODEL) == "[True, True, 5, True]"


def test_what_cannot_be_sent_along_harms_nothing_and_is_explained(tmp_path: Path) -> None:
    script = """
    import pickle, threading
    lock, weights = threading.Lock(), bytes(8 << 20)
    def locking(): return lock
    def large(): return weights
    def training(): import never_to_be_imported
    DATA = [pickle.dumps(each) for each in (locking, large, training)] + [b"c__main__\\nnothing\\n."]
    def function():
        found = []
        for each in DATA:
            try: found.append(pickle.loads(each).__name__)
            except (AttributeError, ImportError) as error: found.append(str(error))
        return found
    """
    found = elsewhere(tmp_path, script, never_to_be_imported="raise SystemExit('imported')")
    reason = "of the user's module '__main__' could not be sent along with the model"
    assert f"'locking' {reason}: TypeError: cannot pickle '_thread.lock' object" in found
    assert f"'large' {reason}: ValueError: with the variables that it uses, it is larger than 4194304 bytes" in found
    assert "'training'" in found
    assert "Can't get attribute 'nothing'" in found
    assert (tmp_path / "pickle").stat().st_size < 1 << 20


@pytest.mark.parametrize("name", ["statistics", "code", "rpc", "utils", "numpy_financial", "antigravity"])
def test_a_module_of_the_users_may_have_any_name(tmp_path: Path, name: str) -> None:
    script = f"""
    import {name}
    from {name} import answer as own_answer
    def function():
        import {name} as again
        from {name} import answer
        return {name}.answer(), own_answer(), again.answer(), answer(), again.later()
    """
    module = f"def answer(): return 'mine'\ndef later():\n    import {name}\n    return {name}.answer()"
    assert elsewhere(tmp_path, script, **{name: module}) == str(("mine",) * 5)


def test_a_package_of_the_users_and_one_of_pythons_that_have_the_same_name(tmp_path: Path) -> None:
    script = """
    import wsgiref.part
    import statistics as own
    def function():
        from wsgiref import part
        import wsgiref.part as again, random, fractions
        return part.answer(), again is part, own.mean, random.Random(1).random() > 0
    """
    load = f"{LOAD}\nimport statistics, wsgiref.util\nprint(statistics.mean([1, 3]), wsgiref.util.__name__)"
    modules = {
        "wsgiref/__init__": "",
        "wsgiref/part": "from . import other\ndef answer():\n    from . import other\n    return other.ANSWER",
        "wsgiref/other": "ANSWER = 'mine'",
        "statistics": "mean = 'mine'",
    }
    assert elsewhere(tmp_path, script, load, **modules) == "('mine', True, 'mine', True)\n2 wsgiref.util"


STATE = """
calls, history, mode = 0, [], "slow"
def count():
    global calls
    calls += 1
    return calls
def current(): return mode
class Counter:
    def count(self): return count()
"""


@pytest.mark.parametrize(
    ("first", "module"),
    [
        (STATE, "__main__"),
        ("import state", "state"),
        ("from state import count, current", "state"),
        ("import package.state", "package.state"),
    ],
)
def test_functions_and_attributes_of_a_module_share_its_variables(tmp_path: Path, first: str, module: str) -> None:
    script = f"""
    import pickle
    from {module} import count as counted, Counter
    COUNTER = pickle.dumps(Counter())
    def function():
        import {module} as m
        m.calls += 10
        m.mode = "fast"
        counted()
        later = pickle.loads(COUNTER).count()  # read only now
        return counted(), later, m.calls, m.mode, m.current(), m.count is counted, m.history
    """
    modules = {"state": STATE, "package/__init__": "", "package/state": STATE}
    assert elsewhere(tmp_path, first + textwrap.dedent(script), **modules) == "(13, 12, 13, 'fast', 'fast', True, [])"


def test_variables_of_the_notebook_that_only_attributes_and_classes_read(tmp_path: Path) -> None:
    script = """
    import __main__, sys
    by_import, by_module, by_system, factor, shadowed, unused = 1, 2, 3, 4, 5, 6
    _definitions = {"a": 1}
    def function():
        import __main__ as again
        class Inner:
            value = factor
            shadowed = 7
            copied = shadowed
            class Deeper: value = factor + 1
        system = sys.modules["__main__"]
        inner = Inner.value, Inner.copied, Inner.Deeper.value
        return again.by_import, __main__.by_module, system.by_system, inner, hasattr(system, "unused"), _definitions
    """
    assert elsewhere(tmp_path, script) == "(1, 2, 3, (4, 7, 5), False, {'a': 1})"

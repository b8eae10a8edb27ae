"""Tests that objects of libraries in a notebook or module reach the container unchanged, or are refused by name."""

import functools
import io
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipper_admin import ClipperException, functions

DEFINITIONS = """
import abc, collections, contextlib, dataclasses, enum, functools, logging, pickle, random, typing
import numpy as np
from sklearn.preprocessing import FunctionTransformer

@functools.lru_cache
def squared(n): return n * n
@functools.cache
def fibonacci(n): return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)
@functools.lru_cache(maxsize=3, typed=True)
def type_of(n): return type(n).__name__
@functools.singledispatch
def kind(x): return "object"
@kind.register
def _(x: int): return "int"
@kind.register(list)
def _of_list(x): return "list of " + kind(x[0])
class Cached:
    calls = 0
    @functools.cached_property
    def value(self):
        self.calls += 1
        return self.calls
    @functools.lru_cache
    def method(self, n): return n + 1
    @staticmethod
    @functools.cache
    def static(n): return n + 2
    @functools.singledispatchmethod
    def kind(self, x): return "object"
    @kind.register
    def _(self, x: int): return "int"
held = Cached()
held.value
@functools.total_ordering
class Ordered:
    def __init__(self, value): self.value = value
    def __eq__(self, other): return self.value == other.value
    def __lt__(self, other): return self.value < other.value
def increased(function):
    @functools.wraps(function)
    def inner(*args): return function(*args) + 1
    return inner
@increased
def decorated(x): return x
class Point(typing.NamedTuple):
    x: int
    y: int = 2
UserId = typing.NewType("UserId", int)
class Options(typing.TypedDict, total=False):
    a: int
@typing.runtime_checkable
class Runs(typing.Protocol):
    def run(self) -> int: ...
class Runner:
    def run(self): return 5
T, P, Ts = typing.TypeVar("T"), typing.ParamSpec("P"), typing.TypeVarTuple("Ts")
class Box(typing.Generic[T]):
    def __init__(self, value): self.value = value
class Call(typing.Generic[P]): pass
class Many(typing.Generic[*Ts]): pass
Color = enum.Enum("Color", "RED GREEN")
class Right(enum.Flag):
    READ = 1
    WRITE = 2
Named = collections.namedtuple("Named", "a b", defaults=[3])
Renamed = collections.namedtuple("Other", "a b")
@dataclasses.dataclass(slots=True, frozen=True)
class Slots:
    a: int
    b: list = dataclasses.field(default_factory=list)
Made = dataclasses.make_dataclass("Made", [("a", int), ("b", int, dataclasses.field(default=4))])
@contextlib.contextmanager
def one_more(value): yield value + 1
class Base(abc.ABC):
    @abc.abstractmethod
    def f(self): ...
class Concrete(Base):
    def f(self): return 3
Base.register(int)
log = logging.getLogger("of.mine")
draw = random.Random(3).random
vectorized = np.vectorize(decorated, otypes=[float])
vectorized([1.0])
transformer = FunctionTransformer(decorated)
class Missing:
    def __reduce__(self): return "MISSING"
MISSING = Missing()
class Outer:
    class Inner: pass
class Plugin:
    tags = []
    def __init_subclass__(cls, tag): Plugin.tags.append(tag)
class First(Plugin, tag="first"): pass
handlers = {"square": squared, "kind": kind}

def of_lru_cache(): return squared(3), fibonacci(20), type_of(1), type_of(1.0), squared.cache_info().maxsize
def in_a_comprehension(): return [squared(i) for i in range(3)], (lambda: fibonacci(5))(), handlers["square"](4)
def in_a_default(x=squared): return x(5)
def of_singledispatch(): return kind("a"), kind([[1]]), handlers["kind"](True)
def of_methods(): return Cached().value, Cached().method(1), Cached.static(1), Cached().kind(1), held.value
def of_total_ordering(): return Ordered(1) <= Ordered(2), Ordered(2) >= Ordered(3)
def of_wraps(): return decorated(1), decorated.__wrapped__(1), functools.partial(decorated, 2)()
def of_typing(): return Point(1), UserId(3), UserId.__name__, Options(a=1), isinstance(Runner(), Runs)
def of_generics(): return Box[int](3).value, Box.__parameters__ == (T,)
def of_parameters(): return Call.__parameters__ == (P,), P.__name__, Many[int, str].__args__, Ts.__name__
def of_enum(): return Color.RED is Color(1), Color["GREEN"].value, (Right.READ | Right.WRITE).value
def of_tuples(): return Named(1)._asdict(), Renamed(1, 2)
def of_dataclasses(): return Slots(1), Made(1), dataclasses.asdict(Made(2))
def of_contextlib():
    with one_more(1) as value: return value
def of_abc(): return Concrete().f(), isinstance(3, Base)
def of_logging(): return log.name
def of_random(): return draw()
def of_libraries(): return vectorized([1, 2]).tolist(), transformer.fit_transform(np.ones((1, 1))).tolist()
def of_subclass_hooks(): return First.__name__, Plugin.tags, type("New", (Plugin,), {}, tag="new").__name__, Plugin.tags
def of_a_sentinel(): return MISSING is globals()["MISSING"]
def of_plain_pickle():
    values = [Point(1), Color.RED, Right.READ, Slots(1), Ordered, decorated, Box, transformer, Named(1), Outer.Inner()]
    values += [squared, kind, fibonacci, MISSING, UserId]
    return [type(pickle.loads(pickle.dumps(value))) is type(value) for value in values]
"""
SAVE = """
import sys
from pathlib import Path
from clipper_admin import functions
def save(names):
    for name, function in list(names.items()):
        if name.startswith(("of_", "in_")):
            with open(Path(sys.argv[1]) / name, "wb") as file:
                functions.save(function, file)
            Path(sys.argv[1], name + ".expected").write_text(repr(function()))
"""
LOAD = """
import sys
from pathlib import Path
from clipper_common import modeldir, namespace
namespace.take_over()
for expected in sorted(Path(sys.argv[1]).glob("*.expected")):
    print(expected.stem, repr(modeldir.load_pickle(expected.with_suffix(""))()) == expected.read_text())
"""


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """A program of Python's, with what it said."""
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("place", ["__main__", "helper"])
def test_each_comes_to_the_container_as_it_is_here(place: str, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "helper.py").write_text(DEFINITIONS)
    first, names = (DEFINITIONS, "globals()") if place == "__main__" else ("import helper", "vars(helper)")
    (tmp_path / "own" / "script.py").write_text(f"{first}\n{SAVE}\nsave({names})")
    (tmp_path / "saved").mkdir()
    saved = run(tmp_path / "own" / "script.py", tmp_path / "saved")
    assert saved.returncode == 0, saved.stderr
    loaded = run("-c", LOAD, tmp_path / "saved")
    lines = loaded.stdout.splitlines()
    assert len(lines) == DEFINITIONS.count("\ndef of_") + DEFINITIONS.count("\ndef in_"), loaded.stderr
    assert [line for line in lines if not line.endswith(" True")] == []


def refused(function: Any) -> str:
    with pytest.raises(ClipperException) as raised:
        functions.save(function, io.BytesIO())
    return str(raised.value)


lock = threading.Lock()
local = threading.local()
universal = np.frompyfunc(len, 1, 1)


class Locking:
    def locked(self) -> Any:
        return [each for each in [1] if lock.locked()]


def with_default(x: Any, by: Any = (1, {"key": lock})) -> Any:
    return x, by


def nested(x: Any) -> Any:
    def inner() -> Any:
        return lambda: lock.locked()

    return inner()


@functools.lru_cache
def cached(x: Any) -> Any:
    return x, lock


@pytest.mark.parametrize(
    ("function", "culprit"),
    [
        (lambda x: [lock.locked() for _ in x], "because of 'lock' (a _thread.lock)"),
        (nested, "because of 'lock' (a _thread.lock)"),
        (lambda x: Locking().locked(), "because of 'lock' (a _thread.lock) in 'locked'"),
        (Locking().locked, "because of 'lock' (a _thread.lock) in 'locked'"),
        (with_default, "because of '['key']' (a _thread.lock)"),
        (lambda x: (lambda: cached(x))(), "because of 'lock' (a _thread.lock) in 'cached'"),
        (functools.partial(with_default, 1), "because of '['key']' (a _thread.lock)"),
        (lambda x, local=local: local, "because of 'local' (a _thread._local)"),
        (lambda x: [universal(each) for each in x], "because of 'universal' (a numpy.ufunc)"),
    ],
)
def test_what_cannot_travel_is_named_wherever_it_is_used(function: Any, culprit: str) -> None:
    assert culprit in refused(function)

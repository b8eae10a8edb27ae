"""Tests of finding undefined names in functions."""

import functools
from typing import Any

import pytest

from clipper_admin import undefined

# ruff: noqa: F821
# mypy: disable-error-code="name-defined"


def at_once(xs: Any) -> Any:
    return nowhere(xs)


def in_a_comprehension(xs: Any) -> Any:
    return [nowhere(x) for x in xs]


def in_a_loop(xs: Any) -> Any:
    outputs = []
    for x in xs:
        outputs.append(nowhere(x))
    return outputs


def importing(xs: Any) -> Any:
    import no_such_module.inside

    return no_such_module.inside.predict(xs)


class Model:
    def __call__(self, xs: Any) -> Any:
        return nowhere(xs)

    def predict(self, xs: Any) -> Any:
        return [nowhere(x) for x in xs]


def notebook(xs: Any) -> Any:
    display(xs)
    return xs


CERTAIN = [at_once, in_a_comprehension, in_a_loop, importing, Model(), Model().predict, functools.partial(at_once)]


@pytest.mark.parametrize("function", [*CERTAIN, notebook])
def test_every_call_fails(function: Any) -> None:
    (missing,) = undefined.find(function)
    assert missing.is_certain and missing.file.endswith("test_undefined.py") and missing.line
    expected = (
        {importing: "no_such_module", notebook: "display"}.get(function, "nowhere")
        if function
        in (
            importing,
            notebook,
        )
        else "nowhere"
    )
    assert missing.name == expected and missing.is_module is (function is importing)


def test_the_line_is_that_of_the_use() -> None:
    (missing,) = undefined.find(in_a_loop)
    assert missing.line == in_a_loop.__code__.co_firstlineno + 3


def in_a_branch(xs: Any) -> Any:
    if len(xs) > 1000:
        return nowhere(xs)
    return xs


def over_something_else(xs: Any, extra: Any = ()) -> Any:
    return [nowhere(x) for x in EMPTY]


EMPTY: list[Any] = []


def nested(xs: Any) -> Any:
    def later() -> Any:
        return nowhere

    return xs


def helper(x: Any) -> Any:
    return nowhere(x)


def by_way_of_a_helper(xs: Any) -> Any:
    return [helper(x) for x in xs]


def lazily(xs: Any) -> Any:
    return list(nowhere(x) for x in xs)


def with_a_fallback(function: Any) -> Any:
    @functools.wraps(function)
    def wrapped(xs: Any) -> Any:
        try:
            return function(xs)
        except NameError:
            return ["fallback" for _ in xs]

    return wrapped


@with_a_fallback
def decorated(xs: Any) -> Any:
    return nowhere(xs)


class Scorer:
    def predict(self, xs: Any) -> Any:
        return [self.score(x) for x in xs]

    def score(self, x: Any) -> Any:
        return nowhere(x)

    @property
    def scores(self) -> Any:
        return nowhere

    def eval(self) -> "Scorer":
        return self


SCORER = Scorer()


def by_an_object(xs: Any) -> Any:
    return SCORER.eval().predict(xs)


def by_a_class(xs: Any) -> Any:
    return Scorer().scores


def capturing(scorer: Any) -> Any:
    return lambda xs: scorer.predict(xs)


def in_the_body_of_a_class(xs: Any) -> Any:
    class Settings:
        factor = nowhere
        copied = factor

    return [Settings.factor for _ in xs]


METHODS = [by_an_object, by_a_class, capturing(Scorer()), Scorer().predict, functools.partial(Scorer().predict)]
FUNCTIONS = [in_a_branch, over_something_else, nested, by_way_of_a_helper, lazily, decorated, in_the_body_of_a_class]


@pytest.mark.parametrize("function", [*FUNCTIONS, *METHODS])
def test_some_call_may_fail(function: Any) -> None:
    (missing,) = undefined.find(function)
    assert missing.name == "nowhere" and not missing.is_certain


def test_a_module_that_the_function_may_make_importable() -> None:
    def importing(xs: Any) -> Any:
        import sys

        sys.path.insert(0, "/somewhere")
        import no_such_module

        return no_such_module.predict(xs)

    (missing,) = undefined.find(importing)
    assert missing.is_module and not missing.is_certain


def caught(xs: Any) -> Any:
    try:
        import no_such_module
    except ImportError:
        no_such_module = None
    return xs, no_such_module


def made_global(xs: Any) -> Any:
    global made_here
    made_here = 1
    return made_here


def by_exec(xs: Any) -> Any:
    exec("nowhere = len", globals())
    return nowhere(xs)


def complete(xs: Any) -> Any:
    import json
    from os import path

    return [json.dumps(x) + path.join("a") + str(EMPTY) + __name__ for x in xs]


@pytest.mark.parametrize("function", [caught, made_global, by_exec, complete, len, list, functools.partial(max, 1)])
def test_nothing_is_missing(function: Any) -> None:
    assert undefined.find(function) == []


def test_a_name_that_is_guarded_is_not_certain() -> None:
    def guarded(xs: Any) -> Any:
        try:
            return nowhere(xs)
        except NameError:
            return xs

    assert [missing.is_certain for missing in undefined.find(guarded)] == [False]

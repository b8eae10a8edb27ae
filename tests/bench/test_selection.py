"""The simulations of selection policies, and their tables."""

from random import Random

import pytest

from bench import selection
from bench.models import several
from bench.models.several import DIFFERING, SIMILAR, Asked
from bench.selection import Stream, Votes


def asked(labels: list[int], **outputs: list[int]) -> Asked:
    return Asked(labels, {name: [b"%d" % output for output in found] for name, found in outputs.items()})


def test_the_first_model_of_a_stream_degrades_for_a_while() -> None:
    perfect = Asked([3, 4], {name: [b"3", b"4"] for name in DIFFERING})
    errors = Stream.draw(perfect, DIFFERING, 12_000, Random(1)).errors_of(DIFFERING[0])
    curve = selection.windows([errors])
    degraded = range(selection.DEGRADED.start // selection.WINDOW, selection.DEGRADED.stop // selection.WINDOW)
    assert len(curve) == 12_000 / selection.WINDOW
    for number, error in enumerate(curve):
        assert error == (pytest.approx(0.9, abs=0.05) if number in degraded else 0)


def test_a_policy_answers_a_stream_by_the_outputs_of_its_arms() -> None:
    models = asked([1] * 4, good=[1] * 4, bad=[2] * 4)
    stream = Stream.draw(models, ["bad", "good"], 1000, Random(1))
    errors = stream.errors_under(selection.POLICIES["thompson"], Random(1))
    assert sum(errors) < 20


def test_votes_are_parted_by_confidence() -> None:
    votes = Votes.take(asked([1, 1, 1], a=[1, 1, 2], b=[1, 1, 1], c=[1, 2, 2]))
    assert votes.are_wrong == [False, False, True]
    assert votes.best_error == 0
    assert votes.by_confidence(0.9) == ([0.0], [0.0, 1.0])


def test_models_are_asked_about_images_that_they_did_not_learn() -> None:
    names = ("nearest neighbours", "naive Bayes")
    found = several.ask(names, seed=1, are_hard=True, are_apart=True)
    assert len(found.labels) == len(found.outputs[names[0]]) == several._COPIES * (1797 - several._TRAINED_WITH)
    assert 0.05 < found.error(names[0]) < found.error(names[1]) < 0.5
    assert found == several.ask(names, seed=1, are_hard=True, are_apart=True)


def test_all_ensembles_have_models() -> None:
    assert len(DIFFERING) == len(SIMILAR) == 5
    assert {*DIFFERING, *SIMILAR} == set(several.MODELS)

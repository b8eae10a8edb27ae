"""The paper's figures on the selection of models, offline: what the policies choose and combine, on real models.

Models of scikit-learn answer images of digits in advance; the policies see their outputs, in a stream of queries each
of which gets its label as feedback at once. Nothing is served, so there is no latency, and the figures do not depend on
the machine.

    python -m bench.selection  # about a minute
"""

from collections.abc import Iterator, Sequence
from random import Random
from statistics import fmean
from typing import Any, Final, NamedTuple

from bench import report
from bench.models import several
from bench.models.several import DIFFERING, SIMILAR, Asked
from bench.report import Table, progress
from clipper_common.selection_policies import Ensemble, EpsilonGreedy, Exp3, Exp4, Loss, Policy, Thompson
from query_frontend.selection.losses import loss_of
from query_frontend.selection.policies import selection_policy
from query_frontend.selection.state import State, add

QUERIES: Final = 20_000
DEGRADED: Final = range(5_000, 10_000)
"""The queries for which the best model answers at random, as in figure 8 of the paper."""
PHASES: Final = {"before": range(2_500, 5_000), "degraded": range(6_000, 10_000), "after": range(15_000, 20_000)}
"""The parts of the stream in which errors are compared: a policy has had time to learn."""
WINDOW: Final = 500
"""The number of queries over which a curve is averaged."""
POLICIES: Final[dict[str, Policy]] = {
    "exp3": Exp3(),
    "exp4": Exp4(),
    "thompson": Thompson(),
    "epsilon_greedy": EpsilonGreedy(),
}
STATIC: Final = "static: the best at first"
HINDSIGHT: Final = "the best model in hindsight"
_CLASSES: Final = 10
_CHANCE: Final = 1 - 1 / _CLASSES
_AGREEING: Final = (4, 5)
"""The number of models, of five, whose agreement counts as confidence."""

Errors = list[float]
"""The error of each query, from 0 to 1."""


# --- figure 8: a model degrades, and recovers ---


class Stream(NamedTuple):
    """Queries in a random order, and the outputs of each model, of which the first degrades for a while."""

    labels: list[int]
    outputs: list[dict[str, bytes]]

    @classmethod
    def draw(cls, asked: Asked, models: Sequence[str], queries: int, random: Random) -> "Stream":
        labels, outputs = [], []
        for query in range(queries):
            place = random.randrange(len(asked.labels))
            labels.append(asked.labels[place])
            outputs.append({model: asked.outputs[model][place] for model in models})
            if query in DEGRADED:
                outputs[-1][models[0]] = b"%d" % random.randrange(_CLASSES)
        return cls(labels, outputs)

    def errors_of(self, model: str) -> Errors:
        """Return those of a model that answers all queries."""
        return [
            loss_of(Loss.ZERO_ONE, 1.0, label, outputs[model])
            for label, outputs in zip(self.labels, self.outputs, strict=True)
        ]

    def errors_under(self, options: Policy, random: Random) -> Errors:
        """Return those of the answers under a policy that learns from each query."""
        policy = selection_policy(options, list(self.outputs[0]))
        state: State = {}
        errors = []
        for label, outputs in zip(self.labels, self.outputs, strict=True):
            choice = policy.select(state, b"", random)
            combined = policy.combine(state, {arm: outputs[arm] for arm in choice.arms})
            errors.append(1.0 if combined.output is None else loss_of(Loss.ZERO_ONE, 1.0, label, combined.output))
            losses = {arm: loss_of(Loss.ZERO_ONE, 1.0, label, outputs[arm]) for arm in choice.arms}
            state = add(state, policy.observe(state, losses, choice.probability))
        return errors


def recovery(asked: Asked, trials: int, queries: int) -> dict[str, list[Errors]]:
    """Return the errors of each way to choose, in each trial."""
    found: dict[str, list[Errors]] = {name: [] for name in (*POLICIES, STATIC, HINDSIGHT)}
    for trial in range(trials):
        stream = Stream.draw(asked, DIFFERING, queries, Random(trial))
        for name, options in POLICIES.items():
            found[name].append(stream.errors_under(options, Random(trial)))
        of_models = [stream.errors_of(model) for model in DIFFERING]
        found[STATIC].append(of_models[0])
        found[HINDSIGHT].append(min(of_models, key=sum))
        progress(f"trial {trial + 1} of {trials}")
    return found


def windows(trials: Sequence[Errors]) -> list[float]:
    """Return the curve: the mean error of each window over all trials."""
    starts = range(0, len(trials[0]), WINDOW)
    return [fmean(fmean(errors[start : start + WINDOW]) for errors in trials) for start in starts]


def recovery_table(found: dict[str, list[Errors]]) -> Table:
    table = Table(
        "A model degrades: error in %, mean of all trials",
        ["", *(f"{name}, queries {part.start:,} to {part.stop:,}" for name, part in PHASES.items()), "whole stream"],
    )
    for name, trials in found.items():
        parts = [
            [error for query in part if query < len(trials[0]) for error in _at(trials, query)]
            for part in PHASES.values()
        ]
        whole = [error for errors in trials for error in errors]
        table.rows.append([name, *(_percent(part) for part in [*parts, whole])])
    return table


def _at(trials: Sequence[Errors], query: int) -> Iterator[float]:
    return (errors[query] for errors in trials)


# --- figure 7: ensembles, and agreement as confidence ---


class Votes(NamedTuple):
    """The answers of an ensemble, and those of its best model."""

    are_wrong: list[bool]
    confidences: list[float]
    best_error: float

    @classmethod
    def take(cls, asked: Asked) -> "Votes":
        models = list(asked.outputs)
        policy = selection_policy(Ensemble(), models)
        are_wrong, confidences = [], []
        for place, label in enumerate(asked.labels):
            combined = policy.combine({}, {model: asked.outputs[model][place] for model in models})
            are_wrong.append(combined.output != b"%d" % label)
            confidences.append(combined.confidence)
        return cls(are_wrong, confidences, min(asked.error(model) for model in models))

    def error(self) -> float:
        return fmean(self.are_wrong)

    def by_confidence(self, least: float) -> tuple[list[float], list[float]]:
        """Return the errors of the answers of at least this confidence, and those of the others."""
        both = [(float(wrong), confidence) for wrong, confidence in zip(self.are_wrong, self.confidences, strict=True)]
        return [wrong for wrong, sure in both if sure >= least], [wrong for wrong, sure in both if sure < least]


ENSEMBLES: Final[dict[str, dict[str, Any]]] = {
    "similar models, hard digits": {"names": SIMILAR, "are_hard": True},
    "similar models trained apart, hard digits": {"names": SIMILAR, "are_hard": True, "are_apart": True},
    "differing models, hard digits": {"names": DIFFERING, "are_hard": True},
    "similar models trained apart, digits": {"names": SIMILAR, "are_hard": False, "are_apart": True},
}
"""The arguments of `several.ask` for each ensemble of five models."""


def ensembles(splits: int) -> dict[str, list[Votes]]:
    """Return the votes of each ensemble, for each way to split the images into those for training and for queries."""
    found: dict[str, list[Votes]] = {}
    for name, arguments in ENSEMBLES.items():
        found[name] = [Votes.take(several.ask(seed=seed, **arguments)) for seed in range(splits)]
        progress(f"ensembles: {name}")
    return found


def ensemble_table(found: dict[str, list[Votes]]) -> Table:
    table = Table(
        "Ensembles: error in %, mean of all splits", ["", "best model", "ensemble", "change", "best and worst split"]
    )
    for name, splits in found.items():
        best, ours = fmean(votes.best_error for votes in splits), fmean(votes.error() for votes in splits)
        changes = sorted(votes.error() / votes.best_error - 1 for votes in splits)
        spread = f"{100 * changes[0]:+.1f} % to {100 * changes[-1]:+.1f} %"
        table.rows.append([name, f"{100 * best:.2f}", f"{100 * ours:.2f}", f"{100 * (ours / best - 1):+.1f} %", spread])
    return table


def confidence_table(found: dict[str, list[Votes]]) -> Table:
    table = Table(
        "Agreement as confidence: error in %",
        ["", "models of five that agree", "confident, % of queries", "error of these", "error of the rest"],
    )
    for name, splits in found.items():
        for agreeing in _AGREEING:
            parts = [votes.by_confidence(agreeing / 5 - 1e-9) for votes in splits]
            confident = [wrong for part, _ in parts for wrong in part]
            rest = [wrong for _, part in parts for wrong in part]
            share = f"{100 * len(confident) / (len(confident) + len(rest)):.1f}"
            table.rows.append([name, f"at least {agreeing}", share, _percent(confident), _percent(rest)])
    return table


def _percent(errors: Sequence[float]) -> str:
    return f"{100 * fmean(errors):.2f}" if errors else "-"


# --- figure 9: stragglers ---

SIZES: Final = (1, 2, 4, 8, 16)
SLO_MILLIS: Final = 20.0
_MEDIAN_MILLIS: Final = 8.0
_SPREAD: Final = 0.45
"""The standard deviation of the logarithm of a model's latency: with these, one query in 48 is late."""


def stragglers(splits: int, queries: int) -> Table:
    """Let ensembles of random forests answer, whose latencies are drawn from a log-normal distribution."""
    table = Table(
        f"Stragglers, simulated: an SLO of {SLO_MILLIS:g} ms, latencies with a median of {_MEDIAN_MILLIS:g} ms",
        ["models", "p99 of all, ms", "p99 of what is there, ms", "missing outputs, %", "no output, %"]
        + ["error of all, %", "error of what is there, %"],
    )
    asked = [several.ask_forests(max(SIZES), seed) for seed in range(splits)]
    for size in SIZES:
        random = Random(size)
        drawn = [_late_answer(one, size, random) for one in asked for _ in range(queries // splits)]
        latencies, missing, errors, errors_of_all = zip(*drawn, strict=True)
        none = sum(count == size for count in missing) / len(missing)
        p99 = report.percentile(latencies, 99)
        table.rows.append(
            [
                size,
                f"{p99:.1f}",
                f"{min(p99, SLO_MILLIS):.1f}",
                f"{100 * fmean(missing) / size:.1f}",
                f"{100 * none:.2f}",
            ]
            + [_percent(errors_of_all), _percent([error for error in errors if error is not None])]
        )
    return table


def _late_answer(asked: Asked, size: int, random: Random) -> tuple[float, int, float | None, float]:
    """Return the latency of the last model, the number of late ones, and the errors without and with these.

    The error is None where no output is there.
    """
    place = random.randrange(len(asked.labels))
    models = list(asked.outputs)[:size]
    millis = {model: _MEDIAN_MILLIS * random.lognormvariate(0, _SPREAD) for model in models}
    policy = selection_policy(Ensemble(), models)
    outputs = {model: asked.outputs[model][place] for model in models}
    there = {model: output for model, output in outputs.items() if millis[model] <= SLO_MILLIS}
    label = b"%d" % asked.labels[place]
    in_time, whole = policy.combine({}, there).output, policy.combine({}, outputs).output
    error = None if in_time is None else float(in_time != label)
    return max(millis.values()), size - len(there), error, float(whole != label)


# --- the program ---


def models_table(plain: Asked, hard: Asked) -> Table:
    table = Table("The models: error in %", ["", "digits", "hard digits"])
    table.rows = [[name, f"{100 * plain.error(name):.2f}", f"{100 * hard.error(name):.2f}"] for name in plain.outputs]
    return table


def main() -> None:
    parser = report.parser("selection", __doc__)
    parser.add_argument("--trials", type=int, default=10, help="of the stream of queries (default: %(default)s)")
    parser.add_argument("--splits", type=int, default=5, help="of the images, for ensembles (default: %(default)s)")
    arguments = report.parse(parser)
    queries = 2 * WINDOW if arguments.quick else QUERIES
    plain, hard = (several.ask(several.MODELS, 0, are_hard) for are_hard in (False, True))
    progress("the models are trained")
    found = recovery(hard, 1 if arguments.quick else arguments.trials, queries)
    votes = ensembles(1 if arguments.quick else arguments.splits)
    late = stragglers(1 if arguments.quick else arguments.splits, queries)
    tables = [models_table(plain, hard), recovery_table(found), ensemble_table(votes), confidence_table(votes), late]
    raw: dict[str, Any] = {
        "window": WINDOW,
        "degraded": [DEGRADED.start, DEGRADED.stop],
        "chance": _CHANCE,
        "curves": {name: windows(trials) for name, trials in found.items()},
    }
    report.finish("selection", arguments, tables, raw)


if __name__ == "__main__":
    main()

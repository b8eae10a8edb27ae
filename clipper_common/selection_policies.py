"""The selection policies by which an application chooses among its models, and the options of each.

A policy is a frozen dataclass. Its fields are its options, made by `clipper_common.options.option`; `read` of each
takes a value as it comes out of JSON. `read_policy` is the only way from a name and options to a policy, and checks
them.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from enum import StrEnum
from typing import Any, ClassVar, Final

from clipper_common.constants import MAX_NAME_LENGTH
from clipper_common.datatypes import is_plain_text, printable
from clipper_common.errors import PolicyError
from clipper_common.options import option, out_of_range

MAX_ARMS: Final = 64
"""The most models that may be linked to one application."""

Weights = tuple[tuple[str, float], ...]
"""The weight of each arm that has one. In JSON it is an object."""


class Loss(StrEnum):
    """The function that says how wrong an output is, from 0 to 1. The value is its name in options."""

    ZERO_ONE = "zero_one"
    """1 if the output differs from the label, else 0."""
    ABSOLUTE = "absolute"
    """The difference of two numbers, divided by the scale, and at most 1."""
    SQUARED = "squared"
    """The square of that quotient, and at most 1."""
    GIVEN = "given"
    """The client states the loss itself."""


class Combination(StrEnum):
    """The way in which several outputs become one. The value is its name in options."""

    VOTE = "vote"
    """The output with the greatest sum of weights."""
    MEAN = "mean"
    """The weighted mean of the outputs, which are numbers."""


_LARGEST: Final = 1e18
_MAX_LINK_LENGTH: Final = 2 * MAX_NAME_LENGTH + 1
"""A link may name a model and a version."""
_LEAST_WEIGHT: Final = 1e-6
_MOST_WEIGHT: Final = 1e9

# --- values of options, as they come out of JSON ---


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -_LARGEST <= value <= _LARGEST:
        raise ValueError("a number")
    return float(value)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or not is_plain_text(value, _MAX_LINK_LENGTH):
        raise ValueError("the text of a name")
    return value


def _sticky_key(value: object) -> str:
    if not isinstance(value, str) or (value and value != "uid" and not is_header_key(value)):
        raise ValueError("'uid', or 'header:' and the name of a header (of letters, digits and hyphens)")
    return value


def is_header_key(key: str) -> bool:
    """Whether a sticky key is the value of a header."""
    return key.startswith("header:") and key.removeprefix("header:").replace("-", "").isalnum() and key.isascii()


def _weights(value: object) -> Weights:
    if not isinstance(value, Mapping):
        raise ValueError("an object with a weight for each model")
    pairs = tuple((_text(arm), _number(weight)) for arm, weight in value.items())
    if not all(weight == 0 or _LEAST_WEIGHT <= weight <= _MOST_WEIGHT for _, weight in pairs):
        raise ValueError(f"weights that are 0, or from {_LEAST_WEIGHT} to {_MOST_WEIGHT}")
    if pairs and not any(weight for _, weight in pairs):
        raise ValueError("weights of which one at least is not 0")
    return pairs


def _one_of(kind: type[StrEnum]) -> Callable[[object], StrEnum]:
    def read(value: object) -> StrEnum:
        if value not in list(kind):
            raise ValueError(f"one of {', '.join(kind)}")
        return kind(str(value))

    return read


# --- policies ---


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Base of all policies."""

    name: ClassVar[str]
    fewest_arms: ClassVar[int] = 1
    most_arms: ClassVar[int] = MAX_ARMS
    learns: ClassVar[bool] = False
    """Whether feedback changes it."""
    asks_all: ClassVar[bool] = False
    """Whether all arms answer each query, and their outputs are combined."""

    def check(self, arms: Iterable[str]) -> None:
        """Raise `PolicyError` unless these linked arms can be used."""
        arms = set(arms)
        if not self.fewest_arms <= len(arms) <= self.most_arms:
            most = f"at most {self.most_arms}" if len(arms) > self.most_arms else f"at least {self.fewest_arms}"
            raise PolicyError(f"The policy '{self.name}' needs {most} linked model(s), and there are {len(arms)}")

    def options(self) -> dict[str, Any]:
        """Return all options as JSON has them: `read_policy` makes an equal policy of these."""
        return {
            each.name: dict(value) if each.name == "weights" else value
            for each in fields(self)
            for value in [getattr(self, each.name)]
        }


@dataclass(frozen=True, kw_only=True)
class _Weighted(Policy):
    weights: Weights = option(
        (), "weight of each model; one that is not named has 0; if none is named, all are equal", _weights
    )

    def check(self, arms: Iterable[str]) -> None:
        arms = set(arms)
        super().check(arms)
        _check_linked("weights", (arm for arm, _ in self.weights), arms)

    def weights_of(self, arms: Iterable[str]) -> dict[str, float]:
        """Return the weight of each of these arms."""
        given = dict(self.weights)
        return {arm: given.get(arm, 0.0) if given else 1.0 for arm in arms}


@dataclass(frozen=True, kw_only=True)
class _Measuring(Policy):
    scale: float = option(1.0, "the difference of two numbers that counts as a whole error", _number, 1e-9, _LARGEST)


@dataclass(frozen=True, kw_only=True)
class _Learning(_Measuring):
    learns = True

    loss: Loss = option(Loss.ZERO_ONE, "how wrong an output is, given the label of feedback", _one_of(Loss))
    contextual: bool = option(False, "whether each user (uid) has a state, which begins as the application's", _flag)


@dataclass(frozen=True, kw_only=True)
class _Combining(_Measuring):
    asks_all = True

    combination: Combination = option(Combination.VOTE, "how outputs become one", _one_of(Combination))
    confidence_threshold: float = option(0.0, "the confidence below which the default output is given", _number, 0, 1)


@dataclass(frozen=True, kw_only=True)
class Single(Policy):
    """The one linked model answers."""

    name = "single"
    fewest_arms = 0
    most_arms = 1


@dataclass(frozen=True, kw_only=True)
class Split(_Weighted):
    """One model answers, chosen by weight: always the same for the same sticky key."""

    name = "split"

    sticky_key: str = option("", "'uid' or 'header:NAME': the key of a client that always gets one model", _sticky_key)


@dataclass(frozen=True, kw_only=True)
class Shadow(Policy):
    """One model answers; a share of the queries is given to the others too, whose outputs are only compared."""

    name = "shadow"
    fewest_arms = 2

    primary: str = option(MISSING, "the model that answers", _text)
    share: float = option(1.0, "the share of queries that the other models are given too", _number, 0, 1)

    def check(self, arms: Iterable[str]) -> None:
        arms = set(arms)
        super().check(arms)
        _check_linked("primary", [self.primary], arms)


@dataclass(frozen=True, kw_only=True)
class EpsilonGreedy(_Learning):
    """One model answers: the best so far, or any with probability epsilon."""

    name = "epsilon_greedy"

    epsilon: float = option(0.1, "the share of queries whose model is chosen at random", _number, 0, 1)


@dataclass(frozen=True, kw_only=True)
class Thompson(_Learning):
    """One model answers, with the probability that it is the best, given the feedback."""

    name = "thompson"


@dataclass(frozen=True, kw_only=True)
class Exp3(_Learning):
    """One model answers, with a probability that falls exponentially with its losses."""

    name = "exp3"

    eta: float = option(0.05, "the learning rate", _number, 1e-6, 10)
    gamma: float = option(0.05, "the share of queries whose model is chosen at random", _number, 1e-6, 1)


@dataclass(frozen=True, kw_only=True)
class Exp4(_Combining, _Learning):
    """All models answer; their outputs are combined by weights that fall exponentially with their losses."""

    name = "exp4"

    eta: float = option(0.2, "the learning rate", _number, 1e-6, 10)
    gamma: float = option(0.05, "the share of weight that is spread evenly", _number, 1e-6, 1)

    def check(self, arms: Iterable[str]) -> None:
        super().check(arms)
        if self.loss is Loss.GIVEN:
            raise PolicyError(
                f"The option 'loss' of '{self.name}' cannot be '{self.loss}', which is of one model", "loss"
            )


@dataclass(frozen=True, kw_only=True)
class Ensemble(_Combining, _Weighted):
    """All models answer; their outputs are combined by fixed weights."""

    name = "ensemble"


POLICIES: Final[Mapping[str, type[Policy]]] = {
    kind.name: kind for kind in (Single, Split, Shadow, EpsilonGreedy, Thompson, Exp3, Exp4, Ensemble)
}


def read_policy(name: str, options: Mapping[str, object], arms: Iterable[str]) -> Policy:
    """Return the policy of this name, with these options and the defaults of others, for an application's linked arms.

    Raises `PolicyError`, which names the option, if anything does not fit.
    """
    kind = POLICIES.get(name)
    if kind is None:
        raise PolicyError(f"'{printable(name)}' is no selection policy. Use one of {', '.join(POLICIES)}")
    known = {each.name: each for each in fields(kind)}
    for word in options:
        if word not in known:
            takes = f"It takes {', '.join(known)}" if known else "It takes none"
            raise PolicyError(f"The policy '{name}' has no option '{printable(word)}'. {takes}", word)
    for each in known.values():
        if each.default is MISSING and each.name not in options:
            raise PolicyError(f"The policy '{name}' needs the option '{each.name}': {each.metadata['help']}", each.name)
    policy = kind(**{word: _read(known[word], value) for word, value in options.items()})
    policy.check(arms)
    return policy


def _read(each: Field[Any], value: object) -> Any:
    try:
        read = each.metadata["read"](value)
    except ValueError as error:
        shown = printable(repr(value), 80)
        raise PolicyError(f"The option '{each.name}' must be {error}, and is {shown}", each.name) from None
    if wrong := out_of_range(each, read):
        raise PolicyError(f"The option '{each.name}' is wrong: {wrong}", each.name)
    return read


def _check_linked(option_name: str, named: Iterable[str], arms: Iterable[str]) -> None:
    if unknown := sorted(set(named) - set(arms)):
        linked = ", ".join(sorted(arms)) or "none"
        raise PolicyError(
            f"The option '{option_name}' names '{printable(unknown[0])}', which is not linked. Linked are: {linked}",
            option_name,
        )

"""Synthetic arms, and a loop in which a policy learns from them."""

from collections.abc import Callable, Sequence
from random import Random

from query_frontend.selection.interface import SelectionPolicy
from query_frontend.selection.state import State, add

LossesAt = Callable[[int], Sequence[float]]
"""The expected losses of all arms at a step."""


def names(count: int) -> list[str]:
    return [f"m:{number}" for number in range(count)]


def learn(policy: SelectionPolicy, losses_at: LossesAt, steps: int, random: Random) -> tuple[State, list[str]]:
    """Return the state, and the arm of each step. An arm fails with the probability of its expected loss."""
    state: State = {}
    chosen = []
    for step in range(steps):
        choice = policy.select(state, b"", random)
        losses = dict(zip(names(len(losses_at(step))), losses_at(step), strict=True))
        drawn = {arm: float(random.random() < losses[arm]) for arm in choice.arms}
        state = add(state, policy.observe(state, drawn, choice.probability))
        chosen.append(choice.arms[0])
    return state, chosen


def regret(chosen: Sequence[str], losses_at: LossesAt) -> float:
    """Return the expected loss of the arms that were chosen, less that of the best fixed arm."""
    count = len(losses_at(0))
    place = {arm: number for number, arm in enumerate(names(count))}
    ours = sum(losses_at(step)[place[arm]] for step, arm in enumerate(chosen))
    return ours - min(sum(losses_at(step)[number] for step in range(len(chosen))) for number in range(count))

"""Tests of the weighted split of keys among arms."""

import subprocess
import sys
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from query_frontend.selection.split import WeightedSplit

ARMS = st.sampled_from(["m:1", "m:2", "m:3", "other", "last"])
WEIGHTS = st.dictionaries(ARMS, st.just(0.0) | st.floats(1e-6, 1e9), min_size=1).filter(
    lambda found: any(found.values())
)
KEYS = st.binary(max_size=64)
MANY_KEYS = [f"user-{number}".encode() for number in range(20_000)]


@given(WEIGHTS, WEIGHTS, KEYS)
def test_a_key_moves_only_to_an_arm_whose_weight_has_grown_beside_the_one_it_leaves(
    before: dict[str, float], after: dict[str, float], key: bytes
) -> None:
    old, new = WeightedSplit(before).by_key(key), WeightedSplit(after).by_key(key)
    assert after[new] > 0
    if old != new:
        assert after[new] * before[old] >= after.get(old, 0.0) * before.get(new, 0.0) * (1 - 1e-9)


@given(WEIGHTS, KEYS)
def test_neither_the_order_of_arms_nor_those_without_weight_matter(weights: dict[str, float], key: bytes) -> None:
    turned = dict(reversed([*weights.items(), ("idle", 0.0)]))
    assert WeightedSplit(turned).by_key(key) == WeightedSplit(weights).by_key(key)


def test_keys_are_shared_by_weight() -> None:
    split = WeightedSplit({"m:1": 6, "m:2": 3, "m:3": 1})
    chosen = [split.by_key(key) for key in MANY_KEYS]
    for arm, share in {"m:1": 0.6, "m:2": 0.3, "m:3": 0.1}.items():
        assert chosen.count(arm) / len(chosen) == pytest.approx(share, abs=0.01)
        assert split.probability(arm) == pytest.approx(share)


def test_a_larger_canary_takes_only_what_it_must() -> None:
    before, after = WeightedSplit({"m:1": 95, "m:2": 5}), WeightedSplit({"m:1": 90, "m:2": 10})
    moves = [(before.by_key(key), after.by_key(key)) for key in MANY_KEYS]
    assert ("m:2", "m:1") not in moves
    assert moves.count(("m:1", "m:2")) / len(moves) == pytest.approx(0.05, abs=0.005)


def test_without_a_key_arms_are_chosen_by_weight() -> None:
    split, random = WeightedSplit({"m:1": 3, "m:2": 1, "m:3": 0}), Random(1)
    chosen = [split.at_random(random) for _ in range(20_000)]
    assert set(chosen) == {"m:1", "m:2"}
    assert chosen.count("m:2") / len(chosen) == pytest.approx(0.25, abs=0.01)


def test_the_largest_random_number_chooses_an_arm() -> None:
    class Largest(Random):
        def random(self) -> float:
            return 1.0

    assert WeightedSplit({"m:1": 0.1, "m:2": 0.2}).at_random(Largest()) == "m:2"


def test_every_process_chooses_alike() -> None:
    program = (
        "from query_frontend.selection.split import WeightedSplit\n"
        "split = WeightedSplit({'m:1': 1, 'm:2': 1})\n"
        "print(*[split.by_key(b'%d' % number)[-1] for number in range(32)], sep='')"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, check=True, capture_output=True, text=True
        ).stdout
        for seed in ("1", "2")
    }
    assert found == {"22222212212111111221122212111111\n"}

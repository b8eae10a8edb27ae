"""The policy `split`: a model for each query, chosen by weight, and always the same for the same key."""

from collections.abc import Mapping
from hashlib import blake2b
from math import inf, log
from typing import Final

from query_frontend.selection.bases import Fixed, OneArm, draw
from query_frontend.selection.interface import Choice, RandomNumbers
from query_frontend.selection.state import State

_HASH_BYTES: Final = 8
_NUMBER_BITS: Final = 52
"""A half more than a number of so many bits is a double without rounding."""


class WeightedSplit:
    """Weighted rendezvous hashing.

    Each arm gets a number from 0 to 1, uniformly distributed, which is a hash of the arm and the key. The arm with the
    least ``-ln(number) / weight`` is chosen. That is the least of exponentially distributed variables whose rates are
    the weights, so an arm is chosen with a probability proportional to its weight. A change of the weights moves a key
    only to an arm whose share has grown; no table is kept, and all processes choose alike.

    Source: Thaler and Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM Transactions on
    Networking 6(1), 1998, for rendezvous hashing; Schindelhauer and Schomaker, "Weighted distributed hash tables",
    SPAA 2005, section 3 (the logarithmic method), for weights.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        """`weights` are 0 or more, and one at least is above 0."""
        self._weights = {arm: weight for arm, weight in sorted(weights.items()) if weight > 0}
        self._total = sum(self._weights.values())
        self._hashed = [
            (arm, weight, blake2b(digest_size=_HASH_BYTES, salt=_salt(arm))) for arm, weight in self._weights.items()
        ]

    def by_key(self, key: bytes) -> str:
        """Return the arm of a key."""
        best, least = "", inf
        for arm, weight, hash_of_arm in self._hashed:
            hashed = hash_of_arm.copy()
            hashed.update(key)
            score = -log(_uniform(hashed.digest())) / weight
            if score < least:
                best, least = arm, score
        return best

    def at_random(self, random: RandomNumbers) -> str:
        """Return any arm, with a probability proportional to its weight."""
        return draw(self._weights, random)

    def probability(self, arm: str) -> float:
        return self._weights[arm] / self._total


class SplitPolicy(Fixed, OneArm):
    """Chooses the arm of the client's key or, without one, any arm by weight.

    A query frontend uses `WeightedSplit` directly, without the state that policies that learn have.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._split = WeightedSplit(weights)

    def select(self, state: State, key: bytes, random: RandomNumbers) -> Choice:
        arm = self._split.by_key(key) if key else self._split.at_random(random)
        return Choice((arm,), self._split.probability(arm))


def _salt(arm: str) -> bytes:
    return blake2b(arm.encode(), digest_size=blake2b.SALT_SIZE).digest()


def _uniform(digest: bytes) -> float:
    """Return a number between 0 and 1, and neither of these."""
    return ((int.from_bytes(digest, "big") >> (8 * _HASH_BYTES - _NUMBER_BITS)) + 0.5) / (1 << _NUMBER_BITS)

"""The policy `shadow`: one arm answers, and the others are asked too for a share of the queries."""

from collections.abc import Sequence

from clipper_common.selection_policies import Shadow
from query_frontend.selection.bases import Fixed, OneArm
from query_frontend.selection.interface import Choice, RandomNumbers
from query_frontend.selection.state import State


class ShadowPolicy(Fixed, OneArm):
    """Outputs of the others are no part of the answer."""

    def __init__(self, options: Shadow, arms: Sequence[str]) -> None:
        self._share = options.share
        self._alone = Choice((options.primary,))
        self._with_shadows = self._alone._replace(shadows=tuple(arm for arm in arms if arm != options.primary))

    def select(self, state: State, key: bytes, random: RandomNumbers) -> Choice:
        return self._with_shadows if random.random() < self._share else self._alone

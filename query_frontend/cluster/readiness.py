"""Decides whether this frontend can answer as well as the others do."""

from typing import Final

from clipper_common.waiting import TimeLimit
from query_frontend.cluster.membership import Membership
from query_frontend.serving.executor import Executor
from query_frontend.serving.registry import Registry

NOT_LOADED: Final = "The configuration was not read from Redis yet"

_PATIENCE_SECONDS: Final = 10.0
"""Seconds after the start; a model that has not been reached by then may never be."""
_POLL_SECONDS: Final = 0.02


class Readiness:
    """Decides whether this frontend should be sent queries."""

    def __init__(self, registry: Registry, executor: Executor, membership: Membership) -> None:
        self._registry = registry
        self._executor = executor
        self._membership = membership
        self._patience = TimeLimit(_PATIENCE_SECONDS)
        self._is_draining = False

    def drain(self) -> None:
        """Have queries go elsewhere from now on."""
        self._is_draining = True

    def missing(self) -> str | None:
        """Return why this frontend is not ready for queries; None if it is."""
        if self._is_draining:
            return "This query frontend is about to stop"
        if not self._registry.is_loaded:
            return NOT_LOADED
        served = {model for peer in self._membership.other_frontends for model in peer.models}
        unserved = sorted(model for model in served if not self._executor.can_answer(model))
        if unserved and not self._patience.is_over:
            return f"No replica of {', '.join(map(str, unserved))} is connected yet; other query frontends have some"
        return None

    async def wait(self) -> None:
        """Wait until this frontend is ready, at most `_PATIENCE_SECONDS` after its start."""
        async for _ in self._patience.attempts(_POLL_SECONDS):
            if self.missing() is None:
                return

"""The service that commits changes of the configuration. If a rule refuses a change, nothing is written."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Final

from clipper_common.config_store import ConfigStore
from clipper_common.constants import APPLY_SECONDS
from clipper_common.errors import RequestError
from clipper_common.layout import Place
from clipper_common.membership_store import MembershipStore
from clipper_common.redis_client import StoreError
from clipper_common.snapshot import Snapshot
from clipper_common.waiting import TimeLimit
from management_frontend.rules import Rule

logger = logging.getLogger(__name__)

_ATTEMPTS: Final = 20
_RESTORE_SECONDS: Final = 3.0
_RESTORE_POLL_SECONDS: Final = 0.02


class BusyError(RequestError):
    """A change failed since other programs changed the configuration at each attempt."""

    status = 503


class LostConfigurationError(RequestError):
    """Redis has lost the configuration. A change before it is written back would conflict with it."""

    status = 503


class ChangeService:
    """Commits changes of the configuration, one at a time."""

    def __init__(self, store: ConfigStore, members: MembershipStore) -> None:
        self._store = store
        self._members = members
        self._saw_epoch = False
        self._lock = asyncio.Lock()

    async def change(self, rule: Rule, places: Sequence[Place] = ()) -> str:
        """Commit the change that `rule` makes of the latest configuration, and return the text of the answer.

        Queries that are sent after this returns see the change, unless a query frontend takes longer than
        `APPLY_SECONDS` to apply it. The records in `places` are read from Redis now, whoever wrote them.
        Raises `QueryError` if the rule refuses, `BusyError`, `LostConfigurationError` or `StoreError`.
        """
        async with self._lock:
            revision, text = await self._commit(rule, places)
        if revision is not None:
            await self._wait_until_applied(revision)
        return text

    async def _commit(self, rule: Rule, places: Sequence[Place]) -> tuple[int | None, str]:
        for _ in range(_ATTEMPTS):
            snapshot = await self._read(places)
            writes, text = rule(snapshot)
            if not writes:
                return None, text
            revision = await self._store.commit(snapshot, writes)
            if revision is not None:
                return revision, text
        raise BusyError("The configuration is being changed by other programs all the time. Try again.")

    async def _read(self, places: Sequence[Place]) -> Snapshot:
        """Read the configuration. If Redis has just lost it, wait until a query frontend has written it back."""
        async for _ in TimeLimit(_RESTORE_SECONDS).attempts(_RESTORE_POLL_SECONDS):
            snapshot = await self._store.read_latest(*places)
            if snapshot.epoch or not self._saw_epoch:
                self._saw_epoch = bool(snapshot.epoch)
                return snapshot
        raise LostConfigurationError(
            "Redis lost the configuration, and no query frontend is there to write it back. Start one."
        )

    async def _wait_until_applied(self, revision: int) -> None:
        # The change is committed, so it does not fail if Redis becomes unavailable now.
        with contextlib.suppress(*StoreError):
            if not await self._members.wait_until_applied(revision, APPLY_SECONDS):
                logger.warning("a query frontend did not follow revision %d in %s s", revision, APPLY_SECONDS)

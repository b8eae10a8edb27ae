"""A copy of the configuration in Redis, brought up to date by what changed.

Each commit adds the records that it wrote to a journal, so that the cost of a change does not depend on the size of the
configuration. If the journal does not reach back far enough, everything is read, page by page, so that no call keeps
Redis or its client busy for long.
"""

import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, NamedTuple

from clipper_common import jsontext, scripts
from clipper_common.constants import CONFIG_REREAD_SECONDS
from clipper_common.layout import LAYOUT, Collection, Place
from clipper_common.reading import Draft
from clipper_common.snapshot import Snapshot

_ATTEMPTS: Final = 3
_SHARE_OF_REREADING: Final = 0.05
"""The largest share of the time for reading everything again."""

Eval = Callable[..., Awaitable[Any]]
"""Runs a script of `scripts` with its arguments and keys."""


class Update(NamedTuple):
    """A snapshot, and the places in which it differs from the one before."""

    snapshot: Snapshot
    changed: frozenset[Place]


class ConfigCopy:
    """The configuration as it was read last. Calls raise the errors of `evaluate`, and then change nothing."""

    def __init__(self, evaluate: Eval, keeps_good: bool, kept: Snapshot | None = None) -> None:
        """With `keeps_good`, an invalid record keeps its last valid value (at first that in `kept`); without, it is
        left out."""
        self.snapshot = kept or Snapshot()
        self.is_read = False
        """Whether everything has been read once."""
        self.head = (0, "")
        """The revision and epoch of Redis up to which all commits have been read."""
        self._evaluate = evaluate
        self._keeps_good = keeps_good
        self._reread_at = 0.0

    @property
    def is_due(self) -> bool:
        """Whether everything should be read again, for writers that do not increment the revision."""
        return time.monotonic() >= self._reread_at

    async def update(self, places: Iterable[Place] = ()) -> frozenset[Place]:
        """Read the commits since the last call, and the records in `places`. Return the changes; at first,
        everything."""
        draft = Draft(self.snapshot, self._keeps_good)
        head = await self._catch_up(draft, self.head, places) if self.is_read else None
        return self._take(draft, head) if head else await self.read_all()

    async def read_all(self) -> frozenset[Place]:
        """Read everything, and return the changes."""
        begun = time.monotonic()
        for _ in range(_ATTEMPTS):
            draft = Draft(self.snapshot, self._keeps_good)
            revision, epoch, found = await self._evaluate(scripts.READ_HEAD)
            before = int(revision), epoch.decode()
            draft.put_head(found)
            for collection in LAYOUT.configuration:
                await self._read_pages(draft, collection)
            head = await self._catch_up(draft, before)
            if head:
                break
        now = time.monotonic()
        self._reread_at = now + max(CONFIG_REREAD_SECONDS, (now - begun) / _SHARE_OF_REREADING)
        # Without a head, some program changes Redis without a journal; its later changes are read next time.
        return self._take(draft, head or before)

    async def _read_pages(self, draft: Draft, collection: Collection) -> None:
        cursor = b""
        while cursor != b"0":
            cursor, found = await self._evaluate(scripts.READ_PAGE, collection.name, cursor.decode() or "0")
            draft.put(collection, found)
        draft.keep_found(collection)

    async def _catch_up(
        self, draft: Draft, head: tuple[int, str], places: Iterable[Place] = ()
    ) -> tuple[int, str] | None:
        """Put the commits since `head` into `draft`. Return the new head, or None if the journal lacks them."""
        revision, epoch = head
        wanted, is_last = list(places), False
        databases, keys = jsontext.dumps([place.database for place in wanted]), [place.key for place in wanted]
        while not is_last:
            answer = await self._evaluate(scripts.READ_CHANGES, str(revision), epoch, databases, keys=keys)
            if len(answer) == 1:
                return None
            reached, is_last, found_head, found = answer
            revision = int(reached)
            draft.put_head(found_head)
            for collection, of_one in zip(LAYOUT.configuration, found, strict=True):
                draft.put(collection, of_one)
        return revision, epoch

    def _take(self, draft: Draft, head: tuple[int, str]) -> frozenset[Place]:
        was_read, self.is_read = self.is_read, True
        self.snapshot, self.head = draft.snapshot(), head
        return frozenset(draft.changed if was_read else self.snapshot.places())

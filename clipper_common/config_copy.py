"""A copy of the configuration in Redis, brought up to date by what changed.

Each commit notes in a journal which records it wrote, so that a change costs the same however much there is. Where the
journal does not reach back, all is read, page by page: no call keeps Redis or its client busy for long.
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
"""The most of the time that reading everything again may take."""

Eval = Callable[..., Awaitable[Any]]
"""Runs a script of `scripts` with its arguments and keys."""


class Update(NamedTuple):
    """A snapshot, and where it differs from the one before."""

    snapshot: Snapshot
    changed: frozenset[Place]


class ConfigCopy:
    """The configuration as it was read last. Calls raise what `evaluate` raises, and leave it as it was."""

    def __init__(self, evaluate: Eval, keeps_good: bool, kept: Snapshot | None = None) -> None:
        """With `keeps_good`, a record that is wrong stays as it was (at first, in `kept`); without, it is left out."""
        self.snapshot = kept or Snapshot()
        self.is_read = False
        """Whether all was read once."""
        self.head = (0, "")
        """The revision and epoch in Redis up to which it knows all that was committed."""
        self._evaluate = evaluate
        self._keeps_good = keeps_good
        self._reread_at = 0.0

    @property
    def is_due(self) -> bool:
        """Whether all should be read again, for writers that know no revision."""
        return time.monotonic() >= self._reread_at

    async def update(self, places: Iterable[Place] = ()) -> frozenset[Place]:
        """Read what was committed since, and what is in `places`. Answers what changed; at first, all there is."""
        draft = Draft(self.snapshot, self._keeps_good)
        head = await self._catch_up(draft, self.head, places) if self.is_read else None
        return self._take(draft, head) if head else await self.read_all()

    async def read_all(self) -> frozenset[Place]:
        """Read everything. Answers what changed."""
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
        # Without a head, a program that writes no journal is at it: what it changed since is read next time.
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
        """Put into `draft` what was committed since `head`. Answers the new head, or None if the journal lacks it."""
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

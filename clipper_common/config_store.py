"""ConfigStore reads, changes and follows the configuration in Redis.

Configuration lives in several databases, which only a Lua script reads or writes as one. So a change is a list of
`changes.Write` that one script carries out together with the revision counter, if nobody else changed the
configuration since it was read.
"""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from typing import Final

from clipper_common import changes, jsontext, scripts
from clipper_common.changes import Write
from clipper_common.config_copy import ConfigCopy, Update
from clipper_common.faults import FaultLog
from clipper_common.layout import LAYOUT, Place
from clipper_common.redis_client import RedisClient, StoreError, explain, refusal
from clipper_common.snapshot import Snapshot

logger = logging.getLogger(__name__)

_RECONNECT_SECONDS: Final = 0.2
_UNKNOWING: Final = "unknowing-"
"""The prefix of an epoch begun by a frontend that had never seen a configuration. One that has a configuration writes
it back all the same."""


class ConfigStore:
    """Clipper's configuration in a Redis.

    Calls raise `StoreError` when Redis does not answer within seconds; `follow` goes on instead.
    """

    def __init__(self, redis: RedisClient) -> None:
        self.address = redis.address
        self._redis = redis
        self._copy = ConfigCopy(redis.run, keeps_good=False)
        self._faults = FaultLog()

    async def read(self) -> Snapshot:
        """Read the whole configuration. The `faults` of the snapshot name the invalid records."""
        await self._copy.read_all()
        self._faults.tell(self._copy.snapshot.faults)
        return self._copy.snapshot

    @property
    def known(self) -> Snapshot:
        """The configuration as it was read last."""
        return self._copy.snapshot

    async def read_latest(self, *places: Place) -> Snapshot:
        """Read only the changes since this store's last read, and the records in `places`.

        Other records in the snapshot may lack changes that were not made by `commit`.
        """
        await self._copy.update(places)
        self._faults.tell(self._copy.snapshot.faults)
        return self._copy.snapshot

    async def read_if_due(self) -> None:
        """Call `read` if its last call was `CONFIG_REREAD_SECONDS` ago, or longer."""
        if self._copy.is_due:
            await self.read()

    async def commit(self, based_on: Snapshot, writes: Iterable[Write]) -> int | None:
        """Carry out all `writes` and return the new revision, or none, and return None, if `based_on` is outdated."""
        writes = list(writes)
        without_keys = jsontext.dumps([(database, (command[0], *command[2:])) for database, command in writes])
        args, keys = (str(based_on.revision), based_on.epoch, without_keys), [write.key for write in writes]
        revision = int(await self._redis.run(scripts.COMMIT, *args, keys=keys))
        return None if revision < 0 else revision

    async def follow(self, patience_seconds: float = 0.0, kept: Snapshot | None = None) -> AsyncIterator[Update]:
        """Yield the configuration, and again after each change.

        An invalid record keeps its last valid value. While Redis does not answer, nothing is yielded. When Redis came
        back empty, the last configuration is written back. A frontend that has yielded none lets others do that for
        `patience_seconds`; then it writes back `kept`, or else takes the Redis for a new one.
        """
        copy = ConfigCopy(self._redis.run, keeps_good=True, kept=kept)
        refused: str | None = None
        """The reason why Redis refuses; empty if it does not answer, None while it does."""
        while True:
            try:
                async with aclosing(self._follow_while_reachable(copy, patience_seconds, kept)) as updates:
                    async for update in updates:
                        if refused is not None:
                            logger.info("Redis at %s answers again", self.address)
                            refused = None
                        if update is not None:
                            yield update
            except StoreError as error:
                reason = refusal(error)
                if refused is None or reason not in ("", refused):
                    logger.warning("Redis at %s does not answer: %s", self.address, explain(error))
                    refused = reason
                await asyncio.sleep(_RECONNECT_SECONDS)

    async def _follow_while_reachable(
        self, copy: ConfigCopy, patience_seconds: float, kept: Snapshot | None
    ) -> AsyncGenerator[Update | None, None]:
        """Yield the changes, or None, after each message and at least every `CONFIG_POLL_SECONDS`."""
        async with aclosing(self._redis.listen(LAYOUT.changes_channel)) as messages:
            await anext(messages)
            impatient_at = time.monotonic() + patience_seconds  # Redis has just answered
            while True:
                update = None
                head = await self._read_head()
                was_read, last = copy.is_read, copy.snapshot if copy.is_read else kept
                is_for_others = not was_read and time.monotonic() < impatient_at
                while _is_to_begin(head[1], last) and not is_for_others:
                    await self._begin_epoch(last, head[1])
                    head = await self._read_head()
                if head[1] and (head != copy.head or copy.is_due):
                    changed = await (copy.read_all() if copy.is_due else copy.update())
                    self._faults.tell(copy.snapshot.faults)
                    if changed or not was_read or last is None or (last.revision, last.epoch) != copy.head:
                        update = Update(copy.snapshot, changed)
                yield update
                await anext(messages)

    async def _begin_epoch(self, last: Snapshot | None, following: str = "") -> None:
        """Begin a new epoch in a Redis that is new or lost its data, if its epoch is still `following`."""
        if last is not None:
            logger.warning("Redis at %s lost the configuration: writing it back", self.address)
        epoch = uuid.uuid4().hex if last is not None else _UNKNOWING + uuid.uuid4().hex
        last = last or Snapshot()
        writes = json.dumps(changes.put_snapshot(last))
        await self._redis.run(scripts.RESTORE, epoch, str(last.revision), following, writes)

    async def _read_head(self) -> tuple[int, str]:
        revision, epoch, _ = await self._redis.run(scripts.READ_HEAD)
        return int(revision), epoch.decode()


def _is_to_begin(epoch: str, last: Snapshot | None) -> bool:
    """Whether a new epoch is due: there is none, or one of a frontend without a configuration, and this one has one."""
    return not epoch or (last is not None and epoch.startswith(_UNKNOWING) and epoch != last.epoch)

"""The connection to Redis: it runs scripts, receives messages, and explains why a Redis refuses.

Clipper uses only scripts and subscriptions. It changes no settings, because managed services refuse `CONFIG SET`.
"""

import asyncio
import contextlib
import inspect
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Iterable
from typing import Any, Final

from redis import Redis as BlockingRedis
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import (
    AskError,
    AuthenticationError,
    ClusterCrossSlotError,
    ClusterDownError,
    NoPermissionError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)
from redis.retry import Retry as BlockingRetry

from clipper_common import scripts
from clipper_common.constants import CONFIG_POLL_SECONDS
from clipper_common.scripts import Script

_CALL_SECONDS: Final = 2.0
_TRY_SECONDS: Final = 1.0

_UNNAMED: Final[dict[str, Any]] = (
    {"driver_info": None}
    if "driver_info" in inspect.signature(Redis.__init__).parameters
    else {"lib_name": None, "lib_version": None}
)
"""The client does not tell Redis its name first: before version 8 it passes over the answer to that, which may say why
Redis refuses it."""
_UNASKED_BYTES: Final = 4096

StoreError = (RedisError, OSError, asyncio.TimeoutError)
"""The errors that a call raises when Redis cannot be reached or refuses it."""

_CLUSTER_ERRORS: Final = (AskError, ClusterCrossSlotError, ClusterDownError)
"""The errors by which a Redis in cluster mode refuses a script because of its keys. A MovedError is an AskError."""
_SINGLE_DATABASE: Final = ("cluster", "same slot", "db index is out of range", "select is not allowed")
"""Parts of the messages, in lower case, with which a Redis that has one database refuses Clipper's scripts."""


def refusal(error: BaseException) -> str:
    """Return the reason why a Redis that raised `error` will never serve Clipper; empty if it may serve later."""
    said = str(error).lower()
    if isinstance(error, AuthenticationError):
        return (
            "This Redis wants a password, and Clipper sends none: let its default user in without one (and keep "
            "others away by the network), or leave redis_ip out for a Redis of the cluster's own."
        )
    if isinstance(error, NoPermissionError):
        return (
            "The default user of this Redis may not do what Clipper does: "
            "'ACL SETUSER default on allkeys allchannels allcommands' allows it."
        )
    if isinstance(error, ReadOnlyError):
        return "This Redis is a read-only replica of another one: name the primary instead."
    if isinstance(error, RedisError) and "protected mode" in said:
        return (
            "This Redis is in protected mode and takes no clients from other machines: start it with "
            "'--protected-mode no' (and keep others away by the network)."
        )
    if isinstance(error, _CLUSTER_ERRORS) or (
        isinstance(error, ResponseError) and any(text in said for text in _SINGLE_DATABASE)
    ):
        return (
            "Clipper needs several databases, and a Redis in cluster mode has one: use one without cluster mode, with "
            "at least the usual 16 databases. Replicas of it and Sentinel are fine."
        )
    return ""


def explain(error: BaseException) -> str:
    """Describe an error, with advice if Redis refuses to serve Clipper."""
    reason = refusal(error)
    return f"{reason} (It says: {error})" if reason else str(error) or repr(error)


def refusal_at(host: str, port: int) -> str:
    """Return the text of `explain` for a Redis that refuses to serve Clipper; empty if it serves, or may serve later.

    It waits for the answer, so it is for programs without an event loop.
    """
    once = BlockingRetry(NoBackoff(), 0)
    with BlockingRedis(host, port, socket_timeout=_TRY_SECONDS, retry=once, **_UNNAMED) as client:
        try:
            client.eval(scripts.TRY.text, len(scripts.TRY.keys), *scripts.TRY.keys)
        except (*StoreError, UnicodeError) as error:  # for instance for a name that is not a valid host
            is_cut_off = isinstance(error, RedisConnectionError) and not refusal(error)
            answer = ResponseError(_said_unasked(host, port)) if is_cut_off else error
            return explain(answer) if refusal(answer) else ""
    return ""


def _said_unasked(host: str, port: int) -> str:
    """Return the text that a server sends to a client that writes nothing, which therefore gets no reset.

    A Redis in protected mode says why it refuses a client, and closes the connection without reading from it.
    """
    with contextlib.suppress(OSError), socket.create_connection((host, port), _TRY_SECONDS) as connection:
        return connection.recv(_UNASKED_BYTES).decode(errors="replace")
    return ""


class RedisClient:
    """The Redis at `host`:`port`. Calls raise `StoreError` when it does not answer within seconds."""

    def __init__(self, host: str, port: int) -> None:
        self.address = f"{host}:{port}"
        self._redis = Redis(
            host=host,
            port=port,
            socket_timeout=None,  # `_in_time` limits the time
            socket_connect_timeout=_CALL_SECONDS,
            retry=Retry(NoBackoff(), 1),  # a pooled connection may have died since its last use
            **_UNNAMED,
        )
        self._registered: dict[Script, AsyncScript] = {}

    async def close(self) -> None:
        await self._redis.aclose()

    async def run(self, script: Script, *args: str | bytes, keys: Iterable[str] = ()) -> Any:
        """Run a script by its digest. A Redis that does not have it, since it was restarted for instance, gets it."""
        if script not in self._registered:
            self._registered[script] = self._redis.register_script(script.text)
        return await _in_time(self._registered[script](keys=[*script.keys, *keys], args=args))

    async def listen(self, channel: str) -> AsyncGenerator[None, None]:
        """Yield once subscribed to a channel, and then after each message and at least each `CONFIG_POLL_SECONDS`."""
        async with self._redis.pubsub() as pubsub:
            await _in_time(pubsub.subscribe(channel))
            while True:
                yield
                await _wait_for_message(pubsub)


async def _in_time(call: Awaitable[Any]) -> Any:
    """Return the answer of Redis to `call`. Raises TimeoutError if there is none within `_CALL_SECONDS`."""
    # The client's own time limit is asyncio.wait_for, which in Python 3.11 may swallow the cancellation of a task.
    try:
        async with asyncio.timeout(_CALL_SECONDS):
            return await call
    except TimeoutError:
        raise TimeoutError(f"no answer within {_CALL_SECONDS:.0f} seconds") from None


async def _wait_for_message(pubsub: PubSub) -> None:
    deadline = time.monotonic() + CONFIG_POLL_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=left)
        if message is not None:
            return

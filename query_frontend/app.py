"""The composition root: makes the parts, connects them, and starts and stops them together."""

import asyncio
import contextlib
import gc
import itertools
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final

from aiohttp import web

from clipper_common import constants, webapp
from clipper_common.datatypes import ModelId
from clipper_common.errors import ClipperException
from clipper_common.records import Snapshot
from clipper_common.store import ConfigStore, StoreError, explain
from query_frontend.body_budget import BodyBudget, default_limit
from query_frontend.cache import PredictionCache
from query_frontend.config import Config
from query_frontend.deadlines import DeadlineWheel
from query_frontend.decoder import Decoder
from query_frontend.door import Door
from query_frontend.handlers import Handlers
from query_frontend.lane import LANE, Lane, close_all_idle, make_runner
from query_frontend.leaving import IDLE_SECONDS, Leaving
from query_frontend.loop_meter import LoopMeter, Turns, can_measure
from query_frontend.metrics import SERVING_WORKERS, Gauge, SystemMetrics
from query_frontend.presence import Presence
from query_frontend.query_processor import QueryContext
from query_frontend.readiness import Readiness
from query_frontend.registry import Registry
from query_frontend.relay import Relays
from query_frontend.rpc_server import RpcEvents, RpcServer
from query_frontend.seat import Seat
from query_frontend.siblings import Siblings
from query_frontend.task_executor import TaskExecutor

logger = logging.getLogger(__name__)

_GC_THRESHOLDS: Final = (50_000, 20, 50)
"""More objects than the queries under way are made of, so that these are not taken for old ones."""
_FIRST_CONFIGURATION_SECONDS: Final = 2.0
"""Without Redis for so long, HTTP is answered all the same: with 503."""
_RESTORE_SECONDS: Final = 5.0
_STRAGGLERS_SECONDS: Final = 1.0
"""For how many seconds a retiring worker waits for its clients, once its idle connections are closed."""
_FAREWELL_SECONDS: Final = 0.1
"""The same for a worker that ends with all others: requests that clients have just sent arrive meanwhile."""
_POLL_SECONDS: Final = 0.05


class QueryFrontend:
    def __init__(self, config: Config, loop: asyncio.AbstractEventLoop, worker: int = 0) -> None:
        self.config = config
        self.metrics = SystemMetrics()
        self.store = ConfigStore(config.redis_ip, config.redis_port)
        self.executor = TaskExecutor(loop, PredictionCache(config.prediction_cache_size), self.metrics)
        self.registry = Registry(self.metrics, self._configure_models)
        self.presence = Presence(self.store, self.registry, self.executor, config.advertise, config.cluster_id)
        self.executor.replicas_changed = self._on_replicas_changed
        self.rpc = self.executor.rpc = RpcServer(
            config.host,
            0 if worker else config.rpc_service_port,
            RpcEvents(
                joined=self.executor.on_joined,
                left=self.executor.on_left,
                answered=self.executor.on_answered,
                draining=self.executor.on_draining,
            ),
            self.metrics.rpc_request_queueing_delay,
        )
        self.presence.reported = self._on_reported
        context = QueryContext(self.executor, DeadlineWheel(loop))
        self.relays = Relays(context)
        query_ids = itertools.count()
        self.readiness = Readiness(self.registry, self.executor, self.presence)
        self.leaving = Leaving()
        self.decoder = Decoder()
        budget = BodyBudget(config.body_memory or default_limit(config.workers))
        self.metrics.body_memory = Gauge(lambda: {"held_max": str(budget.held_bytes), "limit": str(budget.limit)})
        self.handlers = Handlers(
            self.registry,
            context,
            self.metrics,
            query_ids,
            config.timeout_content,
            self.readiness,
            self.leaving,
            self.decoder,
            budget,
        )
        self.lane = Lane(self.registry, context, query_ids, config.timeout_content, self.leaving)
        slow_seconds = config.slow_turn_millis / 1000
        self.loop_meter: contextlib.AbstractContextManager[object] = (
            LoopMeter(slow_seconds, Turns(slow_seconds, self.metrics))
            if slow_seconds and can_measure()
            else contextlib.nullcontext()
        )
        self.patience_seconds: float = config.restore_seconds
        """How long others, which know the configuration, are given to write it back into a Redis that lost it."""
        self.configured: list[Callable[[Snapshot], Awaitable[None]]] = []
        """Who else is told of a new configuration."""

    def _configure_models(self, snapshot: Snapshot, slo_seconds: Mapping[ModelId, float]) -> None:
        self.executor.configure(snapshot.models, slo_seconds)
        self.relays.review()

    def _on_replicas_changed(self) -> None:
        self.presence.report_soon()
        self.relays.review()

    def _on_reported(self) -> None:
        peers = [peer.rpc_address for peer in self.presence.peers if peer.rpc_address]
        self.rpc.announce_frontends([self.presence.rpc_address, *peers])
        self.relays.meet(self.presence.peers)

    async def run(self, _: web.Application) -> AsyncIterator[None]:
        """Everything but HTTP, from start to stop. HTTP comes after the start, when there is something to serve."""
        self._listen()
        await self._claim_redis()
        tasks = [
            _start(self._follow_configuration()),
            _start(self.presence.keep_reporting()),
            _start(self.presence.follow_peers()),
        ]
        try:
            await self.registry.wait_until_loaded(_FIRST_CONFIGURATION_SECONDS)  # and may be stopped meanwhile
            _spare_queries_garbage_collection()
            with self.loop_meter:
                yield
        finally:
            await self._stop(tasks)

    async def _stop(self, tasks: list[asyncio.Task[None]]) -> None:
        await self.relays.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.decoder.close()
        with contextlib.suppress(*StoreError):
            await self.presence.retire()
        self.rpc.stop()
        await self.store.close()

    async def _claim_redis(self) -> None:
        """Refuse to share a Redis with another cluster. One that does not answer is waited for while serving."""
        try:
            await self.presence.report()
        except ClipperException as error:
            logger.error("%s", error)
            sys.exit(constants.EXIT_REDIS_TAKEN)
        except StoreError as error:
            logger.warning("Redis at %s does not answer yet: %s", self.store.address, explain(error))

    def _listen(self) -> None:
        try:
            self.presence.listens_on(self.rpc.start())
            self.rpc.announce_frontends([self.presence.rpc_address])
            self.relays.start(self.presence.id)
        except OSError as error:
            sys.exit(webapp.address_in_use(f"{self.config.host}:{self.config.rpc_service_port}", error))

    async def _follow_configuration(self) -> None:
        async for snapshot in self.store.follow(self.patience_seconds):
            self.registry.apply(snapshot)
            self.presence.report_soon()
            for tell in self.configured:
                await tell(snapshot)


def _spare_queries_garbage_collection() -> None:
    """A query leaves no cycles behind. What the program itself is made of need not be looked at again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


def _start(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    task = asyncio.create_task(work)
    task.add_done_callback(_die_of_failure)
    return task


def _die_of_failure(task: asyncio.Task[None]) -> None:
    """A part that must run for ever failed: end visibly, so that whoever supervises us starts us anew."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.critical("a part of the query frontend failed", exc_info=error)
        raise SystemExit(1)


async def create_app(config: Config) -> web.Application:
    return _make_app(QueryFrontend(config, asyncio.get_running_loop()))


def _make_app(parts: QueryFrontend) -> web.Application:
    app = webapp.create_app()
    app.middlewares.insert(0, parts.handlers.close_those_that_leave)
    app.add_routes(parts.handlers.routes())
    if parts.config.fast_lane:
        app[LANE] = parts.lane
    app.cleanup_ctx.append(parts.run)
    return app


class Worker:
    """A query frontend in its seat beside others."""

    def __init__(self, config: Config, seat: Seat) -> None:
        self._config = config
        self._seat = seat
        self._wanted = config.workers
        self._told = 0
        self._door: Door | None = None
        self._retires = False
        self._waits_for_clients = True

    async def make_app(self) -> web.Application:
        self._parts = QueryFrontend(self._config, asyncio.get_running_loop(), self._seat.number)
        self._parts.configured.append(self._follow_wanted)
        if not self._seat.is_needed:
            self._parts.patience_seconds = _RESTORE_SECONDS
        self._parts.metrics.workers = Gauge(lambda: {SERVING_WORKERS: str(self._seat.loads.serving)})
        self._siblings = Siblings(self._seat, self._parts.metrics.state)
        self._parts.handlers.report_metrics = self._siblings.report
        self._seat.keep_beating()
        self._seat.listen_to_owner(self._retire, self._end_as_orphan)
        return _make_app(self._parts)

    async def _follow_wanted(self, snapshot: Snapshot) -> None:
        in_redis = snapshot.workers if self._config.follow_workers else None
        self._wanted = in_redis or self._config.workers
        if self._seat.number == 0 and self._told != self._wanted:
            self._told = self._wanted
            self._seat.tell_wanted(self._wanted)
        if self._door is not None:
            await self._door.open(shared=self._wanted > 1)

    @contextlib.asynccontextmanager
    async def opened(self, runner: web.AppRunner) -> AsyncIterator[None]:
        """Accept connections, as many as the other workers do; then drain."""
        assert runner.server is not None
        if not self._seat.is_needed:
            await self._parts.readiness.wait()
        self._door = Door(self._seat, runner.server, self._parts.leaving)
        try:
            await self._door.open(shared=self._wanted > 1)
        except OSError as error:
            sys.exit(webapp.address_in_use(f"{self._config.host}:{self._config.port}", error))
        await self._siblings.start()
        self._seat.tell_serving()
        try:
            yield
        finally:
            await self._drain(self._door, runner.server)
            self._siblings.stop()

    def _retire(self) -> None:
        """Go, as the owner wants, while the others go on; told again, when they all go, without waiting."""
        if self._retires:
            self._waits_for_clients = False
            return
        self._retires = True
        os.kill(os.getpid(), signal.SIGTERM)

    def _end_as_orphan(self) -> None:
        """The owner was killed: do for it what it cannot do any more."""
        shutil.rmtree(self._seat.folder, ignore_errors=True)
        os._exit(1)

    async def _drain(self, door: Door, server: web.Server) -> None:
        """Let clients go without a reset: an answer closes its connection, and idle ones are closed after a while.

        The idle connections of a worker that retires go to the other workers instead.
        """
        self._door = None
        self._parts.readiness.is_draining = True
        self._parts.leaving.add_all()
        if self._retires:
            door.close()
            idle_until = time.monotonic() + min(self._config.timeout_request, IDLE_SECONDS)
            give_up = idle_until + _STRAGGLERS_SECONDS
            while server.connections and self._waits_for_clients and time.monotonic() < give_up:
                door.hand_over()
                if time.monotonic() > idle_until:
                    close_all_idle(server.connections)
                await asyncio.sleep(_POLL_SECONDS)
        else:
            await asyncio.sleep(self._config.drain_seconds)
            door.close()
        give_up = time.monotonic() + _FAREWELL_SECONDS
        while server.connections and time.monotonic() < give_up:
            close_all_idle(server.connections)
            await asyncio.sleep(_POLL_SECONDS)


def run(config: Config, seat: Seat) -> None:
    """Be a worker until SIGTERM, or until its owner does not need it any more."""
    worker = Worker(config, seat)
    webapp.serve(worker.make_app(), config.timeout_request, worker.opened, make_runner)

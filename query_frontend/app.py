"""The composition root: makes the parts, connects them, and starts and stops them together."""

import asyncio
import contextlib
import itertools
import logging
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

from aiohttp import web

from clipper_common import connections, constants, long_work, webapp
from clipper_common.body_budget import BodyBudget, default_limit
from clipper_common.config_store import ConfigStore
from clipper_common.datatypes import ModelId
from clipper_common.errors import ClipperException
from clipper_common.http_server import Server
from clipper_common.membership_store import MembershipStore
from clipper_common.records import Model
from clipper_common.redis_client import RedisClient, StoreError, explain
from clipper_common.snapshot import Snapshot
from clipper_common.waiting import TimeLimit
from query_frontend.cluster.membership import Membership
from query_frontend.cluster.readiness import Readiness
from query_frontend.cluster.relay import Relays
from query_frontend.config import Config
from query_frontend.http import inflation
from query_frontend.http.connection_drain import IDLE_SECONDS, ConnectionDrain
from query_frontend.http.decoder import Decoder
from query_frontend.http.fast_path import FastPath
from query_frontend.http.fast_path_connection import FAST_PATH, close_all_idle, make_runner
from query_frontend.http.handlers import Handlers
from query_frontend.monitoring.loop_meter import LoopMeter, Turns, can_measure
from query_frontend.monitoring.metric_kinds import SERVING_WORKERS
from query_frontend.monitoring.metrics import SystemMetrics
from query_frontend.monitoring.reporting import report_of
from query_frontend.rpc.server import RpcEvents, RpcServer
from query_frontend.serving.cache import PredictionCache
from query_frontend.serving.deadlines import DeadlineWheel
from query_frontend.serving.executor import Executor
from query_frontend.serving.query import QueryContext
from query_frontend.serving.registry import Registry
from query_frontend.workers import allocator
from query_frontend.workers.acceptor import Acceptor
from query_frontend.workers.context import WorkerContext
from query_frontend.workers.garbage_collection import GarbageCollection
from query_frontend.workers.kept_configuration import KeptConfiguration
from query_frontend.workers.worker_metrics import WorkerMetrics

logger = logging.getLogger(__name__)

_FIRST_CONFIGURATION_SECONDS: Final = 2.0
"""Seconds for which a start waits for Redis. After that, HTTP requests are answered with 503."""
_RESTORE_SECONDS: Final = 5.0
_STRAGGLERS_SECONDS: Final = 1.0
"""Seconds for which a retiring worker waits for its clients after its idle connections are closed."""
_FAREWELL_SECONDS: Final = 0.1
"""The same for a worker that ends with all others: requests that clients have just sent arrive meanwhile."""
_POLL_SECONDS: Final = 0.05
_SHORT_UNREAD_SECONDS: Final = 3.0
"""Seconds after which a client that reads nothing of its answer is disconnected while memory is short."""


class WorkerParts(NamedTuple):
    """The parts of a query frontend that depend on the worker in which it runs."""

    number: int
    metrics: WorkerMetrics
    kept: KeptConfiguration
    """The store of the last configuration, for the successor of this worker."""
    restore_seconds: float
    """Seconds in which other frontends may write their configuration back into a Redis that lost it."""
    configured: Callable[[Snapshot], Awaitable[None]]
    """Called with each new configuration."""


class QueryFrontend:
    """The parts of a query frontend, or of one of its workers: it makes each, connects them, and starts and stops them.

    It owns the Redis client, the RPC server, the executor, the registry, the relays and the HTTP handlers. `Worker`
    makes one in each process, or `create_app` where there is no supervisor, and aiohttp runs it from the start of the
    application to its end. All parts live on the event loop of the main thread.
    """

    def __init__(
        self,
        config: Config,
        loop: asyncio.AbstractEventLoop,
        metrics: SystemMetrics,
        worker: WorkerParts | None = None,
    ) -> None:
        self.config = config
        self.metrics = metrics
        self._worker = worker
        self.redis = RedisClient(config.redis_ip, config.redis_port)
        self.store = ConfigStore(self.redis)
        self.rpc = RpcServer(
            config.host,
            0 if worker is not None and worker.number else config.rpc_service_port,
            metrics.rpc_request_queueing_delay,
        )
        self.executor = Executor(
            loop,
            self.rpc,
            PredictionCache(config.prediction_cache_size),
            self.metrics,
            self._on_replicas_changed,
            config.blame_seconds,
        )
        self.registry = Registry(self.metrics, self._configure_models)
        self.membership = Membership(
            MembershipStore(self.redis),
            self.registry,
            self.executor,
            config.advertise,
            config.cluster_id,
            self._on_reported,
        )
        budget = self._budget = BodyBudget(config.body_memory or default_limit(config.workers))
        context = QueryContext(self.executor, DeadlineWheel(loop))
        self.relays = Relays(context)
        query_ids = itertools.count()
        self.readiness = Readiness(self.registry, self.executor, self.membership)
        self.draining = ConnectionDrain()
        self.decoder = Decoder()
        self.limits = connections.Limits(
            config.max_connections or connections.default_limit(),
            lambda: _SHORT_UNREAD_SECONDS if budget.is_short() else constants.UNREAD_SECONDS,
            budget.count_more,
        )
        metrics.body_memory.read_with(lambda: {"held_max": str(budget.held_bytes), "limit": str(budget.limit)})
        self.handlers = Handlers(
            self.registry,
            context,
            partial(report_of, metrics) if worker is None else worker.metrics.report,
            query_ids,
            config.timeout_content,
            self.readiness,
            self.draining,
            self.decoder,
            budget,
        )
        self.fast_path = FastPath(self.registry, context, query_ids, config.timeout_content, self.draining)
        self.loop_meter = self._make_loop_meter(config.slow_turn_millis / 1000)

    def _make_loop_meter(self, slow_seconds: float) -> contextlib.AbstractContextManager[object]:
        if not slow_seconds or not can_measure():
            return contextlib.nullcontext()
        turns = Turns(slow_seconds, self.metrics)
        self.metrics.longest_turn.read_with(turns.longest)
        return LoopMeter(slow_seconds, turns)

    def _configure_models(self, models: Mapping[ModelId, Model | None], slo_seconds: Mapping[ModelId, float]) -> None:
        self.executor.configure(models, slo_seconds)
        self.relays.review_soon()

    def _on_replicas_changed(self) -> None:
        self.membership.report_soon()
        self.relays.review_soon()

    def _on_reported(self) -> None:
        peers = [peer.rpc_address for peer in self.membership.other_frontends if peer.rpc_address]
        self.rpc.announce_frontends([self.membership.rpc_address, *peers])
        self.relays.update_other_frontends(self.membership.other_frontends)

    async def run(self, _: web.Application) -> AsyncIterator[None]:
        """Run all parts except HTTP during the block. HTTP starts when there is a configuration."""
        self._listen()
        await self._claim_redis()
        tasks = [
            _start(self._follow_configuration()),
            _start(self.membership.keep_reporting()),
            _start(self.membership.follow_other_frontends()),
        ]
        if self._worker is not None:
            tasks.append(_start(self._worker.kept.keep_writing()))
        try:
            await self.registry.wait_until_loaded(_FIRST_CONFIGURATION_SECONDS)  # the start may be cancelled meanwhile
            with GarbageCollection(), self.loop_meter:
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
            await self.membership.retire()
        self.rpc.stop()
        await self.redis.close()

    async def _claim_redis(self) -> None:
        """Exit if another cluster uses this Redis. If Redis does not answer, go on: it is awaited while serving."""
        try:
            await self.membership.report()
        except ClipperException as error:
            logger.error("%s", error)
            sys.exit(constants.EXIT_REDIS_TAKEN)
        except StoreError as error:
            logger.warning("Redis at %s does not answer yet: %s", self.redis.address, explain(error))

    def _listen(self) -> None:
        try:
            self.membership.listens_on(self.rpc.start(self._rpc_events()))
            self.rpc.announce_frontends([self.membership.rpc_address])
            self.relays.start(self.membership.id)
        except OSError as error:
            sys.exit(webapp.address_in_use(f"{self.config.host}:{self.config.rpc_service_port}", error))

    def _rpc_events(self) -> RpcEvents:
        return RpcEvents(
            replica_joined=self.executor.on_replica_joined,
            replica_lost=self.executor.on_replica_lost,
            batch_answered=self.executor.on_batch_answered,
            replica_draining=self.executor.on_replica_draining,
            held=self._budget.count_more,
        )

    async def _follow_configuration(self) -> None:
        worker = self._worker
        kept = None if worker is None else worker.kept.load()
        restore_seconds = self.config.restore_seconds if worker is None else worker.restore_seconds
        async for update in self.store.follow(restore_seconds, kept):
            await self.registry.apply(update)
            self.membership.report_soon()
            if worker is not None:
                worker.kept.keep(update.snapshot)
                await worker.configured(update.snapshot)


def _start(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    task = asyncio.create_task(work)
    task.add_done_callback(_die_of_failure)
    return task


def _die_of_failure(task: asyncio.Task[None]) -> None:
    """Exit because a long-running task failed, so that the supervisor starts this program again."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.critical("a part of the query frontend failed", exc_info=error)
        raise SystemExit(1)


async def create_app(config: Config) -> web.Application:
    return _make_app(QueryFrontend(config, asyncio.get_running_loop(), SystemMetrics()))


def _make_app(parts: QueryFrontend) -> web.Application:
    app = webapp.create_app(parts.config.max_body_bytes)
    app.middlewares.insert(0, parts.handlers.close_those_that_leave)
    app.add_routes(parts.handlers.routes())
    app[webapp.LIMITS] = parts.limits
    app[webapp.BODY_LIMIT] = parts.handlers.body_limit
    if parts.config.inflate_bodies:
        app[webapp.INFLATED] = inflation.ENCODINGS
    if parts.config.fast_lane:
        app[FAST_PATH] = parts.fast_path
    app.cleanup_ctx.append(parts.run)
    return app


class Worker:
    """A process of a query frontend that answers HTTP requests on the port that all workers share."""

    def __init__(self, config: Config, context: WorkerContext) -> None:
        self._config = config
        self._context = context
        self._wanted = config.workers
        self._told = 0
        self._acceptor: Acceptor | None = None
        self._retires = False
        self._waits_for_clients = True

    async def make_app(self) -> web.Application:
        metrics = SystemMetrics()
        metrics.workers.read_with(lambda: {SERVING_WORKERS: str(self._context.counts.serving)})
        self._worker_metrics = WorkerMetrics(self._context, metrics)
        worker = WorkerParts(
            self._context.number,
            self._worker_metrics,
            KeptConfiguration(self._context.folder, self._context.number),
            self._config.restore_seconds if self._context.is_needed else _RESTORE_SECONDS,
            self._follow_wanted,
        )
        self._parts = QueryFrontend(self._config, asyncio.get_running_loop(), metrics, worker)
        self._context.keep_beating()
        self._context.listen_to_supervisor(self._retire, self._end_as_orphan)
        return _make_app(self._parts)

    async def _follow_wanted(self, snapshot: Snapshot) -> None:
        in_redis = snapshot.workers if self._config.follow_workers else None
        self._wanted = in_redis or self._config.workers
        if self._context.number == 0 and self._told != self._wanted:
            self._told = self._wanted
            self._context.tell_wanted(self._wanted)
        if self._acceptor is not None:
            await self._acceptor.open(shared=self._wanted > 1)

    @contextlib.asynccontextmanager
    async def opened(self, runner: webapp.Runner) -> AsyncIterator[None]:
        """Accept a fair share of the connections during the block; then drain."""
        assert runner.server is not None
        server, limit = runner.server, self._parts.limits.connections
        self._parts.metrics.connections.read_with(
            lambda: {"open_max": str(len(server.open_connections)), "limit": str(limit)}
        )
        if not self._context.is_needed:
            await self._parts.readiness.wait()
        self._acceptor = Acceptor(self._context, server, self._parts.draining, limit)
        try:
            await self._acceptor.open(shared=self._wanted > 1)
        except OSError as error:
            sys.exit(webapp.address_in_use(f"{self._config.host}:{self._config.port}", error))
        await self._worker_metrics.start()
        self._context.tell_serving()
        try:
            yield
        finally:
            await self._drain(self._acceptor, runner.server)
            self._worker_metrics.stop()

    def _retire(self) -> None:
        """End on the supervisor's order while other workers go on; ordered again, end without waiting for clients."""
        if self._retires:
            self._waits_for_clients = False
            return
        self._retires = True
        os.kill(os.getpid(), signal.SIGTERM)

    def _end_as_orphan(self) -> None:
        """Remove the folder of a supervisor that was killed, and end."""
        shutil.rmtree(self._context.folder, ignore_errors=True)
        os._exit(1)

    async def _drain(self, acceptor: Acceptor, server: Server) -> None:
        """Close all connections without a reset: with the next answer, or after a while if they are idle.

        The idle connections of a worker that retires are handed over to the other workers instead.
        """
        self._acceptor = None
        self._parts.readiness.drain()
        self._parts.draining.add_all()
        if self._retires:
            acceptor.close()
            idle_seconds = min(self._config.timeout_request, IDLE_SECONDS)
            limit = TimeLimit(idle_seconds + _STRAGGLERS_SECONDS)
            async for _ in limit.attempts(_POLL_SECONDS):
                if not (server.open_connections and self._waits_for_clients):
                    break
                acceptor.hand_over()
                if limit.elapsed_seconds > idle_seconds:
                    await long_work.finish(close_all_idle(server.open_connections))
        else:
            await asyncio.sleep(self._config.drain_seconds)
            acceptor.close()
        async for _ in TimeLimit(_FAREWELL_SECONDS).attempts(_POLL_SECONDS):
            if not server.open_connections:
                break
            await long_work.finish(close_all_idle(server.open_connections))


def run(config: Config, context: WorkerContext) -> None:
    """Run a worker until SIGTERM, or until the supervisor retires it."""
    allocator.keep_freed_memory()
    worker = Worker(config, context)
    webapp.serve(worker.make_app(), config.timeout_request, worker.opened, make_runner)

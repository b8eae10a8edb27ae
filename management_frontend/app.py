"""The composition root: makes the parts of the program, and starts and stops them."""

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator, Coroutine
from typing import Final, NoReturn

from aiohttp import web

from clipper_common import webapp
from clipper_common.body_budget import BodyBudget
from clipper_common.config_store import ConfigStore
from clipper_common.constants import (
    CONFIG_POLL_SECONDS,
    EXIT_REDIS_REFUSES,
    EXIT_REDIS_TAKEN,
    IDLE_CONNECTION_SECONDS,
)
from clipper_common.errors import ClipperException
from clipper_common.membership_store import MembershipStore
from clipper_common.redis_client import RedisClient, StoreError, explain, refusal
from management_frontend.config import Config
from management_frontend.handlers import (
    BORDER,
    BUDGET,
    FOLLOW_WORKERS,
    MEMBERS,
    ROUTES,
    SERVICE,
    STORE,
    errors_as_text,
    refuse_web_pages,
)
from management_frontend.origins import Border
from management_frontend.service import ChangeService

logger = logging.getLogger(__name__)

_RETRY_SECONDS: Final = 0.2
_LEASE_REFRESH_SECONDS: Final = 2.0
_BODIES_AT_A_TIME: Final = 4
"""The number of bodies of the largest size that fit into the budget."""


def run(config: Config) -> None:
    webapp.configure_logging()
    webapp.run(create_app(config), config.host, config.port, IDLE_CONNECTION_SECONDS)


def create_app(config: Config) -> web.Application:
    app = webapp.create_app(config.max_body_bytes)
    app.middlewares.extend([refuse_web_pages, errors_as_text])
    app.add_routes(ROUTES)
    redis = RedisClient(config.redis_ip, config.redis_port)
    store = app[STORE] = ConfigStore(redis)
    members = app[MEMBERS] = MembershipStore(redis)
    app[SERVICE] = ChangeService(store, members)
    app[BUDGET] = BodyBudget(_BODIES_AT_A_TIME * config.max_body_bytes)
    app[FOLLOW_WORKERS] = config.follow_workers
    app[BORDER] = Border(config.host, config.allowed_origins, config.allowed_hosts)

    async def lifetime(_: web.Application) -> AsyncIterator[None]:
        async with _open(redis, store, members, config.cluster_id):
            logger.info("starting on %s:%d with Redis at %s", config.host, config.port, redis.address)
            yield

    app.cleanup_ctx.append(lifetime)
    return app


@contextlib.asynccontextmanager
async def _open(
    redis: RedisClient, store: ConfigStore, members: MembershipStore, cluster_id: str | None
) -> AsyncIterator[None]:
    try:
        await _wait_for_redis(store)
        async with _task(_reread(store)), _claimed(members, cluster_id):
            yield
    finally:
        await redis.close()


@contextlib.asynccontextmanager
async def _claimed(members: MembershipStore, cluster_id: str | None) -> AsyncIterator[None]:
    """Claim this Redis for the cluster during the block, if the cluster has an id; exit if another one uses it."""
    if cluster_id is None:
        yield
        return
    try:
        await _claim(members, cluster_id)
    except StoreError as error:
        _exit_if_refused(members.address, error)
        raise
    try:
        async with _task(_keep_claim(members, cluster_id)):
            yield
    finally:
        with contextlib.suppress(*StoreError):
            await members.release(cluster_id)


@contextlib.asynccontextmanager
async def _task(work: Coroutine[None, None, NoReturn]) -> AsyncIterator[None]:
    """Run `work` during the block, and cancel it at the end."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _wait_for_redis(store: ConfigStore) -> None:
    waiting = False
    while True:
        try:
            await store.read()
            return
        except StoreError as error:
            _exit_if_refused(store.address, error)
            if not waiting:
                logger.warning("waiting for Redis at %s: %s", store.address, error)
                waiting = True
            await asyncio.sleep(_RETRY_SECONDS)


async def _reread(store: ConfigStore) -> NoReturn:
    """Read the configuration regularly, to notice changes by programs that do not increment the revision."""
    while True:
        await asyncio.sleep(CONFIG_POLL_SECONDS)
        with contextlib.suppress(*StoreError):
            await store.read_if_due()


def _exit_if_refused(address: str, error: BaseException) -> None:
    if refusal(error):
        logger.error("Redis at %s cannot be used: %s", address, explain(error))
        sys.exit(EXIT_REDIS_REFUSES)


async def _claim(members: MembershipStore, cluster_id: str) -> None:
    try:
        await members.claim(cluster_id)
    except ClipperException as error:
        logger.error("%s", error)
        sys.exit(EXIT_REDIS_TAKEN)


async def _keep_claim(members: MembershipStore, cluster_id: str) -> NoReturn:
    while True:
        await asyncio.sleep(_LEASE_REFRESH_SECONDS)
        # If Redis is unavailable, the claim is renewed once it is back.
        with contextlib.suppress(*StoreError):
            await _claim(members, cluster_id)

"""Serves Prometheus text: ``python -m query_frontend.exporter --query_frontend_name <host>:<port>``.

The metrics are those of a query frontend's JSON ``/metrics`` and, with ``--targets_file``, those of the model
containers that a file in Prometheus' file_sd format lists. Targets that cannot be reached are left out.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector, CollectorRegistry

from clipper_common import jsontext, webapp
from clipper_common.constants import IDLE_CONNECTION_SECONDS, METRIC_PORT
from clipper_common.errors import JsonError
from clipper_common.options import Options, option

FRONTEND_UP: Final = "clipper_exporter_frontend_up"

_SCRAPE_SECONDS: Final = 4.0
"""Seconds for a scrape: less than the five that Prometheus waits; a frontend with 10,000 applications needs two or
three."""
_NOT_IN_NAMES: Final = re.compile(r"[^a-zA-Z0-9_]")
_UNREACHABLE: Final = (aiohttp.ClientError, TimeoutError, OSError, ValueError)

Labels = dict[str, str]


@dataclass(frozen=True)
class Config(Options):
    """Options of the metrics exporter, which serves the metrics of a cluster as Prometheus text."""

    query_frontend_name: str = option(MISSING, "HOST:PORT of the query frontend whose metrics to serve")
    host: str = option("0.0.0.0", "address to listen on")
    port: int = option(METRIC_PORT, "port to listen on")
    targets_file: Path | None = option(None, "file_sd list of model containers whose metrics to add", Path)


_CONFIG: Final = web.AppKey("config", Config)
_SESSION: Final = web.AppKey("session", aiohttp.ClientSession)


class Target(NamedTuple):
    """A model container that serves metrics."""

    address: str
    labels: Labels


# --- logic without I/O ---


def frontend_gauges(report: dict[str, Any]) -> dict[str, float]:
    """Return the numbers in a query frontend's report, by their names for Prometheus."""
    leaves = [leaf for category in report.values() for metric in category for leaf in _leaves(metric)]
    gauges: dict[str, float] = {}
    for path, text in leaves:
        # "a-b" and "a_b" become one name, which may appear only once.
        gauges.setdefault(_NOT_IN_NAMES.sub("_", path), text)
    return gauges


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}_{key}" if path else key)
    elif path and (number := _number(value)) is not None:
        yield path, number


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def parse_targets(text: str) -> list[Target]:
    """Return the targets in a file of Prometheus' file_sd format. Raises ValueError if it is malformed."""
    try:
        return [
            Target(address, {name: str(label) for name, label in group.get("labels", {}).items()})
            for group in json.loads(text)
            for address in group["targets"]
        ]
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"the targets are not in Prometheus' file_sd format: {error!r}") from None


def merge(scrapes: Sequence[tuple[Labels, list[Metric]]]) -> dict[str, Metric]:
    """Merge the metrics of several targets; each sample gets the labels of its target."""
    merged: dict[str, Metric] = {}
    for labels, families in scrapes:
        for family in families:
            known = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            known.samples += [sample._replace(labels=sample.labels | labels) for sample in family.samples]
    return merged


class _Families(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def render(gauges: dict[str, float], merged: dict[str, Metric]) -> bytes:
    """Return the metrics as Prometheus text. A gauge replaces a merged metric of the same name."""
    own = [GaugeMetricFamily(name, "help", value) for name, value in gauges.items()]
    others = [family for name, family in merged.items() if name not in gauges]
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families([*own, *others]))
    return generate_latest(registry)


# --- I/O ---


async def metrics(request: web.Request) -> web.Response:
    """Answer GET /metrics."""
    config, session = request.app[_CONFIG], request.app[_SESSION]
    gauges, merged = await asyncio.gather(
        _ask_frontend(session, config.query_frontend_name),
        _ask_targets(session, config.targets_file),
    )
    return web.Response(body=render(gauges, merged), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _ask_frontend(session: aiohttp.ClientSession, address: str) -> dict[str, float]:
    try:
        report = jsontext.parse_object((await _get(session, address)).encode())
        return frontend_gauges(report) | {FRONTEND_UP: 1.0}
    except (*_UNREACHABLE, TypeError, JsonError):
        return {FRONTEND_UP: 0.0}


async def _ask_targets(session: aiohttp.ClientSession, targets_file: Path | None) -> dict[str, Metric]:
    try:
        targets = parse_targets(targets_file.read_text()) if targets_file else []
    except (OSError, ValueError):
        return {}
    scrapes = await asyncio.gather(*(_scrape(session, target) for target in targets))
    return merge([scrape for scrape in scrapes if scrape])


async def _scrape(session: aiohttp.ClientSession, target: Target) -> tuple[Labels, list[Metric]] | None:
    try:
        text = await _get(session, target.address)
        return target.labels, list(text_string_to_metric_families(text))
    except (*_UNREACHABLE, LookupError):  # the parser raises IndexError for some malformed texts
        return None


async def _get(session: aiohttp.ClientSession, address: str) -> str:
    async with session.get(f"http://{address}/metrics") as response:
        response.raise_for_status()
        return await response.text()


async def _client_session(app: web.Application) -> AsyncIterator[None]:
    timeout = aiohttp.ClientTimeout(total=_SCRAPE_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as app[_SESSION]:
        yield


def create_app(config: Config) -> web.Application:
    app = webapp.create_app()
    app[_CONFIG] = config
    app.cleanup_ctx.append(_client_session)
    app.router.add_get("/metrics", metrics)
    return app


def main() -> None:
    """Serve until SIGTERM."""
    webapp.configure_logging()
    config = Config.parse()
    webapp.run(create_app(config), config.host, config.port, IDLE_CONNECTION_SECONDS)

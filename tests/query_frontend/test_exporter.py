"""The exporter, against small servers in place of a query frontend and of model containers."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from query_frontend.exporter import server as exporter

REPORT = {
    "counters": [
        {"internal:prediction_cache_lookups": {"count": "12"}},
        {"app:simple-example:num_predictions": {"count": "7"}},
    ],
    "ratio_counters": [{"app:simple-example:default_prediction_ratio": {"ratio": "nan"}}],
    "meters": [{"internal:aggregate_model_throughput": {"unit": "events per second", "rate": "1.5", "rate_1min": -1}}],
    "histograms": [{"model:m:1.0:prediction_latency": {"unit": "microseconds", "p99": "250.5"}}],
}

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
"""Values by name and sorted labels."""
Serve = Callable[[bytes], Awaitable[str]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Start a server that answers /metrics with some bytes; its address."""
    servers: list[TestServer] = []

    async def start(body: bytes) -> str:
        async def answer(request: web.Request) -> web.Response:
            return web.Response(body=body, content_type="text/plain")

        app = web.Application()
        app.router.add_get("/metrics", answer)
        servers.append(TestServer(app))
        await servers[-1].start_server()
        return f"127.0.0.1:{servers[-1].port}"

    yield start
    for server in servers:
        await server.close()


async def scrape(
    frontend: str, targets_file: Path | None = None
) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return the metrics of the exporter, as Prometheus reads them."""
    app = exporter.create_app(exporter.Config(query_frontend_name=frontend, targets_file=targets_file))
    async with TestClient(TestServer(app)) as client, client.get("/metrics") as response:
        assert response.status == 200
        assert response.content_type == "text/plain"
        families = list(text_string_to_metric_families(await response.text()))
    assert len({family.name for family in families}) == len(families)
    samples = [sample for family in families for sample in family.samples]
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in samples}


def model_metrics(batches: int) -> bytes:
    registry = CollectorRegistry()
    Counter("clipper_mc_pred", "Batches", registry=registry).inc(batches)
    Histogram("clipper_mc_handle_time_ms", "Time", registry=registry, buckets=[5, 10]).observe(7)
    Gauge("own", "A gauge of the user", ["kind"], registry=registry).labels("x").set(3)
    return generate_latest(registry)


def write_targets(path: Path, *addresses: str) -> Path:
    labels = [{"model": "m", "version": "1", "replica": f"m_1-{number}"} for number in range(len(addresses))]
    groups = [{"targets": [address], "labels": label} for address, label in zip(addresses, labels, strict=True)]
    path.write_text(json.dumps(groups))
    return path


async def test_gauges_of_the_frontend(serve: Serve) -> None:
    found = await scrape(await serve(json.dumps(REPORT).encode()))
    assert found.pop(("app_simple_example_default_prediction_ratio_ratio", ())) != 0  # not a number
    assert found == {
        ("internal_prediction_cache_lookups_count", ()): 12.0,
        ("app_simple_example_num_predictions_count", ()): 7.0,
        ("internal_aggregate_model_throughput_rate", ()): 1.5,
        ("internal_aggregate_model_throughput_rate_1min", ()): -1.0,
        ("model_m_1_0_prediction_latency_p99", ()): 250.5,
        ("clipper_exporter_frontend_up", ()): 1.0,
    }


def test_one_gauge_for_names_that_become_one() -> None:
    report = {"counters": [{"app:a-b:n": {"count": "1"}}, {"app:a_b:n": {"count": "2"}}]}
    assert exporter.frontend_gauges(report) == {"app_a_b_n_count": 1.0}


@pytest.mark.parametrize(
    "body", [b"", b"not json", b"[1]", b'{"counters": 7}', b'{"counters": ["x"]}', b'{"counters": ["5"]}', b"\xff"]
)
async def test_frontend_that_talks_nonsense(serve: Serve, body: bytes) -> None:
    found = await scrape(await serve(body))
    assert set(found) == {("clipper_exporter_frontend_up", ())}


async def test_unreachable_frontend_costs_only_its_gauges(serve: Serve, free_port: int, tmp_path: Path) -> None:
    targets = write_targets(tmp_path / "targets.json", await serve(model_metrics(1)))
    found = await scrape(f"127.0.0.1:{free_port}", targets)
    assert found["clipper_exporter_frontend_up", ()] == 0.0
    assert any(name == "clipper_mc_pred_total" for name, _ in found)


async def test_targets_get_their_labels(serve: Serve, tmp_path: Path) -> None:
    addresses = [await serve(model_metrics(number)) for number in (1, 2)]
    found = await scrape(await serve(json.dumps(REPORT).encode()), write_targets(tmp_path / "t.json", *addresses))
    for number in (0, 1):
        labels = (("model", "m"), ("replica", f"m_1-{number}"), ("version", "1"))
        assert found["clipper_mc_pred_total", labels] == number + 1
        assert found["own", (("kind", "x"), *labels)] == 3
        assert found["clipper_mc_handle_time_ms_count", labels] == 1
        assert found["clipper_mc_handle_time_ms_bucket", (("le", "5.0"), *labels)] == 0
        assert found["clipper_mc_handle_time_ms_bucket", (("le", "10.0"), *labels)] == 1


async def test_dead_and_broken_targets_are_skipped(serve: Serve, free_port: int, tmp_path: Path) -> None:
    bad = [f"127.0.0.1:{free_port}", await serve(b"{{{ nonsense"), await serve(b"\xff\xfe")]
    bad.append(await serve(b'a_total{b="c", ="e"} 1'))
    targets = write_targets(tmp_path / "t.json", *bad, await serve(model_metrics(5)))
    found = await scrape(await serve(json.dumps(REPORT).encode()), targets)
    totals = {labels: value for (name, labels), value in found.items() if name == "clipper_mc_pred_total"}
    assert totals == {(("model", "m"), ("replica", "m_1-4"), ("version", "1")): 5.0}


async def test_hanging_target_costs_only_its_time(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "_SCRAPE_SECONDS", 0.2)
    connections: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda reader, writer: connections.append(writer), "127.0.0.1", 0)
    async with server:
        hanging = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        found = await scrape(await serve(json.dumps(REPORT).encode()), write_targets(tmp_path / "t.json", hanging))
        for connection in connections:
            connection.close()
    assert found["clipper_exporter_frontend_up", ()] == 1.0


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"labels": {}}]', "{}7", '[{"targets": ["a:1"], "labels": 7}]'])
async def test_bad_targets_file(serve: Serve, tmp_path: Path, text: str) -> None:
    path = tmp_path / "targets.json"
    path.write_text(text)
    found = await scrape(await serve(json.dumps(REPORT).encode()), path)
    assert found["clipper_exporter_frontend_up", ()] == 1.0
    with pytest.raises(ValueError):
        exporter.parse_targets(text)


async def test_targets_are_read_for_each_scrape(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "targets.json"
    frontend = await serve(json.dumps(REPORT).encode())
    assert not any(name == "clipper_mc_pred_total" for name, _ in await scrape(frontend, path))
    write_targets(path, await serve(model_metrics(1)))
    assert any(name == "clipper_mc_pred_total" for name, _ in await scrape(frontend, path))


async def test_other_routes_are_json_errors(free_port: int) -> None:
    app = exporter.create_app(exporter.Config(query_frontend_name=f"127.0.0.1:{free_port}", targets_file=None))
    async with TestClient(TestServer(app)) as client, client.get("/nowhere") as response:
        assert response.status == 404
        assert "cause" in await response.json()


async def test_program(serve: Serve, free_port: int) -> None:
    frontend = await serve(json.dumps(REPORT).encode())
    command = [sys.executable, "-m", "query_frontend.exporter", "--query_frontend_name", frontend]
    with subprocess.Popen([*command, "--host", "127.0.0.1", f"--port={free_port}"]) as program:
        try:
            text = await _get_when_up(f"http://127.0.0.1:{free_port}/metrics")
        finally:
            os.kill(program.pid, signal.SIGTERM)
        assert "internal_prediction_cache_lookups_count 12.0" in text
        assert await asyncio.to_thread(program.wait, 10) == 0


async def _get_when_up(url: str) -> str:
    async with asyncio.timeout(10), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(url) as response:
                    return await response.text()
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.02)

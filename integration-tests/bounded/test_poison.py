"""Tests that an input that kills a model's process delays other queries, but does not cost them their answers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from managers import MANAGERS
from open_loop import NEEDS_GENERATOR, Load, Outcome, RunningLoad

from bench.workloads import MARK
from clipper_admin import ClipperConnection
from clipper_admin.deployers.python import create_endpoint

pytestmark = [
    pytest.mark.integration,
    pytest.mark.alone,
    NEEDS_GENERATOR,
    pytest.mark.timeout(120),
]

RATE = 200
SECONDS = 14
GRACE_SECONDS = 10.0
POISON = -1.0


def fragile(inputs: Any) -> Any:
    import os

    if any(each[0] == POISON for each in inputs):
        os._exit(7)
    return [int(each[0]) for each in inputs]


@pytest.fixture
def conn(clipper_home: Path) -> Iterator[ClipperConnection]:
    conn = ClipperConnection(MANAGERS["process"]("poison"))
    conn.start_clipper()
    try:
        create_endpoint(conn, "app", "doubles", fragile, slo_micros=500_000, num_replicas=2)
        yield conn
    finally:
        conn.stop_all()


def test_every_tenth_query_is_poison(conn: ClipperConnection) -> None:
    port = urlsplit(f"http://{conn.get_query_addr()}").port or 0
    good = _load(port, 0.9, b'{"input":[%b]}' % MARK)
    poison = _load(port, 0.1, b'{"input":[%g]}' % POISON)
    with RunningLoad(good) as running, RunningLoad(poison):
        result = running.result()
    late = result.after(GRACE_SECONDS)
    print(result.reasons, late.count(Outcome.OK))
    assert set(result.outcome) <= {Outcome.OK, Outcome.DEFAULT}, "nothing is lost or wrong"
    assert set(late.outcome) == {Outcome.OK}
    assert not result.surplus


def _load(port: int, share: float, body: bytes) -> Load:
    return Load(port, "/app/predict", share * RATE, SECONDS, 100, body=body, arrivals="uniform", is_echoed=True)

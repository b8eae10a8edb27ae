"""Compressed bodies: refused, unless the frontend was started to inflate them."""

import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper_common.constants import SIZE_LIMITS
from query_frontend.http import inflation
from query_frontend.http.inflation import InflationError, TooLargeError
from tests.query_frontend.conftest import Frontend, running_frontend
from tests.steps import in_steps

MOST = 1 << 20


@given(st.lists(st.binary(max_size=300_000), min_size=1, max_size=3), st.sampled_from([gzip.compress, zlib.compress]))
def test_what_was_compressed_comes_back(parts: list[bytes], compress: Any) -> None:
    """Also where it was compressed in several parts."""
    assert in_steps(inflation.inflate(map(compress, parts), MOST))[0] == b"".join(parts)


def test_a_step_makes_no_more_than_a_piece() -> None:
    body, many = in_steps(inflation.inflate([gzip.compress(bytes(MOST))], MOST))
    assert body == bytes(MOST)
    assert many >= MOST // inflation._PIECE_BYTES


def test_a_bomb_is_not_inflated_beyond_the_limit() -> None:
    steps = inflation.inflate([gzip.compress(bytes(50 * MOST))], MOST)
    many = 0
    with pytest.raises(TooLargeError):
        for _ in steps:
            many += 1
    assert many <= MOST // inflation._PIECE_BYTES


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", gzip.compress(b"x" * 1000)[:-1], gzip.compress(b"x") + b"more"],
    ids=["empty", "plain", "cut off", "followed by more"],
)
def test_what_is_malformed_is_refused(body: bytes) -> None:
    with pytest.raises(InflationError):
        in_steps(inflation.inflate([body], MOST))


@pytest.fixture(scope="module")
def inflating(redis_port_of_module: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Frontend]:
    log = tmp_path_factory.mktemp("inflation") / "frontend.log"
    with running_frontend(redis_port_of_module, log, inflate_bodies=1, max_body_bytes=MOST) as frontend:
        frontend.serve("app", slo_ms=1)
        yield frontend


def padded(size: int) -> bytes:
    body = json.dumps({"input": [1.0]}).encode()
    return b" " * (size - len(body)) + body


@pytest.mark.integration
@pytest.mark.parametrize("path", ["/app/predict", "/app/update"])
@pytest.mark.parametrize(
    ("encoding", "body", "status", "cause"),
    [
        ("gzip", gzip.compress(padded(100)), 200, ""),
        ("GZip", gzip.compress(padded(MOST)), 200, ""),
        ("deflate", zlib.compress(padded(SIZE_LIMITS[0])), 200, ""),
        ("gzip", gzip.compress(padded(MOST + 1)), 413, f"Maximum request body size {MOST}"),
        ("gzip", padded(100), 400, "cannot be inflated"),
        ("gzip", gzip.compress(padded(100))[:-3], 400, "end too early"),
        ("br", padded(100), 415, "'br'"),
        ("gzip, gzip", padded(100), 415, "'gzip, gzip'"),
    ],
    ids=["small", "largest", "deflate", "too large", "plain", "cut off", "unknown", "twice"],
)
def test_a_frontend_that_inflates(
    inflating: Frontend, path: str, encoding: str, body: bytes, status: int, cause: str
) -> None:
    if path.endswith("update") and status == 200:
        reply = inflating.post(path, body, **{"Content-Encoding": encoding})
        assert reply.status == 400 and b"uid" in reply.body, "it was read, and is no feedback"
        return
    reply = inflating.post(path, body, **{"Content-Encoding": encoding})
    assert reply.status == status
    if cause:
        assert cause in reply.json["cause"]
    if status == 415:
        assert reply.headers["Accept-Encoding"] == "identity, deflate, gzip, x-gzip"

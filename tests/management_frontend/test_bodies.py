"""Bodies of requests are limited, one by one and in sum."""

import asyncio
import io
import json
from contextlib import AsyncExitStack

import pytest
from aiohttp.test_utils import TestClient, TestServer

from clipper_common.constants import MAX_DEFAULT_OUTPUT_BYTES, MAX_MANAGEMENT_BODY_BYTES
from management_frontend import app
from management_frontend.config import Config

LIMIT = 1 << 18


def application(name: str, default_output: str = "-1") -> bytes:
    """An application as JSON, with each character of its default output escaped."""
    fields = json.dumps({"name": name, "input_type": "ints", "latency_slo_micros": 20000})
    escaped = "".join(f"\\u{ord(character):04x}" for character in default_output)
    return f'{fields[:-1]}, "default_output": "{escaped}"}}'.encode()


async def test_the_longest_default_output_is_accepted_however_it_is_written(client: TestClient) -> None:
    answer = await client.post("/admin/add_app", data=io.BytesIO(application("a", "x" * MAX_DEFAULT_OUTPUT_BYTES)))
    assert answer.status == 200


async def test_a_larger_body_is_refused_as_json(client: TestClient) -> None:
    answer = await client.post("/admin/add_app", data=io.BytesIO(bytes(MAX_MANAGEMENT_BODY_BYTES + 1)))
    assert answer.status == 413
    assert f"{MAX_MANAGEMENT_BODY_BYTES}" in (await answer.json())["cause"]


@pytest.mark.parametrize("head", [f"Content-Length: {LIMIT}", "Transfer-Encoding: chunked"])
async def test_unfinished_bodies_are_limited_in_sum_and_give_way_to_others(head: str, redis_port: int) -> None:
    config = Config(redis_ip="127.0.0.1", redis_port=redis_port, max_body_bytes=LIMIT)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(TestClient(TestServer(app.create_app(config))))
        answers: list[asyncio.Task[bytes]] = []
        begun = b" " * (LIMIT - 1)
        for number in range(1, app._BODIES_AT_A_TIME + 2):  # one of them goes beyond the limit
            reader, writer = await asyncio.open_connection(client.host, client.port)
            stack.callback(writer.close)
            writer.write(f"POST /admin/add_app HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n".encode())
            writer.write(begun if "Length" in head else b"%x\r\n%b" % (LIMIT, begun))
            answers.append(asyncio.create_task(reader.readuntil(b"\r\n\r\n")))
            stack.callback(answers[-1].cancel)
            await until_held(client, number * len(begun))
        assert (await client.post("/admin/add_app", data=application("small"))).status == 200
        large = application("large") + b" " * (1 << 17)
        assert (await client.post("/admin/add_app", data=large)).status == 200
        (given_up,), _ = await asyncio.wait(answers, timeout=20, return_when=asyncio.FIRST_COMPLETED)
        assert given_up.result().startswith(b"HTTP/1.1 408") and b"Retry-After: 1" in given_up.result()
        await until_held(client, app._BODIES_AT_A_TIME * len(begun))


async def until_held(client: TestClient, size: int) -> None:
    async with asyncio.timeout(20):
        while client.app[app.BUDGET].held_bytes != size:  # type: ignore[index]
            await asyncio.sleep(0.01)

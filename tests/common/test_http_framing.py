"""Where requests end: what is known of heads, and chunked bodies in whatever pieces they come."""

import random

import pytest

from clipper_common.http_framing import ChunkReader, Heads, UnknownChunkError, read_head

BODIES = [
    b"0\r\n\r\n",
    b"5\r\nabcde\r\n0\r\n\r\n",
    b"1\r\n\r\r\n1\r\n\n\r\n0\r\n\r\n",
    b"a;x=y\r\n0123456789\r\n00\r\n\r\n",
    b"5\r\nabcde\r\n0\r\nTrailer: x\r\nOther: y\r\n\r\n",
    b"3\r\n0\r\n\r\n0\r\n\r\n",
    b"1000\r\n" + b"\r\n" * 2048 + b"\r\n0\r\n\r\n",
]
NEXT = b"GET / HTTP/1.1\r\n"


async def find_end(pieces: list[bytes]) -> int:
    """Return how many bytes of the joined pieces are of the body."""
    reader, before = ChunkReader(), 0
    for piece in pieces:
        end = reader.find_end(piece)
        if end >= 0:
            return before + end
        before += len(piece)
    return -1


@pytest.mark.parametrize("body", BODIES)
async def test_the_end_of_a_chunked_body_is_found_however_it_is_cut(body: bytes) -> None:
    stream = body + NEXT
    assert await find_end([stream]) == len(body)
    for cut in range(1, min(len(stream), 200)):
        assert await find_end([stream[:cut], stream[cut:]]) == len(body)
    assert await find_end([stream[at : at + 1] for at in range(len(stream))]) == len(body)
    assert await find_end([body[:-1]]) == -1


async def test_a_long_body_of_many_chunks_is_read_in_random_pieces() -> None:
    rng = random.Random(1)
    chunks = [rng.randbytes(rng.randint(1, 300)) for _ in range(300)]
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    cuts = sorted(rng.sample(range(len(body)), 100))
    pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    assert await find_end([*pieces, NEXT]) == len(body)


@pytest.mark.parametrize(
    "rest", [b"zz\r\n", b"zz", b"-1\r\n", b"g", b"\r\n", b"0x1\r\n", b"5\r\nabcdef\r\n", b"1\r\nxy"]
)
async def test_what_is_no_chunk_is_malformed_by_the_verdict_of_aiohttp(rest: bytes) -> None:
    with pytest.raises(UnknownChunkError) as raised:
        await find_end([b"3\r\nabc\r\n", rest])
    assert raised.value.is_malformed


async def test_of_a_head_is_known_how_long_its_body_is() -> None:
    post = b"POST /a/predict HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n"
    plain = read_head(post % b"Content-Length: 16")
    assert plain is not None
    assert (plain.length, plain.plain_path) == (16, "/a/predict")
    get = read_head(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    assert get is not None
    assert (get.length, get.plain_path) == (0, None)
    for line in (b"Expect: 100-continue", b"Connection: close", b"Content-Encoding: gzip"):
        other = read_head(post % (b"Content-Length: 16\r\n" + line))
        assert other is not None
        assert (other.length, other.plain_path) == (16, None)
    assert read_head(post % b"Content-Length: 9999999999") is None
    assert read_head(post % b"Content-Length: x") is None
    assert read_head(b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n") is None
    assert read_head((post % b"Content-Length: 0") * 2) is None
    assert read_head(b"GARBAGE\r\n\r\n") is None


async def test_a_head_is_parsed_once() -> None:
    parsed = []
    heads = Heads(lambda head: parsed.append(head))
    text = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    assert heads.find(text) is heads.find(text) is not None
    assert len(parsed) == 1
    assert heads.find(b"GARBAGE\r\n\r\n") is None

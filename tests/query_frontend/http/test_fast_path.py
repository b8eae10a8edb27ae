"""The fast path against aiohttp's general path: the same bytes in, the same bytes out, whatever they are."""

import gzip
import json
import math
import random
from array import array
from collections.abc import Iterator
from typing import Final

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from clipper_common.datatypes import InputType
from tests.query_frontend.conftest import http
from tests.query_frontend.http.fast_path_pair import BIG_OUTPUT, MISSING_VALUES, MODELS, Pair, post, running_pair

pytestmark = pytest.mark.integration

ONE: Final = b'{"input": [1.5]}'
PLAIN: Final = post("doubles", ONE)
INPUTS: Final = {
    "doubles": [b"[1.5]", b"[1, -0.0, 1e300, 5e-324]", b"[%s]" % b",".join(b"%d.25" % i for i in range(784))],
    "ints": [b"[1]", b"[2147483647, -2147483648, 0]"],
    "floats": [b"[1.5, 2]", b"[3.4028234e38]"],
    "strings": [b'"x"', '"\u00e9\u20ac\U0001f600"'.encode(), b'"\\ud83d\\ude00 \\n"', b'"\\u0000"'],
    "bytes": [b'"AAEC"', b'"AA=="', b'"AA"'],
}
BAD_INPUTS: Final = [
    b"[]", b'""', b"[[1]]", b"[1,[2]]", b"[true]", b"[null]", b'["1"]', b"null", b"1", b"{}", b"[NaN]", b"[Infinity]",
    b"[1e400]", b"[-1e400]", b"[-0]", b"[1" + b"0" * 400 + b"]", b"[9223372036854775808]", b"[18446744073709551616]",
    b"[2147483648]", b"[1.0]", b"[01]", b"[.5]", b"[1.]", b"[+1]", b"[0x1]", b"[1,]", b"[1 2]", b"[1e39]", b'"A"',
    b'"A===="', b'"\\ud800"', b'"\xff"', b'"\n"', b"'x'", b"[1" + b"]" * 2, b"[" * 3000 + b"]" * 3000, b"[1]x",
]  # fmt: skip
ENVELOPES: Final = [
    b'{"input": %s}', b'{"input":%s}', b' {"input": %s}', b'{"input": %s} \r\n', b'{"input": %s}x', b'{"input": %s}{}',
    b'\xef\xbb\xbf{"input": %s}', b'{"input": %s', b'{"input": %s, "input": [2]}', b'{"input": [2], "input": %s}',
    b'{"input": %s, "version": "1"}', b'{"input": %s, "version": "9"}', b'{"input": %s, "version": 1}',
    b'{"input": %s, "version": null}', b'{"version": "1"}', b'{"input": %s, "input_batch": [%s]}',
    b'{"input_batch": [%s]}', b'{"input_batch": [%s, %s]}', b'{"input_batch": []}', b'{"input_batch": %s}',
    b'{"input_batch": [%s, null]}', b'{"inputs": %s}', b'{"\\u0069nput": %s}', b'{"input": %s, "more": [[{}]]}',
    b"[%s]", b"%s", b'{"input": %s}\x00', b'{"input"\t:\n%s}', b"{'input': %s}", b'{"input" %s}', b"{}", b"null",
    b'{"a": {"input": %s}}',
]  # fmt: skip


def fill(envelope: bytes, value: bytes) -> bytes:
    return envelope.replace(b"%s", value)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with running_pair(tmp_path_factory.mktemp("pair"), prediction_cache_size=0) as pair:
        yield pair


# --- bodies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
def test_bodies(pair: Pair, kind: str) -> None:
    for value in [*INPUTS[kind], *BAD_INPUTS, b'"%s"' % (b"QUJD" * 100)]:
        for envelope in ENVELOPES[:2]:
            pair.compare(post(kind, fill(envelope, value)))
    for envelope in ENVELOPES:
        for value in INPUTS[kind]:
            pair.compare(post(kind, fill(envelope, value)), glued=True)


@pytest.mark.parametrize("kind", MISSING_VALUES)
def test_bodies_with_missing_values(pair: Pair, kind: str) -> None:
    present = [b"[NaN]", b"[null, 1.5]", b"[Infinity, -Infinity]", b"[-0.0, null]", b"[1e39, null]", b"[NaN,]"]
    for value in [*INPUTS[kind], *BAD_INPUTS, *present]:
        for envelope in (ENVELOPES[0], b'{"input_batch": [%s, %s]}', b'{"input": %s, "version": "1"}'):
            pair.compare(post(MISSING_VALUES[kind], fill(envelope, value)), glued=True)
    outcome = pair.compare(post(MISSING_VALUES[kind], b'{"input": [null, Infinity]}'))
    assert outcome.inputs == [array(InputType.parse(kind).typecode, [math.nan, math.inf]).tobytes()]
    assert b"missing_values=true" in pair.compare(post(kind, b'{"input": [NaN]}')).answers


def test_the_lane_is_compared_with_answers_of_the_model(pair: Pair) -> None:
    """What is the same must also be right."""
    outcome = pair.compare(post("ints", b'{"input": [1, 2]}'))
    assert outcome.inputs == [b"\1\0\0\0\2\0\0\0"]
    assert outcome.answers.startswith(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Clipper-Model: echo-ints:1\r\nContent-Length: 57\r\n"
        b"Date: then\r\nServer: Python/"
    )
    assert b'\r\n\r\n{"query_id":+0,"output":"0100000002000000","default":false}HTTP/1.1 404' in outcome.answers
    outcome = pair.compare(post("strings", '{"input": "é"}'.encode()))
    assert b"\r\nX-Clipper-Model: %C3%A9cho%20%25:1\r\n" in outcome.answers


USERS: Final = range(8)
UID_AFTER: Final = b'{"input": [1.5], "uid": %d}'


def test_the_same_user_gets_the_same_model(pair: Pair) -> None:
    spellings = ["X-User: {}", "x-user:{}", "X-USER: \t {} \t", "X-User: {}\r\nX-User: a", "X-Userx: 0\r\nX-User: {}"]
    by_header = [
        {pair.compare(post("by-header", ONE, header.format(user))).answers for header in spellings} for user in USERS
    ]
    by_uid = [
        {pair.compare(post("by-uid", body % user)).answers for body in (UID_AFTER, b'{"uid": "%d", "input": [1.5]}')}
        for user in USERS
    ]
    for found in (by_header, by_uid):
        assert all(len(answers) == 1 for answers in found)
        answers = set.union(*found)
        assert len(answers) == 2 and sum(b"X-Clipper-Model: echo-doubles:1" in answer for answer in answers) == 1
    for envelope in ENVELOPES:
        pair.compare(post("by-header", fill(envelope, b"[1.5]"), "X-User: 1"), glued=True)
    for uid in (b"1.5", b"true", b"[]", b"{}", b"[1, 2]", b'""', b"-1", b"1e3", b"18446744073709551616"):
        pair.compare(post("by-uid", b'{"input": [1.5], "uid": %s}' % uid), glued=True)


def test_an_application_without_a_policy_explains_nothing(pair: Pair) -> None:
    plain = pair.compare(PLAIN).answers
    assert pair.compare(post("doubles", ONE, "X-Clipper-Explain: true")).answers == plain
    assert pair.compare(post("doubles", b'{"input": [1.5], "explain": true, "uid": []}')).answers == plain


def test_large_bodies(pair: Pair) -> None:
    rng = random.Random(1)
    for size in (1000, 20_000, 110_000, 400_000):
        body = json.dumps({"input": [rng.random() for _ in range(size // 20)]}).encode()
        for _ in range(2):
            outcome = pair.compare(post("doubles", body))
            assert len(outcome.inputs) == 1
        cuts = sorted(rng.sample(range(len(body)), 5))
        stream = post("doubles", body)
        pair.compare(*[stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)])
    text = b'{"input": "%s"}'
    for length in ((1 << 20) - 1, 1 << 20, (1 << 20) + 1):
        pair.compare(post("strings", text % (b"x" * (length - len(text) + 2))), glued=True)
    assert BIG_OUTPUT.encode() in pair.compare(post("big", ONE)).answers


# --- heads ---------------------------------------------------------------------------------------

HEADERS: Final = [
    "Accept: */*", "accept: */*", "X:", "X: ", "X:\t1\t", "X : 1", " X: 1", "X: a\r\n b", "X: a\r\n\tb", "X", ": 1",
    "X: \x00", "X: \x01", "X: \x7f", "X: é", "X\x00: 1", "X(: 1", "é: 1", "X: a\nY: b", "X: a\rY: b", "X: a\n",
    "X: " + "a" * 4000, "X: " + "a" * 8000, "X: " + "a" * 8190, "X: " + "a" * 20_000, "X" * 5000 + ": 1",
    "\r\n".join(f"X{i}: 1" for i in range(126)), "\r\n".join(f"X{i}: 1" for i in range(127)),
    "\r\n".join(f"X{i}: 1" for i in range(128)), "\r\n".join(f"X{i}: 1" for i in range(300)),
    "Host: other", "host: clipper", "Host:", "Host: a b", "Content-Type: text/plain", "Content-Type: application/json",
    "Content-Type: application/json\r\nContent-Type: text/html", "Content-Type: \xff", "Cookie: a=b",
    "Content-Length: 16", "content-length: 16", "Content-Length: 17", "Content-Length: 0", "Content-Length:",
    "Transfer-Encoding: chunked", "Transfer-Encoding: identity", "transfer-encoding: CHUNKED",
    "Transfer-Encoding: chunked, identity", "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: xchunked",
    "Transfer-Encoding : chunked", "Transfer-Encoding:\tchunked", "Transfer-Encoding: \x0bchunked",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "Transfer-Encoding:",
    "X: a\nTransfer-Encoding: chunked",
    "Transfer-Encoding\r\n : chunked", "Content-Encoding: gzip", "Content-Encoding: deflate", "Content-Encoding: br",
    "Content-Encoding: identity", "Content-Encoding:", "Content-Encoding: unknown",
    "Expect: 100-continue", "expect: 100-Continue", "Expect: 200-ok", "Expect:",
    "Connection: close", "connection: CLOSE", "Connection: keep-alive", "Connection: keep-alive, close",
    "Connection: close, keep-alive", "Connection: x", "Connection:", "Connection: upgrade", "Connection: te\r\nTE: x",
    "Upgrade: websocket", "Upgrade: h2c", "Connection: Upgrade\r\nUpgrade: websocket",
    "Connection: Upgrade\r\nUpgrade: h2c", "Connection: Upgrade, close\r\nUpgrade: tls", "Upgrade:",
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key1: x", "Keep-Alive: timeout=1", "Proxy-Connection: close",
    "Range: bytes=0-1", "If-Match: x", "Accept-Encoding: gzip", "Accept: text/html", "X-HTTP-Method-Override: GET",
    "Trailer: X", "TE: trailers", "Origin: x", "Date: x", "Server: y",
]  # fmt: skip


@pytest.mark.parametrize("glued", [False, True])
def test_headers(pair: Pair, glued: bool) -> None:
    for header in HEADERS:
        pair.compare(post("doubles", ONE, header), glued=glued)
        pair.compare(PLAIN + post("doubles", ONE, header) + PLAIN, glued=glued)


def test_lengths(pair: Pair) -> None:
    for length in (
        "16", "016", "0000000000000000016", "000000016", "0000000000000000000000000016", "+16", "-16", " 16", "16 ",
        "\t16\t", "1 6", "16,16", "16, 16", "16;", "0x10", "1e1", "16.0", "", "x", "1_6", "\u0661", "0", "00",
        "1", "15", "17",
        "999999999", "1000000000", "33554432", "33554433", "9223372036854775807", "18446744073709551615",
        "18446744073709551616", "18446744073709551632", "16\r\nContent-Length: 16", "16\r\nContent-Length: 17",
        "16\r\ncontent-length: 16", "\r\n 16", "16\r\n ", "16\r\n 0", "16\x00", "\x0b16",
    ):  # fmt: skip
        stream = post("doubles", ONE, length=length)
        pair.compare(stream)
        pair.compare(stream + PLAIN, glued=True)
        pair.compare(PLAIN + stream + PLAIN, glued=True)
    pair.compare(PLAIN.replace(b"Content-Length: 16\r\n", b""))
    pair.compare(PLAIN.replace(b"Content-Length", b"CONTENT-LENGTH"))
    pair.compare(PLAIN.replace(b"Host: clipper\r\n", b""))
    pair.compare(PLAIN.replace(b"Host: clipper\r\nContent-Length: 16", b"Content-Length: 16\r\nHost: clipper"))


def test_request_lines(pair: Pair) -> None:
    app = "doubles"
    targets = [
        "/doubles/predict", "/doubles/predict/", "/doubles/predict//", "//doubles/predict", "/doubles//predict",
        "/doubles/predict?", "/doubles/predict?a=b", "/doubles/predict#x", "/doubles/predict;x", "/Doubles/predict",
        "/doubles/Predict", "/d%6Fubles/predict", "/doubles%20/predict", "/doubles%2Fpredict", "/doubles/%70redict",
        "/doubles/predict%3F", "/doubles/./predict", "/./doubles/predict", "/x/../doubles/predict", "/../predict",
        "/./predict", "/unknown/predict", "/unknown~-_./predict", "/" + "a" * 255 + "/predict",
        "/" + "a" * 256 + "/predict", "/" + "a" * 4100 + "/predict", "/" + "a" * 9000 + "/predict", "/é/predict",
        "/%E9/predict", "/%C3%A9/predict", "/%00/predict", "/%/predict", "/%zz/predict", "/doubles\x00/predict",
        "/doubles/predict\t", "http://clipper/doubles/predict", "http://other:1/doubles/predict", "http:///predict",
        "doubles/predict", "*", "", "/", "?", "//", "/predict", "/doubles", "/doubles/update", "/doubles/update/",
        "/metrics", "/livez", "/readyz", "/bare/predict", "/late/predict", "/big/predict", "/doubles\\predict",
        "clipper:80", "/doubles/predict HTTP/1.1\r\nX: ", "/doubles /predict",
    ]  # fmt: skip
    for target in targets:
        if target != "/metrics":  # its answer holds times
            pair.compare(post(app, ONE, target=target))
            pair.compare(PLAIN + post(app, ONE, target=target) + PLAIN, glued=True)
    for method in (
        "GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "post", "Post", "POST ", " POST",
        "POST\t", "PRI", "PROPFIND", "SOURCE", "QUERY", "X", "", "\x16\x03\x01", "POST\x00", "\r\nPOST",
        "\r\n\r\nPOST", "\nPOST",
    ):  # fmt: skip
        stream = PLAIN.replace(b"POST", method.encode(), 1)
        pair.compare(stream)
        pair.compare(PLAIN + stream + PLAIN, glued=True)
    for version in (
        "1.0",
        "1.1 ",
        " 1.1",
        "0.9",
        "1.2",
        "2.0",
        "3.0",
        "9.9",
        "1",
        "1.10",
        "11.1",
        "x",
        "",
        "1.1\r\n",
        "1.1\n",
    ):
        stream = PLAIN.replace(b"HTTP/1.1", b"HTTP/" + version.encode(), 1)
        for changed in (stream, stream.replace(b"Host", b"Connection: keep-alive\r\nHost")):
            pair.compare(changed)
            pair.compare(changed + PLAIN, glued=True)
    pair.compare(PLAIN.replace(b"HTTP/1.1", b"http/1.1"))
    pair.compare(PLAIN.replace(b" HTTP/1.1", b""))
    pair.compare(PLAIN.replace(b"\r\n", b"\n"))
    pair.compare(PLAIN.replace(b"\r\n\r\n", b"\n\n"))
    pair.compare(PLAIN.replace(b"\r\n\r\n", b"\r\n\n"))
    pair.compare(PLAIN.replace(b"\r\n\r\n", b"\n\r\n"))
    pair.compare(PLAIN.replace(b"\r\n", b"\r"))


CHUNKED: Final = (
    b"POST /doubles/predict HTTP/1.1\r\nHost: clipper\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"6\r\n" + ONE[:6] + b"\r\na;x=y\r\n" + ONE[6:] + b"\r\n0\r\n\r\n"
)


def test_other_bodies(pair: Pair) -> None:
    streams = [
        CHUNKED,
        CHUNKED.replace(b"0\r\n\r\n", b"0\r\nTrailer: x\r\n\r\n"),
        CHUNKED.replace(b"6\r\n", b"06\r\n"),
        CHUNKED.replace(b"6\r\n", b"7\r\n"),
        CHUNKED.replace(b"6\r\n", b"-6\r\n"),
        CHUNKED.replace(b"6\r\n", b"6 \r\n"),
        CHUNKED.replace(b"6\r\n", b"6\n"),
        CHUNKED.replace(b"6\r\n", b"ffffffffffffffff\r\n"),
        CHUNKED.replace(b"0\r\n\r\n", b""),
        CHUNKED.replace(b"Host", b"Content-Length: 4\r\nHost"),
        CHUNKED.replace(b"chunked\r\n", b"chunked\r\nContent-Length: 0\r\n"),
        CHUNKED.replace(b"1.1", b"1.0", 1),
        post("doubles", gzip.compress(ONE), "Content-Encoding: gzip"),
        post("doubles", gzip.compress(b" " * 3_000_000 + ONE), "Content-Encoding: gzip"),
        post("unknown", gzip.compress(b" " * 3_000_000 + ONE), "Content-Encoding: gzip"),
        post("doubles", gzip.compress(ONE)[:-4], "Content-Encoding: gzip"),
        post("doubles", ONE, "Content-Encoding: gzip"),
        post("doubles", ONE, "Expect: 100-continue"),
        b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n",
        b"HEAD /livez HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /livez HTTP/1.0\r\n\r\n",
        b"GET /livez\r\n\r\n",
        b"\r\n\r\n\r\n",
        b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT clipper:80 HTTP/1.1\r\nHost: clipper:80\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\nabc",
        b"x" * 30_000,
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: 1\r\n" * 5000 + b"\r\n",
    ]
    for stream in streams:
        pair.compare(stream)
        for before, after in ((b"", PLAIN), (PLAIN, PLAIN), (post("bare", ONE), post("late", ONE))):
            pair.compare(before + stream + after, glued=True)
            pair.compare(before, stream, after)


# --- packets and pipelines -----------------------------------------------------------------------

REQUESTS: Final = {
    "plain": PLAIN,
    "ints": post("ints", b'{"input": [7]}'),
    "bare": post("bare", ONE),
    "late": post("late", ONE),
    "batch": post("doubles", b'{"input_batch": [[1], [2]]}'),
    "version": post("doubles", b'{"input": [1], "version": "1"}'),
    "bad": post("doubles", b'{"input": [1'),
    "unknown": post("unknown", ONE),
    "update": post("doubles", b'{"uid": 0, "input": [1.0], "label": 1}', target="/doubles/update"),
    "live": b"GET /livez HTTP/1.1\r\nHost: s\r\n\r\n",
    "get": b"GET /doubles/predict HTTP/1.1\r\nHost: s\r\n\r\n",
    "chunked": CHUNKED,
    "gzip": post("doubles", gzip.compress(ONE), "Content-Encoding: gzip"),
    "expect": post("doubles", ONE, "Expect: 100-continue"),
    "long": post("doubles", b'{"input": [%s]}' % b", ".join([b"1.5"] * 2000)),
}
ENDING: Final = {
    "close": post("doubles", ONE, "Connection: close"),
    "old": PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "garbage": b"GARBAGE\r\n\r\n",
    "too large": post("doubles", ONE, length=40_000_000),
    "smuggled": post("doubles", ONE, "Transfer-Encoding: chunked"),
    "incomplete": PLAIN[:-3],
}


def test_every_pair_of_requests_in_one_packet(pair: Pair) -> None:
    for first in REQUESTS.values():
        for second in (REQUESTS | ENDING).values():
            pair.compare(first + second, glued=True)
    for last in ENDING.values():
        pair.compare(last + PLAIN, glued=True)


def test_every_split_of_two_requests(pair: Pair) -> None:
    for stream in (PLAIN + post("bare", ONE), PLAIN + PLAIN):
        for cut in range(1, len(stream)):
            outcome = pair.compare(stream[:cut], stream[cut:], glued=True)
            assert outcome.answers.count(b"200 OK") == 2


def test_a_request_byte_by_byte(pair: Pair) -> None:
    for stream in (PLAIN, post("bare", ONE) + PLAIN, post("unknown", ONE)):
        pair.compare(*[stream[at : at + 1] for at in range(len(stream))])


def test_a_long_pipeline_is_answered_in_order(pair: Pair) -> None:
    rng = random.Random(2)
    names = [name for name in REQUESTS if name != "late"]
    for count in (33, 70, 300):
        requests = [
            post("doubles", b'{"input": [%d]}' % i) if i % 3 else REQUESTS[rng.choice(names)] for i in range(count)
        ]
        stream = b"".join(requests)
        pair.compare(stream, glued=True)
        cuts = sorted(rng.sample(range(len(stream)), 20))
        pair.compare(*[stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)])
    outcome = pair.compare(b"".join(post("doubles", b'{"input": [%d]}' % i) for i in range(1000)), glued=True)
    ids = [int(part.split(b",")[0]) for part in outcome.answers.split(b'"query_id":+')[1:]]
    assert ids == list(range(1000))
    pair.compare(b"".join(post("bare", ONE) for i in range(3000)), glued=True)


def test_requests_behind_a_long_chunked_one_are_taken_in_their_order(pair: Pair) -> None:
    """It is given to aiohttp in pieces, and what comes behind it waits meanwhile."""
    digits = b"1" * 5000
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in b'{"input": "%b"}' % digits)
    chunked = CHUNKED.partition(b"\r\n\r\n")[0].replace(b"/doubles/", b"/strings/") + b"\r\n\r\n%b0\r\n\r\n" % chunks
    numbers = range(2000)
    stream = chunked + b"".join(post("ints", b'{"input": [%d]}' % number) for number in numbers)
    expected = [digits, *(number.to_bytes(4, "little") for number in numbers)]
    assert pair.compare(stream, glued=True).inputs == expected
    assert pair.compare(stream[:20_000], stream[20_000:40_000], stream[40_000:], glued=True).inputs == expected


def test_an_unknown_application_is_told_before_the_body_comes(pair: Pair) -> None:
    outcome = pair.compare(post("unknown", ONE, length=100))
    assert b"404 Not Found" in outcome.answers


# --- whatever a generator thinks of --------------------------------------------------------------

TOKENS: Final = [
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\x00", b" ", b"\t", b":", b",", b"0", b"9", b"-", b"{", b"}", b"[", b"]",
    b'"', b"\xff", b"\xef\xbb\xbf", b"/", b"%", b"?", b"HTTP/1.1", b"HTTP/1.0", b"POST ", b"GET ",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"Expect: 100-continue\r\n", b"Host: x\r\n",
    b"Upgrade: websocket\r\nConnection: upgrade\r\n", b"Content-Encoding: gzip\r\n", b"0\r\n\r\n", b"1e400", b"NaN",
    b'"version": "1", ', b'"input_batch": [[1]], ', b'"input": [1], ', b"\\u0000", b"[[", b"true",
]  # fmt: skip
KIND: Final = st.sampled_from([*MODELS, "doubles", "doubles", "bare"])


@st.composite
def bodies(draw: st.DrawFn, kind: str) -> bytes:
    values = INPUTS.get(kind, INPUTS["doubles"])[:2]
    value = draw(st.one_of(st.sampled_from(values), st.sampled_from(values), st.sampled_from(BAD_INPUTS)))
    envelope = draw(st.one_of(st.just(ENVELOPES[0]), st.sampled_from(ENVELOPES)))
    return fill(envelope, value)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    if draw(st.integers(0, 3)) == 0:
        return draw(st.sampled_from(list(REQUESTS.values())))
    kind = draw(KIND)
    headers = draw(st.lists(st.sampled_from(HEADERS), max_size=2)) if draw(st.booleans()) else []
    return post(kind, draw(bodies(kind)), *headers)


@st.composite
def edits(draw: st.DrawFn) -> tuple[float, int, bytes]:
    """Where, as a share of the stream; how many bytes go; what comes in their place."""
    return draw(st.floats(0, 1)), draw(st.integers(0, 4)), draw(st.sampled_from([b"", *TOKENS]))


def apply(stream: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    for place, gone, come in changes:
        at = int(place * len(stream))
        stream = stream[:at] + come + stream[at + gone :]
    return stream


def split(stream: bytes, places: list[float]) -> list[bytes]:
    cuts = [0, *sorted(int(place * len(stream)) for place in places), len(stream)]
    return [stream[a:b] for a, b in zip(cuts, cuts[1:], strict=False)]


GENERATED: Final = settings(
    max_examples=500,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


@GENERATED
@given(
    st.lists(requests(), min_size=1, max_size=4),
    st.lists(st.floats(0, 1), max_size=2),
    st.booleans(),
)
def test_generated_requests(pair: Pair, stream: list[bytes], places: list[float], glued: bool) -> None:
    pair.compare(*split(b"".join(stream), places), glued=glued)


@GENERATED
@given(
    st.lists(requests(), min_size=1, max_size=3),
    st.lists(edits(), min_size=1, max_size=3),
    st.lists(st.floats(0, 1), max_size=2),
    st.booleans(),
)
def test_mutated_requests(
    pair: Pair, stream: list[bytes], changes: list[tuple[float, int, bytes]], places: list[float], glued: bool
) -> None:
    pair.compare(*split(apply(b"".join(stream), changes), places), glued=glued)


@GENERATED
@given(st.lists(requests(), min_size=1, max_size=2), st.booleans())
def test_the_first_packet_of_a_connection(pair: Pair, stream: list[bytes], glued: bool) -> None:
    """aiohttp's handler may not wait yet when it comes."""
    pair.warm = False
    try:
        pair.compare(b"".join(stream), glued=glued)
    finally:
        pair.warm = True


def test_thousands_were_compared(pair: Pair) -> None:
    """And both count the same things, and disconnected no replica."""
    if pair.conversations < 3000:
        pytest.skip("only some of the comparisons were asked for")
    counters = []
    for server in (pair.fast_path, pair.general):
        reported = http("GET", server.frontend.url + "/metrics").json["counters"]
        counters.append({name: value for entry in reported for name, value in entry.items() if "late" not in name})
        log = server.frontend.log.read_text()
        assert "is disconnected" not in log, log
        assert "is started again" not in log, log
    assert counters[0].keys() == counters[1].keys()

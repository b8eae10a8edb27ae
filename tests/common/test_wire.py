"""The wire format: Clipper 0.4's bytes, its lenient forms, round trips and garbage."""

import struct
import tracemalloc
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper_common import wire
from clipper_common.datatypes import InputType, ModelId, is_model_text, is_plain_text
from clipper_common.errors import MetadataError, WireError
from clipper_common.wire import (
    Drain,
    Heartbeat,
    HeartbeatReply,
    HeartbeatType,
    Metadata,
    PredictRequest,
    Refused,
    Response,
)


def frames(text: str) -> list[bytes]:
    """Frames from hex, with bars between them."""
    return [bytes.fromhex(frame) for frame in text.split("|")]


# --- what the original's containers and query frontend were seen to send ---

HEARTBEAT = frames("| 02000000")
METADATA = frames("| 00000000 | 6d | 31 | 31 | 03000000")
REPLY = frames("| 01000000 | 07000000 | 1800000000000000 | 020000000000000001000000000000000100000000000000 | 32 | 32")
METADATA_PLEASE = frames("| 03000000 | 02000000 | 01000000")
HEAD = "| 03000000 | 01000000 | 07000000 | 00000000 |"
PREDICT_INTS = frames(
    f"{HEAD} 2000000000000000 | 0100000000000000 0200000000000000 0800000000000000 0800000000000000 |"
    "0100000002000000 | 0300000004000000"
)
PREDICT_DOUBLES = frames(
    f"{HEAD} 1800000000000000 | 0300000000000000 0100000000000000 1000000000000000 | 000000000000f03f00000000000004c0"
)
PREDICT_STRINGS = frames(
    f"{HEAD} 2000000000000000 | 0400000000000000 0200000000000000 0300000000000000 0300000000000000 | 68c3a9 | 616263"
)
PREDICT_BYTES = frames(f"{HEAD} 1800000000000000 | 0000000000000000 0100000000000000 0200000000000000 | 00ff")

INTS = PredictRequest(7, InputType.INTS, [array("i", [1, 2]).tobytes(), array("i", [3, 4]).tobytes()])
DOUBLES = PredictRequest(7, InputType.DOUBLES, [array("d", [1.0, -2.5]).tobytes()])
STRINGS = PredictRequest(7, InputType.STRINGS, ["hé".encode(), b"abc"])
BYTES = PredictRequest(7, InputType.BYTES, [b"\x00\xff"])
ANSWER = Response(7, [b"2", b"2"], [False, False])


def test_encoders_write_the_bytes_of_0_4() -> None:
    assert wire.encode_heartbeat() == HEARTBEAT
    assert wire.encode_metadata(Metadata(ModelId("m", "1"), InputType.INTS, 3)) == METADATA
    assert wire.encode_response(ANSWER, 3) == REPLY
    assert wire.encode_heartbeat_reply(HeartbeatType.REQUEST_METADATA, 3) == METADATA_PLEASE
    assert wire.encode_heartbeat_reply(HeartbeatType.KEEP_ALIVE, 3) == [*METADATA_PLEASE[:3], bytes(4)]


def test_the_inputs_of_a_large_batch_are_not_put_together() -> None:
    inputs = [bytes(1 << 19), b"12345678", bytes(1 << 19)]
    header, parts = wire.encode_predict_request(PredictRequest(7, InputType.BYTES, inputs), 4)
    assert isinstance(parts, wire.Parts)
    assert parts.size == (1 << 20) + 8
    assert all(part is item for part, item in zip(parts.parts, inputs, strict=True))
    assert isinstance(header, bytes)
    message = wire.decode_from_frontend([header, b"".join(inputs)])
    assert isinstance(message, PredictRequest)
    assert list(message.inputs) == inputs
    small = PredictRequest(7, InputType.BYTES, [bytes(1 << 19), bytes(1 << 19)])
    assert wire.encode_predict_request(small, 4)[1] == bytes(1 << 20)


def test_large_outputs_are_not_copied_in_one_go() -> None:
    outputs = [b"x" * wire.MAX_COPIED_BYTES, b"y"]
    sent = wire.encode_response(Response(7, outputs, [False, True]), 4)
    tracemalloc.start()
    decoded = wire.decode_from_container(sent)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < wire.MAX_COPIED_BYTES
    assert decoded == Response(7, outputs, [False, True])


@pytest.mark.parametrize(
    ("request_", "sent"),
    [(INTS, PREDICT_INTS), (DOUBLES, PREDICT_DOUBLES), (STRINGS, PREDICT_STRINGS), (BYTES, PREDICT_BYTES)],
)
def test_predict_requests_are_the_bytes_of_0_4(request_: PredictRequest, sent: list[bytes]) -> None:
    assert wire.encode_predict_request(request_, 3) == sent
    assert wire.decode_from_frontend(sent) == request_


def test_decoders_read_the_bytes_of_0_4() -> None:
    assert wire.decode_from_container(HEARTBEAT) == Heartbeat()
    assert wire.decode_from_container(METADATA) == Metadata(ModelId("m", "1"), InputType.INTS, 3, None)
    assert wire.decode_from_container(REPLY) == ANSWER
    assert wire.decode_from_frontend(METADATA_PLEASE) == HeartbeatReply(HeartbeatType.REQUEST_METADATA)


# --- what other containers of 0.4 send ---


def metadata(name: bytes = b"m", version: bytes = b"1", kind: bytes = b"1", rpc: bytes = METADATA[5]) -> list[bytes]:
    return [b"", bytes(4), name, version, kind, rpc]


def test_the_jvm_container_sends_its_version_in_eight_bytes() -> None:
    message = wire.decode_from_container(metadata(rpc=struct.pack("<q", 3)))
    assert message == Metadata(ModelId("m", "1"), InputType.INTS, 3)


@pytest.mark.parametrize("kind", [b"3\x00", b"3\x00garbage", b"3\x00\xff\xfe1", b"3"])
def test_r_and_cpp_containers_send_garbage_behind_the_input_type(kind: bytes) -> None:
    message = wire.decode_from_container(metadata(kind=kind))
    assert message == Metadata(ModelId("m", "1"), InputType.DOUBLES, 3)


def test_the_length_that_a_response_announces_of_its_sizes_is_not_trusted() -> None:
    assert wire.decode_from_container([*REPLY[:3], struct.pack("<Q", 999), *REPLY[4:]]) == ANSWER


def test_outputs_may_be_empty_and_any_bytes() -> None:
    response = Response(0, [b"", b"\xff\x00"], [False, False])
    assert wire.decode_from_container(wire.encode_response(response, 3)) == response


BAD_NAMES = [b"a\nb", b"\x1b[31m", b"\x00", b"a:b", b"a,b", b"x" * 256, "\x85".encode(), "\u2028".encode(), b"m\x00"]
REFUSED_FROM_CONTAINERS = {
    "nothing": [],
    "no type": [b""],
    "no delimiter": [b"x", *HEARTBEAT[1:]],
    "short type": [b"", b"\x02"],
    "unknown type": [b"", struct.pack("<I", 9)],
    "metadata of 0.2": METADATA[:5],
    "metadata cut": METADATA[:3],
    "short RPC version": metadata(rpc=b"\x03"),
    "RPC version 2": metadata(rpc=struct.pack("<I", 2)),
    "RPC version 5": metadata(rpc=struct.pack("<I", 5)),
    "version 4 without a replica id": metadata(rpc=struct.pack("<I", 4)),
    "no input type": metadata(kind=b""),
    "input type -1": metadata(kind=b"-1"),
    "input type 5": metadata(kind=b"5"),
    "input type word": metadata(kind=b"ints"),
    "empty name": metadata(name=b""),
    "long name": metadata(name=b"x" * 1025),
    "name not UTF-8": metadata(name=b"\xff"),
    "empty version": metadata(version=b""),
    **{f"name {name!r}": metadata(name=name) for name in BAD_NAMES},
    **{f"version {name!r}": metadata(version=name) for name in BAD_NAMES},
    "response cut": REPLY[:4],
    "response without sizes": [*REPLY[:4], b""],
    "response with sizes cut": [*REPLY[:4], REPLY[4][:-1], *REPLY[5:]],
    "an output too few": REPLY[:-1],
    "an output too many": [*REPLY, b"2"],
    "an output of another size": [*REPLY[:-1], b"22"],
    "short message id": [*REPLY[:2], b"\x07", *REPLY[3:]],
    "number of outputs is a lie": [*REPLY[:4], struct.pack("<QQQ", 2**63, 1, 1), *REPLY[5:]],
}
REFUSED_FROM_FRONTENDS = {
    "nothing": [],
    "no type": METADATA_PLEASE[:2],
    "no delimiter": [b"x", *METADATA_PLEASE[1:]],
    "RPC version 2": [b"", struct.pack("<I", 2), *METADATA_PLEASE[2:]],
    "unknown type": [*METADATA_PLEASE[:2], struct.pack("<I", 9)],
    "heartbeat without its type": METADATA_PLEASE[:3],
    "heartbeat of another type": [*METADATA_PLEASE[:3], struct.pack("<I", 2)],
    "request cut": PREDICT_INTS[:6],
    "request of version 4 in the frames of 3": [b"", struct.pack("<I", 4), *PREDICT_INTS[2:]],
    "feedback": [*PREDICT_INTS[:4], struct.pack("<I", 1), *PREDICT_INTS[5:]],
    "an input too few": PREDICT_INTS[:-1],
    "an input too many": [*PREDICT_INTS, b""],
    "an input of another size": [*PREDICT_INTS[:-1], b"1234"],
    "sizes cut": [*PREDICT_INTS[:6], PREDICT_INTS[6][:-1], *PREDICT_INTS[7:]],
    "sizes too short": [*PREDICT_INTS[:6], PREDICT_INTS[6][:8]],
    "unknown input type": [*PREDICT_BYTES[:6], struct.pack("<QQQ", 7, 1, 2), PREDICT_BYTES[7]],
}


@pytest.mark.parametrize("sent", REFUSED_FROM_CONTAINERS.values(), ids=REFUSED_FROM_CONTAINERS)
def test_nonsense_from_a_container_is_refused(sent: list[bytes]) -> None:
    with pytest.raises(WireError):
        wire.decode_from_container(sent)


@pytest.mark.parametrize("sent", REFUSED_FROM_FRONTENDS.values(), ids=REFUSED_FROM_FRONTENDS)
def test_nonsense_from_a_frontend_is_refused(sent: list[bytes]) -> None:
    with pytest.raises(WireError):
        wire.decode_from_frontend(sent)


# --- version 4 ---


@pytest.mark.parametrize("key", [None, "a key"])
def test_version_4_metadata_is_that_of_3_a_replica_id_and_a_key(key: str | None) -> None:
    ours = Metadata(ModelId("m", "1"), InputType.INTS, 4, "replica", key)
    sent = [*METADATA[:5], struct.pack("<I", 4), b"replica", *([key.encode()] if key else [])]
    assert wire.encode_metadata(ours) == sent
    assert wire.decode_from_container(sent) == ours
    if key:
        assert wire.decode_from_container([*sent, b"a frame of a later version"]) == ours
        able = ours._replace(takes_deadlines=True)
        assert wire.encode_metadata(able) == [*sent, b"deadlines"]
        assert wire.decode_from_container([*sent, b"deadlines", b"a frame of a later version"]) == able
        able = ours._replace(measures_turns=True)
        assert wire.encode_metadata(able) == [*sent, b"turns"]
        assert wire.decode_from_container([*sent, b"a frame of a later version", b"turns"]) == able


def test_remaining_times_are_a_third_frame_of_a_batch() -> None:
    timed = INTS._replace(remaining_micros=(20_000, 1))
    sent = wire.encode_predict_request(timed, 4)
    assert sent[:2] == wire.encode_predict_request(INTS, 4)
    assert sent[2:] == frames("204e000000000000 0100000000000000")
    assert wire.decode_from_frontend(sent) == timed
    for wrong in (bytes(8), bytes(15), bytes(24)):
        with pytest.raises(WireError):
            wire.decode_from_frontend([*sent[:2], wrong])
    with pytest.raises(WireError):
        wire.decode_from_frontend([*sent, b""])


def test_the_positions_of_a_part_are_a_third_frame_of_an_answer() -> None:
    part = ANSWER._replace(positions=(5, 2))
    sent = wire.encode_response(part, 4)
    assert sent[:2] == wire.encode_response(ANSWER, 4)
    assert sent[2:] == frames("05000000 02000000")
    assert wire.decode_from_container(sent) == part
    for wrong in (bytes(4), bytes(7), bytes(12)):
        with pytest.raises(WireError):
            wire.decode_from_container([*sent[:2], wrong])


@pytest.mark.parametrize(("positions", "third"), [(None, ""), ((5, 2), "05000000 02000000")], ids=["all", "part"])
def test_the_turn_of_a_batch_is_a_fourth_frame_of_its_answer(positions: tuple[int, int] | None, third: str) -> None:
    timed = ANSWER._replace(positions=positions, turn_micros=20_000)
    sent = wire.encode_response(timed, 4)
    assert sent[:2] == wire.encode_response(ANSWER, 4)
    assert sent[2:] == frames(f"{third} | 204e000000000000")
    assert wire.decode_from_container(sent) == timed
    for wrong in (b"", bytes(7), bytes(16)):
        with pytest.raises(WireError):
            wire.decode_from_container([*sent[:3], wrong])
    with pytest.raises(WireError):
        wire.decode_from_container([*sent, b""])


def test_version_4_batches_are_a_header_and_all_inputs() -> None:
    sent = wire.encode_predict_request(INTS, 4)
    assert sent == frames("07000000 01000000 0800000000000000 0800000000000000 | 01000000 02000000 03000000 04000000")
    assert wire.decode_from_frontend(sent) == INTS
    header, data = sent
    for wrong in (
        [header],
        [header, b""],
        [*sent, b""],
        [header, data + b"x"],
        [header, data[1:]],
        [header[:-1], data],
        [header[:7], data],
        [struct.pack("<II", 7, 5), b""],
    ):
        with pytest.raises(WireError):
            wire.decode_from_frontend(wrong)


def test_version_4_answers_are_a_header_and_all_outputs() -> None:
    response = Response(7, [b"1", b"", b"abc"], [False, True, False])
    sent = wire.encode_response(response, 4)
    sizes = "0100000000000000 0000000000000000 0300000000000000"
    assert sent == frames(f"07000000 03000000 {sizes} 000100 | 31616263")
    assert wire.decode_from_container(sent) == response
    header, data = sent
    for wrong in (
        [header],
        [header, b""],
        [*sent, b""],
        [header, data + b"d"],
        [header, data[1:]],
        [header[:-1], data],
        [header + b"\0", data],
        [header[:7], data],
        [struct.pack("<II", 7, 2**32 - 1), b""],
    ):
        with pytest.raises(WireError):
            wire.decode_from_container(wrong)


@pytest.mark.parametrize("addresses", [[""], ["tcp://a:7000"], ["", "tcp://b:7000", "tcp://é:1"]])
def test_frontends(addresses: list[str]) -> None:
    assert wire.decode_from_frontend(wire.encode_frontends(addresses)) == wire.Frontends(addresses)
    assert wire.decode_from_container(wire.encode_frontends_request()) == wire.FrontendsRequest()


@pytest.mark.parametrize("key", [b"", b"a\nb", b"\xff", b"x" * 1025])
def test_a_key_that_is_none_is_refused_with_the_reason(key: bytes) -> None:
    with pytest.raises(MetadataError, match="key"):
        wire.decode_from_container([*metadata(rpc=struct.pack("<I", 4)), b"replica", key])


@pytest.mark.parametrize("replica_id", [b"", b"a\nb", b"\x1b[31m", b"\xff", b"x" * 1025])
def test_a_replica_id_that_is_none_is_refused_with_the_reason(replica_id: bytes) -> None:
    with pytest.raises(MetadataError, match="replica id") as refused:
        wire.decode_from_container([*metadata(rpc=struct.pack("<I", 4)), replica_id])
    assert refused.value.rpc_version == 4 and str(refused.value).isprintable()


@pytest.mark.parametrize("name", BAD_NAMES)
def test_why_a_name_is_refused_can_be_shown(name: bytes) -> None:
    with pytest.raises(MetadataError, match="model name") as refused:
        wire.decode_from_container(metadata(name=name))
    assert refused.value.rpc_version == 3 and str(refused.value).isprintable() and len(str(refused.value)) < 300


def test_names_as_long_as_over_http_are_taken() -> None:
    name = "\U0001f600" * 255
    message = wire.decode_from_container(metadata(name=name.encode()))
    assert isinstance(message, Metadata) and message.model_id.name == name


def test_the_reason_of_a_refusal_is_one_line() -> None:
    assert wire.decode_from_frontend(wire.encode_refused("a\nb")) == wire.Refused(r"a\nb")


@pytest.mark.parametrize("frames", [[], [b"\xff"], [b"x" * 1025], [b"tcp://a\n:1"]])
def test_lists_of_frontends_that_make_no_sense(frames: list[bytes]) -> None:
    with pytest.raises(WireError):
        wire.decode_from_frontend([*wire.encode_frontends([])[:3], *frames])


def test_farewells() -> None:
    assert wire.decode_from_container(wire.encode_drain_request()) == Drain()
    assert wire.decode_from_frontend(wire.encode_drain_reply()) == Drain()
    assert wire.decode_from_frontend(wire.encode_refused("no such möbel")) == Refused("no such möbel")
    assert wire.decode_from_frontend(wire.encode_refused("x")[:3]) == Refused("")


def test_heartbeat_replies_of_version_4_differ_in_the_version_only() -> None:
    reply = wire.encode_heartbeat_reply(HeartbeatType.KEEP_ALIVE, 4)
    assert wire.decode_from_frontend(reply) == HeartbeatReply(HeartbeatType.KEEP_ALIVE)


def test_a_heartbeat_reply_may_ask_for_turns() -> None:
    reply = wire.encode_heartbeat_reply(HeartbeatType.KEEP_ALIVE, 4)
    asking = wire.encode_heartbeat_reply(HeartbeatType.KEEP_ALIVE, 4, takes_turns=True)
    assert asking == [*reply, b"turns"]
    assert wire.decode_from_frontend(asking) == HeartbeatReply(HeartbeatType.KEEP_ALIVE, takes_turns=True)
    of_later_version = [*reply, b"a frame of a later version"]
    assert wire.decode_from_frontend(of_later_version) == HeartbeatReply(HeartbeatType.KEEP_ALIVE)


# --- round trips ---

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=50).filter(is_plain_text)
MODEL_TEXTS = NAMES.filter(is_model_text)
MODELS = st.builds(ModelId, MODEL_TEXTS, MODEL_TEXTS)
KINDS = st.sampled_from(InputType)
IDS = st.integers(0, wire.MESSAGE_ID_LIMIT - 1)
PARTS = st.lists(st.binary(max_size=40), max_size=20)


@given(
    st.builds(Metadata, MODELS, KINDS, st.just(3), st.none(), st.none(), st.just(False), st.just(False))
    | st.builds(Metadata, MODELS, KINDS, st.just(4), NAMES, st.none(), st.just(False), st.just(False))
    | st.builds(Metadata, MODELS, KINDS, st.just(4), NAMES, NAMES, st.booleans(), st.booleans())
)
def test_metadata_round_trip(message: Metadata) -> None:
    assert wire.decode_from_container(wire.encode_metadata(message)) == message


@given(IDS, PARTS, st.sampled_from([3, 4]), st.data())
def test_response_round_trip(message_id: int, outputs: list[bytes], version: int, data: st.DataObject) -> None:
    statuses = st.booleans() if version == 4 else st.just(False)
    failed = data.draw(st.lists(statuses, min_size=len(outputs), max_size=len(outputs)))
    message = Response(message_id, outputs, failed)
    assert wire.decode_from_container(wire.encode_response(message, version)) == message


@given(st.builds(PredictRequest, IDS, KINDS, PARTS, st.none()), st.sampled_from([3, 4]))
def test_predict_request_round_trip(message: PredictRequest, version: int) -> None:
    assert wire.decode_from_frontend(wire.encode_predict_request(message, version)) == message


# --- garbage: read or refused, never another exception ---

PACKED_ANSWER, PACKED_REQUEST = wire.encode_response(ANSWER, 4), wire.encode_predict_request(INTS, 4)
KNOWN_FRAMES = [*METADATA, *REPLY, *PREDICT_INTS, *METADATA_PLEASE, *PACKED_ANSWER, *PACKED_REQUEST]
GARBAGE = st.lists(st.sampled_from(KNOWN_FRAMES) | st.binary(max_size=40), max_size=10)
VALID = st.sampled_from(
    [HEARTBEAT, METADATA, REPLY, PREDICT_INTS, PREDICT_STRINGS, METADATA_PLEASE, PACKED_ANSWER, PACKED_REQUEST]
)


@st.composite
def damaged(draw: st.DrawFn) -> list[bytes]:
    message = list(draw(VALID))
    place = draw(st.integers(0, len(message) - 1))
    message[place : place + draw(st.integers(0, 2))] = draw(GARBAGE)
    return message


@given(GARBAGE | damaged())
def test_garbage_is_read_or_refused(sent: list[bytes]) -> None:
    for decode in (wire.decode_from_container, wire.decode_from_frontend):
        try:
            decode(sent)
        except WireError as error:
            assert str(error)


@pytest.mark.parametrize("version", [3, 4])
def test_the_number_of_outputs_is_checked_before_they_are_decoded(version: int) -> None:
    """A header may announce a million empty outputs, which take a third of a second to decode."""
    sent = wire.encode_response(Response(7, [b""] * 100_000, [False] * 100_000), version)
    tracemalloc.start()
    for most in (1, wire.MAX_BATCH_SIZE):
        with pytest.raises(WireError, match=f"100000 outputs, where {most} are the most"):
            wire.decode_from_container(sent[:5], most)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


@pytest.mark.parametrize("version", [3, 4])
def test_the_message_id_of_an_answer_is_read_without_its_outputs(version: int) -> None:
    sent = wire.encode_response(Response(7, [b"a", b"b"], [False, False]), version)
    assert wire.answered_message_id(sent) == 7
    assert wire.answered_message_id([sent[0][:7], *sent[1:2]]) is None
    assert wire.answered_message_id(wire.encode_heartbeat()) is None


@pytest.mark.parametrize("others", [0, wire.MAX_COPIED_BYTES])
def test_the_text_of_an_error_is_cut(others: int) -> None:
    outputs = [b"\xff" * (1 << 20), b"x" * others, b"\xff" * wire.MAX_ERROR_BYTES, b"y" * (2 * wire.MAX_ERROR_BYTES)]
    failed = [True, False, True, False]
    decoded = wire.decode_from_container(wire.encode_response(Response(7, outputs, failed), 4))
    assert isinstance(decoded, Response) and decoded.failed == failed
    assert decoded.outputs == [b"\xff" * wire.MAX_ERROR_BYTES + b"...", *outputs[1:]]

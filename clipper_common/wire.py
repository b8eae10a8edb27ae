"""The RPC between query frontend and model containers, as values: encoders and decoders over frames.

Version 3 is what the containers of Clipper 0.3 and 0.4 speak (Python, R, JVM, C++). Version 4 is ours: the same
messages, and a replica id and a key in the metadata, a status per output, messages for leaving and for finding all
frontends. A batch and its answer are two frames in it, a header and all inputs or outputs: a frame of its own for each
of them, and for each number, costs both sides more than most inputs do. A container says its version in its metadata;
until then it is spoken to in version 3. Numbers are little endian. Every other message begins with an empty frame;
those from the frontend have the version next, those from a container do not.
`docs/wire-protocol.md` has the tables.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Final, NamedTuple

from clipper_common.constants import MAX_BATCH_SIZE
from clipper_common.datatypes import InputType, ModelId, Packed, View, printable
from clipper_common.errors import MetadataError, WireError
from clipper_common.frames import (
    HEADER,
    MAX_TEXT_BYTES,
    U32,
    U64,
    as_input_type,
    check_count,
    check_frames,
    check_packed,
    pack_sizes,
    pack_u32s,
    pack_u64s,
    read_input_type,
    read_model_text,
    read_sizes,
    read_text,
    read_u32,
    read_u32s,
    read_u64s,
    split,
    views,
)

RPC_VERSION_3: Final = 3
RPC_VERSION_4: Final = 4
MESSAGE_ID_LIMIT: Final = 1 << 32
RELAY_PREFIX: Final = "peer:"
"""The beginning of the replica id of a frontend that relays to replicas of its own."""
_TAKES_DEADLINES: Final = b"deadlines"
"""A frame of the metadata of a container that takes deadlines."""
_MEASURES_TURNS: Final = b"turns"
"""A frame of the metadata of a container that can measure turns, and of the heartbeat replies that ask it to."""

Frames = Sequence[bytes]
Views = Sequence[View]
"""Frames too, of which large ones may lie in the memory of the transport."""


class Parts(NamedTuple):
    """A large frame in parts: to put them together would copy all of it in one go."""

    size: int
    parts: list[bytes]


OutFrames = list[bytes | Parts]
"""Frames to be sent."""

MAX_COPIED_BYTES: Final = 1 << 20
"""The inputs of a batch of at most this size, in bytes, are joined, and its outputs copied; larger ones are not."""


MAX_ERROR_BYTES: Final = 8192
"""The text of an error is cut after as many bytes."""


class MessageType(IntEnum):
    NEW_CONTAINER = 0
    CONTAINER_CONTENT = 1
    HEARTBEAT = 2
    DRAIN = 3
    """Version 4. From a container: send me no more. From the frontend: nothing of yours is left here."""
    REFUSED = 4
    """Version 4, from the frontend: you cannot register, and why."""
    FRONTENDS = 5
    """Version 4. From a container: which frontends are there? From the frontend: these."""


class HeartbeatType(IntEnum):
    KEEP_ALIVE = 0
    REQUEST_METADATA = 1


class RequestType(IntEnum):
    PREDICT = 0


_CONTENT: Final = U32.pack(MessageType.CONTAINER_CONTENT)
_PREDICT: Final = U32.pack(RequestType.PREDICT)
"""Frames of each batch, made once."""


class Heartbeat(NamedTuple):
    """A container lives."""


class Metadata(NamedTuple):
    """A container introduces itself."""

    model_id: ModelId
    input_type: InputType
    rpc_version: int
    replica_id: str | None = None
    """Chosen by a version 4 container once in its life, so that it is known again after a reconnect."""
    key: str | None = None
    """Chosen at random with it, and told to no other container, so that none takes its place. Older ones have none."""
    takes_deadlines: bool = False
    """Whether requests may hold the remaining time of each input. It may answer these in parts then."""
    measures_turns: bool = False
    """Whether responses may hold `turn_micros`."""

    @property
    def is_relay(self) -> bool:
        """Whether it is no container, but another frontend."""
        return self.replica_id is not None and self.replica_id.startswith(RELAY_PREFIX)


class Response(NamedTuple):
    """A container's answer to a batch. Where `failed` is set, the output is ``Type: message`` of the error."""

    message_id: int
    outputs: list[bytes] | list[View]
    """Outputs of more than `MAX_COPIED_BYTES` together may be views, since it takes long to copy them."""
    failed: list[bool]
    positions: Sequence[int] | None = None
    """The places in the batch of the inputs that are answered; the others are answered later. None: all inputs are."""
    turn_micros: int | None = None
    """The time from the end of the batch of another frontend, for which this one may have waited, to this response."""


class FrontendsRequest(NamedTuple):
    """A container asks, registered or not, which frontends there are."""


class Drain(NamedTuple):
    """Said by a container that stops, and answered when it may go."""


class HeartbeatReply(NamedTuple):
    kind: HeartbeatType
    takes_turns: bool = False
    """Whether responses may hold `turn_micros`."""


class PredictRequest(NamedTuple):
    message_id: int
    input_type: InputType
    inputs: Sequence[View]
    remaining_micros: Sequence[int] | None = None
    """Microseconds for which the output of each input is waited for; only if the container takes deadlines."""


class Refused(NamedTuple):
    reason: str


class Frontends(NamedTuple):
    """The addresses of all live frontends. The sender's own is the first, and empty if the sender does not know it."""

    addresses: list[str]


FromContainer = Heartbeat | Metadata | Response | FrontendsRequest | Drain
FromFrontend = HeartbeatReply | PredictRequest | Frontends | Drain | Refused


# --- container -> frontend -----------------------------------------------------------------------


def encode_heartbeat() -> list[bytes]:
    return [b"", U32.pack(MessageType.HEARTBEAT)]


def encode_metadata(metadata: Metadata) -> list[bytes]:
    frames = [
        b"",
        U32.pack(MessageType.NEW_CONTAINER),
        metadata.model_id.name.encode(),
        metadata.model_id.version.encode(),
        str(int(metadata.input_type)).encode(),
        U32.pack(metadata.rpc_version),
    ]
    if metadata.replica_id is not None:
        frames.append(metadata.replica_id.encode())
        if metadata.key is not None:
            frames.append(metadata.key.encode())
            frames += [_TAKES_DEADLINES] * metadata.takes_deadlines + [_MEASURES_TURNS] * metadata.measures_turns
    return frames


def encode_response(response: Response, rpc_version: int) -> list[bytes]:
    outputs = response.outputs
    if rpc_version >= RPC_VERSION_4:
        header = HEADER.pack(response.message_id, len(outputs)) + pack_sizes(outputs) + bytes(response.failed)
        parts = [] if response.positions is None else [pack_u32s(response.positions)]
        if response.turn_micros is not None:
            parts = [*(parts or [b""]), U64.pack(response.turn_micros)]
        return [header, b"".join(outputs), *parts]
    sizes = U64.pack(len(outputs)) + pack_sizes(outputs)
    return [b"", _CONTENT, U32.pack(response.message_id), U64.pack(len(sizes)), sizes, *outputs]


def encode_drain_request() -> list[bytes]:
    return [b"", U32.pack(MessageType.DRAIN)]


def encode_frontends_request() -> list[bytes]:
    return [b"", U32.pack(MessageType.FRONTENDS)]


def answered_message_id(frames: Frames) -> int | None:
    """Return the message id of an answer without decoding its outputs; None if the message is no proper answer."""
    if len(frames) > 1 and frames[0]:
        return U32.unpack_from(frames[0])[0] if len(frames[0]) >= HEADER.size else None
    is_answer = len(frames) > 2 and frames[1] == _CONTENT and len(frames[2]) == U32.size
    return read_u32(frames[2], "message id") if is_answer else None


def decode_from_container(frames: Frames, most_outputs: int = MAX_BATCH_SIZE) -> FromContainer:
    """Read what a container sent, without its identity frame. An answer may have at most `most_outputs`.

    Raises `WireError`, such as `MetadataError`.
    """
    if len(frames) < 2:
        raise WireError("a message has at least two frames")
    if frames[0]:
        return _decode_packed_response(frames, most_outputs)
    if frames[1] == _CONTENT:
        return _decode_response(frames[2:], most_outputs)
    kind = read_u32(frames[1], "message type")
    match kind:
        case MessageType.HEARTBEAT:
            return Heartbeat()
        case MessageType.NEW_CONTAINER:
            return _decode_metadata(frames[2:])
        case MessageType.DRAIN:
            return Drain()
        case MessageType.FRONTENDS:
            return FrontendsRequest()
    raise WireError(f"unknown message type {kind}")


def _decode_metadata(frames: Frames) -> Metadata:
    if len(frames) < 4:
        raise WireError("metadata without an RPC version: the container is older than Clipper 0.3")
    # The JVM container sends 8 bytes.
    rpc_version = read_u32(frames[3][:4], "RPC version")
    if rpc_version not in (RPC_VERSION_3, RPC_VERSION_4):
        raise WireError(f"RPC version {rpc_version} is not spoken here, 3 and 4 are")
    if rpc_version == RPC_VERSION_4 and len(frames) < 5:
        raise WireError("metadata of version 4 without a replica id")
    try:
        model = ModelId(read_model_text(frames[0], "model name"), read_model_text(frames[1], "model version"))
        input_type = read_input_type(frames[2])
        if rpc_version == RPC_VERSION_3:
            return Metadata(model, input_type, rpc_version)
        replica_id = read_text(frames[4], "replica id")
        key = read_text(frames[5], "key") if len(frames) > 5 else None
        takes_deadlines, measures_turns = _TAKES_DEADLINES in frames[6:], _MEASURES_TURNS in frames[6:]
        return Metadata(model, input_type, rpc_version, replica_id, key, takes_deadlines, measures_turns)
    except WireError as error:
        raise MetadataError(str(error), rpc_version) from None


def _decode_response(frames: Frames, most_outputs: int) -> Response:
    if len(frames) < 3:
        raise WireError(f"a response of {len(frames)} frames is too short")
    message_id = read_u32(frames[0], "message id")
    check_count(len(frames[2]) // U64.size - 1, most_outputs)
    count, *sizes = read_u64s(frames[2], "output sizes") or (-1,)
    return Response(message_id, check_frames(frames[3:], count, sizes, "output"), [False] * count)


def _decode_packed_response(frames: Frames, most_outputs: int) -> Response:
    check_packed(frames, "response", 4)
    header, data = frames[0], frames[1]
    message_id, count = HEADER.unpack_from(header)
    check_count(count, most_outputs)
    statuses_at = HEADER.size + count * U64.size
    if len(header) != statuses_at + count:
        raise WireError("a response does not hold one size and one status per output")
    sizes = read_sizes(header[HEADER.size : statuses_at], data, "output")
    outputs = split(data, sizes) if len(data) <= MAX_COPIED_BYTES else views(data, sizes)
    statuses = header[statuses_at:]
    failed = [False] * count
    if any(statuses):
        failed = list(map(bool, statuses))
        outputs = list(map(_cut_if_failed, outputs, failed))
    has_positions = len(frames) == 3 or (len(frames) > 3 and frames[2])
    positions = read_u32s(frames[2], "positions", count) if has_positions else None
    turn_micros = read_u64s(frames[3], "turns", 1)[0] if len(frames) > 3 else None
    return Response(message_id, outputs, failed, positions, turn_micros)


def _cut_if_failed(output: View, failed: bool) -> View:
    return bytes(output[:MAX_ERROR_BYTES]) + b"..." if failed and len(output) > MAX_ERROR_BYTES else output


# --- frontend -> container -----------------------------------------------------------------------


def encode_heartbeat_reply(kind: HeartbeatType, rpc_version: int, takes_turns: bool = False) -> list[bytes]:
    asked = [_MEASURES_TURNS] * takes_turns
    return [b"", U32.pack(rpc_version), U32.pack(MessageType.HEARTBEAT), U32.pack(kind), *asked]


def encode_predict_request(request: PredictRequest, rpc_version: int) -> OutFrames:
    inputs = request.inputs
    if rpc_version >= RPC_VERSION_4:
        lengths = [len(item) for item in inputs]
        header = HEADER.pack(request.message_id, request.input_type) + pack_u64s(lengths)
        size = sum(lengths)
        data = b"".join(inputs) if size <= MAX_COPIED_BYTES else Parts(size, list(map(bytes, inputs)))
        remaining = request.remaining_micros
        return [header, data] if remaining is None else [header, data, pack_u64s(remaining)]
    sizes = U64.pack(request.input_type) + U64.pack(len(inputs)) + pack_sizes(inputs)
    message_id, length = U32.pack(request.message_id), U64.pack(len(sizes))
    return [b"", U32.pack(rpc_version), _CONTENT, message_id, _PREDICT, length, sizes, *map(bytes, inputs)]


def encode_drain_reply() -> list[bytes]:
    return [b"", U32.pack(RPC_VERSION_4), U32.pack(MessageType.DRAIN)]


def encode_refused(reason: str) -> list[bytes]:
    return [b"", U32.pack(RPC_VERSION_4), U32.pack(MessageType.REFUSED), reason.encode()]


def encode_frontends(addresses: Sequence[str]) -> list[bytes]:
    return [b"", U32.pack(RPC_VERSION_4), U32.pack(MessageType.FRONTENDS), *(a.encode() for a in addresses)]


def decode_from_frontend(frames: Views) -> FromFrontend:
    """Read what a frontend sent. Raises `WireError`."""
    if frames and frames[0]:
        return _decode_packed_request(frames)
    if len(frames) < 3:
        raise WireError("a message begins with an empty frame, the RPC version and its type")
    version = read_u32(frames[1], "RPC version")
    if version not in (RPC_VERSION_3, RPC_VERSION_4):
        raise WireError(f"the frontend speaks RPC version {version}, this container 3 and 4")
    kind = read_u32(frames[2], "message type")
    match kind:
        case MessageType.CONTAINER_CONTENT if version == RPC_VERSION_3:
            return _decode_predict_request(frames[3:])
        case MessageType.HEARTBEAT:
            return _decode_heartbeat_reply(frames[3:])
        case MessageType.DRAIN:
            return Drain()
        case MessageType.REFUSED:
            reason = bytes(frames[3]).decode(errors="replace") if len(frames) > 3 else ""
            return Refused(printable(reason, MAX_TEXT_BYTES))
        case MessageType.FRONTENDS:
            return _decode_frontends(frames[3:])
    raise WireError(f"unknown message type {kind}")


def _decode_frontends(frames: Views) -> Frontends:
    if not frames:
        raise WireError("a list of frontends without the one that sent it")
    return Frontends([read_text(frame, "address of a frontend") if frame else "" for frame in frames])


def _decode_heartbeat_reply(frames: Views) -> HeartbeatReply:
    try:
        return HeartbeatReply(HeartbeatType(read_u32(frames[0], "heartbeat type")), _MEASURES_TURNS in frames[1:])
    except (IndexError, ValueError) as error:
        raise WireError("unknown heartbeat type") from error


def _decode_predict_request(frames: Views) -> PredictRequest:
    if len(frames) < 4:
        raise WireError(f"a request of {len(frames)} frames is too short")
    message_id = read_u32(frames[0], "message id")
    if frames[1] != _PREDICT:
        raise WireError("unknown request type")
    sizes = read_u64s(frames[3], "input sizes")
    if len(sizes) < 2:
        raise WireError("a request does not say the type and the number of its inputs")
    kind, count, *sizes_of_inputs = sizes
    inputs = check_frames(frames[4:], count, sizes_of_inputs, "input")
    return PredictRequest(message_id, as_input_type(kind), inputs)


def _decode_packed_request(frames: Views) -> PredictRequest:
    header, data, *rest = check_packed(frames, "request", 3)
    message_id, kind = HEADER.unpack_from(header)
    sizes = read_sizes(header[HEADER.size :], data, "input")
    remaining = read_u64s(rest[0], "remaining times", len(sizes)) if rest else None
    return PredictRequest(message_id, as_input_type(kind), Packed(data, sizes), remaining)

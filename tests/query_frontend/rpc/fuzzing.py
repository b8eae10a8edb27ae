"""Fuzzes the decoders of what arrives on the RPC port.

``pip install atheris``, then ``python -m tests.query_frontend.rpc.fuzzing`` fuzzes for some minutes, guided by the
coverage of the code, and adds the inputs that reach further to the corpus, which the tests decode each time. The first
byte of an input chooses what decodes the others.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from clipper_common import wire
from clipper_common.errors import WireError
from query_frontend.rpc import zmtp
from query_frontend.rpc.zmtp import Conversation

CORPUS: Final = Path(__file__).with_name("fuzz_corpus.txt")
"""An input in each line, in hexadecimal."""
_SECONDS: Final = 150
_MAX_INPUT_BYTES: Final = 400
_MAX_BYTES: Final = 1 << 16
_MAX_FRAME_BYTES: Final = 60
_PIECE_BYTES: Final = 3
_OPENING: Final = zmtp.DEALER.opening


def decode(data: bytes) -> None:
    """Decode an input. Raises an error that is none of the protocol's if there is a fault."""
    match data[:1], data[1:]:
        case (b"\0", rest):
            decode_frames(split_into_frames(rest))
        case (b"\1", rest):
            converse(rest)
        case (_, rest):
            converse(_OPENING + rest)


def split_into_frames(data: bytes) -> list[bytes]:
    """Make frames of `data`, in which each is preceded by its length."""
    frames = []
    while data:
        size = data[0] % (_MAX_FRAME_BYTES + 1)
        frames.append(data[1 : 1 + size])
        data = data[1 + size :]
    return frames or [b""]


def decode_frames(frames: list[bytes]) -> None:
    for decode_from in (wire.decode_from_container, wire.decode_from_frontend):
        try:
            decode_from(frames)
        except WireError as error:
            assert str(error)


def converse(data: bytes) -> None:
    """Read the data as a whole and in pieces, which must not differ."""
    whole, in_pieces = Conversation(_MAX_BYTES), Conversation(_MAX_BYTES)
    messages = receive_all(whole, data)
    pieces = (data[at : at + _PIECE_BYTES] for at in range(0, len(data), _PIECE_BYTES))
    assert [message for piece in pieces for message in in_pieces.receive(piece)] == messages
    assert bool(in_pieces.fault) == bool(whole.fault)  # what it says may quote more of what came as a whole
    for message in messages:
        decode_frames([bytes(frame) for frame in message])


def receive_all(conversation: Conversation, data: bytes) -> list[list[bytes]]:
    """Return the messages that `data` completes. A call of `receive` parses a limited number of frames."""
    messages = conversation.receive(data)
    while conversation.is_behind:
        messages += conversation.receive(b"")
    return messages


def read_corpus() -> set[bytes]:
    return {bytes.fromhex(line) for line in CORPUS.read_text().splitlines()}


def fuzz(folder: str) -> None:
    """Fuzz until the time is over, and then end the process. Inputs are taken from the folder, and written to it."""
    import atheris

    atheris.instrument_all()
    atheris.Setup([sys.argv[0], folder, f"-max_total_time={_SECONDS}", f"-max_len={_MAX_INPUT_BYTES}"], decode)
    atheris.Fuzz()


def main() -> None:
    known = read_corpus()
    with tempfile.TemporaryDirectory() as folder:
        for number, data in enumerate(sorted(known)):
            Path(folder, f"known-{number}").write_bytes(data)
        subprocess.run([sys.executable, "-m", "tests.query_frontend.rpc.fuzzing", folder], check=True)
        found = {path.read_bytes() for path in Path(folder).iterdir()}
    CORPUS.write_text("".join(f"{data.hex()}\n" for data in sorted(known | found)))


if __name__ == "__main__":
    fuzz(sys.argv[1]) if len(sys.argv) > 1 else main()

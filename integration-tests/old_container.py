"""A model container of Clipper 0.4, as far as a query frontend can tell: RPC version 3 over one connection.

Like the original it is a loop in one thread, which heartbeats after five seconds of silence only, knows no goodbye, and
is ended by SIGTERM in the middle of whatever it does. It needs pyzmq and nothing of Clipper.
"""

import os
import struct

import zmq

RPC_VERSION = struct.pack("<I", 3)
NEW_CONTAINER, CONTAINER_CONTENT, HEARTBEAT = (struct.pack("<I", kind) for kind in range(3))
DOUBLES = b"3"
POLL_MILLIS = 5000
SILENT_POLLS = 6
"""The number of polls without a message after which the original makes a new connection."""


def serve() -> None:
    context = zmq.Context()
    address = f"tcp://{os.environ.get('CLIPPER_IP', '127.0.0.1')}:{os.environ.get('CLIPPER_PORT', '7000')}"
    while True:
        with context.socket(zmq.DEALER) as frontend:
            frontend.setsockopt(zmq.LINGER, 0)
            frontend.connect(address)
            frontend.send_multipart([b"", HEARTBEAT])
            serve_connection(frontend)


def serve_connection(frontend: "zmq.Socket[bytes]") -> None:
    """Until the frontend was silent for long."""
    connected, silent_polls = False, 0
    while silent_polls < SILENT_POLLS:
        if not frontend.poll(POLL_MILLIS):
            if connected:
                silent_polls += 1
                frontend.send_multipart([b"", HEARTBEAT])
            continue
        connected, silent_polls = True, 0
        _, _, kind, *rest = frontend.recv_multipart()
        if kind == HEARTBEAT and rest == [struct.pack("<I", 1)]:
            name, version = (os.environ[f"CLIPPER_MODEL_{part}"].encode() for part in ("NAME", "VERSION"))
            frontend.send_multipart([b"", NEW_CONTAINER, name, version, DOUBLES, RPC_VERSION])
        elif kind == CONTAINER_CONTENT:
            frontend.send_multipart([b"", CONTAINER_CONTENT, *answer(*rest)])


def answer(message_id: bytes, _request_type: bytes, _length: bytes, _sizes: bytes, *inputs: bytes) -> list[bytes]:
    """The first number of each input, as text."""
    outputs = [b"%r" % struct.unpack("<d", payload[:8])[0] for payload in inputs]
    sizes = struct.pack(f"<Q{len(outputs)}Q", len(outputs), *map(len, outputs))
    return [message_id, struct.pack("<Q", len(sizes)), sizes, *outputs]


if __name__ == "__main__":
    serve()

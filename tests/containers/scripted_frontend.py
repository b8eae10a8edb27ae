"""A fake query frontend that sends exactly the messages that a test tells it to."""

import contextlib
import time
from collections.abc import Sequence
from typing import Self, TypeVar

import zmq

from clipper_common import wire
from clipper_common.datatypes import InputType

RPC = wire.RPC_VERSION_4
PATIENCE_SECONDS = 30.0

Message = TypeVar("Message", bound=wire.FromContainer)


class ScriptedFrontend:
    """Speaks to the container that it heard last. Who asks for frontends is answered by the way, and passed over."""

    def __init__(self, port: int = 0) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._bind(port)
        self.port = int(self._socket.last_endpoint.decode().rpartition(":")[2])
        self.peer = b""
        self.frontends = [""]
        """The addresses that it answers to containers that ask. If empty, it does not answer the question."""
        self._asking: set[bytes] = set()
        self._introduced: set[bytes] = set()
        self._was_told_of_drain = False
        self._next_id = 1000

    def _bind(self, port: int) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                self._socket.bind(f"tcp://127.0.0.1:{port}")
                return
            except zmq.ZMQError:
                if time.monotonic() > deadline:
                    raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.destroy()

    def send(self, frames: Sequence[bytes]) -> None:
        self._socket.send_multipart([self.peer, *frames])

    def receive_frames(self, seconds: float = PATIENCE_SECONDS) -> list[bytes]:
        deadline = time.monotonic() + seconds
        while self._socket.poll(max(0, int((deadline - time.monotonic()) * 1000))):
            peer, *frames = self._socket.recv_multipart()
            if frames == wire.encode_frontends_request():
                if not self.frontends:
                    continue
                if peer not in self._introduced:
                    self._asking.add(peer)
                self._socket.send_multipart([peer, *wire.encode_frontends(self.frontends)])
            elif peer not in self._asking:
                if frames[1:2] == [b"\0\0\0\0"]:
                    self._introduced.add(peer)
                self.peer = peer
                return frames
        raise TimeoutError(f"the container said nothing for {seconds} s")

    def answer_inquiry(self) -> None:
        """Wait until somebody asks for frontends."""
        known = len(self._asking)
        while len(self._asking) == known:
            with contextlib.suppress(TimeoutError):
                self.receive_frames(0.01)

    def receive(self, seconds: float = PATIENCE_SECONDS) -> wire.FromContainer:
        return wire.decode_from_container(self.receive_frames(seconds))

    def receive_all_for(self, seconds: float) -> list[wire.FromContainer]:
        deadline = time.monotonic() + seconds
        messages = []
        while (left := deadline - time.monotonic()) > 0:
            try:
                messages.append(self.receive(left))
            except TimeoutError:
                break
        return messages

    def receive_a(self, kind: type[Message], heartbeat: wire.HeartbeatType = wire.HeartbeatType.KEEP_ALIVE) -> Message:
        """The next message of `kind`; heartbeats until then are answered with `heartbeat`."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            message = self.receive(deadline - time.monotonic())
            if isinstance(message, kind):
                return message
            if isinstance(message, wire.Drain):  # said while the model computes
                self._was_told_of_drain = True
                continue
            assert isinstance(message, wire.Heartbeat), message
            self.send(wire.encode_heartbeat_reply(heartbeat, RPC))
        raise TimeoutError(f"no {kind.__name__}")

    def register(self) -> wire.Metadata:
        """The handshake, to its end."""
        metadata = self.receive_a(wire.Metadata, wire.HeartbeatType.REQUEST_METADATA)
        self.receive_a(wire.Heartbeat)
        self.send(wire.encode_heartbeat_reply(wire.HeartbeatType.KEEP_ALIVE, RPC))
        return metadata

    def ask(self, inputs: Sequence[bytes], kind: InputType = InputType.DOUBLES) -> int:
        """Send a batch; its message id."""
        self._next_id += 1
        self.send(wire.encode_predict_request(wire.PredictRequest(self._next_id, kind, list(inputs)), RPC))
        return self._next_id

    def predict(self, inputs: Sequence[bytes], kind: InputType = InputType.DOUBLES) -> wire.Response:
        message_id = self.ask(inputs, kind)
        response = self.receive_a(wire.Response)
        assert response.message_id == message_id
        return response

    def answer_drain(self) -> None:
        if not self._was_told_of_drain:
            self.receive_a(wire.Drain)
        self.send(wire.encode_drain_reply())

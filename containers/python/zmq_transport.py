"""A socket of libzmq that connects a model container to one query frontend.

libzmq sends and receives in a thread of its own, which answers the heartbeats of ZMTP while the model holds Python's
lock.
"""

from typing import Final

import zmq

from clipper_common import constants
from clipper_common.multipart import receive_views, send_frames
from clipper_common.rpc_client import MAX_RECONNECT_MILLIS, RECONNECT_MILLIS
from clipper_common.wire import Views

_LINGER_MILLIS: Final = 1000
_SOCKET_OPTIONS: Final = {
    zmq.LINGER: 0,
    # A message that is sent without a connection fails at once; it is not queued for a frontend that starts later.
    zmq.IMMEDIATE: 1,
    zmq.RECONNECT_IVL: RECONNECT_MILLIS,
    zmq.RECONNECT_IVL_MAX: MAX_RECONNECT_MILLIS,
    zmq.HEARTBEAT_IVL: constants.TRANSPORT_HEARTBEAT_MILLIS,
    zmq.HEARTBEAT_TIMEOUT: constants.TRANSPORT_TIMEOUT_MILLIS,
    zmq.HEARTBEAT_TTL: constants.TRANSPORT_TIMEOUT_MILLIS,
    zmq.TCP_KEEPALIVE: 1,
}


class ZmqTransport:
    """A transport for channels. Raises `zmq.ZMQError` when `address` is not a valid endpoint."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", address: str) -> None:
        self._context = context
        self.address = address
        self._connect()

    def _connect(self) -> None:
        self.socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        for option, value in _SOCKET_OPTIONS.items():
            self.socket.setsockopt(option, value)
        self.socket.setsockopt(zmq.IPV6, "[" in self.address)  # a host name still resolves to its IPv4 address
        try:
            self.socket.connect(self.address)
        except zmq.ZMQError:
            self.socket.close()
            raise

    def send(self, frames: list[bytes]) -> bool:
        """Send a message without blocking. Return False if no frontend is connected."""
        try:
            send_frames(self.socket, frames)
        except zmq.Again:
            return False
        return True

    def receive(self) -> Views | None:
        """Return a message that has arrived, or None."""
        try:
            return receive_views(self.socket)
        except zmq.Again:
            return None

    def reconnect(self) -> None:
        self.socket.close()
        self._connect()

    def close(self) -> None:
        self.socket.close(_LINGER_MILLIS)

"""The state that a worker inherits from its supervisor: a number, sockets, a channel, and shared tables."""

import asyncio
import mmap
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SERVING: Final = b"serving\n"
"""Message to the supervisor: this worker accepts connections."""
WANTED: Final = b"wanted %d\n"
"""Message to the supervisor: the number of workers that there should be."""
RETIRE: Final = b"retire\n"
"""Message to the worker: accept no more connections, and end once none is left. Sent again: end without waiting."""

BEAT_SECONDS: Final = 0.5
"""The interval at which a worker shows that its event loop runs."""

MAX_SLOTS: Final = 128
"""The number of slots in the shared tables. A retiring worker keeps its slot until it has ended."""
_CLOSED: Final = -1


class ConnectionCounts:
    """The number of connections of each worker, in shared memory. Each worker writes only its own entry."""

    def __init__(self) -> None:
        self._table = memoryview(mmap.mmap(-1, 4 * MAX_SLOTS)).cast("i")
        for number in range(MAX_SLOTS):
            self.close(number)

    def set(self, number: int, connections: int) -> None:
        self._table[number] = connections

    def close(self, number: int) -> None:
        """Record that a worker accepts no connections, or has ended."""
        self._table[number] = _CLOSED

    @property
    def serving(self) -> int:
        """The number of workers that accept connections."""
        return sum(load != _CLOSED for load in self._table)

    def of_others(self, number: int) -> Iterator[int]:
        """The counts of all other workers that accept connections."""
        return (load for context, load in enumerate(self._table) if load != _CLOSED and context != number)


class Beats:
    """The heartbeats of the event loop of each worker, counted in shared memory like `ConnectionCounts`.  They do not
    go through the channel, because a stopped supervisor does not read it, and a full channel would block the worker.
    """

    def __init__(self) -> None:
        self._table = memoryview(mmap.mmap(-1, 4 * MAX_SLOTS)).cast("I")

    def add(self, number: int) -> None:
        self._table[number] = (self._table[number] + 1) % 2**32

    def of(self, number: int) -> int:
        return self._table[number]


class Handover:
    """A queue of connections between two requests, from a worker that ends to any other.

    They wait in it like new connections in the queue of a listening socket, also while the other workers are starting.
    """

    def __init__(self) -> None:
        self.taking, self._giving = socket.socketpair()
        for end in (self.taking, self._giving):
            end.setblocking(False)

    def give(self, descriptor: int) -> bool:
        """Pass a socket on. The caller then closes its own descriptor. Returns False if too many are waiting
        already."""
        try:
            socket.send_fds(self._giving, [b"\0"], [descriptor])
        except OSError:  # the queue is full, or the system has too many descriptors in flight
            return False
        return True

    def take_socket(self) -> socket.socket | None:
        """Return the next connection, or None."""
        try:
            _, descriptors, _, _ = socket.recv_fds(self.taking, 1, 1)
        except (BlockingIOError, InterruptedError):
            return None  # another worker was faster
        return socket.socket(fileno=descriptors[0]) if descriptors else None

    def close(self) -> None:
        self.taking.close()
        self._giving.close()


@dataclass(frozen=True, eq=False)
class WorkerContext:
    """The state that a worker inherits from its supervisor."""

    number: int
    listeners: list[socket.socket]
    channel: socket.socket
    """Connects the worker and its supervisor, which send each other lines. It closes when either ends."""
    counts: ConnectionCounts
    folder: Path
    """The folder in which each worker listens on a Unix socket that is named by its number."""
    is_needed: bool
    """Whether no other worker serves. Then this one serves before all replicas have connected to it."""
    handover: Handover
    beats: Beats

    def keep_beating(self) -> None:
        """Count beats for as long as the event loop runs."""
        self.beats.add(self.number)
        asyncio.get_running_loop().call_later(BEAT_SECONDS, self.keep_beating)

    def tell_serving(self) -> None:
        self.channel.sendall(SERVING)

    def tell_wanted(self, workers: int) -> None:
        self.channel.sendall(WANTED % workers)

    def listen_to_supervisor(self, retire: Callable[[], None], orphaned: Callable[[], None]) -> None:
        """Call `retire` when the supervisor asks for it, and `orphaned` when the supervisor has died."""

        def on_readable() -> None:
            try:
                message = self.channel.recv(len(RETIRE))
            except ConnectionResetError:  # the supervisor was killed before it read the message
                message = b""
            if message:
                retire()
            else:
                orphaned()

        asyncio.get_running_loop().add_reader(self.channel, on_readable)

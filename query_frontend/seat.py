"""What a worker has of its owner: a number, the sockets, a channel to the owner, and a view of its siblings."""

import asyncio
import mmap
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SERVING: Final = b"serving\n"
"""To the owner: connections are accepted."""
WANTED: Final = b"wanted %d\n"
"""To the owner: so many workers there should be."""
RETIRE: Final = b"retire\n"
"""To the worker: leave the connections to the others, and go once there are none left. Again: go without waiting."""

BEAT_SECONDS: Final = 0.5
"""Every so often a worker shows that its event loop goes on."""

MAX_SEATS: Final = 128
"""Twice as many as workers: those that retire keep their seats until they are gone."""
_CLOSED: Final = -1


class Loads:
    """How many connections each worker has: shared memory, of which each writes its own entry only."""

    def __init__(self) -> None:
        self._table = memoryview(mmap.mmap(-1, 4 * MAX_SEATS)).cast("i")
        for number in range(MAX_SEATS):
            self.close(number)

    def set(self, number: int, connections: int) -> None:
        self._table[number] = connections

    def close(self, number: int) -> None:
        """That worker accepts none, or is gone."""
        self._table[number] = _CLOSED

    @property
    def serving(self) -> int:
        """How many accept connections."""
        return sum(load != _CLOSED for load in self._table)

    def of_others(self, number: int) -> Iterator[int]:
        """The loads of all that accept connections, but for `number`."""
        return (load for seat, load in enumerate(self._table) if load != _CLOSED and seat != number)


class Beats:
    """How often the event loop of each worker has shown that it goes on: shared memory, as of `Loads`.

    Not by the channel: an owner that is stopped reads none of it, and what is full would stop the worker too.
    """

    def __init__(self) -> None:
        self._table = memoryview(mmap.mmap(-1, 4 * MAX_SEATS)).cast("I")

    def add(self, number: int) -> None:
        self._table[number] = (self._table[number] + 1) % 2**32

    def of(self, number: int) -> int:
        return self._table[number]


class Handover:
    """Connections between two requests, on their way from a worker that leaves to any other, which takes the next.

    They wait here as new ones do in the queue of a listening socket: also when the others are just being started.
    """

    def __init__(self) -> None:
        self.taking, self._giving = socket.socketpair()
        for end in (self.taking, self._giving):
            end.setblocking(False)

    def give(self, descriptor: int) -> bool:
        """Pass a socket on, of which the caller closes its own descriptor. False when too many wait already."""
        try:
            socket.send_fds(self._giving, [b"\0"], [descriptor])
        except OSError:  # the queue is full, or the system has no more room for descriptors on their way
            return False
        return True

    def take(self) -> socket.socket | None:
        """The next connection, if there is one."""
        try:
            _, descriptors, _, _ = socket.recv_fds(self.taking, 1, 1)
        except (BlockingIOError, InterruptedError):
            return None  # another was faster
        return socket.socket(fileno=descriptors[0]) if descriptors else None

    def close(self) -> None:
        self.taking.close()
        self._giving.close()


@dataclass(frozen=True, eq=False)
class Seat:
    number: int
    listeners: list[socket.socket]
    channel: socket.socket
    """Both sides send lines. When it closes, the other side is gone."""
    loads: Loads
    folder: Path
    """In which each worker listens on a Unix socket of its number."""
    is_needed: bool
    """No other worker serves: this one begins before all replicas have found it."""
    handover: Handover
    beats: Beats

    def keep_beating(self) -> None:
        """Show the owner for as long as the event loop runs that it does."""
        self.beats.add(self.number)
        asyncio.get_running_loop().call_later(BEAT_SECONDS, self.keep_beating)

    def tell_serving(self) -> None:
        self.channel.sendall(SERVING)

    def tell_wanted(self, workers: int) -> None:
        self.channel.sendall(WANTED % workers)

    def listen_to_owner(self, retire: Callable[[], None], orphaned: Callable[[], None]) -> None:
        """Call one of these when the owner wants us to, or is gone."""

        def on_readable() -> None:
            try:
                message = self.channel.recv(len(RETIRE))
            except ConnectionResetError:  # the owner was killed before it read what we told it
                message = b""
            if message:
                retire()
            else:
                orphaned()

        asyncio.get_running_loop().add_reader(self.channel, on_readable)

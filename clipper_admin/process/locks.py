"""File locks that end with the process that holds them."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from clipper_common.errors import ClipperException
from clipper_common.waiting import TimeLimit

_POLL_SECONDS: Final = 0.02


def try_lock(path: Path) -> int | None:
    """The descriptor of a lock on `path`, or None when another process has it. To close it is to unlock."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A holder may remove the file when it is done; a lock on a removed file keeps nobody out.
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def wait_for_lock(path: Path, seconds: float) -> int | None:
    """Lock like `try_lock`, but try for `seconds`."""
    for _ in TimeLimit(seconds).attempts(_POLL_SECONDS):
        if (descriptor := try_lock(path)) is not None:
            return descriptor
    return None


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock on `path`."""
    if not path.exists():
        return False
    descriptor = try_lock(path)
    if descriptor is None:
        return path.exists()
    os.close(descriptor)
    return False


@contextlib.contextmanager
def locked(path: Path, seconds: float) -> Iterator[None]:
    """Hold a lock on `path`. Raises ClipperException when it is not free within `seconds`."""
    descriptor = wait_for_lock(path, seconds)
    if descriptor is None:
        raise ClipperException(f"{path} is locked by another process for more than {seconds:.0f} seconds")
    try:
        yield
    finally:
        os.close(descriptor)

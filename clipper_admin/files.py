"""Turns errors of the operating system about files into a ClipperException that names the file and what to do."""

import contextlib
from collections.abc import Iterator

from clipper_common.errors import ClipperException


@contextlib.contextmanager
def explained(what: str, advice: str) -> Iterator[None]:
    """Raise ClipperException for an OSError of the block: `what` cannot be done, why, and `advice`."""
    try:
        yield
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise ClipperException(f"{what}: {where}{error.strerror or error}. {advice}") from error


def explained_logs(folder: object) -> contextlib.AbstractContextManager[None]:
    """The same for a block that writes logs into `folder`."""
    return explained(f"The logs cannot be written to {folder}", "Name a folder that can be with logging_dir=.")

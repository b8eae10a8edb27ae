"""Undoes earlier steps when a later one fails, without hiding the reason of the failure."""

import contextlib
from collections.abc import Callable, Iterator

from clipper_admin.container_manager import ClusterAdapter
from clipper_common.errors import ClipperException


@contextlib.contextmanager
def rollback_on_failure(
    undo: Callable[[], object],
    complaint: str,
    logger: ClusterAdapter,
    but_for: type[BaseException] | tuple[type[BaseException], ...] = (),
) -> Iterator[None]:
    """Call `undo` when the block fails or is interrupted, other than by one of `but_for`.

    The exception of the block is always raised. A failure of `undo` is only logged, after the `complaint`.
    """
    try:
        yield
    except but_for:
        raise
    except BaseException:
        try:
            undo()
        except ClipperException as error:
            logger.warning("%s: %s", complaint, error)
        raise

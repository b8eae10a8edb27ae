"""Waits until a cluster that was just started answers, and reports the logs of its programs if it does not."""

import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from clipper_admin.container_manager import ContainerManager
from clipper_admin.rollback import rollback_on_failure
from clipper_common.errors import ClipperException
from clipper_common.waiting import TimeLimit

STARTUP_SECONDS: Final = 60.0
CONNECT_SECONDS: Final = 10.0
"""Seconds for which a management frontend may refuse connections, because it, or the route to it, was just set up."""
_POLL_SECONDS: Final = 0.05
_TAIL_LINES: Final = 8


def wait_until_up(cm: ContainerManager, checks: Sequence[Callable[[], object]]) -> None:
    """Call each check until it passes. When one does not in time, or on Ctrl-C, stop the cluster again."""
    limit = TimeLimit(STARTUP_SECONDS)
    with rollback_on_failure(lambda: cm.stop_all(graceful=False), "The cluster could not be stopped again", cm.logger):
        try:
            for check in checks:
                repeat(check, limit)
        except ClipperException as error:
            raise ClipperException(
                f"Clipper did not start within {STARTUP_SECONDS:.0f} seconds: {error}\n{_last_words(cm)}"
            ) from error


def repeat(check: Callable[[], object], limit: TimeLimit) -> None:
    """Call it until it raises no ClipperException, or the time is over."""
    limit.retry(check, _POLL_SECONDS, lambda error: isinstance(error, ClipperException))


def _last_words(cm: ContainerManager) -> str:
    """The last lines of each log, whose files are kept for the user."""
    try:
        paths = cm.get_logs(tempfile.mkdtemp(prefix="clipper-logs-"))
    except (ClipperException, OSError) as error:
        return f"The logs could not be fetched: {error}"
    return "\n".join(f"{path} ends with:\n{_tail(path)}" for path in paths)


def _tail(path: str) -> str:
    with open(path, errors="replace") as file:
        return "".join(f"    {line}" for line in deque(file, maxlen=_TAIL_LINES))

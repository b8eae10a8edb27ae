"""Waits until the replicas of a model version serve, or one of them fails."""

import contextlib
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Final, TypeVar

from clipper_admin.container_manager import AlreadyExists, ClusterAdapter, ContainerManager, ReplicaFailure, Unreachable
from clipper_admin.http_client import ErrorStatus
from clipper_admin.management_client import ManagementClient
from clipper_admin.rollback import rollback_on_failure
from clipper_common.errors import ClipperException
from clipper_common.waiting import TimeLimit

_REACH_SECONDS: Final = 10.0
"""How long all query frontends are waited for once the replicas are connected. One that has just died counts as alive
for a part of it."""
_POLL_SECONDS: Final = 0.05
_REPORT_SECONDS: Final = 30.0
"""Seconds between two messages of the log about a long wait."""
_MOST_SHOWN: Final = 3
"""The number of replicas whose last lines are shown."""


Value = TypeVar("Value")


class Replicas:
    """The replicas of one model version, as the container manager runs them and the query frontend sees them."""

    def __init__(self, cm: ContainerManager, management: ManagementClient, name: str, version: str) -> None:
        self._cm = cm
        self._management = management
        self._name = name
        self._version = version
        self._logger: ClusterAdapter = cm.logger
        self._old_failures = frozenset(cm.find_failures(name, version))
        # Such as a container that somebody started by hand.
        self._not_managed = max(0, management.count_replicas(name, version) - cm.get_num_replicas(name, version))

    def wait_until_connected(self, num_replicas: int, seconds: float) -> None:
        """Wait until exactly `num_replicas` replicas of the manager are connected to the query frontend.

        Raises ClipperException when one of them dies meanwhile, or when that takes longer than `seconds`.
        """
        limit, report_due = TimeLimit(seconds), _REPORT_SECONDS
        with progress(f"{self._name}:{self._version}", num_replicas) as show:
            for _ in limit.attempts(_POLL_SECONDS):
                connected = self._count(limit)
                show(connected)
                if connected == num_replicas:
                    break
                self._raise_on_failure()
                if report_due < limit.elapsed_seconds <= seconds:
                    report_due += _REPORT_SECONDS
                    self._report(connected, num_replicas, limit)
            else:
                raise self._too_late(connected, num_replicas, seconds)
        if num_replicas:
            self._wait_until_reached()

    def _wait_until_reached(self) -> None:
        """Wait until every query frontend reaches a replica, directly or relayed, for at most `_REACH_SECONDS`."""
        limit = TimeLimit(_REACH_SECONDS)
        for _ in limit.attempts(_POLL_SECONDS):
            unreached = _ask(self._management.frontends_without_replica, self._name, self._version, limit)
            if not unreached:
                return
        self._logger.warning(
            "After %.0f seconds these query frontends reach no replica of %s:%s, and answer with defaults: %s. "
            "Replicas that use RPC version 3 are relayed to them by other query frontends: can these connect "
            "to each other? get_clipper_logs() fetches what they wrote.",
            _REACH_SECONDS,
            self._name,
            self._version,
            ", ".join(unreached),
        )

    def _count(self, limit: TimeLimit) -> int:
        return _ask(self._management.count_replicas, self._name, self._version, limit) - self._not_managed

    def _raise_on_failure(self) -> None:
        try:
            failures = self._cm.find_failures(self._name, self._version)
        except Unreachable:  # it may be back before the time is over
            return
        for failure in failures:
            if failure not in self._old_failures:
                raise ClipperException(_explain(failure))

    def _report(self, connected: int, wanted: int, limit: TimeLimit) -> None:
        last = next((lines.splitlines()[-1] for lines in self._last_lines().values() if lines.strip()), "")
        self._logger.info(
            "%d of %d replicas of %s:%s serve after %.0f of at most %.0f seconds (load_timeout)%s",
            *(connected, wanted, self._name, self._version, limit.elapsed_seconds, limit.seconds),
            f". The newest that writes wrote last: {last}" if last else "",
        )

    def _too_late(self, connected: int, wanted: int, seconds: float) -> ClipperException:
        last_lines = list(self._last_lines().items())[:_MOST_SHOWN]
        return ClipperException(
            f"{connected} of {wanted} replicas of {self._name}:{self._version} are connected to the query frontend "
            f"after {seconds:g} seconds. If the model takes longer to load, give it more time with "
            "load_timeout=<seconds>." + "".join(f"\n{_said(replica, lines)}" for replica, lines in last_lines)
        )

    def _last_lines(self) -> dict[str, str]:
        try:
            return self._cm.read_last_lines(self._name, self._version)
        except ClipperException as error:
            return {"?": f"its log could not be read: {error}"}

    @contextlib.contextmanager
    def removed_on_failure(self) -> Iterator[None]:
        """Stop the replicas again when the block does not succeed, or is interrupted, but not those of others."""
        with rollback_on_failure(self._remove, "They could not be stopped", self._logger, but_for=AlreadyExists):
            yield

    def _remove(self) -> None:
        self._logger.warning("Stopping the replicas of %s:%s again", self._name, self._version)
        self._cm.stop_models({self._name: [self._version]})


def _ask(about: Callable[[str, str], Value], name: str, version: str, limit: TimeLimit) -> Value:
    """Ask the management frontend about a model version, again while Redis is away, until the time is over."""

    def is_temporary(error: Exception) -> bool:
        return isinstance(error, ErrorStatus) and error.status == HTTPStatus.SERVICE_UNAVAILABLE

    return limit.retry(lambda: about(name, version), _POLL_SECONDS, is_temporary)


def _explain(failure: ReplicaFailure) -> str:
    return f"Replica {failure.replica} {failure.reason}. {_what_it_wrote(failure.log_tail)}"


def _said(replica: str, lines: str) -> str:
    return f"Replica {replica} still runs. {_what_it_wrote(lines)}"


def _what_it_wrote(lines: str) -> str:
    indented = "\n".join(f"    {line}" for line in lines.splitlines())
    return f"The last that it wrote:\n{indented}" if indented else "It wrote nothing."


@contextlib.contextmanager
def progress(what: str, num_replicas: int) -> Iterator[Callable[[int], None]]:
    """A line that tells how many replicas are connected; only in a terminal."""
    from tqdm import tqdm

    with tqdm(total=num_replicas, desc=f"Replicas of {what}", unit="", leave=False, disable=None) as bar:

        def show(connected: int) -> None:
            bar.n = connected
            bar.refresh()

        yield show

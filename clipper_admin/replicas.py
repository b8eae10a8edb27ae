"""Waiting until the replicas of a model version serve, or one of them shows that they will not."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Final

from clipper_admin.container_manager import AlreadyExists, ClusterAdapter, ContainerManager, ReplicaFailure, Unreachable
from clipper_admin.management_client import ManagementClient
from clipper_admin.undoing import undone_on_failure
from clipper_common.errors import ClipperException

REPLICAS_SECONDS: Final = 300.0
"""How long a deployment waits for its replicas; loading a large model takes minutes."""
_POLL_SECONDS: Final = 0.05


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

    def wait_until_connected(self, num_replicas: int) -> None:
        """Wait until exactly `num_replicas` replicas of the manager are connected to the query frontend.

        Raises ClipperException when one of them dies meanwhile, or the time is over.
        """
        give_up = time.monotonic() + REPLICAS_SECONDS
        with progress(f"{self._name}:{self._version}", num_replicas) as show:
            while (connected := self._count()) != num_replicas:
                show(connected)
                self._raise_on_failure()
                if time.monotonic() > give_up:
                    raise self._too_late(connected, num_replicas)
                time.sleep(_POLL_SECONDS)
            show(connected)

    def _count(self) -> int:
        return self._management.count_replicas(self._name, self._version) - self._not_managed

    def _raise_on_failure(self) -> None:
        try:
            failures = self._cm.find_failures(self._name, self._version)
        except Unreachable:  # it may be back before the time is over
            return
        for failure in failures:
            if failure not in self._old_failures:
                raise ClipperException(_explain(failure))

    def _too_late(self, connected: int, wanted: int) -> ClipperException:
        return ClipperException(
            f"{connected} of {wanted} replicas of {self._name}:{self._version} are connected to the query frontend "
            f"after {REPLICAS_SECONDS:.0f} seconds. get_clipper_logs() fetches what they wrote."
        )

    @contextlib.contextmanager
    def removed_on_failure(self) -> Iterator[None]:
        """Stop the replicas again when the block does not succeed, or is interrupted, but not those of others."""
        with undone_on_failure(self._remove, "They could not be stopped", self._logger, but_for=AlreadyExists):
            yield

    def _remove(self) -> None:
        self._logger.warning("Stopping the replicas of %s:%s again", self._name, self._version)
        self._cm.stop_models({self._name: [self._version]})


def _explain(failure: ReplicaFailure) -> str:
    tail = "\n".join(f"    {line}" for line in failure.log_tail.splitlines())
    return f"Replica {failure.replica} {failure.reason}. " + (
        f"The last that it wrote:\n{tail}" if tail else "It wrote nothing."
    )


@contextlib.contextmanager
def progress(what: str, num_replicas: int) -> Iterator[Callable[[int], None]]:
    """A line that tells how many replicas are connected; only in a terminal."""
    from tqdm import tqdm

    with tqdm(total=num_replicas, desc=f"Replicas of {what}", unit="", leave=False, disable=None) as bar:

        def show(connected: int) -> None:
            bar.n = connected
            bar.refresh()

        yield show

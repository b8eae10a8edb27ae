"""Waiting until pods start or are ready, or objects are gone: by watching them, with a limit, and showing how far."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from clipper_admin.container_manager import ClusterAdapter
from clipper_admin.kubernetes import status
from clipper_admin.kubernetes.api import Api
from clipper_admin.kubernetes.status import Trouble
from clipper_admin.replicas import progress
from clipper_common.errors import ClipperException

PODS_SECONDS: Final = 300.0
"""Seconds that pods may take to start; a node may have to pull a large image."""
STOP_SECONDS: Final = 180.0
"""Seconds that pods and load balancers may take to be removed."""

_KILL_SECONDS: Final = 1
_TAIL_LINES: Final = 30
_FEW_LINES: Final = 5
"""The number of log lines of pods without a known problem."""


class PodTrouble(ClipperException):
    """A pod cannot start, or ended."""


class Overruled(ClipperException):
    """Raised when another number of pods is wanted meanwhile, or none."""


def until_pods(
    api: Api,
    labels: str,
    wanted: int,
    what: str,
    is_done: Callable[[status.Object], bool],
    deployments: str,
    seconds: float = PODS_SECONDS,
) -> None:
    """Wait until there are `wanted` pods with these labels, and all are done.

    Raises ClipperException with the reason as soon as one of them is in trouble, or when the time is over.
    `deployments` are the labels of what makes the pods.
    """
    patience = _Patience()
    replaced: set[str] | None = None
    pods: Sequence[status.Object] = ()
    with progress(what, wanted) as show:
        for found in api.watch("Pod", labels, seconds):
            if replaced is None:  # long before
                replaced = {name for name, pod in found.items() if status.is_over(pod)}
            pods = [pod for name, pod in found.items() if name not in replaced and not status.is_terminating(pod)]
            done = sum(map(is_done, pods))
            show(done)
            if done == wanted == len(pods):
                return
            if len(pods) != wanted:
                _check_deployments(api, deployments, wanted)
            # When there are too many pods, those in trouble are removed first.
            patience.check(api, pods if len(pods) <= wanted else list(filter(status.is_over, pods)))
    raise ClipperException(_too_late(api, what, wanted, [pod for pod in pods if not is_done(pod)], seconds))


class _Patience:
    """Raises for troubles: at once, or after a while where time may heal them."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def check(self, api: Api, pods: Sequence[status.Object]) -> None:
        for pod in pods:
            trouble = status.trouble_of(pod)
            if trouble is None:
                self._since.pop(status.name_of(pod), None)
            elif self._seconds_in_trouble(trouble.pod) >= trouble.patience_seconds:
                raise PodTrouble(explain(api, trouble))

    def _seconds_in_trouble(self, pod: str) -> float:
        now = time.monotonic()
        return now - self._since.setdefault(pod, now)


def _check_deployments(api: Api, labels: str, wanted: int) -> None:
    """Raise when Kubernetes refuses pods, or when the object that makes them was removed or scaled."""
    deployments = [one for one in api.list("Deployment", labels) if not status.is_terminating(one)]
    for deployment in deployments:
        if refusal := status.refusal_of(deployment):
            raise PodTrouble(f"Kubernetes does not let {status.name_of(deployment)} have its pods: {refusal}")
    if not deployments:
        raise Overruled(f"{wanted} pods were waited for, and somebody else removed their Deployments meanwhile.")
    now = sum(int(deployment["spec"]["replicas"]) for deployment in deployments)
    if now != wanted:
        raise Overruled(
            f"{wanted} pods were waited for, and somebody else wants {now} now: another program, or an autoscaler, "
            f"changed {', '.join(map(status.name_of, deployments))} meanwhile."
        )


def explain(api: Api, trouble: Trouble) -> str:
    """A trouble with what Kubernetes and the container said about it."""
    text = f"Pod {trouble.pod} {trouble.reason}."
    if complaints := [one for one in api.warnings(trouble.pod) if one not in text]:
        text += f" Kubernetes says: {complaints[-1]}"
    if tail := last_words(api, trouble):
        text += "\nThe last that it wrote:\n" + "\n".join(f"    {line}" for line in tail.splitlines())
    return text


def last_words(api: Api, trouble: Trouble) -> str:
    """The last lines that the container in trouble wrote, before it ended if it did."""
    if not trouble.container:
        return ""
    text = api.log(trouble.pod, trouble.container, trouble.is_in_previous_log, _TAIL_LINES)
    return str(text or b"", "utf-8", "replace")


def _too_late(api: Api, what: str, wanted: int, pods: Sequence[status.Object], seconds: float) -> str:
    complaints = [
        f"\n  {status.name_of(pod)}: {'; '.join(api.warnings(status.name_of(pod))[-2:])}{_tails(api, pod)}"
        for pod in pods
    ]
    return (
        f"{what}: {wanted} pods are wanted, and after {seconds:.0f} seconds these are not there yet:"
        f"{''.join(complaints) or ' some that Kubernetes has not even made'}"
    )


def _tails(api: Api, pod: status.Object) -> str:
    """The last lines that each of its containers wrote."""
    logs = [api.log(status.name_of(pod), container, before, _FEW_LINES) for container, before in status.logs_of(pod)]
    return "".join(f"\n    {line}" for log in logs for line in str(log or b"", "utf-8", "replace").splitlines())


def tail(api: Api, pod: status.Object) -> str:
    """The last lines that a pod wrote, of whichever container of it."""
    logs = [api.log(status.name_of(pod), name, before, _TAIL_LINES) for name, before in status.logs_of(pod)]
    return "\n".join(str(log or b"", "utf-8", "replace").rstrip() for log in logs)


def until_pods_gone(api: Api, labels: str, at_once: bool = False) -> None:
    """Wait until no pod with these labels is left. What made them must have been deleted before."""
    killed: set[str] = set()
    found: Mapping[str, status.Object] = {}
    for found in api.watch("Pod", labels, STOP_SECONDS):
        for name, pod in found.items():
            if not status.is_terminating(pod):  # one that is killed before would be replaced
                continue
            if not status.has_running(pod):  # some kubelets need a minute to see that it is over
                api.delete("Pod", name, grace_seconds=0)
            elif at_once and name not in killed:
                api.delete("Pod", name, _KILL_SECONDS)
                killed.add(name)
        if not found:
            return
    raise _still_there("Pod", found)


def until_gone(api: Api, kind: str, labels: str, names: Sequence[str] | None = None) -> None:
    """Wait until no object of a kind with these labels is left, or none of these names."""
    left: set[str] = set()
    for found in api.watch(kind, labels, STOP_SECONDS):
        left = set(found if names is None else set(found).intersection(names))
        if not left:
            return
    raise _still_there(kind, left)


def _still_there(kind: str, left: Iterable[str]) -> ClipperException:
    return ClipperException(
        f"These did not go within {STOP_SECONDS:.0f} seconds: {kind} {', '.join(sorted(left))}. 'kubectl describe' "
        "tells why; stop_all(graceful=False) kills what does not end by itself."
    )


def until_reachable(api: Api, wanted: Sequence[str], labels: str, logger: ClusterAdapter) -> None:
    """Wait until these services have load balancers, of which some clusters of Kubernetes have none to give."""
    if not wanted:
        return
    missing = list(wanted)
    logger.info("Waiting up to %.0f s for the load balancers of %s", PODS_SECONDS, ", ".join(wanted))
    with progress("Load balancers", len(wanted)) as show:
        for services in api.watch("Service", labels, PODS_SECONDS):
            missing = [name for name in wanted if not _has_balancer(services, name)]
            show(len(wanted) - len(missing))
            if not missing:
                logger.info("All load balancers have addresses")
                return
    raise ClipperException(
        f"The load balancers of {', '.join(missing)} have no address after {PODS_SECONDS:.0f} seconds. Does this "
        "Kubernetes cluster provide load balancers? service_types chooses another kind of service."
    )


def _has_balancer(services: Mapping[str, Any], name: str) -> bool:
    return name in services and bool(status.balancer_of(services[name]))

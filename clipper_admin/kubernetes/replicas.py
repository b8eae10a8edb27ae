"""PodReplicas: the replicas of a cluster on Kubernetes, a Deployment for each model version."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence

from clipper_admin.container_manager import AlreadyExists, ClusterAdapter, ReplicaFailure
from clipper_admin.kubernetes import manifests, names, status, waiting
from clipper_admin.kubernetes.api import Api
from clipper_admin.kubernetes.logs import Logs
from clipper_admin.kubernetes.spec import Cluster
from clipper_admin.model_spec import ModelSpec
from clipper_admin.rollback import rollback_on_failure


@contextlib.contextmanager
def scaled(api: Api, deployment: str, replicas: int, before: int, logger: ClusterAdapter) -> Iterator[None]:
    """Scale a Deployment, and back again if the block does not succeed."""
    api.scale(deployment, replicas)
    complaint = f"{deployment} could not be scaled back to {before}"
    # A number of replicas that somebody else has set meanwhile is kept.
    with rollback_on_failure(lambda: api.scale(deployment, before), complaint, logger, but_for=waiting.Overruled):
        yield


class PodReplicas:
    """The replicas of all model versions of a cluster. Logs of those that go are kept."""

    def __init__(self, api: Api, cluster_name: str, logs: Logs, logger: ClusterAdapter) -> None:
        self._api = api
        self._cluster_name = cluster_name
        self._logs = logs
        self._logger = logger
        self._labels = names.as_text(names.selector(cluster_name, names.MODEL))

    def _labels_of(self, name: str, version: str) -> str:
        return names.as_text(names.model_selector(self._cluster_name, name, version))

    def _deployment_of(self, name: str, version: str) -> status.Object | None:
        found = self._api.get("Deployment", names.model(self._cluster_name, name, version))
        return None if found is None or status.is_terminating(found) else found

    def count(self, name: str, version: str) -> int:
        """Return how many pods the Deployment of a model version should have, 0 if there is none."""
        deployment = self._deployment_of(name, version)
        return deployment["spec"]["replicas"] if deployment else 0

    # --- starting ---

    def deploy(self, cluster: Cluster, model: ModelSpec) -> None:
        """Apply the Deployment of a model version that has none, and wait until its containers run."""
        objects = manifests.model_objects(cluster, model)
        try:
            self._api.create(objects[-1])  # which only one can do
        except AlreadyExists:
            raise AlreadyExists(f"Somebody else just deploys {model}, or stops it. Try again.") from None
        complaint = f"The replicas of {model} could not be removed again, which stop_models() does"
        with rollback_on_failure(lambda: self.remove([(model.name, model.version)]), complaint, self._logger):
            for object_ in objects:
                self._api.apply(object_)
            self._wait_until_started(model)

    def scale(self, cluster: Cluster, model: ModelSpec) -> None:
        """Give the Deployment `model.num_replicas` pods. When new ones cannot start, it gets back the number it had."""
        deployment = self._deployment_of(model.name, model.version)
        if deployment is None:
            self.deploy(cluster, model)
            return
        before = deployment["spec"]["replicas"]
        with scaled(self._api, status.name_of(deployment), model.num_replicas, before, self._logger):
            self._wait_until_started(model)

    def _wait_until_started(self, model: ModelSpec) -> None:
        labels = self._labels_of(model.name, model.version)
        seconds = max(waiting.PODS_SECONDS, model.load_seconds)  # who loads a large model often pulls a large image
        what = f"Pods of {model}"
        waiting.until_pods(self._api, labels, model.num_replicas, what, status.is_started, labels, seconds)

    # --- watching ---

    def failures(self, name: str, version: str) -> list[ReplicaFailure]:
        """Return the pods that are not ready and ended or cannot start, until they are ready, or gone."""
        pods = self._api.list("Pod", self._labels_of(name, version))
        troubles = [trouble for pod in pods if (trouble := status.trouble_of(pod))]
        return [
            ReplicaFailure(trouble.pod, trouble.reason, waiting.last_words(self._api, trouble)) for trouble in troubles
        ]

    def last_lines(self, name: str, version: str) -> dict[str, str]:
        """Return the last lines that the pods of a model version wrote, those first that are not ready."""
        pods = self._api.list("Pod", self._labels_of(name, version))
        pods.sort(key=lambda pod: pod["metadata"].get("creationTimestamp", ""), reverse=True)
        return {status.name_of(pod): waiting.tail(self._api, pod) for pod in sorted(pods, key=status.is_ready)}

    # --- stopping ---

    def remove(self, models: Iterable[tuple[str, str]]) -> None:
        """Delete the Deployments of these model versions, and wait until their pods are gone."""
        deployments = (self._deployment_of(name, version) for name, version in models)
        self._delete([deployment for deployment in deployments if deployment])

    def remove_all(self) -> None:
        """Delete the Deployments of all models, and wait until their pods are gone."""
        self._delete(self._api.list("Deployment", self._labels))

    def _delete(self, deployments: Sequence[status.Object]) -> None:
        found = [status.name_of(deployment) for deployment in deployments]
        if not found:
            return
        for deployment in deployments:
            self._logs.keep(_selector_of(deployment))
            for kind in ("PodDisruptionBudget", "Deployment"):
                self._api.delete(kind, status.name_of(deployment))
        for deployment in deployments:
            waiting.until_pods_gone(self._api, _selector_of(deployment))
        waiting.until_gone(self._api, "Deployment", self._labels, found)


def _selector_of(deployment: status.Object) -> str:
    return names.as_text(deployment["spec"]["selector"]["matchLabels"])

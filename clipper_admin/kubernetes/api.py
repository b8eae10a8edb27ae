"""The calls of the manager to the API server of a Kubernetes cluster. Errors are raised as ClipperExceptions."""

import contextlib
import functools
import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import urllib3
import yaml
from kubernetes import client, config, dynamic
from kubernetes.dynamic.exceptions import ConflictError, DynamicApiError, ForbiddenError, GoneError, NotFoundError
from kubernetes.watch.watch import iter_resp_lines

from clipper_admin.container_manager import AlreadyExists, Unreachable
from clipper_admin.kubernetes.objects import OLDER_APIS, annotated
from clipper_common.errors import ClipperException
from clipper_common.waiting import TimeLimit

FIELD_MANAGER: Final = "clipper"
"""The manager of Clipper's fields, for server-side apply."""

_CONNECT_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 60.0
_WATCH_SECONDS: Final = 2
"""Seconds after which a watch ends and begins anew, so that the caller can check other things."""
_BUSY: Final = (429, 502, 503, 504)
_AWAY_SECONDS: Final = 30.0
"""Seconds for which a call is repeated if a server that has answered before does not, since it may be restarting."""
_AWAY: Final = (urllib3.exceptions.HTTPError, OSError)
_REPEAT_SECONDS: Final = 0.5
_CREATION: Final = "ai.clipper.creation"
"""The annotation that tells what a call created from what others did."""

PLURALS: Final = {
    "ConfigMap": "configmaps",
    "Deployment": "deployments",
    "Endpoints": "endpoints",
    "EndpointSlice": "endpointslices",
    "Event": "events",
    "Ingress": "ingresses",
    "Namespace": "namespaces",
    "NetworkPolicy": "networkpolicies",
    "Node": "nodes",
    "PersistentVolumeClaim": "persistentvolumeclaims",
    "Pod": "pods",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "ReplicaSet": "replicasets",
    "Role": "roles",
    "RoleBinding": "rolebindings",
    "Secret": "secrets",
    "Service": "services",
    "ServiceAccount": "serviceaccounts",
    "StatefulSet": "statefulsets",
}
"""The name of each kind in the paths of the API."""
VERSIONS: Final = {
    "Deployment": "apps/v1",
    "EndpointSlice": "discovery.k8s.io/v1",
    "Ingress": "networking.k8s.io/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "PodDisruptionBudget": "policy/v1",
    "ReplicaSet": "apps/v1",
    "Role": "rbac.authorization.k8s.io/v1",
    "RoleBinding": "rbac.authorization.k8s.io/v1",
    "StatefulSet": "apps/v1",
}
"""The current API version of each kind that is not in the core, ``v1``."""
_OLDER: Final = {**OLDER_APIS, "discovery.k8s.io/v1": "discovery.k8s.io/v1beta1"}
"""The older equivalents of API versions, for servers without the current ones."""
_WITHOUT_NAMESPACE: Final = frozenset({"Namespace", "Node"})

Object = dict[str, Any]


class Forbidden(ClipperException):
    """The credentials do not allow this."""


@contextlib.contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn what the client raises into a ClipperException that says what could not be done."""
    try:
        yield
    except DynamicApiError as error:
        kinds: dict[type[Exception], type[ClipperException]] = {ConflictError: AlreadyExists, ForbiddenError: Forbidden}
        kind = kinds.get(type(error), ClipperException)
        text = _text_of(error)
        raise kind(f"Kubernetes could not {doing}: {text}{_advice(error.status, text)}") from error
    except _AWAY as error:
        raise Unreachable(
            f"Kubernetes could not {doing}: its API server does not answer ({error}).\nDoes 'kubectl get nodes' work? "
            "The environment variable KUBECONFIG names the file with the address and the credentials."
        ) from error


def _text_of(error: DynamicApiError) -> str:
    """Return the message of the server, which is in a JSON object of type Status."""
    try:
        return str(json.loads(error.body or "")["message"])
    except (TypeError, ValueError, KeyError):
        return f"{error.status} {error.reason}"


def _advice(status: int, text: str) -> str:
    if status == 401:
        return "\nThe credentials are not accepted. Does 'kubectl get nodes' work?"
    if status == 403 and "exceeded quota" not in text:  # which is no matter of credentials
        return "\nThe credentials do not allow it: docs/container-managers.md lists what a cluster needs."
    return ""


class Api:
    """The API server that the command ``kubectl`` speaks to, or that of the pod this runs in. First called when needed.

    Objects are dictionaries, as in the documents. Methods take kinds, such as ``Deployment``, and speak to the server
    in the API version of today, or an older one where it has nothing better.
    """

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._has_answered = False

    @functools.cached_property
    def _configuration(self) -> Any:
        configuration = client.Configuration()
        try:
            if _has_kubeconfig():
                # Named here, as the module looks at the environment only once, when it is imported.
                path = os.environ.get("KUBECONFIG") or "~/.kube/config"
                config.load_kube_config(config_file=path, client_configuration=configuration, persist_config=False)
            else:
                config.load_incluster_config(client_configuration=configuration)
        except (config.ConfigException, yaml.YAMLError, OSError, TypeError, ValueError, KeyError) as error:
            raise ClipperException(
                f"There are no credentials for Kubernetes: {error}\nThey are read from the file that KUBECONFIG names, "
                "from ~/.kube/config, or, inside a pod, from its service account. Does 'kubectl get nodes' work?"
            ) from error
        configuration.retries = urllib3.Retry(
            total=6, connect=3, read=3, status_forcelist=_BUSY, allowed_methods=None, backoff_factor=0.2
        )
        return configuration

    @functools.cached_property
    def _client(self) -> Any:
        if not self._configuration.verify_ssl:  # which the kubeconfig asked for
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        # Without discovery: the kinds are known, and its cache would be a file that all users of the machine share.
        return dynamic.DynamicClient(client.ApiClient(self._configuration), discoverer=lambda *_: None)

    @property
    def core_v1(self) -> Any:
        """The library's own class for services, pods and nodes, with the same credentials."""
        return client.CoreV1Api(self._client.client)

    @property
    def apps_v1(self) -> Any:
        """The library's own class for Deployments, with the same credentials."""
        return client.AppsV1Api(self._client.client)

    @property
    def host(self) -> str:
        """The host of the API server."""
        return urlsplit(self._configuration.host).hostname or ""

    @property
    def is_inside(self) -> bool:
        """Whether this runs in a pod of the cluster."""
        return not _has_kubeconfig()

    def _answer(self, method: str, path: str, body: Any = None, **options: Any) -> Object:
        answer: Object = json.loads(self._call(method, path, body, **options))
        return answer

    def _call(self, method: str, path: str, body: Any = None, **options: Any) -> bytes:
        """Return the answer of the server. The call is repeated while there is none, so it must be idempotent."""
        limit = TimeLimit(_AWAY_SECONDS if self._has_answered else 0)

        def call() -> bytes:
            return bytes(self._request(method, path, body, **options).data)

        data = limit.retry(call, _REPEAT_SECONDS, lambda error: isinstance(error, _AWAY))
        self._has_answered = True
        return data

    def _request(
        self, method: str, path: str, body: Any = None, answer_seconds: float = _ANSWER_SECONDS, **options: Any
    ) -> Any:
        # The client adds to these lists, which are its defaults otherwise.
        lists = {"query_params": list(options.pop("query_params", ())), "header_params": {}}
        timeout = (_CONNECT_SECONDS, answer_seconds)
        return self._client.request(
            method, path, body=body, serialize=False, _request_timeout=timeout, **lists, **options
        )

    # --- versions and paths ---

    def _version(self, kind: str) -> str:
        return self.offered(VERSIONS.get(kind, "v1"))

    def offered(self, version: str) -> str:
        """`version`, such as ``policy/v1``, or the older one that this server has instead."""
        return self._offered(version) if version in _OLDER else version

    @functools.cache  # noqa: B019 - lives as long as the manager
    def _offered(self, version: str) -> str:
        group = version.partition("/")[0]
        with translated(f"tell which versions of {group} it has"):
            try:
                versions = self._answer("get", f"/apis/{group}")["versions"]
            except NotFoundError:
                return version
        return version if any(one["groupVersion"] == version for one in versions) else _OLDER[version]

    def _path(self, kind: str, name: str = "", part: str = "") -> str:
        version = self._version(kind)
        words = ["api" if version == "v1" else "apis", version]
        if kind not in _WITHOUT_NAMESPACE:
            words += ["namespaces", self._namespace]
        return "/" + "/".join(word for word in [*words, PLURALS[kind], name, part] if word)

    # --- objects ---

    def create(self, body: Object) -> Object:
        """Create an object. Raises AlreadyExists when there is one."""
        kind, name, mark = body["kind"], body["metadata"]["name"], uuid.uuid4().hex
        marked = annotated(self.fitted(body), {_CREATION: mark})
        with translated(f"create {kind} '{name}'"):
            try:
                return self._answer("post", self._path(kind), marked, field_manager=FIELD_MANAGER)
            except ConflictError:
                found = self.get(kind, name)
                if found is None or found["metadata"].get("annotations", {}).get(_CREATION) != mark:
                    raise
                return found  # asked for twice, as the first answer was lost

    def apply(self, body: Object) -> Object:
        """Make an object what `body` says, by server-side apply: what others added to it stays."""
        kind, name = body["kind"], body["metadata"]["name"]
        with translated(f"apply {kind} '{name}'"):
            return self._answer(
                "patch",
                self._path(kind, name),
                self.fitted(body),
                content_type="application/apply-patch+yaml",
                field_manager=FIELD_MANAGER,
                force_conflicts=True,
            )

    def fitted(self, body: Object) -> Object:
        """`body` in an API version that this server has."""
        return body | {"apiVersion": self.offered(body["apiVersion"])}

    def get(self, kind: str, name: str) -> Object | None:
        """An object, or None."""
        with translated(f"read {kind} '{name}'"):
            try:
                return self._answer("get", self._path(kind, name))
            except NotFoundError:
                return None

    def list(self, kind: str, labels: str = "", fields: str = "") -> list[Object]:
        """The objects of a kind with these labels, in the syntax of ``kubectl --selector``."""
        return list(self._list(kind, labels, fields)["items"])

    def _list(self, kind: str, labels: str, fields: str = "") -> Object:
        with translated(f"list {PLURALS[kind]}"):
            try:
                return self._answer("get", self._path(kind), label_selector=labels, field_selector=fields)
            except NotFoundError:  # a server without this kind has none of them
                return {"items": [], "metadata": {}}

    def scale(self, name: str, replicas: int) -> None:
        """Give a Deployment another number of pods."""
        with translated(f"scale '{name}' to {replicas}"):
            body = {"spec": {"replicas": replicas}}
            path = self._path("Deployment", name, "scale")
            self._call("patch", path, body, content_type="application/merge-patch+json", field_manager=FIELD_MANAGER)

    def delete(self, kind: str, name: str, grace_seconds: int | None = None) -> None:
        """Delete an object and what was made for it. One that is gone already is fine.

        A Deployment is there until its pods are gone.
        """
        has_pods = kind in ("Deployment", "ReplicaSet")
        options: dict[str, Any] = {"propagation_policy": "Foreground" if has_pods else "Background"}
        if grace_seconds is not None:
            options["grace_period_seconds"] = grace_seconds
        with translated(f"delete {kind} '{name}'"), contextlib.suppress(NotFoundError):
            self._call("delete", self._path(kind, name), **options)

    # --- watching ---

    def watch(self, kind: str, labels: str, seconds: float) -> Iterator[Mapping[str, Object]]:
        """All objects with these labels, by name: now, after each change, and every few seconds without one.

        Ends after `seconds`; a server that is away for less is waited for.
        """
        limit = TimeLimit(seconds)
        while True:
            try:
                listed = self._list(kind, labels)
            except Unreachable:
                if not self._has_answered or limit.is_over:
                    raise
                continue
            found = {item["metadata"]["name"]: item for item in listed["items"]}
            yield found
            for change, changed in self._changes(kind, labels, listed["metadata"].get("resourceVersion", "")):
                name = changed["metadata"]["name"]
                if change == "DELETED":
                    found.pop(name, None)
                else:
                    found[name] = changed
                yield found
            if limit.is_over:
                return

    def _changes(self, kind: str, labels: str, since: str) -> Iterator[tuple[str, Object]]:
        with translated(f"watch {PLURALS[kind]}"):
            try:
                stream = self._request(
                    "get",
                    self._path(kind),
                    answer_seconds=_WATCH_SECONDS + _CONNECT_SECONDS,
                    label_selector=labels,
                    resource_version=since,
                    watch=True,
                    timeout_seconds=_WATCH_SECONDS,
                )
            except (GoneError, *_AWAY):  # too much has changed since, or nobody is there: who lists again sees it
                return
            try:
                for line in iter_resp_lines(stream):
                    event = json.loads(line)
                    if event["type"] not in ("ADDED", "MODIFIED", "DELETED"):
                        return
                    yield event["type"], event["object"]
            except (*_AWAY, ValueError):  # cut off: the same
                return
            finally:
                stream.close()
                stream.release_conn()

    # --- logs and events ---

    def log(self, pod: str, container: str, previous: bool = False, lines: int | None = None) -> bytes | None:
        """Return the log of a container; None if it never ran, or no longer exists.

        When its node does not answer, the returned text says so, since the log is seldom essential.
        """
        query = [("container", container), ("previous", str(previous).lower())]
        query += [] if lines is None else [("tailLines", str(lines))]
        with translated(f"read the log of '{pod}'"):
            try:
                return self._call("get", self._path("Pod", pod, "log"), query_params=query)
            except DynamicApiError as error:
                if error.status in (400, 404):
                    return None
                if error.status >= 500:
                    return f"(Kubernetes could not read this log: {_text_of(error)})\n".encode()
                raise

    def warnings(self, name: str) -> Sequence[str]:
        """Return the warning events about an object, the latest last."""
        events = self.list("Event", fields=f"involvedObject.name={name},type=Warning")
        events.sort(key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))
        return [f"{event.get('reason')}: {event.get('message')}" for event in events]


def _has_kubeconfig() -> bool:
    if os.environ.get("KUBECONFIG"):
        return True
    return "KUBERNETES_SERVICE_HOST" not in os.environ or os.path.exists(os.path.expanduser("~/.kube/config"))

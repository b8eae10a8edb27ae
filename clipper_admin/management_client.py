"""ManagementClient: one method per route of the management frontend."""

import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from clipper_admin import http_client
from clipper_admin.model_spec import ModelSpec


class ManagementClient:
    """Speaks to the management frontend at the address that `get_address` returns.

    Methods return the JSON of the answer, and raise ClipperException with the frontend's own text for an error.
    """

    def __init__(self, get_address: Callable[[], str]) -> None:
        self._get_address = get_address

    def ping(self) -> None:
        """Raise ClipperException unless the frontend answers."""
        http_client.call("management frontend", self._get_address(), "/admin/ping")

    # --- applications and links ---

    def add_app(
        self,
        name: str,
        input_type: str,
        default_output: str,
        latency_slo_micros: int,
        missing_values: bool = False,
        max_body_bytes: int | None = None,
    ) -> None:
        """Register an application."""
        optional: dict[str, Any] = {"missing_values": True} if missing_values else {}
        if max_body_bytes is not None:
            optional["max_body_bytes"] = max_body_bytes
        self._post(
            "add_app",
            name=name,
            input_type=input_type,
            default_output=default_output,
            latency_slo_micros=latency_slo_micros,
            **optional,
        )

    def delete_app(self, name: str) -> None:
        """Forget an application."""
        self._post("delete_app", name=name)

    def add_model_link(self, app_name: str, model_name: str) -> None:
        """Route the queries of an application to a model."""
        self._post("add_model_links", app_name=app_name, model_names=[model_name])

    def delete_model_link(self, app_name: str, model_name: str) -> None:
        """Undo `add_model_link`."""
        self._post("delete_model_links", app_name=app_name, model_names=[model_name])

    def set_selection_policy(self, app_name: str, policy: str, options: dict[str, Any]) -> None:
        """Set how an application chooses among its models."""
        self._post("set_selection_policy", app_name=app_name, policy=policy, options=options)

    def get_selection_policy(self, app_name: str) -> dict[str, Any]:
        """The policy of an application, its options, and the models that it is linked to."""
        value: dict[str, Any] = json.loads(self._post("get_selection_policy", app_name=app_name))
        return value

    def delete_selection_state(self, app_name: str) -> None:
        """Forget what the policy of an application has learned."""
        self._post("delete_selection_state", app_name=app_name)

    def get_all_applications(self, verbose: bool) -> list[Any]:
        """Names of all applications; with `verbose` dictionaries."""
        return self._read_list("get_all_applications", verbose=verbose)

    def get_application(self, name: str) -> dict[str, Any] | None:
        """An application, None when it is unknown."""
        return self._read_object("get_application", name=name)

    def get_linked_models(self, app_name: str) -> list[str]:
        """Names of the models that an application is linked to."""
        return self._read_list("get_linked_models", app_name=app_name)

    # --- models ---

    def add_model(self, model: ModelSpec, check_only: bool = False) -> None:
        """Register a model version; with `check_only` find out whether that would succeed."""
        self._post("add_model", **model.to_json(), model_data_path="DEPRECATED", check_only=check_only)

    def delete_versioned_model(self, name: str, version: str) -> None:
        """Forget a model version."""
        self._post("delete_versioned_model", model_name=name, model_version=version)

    def set_model_version(self, name: str, version: str) -> None:
        """Make `version` the current one."""
        self._post("set_model_version", model_name=name, model_version=version)

    def set_batching(self, name: str, version: str, **wanted: Any) -> None:
        """Change how a model version is batched, as far as `wanted` says."""
        self._post("set_batching", model_name=name, model_version=version, **wanted)

    def get_all_models(self, verbose: bool) -> list[Any]:
        """All model versions as ``name:version``; with `verbose` dictionaries."""
        return self._read_list("get_all_models", verbose=verbose)

    def get_model(self, name: str, version: str) -> dict[str, Any] | None:
        """A model version, None when it is unknown."""
        return self._read_object("get_model", model_name=name, model_version=version)

    # --- replicas ---

    def get_all_containers(self, verbose: bool) -> list[Any]:
        """All connected replicas as ``name:version:replica``; with `verbose` dictionaries."""
        return self._read_list("get_all_containers", verbose=verbose)

    def get_container(self, name: str, version: str, replica_id: int) -> dict[str, Any] | None:
        """A connected replica, None when it is unknown."""
        return self._read_object("get_container", model_name=name, model_version=version, replica_id=replica_id)

    def count_replicas(self, name: str, version: str) -> int:
        """Return the number of replicas of a model version that are connected to the query frontend."""
        prefix = f"{name}:{version}:"
        return sum(replica.startswith(prefix) for replica in self.get_all_containers(verbose=False))

    def frontends_without_replica(self, name: str, version: str) -> list[str]:
        """The query frontends that cannot reach a replica of a model version, neither by themselves nor relayed.

        Empty when the management frontend is too old to know.
        """
        try:
            return self._read_list("get_frontends_without_replica", model_name=name, model_version=version)
        except http_client.ErrorStatus as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return []
            raise

    def _read_list(self, route: str, **keys: Any) -> list[Any]:
        value: list[Any] = json.loads(self._post(route, **keys))
        return value

    def _read_object(self, route: str, **keys: Any) -> dict[str, Any] | None:
        value: dict[str, Any] = json.loads(self._post(route, **keys))
        return value or None

    def _post(self, route: str, **keys: Any) -> str:
        return http_client.call("management frontend", self._get_address(), f"/admin/{route}", keys)

"""The answers of routes that change nothing: records as JSON values."""

from typing import Any

from clipper_common.constants import MAX_OUTPUT_BYTES
from clipper_common.datatypes import ModelId
from clipper_common.errors import QueryError
from clipper_common.layout import LAYOUT, Faults
from clipper_common.records import Application, Model, Replica, Selection
from clipper_common.selection_policies import Single
from clipper_common.snapshot import Snapshot
from management_frontend.schemas import (
    AppSelection,
    LinkedModels,
    Listing,
    NamedApplication,
    Nothing,
    NumberedReplica,
    SelectionState,
    VersionedModel,
)
from management_frontend.wrong import need

Json = dict[str, Any]


def applications(snapshot: Snapshot, wanted: Listing) -> list[str] | list[Json]:
    if wanted.verbose:
        return [_application(snapshot, app) for app in snapshot.applications.values()]
    return list(snapshot.applications)


def application(snapshot: Snapshot, wanted: NamedApplication) -> Json:
    need(snapshot.faults, LAYOUT.application_place(wanted.name), LAYOUT.links_place(wanted.name))
    app = snapshot.applications.get(wanted.name)
    return _application(snapshot, app) if app else {}


def linked_models(snapshot: Snapshot, wanted: LinkedModels) -> list[str]:
    need(snapshot.faults, LAYOUT.application_place(wanted.app_name), LAYOUT.links_place(wanted.app_name))
    if wanted.app_name not in snapshot.applications:
        raise QueryError(f"No application with name '{wanted.app_name}' exists.")
    return _linked_models(snapshot, wanted.app_name)


def selection_policy(snapshot: Snapshot, wanted: AppSelection) -> Json:
    need(snapshot.faults, LAYOUT.application_place(wanted.app_name), LAYOUT.links_place(wanted.app_name))
    app = snapshot.applications.get(wanted.app_name)
    if app is None:
        raise QueryError(f"No app with name '{wanted.app_name}' exists.")
    return {**_selection(app.selection), "linked_models": _linked_models(snapshot, app.name)}


def models(snapshot: Snapshot, wanted: Listing) -> list[str] | list[Json]:
    if wanted.verbose:
        return [_model(snapshot, model) for model in snapshot.models.values()]
    return [str(model) for model in snapshot.models]


def model(snapshot: Snapshot, wanted: VersionedModel) -> Json:
    wanted_id = ModelId(wanted.model_name, wanted.model_version)
    need(snapshot.faults, LAYOUT.model_place(wanted_id), LAYOUT.current_version_place(wanted_id.name))
    found = snapshot.models.get(wanted_id)
    return _model(snapshot, found) if found else {}


def query_frontend_workers(snapshot: Snapshot, _: Nothing) -> Json:
    need(snapshot.faults, LAYOUT.workers)
    return {"workers": snapshot.workers}


def selection_state(snapshot: Snapshot, wanted: SelectionState) -> str:
    """Return the default output, which Clipper 0.4 called the state of the selection policy; empty without the
    application."""
    need(snapshot.faults, LAYOUT.application_place(wanted.app_name))
    app = snapshot.applications.get(wanted.app_name)
    return app.default_output if app else ""


Replicas = tuple[list[Replica], Faults]


def replicas(found: Replicas, wanted: Listing) -> list[str] | list[Json]:
    if wanted.verbose:
        return [_replica(replica) for replica in found[0]]
    return [f"{replica.model_id}:{replica.replica_id}" for replica in found[0]]


def replica(found: Replicas, wanted: NumberedReplica) -> Json:
    model, number = ModelId(wanted.model_name, wanted.model_version), wanted.replica_id
    need(found[1], LAYOUT.replica_place(model, number))
    return next(
        (_replica(replica) for replica in found[0] if (replica.model_id, replica.replica_id) == (model, number)), {}
    )


def _application(snapshot: Snapshot, app: Application) -> Json:
    return {
        "input_type": app.input_type.canonical_name,
        "default_output": app.default_output,
        "latency_slo_micros": app.latency_slo_micros,
        "name": app.name,
        "missing_values": app.missing_values,
        **({"max_body_bytes": app.max_body_bytes} if app.max_body_bytes else {}),
        "linked_models": _linked_models(snapshot, app.name),
        **({"selection_policy": _selection(app.selection)} if app.selection else {}),
    }


def _linked_models(snapshot: Snapshot, app_name: str) -> list[str]:
    return list(map(str, snapshot.links_of(app_name)))


def _selection(selection: Selection | None) -> Json:
    found = selection or Selection(Single.name, generation=0)
    return {"policy": found.policy, "options": found.options, "generation": found.generation}


def _model(snapshot: Snapshot, model: Model) -> Json:
    return {
        "model_name": model.id.name,
        "model_version": model.id.version,
        "input_type": model.input_type.canonical_name,
        "labels": list(model.labels),
        "container_name": model.container_name,
        "model_data_path": model.model_data_path,
        "is_current_version": snapshot.current_versions.get(model.id.name) == model.id.version,
        "batch_policy": model.batch_policy,
        "batch_size": model.batch_size,
        "batch_delay_micros": model.batch_delay_micros,
        "batch_wait": model.batch_wait,
        **({"max_output_bytes": model.max_output_bytes} if model.max_output_bytes != MAX_OUTPUT_BYTES else {}),
    }


def _replica(replica: Replica) -> Json:
    return {
        "model_id": str(replica.model_id),
        "model_name": replica.model_id.name,
        "model_version": replica.model_id.version,
        "model_replica_id": replica.replica_id,
        "input_type": replica.input_type.canonical_name,
    }

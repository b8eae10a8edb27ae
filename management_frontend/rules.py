"""The rules for changes of the configuration.

A rule is a pure function of the configuration and a request. It returns the writes and the text of the answer, or
raises `QueryError` for a change that is not allowed.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from clipper_common import changes
from clipper_common.changes import Write
from clipper_common.constants import (
    DEFAULT_BATCH_SIZE,
    MAX_APPLICATIONS,
    MAX_DEFAULT_OUTPUT_BYTES,
    MAX_LABELS,
    MAX_MODEL_VERSIONS,
    MAX_NAME_LENGTH,
    MAX_OUTPUT_BYTES,
    MAX_PATH_LENGTH,
    MAX_WORKERS,
    SIZE_LIMITS,
)
from clipper_common.datatypes import BatchPolicy, InputType, ModelId, escape, is_app_name, is_id_part, is_model_name
from clipper_common.errors import QueryError
from clipper_common.layout import LAYOUT
from clipper_common.records import Application, Model
from clipper_common.snapshot import Snapshot
from management_frontend.schemas import (
    AddApplication,
    AddModel,
    NamedApplication,
    SetBatching,
    SetWorkers,
    VersionedModel,
)
from management_frontend.wrong import need


class Change(NamedTuple):
    """The writes of a change, and its answer."""

    writes: Sequence[Write]
    text: str
    """The text of the answer, once the writes are committed."""


Rule = Callable[[Snapshot], Change]


# --- applications ---


def add_application(snapshot: Snapshot, wanted: AddApplication) -> Change:
    name = wanted.name
    if not is_app_name(name):
        raise QueryError(
            f"Invalid name supplied: '{name[: MAX_NAME_LENGTH + 1]}'. It becomes part of the URL /<name>/predict: "
            "use the letters A-Z and a-z, digits and any of '_', '-', '.', '~', but not '.' or '..' alone, "
            f"{MAX_NAME_LENGTH} characters at the most"
        )
    if len(wanted.default_output.encode(errors="replace")) > MAX_DEFAULT_OUTPUT_BYTES:
        raise QueryError(f"default_output is larger than {MAX_DEFAULT_OUTPUT_BYTES} bytes")
    if wanted.latency_slo_micros <= 0:
        raise QueryError(f"latency_slo_micros must be greater than 0, not {wanted.latency_slo_micros}")
    need(snapshot.faults, LAYOUT.application_place(name))
    if name in snapshot.applications:
        raise QueryError(f"application '{name}' already exists")
    if len(snapshot.applications) >= MAX_APPLICATIONS:
        raise QueryError(f"There are {len(snapshot.applications)} applications, and no more can be added: delete some")
    if wanted.missing_values and wanted.input_type not in (InputType.FLOATS, InputType.DOUBLES):
        raise QueryError(
            f"missing_values is for the input types floats and doubles: {wanted.input_type.canonical_name} have none"
        )
    _check_size_limit("max_body_bytes", wanted.max_body_bytes)
    app = Application(
        name,
        wanted.input_type,
        wanted.default_output,
        wanted.latency_slo_micros,
        missing_values=wanted.missing_values,
        max_body_bytes=wanted.max_body_bytes or 0,
    )
    # Clipper 0.4 left the links of a deleted application behind.
    writes = changes.delete_application(name) + changes.put_application(app)
    return Change(writes, f"Successfully added application with name '{name}'")


def _check_size_limit(name: str, limit: int | None) -> None:
    if limit is not None and limit not in SIZE_LIMITS:
        raise QueryError(f"{name} must be from {SIZE_LIMITS[0]} to {SIZE_LIMITS[-1]}, and is {limit}")


def delete_application(snapshot: Snapshot, wanted: NamedApplication) -> Change:
    """Delete an application, even if its record is invalid."""
    if wanted.name not in snapshot.applications and LAYOUT.application_place(wanted.name) not in snapshot.faults:
        raise QueryError(f"Application '{wanted.name}' does not exist")
    return Change(
        changes.delete_application(wanted.name), f"Successfully deleted application with name '{wanted.name}'"
    )


# --- models ---


def add_model(snapshot: Snapshot, wanted: AddModel, registration: str) -> Change:
    """Add a model version. `registration` distinguishes it from any other of the same name and version."""
    name, version = wanted.model_name, wanted.model_version
    model = _new_model(wanted, registration)
    need(snapshot.faults, LAYOUT.model_place(model.id))
    if model.id in snapshot.models:
        raise QueryError(f"model with name '{name}' and version '{version}' already exists")
    _check_id_parts(snapshot, wanted)
    _check_sizes(snapshot, wanted)
    _check_size_limit("max_output_bytes", wanted.max_output_bytes)
    _check_linked_apps_accept(snapshot, name, wanted.input_type)
    if wanted.check_only:
        return Change([], f"Model with name '{name}' and version '{version}' can be added")
    writes = [changes.put_model(model)] + ([changes.put_current_version(model.id)] if wanted.make_current else [])
    kind = wanted.input_type.canonical_name
    return Change(writes, f"Successfully added model with name '{name}' and input type '{kind}'")


def _new_model(wanted: AddModel, registration: str) -> Model:
    model = Model(
        id=ModelId(wanted.model_name, wanted.model_version),
        input_type=wanted.input_type,
        labels=wanted.labels,
        container_name=wanted.container_name,
        model_data_path=wanted.model_data_path,
        registration=registration,
        max_output_bytes=wanted.max_output_bytes or MAX_OUTPUT_BYTES,
    )
    return _with_batching(model, wanted)


def set_batching(snapshot: Snapshot, wanted: SetBatching) -> Change:
    name, version = wanted.model_name, wanted.model_version
    need(snapshot.faults, LAYOUT.model_place(ModelId(name, version)))
    model = snapshot.models.get(ModelId(name, version))
    if model is None:
        raise QueryError(f"model with name '{name}' and version '{version}' does not exist")
    changed = _with_batching(model, wanted)
    size = f" of {changed.batch_size}" if changed.batch_policy is BatchPolicy.FIXED else ""
    return Change(
        [changes.put_model(changed)],
        f"Model with name '{name}' and version '{version}' now has the batch policy "
        f"'{changed.batch_policy}'{size} and a batch delay of {changed.batch_delay_micros} microseconds"
        f"{'' if changed.batch_wait else ', and waits for no clients'}",
    )


def _with_batching(model: Model, wanted: AddModel | SetBatching) -> Model:
    """Return `model` with the requested batching.

    A positive batch size replaces a policy that learns the size, and such a policy replaces a fixed size.
    """
    policy, size = wanted.batch_policy, wanted.batch_size
    delay = model.batch_delay_micros if wanted.batch_delay_micros is None else wanted.batch_delay_micros
    if size is None:
        size = model.batch_size if policy in (None, BatchPolicy.FIXED) else DEFAULT_BATCH_SIZE
    if size <= 0 and size != DEFAULT_BATCH_SIZE:
        raise QueryError(f"The batch size must be positive or DEFAULT_BATCH_SIZE, which is {DEFAULT_BATCH_SIZE}")
    if policy is BatchPolicy.FIXED and size == DEFAULT_BATCH_SIZE:
        raise QueryError(f"The batch policy '{policy}' needs a positive batch_size")
    if policy not in (None, BatchPolicy.FIXED) and size != DEFAULT_BATCH_SIZE:
        raise QueryError(
            f"The batch policy '{policy}' learns the batch size, but batch_size fixes it to {size}: "
            f"leave out one of the two, or give the batch_size {DEFAULT_BATCH_SIZE}"
        )
    if delay < 0:
        raise QueryError(f"batch_delay_micros must not be negative, and is {delay}")
    learning = model.learning_policy if policy in (None, BatchPolicy.FIXED) else policy
    waits = model.batch_wait if wanted.batch_wait is None else wanted.batch_wait
    return replace(model, batch_size=size, learning_policy=learning, batch_delay_micros=delay, batch_wait=waits)


def _check_id_parts(snapshot: Snapshot, wanted: AddModel) -> None:
    new_names = [("model name", wanted.model_name), ("model version", wanted.model_version)]
    if snapshot.versions(wanted.model_name):  # a name that was accepted once is accepted for further versions
        del new_names[0]
    for what, text in [*new_names, *(("label", label) for label in wanted.labels)]:
        if len(text) > MAX_NAME_LENGTH:
            raise QueryError(f"Invalid {what} supplied: it is longer than {MAX_NAME_LENGTH} characters")
        if not (is_id_part if what == "label" else is_model_name)(text):
            raise QueryError(f"Invalid {what} supplied: {escape(text)}. Contains one of: {_forbidden(what, text)}")
    for what, text in new_names:
        if not text:
            raise QueryError(f"Invalid {what} supplied: it is empty")


def _forbidden(what: str, text: str) -> str:
    """Return the list of forbidden characters; for those that 0.4 refused, in its words."""
    if "," in text or ":" in text:
        return "',', ':'"
    return "',', ':', " + ("" if what == "label" else "'/', ") + "control characters, bidirectional characters"


def _check_sizes(snapshot: Snapshot, wanted: AddModel) -> None:
    if len(wanted.labels) > MAX_LABELS:
        raise QueryError(f"A model version has at most {MAX_LABELS} labels, not {len(wanted.labels)}")
    for what, text in (("container_name", wanted.container_name), ("model_data_path", wanted.model_data_path)):
        if len(text) > MAX_PATH_LENGTH:
            raise QueryError(f"{what} is longer than {MAX_PATH_LENGTH} characters")
    if len(snapshot.models) >= MAX_MODEL_VERSIONS:
        raise QueryError(f"There are {len(snapshot.models)} model versions, and no more can be added: delete some")


def _check_linked_apps_accept(snapshot: Snapshot, model_name: str, input_type: InputType) -> None:
    for app in snapshot.apps_linked_to(model_name):
        if app.input_type is not input_type:
            raise QueryError(
                f"Model with name '{model_name}' is already linked to app '{app.name}' "
                f"using input type '{app.input_type.canonical_name}'. The input type you provided for "
                f"a new version of the model, '{input_type.canonical_name}', is not compatible."
            )


def delete_versioned_model(snapshot: Snapshot, wanted: VersionedModel) -> Change:
    """Delete a model version, even if its record is invalid."""
    model = ModelId(wanted.model_name, wanted.model_version)
    if model not in snapshot.models and LAYOUT.model_place(model) not in snapshot.faults:
        raise QueryError(f"model with name '{model.name}' and version '{model.version}' does not exist")
    writes = [changes.delete_model(model)]
    if snapshot.current_versions.get(model.name) == model.version:
        writes.append(changes.delete_current_version(model.name))
    return Change(writes, f"Successfully deleted model with name '{model.name}' and version '{model.version}'")


def set_model_version(snapshot: Snapshot, wanted: VersionedModel) -> Change:
    name, version = wanted.model_name, wanted.model_version
    need(snapshot.faults, LAYOUT.model_place(ModelId(name, version)))
    if not snapshot.versions(name):
        raise QueryError(f"Cannot set version for nonexistent model '{name}'")
    model = snapshot.models.get(ModelId(name, version))
    if model is None:
        raise QueryError(f"Cannot set non-existent version '{version}' for model with name '{name}'")
    _check_linked_apps_accept(snapshot, name, model.input_type)
    return Change(
        [changes.put_current_version(model.id)], f"Successfully set model with name '{name}' to version '{version}'"
    )


# --- query frontends ---


def set_query_frontend_workers(snapshot: Snapshot, wanted: SetWorkers) -> Change:
    if not 1 <= wanted.workers <= MAX_WORKERS:
        raise QueryError(f"workers must be from 1 to {MAX_WORKERS}, not {wanted.workers}")
    return Change([changes.put_workers(wanted.workers)], f"Each query frontend now has {wanted.workers} workers")

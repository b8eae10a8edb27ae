"""The rules for the links of applications to models, and for the policies that choose among them.

As in `rules`, a rule is a pure function of the configuration and a request.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from clipper_common import changes
from clipper_common.changes import Write
from clipper_common.datatypes import Link, ModelId
from clipper_common.errors import PolicyError, QueryError
from clipper_common.layout import LAYOUT, Place
from clipper_common.records import Application, Model, Selection
from clipper_common.selection_policies import Policy, Single, Split, read_policy
from clipper_common.snapshot import Snapshot
from management_frontend.rules import Change
from management_frontend.schemas import AppSelection, ModelLinks, SetSelectionPolicy
from management_frontend.wrong import need

AVAILABLE: Final = (Single.name, Split.name)
"""The policies by which query frontends of this version can choose."""

# --- links ---


def add_model_links(snapshot: Snapshot, wanted: ModelLinks) -> Change:
    app = _application(snapshot, wanted.app_name)
    links = [Link.parse(name) for name in wanted.model_names]
    for link in links:
        _check_model_fits(snapshot, link, app)
    link = _only_link(wanted)
    selection = _selection_of(app)
    _check_not_linked(snapshot, app.name, link, takes_several=selection is not None)
    text = f"Successfully linked model with name '{link}' to application '{app.name}'"
    if selection is None:
        return Change([changes.put_link(app.name, link.model_name)], text)
    return Change(_relinked(snapshot, app.name, selection, (*snapshot.links_of(app.name), link)), text)


def _application(snapshot: Snapshot, name: str) -> Application:
    need(snapshot.faults, LAYOUT.application_place(name), LAYOUT.links_place(name))
    app = snapshot.applications.get(name)
    if app is None:
        raise QueryError(f"No app with name '{name}' exists.")
    return app


def _check_model_fits(snapshot: Snapshot, link: Link, app: Application) -> None:
    for model in _models_of(snapshot, link):
        if model.input_type is not app.input_type:
            raise QueryError(
                f"Model with name '{link}' has incompatible input_type '{model.input_type.canonical_name}'. "
                f"Requested app to link to has input_type '{app.input_type.canonical_name}'."
            )


def _models_of(snapshot: Snapshot, link: Link) -> Sequence[Model]:
    """Return the model version that a link is to; all versions if it is to the current one, and there is none."""
    name = link.model_name
    if link.version is not None:
        model_id = ModelId(name, link.version)
        need(snapshot.faults, LAYOUT.model_place(model_id))
        if model_id not in snapshot.models:
            raise QueryError(f"No model with name '{name}' and version '{link.version}' exists.")
        return [snapshot.models[model_id]]
    current_version = ModelId(name, snapshot.current_versions.get(name, ""))
    need(snapshot.faults, LAYOUT.current_version_place(name), LAYOUT.model_place(current_version))
    versions = [model for model in snapshot.models.values() if model.id.name == name]
    if not versions:
        need(snapshot.faults, *_wrong_versions(snapshot, name))
        raise QueryError(f"No model with name '{name}' exists.")
    current = snapshot.models.get(current_version)
    return [current] if current else versions


def _wrong_versions(snapshot: Snapshot, name: str) -> list[Place]:
    return [
        place
        for place in snapshot.faults
        if LAYOUT.collection_at(place) is LAYOUT.models
        and ModelId.parse(LAYOUT.models.record_name(place.key)).name == name
    ]


def _only_link(wanted: ModelLinks) -> Link:
    if not wanted.model_names:
        raise QueryError(
            f"Please provide the name of the model that you want to link to the application '{wanted.app_name}'"
        )
    if len(wanted.model_names) > 1:
        raise QueryError(
            "Applications must be linked with at most one model. "
            f"Attempted to add links to {len(wanted.model_names)} models."
        )
    return Link.parse(wanted.model_names[0])


def _check_not_linked(snapshot: Snapshot, app_name: str, link: Link, takes_several: bool) -> None:
    linked = snapshot.links_of(app_name)
    if link in linked:
        raise QueryError(f"The model with name '{link}' is already linked to '{app_name}'")
    if takes_several:
        return
    if linked:
        raise QueryError(f"A model with name {linked[0]} is already linked to '{app_name}'.")
    if link.version is not None:
        raise QueryError(
            f"Application '{app_name}' has the selection policy 'single', and follows the current version of a model: "
            f"link it to '{link.model_name}', or set another policy before it is linked to version '{link.version}'"
        )


def delete_model_links(snapshot: Snapshot, wanted: ModelLinks) -> Change:
    app_name = wanted.app_name
    need(snapshot.faults, LAYOUT.application_place(app_name), LAYOUT.links_place(app_name))
    app = snapshot.applications.get(app_name)
    if app is None:
        raise QueryError(f"No app with name {app_name} exists.")
    linked, unwanted = snapshot.links_of(app_name), list(map(Link.parse, wanted.model_names))
    for link in unwanted:
        if link not in linked:
            raise QueryError(f"Cannot remove nonexistent link between app {app_name} and model {link}")
    selection = _selection_of(app)
    if selection is None or not unwanted:
        return Change([changes.delete_link(app_name, link.model_name) for link in unwanted], "Success!")
    kept = [link for link in linked if link not in unwanted]
    try:
        return Change(_relinked(snapshot, app_name, selection, kept), "Success!")
    except QueryError as error:
        raise QueryError(
            f"Without the link to {', '.join(map(str, unwanted))}, the selection policy of application '{app_name}' "
            f"cannot be used: {error}. Set another policy, or the same without that link, first"
        ) from None


# --- selection policies ---


def set_selection_policy(snapshot: Snapshot, wanted: SetSelectionPolicy) -> Change:
    app = _application(snapshot, wanted.app_name)
    links = snapshot.links_of(app.name)
    policy = _read_policy(wanted.policy, wanted.options or {}, links)
    if policy.name not in AVAILABLE:
        raise QueryError(
            f"The selection policy '{policy.name}' is not available in this version. Use one of {', '.join(AVAILABLE)}"
        )
    if policy.name == Single.name and any(link.version is not None for link in links):
        raise QueryError(
            f"The selection policy 'single' follows the current version of a model, and application '{app.name}' is "
            f"linked to {links[0]}: link it to '{links[0].model_name}', and remove the other link, first"
        )
    text = f"Application '{app.name}' now has the selection policy '{policy.name}'"
    before = app.selection or Selection(Single.name, generation=0)
    if (before.policy, before.options) == (policy.name, policy.options()):
        return Change([], text)
    selection = Selection(policy.name, policy.options(), before.generation + 1)
    return Change(_with_links(snapshot, app.name, selection, links), text)


def delete_selection_state(snapshot: Snapshot, wanted: AppSelection) -> Change:
    """Delete the state of a policy: no available one has any."""
    app = _application(snapshot, wanted.app_name)
    name = app.selection.policy if app.selection else Single.name
    return Change([], f"The selection policy '{name}' of application '{app.name}' learns nothing: it has no state")


def _selection_of(app: Application) -> Selection | None:
    """Return the selection of an application that may have several links."""
    return app.selection if app.selection and app.selection.policy != Single.name else None


def _relinked(snapshot: Snapshot, app_name: str, selection: Selection, links: Sequence[Link]) -> Sequence[Write]:
    """Return the writes of other links for an application. Raises `QueryError` if its policy cannot use them."""
    _read_policy(selection.policy, selection.options, links)
    return _with_links(snapshot, app_name, selection, links)


def _with_links(snapshot: Snapshot, app_name: str, selection: Selection, links: Sequence[Link]) -> Sequence[Write]:
    kept = replace(selection, links=() if selection.policy == Single.name else tuple(links))
    # A program that knows no selection policies goes on with the model that was linked first.
    names = [link.model_name for link in links[:1]]
    return changes.put_selection(app_name, kept, linked=snapshot.links.get(app_name, ()), wanted=names)


def _read_policy(name: str, options: Mapping[str, Any], links: Sequence[Link]) -> Policy:
    try:
        return read_policy(name, options, map(str, links))
    except PolicyError as error:
        raise QueryError(str(error)) from None

"""The places of the records that a request is about.

They are read again for each request, since programs that do not increment the revision may have written them.
"""

from typing import Final

from clipper_common.datatypes import Link, ModelId
from clipper_common.layout import LAYOUT, Place
from clipper_common.snapshot import Snapshot
from management_frontend.schemas import (
    AddApplication,
    AddModel,
    AppSelection,
    LinkedModels,
    ModelLinks,
    NamedApplication,
    SelectionState,
    SetBatching,
    SetSelectionPolicy,
    VersionedModel,
)

_MAX_NAMES: Final = 2
"""The most models of a request whose places are read. A request with more is refused without looking at them."""


def places_of(request: object, known: Snapshot) -> list[Place]:
    """Return the places that `request` names, and those of the current versions in the snapshot `known`."""
    match request:
        case AddApplication(name=app) | NamedApplication(name=app):
            return _application(app)
        case (
            LinkedModels(app_name=app)
            | SelectionState(app_name=app)
            | AppSelection(app_name=app)
            | SetSelectionPolicy(app_name=app)
        ):
            return _application(app)
        case ModelLinks(app_name=app, model_names=names):
            return [*_application(app), *(place for name in names[:_MAX_NAMES] for place in _linked(name, known))]
        case (
            AddModel(model_name=name, model_version=version)
            | SetBatching(model_name=name, model_version=version)
            | VersionedModel(model_name=name, model_version=version)
        ):
            return [LAYOUT.model_place(ModelId(name, version)), LAYOUT.current_version_place(name)]
        case _:
            return []


def _application(name: str) -> list[Place]:
    return [LAYOUT.application_place(name), LAYOUT.links_place(name)]


def _linked(name: str, known: Snapshot) -> list[Place]:
    link = Link.parse(name)
    if link.version is not None:
        return [LAYOUT.model_place(ModelId(link.model_name, link.version))]
    return _current(link.model_name, known)


def _current(model_name: str, known: Snapshot) -> list[Place]:
    version = known.current_versions.get(model_name)
    current = [] if version is None else [LAYOUT.model_place(ModelId(model_name, version))]
    return [LAYOUT.current_version_place(model_name), *current]

"""The configuration at one revision, as a value."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from clipper_common.datatypes import Link, ModelId
from clipper_common.layout import LAYOUT, Faults, Place
from clipper_common.records import Application, Model


@dataclass(frozen=True)
class Snapshot:
    """The configuration at one revision. It is never changed; each change makes a new snapshot."""

    revision: int = 0
    applications: Mapping[str, Application] = field(default_factory=dict)
    models: Mapping[ModelId, Model] = field(default_factory=dict)
    current_versions: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The names of the models that are linked to each application, by its name. `links_of` has all links of one."""
    workers: int | None = None
    """The number of workers of each query frontend; None if it was never set."""
    epoch: str = ""
    """The epoch of the Redis from which it was read; empty if Redis is new or lost its data."""
    faults: Faults = field(default_factory=dict, compare=False)
    """The places of the invalid records in Redis, with the reasons."""

    def places(self) -> Iterator[Place]:
        """Yield the places of its records."""
        yield from map(LAYOUT.application_place, self.applications)
        yield from map(LAYOUT.model_place, self.models)
        yield from map(LAYOUT.current_version_place, self.current_versions)
        yield from map(LAYOUT.links_place, self.links)
        if self.workers is not None:
            yield LAYOUT.workers

    def versions(self, model_name: str) -> list[str]:
        return [model.version for model in self.models if model.name == model_name]

    def links_of(self, app_name: str) -> tuple[Link, ...]:
        """Return the links of an application: those of its selection policy if it has any."""
        app = self.applications.get(app_name)
        if app is not None and app.selection is not None and app.selection.links:
            return app.selection.links
        return tuple(Link(name) for name in self.links.get(app_name, ()))

    def apps_linked_to(self, model_name: str) -> list[Application]:
        return [
            app
            for name, app in self.applications.items()
            if any(link.model_name == model_name for link in self.links_of(name))
        ]

    def same_configuration(self, other: "Snapshot") -> bool:
        return replace(self, revision=other.revision, epoch=other.epoch) == other

"""The layout of Redis: which database holds what, and how keys are named and found.

The databases 1 to 7 are those of Clipper 0.4, and database 0 has the keys that 0.4 did not have. `docs/redis-schema.md`
has the tables. `scripts` puts its facts into the scripts. The commands that belong to it, such as how keys are listed,
are in the file of the folder `lua` that it names.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from clipper_common.datatypes import ModelId, printable


class Place(NamedTuple):
    """The database and the key of a record."""

    database: int
    key: str

    def __str__(self) -> str:
        return f"'{printable(self.key)}' in database {self.database}"


Faults = Mapping[Place, str]
"""The reasons why the records in these places are invalid."""


@dataclass(frozen=True, slots=True, eq=False)
class Collection:
    """The records of one kind: their database, their type in Redis, and the rest of their keys besides their names."""

    name: str
    database: int
    type: Literal["hash", "set", "string"]
    prefix: str = ""
    suffix: str = ""

    def place(self, name: str) -> Place:
        """Return the place of the record with this name."""
        return Place(self.database, f"{self.prefix}{name}{self.suffix}")

    def record_name(self, key: str) -> str:
        """Return the name of the record with this key, if the key is a proper one."""
        return key.removeprefix(self.prefix).removesuffix(self.suffix)


@dataclass(frozen=True, slots=True)
class Layout:
    """The places of all data: a single value has a place, and the records of one kind have a collection."""

    lua: str
    """The name of the file with the commands by which scripts find and write the records of collections."""
    home: int
    """The database of all keys that are in no collection. Scripts begin in it."""

    applications: Collection
    states: Collection
    """The states of selection policies, which 0.4 reads."""
    models: Collection
    current_versions: Collection
    links: Collection
    replicas: Collection
    frontends: Collection
    replica_numbers: Collection
    """The numbers of replicas, which they get again when they come back."""
    replica_counts: Collection
    """The number that the next new replica of each model version gets."""

    schema_version: Place
    revision: Place
    epoch: Place
    journal: Place
    workers: Place
    cluster: Place
    last_cluster: Place
    living_frontends: Place
    nothing: Place
    """A key that never exists. Deleting it shows whether Redis accepts writes."""

    changes_channel: str
    """A message on it is the revision of a change that was committed."""
    frontends_channel: str
    """A message on it says that query frontends started or stopped, or that their replicas changed."""

    @property
    def configuration(self) -> tuple[Collection, ...]:
        """The collections of the configuration."""
        return self.applications, self.models, self.current_versions, self.links

    def collection_at(self, place: Place) -> Collection | None:
        """Return the collection of the configuration that a place is in."""
        return next((found for found in self.configuration if found.database == place.database), None)

    def application_place(self, name: str) -> Place:
        return self.applications.place(name)

    def state_place(self, app_name: str) -> Place:
        return self.states.place(app_name)

    def links_place(self, app_name: str) -> Place:
        return self.links.place(app_name)

    def model_place(self, model: ModelId) -> Place:
        return self.models.place(str(model))

    def current_version_place(self, model_name: str) -> Place:
        return self.current_versions.place(model_name)

    def replica_place(self, model: ModelId, replica_id: int) -> Place:
        return self.replicas.place(f"{model.name},{model.version},{replica_id}")


LAYOUT: Final = Layout(
    lua="databases",
    home=0,
    applications=Collection("applications", 5, "hash"),
    states=Collection("states", 1, "string", suffix=":0:0"),
    models=Collection("models", 2, "hash"),
    current_versions=Collection("current_versions", 6, "string", prefix="CURRENT_MODEL_VERSION:"),
    links=Collection("links", 7, "set"),
    replicas=Collection("replicas", 3, "hash"),
    frontends=Collection("frontends", 0, "hash", prefix="clipper:frontend:"),
    replica_numbers=Collection("replica_numbers", 0, "string", prefix="clipper:replica_number:"),
    replica_counts=Collection("replica_counts", 0, "string", prefix="clipper:replica_count:"),
    schema_version=Place(0, "clipper:schema_version"),
    revision=Place(0, "clipper:revision"),
    epoch=Place(0, "clipper:epoch"),
    journal=Place(0, "clipper:journal"),
    workers=Place(0, "clipper:workers"),
    cluster=Place(0, "clipper:cluster"),
    last_cluster=Place(0, "clipper:last_cluster"),
    living_frontends=Place(0, "clipper:living_frontends"),
    nothing=Place(0, "clipper:nothing"),
    changes_channel="clipper:changes",
    frontends_channel="clipper:frontends_changed",
)
"""Each kind of record has a database of its own, and the keys of the database are its index."""

"""The layout of Redis is that of Clipper 0.4, and of what was added to it since."""

import pytest

from clipper_common.datatypes import ModelId
from clipper_common.layout import LAYOUT, Collection


def test_places() -> None:
    model = ModelId("m", "1")
    assert LAYOUT.application_place("app") == (5, "app")
    assert LAYOUT.state_place("app") == (1, "app:0:0")
    assert LAYOUT.links_place("app") == (7, "app")
    assert LAYOUT.model_place(model) == (2, "m:1")
    assert LAYOUT.current_version_place("m") == (6, "CURRENT_MODEL_VERSION:m")
    assert LAYOUT.replica_place(model, 7) == (3, "m,1,7")
    assert LAYOUT.frontends.place("host:7000:1f") == (0, "clipper:frontend:host:7000:1f")
    assert LAYOUT.replica_numbers.place("m:1,x") == (0, "clipper:replica_number:m:1,x")
    assert LAYOUT.replica_counts.place("m:1") == (0, "clipper:replica_count:m:1")


@pytest.mark.parametrize("collection", LAYOUT.configuration, ids=lambda collection: collection.name)
def test_a_place_tells_its_collection_and_its_name(collection: Collection) -> None:
    place = collection.place("some name")
    assert LAYOUT.collection_at(place) is collection
    assert collection.record_name(place.key) == "some name"


def test_what_is_in_no_collection_of_the_configuration() -> None:
    for place in (LAYOUT.workers, LAYOUT.state_place("app"), LAYOUT.replica_place(ModelId("m", "1"), 0)):
        assert LAYOUT.collection_at(place) is None

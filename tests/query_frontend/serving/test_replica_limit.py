"""Which container gives its place to another one when no more may be connected."""

from typing import Any, cast

import pytest

from clipper_common import wire
from clipper_common.datatypes import InputType, ModelId
from query_frontend.rpc.server import ReplicaConnection
from query_frontend.serving.replica_limit import UNREGISTERED, Group, ReplicaLimit

FIRST, SECOND, THIRD = (ModelId("m", str(version)) for version in (1, 2, 3))


class Places:
    """Containers that connect one after the other."""

    def __init__(self, most: int) -> None:
        self.limit = ReplicaLimit(most)
        self.connected: dict[ReplicaConnection, Group] = {}

    def connect(self, group: Group, number: int = 1) -> int:
        """Return how many of so many containers are accepted."""
        return sum(self._connect_one(group) for _ in range(number))

    def _connect_one(self, group: Group) -> bool:
        if self.limit.is_reached:
            replaced = self.limit.replaced_by(group)
            if replaced is None:
                return False
            self.leave(replaced)
        metadata = wire.Metadata(group or ModelId("unknown", "1"), InputType.DOUBLES, 4, str(len(self.connected)))
        connection = ReplicaConnection(len(self.connected), cast(Any, None), metadata, 0.0)
        self.limit.add(group, connection)
        self.connected[connection] = group
        return True

    def leave(self, connection: ReplicaConnection) -> None:
        self.limit.remove(self.connected.pop(connection), connection)

    def sizes(self) -> list[int]:
        groups = list(self.connected.values())
        return [groups.count(group) for group in (FIRST, SECOND, THIRD, UNREGISTERED)]


def test_one_version_may_have_all_places() -> None:
    places = Places(8)
    assert places.connect(FIRST, 10) == 8


@pytest.mark.parametrize(
    ("order", "sizes"),
    [
        ([(FIRST, 9), (SECOND, 9)], [4, 4, 0, 0]),
        ([(FIRST, 9), (SECOND, 2)], [6, 2, 0, 0]),
        ([(SECOND, 2), (FIRST, 9)], [6, 2, 0, 0]),
        ([(FIRST, 9), (SECOND, 9), (THIRD, 9)], [3, 3, 2, 0]),
        ([(UNREGISTERED, 9), (FIRST, 1)], [1, 0, 0, 7]),
        ([(FIRST, 9), (UNREGISTERED, 9)], [4, 0, 0, 4]),
    ],
    ids=["two that want all", "a small one later", "a small one before", "three", "unknown before", "unknown later"],
)
def test_versions_share_the_places_fairly(order: list[tuple[Group, int]], sizes: list[int]) -> None:
    places = Places(8)
    for group, number in order:
        places.connect(group, number)
    assert places.sizes() == sizes


def test_containers_that_ask_again_do_not_displace_each_other_for_ever() -> None:
    places, groups = Places(8), (FIRST, SECOND, THIRD, UNREGISTERED)
    for group in groups:
        places.connect(group, 9)
    assert places.sizes() == [2, 2, 2, 2]
    assert not any(places.connect(group) for group in groups * 2)


def test_the_newest_gives_its_place() -> None:
    places = Places(3)
    places.connect(FIRST, 3)
    oldest, *_ = places.connected
    places.connect(SECOND)
    places.leave(oldest)
    places.connect(FIRST)
    assert places.sizes() == [2, 1, 0, 0]
    assert places.limit.replaced_by(THIRD) is list(places.connected)[-1]


def test_those_that_leave_leave_nothing() -> None:
    places = Places(4)
    for group in (FIRST, SECOND, UNREGISTERED, FIRST):
        places.connect(group)
    for connection in list(places.connected):
        places.leave(connection)
    assert not places.limit._groups and not places.limit._by_size
    assert places.connect(SECOND, 5) == 4

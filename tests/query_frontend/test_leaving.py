"""Which connections close with their next answer."""

from typing import Any

from query_frontend.leaving import Leaving


def test_as_many_leave_as_are_too_many() -> None:
    leaving = Leaving()
    connections: list[Any] = [object() for _ in range(5)]
    assert leaving.is_empty
    leaving.add(2, connections)
    chosen = {connection for connection in connections if connection in leaving}
    assert len(chosen) == 2
    leaving.add(2, connections)
    assert {connection for connection in connections if connection in leaving} == chosen, "those are under way"
    leaving.add(0, [connection for connection in connections if connection not in chosen])
    assert leaving.is_empty


def test_all_leave_whatever_else_is_said() -> None:
    leaving = Leaving()
    leaving.add_all()
    leaving.add(0, [])
    assert not leaving.is_empty
    assert object() in leaving

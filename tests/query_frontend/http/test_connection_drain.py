"""Which connections close with their next answer."""

from typing import Any

from query_frontend.http.connection_drain import ConnectionDrain


def test_as_many_leave_as_are_too_many() -> None:
    draining = ConnectionDrain()
    connections: list[Any] = [object() for _ in range(5)]
    assert draining.is_empty
    draining.add(2, connections)
    chosen = {connection for connection in connections if connection in draining}
    assert len(chosen) == 2
    draining.add(2, connections)
    assert {connection for connection in connections if connection in draining} == chosen, "those are under way"
    draining.add(0, [connection for connection in connections if connection not in chosen])
    assert draining.is_empty


def test_all_leave_whatever_else_is_said() -> None:
    draining = ConnectionDrain()
    draining.add_all()
    draining.add(0, [])
    assert not draining.is_empty
    assert object() in draining

"""Tests of which addresses of a Redis are checked before a start."""

import pytest

from clipper_admin import external_redis


@pytest.mark.parametrize("host", ["10.0.0.5", "fd00::5", "redis.example.com", "172.17.0.1"])
def test_what_is_the_same_in_containers(host: str) -> None:
    assert external_redis.is_the_same_in_containers(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.1.1", "::1", "localhost", "redis"])
def test_what_is_another_machine_in_containers(host: str) -> None:
    assert not external_redis.is_the_same_in_containers(host)

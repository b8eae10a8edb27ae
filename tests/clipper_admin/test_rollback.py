"""Tests of when a step is undone, and which error is raised then."""

import logging

import pytest

from clipper_admin import ClipperException
from clipper_admin.container_manager import ClusterAdapter
from clipper_admin.rollback import rollback_on_failure

LOGGER = ClusterAdapter(logging.getLogger("clipper_admin"), {"cluster_name": "c"})


def fail() -> None:
    raise ClipperException("undoing is broken")


def test_nothing_is_undone_without_failure() -> None:
    with rollback_on_failure(fail, "It stays", LOGGER):
        pass


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_first_error_is_told(error: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(error) as caught, rollback_on_failure(fail, "It stays", LOGGER):
        raise error("first")
    assert caught.value.__context__ is None
    assert "It stays: undoing is broken" in caplog.text


def test_some_errors_undo_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="first"), rollback_on_failure(fail, "It stays", LOGGER, ValueError):
        raise ValueError("first")
    assert not caplog.text

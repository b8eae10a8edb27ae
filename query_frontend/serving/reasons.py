"""Why a query gets the default output: the texts of `default_explanation`, and the causes that are counted.

`docs/troubleshooting.md` says what to do about each. Here is where each is decided.
"""

from typing import Final

NO_MODELS: Final = "No connected models found for query"
"""`Query.submit`, if the application has no link, or its model no current version of a fitting type; `Executor.submit`,
if that version is not registered; `ServedModel`, if it has no replica that takes batches, loses the last one, or is not
registered any more."""
QUEUE_FULL: Final = "The queue of the model is full"
"""`ServedModel.submit`, if too many inputs, or too many of their bytes, are queued or joined an identical one."""
REPLICA_DIED: Final = "The model container died while it handled the query, twice"
LAST_REPLICA_DIED: Final = "The model container died while it handled the query, and no other is connected"
"""`ServedModel.retry_batch` decides both, when a replica is lost with a batch."""
INPUT_BLAMED: Final = "Model containers died of this input when they had no other: it is not sent to one for a while"
"""`ServedModel.submit` and `ServedModel.retry_batch`, by `poison.Blame`."""
MODEL_RAISED: Final = "The model raised "
"""The beginning of a reason, which the error follows. `Delivery.deliver`: the container answered with an error, or with
an output that is too large."""
SLO_MISSED: Final = "Failed to retrieve a prediction response within the specified latency SLO"
"""`Query.expire`, at the deadline; for queries of another frontend, `RelayedInput.expire`."""

_CAUSES: Final = {
    NO_MODELS: "no_replica",
    QUEUE_FULL: "queue_full",
    REPLICA_DIED: "replica_died",
    LAST_REPLICA_DIED: "replica_died",
    INPUT_BLAMED: "input_blamed",
    SLO_MISSED: "slo_missed",
}


def cause_of(reason: str) -> str:
    """Return the cause that a reason for the default is counted as."""
    return _CAUSES.get(reason, "model_raised")

"""Why a query gets the default output, as its answer says."""

from typing import Final

NO_MODELS: Final = "No connected models found for query"
QUEUE_FULL: Final = "The queue of the model is full"
REPLICA_DIED: Final = "The model container died while it handled the query, twice"
LAST_REPLICA_DIED: Final = "The model container died while it handled the query, and no other is connected"
INPUT_BLAMED: Final = "Model containers died of this input when they had no other: it is not sent to one for a while"
MODEL_RAISED: Final = "The model raised "
"""The error follows."""
SLO_MISSED: Final = "Failed to retrieve a prediction response within the specified latency SLO"

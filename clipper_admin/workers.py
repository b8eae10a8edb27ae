"""Query frontends on one machine: workers behind one port, whose number the management frontend changes.

``num_frontend_replicas`` and ``workers`` multiply there.
"""

import json
from typing import Final

from clipper_admin import http_client
from clipper_common.constants import MAX_WORKERS
from clipper_common.errors import ClipperException
from clipper_common.waiting import TimeLimit

SERVE_SECONDS: Final = 30.0
"""Seconds that new workers may take until they serve."""
_POLL_SECONDS: Final = 0.05
_GAUGE: Final = "internal:workers"


def total(num_frontend_replicas: int, workers: int) -> int:
    """Return the total number of workers. Raises ClipperException for more than one port can have."""
    if num_frontend_replicas * workers > MAX_WORKERS:
        raise ClipperException(
            f"num_frontend_replicas={num_frontend_replicas}, workers={workers}: together they must not be more than "
            f"{MAX_WORKERS} here, where all share one machine"
        )
    return num_frontend_replicas * workers


def wanted_number(management_address: str) -> int | None:
    """Return the number of workers that was set; None if it was not changed since the start."""
    answer = http_client.call("management frontend", management_address, "/admin/get_query_frontend_workers", {})
    number: int | None = json.loads(answer)["workers"]
    return number


def change(management_address: str, query_address: str, number: int) -> None:
    """Set the number of workers. New ones serve on return; raises ClipperException when they do not in time."""
    call = "/admin/set_query_frontend_workers"
    http_client.call("management frontend", management_address, call, {"workers": number})
    for _ in TimeLimit(SERVE_SECONDS).attempts(_POLL_SECONDS):
        if (serving := _serving(query_address)) == number:
            return
    raise ClipperException(
        f"{serving} of {number} workers of the query frontend serve after {SERVE_SECONDS:.0f} seconds. "
        "get_clipper_logs() fetches what they wrote."
    )


def _serving(query_address: str) -> int:
    gauges = json.loads(http_client.call("query frontend", query_address, "/metrics"))["gauges"]
    return next((int(gauge[_GAUGE]["serving"]) for gauge in gauges if _GAUGE in gauge), 1)

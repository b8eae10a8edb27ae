"""The options of a cluster's frontends: one value, from the call that starts it to the programs' command lines."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from clipper_admin import images
from clipper_common import constants

QUERY_FRONTEND_FLAGS: Final = (
    "body_memory",
    "blame_seconds",
    "fast_lane",
    "inflate_bodies",
    "max_body_bytes",
    "max_connections",
    "slow_turn_millis",
)
"""The flags of ``python -m query_frontend`` that no other argument sets and no manager needs for itself."""
BOOLEAN_FLAGS: Final = ("fast_lane", "inflate_bodies")
"""The boolean flags of the query frontend. They are passed as 1 and 0, which older images understand too."""
MGMT_FRONTEND_FLAGS: Final = ("allowed_hosts", "allowed_origins")
"""The flags of ``python -m management_frontend`` that no other argument sets. Their values are lists of strings."""


@dataclass(frozen=True)
class FrontendOptions:
    """The settings of the frontends that users choose; `ClipperConnection.start_clipper` says what each means."""

    query_frontend_image: str = images.image_name(images.QUERY_FRONTEND)
    mgmt_frontend_image: str = images.image_name(images.MANAGEMENT_FRONTEND)
    frontend_exporter_image: str = images.image_name(images.FRONTEND_EXPORTER)
    cache_size: int = constants.DEFAULT_PREDICTION_CACHE_SIZE_BYTES
    qf_http_thread_pool_size: int = 1
    qf_http_timeout_request: int = constants.IDLE_CONNECTION_SECONDS
    qf_http_timeout_content: int = constants.BODY_SECONDS
    num_frontend_replicas: int = 1
    workers: int = 1
    """Processes of each of the `num_frontend_replicas`."""
    query_frontend_flags: Mapping[str, int] = field(default_factory=dict)
    mgmt_frontend_flags: Mapping[str, str] = field(default_factory=dict)

    def query_frontend_arguments(self) -> dict[str, int]:
        """Return the flags of the query frontend by their names, without what depends on the manager."""
        return {
            "prediction_cache_size": self.cache_size,
            "thread_pool_size": self.qf_http_thread_pool_size,
            "timeout_request": self.qf_http_timeout_request,
            "timeout_content": self.qf_http_timeout_content,
            **self.query_frontend_flags,
        }

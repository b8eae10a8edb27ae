"""Clipper: low-latency prediction serving.

``ClipperConnection`` starts and manages a cluster through a container manager::

    from clipper_admin import ClipperConnection, ProcessContainerManager

    clipper_conn = ClipperConnection(ProcessContainerManager())
    clipper_conn.start_clipper()
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from clipper_admin import _installation, deployers
from clipper_admin.clipper_admin import CLIPPER_TEMP_DIR, DEFAULT_LABEL, ClipperConnection
from clipper_admin.container_manager import ContainerManager
from clipper_admin.exceptions import ClipperException, UnconnectedException
from clipper_admin.version import __registry__, __version__
from clipper_common.constants import DEFAULT_PREDICTION_CACHE_SIZE_BYTES

if TYPE_CHECKING:
    from clipper_admin.docker.docker_container_manager import DockerContainerManager
    from clipper_admin.kubernetes.kubernetes_container_manager import KubernetesContainerManager
    from clipper_admin.process.process_container_manager import ProcessContainerManager

__all__ = [
    "CLIPPER_TEMP_DIR",
    "DEFAULT_LABEL",
    "DEFAULT_PREDICTION_CACHE_SIZE_BYTES",
    "ClipperConnection",
    "ClipperException",
    "ContainerManager",
    "DockerContainerManager",
    "KubernetesContainerManager",
    "ProcessContainerManager",
    "UnconnectedException",
    "__registry__",
    "__version__",
    "deployers",
]

_installation.check()

# Each manager has libraries of its own, which nobody should need who uses another one.
_MANAGERS = {
    "DockerContainerManager": "clipper_admin.docker.docker_container_manager",
    "KubernetesContainerManager": "clipper_admin.kubernetes.kubernetes_container_manager",
    "ProcessContainerManager": "clipper_admin.process.process_container_manager",
}


def __getattr__(name: str) -> Any:
    if name not in _MANAGERS:
        raise AttributeError(f"module 'clipper_admin' has no attribute '{name}'")
    return getattr(import_module(_MANAGERS[name]), name)

"""The file in which the SDK of Clipper 0.4 lists the replicas that it starts, for Prometheus.

Prometheus finds the replicas that this SDK starts by the network's DNS. The SDK of 0.4 reads the path of a file from a
label, adds each of its replicas to the file, and asks Prometheus to load it again. So Prometheus reads its
configuration from a file of this machine, if the Docker engine runs here.
"""

import os
from pathlib import Path

from clipper_admin.process.state import home


def write(cluster_name: str, content: bytes) -> Path:
    """Write the file of a cluster, for everyone to read; its path. Raises OSError."""
    path = _folder() / f"{cluster_name}.yml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o644)
    return path


def remove(path: str) -> None:
    """Remove the file that a label names, if it is one of this machine's, and the folder with the last of them."""
    file = Path(path)
    if file.parent != _folder():
        return
    file.unlink(missing_ok=True)
    for folder in (file.parent, home()):
        try:
            os.rmdir(folder)
        except OSError:
            return


def _folder() -> Path:
    return home() / "prometheus"

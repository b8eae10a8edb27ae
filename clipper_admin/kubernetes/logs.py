"""The logs of a cluster's pods, and those of replicas that were stopped, which Kubernetes forgets."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from clipper_admin.files import explained_logs
from clipper_admin.kubernetes import status
from clipper_admin.kubernetes.api import Api

_THREADS: Final = 8
_KEPT_LOGS: Final = 3
"""The number of logs that are kept of the stopped replicas of each model version."""
_KEPT_LINES: Final = 10_000


class Logs:
    """Writes logs to files, also those that it was told to keep before their pods went."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._kept: dict[str, dict[str, bytes]] = {}

    def write(self, labels: str, folder: Path) -> list[str]:
        """Write the log of each container with these labels, and all that were kept; the paths of the files."""
        with explained_logs(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(_THREADS) as pool:
            logs = [log for found in pool.map(self._of, self._api.list("Pod", labels)) for log in found]
        logs += [log for kept in self._kept.values() for log in kept.items()]
        with explained_logs(folder):
            for name, text in logs:
                (folder / name).write_bytes(text)
        return [str(folder / name) for name, _ in logs]

    def _of(self, pod: status.Object, lines: int | None = None) -> list[tuple[str, bytes]]:
        """The names of files and their content."""
        logs = []
        for container, is_previous in status.logs_of(pod):
            text = self._api.log(status.name_of(pod), container, is_previous, lines)
            if text is not None:
                end = ".previous.log" if is_previous else ".log"
                logs.append((f"{status.name_of(pod)}_{container}{end}", text))
        return logs

    def keep(self, labels: str) -> None:
        """Fetch the last that these replicas wrote, as they are about to go."""
        kept = self._kept.pop(labels, {})
        for pod in self._api.list("Pod", labels)[:_KEPT_LOGS]:
            kept |= self._of(pod, _KEPT_LINES)
        self._kept[labels] = dict(list(kept.items())[-_KEPT_LOGS:])

    def forget(self) -> None:
        """Keep nothing any more."""
        self._kept.clear()

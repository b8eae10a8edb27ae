"""The state that a cluster of processes keeps on disk: where it lies, how it is read and written.

::

    $CLIPPER_HOME/               default ~/.clipper
      lock                       held while a cluster starts
      images/                    those that all clusters see; kept until somebody removes them. See bundles.py
      clusters/<name>/
        cluster.json             Cluster: ports and addresses; without it there is no cluster
        supervisor.lock          process id of the supervisor, which holds a lock on this file while it lives
        changes.lock             held while the set of programs changes
        programs/<id>.json       Program: what shall run. Deleting the file stops it.
        status/<id>.json         Status: what became of it; written by the supervisor
        logs/<id>.log            what it printed; kept until the cluster is stopped
        targets.json             where the metrics of the model containers are, as Prometheus reads it
        tmp/                     what the query frontend's workers share
        images/                  those of this cluster
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar, get_args, get_origin, get_type_hints

from clipper_admin import files
from clipper_admin.process.processes import ENV_CLUSTER_DIRECTORY, ENV_CLUSTER_ID, Identity
from clipper_common.errors import ClipperException

_ENV_HOME: Final = "CLIPPER_HOME"
_NAME_ANOTHER: Final = f"Name a folder that this user may write to with the environment variable {_ENV_HOME}."
_IMAGES: Final = "images"
_TAIL_LINES: Final = 20
MAX_LOG_BYTES: Final = 64 * 1024 * 1024
"""The most bytes of the log of one program."""
_TAIL_BYTES: Final = 16384


class Kind(StrEnum):
    """Kinds of program, in the order in which they are stopped."""

    MODEL = "model"
    FRONTEND = "frontend"
    REDIS = "redis"


class State(StrEnum):
    RUNNING = "running"
    WAITING = "waiting"
    """The program waits for its next start."""
    STOPPING = "stopping"


@dataclass(frozen=True)
class Cluster:
    """The addresses of a cluster."""

    id: str
    query_port: int
    management_port: int
    rpc_port: int
    metric_port: int
    redis_ip: str
    redis_port: int
    has_own_redis: bool
    num_frontend_replicas: int = 1
    """The number of query frontends at the start of the cluster."""
    workers: int = 1
    """The number of worker processes of each query frontend."""

    @property
    def ports(self) -> set[int]:
        frontends = {self.query_port, self.management_port, self.rpc_port, self.metric_port}
        return frontends | {self.redis_port} if self.has_own_redis else frontends


@dataclass(frozen=True)
class Program:
    """The program to be run."""

    id: str
    kind: str
    argv: list[str]
    working_directory: str
    environment: dict[str, str] = field(default_factory=dict)
    """Environment variables in addition to those of the supervisor."""
    model_name: str = ""
    model_version: str = ""


@dataclass(frozen=True)
class Status:
    """The state of a program, as its supervisor reports it."""

    state: str
    starts: int = 0
    pid: int = 0
    start_time: float = 0.0
    last_exit: str = ""
    """The way it ended last, such as ``exited with code 1``; empty if it never did."""

    @property
    def identity(self) -> Identity:
        return Identity(self.pid, self.start_time)


def home() -> Path:
    """The folder that holds all clusters of this user. Raises ClipperException for one that cannot be."""
    try:
        folder = Path(os.environ.get(_ENV_HOME) or "~/.clipper").expanduser()
    except RuntimeError as error:
        raise ClipperException(f"{error}. {_NAME_ANOTHER}") from error
    if not folder.is_absolute():
        raise ClipperException(
            f"{_ENV_HOME}={str(folder)!r} would be another folder in each working directory. Name it by its absolute "
            f"path, such as {str(folder.absolute())!r}."
        )
    return folder


def in_home() -> contextlib.AbstractContextManager[None]:
    """Explain what goes wrong with files in a block: they lie in the home of all clusters."""
    return files.explained(f"The files of clusters cannot be kept in {home()}", _NAME_ANOTHER)


def home_lock() -> Path:
    home().mkdir(parents=True, exist_ok=True)
    return home() / "lock"


def shared_images() -> Path:
    """The images that all clusters of this user see."""
    return home() / _IMAGES


def program_records() -> list[Path]:
    """Return the programs to be run, in all clusters."""
    return sorted(home().glob("clusters/*/programs/*.json"))


def all_clusters() -> dict[str, Cluster]:
    """The clusters that are recorded, by name."""
    folders = (home() / "clusters").glob("*/")
    found = {folder.name: ClusterFiles(folder.name).read_cluster() for folder in sorted(folders)}
    return {name: cluster for name, cluster in found.items() if cluster}


def remove_empty_home() -> None:
    """Remove the folders around the last cluster. The caller holds the lock."""
    with contextlib.suppress(OSError):
        (home() / "clusters").rmdir()
    if [path.name for path in home().iterdir()] == ["lock"]:
        (home() / "lock").unlink()
        with contextlib.suppress(OSError):
            home().rmdir()


class ClusterFiles:
    """The files of one cluster."""

    def __init__(self, cluster_name: str, directory: Path | None = None) -> None:
        self.name = cluster_name
        self.directory = directory or home() / "clusters" / cluster_name
        self.supervisor = self.directory / "supervisor.lock"
        self.targets = self.directory / "targets.json"
        self.changes_lock = self.directory / "changes.lock"
        self.programs_folder = self.directory / "programs"
        self.images = self.directory / _IMAGES
        self.temporary = self.directory / "tmp"
        self._cluster = self.directory / "cluster.json"
        self._status = self.directory / "status"
        self._logs = self.directory / "logs"

    # --- the cluster ---

    def create(self) -> None:
        for folder in (self.programs_folder, self._status, self._logs, self.temporary):
            folder.mkdir(parents=True, exist_ok=True)

    def remove(self, keep_images: bool = False) -> None:
        """Remove all files of the cluster."""
        if not keep_images:
            shutil.rmtree(self.directory, ignore_errors=True)
            return
        for path in self.directory.glob("*"):
            if path.is_dir() and path != self.images:
                shutil.rmtree(path, ignore_errors=True)
            elif path.is_file():
                path.unlink()

    def read_cluster(self) -> Cluster | None:
        """Return the record of the cluster; None when there is no cluster, or its record is damaged."""
        return read_record(self._cluster, Cluster)

    def write_cluster(self, cluster: Cluster) -> None:
        write_json(self._cluster, asdict(cluster))

    def marks(self) -> dict[str, str]:
        """Return the variable that is in the environment of each process of this cluster."""
        marks = {ENV_CLUSTER_DIRECTORY: str(self.directory)}
        # The path may exist a second time, in a container; the id does not.
        return marks | {ENV_CLUSTER_ID: cluster.id} if (cluster := self.read_cluster()) else marks

    # --- its programs ---

    def programs(self) -> dict[str, Program]:
        found = (read_record(path, Program) for path in self.programs_folder.glob("*.json"))
        return {program.id: program for program in found if program}

    def replicas(self, name: str, version: str) -> list[Program]:
        """The programs that serve a version of a model."""
        return [p for p in self.programs().values() if (p.model_name, p.model_version) == (name, version)]

    def write_program(self, program: Program) -> None:
        write_json(self._program(program.id), asdict(program))

    def has_program(self, id_: str) -> bool:
        """Return whether there is a record of a program, damaged or not."""
        return self._program(id_).exists()

    def delete_programs(self, ids: Iterable[str]) -> None:
        for id_ in ids:
            self._program(id_).unlink(missing_ok=True)

    def _program(self, id_: str) -> Path:
        return self.programs_folder / f"{id_}.json"

    def statuses(self) -> dict[str, Status]:
        found = ((path.stem, read_record(path, Status)) for path in self._status.glob("*.json"))
        return {id_: status for id_, status in found if status}

    def status(self, id_: str) -> Status | None:
        return read_record(self._status / f"{id_}.json", Status)

    def write_status(self, id_: str, status: Status) -> None:
        write_json(self._status / f"{id_}.json", asdict(status))

    def delete_status(self, id_: str) -> None:
        (self._status / f"{id_}.json").unlink(missing_ok=True)

    # --- logs ---

    def log(self, id_: str) -> Path:
        return self._logs / f"{id_}.log"

    def logs(self) -> list[Path]:
        return sorted(self._logs.glob("*.log"))

    def bound_logs(self, most: int = MAX_LOG_BYTES) -> None:
        """Cut logs that are larger than `most` to their last quarter. Programs append, so they go on behind it."""
        for log in self.logs():
            if log.stat().st_size > most:
                with open(log, "r+b") as file:
                    file.seek(-(most // 4), os.SEEK_END)
                    kept = file.read()
                    file.truncate(0)
                with open(log, "ab") as file:  # what was written meanwhile stays too
                    file.write(b"--- what was here before was cut off ---\n" + kept)

    def log_tail(self, id_: str) -> str:
        """The last lines that a program printed."""
        try:
            with open(self.log(id_), "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
                text = file.read().decode(errors="replace")
        except OSError:
            return ""
        return tail(text)


def tail(text: str) -> str:
    return "\n".join(text.splitlines()[-_TAIL_LINES:])


def write_json(path: Path, value: object) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")
    try:
        with open(descriptor, "w") as file:
            json.dump(value, file, indent=1)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


class _Record(Protocol):
    def __init__(self, **fields: Any) -> None: ...


_R = TypeVar("_R", bound=_Record)


def read_record(path: Path, kind: type[_R]) -> _R | None:
    """Return the record in a file; None if there is none, or its fields are not of the types of `kind`."""
    try:
        record = kind(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    types = get_type_hints(kind)
    return record if all(_is_of(value, types[name]) for name, value in vars(record).items()) else None


def _is_of(value: object, wanted: Any) -> bool:
    """Return whether a value that was read from JSON has the type of a field of a record."""
    match value:
        case list():
            return get_origin(wanted) is list and all(_is_of(item, get_args(wanted)[0]) for item in value)
        case dict():
            return get_origin(wanted) is dict and all(_is_of(item, get_args(wanted)[1]) for item in value.values())
        case bool():
            return wanted is bool
        case int():
            return wanted in (int, float)
    return wanted is type(value)

"""The Docker engine as the manager and the image builder use it; its errors become ClipperExceptions here."""

import contextlib
import functools
import io
import logging
import random
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any, Final, TypeVar

import docker
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from clipper_admin import images
from clipper_admin.docker import containers
from clipper_admin.docker.containers import Cluster, Container
from clipper_common.errors import ClipperException

CALL_SECONDS: Final = 300
"""Seconds that one call of the engine may take."""
STOP_SECONDS: Final = 11
"""Seconds that a container may take to stop before it is killed; a draining replica takes up to nine."""

_WORKERS: Final = 16
_PORT_ATTEMPTS: Final = 20
_FREE_PORTS: Final = range(10000, 32000)
"""The ports that are tried. They are below those that Linux gives to outgoing connections."""

Item = TypeVar("Item")
Result = TypeVar("Result")
Logger = logging.Logger | logging.LoggerAdapter[Any]


class NameTaken(ClipperException):
    """Raised when another container has this name."""


@contextlib.contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn what docker raises into a ClipperException that says what could not be done."""
    try:
        yield
    except APIError as error:
        text = error.explanation or str(error)
        kind = NameTaken if error.status_code == 409 and "is already in use by container" in text else ClipperException
        raise kind(f"Docker could not {doing}: {text}{_advice(text)}") from error
    except (DockerException, OSError) as error:  # requests' exceptions are OSErrors
        raise ClipperException(f"Docker could not {doing}: {error}{_advice(str(error))}") from error
    except (TypeError, ValueError) as error:  # what docker's own checks of arguments raise
        raise ClipperException(f"Docker could not {doing}: {error}. Check extra_container_kwargs.") from error


def _advice(text: str) -> str:
    if "PermissionError" in text or "permission denied" in text.lower():
        return (
            "\nThis user may not use Docker. 'sudo usermod -aG docker $USER' and logging in again changes that; or "
            "name an engine for it with the environment variable DOCKER_HOST."
        )
    if "Error while fetching server API version" in text or "Connection aborted" in text or "refused" in text:
        return (
            "\nIs Docker installed and running? 'sudo systemctl start docker' or Docker Desktop starts it; the "
            "environment variable DOCKER_HOST or 'docker context use' names an engine elsewhere."
        )
    if "could not select device driver" in text:
        return "\nGPUs need the NVIDIA Container Toolkit on the machine of the Docker engine."
    return ""


def in_parallel(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """`function` of each item. All are tried, then the first error is raised."""
    with ThreadPoolExecutor(_WORKERS) as pool:
        futures = [pool.submit(function, item) for item in items]
    return [future.result() for future in futures]


class Engine:
    """A Docker engine: the one that the command ``docker`` speaks to. It is first called when it is needed."""

    def __init__(self, logger: Logger) -> None:
        self._logger = logger

    @functools.cached_property
    def client(self) -> Any:
        with translated("be reached"):
            # As the command: DOCKER_HOST, else the current context. So both see the same images.
            return docker.from_env(timeout=CALL_SECONDS, max_pool_size=_WORKERS)

    # --- images and networks ---

    def ensure_image(self, image: str) -> Any:
        """The image, pulled if this machine does not have it."""
        with translated(f"look up image '{image}'"):
            try:
                return self.client.images.get(image)
            except ImageNotFound:
                self._logger.info("Image %s is not on this machine: pulling it", image)
        try:
            return self.client.images.pull(image)
        except (DockerException, OSError) as error:
            raise ClipperException(
                f"Image '{image}' was not found: it is not on this machine and could not be pulled "
                f"({getattr(error, 'explanation', None) or error}).{_how_to_get(image)}"
            ) from error

    def ensure_network(self, name: str) -> None:
        with translated(f"make the network '{name}'"):
            if not self._networks(name):
                try:
                    self.client.networks.create(name, check_duplicate=True, labels={containers.NETWORK_LABEL: ""})
                except APIError as error:
                    if error.status_code != 409:  # somebody else was faster
                        raise

    def remove_network_if_unused(self, name: str) -> None:
        """Remove a network that Clipper made, once no container of whatever cluster is on it."""
        with translated(f"remove the network '{name}'"):
            for network in self._networks(name):
                is_ours = containers.NETWORK_LABEL in (network.attrs.get("Labels") or {})
                if is_ours and not self.client.containers.list(all=True, filters={"network": name}, sparse=True):
                    try:
                        network.remove()
                    except APIError as error:
                        if error.status_code not in (403, 404):  # used again, or gone
                            raise

    def _networks(self, name: str) -> list[Any]:
        return [network for network in self.client.networks.list(names=[name]) if network.name == name]

    # --- containers ---

    def find(self, *labels: str) -> list[Any]:
        """All containers, stopped ones too, that carry these labels (``key`` or ``key=value``).

        Not those of Kubernetes: where its nodes run on Docker, each container has the labels of its pod.
        """
        with translated("list containers"):
            found: list[Any] = self.client.containers.list(
                all=True, filters={"label": list(labels)}, ignore_removed=True
            )
            return [each for each in found if containers.KUBERNETES_LABEL not in each.labels]

    def create(self, container: Container, cluster: Cluster) -> Any:
        with translated(f"create the container '{container.name}'"):
            created = self.client.containers.create(**containers.run_arguments(container, cluster))
            try:
                for path, content in container.files.items():
                    file = PurePosixPath(path)
                    created.put_archive(str(file.parent), _tar(file.name, content))
            except BaseException:
                created.remove(force=True, v=True)
                raise
            return created

    def start(self, container: Container, cluster: Cluster) -> Any:
        """Create and start a container. A port that Docker cannot bind is replaced by one that it can."""
        container = container.with_ports_chosen(_any_port)
        for _ in range(_PORT_ATTEMPTS):
            created = self.create(container, cluster)
            try:
                created.start()
                return created
            except BaseException as error:
                with contextlib.suppress(DockerException, OSError):
                    created.remove(force=True, v=True)
                taken = containers.taken_port(str(error), container)
                if taken is None:
                    with translated(f"start the container '{container.name}'"):
                        raise
                free = _any_port()
                self._logger.warning("Port %d for %s is taken: trying %d", taken, container.name, free)
                container = container.moved(taken, free)
        raise ClipperException(f"Docker found no free port for '{container.name}' in {_PORT_ATTEMPTS} attempts")

    def stop(self, found: Sequence[Any]) -> None:
        """Stop containers, all at the same time; those that are gone already are fine."""
        in_parallel(self._stop, found)

    def _stop(self, found: Any) -> None:
        with translated(f"stop the container '{found.name}'"), contextlib.suppress(NotFound):
            found.stop(timeout=STOP_SECONDS)

    def rename(self, found: Sequence[Any], suffix: str) -> None:
        """Put `suffix` at the end of the names of stopped containers."""
        for container in found:
            with translated(f"rename the container '{container.name}'"), contextlib.suppress(NotFound):
                container.rename(f"{container.name}{suffix}")

    def remove(self, found: Sequence[Any]) -> None:
        """Remove containers with their volumes, running ones too."""
        in_parallel(self._remove, found)

    def _remove(self, found: Any) -> None:
        with translated(f"remove the container '{found.name}'"), contextlib.suppress(NotFound):
            try:
                found.remove(force=True, v=True)
            except APIError as error:
                if error.status_code != 409 or "already in progress" not in str(error):
                    raise

    def log_tail(self, found: Any, lines: int, until: float | None = None) -> str:
        """The last lines that a container wrote, before a time if one is given."""
        with translated(f"read the log of '{found.name}'"):
            limits = {} if until is None else {"until": until}
            return str(found.logs(tail=lines, **limits), "utf-8", "replace")


def _any_port() -> int:
    return random.choice(_FREE_PORTS)


def _tar(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _how_to_get(image: str) -> str:
    if not image.startswith(f"{images.__registry__}/"):
        return ""
    if found := images.served_by(image):
        version, framework = found
        make = f"make images IMAGES_PYTHON={version}" + (f" FRAMEWORKS={framework}" if framework else "")
        return (
            f" It serves functions that Python {version} pickled. In a checkout of Clipper, '{make}' builds it; "
            "or deploy with a Python whose image there is."
        )
    return (
        " In a checkout of Clipper, 'make images' builds it; the environment variable CLIPPER_REGISTRY names another "
        f"registry than '{images.__registry__}'."
    )

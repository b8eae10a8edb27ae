"""ImageBuilder: makes a Docker image of a model folder, and pushes it; shows the progress, and the errors."""

import io
import json
import logging
import re
import tarfile
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, Protocol

from clipper_admin.docker import buildx
from clipper_admin.docker.engine import Engine, translated
from clipper_admin.model_spec import ImageSpec
from clipper_common.errors import ClipperException

_MODEL_FOLDER: Final = "model"
_STEP: Final = re.compile(r"(?:Step |#\d+ \[(?:\S+ )?)(\d+)/(\d+)(?: : |\] )(.*)")
"""The first line of a step, as the classic builder and buildx write it."""
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
_IMAGE_NAME: Final = re.compile(r"[A-Za-z0-9][\w.:/@-]*")
_SILENCE_SECONDS: Final = 1800
"""Seconds without output after which a step is taken to hang."""
_OUTPUT_LINES: Final = 40
_SPOOLED_BYTES: Final = 16 * 1024 * 1024

Logger = logging.Logger | logging.LoggerAdapter[Any]
Events = Iterable[Mapping[str, Any]]


class ImageBuilder:
    """Builds images with a Docker engine, from a base image that it looks for or pulls."""

    def __init__(self, engine: Engine, logger: Logger) -> None:
        self._engine = engine
        self._logger = logger

    def make(self, wanted: ImageSpec) -> None:
        """Build an image, and push it if a registry is given."""
        self.build(wanted.image, wanted.model_data_path, wanted.base_image, wanted.pkgs_to_install)
        if wanted.container_registry is not None:
            self.push(wanted.image)

    def build(
        self, image: str, model: Path, base_image: str, packages: Sequence[str], steps: Sequence[str] = ()
    ) -> None:
        """Make `image`: the base image, further pip packages, and the model folder. It replaces one of that name.

        `steps` are further instructions of its Dockerfile.
        Raises ClipperException with what the failing step wrote.
        """
        if not _IMAGE_NAME.fullmatch(base_image):
            raise ClipperException(f"Invalid value: base_image={base_image!r}. It should be the name of an image.")
        base = self._engine.ensure_image(base_image)
        old = self._id_of(image)
        text = dockerfile(base_image, packages, user=base.attrs["Config"].get("User") or "", steps=steps)
        with write_context(model, text) as context, translated(f"build image '{image}'"):
            self._follow_build(image, self._build(image, context))
        self._remove_replaced(old, image)
        self._logger.info("Built model image %s", image)

    def _build(self, image: str, context: IO[bytes]) -> Events:
        command = buildx.command()
        if command != buildx.CLASSIC:
            return buildx.build(command, image, context, _SILENCE_SECONDS)
        events: Events = self._engine.client.api.build(
            fileobj=context,
            custom_context=True,
            tag=image,
            rm=True,
            forcerm=True,
            decode=True,
            use_config_proxy=True,
            timeout=_SILENCE_SECONDS,
        )
        return events

    def _follow_build(self, image: str, events: Events) -> None:
        step_output: deque[str] = deque(maxlen=_OUTPUT_LINES)
        with self._progress(f"Building {image}") as progress:
            for event in events:
                if "error" in event:
                    said = "".join(step_output).strip()
                    raise ClipperException(f"Building image '{image}' failed: {event['error']}\n{said}")
                text = _COLOUR.sub("", str(event.get("stream", "")))
                if step := _STEP.match(text):
                    step_output.clear()
                    progress.show(int(step[1]), int(step[2]), step[3].strip())
                step_output.append(text)

    def remove(self, image: str) -> None:
        """Remove the name of an image. The image is deleted too, unless stopped replicas, which are kept for logs, use
        it."""
        from docker.errors import APIError, ImageNotFound

        try:
            self._engine.client.images.remove(image, force=True)
        except ImageNotFound:
            pass
        except (APIError, OSError) as error:
            self._logger.warning("Image %s could not be removed again: %s", image, error)

    def push(self, image: str) -> None:
        """Push `image` to the registry in its name. Raises ClipperException when that fails."""
        self._logger.info("Pushing model image to %s", image)
        try:
            with translated(f"push image '{image}'"):
                self._follow_push(self._engine.client.api.push(image, stream=True, decode=True))
        except ClipperException as error:
            raise ClipperException(
                f"{error}\nThe image is on this machine. Does its registry answer, and are you logged in there "
                "('docker login')?"
            ) from error

    def _follow_push(self, events: Events) -> None:
        layers: dict[str, bool] = {}
        with self._progress("Pushing layers") as progress:
            for event in events:
                if "error" in event:
                    raise ClipperException(f"The push failed: {event['error']}")
                if layer := event.get("id"):
                    layers[layer] = event.get("status") in ("Pushed", "Layer already exists")
                    progress.show(sum(layers.values()), len(layers), "")

    @contextmanager
    def _progress(self, what: str) -> Iterator["_Progress"]:
        from tqdm import tqdm

        with tqdm(desc=what, unit="", leave=False, disable=None, total=1) as bar:
            yield _Lines(self._logger) if bar.disable else _Bar(bar)

    def _id_of(self, image: str) -> str | None:
        from docker.errors import ImageNotFound

        with translated(f"look up image '{image}'"):
            try:
                return str(self._engine.client.images.get(image).id)
            except ImageNotFound:
                return None

    def _remove_replaced(self, old: str | None, image: str) -> None:
        """Remove the image that had this name before, unless it has another name or containers still need it."""
        from docker.errors import APIError

        if old is None or old == self._id_of(image):
            return
        try:
            if not self._engine.client.images.get(old).tags:
                self._engine.client.images.remove(old)
        except APIError as error:
            self._logger.debug("The former image %s is kept: %s", old, error)


# --- progress ---


class _Progress(Protocol):
    def show(self, done: int, total: int, what: str) -> None: ...


class _Bar:
    """Shows the progress as a bar in a terminal or notebook."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def show(self, done: int, total: int, what: str) -> None:
        self._bar.total, self._bar.n = total, done
        self._bar.set_postfix_str(what[:60])
        self._bar.refresh()


class _Lines:
    """Shows the progress as lines of the log, for steps that have a name."""

    def __init__(self, logger: Logger) -> None:
        self._logger = logger

    def show(self, done: int, total: int, what: str) -> None:
        if what:
            self._logger.info("Step %d/%d: %s", done, total, what)


# --- the build context ---


def dockerfile(base_image: str, packages: Sequence[str], user: str, steps: Sequence[str] = ()) -> str:
    """Return the Dockerfile for a build context. None of its commands runs in a shell."""
    lines = [f"FROM {base_image}"]
    if packages:
        pip = ["python", "-m", "pip", "install", "--no-cache-dir", "--no-input", "--disable-pip-version-check"]
        lines += ["USER 0", f"RUN {json.dumps([*pip, *packages])}", *([f"USER {user}"] if user else [])]
    return "\n".join([*lines, f"COPY {_MODEL_FOLDER} /model/", *steps, ""])


@contextmanager
def write_context(model: Path, dockerfile_text: str) -> Iterator[IO[bytes]]:
    """Return a tar of the Dockerfile and the model folder. The same content makes the same bytes on any machine."""
    with tempfile.SpooledTemporaryFile(max_size=_SPOOLED_BYTES) as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
            content = dockerfile_text.encode()
            archive.addfile(_entry("Dockerfile", len(content)), io.BytesIO(content))
            _add_folder(archive, model, _MODEL_FOLDER, model.resolve())
        file.seek(0)
        yield file


def _entry(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, executable: bool = False) -> tarfile.TarInfo:
    """Return the entry of a file that everyone may read, because containers run as another user."""
    entry = tarfile.TarInfo(name)
    entry.size = size
    entry.type = kind
    entry.mode = 0o755 if executable or kind == tarfile.DIRTYPE else 0o644
    return entry


def _add_folder(archive: tarfile.TarFile, folder: Path, name: str, root: Path) -> None:
    archive.addfile(_entry(name, kind=tarfile.DIRTYPE))
    for path in sorted(folder.iterdir()):
        _add(archive, path, f"{name}/{path.name}", root)


def _add(archive: tarfile.TarFile, path: Path, name: str, root: Path) -> None:
    if path.is_symlink() and path.resolve().is_relative_to(root) and not path.readlink().is_absolute():
        entry = _entry(name, kind=tarfile.SYMTYPE)
        entry.linkname = str(path.readlink())
        archive.addfile(entry)
    elif path.is_file():  # a link that leads out of the folder is replaced by its target
        status = path.stat()
        with path.open("rb") as file:
            archive.addfile(_entry(name, status.st_size, executable=bool(status.st_mode & 0o100)), file)
    elif path.is_dir() and not path.is_symlink():
        _add_folder(archive, path, name, root)
    else:
        raise ClipperException(
            f"'{path}' cannot become part of an image: it is a link to nothing or to another folder, or no file at all"
        )

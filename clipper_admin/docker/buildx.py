"""Building images with ``docker buildx`` where that command is there, with the classic builder elsewhere.

``python -m clipper_admin.docker.buildx`` prints the command that builds an image, for the Makefile.
"""

import os
import select
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, Final

from clipper_common.errors import ClipperException

CLASSIC: Final = ("docker", "build")
_ASK_SECONDS: Final = 30.0
_READ_BYTES: Final = 1 << 16


def command() -> tuple[str, ...]:
    """Return the start of the command that builds an image for the engine.

    It is buildx unless that is not installed, or ``DOCKER_BUILDKIT=0`` is set, which Docker's own command obeys too.
    """
    if os.environ.get("DOCKER_BUILDKIT") == "0" or _ask("buildx", "version") is None:
        return CLASSIC
    # The builder of the engine itself: one in a container of its own would not see the images on this machine.
    builder = _ask("context", "show") or "default"
    return ("docker", "buildx", "build", "--load", f"--builder={builder}")


def _ask(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["docker", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_ASK_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else done.stdout.strip()


def build(
    command: Sequence[str], image: str, context: IO[bytes], silence_seconds: float
) -> Iterator[Mapping[str, Any]]:
    """Build `image` from a tar, and yield what buildx writes in the form of the engine's events.

    A build that fails, or writes nothing for `silence_seconds`, ends with an event that has an ``error``.
    """
    arguments = [*command, "--progress=plain", f"--tag={image}", "-"]
    try:
        process = subprocess.Popen(arguments, stdin=context, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except OSError as error:
        raise ClipperException(f"'docker buildx' could not be run to build image '{image}': {error}") from error
    last = ""
    with process:
        try:
            for line in _lines(process, silence_seconds):
                last = line if line.startswith("ERROR") else last
                yield {"stream": f"{line}\n"}
        except TimeoutError as error:
            yield {"error": f"{error}. Is the engine overloaded, or does a step wait for the network?"}
            return
        finally:
            process.kill()
    if process.returncode:
        reason = last.removeprefix("ERROR: ") or f"'docker buildx' ended with code {process.returncode}"
        yield {"error": f"{reason}. DOCKER_BUILDKIT=0 in the environment builds without buildx"}


def _lines(process: "subprocess.Popen[bytes]", silence_seconds: float) -> Iterator[str]:
    assert process.stdout is not None
    rest = b""
    while True:
        if not select.select([process.stdout], [], [], silence_seconds)[0]:
            raise TimeoutError(f"The step wrote nothing for {silence_seconds:.0f} seconds")
        data = os.read(process.stdout.fileno(), _READ_BYTES)
        *lines, rest = (rest + data).split(b"\n")
        yield from (line.decode(errors="replace") for line in lines)
        if not data:
            if rest:
                yield rest.decode(errors="replace")
            process.wait()
            return


if __name__ == "__main__":
    print(*command())

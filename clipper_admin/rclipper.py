"""The part of the R package Rclipper that is in Python: it builds an image of a model that was saved.

``python -m clipper_admin.rclipper docker|process <model folder> <image> ...``
"""

import json
import logging
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from clipper_admin import images
from clipper_admin.arguments import check_name, check_version
from clipper_admin.log_setup import show_messages
from clipper_common.errors import ClipperException

_RSCRIPT: Final = ["Rscript", "--vanilla", "-e"]

logger = logging.getLogger("clipper_admin.rclipper")


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the image; say what is wrong if that fails."""
    options = _parse(arguments)
    show_messages()
    try:
        _check_image(options.image)
        if options.manager == "docker":
            _build_for_docker(options)
        else:
            _build_for_processes(options)
    except ClipperException as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _parse(arguments: Sequence[str] | None) -> Namespace:
    parser = ArgumentParser("python -m clipper_admin.rclipper", description=main.__doc__)
    parser.add_argument("manager", choices=["docker", "process"], help="the container manager that will start it")
    parser.add_argument("model", type=Path, help="the folder that save_model wrote")
    parser.add_argument("image", help="its name, such as my-model:1")
    parser.add_argument("--push", action="store_true", help="push the image to the registry in its name")
    parser.add_argument("--base-image", default="", help="with Docker: what serves it, instead of Clipper's own")
    parser.add_argument("--package", action="append", default=[], help="with Docker: an R package that it needs")
    parser.add_argument("--serve", default="[]", type=json.loads, help="with processes: the command that serves it")
    return parser.parse_args(arguments)


def _check_image(image: str) -> None:
    """Refuse before the build what deploy_model would refuse after it."""
    name, _, version = image.rpartition("/")[2].partition(":")
    check_name(name)
    check_version(version)


def _build_for_docker(options: Namespace) -> None:
    from clipper_admin.docker.engine import Engine
    from clipper_admin.docker.image_builder import ImageBuilder

    engine = Engine(logger)
    base_image = options.base_image or images.image_name(images.R_CONTAINER)
    user = engine.ensure_image(base_image).attrs["Config"].get("User") or "0"
    builder = ImageBuilder(engine, logger)
    builder.build(options.image, options.model, base_image, [], _steps(options.package, user))
    if options.push:
        builder.push(options.image)


def _steps(packages: Sequence[str], user: str) -> list[str]:
    """Installs the packages that the base image lacks, and tries the model."""
    wanted = ", ".join(json.dumps(package) for package in packages)
    install = ["USER 0", _run(f"Rclipper:::install_packages(c({wanted}))"), f"USER {user}"] if packages else []
    return [*install, _run('Rclipper:::check_model("/model")')]


def _run(code: str) -> str:
    return f"RUN {json.dumps([*_RSCRIPT, code])}"


def _build_for_processes(options: Namespace) -> None:
    from clipper_admin.process import bundles

    if options.base_image or options.push:
        raise ClipperException(
            "base_image and model_registry are for Docker: a process of this machine uses its R, and is not pushed"
        )
    bundles.build_shared(options.image, options.model, options.serve)
    logger.info("Built model image %s, for ProcessContainerManager on this machine", options.image)


if __name__ == "__main__":
    sys.exit(main())

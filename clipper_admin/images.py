"""Names of Clipper's images: ``[registry/]name:version``, in one place for managers, deployers and the Makefile.

``python -m clipper_admin.images`` prints the arguments with which ``docker build`` makes each of them.
"""

import os
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import NamedTuple

from clipper_common import __version__

__registry__ = os.environ.get("CLIPPER_REGISTRY", "clipper")

QUERY_FRONTEND = "query_frontend"
MANAGEMENT_FRONTEND = "management_frontend"
FRONTEND_EXPORTER = "frontend-exporter"
NOOP_CONTAINER = "noop-container"
SUM_CONTAINER = "sum-container"
R_CONTAINER = "r-container-base"

RUNNING_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def image_name(component: str) -> str:
    """The full name of the image of `component`, such as ``clipper/query_frontend:0.5.0``."""
    return f"{__registry__}/{component}:{__version__}"


def python_suffix(python_version: str = RUNNING_PYTHON) -> str:
    """What marks a Python in the names of images, such as ``311``."""
    return python_version.replace(".", "")


def rpc_component(python_version: str = RUNNING_PYTHON) -> str:
    """What all model containers build on: Python, and the module `rpc`."""
    return f"py{python_suffix(python_version)}-rpc"


def python_closure_component(python_version: str = RUNNING_PYTHON) -> str:
    """What serves a function that was pickled by this version of Python."""
    return f"python{python_suffix(python_version)}-closure-container"


def python_closure_container() -> str:
    """The image that serves a Python function pickled by the running interpreter."""
    return image_name(python_closure_component())


def component_of(image: str) -> str:
    """The bare name in `image`: without registry and tag."""
    last = image.rpartition("/")[2]
    return last.partition(":")[0]


# --- how they are built ---


class Recipe(NamedTuple):
    """How a component is built."""

    component: str
    dockerfile: str
    base: str = ""
    """The component that it builds on, if it is one of ours."""


def recipes(python_version: str = RUNNING_PYTHON) -> list[Recipe]:
    """All components, each after the one that it builds on."""
    rpc = rpc_component(python_version)
    return [
        Recipe(QUERY_FRONTEND, "QueryFrontendDockerfile"),
        Recipe(MANAGEMENT_FRONTEND, "ManagementFrontendDockerfile"),
        Recipe(FRONTEND_EXPORTER, "FrontendExporterDockerfile"),
        Recipe(rpc, "RPCDockerfile"),
        Recipe(python_closure_component(python_version), "PyClosureContainerDockerfile", rpc),
        Recipe(NOOP_CONTAINER, "NoopDockerfile", rpc),
        Recipe(SUM_CONTAINER, "SumDockerfile", rpc),
    ]


R_RECIPE = Recipe(R_CONTAINER, "RDockerfile")


def build_arguments(recipe: Recipe, python_version: str = RUNNING_PYTHON) -> list[str]:
    """The arguments of ``docker build`` but for the context, which is the top of the checkout."""
    values = {"VERSION": __version__}
    values |= {"RPC_IMAGE": image_name(recipe.base)} if recipe.base else {"PYTHON_VERSION": python_version}
    return [
        f"--tag={image_name(recipe.component)}",
        f"--file=dockerfiles/{recipe.dockerfile}",
        *(f"--build-arg={name}={value}" for name, value in values.items()),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line for each image, in the order in which they can be built."""
    parser = ArgumentParser("python -m clipper_admin.images", description=main.__doc__)
    parser.add_argument("--python-version", default=RUNNING_PYTHON, help="of the images (default: %(default)s)")
    python_version = parser.parse_args(arguments).python_version
    for recipe in [*recipes(python_version), R_RECIPE]:
        print(*build_arguments(recipe, python_version))


if __name__ == "__main__":
    main()

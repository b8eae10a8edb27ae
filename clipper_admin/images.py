"""Images for container managers, deployers and the Makefile: Clipper's, ``[registry/]name:version``, and others.

``python -m clipper_admin.images`` prints the arguments with which ``docker build`` makes each of them.
"""

import os
import re
import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from clipper_common import __version__, constants

__registry__ = os.environ.get("CLIPPER_REGISTRY", "clipper")

QUERY_FRONTEND = "query_frontend"
MANAGEMENT_FRONTEND = "management_frontend"
FRONTEND_EXPORTER = "frontend-exporter"
NOOP_CONTAINER = "noop-container"
SUM_CONTAINER = "sum-container"
R_CONTAINER = "r-container-base"

REDIS_IMAGE: Final = "redis:alpine"
# The log of changes brings the configuration back when the container, or the machine, starts again.
REDIS_COMMAND: Final = (
    *("redis-server", "--port", str(constants.REDIS_PORT), "--protected-mode", "no"),
    *("--save", "", "--appendonly", "yes"),
)
PROMETHEUS_IMAGE: Final = "prom/prometheus:v2.42.0"
FLUENTD_IMAGE: Final = "fluent/fluentd:v1.16-debian-1"

RUNNING_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def image_name(component: str) -> str:
    """The full name of the image of `component`, such as ``clipper/query_frontend:0.5.0``."""
    return f"{__registry__}/{component}:{__version__}"


def python_suffix(python_version: str = RUNNING_PYTHON) -> str:
    """Return a Python version as it is written in the names of images, such as ``311``."""
    return python_version.replace(".", "")


def rpc_component(python_version: str = RUNNING_PYTHON) -> str:
    """The image that all model containers build on: Python, and the module `rpc`."""
    return f"py{python_suffix(python_version)}-rpc"


class ModelImage(NamedTuple):
    """The image that serves the models of a deployer."""

    pattern: str
    """The format string of its name, in whose braces the Python version is put."""
    module: str
    """The program, in `clipper_containers`."""
    dockerfile: str
    packages: tuple[str, ...] = ()
    """Modules whose versions must be those that saved the model."""

    def component(self, python_version: str = RUNNING_PYTHON) -> str:
        """The bare name, for models that were pickled by this version of Python."""
        return self.pattern.format(python_suffix(python_version))

    def name(self) -> str:
        """The full name, for models pickled by the running interpreter."""
        return image_name(self.component())


PYTHON = ModelImage("python{}-closure-container", "python_closure_container", "PyClosureContainerDockerfile")
PYTORCH = ModelImage("pytorch{}-container", "pytorch_container", "PyTorchContainerDockerfile", ("torch",))
ONNX = ModelImage("onnx{}-container", "onnx_container", "OnnxContainerDockerfile")
TENSORFLOW = ModelImage("tf{}-container", "tensorflow_container", "TensorFlowContainerDockerfile", ("tensorflow",))
KERAS = ModelImage("keras{}-container", "keras_container", "KerasContainerDockerfile", ("keras",))
MXNET = ModelImage("mxnet{}-container", "mxnet_container", "MXNetContainerDockerfile", ("mxnet",))
PYSPARK = ModelImage("pyspark{}-container", "pyspark_container", "PySparkContainerDockerfile", ("pyspark",))
FRAMEWORKS = {
    "pytorch": PYTORCH,
    "onnx": ONNX,
    "tensorflow": TENSORFLOW,
    "keras": KERAS,
    "mxnet": MXNET,
    "pyspark": PYSPARK,
}
"""The images of frameworks, by the names of their deployers."""


def served_by(image: str) -> tuple[str, str] | None:
    """Return the version of Python, and the framework, of the models that an image of Clipper serves, or None."""
    for framework, ours in [("", PYTHON), *FRAMEWORKS.items()]:
        if match := re.fullmatch(ours.pattern.format(r"(\d)(\d+)"), component_of(image)):
            return f"{match[1]}.{match[2]}", framework
    return None


def component_of(image: str) -> str:
    """The bare name in `image`: without registry and tag."""
    last = image.rpartition("/")[2]
    return last.partition(":")[0]


# --- how they are built ---


class Recipe(NamedTuple):
    """The recipe for the image of a component."""

    component: str
    dockerfile: str
    base: str = ""
    """The component that it builds on, if it is one of ours."""
    base_argument: str = "RPC_IMAGE"
    """The name of the build argument for the base."""


def recipes(python_version: str = RUNNING_PYTHON) -> list[Recipe]:
    """All components but those of frameworks, each after the one that it builds on."""
    rpc = rpc_component(python_version)
    return [
        Recipe(QUERY_FRONTEND, "QueryFrontendDockerfile"),
        Recipe(MANAGEMENT_FRONTEND, "ManagementFrontendDockerfile"),
        Recipe(FRONTEND_EXPORTER, "FrontendExporterDockerfile"),
        Recipe(rpc, "RPCDockerfile"),
        Recipe(PYTHON.component(python_version), PYTHON.dockerfile, rpc),
        Recipe(NOOP_CONTAINER, "NoopDockerfile", rpc),
        Recipe(SUM_CONTAINER, "SumDockerfile", rpc),
    ]


def framework_recipes(names: Iterable[str], python_version: str = RUNNING_PYTHON) -> list[Recipe]:
    """The components of these frameworks, each after the one that it builds on."""
    rpc = rpc_component(python_version)
    wanted = [FRAMEWORKS[name] for name in names]
    needed = [TENSORFLOW] if KERAS in wanted else []  # whose image has Keras
    return [
        Recipe(
            image.component(python_version), image.dockerfile, TENSORFLOW.component(python_version), "TENSORFLOW_IMAGE"
        )
        if image is KERAS
        else Recipe(image.component(python_version), image.dockerfile, rpc)
        for image in dict.fromkeys([*needed, *wanted])
    ]


CONSTRAINTS: Final = Path("dockerfiles", "constraints")
"""The folder of the constraints files in a checkout."""
R: Final = "r"
R_RECIPE: Final = Recipe(R_CONTAINER, "RDockerfile")
_ON_REQUEST: Final = [*FRAMEWORKS, R]


def build_arguments(recipe: Recipe, python_version: str = RUNNING_PYTHON) -> list[str]:
    """The arguments of ``docker build`` but for the context, which is the top of the checkout."""
    values = {"VERSION": __version__}
    values |= {recipe.base_argument: image_name(recipe.base)} if recipe.base else {"PYTHON_VERSION": python_version}
    framework = next((name for name, image in FRAMEWORKS.items() if image.dockerfile == recipe.dockerfile), None)
    if framework and (constraints := constraints_file(framework, python_version)):
        values["PIP_CONSTRAINT"] = f"/tmp/constraints/{constraints}"
    return [
        f"--tag={image_name(recipe.component)}",
        f"--file=dockerfiles/{recipe.dockerfile}",
        *(f"--build-arg={name}={value}" for name, value in values.items()),
    ]


def constraints_file(framework: str, python_version: str = RUNNING_PYTHON, folder: Path = CONSTRAINTS) -> str:
    """The name of the file with the releases that an environment for a framework gets; empty where there is none."""
    names = [f"{python_version}-{framework}.txt", f"{python_version}.txt"]
    return next((name for name in names if (folder / name).is_file()), "")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line for each image, in the order in which they can be built."""
    parser = ArgumentParser("python -m clipper_admin.images", description=main.__doc__)
    parser.add_argument("--python-version", default=RUNNING_PYTHON, help="of the images (default: %(default)s)")
    parser.add_argument("frameworks", nargs="*", help=f"whose images to make too: all, {', '.join(_ON_REQUEST)}")
    options = parser.parse_args(arguments)
    if unknown := set(options.frameworks) - {"all", *_ON_REQUEST}:
        parser.error(f"no such framework: {', '.join(sorted(unknown))}. Choose from all, {', '.join(_ON_REQUEST)}")
    names = _ON_REQUEST if "all" in options.frameworks else options.frameworks
    version = options.python_version
    found = [*recipes(version), *framework_recipes([name for name in names if name != R], version)]
    for recipe in [*found, *([R_RECIPE] if R in names else [])]:
        print(*build_arguments(recipe, version))


if __name__ == "__main__":
    main()

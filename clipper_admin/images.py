"""Names of Clipper's images: ``[registry/]name:version``, in one place for managers, deployers and the Makefile."""

import os
import sys

from clipper_common import __version__

__registry__ = os.environ.get("CLIPPER_REGISTRY", "clipper")

QUERY_FRONTEND = "query_frontend"
MANAGEMENT_FRONTEND = "management_frontend"
FRONTEND_EXPORTER = "frontend-exporter"
NOOP_CONTAINER = "noop-container"
SUM_CONTAINER = "sum-container"


def image_name(component: str) -> str:
    """The full name of the image of `component`, such as ``clipper/query_frontend:0.5.0``."""
    return f"{__registry__}/{component}:{__version__}"


def python_suffix() -> str:
    """What marks the running Python in the names of images, such as ``311``."""
    return f"{sys.version_info.major}{sys.version_info.minor}"


def python_closure_container() -> str:
    """The image that serves a Python function pickled by the running interpreter."""
    return image_name(f"python{python_suffix()}-closure-container")


def component_of(image: str) -> str:
    """The bare name in `image`: without registry and tag."""
    last = image.rpartition("/")[2]
    return last.partition(":")[0]

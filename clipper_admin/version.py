"""The version, and the registry that images come from."""

from clipper_admin.images import __registry__
from clipper_common import __version__

__all__ = ["__registry__", "__version__"]

"""Sphinx: ``sphinx-build -W -b html docs docs/_build/html``, with clipper_admin and its extra `docs` installed."""

import sys
from pathlib import Path

import clipper_containers
from clipper_common import __version__

# So that `rpc` is documented by the name that authors of containers import.
sys.path.insert(0, str(Path(clipper_containers.__path__[0]) / "toplevel"))

project = "Clipper"
author = "the Clipper authors"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"Clipper {__version__}"
html_copy_source = False
html_show_copyright = False

default_role = "py:obj"
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
napoleon_google_docstring = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

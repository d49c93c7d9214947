"""How the site is built from these pages and the docstrings: `scripts/docs`."""

from __future__ import annotations

import importlib.metadata

project = "beit"
release = version = importlib.metadata.version("beit")
language = "en"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["*.ipynb"]

html_theme = "furo"
html_title = "beit"
html_copy_source = html_show_sourcelink = html_show_copyright = False

myst_heading_anchors = 3
napoleon_numpy_docstring = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True  # as they stand in the code
autodoc_typehints = "signature"
autodoc_class_signature = "separated"

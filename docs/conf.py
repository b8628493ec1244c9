"""The documentation site: Sphinx with myst-nb. `sphinx-build --fail-on-warning -b html docs site`, without network."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import hypereyes_jax

project = "hypereyes-jax"
author = "the hypereyes-jax authors"
release = version = hypereyes_jax.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"hypereyes-jax {release}"

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
# Notebooks are executed by the build, so that a page never shows what its code no longer does.
nb_execution_mode = "force"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # signatures have them; docstrings say shapes and units
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# Links from pages to files of the repository that are no pages.
suppress_warnings = ["myst.xref_missing", "mystnb.unknown_mime_type"]


SECTIONS = ("Args:", "Returns:", "Raises:", "Yields:", "Attributes:")


def blank_lines_around_indented(lines):
    """reStructuredText wants a blank line where indentation changes; a section of the Google style does not."""
    out, before, in_section = [], 0, ""
    for line in lines:
        depth = len(line) - len(line.lstrip())
        if line.strip():
            in_section = line.strip() if line.strip() in SECTIONS else in_section if depth > 0 else ""
            if in_section == "Returns:" and depth > 2:
                line = "  " + line.lstrip()  # napoleon reads what is returned as one paragraph
            if not in_section and out and out[-1].strip() and depth != before and not line.lstrip().startswith("- "):
                listed = out[-1].lstrip().startswith("- ") and depth > before  # a list item goes on
                out += [] if listed else [""]
            before = depth
        out.append(line)
    return out


def write_as_rst(app, what, name, obj, options, lines):
    """Docstrings are plain text with `code` in single backticks; escapes what reStructuredText would read as markup."""
    text = "\n".join(blank_lines_around_indented(lines))
    parts = re.split(r"(`[^`\n]+`)", text)
    lines[:] = "".join(
        f"``{part[1:-1]}``" if part.startswith("`") else re.sub(r"([*|]|(?<=\w)_(?=\W|$))", r"\\\1", part)
        for part in parts
    ).split("\n")


def setup(app):
    app.connect("autodoc-process-docstring", write_as_rst, priority=100)

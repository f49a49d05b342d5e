"""Puts the MathJax files into the site, so that formulas need no network.

They come from the package sphinx-mathjax-offline, which is an extension too, but copies MathJax whole: 24 MB, of
which the book can use a third. The rest serves other input and output formats.
"""

from importlib.util import find_spec
from pathlib import Path
from shutil import copy2, copytree

PARTS = [
    "tex-chtml.js",  # what every page loads
    "output/chtml/fonts/woff-v2",
    "input/tex/extensions",  # LaTeX packages, loaded at the first command that needs one
    "ui",  # the menu of a formula
    "a11y",  # its settings for screen readers, which need
    "sre",  # the rules to read a formula aloud
]


def copy_mathjax(app, exception):
    """Copy the parts of MathJax that the site may load into its `_static/mathjax`."""
    if exception or app.builder.name != "html":
        return
    source = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
    target = Path(app.outdir) / "_static" / "mathjax"
    for part in PARTS:
        if (source / part).is_dir():
            copytree(source / part, target / part, dirs_exist_ok=True)
        else:
            target.mkdir(parents=True, exist_ok=True)
            copy2(source / part, target / part)


def setup(app):
    app.connect("build-finished", copy_mathjax)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

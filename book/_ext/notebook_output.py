"""How the output of a notebook becomes a page: pictures keep their alt text, log lines stay out.

MyST-NB takes the alt text of a picture from the metadata of its *cell*, where it would have to be written before the
picture exists. The book's figures know what they show and put the text into the metadata of the *output*:

    {"image/png": {"alt": "Two curves, the second ...", "width": 640}}

Three things stop the build, since it runs with warnings as errors: a picture without alt text, wherever it comes from,
any output on stderr but the lines that TensorFlow and XLA log when they start, and a warning of TensorFlow on stdout.
"""

import myst_nb.sphinx_
from docutils import nodes
from log_lines import warnings_on_stdout, without_log_lines
from myst_nb.core.render import NbElementRenderer
from sphinx.util import logging

logger = logging.getLogger(__name__)


class OutputRenderer(NbElementRenderer):
    """MyST-NB's renderer, with the changes above."""

    def render_image(self, data):
        """Return the nodes of a picture, with the alt text of its output metadata where that has one."""
        rendered = super().render_image(data)
        alt = data.output_metadata.get(data.mime_type, {}).get("alt")
        if alt:
            for image in rendered:
                image["alt"] = alt
        return rendered

    def render_stdout(self, output, cell_metadata, cell_index, source_line):
        """Return the nodes of a stdout stream, and warn of each warning in it."""
        for line in warnings_on_stdout(output["text"]):
            logger.warning("cell %d prints a warning: %s", cell_index, line, type="notebook_output")
        return super().render_stdout(output, cell_metadata, cell_index, source_line)

    def render_stderr(self, output, cell_metadata, cell_index, source_line):
        """Return the nodes of a stderr stream without its log lines, or none when that leaves nothing."""
        text = without_log_lines(output["text"])
        if not text:
            return []
        return super().render_stderr(output | {"text": text}, cell_metadata, cell_index, source_line)


def warn_without_alt_text(app, doctree):
    """Warn of each picture of a page that has no alt text."""
    for image in doctree.findall(nodes.image):
        if not image.get("alt", "").strip():
            logger.warning("image without alt text: %s", image.get("uri"), location=image, type="alt_text")


def setup(app):
    # MyST-NB finds renderers by entry points of installed packages, which this file is not.
    myst_nb.sphinx_.load_renderer = lambda name: OutputRenderer
    app.connect("doctree-read", warn_without_alt_text)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

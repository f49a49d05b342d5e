"""Buttons that open a chapter in Colab, and where to find what is cited: for a book with an address on GitHub."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import address  # noqa: E402


def add(app, config):
    if url := address.repository(Path(app.srcdir)):
        buttons = config.html_theme_options.get("launch_buttons", {}) | {"colab_url": "https://colab.research.google.com"}
        config.html_theme_options |= {
            "repository_url": url, "repository_branch": address.BRANCH, "launch_buttons": buttons,
        }  # fmt: skip


def say_where(app, docname, source):
    if docname == "book/references" and (url := address.repository(Path(app.srcdir))):
        source[0] = source[0].replace("## Works cited", f"Its address is <{url}>.\n\n## Works cited")


def setup(app):
    app.connect("config-inited", add)
    app.connect("source-read", say_where)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""Buttons that open a chapter in Colab: on the pages of a book whose repository has an address on GitHub."""

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


def setup(app):
    app.connect("config-inited", add)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""Where the project lives: what names the repository asks here, and names nothing while it has no address.

The address is `repository.url` of `_config.yml`, if somebody has set it there. Otherwise it is that of the GitHub
workflow that runs this, or of the remote `origin` if that is on GitHub. So once the project is pushed to GitHub, Colab
buttons and set-up cells follow by themselves. A copy that nobody has pushed leads nowhere.
"""

import os
import re
import subprocess
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).resolve().parents[1]
#: The branch that Colab opens. `make colab` makes what is on it: plain notebooks, the records, the library's wheel.
BRANCH = "colab"

SETUP = """\
# In Colab, this fetches the library and the records. Elsewhere it does nothing.
import sys

if "google.colab" in sys.modules:
    %cd -q /content
    !test -d book || git clone --quiet --depth 1 --branch {branch} \\
        {url} book
    %pip install --quiet --no-deps ./book/ranet_lib-*.whl
    %cd -q book/book
    from ranet_lib.show import colab

    colab.report()
"""


def repository(root=ROOT):
    """The address of the repository on GitHub, `https://github.com/OWNER/NAME`, or None while it has none."""
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    url = (config.get("repository") or {}).get("url") or ""
    given = "https://github.com/" + os.environ.get("GITHUB_REPOSITORY", "")
    for place in [url] if url else [given, _remote(root)]:
        if found := re.fullmatch(r"(?:https://|git@|ssh://git@)github\.com[/:]([\w.-]+/[\w.-]+?)(?:\.git)?/?", place):
            return f"https://github.com/{found[1]}"
    if url:
        raise ValueError(f"repository.url of _config.yml must be https://github.com/OWNER/NAME; received {url!r}")
    return None


def _remote(root):
    """The remote `origin`, or an empty text: without one, without git, or where `root` is a folder of another's."""

    def git(*words):
        return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True).stdout.strip()

    try:
        return "" if git("rev-parse", "--show-prefix") else git("remote", "get-url", "origin")
    except OSError:
        return ""


def site(url):
    """Where GitHub shows the pages of a repository."""
    owner, name = url.split("/")[-2:]
    return f"https://{owner}.github.io/{name}"


def citation(url, root=ROOT):
    """The text of `CITATION.cff`, with where the book is once it has an address `url`."""
    text = (root / "CITATION.cff").read_text(encoding="utf-8")
    where = f"repository-code: {url}\nurl: {site(url)}\n" if url else ""
    return text.replace("references:\n", f"{where}references:\n", 1)


def with_setup_cell(notebook, url):
    """The notebook with the cell that sets it up in Colab, after its title and its card."""
    cell = nbformat.v4.new_code_cell(SETUP.format(url=url, branch=BRANCH).rstrip(), id="setup")
    notebook.cells.insert(1, cell)
    return notebook

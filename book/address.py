"""Where the project lives is one setting, `repository.url` in `_config.yml`. This writes it wherever else it stands.

    python book/address.py

Run it after the setting has changed, and after adding a notebook: it also writes the set-up cell, which is the same in
all of them. The Colab buttons of the built book follow the setting by themselves.
"""

from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).resolve().parents[1]
#: The files that name the address, beside the notebooks.
NAMED_IN = ("README.md", "CITATION.cff", "CONTRIBUTING.md", "pyproject.toml")
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
    """The address of the repository, without a slash at its end."""
    return yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"].rstrip("/")


def site(url):
    """Where GitHub shows the pages of a repository."""
    owner, name = url.split("/")[-2:]
    return f"https://{owner}.github.io/{name}"


def setup_cell(url):
    return SETUP.format(url=url, branch=BRANCH).rstrip()


def is_setup_cell(cell):
    return cell.cell_type == "code" and '"google.colab" in sys.modules' in cell.source


def with_setup_cell(notebook, url):
    """The notebook with the set-up cell as it has to be: hidden on the page, after the title and the card."""
    notebook.cells = [cell for cell in notebook.cells if not is_setup_cell(cell)]
    cell = nbformat.v4.new_code_cell(setup_cell(url), id="setup", metadata={"tags": ["remove-cell"]})
    notebook.cells.insert(1, cell)
    return notebook


def expected(root=ROOT):
    """For each file that names the address, what it should hold."""
    url = repository(root)
    written = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))["repository-code"]
    texts = {}
    for name in NAMED_IN:
        text = (root / name).read_text(encoding="utf-8")
        texts[root / name] = text.replace(written, url).replace(site(written), site(url))
    for path in sorted((root / "book").rglob("*.ipynb")):
        if not any(part.startswith((".", "_")) for part in path.relative_to(root).parts):
            notebook = nbformat.read(path, as_version=4)
            texts[path] = nbformat.writes(with_setup_cell(notebook, url)) + "\n"
    return texts


def main(root=ROOT):
    for path, text in expected(root).items():
        if path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8", newline="\n")
            print("wrote", path.relative_to(root))


if __name__ == "__main__":
    main()

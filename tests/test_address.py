"""Where the repository lives is one setting: everything that names it follows."""

import shutil
import subprocess
import sys

import pytest
import yaml
from runs import ROOT

sys.path.insert(0, str(ROOT / "book"))
import address  # noqa: E402

OLD = address.repository()
NEW = "https://github.com/someone-else/their-fork"


def test_every_place_has_the_address_of_the_setting_and_every_notebook_the_same_set_up_cell():
    stale = [path for path, text in address.expected().items() if path.read_text(encoding="utf-8") != text]
    assert not stale, "run `make address`"


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """A copy of the project after its address has been changed in `_config.yml`."""
    root = tmp_path_factory.mktemp("moved") / "project"
    left_out = shutil.ignore_patterns(".*", "_build", "dist", "runs", "results", "weights", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT, root, ignore=left_out)
    config = root / "_config.yml"
    config.write_text(config.read_text(encoding="utf-8").replace(OLD, NEW), encoding="utf-8")
    subprocess.run([sys.executable, root / "book" / "address.py"], check=True)
    return root


def test_after_a_move_nothing_names_the_old_address(moved):
    files = [path for path in moved.rglob("*") if path.suffix in {".md", ".cff", ".toml", ".ipynb", ".yml", ".py"}]
    owner = OLD.split("/")[-2]
    found = [path.relative_to(moved).as_posix() for path in files if owner in path.read_text(encoding="utf-8")]
    assert found == []


def test_after_a_move_the_new_address_stands_where_the_old_one_stood(moved):
    def named_in(root, url):
        everywhere = sorted([*root.glob("*.*"), *(root / "book").rglob("*.ipynb")])
        return [path.relative_to(root) for path in everywhere if path.is_file() and url in path.read_text("utf-8")]

    assert named_in(moved, NEW) == [path for path in named_in(ROOT, OLD) if "_build" not in path.parts]
    assert yaml.safe_load((moved / "CITATION.cff").read_text())["repository-code"] == NEW
    assert "https://someone-else.github.io/their-fork" in (moved / "pyproject.toml").read_text()

"""Where the repository lives: what names it follows its own address, and names nobody's while it has none."""

import os
import re
import shutil
import subprocess
import sys

import address
import colab
import nbformat
import pytest
import yaml
from runs import ROOT, tracked

OWN = "https://github.com/someone/their-fork"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty repository with the book's settings; its remotes are set by `git`."""
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    (tmp_path / "_config.yml").write_text((ROOT / "_config.yml").read_text(encoding="utf-8"), encoding="utf-8")
    if not shutil.which("git"):
        pytest.skip("needs git")
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    return tmp_path


def git(folder, *words):
    subprocess.run(["git", "-C", folder, *words], check=True)


def test_a_repository_that_nobody_has_pushed_has_no_address(project):
    assert address.repository(project) is None
    git(project, "remote", "add", "origin", "/srv/copies/project.git")
    assert address.repository(project) is None
    git(project, "remote", "set-url", "origin", "https://example.org/someone/their-fork")
    assert address.repository(project) is None


@pytest.mark.parametrize("wrong", ["https://gitlab.com/me/book", "https://github.com/me/book/tree/main"])
def test_an_address_in_the_settings_that_is_not_one_is_refused_whatever_the_remote(project, wrong):
    git(project, "remote", "add", "origin", OWN)
    settings = project / "_config.yml"
    config = yaml.safe_load(settings.read_text(encoding="utf-8"))
    settings.write_text(yaml.safe_dump(config | {"repository": {"url": wrong}}), encoding="utf-8")
    with pytest.raises(ValueError, match=f"OWNER/NAME; received '{wrong}'"):
        address.repository(project)
    settings.write_text(yaml.safe_dump(config | {"repository": {"url": None}}), encoding="utf-8")
    assert address.repository(project) == OWN


@pytest.mark.parametrize(
    "remote",
    [
        OWN, OWN + ".git", OWN + "/", "git@github.com:someone/their-fork.git",
        "ssh://git@github.com/someone/their-fork",
    ],  # fmt: skip
)
def test_the_address_is_that_of_the_remote(project, remote):
    git(project, "remote", "add", "origin", remote)
    assert address.repository(project) == OWN


def test_a_copy_inside_another_repository_has_no_address(project):
    """Such as a release that was unpacked in the repository of a course."""
    git(project, "remote", "add", "origin", OWN)
    copy = project / "book"
    copy.mkdir()
    (copy / "_config.yml").write_bytes((project / "_config.yml").read_bytes())
    assert address.repository(project) == OWN and address.repository(copy) is None


def test_a_workflow_and_then_the_setting_go_before_the_remote(project, monkeypatch):
    git(project, "remote", "add", "origin", "https://github.com/first/one")
    monkeypatch.setenv("GITHUB_REPOSITORY", "someone/their-fork")
    assert address.repository(project) == OWN
    with open(project / "_config.yml", "a", encoding="utf-8") as config:
        config.write("\nrepository: {url: https://github.com/chosen/name/}\n")
    assert address.repository(project) == "https://github.com/chosen/name"


def test_without_git_there_is_no_address(project, monkeypatch):
    git(project, "remote", "add", "origin", OWN)
    monkeypatch.setenv("PATH", str(project / "nowhere"))
    assert address.repository(project) is None


def test_a_setting_that_is_no_address_is_named(project):
    with open(project / "_config.yml", "a", encoding="utf-8") as config:
        config.write("\nrepository: {url: https://example.org/name}\n")
    with pytest.raises(ValueError, match="must be https://github.com/OWNER/NAME; received 'https://example.org/name'"):
        address.repository(project)


def test_nothing_in_the_project_names_an_address_of_its_own():
    """Whoever held it would own what a reader runs."""
    if not (names := tracked()):
        pytest.skip("needs the repository")
    owners = set()
    for name in names:
        path = ROOT / name
        if path.suffix in (".md", ".ipynb", ".cff", ".toml", ".yml") and path.is_file():
            text = path.read_text(encoding="utf-8")
            named = r"git clone.*|%pip install.*|blob/colab|\.github\.io|github\.com/\w[\w.-]*/[\w.-]+"
            owners |= {(name, found) for found in re.findall(named, text)}
            assert "google.colab" not in text, name
    assert owners == set()


def test_colab_notebooks_fetch_from_the_address_and_from_nowhere_without_one(project, monkeypatch):
    monkeypatch.setattr(colab, "repository", lambda root: None)
    with pytest.raises(ValueError, match="push it, .* or set repository.url in _config.yml"):
        colab.Book()
    made = address.with_setup_cell(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Title")]), OWN)
    assert f"{OWN} book" in made.cells[1].source


def test_the_citation_says_where_the_book_is_once_it_is_somewhere():
    before, after = (yaml.safe_load(address.citation(url)) for url in (None, OWN))
    assert not {"repository-code", "url"} & set(before)
    assert after == before | {"repository-code": OWN, "url": "https://someone.github.io/their-fork"}


@pytest.mark.slow
def test_once_it_is_pushed_the_pages_have_buttons(project):
    """A small book by the project's own settings and extensions, in a repository with a remote."""
    for name in ("book", "ranet_lib"):
        os.symlink(ROOT / name, project / name)
    config = (project / "_config.yml").read_text(encoding="utf-8")
    config = config.replace("execute_notebooks: cache", "execute_notebooks: off")
    (project / "_config.yml").write_text(config, encoding="utf-8")
    (project / "_toc.yml").write_text("format: jb-book\nroot: book/index\nchapters:\n"
                                      "  - file: book/04_soft_masks\n  - file: book/references\n")
    build = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", str(project)]
    for remote, expected in ((None, 0), (OWN, 1)):
        if remote:
            git(project, "remote", "add", "origin", remote)
        subprocess.run([*build, "--all"], check=True, capture_output=True)
        page = (project / "_build" / "html" / "book" / "04_soft_masks.html").read_text(encoding="utf-8")
        button = "https://colab.research.google.com/github/someone/their-fork/blob/colab/book/04_soft_masks.ipynb"
        assert page.count(f'href="{button}"') == expected
        assert expected or "colab.research" not in page
        cited = (project / "_build" / "html" / "book" / "references.html").read_text(encoding="utf-8")
        assert cited.count("Its address is") == expected and (OWN in cited) == bool(expected)

"""What Google Colab opens: notebooks that show as they should there, and that run with the versions it has."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import address
import colab
import nbformat
import pytest
from packaging.requirements import Requirement
from runs import ROOT
from test_package import PROJECT

URL = "https://github.com/someone/residual-attention"
BOOK = colab.Book(url=URL)
PAGES = sorted(BOOK.notebooks)
PINS = Path(os.environ.get("COLAB_PINS") or ROOT.parent / "shared" / "colab" / "pip-freeze.gpu.txt")
CODE = re.compile(r"^(`{3,})\w*\n.*?^\1$|`[^`]*`", re.S | re.M)


@pytest.mark.parametrize("page", PAGES)
def test_no_markup_of_the_book_is_left(page):
    notebook = colab.plain_notebook(BOOK, page)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            prose = CODE.sub("", cell.source)
            assert not re.search(r"\{[\w:-]+\}`|^\s*:{3,}|^`{3,}|^:\w+:|^\(\S+\)=|\]\(\)", prose, re.M), cell.source


def test_every_link_leads_to_a_page_of_the_book():
    found, folder = set(), URL.removeprefix("https://github.com")
    for page in PAGES:
        cells = colab.plain_notebook(BOOK, page).cells
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        for target in re.findall(r"\]\((https://[^)]+)\)", text):
            if "colab.research" in target:
                start = f"https://colab.research.google.com/github{folder}/blob/colab/"
                assert target.startswith(start)
                name = target.removeprefix(start).removesuffix(".ipynb")
                assert (ROOT / f"{name}.ipynb").exists()
                found.add(name)
            elif ".github.io" in target:
                assert re.fullmatch(rf"{address.site(URL)}/(.*)\.html", target)[1] in BOOK.pages
    assert len(found) > 10


def test_code_is_what_the_book_has():
    for page, notebook in BOOK.notebooks.items():
        ours = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
        setup, *theirs = (cell.source for cell in colab.plain_notebook(BOOK, page).cells if cell.cell_type == "code")
        assert theirs == ours and URL in setup and "ranet_lib-*.whl" in setup


def test_solutions_are_folded_and_figures_have_their_captions():
    notebook = colab.plain_notebook(BOOK, "book/01_why_attention")
    headings = [cell for cell in notebook.cells if cell.source.startswith("##### Solution")]
    assert headings and [cell.id for cell in headings] == notebook.metadata["colab"]["collapsed_sections"]
    exercises = [cell for cell in notebook.cells if cell.source.startswith("#### Exercise")]
    assert len(exercises) == len(headings)
    captions = [cell.source for cell in notebook.cells if cell.source.startswith("*Figure ")]
    figures = [figure for cell in BOOK.notebooks["book/01_why_attention"].cells if (figure := colab.figure_of(cell))]
    assert captions == [f"*Figure {number}. {figure['caption']}*" for number, figure in enumerate(figures, 1)]


@pytest.mark.parametrize(
    "text, plain",
    [
        ("{doc}`04_soft_masks`", "[Soft masks](https://colab.research.google.com/github"),
        ("{doc}`masks <04_soft_masks>`", "[masks](https://colab.research.google.com/github"),
        ("{doc}`glossary`", "/book/glossary.html)"),
        ("{cite}`wang2017residual`", "([Wang et al., 2017]("),
        ("{cite:t}`wang2017residual`", "Wang et al. ([2017]("),
        ("{term}`soft mask`", "[soft mask]("),
        (":::{tip}\nA.\n:::", "> **Tip**\n>\n> A."),
        (":::{admonition} Title\n:class: note\n\nOne.\n\nTwo.\n:::", "> **Title**\n>\n> One.\n>\n> Two."),
        ("(label)=\n## Title", "## Title"),
        ("```python\n{doc}`x`\n```", "```python\n{doc}`x`\n```"),
    ],
)
def test_plain_forms(text, plain):
    assert plain in colab.plain(BOOK, "book/01_why_attention", text)


@pytest.mark.parametrize(
    "text", ["{hover}`x`", ":::{grid}\nx\n:::", "{ref}`Below <nowhere>`", ":::{admonition} No end\nx"]
)
def test_markup_that_it_does_not_know_stops_it(text):
    with pytest.raises(colab.UnknownMarkup, match="book/01_why_attention"):
        colab.plain(BOOK, "book/01_why_attention", text)


# --- With Colab's versions ---------------------------------------------------------------------------------------


def run(*words, env=None, **options):
    """What a command prints. It finds no package that only this process knows of."""
    env = {name: value for name, value in (env or os.environ).items() if name not in ("PYTHONPATH", "KERAS_BACKEND")}
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, env=env, **options)
    assert done.returncode == 0, f"{words}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def python_313():
    """An interpreter of the version that Colab has, or None."""
    candidates = [shutil.which("python3.13"), *sorted(Path.home().glob(".pyenv/versions/3.13*/bin/python"))]
    for python in filter(None, candidates):
        asked = subprocess.run([python, "--version"], capture_output=True, text=True)
        if asked.stdout.startswith("Python 3.13."):
            return python


def pinned():
    """Colab's packages that an index has, as `name==version`, or a skip where there is no list of them."""
    if not PINS.exists():
        pytest.skip("needs Colab's list of packages: COLAB_PINS=FILE")
    return re.findall(r"^[\w.-]+==[\w.]+$", PINS.read_text(encoding="utf-8"), re.M)


def find_uv():
    """The path of uv, the machine's or the one that make has put here, or None."""
    return shutil.which("uv") or shutil.which("uv", path=ROOT / ".uv" / "bin")


@pytest.fixture(scope="module")
def like_colab(tmp_path_factory):
    """A folder with `env`, of Colab's versions, a kernel that says it is Colab's, and the branch to clone."""
    pins = pinned()
    if not (python := python_313()):
        pytest.skip("needs Python 3.13, on a system like Colab's")
    folder = tmp_path_factory.mktemp("colab")
    here = folder / "env" / "bin" / "python"
    run(python, "-m", "venv", folder / "env")
    (folder / "pins.txt").write_text("\n".join(pins))
    pip = (here, "-m", "pip", "--disable-pip-version-check")
    needed = ["tensorflow", "ipykernel", *(Requirement(line).name for line in PROJECT["dependencies"])]
    uv = find_uv()  # minutes faster
    install = (uv, "pip", "install", "--python", here) if uv else (*pip, "install")
    run(*install, "--quiet", *needed, "--constraint", folder / "pins.txt")

    # Colab's own module is there before the first cell runs.
    profile = folder / "ipython" / "profile_default"
    profile.mkdir(parents=True)
    imported = "import sys, types; sys.modules['google.colab'] = types.ModuleType('google.colab')"
    (profile / "ipython_config.py").write_text(f"c.InteractiveShellApp.exec_lines = [{imported!r}]\n")
    kernel = folder / "jupyter" / "kernels" / "colab"
    kernel.mkdir(parents=True)
    words = [str(here), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": words, "display_name": "Colab", "language": "python"}))

    # The branch that the first cell clones, at its address.
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder / "dist", ROOT)
    colab.write(folder / "branch", next((folder / "dist").glob("*.whl")), url=URL)
    git = ("git", "-C", folder / "branch", "-c", "user.name=test", "-c", "user.email=test@example.org")
    run("git", "init", "--quiet", "--initial-branch", address.BRANCH, folder / "branch")
    run(*git, "add", "--all")
    run(*git, "commit", "--quiet", "--message", "branch")
    before = run(*pip, "freeze")
    run(*pip, "install", "--quiet", "--no-deps", next((folder / "dist").glob("*.whl")))
    changed = set(run(*pip, "freeze").splitlines()) - set(before.splitlines())
    assert [line.partition(" ")[0] for line in changed] == ["ranet_lib"], "the wheel replaced a package of Colab's"
    run(*pip, "check")
    run(*pip, "uninstall", "--quiet", "--yes", "ranet_lib")
    return folder


def open_in_colab(like_colab, page, *parameters):
    """Run what Colab would open, where its own folder /content is a new one; return the executed notebook."""
    content = like_colab / "content" / page.replace("/", "-")
    content.mkdir(parents=True)
    text = (like_colab / "branch" / f"{page}.ipynb").read_text(encoding="utf-8")
    assert text.count("/content") == 1
    (content / "in.ipynb").write_text(text.replace("/content", str(content)), encoding="utf-8")
    environment = os.environ | {
        "JUPYTER_PATH": str(like_colab / "jupyter"),
        "IPYTHONDIR": str(like_colab / "ipython"),
        "PATH": f"{like_colab / 'env' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{like_colab / 'branch'}.insteadOf",
        "GIT_CONFIG_VALUE_0": URL,
    }
    # On a busy machine a kernel takes longer than the minute that papermill waits for one.
    words = ["--kernel", "colab", "--no-progress-bar", "--start-timeout", "600", *parameters]
    run(sys.executable, "-m", "papermill", "in.ipynb", "out.ipynb", *words, cwd=content, env=environment)
    return nbformat.read(content / "out.ipynb", as_version=4)


def said(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


def check_in_colab(like_colab, page, *parameters):
    executed = open_in_colab(like_colab, page, *parameters)
    setup = next(cell for cell in executed.cells if cell.id == "setup")
    pins = dict(line.split("==") for line in (like_colab / "pins.txt").read_text().splitlines())
    for package in ("keras", "tensorflow"):
        assert f"{package} {pins[package]}" in said(setup).lower()
    assert "Runtime > Change runtime type > T4 GPU" in said(setup)
    unread = [output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs
              if output.output_type == "error"]  # fmt: skip
    assert not unread


EXPLORE = """
import IPython.display, ipywidgets
from matplotlib.figure import Figure
from ranet_lib import show
from ranet_lib.show import explorers

def draw(number=1, kind="a"):
    figure = Figure((2, 1))
    figure.subplots().plot([number, 2])
    return figure, f"{number} {kind}"

shown = []
IPython.display.display = lambda bundle, **about: shown.append(bundle)
explorers._someone_is_there = lambda: True
show.explore(draw, number=range(3), kind=["a", "b"])
panel = ipywidgets.Widget.widgets[shown[0]["application/vnd.jupyter.widget-view+json"]["model_id"]]
slider, choice, picture, trouble = panel.children
for slider.value, choice.value in [(1, "a"), (2, "a"), (2, "b")]:
    assert f'alt="{slider.value} {choice.value}"' in picture.value
assert not trouble.outputs
print(type(slider).__name__, type(choice).__name__, ipywidgets.__version__)
"""


@pytest.mark.colab
def test_explorers_are_widgets_of_colabs_version(like_colab):
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    here = like_colab / "env" / "bin" / "python"
    pins = dict(line.split("==") for line in (like_colab / "pins.txt").read_text(encoding="utf-8").splitlines())
    last = run(here, "-c", EXPLORE, cwd=ROOT, env=environment).splitlines()[-1]
    assert last.split() == ["SelectionSlider", "Dropdown", pins["ipywidgets"]]


QUICK = ("book/01_why_attention", "book/experiments/train")


@pytest.mark.slow
@pytest.mark.parametrize("page", QUICK)
def test_runs_with_the_versions_of_colab(like_colab, page):
    check_in_colab(like_colab, page, *(("-p", "profile", "smoke") if page.endswith("train") else ()))


@pytest.mark.colab
@pytest.mark.parametrize("page", PAGES)
def test_every_notebook_runs_with_the_versions_of_colab(like_colab, page):
    check_in_colab(like_colab, page)

"""Explorers in a live Jupyter: a real server, a real kernel, a real browser that reaches no other host.

`benchmarks/live.py` opens the notebooks and measures; here it is only asked whether they work.
"""

import sys

import nbformat
import pytest
from machine import started
from nbclient import NotebookClient
from programs import find_programs
from runs import ROOT

pytestmark = pytest.mark.slow

CELL = """
import matplotlib.pyplot as plt
from ranet_lib import show

def draw(masks=1, rule="residual"):
    figure, axes = plt.subplots(figsize=(3, 2))
    axes.bar(["naive", "residual"], [masks * (rule == each) for each in ("naive", "residual")])
    return figure, f"{masks} masks, {rule}"

show.explore(draw, masks=range(1, 4), rule=["naive", "residual"])
"""


@pytest.fixture(scope="module")
def live():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import live

    sys.path.remove(str(ROOT / "benchmarks"))
    return live


@pytest.fixture(scope="module")
def lab(live, tmp_path_factory):
    """Opens a notebook with one cell, executed by a program before, or by a person now."""
    pytest.importorskip("jupyterlab", reason="needs the extra lab; make test-slow installs it")
    folder = tmp_path_factory.mktemp("lab")
    programs = find_programs(["chromium", "chromedriver"], ["chromium", "chromium-driver"])
    with live.jupyter(folder) as server, live.local_browser(*programs) as browser:

        def open_notebook(name, by_program):
            notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
            notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
            if by_program:
                started(lambda: NotebookClient(notebook, startup_timeout=600, iopub_timeout=600).execute())
            nbformat.write(notebook, folder / name)
            server.trust(folder / name)
            opened = live.Notebook(browser, server, name)
            if not by_program:
                opened.run()
            return opened

        yield open_notebook


@pytest.mark.parametrize("by_program", [False, True], ids=["widgets that the kernel draws", "frames drawn before"])
def test_keys_move_the_picture_of_an_explorer(lab, by_program):
    notebook = lab(f"{by_program}.ipynb", by_program)
    [box] = notebook.wait("the explorer", notebook.explorers)

    def seen():
        image = box.find_element("tag name", "img")
        return image.get_attribute("src"), image.get_attribute("alt"), box.find_element("tag name", "p").text

    moves = [("Right", "2 masks, residual"), ("Right", "3 masks, residual"), ("Left", "2 masks, residual")]
    at_start = seen()
    assert at_start[1:] == ("1 masks, residual", "1 masks, residual")
    pictures = [at_start[0]]
    for way, expected in moves:
        notebook.move(box, 0, way)
        picture, *said = seen()
        assert said == [expected, expected]
        pictures.append(picture)
    assert pictures[1] == pictures[3] and len(set(pictures)) == 3
    assert notebook.errors() == []

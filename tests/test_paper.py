"""The book as a PDF and as an EPUB: a small one with everything in it that a page can hold, and its look on paper."""

import html
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import paper
import pytest
from programs import find_programs, is_root
from runs import ROOT

TOC = """\
format: jb-book
root: book/index
defaults: {numbered: 1}
parts:
  - caption: The idea
    chapters: [{file: book/one}, {file: book/two}]
  - caption: Look it up
    numbered: false
    chapters: [{file: book/glossary}, {file: book/references}]
"""
INDEX = "# Residual attention, step by step\n\nThe preface of a small book.\n\n## What it holds\n\n{doc}`one`.\n"
GLOSSARY = ":::{glossary}\ngate\n  Weights that features are multiplied by.\n:::\n"
WORDS = """\
# A chapter with everything

:::{admonition} In this chapter
:class: tip
**After this you can** read naïve Größen, and α → β.
:::

A {term}`gate` multiplies {cite:p}`wang2017residual`: $M = \\tfrac12$, as {numref}`fig-curve` and {doc}`two` say, and

$$
H_{i,c} = (1 + M_{i,c}) \\cdot F_{i,c} \\le \\exp(F_{i,c}).
$$

## Two frameworks

````{tab-set}
```{tab-item} Keras
The first tab.
```
```{tab-item} PyTorch
The second tab.
```
````
"""
EXERCISE = """\
````{exercise} A halved mask
:label: ex-half

What is left of $F$?

:::{admonition} Hint
:class: dropdown
Multiply.
:::
````

````{solution-start} ex-half
:class: dropdown
````
"""
FIGURE = """\
figure, axes = plt.subplots(figsize=(6.4, 2))
axes.plot([0, 1])
show.figure(figure, "A line rises.");
"""
TABLE = """\
rows = [{"network": f"source_attention_{layer}_cifar100", "what it is": "a very long sentence " * 3,
         **{f"column {column}": layer * 1000 + column for column in range(7)}} for layer in range(40)]
show.table(rows, caption="Many networks");
"""
DRAWING = """\
from IPython.display import display

box = '<svg xmlns="http://www.w3.org/2000/svg" width="200" height="40"><text x="5" y="25">drawnbox</text></svg>'
display({"image/svg+xml": box}, raw=True, metadata={"image/svg+xml": {"alt": "A drawn box."}})
"""
EXPLORER = """\
def draw(depth=1):
    figure, axes = plt.subplots(figsize=(4, 2))
    axes.bar([0], [depth])
    return figure, f"A bar of height {depth}."

show.explore(draw, depth=range(3))
"""
SCRIPT = """\
page = "<p hidden>Not on paper.</p><script src='page.js'></script>"
display({"text/html": page, "text/plain": "Here the site runs a script."}, raw=True)
"""
WIDE = "print('wide ' + '" + "0123456789" * 15 + "end')"


def code(source, name=None, caption=None, tags=()):
    figure = {"mystnb": {"figure": {"caption": caption, "name": name}}} if name else {}
    return nbformat.v4.new_code_cell(source, metadata=figure | {"tags": list(tags)})


@pytest.fixture(scope="module")
def small_book(tmp_path_factory):
    """A folder like the repository, with two chapters that run in seconds."""
    root = tmp_path_factory.mktemp("paper")
    (root / "_config.yml").write_text((ROOT / "_config.yml").read_text(encoding="utf-8"), encoding="utf-8")
    (root / "_toc.yml").write_text(TOC, encoding="utf-8")
    book = root / "book"
    for folder in ("_ext", "assets"):
        shutil.copytree(ROOT / "book" / folder, book / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("address.py", "paper.py", "references.bib", "references.md"):
        shutil.copy(ROOT / "book" / name, book)
    (book / "index.md").write_text(INDEX, encoding="utf-8")
    (book / "glossary.md").write_text(f"# Glossary\n\n{GLOSSARY}", encoding="utf-8")
    (book / "two.md").write_text("# The second\n\nIts text.\n", encoding="utf-8")
    cells = [
        nbformat.v4.new_markdown_cell(WORDS),
        code("import matplotlib.pyplot as plt\n\nfrom ranet_lib import show"),
        code(FIGURE, "fig-curve", "A curve.", ["hide-input"]),
        code(TABLE), code(DRAWING), code(EXPLORER, "fig-bar", "A bar."), code(WIDE), code(SCRIPT),
        nbformat.v4.new_markdown_cell(EXERCISE), code("print('half of', 'it')"),
        nbformat.v4.new_markdown_cell("Half.\n\n````{solution-end}\n````"),
    ]  # fmt: skip
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), book / "one.ipynb")
    return root


def make(root, kind):
    """Build it as make does."""
    if paper.lacking(kind) and not is_root():
        give_up = pytest.fail if os.environ.get("CI") and sys.platform == "linux" else pytest.skip
        give_up(f"needs {' '.join(paper.lacking(kind))}; root can have them installed by book/paper.py")
    words = [sys.executable, "book/paper.py", kind]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
    return root / "_build" / f"residual-attention.{kind}"


@pytest.fixture(scope="module")
def pdf(small_book):
    find_programs(["pdftotext", "pdfimages", "pdffonts", "pdfinfo"], ["poppler-utils"])
    return make(small_book, "pdf")


@pytest.fixture(scope="module")
def epub(small_book):
    return make(small_book, "epub")


def output(*words):
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@pytest.mark.slow
def test_everything_is_in_the_pdf(pdf):
    text = output("pdftotext", "-layout", str(pdf), "-")
    flat = re.sub(r"\s+", " ", text)
    for said in (
        "The preface of a small book", "Part I", "A chapter with everything", "naïve Größen, and α → β",
        "Fig. 1.1: A curve", "as Fig. 1.1 and The second say", "[Wang et al., 2017]", "Many networks",
        "Fig. 1.2: A bar", "A bar of height 1.", "Exercise 1.1 (A halved mask)", "Hint",
        "Solution to Exercise 1.1 (A halved mask)", "half of it", "drawnbox", "The first tab",
        "Here the site runs a script", "Residual Attention Network",
        "Weights that features are multiplied by", "Contents", "Version",
    ):  # fmt: skip
        assert said in flat, said
    assert "??" not in flat and "[figure" not in flat and "<table" not in flat
    # Of the table, the last row; of the wide line, whole, code and output.
    assert "39,006" in flat
    assert re.sub(r"\W", "", text).count("0123456789" * 15 + "end") == 2
    letters = output("pdftotext", str(pdf), "-")
    assert "𝐻" in letters and "𝐹" in letters


@pytest.mark.slow
def test_the_pdf_has_its_pictures_fonts_and_links(pdf):
    pictures = [line for line in output("pdfimages", "-list", str(pdf)).splitlines() if line.split()[2:3] == ["image"]]
    assert len(pictures) == 2  # the figure and the explorer; the drawing is a vector graphic
    fonts = output("pdffonts", str(pdf)).splitlines()[2:]
    assert fonts and all(re.search(r"yes (yes|no) +(yes|no) +\d", font) for font in fonts)
    assert {"Pagella", "DejaVuSansMono"} <= {name for name in ("Pagella", "DejaVuSansMono") if name in " ".join(fonts)}
    assert "A4" in output("pdfinfo", str(pdf))
    places = output("pdfinfo", "-dests", str(pdf))
    assert "figure.1.1" in places and "chapter.2" in places


@pytest.mark.slow
def test_the_epub_is_valid_and_everything_is_in_it(epub):
    (check,) = find_programs(["epubcheck"], ["epubcheck"])
    jar = Path("/usr/share/java/epubcheck.jar")  # Debian's program is a link to it, which only a shell can start
    check = ["java", "-jar", str(jar)] if jar.exists() else [check]
    done = subprocess.run([*check, "--failonwarnings", str(epub)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    book = zipfile.ZipFile(epub)
    pages = {name: book.read(name).decode() for name in book.namelist() if name.endswith((".xhtml", ".opf"))}
    page = pages["book/one.xhtml"]
    for said in (
        'alt="A line rises."', 'alt="A bar of height 1."', 'alt="A drawn box."', "<math", "<table", "39,006",
        "Fig. 1.1", "Solution to", "Many networks", "naïve Größen", "Keras</p>", "The second tab", "runs a script",
    ):  # fmt: skip
        assert said in html.unescape(page), said
    assert "<script" not in page and "explore" in page and "<input" not in page
    entries = re.findall(r'<a href="([^"]+)">([^<]+)</a>', pages["nav.xhtml"])
    assert entries[1:4] == [
        ("book/one.xhtml", "The idea"), ("book/one.xhtml#a-chapter-with-everything", "1. A chapter with everything"),
        ("book/one.xhtml#two-frameworks", "Two frameworks"),
    ]  # fmt: skip
    assert ("book/glossary.xhtml", "Look it up") in entries
    assert "cover.png" in pages["content.opf"] and "schema:accessMode" in pages["content.opf"]


def test_what_latex_complains_about_stops_the_build():
    log = """\
! Undefined control sequence.
LaTeX Warning: Reference `fig:x' on page 3 undefined on input line 7.
LaTeX Warning: File `picture.png' not found on input line 8.
Missing character: There is no ✅ in font TeX Gyre Pagella!
Overfull \\hbox (31.2pt too wide) in paragraph at lines 1--2
Overfull \\hbox (2.5pt too wide) in paragraph at lines 3--4
Underfull \\vbox (badness 10000) has occurred
"""
    assert paper.faults(log) == log.splitlines()[:5]
    code = "\\begin{sphinxVerbatim}\nlong\n\\end{sphinxVerbatim}\n"
    wide = "Overfull \\hbox (31.2pt too wide) in paragraph at lines 2--2"
    assert paper.faults(wide, code) == [] and paper.faults(wide, "\n" + code.replace("Verbatim", "")) == [wide]


def test_a_page_of_the_epub_that_is_no_xml_stops_the_build(tmp_path):
    (tmp_path / "good.xhtml").write_text("<p>f(x) &#x2061; &amp;</p>", encoding="utf-8")
    paper.check_pages(tmp_path)
    for text in ("<p>&ApplyFunction;</p>", "<p hidden>x</p>", "<p><input type='radio'></p>"):
        (tmp_path / "bad.xhtml").write_text(text, encoding="utf-8")
        with pytest.raises(SystemExit, match=r"bad\.xhtml: .*line 1"):
            paper.check_pages(tmp_path)


@pytest.mark.parametrize("kind", ["pdf", "epub"])
def test_who_cannot_install_is_told_what_is_needed(kind, monkeypatch):
    monkeypatch.setattr(paper, "is_here", lambda sign: False)
    monkeypatch.setattr(paper.os, "geteuid", lambda: 1000, raising=False)
    with pytest.raises(SystemExit, match=f"`make {kind}` needs .*rsvg-convert.*apt install .*librsvg2-bin"):
        paper.install(kind)

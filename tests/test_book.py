"""The sources of the book, without building it: notebooks, table of contents, and how output becomes a page."""

import ast
import io
import json
import re
import statistics
import tokenize

import nbformat
import pytest
import times
import yaml
from markdown_it import MarkdownIt
from mdit_py_plugins.colon_fence import colon_fence_plugin
from mdit_py_plugins.myst_blocks import myst_block_plugin
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from prose import captions, of_markdown, of_python, unlinked_terms
from runs import ROOT
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils
from times import named, read

LONGEST_CELL = 30  # lines that are not blank: what a screen shows
TYPICAL_CELL = 8  # the median of those that a reader sees, over all chapters
WIDEST_LINE = 79  # what a page shows without scrolling in a window of 1,280 pixels
FEWEST_EXERCISES = 3

NOTEBOOKS = sorted((ROOT / "book").rglob("*.ipynb"))
NOTEBOOKS = [path for path in NOTEBOOKS if not {".ipynb_checkpoints", "runs"} & {*path.relative_to(ROOT).parts}]
CHAPTERS = [path for path in NOTEBOOKS if re.match(r"\d\d_", path.name)]
PAGES = [path for path in NOTEBOOKS if path.parent.name == "book"]  # the chapters, and what the back of the book has

PAGES_OF_PROSE = [*NOTEBOOKS, *sorted((ROOT / "book").glob("*.md"))]

#: A number with decimals, or with a unit: what a measurement looks like.
MEASURED = re.compile(
    r"(?<![\w.,·-])(?P<number>\d+(?:[.,]\d+)*)"
    r"(?:\s?(?P<unit>%|per\s+cent|points?|seconds?|minutes?|hours?|ms|s|[kMGT]B|kWh|[MG]?FLOPs?|million|billion"
    r"|times\s+(?:as|faster|slower))(?!\w))?"
)
#: Numbers in prose that come from no record, with their reasons, by page.
REASONS = yaml.safe_load((ROOT / "tests" / "numbers.yml").read_text(encoding="utf-8"))

DIRECTIVE = re.compile(r"(?P<fence>`{3,}|:{3,}) *\{(?P<name>exercise|solution)(?:-start)?\} *(?P<argument>[^\n]*)\n"
                       r"(?P<options>(?: *:[\w-]+:[^\n]*\n)*)")  # fmt: skip


def cells(path, cell_type):
    return [cell for cell in read(path).cells if cell.cell_type == cell_type]


def each(paths):
    return pytest.mark.parametrize("path", paths, ids=named)


def test_there_are_chapters():
    assert CHAPTERS


def test_table_of_contents_has_every_chapter_in_reading_order():
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    listed = [entry["file"] for part in contents["parts"] for entry in part["chapters"]]
    numbered = [file for file in listed if re.match(r"\d\d_", file.split("/")[-1])]
    assert numbered == [named(path.with_suffix("")) for path in CHAPTERS], "list all in _toc.yml, by number"


def test_the_landing_page_lists_every_chapter_in_reading_order():
    listed = re.findall(r"^\d+\. \{doc\}`(?:[^`<]*<)?(\d\d_\w+)", (ROOT / "book" / "index.md").read_text("utf-8"), re.M)
    assert listed == [path.stem for path in CHAPTERS], "list all in book/index.md, by number"


@each(NOTEBOOKS)
def test_notebook_is_valid(path):
    nbformat.validate(read(path))


@each(NOTEBOOKS)
def test_notebook_holds_no_output(path):
    assert "widgets" not in read(path).metadata
    for cell in cells(path, "code"):
        assert cell.outputs == []
        assert cell.execution_count is None


@each(NOTEBOOKS)
def test_notebook_asks_for_any_python(path):
    metadata = read(path).metadata
    assert metadata.kernelspec.name == "python3"
    # Without it, a notebook that the book shows but does not run is a warning, and its code has no colours.
    assert metadata.language_info.name == "python"


@each(NOTEBOOKS)
def test_code_cells_fit_a_screen(path):
    for cell in cells(path, "code"):
        lines = [line for line in cell.source.splitlines() if line.strip()]
        assert len(lines) <= LONGEST_CELL, f"{len(lines)} lines in the cell that starts {lines[0]!r}"
        assert [line for line in lines if len(line) > WIDEST_LINE] == []


def test_typical_cell_is_small():
    seen = [cell for path in CHAPTERS for cell in cells(path, "code")
            if "hide-input" not in cell.metadata.get("tags", [])]  # fmt: skip
    assert statistics.median(len([line for line in cell.source.splitlines() if line.strip()]) for cell in seen) <= (
        TYPICAL_CELL
    )


@each(CHAPTERS)
def test_every_figure_has_a_caption_and_a_name_to_refer_to(path):
    for cell in cells(path, "code"):
        figure = cell.metadata.get("mystnb", {}).get("figure", {})
        if draws(cell.source):
            where = "in the cell's metadata, under mystnb.figure, as other chapters have it"
            assert figure.get("caption", "").endswith((".", "?")), f"give a caption {where}: {cell.source[:200]}"
            assert figure.get("name", "").startswith("fig-"), f"give a name fig-... {where}: {cell.source[:200]}"


def draws(source):
    """Whether a cell, when it runs, shows a figure by the library's functions, and not only defines one that does."""
    source = re.sub(r"^ *[%!](?:.*\\\n)*.*$", "", source, flags=re.M)
    called = {ast.unparse(node.func) for statement in ast.parse(source).body
              if not isinstance(statement, (ast.FunctionDef, ast.ClassDef))
              for node in ast.walk(statement) if isinstance(node, ast.Call)}  # fmt: skip
    names = "figure", "curves", "image_grid", "masks_over_images", "draw", "explore"
    return bool(called & {f"show.{name}" for name in names})


def shown_again(source):
    """Whether a cell ends with a call that shows something and also returns it: then a page has it as text, too."""
    *_, last = [None, *ast.parse(source).body]
    shows = isinstance(last, ast.Expr) and re.match(r"show\.(?!say\b|explore\b)", ast.unparse(last))
    words = [part.string for part in tokenize.generate_tokens(io.StringIO(source).readline)
             if part.type in (tokenize.OP, tokenize.NAME)]  # fmt: skip
    return bool(shows) and words[-1] != ";"


def test_a_table_without_a_semicolon_would_be_seen():
    assert shown_again("show.table(lines)") and shown_again("x = 1\nshow.figure(figure, 'a')  # wide;")
    assert not any(map(shown_again, ("show.table(lines);", "show.figure(f, a);  # fmt: skip", "show.say(text)", "")))


@each(NOTEBOOKS)
def test_what_a_cell_shows_is_not_printed_as_well(path):
    sources = [cell.source for cell in cells(path, "code") if not cell.source.startswith(("%", "!"))]
    assert [source for source in sources if shown_again(source)] == []


@each(CHAPTERS)
def test_chapter_opens_with_a_card_and_ends_with_what_was_learned(path):
    title, card = cells(path, "markdown")[0].source.split("\n\n", 1)
    assert re.fullmatch("# .+", title) and card.startswith(":::{admonition} In this chapter\n:class: tip\n")
    for entry in ("After this you can", "You need", "Time:", "Downloads:"):
        assert f"**{entry}**" in card
    text = "\n\n".join(cell.source for cell in cells(path, "markdown"))
    learned, following, exercises = (text.find(part) for part in ("**What we learned**", "**Next:**", "\n## Exercises"))
    assert 0 < learned < following < exercises
    here = CHAPTERS.index(path)
    if here + 1 < len(CHAPTERS):
        following = rf"\{{doc\}}`(?:[^`]+<)?{CHAPTERS[here + 1].stem}>?`"
        assert re.search(following, text[learned:exercises]), "does not lead to the next chapter"


@each(PAGES_OF_PROSE)
def test_chapter_has_its_own_number_where_it_is_named(path):
    text = path.read_text(encoding="utf-8")
    wrong = [found[0] for found in re.finditer(r"\{doc\}`chapter (\d+) <(?:\.\./)?(\d\d)_\w+>`", text, re.I)
             if int(found[1]) != int(found[2])]  # fmt: skip
    assert wrong == []


@each(NOTEBOOKS)
def test_notebook_keeps_its_time_and_the_card_tells_it(path):
    notebook = read(path)
    seconds = times.seconds_of(notebook)
    assert seconds, "after `make book`: .venv/bin/python book/times.py --machine slow (or quick) NOTEBOOK"
    told = times.TIME.search(notebook.cells[0].source)
    assert told or path.parent.name == "experiments"
    assert not told or told[0] == f"{times.told(**seconds)}.", "run .venv/bin/python book/times.py"


@each(NOTEBOOKS)
def test_notebook_names_no_place_on_one_machine(path):
    found = re.findall(r"(?<![\w.:/~])/(?:home|root|Users|tmp|work|mnt|opt|var)/\S*|\b[A-Z]:\\\\\S*|file://\S*",
                       path.read_text(encoding="utf-8"))  # fmt: skip
    assert found == []


def comments(text):
    """What MyST takes for a comment and leaves out: lines that begin with a per cent sign, code aside."""
    parser = MarkdownIt().use(myst_block_plugin).use(colon_fence_plugin)
    for token in parser.parse(text):
        if token.type == "myst_line_comment":
            yield token.content
        elif token.type in ("fence", "colon_fence") and token.info.startswith("{"):  # a directive holds prose again
            yield from comments(token.content)


def test_prose_refers_to_every_named_figure():
    notebooks = [read(path) for path in NOTEBOOKS]
    found = {cell.metadata.get("mystnb", {}).get("figure", {}).get("name") for book in notebooks for cell in book.cells}
    prose = "\n".join(cell.source for book in notebooks for cell in book.cells if cell.cell_type == "markdown")
    assert len(found) > 50
    assert found - {None} - set(re.findall(r"\{numref\}`(?:[^`<]*<)?([\w-]+)", prose)) == set()


@each(PAGES_OF_PROSE)
def test_lines_of_prose_fit_an_editor(path):
    texts = [path.read_text("utf-8")] if path.suffix == ".md" else [cell.source for cell in cells(path, "markdown")]
    may_be_longer = re.compile(r"\||:{3,}|:alt:")  # a row of a table, the title of a box, the text of a picture
    lines = [line for text in texts for line in text.split("\n") if not may_be_longer.match(line)]
    assert [line for line in lines if len(line) > 120] == []


def test_a_comment_would_be_seen():
    assert len(list(comments("Text.\n\n% lost\n\n:::{note}\n% lost too\n:::\n"))) == 2


@each(PAGES_OF_PROSE)
def test_no_line_of_prose_is_a_comment(path):
    texts = [path.read_text("utf-8")] if path.suffix == ".md" else [cell.source for cell in cells(path, "markdown")]
    assert [line for text in texts for line in comments(text)] == [], "let no line of prose begin with %"


@each(CHAPTERS)
def test_chapter_has_exercises_with_folded_solutions(path):
    text = "\n\n".join(cell.source for cell in cells(path, "markdown"))
    directives = [match.groupdict() for match in DIRECTIVE.finditer(text)]
    labels = [
        re.search(r":label: *(\S+)", directive["options"] or "").group(1)
        for directive in directives
        if directive["name"] == "exercise"
    ]
    solutions = [directive for directive in directives if directive["name"] == "solution"]
    assert len(labels) >= FEWEST_EXERCISES
    assert sorted(solution["argument"].strip() for solution in solutions) == sorted(labels)
    for solution in solutions:
        assert re.search(r":class:.*\bdropdown\b", solution["options"]), f"{solution['argument']} is not folded"


@each(CHAPTERS)
def test_chapter_asks_three_questions_with_folded_answers(path):
    text = "\n\n".join(cell.source for cell in cells(path, "markdown"))
    quiz = re.search(r"^## Check yourself\n(.*?)^## Exercises$", text, re.S | re.M)
    assert quiz, "a section `## Check yourself` goes before the exercises"
    answers = re.findall(r"^:::\{admonition\} ([^\n]+)\n:class: dropdown\n\n(.+?)\n:::$", quiz[1], re.S | re.M)
    assert len(answers) == 3
    assert all(question.endswith("?") for question, _ in answers)


@each(CHAPTERS)
def test_chapter_links_each_term_of_the_glossary_at_its_first_use(path):
    found = [f"{term} in cell {index}" for term, index, *_ in unlinked_terms(path)]
    assert found == [], "write {term}`attention module` or {term}`attention modules <attention module>`"


@each(CHAPTERS)
def test_every_exercise_has_a_folded_hint_and_a_solution_that_runs(path):
    text = "\n\n".join(
        cell.source if cell.cell_type == "markdown" else f"<code>\n{cell.source}" for cell in read(path).cells
    )
    exercises = re.findall(r"^(`{3,})\{exercise\}[^\n]*\n:label: (\S+)\n(.*?)^\1$", text, re.S | re.M)
    assert len(exercises) >= FEWEST_EXERCISES
    for _, label, content in exercises:
        assert re.search(r":::\{admonition\} Hint\n:class: dropdown\n", content), f"{label} has no hint"
        solution = re.search(rf"\{{solution-start\}} {label}\n(.*?)\{{solution-end\}}", text, re.S)
        assert solution and "<code>" in solution[1], f"the solution of {label} has no code"
    for cell in cells(path, "code"):
        assert "skip-execution" not in cell.metadata.get("tags", [])


def measured(path):
    """What looks measured in a page's prose, captions, titles and alt texts, as `5.52` or `30%`."""
    if path.suffix == ".md":
        texts = [of_markdown(path.read_text(encoding="utf-8"))]
    else:
        texts = [of_markdown(times.TIME.sub("", cell.source)) for cell in cells(path, "markdown")]
        for cell in cells(path, "code"):
            texts += [*map(of_markdown, captions(cell)), of_python(cell.source, strings=True)]
    for text in texts:
        for match in MEASURED.finditer(text):
            if match["unit"] or "." in match["number"]:
                yield match["number"], " ".join(match[0].split())


def published(value):
    """All numbers in `ranet_lib/runs/published.json`."""
    if isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from published(part)
    elif isinstance(value, (int, float)):
        yield float(value)


@each(PAGES_OF_PROSE)
def test_no_result_is_typed_into_prose(path):
    printed = set(published(json.loads((ROOT / "ranet_lib" / "runs" / "published.json").read_text(encoding="utf-8"))))
    allowed = {**REASONS["everywhere"], **REASONS.get(named(path.with_suffix("")), {})}
    typed = [text for number, text in measured(path) if float(number.replace(",", "")) not in printed
             and text not in allowed]  # fmt: skip
    assert typed == [], "take them from a record or from code, or give tests/numbers.yml a reason"


def test_every_reason_for_a_typed_number_is_needed():
    written = {named(path.with_suffix("")): {text for _, text in measured(path)} for path in PAGES_OF_PROSE}
    assert set(REASONS) - set(written) == {"everywhere"}
    assert set(REASONS["everywhere"]) <= set().union(*written.values())
    assert {page: set(REASONS[page]) - written[page] for page in set(REASONS) - {"everywhere"}
            if set(REASONS[page]) - written[page]} == {}  # fmt: skip


def render(cell_output, folder, markdown="# Title"):
    """The page made of a notebook with one output, and the warnings of the build."""
    code = new_code_cell("pass", outputs=[cell_output] if cell_output else [])
    notebook = new_notebook(cells=[new_markdown_cell(markdown), code])
    notebook.metadata["language_info"] = {"name": "python"}
    nbformat.write(notebook, folder / "index.ipynb")
    settings = {
        "extensions": ["myst_nb", "notebook_output"],
        "nb_execution_mode": "off",
        "nb_output_stderr": "warn",
    }
    warnings = io.StringIO()
    with patch_docutils(), docutils_namespace():
        app = Sphinx(folder, None, folder / "html", folder / "trees", "html", settings, status=None, warning=warnings)
        app.build()
    return (folder / "html" / "index.html").read_text(encoding="utf-8"), warnings.getvalue()


@pytest.fixture
def local_extensions(monkeypatch):
    """Let Sphinx find the book's own extensions, and put MyST-NB back as it was."""
    import myst_nb.sphinx_

    monkeypatch.syspath_prepend(ROOT / "book" / "_ext")
    monkeypatch.setattr(myst_nb.sphinx_, "load_renderer", myst_nb.sphinx_.load_renderer)


# The smallest picture there is: one pixel.
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="


def test_picture_keeps_the_alt_text_of_its_output(tmp_path, local_extensions):
    metadata = {"image/png": {"alt": "One pixel", "width": 640}}
    page, warnings = render(new_output("display_data", {"image/png": PIXEL}, metadata=metadata), tmp_path)
    assert re.search(r'<img[^>]*alt="One pixel"', page)
    assert "640px" in page
    assert warnings == ""


def test_picture_without_alt_text_is_a_warning(tmp_path, local_extensions):
    _, warnings = render(new_output("display_data", {"image/png": PIXEL}), tmp_path)
    assert "image without alt text" in warnings


def test_markdown_picture_without_alt_text_is_a_warning(tmp_path, local_extensions):
    (tmp_path / "pixel.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>', encoding="utf-8")
    _, warnings = render(None, tmp_path, markdown="# Title\n\n![](pixel.svg)")
    assert "image without alt text" in warnings


TENSORFLOW_LINES = """\
2026-01-31 12:00:00.123456: I tensorflow/core/util/port.cc:153] oneDNN custom operations are on. You may see slightly \
different numerical results due to floating-point round-off errors from different computation orders.
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1769860800.000000   12345 cpu_feature_guard.cc:227] This TensorFlow binary is optimized to use available \
CPU instructions in performance-critical operations.
To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow with the appropriate compiler \
flags.
"""


def test_log_lines_of_tensorflow_stay_out_of_the_page(tmp_path, local_extensions):
    page, warnings = render(new_output("stream", name="stderr", text=TENSORFLOW_LINES), tmp_path)
    assert "oneDNN" not in page
    assert "cpu_feature_guard" not in page
    assert warnings == ""


def test_other_stderr_is_shown_and_is_a_warning(tmp_path, local_extensions):
    text = TENSORFLOW_LINES + "UserWarning: the masks are empty\n"
    page, warnings = render(new_output("stream", name="stderr", text=text), tmp_path)
    assert "the masks are empty" in page
    assert "oneDNN" not in page
    assert "stderr was found" in warnings


def test_a_warning_of_tensorflow_on_stdout_is_a_warning(tmp_path, local_extensions):
    """In a kernel its Python warns there, and readers would see the lines."""
    text = "3 epochs\nWARNING:tensorflow:5 out of the last 18 calls triggered tf.function retracing.\n"
    page, warnings = render(new_output("stream", name="stdout", text=text), tmp_path)
    assert "3 epochs" in page
    assert "5 out of the last 18 calls" in warnings
    _, warnings = render(new_output("stream", name="stdout", text="3 epochs\n"), tmp_path)
    assert "prints a warning" not in warnings

"""Every notebook repeats itself on one machine and runs on other processors: `make test-repeat`, an hour of two cores.

Each runs five times. Twice as it is, when all that it prints and draws must be the same; then once in each of the ways
in which other processors calculate, when it must run to its end and leave nothing on stderr: numbers may differ there,
but what cells assert must hold. A run is kept in `_build/repeat` and taken again until the code of its notebook
changes; `make` drops them all when what they import or read changes.
"""

import base64
import io
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from itertools import zip_longest
from pathlib import Path
from unittest import mock

import execute
import nbformat
import numpy as np
import pytest
import times
import yaml
from log_lines import warnings_on_stdout
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image
from runs import AS_USERS_HAVE_IT, ROOT, TRAIN
from times import named, read

KEPT = ROOT / "_build" / "repeat"
TWICE = ("first", "second")
#: What makes TensorFlow calculate here as it does on other processors.
ELSEWHERE = {
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},  # without AVX-512, as on most laptops
    "no-onednn": {"TF_ENABLE_ONEDNN_OPTS": "0"},  # as where TensorFlow leaves it off
    "one-thread": dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"), "1"),
}
WAYS = dict.fromkeys(TWICE, {}) | ELSEWHERE

#: All that may differ between two runs, by notebook and id of the cell: times that the cell measures.
TIMES = {
    "book/09_training.ipynb": {"cell-29": r"\d+(?= seconds of training)"},
    "book/17_your_own_images.ipynb": {"cell-34": r"\d+(?= seconds of training)"},
    "book/experiments/train.ipynb": {"summed-up": r"\b0\.\d\d\b"},  # hours
}


def called(cell):
    """A cell by its id and its first line."""
    return f"cell {cell.id}, `{cell.source.partition(chr(10))[0]}`:"


each_notebook = pytest.mark.parametrize("path", times.notebooks(), ids=named)


@pytest.mark.repeat
@each_notebook
def test_repeats_itself(path, runs):
    (first, faults), (second, more) = (runs[path, way].result() for way in TWICE)
    fail_with(path, faults + more)
    fail_with(path, differences(read(first), read(second), TIMES.get(named(path), {})))


@pytest.mark.repeat
@pytest.mark.parametrize("way", ELSEWHERE)
@each_notebook
def test_runs_as_on_another_processor(path, way, runs):
    _, faults = runs[path, way].result()
    fail_with(path, faults)


def fail_with(path, found):
    if found := list(found):
        pytest.fail("\n".join([f"{named(path)}:", *found]), pytrace=False)


# --- Running -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(request):
    """The runs that the selected tests look at, all begun at once, those of the longest notebooks first."""
    wanted = set()
    for item in request.session.items:
        if item.path == Path(__file__) and "runs" in item.fixturenames:
            chosen = item.callspec.params
            wanted |= {(chosen["path"], way) for way in ([chosen["way"]] if "way" in chosen else TWICE)}
    notebooks = execute.longest_first({path for path, _ in wanted})
    with ProcessPoolExecutor(execute.jobs(), multiprocessing.get_context("spawn")) as pool:
        yield {
            (path, way): pool.submit(run, path, way, AS_USERS_HAVE_IT | setting)
            for path in notebooks for way, setting in WAYS.items() if (path, way) in wanted
        }  # fmt: skip
        pool.shutdown(cancel_futures=True)


def run(path, way, environment):
    """Run a notebook in a way, unless that run is kept; the path of the executed copy and what is wrong with it."""
    kept = KEPT / way / path.name
    if kept.exists() and code(read(kept)) == code(read(path)):
        return kept, []
    timeout = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["execute"]["timeout"]
    # The experiment notebook leaves its run where it runs, under another name where there is one.
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, environment, clear=True):
        source = Path(shutil.copy(path, folder)) if path == TRAIN else path
        notebook, _, said, failure = execute.run(source, timeout)
    found = faults(notebook, said, failure)
    if not found:
        kept.parent.mkdir(parents=True, exist_ok=True)
        unfinished = kept.with_suffix(".part")
        nbformat.write(notebook, unfinished)
        unfinished.replace(kept)
    return kept, found


def code(notebook):
    return [(cell.id, cell.source) for cell in notebook.cells if cell.cell_type == "code"]


def faults(notebook, said, failure):
    """What has gone wrong in a run: errors of cells and what stands on stderr beside the log lines of the start."""
    found = []
    for cell in notebook.cells:
        outputs = cell.get("outputs", [])
        found += [f"{called(cell)} {output.ename}: {output.evalue}" for output in outputs
                  if output.output_type == "error"]  # fmt: skip
        stdout, stderr = ("".join(output.text for output in outputs if output.get("name") == name)
                          for name in ("stdout", "stderr"))  # fmt: skip
        found += [f"{called(cell)} prints {line}" for line in warnings_on_stdout(stdout)]
        if text := execute.without_log_lines(stderr):
            found.append(f"{called(cell)} on stderr: {text.rstrip()}")
    return found or [text for text in (failure, execute.without_log_lines(execute.on_stderr(notebook, said))) if text]


# --- Comparing ---------------------------------------------------------------------------------------------------


def differences(first, second, times):
    """What two runs of a notebook show differently; `times` has patterns of the times that cells measure."""
    for cell, again in zip(first.cells, second.cells, strict=True):
        one, other = shown(cell), shown(again)
        if cell.id in times:
            one, other = without_times(one, times[cell.id]), without_times(other, times[cell.id])
            if one == shown(cell):
                yield f"{called(cell)} shows no time; take it out of TIMES"
        for this, that in zip_longest(one, other, fillvalue=("nothing", "")):
            if this != that:
                yield f"{called(cell)} {difference(*this, *that)}"


def without_times(things, pattern):
    return [(kind, what if isinstance(what, bytes) else re.sub(pattern, "TIME", what)) for kind, what in things]


def shown(cell):
    """What a cell prints and draws: pairs of a kind and a text, or the bytes of a picture.

    What it prints counts as one, as on the page: where a kernel cuts it into pieces is a matter of time.
    """
    found = []
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            if output.name == "stdout":
                before = found.pop()[1] if found and found[-1][0] == "printed" else ""
                found.append(("printed", before + output.text))
            continue
        for kind, what in output.data.items():
            is_picture = kind.startswith("image/") and kind != "image/svg+xml"
            found.append((kind, base64.b64decode(what) if is_picture else str(what)))
        found.append(("metadata", str(output.metadata)))  # with the alt text of a picture
    return found


def difference(kind, what, other_kind, other):
    """In words, how two things that a cell has shown differ."""
    if kind != other_kind:
        return f"{kind} became {other_kind}"
    if isinstance(what, bytes):
        one, two = (np.asarray(Image.open(io.BytesIO(picture)).convert("RGBA"), int) for picture in (what, other))
        if one.shape != two.shape:
            return f"{kind} of {one.shape[1]}x{one.shape[0]} pixels became {two.shape[1]}x{two.shape[0]}"
        changed = np.any(one != two, axis=-1).mean()
        return f"{kind}, {changed:.2%} of the pixels differ, by up to {abs(one - two).max()} of 255"
    place = len(os.path.commonprefix([what, other]))
    line, around = what.count("\n", 0, place) + 1, slice(max(0, place - 40), place + 40)
    return f"{kind}, line {line}: {what[around]!r} became {other[around]!r}"


# --- Whether this would be noticed -------------------------------------------------------------------------------


def test_measured_times_are_of_cells_that_there_are():
    ids = {page: {cell.id for cell in read(ROOT / page).cells} for page in TIMES}
    assert {page: set(TIMES[page]) - ids[page] for page in TIMES} == dict.fromkeys(TIMES, set())


def printed(text, name="stdout"):
    return new_output("stream", name=name, text=text)


def drawn(*colours, alt="A line"):
    """A picture with a pixel of each grey."""
    file = io.BytesIO()
    Image.fromarray(np.array([colours], np.uint8)).save(file, "png")
    data = {"image/png": base64.b64encode(file.getvalue()).decode()}
    return new_output("display_data", data, metadata={"image/png": {"alt": alt}})


def one_cell(*outputs):
    return new_notebook(cells=[new_code_cell("draw()\nshow()", id="cell-01", outputs=list(outputs))])


@pytest.mark.parametrize(
    "first, second, told",
    [
        ([printed("a\nb 0.1\n")], [printed("a\nb 0.2\n")], "printed, line 2: 'a\\nb 0.1\\n' became 'a\\nb 0.2\\n'"),
        ([printed("a\n")], [printed("a\n"), drawn(0)], "nothing became image/png"),
        ([drawn(0, 9, 9, 9)], [drawn(0, 9, 9, 7)], "image/png, 25.00% of the pixels differ, by up to 2 of 255"),
        ([drawn(0, 9)], [drawn(0)], "image/png of 2x1 pixels became 1x1"),
        ([drawn(0, alt="0.1")], [drawn(0, alt="0.2")], "metadata, line 1: \"{'image/png': {'alt': '0.1'}}\" became"),
        ([printed("a\n"), printed("b\n")], [printed("a\nb\n")], None),  # cut by the kernel elsewhere
        ([printed("a\n")], [printed("log", "stderr"), printed("a\n")], None),
    ],
)
def test_what_differs_is_told(first, second, told):
    found = list(differences(one_cell(*first), one_cell(*second), {}))
    assert found[0].startswith(f"cell cell-01, `draw()`: {told}") if told else not found


@pytest.mark.parametrize(
    "first, second, told",
    [
        ("a 3 s", "a 4 s", None),
        ("a 3 s", "b 3 s", "printed, line 1: 'a TIME s' became 'b TIME s'"),
        ("a", "a", "shows no time; take it out of TIMES"),
    ],
)
def test_only_the_time_of_a_cell_may_differ(first, second, told):
    found = list(differences(one_cell(printed(first)), one_cell(printed(second)), {"cell-01": r"\d+(?= s)"}))
    assert found == ([f"cell cell-01, `draw()`: {told}"] if told else [])


def test_a_run_is_kept_unless_it_has_faults(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "KEPT", tmp_path / "kept")
    path = tmp_path / "page.ipynb"
    sources = "import random\nprint(random.random())", "import os\nassert 'ONEDNN_MAX_CPU_ISA' not in os.environ"
    notebook = new_notebook(cells=[new_code_cell(source, id=f"cell-{n}") for n, source in enumerate(sources)])
    notebook.metadata.kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(notebook, path)
    kept, found = run(path, "first", AS_USERS_HAVE_IT)
    before = read(kept)
    assert not found and before.cells[0].outputs
    assert run(path, "first", AS_USERS_HAVE_IT) == (kept, []) and read(kept) == before  # not run again

    kept, found = run(path, "avx2", AS_USERS_HAVE_IT | ELSEWHERE["avx2"])
    assert found == ["cell cell-1, `import os`: AssertionError: "] and not kept.exists()

    notebook.cells[1].source = "import warnings\nwarnings.warn('too few')"
    nbformat.write(notebook, path)
    _, (found,) = run(path, "first", AS_USERS_HAVE_IT)  # again, because the code has changed
    assert found.startswith("cell cell-1, `import warnings`: on stderr: ") and "UserWarning: too few" in found

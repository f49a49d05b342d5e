"""How `book/execute.py` runs the notebooks of a book and what it shows of them; how `book/times.py` keeps the times."""

import json
import re
import statistics

import execute
import machine
import nbformat
import pytest
import times
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from runs import ROOT

CARD = "# Title\n\n**Time:** a while. Nothing is trained here. **Downloads:** none."
KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
CELLS = {
    "quiet": "print('no word of this')",
    "warns": "import os, warnings\nos.write(2, b'I0000 00:00:1.2 3 port.cc:153] oneDNN is on.\\n')\n"
    "os.write(2, b'past Python\\n')\nwarnings.warn('too few images')",
    "fails": "raise ValueError('wrong width')",
    # The kernel hands on what is written past Python in a thread of its own, which needs a moment.
    "dies": "import os, sys, time\nprint('a hint', file=sys.stderr, flush=True)\nos.write(2, b'last words\\n')\n"
    "time.sleep(1)\nos.abort()",
}


def test_a_kernel_that_ended_as_it_began_is_started_again_and_nothing_else_is():
    died, other = RuntimeError("Kernel died before replying to kernel_info"), RuntimeError("wrong width")
    for happens, tried in (([died, died, 7], 3), ([died] * 4, 3), ([other, 7], 1)):
        left = iter(happens)

        def work(left=left):
            now = next(left)
            if isinstance(now, RuntimeError):
                raise now
            return now

        if tried < len(happens):
            with pytest.raises(RuntimeError):
                machine.started(work)
        else:
            assert machine.started(work) == 7
        assert len(happens) - len(list(left)) == tried


@pytest.fixture
def book(tmp_path, monkeypatch):
    """Make a book of the notebooks that are named; the folder they are in."""

    def make(*names):
        monkeypatch.delenv("PYTEST_CURRENT_TEST")  # with it, a kernel hands on less of what is written past Python
        chapters = "".join(f"\n      - file: book/{name}" for name in names)
        (tmp_path / "_toc.yml").write_text(f"parts:\n  - chapters:{chapters}\n", encoding="utf-8")
        (tmp_path / "_config.yml").write_text("execute:\n  timeout: 60\n", encoding="utf-8")
        (tmp_path / "book").mkdir(exist_ok=True)
        for name in names:
            cells = [new_markdown_cell(CARD), new_code_cell(CELLS[name])]
            nbformat.write(new_notebook(cells=cells, metadata=KERNEL), tmp_path / "book" / f"{name}.ipynb")
        return tmp_path / "book"

    for module in (execute, times):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    for name in execute.THREADS:
        monkeypatch.setenv(name, "1")
    return make


def keep(path, **seconds):
    notebook = times.read(path)
    notebook.metadata["ranet"] = {"seconds": seconds}
    nbformat.write(notebook, path)


def test_shows_progress_and_warnings_but_no_start_up_noise(book, capfd):
    folder = book("quiet", "warns")
    keep(folder / "quiet.ipynb", slow=240)
    keep(folder / "warns.ipynb", slow=60)
    assert execute.main(["--jobs", "1"]) == 0
    shown, errors = capfd.readouterr()
    first, *progress = shown.splitlines()
    assert first == (
        "Running 2 notebooks, 1 at a time, the longest first: about 4 minutes on slow cores, 2 on fast ones."
    )
    assert [line[:24] for line in progress] == ["[1/2] book/quiet.ipynb  ", "[2/2] book/warns.ipynb  "]
    assert all(line.endswith(" s") for line in progress)
    assert "UserWarning: too few images" in errors and errors.count("past Python") == 1
    assert "oneDNN" not in errors and "Kernel is running" not in errors and "no word" not in shown + errors
    assert times.measured(times.read(folder / "quiet.ipynb")) > 0
    assert execute.main([]) == 0  # both are in the cache now
    assert capfd.readouterr() == ("No notebook has changed since it was last run.\n", "")


def test_shows_failures_in_full_and_keeps_the_others(book, capfd):
    book("fails", "dies", "quiet")
    assert execute.main(["--jobs", "2"]) == 1
    shown, errors = capfd.readouterr()
    for name in ("fails", "dies", "quiet"):
        (line,) = [line for line in shown.splitlines() if f"book/{name}.ipynb" in line]
        assert line.endswith("  failed") is (name != "quiet")
    assert "a hint" in errors and "wrong width" in errors and "last words" in errors and "DeadKernelError" in errors
    execute.main(["--jobs", "2"])
    assert "book/quiet.ipynb" not in capfd.readouterr().out


def test_the_experiment_notebook_leaves_its_run_nowhere_near(tmp_path):
    """Else a later page would resume it, and `make results` would collect it."""
    cells = [new_code_cell("open('left.txt', 'w').close()")]
    for name in ("experiments", "chapters"):
        (tmp_path / name).mkdir()
        nbformat.write(new_notebook(cells=cells, metadata=KERNEL), tmp_path / name / "page.ipynb")
        *_, failure = execute.run(tmp_path / name / "page.ipynb", 600)
        assert failure is None and (tmp_path / name / "left.txt").exists() is (name == "chapters")


def test_the_longest_runs_first_and_before_it_what_nobody_has_timed(book):
    folder = book("quiet", "warns", "fails")
    keep(folder / "quiet.ipynb", slow=20)
    keep(folder / "warns.ipynb", quick=20)
    paths = sorted(folder.iterdir())
    assert [path.stem for path in execute.longest_first(paths)] == ["fails", "warns", "quiet"]


def test_measured_times_are_kept_for_the_machine_that_is_named(book, capsys):
    folder = book("quiet", "fails")
    quiet, fails = folder / "quiet.ipynb", folder / "fails.ipynb"
    keep(quiet, quick=90)
    bundle = CacheBundleIn(times.read(quiet), str(quiet), data={"execution_seconds": 143.2})
    get_cache(times.ROOT / "_build" / ".jupyter_cache").cache_notebook_bundle(bundle, check_validity=False)
    assert times.main(["--machine", "slow"]) == 1
    assert capsys.readouterr().err.splitlines()[1:] == ["book/fails.ipynb"]  # nobody has run it
    notebook = times.read(quiet)
    assert notebook.metadata["ranet"]["seconds"] == {"slow": 144, "quick": 90}
    card = "# Title\n\n**Time:** up to 3 minutes on two slow cores, 2 on fast ones. Nothing is trained here."
    assert notebook.cells[0].source.startswith(card)
    assert times.read(fails).cells[0].source == CARD


@pytest.mark.parametrize("page", ["README.md", "book/how_to_use.md"])
def test_hours_of_the_papers_recipe_are_those_of_the_speed_records(page):
    from ranet_lib import training

    records = [ROOT / "book" / "results" / "speed" / f"{name}.json" for name in ("all-systems", "networks")]
    results = [result for path in records for result in json.loads(path.read_text(encoding="utf-8"))["results"]]
    speeds = {
        result["network"]: statistics.median(result["images_per_second"])
        for result in results
        if result["task"] == "training" and result["system"] == "keras-tensorflow"
    }
    rows = (ROOT / page).read_text(encoding="utf-8").splitlines()
    (full,) = [row for row in rows if re.match(r"\| (profile )?`full`", row)]
    told = re.findall(r"([\d.]+) hours for `(\w+)`", full)
    assert len(told) == 3
    for hours, network in told:
        measured = training.recipe("full").epochs * 45_000 / speeds[network] / 3600
        # Speeds differ by a tenth from day to day, as the speed page says.
        assert float(hours) == pytest.approx(measured, rel=0.1), f"{network}: {measured:.1f} hours"


@pytest.mark.parametrize(
    "kept, words",
    [
        ({"slow": 30}, "less than half a minute on two cores"),
        ({"slow": 31}, "up to a minute on two cores"),
        ({"slow": 61, "quick": 61}, "up to 2 minutes on two cores"),
        ({"slow": 144}, "up to 3 minutes on two slow cores, 2 on fast ones"),
        ({"quick": 120}, "up to 4 minutes on two slow cores, 2 on fast ones"),
    ],
)
def test_card_rounds_up_and_guesses_the_machine_that_was_not_measured(kept, words):
    notebook = new_notebook(metadata={"ranet": {"seconds": kept}})
    assert times.told(**times.seconds_of(notebook)) == words

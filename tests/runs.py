"""The notebooks of the book and the experiment notebook, run by papermill; those of the book in the background."""

import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed, wait
from pathlib import Path

ROOT = Path(__file__).parents[1]
TRAIN = ROOT / "book" / "experiments" / "train.ipynb"
# Only then may a test call make: it would begin by removing a .venv that it has not made.
MADE_BY_MAKE = Path(sys.prefix).resolve() == (ROOT / ".venv").resolve() and any(Path(sys.prefix).glob("*.stamp"))
SET_HERE = "RANET_TESTS_HAVE_SET"  # names of variables that conftest.py has set, perhaps in the parent of this process
AS_USERS_HAVE_IT = {key: each for key, each in os.environ.items() if key not in os.environ.get(SET_HERE, "").split()}
# What nobody needs to read: what TensorFlow logs for information, and a kernel's word on how it is spoken to.
NOISE = re.compile(r"^(?:I\d{4} |[\d-]{10} [\d:.]+: I |.*over TCP without encryption)", re.MULTILINE)
# For a notebook that papermill executes: a busy machine needs more than the usual 60 and 4 seconds.
PATIENT = {"progress_bar": False, "start_timeout": 600, "iopub_timeout": 600}
HEADS = ROOT.parent / "shared" / "data" / "unpack.py"


class Runs:
    """Notebooks run by papermill, as many at a time as `book/execute.py` runs, then the site made of them.

    Args:
        folder: where the runs leave their files.
        pages: paths of notebooks to run as they are.
        train: whether to run the experiment notebook too, by papermill's command.
        build: whether to build the site when all have run.
    """

    def __init__(self, folder, pages, train, build):
        sys.path.append(str(ROOT / "book"))
        import execute  # not above: what makes the book is not needed by the tests of the library

        # New processes, which import papermill once for all of their notebooks, and none of what the tests have.
        self.pool = ProcessPoolExecutor(execute.jobs(), multiprocessing.get_context("spawn"))
        self.futures = {}
        if train:  # first: it takes longer than any page
            self.futures["default"] = self.pool.submit(train_by_default, folder)
        self.futures |= {path: self.pool.submit(run_page, path, folder) for path in execute.longest_first(pages)}
        self.site = ThreadPoolExecutor(1).submit(self._keep, build)

    def folder_of(self, name):
        """Wait for a run; the folder (of a page: the executed notebook) that it has left."""
        return self.futures[name].result()

    def stop(self):
        self.pool.shutdown(cancel_futures=True)
        wait([self.site])

    def _keep(self, build):
        """Put the outputs where `make book` finds them; build the site."""
        import nbformat
        from jupyter_cache import get_cache
        from jupyter_cache.base import CacheBundleIn

        if MADE_BY_MAKE:  # nothing stays of what imported files that have changed since
            subprocess.run(["make", "_build/cache.stamp"], cwd=ROOT, check=True, capture_output=True)
        cache = get_cache(ROOT / "_build" / ".jupyter_cache")
        sources = {future: TRAIN if name == "default" else name for name, future in self.futures.items()}
        for future in as_completed(sources):
            source, executed = sources[future], future.result()
            executed = executed / TRAIN.name if source == TRAIN else executed
            notebook, done = (nbformat.read(path, as_version=4) for path in (source, executed))
            for cell, run in zip(notebook.cells, done.cells, strict=True):
                if cell.cell_type == "code":
                    cell.outputs, cell.execution_count = run.outputs, run.execution_count
            bundle = CacheBundleIn(notebook, str(source), data={"execution_seconds": done.metadata.papermill.duration})
            cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
        return build_site() if build else None


def tracked():
    """The names of the files in the repository; none where there is no repository, or no git."""
    if not shutil.which("git"):
        return []
    return subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()


def build_site():
    """`make book`, which builds the site unless it is newer than all it is made of; its folder."""
    command = ["make", "book"] if MADE_BY_MAKE else [sys.executable, "-m", "ranet_lib", "book"]
    build = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert build.returncode == 0, f"{' '.join(command)} failed:\n{build.stdout[-4000:]}\n{build.stderr[-8000:]}"
    return ROOT / "_build" / "html"


def run_page(path, folder):
    """Run a notebook of the book where it lies; the executed copy, in `folder`, in which every cell has run."""
    import papermill
    from machine import started  # not above: what makes the book is not needed by the tests of the library

    notebook = started(lambda: papermill.execute_notebook(path, folder / path.name, cwd=path.parent, **PATIENT))
    for cell in notebook.cells:
        assert cell.cell_type != "code" or cell.execution_count, f"not run: {cell.source[:80]!r}"
    return folder / path.name


def train_by_default(folder):
    """Run the experiment notebook without any parameter, as in the book; the folder of the run, which names itself."""
    from machine import started

    run = folder / "runs" / "attention_micro-cluttered_digits-first-seed0"
    run.mkdir(parents=True)
    command = [sys.executable, "-m", "papermill", TRAIN, run / TRAIN.name, "--no-progress-bar", "--cwd", folder]
    command += ["--start-timeout", "600"]

    def attempt():
        done = subprocess.run(command, capture_output=True, text=True, env=AS_USERS_HAVE_IT)
        if done.returncode:
            raise RuntimeError(done.stderr[-3000:])
        return done

    done = started(attempt)
    assert not (MADE_BY_MAKE and NOISE.search(done.stderr)), done.stderr
    return run


def run_train(folder, **parameters):
    """Start the experiment notebook with papermill's command, the executed copy in `folder` too."""
    words = [word for name, value in parameters.items() for word in ("-p", name, str(value))]
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "papermill", str(TRAIN), str(folder / "train.ipynb"), "--no-progress-bar",
         "--start-timeout", "600", "-p", "output_dir", str(folder), *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True, env=AS_USERS_HAVE_IT,
    )  # fmt: skip


def result_of(record):
    """What must repeat when a run is repeated: all of its record but times, machine and versions."""
    kept = {key: each for key, each in record.items() if key not in ("time", "environment")}
    return kept | {"history": [row | {"seconds": None} for row in record["history"]]}


def kill_in_second_epoch(folder):
    """Start a run of profile `smoke` in `folder`; kill it, papermill and its kernel, once its first epoch is kept."""
    import psutil

    process = run_train(folder, profile="smoke")
    state = folder / "checkpoint" / "state.json"
    until = time.monotonic() + 1800
    while not state.exists():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    time.sleep(0.1)  # into the next epoch, which may take less than a second
    kernels = psutil.Process(process.pid).children(recursive=True)
    for one in (*kernels, process):
        one.kill()
    process.wait()
    psutil.wait_procs(kernels)
    process.stderr.close()
    assert len(json.loads(state.read_text(encoding="utf-8"))["history"]) == 1 and not (folder / "record.json").exists()

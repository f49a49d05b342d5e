"""The notebooks of the book and the experiment notebook, run by papermill; those of the book in the background."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
TRAIN = ROOT / "book" / "experiments" / "train.ipynb"
# Only then may a test call make: it would begin by removing a .venv that it has not made.
MADE_BY_MAKE = Path(sys.prefix).resolve() == (ROOT / ".venv").resolve() and any(Path(sys.prefix).glob("*.stamp"))
AS_USERS_HAVE_IT = dict(os.environ)  # conftest.py then says how many threads there are to be
HEADS = ROOT.parent / "shared" / "data" / "unpack.py"


class Runs:
    """Notebooks run by papermill's command, as many at a time as `book/execute.py` runs, then the site made of them.

    Args:
        folder: where the runs leave their files.
        pages: paths of notebooks to run as they are.
        train: whether to run the experiment notebook too.
        build: whether to build the site when all have run.
    """

    def __init__(self, folder, pages, train, build):
        self.folder, self.keeping = folder, threading.Lock()
        sys.path.append(str(ROOT / "book"))
        import execute  # not above: what makes the book is not needed by the tests of the library
        from jupyter_cache import get_cache

        if MADE_BY_MAKE:  # nothing is kept of what imported files that have changed since
            subprocess.run(["make", "_build/cache.stamp"], cwd=ROOT, check=True, capture_output=True)
        self.cache = get_cache(ROOT / "_build" / ".jupyter_cache")
        self.pool = ThreadPoolExecutor(execute.jobs())
        self.futures = {path: self.pool.submit(self._page, path) for path in execute.longest_first(pages)}
        if train:
            self.futures["default"] = self.pool.submit(self._train_by_default)
        self.site = ThreadPoolExecutor(1).submit(self._build) if build else None

    def folder_of(self, name):
        """Wait for a run; the folder (of a page: the executed notebook) that it has left."""
        return self.futures[name].result()

    def stop(self):
        self.pool.shutdown(cancel_futures=True)

    def _page(self, path):
        executed = self.folder / path.name
        papermill(path, executed, path.parent)
        self._keep(path, executed)
        return executed

    def _train_by_default(self):
        """Without any parameter, as in the book: the folder of the run is the one it names itself."""
        run = self.folder / "runs" / "attention_tiny-cluttered_digits-smoke-seed0"
        run.mkdir(parents=True)
        papermill(TRAIN, run / TRAIN.name, self.folder, AS_USERS_HAVE_IT)
        self._keep(TRAIN, run / TRAIN.name)
        return run

    def _keep(self, path, executed):
        """Check that every cell has run, and put the outputs where the build of the site finds them."""
        import nbformat
        from jupyter_cache.base import CacheBundleIn

        notebook, result = (nbformat.read(each, as_version=4) for each in (path, executed))
        for cell, done in zip(notebook.cells, result.cells, strict=True):
            if cell.cell_type == "code":
                assert done.execution_count, f"not run: {cell.source[:80]!r}"
                cell.outputs, cell.execution_count = done.outputs, done.execution_count
        with self.keeping:
            self.cache.cache_notebook_bundle(CacheBundleIn(notebook, str(path)), check_validity=False, overwrite=True)

    def _build(self):
        for run in self.futures.values():
            run.result()
        return build_site()


def build_site():
    """`make book`, which builds the site unless it is newer than all it is made of; its folder."""
    command = ["make", "book"] if MADE_BY_MAKE else [sys.executable, "-m", "ranet_lib", "book"]
    build = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert build.returncode == 0, f"{' '.join(command)} failed:\n{build.stdout[-4000:]}\n{build.stderr[-8000:]}"
    return ROOT / "_build" / "html"


def papermill(notebook, executed, folder, environment=None):
    """Run a notebook in `folder` with papermill's command."""
    command = [sys.executable, "-m", "papermill", str(notebook), str(executed), "--no-progress-bar"]
    done = subprocess.run([*command, "--cwd", str(folder)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


def run_train(folder, **parameters):
    """Start the experiment notebook with papermill's command, the executed copy in `folder` too."""
    words = [word for name, value in parameters.items() for word in ("-p", name, str(value))]
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "papermill", str(TRAIN), str(folder / "train.ipynb"), "--no-progress-bar",
         "-p", "output_dir", str(folder), *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True, env=AS_USERS_HAVE_IT,
    )  # fmt: skip


def kill_in_second_epoch(folder):
    """Start the default run in `folder` and kill it, papermill and its kernel, once its first epoch is kept."""
    process = run_train(folder)
    state = folder / "checkpoint" / "state.json"
    until = time.monotonic() + 600
    while not state.exists():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    time.sleep(0.1)  # into the next epoch, which may take less than a second
    if sys.platform == "win32":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], check=True, capture_output=True)
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert len(json.loads(state.read_text(encoding="utf-8"))["history"]) == 1 and not (folder / "record.json").exists()

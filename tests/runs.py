"""Long notebook runs that go on in the background while the quick tests pass."""

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
    """Notebooks run by papermill's command, as many at a time as `book/execute.py` runs, one less beside the tests.

    Args:
        folder: where the runs leave their files.
        pages: paths of notebooks to run as they are.
        train: whether to run the experiment notebook too, in each way that a test looks at.
    """

    def __init__(self, folder, pages, train):
        self.folder = folder
        self.quick_tests_are_over = threading.Event()
        sys.path.append(str(ROOT / "book"))
        from execute import jobs

        self.pool = ThreadPoolExecutor(jobs())
        self.pool.submit(self.quick_tests_are_over.wait)
        self.futures = {}
        if train:
            self.futures["killed"] = self.pool.submit(self._kill_and_go_on)
            self.futures["default"] = self.pool.submit(self._train_by_default)
            if HEADS.exists():
                self.futures["cifar"] = self.pool.submit(self._train_on_cifar)
        # The largest first, so that no core waits at the end while another has just begun one.
        largest_first = sorted(pages, key=lambda path: path.stat().st_size, reverse=True)
        self.futures |= {path: self.pool.submit(self._page, path) for path in largest_first}

    def take_all_cores(self):
        """Use what was left for the tests too."""
        self.quick_tests_are_over.set()

    def has(self, name):
        return name in self.futures

    def folder_of(self, name):
        """Wait for a run; the folder (of a page: the executed notebook) that it has left."""
        return self.futures[name].result()

    def stop(self):
        self.take_all_cores()
        self.pool.shutdown(cancel_futures=True)

    def _papermill(self, notebook, executed, folder, environment=None):
        command = [sys.executable, "-m", "papermill", str(notebook), str(executed), "--no-progress-bar"]
        done = subprocess.run([*command, "--cwd", str(folder)], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]

    def _page(self, path):
        self._papermill(path, self.folder / path.name, path.parent)
        return self.folder / path.name

    def _train_by_default(self):
        """Without any parameter, as in the book: the folder of the run is the one it names itself."""
        run = self.folder / "runs" / "attention_tiny-cluttered_digits-smoke-seed0"
        run.mkdir(parents=True)
        self._papermill(TRAIN, run / TRAIN.name, self.folder, AS_USERS_HAVE_IT)
        return run

    def _train(self, name, **parameters):
        process = run_train(self.folder / name, **parameters)
        _, errors = process.communicate(timeout=900)
        assert process.returncode == 0, errors[-3000:]
        return self.folder / name

    def _kill_and_go_on(self):
        kill_in_second_epoch(self.folder / "killed")
        return self._train("killed")

    def _train_on_cifar(self):
        data = self.folder / "data"
        subprocess.run([sys.executable, str(HEADS), str(data), "--heads"], check=True)
        return self._train("cifar", dataset="cifar100", data_dir=data, epochs=1, batch_size=32, label_noise=0.2)


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

"""Run the notebooks of the book whose code has changed, several at a time, into the cache that Jupyter Book reads.

    python book/execute.py [--jobs N]

Jupyter Book would run them too, one after the other. What fails here stops the build and is shown; the others are kept.
"""

import argparse
import math
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import yaml
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from nbclient import NotebookClient
from times import MACHINES, named, notebooks, read, seconds_of

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / "book" / "_ext"), str(ROOT / "book" / "experiments")]
import machine  # noqa: E402
from log_lines import without_log_lines  # noqa: E402

# How many threads TensorFlow, and what goes by OpenMP, starts for one operation.
THREADS = ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS")
MEMORY_OF_A_NOTEBOOK = 2**31  # bytes; what the largest one takes, with room to spare
CORES_WHILE_TIMED = 2 / 3  # what each notebook had when its seconds were measured: see times.py


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=jobs(), help="notebooks at a time (default here: %(default)s)")
    asked = parser.parse_args(arguments)
    if asked.jobs < 1:
        parser.error(f"--jobs must be at least 1; received {asked.jobs}")
    share_cores(asked.jobs)
    cache = get_cache(ROOT / "_build" / ".jupyter_cache")
    timeout = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["execute"]["timeout"]
    paths = changed(cache)
    print(forecast(paths, asked.jobs), flush=True)
    width = max((len(named(path)) for path in paths), default=0)
    failed = []
    with ProcessPoolExecutor(asked.jobs, multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(run, path, timeout): path for path in paths}
        for number, done in enumerate(as_completed(running), start=1):
            path, (notebook, seconds, said, failure) = running[done], done.result()
            place, end = f"[{number:{len(str(len(paths)))}}/{len(paths)}]", "  failed" if failure else ""
            print(f"{place} {named(path):{width}}  {duration(seconds)}{end}", flush=True)
            if failure:
                failed.append(path)
                print(on_stderr(notebook, said), failure, sep="\n", file=sys.stderr, flush=True)
                continue
            bundle = CacheBundleIn(notebook, str(path), data={"execution_seconds": seconds})
            cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
            print(without_log_lines(on_stderr(notebook, said)), end="", file=sys.stderr, flush=True)
    return 1 if failed else 0


def jobs():
    """One more than there are cores, since each waits at times, if so many fit into half of the memory."""
    return max(1, min(machine.count_cores() + 1, machine.count_memory() // 2 // MEMORY_OF_A_NOTEBOOK))


def share_cores(jobs):
    """Give each of so many processes its part of the cores, unless the user has said how many threads there are to be.

    Three notebooks on two cores end a sixth sooner with one thread each: more only wait for one another.
    """
    for name in THREADS:
        os.environ.setdefault(name, str(max(1, machine.count_cores() // jobs)))


def longest_first(paths):
    """Notebooks by the time that they take, so that no core waits at the end for a long one begun late.

    One that has never been timed comes before all others.
    """
    return sorted(paths, key=lambda path: -slow_seconds(path))


def slow_seconds(path):
    return (seconds_of(read(path)) or {"slow": math.inf})["slow"]


def changed(cache):
    """The notebooks of the table of contents whose code the cache does not know, the longest first."""

    def is_known(path):
        try:
            return cache.match_cache_notebook(read(path))
        except KeyError:
            return None

    return longest_first(path for path in notebooks() if not is_known(path))


def forecast(paths, jobs):
    """How many notebooks run, and about how long that takes: their work on the cores, or the longest of them alone."""
    if not paths:
        return "No notebook has changed since it was last run."
    count = f"{len(paths)} notebooks" if len(paths) > 1 else "one notebook"
    timed = [times for path in paths if (times := seconds_of(read(path)))]
    if not timed:
        return f"Running {count}."
    cores = min(machine.count_cores(), jobs)
    slow, quick = (
        math.ceil(CORES_WHILE_TIMED * max(sum(times[machine] for times in timed) / cores,
                                          max(times[machine] for times in timed)) / 60)
        for machine in MACHINES
    )  # fmt: skip
    minutes = f"about {slow} minutes on slow cores, {quick} on fast ones" if slow > 1 else "about a minute"
    return f"Running {count}, {min(jobs, len(paths))} at a time, the longest first: {minutes}."


def duration(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds:2} s" if minutes else f"{seconds} s"


def run(path, timeout):
    """Run a notebook in a kernel: the notebook with its outputs, the seconds, what the kernel said, why it failed."""
    notebook, failure, began = read(path), None, time.monotonic()
    # The experiment notebook leaves its run where it runs; a page's run is not to be resumed or collected.
    scratch = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    # Of the kernels that run at the same time, each has its own stderr.
    with scratch as elsewhere, tempfile.TemporaryFile() as stderr:
        where = {"metadata": {"path": elsewhere if path.parent.name == "experiments" else str(path.parent)}}

        def attempt():
            stderr.seek(0)
            stderr.truncate()  # what a kernel said that ended as it began
            # The cache compares metadata of cells too, so no time may be put there.
            patient = {"timeout": timeout, "startup_timeout": 600, "iopub_timeout": 600}
            NotebookClient(notebook, record_timing=False, resources=where, **patient).execute(stderr=stderr)

        try:
            machine.started(attempt)
        except Exception:  # a cell's, or a kernel that has died
            failure = traceback.format_exc()
        seconds = time.monotonic() - began
        stderr.seek(0)
        return notebook, seconds, stderr.read().decode("utf-8", errors="replace"), failure


def on_stderr(notebook, said):
    """What the cells of a notebook and its kernel wrote on stderr, once where the kernel hands it on to a cell."""
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", []))
    shown = "".join(output.text for output in outputs if output.get("name") == "stderr")
    lines = [line for line in said.splitlines(keepends=True) if line.strip() not in shown]
    return shown + "".join(lines)


if __name__ == "__main__":
    sys.exit(main())

"""Run the notebooks of the book whose code has changed, several at a time, into the cache that Jupyter Book reads.

    python book/execute.py [--jobs N]

Jupyter Book would run them too, one after the other. What fails here stops the build and is shown; the others are kept.
"""

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import nbformat
import yaml
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from jupyter_cache.executors.utils import single_nb_execution

ROOT = Path(__file__).resolve().parents[1]
# How many threads TensorFlow, and what goes by OpenMP, starts for one operation.
THREADS = ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS")
MEMORY_OF_A_NOTEBOOK = 2**31  # bytes; what the largest one takes, with room to spare


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=jobs(), help="notebooks at a time (default here: %(default)s)")
    asked = parser.parse_args(arguments)
    if asked.jobs < 1:
        parser.error(f"--jobs must be at least 1; received {asked.jobs}")
    share_cores(asked.jobs)
    cache = get_cache(ROOT / "_build" / ".jupyter_cache")
    failed = []
    with ProcessPoolExecutor(asked.jobs) as pool:
        running = {pool.submit(run, path): path for path in changed(cache)}
        for done in as_completed(running):
            path, result = running[done], done.result()
            if result.err is not None:
                failed.append(path)
                print(f"{named(path)} failed:\n{result.exc_string}", file=sys.stderr, flush=True)
                continue
            bundle = CacheBundleIn(result.nb, str(path), data={"execution_seconds": result.time})
            cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
            print(f"{named(path)}: {result.time:.0f} s", flush=True)
    return 1 if failed else 0


def jobs():
    """One more than there are cores, since each waits at times, if so many fit into half of the memory."""
    try:
        fit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 // MEMORY_OF_A_NOTEBOOK
    except (AttributeError, ValueError):  # on Windows
        fit = 2
    return max(1, min((os.cpu_count() or 1) + 1, fit))


def share_cores(jobs):
    """Give each of so many processes its part of the cores, unless the user has said how many threads there are to be.

    Three notebooks on two cores end a sixth sooner with one thread each: more only wait for one another.
    """
    for name in THREADS:
        os.environ.setdefault(name, str(max(1, (os.cpu_count() or 1) // jobs)))


def longest_first(paths):
    """Notebooks by the time that their cards tell, so that no core waits at the end for a long one begun late."""
    times = ("two minutes", "minute and a half", "about a minute", "about one minute", "under a minute")

    def rank(path):
        card = path.read_text(encoding="utf-8").partition("**Time:**")[2].partition(".")[0]
        return next((place for place, time in enumerate(times) if time in card), len(times))

    return sorted(paths, key=rank)


def changed(cache):
    """The notebooks of the table of contents whose code the cache does not know, the longest first."""
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    files = [entry["file"] for part in contents["parts"] for entry in part["chapters"]]
    for path in longest_first(filter(Path.exists, (ROOT / f"{file}.ipynb" for file in files))):
        try:
            cache.match_cache_notebook(read(path))
        except KeyError:
            yield path


def read(path):
    return nbformat.read(path, as_version=4)


def named(path):
    return path.relative_to(ROOT).as_posix()


def run(path):
    settings = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["execute"]
    return single_nb_execution(read(path), cwd=str(path.parent), timeout=settings["timeout"], allow_errors=False)


if __name__ == "__main__":
    sys.exit(main())

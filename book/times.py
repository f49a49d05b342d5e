"""Keep how long each notebook of the book runs in its metadata, and tell it on its card.

    python book/times.py [--machine {slow,quick}] [NOTEBOOK ...]

With `--machine`, the seconds that `make book` has measured here become those of a slow or of a quick machine. With or
without it, the first sentence after **Time:** is written anew from what the notebook keeps.

The seconds are those of a `make book` that runs all notebooks, three at a time on two cores. A notebook that runs alone
takes less.
"""

import argparse
import math
import re
import sys
from pathlib import Path

import nbformat
import yaml
from jupyter_cache import get_cache

ROOT = Path(__file__).resolve().parents[1]
MACHINES = ("slow", "quick")
# The whole book took 5 min 18 s on two cores of AMD and 9 min 27 s on two of Intel. A notebook that has been measured
# on one machine only gets the time of the other from this.
QUICK_TO_SLOW = 0.56
TIME = re.compile(r"(?<=\*\*Time:\*\* )[^.]*\.")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machine", choices=MACHINES, help="which of the two this machine is")
    parser.add_argument("notebooks", nargs="*", type=Path, metavar="NOTEBOOK", help="by default all of the book")
    asked = parser.parse_args(arguments)
    unmeasured = []
    for path in asked.notebooks or notebooks():
        notebook = read(path)
        if asked.machine:
            seconds = measured(notebook)
            if seconds is None:
                unmeasured.append(named(path))
            else:
                kept = notebook.metadata.setdefault("ranet", {}).setdefault("seconds", {})
                kept[asked.machine] = math.ceil(seconds)
        if (times := seconds_of(notebook)) is not None:
            card = notebook.cells[0]
            card.source = TIME.sub(f"{told(**times)}.", card.source, count=1)
        path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8", newline="\n")
    if unmeasured:
        print("`make book` has not measured these as they are now:", *unmeasured, sep="\n", file=sys.stderr)
    return 1 if unmeasured else 0


def notebooks():
    """The notebooks of the table of contents."""
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    files = [entry["file"] for part in contents["parts"] for entry in part["chapters"]]
    return [path for file in files if (path := ROOT / f"{file}.ipynb").exists()]


def read(path):
    return nbformat.read(path, as_version=4)


def named(path):
    return path.resolve().relative_to(ROOT).as_posix()


def measured(notebook):
    """The seconds that `book/execute.py` has put into the cache, or None."""
    try:
        record = get_cache(ROOT / "_build" / ".jupyter_cache").match_cache_notebook(notebook)
    except KeyError:
        return None
    return record.data.get("execution_seconds")


def seconds_of(notebook):
    """What a notebook takes on either machine, as `{"slow": 144, "quick": 81}`; None if it keeps neither."""
    kept = notebook.metadata.get("ranet", {}).get("seconds", {})
    if "slow" in kept:
        return {"slow": kept["slow"], "quick": kept.get("quick", math.ceil(kept["slow"] * QUICK_TO_SLOW))}
    return {"slow": math.ceil(kept["quick"] / QUICK_TO_SLOW), "quick": kept["quick"]} if kept else None


def told(slow, quick):
    """Two times in seconds as the words of a card, in minutes rounded up."""
    if slow <= 30:
        return "less than half a minute on two cores"
    slow, quick = math.ceil(slow / 60), math.ceil(quick / 60)
    if slow == quick:
        return f"up to {slow} minutes on two cores" if slow > 1 else "up to a minute on two cores"
    return f"up to {slow} minutes on two slow cores, {quick} on fast ones"


if __name__ == "__main__":
    sys.exit(main())

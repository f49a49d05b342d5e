"""How far a batch is: which of its runs are done, which go on, and how long the rest takes."""

import contextlib
import csv
import datetime
import functools
import json
import re
import shutil
import statistics
import sys
import time

import processes

from ranet_lib import counting, training

USUAL_IMAGES = 45_000  # of an epoch, where the recipe takes all: CIFAR's
IMAGES = {"cluttered_digits": 10_000}
MEMORY_OF_ANY_RUN = 3 * 2**29  # bytes: Keras, TensorFlow and the data, with room to spare


def at_work(folder, runs):
    """Those of `runs` that a process works on, on this machine or another."""
    return [name for name in runs if processes.locked(folder / name / ".lock")]


def size(run, elsewhere=False):
    """Of a run, as `check_parameters` returns it, the epochs, the FLOPs of the images of one, and of how many it is.

    On this machine a run is as many as it takes GPUs; `elsewhere`, where a cluster counts, it is one.
    """
    cost = (run["recipe"].train_images or IMAGES.get(run["dataset"], USUAL_IMAGES)) * described(run)["flops"]
    return run["recipe"].epochs, cost, 1 if elsewhere else run["devices"] or 1


def memory(run):
    """The bytes that a run may take on a processor: what training keeps of a batch, in float32, and all the rest."""
    return MEMORY_OF_ANY_RUN + 4 * run["recipe"].batch_size * described(run)["activations"]


def described(run):
    """What `counting.describe` says of a run's network, at the size of all images that train.ipynb loads."""
    return _described(run["model"], json.dumps(run["model_options"]))


@functools.cache
def _described(model, options):
    return counting.describe(model, input_shape=(32, 32, 3), **json.loads(options))


def follow(process, folder, runs, jobs, elsewhere=False):
    """Show how far the batch is until its process ends; if that is None, until no other process works on its runs.

    `runs` are as `runs.check_parameters` returns them, `jobs` and `elsewhere` as in `batch.limits`. On a terminal the
    text changes in place, elsewhere there is a line for each change.
    """
    shown, sizes = "", {name: size(run, elsewhere) for name, run in runs.items()}
    while True:
        began = time.monotonic()
        ended = process is not None and process.poll() is not None
        with contextlib.suppress(OSError):  # a full disk, or a file server that does not answer now, ends no run
            ended = ended or process is None and not at_work(folder, sizes)
            text, left = summary(folder, sizes, jobs)
            left = "" if ended else left
            if sys.stdout.isatty():
                room = shutil.get_terminal_size().columns - len(left) - 1
                print(f"\r\033[K{text[:room]}{left}", end="\n" if ended else "", flush=True)
            elif text != shown:
                print(f"{time.strftime('%H:%M:%S')} {text}{left}", flush=True)
            shown = text
        if ended:
            return
        # To look at many runs is work for a file server.
        time.sleep(min(60, max(1, 20 * (time.monotonic() - began))))


def summary(folder, sizes, jobs):
    """What is done and what is going on, and how long the rest takes at the speed seen so far; two texts.

    `sizes` has the `size` of each run. `jobs` are done at a time; None takes as many as go on now.
    """
    done, working, paces, shares, left = 0, [], [], [], {}
    for name, (epochs, cost, devices) in sizes.items():
        seconds = history(folder / name / "history.csv")
        paces += [duration / cost for duration in seconds]
        shares += filter(None, [share(folder / name, seconds)])
        if (folder / name / "record.json").exists():
            done += 1
            continue
        left[name] = (epochs - len(seconds), statistics.median(seconds) if seconds else None, cost, devices)
        if processes.locked(folder / name / ".lock"):
            working.append(f"{name} ({len(seconds)}/{epochs} epochs)")
    text = f"{done} of {len(sizes)} runs done" + "".join(f"; {run}" for run in working)
    if not left or not paces:
        return text, ""
    usual, whole = statistics.median(paces), statistics.median(shares or [1.0])
    each = [(whole * count * (pace or usual * cost), devices) for count, pace, cost, devices in left.values()]
    together = min(jobs or len(working) or 1, sum(devices for _, devices in each))
    seconds = max(*(one for one, _ in each), sum(one * devices for one, devices in each) / together)
    return text, f"; about {training.duration(seconds)} left"


def share(folder, seconds):
    """Seconds that a run takes, with start, validation and end, for each of training; None for one that was killed."""
    if not seconds:
        return None
    latest = datetime.datetime.fromtimestamp((folder / "history.csv").stat().st_mtime)
    told = durations(folder / "log.txt", latest)
    return max(1.0, told[0] / sum(seconds)) if len(told) == 1 and told[0] else None


def durations(log, latest=None):
    """Seconds of each attempt that a run's log tells of, from its start to its end; None for one that was killed.

    An attempt that goes on lasts until `latest`, or is None.
    """
    try:
        lines = re.findall(r"^\[(.{23})\] (starts|ended)", log.read_text(encoding="utf-8", errors="replace"), re.M)
    except FileNotFoundError:
        return []
    times = [(datetime.datetime.fromisoformat(stamp), word) for stamp, word in lines]
    return [
        (end - begin).total_seconds() if second == "ended" else None
        for (begin, first), (end, second) in zip(times, [*times[1:], (latest, latest and "ended")])
        if first == "starts"
    ]


def history(path):
    """Seconds of each epoch that a run has finished."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return [float(row["seconds"]) for row in csv.DictReader(file)]
    except FileNotFoundError:
        return []

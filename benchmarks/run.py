"""Measure the speed of training and inference against plain PyTorch, and print a table.

    python benchmarks/run.py --output book/results/speed/NAME.json

Every system runs in a process of its own. They are started one after the other, which measures the way to the first
step; then they take turns, a few seconds each, over several rounds, so that whatever else the machine does meets all
of them alike. What counts is each one's median. Only one works at a time.
"""

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
NETWORKS = ("attention_56", "attention_92", "attention_164", "resnet_164")
SYSTEMS = {
    "training": (
        "keras-tensorflow", "keras-jax", "keras-torch", "torch-eager", "torch-channels_last", "torch-compiled",
        "matrix-product", "memory-copy",
    ),
    "inference": (
        "keras-tensorflow", "keras-jax", "keras-torch", "torch-eager", "torch-channels_last", "torch-compiled",
        "onnxruntime", "matrix-product", "memory-copy",
    ),
}  # fmt: skip
#: What the machine can do at most: one step of these systems is so many FLOPs, or so many bytes read or written.
LIMITS = {"matrix-product": 2 * 4096**3, "memory-copy": 2 * 2**28}
MEASURES = {"matrix-product": "flops_per_second", "memory-copy": "bytes_per_second"}
#: How often each activation is written and read at least: written and read once; in training read once more, and its
#: gradient written and read.
TRIPS = {"training": 5, "inference": 2}
#: All systems hold their networks at a time, so none may take the whole memory of a GPU before it needs it.
SHARED = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
PRECISIONS = ("float32", "tf32", "mixed_bfloat16")


class Worker:
    """A system in a process of its own, which has taken its first step."""

    def __init__(self, asked, quiet):
        self.asked, self.speeds, self.memory = asked, [], None
        self.compiled = tempfile.TemporaryDirectory()  # what PyTorch compiled in an earlier run is not to be found
        self.process = subprocess.Popen(
            [sys.executable, HERE / "worker.py", json.dumps(asked)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if quiet else None, text=True, cwd=HERE,
            env={**os.environ, **SHARED, "PYTHONPATH": str(HERE.parent), "TORCHINDUCTOR_CACHE_DIR": self.compiled.name},
        )  # fmt: skip
        self.imported = self._hear("imported")
        self.first_step = self._hear("first_step")

    def _hear(self, name):
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            raise RuntimeError(f"ended with exit status {self.process.returncode}")
        return json.loads(line)[name]

    def take(self, steps):
        """Take some steps; return the seconds they took."""
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return self._hear("seconds")

    def warm_up(self, seconds):
        """Find how many steps take about `seconds`."""
        self.take(2)
        self.steps = max(1, round(2 * seconds / self.take(2)))
        return self

    def measure(self):
        work = LIMITS.get(self.asked["system"], self.asked["batch_size"])
        self.speeds.append(work * self.steps / self.take(self.steps))
        return self

    def close(self):
        self.process.stdin.close()
        self.memory = self._hear("peak_memory")
        self.process.wait()
        self.compiled.cleanup()
        return self

    def result(self):
        return {
            **self.asked,
            "seconds_of_import": round(self.imported, 2),
            "seconds_to_first_step": round(self.first_step, 2),
            MEASURES.get(self.asked["system"], "images_per_second"): [float(f"{speed:.4g}") for speed in self.speeds],
            "peak_memory": self.memory,
        }


def compare(points, repeats, seconds, quiet):
    """Measure what each point, a dict, asks a worker for; a list of results. What cannot run is named and left out."""

    def of_each(work, given):
        """What `work` returns of each that it can be done with."""
        done = []
        for one in given:
            try:
                done.append(work(one))
            except (OSError, RuntimeError) as error:
                print(f"left out: {getattr(one, 'asked', one)}: {error}", file=sys.stderr)
        return done

    workers = of_each(lambda point: Worker(point, quiet), points)
    workers = of_each(lambda worker: worker.warm_up(seconds), workers)
    for _ in range(repeats):
        workers = of_each(Worker.measure, workers)
    return [worker.result() for worker in of_each(Worker.close, workers)]


def add_shares(results):
    """Add to each system the cost of an image, and which share of what the machine can do its speed is.

    `flops_per_image` counts the convolutions and dense layers, in training three times: forward, and the gradients for
    inputs and for weights. `bytes_per_image` is how much goes through memory when no cache holds anything: see `TRIPS`.
    """
    from ranet_lib import counting

    limits = {name: [r[name] for r in results if name in r] for name in MEASURES.values()}
    for result in results:
        if "images_per_second" not in result:
            continue
        network = counting.describe(result["network"])
        size = 2 if result["precision"].startswith("mixed") else 4
        costs = {
            "flops": network["flops"] * (3 if result["task"] == "training" else 1),
            "bytes": network["activations"] * size * TRIPS[result["task"]],
        }
        for name, cost in costs.items():
            result[f"{name}_per_image"] = cost
            for turns in limits[f"{name}_per_second"]:
                used = cost * statistics.median(result["images_per_second"])
                result[f"share_of_{name}"] = float(f"{used / statistics.median(turns):.3g}")


def table(results):
    """The results as lines of text, each group of systems with its ratios to the best plain PyTorch."""
    titles = (
        "task", "network", "precision", "system", "images/s", "spread", "of PyTorch", "of peak", "of bandwidth",
        "first step", "memory",
    )  # fmt: skip
    rows, lines = [], []
    for result in results:
        if "images_per_second" not in result:
            name = MEASURES[result["system"]]
            lines.append(f"{result['system']}: {statistics.median(result[name]) / 1e9:.1f} G{name.partition('_')[0]}/s")
            continue
        speeds = result["images_per_second"]
        same = [
            statistics.median(other["images_per_second"])
            for other in results
            if other["system"].startswith("torch-") and all(
                other[key] == result[key] for key in ("task", "network", "precision", "batch_size")
            )
        ]  # fmt: skip
        median = statistics.median(speeds)
        rows.append((
            result["task"], result["network"], result["precision"], result["system"], f"{median:.0f}",
            f"{min(speeds):.0f} to {max(speeds):.0f}", f"{median / max(same):.2f}" if same else "",
            *(f"{result[share]:.0%}" if share in result else "" for share in ("share_of_flops", "share_of_bytes")),
            f"{result['seconds_to_first_step']:.1f} s", f"{result['peak_memory'] / 2**20:.0f} MiB",
        ))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(titles, *rows)]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in [titles, *rows]]
    return "\n".join(lines)


def versions():
    """The versions of what is measured, of those that are installed."""
    from importlib import metadata

    found = {}
    for name in ("tensorflow", "tensorflow-cpu", "keras", "jax", "torch", "onnxruntime"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    return found


def write(path, repeats, seconds, results):
    """Write the record of a benchmark as JSON; never over an existing file."""
    from ranet_lib import runs

    environment = {key: value for key, value in runs.environment().items() if key != "backend"}
    record = {
        "schema": 1,
        "finished": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "environment": environment | {"versions": versions()},
        "repeats": repeats,
        "seconds": seconds,
        "results": results,
    }
    save(path, record)


def save(path, record):
    """Write a `record` as JSON; never over an existing file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "x", encoding="utf-8") as file:
        file.write(json.dumps(record, indent=1) + "\n")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    every = sorted({system for systems in SYSTEMS.values() for system in systems})
    add("--tasks", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    add("--networks", nargs="+", choices=NETWORKS, default=NETWORKS, metavar="NAME", help=", ".join(NETWORKS))
    add("--systems", nargs="+", choices=every, default=every, metavar="NAME", help=", ".join(every))
    add("--precisions", nargs="+", choices=PRECISIONS, default=["float32"])
    add("--batch-size", type=int, default=64)
    add("--repeats", type=int, default=5, help="rounds in which each system has a turn (5)")
    add("--seconds", type=float, default=5.0, help="about how long a turn takes (5)")
    add("--output", type=Path, help="a JSON file for the results; an existing one is not overwritten")
    add("--verbose", action="store_true", help="show what the systems print")
    asked = parser.parse_args()
    for name, least in (("batch_size", 2), ("repeats", 1)):
        if getattr(asked, name) < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}; received {getattr(asked, name)}")
    if asked.output and asked.output.exists():
        parser.error(f"{asked.output} exists; results are not overwritten")
    return asked


def main():
    asked = arguments()
    results = []
    for task in asked.tasks:
        for network in asked.networks:
            for precision in asked.precisions:
                points = [
                    {"system": system, "task": task, "network": network, "precision": precision,
                     "batch_size": asked.batch_size}
                    for system in SYSTEMS[task] if system in asked.systems
                ]  # fmt: skip
                found = compare(points, asked.repeats, asked.seconds, not asked.verbose)
                add_shares(found)
                print(table(found), end="\n\n", flush=True)
                results += found
    if asked.output:
        write(asked.output, asked.repeats, asked.seconds, results)


if __name__ == "__main__":
    main()

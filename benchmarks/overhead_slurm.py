"""Measure what Slurm costs a batch: one node, this machine, with daemons of its own (Debian's packages; needs root).

    python benchmarks/overhead_slurm.py --output book/results/speed/overhead-slurm.json

A batch of short runs, one at a time. Of each run: seconds from the start of its Slurm job to the start of the run, and
from the end of the run to the end of the job. Of the batch: seconds from its last record to its end, because it asks
Slurm at intervals that grow while nothing ends.
"""

import argparse
import datetime
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import run
from overhead import EXPERIMENTS, GRID

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests"))
from slurm import Cluster  # noqa: E402


def measure(folder, seeds):
    """One batch: `{"before": seconds of each run, "after": seconds of each run, "notice": seconds}`."""
    cluster = Cluster(folder / "slurm")
    try:
        grid, runs = folder / "grid.yaml", folder / "runs"
        grid.write_text(GRID.format(seeds=", ".join(map(str, seeds))), encoding="utf-8")
        command = [sys.executable, str(EXPERIMENTS / "batch.py"), "small", "--grid", str(grid), "--runs", str(runs)]
        command += ["--", "--profile", str(EXPERIMENTS / "profiles" / "slurm")]
        command += ["--set-resources", "run:cpus_per_task=1", "run:mem_mb=4000"]
        subprocess.run(command, check=True, capture_output=True, env=cluster.environment)
        ended = time.time()
        jobs = cluster.jobs()
    finally:
        cluster.stop()
    before, after = [], []
    for log in runs.glob("*/log.txt"):
        (job,) = (job for job in jobs if log.parent.name in job["Comment"])
        stamps = re.findall(r"^\[(.{23})\] (?:starts|ended)", log.read_text(encoding="utf-8"), re.M)
        started, finished = map(datetime.datetime.fromisoformat, stamps)
        before.append((started - datetime.datetime.fromisoformat(job["StartTime"])).total_seconds())
        after.append((datetime.datetime.fromisoformat(job["EndTime"]) - finished).total_seconds())
    last = max(path.stat().st_mtime for path in runs.glob("*/record.json"))
    return {"before": before, "after": after, "notice": ended - last}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    results = []
    for _ in range(asked.repeats):
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(Path(folder), range(asked.runs)))
    for name in ("before", "after"):
        seconds = [value for result in results for value in result[name]]
        print(f"{name} a run: {statistics.median(seconds):.1f} s")
    print("until the batch notices:", ", ".join(f"{result['notice']:.0f} s" for result in results))
    if asked.output:
        run.write(asked.output, asked.repeats, None, results)


if __name__ == "__main__":
    main()

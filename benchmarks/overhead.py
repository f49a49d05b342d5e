"""Measure what papermill and Snakemake cost: the same runs as plain Python scripts and as a batch.

    python benchmarks/overhead.py --output book/results/speed/overhead.json

The plain run is the code of train.ipynb, cell after cell, in a fresh Python process. The batch is `batch.py` with a
grid of the same runs, one at a time; its time is split into what each run takes and what the batch takes around them.
The two take turns.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import run

EXPERIMENTS = Path(__file__).resolve().parents[1] / "book" / "experiments"
sys.path.append(str(EXPERIMENTS))
import progress  # noqa: E402

GRID = """
small:
  - model: attention_tiny
    dataset: cluttered_digits
    profile: smoke
    seed: [{seeds}]
"""


def plain(folder, seeds):
    """Seconds of each run as a plain script."""
    cells = json.loads((EXPERIMENTS / "train.ipynb").read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    seconds = []
    for seed in seeds:
        script = folder / f"plain-{seed}.py"
        given = "model = 'attention_tiny'\nprofile = 'smoke'\n"
        given += f"seed = {seed}\noutput_dir = {str(folder / f'plain-{seed}')!r}"
        script.write_text("\n".join([sources[0], given, *sources[1:]]), encoding="utf-8")
        started = time.perf_counter()
        subprocess.run([sys.executable, str(script)], check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    return seconds


def batch(folder, seeds):
    """Seconds of each run in a batch, and of the batch around them."""
    grid = folder / "grid.yaml"
    grid.write_text(GRID.format(seeds=", ".join(map(str, seeds))), encoding="utf-8")
    command = [sys.executable, str(EXPERIMENTS / "batch.py"), "small", "--grid", str(grid)]
    command += ["--runs", str(folder / "runs"), "--jobs", "1"]
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    total = time.perf_counter() - started
    seconds = [progress.durations(log)[0] for log in (folder / "runs").glob("*/log.txt")]
    return seconds, total - sum(seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="runs in each turn")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    alone, within, around = [], [], []
    for _ in range(asked.repeats):
        with tempfile.TemporaryDirectory() as folder:
            alone += plain(Path(folder), range(asked.runs))
            runs, rest = batch(Path(folder), range(asked.runs))
            within, around = within + runs, [*around, rest]
    script, job, rest = (statistics.median(seconds) for seconds in (alone, within, around))
    print(f"a run as a plain script: {script:.1f} s; in a batch: {job:.1f} s")
    print(f"the batch around {asked.runs} runs: {rest:.1f} s")
    print(f"more for each run: {job - script + rest / asked.runs:.1f} s")
    if asked.output:
        result = {"runs_in_a_batch": asked.runs, "plain": alone, "in_batch": within, "around_batch": around}
        run.write(asked.output, asked.repeats, None, [result])


if __name__ == "__main__":
    main()

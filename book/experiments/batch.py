"""Run a group of experiments: every run of it that has no record yet.

    python book/experiments/batch.py laptop --data-dir DIR

Snakemake starts the runs (`Snakefile`), each a papermill job on train.ipynb (`run.py`). This script does the rest: it
checks the whole grid, refuses a second batch on the same folder, puts runs with damaged records aside, shows the
progress, and lists the runs that failed. If a batch was killed, the same command resumes it.

Options after `--` go to Snakemake: `-- --profile book/experiments/profiles/slurm` runs the batch on a cluster.
"""

import argparse
import dataclasses
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import grid as grids
import keras
import machine
import processes
import progress

from ranet_lib import datasets, files, runs

HERE = Path(__file__).resolve().parent
GRID = HERE / "grid.yaml"


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s GROUP [options] [-- options for Snakemake]",
    )  # fmt: skip
    parser.add_argument("group", nargs="?", metavar="GROUP", help="a group of the grid")
    parser.add_argument("--grid", type=Path, default=GRID)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs (default: runs)")
    parser.add_argument("--data-dir", type=Path, help="folder with CIFAR; without it, CIFAR is downloaded once")
    parser.add_argument(
        "--jobs", type=int, help="runs at a time; default: one for each GPU or else each core, or what a profile says"
    )
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    own = arguments.index("--") if "--" in arguments else len(arguments)
    asked, for_snakemake = parser.parse_args(arguments[:own]), arguments[own + 1 :]
    if asked.jobs is not None and asked.jobs < 1:
        parser.error(f"--jobs must be at least 1; received {asked.jobs}")
    try:
        check_home()
        planned = plan(asked.grid, asked.group, asked.data_dir and str(asked.data_dir.expanduser().resolve()))
        checked = {name: runs.check_parameters(parameters) for name, parameters in planned.items()}
        check_data(checked.values())
    except (OSError, ValueError) as error:
        parser.error(str(error))
    folder = asked.runs.expanduser().resolve()
    try:
        held = processes.lock(folder / ".lock")
    except OSError as error:
        parser.error(f"--runs must be a folder that can be written, with locks; received {str(folder)!r} ({error})")
    if held is None:
        sys.exit(f"another batch is working in {folder}; wait for its end, or name another folder with --runs")
    for name, run in checked.items():
        put_aside(folder / name, run)
    missing = [run for name, run in checked.items() if not (folder / name / "record.json").exists()]
    elsewhere = any(word.partition("=")[0] in ("--profile", "--executor", "-e") for word in for_snakemake)
    elsewhere = elsewhere or bool(os.environ.get("SNAKEMAKE_PROFILE"))
    if not elsewhere:
        try:
            leave_gpus_out_of_reach()
        except RuntimeError as error:
            sys.exit(str(error))
        warn_of_bfloat16(missing)
    jobs = asked.jobs if elsewhere else at_a_time(missing, asked.jobs)
    options = [*limits(jobs, elsewhere), *for_snakemake]
    # On a cluster, jobs outlive a batch that is killed. They are left to end; what they leave undone comes after.
    busy = progress.at_work(folder, planned)
    if busy:
        print(f"jobs of an earlier batch are still at work and are waited for: {', '.join(busy)}", flush=True)
    process, status, log = None, 0, folder / "batch.log"
    said = log.stat().st_size if log.exists() else 0  # by earlier batches
    try:
        for names in filter(None, ([name for name in planned if name not in busy], busy)):
            if names is busy:
                progress.follow(None, folder, checked, jobs, elsewhere)
            process = start(folder, {name: planned[name] for name in names}, options, held, None if elsewhere else jobs)
            progress.follow(process, folder, checked, jobs, elsewhere)
            status = status or process.returncode
    except KeyboardInterrupt:
        print("\nstopping; the same command resumes the batch", flush=True)
        if process and process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        status = process.wait() if process else 1
    return report(folder, planned, status, said)


def check_home():
    """Jupyter and Snakemake keep files in the home folder, and without one end with no word of why."""
    try:
        with tempfile.TemporaryFile(dir=Path.home()):
            pass
    except (OSError, RuntimeError) as error:
        raise ValueError(f"the home folder must be one that can be written (set HOME to another): {error}") from None


def check_data(runs):
    """Read each data set in a folder once, before a run of it starts: it may not be there, or damaged."""
    for dataset, data_dir in {(run["dataset"], run["data_dir"]) for run in runs}:
        if data_dir is None and not dataset.startswith("folder:"):
            continue
        if datasets.load_dataset(dataset, data_dir).copy == "unverified" and dataset.startswith("cifar"):
            told = "lacks the published checksums (changed, or the binary form unpacked: take its .tar.gz)"
            print(f"{dataset} in {data_dir} {told}; its runs are recorded as unverified and test no claim", flush=True)


def leave_gpus_out_of_reach():
    """Where the backend cannot use this machine's GPUs, say so and have the runs share the cores."""
    if processes.list_gpus() and processes.device().startswith("CPU"):
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
        print(f"{keras.backend.backend()} cannot use the GPUs of this machine; {processes.ADVICE}", flush=True)


def warn_of_bfloat16(runs):
    """Say so where this machine would take many times as long in the runs' precision as in float32."""
    if any(run["recipe"].precision == "mixed_bfloat16" for run in runs) and not processes.list_gpus():
        if processes.lacks_bfloat16():
            print(
                "this processor has no instructions for bfloat16 and imitates them: float32 is several times as fast "
                "here (in the grid, mixed_precision: float32)", flush=True,
            )  # fmt: skip


def at_a_time(runs, asked=None):
    """How many of `runs` go on at once on this machine: one for each GPU, or else for each core with memory for it.

    If a number is `asked` for, it is that one, but no more than there are GPUs. Two runs of one thread each train
    together half as many images again as one run of two threads.
    """
    if gpus := len(processes.list_gpus()):
        return min(asked or gpus, gpus)
    needed = max(map(progress.memory, runs), default=progress.MEMORY_OF_ANY_RUN)
    return asked or max(1, min(machine.count_cores(), machine.count_memory() // needed))


def limits(jobs, elsewhere):
    """Options for Snakemake that say how many runs go on at a time; `elsewhere`, on a cluster, the profile says it."""
    if elsewhere:
        return ["--jobs", str(jobs)] if jobs else []
    gpus = len(processes.list_gpus())
    return ["--cores", str(jobs), "--jobs", str(jobs), "--resources", f"gpu={gpus or jobs}"]


def start(folder, runs, options, held, share=None):
    """Have Snakemake do those of `runs` that have no record; returns its process.

    Where `share` runs share this machine's cores, each gets as many threads as it has cores of its own, unless the user
    has said how many.
    """
    batch = str(uuid.uuid4())
    files.write_text(folder / ".plan.json", json.dumps({"batch": batch, "runs": runs}, indent=1))
    threads = {}
    if share and not processes.list_gpus():
        threads = dict.fromkeys(processes.THREADS, str(max(1, machine.count_cores() // share)))
    with open(folder / "batch.log", "a", encoding="utf-8") as log:
        return subprocess.Popen(
            [
                sys.executable, "-m", "snakemake", "--snakefile", str(HERE / "Snakefile"), "--directory", str(folder),
                "--config", f"plan={folder / '.plan.json'}", f"batch={batch}", "--keep-going", "--retries", "1",
                # The lock of the batch is of a process and ends with it; Snakemake's is a file that a kill leaves.
                "--nolock",
                # A record is written whole or not at all: what is there is finished, even if its job was killed later.
                "--ignore-incomplete", "--keep-incomplete", "--rerun-triggers", "mtime",
                *options,
            ],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=threads | os.environ,
            preexec_fn=processes.end_with_parent, pass_fds=[held.fileno()],
            process_group=0,  # so that Ctrl-C reaches it once, from here
        )  # fmt: skip


def plan(path, group, data_dir=None):
    """The runs of a group: `{name: parameters of train.ipynb}`.

    Raises:
        ValueError: a grid with a mistake in it (`grid.GridError`), or a group that it does not have.
    """
    groups = grids.read_grid(path)
    if group not in groups:
        received = "none is named (GROUP)" if group is None else f"received {group!r}"
        raise ValueError(f"group must be one of {', '.join(groups)}; {received}")
    data = {} if data_dir is None else {"data_dir": data_dir}
    planned = {}
    for name, parameters in groups[group].items():
        planned[name] = parameters | (data if parameters["dataset"].startswith("cifar") else {})
        checked = runs.check_parameters(planned[name])  # its jobs work in other folders than this one
        planned[name] |= {key: checked[key] for key in ("dataset", "data_dir") if key in planned[name]}
    return planned


# --- Records -----------------------------------------------------------------------------------------------------


def read(folder):
    """The record of a run's folder, or None if there is none."""
    try:
        return runs.read_record(folder / "record.json")
    except FileNotFoundError:
        return None


def put_aside(folder, run):
    """Make way for a new run where the folder has a record that is damaged, or that is of another run."""
    record, why = None, ""
    try:
        record = read(folder)
    except ValueError as error:
        why = str(error)
    if record and (different := differences(record, run) or other_images(record, run)):
        why = f"{folder.name} was run with {different}"
    if why:
        kept = free(folder.with_name(f"{folder.name}.before"))
        folder.rename(kept)
        print(f"{why}\n  kept as {kept.name}; the run is done again", flush=True)


def differences(record, run):
    """What tells the run of a record from `run`, as `runs.check_parameters` returns it; "" if nothing does."""
    recipe = dataclasses.asdict(run["recipe"])
    here = runs.settings(run["model"], run["model_options"], run["dataset"], run["label_noise"], recipe)
    there = runs.settings_of(record)

    def flat(asked, seed):
        return {key: asked[key] for key in ("model", "dataset", "label_noise")} | {
            "seed": seed, **asked["options"], **asked["recipe"]}  # fmt: skip

    here, there = flat(here, run["seed"]), flat(there, record["seed"])
    different = [name for name in here | there if there.get(name) != here.get(name)]
    return ", ".join(f"{name} {there.get(name)!r}, not {here.get(name)!r}" for name in different)


def other_images(record, run):
    """Says so if the images that `run` would take are not those of the record; "" if they are, or are not at hand."""
    if run["data_dir"] is None and not run["dataset"].startswith("folder:"):
        return "other images than the official ones" if record["dataset"]["copy"] == "unverified" else ""
    same = record["dataset"]["fingerprint"] == fingerprint(run["dataset"], run["data_dir"], run["seed"])
    return "" if same else f"other images than there are in {run['data_dir'] or run['dataset']} now"


@functools.cache
def fingerprint(dataset, data_dir, seed):
    return datasets.load_dataset(dataset, data_dir, seed).fingerprint


def free(path):
    """`path` with the first number that is not taken: PATH-1, PATH-2, ..."""
    number = 1
    while (numbered := path.with_name(f"{path.name}-{number}")).exists():
        number += 1
    return numbered


# --- The end -----------------------------------------------------------------------------------------------------


def report(folder, runs, status, said=0):
    """Say how the batch ended and list the runs that failed. Returns the exit status: 0 if every run is finished."""
    failed, missing, busy = [], [], progress.at_work(folder, runs)
    for name in runs:
        try:
            record = read(folder / name)
        except ValueError as error:  # of a version that came meanwhile, or damaged
            failed.append((name, str(error)))
            continue
        if record is not None and "failure" in record:
            failed.append((name, record["failure"]))
        elif record is None and name in busy:
            missing.append(f"{name} (a job still works on it)")
        elif record is None and (folder / name / "log.txt").exists():
            failed.append((name, reason(folder / name)))
        elif record is None:
            missing.append(name)
    print(f"{len(runs) - len(failed) - len(missing)} of {len(runs)} runs finished, in {folder}")
    for name, why in failed:
        print(f"FAILED {name}: {why}\n  see {folder / name / 'train.ipynb'} and {folder / name / 'log.txt'}")
    if missing:
        print(f"NOT RUN: {', '.join(missing)}")
        for line in refusals(folder / "batch.log", said):
            print(f"  {line}")
    if shutil.disk_usage(folder).free < 2**20:
        print(f"The disk of {folder} is full: make room there, and start the batch again")
    if status and not failed or missing:
        print(f"Snakemake ended with status {status}; see {folder / 'batch.log'}")
    return 1 if failed or missing or status else 0


def refusals(log, start):
    """What a cluster said of the jobs that it did not take: from the byte `start` of the batch's `log` on."""
    text = log.read_bytes()[start:].decode(errors="replace") if log.exists() else ""
    said = re.findall(r"\b((?:sbatch: )?[Ee]rror(?: from server \(\w+\))?: .*?)'?\.?$", text, re.MULTILINE)
    return list(dict.fromkeys(said))


def reason(folder):
    """Why a run failed, in a line: the error of its executed notebook, or the last words of its log."""
    try:
        cells = json.loads((folder / "train.ipynb").read_text(encoding="utf-8"))["cells"]
        for cell in cells:
            for output in cell.get("outputs", ()):
                if output["output_type"] == "error":
                    return f"{output['ename']}: {output['evalue']}"
    except (OSError, ValueError):
        pass
    log = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip()
    last = log.rpartition("] starts with")[2]
    if named := re.findall(r"^[\w.]+(?:Error|Exception|Interrupt)\b.*", last, re.MULTILINE):
        return named[-1].strip()
    if log and "] ended" not in last:
        return "ended from outside: by a kill, or at the limit of its time or memory"
    return (log.splitlines() or ["it left no word"])[-1]


if __name__ == "__main__":
    sys.exit(main())

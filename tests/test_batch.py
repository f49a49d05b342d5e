"""A batch of experiments, run for real: Snakemake, papermill, training, and what is left when they are killed."""

import copy
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image
from runs import ROOT, result_of

from ranet_lib import datasets, runs

if sys.platform == "win32":
    pytest.skip("batches need Linux or macOS", allow_module_level=True)

EXPERIMENTS = ROOT / "book" / "experiments"

# Small and quick, but each a real run: two epochs of 1,600 images of cluttered digits.
SMALL = """
    model: resnet_tiny
    model_options: {width: 0.5}
    dataset: cluttered_digits
    profile: smoke
"""

# Of the runs to which things happen: enough of them left, after the first, to outlast what is done meanwhile.
EPOCHS = 4


@pytest.fixture
def batch():
    import batch  # not before: it needs Linux or macOS

    return batch


def command(folder, grid, *more, group="small"):
    return [
        sys.executable, str(EXPERIMENTS / "batch.py"), group, "--grid", str(grid), "--runs", str(folder), *more
    ]  # fmt: skip


def write_grid(path, *entries):
    path.write_text("small:\n" + "".join(f"  - {entry.strip()}\n" for entry in entries), encoding="utf-8")
    return path


def entry(**parameters):
    return SMALL + "".join(f"    {name}: {value}\n" for name, value in parameters.items())


def wait_for(condition, seconds=1800):
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.2)
    return found


# --- Slow: a batch, and everything that can happen to it ---------------------------------------------------------


def start(folder, grid, *more):
    return subprocess.Popen(
        command(folder, grid, *more), cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip


def process_tree():
    """Every process that has not ended: `{id: (id of its parent, its command)}`."""
    if sys.platform != "linux":
        pytest.skip("reads /proc")
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8") as file:
                state, parent = file.read().rpartition(")")[2].split()[:2]
            with open(f"/proc/{name}/cmdline", "rb") as file:
                words = file.read().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if state != "Z":
            found[int(name)] = int(parent), words
    return found


def descendants(process):
    tree, found = process_tree(), [process]
    for one in found:
        found += [child for child, (parent, _) in tree.items() if parent == one]
    return found[1:]


def papermill_of(run):
    """The process that runs papermill for a run: `run.py`, and not the shell that starts it."""
    for process, (_, words) in process_tree().items():
        if "run.py" in words.partition(" ")[2] and f" {run.name} " in words and "bash" not in words:
            return process


def kernel_of(run):
    papermill, tree = papermill_of(run), process_tree()
    return next((p for p, (parent, words) in tree.items() if parent == papermill and "ipykernel" in words), None)


def half_done(run):
    """Whether a run of `EPOCHS` epochs has kept at least one of them, and is far from its end."""
    try:
        state = json.loads((run / "checkpoint" / "state.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    return len(state["history"]) <= EPOCHS // 2


def stop_in_training(folder, but=()):
    """A run in the middle of training, and its kernel, which does not go on until it is told to."""

    def stop():
        for run in sorted(set(folder.glob("*-seed*")) - set(but)):
            if half_done(run) and (kernel := kernel_of(run)):
                os.kill(kernel, signal.SIGSTOP)
                if half_done(run):
                    return run, kernel
                os.kill(kernel, signal.SIGCONT)

    return wait_for(stop)


def finished(folder):
    put_aside = set(folder.glob("*.before-*/record.json"))
    return {path.parent.name: path.read_bytes() for path in set(folder.glob("*/record.json")) - put_aside}


class Story:
    """A batch of 9 runs, two at a time, to which everything happens at once."""

    def __init__(self, folder):
        self.folder = folder / "runs"
        good, bad = entry(seed=[*range(8)], epochs=EPOCHS), entry(seed=11, learning_rate=1e30)
        self.grid = write_grid(folder / "grid.yaml", good, bad)
        batch = start(self.folder, self.grid, "--jobs", "2")
        try:
            wait_for(lambda: (self.folder / ".plan.json").exists() or batch.poll() is not None)
            assert batch.poll() is None, batch.communicate()[0]
            self.second = subprocess.run(command(self.folder, self.grid), cwd=ROOT, capture_output=True, text=True)

            self.without_kernel, kernel = stop_in_training(self.folder)
            os.kill(kernel, signal.SIGKILL)
            self.without_papermill, orphan = stop_in_training(self.folder, [self.without_kernel])
            os.kill(papermill_of(self.without_papermill), signal.SIGKILL)
            os.kill(orphan, signal.SIGCONT)
            wait_for(lambda: orphan not in process_tree())

            wait_for(lambda: len(finished(self.folder)) >= 5)
            self.damaged_checkpoint, kernel = stop_in_training(self.folder)
            workers = descendants(batch.pid)
            assert kernel in workers
            batch.kill()
            os.kill(kernel, signal.SIGCONT)
            wait_for(lambda: not set(workers) & set(process_tree()))
        finally:
            batch.kill()
            batch.communicate()
        self.before = finished(self.folder)
        others = {run.name for run in (self.without_kernel, self.without_papermill, self.damaged_checkpoint)}
        unharmed = {path.parent.name for path in self.folder.glob("*/model.weights.h5")} & set(self.before) - others
        self.damaged_record = min(unharmed)
        path = self.folder / self.damaged_record / "record.json"
        path.write_bytes(self.before[self.damaged_record][:-100])
        checkpoint = self.damaged_checkpoint / "checkpoint"
        state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
        weights = checkpoint / state["weights"]  # beside which the killed run may have left half of the next
        weights.write_bytes(weights.read_bytes()[:-100])

        again = start(self.folder, self.grid, "--jobs", "2")
        self.output = again.communicate(timeout=3600)[0]
        self.status = again.returncode
        self.after = finished(self.folder)

    def log(self, name):
        return (self.folder / name / "log.txt").read_text()


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    return Story(tmp_path_factory.mktemp("story"))


@pytest.mark.slow
def test_a_killed_batch_completes_when_started_again(story):
    assert len(story.after) == 9
    failed = {name for name in story.after if "failure" in runs.read_record(story.folder / name / "record.json")}
    assert len(failed) == 1 and not [path for path in story.folder.glob("*/.*-*")]  # nothing half-written
    assert story.status == 1 and "8 of 9 runs finished" in story.output
    (name,) = failed
    assert re.search(rf"FAILED {name}: training diverged in epoch 1: the loss is (?:nan|inf)", story.output)


@pytest.mark.slow
def test_no_finished_run_is_touched_or_run_again(story):
    kept = {name: content for name, content in story.before.items() if name != story.damaged_record}
    assert len(kept) >= 4 and kept == {name: story.after[name] for name in kept}
    for name in story.after:
        assert "starts with" not in story.log(name).partition("ended with a record")[2], name


@pytest.mark.slow
def test_a_second_batch_was_refused_while_the_first_ran(story):
    assert story.second.returncode == 1 and "another batch is working in" in story.second.stderr


@pytest.mark.slow
@pytest.mark.parametrize("part", ["kernel", "papermill"])
def test_a_run_that_loses_a_process_is_tried_again_and_goes_on(story, part):
    run = getattr(story, f"without_{part}")
    log = story.log(run.name)
    assert log.count("starts with") >= 2 and ("ended without a record" in log) == (part == "kernel")
    assert (run / "attempt-1.ipynb").exists()
    assert len(runs.read_record(run / "record.json")["history"]) == EPOCHS


@pytest.mark.slow
def test_a_damaged_record_or_checkpoint_is_kept_aside_and_the_run_done_again(story):
    run = story.folder / story.damaged_record
    assert f"{run / 'record.json'}: " in story.output and "the run is done again" in story.output
    (kept,) = story.folder.glob("*.before-1")  # with its weights and all else
    assert kept.name == f"{run.name}.before-1" and (kept / "model.weights.h5").exists()
    assert (kept / "record.json").read_bytes() == story.before[run.name][:-100]
    one, two = (json.loads(text) for text in (story.before[run.name], story.after[run.name]))
    assert result_of(one) == result_of(two)
    assert (story.damaged_checkpoint / "checkpoint-damaged-1").is_dir()
    assert "is damaged: its weights do not match" in (story.damaged_checkpoint / "train.ipynb").read_text()


@pytest.mark.slow
def test_a_full_disk_costs_the_run_but_leaves_nothing_half_written(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    size = ["-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(disk)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(["mount", *size]).returncode:
        pytest.skip("needs root and a system that lets it mount a small disk")
    try:
        grid = write_grid(tmp_path / "grid.yaml", entry())
        full = start(disk, grid)
        output = full.communicate(timeout=3600)[0]
        assert full.returncode == 1 and f"The disk of {disk} is full" in output and "0 of 1 runs finished" in output
        assert not list(disk.glob("*/record.json")) and not list(disk.glob("*/*.weights.h5"))
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        again = start(disk, grid)
        output = again.communicate(timeout=3600)[0]
        assert again.returncode == 0 and "1 of 1 runs finished" in output, output
        assert [runs.read_record(path) for path in disk.glob("*/record.json")]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_two_folders_of_one_name_are_two_runs(tmp_path):
    names = set()
    for version in ("v1", "v2"):
        (tmp_path / version / "photos").mkdir(parents=True)
        names.add(runs.run_name(runs.check_parameters({"dataset": f"folder:{tmp_path / version / 'photos'}"})))
    assert len(names) == 2 and all(name.startswith("attention_micro-photos-first-seed0-") for name in names)


def test_braces_and_quotes_of_a_folder_are_in_no_name_and_papermill_takes_them_as_they_are(tmp_path):
    import run
    from papermill.parameterize import parameterize_path  # which papermill applies to the paths that it is given

    folder = tmp_path / 'a {cat}" {0'
    folder.mkdir()
    asked = runs.check_parameters({"dataset": f"folder:{folder}"})
    assert runs.run_name(asked).startswith("attention_micro-a__cat____0-first-seed0-")
    assert parameterize_path(run.as_it_is(folder), {"cat": 1}) == str(folder)


def test_a_record_of_other_images_does_not_count(batch, tmp_path, capsys):
    """A group whose folder of images has changed since: the old run is kept aside, and done again."""
    photos = tmp_path / "photos"
    for label in ("cats", "dogs"):
        (photos / label).mkdir(parents=True)
        for number in range(12):
            Image.new("RGB", (8, 8), (number * 20, 0, 0)).save(photos / label / f"{number}.png")
    parameters = {"dataset": f"folder:{photos}", "output_dir": str(tmp_path / "run")}
    run, template = runs.check_parameters(parameters), runs.read_records(ROOT / "book" / "results")
    record = copy.deepcopy(template["attention_tiny-cluttered_digits-laptop-seed0-0af8eb5b"])
    record["model"] |= {"name": run["model"], "options": run["model_options"]}
    record |= {"recipe": dataclasses.asdict(run["recipe"]), "history": record["history"][:1]}
    record["test"]["last_epoch"]["epoch"] = record["test"]["chosen_on_validation"]["epoch"] = 1
    fingerprint = datasets.load_dataset(run["dataset"]).fingerprint
    record["dataset"] |= {"name": run["dataset"], "fingerprint": fingerprint}
    runs.write_record(tmp_path / "run" / "record.json", record)
    batch.put_aside(tmp_path / "run", run)
    assert (tmp_path / "run" / "record.json").exists() and capsys.readouterr().out == ""
    Image.new("RGB", (8, 8), "white").save(photos / "cats" / "0.png")
    batch.fingerprint.cache_clear()
    batch.put_aside(tmp_path / "run", run)
    assert not (tmp_path / "run").exists() and (tmp_path / "run.before-1" / "record.json").exists()
    assert "other images than there are in folder:" in capsys.readouterr().out


def test_a_record_of_unverified_images_does_not_count_where_the_official_ones_are_asked_for(batch):
    record = runs.read_records(ROOT / "book" / "results")["attention_tiny-cifar10-study-seed0"]
    asked = runs.check_parameters({"dataset": "cifar10"})
    assert batch.other_images(record, asked) == ""
    record["dataset"]["copy"] = "unverified"
    assert batch.other_images(record, asked) == "other images than the official ones"

"""Every notebook, run by papermill as a user would run it."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import nbformat
import papermill
import pytest
from conftest import ROOT
from jupyter_cache.base import CacheBundleIn
from test_book import CHAPTERS, each, named

from ranet_lib import datasets, models, records, training

TRAIN = ROOT / "book" / "experiments" / "train.ipynb"
HEADS = ROOT.parent / "shared" / "data" / "unpack.py"


@pytest.fixture(scope="session")
def book_cache():
    """The cache of executed notebooks that `make book` reads: what papermill has run here need not run again there."""
    from jupyter_cache import get_cache

    subprocess.run(["make", "_build/cache.stamp"], cwd=ROOT, check=True, capture_output=True)
    return get_cache(ROOT / "_build" / ".jupyter_cache")


def run_train(folder, **parameters):
    """Start the experiment notebook with papermill's command, the executed copy in `folder` too."""
    words = [word for name, value in parameters.items() for word in ("-p", name, str(value))]
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "papermill", str(TRAIN), str(folder / "train.ipynb"), "--no-progress-bar",
         "-p", "output_dir", str(folder), *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def kill_in_second_epoch(folder):
    """Start the default run in `folder` and kill it, papermill and its kernel, once its first epoch is kept."""
    process = run_train(folder)
    state = folder / "checkpoint" / "state.json"
    until = time.monotonic() + 600
    while not state.exists():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.2)
    time.sleep(1)  # into the next epoch
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert len(json.loads(state.read_text())["history"]) == 1 and not (folder / "record.json").exists()


def finish_train(process):
    _, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors[-3000:]


@pytest.fixture(scope="session")
def background(request, tmp_path_factory):
    """The long runs, to wait for: as many at a time as there are cores, for each keeps little more than one busy."""
    folder = tmp_path_factory.mktemp("notebooks")

    def chapter(path):
        command = [sys.executable, "-m", "papermill", str(path), str(folder / path.name), "--no-progress-bar"]
        done = subprocess.run([*command, "--cwd", str(path.parent)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        return folder / path.name

    def train(name, **parameters):
        finish_train(run_train(folder / name, **parameters))
        return folder / name

    def kill_and_go_on():
        kill_in_second_epoch(folder / "killed")
        return train("killed")

    def train_on_cifar():
        subprocess.run([sys.executable, str(HEADS), str(folder / "data"), "--heads"], check=True)
        return train(
            "cifar", dataset="cifar100", data_dir=folder / "data", epochs=1, batch_size=32, label_noise=0.2
        )

    selected = {item.name for item in request.session.items}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        chapters = [path for path in CHAPTERS if f"test_chapter_runs[{named(path)}]" in selected]
        runs = {path: pool.submit(chapter, path) for path in chapters}
        runs["default"] = pool.submit(train, "default")
        runs["killed"] = pool.submit(kill_and_go_on)
        if HEADS.exists():
            runs["cifar"] = pool.submit(train_on_cifar)
        yield runs
        pool.shutdown(cancel_futures=True)


@each(CHAPTERS)
def test_chapter_runs(path, background, book_cache):
    result = nbformat.read(background[path].result(), as_version=4)
    notebook = nbformat.read(path, as_version=4)
    for cell, done in zip(notebook.cells, result.cells, strict=True):
        if cell.cell_type == "code":
            assert done.execution_count, f"not run: {cell.source[:80]!r}"
            cell.outputs, cell.execution_count = done.outputs, done.execution_count
    book_cache.cache_notebook_bundle(CacheBundleIn(notebook, str(path)), check_validity=False, overwrite=True)


@pytest.fixture(scope="module")
def default_run(background):
    return background["default"].result()


def test_the_default_run_is_complete(default_run):
    assert {path.name for path in default_run.iterdir()} == {
        "train.ipynb", "record.json", "history.csv", "model.weights.h5", "error.png", "loss.png", "masks.png"
    }  # fmt: skip
    record = records.read_record(default_run / "record.json")
    assert (record["model"]["name"], record["dataset"]["name"]) == ("attention_tiny", "cluttered_digits")
    assert len(record["localization"]["modules"]) == 3
    with open(default_run / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == [row["loss"] for row in record["history"]]
    executed = nbformat.read(default_run / "train.ipynb", as_version=4)
    outputs = [output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs]
    shown = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(shown) == 3 and all(output.metadata["image/png"]["alt"] for output in shown)


def test_its_weights_give_the_recorded_test_error(default_run):
    record = records.read_record(default_run / "record.json")
    data = datasets.load_dataset("cluttered_digits")
    model = models.create_model("attention_tiny")
    training.compile_model(model, training.recipe("smoke"), 1)
    model.load_weights(default_run / "model.weights.h5")
    assert training.evaluate(model, data, data.test)["error"] == record["test"]["last_epoch"]["error"]


def test_killed_in_an_epoch_and_started_again_it_gives_the_same_record(background):
    """The same seed twice, once undisturbed and once killed: one result."""
    undisturbed = records.read_record(background["default"].result() / "record.json")
    folder = background["killed"].result()
    resumed = records.read_record(folder / "record.json")
    assert len(resumed["history"]) == len(undisturbed["history"])
    assert records.result_digest(resumed) == records.result_digest(undisturbed)
    assert not (folder / "checkpoint").exists()


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"modle": "attention_56"}, "unknown parameter 'modle'; the parameters are: model, model_options, dataset"),
        ({"learning_rate": -0.1}, "learning_rate must be a number above 0; received -0.1"),
    ],
)
def test_a_wrong_parameter_stops_it_in_the_first_cell(parameters, message, tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match=message):
        papermill.execute_notebook(
            TRAIN, tmp_path / "out.ipynb", parameters={"output_dir": str(tmp_path / "run"), **parameters},
            progress_bar=False,
        )  # fmt: skip
    executed = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    failed = [cell for cell in executed.cells if cell.cell_type == "code" and cell.metadata.papermill.exception]
    assert len(failed) == 1 and "check_parameters" in failed[0].source
    assert not (tmp_path / "run").exists()


def test_it_trains_on_real_cifar_images(background):
    if "cifar" not in background:
        pytest.skip("needs the small CIFAR files beside the project")
    record = records.read_record(background["cifar"].result() / "record.json")
    assert (record["model"]["num_classes"], record["label_noise"]) == (100, 0.2)
    assert "localization" not in record

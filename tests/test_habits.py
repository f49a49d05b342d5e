"""What people bring along: their habits with Keras and papermill, their settings, their paths."""

import json
import multiprocessing
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from runs import ROOT

from ranet_lib import datasets, masks, models, runs, training


def shape_of(found):
    return [mask.shape for mask in found]


def test_masks_are_found_in_a_network_inside_another():
    body, images = models.create_model("attention_tiny", width=0.5), np.ones((2, 32, 32, 3), "float32")
    expected = masks.attention_masks(body, images)
    inputs = keras.Input((32, 32, 3))
    transferred = keras.Model(inputs, keras.layers.Dense(3)(body(inputs)))
    scaled = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Rescaling(0.5), body])
    for outer, seen in ((transferred, images), (scaled, 2 * images)):
        found = masks.attention_masks(outer, seen)
        assert shape_of(found) == shape_of(expected)
        for one, other in zip(found, expected):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        masks.mean_response(scaled, 2 * images), masks.mean_response(body, images), rtol=1e-4
    )


def test_the_setting_of_channels_first_changes_no_network():
    keras.utils.set_random_seed(0)
    usual = models.create_model("attention_tiny")
    keras.config.set_image_data_format("channels_first")
    try:
        keras.utils.set_random_seed(0)
        other = models.create_model("attention_tiny")
        images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
        assert other.count_params() == usual.count_params()
        found = other.predict_on_batch(images), masks.attention_masks(other, images)
    finally:
        keras.config.set_image_data_format("channels_last")
    np.testing.assert_allclose(found[0], usual.predict_on_batch(images), rtol=1e-4, atol=1e-4)
    assert shape_of(found[1]) == shape_of(masks.attention_masks(usual, images))


def test_a_trained_network_is_exported_without_its_optimiser(tmp_path):
    data = datasets.load_dataset("cluttered_digits")
    network = models.create_model("attention_tiny", width=0.25)
    training.compile_model(network, training.recipe("smoke"), 10)
    network.train_on_batch(data.prepare(data.train.images[:8]), data.train.labels[:8])
    runs.export_model(network, tmp_path / "network.keras")
    program = "import sys, keras, ranet_lib.blocks; keras.saving.load_model(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "network.keras")], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-2000:]
    network.save(tmp_path / "all.keras")
    assert (tmp_path / "network.keras").stat().st_size < 0.8 * (tmp_path / "all.keras").stat().st_size


@pytest.mark.parametrize("name, text, value", [("learning_rate", "1e-4", 1e-4), ("label_noise", "3E-1", 0.3)])
def test_a_number_that_yaml_takes_for_a_text_is_a_number(name, text, value):
    run = runs.check_parameters({name: text})
    assert value == (run["recipe"].learning_rate if name == "learning_rate" else run[name])
    with pytest.raises(ValueError, match=f"{name} must be a number"):
        runs.check_parameters({name: "fast"})


def test_paths_are_resolved_where_they_are_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for home in ("HOME", "USERPROFILE"):  # of Windows
        monkeypatch.setenv(home, str(tmp_path))
    (tmp_path / "photos").mkdir()
    for given in ("photos", "./photos", "~/photos", str(tmp_path / "photos")):
        run = runs.check_parameters({"dataset": f"folder:{given}"})
        assert run["dataset"] == f"folder:{tmp_path / 'photos'}"
        run = runs.check_parameters({"dataset": "cifar10", "data_dir": given})
        assert run["data_dir"] == str(tmp_path / "photos")


def test_what_a_start_up_file_of_ipython_defines_is_no_parameter():
    cells = ["", "model = \"attention_micro\"\nseed = 0", "%time x = 1", "sed = 3"]
    names = {"In": cells[:3], "model": "attention_micro", "seed": 0, "favourite": 3}
    assert runs.check_parameters(names)["seed"] == 0
    with pytest.raises(ValueError, match="unknown parameter 'sed'"):
        runs.check_parameters(names | {"In": cells, "sed": 3})
    with pytest.raises(ValueError, match="unknown parameter 'favourite'"):
        runs.check_parameters({"favourite": 3})


def _train(folder, started, ended):
    data = datasets.load_dataset("cluttered_digits")
    keras.utils.set_random_seed(0)
    network = models.create_model("resnet_tiny", width=0.25)
    recipe = training.recipe("smoke", epochs=1, batch_size=16, train_images=32)

    class Wait(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            started.set()
            ended.wait(600)

    training.fit(network, data, recipe, folder, progress=False, callbacks=[Wait()])


def test_a_second_process_in_the_folder_of_a_run_is_refused_and_the_first_goes_on(tmp_path):
    context = multiprocessing.get_context("spawn")
    started, ended = context.Event(), context.Event()
    first = context.Process(target=_train, args=(tmp_path / "run", started, ended))
    first.start()
    assert started.wait(600)
    data = datasets.load_dataset("cluttered_digits")
    network = models.create_model("resnet_tiny", width=0.25)
    recipe = training.recipe("smoke", epochs=1, batch_size=16, train_images=32)
    with pytest.raises(ValueError, match="another process trains in output_dir"):
        training.fit(network, data, recipe, tmp_path / "run", progress=False)
    ended.set()
    first.join(600)
    assert first.exitcode == 0 and (tmp_path / "run" / "history.csv").exists()
    assert not (tmp_path / "run" / ".training.lock").exists()
    assert len(training.fit(network, data, recipe, tmp_path / "run", progress=False)) == 1  # it is finished


@pytest.mark.skipif(sys.platform == "win32", reason="batches need Linux or macOS")
def test_a_home_that_cannot_be_written_is_named_before_a_batch_begins(tmp_path):
    (tmp_path / "file").write_text("")
    script = ROOT / "book" / "experiments" / "batch.py"
    command = [sys.executable, str(script), "laptop", "--runs", str(tmp_path / "runs")]
    environment = os.environ | {"HOME": str(tmp_path / "file" / "home")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert "the home folder must be one that can be written (set HOME to another)" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_batch_passes_paths_on_as_the_user_meant_them(tmp_path, monkeypatch):
    import batch

    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    entry = {"model": "resnet_tiny", "dataset": "folder:photos", "profile": "smoke"}
    (tmp_path / "grid.yaml").write_text(json.dumps({"mine": [entry]}))
    (run,) = batch.plan(tmp_path / "grid.yaml", "mine").values()
    assert run["dataset"] == f"folder:{tmp_path / 'photos'}"


def test_the_folder_of_the_book_is_found_from_anywhere_in_a_repository(tmp_path, monkeypatch):
    copy = tmp_path / "copy" / "book"
    (copy / "results").mkdir(parents=True)
    (copy / "experiments").mkdir()
    monkeypatch.chdir(copy / "experiments")
    assert runs.book_folder() == copy
    monkeypatch.setattr(runs.record, "HERE", tmp_path / "site-packages" / "ranet_lib" / "runs")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder book/results in .*; open this notebook in its repository"):
        runs.book_folder()


@pytest.mark.parametrize("threads, processors", [("1", 1), ("10000", None), ("0", None), ("", None), ("two", None)])
def test_a_record_counts_the_cores_that_its_threads_can_use(threads, processors, monkeypatch):
    variable = {"tensorflow": "TF_NUM_INTRAOP_THREADS", "torch": "OMP_NUM_THREADS"}.get(keras.backend.backend())
    if variable is None:
        pytest.skip("JAX reads no number of threads")
    monkeypatch.delenv(variable, raising=False)
    cores = runs.environment()["processors"]
    monkeypatch.setenv(variable, threads)
    assert runs.environment()["processors"] == (processors or cores)

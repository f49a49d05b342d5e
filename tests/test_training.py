"""Batches, and a `fit` that survives being killed. Recipes and parameters have tests of their own."""

import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import keras
import numpy as np
import pytest
import spread

from ranet_lib import datasets, files, training

on_jax = pytest.mark.skipif(keras.backend.backend() != "jax", reason="what JAX alone does; the slow tests run it")


@pytest.fixture(scope="module")
def data():
    return spread.data(160, 64)  # real, and quick


def small_network(num_classes=10, dropout=0):
    """A few layers in place of a network, so that a test of the training takes a second."""
    keras.utils.set_random_seed(0)
    parts = [keras.layers.Conv2D(8, 3, strides=4), keras.layers.BatchNormalization(), keras.layers.ReLU()]
    head = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(num_classes)]
    head[1:1] = [keras.layers.Dropout(dropout)] if dropout else []
    return keras.Sequential([keras.Input((32, 32, 3)), *parts, *head], name="small")


def quick(**changes):
    return training.recipe("smoke", **{"epochs": 3, "batch_size": 32, "train_images": 160, **changes})


def without_times(history):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history]


# --- Batches


def test_batches_are_counted_as_a_list_is(data):
    batches = training.Batches(data, quick(train_images=150))  # four of 32, and 22 left over
    np.testing.assert_array_equal(batches[-1][1], batches[3][1])
    for outside in (4, -5):
        with pytest.raises(IndexError):
            batches[outside]


def test_batches_follow_from_seed_and_epoch_alone(data):
    recipe = quick(train_images=96)
    first, again, other = (training.Batches(data, recipe, seed) for seed in (1, 1, 2))
    for index in (2, 0, 1):  # in any order
        for one, two in zip(first[index], again[index]):
            np.testing.assert_array_equal(one, two)
    assert np.any(first[0][0] != other[0][0])
    first.start_epoch(1)
    later = training.Batches(data, recipe, 1, epoch=1)
    np.testing.assert_array_equal(first[0][0], later[0][0])
    assert np.any(later[0][0] != again[0][0])


def test_an_epoch_holds_each_chosen_image_once(data):
    batches = training.Batches(data, quick(augmentation="none"), seed=4)
    assert len(batches) == 5
    seen = np.concatenate([batches[i][0] for i in range(len(batches))])
    expected = data.prepare(data.train.images)
    key = lambda images: sorted(image.tobytes() for image in images)  # noqa: E731
    assert key(seen) == key(expected)


def test_digits_are_never_mirrored_and_labels_stay_with_their_images(data):
    batches = training.Batches(data, quick(), seed=0)
    images, labels = batches[0]
    originals = data.prepare(data.train.images)
    padded = np.pad(originals, ((0, 0), (4, 4), (4, 4), (0, 0)))
    for image, label in zip(images[:8], labels[:8]):
        matches = [
            row for row, top, left in np.ndindex(len(padded), 9, 9)
            if np.array_equal(padded[row, top : top + 32, left : left + 32], image)
        ]  # fmt: skip
        assert len(matches) == 1 and data.train.labels[matches[0]] == label


def test_the_student_projects_augmentation_mirrors_what_may_be_mirrored(data):
    rng, marked = np.random.default_rng, np.zeros((50, 32, 32, 1), "float32")
    marked[:, :, :16] = 1  # the left half
    for mirror in (True, False):
        made = datasets.rotate_shift_mirror(marked, rng(0), degrees=0, shift=0, mirror=mirror)
        assert bool((made[:, 16, 4, 0] == 0).any()) == mirror
    batches = training.Batches(data, quick(augmentation="rotate_shift_mirror"))
    rows, drawn = batches.draw(0)
    plain = datasets.rotate_shift_mirror(data.prepare(data.train.images[rows]), drawn, mirror=False)
    np.testing.assert_array_equal(batches[0][0], plain)


# --- Fit


def test_fit_lowers_the_loss_and_the_same_seed_repeats_it(data, tmp_path):
    runs = [training.fit(small_network(), data, quick(), tmp_path / str(i), seed=5, progress=False) for i in (1, 2)]
    assert without_times(runs[0]) == without_times(runs[1])
    assert runs[0][-1]["loss"] < runs[0][0]["loss"]
    assert [row["epoch"] for row in runs[0]] == [1, 2, 3]
    other = training.fit(small_network(), data, quick(), seed=6, progress=False)
    assert without_times(other) != without_times(runs[0])


class Killed(Exception):
    pass


class _KillAt(keras.callbacks.Callback):
    """Stop in the middle of an epoch, as a kill would."""

    def __init__(self, epoch, batch):
        super().__init__()
        self.place, self.epoch = (epoch, batch), None

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.place:
            raise Killed


@pytest.mark.parametrize("schedule, dropout", [("one_cycle", 0), ("plateau", 0), ("one_cycle", 0.5)])
def test_a_run_cut_off_in_an_epoch_ends_as_if_undisturbed(data, tmp_path, schedule, dropout):
    recipe = quick(schedule=schedule)
    whole_model, model = small_network(dropout=dropout), small_network(dropout=dropout)
    whole = training.fit(whole_model, data, recipe, tmp_path / "whole", seed=5, progress=False)

    with pytest.raises(Killed):
        training.fit(model, data, recipe, tmp_path / "cut", seed=5, progress=False, callbacks=[_KillAt(1, 2)])
    assert (tmp_path / "cut" / "history.csv").read_text().count("\n") == 2  # header and the one finished epoch

    again = small_network(dropout=dropout)
    again.set_weights([np.zeros_like(weight) for weight in again.get_weights()])  # all comes from the checkpoint
    resumed = training.fit(again, data, recipe, tmp_path / "cut", seed=5, progress=False)
    assert without_times(resumed) == without_times(whole)
    for one, two in zip(again.get_weights(), whole_model.get_weights()):
        np.testing.assert_array_equal(one, two)


def test_a_finished_checkpoint_trains_no_further(data, tmp_path):
    first = training.fit(small_network(), data, quick(), tmp_path, seed=5, progress=False)
    model = small_network()
    assert training.fit(model, data, quick(), tmp_path, seed=5, progress=False) == first
    error = training.evaluate(model, data, data.validation)["error"]
    assert error == first[-1]["validation_error"]


def test_a_checkpoint_of_other_settings_is_refused(data, tmp_path):
    training.fit(small_network(), data, quick(epochs=1), tmp_path, seed=5, progress=False)
    with pytest.raises(ValueError, match="another run .*learning_rate: 0.1 there, 0.05 now"):
        training.fit(small_network(), data, quick(epochs=1, learning_rate=0.05), tmp_path, seed=5, progress=False)
    with pytest.raises(ValueError, match="seed: 5 there, 6 now"):
        training.fit(small_network(), data, quick(epochs=1), tmp_path, seed=6, progress=False)
    noisy = datasets.with_label_noise(data, 0.3, seed=0)
    with pytest.raises(ValueError, match="labels: .* there, .* now"):
        training.fit(small_network(), noisy, quick(epochs=1), tmp_path, seed=5, progress=False)


def test_settings_are_compared_as_they_are_read_again(data, tmp_path):
    settings = {"modules": (1, 1, 1), "lr": 0.5}
    for _ in range(2):  # the second finds the checkpoint of the first
        training.fit(small_network(), data, quick(epochs=1), tmp_path, settings=settings, progress=False)
    with pytest.raises(TypeError, match="not JSON serializable"):  # before the first epoch, not after it
        training.fit(small_network(), data, quick(), tmp_path / "other", settings={"a": {1}}, progress=False)
    assert not (tmp_path / "other" / "history.csv").exists()


def test_the_network_has_the_precision_of_the_recipe(data):
    with pytest.raises(ValueError, match="computes in float32 and the recipe asks for mixed_bfloat16; call keras.con"):
        training.fit(small_network(), data, quick(precision="mixed_bfloat16"), progress=False)


def test_a_damaged_checkpoint_is_kept_aside_and_the_run_begins_anew(data, tmp_path):
    model = small_network()
    begun = model.get_weights()
    first = training.fit(model, data, quick(epochs=1), tmp_path, seed=5, progress=False)
    state = tmp_path / "checkpoint" / "state.json"
    weights = tmp_path / "checkpoint" / json.loads(state.read_text())["weights"]
    weights.write_bytes(weights.read_bytes()[:-100])
    for number, damage in ((1, "do not match their checksum"), (2, "cannot be read")):
        again = small_network()
        again.set_weights(begun)
        with pytest.warns(UserWarning, match=f"{damage}.*checkpoint-damaged-{number}; .*first epoch"):
            found = training.fit(again, data, quick(epochs=1), tmp_path, seed=5, progress=False)
        assert without_times(found) == without_times(first)
        assert (tmp_path / f"checkpoint-damaged-{number}" / "state.json").exists()
        state.write_text("{")


def test_a_checkpoint_that_cannot_be_read_now_is_left_where_it_is(data, tmp_path, monkeypatch):
    training.fit(small_network(), data, quick(epochs=1), tmp_path, seed=5, progress=False)
    before = {path.name: path.read_bytes() for path in (tmp_path / "checkpoint").iterdir()}

    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(training.checkpoint, "file_hash", refused)
    with pytest.raises(PermissionError, match="Permission denied: .*epoch-0001.weights.h5"):
        training.fit(small_network(), data, quick(epochs=1), tmp_path, seed=5, progress=False)
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "checkpoint").iterdir()}


@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")  # by Keras, before the error
def test_a_checkpoint_of_another_network_of_that_name_is_named(data, tmp_path):
    training.fit(small_network(), data, quick(epochs=1), tmp_path, progress=False)
    folder = tmp_path / "checkpoint"
    other = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    files.save_weights(other, folder / state["weights"])
    digest = hashlib.sha256((folder / state["weights"]).read_bytes()).hexdigest()
    state |= {"weights_sha256": digest, "best_sha256": digest}
    (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")
    with pytest.raises(ValueError, match="epoch-0001.weights.h5 does not hold the weights of this"):
        training.fit(small_network(), data, quick(epochs=1), tmp_path, progress=False)
    (folder / "state.json").write_text(json.dumps({**state, "history": 5}), encoding="utf-8")
    with pytest.warns(UserWarning, match="cannot be read"):
        training.fit(small_network(), data, quick(epochs=1), tmp_path, progress=False)


def test_what_cannot_be_trained_is_refused_before_anything_is_written(data, tmp_path):
    (tmp_path / "record.json").touch()
    with pytest.raises(ValueError, match="holds a finished run"):
        training.fit(small_network(), data, quick(), tmp_path, progress=False)
    assert os.listdir(tmp_path) == ["record.json"]
    with pytest.raises(ValueError, match="small has 5 outputs; cluttered_digits has 10 classes"):
        training.fit(small_network(5), data, quick(), progress=False)
    for seed in (-1, 1.5, True):
        with pytest.raises(ValueError, match=f"seed must be a whole number of at least 0; received {seed}"):
            training.fit(small_network(), data, quick(), seed=seed, progress=False)
    for wrong in ({"devices": 99}, {"recipe": quick(batch_size=512, train_images=512)}, {"output_dir": 5}):
        with pytest.raises(ValueError, match="devices|batch_size|output_dir"):
            training.fit(small_network(), data, **{"recipe": quick(), "output_dir": tmp_path / "new", **wrong})
    assert os.listdir(tmp_path) == ["record.json"]


def test_a_run_that_diverges_says_so(data):
    with pytest.raises(FloatingPointError, match="diverged in epoch 1.*learning_rate below 1e") as stopped:
        training.fit(small_network(), data, quick(learning_rate=1e30, schedule="constant"), progress=False)
    assert stopped.value.history == []


def test_a_validation_loss_that_is_no_number_stops_a_run_and_the_epochs_before_it_are_kept(data):
    class Break(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.epoch == 1 and batch == 4:  # the last one: the training loss was taken before
                classifier = self.model.layers[-1]
                classifier.bias.assign(np.full(10, np.inf, "float32"))

        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

    with np.errstate(invalid="ignore"), pytest.raises(training.Diverged, match="epoch 2: the validation loss") as stop:
        training.fit(small_network(), data, quick(), progress=False, callbacks=[Break()])
    assert [row["epoch"] for row in stop.value.history] == [1]


def test_plateau_cuts_the_rate_after_ten_epochs_stops_after_twenty_and_trains_no_further(data, tmp_path):
    """Without batch normalisation, at a rate that rounding swallows, nothing improves after the first epoch."""

    def still():
        keras.utils.set_random_seed(0)
        parts = [keras.layers.AveragePooling2D(8), keras.layers.Flatten(), keras.layers.Dense(10)]
        return keras.Sequential([keras.Input((32, 32, 3)), *parts], name="still")

    recipe = quick(schedule="plateau", learning_rate=1e-20, epochs=60)
    first = training.fit(still(), data, recipe, tmp_path, progress=False)
    rates = [row["learning_rate"] for row in first]
    assert rates == pytest.approx([1e-20] * 11 + [0.75e-20] * 10, rel=1e-5, abs=0)
    assert training.fit(still(), data, recipe, tmp_path, progress=False) == first


def test_the_test_errors_are_those_of_both_epochs_and_leave_the_last_weights_in_place(data, tmp_path, monkeypatch):
    model, errors = small_network(), iter([10.0, 20.0, 30.0])  # the first epoch is the best
    monkeypatch.setattr(training.fitting, "evaluate", lambda *words: {"loss": 1.0, "error": next(errors)})
    history = training.fit(model, data, quick(), tmp_path, seed=1, progress=False)
    before = [weight.copy() for weight in model.get_weights()]
    with pytest.raises(ValueError, match="output_dir must be a path; received None"):
        training.test_errors(model, data, history, None)
    for elsewhere in (history[:2], history[:2] + [history[2] | {"loss": 0.5}]):  # of a run in another folder
        with pytest.raises(ValueError, match="output_dir must hold the checkpoint of this history's run"):
            training.test_errors(model, data, elsewhere, tmp_path)
    with pytest.raises(ValueError, match="output_dir must hold the checkpoint .*nothing"):
        training.test_errors(model, data, history, tmp_path / "nothing")
    found = training.test_errors(model, data, history, tmp_path)
    for one, two in zip(before, model.get_weights()):
        np.testing.assert_array_equal(one, two)
    assert found["last_epoch"] == {"epoch": 3, **training.evaluate(model, data, data.test)}
    model.load_weights(tmp_path / "checkpoint" / "epoch-0001.weights.h5")
    assert found["chosen_on_validation"] == {"epoch": 1, **training.evaluate(model, data, data.test)}
    assert found["chosen_on_validation"]["loss"] != found["last_epoch"]["loss"]


def test_evaluate_counts_wrong_answers(data):
    model = small_network()
    training.compile_model(model, quick(), 10)
    answers = model.predict(data.prepare(data.test.images), verbose=0).argmax(axis=-1)
    expected = 100 * np.mean(answers != data.test.labels)
    assert training.evaluate(model, data, data.test, batch_size=50)["error"] == pytest.approx(expected, abs=1e-3)
    for outputs in (9, 11):
        with pytest.raises(ValueError, match=f"small has {outputs} outputs; cluttered_digits has 10 classes"):
            training.evaluate(small_network(outputs), data, data.test)


def test_the_home_folder_is_meant_by_its_sign(data, tmp_path, monkeypatch):
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    model = small_network()
    history = training.fit(model, data, quick(epochs=1), "~/run", progress=False)
    training.test_errors(model, data, history, "~/run")
    training.finish(model, history, "~/run")
    training.drop_checkpoint("~/run")
    assert sorted(os.listdir(tmp_path / "run")) == ["history.csv", "model.weights.h5"]


def test_a_batch_larger_than_the_data_is_refused(data):
    with pytest.raises(ValueError, match="batch_size 512 is more than the 160 training images"):
        training.Batches(data, training.recipe("full", batch_size=512))


# --- Several devices; that they learn what one learns is in test_devices.py


def test_more_devices_than_there_are_are_refused_with_their_number(data):
    there = len(keras.distribution.list_devices())
    recipe = quick(batch_size=2 * (there + 1))
    message = rf"at most {there}, as many as there are here \(.*:0.*\); received {there + 1}"
    with pytest.raises(ValueError, match=message):
        training.fit(small_network(), data, recipe, devices=there + 1)


def test_pytorch_trains_on_one_device(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    assert training.check_devices(1, quick()) == []
    with pytest.raises(ValueError, match="devices must be 1 on PyTorch; received 2 .*tensorflow and jax"):
        training.check_devices(2, quick())


# --- Speed


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's graph optimiser")
def test_of_the_graph_optimiser_only_the_remapper_is_on_in_training(data):
    """Others add up gradients in the order in which they are ready, and a seed fixes no run (benchmarks/repeat.py)."""
    import tensorflow as tf

    during, read = [], tf.config.optimizer.get_experimental_options
    look = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: during.append(read()))
    before = read()
    training.fit(small_network(), data, quick(epochs=1), progress=False, callbacks=[look])
    assert len(during) == 5 and all(options["remapping"] for options in during)
    passes = {name for name in during[0] if "optimi" in name or name.endswith("folding") or "selector" in name}
    passes -= {"disable_meta_optimizer"}
    assert len(passes) > 6 and not any(options[name] for options in during for name in passes)
    after = read()
    assert {name: after[name] for name in before} == before and all(after[name] for name in passes)


def test_smoothed_labels_are_shared_with_every_class(data, tmp_path):
    """Szegedy et al. 2016: the truth gets 1 - s + s / K, every other class s / K."""
    model = training.compile_model(small_network(), quick(label_smoothing=0.3), 5)
    logits, labels = np.array([[2.0, -1.0, 0.5], [0.0, 1.0, 3.0]], "float32"), np.array([0, 1])
    log_shares = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    wanted = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]])
    found = float(np.mean(keras.ops.convert_to_numpy(model.loss(labels, logits))))
    assert found == pytest.approx(-(wanted * log_shares).sum(axis=1).mean(), rel=1e-5)  # float32
    network = small_network()
    history = training.fit(network, data, quick(epochs=4, label_smoothing=0.3), seed=5, progress=False)
    assert history[-1]["loss"] < history[0]["loss"]
    network.save(tmp_path / "network.keras")
    again = keras.saving.load_model(tmp_path / "network.keras")
    assert float(again.loss(labels, logits)) == pytest.approx(float(network.loss(labels, logits)))


def test_the_progress_line_holds_up_no_step(data, monkeypatch, capsys):
    """Else a GPU would stand still while its last numbers travel to the line. (Only on JAX does Keras allow it.)"""
    threads, read = [], training.Progress.on_train_batch_end

    def remember(self, batch, logs=None):
        threads.append(threading.current_thread())
        read(self, batch, logs)

    monkeypatch.setattr(training.Progress, "on_train_batch_end", remember)
    training.fit(small_network(), data, quick(epochs=2))
    assert len(threads) == 10
    assert (threading.main_thread() in threads) == (keras.backend.backend() != "jax")
    assert re.search(r"epoch 1/2 \[#+\.*\] \d/5  loss \d\.\d{3}  accuracy \d\.\d{3}  about", capsys.readouterr().out)


@on_jax
@pytest.mark.parametrize("mirrors", [True, False])
@pytest.mark.parametrize(
    "changes", [{}, {"crop_padding": 2}, {"crop_padding": 0}, {"augmentation": "none"}, {"train_images": 96}]
)
def test_batches_made_on_the_device_are_those_of_the_processor(data, changes, mirrors):
    data = dataclasses.replace(data, name="other" if mirrors else data.name)
    assert data.mirrors == mirrors
    batches = training.Batches(data, quick(**changes), seed=3)
    fed = training.devices.feed(batches)
    for epoch in (0, 2):
        batches.start_epoch(epoch)
        for index in (2, 0):
            for there, here in zip(fed[index], batches[index], strict=True):
                assert not isinstance(there, np.ndarray)
                np.testing.assert_array_equal(np.asarray(there), here)


@on_jax
def test_what_a_device_cannot_make_or_keep_comes_from_the_processor(data, monkeypatch):
    turned = training.Batches(data, quick(augmentation="rotate_shift_mirror"))
    assert training.devices.feed(turned) is turned
    monkeypatch.setattr(training.devices, "_MOST_ON_DEVICE", data.train.images.nbytes - 1)
    batches = training.Batches(data, quick())
    assert training.devices.feed(batches) is batches


@pytest.mark.slow
def test_training_passes_its_tests_on_jax():
    there = [str(Path(__file__).with_name(f"test_{name}.py")) for name in ("training", "recipes", "parameters")]
    command = [sys.executable, "-m", "pytest", "-rp", "-p", "no:cacheprovider", *there]
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert re.search("^PASSED .*made_on_the_device", done.stdout, re.M)

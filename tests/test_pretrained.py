"""Trained weights: how they are kept, what is refused, and whether those that ship do what their records say."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from runs import HEADS

from ranet_lib import datasets, masks, models, runs, training
from ranet_lib.datasets import cifar


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """The folder of the weights that ship, moved to where a test may write, with one trained network in it."""
    monkeypatch.setattr(runs.pretrained, "PRETRAINED", tmp_path)
    keras.utils.set_random_seed(4)
    options = {"width": 0.5, "learning": "naive"}
    model = models.create_model("attention_tiny", 5, (28, 40, 3), **options)
    described = {"name": "attention_tiny", "num_classes": 5, "input_shape": [28, 40, 3], "options": options}
    name = runs.save_pretrained(model, {"model": described, "dataset": {"name": "digits"}}, tmp_path)
    return model, name, tmp_path


def test_trained_weights_come_back_as_float16(trained):
    model, name, folder = trained
    assert runs.list_pretrained() == [name] == ["attention_tiny-digits"]
    loaded = runs.load_pretrained(name)
    assert loaded.input_shape == model.input_shape
    for one, two in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two.astype("float16").astype("float32"))
    assert runs.pretrained_record(name)["dataset"] == {"name": "digits"}
    assert (folder / f"{name}.npz").stat().st_size < 2.2 * model.count_params()


def test_damaged_or_foreign_weights_are_refused(trained):
    model, name, folder = trained
    with pytest.raises(ValueError, match="no trained weights of the name 'attention_57'; there are: attention_tiny-"):
        runs.load_pretrained("attention_57")
    other = models.create_model("attention_tiny", 5, width=0.5, mask_branch="local")
    described = runs.pretrained_record(name)
    runs.save_pretrained(other, described, folder)  # says naive encoder-decoder, holds a local one
    with pytest.raises(ValueError, match="are not those of attention_tiny"):
        runs.load_pretrained(name)
    file = folder / f"{name}.npz"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="do not match their checksum"):
        runs.load_pretrained(name)


class Trap:
    """Unpickled, it leaves a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_crafted_file_runs_no_code(trained, tmp_path):
    """All names right, the checksum right, and one array a pickled object: it is refused before it is unpickled."""
    _, name, folder = trained
    file, about = folder / f"{name}.npz", folder / f"{name}.json"
    arrays = dict(np.load(file)) | {"stem/kernel": np.array([Trap(tmp_path / "sprung")], dtype=object)}
    np.savez(file, **arrays)
    checksum = hashlib.sha256(file.read_bytes()).hexdigest()
    about.write_text(json.dumps(json.loads(about.read_text()) | {"sha256": checksum}))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        runs.load_pretrained(name)
    assert not (tmp_path / "sprung").exists()
    np.load(file, allow_pickle=True)["stem/kernel"]
    assert (tmp_path / "sprung").exists()  # the trap does work


def test_weights_that_float16_cannot_hold_are_not_written(trained):
    model, name, folder = trained
    before = (folder / f"{name}.npz").read_bytes()
    model.get_layer("head_bn").moving_variance.assign(np.full(model.get_layer("head_bn").moving_variance.shape, 1e6))
    with pytest.raises(ValueError, match="head_bn/moving_variance has values up to 1e.06, which float16 cannot hold"):
        runs.save_pretrained(model, {"model": {"name": "attention_tiny"}, "dataset": {"name": "digits"}}, folder)
    assert (folder / f"{name}.npz").read_bytes() == before


@pytest.mark.parametrize("name", ["../outside", "folder:/home/me/photos", "a\\b", ""])
def test_weights_stay_in_their_folder(name, tmp_path):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    record = {"model": {"name": name}, "dataset": {"name": name}}
    with pytest.raises(ValueError, match="cannot name a file"):
        runs.save_pretrained(model, record, tmp_path / "a" / "weights")
    assert not list(tmp_path.rglob("*"))


def near(logits):
    """Tolerance: another processor, backend or version sums in another order, over some hundred layers."""
    return pytest.approx(logits, rel=1e-2, abs=2e-2)


@pytest.mark.parametrize("name", runs.list_pretrained())
def test_shipped_weights_give_their_recorded_logits(name):
    recorded = np.array(runs.pretrained._about(name)["logits"])
    network = runs.load_pretrained(name)
    assert runs.pretrained._embedded_logits(network) == near(recorded)
    for weight in network.weights:  # one wrong weight is seen
        if weight.path.endswith("stage_1_unit_1/conv_2/kernel"):
            weight.assign(weight * 0.9)
    assert runs.pretrained._embedded_logits(network) != near(recorded)


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """The folder of the official test images of CIFAR-10 and CIFAR-100, made once."""
    if not HEADS.exists():
        pytest.skip("needs CIFAR beside the project")
    folder = tmp_path_factory.mktemp("official")
    subprocess.run([sys.executable, HEADS, folder, "--test"], check=True)
    return folder


def official_test(recorded, folder):
    """The data set that a record tells of, with the official test images from `folder` as each of its splits."""
    layout = cifar._CIFAR[recorded["name"]][0]
    num_classes = cifar.CLASSES[recorded["name"]]
    split = cifar._parse_batch((folder / layout.folder / layout.files[-2]).read_bytes(), layout, num_classes)
    names, fingerprint = tuple(map(str, range(num_classes))), recorded["fingerprint"]
    data = datasets.Dataset(recorded["name"], split, split, split, names, fingerprint, "official")
    vars(data)["_statistics"] = np.float32(recorded["mean"]), np.float32(recorded["std"])
    return data


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_official_test_images_are_found_without_the_others(name, official):
    statistics = {"mean": [125.5, 123.0, 114.0], "std": [63.0, 62.0, 66.5]}
    data = official_test({"name": name, "fingerprint": "sha256:0", **statistics}, official)
    assert data.test.images.shape == (10_000, 32, 32, 3)
    assert np.bincount(data.test.labels).tolist() == [10_000 // data.num_classes] * data.num_classes
    black = data.prepare(np.zeros((1, 1, 1, 3)))
    assert black.ravel() == near(-np.divide(statistics["mean"], statistics["std"]))


def shipped():
    """The names of the shipped weights; those of CIFAR wait for the slow tests, as unpacking it takes a while."""
    for name in runs.list_pretrained():
        embedded = runs.pretrained_record(name)["dataset"]["copy"] == "embedded"
        yield pytest.param(name, marks=[] if embedded else pytest.mark.slow)


def assert_equal_but_for_rounding(network, data, record):
    """Image by image: each processor rounds sums of 16 bits in its own way, to as many right answers as wrong ones."""
    answers = network.predict(data.prepare(data.test.images), batch_size=250, verbose=0).argmax(axis=1)
    labels, recorded = runs.answers.of_record(record)
    np.testing.assert_array_equal(labels, data.test.labels)
    other = int((answers != recorded).sum())
    assert other < 0.05 * len(labels)  # 0.2% for 10 classes and 2.6% for 100, from one AMD processor to another
    assert abs(int((answers == labels).sum()) - int((recorded == labels).sum())) <= 4 * other**0.5  # 4 sigma of chance


@pytest.mark.parametrize("name", list(shipped()))
def test_shipped_weights_reproduce_what_was_recorded_of_them(name, request):
    record = runs.pretrained_record(name)
    recorded = record["dataset"]
    if recorded["copy"] == "official":
        data = official_test(recorded, request.getfixturevalue("official"))
    else:
        data = datasets.load_dataset(recorded["name"], seed=record["seed"])
        assert data.fingerprint == recorded["fingerprint"]
    trained_in = record["recipe"]["precision"]
    for precision in dict.fromkeys((trained_in, "float32")):  # the last is looked at again below
        keras.config.set_dtype_policy(precision)
        try:
            network = runs.load_pretrained(name)
        finally:
            keras.config.set_dtype_policy("float32")
        if precision != "float32":
            assert_equal_but_for_rounding(network, data, record)
    error, half = training.evaluate(network, data, data.test)["error"], 0.1  # what half precision may cost, see ship.py
    in_float32, by_record = runs.pretrained._about(name)["float32_error"], record["test"]["last_epoch"]["error"]
    assert in_float32 == pytest.approx(by_record, abs=half)
    assert trained_in != "float32" or error == pytest.approx(by_record, abs=half)
    assert error == pytest.approx(in_float32, abs=half)
    if "localization" in record:
        scores, kept = masks.localization(network, data), record["localization"]
        assert scores["modules"] == pytest.approx(kept["modules"], abs=0.002)
        assert {**scores, "modules": None} == {**kept, "modules": None}


@pytest.mark.parametrize("name", runs.list_pretrained())
def test_shipped_weights_come_from_official_or_embedded_images_and_those_of_cifar_keep_their_answers(name):
    record = runs.pretrained_record(name)
    assert record["dataset"]["copy"] == ("official" if "cifar" in name else "embedded")
    assert "cifar" not in name or runs.answers.of_record(record) is not None


def test_what_the_book_says_of_masks_on_cifar_is_of_the_weights_that_ship():
    """`look.py` runs again when other weights ship: else pages would tell of a network that nobody has any more."""
    looks = sorted((runs.book_folder() / "results" / "looks").glob("*.json"))
    assert looks
    for path in looks:
        weights = (runs.PRETRAINED / f"{path.stem}.npz").read_bytes()
        assert json.loads(path.read_text(encoding="utf-8"))["weights"] == hashlib.sha256(weights).hexdigest()


def test_every_run_on_cifar_in_the_book_is_on_the_official_files():
    records = runs.read_records(runs.book_folder() / "results")
    trained_on = {name: record["dataset"] for name, record in records.items()}
    copies = {name: data["copy"] for name, data in trained_on.items() if "cifar" in data["name"]}
    assert copies and set(copies.values()) == {"official"}, copies

"""Weights on their way into the package: what stands in the way is said in a line."""

import json
import shutil
from types import SimpleNamespace

import keras
import look
import numpy as np
import pytest
import ship
from runs import ROOT

from ranet_lib import datasets, runs

EXPERIMENTS = ROOT / "book" / "experiments"


@pytest.mark.parametrize("change, stays", [(1.0, True), (0.0, True), (-1.0, False)])
def test_only_better_weights_replace_those_there(tmp_path, capsys, change, stays):
    name, package = "attention_tiny-cluttered_digits", tmp_path / "package"
    package.mkdir()
    for ending in (".json", ".npz"):
        shutil.copy(runs.PRETRAINED / f"{name}{ending}", package)
    before = {path.name: path.read_bytes() for path in package.iterdir()}
    record = runs.read_record(ROOT / "book" / "results" / f"{name}-laptop-seed0-0af8eb5b.json")
    there = record["history"][-1]["validation_error"]
    record["history"][-1]["validation_error"] += change
    (tmp_path / "record.json").write_text(json.dumps(record), encoding="utf-8")
    assert ship.main([str(tmp_path), "--folder", str(package)]) == 1  # the better run has no weights
    said = f"{name} stays: its validation error is {there}%, that of {str(tmp_path)!r} is {there + change}%\n"
    assert (capsys.readouterr().err == said) == stays
    assert before == {path.name: path.read_bytes() for path in package.iterdir()}


def test_masks_are_exchanged_within_a_class_and_the_networks_own_change_no_answer():
    name = "attention_tiny-cluttered_digits"
    mask = np.random.default_rng(0).normal(size=(6, 2, 2, 3)).astype("float32")
    swapped = keras.ops.convert_to_numpy(look.same_class(mask, np.array([0, 0, 1, 1, 1, 2])))
    np.testing.assert_array_equal(swapped, mask[[1, 0, 4, 2, 3, 5]])
    network, data = runs.load_pretrained(name), datasets.load_dataset("cluttered_digits")
    images, labels = data.prepare(data.validation.images[:100]), data.validation.labels[:100]
    plain = network.predict_on_batch(images).argmax(axis=-1)
    assert (look.answers_with(network, look.flat, [], images, labels) == plain).mean() >= 0.99  # but for a tie
    assert (look.answers_with(network, look.swapped, [0, 1, 2], images, labels) != plain).any()


def test_a_look_is_replaced_when_the_weights_are_others_and_only_then(tmp_path, capsys):
    name = "attention_56-cifar10"
    words = [name, "--folder", str(tmp_path), "--data-dir", str(tmp_path / "missing")]
    shutil.copy(look.LOOKS / f"{name}.json", tmp_path)
    for message in ("is there already, for these weights", "there is no folder"):
        with pytest.raises(SystemExit):
            look.main(words)
        assert message in capsys.readouterr().err
        (tmp_path / f"{name}.json").write_text('{"weights": "of another network"}', encoding="utf-8")


def test_shares_of_a_mask_and_the_surest_mistakes():
    rng = np.random.default_rng(0)
    names = ("share_of_channel", "share_of_channel_and_place", "share_of_image")
    channels = np.broadcast_to(rng.normal(size=(1, 1, 1, 6)), (40, 4, 4, 6))
    places = np.broadcast_to(rng.normal(size=(1, 4, 4, 6)), (40, 4, 4, 6))
    assert [look.described_mask(channels)[name] for name in names] == pytest.approx([1, 1, 0])
    assert [look.described_mask(places)[name] for name in names[1:]] == pytest.approx([1, 0])
    logits = np.array([[9.0, 0], [0, 3], [5, 0], [0, 8]])
    network = SimpleNamespace(predict=lambda *words, **more: logits)
    found = look.mistakes(network, None, np.array([0, 0, 1, 1]), ("cat", "dog"))
    assert (found["wrong"], found["right_and_surer_than_99"]) == (2, 2)
    assert [one["image"] for one in found["surest"]] == [2, 1]


def test_a_folder_without_a_finished_run_is_refused(tmp_path, capsys):
    assert ship.main([str(tmp_path)]) == 1
    message = f"RUN must be the folder of a finished run; {str(tmp_path)!r} holds no record.json\n"
    assert capsys.readouterr().err == message


def test_a_look_without_its_data_says_what_is_missing(tmp_path, capsys):
    missing = tmp_path / "missing"
    with pytest.raises(SystemExit) as ended:
        look.main(["attention_tiny-cifar10", "--data-dir", str(missing), "--folder", str(tmp_path)])
    assert ended.value.code == 2
    assert f"there is no folder {str(missing)!r}, which data_dir names" in capsys.readouterr().err

"""Answers in records: packed without loss, and refused where they do not fit their record."""

import base64
import copy
import zlib

import numpy as np
import pytest

from ranet_lib import datasets, models, runs, training


@pytest.mark.parametrize("num_classes", [2, 10, 256, 257, 65_536])
def test_what_is_packed_comes_back(num_classes):
    classes = np.random.default_rng(0).integers(0, num_classes, 1_000)
    classes[:2] = 0, num_classes - 1
    text = runs.answers.pack(classes, num_classes)
    assert (runs.answers.unpack(text, 1_000, num_classes) == classes).all()
    nothing = runs.answers.pack([], num_classes)
    assert nothing and not len(runs.answers.unpack(nothing, 0, num_classes))


@pytest.mark.parametrize("classes", [[0, 10], [-1, 3]])
def test_a_class_that_is_none_is_refused(classes):
    with pytest.raises(ValueError, match="classes run from .*; with 10 classes, 0 to 9 is allowed"):
        runs.answers.pack(classes, 10)
    with pytest.raises(ValueError, match="num_classes must be at most 65536, for answers to be kept; received 70000"):
        runs.answers.pack([0], 70_000)
    with pytest.raises(ValueError, match="classes must be one row of whole numbers; got float64"):
        runs.answers.pack([3.7, 8.9], 10)


GOOD = runs.answers.pack([3, 8, 8, 0], 10)


@pytest.mark.parametrize(
    "text, message",
    [
        ("%%%%", "not packed classes"),
        (GOOD[:-4], "not packed classes"),
        (base64.b64encode(b"\3\10\10\0").decode(), "not packed classes"),
        (runs.answers.pack([3, 8, 8], 10), "not packed classes of 4 images"),
        (runs.answers.pack([3, 8, 8, 0, 0], 10), "not packed classes of 4 images"),
        (runs.answers.pack([3, 8, 8, 200], 256), "class 200 is not below 10"),
        (base64.b64encode(zlib.compress(bytes(4)) + b"more").decode(), "not packed classes of 4 images"),
        (base64.b64encode(zlib.compress(bytes(10**8))).decode(), "not packed classes of 4 images"),  # nor unpacked
    ],
)
def test_what_is_no_packed_text_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        runs.answers.unpack(text, 4, 10)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    data = datasets.load_dataset("cluttered_digits")
    recipe = training.recipe("smoke", epochs=1, label_smoothing=0.1)
    model = models.create_model("resnet_tiny", width=0.25)
    folder = tmp_path_factory.mktemp("run")
    history = training.fit(model, data, recipe, folder, progress=False)
    test = training.test_errors(model, data, history, folder)
    return model, data, recipe, history, test


def test_a_record_keeps_the_answer_to_each_test_image(run, tmp_path):
    model, data, _, _, _ = run
    runs.write_record(tmp_path / "record.json", runs.make_record(*run))
    labels, found = runs.answers.of_record(runs.read_record(tmp_path / "record.json"))
    assert (labels == data.test.labels).all()
    assert (found == model.predict(data.prepare(data.test.images), verbose=0).argmax(axis=1)).mean() > 0.999  # a tie


def test_a_record_without_answers_is_read_and_has_none(run):
    record = runs.make_record(*run)
    del record["test"]["answers"], record["test"]["labels"]
    assert runs.answers.of_record(runs.validate_record(record)) is None


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda test: test.pop("labels"), "'labels' is a dependency of 'answers'"),
        (lambda test: test.update(answers="no"), r"\$.test.answers or labels: not packed classes"),
        (lambda test: test.update(answers=test["labels"]), r"error: [\d.]+, but the answers have 0.0000"),
        (lambda test: test.update(answers=runs.answers.pack([1, 2], 10)), r"not packed classes of \d+ images"),
    ],
)
def test_answers_that_do_not_fit_their_record_are_refused(run, damage, message):
    record = copy.deepcopy(runs.make_record(*run))
    damage(record["test"])
    with pytest.raises(ValueError, match=message):
        runs.validate_record(record)

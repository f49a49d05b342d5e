"""Several devices in one run: the result is that of one device."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import spread

from ranet_lib import training

HERE = Path(__file__).parent
pytestmark = pytest.mark.slow

# How far the loss of an epoch may be from that of one device, relative to it. Sums in another order differ by 1e-7 of
# themselves after a step, and each of the 20 steps makes some of that larger, more of it in a deeper network: 1e-7 and
# 2e-5 were seen. With statistics of each device's part of a batch it is 7e-4 and 1e-3.
TOLERANCE = {"small": 1e-5, "attention_tiny": 1e-4}


@pytest.fixture(
    scope="module",
    params=[
        (backend, *rest)
        for backend in ("tensorflow", "jax")
        for rest in (("small", "1", "2", "killed"), ("attention_tiny", "1", "4"))
    ],
    ids="-".join,
)
def runs(request, tmp_path_factory):
    """The folder of the runs, the name of their network, and the runs' names: their numbers of devices."""
    backend, name, *names = request.param
    folder = tmp_path_factory.mktemp("spread")
    command = [sys.executable, HERE / "spread.py", backend, name, folder, *names]
    quick = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=quick)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, name, names


def history(folder):
    with open(folder / "history.csv", encoding="utf-8", newline="") as file:
        return [{key: float(value) for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def test_several_devices_learn_what_one_learns(runs):
    """The loss of each epoch, and a hundred times less exactly the moving averages, relative to the layer's largest."""
    folder, network, names = runs
    tolerance = TOLERANCE[network]
    alone, weights = history(folder / "1"), np.load(folder / "1" / "weights.npz")
    assert alone[1]["loss"] < alone[0]["loss"]
    for name in names[1:]:
        shared, found = history(folder / name), np.load(folder / name / "weights.npz")
        for one, other in zip(alone, shared, strict=True):
            assert other["loss"] == pytest.approx(one["loss"], rel=tolerance)
            assert other["validation_loss"] == pytest.approx(one["validation_loss"], rel=10 * tolerance)
            assert other["learning_rate"] == one["learning_rate"]
        for path in weights:
            if "moving" in path:
                allowed = 100 * tolerance * np.abs(weights[path]).max()
                np.testing.assert_allclose(found[path], weights[path], rtol=0, atol=allowed, err_msg=path)
        assert any(np.any(found[path] != weights[path]) for path in weights)  # it was not the same computation


def test_killed_on_two_devices_it_goes_on_and_ends_the_same(runs):
    folder, _, names = runs
    if "killed" not in names:
        pytest.skip("killed with the small network only")
    assert history(folder / "killed") == history(folder / "2")
    undisturbed, found = (np.load(folder / name / "weights.npz") for name in ("2", "killed"))
    for path in undisturbed:
        np.testing.assert_array_equal(found[path], undisturbed[path])


def test_weights_trained_on_several_devices_load_on_one(runs):
    folder, name, (_, several, *_) = runs
    model, dataset = spread.create(name), spread.data()
    model.load_weights(folder / several / "model.weights.h5")
    expected = np.load(folder / several / "weights.npz")
    found = training.evaluate(model, dataset, dataset.test)
    assert found["error"] == pytest.approx(float(expected["test_error"]), abs=1.0)  # one image of the hundred
    for weight, value in zip(model.weights, model.get_weights()):
        np.testing.assert_array_equal(value, expected[weight.path])

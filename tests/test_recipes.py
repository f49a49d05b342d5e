"""Recipes, and what they make of the learning rate and of a step."""

import keras
import numpy as np
import pytest
from test_training import small_network

from ranet_lib import datasets, training


def test_adams_decay_shrinks_kernels_and_nothing_else():
    recipe = training.recipe("first", schedule="constant", learning_rate=0.1)
    model = training.compile_model(small_network(), recipe, 100)
    weights = model.trainable_variables
    for weight in weights:
        weight.assign(keras.ops.ones(weight.shape))
    for _ in range(10):
        model.optimizer.apply([keras.ops.zeros(weight.shape) for weight in weights], weights)
    for weight in weights:
        expected = (1 - 0.1 * recipe.weight_decay) ** 10 if weight.name == "kernel" else 1.0
        np.testing.assert_allclose(keras.ops.convert_to_numpy(weight), expected, rtol=1e-5)


def test_the_full_profile_is_the_papers():
    recipe = training.recipe("full")
    assert (recipe.batch_size, recipe.learning_rate, recipe.weight_decay) == (64, 0.1, 1e-4)
    rate = training.learning_rate(recipe, 160_000)
    found = [float(rate(step)) for step in (0, 63_999, 64_001, 95_999, 96_001, 159_999)]
    np.testing.assert_allclose(found, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-5)


def test_the_full_profile_takes_the_papers_steps_on_what_is_left_of_cifar():
    """Of 50,000 images a tenth validates, and images left over after the last full batch of an epoch wait."""
    whole = np.zeros((50_000, 1, 1, 3), np.uint8), np.arange(50_000) % 10
    train, validation = datasets.splits.hold_out_tenth(*whole, seed=0)
    cifar = datasets.splits.make_dataset("cifar10", train, validation, validation, tuple("0123456789"), "unverified")
    recipe = training.recipe("full")
    steps = recipe.epochs * len(training.Batches(cifar, recipe))
    assert steps == pytest.approx(160_000, rel=0.005)
    rate = training.learning_rate(recipe, steps)
    assert [round(float(rate(step)), 6) for step in (63_000, 65_000, 95_000, 97_000)] == [0.1, 0.01, 0.01, 0.001]


def test_one_cycle_climbs_and_falls_to_zero():
    rate = training.learning_rate(training.recipe("laptop", learning_rate=0.1), 1000)
    rates = np.array([float(rate(step)) for step in range(0, 1001, 10)])
    top = rates.argmax()
    assert rates.max() == pytest.approx(0.1) and 15 <= top <= 25 and rates[0] < 0.01 and rates[-1] < 1e-6
    assert np.all(np.diff(rates[:top]) > 0) and np.all(np.diff(rates[top:]) < 1e-7)


@pytest.mark.parametrize("nesterov", [True, False])
def test_without_decay_a_step_is_that_of_keras(nesterov):
    generator = np.random.default_rng(0)
    start = generator.normal(size=(3, 4)).astype("float32")
    ours, theirs = keras.Variable(start), keras.Variable(start)
    optimizers = training.SGD(0.1, 0.9, nesterov), keras.optimizers.SGD(0.1, 0.9, nesterov)
    for _ in range(5):
        gradient = keras.ops.convert_to_tensor(generator.normal(size=(3, 4)).astype("float32"))
        for optimizer, weight in zip(optimizers, (ours, theirs), strict=True):
            optimizer.apply([gradient], [weight])
    np.testing.assert_allclose(*map(keras.ops.convert_to_numpy, (ours, theirs)), rtol=1e-6)
    assert np.abs(keras.ops.convert_to_numpy(ours) - start).min() > 1e-3


def test_weight_decay_is_added_to_the_gradient():
    recipe = training.recipe("full", schedule="constant", weight_decay=1e-3)
    model = small_network()
    training.compile_model(model, recipe, 100)
    kernel, gamma = model.layers[0].kernel, model.layers[1].gamma
    start, zeros = keras.ops.convert_to_numpy(kernel), [keras.ops.zeros(v.shape) for v in model.trainable_variables]
    expected, velocity = 1.0, 0.0
    for _ in range(300):
        model.optimizer.apply(zeros, model.trainable_variables)
        gradient = recipe.weight_decay * expected  # of the paper's penalty; the loss itself gives none here
        velocity = 0.9 * velocity - recipe.learning_rate * gradient
        expected += 0.9 * velocity - recipe.learning_rate * gradient  # Nesterov
    found = keras.ops.convert_to_numpy(kernel) / start
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert expected < 0.8
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(gamma), 1.0)


@pytest.mark.parametrize(
    "profile, changes, message",
    [
        ("laptp", {}, r"profile must be one of 'smoke', .*'full', 'source'; received 'laptp'"),
        ("smoke", {"label_smoothing": 1.0}, "label_smoothing must be a number at least 0 and below 1; received 1.0"),
        ("smoke", {"learning_rate": -0.1}, "learning_rate must be a number above 0; received -0.1"),
        ("smoke", {"learning_rate": float("nan")}, "received nan"),
        ("smoke", {"epochs": 0}, "epochs must be a whole number from 1 to 1000000; received 0"),
        ("smoke", {"epochs": 2.5}, "received 2.5"),
        ("smoke", {"batch_size": "64"}, "batch_size must be a whole number of at least 2; received '64'"),
        ("smoke", {"schedule": "cosine"}, "schedule must be one of"),
        ("smoke", {"momentum": 0.8}, "unknown field 'momentum'"),
    ],
)
def test_a_wrong_recipe_is_refused(profile, changes, message):
    with pytest.raises(ValueError, match=message):
        training.recipe(profile, **changes)

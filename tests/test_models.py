"""The networks: the paper's sizes, saving and loading, and what is refused."""

import functools

import keras
import numpy as np
import pytest

from ranet_lib import blocks, models


def images(count=2, size=32, seed=0):
    return np.random.default_rng(seed).normal(size=(count, size, size, 3)).astype("float32")


@functools.cache
def built(name, num_classes):
    """A network that several tests only look at."""
    return models.create_model(name, num_classes)


def outputs(model, batch):
    """Logits of a batch, without the seconds that compiling takes `predict`."""
    return keras.ops.convert_to_numpy(model(batch, training=False))


def trainable(model):
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


# Millions of trainable parameters and GFLOP (a multiply-add is 2) of the layout that fits the paper's printed sizes.
SIZES = [
    ("attention_92", 10, 1.84, 0.42),
    ("attention_92", 100, 1.86, 0.42),
    ("attention_56", 10, 1.03, 0.25),
    ("attention_236", 10, 5.08, 1.14),
    ("resnet_164", 10, 1.70, 0.50),
]


@pytest.mark.parametrize("name, classes, million, gflop", SIZES)
def test_parameters_and_flops_are_the_papers(name, classes, million, gflop):
    model = built(name, classes)
    assert trainable(model) / 1e6 == pytest.approx(million, abs=0.006)
    assert models.count_flops(model) / 1e9 == pytest.approx(gflop, abs=0.005)


@pytest.mark.parametrize("name, printed", [("attention_92", 1.9), ("attention_236", 5.1), ("resnet_164", 1.7)])
def test_with_100_classes_the_size_rounds_to_the_printed_one(name, printed):
    assert models.model_spec(name).printed_parameters == printed
    more_classes = 90 * (256 + 1)  # rows and biases of the classifier
    assert round((trainable(built(name, 10)) + more_classes) / 1e6, 1) == printed


@pytest.mark.parametrize("depth, modules", [(56, 1), (92, 2), (128, 3), (164, 4), (236, 6)])
def test_depth_is_36_m_plus_20(depth, modules):
    spec = models.model_spec(f"attention_{depth}")
    assert spec.modules == (modules,) * 3
    assert spec.weighted_layers == 36 * modules + 20 == depth


def test_weighted_layers_counts_what_is_built():
    """The longest path of convolutions through Attention-56's trunk, counted on the model itself."""
    model = built("attention_56", 10)
    trunk = [layer for layer in blocks.walk(model) if isinstance(layer, blocks.ResidualUnit)]
    masks = {
        id(unit)
        for layer in blocks.walk(model)
        if isinstance(layer, (blocks.MaskBranch, blocks.LocalMaskBranch))
        for unit in blocks.walk(layer)
    }
    on_trunk = [unit for unit in trunk if id(unit) not in masks]
    assert 2 + 3 * len(on_trunk) == 56
    assert models.model_spec("resnet_164").weighted_layers == 164
    assert models.model_spec("attention_452").weighted_layers == 452


def test_tiny_is_a_true_residual_attention_network():
    model = models.create_model("attention_tiny")
    modules = [layer for layer in blocks.walk(model) if isinstance(layer, blocks.AttentionModule)]
    assert len(modules) == 3 and len({module.filters for module in modules}) == 3
    assert all(module.learning == "residual" for module in modules)
    assert all(isinstance(module.mask, blocks.MaskBranch) for module in modules)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"learning": "naive", "mask_activation": "spatial", "shortcut": False},
        {"mask_branch": "local", "mask_activation": "channel", "width": 0.5},
    ],
)
def test_saved_and_loaded_it_gives_the_same_output(tmp_path, options):
    model = models.create_model("attention_tiny", 7, **options)
    expected = outputs(model, images())
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(outputs(again, images()), expected)
    model.save_weights(tmp_path / "model.weights.h5")
    fresh = models.create_model("attention_tiny", 7, **options)
    assert np.abs(outputs(fresh, images()) - expected).max() > 1e-3
    fresh.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(outputs(fresh, images()), expected)


def test_the_seed_decides_the_weights():
    made = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        made.append(outputs(models.create_model("attention_tiny"), images()))
    np.testing.assert_array_equal(made[0], made[1])
    assert np.abs(made[0] - made[2]).max() > 1e-3


def test_every_trainable_weight_learns():
    model = models.create_model("attention_tiny")
    before = [weight.copy() for weight in model.get_weights()]
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.train_on_batch(images(8), np.arange(8))
    still = [
        weight.path
        for old, new, weight in zip(before, model.get_weights(), model.weights)
        if weight.trainable and np.array_equal(old, new)
    ]
    assert still == []


@pytest.mark.parametrize("size", [28, 45])
def test_other_input_sizes(size):
    model = models.create_model("attention_tiny", 3, (size, size, 3))
    assert outputs(model, images(2, size)).shape == (2, 3)


@pytest.mark.parametrize("name", ["attention_56", "attention_236", "resnet_164"])
def test_the_summary_fits_on_a_screen(name):
    lines = []
    built(name, 10).summary(print_fn=lambda text, **_: lines.extend(text.split("\n")))
    assert any("stage_3" in line for line in lines)
    assert len(lines) <= 40 and max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        (["attention_57"], {}, "unknown model 'attention_57'.*did you mean 'attention_56'"),
        (["attention_56", 1], {}, "num_classes must be a whole number of at least 2; received 1"),
        (["attention_56"], {"lerning": "naive"}, "unknown option 'lerning'"),
        (["attention_56"], {"width": 0}, "width must be a number above 0; received 0"),
        (["attention_56"], {"shortcut": 1}, "shortcut must be one of True, False; received 1"),
        (["attention_56"], {"mask_activation": "softmax"}, "received 'softmax'"),
        (["resnet_164"], {"learning": "naive"}, "has no attention modules"),
        (["attention_56", 10, (32, 32)], {}, "input_shape must be"),
        (["attention_56", 10, (32, 0, 3)], {}, "received 0"),
        (["attention_56", 10, (4, 4, 3)], {}, "more often than it can"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        models.create_model(*arguments, **options)

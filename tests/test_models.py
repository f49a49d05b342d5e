"""The networks: the paper's sizes, saving and loading, and what is refused."""

import functools

import keras
import numpy as np
import pytest

from ranet_lib import blocks, counting, models, runs


def images(count=2, size=32, seed=0):
    return np.random.default_rng(seed).normal(size=(count, size, size, 3)).astype("float32")


def outputs(model, batch):
    """Logits of a batch, without the seconds that compiling takes `predict`."""
    return keras.ops.convert_to_numpy(model(batch, training=False))


# So much thinner that a test can afford to build and run them; the wiring is the same.
SMALL = {
    "attention_452": {"width": 0.25}, "attention_56_imagenet": {"width": 0.125},
    "attention_92_imagenet": {"width": 0.125}, "attentionnext_56_imagenet": {"width": 0.25},
    "source_attention_56": {"width": 0.125}, "source_attention_92": {"width": 0.125},
    "source_attention_92_cifar100": {"width": 0.0625},
}  # fmt: skip


# Deep or wide: looked at by `make test-slow`. The quick tests take one network of each kind.
QUICK = ["attention_tiny", "attention_56", "source_attention_56"]


def slow_unless_quick(names):
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


EVERY = slow_unless_quick(models.list_models())
WITH_ATTENTION = slow_unless_quick(name for name in models.list_models() if any(models.model_spec(name).modules))


@functools.cache
def small(name):
    """Every network for 7 classes, the wide and the deep ones with fewer channels, at its own input size."""
    return models.create_model(name, 7, **SMALL.get(name, {}))


# Millions of trainable parameters, GFLOP (a multiply-add is 2) and millions of activations of the layout that fits the
# paper's printed sizes, for 10 classes.
SIZES = [
    ("attention_56", 1.03, 0.25, 5.9),
    ("attention_92", 1.84, 0.42, 10.2),
    ("attention_128", 2.65, 0.60, 14.5),
    ("attention_164", 3.46, 0.78, 18.8),
    ("attention_236", 5.08, 1.14, 27.4),
    pytest.param("attention_452", 10.18, 1.97, 47.3, marks=pytest.mark.slow),
    ("resnet_164", 1.70, 0.50, 11.6),
]


@pytest.mark.parametrize("name, million, gflop, activations", SIZES)
def test_sizes_and_costs_are_those_that_fit_the_paper(name, million, gflop, activations):
    network = counting.describe(name)
    assert network["trainable"] / 1e6 == pytest.approx(million, abs=0.006)
    assert network["flops"] / 1e9 == pytest.approx(gflop, abs=0.005)
    assert network["activations"] / 1e6 == pytest.approx(activations, abs=0.05)


@pytest.mark.parametrize("name, printed", [("attention_92", 1.9), ("attention_236", 5.1), ("resnet_164", 1.7)])
def test_with_100_classes_the_size_rounds_to_the_printed_one(name, printed):
    network = counting.describe(name, 100)
    assert network["printed_parameters"] == printed == round(network["trainable"] / 1e6, 1)


# Numbers of all parameters, moving averages included, as the student project prints them.
SOURCE = [
    ("source_attention_56", 10, {}, 54_120_138),
    ("source_attention_56", 100, {}, 54_212_388),
    ("source_attention_56", 10, {"shortcut": False}, 52_000_842),
    ("source_attention_92", 10, {}, 97_902_794),
    ("source_attention_92_cifar100", 100, {}, 385_083_684),
]


@pytest.mark.parametrize("name, classes, options, printed", SOURCE)
def test_the_source_documents_networks_have_its_counts(name, classes, options, printed):
    network = counting.describe(name, classes, **options)
    assert network["parameters"] == printed
    assert network["printed_parameters"] == (None if options else printed / 1e6)


@pytest.mark.parametrize(
    "name, printed, authors_files, printed_flops",
    [("attention_56_imagenet", 31.9, 31.8, (6.2, 6.3)), ("attention_92_imagenet", 51.3, 52.5, (10.4,))],
)
def test_the_imagenet_networks_have_the_papers_size_and_cost(name, printed, authors_files, printed_flops):
    """Sizes as counted from the authors' own files, to their last digit; the paper's, printed, are within 3%."""
    network = counting.describe(name, 1000)
    assert round(network["trainable"] / 1e6, 1) == authors_files
    assert network["trainable"] / 1e6 == pytest.approx(printed, rel=0.03)
    multiply_adds = network["flops"] / 2e9
    assert min(abs(multiply_adds - value) for value in printed_flops) < 0.015 * multiply_adds
    assert network["layers"] == int(name.split("_")[1])


def test_attentionnext_costs_what_attention_56_costs():
    """ResNeXt's units: twice the inner width in 32 groups, at about the same size and cost."""
    plain, grouped = (counting.describe(f"{name}_56_imagenet", 1000) for name in ("attention", "attentionnext"))
    assert grouped["trainable"] == pytest.approx(plain["trainable"], rel=0.02)
    assert grouped["flops"] == pytest.approx(plain["flops"], rel=0.03)
    convolutions = [layer for layer in blocks.walk(small("attentionnext_56_imagenet")) if layer.name == "conv_2"]
    assert len(convolutions) > 20 and {conv.groups for conv in convolutions} == {32}


def test_what_has_no_weights_gets_none_later():
    """Keras keeps a list of variables to fill; a network that was only described must not come to life from it."""
    with counting.without_weights():
        model = models.create_model("attention_tiny")
    with keras.StatelessScope():
        pass
    assert model.weights and all(weight._value is None for weight in model.weights)


@pytest.mark.parametrize("name", EVERY)
def test_what_describe_counts_is_what_is_built(name):
    """`describe` allocates no weights; the same network with weights has the counts it says."""
    described, model = counting.describe(name, 7, **SMALL.get(name, {})), small(name)
    assert described["parameters"] == model.count_params()
    assert described["trainable"] == sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert described["flops"] == counting.count_flops(model)


def test_the_printed_numbers_are_those_of_the_network_as_printed():
    printed = counting.describe("attention_92")["printed_parameters"]
    assert printed == counting.describe("attention_92", 10, (32, 32, 3), learning="residual")["printed_parameters"] > 0
    assert counting.describe("attention_92", learning="naive")["printed_parameters"] is None
    assert counting.describe("attention_92", 10, (64, 64, 3))["printed_parameters"] is None


@pytest.mark.parametrize("name", WITH_ATTENTION)
def test_a_local_mask_branch_costs_the_network_the_same(name):
    flops = [counting.describe(name, mask_branch=branch)["flops"] for branch in blocks.MASK_BRANCHES]
    assert flops[1] == pytest.approx(flops[0], rel=0.02)


@pytest.mark.parametrize("depth, modules", [(56, 1), (92, 2), (128, 3), (164, 4), (236, 6)])
def test_depth_is_36_m_plus_20(depth, modules):
    spec = models.model_spec(f"attention_{depth}")
    assert spec.modules == (modules,) * 3
    assert spec.weighted_layers == 36 * modules + 20 == depth


def test_weighted_layers_counts_what_is_built():
    """The longest path of convolutions through Attention-56's trunk, counted on the model itself."""
    model = small("attention_56")
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
    runs.export_model(model, tmp_path / "new" / "model.keras")
    again = keras.saving.load_model(tmp_path / "new" / "model.keras")
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


@pytest.mark.parametrize("name", EVERY)
def test_every_trainable_weight_of_every_network_gets_a_gradient(name):
    tensorflow = pytest.importorskip("tensorflow")
    # ImageNet's networks at a quarter of the size: deep masks end at one pixel, as they do at 224.
    size = models.model_spec(name).input_shape[0] // (4 if "imagenet" in name else 1)
    model = models.create_model(name, 7, (size, size, 3), **SMALL.get(name, {}))
    with tensorflow.GradientTape() as tape:
        logits = model(images(4, size), training=True)
        loss = keras.ops.mean(keras.losses.sparse_categorical_crossentropy(np.arange(4), logits, from_logits=True))
    gradients = tape.gradient(loss, [weight.value for weight in model.trainable_weights])
    still = [
        weight.path
        for weight, gradient in zip(model.trainable_weights, gradients)
        if gradient is None or not np.abs(gradient).max() > 0
    ]
    assert still == []


# Each option at least once with each other, over several sizes; thin, so that it costs little.
COMBINATIONS = [
    ("attention_56", (28, 28), {"learning": "naive", "mask_activation": "channel", "modules": 2}),
    ("attention_56", (45, 31), {"mask_activation": "spatial", "shortcut": False, "mask_units": 2}),
    ("attention_56", (37, 64), {"mask_branch": "local", "pre_units": 0, "modules": [1, 0, 2]}),
    ("attention_tiny", (28, 29), {"pre_units": 2, "trunk_units": 3, "mask_units": 2, "dropout": 0.3}),
    ("source_attention_56", (31, 47), {"mask_activation": "channel", "dropout": 0}),
]
MORE_COMBINATIONS = [
    ("attention_92", (33, 33), {"learning": "naive", "mask_branch": "local", "mask_activation": "spatial"}),
    ("attention_56", (96, 100), {"mask_depth": [4, 3, 2], "trunk_units": 1, "mask_activation": "channel"}),
    ("attention_56_imagenet", (161, 97), {"learning": "naive", "mask_depth": 1, "shortcut": False}),
    ("attention_56_imagenet", (320, 320), {"mask_activation": "spatial", "pre_units": 2}),
    ("attentionnext_56_imagenet", (64, 64), {"mask_branch": "local", "shortcut": False}),
    ("source_attention_92", (28, 28), {"mask_branch": "local", "learning": "naive", "modules": 1}),
    ("resnet_164", (29, 30), {"dropout": 0.1}),
]
COMBINATIONS += [pytest.param(*case, marks=pytest.mark.slow) for case in MORE_COMBINATIONS]


@pytest.mark.parametrize("name, size, options", COMBINATIONS)
def test_options_and_sizes_combine(name, size, options):
    width = 0.25 if "next" in name else 0.125
    model = models.create_model(name, 3, (*size, 3), width=width, **options)
    batch = np.random.default_rng(0).normal(size=(2, *size, 3)).astype("float32")
    found = outputs(model, batch)
    assert found.shape == (2, 3) and np.isfinite(found).all() and np.abs(found[0] - found[1]).max() > 0
    modules = [layer for layer in blocks.walk(model) if isinstance(layer, blocks.AttentionModule)]
    for module in modules:
        assert module.learning == options.get("learning", "residual")
        assert module.mask.mask_activation == options.get("mask_activation", "mixed")
        assert isinstance(module.mask, blocks.LocalMaskBranch) == (options.get("mask_branch") == "local")
        assert len(module.pre) == options.get("pre_units", models.model_spec(name).pre_units)
        inside = [unit for unit in blocks.walk(module) if isinstance(unit, blocks.ResidualUnit)]
        assert {unit.shortcut for unit in inside} == {options.get("shortcut", True)}
    if "modules" in options:
        asked = options["modules"]
        assert len(modules) == (sum(asked) if isinstance(asked, list) else asked * 3)


@pytest.mark.parametrize("name", ["attention_92", "attention_92_imagenet", "source_attention_92_cifar100"])
def test_the_summary_fits_on_a_screen(name):
    lines = []
    with keras.StatelessScope(initialize_variables=False):
        model = models.create_model(name)
    model.summary(print_fn=lambda text, **_: lines.extend(text.split("\n")))
    assert any("stage_3" in line for line in lines)
    assert len(lines) <= 40 and max(map(len, lines)) <= 100


@pytest.mark.parametrize("name", models.list_models())
def test_what_check_options_returns_is_taken_again(name):
    resolved = models.check_options(name, {})
    assert models.check_options(name, resolved) == resolved


@pytest.mark.parametrize("same", [{"modules": 2}, {"mask_depth": [3, 2, 1]}, {"dropout": 0}, {"pre_units": 1}])
def test_an_option_spelled_at_its_own_value_changes_nothing(same):
    assert models.check_options("attention_92", same) == models.check_options("attention_92", {})
    assert counting.describe("attention_92", **same) == counting.describe("attention_92")
    plain, spelled = (
        runs.check_parameters({"model": "attention_92", "model_options": each, "profile": "study"})
        for each in ({}, same)
    )
    assert runs.run_name(plain) == runs.run_name(spelled)


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        (["attention_57"], {}, "unknown model 'attention_57'.*did you mean 'attention_56'"),
        (["attention_56", 1], {}, "num_classes must be a whole number from 2 to 1000000; received 1"),
        (["attention_56", 10**12], {}, "num_classes must be a whole number from 2 to 1000000; received 10{12}"),
        (["attention_56"], {"lerning": "naive"}, "unknown option 'lerning'"),
        (["attention_56"], {"width": 0}, "width must be a number above 0 and at most 100; received 0"),
        (["attention_56"], {"width": 1e9}, "width must be a number above 0 and at most 100; received 1000000000.0"),
        (["attention_56"], {"shortcut": 1}, "shortcut must be one of True, False; received 1"),
        (["attention_56"], {"mask_activation": "softmax"}, "received 'softmax'"),
        (["resnet_164"], {"learning": "naive"}, "has no attention modules"),
        (["resnet_164"], {"modules": 1}, "has no attention modules"),
        (["attention_56"], {"modules": 0}, "modules must leave at least one module; received 0"),
        (["attention_56"], {"modules": [1, 2]}, r"modules must be a whole number or a list of 3.*received \[1, 2\]"),
        (["attention_56"], {"modules": 1.5}, "modules must be a whole number from 0 to 100; received 1.5"),
        (["attention_56"], {"mask_depth": [3, 2, 0]}, "mask_depth must be a whole number from 1 to 100; received 0"),
        (["attention_56"], {"mask_depth": [6, 2, 1]}, "depth 6 halves 32x32 more often than it can: at most 5 times"),
        (["attention_56"], {"trunk_units": 0}, "trunk_units must be a whole number from 1 to 100; received 0"),
        (["attention_56"], {"mask_units": 10**9}, "mask_units must be a whole number from 1 to 100; received 10{9}"),
        (["attention_56"], {"dropout": 1}, "dropout must be a number at least 0.* and at most 0.95; received 1"),
        (["attention_56", 10, "32x32"], {}, "input_shape must be .*received '32x32'"),
        (["attention_56", 10, (32, 32)], {}, "input_shape must be"),
        (["attention_56", 10, (32, 0, 3)], {}, "input_shape must be a whole number from 1 to 10000; received 0"),
        (["attention_56", 10, (32, 10**6, 3)], {}, "from 1 to 10000; received 1000000"),
        (["attention_56", 10, (4, 4, 3)], {}, "more often than it can"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        models.create_model(*arguments, **options)


# --- Trained weights

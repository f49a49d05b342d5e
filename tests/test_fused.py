"""What is computed otherwise to be quick, beside its plain form, in every precision."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from ranet_lib import blocks, fused, models

PRECISIONS = {"float32": 1e-6, "bfloat16": 2**-7, "float16": 2**-10}  # and how far rounding leads apart


def features(*shape, dtype="float32", seed=0):
    return ops.cast(np.random.default_rng(seed).normal(size=shape).astype("float32"), dtype)


def assert_close(found, expected, dtype):
    found, expected = (ops.convert_to_numpy(ops.cast(each, "float32")) for each in (found, expected))
    np.testing.assert_allclose(found, expected, rtol=0, atol=4 * PRECISIONS[dtype] * np.abs(expected).max())


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("before, after", [((4, 4), (8, 8)), ((4, 4), (7, 8)), ((1, 2), (1, 3)), ((2, 5), (5, 9))])
def test_up_sampling_is_that_of_keras(before, after, dtype):
    small = features(3, *before, 5, dtype=dtype)
    expected = ops.image.resize(ops.cast(small, "float32"), after, interpolation="bilinear")
    found = fused.up_sample(small, after)
    assert found.shape == (3, *after, 5)
    assert keras.backend.standardize_dtype(found.dtype) == dtype
    assert_close(found, expected, dtype)
    nearest = ops.image.resize(small, after, interpolation="nearest")
    assert_close(fused.up_sample(small, after, "nearest"), nearest, dtype)


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_sum_and_sigmoid_are_those_of_keras(dtype):
    one, other = (features(2, 4, 4, 6, dtype=dtype, seed=seed) for seed in (0, 1))
    assert_close(fused.add(one, other), one + other, dtype)
    assert_close(fused.sigmoid(one), ops.sigmoid(ops.cast(one, "float32")), dtype)


def unsettled(layer, shape):
    """`layer` with weights and averages that are not those of its start."""
    layer.build(shape)
    generator = np.random.default_rng(3)
    layer.set_weights([generator.uniform(0.5, 1.5, weight.shape) for weight in layer.weights])
    return layer


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("strides, groups", [(1, 1), (2, 1), (1, 2)])
def test_outside_of_training_a_convolution_takes_the_normalisation_with_it(strides, groups, use_bias):
    convolution = unsettled(blocks.convolution(8, 3, strides, groups, use_bias), (None, 6, 6, 4))
    normalization = unsettled(fused.BatchNormalization(), (None, 6, 6, 8))
    inputs = features(2, 6, 6, 4)
    expected = normalization(convolution(inputs), training=False)
    steps = fused.folded([convolution, normalization])
    assert len(steps) == (1 if keras.backend.backend() == "tensorflow" else 2)
    found = inputs
    for step in steps:
        found = step(found)
    assert_close(found, expected, "float32")


def test_what_is_not_a_convolution_and_its_normalisation_stays():
    chain = [fused.BatchNormalization(), layers.ReLU(), blocks.convolution(4, 1), layers.ReLU()]
    assert list(fused.folded(chain)) == chain


UNLIKE = {  # pairs that do more than a convolution and its normalisation together
    "activation": ({"activation": "relu"}, {}),
    "dilation": ({"dilation_rate": 2}, {}),
    "16 bits": ({"dtype": "mixed_bfloat16"}, {"dtype": "mixed_bfloat16"}),  # joined, it would round more
    "no scale": ({}, {"scale": False}),
    "no shift": ({}, {"center": False}),
    "rows": ({}, {"axis": 1}),
}


class Doubled(layers.Conv2D):
    def call(self, inputs):
        return 2 * super().call(inputs)


@pytest.mark.parametrize("unlike", [*UNLIKE, "subclass", "not built"])
def test_a_pair_that_does_more_is_computed_layer_by_layer(unlike):
    convolution, normalization = UNLIKE.get(unlike, ({}, {}))
    chain = [layers.Conv2D(4, 3, **convolution), fused.BatchNormalization(**normalization)]
    if unlike == "subclass":
        chain[0] = Doubled(4, 3)
    inputs = features(2, 8, 8, 3)
    if unlike != "not built":
        chain[0].build(inputs.shape)
        unsettled(chain[1], chain[0].compute_output_shape(inputs.shape))
    found = blocks.apply_chain(chain, inputs)
    expected = chain[1](chain[0](inputs), training=False)
    np.testing.assert_array_equal(ops.convert_to_numpy(found), ops.convert_to_numpy(expected))


def test_all_that_trains_otherwise_is_told_so():
    """Dropout drops and a network's normalisation uses its batch, also where nothing but the chain says it trains."""
    keras.utils.set_random_seed(0)
    network = keras.Sequential([keras.Input((4, 4, 3)), layers.BatchNormalization()])
    chain, inputs = [network, layers.Dropout(0.5)], features(64, 4, 4, 3) + 7
    trained, used = (ops.convert_to_numpy(blocks.apply_chain(chain, inputs, training)) for training in (True, False))
    assert 0.3 < np.mean(trained == 0) < 0.7 and abs(trained.mean()) < 0.3
    assert np.all(used != 0) and abs(used.mean() - 7) < 0.5


@pytest.mark.parametrize("training", [False, True])
def test_a_network_is_that_of_its_plain_forms(training, monkeypatch):
    """Logits and gradients with all of it, and with none: equal in float32, and no farther from those in bfloat16."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("only TensorFlow has other forms")
    import tensorflow as tf

    networks, images = {}, features(16, 32, 32, 3)
    for policy in ("float32", "mixed_bfloat16"):
        keras.config.set_dtype_policy(policy)
        try:
            keras.utils.set_random_seed(0)
            networks[policy] = models.create_model("attention_tiny", width=0.5)
        finally:
            keras.config.set_dtype_policy("float32")

    def run(policy):
        network = networks[policy]
        network.set_weights(start)

        @tf.function
        def compute():
            with tf.GradientTape() as tape:
                logits = network(images, training=training)
                loss = tf.reduce_mean(tf.square(logits))
            return logits, tape.gradient(loss, network.trainable_weights[0])

        return [np.array(each) for each in compute()]

    start = networks["float32"].get_weights()
    quick = {policy: run(policy) for policy in networks}
    monkeypatch.setattr(fused, "add", lambda features, shortcut: features + shortcut)
    monkeypatch.setattr(fused, "sigmoid", ops.sigmoid)
    monkeypatch.setattr(fused, "up_sample", lambda f, size, how: ops.image.resize(f, size, interpolation=how))
    monkeypatch.setattr(fused, "folded", lambda chain: chain)
    monkeypatch.setattr(fused.BatchNormalization, "call", layers.BatchNormalization.call)
    plain = {policy: run(policy) for policy in networks}
    for exact, ours, in_16_bits, ours_in_16_bits in zip(
        plain["float32"], quick["float32"], plain["mixed_bfloat16"], quick["mixed_bfloat16"], strict=True
    ):
        np.testing.assert_allclose(ours, exact, rtol=0, atol=1e-4 * np.abs(exact).max())
        assert np.linalg.norm(ours_in_16_bits - exact) <= 1.5 * np.linalg.norm(in_16_bits - exact) > 0

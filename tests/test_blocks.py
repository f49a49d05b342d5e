"""The building blocks: their shapes, their mathematics, and the errors they give."""

import keras
import numpy as np
import pytest

from ranet_lib import blocks, counting


def features(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def call_in_turn(block, *shapes):
    for shape in shapes:
        block(features(*shape))


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (5, 6)])
@pytest.mark.parametrize(
    "block, expected",
    [
        (lambda: blocks.ResidualUnit(16), (None, None, 16)),
        (lambda: blocks.ResidualUnit(32, strides=2), ("half", "half", 32)),
        (lambda: blocks.TrunkBranch(16, 2), (None, None, 16)),
        (lambda: blocks.MaskBranch(16, depth=2), (None, None, 16)),
        (lambda: blocks.LocalMaskBranch(16), (None, None, 16)),
        (lambda: blocks.AttentionModule(16, mask_depth=2), (None, None, 16)),
    ],
)
def test_shapes_also_where_two_does_not_divide(size, block, expected):
    layer = block()
    inputs = features(2, *size, 16)
    output = numpy(layer(inputs))
    height, width = (-(-s // 2) if e == "half" else s for s, e in zip(size, expected))
    assert output.shape == (2, height, width, expected[2])
    assert tuple(layer.compute_output_shape(inputs.shape)) == output.shape


def test_residual_unit_without_its_residual_is_the_identity():
    unit = blocks.ResidualUnit(16)
    inputs = features(2, 8, 8, 16)
    unit(inputs)
    last = unit.residual[-1]
    last.set_weights([np.zeros(last.kernel.shape)])
    np.testing.assert_array_equal(numpy(unit(inputs)), inputs)
    bare = blocks.ResidualUnit(16, shortcut=False)
    bare(inputs)
    bare.residual[-1].set_weights([np.zeros(last.kernel.shape)])
    np.testing.assert_array_equal(numpy(bare(inputs)), 0 * inputs)


def forced_mask(module, value):
    """Make the mask of a built module the constant `value` whatever it sees."""
    module.mask.call = lambda features, training=None: keras.ops.full_like(features, value)


@pytest.mark.parametrize("learning, factor", [("residual", 1.25), ("naive", 0.25)])
def test_a_constant_mask_scales_the_trunk_by_the_learning_rule(learning, factor):
    module = blocks.AttentionModule(16, pre_units=0, learning=learning)
    inputs = features(2, 8, 8, 16)
    module(inputs)
    forced_mask(module, 0.25)
    trunk = numpy(module.trunk(inputs))
    np.testing.assert_allclose(numpy(module(inputs)), factor * trunk, rtol=1e-6)


@pytest.mark.parametrize("learning", ["residual", "naive"])
def test_a_mask_of_zero_leaves_the_trunk_or_nothing(learning):
    module = blocks.AttentionModule(16, pre_units=0, learning=learning)
    inputs = features(2, 8, 8, 16)
    module(inputs)
    forced_mask(module, 0.0)
    expected = numpy(module.trunk(inputs)) if learning == "residual" else 0 * inputs
    np.testing.assert_array_equal(numpy(module(inputs)), expected)


def test_return_mask_gives_the_mask_that_was_applied():
    module = blocks.AttentionModule(16, pre_units=0)
    inputs = features(2, 8, 8, 16)
    output, mask = (numpy(x) for x in module(inputs, return_mask=True))
    assert mask.shape == inputs.shape and 0 <= mask.min() and mask.max() <= 1 and mask.std() > 0.01
    np.testing.assert_allclose(output, (1 + mask) * numpy(module.trunk(inputs)), rtol=1e-5, atol=1e-6)


@pytest.fixture
def float64():
    """Layers made in the test compute in float64."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


def random_statistics(layer, generator):
    """Give every weight of a built layer a random value, moving variances a positive one."""
    for weight in layer.weights:
        value = generator.normal(size=weight.shape, scale=0.5)
        weight.assign(0.5 + np.abs(value) if weight.name in ("moving_variance", "gamma") else value)


@pytest.mark.parametrize("activation", ["mixed", "channel", "spatial"])
@pytest.mark.parametrize("learning", ["residual", "naive"])
def test_the_gradient_through_a_module_is_the_products(float64, learning, activation):
    """H = (1 + M) F: along any direction of the weights dH = (1 + M) dF + F dM, by finite differences in float64."""
    generator = np.random.default_rng(0)
    module = blocks.AttentionModule(8, mask_depth=2, pre_units=0, learning=learning, mask_activation=activation)
    inputs = generator.normal(size=(2, 6, 5, 8))
    module(inputs)
    random_statistics(module, generator)

    def values():
        output, mask = module(inputs, return_mask=True)
        return [numpy(x) for x in (output, mask, module.trunk(inputs))]

    weights = module.trainable_weights
    start = [numpy(weight).copy() for weight in weights]
    of_trunk = {id(weight) for weight in module.trunk.trainable_weights}
    step = 1e-6
    _, mask, trunk = values()
    gate = (1.0 if learning == "residual" else 0.0) + mask
    for moved in ("all", "trunk", "mask"):
        direction = [
            generator.normal(size=weight.shape) * (moved == "all" or (moved == "trunk") == (id(weight) in of_trunk))
            for weight in weights
        ]
        sides = []
        for sign in (1, -1):
            for weight, value, change in zip(weights, start, direction):
                weight.assign(value + sign * step * change)
            sides.append(values())
        output_change, mask_change, trunk_change = (
            (plus - minus) / (2 * step) for plus, minus in zip(*sides)
        )
        expected = gate * trunk_change + trunk * mask_change
        scale = np.abs(expected).max()
        assert scale > 1e-3
        np.testing.assert_allclose(output_change, expected, atol=1e-7 * scale)
        if moved == "trunk":  # the mask is a filter of the trunk's gradient, and nothing else
            assert not mask_change.any()
        if moved == "mask":
            assert not trunk_change.any()


def test_automatic_differentiation_of_a_module_agrees_with_finite_differences(float64):
    tensorflow = pytest.importorskip("tensorflow")
    generator = np.random.default_rng(1)
    # Nearest up-sampling, because TensorFlow computes the bilinear one in float32 whatever it is given.
    module = blocks.AttentionModule(8, mask_depth=2, interpolation="nearest")
    inputs = generator.normal(size=(2, 6, 5, 8))
    module(inputs)
    random_statistics(module, generator)
    weights = module.trainable_weights
    factor = generator.normal(size=inputs.shape)
    with tensorflow.GradientTape() as tape:
        loss = keras.ops.sum(factor * module(inputs))
    gradients = [numpy(gradient) for gradient in tape.gradient(loss, [weight.value for weight in weights])]
    start = [numpy(weight).copy() for weight in weights]
    for _ in range(5):
        direction, losses = [generator.normal(size=weight.shape) for weight in weights], []
        for sign in (1, -1):
            for weight, value, change in zip(weights, start, direction):
                weight.assign(value + sign * 1e-6 * change)
            losses.append(float(keras.ops.sum(factor * module(inputs))))
        expected = sum((gradient * change).sum() for gradient, change in zip(gradients, direction))
        assert (losses[0] - losses[1]) / 2e-6 == pytest.approx(expected, rel=1e-5)


def test_mixed_is_a_sigmoid_of_every_value():
    x = features(2, 4, 4, 3)
    np.testing.assert_allclose(numpy(blocks.mixed(x)), 1 / (1 + np.exp(-x)), rtol=1e-5)


def test_channel_has_unit_norm_over_the_channels_and_survives_zeros():
    x = features(2, 4, 4, 3)
    x[0, 0, 0] = 0
    mask = numpy(blocks.channel(x))
    norms = np.linalg.norm(mask, axis=-1)
    assert norms[0, 0, 0] == 0
    np.testing.assert_allclose(np.delete(norms.ravel(), 0), 1, rtol=1e-5)


def test_spatial_standardises_each_channels_map():
    x = 5 + 3 * features(2, 6, 7, 3)
    mask = numpy(blocks.spatial(x)).astype("float64")
    logits = np.log(mask / (1 - mask))
    np.testing.assert_allclose(logits.mean(axis=(1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(logits.std(axis=(1, 2)), 1, rtol=1e-4)
    constant = numpy(blocks.spatial(np.full((1, 4, 4, 2), 7, "float32")))
    np.testing.assert_allclose(constant, 0.5)


@pytest.mark.parametrize("activation", blocks.MASK_ACTIVATIONS)
@pytest.mark.parametrize("scale", [0, 1e-4, 1, 600])
def test_in_float16_a_mask_is_that_of_float32(activation, scale):
    """Tolerance: float16 has eleven bits."""
    scores = (scale * features(2, 4, 4, 64)).astype("float16")
    activate = blocks.MASK_ACTIVATIONS[activation]
    found, expected = activate(keras.ops.convert_to_tensor(scores)), activate(scores.astype("float32"))
    assert keras.backend.standardize_dtype(found.dtype) == "float16"
    np.testing.assert_allclose(numpy(found), numpy(expected), rtol=2e-3, atol=1e-6)


def test_the_mask_branch_sees_further_than_a_local_one():
    """Change one corner pixel: the far corner of an encoder-decoder's output moves, a short local branch's does not."""
    inputs = features(1, 16, 16, 8)
    changed = inputs.copy()
    changed[0, 0, 0] += 10
    far = {}
    for name, branch in {
        "encoder_decoder": blocks.MaskBranch(8, depth=3),
        "local": blocks.LocalMaskBranch(8, units=3),
    }.items():
        before, after = (numpy(branch(images, activate=False)) for images in (inputs, changed))
        far[name] = np.abs(before - after)[0, -1, -1].max()
    assert far["encoder_decoder"] > 0
    assert far["local"] == 0


@pytest.mark.parametrize("activation", blocks.MASK_ACTIVATIONS)
@pytest.mark.parametrize("branch", [blocks.MaskBranch, blocks.LocalMaskBranch])
def test_the_scores_of_a_branch_are_its_mask_before_the_activation(branch, activation):
    inputs = features(2, 8, 8, 8)
    branch = branch(8, mask_activation=activation)
    scores, mask = branch(inputs, activate=False), branch(inputs)
    np.testing.assert_array_equal(numpy(blocks.MASK_ACTIVATIONS[activation](scores)), numpy(mask))
    assert np.abs(numpy(scores)).max() > 1  # not the mask itself, whose values are at most 1


def test_batch_statistics_move_in_training_only_and_batch_mates_do_not_matter_in_inference():
    module = blocks.AttentionModule(16)
    inputs = features(4, 8, 8, 16)
    module(inputs)
    before = [numpy(weight).copy() for weight in module.non_trainable_weights]
    together = numpy(module(inputs, training=False))
    alone = numpy(module(inputs[:1], training=False))
    np.testing.assert_allclose(together[:1], alone, rtol=1e-4, atol=1e-5)  # other batch sizes, other summation order
    for old, new in zip(before, module.non_trainable_weights):
        np.testing.assert_array_equal(old, numpy(new))
    module(inputs, training=True)
    assert all(np.any(old != numpy(new)) for old, new in zip(before, module.non_trainable_weights))


def test_batch_normalization_equals_keras_own():
    """The fused kernel and Keras's several passes give the same outputs and the same moving averages."""
    ours, theirs = blocks.BatchNormalization(), keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)
    inputs = 3 + 2 * features(8, 5, 5, 6)
    for layer in (ours, theirs):
        layer.build(inputs.shape)
    weights = [features(6, seed=i) ** 2 + 0.5 for i in range(4)]
    for layer in (ours, theirs):
        layer.set_weights(weights)
    for training in (False, True, True, False):
        np.testing.assert_allclose(
            numpy(ours(inputs, training=training)), numpy(theirs(inputs, training=training)), rtol=1e-4, atol=1e-5
        )
    for mine, other in zip(ours.get_weights(), theirs.get_weights()):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "filters, depth, units, unit",
    [
        (64, 3, 1, {}),
        (256, 1, 1, {}),
        (256, 3, 1, {"inner_filters": 128, "groups": 32}),
        (128, 2, 2, {"inner_filters": 128, "always_project": True, "use_bias": True}),
        (512, 1, 1, {"inner_filters": 512, "always_project": True, "shortcut": False}),
    ],
)
def test_a_local_mask_branch_costs_what_the_encoder_decoder_costs(filters, depth, units, unit):
    def multiply_adds(mask_branch):
        module = blocks.AttentionModule(filters, depth, mask_units=units, mask_branch=mask_branch, unit=unit)
        inputs = keras.Input((32, 32, filters))
        return counting.count_flops(keras.Model(inputs, module.mask(inputs)))

    assert multiply_adds("local") == pytest.approx(multiply_adds("encoder_decoder"), rel=0.12)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: blocks.ResidualUnit(0), "filters must be a whole number of at least 1; received 0"),
        (lambda: blocks.ResidualUnit(10), "filters must be a multiple of 4, or inner_filters be given; .*=10"),
        (lambda: blocks.ResidualUnit(16, groups=3), "inner_filters must be a multiple of groups = 3; received 4"),
        (lambda: blocks.MaskBranch(16, pool_size=4), "pool_size must be one of 2, 3; received 4"),
        *(
            (lambda block=block: block(16, unit={"strides": 2}), "unit must keep the shape, so its strides must be 1")
            for block in (blocks.TrunkBranch, blocks.MaskBranch, blocks.LocalMaskBranch, blocks.AttentionModule)
        ),
        (lambda: blocks.MaskBranch(16, interpolation="cubic"), "interpolation must be one of 'bilinear', 'nearest'"),
        (lambda: blocks.ResidualUnit(16, shortcut="yes"), "shortcut must be one of True, False; received 'yes'"),
        (lambda: blocks.TrunkBranch(16, 0), "units must be a whole number of at least 1; received 0"),
        (lambda: blocks.MaskBranch(16, mask_activation="soft"), "mask_activation must be one of 'mixed'"),
        (lambda: blocks.AttentionModule(16, learning="both"), "learning must be one of 'residual', 'naive'"),
        (lambda: blocks.AttentionModule(16, mask_branch="u-net"), "received 'u-net'"),
        (lambda: blocks.MaskBranch(16, depth=5).build((None, 8, 8, 16)), "at most 3 times here"),
        (lambda: blocks.MaskBranch(16).build((None, None, 8, 16)), "needs a fixed height and width"),
        (lambda: blocks.TrunkBranch(16)(keras.Input((8, 8, 32))), r"an input of 16 channels; .*\(None, 8, 8, 32\)"),
        (lambda: blocks.AttentionModule(16)(keras.Input((8, 8, 32))), "needs an input of 16 channels"),
        (lambda: blocks.AttentionModule(16, trunk_units=0), "trunk_units must be a whole number of at least 1"),
        (lambda: blocks.AttentionModule(16, mask_branch="local", pool_size=7), "pool_size must be one of 2, 3"),
        (lambda: blocks.MaskBranch(16)(keras.Input((8, 8, 32))), r"an input of 16 channels; .*\(None, 8, 8, 32\)"),
        (lambda: blocks.MaskBranch("16"), "filters must be a whole number of at least 1; received '16'"),
        (lambda: call_in_turn(blocks.MaskBranch(16), (1, 8, 8, 16), (1, 16, 16, 16)), r"shape=\(1, 16, 16, 16\)"),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_allowed(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_walk_meets_every_weight():
    module = blocks.AttentionModule(16, mask_depth=2)
    module(features(1, 8, 8, 16))
    met = {id(w) for layer in blocks.walk(module) if not isinstance(layer, blocks.Block) for w in layer.weights}
    assert met == {id(w) for w in module.weights}


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="counts the calls of eager TensorFlow")
@pytest.mark.parametrize("checkpointing, times", [(False, 1), (True, 2)])
def test_checkpointing_computes_the_inside_of_a_unit_again(checkpointing, times):
    import tensorflow as tf

    unit, inputs, calls = blocks.ResidualUnit(8, checkpointing=checkpointing), features(2, 6, 6, 8), []
    unit(inputs)
    last = unit.residual[-1]
    call = last.call
    last.call = lambda x: calls.append(x) or call(x)
    with tf.GradientTape() as tape:
        total = keras.ops.sum(unit(inputs, training=True))
    tape.gradient(total, [weight.value for weight in unit.trainable_weights])
    assert len(calls) == times


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="reads what TensorFlow compiles")
def test_compiled_as_for_a_gpu_checkpointing_still_computes_again():
    """XLA takes two equal computations for one, unless the second needs a result of the first."""
    import tensorflow as tf

    def convolutions(unit, inputs):
        @tf.function(jit_compile=True)
        def gradients(inputs):
            with tf.GradientTape() as tape:
                total = tf.reduce_sum(unit(inputs, training=True) ** 2)
            return tape.gradient(total, [weight.value for weight in unit.trainable_weights])

        unit(inputs)
        return gradients.experimental_get_compiler_ir(inputs)(stage="optimized_hlo").count(" convolution(")

    inputs = tf.constant(features(2, 6, 6, 8))
    once, again = (convolutions(blocks.ResidualUnit(8, checkpointing=each), inputs) for each in (False, True))
    assert 0 < once < again


def test_checkpointing_changes_nothing_but_memory():
    """Three steps of training with and without: the same weights, moving averages included."""
    images, labels, found = features(8, 6, 6, 3), np.arange(8), []
    for checkpointing in (False, True):
        keras.utils.set_random_seed(0)
        units = [blocks.ResidualUnit(8, strides, checkpointing=checkpointing) for strides in (1, 2)]
        model = keras.Sequential([keras.Input((6, 6, 3)), *units, keras.layers.Flatten(), keras.layers.Dense(8)])
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        for _ in range(3):
            model.train_on_batch(images, labels)
        found.append([numpy(weight) for weight in model.weights])
    for kept, computed_again in zip(*found, strict=True):
        np.testing.assert_allclose(computed_again, kept, rtol=1e-4, atol=1e-6)

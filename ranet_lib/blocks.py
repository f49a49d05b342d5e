"""The building blocks of a Residual Attention Network, from the residual unit up to the attention module.

Everything here is an ordinary Keras layer on channels-last images, `(batch, height, width, channels)`. The order is
the order of the book: a residual unit; the trunk branch, a row of units; the mask branch, which looks at the same
features from further away and gives every value of the trunk a weight; the module that joins the two.

Paper: F. Wang et al., "Residual Attention Network for Image Classification", CVPR 2017, arXiv:1704.06904.
"""

import functools
import math

import keras
from keras import layers, ops

from ranet_lib import checks, fused
from ranet_lib.fused import BatchNormalization

register = keras.saving.register_keras_serializable(package="ranet_lib")


def convolution(filters, kernel_size, strides=1, groups=1, use_bias=False, name=None):
    """A convolution as the paper trains it: zero padding that keeps the size, He initialisation.

    Args:
        filters, kernel_size, strides, groups, use_bias, name: as in `keras.layers.Conv2D`.

    Returns:
        A `keras.layers.Conv2D`.
    """
    return layers.Conv2D(
        filters, kernel_size, strides=strides, groups=groups, padding="same",
        use_bias=use_bias, kernel_initializer="he_normal", name=name,
    )  # fmt: skip


class Block(layers.Layer):
    """A layer made of layers. A block lists its parts in `sublayers()`, so that anyone can `walk` through it."""

    def sublayers(self):
        """The layers this block is made of, in the order in which data reaches them."""
        return []

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)


def walk(layer):
    """Yield `layer` and every layer inside it, outermost first, in the order of the data.

    Example:
        >>> [layer.name for layer in blocks.walk(blocks.ResidualUnit(16, name="unit"))][:4]
        ['unit', 'bn_1', 'relu_1', 'conv_1']
    """
    yield layer
    inner = layer.layers if isinstance(layer, keras.Model) else layer.sublayers() if isinstance(layer, Block) else []
    for sublayer in inner:
        yield from walk(sublayer)


def build_chain(chain, input_shape):
    """Build each layer of `chain`, the first on `input_shape`, the next on what it gives; return the last shape."""
    shape = tuple(input_shape)
    for layer in chain:
        if layer.get_build_config() is None:  # a layer without weights calls itself built before it knows its shape
            layer.build(shape)
        shape = tuple(layer.compute_output_shape(shape))
    return shape


def apply_chain(chain, inputs, training=None):
    """Call each layer of `chain`, the first on `inputs`, in `training` or not, the next on what it gives."""
    for layer in chain if training else fused.folded(chain):
        takes_training = isinstance(layer, (Block, layers.BatchNormalization))
        inputs = layer(inputs, training=training) if takes_training else layer(inputs)
    return inputs


def apply_checkpointed(chain, inputs, training=None):
    """`apply_chain`, but what lies between its layers is computed again in the backward pass instead of kept for it.

    Gradient checkpointing (Chen et al. 2016): the same gradients with less memory and one more forward pass.

    Args:
        chain, inputs, training: as in `apply_chain`.

    Returns:
        What `apply_chain` returns.
    """
    weights = [weight for layer in chain for weight in layer.weights]
    averages = [weight for weight in weights if not weight.trainable]

    def pure(inputs, *values):  # so that the moving averages, too, change once only
        with keras.StatelessScope(list(zip(weights, values, strict=True))) as scope:
            outputs = apply_chain(chain, inputs, training)
        return [outputs, *(scope.get_current_value(average) for average in averages)]

    # Copies of the averages, because PyTorch changes them in place before its backward pass.
    values = (ops.convert_to_tensor(weight) if weight.trainable else ops.copy(weight) for weight in weights)
    outputs, *changed = _computed_again(pure)(inputs, *values)
    for average, value in zip(averages, changed, strict=True):
        average.assign(ops.stop_gradient(value))
    return outputs


def _computed_again(function):
    """`keras.remat`. On TensorFlow that would look through the whole network so far for each unit while it traces."""
    if keras.backend.backend() != "tensorflow":
        return keras.remat(function)
    import tensorflow as tf

    @tf.custom_gradient
    def remembered(*inputs):
        def gradients(*of_outputs):
            with tf.control_dependencies(of_outputs):  # not before they are needed
                again = [tf.identity(value) for value in inputs]
            with tf.GradientTape() as tape:
                tape.watch(again)
                outputs = function(*again)
            return tape.gradient(outputs, again, of_outputs, unconnected_gradients="zero")

        return function(*inputs), gradients

    return remembered


@register
class ResidualUnit(Block):
    """A pre-activation bottleneck unit: BN-ReLU-conv 1x1, BN-ReLU-conv 3x3, BN-ReLU-conv 1x1, plus the input.

    `(batch, height, width, channels)` becomes `(batch, height / strides, width / strides, filters)`, rounded up.
    Where the shape changes, the shortcut is a 1x1 convolution of the input; elsewhere it is the input itself.
    Follows He et al. 2016, "Identity mappings in deep residual networks", as the paper's section 3 does.

    Args:
        filters: channels of the output.
        strides: 2 halves height and width, 1 keeps them.
        inner_filters: channels between the convolutions; None, the bottleneck of the paper, is a quarter of `filters`.
        shortcut: False leaves the addition out (the student project's "without shortcut").
        groups: groups of the 3x3 convolution (more than 1 in AttentionNeXt).
        always_project: True makes the shortcut a 1x1 convolution everywhere (as in the student project).
        use_bias: True gives each convolution a bias (as in the student project).
        checkpointing: True keeps nothing inside the unit for the backward pass; see `apply_checkpointed`.

    Raises:
        ValueError: a count below 1, or channels that cannot be divided as asked.

    Example:
        >>> unit = blocks.ResidualUnit(64, strides=2)
        >>> tuple(unit(np.zeros((1, 32, 32, 16))).shape)
        (1, 16, 16, 64)
    """

    def __init__(
        self, filters, strides=1, inner_filters=None, shortcut=True, groups=1, always_project=False, use_bias=False,
        checkpointing=False, **kwargs,
    ):  # fmt: skip
        super().__init__(**kwargs)
        self.filters = checks.whole("filters", filters)
        self.strides = checks.whole("strides", strides)
        self.groups = checks.whole("groups", groups)
        for name, value in (
            ("shortcut", shortcut), ("always_project", always_project), ("use_bias", use_bias),
            ("checkpointing", checkpointing),
        ):  # fmt: skip
            setattr(self, name, checks.choice(name, value, (True, False)))
        if inner_filters is None and filters % 4:
            raise ValueError(f"filters must be a multiple of 4, or inner_filters be given; received filters={filters}")
        inner = checks.whole("inner_filters", filters // 4 if inner_filters is None else inner_filters)
        self.inner_filters = inner
        if inner % groups:
            raise ValueError(f"inner_filters must be a multiple of groups = {groups}; received {inner}")
        conv = functools.partial(convolution, use_bias=use_bias)
        self.residual = [
            BatchNormalization(name="bn_1"), layers.ReLU(name="relu_1"), conv(inner, 1, name="conv_1"),
            BatchNormalization(name="bn_2"), layers.ReLU(name="relu_2"), conv(inner, 3, strides, groups, name="conv_2"),
            BatchNormalization(name="bn_3"), layers.ReLU(name="relu_3"), conv(filters, 1, name="conv_3"),
        ]  # fmt: skip
        self.projection = None  # the convolution of the shortcut, where there is one

    def build(self, input_shape):
        build_chain(self.residual, input_shape)
        changes = self.strides > 1 or input_shape[-1] != self.filters
        if self.shortcut and (changes or self.always_project):
            self.projection = convolution(self.filters, 1, self.strides, use_bias=self.use_bias, name="projection")
            self.projection.build(input_shape)

    def call(self, inputs, training=None):
        apply = apply_checkpointed if self.checkpointing and training else apply_chain
        outputs = apply(self.residual, inputs, training)
        if not self.shortcut:
            return outputs
        return fused.add(outputs, inputs if self.projection is None else self.projection(inputs))

    def sublayers(self):
        return self.residual + ([] if self.projection is None else [self.projection])

    def compute_output_shape(self, input_shape):
        batch, height, width, _ = input_shape
        return (batch, *(None if size is None else -(-size // self.strides) for size in (height, width)), self.filters)

    def get_config(self):
        return super().get_config() | {
            "filters": self.filters, "strides": self.strides, "inner_filters": self.inner_filters,
            "shortcut": self.shortcut, "groups": self.groups, "always_project": self.always_project,
            "use_bias": self.use_bias, "checkpointing": self.checkpointing,
        }  # fmt: skip


@register
class TrunkBranch(Block):
    """The trunk of an attention module: `units` residual units in a row (the paper's `t`). Keeps the shape.

    Args:
        filters: channels of input and output.
        units: number of residual units.
        unit: further arguments of `ResidualUnit`, as a dict.

    Raises:
        ValueError: fewer than one unit, or a wrong argument of theirs.

    Example:
        >>> trunk = blocks.TrunkBranch(16, units=1)
        >>> tuple(trunk(np.zeros((1, 8, 8, 16))).shape)
        (1, 8, 8, 16)
    """

    def __init__(self, filters, units=2, unit=None, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.unit = filters, dict(unit or {})
        self.units = [
            ResidualUnit(filters, name=f"unit_{i + 1}", **self.unit) for i in range(checks.whole("units", units))
        ]

    def build(self, input_shape):
        build_chain(self.units, input_shape)

    def call(self, inputs, training=None):
        return apply_chain(self.units, inputs, training)

    def sublayers(self):
        return list(self.units)

    def get_config(self):
        return super().get_config() | {"filters": self.filters, "units": len(self.units), "unit": self.unit}


def mixed(features):
    """Mixed attention, the paper's f1: a sigmoid of every value of `features`. Any shape; values in (0, 1).

    Example:
        >>> print(np.array(blocks.mixed(np.zeros(2))))
        [0.5 0.5]
    """
    return fused.sigmoid(features)


def channel(features):
    """Channel attention, the paper's f2: each position's vector over the channels, divided by its L2 norm.

    `features` are `(batch, height, width, channels)`, and so is the mask. Values lie in [-1, 1], not in [0, 1].

    Example:
        >>> one_position = np.array([[[[3.0, -4.0]]]])
        >>> print(np.array(blocks.channel(one_position)).ravel().round(3))
        [ 0.6 -0.8]
    """
    squares = ops.sum(ops.square(features), axis=-1, keepdims=True)
    return features * ops.rsqrt(ops.maximum(squares, 1e-12))


def spatial(features):
    """Spatial attention, the paper's f3: each channel's map standardised over its positions, then a sigmoid.

    `features` are `(batch, height, width, channels)`, and so is the mask. Values lie in (0, 1).

    Example:
        >>> two_positions = np.array([[[[1.0], [5.0]]]])  # standardised: -1 and 1
        >>> print(np.array(blocks.spatial(two_positions)).ravel().round(3))
        [0.269 0.731]
    """
    mean = ops.mean(features, axis=(1, 2), keepdims=True)
    variance = ops.mean(ops.square(features - mean), axis=(1, 2), keepdims=True)
    return fused.sigmoid((features - mean) * ops.rsqrt(variance + 1e-6))


MASK_ACTIVATIONS = {"mixed": mixed, "channel": channel, "spatial": spatial}
LEARNING_RULES = ("residual", "naive")
INTERPOLATIONS = ("bilinear", "nearest")
MASK_BRANCHES = ("encoder_decoder", "local")


class _Mask(Block):
    """What both mask branches share: the tail BN-ReLU-conv 1x1 twice, then the mask activation."""

    def __init__(self, filters, mask_activation="mixed", unit=None, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.unit = filters, dict(unit or {})
        self.mask_activation = checks.choice("mask_activation", mask_activation, tuple(MASK_ACTIVATIONS))
        use_bias = self.unit.get("use_bias", False)
        self.tail = [
            BatchNormalization(name="tail_bn_1"), layers.ReLU(name="tail_relu_1"),
            convolution(filters, 1, use_bias=use_bias, name="tail_conv_1"),
            BatchNormalization(name="tail_bn_2"), layers.ReLU(name="tail_relu_2"),
            convolution(filters, 1, use_bias=use_bias, name="tail_conv_2"),
        ]  # fmt: skip

    def call(self, inputs, training=None, activate=True):
        """Return the mask, or with `activate=False` the scores that the mask activation would turn into it."""
        scores = apply_chain(self.tail, self._look(inputs, training), training)
        return MASK_ACTIVATIONS[self.mask_activation](scores) if activate else scores

    def get_config(self):
        return super().get_config() | {
            "filters": self.filters, "mask_activation": self.mask_activation, "unit": self.unit,
        }  # fmt: skip


@register
class MaskBranch(_Mask):
    """The bottom-up top-down mask branch: an encoder and a decoder around a small bottom. Keeps the shape.

    Down: `depth` times, max pooling of stride 2 and `units` residual units. Up: `depth` times, `units` residual
    units and up-sampling to the size before that pooling. A skip connection of one unit joins equal sizes
    on the way (there are `depth - 1`). Then BN-ReLU-conv 1x1 twice, and the mask activation. Sizes that two does
    not divide are fine: pooling rounds up, and up-sampling goes back to the exact size. Paper: section 3.2, figure 3.
    Called with `activate=False`, the branch returns its scores, from before the mask activation.

    Args:
        filters: channels of input and output.
        depth: how many times the size is halved.
        units: residual units per step (the paper's `r`).
        mask_activation: "mixed", "channel" or "spatial".
        unit: further arguments of `ResidualUnit`, as a dict.
        pool_size: height and width of the pooling's window: 3, or 2 as in the student project.
        interpolation: of the up-sampling: "bilinear", or "nearest" as in the student project.

    Raises:
        ValueError: a wrong argument, or an input too small to be halved `depth` times.

    Example:
        >>> branch = blocks.MaskBranch(16, depth=2)
        >>> mask = branch(np.zeros((1, 7, 7, 16)))
        >>> branch.sizes
        [(7, 7), (4, 4), (2, 2)]
    """

    def __init__(
        self, filters, depth=1, units=1, mask_activation="mixed", unit=None, pool_size=3, interpolation="bilinear",
        **kwargs,
    ):  # fmt: skip
        super().__init__(filters, mask_activation, unit, **kwargs)
        self.depth, self.units = checks.whole("depth", depth), checks.whole("units", units)
        self.pool_size = checks.choice("pool_size", pool_size, (2, 3))
        self.interpolation = checks.choice("interpolation", interpolation, INTERPOLATIONS)
        levels = range(1, depth + 1)
        self.pools = [layers.MaxPooling2D(pool_size, strides=2, padding="same", name=f"pool_{i}") for i in levels]
        # Flat lists: most versions of Keras neither save nor load what a list of lists holds.
        self.down = [self._unit(f"down_{i}_unit_{j + 1}") for i in levels for j in range(units)]
        self.up = [self._unit(f"up_{i}_unit_{j + 1}") for i in levels for j in range(units)]
        self.skips = [ResidualUnit(filters, name=f"skip_{i}", **self.unit) for i in levels[:-1]]

    def _unit(self, name):
        return ResidualUnit(self.filters, name=name, **self.unit)

    def at(self, level, units):
        """The residual units of one level.

        Args:
            level: whole number from 0, the level of the largest maps.
            units: `down` or `up`, the units of all levels.

        Returns:
            list of `ResidualUnit`.
        """
        return units[level * self.units : (level + 1) * self.units]

    def build(self, input_shape):
        self.sizes = [tuple(input_shape[1:3])]  # height and width at each level, the input first
        if None in self.sizes[0]:
            raise ValueError(f"a mask branch needs a fixed height and width; received the shape {input_shape}")
        shape = tuple(input_shape)
        for level in range(self.depth):
            if min(shape[1:3]) < 2:
                height, width = input_shape[1:3]
                raise ValueError(
                    f"depth {self.depth} halves {height}x{width} more often than it can: at most {level} times here"
                )
            shape = build_chain([self.pools[level], *self.at(level, self.down)], shape)
            self.sizes.append(shape[1:3])
            if level < self.depth - 1:
                self.skips[level].build(shape)
        for level in reversed(range(self.depth)):
            build_chain(self.at(level, self.up), (shape[0], *self.sizes[level + 1], self.filters))
        build_chain(self.tail, input_shape)

    def _look(self, inputs, training):
        features, passed = inputs, []
        for level in range(self.depth):  # bottom-up
            features = apply_chain([self.pools[level], *self.at(level, self.down)], features, training)
            if level < self.depth - 1:
                passed.append(self.skips[level](features, training=training))
        for level in reversed(range(self.depth)):  # top-down
            features = apply_chain(self.at(level, self.up), features, training)
            features = fused.up_sample(features, self.sizes[level], self.interpolation)
            if level > 0:
                features = features + passed[level - 1]
        return features

    def sublayers(self):
        down = [layer for level, pool in enumerate(self.pools) for layer in (pool, *self.at(level, self.down))]
        up = [unit for level in reversed(range(self.depth)) for unit in self.at(level, self.up)]
        return down + self.skips + up + self.tail

    def get_config(self):
        return super().get_config() | {
            "depth": self.depth, "units": self.units, "pool_size": self.pool_size, "interpolation": self.interpolation,
        }  # fmt: skip


def local_inner_filters(filters, mask_depth, mask_units=1, unit=None):
    """Inner channels with which `3 * mask_units` units at full size cost what an encoder-decoder's units cost.

    The paper's table 4 sets three units of the full resolution beside the encoder-decoder, at equal cost. Most of an
    encoder-decoder works on small maps, so equal cost means thin units. Counted in multiply-adds, for sizes that two
    divides; the nearest whole number that `groups` divides, at least one for each group.

    Args:
        filters: channels of input and output.
        mask_depth, mask_units: of the encoder-decoder that is replaced.
        unit: the arguments of each `ResidualUnit` in it, as a dict.

    Returns:
        int, channels.

    Example:
        >>> blocks.local_inner_filters(64, mask_depth=3)
        7
    """
    unit = dict(unit or {})
    inner, groups = unit.get("inner_filters") or filters // 4, unit.get("groups", 1)
    projection = filters**2 if unit.get("always_project") and unit.get("shortcut", True) else 0
    smaller = [4.0**-level for level in range(1, mask_depth + 1)]  # positions at each level, relative to the input
    positions = 2 * mask_units * sum(smaller) + sum(smaller[:-1])
    budget = positions * (2 * filters * inner + 9 * inner**2 / groups + projection) / (3 * mask_units) - projection
    wanted = (math.sqrt(filters**2 + 9 / groups * max(budget, 0.0)) - filters) * groups / 9  # of 2 f x + 9 x² / g
    return max(1, round(wanted / groups)) * groups


@register
class LocalMaskBranch(_Mask):
    """A mask branch that never leaves its resolution: `units` residual units, then the same tail. Keeps the shape.

    The paper's comparison for the encoder-decoder (table 4, "local convolutions").

    Args:
        filters, mask_activation, unit: as in `MaskBranch`.
        units: residual units in a row.

    Raises:
        ValueError: a wrong argument.

    Example:
        >>> mask = blocks.LocalMaskBranch(16, units=1)(np.zeros((1, 8, 8, 16)))
        >>> tuple(mask.shape)
        (1, 8, 8, 16)
    """

    def __init__(self, filters, units=3, mask_activation="mixed", unit=None, **kwargs):
        super().__init__(filters, mask_activation, unit, **kwargs)
        self.units = [
            ResidualUnit(filters, name=f"unit_{i + 1}", **self.unit) for i in range(checks.whole("units", units))
        ]

    def build(self, input_shape):
        build_chain([*self.units, *self.tail], input_shape)

    def _look(self, inputs, training):
        return apply_chain(self.units, inputs, training)

    def sublayers(self):
        return self.units + self.tail

    def get_config(self):
        return super().get_config() | {"units": len(self.units)}


@register
class AttentionModule(Block):
    """Residual units, then a trunk branch beside a mask branch, combined, then residual units. Keeps the shape.

    With `F` the trunk and `M` the mask, both `(batch, height, width, filters)`, the output of the two branches is

        learning="residual":  (1 + M) * F    attention residual learning, equation 3 of the paper
        learning="naive":     M * F          naive attention learning, equation 1

    Args:
        filters: channels of input and output.
        mask_depth: how many times an encoder-decoder mask branch halves the size.
        pre_units, trunk_units, mask_units: the paper's `p`, `t` and `r`. As many units follow as precede.
        learning: "residual" or "naive".
        mask_activation: "mixed", "channel" or "spatial".
        mask_branch: "encoder_decoder", or "local": `3 * mask_units` units at full size, thin enough to cost the same.
        unit: further arguments of `ResidualUnit`, as a dict; `{"shortcut": False}` is "without shortcut".
        pool_size, interpolation: of an encoder-decoder; see `MaskBranch`.

    Raises:
        ValueError: a wrong argument (the message names it and what is allowed).

    Example:
        >>> module = blocks.AttentionModule(16, pre_units=0, trunk_units=1)
        >>> outputs, mask = module(np.zeros((1, 8, 8, 16)), return_mask=True)
        >>> tuple(outputs.shape), tuple(mask.shape)
        ((1, 8, 8, 16), (1, 8, 8, 16))
    """

    def __init__(
        self, filters, mask_depth=1, pre_units=1, trunk_units=2, mask_units=1, learning="residual",
        mask_activation="mixed", mask_branch="encoder_decoder", unit=None, pool_size=3, interpolation="bilinear",
        **kwargs,
    ):  # fmt: skip
        super().__init__(**kwargs)
        self.filters = filters
        self.mask_depth = checks.whole("mask_depth", mask_depth)
        self.mask_units = checks.whole("mask_units", mask_units)
        self.pre_units, self.trunk_units = checks.whole("pre_units", pre_units, least=0), trunk_units
        self.learning = checks.choice("learning", learning, LEARNING_RULES)
        self.mask_activation, self.unit = mask_activation, dict(unit or {})
        self.mask_branch = checks.choice("mask_branch", mask_branch, MASK_BRANCHES)
        self.pool_size, self.interpolation = pool_size, interpolation

        self.pre = [ResidualUnit(filters, name=f"pre_{i + 1}", **self.unit) for i in range(pre_units)]
        self.trunk = TrunkBranch(filters, trunk_units, unit=self.unit, name="trunk")
        if mask_branch == "encoder_decoder":
            self.mask = MaskBranch(
                filters, mask_depth, mask_units, mask_activation, self.unit, pool_size, interpolation, name="mask"
            )
        else:
            thin = self.unit | {"inner_filters": local_inner_filters(filters, mask_depth, mask_units, self.unit)}
            self.mask = LocalMaskBranch(filters, 3 * mask_units, mask_activation, thin, name="mask")
        self.post = [ResidualUnit(filters, name=f"post_{i + 1}", **self.unit) for i in range(pre_units)]

    def build(self, input_shape):
        shape = build_chain(self.pre, input_shape)
        self.trunk.build(shape)
        self.mask.build(shape)
        build_chain(self.post, shape)

    def call(self, inputs, training=None, return_mask=False):
        """Return the features, or with `return_mask=True` the pair of features and mask."""
        features = apply_chain(self.pre, inputs, training)
        trunk = self.trunk(features, training=training)
        mask = self.mask(features, training=training)
        attended = (1.0 + mask) * trunk if self.learning == "residual" else mask * trunk
        outputs = apply_chain(self.post, attended, training)
        return (outputs, mask) if return_mask else outputs

    def compute_output_spec(self, inputs, training=None, return_mask=False):
        def spec():  # one for each output: Keras tells them apart by identity
            return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)

        return (spec(), spec()) if return_mask else spec()

    def sublayers(self):
        return [*self.pre, self.trunk, self.mask, *self.post]

    def get_config(self):
        names = (
            "filters", "mask_depth", "pre_units", "trunk_units", "mask_units", "learning", "mask_activation",
            "mask_branch", "unit", "pool_size", "interpolation",
        )  # fmt: skip
        return super().get_config() | {name: getattr(self, name) for name in names}

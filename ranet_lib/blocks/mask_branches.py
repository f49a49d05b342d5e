"""The mask branch, which looks at the features from further away and gives each of them a weight."""

import functools
import math

from keras import layers, ops

from ranet_lib import checks, fused
from ranet_lib.blocks.chains import Block, apply_chain, build_chain, register
from ranet_lib.blocks.units import ResidualUnit, convolution, inside
from ranet_lib.fused import BatchNormalization


def mixed(features):
    """Mixed attention, the paper's f1: a sigmoid of every value of `features`. Any shape; values in (0, 1).

    Example:
        >>> print(np.array(blocks.mixed(np.zeros(2))))
        [0.5 0.5]
    """
    return fused.sigmoid(features)


def channel(features):
    """Channel attention, the paper's f2: each position's vector over the channels, divided by its L2 norm.

    `features` and mask are `(batch, height, width, channels)`. Values lie in [-1, 1], not in [0, 1].

    Example:
        >>> one_position = np.array([[[[3.0, -4.0]]]])
        >>> print(np.array(blocks.channel(one_position)).ravel().round(3))
        [ 0.6 -0.8]
    """
    wide = ops.cast(features, "float32")  # in float16, squares overflow
    squares = ops.sum(ops.square(wide), axis=-1, keepdims=True)
    return ops.cast(wide * ops.rsqrt(ops.maximum(squares, 1e-12)), features.dtype)


def spatial(features):
    """Spatial attention, the paper's f3: each channel's map standardised over its positions, then a sigmoid.

    `features` and mask are `(batch, height, width, channels)`. Values lie in (0, 1).

    Example:
        >>> two_positions = np.array([[[[1.0], [5.0]]]])  # standardised: -1 and 1
        >>> print(np.array(blocks.spatial(two_positions)).ravel().round(3))
        [0.269 0.731]
    """
    wide = ops.cast(features, "float32")  # in float16, squares overflow
    mean = ops.mean(wide, axis=(1, 2), keepdims=True)
    variance = ops.mean(ops.square(wide - mean), axis=(1, 2), keepdims=True)
    return ops.cast(fused.sigmoid((wide - mean) * ops.rsqrt(variance + 1e-6)), features.dtype)


MASK_ACTIVATIONS = {"mixed": mixed, "channel": channel, "spatial": spatial}
INTERPOLATIONS = ("bilinear", "nearest")
MASK_BRANCHES = ("encoder_decoder", "local")


class _Mask(Block):
    """What both mask branches share: the tail BN-ReLU-conv 1x1 twice, then the mask activation."""

    def __init__(self, filters, mask_activation="mixed", unit=None, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.unit = checks.whole("filters", filters), inside(unit)
        self.mask_activation = checks.choice("mask_activation", mask_activation, MASK_ACTIVATIONS)
        conv = functools.partial(convolution, filters, 1, use_bias=self.unit.get("use_bias", False))
        self.tail = [
            BatchNormalization(name="tail_bn_1"), layers.ReLU(name="tail_relu_1"), conv(name="tail_conv_1"),
            BatchNormalization(name="tail_bn_2"), layers.ReLU(name="tail_relu_2"), conv(name="tail_conv_2"),
        ]  # fmt: skip

    def call(self, inputs, training=None, activate=True):
        """Return the mask, or with `activate=False` the scores that the mask activation would turn into it."""
        scores = apply_chain(self.tail, self._look(inputs, training), training)
        return MASK_ACTIVATIONS[self.mask_activation](scores) if activate else scores


@register
class MaskBranch(_Mask):
    """The bottom-up top-down mask branch: an encoder and a decoder around a small bottom. Keeps the shape.

    Down: `depth` times, max pooling of stride 2 and `units` residual units (the paper's `r`). Up: `depth` times, again
    `units` and up-sampling to the exact size before that pooling. `depth - 1` skip connections, of one unit each, join
    equal sizes. Then BN-ReLU-conv 1x1 twice, and the mask activation. Paper: section 3.2, figure 3.

    `filters` are the channels of input and output, `mask_activation` is "mixed", "channel" or "spatial", `unit` has
    further arguments of `ResidualUnit`. `pool_size` is 3 as in the authors' files, or 2, `interpolation` "bilinear" as
    in the paper, or "nearest" as in the student project. A ValueError tells of a wrong argument or too small an input.

    Example:
        >>> branch = blocks.MaskBranch(16, depth=2)
        >>> mask = branch(np.zeros((1, 7, 7, 16)))
        >>> branch.sizes
        [(7, 7), (4, 4), (2, 2)]
    """

    def __init__(self, filters, depth=1, units=1, mask_activation="mixed", unit=None, pool_size=3,
                 interpolation="bilinear", **kwargs):  # fmt: skip
        super().__init__(filters, mask_activation, unit, **kwargs)
        self.depth, self.units = checks.whole("depth", depth), checks.whole("units", units)
        self.pool_size = checks.choice("pool_size", pool_size, (2, 3))
        self.interpolation = checks.choice("interpolation", interpolation, INTERPOLATIONS)
        levels = range(1, depth + 1)
        pool = functools.partial(layers.MaxPooling2D, pool_size, 2, padding="same", data_format="channels_last")
        self.pools = [pool(name=f"pool_{i}") for i in levels]
        new_unit = functools.partial(ResidualUnit, filters, **self.unit)
        # Flat lists: most versions of Keras neither save nor load what a list of lists holds.
        self.down = [new_unit(name=f"down_{i}_unit_{j + 1}") for i in levels for j in range(units)]
        self.up = [new_unit(name=f"up_{i}_unit_{j + 1}") for i in levels for j in range(units)]
        self.skips = [new_unit(name=f"skip_{i}") for i in levels[:-1]]

    def at(self, level, units):
        """Those of the residual `units` (`down` or `up`) that work at one `level`, from 0, the largest maps."""
        return units[level * self.units : (level + 1) * self.units]

    def build(self, input_shape):
        self.sizes = [tuple(input_shape[1:3])]  # height and width at each level, the input first
        if None in self.sizes[0]:
            raise ValueError(f"a mask branch needs a fixed height and width; received the shape {input_shape}")
        if input_shape[-1] != self.filters:
            raise ValueError(f"{self.name} needs an input of {self.filters} channels; received the shape {input_shape}")
        self.share_precision()
        shape, self.input_spec = input_shape, layers.InputSpec(shape=(None, *input_shape[1:]))
        for level in range(self.depth):
            if min(shape[1:3]) < 2:
                size = "x".join(map(str, self.sizes[0]))
                raise ValueError(f"depth {self.depth} halves {size} more often than it can: at most {level} times here")
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


def local_inner_filters(filters, mask_depth, mask_units=1, unit=None):
    """Inner channels with which `3 * mask_units` units at full size cost what an encoder-decoder's units cost.

    The paper's table 4 compares the two at equal cost. Counted in multiply-adds, for sizes that two divides, from the
    `filters`, `mask_depth`, `mask_units` and `unit` of the encoder-decoder.

    Example:
        >>> blocks.local_inner_filters(64, mask_depth=3)
        7
    """
    unit = dict(unit or {})
    inner, groups = unit.get("inner_filters"), unit.get("groups", 1)
    inner = filters // 4 if inner is None else inner
    projection = filters**2 if unit.get("always_project") and unit.get("shortcut", True) else 0
    smaller = [4.0**-level for level in range(1, mask_depth + 1)]  # positions at each level, relative to the input
    positions = 2 * mask_units * sum(smaller) + sum(smaller[:-1])
    budget = positions * (2 * filters * inner + 9 * inner**2 / groups + projection) / (3 * mask_units) - projection
    wanted = (math.sqrt(filters**2 + 9 / groups * max(budget, 0.0)) - filters) * groups / 9  # of 2 f x + 9 x² / g
    return max(1, round(wanted / groups)) * groups


@register
class LocalMaskBranch(_Mask):
    """A mask branch that never leaves its resolution: `units` residual units, then the same tail. Keeps the shape.

    The paper's "local convolutions" (table 4). `filters`, `mask_activation`, `unit`, ValueError: as in `MaskBranch`.

    Example:
        >>> mask = blocks.LocalMaskBranch(16, units=1)(np.zeros((1, 8, 8, 16)))
        >>> tuple(mask.shape)
        (1, 8, 8, 16)
    """

    def __init__(self, filters, units=3, mask_activation="mixed", unit=None, **kwargs):
        super().__init__(filters, mask_activation, unit, **kwargs)
        count = checks.whole("units", units)
        self.units = [ResidualUnit(filters, name=f"unit_{i + 1}", **self.unit) for i in range(count)]

    def _look(self, inputs, training):
        return apply_chain(self.units, inputs, training)

    def sublayers(self):
        return self.units + self.tail

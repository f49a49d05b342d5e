"""The residual unit, and the trunk branch, a row of them."""

import functools

from keras import layers

from ranet_lib import checks, fused
from ranet_lib.blocks.chains import Block, apply_chain, apply_checkpointed, build_chain, register
from ranet_lib.fused import BatchNormalization


def convolution(filters, kernel_size, strides=1, groups=1, use_bias=False, name=None):
    """Keras's convolution (`filters`, `kernel_size`, `strides`, `groups`, `use_bias`, `name`) as in the paper."""
    return layers.Conv2D(filters, kernel_size, strides, padding="same", data_format="channels_last", groups=groups,
                         use_bias=use_bias, kernel_initializer="he_normal", name=name)  # fmt: skip


@register
class ResidualUnit(Block):
    """A pre-activation bottleneck unit: BN-ReLU-conv 1x1, BN-ReLU-conv 3x3, BN-ReLU-conv 1x1, plus the input.

    `(batch, height, width, channels)` becomes `(batch, height / strides, width / strides, filters)`, rounded up. Where
    `strides` or `filters` change it, the shortcut is a 1x1 convolution. Follows He et al. 2016, as does section 3.

    `inner_filters` are the channels between the convolutions (None, the paper's bottleneck: a quarter of `filters`),
    `groups` are those of the 3x3 convolution (more than 1 in AttentionNeXt). `shortcut=False` leaves the addition out.
    As in the student project, `always_project` makes every shortcut a 1x1 convolution, `use_bias` gives each
    convolution a bias. `checkpointing` is that of `apply_checkpointed`. Raises a ValueError for a count below 1, or
    channels that cannot be divided as asked.

    Example:
        >>> unit = blocks.ResidualUnit(64, strides=2)
        >>> tuple(unit(np.zeros((1, 32, 32, 16))).shape)
        (1, 16, 16, 64)
    """

    def __init__(self, filters, strides=1, inner_filters=None, shortcut=True, groups=1, always_project=False,
                 use_bias=False, checkpointing=False, **kwargs):  # fmt: skip
        super().__init__(**kwargs)
        self.filters = checks.whole("filters", filters)
        self.strides = checks.whole("strides", strides)
        self.groups = checks.whole("groups", groups)
        self.shortcut = checks.choice("shortcut", shortcut, (True, False))
        self.always_project = checks.choice("always_project", always_project, (True, False))
        self.use_bias = checks.choice("use_bias", use_bias, (True, False))
        self.checkpointing = checks.choice("checkpointing", checkpointing, (True, False))
        if inner_filters is None and filters % 4:
            raise ValueError(f"filters must be a multiple of 4, or inner_filters be given; received filters={filters}")
        self.inner_filters = checks.whole("inner_filters", filters // 4 if inner_filters is None else inner_filters)
        if (inner := self.inner_filters) % groups:
            raise ValueError(f"inner_filters must be a multiple of groups = {groups}; received {inner}")
        conv = functools.partial(convolution, use_bias=use_bias)
        self.residual = [
            BatchNormalization(name="bn_1"), layers.ReLU(name="relu_1"), conv(inner, 1, name="conv_1"),
            BatchNormalization(name="bn_2"), layers.ReLU(name="relu_2"), conv(inner, 3, strides, groups, name="conv_2"),
            BatchNormalization(name="bn_3"), layers.ReLU(name="relu_3"), conv(filters, 1, name="conv_3")]  # fmt: skip
        self.projection = None  # the convolution of the shortcut, where there is one

    def build(self, input_shape):
        changes = self.strides > 1 or input_shape[-1] != self.filters
        if self.shortcut and (changes or self.always_project):
            self.projection = convolution(self.filters, 1, self.strides, use_bias=self.use_bias, name="projection")
        self.share_precision()
        build_chain(self.residual, input_shape)
        if self.projection is not None:
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


def inside(unit):
    """A copy of `unit`, arguments of the residual units inside a block; a ValueError if they would change the shape."""
    if (unit := dict(unit or {})).get("strides", 1) != 1:
        raise ValueError(f"unit must keep the shape, so its strides must be 1; received {unit['strides']!r}")
    return unit


@register
class TrunkBranch(Block):
    """The trunk of an attention module: `units` residual units in a row (the paper's `t`). Keeps the shape.

    `filters` are its channels, `unit` is a dict for `ResidualUnit`. Raises a ValueError for a wrong argument.

    Example:
        >>> trunk = blocks.TrunkBranch(16, units=1)
        >>> tuple(trunk(np.zeros((1, 8, 8, 16))).shape)
        (1, 8, 8, 16)
    """

    def __init__(self, filters, units=2, unit=None, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.unit = checks.whole("filters", filters), inside(unit)
        count = checks.whole("units", units)
        self.units = [ResidualUnit(filters, name=f"unit_{i + 1}", **self.unit) for i in range(count)]

    def sublayers(self):
        return list(self.units)

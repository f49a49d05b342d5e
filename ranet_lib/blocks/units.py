"""The residual unit, and the trunk branch, a row of them."""

import functools

from keras import layers

from ranet_lib import checks, fused
from ranet_lib.blocks.chains import Block, apply_chain, apply_checkpointed, build_chain, register
from ranet_lib.fused import BatchNormalization


def convolution(filters, kernel_size, strides=1, groups=1, use_bias=False, name=None):
    """A convolution as the paper trains it: zero padding that keeps the size, He initialisation.

    `filters`, `kernel_size`, `strides`, `groups`, `use_bias` and `name` are those of `keras.layers.Conv2D`.
    """
    return layers.Conv2D(
        filters, kernel_size, strides=strides, groups=groups, padding="same", data_format="channels_last",
        use_bias=use_bias, kernel_initializer="he_normal", name=name,
    )  # fmt: skip


@register
class ResidualUnit(Block):
    """A pre-activation bottleneck unit: BN-ReLU-conv 1x1, BN-ReLU-conv 3x3, BN-ReLU-conv 1x1, plus the input.

    `(batch, height, width, channels)` becomes `(batch, height / strides, width / strides, filters)`, rounded up.
    Where the shape changes, the shortcut is a 1x1 convolution of the input; elsewhere it is the input itself.
    Follows He et al. 2016, "Identity mappings in deep residual networks", as the paper's section 3 does. Raises a
    ValueError for a count below 1, or channels that cannot be divided as asked.

    Args:
        filters: channels of the output.
        strides: 2 halves height and width, 1 keeps them.
        inner_filters: channels between the convolutions; None, the bottleneck of the paper, is a quarter of `filters`.
        shortcut: False leaves the addition out (the student project's "without shortcut").
        groups: of the 3x3 convolution (more than 1 in AttentionNeXt).
        always_project: True makes every shortcut a 1x1 convolution (as in the student project).
        use_bias: True gives each convolution a bias (as in the student project).
        checkpointing: True keeps nothing inside the unit for the backward pass; see `apply_checkpointed`.

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


@register
class TrunkBranch(Block):
    """The trunk of an attention module: `units` residual units in a row (the paper's `t`). Keeps the shape.

    `filters` are the channels of input and output, `unit` has further arguments of `ResidualUnit`, as a dict.
    Raises a ValueError for a wrong argument.

    Example:
        >>> trunk = blocks.TrunkBranch(16, units=1)
        >>> tuple(trunk(np.zeros((1, 8, 8, 16))).shape)
        (1, 8, 8, 16)
    """

    def __init__(self, filters, units=2, unit=None, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.unit = filters, dict(unit or {})
        names = [f"unit_{i + 1}" for i in range(checks.whole("units", units))]
        self.units = [ResidualUnit(filters, name=name, **self.unit) for name in names]

    def sublayers(self):
        return list(self.units)

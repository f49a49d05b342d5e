"""The attention module: a trunk branch and a mask branch, joined by a learning rule."""

import keras

from ranet_lib import checks
from ranet_lib.blocks.chains import Block, apply_chain, register
from ranet_lib.blocks.mask_branches import MASK_BRANCHES, LocalMaskBranch, MaskBranch, local_inner_filters
from ranet_lib.blocks.units import ResidualUnit, TrunkBranch, inside

LEARNING_RULES = ("residual", "naive")


@register
class AttentionModule(Block):
    """Residual units, then a trunk branch beside a mask branch, combined, then residual units. Keeps the shape.

    With `F` the trunk and `M` the mask, both `(batch, height, width, filters)`, `learning` says how they are combined::

        learning="residual":  (1 + M) * F    attention residual learning, equation 3 of the paper
        learning="naive":     M * F          naive attention learning, equation 1

    `pre_units`, `trunk_units` and `mask_units` are the paper's `p`, `t` and `r`; as many units follow as precede.
    `mask_branch` is "encoder_decoder", which halves the size `mask_depth` times, or "local": `3 * mask_units` units at
    full size, thin enough to cost the same. `filters`, `mask_activation`, `unit`, `pool_size`, `interpolation` and the
    ValueError for a wrong argument are those of `MaskBranch`.

    Example:
        >>> module = blocks.AttentionModule(16, pre_units=0, trunk_units=1)
        >>> outputs, mask = module(np.zeros((1, 8, 8, 16)), return_mask=True)
        >>> tuple(outputs.shape), tuple(mask.shape)
        ((1, 8, 8, 16), (1, 8, 8, 16))
    """

    def __init__(self, filters, mask_depth=1, pre_units=1, trunk_units=2, mask_units=1, learning="residual",
                 mask_activation="mixed", mask_branch="encoder_decoder", unit=None, pool_size=3,
                 interpolation="bilinear", **kwargs):  # fmt: skip
        super().__init__(**kwargs)
        self.filters = checks.whole("filters", filters)
        self.mask_depth = checks.whole("mask_depth", mask_depth)
        self.mask_units = checks.whole("mask_units", mask_units)
        self.pre_units = checks.whole("pre_units", pre_units, least=0)
        self.trunk_units = checks.whole("trunk_units", trunk_units)
        self.learning = checks.choice("learning", learning, LEARNING_RULES)
        self.mask_branch = checks.choice("mask_branch", mask_branch, MASK_BRANCHES)
        self.mask_activation, self.unit = mask_activation, inside(unit)
        self.pool_size = checks.choice("pool_size", pool_size, (2, 3))
        self.interpolation = checks.choice("interpolation", interpolation, ("bilinear", "nearest"))
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

    def call(self, inputs, training=None, return_mask=False):
        """Return the features, or with `return_mask=True` the pair of features and mask."""
        features = apply_chain(self.pre, inputs, training)
        trunk = self.trunk(features, training=training)
        mask = self.mask(features, training=training)
        attended = (1.0 + mask) * trunk if self.learning == "residual" else mask * trunk
        outputs = apply_chain(self.post, attended, training)
        return (outputs, mask) if return_mask else outputs

    def compute_output_spec(self, inputs, training=None, return_mask=False):
        # Two, because Keras tells outputs apart by identity.
        features, mask = (keras.KerasTensor(inputs.shape, dtype=self.compute_dtype) for _ in range(2))
        return (features, mask) if return_mask else features

    def sublayers(self):
        return [*self.pre, self.trunk, self.mask, *self.post]

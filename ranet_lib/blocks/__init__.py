"""The building blocks of a Residual Attention Network, from the residual unit up to the attention module.

All are Keras layers on images `(batch, height, width, channels)`. Paper: F. Wang et al., CVPR 2017, arXiv:1704.06904.
"""

from ranet_lib.blocks.chains import Block, apply_chain, apply_checkpointed, build_chain, walk  # noqa: I001
from ranet_lib.blocks.mask_branches import (
    INTERPOLATIONS, MASK_ACTIVATIONS, MASK_BRANCHES, LocalMaskBranch, MaskBranch, channel, local_inner_filters, mixed,
    spatial)  # fmt: skip
from ranet_lib.blocks.modules import LEARNING_RULES, AttentionModule
from ranet_lib.blocks.units import ResidualUnit, TrunkBranch, convolution
from ranet_lib.fused import BatchNormalization

__all__ = [
    "INTERPOLATIONS", "LEARNING_RULES", "MASK_ACTIVATIONS", "MASK_BRANCHES", "AttentionModule", "BatchNormalization",
    "Block", "LocalMaskBranch", "MaskBranch", "ResidualUnit", "TrunkBranch", "apply_chain", "apply_checkpointed",
    "build_chain", "channel", "convolution", "local_inner_filters", "mixed", "spatial", "walk"]  # fmt: skip

"""What the chapters show: figures with their alt text, tables, drawings of networks, figures that a reader moves."""

from ranet_lib.show.drawings import draw  # noqa: I001
from ranet_lib.show.explorers import explore
from ranet_lib.show.figures import (
    COLOURS, MASK_MAP, STYLE, curves, figure, image_grid, masks_over_images, say, table)  # fmt: skip

__all__ = [
    "COLOURS", "MASK_MAP", "STYLE", "curves", "draw", "explore", "figure", "image_grid", "masks_over_images",
    "say", "table"]  # fmt: skip

"""Cluttered digits: handwritten digits on colour clutter, painted from what scikit-learn ships."""

import importlib.util
from pathlib import Path

import numpy as np

from ranet_lib.datasets.splits import Dataset, Split, make_dataset, random_ranks

# Of each split: how many scenes, and which part of the writings they are painted from.
_SCENES = ((10_000, 0, 0.7), (1_000, 0.7, 0.8), (2_000, 0.8, 1))
_SIDE = 32  # of an image, in pixels
_MARGIN = 6  # around it while it is painted, so that what crosses the border needs no special case
_CANVAS = _SIDE + 2 * _MARGIN
_GLYPH_SIDE = 40  # samples: ten cells, the digit's eight and a blank one on each side, of four samples each
_DIGIT_PATCH, _PIECE_PATCH = 21, 11  # pixels; room for the largest digit and the largest piece, turned
_PIECES, _PIECES_PER_SCENE = 2000, 10  # of clutter: different ones in a split, and how many an image gets
_AT_ONCE = 250  # images painted together: few enough to stay in the processor's cache


def load(seed: int) -> Dataset:
    cells, digits = _handwritten_digits()
    glyphs = _enlarge(cells)
    # Whole writings go to one split; pieces of clutter are cut from the split's own.
    place = random_ranks(digits, np.random.default_rng([seed, 0])) / np.bincount(digits)[digits]
    splits = []
    for number, (count, first, last) in enumerate(_SCENES):
        of_split = np.flatnonzero((first <= place) & (place < last))
        of_split = of_split[np.argsort(digits[of_split], kind="stable")]
        rng = np.random.default_rng([seed, 1 + number])
        splits.append(_paint_scenes(glyphs[of_split], digits[of_split], count, rng))
    return make_dataset("cluttered_digits", *splits, tuple("0123456789"), "embedded")


def _handwritten_digits() -> tuple[np.ndarray, np.ndarray]:
    """The 1,797 digits of scikit-learn: float32 (N, 8, 8) from 0 to 1, and their labels."""
    package = Path(importlib.util.find_spec("sklearn").origin).parent  # its import would take longer than all the rest
    numbers = np.loadtxt(package / "datasets" / "data" / "digits.csv.gz", np.float32, delimiter=",")
    return numbers[:, :-1].reshape(-1, 8, 8) / 16, numbers[:, -1].astype(np.int64)


def _enlarge(cells: np.ndarray) -> np.ndarray:
    """Draw 8x8 digits smoothly (cubic, Catmull-Rom) on (N, 40, 40) samples, from 0 to 1."""
    cells = np.pad(cells, ((0, 0), (1, 1), (1, 1)))
    position = (np.arange(_GLYPH_SIDE) + 0.5) / 4 - 0.5
    cell = np.floor(position).astype(int)
    t = (position - cell).astype(np.float32)
    weights = ((2 - t) * t - 1) * t / 2, (3 * t - 5) * t * t / 2 + 1, ((4 - 3 * t) * t + 1) * t / 2, (t - 1) * t * t / 2
    taps = [(np.clip(cell + tap - 1, 0, 9), weight) for tap, weight in enumerate(weights)]
    rows = sum(cells[:, index] * weight[:, None] for index, weight in taps)
    smooth = sum(rows[:, :, index] * weight for index, weight in taps)
    return np.clip((smooth - 0.2) / 0.6, 0, 1)


def _paint_scenes(glyphs: np.ndarray, digits: np.ndarray, count: int, rng: np.random.Generator) -> Split:
    """Paint `count` scenes, as many of each digit, from glyphs (sorted by digit) and pieces of them."""
    pieces = _cut_pieces(glyphs, rng)
    labels = np.arange(count, dtype=np.int64) % 10
    labels = labels[np.argsort(rng.random(count), kind="stable")]
    of_digit = np.bincount(digits)
    split = Split(np.empty((count, _SIDE, _SIDE, 3), np.uint8), labels, np.empty((count, _SIDE, _SIDE), bool))
    inside = slice(_MARGIN, _MARGIN + _SIDE)
    for start in range(0, count, _AT_ONCE):
        these = slice(start, start + _AT_ONCE)
        num = len(labels[these])
        canvas = np.zeros((num, _CANVAS, _CANVAS, 3), np.float32)
        canvas[:, inside, inside] = _clouds(num, rng)
        for _ in range(_PIECES_PER_SCENE):
            cover = pieces[rng.integers(0, len(pieces), num)]
            middle = rng.integers(_MARGIN, _MARGIN + _SIDE, (num, 2))
            _paint(canvas, cover, middle - _PIECE_PATCH // 2, _strong_colours(num, rng))
        first = (np.cumsum(of_digit) - of_digit)[labels[these]]
        which = first + (rng.random(num) * of_digit[labels[these]]).astype(int)
        size = rng.uniform(13, 18, (num, 1))
        centre = _MARGIN + (size - 1) / 2 + rng.random((num, 2)) * (_SIDE - size)
        corner = np.floor(centre).astype(int) - _DIGIT_PATCH // 2
        cover = _draw_glyphs(glyphs[which], size[:, 0], rng.uniform(-0.26, 0.26, num), centre - corner, _DIGIT_PATCH)
        _paint(canvas, cover, corner, _strong_colours(num, rng))
        mask = np.zeros(canvas.shape[:3], bool)
        mask.reshape(-1)[_pixels(corner, _DIGIT_PATCH)] = cover > 0.5
        images = (canvas[:, inside, inside] + 0.5).astype(np.uint8)
        images[rng.random(num) < 0.5] ^= 255  # half of the scenes are dark on bright
        split.images[these], split.masks[these] = images, mask[:, inside, inside]
    return split


def _cut_pieces(glyphs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Coverages (2000, 11, 11) of clutter: short strokes, and cuts of digits around a point of their ink."""
    num, middle = _PIECES, _PIECE_PATCH // 2
    y = np.arange(-middle, middle + 1, dtype=np.float32)[:, None]
    x = y[:, 0]
    glyph = glyphs[rng.integers(0, len(glyphs), num)]
    size, angle = rng.uniform(13, 18, num), rng.uniform(-0.26, 0.26, num)
    is_ink = glyph.reshape(num, -1) > 0.5
    point = (is_ink * rng.random(is_ink.shape, np.float32)).argmax(1)
    offset = (np.stack(np.divmod(point, _GLYPH_SIDE), -1) - (_GLYPH_SIDE - 1) / 2) * (size / 32)[:, None]
    cos, sin = _unit_vectors(angle)
    turned = np.stack([offset[:, 0] * cos + offset[:, 1] * sin, offset[:, 1] * cos - offset[:, 0] * sin], -1)
    cuts = _draw_glyphs(glyph, size, angle, middle - turned, _PIECE_PATCH)
    cos, sin = (part[:, None, None] for part in _unit_vectors(rng.uniform(0, np.pi, num)))
    along, across = x * cos + y * sin, y * cos - x * sin
    half_length, half_width = rng.uniform(2.5, 4, (2, num, 1, 1)).astype(np.float32)
    cuts *= np.clip(half_length + 0.5 - np.abs(along), 0, 1) * np.clip(half_width + 0.5 - np.abs(across), 0, 1)
    half_length, half_width = (rng.uniform(*limits, (num, 1, 1)).astype(np.float32) for limits in ((2, 4), (0.5, 1.2)))
    beyond = np.maximum(np.abs(along) - half_length, 0)
    strokes = np.clip(half_width + 0.5 - np.sqrt(across**2 + beyond**2), 0, 1)
    return np.where(np.arange(num)[:, None, None] < 0.3 * num, strokes, cuts)


def _draw_glyphs(glyphs, size, angle, centre, patch: int) -> np.ndarray:
    """Coverages (N, patch, patch) of glyphs: `size` pixels high, turned by `angle`, with their `centre` at (y, x)."""
    cos, sin = (part[:, None, None] for part in _unit_vectors(angle))
    per_pixel = (32 / size).astype(np.float32)[:, None, None]  # samples of the digit's eight cells
    y = (np.arange(patch) - centre[:, :1]).astype(np.float32)[:, :, None] * per_pixel
    x = (np.arange(patch) - centre[:, 1:]).astype(np.float32)[:, None, :] * per_pixel
    middle, last = (_GLYPH_SIDE - 1) / 2, _GLYPH_SIDE - 1.001  # the border is blank, so stopping there is right
    v, u = np.clip(y * cos - x * sin + middle, 0, last), np.clip(y * sin + x * cos + middle, 0, last)
    row, column = v.astype(int), u.astype(int)
    v, u = v - row, u - column
    sample = (np.arange(len(glyphs))[:, None, None] * _GLYPH_SIDE + row) * _GLYPH_SIDE + column
    ink = glyphs.reshape(-1)
    above = ink[sample] * (1 - u) + ink[sample + 1] * u
    below = ink[sample + _GLYPH_SIDE] * (1 - u) + ink[sample + _GLYPH_SIDE + 1] * u
    return above * (1 - v) + below * v


def _clouds(num: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth random colours, dim beside the strong ones: float32, (num, 32, 32, 3)."""
    grid = rng.uniform(20, 130, (num, 6, 6, 3)).astype(np.float32)
    position = np.arange(_SIDE) * (5 / (_SIDE - 1))
    cell = np.minimum(position.astype(int), 4)
    t = (position - cell).astype(np.float32)
    t = (t * t * (3 - 2 * t))[:, None]
    rows = grid[:, cell] * (1 - t[:, None]) + grid[:, cell + 1] * t[:, None]
    return rows[:, :, cell] * (1 - t) + rows[:, :, cell + 1] * t


def _strong_colours(num: int, rng: np.random.Generator) -> np.ndarray:
    """One channel high, one low, one between, in any order: float32, (num, 3)."""
    low, high = np.array([[200, 40, 40], [255, 130, 255]], np.float32)
    values = low + (high - low) * rng.random((num, 3), np.float32)
    orders = np.array([[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])
    return np.take_along_axis(values, orders[rng.integers(0, 6, num)], -1)


def _paint(canvas: np.ndarray, cover: np.ndarray, corner: np.ndarray, colour: np.ndarray) -> None:
    """Lay one colour over each image, as thickly as `cover` (N, patch, patch) says, from `corner` on."""
    flat, pixels = canvas.reshape(-1, 3), _pixels(corner, cover.shape[1])
    area = flat[pixels]
    flat[pixels] = area + cover[..., None] * (colour[:, None, None] - area)


def _pixels(corner: np.ndarray, patch: int) -> np.ndarray:
    """The flat indices (N, patch, patch) of a patch of each image while it is painted, from its `corner` on."""
    y, x = corner.T[:, :, None] + np.arange(patch)
    return (np.arange(len(corner))[:, None, None] * _CANVAS + y[:, :, None]) * _CANVAS + x[:, None, :]


def _unit_vectors(angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # Processors differ in the last digit of a cosine; rounded, the images are the same bytes on each of them.
    return np.round(np.cos(angle), 6).astype(np.float32), np.round(np.sin(angle), 6).astype(np.float32)

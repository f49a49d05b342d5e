"""Changes of an image that keep its class: the paper's, and the student project's."""

import numpy as np

from ranet_lib import checks


def augment(images: np.ndarray, rng: np.random.Generator, pad: int = 4, pad_value=0, mirror: bool = True) -> np.ndarray:
    """Pad each image, crop it at random to its own size again, and mirror it with probability 1/2.

    The paper's augmentation for CIFAR. `images` are (N, H, W, C) of any type, as is the new array; `rng` is a NumPy
    generator. `pad` pixels on each side hold `pad_value`, a number or one per channel: the mean colour is 0 after
    `Dataset.prepare`. `mirror` is False for digits and the like. Another shape, or `pad` below 0, is a ValueError.

    Example:
        >>> image = np.arange(1, 10).reshape(1, 3, 3, 1)
        >>> datasets.augment(image, np.random.default_rng(2), pad=1)[0, :, :, 0]  # moved and mirrored
        array([[5, 4, 0],
               [8, 7, 0],
               [0, 0, 0]])
    """
    images = _batch(images)
    pad = checks.whole("pad", pad, least=0)
    count, height, width, channels = images.shape
    padded_height, padded_width = height + 2 * pad, width + 2 * pad
    border = np.rint(pad_value) if images.dtype.kind in "iu" else pad_value
    padded = np.full((count, padded_height, padded_width, channels), border, images.dtype)
    padded[:, pad : pad + height, pad : pad + width] = images
    top, left, is_mirrored = draw_crops(count, rng, pad, mirror)
    x = np.arange(width)
    rows = np.arange(count)[:, None] * padded_height + top[:, None] + np.arange(height)
    columns = left[:, None] + np.where(is_mirrored[:, None], x[::-1], x)
    pixels = rows[:, :, None] * padded_width + columns[:, None, :]
    # One `take` of whole pixels is several times as fast as indexing the four axes.
    return padded.reshape(-1, channels).take(pixels.ravel(), axis=0).reshape(images.shape)


def _batch(images):
    images = np.asarray(images)
    if images.ndim != 4:
        raise ValueError(f"augmentation takes a batch of shape (N, H, W, C); got the shape {images.shape}")
    return images


def draw_crops(count: int, rng: np.random.Generator, pad: int, mirror: bool) -> tuple[np.ndarray, ...]:
    """The chance in `augment`: how far down and right each crop starts (0 to 2 * pad), and whether it is mirrored."""
    top, left = rng.integers(0, 2 * pad + 1, (2, count))
    return top, left, rng.random(count) < (0.5 if mirror else 0)


def rotate_shift_mirror(images: np.ndarray, rng: np.random.Generator, degrees=20.0, shift=0.2, mirror: bool = True):
    """The student project's augmentation, bilinear: `images` (N, H, W, C), of floats, as a new array of the same shape.

    Each is rotated by an angle that `rng` draws from -`degrees` to `degrees`, shifted in each direction by at most the
    part `shift` of its side, and mirrored with probability 1/2 unless `mirror` is False. Its edge pixels go on outside.
    Another shape is a ValueError.
    """
    from scipy.ndimage import map_coordinates
    images = _batch(images)
    count, height, width, channels = images.shape
    angle = np.deg2rad(rng.uniform(-degrees, degrees, count))[:, None, None]
    flip = np.where(rng.random(count) < (0.5 if mirror else 0), -1.0, 1.0)[:, None, None]
    down = rng.uniform(-shift, shift, count)[:, None, None] * height
    right = rng.uniform(-shift, shift, count)[:, None, None] * width
    y, x = np.mgrid[:height, :width].astype(np.float32)
    y, x = y - (height - 1) / 2 - down, (x - (width - 1) / 2) * flip - right
    rows = np.cos(angle) * y - np.sin(angle) * x + (height - 1) / 2
    columns = np.sin(angle) * y + np.cos(angle) * x + (width - 1) / 2
    turned = np.empty_like(images)
    for i, c in np.ndindex(count, channels):
        turned[i, :, :, c] = map_coordinates(images[i, :, :, c], (rows[i], columns[i]), order=1, mode="nearest")
    return turned

"""What every data set is made of: three splits of images, labels and, where the truth is known, object masks."""

import functools
import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """`images` (uint8, shape (N, H, W, 3), RGB) and their `labels` (int64, shape (N,)).

    `masks` are the pixels of the object (bool, (N, H, W)), or None where it is unknown. `places` (N,) say where CIFAR's
    images stand in the official training files; None for other data.
    """

    images: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None = None
    places: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows) -> "Split":
        """The split of some `rows`: a slice, row numbers, or a bool array."""
        parts = (self.images, self.labels, self.masks, self.places)
        return Split(*(None if part is None else part[rows] for part in parts))

    def __repr__(self) -> str:
        return f"Split(images {self.images.shape}{'' if self.masks is None else ', with masks'})"


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Three splits that share no image. Training may look at `train` and `validation`; `test` is for the end.

    It was loaded by `name`. `class_names` are in the order of the labels, `fingerprint` is "sha256:..." of all bytes as
    loaded. `copy` is "embedded" (made from scikit-learn's digits), "official" (every file has its published checksum)
    or else "unverified".
    """

    name: str
    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    fingerprint: str
    copy: str

    num_classes = property(lambda self: len(self.class_names), doc="How many classes there are.")
    image_shape = property(lambda self: self.train.images.shape[1:], doc="(H, W, 3).")
    mean = property(lambda self: self._statistics[0], doc="Mean red, green, blue in training, 0 to 255; float32 (3,).")
    std = property(lambda self: self._statistics[1], doc="Their standard deviation in training; float32 (3,).")
    mirrors = property(lambda self: self.name != "cluttered_digits", doc="Whether a mirrored image means the same.")

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """`images` as networks take them, `(images - mean) / std` in float32; the paper subtracts the mean only."""
        return (np.asarray(images, np.float32) - self.mean) / self.std

    @functools.cached_property
    def _statistics(self) -> tuple[np.ndarray, np.ndarray]:
        # Whole numbers throughout: exact, so the same on every machine, and no float copy of the images.
        rows = self.train.images.reshape(len(self.train), -1)
        total = np.einsum("np->p", rows, dtype=np.uint64).reshape(-1, 3).sum(0)
        squares = np.einsum("np,np->p", rows, rows, dtype=np.uint64).reshape(-1, 3).sum(0)
        mean = total / (rows.size // 3)
        std = np.sqrt(squares / (rows.size // 3) - mean**2)
        std[std == 0] = 1  # a channel that never varies has nothing to scale
        return mean.astype(np.float32), std.astype(np.float32)

    def __repr__(self) -> str:
        parts = f"train={self.train!r}, validation={self.validation!r}, test={self.test!r}"
        return f"Dataset({self.name!r}, {parts}, {self.num_classes} classes, copy={self.copy!r})"


def make_dataset(name: str, train: Split, validation: Split, test: Split, class_names, copy: str) -> Dataset:
    """Put splits together and take the fingerprint of their bytes."""
    digest = hashlib.sha256()
    for split in (train, validation, test):
        for array in (split.images, split.labels, split.masks):
            if array is not None:
                digest.update(f"{array.dtype.str}{array.shape}".encode())
                digest.update(np.ascontiguousarray(array).data.cast("B"))
    return Dataset(name, train, validation, test, class_names, f"sha256:{digest.hexdigest()}", copy)


def random_ranks(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The place of each member when the members of each class are put in a random order."""
    order = np.lexsort((rng.random(len(labels)), labels))
    counts = np.bincount(labels)
    ranks = np.empty(len(labels), np.int64)
    ranks[order] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return ranks


def hold_out_tenth(images: np.ndarray, labels: np.ndarray, seed: int) -> tuple[Split, Split]:
    """What is left of a split, and a tenth of it, rounded up, each class in proportion."""
    counts = np.bincount(labels)
    wanted = -(-len(labels) // 10)
    share, remainder = np.divmod(counts * wanted, len(labels))
    share[np.argsort(-remainder, kind="stable")[: wanted - share.sum()]] += 1
    is_held_out = random_ranks(labels, np.random.default_rng(seed)) < share[labels]
    parts = (np.flatnonzero(chosen) for chosen in (~is_held_out, is_held_out))
    return tuple(Split(images[places], labels[places], places=places) for places in parts)


def check_labels(labels: np.ndarray, num_classes: int, what: str) -> None:
    """Raise a ValueError unless `labels` (N,) are whole numbers from 0 to `num_classes - 1`."""
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{what} must be one row of whole numbers; got {labels.dtype} of shape {labels.shape}")
    if len(labels) and not (0 <= labels.min() and labels.max() < num_classes):
        found = f"{what} run from {labels.min()} to {labels.max()}"
        raise ValueError(f"{found}; with {num_classes} classes, 0 to {num_classes - 1} is allowed")

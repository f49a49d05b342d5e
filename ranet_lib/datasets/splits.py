"""What every data set is made of: three splits of images, labels and, where the truth is known, object masks."""

import functools
import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Images and their labels.

    Attributes:
        images: uint8, shape (N, H, W, 3), RGB, 0 to 255.
        labels: int64, shape (N,), the class of each image, from 0.
        masks: None, or bool, shape (N, H, W): the pixels of the object where the truth is known.
    """

    images: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Split(images {self.images.shape}{'' if self.masks is None else ', with masks'})"


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Three splits that share no image, and what describes them.

    Training may look at `train` and `validation`; `test` is for the end.

    Attributes:
        name: the name it was loaded by.
        train, validation, test: the splits.
        class_names: the name of each class, in the order of the labels.
        fingerprint: "sha256:..." of the bytes of all arrays: equal if and only if the data are.
        copy: "embedded" (made from what scikit-learn ships), "official" (every file has its published
            checksum), "jpeg" (the files say that they are a JPEG copy), else "unverified".
    """

    name: str
    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    fingerprint: str
    copy: str

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, 3)."""
        return self.train.images.shape[1:]

    @property
    def mean(self) -> np.ndarray:
        """The mean red, green and blue of the training images, 0 to 255; float32, shape (3,)."""
        return self._statistics[0]

    @property
    def std(self) -> np.ndarray:
        """The standard deviation of red, green and blue in the training images; float32, shape (3,)."""
        return self._statistics[1]

    @property
    def mirrors(self) -> bool:
        """Whether an image means the same mirrored, as a digit does not."""
        return self.name != "cluttered_digits"

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """`images`, of shape (N, H, W, 3), as networks take them: `(images - mean) / std`, float32.

        The paper subtracts the mean only; dividing by the spread as well makes one recipe fit all data sets.
        """
        return (np.asarray(images, np.float32) - self.mean) / self.std

    @functools.cached_property
    def _statistics(self) -> tuple[np.ndarray, np.ndarray]:
        # Whole numbers throughout: exact, so the same on every machine, and no float copy of the images.
        images = self.train.images
        total, squares = np.zeros(3, np.uint64), np.zeros(3, np.uint64)
        for start in range(0, len(images), 256):
            rows = images[start : start + 256].reshape(-1, self.image_shape[1] * 3)
            total += rows.sum(0, dtype=np.uint32).reshape(-1, 3).sum(0, dtype=np.uint64)
            squares += (
                np.square(rows, dtype=np.uint16)
                .sum(0, dtype=np.uint32)
                .reshape(-1, 3)
                .sum(0, dtype=np.uint64)
            )
        pixels = images.size // 3
        mean = total / pixels
        std = np.sqrt(squares / pixels - mean**2)
        std[std == 0] = 1  # a channel that never varies has nothing to scale
        return mean.astype(np.float32), std.astype(np.float32)

    def __repr__(self) -> str:
        parts = f"train={self.train!r}, validation={self.validation!r}, test={self.test!r}"
        return f"Dataset({self.name!r}, {parts}, {self.num_classes} classes, copy={self.copy!r})"


def make_dataset(
    name: str, train: Split, validation: Split, test: Split, class_names: tuple[str, ...], copy: str
) -> Dataset:
    """Put splits together and take the fingerprint of their bytes."""
    digest = hashlib.sha256()
    for split in (train, validation, test):
        for array in (split.images, split.labels, split.masks):
            if array is not None:
                digest.update(f"{array.dtype.str}{array.shape}".encode())
                digest.update(np.ascontiguousarray(array).data.cast("B"))
    return Dataset(name, train, validation, test, class_names, f"sha256:{digest.hexdigest()}", copy)


def random_ranks(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Put the members of each class in a random order, and return everyone's place in that of its class."""
    order = np.lexsort((rng.random(len(labels)), labels))
    counts = np.bincount(labels)
    ranks = np.empty(len(labels), np.int64)
    ranks[order] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return ranks


def hold_out_tenth(images: np.ndarray, labels: np.ndarray, seed: int) -> tuple[Split, Split]:
    """Split off a tenth, rounded up, each class in proportion; overwrites `images`, which the first keeps."""
    counts = np.bincount(labels)
    wanted = -(-len(labels) // 10)
    share, remainder = np.divmod(counts * wanted, len(labels))
    share[np.argsort(-remainder, kind="stable")[: wanted - share.sum()]] += 1
    is_held_out = random_ranks(labels, np.random.default_rng(seed)) < share[labels]
    held_out = Split(images[is_held_out], labels[is_held_out])
    kept = np.flatnonzero(~is_held_out)
    for start in range(0, len(kept), 1000):  # moved up in place: a copy would double the memory
        these = kept[start : start + 1000]
        images[start : start + len(these)] = images[these]
    return Split(images[: len(kept)], labels[kept]), held_out


def check_labels(labels: np.ndarray, num_classes: int, what: str) -> None:
    """Raise a ValueError unless `labels` (N,) are whole numbers from 0 to `num_classes - 1`."""
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{what} must be one row of whole numbers; got {labels.dtype} of shape {labels.shape}"
        )
    if len(labels) and not (0 <= labels.min() and labels.max() < num_classes):
        raise ValueError(
            f"{what} run from {labels.min()} to {labels.max()}; with {num_classes} classes, 0 to"
            f" {num_classes - 1} is allowed"
        )

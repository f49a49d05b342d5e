"""Labels that are wrong on purpose: the paper's study of noise (section 4.1)."""

from dataclasses import replace

import numpy as np

from ranet_lib import checks
from ranet_lib.datasets.splits import Dataset, check_labels


def transition_matrix(level: float, num_classes: int) -> np.ndarray:
    """The paper's label noise: the probability that a label of one class (row) is given as another (column).

    Section 4.1: `1 - level` on the diagonal and `level / (num_classes - 1)` everywhere else. A `level` outside of 0 to
    1, or `num_classes` below 2, is a ValueError.

    Example:
        >>> datasets.transition_matrix(0.5, num_classes=3)
        array([[0.5 , 0.25, 0.25],
               [0.25, 0.5 , 0.25],
               [0.25, 0.25, 0.5 ]])
    """
    level = checks.number("level", level, least=0, most=1)
    num_classes = checks.whole("num_classes", num_classes, least=2)
    matrix = np.full((num_classes, num_classes), level / (num_classes - 1))
    np.fill_diagonal(matrix, 1 - level)
    return matrix


def corrupt_labels(labels: np.ndarray, level: float, num_classes: int, seed: int) -> np.ndarray:
    """Draw each label again from the row of its true class in `transition_matrix(level, num_classes)`.

    `labels` are whole numbers from 0 to `num_classes` - 1, shape (N,); a new int64 array is returned. A higher `level`
    corrupts the labels that a lower one does with the same `seed`, and more. A ValueError names what is out of range.

    Example:
        >>> datasets.corrupt_labels(np.arange(10), 0.3, num_classes=10, seed=0)
        array([0, 9, 9, 4, 4, 5, 6, 7, 8, 9])
    """
    level = checks.number("level", level, least=0, most=1)
    num_classes = checks.whole("num_classes", num_classes, least=2)
    labels = np.asarray(labels)
    check_labels(labels, num_classes, "labels")
    rng = np.random.default_rng(checks.whole("seed", seed, least=0))
    is_corrupted, labels = rng.random(len(labels)) < level, labels.astype(np.int64)
    return np.where(is_corrupted, (labels + rng.integers(1, num_classes, len(labels))) % num_classes, labels)


def with_label_noise(dataset: Dataset, level: float, seed: int) -> Dataset:
    """A copy of `dataset` with corrupted training and validation labels; the test labels stay true.

    With noisy labels there are no clean ones to choose weights by. `level`, `seed`, ValueError: see `corrupt_labels`.
    """
    seed = checks.whole("seed", seed, least=0)
    if checks.number("level", level, least=0, most=1) == 0:
        return dataset
    train, validation = (
        replace(split, labels=corrupt_labels(split.labels, level, dataset.num_classes, seed + offset))
        for offset, split in enumerate((dataset.train, dataset.validation))
    )
    return replace(dataset, train=train, validation=validation)

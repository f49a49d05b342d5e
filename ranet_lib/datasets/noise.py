"""Labels that are wrong on purpose: the paper's study of noise (section 4.1)."""

from dataclasses import replace

import numpy as np

from ranet_lib import checks
from ranet_lib.datasets.splits import Dataset, check_labels


def transition_matrix(level: float, num_classes: int) -> np.ndarray:
    """The paper's label noise: the probability that a label of one class (row) is given as another (column).

    Section 4.1 of the paper: the clean ratio `1 - level` on the diagonal and `level / (num_classes - 1)`
    everywhere else.

    Args:
        level: the noise level, from 0 to 1.
        num_classes: at least 2.

    Returns:
        float64, shape (num_classes, num_classes); each row sums to 1.

    Raises:
        ValueError: for a level or a number of classes outside these ranges.

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
    """Draw each label anew from the row of its true class in `transition_matrix(level, num_classes)`.

    With the same seed, a higher level corrupts the labels that a lower one does, and more.

    Args:
        labels: whole numbers, shape (N,), from 0 to num_classes - 1.
        level: the noise level, from 0 (nothing changes) to 1 (every label is wrong).
        num_classes: at least 2.
        seed: a whole number from 0.

    Returns:
        A new int64 array, shape (N,).

    Raises:
        ValueError: for labels, a level, a number of classes or a seed outside these ranges.

    Example:
        >>> datasets.corrupt_labels(np.arange(10), 0.3, num_classes=10, seed=0)
        array([0, 9, 9, 4, 4, 5, 6, 7, 8, 9])
    """
    level = checks.number("level", level, least=0, most=1)
    num_classes = checks.whole("num_classes", num_classes, least=2)
    labels = np.asarray(labels)
    check_labels(labels, num_classes, "labels")
    rng = np.random.default_rng(checks.whole("seed", seed, least=0))
    is_corrupted = rng.random(len(labels)) < level
    shift = rng.integers(1, num_classes, len(labels))
    labels = labels.astype(np.int64)
    return np.where(is_corrupted, (labels + shift) % num_classes, labels)


def with_label_noise(dataset: Dataset, level: float, seed: int) -> Dataset:
    """The same data set with the labels of its training and validation images corrupted; the test labels stay true.

    Whoever learns from noisy labels has no clean ones to choose weights by, so validation is as noisy as training.
    The fingerprint is that of the clean data: level and seed say the rest.

    Args:
        dataset: the data set with its true labels; it is left as it is.
        level, seed: as in `corrupt_labels`.

    Returns:
        A `Dataset` with the same images.

    Raises:
        ValueError: as in `corrupt_labels`.
    """
    checks.number("level", level, least=0, most=1)
    if level == 0:
        return dataset
    noisy = {
        name: replace(split, labels=corrupt_labels(split.labels, level, dataset.num_classes, seed + offset))
        for offset, (name, split) in enumerate(
            {"train": dataset.train, "validation": dataset.validation}.items()
        )
    }
    return replace(dataset, **noisy)

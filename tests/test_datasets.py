"""Data sets: the cluttered digits, statistics, wrong labels and augmentation. CIFAR has test_cifar.py."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_cifar import rows_as_set, splits, write_folder

from ranet_lib import datasets
from ranet_lib.datasets import augment, corrupt_labels, load_dataset, rotate_shift_mirror, transition_matrix

# ---- Any data set ------------------------------------------------------------------------------------------


def test_importing_datasets_imports_nothing_heavy():
    heavy = "{'keras', 'tensorflow', 'jax', 'torch', 'sklearn', 'PIL', 'matplotlib'}"
    code = f"import sys, ranet_lib.datasets; sys.exit(', '.join({heavy} & set(sys.modules)) or 0)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


@pytest.mark.parametrize("name", ["mnist", "CIFAR10", "", "folder", None, 10])
def test_an_unknown_name_is_an_error_that_lists_what_is_allowed(name):
    with pytest.raises(ValueError) as failure:
        load_dataset(name)
    for part in (repr(name), "cluttered_digits", "cifar10", "cifar100", "folder:PATH"):
        assert part in str(failure.value)


@pytest.mark.parametrize("seed", [-1, 1.5, "0", None, True])
def test_a_wrong_seed_is_an_error(seed):
    with pytest.raises(ValueError, match=f"seed must be a whole number of at least 0; received {seed!r}"):
        load_dataset("cluttered_digits", seed=seed)


def test_an_argument_that_does_not_apply_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="image_size=64 .* 32x32"):
        load_dataset("cifar10", tmp_path, image_size=64)
    with pytest.raises(ValueError, match="image_size=32"):
        load_dataset("cluttered_digits", image_size=32)
    with pytest.raises(ValueError, match="data_dir"):
        load_dataset("cluttered_digits", data_dir=tmp_path)
    with pytest.raises(ValueError, match="data_dir"):
        load_dataset(f"folder:{tmp_path}", data_dir=tmp_path)
    with pytest.raises(ValueError, match="image_size must be a whole number from 1 to 10000"):
        load_dataset(f"folder:{tmp_path}", image_size=0)


# ---- Cluttered digits --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    return load_dataset("cluttered_digits")


def test_cluttered_digits_are_complete_and_balanced(digits):
    assert [len(split) for split in splits(digits)] == [10_000, 1_000, 2_000]
    assert digits.class_names == tuple("0123456789")
    assert (digits.num_classes, digits.image_shape, digits.copy) == (10, (32, 32, 3), "embedded")
    for split in splits(digits):
        assert (split.images.shape, split.images.dtype) == ((len(split), 32, 32, 3), np.uint8)
        assert (split.masks.shape, split.masks.dtype) == ((len(split), 32, 32), bool)
        assert split.labels.dtype == np.int64
        assert np.bincount(split.labels).tolist() == [len(split) // 10] * 10
        assert len(rows_as_set(split.images)) == len(split)


def test_cluttered_digits_are_the_same_bytes_everywhere(digits):
    # A change here means that every record on this data set is about other images than before.
    assert digits.fingerprint == "sha256:e9080601841850e1e11b741525300051874f058686ac2d960480def28619dc75"


def test_the_seed_decides_what_is_painted(monkeypatch):
    monkeypatch.setattr(datasets.digits, "_SCENES", ((300, 0, 0.7), (30, 0.7, 0.8), (20, 0.8, 1)))
    first, again, other = (load_dataset("cluttered_digits", seed=seed) for seed in (0, 0, 1))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert not rows_as_set(first.train.images) & rows_as_set(other.train.images)


def test_a_mask_covers_one_digit_of_one_colour(digits):
    test = digits.test
    pixels = test.masks.sum((1, 2))
    assert pixels.min() >= 20 and pixels.max() <= 180
    rows = [np.flatnonzero(mask.any(1)) for mask in test.masks]
    heights = np.array([row[-1] - row[0] + 1 for row in rows])
    assert np.percentile(heights, 5) >= 10 and heights.max() <= 22
    for image, mask in zip(test.images[:300], test.masks[:300], strict=True):
        assert len(np.unique(image[mask], axis=0)) < mask.sum()  # full strokes repeat their colour exactly
        spread = image[mask].astype(float).std(0).mean()
        assert spread < 0.75 * image[~mask].astype(float).std(0).mean()


def test_the_clutter_is_as_strong_in_colour_as_the_digit(digits):
    images, masks = digits.test.images.astype(int), digits.test.masks
    strength = images.max(-1) - images.min(-1)
    is_strong = strength >= np.median(strength[masks])
    assert is_strong[masks].sum() < is_strong[~masks].sum()


def test_no_writing_is_shared_between_splits(monkeypatch):
    """Also true of the pieces of clutter, which are cut from what the split is given."""
    given = []

    def paint(glyphs, digits, count, rng):
        given.append(glyphs)
        return datasets.Split(np.zeros((10, 32, 32, 3), np.uint8), np.arange(10))

    monkeypatch.setattr(datasets.digits, "_paint_scenes", paint)
    load_dataset("cluttered_digits", seed=5)
    train, validation, test = (rows_as_set(glyphs) for glyphs in given)
    assert not (train & validation or train & test or validation & test)
    assert len(train | validation | test) == 1797
    assert len(train) > 1200 and len(validation) > 150 and len(test) > 300


def test_the_writings_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    cells, labels = datasets.digits._handwritten_digits()
    expected = load_digits()
    np.testing.assert_array_equal(cells * 16, expected.images)
    np.testing.assert_array_equal(labels, expected.target)


# ---- Statistics --------------------------------------------------------------------------------------------


def test_statistics_are_those_of_the_training_images(tmp_path):
    dataset = load_dataset("cifar10", write_folder(tmp_path, "cifar10"))
    pixels = dataset.train.images.reshape(-1, 3).astype(np.float64)
    assert dataset.mean.dtype == dataset.std.dtype == np.float32
    np.testing.assert_allclose(dataset.mean, pixels.mean(0), rtol=1e-6)
    np.testing.assert_allclose(dataset.std, pixels.std(0), rtol=1e-6)
    prepared = dataset.prepare(dataset.train.images)
    assert prepared.dtype == np.float32 and prepared.shape == dataset.train.images.shape
    np.testing.assert_allclose(prepared.reshape(-1, 3).mean(0, np.float64), 0, atol=1e-5)
    np.testing.assert_allclose(prepared.reshape(-1, 3).std(0, np.float64), 1, atol=1e-5)


# ---- Label noise -------------------------------------------------------------------------------------------


def test_the_transition_matrix_is_the_papers():
    matrix = transition_matrix(0.3, 10)
    assert matrix.shape == (10, 10)
    np.testing.assert_allclose(np.diag(matrix), 0.7)
    np.testing.assert_allclose(matrix[~np.eye(10, dtype=bool)], 0.3 / 9)
    np.testing.assert_allclose(matrix.sum(1), 1)
    np.testing.assert_array_equal(transition_matrix(0, 4), np.eye(4))


@pytest.mark.parametrize("level", [0.1, 0.7])
def test_corrupted_labels_follow_the_matrix(level):
    labels = np.repeat(np.arange(10), 20_000)
    corrupted = corrupt_labels(labels, level, 10, seed=3)
    counts = np.zeros((10, 10))
    np.add.at(counts, (labels, corrupted), 1)
    expected = transition_matrix(level, 10)
    error = np.sqrt(expected * (1 - expected) / 20_000)
    assert (np.abs(counts / 20_000 - expected) < 4.5 * error).all()  # 100 entries: one in 1,500 seeds fails


def test_corruption_is_reproducible_nested_and_leaves_the_input_alone():
    labels = np.random.default_rng(0).integers(0, 10, 5000).astype(np.uint8)
    kept = labels.copy()
    low, high = (corrupt_labels(labels, level, 10, seed=1) for level in (0.2, 0.6))
    np.testing.assert_array_equal(labels, kept)
    np.testing.assert_array_equal(low, corrupt_labels(labels, 0.2, 10, seed=1))
    assert low.dtype == np.int64
    assert (low != corrupt_labels(labels, 0.2, 10, seed=2)).any()
    np.testing.assert_array_equal(high[low != labels], low[low != labels])
    clean = corrupt_labels(labels, 0, 10, seed=1)
    np.testing.assert_array_equal(clean, labels)
    assert clean is not labels and not np.shares_memory(clean, labels)
    assert (corrupt_labels(labels, 1, 10, seed=1) != labels).all()


@pytest.mark.parametrize("level", [-0.1, 1.01, 30, float("nan"), "high", None])
def test_a_noise_level_outside_0_to_1_is_refused(level):
    for call in (
        lambda: corrupt_labels(np.zeros(3, int), level, 10, 0),
        lambda: transition_matrix(level, 10),
    ):
        kind = "finite number" if level != level else "number"  # NaN
        with pytest.raises(ValueError, match=f"level must be a {kind} at least 0 and at most 1; received {level!r}"):
            call()


def test_labels_and_classes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="0 to 10"):
        corrupt_labels(np.array([0, 10]), 0.1, 10, 0)
    with pytest.raises(ValueError, match="float64"):
        corrupt_labels(np.array([0.0, 1.0]), 0.1, 10, 0)
    with pytest.raises(ValueError, match="num_classes must be a whole number of at least 2; received 1"):
        transition_matrix(0.1, 1)


# ---- Augmentation ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("height, width", [(32, 32), (7, 12)])
def test_every_augmented_image_is_a_crop_of_the_padded_one_or_its_mirror(dtype, height, width):
    rng = np.random.default_rng(0)
    images = rng.integers(1, 256, (200, height, width, 3)).astype(dtype)
    kept = images.copy()
    result = augment(images, rng)
    np.testing.assert_array_equal(images, kept)
    assert result.dtype == dtype and result.shape == images.shape
    padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    found = set()
    for image, whole in zip(result, padded, strict=True):
        crops = {
            (top, left, mirrored): crop[:, ::-1] if mirrored else crop
            for top in range(9)
            for left in range(9)
            for crop in [whole[top : top + height, left : left + width]]
            for mirrored in (False, True)
        }
        matches = [key for key, crop in crops.items() if np.array_equal(crop, image)]
        assert len(matches) == 1
        found.add(matches[0])
    tops, lefts, mirrored = (set(values) for values in zip(*found, strict=True))
    assert tops == lefts == set(range(9)) and mirrored == {False, True}


def test_augment_pads_with_the_value_given():
    images = np.full((50, 8, 8, 3), 9, np.uint8)
    result = augment(images, np.random.default_rng(0), pad_value=np.array([1.2, 2.6, 3.5]))
    assert {tuple(pixel) for pixel in result.reshape(-1, 3).tolist()} == {(9, 9, 9), (1, 3, 4)}


def test_augment_can_leave_the_handedness_alone():
    images = np.random.default_rng(0).integers(0, 256, (100, 5, 20, 3), np.uint8)
    unmirrored = augment(images, np.random.default_rng(0), pad=0, mirror=False)
    np.testing.assert_array_equal(unmirrored, images)
    mirrored = (augment(images, np.random.default_rng(0), pad=0) != images).any((1, 2, 3))
    assert 30 < mirrored.sum() < 70


def test_augment_is_reproducible_and_checks_its_input():
    images = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), np.uint8)
    first, again, other = (augment(images, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert augment(images[:0], np.random.default_rng(0)).shape == (0, 16, 16, 3)
    with pytest.raises(ValueError, match=r"\(16, 16, 3\)"):
        augment(images[0], np.random.default_rng(0))
    with pytest.raises(ValueError, match="pad must be a whole number of at least 0; received -1"):
        augment(images, np.random.default_rng(0), pad=-1)


@pytest.mark.parametrize("level", [0, 0.3])
@pytest.mark.parametrize("seed", [-1, "0", None, True])
def test_a_seed_of_noise_that_is_none_is_refused(digits, level, seed):
    with pytest.raises(ValueError, match=f"seed must be a whole number of at least 0; received {seed!r}"):
        datasets.with_label_noise(digits, level, seed)


def test_noise_is_on_training_and_validation_labels_and_never_on_those_of_the_test(digits):
    noisy = datasets.with_label_noise(digits, 0.3, seed=0)
    for name in ("train", "validation"):
        wrong = getattr(noisy, name).labels != getattr(digits, name).labels
        assert 0.25 < wrong.mean() < 0.35
    np.testing.assert_array_equal(noisy.test.labels, digits.test.labels)
    assert datasets.with_label_noise(digits, 0, seed=0) is digits


def test_the_student_projects_augmentation_turns_and_shifts_as_far_as_it_is_told():
    rng, points = np.random.default_rng, np.zeros((200, 33, 33, 1), "float32")
    points[:, 16, 26] = 1  # ten pixels from the middle, where a pixel is six degrees
    turned = rotate_shift_mirror(points, rng(0), degrees=30, shift=0, mirror=False)
    y, x = np.divmod(turned.reshape(200, -1).argmax(axis=1), 33) - np.array(16)
    angles = np.degrees(np.arctan2(y, x))
    assert -33 < angles.min() < -24 and 24 < angles.max() < 33 and np.abs(np.hypot(y, x) - 10).max() < 1
    points = np.zeros((200, 40, 20, 1), "float32")
    points[:, 20, 10] = 1
    moved = rotate_shift_mirror(points, rng(0), degrees=0, shift=0.2, mirror=False)
    y, x = np.divmod(moved.reshape(200, -1).argmax(axis=1), 20)
    assert (y.min(), y.max(), x.min(), x.max()) == (12, 28, 6, 14)  # a fifth of each side
    plain = np.full((9, 8, 8, 3), 0.7, "float32")
    np.testing.assert_allclose(rotate_shift_mirror(plain, rng(0)), plain, rtol=1e-6)  # edges go on

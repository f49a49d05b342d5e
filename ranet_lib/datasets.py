"""Images to learn from: what `load_dataset` returns is all that the rest of the library knows about data."""

import functools
import gzip
import hashlib
import importlib.util
import math
import operator
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ranet_lib import downloads

__all__ = [
    "Dataset", "Split", "augment", "check_name", "corrupt_labels", "load_dataset", "rotate_shift_mirror",
    "transition_matrix", "with_label_noise",
]  # fmt: skip


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
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, 3)."""
        return self.train.images.shape[1:]

    @property
    def mean(self) -> np.ndarray:
        """float32, shape (3,): the mean red, green and blue of the training images, 0 to 255."""
        return self._statistics[0]

    @property
    def std(self) -> np.ndarray:
        """float32, shape (3,): the standard deviation of red, green and blue in the training images."""
        return self._statistics[1]

    @property
    def mirrors(self) -> bool:
        """Whether an image means the same mirrored: not so for digits."""
        return self.name != "cluttered_digits"

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """Return `(images - mean) / std` as float32, of the same shape (N, H, W, 3).

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


def load_dataset(
    name: str,
    data_dir: str | os.PathLike | None = None,
    seed: int = 0,
    image_size: int | None = None,
) -> Dataset:
    """Load a data set as arrays, in three splits.

    - `cluttered_digits`: 10,000 training, 1,000 validation and 2,000 test images of 32x32 pixels, painted
      anew for each seed from the handwritten digits that scikit-learn ships. One digit lies on strokes and
      cut pieces of other digits, in colours as strong as its own; its true mask is known. A writing, and
      any piece of it, occurs in one split only.
    - `cifar10`, `cifar100` (fine labels): read from `data_dir` in the official layout, binary or pickled,
      unpacked or as the official .tar.gz, whole or with fewer images per file. Without `data_dir` the
      archive (170 MB) is downloaded once, into the folder of the environment variable `RANET_DATA` or
      `~/.cache/ranet`. A tenth of the official training images (5,000 of 50,000) is the validation split:
      drawn from each class in proportion, and depending on nothing but the seed. The official test images
      are `test`, unmixed.
    - `folder:PATH`: your own images, one folder per class, in any format that Pillow reads with at most 8
      bits per channel; what is transparent becomes white. Each image is scaled until its shorter side has
      `image_size` pixels, and its centre is kept. Where PATH holds folders `train`, `validation` and `test`
      with the class folders inside, they are the splits. A split without a folder is drawn from the
      training images by the seed, a tenth of each class.

    Args:
        name: one of the names above.
        data_dir: for `cifar10` and `cifar100`: the official folder, the folder that holds it or its .tar.gz,
            or that archive itself.
        seed: a whole number from 0: which digits, or which images are held out.
        image_size: for `folder:PATH`: the side of the images in pixels, 32 when None.

    Raises:
        ValueError: for an unknown name, an argument that the data set does not take, or a damaged file,
            which the message names.
        FileNotFoundError: when a folder or a file is missing; the message names it.
        ranet_lib.downloads.DownloadError: when no source gave the archive.
    """
    check_name(name, data_dir)
    seed = _whole_number("seed", seed, least=0)
    if name.startswith("folder:"):
        size = 32 if image_size is None else _whole_number("image_size", image_size, least=1)
        return _load_folder(name, seed, size)
    if image_size is not None:
        raise ValueError(f"image_size={image_size!r} does not go with {name!r}, whose images are 32x32")
    if name == "cluttered_digits":
        return _make_cluttered_digits(seed)
    return _load_cifar(name, data_dir, seed)


def check_name(name: str, data_dir: str | os.PathLike | None = None) -> None:
    """Raise what `load_dataset` would raise for a wrong name or folder, without loading anything."""
    if not isinstance(name, str) or not (name in ("cluttered_digits", *_CIFAR) or name.startswith("folder:")):
        allowed = "'cluttered_digits', 'cifar10', 'cifar100' and 'folder:PATH'"
        raise ValueError(f"unknown data set {name!r}; allowed are {allowed}")
    if name not in _CIFAR and data_dir is not None:
        why = "which names its folder itself" if name.startswith("folder:") else "which reads no files"
        raise ValueError(f"data_dir={str(data_dir)!r} does not go with {name!r}, {why}")
    folder = name.partition(":")[2] if name.startswith("folder:") else data_dir
    if folder is not None and not Path(folder).expanduser().exists():
        raise FileNotFoundError(f"there is no folder {str(folder)!r} to read {name.partition(':')[0]!r} from")


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
    """
    level, num_classes = _check_noise(level, num_classes)
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
    """
    level, num_classes = _check_noise(level, num_classes)
    labels = np.asarray(labels)
    _check_labels(labels, num_classes, "labels")
    rng = np.random.default_rng(_whole_number("seed", seed, least=0))
    is_corrupted = rng.random(len(labels)) < level
    shift = rng.integers(1, num_classes, len(labels))
    labels = labels.astype(np.int64)
    return np.where(is_corrupted, (labels + shift) % num_classes, labels)


def augment(
    images: np.ndarray,
    rng: np.random.Generator,
    pad: int = 4,
    pad_value: float | np.ndarray = 0,
    mirror: bool = True,
) -> np.ndarray:
    """Pad each image, crop it at random to its own size again, and mirror it with probability 1/2.

    The paper's augmentation for CIFAR. It pads with zeros after subtracting the mean, that is, with the mean
    colour: give images that went through `Dataset.prepare`, or `pad_value=dataset.mean` with raw ones.

    Args:
        images: shape (N, H, W, C), of any type.
        rng: where the randomness comes from.
        pad: pixels added on each side.
        pad_value: what they hold: a number, or one per channel.
        mirror: False for images whose mirror image means something else, such as digits.

    Returns:
        A new array of the same shape and type.

    Raises:
        ValueError: when `images` is not a batch, or `pad` is negative.
    """
    images = np.asarray(images)
    if images.ndim != 4:
        raise ValueError(f"augment takes a batch of shape (N, H, W, C); got the shape {images.shape}")
    pad = _whole_number("pad", pad, least=0)
    count, height, width, channels = images.shape
    padded_height, padded_width = height + 2 * pad, width + 2 * pad
    padded = np.empty((count, padded_height, padded_width, channels), images.dtype)
    padded[...] = np.rint(pad_value) if images.dtype.kind in "iu" else pad_value
    padded[:, pad : pad + height, pad : pad + width] = images

    top, left = rng.integers(0, 2 * pad + 1, (2, count, 1))
    is_mirrored = rng.random((count, 1)) < (0.5 if mirror else 0)
    x = np.arange(width)
    rows = np.arange(count)[:, None] * padded_height + top + np.arange(height)
    columns = left + np.where(is_mirrored, x[::-1], x)
    pixels = rows[:, :, None] * padded_width + columns[:, None, :]
    # One `take` of whole pixels is several times as fast as indexing the four axes.
    return padded.reshape(-1, channels).take(pixels.ravel(), axis=0).reshape(images.shape)


def with_label_noise(dataset: Dataset, level: float, seed: int) -> Dataset:
    """The same data set with the labels of its training and validation images corrupted; the test labels stay true.

    Whoever learns from noisy labels has no clean ones to choose weights by, so validation is as noisy as training.
    The fingerprint is that of the clean data: level and seed say the rest. See `corrupt_labels`.
    """
    _check_noise(level, dataset.num_classes)
    if level == 0:
        return dataset
    noisy = {
        name: replace(split, labels=corrupt_labels(split.labels, level, dataset.num_classes, seed + offset))
        for offset, (name, split) in enumerate(
            {"train": dataset.train, "validation": dataset.validation}.items()
        )
    }
    return replace(dataset, **noisy)


def rotate_shift_mirror(
    images: np.ndarray, rng: np.random.Generator, degrees: float = 20, shift: float = 0.2
):
    """The source document's augmentation: rotate, shift and mirror each image at random, bilinearly.

    Args:
        images: float, shape (N, H, W, C). What comes from outside the image is the nearest edge pixel.
        rng: where the randomness comes from.
        degrees: the angle is drawn from -degrees to degrees.
        shift: the shift in each direction is at most this part of the side.

    Returns:
        A new array of the same shape and type.
    """
    from scipy.ndimage import map_coordinates

    count, height, width, channels = images.shape
    angle = np.deg2rad(rng.uniform(-degrees, degrees, count))[:, None, None]
    flip = np.where(rng.random(count) < 0.5, -1.0, 1.0)[:, None, None]
    down = rng.uniform(-shift, shift, count)[:, None, None] * height
    right = rng.uniform(-shift, shift, count)[:, None, None] * width
    y, x = np.mgrid[:height, :width].astype(np.float32)
    y, x = y - (height - 1) / 2 - down, (x - (width - 1) / 2) * flip - right
    rows = np.cos(angle) * y - np.sin(angle) * x + (height - 1) / 2
    columns = np.sin(angle) * y + np.cos(angle) * x + (width - 1) / 2
    turned = np.empty_like(images)
    for i in range(count):
        for c in range(channels):
            turned[i, :, :, c] = map_coordinates(
                images[i, :, :, c], (rows[i], columns[i]), order=1, mode="nearest"
            )
    return turned


# ---- What the data sets share ------------------------------------------------------------------------------


def _make_dataset(
    name: str, train: Split, validation: Split, test: Split, class_names: tuple[str, ...], copy: str
) -> Dataset:
    digest = hashlib.sha256()
    for split in (train, validation, test):
        for array in (split.images, split.labels, split.masks):
            if array is not None:
                digest.update(f"{array.dtype.str}{array.shape}".encode())
                digest.update(np.ascontiguousarray(array).data.cast("B"))
    return Dataset(name, train, validation, test, class_names, f"sha256:{digest.hexdigest()}", copy)


def _random_ranks(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Put the members of each class in a random order, and return everyone's place in that of its class."""
    order = np.lexsort((rng.random(len(labels)), labels))
    counts = np.bincount(labels)
    ranks = np.empty(len(labels), np.int64)
    ranks[order] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return ranks


def _whole_number(what: str, value: int, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < least:
        raise ValueError(f"{what}={value!r} is not allowed: a whole number, {least} or more")
    return number


def _check_noise(level: float, num_classes: int) -> tuple[float, int]:
    num_classes = _whole_number("num_classes", num_classes, least=2)
    try:
        number = float(level)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= 1:  # nan too
        raise ValueError(f"level={level!r} is not allowed: a noise level from 0 to 1")
    return number, num_classes


def _check_labels(labels: np.ndarray, num_classes: int, what: str) -> None:
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{what} must be one row of whole numbers; got {labels.dtype} of shape {labels.shape}"
        )
    if len(labels) and not (0 <= labels.min() and labels.max() < num_classes):
        raise ValueError(
            f"{what} run from {labels.min()} to {labels.max()}; with {num_classes} classes, 0 to"
            f" {num_classes - 1} is allowed"
        )


# ---- CIFAR -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layout:
    """One official form of a CIFAR data set, with the MD5 sums that were published for it."""

    folder: str
    archive: str
    archive_md5: str
    train: tuple[str, ...]
    test: str
    meta: str
    label_bytes: int = (
        0  # before each image of a binary file, the label wanted being the last; 0 when pickled
    )
    label_key: str = "labels"
    names_key: str = "label_names"
    md5: tuple[str, ...] = ()  # of train, test and meta; none was published for the binary files

    @property
    def files(self) -> tuple[str, ...]:
        return (*self.train, self.test, self.meta)


_CIFAR = {
    "cifar10": (
        _Layout(
            folder="cifar-10-batches-py",
            archive="cifar-10-python.tar.gz",
            archive_md5="c58f30108f718f92721af3b95e74349a",
            train=tuple(f"data_batch_{number}" for number in range(1, 6)),
            test="test_batch",
            meta="batches.meta",
            md5=(
                "c99cafc152244af753f735de768cd75f",
                "d4bba439e000b95fd0a9bffe97cbabec",
                "54ebc095f3ab1f0389bbae665268c751",
                "634d18415352ddfa80567beed471001a",
                "482c414d41f54cd18b22e5b47cb7c3cb",
                "40351d587109b95175f43aff81a1287e",
                "5ff9c542aee3614f3951f8cda6e48888",
            ),
        ),
        _Layout(
            folder="cifar-10-batches-bin",
            archive="cifar-10-binary.tar.gz",
            archive_md5="c32a1d4ab5d03f1284b67883e8d87530",
            train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
            test="test_batch.bin",
            meta="batches.meta.txt",
            label_bytes=1,
        ),
    ),
    "cifar100": (
        _Layout(
            folder="cifar-100-python",
            archive="cifar-100-python.tar.gz",
            archive_md5="eb9058c3a382ffc7106e4002c42a8d85",
            train=("train",),
            test="test",
            meta="meta",
            label_key="fine_labels",
            names_key="fine_label_names",
            md5=(
                "16019d7e3df5f24257cddd939b257f8d",
                "f0ef6b0ae62326f3e7ffdfab6717acfc",
                "7973b15100ade9c7d40fb424638fde48",
            ),
        ),
        _Layout(
            folder="cifar-100-binary",
            archive="cifar-100-binary.tar.gz",
            archive_md5="03b5dce01913d631647c71ecec9e9cb8",
            train=("train.bin",),
            test="test.bin",
            meta="fine_label_names.txt",
            label_bytes=2,  # coarse, fine
        ),
    ),
}
_CIFAR_CLASSES = {"cifar10": 10, "cifar100": 100}
_LARGEST_FILE = 1 << 29  # bytes; over twice the largest official one, so that no archive can fill the memory


def _load_cifar(name: str, data_dir: str | os.PathLike | None, seed: int) -> Dataset:
    num_classes = _CIFAR_CLASSES[name]
    if data_dir is None:
        data_dir = downloads.fetch(downloads.ARCHIVES[name])
    layout, location = _find_cifar(name, Path(data_dir).expanduser())
    read_files = _read_folder if location.is_dir() else _read_archive
    md5, notes, class_names = {}, "", ()
    images = labels = test = None  # of all training files, and of the test file
    for file, data in read_files(location, layout):
        try:
            md5[file] = hashlib.md5(data, usedforsecurity=False).hexdigest()
            if file == layout.meta:
                class_names = _parse_class_names(data, layout, num_classes)
                continue
            rows, file_labels, note = _parse_batch(data, layout)
            _check_labels(file_labels, num_classes, "the labels")
            notes += note
            if file == layout.test:
                test = Split(np.empty((len(rows), 32, 32, 3), np.uint8), file_labels.astype(np.int64))
                _unfold(rows, test.images)
                continue
            if images is None:
                images = np.empty((len(layout.train), len(rows), 32, 32, 3), np.uint8)
                labels = np.empty(images.shape[:2], np.int64)
            if len(rows) != images.shape[1]:
                raise ValueError(f"holds {len(rows)} images; another training file holds {images.shape[1]}")
            number = layout.train.index(file)
            labels[number] = file_labels
            _unfold(rows, images[number])
        except ValueError as error:
            raise ValueError(f"{location}: {file}: {error}") from error

    if layout.md5:
        is_official = tuple(md5[file] for file in layout.files) == layout.md5
    else:
        is_official = location.is_file() and _archive_md5(location) == layout.archive_md5
    copy = "official" if is_official else "jpeg" if "JPEG copy" in notes else "unverified"
    train, validation = _hold_out_tenth(images.reshape(-1, 32, 32, 3), labels.reshape(-1), seed)
    return _make_dataset(name, train, validation, test, class_names, copy)


def _find_cifar(name: str, data_dir: Path) -> tuple[_Layout, Path]:
    """Return the form that is there, and its folder or its archive."""
    layouts = _CIFAR[name]
    for layout in layouts:
        for folder in (data_dir / layout.folder, data_dir):
            if any((folder / file).is_file() for file in (*layout.train, layout.test)):
                return layout, folder
    for layout in layouts:
        for archive in (data_dir / layout.archive, data_dir):
            if archive.name == layout.archive and archive.is_file():
                return layout, archive
    looked_for = ", ".join(f"{layout.folder}, {layout.archive}" for layout in layouts)
    raise FileNotFoundError(f"no {name} in data_dir={str(data_dir)!r}; looked for {looked_for}")


def _read_folder(folder: Path, layout: _Layout) -> Iterator[tuple[str, bytes]]:
    _check_complete(folder, layout, {file for file in layout.files if (folder / file).is_file()})
    for file in layout.files:
        yield file, (folder / file).read_bytes()


def _read_archive(path: Path, layout: _Layout) -> Iterator[tuple[str, bytes]]:
    """Read the files out of the archive's stream: nothing is unpacked, so nothing can be written anywhere."""
    found = set()
    try:
        with tarfile.open(path, "r|gz") as archive:
            for member in archive:
                folder, _, file = member.name.removeprefix("./").rpartition("/")
                if member.isfile() and folder == layout.folder and file in layout.files and file not in found:
                    if member.size > _LARGEST_FILE:
                        raise ValueError(f"{path}: {member.name} is too large ({member.size:,} bytes)")
                    found.add(file)
                    yield file, archive.extractfile(member).read()
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path} is damaged or cut short ({error})") from error
    _check_complete(path, layout, found)


def _archive_md5(path: Path) -> str:
    with path.open("rb") as archive:
        return hashlib.file_digest(archive, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _check_complete(location: Path, layout: _Layout, found: set[str]) -> None:
    if missing := [file for file in layout.files if file not in found]:
        raise FileNotFoundError(f"{location} lacks {', '.join(missing)}")


def _parse_class_names(data: bytes, layout: _Layout, num_classes: int) -> tuple[str, ...]:
    if layout.label_bytes:
        names = data.decode().split()
    else:
        names = downloads.unpickle_arrays(data).get(layout.names_key, [])
    names = tuple(name.decode() if isinstance(name, bytes) else name for name in names)
    if len(names) != num_classes or not all(isinstance(name, str) for name in names):
        raise ValueError(f"gives {len(names)} class names where there are {num_classes} classes")
    return names


def _parse_batch(data: bytes, layout: _Layout) -> tuple[np.ndarray, np.ndarray, str]:
    """Return the images (uint8, (N, 3072): planes of red, green, blue), the labels, and the file's note."""
    if layout.label_bytes:
        record = layout.label_bytes + 3072
        if not data or len(data) % record:
            raise ValueError(f"is cut short: {len(data):,} bytes are no whole number of {record}-byte images")
        records = np.frombuffer(data, np.uint8).reshape(-1, record)
        return records[:, layout.label_bytes :], records[:, layout.label_bytes - 1].astype(np.int64), ""
    batch = downloads.unpickle_arrays(data)
    if missing := {"data", layout.label_key} - batch.keys():
        raise ValueError(f"holds no {' and no '.join(sorted(missing))}")
    rows, labels, note = batch["data"], np.asarray(batch[layout.label_key]), batch.get("batch_label", "")
    if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != 3072:
        found = f"{rows.dtype} of shape {rows.shape}" if isinstance(rows, np.ndarray) else type(rows).__name__
        raise ValueError(f"its data must be uint8 of shape (N, 3072); found {found}")
    if not len(rows) or len(rows) != labels.size:
        raise ValueError(f"holds {len(rows)} images and {labels.size} labels")
    return rows, labels, note.decode() if isinstance(note, bytes) else str(note)


def _unfold(rows: np.ndarray, images: np.ndarray) -> None:
    """Write rows of three planes (N, 3072) into images (N, 32, 32, 3)."""
    planes = rows.reshape(-1, 3, 32, 32)
    for channel in range(3):  # four times as fast as one transposed copy
        images[..., channel] = planes[:, channel]


def _hold_out_tenth(images: np.ndarray, labels: np.ndarray, seed: int) -> tuple[Split, Split]:
    """Split off a tenth, rounded up, each class in proportion; overwrites `images`, which the first keeps."""
    counts = np.bincount(labels)
    wanted = -(-len(labels) // 10)
    share, remainder = np.divmod(counts * wanted, len(labels))
    share[np.argsort(-remainder, kind="stable")[: wanted - share.sum()]] += 1
    is_held_out = _random_ranks(labels, np.random.default_rng(seed)) < share[labels]
    held_out = Split(images[is_held_out], labels[is_held_out])
    kept = np.flatnonzero(~is_held_out)
    for start in range(0, len(kept), 1000):  # moved up in place: a copy would double the memory
        these = kept[start : start + 1000]
        images[start : start + len(these)] = images[these]
    return Split(images[: len(kept)], labels[kept]), held_out


# ---- Your own images ---------------------------------------------------------------------------------------

_SPLITS = ("train", "validation", "test")
_FEWEST = 10  # images of a class from which a tenth can be drawn


def _load_folder(name: str, seed: int, size: int) -> Dataset:
    root = Path(name.removeprefix("folder:")).expanduser()
    if name == "folder:" or not root.is_dir():
        raise FileNotFoundError(f"no folder {str(root)!r} (from {name!r})")
    folders = _visible(root, Path.is_dir)
    if "train" in folders and set(folders) <= set(_SPLITS):
        given = {split: root / split for split in _SPLITS if split in folders}
    else:
        given = {"train": root}
    class_names = _visible(given["train"], Path.is_dir)
    if len(class_names) < 2:
        raise ValueError(f"{given['train']} holds the class folders {class_names}; at least two are needed")

    splits = {}
    for split, folder in given.items():
        if (found := _visible(folder, Path.is_dir)) != class_names:
            raise ValueError(
                f"{folder} holds the class folders {found}; the training images have {class_names}"
            )
        files = [[folder / label / file for file in _visible(folder / label)] for label in class_names]
        for label, of_class in zip(class_names, files, strict=True):
            if not of_class:
                raise ValueError(f"{folder / label} holds no image")
        labels = np.repeat(np.arange(len(files)), [len(of_class) for of_class in files])
        images = np.empty((len(labels), size, size, 3), np.uint8)
        for place, file in zip(images, (file for of_class in files for file in of_class), strict=True):
            place[...] = _read_image(file, size)
        splits[split] = Split(images, labels)

    if to_draw := [split for split in _SPLITS if split not in given]:
        everything = splits["train"]
        counts = np.bincount(everything.labels)
        if counts.min() < _FEWEST:
            scarce = given["train"] / class_names[counts.argmin()]
            raise ValueError(
                f"{scarce} holds {counts.min()} images; at least {_FEWEST} are needed to draw the splits"
                f" {' and '.join(to_draw)} from them (or give folders of these names)"
            )
        share = ((counts + 5) // 10)[everything.labels]
        ranks = _random_ranks(everything.labels, np.random.default_rng(seed))
        for number, split in enumerate((*to_draw, "train")):
            is_in = ranks >= share * number
            if split != "train":
                is_in &= ranks < share * (number + 1)
            splits[split] = Split(everything.images[is_in], everything.labels[is_in])
    return _make_dataset(name, *(splits[split] for split in _SPLITS), tuple(class_names), "unverified")


def _visible(folder: Path, keep: Callable[[Path], bool] = Path.exists) -> list[str]:
    """The sorted names in a folder, less what operating systems leave there."""
    names = (path.name for path in folder.iterdir() if keep(path))
    return sorted(name for name in names if name[0] != "." and name not in ("Thumbs.db", "desktop.ini"))


def _read_image(path: Path, size: int) -> np.ndarray:
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            if image.mode[0] in "IF":
                raise ValueError(f"has the mode {image.mode}; at most 8 bits per channel are read")
            image = ImageOps.exif_transpose(image)
            if image.has_transparency_data:
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            return np.asarray(ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BICUBIC))
    except Exception as error:  # Pillow raises many kinds for a damaged file
        raise ValueError(f"{path} cannot be read as an image: {error}") from error


# ---- Cluttered digits --------------------------------------------------------------------------------------

# Of each split: how many scenes, and which part of the writings they are painted from.
_SCENES = ((10_000, 0, 0.7), (1_000, 0.7, 0.8), (2_000, 0.8, 1))
_SIDE = 32  # of an image, in pixels
_MARGIN = 6  # around it while it is painted, so that what crosses the border needs no special case
_GLYPH_SIDE = 40  # samples: ten cells, the digit's eight and a blank one on each side, of four samples each
_DIGIT_PATCH, _PIECE_PATCH = 21, 11  # pixels; room for the largest digit and the largest piece, turned
_PIECES, _PIECES_PER_SCENE = 2000, 10  # of clutter: different ones in a split, and how many one image gets
_AT_ONCE = 250  # images painted together: few enough to stay in the processor's cache


def _make_cluttered_digits(seed: int) -> Dataset:
    cells, digits = _handwritten_digits()
    glyphs = _enlarge(cells)
    # Whole writings go to one split; pieces of clutter are cut from the split's own.
    place = _random_ranks(digits, np.random.default_rng([seed, 0])) / np.bincount(digits)[digits]
    splits = []
    for number, (count, first, last) in enumerate(_SCENES):
        of_split = np.flatnonzero((first <= place) & (place < last))
        of_split = of_split[np.argsort(digits[of_split], kind="stable")]
        rng = np.random.default_rng([seed, 1 + number])
        splits.append(_paint_scenes(glyphs[of_split], digits[of_split], count, rng))
    return _make_dataset("cluttered_digits", *splits, tuple("0123456789"), "embedded")


def _handwritten_digits() -> tuple[np.ndarray, np.ndarray]:
    """The 1,797 digits of scikit-learn: float32 (N, 8, 8) from 0 to 1, and their labels."""
    package = importlib.util.find_spec("sklearn")
    if package is None:
        raise ImportError(
            "'cluttered_digits' is made from the digits of scikit-learn, which is not installed"
        )
    table = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if table.exists():  # importing scikit-learn would take longer than painting all the images
        numbers = np.loadtxt(table, np.float32, delimiter=",")
        cells, labels = numbers[:, :-1], numbers[:, -1]
    else:
        from sklearn.datasets import load_digits

        cells, labels = load_digits(return_X_y=True)
    return cells.astype(np.float32).reshape(-1, 8, 8) / 16, labels.astype(np.int64)


def _enlarge(cells: np.ndarray) -> np.ndarray:
    """Draw 8x8 digits smoothly (cubic, Catmull-Rom) on (N, 40, 40) samples, from 0 to 1."""
    cells = np.pad(cells, ((0, 0), (1, 1), (1, 1)))
    position = (np.arange(_GLYPH_SIDE) + 0.5) / 4 - 0.5
    cell = np.floor(position).astype(int)
    t = (position - cell).astype(np.float32)
    weights = (
        ((2 - t) * t - 1) * t / 2,
        (3 * t - 5) * t * t / 2 + 1,
        ((4 - 3 * t) * t + 1) * t / 2,
        (t - 1) * t * t / 2,
    )
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
        canvas = np.zeros((num, _SIDE + 2 * _MARGIN, _SIDE + 2 * _MARGIN, 3), np.float32)
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
        cover = _draw_glyphs(
            glyphs[which], size[:, 0], rng.uniform(-0.26, 0.26, num), centre - corner, _DIGIT_PATCH
        )
        _paint(canvas, cover, corner, _strong_colours(num, rng))
        mask = np.zeros(canvas.shape[:3], bool)
        mask.reshape(-1)[_pixels(mask.shape, corner, _DIGIT_PATCH)] = cover.reshape(num, -1) > 0.5

        images = (canvas[:, inside, inside] + 0.5).astype(np.uint8)
        images[rng.random(num) < 0.5] ^= 255  # half of the scenes are dark on bright
        split.images[these] = images
        split.masks[these] = mask[:, inside, inside]
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
    cuts *= np.clip(half_length + 0.5 - np.abs(along), 0, 1) * np.clip(
        half_width + 0.5 - np.abs(across), 0, 1
    )

    half_length = rng.uniform(2, 4, (num, 1, 1)).astype(np.float32)
    half_width = rng.uniform(0.5, 1.2, (num, 1, 1)).astype(np.float32)
    beyond = np.maximum(np.abs(along) - half_length, 0)
    strokes = np.clip(half_width + 0.5 - np.sqrt(across**2 + beyond**2), 0, 1)
    return np.where(np.arange(num)[:, None, None] < 0.3 * num, strokes, cuts)


def _draw_glyphs(
    glyphs: np.ndarray, size: np.ndarray, angle: np.ndarray, centre: np.ndarray, patch: int
) -> np.ndarray:
    """Coverages (N, patch, patch) of glyphs: `size` pixels high, turned by `angle`, centred at (y, x)."""
    cos, sin = (part[:, None, None] for part in _unit_vectors(angle))
    per_pixel = (32 / size).astype(np.float32)[:, None, None]  # samples of the digit's eight cells
    y = (np.arange(patch) - centre[:, :1]).astype(np.float32)[:, :, None] * per_pixel
    x = (np.arange(patch) - centre[:, 1:]).astype(np.float32)[:, None, :] * per_pixel
    middle, last = (
        (_GLYPH_SIDE - 1) / 2,
        _GLYPH_SIDE - 1.001,
    )  # the border is blank, so stopping there is right
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
    pixels = _pixels(canvas.shape, corner, cover.shape[1])
    flat = canvas.reshape(-1, 3)
    area = flat[pixels]
    area += cover.reshape(len(cover), -1, 1) * (colour[:, None] - area)
    flat[pixels] = area


def _pixels(shape: tuple[int, ...], corner: np.ndarray, patch: int) -> np.ndarray:
    """The flat indices (N, patch * patch) of a patch of each image."""
    side = shape[1]
    first = (np.arange(shape[0]) * side + corner[:, 0]) * side + corner[:, 1]
    steps = np.arange(patch)
    return first[:, None] + (steps[:, None] * side + steps).reshape(-1)


def _unit_vectors(angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # Processors differ in the last digit of a cosine; rounded, the images are the same bytes on each of them.
    return np.round(np.cos(angle), 6).astype(np.float32), np.round(np.sin(angle), 6).astype(np.float32)

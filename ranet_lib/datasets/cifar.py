"""CIFAR-10 and CIFAR-100, read from any of their official forms: binary or pickled, unpacked or not."""

import gzip
import hashlib
import os
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ranet_lib import downloads
from ranet_lib.datasets.splits import Dataset, Split, check_labels, hold_out_tenth, make_dataset


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
CLASSES = {"cifar10": 10, "cifar100": 100}
_LARGEST_FILE = 1 << 29  # bytes; over twice the largest official one, so that no archive can fill the memory
_LARGEST_HEADER = 1 << 20  # bytes; long names and the like, which Python reads as a whole


def load(name: str, data_dir: str | os.PathLike | None, seed: int) -> Dataset:
    num_classes = CLASSES[name]
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
            check_labels(file_labels, num_classes, "the labels")
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
    train, validation = hold_out_tenth(images.reshape(-1, 32, 32, 3), labels.reshape(-1), seed)
    return make_dataset(name, train, validation, test, class_names, copy)


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


class _Member(tarfile.TarInfo):
    """A member of an archive, refused where it claims to be larger than anything in a true one.

    Python reads long names and the like as a whole, and to pass over what a damaged header says can take it for ever.
    """

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> tarfile.TarInfo:
        member = super().frombuf(buf, encoding, errors)
        return member._limited(_LARGEST_FILE if member.isreg() else _LARGEST_HEADER)

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> tarfile.TarInfo:
        return super().fromtarfile(archive)._limited(_LARGEST_FILE)  # a header before it may have named another size

    def _limited(self, most: int) -> tarfile.TarInfo:
        if self.size > most:
            raise tarfile.ReadError(f"{self.name[:100]!r} would have {self.size:,} bytes")
        return self


def _read_archive(path: Path, layout: _Layout) -> Iterator[tuple[str, bytes]]:
    """Read the files out of the archive's stream: nothing is unpacked, so nothing can be written anywhere."""
    found = set()
    try:
        with tarfile.open(path, "r|gz", tarinfo=_Member) as archive:
            for member in archive:
                folder, _, file = member.name.removeprefix("./").rpartition("/")
                if member.isfile() and folder == layout.folder and file in layout.files and file not in found:
                    found.add(file)
                    yield file, archive.extractfile(member).read()
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError) as error:  # a number that is none
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
    if not isinstance(names, list) or not all(isinstance(name, str | bytes) for name in names):
        raise ValueError("its class names are no list of texts")
    if len(names) != num_classes:
        raise ValueError(f"gives {len(names)} class names where there are {num_classes} classes")
    return tuple(name.decode() if isinstance(name, bytes) else name for name in names)


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
    rows, labels, note = batch["data"], batch[layout.label_key], batch.get("batch_label", "")
    # Not left to numpy: a short pickle can hold lists of one list of one list, which are terabytes as an array.
    if isinstance(labels, list) and any(isinstance(label, list | tuple | dict) for label in labels):
        raise ValueError("its labels must be one row of whole numbers; found lists in a list")
    labels = np.asarray(labels)
    if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != 3072:
        found = f"{rows.dtype} of shape {rows.shape}" if isinstance(rows, np.ndarray) else type(rows).__name__
        raise ValueError(f"its data must be uint8 of shape (N, 3072); found {found}")
    if not len(rows) or len(rows) != labels.size:
        raise ValueError(f"holds {len(rows)} images and {labels.size} labels")
    note = note.decode("latin-1") if isinstance(note, bytes) else note if isinstance(note, str) else ""
    return rows, labels, note


def _unfold(rows: np.ndarray, images: np.ndarray) -> None:
    """Write rows of three planes (N, 3072) into images (N, 32, 32, 3)."""
    planes = rows.reshape(-1, 3, 32, 32)
    for channel in range(3):  # four times as fast as one transposed copy
        images[..., channel] = planes[:, channel]

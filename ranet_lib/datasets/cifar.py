"""CIFAR-10 and CIFAR-100, read from any of their official forms: binary or pickled, unpacked or not."""

import functools
import hashlib
import lzma
import os
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ranet_lib.datasets.splits import Dataset, Split, check_labels, hold_out_tenth, make_dataset
from ranet_lib.files import fetching
from ranet_lib.files.pickles import unpickle_arrays


@dataclass(frozen=True)
class _Layout:
    """One official form of a CIFAR data set, with the MD5 sums that were published for it."""

    folder: str
    archive: str
    files: tuple[str, ...]  # training, then test, then the names of the classes
    label_bytes: int = 0  # before each image of a binary file, of which the last is the label wanted; 0 when pickled
    label_key: str = "labels"
    md5: tuple[str, ...] = ()  # of the files
    archive_md5: str = ""  # in their place for the binary files, for which none was published


_BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
_CIFAR = {
    "cifar10": (
        _Layout("cifar-10-batches-py", "cifar-10-python.tar.gz", (*_BATCHES, "batches.meta"), md5=(
            "c99cafc152244af753f735de768cd75f", "d4bba439e000b95fd0a9bffe97cbabec", "54ebc095f3ab1f0389bbae665268c751",
            "634d18415352ddfa80567beed471001a", "482c414d41f54cd18b22e5b47cb7c3cb", "40351d587109b95175f43aff81a1287e",
            "5ff9c542aee3614f3951f8cda6e48888")),
        _Layout("cifar-10-batches-bin", "cifar-10-binary.tar.gz",
                (*(f"{file}.bin" for file in _BATCHES), "batches.meta.txt"),
                label_bytes=1, archive_md5="c32a1d4ab5d03f1284b67883e8d87530")),
    "cifar100": (
        _Layout("cifar-100-python", "cifar-100-python.tar.gz", ("train", "test", "meta"), label_key="fine_labels", md5=(
            "16019d7e3df5f24257cddd939b257f8d", "f0ef6b0ae62326f3e7ffdfab6717acfc", "7973b15100ade9c7d40fb424638fde48",
        )),
        # The coarse label, then the fine one.
        _Layout("cifar-100-binary", "cifar-100-binary.tar.gz", ("train.bin", "test.bin", "fine_label_names.txt"),
                label_bytes=2, archive_md5="03b5dce01913d631647c71ecec9e9cb8")),
}  # fmt: skip
CLASSES = {"cifar10": 10, "cifar100": 100}
_LARGEST_FILE = 1 << 29  # bytes; over twice the largest official one, so that no archive can fill the memory
_LARGEST_HEADER = 1 << 20  # bytes; long names and the like, which Python reads as a whole
_md5 = functools.partial(hashlib.md5, usedforsecurity=False)


def load(name: str, data_dir: str | os.PathLike | None, seed: int) -> Dataset:
    place = fetching.fetch(fetching.ARCHIVES[name]) if data_dir is None else Path(data_dir).expanduser()
    layout, location = _find_cifar(name, place)
    *train, test, meta = layout.files
    batches, md5, class_names, found = {}, {}, (), _read_archive(location, layout)
    if location.is_dir():
        found = ((file, (location / file).read_bytes()) for file in layout.files if (location / file).is_file())
    for file, data in found:
        md5[file] = _md5(data).hexdigest()
        try:
            if file == meta:
                class_names = _parse_class_names(data, layout, CLASSES[name])
            else:
                batches[file] = _parse_batch(data, layout, CLASSES[name])
                if len({len(batch) for other, batch in batches.items() if other != test}) > 1:
                    raise ValueError(f"holds {len(batches[file])} images; another training file holds another number")
        except ValueError as error:
            raise ValueError(f"{location}: {file}: {error}") from error
    if missing := [file for file in layout.files if file not in md5]:
        raise FileNotFoundError(f"{location} lacks {', '.join(missing)}")
    is_official = tuple(md5[file] for file in layout.files) == layout.md5
    if layout.archive_md5 and location.is_file():
        with location.open("rb") as archive:
            is_official = hashlib.file_digest(archive, _md5).hexdigest() == layout.archive_md5
    copy = "official" if is_official else "unverified"
    labels = np.concatenate([batches[file].labels for file in train])
    images = np.concatenate([batches.pop(file).images for file in train])  # and lets go of them
    return make_dataset(name, *hold_out_tenth(images, labels, seed), batches[test], class_names, copy)


def _find_cifar(name: str, place: Path) -> tuple[_Layout, Path]:
    """The form that is there, and its folder or else its archive."""
    for layout in _CIFAR[name]:
        deeper = (found for depth in ("*/", "*/*/") for found in sorted(place.glob(depth + layout.folder)))
        for folder in (place / layout.folder, place, *deeper):  # Keras has one in another
            if any((folder / file).is_file() for file in layout.files[:-1]):
                return layout, folder
    for layout in _CIFAR[name]:
        stem = layout.archive.removesuffix(".tar.gz")  # a browser's second download is called STEM (1).tar.gz
        for archive in (place / layout.archive, place, *sorted(place.glob(f"{stem}*"))):
            if archive.name.startswith(stem) and archive.suffix not in (".lock", ".part") and archive.is_file():
                return layout, archive
    looked_for = ", ".join(f"{layout.folder}, {layout.archive}" for layout in _CIFAR[name])
    raise FileNotFoundError(f"no {name} in data_dir={str(place)!r}; looked for {looked_for}")


def _read_archive(path: Path, layout: _Layout):
    """Yield each file and its bytes from the archive's stream: nothing is unpacked, so nothing is written anywhere."""
    wanted = set(layout.files)
    try:
        with tarfile.open(path, "r|*", tarinfo=_Member) as archive:  # compressed or not, in whichever folder
            for member in archive:
                if member.isfile() and (name := member.name.rpartition("/")[2]) in wanted:
                    wanted.remove(name)
                    yield name, archive.extractfile(member).read()
    except (tarfile.TarError, OSError, zlib.error, lzma.LZMAError, EOFError, ValueError) as error:
        raise ValueError(f"{path} is damaged or cut short ({error})") from error


class _Member(tarfile.TarInfo):
    """A member of an archive, refused if it claims to be larger than any true one: Python might read it for ever."""

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


def _parse_class_names(data: bytes, layout: _Layout, num_classes: int) -> tuple[str, ...]:
    key = f"{layout.label_key.removesuffix('s')}_names"
    names = data.decode().split() if layout.label_bytes else unpickle_arrays(data).get(key, [])
    if not isinstance(names, list) or not all(isinstance(name, str | bytes) for name in names):
        raise ValueError("its class names are not a list of strings")
    if len(names) != num_classes:
        raise ValueError(f"gives {len(names)} class names where there are {num_classes} classes")
    return tuple(name.decode() if isinstance(name, bytes) else name for name in names)


def _parse_batch(data: bytes, layout: _Layout, num_classes: int) -> Split:
    """A file's images and labels."""
    if layout.label_bytes:
        record = layout.label_bytes + 3072
        if not data or len(data) % record:
            raise ValueError(f"is cut short: {len(data):,} bytes is not a whole number of {record}-byte images")
        records = np.frombuffer(data, np.uint8).reshape(-1, record)
        rows, labels = records[:, layout.label_bytes :], records[:, layout.label_bytes - 1]
    else:
        batch = unpickle_arrays(data)
        if missing := {"data", layout.label_key} - batch.keys():
            raise ValueError(f"holds no {' and no '.join(sorted(missing))}")
        rows, labels = batch["data"], batch[layout.label_key]
        # Not left to numpy: a short pickle can hold lists of one list of one list, which are terabytes as an array.
        if isinstance(labels, list) and any(isinstance(label, list | tuple | dict) for label in labels):
            raise ValueError("its labels must be one row of whole numbers; found lists in a list")
        labels = np.asarray(labels)
        if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != 3072:
            found = f"{rows.dtype} of shape {rows.shape}" if isinstance(rows, np.ndarray) else type(rows).__name__
            raise ValueError(f"its data must be uint8 of shape (N, 3072); found {found}")
        if not len(rows) or len(rows) != labels.size:
            raise ValueError(f"holds {len(rows)} images and {labels.size} labels")
    check_labels(labels, num_classes, "the labels")
    images = np.empty((len(rows), 32, 32, 3), np.uint8)
    for channel in range(3):  # from planes of red, green, blue; four times as fast as one transposed copy
        images[..., channel] = rows.reshape(-1, 3, 32, 32)[:, channel]
    return Split(images, labels.astype(np.int64))

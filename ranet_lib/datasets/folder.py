"""A folder of your own images, one folder per class inside."""

import re
from pathlib import Path

import numpy as np

from ranet_lib.datasets.splits import Dataset, Split, make_dataset, random_ranks

_SPLITS = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev"),
           "test": ("test", "testing")}  # fmt: skip
_LITTER = ("thumbs.db", "desktop.ini", "__macosx", "@eadir")  # what operating systems and storage boxes leave


def load(name: str, seed: int, size: int) -> Dataset:
    root = Path(name.removeprefix("folder:")).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {str(root)!r} (from {name!r})")
    given = _given_splits(root) or {"train": root}
    class_names = _visible(given["train"], Path.is_dir)
    if len(class_names) < 2:
        raise ValueError(f"{given['train']} holds the class folders {class_names}; at least two are needed")
    for label in class_names:
        if label != label.encode(errors="replace").decode():
            raise ValueError(f"the class folder {label!r} has a name that is not valid Unicode; rename it")
    splits = {}
    for split, folder in given.items():
        if (found := _visible(folder, Path.is_dir)) != class_names:
            raise ValueError(f"{folder} holds the class folders {found}; the training images have {class_names}")
        files = []  # (its class, its path)
        for number, label in enumerate(class_names):
            if not (names := _visible(folder / label)):
                raise ValueError(f"{folder / label} holds no image")
            files += [(number, folder / label / file) for file in names]
        images = np.fromiter((_read_image(file, size) for _, file in files), np.dtype((np.uint8, (size, size, 3))))
        splits[split] = Split(images, np.array([number for number, _ in files], np.int64))
    if to_draw := [split for split in _SPLITS if split not in given]:
        everything = splits["train"]
        counts = np.bincount(everything.labels)
        if counts.min() < 10:
            scarce = f"{given['train'] / class_names[counts.argmin()]} holds {counts.min()} images"
            raise ValueError(f"{scarce}; at least 10 are needed to draw {' and '.join(to_draw)} (or give folders)")
        share = ((counts + 5) // 10)[everything.labels]
        ranks = random_ranks(everything.labels, np.random.default_rng(seed))
        drawn = np.minimum(ranks // share, len(to_draw))
        for number, split in enumerate((*to_draw, "train")):
            splits[split] = everything.take(drawn == number)
    return make_dataset(name, *(splits[split] for split in _SPLITS), tuple(class_names), "unverified")


def _given_splits(root: Path) -> dict[str, Path]:
    """The folders of the splits, by the usual names; none where `root` holds the classes (a train may be one)."""
    given = {}
    for folder in _visible(root, Path.is_dir):
        split = next((split for split, names in _SPLITS.items() if folder.lower() in names), folder)
        if split in given:
            raise ValueError(f"{root} holds {given[split].name} and {folder}, which both mean {split}; keep one")
        given[split] = root / folder
    if "train" not in given or not _visible(given["train"], Path.is_dir):
        return {}
    if others := [given[name].name for name in given if name not in _SPLITS]:
        allowed = ", ".join(name for names in _SPLITS.values() for name in names)
        raise ValueError(f"{root} holds {others[0]} beside its splits; their names are {allowed}")
    return given


def _visible(folder: Path, keep=lambda path: True) -> list[str]:
    """The sorted names in a folder, less its litter."""
    names = (path.name for path in folder.iterdir() if keep(path))
    return sorted(name for name in names if name[0] != "." and name.lower() not in _LITTER)


def _read_image(path: Path, size: int) -> np.ndarray:
    from PIL import Image, ImageOps  # not above: whoever has no such folder does not wait for it
    if not path.is_file():  # a folder, a link to nothing, or a pipe, which would be waited for without end
        raise ValueError(f"{path} cannot be read as an image: it is not a file")
    try:
        with Image.open(path) as image:
            if image.format in ("EPS", "WMF"):
                raise ValueError(f"has the format {image.format}, which another program would have to be run for")
            if image.mode[0] in "IF":
                raise ValueError(f"has the mode {image.mode}; at most 8 bits per channel are read")
            if deep := re.search(r"\b(?:RGB|RGBA|RGBX|LA|L|CMYK);16", str(image.tile)):
                raise ValueError(f"has 16 bits per channel ({deep[0]}); at most 8 are read")
            image.load()  # which turns a TIFF already
            image = _upright(image)
            if image.has_transparency_data:
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            return np.asarray(ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BICUBIC))
    except Exception as error:  # Pillow raises many kinds for a damaged file
        raise ValueError(f"{path} cannot be read as an image: {error}") from error


def _upright(image):
    """Turned as its orientation tag says. What else is in the tags, and whether it is sound, does not matter."""
    from PIL.Image import Transpose
    try:
        orientation = image.getexif().get(0x0112)
    except Exception:  # tags can be damaged in any way
        return image
    turns = {2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM,
             5: Transpose.TRANSPOSE, 6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE,
             8: Transpose.ROTATE_90}  # fmt: skip
    return image.transpose(turns[orientation]) if orientation in turns else image

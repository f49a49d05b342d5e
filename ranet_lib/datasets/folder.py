"""A folder of your own images, one folder per class inside."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ranet_lib.datasets.splits import Dataset, Split, make_dataset, random_ranks

_SPLITS = ("train", "validation", "test")
_FEWEST = 10  # images of a class from which a tenth can be drawn


def load(name: str, seed: int, size: int) -> Dataset:
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
        ranks = random_ranks(everything.labels, np.random.default_rng(seed))
        for number, split in enumerate((*to_draw, "train")):
            is_in = ranks >= share * number
            if split != "train":
                is_in &= ranks < share * (number + 1)
            splits[split] = Split(everything.images[is_in], everything.labels[is_in])
    return make_dataset(name, *(splits[split] for split in _SPLITS), tuple(class_names), "unverified")


def _visible(folder: Path, keep: Callable[[Path], bool] | None = None) -> list[str]:
    """The sorted names in a folder, less what operating systems leave there."""
    names = (path.name for path in folder.iterdir() if keep is None or keep(path))
    return sorted(name for name in names if name[0] != "." and name not in ("Thumbs.db", "desktop.ini"))


def _read_image(path: Path, size: int) -> np.ndarray:
    from PIL import Image, ImageOps

    if not path.is_file():  # a folder, a link to nothing, or a pipe, which would be waited for without end
        raise ValueError(f"{path} cannot be read as an image: it is no file")
    try:
        with Image.open(path) as image:
            if image.format in ("EPS", "WMF"):
                raise ValueError(f"has the format {image.format}, which another program would have to be run for")
            if image.mode[0] in "IF":
                raise ValueError(f"has the mode {image.mode}; at most 8 bits per channel are read")
            image = ImageOps.exif_transpose(image)
            if image.has_transparency_data:
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            return np.asarray(ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BICUBIC))
    except Exception as error:  # Pillow raises many kinds for a damaged file
        raise ValueError(f"{path} cannot be read as an image: {error}") from error

"""Images to learn from: what `load_dataset` returns is all that the rest of the library knows about data."""

import os

from ranet_lib import checks
from ranet_lib.datasets import cifar, digits, folder
from ranet_lib.datasets.augmentation import augment, rotate_shift_mirror
from ranet_lib.datasets.noise import corrupt_labels, transition_matrix, with_label_noise
from ranet_lib.datasets.splits import Dataset, Split
from ranet_lib.files.fetching import DownloadError

__all__ = [
    "Dataset", "DownloadError", "Split", "augment", "check_name", "corrupt_labels", "load_dataset",
    "rotate_shift_mirror", "transition_matrix", "with_label_noise"]  # fmt: skip


def load_dataset(name: str, data_dir: str | os.PathLike | None = None, seed: int = 0, image_size: int | None = None):
    """Load a data set as arrays, in three splits.

    - `cluttered_digits`: 10,000 training, 1,000 validation and 2,000 test images of 32x32 pixels, painted for each seed
      from the handwritten digits of scikit-learn. One digit lies on strokes and cut pieces of other digits, in colours
      as strong as its own; its true mask is known. A writing, and any piece of it, occurs in one split only.
    - `cifar10`, `cifar100` (fine labels): the official files, binary or pickled, unpacked or as .tar.gz, whole or with
      fewer images. Without `data_dir` the archive (170 MB) is downloaded once, into the folder of the environment
      variable `RANET_DATA` or `~/.cache/ranet`. Validation is a tenth of the official training images.
    - `folder:PATH`: your own images, one folder per class, in any format that Pillow reads with at most 8 bits per
      channel, transparent pixels in white; each is scaled and cropped to its central square. Folders `train`,
      `validation` and `test` in PATH hold the class folders of a split; a missing one is a tenth of each class.

    `name` is one of these. For CIFAR, `data_dir` is the official folder, the folder that holds it or its .tar.gz, or
    that archive itself. `seed`, from 0, says which digits are painted, or which images are drawn for a split. For a
    folder, `image_size` is the side of the images in pixels (None: 32). Raises a ValueError for a wrong argument or a
    damaged file, a FileNotFoundError for a missing one, and a DownloadError where no source gives the archive.

    Example:
        >>> data = datasets.load_dataset("cluttered_digits", seed=0)
        >>> data.test.images.shape, data.test.masks.shape
        ((2000, 32, 32, 3), (2000, 32, 32))
    """
    check_name(name, data_dir)
    seed = checks.whole("seed", seed, least=0)
    if name.startswith("folder:"):
        size = 32 if image_size is None else checks.whole("image_size", image_size, least=1, most=10_000)
        return folder.load(name, seed, size)
    if image_size is not None:
        raise ValueError(f"image_size={image_size!r} does not go with {name!r}, whose images are 32x32")
    return digits.load(seed) if name == "cluttered_digits" else cifar.load(name, data_dir, seed)


def check_name(name: str, data_dir: str | os.PathLike | None = None, there: bool = True) -> None:
    """Raise the ValueError of `load_dataset` for a wrong `name` or `data_dir`, its FileNotFoundError if `there`."""
    is_folder = isinstance(name, str) and name.startswith("folder:")
    if not is_folder and (not isinstance(name, str) or name not in ("cluttered_digits", *cifar.CLASSES)):
        allowed = "'cluttered_digits', 'cifar10', 'cifar100' and 'folder:PATH'"
        raise ValueError(f"unknown data set {name!r}; allowed are {allowed}")
    if name not in cifar.CLASSES and data_dir is not None:
        why = "which names its folder itself" if is_folder else "which reads no files"
        raise ValueError(f"data_dir={str(data_dir)!r} does not go with {name!r}, {why}")
    place = name.removeprefix("folder:") if is_folder else data_dir
    if place is not None and not checks.path("the folder of the data set", place).exists() and there:
        source = f"dataset={name!r}" if is_folder else "data_dir"
        raise FileNotFoundError(f"there is no folder {str(place)!r}, which {source} names")

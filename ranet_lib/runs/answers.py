"""What a network answered to each test image, packed into a run record, so that runs are compared image by image."""

import base64
import binascii
import zlib

import numpy as np

from ranet_lib.datasets.splits import check_labels


def pack(classes, num_classes):
    """Whole `classes` `(images,)` below `num_classes` (or a ValueError) as a short text: by zlib, then base64.

    Example:
        >>> text = runs.answers.pack([3, 8, 8, 0], num_classes=10)
        >>> runs.answers.unpack(text, images=4, num_classes=10).tolist()
        [3, 8, 8, 0]
    """
    classes = np.asarray(classes)
    if len(classes):
        check_labels(classes, num_classes, "classes")
    return base64.b64encode(zlib.compress(classes.astype(_dtype(num_classes)).tobytes(), 9)).decode("ascii")


def unpack(text, images, num_classes):
    """The `images` classes below `num_classes` that `pack` made `text` of; any other text raises a ValueError."""
    size = images * (dtype := _dtype(num_classes)).itemsize
    try:
        reader = zlib.decompressobj()
        plain = reader.decompress(base64.b64decode(text, validate=True), size + 1)  # no more, whatever it holds
    except (binascii.Error, ValueError, zlib.error) as error:
        raise ValueError(f"not packed classes: {error}") from None
    if len(plain) != size or not reader.eof or reader.unused_data:
        raise ValueError(f"not packed classes of {images} images")
    classes = np.frombuffer(plain, dtype)
    if len(classes) and classes.max() >= num_classes:
        raise ValueError(f"class {classes.max()} is not below {num_classes}")
    return classes


def _dtype(num_classes):
    if num_classes > 2**16:
        raise ValueError(f"num_classes must be at most {2**16}, for answers to be kept; received {num_classes}")
    return np.dtype("uint8" if num_classes <= 2**8 else "<u2")


def of_record(record):
    """True classes and answers `(images,)` in a `record`, None where it keeps none; wrong ones are a ValueError."""
    test, images = record.get("test", {}), record["dataset"]["test"]
    if "answers" not in test:
        return None
    return tuple(unpack(test[name], images, record["model"]["num_classes"]) for name in ("labels", "answers"))

"""What a network answered to each test image, packed into a run record, so that runs are compared image by image."""

import base64
import binascii
import zlib

import numpy as np


def pack(classes, num_classes):
    """Whole numbers `classes` `(images,)` below `num_classes` as a short text: packed by zlib, written in base64.

    Each takes a byte, or two where there are more than 256 classes. Raises a ValueError for a class that is not among
    them, or for more than 65,536 classes.

    Example:
        >>> text = runs.answers.pack([3, 8, 8, 0], num_classes=10)
        >>> runs.answers.unpack(text, images=4, num_classes=10).tolist()
        [3, 8, 8, 0]
    """
    classes = np.asarray(classes)
    if len(classes) and not 0 <= classes.min() <= classes.max() < num_classes:
        raise ValueError(f"classes must lie from 0 to {num_classes - 1}; received {classes.min()} to {classes.max()}")
    plain = classes.astype(_dtype(num_classes)).tobytes()
    return base64.b64encode(zlib.compress(plain, 9)).decode("ascii")


def unpack(text, images, num_classes):
    """The `images` classes below `num_classes` that `pack` made `text` of; any other text raises a ValueError."""
    dtype = _dtype(num_classes)
    size = images * dtype.itemsize
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
    """True classes and answers of a finished run's test images, two arrays `(images,)`; None where `record` has none.

    The answers are those of the last epoch's weights. Failed runs and the oldest records have none. Raises a ValueError
    for texts that are not such answers.
    """
    test, images = record.get("test", {}), record["dataset"]["test"]
    if "answers" not in test:
        return None
    return tuple(unpack(test[name], images, record["model"]["num_classes"]) for name in ("labels", "answers"))

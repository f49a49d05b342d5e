"""What a network answered to each test image, packed into a run record, so that runs are compared image by image."""

import base64
import binascii
import zlib

import numpy as np


def pack(classes, num_classes):
    """Classes as a short text: one byte each (two where there are more than 256 classes), zlib, base64.

    Args:
        classes: whole numbers `(images,)` from 0 to `num_classes - 1`.
        num_classes: how many classes there are, at most 65,536.

    Returns:
        A text, as `unpack` reads it.

    Raises:
        ValueError: a class that is not among them, or too many classes to be kept.

    Example:
        >>> answers.pack([3, 8, 8, 0], num_classes=10)
        'eNpj5uBgAAAAKgAU'
        >>> answers.unpack('eNpj5uBgAAAAKgAU', images=4, num_classes=10).tolist()
        [3, 8, 8, 0]
    """
    classes = np.asarray(classes)
    if len(classes) and not 0 <= classes.min() <= classes.max() < num_classes:
        raise ValueError(f"classes must lie from 0 to {num_classes - 1}; received {classes.min()} to {classes.max()}")
    plain = classes.astype(_dtype(num_classes)).tobytes()
    return base64.b64encode(zlib.compress(plain, 9)).decode("ascii")


def unpack(text, images, num_classes):
    """The classes `(images,)` that `pack` has made a text of. Raises a ValueError where it is not such a text."""
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
    """Labels and answers of a finished run's test images.

    Args:
        record: a run record.

    Returns:
        two arrays of classes `(images,)`: the true ones, and what the weights of the last epoch answer. None for a
        run that failed, and for a record that is older than the answers.

    Raises:
        ValueError: texts that are not such answers.
    """
    test, images = record.get("test", {}), record["dataset"]["test"]
    if "answers" not in test:
        return None
    return tuple(unpack(test[name], images, record["model"]["num_classes"]) for name in ("labels", "answers"))

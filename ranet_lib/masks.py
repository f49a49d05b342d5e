"""Seeing what a network attends to: its masks, how well they find an object, and how strongly each stage responds."""

import contextlib
import logging
import math

import keras
import numpy as np
from scipy.stats import rankdata

from ranet_lib import blocks, checks


def attention_modules(model):
    """The `AttentionModule` layers of `model`, in the order of the data."""
    return [layer for layer in blocks.walk(model) if isinstance(layer, blocks.AttentionModule)]


def attention_masks(model, images, batch_size=None, channels=False):
    """The masks that a network's attention modules apply to a batch of images, all in one forward pass.

    Args:
        model: a network from `models.create_model`, or any chain of layers with attention modules in it.
        images: prepared images (`dataset.prepare(...)`), `(count, height, width, 3)`.
        batch_size: images per step; None takes 250, or fewer where the maps of a large network would fill the memory.
        channels: True keeps a value for each channel; False, the default, averages over the channels, so that many
            images fit in memory.

    Returns:
        A list with one float32 array per attention module, in the order of the network. Its shape is `(count, h, w)`
        with the module's own height and width, or `(count, h, w, filters)` with `channels=True`.

    Raises:
        ValueError: a model without attention modules, or images of the wrong shape.

    Example:
        >>> model = models.create_model("attention_tiny")
        >>> [mask.shape for mask in masks.attention_masks(model, np.zeros((2, 32, 32, 3)))]
        [(2, 16, 16), (2, 8, 8), (2, 4, 4)]
    """
    return _mask_predictor(model, channels)(images, batch_size)


def _mask_predictor(model, channels=False):
    """What `attention_masks` does to images, as a function that is traced once however often it is called."""
    if not attention_modules(model):
        raise ValueError(f"{model.name} has no attention module, so it has no masks")

    def look(layer, features, seen):
        if isinstance(layer, blocks.AttentionModule):
            features, mask = layer(features, training=False, return_mask=True)
            seen.append(mask if channels else keras.ops.mean(mask, axis=-1))
            return features
        return layer(features)

    return _predictor(model, look)


class MaskHistory(keras.callbacks.Callback):
    """Keeps the masks over some images as they change during training: a callback for `training.fit`.

        watch = MaskHistory(network, images)
        training.fit(network, data, recipe, callbacks=[watch])
        watch.epochs[3][0]  # of the first module, after three epochs

    Args:
        model: the network that is trained, with attention modules.
        images: prepared images, `(count, height, width, 3)`; few, since their masks are kept for every epoch.

    Attributes:
        epochs: a list with what `attention_masks` returns, first before training, then after each epoch.

    Raises:
        ValueError: as `attention_masks`.
    """

    def __init__(self, model, images):
        super().__init__()
        self._images, self._predict = np.array(images), _mask_predictor(model)
        self.epochs = [self._predict(self._images)]

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(self._predict(self._images))


def mean_response(model, images, batch_size=None):
    """Mean absolute value of each stage's output: how much signal is left as the network goes deeper.

    Follows the paper's figure 4. Divide by the first value to compare with its curve.

    Args:
        model: a network from `models.create_model` (its stages are `keras.Sequential` layers).
        images: prepared images, `(count, height, width, 3)`.
        batch_size: as in `attention_masks`.

    Returns:
        float array, one value per stage.

    Raises:
        ValueError: a model without stages, or images of the wrong shape.

    Example:
        >>> model = models.create_model("attention_tiny")
        >>> print(masks.mean_response(model, np.zeros((2, 32, 32, 3))))  # nothing in, no biases: nothing out
        [0. 0. 0.]
    """
    if not any(isinstance(layer, keras.Sequential) for layer in model.layers):
        raise ValueError(f"{model.name} has no stages (keras.Sequential layers)")

    def look(layer, features, seen):
        features = layer(features)
        if isinstance(layer, keras.Sequential):
            seen.append(keras.ops.mean(keras.ops.abs(features), axis=(1, 2, 3)))
        return features

    predict = _predictor(model, look, enter_stages=False)
    return np.array([values.mean() for values in predict(images, batch_size)])


def _predictor(model, look, enter_stages=True):
    """A function that runs images through `model`, collecting what `look(layer, features, seen)` puts into `seen`."""

    def run(layers, features, seen):
        for layer in layers:
            if isinstance(layer, keras.layers.InputLayer):
                continue
            if enter_stages and isinstance(layer, keras.Sequential):
                features = run(layer.layers, features, seen)
            else:
                features = look(layer, features, seen)
        return features

    looking = _Looking(model, run)

    def predict(images, batch_size=None):
        images = np.asarray(images)
        if images.shape[1:] != model.input_shape[1:]:
            shape = model.input_shape[1:]
            raise ValueError(f"{model.name} takes images {shape}; received an array of shape {images.shape}")
        if batch_size is None:  # at most 128 MB for the largest map, of which a forward pass keeps a few at a time
            largest = max(math.prod(layer.output.shape[1:]) for layer in model.layers)
            batch_size = max(1, min(250, 2**25 // largest))
        with _without_remarks():
            return looking.predict(images, batch_size=batch_size, verbose=0)

    return predict


@contextlib.contextmanager
def _without_remarks():
    """Each look into a network is a new function for TensorFlow, which from the fifth on takes that for a mistake."""
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class _Looking(keras.Model):
    """A network that returns what is seen on the way. Not a functional one: there a layer has one form of output."""

    def __init__(self, model, run):
        super().__init__(name=f"looking_into_{model.name}")
        self.model, self.run = model, run

    def call(self, inputs):
        seen = []
        self.run(self.model.layers, inputs, seen)
        return seen


def localization_score(masks, truth):
    """How well masks point at the object: the chance that the mask is higher on it than beside it.

    For each image, take one pixel of the object and one of the background at random: the score is the probability
    that the mask has the higher value on the object's (half for a tie), which is the area under the ROC curve. 0.5
    is chance, 1 is perfect, and a mask that is low on the object scores below 0.5. Rescaling a mask changes nothing.

    Args:
        masks: `(count, h, w)`, as from `attention_masks`; enlarged bilinearly to the size of `truth`.
        truth: bool `(count, height, width)`, True on the object.

    Returns:
        float array `(count,)`, one score per image.

    Raises:
        ValueError: shapes that do not fit, or an image whose object is empty or fills it.

    Example:
        >>> truth = np.array([[[True, False], [False, False]]])
        >>> mask = np.array([[[0.5, 0.9], [0.1, 0.2]]])  # higher on the object than on two pixels of three
        >>> masks.localization_score(mask, truth).round(3)
        array([0.667])
    """
    masks, truth = np.asarray(masks, "float32"), np.asarray(truth)
    if masks.ndim != 3 or truth.ndim != 3 or len(masks) != len(truth):
        raise ValueError(
            f"masks and truth must be (count, height, width) with one count; received {masks.shape} and {truth.shape}"
        )
    if truth.dtype != bool:
        raise ValueError(f"truth must be a bool array, True on the object; received {truth.dtype}")
    inside = truth.reshape(len(truth), -1).sum(axis=1)
    outside = truth[0].size - inside
    if not (inside.all() and outside.all()):
        row = int(np.flatnonzero((inside == 0) | (outside == 0))[0])
        raise ValueError(f"image {row} has {inside[row]} object pixels of {truth[0].size}: it needs both kinds")
    ranks = rankdata(resize(masks, truth.shape[1:]).reshape(len(masks), -1), axis=1)
    above = (ranks * truth.reshape(len(truth), -1)).sum(axis=1) - inside * (inside + 1) / 2
    return above / (inside * outside)


def localization(model, dataset, batch_size=None):
    """How well the masks of a trained network find the object on the test images, beside masks that know nothing.

    Args:
        model: a trained network with attention modules.
        dataset: a `datasets.Dataset` whose test split has true object masks.
        batch_size: as in `attention_masks`.

    Returns:
        dict with the mean `localization_score` over the test images: `modules` (a list, one per attention module),
        `random` and `centre` (see `reference_masks`), and `images`, their number; None if the model has no masks.

    Raises:
        ValueError: a data set without true object masks.
    """
    split = dataset.test
    if split.masks is None:
        raise ValueError(f"{dataset.name} has no true object masks")
    if not attention_modules(model):
        return None
    found = attention_masks(model, dataset.prepare(split.images), batch_size)
    references = {
        kind: reference_masks(kind, len(split), split.masks.shape[1:]) for kind in ("random", "centre")
    }
    return {
        "images": len(split),
        "modules": [round(float(localization_score(mask, split.masks).mean()), 4) for mask in found],
        **{kind: round(float(localization_score(mask, split.masks).mean()), 4) for kind, mask in references.items()},
    }


def resize(masks, size):
    """`masks`, `(count, h, w)`, enlarged or shrunk bilinearly to `size`, as a NumPy array `(count, *size)`."""
    masks = np.asarray(masks, "float32")
    if masks.shape[1:] == tuple(size):
        return masks
    enlarged = keras.ops.image.resize(masks[..., None], tuple(size), interpolation="bilinear")
    return keras.ops.convert_to_numpy(enlarged)[..., 0]


def reference_masks(kind, count, size, seed=0):
    """Masks that know nothing, to compare a network's with.

    Args:
        kind: "random" (each pixel independent) or "centre" (a Gaussian blob in the middle, a quarter of the image
            wide).
        count: number of masks.
        size: `(height, width)`.
        seed: whole number, for "random".

    Returns:
        float32 `(count, height, width)`, values in [0, 1].

    Raises:
        ValueError: another kind.

    Example:
        >>> masks.reference_masks("centre", count=1, size=(3, 3)).round(2)
        array([[[0.02, 0.14, 0.02],
                [0.14, 1.  , 0.14],
                [0.02, 0.14, 0.02]]], dtype=float32)
    """
    checks.choice("kind", kind, ("random", "centre"))
    if kind == "random":
        return np.random.default_rng(seed).random((count, *size), dtype="float32")
    y, x = (np.linspace(-0.5, 0.5, length, dtype="float32") for length in size)
    blob = np.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / (2 * 0.25**2))
    return np.broadcast_to(blob, (count, *size))

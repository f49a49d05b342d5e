"""Seeing what a network attends to: its masks, how well they find an object, and how strongly each stage responds."""

import functools
import math

import keras
import numpy as np
from scipy.stats import rankdata

from ranet_lib import blocks, checks
from ranet_lib._quiet import logged_from


def attention_modules(model):
    """The `AttentionModule` layers of `model`, in the order of the data."""
    return [layer for layer in blocks.walk(model) if isinstance(layer, blocks.AttentionModule)]


def attention_masks(model, images, batch_size=None, channels=False):
    """The masks that the attention modules of `model` apply to `images`: a list with one float32 array per module.

    Their shape is `(count, h, w)` at the module's own size, or with `channels=True`, which takes no mean over them,
    `(count, h, w, filters)`. `model` is any chain of layers with attention modules, `images` are prepared
    (`dataset.prepare(...)`). `batch_size=None` takes 250 at a time, or fewer where large maps would fill the memory.
    Raises a ValueError for a model without attention modules, or images of the wrong shape.

    Example:
        >>> model = models.create_model("attention_tiny")
        >>> [mask.shape for mask in masks.attention_masks(model, np.zeros((2, 32, 32, 3)))]
        [(2, 16, 16), (2, 8, 8), (2, 4, 4)]
    """
    return _mask_viewer(model, channels).view(images, batch_size)


def _mask_viewer(model, channels=False):
    if not attention_modules(model):
        raise ValueError(f"{model.name} has no attention module, so it has no masks")

    def look(module, features):
        features, mask = module(features, training=False, return_mask=True)
        mask = keras.ops.cast(mask, "float32")
        return features, mask if channels else keras.ops.mean(mask, axis=-1)

    return _Viewer(model, blocks.AttentionModule, look)


class MaskHistory(keras.callbacks.Callback):
    """Keeps the masks over some images as they change during training: a callback for `training.fit`::

        watch = MaskHistory(network, images)
        training.fit(network, data, recipe, callbacks=[watch])
        watch.epochs[3][0]  # of the first module, after three epochs (of a resumed run, three since)

    `model` and the few `images` are as in `attention_masks`. `epochs` lists their masks, before training first.
    """

    def __init__(self, model, images):
        super().__init__()
        self._images, self._viewer = np.array(images), _mask_viewer(model)  # one, so that it is traced only once
        self.epochs = [self._viewer.view(self._images)]

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(self._viewer.view(self._images))


def mean_response(model, images, batch_size=None):
    """Mean absolute value of each stage's output, an array. Divided by the first, it is the paper's figure 4.

    The stages of `model` are its `keras.Sequential` layers. `images` and `batch_size` are as in `attention_masks`.
    Raises a ValueError for a model without stages, or images of the wrong shape.

    Example:
        >>> model = models.create_model("attention_tiny")
        >>> print(masks.mean_response(model, np.zeros((2, 32, 32, 3))))  # nothing in, no biases: nothing out
        [0. 0. 0.]
    """
    if not any(isinstance(layer, keras.Sequential) for layer in list(blocks.walk(model))[1:]):
        raise ValueError(f"{model.name} has no stages (keras.Sequential layers)")

    def look(stage, features):
        features = stage(features)
        return features, keras.ops.mean(keras.ops.abs(keras.ops.cast(features, "float32")), axis=(1, 2, 3))

    return np.array([values.mean() for values in _Viewer(model, keras.Sequential, look).view(images, batch_size)])


class _Viewer(keras.Model):
    """Runs `model`, but at its layers of one `kind` calls `look`, which returns the features and what it sees."""

    def __init__(self, model, kind, look):  # not a functional model, because there a layer has one form of output
        super().__init__(name=f"looking_into_{model.name}")
        self.model, self.kind, self.look = model, kind, look

    def call(self, inputs):
        features, seen = inputs, []
        for layer in parts(self.model, self.kind):
            if isinstance(layer, self.kind):
                features, found = self.look(layer, features)
                seen.append(found)
            else:
                features = layer(features)
        return seen

    def view(self, images, batch_size=None):
        images, shape = np.asarray(images), self.model.input_shape[1:]
        if images.shape[1:] != shape or not len(images) or images.dtype.kind in "biu":
            raise ValueError(f"{self.model.name} takes prepared images {shape}; received {images.dtype} {images.shape}")
        if batch_size is None:  # at most 128 MB for the largest map, of which a forward pass keeps a few at a time
            largest = max(math.prod(layer.output.shape[1:]) for layer in parts(self.model))
            batch_size = max(1, min(250, 2**25 // largest))
        batch_size = checks.whole("batch_size", batch_size)
        with logged_from("ERROR"):  # TensorFlow warns of each function from the fifth on
            starts = range(0, len(images), batch_size)
            seen = zip(*(self.predict_on_batch(images[start : start + batch_size]) for start in starts))
            return [np.concatenate(arrays) for arrays in seen]


def split_at(model, name):
    """The network `model` in two functions: from images to the features after its layer `name`, and on to the logits.

    The layer is one of the network itself or of a stage, such as "stage_3_attention_1"; another name is a ValueError.
    Together the functions are the network outside of training; Grad-CAM needs the gradient between them.
    """
    row = list(parts(model))
    names = [layer.name for layer in row]
    if name not in names:
        raise ValueError(f"name must be one of {', '.join(names)}; received {name!r}")
    place = names.index(name) + 1
    return tuple(functools.partial(blocks.apply_chain, part) for part in (row[:place], row[place:]))


def parts(model, kind=()):
    """The layers of `model` in a row, without the input; in place of a stage or network its own, but for a `kind`."""
    for layer in model.layers:
        if isinstance(layer, keras.Model) and not isinstance(layer, kind):
            yield from parts(layer, kind)
        elif not isinstance(layer, keras.layers.InputLayer):
            yield layer


def localization_score(masks, truth):
    """How well masks point at the object: for each image, the area under the ROC curve.

    This is the chance that the mask is higher at a random pixel of the object than at one of the background (half for
    a tie). `masks`, `(count, h, w)`, are enlarged bilinearly to the size of `truth`, bool `(count, height, width)`.
    Raises a ValueError for shapes that do not fit, or an image whose object is empty or fills it.

    Example:
        >>> truth = np.array([[[True, False], [False, False]]])
        >>> mask = np.array([[[0.5, 0.9], [0.1, 0.2]]])  # higher on the object than on two pixels of three
        >>> masks.localization_score(mask, truth).round(3)
        array([0.667])
    """
    masks, truth = np.asarray(masks, "float32"), np.asarray(truth)
    if masks.ndim != 3 or truth.ndim != 3 or not 0 < len(masks) == len(truth):
        wanted = "masks and truth must be (count, height, width) with one count above 0"
        raise ValueError(f"{wanted}; received {masks.shape} and {truth.shape}")
    if truth.dtype != bool:
        raise ValueError(f"truth must be a bool array, True on the object; received {truth.dtype}")
    inside = truth.sum(axis=(1, 2))
    outside = truth[0].size - inside
    if not (inside.all() and outside.all()):
        row = int(np.flatnonzero((inside == 0) | (outside == 0))[0])
        raise ValueError(f"image {row} has {inside[row]} object pixels of {truth[0].size}: it needs both kinds")
    ranks = rankdata(resize(masks, truth.shape[1:]).reshape(len(masks), -1), axis=1)
    above = (ranks * truth.reshape(len(truth), -1)).sum(axis=1) - inside * (inside + 1) / 2
    return above / (inside * outside)


def localization(model, dataset, batch_size=None):
    """The mean `localization_score` of the masks of `model` on the test images of `dataset`, for each attention module.

    A dict with `modules` (a list), `random` and `centre` (of `reference_masks`) and `images` (their number); None for a
    model without masks. `batch_size`: see `attention_masks`. Raises a ValueError for data without true object masks.
    """
    split = dataset.test
    if split.masks is None:
        raise ValueError(f"{dataset.name} has no true object masks")
    if not attention_modules(model):
        return None

    def score(masks):
        return round(float(localization_score(masks, split.masks).mean()), 4)

    modules = [score(masks) for masks in attention_masks(model, dataset.prepare(split.images), batch_size)]
    count, *size = split.masks.shape
    references = {kind: score(reference_masks(kind, count, size)) for kind in ("random", "centre")}
    return {"images": count, "modules": modules, **references}


def resize(masks, size):
    """`masks`, `(count, h, w)`, enlarged or shrunk bilinearly to `size`, as a NumPy array `(count, *size)`."""
    masks = np.asarray(masks, "float32")[..., None]
    resized = keras.ops.image.resize(masks, tuple(size), "bilinear", data_format="channels_last")
    return keras.ops.convert_to_numpy(resized)[..., 0]


def reference_masks(kind, count, size, seed=0):
    """`count` masks that know nothing, to compare a network's with: float32 `(count, height, width)` in [0, 1].

    `kind` is "random" (each pixel by itself, by `seed`) or "centre" (a Gaussian blob in the middle, a quarter of the
    image wide), `size` is `(height, width)`. Raises a ValueError for another kind.

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

"""Where a run computes: several devices, batches made on the device, TensorFlow's graph. A reader may skip it."""

import contextlib

import keras
import numpy as np

from ranet_lib import checks
from ranet_lib._quiet import logged_from
from ranet_lib.datasets import augmentation

_MOST_ON_DEVICE = 2**31  #: bytes of training images that an accelerator keeps; CIFAR's 45,000 are 138 MB
#: The passes of TensorFlow's graph optimiser (Grappler) that are on unless somebody turns them off.
_PASSES = (
    "arithmetic_optimization", "constant_folding", "dependency_optimization", "function_optimization",
    "implementation_selector", "layout_optimizer", "loop_optimization", "remapping", "shape_optimization")  # fmt: skip


def check_devices(devices, recipe):
    """The names of so many `devices` (none for one) for a run by `recipe`; a ValueError says why there cannot be."""
    check_share(devices, recipe)
    if devices == 1:
        return []
    if devices > len(names := keras.distribution.list_devices()):
        there = f"{len(names)}, as many as there are here ({', '.join(names)})"
        raise ValueError(f"devices must be at most {there}; received {devices}")
    return names[:devices]


def check_share(devices, recipe):
    """The part of `check_devices` that need not know the machine: a grid is checked on another than it runs on."""
    devices = checks.whole("devices", devices, 1)
    backend, received = keras.backend.backend(), f"received {devices}"
    if devices > 1 and backend == "torch":
        instead = "KERAS_BACKEND=tensorflow and jax train on several"
        raise ValueError(f"devices must be 1 on PyTorch; {received} ({instead})")
    if devices > 1 and backend == "tensorflow" and recipe.precision == "mixed_float16":
        # The loss scaling of Keras looks for an overflow on the first device only.
        instead = "mixed_bfloat16, float32 and KERAS_BACKEND=jax train on several"
        raise ValueError(f"devices must be 1 with mixed_float16 on TensorFlow; {received} ({instead})")
    if recipe.batch_size % devices:
        raise ValueError(f"devices must divide batch_size {recipe.batch_size}; {received}")
    return devices


def scopes(names):
    """Two context managers for one run on these devices: one to make and compile its network in, one to fit it in."""
    if not names:
        return contextlib.nullcontext(), contextlib.nullcontext()
    if keras.backend.backend() == "jax":
        parallel = keras.distribution.DataParallel(devices=names)
        return parallel.scope(), parallel.scope()
    import tensorflow as tf
    # Keras fits a network by the strategy it was made in. In its scope, the network that is evaluated between epochs
    # would give each answer once for each device. The strategy would print a line for each layer.
    return logged_from("WARNING", tf.distribute.MirroredStrategy(names).scope()), logged_from("WARNING")


def build_ahead(model, batches):
    """Make what `model.fit` needs besides the network, which it would trace once more to find the shapes."""
    images, labels = batches[0]
    logits = np.zeros((len(images), *model.output_shape[1:]), "float32")
    model.optimizer.build(model.trainable_variables)
    model.compute_loss(images, labels, logits)
    model.compute_metrics(images, labels, logits)
    model.reset_metrics()


@contextlib.contextmanager
def remapper_alone():
    """Of TensorFlow's graph optimiser, only the remapper while a network is trained.

    It joins a normalisation and its ReLU, and in 16 bits a convolution and its sum. The other passes make no step
    faster and add up gradients in any order: about one run in twenty of a seed came out otherwise.
    """
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf
    before = dict.fromkeys(_PASSES, True) | tf.config.optimizer.get_experimental_options()
    during = {name: name == "remapping" for name in _PASSES} | {"disable_meta_optimizer": False}
    tf.config.optimizer.set_experimental_options(during)
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options(before)


def feed(batches):
    """What `model.fit` reads: on JAX batches made on the device; on TensorFlow a pipeline, ahead of a step."""
    backend, recipe = keras.backend.backend(), batches.recipe
    if backend == "jax" and recipe.augmentation != "rotate_shift_mirror":
        return _DeviceBatches(batches) if batches.dataset.train.images.nbytes <= _MOST_ON_DEVICE else batches
    if backend != "tensorflow":
        return batches
    import tensorflow as tf
    images, labels = batches[0]
    def batch(index):
        features, classes = tf.numpy_function(batches.__getitem__, [index], (images.dtype, labels.dtype))
        return tf.ensure_shape(features, images.shape), tf.ensure_shape(classes, labels.shape)
    return tf.data.Dataset.range(len(batches)).map(batch).prefetch(2)


class _DeviceBatches(keras.utils.PyDataset):
    """The same batches on JAX, made on the device: it keeps the images, as bytes, and gets four numbers for each."""

    def __init__(self, batches):
        import jax
        super().__init__()
        data, pad = batches.dataset, batches.recipe.crop_padding
        crop = jax.vmap(lambda image, top, left: jax.lax.dynamic_slice(image, (top, left, 0), data.image_shape))
        # A byte has 256 values: looking them up gives the very numbers of the processor, whatever the device computes.
        values = data.prepare(np.tile(np.arange(256, dtype=np.uint8)[:, None], 3))
        @jax.jit
        def take(images, labels, values, rows, top, left, is_mirrored):
            batch = values[images[rows], np.arange(3)]
            batch = crop(jax.numpy.pad(batch, ((0, 0), (pad, pad), (pad, pad), (0, 0))), top, left)
            return jax.numpy.where(is_mirrored[:, None, None, None], batch[:, :, ::-1], batch), labels[rows]
        self.batches, self.take = batches, take
        self.arrays = jax.device_put((data.train.images, data.train.labels, values))

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        recipe, (rows, rng) = self.batches.recipe, self.batches.draw(index)
        crops = [np.full(len(rows), recipe.crop_padding)] * 2 + [np.zeros(len(rows), bool)]
        if recipe.augmentation != "none":
            crops = augmentation.draw_crops(len(rows), rng, recipe.crop_padding, self.batches.dataset.mirrors)
        return self.take(*self.arrays, rows, *crops)

"""Where a run computes: several devices, batches made on the device, TensorFlow's graph. A reader may skip it."""

import contextlib
import logging

import keras
import numpy as np

from ranet_lib import checks
from ranet_lib.datasets import augmentation

_MOST_ON_DEVICE = 2**31  #: bytes of training images that an accelerator keeps; CIFAR's 45,000 are 138 MB
#: The passes of TensorFlow's graph optimiser (Grappler) that are on unless somebody turns them off.
_PASSES = (
    "arithmetic_optimization", "constant_folding", "dependency_optimization", "function_optimization",
    "implementation_selector", "layout_optimizer", "loop_optimization", "remapping", "shape_optimization",
)  # fmt: skip


def check_devices(devices, recipe):
    """The names of so many `devices` for a run by `recipe`, as Keras lists them; none for the one that every run has.

    They are accelerators, or CPUs on a machine without. More than one works on the backends TensorFlow and JAX, if the
    number divides the batch size. A ValueError says what this backend or machine cannot do, and how many there are.
    """
    check_share(devices, recipe)
    if devices == 1:
        return []
    names = keras.distribution.list_devices()
    if devices > len(names):
        there = f"{len(names)}, as many as there are here ({', '.join(names)})"
        raise ValueError(f"devices must be at most {there}; received {devices}")
    return names[:devices]


def check_share(devices, recipe):
    """The part of `check_devices` that need not know the machine: a grid is checked on another than it runs on."""
    checks.whole("devices", devices, 1)
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


def scopes(names):
    """Two context managers for one run on these devices: one to make and compile its network in, one to fit it in."""
    if not names:
        return contextlib.nullcontext(), contextlib.nullcontext()
    if keras.backend.backend() == "jax":
        parallel = keras.distribution.DataParallel(devices=names)
        return parallel.scope(), parallel.scope()
    import tensorflow as tf

    # Keras fits a network by the strategy it was made in. In its scope, the network that is evaluated between epochs
    # would give each answer once for each device.
    return _quiet(tf.distribute.MirroredStrategy(names).scope()), _quiet(contextlib.nullcontext())


@contextlib.contextmanager
def _quiet(scope):
    """`scope`, without the line that TensorFlow's strategy would print for each layer."""
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with scope:
            yield
    finally:
        logger.setLevel(level)


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
    """Of TensorFlow's graph optimiser, only the remapper while a network is trained, on that backend.

    It makes one operation of a normalisation and its ReLU, bit for bit the same; in 16 bits, also one of a convolution
    and its sum, rounded once instead of twice. The other passes take seconds and make the steps no faster. They also
    add up gradients in the order in which they are ready: about one run in twenty of a seed came out otherwise.
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
    """What `model.fit` reads: on JAX batches made on the device, and on TensorFlow a pipeline that runs ahead.

    Keras would wrap a `PyDataset` in `from_generator` on TensorFlow: with small batches, a sixth slower.
    """
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

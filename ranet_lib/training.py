"""Training: recipes, batches, and a `fit` that survives being killed.

The work is done by Keras: `model.compile` and `model.fit`. What stands here is what goes into them, for everyone who
wants the same run twice: a recipe with every number in it, batches that depend on nothing but seed and epoch, a
checkpoint after each epoch, and a progress line.
"""

import contextlib
import csv
import dataclasses
import difflib
import hashlib
import io
import json
import logging
import math
import os
import shutil
import sys
import time
import warnings
from pathlib import Path

import keras
import numpy as np
from keras import ops

from ranet_lib import checks, datasets, models
from ranet_lib.datasets import augmentation

SCHEDULES = ("steps", "one_cycle", "plateau", "constant")
OPTIMIZERS = ("sgd", "adam")
AUGMENTATIONS = ("pad_crop_mirror", "rotate_shift_mirror", "none")
PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
_MOST_ON_DEVICE = 2**31  #: bytes of training images that an accelerator keeps; CIFAR's 45,000 are 138 MB


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Every choice of a training run apart from the network, the data and the seed.

    Args:
        profile: the name this recipe goes by in a record.
        epochs: passes over the training images, at least 1.
        batch_size: images per step, at least 2.
        learning_rate: the highest rate of the schedule, above 0.
        optimizer: "sgd" (Nesterov momentum 0.9) or "adam".
        weight_decay: with "sgd", the factor of each convolution and dense weight that is added to its gradient, as in
            the paper; with "adam", decoupled (AdamW): times the learning rate, taken off the weight.
        schedule: "steps" divides the rate by 10 at 40 % and at 60 % of the steps (the paper's 64k and 96k of 160k);
            "one_cycle" climbs for the first fifth of the steps and falls along a cosine to 0; "plateau" takes a
            quarter off after ten epochs without a better validation error and stops after twenty; "constant".
        augmentation: "pad_crop_mirror" (the paper's), "rotate_shift_mirror" (the student project's) or "none".
        crop_padding: pixels added on each side before the crop of "pad_crop_mirror"; the paper's 4.
        train_images: at most so many training images, chosen by the seed; None takes all.
        label_smoothing: the share of each label that is spread evenly over all classes (Szegedy et al. 2016), from 0 up
            to, but not including, 1.
        precision: "float32", "mixed_float16" or "mixed_bfloat16".

    Raises:
        ValueError: a value outside what is said above; the message names it.
    """

    profile: str
    epochs: int
    batch_size: int = 64
    learning_rate: float = 0.1
    optimizer: str = "sgd"
    weight_decay: float = 1e-4
    schedule: str = "steps"
    augmentation: str = "pad_crop_mirror"
    crop_padding: int = 4
    train_images: int | None = None
    label_smoothing: float = 0.0
    precision: str = "float32"

    def __post_init__(self):
        plain = {  # numbers of numpy are no JSON, and end in a record
            "epochs": checks.whole("epochs", self.epochs, 1, 1_000_000),
            "batch_size": checks.whole("batch_size", self.batch_size, 2),
            "crop_padding": checks.whole("crop_padding", self.crop_padding, 0),
            "learning_rate": checks.number("learning_rate", self.learning_rate, above=0),
            "weight_decay": checks.number("weight_decay", self.weight_decay, least=0),
            "label_smoothing": checks.number("label_smoothing", self.label_smoothing, least=0, below=1),
        }
        for name, allowed in (
            ("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("augmentation", AUGMENTATIONS),
            ("precision", PRECISIONS),
        ):  # fmt: skip
            checks.choice(name, getattr(self, name), allowed)
        if self.train_images is not None:
            plain["train_images"] = checks.whole("train_images", self.train_images, self.batch_size)
        for name, value in plain.items():
            object.__setattr__(self, name, value)


_PROFILES = {
    "smoke": Recipe("smoke", epochs=2, schedule="one_cycle", train_images=1_600),
    # The embedded digits in under two minutes: crops would need more epochs. SGD reached half the error, but its mask
    # was low on the digit; Adam's is high there, as a newcomer expects.
    "first": Recipe(
        "first", epochs=10, batch_size=64, learning_rate=0.005, optimizer="adam", weight_decay=0.05,
        schedule="one_cycle", augmentation="none", train_images=10_000,
    ),
    # Few epochs leave no time to overfit: half the paper's crop, and one cycle of a high learning rate.
    "laptop": Recipe(
        "laptop", epochs=6, batch_size=128, learning_rate=0.4, weight_decay=5e-4, schedule="one_cycle", crop_padding=2
    ),
    # The paper's questions on two cores: many runs of a few minutes, on a part of the training images.
    "study": Recipe(
        "study", epochs=4, batch_size=64, learning_rate=0.2, weight_decay=5e-4, schedule="one_cycle", crop_padding=2,
        train_images=10_000,
    ),
    # The paper's tables at the paper's sizes: hours a run and core.
    "evidence": Recipe(
        "evidence", epochs=12, weight_decay=5e-4, schedule="one_cycle", precision="mixed_bfloat16"
    ),
    # An hour or two on two cores: long enough for the paper's crop, still one cycle.
    "long": Recipe("long", epochs=24, batch_size=128, learning_rate=0.2, weight_decay=5e-4, schedule="one_cycle"),
    # What ships.
    "weights": Recipe(
        "weights", epochs=60, weight_decay=5e-4, schedule="one_cycle", label_smoothing=0.1, precision="mixed_bfloat16"
    ),
    # The paper's 160,000 steps: 205 epochs of CIFAR's 50,000 images, and 228 of the 45,000 that validation leaves.
    "full": Recipe("full", epochs=228),
    "source": Recipe(
        "source", epochs=100, learning_rate=1e-4, optimizer="adam", weight_decay=0.0, schedule="plateau",
        augmentation="rotate_shift_mirror",
    ),
}  # fmt: skip


def list_profiles():
    """The names that `recipe` knows, quickest first."""
    return list(_PROFILES)


def recipe(profile, **changes):
    """The `Recipe` of a profile, with changes.

    `smoke` takes seconds and shows that everything works; `first` learns the embedded digits in under two minutes on
    two cores; `laptop` takes minutes there; `study` is for many runs side by side there; `evidence` makes the paper's
    tables at their sizes, hours a run; `long` takes an hour or more; `weights` made what ships; `full` is the paper's
    recipe (section 4.1), for a GPU; `source` is the student project's.

    Args:
        profile: one of `list_profiles()`.
        **changes: fields of `Recipe` to set otherwise; None leaves the profile's own value.

    Returns:
        A `Recipe`.

    Raises:
        ValueError: an unknown profile or field, or a value that is not allowed.

    Example:
        >>> short = training.recipe("laptop", epochs=1)
        >>> short.profile, short.epochs, short.batch_size
        ('laptop', 1, 128)
    """
    checks.choice("profile", profile, tuple(_PROFILES))
    fields = [field.name for field in dataclasses.fields(Recipe)]
    for name in changes:
        if name not in fields or name == "profile":
            raise ValueError(f"unknown field {name!r} of a recipe; the fields are: {', '.join(fields[1:])}")
    return dataclasses.replace(_PROFILES[profile], **{k: v for k, v in changes.items() if v is not None})


# --- Batches -----------------------------------------------------------------------------------------------------


class Batches(keras.utils.PyDataset):
    """Shuffled, augmented, prepared training batches that depend on `seed`, epoch and position alone.

    Each item is a pair of images, float32 `(batch_size, height, width, 3)`, and labels `(batch_size,)`. The images
    left over after the last full batch of an epoch wait for another epoch's shuffle.

    Args:
        dataset: a `datasets.Dataset`; its training split is used.
        recipe: a `Recipe`.
        seed: whole number; the order and the augmentation follow from it.
        epoch: the epoch to start from, 0 for a new run.

    Raises:
        ValueError: fewer training images than one batch takes.
    """

    def __init__(self, dataset, recipe, seed=0, epoch=0):
        super().__init__()
        self.dataset, self.recipe, self.seed, self.epoch = dataset, recipe, seed, epoch
        self.chosen = np.arange(len(dataset.train))
        if recipe.train_images is not None and recipe.train_images < len(dataset.train):
            self.chosen = np.random.default_rng((seed, 0)).permutation(self.chosen)[: recipe.train_images]
        if len(self.chosen) < recipe.batch_size:
            raise ValueError(
                f"batch_size {recipe.batch_size} is more than the {len(self.chosen)} training images of {dataset.name}"
            )
        self._shuffle()

    def _shuffle(self):
        self.order = np.random.default_rng((self.seed, 1, self.epoch)).permutation(self.chosen)

    def __len__(self):
        return len(self.order) // self.recipe.batch_size

    def __getitem__(self, index):
        rows, rng = self.draw(index)
        images = self.dataset.prepare(self.dataset.train.images[rows])
        if self.recipe.augmentation == "pad_crop_mirror":
            images = datasets.augment(images, rng, self.recipe.crop_padding, mirror=self.dataset.mirrors)
        elif self.recipe.augmentation == "rotate_shift_mirror":
            images = datasets.rotate_shift_mirror(images, rng)
        return images, self.dataset.train.labels[rows]

    def draw(self, index):
        """Which training images batch `index` has, whole numbers `(batch_size,)`, and the generator to augment them."""
        size = self.recipe.batch_size
        return self.order[index * size : (index + 1) * size], np.random.default_rng((self.seed, 2, self.epoch, index))

    def start_epoch(self, epoch):
        """Make `epoch` (from 0) the one whose batches are given out."""
        self.epoch = epoch
        self._shuffle()


class _DeviceBatches(keras.utils.PyDataset):
    """The same batches on JAX, made where the network computes: the training images stay there, as bytes.

    For each batch the device gets four numbers an image in place of the image: which one, how far down and right its
    crop starts, and whether it is mirrored.
    """

    def __init__(self, batches):
        import jax
        import jax.numpy as jnp

        super().__init__()
        data, pad = batches.dataset, batches.recipe.crop_padding
        height, width, channels = data.image_shape
        # A byte has 256 values: looking them up gives the very numbers of the processor, whatever the device computes.
        values = data.prepare(np.tile(np.arange(256, dtype=np.uint8)[:, None], channels))

        @jax.jit
        def take(images, labels, values, rows, top, left, is_mirrored):
            def crop(image, top, left):
                return jax.lax.dynamic_slice(image, (top, left, 0), (height, width, channels))

            batch = values[images[rows], jnp.arange(channels)]
            batch = jnp.pad(batch, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
            batch = jax.vmap(crop)(batch, top, left)
            return jnp.where(is_mirrored[:, None, None, None], batch[:, :, ::-1], batch), labels[rows]

        self.batches, self.take = batches, take
        self.arrays = jax.device_put((data.train.images, data.train.labels, values))

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        recipe, (rows, rng) = self.batches.recipe, self.batches.draw(index)
        if recipe.augmentation == "none":
            top = left = np.full(len(rows), recipe.crop_padding)
            is_mirrored = np.zeros(len(rows), bool)
        else:
            mirrors = self.batches.dataset.mirrors
            top, left, is_mirrored = augmentation.draw_crops(len(rows), rng, recipe.crop_padding, mirrors)
        return self.take(*self.arrays, rows, top, left, is_mirrored)


def _feed(batches):
    """What `model.fit` reads: on JAX batches made on the device, and on TensorFlow a pipeline that runs ahead.

    Keras would wrap a `PyDataset` in `from_generator` on TensorFlow, which then returns freed memory to the system at
    once; with small batches that costs a sixth of the speed.
    """
    backend, recipe = keras.backend.backend(), batches.recipe
    if backend == "jax" and recipe.augmentation != "rotate_shift_mirror":
        fits = batches.dataset.train.images.nbytes <= _MOST_ON_DEVICE
        return _DeviceBatches(batches) if fits else batches
    if backend != "tensorflow":
        return batches
    import tensorflow as tf

    images, labels = batches[0]

    def batch(index):
        features, classes = tf.numpy_function(batches.__getitem__, [index], (images.dtype, labels.dtype))
        return tf.ensure_shape(features, images.shape), tf.ensure_shape(classes, labels.shape)

    return tf.data.Dataset.range(len(batches)).map(batch).prefetch(2)


# --- Compiling ---------------------------------------------------------------------------------------------------


def learning_rate(recipe, steps):
    """The learning rate of a `recipe` over a run of `steps` steps: a Keras schedule, or a number.

    `full` follows the paper: 0.1, divided by 10 at 64k and at 96k of 160k iterations.

    Example:
        >>> rate = training.learning_rate(training.recipe("full"), steps=160_000)
        >>> [round(float(rate(step)), 4) for step in (1, 70_000, 100_000)]
        [0.1, 0.01, 0.001]
    """
    peak = recipe.learning_rate
    if recipe.schedule == "steps":
        boundaries = [round(0.4 * steps), round(0.6 * steps)]
        return keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, [peak, peak / 10, peak / 100])
    if recipe.schedule == "one_cycle":
        climb = max(1, round(0.2 * steps))
        return keras.optimizers.schedules.CosineDecay(
            peak / 20, max(1, steps - climb), warmup_target=peak, warmup_steps=climb
        )
    return peak


@keras.saving.register_keras_serializable(package="ranet_lib")
class SGD(keras.optimizers.SGD):
    """`keras.optimizers.SGD` with the paper's weight decay, added to the gradient: `g + decay * w`.

    The `weight_decay` of Keras is taken straight off the weight instead, and so does not pass through the momentum.
    Only weights with two axes or more decay: kernels of convolutions and dense layers, and neither biases nor the
    scales and offsets of batch normalisation. On the TensorFlow backend a step is TensorFlow's fused kernel, one
    operation for each weight in place of six; the results are the same.

    Args:
        learning_rate: a number or a Keras schedule.
        momentum, nesterov, kwargs: as in Keras, but on by default.
        decay: the factor of each weight that is added to its gradient.
    """

    def __init__(self, learning_rate=0.1, momentum=0.9, nesterov=True, decay=0.0, **kwargs):
        super().__init__(learning_rate, momentum=momentum, nesterov=nesterov, **kwargs)
        self.decay = decay

    def update_step(self, gradient, variable, learning_rate):
        gradient = ops.cast(gradient, variable.dtype)
        if self.decay and len(variable.shape) > 1:
            gradient = gradient + self.decay * ops.convert_to_tensor(variable)
        if keras.backend.backend() != "tensorflow" or not self.momentum:
            return super().update_step(gradient, variable, learning_rate)
        import tensorflow as tf

        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle,
            accum=self.momentums[self._get_variable_index(variable)].value.handle,
            lr=ops.cast(learning_rate, variable.dtype),
            grad=gradient,
            momentum=tf.cast(self.momentum, variable.dtype),
            use_nesterov=self.nesterov,
        )

    def get_config(self):
        return super().get_config() | {"decay": self.decay}


def compile_model(model, recipe, steps):
    """Give `model` what it needs for `steps` steps by `recipe`: optimiser, loss, accuracy. Returns the model."""
    rate = learning_rate(recipe, steps)
    if recipe.optimizer == "sgd":
        optimizer = SGD(rate, decay=recipe.weight_decay)
    else:
        optimizer = keras.optimizers.Adam(rate, weight_decay=recipe.weight_decay or None)
        if recipe.weight_decay:
            optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    model.compile(
        optimizer=optimizer,
        loss=_cross_entropy(recipe.label_smoothing),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )
    return model


def _cross_entropy(label_smoothing):
    """The loss of logits, by labels of which so great a share is spread over all classes."""
    if not label_smoothing:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def smoothed(labels, logits):
        truth = ops.one_hot(ops.cast(ops.reshape(labels, (-1,)), "int32"), logits.shape[-1], dtype=logits.dtype)
        truth = (1 - label_smoothing) * truth + label_smoothing / logits.shape[-1]
        return ops.categorical_crossentropy(truth, logits, from_logits=True)

    return smoothed


def evaluate(model, dataset, split, batch_size=250):
    """Loss and error of a model on one split, without augmentation.

    Args:
        model: a network that returns logits.
        dataset: the `datasets.Dataset` that prepares the images.
        split: a `datasets.Split`, such as `dataset.validation`.
        batch_size: images per step; memory grows with it, the result does not depend on it.

    Returns:
        dict with `loss` (mean cross-entropy) and `error` (per cent of wrong answers).

    Example:
        >>> data = datasets.load_dataset("cluttered_digits")
        >>> flat = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Flatten(),
        ...                          keras.layers.Dense(10, kernel_initializer="zeros")])
        >>> round(training.evaluate(flat, data, data.validation)["loss"], 3)  # of guessing: log 10
        2.303
    """
    return _judge(_logits(model, dataset, split, batch_size), split.labels)


def _logits(model, dataset, split, batch_size=250):
    return np.concatenate([
        model.predict_on_batch(dataset.prepare(split.images[start : start + batch_size]))
        for start in range(0, len(split), batch_size)
    ]).astype("float64")  # fmt: skip


def _judge(logits, labels):
    logits = logits - logits.max(axis=1, keepdims=True)
    loss = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]
    return {"loss": float(loss.mean()), "error": _per_cent(np.mean(logits.argmax(axis=1) == labels))}


def _per_cent(accuracy):
    """The error in per cent, rounded to what float32 holds."""
    return round(100.0 * (1.0 - float(accuracy)), 4)


# --- Checkpoints -------------------------------------------------------------------------------------------------


def _replace(path, write):
    """Write a file whole or not at all: `write(temporary)` first, then one rename."""
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        write(temporary)
        with open(temporary, "r+b") as file:  # Windows flushes only what it may write to
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path, text):
    """Write `text` to the file `path` whole or not at all, the same bytes on every system."""
    _replace(path, lambda temporary: temporary.write_text(text, encoding="utf-8", newline="\n"))


def save_weights(model, path):
    """Save the weights of `model` (with its optimiser's, once trained) at `path`, whole or not at all.

    The name ends in `.weights.h5`.
    """
    _replace(path, model.save_weights)


def _digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


class Checkpoint(keras.callbacks.Callback):
    """After each epoch, keep all that a killed run needs to go on: weights, optimiser, history, and the settings.

    Two epochs' files are never mixed: `state.json` names the weights it belongs to and their checksum, and is
    renamed into place last. The folder also keeps the weights of the lowest validation error, the earlier epoch
    where two are equal.

    Args:
        folder: where to; made when the first epoch has ended.
        settings: dict that tells one run from another.
        history: the list to which `fit` adds a row before this is called.
    """

    def __init__(self, folder, settings, history):
        super().__init__()
        self.folder, self.settings, self.history = Path(folder), settings, history
        self.state_path = self.folder / "state.json"

    def restore(self, model):
        """Load the last finished epoch into the compiled `model`; return how many epochs are done, 0 if none.

        A damaged checkpoint is put aside, with a warning, and nothing is done yet. That of another run is a
        ValueError.
        """
        if not self.state_path.exists():
            return 0
        try:
            state = json.loads(self.state_path.read_text(encoding="utf-8"))
            different = [
                f"{key}: {state['settings'].get(key)!r} there, {self.settings.get(key)!r} now"
                for key in {**state["settings"], **self.settings}
                if state["settings"].get(key) != self.settings.get(key)
            ]
            weights, best, history = self.folder / state["weights"], self.folder / state["best"], list(state["history"])
            sound = _digest(weights) == state["weights_sha256"] and _digest(best) == state["best_sha256"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            return self._put_aside(f"cannot be read ({error!r})")
        if different:
            raise ValueError(
                f"{self.folder} holds the checkpoint of another run ({'; '.join(different)}); "
                "choose another output_dir, or delete that folder to start again"
            )
        if not sound:
            return self._put_aside("is damaged: its weights do not match their checksum")
        model.optimizer.build(model.trainable_variables)
        try:
            model.load_weights(weights)
        except (OSError, ValueError) as error:  # the library's version may have another network of that name
            reason = str(error).strip().splitlines()[-1]
            raise ValueError(f"{weights} does not hold the weights of this {model.name}: {reason}") from error
        self.history[:] = history
        return len(self.history)

    def _put_aside(self, why):
        number = 1
        while (kept := self.folder.with_name(f"{self.folder.name}-damaged-{number}")).exists():
            number += 1
        self.folder.rename(kept)
        warnings.warn(f"the checkpoint {why}. It is kept as {kept}; the run starts from its first epoch", stacklevel=4)
        return 0

    def on_epoch_end(self, epoch, logs=None):
        self.folder.mkdir(parents=True, exist_ok=True)
        best = best_epoch(self.history)
        names = {"weights": f"epoch-{epoch + 1:04d}.weights.h5", "best": f"epoch-{best:04d}.weights.h5"}
        save_weights(self.model, self.folder / names["weights"])
        state = {"settings": self.settings, "history": self.history, **names}
        state |= {f"{key}_sha256": _digest(self.folder / name) for key, name in names.items()}
        write_text(self.state_path, json.dumps(state, indent=1))
        for old in self.folder.glob("*.weights.h5"):
            if old.name not in names.values():
                old.unlink()


# --- Fit ---------------------------------------------------------------------------------------------------------


def best_epoch(history):
    """Number (from 1) of the epoch with the lowest validation error in `history`, the earliest of equal ones."""
    return min(history, key=lambda row: (row["validation_error"], row["epoch"]))["epoch"]


class Diverged(FloatingPointError):
    """The loss of a run became infinite or not a number: `message` says which, `history` what was finished before."""

    def __init__(self, message, history):
        super().__init__(message)
        self.history = list(history)


class _Bookkeeping(keras.callbacks.Callback):
    """Shuffles before each epoch, adds a row to the history after it, and stops a run that has diverged."""

    def __init__(self, history, batches, network):
        super().__init__()
        self.history, self.batches, self.network = history, batches, network
        self.dataset, self.recipe = batches.dataset, batches.recipe

    def on_epoch_begin(self, epoch, logs=None):
        self.batches.start_epoch(epoch)
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self._stop_unless_finite(epoch, "loss", logs["loss"])
        seconds = time.perf_counter() - self.started
        _copy_weights(self.model, self.network)
        checked = evaluate(self.network, self.dataset, self.dataset.validation)
        self._stop_unless_finite(epoch, "validation loss", checked["loss"])
        self.history.append({
            "epoch": epoch + 1,
            "loss": float(logs["loss"]),
            "error": _per_cent(logs["accuracy"]),
            "validation_loss": checked["loss"],
            "validation_error": checked["error"],
            "learning_rate": float(self.model.optimizer.learning_rate),
            "seconds": round(seconds, 3),
        })  # fmt: skip

    def _stop_unless_finite(self, epoch, name, loss):
        if not math.isfinite(loss):
            raise Diverged(
                f"training diverged in epoch {epoch + 1}: the {name} is {loss}; "
                f"try a learning_rate below {self.recipe.learning_rate}",
                self.history,
            )


class _Plateau(keras.callbacks.Callback):
    """The student project's schedule, worked out anew from the history each time: nothing to save or restore."""

    def __init__(self, history, recipe, cut=0.75, patience=10, stop_after=20):
        super().__init__()
        self.history, self.recipe = history, recipe
        self.cut, self.patience, self.stop_after = cut, patience, stop_after

    def on_epoch_begin(self, epoch, logs=None):
        rate, best, waited = self.recipe.learning_rate, math.inf, 0
        for row in self.history:
            if row["validation_error"] < best:
                best, waited = row["validation_error"], 0
            else:
                waited += 1
                if waited % self.patience == 0:
                    rate *= self.cut
        self.model.optimizer.learning_rate = rate

    def on_epoch_end(self, epoch, logs=None):
        if len(self.history) - best_epoch(self.history) >= self.stop_after:
            self.model.stop_training = True


class Progress(keras.callbacks.Callback):
    """One line that keeps itself up to date: in a notebook without flooding it, in a terminal in place.

    On JAX it does not hold up the training: loss and accuracy are read from the device in a thread of their own.

    Args:
        epochs: of the whole run.
        steps: of an epoch.
        every: seconds between two changes of the line.
    """

    def __init__(self, epochs, steps, every=1.0):
        super().__init__()
        self.epochs, self.steps, self.every = epochs, steps, every
        self.handle, self.shown, self.last_text = None, 0.0, ""
        self.async_safe = True  # for Keras, which otherwise waits for the numbers of each step

    def _show(self, text, end=False):
        if "ipykernel" in sys.modules:
            from IPython.display import display

            data = {"text/plain": text}
            if self.handle is None:
                self.handle = display(data, raw=True, display_id=True)
            else:
                self.handle.update(data, raw=True)
        else:
            print("\r" + text.ljust(len(self.last_text)), end="\n" if end else "", flush=True)
        self.last_text, self.shown = text, time.perf_counter()

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch, self.started, self.ended = epoch, time.perf_counter(), None

    def on_train_batch_end(self, batch, logs=None):
        if self.ended is None or batch >= self.ended[0]:  # threads may overtake each other
            self.ended = batch + 1, logs

    def on_train_batch_begin(self, batch, logs=None):
        self._report()

    def on_epoch_end(self, epoch, logs=None):
        self._report()

    def _report(self):
        now = time.perf_counter()
        if self.ended is None or now - self.shown < self.every:
            return
        (done, logs), width = self.ended, 24
        filled = round(width * done / self.steps)
        left = (now - self.started) / done * (self.steps * (self.epochs - self.epoch) - done)
        self._show(
            f"epoch {self.epoch + 1}/{self.epochs} [{'#' * filled}{'.' * (width - filled)}] {done}/{self.steps}"
            f"  loss {logs['loss']:.3f}  accuracy {logs['accuracy']:.3f}  about {duration(left)} left"
        )

    def on_train_end(self, logs=None):
        self._show(f"trained to epoch {self.epoch + 1} of {self.epochs}", end=True)


def duration(seconds):
    """`seconds` in words.

    Example:
        >>> training.duration(3725)
        '1 h 2 min'
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def check_devices(devices, recipe):
    """Check that this machine can spread a run over so many devices: accelerators, or CPUs where it has none.

    Args:
        devices: whole number; more than 1 on the backends TensorFlow and JAX, if it divides the batch size.
        recipe: the run's `Recipe`.

    Returns:
        The names of the devices, by which Keras lists them; none for the one device that every run has.

    Raises:
        ValueError: what this backend or this machine cannot do; the message says how many devices there are.
    """
    _check_share(devices, recipe)
    if devices == 1:
        return []
    names = keras.distribution.list_devices()
    if devices > len(names):
        raise ValueError(
            f"devices must be at most {len(names)}, as many as there are here ({', '.join(names)}); received {devices}"
        )
    return names[:devices]


def _check_share(devices, recipe):
    """The part of `check_devices` that need not know the machine: a grid is checked on another than it runs on."""
    checks.whole("devices", devices, 1)
    backend = keras.backend.backend()
    if devices > 1 and backend == "torch":
        raise ValueError(
            f"devices must be 1 on PyTorch; received {devices} (KERAS_BACKEND=tensorflow and jax train on several)"
        )
    if devices > 1 and backend == "tensorflow" and recipe.precision == "mixed_float16":
        # The loss scaling of Keras looks for an overflow on the first device only, and lets those of the others pass.
        raise ValueError(
            f"devices must be 1 with mixed_float16 on TensorFlow; received {devices} "
            "(mixed_bfloat16, float32 and KERAS_BACKEND=jax train on several)"
        )
    if recipe.batch_size % devices:
        raise ValueError(f"devices must divide batch_size {recipe.batch_size}; received {devices}")


def _scopes(names):
    """Two context managers for one run on these devices: one to make and compile its network in, one to fit it in."""
    if not names:
        return contextlib.nullcontext(), contextlib.nullcontext()
    if keras.backend.backend() == "jax":
        parallel = keras.distribution.DataParallel(devices=names)
        return parallel.scope(), parallel.scope()
    import tensorflow as tf

    # Keras fits a network by the strategy it was made in. In its scope, the network that is evaluated between epochs
    # would take the strategy too, and give each answer once for each device.
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


def _copy_weights(source, target):
    if source is not target:
        target.set_weights(source.get_weights())


#: The passes of TensorFlow's graph optimiser (Grappler) that are on unless somebody turns them off.
_PASSES = (
    "arithmetic_optimization", "constant_folding", "dependency_optimization", "function_optimization",
    "implementation_selector", "layout_optimizer", "loop_optimization", "remapping", "shape_optimization",
)  # fmt: skip


@contextlib.contextmanager
def _remapper_alone():
    """Of TensorFlow's graph optimiser, only the remapper while a network is trained, on that backend.

    The remapper makes one operation of a normalisation and the ReLU behind it, bit for bit the same; in 16 bits, also
    one of a convolution and the sum behind it, which is then rounded once instead of twice. The other passes take
    seconds before the first step and make the steps no faster, and they add up the gradients that meet at a fork in the
    order in which they are ready, which is not always the same: with two operations at a time, about one run in twenty
    of the same seed came out otherwise.
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


def _build_for_training(model, batches):
    """Make what `model.fit` needs besides the network, which it would trace once more to find the shapes."""
    images, labels = batches[0]
    logits = np.zeros((len(images), *model.output_shape[1:]), "float32")
    model.optimizer.build(model.trainable_variables)
    model.compute_loss(images, labels, logits)
    model.compute_metrics(images, labels, logits)
    model.reset_metrics()


def fit(model, dataset, recipe, output_dir=None, seed=0, settings=None, progress=True, callbacks=(), devices=1):
    """Train `model` on `dataset` by `recipe`; go on where a killed run in `output_dir` stopped.

    A run that is killed and started again repeats the epoch it was in, and ends with the history it would have had
    undisturbed. The test set is never touched.

    On several devices each takes an equal part of every batch, by `tf.distribute.MirroredStrategy` or by
    `keras.distribution.DataParallel`. Batch normalisation and the loss stay those of the whole batch, so the result is
    that of one device but for the order of float32 sums (and of the draws of dropout). What is trained is a copy of
    `model`, which gets the weights after each epoch and is evaluated on one device. TensorFlow cannot go from several
    devices to another number of several in one process.

    Args:
        model: a network from `models.create_model`.
        dataset: a `datasets.Dataset`.
        recipe: a `Recipe`.
        output_dir: folder for `checkpoint/` and `history.csv`; None keeps nothing on disk.
        seed: whole number for order and augmentation. (Initial weights follow `keras.utils.set_random_seed`.)
        settings: dict that tells one run from another; a checkpoint with other settings is refused.
        progress: False trains silently.
        callbacks: more Keras callbacks, called after our own.
        devices: how many accelerators to use, or CPUs where there is none; see `check_devices`.

    Returns:
        The history, a list with a dict for each epoch. It has `epoch` (from 1), `loss` and `error` (per cent) on the
        augmented training batches as they came, `validation_loss`, `validation_error` (per cent), `learning_rate` at
        the epoch's end, and `seconds` of training.

    Raises:
        ValueError: a checkpoint that belongs to other settings (a damaged one is put aside, with a warning), or a
            wrong number of devices.
        Diverged: the loss became infinite or not a number.
    """
    to_make, to_fit = _scopes(check_devices(devices, recipe))
    batches = Batches(dataset, recipe, seed)
    history = []
    own = [_Bookkeeping(history, batches, model)]
    if recipe.schedule == "plateau":
        own.append(_Plateau(history, recipe))
    with to_make:
        trained = model if devices == 1 else keras.models.clone_model(model)
        _copy_weights(model, trained)
        compile_model(trained, recipe, recipe.epochs * len(batches))
        if devices == 1:
            _build_for_training(trained, batches)
        if output_dir is not None:
            told = {"model": model.name, "dataset": dataset.fingerprint, "seed": seed, **dataclasses.asdict(recipe)}
            checkpoint = Checkpoint(Path(output_dir) / "checkpoint", told | (settings or {}), history)
            own += [checkpoint, _HistoryFile(Path(output_dir) / "history.csv", history)]
            checkpoint.restore(trained)
            _copy_weights(trained, model)
    if progress:
        own.append(Progress(recipe.epochs, len(batches)))
    if len(history) < recipe.epochs and not _stalled(recipe, history):
        with to_fit, _remapper_alone():
            trained.fit(
                _feed(batches), epochs=recipe.epochs, initial_epoch=len(history), callbacks=[*own, *callbacks],
                verbose=0, shuffle=False,
            )  # fmt: skip
    return history


def _stalled(recipe, history, stop_after=20):
    return recipe.schedule == "plateau" and history and len(history) - best_epoch(history) >= stop_after


class _HistoryFile(keras.callbacks.Callback):
    def __init__(self, path, history):
        super().__init__()
        self.path, self.history = path, history

    def on_epoch_end(self, epoch, logs=None):
        write_history(self.path, self.history)


def write_history(path, history):
    """Write a `history` to `path` as CSV: a header with the names of `fit`'s dict, a line for each epoch."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_text(path, text.getvalue())


def test_errors(model, dataset, history, output_dir):
    """Loss and error on the test split, measured once training is over.

    Args:
        model: the network as `fit` left it, with the weights of the last epoch; it keeps them.
        dataset: the `datasets.Dataset`.
        history: what `fit` returned.
        output_dir: the folder `fit` was given.

    Returns:
        dict with `last_epoch`, the result, and `chosen_on_validation`, the same with the weights of the lowest
        validation error; each a dict with `epoch`, `loss` and `error` (per cent). `labels` and `answers` are the true
        classes of the test images and those that the last epoch answers, `(images,)`.
    """
    last, chosen, labels = len(history), best_epoch(history), dataset.test.labels
    logits = _logits(model, dataset, dataset.test)
    found = {"last_epoch": {"epoch": last, **_judge(logits, labels)}}
    if chosen == last:
        found["chosen_on_validation"] = dict(found["last_epoch"])
    else:
        keep = model.get_weights()
        folder = Path(output_dir) / "checkpoint"
        model.load_weights(folder / f"epoch-{chosen:04d}.weights.h5")
        found["chosen_on_validation"] = {"epoch": chosen, **evaluate(model, dataset, dataset.test)}
        model.set_weights(keep)
    return found | {"labels": labels, "answers": logits.argmax(axis=1)}


def finish(model, history, output_dir):
    """Keep what a finished run leaves in `output_dir`.

    The weights of `model` as `model.weights.h5`, without the optimiser's, and `history` as `history.csv`.
    """
    folder = Path(output_dir)
    model.compile()  # lets go of the optimiser, which would double the file
    save_weights(model, folder / "model.weights.h5")
    write_history(folder / "history.csv", history)


def drop_checkpoint(output_dir):
    """Delete the checkpoint in `output_dir` of a run whose record is written."""
    shutil.rmtree(Path(output_dir) / "checkpoint", ignore_errors=True)


# --- The parameters of book/experiments/train.ipynb --------------------------------------------------------------

#: Every parameter of the experiment notebook, with its default. None means what the profile says.
PARAMETERS = {
    "model": "attention_micro", "model_options": {}, "dataset": "cluttered_digits", "data_dir": None,
    "profile": "first", "seed": 0, "label_noise": 0.0, "epochs": None, "batch_size": None, "learning_rate": None,
    "mixed_precision": None, "devices": 1, "output_dir": None,
}  # fmt: skip

_IPYTHON_NAMES = {"In", "Out", "exit", "quit", "open", "get_ipython"}


def check_parameters(names):
    """Check the parameters of an experiment before anything is loaded or written.

    Args:
        names: the notebook's `globals()`, or any dict of parameters. papermill adds what it was given with `-p` as
            plain variables and only warns about a name it does not know; here such a name is refused. Who
            runs the notebook again by hand has its own variables among the names, among them the `run` that this
            returned before; then only a name is refused that is nearly a parameter's.

    Returns:
        dict with every parameter of `PARAMETERS`, `model_options` with its defaults filled in, `recipe` (a `Recipe`)
        in place of the parameters that change one, and `output_dir` as a `Path`.

    Raises:
        ValueError: an unknown name, a value that is not allowed, or an `output_dir` that holds a finished run.
    """
    given = {
        name: value
        for name, value in names.items()
        if not name.startswith("_") and name not in _IPYTHON_NAMES and not callable(value)
        and type(value).__name__ != "module"
    }  # fmt: skip
    unknown = sorted(set(given) - set(PARAMETERS))
    before = names.get("run")
    if isinstance(before, dict) and isinstance(before.get("recipe"), Recipe):  # the notebook's variables are there
        unknown = [name for name in unknown if difflib.get_close_matches(name, PARAMETERS, cutoff=0.8)]
    if unknown:
        raise ValueError(f"unknown parameter {unknown[0]!r}; the parameters are: {', '.join(PARAMETERS)}")
    run = PARAMETERS | {name: value for name, value in given.items() if name in PARAMETERS}

    if isinstance(run["model_options"], str):
        try:
            run["model_options"] = json.loads(run["model_options"], object_pairs_hook=checks.once)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"model_options must be a dict or its JSON, such as '{{\"learning\": \"naive\"}}'; "
                f"received {run['model_options']!r} ({error})"
            ) from None
    options = {} if run["model_options"] is None else run["model_options"]
    run["model_options"] = models.check_options(run["model"], options)
    datasets.check_name(run["dataset"], run["data_dir"])
    if run["dataset"] != run["dataset"].encode(errors="replace").decode():  # a name of a folder that is no Unicode
        raise ValueError(f"the name of a data set must be text that a record can hold; received {run['dataset']!r}")
    run["seed"] = checks.whole("seed", run["seed"], 0, 2**32 - 1)
    run["label_noise"] = checks.number("label_noise", run["label_noise"], least=0, most=1)
    if run["mixed_precision"] is not None:
        checks.choice("mixed_precision", run["mixed_precision"], PRECISIONS)
    run["recipe"] = recipe(
        run.pop("profile"), epochs=run.pop("epochs"), batch_size=run.pop("batch_size"),
        learning_rate=run.pop("learning_rate"), precision=run.pop("mixed_precision"),
    )  # fmt: skip
    run["devices"] = 1 if run["devices"] is None else run["devices"]
    _check_share(run["devices"], run["recipe"])
    run["devices"] = int(run["devices"])
    run["output_dir"] = _output_dir(run)
    return run


def _output_dir(run):
    """The folder of a run: the given one, which must not hold a finished run, or the first free one by its name."""
    if run["output_dir"] is not None:
        folder = checks.path("output_dir", run["output_dir"])
        if any(place.exists() and not place.is_dir() for place in (folder, *folder.parents)):
            raise ValueError(f"output_dir must be a folder; received {str(folder)!r}, in which there is a file")
        if (folder / "record.json").exists():
            raise ValueError(f"output_dir {str(folder)!r} holds a finished run (record.json); choose another folder")
        return folder
    stem = run_name(run)
    number, folder = 1, Path("runs") / stem
    while (folder / "record.json").exists():
        number += 1
        folder = Path("runs") / f"{stem}-{number}"
    return folder


def run_name(run):
    """The name of a `run`, from what `check_parameters` returns: model, data, profile and seed.

    A digest follows where anything else is not what the profile says, so that other settings have another name.

    Example:
        >>> training.run_name(training.check_parameters({"model": "attention_56", "profile": "laptop"}))
        'attention_56-cluttered_digits-laptop-seed0'
    """
    data = Path(run["dataset"].partition(":")[2] or run["dataset"]).name
    stem = f"{run['model']}-{data}-{run['recipe'].profile}-seed{run['seed']}"
    usual = models.check_options(run["model"], {}) | {"label_noise": 0.0}
    usual |= dataclasses.asdict(recipe(run["recipe"].profile))
    here = run["model_options"] | {"label_noise": run["label_noise"]} | dataclasses.asdict(run["recipe"])
    if changed := {name: value for name, value in here.items() if name not in usual or usual[name] != value}:
        stem += "-" + hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:8]
    return stem

"""`fit`, from top to bottom as training goes, and what it does after each epoch."""

import dataclasses
import math
import shutil
import time
import zlib

import keras

from ranet_lib import checks, files
from ranet_lib.training import devices as placing
from ranet_lib.training.batches import Batches
from ranet_lib.training.checkpoint import Checkpoint, best_epoch
from ranet_lib.training.evaluation import evaluate, per_cent
from ranet_lib.training.optimizer import compile_model
from ranet_lib.training.progress import Progress


def fit(model, dataset, recipe, output_dir=None, seed=0, settings=None, progress=True, callbacks=(), devices=1):
    """Train `model` on `dataset` by `recipe`; go on where a killed run in `output_dir` stopped.

    A killed run that is started again repeats the epoch it was in, and ends with the history it would have had
    undisturbed (on a processor; a GPU adds up in any order). The test set is never touched.

    Several devices each take an equal part of every batch. The result is that of one device but for the order of
    float32 sums and the draws of dropout. A copy of `model` is trained; `model` gets its weights after each epoch and
    is evaluated on one device. TensorFlow cannot go from several devices to another number of several in one process.

    Args:
        model: a network from `models.create_model`.
        dataset: a `datasets.Dataset`.
        recipe: a `Recipe`.
        output_dir: folder for `checkpoint/` and `history.csv`; None keeps nothing on disk.
        seed: whole number for order and augmentation. (Initial weights follow `keras.utils.set_random_seed`.)
        settings: dict of other values that identify this run, such as the network's options or the weights it starts
            from; a checkpoint with other settings is refused.
        progress: False trains silently.
        callbacks: more Keras callbacks, called after our own.
        devices: how many accelerators to use, or CPUs where there is none; see `check_devices`.

    Returns:
        The history, a list with a dict for each epoch. It has `epoch` (from 1), `loss` (by smoothed labels, if the
        recipe smooths) and `error` (per cent) on the augmented training batches as they came, `validation_loss`,
        `validation_error` (per cent), `learning_rate` at the epoch's end, and `seconds` of training.

    Raises:
        ValueError: a checkpoint of other settings (a damaged one is put aside), a wrong number of devices, a `seed`
            that is none, a network of another precision or with other outputs than `dataset` has classes, fewer
            training images than a batch takes, or an `output_dir` with a finished run or another process at work.
        Diverged: the loss became infinite or not a number.
    """
    checks.outputs(model, model.output_shape[-1], dataset)
    seed, names = checks.whole("seed", seed, least=0), placing.check_devices(devices, recipe)
    batches, history = Batches(dataset, recipe, seed), []
    with files.alone_in(output_dir) as folder:
        to_make, to_fit = placing.scopes(names)
        own = [_Bookkeeping(history, batches, model)]
        own += [_Plateau(history, recipe)] if recipe.schedule == "plateau" else []
        with to_make:
            trained = model if devices == 1 else keras.models.clone_model(model)
            if trained.dtype_policy.name != (policy := model.dtype_policy.name):  # a clone has the global one
                raise ValueError(f"{model.name} is made again for each device: set_dtype_policy({policy!r}) before fit")
            trained.set_weights(model.get_weights())
            compile_model(trained, recipe, recipe.epochs * len(batches))
            if devices == 1:
                placing.build_ahead(trained, batches)
            if folder is not None:
                told = {"model": model.name, "dataset": dataset.fingerprint, "seed": seed}
                told |= {"labels": zlib.crc32(dataset.train.labels.tobytes())} | dataclasses.asdict(recipe)
                checkpoint = Checkpoint(folder / "checkpoint", told | (settings or {}), history)
                write = lambda *_: write_history(folder / "history.csv", history)  # noqa: E731
                own += [checkpoint, keras.callbacks.LambdaCallback(on_epoch_end=write)]
                checkpoint.restore(trained)
                model.set_weights(trained.get_weights())
        own += [Progress(recipe.epochs, len(batches))] if progress else []
        if len(history) < recipe.epochs and not _stalled(recipe, history):
            with to_fit, placing.remapper_alone():
                trained.fit(placing.feed(batches), epochs=recipe.epochs, initial_epoch=len(history),
                            callbacks=[*own, *callbacks], verbose=0, shuffle=False)  # fmt: skip
    return history


class _Bookkeeping(keras.callbacks.Callback):
    """Shuffles before each epoch, adds a row to the history after it, and stops a run that has diverged."""

    def __init__(self, history, batches, network):
        super().__init__()
        self.history, self.batches, self.network = history, batches, network

    def on_epoch_begin(self, epoch, logs=None):
        self.batches.start_epoch(epoch)
        for state in (each for each in self.model.variables if each.name == "seed_generator_state"):  # of dropout
            state.assign([int(state[0]), epoch * len(self.batches)])
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        seconds = time.perf_counter() - self.started
        self._stop_unless_finite(epoch, "loss", logs["loss"])
        self.network.set_weights(self.model.get_weights())
        checked = evaluate(self.network, self.batches.dataset, self.batches.dataset.validation)
        self._stop_unless_finite(epoch, "validation loss", checked["loss"])
        self.history.append({
            "epoch": epoch + 1, "loss": float(logs["loss"]), "error": per_cent(logs["accuracy"]),
            "validation_loss": checked["loss"], "validation_error": checked["error"],
            "learning_rate": float(self.model.optimizer.learning_rate), "seconds": round(seconds, 3)})  # fmt: skip

    def _stop_unless_finite(self, epoch, name, loss):
        if not math.isfinite(loss):
            advice = f"try a learning_rate below {self.batches.recipe.learning_rate}"
            raise Diverged(f"training diverged in epoch {epoch + 1}: the {name} is {loss}; {advice}", self.history)


class Diverged(FloatingPointError):
    """The loss of a run became infinite or not a number: `message` says which, `history` holds the finished epochs."""

    def __init__(self, message, history):
        super().__init__(message)
        self.history = list(history)


class _Plateau(keras.callbacks.Callback):
    """The student project's schedule, worked out from the history each time: nothing to save or restore."""

    def __init__(self, history, recipe):
        super().__init__()
        self.history, self.recipe = history, recipe

    def on_epoch_begin(self, epoch, logs=None):
        rate, best, waited = self.recipe.learning_rate, math.inf, 0
        for row in self.history:
            waited = 0 if row["validation_error"] < best else waited + 1
            best = min(best, row["validation_error"])
            if waited and waited % 10 == 0:
                rate *= 0.75
        self.model.optimizer.learning_rate = rate

    def on_epoch_end(self, epoch, logs=None):
        if _stalled(self.recipe, self.history):
            self.model.stop_training = True


def _stalled(recipe, history):
    return recipe.schedule == "plateau" and history and len(history) - best_epoch(history) >= 20


def write_history(path, history):
    """Write a `history` to `path` as CSV: a header with the names of `fit`'s dict, a line for each epoch."""
    rows = [history[0], *(row.values() for row in history)]
    files.write_text(path, "".join(",".join(map(str, row)) + "\n" for row in rows))


def finish(model, history, output_dir):
    """Keep in `output_dir` (a path, else a ValueError) the weights of `model` alone, and `history` as `history.csv`."""
    model.compile()  # lets go of the optimiser, which would double the file
    files.save_weights(model, (folder := checks.path("output_dir", output_dir)) / "model.weights.h5")
    write_history(folder / "history.csv", history)


def drop_checkpoint(output_dir):
    """Delete the checkpoint in `output_dir` (a path, else a ValueError) of a run whose record is written."""
    shutil.rmtree(checks.path("output_dir", output_dir) / "checkpoint", ignore_errors=True)

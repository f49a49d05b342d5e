"""How good a network is: loss and error on a split."""

import json

import numpy as np
from scipy.special import log_softmax

from ranet_lib import checks
from ranet_lib.training.checkpoint import best_epoch


def evaluate(model, dataset, split, batch_size=250):
    """Loss and error of `model`, which returns logits, on one `split` of `dataset`, without augmentation.

    Returns a dict with `loss` (mean cross-entropy) and `error` (per cent), whatever the `batch_size`.

    Example:
        >>> data = datasets.load_dataset("cluttered_digits")
        >>> flat = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Flatten(),
        ...                          keras.layers.Dense(10, kernel_initializer="zeros")])
        >>> round(training.evaluate(flat, data, data.validation)["loss"], 3)  # of guessing: log 10
        2.303
    """
    return _judge(_logits(model, dataset, split, batch_size), split.labels)


def _logits(model, dataset, split, batch_size=250):
    batch_size = checks.whole("batch_size", batch_size)
    logits = np.concatenate([
        model.predict_on_batch(dataset.prepare(split.images[start : start + batch_size]))
        for start in range(0, len(split), batch_size)]).astype("float64")  # fmt: skip
    checks.outputs(model, logits.shape[1], dataset)
    return logits


def _judge(logits, labels):
    loss = -log_softmax(logits, axis=1)[np.arange(len(labels)), labels]
    return {"loss": float(loss.mean()), "error": per_cent(np.mean(logits.argmax(axis=1) == labels))}


def per_cent(accuracy):
    """The error in per cent, rounded to what float32 holds."""
    return round(100.0 * (1.0 - float(accuracy)), 4)


def test_errors(model, dataset, history, output_dir):
    """Loss and error of `model`, as `fit` left it, on the test split of `dataset`, measured once training is over.

    `history` is what `fit` returned, `output_dir` its folder (else a ValueError). Returns a dict: `last_epoch` and
    `chosen_on_validation` (the lowest validation error), each a dict with `epoch`, `loss` and `error` (per cent);
    `labels` and `answers`, the true classes of the test images and those that the last epoch gives.
    """
    folder = checks.path("output_dir", output_dir) / "checkpoint"
    state = folder / "state.json"
    if not state.exists() or json.loads(state.read_text(encoding="utf-8")).get("history") != history:
        raise ValueError(f"output_dir must hold the checkpoint of this history's run; received {str(output_dir)!r}")
    epoch, labels, logits = best_epoch(history), dataset.test.labels, _logits(model, dataset, dataset.test)
    last = {"epoch": len(history), **_judge(logits, labels)}
    chosen = dict(last)
    if epoch != len(history):
        keep = model.get_weights()
        model.load_weights(folder / f"epoch-{epoch:04d}.weights.h5")
        chosen = {"epoch": epoch, **evaluate(model, dataset, dataset.test)}
        model.set_weights(keep)
    return {"last_epoch": last, "chosen_on_validation": chosen, "labels": labels, "answers": logits.argmax(axis=1)}

"""Run records: one JSON file for each finished run, the only source of the numbers in the book.

`make_record` gathers what a run was and found, `write_record` puts it on disk whole or not at all and never over
another, `read_record` checks it against the schema (`record.schema.json`), `results_table` sets many side by side
and beside what the paper printed (`PUBLISHED`).
"""

import copy
import dataclasses
import datetime
import functools
import hashlib
import json
import os
import platform
import statistics
import subprocess
from pathlib import Path

import jsonschema

HERE = Path(__file__).parent

#: What the paper printed, to set beside our own records: errors in per cent, parameters in millions.
PUBLISHED = json.loads((HERE / "published.json").read_text(encoding="utf-8"))


@functools.cache
def _validator():
    return jsonschema.Draft202012Validator(json.loads((HERE / "record.schema.json").read_text(encoding="utf-8")))


def make_record(model, dataset, recipe, history, test, *, options=None, seed=0, label_noise=0.0, localization=None):
    """The record of a finished run, as a dict that satisfies the schema.

    Args:
        model: the trained network.
        dataset: the `datasets.Dataset` it was trained on.
        recipe: the `training.Recipe` it was trained by.
        history: what `training.fit` returned.
        test: dict with `last_epoch` and `chosen_on_validation`, each with `epoch`, `loss` and `error`, measured once
            on the test split after training.
        options: the options of `create_model`.
        seed, label_noise: as given to the run.
        localization: dict with `images`, `modules` (a mean score for each), `random` and `centre`; None where the
            data has no object masks.

    Raises:
        ValueError: something that the schema refuses.
    """
    from ranet_lib import models

    record = {
        "schema": 1,
        "model": {
            "name": model.name,
            "options": dict(options or {}),
            "num_classes": int(model.output_shape[-1]),
            "input_shape": list(model.input_shape[1:]),
            "parameters": int(model.count_params()),
            "trainable_parameters": int(sum(_size(weight) for weight in model.trainable_weights)),
            "flops": int(models.count_flops(model)),
        },
        "dataset": {
            "name": dataset.name,
            "copy": dataset.copy,
            "fingerprint": dataset.fingerprint,
            "train": min(len(dataset.train), recipe.train_images or len(dataset.train)),
            "validation": len(dataset.validation),
            "test": len(dataset.test),
            "mean": [round(float(value), 4) for value in dataset.mean],
            "std": [round(float(value), 4) for value in dataset.std],
        },
        "recipe": dataclasses.asdict(recipe),
        "seed": seed,
        "label_noise": float(label_noise),
        "history": copy.deepcopy(history),
        "test": test,
        **({} if localization is None else {"localization": localization}),
        "time": {
            "training": round(sum(row["seconds"] for row in history), 3),
            "seconds_per_epoch": round(statistics.median(row["seconds"] for row in history), 3),
            "finished": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        },
        "environment": environment(),
    }
    validate_record(record)
    return record


def _size(weight):
    size = 1
    for length in weight.shape:
        size *= length
    return size


def environment():
    """Device, versions and commit of this process, as the record keeps them."""
    import keras
    import numpy

    import ranet_lib

    return {
        "device": _device(),
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "backend": f"{keras.backend.backend()} {_backend_version()}",
        "python": platform.python_version(),
        "keras": keras.__version__,
        "numpy": numpy.__version__,
        "ranet_lib": ranet_lib.__version__,
        "commit": _commit(),
    }


def _backend_version():
    import importlib

    import keras

    return importlib.import_module(keras.backend.backend()).__version__


def _device():
    """The accelerator's name, or the processor's."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        for gpu in tf.config.list_physical_devices("GPU"):
            return tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
    elif keras.backend.backend() == "jax":
        import jax

        if jax.default_backend() != "cpu":
            return jax.devices()[0].device_kind
    elif keras.backend.backend() == "torch":
        import torch

        if torch.cuda.is_available():
            return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return "CPU: " + next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return f"CPU: {platform.processor() or platform.machine()}"


def _commit():
    """The commit of the repository this library lies in, or None outside one."""

    def git(*words):
        return subprocess.run(
            ["git", "-C", str(HERE), *words], capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()

    try:
        if git("ls-files", "--error-unmatch", str(HERE / "__init__.py")):
            return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        pass
    return None


def validate_record(record):
    """Raise a ValueError that names the first place where `record` breaks the schema; return the record otherwise."""
    error = jsonschema.exceptions.best_match(_validator().iter_errors(record))
    if error is not None:
        raise ValueError(f"not a run record: {error.json_path}: {error.message}")
    epochs = [row["epoch"] for row in record["history"]]
    if epochs != list(range(1, len(epochs) + 1)):
        raise ValueError(f"not a run record: $.history: the epochs must run from 1 without a gap; found {epochs}")
    return record


def write_record(path, record):
    """Write a valid record whole or not at all; never over an existing file.

    Raises:
        ValueError: a record that breaks the schema.
        FileExistsError: there is a file at `path`.
    """
    path = Path(path)
    validate_record(record)
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)  # unlike a rename, fails when the name is taken
        except FileExistsError:
            raise FileExistsError(f"{path} exists: a finished record is never overwritten") from None
    finally:
        temporary.unlink(missing_ok=True)


def read_record(path):
    """Read and validate one record. Raises a ValueError that names the file and what is wrong with it."""
    try:
        return validate_record(json.loads(Path(path).read_text(encoding="utf-8")))
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from None


def read_records(folder):
    """All records of a folder as a dict from file name (without `.json`) to record, by name; a bad one is an error."""
    return {path.stem: read_record(path) for path in sorted(Path(folder).glob("*.json"))}


def result_digest(record):
    """SHA-256 of what must repeat when a run is repeated: all but times, machine and versions."""
    kept = {key: copy.deepcopy(value) for key, value in record.items() if key not in ("time", "environment")}
    for row in kept["history"]:
        del row["seconds"]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def published_error(record):
    """The paper's error (per cent) for the network and data of a record, or None where it printed none.

    Only a run of the same network, with the same options and clean labels, is comparable.
    """
    if record["label_noise"]:
        return None
    from ranet_lib.models import DEFAULT_OPTIONS as defaults

    for row in PUBLISHED["paper"]["error"]:
        same = row["model"] == record["model"]["name"] and row["dataset"] == record["dataset"]["name"]
        if same and defaults | row["options"] == defaults | record["model"]["options"]:
            return row["error"]
    return None


def results_table(records):
    """Rows for a table of runs: one dict per record, with plain columns ready for printing.

    Args:
        records: dict from name to record, as `read_records` returns.

    Returns:
        list of dicts with `run`, `model`, `dataset`, `copy`, `epochs`, `test error %`, `on validation's choice %`,
        `paper %` (None: nothing comparable printed), `minutes`, `device`.
    """
    return [
        {
            "run": name,
            "model": record["model"]["name"],
            "dataset": record["dataset"]["name"],
            "copy": record["dataset"]["copy"],
            "epochs": len(record["history"]),
            "test error %": round(record["test"]["last_epoch"]["error"], 2),
            "on validation's choice %": round(record["test"]["chosen_on_validation"]["error"], 2),
            "paper %": published_error(record),
            "minutes": round(record["time"]["training"] / 60, 1),
            "device": record["environment"]["device"],
        }
        for name, record in records.items()
    ]

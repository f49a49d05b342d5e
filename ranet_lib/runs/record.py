"""The run record: one JSON file for each run that has ended, the only source of the numbers in the book."""

import contextlib
import copy
import dataclasses
import datetime
import functools
import importlib
import json
import math
import os
import platform
import statistics
import subprocess
from pathlib import Path

import joblib
import keras
import numpy as np

import ranet_lib
from ranet_lib import checks, counting, files
from ranet_lib.runs import answers

HERE = Path(__file__).parent
_SCHEMA = json.loads((HERE / "record.schema.json").read_text(encoding="utf-8"))


def make_record(model, dataset, recipe, history, test=None, *, failure=None, options=None, seed=0, label_noise=0.0,
                localization=None, devices=1, made_on=None):  # fmt: skip
    """The record of a run that has ended, as a dict that satisfies the schema: with its test, or with its failure.

    `model` is the trained network; `dataset`, `recipe`, `seed`, `label_noise` and `devices` are those of its training,
    `options` those of `create_model`. `history` is what `training.fit` returned, or what a failed run had finished,
    `test` what `training.test_errors` returned, `localization` what `masks.localization` did, None where there is none;
    `failure` says why a run stopped before its end; `made_on` is that of its `NoteEnvironment`, None for this process
    alone. Raises a ValueError for something that the schema refuses.
    """
    *earlier, last = made_on or [environment()]
    classes = int(model.output_shape[-1])
    if test is not None:
        test = test | {name: answers.pack(test[name], classes) for name in ("labels", "answers") if name in test}
    given = {"test": test, "failure": failure, "localization": localization}
    record = {
        "schema": 1,
        "model": {
            "name": model.name, "options": dict(options or {}), "num_classes": classes,
            "input_shape": list(model.input_shape[1:]), "parameters": int(model.count_params()),
            "trainable_parameters": sum(math.prod(weight.shape) for weight in model.trainable_weights),
            "flops": int(counting.count_flops(model))},
        "dataset": {
            "name": dataset.name, "copy": dataset.copy, "fingerprint": dataset.fingerprint,
            "train": min(len(dataset.train), recipe.train_images or len(dataset.train)),
            "validation": len(dataset.validation), "test": len(dataset.test),
            **{key: [round(float(value), 4) for value in getattr(dataset, key)] for key in ("mean", "std")},
            "classes": list(dataset.class_names)},
        "recipe": dataclasses.asdict(recipe), "seed": checks.whole("seed", seed, 0), "label_noise": float(label_noise),
        "history": copy.deepcopy(history),
        **{key: value for key, value in given.items() if value is not None},
        "time": {
            "training": round(sum(row["seconds"] for row in history), 3),
            "seconds_per_epoch": round(statistics.median(row["seconds"] for row in history), 3) if history else None,
            "finished": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")},
        "environment": last | {"devices": devices} | ({"earlier": earlier} if earlier else {})}  # fmt: skip
    return validate_record(record)


class NoteEnvironment(keras.callbacks.Callback):
    """Keeps with the checkpoint in `folder` each environment that trains its run: a callback for `training.fit`.

    `made_on` lists them, the last one last: of a run that was killed and resumed elsewhere, more than one.
    """

    def __init__(self, folder):
        super().__init__()
        self.path, self.here, self.made_on = Path(folder, "checkpoint", "environments.json"), environment(), []
        with contextlib.suppress(OSError, ValueError):  # none yet, or damaged like its checkpoint
            self.made_on += json.loads(self.path.read_text(encoding="utf-8"))

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 0:
            self.made_on.clear()
        if self.made_on[-1:] != [self.here]:
            self.made_on.append(self.here)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            files.write_text(self.path, json.dumps(self.made_on, indent=1))


def environment():
    """Device, versions and commit of this process, as the record keeps them."""
    backend = keras.backend.backend()
    cores = joblib.cpu_count()  # that this process may use: a container or a job may have fewer than the machine
    threads = os.environ.get({"tensorflow": "TF_NUM_INTRAOP_THREADS", "torch": "OMP_NUM_THREADS"}.get(backend, ""), "")
    return {
        "device": _device(backend), "processors": min(cores, (threads.isdecimal() and int(threads)) or cores),
        "backend": f"{backend} {importlib.import_module(backend).__version__}",
        "python": platform.python_version(), "keras": keras.__version__, "numpy": np.__version__,
        "ranet_lib": ranet_lib.__version__, "commit": _commit()}  # fmt: skip


def _device(backend):
    """The accelerator's name, or the processor's."""
    library = importlib.import_module(backend)
    if backend == "tensorflow":
        for gpu in library.config.list_physical_devices("GPU"):
            return library.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
    elif backend == "jax" and library.default_backend() != "cpu":
        return library.devices()[0].device_kind
    elif backend == "torch" and (kind := keras.ops.zeros(()).device.type) != "cpu":  # where Keras puts its tensors
        return library.cuda.get_device_name() if kind == "cuda" else kind
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return "CPU: " + next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return f"CPU: {platform.processor() or platform.machine()}"


def _commit():
    """The commit of the repository this library lies in, or None outside one."""
    def git(*words):  # also in a repository that belongs to somebody else, as in a shared folder
        words = ("git", "-c", "safe.directory=*", *words)
        return subprocess.check_output(words, cwd=HERE, stderr=subprocess.DEVNULL, text=True, timeout=20)
    try:
        git("ls-files", "--error-unmatch", "__init__.py")
        return git("rev-parse", "HEAD").strip() + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def validate_record(record):
    """Return `record`, or raise a ValueError that names the first place where it breaks the schema."""
    if fault := _first_fault(record):
        raise ValueError(f"not a run record: {fault}")
    return record


def _first_fault(record):
    import jsonschema  # not above: where it can check addresses, as in Colab, this takes two seconds
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(_SCHEMA).iter_errors(record))
    if error is not None:
        message = "a failed run has no test and no localization" if error.schema is False else error.message
        return f"{error.json_path}: {message}"
    epochs = [row["epoch"] for row in record["history"]]
    if epochs != list(range(1, len(epochs) + 1)):
        return f"$.history: the epochs must run from 1 without a gap; found {epochs}"
    for name in ("last_epoch", "chosen_on_validation") if "test" in record else ():
        epoch = record["test"][name]["epoch"]
        if epoch > len(epochs) or (name == "last_epoch" and epoch != len(epochs)):
            return f"$.test.{name}.epoch: {epoch} after {len(epochs)} epochs"
    try:
        kept = answers.of_record(record)
    except ValueError as error:
        return f"$.test.answers or labels: {error}"
    if kept is not None:
        error, told = 100 * (kept[0] != kept[1]).mean(), record["test"]["last_epoch"]["error"]
        if abs(error - told) > 1e-3:  # an error is rounded to four digits
            return f"$.test.last_epoch.error: {told}, but the answers have {error:.4f}"
    try:
        json.dumps(record, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as error:
        return f"text that is not valid Unicode ({error.reason})"
    except ValueError as error:
        return f"a number that JSON cannot hold ({error})"


def write_record(path, record):
    """Write `record` at `path`, whole or not at all. An invalid one is a ValueError, a file there a FileExistsError."""
    text = json.dumps(validate_record(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, text, _move_once)


def _move_once(temporary, path):
    try:
        os.link(temporary, path)  # unlike a rename, fails when the name is taken
    except OSError as error:
        if isinstance(error, FileExistsError) or path.exists():
            raise FileExistsError(f"{path} exists: a finished record is never overwritten") from None
        os.replace(temporary, path)  # no links here: exFAT, Google Drive in Colab


def read_record(path):
    """The valid record in the file `path`. Raises a ValueError that names the file and what is wrong with it.

    Example:
        >>> record = runs.read_record("book/results/attention_tiny-cifar10-study-seed0.json")
        >>> record["model"]["name"], record["dataset"]["train"], len(record["history"])
        ('attention_tiny', 10000, 4)
    """
    whole = functools.partial(_finite, kind=int)
    reading = {"parse_float": _finite, "parse_constant": _finite, "parse_int": whole, "object_pairs_hook": checks.once}
    try:
        found = validate_record(json.loads(Path(path).read_text(encoding="utf-8"), **reading))
    except RecursionError:
        raise ValueError(f"{path}: not a run record: nested without end") from None
    except ValueError as error:  # also bytes that are no text, and text that is no JSON
        raise ValueError(f"{path}: {error}") from None
    found["recipe"].setdefault("label_smoothing", 0.0)  # the first records lack it
    return found


def _finite(text, kind=float):
    """A number of JSON that a float can hold: no `NaN`, which Python lets through, no `1e999`, no 400 digits."""
    if not math.isfinite(float(text)):
        raise ValueError(f"not a run record: {text[:40]} is not a finite number")
    return kind(text)


def read_records(folder):
    """All records in `folder` as a dict by name. A bad record is a ValueError, no folder a FileNotFoundError."""
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"there is no folder {str(folder)!r} to read records from")
    return {path.stem: read_record(path) for path in sorted(Path(folder).glob("*.json"))}


def book_folder():
    """The folder `book` of the working directory's repository or of the library's; a FileNotFoundError without one."""
    for start in (Path.cwd(), *Path.cwd().parents, HERE.parents[1]):
        if (start / "book" / "results").is_dir():
            return start / "book"
    raise FileNotFoundError(f"no folder book/results in {Path.cwd()} or above it; open this notebook in its repository")

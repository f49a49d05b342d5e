"""Run records: one JSON file for each run that has ended, the only source of the numbers in the book.

`make_record` gathers what a run was and found, `write_record` puts it on disk whole or not at all and never over
another, `read_record` checks it against the schema (`record.schema.json`). `results_table` sets runs side by side,
`summary` gathers them over their seeds, both beside what the paper printed (`PUBLISHED`).
"""

import copy
import dataclasses
import datetime
import functools
import hashlib
import json
import math
import os
import platform
import statistics
import subprocess
from pathlib import Path

import jsonschema

from ranet_lib import answers, checks

HERE = Path(__file__).parent

#: What the paper and the student project printed, to set beside our own records. Errors are in per cent, parameters
#: in millions.
PUBLISHED = json.loads((HERE / "published.json").read_text(encoding="utf-8"))


@functools.cache
def _validator():
    return jsonschema.Draft202012Validator(json.loads((HERE / "record.schema.json").read_text(encoding="utf-8")))


def make_record(
    model, dataset, recipe, history, test=None, *, failure=None, options=None, seed=0, label_noise=0.0,
    localization=None, devices=1,
):  # fmt: skip
    """The record of a run that has ended, as a dict that satisfies the schema: with its test, or with its failure.

    Args:
        model: the trained network.
        dataset: the `datasets.Dataset` it was trained on.
        recipe: the `training.Recipe` it was trained by.
        history: what `training.fit` returned, or the epochs that a failed run had finished.
        test: what `training.test_errors` returned, measured once on the test split after training; None for a run
            that failed.
        failure: why a run stopped before its end; None for one that did not.
        options: the options of `create_model`.
        seed, label_noise: as given to the run.
        localization: dict with `images`, `modules` (a mean score for each), `random` and `centre`; None where the
            data has no object masks.
        devices: how many of them shared each batch.

    Returns:
        dict, as `write_record` takes it.

    Raises:
        ValueError: something that the schema refuses.
    """
    from ranet_lib import models

    if test is not None:
        classes = int(model.output_shape[-1])
        test = {
            name: answers.pack(found, classes) if name in ("labels", "answers") else found
            for name, found in test.items()
        }  # fmt: skip
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
        **{key: value for key, value in (("test", test), ("failure", failure)) if value is not None},
        **({} if localization is None else {"localization": localization}),
        "time": {
            "training": round(sum(row["seconds"] for row in history), 3),
            "seconds_per_epoch": round(statistics.median(row["seconds"] for row in history), 3) if history else None,
            "finished": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        },
        "environment": environment() | {"devices": devices},
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
    """Return `record`, or raise a ValueError that names the first place where it breaks the schema."""
    error = jsonschema.exceptions.best_match(_validator().iter_errors(record))
    if error is not None:
        message = "a failed run has no test and no localization" if error.schema is False else error.message
        raise ValueError(f"not a run record: {error.json_path}: {message}")
    epochs = [row["epoch"] for row in record["history"]]
    if epochs != list(range(1, len(epochs) + 1)):
        raise ValueError(f"not a run record: $.history: the epochs must run from 1 without a gap; found {epochs}")
    for name in ("last_epoch", "chosen_on_validation") if "test" in record else ():
        found = record["test"][name]
        if found["epoch"] != len(epochs) if name == "last_epoch" else found["epoch"] > len(epochs):
            raise ValueError(f"not a run record: $.test.{name}.epoch: {found['epoch']} after {len(epochs)} epochs")
    _check_answers(record)
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"not a run record: text that is no Unicode ({error.reason})") from None
    return record


def _check_answers(record):
    try:
        kept = answers.of_record(record)
    except ValueError as error:
        raise ValueError(f"not a run record: $.test.answers or labels: {error}") from None
    if kept is not None:
        error, told = 100 * (kept[0] != kept[1]).mean(), record["test"]["last_epoch"]["error"]
        if abs(error - told) > 1e-3:  # an error is rounded to four digits
            raise ValueError(f"not a run record: $.test.last_epoch.error: {told}, but the answers have {error:.4f}")


def write_record(path, record):
    """Write a valid record whole or not at all; never over an existing file.

    Args:
        path: where to; folders on the way are made.
        record: as `make_record` returns it.

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
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)  # unlike a rename, fails when the name is taken
        except FileExistsError:
            raise FileExistsError(f"{path} exists: a finished record is never overwritten") from None
        except OSError:  # no links here: exFAT, Google Drive in Colab
            if path.exists():
                raise FileExistsError(f"{path} exists: a finished record is never overwritten") from None
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_record(path):
    """The valid record in the file `path`. Raises a ValueError that names the file and what is wrong with it.

    Example:
        >>> record = records.read_record("book/results/attention_tiny-cifar10-study-seed0.json")
        >>> record["model"]["name"], record["dataset"]["train"], len(record["history"])
        ('attention_tiny', 10000, 4)
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        found = json.loads(
            text, parse_float=_finite, parse_int=_whole, parse_constant=_finite, object_pairs_hook=checks.once
        )
        validate_record(found)
        found["recipe"].setdefault("label_smoothing", 0.0)  # which is younger than the first records
        return found
    except RecursionError:
        raise ValueError(f"{path}: not a run record: nested without end") from None
    except ValueError as error:  # what is no text and what is no JSON, too
        raise ValueError(f"{path}: {error}") from None


def _finite(text):
    """A number of JSON, which has no `NaN`, and whose `1e999` is nothing that a run can have measured."""
    if not math.isfinite(value := float(text)):
        raise ValueError(f"not a run record: {text[:40]} is no finite number")
    return value


def _whole(text):
    """A whole number of JSON, if it is not too large for a float: everything is divided or averaged some time."""
    _finite(text)
    return int(text)


def read_records(folder):
    """All records in `folder` as a dict from file name (without `.json`) to record, by name.

    Raises:
        ValueError: a bad record; the message names it.
        FileNotFoundError: there is no such folder.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"there is no folder {str(folder)!r} to read records from")
    return {path.stem: read_record(path) for path in sorted(Path(folder).glob("*.json"))}


def book_folder():
    """The folder `book` of this repository, whose `results` hold its records.

    Returns:
        Its path, in the repository of the working directory or else in that of the library.

    Raises:
        FileNotFoundError: neither lies in a repository with records.
    """
    for start in (Path.cwd(), *Path.cwd().parents, HERE.parent):
        if (start / "book" / "results").is_dir():
            return start / "book"
    raise FileNotFoundError(f"no folder book/results in {Path.cwd()} or above it; open this notebook in its repository")


def result_digest(record):
    """SHA-256 of what must repeat in `record` when a run is repeated: all but times, machine and versions."""
    kept = {key: copy.deepcopy(value) for key, value in record.items() if key not in ("time", "environment")}
    for row in kept["history"]:
        del row["seconds"]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


# --- Tables ------------------------------------------------------------------------------------------------------


def published_error(record, by="paper"):
    """The error (per cent) that was printed for the network, options, data and label noise of a record, or None.

    The recipe is not compared: whether a run is a fair test of the figure beside it is for its reader to judge.

    Args:
        record: a run record.
        by: "paper", or "source" for the student project. What the second calls noise is not noise of the labels.

    Returns:
        float, or None where nothing was printed.
    """
    return _printed(by, _settings(record))


def _printed(by, settings):
    for row in PUBLISHED[by]["error"] + PUBLISHED[by]["label_noise"]:
        same = {"model": row["model"], "dataset": row["dataset"], "label_noise": row.get("label_noise", 0.0)}
        same["options"] = _every_option(row["model"], row["options"])
        if all(settings[key] == value for key, value in same.items()):
            return row["error"]
    return None


def _every_option(name, options):
    """All options of a network: where one is not given, what its layout says."""
    from ranet_lib import models

    layout = {}
    if name in models.list_models():
        spec = models.model_spec(name)
        layout = {option: getattr(spec, option) for option in models.OPTIONS if option not in models.DEFAULT_OPTIONS}
        layout = {option: list(value) if isinstance(value, tuple) else value for option, value in layout.items()}
    return models.DEFAULT_OPTIONS | layout | options


def _settings(record):
    """What a run was asked to do, apart from its seed."""
    return {
        "model": record["model"]["name"],
        "options": _every_option(record["model"]["name"], record["model"]["options"]),
        "dataset": record["dataset"]["name"],
        "label_noise": record["label_noise"],
        "recipe": record["recipe"],
    }


def results_table(records):
    """Rows for a table of runs: one dict per record, with plain columns ready for printing.

    Args:
        records: dict from name to record, as `read_records` returns.

    Returns:
        list of dicts with `run`, `model`, `dataset`, `copy`, `epochs`, `test error %` and `on validation's choice %`
        ("failed" for a failed run), `paper %` (None: nothing comparable printed), `minutes`, `device`.
    """

    def error(record, weights):
        return round(record["test"][weights]["error"], 2) if "test" in record else "failed"

    return [
        {
            "run": name,
            "model": record["model"]["name"],
            "dataset": record["dataset"]["name"],
            "copy": record["dataset"]["copy"],
            "epochs": len(record["history"]),
            "test error %": error(record, "last_epoch"),
            "on validation's choice %": error(record, "chosen_on_validation"),
            "paper %": published_error(record),
            "minutes": round(record["time"]["training"] / 60, 1),
            "device": _devices(record),
        }
        for name, record in records.items()
    ]


def summary(records, planned=None):
    """Rows over seeds: runs that differ in nothing but the seed, gathered into one row.

    Everything else has to agree: network and options, data set, its copy and the number of images, label noise, and
    the whole recipe. A seed counts once, with the record that was finished first.

    Args:
        records: dict from name to record, as `read_records` returns.
        planned: dict from name to parameters of train.ipynb, as a group of the grid of experiments has them. The rows
            are then those of the plan, in its order, also where nothing has run. None: those of the records.

    Returns:
        list of dicts. What was asked is in `label` (the network and what is changed in it, in words), `model`,
        `options` (all of them), `changed` (those that are not the network's own), `layers` (as the paper counts them),
        `dataset`, `label_noise`, `recipe`, and `planned`, a list of seeds. What was found is in `n`, the finished
        runs, and `failed`, the others, their `seeds`, the `errors` (per cent, test error of the last epoch) with `mean`
        and sample standard deviation `deviation` (None for fewer than two), and the same errors in `by_seed`, a dict.
        What was used is in `copy`, `train_images`, `test_images`, `parameters`, `flops`, `hours` of training in all,
        `devices`; all None where nothing has run.
        What was printed for it is in `paper` and `source` (per cent, or None).

    Example:
        >>> record = records.read_record("book/results/attention_tiny-cifar10-study-seed0.json")
        >>> rows = records.summary({"first": record, "second": record | {"seed": 1}})
        >>> [(row["label"], row["seeds"], row["n"]) for row in rows]
        [('attention_tiny', [0, 1], 2)]
    """
    measured = []
    for record in records.values():
        data = {key: record["dataset"][key] for key in ("copy", "train", "test")}
        runs, seed = _find(measured, (_settings(record), data), {}), record["seed"]
        runs[seed] = min(runs.get(seed, record), record, key=lambda one: one["time"]["finished"])
    if planned is None:
        return [_row(settings, data, runs, []) for (settings, data), runs in measured]
    from ranet_lib import training

    asked = []
    for parameters in planned.values():
        run = training.check_parameters(parameters)
        settings = {
            "model": run["model"],
            "options": _every_option(run["model"], run["model_options"]),
            "dataset": run["dataset"],
            "label_noise": run["label_noise"],
            "recipe": dataclasses.asdict(run["recipe"]),
        }
        _find(asked, settings, []).append(run["seed"])
    rows = []
    for settings, seeds in asked:
        found = [(data, runs) for (same, data), runs in measured if same == settings]
        rows += [_row(settings, data, runs, seeds) for data, runs in found or [(None, {})]]
    return rows


def _find(pairs, key, new):
    """The value of `key` in a list of pairs, put there as `new` if it is not: a dict with keys that need no hash."""
    for known, value in pairs:
        if known == key:
            return value
    pairs.append((key, new))
    return new


def _row(settings, data, runs, seeds):
    from ranet_lib import models

    first = next(iter(runs.values()), None)
    finished = {seed: record for seed, record in sorted(runs.items()) if "test" in record}
    errors = [record["test"]["last_epoch"]["error"] for record in finished.values()]
    spec = None
    if settings["model"] in models.list_models():
        own = {option: settings["options"][option] for option in ("modules", "pre_units", "trunk_units")}
        spec = dataclasses.replace(models.model_spec(settings["model"]), **own)
    usual = _every_option(settings["model"], {})
    changed = {key: value for key, value in settings["options"].items() if key not in usual or usual[key] != value}
    return {
        "label": _label(settings, changed),
        **settings,
        "changed": changed,
        "layers": spec and spec.weighted_layers,
        "planned": sorted(seeds),
        "n": len(errors),
        "failed": len(runs) - len(errors),
        "seeds": sorted(runs),
        "errors": errors,
        "by_seed": dict(zip(finished, errors)),
        "mean": statistics.mean(errors) if errors else None,
        "deviation": statistics.stdev(errors) if len(errors) > 1 else None,
        "copy": data and data["copy"],
        "train_images": data and data["train"],
        "test_images": data and data["test"],
        "parameters": first and first["model"]["parameters"],
        "flops": first and first["model"]["flops"],
        "hours": first and sum(record["time"]["training"] for record in runs.values()) / 3600,
        "devices": first and sorted({_devices(record) for record in runs.values()}),
        **{by: _printed(by, settings) for by in PUBLISHED},
    }


def _devices(record):
    """What the run was made on, with their number where several shared it."""
    count = record["environment"].get("devices", 1)
    return f"{count} of {record['environment']['device']}" if count > 1 else record["environment"]["device"]


def _label(settings, changed):
    """A network and what is changed in it, in words: `attention_56, naive`."""
    words = [settings["model"]]
    for option, value in changed.items():
        if isinstance(value, list):
            value = value[0] if len(set(value)) == 1 else "/".join(map(str, value))
        if option == "shortcut":
            words.append("no shortcut")
        elif option in ("learning", "mask_activation", "mask_branch"):
            words.append(str(value))  # naive, channel, local: each says whose value it is
        else:
            words.append(f"{option} {value if isinstance(value, str) else format(value, 'g')}".replace("_", " "))
    if settings["label_noise"]:
        words.append(f"{100 * settings['label_noise']:g} % noise")
    return ", ".join(words)


def scatter(rows):
    """How far a run scatters about what its row and its seed let expect, from all rows with two seeds or more.

    Runs with one seed share the order of the images, the part of them that they see, and the validation split, and so
    they are good or bad luck together. That is no difference between rows: each row's mean and each seed's common
    effect are taken off (by least squares), and what is left is the chance of a run.

    Args:
        rows: rows of `summary`.

    Returns:
        the standard deviation in points, and from how many independent differences it is known (the degrees of
        freedom); None for too few runs.
    """
    import numpy as np

    places, errors = [], []
    for number, row in enumerate(rows):
        data = row["dataset"], row["copy"], row["train_images"]
        for seed, error in row["by_seed"].items() if row["n"] > 1 else ():
            places.append((("row", number), (data, seed)))
            errors.append(error)
    causes = {cause: column for column, cause in enumerate(dict.fromkeys(c for pair in places for c in pair))}
    design = np.zeros((len(errors), len(causes)))
    for run, pair in enumerate(places):
        for cause in pair:
            design[run, causes[cause]] = 1.0
    freedom = len(errors) - (np.linalg.matrix_rank(design) if errors else 0)
    if freedom < 1:
        return None
    left = np.array(errors) - design @ np.linalg.lstsq(design, np.array(errors), rcond=None)[0]
    return float(np.sqrt((left**2).sum() / freedom)), int(freedom)


def contrast(signs, scattered, confidence=0.95):
    """A signed sum of rows, formed within each seed that all of them have, and what chance could make of it.

    Args:
        signs: pairs of a row of `summary` and its sign: `[(one, 1), (other, -1)]` for one less the other.
        scattered: what `scatter` returns.
        confidence: how often, between equal rows, the difference stays within its chance.

    Returns:
        the mean over the shared seeds in points, None where there is none; and half the width of its interval (by
        Student's t, since the scatter is known from few runs), None where that is not known.
    """
    from scipy.stats import t

    seeds = set.intersection(*(set(row["by_seed"]) for row, _ in signs))
    if not seeds:
        return None, None
    value = statistics.mean(sum(sign * row["by_seed"][seed] for row, sign in signs) for seed in sorted(seeds))
    if scattered is None:
        return value, None
    deviation, freedom = scattered
    error = deviation * math.sqrt(sum(sign**2 for _, sign in signs) / len(seeds))
    return value, float(t.ppf((1 + confidence) / 2, freedom)) * error


def recipe_text(recipe):
    """The `recipe` of a record in words: its profile, and what differs from it, `laptop, epochs 3`."""
    from ranet_lib import training

    known = recipe["profile"] in training.list_profiles()
    usual = dataclasses.asdict(training.recipe(recipe["profile"])) if known else {"profile": recipe["profile"]}
    changed = [f"{name} {value}" for name, value in recipe.items() if name not in usual or usual[name] != value]
    return ", ".join([recipe["profile"], *changed]).replace("_", " ")


def error_interval(error, images, confidence=0.95):
    """Wilson's interval for the true error of one network, from its error on a test set.

    Args:
        error: per cent of the test images that it got wrong.
        images: how many test images there were.
        confidence: the share of such intervals that hold the true error.

    Returns:
        the lower and the upper limit, in per cent. They say nothing about another seed.

    Example:
        >>> low, high = records.error_interval(5.0, images=10_000)
        >>> print(f"{low:.2f} to {high:.2f} %")
        4.59 to 5.44 %
    """
    share, z = error / 100, statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    centre = share + z**2 / (2 * images)
    half = z * math.sqrt(share * (1 - share) / images + (z / (2 * images)) ** 2)
    return tuple(100 * (centre + side) / (1 + z**2 / images) for side in (-half, half))


def error_text(row):
    """The result in words of a `row` of `summary`.

    Mean and standard deviation over seeds, `5.52 ± 0.12`; for one run, its error and in brackets the 95 % interval
    that its test images leave, `5.52 [5.09, 5.98]`; and how many runs failed. None where nothing has run.
    """
    words = []
    if row["n"] > 1:
        words.append(f"{row['mean']:.2f} ± {row['deviation']:.2f}")
    elif row["n"]:
        low, high = error_interval(row["mean"], row["test_images"])
        words.append(f"{row['mean']:.2f} [{low:.2f}, {high:.2f}]")
    if row["failed"]:
        words.append(f"{row['failed']} failed")
    return ", ".join(words) or None

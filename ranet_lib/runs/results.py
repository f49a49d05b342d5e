"""Runs side by side, over their seeds, and beside what the paper printed."""

import dataclasses
import json
import math
import statistics
from pathlib import Path

from ranet_lib import checks, models
from ranet_lib.runs.parameters import check_parameters

#: What the paper and the student project printed. Errors are in per cent, parameters in millions.
PUBLISHED = json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))


def published_error(record, by="paper"):
    """The error (per cent) that was printed for the network, options, data and label noise of `record`, or None.

    `by` is "paper" or "source" (the student project, whose noise is not noise of the labels). No recipe is compared.
    """
    return _printed(by, settings_of(record))


def _printed(by, asked):
    asked = asked | {"options": asked["options"] | {"checkpointing": False}}  # which changes no result
    for row in PUBLISHED[by]["error"] + PUBLISHED[by]["label_noise"]:
        noise = row.get("label_noise", 0.0)
        if settings(row["model"], row["options"], row["dataset"], noise, asked["recipe"]) == asked:
            return row["error"]
    return None


def _every_option(model, options):
    """All options of a network: where one is not given, what its layout says."""
    spec = models.model_spec(model) if model in models.list_models() else None
    layout = {option: getattr(spec, option) for option in models.OPTIONS if hasattr(spec, option)}
    layout = {option: list(value) if isinstance(value, tuple) else value for option, value in layout.items()}
    return models.DEFAULT_OPTIONS | layout | options


def settings(model, options, dataset, label_noise, recipe):
    """What a run is asked to do, apart from its seed: a dict of these five.

    `model`, `dataset` and `label_noise` are as in train.ipynb, `options` are any of the model's, of which the dict has
    all, and `recipe` is a dict with the fields of a `training.Recipe`.
    """
    options = _every_option(model, options)
    return {"model": model, "options": options, "dataset": dataset, "label_noise": label_noise, "recipe": recipe}


def settings_of(record):
    """The `settings` of the run of a `record`."""
    model, data = record["model"], record["dataset"]
    return settings(model["name"], model["options"], data["name"], record["label_noise"], record["recipe"])


def summary(records, planned=None):
    """Rows over seeds: runs that differ in nothing but the seed, gathered into one row.

    A seed counts once, by its first finished record, or else its first failed one. `records` is a dict from name to
    record. With `planned`, such a dict of parameters of train.ipynb, the rows are the plan's, also where nothing ran.

    Returns a list of dicts. Settings: `label` (the network and its changes, in words), `model`, `options` (all),
    `changed` (those that are not the network's own), `layers` (as the paper counts them), `dataset`, `label_noise`,
    `recipe`, `planned` (seeds). Results: `n` finished and `failed` runs, their `seeds`, the `errors` (per cent,
    test error of the last epoch), their `mean` and sample standard `deviation`, and the errors in `by_seed`, a dict.
    Conditions, None where nothing has run: `copy`, `train_images`, `test_images`, `parameters`, `flops`, `hours` of
    training in all, `devices`. Printed errors: `paper`, `source`.

    Example:
        >>> record = runs.read_record("book/results/attention_tiny-cifar10-study-seed0.json")
        >>> rows = runs.summary({"first": record, "second": record | {"seed": 1}})
        >>> [(row["label"], row["seeds"], row["n"]) for row in rows]
        [('attention_tiny', [0, 1], 2)]
    """
    measured = []
    for record in records.values():
        data = {key: record["dataset"][key] for key in ("copy", "train", "test")}
        runs, seed = _find(measured, (settings_of(record), data), {}), record["seed"]
        runs[seed] = min(runs.get(seed, record), record, key=lambda one: ("failure" in one, one["time"]["finished"]))
    if planned is None:
        return [_row(asked, data, runs, []) for (asked, data), runs in measured]
    plan = []
    for run in (check_parameters(parameters, there=False) for parameters in planned.values()):
        recipe = dataclasses.asdict(run["recipe"])
        asked = settings(run["model"], run["model_options"], run["dataset"], run["label_noise"], recipe)
        _find(plan, asked, []).append(run["seed"])
    rows = []
    for asked, seeds in plan:
        found = [(data, runs) for (same, data), runs in measured if same == asked]
        rows += [_row(asked, data, runs, seeds) for data, runs in found or [(None, {})]]
    return rows


def _find(pairs, key, new):
    """The value of `key` in a list of pairs, put there as `new` if it is not: a dict with keys that need no hash."""
    if not any(known == key for known, _ in pairs):
        pairs.append((key, new))
    return next(value for known, value in pairs if known == key)


def _row(asked, data, runs, planned):
    first = next(iter(runs.values()), None)
    finished = {seed: record for seed, record in sorted(runs.items()) if "test" in record}
    errors = [record["test"]["last_epoch"]["error"] for record in finished.values()]
    layers, options, usual = None, asked["options"], _every_option(asked["model"], {})
    if asked["model"] in models.list_models():
        own = {option: options[option] for option in ("modules", "pre_units", "trunk_units")}
        layers = dataclasses.replace(models.model_spec(asked["model"]), **own).weighted_layers
    changed = {key: value for key, value in options.items() if key not in usual or usual[key] != value}
    return {
        "label": _label(asked, changed), **asked, "changed": changed, "layers": layers, "planned": sorted(planned),
        "n": len(errors), "failed": len(runs) - len(errors), "seeds": sorted(runs), "errors": errors,
        "by_seed": dict(zip(finished, errors)),
        "mean": statistics.mean(errors) if errors else None,
        "deviation": statistics.stdev(errors) if len(errors) > 1 else None,
        "copy": data and data["copy"], "train_images": data and data["train"], "test_images": data and data["test"],
        "parameters": first and first["model"]["parameters"], "flops": first and first["model"]["flops"],
        "hours": first and sum(record["time"]["training"] for record in runs.values()) / 3600,
        "devices": first and sorted({_devices(record["environment"]) for record in runs.values()}),
        **{by: _printed(by, asked) for by in PUBLISHED}}  # fmt: skip


def _devices(environment):
    """What a run was made on, with their number where several shared it."""
    count = environment.get("devices", 1)
    return f"{count} of {environment['device']}" if count > 1 else environment["device"]


def _label(asked, changed):
    """A network and what is changed in it, in words: `attention_56, naive`."""
    words = [asked["model"]]
    for option, value in changed.items():
        if isinstance(value, list):
            value = value[0] if len(set(value)) == 1 else "/".join(map(str, value))
        if option == "shortcut":
            words.append("no shortcut")
        elif option in ("learning", "mask_activation", "mask_branch"):
            words.append(str(value))  # naive, channel, local: each says whose value it is
        else:
            words.append(f"{option} {value if isinstance(value, str) else format(value, 'g')}".replace("_", " "))
    if asked["label_noise"]:
        words.append(f"{100 * asked['label_noise']:g}% noise")
    return ", ".join(words)


def error_interval(error, images, confidence=0.95):
    """Wilson's interval for the true error of one network, from its `error`, per cent of so many test `images`.

    Returns both limits (%). The share `confidence` of such intervals holds the true error. ValueError: out of range.

    Example:
        >>> low, high = runs.error_interval(5.0, images=10_000)
        >>> print(f"{low:.2f} to {high:.2f}%")
        4.59 to 5.44%
    """
    share, count = checks.number("error", error, least=0, most=100) / 100, checks.number("images", images, above=0)
    z = statistics.NormalDist().inv_cdf((1 + checks.number("confidence", confidence, above=0, below=1)) / 2)
    centre = share + z**2 / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    return tuple(100 * (centre + side) / (1 + z**2 / count) for side in (-half, half))


def error_text(row):
    """The result of a `row` of `summary`: `5.52 ± 0.12 (n = 5)`, `5.52 [5.09, 5.98]` of one run, None if none ran."""
    words = []
    if row["n"] > 1:
        words.append(f"{row['mean']:.2f} ± {row['deviation']:.2f} (n = {row['n']})")
    elif row["n"]:
        low, high = error_interval(row["mean"], row["test_images"])
        words.append(f"{row['mean']:.2f} [{low:.2f}, {high:.2f}]")
    words += [f"{row['failed']} failed"] if row["failed"] else []
    return ", ".join(words) or None

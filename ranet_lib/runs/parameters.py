"""The parameters of `book/experiments/train.ipynb`, checked before anything is loaded or written."""

import ast
import contextlib
import dataclasses
import difflib
import hashlib
import inspect
import itertools
import json
import re
from pathlib import Path

from ranet_lib import checks, datasets, models
from ranet_lib.training import PRECISIONS, Recipe, recipe
from ranet_lib.training.devices import check_share

#: Every parameter of the experiment notebook, with its default. None means what the profile says.
PARAMETERS = {
    "model": "attention_micro", "model_options": {}, "dataset": "cluttered_digits", "data_dir": None,
    "profile": "first", "seed": 0, "label_noise": 0.0, "epochs": None, "batch_size": None, "learning_rate": None,
    "mixed_precision": None, "devices": 1, "output_dir": None}  # fmt: skip
_IPYTHON_NAMES = {"In", "Out", "exit", "quit", "open", "get_ipython"}


def check_parameters(names, there=True):
    """Check the parameters of an experiment before anything is loaded or written.

    `names` are the notebook's `globals()`, or any dict of parameters. When the notebook is run again by hand, its own
    variables are among them, and only a name that is nearly a parameter's is refused. Returns a dict with every
    parameter of `PARAMETERS`, defaults filled in, and `recipe` (a `Recipe`) in place of those that change one. Raises a
    ValueError for an unknown name, a wrong value, or an `output_dir` that holds a finished run, and, unless `there` is
    False, a FileNotFoundError for data that is not there.
    """
    given = {
        name: value for name, value in names.items()
        if name in PARAMETERS
        or not (name.startswith("_") or name in _IPYTHON_NAMES or callable(value) or inspect.ismodule(value))
    }  # fmt: skip
    unknown = sorted((set(given) - set(PARAMETERS)) & _assigned(names))
    before = names.get("run")
    if isinstance(before, dict) and isinstance(before.get("recipe"), Recipe):  # the notebook's variables are there
        unknown = [name for name in unknown if difflib.get_close_matches(name, PARAMETERS, cutoff=0.8)]
    if unknown:
        raise ValueError(f"unknown parameter {unknown[0]!r}; the parameters are: {', '.join(PARAMETERS)}")
    run = {name: given.get(name, default) for name, default in PARAMETERS.items()}
    run |= {name: _number(run[name]) for name in ("label_noise", "epochs", "batch_size", "learning_rate")}
    options = run["model_options"]
    if isinstance(options, str):
        try:
            options = json.loads(options, object_pairs_hook=checks.once)
        except (ValueError, RecursionError) as error:
            wanted = """a dict or its JSON, such as '{"learning": "naive"}'"""
            raise ValueError(f"model_options must be {wanted}; received {options!r} ({error})") from None
    run["model_options"] = models.check_options(run["model"], {} if options is None else options)
    datasets.check_name(run["dataset"], run["data_dir"], there)
    if run["data_dir"] is not None:
        run["data_dir"] = str(checks.path("data_dir", run["data_dir"]).resolve())
    if run["dataset"].startswith("folder:"):
        run["dataset"] = f"folder:{checks.path('dataset', run['dataset'].removeprefix('folder:')).resolve()}"
    if run["dataset"] != run["dataset"].encode(errors="replace").decode():  # a folder's name may be no Unicode
        raise ValueError(f"the name of a data set must be text that a record can hold; received {run['dataset']!r}")
    run["seed"] = checks.whole("seed", run["seed"], 0, 2**32 - 1)
    run["label_noise"] = checks.number("label_noise", run["label_noise"], least=0, most=1)
    if run["mixed_precision"] is not None:
        checks.choice("mixed_precision", run["mixed_precision"], PRECISIONS)
    run["recipe"] = recipe(run.pop("profile"), epochs=run.pop("epochs"), batch_size=run.pop("batch_size"),
                           learning_rate=run.pop("learning_rate"), precision=run.pop("mixed_precision"))  # fmt: skip
    run["devices"] = check_share(1 if run["devices"] is None else run["devices"], run["recipe"])
    run["output_dir"] = _output_dir(run)
    return run


def _assigned(names):
    """The names that the cells of this notebook have set; outside of IPython, all. Its start-up files set others."""
    if "In" not in names:
        return set(names)
    nodes = []
    for cell in names["In"]:
        with contextlib.suppress(SyntaxError):  # a cell of IPython's own commands
            nodes += ast.walk(ast.parse(cell))
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def _number(value):
    """`value`, or the number that it is as a text: YAML 1.1, which papermill reads, takes 1e-4 for a text."""
    return float(value) if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value) else value


def _output_dir(run):
    """The folder of a run: the given one, which must not hold a finished run, or the first free one by its name."""
    if run["output_dir"] is None:
        endings = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
        folders = (Path("runs", run_name(run) + ending) for ending in endings)
        return next(folder for folder in folders if not (folder / "record.json").exists())
    folder = checks.path("output_dir", run["output_dir"])
    if any(place.exists() and not place.is_dir() for place in (folder, *folder.parents)):
        raise ValueError(f"output_dir must be a folder; received {str(folder)!r}, in which there is a file")
    if (folder / "record.json").exists():
        raise ValueError(f"output_dir {str(folder)!r} holds a finished run (record.json); choose another folder")
    return folder


def parameters_of(record):
    """The parameters of train.ipynb that make the run of `record` again, a dict without folders and `devices`.

    What the profile or the network has of itself is left out. Raises a ValueError for a profile or network that this
    version does not know or has otherwise.
    """
    model, used = record["model"], record["recipe"]
    usual, own = vars(recipe(used["profile"])), models.check_options(model["name"], {})
    asked = {"model": model["name"], "dataset": record["dataset"]["name"], "profile": used["profile"]}
    asked |= {"seed": record["seed"]} | ({"label_noise": noise} if (noise := record["label_noise"]) else {})
    changed = {key: used[key] for key in usual if used.get(key, usual[key]) != usual[key]}
    asked |= {"mixed_precision": changed.pop("precision")} if "precision" in changed else {}
    if other := changed.keys() - {"epochs", "batch_size", "learning_rate"}:
        raise ValueError(f"the profile {used['profile']!r} has changed since this run, in {', '.join(sorted(other))}")
    asked |= changed
    changed = {key: value for key, value in model["options"].items() if key not in own or own[key] != value}
    return asked | ({"model_options": changed} if changed else {})


def run_name(run):
    """The name of a `run` of `check_parameters`: model, data, profile, seed, and a digest of what differs from those.

    Example:
        >>> runs.run_name(runs.check_parameters({"model": "attention_56", "profile": "laptop"}))
        'attention_56-cluttered_digits-laptop-seed0'
    """
    data = re.sub(r"[^\w.-]", "_", Path(run["dataset"].partition(":")[2] or run["dataset"]).name)
    stem = f"{run['model']}-{data}-{run['recipe'].profile}-seed{run['seed']}"
    usual = models.check_options(run["model"], {}) | {"label_noise": 0.0}
    usual |= dataclasses.asdict(recipe(run["recipe"].profile))
    here = run["model_options"] | {"label_noise": run["label_noise"]} | dataclasses.asdict(run["recipe"])
    if run["dataset"].startswith("folder:"):  # two folders may have the same name
        here["dataset"] = run["dataset"]
    if changed := {name: value for name, value in here.items() if name not in usual or usual[name] != value}:
        stem += "-" + hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:8]
    return stem

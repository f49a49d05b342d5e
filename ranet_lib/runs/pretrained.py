"""The trained weights that ship with this package."""

import json
import re
from pathlib import Path

import keras
import numpy as np
from pooch import file_hash

from ranet_lib import datasets, files, models

PRETRAINED = Path(__file__).parent / "weights"


def list_pretrained():
    """The names that `load_pretrained` knows: `MODEL-DATASET` of each trained network in this package.

    Example:
        >>> "attention_tiny-cluttered_digits" in runs.list_pretrained()
        True
    """
    return sorted(path.stem for path in PRETRAINED.glob("*.json"))


def pretrained_record(name):
    """The run record of the trained network `name` that ships with this package, a dict.

    Example:
        >>> runs.pretrained_record("attention_tiny-cluttered_digits")["recipe"]["profile"]
        'laptop'
    """
    return _about(name)["record"]


def _about(name):
    """What is kept with the weights `name`: `version`, `sha256`, `record`, `logits`, and what `about` added."""
    if name not in (names := list_pretrained()):
        raise ValueError(f"no trained weights of the name {name!r}; there are: {', '.join(names) or 'none'}")
    return json.loads((PRETRAINED / f"{name}.json").read_text(encoding="utf-8"))


def load_pretrained(name):
    """A network with trained weights that ship with this package.

    `name` is one of `list_pretrained()`. The `keras.Model` takes images as the `prepare` of its data set gives them.
    Raises a ValueError for an unknown name, and for a file that is damaged or of another version of the network.

    Example:
        >>> model = runs.load_pretrained("attention_tiny-cluttered_digits")
        >>> model.name
        'attention_tiny'
    """
    about, path = _about(name), PRETRAINED / f"{name}.npz"
    if file_hash(path) != about["sha256"]:
        raise ValueError(f"the weights of {name} in {path} do not match their checksum; install the package again")
    kind = about["record"]["model"]
    model = models.create_model(kind["name"], kind["num_classes"], kind["input_shape"], **kind["options"])
    with np.load(path, allow_pickle=False) as arrays:
        if set(arrays) != {weight.path for weight in model.weights}:
            raise ValueError(f"the weights of {name} (version {about['version']}) are not those of {model.name}")
        for weight in model.weights:
            weight.assign(arrays[weight.path].astype("float32"))
    return model


def save_pretrained(model, record, folder=PRETRAINED, about=None):
    """Write a trained network's weights as `load_pretrained` reads them: float16, with checksum and run record.

    With them go its logits for a few embedded images, to check what is loaded. `model` is in float32, `record` its run
    record, `folder` the package's own by default, `about` a dict of further entries. Returns the name.
    Raises a ValueError for weights that float16 cannot hold, or a data set whose name cannot be part of a file name.
    """
    name = f"{record['model']['name']}-{record['dataset']['name']}"
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"the weights would be called {name!r}, which cannot name a file; rename the data set")
    arrays = {}
    for weight in model.weights:
        values = keras.ops.convert_to_numpy(weight)
        largest = np.abs(values).max()
        if not largest <= np.finfo("float16").max:  # nor does it where it is not a number
            raise ValueError(f"{weight.path} has values up to {largest:.3g}, which float16 cannot hold")
        arrays[weight.path] = values.astype("float16")
    rounded = keras.models.clone_model(model)
    rounded.set_weights([values.astype("float32") for values in arrays.values()])
    logits = _embedded_logits(rounded)  # which takes a while: file and checksum should change together
    file = Path(folder, f"{name}.npz")
    file.parent.mkdir(parents=True, exist_ok=True)
    files.replace(file, lambda temporary: np.savez_compressed(temporary, **arrays))
    about = {
        "version": 1, "sha256": file_hash(file), "record": record, **(about or {}),
        "logits": [[round(float(value), 4) for value in row] for row in logits]}  # fmt: skip
    files.write_text(file.with_suffix(".json"), json.dumps(about, indent=1) + "\n")
    return name


def _embedded_logits(model, count=8):
    """A network's logits `(count, num_classes)` for cluttered digits tiled to its input size, whatever it learned."""
    data = datasets.load_dataset("cluttered_digits")
    height, width = model.input_shape[1:3]
    rows, columns = np.arange(height) % data.image_shape[0], np.arange(width) % data.image_shape[1]
    return model.predict_on_batch(data.prepare(data.validation.images[:count])[:, rows][:, :, columns])

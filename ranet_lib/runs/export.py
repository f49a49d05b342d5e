"""A network as a file for use elsewhere."""

import os
import tempfile
from pathlib import Path

import keras
import numpy as np
from keras import layers

from ranet_lib import blocks

#: The forms that `export_model` writes, by suffix.
EXPORTS = {".keras": "Keras", ".onnx": "ONNX", ".tflite": "LiteRT", "": "TensorFlow SavedModel (a folder)"}


def export_model(model, path):
    """Write a network for use elsewhere; the suffix of `path` says in which form.

    `.keras` is Keras's own file, which `keras.saving.load_model` reads once `ranet_lib.blocks` is imported. The others
    hold the forward pass of the `model` (in float32) alone: `.onnx`, `.tflite` (LiteRT), or no suffix for a TensorFlow
    SavedModel. Raises a ValueError for a wrong path or a form that cannot hold it, an ImportError without a package.
    """
    path = Path(path)
    if path.suffix not in EXPORTS:
        forms = ", ".join(f"{suffix or 'no suffix'} ({form})" for suffix, form in EXPORTS.items())
        raise ValueError(f"the suffix of path must be one of: {forms}; received {path.suffix!r} in {str(path)!r}")
    if path.exists():
        raise ValueError(f"path {str(path)!r} is taken; choose another, or delete it")
    _check_export(model, path.suffix)
    model(np.zeros((1, *model.input_shape[1:]), "float32"))  # Keras exports nothing that was never called
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # whole or not at all
        unfinished = Path(folder) / path.name
        if path.suffix == ".keras":
            alone = type(model).from_config(model.get_config())  # without the optimiser, which would double the file
            alone.set_weights(model.get_weights())
            alone.save(unfinished)
        elif path.suffix == ".onnx":
            try:
                model.export(unfinished, format="onnx", verbose=False)
                _mend_up_sampling(unfinished)
            except ImportError as error:
                raise ImportError(f"ONNX needs the packages onnx and tf2onnx: pip install them ({error})") from error
        else:
            model.export(unfinished, format="litert" if path.suffix else "tf_saved_model", verbose=False)
        os.replace(unfinished, path)


def _check_export(model, suffix):
    """Refuse what the converters would get wrong, or make a file of that no runtime reads."""
    parts = list(blocks.walk(model))
    convolutions = [layer for layer in parts if isinstance(layer, layers.Conv2D)]
    policies = {layer.dtype_policy.name for layer in convolutions}
    if suffix != ".keras" and policies - {"float32"}:
        advice = "create it again in float32 and set_weights from this one"
        raise ValueError(f"{model.name} computes in {', '.join(sorted(policies))}, and export needs float32: {advice}")
    grouped = any(layer.groups > 1 for layer in convolutions)
    if suffix in (".onnx", ".tflite") and grouped and keras.backend.backend() == "tensorflow":
        why = f"which TensorFlow compiles in a form that {EXPORTS[suffix]} cannot hold"
        advice = "export it as .keras or as a SavedModel (a path without a suffix)"
        raise ValueError(f"{model.name} has grouped convolutions, {why}; {advice}")
    branches = [layer for layer in parts if isinstance(layer, blocks.MaskBranch) and layer.interpolation == "nearest"]
    for small, large in (pair for branch in branches for pair in zip(branch.sizes[1:], branch.sizes)):
        if suffix == ".onnx" and (2 * small[0], 2 * small[1]) != large:
            advice = "choose an input_shape that two divides at each level, or another form"
            raise ValueError(f"ONNX may take another neighbour in up-sampling {small} to {large}; {advice}")


def _mend_up_sampling(path):
    """Raise the float32 factors of up-sampling in an ONNX file, since sizes round down: 10 times 1.9 came out as 18."""
    import onnx
    file = onnx.load(path)
    factors = {node.input[2] for node in file.graph.node if node.op_type == "Resize"}
    for tensor in file.graph.initializer:
        if tensor.name in factors:
            values = onnx.numpy_helper.to_array(tensor)
            mended = np.where(values == np.round(values), values, values * (1 + 3e-7)).astype("float32")
            tensor.CopyFrom(onnx.numpy_helper.from_array(mended, tensor.name))
    onnx.save(file, path)

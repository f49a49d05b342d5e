"""A process of its own: the logits of networks with given weights, by one backend of Keras or by plain PyTorch.

    python forward.py FOLDER WHICH

Each FOLDER/*.npz holds `images`, `options` (the JSON of `create_model`'s arguments) and the weights, each under
"weight:" and its path. Its logits go into FOLDER/*.WHICH.npy. WHICH is "tensorflow", "jax" or "torch", the backend of
Keras, or "reference", the second implementation.
"""

import functools
import json
import os
import sys
from pathlib import Path

import numpy as np


def call(model, weights, images, training):
    """Logits, and the weights after the call, of a network with the given weights (by path; the seeds of dropout: 0).

    The network is made `counting.without_weights`, because allocating and filling weights takes most of the time.
    """
    import keras

    # JAX compiles each operation for each shape unless it compiles them all at once, which is quicker.
    compiled = __import__("jax").jit if keras.backend.backend() == "jax" else lambda function: function
    variables = model.trainable_variables, model.non_trainable_variables
    values = [
        [keras.ops.convert_to_tensor(weights.get(each.path, np.zeros(each.shape)), each.dtype) for each in group]
        for group in variables
    ]
    logits, changed = compiled(functools.partial(model.stateless_call, training=training))(*values, images)
    changed = {each.path: value for each, value in zip(variables[1], changed) if each.path in weights}
    as_arrays = {path: keras.ops.convert_to_numpy(value) for path, value in changed.items()}
    return keras.ops.convert_to_numpy(logits), {**weights, **as_arrays}


def main(folder, which):
    if which == "reference":
        from torch_reference import LAYOUTS, logits
    else:
        import keras

        from ranet_lib import counting, models

        assert keras.backend.backend() == which
    for path in sorted(folder.glob("*.npz")):
        given = dict(np.load(path, allow_pickle=False))
        images, options = given.pop("images"), json.loads(str(given.pop("options")))
        weights = {key.removeprefix("weight:"): value for key, value in given.items()}
        if which == "reference":
            if options["name"] not in LAYOUTS or options.get("mask_branch") == "local":
                continue  # it has the published networks only
            changed = {key: options[key] for key in ("learning", "mask_activation", "shortcut") if key in options}
            found = logits(options["name"], weights, images, **changed)
        else:
            with counting.without_weights():
                model = models.create_model(input_shape=images.shape[1:], **options)
                assert {weight.path for weight in model.weights} == set(weights)
                found, _ = call(model, weights, images, training=False)
        np.save(path.with_suffix(f".{which}.npy"), found)


if __name__ == "__main__":
    if sys.argv[2] != "reference":
        os.environ["KERAS_BACKEND"] = sys.argv[2]
    main(Path(sys.argv[1]), sys.argv[2])

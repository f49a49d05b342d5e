"""A process of its own: the logits of networks with given weights, by one backend of Keras or by plain PyTorch.

    python forward.py FOLDER WHICH

Each FOLDER/*.npz holds `images`, `options` (the JSON of `create_model`'s arguments) and the weights, each under
"weight:" and its path. Its logits go into FOLDER/*.WHICH.npy. WHICH is "tensorflow", "jax" or "torch", the backend of
Keras, or "reference", the second implementation.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    folder, which = Path(sys.argv[1]), sys.argv[2]
    if which != "reference":
        os.environ["KERAS_BACKEND"] = which
        import keras

        from ranet_lib import models
    for path in sorted(folder.glob("*.npz")):
        given = dict(np.load(path, allow_pickle=False))
        images, options = given.pop("images"), json.loads(str(given.pop("options")))
        weights = {key.removeprefix("weight:"): value for key, value in given.items()}
        if which == "reference":
            from torch_reference import LAYOUTS, logits

            if options["name"] not in LAYOUTS or options.get("mask_branch") == "local":
                continue  # it has the published networks only
            changed = {key: options[key] for key in ("learning", "mask_activation", "shortcut") if key in options}
            found = logits(options["name"], weights, images, **changed)
        else:
            assert keras.backend.backend() == which
            model = models.create_model(input_shape=images.shape[1:], **options)
            for weight in model.weights:
                weight.assign(weights[weight.path])
            found = keras.ops.convert_to_numpy(model(images, training=False))
        np.save(path.with_suffix(f".{which}.npy"), found)

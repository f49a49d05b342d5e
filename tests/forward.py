"""A process of its own: the logits of a network with given weights, on the backend that KERAS_BACKEND names.

    KERAS_BACKEND=jax python forward.py INPUT.npz OUTPUT.npy OPTIONS

INPUT.npz holds `images` and the weights, each under "weight:" and its path; OPTIONS is the JSON of `create_model`'s
arguments.
"""

import json
import sys

import numpy as np

from ranet_lib import models

if __name__ == "__main__":
    source, target, options = sys.argv[1:]
    given = np.load(source, allow_pickle=False)
    model = models.create_model(input_shape=given["images"].shape[1:], **json.loads(options))
    for weight in model.weights:
        weight.assign(given[f"weight:{weight.path}"])
    np.save(target, model.predict(given["images"], verbose=0))

"""The same weights give the same logits: on each backend of Keras, and in a second implementation in plain PyTorch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from forward import call
from test_models import SMALL

from ranet_lib import blocks, counting, models

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent

# Every network, and each option that changes the forward pass. The wide ones with fewer channels.
CASES = {name: {"name": name} for name in models.list_models()} | {
    "naive-channel": {"name": "attention_56", "learning": "naive", "mask_activation": "channel"},
    "spatial-without-shortcut": {"name": "attention_56", "mask_activation": "spatial", "shortcut": False},
    "source-without-shortcut": {"name": "source_attention_56", "shortcut": False},
    "local": {"name": "attention_56", "mask_branch": "local"},
}
# What the second implementation does not know: it has what is published.
OURS = ["attention_tiny", "attention_micro", "resnet_tiny", "local"]


def draw(generator, weight):
    """Random values for a weight: He's for a kernel, near 1 what batch normalisation divides or multiplies by."""
    name = weight.path.rsplit("/", 1)[-1]
    if name == "kernel":
        values = generator.normal(scale=np.sqrt(2 / np.prod(weight.shape[:-1])), size=weight.shape)
    elif name in ("gamma", "moving_variance"):
        values = generator.uniform(0.5, 1.5, size=weight.shape)
    else:
        values = generator.normal(scale=0.1, size=weight.shape)
    return values.astype("float32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A file for each case: random images, and the weights of a network whose batch normalisation has seen data.

    With statistics that do not fit, the signal of a deep network grows from module to module until it overwhelms every
    comparison. Without shortcuts, or with naive learning, it is the other way round: there the signal fades, and
    normalising what is left of it would make rounding errors large. Those few get statistics near 0 and 1.
    """
    folder = tmp_path_factory.mktemp("cases")
    for case, options in CASES.items():
        name = options["name"]
        arguments = {"num_classes": 7, **SMALL.get(name, {}), **options}
        side = 45 if "imagenet" in name else 33  # odd, so that no padding is even
        generator = np.random.default_rng(0)
        images = generator.normal(size=(3, side, side, 3)).astype("float32")
        with counting.without_weights():
            model = models.create_model(input_shape=images.shape[1:], **arguments)
            weights = {weight.path: draw(generator, weight) for weight in model.weights}
            if "shortcut" not in options and "learning" not in options:
                for layer in blocks.walk(model):
                    if isinstance(layer, blocks.BatchNormalization):
                        layer.momentum = 0.0  # one pass, and the moving averages are those of its images
                seen = generator.normal(size=(8, side, side, 3)).astype("float32")
                _, weights = call(model, weights, seen, training=True)
        arrays = {f"weight:{path}": value for path, value in weights.items()}
        np.savez(folder / f"{case}.npz", options=json.dumps(arguments), images=images, **arrays)
    return folder


@pytest.fixture(scope="module", params=["jax", "torch", "reference"])
def which(request, folder):
    """A backend, or the second implementation, once its process has run all cases; TensorFlow's has, too."""
    for name in ("tensorflow", request.param):
        if not list(folder.glob(f"*.{name}.npy")):
            command = [sys.executable, HERE / "forward.py", folder, name]
            quick = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
            done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, env=quick)
            assert done.returncode == 0, done.stderr[-3000:]
    return request.param


@pytest.mark.parametrize("case", CASES)
def test_the_same_weights_give_the_same_logits(case, which, folder):
    """Equal up to float32: sums of up to some thousand terms in another order, through up to 452 layers.

    Each layer rounds to 6e-8 of its values; a few hundred of them leave about 1e-5 of the spread of the logits. Ten
    times that is allowed; a wrong padding or a swapped skip connection changes the logits a thousand times more.
    """
    if which == "reference" and case in OURS:
        pytest.skip("the second implementation has the published networks only")
    expected = np.load(folder / f"{case}.tensorflow.npy")
    assert expected.shape == (3, 7) and np.isfinite(expected).all() and expected.std() > 1e-3
    found = np.load(folder / f"{case}.{which}.npy")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * expected.std())


def test_no_case_is_left_out(which, folder):
    missing = {case for case in CASES if not (folder / f"{case}.{which}.npy").exists()}
    assert missing == (set(OURS) if which == "reference" else set())

"""The same weights give the same logits: on each backend of Keras, and in a second implementation in plain PyTorch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from test_models import SMALL

from ranet_lib import models

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent

# Every network, and each option that changes the forward pass. The wide ones with fewer channels.
CASES = [(name, {}) for name in models.list_models()] + [
    ("attention_56", {"learning": "naive", "mask_activation": "channel"}),
    ("attention_56", {"mask_activation": "spatial", "shortcut": False}),
    ("source_attention_56", {"shortcut": False}),
]
# What the PyTorch reference does not know: it has the published networks, not our own small one.
OURS = ["attention_tiny"]


def size(name):
    """An odd size, so that no padding is even; larger where a stem quarters it."""
    return 45 if "imagenet" in name else 33


def case_id(case):
    name, options = case
    return "-".join([name, *(f"{key}={value}" for key, value in options.items())])


@pytest.fixture(scope="module", params=CASES, ids=case_id)
def case(request, tmp_path_factory):
    """A network with random weights and statistics in a file, with its arguments and its logits on this backend."""
    name, options = request.param
    arguments = {"name": name, "num_classes": 7, **SMALL.get(name, {}), **options}
    side = size(name)
    model = models.create_model(input_shape=(side, side, 3), **arguments)
    generator = np.random.default_rng(0)
    for weight in model.weights:  # He's scale for kernels, and statistics unlike those of a fresh network
        if weight.name == "kernel":
            # Thinner where units add up, or the deepest networks grow so large that every mask saturates.
            thinner = 0.4 if "conv_3" in weight.path or "projection" in weight.path else 1.0
            value = generator.normal(scale=thinner * np.sqrt(2 / np.prod(weight.shape[:-1])), size=weight.shape)
        elif weight.name in ("gamma", "moving_variance"):
            value = generator.uniform(0.5, 1.5, size=weight.shape)
        else:
            value = generator.normal(scale=0.1, size=weight.shape)
        weight.assign(value.astype("float32"))
    images = generator.normal(size=(3, side, side, 3)).astype("float32")
    path = tmp_path_factory.mktemp("case") / "input.npz"
    weights = {f"weight:{weight.path}": keras.ops.convert_to_numpy(weight) for weight in model.weights}
    np.savez(path, images=images, **weights)
    logits = keras.ops.convert_to_numpy(model(images, training=False))
    assert np.isfinite(logits).all() and logits.std() > 1e-3
    return path, arguments, options, logits


def in_its_own_process(script, path, options, backend=None):
    target = path.with_suffix(".npy")
    environment = {**os.environ, "KERAS_BACKEND": backend or "", "PYTHONPATH": str(HERE.parent)}
    subprocess.run(
        [sys.executable, str(HERE / script), str(path), str(target), json.dumps(options)],
        check=True, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    return np.load(target)


def assert_same(found, expected):
    """Equal up to float32: sums of up to some thousand terms in another order, through up to 452 layers.

    Each layer rounds to 6e-8 of its values; a few hundred of them leave about 1e-5 of the spread of the logits. Ten
    times that is allowed, and a wrong padding or a swapped skip connection changes the logits a thousand times more.
    """
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * expected.std())


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_every_backend_gives_the_same_logits(case, backend):
    path, arguments, _, expected = case
    assert_same(in_its_own_process("forward.py", path, arguments, backend), expected)


def test_plain_pytorch_gives_the_same_logits(case):
    path, arguments, options, expected = case
    if arguments["name"] in OURS:
        pytest.skip("the second implementation has the published networks only")
    assert_same(in_its_own_process("torch_reference.py", path, {"name": arguments["name"], **options}), expected)

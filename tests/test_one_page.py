"""The network on one page: the listing in PyTorch is that in Keras, which the page itself holds to the library."""

import sys

import keras
import numpy as np
import pytest
from keras import layers
from runs import ROOT

FOLDER = ROOT / "book" / "one_page"


@pytest.mark.parametrize("name", ["network_keras.py", "network_torch.py"])
def test_a_listing_is_short_and_needs_nothing_of_this_book(name):
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert "ranet_lib" not in text and len(text.splitlines()) <= 120
    assert max(map(len, text.splitlines())) <= 79


@pytest.mark.slow
def test_both_listings_have_the_same_logits_with_the_same_weights(monkeypatch):
    """In training mode too, where the statistics of the batch normalise."""
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(FOLDER))
    import network_keras
    import network_torch

    ours, theirs, rng = network_keras.attention_56(), network_torch.attention_56(), np.random.default_rng(0)
    kinds = {
        layers.Conv2D: torch.nn.Conv2d, layers.BatchNormalization: torch.nn.BatchNorm2d, layers.Dense: torch.nn.Linear,
    }  # fmt: skip
    for kind, other in kinds.items():
        made = [layer for layer in ours.layers if isinstance(layer, kind)]
        made.sort(key=lambda layer: (len(layer.name), layer.name))
        modules = [module for module in theirs.modules() if isinstance(module, other)]
        for layer, module in zip(made, modules, strict=True):
            layer.set_weights([rng.uniform(0.5, 1.5, w.shape) if w.ndim == 1 else w for w in layer.get_weights()])
            first, *rest = (torch.tensor(weight) for weight in layer.get_weights())
            with torch.no_grad():
                module.weight.copy_({4: lambda w: w.permute(3, 2, 0, 1), 2: torch.t, 1: lambda w: w}[first.ndim](first))
                names = ("bias", "running_mean", "running_var")
                for name, value in zip(names, rest):
                    getattr(module, name).copy_(value)
    images = rng.normal(size=(8, 32, 32, 3)).astype("float32")
    for training in (False, True):
        expected = keras.ops.convert_to_numpy(ours(images, training=training))
        with torch.no_grad():
            found = theirs.train(training)(torch.tensor(images).permute(0, 3, 1, 2)).numpy()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_the_listing_in_keras_runs_alone():
    import subprocess

    program = "import network_keras; print(network_keras.attention_56().count_params())"
    done = subprocess.run([sys.executable, "-c", program], cwd=FOLDER, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "1045242", done.stderr[-2000:]

"""Networks in other forms, cloned, in other precisions, compiled and exported, against the original."""

import keras
import numpy as np
import pytest
from test_models import SMALL, images, outputs

from ranet_lib import models, runs, training

# Network, options, and height and width of the images; 37 is a size that two never divides evenly.
CASES = [
    ("attention_56", {}, 37),
    ("attention_tiny", {"learning": "naive", "mask_activation": "spatial", "mask_branch": "local"}, 37),
    ("attention_tiny", {"mask_activation": "channel", "shortcut": False}, 37),
    ("source_attention_56", {}, 32),
]


def network(name, options, size=37):
    """A network whose batch normalisation has seen data."""
    keras.utils.set_random_seed(0)
    model = models.create_model(name, 5, (size, size, 3), **SMALL.get(name, {}), **options)
    model(images(16, size), training=True)
    return model


def same(found, expected, tolerance=1e-4):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def test_a_network_in_half_precision_comes_back_in_it_from_its_file(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = network("attention_tiny", {"mask_branch": "local"}, 32)
    finally:
        keras.config.set_dtype_policy("float32")
    runs.export_model(model, tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(outputs(loaded, images(4, 32)), outputs(model, images(4, 32)))


@pytest.mark.slow
def test_a_clone_with_the_same_weights_gives_the_same_output():
    model = network(*CASES[1])
    clone = keras.models.clone_model(model)
    assert np.abs(outputs(clone, images(2, 37)) - outputs(model, images(2, 37))).max() > 1e-3
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(outputs(clone, images(2, 37)), outputs(model, images(2, 37)))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_in_mixed_precision_it_is_near_and_trains(precision, tmp_path):
    model = network("attention_tiny", {}, 32)
    expected = outputs(model, images(8))
    keras.config.set_dtype_policy(precision)
    try:
        half = models.create_model("attention_tiny", 5, (32, 32, 3))
        training.compile_model(half, training.recipe("smoke", precision=precision), 10)
    finally:
        keras.config.set_dtype_policy("float32")
    half.set_weights(model.get_weights())
    found = outputs(half, images(8))
    assert found.dtype == np.float32  # the classifier keeps full precision
    same(found, expected, 0.02 if precision == "mixed_float16" else 0.1)
    assert np.abs(found - expected).max() > 0
    losses = [half.train_on_batch(images(8), np.arange(8) % 5)[0] for _ in range(8)]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    with pytest.raises(ValueError, match=f"computes in {precision}, and export needs float32"):
        runs.export_model(half, tmp_path / "model.onnx")


@pytest.mark.parametrize(
    "name, message",
    [
        ("model.pb", r"the suffix of path must be one of: .keras .*received '.pb'"),
        ("taken.onnx", "is taken; choose another, or delete it"),
    ],
)
def test_where_it_cannot_be_exported(name, message, tmp_path):
    (tmp_path / "taken.onnx").write_text("mine")
    with pytest.raises(ValueError, match=message):
        runs.export_model(keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()]), tmp_path / name)
    assert (tmp_path / "taken.onnx").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, message",
    [
        ("attentionnext_56_imagenet", "has grouped convolutions"),
        ("source_attention_56", r"another neighbour in up-sampling \(10, 10\) to \(19, 19\)"),
    ],
)
def test_what_onnx_cannot_hold_is_refused(name, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        runs.export_model(network(name, {}), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name, options, size", [*CASES, ("attentionnext_56_imagenet", {}, 37)])
def test_saved_model(name, options, size, tmp_path):
    tensorflow = pytest.importorskip("tensorflow")
    model = network(name, options, size)
    runs.export_model(model, tmp_path / "model")
    archive = tensorflow.saved_model.load(str(tmp_path / "model"))
    for count in (1, 3):
        same(np.asarray(archive.serve(images(count, size))), outputs(model, images(count, size)))


@pytest.mark.slow
@pytest.mark.parametrize("name, options, size", CASES)
def test_onnx(name, options, size, tmp_path):
    import onnxruntime

    model = network(name, options, size)
    runs.export_model(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 3):
        (found,) = session.run(None, {session.get_inputs()[0].name: images(count, size)})
        same(found, outputs(model, images(count, size)))


@pytest.mark.slow
@pytest.mark.parametrize("name, options, size", CASES)
def test_litert(name, options, size, tmp_path):
    tensorflow = pytest.importorskip("tensorflow")
    model = network(name, options, size)
    runs.export_model(model, tmp_path / "model.tflite")
    interpreter = tensorflow.lite.Interpreter(str(tmp_path / "model.tflite"))
    entry = interpreter.get_input_details()[0]["index"]
    for count in (1, 3):
        interpreter.resize_tensor_input(entry, (count, size, size, 3))
        interpreter.allocate_tensors()
        interpreter.set_tensor(entry, images(count, size))
        interpreter.invoke()
        same(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]), outputs(model, images(count, size)))


@pytest.mark.slow
def test_compiled_with_xla_it_trains_the_same(tmp_path):
    losses = {}
    for jit_compile in (False, True):
        model = network("attention_tiny", {}, 32)
        recipe = training.recipe("smoke", schedule="constant", learning_rate=0.01)
        training.compile_model(model, recipe, 10)
        model.compile(model.optimizer, model.loss, jit_compile=jit_compile)
        losses[jit_compile] = [model.train_on_batch(images(16), np.arange(16) % 5) for _ in range(3)]
    np.testing.assert_allclose(losses[True], losses[False], rtol=1e-3)
    assert losses[True][-1] < losses[True][0]


def test_a_keras_file_that_carries_code_is_refused(tmp_path):
    """What the page on the networks tells readers to load files with runs nothing that a file brings along."""
    touched = tmp_path / "touched"
    name = str(touched)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Lambda(lambda x: (open(name, "wb"), x)[1])])
    model.save(tmp_path / "crafted.keras")
    touched.unlink()  # building the network has run it
    with pytest.raises(ValueError, match="safe_mode"):
        keras.saving.load_model(tmp_path / "crafted.keras")
    assert not touched.exists()

"""Looking inside: masks of each module, how well they find an object, and the response by stage."""

import dataclasses
import subprocess
import sys

import keras
import numpy as np
import pytest
from test_models import SMALL

from ranet_lib import blocks, datasets, masks, models, training


@pytest.fixture(scope="module")
def tiny():
    keras.utils.set_random_seed(3)
    return models.create_model("attention_tiny", 5)


def images(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 32, 32, 3)).astype("float32")


def test_one_mask_per_module_at_the_modules_own_size(tiny):
    found = masks.attention_masks(tiny, images(5), batch_size=2)
    assert [mask.shape for mask in found] == [(5, 16, 16), (5, 8, 8), (5, 4, 4)]
    whole = masks.attention_masks(tiny, images(5), channels=True)
    assert [mask.shape for mask in whole] == [(5, 16, 16, 48), (5, 8, 8, 96), (5, 4, 4, 192)]
    for mean, every in zip(found, whole):
        np.testing.assert_allclose(mean, every.mean(axis=-1), rtol=1e-4, atol=1e-5)


def test_the_masks_are_those_that_the_network_applies(tiny):
    """Rebuild the logits by hand, with the mask found for each module in place of the module's own."""
    x = images(3)
    found = masks.attention_masks(tiny, x, channels=True)
    of_each = iter(found)
    features = x
    for layer in tiny.layers[1:]:
        for part in layer.layers if isinstance(layer, keras.Sequential) else [layer]:
            if isinstance(part, blocks.AttentionModule):
                mask = next(of_each)
                own = part(features, training=False, return_mask=True)[1]
                np.testing.assert_allclose(mask, keras.ops.convert_to_numpy(own), atol=1e-4)
                features = blocks.apply_chain(part.pre, features)
                features = (1 + mask) * keras.ops.convert_to_numpy(part.trunk(features))
                features = blocks.apply_chain(part.post, features)
            else:
                features = part(features)
    assert next(of_each, None) is None
    logits = tiny.predict(x, verbose=0)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(features), logits, rtol=1e-3, atol=1e-3)
    for mask, mean in zip(found, masks.attention_masks(tiny, x), strict=True):
        assert np.abs(mask[0] - mask[1]).max() > 1e-3  # another image, another mask
        np.testing.assert_allclose(mask.mean(axis=-1), mean, atol=1e-5)


def test_mean_response_is_that_of_the_stages(tiny):
    x = images(4)
    found = masks.mean_response(tiny, x, batch_size=4)
    features, expected = x, []
    for layer in tiny.layers[1:]:
        features = layer(features)
        if layer.name.startswith("stage"):
            expected.append(np.abs(keras.ops.convert_to_numpy(features)).mean())
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_what_is_averaged_is_averaged_in_float32(precision):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        network = models.create_model("attention_tiny", width=0.5)
    finally:
        keras.config.set_dtype_policy(before)
    many = np.repeat(images(1), 600, axis=0)  # more than a sum in bfloat16 can count
    found = masks.mean_response(network, many)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, masks.mean_response(network, many[:1]), rtol=0.02)
    assert {mask.dtype.name for mask in masks.attention_masks(network, many[:2])} == {"float32"}


def test_networks_without_masks_and_wrong_images_are_refused(tiny):
    with pytest.raises(ValueError, match="has no attention module"):
        masks.attention_masks(keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()]), images(1))
    with pytest.raises(ValueError, match=r"takes prepared images \(32, 32, 3\); received float64 \(1, 16, 16, 3\)"):
        masks.attention_masks(tiny, np.zeros((1, 16, 16, 3)))
    with pytest.raises(ValueError, match=r"received float64 \(0, 32, 32, 3\)"):
        masks.attention_masks(tiny, np.zeros((0, 32, 32, 3)))
    with pytest.raises(ValueError, match=r"takes prepared images .*; received uint8 \(1, 32, 32, 3\)"):
        masks.mean_response(tiny, np.zeros((1, 32, 32, 3), "uint8"))
    with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1; received 0"):
        masks.attention_masks(tiny, images(1), batch_size=0)


def square(size=8, corner=(2, 3), side=3):
    truth = np.zeros((1, size, size), bool)
    truth[:, corner[0] : corner[0] + side, corner[1] : corner[1] + side] = True
    return truth


def test_localization_score_is_one_on_the_object_half_at_chance_zero_beside_it():
    truth = square()
    assert masks.localization_score(truth.astype(float), truth) == 1
    assert masks.localization_score(1.0 - truth, truth) == 0
    assert masks.localization_score(np.full(truth.shape, 0.3), truth) == 0.5
    many = np.repeat(truth, 2000, axis=0)
    noise = masks.reference_masks("random", 2000, truth.shape[1:], seed=1)
    assert masks.localization_score(noise, many).mean() == pytest.approx(0.5, abs=0.01)


def test_localization_score_is_the_share_of_ordered_pairs():
    rng = np.random.default_rng(5)
    truth, mask = square(), rng.integers(0, 4, (1, 8, 8)).astype(float)
    on, off = mask[truth][:, None], mask[~truth][None, :]
    expected = ((on > off) + 0.5 * (on == off)).mean()
    assert masks.localization_score(mask, truth)[0] == pytest.approx(expected)
    assert masks.localization_score(7 * mask - 3, truth)[0] == pytest.approx(expected)


def test_localization_score_enlarges_a_coarse_mask():
    truth = square(16, (0, 0), 8)
    coarse = np.array([[[1.0, 0.0], [0.0, 0.0]]])
    assert masks.localization_score(coarse, truth)[0] > 0.95


def test_localization_score_refuses_what_has_no_meaning():
    truth = square()
    with pytest.raises(ValueError, match="image 0 has 0 object pixels"):
        masks.localization_score(truth.astype(float), np.zeros_like(truth))
    with pytest.raises(ValueError, match="must be a bool array"):
        masks.localization_score(truth.astype(float), truth.astype(float))
    with pytest.raises(ValueError, match="with one count"):
        masks.localization_score(np.zeros((2, 8, 8)), truth)
    with pytest.raises(ValueError, match="one count above 0; received"):
        masks.localization_score(np.zeros((0, 8, 8)), truth[:0])


def test_localization_scores_each_module_on_the_test_images(tiny):
    """Against a count of all pairs of pixels, image by image, of the masks that each module gives by itself."""
    full = datasets.load_dataset("cluttered_digits")
    few = full.test.take(slice(4))
    data = dataclasses.replace(full, test=few)
    expected, features = [], data.prepare(few.images)
    for layer in tiny.layers[1:]:
        for part in layer.layers if isinstance(layer, keras.Sequential) else [layer]:
            if isinstance(part, blocks.AttentionModule):
                mask = keras.ops.convert_to_numpy(part.mask(blocks.apply_chain(part.pre, features))).mean(axis=-1)
                scores = [
                    np.mean((on > beside) + 0.5 * (on == beside))
                    for large, truth in zip(masks.resize(mask, (32, 32)), few.masks)
                    for on, beside in [(large[truth][:, None], large[~truth])]
                ]
                expected.append(np.mean(scores))
            features = part(features)
    found = masks.localization(tiny, data)
    assert found["images"] == 4 and found["modules"] == pytest.approx(expected, abs=1e-3)
    assert np.ptp(expected) > 0.01  # the modules can be told apart
    assert masks.localization(keras.Sequential([keras.Input((32, 32, 3))]), data) is None


def test_reference_masks():
    centre = masks.reference_masks("centre", 2, (9, 9))
    assert centre.shape == (2, 9, 9) and centre[0].argmax() == 40 and centre[0, 4, 4] == 1
    with pytest.raises(ValueError, match="kind must be one of 'random', 'centre'; received 'middle'"):
        masks.reference_masks("middle", 2, (9, 9))


@pytest.mark.slow
def test_a_large_network_takes_fewer_images_at_a_time(monkeypatch):
    """Batches are as large as memory allows: 250 small images, a few large ones."""
    taken = []
    predict = keras.Model.predict_on_batch
    monkeypatch.setattr(
        keras.Model, "predict_on_batch", lambda self, x, **more: taken.append(len(x)) or predict(self, x, **more)
    )
    few = 2**25 // (224 * 224 * 48)
    for size, width, most in ((32, 0.25, 250), (448, 1, few)):
        with_modules = models.create_model("attention_tiny", 3, (size, size, 3), width=width)
        wrapped = keras.Sequential([keras.Input((size, size, 3)), with_modules])  # its own outputs are small
        images = np.zeros((most + 1, size, size, 3), "float32")
        found = masks.attention_masks(wrapped, images)
        assert found[0].shape == (most + 1, size // 2, size // 2)
        assert masks.mean_response(with_modules, images).shape == (3,)
    assert taken == 2 * [250, 1] + 2 * [few, 1] and few < 250


@pytest.mark.slow
def test_ten_thousand_images_fit_in_four_gigabytes():
    """Masks of 10,000 images, in a process that may hold 4 GB; responses, which are one number each, of some."""
    code = (
        "import numpy as np\n"
        "from ranet_lib import masks, models\n"
        "model = models.create_model('attention_56')\n"
        "images = np.random.default_rng(0).normal(size=(10_000, 32, 32, 3)).astype('float32')\n"
        "seen = masks.attention_masks(model, images)\n"
        "assert {len(mask) for mask in seen} == {10_000}\n"
        "assert np.isfinite(masks.mean_response(model, images[:1000])).all()\n"
    )
    # On Linux, the other number also counts what the process of these tests has held.
    linux = "int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    peak = linux if sys.platform == "linux" else "__import__('resource').getrusage(0).ru_maxrss / 1024"
    code += f"print({peak} / 2**20)\n"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert 0.2 < float(done.stdout) < 4.0


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "attention_92", "resnet_164", "attention_92_imagenet", "attentionnext_56_imagenet", "source_attention_56",
        "source_attention_92_cifar100",
    ],
)  # fmt: skip
def test_every_kind_of_network_shows_its_masks_and_its_response(name):
    side = 64 if "imagenet" in name else 32
    model = models.create_model(name, 3, (side, side, 3), **SMALL.get(name, {}))
    images = np.random.default_rng(0).normal(size=(3, side, side, 3)).astype("float32")
    response = masks.mean_response(model, images)
    assert response.shape == (len(models.model_spec(name).filters),) and (response > 0).all()
    if not any(models.model_spec(name).modules):
        return
    found = masks.attention_masks(model, images)
    assert len(found) == sum(models.model_spec(name).modules)
    truth = np.zeros((3, side, side), bool)
    truth[:, : side // 2] = True
    for mask in found:
        scores = masks.localization_score(mask, truth)
        assert mask.ndim == 3 and len(mask) == 3 and 0 < mask.min() and mask.max() < 1
        assert ((scores > 0) & (scores < 1)).all()


def one_module():
    """A network of one attention module, so that what is to be traced again and again takes a moment."""
    keras.utils.set_random_seed(0)
    image = keras.Input((32, 32, 3))
    features = keras.layers.Conv2D(8, 3, strides=4)(image)
    features = keras.layers.GlobalAveragePooling2D()(blocks.AttentionModule(8, mask_depth=1, pre_units=0)(features))
    return keras.Model(image, keras.layers.Dense(10)(features), name="one_module")


def test_the_history_of_masks_has_those_before_training_and_after_each_epoch():
    network, x = one_module(), images(3)
    data = datasets.load_dataset("cluttered_digits")
    history = masks.MaskHistory(network, x)
    at_birth = masks.attention_masks(network, x)
    recipe = training.recipe("smoke", train_images=64, batch_size=32)
    training.fit(network, data, recipe, progress=False, callbacks=[history])
    assert len(history.epochs) == 1 + recipe.epochs
    for expected, kept in zip((at_birth, masks.attention_masks(network, x)), (history.epochs[0], history.epochs[-1])):
        for mask, same in zip(expected, kept):
            np.testing.assert_allclose(same, mask, atol=1e-5)
    assert all(np.abs(first - last).max() > 1e-3 for first, last in zip(history.epochs[0], history.epochs[-1]))


def test_many_looks_leave_no_remark(caplog):
    model = one_module()
    images = np.zeros((1, 32, 32, 3), "float32")
    with caplog.at_level("WARNING", logger="tensorflow"):
        for _ in range(7):
            masks.attention_masks(model, images)
    assert caplog.messages == []


@pytest.mark.parametrize("name", ["stem", "stage_1_unit_1", "stage_2_attention_1", "stage_3_attention_1", "head_relu"])
def test_a_network_split_at_a_layer_is_the_network(name):
    network = models.create_model("attention_tiny", width=0.5)
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    front, back = masks.split_at(network, name)
    found = keras.ops.convert_to_numpy(back(front(images)))
    np.testing.assert_allclose(found, network.predict_on_batch(images), rtol=1e-4, atol=1e-4)


def test_a_network_is_split_inside_another_and_a_wrong_layer_is_named():
    body = models.create_model("attention_tiny", width=0.5)
    scaled = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Rescaling(0.5), body])
    images = np.ones((1, 32, 32, 3), "float32")
    front, back = masks.split_at(scaled, "stage_3_attention_1")
    expected = scaled.predict_on_batch(images)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(back(front(images))), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="name must be one of stem, stage_1_unit_1, .*; received 'conv_1'"):
        masks.split_at(body, "conv_1")


def test_the_halves_of_a_split_network_pass_on_the_gradient_of_a_logit():
    """By the chain rule, and by moving the features a little."""
    tensorflow = pytest.importorskip("tensorflow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("written for TensorFlow")
    network = models.create_model("attention_tiny", width=0.5)
    front, back = masks.split_at(network, "stage_3_attention_1")
    features = front(np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype("float32"))
    with tensorflow.GradientTape() as tape:
        tape.watch(features)
        logit = back(features)[0, 3]
    gradient = tape.gradient(logit, features).numpy()
    assert gradient.shape == tuple(features.shape) and np.abs(gradient).max() > 0
    direction = gradient / np.linalg.norm(gradient)
    moved = [float(back(features + sign * 1e-2 * direction)[0, 3]) for sign in (1, -1)]
    assert (moved[0] - moved[1]) / 2e-2 == pytest.approx(np.linalg.norm(gradient), rel=0.05)

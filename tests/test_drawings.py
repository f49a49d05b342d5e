"""Drawings: what is drawn is what the layer has."""

import re

import keras
import pytest

from ranet_lib import blocks, models, show


def texts(layer, path):
    """The texts of a drawing and its alt text. Letters are drawn as shapes; matplotlib notes each text beside them."""
    alt = show.draw(layer, path)
    return re.findall(r"<!-- (.*?) -->", path.read_text(encoding="utf-8")), alt


def built(layer, shape=(None, 16, 16, 32)):
    layer.build(shape)
    return layer


@pytest.fixture
def svg(tmp_path):
    return tmp_path / "drawing.svg"


@pytest.mark.parametrize("depth, units, passes", [(1, 1, 0), (2, 1, 1), (3, 2, 2)])
def test_a_mask_branch_has_its_units_poolings_and_skips(svg, depth, units, passes):
    found, alt = texts(built(blocks.MaskBranch(32, depth, units, "channel")), svg)
    assert found.count("max pool 3x3, /2") == depth
    assert found.count("unit, 32") == 2 * depth * units + passes
    assert found.count("+") == passes and found.count("conv 1x1, 32") == 2 and "channel activation" in found
    assert [text for text in found if text.startswith("up to")] == [
        f"up to {16 // 2**level}x{16 // 2**level}, bilinear" for level in reversed(range(depth))
    ]
    assert f"with {passes} skip connection" in alt


def test_a_local_mask_branch_has_no_pooling(svg):
    found, alt = texts(built(blocks.LocalMaskBranch(32, 3)), svg)
    assert found.count("unit, 32") == 3 and not [text for text in found if "pool" in text or "up to" in text]
    assert "A local mask branch: 3 residual units at full size" in alt


@pytest.mark.parametrize("learning, factor", [("residual", "1 + M"), ("naive", "M")])
@pytest.mark.parametrize("mask_branch", ["encoder_decoder", "local"])
def test_a_module_has_its_branches_and_its_rule(svg, learning, factor, mask_branch):
    module = built(blocks.AttentionModule(32, 2, 2, 3, learning=learning, mask_branch=mask_branch))
    found, alt = texts(module, svg)
    local = 3 if mask_branch == "local" else 0
    assert found.count("unit, 32") == 2 + 3 + 2 + local
    passes = 0 if mask_branch == "local" else 1
    assert found.count("unit") == sum("+ skip" in text for text in found) == passes
    assert ("with 1 skip connection " in alt) == (passes == 1)
    assert factor in found and "×" in found and "mixed activation" in found
    assert learning + " learning" in alt.replace("attention ", "") and "then a trunk branch of 3 units" in alt


def test_the_shortcut_is_the_input_a_convolution_or_none(svg):
    found, alt = texts(built(blocks.ResidualUnit(32)), svg)
    assert "identity" in found and "+" in found and "the input itself" in alt
    found, alt = texts(built(blocks.ResidualUnit(64, strides=2)), svg)
    assert "conv 1x1, 64, stride 2" in found and "identity" not in found and "output 8x8x64" in found
    found, alt = texts(built(blocks.ResidualUnit(32, shortcut=False)), svg)
    assert "identity" not in found and "+" not in found and "nothing is added" in alt


def test_a_trunk_branch_is_a_row_of_units(svg):
    found, _ = texts(built(blocks.TrunkBranch(32, 4)), svg)
    assert found.count("unit, 32") == 4


@pytest.mark.parametrize("name", ["attention_56", "attention_92_imagenet", "source_attention_56", "resnet_164"])
def test_a_network_has_its_stages(svg, name):
    with keras.StatelessScope(initialize_variables=False):
        model = models.create_model(name)
    found, alt = texts(model, svg)
    spec = models.model_spec(name)
    assert sum(text.startswith("attention module") for text in found) == sum(spec.modules)
    assert sum(text.startswith("unit, ") for text in found) == sum(spec.stage_units)
    assert sum(text.endswith("no shortcut") for text in found) == (0 if spec.last_shortcut else 2)
    assert alt.startswith(f"The network {name}, from images to 10 logits: stage 1 with {spec.modules[0]} attention mod")


def test_a_stage_alone_has_all_its_units(svg):
    with keras.StatelessScope(initialize_variables=False):
        stage = models.create_model("resnet_tiny").get_layer("stage_1")
    found, alt = texts(stage, svg)
    assert sum(text.startswith("unit, ") for text in found) == len(stage.layers)
    assert alt.startswith("The layers of stage_1, from 16x16x32 to 16x16x48: ") and alt.count("unit, 48") == len(
        stage.layers
    )


def test_the_same_layer_gives_the_same_bytes(tmp_path, capsys):
    module = built(blocks.AttentionModule(32))
    shown = []
    for _ in range(2):
        show.draw(module)
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] and "<svg" in shown[0]


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="layer must be one of ResidualUnit, .*received ReLU"):
        show.draw(keras.layers.ReLU())
    with pytest.raises(ValueError, match="is not built yet"):
        show.draw(blocks.AttentionModule(32))

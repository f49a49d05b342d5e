"""Whole networks by name: the paper's CIFAR family, its ResNet baseline, and one small enough for a laptop.

    model = models.create_model("attention_56", num_classes=10)
    model.summary()                       # a screenful; summary(expand_nested=True) opens the stages

Every network takes prepared images `(batch, height, width, 3)` and returns logits `(batch, num_classes)`: there is
no softmax at the end, so train with `from_logits=True`.
"""

import dataclasses
import difflib
import math

import keras
from keras import layers

from ranet_lib import blocks, checks


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """What a name stands for: how the network is laid out, and what its authors printed about it.

    Counts that hold for each stage are tuples, one entry per stage. `printed_parameters` is in millions, for 10
    classes, as printed in the paper, or None where nothing is printed.
    """

    name: str
    description: str
    input_shape: tuple = (32, 32, 3)
    stem_filters: int = 16
    stem_strides: int = 1
    filters: tuple = (64, 128, 256)  # channels of each stage
    modules: tuple = (1, 1, 1)  # attention modules in each stage (the paper's m)
    mask_depth: tuple = (3, 2, 1)  # how often each stage's mask branch halves the size
    pre_units: int = 1  # the paper's p
    trunk_units: int = 2  # the paper's t
    mask_units: int = 1  # the paper's r
    stage_units: tuple = (2, 2, 2)  # residual units of each stage outside its modules
    bottleneck: int = 4  # a unit's inner convolutions have this fraction of its channels
    printed_parameters: float | None = None

    @property
    def weighted_layers(self):
        """Depth as the paper counts it: first convolution, classifier, and three a unit on the longest trunk path."""
        units = sum(self.stage_units) + sum(self.modules) * (2 * self.pre_units + self.trunk_units)
        return 2 + 3 * units


def _paper(depth, modules, **changes):
    return ModelSpec(
        f"attention_{depth}",
        f"The paper's Attention-{depth} for CIFAR, with m = {modules}: as many attention modules in each of 3 stages.",
        modules=(modules,) * 3,
        **changes,
    )


_SPECS = {
    spec.name: spec
    for spec in (
        ModelSpec(
            "attention_tiny",
            "A true residual attention network that a laptop trains in minutes: one slim module in each of 3 stages.",
            stem_filters=32,
            stem_strides=2,
            filters=(48, 96, 192),
            bottleneck=2,
            mask_depth=(2, 1, 1),
            pre_units=0,
            trunk_units=1,
            stage_units=(1, 1, 1),
        ),
        _paper(56, 1),
        _paper(92, 2, printed_parameters=1.9),
        _paper(128, 3),
        _paper(164, 4),
        _paper(236, 6, printed_parameters=5.1),
        _paper(452, 6, pre_units=2, trunk_units=4, mask_units=3, printed_parameters=8.6),
        ModelSpec(
            "resnet_164",
            "The baseline, ResNet-164 with pre-activation: 18 bottleneck units in each of 3 stages, no attention.",
            modules=(0, 0, 0),
            stage_units=(18, 18, 18),
            printed_parameters=1.7,
        ),
    )
}

#: Options of `create_model`, with what each accepts.
OPTIONS = {
    "learning": "'residual' (the default) or 'naive'",
    "mask_activation": "'mixed' (the default), 'channel' or 'spatial'",
    "mask_branch": "'encoder_decoder' (the default) or 'local'",
    "shortcut": "True (the default) or False: the residual shortcuts inside attention modules",
    "width": "a number above 0 (default 1.0) that multiplies every channel count",
}

DEFAULT_OPTIONS = {
    "learning": "residual", "mask_activation": "mixed", "mask_branch": "encoder_decoder", "shortcut": True,
    "width": 1.0,
}  # fmt: skip


def list_models():
    """The names that `create_model` knows, smallest idea first."""
    return list(_SPECS)


def model_spec(name):
    """The `ModelSpec` of a name. Raises a ValueError that lists the names if there is none."""
    if name not in _SPECS:
        close = difflib.get_close_matches(str(name), _SPECS, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"unknown model {name!r}{hint}; the models are: {', '.join(_SPECS)}")
    return _SPECS[name]


def check_options(name, options):
    """Return the options of `create_model` as a dict with every default filled in.

    Raises:
        ValueError: an unknown option, a value that is not allowed, or an attention option on a network without
            attention modules.
    """
    spec = model_spec(name)
    if not isinstance(options, dict):
        raise ValueError(f"model_options must be a dict such as {{'learning': 'naive'}}; received {options!r}")
    for option in options:
        if option not in OPTIONS:
            allowed = "; ".join(f"{key}: {text}" for key, text in OPTIONS.items())
            raise ValueError(f"unknown option {option!r} of {name}; the options are: {allowed}")
        if option != "width" and not any(spec.modules):
            raise ValueError(f"{name} has no attention modules, so the option {option!r} means nothing there")
    resolved = DEFAULT_OPTIONS | options
    checks.choice("learning", resolved["learning"], blocks.LEARNING_RULES)
    checks.choice("mask_activation", resolved["mask_activation"], tuple(blocks.MASK_ACTIVATIONS))
    checks.choice("mask_branch", resolved["mask_branch"], blocks.MASK_BRANCHES)
    checks.choice("shortcut", resolved["shortcut"], (True, False))
    resolved["width"] = checks.number("width", resolved["width"], above=0)
    return resolved


def create_model(name, num_classes=10, input_shape=None, **options):
    """Build a network by name, with fresh He-initialised weights (call `keras.utils.set_random_seed` before).

    Args:
        name: one of `list_models()`.
        num_classes: number of classes, at least 2.
        input_shape: `(height, width, channels)` of the images; None means the network's own, 32x32x3.
        **options: see `OPTIONS`: `learning`, `mask_activation`, `mask_branch`, `shortcut`, `width`.

    Returns:
        A `keras.Model` from prepared images `(batch, height, width, channels)` to logits `(batch, num_classes)`.
        Its layers are a stem, three stages (each a `keras.Sequential` of residual units and attention modules), and
        a head.

    Raises:
        ValueError: an unknown name or option, or a value that is not allowed; the message says what is.
    """
    spec = model_spec(name)
    options = check_options(name, options)
    checks.whole("num_classes", num_classes, least=2)
    input_shape = tuple(spec.input_shape if input_shape is None else input_shape)
    if len(input_shape) != 3:
        raise ValueError(f"input_shape must be (height, width, channels); received {input_shape}")
    input_shape = tuple(checks.whole("input_shape", size) for size in input_shape)

    width = options.pop("width")
    bottleneck = {"bottleneck": spec.bottleneck}
    unit = {"shortcut": options.pop("shortcut"), **bottleneck}

    inputs = keras.Input(input_shape, name="images")
    features = blocks.convolution(_scaled(spec.stem_filters, width), 3, spec.stem_strides, name="stem")(inputs)
    for index, filters in enumerate(spec.filters):
        filters = _scaled(filters, width)
        stage = [
            blocks.ResidualUnit(
                filters, strides=1 if i or not index else 2, name=f"stage_{index + 1}_unit_{i + 1}", **bottleneck
            )
            for i in range(spec.stage_units[index])
        ]
        modules = [
            blocks.AttentionModule(
                filters, spec.mask_depth[index], spec.pre_units, spec.trunk_units, spec.mask_units,
                unit=unit, name=f"stage_{index + 1}_attention_{i + 1}", **options,
            )
            for i in range(spec.modules[index])
        ]  # fmt: skip
        stage[1:1] = modules  # the first unit sets size and width; the others follow the modules
        features = keras.Sequential(stage, name=f"stage_{index + 1}")(features)
    features = blocks.BatchNormalization(name="head_bn")(features)
    features = layers.ReLU(name="head_relu")(features)
    features = layers.GlobalAveragePooling2D(name="head_pool")(features)
    logits = layers.Dense(num_classes, kernel_initializer="he_normal", dtype="float32", name="classifier")(features)
    return keras.Model(inputs, logits, name=name)


def _scaled(filters, width):
    """`filters` times `width`, rounded to a multiple of 4 (the bottleneck needs one) and at least 4."""
    return max(4, 4 * round(filters * width / 4))


def count_flops(model):
    """Floating-point operations of one image's forward pass: 2 for each multiply-add of convolutions and dense layers.

    The paper's "FLOPs" are multiply-adds, half of this number. Normalisation, activations, pooling and up-sampling
    are left out, as is usual.

    Args:
        model: a built `keras.Model` with a fixed input size, made of `blocks` and ordinary layers.

    Returns:
        int, operations per image.
    """
    total = 0
    for layer in blocks.walk(model):
        if isinstance(layer, (layers.Conv2D, layers.Dense)):
            shape = layer.get_build_config()["input_shape"]
            positions = math.prod(layer.compute_output_shape(shape)[1:-1])
            total += 2 * positions * math.prod(layer.kernel.shape)
    return total

"""Whole networks by name: the paper's, its baseline, the student project's, and one small enough for a laptop.

`create_model("attention_56").summary()` shows a network on a screen; `summary(expand_nested=True)` opens its stages.
"""

import dataclasses
import difflib
import functools
import math

import keras
from keras import layers

from ranet_lib import blocks, checks


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """The layout of the network `name`, and the numbers that its authors print. Tuples have an entry for each stage.

    `input_shape` is `(height, width, channels)`. The first convolution has `stem_filters`, `stem_kernel` and
    `stem_strides`; max pooling of size `stem_pool` and stride 2 may follow. A stage has `filters` channels, the
    `strides` of its first unit, so many attention `modules` (the paper's m) and, outside of them, `stage_units`.
    `mask_depth`, `pool_size` and `interpolation` are those of `MaskBranch`; `pre_units`, `trunk_units` and `mask_units`
    the paper's p, t and r; `groups`, `use_bias` and `always_project` those of `ResidualUnit`. Inner convolutions have
    1 / `bottleneck` of a unit's channels (None: those of its input). Without `last_shortcut`, the last stage's units
    that keep the shape have none. `dropout` is the part dropped before the classifier, `printed_parameters` are
    millions by number of classes, `printed_flops` billions of multiply-adds.
    """

    name: str
    input_shape: tuple = (32, 32, 3)
    stem_filters: int = 16
    stem_kernel: int = 3
    stem_strides: int = 1
    stem_pool: int | None = None
    filters: tuple = (64, 128, 256)
    strides: tuple = (1, 2, 2)
    modules: tuple = (1, 1, 1)
    mask_depth: tuple = (3, 2, 1)
    pre_units: int = 1
    trunk_units: int = 2
    mask_units: int = 1
    stage_units: tuple = (2, 2, 2)
    bottleneck: int | None = 4
    groups: int = 1
    use_bias: bool = False
    always_project: bool = False
    last_shortcut: bool = True
    pool_size: int = 3
    interpolation: str = "bilinear"
    dropout: float = 0.0
    printed_parameters: dict = dataclasses.field(default_factory=dict)
    printed_flops: float | None = None

    @property
    def weighted_layers(self):
        """Depth as the paper counts it, the first convolution, the classifier, and three a unit of the trunk."""
        return 2 + 3 * (sum(self.stage_units) + sum(self.modules) * (2 * self.pre_units + self.trunk_units))


def _paper(depth, modules, **changes):
    return ModelSpec(f"attention_{depth}", modules=(modules,) * 3, **changes)


_tiny = functools.partial(ModelSpec, stem_filters=32, stem_strides=2, filters=(48, 96, 192), bottleneck=2)
_imagenet = functools.partial(
    ModelSpec, input_shape=(224, 224, 3), stem_filters=64, stem_kernel=7, stem_strides=2, stem_pool=3,
    filters=(256, 512, 1024, 2048), strides=(1, 2, 2, 2), stage_units=(1, 1, 1, 3))  # fmt: skip
_source = functools.partial(
    ModelSpec, stem_filters=32, stem_kernel=5, stem_pool=2, filters=(128, 256, 512, 1024), strides=(1, 2, 2, 1),
    mask_depth=(2, 1, 1), stage_units=(1, 1, 1, 3), bottleneck=None, use_bias=True, always_project=True,
    last_shortcut=False, pool_size=2, interpolation="nearest")  # fmt: skip

_SPECS = {spec.name: spec for spec in (
    # For a laptop: it trains in minutes. The one-module network learns the embedded digits in under two minutes, for
    # which attention_tiny needs longer; resnet_tiny is the baseline, at about the cost of attention_tiny.
    _tiny("attention_tiny", mask_depth=(2, 1, 1), pre_units=0, trunk_units=1, stage_units=(1, 1, 1)),
    _tiny("attention_micro", modules=(0, 1, 0), mask_depth=(2, 1, 1), pre_units=0, trunk_units=1,
          stage_units=(1, 1, 1)),
    _tiny("resnet_tiny", modules=(0, 0, 0), stage_units=(3, 3, 3)),
    _paper(56, 1),
    _paper(92, 2, printed_parameters={10: 1.9, 100: 1.9}),
    _paper(128, 3),
    _paper(164, 4),
    _paper(236, 6, printed_parameters={10: 5.1, 100: 5.1}),
    _paper(452, 6, pre_units=2, trunk_units=4, mask_units=3, printed_parameters={10: 8.6, 100: 8.6}),
    # The paper's baseline, with pre-activation; then its networks for ImageNet, AttentionNeXt with ResNeXt's units.
    ModelSpec("resnet_164", modules=(0, 0, 0), stage_units=(18, 18, 18), printed_parameters={10: 1.7, 100: 1.7}),
    _imagenet("attention_56_imagenet", printed_parameters={1000: 31.9}, printed_flops=6.2),
    _imagenet("attention_92_imagenet", modules=(1, 2, 3), printed_parameters={1000: 51.3}, printed_flops=10.4),
    _imagenet("attentionnext_56_imagenet", bottleneck=2, groups=32),
    # The student project's, without its softmax; for CIFAR-100 the widths are doubled from the second stage on.
    _source("source_attention_56", dropout=0.5, printed_parameters={10: 54.120138, 100: 54.212388}),
    _source("source_attention_92", modules=(1, 2, 3), printed_parameters={10: 97.902794}),
    _source("source_attention_92_cifar100", modules=(1, 2, 3), filters=(128, 512, 1024, 2048),
            printed_parameters={100: 385.083684}))}  # fmt: skip

# Larger numbers are mistakes: building would take hours, or all memory.
_MOST_CLASSES, _MOST_PIXELS, _MOST_UNITS, _MOST_WIDTH = 1_000_000, 10_000, 100, 100

#: Options of `create_model`, with what each accepts.
OPTIONS = {
    "learning": "'residual' (the default) or 'naive'",
    "mask_activation": "'mixed' (the default), 'channel' or 'spatial'",
    "mask_branch": "'encoder_decoder' (the default) or 'local'",
    "shortcut": "True (the default) or False: the residual shortcuts inside attention modules",
    "width": "a number above 0 and at most 100 (default 1.0) that multiplies channel counts, rounded",
    "modules": "attention modules in each stage, a whole number or a list with one for each (the paper's m)",
    "mask_depth": "how often mask branches halve the size, a whole number or a list with one for each stage",
    "pre_units": "residual units before and after the branches of a module, 0 or more (the paper's p)",
    "trunk_units": "residual units of a trunk branch, 1 or more (the paper's t)",
    "mask_units": "residual units of each step of a mask branch, 1 or more (the paper's r)",
    "checkpointing": "True trains with less memory and more time: the inside of residual units is computed twice",
    "dropout": "the part of the features that is dropped before the classifier in training, from 0 up to 0.95",
}

#: The values of options that are not given. The other options change the layout of `model_spec`.
DEFAULT_OPTIONS = {
    "learning": "residual", "mask_activation": "mixed", "mask_branch": "encoder_decoder", "shortcut": True,
    "width": 1.0, "checkpointing": False}  # fmt: skip


def list_models():
    """The names that `create_model` knows: ours, the paper's for CIFAR and for ImageNet, the student project's."""
    return list(_SPECS)


def model_spec(name):
    """The `ModelSpec` of the network `name`. Raises a ValueError that lists the names if there is none.

    Example:
        >>> models.model_spec("attention_92").modules
        (2, 2, 2)
    """
    if not isinstance(name, str) or name not in _SPECS:
        close = difflib.get_close_matches(str(name), _SPECS, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"unknown model {name!r}{hint}; the models are: {', '.join(_SPECS)}")
    return _SPECS[name]


def check_options(name, options):
    """The `options` of network `name`: all defaults, and what changes its layout. A ValueError names a wrong one."""
    spec = model_spec(name)
    if not isinstance(options, dict):
        raise ValueError(f"model_options must be a dict such as {{'learning': 'naive'}}; received {options!r}")
    for option in options:
        if option not in OPTIONS:
            allowed = "; ".join(f"{key}: {text}" for key, text in OPTIONS.items())
            raise ValueError(f"unknown option {option!r} of {name}; the options are: {allowed}")
        # A default is let through: what this returns can be given to `create_model` again.
        default = option in DEFAULT_OPTIONS and options[option] == DEFAULT_OPTIONS[option]
        if option not in ("width", "dropout", "checkpointing") and not any(spec.modules) and not default:
            raise ValueError(f"{name} has no attention modules, so the option {option!r} means nothing there")
    resolved = DEFAULT_OPTIONS | options
    for option, allowed in (
        ("learning", blocks.LEARNING_RULES), ("mask_activation", blocks.MASK_ACTIVATIONS),
        ("mask_branch", blocks.MASK_BRANCHES), ("shortcut", (True, False)), ("checkpointing", (True, False)),
    ):  # fmt: skip
        checks.choice(option, resolved[option], allowed)
    resolved["width"] = checks.number("width", resolved["width"], above=0, most=_MOST_WIDTH)
    for option, least in (("pre_units", 0), ("trunk_units", 1), ("mask_units", 1)):
        if option in options:
            resolved[option] = checks.whole(option, options[option], least, _MOST_UNITS)
    for option, least in (("modules", 0), ("mask_depth", 1)):
        if option not in options:
            continue
        value, stages = options[option], len(spec.modules)
        values = value if isinstance(value, (list, tuple)) else [value] * stages
        if len(values) != stages:
            raise ValueError(f"{option} must be a whole number or a list of {stages}, one a stage; received {value!r}")
        resolved[option] = [checks.whole(option, entry, least, _MOST_UNITS) for entry in values]
    if not any(resolved.get("modules", spec.modules)) and any(spec.modules):
        raise ValueError(f"modules must leave at least one module; received {options['modules']!r}")
    if "dropout" in options:
        resolved["dropout"] = checks.number("dropout", options["dropout"], least=0, most=0.95)
    own = {key: list(each) if isinstance(each, tuple) else each for key, each in vars(spec).items()}
    return {key: value for key, value in resolved.items() if key in DEFAULT_OPTIONS or value != own[key]}


def create_model(name, num_classes=10, input_shape=None, **options):
    """Build a network by name, with fresh He-initialised weights (call `keras.utils.set_random_seed` before).

    Args:
        name: one of `list_models()`.
        num_classes: number of classes, from 2 to a million.
        input_shape: `(height, width, channels)` of the images, each at most 10,000; None means the network's own.
        **options: see `OPTIONS`.

    Returns:
        A `keras.Model` from prepared images `(batch, height, width, channels)` to logits `(batch, num_classes)`: a
        stem, the stages (each a `keras.Sequential` of residual units and attention modules), and a head.

    Raises:
        ValueError: an unknown name or option, or a value that is not allowed.

    Example:
        >>> model = models.create_model("attention_tiny", num_classes=10, learning="naive")
        >>> model.input_shape, model.output_shape
        ((None, 32, 32, 3), (None, 10))
    """
    spec, options = model_spec(name), check_options(name, options)
    num_classes = checks.whole("num_classes", num_classes, 2, _MOST_CLASSES)
    input_shape = spec.input_shape if input_shape is None else input_shape
    if not isinstance(input_shape, (list, tuple)) or len(input_shape) != 3:
        raise ValueError(f"input_shape must be (height, width, channels); received {input_shape!r}")
    input_shape = tuple(checks.whole("input_shape", size, 1, _MOST_PIXELS) for size in input_shape)
    width, shortcut = options.pop("width"), options.pop("shortcut")
    of_units = {"checkpointing": options.pop("checkpointing")}
    of_modules = {key: options.pop(key) for key in ("learning", "mask_activation", "mask_branch")}
    spec = dataclasses.replace(spec, **options)  # the options that are left change the layout
    of_units |= {key: getattr(spec, key) for key in ("groups", "always_project", "use_bias")}
    layout = ("pre_units", "trunk_units", "mask_units", "pool_size", "interpolation")
    of_modules |= {key: getattr(spec, key) for key in layout}
    step = math.lcm(4, (spec.bottleneck or 1) * spec.groups)  # the units can divide its multiples
    first, *widths = (max(step, step * round(filters * width / step)) for filters in (spec.stem_filters, *spec.filters))
    inputs = keras.Input(input_shape, name="images")
    stem = blocks.convolution(first, spec.stem_kernel, spec.stem_strides, use_bias=spec.use_bias, name="stem")
    features = stem(inputs)
    if spec.stem_pool:
        features = blocks.BatchNormalization(name="stem_bn")(features)
        features = layers.ReLU(name="stem_relu")(features)
        features = layers.MaxPooling2D(spec.stem_pool, 2, "same", "channels_last", name="stem_pool")(features)
    for index, filters in enumerate(widths):
        stage, inner = f"stage_{index + 1}", filters // (spec.bottleneck or 1)
        before = inner if spec.bottleneck else features.shape[-1]
        chain = [blocks.ResidualUnit(filters, spec.strides[index], before, name=f"{stage}_unit_1", **of_units)]
        unit = of_units | {"inner_filters": inner}
        inside = unit | {"shortcut": shortcut}
        for i in range(spec.modules[index] if index < len(spec.modules) else 0):  # none in ImageNet's last stage
            title = f"{stage}_attention_{i + 1}"
            chain.append(blocks.AttentionModule(filters, spec.mask_depth[index], name=title, unit=inside, **of_modules))
        keeps = spec.last_shortcut or index + 1 < len(spec.filters)
        for i in range(1, spec.stage_units[index]):
            chain.append(blocks.ResidualUnit(filters, shortcut=keeps, name=f"{stage}_unit_{i + 1}", **unit))
        features = keras.Sequential(chain, name=stage)(features)
    features = blocks.BatchNormalization(name="head_bn")(features)
    features = layers.ReLU(name="head_relu")(features)
    features = layers.GlobalAveragePooling2D("channels_last", name="head_pool")(features)
    if spec.dropout:
        features = layers.Dropout(spec.dropout, name="head_dropout")(features)
    logits = layers.Dense(num_classes, kernel_initializer="he_normal", dtype="float32", name="classifier")(features)
    return keras.Model(inputs, logits, name=name)

"""Whole networks by name: the paper's, its baseline, the student project's, and one small enough for a laptop.

    model = models.create_model("attention_56", num_classes=10)
    model.summary()                       # a screenful; summary(expand_nested=True) opens the stages

Every network takes prepared images `(batch, height, width, 3)` and returns logits `(batch, num_classes)`: there is
no softmax at the end, so train with `from_logits=True`.
"""

import contextlib
import dataclasses
import difflib
import hashlib
import json
import math
import os
import re
import tempfile
from pathlib import Path

import keras
import numpy as np
from keras import layers

from ranet_lib import blocks, checks


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """What a name stands for: how the network is laid out, and what its authors printed about it.

    Counts that hold for each stage are tuples, one entry per stage. Stages after the last entry of `modules` have no
    attention.

    Attributes:
        name, description: what it goes by, and what it is in a sentence.
        input_shape: `(height, width, channels)` of its images.
        stem_filters, stem_kernel, stem_strides: of the first convolution.
        stem_pool: after BN and ReLU, max pooling of this size and stride 2; None has none.
        filters: channels of each stage.
        strides: of the first unit of each stage.
        modules: attention modules in each stage (the paper's m).
        mask_depth: how often each stage's mask branch halves the size.
        pre_units, trunk_units, mask_units: the paper's p, t and r.
        stage_units: residual units of each stage outside its modules.
        bottleneck: inner convolutions have this fraction of a unit's channels; None, those of its input.
        groups: of the 3x3 convolutions.
        use_bias: in every convolution.
        always_project: a 1x1 convolution in every shortcut, not only where the shape changes.
        last_shortcut: whether the last stage's units that keep the shape have a shortcut.
        pool_size, interpolation: of the pooling and of the up-sampling in mask branches.
        dropout: the part of the features that is dropped before the classifier.
        printed_parameters: millions by number of classes, as its authors print them.
        printed_flops: multiply-adds in billions, as its authors print them.
    """

    name: str
    description: str
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
        units = sum(self.stage_units) + sum(self.modules) * (2 * self.pre_units + self.trunk_units)
        return 2 + 3 * units


def _paper(depth, modules, **changes):
    return ModelSpec(
        f"attention_{depth}",
        f"The paper's Attention-{depth} for CIFAR, with m = {modules}: as many attention modules in each of 3 stages.",
        modules=(modules,) * 3,
        **changes,
    )


def _tiny(name, text, **changes):
    return ModelSpec(
        name, text, stem_filters=32, stem_strides=2, filters=(48, 96, 192), bottleneck=2, **changes
    )  # fmt: skip


def _imagenet(name, text, modules, **changes):
    return ModelSpec(
        name, text, input_shape=(224, 224, 3), stem_filters=64, stem_kernel=7, stem_strides=2, stem_pool=3,
        filters=(256, 512, 1024, 2048), strides=(1, 2, 2, 2), modules=modules, stage_units=(1, 1, 1, 3),
        **changes,
    )  # fmt: skip


def _source(name, text, modules=(1, 1, 1), filters=(128, 256, 512, 1024), **changes):
    return ModelSpec(
        name, text, stem_filters=32, stem_kernel=5, stem_pool=2, filters=filters, strides=(1, 2, 2, 1),
        modules=modules, mask_depth=(2, 1, 1), stage_units=(1, 1, 1, 3), bottleneck=None, use_bias=True,
        always_project=True, last_shortcut=False, pool_size=2, interpolation="nearest", **changes,
    )  # fmt: skip


_SPECS = {
    spec.name: spec
    for spec in (
        _tiny(
            "attention_tiny",
            "A true residual attention network that a laptop trains in minutes: one slim module in each of 3 stages.",
            mask_depth=(2, 1, 1), pre_units=0, trunk_units=1, stage_units=(1, 1, 1),
        ),
        # attention_tiny needs more than the two minutes of a first run to learn the embedded digits.
        _tiny(
            "attention_micro",
            "attention_tiny with one module, in the second stage: it learns the embedded digits in under two minutes.",
            modules=(0, 1, 0), mask_depth=(2, 1, 1), pre_units=0, trunk_units=1, stage_units=(1, 1, 1),
        ),
        _tiny(
            "resnet_tiny",
            "The baseline for attention_tiny, at about its cost: 3 residual units in each of 3 stages, no attention.",
            modules=(0, 0, 0), stage_units=(3, 3, 3),
        ),
        _paper(56, 1),
        _paper(92, 2, printed_parameters={10: 1.9, 100: 1.9}),
        _paper(128, 3),
        _paper(164, 4),
        _paper(236, 6, printed_parameters={10: 5.1, 100: 5.1}),
        _paper(452, 6, pre_units=2, trunk_units=4, mask_units=3, printed_parameters={10: 8.6, 100: 8.6}),
        ModelSpec(
            "resnet_164",
            "The baseline, ResNet-164 with pre-activation: 18 bottleneck units in each of 3 stages, no attention.",
            modules=(0, 0, 0),
            stage_units=(18, 18, 18),
            printed_parameters={10: 1.7, 100: 1.7},
        ),
        _imagenet(
            "attention_56_imagenet", "The paper's Attention-56 for ImageNet: one module in each of 3 stages.",
            (1, 1, 1), printed_parameters={1000: 31.9}, printed_flops=6.2,
        ),
        _imagenet(
            "attention_92_imagenet", "The paper's Attention-92 for ImageNet: 1, 2 and 3 modules in its stages.",
            (1, 2, 3), printed_parameters={1000: 51.3}, printed_flops=10.4,
        ),
        _imagenet(
            "attentionnext_56_imagenet",
            "The paper's AttentionNeXt-56: Attention-56 with ResNeXt's units, their 3x3 convolutions in 32 groups.",
            (1, 1, 1), bottleneck=2, groups=32,
        ),
        _source(
            "source_attention_56", "The student project's Attention-56, without its softmax.",
            dropout=0.5, printed_parameters={10: 54.120138, 100: 54.212388},
        ),
        _source(
            "source_attention_92", "The student project's Attention-92, without its softmax: 1, 2 and 3 modules.",
            (1, 2, 3), printed_parameters={10: 97.902794},
        ),
        _source(
            "source_attention_92_cifar100",
            "The student project's Attention-92 for CIFAR-100: widths doubled from the second stage on.",
            (1, 2, 3), (128, 512, 1024, 2048), printed_parameters={100: 385.083684},
        ),
    )
}  # fmt: skip

# More than these is a slip: building would take hours, or all memory.
_MOST_CLASSES, _MOST_PIXELS, _MOST_UNITS, _MOST_WIDTH = 1_000_000, 10_000, 100, 100

#: Options of `create_model`, with what each accepts.
OPTIONS = {
    "learning": "'residual' (the default) or 'naive'",
    "mask_activation": "'mixed' (the default), 'channel' or 'spatial'",
    "mask_branch": "'encoder_decoder' (the default) or 'local'",
    "shortcut": "True (the default) or False: the residual shortcuts inside attention modules",
    "width": "a number above 0 and at most 100 (default 1.0) that multiplies every channel count",
    "modules": "attention modules in each stage, a whole number or a list with one for each (the paper's m)",
    "mask_depth": "how often mask branches halve the size, a whole number or a list with one for each stage",
    "pre_units": "residual units before and after the branches of a module, 0 or more (the paper's p)",
    "trunk_units": "residual units of a trunk branch, 1 or more (the paper's t)",
    "mask_units": "residual units of each step of a mask branch, 1 or more (the paper's r)",
    "checkpointing": "True trains with less memory and more time: the inside of residual units is computed twice",
    "dropout": "the part of the features that is dropped before the classifier in training, from 0 up to 0.95",
}

#: What an option means that is not given. The others change the layout of `model_spec`; not given, it stays.
DEFAULT_OPTIONS = {
    "learning": "residual", "mask_activation": "mixed", "mask_branch": "encoder_decoder", "shortcut": True,
    "width": 1.0, "checkpointing": False,
}  # fmt: skip


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
    """The options of `create_model` as a dict, with `DEFAULT_OPTIONS` filled in and one entry for each stage.

    Args:
        name: one of `list_models()`.
        options: dict of options that are given.

    Returns:
        dict with every option that is given or has a default.

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
        # A default is let through: what this returns can be given to `create_model` again.
        default = option in DEFAULT_OPTIONS and options[option] == DEFAULT_OPTIONS[option]
        if option not in ("width", "dropout", "checkpointing") and not any(spec.modules) and not default:
            raise ValueError(f"{name} has no attention modules, so the option {option!r} means nothing there")
    resolved = DEFAULT_OPTIONS | options
    checks.choice("learning", resolved["learning"], blocks.LEARNING_RULES)
    checks.choice("mask_activation", resolved["mask_activation"], tuple(blocks.MASK_ACTIVATIONS))
    checks.choice("mask_branch", resolved["mask_branch"], blocks.MASK_BRANCHES)
    for option in ("shortcut", "checkpointing"):
        checks.choice(option, resolved[option], (True, False))
    resolved["width"] = checks.number("width", resolved["width"], above=0, most=_MOST_WIDTH)
    for option, least in (("pre_units", 0), ("trunk_units", 1), ("mask_units", 1)):
        if option in options:
            resolved[option] = checks.whole(option, options[option], least, _MOST_UNITS)
    for option, least in (("modules", 0), ("mask_depth", 1)):
        if option in options:
            resolved[option] = _by_stage(option, options[option], len(spec.modules), least)
    if not any(resolved.get("modules", spec.modules)) and any(spec.modules):
        raise ValueError(f"modules must leave at least one module; received {options['modules']!r}")
    if "dropout" in options:
        resolved["dropout"] = checks.number("dropout", options["dropout"], least=0, most=0.95)
    return resolved


def _by_stage(option, value, stages, least):
    """A whole number for each stage, from one for all or from a list."""
    values = list(value) if isinstance(value, (list, tuple)) else [value] * stages
    if len(values) != stages:
        raise ValueError(f"{option} must be a whole number or a list of {stages}, one a stage; received {value!r}")
    return [checks.whole(option, entry, least, _MOST_UNITS) for entry in values]


def create_model(name, num_classes=10, input_shape=None, **options):
    """Build a network by name, with fresh He-initialised weights (call `keras.utils.set_random_seed` before).

    Args:
        name: one of `list_models()`.
        num_classes: number of classes, from 2 to a million.
        input_shape: `(height, width, channels)` of the images, each at most 10,000; None means the network's own. Sizes
            that two does not divide are fine.
        **options: see `OPTIONS`.

    Returns:
        A `keras.Model` from prepared images `(batch, height, width, channels)` to logits `(batch, num_classes)`.
        Its layers are a stem, the stages (each a `keras.Sequential` of residual units and attention modules), and
        a head.

    Raises:
        ValueError: an unknown name or option, or a value that is not allowed; the message says what is.

    Example:
        >>> model = models.create_model("attention_tiny", num_classes=10, learning="naive")
        >>> model.input_shape, model.output_shape
        ((None, 32, 32, 3), (None, 10))
    """
    spec = model_spec(name)
    options = check_options(name, options)
    num_classes = checks.whole("num_classes", num_classes, 2, _MOST_CLASSES)
    if input_shape is not None and not (isinstance(input_shape, (list, tuple)) and len(input_shape) == 3):
        raise ValueError(f"input_shape must be (height, width, channels); received {input_shape!r}")
    sizes = input_shape or spec.input_shape
    input_shape = tuple(checks.whole("input_shape", size, 1, _MOST_PIXELS) for size in sizes)

    width, shortcut, checkpointing = (options.pop(key) for key in ("width", "shortcut", "checkpointing"))
    module_options = {key: options.pop(key) for key in ("learning", "mask_activation", "mask_branch")}
    spec = dataclasses.replace(spec, **options)  # what is left changes the layout

    inputs = keras.Input(input_shape, name="images")
    features = _stem(inputs, spec, width)
    for index, filters in enumerate(spec.filters):
        stage = f"stage_{index + 1}"
        filters = _scaled(filters, spec, width)
        before = features.shape[-1] if spec.bottleneck is None else filters // spec.bottleneck
        inner = filters if spec.bottleneck is None else filters // spec.bottleneck
        unit = {"groups": spec.groups, "always_project": spec.always_project, "use_bias": spec.use_bias}
        unit["checkpointing"] = checkpointing
        chain = [blocks.ResidualUnit(filters, spec.strides[index], before, name=f"{stage}_unit_1", **unit)]
        unit["inner_filters"] = inner
        if index < len(spec.modules):
            chain += [
                blocks.AttentionModule(
                    filters, spec.mask_depth[index], spec.pre_units, spec.trunk_units, spec.mask_units,
                    unit=unit | {"shortcut": shortcut}, pool_size=spec.pool_size, interpolation=spec.interpolation,
                    name=f"{stage}_attention_{i + 1}", **module_options,
                )
                for i in range(spec.modules[index])
            ]  # fmt: skip
        keeps = spec.last_shortcut or index + 1 < len(spec.filters)
        chain += [
            blocks.ResidualUnit(filters, shortcut=keeps, name=f"{stage}_unit_{i + 1}", **unit)
            for i in range(1, spec.stage_units[index])
        ]
        features = keras.Sequential(chain, name=stage)(features)
    features = blocks.BatchNormalization(name="head_bn")(features)
    features = layers.ReLU(name="head_relu")(features)
    features = layers.GlobalAveragePooling2D(name="head_pool")(features)
    if spec.dropout:
        features = layers.Dropout(spec.dropout, name="head_dropout")(features)
    logits = layers.Dense(num_classes, kernel_initializer="he_normal", dtype="float32", name="classifier")(features)
    return keras.Model(inputs, logits, name=name)


def _stem(inputs, spec, width):
    filters = _scaled(spec.stem_filters, spec, width)
    features = blocks.convolution(
        filters, spec.stem_kernel, spec.stem_strides, use_bias=spec.use_bias, name="stem"
    )(inputs)  # fmt: skip
    if spec.stem_pool:
        features = blocks.BatchNormalization(name="stem_bn")(features)
        features = layers.ReLU(name="stem_relu")(features)
        features = layers.MaxPooling2D(spec.stem_pool, strides=2, padding="same", name="stem_pool")(features)
    return features


def _scaled(filters, spec, width):
    """`filters` times `width`, rounded to what the units can divide, and at least that."""
    step = math.lcm(4, (spec.bottleneck or 1) * spec.groups)
    return max(step, step * round(filters * width / step))


def count_flops(model):
    """Floating-point operations of one image's forward pass: 2 for each multiply-add of convolutions and dense layers.

    The paper's "FLOPs" are multiply-adds, half of this number. Normalisation, activations, pooling and up-sampling
    are left out, as is usual.

    Args:
        model: a built `keras.Model` with a fixed input size, made of `blocks` and ordinary layers.

    Returns:
        int, operations per image.

    Example:
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), blocks.convolution(4, 3)])
        >>> models.count_flops(model)  # 8 x 8 positions, 3 x 3 x 3 x 4 weights, two operations each
        13824
    """
    total = 0
    for layer in blocks.walk(model):
        if isinstance(layer, (layers.Conv2D, layers.Dense)):
            total += 2 * math.prod(_output_shape(layer)[1:-1]) * math.prod(layer.kernel.shape)
    return total


def _output_shape(layer):
    built = layer.get_build_config()  # a layer without weights may have been called without being built
    return layer.compute_output_shape(built["input_shape"]) if built else layer.output.shape


def count_activations(model):
    """Values that a network computes on the way for one image: about what training keeps for the way back.

    Every convolution, normalisation, ReLU, pooling, up-sampling, addition, product and mask counts with the size of
    its output; four bytes a value in float32. A framework may keep fewer (it can work out a ReLU again) or more.

    Args:
        model: a built `keras.Model` with a fixed input size, made of `blocks` and ordinary layers.

    Returns:
        int, values per image.

    Example:
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), blocks.convolution(4, 3)])
        >>> models.count_activations(model)  # 8 x 8 positions, 4 channels
        256
    """
    total = 0
    for layer in blocks.walk(model):
        if isinstance(layer, (keras.Model, blocks.TrunkBranch, layers.InputLayer)):
            continue
        values = math.prod(_output_shape(layer)[1:])
        if isinstance(layer, blocks.ResidualUnit):
            total += values * layer.shortcut  # the sum
        elif isinstance(layer, blocks.AttentionModule):
            total += values * (2 if layer.learning == "residual" else 1)  # 1 + M and the product, or the product
        elif isinstance(layer, blocks.MaskBranch):
            up_sampled = [math.prod(size) * layer.filters for size in layer.sizes[:-1]]
            total += sum(up_sampled) + sum(up_sampled[1:]) + values  # with the skips' sums, and the mask
        else:  # a local mask branch ends in its mask; anything else is a layer that is not made of layers
            total += values
    return total


@contextlib.contextmanager
def without_weights():
    """Networks made inside have no memory for weights: good for looking at, and for `stateless_call` inside."""
    from keras.src.backend.common import global_state

    # Keras keeps a list of what to fill at the end of the next stateless scope, and would fill these networks then.
    to_fill = global_state.get_global_attribute("uninitialized_variables", [], set_to_default=True)
    before = len(to_fill)
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        del to_fill[before:]


def describe(name, num_classes=10, input_shape=None, **options):
    """The size and cost of a network, counted on the network itself but without the memory for its weights.

    Args:
        name, num_classes, input_shape, options: as in `create_model`.

    Returns:
        dict with `name`, `num_classes`, `layers` (as the paper counts them), `parameters` (all numbers, moving
        averages included), `trainable`, `flops` (2 for each multiply-add, per image), `activations` (values per
        image), and what its authors print: `printed_parameters` (millions) and `printed_flops` (multiply-adds in
        billions), None where they print nothing.

    Raises:
        ValueError: as in `create_model`.

    Example:
        >>> found = models.describe("attention_56")
        >>> found["layers"], found["parameters"]
        (56, 1045242)
    """
    spec = model_spec(name)
    with without_weights():
        model = create_model(name, num_classes, input_shape, **options)
    layout = {key: value for key, value in check_options(name, options).items() if key not in DEFAULT_OPTIONS}
    changed = bool(options) or input_shape is not None
    return {
        "name": name,
        "num_classes": num_classes,
        "layers": dataclasses.replace(spec, **layout).weighted_layers,
        "parameters": sum(math.prod(weight.shape) for weight in model.weights),
        "trainable": sum(math.prod(weight.shape) for weight in model.trainable_weights),
        "flops": count_flops(model),
        "activations": count_activations(model),
        "printed_parameters": None if changed else spec.printed_parameters.get(num_classes),
        "printed_flops": None if changed else spec.printed_flops,
    }


# --- Files: exported networks, and the weights that ship with this package ---------------------------------------

#: The forms that `export_model` writes, by suffix.
EXPORTS = {".keras": "Keras", ".onnx": "ONNX", ".tflite": "LiteRT", "": "TensorFlow SavedModel (a folder)"}


def export_model(model, path):
    """Write a network for use elsewhere; the suffix of `path` says in which form.

    `.keras` is Keras's own file: `keras.saving.load_model` gives the network back, once `ranet_lib.blocks` is
    imported. The others hold the forward pass alone, for any number of images at a time, and need nothing of this
    library: `.onnx`, `.tflite` (LiteRT), and without a suffix a folder with a TensorFlow SavedModel.

    Args:
        model: a network from `create_model`, in float32.
        path: where to write; nothing may be there yet.

    Raises:
        ValueError: an unknown suffix, a path that is taken, or a network that the form cannot hold.
        ImportError: a package that the form needs is missing; the message says which.
    """
    path = Path(path)
    if path.suffix not in EXPORTS:
        forms = ", ".join(f"{suffix or 'no suffix'} ({form})" for suffix, form in EXPORTS.items())
        raise ValueError(f"the suffix of path must be one of: {forms}; received {path.suffix!r} in {str(path)!r}")
    if path.exists():
        raise ValueError(f"path {str(path)!r} is taken; choose another, or delete it")
    _check_export(model, path.suffix)
    model(np.zeros((1, *model.input_shape[1:]), "float32"))  # Keras exports nothing that was never called
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # whole or not at all
        unfinished = Path(folder) / path.name
        if path.suffix == ".keras":
            model.save(unfinished)
        elif path.suffix == ".onnx":
            try:
                model.export(unfinished, format="onnx", verbose=False)
                _mend_up_sampling(unfinished)
            except ImportError as error:
                raise ImportError(f"ONNX needs more packages: pip install 'ranet_lib[export]' ({error})") from error
        else:
            model.export(unfinished, format="litert" if path.suffix else "tf_saved_model", verbose=False)
        os.replace(unfinished, path)


def _check_export(model, suffix):
    """Refuse what the converters would get wrong, or make a file of that no runtime reads."""
    parts = list(blocks.walk(model))
    policies = {layer.dtype_policy.name for layer in parts if isinstance(layer, layers.Conv2D)}
    if suffix != ".keras" and policies != {"float32"}:
        raise ValueError(
            f"{model.name} computes in {', '.join(sorted(policies))}, and export needs float32: "
            "create it again in float32 and set_weights from this one"
        )
    grouped = any(isinstance(layer, layers.Conv2D) and layer.groups > 1 for layer in parts)
    if suffix in (".onnx", ".tflite") and grouped and keras.backend.backend() == "tensorflow":
        raise ValueError(
            f"{model.name} has grouped convolutions, which TensorFlow compiles in a form that {EXPORTS[suffix]} "
            "cannot hold; export it as .keras or as a SavedModel (a path without a suffix)"
        )
    for layer in parts:
        if suffix == ".onnx" and isinstance(layer, blocks.MaskBranch) and layer.interpolation == "nearest":
            for small, large in zip(layer.sizes[1:], layer.sizes):
                if (2 * small[0], 2 * small[1]) != large:
                    raise ValueError(
                        f"ONNX may take another neighbour in up-sampling {small} to {large}; "
                        "choose an input_shape that two divides at each level, or another form"
                    )


def _mend_up_sampling(path):
    """Make the up-sampling of an ONNX file end at the right size.

    It is written as a factor in float32, and the new size is rounded down: 10 times 1.9 came out as 18.
    """
    import onnx

    file = onnx.load(path)
    factors = {node.input[2] for node in file.graph.node if node.op_type == "Resize"}
    for tensor in file.graph.initializer:
        if tensor.name in factors:
            values = onnx.numpy_helper.to_array(tensor)
            mended = np.where(values == np.round(values), values, values * (1 + 3e-7)).astype("float32")
            tensor.CopyFrom(onnx.numpy_helper.from_array(mended, tensor.name))
    onnx.save(file, path)


PRETRAINED = Path(__file__).parent / "weights"


def list_pretrained():
    """The names that `load_pretrained` knows: `MODEL-DATASET` of each trained network in this package.

    Example:
        >>> "attention_tiny-cluttered_digits" in models.list_pretrained()
        True
    """
    return sorted(path.stem for path in PRETRAINED.glob("*.json"))


def pretrained_record(name):
    """The run record of the trained network `name` that ships with this package, as a dict (see `records`).

    Example:
        >>> models.pretrained_record("attention_tiny-cluttered_digits")["recipe"]["profile"]
        'laptop'
    """
    return _about(name)["record"]


def _about(name):
    return json.loads(_pretrained_file(name, ".json").read_text(encoding="utf-8"))


def load_pretrained(name):
    """A network with trained weights that ship with this package.

    Args:
        name: one of `list_pretrained()`.

    Returns:
        A `keras.Model` as `create_model` builds it. It takes images as the `prepare` of its data set gives them.

    Raises:
        ValueError: an unknown name, or a file that is damaged or belongs to another version of the network.

    Example:
        >>> model = models.load_pretrained("attention_tiny-cluttered_digits")
        >>> model.name
        'attention_tiny'
    """
    about = _about(name)
    path = _pretrained_file(name, ".npz")
    if hashlib.sha256(path.read_bytes()).hexdigest() != about["sha256"]:
        raise ValueError(f"the weights of {name} in {path} do not match their checksum; install the package again")
    described = about["record"]["model"]
    model = create_model(
        described["name"], described["num_classes"], described["input_shape"], **described["options"]
    )  # fmt: skip
    with np.load(path, allow_pickle=False) as arrays:
        if set(arrays) != {weight.path for weight in model.weights}:
            raise ValueError(f"the weights of {name} (version {about['version']}) are not those of {model.name}")
        for weight in model.weights:
            weight.assign(arrays[weight.path].astype("float32"))
    return model


def _pretrained_file(name, suffix):
    names = list_pretrained()
    if name not in names:
        raise ValueError(f"no trained weights of the name {name!r}; there are: {', '.join(names) or 'none'}")
    return PRETRAINED / f"{name}{suffix}"


def save_pretrained(model, record, folder=PRETRAINED, about=None):
    """Write a trained network's weights as `load_pretrained` reads them: float16, with checksum and run record.

    Kept with them are its logits for a few of the embedded images, so that everyone can check what is loaded.

    Args:
        model: the network as its run left it, in float32.
        record: its run record, a dict.
        folder: where to; the package's own by default.
        about: a dict of what else to keep with them, such as their error in float32.

    Returns:
        The name it goes by.

    Raises:
        ValueError: weights that float16 cannot hold, or a data set whose name is no name of a file (`folder:PATH`).
    """
    name = f"{record['model']['name']}-{record['dataset']['name']}"
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"the weights would be called {name!r}, which is no name of a file; rename the data set")
    arrays = {weight.path: keras.ops.convert_to_numpy(weight) for weight in model.weights}
    for path, values in arrays.items():
        largest = np.abs(values).max()
        if not largest <= np.finfo("float16").max:  # nor does it where it is not a number
            raise ValueError(f"{path} has values up to {largest:.3g}, which float16 cannot hold")
    Path(folder).mkdir(parents=True, exist_ok=True)
    file = Path(folder) / f"{name}.npz"
    rounded = keras.models.clone_model(model)
    rounded.set_weights([arrays[weight.path].astype("float16").astype("float32") for weight in model.weights])
    np.savez_compressed(file, **{path: values.astype("float16") for path, values in arrays.items()})
    about = {
        "version": 1, "sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "record": record, **(about or {}),
        "logits": [[round(float(value), 4) for value in row] for row in _embedded_logits(rounded)],
    }  # fmt: skip
    (Path(folder) / f"{name}.json").write_text(
        json.dumps(about, indent=1) + "\n", encoding="utf-8", newline="\n"
    )
    return name


def _embedded_logits(model, count=8):
    """A network's logits for the first embedded images, pieced together to its input size: `(count, num_classes)`.

    The images are cluttered digits, whatever the network was trained on: what counts is that the numbers come out.
    """
    from ranet_lib import datasets

    data = datasets.load_dataset("cluttered_digits")
    height, width = model.input_shape[1:3]
    rows, columns = np.arange(height) % data.image_shape[0], np.arange(width) % data.image_shape[1]
    return model.predict_on_batch(data.prepare(data.validation.images[:count])[:, rows][:, :, columns])

"""What a network costs: parameters, floating-point operations, activations, layers."""

import contextlib
import dataclasses
import math

import keras
from keras import layers

from ranet_lib import blocks, models


def count_flops(model):
    """Floating-point operations of one image's forward pass: 2 for each multiply-add of `Conv2D` and `Dense` layers.

    The paper's "FLOPs" are multiply-adds, half of this number. `model` is a `keras.Model` with a fixed input size.

    Example:
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), blocks.convolution(4, 3)])
        >>> counting.count_flops(model)  # 8 x 8 positions, 3 x 3 x 3 x 4 weights, two operations each
        13824
    """
    counted = [layer for layer in blocks.walk(model) if isinstance(layer, (layers.Conv2D, layers.Dense))]
    return sum(2 * math.prod(_output_shape(layer)[1:-1]) * math.prod(layer.kernel.shape) for layer in counted)


def _output_shape(layer):
    built = layer.get_build_config()  # a layer without weights may have been called without being built
    return layer.compute_output_shape(built["input_shape"]) if "input_shape" in (built or {}) else layer.output.shape


def count_activations(model):
    """Values that `model` computes for one image, about as many as training keeps for the backward pass.

    Every convolution, normalisation, ReLU, pooling, up-sampling, addition, product and mask counts with the size of
    its output. `model` is as in `count_flops`.

    Example:
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), blocks.convolution(4, 3)])
        >>> counting.count_activations(model)  # 8 x 8 positions, 4 channels
        256
    """
    total = 0
    for layer in blocks.walk(model):
        if isinstance(layer, (keras.Model, blocks.TrunkBranch, layers.InputLayer)):
            continue
        values = math.prod(_output_shape(layer)[1:])
        if isinstance(layer, blocks.ResidualUnit):
            values *= layer.shortcut  # the sum
        elif isinstance(layer, blocks.AttentionModule):
            values *= 2 if layer.learning == "residual" else 1  # 1 + M and the product, or the product
        elif isinstance(layer, blocks.MaskBranch):
            up_sampled = [math.prod(size) * layer.filters for size in layer.sizes[:-1]]
            values += sum(up_sampled) + sum(up_sampled[1:])  # up-samplings and skips' sums, beside the mask
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

    `name`, `num_classes`, `input_shape`, `options` and the errors are those of `create_model`. Returns a dict: `name`,
    `num_classes`, `layers` (as the paper counts them), `parameters` (moving averages included), `trainable`, `flops`,
    `activations`, and what the authors print or None: `printed_parameters`, `printed_flops`.

    Example:
        >>> found = counting.describe("attention_56")
        >>> found["layers"], found["parameters"]
        (56, 1045242)
    """
    spec = models.model_spec(name)
    with without_weights():
        model = models.create_model(name, num_classes, input_shape, **options)
    resolved = models.check_options(name, options)
    layout = {key: value for key, value in resolved.items() if key not in models.DEFAULT_OPTIONS}
    changed = resolved != models.check_options(name, {}) or tuple(input_shape or spec.input_shape) != spec.input_shape
    return {
        "name": name, "num_classes": num_classes, "layers": dataclasses.replace(spec, **layout).weighted_layers,
        "parameters": model.count_params(),
        "trainable": sum(math.prod(weight.shape) for weight in model.trainable_weights),
        "flops": count_flops(model), "activations": count_activations(model),
        "printed_parameters": None if changed else spec.printed_parameters.get(num_classes),
        "printed_flops": None if changed else spec.printed_flops}  # fmt: skip

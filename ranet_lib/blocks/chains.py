"""Layers made of layers: what every block is, how to walk through it, and rows of layers."""

import inspect

import keras
from keras import layers, ops

from ranet_lib import fused

register = keras.saving.register_keras_serializable(package="ranet_lib")


class Block(layers.Layer):
    """A layer made of layers, listed by `sublayers()` in the order of the data; by default it applies them in a row."""

    def sublayers(self):
        return []

    def share_precision(self):
        """Let all sublayers compute in this block's precision, also where the global one has changed meanwhile."""
        for layer in self.sublayers():
            layer.dtype_policy = self.dtype_policy

    def build(self, input_shape):
        self.share_precision()
        *_, filters = build_chain(self.sublayers(), input_shape)
        if filters != input_shape[-1] and self.compute_output_shape(input_shape) == tuple(input_shape):
            raise ValueError(f"{self.name} needs an input of {filters} channels; received the shape {input_shape}")

    def call(self, inputs, training=None):
        return apply_chain(self.sublayers(), inputs, training)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        arguments = [name for name in inspect.signature(self.__init__).parameters if name != "kwargs"]
        values = ((name, getattr(self, name)) for name in arguments)  # `units` may be a number, kept as a list
        return super().get_config() | {name: len(it) if isinstance(it, list) else it for name, it in values}


def walk(layer):
    """Yield `layer` and every layer inside it, outermost first, in the order of the data.

    Example:
        >>> [layer.name for layer in blocks.walk(blocks.ResidualUnit(16, name="unit"))][:4]
        ['unit', 'bn_1', 'relu_1', 'conv_1']
    """
    yield layer
    inner = layer.layers if isinstance(layer, keras.Model) else layer.sublayers() if isinstance(layer, Block) else []
    for sublayer in inner:
        yield from walk(sublayer)


def build_chain(chain, input_shape):
    """Build each layer of `chain`, the first on `input_shape`, the next on what it gives; return the last shape."""
    shape = tuple(input_shape)
    for layer in chain:
        if layer.get_build_config() is None:  # a layer without weights calls itself built before it knows its shape
            layer.build(shape)
        shape = tuple(layer.compute_output_shape(shape))
    return shape


def apply_chain(chain, inputs, training=None):
    """Call each layer of `chain`, the first on `inputs`, in `training` or not, the next on what it gives."""
    for layer in chain if training else fused.folded(chain):
        takes_training = "training" in getattr(layer, "call_signature_parameters", ())
        inputs = layer(inputs, training=training) if takes_training else layer(inputs)
    return inputs


def apply_checkpointed(chain, inputs, training=None):
    """`apply_chain` of `chain`, `inputs`, `training` with less memory, by gradient checkpointing (Chen et al. 2016)."""
    weights = [weight for layer in chain for weight in layer.weights]
    averages = [weight for weight in weights if not weight.trainable]

    def pure(inputs, *values):  # so that the moving averages change only once
        with keras.StatelessScope(list(zip(weights, values, strict=True))) as scope:
            outputs = apply_chain(chain, inputs, training)
        return [outputs, *(scope.get_current_value(average) for average in averages)]

    # Copies: PyTorch changes averages in place before its backward pass, and eager TensorFlow watches variables.
    outputs, *changed = _computed_again(pure)(inputs, *map(ops.copy, weights))
    for average, value in zip(averages, changed, strict=True):
        average.assign(ops.stop_gradient(value))
    return outputs


def _computed_again(function):
    """`keras.remat`, which on TensorFlow would look through the whole network so far for each unit while it traces."""
    if keras.backend.backend() != "tensorflow":
        return keras.remat(function)
    import tensorflow as tf
    @tf.custom_gradient
    def remembered(*inputs):
        def gradients(*of_outputs):
            one = tf.cast(tf.reshape(of_outputs[0], (-1,))[0], "bool")  # XLA heeds data, no control dependencies
            again = [value + tf.cast(tf.where(one == one, 0.0, float("nan")), value.dtype) for value in inputs]
            with tf.GradientTape() as tape:
                tape.watch(again)
                outputs = function(*again)
            return tape.gradient(outputs, again, of_outputs, unconnected_gradients="zero")
        return function(*inputs), gradients
    return remembered

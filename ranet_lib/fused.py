"""The same results in fewer passes over memory, on TensorFlow: a reader who skips this file loses nothing.

Between their convolutions these networks read and write whole maps. Tests compare each function with its plain form.
"""

import functools
import math

import keras
import numpy as np
from keras import layers, ops


def add(features, shortcut):
    """`features` plus a `shortcut` of their shape, where `features` come from a convolution without bias.

    A placeholder of zeros is added as a bias, because TensorFlow makes one operation of convolution, bias and sum.
    """
    if not _on_processor_in_16_bits(features):
        return features + shortcut
    import tensorflow as tf
    zeros = tf.zeros(features.shape[-1], features.dtype)
    return tf.nn.bias_add(features, tf.raw_ops.PlaceholderWithDefault(input=zeros, shape=zeros.shape)) + shortcut


def sigmoid(features):
    """`ops.sigmoid` of `features`, by way of float32, in which TensorFlow is quicker than in 16 bits."""
    if not _on_processor_in_16_bits(features):
        return ops.sigmoid(features)
    return ops.cast(ops.sigmoid(ops.cast(features, "float32")), features.dtype)


def up_sample(features, size, interpolation="bilinear"):
    """`ops.image.resize(features, size, interpolation=interpolation)`, for maps that are not to be shrunk.

    `features` are `(batch, height, width, channels)`, the last three known; `size` is `(height, width)`;
    `interpolation` is "bilinear" or "nearest". Bilinear, in 16 bits, is a product with a matrix for each axis: quicker.
    """
    if interpolation != "bilinear" or not _on_processor_in_16_bits(features):
        return ops.image.resize(features, size, interpolation=interpolation, data_format="channels_last")
    import tensorflow as tf
    _, height, width, channels = features.shape
    down, across = (tf.constant(_interpolation(*pair), features.dtype) for pair in zip((height, width), size))
    rows = tf.matmul(down, tf.reshape(features, (-1, height, width * channels)))
    columns = tf.matmul(across, tf.reshape(rows, (-1, width, channels)))
    return tf.reshape(columns, (-1, *size, channels))


@functools.cache
def _interpolation(before, after):
    """The matrix `(after, before)` of linear interpolation between the centres of pixels, the border repeated."""
    places = np.clip((np.arange(after) + 0.5) * before / after - 0.5, 0, before - 1)
    matrix = np.zeros((after, before))
    left = places.astype(int)
    matrix[np.arange(after), left] = 1 - (places - left)
    matrix[np.arange(after), np.minimum(left + 1, before - 1)] += places - left
    return matrix


def folded(chain):
    """The layers of `chain` for use outside of training, each convolution joined with the normalisation after it.

    There a normalisation only multiplies and adds, which the kernel can do; the ReLU then joins that operation.
    """
    if keras.backend.backend() != "tensorflow":
        return chain
    steps = []
    for layer in chain:
        if steps and _joins(steps[-1], layer):
            steps[-1] = functools.partial(_convolve_and_normalize, steps[-1], layer)
        else:
            steps.append(layer)
    return steps


def _joins(convolution, normalization):
    """Whether `_convolve_and_normalize` is all that these layers do. (In 16 bits it would turn more answers.)"""
    return (
        type(convolution) is layers.Conv2D and convolution.built and convolution.data_format == "channels_last"
        and convolution.activation is keras.activations.linear and convolution.dilation_rate == (1, 1)
        and type(normalization) is BatchNormalization and normalization.built and _is_plain(normalization)
        and convolution.compute_dtype == normalization.compute_dtype == "float32")  # fmt: skip


def _is_plain(normalization):
    return normalization.axis in (-1, 3) and normalization.center and normalization.scale


def _convolve_and_normalize(convolution, normalization, inputs):
    import tensorflow as tf
    weights = normalization.moving_mean, normalization.moving_variance, normalization.beta, normalization.gamma
    mean, variance, beta, gamma, kernel = (ops.cast(each, "float32") for each in (*weights, convolution.kernel))
    scale = gamma * ops.rsqrt(variance + normalization.epsilon)
    bias = beta - mean * scale
    if convolution.use_bias:
        bias = bias + ops.cast(convolution.bias, "float32") * scale
    inputs = ops.cast(inputs, "float32")
    outputs = ops.conv(inputs, kernel * scale, convolution.strides, convolution.padding, "channels_last")
    return tf.nn.bias_add(outputs, bias)


def _on_processor_in_16_bits(features):
    """Whether these are 16-bit values that TensorFlow computes on the processor."""
    if keras.backend.backend() != "tensorflow" or features.dtype not in ("float16", "bfloat16"):
        return False
    import tensorflow as tf
    return not tf.config.list_physical_devices("GPU")


@keras.saving.register_keras_serializable(package="ranet_lib")
class BatchNormalization(layers.BatchNormalization):
    """Batch normalisation over the last axis: `keras.layers.BatchNormalization`, faster on TensorFlow.

    There it calls the fused kernel; weights and results are the same. `momentum=0.9` lets the moving averages settle
    within a few hundred steps; `epsilon=1e-5` is added to the variance. Replicas share the statistics of a batch.
    """

    def __init__(self, momentum=0.9, epsilon=1e-5, **kwargs):
        super().__init__(momentum=momentum, epsilon=epsilon, **kwargs)

    def call(self, inputs, training=None, mask=None):
        training = bool(training) and self.trainable
        fused = keras.backend.backend() == "tensorflow" and len(inputs.shape) == 4 and inputs.dtype != "float64"
        fused = fused and mask is None and _is_plain(self)
        if not fused:
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf
        if training and tf.distribute.get_strategy().num_replicas_in_sync > 1:
            self.synchronized = True  # Keras then takes the moments over all replicas
        if training and (self.synchronized or self.momentum == 0):
            return super().call(inputs, training=training)
        weights = self.gamma, self.beta, self.moving_mean, self.moving_variance
        scale, offset, mean, variance = (ops.convert_to_tensor(each, "float32") for each in weights)
        if training:
            # The kernel's variance of a batch divides by n - 1, that of Keras by n: so does our moving average.
            known = None not in inputs.shape
            count = math.prod(inputs.shape[:-1]) if known else tf.size(inputs) // inputs.shape[-1]
            unbiased = count / max(count - 1, 1) if known else tf.cast(count / tf.maximum(count - 1, 1), "float32")
            variance = variance * unbiased
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs, scale=scale, offset=offset, mean=mean, variance=variance, epsilon=self.epsilon,
            exponential_avg_factor=1.0 - self.momentum if training else 1.0, is_training=training,
        )  # fmt: skip
        if training:
            self.moving_mean.assign(mean)
            self.moving_variance.assign(variance / unbiased)
        return outputs

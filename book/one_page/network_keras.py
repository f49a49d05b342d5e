"""Attention-56 for CIFAR from plain Keras layers: needs only Keras."""

import keras
from keras import layers


def convolution(x, filters, size, strides=1):
    return layers.Conv2D(
        filters, size, strides, padding="same",
        use_bias=False, kernel_initializer="he_normal",
    )(x)  # fmt: skip


def normalized(x):
    """Batch normalisation and ReLU, before all but the first convolution."""
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
    return layers.ReLU()(x)


def residual_unit(x, filters, strides=1):
    """1x1, 3x3, 1x1 with a quarter of the channels inside; plus the input."""
    inner = filters // 4
    y = convolution(normalized(x), inner, 1)
    y = convolution(normalized(y), inner, 3, strides)
    y = convolution(normalized(y), filters, 1)
    if strides > 1 or x.shape[-1] != filters:
        x = convolution(x, filters, 1, strides)
    return layers.Add()([y, x])


def mask_branch(x, depth):
    """Down and up again, skips between equal sizes, a sigmoid."""
    filters, seen = x.shape[-1], []
    for _ in range(depth):
        x = layers.MaxPooling2D(3, 2, padding="same")(x)
        x = residual_unit(x, filters)
        seen.append(x)
    skips = [residual_unit(features, filters) for features in seen[:-1]]
    for _ in range(depth):
        x = residual_unit(x, filters)
        x = layers.UpSampling2D(2, interpolation="bilinear")(x)
        if skips:
            x = layers.Add()([x, skips.pop()])
    x = convolution(normalized(x), filters, 1)
    x = convolution(normalized(x), filters, 1)
    return layers.Activation("sigmoid")(x)


def attention_module(x, depth):
    """Attention residual learning, (1 + M) F, between two residual units."""
    filters = x.shape[-1]
    x = residual_unit(x, filters)
    trunk = residual_unit(residual_unit(x, filters), filters)
    mask = mask_branch(x, depth)
    x = layers.Add()([trunk, layers.Multiply()([mask, trunk])])
    return residual_unit(x, filters)


def attention_56(classes=10):
    images = keras.Input((32, 32, 3))
    x = convolution(images, 16, 3)
    for filters, strides, depth in ((64, 1, 3), (128, 2, 2), (256, 2, 1)):
        x = residual_unit(x, filters, strides)
        x = attention_module(x, depth)
        x = residual_unit(x, filters)
    x = layers.GlobalAveragePooling2D()(normalized(x))
    logits = layers.Dense(classes, kernel_initializer="he_normal")(x)
    return keras.Model(images, logits)

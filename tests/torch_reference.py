"""The Residual Attention Network a second time, in plain PyTorch (forward pass, evaluation mode).

It exists to check the main implementation, and was written from the project's facts sheet and the agreed
conventions alone, without reading the main implementation. It holds no weights and no channel numbers: all
come from the dictionary of arrays it is given. It raises when a weight is missing, never used, or of a shape
that does not fit, so that a disconnected part cannot hide. It computes in float64 and returns float32, so
that the rounding errors in a comparison are the other side's.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

BN_EPSILON = 1e-5


@dataclass(frozen=True)
class Layout:
    """What a network's name fixes; entries with one value per stage are tuples."""

    family: str  # "cifar", "imagenet" or "source"
    modules: tuple  # attention modules
    units: tuple = (2, 2, 2)  # residual units outside the modules
    strides: tuple = (1, 2, 2)  # of each stage's first unit
    depths: tuple = (3, 2, 1)  # of the mask branch
    p: int = 1  # units before, and after, the two branches
    t: int = 2  # units in the trunk branch
    r: int = 1  # units per step of the mask branch
    groups: int = 1  # of every unit's 3x3 convolution


def imagenet(modules, **options):
    return Layout("imagenet", (*modules, 0), (1, 1, 1, 3), (1, 2, 2, 2), (3, 2, 1, 0), **options)


def source(modules):
    return Layout("source", (*modules, 0), (1, 1, 1, 3), (1, 2, 2, 1), (2, 1, 1, 0))


LAYOUTS = {
    "attention_56": Layout("cifar", (1, 1, 1)),
    "attention_92": Layout("cifar", (2, 2, 2)),
    "attention_128": Layout("cifar", (3, 3, 3)),
    "attention_164": Layout("cifar", (4, 4, 4)),
    "attention_236": Layout("cifar", (6, 6, 6)),
    "attention_452": Layout("cifar", (6, 6, 6), p=2, t=4, r=3),
    "resnet_164": Layout("cifar", (0, 0, 0), units=(18, 18, 18)),
    "attention_56_imagenet": imagenet((1, 1, 1)),
    "attention_92_imagenet": imagenet((1, 2, 3)),
    "attentionnext_56_imagenet": imagenet((1, 1, 1), groups=32),
    "source_attention_56": source((1, 1, 1)),
    "source_attention_92": source((1, 2, 3)),
    "source_attention_92_cifar100": source((1, 2, 3)),
}


def pad_same(x, size, stride, value):
    """TensorFlow's "same" padding of height and width: the smaller half before, the larger after."""
    pads = []
    for n in (x.shape[3], x.shape[2]):  # F.pad starts from the last axis
        total = max((-(-n // stride) - 1) * stride + size - n, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads, value=value)


def max_pool(x, size, stride):
    return F.max_pool2d(pad_same(x, size, stride, float("-inf")), size, stride)


def resize_nearest(x, height, width):
    """Output index i takes input index floor((i + 0.5) * in / out), in whole numbers."""
    rows, columns = ((2 * torch.arange(out) + 1) * n // (2 * out) for n, out in zip(x.shape[2:], (height, width)))
    return x[:, :, rows][:, :, :, columns]


def resize_bilinear(x, height, width):
    return F.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)


def mixed(x):
    return torch.sigmoid(x)


def channel(x):
    """Unit length over the channels, at each position."""
    return x / x.square().sum(dim=1, keepdim=True).clamp(min=1e-12).sqrt()


def spatial(x):
    """Each channel's map standardised over its positions, then a sigmoid."""
    centred = x - x.mean(dim=(2, 3), keepdim=True)
    return torch.sigmoid(centred / (centred.square().mean(dim=(2, 3), keepdim=True) + 1e-6).sqrt())


ACTIVATIONS = {"mixed": mixed, "channel": channel, "spatial": spatial}


def check_same_shape(a, b, path):
    """Raise where an addition or a product would otherwise broadcast in silence."""
    if a.shape != b.shape:
        raise ValueError(f"{path}: shapes {tuple(a.shape)} and {tuple(b.shape)} differ")


class Network:
    """One forward pass; every weight is taken out of `self.left` when it is used, and used once."""

    def __init__(self, name, weights, learning, mask_activation, shortcut):
        if learning not in ("residual", "naive"):
            raise ValueError(f"unknown learning: {learning!r}")
        self.layout = LAYOUTS[name]
        self.is_source = self.layout.family == "source"
        self.left = dict(weights)
        self.learning = learning
        self.activation = ACTIVATIONS[mask_activation]
        self.module_shortcut = shortcut

    def take(self, path):
        if path not in self.left:
            raise KeyError(f"missing weight: {path}")
        return torch.tensor(np.ascontiguousarray(self.left.pop(path)), dtype=torch.float64)

    def conv(self, x, path, size, stride=1, groups=1):
        """A convolution; in the source networks all have a bias, in the others none has."""
        kernel = self.take(f"{path}/kernel").permute(3, 2, 0, 1)  # to (out, in / groups, height, width)
        if kernel.shape[2:] != (size, size):
            raise ValueError(f"{path}: expected a {size}x{size} kernel, got {tuple(kernel.shape[2:])}")
        bias = self.take(f"{path}/bias") if self.is_source else None
        return F.conv2d(pad_same(x, size, stride, 0.0), kernel, bias, stride=stride, groups=groups)

    def bn_relu(self, x, path):
        gamma, beta, mean, variance = (
            self.take(f"{path}/{part}") for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return F.relu(F.batch_norm(x, mean, variance, gamma, beta, training=False, eps=BN_EPSILON))

    def unit(self, x, path, stride=1, shortcut=True):
        """Pre-activation residual unit."""
        y = self.conv(self.bn_relu(x, f"{path}/bn_1"), f"{path}/conv_1", 1)
        y = self.conv(self.bn_relu(y, f"{path}/bn_2"), f"{path}/conv_2", 3, stride, self.layout.groups)
        y = self.conv(self.bn_relu(y, f"{path}/bn_3"), f"{path}/conv_3", 1)
        if not shortcut:
            return y
        if self.is_source or f"{path}/projection/kernel" in self.left:  # the source projects every shortcut
            x = self.conv(x, f"{path}/projection", 1, stride)
        check_same_shape(x, y, path)
        return x + y

    def inner_units(self, x, path, count):
        """Units path_1, path_2, ... of an attention module."""
        for i in range(1, count + 1):
            x = self.unit(x, f"{path}_{i}", shortcut=self.module_shortcut)
        return x

    def mask(self, x, path, depth):
        sizes, skips = {}, {}
        for level in range(1, depth + 1):
            sizes[level] = x.shape[2:]
            x = max_pool(x, 2 if self.is_source else 3, 2)
            x = self.inner_units(x, f"{path}/down_{level}_unit", self.layout.r)
            if level < depth:
                skips[level] = self.unit(x, f"{path}/skip_{level}", shortcut=self.module_shortcut)
        for level in range(depth, 0, -1):
            x = self.inner_units(x, f"{path}/up_{level}_unit", self.layout.r)
            x = (resize_nearest if self.is_source else resize_bilinear)(x, *sizes[level])
            if level > 1:
                check_same_shape(x, skips[level - 1], f"{path}/skip_{level - 1}")
                x = x + skips[level - 1]
        for i in (1, 2):
            x = self.conv(self.bn_relu(x, f"{path}/tail_bn_{i}"), f"{path}/tail_conv_{i}", 1)
        return self.activation(x)

    def attention(self, x, path, depth):
        x = self.inner_units(x, f"{path}/pre", self.layout.p)
        trunk = self.inner_units(x, f"{path}/trunk/unit", self.layout.t)
        mask = self.mask(x, f"{path}/mask", depth)
        check_same_shape(trunk, mask, path)
        x = (1 + mask) * trunk if self.learning == "residual" else mask * trunk
        return self.inner_units(x, f"{path}/post", self.layout.p)

    def stage(self, x, index):
        """A unit that sets width and size, the attention modules, the remaining units."""
        layout, path = self.layout, f"stage_{index + 1}/stage_{index + 1}"
        x = self.unit(x, f"{path}_unit_1", layout.strides[index])
        for i in range(1, layout.modules[index] + 1):
            x = self.attention(x, f"{path}_attention_{i}", layout.depths[index])
        for i in range(2, layout.units[index] + 1):
            x = self.unit(x, f"{path}_unit_{i}", shortcut=not (self.is_source and index == 3))
        return x

    def stem(self, x):
        if self.layout.family == "cifar":
            return self.conv(x, "stem", 3)
        if self.is_source:
            return max_pool(self.bn_relu(self.conv(x, "stem", 5), "stem_bn"), 2, 2)
        return max_pool(self.bn_relu(self.conv(x, "stem", 7, stride=2), "stem_bn"), 3, 2)

    def __call__(self, x):
        x = self.stem(x)
        for index in range(len(self.layout.units)):
            x = self.stage(x, index)
        x = self.bn_relu(x, "head_bn").mean(dim=(2, 3))
        kernel, bias = self.take("classifier/kernel"), self.take("classifier/bias")
        if bias.shape != kernel.shape[1:]:
            raise ValueError(f"classifier: kernel {tuple(kernel.shape)} and bias {tuple(bias.shape)} do not fit")
        if self.left:
            raise ValueError(f"{len(self.left)} weights were never used: {sorted(self.left)[:10]}")
        return x @ kernel + bias


def logits(name, weights, images, learning="residual", mask_activation="mixed", shortcut=True):
    """Logits (batch, classes) of channels-last images (batch, height, width, 3)."""
    network = Network(name, weights, learning, mask_activation, shortcut)
    x = torch.tensor(np.ascontiguousarray(images), dtype=torch.float64).permute(0, 3, 1, 2)
    with torch.no_grad():
        return network(x).numpy().astype(np.float32)

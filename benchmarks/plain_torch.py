"""The networks of the paper in plain PyTorch, as one would write them there, to measure ours against.

    network = plain_torch.network(models.model_spec("attention_56"), num_classes=10)
    plain_torch.copy_weights(keras_model, network)

The graph is the same operation for operation: the same weights give the same logits (`tests/test_benchmarks.py`).
Only sizes that two divides, and the networks of the paper's CIFAR family.
"""

import keras
import torch
from torch import nn
from torch.nn import functional

from ranet_lib import blocks


def norm(channels):
    return nn.BatchNorm2d(channels, eps=1e-5, momentum=0.1)


class Unit(nn.Module):
    """A pre-activation bottleneck unit."""

    def __init__(self, channels, filters, stride=1):
        super().__init__()
        inner = filters // 4
        self.bn_1, self.conv_1 = norm(channels), nn.Conv2d(channels, inner, 1, bias=False)
        # Stride 2 pads on the right and below only, as TensorFlow and Keras do.
        padding = 1 if stride == 1 else 0
        self.bn_2, self.conv_2 = norm(inner), nn.Conv2d(inner, inner, 3, stride, padding, bias=False)
        self.bn_3, self.conv_3 = norm(inner), nn.Conv2d(inner, filters, 1, bias=False)
        self.stride, self.projection = stride, None
        if stride > 1 or channels != filters:
            self.projection = nn.Conv2d(channels, filters, 1, stride, bias=False)

    def forward(self, x):
        y = self.conv_1(functional.relu(self.bn_1(x)))
        y = functional.relu(self.bn_2(y))
        y = self.conv_2(y if self.stride == 1 else functional.pad(y, (0, 1, 0, 1)))
        y = self.conv_3(functional.relu(self.bn_3(y)))
        return y + (x if self.projection is None else self.projection(x))


def units(filters, count):
    return nn.Sequential(*(Unit(filters, filters) for _ in range(count)))


class Mask(nn.Module):
    """The encoder-decoder mask branch, with a sigmoid at its end."""

    def __init__(self, filters, depth, count):
        super().__init__()
        self.down = nn.ModuleList(units(filters, count) for _ in range(depth))
        self.skips = nn.ModuleList(Unit(filters, filters) for _ in range(depth - 1))
        self.up = nn.ModuleList(units(filters, count) for _ in range(depth))
        self.tail = nn.Sequential(
            norm(filters), nn.ReLU(), nn.Conv2d(filters, filters, 1, bias=False),
            norm(filters), nn.ReLU(), nn.Conv2d(filters, filters, 1, bias=False),
        )  # fmt: skip

    def forward(self, x):
        sizes, passed = [], []
        for level, down in enumerate(self.down):
            sizes.append(x.shape[-2:])
            x = down(functional.max_pool2d(x, 3, 2, ceil_mode=True))
            if level < len(self.skips):
                passed.append(self.skips[level](x))
        for up in self.up:
            x = functional.interpolate(up(x), sizes.pop(), mode="bilinear", align_corners=False)
            if passed:
                x = x + passed.pop()
        return torch.sigmoid(self.tail(x))


class Attention(nn.Module):
    """An attention module with attention residual learning."""

    def __init__(self, spec, filters, depth):
        super().__init__()
        self.pre = units(filters, spec.pre_units)
        self.trunk = units(filters, spec.trunk_units)
        self.mask = Mask(filters, depth, spec.mask_units)
        self.post = units(filters, spec.pre_units)

    def forward(self, x):
        x = self.pre(x)
        return self.post((1 + self.mask(x)) * self.trunk(x))


def network(spec, num_classes=10):
    """The network of a `ranet_lib.models.ModelSpec` as an `nn.Module` from `(batch, 3, height, width)` to logits."""
    channels = spec.stem_filters
    layers = [nn.Conv2d(3, channels, spec.stem_kernel, padding="same", bias=False)]
    for stage, filters in enumerate(spec.filters):
        layers.append(Unit(channels, filters, spec.strides[stage]))
        layers += [Attention(spec, filters, spec.mask_depth[stage]) for _ in range(spec.modules[stage])]
        layers += [Unit(filters, filters) for _ in range(spec.stage_units[stage] - 1)]
        channels = filters
    layers += [norm(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)]
    return nn.Sequential(*layers)


def copy_weights(model, network):
    """Give a plain PyTorch network the weights of the Keras model of the same layout.

    Raises:
        ValueError: the two are not made of the same layers in the same order.
    """
    kinds = (keras.layers.Conv2D, keras.layers.BatchNormalization, keras.layers.Dense)
    given = [layer for layer in blocks.walk(model) if isinstance(layer, kinds)]
    taken = [layer for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d, nn.Linear))]
    with torch.no_grad():
        for source, target in zip(given, taken, strict=True):
            arrays = [torch.tensor(array) for array in source.get_weights()]
            if isinstance(source, keras.layers.BatchNormalization):
                targets = [target.weight, target.bias, target.running_mean, target.running_var]
            elif isinstance(source, keras.layers.Dense):
                arrays[0], targets = arrays[0].T, [target.weight, target.bias]
            else:
                arrays[0], targets = arrays[0].permute(3, 2, 0, 1), [target.weight]
            for array, weight in zip(arrays, targets, strict=True):
                if array.shape != weight.shape:
                    raise ValueError(f"{source.path}: {tuple(array.shape)} there, {tuple(weight.shape)} in PyTorch")
                weight.copy_(array)

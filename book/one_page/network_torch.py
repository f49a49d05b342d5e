"""Attention-56 for CIFAR in plain PyTorch: needs only PyTorch."""

from torch import nn
from torch.nn import functional


def normalized(channels):
    """Batch normalisation and ReLU, before all but the first convolution."""
    norm = nn.BatchNorm2d(channels, eps=1e-5, momentum=0.1)
    return nn.Sequential(norm, nn.ReLU())


def convolution(before, filters, size, strides=1):
    padding = size // 2 if strides == 1 else 0
    layer = nn.Conv2d(before, filters, size, strides, padding, bias=False)
    nn.init.kaiming_normal_(layer.weight)
    if strides > 1 and size == 3:  # Keras pads right and below
        return nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), layer)
    return layer


class ResidualUnit(nn.Module):
    """1x1, 3x3, 1x1 with a quarter of the channels inside; plus the input."""

    def __init__(self, before, filters, strides=1):
        super().__init__()
        inner = filters // 4
        self.residual = nn.Sequential(
            normalized(before), convolution(before, inner, 1),
            normalized(inner), convolution(inner, inner, 3, strides),
            normalized(inner), convolution(inner, filters, 1),
        )  # fmt: skip
        self.shortcut = nn.Identity()
        if strides > 1 or before != filters:
            self.shortcut = convolution(before, filters, 1, strides)

    def forward(self, x):
        return self.residual(x) + self.shortcut(x)


class MaskBranch(nn.Module):
    """Down and up again, skips between equal sizes, a sigmoid."""

    def __init__(self, filters, depth):
        super().__init__()
        self.down, self.skips, self.up = (
            nn.ModuleList(ResidualUnit(filters, filters) for _ in range(count))
            for count in (depth, depth - 1, depth)
        )
        self.tail = nn.Sequential(
            normalized(filters), convolution(filters, filters, 1),
            normalized(filters), convolution(filters, filters, 1),
            nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x):
        seen = []
        for unit in self.down:
            x = functional.pad(x, (0, 1, 0, 1), value=float("-inf"))
            x = unit(functional.max_pool2d(x, 3, 2))
            seen.append(x)
        skips = [unit(features) for unit, features in zip(self.skips, seen)]
        for unit in self.up:
            x = unit(x)
            x = functional.interpolate(x, scale_factor=2, mode="bilinear")
            if skips:
                x = x + skips.pop()
        return self.tail(x)


class AttentionModule(nn.Module):
    """Attention residual learning, (1 + M) F, between two residual units."""

    def __init__(self, filters, depth):
        super().__init__()
        self.before = ResidualUnit(filters, filters)
        self.trunk = nn.Sequential(
            ResidualUnit(filters, filters), ResidualUnit(filters, filters)
        )
        self.mask = MaskBranch(filters, depth)
        self.after = ResidualUnit(filters, filters)

    def forward(self, x):
        x = self.before(x)
        trunk, mask = self.trunk(x), self.mask(x)
        return self.after(trunk + mask * trunk)


def attention_56(classes=10):
    layers, before = [convolution(3, 16, 3)], 16
    for filters, strides, depth in ((64, 1, 3), (128, 2, 2), (256, 2, 1)):
        layers += [
            ResidualUnit(before, filters, strides),
            AttentionModule(filters, depth),
            ResidualUnit(filters, filters),
        ]
        before = filters
    layers += [normalized(before), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(before, classes))

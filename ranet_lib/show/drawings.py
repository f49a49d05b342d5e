"""Drawings of networks and their parts, made from the layers themselves: they cannot disagree with the code."""

import io

import IPython.display
import keras
import matplotlib.pyplot as plt
from keras import layers
from matplotlib.patches import FancyBboxPatch

from ranet_lib import blocks
from ranet_lib.show.figures import COLOURS, STYLE

#: Fill and edge of a box by what it stands for.
_FILL = {
    "trunk": ("#dcebf7", COLOURS["trunk"]), "mask": ("#f9e3dd", COLOURS["mask"]),
    "plain": ("#f1f1f1", COLOURS["muted"]), "pool": ("#e4ecdf", COLOURS["other"]),
}  # fmt: skip


def draw(layer, path=None):
    """Draw a built `layer` of `blocks` or a network, show the drawing, and return its alt text.

    With a `path` the drawing is also saved there: `.svg`, `.pdf` or `.png`. Raises a ValueError for a layer that is not
    built, or of a kind that has no drawing.

    Example:
        >>> trunk = blocks.TrunkBranch(16, units=2)
        >>> trunk.build((None, 8, 8, 16))
        >>> show.draw(trunk)
        'A trunk branch: 2 residual units of 16 channels in a row.'
    """
    kinds = {blocks.ResidualUnit: _unit, blocks.TrunkBranch: _trunk, blocks.MaskBranch: _encoder_decoder,
             blocks.LocalMaskBranch: _local, blocks.AttentionModule: _module, keras.Model: _network}  # fmt: skip
    drawer = next((kinds[kind] for kind in kinds if isinstance(layer, kind)), None)
    if drawer is None:
        allowed = ", ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"layer must be one of {allowed}; received {type(layer).__name__} {layer!r}")
    if not layer.built:
        raise ValueError(f"{layer.name} is not built yet; call it on an input first")
    with plt.rc_context(STYLE | {"svg.fonttype": "path", "svg.hashsalt": "ranet_lib", "font.size": 9}):
        sheet = _Sheet()
        alt = drawer(sheet, layer)
        figure, picture = sheet.finish(), io.StringIO()
        if path is not None:
            figure.savefig(path, dpi=180, bbox_inches="tight", facecolor="white")
        figure.savefig(picture, format="svg", bbox_inches="tight", facecolor="white", metadata={"Date": None})
        plt.close(figure)
    svg = picture.getvalue()
    data = {"image/svg+xml": svg[svg.index("<svg") :], "text/plain": f"[drawing: {alt}]"}
    IPython.display.display(data, raw=True, metadata={"image/svg+xml": {"alt": alt}})
    return alt


class _Sheet:
    """Boxes and arrows on a sheet that grows with them: x to the right, y downwards, in tenths of an inch."""

    def __init__(self):
        self.figure, self.axes = plt.subplots()
        self.axes.axis("off")
        self.seen = []  # points that the sheet must show

    def box(self, x, y, text, kind="plain", width=14.0, height=3.2, bold=False):
        """A box centred on `(x, y)`. Returns the points in the middle of its top and its bottom edge."""
        fill, edge = _FILL[kind]
        corner, rounded = (x - width / 2, y - height / 2), "round,pad=0,rounding_size=0.8"
        self.axes.add_patch(FancyBboxPatch(corner, width, height, rounded, fc=fill, ec=edge, lw=1.2, zorder=3))
        self.axes.text(x, y, text, ha="center", va="center", zorder=4, fontweight="bold" if bold else None)
        self.seen += [corner, (x + width / 2, y + height / 2)]
        return (x, y - height / 2), (x, y + height / 2)

    def chain(self, start, x, y, steps, gap=1.6, way=1, **style):
        """Boxes `(text, kind)` from `y` on, down or with `way` -1 up, arrows from `start` on; returns its end."""
        for text, kind in steps:
            near, far = self.box(x, y + way * style.get("height", 3.2) / 2, text, kind, **style)[::way]
            self.line(start, near)
            start, y = far, far[1] + way * gap
        return start

    def join(self, x, y, text):
        """A small circle for an addition or a product. Returns the points in the middle of its top and its bottom."""
        self.axes.add_patch(plt.Circle((x, y), 1.5, fc="white", ec="#222222", lw=1.2))
        self.axes.text(x, y, text, ha="center", va="center", fontsize=11)
        self.seen += [(x - 1.5, y - 1.5), (x + 1.5, y + 1.5)]
        return (x, y - 1.5), (x, y + 1.5)

    def note(self, x, y, text, align="left", colour=COLOURS["muted"]):
        self.axes.text(x, y, text, ha=align, va="center", fontsize=8, color=colour)
        length = 0.62 * len(text)
        self.seen.append((x + {"left": length, "right": -length, "center": length / 2}[align], y))

    def frame(self, x, y, width, height, text, kind):
        """A dashed frame with its title, around boxes; `(x, y)` is its upper left corner."""
        colour, rounded = _FILL[kind][1], "round,pad=0,rounding_size=1"
        self.axes.add_patch(FancyBboxPatch((x, y), width, height, rounded, fc="none", ec=colour, lw=1.2, ls="--"))
        self.axes.text(x + 1, y - 1.1, text, ha="left", va="center", color=colour, fontweight="bold")
        self.seen += [(x, y - 2), (x + width, y + height)]

    def line(self, *points, arrow=True, colour="#222222"):
        """A line through points, with an arrowhead at the last."""
        self.seen += points
        xs, ys = zip(*points)
        last = -1 if arrow else None  # the arrow itself draws the last piece
        self.axes.plot(xs[:last], ys[:last], color=colour, lw=1.2, solid_joinstyle="miter")
        if arrow:
            look = {"arrowstyle": "-|>", "color": colour, "lw": 1.2, "shrinkA": 0, "shrinkB": 0}
            self.axes.annotate("", points[-1], points[-2], arrowprops=look)

    def enter(self, layer):
        """What goes into `layer`, above a drawing that starts at y = 0; returns where its arrow starts."""
        self.note(0, -3.2, f"input {_shape(layer.get_build_config()['input_shape'])}", "center")
        return 0, -2.2

    def leave(self, start, length, text=None, colour=COLOURS["muted"]):
        """The arrow out of a drawing, and what comes out."""
        end = (start[0], start[1] + length)
        self.line(start, end)
        if text is not None:
            self.note(end[0], end[1] + 1.0, text, "center", colour)

    def finish(self):
        xs, ys = zip(*self.seen)
        left, right, top, bottom = min(xs) - 1, max(xs) + 1, min(ys) - 1, max(ys) + 1
        self.axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
        self.figure.set_size_inches((right - left) / 10, (bottom - top) / 10)
        self.axes.set_position((0, 0, 1, 1))
        return self.figure


def _some(count, thing):
    return f"{count} {thing}{'s' * (count != 1)}"


def _shape(shape):
    return "x".join(str(size) for size in shape if size is not None)


def _conv(conv):
    size = "x".join(map(str, conv.kernel_size))
    stride = f", stride {conv.strides[0]}" if conv.strides[0] > 1 else ""
    groups = f", {conv.groups} groups" if conv.groups > 1 else ""
    return f"conv {size}, {conv.filters}{stride}{groups}"


def _steps(chain, kind):
    """Batch normalisation and ReLU in one box, each convolution in its own."""
    chain = [layer for layer in chain if not isinstance(layer, layers.ReLU)]
    return [(_conv(layer), kind) if isinstance(layer, layers.Conv2D) else ("BN, ReLU", "plain") for layer in chain]


def _unit(sheet, unit):
    last = sheet.chain(sheet.enter(unit), 0, 0, _steps(unit.residual, "trunk"), width=17)
    output = f"output {_shape(unit.compute_output_shape(unit.get_build_config()['input_shape']))}"
    convolutions = [_conv(layer) for layer in unit.residual if isinstance(layer, layers.Conv2D)]
    words = "batch normalisation, ReLU and convolution three times, " + ", ".join(convolutions)
    if not unit.shortcut:
        sheet.leave(last, 2.4, output)
        return f"A residual unit without shortcut: {words}, and nothing is added. {output.capitalize()}."
    plus_top, plus_bottom = sheet.join(0, last[1] + 3.4, "+")
    sheet.line(last, plus_top)
    text = "" if unit.projection is None else _conv(unit.projection)
    side, turn = 11.0 + 0.36 * len(text) if text else 14.5, plus_top[1] + 1.5
    sheet.line((0, -1.2), (side, -1.2), (side, turn), (1.5, turn), colour=COLOURS["muted"])
    if text:
        sheet.box(side, turn / 2, text, "plain", width=0.72 * len(text) + 2)
    else:
        sheet.note(side + 0.6, turn / 2, "identity")
    sheet.leave(plus_bottom, 2.0, output)
    route = f"the input through a {text}" if text else "the input itself"
    return f"A residual unit: {words}; beside them runs {route}, and both are added. {output.capitalize()}."


def _units(units, kind):
    return [(f"unit, {unit.filters}" + ("" if unit.shortcut else ", no shortcut"), kind) for unit in units]


def _trunk(sheet, branch):
    sheet.leave(sheet.chain(sheet.enter(branch), 0, 0, _units(branch.units, "trunk"), width=17), 2.2)
    return f"A trunk branch: {_some(len(branch.units), 'residual unit')} of {branch.filters} channels in a row."


def _tail(sheet, branch, start):
    """The two convolutions and the activation at the end of a mask branch; returns the last bottom."""
    last = sheet.chain(start, start[0], start[1] + 1.6, _steps(branch.tail, "mask"), width=17)
    activation = [(f"{branch.mask_activation} activation", "mask")]
    return sheet.chain(last, last[0], last[1] + 1.6, activation, width=17, bold=True)


def _local(sheet, branch):
    steps = [(f"unit, {unit.filters}", "mask") for unit in branch.units]
    sheet.leave(_tail(sheet, branch, sheet.chain(sheet.enter(branch), 0, 0, steps, width=17)), 2.2)
    units = f"{_some(len(branch.units), 'residual unit')} at full size, {branch.units[0].inner_filters} channels inside"
    return f"A local mask branch: {units}, then two 1x1 convolutions and the {branch.mask_activation} activation."


def _encoder_decoder(sheet, branch):
    """Down on the left, up on the right, each level one row lower; skip connections run across."""
    row, right = 12.5, 25 if branch.depth > 1 else 22
    last, levels = sheet.enter(branch), []
    pool = (f"max pool {branch.pool_size}x{branch.pool_size}, /2", "pool")
    for level in range(branch.depth):
        steps = [pool, *_units(branch.at(level, branch.down), "mask")]
        last = sheet.chain(last, 0, row * level, steps, width=15)
        sheet.note(-8.3, last[1] - 1.6, _shape(branch.sizes[level + 1]), "right")
        levels.append(last)
    start = (right, last[1] + 4.0)
    sheet.line(last, (0, start[1]), start, arrow=False)
    for level in reversed(range(branch.depth)):
        up = (f"up to {_shape(branch.sizes[level])}, {branch.interpolation}", "pool")
        steps = [*_units(branch.at(level, branch.up), "mask"), up]
        start = sheet.chain(start, right, start[1] - 1.6, steps, way=-1, width=17)
        if level > 0:
            middle, side = start[1] - 3.2, levels[level - 1][1] + 0.6
            above, below = sheet.join(right, middle, "+")
            sheet.line(start, below)
            sheet.line((0, side), (9.2, side), (9.2, middle), (right - 1.5, middle), colour=COLOURS["mask"])
            sheet.box(15.6, middle, *_units([branch.skips[level - 1]], "mask")[0], width=10.5)
            start = above
    tail, turn = right + 22, start[1] - 1.8
    sheet.line(start, (right, turn), (tail, turn), (tail, turn + 2.2), arrow=False)
    sheet.leave(_tail(sheet, branch, (tail, turn + 2.2)), 2.2, "mask", COLOURS["mask"])
    return (
        f"A mask branch: max pooling and residual units {_some(branch.depth, 'time')}, "
        f"{' to '.join(map(_shape, branch.sizes))}; then as often units and {branch.interpolation} up-sampling back, "
        f"with {_some(len(branch.skips), 'skip connection')} between equal sizes; then two 1x1 convolutions and the "
        f"{branch.mask_activation} activation.")  # fmt: skip


def _levels(mask):
    """The steps of an encoder-decoder, a box each."""
    units, sizes = _some(mask.units, "unit"), list(map(_shape, mask.sizes))
    down = [(f"pool, {units}: {size}", "mask") for size in sizes[1:]]
    up = [(f"{units}, up, + skip: {size}", "mask") for size in reversed(sizes[1:-1])]
    return [*down, *up, (f"{units}, up: {sizes[0]}", "mask")]


def _skips(sheet, mask, x, top):
    """Skip connections beside the boxes of `_levels`, whose right edge is at `x`; returns how many there are."""
    heights = [top + 1.6 + 4.8 * step for step in range(2 * mask.depth)]
    for level in range(len(mask.skips)):  # the outermost first
        start, end, side = heights[level], heights[-2 - level], x + 6.0 * (len(mask.skips) - level) - 2.2
        sheet.line((x, start), (side, start), (side, end), (x, end), colour=COLOURS["mask"])
        sheet.box(side, (heights[0] + heights[-2]) / 2, "unit", "mask", width=4.8, height=2.6)
    return len(mask.skips)


def _module(sheet, module):
    left, right, local = -11.5, 11.5, isinstance(module.mask, blocks.LocalMaskBranch)
    last = sheet.chain(sheet.enter(module), 0, 0, _units(module.pre, "plain"), width=17)
    fork, top = last[1] + 2.0, last[1] + 7.5
    sheet.line((left, fork), (right, fork), arrow=False)
    sheet.line(last, (0, fork), arrow=False)
    trunk = sheet.chain((left, fork), left, top, _units(module.trunk.units, "trunk"), width=17)
    looking = _units(module.mask.units, "mask") if local else _levels(module.mask)
    activation = (f"{module.mask.mask_activation} activation", "mask")
    steps = [*looking, ("(BN, ReLU, conv 1x1) twice", "mask"), activation]
    mask = sheet.chain((right, fork), right, top, steps, width=19)
    skips = 0 if local else _skips(sheet, module.mask, right + 9.5, top)
    low = max(trunk[1], mask[1])
    sheet.frame(left - 10, top - 1.5, 20, low - top + 3, "trunk, F", "trunk")
    sheet.frame(right - 10.5, top - 1.5, 21 + 6.2 * skips, low - top + 3, "mask, M", "mask")
    middle = low + 5.0
    _, last = sheet.join(0, middle, "×")
    sheet.line(trunk, (left, middle), (-1.5, middle))
    sheet.line(mask, (right, middle), (1.5, middle))
    factor, rule = "M", "M F, naive attention learning"
    if module.learning == "residual":
        factor, rule = "1 + M", "(1 + M) F, attention residual learning"
    sheet.note(right / 2 + 0.6, middle - 1.2, factor, "center", COLOURS["mask"])
    sheet.note(left / 2 - 0.6, middle - 1.2, "F", "center", COLOURS["trunk"])
    sheet.leave(sheet.chain(last, 0, last[1] + 2.0, _units(module.post, "plain"), width=17), 2.2)
    kind = "a local mask branch" if local else f"an encoder-decoder mask branch with {_some(skips, 'skip connection')}"
    return (
        f"An attention module: {_some(len(module.pre), 'residual unit')}, then a trunk branch of "
        f"{_some(len(module.trunk.units), 'unit')} beside {kind} that ends in the {module.mask.mask_activation} "
        f"activation, joined as {rule}, then {_some(len(module.post), 'unit')}.")  # fmt: skip


def _network(sheet, model):
    sheet.note(0, -3.2, f"input {_shape(model.input_shape)}", "center")
    y, last, said = 0.0, (0, -2.2), []
    for layer in (part for part in model.layers if not isinstance(part, layers.InputLayer)):
        stage, shape = isinstance(layer, keras.Sequential), _shape(layer.output.shape)
        y += 2.6 if stage else 0.0
        steps = [_part(part) for part in (layer.layers if stage else [layer])]
        last = sheet.chain(last, 0, y, steps, gap=1.2, width=24, height=2.9)
        sheet.note(15, (y + last[1]) / 2, shape)
        if stage:
            name = layer.name.replace("_", " ")
            sheet.frame(-14, y - 1.2, 28, last[1] - y + 2.4, name, "plain")
            modules = sum(isinstance(part, blocks.AttentionModule) for part in layer.layers)
            said.append(f"{name} with {_some(modules, 'attention module')} at {shape}")
        y = last[1] + (2.8 if stage else 1.2)
    sheet.leave(last, 2.0)
    if not said:  # a stage alone, or a network without stages
        parts = "; ".join(_part(part)[0].replace("\n", " ") for part in model.layers)
        return f"The layers of {model.name}, from {_shape(model.input_shape)} to {_shape(model.output_shape)}: {parts}."
    return f"The network {model.name}, from images to {model.output_shape[-1]} logits: " + "; ".join(said) + "."


def _part(layer):
    """Text and kind of a box for one layer of a network."""
    match layer:
        case blocks.AttentionModule():
            depth = f", depth {layer.mask_depth}" if layer.mask_branch == "encoder_decoder" else ", local"
            return f"attention module, {layer.filters}{depth}", "mask"
        case blocks.ResidualUnit():
            return _units([layer], "trunk")[0]
        case layers.Conv2D():
            return _conv(layer), "plain"
        case layers.MaxPooling2D():
            return f"max pool {layer.pool_size[0]}x{layer.pool_size[1]}, /2", "pool"
        case layers.Dense():
            return f"dense, {layer.units}", "plain"
    names = {layers.BatchNormalization: "BN", layers.ReLU: "ReLU", layers.Dropout: "dropout",
             layers.GlobalAveragePooling2D: "average over the map"}  # fmt: skip
    return next((text for kind, text in names.items() if isinstance(layer, kind)), layer.name), "plain"

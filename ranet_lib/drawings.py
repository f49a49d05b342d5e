"""Drawings of networks and their parts, made from the layers themselves.

`draw(layer)` draws what it is given: a residual unit with its shortcut, a trunk branch, a mask branch, an attention
module, or a whole network. Whatever the layer has is drawn, and nothing else, so a drawing cannot disagree with the
code. Drawings are vector graphics on an opaque ground.
"""

import io

import keras
import matplotlib.pyplot as plt
from keras import layers
from matplotlib.patches import FancyBboxPatch

from ranet_lib import blocks
from ranet_lib.figures import COLOURS, STYLE, save

#: Fill and edge of a box by what it stands for.
_FILL = {
    "trunk": ("#dcebf7", COLOURS["trunk"]), "mask": ("#f9e3dd", COLOURS["mask"]), "join": ("#ffffff", "#222222"),
    "plain": ("#f1f1f1", COLOURS["muted"]), "pool": ("#e4ecdf", COLOURS["other"]),
}  # fmt: skip


def draw(layer, path=None):
    """Draw a layer or a network, show the drawing, and return its alt text.

    Args:
        layer: a built `ResidualUnit`, `TrunkBranch`, `MaskBranch`, `LocalMaskBranch` or `AttentionModule`, or a
            network from `models.create_model`.
        path: also save the drawing there; `.svg`, `.pdf` or `.png`.

    Returns:
        the alt text, which says in words what the drawing shows.

    Raises:
        ValueError: a layer that is not built, or of another kind.

    Example:
        >>> trunk = blocks.TrunkBranch(16, units=2)
        >>> trunk.build((None, 8, 8, 16))
        >>> drawings.draw(trunk)
        'A trunk branch: 2 residual units of 16 channels in a row.'
    """
    kinds = {
        blocks.ResidualUnit: _unit, blocks.TrunkBranch: _trunk, blocks.MaskBranch: _encoder_decoder,
        blocks.LocalMaskBranch: _local, blocks.AttentionModule: _module, keras.Model: _network,
    }  # fmt: skip
    drawer = next((kinds[kind] for kind in kinds if isinstance(layer, kind)), None)
    if drawer is None:
        allowed = ", ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"layer must be one of {allowed}; received {type(layer).__name__} {layer!r}")
    if not layer.built:
        raise ValueError(f"{layer.name} is not built yet; call it on an input first")
    with plt.rc_context(STYLE | {"svg.fonttype": "path", "svg.hashsalt": "ranet_lib", "font.size": 9}):
        sheet = _Sheet()
        alt = drawer(sheet, layer)
        figure = sheet.finish()
        if path is not None:
            save(figure, path)
        picture = io.StringIO()
        figure.savefig(picture, format="svg", bbox_inches="tight", facecolor="white", metadata={"Date": None})
        plt.close(figure)
    from IPython.display import display

    svg = picture.getvalue()
    display(
        {"image/svg+xml": svg[svg.index("<svg") :], "text/plain": f"[drawing: {alt}]"},
        raw=True,
        metadata={"image/svg+xml": {"alt": alt}},
    )
    return alt


class _Sheet:
    """Boxes and arrows on a sheet that grows with them: x to the right, y downwards, in tenths of an inch."""

    def __init__(self):
        self.figure, self.axes = plt.subplots()
        self.axes.axis("off")
        self.xs, self.ys = [], []

    def _seen(self, *points):
        for x, y in points:
            self.xs.append(x)
            self.ys.append(y)

    def box(self, x, y, text, kind="plain", width=14.0, height=3.2, bold=False):
        """A box centred on `(x, y)`. Returns the points in the middle of its top and its bottom edge."""
        fill, edge = _FILL[kind]
        corner = (x - width / 2, y - height / 2)
        self.axes.add_patch(
            FancyBboxPatch(corner, width, height, boxstyle="round,pad=0,rounding_size=0.8", fc=fill, ec=edge, lw=1.2,
                           zorder=3)  # fmt: skip
        )
        self.axes.text(x, y, text, ha="center", va="center", zorder=4, fontweight="bold" if bold else None)
        self._seen(corner, (x + width / 2, y + height / 2))
        return (x, y - height / 2), (x, y + height / 2)

    def join(self, x, y, text):
        """A small circle for an addition or a product."""
        self.axes.add_patch(plt.Circle((x, y), 1.5, fc="white", ec="#222222", lw=1.2))
        self.axes.text(x, y, text, ha="center", va="center", fontsize=11)
        self._seen((x - 1.5, y - 1.5), (x + 1.5, y + 1.5))
        return (x, y - 1.5), (x, y + 1.5)

    def note(self, x, y, text, align="left", colour=COLOURS["muted"]):
        self.axes.text(x, y, text, ha=align, va="center", fontsize=8, color=colour)
        length = 0.62 * len(text)
        self._seen((x + {"left": length, "right": -length, "center": length / 2}[align], y))

    def frame(self, x, y, width, height, text, kind):
        """A dashed frame with its title, around boxes; `(x, y)` is its upper left corner."""
        self.axes.add_patch(
            FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=1", fc="none", ec=_FILL[kind][1],
                           lw=1.2, ls="--")  # fmt: skip
        )
        self.axes.text(x + 1, y - 1.1, text, ha="left", va="center", color=_FILL[kind][1], fontweight="bold")
        self._seen((x, y - 2), (x + width, y + height))

    def line(self, *points, arrow=True, colour="#222222"):
        """A line through points, with an arrowhead at the last."""
        self._seen(*points)
        xs, ys = zip(*points)
        last = -1 if arrow else None  # the arrow itself draws the last piece
        self.axes.plot(xs[:last], ys[:last], color=colour, lw=1.2, solid_joinstyle="miter")
        if arrow:
            self.axes.annotate("", points[-1], points[-2], arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.2,
                               "shrinkA": 0, "shrinkB": 0})  # fmt: skip

    def chain(self, x, y, steps, gap=1.6, **style):
        """Boxes `(text, kind)` under each other from `y` on, with arrows between; returns first top, last bottom."""
        first = bottom = None
        for text, kind in steps:
            top, low = self.box(x, y + style.get("height", 3.2) / 2, text, kind, **style)
            if bottom is None:
                first = top
            else:
                self.line(bottom, top)
            bottom, y = low, low[1] + gap
        return first, bottom

    def finish(self):
        left, right, top, bottom = min(self.xs) - 1, max(self.xs) + 1, min(self.ys) - 1, max(self.ys) + 1
        self.axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
        self.figure.set_size_inches((right - left) / 10, (bottom - top) / 10)
        self.axes.set_position((0, 0, 1, 1))
        return self.figure


def _some(count, thing):
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _shape(shape):
    return "x".join(str(size) for size in shape if size is not None)


def _input_shape(layer):
    return tuple(layer.get_build_config()["input_shape"])


def _conv(conv):
    size = "x".join(map(str, conv.kernel_size))
    stride = f", stride {conv.strides[0]}" if conv.strides[0] > 1 else ""
    groups = f", {conv.groups} groups" if conv.groups > 1 else ""
    return f"conv {size}, {conv.filters}{stride}{groups}"


def _steps(chain, kind):
    """Batch normalisation and ReLU in one box, each convolution in its own."""
    steps = []
    for layer in chain:
        if isinstance(layer, layers.Conv2D):
            steps.append((_conv(layer), kind))
        elif isinstance(layer, layers.ReLU):
            steps[-1] = ("BN, ReLU", "plain")
        else:
            steps.append(("BN", "plain"))
    return steps


def _unit(sheet, unit):
    shape = _input_shape(unit)
    sheet.note(0, -3.2, f"input {_shape(shape)}", "center")
    fork, below = (0, -2.2), (0, 0)
    first, last = sheet.chain(0, below[1], _steps(unit.residual, "trunk"), width=17)
    sheet.line(fork, first)
    output = _shape(unit.compute_output_shape(shape))
    if not unit.shortcut:
        sheet.line(last, (0, last[1] + 2.4))
        sheet.note(0, last[1] + 3.4, f"output {output}", "center")
        return f"A residual unit without shortcut: {_words(unit)}, and nothing is added. Output {output}."
    plus_top, plus_bottom = sheet.join(0, last[1] + 3.4, "+")
    sheet.line(last, plus_top)
    text = None if unit.projection is None else _conv(unit.projection)
    side, turn = 14.5 if text is None else 11.0 + 0.36 * len(text), plus_top[1] + 1.5
    sheet.line((0, -1.2), (side, -1.2), (side, turn), (1.5, turn), colour=COLOURS["muted"])
    if text is None:
        sheet.note(side + 0.6, turn / 2, "identity")
        route = "the input itself"
    else:
        sheet.box(side, turn / 2, text, "plain", width=0.72 * len(text) + 2)
        route = f"the input through a {text}"
    sheet.line(plus_bottom, (0, plus_bottom[1] + 2.0))
    sheet.note(0, plus_bottom[1] + 3.0, f"output {output}", "center")
    return f"A residual unit: {_words(unit)}; beside them runs {route}, and both are added. Output {output}."


def _words(unit):
    convolutions = [layer for layer in unit.residual if isinstance(layer, layers.Conv2D)]
    return "batch normalisation, ReLU and convolution three times, " + ", ".join(map(_conv, convolutions))


def _unit_text(unit):
    text = f"unit, {unit.filters}"
    return text if unit.shortcut else text + ", no shortcut"


def _trunk(sheet, branch):
    first, last = sheet.chain(0, 0, [(_unit_text(unit), "trunk") for unit in branch.units], width=17)
    sheet.line((0, -2.2), first)
    sheet.note(0, -3.2, f"input {_shape(_input_shape(branch))}", "center")
    sheet.line(last, (0, last[1] + 2.2))
    return f"A trunk branch: {_some(len(branch.units), 'residual unit')} of {branch.filters} channels in a row."


def _tail(sheet, branch, x, start):
    """The two convolutions and the activation at the end of a mask branch; returns the last bottom."""
    first, last = sheet.chain(x, start[1] + 1.6, _steps(branch.tail, "mask"), width=17)
    sheet.line(start, first)
    top, bottom = sheet.box(x, last[1] + 3.2, f"{branch.mask_activation} activation", "mask", width=17, bold=True)
    sheet.line(last, top)
    return bottom


def _local(sheet, branch):
    inner = branch.units[0].inner_filters
    first, last = sheet.chain(0, 0, [(f"unit, {unit.filters}", "mask") for unit in branch.units], width=17)
    sheet.line((0, -2.2), first)
    sheet.note(0, -3.2, f"input {_shape(_input_shape(branch))}", "center")
    bottom = _tail(sheet, branch, 0, last)
    sheet.line(bottom, (0, bottom[1] + 2.2))
    return (
        f"A local mask branch: {_some(len(branch.units), 'residual unit')} at full size, {inner} channels inside, "
        f"then two 1x1 convolutions and the {branch.mask_activation} activation."
    )


def _encoder_decoder(sheet, branch):
    """Down on the left, up on the right, each level one row lower; skip connections run across."""
    row, right = 12.5, 25 if branch.depth > 1 else 22
    sheet.note(0, -3.2, f"input {_shape(_input_shape(branch))}", "center")
    before, levels = (0, -2.2), []
    pool = f"max pool {branch.pool_size}x{branch.pool_size}, /2"
    for level in range(branch.depth):
        steps = [(pool, "pool"), *((_unit_text(unit), "mask") for unit in branch.at(level, branch.down))]
        first, last = sheet.chain(0, row * level, steps, width=15)
        sheet.line(before, first)
        size = _shape(branch.sizes[level + 1])
        sheet.note(-8.3, last[1] - 1.6, size, "right")
        before = last
        levels.append(last)
    deepest = levels[-1][1] + 4.0
    point = (0, deepest)
    sheet.line(levels[-1], point, (right, deepest), arrow=False)
    start = (right, deepest)
    for level in reversed(range(branch.depth)):
        steps = [*((_unit_text(unit), "mask") for unit in branch.at(level, branch.up))]
        steps.append((f"up to {_shape(branch.sizes[level])}, {branch.interpolation}", "pool"))
        y = start[1] - 1.6
        for text, kind in steps:  # upwards
            top, low = sheet.box(right, y - 1.6, text, kind, width=17)
            sheet.line(start, low)
            start, y = top, top[1] - 1.6
        if level > 0:
            middle = start[1] - 3.2
            above, below = sheet.join(right, middle, "+")
            sheet.line(start, below)
            skip = branch.skips[level - 1]
            side = levels[level - 1][1] + 0.6
            sheet.line((0, side), (9.2, side), (9.2, middle), (right - 1.5, middle), colour=COLOURS["mask"])
            sheet.box(15.6, middle, _unit_text(skip), "mask", width=10.5)
            start = above
    tail = right + 22
    turn = start[1] - 1.8
    sheet.line(start, (right, turn), (tail, turn), (tail, turn + 2.2), arrow=False)
    bottom = _tail(sheet, branch, tail, (tail, turn + 2.2))
    sheet.line(bottom, (tail, bottom[1] + 2.2))
    sheet.note(tail, bottom[1] + 3.2, "mask", "center", COLOURS["mask"])
    sizes = [_shape(size) for size in branch.sizes]
    return (
        f"A mask branch: max pooling and residual units {_some(branch.depth, 'time')}, {' to '.join(sizes)}; then as "
        f"often units and {branch.interpolation} up-sampling back, with {_some(len(branch.skips), 'skip connection')} "
        f"between equal sizes; then two 1x1 convolutions and the {branch.mask_activation} activation."
    )


def _mask_steps(mask):
    if isinstance(mask, blocks.LocalMaskBranch):
        return [(_unit_text(unit), "mask") for unit in mask.units]
    units, sizes = _some(mask.units, "unit"), [_shape(size) for size in mask.sizes]
    down = [(f"pool, {units}: {size}", "mask") for size in sizes[1:]]
    up = [(f"{units}, up, + skip: {size}", "mask") for size in reversed(sizes[1:-1])]
    return [*down, *up, (f"{units}, up: {sizes[0]}", "mask")]


def _skips(sheet, mask, x, top):
    """Skip connections beside the boxes of `_mask_steps`, whose right edge is at `x`; returns how many there are."""
    if isinstance(mask, blocks.LocalMaskBranch):
        return 0
    heights = [top + 1.6 + 4.8 * step for step in range(2 * mask.depth)]
    middle = (heights[0] + heights[-2]) / 2
    for level in range(len(mask.skips)):  # the outermost first
        start, end, side = heights[level], heights[-2 - level], x + 6.0 * (len(mask.skips) - level) - 2.2
        sheet.line((x, start), (side, start), (side, end), (x, end), colour=COLOURS["mask"])
        sheet.box(side, middle, "unit", "mask", width=4.8, height=2.6)
    return len(mask.skips)


def _module(sheet, module):
    left, right = -11.5, 11.5
    y = 0.0
    sheet.note(0, y - 3.2, f"input {_shape(_input_shape(module))}", "center")
    last = (0, y - 2.2)
    if module.pre:
        first, bottom = sheet.chain(0, y, [(_unit_text(unit), "plain") for unit in module.pre], width=17)
        sheet.line(last, first)
        last = bottom
    fork = (0, last[1] + 2.0)
    sheet.line(last, fork, arrow=False)
    top = fork[1] + 5.5
    trunk_first, trunk_last = sheet.chain(left, top, [(_unit_text(u), "trunk") for u in module.trunk.units], width=17)
    steps = [*_mask_steps(module.mask), ("(BN, ReLU, conv 1x1) twice", "mask"),
             (f"{module.mask.mask_activation} activation", "mask")]  # fmt: skip
    mask_first, mask_last = sheet.chain(right, top, steps, width=19)
    skips = _skips(sheet, module.mask, right + 9.5, top)
    low = max(trunk_last[1], mask_last[1])
    sheet.frame(left - 10, top - 1.5, 20, low - top + 3, "trunk, F", "trunk")
    sheet.frame(right - 10.5, top - 1.5, 21 + 6.2 * skips, low - top + 3, "mask, M", "mask")
    sheet.line(fork, (left, fork[1]), trunk_first)
    sheet.line(fork, (right, fork[1]), mask_first)
    middle = low + 5.0
    above, below = sheet.join(0, middle, "×")
    sheet.line(trunk_last, (left, middle), (-1.5, middle))
    sheet.line(mask_last, (right, middle), (1.5, middle))
    factor = "1 + M" if module.learning == "residual" else "M"
    sheet.note(right / 2 + 0.6, middle - 1.2, factor, "center", COLOURS["mask"])
    sheet.note(left / 2 - 0.6, middle - 1.2, "F", "center", COLOURS["trunk"])
    last = below
    if module.post:
        steps = [(_unit_text(unit), "plain") for unit in module.post]
        first, bottom = sheet.chain(0, below[1] + 2.0, steps, width=17)
        sheet.line(below, first)
        last = bottom
    sheet.line(last, (0, last[1] + 2.2))
    rules = {"residual": "(1 + M) F, attention residual learning", "naive": "M F, naive attention learning"}
    rule = rules[module.learning]
    kind = "a local mask branch"
    if isinstance(module.mask, blocks.MaskBranch):
        kind = f"an encoder-decoder mask branch with {_some(skips, 'skip connection')}"
    return (
        f"An attention module: {_some(len(module.pre), 'residual unit')}, then a trunk branch of "
        f"{_some(len(module.trunk.units), 'unit')} beside {kind} that ends in the {module.mask.mask_activation} "
        f"activation, joined as {rule}, then {_some(len(module.post), 'unit')}."
    )


def _network(sheet, model):
    y, last, said = 0.0, None, []
    for layer in model.layers:
        shape = _shape(layer.output.shape)
        if isinstance(layer, layers.InputLayer):
            sheet.note(0, -3.2, f"images {shape}", "center")
            last = (0, -2.2)
        elif isinstance(layer, keras.Sequential):
            steps = [_part(part) for part in layer.layers]
            y += 2.6
            first, bottom = sheet.chain(0, y, steps, gap=1.2, width=24, height=2.9)
            sheet.line(last, first)
            sheet.frame(-14, y - 1.2, 28, bottom[1] - y + 2.4, layer.name.replace("_", " "), "plain")
            sheet.note(15, (y + bottom[1]) / 2, shape)
            last, y = bottom, bottom[1] + 2.8
            modules = sum(isinstance(part, blocks.AttentionModule) for part in layer.layers)
            said.append(f"{layer.name.replace('_', ' ')} with {_some(modules, 'attention module')} at {shape}")
        else:
            text, kind = _part(layer)
            top, bottom = sheet.box(0, y + 1.45, text, kind, width=24, height=2.9)
            sheet.line(last, top)
            sheet.note(15, y + 1.45, shape)
            last, y = bottom, bottom[1] + 1.2
    sheet.line(last, (0, last[1] + 2.0))
    return f"The network {model.name}, from images to {model.output_shape[-1]} logits: " + "; ".join(said) + "."


def _part(layer):
    """Text and kind of a box for one layer of a network."""
    if isinstance(layer, blocks.AttentionModule):
        depth = f", depth {layer.mask_depth}" if layer.mask_branch == "encoder_decoder" else ", local"
        return f"attention module, {layer.filters}{depth}", "mask"
    if isinstance(layer, blocks.ResidualUnit):
        return _unit_text(layer), "trunk"
    if isinstance(layer, layers.Conv2D):
        return _conv(layer), "plain"
    if isinstance(layer, layers.MaxPooling2D):
        return f"max pool {layer.pool_size[0]}x{layer.pool_size[1]}, /2", "pool"
    if isinstance(layer, layers.Dense):
        return f"dense, {layer.units}", "plain"
    names = {layers.BatchNormalization: "BN", layers.ReLU: "ReLU", layers.Dropout: "dropout",
             layers.GlobalAveragePooling2D: "average over the map"}  # fmt: skip
    return next((text for kind, text in names.items() if isinstance(layer, kind)), layer.name), "plain"

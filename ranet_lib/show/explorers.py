"""Figures that a reader moves: by widgets where a kernel answers, by the same controls over frames where none does."""

import base64
import functools
import inspect
import io
import itertools
import json
import math
import numbers
from html import escape
from pathlib import Path
from typing import NamedTuple

import IPython.display
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from ranet_lib.show import figures

MOST_FRAMES = 60  # each combination of values becomes a picture in the built page
DPI = 150  # of a frame; a page shows 100 CSS pixels per inch
SCRIPT = Path(__file__).with_name("explore.html")  # what moves the frames of a page


def explore(draw, **controls):
    """Show a figure with one or two controls that change it.

    In a live notebook this is an ipywidgets panel that calls `draw` at each move. Where nobody can move anything (the
    built book, papermill, `nbconvert --execute`), it is HTML with a frame for each combination of values, at most 60.

    `draw` takes the controls by name and returns a figure, of one size for all values, and its alt text. `controls`
    gives each argument its values, at least two: numbers become a slider (`range(9)`), names a list (`["a", "b"]`). It
    starts with the argument's default, or the first. Raises a ValueError that names a control which does not fit, and a
    TypeError where `draw` returns anything else.

    Example:
        >>> def draw(depth=2, mask=0.5):
        ...     figure, axes = plt.subplots()
        ...     axes.bar(range(depth + 1), mask ** np.arange(depth + 1))
        ...     return figure, f"After {depth} masks of {mask} there is {mask ** depth:.2g} left."
        >>> show.explore(draw, depth=range(4), mask=[0.5, 0.9])
    """
    values = {name: _values(name, given) for name, given in controls.items()}
    if len(values) not in (1, 2):
        raise ValueError(f"explore takes one or two controls; received {len(values)} ({', '.join(values) or 'none'})")
    if math.prod(map(len, values.values())) > MOST_FRAMES:
        sizes = " x ".join(f"{len(each)} of {name}" for name, each in values.items())
        raise ValueError(f"the controls may have at most {MOST_FRAMES} combinations; received {sizes}")
    start = {name: _start(draw, name, allowed) for name, allowed in values.items()}
    frame = functools.cache(lambda *at: _frame(draw, dict(zip(values, at))))
    shown = frame(*start.values())
    bundle = _panel(frame, values, start) if _someone_is_there() else _page(frame, values, start)
    # For readers that show neither, such as a PDF, or a saved notebook on a page that runs no script.
    picture = io.BytesIO()
    Image.open(io.BytesIO(shown.data)).convert("RGB").save(picture, "png", optimize=True)
    bundle |= {"image/png": _base64(picture.getvalue()), "text/plain": f"[figure: {shown.alt}]"}
    IPython.display.display(bundle, raw=True, metadata={"image/png": {"alt": shown.alt, "width": shown.size[0]}})


def _someone_is_there():
    """Whether a front end that shows widgets sent the running cell: unlike papermill and its kind, it allows input."""
    request = getattr(IPython.get_ipython(), "parent_header", None) or {}
    return bool(request.get("content", {}).get("allow_stdin"))


def _values(name, given):
    """The values of a control as a list of plain numbers or of names."""
    values = list(given) if np.iterable(given) and not isinstance(given, (str, dict)) else []
    values = [value.item() if isinstance(value, np.generic) else value for value in values]
    names = all(isinstance(value, str) for value in values)
    if not names and not all(isinstance(v, numbers.Real) and not isinstance(v, bool) for v in values):
        raise ValueError(f"control {name} must have numbers or names, and not both; received {given!r}")
    if len(set(map(_text, values))) < max(2, len(values)):
        allowed = "at least two different values (to three digits), such as range(9), np.linspace(0, 1, 11) or names"
        raise ValueError(f"control {name} must have {allowed}; received {given!r}")
    return values


def _start(draw, name, values):
    argument = inspect.signature(draw).parameters.get(name)
    if argument is None or argument.default is argument.empty:
        return values[0]
    if argument.default not in values:
        allowed = ", ".join(map(_text, values))
        raise ValueError(f"control {name} must start at one of its values {allowed}; draw has {argument.default!r}")
    return values[values.index(argument.default)]


def _text(value):
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _base64(data):
    return base64.b64encode(data).decode()


class _Frame(NamedTuple):
    data: bytes  # a WebP of at most 256 colours, half as large as one of all
    alt: str
    size: tuple[int, int]  # in CSS pixels

    def html(self):
        alt, (width, height) = escape(self.alt), self.size
        look = f'width="{width}" height="{height}" style="max-width: 100%; height: auto"'
        picture = f'<img src="data:image/webp;base64,{_base64(self.data)}" alt="{alt}" {look}>'
        return f'{picture}<p aria-live="polite">{alt}</p>'


def _frame(draw, values):
    with plt.rc_context(figures.STYLE):
        match drawn := draw(**values):
            case (Figure() as figure, str(alt)) if alt.strip():
                pass
            case _:
                raise TypeError(f"draw must return a matplotlib figure and its alt text; of {values} it made {drawn!r}")
        # Axes that stand where their figure was told to are left there.
        if figure.get_layout_engine() is None and any(axes.get_subplotspec() for axes in figure.axes):
            figure.set_layout_engine("constrained")  # or labels are cut off: a frame is not cropped to what is drawn
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=DPI, facecolor="white", pil_kwargs={"compress_level": 1})
        plt.close(figure)
    # The way that keeps the worst colour near: the others let small details in strong colours fade.
    few = Image.open(drawn).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    data = io.BytesIO()
    few.convert("RGB").save(data, "webp", lossless=True, quality=75, method=1)
    size = tuple(round(100 * inches) for inches in figure.get_size_inches())
    return _Frame(data.getvalue(), alt.strip(), size)


def _panel(frame, values, start):
    """What a notebook displays as a panel of widgets. Only what ipywidgets 7.7, Colab's, has too."""
    import ipywidgets as widgets
    controls, picture, trouble = [], widgets.HTML(), widgets.Output()
    look = {"style": {"description_width": "initial"}, "layout": {"max_width": "100%"}}
    for name, allowed in values.items():
        kind = widgets.Dropdown if isinstance(allowed[0], str) else widgets.SelectionSlider
        options = [(_text(value), value) for value in allowed]
        controls.append(kind(options=options, value=start[name], description=name.replace("_", " "), **look))
    @trouble.capture(clear_output=True)  # an error in `draw` is seen below the panel
    def move(change=None):
        picture.value = frame(*(control.value for control in controls)).html()
    for control in controls:
        control.observe(move, "value")
    move()
    model = widgets.VBox([*controls, picture, trouble]).model_id
    return {"application/vnd.jupyter.widget-view+json": {"version_major": 2, "version_minor": 0, "model_id": model}}


def _page(frame, values, start):
    """What a notebook displays as controls over frames: HTML that carries all it needs."""
    frames = [frame(*at) for at in itertools.product(*values.values())]
    if len({each.size for each in frames}) > 1:
        raise TypeError(f"draw must return figures of one size; received {sorted({each.size for each in frames})}")
    texts = [list(map(_text, allowed)) for allowed in values.values()]
    held = {"texts": texts, "frames": [[_base64(each.data), each.alt] for each in frames]}
    data = json.dumps(held, separators=(",", ":")).replace("<", "\\u003c")  # or an alt text could end the script
    controls = "".join(_control(name, allowed, allowed.index(start[name])) for name, allowed in values.items())
    # Without its script there is nothing to move, so the controls are hidden until the script has found them.
    shown = f'<div style="display: none">{controls}</div>{frame(*start.values()).html()}'
    script = f'<script type="application/json">{data}</script>{SCRIPT.read_text(encoding="utf-8")}'
    return {"text/html": f'<div class="explore">{shown}{script}</div>'}


def _control(name, values, at):
    label, text = escape(name.replace("_", " ")), escape(_text(values[at]))
    # Firefox would keep its position over a reload; JupyterLab would take its keys for moving between cells.
    said = f'autocomplete="off" data-lm-suppress-shortcuts="true" aria-label="{label}"'
    if isinstance(values[0], str):
        options = (f"<option{' selected' * (i == at)}>{escape(value)}" for i, value in enumerate(values))
        control = f"<select {said}>{''.join(options)}</select>"
    else:
        slider = f'<input type="range" max="{len(values) - 1}" value="{at}" {said} aria-valuetext="{text}">'
        control = f'{slider}<output aria-live="off">{text}</output>'  # silent: the slider says its value itself
    return f"<label><span>{label}</span>{control}</label>"

"""The figures that chapters share. Each draws with matplotlib, shows itself, and returns its alt text.

End a cell's last line with `;` to keep that text out of the page; screen readers find it with the picture.
"""

import base64
import io
import itertools
from html import escape

import IPython.display
import matplotlib.pyplot as plt
import numpy as np

from ranet_lib import checks
from ranet_lib.masks import resize

#: The book's colours, distinguishable in grey and to colour-blind readers, with the same meaning everywhere.
COLOURS = {"trunk": "#1b6ca8", "mask": "#c25039", "other": "#5f7f4f", "muted": "#707070"}
MASK_MAP = "viridis"  #: The book's colour map for masks and single maps.

STYLE = {
    "figure.facecolor": "white", "axes.facecolor": "white", "savefig.facecolor": "white", "legend.handlelength": 3.0,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e6e6e6",
    "axes.axisbelow": True, "legend.frameon": False, "lines.linewidth": 2.0, "image.interpolation": "nearest",
}  # fmt: skip


def figure(drawn, alt, width=None, path=None):
    """Display the matplotlib figure `drawn` once, with its alt text, close it, and return `alt`.

    `alt` says what the figure shows, its finding first; an empty one raises a ValueError. `width` is in CSS pixels on
    the page (None: 100 per inch). With a `path` (`.png`, `.svg`, `.pdf`) the figure is also saved there.
    """
    if not str(alt).strip():
        raise ValueError("alt must say what the figure shows; received an empty text")
    picture = io.BytesIO()
    for target, form in ((picture, "png"), (path, None)):
        if target is not None:
            drawn.savefig(target, format=form, dpi=180, bbox_inches="tight", facecolor="white")
    plt.close(drawn)
    width = round(100 * drawn.get_figwidth()) if width is None else width
    data = {"image/png": base64.b64encode(picture.getvalue()).decode(), "text/plain": f"[figure: {alt}]"}
    IPython.display.display(data, raw=True, metadata={"image/png": {"alt": alt, "width": width}})
    return alt


def say(text):
    """Display `text`, Markdown, as a paragraph of the page: for a sentence whose numbers a cell computes."""
    IPython.display.display({"text/markdown": text, "text/plain": text}, raw=True)


def curves(histories, keys=("error", "validation_error"), ylabel="error (%)", alt=None, path=None):
    """Curves by epoch of one run or several; returns the alt text.

    `histories` is a history of `training.fit` (without an epoch, a ValueError), or a dict from label to history. `keys`
    are the columns, `ylabel` names the vertical axis, `alt` None gives the numbers. With a `path` it is also saved.
    """
    runs, said = {"": histories} if isinstance(histories, list) else histories, []
    checks.whole("the number of epochs", min(map(len, runs.values()), default=0))
    with plt.rc_context(STYLE):
        drawn, axes = plt.subplots(figsize=(6.4, 3.6))
        palette = COLOURS.values() if len(runs) <= len(COLOURS) else plt.cm.viridis(np.linspace(0, 0.9, len(runs)))
        for colour, (label, history) in zip(palette, runs.items()):
            epochs = [row["epoch"] for row in history]
            for style, key in zip(itertools.cycle(("-", "--", ":", "-.")), keys):
                values = [row[key] for row in history]
                name = key.replace("_", " ") if "validation" in key else f"training {key}"
                axes.plot(epochs, values, style, marker="o" if len(epochs) < 12 else None, ms=4, color=colour,
                          label=f"{label}: {name}" if label else name)  # fmt: skip
                said.append(f"{label + ' ' if label else ''}{name} goes from {values[0]:.3g} to {values[-1]:.3g}")
        axes.set(xlabel="epoch", ylabel=ylabel)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.update_datalim([(1, 0)])  # so that the margin at the top is a share of the whole height
        axes.autoscale_view()
        axes.set_ylim(bottom=0)
        axes.legend()
    longest = max(len(history) for history in runs.values())
    return figure(drawn, alt or f"Over {longest} epoch{'s' * (longest > 1)}, {'; '.join(said)}.", path=path)


def image_grid(images, titles=None, columns=8, alt=None):
    """A grid of `images`, `(count, height, width[, 3])` (ValueError: none), `titles`, in `columns`; returns `alt`."""
    count = checks.whole("the number of images", len(images))
    rows, columns = -(-count // columns), min(columns, count)
    with plt.rc_context(STYLE | {"axes.grid": False}):
        drawn, axes = plt.subplots(rows, columns, figsize=(1.05 * columns, 1.25 * rows), squeeze=False)
        for place in axes.flat:
            place.axis("off")
        for index, (place, image) in enumerate(zip(axes.flat, images)):
            place.imshow(image, cmap=None if np.ndim(image) == 3 else MASK_MAP)
            if titles is not None:
                place.set_title(titles[index], fontsize=8, parse_math=False)  # a class may be called $5 to $10
    listed = "" if titles is None else f": {', '.join(map(str, titles))}"
    return figure(drawn, alt or f"{count} images in a grid{listed}.")


def masks_over_images(images, masks, titles=None, scores=None, alt=None, path=None):
    """Each image in a column, and under it the masks of each attention module over a grey copy of it.

    Each mask has its own scale of colours, so one that hardly varies looks as lively as one that reaches from 0 to 1.
    `images` are uint8 `(count, height, width, 3)`, `titles` has one for each. `masks` and `scores` are lists with an
    array per module, `(count, h, w)` and `(count,)`. Returns the alt text, `alt` if given. With a `path` it is saved.
    """
    count, rows = len(images), 1 + len(masks)
    with plt.rc_context(STYLE | dict.fromkeys(("axes.grid", "axes.spines.left", "axes.spines.bottom"), False)):
        drawn, axes = plt.subplots(rows, count, figsize=(1.1 * count, 1.2 * rows), squeeze=False)
        for column, image in enumerate(images):
            axes[0, column].imshow(image)
            if titles is not None:
                axes[0, column].set_title(titles[column], fontsize=8, parse_math=False)
            grey = image.mean(axis=-1)
            for row, module in enumerate(masks, start=1):
                place = axes[row, column]
                place.imshow(grey, cmap="gray", vmin=0, vmax=255)
                place.imshow(resize(module[column : column + 1], grey.shape)[0], cmap=MASK_MAP, alpha=0.65)
                if scores is not None:
                    place.set_xlabel(f"{scores[row - 1][column]:.2f}", fontsize=8)
        plt.setp(axes.flat, xticks=[], yticks=[])
        for row in range(1, rows):
            axes[row, 0].set_ylabel(f"module {row}", fontsize=8)
    listed = "" if titles is None else f" ({', '.join(map(str, titles))})"
    alt = alt or (
        f"{count} images{listed}, and under each the mask of its {len(masks)} attention modules laid over it: "
        "bright where the mask is high, dark where it is low, each from its lowest value to its highest.")  # fmt: skip
    return figure(drawn, alt, path=path)


def table(rows, columns=None, missing="not run yet", caption=None):
    """Show rows of plain values as an HTML table that reads well on a phone.

    `rows` are dicts, `columns` their keys to show (None: those of the first row, else a ValueError). `missing` stands
    for None, `caption` above the table. Floats get as many decimals as their column needs. Returns its text form.

    Example:
        >>> print(show.table([{"network": "attention_56", "error": None}]))
        network | error
        attention_56 | not run yet
    """
    def texts(column):
        values = [float(each) if isinstance(each := row.get(column), float) else each for row in rows]
        exact = [np.format_float_positional(each, trim="0") for each in values if isinstance(each, float)]
        forms = {float: f",.{max((len(each.partition('.')[2]) for each in exact), default=0)}f", int: ","}
        return [missing if each is None else format(each, forms.get(type(each), "")) for each in values]
    def line(kind, texts):
        cells = (f'<{kind} style="text-align:{side}">{escape(each)}</{kind}>' for side, each in zip(sides, texts))
        return f"<tr>{''.join(cells)}</tr>"
    checks.whole("the number of rows without columns given", len(rows), least=int(columns is None))
    columns = list(rows[0] if columns is None else columns)
    told = [texts(column) for column in columns]
    figures = "0123456789 +-.,±[]()n=%"
    sides = ["right" if all(one == missing or not one.strip(figures) for one in each) else "left" for each in told]
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    named = f'role="region" aria-label="{escape(caption or "Table: " + ", ".join(columns))}"'
    html = (  # with the focus, a wide table is scrolled by the arrow keys
        f'<div style="overflow-x:auto" tabindex="0" {named}><table class="table">{title}'
        f"<thead>{line('th', columns)}</thead>"
        f"<tbody>{''.join(line('td', each) for each in zip(*told))}</tbody></table></div>")  # fmt: skip
    plain = "\n".join(" | ".join(row) for row in [columns, *zip(*told)])
    IPython.display.display({"text/html": html, "text/plain": plain}, raw=True)
    return plain

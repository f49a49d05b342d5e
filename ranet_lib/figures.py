"""The figures that chapters share. Each draws with matplotlib, shows itself, and returns its alt text.

A figure is shown as a PNG whose alt text travels with it, so that the built page can hand it to a screen reader; the
background is opaque, so that it reads in the dark. End a cell's last line with `;` to keep the text out of the page.
"""

import base64
import io

import matplotlib.pyplot as plt
import numpy as np

#: The book's colours, distinguishable in grey and to colour-blind readers, with the same meaning everywhere.
COLOURS = {"trunk": "#1b6ca8", "mask": "#c8553d", "other": "#5f7f4f", "muted": "#7a7a7a"}
#: The book's colour map for masks and single maps.
MASK_MAP = "viridis"

STYLE = {
    "figure.facecolor": "white", "axes.facecolor": "white", "savefig.facecolor": "white", "font.size": 10,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e6e6e6",
    "axes.axisbelow": True, "legend.frameon": False, "lines.linewidth": 2.0, "image.interpolation": "nearest",
}  # fmt: skip


def show(figure, alt, width=None):
    """Display a matplotlib figure once, with its alt text, and close it.

    Args:
        figure: a `matplotlib.figure.Figure`.
        alt: what the figure shows, its finding first; not empty.
        width: width on the page in CSS pixels; None takes the figure's own (100 per inch).

    Returns:
        `alt`.

    Raises:
        ValueError: an empty alt text.
    """
    if not str(alt).strip():
        raise ValueError("alt must say what the figure shows; received an empty text")
    from IPython.display import display

    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=180, bbox_inches="tight", facecolor="white")
    plt.close(figure)
    width = round(100 * figure.get_figwidth()) if width is None else width
    display(
        {"image/png": base64.b64encode(picture.getvalue()).decode(), "text/plain": f"[figure: {alt}]"},
        raw=True,
        metadata={"image/png": {"alt": alt, "width": width}},
    )
    return alt


def say(text):
    """Display `text`, Markdown, as a paragraph of the page: for a sentence whose numbers a cell computes."""
    from IPython.display import display

    display({"text/markdown": text, "text/plain": text}, raw=True)


def save(figure, path):
    """Save a `figure` at `path`, in the form of its suffix (`.png`, `.svg`, `.pdf`), on an opaque background."""
    figure.savefig(path, dpi=180, bbox_inches="tight", facecolor="white")


def curves(histories, keys=("error", "validation_error"), ylabel="error (%)", alt=None, path=None):
    """Curves by epoch, one panel a run or several runs in one panel.

    Args:
        histories: a history as `training.fit` returns it, or a dict from label to history.
        keys: which columns to draw; the first solid, the second dashed.
        ylabel: label of the vertical axis.
        alt: alt text; None writes one from the numbers.
        path: also save the figure there.

    Returns:
        the alt text.
    """
    runs = {"": histories} if isinstance(histories, list) else histories
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.4, 3.6))
        few = len(runs) <= len(COLOURS)
        palette = list(COLOURS.values()) if few else plt.cm.viridis(np.linspace(0, 0.9, len(runs)))
        said = []
        for colour, (label, history) in zip(palette, runs.items()):
            epochs = [row["epoch"] for row in history]
            for style, key in zip(("-", "--", ":"), keys):
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
        if path is not None:
            save(figure, path)
    longest = max(len(history) for history in runs.values())
    return show(figure, alt or f"Over {longest} epoch{'s' * (longest > 1)}, " + "; ".join(said) + ".")


def errors(panels, xlabel, path=None):
    """Test errors with bars, beside those printed in the paper, in panels one under the other.

    Args:
        panels: dict from title to a dict from label to a pair of lists: what was run, `(x, error, below, above)` with
            how far the bar reaches on either side, drawn filled on a solid line; and what the paper prints,
            `(x, error)`, drawn hollow on a dotted one. Errors in per cent. At most four labels in a panel.
        xlabel: label of the horizontal axes.
        path: also save the figure there.

    Returns:
        the alt text, which says where each curve starts and ends.
    """
    said = []
    with plt.rc_context(STYLE):
        size = (6.4, 0.4 + 2.8 * len(panels))
        figure, places = plt.subplots(len(panels), figsize=size, squeeze=False, layout="constrained")
        for axes, (title, curves) in zip(places.flat, panels.items()):
            for (label, (run, paper)), colour, marker in zip(curves.items(), COLOURS.values(), "os^D"):
                if run:
                    x, error, below, above = zip(*sorted(run))
                    axes.errorbar(x, error, (below, above), fmt=f"{marker}-", color=colour, capsize=3, label=label)
                if paper:
                    x, error = zip(*sorted(paper))
                    axes.plot(x, error, f"{marker}:", color=colour, mfc="white", lw=1.2, label=f"{label} in the paper")
                for points, kind in ((sorted(run), ""), (sorted(paper), " in the paper")):
                    ends = [f"{point[1]:.2f} % at {point[0]:.3g}" for point in points]
                    if ends:
                        said.append(f"{title}: {label}{kind}, {' to '.join(dict.fromkeys((ends[0], ends[-1])))}")
            axes.set(title=title, xlabel=xlabel, ylabel="test error (%)")
            axes.legend()
        if path is not None:
            save(figure, path)
    return show(figure, f"Test error by {xlabel}. " + "; ".join(said) + ".")


def image_grid(images, titles=None, columns=8, alt=None):
    """A grid of images with a title over each.

    Args:
        images: uint8 or float in [0, 1], `(count, height, width[, 3])`.
        titles: a title for each image; None writes none.
        columns: images side by side.
        alt: alt text; None lists the titles.

    Returns:
        the alt text.
    """
    rows = -(-len(images) // columns)
    columns = min(columns, len(images))
    with plt.rc_context(STYLE | {"axes.grid": False}):
        figure, axes = plt.subplots(rows, columns, figsize=(1.05 * columns, 1.25 * rows), squeeze=False)
        for place in axes.flat:
            place.axis("off")
        for index, (place, image) in enumerate(zip(axes.flat, images)):
            place.imshow(image, cmap=None if np.ndim(image) == 3 else MASK_MAP)
            if titles is not None:
                place.set_title(titles[index], fontsize=8)
    listed = f": {', '.join(map(str, titles))}" if titles is not None else ""
    return show(figure, alt or f"{len(images)} images in a grid{listed}.")


def masks_over_images(images, masks, titles=None, scores=None, alt=None, path=None):
    """Each image in a column, and under it the masks of each attention module over a grey copy of it.

    Each mask has its own scale of colours, from its lowest value to its highest: a mask that hardly varies looks as
    lively as one that reaches from 0 to 1.

    Args:
        images: uint8 `(count, height, width, 3)`.
        masks: list with one array `(count, h, w)` per module, as from `masks.attention_masks`.
        titles: a title for each image.
        scores: list with one array `(count,)` per module, written under the masks.
        alt: alt text; None says what the rows are.
        path: also save the figure there.

    Returns:
        the alt text.
    """
    from ranet_lib.masks import resize

    count, rows = len(images), 1 + len(masks)
    with plt.rc_context(STYLE | {"axes.grid": False}):
        figure, axes = plt.subplots(rows, count, figsize=(1.1 * count, 1.2 * rows), squeeze=False)
        for column in range(count):
            axes[0, column].imshow(images[column])
            if titles is not None:
                axes[0, column].set_title(titles[column], fontsize=8)
            grey = images[column].mean(axis=-1)
            for row, module in enumerate(masks, start=1):
                place = axes[row, column]
                place.imshow(grey, cmap="gray", vmin=0, vmax=255)
                place.imshow(resize(module[column : column + 1], grey.shape)[0], cmap=MASK_MAP, alpha=0.65)
                if scores is not None:
                    place.set_xlabel(f"{scores[row - 1][column]:.2f}", fontsize=8)
        for place in axes.flat:
            place.set(xticks=[], yticks=[])
        for row in range(1, rows):
            axes[row, 0].set_ylabel(f"module {row}", fontsize=8)
        if path is not None:
            save(figure, path)
    return show(
        figure,
        alt or f"{count} images, and under each the mask of its {len(masks)} attention modules laid over it: "
        "bright where the mask is high, dark where it is low, each from its lowest value to its highest.",
    )


def table(rows, columns=None, missing="not run yet", caption=None):
    """Show rows of plain values as an HTML table that reads well on a phone.

    Args:
        rows: list of dicts.
        columns: which keys, in which order; None takes those of the first row.
        missing: what stands for None.
        caption: text above the table.

    Returns:
        its text form.

    Example:
        >>> print(figures.table([{"network": "attention_56", "error": None}]))
        network | error
        attention_56 | not run yet
    """
    from html import escape

    from IPython.display import display

    columns = list(rows[0]) if columns is None else list(columns)

    def text(value):
        return missing if value is None else f"{value:,}" if isinstance(value, int) else str(value)

    numeric = {c for c in columns if all(isinstance(row.get(c), (int, float, type(None))) for row in rows)}
    cells = [[text(row.get(column)) for column in columns] for row in rows]
    sides = ["right" if column in numeric else "left" for column in columns]
    line = "".join
    head = line(f'<th style="text-align:{s}">{escape(c)}</th>' for s, c in zip(sides, columns))
    body = line(
        "<tr>" + line(f'<td style="text-align:{s}">{escape(c)}</td>' for s, c in zip(sides, row)) + "</tr>"
        for row in cells
    )
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    html = (
        # Who has no mouse scrolls a wide table with the arrow keys, once it can have the focus.
        f'<div style="overflow-x:auto" tabindex="0"><table class="table">{title}<thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
    plain = "\n".join(" | ".join(row) for row in [columns, *cells])
    display({"text/html": html, "text/plain": plain}, raw=True)
    return plain

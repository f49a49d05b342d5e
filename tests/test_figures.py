"""The shared figures: each shows one picture that carries its alt text, and returns that text."""

import base64
import io
import re
import struct

import matplotlib.pyplot as plt
import numpy as np
import pytest

from ranet_lib import show


def history(epochs):
    return [{"epoch": i + 1, "error": 80.0 / (i + 1), "validation_error": 84.0 / (i + 1)} for i in range(epochs)]


def images(count=3):
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), "uint8")


DRAW = {
    "curves": lambda path: show.curves(history(4), path=path),
    "curves of two runs": lambda path: show.curves({"a": history(3), "b": history(2)}, path=path),
    "image_grid": lambda path: show.image_grid(images(5), list("abcde"), columns=3),
    "masks_over_images": lambda path: show.masks_over_images(
        images(), [np.random.rand(3, 4, 4), np.random.rand(3, 2, 2)], scores=[[0.1] * 3, [0.2] * 3], path=path
    ),
}


def test_what_stands_over_the_images_is_in_their_alt_text(shown):
    alt = show.masks_over_images(images(), [np.random.rand(3, 4, 4)], ["cat", "dog", "cow"])
    assert alt.startswith("3 images (cat, dog, cow), and under each the mask")


@pytest.mark.parametrize("name", DRAW)
def test_a_figure_is_shown_once_opaque_with_its_alt_text(name, shown, tmp_path):
    before = plt.get_fignums()
    alt = DRAW[name](tmp_path / "figure.png")
    assert len(shown) == 1 and plt.get_fignums() == before
    data, metadata = shown[0]
    assert metadata["image/png"]["alt"] == alt and len(alt) > 20
    for png in [base64.b64decode(data["image/png"])] + [p.read_bytes() for p in tmp_path.iterdir()]:
        width, height = struct.unpack(">II", png[16:24])
        assert png[:4] == b"\x89PNG" and width > 200 and height > 100
        corner = plt.imread(io.BytesIO(png))[0, 0]
        assert tuple(corner) == (1, 1, 1, 1)


def test_the_alt_text_of_curves_states_their_numbers(shown):
    alt = show.curves(history(4))
    assert "Over 4 epochs" in alt
    assert "training error goes from 80 to 20" in alt and "validation error goes from 84 to 21" in alt


def test_a_figure_without_alt_text_is_refused():
    figure = plt.figure()
    with pytest.raises(ValueError, match="alt must say"):
        show.figure(figure, "  ")
    plt.close(figure)


def test_nothing_is_not_shown():
    for empty in (lambda: show.curves([]), lambda: show.curves({}), lambda: show.curves({"diverged": []}),
                  lambda: show.image_grid([]), lambda: show.table([])):  # fmt: skip
        with pytest.raises(ValueError, match="must be a whole number of at least 1; received 0"):
            empty()
    assert show.table([], ["network", "error"]) == "network | error"


def test_a_table_shows_what_has_not_run(shown):
    plain = show.table([{"network": "<a>", "error": 5.5}, {"network": "b", "error": None}], caption="Errors")
    html = shown[0][0]["text/html"]
    assert "&lt;a&gt;" in html and "not run yet" in html and "<caption>Errors</caption>" in html
    assert plain.splitlines() == ["network | error", "<a> | 5.5", "b | not run yet"]
    assert show.table([{"a": True, "b": 1000}]).splitlines()[1] == "True | 1,000"


def test_a_table_puts_numbers_under_each_other(shown):
    """Also where the cell has made text of them: the right side of a column."""
    rows = [{"network": "Attention-56", "images": 45000, "rate": 6268.75, "error": "5.5 ± 0.1", "why": "2 seeds"}]
    plain = show.table([*rows, dict.fromkeys(rows[0], None)])
    html = shown[0][0]["text/html"]
    sides = {name: side for side, name in re.findall('<th style="text-align:(left|right)">(.*?)</th>', html)}
    assert sides == {"network": "left", "images": "right", "rate": "right", "error": "right", "why": "left"}
    assert "45,000 | 6,268.75 | 5.5 ± 0.1" in plain


def test_the_floats_of_a_column_have_equally_many_decimals(shown):
    """Whole numbers stay whole, and nothing is rounded away: neither the finest nor the smallest."""
    rows = [{"a": 0.07, "b": 1, "c": 1e-5}, {"a": np.float64(0.424), "b": 2.5, "c": 3.0}, {"a": None, "b": True}]
    told = show.table([*rows, {"a": float("nan"), "c": -1234.5}], missing="-")
    lines = "a | b | c", "0.070 | 1 | 0.00001", "0.424 | 2.5 | 3.00000", "- | True | -", "nan | - | -1,234.50000"
    assert told.splitlines() == [*lines]

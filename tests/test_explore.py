"""Explorers: frames with controls in a real browser, widgets in a real kernel, and what is refused."""

import base64
import io
import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from jupyter_client.manager import start_new_kernel
from machine import started
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from ranet_lib import show
from ranet_lib.show import explorers

RULES = ["naive </script>", "residual"]


def draw(masks, rule="residual"):
    figure, axes = plt.subplots(figsize=(3, 2))
    axes.bar(RULES, [masks * (rule == each) for each in RULES])
    return figure, f"{masks} & {rule}"


def picture(source):
    """The picture of a data address, or of its bytes."""
    if isinstance(source, bytes):
        return Image.open(io.BytesIO(source)).convert("RGB")
    return Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/webp;base64,")))).convert("RGB")


def test_without_a_kernel_there_is_an_opaque_frame_for_each_combination_of_values(shown):
    open_figures = plt.get_fignums()
    show.explore(draw, masks=range(1, 4), rule=RULES)
    (data, metadata), *more = shown
    assert not more and plt.get_fignums() == open_figures
    held = json.loads(re.search(r'<script type="application/json">(.*?)</script>', data["text/html"]).group(1))
    assert [alt for _, alt in held["frames"]] == [f"{masks} & {rule}" for masks in range(1, 4) for rule in RULES]
    frames = [picture(source) for source, _ in held["frames"]]
    assert {(frame.size, frame.getpixel((0, 0))) for frame in frames} == {((450, 300), (255, 255, 255))}
    assert len({frame.tobytes() for frame in frames}) == len(frames)
    assert len(data["text/html"]) < 50_000
    # It starts with the first value where `draw` has no default, and with the default where it has one.
    default = picture(re.search(r'<img src="([^"]+)"', data["text/html"]).group(1))
    assert default.tobytes() == frames[1].tobytes() == picture(data["image/png"]).tobytes()
    assert metadata == {"image/png": {"alt": "1 & residual", "width": 300}} and "1 & residual" in data["text/plain"]


def test_the_same_figures_give_the_same_bytes(shown):
    for _ in range(2):
        show.explore(draw, masks=np.linspace(0, 1, 3))
    assert shown[0] == shown[1]


def test_a_frame_of_many_colours_is_small_and_near_what_was_drawn():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    figure = plt.figure(figsize=(3, 3), dpi=explorers.DPI, layout="none")
    figure.add_axes((0.1, 0.1, 0.8, 0.8)).imshow(pixels, interpolation="nearest")
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", facecolor="white")
    frame = explorers._frame(lambda: (figure, "Noise."), {})
    difference = np.subtract(Image.open(drawn).convert("RGB"), picture(frame.data), dtype=int)
    assert np.abs(difference).max() < 40 and len(frame.data) < 30_000


WRONG = {
    "none": (draw, {}, ValueError, r"one or two controls; received 0 \(none\)"),
    "three": (draw, dict.fromkeys("abc", [1, 2]), ValueError, r"one or two controls; received 3 \(a, b, c\)"),
    "empty": (draw, {"masks": []}, ValueError, r"control masks must have at least two different values.*received \[\]"),
    "one value": (draw, {"masks": [1]}, ValueError, r"control masks must have at least two .* received \[1\]"),
    "a text": (draw, {"rule": "naive"}, ValueError, "control rule must have at least two .* received 'naive'"),
    "no sequence": (draw, {"masks": 8}, ValueError, "control masks must have at least two .* received 8"),
    "look alike": (draw, {"masks": [1.0, 1.0001]}, ValueError, "control masks must have at least two different"),
    "mixed": (draw, {"masks": [1, "two"]}, ValueError, r"control masks must have numbers or names.*\[1, 'two'\]"),
    "switch": (draw, {"masks": [True, False]}, ValueError, "control masks must have numbers or names"),
    "too many": (draw, {"masks": range(31), "rule": RULES}, ValueError, "at most 60.*31 of masks x 2 of rule"),
    "bad start": (draw, {"masks": [1, 2], "rule": [*"ab"]}, ValueError, "control rule must start.*b.*'residual'"),
    "no figure": (lambda masks: None, {"masks": [1, 2]}, TypeError, r"alt text; of \{'masks': 1\} it made None"),
    "no alt text": (lambda masks: (plt.figure(), " "), {"masks": [1, 2]}, TypeError, "a matplotlib figure and its alt"),
    "sizes": (lambda w: (plt.figure(figsize=(w, 1)), "a"), {"w": [1, 2]}, TypeError, r"one size; .*\(100, 100\), \("),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_explored_is_refused_by_name(name, shown):
    figure, controls, error, message = WRONG[name]
    with pytest.raises(error, match=message):
        show.explore(figure, **controls)
    assert not shown
    plt.close("all")


# --- In a browser, which has no kernel ---------------------------------------------------------------------------


@pytest.fixture
def page(shown, tmp_path):
    """A page with the same explorer twice."""
    show.explore(draw, masks=np.linspace(0, 2, 5), rule=RULES)
    html = shown[0][0]["text/html"]
    path = tmp_path / "page.html"
    path.write_text(f"<!DOCTYPE html><meta charset=utf-8><title>Explorer</title>{html}{html}", encoding="utf-8")
    return path.as_uri()


def state(box):
    """What an explorer shows and says: picture, its alt text, what is announced, and the value of its slider."""
    image, slider = box.find_element(By.TAG_NAME, "img"), box.find_element(By.TAG_NAME, "input")
    live = box.find_element(By.CSS_SELECTOR, '[aria-live="polite"]').text
    value = slider.get_attribute("aria-valuetext")
    assert box.find_element(By.TAG_NAME, "output").text == value and live == image.get_attribute("alt")
    return image.get_attribute("src"), live, value


def test_keys_and_pointer_change_the_picture_and_what_is_said(browser, page):
    browser.get(page)
    box, other = browser.find_elements(By.CLASS_NAME, "explore")
    slider = box.find_element(By.TAG_NAME, "input")
    assert slider.accessible_name == "masks" and slider.aria_role == "slider"
    start = state(box)
    assert start[1:] == ("0.0 & residual", "0")

    slider.send_keys(Keys.ARROW_RIGHT, Keys.ENTER)  # Enter must not send a form
    by_key = state(box)
    assert by_key[1:] == ("0.5 & residual", "0.5") and by_key[0] != start[0]
    slider.send_keys(Keys.END)
    assert state(box)[1:] == ("2.0 & residual", "2")

    ActionChains(browser).move_to_element(slider).click().perform()
    by_pointer = state(box)
    assert by_pointer[1:] == ("1.0 & residual", "1") and by_pointer[0] not in (start[0], by_key[0])

    names = box.find_element(By.TAG_NAME, "select")
    assert [option.text for option in Select(names).options] == RULES
    names.send_keys(Keys.ARROW_UP)
    assert state(box)[1:] == ("1.0 & naive </script>", "1") and state(box)[0] != by_pointer[0]
    assert state(other) == start and browser.current_url == page
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_without_javascript_the_frame_it_starts_with_is_there_and_no_dead_control(browser, page):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(page)
        box = browser.find_elements(By.CLASS_NAME, "explore")[0]
        image = box.find_element(By.TAG_NAME, "img")
        assert (image.is_displayed(), image.get_attribute("alt")) == (True, "0.0 & residual")
        assert int(image.get_property("naturalWidth")) == 450
        assert not box.find_element(By.TAG_NAME, "input").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


# --- In a kernel ----------------------------------------------------------------------------------------------------

CELL = """
import matplotlib.pyplot as plt
from ranet_lib import show

def draw(masks, rule="residual"):
    if masks > 4:
        raise RuntimeError("too deep")
    return plt.figure(figsize=(masks, 1)), f"{masks} & {rule}"

show.explore(draw, masks=[2, 3, 5], rule=["naive", "residual"])
"""


class Kernel:
    """A kernel, and what it sends while it works on one message."""

    def __init__(self):
        self.manager, self.client = started(lambda: start_new_kernel(startup_timeout=600))

    def send(self, kind, content):
        sent = self.client.session.msg(kind, content)
        self.client.shell_channel.send(sent)
        messages = []
        while True:
            message = self.client.get_iopub_msg(timeout=600)
            if message["parent_header"].get("msg_id") != sent["header"]["msg_id"]:
                continue  # an answer to what was asked while the kernel started
            messages.append((message["msg_type"], message["content"]))
            if messages[-1] == ("status", {"execution_state": "idle"}):
                return messages

    def run(self, code, allow_stdin):
        return self.send("execute_request", {"code": code, "silent": False, "allow_stdin": allow_stdin})

    def move(self, widget, **state):
        """Move a control as a front end does; what the kernel sends then."""
        return self.send("comm_msg", {"comm_id": widget, "data": {"method": "update", "state": state}})


@pytest.fixture(scope="module")
def kernel():
    kernel = Kernel()
    yield kernel
    kernel.client.stop_channels()
    kernel.manager.shutdown_kernel(now=True)


def displayed(messages):
    assert not [content for kind, content in messages if kind == "error"]
    [data] = [content["data"] for kind, content in messages if kind == "display_data"]
    return data


def states(messages, name):
    """The values that widgets take in their state `name`."""
    changes = [content["data"].get("state", {}) for kind, content in messages if kind == "comm_msg"]
    return [change[name] for change in changes if name in change]


def test_a_person_gets_widgets_that_draw_when_they_are_moved(kernel):
    messages = kernel.run(CELL, allow_stdin=True)
    data = displayed(messages)
    assert "application/vnd.jupyter.widget-view+json" in data and "text/html" not in data and "image/png" in data
    opened = [content for kind, content in messages if kind == "comm_open"]
    widget = {content["data"]["state"]["_model_name"]: content["comm_id"] for content in opened}
    [moved] = states(kernel.move(widget["SelectionSliderModel"], index=1), "value")
    assert 'alt="3 &amp; residual" width="300"' in moved
    [chosen] = states(kernel.move(widget["DropdownModel"], index=0), "value")
    assert 'alt="3 &amp; naive"' in chosen
    failed = kernel.move(widget["SelectionSliderModel"], index=2)
    assert [content["evalue"] for kind, content in failed if kind == "error"] == ["too deep"]
    assert states(failed, "msg_id"), "the error goes nowhere: no output widget takes it"


def test_a_program_gets_frames_and_no_widget(kernel):
    messages = kernel.run(CELL.replace("[2, 3, 5]", "[2, 3]").replace("(masks, 1)", "(3, 1)"), allow_stdin=False)
    data = displayed(messages)
    assert "text/html" in data and not [name for name in data if "widget" in name]
    assert "comm_open" not in [kind for kind, _ in messages]

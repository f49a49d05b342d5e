"""The page where readers try the network: the answers of the library, and a clear sentence for what is no picture."""

import io
import os
import shutil
import struct
import subprocess

import numpy as np
import pytest
from firefox import Firefox, find_firefox
from opened import RUN_AXE, WIDER_THAN_WINDOW, axe
from PIL import Image
from programs import find_programs
from runs import build_site
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

from ranet_lib import masks, runs

DESK = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
HEAVIEST = 6_000_000  # bytes of all that the page loads when it is asked to

# Logits, and the masks' means over their channels, of prepared images `(count, 32, 32, 3)`.
PREDICT = """((values, count) => {
  const { logits, masks } = network(tf, liveWeights)(tf.tensor(values, [count, 32, 32, 3]));
  return Promise.all([logits.array(), ...masks.map(mask => tf.mean(mask, 3).array())]);
})"""


@pytest.fixture(scope="module")
def whole(site):
    """The site with what the page loads; where npm failed as it was built, it is built once more."""
    runtime = site / "_static" / "live" / "runtime.js"
    if not runtime.exists():
        build_site()
    if not runtime.exists():
        reached = False
        if npm := shutil.which("npm"):
            ping = [npm, "ping", "--fetch-retries=0", "--fetch-timeout=30000"]
            reached = subprocess.run(ping, capture_output=True).returncode == 0
        give_up = pytest.fail if reached or os.environ.get("CI") else pytest.skip
        give_up("the site was built without npm's packages; `make book` says why")
    return site


@pytest.fixture(scope="module")
def page(whole, browser):
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", DESK)
    browser.get((whole / "book" / "try_it.html").as_uri())
    assert not browser.execute_script("return typeof tf !== 'undefined'")  # nothing is loaded before it is asked for
    press(browser, part(browser, "load"))
    WebDriverWait(browser, 600).until(lambda _: "answers" in said(browser) or trouble(browser))
    assert trouble(browser) == ""
    return browser


def part(browser, name):
    return browser.find_element(By.CSS_SELECTOR, f'[data-part="{name}"]')


def said(browser):
    return part(browser, "said").text


def trouble(browser):
    return part(browser, "trouble").text


def press(browser, element):
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
    element.click()


def first_answer(browser):
    return part(browser, "answers").text.split("\n")[0]


def after(browser, act, *words):
    """The first answer once it is another one than before `act`."""
    before = part(browser, "answers").text
    act(*words)
    WebDriverWait(browser, 600).until(lambda _: part(browser, "answers").text != before)
    return first_answer(browser)


def give(browser, path):
    part(browser, "file").send_keys(str(path))


def test_it_weighs_little(site, page):
    files = [*(site / "_static" / "live").iterdir(), site / "book" / "try_it.html"]
    assert sum(file.stat().st_size for file in files) < HEAVIEST


def some_images():
    return np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype("float32")


def assert_as_in_the_library(logits, found):
    """Both compute in float32 from the same weights, in another order of sums."""
    network, images = runs.load_pretrained("attention_56-cifar10"), some_images()
    expected = network.predict_on_batch(images)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-3 * np.abs(expected).max())
    for mask, other in zip(found, masks.attention_masks(network, images), strict=True):
        np.testing.assert_allclose(mask, other, atol=1e-3)


def test_logits_and_masks_are_those_of_the_library(page):
    ask = f"const done = arguments[2]; {PREDICT}(arguments[0], arguments[1]).then(done)"
    logits, *found = page.execute_async_script(ask, some_images().ravel().tolist(), 4)
    assert_as_in_the_library(logits, found)


@pytest.mark.slow
def test_firefox_runs_it_from_a_file_too(whole, tmp_path):
    if not find_firefox():
        find_programs(["firefox-esr"], ["firefox-esr"])
    browser = Firefox(find_firefox(), tmp_path)
    try:
        browser.get((whole / "book" / "try_it.html").as_uri())
        browser.run("""document.querySelector('[data-part="load"]').click()""")
        browser.until("""document.querySelector('[data-part="said"]').textContent.includes("answers")""")
        logits, *found = browser.run(f"{PREDICT}({some_images().ravel().tolist()}, 4)")
        assert_as_in_the_library(logits, found)
        assert [text for level, text in browser.logged if level == "error"] == []
    finally:
        browser.quit()


def test_nothing_bars_a_reader_from_what_is_loaded(page):
    page.execute_script(axe())
    found = page.execute_async_script(RUN_AXE, "dark") + page.execute_async_script(RUN_AXE, "light")
    assert found == []


def test_what_is_loaded_fits_a_small_phone(page):
    small = {"width": 320, "height": 640, "deviceScaleFactor": 2, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", small)
    try:
        assert page.execute_script(WIDER_THAN_WINDOW) == []
        section = "const box = document.getElementById('try-it').parentElement;"
        wide, room = page.execute_script(f"{section} return [box.scrollWidth, box.clientWidth]")
        assert wide <= room
        assert part(page, "size").size["height"] >= 24  # what a finger can hit: WCAG 2.2, target size
    finally:
        page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", DESK)


def test_a_drawing_is_a_picture_too(page, tmp_path):
    (tmp_path / "drawing.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="90"><rect width="40" height="45" fill="red"/></svg>'
    )
    assert after(page, give, page, tmp_path / "drawing.svg") and trouble(page) == ""


def test_every_control_changes_what_is_seen(page):
    own = first_answer(page)
    for module in (1, 2, 3):
        choice = Select(part(page, f"mask-{module}"))
        assert after(page, choice.select_by_value, "zero") != own
        assert after(page, choice.select_by_value, "half")
        assert after(page, choice.select_by_value, "own") == own
    assert after(page, press, page, part(page, "naive")) != own
    assert after(page, press, page, part(page, "naive")) == own
    scale = part(page, "scale-3").text
    part(page, "channel").send_keys("5", Keys.TAB)
    WebDriverWait(page, 600).until(lambda _: part(page, "scale-3").text != scale)
    part(page, "channel").clear()
    part(page, "channel").send_keys(Keys.TAB)
    WebDriverWait(page, 600).until(lambda _: part(page, "scale-3").text == scale)
    press(page, part(page, "keep"))
    assert "are kept" in said(page)
    second = page.find_elements(By.CSS_SELECTOR, "[data-picture]")[1]
    other = after(page, press, page, second)
    assert after(page, Select(part(page, "mask-3")).select_by_value, "other")
    assert after(page, Select(part(page, "mask-3")).select_by_value, "own") == other


def test_the_square_moves_by_keys_and_its_size_by_a_slider(page, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)).save(tmp_path / "wide.png")
    after(page, give, page, tmp_path / "wide.png")
    part(page, "photo").send_keys("")
    assert after(page, part(page, "photo").send_keys, Keys.ARROW_RIGHT)
    assert after(page, part(page, "size").send_keys, Keys.ARROW_LEFT * 20)


def test_the_square_shrinks_about_its_own_centre(page, tmp_path):
    pixels = np.full((64, 96, 3), 255, np.uint8)
    pixels[24:40, 40:56] = 0  # all that a quarter of the square sees, if it stays in the middle
    Image.fromarray(pixels).save(tmp_path / "middle.png")
    Image.new("RGB", (40, 40), "black").save(tmp_path / "black.png")
    after(page, give, page, tmp_path / "black.png")
    black = part(page, "answers").text
    after(page, give, page, tmp_path / "middle.png")
    part(page, "size").send_keys(Keys.ARROW_LEFT * 78)  # to 22%: 14 of 64 pixels
    WebDriverWait(page, 600).until(lambda _: part(page, "answers").text == black)


def portrait(turned):
    """A JPEG that is red above and blue below; `turned` by a quarter in the file, with the tag that says so."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:32, :, 0] = pixels[32:, :, 2] = 255
    image, tags = Image.fromarray(pixels), Image.Exif()
    if turned:
        image, tags[0x0112] = image.transpose(Image.Transpose.ROTATE_90), 6
    file = io.BytesIO()
    image.save(file, "JPEG", quality=100, subsampling=0, exif=tags)
    return file.getvalue()


def test_a_portrait_is_turned_as_its_tag_says(page, tmp_path):
    found = []
    Image.new("RGB", (40, 40), "green").save(tmp_path / "between.png")
    for turned in (False, True):
        path = tmp_path / f"{turned}.jpg"
        path.write_bytes(portrait(turned))
        after(page, give, page, tmp_path / "between.png")
        after(page, give, page, path)
        assert trouble(page) == ""
        found.append(part(page, "answers").text)
    assert found[0] == found[1]


def test_what_is_no_picture_gets_a_sentence_and_the_page_goes_on(page, tmp_path):
    good = io.BytesIO()
    Image.new("RGB", (40, 40), "green").save(good, "PNG")
    bad = {
        "notes.txt": b"no picture",
        "empty.png": b"",
        "cut.png": good.getvalue()[:30],
        "huge.png": good.getvalue().replace(struct.pack(">II", 40, 40), struct.pack(">II", 60_000, 60_000)),
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
        give(page, tmp_path / name)
        WebDriverWait(page, 600).until(lambda _, name=name: name in trouble(page))
        assert "is not a picture that this browser can read" in trouble(page)
    (tmp_path / "good.png").write_bytes(good.getvalue())
    assert after(page, give, page, tmp_path / "good.png") and trouble(page) == ""


def test_a_look_that_fails_says_why_and_the_next_one_clears_it(page):
    page.execute_script("window.kept = tf.softmax; tf.softmax = () => { throw new Error('no memory left'); }")
    naive = part(page, "naive")
    try:
        press(page, naive)
        WebDriverWait(page, 600).until(lambda _: "no memory left" in trouble(page))
        assert said(page) == ""
    finally:
        page.execute_script("tf.softmax = window.kept")
    press(page, naive)
    WebDriverWait(page, 600).until(lambda _: "answers" in said(page))
    assert trouble(page) == ""


def test_large_and_moving_pictures_are_read(page, tmp_path):
    generator = np.random.default_rng(1)
    Image.fromarray(generator.integers(0, 256, (3000, 4000, 3), np.uint8)).save(tmp_path / "large.jpg")
    frames = [Image.fromarray(generator.integers(0, 256, (50, 50, 3), np.uint8)) for _ in range(3)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    for name in ("large.jpg", "moving.gif"):
        assert after(page, give, page, tmp_path / name) and trouble(page) == ""


def test_nothing_was_asked_of_another_host(page):
    addresses = page.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert all(address.startswith(("file:", "data:", "blob:")) for address in addresses)

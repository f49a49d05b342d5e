"""The figures that a reader can move: by key, by pointer, by finger, and where they cannot be moved."""

from pathlib import Path

import pytest
from opened import PHONE_WIDTH, check, check_in, console_errors
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

HEAVIEST_FRAMES = 1_500_000  # bytes of one page


@pytest.fixture
def explorer_pages(pages):
    """The pages whose figures the reader can move."""
    found = [page for page in pages if page.found["explorers"]]
    assert found, "no page has an explorer: these tests would pass whatever the pages show"
    return found


def test_frames_of_explorers_are_small(site, explorer_pages):
    def heavy(page):
        files = [(site / page.name).parent / frames for frames in page.found["explorers"]]
        return [size for size in [sum(file.stat().st_size for file in files)] if size > HEAVIEST_FRAMES]

    check(explorer_pages, heavy)
    asked_for = {Path(frames).name for page in explorer_pages for frames in page.found["explorers"]}
    assert asked_for == {file.name for file in (site / "_static" / "explorers").iterdir()}


def test_frames_come_when_the_reader_comes_near(site, in_browsers, explorer_pages):
    def early_or_never(browser, page):
        browser.get((site / page.name).as_uri())
        for explorer in browser.find_elements(By.CSS_SELECTOR, ".explore"):
            at, height = browser.execute_script(
                "return [arguments[0].getBoundingClientRect().top, window.innerHeight]", explorer
            )
            if at > 2.5 * height and explorer.get_attribute("data-ready") != "later":
                yield "fetched before the reader came near"
        for explorer in browser.find_elements(By.CSS_SELECTOR, ".explore"):
            try:
                bring(browser, explorer)
            except TimeoutException:
                yield "not fetched"

    check_in(in_browsers, explorer_pages, early_or_never)


def bring(browser, element):
    """Scroll to an explorer or its control, and wait until it is ready."""
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
    ready = "return arguments[0].closest('.explore').dataset.ready === ''"
    WebDriverWait(browser, 600).until(lambda browser: browser.execute_script(ready, element))


def place(control):
    """Where a slider or a list stands, and the last place that it has."""
    if control.tag_name == "select":
        return control.get_property("selectedIndex"), len(Select(control).options) - 1
    return int(control.get_attribute("value")), int(control.get_attribute("max"))


def by_key(browser, control):
    at, last = place(control)
    control.send_keys(Keys.HOME if at == last else Keys.ARROW_RIGHT)


def by_pointer(browser, control):
    """Pull a slider to the end that is further away; choose another name from a list."""
    at, last = place(control)
    if control.tag_name == "select":
        return Select(control).select_by_index((at + 1) % (last + 1))
    way = control.size["width"] // 2 * (1 if at <= last / 2 else -1)
    ActionChains(browser).move_to_element(control).click_and_hold().move_by_offset(way, 0).release().perform()


def test_every_control_changes_its_picture_and_says_so(site, in_browsers, explorer_pages):
    def seen(explorer, control):
        image, live = (explorer.find_element(By.CSS_SELECTOR, name) for name in ("img", "[aria-live=polite]"))
        value = control.get_attribute("aria-valuetext") or Select(control).first_selected_option.text
        return image.get_attribute("src"), image.get_attribute("alt"), live.text, value

    def dead_controls(browser, page):
        browser.get((site / page.name).as_uri())
        for explorer in browser.find_elements(By.CLASS_NAME, "explore"):
            for control in explorer.find_elements(By.CSS_SELECTOR, "input, select"):
                bring(browser, control)
                for move in (by_key, by_pointer):
                    before = seen(explorer, control)
                    move(browser, control)
                    after = seen(explorer, control)
                    if any(old == new for old, new in zip(before, after)) or after[1] != after[2]:
                        yield f"{control.accessible_name}, {move.__name__}: {before[1:]}, then {after[1:]}"
        yield from console_errors(browser)

    check_in(in_browsers, explorer_pages, dead_controls)


def test_without_javascript_explorers_show_where_they_start(site, browser, explorer_pages):
    def missing(page):
        browser.get((site / page.name).as_uri())
        for explorer in browser.find_elements(By.CLASS_NAME, "explore"):
            image = explorer.find_element(By.TAG_NAME, "img")
            if not (image.is_displayed() and image.get_attribute("alt") and image.get_property("naturalWidth")):
                yield "no picture"
            if any(control.is_displayed() for control in explorer.find_elements(By.CSS_SELECTOR, "input, select")):
                yield "a control that does nothing"

    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        check(explorer_pages, missing)
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


# --- By keyboard and by touch ---------------------------------------------------------------------------------


def test_controls_go_where_their_frames_do_not_come(explorer, browser):
    """As in a page that was saved alone: the figure stays as it starts, and nothing is there that does not move it."""
    lose = """document.addEventListener("DOMContentLoaded", () => {
      for (const box of document.querySelectorAll("[data-frames]")) box.dataset.frames = "lost.js";
    });"""
    script = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": lose})
    try:
        browser.get(explorer)
        control = browser.find_element(By.CSS_SELECTOR, ".explore input, .explore select")
        picture = browser.find_element(By.CSS_SELECTOR, ".explore img")
        browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", picture)
        WebDriverWait(browser, 600).until(lambda browser: not control.is_displayed())
        assert picture.is_displayed() and picture.get_property("naturalWidth")
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)
        console_errors(browser)  # that the file is lost is no news to the tests that follow


# Runs in the page: how the element with the focus shows it.
FOCUS = """
const element = document.activeElement, look = getComputedStyle(element);
const ring = look.outlineStyle !== "none" && parseFloat(look.outlineWidth) > 0 || look.boxShadow !== "none";
return element === document.body ? null : [ring, element.outerHTML.slice(0, 100)];
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_focus_is_seen(explorer, browser, theme):
    browser.get(explorer)
    browser.execute_script("document.documentElement.dataset.theme = arguments[0]", theme)
    stops = []
    for _ in range(40):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        stops += filter(None, [browser.execute_script(FOCUS)])
    control = browser.find_element(By.CSS_SELECTOR, ".explore input, .explore select")
    browser.execute_script("arguments[0].focus({focusVisible: true})", control)
    stops.append(browser.execute_script(FOCUS))
    assert len({element for _, element in stops}) > 10
    assert [element for ring, element in stops if not ring] == []


def test_a_finger_moves_a_slider(explorer, browser):
    phone = {"width": PHONE_WIDTH, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    try:
        browser.get(explorer)
        slider = browser.find_element(By.CSS_SELECTOR, ".explore input[type=range]")
        bring(browser, slider)
        picture = browser.find_element(By.CSS_SELECTOR, ".explore img").get_attribute("src")
        box = browser.execute_script("return arguments[0].getBoundingClientRect().toJSON()", slider)
        at, last = place(slider)
        end = {"x": box["left"] + (2 if at > last / 2 else box["width"] - 2), "y": box["top"] + box["height"] / 2}
        for kind, points in (("touchStart", [end]), ("touchEnd", [])):
            browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        WebDriverWait(browser, 600).until(lambda _: place(slider)[0] == (0 if at > last / 2 else last))
        assert browser.find_element(By.CSS_SELECTOR, ".explore img").get_attribute("src") != picture
        assert box["height"] >= 24  # what a finger can hit: WCAG 2.2, target size
    finally:
        browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

"""The built site as a reader opens it: from a file, in a real browser, with the network off.

Every page that the build has written is opened once; each test then looks at all of them, and reports by page what
it found. A new page is covered by being there.
"""

import json
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from urllib.parse import unquote, urldefrag, urlsplit
from urllib.request import url2pathname

import nbformat
import pytest
import yaml
from conftest import open_browser
from runs import ROOT
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

sys.path.insert(0, str(ROOT / "book"))
import address  # noqa: E402

PHONE_WIDTH = 360
DESK_WIDTH = 1280
HEAVIEST_FRAMES = 1_500_000  # bytes of one page

# Runs in the page: waits for the formulas and the pictures, then returns what the tests look at.
READ_PAGE = r"""
const done = arguments[arguments.length - 1];
(async () => {
  if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
  const waiting = new Set([...document.images].filter(image => image.loading === "lazy"));
  for (const image of document.images) image.loading = "eager";
  await Promise.all([...document.images].map(image => image.decode().catch(() => {})));
  await new Promise(resolve => setTimeout(resolve, 100));

  const unrendered = /\\\(|\\\[|\\begin\{|\$\$|\$[^\s$][^$\n]*\$/;
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const raw = [];
  while (texts.nextNode()) {
    const text = texts.currentNode;
    if (unrendered.test(text.data) && !text.parentElement.closest("script, style, pre, code, textarea"))
      raw.push(text.data.trim());
  }
  const formulas = [...document.querySelectorAll(".math")];
  done({
    headings: [...document.querySelectorAll(".bd-article :is(h1, h2, h3, h4, h5, h6)")].map(
      heading => Number(heading.tagName[1])),
    pictures: [...document.querySelectorAll(".bd-article img[src*='_images/']")].map(
      image => [image.src, waiting.has(image), image.hasAttribute("width") && image.hasAttribute("height")]),
    icons: [...document.querySelectorAll("i[class*='fa-']")].flatMap(icon => [...icon.classList].filter(
      name => /^fa-(?!solid|regular|brands|lg)/.test(name))),
    images: [...document.images].map(image => (
      {source: image.src.slice(0, 200), alt: image.alt.trim(), loaded: image.complete && image.naturalWidth > 0})),
    formulas: formulas.length,
    failed_formulas: [
      ...raw,
      ...formulas.filter(formula => !formula.querySelector("mjx-container")).map(formula => formula.textContent),
      ...[...document.querySelectorAll("mjx-merror")].map(error => error.textContent),
    ],
    links: [...document.querySelectorAll("a[href]")].map(link => link.href),
    targets: [...document.querySelectorAll("[id], a[name]")].map(target => target.id || target.name),
    solutions: [...document.querySelectorAll(".solution")].map(solution => (
      [solution.textContent.trim().slice(0, 40), solution.classList.contains("toggle-hidden")])),
    explorers: [...document.querySelectorAll(".explore")].map(explorer => explorer.dataset.frames),
  });
})();
"""

# Runs in the page: what is wider than the window, and not in a box that scrolls.
WIDER_THAN_WINDOW = r"""
const width = document.documentElement.clientWidth;
if (document.documentElement.scrollWidth <= width) return [];
const wide = [...document.querySelectorAll(".bd-article *")].filter(element => {
  if (element.getBoundingClientRect().right <= width) return false;
  for (let box = element.parentElement; box; box = box.parentElement)
    if (getComputedStyle(box).overflowX !== "visible" && box.getBoundingClientRect().right <= width) return false;
  return true;
});
return [`scrolls to ${document.documentElement.scrollWidth} px`,
        ...wide.slice(0, 5).map(element => `${element.tagName}.${element.className}`)];
"""


# Lines of code that a reader with the usual window would have to scroll for.
CUT_CODE = r"""
return [...document.querySelectorAll(".cell_input pre")].filter(code => code.scrollWidth > code.clientWidth + 1)
  .map(code => `${code.scrollWidth} of ${code.clientWidth} px: ${code.textContent.slice(0, 80)}`);
"""

AXE = Path(find_spec("axe_playwright_python").origin).with_name("axe.min.js")
# Leaves one of each kind of code token and of formula: axe-core needs most of its time for the thousands of others,
# which have the same colour on the same ground.
ONE_OF_EACH_KIND = r"""
const kinds = new Set();
for (const part of [...document.querySelectorAll(".highlight span, mjx-container")]) {
  const kind = [part.localName, part.className, part.closest(".highlight")?.parentElement.className].join();
  if (kinds.has(kind)) part.replaceWith(...part.localName === "span" ? part.childNodes : []);
  kinds.add(kind);
}
"""

# The rules of axe-core that a reader can break over, in the page as it is set up: theme, width.
RUN_AXE = r"""
const [theme, done] = [arguments[0], arguments[arguments.length - 1]];
document.documentElement.dataset.mode = document.documentElement.dataset.theme = theme;
// The theme fades colours in; what is measured is what stays.
document.getAnimations().forEach(animation => animation.finish());
axe.run(document, {resultTypes: ["violations"], preload: false}).then(({violations}) => done(
  violations.filter(({impact}) => ["serious", "critical"].includes(impact)).map(({id, nodes}) =>
    `${id}, ${theme}: ${nodes.slice(0, 3).map(node => node.target.join(" ") + " " + node.html.slice(0, 80)).join("; ")}`
  )));
"""


@dataclass(frozen=True)
class Page:
    """One page of the site, and what the browser found in it."""

    name: str  # its path in the site
    errors: list  # of the console
    requests: list  # addresses outside this machine
    overflow: list  # what sticks out of a phone's window, and code that is cut off at a desk
    barriers: list  # what axe-core finds serious or critical
    found: dict  # the result of READ_PAGE


def visit(browser, address):
    """Open `address`; return the errors of the console and the requests that left the machine."""
    for log in ["browser", "performance"]:
        browser.get_log(log)  # reading a log empties it
    browser.get(address)
    found = browser.execute_async_script(READ_PAGE)
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [event["params"]["request"] for event in events if event["method"] == "Network.requestWillBeSent"]
    addresses = [urlsplit(request["url"]) for request in requests]
    # Whatever names a host; chrome: is the browser's own first tab.
    outside = [address.geturl() for address in addresses if address.netloc and address.scheme != "chrome"]
    return console_errors(browser), outside, found


def console_errors(browser):
    """The errors that the console has shown since it was last read."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture(scope="module")
def in_browsers(tmp_path_factory):
    """`in_browsers(look, things)` lists `look(browser, thing)` of each: several at a time, a browser for each core."""
    with ExitStack() as stack:
        free = SimpleQueue()
        for _ in range(min(os.cpu_count() or 1, 4)):
            browser = open_browser(tmp_path_factory.mktemp("chromium"))
            stack.callback(browser.quit)
            free.put(browser)

        def in_browsers(look, things):
            def in_a_free_one(thing):
                browser = free.get()
                try:
                    return look(browser, thing)
                finally:
                    free.put(browser)

            with ThreadPoolExecutor(free.qsize()) as pool:
                return list(pool.map(in_a_free_one, things))

        yield in_browsers


@pytest.fixture(scope="module")
def pages(site, in_browsers):
    """Every page of the site, but the redirect at its top."""
    names = {path: path.relative_to(site).as_posix() for path in sorted(site.rglob("*.html"))}
    ours = [path for path, name in names.items() if name != "index.html" and not name.startswith("_static/")]
    axe = AXE.read_text(encoding="utf-8")
    return in_browsers(lambda browser, path: look_at(browser, path.as_uri(), names[path], axe), ours)


def look_at(browser, address, name, axe):
    """The page at `address` on a phone, and what axe-core finds: there, in the dark, and on a desk, in the light."""
    phone = {"width": PHONE_WIDTH, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    errors, outside, found = visit(browser, address)
    overflow = browser.execute_script(WIDER_THAN_WINDOW)
    browser.execute_script(ONE_OF_EACH_KIND)
    browser.execute_script(axe)
    barriers = browser.execute_async_script(RUN_AXE, "dark")
    desk = {"width": DESK_WIDTH, "height": 720, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", desk)
    overflow += browser.execute_script(CUT_CODE)
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    barriers += browser.execute_async_script(RUN_AXE, "light")
    return Page(name, errors, outside, overflow, barriers, found)


def check(pages, wrong):
    """Fail if `wrong(page)` returns anything for a page, with all that it returned."""
    report = [f"{page.name}: {item}" for page in pages for item in wrong(page)]
    assert not report, "\n".join(report)


def check_in(in_browsers, pages, wrong):
    """The same with `wrong(browser, page)`."""
    found = in_browsers(lambda browser, page: (page, list(wrong(browser, page))), pages)
    report = [f"{page.name}: {item}" for page, items in found for item in items]
    assert not report, "\n".join(report)


def chapters():
    """The sources of the pages, in the order of _toc.yml, relative to the project's folder."""
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    names = [contents["root"], *(entry["file"] for part in contents["parts"] for entry in part["chapters"])]
    return [Path(f"{name}.md" if (ROOT / f"{name}.md").exists() else f"{name}.ipynb") for name in names]


def page_name(chapter):
    """The page that `chapter` becomes."""
    return chapter.with_suffix(".html").as_posix()


def prose(chapter):
    """The Markdown of a chapter, without its code."""
    text = (ROOT / chapter).read_text(encoding="utf-8")
    if chapter.suffix == ".ipynb":
        cells = nbformat.reads(text, as_version=4).cells
        text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return re.sub(r"`[^`\n]+`", "", text)


def test_every_chapter_has_a_page(pages):
    assert {page_name(chapter) for chapter in chapters()} <= {page.name for page in pages}


def test_top_page_leads_to_the_book(site, browser):
    browser.get((site / "index.html").as_uri())
    browser.execute_async_script("setTimeout(arguments[0], 500)")
    assert browser.current_url == (site / page_name(chapters()[0])).as_uri()


def test_no_console_errors(pages):
    check(pages, lambda page: page.errors)


def test_no_request_leaves_the_machine(pages):
    check(pages, lambda page: page.requests)


def test_formulas_are_rendered(pages):
    check(pages, lambda page: page.found["failed_formulas"])


def test_formulas_of_the_sources_are_on_the_pages(pages):
    with_formulas = [chapter for chapter in chapters() if re.search(r"\$[^\s$][^$]*\$|\\begin\{", prose(chapter))]
    assert with_formulas, "no chapter has a formula: this test would pass whatever the pages show"
    expected = [page_name(chapter) for chapter in with_formulas]
    check(pages, lambda page: ["no formula"] if page.name in expected and page.found["formulas"] == 0 else [])


def test_images_load_and_say_what_they_show(pages):
    check(pages, lambda page: [image for image in page.found["images"] if not (image["alt"] and image["loaded"])])


def test_links_inside_the_site_lead_somewhere(site, pages):
    targets = {page.name: page.found["targets"] for page in pages}

    def dead_links(page):
        for link in set(page.found["links"]):
            address, fragment = urldefrag(link)
            if urlsplit(address).scheme != "file":
                continue
            path = Path(url2pathname(urlsplit(address).path))
            if not (path.is_relative_to(site) and path.is_file()):
                yield link
            elif fragment and unquote(fragment) not in targets[path.relative_to(site).as_posix()]:
                yield link

    check(pages, dead_links)


def test_pages_fit_a_phone_and_code_fits_a_desk(pages):
    check(pages, lambda page: page.overflow)


def test_nobody_is_shut_out(pages):
    """In the dark on a phone, and in the light on a desk."""
    check(pages, lambda page: page.barriers)


def test_headings_are_in_order(pages):
    ours = {page_name(chapter) for chapter in chapters()}

    def out_of_order(page):
        if page.name not in ours:
            return
        for before, after in zip([0, *page.found["headings"]], page.found["headings"]):
            if after > before + 1:
                yield f"h{after} after h{before}"
        if page.found["headings"].count(1) != 1:
            yield f"{page.found['headings'].count(1)} first headings"

    check(pages, out_of_order)


def test_pictures_below_wait_until_they_are_needed_and_keep_their_place(pages):
    lazy = [image for page in pages for image in page.found["pictures"]]
    assert lazy, "no page has a picture: this test would pass whatever the pages do"
    check(pages, lambda page: [picture for picture in page.found["pictures"] if not all(picture[1:])])


def test_no_page_loads_every_icon_there_is(site, pages):
    assert not list((site / "_static").rglob("fontawesome*.js*"))
    icons = (site / "_static" / "icons.css").read_text(encoding="utf-8")
    check(pages, lambda page: [name for name in page.found["icons"] if f".{name} {{ --icon" not in icons])


def test_solutions_are_folded(pages):
    assert any(page.found["solutions"] for page in pages)
    check(pages, lambda page: [text for text, folded in page.found["solutions"] if not folded])


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
    WebDriverWait(browser, 10).until(lambda browser: browser.execute_script(ready, element))


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


def test_colab_buttons_lead_to_the_repositorys_own_address_or_nowhere(pages):
    """A copy of the project that has no address on GitHub names none."""
    url = address.repository()
    start = url and f"https://colab.research.google.com/github{url.removeprefix('https://github.com')}/blob/colab/"
    buttons = {page_name(path): f"{start}{path.as_posix()}" for path in chapters() if path.suffix == ".ipynb"}

    def missing(page):
        to_colab = {link for link in page.found["links"] if "colab.research" in link}
        return to_colab ^ ({buttons[page.name]} if url and page.name in buttons else set())

    check(pages, missing)


@pytest.mark.parametrize(("words", "found"), [("attention mask", True), ("xylophone", False)])
def test_search(site, browser, words, found):
    errors, outside, _ = visit(browser, f"{(site / 'search.html').as_uri()}?q={words.replace(' ', '+')}")
    browser.execute_async_script("setTimeout(arguments[0], 1000)")
    results = browser.execute_script("return [...document.querySelectorAll('#search-results li a')].map(a => a.href)")
    assert (errors + console_errors(browser), outside) == ([], [])
    assert bool(results) == found
    assert all(result.startswith(site.as_uri()) for result in results)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_theme_follows_the_system(site, browser, scheme):
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get((site / page_name(chapters()[1])).as_uri())
    colour = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    brightness = sum(map(int, re.findall(r"\d+", colour)[:3])) / 3
    assert brightness > 200 if scheme == "light" else brightness < 60


# --- By keyboard, by touch, without motion, on paper ----------------------------------------------------------------

@pytest.fixture(scope="module")
def explorer(site):
    """The address of a page with an explorer."""
    pages = sorted(site.glob("book/*.html"))
    return next(page for page in pages if 'class="explore"' in page.read_text(encoding="utf-8")).as_uri()


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
        WebDriverWait(browser, 10).until(lambda browser: not control.is_displayed())
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
        browser.execute_async_script("setTimeout(arguments[0], 300)")
        assert place(slider)[0] == (0 if at > last / 2 else last)
        assert browser.find_element(By.CSS_SELECTOR, ".explore img").get_attribute("src") != picture
        assert box["height"] >= 24  # what a finger can hit: WCAG 2.2, target size
    finally:
        browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_nothing_glides_for_those_who_ask_for_it(site, browser):
    moving = """
    return [...document.querySelectorAll("*")].filter(element => {
      const look = getComputedStyle(element), seconds = `${look.transitionDuration},${look.animationDuration}`;
      return look.scrollBehavior !== "auto" || seconds.split(",").some(time => parseFloat(time) > 0.001);
    }).map(element => element.outerHTML.slice(0, 80));
    """
    address = (site / page_name(chapters()[1])).as_uri()
    browser.get(address)
    assert browser.execute_script(moving), "nothing ever moves: this test would pass whatever the style sheet says"
    feature = {"name": "prefers-reduced-motion", "value": "reduce"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    try:
        browser.get(address)
        assert browser.execute_script(moving) == []
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


# Runs in the page as it would be printed: what is on paper and should not be, and what is missing.
ON_PAPER = r"""
const seen = element =>
  element.checkVisibility({visibilityProperty: true}) && element.getBoundingClientRect().height > 0;
const clutter = [...document.querySelectorAll(
  ".bd-sidebar, .bd-sidebar-primary, .bd-sidebar-secondary, .bd-header, .bd-header-article, .prev-next-footer, "
  + ".copybtn, .toggle-button, .headerlink, .explore input, .explore select, #pst-back-to-top")].filter(seen);
const folded = [...document.querySelectorAll(".solution > *, .solution > * > p")].filter(part => !seen(part));
const article = document.querySelector(".bd-article").getBoundingClientRect();
const pale = getComputedStyle(document.querySelector(".bd-article p")).color;
return {clutter: clutter.map(element => element.outerHTML.slice(0, 100)),
        folded: folded.map(element => element.outerHTML.slice(0, 100)),
        width: article.width / document.documentElement.clientWidth, pale};
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_printed_page_is_the_page_alone_with_its_solutions(explorer, browser, theme):
    browser.get(explorer)
    browser.execute_script("document.documentElement.dataset.theme = arguments[0]", theme)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        found = browser.execute_script(ON_PAPER)
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert (found["clutter"], found["folded"]) == ([], [])
    assert found["width"] > 0.9
    assert sum(map(int, re.findall(r"\d+", found["pale"])[:3])) < 150

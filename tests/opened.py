"""Every page of the built site, opened once in a real browser with the network off, and what was found in it.

Its fixtures come to the tests through conftest.py.
"""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from urllib.parse import urlsplit

import pytest
from programs import find_programs, start_chromium

OFFLINE = [
    "--disable-component-update",
    "--disable-quic",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # no name has an address: the network is off
]
PHONE_WIDTH = 360
DESK_WIDTH = 1280

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


def axe():
    """The source of axe-core, which finds what shuts readers out."""
    return Path(find_spec("axe_playwright_python").origin).with_name("axe.min.js").read_text(encoding="utf-8")


def open_browser(profile):
    """Such a browser, with the folder that it keeps its files in; the caller ends it with `quit()`."""
    programs = find_programs(["chromium", "chromedriver"], ["chromium", "chromium-driver"])
    return start_chromium(*programs, profile, *OFFLINE, logs=("browser", "performance"))


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A headless Chromium that records its console and every request it makes, and can reach no other host."""
    browser = open_browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.quit()


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


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def pages(site, in_browsers):
    """Every page of the site, but the redirect at its top."""
    names = {path: path.relative_to(site).as_posix() for path in sorted(site.rglob("*.html"))}
    ours = [path for path, name in names.items() if name != "index.html" and not name.startswith("_static/")]
    rules = axe()
    return in_browsers(lambda browser, path: look_at(browser, path.as_uri(), names[path], rules), ours)


def look_at(browser, address, name, rules):
    """The page at `address` on a phone, and what axe-core finds: there, in the dark, and on a desk, in the light."""
    phone = {"width": PHONE_WIDTH, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    errors, outside, found = visit(browser, address)
    overflow = browser.execute_script(WIDER_THAN_WINDOW)
    browser.execute_script(ONE_OF_EACH_KIND)
    browser.execute_script(rules)
    barriers = browser.execute_async_script(RUN_AXE, "dark")
    desk = {"width": DESK_WIDTH, "height": 720, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", desk)
    overflow += browser.execute_script(CUT_CODE)
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    barriers += browser.execute_async_script(RUN_AXE, "light")
    return Page(name, errors, outside, overflow, barriers, found)


@pytest.fixture(scope="session")
def explorer(site):
    """The address of a page with an explorer."""
    pages = sorted(site.glob("book/*.html"))
    return next(page for page in pages if 'class="explore"' in page.read_text(encoding="utf-8")).as_uri()


def check(pages, wrong):
    """Fail if `wrong(page)` returns anything for a page, with all that it returned."""
    report = [f"{page.name}: {item}" for page in pages for item in wrong(page)]
    assert not report, "\n".join(report)


def check_in(in_browsers, pages, wrong):
    """The same with `wrong(browser, page)`."""
    found = in_browsers(lambda browser, page: (page, list(wrong(browser, page))), pages)
    report = [f"{page.name}: {item}" for page, items in found for item in items]
    assert not report, "\n".join(report)

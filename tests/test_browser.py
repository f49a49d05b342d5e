"""The built site as a reader opens it: from a file, in a real browser, with the network off.

Every page that the build has written is opened once; each test then looks at all of them, and reports by page what
it found. A new page is covered by being there. Figures that the reader can move have test_explorers.py.
"""

import re
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit
from urllib.request import url2pathname

import address
import nbformat
import pytest
import yaml
from opened import check, console_errors, visit
from runs import ROOT
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait


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
    first = (site / page_name(chapters()[0])).as_uri()
    WebDriverWait(browser, 600).until(lambda browser: browser.current_url == first)


def test_no_console_errors(pages):
    check(pages, lambda page: page.errors)


def test_a_request_to_another_host_would_be_seen(browser, tmp_path):
    page = tmp_path / "page.html"
    page.write_text('<!DOCTYPE html><title>x</title><img alt="" src="https://example.org/x.png">', encoding="utf-8")
    errors, outside, _ = visit(browser, page.as_uri())
    assert outside == ["https://example.org/x.png"] and errors


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


def test_the_title_of_a_solution_opens_it(site, browser):
    """Wherever it is clicked, as on the link to the exercise that it holds."""
    errors, _, _ = visit(browser, (site / "book" / "03_residual_units.html").as_uri())
    link = browser.find_elements(By.CSS_SELECTOR, ".solution .admonition-title a")[1]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", link)
    ActionChains(browser).move_to_element(link).click().perform()
    shut = "return arguments[0].closest('.solution').classList.contains('toggle-hidden')"
    assert not browser.execute_script(shut, link)
    assert errors + console_errors(browser) == []


def test_pages_say_what_they_are_about_and_the_top_has_a_title(site, pages):
    for chapter in chapters():
        text = (site / page_name(chapter)).read_text(encoding="utf-8")
        assert re.search(r'<meta name="description" content="[^"]{40,180}">', text), chapter
        assert 'data-theme="auto"' not in text  # for which the theme has no colours
    assert "<title>Residual attention, step by step</title>" in (site / "index.html").read_text(encoding="utf-8")


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
    done = "return document.querySelector('#search-results h2')?.textContent === 'Search Results'"
    WebDriverWait(browser, 600).until(lambda browser: browser.execute_script(done))
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


# --- Without motion, on paper ---------------------------------------------------------------------------------


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

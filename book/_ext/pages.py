"""What the pages need to be light and open to everyone: small icons, pictures that wait, names for readers of screens.

The theme draws its dozen icons by Font Awesome whole, a script of 1.5 MB that every page waits for before it shows a
word. Here the icons that the pages use are cut out of it into a style sheet of a few kB, and the script goes.

A picture further down loads when the reader comes near it. Its size is known before, so that nothing jumps.
"""

import re
from html import escape
from pathlib import Path
from urllib.parse import quote, unquote

from docutils import nodes
from PIL import Image

SCRIPT = "_static/scripts/fontawesome.js"
SHEET = "_static/icons.css"
# One entry of Font Awesome's table: bars:[448,512,["navicon"],"f0c9","M0 96C0 ..."]
ENTRY = r'[{,]"?%s"?:\[(?P<width>\d+),(?P<height>\d+),\[[^\]]*\],"[0-9a-f]+","(?P<path>[^"]+)"\]'
BASE = """\
/* The icons are Font Awesome Free's (fontawesome.com), licensed CC BY 4.0. */
:is(.fas, .fa-solid, .fa-regular, .fa-brands)::before {
  content: "";
  display: inline-block;
  width: 1em;
  height: 1em;
  vertical-align: -0.125em;
  background: currentColor;
  -webkit-mask: var(--icon) center / contain no-repeat;
  mask: var(--icon) center / contain no-repeat;
}
.fa-lg { font-size: 1.25em; }
@media (forced-colors: active) {
  :is(.fas, .fa-solid, .fa-regular, .fa-brands)::before { background: ButtonText; }
}
"""


def icon(entry):
    """A style that names the icon's picture."""
    size = f"{entry['width']} {entry['height']}"
    picture = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}"><path d="{entry["path"]}"/></svg>'
    return f'url("data:image/svg+xml,{quote(picture)}")'


def cut_icons(app, exception):
    """Put the icons that the site uses into a style sheet, and take the script that draws all of them away."""
    site = Path(app.outdir)
    script = site / SCRIPT
    if exception or app.builder.name != "html" or not script.exists():  # where no page has changed, Sphinx copies none
        return
    table = script.read_text(encoding="utf-8")
    used = set()
    for path in [*site.rglob("*.html"), *site.glob("_static/scripts/*theme.js"), *site.glob("_static/*.js")]:
        text = path.read_text(encoding="utf-8")
        used.update(re.findall(r"\bfa-([a-z][a-z0-9-]+)", text))
        if path.suffix == ".html" and "fontawesome.js" in text:
            text = re.sub(r'\s*<(?:script|link)[^>]*fontawesome\.js[^>]*>(?:</script>)?', "", text)
            # The theme has colours for light and dark, none for "auto": without a script, and until one has run.
            text = text.replace('data-theme="auto"', 'data-theme="light"', 1)
            dark = 'matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"'
            text = text.replace('getItem("theme") || "auto"', f'getItem("theme") || ({dark})', 1)
            path.write_text(text, encoding="utf-8", newline="\n")
    found = {name: re.search(ENTRY % re.escape(name), table) for name in sorted(used)}
    rules = [f".fa-{name} {{ --icon: {icon(entry)}; }}" for name, entry in found.items() if entry]
    (site / SHEET).write_text(BASE + "\n".join(rules) + "\n", encoding="utf-8", newline="\n")
    for unused in [script, *script.parent.glob("fontawesome*")]:
        unused.unlink(missing_ok=True)


def size(path):
    """Width and height of a picture in pixels."""
    if path.suffix == ".svg":
        text = path.read_text(encoding="utf-8")
        box = re.search(r'viewBox="([^"]+)"', text)[1]
        points = 4 / 3 if re.search(r'<svg [^>]*\bwidth="[\d.]+pt"', text) else 1  # as Matplotlib measures
        return [round(points * float(number)) for number in box.split()[2:]]
    with Image.open(path) as image:
        return image.size


def description(doctree):
    """The first paragraph that stands in no box, cut to what a list of results shows."""
    for paragraph in doctree.findall(nodes.paragraph):
        text = " ".join(paragraph.astext().split())
        if isinstance(paragraph.parent, nodes.section) and len(text) > 40:
            return text if len(text) <= 160 else text[:157].rsplit(" ", 1)[0] + " …"
    return ""


def top_page(app, exception):
    """The page at the top, which leads to the book: with a title, and a link for those whom nothing sends on."""
    if not exception and app.builder.name == "html":
        to, title = f"{app.config.root_doc}.html", escape(app.config.html_title)
        page = f'<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        page += f'<meta http-equiv="refresh" content="0; url={to}"><a href="{to}">{title}</a></html>\n'
        Path(app.outdir, "index.html").write_text(page, encoding="utf-8", newline="\n")


def mend_body(app, page, template, context, doctree):
    """Change what docutils and MyST-NB write in ways that no setting of theirs changes."""
    if "body" not in context or app.builder.name != "html":
        return
    # Where each picture of the page came from, by its name in the site.
    sources = {name: Path(app.srcdir) / source for source, name in app.builder.images.items()}

    def picture(tag):
        source = re.search(r'src="(?:[^"]*/)?_images/([^"]+)"', tag[0])
        text = tag[0] if "loading=" in tag[0] else tag[0].replace("<img ", '<img loading="lazy" ', 1)
        path = sources.get(unquote(source[1])) if source else None
        if path and " width=" not in text:
            width, height = size(path)
            text = text.replace("<img ", f'<img width="{width}" height="{height}" ', 1)
        return text

    body = re.sub(r"<img [^>]*>", picture, context["body"])
    # What folded code is called must be what can be read on it.
    body = body.replace('<summary aria-label="Toggle hidden content">', "<summary>")
    # A bibliography is a list to docutils, but one whose entries have a role that no list may hold.
    body = body.replace('<div role="list" class="citation-list">', '<div class="citation-list">')
    context["body"] = body.replace(' role="doc-biblioentry"', "")
    if doctree is not None and (said := escape(description(doctree))):
        names = ('name="description"', 'property="og:description"')
        context["metatags"] += "".join(f'\n<meta {name} content="{said}">' for name in names)


def setup(app):
    app.add_css_file("icons.css")
    app.connect("html-page-context", mend_body)
    app.connect("build-finished", cut_icons)
    app.connect("build-finished", top_page, priority=900)  # after the table of contents' own
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

"""The book on paper and on a reader: how pages that were made for a screen become a PDF, and how an EPUB.

What moves on a page stands still there. An explorer is the picture it starts with, and the sentence below it; a table,
which is HTML on a page, is a table of LaTeX, in the widest type that fits; a solution is set out, and a drawing stays a
vector graphic. `book/paper.py` calls the builders and the programs they need.
"""

import re
import subprocess
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path
from shutil import copy2

from docutils import nodes
from sphinx import addnodes
from sphinx.builders.epub3 import Epub3Builder
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.transforms.post_transforms.images import ImageConverter
from sphinx_exercise.nodes import is_exercise_node, is_solution_node

import ranet_lib

HERE = Path(__file__).parent
#: Sizes of type for a table, and how many letters of each fit on a line.
TYPE = {"small": 84, "footnotesize": 94, "scriptsize": 106, "tiny": 140}
#: In which of them no line of a table is broken, if all fit so.
UNBROKEN = ("small", "footnotesize")
#: The gap between two columns, in letters; half of it, on each side, in LaTeX's words.
GAP, HALF_GAP = 2.2, r"\setlength{\tabcolsep}{0.55em}"
#: A table with more rows may continue on the next page.
LONG = 18


def latex(text):
    return nodes.raw("", text, format="latex")


# --- What notebooks display ----------------------------------------------------------------------------------------


class ChooseOutput(SphinxPostTransform):
    """Of the forms in which a cell displays one thing, choose the one that needs no browser."""

    default_priority = 3  # MyST-NB chooses at 4
    builders = ("latex", "epub")

    def run(self, **kwargs):
        for bundle in list(self.document.findall(nodes.container)):
            if bundle.get("nb_element") != "mime_bundle":
                continue
            forms = {form["mime_type"]: form.children for form in bundle}
            html = "".join(node.astext() for node in forms.get("text/html", []))
            picture = forms.get("image/svg+xml") or forms.get("image/png")
            for image in [image for node in picture or [] for image in node.findall(nodes.image)]:
                image["align"] = "center"
                if "image/svg+xml" in forms and self.app.builder.name == "latex":
                    image["scale"] = 80  # or the letters of a drawing are larger than those of the text
            if picture and html:
                bundle.replace_self([*picture, self.sentence(picture)])
            elif picture:
                bundle.replace_self(picture)
            elif "<table" in html and self.app.builder.name == "latex":
                bundle.replace_self(read_tables(html))
            elif "<script" in html and "text/plain" in forms:  # it would not run
                bundle.replace_self(forms["text/plain"])

    def sentence(self, picture):
        """The text that stands below the picture of an explorer."""
        said = next(image["alt"] for node in picture for image in node.findall(nodes.image))
        return nodes.paragraph("", "", nodes.emphasis("", said), classes=["explorer"])


class TableReader(HTMLParser):
    """The tables of a piece of HTML: of each the caption, and rows of pairs of a cell's tag and text, heads first."""

    def __init__(self):
        super().__init__()
        self.tables, self.into = [], None

    def handle_starttag(self, tag, attributes):
        if tag == "table":
            self.tables.append({"caption": "", "rows": []})
        elif tag == "tr":
            self.tables[-1]["rows"].append([])
        elif tag in ("th", "td"):
            side = "right" if "right" in (dict(attributes).get("style") or "") else "left"
            self.tables[-1]["rows"][-1].append({"tag": tag, "text": "", "side": side})
            self.into = self.tables[-1]["rows"][-1][-1]
        elif tag == "caption":
            self.into = tag

    def handle_endtag(self, tag):
        if tag in ("th", "td", "caption"):
            self.into = None

    def handle_data(self, data):
        if self.into == "caption":
            self.tables[-1]["caption"] += data
        elif self.into is not None:
            self.into["text"] += data


def read_tables(html):
    """Docutils tables of a piece of HTML."""
    reader = TableReader()
    reader.feed(html)
    return [table for each in reader.tables for table in make_table(**each)]


def make_table(caption, rows):
    if caption:
        yield nodes.paragraph("", "", nodes.strong("", caption), classes=["table-caption"])
    table = nodes.table(sides=[cell["side"] for cell in rows[-1]])
    group = nodes.tgroup(cols=len(rows[0]))
    group += [nodes.colspec(colwidth=1) for _ in rows[0]]
    head, body = nodes.thead(), nodes.tbody()
    for cells in rows:
        row = nodes.row()
        row += [nodes.entry("", nodes.paragraph("", cell["text"])) for cell in cells]
        (head if cells and cells[0]["tag"] == "th" and not len(body) else body).append(row)
    group += [part for part in (head, body) if len(part)]
    table += group
    yield table


# --- LaTeX: tables -------------------------------------------------------------------------------------------------


def fit(table):
    """The LaTeX columns of a table and the size of its type, so that it is no wider than the text.

    Columns are as wide as what is in them where that fits. Otherwise they get room in proportion to what they hold,
    but none less than its longest word.
    """
    columns = list(zip(*([(entry.astext(), bold(row)) for entry in row] for row in table.findall(nodes.row))))
    sides = table.get("sides") or ["left"] * len(columns)
    wish = [max([2] + [len(line) * wide for cell, wide in cells for line in cell.split("\n")]) for cells in columns]
    word = [1 + max([2] + [len(part) * wide for cell, wide in cells for part in split(cell)]) for cells in columns]
    gaps = GAP * len(columns)
    if size := next((size for size in UNBROKEN if sum(wish) + gaps <= TYPE[size]), None):
        return "{" + "".join("r" if side == "right" else "l" for side in sides) + "}", size
    for size, letters in TYPE.items():
        if sum(word) + gaps <= letters and (size != "small" or len(columns) < 6):
            break
    room = max(letters - gaps - sum(word), 0)
    more = [wished - least for wished, least in zip(wish, word)]
    # The wish of a long text is not to be taken at its word: what it needs grows, but a line each is too much.
    more = [min(extra, 90) for extra in more]
    widths = [least + room * extra / max(sum(more), 1) for least, extra in zip(word, more)]
    widths = [width + GAP for width in widths]  # a column is taken to be as wide as it is with its gap
    total = round(sum(widths) * 10)
    ragged = {"left": r"\raggedright", "right": r"\raggedleft"}
    columns = [
        rf">{{{ragged[side]}\arraybackslash}}\X{{{round(width * 10)}}}{{{total}}}" for side, width in zip(sides, widths)
    ]
    return "{" + "".join(columns) + "}", size


def bold(row):
    """How many times as wide as others the letters of a table's row are."""
    return 1.15 if isinstance(row.parent, nodes.thead) else 1


def split(text):
    """What of a cell has to stay on one line: names may be broken behind an underscore, no-break spaces nowhere."""
    return re.findall(r"[^ \n\t]+", text.replace("_", "_ ").replace("/", "/ "))


def set_tables(document):
    for table in list(document.findall(nodes.table)):
        if any(table.findall(nodes.literal_block)):
            continue
        spec, size = fit(table)
        if sum(1 for _ in table.findall(nodes.row)) > LONG and "longtable" not in table["classes"]:
            table["classes"].append("longtable")
        for text in list(table.findall(nodes.Text)):
            if "_" in text and not isinstance(text.parent, (nodes.math, nodes.literal)):
                text.parent.replace(text, nodes.Text(text.replace("_", "_\N{ZERO WIDTH SPACE}")))
        before = [latex(rf"\nopagebreak\begingroup\{size}{HALF_GAP} "), addnodes.tabular_col_spec(spec=spec)]
        table.replace_self([*before, table, latex(r"\par\endgroup ")])


# --- LaTeX: exercises, figures, hidden code ------------------------------------------------------------------------


def set_exercises(document):
    """Exercises and their solutions as environments of `paper.sty`, which may go over a page."""
    for node in list(document.findall(lambda each: is_exercise_node(each) or is_solution_node(each))):
        kind = "bookexercise" if is_exercise_node(node) else "booksolution"
        title, *body = node.children
        # Links of sphinx-exercise lead to the first of these labels, links of Sphinx to the second.
        name = node["label"].rpartition(":")[2]
        labels = "".join(rf"\label{{{of}:{name}}}" for of in ("exercise", node["docname"]))
        heading = nodes.inline("", "", *title.children)
        node.replace_self([
            latex(rf"\begin{{{kind}}}{{\phantomsection{labels}"), heading, latex("}\n"),
            *body, latex(rf"\end{{{kind}}}" + "\n"),
        ])  # fmt: skip


def set_cells(document):
    """What a cell prints looks other than its code, and code that is folded on a page is in smaller type."""
    for cell in document.findall(nodes.container):
        kind = "bookoutput" if cell["classes"][:1] == ["cell_output"] else None
        if "cell_input" in cell["classes"] and "tag_hide-input" in cell.parent["classes"]:
            kind = "bookfolded"
        if kind:
            cell.children = [latex(rf"\begin{{{kind}}}" "\n"), *cell.children, latex(rf"\end{{{kind}}}" "\n")]


# --- LaTeX: a book of the pages ------------------------------------------------------------------------------------


def make_book(app, document, docname):
    """Give the one document that LaTeX gets the order of a book: preface, parts, chapters, references."""
    if app.builder.name != "latex" or document.get("docname") != app.config.root_doc or "docname" not in document:
        return
    set_exercises(document)
    set_cells(document)
    set_tables(document)
    root = document.next_node(nodes.section)
    pages = {page["docname"]: page for page in root.findall(addnodes.start_of_file)}
    own = [child for child in root.children[1:] if not any(True for _ in child.findall(addnodes.start_of_file))]
    preface = nodes.section("", nodes.title("", "Preface"), *own, ids=["preface"], docname=docname)
    root.children = [root.children[0]]
    root += [latex("\\booknumbered{0}\n"), preface]
    bibliography = next((node for node in document.children if node.tagname == "thebibliography"), None)
    if bibliography is not None:
        document.remove(bibliography)
    first = True
    for toctree in app.env.get_doctree(app.config.root_doc).findall(addnodes.toctree):
        numbered = bool(toctree.get("numbered"))
        if numbered or not first:
            root += latex(rf"\bookpart{{{toctree['caption']}}}" "\n")
        root += latex(rf"\booknumbered{{{int(numbered)}}}" "\n")
        for name in toctree["includefiles"]:
            page = pages[name]
            if bibliography is not None and any(page.findall(is_references)):
                page.next_node(nodes.section).append(bibliography)
                bibliography = None
            root += page
        first = False


def is_references(node):
    return isinstance(node, nodes.Element) and "references" in node.get("ids", [])


class SvgToPdf(ImageConverter):
    """Drawings stay drawings: librsvg makes a PDF of an SVG."""

    conversion_rules = [("image/svg+xml", "application/pdf")]

    def is_available(self):
        return True

    def convert(self, source, target):
        draw(source, target)
        return True


# --- EPUB ----------------------------------------------------------------------------------------------------------


class BookEpub(Epub3Builder):
    """Sphinx's builder, with parts and sections in its contents, formulas that it declares, a cover, and no scripts."""

    def get_toc(self):
        """The parts of the book, their chapters with their numbers, and the sections of each."""
        root = self.config.root_doc
        entries = [(1, root, "", self.env.titles[root].astext())]
        for toctree in self.env.get_doctree(root).findall(addnodes.toctree):
            names = toctree["includefiles"]
            entries.append((1, names[0], "", toctree["caption"]))
            for name in names:
                number = ".".join(map(str, self.env.toc_secnumbers.get(name, {}).get("", ())))
                title = f"{number + '. ' if number else ''}{self.env.titles[name].astext()}"
                # A place has one entry: where a part begins, its first chapter begins at the heading.
                heading = self.env.get_doctree(name).next_node(nodes.section)["ids"][0]
                entries.append((2, name, f"#{heading}" if name == names[0] else "", title))
                below = self.env.tocs[name].next_node(nodes.list_item).children[1:]
                sections = [item for each in below for item in each.children if isinstance(item, nodes.list_item)]
                links = [section.next_node(nodes.reference) for section in sections]
                entries += [(3, name, self.fix_fragment("", link["anchorname"]), link.astext()) for link in links]
        self.refnodes = [{"level": level, "refuri": escape(f"{name}.xhtml{anchor}"), "text": escape(text)}
                         for level, name, anchor, text in entries]  # fmt: skip

    def handle_finish(self):
        static = Path(self.outdir) / "_static"
        for path in sorted(static.rglob("*"), reverse=True):
            if path.is_dir():
                if not any(path.iterdir()):
                    path.rmdir()
            elif path.name not in STATIC:
                path.unlink()
        for path in Path(self.outdir, "_images").glob("*.svg"):  # matplotlib's space is a path that goes nowhere
            text = path.read_text(encoding="utf-8")
            path.write_text(re.sub(r'<path (id="\S+") (?=transform=)', r'<path \1 d="M 0 0" ', text), encoding="utf-8")
        copy2(HERE / "paper.css", static)
        draw(HERE / "cover.svg", static / "cover.png", "--width", "1200")
        super().handle_finish()

    def build_content(self):
        super().build_content()
        path = Path(self.outdir) / "content.opf"

        def declared(item):
            page = Path(self.outdir) / unescape(item[1])
            if page.name == "cover.png":
                has = "cover-image"
            elif page.suffix == ".xhtml" and page.exists() and "<math" in page.read_text(encoding="utf-8"):
                has = "mathml"
            else:
                return item[0]
            return item[0].replace("<item ", f'<item properties="{has}" ')

        text = path.read_text(encoding="utf-8")
        text = re.sub(r'<item [^>]*href="([^"]+)"[^>]*>', declared, text)
        said = [f'<meta property="schema:{name}">{one}</meta>\n' for name, words in ACCESS.items() for one in words]
        text = text.replace("</metadata>", f"{''.join(said)}</metadata>", 1)
        path.write_text(text, encoding="utf-8", newline="\n")

    def build_toc(self):
        super().build_toc()
        # For readers of EPUB 2: Sphinx names the book here by another name than in content.opf.
        path = Path(self.outdir) / "toc.ncx"
        text = path.read_text(encoding="utf-8")
        text = text.replace(f'content="{self.config.epub_uid}"', f'content="{self.config.epub_identifier}"')
        path.write_text(text, encoding="utf-8", newline="\n")


#: What an EPUB says of itself to readers who do not see it, in the words of schema.org.
ACCESS = {
    "accessMode": ["textual", "visual"], "accessModeSufficient": ["textual"], "accessibilityHazard": ["none"],
    "accessibilityFeature": ["alternativeText", "MathML", "structuralNavigation", "tableOfContents"],
}  # fmt: skip
#: What of the site's static files an EPUB needs.
STATIC = ["pygments.css", "paper.css", "cover.png"]
#: What stands over folded code on a page; the two have one meaning, and no paragraph may stand there.
SUMMARY = r'<p class="collapsed admonition-title">(.*?)</p>\s*<p class="expanded admonition-title">.*?</p>'


#: A tab of a set of tabs: what chooses it, and its name.
TAB = r'<input [^>]*name="sd-tab-set[^>]*>\s*<label [^>]*class="sd-tab-label"[^>]*>\s*(.*?)</label>'


def strip_page(app, page, template, context, doctree):
    # sphinx-exercise gives the same id to each exercise of a page.
    context["body"] = re.sub(r' id="(?:exercise|solution)-content"', "", context.get("body") or "")
    if app.builder.name == "epub":
        context["script_files"] = []
        context["body"] = re.sub(SUMMARY, r"\1", context["body"])
        context["body"] = re.sub(TAB, r'<p class="admonition-title">\1</p>', context["body"], flags=re.S)
        styles = context.get("css_files", [])
        context["css_files"] = [style for style in styles if Path(str(style.filename)).name in STATIC]


# --- Both ----------------------------------------------------------------------------------------------------------


def draw(source, target, *options):
    """Make a PDF or a PNG of a drawing, by librsvg."""
    kind = Path(target).suffix[1:]
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["rsvg-convert", *options, "--format", kind, "--output", str(target), str(source)], check=True)


def name_book(app, config):
    config.epub_title = config.html_title
    config.epub_cover = ("_static/cover.png", "")  # a pair, which YAML does not have


def begin(app):
    if app.builder.name == "epub":
        app.config.html_math_renderer = "mathml"
        app.config.html_domain_indices = False
        app.config.html_theme_options = {}  # those of the site's theme, which would put buttons on the pages
        app.config.version = app.config.release = ranet_lib.__version__
    elif app.builder.name == "latex":
        draw(Path(app.srcdir) / "book" / "assets" / "logo.svg", Path(app.outdir) / "logo.pdf")
        app.builder.context["release"] = ranet_lib.__version__


def setup(app):
    app.add_builder(BookEpub, override=True)
    app.add_post_transform(ChooseOutput)
    app.add_post_transform(SvgToPdf)
    app.setup_extension("mathml")
    app.connect("config-inited", name_book, priority=100)
    app.connect("builder-inited", begin, priority=100)
    app.connect("doctree-resolved", make_book, priority=900)
    app.connect("html-page-context", strip_page, priority=900)
    return {"version": ranet_lib.__version__, "parallel_read_safe": True, "parallel_write_safe": True}

"""Write the branch that Colab opens: notebooks in plain Markdown, the run records, and the library's wheel.

    python book/colab.py FOLDER --wheel dist/NAME.whl

The notebooks of this folder are written for the book: `{doc}`, `{numref}`, admonitions, exercises. Colab would show all
of that as it stands. Here it becomes Markdown that every notebook shows: links, quotations, headings, and figures with
their captions below. Solutions start folded. Markup that this script does not know stops it.
"""

import argparse
import re
import shutil
import sys
from pathlib import Path

import nbformat
import yaml
from address import BRANCH, ROOT, citation, repository, site, with_setup_cell
from pybtex.database import parse_file

BOOK = ROOT / "book"
FENCE = re.compile(r"(?P<fence>`{3,}|:{3,})(?P<open>\{(?P<name>[\w-]+)\}[ \t]*(?P<title>.*)|(?P<code>\w*))$")
ROLE = re.compile(r"\{(?P<name>[\w:-]+)\}`(?P<text>[^`<]*)(?:<(?P<target>[^`>]*)>)?`")


class UnknownMarkup(Exception):
    """Markup that has no plain form here."""


class Book:
    """What a page may refer to: titles, numbered figures, exercises, publications."""

    def __init__(self, root=ROOT, url=None):
        self.root, self.url = root, url or repository(root)
        if self.url is None:
            raise ValueError(
                "Colab opens notebooks from GitHub, and this repository has no address there: push it, so that its "
                "remote `origin` says where it is, or set repository.url in _config.yml"
            )
        contents = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
        parts = contents["parts"]
        self.pages = [contents["root"], *(page["file"] for part in parts for page in part["chapters"])]
        self.notebooks = {}
        for page in self.pages:
            if (path := root / f"{page}.ipynb").exists():
                self.notebooks[page] = nbformat.read(path, as_version=4)
        self.cited = parse_file(root / "book" / "references.bib").entries
        self.figures, self.exercises = {}, {}
        for page, notebook in self.notebooks.items():
            captions = [figure for cell in notebook.cells if (figure := figure_of(cell))]
            for number, figure in enumerate(captions, 1):
                self.figures[figure["name"]] = page, number
            text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
            for title, label in re.findall(r"\{exercise\} (.*)\n:label: (\S+)", text):
                self.exercises[label] = title

    def title(self, page):
        if page in self.notebooks:
            text = self.notebooks[page].cells[0].source
        else:
            text = (self.root / f"{page}.md").read_text(encoding="utf-8")
        return re.search(r"^# (.*)", text, re.M)[1]

    def link(self, page):
        """A link to a page: to the notebook in Colab, or to the site for what is none."""
        if page in self.notebooks:
            folder = self.url.removeprefix("https://github.com")
            address = f"https://colab.research.google.com/github{folder}/blob/{BRANCH}/{page}.ipynb"
        else:
            address = self.on_site(page)
        return f"[{self.title(page)}]({address})"

    def notebooks_text(self, page):
        return "\n".join(cell["source"] for cell in self.notebooks[page]["cells"])

    def on_site(self, page):
        return f"{site(self.url)}/{page}.html"

    def citation(self, key):
        entry = self.cited[key]
        names = [person.last_names[-1] for person in entry.persons["author"]]
        names = names[0] + " et al." if len(names) > 2 else " and ".join(names)
        return re.sub(r"[{}]", "", names), entry.fields["year"]


def figure_of(cell):
    return cell.metadata.get("mystnb", {}).get("figure")


def plain_notebook(book, page):
    """The notebook of a page, as Colab and any other notebook program show it."""
    notebook = with_setup_cell(nbformat.from_dict(book.notebooks[page]), book.url)
    cells = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cells.extend(markdown_cells(plain(book, page, cell.source), cell.id))
        else:
            cells.append(nbformat.v4.new_code_cell(cell.source, id=cell.id, metadata=shown(cell.metadata)))
            if figure := figure_of(cell):
                number = book.figures[figure["name"]][1]
                caption = f"*Figure {number}. {inline(book, page, figure['caption'])}*"
                cells.append(nbformat.v4.new_markdown_cell(caption, id=f"{cell.id}-caption"))
    solutions = [cell.id for cell in cells if cell.source.startswith("##### Solution")]
    for cell in cells:
        cell.metadata["id"] = cell.id  # by which Colab knows a cell
        if cell.id in solutions:
            cell.metadata["jp-MarkdownHeadingCollapsed"] = True
    about = dict(notebook.metadata) | {"colab": {"collapsed_sections": solutions, "provenance": []}}
    return nbformat.v4.new_notebook(cells=cells, metadata=about)


def shown(metadata):
    """What Colab and papermill use of a code cell's metadata: code that the page folds away is folded there, too."""
    tags = metadata.get("tags", [])
    kept = {"tags": ["parameters"]} if "parameters" in tags else {}
    return kept | ({"cellView": "form"} if "hide-input" in tags else {})


def markdown_cells(text, name):
    """One cell for each part that begins with an exercise, a solution, or what follows one: they fold by cells."""
    parts = [part.strip("\n") for part in re.split(r"^(?=#{4,5} (?:Exercise|Solution)\b)", text, flags=re.M)]
    parts = [part for part in parts if part]
    return [
        nbformat.v4.new_markdown_cell(part, id=name if number == 0 else f"{name}-{number}")
        for number, part in enumerate(parts)
    ]


def plain(book, page, text):
    """MyST Markdown as Markdown."""
    lines, out = text.split("\n"), []
    while lines:
        line = lines.pop(0)
        fence = FENCE.match(line)
        if not fence:
            if not re.fullmatch(r"\([\w-]+\)=", line):  # a section's label
                out.append(line)
            continue
        body = []
        while lines and lines[0].strip() != fence["fence"]:
            body.append(lines.pop(0))
        if not lines:
            raise UnknownMarkup(f"{page}: no end of {line!r}")
        lines.pop(0)
        if fence["name"]:
            out.append(directive(book, page, fence["name"], fence["title"].strip(), body))
        else:
            out.append(keep_code("\n".join([line, *body, fence["fence"]])))
    text = inline(book, page, "\n".join(out))
    if odd := re.search(r"^:{3,}.*|^`{3,}\{.*|\{[\w:-]+\}`.*|^\(\S+\)=$", CODE.sub("", text), re.M):
        raise UnknownMarkup(f"{page}: {odd[0]!r} has no plain form")
    return text.replace(KEPT, "")


# Marks code, so that nothing inside is taken for markup.
KEPT = "\x00"
CODE = re.compile(f"{KEPT}.*?{KEPT}", re.S)


def keep_code(text):
    return f"{KEPT}{text}{KEPT}"


def directive(book, page, name, title, body):
    options = {}
    while body and (option := re.match(r":([\w-]+):\s*(.*)", body[0])):
        options[option[1]] = option[2]
        body.pop(0)
    inner = plain_body(book, page, body)
    match name:
        case "exercise":
            return f"#### Exercise: {title}\n\n{inner}\n"
        case "solution-start":
            return f"##### Solution: {book.exercises[title]}\n"
        case "solution-end":
            return ""
        case "dropdown" | "admonition" if name == "dropdown" or "dropdown" in options.get("class", ""):
            return f"<details>\n<summary>{title}</summary>\n\n{inner}\n\n</details>\n"
        case "admonition":
            return "\n".join(f"> {line}".rstrip() for line in [f"**{title}**", "", *inner.split("\n")]) + "\n"
        case "note" | "tip" | "hint" | "important" | "warning" | "seealso":
            return directive(book, page, "admonition", name.capitalize(), body)
        case "tab-set":
            return inner
        case "tab-item":  # of which Colab shows one under the other
            return f"**{title}**\n\n{inner}\n"
        case "literalinclude":
            included = ((book.root / page).parent / title).read_text(encoding="utf-8").rstrip()
            return keep_code(f"```{options.get('language', '')}\n{included}\n```")
        case "nb-exec-table":
            return f"The table stands [on the book's page]({book.on_site(page)}).\n"
    raise UnknownMarkup(f"{page}: no plain form of {{{name}}}")


def plain_body(book, page, body):
    lines = "\n".join(body).strip("\n")
    return plain(book, page, lines)


def inline(book, page, text):
    """Roles as links and words, outside of code."""

    def role(found):
        name, text, target = found["name"], found["text"].strip(), found["target"]
        match name:
            case "doc":
                where = (Path(page).parent / (target or text)).as_posix()
                link = book.link(where)
                return f"[{text}{link[link.index(']') :]}" if target else link
            case "numref":
                where, number = book.figures[target or text]
                return f"Figure {number}" + ("" if where == page else f" of {book.link(where)}")
            case "cite" | "cite:p":
                cited = "; ".join(", ".join(book.citation(key.strip())) for key in text.split(","))
                return f"([{cited}]({book.on_site('book/references')}))"
            case "cite:t":
                author, year = book.citation(text)
                return f"{author} ([{year}]({book.on_site('book/references')}))"
            case "term":
                return f"[{text}]({book.on_site('book/glossary')})"
            case "ref":
                if target and target not in book.exercises and f"({target})=" in book.notebooks_text(page):
                    return text  # a section further up or down
                if (target or text) not in book.exercises:
                    raise UnknownMarkup(f"{page}: no exercise or section {target or text!r}")
                return f"{text} *{book.exercises[target]}*" if target else f"*{book.exercises[text]}*"
        raise UnknownMarkup(f"{page}: no plain form of {found[0]!r}")

    parts = re.split(f"({KEPT}.*?{KEPT})", text, flags=re.S)
    return "".join(part if part.startswith(KEPT) else ROLE.sub(role, part) for part in parts)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where the branch goes: a new or an empty folder")
    parser.add_argument("--wheel", type=Path, required=True, help="the library's wheel")
    asked = parser.parse_args(arguments)
    if asked.folder.exists() and any(asked.folder.iterdir()):
        parser.error(f"{asked.folder} is not empty")
    try:
        write(asked.folder, asked.wheel)
    except ValueError as error:
        parser.error(str(error))


def write(folder, wheel, root=ROOT, url=None):
    """Write what the branch holds, for the repository at `url`; its own address by default."""
    book = Book(root, url)
    for page in book.notebooks:
        path = folder / f"{page}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        notebook = plain_notebook(book, page)
        nbformat.validate(notebook)
        path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8", newline="\n")
    for name in ("results", "experiments", "one_page", "live"):  # what the notebooks read
        source, not_this = root / "book" / name, shutil.ignore_patterns("*.ipynb", "__pycache__", ".*", "runs")
        shutil.copytree(source, folder / "book" / name, ignore=not_this, dirs_exist_ok=True)
    shutil.copy(wheel, folder)
    said = f"# {book.title('book/index')}\n\nMade from {book.url} for Google Colab. Changes belong there.\n"
    (folder / "README.md").write_text(said, encoding="utf-8")
    (folder / "CITATION.cff").write_text(citation(book.url, root), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())

"""The project's prose, without the code, formulas and markup in it, so that a test can read it as a reader does."""

import ast
import io
import re
import tokenize

import nbformat
from runs import ROOT

FENCE = re.compile(r"[ \t]*(?P<ticks>`{3,}|:{3,}|~{3,}) *(?:\{(?P<name>[\w-]+)\} *(?P<title>.*)|(?P<code>.*))$")
#: Directives whose first line or content is for the reader. Of any other, such as `{eval-rst}`, nothing is.
READABLE = {"admonition", "note", "warning", "tip", "exercise", "exercise-start", "glossary", "dropdown", "figure",
            "solution"}  # fmt: skip
NOT_PROSE = re.compile(
    r"(?P<math>\$\$.+?\$\$|(?<![\\$])\$(?!\$)[^$\n]*(?:\n[^$\n]+)?\$)"
    r"|\{(?P<role>[\w:-]+)\}`(?P<text>[^`<]*)(?:<[^`>]*>)?`"
    r"|(?P<code>``[^`]+``|`[^`]+`)"
    r"|!?\[(?P<label>[^\]]*)\](?:\([^)]*\)|\[[^\]]*\])"
    r"|(?P<address>https?://[^\s)>]+|<[!/a-zA-Z][^>]*>|^\[\w+\]: .*$|^\(\w[\w-]*\)=$|\{(?:#|width|alt)[^}]*\})",
    re.S | re.M,
)


def files(*patterns):
    """The files of the project that match, without what was made in it."""
    folders = [ROOT / folder for folder in ("benchmarks", "book", "ranet_lib", "tests")]
    found = [path for pattern in patterns for path in ROOT.glob(pattern)]
    found += [path for pattern in patterns for folder in folders for path in folder.rglob(pattern)]
    made = ("_build", "runs", ".ipynb_checkpoints", "__pycache__")
    return sorted(path for path in found if not set(made) & set(path.relative_to(ROOT).parts))


def of_markdown(text):
    """Lines of MyST Markdown as a reader sees them. A formula or a piece of code is left as `·`."""
    lines, open_fences = [], []
    for line in text.splitlines():
        fence = FENCE.match(line)
        hidden = any(kind == "hidden" for _, kind in open_fences)
        if fence and not fence["name"] and not (fence["code"] or "").strip() and open_fences:
            ticks = fence["ticks"]
            if ticks[0] == open_fences[-1][0][0] and len(ticks) >= len(open_fences[-1][0]):
                open_fences.pop()
                line = ""
        elif fence and not hidden:
            name = fence["name"]
            open_fences.append((fence["ticks"], "shown" if name in READABLE else "hidden"))
            line = fence["title"] if name in READABLE - {"figure", "solution"} else ""
        elif hidden or (open_fences and re.match(r"[ \t]*:[\w-]+:(?: |$)", line)):
            line = ""
        lines.append(line)
    return NOT_PROSE.sub(_readable, "\n".join(lines))


def _readable(match):
    if match["role"] in ("term", "doc", "ref", "numref") and match["text"]:
        shown = match["text"].strip() if "<" in match[0] or match["role"] == "term" else "·"
    elif match["label"] is not None:
        shown = match["label"]
    else:
        shown = "·"
    return shown + "\n" * (match[0].count("\n") - shown.count("\n"))  # every line keeps its number


def of_python(source, strings=False):
    """What a Python source says to people: its comments, its docstrings, and with `strings` its sentences."""
    source = re.sub(r"^( *)[%!](?:.*\\\n)*.*$", r"\1pass", source, flags=re.M)  # IPython's own
    said = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not re.match(r"#(?:!| fmt:| noqa| type:)", token.string):
            said.append(token.string.lstrip("#: "))
    tree = ast.parse(source)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = [ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, documented)]
    said += [of_markdown(without_examples(text)) for text in docstrings if text]
    if strings:
        places = [node.value for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "loc"]
        constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and node not in places)
        texts = [node.value for node in constants if isinstance(node.value, str) and node.value not in docstrings]
        sentences = [text for text in texts if re.search(r"\w\W* \W*\w", text)]  # two words or more
        said += [of_markdown(text) for text in sentences if not re.search(r'</?\w|\w="', text)]  # HTML is none
    return "\n\n".join(said)


def without_examples(docstring):
    """A docstring without its examples, which are code."""
    kept, in_example = [], False
    for line in docstring.splitlines():
        in_example = bool(line.strip()) and (in_example or line.lstrip().startswith(">>>"))
        kept.append("" if in_example else line)
    return "\n".join(kept)


def cells(path):
    return nbformat.read(path, as_version=4).cells


def captions(cell):
    """Caption and alt text of a code cell's figure, as its metadata has them."""
    figure = cell.metadata.get("mystnb", {}).get("figure", {})
    image = cell.metadata.get("mystnb", {}).get("image", {})
    return [str(part[key]) for part, key in ((figure, "caption"), (image, "alt")) if key in part]


def of_notebook(path):
    """Cell by cell: Markdown, captions, and what the code says in comments, titles and alt texts."""
    parts = []
    for cell in cells(path):
        if cell.cell_type == "markdown":
            parts.append(of_markdown(cell.source))
        else:
            parts += [of_markdown(caption) for caption in captions(cell)]
            parts.append(of_python(cell.source, strings=True))
    return "\n\n".join(parts)


def of_file(path):
    """The prose of any file of the project."""
    if path.suffix == ".ipynb":
        return of_notebook(path)
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return of_python(text, strings=ROOT / "ranet_lib" in path.parents)
    if path.suffix == ".md":
        return of_markdown(text)
    return "\n".join(re.findall(r"(?:^|\s)#+ (.*)", text))  # the comments of YAML, TOML, Make and the shell


# --- The glossary -------------------------------------------------------------------------------------------------

#: Terms that are everyday words as well: they are linked where they are meant, and a test cannot tell.
EVERYDAY = {
    "checkpoint", "contrast", "explorer", "gate", "head", "lead", "leakage", "power", "profile", "projection", "spread",
    "stage", "standard error",
}  # fmt: skip
LINK = re.compile(r"\{term\}`(?P<text>[^`<]*)(?:<(?P<target>[^>]*)>)?`")
NOT_PLAIN = re.compile(
    r"^(?P<ticks>`{3,}|~{3,})(?!\{)[^\n]*\n.*?^(?P=ticks)[ \t]*$"  # a block of code
    r"|^#[^\n]*$|^[ \t]*(?:`{3,}|:{3,})[^\n]*$|^[ \t]*:[\w-]+:[^\n]*$"  # headings, directives and their options
    r"|\$\$.+?\$\$|(?<![\\$])\$(?!\$)[^$\n]*(?:\n[^$\n]+)?\$"
    r"|\{[\w:-]+\}`[^`]*`|`[^`]+`|\]\([^)]*\)"
    r'|"[^"\n]*"',  # other people's words
    re.S | re.M,
)


def glossary():
    """The terms of the glossary."""
    page = (ROOT / "book" / "glossary.md").read_text(encoding="utf-8")
    terms = re.findall(r"^(\w[^\n]*)\n  \S", page, re.M)
    assert EVERYDAY <= {term.lower() for term in terms}, "the glossary is not read"
    return terms


def unlinked_terms(path):
    """Terms that a chapter uses before it links them, or without: (term, index of the cell, start, end)."""
    found, linked = [], set()
    patterns = {
        term: re.compile(rf"(?<![\w-]){term}(?:s|es)?(?![\w-])".replace(" ", r"\s+"), re.I)
        for term in glossary() if term not in EVERYDAY
    }  # fmt: skip
    for index, cell in enumerate(cells(path)):
        if index == 0 or cell.cell_type != "markdown":  # the first cell is the card, which only lists
            continue
        links = [(" ".join((link["target"] or link["text"]).split()).lower(), link.start())
                 for link in LINK.finditer(cell.source)]  # fmt: skip
        plain = NOT_PLAIN.sub(lambda match: re.sub(r"[^\n]", "·", match[0]), cell.source)
        for term, pattern in patterns.items():
            if term.lower() not in linked and (used := pattern.search(plain)):
                if not any(target == term.lower() and start < used.start() for target, start in links):
                    found.append((term, index, *used.span()))
                    linked.add(term.lower())  # reported once
        linked |= {target for target, _ in links}
    return found

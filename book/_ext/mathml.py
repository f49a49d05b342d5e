"""Formulas as MathML, which readers of EPUB show without a script."""

import re
from html import escape, unescape

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

logger = logging.getLogger(__name__)
#: What docutils does not read of LaTeX, and the same in other words.
SPELLINGS = [
    (r"\\tfrac(\d)(\w)", r"\\frac{\1}{\2}"), (r"\\tfrac\b", r"\\frac"),
    (r"\\dots\b", r"\\ldots"), (r"\\textstyle\b", ""),
]  # fmt: skip


def mathml(node, display):
    text = node.astext().strip()
    for said, understood in SPELLINGS:
        text = re.sub(said, understood, text)
    if display and r"\\" in text and r"\begin" not in text:
        text = r"\begin{aligned}" + text + r"\end{aligned}"
    try:
        formula = tex2mathml(text, as_block=display)
    except MathError as error:
        logger.warning("no MathML for %s: %s", text, error, location=node)
        return ""
    formula = re.sub(r"&(?!amp;|lt;|gt;|quot;)\w+;", lambda name: unescape(name[0]), formula)  # XML knows no others
    return formula.replace("<math ", f'<math alttext="{escape(text)}" ', 1)


def visit_math(translator, node):
    translator.body.append(mathml(node, display=False))
    raise nodes.SkipNode


def visit_math_block(translator, node):
    translator.body.append(translator.starttag(node, "div", CLASS="math"))
    translator.body.append(mathml(node, display=True) + "</div>\n")
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}

r"""Render Markdown as HTML with formulas as MathML, which needs no JavaScript and works offline.

HTML in the Markdown, and links and images from elsewhere, are never rendered: such a text is shown
as it is, because it may come from a student, and the page may be the grader's.
"""

import html
import re
from typing import Any
from xml.etree import ElementTree

from jinja2 import pass_context
from latex2mathml.converter import convert_to_element
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath


__all__ = ["MACROS", "PlainRenderer", "formula", "markdown_to_html"]


# No query and no %: a link to a page of the grader's own server must not carry an instruction.
LINK = re.compile(r"https://[\w.-]+(/[\w./~+:@-]*)?(#[\w.-]*)?|#[\w-]*", re.ASCII)
# What MathJax would do beyond typesetting: link, load code, style, redefine other formulas, and
# put text where it doesn't belong, such as points that nobody gave.
MACROS = re.compile(
    r"\\(href|url|require|unicode|style|class|cssId|data|html|mmlToken|includegraphics|texttip"
    r"|toggle|action|begingroup|DeclareMathOperator|newcommand|renewcommand|providecommand"
    r"|newenvironment|renewenvironment|let|[egx]?def|Newextarrow|enclose|bbox"
    r"|(math)?[clr]lap|m?kern|[hm]skip|mspace|raise|lower|move(left|right)|[rR]ule|Space"
    r")(?![A-Za-z])|\\hspace\s*\*?\s*\{\s*-"
    r"|\\(html|data|mml|css|script|style)[A-Z]"
)
_MATHML = frozenset(
    (
        *("math", "mrow", "mi", "mn", "mo", "ms", "mtext", "mspace", "mfrac", "msqrt", "mroot"),
        *(
            "msub",
            "msup",
            "msubsup",
            "munder",
            "mover",
            "munderover",
            "mmultiscripts",
            "mprescripts",
        ),
        *("mtable", "mtr", "mtd", "mstyle", "mpadded", "mphantom", "none"),
    )
)
_MATHML_ATTRIBUTES = frozenset(
    (
        *("accent", "accentunder", "columnalign", "columnlines", "columnspacing", "depth"),
        *("display", "displaystyle", "fence", "form", "height", "largeop", "linebreak"),
        *("linethickness", "lspace", "mathsize", "mathvariant", "maxsize", "minsize"),
        *("movablelimits", "rowlines", "rowspacing", "rspace", "scriptlevel", "separator"),
        *("stretchy", "symmetric", "voffset", "width", "xmlns"),
    )
)
_LONGEST = 4000  # characters of a formula


class _Refused(ValueError):
    """A Markdown cell contains something that isn't displayed."""


@pass_context
def markdown_to_html(context: Any, source: str) -> str:
    """Render Markdown for nbconvert's templates: formulas as MathML, anything risky as text."""
    attachments = context.get("cell", {}).get("attachments", {})
    try:
        return MarkdownWithMath(renderer=_FormulaRenderer(attachments)).render(source)
    except Exception:  # noqa: BLE001 - whatever it is, the page has to show something
        return f"<pre>{html.escape(source)}</pre>"


def formula(latex: str, display: str = "inline") -> str:
    r"""Return a formula as MathML, or its LaTeX source as code where that isn't possible.

    Args:
        latex: the formula without its dollar signs.
        display: "inline", or "block" for a line of its own.

    >>> formula(r"\frac{1}{2}")
    '<math xmlns="http://www.w3.org/1998/Math/MathML" display="inline"><mrow><mfrac>...'
    >>> formula(r"\href{javascript:alert(1)}{x}")
    '<code>\\href{javascript:alert(1)}{x}</code>'
    """
    try:
        if len(latex) > _LONGEST or MACROS.search(latex):
            raise _Refused
        element = convert_to_element(latex, display=display)
        _check_mathml(element)
        return ElementTree.tostring(element, encoding="unicode")
    except Exception:  # noqa: BLE001 - the converter raises many kinds
        return f"<code>{html.escape(latex)}</code>"


def _check_mathml(root: Any) -> None:
    """Unescape the texts of a formula, and refuse what isn't in the lists above."""
    for element in root.iter():
        element.text = html.unescape(element.text) if element.text else None
        known = element.tag in _MATHML and _MATHML_ATTRIBUTES.issuperset(element.attrib)
        # A command or a column that the converter doesn't know stays in the text.
        if not known or element.tail or set(element.text or "") & set("\\&"):
            raise _Refused


class PlainRenderer(IPythonRenderer):
    """Render Markdown as nbconvert does, but refuse HTML, and links and images from elsewhere."""

    def block_html(self, html: str) -> str:
        """Refuse a block of HTML."""
        raise _Refused

    def inline_html(self, html: str) -> str:
        """Refuse HTML within a line."""
        raise _Refused

    def block_mermaidjs(self, code: str) -> str:
        """Refuse a diagram in Mermaid."""
        raise _Refused

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """Render a link within the page or to an ordinary address."""
        if not LINK.fullmatch(url) or "formgrader" in url:
            raise _Refused
        return super().link(text, url, title)

    def image(self, text: str, url: str, title: str | None = None) -> str:
        """Render an image that is part of the cell."""
        if not url.startswith("attachment:"):
            raise _Refused
        return super().image(text, url, title)


class _FormulaRenderer(PlainRenderer):
    """Render formulas as MathML, and headings without an id."""

    def __init__(self, attachments: Any) -> None:
        super().__init__(escape=False, attachments=attachments, exclude_anchor_links=True)

    def inline_math(self, body: str) -> str:
        return formula(body)

    def block_math(self, body: str) -> str:
        return formula(body, "block")

    def latex_environment(self, name: str, body: str) -> str:
        return formula(f"\\begin{{{name}}}{body}\\end{{{name}}}", "block")

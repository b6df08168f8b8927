r"""Reduce submitted notebooks to text, images and formulas, since a grader opens them in a browser.

Formgrader and the feedback are web pages. Whatever runs in them has the rights of the person who
grades: it could change scores or start a terminal. So nothing that a student wrote may become HTML.

- `KeepPlain` rebuilds a notebook cell by cell, from an allow-list. nbgrader applies it before it
  writes a file, and once more before it shows one. Each graded cell is then in it exactly once.
- A Markdown cell is kept as it is if all it contains is text, formulas, lists, tables, code,
  ordinary links, and images that are part of the cell. Otherwise its source is shown.
- `markdown.markdown_to_html` renders formulas as MathML, without JavaScript and offline.
"""

import base64
import binascii
import html
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import bleach
from nbconvert.filters.markdown_mistune import MarkdownWithMath
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from nbgrader.api import Gradebook
from nbgrader.preprocessors import NbGraderPreprocessor
from nbgrader.utils import compute_checksum
from traitlets import Unicode

from cnnlab.course.markdown import MACROS, PlainRenderer


__all__ = ["KeepPlain", "plain_source"]


SHOWN_AS_TEXT = (
    "*This cell is shown as text, because it contains HTML, a link or a formula that the grader "
    "doesn't display.*"
)
_SHOWN = re.compile(rf"{re.escape(SHOWN_AS_TEXT)}\n\n(`+)\n(.*)\n\1", re.DOTALL)
IMAGE = re.compile(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=]+")
# The ids of Formgrader's own pages; those of its fields are made of the names of the cells.
PAGE_IDS = frozenset(("notebook", "notebook-container", "statusmessage", "toc", "top"))

_ATTRIBUTES: Mapping[str, Collection[str]] = {
    **dict.fromkeys(("h1", "h2", "h3", "h4", "h5", "h6"), ("id",)),
    **dict.fromkeys(("div", "pre", "span", "code", "li", "ul"), ("class",)),
    **dict.fromkeys(("th", "td"), ("style",)),
    **dict.fromkeys(("p", "em", "strong", "del", "br", "hr", "blockquote"), ()),
    **dict.fromkeys(("table", "thead", "tbody", "tr", "dl", "dt", "dd"), ()),
    "ol": ("start",),
    "a": ("href", "title", "class"),
    "img": ("src", "alt", "title"),
    "input": ("class", "type", "disabled", "checked"),
}
_LONGEST = 40_000  # characters
_KINDS = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}
_FUNCTION = re.compile(r"^(async +def|def|class) ", re.MULTILINE)
_NAME = re.compile(r"[\w-]+", re.ASCII)  # what nbgrader itself allows as a grade_id


class KeepPlain(NbGraderPreprocessor):
    """Rebuild a submission with nothing in it but text, PNG and JPEG images, and formulas."""

    folder = Unicode(help="the folder of the nbgrader course").tag(config=True)

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        """Return a new notebook; its nbgrader settings are those that were handed out."""
        submission = resources.get("nbgrader", {})
        settings = None
        if "db_url" in submission:
            settings = _handed_out(submission)
            self._remove_files(submission["student"], submission["assignment"])
        cells = [_plain_cell(cell, settings) for cell in nb.cells]
        for grade_id in _neutralise_copies(cells):
            self.log.warning("There is a copy of the cell %s, which isn't graded", grade_id)
        if settings is not None:
            _add_missing(cells, settings)
        for number, cell in enumerate(cells):
            cell.id = f"cell-{number}"
        return new_notebook(cells=cells), resources

    def _remove_files(self, student: str, assignment: str) -> None:
        """Remove files that came with a submission: Formgrader would serve them as web pages."""
        graded = Path(self.folder, "autograded", student, assignment)
        source = Path(self.folder, "source", assignment)
        for path in graded.rglob("*"):
            own = path.suffix == ".ipynb" or path.name == "timestamp.txt"
            if not own and not path.is_dir() and not (source / path.relative_to(graded)).exists():
                path.unlink()


def plain_source(source: str, attachments: Mapping[str, Any], ids: Collection[str] = ()) -> str:
    r"""Return Markdown as it is if nbconvert's rendering of it is harmless, else as a code block.

    Args:
        source: the Markdown.
        attachments: the images of the cell, by name and media type.
        ids: what must not become the id of a heading.

    >>> plain_source("**Bold**, and $a < b$.", {})
    '**Bold**, and $a < b$.'
    >>> print(plain_source("<img src=x onerror=alert(1)>", {}))
    *This cell is shown as text, ...
    <BLANKLINE>
    ```
    <img src=x onerror=alert(1)>
    ```
    """
    is_short = len(source) <= _LONGEST  # Markdown can be written to take very long to render
    if is_short and not MACROS.search(source) and _is_harmless(source, attachments, ids):
        return source
    shown = _SHOWN.fullmatch(source)
    text = shown[2] if shown and shown[1] not in shown[2] else source  # it was shown before
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    text = f"{SHOWN_AS_TEXT}\n\n{fence}\n{text}\n{fence}"
    return text if _is_harmless(text, {}, ids) else SHOWN_AS_TEXT


def _is_harmless(source: str, attachments: Mapping[str, Any], ids: Collection[str]) -> bool:
    """Render Markdown and tell whether bleach finds nothing to remove from the HTML."""
    renderer = PlainRenderer(escape=False, attachments=dict(attachments))
    try:
        rendered = MarkdownWithMath(renderer=renderer).render(source)
    except Exception:  # noqa: BLE001 - a refusal, or what Formgrader would stumble over, too
        return False
    refused = []
    reserved = {name.lower() for name in ids}

    def allow(tag: str, name: str, value: str) -> bool:
        allowed = (
            name in _ATTRIBUTES[tag]
            and (name != "id" or html.unescape(value).lower() not in reserved)
            and (name != "href" or tag == "a")
            and (name != "src" or IMAGE.fullmatch(value) is not None)
            and (name != "style" or re.fullmatch(r"text-align: ?(left|right|center)", value))
        )
        if not allowed:
            refused.append((tag, name))
        return bool(allowed)

    # A tag that isn't allowed is either removed or escaped, so the two results differ.
    removed, escaped = (
        bleach.clean(
            rendered,
            tags=_ATTRIBUTES.keys(),
            attributes=allow,
            protocols=["https", "data"],
            strip=strip,
            strip_comments=strip,
        )
        for strip in (True, False)
    )
    return removed == escaped and not refused


def _plain_cell(cell: Any, handed_out: Mapping[str, Any] | None) -> Any:
    """Return a new cell with the harmless contents of a submitted one."""
    own = cell.get("metadata", {}).get("nbgrader")
    grade_id = own.get("grade_id") if isinstance(own, dict) else None
    if not isinstance(grade_id, str) or not _NAME.fullmatch(grade_id):
        settings = None
    elif handed_out is None:
        settings = _coerced(own)
    else:
        settings = handed_out.get(grade_id)
    source = str(cell.get("source", ""))
    if cell.get("cell_type") == "code":
        plain = new_code_cell(source, outputs=list(_plain_outputs(cell.get("outputs", []))))
    else:
        # A raw cell would be HTML.
        attachments = _plain_images(cell.get("attachments", {}))
        is_markdown = cell.get("cell_type") == "markdown"
        text = source if is_markdown else f"```\n{source}\n```"
        fields = {f"{name}{end}" for name in handed_out or () for end in _FIELDS}
        plain = new_markdown_cell(plain_source(text, attachments, PAGE_IDS | fields))
        if attachments:
            plain.attachments = attachments
    if settings:
        plain.metadata.nbgrader = dict(settings)
    return plain


def _neutralise_copies(cells: list[Any]) -> list[str]:
    """Leave each grade_id to one cell, say so in its copies, and return the ids that had copies.

    JupyterLab copies the grade_id when a student copies or splits a cell. The cell that keeps it is
    the last that was changed, which is also what counts when a notebook is run from top to bottom.
    If there is a function in one of them, it's the last changed one with a function.
    """
    by_id: dict[str, list[Any]] = {}
    for cell in cells:
        if "nbgrader" in cell.metadata:
            by_id.setdefault(cell.metadata.nbgrader["grade_id"], []).append(cell)
    copied = {grade_id: same for grade_id, same in by_id.items() if len(same) > 1}
    for grade_id, same in copied.items():
        changed = [
            cell
            for cell in same
            if cell.metadata.nbgrader.get("checksum") != compute_checksum(cell)
        ]
        with_function = [cell for cell in changed if _FUNCTION.search(cell.source)]
        counts = (with_function or changed or same)[-1]
        text = f"A copy of the cell {grade_id}. Only the other one counts."
        for copy in same:
            if copy is not counts:
                del copy.metadata["nbgrader"]
                note = f"# {text}\n" if copy.cell_type == "code" else f"*{text}*\n\n"
                copy.source = note + copy.source
    return list(copied)


def _add_missing(cells: list[Any], handed_out: Mapping[str, Any]) -> None:
    """Add an empty cell for each graded one that was deleted; nbgrader then fills in its source."""
    place = 0
    for grade_id, settings in handed_out.items():
        names = [cell.metadata.get("nbgrader", {}).get("grade_id") for cell in cells]
        if grade_id in names:
            place = names.index(grade_id) + 1
        elif settings["grade"] or settings["task"]:
            is_code = settings["cell_type"] == "code"
            cell = new_code_cell("") if is_code else new_markdown_cell("")
            cell.metadata.nbgrader = dict(settings)
            cells.insert(place, cell)
            place += 1


_FIELDS = ("", "_extra_credit", "-comment")  # the ids in Formgrader that belong to a cell


def _coerced(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a graded cell with the types that they should have."""
    flags = {name: bool(settings.get(name)) for name in ("grade", "locked", "solution", "task")}
    plain = {"schema_version": 3, "grade_id": settings["grade_id"], **flags}
    if flags["grade"] or flags["task"]:
        plain["points"] = float(settings.get("points") or 0)
    return plain


def _handed_out(submission: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return the settings of each cell of an assignment as they were handed out, by grade_id."""
    settings: dict[str, dict[str, Any]] = {}
    with Gradebook(submission["db_url"]) as gradebook:
        notebook = gradebook.find_notebook(submission["notebook"], submission["assignment"])
        for cell in notebook.source_cells:
            settings[cell.name] = {
                "schema_version": 3,
                "grade_id": cell.name,
                "grade": False,
                "solution": False,
                "task": False,
                "locked": cell.locked,
                "checksum": cell.checksum,
                "cell_type": cell.cell_type,
            }
        for kind in ("grade", "task"):
            for cell in getattr(notebook, f"{kind}_cells"):
                settings[cell.name] |= {kind: True, "points": cell.max_score}
        for cell in notebook.solution_cells:
            settings[cell.name]["solution"] = True
    return settings


def _plain_outputs(outputs: Any) -> Iterator[Any]:
    """Yield the text and the images of outputs."""
    for output in outputs:
        kind = output.get("output_type")
        if kind == "stream":
            yield new_output("stream", name="stdout", text=str(output.get("text", "")))
        elif kind in ("execute_result", "display_data"):
            given = output.get("data", {})
            data = _plain_images({"output": given}).get("output", {})
            if isinstance(text := given.get("text/plain"), str):
                data["text/plain"] = text
            if data:
                yield new_output("display_data", data)


def _plain_images(attachments: Any) -> dict[str, dict[str, str]]:
    """Return the PNG and JPEG images of attachments, by name, under the type that they have."""
    images: dict[str, dict[str, str]] = {}
    for name, formats in attachments.items() if isinstance(attachments, dict) else ():
        for text in formats.values() if isinstance(formats, dict) else ():
            kind, data = _image(text)
            if kind:
                images.setdefault(str(name), {})[kind] = data
    return images


def _image(text: Any) -> tuple[str, str]:
    """Return the media type of an image in base64, and its base64 without line breaks."""
    try:
        content = base64.b64decode("".join(text.split()), validate=True)
    except (AttributeError, binascii.Error, ValueError):
        return "", ""
    kinds = [kind for start, kind in _KINDS.items() if content.startswith(start)]
    return (kinds[0], base64.b64encode(content).decode()) if kinds else ("", "")

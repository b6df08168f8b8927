"""Make a deck of slides from a chapter: its headings, predictions, figures, claims and questions.

The deck is one HTML file with everything in it, so it works offline and needs no other file. It's
shown by reveal.js (https://revealjs.com, MIT licence), which comes with the package
`sphinx-revealjs`.
"""

import html
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cnnlab.course import notebooks, numbering
from cnnlab.files import write_whole


_HEADING = re.compile(r"^(#{1,3}) (.+)$", re.MULTILINE)
_FENCED = re.compile(r"(?ms)^```.*?^```$")  # its comments would look like headings
_BLANK = "\n\n"  # a blank line ends a paragraph
_IN_FULL = {"Predict", "What would change it"}
_LEFT_OUT = {"References", "Common mistakes", "Make it bigger"}
_WIDGET = "application/vnd.jupyter.widget-view+json"
_MOST_LINES = 14  # of a printed result on a slide
_MOST_CHARACTERS = 700  # of a text with a list
_MOST_POINTS = 5  # on a slide of key points
_WIDTH, _HEIGHT = 1280, 720  # of a slide, in pixels
# What only somebody with the notebook needs, such as "(The next cell takes about 7 seconds.)".
_ASIDE = re.compile(r"\s*\([^()]*\b(?:cells?|seconds|runs|dots)\b[^()]*\)")
_LICENCE = "<p><small>By the cnnlab developers. Text and figures: CC BY 4.0. Code: MIT.</small></p>"
_STYLE = """
.reveal { font-family: system-ui, sans-serif; font-size: 36px; }
.reveal h1, .reveal h2, .reveal h3 { font-family: inherit; text-transform: none; }
.reveal h1 { font-size: 2em; } .reveal h2 { font-size: 1.5em; } .reveal h3 { font-size: 1.2em; }
.reveal .slides { text-align: left; }
.reveal section img { width: 100%; max-height: 660px; object-fit: contain; margin: 0; }
.reveal li { font-size: 0.85em; margin-bottom: 0.4em; }
.reveal pre { box-shadow: none; width: 100%; font-size: 0.54em; white-space: pre-wrap; }
.reveal pre code { max-height: none; }
.reveal math[display="block"] { font-size: 0.8em; }
.reveal table { font-size: 0.75em; }
"""


@dataclass
class Slide:
    """One slide.

    Attributes:
        body: its content as HTML.
        notes: what only the speaker sees, as HTML.
        level: 1 for a slide of its own, 2 for one below the last of level 1.
    """

    body: str
    notes: str = ""
    level: int = 2


@dataclass
class Deck:
    """The slides of a chapter.

    Attributes:
        title: the heading of the chapter.
        slides: the slides in order.
    """

    title: str
    slides: list[Slide] = field(default_factory=list)

    def columns(self) -> list[list[Slide]]:
        """Group the slides by the section of the chapter that they belong to."""
        columns: list[list[Slide]] = []
        for slide in self.slides:
            if slide.level == 1 or not columns:
                columns.append([])
            columns[-1].append(slide)
        return columns


def write(chapter: Path, out: Path, *, cell_timeout: int = 300) -> Path:
    """Execute a chapter and write its deck.

    Args:
        chapter: path of the notebook.
        out: a folder, which is created if it doesn't exist.
        cell_timeout: time limit for one cell, in seconds.

    Returns:
        The deck, an HTML file with the name of the chapter.

    Raises:
        ChapterError: a cell of the chapter failed.
        ModuleNotFoundError: `sphinx-revealjs`, which brings reveal.js, or `latex2mathml`, which
            writes the formulas, isn't installed.
    """
    for module in ("sphinx_revealjs", "latex2mathml"):
        notebooks.require(module, extra="course")
    numbered = partial(numbering.in_course, path=chapter)
    executed, _ = notebooks.execute(chapter, cell_timeout=cell_timeout, change=numbered)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{chapter.stem}.html"
    write_whole(path, page(deck(executed)).encode())
    return path


def deck(executed: Any) -> Deck:
    """Choose what a deck shows of an executed notebook.

    It shows the beginning, each section's heading with its first sentence, the predictions, the
    exercises, every figure, the results of claims, the key points, and the questions for the room,
    whose answers are in the speaker's notes.
    """
    made = Deck(_HEADING.search(executed.cells[0].source).group(2))  # type: ignore[union-attr]
    for cell in executed.cells:
        tags = set(cell.metadata.get("tags", ()))
        if cell.cell_type == "markdown":
            made.slides += _from_text(cell.source, for_instructors="instructor" in tags)
        elif cell.cell_type == "code" and not tags & {"setup", "solution", "check"}:
            made.slides += _from_outputs(cell.outputs, claims="claim" in tags)
    return made


def _from_text(source: str, *, for_instructors: bool) -> Iterator[Slide]:
    pieces = _HEADING.split(_FENCED.sub("", source))
    for mark, title, text in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
        if for_instructors:
            if title == "Questions for the room":
                yield from _questions(text)
        elif mark == "#":
            aims = re.search(r"(?ms)^\*\*You will be able to\*\* .*?(?=\n\n|\Z)", text)
            yield Slide(_html(f"# {title}\n\n{aims[0] if aims else ''}") + _LICENCE, level=1)
        elif title == "Key points":
            yield from _key_points(text)
        elif title in _IN_FULL:
            yield Slide(_html(f"### {title}\n\n{_ASIDE.sub('', text)}"))
        elif title.startswith("Exercise"):
            yield Slide(_html(f"### {title}\n\n{_beginning(text)}"))
        elif mark == "##" and title not in _LEFT_OUT:
            yield Slide(_html(f"## {title}\n\n{_opening(text)}"), level=1)


def _key_points(text: str) -> Iterator[Slide]:
    """Yield slides of about equally many key points, as few as are needed."""
    points = re.findall(r"(?ms)^- .*?(?=^- |\n\n|\Z)", text)
    n_slides = math.ceil(len(points) / _MOST_POINTS)
    for number in range(n_slides):
        start, end = (len(points) * i // n_slides for i in (number, number + 1))
        body = _html("## Key points\n\n" + "\n".join(points[start:end]))
        yield Slide(body, level=1 if number == 0 else 2)


def _questions(text: str) -> Iterator[Slide]:
    """Yield one slide per question; the answer in brackets at its end becomes a note."""
    level = 1
    for item in re.split(r"(?m)^- ", text)[1:]:
        question, _, answer = item.strip().partition(" (")
        body = _html(f"## For the room\n\n{question}")
        yield Slide(body, _html(answer.removesuffix(")")) if answer else "", level)
        level = 2


def _opening(text: str) -> str:
    """Return the first sentence of a text, or its first paragraph if that announces something."""
    beginning = _beginning(text)
    if _BLANK in beginning:
        return beginning
    sentence = re.split(r"(?<=[.?!]) (?=[A-Z*`$])", beginning.replace("\n", " "), maxsplit=1)[0]
    is_prose = sentence.endswith((".", "?", "!")) and sentence[0] not in "|-#!<"
    return sentence if is_prose else ""


def _beginning(text: str) -> str:
    """Return the first paragraph of a text, with a formula or a short list that it announces."""
    first, *others = text.strip().split(_BLANK)
    for block in others:
        announced = first.endswith(":") and len(first) + len(block) <= _MOST_CHARACTERS
        if not (announced or block.startswith("$$")):
            break
        first += _BLANK + block
    return first


def _from_outputs(outputs: Iterable[Any], *, claims: bool) -> Iterator[Slide]:
    for output in outputs:
        data = output.get("data", {})
        picture = data.get("text/html", "")
        if image := re.search(r"<img[^>]*>", picture):
            yield Slide(re.sub(r' style="[^"]*"', "", image[0]))  # of an explorer, the first frame
        elif "image/png" in data:
            alt = html.escape("".join(data.get("text/plain", "")))
            yield Slide(f'<img src="data:image/png;base64,{data["image/png"]}" alt="{alt}">')
        elif claims and output.get("name") != "stderr" and _WIDGET not in data:  # progress bars
            text = output.get("text") or data.get("text/plain", "")
            lines = text.strip().splitlines()
            if 0 < len(lines) <= _MOST_LINES:
                yield Slide(f"<pre><code>{html.escape(chr(10).join(lines))}</code></pre>")


def _html(markdown: str) -> str:
    from cnnlab.course.markdown import markdown_to_html  # needs more than executing a chapter

    return markdown_to_html({}, markdown)


def page(made: Deck) -> str:
    """Return a deck as an HTML page that contains reveal.js."""
    columns = "\n".join(
        f"<section>{''.join(map(_section, column))}</section>" for column in made.columns()
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(made.title)}</title>
<style>{_asset("dist/reveal.css")}</style>
<style>{_without_fonts(_asset("dist/theme/white.css"))}</style>
<style>{_STYLE}</style>
</head>
<body>
<div class="reveal"><div class="slides">
{columns}
</div></div>
<script>{_asset("dist/reveal.js")}</script>
<script>{_asset("plugin/notes/notes.js")}</script>
<script>
Reveal.initialize({{
  hash: true, slideNumber: "c/t", width: {_WIDTH}, height: {_HEIGHT}, margin: 0.08,
  plugins: [RevealNotes]
}});
</script>
</body>
</html>
"""


def _section(slide: Slide) -> str:
    notes = f'<aside class="notes">{slide.notes}</aside>' if slide.notes else ""
    return f"<section>{slide.body}{notes}</section>"


def _asset(name: str) -> str:
    """Return a file of reveal.js."""
    spec = find_spec("sphinx_revealjs")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "_static" / "revealjs"
    return (folder / name).read_text(encoding="utf-8")


def _without_fonts(style: str) -> str:
    """Return a stylesheet that loads nothing."""
    return re.sub(r"@import[^;]*;", "", style)

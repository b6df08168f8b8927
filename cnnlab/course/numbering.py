"""Number the chapters by their position in the table of contents.

The text of a chapter calls every chapter by the number of its file: chapter 4 is `04_mixing`. In
all that is made from it (book, copies, slides) a chapter has the number of its position in
`_toc.yml`. In the course as it comes, the two are the same, and its text stays as it is.
"""

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cnnlab.course import notebooks


_HEADING = re.compile(r"^#+ (\d{1,2}|[A-Z])\.(\d*) (.+)$", re.MULTILINE)
_LIST = r"\d{1,2}(?:(?:, and|,| and| or| to)\s+\d{1,2})*"
_SECTION = r"\d{1,2}\.\d{1,2}"
_WORDS = (
    rf"\b(?P<chapters>[Cc]hapters)(?P<gap>\s+)(?P<list>{_LIST})(?![.\d]\d)"
    r"|\b(?P<chapter>[Cc]hapter)(?P<space>\s+)(?P<one>\d{1,2})(?![.\d]\d)"
    rf"|\b(?P<sections>[Ss]ections?)(?P<between>\s+)(?P<section>{_SECTION})(?!\d)"
)
_LINK = (
    r"\[(?P<word>[Cc]hapters? )?(?P<shown>\d{1,2})\]\((?P<file>\d\d_\w+)\.ipynb(?P<rest>[^)]*)\)"
)
# A section of the same chapter is mentioned by its number alone: "in 4.2". So is a quantity.
_BARE = rf"(?<![\d.,\w−+/=-])(?P<bare>{_SECTION})(?![\d%\w]|\.\d)"
_QUANTITY = re.compile(
    rf"\((?:95 % CI )?−?{_SECTION}\s+to\s+−?{_SECTION}\)|{_SECTION}(?=\s+points)"
    rf"|(?<=rate of ){_SECTION}|(?<=stalls at ){_SECTION}|(?<=between 1 and ){_SECTION}"
)
# Code and formulas are left alone.
_VERBATIM = re.compile(r"(^```.*?^```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]+\$)", re.DOTALL | re.MULTILINE)
_TEXT = re.compile(f"{_LINK}|{_WORDS}|{_BARE}")
_CODE = re.compile(_WORDS)
_CONTENTS = re.compile(r"(?:^\d+\. \[[^]]*\]\(\d\d_\w+\.ipynb\).*\n)+", re.MULTILINE)
_START = re.compile(r"\[Start with chapter 0: [^]]*\]\(00_first_network\.ipynb\)")
_ELSEWHERE = "not in this course"


@dataclass(frozen=True)
class Numbering:
    """What the chapters are called in a course.

    Attributes:
        numbers: the new number of each chapter that is in the course, by that of its file.
        titles: the title of each chapter by the number of its file, and of each section by its own
            number there.
        first: the name of the first chapter's file.
    """

    numbers: dict[str, str]
    titles: dict[str, str]
    first: str = ""

    def text(self, source: str, own: str = "") -> str:
        """Return Markdown with the numbers of this course.

        Args:
            source: the text of a chapter or page of the course as it comes.
            own: the number of the chapter's file, or nothing for a page.
        """
        if self.is_identity:
            return source
        new = self.numbers.get(own, own)
        source = re.sub(rf"(?m)^(#+ ){own}\.(?=\d* )", rf"\g<1>{new}.", source) if own else source
        source = _CONTENTS.sub(self._contents, _columns(source, self))
        source = _START.sub(self._start, source)
        pieces = _VERBATIM.split(source)
        pieces[::2] = [self._prose(piece, own) for piece in pieces[::2]]
        return "".join(pieces)

    def code(self, source: str) -> str:
        """Return code with the numbers of this course where it says "chapter" or "section"."""
        return source if self.is_identity else _CODE.sub(self._mention, source)

    def notebook(self, notebook: Any, path: Path) -> Any:
        """Return a copy of a notebook of the course with the numbers of this course."""
        if self.is_identity or not (own := file_number(path)):
            return notebook
        numbered = copy.deepcopy(notebook)
        for cell in numbered.cells:
            is_text = cell.cell_type == "markdown"
            cell.source = self.text(cell.source, own) if is_text else self.code(cell.source)
        return numbered

    def page(self, source: str, path: Path) -> str:
        """Return a page with the numbers of this course; one's own pages stay as they are."""
        places = (Path(*path.parts[-n:]) for n in (2, 3) if path.parts[-n:][0] == "chapters")
        is_shipped = any((notebooks.shipped() / place).is_file() for place in places)
        return self.text(source) if is_shipped else source

    def guide(self, source: str, path: Path) -> str:
        """Return a page for instructors with the numbers of this course."""
        if self.is_identity or path.name != "syllabus.md":  # numbers alone in the cells of tables
            return self.page(source, path)
        title, rest = source.split("\n", 1)
        return f"{title}\n\n> The numbers on this page are those of the complete course.\n{rest}"

    @property
    def is_identity(self) -> bool:
        """Whether all chapters are there, each with the number of its file."""
        chapters = [key for key in self.titles if key.isdecimal()]
        return all(self.numbers.get(key) == key for key in chapters)

    def _prose(self, piece: str, own: str) -> str:
        quantities = [match.span() for match in _QUANTITY.finditer(piece)]
        return _TEXT.sub(partial(self._mention, own=own, leave=quantities), piece)

    def _mention(
        self, match: re.Match[str], own: str = "", leave: list[tuple[int, int]] | None = None
    ) -> str:
        """Return what a mention of chapters or of a section becomes."""
        found = match.groupdict()
        if found.get("file"):
            return self._link(found)
        if found["chapters"]:
            return self._several(found["chapters"], found["gap"], found["list"], match)
        if found["chapter"]:
            return self._several(found["chapter"], found["space"], found["one"], match)
        if found["sections"]:
            number = self._section(found["section"], match)
            return f"{found['sections']}{found['between']}{number}"
        number = found["bare"]
        is_quantity = any(a <= match.start() < b for a, b in leave or ())
        if number.partition(".")[0] != own or number not in self.titles or is_quantity:
            return number
        return self._section(number, match)

    def _link(self, found: dict[str, str]) -> str:
        number, word = str(int(found["file"][:2])), found["word"] or ""
        new = self.numbers.get(number)
        shown = new or f"“{self.titles.get(number, found['file'])}”"
        remark = f" ({_ELSEWHERE})" if word and not new else ""
        return f"[{word}{shown}]({found['file']}.ipynb{found['rest']}){remark}"

    def _several(self, word: str, gap: str, numbers: str, match: re.Match[str]) -> str:
        """Return "chapters 1, 3 and 4" for a list with the numbers of the files."""
        old = list(_numbers_in(numbers))
        if all(self.numbers.get(n) == n for n in old) or not self.titles.keys() >= {*old}:
            return match[0]
        present = sorted(int(self.numbers[number]) for number in old if number in self.numbers)
        absent = [f"“{self.titles[number]}”" for number in old if number not in self.numbers]
        remark = _remark(match) if absent else ""
        word = word.removesuffix("s") + ("s" if len(old) > 1 else "")
        return f"{word}{gap}{join([*_ranges(present), *absent])}{remark}"

    def _section(self, number: str, match: re.Match[str]) -> str:
        chapter, _, section = number.partition(".")
        if number not in self.titles:
            return number
        if new := self.numbers.get(chapter):
            return f"{new}.{section}"
        of_chapter = f"“{self.titles[number]}” of chapter “{self.titles[chapter]}”"
        return of_chapter + _remark(match)

    def _start(self, match: re.Match[str]) -> str:
        """Return a link to the first chapter of this course instead of chapter 0."""
        number = str(int(self.first[:2])) if self.first else ""
        title = self.titles.get(number, "")
        # The number of a file becomes that of this course, as everywhere in the text.
        return f"[Start with chapter {number}: {title}]({self.first}.ipynb)" if title else ""

    def _contents(self, match: re.Match[str]) -> str:
        """Return a list of the chapters in the order of this course."""
        lines = {}
        for line in match[0].splitlines():
            entry = line.partition(". ")[2]
            number = str(int(entry.partition("](")[2][:2]))
            if number in self.numbers:
                lines[int(self.numbers[number])] = entry
        return "".join(f"{number}. {lines[number]}\n" for number in sorted(lines))


def of_course() -> Numbering:
    """Return the numbers in the course that `cnnlab` works with here."""
    stems = {s: number for s, number in notebooks.numbers().items() if s[0].isdecimal()}
    numbers = {str(int(stem[:2])): number for stem, number in stems.items()}
    folders = notebooks.shipped(), notebooks.root()
    titles: dict[str, str] = {}
    for folder in dict.fromkeys(folders):  # a chapter of one's own wins
        for path in sorted((folder / "chapters").glob("*_*.ipynb")):
            if file_number(path):
                titles |= _titles(path)
    return Numbering(numbers, titles, next(iter(stems), ""))


def in_course(notebook: Any, path: Path) -> Any:
    """Return a notebook with the numbers of the course if it's one of its chapters, not a copy."""
    folder = (notebooks.root() / "chapters").resolve()
    return of_course().notebook(notebook, path) if path.resolve().parent == folder else notebook


def file_number(path: Path) -> str:
    """Return the number in the name of a chapter's file, without zeros, or "" for another page.

    >>> file_number(Path("04_mixing.ipynb")), file_number(Path("my_week.ipynb"))
    ('4', '')
    """
    digits = path.name.partition("_")[0]
    return str(int(digits)) if re.fullmatch(r"\d\d", digits) else ""


def _titles(path: Path) -> dict[str, str]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    return {
        f"{number}.{section}" if section else number: title
        for number, section, title in _HEADING.findall(text)
    }


def _numbers_in(written: str) -> Iterator[str]:
    """Yield the numbers in a list, each once.

    >>> list(_numbers_in("2 to 4, 8 and 9"))
    ['2', '3', '4', '8', '9']
    """
    last = 0
    for word, digits in re.findall(r"(to\s+)?(\d+)", written):
        first = last + 1 if word else int(digits)
        yield from map(str, range(first, int(digits) + 1))
        last = int(digits)


def _ranges(numbers: list[int]) -> list[str]:
    """Return sorted numbers as text, three or more in a row as a range.

    >>> _ranges([1, 2, 4, 5, 6])
    ['1', '2', '4 to 6']
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return [
        text
        for run in runs
        for text in ([f"{run[0]} to {run[-1]}"] if len(run) > 2 else map(str, run))
    ]


def join(items: list[str]) -> str:
    """Return a list in words.

    >>> join(["1", "3", "4"]), join(["1"])
    ('1, 3 and 4', '1')
    """
    return " and ".join(filter(None, (", ".join(items[:-1]), *items[-1:])))


def _remark(match: re.Match[str]) -> str:
    """Return the remark that a chapter isn't in the course, as it fits the place."""
    before, after = match.string[: match.start()], match.string[match.end() :]
    if after.startswith(("'s", "’s")):
        return ""
    if before.rfind("(") <= before.rfind(")"):
        return f" ({_ELSEWHERE})"
    comma = "," if re.match(r"\s+\w", after) else ""  # the words in brackets go on
    return f", {_ELSEWHERE}{comma}"


def _columns(source: str, numbering: Numbering) -> str:
    """Change the column "chapter" of each table that has one."""
    lines, column = source.split("\n"), None
    for i, line in enumerate(lines):
        cells = re.split(r"(?<!\\)\|", line)
        if not line.startswith("|"):
            column = None
        elif column is None:
            names = [cell.strip() for cell in cells]
            column = names.index("chapter") if "chapter" in names else -1
        elif 0 < column < len(cells) and re.fullmatch(r" \d+(, \d+)* ", cells[column]):
            old = list(_numbers_in(cells[column]))
            new = [numbering.numbers.get(n) or f"“{numbering.titles.get(n, n)}”" for n in old]
            lines[i] = "|".join([*cells[:column], f" {', '.join(new)} ", *cells[column + 1 :]])
    return "\n".join(lines)

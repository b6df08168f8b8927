"""The map of the course: which chapter needs which."""

from collections.abc import Iterable
from dataclasses import dataclass

from cnnlab.course.diagrams.canvas import BLUE, INK, MARGIN, MUTED, RULE, Box, Canvas, Point, tint
from cnnlab.course.notebooks import has_source, numbers, root
from cnnlab.course.numbering import join
from cnnlab.plots import Plot


@dataclass(frozen=True)
class Chapter:
    """A box of the map.

    Attributes:
        title: as in the list of contents, but shorter.
        needs: the numbers of the chapters to read first, without those that these need.
        helps: the numbers of chapters that help and can be left out.
        row: counted from the top.
        columns: the first and the last column that the box covers.
    """

    title: str
    needs: tuple[int, ...]
    helps: tuple[int, ...]
    row: int
    columns: tuple[int, int]


# The box "you need" at the top of each chapter says the same, and the tests compare.
CHAPTERS = {
    0: Chapter("Your first network", (), (), 0, (0, 5)),
    1: Chapter("The training loop", (0,), (), 1, (0, 5)),
    2: Chapter("Normalisation, initialisation, regularisation", (1,), (), 2, (0, 3)),
    3: Chapter("Augmentation", (1,), (), 2, (5, 5)),
    4: Chapter("Mixup and\nCutMix", (1,), (3,), 3, (5, 5)),
    5: Chapter("Learning-rate\nschedules", (2,), (), 3, (1, 1)),
    6: Chapter("Stopping,\naveraging", (2,), (5,), 3, (2, 2)),
    7: Chapter("Debugging", (2,), (), 3, (3, 3)),
    8: Chapter("Hyper-\nparameters", (5,), (), 4, (1, 1)),
    9: Chapter("Transfer\nlearning", (2,), (3, 5), 3, (0, 0)),
    10: Chapter("Fine-tuning", (9,), (5,), 4, (0, 0)),
    11: Chapter("Imbalanced\nclasses", (1,), (4,), 4, (5, 5)),
    12: Chapter("Faster and\nbigger", (1,), (7,), 3, (4, 4)),
    13: Chapter("Capstone: your own images, from a folder to a model card",
                (6, 7, 10), (), 5, (0, 3)),
}  # fmt: skip
COLUMNS, BOX, ROW, HEIGHT, TOP = 6, 92.0, 96.0, 60.0, 88.0
GAP = (700 - 2 * MARGIN - COLUMNS * BOX) / (COLUMNS - 1)


def chapter_map() -> Plot:
    """Draw the chapters of the book and which of them each one needs.

    It shows the chapters in `_toc.yml`, with the numbers of their positions there. Where that file
    is missing, it shows all.

    >>> chapter_map().alt.partition(". ")[0]
    'Start at the top; after chapter 2 you can choose your own way'
    """
    names = numbers_in_the_book()
    shown = {number: CHAPTERS[number] for number in CHAPTERS if number in names}
    is_whole = all(str(number) == name for number, name in names.items())
    rows = {row: i for i, row in enumerate(sorted({c.row for c in shown.values()}))}
    page = Canvas(
        "Start at the top; after chapter 2 you can choose your own way"
        if is_whole
        else "Which chapters of this course need which",
        note="Solid arrow: read this first. Dashed arrow: it helps, but you can do without.",
        height=TOP + ROW * len(rows) - (ROW - HEIGHT) + 30,
    )
    boxes = {
        number: _draw(
            page, names[number], chapter, rows[chapter.row], start=number == next(iter(names))
        )
        for number, chapter in shown.items()
    }
    for number, chapter in shown.items():
        for before in filter(boxes.get, chapter.needs + chapter.helps):
            pair = boxes[before], boxes[number]
            path = route(*pair, [box for box in boxes.values() if box not in pair])
            dashed = before in chapter.helps
            page.arrow(*path, dashed=dashed, colour=MUTED if dashed else INK)
    sentences = [_in_words(names[number], chapter, names) for number, chapter in shown.items()]
    return page.plot(" ".join(filter(None, sentences)))


def numbers_in_the_book() -> dict[int, str]:
    """Return what each chapter in `_toc.yml` is called there, in its order.

    Where that file is missing, all chapters have the numbers of their files.
    """
    if not has_source() or not (root() / "_toc.yml").is_file():
        return {number: str(number) for number in CHAPTERS}
    called = {stem[:2]: name for stem, name in numbers().items() if stem[0].isdecimal()}
    return {int(digits): name for digits, name in called.items() if int(digits) in CHAPTERS}


def needed_by(number: int) -> set[int]:
    """Return the numbers of all chapters that come before one.

    >>> sorted(needed_by(10))
    [0, 1, 2, 9]
    """
    needs = CHAPTERS[number].needs
    return set(needs).union(*(needed_by(n) for n in needs))


def route(start: Box, end: Box, others: Iterable[Box]) -> list[Point]:
    """Return the corners of an arrow between two boxes, which passes around the others.

    Args:
        start: the chapter to read first.
        end: the chapter that needs it, in the same row or below.
        others: every other box of the map.
    """
    below = start.y + start.height
    if end.y < below:
        return [start.right, end.left] if start.x < end.x else [start.left, end.right]
    x = min(start, end, key=lambda box: box.width).centre[0]
    if not (start.x < x < start.x + start.width and end.x < x < end.x + end.width):
        leaves, turns = start.x + 0.25 * start.width, end.y - (ROW - HEIGHT) / 2
        x = end.x + 0.75 * end.width
        return [(leaves, below), (leaves, turns), (x, turns), (x, end.y)]
    if any(below < box.y < end.y and box.x < x < box.x + box.width for box in others):
        x = end.x - 0.75 * GAP
        return [(x, below), (x, end.centre[1]), end.left]
    return [(x, below), (x, end.y)]


def _draw(page: Canvas, number: str, chapter: Chapter, row: int, *, start: bool) -> Box:
    first, last = chapter.columns
    x, width = MARGIN + first * (BOX + GAP), (last - first + 1) * (BOX + GAP) - GAP
    fill, colour = (BLUE, "white") if start else (tint(BLUE, 0.16), INK)
    box = page.box(x, TOP + row * ROW, width, HEIGHT, fill=fill, edge=BLUE if start else RULE)
    lines = 1 + chapter.title.count("\n")
    top = box.centre[1] - 9 * lines
    page.text(box.centre[0], top, number, bold=True, size=10, colour=colour)
    fits = start and last > first  # in a narrow box, the colour says it
    title = f"{chapter.title}: start here" if fits else chapter.title
    page.text(box.centre[0], top + 9 + 9 * lines, title, colour=colour, spacing=1.25)
    return box


def _in_words(number: str, chapter: Chapter, names: dict[int, str]) -> str:
    def several(numbers: tuple[int, ...]) -> str:
        return join([names[n] for n in numbers if n in names])

    needs, helps = several(chapter.needs), several(chapter.helps)
    also = f", and {helps} {'help' if ' and ' in helps else 'helps'}" if helps else ""
    return f"Chapter {number} needs {needs}{also}." if needs else ""

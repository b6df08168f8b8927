"""Chapters have the number of their position in the table of contents, wherever they're named."""

import re

import pytest

from cnnlab import course
from cnnlab.course import numbering, products


CHAPTERS = [path for path in course.chapters() if path.name[0].isdigit()]
APPENDIX = next(path for path in course.chapters() if path.name[0] == "A")
GUIDES = ("B_checklist", "C_glossary", "D_library", "F_machines", "index", "instructor/grading")
PAGES = [course.root() / "chapters" / f"{name}.md" for name in GUIDES]
# What may come before the number of a section of the same chapter, where its name doesn't.
BEFORE = re.compile(
    r"\b(in|of|until|see|from|to|and|with|do|run|read|keep|leave|as|train)[\s(]*$"
    r"|[;:|(.,]\s*$|\n\n$",
    re.IGNORECASE,
)


def titles():
    found = {}
    for path in CHAPTERS:
        found |= numbering._titles(path)
    return found


TITLES = titles()


class Forced(numbering.Numbering):
    """Numbers that are put in even where they are those of the files."""

    is_identity = False


def ordered(*files):
    """The numbers of a course with the chapters of these numbers, in this order."""
    return numbering.Numbering({str(n): str(i) for i, n in enumerate(files, 1)}, TITLES)


def text_of(notebook):
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def prose(text):
    return "~".join(numbering._VERBATIM.split(text)[::2])


# --- the words ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("See chapter 5.", "See chapter 2."),
        ("Chapter 5's loop", "Chapter 2's loop"),
        ("of chapters 9 and 5", "of chapters 1 and 2"),
        ("chapters 5, 9 and 13", "chapters 1 to 3"),
        ("section 5.10 and Section 9.2.", "section 2.10 and Section 1.2."),
        ("in 9.2 and 9.5, a gain of 9.1 points (9.2 to 9.4)",
         "in 1.2 and 1.5, a gain of 9.1 points (9.2 to 9.4)"),
        ("`chapter 5` costs $9.2$", "`chapter 5` costs $9.2$"),
        ("[5](05_schedules.ipynb#x), [chapter 9](09_transfer.ipynb)",
         "[2](05_schedules.ipynb#x), [chapter 1](09_transfer.ipynb)"),
        ("In chapter 4, it", "In chapter “Mixup and CutMix” (not in this course), it"),
        ("(chapter 4)", "(chapter “Mixup and CutMix”, not in this course)"),
        ("(chapter 4 says it)", "(chapter “Mixup and CutMix”, not in this course, says it)"),
        ("chapter 4's mixup", "chapter “Mixup and CutMix”'s mixup"),
        ("chapters 3 to 5 help",
         "chapters 2, “Data augmentation” and “Mixup and CutMix” (not in this course) help"),
        ("section 4.2",
         "section “Wrong labels” of chapter “Mixup and CutMix” (not in this course)"),
        ("[chapter 4](04_mixing.ipynb)",
         "[chapter “Mixup and CutMix”](04_mixing.ipynb) (not in this course)"),
        ("| what | chapter |\n|---|---|\n| 1 | 9, 4 |",
         "| what | chapter |\n|---|---|\n| 1 | 1, “Mixup and CutMix” |"),
        (("0. [A](01_training_loop.ipynb): a.\n1. [B](05_schedules.ipynb): b.\n"
         "2. [C](09_transfer.ipynb): c.\n"),
         "1. [C](09_transfer.ipynb): c.\n2. [B](05_schedules.ipynb): b.\n"),
        ("chapter 20 of a book, version 9.99", "chapter 20 of a book, version 9.99"),
    ],
)  # fmt: skip
def test_a_mention_gets_the_number_of_the_position_or_the_title(before, after):
    assert ordered(9, 5, 13).text(before, own="9") == after


def test_code_keeps_every_number_except_after_chapter_and_section():
    code = 'x = 9.2  # chapter 9\nmessage = "Section 5.1 shows it"; chapter = 5'
    assert ordered(9, 5).code(code) == code.replace("# chapter 9", "# chapter 1").replace(
        "Section 5.1", "Section 2.1"
    )


# --- the course as it comes -----------------------------------------------------------------------


def test_the_course_itself_keeps_its_numbers_and_its_text():
    names = numbering.of_course()
    assert names.is_identity
    assert names.numbers == {str(i): str(i) for i in range(len(CHAPTERS))}
    notebook = products.read_notebook(CHAPTERS[1])
    assert names.notebook(notebook, CHAPTERS[1]) is notebook


@pytest.mark.parametrize("path", [*CHAPTERS, APPENDIX, *PAGES], ids=lambda path: path.stem)
def test_every_mention_in_the_course_is_found(path):
    """With numbers from 70 on, no old one is left; with the old numbers, the text is the same."""
    moved = numbering.Numbering({str(i): str(70 + i) for i in range(len(CHAPTERS))}, TITLES)
    own = numbering.file_number(path)
    if path.suffix == ".md":
        text = path.read_text(encoding="utf-8")
    else:
        text = text_of(products.read_notebook(path))
    new = moved.text(text, own)
    left = re.findall(r"\b[Cc]hapters?\s+[0-6]?\d\b|\b[Ss]ections?\s+[0-6]?\d\.\d+", prose(new))
    left += re.findall(r"\[(?:chapters? )?[0-6]?\d\]\(\d\d_\w+\.ipynb", new)
    if path.stem in ("13_capstone", "C_glossary"):
        left += re.findall(r"[^]\w]\((?:\d|1[0-3])(?:, (?:\d|1[0-3]))*\)", prose(new))
    assert not left, "write `chapter N`, or a link to it, so that it's found"
    if own:
        assert new.startswith(f"# {70 + int(own)}. ")
        assert not re.findall(rf"(?m)^## {own}\.\d+ ", new)
    same = Forced({str(i): str(i) for i in range(len(CHAPTERS))}, TITLES, CHAPTERS[0].stem)
    assert same.text(text, own) == text


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_what_looks_like_a_section_of_the_chapter_is_clearly_one_or_clearly_a_quantity(path):
    own = numbering.file_number(path)
    unclear = []
    for piece in numbering._VERBATIM.split(text_of(products.read_notebook(path)))[::2]:
        quantities = [match.span() for match in numbering._QUANTITY.finditer(piece)]
        for match in numbering._TEXT.finditer(piece):
            number = match["bare"] or ""
            if number.partition(".")[0] != own or number not in TITLES:
                continue
            is_heading = piece[: match.start()].endswith(("\n## ", "\n### "))
            is_quantity = any(a <= match.start() < b for a, b in quantities)
            before = piece[max(0, match.start() - 40) : match.start()]
            if not (is_heading or is_quantity or BEFORE.search(before)):
                unclear.append(f"{before}{number}{piece[match.end() : match.end() + 20]}")
    assert not unclear, f"write `section {own}.x`, or add words to _QUANTITY"

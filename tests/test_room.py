"""The instructor cell of each chapter: a plan, answers for the room, and questions for an exam."""

import re
from itertools import pairwise

import nbformat
import pytest

from cnnlab.course import notebooks, slides


NUMBERED = [path for path in notebooks.chapters() if path.stem[:2].isdigit()]
# Chapters that the syllabus puts into one session; the rows with a star fill it together.
PAIRS = [("00", "01"), ("08", "11"), ("09", "10")]


def section(path, title):
    """Return the text below a heading of the chapter's instructor cell."""
    cells = nbformat.read(path, as_version=4).cells
    text = cells[-1].source
    assert "instructor" in cells[-1].metadata["tags"]
    found = re.search(rf"(?ms)^## {title}\n(.*?)(?=^## |\Z)", text)
    assert found, f"the instructor cell has no section '{title}'"
    return found[1].strip()


def sections_of(path):
    """Return the numbers of the chapter's sections, such as 4.2."""
    cells = nbformat.read(path, as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return set(re.findall(r"(?m)^## (\d+\.\d+) ", text))


def minutes(path):
    """Return (minutes, whether it has a star) of each row of the plan."""
    rows = re.findall(r"(?m)^\| (\d+)(\*?) \|", section(path, "A session of ninety minutes"))
    return [(int(number), star) for number, star in rows]


@pytest.mark.parametrize("path", NUMBERED, ids=lambda path: path.stem)
def test_every_question_for_the_room_has_an_answer_for_the_speaker(path):
    text = section(path, "Questions for the room")
    made = list(slides._questions(text))
    assert len(made) == len(re.findall(r"(?m)^- ", text)) >= 3
    for slide in made:
        question = re.sub(r"<[^>]+>", "", slide.body).strip()
        assert question.endswith(("?", ".")), f"cut off in a bracket: {question}"
        assert re.search(r"\w{3}", slide.notes), f"no answer: {question}"


@pytest.mark.parametrize("path", NUMBERED, ids=lambda path: path.stem)
def test_the_plan_fills_ninety_minutes_with_sections_of_the_chapter(path):
    assert sum(number for number, _ in minutes(path)) == 90
    plan = section(path, "A session of ninety minutes")
    named = set(re.findall(rf"\b{int(path.stem[:2])}\.\d+\b", plan))
    assert named
    assert named <= sections_of(path)


def test_the_syllabuses_name_sections_that_exist():
    page = notebooks.root() / "chapters" / "instructor" / "syllabus.md"
    named = set(re.findall(r"\b\d+\.\d+\b", page.read_text(encoding="utf-8")))
    present = set().union(*map(sections_of, NUMBERED))
    missing = sorted(named - present)
    assert not missing


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_the_rows_with_a_star_of_two_chapters_fill_one_session(pair):
    chapters = [path for path in NUMBERED if path.stem[:2] in pair]
    assert len(chapters) == 2
    assert sum(n for path in chapters for n, star in minutes(path) if star) == 90


@pytest.mark.parametrize("path", NUMBERED, ids=lambda path: path.stem)
def test_two_exam_questions_have_a_model_answer(path):
    paragraphs = section(path, "Exam questions").split("\n\n")
    starts = [re.match(r"\*\*(Question \d|Answer)\.\*\* \w", p) for p in paragraphs]
    found = [start[1] for start in starts if start]
    assert [name for name in found if name != "Answer"] == ["Question 1", "Question 2"]
    assert all((a == "Answer") != (b == "Answer") for a, b in pairwise(found))
    assert found[-1] == "Answer"

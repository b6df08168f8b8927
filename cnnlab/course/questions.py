"""Write the questions about exercises and predictions for Moodle and for Anki."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree as ET

from cnnlab.course.check.feedback import rich
from cnnlab.course.check.modules import chapter_modules
from cnnlab.course.check.multiple_choice import Question, questions
from cnnlab.course.check.quizzes import LETTERS, NumberQuestion, predicted
from cnnlab.errors import CnnlabError
from cnnlab.files import write_whole


def bank(chapters: Iterable[int] = ()) -> list[Question | NumberQuestion]:
    """Make every question about the exercises and the predictions of some chapters.

    Args:
        chapters: numbers of the chapters; all by default.

    Raises:
        CnnlabError: a chapter has no exercises.
    """
    modules = chapter_modules()
    wanted = list(chapters) or list(modules)
    for chapter in wanted:
        if chapter not in modules:
            raise CnnlabError(f"chapter {chapter} has no exercises; 0 to {max(modules)} have some")
    made: list[Question | NumberQuestion] = []
    for chapter in wanted:
        for exercise in modules[chapter].EXERCISES:
            made += questions(exercise, chapter)
        made += predicted(chapter)
    return made


def write(folder: Path, chapters: Iterable[int] = ()) -> int:
    """Write `moodle.xml` and `anki.txt` into a folder, and return the number of questions.

    Args:
        folder: created if it doesn't exist; files of these names are replaced.
        chapters: numbers of the chapters; all by default.

    Raises:
        CnnlabError: a chapter has no exercises.
    """
    made = bank(chapters)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "moodle.xml", moodle(made).encode())
    write_whole(folder / "anki.txt", anki(made).encode())
    return len(made)


def moodle(made: Iterable[Question | NumberQuestion]) -> str:
    """Return the questions in Moodle's XML format, with categories per chapter and exercise.

    Moodle shuffles the options and gives each one's feedback. The answer to a question with a
    number has a tolerance. Import the file in a course's question bank, with the format "Moodle
    XML".
    """
    root, category = ET.Element("quiz"), ""
    for question in made:
        where = f"cnnlab/Chapter {question.chapter}/{question.topic}"
        if where != category:
            category = where
            _add_text(ET.SubElement(root, "question", type="category"), "category", category)
        is_number = isinstance(question, NumberQuestion)
        entry = ET.SubElement(root, "question", type="numerical" if is_number else "multichoice")
        _add_text(entry, "name", f"{question.topic}: {question.name}")
        _add_text(entry, "questiontext", rich(question.text), format="html")
        if isinstance(question, NumberQuestion):
            _add_number(entry, question)
        else:
            _add_options(entry, question)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, "unicode") + "\n"


def _add_number(entry: ET.Element, question: NumberQuestion) -> None:
    """Add the number with its tolerance; everybody sees the feedback after their answer."""
    _add_text(entry, "generalfeedback", rich(question.feedback), format="html")
    ET.SubElement(entry, "defaultgrade").text = "1"
    answer = ET.SubElement(entry, "answer", fraction="100", format="moodle_auto_format")
    ET.SubElement(answer, "text").text = f"{question.answer:g}"
    _add_text(answer, "feedback", "Correct.", format="html")
    ET.SubElement(answer, "tolerance").text = f"{question.within:g}"


def _add_options(entry: ET.Element, question: Question) -> None:
    for name, value in {
        "defaultgrade": "1",
        "single": "true",
        "shuffleanswers": "true",
        "answernumbering": "ABCD",
    }.items():
        ET.SubElement(entry, name).text = value
    for option in question.options:
        fraction = "100" if option.correct else "0"
        answer = ET.SubElement(entry, "answer", fraction=fraction, format="html")
        ET.SubElement(answer, "text").text = rich(option.text)
        _add_text(answer, "feedback", rich(option.feedback), format="html")


def _add_text(parent: ET.Element, name: str, text: str, **attributes: str) -> None:
    ET.SubElement(ET.SubElement(parent, name, attributes), "text").text = text


def anki(made: Iterable[Question | NumberQuestion]) -> str:
    """Return the questions as a text file that Anki imports, one card and line per question.

    The front has the question and its options, the back the correct one and what the others give.
    Each chapter is a deck, and each exercise a tag.
    """
    lines = io.StringIO()
    lines.write("#separator:tab\n#html:true\n#notetype:Basic\n#deck column:3\n#tags column:4\n")
    table = csv.writer(lines, "excel-tab", lineterminator="\n")
    for question in made:
        deck = f"cnnlab::Chapter {question.chapter}"
        table.writerow([*_sides(question), deck, question.topic])
    return lines.getvalue()


def _sides(question: Question | NumberQuestion) -> tuple[str, str]:
    """Return the front and the back of a card, as HTML."""
    front = rich(question.text)
    if isinstance(question, NumberQuestion):
        return front, rich(question.feedback)
    options = list(zip(LETTERS, question.options, strict=False))
    front += "".join(f"<br>{letter}. {rich(option.text)}" for letter, option in options)
    back = "<br>".join(
        f"{letter}. {rich(option.feedback)}"
        for letter, option in sorted(options, key=lambda pair: not pair[1].correct)
    )
    return front, back

"""Write the questions about the exercises for Moodle and for Anki."""

from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree as ET

from cnnlab.course.check.feedback import rich
from cnnlab.course.check.modules import chapter_modules
from cnnlab.course.check.multiple_choice import Question, questions
from cnnlab.errors import CnnlabError
from cnnlab.files import write_whole


LETTERS = "ABCDEF"


def bank(chapters: Iterable[int] = ()) -> list[Question]:
    """Make every question about the exercises of some chapters.

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
    return [
        question
        for chapter in wanted
        for exercise in modules[chapter].EXERCISES
        for question in questions(exercise, chapter)
    ]


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


def moodle(made: Iterable[Question]) -> str:
    """Return the questions in Moodle's XML format, one category per chapter and exercise.

    Moodle shuffles the options and gives each one's feedback. Import the file in a course's
    question bank, with the format "Moodle XML".
    """
    root, category = ET.Element("quiz"), ""
    for question in made:
        where = f"cnnlab/Chapter {question.chapter}/{question.exercise}"
        if where != category:
            category = where
            _add_text(ET.SubElement(root, "question", type="category"), "category", category)
        entry = ET.SubElement(root, "question", type="multichoice")
        _add_text(entry, "name", f"{question.exercise}: {question.mistake}")
        _add_text(entry, "questiontext", rich(question.text), format="html")
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
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, "unicode") + "\n"


def _add_text(parent: ET.Element, name: str, text: str, **attributes: str) -> None:
    ET.SubElement(ET.SubElement(parent, name, attributes), "text").text = text


def anki(made: Iterable[Question]) -> str:
    """Return the questions as a text file that Anki imports, one card and line per question.

    The front has the question and its options, the back the correct one and what the others give.
    Each chapter is a deck, and each exercise a tag.
    """
    lines = ["#separator:tab", "#html:true", "#notetype:Basic", "#deck column:3", "#tags column:4"]
    for question in made:
        options = list(zip(LETTERS, question.options, strict=False))
        front = "".join(f"<br>{letter}. {rich(option.text)}" for letter, option in options)
        back = "<br>".join(
            f"{letter}. {rich(option.feedback)}"
            for letter, option in sorted(options, key=lambda pair: not pair[1].correct)
        )
        deck = f"cnnlab::Chapter {question.chapter}"
        lines.append("\t".join([f"{rich(question.text)}{front}", back, deck, question.exercise]))
    return "\n".join(lines) + "\n"

import re
from xml.etree import ElementTree as ET

import pytest

from cnnlab import check
from cnnlab.check import EXERCISES
from cnnlab.course import questions
from cnnlab.course.check import multiple_choice
from cnnlab.course.check.feedback import rich
from cnnlab.course.cli import main


@pytest.fixture(scope="module")
def bank():
    return questions.bank()  # it judges every known mistake, so it's built once


def test_most_known_mistakes_become_questions(bank):
    n_mistakes = sum(len(exercise.mistakes) for exercise in EXERCISES.values())
    assert len(bank) > 0.75 * n_mistakes
    assert len({(q.exercise, q.mistake) for q in bank}) == len(bank)


def test_exactly_one_option_is_correct_and_only_it_gives_the_result(bank):
    for question in bank:
        correct = [option for option in question.options if option.correct]
        assert len(correct) == 1
        assert len({option.text for option in question.options}) == multiple_choice.N_OPTIONS
        got = re.search(r" is (`[^`]*`), but it should be (`[^`]*`)\.", question.text)
        assert got[1] != got[2]
        for option in question.options:
            if not option.correct:
                assert not option.feedback.endswith(f"would be {got[1]}.")
                assert "`" in option.feedback or "still be correct" in option.feedback


def test_the_correct_option_is_in_every_place_and_stays_there(bank):
    places = [[option.correct for option in question.options].index(True) for question in bank]
    for place in range(multiple_choice.N_OPTIONS):
        assert 0.15 < places.count(place) / len(places) < 0.35
    assert multiple_choice.questions(EXERCISES["mixup"], 4) == [
        q for q in bank if q.exercise == "mixup"
    ]


def test_the_cause_of_a_question_is_the_diagnosis_of_the_check(bank):
    """A question would mislead if the check gave the same result another name."""
    for question in bank[::9]:
        exercise = EXERCISES[question.exercise]
        mistake = exercise.mistakes[question.mistake]
        outcome = exercise.judge(mistake.attempt)
        correct = next(option for option in question.options if option.correct)
        assert outcome.says.casefold() == correct.text.casefold()


def test_a_quiz_shows_each_exercise_once_and_needs_no_script():
    shown = check.quiz(4)
    assert [question.exercise for question in shown.questions] == [
        "mixup",
        "cutmix",
        "fit_temperature",
    ]
    html = shown._repr_html_()
    assert html.count("<details>") == 3 * multiple_choice.N_OPTIONS
    assert html.count("✔") == 3
    assert "<script" not in html
    ET.fromstring(f"<div>{html}</div>")  # every tag is closed, and every < escaped
    with pytest.raises(ValueError, match="chapter is 99, but it must be one of"):
        check.quiz(99)


def test_moodle_reads_one_correct_answer_per_question(tmp_path, capsys, bank, monkeypatch):
    monkeypatch.setattr(questions, "bank", lambda chapters: bank)
    assert main(["questions", str(tmp_path / "bank")]) == 0
    assert f"{len(bank)} questions are in" in capsys.readouterr().out
    root = ET.parse(tmp_path / "bank" / "moodle.xml").getroot()
    entries = root.findall("question[@type='multichoice']")
    assert len(entries) == len(bank)
    for entry, question in zip(entries, bank, strict=True):
        assert entry.findtext("questiontext/text") == rich(question.text)
        fractions = [answer.get("fraction") for answer in entry.findall("answer")]
        assert sorted(fractions) == ["0", "0", "0", "100"]
        assert all(answer.findtext("feedback/text") for answer in entry.findall("answer"))
    categories = root.findall("question[@type='category']")
    assert len(categories) == len({question.exercise for question in bank})


def test_anki_reads_one_card_per_line_with_deck_and_tag(bank):
    lines = questions.anki(bank).splitlines()
    header, cards = lines[:5], [line.split("\t") for line in lines[5:]]
    assert header[0] == "#separator:tab"
    assert len(cards) == len(bank)
    for card, question in zip(cards, bank, strict=True):
        front, back, deck, tag = card
        assert (deck, tag) == (f"cnnlab::Chapter {question.chapter}", question.exercise)
        correct = next(option for option in question.options if option.correct)
        letter = back[0]
        assert f"{letter}. {rich(correct.text)}" in front


def test_some_chapters_alone(tmp_path, capsys):
    assert main(["questions", str(tmp_path), "4"]) == 0
    assert "chapter 4" in (tmp_path / "moodle.xml").read_text().lower()
    assert "chapter 5" not in (tmp_path / "moodle.xml").read_text().lower()
    assert main(["questions", str(tmp_path), "77"]) == 1
    assert "chapter 77 has no exercises" in capsys.readouterr().err

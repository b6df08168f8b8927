import ast
import csv
import re
from xml.etree import ElementTree as ET

import pytest

from cnnlab import check
from cnnlab.check import EXERCISES
from cnnlab.course import notebooks, questions
from cnnlab.course.check import multiple_choice, quizzes
from cnnlab.course.check.feedback import rich
from cnnlab.course.cli import main


CHAPTERS = {
    int(path.name[:2]): path.with_suffix(".py").read_text(encoding="utf-8")
    for path in notebooks.chapters()
    if path.name[0].isdigit()
}
STORED = {
    prediction.question: (chapter, prediction)
    for chapter, module in check.modules.chapter_modules().items()
    for prediction in module.PREDICTIONS
}


@pytest.fixture(scope="module")
def everything():
    return questions.bank()  # it judges every known mistake, so it's made once


@pytest.fixture(scope="module")
def bank(everything):
    return [question for question in everything if question.topic != quizzes.TOPIC]


@pytest.fixture(scope="module")
def predicted(everything):
    return [question for question in everything if question.topic == quizzes.TOPIC]


def test_most_known_mistakes_become_questions(bank):
    n_mistakes = sum(len(exercise.mistakes) for exercise in EXERCISES.values())
    assert len(bank) > 0.75 * n_mistakes
    assert len({(q.topic, q.name) for q in bank}) == len(bank)


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
        q for q in bank if q.topic == "mixup"
    ]


def test_the_cause_of_a_question_is_the_diagnosis_of_the_check(bank):
    """A question would mislead if the check gave the same result another name."""
    for question in bank[::9]:
        exercise = EXERCISES[question.topic]
        mistake = exercise.mistakes[question.name]
        outcome = exercise.judge(mistake.attempt)
        correct = next(option for option in question.options if option.correct)
        assert outcome.says.casefold() == correct.text.casefold()


def verdicts(chapter):
    """Return the calls of check.prediction in a chapter, each with the title of its section."""
    section, found = "", []
    for cell in re.split(r"(?m)^# %%", CHAPTERS[chapter]):
        if cell.startswith(" [markdown]"):
            section = (re.findall(r"(?m)^# ## (?:\d+\.\d+ )?(.+)$", cell) or [section])[-1]
        elif "check.prediction(" in cell:
            calls = (node for node in ast.walk(ast.parse(f"#{cell}")) if isinstance(node, ast.Call))
            found += [(c, section) for c in calls if ast.unparse(c.func) == "check.prediction"]
    return found


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_each_prediction_has_a_stored_answer_like_its_call_unless_the_page_says_why_not(chapter):
    page = notebooks.root() / "chapters" / "instructor" / "questions.md"
    left_out = " ".join(page.read_text(encoding="utf-8").split())
    for call, section in verdicts(chapter):
        question = ast.literal_eval(call.args[0])
        if question not in STORED:
            assert f"*{question}*" in left_out
            continue
        where, stored = STORED[question]
        assert (where, stored.section) == (chapter, section)
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        is_choice = bool(stored.options)
        assert is_choice == ("options" in given and stored.within != 0), question
        for name in {"within", "unit"} & {*given}:
            if isinstance(given[name], ast.Constant):
                assert getattr(stored, name) == given[name].value, question
        written = getattr(given.get("options"), "elts", [])
        if written and all(isinstance(option, ast.Constant) for option in written):
            assert stored.options == tuple(option.value for option in written), question
    assert {q for q, (c, _) in STORED.items() if c == chapter} <= {
        ast.literal_eval(call.args[0]) for call, _ in verdicts(chapter)
    }


def test_the_page_counts_the_predictions_that_are_left_out():
    n_calls = sum(len(verdicts(chapter)) for chapter in CHAPTERS)
    appendix = next(path for path in notebooks.chapters() if path.name.startswith("A_"))
    n_in_appendix = appendix.with_suffix(".py").read_text("utf-8").count("check.prediction(")
    assert n_calls + n_in_appendix - len(STORED) == 6


def test_predictions_become_questions_with_a_number_or_one_correct_option(predicted):
    assert {question.name for question in predicted} == {*STORED}
    for question in predicted:
        _, stored = STORED[question.name]
        assert question.text.startswith(stored.text)
        if stored.options:
            correct = [option for option in question.options if option.correct]
            assert [option.text for option in correct] == [stored.answer]
            feedback = {option.feedback.partition(". ")[2] for option in question.options}
        else:
            assert question.text.endswith("counts.)")
            assert (question.answer, question.within) == (stored.answer, stored.within)
            feedback = {question.feedback}
        (feedback,) = feedback  # the same for everybody
        assert feedback.startswith("The result is ")
        assert f"(section “{stored.section}”)" in feedback
        assert feedback.endswith(stored.why)
    assert len(predicted) > 60


def test_a_quiz_shows_each_exercise_and_two_predictions_and_needs_no_script():
    shown = check.quiz(4)
    topics = [question.topic for question in shown.questions]
    assert topics == ["mixup", "cutmix", "fit_temperature", "predictions", "predictions"]
    assert shown == check.quiz(4)
    html = shown._repr_html_()
    n_options = sum(len(getattr(q, "options", "1")) for q in shown.questions)
    assert html.count("<details>") == len(topics) + n_options
    assert html.count("✔") == 3
    assert "<script" not in html
    assert "Fraction of nearly pure images" in html or "CutMix" in html
    with pytest.raises(ValueError, match="chapter is 99, but it must be one of"):
        check.quiz(99)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_quiz_of_every_chapter_is_small_and_well_formed(chapter):
    shown = check.quiz(chapter)
    assert 3 <= len(shown.questions) <= 9
    html = shown._repr_html_()
    ET.fromstring(f"<div>{html}</div>")  # every tag is closed, and every < escaped
    assert all(question.text in repr(shown) for question in shown.questions)


def test_moodle_reads_one_correct_answer_per_question(
    tmp_path, capsys, bank, everything, monkeypatch
):
    monkeypatch.setattr(questions, "bank", lambda chapters: everything)
    assert main(["questions", str(tmp_path / "bank")]) == 0
    assert f"{len(everything)} questions are in" in capsys.readouterr().out
    root = ET.parse(tmp_path / "bank" / "moodle.xml").getroot()
    choices = [
        question for question in everything if isinstance(question, multiple_choice.Question)
    ]
    entries = root.findall("question[@type='multichoice']")
    assert len(entries) == len(choices) > len(bank)
    for entry, question in zip(entries, choices, strict=True):
        assert entry.findtext("questiontext/text") == rich(question.text)
        fractions = [answer.get("fraction") for answer in entry.findall("answer")]
        assert sorted(fractions) == ["0"] * (len(question.options) - 1) + ["100"]
        assert all(answer.findtext("feedback/text") for answer in entry.findall("answer"))
    categories = root.findall("question[@type='category']")
    assert len(categories) == len({(q.chapter, q.topic) for q in everything})


def test_moodle_reads_numbers_with_their_tolerance(everything):
    root = ET.fromstring(questions.moodle(everything))
    numbers = [q for q in everything if isinstance(q, quizzes.NumberQuestion)]
    entries = root.findall("question[@type='numerical']")
    assert len(entries) == len(numbers) > 40
    for entry, question in zip(entries, numbers, strict=True):
        assert entry.findtext("name/text") == f"predictions: {question.name}"
        (answer,) = entry.findall("answer")
        assert answer.get("fraction") == "100"
        assert float(answer.findtext("text")) == question.answer
        assert float(answer.findtext("tolerance")) == question.within
        assert entry.findtext("generalfeedback/text") == rich(question.feedback)


def test_anki_reads_one_card_per_line_with_deck_and_tag(everything):
    lines = questions.anki(everything).splitlines()
    header, cards = lines[:5], [*csv.reader(lines[5:], "excel-tab")]
    assert header[0] == "#separator:tab"
    assert len(cards) == len(everything)
    assert len({front for front, *_ in cards}) == len(cards)  # Anki would merge two of them
    for (front, back, deck, tag), question in zip(cards, everything, strict=True):
        assert (deck, tag) == (f"cnnlab::Chapter {question.chapter}", question.topic)
        assert front.startswith(rich(question.text))
        if isinstance(question, quizzes.NumberQuestion):
            assert back == rich(question.feedback)
        else:
            correct = next(option for option in question.options if option.correct)
            assert f"{back[0]}. {rich(correct.text)}" in front


def test_some_chapters_alone(tmp_path, capsys):
    assert main(["questions", str(tmp_path), "4"]) == 0
    assert "chapter 4" in (tmp_path / "moodle.xml").read_text().lower()
    assert "chapter 5" not in (tmp_path / "moodle.xml").read_text().lower()
    assert main(["questions", str(tmp_path), "77"]) == 1
    assert "chapter 77 has no exercises" in capsys.readouterr().err

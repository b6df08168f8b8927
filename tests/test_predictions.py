"""Test how predictions are read, judged, remembered and drawn."""

import ast
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cnnlab import check
from cnnlab.check import predictions
from cnnlab.check.confidence import FOLDER, entries
from cnnlab.check.guesses import plain
from cnnlab.check.predictions import OPEN, RIGHT, UNCLEAR, WRONG, judge


OPTIONS = ["lower", "higher", "unfrozen"]


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CNNLAB_STATIC", raising=False)


@pytest.mark.parametrize("guess", ["lower", "Lower", " lower ", "LOWER.", "lowr", "lowre", "low"])
def test_case_spaces_and_typos_of_a_word_are_forgiven(guess):
    verdict = judge(guess, "lower", options=OPTIONS)
    assert verdict.mark == RIGHT
    assert ("Did you mean 'lower'? Counted as lower" in verdict.text) == (
        guess.strip(" .").lower() != "lower"
    )
    assert judge(guess, "higher", options=OPTIONS).mark == WRONG


@pytest.mark.parametrize("guess", ["equal", "frozen", "l", "lower or higher?", 3, True, [1, 2]])
def test_a_word_that_is_no_option_is_asked_about_and_does_not_count(guess):
    options = [*OPTIONS, "lower or the same"]
    verdict = judge(guess, "unfrozen", options=options)
    assert verdict.mark == UNCLEAR
    assert "'lower'" in verdict.text
    assert verdict.text.endswith("The answer is unfrozen.")


@pytest.mark.parametrize(
    ("guess", "result", "options"),
    [
        ("normalized", "normalised", ["normalised", "centred"]),
        ("centered", "centred", ["normalised", "centred"]),
        ("color", "colour", ["colour", "grey"]),
        ("Gray", "grey", ["colour", "grey"]),
        ("onecycle", "one-cycle", ["one-cycle", "step"]),
        ("block 1", "block1", ["block1", "block2"]),
        ("1e-3", 0.001, [0.001, 0.03]),
        (0.30, "0.3", ["0.3", "0.3 warmed up"]),
        (np.str_("a"), "a", ["a", "b"]),
    ],
)
def test_spelling_and_the_form_of_a_number_are_forgiven_silently(guess, result, options):
    verdict = judge(guess, result, options=options)
    assert verdict.mark == RIGHT
    assert "Did you mean" not in verdict.text


@pytest.mark.parametrize(
    ("guess", "options"),
    [
        ("block3", ["block1", "block2"]),
        ("0.35", ["0.3", "0.4"]),
        ("decrease", ["increase", "same"]),
    ],
)
def test_another_number_and_an_opposite_are_no_typos(guess, options):
    assert judge(guess, options[0], options=options).mark == UNCLEAR


def test_without_options_another_word_is_wrong_however_near():
    assert judge("decrease", "increase").mark == WRONG
    assert judge("Increase ", "increase").mark == RIGHT


@pytest.mark.parametrize(
    "guess",
    [
        0.4, "0.4", "0,4", "40%", "40 %", "40 percent", 40, "4e-1", "about 0.4", "2/5", [0.4],
        torch.tensor(0.4), torch.tensor([0.4]), np.float32(0.4), np.array(0.4), (0.4, 0.7),
        (np.float64(0.4), "70%"), "0.4, 0.7",
    ],
)  # fmt: skip
def test_a_number_may_have_any_unit_and_type(guess):
    verdict = judge(guess, torch.tensor(0.45))
    assert verdict.mark == RIGHT
    assert "0.4" in verdict.text
    assert ", measured 0.45; within 0.1 is correct." in verdict.text
    assert judge(guess, 0.55).mark == WRONG


@pytest.mark.parametrize(
    "guess",
    ["high", True, float("nan"), "0.3 to 0.5", {"a": 1}, (0, 4), (0.1, 0.2, 0.3), len, "4 ms", 1j],
)
def test_what_is_no_number_is_asked_about_and_does_not_count(guess):
    verdict = judge(guess, 0.5)
    assert verdict.mark == UNCLEAR
    assert verdict.text.endswith("Measured: 0.5.")
    assert "isn't counted" in verdict.text or "A number is needed" in verdict.text


@pytest.mark.parametrize("guess", [..., None, "", " ", "...", "?", (..., 0.8), (None, 0.8)])
@pytest.mark.parametrize("result", [0.5, "lower", {"lower"}])
def test_no_prediction_shows_the_result_and_invites_to_make_one(guess, result, monkeypatch):
    verdict = judge(guess, result)
    assert verdict.mark == OPEN
    assert str(plain(next(iter(result)) if isinstance(result, set) else result)) in verdict.text
    assert "replace the ..." in verdict.text
    monkeypatch.setenv("CNNLAB_STATIC", "1")
    assert "prediction" not in judge(guess, result).text


def test_a_percentage_where_a_fraction_was_asked_for_is_read_as_one_and_said():
    text = judge(10, 0.12).text
    assert text == "You predicted 10, read as 10 % = 0.1, measured 0.12; within 0.1 is correct."
    assert judge(10, 0.55).mark == WRONG
    assert judge(1, 0.03, within=0.05).text.startswith("You predicted 1, read as 1 % = 0.01,")
    assert judge(1, 0.5).text.startswith("You predicted 1, measured 0.5")
    assert judge(10, 12.0, within=1).text.startswith("You predicted 10, measured 12;")
    assert judge(0.45, 44.0, within=5, unit="points").text.startswith(
        "You predicted 0.45, read as 45 points, measured 44 points; within 5 points"
    )
    assert judge("44%", 44.0, within=5, unit="points").mark == RIGHT
    assert judge("1 point", 0.8, within=0.5, unit="points").mark == RIGHT
    assert judge("5 s", 5.0, unit="ms").mark == UNCLEAR
    assert judge("5 ms", 5.0, unit="ms").mark == RIGHT


def test_the_bound_itself_counts_and_numbers_are_short():
    assert judge(0.45, 0.55).mark == RIGHT
    assert judge(0.449, 0.55).mark == WRONG
    assert judge(1 / 12, 1 / 12).text == (
        "You predicted 0.083, measured 0.083; within 0.1 is correct."
    )
    assert judge(3, 4, within=0.05).text.endswith("measured 4; only the exact number counts.")
    assert judge(math.inf, math.inf).mark == RIGHT
    assert judge(0.5, math.nan).mark == UNCLEAR


@pytest.mark.parametrize("guess", ["yes", True, "True", "Y", ("yes", 0.9)])
@pytest.mark.parametrize("result", [True, np.bool_(True), torch.tensor(True), "yes"])
def test_a_truth_value_is_yes_or_no(guess, result):
    assert judge(guess, plain(result)).mark == RIGHT
    assert judge(guess, not result if isinstance(result, bool) else "no").mark == WRONG


@pytest.mark.parametrize(
    "guess",
    [
        {"flip", "crop"}, ["crop", "flip"], ("flip", "crop"), "Flip, crop", "crop and flip",
        ({"flip", "crop"}, 0.8), ["flipp", "crop"],
    ],
)  # fmt: skip
def test_a_set_of_words_may_be_written_in_any_form(guess):
    options = ["flip", "crop", "cutout"]
    assert judge(guess, {"flip", "crop"}, options=options).mark == RIGHT
    assert judge(guess, {"flip"}, options=options).mark == WRONG
    assert judge("flip, turn", {"flip"}, options=options).mark == UNCLEAR
    assert judge(["crop", "flip"], ["flip", "crop"]).mark == WRONG  # in a list, the order counts


@pytest.mark.parametrize(
    ("given", "sure"), [(0.8, 0.8), (80, 0.8), ("80%", 0.8), ("0.8", 0.8), (1, 1.0), (0, 0.0)]
)
def test_a_confidence_follows_the_guess(given, sure):
    verdict = judge(("lower", given), "lower", options=OPTIONS)
    assert verdict.sure == pytest.approx(sure)
    assert f"({100 * sure:g} % sure)" in verdict.text


@pytest.mark.parametrize("given", [-1, 101, math.inf])
def test_an_impossible_confidence_is_named_and_the_guess_counts(given):
    verdict = judge(("lower", given), "lower", options=OPTIONS)
    assert verdict.mark == RIGHT
    assert verdict.sure is None
    assert f"A confidence is a number from 0 to 1, not {given}." in verdict.text


def test_prediction_prints_wrapped_lines_and_returns_nothing(capsys):
    question = "Which of the three schedules of this section gives the best validation accuracy?"
    assert (
        check.prediction(question, "one cycle", "one-cycle", options=["one-cycle", "step"]) is None
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("✔ Which of the three")
    assert lines[1].startswith("  ")
    assert all(len(line) <= 100 for line in lines)


def test_score_prints_every_prediction_and_counts_the_correct_ones(capsys):
    check.score({"A?": ("a", "a"), "B?": (0.5, 0.1), "C?": (..., "b"), "D?": (0.55, 0.5)})
    assert capsys.readouterr().out.splitlines() == [
        "✔ A? You predicted a. The answer is a.",
        "✘ B? You predicted 0.5, measured 0.1; within 0.1 is correct.",
        "· C? The answer is b. You made no prediction: replace the ... above to make one.",
        "✔ D? You predicted 0.55, measured 0.5; within 0.1 is correct.",
        "2 of 3 predictions were correct.",
    ]
    check.score({"A?": (..., "a")})
    assert capsys.readouterr().out.count("\n") == 1


def test_an_answer_can_come_from_the_module_of_a_chapter(monkeypatch, capsys):
    stored = check.core.Prediction("Is it learnt?", "", "yes", "", "", options=("yes", "no"))
    monkeypatch.setattr(check.chapter07, "PREDICTIONS", (stored,))
    predictions._answers.cache_clear()
    check.prediction("Is it learnt?", "Yes")
    assert capsys.readouterr().out == "✔ Is it learnt? You predicted yes. The answer is yes.\n"
    with pytest.raises(ValueError, match=r"'Is it learned\?'.*did you mean 'Is it learnt\?'"):
        check.prediction("Is it learned?", "yes")
    with pytest.raises(ValueError, match="give the result of the experiment"):
        check.prediction("Something else", "yes")
    predictions._answers.cache_clear()


# --- confidence -----------------------------------------------------------------------------------


def test_nothing_is_written_without_a_confidence():
    for guess in ("a", "b", ..., ("c", 150), (..., 0.8)):
        check.prediction("Q?", guess, "a", options=["a", "b"])
    assert not list(Path().iterdir())


def test_an_entry_is_replaced_when_its_cell_runs_again_and_removed_without_a_confidence():
    check.prediction("Q?", ("a", 0.8), "a")
    check.prediction("R?", (0.5, 0.6), 0.9)
    assert {(e.question, e.sure, e.correct) for e in entries()} == {
        ("Q?", 0.8, True),
        ("R?", 0.6, False),
    }
    check.prediction("Q?", ("b", "90%"), "a")
    assert {(e.question, e.sure, e.correct) for e in entries()} == {
        ("Q?", 0.9, False),
        ("R?", 0.6, False),
    }
    check.prediction("Q?", "b", "a")
    assert [e.question for e in entries()] == ["R?"]


MANY = """
from cnnlab import check
for i in range(20):
    check.prediction(f"{} {{i}}?", ("a", 0.7), "a")
"""


def test_two_notebooks_at_once_lose_nothing():
    running = [subprocess.Popen([sys.executable, "-c", MANY.format(name)]) for name in "xy"]
    assert [child.wait(timeout=120) for child in running] == [0, 0]
    assert len(entries()) == 40
    assert not [path for path in FOLDER.iterdir() if path.suffix != ".json"]


def test_damaged_entries_are_left_out():
    check.prediction("Q?", ("a", 0.8), "a")
    for i, text in enumerate(["", "[]", "{}", '{"question": "x", "sure": "y", "correct": true}']):
        (FOLDER / f"{i}.json").write_text(text)
    assert len(entries()) == 1


def test_where_nothing_can_be_written_the_session_remembers(capsys):
    Path(".cnnlab").write_text("a file")
    check.prediction("Q?", ("a", 0.8), "a")
    assert "kept for this session only" in capsys.readouterr().out
    assert [e.question for e in entries()] == ["Q?"]
    check.prediction("Q?", "a", "a")
    assert not entries()


def test_calibration_shows_each_group_with_its_count_and_the_brier_score(capsys):
    assert check.calibration() is None
    assert 'my_guess = "lower", 0.8' in capsys.readouterr().out
    outcomes = [(0.8, True)] * 7 + [(0.8, False)] * 3 + [(0.5, True), (0.5, False), (1, True)]
    for i, (sure, correct) in enumerate(outcomes):
        check.prediction(f"{i}?", ("a" if correct else "b", sure), "a", options=["a", "b"])
    plot = check.calibration()
    brier = (7 * 0.2**2 + 3 * 0.8**2 + 2 * 0.5**2) / 13
    title = plot.figure.get_suptitle().replace("\n", " ")
    assert title.startswith("13 predictions with a confidence: you were 77 % sure on average")
    assert "9 of 13 (69 %) were correct" in title
    assert f"Brier score {brier:.2f}" in title
    assert "say little" in title
    for part in ("1 of 2 (9 to 91 %) at 50 % sure", "7 of 10 (40 to 89 %) at 80 % sure"):
        assert part in plot.alt
    assert [text.get_text() for text in plot.figure.axes[0].texts] == [
        "1 of 2",
        "7 of 10",
        "1 of 1",
    ]


def test_an_entry_is_readable_text():
    check.prediction("Q?", ("a", 0.8), "a")
    (path,) = FOLDER.iterdir()
    assert json.loads(path.read_text()) == {"question": "Q?", "sure": 0.8, "correct": True}


# --- the predictions of the chapters --------------------------------------------------------------


CHAPTERS = {
    path.stem: text
    for path in sorted((Path(__file__).parents[1] / "chapters").glob("*.py"))
    if "check.score(" not in (text := path.read_text())
}


def cells(text):
    """Yield the tags and the syntax tree of each code cell of a script."""
    for cell in re.split(r"(?m)^# %%", text)[1:]:
        header, _, source = cell.partition("\n")
        if "[markdown]" not in header:
            yield header, ast.parse(source)


def verdicts(tree):
    """Return the calls of check.prediction."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return [call for call in calls if ast.unparse(call.func) == "check.prediction"]


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_each_prediction_is_judged_before_the_next_and_its_answer_is_no_constant(chapter):
    waiting = set()
    for header, tree in cells(CHAPTERS[chapter]):
        if '"predict"' in header:
            assert not waiting, "predictions without a verdict"
            waiting = {ast.unparse(node.targets[0]) for node in tree.body}
        for call in verdicts(tree):
            assert '"check"' in header
            waiting.remove(ast.unparse(call.args[1]))
            assert not any(isinstance(node, ast.Constant) for node in call.args[2:])
    assert not waiting


def test_no_two_predictions_have_the_same_question():
    questions = [
        ast.literal_eval(call.args[0])
        for text in CHAPTERS.values()
        for _, tree in cells(text)
        for call in verdicts(tree)
    ]
    assert len(questions) >= 33
    assert len({*questions}) == len(questions)

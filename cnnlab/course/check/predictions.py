"""Judge a prediction in the cell after its experiment: what was expected, and what was measured."""

import difflib
import math
import os
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from numbers import Integral
from typing import Any

from cnnlab.course.check import confidence
from cnnlab.course.check.guesses import (
    PERCENT,
    YES_NO,
    Number,
    choose,
    is_missing,
    is_number,
    plain,
    read_number,
    split_confidence,
    word,
    words,
)
from cnnlab.course.check.modules import chapter_modules


RIGHT, WRONG, OPEN, UNCLEAR = "✔", "✘", "·", "?"


@dataclass(frozen=True)
class Verdict:
    """What a prediction turned out to be.

    Attributes:
        mark: one of `RIGHT`, `WRONG`, `OPEN` (nothing predicted) and `UNCLEAR` (can't be read).
        text: what is printed behind the question.
        sure: how sure the student was, from 0 to 1, or None.
    """

    mark: str
    text: str
    sure: float | None = None


def prediction(
    question: str,
    guess: Any,
    result: Any = None,
    *,
    within: float = 0.1,
    options: Iterable[Any] | None = None,
    unit: str = "",
) -> None:
    """Judge one prediction in the cell after its experiment, and print what was measured.

    Case, spaces, small typos, and British or American spelling don't matter, and "40%" is 0.4. A
    guess that can't be read is asked about, and counts neither as correct nor as incorrect.

    Args:
        question: the question that the prediction answers.
        guess: the prediction, such as `0.4` or `"lower"`; `...` or None if there is none. With a
            confidence from 0 to 1 behind it, as in `"lower", 0.8`, it also counts in `calibration`.
        result: what the experiment gave: a number, a word, a truth value, or a set of words. By
            default the answer that a chapter of the package has under this question.
        within: how far a predicted number may be from the result and still count as correct.
        options: the words or numbers to choose from.
        unit: of the result, such as "points"; by default it is a fraction or a plain number.

    Raises:
        ValueError: there is no result, and no chapter has an answer to this question.

    >>> prediction("Which is better?", "Lowr", "lower", options=["lower", "higher"])
    ✔ Which is better? Did you mean 'lower'? Counted as lower. The answer is lower.
    >>> prediction("How much better?", "20%", 0.128)
    ✔ How much better? You predicted 20 % = 0.2, measured 0.128; within 0.1 is correct.
    """
    _report(question, guess, result, within, options, unit)


def score(predictions: Mapping[str, tuple[Any, Any]], within: float = 0.1) -> None:
    """Judge several predictions as `prediction` does, and print how many were correct.

    Args:
        predictions: question -> (your prediction, the result).
        within: how far a predicted number may be from the result and still count as correct.

    >>> score({"Which is better?": ("a", "a"), "By how much?": (0.5, 0.1)})
    ✔ Which is better? You predicted a. The answer is a.
    ✘ By how much? You predicted 0.5, measured 0.1; within 0.1 is correct.
    1 of 2 predictions were correct.
    """
    marks = [_report(question, *pair, within) for question, pair in predictions.items()]
    judged = [mark for mark in marks if mark in (RIGHT, WRONG)]
    if judged:
        print(f"{judged.count(RIGHT)} of {len(judged)} predictions were correct.")


def _report(
    question: str,
    guess: Any,
    result: Any,
    within: float,
    options: Iterable[Any] | None = None,
    unit: str = "",
) -> str:
    """Print the verdict, remember it if it has a confidence, and return its mark."""
    result = _sealed(question) if result is None else result
    verdict = judge(guess, result, within, options, unit)
    print(textwrap.fill(f"{verdict.mark} {question} {verdict.text}", 100, subsequent_indent="  "))
    if verdict.mark in (RIGHT, WRONG):
        confidence.remember(question, verdict.sure, verdict.mark == RIGHT)
    return verdict.mark


def judge(
    guess: Any,
    result: Any,
    within: float = 0.1,
    options: Iterable[Any] | None = None,
    unit: str = "",
) -> Verdict:
    """Return the verdict on a guess; the arguments are those of `prediction`."""
    result = plain(result)
    choices = None if options is None else [word(plain(option)) for option in options]
    wants_number = choices is None and is_number(result)
    fact = f"The answer is {_listed(result)}."
    if wants_number:
        fact = f"Measured: {rounded(result, within, unit)}."
    value, sure, problem = split_confidence(guess, wants_number)
    if is_missing(value):
        return Verdict(OPEN, fact + _invitation())
    if problem and value is guess:
        return Verdict(UNCLEAR, f"{problem}. {guess} isn't counted. {fact}")
    if wants_number:
        mark, text = _judge_number(value, result, within, unit, sure, fact)
    elif isinstance(result, set | frozenset | list | tuple):
        mark, text = _judge_collection(value, result, choices, sure, fact)
    else:
        mark, text = _judge_word(value, word(result), choices, sure, fact)
    return Verdict(mark, f"{text} {problem}." if problem else text, sure)


def _judge_number(
    guess: Any, result: Any, within: float, unit: str, sure: float | None, fact: str
) -> tuple[str, str]:
    number = read_number(guess)
    known = {"", *PERCENT} if unit in {"", *PERCENT} else {"", unit, _singular(unit)}
    if number is None or math.isnan(number.value) or number.unit not in known:
        return UNCLEAR, f"A number is needed, such as 0.5, not {guess!r:.40}. {fact}"
    if math.isnan(result):
        return UNCLEAR, f"{fact} So there is nothing to compare your prediction with."
    value, shown = _in_unit(number, float(result), within, unit)
    near = f"within {rounded(within, within, unit)} is correct"
    if within == 0 or (isinstance(result, Integral) and within < 1):
        near = "only the exact number counts"
    return RIGHT if _is_near(value, result, within) else WRONG, (
        f"You predicted {shown}{_confidence(sure)}, "
        f"measured {rounded(result, within, unit)}; {near}."
    )


def _in_unit(number: Number, result: float, within: float, unit: str) -> tuple[float, str]:
    """Return a guess in the unit of the result, and how it was read.

    A bare number that is far off may be a percentage where a fraction was asked for, or the other
    way round. How it was read is always said.
    """
    value, typed = number.value, f"{number.value:.6g}"
    hundredths = unit in PERCENT
    if number.unit in PERCENT and not hundredths:
        return value / 100, f"{typed} {number.unit} = {rounded(value / 100, within)}"
    if not number.unit and not _is_near(value, result, within):
        percent = (
            _is_near(value / 100, result, within) if abs(value) == 1 else 1 < abs(value) <= 100
        )
        if not unit and abs(result) <= 1 and percent:
            return value / 100, f"{typed}, read as {typed} % = {rounded(value / 100, within)}"
        if hundredths and abs(value) <= 1 and _is_near(100 * value, result, within):
            return 100 * value, f"{typed}, read as {rounded(100 * value, within, unit)}"
    return value, rounded(value, within, unit)


def _judge_word(
    guess: Any, result: str, options: list[str] | None, sure: float | None, fact: str
) -> tuple[str, str]:
    options = options or (list(YES_NO) if result in YES_NO else None)
    known = [result] if options is None else [*dict.fromkeys([*options, result])]
    if isinstance(guess, list | tuple | set | frozenset | dict):
        return UNCLEAR, f"A single answer is needed, such as {known[0]!r}. {fact}"
    typed = word(guess)
    meant, exact = choose(typed, known)
    if options is None and not exact:  # other answers are possible, so there is no nearest one
        return WRONG, f"You predicted {typed:.60}{_confidence(sure)}. {fact}"
    if meant is None:
        allowed = ", ".join(map(repr, options or known))
        shown = repr(guess if isinstance(guess, str | bool) else typed)
        return UNCLEAR, f"{shown:.60} is not one of: {allowed}. It isn't counted. {fact}"
    said = f"You predicted {meant}{_confidence(sure)}."
    if not exact:
        said = f"Did you mean {meant!r}? Counted as {meant}{_confidence(sure)}."
    return RIGHT if meant == choose(result, known)[0] else WRONG, f"{said} {fact}"


def _judge_collection(
    guess: Any, result: Any, options: list[str] | None, sure: float | None, fact: str
) -> tuple[str, str]:
    """Judge a set of words, or a list of words, whose order counts."""
    expected = words(result)
    known = [*dict.fromkeys([*(options or []), *expected])]
    typed = words(guess)
    chosen = [choose(item, known) for item in typed]
    strange = [
        item
        for item, (meant, exact) in zip(typed, chosen, strict=True)
        if meant is None or (options is None and not exact)
    ]
    if options is not None and strange:
        allowed = ", ".join(map(repr, options))
        return UNCLEAR, f"{strange[0]!r} is not one of: {allowed}. It isn't counted. {fact}"
    meant = [item if item in strange else m for item, (m, _) in zip(typed, chosen, strict=True)]
    ordered = isinstance(result, list | tuple)
    same = meant == expected if ordered else {*meant} == {*expected}
    said = f"You predicted {', '.join(map(str, meant))}{_confidence(sure)}."
    return RIGHT if same else WRONG, f"{said} {fact}"


def _is_near(value: float, result: float, within: float) -> bool:
    return value == result or abs(value - result) <= within + 1e-9 * max(1.0, abs(result))


def rounded(value: Any, within: float, unit: str = "") -> str:
    """Return a number with two digits more than the tolerance has, and its unit.

    >>> rounded(1 / 12, 0.1), rounded(1e-5, 0.1), rounded(1234.56, 10), rounded(1, 0.5, "points")
    ('0.083', '1e-05', '1234.6', '1 point')
    >>> rounded(1, 5, "ms")
    '1 ms'
    """
    value = float(value)
    digits = max(0, 2 + math.floor(-math.log10(within) + 1e-9)) if within > 0 else 6
    text = f"{value:.{digits}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    if value and text.strip("-") == "0":
        text = f"{value:.2g}"
    unit = _singular(unit) if text == "1" else unit
    return f"{text} {unit}" if unit else text


def _singular(unit: str) -> str:
    """Return the singular of a unit in words; a symbol such as "ms" has none."""
    return unit.removesuffix("s") if len(unit) > 2 else unit


def _confidence(sure: float | None) -> str:
    return "" if sure is None else f" ({100 * sure:.3g} % sure)"


def _listed(result: Any) -> str:
    if isinstance(result, set | frozenset | list | tuple):
        found = words(result)
        return ", ".join(found if isinstance(result, list | tuple) else sorted(found)) or "none"
    return word(result)


def _invitation() -> str:
    """Return how to predict; the pages of the book, where nobody can, don't say it."""
    if os.environ.get("CNNLAB_STATIC"):
        return ""
    return " You made no prediction: replace the ... above to make one."


@cache
def _answers() -> dict[str, Any]:
    """Return the stored answers: `PREDICTIONS` of each chapter's module."""
    chapters = chapter_modules().values()
    return {p.question: p.answer for chapter in chapters for p in chapter.PREDICTIONS}


def _sealed(question: str) -> Any:
    """Return the answer to a question that the package knows.

    Raises:
        ValueError: it knows no such question.
    """
    answers = _answers()
    if question in answers:
        return answers[question]
    near = difflib.get_close_matches(question, answers, 1)
    hint = f"did you mean {near[0]!r}?" if near else "give the result of the experiment as well"
    raise ValueError(f"no result for {question!r}, and no chapter has an answer to it: {hint}")

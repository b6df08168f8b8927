"""Turn the known mistakes of the exercises into multiple-choice questions.

A question shows the first wrong result of a known mistake and asks for its cause. The other options
are known mistakes of the same exercise that give another result, so exactly one option is correct,
and the feedback on each of the others is the result that it would give.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cnnlab.course.check.attempt import Attempt, Raised, parameters
from cnnlab.course.check.compare import agree, short
from cnnlab.course.check.core import MISSING, PROBLEMS, Exercise, Mistake, Observation
from cnnlab.course.check.feedback import rich
from cnnlab.course.check.modules import chapter_modules
from cnnlab.rng import fork_rng


N_OPTIONS = 4
_INTRODUCTION = (
    "<strong>Quiz.</strong> Each result comes from a mistake that people make in this exercise. "
    "Open an option to see whether it is the cause."
)
_WIDTH = 100  # characters of a result; a longer one can't be read in a question


@dataclass(frozen=True)
class Option:
    """One answer of a multiple-choice question.

    Attributes:
        text: the cause that it names.
        feedback: what somebody who chose it learns.
        correct: whether it is the answer.
    """

    text: str
    feedback: str
    correct: bool


@dataclass(frozen=True)
class Question:
    """A multiple-choice question with one correct option.

    Attributes:
        chapter: number of the chapter.
        exercise: name of the exercise.
        mistake: name of the known mistake that the question is about.
        text: the question; code stands between backticks.
        options: the options, in a random order that is always the same.
    """

    chapter: int
    exercise: str
    mistake: str
    text: str
    options: tuple[Option, ...]


@dataclass(frozen=True)
class Quiz:
    """Questions that a notebook or a page of the book shows, without a kernel or JavaScript.

    Attributes:
        questions: the questions, in order.
    """

    questions: tuple[Question, ...]

    def __repr__(self) -> str:
        lines = []
        for number, question in enumerate(self.questions, 1):
            lines.append(f"{number}. {question.text}")
            letters = zip("abcdef", question.options, strict=False)
            lines.extend(f"   {letter}) {option.text}" for letter, option in letters)
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<p>{_INTRODUCTION}</p><ol>{''.join(map(_question_html, self.questions))}</ol>"


def questions(exercise: Exercise, chapter: int) -> list[Question]:
    """Make a question from each known mistake of an exercise whose wrong result can be read.

    Args:
        exercise: the exercise.
        chapter: number of its chapter.

    Returns:
        The questions, in the order of the known mistakes. A mistake is left out if its wrong
        result is too long, or if fewer than three other mistakes give another result.
    """
    with fork_rng():
        problems = [_Problem.pose(exercise, seed) for seed in range(PROBLEMS)]
    made = (_question(exercise, name, problems, chapter) for name in exercise.mistakes)
    return [question for question in made if question is not None]


def quiz(chapter: int) -> Quiz:
    """Show one multiple-choice question about each exercise of a chapter.

    Open an option to see whether it is correct, and why not.

    Args:
        chapter: number of the chapter, from 0 to 13.

    Raises:
        ValueError: the chapter has no exercises.

    >>> print(quiz(0))
    1. You wrote `to_batch(pixels)`, from uint8 (H, W, 3) to float (1, 3, H, W) in [0, 1]. ...
    """
    modules = chapter_modules()
    if chapter not in modules:
        raise ValueError(f"chapter is {chapter!r}, but it must be one of {short([*modules], 80)}")
    made = (questions(exercise, chapter)[:1] for exercise in modules[chapter].EXERCISES)
    return Quiz(tuple(question for first in made for question in first))


@dataclass(frozen=True)
class _Problem:
    """What the reference solution and each known mistake give on one random problem."""

    expected: Observation
    given: Mapping[str, Observation]

    @classmethod
    def pose(cls, exercise: Exercise, seed: int) -> "_Problem":
        names = parameters(exercise.answer)
        given = {}
        for name, mistake in exercise.mistakes.items():
            try:
                given[name] = exercise.facts(Attempt(mistake.attempt, names), seed)
            except Raised:  # an error message is no riddle
                given[name] = {}
        return cls(exercise.facts(Attempt(exercise.answer, names), seed), given)

    def telling_facts(self, name: str) -> Iterator[str]:
        """Yield the facts that a mistake has wrong and that can be read, in order."""
        for fact, want in self.expected.items():
            got = self.given[name].get(fact, MISSING)
            if fact.endswith(".") or got is MISSING or agree(got, want):
                continue
            texts = short(got, _WIDTH), short(want, _WIDTH)
            if texts[0] != texts[1] and not any("of shape" in text for text in texts):
                yield fact


def _question(
    exercise: Exercise, name: str, problems: list[_Problem], chapter: int
) -> Question | None:
    """Make a question from the first wrong result that at least three other mistakes don't give."""
    for problem in problems:
        for fact in problem.telling_facts(name):
            got, want = problem.given[name][fact], problem.expected[fact]
            # A result that only looks the same has another type, which the question can't show.
            others = {
                other: facts[fact]
                for other, facts in problem.given.items()
                if fact in facts and _code(facts[fact]) != _code(got)
            }
            if len(others) < N_OPTIONS - 1:
                continue
            # A mistake that leaves this result correct is easier to rule out, so it comes last.
            hardest = sorted(others, key=lambda other: agree(others[other], want))
            options = [_correct(exercise.mistakes[name])] + [
                _incorrect(exercise.mistakes[other], others[other], want)
                for other in hardest[: N_OPTIONS - 1]
            ]
            random.Random(f"{exercise.name} {name}").shuffle(options)
            text = f"You wrote {exercise.task}. {_capitalised(fact.rstrip(','))} is {_code(got)}, "
            text += f"but it should be {_code(want)}. What is the cause?"
            return Question(chapter, exercise.name, name, text, tuple(options))
    return None


def _correct(mistake: Mistake) -> Option:
    hint = f" To repair it: {mistake.hint}" if mistake.hint else ""
    return Option(_capitalised(mistake.says), f"Correct.{hint}", True)


def _incorrect(mistake: Mistake, result: Any, want: Any) -> Option:
    if agree(result, want):
        feedback = "No: with this mistake, the result would still be correct."
    else:
        feedback = f"No: with this mistake, the result would be {_code(result)}."
    return Option(_capitalised(mistake.says), feedback, False)


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def _code(value: Any) -> str:
    return f"`{short(value, _WIDTH)}`"


def _question_html(question: Question) -> str:
    options = "".join(
        f"<details><summary>{rich(option.text)}</summary>"
        f"<p>{'✔' if option.correct else '✘'} {rich(option.feedback)}</p></details>"
        for option in question.options
    )
    return f"<li><p>{rich(question.text)}</p>{options}</li>"

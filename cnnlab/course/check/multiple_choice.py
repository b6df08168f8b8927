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
from cnnlab.rng import fork_rng


N_OPTIONS = 4
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
        topic: name of the exercise, or "predictions".
        name: of the known mistake that the question is about, or the prediction in short.
        text: the question; code stands between backticks.
        options: the options, in a random order that is always the same.
    """

    chapter: int
    topic: str
    name: str
    text: str
    options: tuple[Option, ...]


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

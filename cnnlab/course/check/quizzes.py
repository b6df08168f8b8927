"""Turn the predictions of a chapter into questions, and show the quiz at its end.

A prediction with options becomes a multiple-choice question, and one with a number a question with
a tolerance. The answers are stored beside the exercises, in `PREDICTIONS` of each chapter's module,
because a quiz can't repeat the experiments. The tests compare them with the executed chapters.
Predictions of a time aren't there: another machine would give another answer.
"""

import random
from dataclasses import dataclass

from cnnlab.course.check.compare import short
from cnnlab.course.check.core import Prediction
from cnnlab.course.check.feedback import rich
from cnnlab.course.check.modules import chapter_modules
from cnnlab.course.check.multiple_choice import Option, Question, questions
from cnnlab.course.check.predictions import rounded


TOPIC = "predictions"
LETTERS = "ABCDEFGH"
_N_PREDICTIONS = 2  # in a quiz, which also has a question about each exercise
_INTRODUCTION = "<strong>Quiz.</strong> Open a question, and then an option or the answer."


@dataclass(frozen=True)
class NumberQuestion:
    """A question whose answer is a number.

    Attributes:
        chapter: number of the chapter.
        topic: "predictions".
        name: the prediction in short.
        text: the question; code stands between backticks.
        answer: the number.
        within: how far an answer may be from it and still be correct.
        feedback: what the experiment gave, and why.
    """

    chapter: int
    topic: str
    name: str
    text: str
    answer: float
    within: float
    feedback: str


@dataclass(frozen=True)
class Quiz:
    """Questions that a notebook or a page of the book shows, without a kernel or JavaScript.

    Attributes:
        questions: the questions, in order.
    """

    questions: tuple[Question | NumberQuestion, ...]

    def __repr__(self) -> str:
        lines = []
        for number, question in enumerate(self.questions, 1):
            lines.append(f"{number}. {question.text}")
            if isinstance(question, Question):
                letters = zip(LETTERS.lower(), question.options, strict=False)
                lines.extend(f"   {letter}) {option.text}" for letter, option in letters)
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<p>{_INTRODUCTION}</p><ol>{''.join(map(_question_html, self.questions))}</ol>"


def quiz(chapter: int) -> Quiz:
    """Show a question about each exercise of a chapter, and about two of its predictions.

    Open a question, and then an option to see whether it is correct, and why not.

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
    about_exercises = [questions(exercise, chapter)[:1] for exercise in modules[chapter].EXERCISES]
    chosen = predicted(chapter)
    if len(chosen) > _N_PREDICTIONS:
        chosen = random.Random(chapter).sample(chosen, _N_PREDICTIONS)
    return Quiz((*(question for first in about_exercises for question in first), *chosen))


def predicted(chapter: int) -> list[Question | NumberQuestion]:
    """Make a question from each stored prediction of a chapter.

    Args:
        chapter: number of the chapter.
    """
    made: list[Question | NumberQuestion] = []
    for prediction in chapter_modules()[chapter].PREDICTIONS:
        if prediction.options:
            options = tuple(_option(prediction, option) for option in prediction.options)
            text = prediction.text
            made.append(Question(chapter, TOPIC, prediction.question, text, options))
        else:
            made.append(
                NumberQuestion(
                    chapter,
                    TOPIC,
                    prediction.question,
                    f"{prediction.text} ({_tolerance(prediction)})",
                    float(prediction.answer),
                    prediction.within,
                    _evidence(prediction),
                )
            )
    return made


def _option(prediction: Prediction, option: str) -> Option:
    correct = option == prediction.answer
    verdict = "Correct" if correct else "No"
    return Option(option, f"{verdict}. {_evidence(prediction)}", correct)


def _evidence(prediction: Prediction) -> str:
    result = prediction.answer
    if isinstance(result, int | float):
        result = rounded(result, prediction.within, prediction.unit)
    return f"The result is {result} (section “{prediction.section}”). {prediction.why}"


def _tolerance(prediction: Prediction) -> str:
    if not prediction.within:
        return "Only the exact number counts."
    return f"Within {rounded(prediction.within, prediction.within, prediction.unit)} counts."


def _question_html(question: Question | NumberQuestion) -> str:
    if isinstance(question, NumberQuestion):
        title, parts = question.name, [("Answer", question.feedback)]
    else:
        title = question.name
        if question.topic != TOPIC:
            title = f"`{question.topic}`: which mistake is it?"
        parts = [
            (option.text, f"{'✔' if option.correct else '✘'} {option.feedback}")
            for option in question.options
        ]
    folded = "".join(
        f"<details><summary>{rich(summary)}</summary><p>{rich(text)}</p></details>"
        for summary, text in parts
    )
    return (
        f"<li><details><summary>{rich(title)}</summary><p>{rich(question.text)}</p>{folded}"
        "</details></li>"
    )

"""Checks for the exercises: each confirms a correct function, or names the misconception.

>>> from cnnlab import check
>>> check.evaluate(lambda model, loader: 0.5)
✘ evaluate: ...

Every exercise comes with a reference solution and several known mistakes. The tests make sure that
the check accepts the first and recognises each of the others.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from numbers import Real
from pkgutil import iter_modules
from types import EllipsisType
from typing import Any

from cnnlab.course.check.core import Exercise, Mistake, Outcome
from cnnlab.course.check.feedback import report, solution
from cnnlab.course.check.grading import grade


# The tuple `EXERCISES` at the end of each chapter's module lists what there is to check.
_CHAPTERS: dict[int, tuple[Exercise, ...]] = {
    int(name.removeprefix("chapter")): import_module(f"{__name__}.{name}").EXERCISES
    for name in sorted(module.name for module in iter_modules(__path__))
    if name.startswith("chapter")
}
EXERCISES = {exercise.name: exercise for group in _CHAPTERS.values() for exercise in group}


def _public_check(chapter: int, exercise: Exercise) -> Callable[[Callable[..., Any]], None]:
    """Make the function `check.NAME(fn)` of an exercise."""
    names = [other.name for other in _CHAPTERS[chapter]]

    def check(fn: Callable[..., Any]) -> None:
        report(exercise, fn, names)

    check.__name__ = check.__qualname__ = exercise.name
    check.__doc__ = f"Check chapter {chapter}, {exercise.task or f'`{exercise.name}`'}."
    return check


globals().update(
    {
        exercise.name: _public_check(chapter, exercise)
        for chapter, group in _CHAPTERS.items()
        for exercise in group
    }
)

__all__ = [
    "EXERCISES",
    "Exercise",
    "Mistake",
    "Outcome",
    "grade",
    "prediction",
    "score",
    "solution",
]
__all__.extend(sorted(EXERCISES))


def score(predictions: Mapping[str, tuple[Any, Any]], within: float = 0.1) -> None:
    """Compare your predictions with the results, and print how many were correct.

    Args:
        predictions: question -> (your prediction, the result). A prediction of `...` is skipped.
            A result that is a number was measured by a cell; any other result is the answer.
        within: how far a predicted number may be from the result and still count as correct.

    >>> score({"Which is better?": ("a", "a"), "By how much?": (0.5, 0.1), "Why?": (..., "b")})
    ✔ Which is better? You predicted a. Answer: a.
    ✘ By how much? You predicted 0.5. Measured: 0.1.
    · Why? Answer: b.
    1 of 2 predictions were correct.
    """
    judged = [_compare(question, *pair, within) for question, pair in predictions.items()]
    correct = [c for c in judged if c is not None]
    if correct:
        print(f"{sum(correct)} of {len(correct)} predictions were correct.")
    else:
        print("You made no predictions.")


def prediction(question: str, guess: Any, result: Any = None, *, within: float = 0.1) -> None:
    """Compare one prediction with the result, in the cell after its experiment.

    Args:
        question: the question that the prediction answers.
        guess: your prediction; `...` means that you made none.
        result: what the experiment gave.
        within: how far a predicted number may be from the result and still count as correct.

    >>> prediction("Which is better?", "a", "a")
    ✔ Which is better? You predicted a. Answer: a.
    """
    _compare(question, guess, result, within)


def _compare(question: str, prediction: Any, result: Any, within: float) -> bool | None:
    """Print one line about a prediction; return whether it is correct, or None if skipped."""
    measured = isinstance(result, Real) and not isinstance(result, bool)
    shown = f"Measured: {result:.3g}." if measured else f"Answer: {result}."
    if isinstance(prediction, EllipsisType):
        print(f"· {question} {shown}")
        return None
    if measured and isinstance(prediction, Real):
        correct = abs(float(prediction) - float(result)) <= within
    else:
        correct = prediction == result
    print(f"{'✔' if correct else '✘'} {question} You predicted {prediction}. {shown}")
    return bool(correct)

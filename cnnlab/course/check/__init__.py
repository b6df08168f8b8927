"""Checks for the exercises: each confirms a correct function, or names the misconception.

>>> from cnnlab import check
>>> check.evaluate(lambda model, loader: 0.5)
✘ evaluate: ...

Every exercise comes with a reference solution and several known mistakes. The tests make sure that
the check accepts the first and recognises each of the others.
"""

from collections.abc import Callable
from typing import Any

from cnnlab.course.check.confidence import calibration
from cnnlab.course.check.core import Exercise, Mistake, Outcome
from cnnlab.course.check.feedback import report, solution
from cnnlab.course.check.grading import grade
from cnnlab.course.check.modules import chapter_modules
from cnnlab.course.check.predictions import prediction, score
from cnnlab.course.check.quizzes import quiz


# The tuple `EXERCISES` at the end of each chapter's module lists what there is to check.
_CHAPTERS: dict[int, tuple[Exercise, ...]] = {
    number: module.EXERCISES for number, module in chapter_modules().items()
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
    "calibration",
    "grade",
    "prediction",
    "quiz",
    "score",
    "solution",
]
__all__.extend(sorted(EXERCISES))

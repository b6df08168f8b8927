"""Checks for the exercises: each says what is right, or which misconception it is.

>>> from cnnlab import check
>>> check.evaluate(lambda model, loader: 0.5)
✘ evaluate: ...

Beside each check live a right answer and several wrong ones; the tests hold the check against all of them.
"""

from collections.abc import Callable, Mapping
from types import EllipsisType
from typing import Any

from cnnlab.check import chapter01
from cnnlab.check.core import Exercise, Mistake, Outcome


__all__ = ["EXERCISES", "Exercise", "Mistake", "Outcome", "evaluate", "score", "train_one_epoch"]

EXERCISES: dict[str, Exercise] = {
    exercise.name: exercise for exercise in (chapter01.EPOCH, chapter01.EVALUATE)
}


def train_one_epoch(fn: Callable[..., float]) -> None:
    """Check chapter 1, `train_one_epoch(model, loader, optimizer, loss_fn) -> mean loss`."""
    print(EXERCISES["train_one_epoch"].judge(fn))


def evaluate(fn: Callable[..., float]) -> None:
    """Check chapter 1, `evaluate(model, loader) -> accuracy`, a share between 0 and 1."""
    print(EXERCISES["evaluate"].judge(fn))


def score(predictions: Mapping[str, tuple[Any, Any]], within: float = 0.1) -> None:
    """Hold your predictions against what was measured, and print the score.

    Args:
        predictions: question -> (your guess, what was measured). A guess of `...` was not made.
        within: how far a guessed number may be off to count.

    >>> score({"Which is better?": ("a", "a"), "By how much?": (0.5, 0.1), "Why?": (..., "b")})
    ✔ Which is better? You said a.
    ✘ By how much? You said 0.5, measured: 0.1.
    · Why? Measured: b.
    1 of 2 predictions were right.
    """
    right = [_tell(question, *pair, within) for question, pair in predictions.items()]
    made = [r for r in right if r is not None]
    print(
        f"{sum(made)} of {len(made)} predictions were right." if made else "No prediction was made."
    )


def _tell(question: str, guess: Any, truth: Any, within: float) -> bool | None:
    shown = f"{truth:.3g}" if isinstance(truth, float) else str(truth)
    if isinstance(guess, EllipsisType):
        print(f"· {question} Measured: {shown}.")
        return None
    number = isinstance(guess, int | float) and isinstance(truth, int | float)
    right = abs(guess - truth) <= within if number else guess == truth
    print(
        f"✔ {question} You said {guess}."
        if right
        else f"✘ {question} You said {guess}, measured: {shown}."
    )
    return bool(right)

"""Grade an answer: run the check of an exercise and turn its outcome into points."""

import os
import runpy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from cnnlab.course.check.core import Outcome
from cnnlab.errors import CnnlabError


class Judged(Protocol):
    """An exercise that can be graded: an `Exercise`, or a class of an assignment's own key."""

    def judge(self, attempt: Callable[..., Any], seed: int = 0) -> Outcome:
        """Run an attempt on problems drawn from the seed and describe it."""


class KeyMissing(CnnlabError, LookupError):
    """The key file doesn't exist, or it doesn't contain the exercise."""


def exercises(key: str | Path) -> Mapping[str, Judged]:
    """Return the exercises of a key, which is a Python file that defines a dict `EXERCISES`.

    A chapter's own file, `cnnlab/course/check/chapterNN.py`, has a tuple of them instead.

    Raises:
        KeyMissing: the file doesn't exist, or it defines neither.
    """
    if not Path(key).is_file():
        raise KeyMissing(f"there is no key at {key}; `cnnlab assignment` writes keys/NAME.py")
    by_name = runpy.run_path(str(key)).get("EXERCISES")
    if isinstance(by_name, tuple):
        by_name = {exercise.name: exercise for exercise in by_name}
    if not isinstance(by_name, Mapping):
        raise KeyMissing(f"{key} defines no dict `EXERCISES` that maps names to exercises")
    return by_name


def grade(
    name: str,
    attempt: Callable[..., Any],
    *,
    points: float = 1.0,
    seed: int = 0,
    key: str | Path | None = None,
) -> float:
    """Judge an attempt at a graded exercise, print the feedback, and return the points it earns.

    Args:
        name: name of the exercise in the key.
        attempt: the student's function, or a `remote.Remote` that calls it in another process.
        points: points for a correct answer. An exercise may give partial credit; otherwise a wrong
            answer earns nothing.
        seed: seed of the random problems.
        key: file with the exercises. By default it is the file named by the environment variable
            `CNNLAB_KEY`, and without that variable the exercises of the chapters.

    Returns:
        Points between 0 and `points`.

    Raises:
        KeyMissing: the key doesn't contain the exercise.

    >>> grade("warmup_cosine", lambda step, warmup, steps: 0.5, points=4)
    ✘ warmup_cosine: ...
    0.0
    """
    from cnnlab.course.check import EXERCISES

    key = key or os.environ.get("CNNLAB_KEY")
    by_name = exercises(key) if key else EXERCISES
    if name not in by_name:
        raise KeyMissing(f"the key has no exercise {name!r}; it has {', '.join(by_name)}")
    outcome = by_name[name].judge(attempt, seed)
    print(replace(outcome, hint=outcome.hint or outcome.left_out))
    earned = round(points * outcome.earned, 2)
    if 0 < earned < points:
        print(f"  That earns {earned:g} of {points:g} points.")
    return earned

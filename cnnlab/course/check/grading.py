"""Points for an answer: the same judgement as in the chapters, with exercises that only the grader holds."""

import os
import runpy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from cnnlab.course.check.core import Outcome
from cnnlab.errors import CnnlabError


class Judged(Protocol):
    """What can be graded: `Exercise`, and what an assignment's key brings beside it."""

    def judge(self, attempt: Callable[..., Any], seed: int = 0) -> Outcome:
        """Try an attempt on problems drawn from the seed."""


class KeyMissing(CnnlabError, LookupError):
    """There is no key, or the key has no such exercise."""


def exercises(key: str | Path) -> Mapping[str, Judged]:
    """Return the exercises of a key, a Python file that makes a dict `EXERCISES`.

    Raises:
        KeyMissing: there is no such file, or no such dict in it.
    """
    if not Path(key).is_file():
        raise KeyMissing(
            f"no key at {key}; `cnnlab assignment` writes it as key.py beside the settings"
        )
    found = runpy.run_path(str(key)).get("EXERCISES")
    if not isinstance(found, Mapping):
        raise KeyMissing(f"{key} makes no dict `EXERCISES` of exercises by name")
    return found


def grade(
    name: str,
    attempt: Callable[..., Any],
    *,
    points: float = 1.0,
    seed: int = 0,
    key: str | Path | None = None,
) -> float:
    """Print what a graded exercise says to an attempt, and return the points it earns.

    Args:
        name: of the exercise in the key.
        attempt: the student's function, or a `remote.Remote` that stands for it.
        points: for a right answer; an exercise may give a share of them, a wrong answer earns none.
        seed: of the problems that are drawn.
        key: file of the exercises; when not given, the one the environment variable `CNNLAB_KEY` names, or else the
            exercises of the chapters.

    Returns:
        Between 0 and `points`.

    Raises:
        KeyMissing: the key has no such exercise.

    >>> grade("cosine", lambda step, steps, final: 0.5, points=4)
    ✘ cosine: ...
    0.0
    """
    from cnnlab.course.check import EXERCISES

    key = key or os.environ.get("CNNLAB_KEY")
    known = exercises(key) if key else EXERCISES
    if name not in known:
        raise KeyMissing(f"no exercise {name!r} in the key; it has {', '.join(known)}")
    outcome = known[name].judge(attempt, seed)
    print(outcome)
    return round(points * outcome.earned, 2)

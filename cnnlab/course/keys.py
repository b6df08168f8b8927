"""Test the key of an instructor's own exercise or assignment on many random problems."""

from collections.abc import Iterator
from pathlib import Path

from cnnlab.course.check.core import PROBLEMS, Exercise, Memory, Outcome
from cnnlab.course.check.grading import exercises


LEAST_MISTAKES = 3


def problems(key: Path, n_seeds: int = 200) -> Iterator[tuple[str, list[str]]]:
    """Examine each exercise of a key as the tests examine those of the course.

    Args:
        key: a Python file with a dict `EXERCISES`, such as `key.py` of an assignment.
        n_seeds: how often the solution and each known mistake are judged.

    Yields:
        The name of an exercise, and what is wrong with it, one sentence each.

    Raises:
        KeyMissing: the file doesn't exist, or has no such dict.
    """
    for name, exercise in exercises(key).items():
        if isinstance(exercise, Exercise):
            yield name, list(examine(exercise, n_seeds))
        else:
            yield name, [f"is a {type(exercise).__name__}, and only an Exercise can be examined"]


def examine(exercise: Exercise, n_seeds: int = 200) -> Iterator[str]:
    """Yield what is wrong with an exercise: its solution, its mistakes and what they say."""
    memory: Memory = {}
    seeds = range(0, PROBLEMS * n_seeds, PROBLEMS)  # no problem is posed twice
    for seed in seeds:
        outcome = exercise.judge(exercise.answer, seed, memory=memory)
        if not outcome.passed:
            yield f"the solution fails with seed {seed}: {outcome.says}"
            break
    if len(exercise.mistakes) < LEAST_MISTAKES:
        yield f"it knows {len(exercise.mistakes)} mistakes; write at least {LEAST_MISTAKES}"
    said: dict[str, str] = {}
    for name, mistake in exercise.mistakes.items():
        if mistake.says in said:
            yield f"{name!r} says the same as {said[mistake.says]!r}"
        said.setdefault(mistake.says, name)
        if not mistake.says.endswith("."):
            yield f"what {name!r} says must be a sentence with a full stop, got {mistake.says!r}"
        for seed in seeds:
            outcome = exercise.judge(mistake.attempt, seed, memory=memory)
            if outcome.mistake != name:
                yield f"{name!r} isn't recognised with seed {seed}: {_instead(outcome)}"
                break


def _instead(outcome: Outcome) -> str:
    if outcome.passed:
        return "it passes. Pose a problem that it gets wrong, or leave it out"
    if outcome.mistake is not None:
        return f"it's taken for {outcome.mistake!r}. Add a fact that tells the two apart"
    return f"the check says {outcome.says!r}. Its facts must be the same with every seed"

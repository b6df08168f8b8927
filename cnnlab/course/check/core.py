"""How a check works: watch an attempt at random problems, beside the answer and beside every known mistake.

An exercise holds one right answer and several wrong ones. A check lets the student's function and the answer
loose on the same problem and compares what is to be seen: what they return, what became of the model. If they
differ, it tries the known mistakes; the one that does the same as the student is the misconception.
"""

import math
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cnnlab.course.check.remote import AnswerError
from cnnlab.rng import fork_rng


Observation = Mapping[str, Any]
PROBLEMS = 3  # random problems a check draws


@dataclass(frozen=True)
class Mistake:
    """A wrong answer with a name of its own.

    Attributes:
        attempt: the wrong function.
        says: which misconception it is, in a sentence.
        hint: where to look; never the solution.
    """

    attempt: Callable[..., Any]
    says: str
    hint: str


@dataclass(frozen=True)
class Outcome:
    """What a check found.

    Attributes:
        exercise: its name.
        passed: whether the attempt is right.
        says: what is right, or which misconception it is.
        hint: where to look, when it is wrong.
        mistake: name of the known mistake it equals, if it does.
        share: of the points, where there is something between all and none.
    """

    exercise: str
    passed: bool
    says: str
    hint: str = ""
    mistake: str | None = None
    share: float | None = None

    @property
    def earned(self) -> float:
        """Share of the points that the attempt earns, between 0 and 1."""
        return float(self.passed) if self.share is None else self.share

    def __str__(self) -> str:
        hint = f"\n  Hint: {self.hint}" if self.hint else ""
        return f"{'✔' if self.passed else '✘'} {self.exercise}: {self.says}{hint}"


@dataclass(frozen=True)
class Exercise:
    """A task with its answer, its known mistakes, and a way to watch an attempt.

    Attributes:
        name: as in the chapter.
        observe: (attempt, seed) -> what is to be seen; draws its problem from the seed.
        answer: the right function.
        praise: what a right attempt does.
        mistakes: name -> known wrong answer.
    """

    name: str
    observe: Callable[[Callable[..., Any], int], Observation]
    answer: Callable[..., Any]
    praise: str
    mistakes: Mapping[str, Mistake] = field(default_factory=dict)

    def judge(self, attempt: Callable[..., Any], seed: int = 0) -> Outcome:
        """Try an attempt on a few random problems and say what it is. Never raises because of the attempt."""
        if not callable(attempt):
            return self._wrong(
                f"expected your function, got {attempt!r}", "pass it without brackets"
            )
        with fork_rng():
            for problem in range(seed, seed + PROBLEMS):
                try:
                    seen = self.observe(attempt, problem)
                except NotImplementedError:
                    return self._wrong("not written yet.", "replace the line that raises")
                except Exception as error:  # noqa: BLE001 - whatever a student's function raises
                    return self._wrong(_tell(error, attempt), "run it by hand on one batch")
                if not agree(seen, self.observe(self.answer, problem)):
                    return self._diagnose(seen, problem)
        return Outcome(self.name, True, f"right. {self.praise}")

    def _diagnose(self, seen: Observation, problem: int) -> Outcome:
        for name, mistake in self.mistakes.items():
            if agree(seen, self.observe(mistake.attempt, problem)):
                return Outcome(self.name, False, mistake.says, mistake.hint, name)
        expected = self.observe(self.answer, problem)
        wrong = [k for k in expected if not agree({k: seen.get(k)}, {k: expected[k]})]
        pairs = (f"{k} is {_short(seen.get(k))}, expected {_short(expected[k])}" for k in wrong)
        return self._wrong(
            f"{'; '.join(pairs)}.", "compare with the loop in the text, line by line"
        )

    def _wrong(self, says: str, hint: str) -> Outcome:
        return Outcome(self.name, False, says, hint)


def agree(a: Any, b: Any) -> bool:
    """Tell whether two observations are the same, up to the rounding of float32."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return (
            a.shape == b.shape
            and a.dtype == b.dtype
            and torch.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True)
        )
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(agree(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(agree, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= 1e-6 + 1e-4 * abs(b) or (math.isnan(a) and math.isnan(b))
    return type(a) is type(b) and a == b


def _tell(error: Exception, attempt: Callable[..., Any]) -> str:
    """Say what was raised, and in which line of the student."""
    if isinstance(error, AnswerError):
        return f"your function {error}."
    code = getattr(attempt, "__code__", None)
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if code is not None and frame.filename == code.co_filename and frame.name == code.co_name
    ]
    where = f" in your line {own[-1].lineno}: `{own[-1].line}`" if own else ""
    return f"your function raised {type(error).__name__}: {error}{where}."


def _short(value: Any) -> str:
    """A value in at most a line: nobody reads the numbers of a tensor."""
    if isinstance(value, Tensor):
        told = f"{value.item():.4g}" if value.numel() == 1 else _start(value)
        return f"a tensor of shape {tuple(value.shape)}, {told}"
    if isinstance(value, list | tuple) and any(isinstance(item, Tensor) for item in value):
        return f"a {type(value).__name__} of {len(value)}, the first of them {_short(value[0])}"
    told = f"{value:.4g}" if isinstance(value, float) else repr(value)
    return told if len(told) <= 120 else f"{told[:117]}..."


def _start(value: Tensor) -> str:
    numbers = ", ".join(f"{number:.4g}" for number in value.flatten()[:4].tolist())
    return f"beginning with {numbers}" if numbers else "empty"

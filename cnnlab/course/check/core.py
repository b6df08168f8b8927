"""The machinery of a check: run a student's function on random problems and name its mistake.

An exercise holds one correct function (the reference) and several known mistakes. A check runs the
student's function and the reference on the same problem and compares what can be observed: the
values they return, and what they did to the model or to their inputs. If the two differ, the check
looks for a known mistake that behaves exactly like the student's function, and explains it.
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


Observation = Mapping[str, Any]  # what was observed, by name: "the value you return" -> 0.5
PROBLEMS = 3  # random problems per check


@dataclass(frozen=True)
class Mistake:
    """A known mistake: a wrong function and the feedback for it.

    Attributes:
        attempt: the wrong function.
        says: a sentence that names the misconception.
        hint: where to look; it never gives the solution away.
    """

    attempt: Callable[..., Any]
    says: str
    hint: str


@dataclass(frozen=True)
class Outcome:
    """The result of a check.

    Attributes:
        exercise: name of the exercise.
        passed: whether the attempt is correct.
        says: what the attempt does well, or which misconception it shows.
        hint: where to look; empty if the attempt is correct.
        mistake: name of the known mistake that the attempt equals, if there is one.
        share: fraction of the points, for an exercise that gives partial credit.
    """

    exercise: str
    passed: bool
    says: str
    hint: str = ""
    mistake: str | None = None
    share: float | None = None

    @property
    def earned(self) -> float:
        """Return the fraction of the points that the attempt earns, between 0 and 1."""
        return float(self.passed) if self.share is None else self.share

    def __str__(self) -> str:
        hint = f"\n  Hint: {self.hint}" if self.hint else ""
        return f"{'✔' if self.passed else '✘'} {self.exercise}: {self.says}{hint}"


@dataclass(frozen=True)
class Exercise:
    """An exercise with its reference solution, its known mistakes and a way to observe an attempt.

    Attributes:
        name: name of the exercise, as in the chapter.
        observe: a function (attempt, seed) -> observation; it draws its problem from the seed. The
            names of an observation complete the sentence "... is 3, expected 5".
        answer: the reference solution.
        praise: a sentence about what a correct attempt does.
        mistakes: name -> known mistake.
        hint: where to look after a mistake that isn't among the known ones.
        task: what to write: the call and what it returns; it completes "Check chapter 5, ...".
    """

    name: str
    observe: Callable[[Callable[..., Any], int], Observation]
    answer: Callable[..., Any]
    praise: str
    mistakes: Mapping[str, Mistake] = field(default_factory=dict)
    hint: str = "compare your function with the task, step by step"
    task: str = ""

    def judge(self, attempt: Callable[..., Any], seed: int = 0) -> Outcome:
        """Run an attempt on a few random problems and describe it.

        An exception that the attempt raises becomes part of the outcome.
        """
        if not callable(attempt):
            return self._failed(
                f"expected your function, got {attempt!r}.",
                "pass the function itself, by its name and without brackets",
            )
        with fork_rng():
            for problem in range(seed, seed + PROBLEMS):
                try:
                    observed = self.observe(attempt, problem)
                except NotImplementedError:
                    return self._failed(
                        "not written yet.", "replace the line that raises NotImplementedError"
                    )
                except Exception as error:  # noqa: BLE001 - a student's function can raise anything
                    return self._failed(
                        _describe_error(error, attempt), "call your function on one small example"
                    )
                expected = self.observe(self.answer, problem)
                if not agree(observed, expected):
                    return self._diagnose(observed, expected, problem)
        return Outcome(self.name, True, f"correct. {self.praise}")

    def _diagnose(self, observed: Observation, expected: Observation, problem: int) -> Outcome:
        """Return the feedback of the known mistake with this observation, or list what differs."""
        for name, mistake in self.mistakes.items():
            if agree(observed, self.observe(mistake.attempt, problem)):
                return Outcome(self.name, False, mistake.says, mistake.hint, name)
        wrong = [name for name in expected if not agree(observed.get(name), expected[name])]
        # An observation that ends early lacks some names; report only the ones it has.
        reported = [name for name in wrong if name in observed] or wrong
        differences = [
            f"{name} is {_summarise(observed.get(name))}, expected {_summarise(expected[name])}"
            for name in reported
        ]
        if len(differences) == 1:
            says = f"{differences[0]}."
        else:
            says = "\n  - ".join(("your function doesn't behave as expected.", *differences))
        return self._failed(says, self.hint)

    def _failed(self, says: str, hint: str) -> Outcome:
        return Outcome(self.name, False, says, hint)


def agree(a: Any, b: Any) -> bool:
    """Compare two observations: types and shapes must match, floats up to float32 rounding."""
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


def _describe_error(error: Exception, attempt: Callable[..., Any]) -> str:
    """Return a sentence with the error and the line of the student's function that raised it."""
    if isinstance(error, AnswerError):
        return f"your function {error}."
    code = getattr(attempt, "__code__", None)
    own_frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if code is not None and frame.filename == code.co_filename and frame.name == code.co_name
    ]
    where = f", in line {own_frames[-1].lineno}: `{own_frames[-1].line}`" if own_frames else ""
    return f"your function raised {type(error).__name__}: {error}{where}."


def _summarise(value: Any) -> str:
    """Describe a value on one line; a tensor by its shape and its first values."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}, {_first_values(value)}"
    if isinstance(value, list | tuple) and any(isinstance(item, Tensor) for item in value):
        kind = type(value).__name__
        return f"a {kind} of {len(value)}, the first of them {_summarise(value[0])}"
    text = f"{value:.4g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _first_values(tensor: Tensor) -> str:
    if tensor.numel() == 1:
        return f"{tensor.item():.4g}"
    values = ", ".join(f"{value:.4g}" for value in tensor.flatten()[:4].tolist())
    return f"beginning with {values}" if values else "empty"

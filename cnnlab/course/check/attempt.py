"""Call a student's function: note what it changes, and describe the errors that it raises."""

import dis
import inspect
import random
from collections.abc import Callable, Sequence
from traceback import extract_tb
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnnlab.course.check.compare import short
from cnnlab.course.check.remote import (
    AnswerError,
    GraderError,
    NotDefined,
    Remote,
    Unwritten,
)
from cnnlab.course.frames import is_library


LONGEST = 200  # characters of a message with its hint
# How torch's message begins -> what may help a beginner who can't read it.
_HINTS = {
    "expand(": "several values don't fit into one entry; is a sum or a mean missing?",
    "transpose() ": "`transpose` swaps two axes, and `permute` takes a new order of them all",
}
_PLAIN = (bool, int, float, str, list, tuple, dict, set, np.ndarray, Tensor)


class Raised(Exception):
    """An error inside the student's function, as opposed to one inside the check.

    Attributes:
        error: the error.
        arguments: what the function was given.
    """

    def __init__(self, error: Exception, arguments: Sequence[Any]) -> None:
        super().__init__(str(error))
        self.error, self.arguments = error, arguments


class Attempt:
    """A function that notes its results and side effects, for the observer of an exercise.

    Attributes:
        function: the student's function.
        parameters: names of its parameters, as in the task.
        calls: arguments and result of each call.
        changed: the parameters whose argument it changed in place.
        draws: whether it changed the state of a global random generator.
    """

    def __init__(self, function: Callable[..., Any], parameters: Sequence[str]) -> None:
        self.function, self.parameters = function, parameters
        self.calls: list[tuple[Sequence[Any], Any]] = []
        self.changed: set[str] = set()
        self.draws = False

    def __call__(self, *arguments: Any) -> Any:
        """Call the function; its errors are raised as `Raised`."""
        before, states = _copy(arguments), _random_states()
        try:
            result = self.function(*arguments)
        except GraderError:
            raise
        except Exception as error:
            raise Raised(error, before) from error
        self.calls.append((before, result))
        pairs = zip(self.parameters, before, arguments, strict=False)
        self.changed |= {name for name, old, new in pairs if not _identical(old, new)}
        self.draws |= states != _random_states()
        return result

    def given(self, arguments: Sequence[Any], width: int = 70) -> str:
        """Show arguments with their names: "step=0, steps=40"."""
        pairs = list(zip(self.parameters, arguments, strict=False))
        plain = [pair for pair in pairs if isinstance(pair[1], _PLAIN)]  # models only take space
        texts = [f"{name}={short(value, 30)}" for name, value in plain or pairs]
        if len(", ".join(texts)) > width:
            while texts and len(", ".join(texts)) > width - len(", ..."):
                texts.pop()
            texts = [*texts, "..."] if texts else []
        return ", ".join(texts)


def parameters(function: Callable[..., Any]) -> list[str]:
    """Return the names of the parameters that a function takes by position."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in inspect.signature(function).parameters.values() if p.kind in kinds]


def _accepts(function: Callable[..., Any], arguments: Sequence[Any]) -> bool:
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    except ValueError:  # a function of C has no signature
        return True
    return True


def _copy(value: Any) -> Any:
    """Copy what a function could change by accident; models and other objects are left out."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, list | tuple):
        items = [_copy(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return value


def _identical(old: Any, new: Any) -> bool:
    if isinstance(old, Tensor) and isinstance(new, Tensor):
        if old.shape != new.shape or old.dtype != new.dtype:
            return False
        same = (old == new) | (old.isnan() & new.isnan())
        return bool(same.all())
    if isinstance(old, np.ndarray):
        return np.array_equal(old, new, equal_nan=old.dtype.kind == "f")
    if isinstance(old, list | tuple):
        return len(old) == len(new) and all(map(_identical, old, new))
    if isinstance(old, dict):
        return old.keys() == new.keys() and all(_identical(old[k], new[k]) for k in old)
    return old is new or bool(old == new)


def _random_states() -> tuple[Any, ...]:
    """Return the states of the global random generators: of torch, Python and NumPy."""
    numpy_state: Any = np.random.get_state()  # noqa: NPY002 - a student may use it
    _, keys, *rest = numpy_state
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), keys.tobytes(), rest


def is_unwritten(error: BaseException) -> bool:
    """Tell whether an error is the student's own `raise NotImplementedError`.

    torch raises NotImplementedError too, for an operation that it doesn't have.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if not isinstance(error, NotImplementedError) or trace is None:
        return False
    code = trace.tb_frame.f_code
    raises = code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    return isinstance(error, Unwritten) or (raises and not is_library(code.co_filename))


def describe_error(raised: Raised, attempt: Attempt) -> str:
    """Return a sentence with the line of the student's code that raised, and what it was given."""
    error, hint = raised.error, error_hint(raised.error)
    if not isinstance(attempt.function, Remote) and not _accepts(
        attempt.function, raised.arguments
    ):
        own, asked = ", ".join(parameters(attempt.function)), ", ".join(attempt.parameters)
        return f"your function takes ({own}), but the task calls it with ({asked})."
    if isinstance(error, NotDefined):  # so it was given nothing
        return f"your function {error}."
    if isinstance(error, AnswerError):
        says = f"your function {error}."
    else:
        frames = [f for f in extract_tb(error.__traceback__) if not is_library(f.filename)]
        where = "your function"
        if frames:
            code = f", `{_cut(frames[-1].line, 60)}`," if frames[-1].line else ""
            where = f"line {frames[-1].lineno}{code}"
        message = " ".join(str(error).split())
        width = 40 if hint else 90
        says = f"{where} raised {type(error).__name__}: {_cut(message.rstrip('.'), width)}"
        says += "" if says.endswith("...") else "."
    room = LONGEST - len(says) - len(hint) - len(" It was given .")
    given = attempt.given(raised.arguments, room)
    return f"{says} It was given {given.removesuffix(', ...')}." if 0 < len(given) <= room else says


def error_hint(error: Exception) -> str:
    """Return a hint for an error of torch whose message doesn't help; "" for any other."""
    return next((hint for start, hint in _HINTS.items() if str(error).startswith(start)), "")


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."

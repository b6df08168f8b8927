"""Compare what a student's function did with what it should do, and say the first difference."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn


# How far upstream a difference is: an empty result explains a wrong type, a wrong type a wrong
# shape, and so on, so only the first is worth reading.
NOTHING, TYPE, SHAPE, DTYPE, VALUE = range(5)


RETURN = "does every path through your function end in a `return` with a value?"


class Difference(NamedTuple):
    """How a value differs from the expected one.

    Attributes:
        level: how far upstream the difference is, from `NOTHING` to `VALUE`.
        says: what is different; it continues a sentence that begins with the name of the value.
        hint: what may help, whatever the exercise is.
        where: in which entry of the value the difference is, as "entry 1 of ".
    """

    level: int
    says: str
    hint: str = ""
    where: str = ""


def agree(got: Any, want: Any) -> bool:
    """Compare two observations: types and shapes must match, floats up to float32 rounding."""
    return difference(got, want) is None


def difference(got: Any, want: Any) -> Difference | None:
    """Return the most upstream difference of a value from the expected one; None if there is none.

    A list counts as a tuple, an int as a float, and a NumPy number as a plain one.

    >>> difference([1, 2], (1, 2)) is None
    True
    >>> difference(torch.tensor(0.5), 0.5).says
    'is a tensor, expected a float'
    >>> difference([1.0, 2.0, 4.0], [1.0, 2.0, 3.0]).says
    'is [1, 2, 4], expected [1, 2, 3]'
    """
    got, want = _plain(got), _plain(want)
    if got is None or want is None:
        if got is want:
            return None
        level, hint = (NOTHING, RETURN) if got is None else (TYPE, "")
        expected = "None" if want is None else describe(want)
        return Difference(level, f"is {short(got)}, expected {expected}", hint)
    if isinstance(want, Tensor):
        return _tensors(got, want)
    if isinstance(want, list | tuple):
        return _sequences(got, want)
    if isinstance(want, Mapping):
        return _mappings(got, want)
    if (type(want) is float and _is_number(got)) or type(got) is type(want) is int:
        near = math.isclose(got, want, rel_tol=1e-4, abs_tol=1e-6)
        return None if near or (math.isnan(got) and math.isnan(want)) else _value(got, want)
    if type(got) is not type(want):
        return _other_type(got, want)
    return None if got == want else _value(got, want)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _other_type(got: Any, want: Any) -> Difference:
    hint = ""
    if callable(got) and not isinstance(got, nn.Module):
        hint = "are the brackets behind a method missing?"
    elif isinstance(got, Tensor) and _is_number(want):
        hint = "`.item()` turns a tensor with one value into a number"
    elif isinstance(got, Tensor) and describe(want).endswith(
        ("ints", "floats", "bools", "int", "float")
    ):
        hint = "`.tolist()` turns a tensor into a list"
    elif isinstance(got, float) and math.isfinite(got) and isinstance(want, int):
        hint = "is the value an index or a count? then it is a whole number"
    elif isinstance(got, np.ndarray) and isinstance(want, Tensor):
        hint = "`torch.from_numpy` turns an array into a tensor"
    named = f"the string {short(got)}" if isinstance(got, str) else describe(got)
    if isinstance(got, float) and not math.isfinite(got):
        named = short(got)
    return Difference(TYPE, f"is {named}, expected {describe(want)}", hint)


def _value(got: Any, want: Any) -> Difference:
    if isinstance(want, set | frozenset):
        extra, missing = sorted(map(str, got - want)), want - got
        if extra:
            says = f"contains {extra[0]!r}, which doesn't belong there"
            return Difference(VALUE, says, "is it spelled as in the task?")
        return Difference(VALUE, f"lacks {len(missing)} of {len(want)} entries")
    shown = next(
        (pair for digits in (4, 7, 10) if (pair := _pair(got, want, digits))[0] != pair[1]),
        (repr(got), repr(want)),
    )
    return Difference(VALUE, "is {}, expected {}".format(*shown))


def _pair(got: Any, want: Any, digits: int) -> tuple[str, str]:
    return short(got, digits=digits), short(want, digits=digits)


def _tensors(got: Any, want: Tensor) -> Difference | None:
    if not isinstance(got, Tensor):
        return _other_type(got, want)
    if got.shape != want.shape:
        shapes = f"has shape {tuple(got.shape)}, expected {tuple(want.shape)}"
        return Difference(SHAPE, shapes, "print the shape after each of your operations")
    if got.dtype != want.dtype:
        dtypes = (str(t.dtype).removeprefix("torch.") for t in (got, want))
        return Difference(
            DTYPE, "has dtype {}, expected {}".format(*dtypes), _dtype_hint(got, want)
        )
    got, want = got.detach(), want.detach()
    if want.is_floating_point():
        wrong = ~torch.isclose(got, want, rtol=1e-4, atol=1e-6, equal_nan=True)
    else:
        wrong = got != want
    if not wrong.any():
        return None
    if want.squeeze().ndim <= 1 and want.numel() <= 5:
        return _value(got.squeeze().tolist(), want.squeeze().tolist())
    index = wrong.nonzero()[0].tolist()
    single = _value(got[tuple(index)].item(), want[tuple(index)].item())
    return Difference(VALUE, f"at {index} {single.says}")


def _dtype_hint(got: Tensor, want: Tensor) -> str:
    if got.is_floating_point() and want.is_floating_point():
        return "`.float()` turns a tensor into float32"
    return "which of your operations makes, or needs, whole numbers?"


def _sequences(got: Any, want: list | tuple) -> Difference | None:
    if not isinstance(got, list | tuple):
        return _other_type(got, want)
    is_short = len(_text(got, 4)) + len(_text(want, 4)) <= 64
    if len(got) != len(want):
        says = f"has {_entries(len(got))}, expected {len(want)}"
        return Difference(SHAPE, _value(got, want).says if is_short else says)
    found = _first(enumerate(zip(got, want, strict=True)))
    return _value(got, want) if found and found.level == VALUE and is_short else found


def _mappings(got: Any, want: Mapping[Any, Any]) -> Difference | None:
    if not isinstance(got, Mapping):
        return _other_type(got, want)
    if got.keys() != want.keys():
        return Difference(SHAPE, f"has the keys {short([*got])}, expected {short([*want])}")
    return _first((repr(key), (got[key], want[key])) for key in want)


def _first(pairs: Iterable[tuple[Any, tuple[Any, Any]]]) -> Difference | None:
    """Return the most upstream difference of several pairs, with the entry where it is."""
    found = [
        # None in a list isn't a missing `return`.
        d._replace(level=max(d.level, TYPE), where=f"{d.where}entry {key} of ", hint=_inner(d))
        for key, pair in pairs
        if (d := difference(*pair))
    ]
    return min(found, key=lambda d: d.level, default=None)


def _inner(found: Difference) -> str:
    return "" if found.level == NOTHING else found.hint


def _entries(n: int) -> str:
    return "one entry" if n == 1 else f"{n} entries"


def describe(value: Any) -> str:
    """Name the type of a value, and for a list the number and types of its entries.

    >>> describe([0.5, 0.25]), describe({"a": 1}), describe(None)
    ('a list of 2 floats', 'a dict', 'None')
    """
    if value is None:
        return "None"
    if isinstance(value, list | tuple):
        kinds = {_kind(item) for item in value}
        entries = f"{kinds.pop()}{'s' * (len(value) != 1)}" if len(kinds) == 1 else "values"
        return f"a {_kind(value)} of {len(value) if len(value) != 1 else 'one'} {entries}"
    kind = _kind(value)
    return f"{'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind}"


def _kind(value: Any) -> str:
    names: dict[type, str] = {str: "string", np.ndarray: "NumPy array", type(None): "None"}
    if isinstance(value, Tensor):
        return "tensor"
    if isinstance(value, nn.Module):
        return f"model ({type(value).__name__})"
    if isinstance(value, tuple):  # such as the two tensors of `torch.max`
        return "tuple"
    if callable(value):
        return "function"
    return names.get(type(value), type(value).__name__)


def short(value: Any, width: int = 48, *, digits: int = 4) -> str:
    """Show a value on one line: short ones in full, others by their type and shape.

    >>> short([0.123456, 3]), short(torch.zeros(2, 3)), short("low")
    ('[0.1235, 3]', 'a tensor of shape (2, 3)', "'low'")
    """
    text = _text(_plain(value), digits)
    if len(text) <= width:
        return text
    if isinstance(value, str):
        return f"{text[: width - 4]}...'"
    return describe(value)


def _text(value: Any, digits: int) -> str:
    if isinstance(value, float):
        return repr(value) if not math.isfinite(value) else f"{value:.{digits}g}"
    if isinstance(value, Tensor) and value.numel() > 5:
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, Tensor):
        return f"tensor({_text(value.tolist(), digits)})"
    if isinstance(value, list):
        return f"[{', '.join(_text(_plain(item), digits) for item in value)}]"
    if isinstance(value, tuple):
        inner = ", ".join(_text(_plain(item), digits) for item in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, dict):
        items = (f"{key!r}: {_text(_plain(item), digits)}" for key, item in value.items())
        return f"{{{', '.join(items)}}}"
    if value is None or isinstance(value, bool | int | str | set):
        return repr(value)
    return describe(value)

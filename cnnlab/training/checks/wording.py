"""Parts of messages."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor


def few(names: Iterable[Any], limit: int = 5) -> str:
    """Return the first names of a list, and how many more there are.

    >>> few("abc", limit=2)
    'a, b and 1 more'
    """
    listed = [str(name) for name in names]
    return ", ".join(listed[:limit]) + (
        f" and {len(listed) - limit} more" if len(listed) > limit else ""
    )


def dtype_name(tensor: Tensor) -> str:
    """Return the name of a tensor's number type, such as "int64"."""
    return str(tensor.dtype).removeprefix("torch.")

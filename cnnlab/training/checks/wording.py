"""Parts of messages."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
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


def classify_call(image: Any = None) -> str:
    """Return the call that classifies a single image.

    >>> classify_call("mug.jpg")
    "cnnlab.classify(trainer.model, 'mug.jpg', data.classes)"
    """
    name = repr(str(image)) if isinstance(image, str | Path) else "image"
    return f"cnnlab.classify(trainer.model, {name}, data.classes)"


def is_picture(value: Any) -> bool:
    """Return whether something is a single image: its path, a PIL image, or pixels (H, W, 3)."""
    if isinstance(value, np.ndarray):
        return value.dtype == np.uint8 and value.ndim == 3 and value.shape[2] in (3, 4)
    return isinstance(value, str | Path) or type(value).__module__.startswith("PIL.")


def kind_of_picture(value: Any) -> str:
    """Return in words what `is_picture` has recognised."""
    if isinstance(value, str | Path):
        return f"the path {str(value)!r:.60}"
    return f"an array of shape {value.shape}" if isinstance(value, np.ndarray) else "a PIL image"


def dtype_name(tensor: Tensor) -> str:
    """Return the name of a tensor's number type, such as "int64"."""
    return str(tensor.dtype).removeprefix("torch.")

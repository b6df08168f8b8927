"""Parts of messages."""

from collections.abc import Iterable
from pathlib import Path
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


# How to get a batch from a picture.
FROM_PICTURE = (
    "use torchvision: image = to_tensor(Image.open(path).convert('RGB').resize((32, 32))), then "
    "pass [image[None]]"
)


def is_picture(value: Any) -> bool:
    """Return whether something is the path of a picture or a PIL image."""
    return isinstance(value, str | Path) or type(value).__module__.startswith("PIL.")


def dtype_name(tensor: Tensor) -> str:
    """Return the name of a tensor's number type, such as "int64"."""
    return str(tensor.dtype).removeprefix("torch.")

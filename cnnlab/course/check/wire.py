"""The messages between a grader and an answer: one JSON value per line, which can't carry code.

Numbers, strings, booleans, `None`, lists, tuples, dicts with string keys, tensors and arrays can be
sent; everything else is refused.
"""

import base64
import json
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor


# Bytes per line. A longer line is refused, so that an answer can't fill the grader's memory.
LONGEST = 256 * 2**20

# torch and numpy use the same names for these.
_DTYPES = frozenset(
    ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
)


def send(stream: IO[bytes], value: Any) -> None:
    """Write a value as one line.

    Raises:
        TypeError: the value contains an object of a type that can't be sent.
    """
    stream.write(json.dumps(pack(value)).encode() + b"\n")
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """Read one line and return its value.

    Raises:
        EOFError: the other process has closed the stream, perhaps in the middle of a line.
        ValueError: the line is too long, or `send` didn't write it.
    """
    line = stream.readline(LONGEST)
    if not line.endswith(b"\n"):
        if len(line) == LONGEST:
            raise ValueError(f"a line of more than {LONGEST} bytes")
        raise EOFError
    return unpack(json.loads(line))


def pack(value: Any) -> Any:
    """Return the value in a form that JSON can represent.

    Raises:
        TypeError: the value contains an object of a type that can't be sent.

    >>> pack((1, [None, "a"]))
    {'tuple': [1, {'list': [None, 'a']}]}
    """
    match value:
        case None | bool() | int() | float() | str():
            return value
        case list() | tuple():
            return {type(value).__name__: [pack(item) for item in value]}
        case dict() if all(isinstance(key, str) for key in value):
            return {"dict": {key: pack(item) for key, item in value.items()}}
        case Tensor() if str(value.dtype).removeprefix("torch.") in _DTYPES:
            return {"tensor": _pack_array(value.detach().cpu().contiguous().numpy())}
        case np.ndarray() if value.dtype.name in _DTYPES:
            return {"array": _pack_array(np.ascontiguousarray(value))}
        case np.generic():
            return pack(value.item())
    raise TypeError(
        f"a value of type {type(value).__name__} can't be sent; numbers, strings, lists, tuples, "
        "dicts with string keys, tensors and arrays can"
    )


def unpack(packed: Any) -> Any:
    """Return the value that was passed to `pack`.

    Raises:
        ValueError: `pack` didn't make this.

    >>> unpack(pack({"a": (1, 2.5)}))
    {'a': (1, 2.5)}
    """
    if not isinstance(packed, dict):
        return packed
    match packed:
        case {"list": list(items)}:
            return [unpack(item) for item in items]
        case {"tuple": list(items)}:
            return tuple(unpack(item) for item in items)
        case {"dict": dict(items)}:
            return {key: unpack(item) for key, item in items.items()}
        case {"tensor": [str(dtype), list(shape), str(data)]}:
            return torch.from_numpy(_unpack_array(dtype, shape, data))
        case {"array": [str(dtype), list(shape), str(data)]}:
            return _unpack_array(dtype, shape, data)
    raise ValueError(f"not a packed value: {str(packed)[:80]}")


def _pack_array(array: np.ndarray) -> list[Any]:
    return [array.dtype.name, list(array.shape), base64.b64encode(array.tobytes()).decode()]


def _unpack_array(dtype: str, shape: list[int], data: str) -> np.ndarray:
    if dtype not in _DTYPES:
        raise ValueError(f"an array of dtype {dtype!r} can't be received")
    return np.frombuffer(base64.b64decode(data), dtype).reshape(shape).copy()

"""Handle what a model returns: usually a tensor, sometimes a dictionary or tuple of tensors."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def map_tensors(function: Callable[[Tensor], Tensor], outputs: Any) -> Any:
    """Apply a function to every tensor in the outputs; anything else stays as it is.

    >>> map_tensors(lambda x: x + 1, {"out": torch.tensor([1])})
    {'out': tensor([2])}
    """
    if isinstance(outputs, Tensor):
        return function(outputs)
    if isinstance(outputs, tuple) and hasattr(outputs, "_fields"):  # a named tuple
        return type(outputs)(*(map_tensors(function, part) for part in outputs))
    if isinstance(outputs, list | tuple):
        return type(outputs)(map_tensors(function, part) for part in outputs)
    if isinstance(outputs, Mapping):
        return {name: map_tensors(function, part) for name, part in outputs.items()}
    return outputs


def as_float(outputs: Any) -> Any:
    """Return the outputs with 16-bit floating-point tensors as float32."""
    half = (torch.float16, torch.bfloat16)
    return map_tensors(lambda x: x.float() if x.dtype in half else x, outputs)


def detached(outputs: Any) -> Any:
    """Return the outputs without their graph."""
    return map_tensors(Tensor.detach, outputs)


def zero_loss(outputs: Any) -> Tensor:
    """Return a loss of 0 whose gradient is 0, for a batch without any target that counts."""
    tensors: list[Tensor] = []
    map_tensors(lambda x: tensors.append(x) or x, outputs)  # type: ignore[func-returns-value]
    return torch.stack([x.nan_to_num(0.0, 0.0, 0.0).sum() * 0.0 for x in tensors]).sum()

"""Handle what a model returns: usually a tensor, sometimes a dictionary or tuple of tensors."""

import copy
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
    if isinstance(outputs, dict):  # or a subclass, such as the outputs of other libraries
        twin = copy.copy(outputs)
        for name, part in outputs.items():
            twin[name] = map_tensors(function, part)
        return twin
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


def measure(
    name: str, metric: Callable[[Any, Tensor], Any], outputs: Any, targets: Tensor
) -> Tensor | float:
    """Return a metric of a batch, on a GPU as a tensor that hasn't been read.

    It gets copies, so that it can't change what is trained on.
    """
    try:
        value = metric(map_tensors(Tensor.clone, outputs), targets.clone())
    except Exception as error:
        error.add_note(f"in the metric {name!r}")
        raise
    if isinstance(value, Tensor) and value.is_cuda and value.numel() == 1:
        return value.detach().reshape(())
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"{value!r:.60}"
        raise TypeError(
            f"the metric {name!r} must return one number per batch, got {got}; take its mean()"
        ) from None


def zero_loss(outputs: Any) -> Tensor:
    """Return a loss of 0 whose gradient is 0, for a batch without any target that counts."""
    tensors: list[Tensor] = []
    map_tensors(lambda x: tensors.append(x) or x, outputs)  # type: ignore[func-returns-value]
    return torch.stack([x.nan_to_num(0.0, 0.0, 0.0).sum() * 0.0 for x in tensors]).sum()

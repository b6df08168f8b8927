"""Parts of a step around the gradient: microbatches, its norm, clipping."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_, get_total_norm

from cnnlab.training import distributed


# Up to this many elements, the norm of one concatenated copy is faster than a norm per tensor.
SMALL = 2**20


def microbatches(size: int | None, *batch: Tensor) -> Iterator[tuple[Any, ...]]:
    """Yield this process's shard of a batch in pieces, each with whether it is the last one.

    Args:
        size: the largest number of samples per piece; None for a single piece.
        batch: the images (N, C, H, W), their targets (N, ...), and more of the same length.

    >>> [(len(x), last) for x, last in microbatches(2, torch.zeros(5, 1))]
    [(2, False), (2, False), (1, True)]
    >>> [len(x) for x, _ in microbatches(4, torch.zeros(9, 1))]
    [3, 3, 3]
    """
    several = distributed.world_size() > 1
    shards = [distributed.shard(values) for values in batch] if several else list(batch)
    n, start = len(shards[0]), 0
    sizes = [n] if size is None else microbatch_sizes(n, size)
    if len(sizes) == 1:
        yield *shards, True  # as they are: `Trainer` recognises the whole batch
        return
    for length in sizes:
        end = start + length
        yield *(values[start:end] for values in shards), end >= n
        start = end


def microbatch_sizes(n: int, size: int | None) -> list[int]:
    """Return how many of n samples go into each microbatch.

    Args:
        n: the number of samples.
        size: the largest number per microbatch; None for a single one.

    >>> microbatch_sizes(7, 3)  # not 3, 3 and 1, because batch norm can't use a single sample
    [3, 2, 2]
    """
    if size is None or size >= n:
        return [n]
    if n % size != 1:
        return [min(size, n - start) for start in range(0, n, size)]
    pieces = n // size + 1
    return [n // pieces + (number < n % pieces) for number in range(pieces)]


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Compute the norm of all gradients together, a scalar tensor; 0 if there is no gradient.

    Args:
        parameters: those whose `.grad` counts, if they have one.

    >>> weight = torch.zeros(2)
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> gradient_norm([weight])
    tensor(5.)
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients or sum(g.numel() for g in gradients) > SMALL:
        return get_total_norm(gradients)
    return torch.linalg.vector_norm(torch.cat([g.flatten() for g in gradients]))


def clip_gradients(
    parameters: list[Tensor], norm: Tensor, clip_norm: float | None, clip_value: float | None
) -> None:
    """Clip the gradients in place.

    Args:
        parameters: those whose gradients are clipped.
        norm: the norm of all their gradients together.
        clip_norm: the largest norm allowed; a longer gradient is scaled down to it.
        clip_value: the largest absolute value of each entry.
    """
    if clip_norm is not None:
        clip_grads_with_norm_(parameters, clip_norm, norm)
    if clip_value is not None:
        clip_grad_value_(parameters, clip_value)

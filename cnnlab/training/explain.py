"""Translate torch's errors about memory and shapes into a sentence that says what to change."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from cnnlab.errors import DataError, OutOfMemory


@contextmanager
def explain_oom(images: Tensor, microbatch: int | None = None) -> Iterator[None]:
    """Replace torch's out-of-memory error by one that says what to change, and free the cache.

    Args:
        images: the batch (N, C, H, W) that the block works on.
        microbatch: samples per forward pass; None for the whole batch.

    Raises:
        OutOfMemory: torch ran out of memory in the block.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(".")[0]
    else:
        return
    # Outside the `except`, because the traceback holds the tensors that fill the memory.
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    size = min(len(images), microbatch or len(images))
    halve = ""
    if size > 1 and torch.is_grad_enabled():
        halve = f"microbatch={size // 2}, which gives the same gradient, "
    elif size > 1:
        halve = f"a loader with batches of {size // 2}, "
    raise OutOfMemory(
        f"not enough memory for {size} images of shape {tuple(images.shape[1:])} at a time "
        f"({reason}). Use {halve}smaller images, or precision='bf16'"
    )


def optimizer_oom(error: torch.OutOfMemoryError) -> OutOfMemory:
    """Return an explanation of an out-of-memory error in a step of the optimizer."""
    reason = str(error).partition(".")[0]
    return OutOfMemory(
        "not enough memory for the optimizer state, which is as large as the model for SGD with "
        f"momentum and twice as large for Adam ({reason}). Use a smaller model, freeze part of it, "
        "or use SGD"
    )


@contextmanager
def explain_shape_errors(n: int | None = None) -> Iterator[None]:
    """Explain torch's errors about three common shape and label mistakes, and say what to change.

    Args:
        n: samples per forward pass, if all of them have the same number.

    Raises:
        DataError: in the block, a batch-norm layer got one value per channel, a linear layer got
            the wrong number of features, or a label was out of range.
    """
    try:
        yield
    except (ValueError, RuntimeError, IndexError) as error:
        message = str(error)
        if "more than 1 value per channel" in message:
            shape = message.partition("torch.Size(")[2][:-1]
            explanation = (
                f"BatchNorm got one value per channel (input shape {shape}), so it can't compute a "
                "variance. Use a batch (and a microbatch) of at least two images, larger images, "
                "or norm='layer'"
            )
        elif sizes := re.search(r"cannot be multiplied \((\d+)x(\d+) and (\d+)x", message):
            rows, got, expected = map(int, sizes.groups())
            explanation = (
                f"a linear layer takes {expected} features per sample and got {got}. Set its "
                f"in_features={got}, or use images of the size it was made for"
            )
            if n is not None and rows != n:
                explanation = (
                    f"a linear layer takes {expected} features per sample, but its input still has "
                    f"image dimensions ({rows} x {got} values): put nn.Flatten() before it"
                )
        elif label := re.search(r"Target (-?\d+) is out of bounds", message):
            explanation = (
                f"label {label[1]} is out of range: the model has too few outputs; build it with "
                "num_classes=len(data.classes), or number the labels from 0"
            )
        else:
            raise
        raise DataError(explanation) from error

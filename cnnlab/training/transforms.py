"""Make one function of whatever the user passed as `batch_transform`."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from cnnlab.augment import Augment
from cnnlab.augment.mixing import Batch, Either, check_takes_batch
from cnnlab.training.checks import check_batch


BatchTransform = Callable[[Tensor, Tensor, int], Batch]


def wrap_batch_transform(transform: Any) -> BatchTransform:
    """Return one function (images, targets, step) -> (images, targets) for any transform.

    Args:
        transform: None; an `Augment`, which changes the images and whose step is kept up to date; a
            function (images, targets) -> (images, targets), such as `MixUp`; or a list of these,
            applied in order.

    Raises:
        TypeError: it is none of these, for example a function of the images alone.

    >>> import torch
    >>> from cnnlab.augment import ramp
    >>> both = wrap_batch_transform([Augment(strength=ramp(0, 1, 10)), lambda x, y: (x + 1, y)])
    >>> both(torch.zeros(1, 1, 1, 1), torch.tensor([0]), 3)
    (tensor([[[[1.]]]]), tensor([0]))
    """
    if transform is None:
        return no_transform
    if isinstance(transform, list | tuple):
        return partial(_apply_in_order, [wrap_batch_transform(part) for part in transform])
    if isinstance(transform, Augment):
        return partial(_augment, transform)
    if isinstance(transform, Either):
        return partial(_either, transform)
    if callable(transform):
        check_takes_batch(transform, "batch_transform")
        # The result of a student's function is checked like a batch from a loader.
        return lambda images, targets, step: check_batch(transform(images, targets))
    raise TypeError(
        "batch_transform must be an Augment, a function (images, targets) -> (images, targets), "
        f"or a list of these; got {type(transform).__name__}"
    )


def no_transform(images: Tensor, targets: Tensor, step: int) -> Batch:
    """Return the batch as it is."""
    return images, targets


def _apply_in_order(
    parts: list[BatchTransform], images: Tensor, targets: Tensor, step: int
) -> Batch:
    for part in parts:
        images, targets = part(images, targets, step)
    return images, targets


def _augment(augment: Augment, images: Tensor, targets: Tensor, step: int) -> Batch:
    augment.step = step
    return augment(images), targets


def _either(either: Either, images: Tensor, targets: Tensor, step: int) -> Batch:
    either.set_step(step)
    return check_batch(either(images, targets))

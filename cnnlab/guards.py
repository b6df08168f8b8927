"""Checks of batches and steps: say in a sentence what torch would say in a traceback, or not at all."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from cnnlab.errors import CheckpointError, DataError, NonFiniteError, OutOfMemory
from cnnlab.mixing import soft_cross_entropy, total_weight


# They compare number by number, so torch would broadcast (N,) against (N, 1) to (N, N).
ELEMENTWISE = {"MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "BCELoss", "BCEWithLogitsLoss"}
ELEMENTWISE |= {"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"}
ELEMENTWISE |= {"binary_cross_entropy", "binary_cross_entropy_with_logits"}
CROSS_ENTROPIES = (F.cross_entropy, F.nll_loss, soft_cross_entropy)
JOINED = 2**20  # up to so many numbers, to copy is cheaper than a call for each tensor


def check_plateau(plateau: Any, value: float) -> None:
    """Refuse a threshold that is a share of a negative number: getting worse would count as improving.

    Raises:
        ValueError: torch's default threshold meets a negative loss.
    """
    if value < 0 and getattr(plateau, "threshold_mode", "abs") == "rel":
        raise ValueError(
            f"the watched number is negative ({value:.4g}), and a threshold relative to it takes worse for "
            "better: use cnnlab.schedules.Plateau, or threshold_mode='abs'"
        )


def class_weights(loss_fn: Any) -> Tensor | None:
    """Return the class weights of a cross-entropy, torch's or the library's; None where it has none."""
    if isinstance(loss_fn, partial):
        return loss_fn.keywords.get("weight") if loss_fn.func in CROSS_ENTROPIES else None
    return loss_fn.weight if isinstance(loss_fn, nn.CrossEntropyLoss | nn.NLLLoss) else None


def check_batch(batch: Any) -> tuple[Tensor, Tensor]:
    """Return (images, targets) of a batch, or explain what is wrong with it.

    Raises:
        DataError: it is no pair, or the images are not float (N, C, H, W), or the counts differ.
    """
    if not (isinstance(batch, list | tuple) and len(batch) == 2):
        raise DataError(
            f"a batch must be a pair (images, targets), got {type(batch).__name__}"
            + (f" of {len(batch)}" if isinstance(batch, list | tuple) else "")
            + "; let the dataset return (image, label), and a batch_transform (images, targets)"
        )
    images, targets = batch
    if not (isinstance(images, Tensor) and isinstance(targets, Tensor)):
        raise DataError(
            f"images and targets must be tensors, got {type(images).__name__} and "
            f"{type(targets).__name__}; convert the images with torchvision's ToTensor or torch.from_numpy"
        )
    if not images.is_floating_point():
        raise DataError(
            f"images are {_dtype(images)}; they must be float in [0, 1]: use images.float() / 255, "
            "or cnnlab.loader on an ImageSet, which does it"
        )
    if images.dtype != torch.float32:
        raise DataError(f"images are {_dtype(images)}, weights are float32: use images.float()")
    if not images.numel():
        raise DataError(f"images have shape {tuple(images.shape)}: there is nothing in this batch")
    if len(images) != len(targets):
        raise DataError(f"{len(images)} images, but {len(targets)} targets in one batch")
    return images, targets


def check_images(images: Tensor, model: nn.Module) -> None:
    """Compare the shape of the images with what the model's first convolution takes.

    Raises:
        DataError: a missing batch dimension, channels last, or the wrong number of channels.
    """
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None:
        return
    shape, channels = tuple(images.shape), first.in_channels
    if images.ndim == 3:
        raise DataError(
            f"images have shape {shape}; the batch dimension is missing: use images[None]"
        )
    if images.ndim != 4:
        raise DataError(f"images must be (N, C, H, W), got shape {shape}")
    # A picture far narrower than high, with as many columns as the model wants channels, is no picture.
    if shape[-1] == channels and shape[-2] > 2 * channels and shape[1:] != (channels, shape[2], 1):
        raise DataError(
            f"images have shape {shape}, channels last; the model takes (N, {channels}, H, W): "
            "use images.permute(0, 3, 1, 2)"
        )
    if shape[1] != channels:
        raise DataError(
            f"images have {shape[1]} channels (shape {shape}), the model's first convolution takes "
            f"{channels}: convert the images, or build the model with in_channels={shape[1]}"
        )


def check_targets(logits: Tensor, targets: Tensor, loss_fn: Any = None) -> None:
    """Compare targets with the logits, before a loss sees them: on CUDA the loss would kill the process.

    Raises:
        DataError: the targets are neither (N,) class numbers below K nor (N, K) class weights; or the loss
            compares number by number, and there are not as many of them.
    """
    name = getattr(loss_fn, "__name__", type(loss_fn).__name__)
    if name in ELEMENTWISE and not (targets.shape == logits.shape and targets.is_floating_point()):
        raise DataError(
            f"{name} compares number by number: targets {_dtype(targets)} of shape {tuple(targets.shape)} must "
            f"be float of shape {tuple(logits.shape)}, as the logits are; use targets.float() and view_as, or "
            "cross-entropy for class numbers"
        )
    if logits.ndim != 2:
        return  # not a classifier: its loss decides what fits
    n, k = logits.shape
    weights = class_weights(loss_fn)
    if weights is not None and len(weights) != k:
        raise DataError(f"{len(weights)} class weights, but the model has {k} classes")
    if targets.shape == (n, k) and targets.is_floating_point():
        return
    if targets.shape == (n, k):
        raise DataError(
            f"targets are one-hot {_dtype(targets)} of shape {tuple(targets.shape)}: use "
            "targets.argmax(1) for class numbers, or targets.float() for class weights"
        )
    if targets.shape == (n, 1):
        raise DataError(f"targets have shape {(n, 1)}; use targets.squeeze(1), shape {(n,)}")
    if targets.ndim != 1:
        raise DataError(
            f"targets have shape {tuple(targets.shape)}; they must be ({n},) class numbers or "
            f"({n}, {k}) class weights"
        )
    check_numbers(targets, k)


def check_numbers(targets: Tensor, k: int) -> None:
    """Refuse what are not class numbers 0 to k - 1.

    Raises:
        DataError: they are not int64, or out of bounds.
    """
    if targets.dtype != torch.int64:
        raise DataError(
            f"class numbers are {_dtype(targets)}; they must be int64: use targets.long()"
        )
    numbers = targets.tolist()  # one call to torch, where its min and max would be four
    low, high = min(numbers, default=0), max(numbers, default=0)
    if low < 0 or high >= k:
        raise DataError(
            f"labels run from {low} to {high}, but the model has {k} classes, 0 to {k - 1}: "
            "build it with num_classes=len(data.classes), or number the labels from 0"
        )


def check_loss(loss: Any) -> Tensor:
    """Return what a loss function has given, if a gradient can be taken of it.

    Raises:
        TypeError: the loss is no single number, or does not depend on the model.
    """
    if not (isinstance(loss, Tensor) and loss.ndim == 0 and loss.requires_grad):
        given = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)[:60]
        raise TypeError(
            f"loss_fn must return one number, a tensor made from the logits, got {given}; "
            "use reduction='mean', and torch's operations alone"
        )
    return loss


def check_finite(
    loss: float, grad_norm: float, model: nn.Module, images: Tensor, where: str
) -> None:
    """Refuse a step whose loss or gradient is NaN or infinite, and name what went wrong first.

    Raises:
        NonFiniteError: always, when one of the numbers is not finite.
    """
    if abs(loss) < float("inf") and abs(grad_norm) < float("inf"):
        return
    bad = int((~torch.isfinite(images)).sum())
    parameters = [n for n, p in model.named_parameters() if not torch.isfinite(p).all()]
    gradients = [
        n for n, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()
    ]
    if bad:
        what = f"the images hold {bad} values that are NaN or infinite; clean the data"
    elif parameters:
        what = f"the weights {parameters[0]} were not finite before; start again from a checkpoint"
    elif not abs(loss) < float("inf"):
        what = f"the loss is {loss} although the images are finite"
    else:
        what = f"the loss is {loss:.4g}, but the gradient of {(gradients or ['the weights'])[0]} is not finite"
    raise NonFiniteError(
        f"{where}: {what}. No step was taken: weights and batch-norm statistics are as before this "
        "batch. Ways out: a smaller learning rate, clip_norm=1.0, warm-up, "
        "or cnnlab.diagnose.nan_hunt to find the layer"
    )


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Return the norm of the gradients together, a tensor of one number; 0 where there is none.

    Args:
        parameters: whose `.grad` counts, if it is there.

    >>> weight = torch.zeros(2)
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> gradient_norm([weight])
    tensor(5.)
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients or sum(g.numel() for g in gradients) > JOINED:
        return get_total_norm(gradients)
    return torch.linalg.vector_norm(torch.cat([g.flatten() for g in gradients]))


@contextmanager
def memory_explained(images: Tensor, microbatch: int | None) -> Iterator[None]:
    """Turn torch's report of exhausted memory into one that says what to change; the cache is emptied.

    Raises:
        OutOfMemory: torch ran out of memory in what follows.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(".")[0]
    else:
        return
    # Out of the `except`, so that the traceback no longer holds the tensors that filled the memory.
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    size = min(len(images), microbatch or len(images))
    halve = f"microbatch={size // 2}, which gives the same gradient, " if size > 1 else ""
    raise OutOfMemory(
        f"no memory for {size} images of shape {tuple(images.shape[1:])} at a time ({reason}). Use {halve}"
        "smaller images, or precision='bf16'"
    )


@contextmanager
def shapes_explained() -> Iterator[None]:
    """Turn torch's words for two mistakes of size into sentences that say what to change.

    Raises:
        DataError: in what follows, a batch norm met one value a channel, or a linear layer another number of
            values than it takes.
    """
    try:
        yield
    except (ValueError, RuntimeError) as error:
        told = str(error)
        if "more than 1 value per channel" in told:
            what = (
                f"batch norm met a single value a channel, {told.partition('torch.Size(')[2][:-1]}, and cannot "
                "normalise it: give it more images at a time (batch_size, microbatch), larger images, or "
                "take norm='layer'"
            )
        elif sizes := re.search(r"cannot be multiplied \(\d+x(\d+) and (\d+)x", told):
            what = (
                f"a linear layer takes {sizes[2]} values a sample and got {sizes[1]}: give it in_features="
                f"{sizes[1]}, or images of the size it was made for"
            )
        else:
            raise
    else:
        return
    raise DataError(what)


def check_keys(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Compare saved weights with a model before a single one is copied.

    Raises:
        CheckpointError: names are missing or unknown, or shapes differ; each is named.
    """
    own = model.state_dict()
    shapes = [
        f"{k} is {tuple(state[k].shape)} in the file, {tuple(own[k].shape)} in the model"
        for k in own.keys() & state.keys()
        if own[k].shape != state[k].shape
    ]
    faults = [
        *(f"{k} is not in the file" for k in own.keys() - state.keys()),
        *(f"{k} is not in the model" for k in state.keys() - own.keys()),
        *shapes,
    ]
    if faults:
        raise CheckpointError(
            "the checkpoint belongs to another model: "
            + "; ".join(sorted(faults)[:5])
            + (f"; and {len(faults) - 5} more" if len(faults) > 5 else "")
            + ". Build the model as it was, or load into it and call replace_head afterwards"
        )


def mass(loss_fn: Any, targets: Tensor) -> float:
    """Return what a mean loss was divided by: the number of samples, or the sum of their class weights.

    The loss of a batch is the mean of its parts' losses weighted by this, so microbatches of any size add up
    to the whole batch, and batches to the epoch.

    Raises:
        ValueError: torch's weighted cross-entropy meets mixed targets.

    >>> mass(nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0])), torch.tensor([0, 1, 1]))
    7.0
    """
    weight, ignored = class_weights(loss_fn), getattr(loss_fn, "ignore_index", None)
    if isinstance(loss_fn, partial) and loss_fn.func in (F.cross_entropy, F.nll_loss):
        ignored = loss_fn.keywords.get("ignore_index", -100)
    if ignored is not None and targets.ndim == 1:  # a cross-entropy of torch's
        counted = targets[targets != ignored]
        if weight is None:
            return float(len(counted))
        check_numbers(counted, len(weight))
        return float(weight.to(targets.device)[counted].sum())
    if ignored is not None and weight is not None:
        raise ValueError(
            "CrossEntropyLoss with class weights divides by the samples for mixed targets and by their weights "
            "for class numbers, so mixing would change the learning rate; use loss_fn="
            "functools.partial(cnnlab.mixing.soft_cross_entropy, weight=weights)"
        )
    if isinstance(loss_fn, partial) and loss_fn.func is soft_cross_entropy:
        if weight is not None and targets.ndim == 1:
            check_numbers(targets, len(weight))
        elif weight is not None and not (
            targets.shape == (len(targets), len(weight)) and targets.is_floating_point()
        ):
            raise DataError(
                f"targets are {_dtype(targets)} of shape {tuple(targets.shape)}; with {len(weight)} class weights "
                f"they must be (N,) class numbers, or float (N, {len(weight)})"
            )
        return float(total_weight(targets, weight))
    return float(len(targets))


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")

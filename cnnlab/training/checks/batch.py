"""Checks of every batch, once, when it comes from the loader."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cnnlab.errors import DataError, NonFiniteError
from cnnlab.losses import class_weights, ignore_index, is_cross_entropy, is_elementwise
from cnnlab.training.checks.wording import (
    classify_call,
    dtype_name,
    few,
    is_picture,
    kind_of_picture,
)


def check_batch(batch: Any) -> tuple[Tensor, Tensor]:
    """Return (images, targets) of a batch as tensors, or explain what is wrong with it.

    Raises:
        DataError: it isn't a pair of arrays, it is empty, or the numbers of images and targets
            differ.
    """
    if is_picture(batch):
        raise DataError(
            f"a batch is a tensor of images (N, C, H, W), got {kind_of_picture(batch)}. To "
            f"classify a single image, call {classify_call(batch)}"
        )
    if not (isinstance(batch, list | tuple) and len(batch) == 2):
        raise DataError(
            f"a batch must be a pair (images, targets), got {type(batch).__name__}"
            + (f" of {len(batch)}" if isinstance(batch, list | tuple) else "")
            + "; let the dataset return (image, label), and a batch_transform (images, targets)"
        )
    images, targets = (torch.from_numpy(x) if isinstance(x, np.ndarray) else x for x in batch)
    one_label = isinstance(targets, int | np.integer) or (
        isinstance(targets, Tensor) and targets.ndim == 0
    )
    if isinstance(images, Tensor) and images.ndim < 4 and one_label:
        raise DataError(
            f"a batch is a single sample, an image of shape {tuple(images.shape)} and the label "
            f"{targets:g}: make batches of samples with cnnlab.loader(dataset, batch_size=64)"
        )
    for name, value, way_out in (
        ("images", images, "convert images with torchvision's ToTensor or torch.from_numpy"),
        (
            "targets",
            targets,
            "number the classes: labels = [classes.index(name) for name in names]",
        ),
    ):
        if not isinstance(value, Tensor):
            raise DataError(f"{name} must be tensors, got {type(value).__name__}; {way_out}")
    if not images.numel():
        raise DataError(f"images have shape {tuple(images.shape)}: this batch is empty")
    if targets.ndim == 0 or len(images) != len(targets):
        count = "one target" if targets.ndim == 0 else f"{len(targets)} targets"
        raise DataError(f"a batch has {len(images)} images but {count}")
    return images, targets


def as_inputs(images: Tensor, dtype: torch.dtype, takes_indices: bool) -> Tensor:
    """Return images in the number type of the weights, if nothing is lost.

    Args:
        images: a batch.
        dtype: of the weights.
        takes_indices: whether the first layer is an embedding, so that integers are meant.

    Raises:
        DataError: they are integers, whose range only you know.
    """
    if images.dtype == dtype:
        return images
    if not images.is_floating_point():
        if takes_indices:
            return images
        raise DataError(
            f"images are {dtype_name(images)}; they must be float in [0, 1]: use images.float() / "
            "255, or cnnlab.loader on an ImageSet, which does it for you"
        )
    return images.to(dtype)


def as_targets(targets: Tensor, loss_fn: Any, dtype: torch.dtype) -> Tensor:
    """Return targets in the number type that the loss needs, if nothing is lost.

    Args:
        targets: class indices of any integer type become int64, float targets `dtype`.
        loss_fn: what they are for.
        dtype: of the weights.

    Raises:
        NonFiniteError: a loss that can't leave it out would get a NaN or infinite target.
    """
    if targets.dtype == torch.int64:
        return targets
    if targets.is_floating_point():
        # On a GPU that would mean to wait; there the loss shows that a target isn't finite.
        if not targets.is_cuda and (is_cross_entropy(loss_fn) or is_elementwise(loss_fn)):
            _check_finite_targets(targets)
        return targets.to(dtype)
    integers = not (targets.is_complex() or targets.dtype == torch.bool)
    if integers and is_cross_entropy(loss_fn):
        return targets.long() if targets.ndim != 2 else targets
    return targets


def _check_finite_targets(targets: Tensor) -> None:
    bad = ~torch.isfinite(targets)
    if bad.any():
        which = bad.flatten(1).any(1) if targets.ndim > 1 else bad
        samples = which.nonzero().flatten().tolist()
        raise NonFiniteError(
            f"{int(bad.sum())} of {targets.numel()} target values are NaN or infinite, in samples "
            f"{few(samples)} of the batch: leave these samples out"
        )


def check_images(images: Tensor, model: nn.Module, n_targets: int | None = None) -> None:
    """Compare the shape of the images with the model's first convolution.

    Args:
        images: a batch.
        model: the model that gets it.
        n_targets: the number of its targets, if there are any.

    Raises:
        DataError: a dimension is missing, the channels are last, or their number is wrong.
    """
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None:
        return
    shape, channels = tuple(images.shape), first.in_channels
    if images.ndim == 3 and shape[0] == n_targets and shape[0] != channels:
        raise DataError(
            f"images have shape {shape}, so the channel dimension is missing: use images[:, None]"
        )
    if images.ndim == 3:
        raise DataError(
            f"images have shape {shape}, so the batch dimension is missing: use images[None]"
        )
    if images.ndim != 4:
        raise DataError(f"images must be (N, C, H, W), got shape {shape}")
    # An image that is as narrow as the model has input channels, and much taller, isn't an image.
    if shape[-1] == channels and shape[-2] > 2 * channels and shape[1:] != (channels, shape[2], 1):
        raise DataError(
            f"images have shape {shape}, channels last; the model takes (N, {channels}, H, W): "
            "use images.permute(0, 3, 1, 2)"
        )
    if shape[1] != channels:
        raise DataError(
            f"images have {shape[1]} channels (shape {shape}), but the model's first convolution "
            f"takes {channels}: convert the images, or build the model with in_channels={shape[1]}"
        )


def check_weighted_targets(targets: Tensor, loss_fn: Any) -> None:
    """Refuse targets that class weights can't be applied to.

    Raises:
        DataError: class indices have no weight, or soft targets have the wrong shape.
        ValueError: torch's weighted cross-entropy gets soft targets.
    """
    weight = class_weights(loss_fn)
    if weight is None:
        return
    ignored = ignore_index(loss_fn)
    soft = targets.is_floating_point() and targets.ndim > 1
    if not soft and (targets.ndim == 1 or ignored is not None):
        _check_dtype(targets)
        low, high = _range(targets, ignored)
        if low < 0 or high >= len(weight):
            raise DataError(
                f"labels run from {low} to {high}, but the loss has {len(weight)} class weights, "
                f"for the classes 0 to {len(weight) - 1}: give it one weight per class"
            )
    elif ignored is not None:
        raise ValueError(
            "with class weights, torch's CrossEntropyLoss divides by the number of samples for "
            "soft targets and by the sum of their weights for class indices, so mixing would "
            "change the effective learning rate. Use "
            "loss_fn=functools.partial(cnnlab.mixing.soft_cross_entropy, weight=weights)"
        )
    elif targets.shape != (len(targets), len(weight)) or not targets.is_floating_point():
        raise DataError(
            f"targets are {dtype_name(targets)} of shape {tuple(targets.shape)}; with "
            f"{len(weight)} class weights they must be class indices (N,), or float (N, "
            f"{len(weight)})"
        )


def check_class_indices(targets: Tensor, k: int, ignored: int | None = None) -> None:
    """Refuse targets that are not class indices from 0 to k - 1, or the label that is ignored.

    Raises:
        DataError: they are not int64, or out of range.
    """
    _check_dtype(targets)
    low, high = _range(targets, ignored)
    if low < 0 or high >= k:
        raise DataError(
            f"labels run from {low} to {high}, but the model has {k} classes, 0 to {k - 1}: "
            "build it with num_classes=len(data.classes), or number the labels from 0"
        )


def _check_dtype(targets: Tensor) -> None:
    if targets.dtype != torch.int64:
        raise DataError(
            f"class indices are {dtype_name(targets)}; they must be int64: use targets.long()"
        )


def _range(targets: Tensor, ignored: int | None) -> tuple[int, int]:
    """Return the smallest and the largest label that counts; (0, 0) if there is none."""
    if targets.ndim == 1:  # one call into torch, where its min and max would be four
        indices = targets.tolist()
        low, high = min(indices, default=0), max(indices, default=0)
        if ignored not in (low, high):
            return low, high
        counted = [i for i in indices if i != ignored]
        return min(counted, default=0), max(counted, default=0)
    labels = targets if ignored is None else targets[targets != ignored]
    return (int(labels.min()), int(labels.max())) if labels.numel() else (0, 0)

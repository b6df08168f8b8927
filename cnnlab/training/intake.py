"""Where batches come in: each is checked, converted, moved and transformed here, once."""

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cnnlab.devices import to_device
from cnnlab.losses import LossFn, class_weights
from cnnlab.training.checks import (
    as_inputs,
    as_targets,
    check_batch,
    check_images,
    check_weighted_targets,
)
from cnnlab.training.checks.wording import is_picture
from cnnlab.training.explain import explain_oom
from cnnlab.training.preparation import takes_indices, weights_dtype
from cnnlab.training.transforms import BatchTransform, no_transform


class Intake:
    """Turn what a loader yields into a batch that model and loss can take without further checks.

    What loses nothing is converted: numpy arrays, other float types of images, other integer types
    of labels.

    Args:
        model: its first convolution says which shape an image must have, its weights which number
            type.
        loss_fn: its class weights say what the targets must be.
        transform: (images, targets, step) -> (images, targets), for training batches.
        device: where the batch goes.
        memory_format: of the images.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFn,
        transform: BatchTransform,
        device: torch.device,
        memory_format: torch.memory_format,
    ) -> None:
        self.model, self.loss_fn, self.transform = model, loss_fn, transform
        self.device, self.memory_format = device, memory_format
        self.shape: torch.Size | None = None  # of the last image that was compared with the model
        self.weighted = class_weights(loss_fn) is not None
        self.layout: tuple[Any, ...] | None = None  # of the last batch that needed no change
        self.dtype, self.takes_indices = weights_dtype(model), takes_indices(model)

    def training_batch(self, batch: Any, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the images and targets to train on at a step, and the targets on the host.

        The last are the same targets as the loader gave them, usually on the CPU, where labels are
        checked and counted without waiting for a GPU. If the transform has changed the targets,
        they are the result, on the device.
        """
        images, targets, on_host = self._on_device(batch)
        if self.transform is no_transform:
            return images, targets, on_host
        with explain_oom(images):
            images, changed = self.transform(images, targets, step)
        if changed is not targets:
            targets = on_host = as_targets(changed, self.loss_fn, self.dtype)
            check_weighted_targets(targets, self.loss_fn)
        return as_inputs(images, self.dtype, self.takes_indices), targets, on_host

    def evaluation_batch(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Return the images and targets of a batch, on the device."""
        return self._on_device(batch)[:2]

    def _on_device(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Check a batch, then copy it to the device; the third tensor is the targets before.

        A batch that is laid out like the last one that could be taken as it is, can be too.
        """
        layout = _layout(batch)
        if layout is not None and layout == self.layout:
            return batch[0], batch[1], batch[1]
        images, targets = check_batch(batch)
        targets = as_targets(targets, self.loss_fn, self.dtype)
        check_weighted_targets(targets, self.loss_fn)
        images = self._to_device(images, len(targets))
        moved = to_device(targets, self.device)
        as_it_is = images is batch[0] and moved is batch[1]
        depends_on_layout_only = targets.dtype == torch.int64 and not self.weighted
        self.layout = layout if as_it_is and depends_on_layout_only else None
        return images, moved, targets

    def prediction_images(self, batch: Any) -> Tensor:
        """Return the images of a batch (images, targets), (images,) or images, on the device."""
        if isinstance(batch, list | tuple) and len(batch) == 1:
            (batch,) = batch
        if isinstance(batch, np.ndarray) and not is_picture(batch):
            batch = torch.from_numpy(batch)
        return self._to_device(batch if isinstance(batch, Tensor) else check_batch(batch)[0])

    def _to_device(self, images: Tensor, n_targets: int | None = None) -> Tensor:
        images = as_inputs(images, self.dtype, self.takes_indices)
        if images.shape[1:] != self.shape:
            check_images(images, self.model, n_targets)
            _warn_if_bytes(images)
            self.shape = images.shape[1:]
        memory_format = self.memory_format if images.ndim == 4 else torch.preserve_format
        return to_device(images, self.device).to(memory_format=memory_format)


def _layout(batch: Any) -> tuple[Any, ...] | None:
    """Return shapes, number types and devices of a pair of tensors; None for anything else."""
    if not (isinstance(batch, list | tuple) and len(batch) == 2):
        return None
    images, targets = batch
    if not (isinstance(images, Tensor) and isinstance(targets, Tensor)):
        return None
    return (
        *(images.shape, images.dtype, images.device, images.stride()),
        *(targets.shape, targets.dtype, targets.device),
    )


def _warn_if_bytes(images: Tensor) -> None:
    """Warn about images in 0..255, which were converted to float and never divided."""
    if images.ndim == 4 and images.is_floating_point() and images.numel():
        low, high = images.aminmax()
        if low >= 0 and 100 < high <= 255:
            warnings.warn(
                f"pixel values run from {low:g} to {high:g}; networks and augmentations expect "
                "them in [0, 1]: divide the images by 255",
                UserWarning,
                stacklevel=6,
            )

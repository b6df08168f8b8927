"""Where batches come in: each is checked, moved to the device and transformed here, once."""

from typing import Any

import torch
from torch import Tensor, nn

from cnnlab.losses import LossFn
from cnnlab.training.checks import check_batch, check_images, check_weighted_targets
from cnnlab.training.transforms import BatchTransform


class Intake:
    """Turn what a loader yields into a batch that model and loss can take without further checks.

    Args:
        model: its first convolution says which shape an image must have.
        loss_fn: its class weights say what the targets must be.
        transform: (images, targets, step) -> (images, targets), for training batches.
        device: where the batch goes.
        layout: memory format of the images.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFn,
        transform: BatchTransform,
        device: torch.device,
        layout: torch.memory_format,
    ) -> None:
        self.model, self.loss_fn, self.transform = model, loss_fn, transform
        self.device, self.layout = device, layout
        self.shape: torch.Size | None = None  # of the last image that was compared with the model

    def train(self, batch: Any, step: int) -> tuple[Tensor, Tensor]:
        """Return the images and targets to train on at a step."""
        images, targets = self.transform(*self.evaluate(batch), step)
        check_weighted_targets(targets, self.loss_fn)
        return images, targets

    def evaluate(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Return the images and targets of a batch, on the device."""
        images, targets = check_batch(batch)
        check_weighted_targets(targets, self.loss_fn)
        return self._place(images), targets.to(self.device, non_blocking=True)

    def predict(self, batch: Any) -> Tensor:
        """Return the images of a batch (images, targets), or of images alone, on the device."""
        return self._place(batch if isinstance(batch, Tensor) else check_batch(batch)[0])

    def _place(self, images: Tensor) -> Tensor:
        if images.shape[1:] != self.shape:
            check_images(images, self.model)
            self.shape = images.shape[1:]
        layout = self.layout if images.ndim == 4 else torch.preserve_format
        return images.to(self.device, memory_format=layout, non_blocking=True)

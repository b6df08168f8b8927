"""What the first epoch of a fit shows: data and models that train without an error, but badly."""

import warnings
from collections import Counter
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cnnlab.losses import is_cross_entropy, is_elementwise, loss_name
from cnnlab.models.tracing import trace
from cnnlab.training.checks.fit import count_classes, sorted_labels


ACTIVATIONS = ("ReLU", "ReLU6", "Sigmoid", "relu", "relu6", "sigmoid")  # layers, functions
# With fewer labels, or with images of only a few samples, chance looks like a pattern.
FEWEST_CHANGES, FEWEST_IMAGES = 16, 8


class FirstLook:
    """Look at the first step, epoch and validation of a fit, and warn about usual mistakes.

    Labels are read only where they are class indices on the CPU: on a GPU, each step would have to
    wait for them.

    Args:
        train: the training loader.
        loss_fn: the loss.
    """

    def __init__(self, train: Any, loss_fn: Any) -> None:
        logits = is_cross_entropy(loss_fn) and "nll" not in loss_name(loss_fn).lower()
        self.takes_logits = logits  # until the first step is over
        self.n_classes = count_classes(getattr(train, "dataset", None)) if logits else None
        known = is_elementwise(loss_fn) or sorted_labels(train) is not None  # `check_fit` warns
        self.labels = None if known else _Labels()
        self.images: _Pixels | None = None  # of the first training batch, before the augmentation
        self.started = False

    def training_batch(self, batch: Any) -> None:
        """Note the labels of a batch as the loader gave it, and the pixels of the first one."""
        if not self.started:
            self.images, self.started = _pixels(batch), True
        if self.labels is not None:
            labels = _class_indices(batch)
            self.labels = None if labels is None else self.labels.add(labels)

    def end_of_epoch(self) -> None:
        """Warn if the classes of the first epoch came one after the other."""
        labels, self.labels = self.labels, None
        if labels is not None and labels.are_sorted():
            warnings.warn(
                f"the training data come class by class: {labels.pure} of {labels.batches} batches "
                "contain a single class, so the model forgets one class while it learns the next. "
                "Shuffle them: cnnlab.loader(dataset, batch_size, shuffle=True)",
                UserWarning,
                stacklevel=4,
            )

    def outputs(self, outputs: Any, model: nn.Module) -> None:
        """Warn about the outputs of the first step, if they are no logits or far too many."""
        if not self.takes_logits:
            return
        self.takes_logits = False
        problem = None
        if isinstance(outputs, Tensor) and outputs.ndim > 1:
            problem = _too_many(outputs, self.n_classes) or _no_logits(outputs.detach(), model)
        if problem:
            warnings.warn(problem, UserWarning, stacklevel=7)

    def validation_batch(self, batch: Any) -> None:
        """Warn if the first validation batch is on another scale than the first training batch."""
        train, self.images = self.images, None
        valid = _pixels(batch) if train is not None else None
        if train is not None and valid is not None and train.differ_from(valid):
            warnings.warn(
                "training and validation images are on different scales: a training batch has "
                f"{train}, a validation batch {valid}. Convert and normalise both in the same way",
                UserWarning,
                stacklevel=5,
            )


class _Labels:
    """How often each class occurs in a stream of labels, and how often the class changes."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()
        self.changes = self.pure = self.batches = 0
        self.last: int | None = None

    def add(self, labels: list[int]) -> "_Labels":
        """Count the labels of the next batch."""
        self.counts.update(labels)
        self.changes += sum(a != b for a, b in pairwise([self.last, *labels]) if a is not None)
        self.pure += len(labels) > 1 and len(set(labels)) == 1
        self.batches += 1
        self.last = labels[-1]
        return self

    def are_sorted(self) -> bool:
        """Return whether most batches have one class, and it changes far less often than by chance.

        The expectation is that of a random order, N - Σ n²/N changes for n labels of each class. So
        a rare class doesn't make shuffled data look sorted.
        """
        total = self.counts.total()
        by_chance = total - sum(n * n for n in self.counts.values()) / max(total, 1)
        rare_changes = by_chance >= FEWEST_CHANGES and 4 * self.changes < by_chance
        return rare_changes and self.pure > self.batches / 2


class _Pixels(NamedTuple):
    """Mean and standard deviation per channel, (C,), and the range of the pixels of a batch."""

    mean: Tensor
    std: Tensor
    low: float
    high: float

    def __str__(self) -> str:
        return f"mean {self.mean.mean():.3g} and standard deviation {self.std.mean():.3g}"

    def differ_from(self, other: "_Pixels") -> bool:
        """Return whether in most channels the scale differs more than two samples of a set can.

        A batch of a single class may be much paler than another one, but it stays in [0, 1] if the
        other one does.
        """
        if self.std.shape != other.std.shape:
            return False
        small, large = torch.minimum(self.std, other.std), torch.maximum(self.std, other.std)
        shift = (self.mean - other.mean).abs()
        if self.in_unit_range == other.in_unit_range:
            differ = 10 * small < large
        else:
            differ = (3 * small < large) | (3 * large < shift)
        return bool(differ.float().mean() > 0.5)

    @property
    def in_unit_range(self) -> bool:
        return self.low >= -0.01 and self.high <= 1.01


def _pixels(batch: Any) -> _Pixels | None:
    """Return the statistics of a batch of images; None for anything else, or too few of them."""
    images = batch[0] if isinstance(batch, list | tuple) and batch else None
    images = torch.from_numpy(images) if isinstance(images, np.ndarray) else images
    if not (isinstance(images, Tensor) and images.ndim == 4 and images.is_floating_point()):
        return None
    if len(images) < FEWEST_IMAGES or not images.numel():
        return None
    std, mean = torch.std_mean(images.detach().float(), (0, 2, 3))
    low, high = images.aminmax()
    return _Pixels(mean.cpu(), std.cpu(), float(low), float(high))


def _class_indices(batch: Any) -> list[int] | None:
    """Return the targets of a batch, if they are class indices on the CPU."""
    targets = batch[1] if isinstance(batch, list | tuple) and len(batch) == 2 else None
    targets = torch.from_numpy(targets) if isinstance(targets, np.ndarray) else targets
    if not isinstance(targets, Tensor) or targets.device.type != "cpu" or targets.ndim != 1:
        return None
    return None if targets.is_floating_point() or not len(targets) else targets.tolist()


def _too_many(outputs: Tensor, n_classes: int | None) -> str | None:
    k = outputs.shape[1]
    if n_classes is None or k <= 2 * n_classes:
        return None
    return (
        f"the model has {k} outputs, but the data have {n_classes} classes, so classes that don't "
        "exist take part in the loss and in every prediction. Build the model with num_classes="
        f"{n_classes}, or use cnnlab.replace_head(model, {n_classes}) before you create the "
        "optimizer"
    )


def _no_logits(outputs: Tensor, model: nn.Module) -> str | None:
    if not outputs.numel() or not outputs.min() >= 0:
        return None
    if (outputs.float().sum(1) - 1).abs().max() < 0.01:
        return (
            "the outputs of the model are probabilities: none is negative, and they sum to 1. The "
            "cross-entropy applies the softmax itself, and a second one makes the gradients small "
            "and keeps the loss above 0. Remove the softmax at the end of the model"
        )
    calls = trace(model)
    last = None if calls is None else calls.last()
    if last not in ACTIVATIONS:
        return None
    return (
        f"the model ends with {last}, so no output is negative, but the cross-entropy takes logits "
        "of any size: the loss can't lower the score of an incorrect class below 0, and where the "
        "activation is flat there is no gradient. Remove it"
    )

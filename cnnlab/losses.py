"""The arithmetic of losses and metrics: pure functions of predictions, targets and class weights.

Batches differ in size, and so do microbatches and the shares of several processes. A mean over all
samples is exact only if each part is weighted by its *normalizer*, the number that its own mean was
divided by.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


LossFn = Callable[[Tensor, Tensor], Tensor]


def soft_cross_entropy(
    logits: Tensor, targets: Tensor, weight: Tensor | None = None, smoothing: float = 0.0
) -> Tensor:
    """Compute the weighted mean cross-entropy, the same for class indices and one-hot targets.

    The loss is -Σ w·t·log p / Σ w·t, summed over samples and classes, which is what
    `F.cross_entropy` computes for class indices. For soft targets torch divides by N instead, so
    turning mixup on would change the effective learning rate by the mean class weight. Pass class
    weights to the `Trainer` as `functools.partial(soft_cross_entropy, weight=w)`; gradient
    accumulation then stays exact.

    Args:
        logits: (N, K).
        targets: class indices int64 (N,), or soft targets float (N, K).
        weight: class weights w, (K,).
        smoothing: the fraction of each label that is spread evenly over all K classes. Don't use it
            on targets that are already smoothed. Szegedy et al. 2016,
            https://arxiv.org/abs/1512.00567.

    Returns:
        The loss, a scalar tensor.

    Raises:
        ValueError: smoothing is outside [0, 1].

    >>> logits, labels = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    >>> one_hot, w = F.one_hot(labels, 3).float(), torch.tensor([1.0, 2.0, 5.0])
    >>> soft = soft_cross_entropy(logits, one_hot, weight=w)
    >>> torch.allclose(soft, F.cross_entropy(logits, labels, weight=w))
    True
    """
    if not 0 <= smoothing <= 1:
        raise ValueError(f"smoothing must be between 0 and 1, got {smoothing}; 0.1 is common")
    if weight is not None:
        weight = weight.to(logits.device)
    if targets.ndim == 1:
        return F.cross_entropy(logits, targets, weight, label_smoothing=smoothing)
    at_least_fp32 = torch.promote_types(logits.dtype, torch.float32)
    log_p = F.log_softmax(logits, dim=1, dtype=at_least_fp32)
    smoothed = torch.lerp(targets, targets.new_full((), 1 / logits.shape[1]), smoothing)
    losses = -smoothed * log_p if weight is None else -smoothed * log_p * weight
    return losses.sum() / total_weight(targets, weight)


def total_weight(targets: Tensor, weight: Tensor | None = None) -> Tensor:
    """Compute Σ w·t, the divisor of `soft_cross_entropy`; without weights, the sum of the targets.

    Args:
        targets: class indices int64 (N,), or soft targets float (N, K).
        weight: class weights w, (K,); all 1 by default.

    >>> total_weight(torch.tensor([0, 1, 1]), weight=torch.tensor([1.0, 3.0]))
    tensor(7.)
    """
    if weight is None:
        return targets.sum() if targets.ndim == 2 else torch.tensor(float(len(targets)))
    if targets.ndim == 1:
        return weight.to(targets.device)[targets].sum()
    return (targets @ weight.to(targets)).sum()


CROSS_ENTROPIES = (F.cross_entropy, F.nll_loss, soft_cross_entropy)


def class_weights(loss_fn: Any) -> Tensor | None:
    """Return the class weights of a cross-entropy loss; None if it has none."""
    if isinstance(loss_fn, partial):
        return loss_fn.keywords.get("weight") if loss_fn.func in CROSS_ENTROPIES else None
    return loss_fn.weight if isinstance(loss_fn, nn.CrossEntropyLoss | nn.NLLLoss) else None


def ignore_index(loss_fn: Any) -> int | None:
    """Return the label that torch's cross-entropy leaves out; None for any other loss."""
    if isinstance(loss_fn, partial):
        is_torch = loss_fn.func in (F.cross_entropy, F.nll_loss)
        return loss_fn.keywords.get("ignore_index", -100) if is_torch else None
    return getattr(loss_fn, "ignore_index", None)


def normalizer(loss_fn: Any, targets: Tensor) -> float:
    """Return the divisor of a mean loss: the number of samples, or the sum of their class weights.

    The loss of a batch is the mean of its microbatch losses weighted by this number, and the loss
    of an epoch is the mean of its batch losses weighted by it.

    >>> normalizer(nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0])), torch.tensor([0, 1, 1]))
    7.0
    """
    weight, ignored = class_weights(loss_fn), ignore_index(loss_fn)
    if ignored is not None and targets.ndim == 1:
        counted = targets[targets != ignored]
        return float(len(counted) if weight is None else weight.to(targets.device)[counted].sum())
    if isinstance(loss_fn, partial) and loss_fn.func is soft_cross_entropy:
        return float(total_weight(targets, weight))
    return float(len(targets))


def count_correct(logits: Tensor, targets: Tensor) -> float:
    """Count the correct predictions; NaN for mixed targets and models that don't classify."""
    if logits.ndim != 2 or targets.ndim != 1 or targets.is_floating_point():
        return float("nan")
    return torch.count_nonzero(logits.argmax(1) == targets).item()


class RunningMeans:
    """Loss and accuracy averaged over samples, whatever the batch sizes."""

    def __init__(self) -> None:
        self.loss = self.normalizer = self.correct = self.count = 0.0

    def add(self, loss: float, correct: float, count: int, normalizer: float) -> None:
        """Add a batch: its mean loss, correct predictions, samples, and the divisor of its loss."""
        self.loss, self.normalizer = self.loss + loss * normalizer, self.normalizer + normalizer
        self.correct, self.count = self.correct + correct, self.count + count

    def reduce(self, all_reduce_sum: Callable[..., list[float]]) -> None:
        """Add the sums of the other processes, with `distributed.all_reduce_sum`."""
        sums = all_reduce_sum(self.loss, self.normalizer, self.correct, self.count)
        self.loss, self.normalizer, self.correct, self.count = sums

    def means(self) -> dict[str, float]:
        """Return `{"loss": ..., "acc": ...}` over everything added; NaN if nothing was."""
        nan = float("nan")
        return {
            "loss": self.loss / self.normalizer if self.normalizer else nan,
            "acc": self.correct / self.count if self.count else nan,
        }

    def state_dict(self) -> dict[str, float]:
        """Return the sums of the epoch in progress."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore what `state_dict` returned."""
        self.loss, self.normalizer = state["loss"], state["normalizer"]
        self.correct, self.count = state["correct"], state["count"]

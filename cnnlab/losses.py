"""Losses, metrics and their running means.

Batches differ in size, and so do microbatches and the shards of several processes. A mean over all
samples is exact only if each part is weighted by its *normalizer*, the number that its own mean was
divided by.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab.errors import holds


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
    if not holds(lambda: 0 <= smoothing <= 1):
        raise ValueError(f"smoothing must be between 0 and 1, got {smoothing!r}; 0.1 is common")
    if weight is not None:
        weight = torch.as_tensor(weight, device=logits.device)
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


BINARY = (
    *(F.binary_cross_entropy, F.binary_cross_entropy_with_logits),
    *(nn.BCELoss, nn.BCEWithLogitsLoss),
)
# Losses that compare outputs and targets entry by entry, and average over the entries.
ELEMENTWISE = (
    *(F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss),
    *(nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss),
    *BINARY,
)
CROSS_ENTROPIES = (F.cross_entropy, F.nll_loss, soft_cross_entropy)
CROSS_ENTROPY_MODULES = (nn.CrossEntropyLoss, nn.NLLLoss)
# A step asks several times which loss it has, and identities are compared fastest.
_BINARY = frozenset(map(id, BINARY))
_ELEMENTWISE = frozenset(map(id, ELEMENTWISE))
_CROSS_ENTROPY = frozenset(map(id, (*CROSS_ENTROPIES, *CROSS_ENTROPY_MODULES)))


def loss_name(loss_fn: Any) -> str:
    """Return the name of a loss function or of the class of a loss module."""
    loss_fn = loss_fn.func if isinstance(loss_fn, partial) else loss_fn
    return getattr(loss_fn, "__name__", type(loss_fn).__name__)


def is_cross_entropy(loss_fn: Any) -> bool:
    """Return whether this is torch's or the library's cross-entropy, not a subclass or wrapper.

    A subclass, such as a focal loss, may divide by something else, so nothing is assumed about it.
    """
    return _is_one_of(_CROSS_ENTROPY, loss_fn)


def is_elementwise(loss_fn: Any) -> bool:
    """Return whether a loss compares entry by entry, as the mean squared error does."""
    return _is_one_of(_ELEMENTWISE, loss_fn)


def is_binary(loss_fn: Any) -> bool:
    """Return whether this is torch's cross-entropy of single probabilities, not of classes."""
    return _is_one_of(_BINARY, loss_fn)


def _is_one_of(losses: frozenset[int], loss_fn: Any) -> bool:
    """Return whether a loss is one of the functions or of exactly the classes with these ids."""
    function = loss_fn.func if isinstance(loss_fn, partial) else loss_fn
    return id(function) in losses or id(type(loss_fn)) in losses


def _option(loss_fn: Any, name: str, default: Any = None) -> Any:
    """Return an option of a cross-entropy, given to the class or to `functools.partial`."""
    if isinstance(loss_fn, partial):
        return loss_fn.keywords.get(name, default)
    return getattr(loss_fn, name, default)


def class_weights(loss_fn: Any) -> Tensor | None:
    """Return the class weights of a cross-entropy loss; None if it has none."""
    return _option(loss_fn, "weight") if is_cross_entropy(loss_fn) else None


def ignore_index(loss_fn: Any) -> int | None:
    """Return the label that torch's cross-entropy leaves out; None for any other loss."""
    function = loss_fn.func if isinstance(loss_fn, partial) else loss_fn
    if not is_cross_entropy(loss_fn) or function is soft_cross_entropy:
        return None
    return _option(loss_fn, "ignore_index", -100)


def normalizer(loss_fn: Any, targets: Tensor) -> float:
    """Return the divisor of a mean loss: the number of samples, or the sum of their weights.

    The loss of a batch is the mean of its microbatch losses weighted by this number, and the loss
    of an epoch is the mean of its batch losses weighted by it. A loss of your own that divides by
    something else says so with a method `normalizer(targets)`.

    >>> normalizer(nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0])), torch.tensor([0, 1, 1]))
    7.0
    >>> normalizer(nn.CrossEntropyLoss(ignore_index=255), torch.tensor([[0, 255], [1, 1]]))
    3.0
    """
    return float(loss_divisor(loss_fn, targets, targets, class_weights(loss_fn)))


def loss_divisor(
    loss_fn: Any, targets: Tensor, on_host: Tensor, weight: Tensor | None
) -> Tensor | float:
    """Return what `normalizer` returns, without reading anything from a GPU if that is possible.

    Args:
        loss_fn: the loss.
        targets: on the device.
        on_host: the same targets, on the CPU if they come from there.
        weight: the class weights, on the CPU as well.

    Returns:
        A number, or for soft targets perhaps a scalar tensor.
    """
    if loss_fn is F.cross_entropy and on_host.dtype == torch.int64:  # the usual case, at once
        return float(targets.numel() - _count(on_host, -100))
    own = getattr(loss_fn, "normalizer", None)
    if callable(own) and not isinstance(own, nn.Module):
        value = own(targets)
        if not holds(lambda: 0 <= float(value) < math.inf):
            raise ValueError(
                f"{loss_name(loss_fn)}.normalizer(targets) must return the divisor of the mean "
                f"loss, a finite number of at least 0; got {value!r:.60}"
            )
        return float(value)
    if not is_cross_entropy(loss_fn):
        return float(targets.numel() if is_elementwise(loss_fn) else len(targets))
    ignored = ignore_index(loss_fn)
    if ignored is None:
        return total_weight(on_host, weight)
    # soft targets: torch divides by the number of samples or pixels
    if targets.is_floating_point():
        return float(targets.numel() / targets.shape[1] if targets.ndim > 1 else len(targets))
    if weight is None:
        return float(targets.numel() - _count(on_host, ignored))
    return float(weight.to(on_host.device)[on_host[on_host != ignored]].sum())


def _count(targets: Tensor, label: int) -> int:
    """Return how many targets have a label; for a vector, a list is faster than a mask."""
    if targets.ndim == 1:
        return targets.tolist().count(label)
    return int(torch.count_nonzero(targets == label))


def classifies(loss_fn: Any, outputs: Any, targets: Tensor) -> bool:
    """Return whether an accuracy means something: one score per class, and one class per sample."""
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or outputs.shape[1] < 2:
        return False
    if is_cross_entropy(loss_fn):
        return targets.ndim == 1 or targets.shape == outputs.shape
    if is_elementwise(loss_fn):
        return False
    # A loss of your own may be for a regression, whose targets look different.
    if targets.shape == outputs.shape and targets.is_floating_point():
        return are_probabilities(targets)
    if targets.ndim != 1 or targets.is_floating_point():
        return False
    return bool((targets < outputs.shape[1]).all())


def are_probabilities(targets: Tensor) -> bool:
    """Return whether targets are at least 0 and sum to 1 over the classes, dimension 1."""
    return bool(targets.min() >= 0 and (targets.sum(1) - 1).abs().max() <= 0.02)


def count_correct(
    logits: Tensor, targets: Tensor, ignored: int | None = None, on_host: Tensor | None = None
) -> tuple[Tensor | float, int]:
    """Return the number of correct predictions and of samples that count; NaN for mixed targets.

    Args:
        logits: (N, K).
        targets: class indices (N,), or one-hot or mixed targets (N, K).
        ignored: the label of samples that don't count.
        on_host: the same targets on the CPU, where those to ignore are counted without waiting.

    >>> count_correct(torch.eye(3), torch.tensor([0, 1, -100]), ignored=-100)
    (2, 2)
    """
    if targets.ndim == 2:
        one_hot = ((targets == 1).sum(1) == 1).all() & ((targets == 0) | (targets == 1)).all()
        correct = torch.count_nonzero(logits.argmax(1) == targets.argmax(1))
        return torch.where(one_hot, correct.double(), math.nan), len(targets)
    if not logits.is_cuda:  # here, lists are faster
        pairs = zip(logits.argmax(1).tolist(), targets.tolist(), strict=True)
        matches = [prediction == label for prediction, label in pairs if label != ignored]
        return sum(matches), len(matches)
    correct = logits.argmax(1) == targets
    unlabelled = 0 if ignored is None else _count(targets if on_host is None else on_host, ignored)
    if unlabelled:
        correct &= targets != ignored
    return torch.count_nonzero(correct), len(targets) - unlabelled


class RunningMeans:
    """Loss, accuracy and other metrics averaged over samples, whatever the batch sizes.

    Args:
        metrics: names of the other metrics. A batch where one of them is NaN, because it isn't
            defined there, doesn't count for it.
    """

    def __init__(self, metrics: Iterable[str] = ()) -> None:
        self.loss = self.normalizer = 0.0
        self.correct = self.count = 0.0  # of the samples that have a class
        self.samples = 0.0
        self.metrics = dict.fromkeys(metrics, 0.0)
        self.measured = dict.fromkeys(self.metrics, 0.0)  # samples of each metric

    def add(
        self,
        loss: float,
        normalizer: float,
        samples: int,
        accuracy: tuple[float, int] = (0.0, 0),
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Add a batch.

        Args:
            loss: its mean loss.
            normalizer: the divisor of this mean; 0 if every target was ignored.
            samples: the number of samples.
            accuracy: correct predictions, and of how many.
            metrics: the other metrics, as means over the samples.
        """
        if normalizer:
            self.loss, self.normalizer = self.loss + loss * normalizer, self.normalizer + normalizer
        self.correct, self.count = self.correct + accuracy[0], self.count + accuracy[1]
        self.samples += samples
        for name, value in (metrics or {}).items():
            if not math.isnan(value):
                self.metrics[name] += value * samples
                self.measured[name] += samples

    def merge(self, other: "RunningMeans") -> None:
        """Add the sums of another `RunningMeans`."""
        self.loss, self.normalizer = self.loss + other.loss, self.normalizer + other.normalizer
        self.correct, self.count = self.correct + other.correct, self.count + other.count
        self.samples += other.samples
        for name, value in other.metrics.items():
            self.metrics[name] += value
            self.measured[name] += other.measured[name]

    def reduce(self, all_reduce_sum: Callable[..., list[float]]) -> None:
        """Add the sums of the other processes, with `distributed.all_reduce_sum`."""
        sums = [self.loss, self.normalizer, self.correct, self.count, self.samples]
        total = all_reduce_sum(*sums, *self.metrics.values(), *self.measured.values())
        self.loss, self.normalizer, self.correct, self.count, self.samples, *rest = total
        self.metrics = dict(zip(self.metrics, rest, strict=False))
        self.measured = dict(zip(self.metrics, rest[len(self.metrics) :], strict=True))

    @property
    def mean_loss(self) -> float:
        """The mean loss; NaN if no target counted."""
        return self.loss / self.normalizer if self.normalizer else math.nan

    def means(self) -> dict[str, float]:
        """Return `{"loss": ..., "acc": ..., ...}`; no accuracy if nothing was classified."""
        means = {"loss": self.mean_loss}
        if self.count:
            means["acc"] = self.correct / self.count
        for name, value in self.metrics.items():
            means[name] = value / self.measured[name] if self.measured[name] else float("nan")
        return means

    def state_dict(self) -> dict[str, Any]:
        """Return the sums of the epoch in progress."""
        return {**vars(self), "metrics": dict(self.metrics), "measured": dict(self.measured)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        vars(self).update({name: state[name] for name in vars(self)})

"""Find a learning rate with a range test: train briefly while the learning rate grows."""

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cnnlab.augment import Augment
from cnnlab.errors import NonFiniteError
from cnnlab.rng import fork_rng, seed_at
from cnnlab.training.batches import training_batches
from cnnlab.training.checks import check_batch, check_targets
from cnnlab.training.modes import train_mode
from cnnlab.training.transforms import BatchTransform, wrap_batch_transform


if TYPE_CHECKING:
    from cnnlab.plots import Plot


@dataclass(frozen=True)
class LRCurve:
    """The training losses of a range test, one per learning rate.

    Attributes:
        rates: the learning rate of the first parameter group at each step, evenly spaced on a log
            scale.
        losses: the loss at each step. The test ends early if the loss becomes NaN or infinite, or
            exceeds four times its minimum.
    """

    rates: list[float]
    losses: list[float]

    def smoothed(self, beta: float = 0.9) -> list[float]:
        """Compute the exponential moving average of the losses, with bias correction.

        The average starts from zero, so after k losses their weights sum to 1 - beta^k only.
        Dividing by that sum keeps a constant loss constant. Adam does the same for its moments
        (Kingma & Ba 2015, section 3).
        """
        average, smoothed = 0.0, []
        for k, loss in enumerate(self.losses, start=1):
            average = beta * average + (1 - beta) * loss
            smoothed.append(average / (1 - beta**k))
        return smoothed

    def suggest(self) -> float | None:
        """Return the learning rate at which the loss falls most steeply, or None if it never falls.

        The slope at each learning rate is that of a straight line, fitted by least squares to the
        nearest sixth of the losses, so a single noisy loss can't decide. Use the suggestion as a
        starting point; nothing applies it for you. Smith 2017, section 3.3,
        https://arxiv.org/abs/1506.01186, with the slope taken against the log of the learning rate.
        """
        n = len(self.losses)
        half = max(2, n // 12)
        if n < 2 * half + 1:
            return None
        x, y = np.log(self.rates), np.array(self.losses)
        centres = range(half, n - half)
        windows = [slice(i - half, i + half + 1) for i in centres]
        slopes = [np.polyfit(x[window], y[window], 1)[0] for window in windows]
        steepest = int(np.argmin(slopes))
        return self.rates[centres[steepest]] if slopes[steepest] < 0 else None

    def plot(self) -> "Plot":
        """Draw the raw and the smoothed loss against the learning rate, on a logarithmic axis."""
        from cnnlab import plots

        lr = self.suggest()
        message = (
            "The loss never falls in this range of learning rates."
            if lr is None
            else f"The loss falls most steeply at a learning rate of {lr:.2g}."
        )
        return plots.lines(
            self.rates,
            {"measured": self.losses, "smoothed": self.smoothed()},
            xlabel="learning rate",
            ylabel="training loss (nats)",
            message=message,
            log="x",
        )


def lr_find(
    model: nn.Module,
    optimizer: Optimizer,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    loader: Iterable,
    *,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 100,
    batch_transform: Any = None,
) -> LRCurve:
    """Train a copy while the learning rate grows from `low` to `high`, and record the losses.

    The test runs on copies. It leaves the model, the optimizer, the loader and all random
    generators as they are, even if it raises an error. The ratios between the learning rates of the
    parameter groups stay the same. If the loader has fewer than `steps` batches, it is read again,
    in the order of its next epoch.

    Args:
        model: the model in its current state, usually freshly initialised.
        optimizer: the optimizer of its parameters, with the momentum and weight decay you will use.
        loss_fn: (logits, targets) -> mean loss.
        loader: yields training batches.
        low: the first learning rate of the first parameter group.
        high: the last learning rate of the first parameter group.
        steps: the number of learning rates, evenly spaced on a log scale.
        batch_transform: the one you will use in training.

    Returns:
        The curve. `.suggest()` returns a learning rate, `.plot()` draws the losses.

    Raises:
        ValueError: low and high aren't 0 < low < high, there are fewer than two steps, or the
            loader gives no batch.
        NonFiniteError: the very first loss is NaN or infinite.

    >>> net = nn.Linear(2, 2)
    >>> sgd = torch.optim.SGD(net.parameters(), lr=1)
    >>> batches = [(torch.randn(8, 2), torch.arange(8) % 2)]
    >>> curve = lr_find(net, sgd, nn.CrossEntropyLoss(), batches, steps=5)
    >>> [f"{lr:.2g}" for lr in curve.rates]
    ['1e-06', '5.6e-05', '0.0032', '0.18', '10']
    """
    if not 0 < low < high or steps < 2:
        raise ValueError(
            "lr_find needs 0 < low < high and at least two steps, got "
            f"low={low}, high={high}, steps={steps}"
        )
    # Copied in one call, so that the new optimizer refers to the parameters of the new model.
    model, optimizer = copy.deepcopy((model, optimizer))
    transform = wrap_batch_transform(batch_transform)
    rates = [low * (high / low) ** (i / (steps - 1)) for i in range(steps)]
    with fork_rng(), _preserve_loader(loader) as source, _preserve_steps(batch_transform):
        losses = _sweep(model, optimizer, loss_fn, _repeat_epochs(source), transform, rates)
    if not losses:
        raise NonFiniteError(
            f"the loss is NaN or infinite already at the lowest learning rate, {low:g}, so the "
            "learning rate is not the cause; cnnlab.diagnose.nan_hunt finds where it comes from"
        )
    return LRCurve(rates[: len(losses)], losses)


def _sweep(
    model: nn.Module,
    optimizer: Optimizer,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    batches: Iterable,
    transform: BatchTransform,
    rates: list[float],
) -> list[float]:
    """Take one step per learning rate until the loss explodes, and return the finite losses."""
    device = next(model.parameters()).device
    first_lr = optimizer.param_groups[0]["lr"] or 1.0
    ratios = [group["lr"] / first_lr for group in optimizer.param_groups]
    losses: list[float] = []
    train_mode(model)
    for step, (lr, batch) in enumerate(zip(rates, batches, strict=False)):
        seed_at(0, step, 2)
        for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
            group["lr"] = lr * ratio
        images, targets = (t.to(device) for t in check_batch(batch))
        images, targets = transform(images, targets, step)
        optimizer.zero_grad()
        logits = model(images)
        check_targets(logits, targets)
        loss = loss_fn(logits, targets)
        loss.backward()
        optimizer.step()
        if not math.isfinite(loss.item()):
            break
        losses.append(loss.item())
        if losses[-1] > 4 * min(losses):
            break
    return losses


@contextmanager
def _preserve_loader(loader: Iterable) -> Iterator[Iterable]:
    """Yield a loader to read from; on exit, the original has the position and generators it had."""
    owners: list[Any] = [loader, getattr(loader, "sampler", None)]
    generators = [
        owner.generator
        for owner in owners
        if isinstance(getattr(owner, "generator", None), torch.Generator)
    ]
    states = [generator.get_state() for generator in generators]
    try:
        yield copy.copy(loader) if hasattr(loader, "seek") else loader
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


@contextmanager
def _preserve_steps(transform: Any) -> Iterator[None]:
    """Restore the step of each augmentation on exit, because its strength may depend on it."""
    transforms = transform if isinstance(transform, list | tuple) else [transform]
    with ExitStack() as stack:
        for item in transforms:
            if isinstance(item, list | tuple):
                stack.enter_context(_preserve_steps(item))
            elif isinstance(item, Augment):
                stack.callback(setattr, item, "step", item.step)
        yield


def _repeat_epochs(loader: Iterable) -> Iterator[Any]:
    """Yield the training batches of a loader, one epoch after another without end."""
    for epoch in itertools.count():
        empty = True
        for batch in training_batches(loader, 0, epoch, 0):
            empty = False
            yield batch
        if empty:
            raise ValueError("the loader gave no batch; use a list or a loader with data")

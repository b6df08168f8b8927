"""Find a learning rate: the range test."""

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
from cnnlab.training.transforms import wrap_batch_transform


if TYPE_CHECKING:
    from cnnlab.plots import Plot


@dataclass(frozen=True)
class LRCurve:
    """The losses of a run whose learning rate rose from step to step.

    Attributes:
        rates: of the first parameter group, one a step, evenly spaced in log rate.
        losses: as measured; the sweep ends where they are no longer finite or four times the best.
    """

    rates: list[float]
    losses: list[float]

    def smoothed(self, beta: float = 0.9) -> list[float]:
        """Return the exponential moving average of the losses, corrected for its start from zero.

        After k losses the average holds a share 1 - beta^k of them; dividing by it makes a constant loss
        come out constant (Kingma & Ba 2015, section 3, do the same for moments).
        """
        average, out = 0.0, []
        for k, loss in enumerate(self.losses, start=1):
            average = beta * average + (1 - beta) * loss
            out.append(average / (1 - beta**k))
        return out

    def suggest(self) -> float | None:
        """Return the rate at which the loss falls most steeply in log rate; None when it never falls.

        The slope at a rate is that of the straight line through the losses around it, a sixth of the ladder,
        by least squares: a single noisy loss cannot decide. It is a place to start from, never applied by itself.
        Smith 2017, section 3.3, https://arxiv.org/abs/1506.01186, with the slope taken against log rate.
        """
        n = len(self.losses)
        half = max(2, n // 12)
        if n < 2 * half + 1:
            return None
        x, y = np.log(self.rates), np.array(self.losses)
        centres = range(half, n - half)
        slopes = [
            np.polyfit(x[i - half : i + half + 1], y[i - half : i + half + 1], 1)[0]
            for i in centres
        ]
        steepest = int(np.argmin(slopes))
        return self.rates[centres[steepest]] if slopes[steepest] < 0 else None

    def plot(self) -> "Plot":
        """Draw loss against rate, measured and smoothed, on a logarithmic axis."""
        from cnnlab import plots

        found = self.suggest()
        advice = f"steepest at {found:.2g}" if found is not None else "it never falls"
        return plots.lines(
            self.rates,
            {"measured": self.losses, "smoothed": self.smoothed()},
            xlabel="learning rate",
            ylabel="training loss (nats)",
            message=f"The loss while the rate rises: {advice}.",
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
    """Train a copy for some steps while the learning rate grows from `low` to `high`, and record the loss.

    Model, optimizer, loader and all random generators stay as they are, also when it raises: the sweep runs on
    copies. Groups keep the ratio of their rates. A loader shorter than `steps` is read again in the order of its
    next epoch.

    Args:
        model: as it is now; usually fresh.
        optimizer: over its parameters, with its momentum and weight decay.
        loss_fn: (logits, targets) -> mean loss.
        loader: training batches.
        low: first rate of the first group.
        high: last rate of the first group.
        steps: rates on the ladder, evenly spaced in log rate.
        batch_transform: the one the training will use.

    Returns:
        The curve; `.suggest()` reads it, `.plot()` draws it.

    Raises:
        ValueError: not 0 < low < high, fewer than two steps, or the loader has no batch.
        NonFiniteError: the very first loss is NaN or infinite.

    >>> batches = [(torch.randn(8, 2), torch.arange(8) % 2)]
    >>> net = nn.Linear(2, 2)
    >>> curve = lr_find(net, torch.optim.SGD(net.parameters(), lr=1), nn.CrossEntropyLoss(), batches, steps=5)
    >>> [f"{rate:.2g}" for rate in curve.rates]
    ['1e-06', '5.6e-05', '0.0032', '0.18', '10']
    """
    if not 0 < low < high or steps < 2:
        raise ValueError(
            f"lr_find needs 0 < low < high and two or more steps, got {low}, {high}, {steps}"
        )
    # One deepcopy of the pair makes the new optimizer point at the new model.
    model, optimizer = copy.deepcopy((model, optimizer))
    transform, device = wrap_batch_transform(batch_transform), next(model.parameters()).device
    first = optimizer.param_groups[0]["lr"] or 1.0
    ratios = [group["lr"] / first for group in optimizer.param_groups]
    ladder = [low * (high / low) ** (i / (steps - 1)) for i in range(steps)]
    losses: list[float] = []
    with fork_rng(), _untouched(loader) as source, _steps_kept(batch_transform):
        train_mode(model)
        for i, (rate, batch) in enumerate(zip(ladder, _endless(source), strict=False)):
            seed_at(0, i, 2)
            for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
                group["lr"] = rate * ratio
            images, targets = (t.to(device) for t in check_batch(batch))
            images, targets = transform(images, targets, i)
            optimizer.zero_grad()
            logits = model(images)
            check_targets(logits, targets)
            loss = loss_fn(logits, targets)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if not math.isfinite(losses[-1]) or losses[-1] > 4 * min(losses):
                break
    if not math.isfinite(losses[-1]):
        losses.pop()
    if not losses:
        raise NonFiniteError(
            f"the loss is not finite at the lowest rate, {low:g}, so no rate is to blame; "
            "cnnlab.diagnose.nan_hunt finds where it begins"
        )
    return LRCurve(ladder[: len(losses)], losses)


@contextmanager
def _untouched(loader: Iterable) -> Iterator[Iterable]:
    """The loader to sweep over; where it stands and its own generators are put back on exit."""
    holders: list[Any] = [loader, getattr(loader, "sampler", None)]
    generators = [
        h.generator for h in holders if isinstance(getattr(h, "generator", None), torch.Generator)
    ]
    states = [generator.get_state() for generator in generators]
    try:
        yield copy.copy(loader) if hasattr(loader, "seek") else loader
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


@contextmanager
def _steps_kept(transform: Any) -> Iterator[None]:
    """Put back the steps at which augmentations stand, whose strength may depend on them."""
    parts = transform if isinstance(transform, list | tuple) else [transform]
    with ExitStack() as stack:
        for part in parts:
            if isinstance(part, list | tuple):
                stack.enter_context(_steps_kept(part))
            elif isinstance(part, Augment):
                stack.callback(setattr, part, "step", part.step)
        yield


def _endless(loader: Iterable) -> Iterator[Any]:
    """Training batches, epoch after epoch."""
    for epoch in itertools.count():
        empty = True
        for batch in training_batches(loader, 0, epoch, 0):
            empty = False
            yield batch
        if empty:
            raise ValueError("the loader gave no batch; use a list or a loader with data")

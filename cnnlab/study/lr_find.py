"""Find a learning rate with a range test: train briefly while the learning rate grows."""

import copy
import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cnnlab.augment import Augment
from cnnlab.augment.mixing import Either
from cnnlab.errors import NonFiniteError, holds
from cnnlab.losses import LossFn, normalizer
from cnnlab.rng import fork_rng, seed_at
from cnnlab.training.batches import training_batches
from cnnlab.training.checks import (
    check_balance,
    check_loader,
    check_loss,
    check_optimizer,
    check_targets,
    n_batches,
)
from cnnlab.training.checks.options import positive_int
from cnnlab.training.checks.wording import few
from cnnlab.training.explain import explain_oom, explain_shape_errors
from cnnlab.training.gradients import clip_gradients, gradient_norm, microbatch_sizes
from cnnlab.training.intake import Intake
from cnnlab.training.modes import train_mode
from cnnlab.training.options import TrainerOptions, memory_layout
from cnnlab.training.outputs import zero_loss
from cnnlab.training.preparation import prepare_loss
from cnnlab.training.progress import long_work
from cnnlab.training.trainer import Trainer
from cnnlab.training.transforms import wrap_batch_transform


if TYPE_CHECKING:
    from cnnlab.plots import Plot


BETA = 0.9  # of the moving average of the losses
MEMORY = 10  # losses that the moving average remembers, 1 / (1 - BETA)


@dataclass(frozen=True)
class LRCurve:
    """The training losses of a range test, one per learning rate.

    Attributes:
        rates: the learning rate of the first parameter group at each step, evenly spaced on a log
            scale.
        losses: the loss at each step. The test ends early if the loss becomes NaN or infinite, or
            if the smoothed loss exceeds four times its minimum.
        others: the curves of further sweeps, with other random numbers (`seeds` of `lr_find`).
    """

    rates: list[float]
    losses: list[float]
    others: Sequence["LRCurve"] = field(default=(), repr=False)

    def smoothed(self, beta: float = BETA) -> list[float]:
        """Compute the exponential moving average of the losses, with bias correction.

        The average starts from zero, so after k losses their weights sum to 1 - beta^k only.
        Dividing by that sum keeps a constant loss constant. Adam does the same for its moments
        (Kingma & Ba 2015, section 3). A loss that is NaN or infinite is left out.
        """
        average, k, smoothed = 0.0, 0, []
        for loss in self.losses:
            if math.isfinite(loss):
                average, k = beta * average + (1 - beta) * loss, k + 1
            smoothed.append(average / (1 - beta**k) if k else math.nan)
        return smoothed

    def suggest(self) -> float | None:
        """Return the learning rate at which the loss falls most steeply, or None if it never falls.

        The slope at each learning rate is that of a straight line, fitted by least squares to the
        nearest sixth of the losses, so a single noisy loss can't decide. Where the loss comes down
        from a peak, beyond the minimum of the smoothed loss, doesn't count. Of several sweeps, the
        median suggestion is returned. Use it as a starting point; nothing applies it for you.
        Smith 2017, section 3.3, https://arxiv.org/abs/1506.01186, with the slope taken against the
        log of the learning rate.
        """
        suggestions = self._suggestions()
        return statistics.median_low(suggestions) if suggestions else None

    def spread(self) -> tuple[float, float] | None:
        """Return the lowest and the highest suggestion of all sweeps; None if there is none.

        >>> falling = LRCurve([0.1, 0.2, 0.4, 0.8, 1.6], [5.0, 4.0, 3.0, 2.0, 1.0])
        >>> falling.spread()
        (0.4, 0.4)
        """
        suggestions = self._suggestions()
        return (min(suggestions), max(suggestions)) if suggestions else None

    def _suggestions(self) -> list[float]:
        """Return the suggestion of each sweep that has one."""
        sweeps = (self._steepest(), *(curve.suggest() for curve in self.others))
        return [lr for lr in sweeps if lr is not None]

    def _steepest(self) -> float | None:
        pairs = zip(self.rates, self.losses, strict=True)
        points = [(lr, loss) for lr, loss in pairs if math.isfinite(lr) and math.isfinite(loss)]
        n = len(points)
        half = max(2, n // 12)
        if n < 2 * half + 1:
            return None
        x, y = np.log([lr for lr, _ in points]), np.array([loss for _, loss in points])
        centres = range(half, n - half)
        windows = [slice(i - half, i + half + 1) for i in centres]
        slopes = [np.polyfit(x[window], y[window], 1)[0] for window in windows]
        smoothed = LRCurve(*map(list, zip(*points, strict=True))).smoothed()
        bottom = smoothed.index(min(smoothed[MEMORY - 1 :] or smoothed))
        slopes = slopes[: max(bottom - half + 1, 0)]
        flat = -1e-9 * float(np.median(np.abs(y)))  # the slope of a constant loss, but for rounding
        if not slopes or not min(slopes) < flat:
            return None
        return points[centres[int(np.argmin(slopes))]][0]

    def __str__(self) -> str:
        lr = self.suggest()
        if lr is None:
            return "The loss never falls in this range of learning rates."
        message = f"The loss falls most steeply at a learning rate of {lr:.2g}"
        if not self.others:
            return f"{message}."
        suggestions, sweeps = self._suggestions(), 1 + len(self.others)
        low, high = min(suggestions), max(suggestions)
        message += f" (median of {sweeps} sweeps, {low:.2g} to {high:.2g})."
        if len(suggestions) < sweeps:
            message += f" In {sweeps - len(suggestions)} of them it never falls."
        return message

    def plot(self) -> "Plot":
        """Draw the raw and the smoothed loss against the learning rate, on a logarithmic axis."""
        from cnnlab import plots

        return plots.lines(
            self.rates,
            {"measured": self.losses, "smoothed": self.smoothed()},
            xlabel="learning rate",
            ylabel="training loss (nats)",
            message=str(self),
            log="x",
        )


def lr_find(
    model: nn.Module | Trainer,
    optimizer: Optimizer | Iterable | None = None,
    loss_fn: Callable[[Tensor, Tensor], Tensor] | None = None,
    loader: Iterable | None = None,
    *,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 100,
    batch_transform: Any = None,
    seeds: int = 1,
) -> LRCurve:
    """Train a copy while the learning rate grows from `low` to `high`, and record the losses.

    `lr_find(trainer, loader)` uses what the trainer has: model, optimizer, loss, batch transform,
    precision, clipping and gradient accumulation.

    The test runs on copies. It leaves the model, the optimizer, the loader and all random
    generators as they are, even if it raises an error. The ratios between the learning rates of the
    parameter groups stay the same; a schedule that is attached makes no difference. If the loader
    has fewer than `steps` batches, it is read again, in the order of its next epoch.

    Args:
        model: the model in its current state, usually freshly initialised; or a `Trainer`, followed
            by a loader only.
        optimizer: the optimizer of its parameters, with the momentum and weight decay you will use.
        loss_fn: (logits, targets) -> mean loss; by default cross-entropy.
        loader: yields training batches.
        low: the first learning rate of the first parameter group.
        high: the last learning rate of the first parameter group.
        steps: the number of learning rates, evenly spaced on a log scale.
        batch_transform: the one you will use in training.
        seeds: the number of sweeps. Each has its own order of the batches and its own random
            numbers, and `LRCurve.spread` returns how far their suggestions lie apart.

    Returns:
        The curve. `.suggest()` returns a learning rate, `.plot()` draws the losses.

    Raises:
        ValueError: low and high aren't 0 < low < high, there are fewer than two steps, the first
            parameter group has a learning rate of 0, the optimizer can't train the model, or an
            iterable without a length gives no batch.
        TypeError: an argument has the wrong type, such as a data set instead of a loader.
        DataError: the loader is empty, or the batches don't fit the model.
        NonFiniteError: the very first loss is NaN or infinite, or an image is.

    >>> net = nn.Linear(2, 2)
    >>> sgd = torch.optim.SGD(net.parameters(), lr=1)
    >>> batches = [(torch.randn(8, 2), torch.arange(8) % 2)]
    >>> curve = lr_find(net, sgd, nn.CrossEntropyLoss(), batches, steps=5)
    >>> [f"{lr:.2g}" for lr in curve.rates]
    ['1e-06', '5.6e-05', '0.0032', '0.18', '10']
    """
    options, loader = _options(model, optimizer, loss_fn, loader, batch_transform)
    steps = positive_int("steps", steps, "the number of learning rates")
    seeds = positive_int("seeds", seeds, "the number of sweeps")
    if not holds(lambda: 0 < low < high < math.inf) or steps < 2:
        raise ValueError(
            "lr_find needs 0 < low < high and at least two steps, got "
            f"low={low!r}, high={high!r}, steps={steps}"
        )
    check_loader(loader)
    check_balance(loader, options.loss_fn)
    check_optimizer(options.model, options.optimizer, options.loss_fn)
    low, high = float(low), float(high)
    rates = [low * (high / low) ** (i / (steps - 1)) for i in range(steps)]
    curves = []
    bar = long_work("learning-rate range test", seeds * steps, "step")
    with _preserve_steps(options.batch_transform), bar as done:
        for seed in range(seeds):
            with fork_rng(), _preserve_loader(loader) as source:
                batches = _repeat_epochs(source, seed, seed * steps, seed * _stride(loader, seeds))
                counted = _counted(batches, seed * steps, done)
                losses = _Sweep(options).run(rates, counted, seed)
            if not any(map(math.isfinite, losses)):
                raise NonFiniteError(
                    f"the loss is NaN or infinite already at the lowest learning rate, {low:g}, so "
                    "the learning rate is not the cause; cnnlab.diagnose.nan_hunt finds where it "
                    "comes from"
                )
            curves.append(LRCurve(rates[: len(losses)], losses))
    return LRCurve(curves[0].rates, curves[0].losses, curves[1:])


def _counted(batches: Iterable, before: int, done: Callable[[int], None]) -> Iterator[Any]:
    """Yield the batches, and tell before each how many came before it."""
    for n, batch in enumerate(batches, before):
        done(n)
        yield batch


def _options(
    model: Any, optimizer: Any, loss_fn: Any, loader: Any, batch_transform: Any
) -> tuple[TrainerOptions, Any]:
    """Return what to train with, a trainer or the options of one, and the loader."""
    if isinstance(model, Trainer):
        loaders = [x for x in (optimizer, loader) if x is not None]
        if len(loaders) != 1 or loss_fn is not None or batch_transform is not None:
            raise TypeError(
                "lr_find(trainer, loader) takes optimizer, loss and batch transform from the "
                "trainer: pass only a loader beside it"
            )
        return model, loaders[0]
    if loader is None:
        raise TypeError(
            "lr_find needs a loader: lr_find(trainer, loader), or lr_find(model, optimizer, "
            "loss_fn, loader)"
        )
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    device = None if parameter is None else parameter.device
    options = TrainerOptions(
        model, optimizer, loss_fn, batch_transform=batch_transform, device=device
    )
    return options, loader


class _Sweep:
    """A copy of a model, its optimizer and its loss, to be trained at growing learning rates."""

    def __init__(self, options: TrainerOptions) -> None:
        self.options = options
        device: Any = options.device
        # Copied in one call, so that the new optimizer refers to the parameters of the new model.
        own_loss = options.loss_fn if isinstance(options.loss_fn, nn.Module) else None
        copies = copy.deepcopy((options.model, options.optimizer, own_loss))
        self.model, self.optimizer, loss_fn = copies
        self.loss_fn: LossFn = prepare_loss(
            options.loss_fn if loss_fn is None else loss_fn, self.model, device
        )
        transform = wrap_batch_transform(options.batch_transform)
        layout = memory_layout(options.channels_last, options.precision, device)
        self.intake = Intake(self.model, self.loss_fn, transform, device, layout)
        low_precision = options.low_precision
        self.autocast = (
            torch.autocast(device.type, low_precision) if low_precision else nullcontext()
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=options.precision == "fp16")
        self.ratios = _ratios(self.optimizer)

    def run(self, rates: list[float], batches: Iterable, seed: int) -> list[float]:
        """Take one step per learning rate until the loss explodes, and return the losses."""
        losses: list[float] = []
        first_step = getattr(self.options, "step", 0)  # of a trainer in the middle of a run
        train_mode(self.model)
        for step, (lr, batch) in enumerate(zip(rates, batches, strict=False)):
            seed_at(seed, step, 2)
            for group, ratio in zip(self.optimizer.param_groups, self.ratios, strict=True):
                group["lr"] = lr * ratio
            images, targets, _ = self.intake.training_batch(batch, first_step + step)
            if not normalizer(self.loss_fn, targets):  # every target of this batch is ignored
                losses.append(math.nan)
                continue
            loss = self.step(images, targets)
            if not math.isfinite(loss):
                _check_images(images, step)
                break
            losses.append(loss)
            if _diverged([x for x in losses if math.isfinite(x)]):
                return _without_tail(losses)
        return losses

    def step(self, images: Tensor, targets: Tensor) -> float:
        """Take one optimizer step, as the trainer does, and return the loss before it."""
        options, total, mean = self.options, normalizer(self.loss_fn, targets), 0.0
        sizes, whole = microbatch_sizes(len(images), options.microbatch), options.microbatch is None
        self.optimizer.zero_grad()
        with (
            explain_oom(images, options.microbatch),
            explain_shape_errors(len(images) if whole else None),
        ):
            for x, y in zip(images.split(sizes), targets.split(sizes), strict=True):
                divisor = normalizer(self.loss_fn, y)
                with self.autocast:
                    outputs = self.model(x)
                    check_targets(outputs, y, self.loss_fn)
                    if divisor:
                        loss = check_loss(self.loss_fn(outputs, y), outputs)
                    else:  # a mean over targets that are all ignored would be NaN
                        loss = zero_loss(outputs)
                fraction = divisor / total
                self.scaler.scale(loss * fraction).backward()
                mean += loss.item() * fraction
        self.scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        if options.clip_norm is not None or options.clip_value is not None:
            norm = gradient_norm(parameters)
            clip_gradients(parameters, norm, options.clip_norm, options.clip_value)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return mean


def _ratios(optimizer: Optimizer) -> list[float]:
    """Return the learning rate of each parameter group, relative to the first one.

    Those that the optimizer was made with count, not what a schedule has made of them.
    """
    groups = optimizer.param_groups
    rates = [float(group.get("initial_lr", group["lr"])) for group in groups]
    if not rates[0] > 0 or not all(0 <= lr < math.inf for lr in rates):
        raise ValueError(
            "lr_find keeps the ratios between the learning rates of the parameter groups, so the "
            f"first one must be positive, and they are {', '.join(f'{lr:g}' for lr in rates)}: "
            "create the optimizer with lr=0.1, or with the ratios you want"
        )
    return [lr / rates[0] for lr in rates]


def _diverged(losses: list[float]) -> bool:
    """Return whether the smoothed loss is far above its minimum.

    The first losses are averaged over too few batches to tell noise from a rise, so they only count
    if they explode.
    """
    smoothed = LRCurve([], losses).smoothed()
    if len(losses) < MEMORY:
        return losses[-1] > 1000 * max([1.0, losses[0], *map(abs, losses[:-1])])
    return _far_above(smoothed[-1], min(smoothed[MEMORY - 1 :]), smoothed[0])


def _far_above(loss: float, best: float, first: float) -> bool:
    """Return whether a loss is four times the best one, or as far above it if that is negative."""
    return loss > (4 * best if best > 0 else best + 4 * max(abs(best), abs(first)))


def _without_tail(losses: list[float]) -> list[float]:
    """Leave out what came after the loss that began the explosion.

    The average reacts a few steps late, so that loss is among the last ones that it remembers.
    """
    for k in range(max(len(losses) - MEMORY, 0), len(losses)):
        finite = [x for x in losses[: k + 1] if math.isfinite(x)]
        if finite and _far_above(losses[k], min(finite), finite[0]):
            return losses[: k + 1]
    return losses


def _check_images(images: Tensor, step: int) -> None:
    """Refuse images that are not finite, because they end a range test at any learning rate."""
    bad = (~torch.isfinite(images.flatten(1))).any(1).nonzero().flatten().tolist()
    if bad:
        raise NonFiniteError(
            f"batch {step + 1} of the range test has pixels that are NaN or infinite, in image "
            f"{few(bad)}, so the learning rate is not the cause; clean the data"
        )


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
    sampler: Any = owners[1]
    epoch = getattr(sampler, "epoch", None) if hasattr(sampler, "set_epoch") else None
    try:
        yield copy.copy(loader) if hasattr(loader, "seek") else loader
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        if epoch is not None:
            sampler.set_epoch(epoch)


@contextmanager
def _preserve_steps(transform: Any) -> Iterator[None]:
    """Restore the step of each augmentation on exit, because its strength may depend on it."""
    transforms = transform if isinstance(transform, list | tuple) else [transform]
    with ExitStack() as stack:
        for item in transforms:
            item = item.transforms if isinstance(item, Either) else item
            if isinstance(item, list | tuple):
                stack.enter_context(_preserve_steps(item))
            elif isinstance(item, Augment):
                stack.callback(setattr, item, "step", item.step)
        yield


def _repeat_epochs(loader: Iterable, seed: int, epoch: int, start: int) -> Iterator[Any]:
    """Yield the training batches of a loader, one epoch after another without end.

    Args:
        loader: the loader.
        seed: of the random numbers of a loader that isn't cnnlab's.
        epoch: the first epoch, whose order it has.
        start: the first batch of this epoch.
    """
    for number in itertools.count(epoch):
        empty = True
        for batch in training_batches(loader, seed, number, start):
            empty = False
            yield batch
        if empty:
            raise ValueError(
                "the loader gave no batch: use a list or a loader with data, because a generator "
                "can be read only once"
            )
        start = 0


def _stride(loader: Any, seeds: int) -> int:
    """Return by how many batches each sweep starts later: the order of a list never changes."""
    return (n_batches(loader) or 0) // seeds

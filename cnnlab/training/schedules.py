"""Learning-rate schedules: plain functions from a step to a multiplier of the base learning rate.

The step counts finished optimizer updates: 0, 1, 2, ... A schedule remembers nothing, so there is nothing to
save and nothing to go out of step. Past its end it keeps its last value.

>>> halve_twice = step(10, gamma=0.5)
>>> [halve_twice(t) for t in (0, 9, 10, 20)]
[1.0, 1.0, 0.5, 0.25]
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau


__all__ = [
    "AttachedSchedule",
    "Plateau",
    "Schedule",
    "attach",
    "constant",
    "cosine",
    "inverse_sqrt",
    "linear",
    "multistep",
    "one_cycle",
    "one_cycle_momentum",
    "step",
    "trace",
    "warm_restarts",
    "warmup",
]


Schedule = Callable[[int], float]


def constant() -> Schedule:
    """Keep the base learning rate.

    >>> constant()(1000)
    1.0
    """
    return lambda step: 1.0


def linear(steps: int, final: float = 0.0) -> Schedule:
    """Fall along a straight line from 1 to `final`, reached at `steps`.

    >>> linear(100)(25)
    0.75
    """
    _positive(steps=steps)
    return lambda step: 1.0 + (final - 1.0) * min(step / steps, 1.0)


def step(size: int, gamma: float = 0.1) -> Schedule:
    """Multiply by `gamma` after every `size` steps.

    >>> [step(30)(t) for t in (1, 29, 30, 59)]
    [1.0, 1.0, 0.1, 0.1]
    """
    _positive(size=size)
    return lambda step: float(gamma ** (step // size))


def multistep(milestones: Sequence[int], gamma: float = 0.1) -> Schedule:
    """Multiply by `gamma` at each of `milestones`, which are steps.

    >>> [multistep([60, 80])(t) for t in (59, 60)]
    [1.0, 0.1]
    """
    ordered = sorted(milestones)
    return lambda step: float(gamma ** bisect_right(ordered, step))


def cosine(steps: int, final: float = 0.0) -> Schedule:
    """Fall along half a cosine from 1 to `final`, reached at `steps`, and stay there.

    Loshchilov & Hutter 2017, eq. 5, without restarts, https://arxiv.org/abs/1608.03983. torch's
    `CosineAnnealingLR` climbs again past its end; this one does not.

    >>> [round(cosine(100)(t), 3) for t in (0, 25, 50, 75, 100, 125)]
    [1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """
    _positive(steps=steps)
    return lambda step: _half_cosine(1.0, final, min(step / steps, 1.0))


def inverse_sqrt(timescale: float = 1) -> Schedule:
    """Fall like one over the square root of the step; half is reached at three timescales.

    The multiplier is sqrt(timescale / (timescale + step)), so that it starts at 1. Rates that fall as
    1/sqrt(step) are the classic choice for convex problems (Bottou et al. 2018, section 4,
    https://arxiv.org/abs/1606.04838).

    >>> [inverse_sqrt(100)(t) for t in (0, 300)]
    [1.0, 0.5]
    """
    _positive(timescale=timescale)
    return lambda step: math.sqrt(timescale / (timescale + step))


def warm_restarts(first: int, mult: int = 1, final: float = 0.0) -> Schedule:
    """Repeat a cosine: `first` steps long, each later cycle `mult` times longer than the one before.

    Loshchilov & Hutter 2017 (SGDR), eq. 5, https://arxiv.org/abs/1608.03983.

    >>> [warm_restarts(10)(t) for t in (0, 5, 10, 15)]
    [1.0, 0.5, 1.0, 0.5]
    """
    _positive(first=first, mult=mult)

    def multiplier(step: int) -> float:
        length, elapsed = first, step
        if mult == 1:
            elapsed %= length
        while elapsed >= length:
            elapsed, length = elapsed - length, length * mult
        return _half_cosine(1.0, final, elapsed / length)

    return multiplier


def warmup(steps: int, then: Schedule, start: float = 0.0) -> Schedule:
    """Rise along a straight line from `start` to 1 at `steps`, then follow `then`, counted from there.

    Goyal et al. 2017, section 2.2, https://arxiv.org/abs/1706.02677.

    >>> [warmup(10, cosine(90))(t) for t in (0, 5, 10, 55, 100)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    _positive(steps=steps)
    return lambda step: start + (1.0 - start) * step / steps if step < steps else then(step - steps)


def one_cycle(
    steps: int,
    peak_fraction: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Schedule:
    """Rise from 1/`div_factor` to the base rate, then fall to 1/`final_div_factor`, each along half a cosine.

    The base learning rate is the peak. Smith & Topin 2018, https://arxiv.org/abs/1708.07120, with straight
    lines and a third phase; two phases of half cosines are what fastai and torch made of it. torch divides
    the *initial* rate by its `final_div_factor`; here the final rate is peak / `final_div_factor`.

    Args:
        steps: length of the cycle in updates; the final rate is reached at `steps`.
        peak_fraction: where in the cycle the peak lies, between 0 and 1.
        div_factor: peak / initial rate.
        final_div_factor: peak / final rate.

    >>> [round(one_cycle(100)(t), 4) for t in (0, 30, 100)]
    [0.04, 1.0, 0.0001]
    """
    _positive(steps=steps, div_factor=div_factor, final_div_factor=final_div_factor)
    return _cycle(steps, peak_fraction, 1 / div_factor, 1.0, 1 / final_div_factor)


def one_cycle_momentum(
    steps: int, low: float = 0.85, high: float = 0.95, peak_fraction: float = 0.3
) -> Schedule:
    """Mirror `one_cycle`: the momentum falls from `high` to `low` at the peak rate, then rises to `high`.

    The value is the momentum itself, not a multiplier. The noise of SGD grows with η / (1 - m), so a smaller
    momentum m makes room for a larger rate η (Smith 2018, https://arxiv.org/abs/1803.09820).

    >>> [one_cycle_momentum(100)(t) for t in (0, 30, 100)]
    [0.95, 0.85, 0.95]
    """
    _positive(steps=steps)
    if not 0 <= low <= high < 1:
        raise ValueError(f"momentum needs 0 <= low <= high < 1, got low={low}, high={high}")
    return _cycle(steps, peak_fraction, high, low, high)


def trace(schedule: Schedule, steps: int) -> np.ndarray:
    """Return the multipliers of the first `steps` updates, shape (steps,).

    >>> trace(linear(4), 5)
    array([1.  , 0.75, 0.5 , 0.25, 0.  ])
    """
    return np.array([schedule(t) for t in range(steps)], dtype=np.float64)


def attach(
    optimizer: Optimizer, schedule: Schedule, momentum: Schedule | None = None
) -> "AttachedSchedule":
    """Put a schedule on an optimizer; call `.step()` of what comes back once per optimizer update.

    Every parameter group keeps its own base rate, so ratios between groups (layer-wise rates) stay as they
    are. The base rate is the group's `lr` when a schedule is attached for the first time; it is remembered as
    `initial_lr`, and a second `attach` starts from it again.

    Args:
        optimizer: any torch optimizer.
        schedule: step -> multiplier of the base rate.
        momentum: step -> momentum (SGD) or first beta (Adam); left alone when not given.

    Returns:
        A torch `LRScheduler`; the `Trainer` takes it as `scheduler=`.

    Raises:
        TypeError: `schedule` is not a function of the step.
        ValueError: `momentum` is given, and the optimizer has none.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    >>> scheduler = attach(optimizer, linear(10))
    >>> optimizer.step(); scheduler.step()
    >>> optimizer.param_groups[0]["lr"]
    0.45
    """
    if not callable(schedule):
        raise TypeError(
            f"a schedule is a function of the step, such as cosine(1000); got {schedule!r}"
        )
    if momentum is not None and not all(
        {"momentum", "betas"} & group.keys() for group in optimizer.param_groups
    ):
        raise ValueError(
            f"{type(optimizer).__name__} has no momentum to schedule; leave out momentum="
        )
    return AttachedSchedule(optimizer, schedule, momentum)


class AttachedSchedule(LambdaLR):
    """A schedule at work on an optimizer: torch's `LambdaLR`, which can also set the momentum."""

    def __init__(
        self, optimizer: Optimizer, schedule: Schedule, momentum: Schedule | None = None
    ) -> None:
        self.schedule, self.momentum = schedule, momentum
        super().__init__(optimizer, schedule)

    def step(self, epoch: int | None = None) -> None:
        """Move on by one optimizer update."""
        super().step(epoch)
        if self.momentum is None:
            return
        value = self.momentum(self.last_epoch)
        for group in self.optimizer.param_groups:
            if "betas" in group:
                group["betas"] = (value, *group["betas"][1:])
            else:
                group["momentum"] = value

    def state_dict(self) -> dict:
        """Return the position alone: the functions are given again when a run is resumed."""
        state = super().state_dict()
        state["lr_lambdas"] = [None] * len(self.lr_lambdas)
        return {k: v for k, v in state.items() if k not in ("schedule", "momentum")}


class Plateau(ReduceLROnPlateau):
    """Lower the rate when a measured number no longer improves; the `Trainer` takes it as `plateau=`.

    It is torch's `ReduceLROnPlateau` with two changes. It acts *at* the `patience`-th evaluation in a row without
    improvement, as Keras does; torch waits for one more. And an improvement must exceed `min_delta` in the
    units of the number; torch's default asks for a share of it, by which a negative number that gets worse counts
    as improving. NaN never improves.

    Args:
        optimizer: whose rates are lowered, all groups by the same factor.
        mode: whether `"min"` (a loss) or `"max"` (an accuracy) is good.
        factor: new rate / old rate.
        patience: evaluations in a row without improvement, at least 1.
        min_delta: what an improvement must exceed.
        min_lr: the rate goes no lower.

    Raises:
        ValueError: an argument is impossible.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    >>> plateau = Plateau(optimizer, factor=0.5, patience=2)
    >>> for loss in (0.9, 0.8, 0.8, 0.81):
    ...     plateau.step(loss)
    >>> optimizer.param_groups[0]["lr"]
    0.5
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: Literal["min", "max"] = "min",
        factor: float = 0.1,
        patience: int = 10,
        min_delta: float = 0.0,
        min_lr: float = 0.0,
    ) -> None:
        if mode not in ("min", "max") or not 0 < factor < 1 or patience < 1 or min_delta < 0:
            raise ValueError(
                "Plateau needs mode 'min' or 'max', 0 < factor < 1, patience >= 1 and min_delta >= 0; got "
                f"{mode!r}, {factor}, {patience} and {min_delta}"
            )
        super().__init__(
            optimizer, mode, factor, patience - 1, min_delta, "abs", min_lr=min_lr, eps=0.0
        )


def _half_cosine(start: float, end: float, progress: float) -> float:
    """From `start` at progress 0 to `end` at progress 1."""
    return end + (start - end) * (1.0 + math.cos(math.pi * progress)) / 2.0


def _cycle(steps: int, fraction: float, start: float, peak: float, end: float) -> Schedule:
    if not 0 < fraction < 1:
        raise ValueError(
            f"peak_fraction must lie between 0 and 1, got {fraction}; 0.3 rises for 30 % of the steps"
        )
    top = fraction * steps

    def value(step: int) -> float:
        if step < top:
            return _half_cosine(start, peak, step / top)
        return _half_cosine(peak, end, min((step - top) / (steps - top), 1.0))

    return value


def _positive(**numbers: float) -> None:
    for name, value in numbers.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")

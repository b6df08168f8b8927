"""Learning-rate schedules: functions from a step to a multiplier of the base learning rate.

The step is the number of finished optimizer updates: 0, 1, 2, ... A schedule has no state, so there
is nothing to save, and nothing that could get out of sync. After its end it keeps its last value. A
schedule that has an end knows it: `cosine(1000).steps` is 1000.

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

from cnnlab.errors import holds


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
    """Decrease linearly from 1 to `final`, reached at `steps`.

    Args:
        steps: optimizer updates until the end.
        final: multiplier at the end.

    Raises:
        ValueError: steps is not positive, or final is negative.

    >>> linear(100)(25)
    0.75
    """
    _positive(steps=steps)
    _not_negative(final=final)
    return _ends_at(steps, lambda step: 1.0 + (final - 1.0) * min(step / steps, 1.0))


def step(size: int, gamma: float = 0.1) -> Schedule:
    """Multiply the learning rate by `gamma` after every `size` steps.

    Args:
        size: optimizer updates between two changes.
        gamma: factor of each change.

    Raises:
        ValueError: size is not positive, or gamma is negative.

    >>> [step(30)(t) for t in (1, 29, 30, 59)]
    [1.0, 1.0, 0.1, 0.1]
    """
    _positive(size=size)
    _not_negative(gamma=gamma)
    return lambda step: float(gamma ** (step // size))


def multistep(milestones: Sequence[int], gamma: float = 0.1) -> Schedule:
    """Multiply the learning rate by `gamma` at each of `milestones`, which are steps.

    Args:
        milestones: numbers of optimizer updates.
        gamma: factor of each change.

    Raises:
        ValueError: gamma is negative.
        TypeError: milestones is not a list of steps.

    >>> [multistep([60, 80])(t) for t in (59, 60)]
    [1.0, 0.1]
    """
    _not_negative(gamma=gamma)
    if not holds(lambda: all(milestone >= 0 for milestone in milestones)):
        raise TypeError(f"milestones must be a list of steps, such as [60, 80]; got {milestones!r}")
    ordered = sorted(milestones)
    return lambda step: float(gamma ** bisect_right(ordered, step))


def cosine(steps: int, final: float = 0.0) -> Schedule:
    """Decrease along half a cosine from 1 to `final`, reached at `steps`, and stay there.

    Loshchilov & Hutter 2017, eq. 5, without restarts, https://arxiv.org/abs/1608.03983. torch's
    `CosineAnnealingLR` rises again after its end; this one doesn't.

    Args:
        steps: optimizer updates until the end.
        final: multiplier at the end.

    Raises:
        ValueError: steps is not positive, or final is negative.

    >>> [round(cosine(100)(t), 3) for t in (0, 25, 50, 75, 100, 125)]
    [1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """
    _positive(steps=steps)
    _not_negative(final=final)
    return _ends_at(steps, lambda step: _half_cosine(1.0, final, min(step / steps, 1.0)))


def inverse_sqrt(timescale: float = 1) -> Schedule:
    """Decrease with one over the square root of the step, to 1/2 after three timescales.

    The multiplier is sqrt(timescale / (timescale + step)), so it starts at 1. After a warm-up, the
    learning rate of the Transformer is proportional to 1/sqrt(step) (Vaswani et al. 2017, section
    5.3, https://arxiv.org/abs/1706.03762).

    Args:
        timescale: optimizer updates; after three times as many, the multiplier is 1/2.

    Raises:
        ValueError: timescale is not positive.

    >>> [inverse_sqrt(100)(t) for t in (0, 300)]
    [1.0, 0.5]
    """
    _positive(timescale=timescale)
    return lambda step: math.sqrt(timescale / (timescale + step))


def warm_restarts(first: int, mult: int = 1, final: float = 0.0) -> Schedule:
    """Decay along half a cosine for `first` steps, then restart with a cycle `mult` times as long.

    Loshchilov & Hutter 2017 (SGDR), eq. 5, https://arxiv.org/abs/1608.03983.

    Args:
        first: steps of the first cycle.
        mult: length of a cycle / length of the one before it, at least 1.
        final: multiplier at the end of each cycle.

    Raises:
        ValueError: first is not positive, or mult is below 1.

    >>> [warm_restarts(10)(t) for t in (0, 5, 10, 15)]
    [1.0, 0.5, 1.0, 0.5]
    """
    _positive(first=first)
    _not_negative(final=final)
    if not holds(lambda: 1 <= mult < math.inf):
        raise ValueError(
            f"mult must be at least 1, so that each cycle is as long as the one before it or "
            f"longer; got {mult!r}"
        )

    def multiplier(step: int) -> float:
        length, elapsed = first, step
        if mult == 1:
            elapsed %= length
        while elapsed >= length:
            elapsed, length = elapsed - length, length * mult
        return _half_cosine(1.0, final, elapsed / length)

    return multiplier


def warmup(steps: int, then: Schedule, start: float = 0.0) -> Schedule:
    """Increase linearly from `start` to 1 at `steps`, and start the schedule `then` there.

    Goyal et al. 2017, section 2.2, https://arxiv.org/abs/1706.02677.

    Raises:
        ValueError: steps is not positive.
        TypeError: `then` is not a schedule, for example `cosine` without its number of steps.

    >>> [warmup(10, cosine(90))(t) for t in (0, 5, 10, 55, 100)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    _positive(steps=steps)
    _not_negative(start=start)
    _check_schedule(then)

    def multiplier(step: int) -> float:
        return start + (1.0 - start) * step / steps if step < steps else then(step - steps)

    length = getattr(then, "steps", None)
    return multiplier if length is None else _ends_at(steps + length, multiplier)


def one_cycle(
    steps: int,
    peak_fraction: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Schedule:
    """Rise from 1/`div_factor` to 1 and fall to 1/`final_div_factor`, each along half a cosine.

    The base learning rate is the peak. Smith & Topin 2018, https://arxiv.org/abs/1708.07120, use
    straight lines and a third phase; fastai and torch made two phases of half cosines out of it.
    torch divides the *initial* learning rate by its `final_div_factor`; here the final learning
    rate is peak / `final_div_factor`.

    Args:
        steps: length of the cycle in updates; the final learning rate is reached at `steps`.
        peak_fraction: the fraction of the cycle before the peak, between 0 and 1.
        div_factor: peak / initial learning rate.
        final_div_factor: peak / final learning rate.

    Raises:
        ValueError: steps, div_factor or final_div_factor is not positive, or peak_fraction is not
            between 0 and 1.

    >>> [round(one_cycle(100)(t), 4) for t in (0, 30, 100)]
    [0.04, 1.0, 0.0001]
    """
    _positive(steps=steps, div_factor=div_factor, final_div_factor=final_div_factor)
    multiplier = _cycle(steps, peak_fraction, 1 / div_factor, 1.0, 1 / final_div_factor)
    multiplier.__qualname__ = "one_cycle"  # what a printed trainer shows
    return multiplier


def one_cycle_momentum(
    steps: int, low: float = 0.85, high: float = 0.95, peak_fraction: float = 0.3
) -> Schedule:
    """Mirror `one_cycle`: the momentum falls from `high` to `low` at the peak, then rises again.

    The value is the momentum itself, not a multiplier. The noise of SGD grows with η / (1 - m), so
    a smaller momentum m allows a larger learning rate η (Smith 2018,
    https://arxiv.org/abs/1803.09820).

    Args:
        steps: length of the cycle in optimizer updates.
        low: momentum at the peak of the learning rate.
        high: momentum at the start and at the end.
        peak_fraction: the fraction of the cycle before the peak, between 0 and 1.

    Raises:
        ValueError: steps is not positive, low and high aren't 0 <= low <= high < 1, or
            peak_fraction is not between 0 and 1.

    >>> [one_cycle_momentum(100)(t) for t in (0, 30, 100)]
    [0.95, 0.85, 0.95]
    """
    _positive(steps=steps)
    if not holds(lambda: 0 <= low <= high < 1):
        raise ValueError(f"momentum needs 0 <= low <= high < 1, got low={low!r}, high={high!r}")
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
    """Attach a schedule to an optimizer, and return a scheduler to step once per optimizer update.

    Every parameter group keeps its own base learning rate, so ratios between groups (layer-wise
    rates) stay as they are. The base learning rate is the group's `lr` when a schedule is attached
    for the first time; it is remembered as `initial_lr`, and a second `attach` starts from it
    again.

    Args:
        optimizer: any torch optimizer.
        schedule: step -> multiplier of the base learning rate.
        momentum: step -> momentum (SGD) or first beta (Adam); by default unchanged.

    Returns:
        A torch `LRScheduler`; the `Trainer` takes it as `scheduler=`.

    Raises:
        TypeError: `schedule` is not a function of the step, or `optimizer` no optimizer.
        ValueError: `momentum` is given, but the optimizer has none, or a value is outside [0, 1),
            even at a later step; or the `lr` of a group was set by hand after an earlier `attach`,
            which this one would ignore.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    >>> scheduler = attach(optimizer, linear(10))
    >>> optimizer.step(); scheduler.step()
    >>> optimizer.param_groups[0]["lr"]
    0.45
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            "attach takes an optimizer and a schedule, attach(optimizer, cosine(1000)); got "
            f"{optimizer!r:.60} for the optimizer"
        )
    _check_schedule(schedule)
    if momentum is not None:
        _check_schedule(momentum)
    _check_base_rates(optimizer)
    if momentum is not None and not all(
        {"momentum", "betas"} & group.keys() for group in optimizer.param_groups
    ):
        raise ValueError(
            f"{type(optimizer).__name__} has no momentum to schedule; leave out momentum="
        )
    return AttachedSchedule(optimizer, schedule, momentum)


def _check_base_rates(optimizer: Optimizer) -> None:
    """Refuse a learning rate that was set by hand, because `attach` starts from `initial_lr`.

    Raises:
        ValueError: the `lr` of a group isn't the one that the schedule attached last has set.
    """
    attached = vars(optimizer).get("attached")
    rates = attached.get_last_lr() if attached is not None else []
    for number, (group, last) in enumerate(zip(optimizer.param_groups, rates, strict=False)):
        lr = float(group["lr"])
        base = float(group.get("initial_lr", lr))
        if not math.isclose(lr, float(last), rel_tol=1e-9) and not math.isclose(lr, base):
            raise ValueError(
                f"the learning rate of parameter group {number} was set to {lr:g}, but attach "
                f"starts again from its base learning rate, {base:g}. To change that one: "
                f"optimizer.param_groups[{number}]['initial_lr'] = {lr:g}"
            )


class AttachedSchedule(LambdaLR):
    """A schedule attached to an optimizer: torch's `LambdaLR`, which can also set the momentum."""

    def __init__(
        self, optimizer: Optimizer, schedule: Schedule, momentum: Schedule | None = None
    ) -> None:
        self.schedule, self.momentum = schedule, momentum
        super().__init__(optimizer, schedule)
        vars(optimizer)["attached"] = self  # so that the next `attach` can compare learning rates

    def step(self, epoch: int | None = None) -> None:
        """Advance by one optimizer update."""
        super().step(epoch)
        if self.momentum is None:
            return
        value = self.momentum(self.last_epoch)
        if not holds(lambda: 0 <= value < 1):
            raise ValueError(
                f"a momentum is at least 0 and below 1, but the schedule of the momentum gives "
                f"{value!r} at step {self.last_epoch}"
            )
        for group in self.optimizer.param_groups:
            if "betas" in group:
                group["betas"] = (value, *group["betas"][1:])
            else:
                group["momentum"] = value

    def state_dict(self) -> dict:
        """Return the position only; the functions are passed again when a run is resumed."""
        state = super().state_dict()
        state["lr_lambdas"] = [None] * len(self.lr_lambdas)
        return {k: v for k, v in state.items() if k not in ("schedule", "momentum")}


class Plateau(ReduceLROnPlateau):
    """Lower the learning rate when a metric stops improving; the `Trainer` takes it as `plateau=`.

    It is torch's `ReduceLROnPlateau` with two changes. It acts *at* the `patience`-th evaluation in
    a row without improvement, as Keras does; torch waits for one more. And an improvement must be
    larger than `min_delta`, in the units of the metric. torch's default is a fraction of the
    metric, with which a negative metric that gets worse counts as improving. NaN is never an
    improvement.

    Args:
        optimizer: the optimizer whose learning rates are lowered, all groups by the same factor.
        mode: `"min"` if a small value is good (a loss), `"max"` if a large one is (an accuracy).
        factor: new learning rate / old learning rate.
        patience: evaluations in a row without improvement, at least 1.
        min_delta: how much better a value must be to count as an improvement.
        min_lr: the lowest learning rate.

    Raises:
        ValueError: an argument is outside its range.

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
        in_range = holds(
            lambda: 0 < factor < 1 and patience >= 1 and min_delta >= 0 and min_lr >= 0
        )
        # infinity never acts
        whole = holds(lambda: math.isinf(patience) or patience % 1 == 0)
        if mode not in ("min", "max") or not in_range or not whole:
            raise ValueError(
                "Plateau needs mode 'min' or 'max', 0 < factor < 1, a whole number patience >= 1, "
                f"min_delta >= 0 and min_lr >= 0; got {mode!r}, {factor!r}, {patience!r}, "
                f"{min_delta!r} and {min_lr!r}"
            )
        super().__init__(
            optimizer, mode, factor, patience - 1, min_delta, "abs", min_lr=min_lr, eps=0.0
        )


def _half_cosine(start: float, end: float, progress: float) -> float:
    """Return the value of half a cosine from `start` at progress 0 to `end` at progress 1."""
    return end + (start - end) * (1.0 + math.cos(math.pi * progress)) / 2.0


def _cycle(steps: int, fraction: float, start: float, peak: float, end: float) -> Schedule:
    """Return half a cosine from `start` to `peak`, followed by one from `peak` to `end`."""
    if not holds(lambda: 0 < fraction < 1):
        raise ValueError(
            f"peak_fraction must be between 0 and 1, got {fraction!r}; with 0.3 the peak is at "
            "30 % of the steps"
        )
    top = fraction * steps

    def value(step: int) -> float:
        if step < top:
            return _half_cosine(start, peak, step / top)
        return _half_cosine(peak, end, min((step - top) / (steps - top), 1.0))

    return _ends_at(steps, value)


def _ends_at(steps: int, schedule: Schedule) -> Schedule:
    """Write the length of a schedule on it, which `Trainer.fit` compares with the run."""
    vars(schedule)["steps"] = steps
    return schedule


def _check_schedule(schedule: Schedule) -> None:
    """Refuse something that doesn't return a number at a step, such as `cosine` without a length.

    Raises:
        TypeError: it is no function of the step.
    """
    way_out = "a schedule is a function of the step, such as cosine(1000)"
    if not callable(schedule):
        raise TypeError(f"{way_out}; got {schedule!r:.60}")
    name = getattr(schedule, "__name__", type(schedule).__name__)
    try:
        value = schedule(1)
    except TypeError as error:
        raise TypeError(f"{way_out}; {name} can't be called with a step alone ({error})") from None
    if callable(value):
        raise TypeError(f"{way_out}; {name} returns a function: call it first, {name}(...)")
    try:
        float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{way_out}; {name} returns {value!r:.60}, not a number") from None


def _positive(**numbers: float) -> None:
    for name, value in numbers.items():
        if not holds(lambda value=value: value > 0):  # type: ignore[misc]
            raise ValueError(f"{name} must be positive, got {value!r}")


def _not_negative(**numbers: float) -> None:
    for name, value in numbers.items():
        if not holds(lambda value=value: 0 <= value < math.inf):  # type: ignore[misc]
            raise ValueError(
                f"{name} must be at least 0 and finite, because a negative learning rate would "
                f"increase the loss; got {value!r}"
            )

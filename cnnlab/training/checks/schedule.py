"""Compare a schedule with the run: its length, and the learning rates that it set."""

import copy
import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    LRScheduler,
    MultiStepLR,
    StepLR,
)


LONGEST = 20_000  # steps of a torch scheduler that are simulated


def check_learning_rates(scheduler: Any, optimizer: Optimizer) -> None:
    """Refuse a learning rate that was set by hand, because the next step of the schedule resets it.

    Raises:
        ValueError: the learning rate of a group isn't the one that the scheduler set last.
    """
    expected = getattr(scheduler, "_last_lr", None)
    if expected is None:
        return
    for number, (group, lr) in enumerate(zip(optimizer.param_groups, expected, strict=False)):
        now, last = float(group["lr"]), float(lr)
        if not 0 <= now < math.inf:
            refuse_learning_rate(number, now)
        if not math.isclose(now, last, rel_tol=1e-9, abs_tol=1e-15):
            raise ValueError(
                f"the learning rate of parameter group {number} is {now:g}, but the scheduler set "
                f"it to {last:g} and would overwrite yours at the next step. To change it, set "
                f"optimizer.param_groups[{number}]['initial_lr'] and attach the schedule again, or "
                "train without a scheduler"
            )


def refuse_learning_rate(number: int, lr: Any) -> None:
    """Raise ValueError for a learning rate that is negative, NaN or infinite."""
    raise ValueError(
        f"the learning rate of parameter group {number} is {lr!r}: it must be at least 0 and "
        "finite, because a negative one would increase the loss. Correct it, or the schedule that "
        "set it"
    )


def check_schedule_length(
    scheduler: Any, step: int, planned: int | None, past: Sequence[float] = ()
) -> None:
    """Warn about a schedule whose length doesn't fit the run, such as one counted in epochs.

    Args:
        scheduler: the one in use.
        step: finished optimizer steps.
        planned: optimizer steps at the end of the run; None if it isn't known.
        past: learning rates of the finished steps.

    Raises:
        ValueError: torch's `OneCycleLR` has fewer steps than the run; or the learning rate is
            negative or isn't finite at one of its steps.
    """
    if planned is None or planned <= step:
        return
    total = getattr(scheduler, "total_steps", None)
    if isinstance(total, int) and planned > total:
        raise ValueError(
            f"{type(scheduler).__name__} was made for {total} steps, and this run has {planned}: "
            f"create it with total_steps={planned}"
        )
    rates = _learning_rates(scheduler, step, planned, past)
    for number, rate in enumerate(rates):
        if not 0 <= rate < math.inf:
            raise ValueError(
                f"the schedule makes the learning rate {rate} at step {number}: it must return a "
                "finite number, at least 0, for each step of the run"
            )
    if len(rates) < 8:
        return
    # 0.01 is a common final value, but no schedule is meant to spend half of the run there.
    drops = isinstance(scheduler, StepLR | MultiStepLR | ExponentialLR)
    limit = (0.0101 if drops else 0.0099) * max(rates)
    tiny = sum(rate < limit for rate in rates)
    half_period = scheduler.T_max if type(scheduler) is CosineAnnealingLR else planned
    length = _length(scheduler)
    way_out = f"Schedules count optimizer steps, and this run ends at step {planned}"
    if not max(rates) > 0:
        base = float(scheduler.optimizer.param_groups[0].get("initial_lr", 0.0))
        if not base > 0:  # a group that is meant to stay as it is
            return
        problem = "is 0 in every step of this run"
        way_out = "Attach a new schedule for a new run, or correct the schedule"
    elif tiny >= len(rates) / 2:
        problem = f"is at most 1 % of its maximum in {tiny} of the {len(rates)} steps of this run"
    elif planned >= 2 * half_period:
        problem = f"rises and falls again: T_max={half_period}, and this run has {planned} steps"
    elif length is not None and step == 0 and length > 2 * planned:
        problem = f"follows a schedule of {length} steps, of which this run has only {planned}"
    else:
        return
    warnings.warn(f"the learning rate {problem}. {way_out}", UserWarning, stacklevel=4)


def _length(scheduler: Any) -> int | None:
    """Return the steps that a schedule was made for, as far as it says so."""
    own = getattr(getattr(scheduler, "schedule", None), "steps", None)
    names = ("total_steps", "T_max", "total_iters")
    return next((n for name in names if (n := getattr(scheduler, name, None))), own)


def _learning_rates(scheduler: Any, step: int, planned: int, past: Sequence[float]) -> list[float]:
    """Return the learning rates of the whole run, of the first parameter group.

    A torch scheduler can only be simulated from where it is, so those of the past are needed.
    """
    schedule = getattr(scheduler, "schedule", None)
    if schedule is not None:
        ahead = scheduler.last_epoch - step  # of a scheduler that has been used before
        return [float(schedule(t + ahead)) for t in range(planned)]
    if not isinstance(scheduler, LRScheduler) or planned - step > LONGEST or len(past) != step:
        return []
    try:
        return [*past, *_simulate(scheduler, planned - step)]
    except Exception:  # noqa: BLE001 - a scheduler of somebody's own may need anything
        return []


def _simulate(scheduler: LRScheduler, steps: int) -> list[float]:
    """Step a copy of a scheduler on an optimizer without weights."""
    groups = [
        {k: [torch.zeros(1)] if k == "params" else copy.deepcopy(v) for k, v in group.items()}
        for group in scheduler.optimizer.param_groups
    ]
    dummy = torch.optim.SGD(groups, lr=0.0)
    dummy.step()
    # With the optimizer in the memo, the schedulers inside a SequentialLR get the dummy as well.
    twin = copy.deepcopy(scheduler, {id(scheduler.optimizer): dummy})
    rates = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(steps):
            rates.append(float(dummy.param_groups[0]["lr"]))
            twin.step()
    return rates

"""Check the exercises of chapter 5: learning-rate schedules and the range test.

The public functions are the reference solutions; the private ones next to them are known mistakes.
"""

import copy
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab.course.check.core import Exercise, Mistake, Observation
from cnnlab.rng import fold_in, generator


Batches = Sequence[tuple[Tensor, Tensor]]


def _half_cosine(start: float, end: float, progress: float) -> float:
    """Interpolate from `start` at progress 0 to `end` at progress 1, along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def _never_ends(attempt: Callable[..., Any]) -> Mistake:
    """Describe the mistake of a schedule whose progress grows beyond 1."""
    return Mistake(
        attempt,
        "after the last step the multiplier climbs again, because the cosine is periodic.",
        "a run may last longer than planned: what should the progress be from then on?",
    )


# --- cosine ---------------------------------------------------------------------------------------


def _observe_cosine(attempt: Callable[..., Any], seed: int) -> Observation:
    rng = random.Random(fold_in(seed, 5, 1))
    steps, final = rng.randrange(12, 60, 4), round(rng.uniform(0.05, 0.3), 2)
    after = steps + rng.randrange(steps // 4, steps // 2)
    places = (0, steps // 4, steps // 2, steps - 1, steps, after)
    values = [attempt(step, steps, final) for step in places]
    first, quarter, *_, last, _ = values
    return {
        "your curve is a straight line.": first != last
        and math.isclose(quarter, first + (last - first) * (steps // 4) / steps),
        **{
            f"your multiplier at step {step} of {steps} with final={final}": value
            for step, value in zip(places, values, strict=True)
        },
    }


def cosine(step: int, steps: int, final: float) -> float:
    """Return the multiplier: half a cosine from 1 to `final` at `steps`, then constant."""
    return _half_cosine(1, final, min(step / steps, 1))


def _climbs_again(step, steps, final):  # type: ignore[no-untyped-def]
    return _half_cosine(1, final, step / steps)


def _degrees(step, steps, final):  # type: ignore[no-untyped-def]
    return final + (1 - final) * (1 + math.cos(180 * min(step / steps, 1))) / 2


def _half_the_angle(step, steps, final):  # type: ignore[no-untyped-def]
    return final + (1 - final) * (1 + math.cos(math.pi / 2 * min(step / steps, 1))) / 2


def _quarter_wave(step, steps, final):  # type: ignore[no-untyped-def]
    return final + (1 - final) * math.cos(math.pi / 2 * min(step / steps, 1))


def _whole_turn(step, steps, final):  # type: ignore[no-untyped-def]
    return final + (1 - final) * (1 + math.cos(2 * math.pi * min(step / steps, 1))) / 2


def _floor_added(step, steps, final):  # type: ignore[no-untyped-def]
    return final + _half_cosine(1, 0, min(step / steps, 1))


def _floor_cut(step, steps, final):  # type: ignore[no-untyped-def]
    return max(final, _half_cosine(1, 0, min(step / steps, 1)))


def _ends_a_step_early(step, steps, final):  # type: ignore[no-untyped-def]
    return _half_cosine(1, final, min(step / (steps - 1), 1))


def _upside_down(step, steps, final):  # type: ignore[no-untyped-def]
    return _half_cosine(final, 1, min(step / steps, 1))


COSINE = Exercise(
    name="cosine",
    task="`cosine(step, steps, final) -> multiplier`",
    observe=_observe_cosine,
    answer=cosine,
    praise="Your curve starts at 1, falls along half a cosine, reaches the floor at the last step "
    "and stays there.",
    hint="what is the cosine of your angle at the start, half-way and at the end?",
    mistakes={
        "climbs again": _never_ends(_climbs_again),
        "degrees": Mistake(
            _degrees,
            "your angle is in degrees, but `math.cos` expects radians, so the multiplier jumps up "
            "and down.",
            "half a turn is 180 degrees; how much is that in radians?",
        ),
        "half the angle": Mistake(
            _half_the_angle,
            "your angle only reaches a quarter of a turn, so the curve has fallen only half-way "
            "at the end.",
            "at which angle is the cosine -1?",
        ),
        "quarter of a wave": Mistake(
            _quarter_wave,
            "you use a quarter of a cosine wave, which is steepest at the end, where the curve "
            "should be flat.",
            "half a wave goes from +1 to -1; how can you map that range to 1 and 0?",
        ),
        "whole turn": Mistake(
            _whole_turn,
            "your angle makes a whole turn, so the multiplier is back at the top at the end.",
            "at which angle is the cosine -1?",
        ),
        "floor added": Mistake(
            _floor_added,
            "you add the floor to a curve from 1 to 0, so the multiplier starts above 1.",
            "the curve should run *between* 1 and the floor; how large is that range?",
        ),
        "floor cut off": Mistake(
            _floor_cut,
            "your curve falls towards 0 and is cut off at the floor, so it reaches the floor too "
            "early.",
            "the curve should run *between* 1 and the floor; how large is that range?",
        ),
        "ends a step early": Mistake(
            _ends_a_step_early,
            "your curve reaches the floor one step too early.",
            "what should the progress be at `step == steps`, and what should it be one step "
            "before that?",
        ),
        "upside down": Mistake(
            _upside_down,
            "your curve is upside down: it rises from the floor to 1.",
            "try step 0 by hand; the cosine of 0 is 1",
        ),
    },
)


# --- warm-up, then cosine -------------------------------------------------------------------------


def _observe_warmup(attempt: Callable[..., Any], seed: int) -> Observation:
    rng = random.Random(fold_in(seed, 5, 2))
    warmup, decay = rng.randrange(4, 12), rng.randrange(16, 60, 2)
    steps = warmup + decay
    after = steps + rng.randrange(10, 30)
    places = (0, warmup // 2, warmup - 1, warmup, warmup + 1, warmup + decay // 2, steps, after)
    problems = [*((step, warmup, steps) for step in places), (0, 0, decay), (decay // 2, 0, decay)]
    values = [attempt(*problem) for problem in problems]
    top, next_value, middle = values[3:6]
    return {
        "your fall is a straight line.": top != middle
        and math.isclose(next_value, top + (middle - top) * 2 / decay),
        **{
            f"your multiplier at step {step} with warmup={up} and steps={n}": value
            for (step, up, n), value in zip(problems, values, strict=True)
        },
    }


def warmup_cosine(step: int, warmup: int, steps: int) -> float:
    """Return the multiplier: linear from 0 to 1 at `warmup`, then half a cosine to 0 at `steps`."""
    if step < warmup:
        return step / warmup
    return _half_cosine(1, 0, min((step - warmup) / (steps - warmup), 1))


def _cosine_from_the_start(step, warmup, steps):  # type: ignore[no-untyped-def]
    return step / warmup if step < warmup else _half_cosine(1, 0, min(step / steps, 1))


def _product(step, warmup, steps):  # type: ignore[no-untyped-def]
    return min(step / max(warmup, 1), 1) * _half_cosine(1, 0, min(step / steps, 1))


def _peak_a_step_late(step, warmup, steps):  # type: ignore[no-untyped-def]
    return warmup_cosine(step, warmup + 1, steps)


def _peak_a_step_early(step, warmup, steps):  # type: ignore[no-untyped-def]
    if step < warmup:
        return (step + 1) / warmup
    return _half_cosine(1, 0, min((step - warmup) / (steps - warmup), 1))


def _steps_after_the_peak(step, warmup, steps):  # type: ignore[no-untyped-def]
    return step / warmup if step < warmup else _half_cosine(1, 0, min((step - warmup) / steps, 1))


def _integer_division(step, warmup, steps):  # type: ignore[no-untyped-def]
    return step // warmup if step < warmup else warmup_cosine(step, warmup, steps)


def _climbs_again_after_warmup(step, warmup, steps):  # type: ignore[no-untyped-def]
    if step < warmup:
        return step / warmup
    return _half_cosine(1, 0, (step - warmup) / (steps - warmup))


WARMUP_COSINE = Exercise(
    name="warmup_cosine",
    task="`warmup_cosine(step, warmup, steps) -> multiplier`; `steps` is the total",
    observe=_observe_warmup,
    answer=warmup_cosine,
    praise="Your curve rises in a straight line to exactly 1, falls without a jump, and is 0 from "
    "the last step on.",
    hint="is this step in the rise or in the fall, and what fraction of it has passed?",
    mistakes={
        "cosine from the start": Mistake(
            _cosine_from_the_start,
            "your cosine counts from step 0, so it has already fallen when the warm-up ends, and "
            "the multiplier never reaches 1.",
            "at `step == warmup`, how many steps of the cosine should have passed?",
        ),
        "product": Mistake(
            _product,
            "you multiply the warm-up by a cosine that counts from step 0, so the multiplier "
            "never reaches 1.",
            "the two phases come one after the other, not at the same time",
        ),
        "peak a step late": Mistake(
            _peak_a_step_late,
            "your peak comes one step too late.",
            "at `step == warmup` the multiplier should be 1",
        ),
        "peak a step early": Mistake(
            _peak_a_step_early,
            "your warm-up is one step ahead: it doesn't start at 0, and it reaches 1 too early.",
            "try step 0 and step `warmup - 1` by hand",
        ),
        "steps after the peak": Mistake(
            _steps_after_the_peak,
            "your cosine takes `steps` steps after the warm-up, so it reaches 0 too late; `steps` "
            "is the length of the whole run.",
            "how many steps are left when the warm-up is over?",
        ),
        "integer division": Mistake(
            _integer_division,
            "your multiplier is 0 during the whole warm-up, because `//` rounds down.",
            "which operator divides and keeps the fraction?",
        ),
        "climbs again": _never_ends(_climbs_again_after_warmup),
    },
)


# --- range test -----------------------------------------------------------------------------------


def _observe_range_test(attempt: Callable[..., Any], seed: int) -> Observation:
    g = generator(seed, 5, 4)
    n = 5 + seed % 2
    low, high = 0.01, 0.01 * 4.0 ** (n - 1)  # each step has four times the learning rate before it
    model = nn.Linear(2, 3)
    with torch.no_grad():
        model.weight.copy_(torch.randn(3, 2, generator=g))
        model.bias.zero_()
    images = torch.randn(n, 6, 2, generator=g)
    labels = torch.randint(3, (n, 6), generator=g)
    batches = list(zip(images, labels, strict=True))
    before = [p.detach().clone() for p in model.parameters()]
    returned = attempt(model, batches, low, high)
    moved = any(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    not_two = "your function returns something other than two lists, (lrs, losses)."
    if not (isinstance(returned, tuple | list) and len(returned) == 2):
        return {not_two: True}
    lrs, losses = returned
    where = f"with {n} batches, low={low:g} and high={high:g}"
    return {
        not_two: False,
        "your function trains the model that it's given, not a copy of it.": moved,
        f"your list of learning rates {where}": lrs,
        f"your list of losses {where}": losses,
    }


def range_test(
    model: nn.Module, batches: Batches, low: float, high: float
) -> tuple[list[float], list[float]]:
    """Train a copy with a growing learning rate; return the learning rates and the losses."""
    trained = copy.deepcopy(model)
    optimizer = torch.optim.SGD(trained.parameters(), lr=low)
    lrs, losses = [], []
    for i, (images, labels) in enumerate(batches):
        lr = low * (high / low) ** (i / (len(batches) - 1))
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        loss = F.cross_entropy(trained(images), labels)
        loss.backward()
        optimizer.step()
        lrs.append(lr)
        losses.append(loss.item())
    return lrs, losses


def _sweep(
    model: nn.Module,
    batches: Batches,
    lrs: Sequence[float],
    *,
    copied: bool = True,
    late: bool = False,
    clear: bool = True,
    momentum: float = 0.0,
    after: bool = False,
    restart: bool = False,
) -> tuple[list[float], list[float]]:
    """Do what `range_test` does, with the learning rates and the mistakes that are given.

    Args:
        model: a linear model.
        batches: one for each learning rate.
        lrs: the learning rates.
        copied: whether a copy of the model is trained.
        late: whether the learning rate is set after the step.
        clear: whether the gradients are cleared.
        momentum: momentum of SGD.
        after: whether the loss is computed again after the step.
        restart: whether each step starts from the model that was given.
    """
    trained = copy.deepcopy(model) if copied else model
    optimizer = torch.optim.SGD(trained.parameters(), lr=lrs[0], momentum=momentum)
    losses = []
    for lr, (images, labels) in zip(lrs, batches, strict=True):
        if restart:
            trained.load_state_dict(model.state_dict())
        if not late:
            optimizer.param_groups[0]["lr"] = lr
        if clear:
            optimizer.zero_grad()
        loss = F.cross_entropy(trained(images), labels)
        loss.backward()
        optimizer.step()
        if late:
            optimizer.param_groups[0]["lr"] = lr
        if after:
            loss = F.cross_entropy(trained(images), labels)
        losses.append(loss.item())
    return list(lrs), losses


def _log_spaced(low: float, high: float, n: int) -> list[float]:
    return [low * (high / low) ** (i / (n - 1)) for i in range(n)]


def _variant(**options: Any) -> Callable[..., Any]:
    """Return a range test with a mistake in its sweep."""

    def attempt(model, batches, low, high):  # type: ignore[no-untyped-def]
        return _sweep(model, batches, _log_spaced(low, high, len(batches)), **options)

    return attempt


def _evenly_spaced(model, batches, low, high):  # type: ignore[no-untyped-def]
    n = len(batches)
    return _sweep(model, batches, [low + (high - low) * i / (n - 1) for i in range(n)])


def _never_reaches_high(model, batches, low, high):  # type: ignore[no-untyped-def]
    n = len(batches)
    return _sweep(model, batches, [low * (high / low) ** (i / n) for i in range(n)])


def _skips_low(model, batches, low, high):  # type: ignore[no-untyped-def]
    n = len(batches)
    return _sweep(model, batches, [low * (high / low) ** ((i + 1) / n) for i in range(n)])


RANGE_TEST = Exercise(
    name="range_test",
    task="`range_test(model, batches, low, high) -> (learning rates, losses)`",
    observe=_observe_range_test,
    answer=range_test,
    praise="Your learning rates run from `low` to `high` by a constant factor, each loss belongs "
    "to its learning rate, and the model is as it was.",
    hint="write down the first three steps by hand: the learning rate, the weights, the loss",
    mistakes={
        "trains the model": Mistake(
            _variant(copied=False),
            "your function trains the model that it's given, so a real run would start from "
            "weights that the sweep has ruined.",
            "what does `copy.deepcopy` do?",
        ),
        "set after the step": Mistake(
            _variant(late=True),
            "you set the learning rate after `step()`, so each step uses the value before it.",
            "which learning rate did the optimizer use in your third step?",
        ),
        "evenly spaced": Mistake(
            _evenly_spaced,
            "your learning rates grow by the same amount, not by the same factor.",
            "which number lies half-way between 0.01 and 1 on a logarithmic axis?",
        ),
        "never reaches high": Mistake(
            _never_reaches_high,
            "your last learning rate is below `high`.",
            "how often is the learning rate multiplied between the first batch and the last?",
        ),
        "skips low": Mistake(
            _skips_low,
            "your first learning rate is already above `low`.",
            "the first batch hasn't been multiplied by anything yet",
        ),
        "no zero_grad": Mistake(
            _variant(clear=False),
            "you never clear the gradients, so each step uses the sum of all gradients so far.",
            "compare your loop with `train_one_epoch` of chapter 1",
        ),
        "loss after the step": Mistake(
            _variant(after=True),
            "you compute the loss after the step, on a batch that the weights have just been "
            "fitted to.",
            "which loss do you need for `backward()` anyway?",
        ),
        "momentum": Mistake(
            _variant(momentum=0.9),
            "your optimizer has momentum, so old steps still move the weights.",
            "which arguments does plain SGD need?",
        ),
        "starts again": Mistake(
            _variant(restart=True),
            "each of your steps starts from the initial weights, but it should start where the "
            "last one ended.",
            "how many copies of the model does the sweep need?",
        ),
    },
)

EXERCISES = (COSINE, WARMUP_COSINE, RANGE_TEST)

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

from cnnlab.course.check.core import Exercise, Mistake, Observation, Prediction
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


# --- a cosine whose end is moved ------------------------------------------------------------------


def _observe_extended_cosine(attempt: Callable[..., Any], seed: int) -> Observation:
    rng = random.Random(fold_in(seed, 5, 1))
    steps = rng.randrange(24, 60, 4)
    change = rng.randrange(steps // 4 + 1, steps // 2)
    later, quarter = change + steps, steps // 4
    sooner = change + 4 * rng.randrange(1, 3)
    after = later + rng.randrange(9, 20)
    to_later = [0, change - 1, change, change + quarter, change + 2 * quarter, later - 1, later]
    problems = [
        *((step, steps, change, later) for step in (*to_later, after)),
        *((step, steps, change, sooner) for step in (change + 2, sooner, steps)),
        (quarter, steps, 0, later),
    ]
    values = [attempt(*problem) for problem in problems]
    at_change, at_quarter, at_half = values[2:5]
    return {
        "after the change, your curve is a straight line.": at_half != at_change
        and math.isclose(at_half - at_change, 2 * (at_quarter - at_change)),
        **{
            f"your multiplier at step {step} with steps={n}, change={at}, new_steps={new}": value
            for (step, n, at, new), value in zip(problems, values, strict=True)
        },
    }


def extended_cosine(step: int, steps: int, change: int, new_steps: int) -> float:
    """Return the multiplier: a cosine for `steps`; from `change` on, one from there to 0."""
    if step < change:
        return _half_cosine(1, 0, step / steps)
    start = _half_cosine(1, 0, change / steps)
    return _half_cosine(start, 0, min((step - change) / (new_steps - change), 1))


def _extended(curve: Callable[[float], float], *, stops: bool = True) -> Callable[..., Any]:
    """Return the solution with another curve in place of half a cosine from 1 to 0."""

    def attempt(step, steps, change, new_steps):  # type: ignore[no-untyped-def]
        if step < change:
            return curve(step / steps)
        progress = (step - change) / (new_steps - change)
        return curve(change / steps) * curve(min(progress, 1) if stops else progress)

    return attempt


def _ignores_the_change(step, steps, change, new_steps):  # type: ignore[no-untyped-def]
    return _half_cosine(1, 0, min(step / steps, 1))


def _cosine_of_the_new_length(step, steps, change, new_steps):  # type: ignore[no-untyped-def]
    return _half_cosine(1, 0, min(step / (steps if step < change else new_steps), 1))


def _starts_again(step, steps, change, new_steps):  # type: ignore[no-untyped-def]
    if step < change:
        return _half_cosine(1, 0, step / steps)
    return _half_cosine(1, 0, min((step - change) / (new_steps - change), 1))


def _counts_from_0(step, steps, change, new_steps):  # type: ignore[no-untyped-def]
    if step < change:
        return _half_cosine(1, 0, step / steps)
    return _half_cosine(_half_cosine(1, 0, change / steps), 0, min(step / new_steps, 1))


def _ends_late(step, steps, change, new_steps):  # type: ignore[no-untyped-def]
    if step < change:
        return _half_cosine(1, 0, step / steps)
    start = _half_cosine(1, 0, change / steps)
    return _half_cosine(start, 0, min((step - change) / new_steps, 1))


def _ends_at_the_old_end(step, steps, change, new_steps):  # type: ignore[no-untyped-def]
    if step < change:
        return _half_cosine(1, 0, step / steps)
    start = _half_cosine(1, 0, change / steps)
    return _half_cosine(start, 0, min((step - change) / (steps - change), 1))


def _stretches_the_rest(step, steps, change, new_steps):  # type: ignore[no-untyped-def]
    if step < change:
        return _half_cosine(1, 0, step / steps)
    rest = min((step - change) / (new_steps - change), 1)
    return _half_cosine(1, 0, change / steps + (1 - change / steps) * rest)


def _linear_rest(step, steps, change, new_steps):  # type: ignore[no-untyped-def]
    if step < change:
        return _half_cosine(1, 0, step / steps)
    rest = min((step - change) / (new_steps - change), 1)
    return _half_cosine(1, 0, change / steps) * (1 - rest)


EXTENDED_COSINE = Exercise(
    name="extended_cosine",
    task="`extended_cosine(step, steps, change, new_steps) -> multiplier`",
    observe=_observe_extended_cosine,
    answer=extended_cosine,
    praise="Your curve follows the old cosine up to the change, goes on from there without a jump, "
    "and is 0 from the new end on.",
    hint="which half cosine is this step on, and what fraction of that one has passed?",
    mistakes={
        "climbs again": _never_ends(
            _extended(lambda progress: _half_cosine(1, 0, progress), stops=False)
        ),
        "ignores the change": Mistake(
            _ignores_the_change,
            "your curve still ends at `steps`, as if nothing had changed.",
            "from step `change` on, where should the curve end?",
        ),
        "cosine of the new length": Mistake(
            _cosine_of_the_new_length,
            "at the change you jump to the cosine of the new length.",
            "which value does the multiplier have just before the change, and which just after?",
        ),
        "starts again": Mistake(
            _starts_again,
            "at the change your curve jumps back to 1, like a warm restart.",
            "which value does the old cosine have at step `change`?",
        ),
        "counts from 0": Mistake(
            _counts_from_0,
            "your new half cosine counts from step 0, so it has already fallen when it begins.",
            "at `step == change`, how many steps of the new half cosine have passed?",
        ),
        "ends late": Mistake(
            _ends_late,
            "your new half cosine takes `new_steps` steps, so it ends too late; `new_steps` is the "
            "length of the whole run.",
            "how many steps are left at the change?",
        ),
        "ends at the old end": Mistake(
            _ends_at_the_old_end,
            "your new half cosine still ends at `steps`.",
            "at which step does the run end now?",
        ),
        "stretches the rest": Mistake(
            _stretches_the_rest,
            "you stretch the rest of the old cosine. That has no jump either, but it isn't a new "
            "half cosine.",
            "how steep is half a cosine where it begins, and how steep is yours at the change?",
        ),
        "straight rest": Mistake(
            _linear_rest,
            "after the change your curve is a straight line.",
            "which shape should it have from there to 0?",
        ),
        "degrees": Mistake(
            _extended(lambda progress: (1 + math.cos(180 * progress)) / 2),
            "your angle is in degrees, but `math.cos` expects radians, so the multiplier jumps up "
            "and down.",
            "half a turn is 180 degrees; how much is that in radians?",
        ),
        "half the angle": Mistake(
            _extended(lambda progress: (1 + math.cos(math.pi / 2 * progress)) / 2),
            "your angle only reaches a quarter of a turn, so the curve has fallen only halfway "
            "at the end.",
            "at which angle is the cosine -1?",
        ),
        "quarter of a wave": Mistake(
            _extended(lambda progress: math.cos(math.pi / 2 * progress)),
            "you use a quarter of a cosine wave, which is steepest at the end, where the curve "
            "should be flat.",
            "half a wave goes from +1 to -1; how can you map that range to 1 and 0?",
        ),
        "whole turn": Mistake(
            _extended(lambda progress: (1 + math.cos(2 * math.pi * progress)) / 2),
            "your angle makes a whole turn, so the curve is back at the top at its end.",
            "at which angle is the cosine -1?",
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
    problems.append((3 * decay, 4 * decay, 5 * decay))  # most of the run is warm-up
    values = [attempt(*problem) for problem in problems]
    top, next_value, middle = values[3:6]
    return {
        "your curve falls in a straight line.": top != middle
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


def _smaller_of_both(step, warmup, steps):  # type: ignore[no-untyped-def]
    fall = _half_cosine(1, 0, min((step - warmup) / (steps - warmup), 1))
    return min(step / warmup, fall) if warmup else fall


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
        "smaller of both": Mistake(
            _smaller_of_both,
            "you take the smaller of the rise and the fall, but before the warm-up is over the "
            "cosine has a negative progress and may be small.",
            "try a long warm-up by hand: `warmup=8`, `steps=10`, step 6",
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
    low, high = 0.01, 0.01 * 4.0 ** (n - 1)  # each step multiplies the learning rate by four
    linear = nn.Linear(2, 3)
    model = nn.Sequential(linear, nn.BatchNorm1d(3)).eval()
    with torch.no_grad():
        linear.weight.copy_(torch.randn(3, 2, generator=g))
        linear.bias.zero_()
    images = torch.randn(n, 6, 2, generator=g)
    labels = torch.randint(3, (n, 6), generator=g)
    batches = list(zip(images, labels, strict=True))
    before = copy.deepcopy(model.state_dict())
    returned = attempt(model, batches, low, high)
    moved = any(not torch.equal(x, before[name]) for name, x in model.state_dict().items())
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
    trained = copy.deepcopy(model).train()
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
    training: bool = True,
    never: bool = False,
) -> tuple[list[float], list[float]]:
    """Run a range test at the given learning rates, with the given mistakes.

    Args:
        model: a model with batch norm.
        batches: one for each learning rate.
        lrs: the learning rates.
        copied: whether a copy of the model is trained.
        late: whether the learning rate is set after the step.
        clear: whether the gradients are cleared.
        momentum: momentum of SGD.
        after: whether the loss is computed again after the step.
        restart: whether each step starts from the model that was given.
        training: whether the model is put into training mode.
        never: whether the learning rate stays at the first one.
    """
    trained = copy.deepcopy(model) if copied else model
    trained.train(training)
    optimizer = torch.optim.SGD(trained.parameters(), lr=lrs[0], momentum=momentum)
    losses = []
    for lr, (images, labels) in zip(lrs, batches, strict=True):
        if restart:
            trained.load_state_dict(model.state_dict())
        if not late and not never:
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
    "to its learning rate, and the model is unchanged.",
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
            "you set the learning rate after `step()`, so each step uses the previous step's "
            "value.",
            "which learning rate did the optimizer use in your third step?",
        ),
        "evenly spaced": Mistake(
            _evenly_spaced,
            "your learning rates grow by a constant amount, but they should grow by a constant "
            "factor.",
            "which number lies halfway between 0.01 and 1 on a logarithmic axis?",
        ),
        "never reaches high": Mistake(
            _never_reaches_high,
            "your last learning rate is below `high`.",
            "how many times is the learning rate multiplied between the first batch and the last?",
        ),
        "skips low": Mistake(
            _skips_low,
            "your first learning rate is already above `low`.",
            "at the first batch, the learning rate hasn't been multiplied by anything yet",
        ),
        "never set": Mistake(
            _variant(never=True),
            "your optimizer never uses your learning rates: it makes all steps with `low`.",
            "which entry of `optimizer.param_groups[0]` does `step()` read?",
        ),
        "evaluation mode": Mistake(
            _variant(training=False),
            "your copy is in evaluation mode, so batch norm uses its old statistics, and the sweep "
            "measures another network than the one that you'll train.",
            "which method puts a model into training mode?",
        ),
        "no zero_grad": Mistake(
            _variant(clear=False),
            "you never clear the gradients, so each step uses the sum of all gradients so far.",
            "compare your loop with `train_one_epoch` of the first training loop",
        ),
        "loss after the step": Mistake(
            _variant(after=True),
            "you compute the loss after the step, on a batch that the weights have just been "
            "fitted to.",
            "which loss do you need for `backward()` anyway?",
        ),
        "momentum": Mistake(
            _variant(momentum=0.9),
            "your optimizer has momentum, so earlier gradients still move the weights.",
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

EXERCISES = (EXTENDED_COSINE, WARMUP_COSINE, RANGE_TEST)

PREDICTIONS = (
    Prediction(
        question="Learning rate of the cosine at epoch 75?",
        text=(
            "A cosine schedule falls from 0.01 to 0.0001 in 100 epochs. What is the learning "
            "rate at epoch 75?"
        ),
        answer=0.00155,
        why=(
            "At three quarters of the way, cos(3π/4) is -0.71, so about 15 % of the way down is "
            "left."
        ),
        section="Step decay and cosine",
        within=0.0001,
    ),
    Prediction(
        question="How many points does the cosine gain?",
        text=(
            "A residual network trains on 5,000 photographs of CIFAR-10 for twenty epochs, each "
            "schedule with its best peak. By how many points of accuracy does a cosine schedule "
            "beat a constant learning rate?"
        ),
        answer=6.7,
        why=(
            "At a constant learning rate every step also adds noise to the weights. When the "
            "steps get smaller at the end of the run, the noise goes away."
        ),
        section="A long run and a short one",
        within=2,
    ),
    Prediction(
        question="Sixty steps: constant or cosine?",
        text=(
            "A narrow network trains for only sixty steps, with the best peak for each "
            "schedule. Which ends with the higher validation accuracy?"
        ),
        answer="constant",
        why=(
            "After sixty steps, little of the loss is noise. Every step that the cosine "
            "shortens is lost progress."
        ),
        section="A long run and a short one",
        options=("constant", "cosine", "within 1 point"),
    ),
    Prediction(
        question="What is the accuracy when the cosine is four steps long?",
        text=(
            "A cosine schedule gets the number of epochs as its length, which is 4, but the "
            "loop counts steps, and there are 60. The correct unit gives an accuracy of about "
            "0.66, and guessing gives 0.08. What accuracy do you expect?"
        ),
        answer=0.196,
        why=(
            "After four steps the learning rate is zero, and the rest of the run changes no "
            "weight. Torch doesn't complain, so plot the learning rates that were used."
        ),
        section="Steps or epochs?",
    ),
    Prediction(
        question="By what factor do the suggestions differ?",
        text=(
            "Six range tests (`lr_find`) on the same task, each with its own seed, suggest six "
            "learning rates. How many times as large as the smallest is the largest?"
        ),
        answer=8.6,
        why="Trust a range test only to the nearest power of ten, and take the median of several.",
        section="The range test: which learning rate?",
        within=3,
    ),
    Prediction(
        question="AdamW: which of the three is best?",
        text=(
            "A narrow network trains with AdamW for sixty steps. Which has the best validation "
            "accuracy: a constant learning rate of 0.3, the same after a warm-up over half the "
            "run, or the usual 0.003?"
        ),
        answer="0.003",
        why=(
            "A warm-up widens the range of learning rates that train, but it can't turn a bad "
            "learning rate into a good one."
        ),
        section="Warm-up",
        options=("0.3", "0.3 warmed up", "0.003"),
    ),
    Prediction(
        question="How far behind is one-cycle in two epochs?",
        text=(
            "One-cycle gets two epochs, and a constant learning rate gets six. How far behind "
            "is the accuracy of one-cycle? (0.02 means two points behind, -0.02 two points "
            "ahead.)"
        ),
        answer=0.045,
        why=(
            "With the same number of epochs, one-cycle is ahead. A third of the epochs isn't "
            "enough: the chapter saw no super-convergence."
        ),
        section="One-cycle",
        within=0.02,
    ),
    Prediction(
        question="Noisy valleys: which is best after 400 steps?",
        text=(
            "On a toy loss with noise, you stop after 400 steps. Which has the lowest loss: a "
            "constant learning rate, a cosine that was planned for 800 steps (stopped early), a "
            "cooldown over the last 20 %, or schedule-free training?"
        ),
        answer="schedule-free",
        why=(
            "Both the cooldown and averaging beat the long cosine that was stopped early. Only "
            "a cosine of the right length does better, and it has to know the end."
        ),
        section="Since 2024: when you don't know the end",
        options=("constant", "stopped early", "cooldown", "schedule-free"),
    ),
)

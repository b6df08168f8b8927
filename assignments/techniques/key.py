"""The key of the assignment on techniques: answers, the mistakes that are known, and how an attempt is watched.

It stays with the instructor; `EXERCISES` is what the grader reads.
"""

import math
import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnlab.check import Exercise, Mistake
from cnnlab.rng import fold_in, generator


# --- mixup, a share for each image ------------------------------------------------------------------


def _observe_mixup(attempt: Callable[..., Any], seed: int) -> dict[str, Any]:
    rng = generator(seed, 21, 1)
    n, classes = (
        int(torch.randint(5, 9, (), generator=rng)),
        int(torch.randint(3, 7, (), generator=rng)),
    )
    images = torch.rand(n, 3, 4, 4, generator=rng)
    labels = torch.randint(classes, (n,), generator=rng)
    labels[:2] = torch.tensor([0, classes - 1])  # at least two classes
    lam = torch.rand(n, generator=rng)
    lam[:2] = torch.tensor([0.2, 0.7])  # one on each side of a half
    permutation = torch.arange(n).roll(1)  # nobody is paired with itself
    given = images.clone()
    told = attempt(images, labels, classes, lam, permutation)
    mixed, targets = told if isinstance(told, tuple | list) and len(told) == 2 else (told, None)
    return {
        "images": mixed,
        "targets": targets,
        "the images you were given": images,
        "before": given,
    }


def mixup(
    images: Tensor, labels: Tensor, num_classes: int, lam: Tensor, permutation: Tensor
) -> tuple[Tensor, Tensor]:
    """The answer: each image keeps the larger of its two shares."""
    share = torch.maximum(lam, 1 - lam)
    wide = share[:, None, None, None]
    mixed = wide * images + (1 - wide) * images[permutation]
    targets = F.one_hot(labels, num_classes).float()
    return mixed, share[:, None] * targets + (1 - share)[:, None] * targets[permutation]


def _smaller_share(images, labels, num_classes, lam, permutation):
    wide = lam[:, None, None, None]
    targets = F.one_hot(labels, num_classes).float()
    return (
        wide * images + (1 - wide) * images[permutation],
        lam[:, None] * targets + (1 - lam)[:, None] * targets[permutation],
    )


def _one_share(images, labels, num_classes, lam, permutation):
    return mixup(images, labels, num_classes, lam[:1].expand_as(lam), permutation)


def _swapped(images, labels, num_classes, lam, permutation):
    share = torch.minimum(lam, 1 - lam)
    wide = share[:, None, None, None]
    targets = F.one_hot(labels, num_classes).float()
    return (
        wide * images + (1 - wide) * images[permutation],
        share[:, None] * targets + (1 - share)[:, None] * targets[permutation],
    )


def _hard_targets(images, labels, num_classes, lam, permutation):
    mixed, _ = mixup(images, labels, num_classes, lam, permutation)
    return mixed, F.one_hot(labels, num_classes).float()


def _half_targets(images, labels, num_classes, lam, permutation):
    mixed, _ = mixup(images, labels, num_classes, lam, permutation)
    targets = F.one_hot(labels, num_classes).float()
    return mixed, (targets + targets[permutation]) / 2


def _in_place(images, labels, num_classes, lam, permutation):
    mixed, targets = mixup(images, labels, num_classes, lam, permutation)
    images.copy_(mixed)
    return images, targets


MIXUP = Exercise(
    "mixup",
    _observe_mixup,
    mixup,
    "Each image keeps its larger share, and the targets have the shares of the images.",
    {
        "smaller share": Mistake(
            _smaller_share,
            "an image with λ below a half keeps the smaller share, and is nearer to its partner than to itself.",
            "which of λ and 1 - λ does the text ask for?",
        ),
        "one share": Mistake(
            _one_share,
            "all images are mixed by the share of the first one.",
            "`lam` has N entries; which shape lets it meet (N, C, H, W)?",
        ),
        "swapped": Mistake(
            _swapped,
            "the partner gets the larger share.",
            "try λ = 1: the image should come out as it went in.",
        ),
        "hard targets": Mistake(
            _hard_targets,
            "the images are mixed, the targets are not.",
            "what is the right answer to an image that is 0.7 a cat and 0.3 a dog?",
        ),
        "half targets": Mistake(
            _half_targets,
            "the targets are mixed half and half, whatever λ is.",
            "images and targets have the same shares.",
        ),
        "in place": Mistake(
            _in_place,
            "the batch you were given is changed.",
            "make new tensors; the caller may still need the old ones.",
        ),
    },
)


# --- a schedule: rise, hold, fall --------------------------------------------------------------------


def _observe_schedule(attempt: Callable[..., Any], seed: int) -> dict[str, Any]:
    draw = random.Random(fold_in(seed, 21, 2))
    warmup, hold, fall = draw.randint(3, 6), draw.randint(3, 6), draw.randint(6, 12)
    final = draw.choice([0.05, 0.1, 0.2])
    seen = {}
    for w, h, f in ((warmup, hold, fall), (0, hold, fall), (warmup, 0, fall), (0, 0, fall)):
        steps = w + h + f
        name = f"warm-up {w}, hold {h}, {steps} steps, final {final}"
        seen[name] = [float(attempt(step, w, h, steps, final)) for step in range(steps)]
    return seen


def schedule(step: int, warmup: int, hold: int, steps: int, final: float) -> float:
    """The answer: 1/w, 2/w, ... 1, then flat, then down by the square root of the way to `final`."""
    if step < warmup:
        return (step + 1) / warmup
    if step < warmup + hold:
        return 1.0
    way = (step - warmup - hold + 1) / (steps - warmup - hold)
    return final + (1 - final) * (1 - math.sqrt(way))


def _from_zero(step, warmup, hold, steps, final):
    return step / warmup if step < warmup else schedule(step, warmup, hold, steps, final)


def _never_final(step, warmup, hold, steps, final):
    if step < warmup + hold:
        return schedule(step, warmup, hold, steps, final)
    way = (step - warmup - hold) / (steps - warmup - hold)
    return final + (1 - final) * (1 - math.sqrt(way))


def _floor(step, warmup, hold, steps, final):
    if step < warmup + hold:
        return schedule(step, warmup, hold, steps, final)
    way = (step - warmup - hold + 1) / (steps - warmup - hold)
    return max(final, 1 - math.sqrt(way))


def _straight(step, warmup, hold, steps, final):
    if step < warmup + hold:
        return schedule(step, warmup, hold, steps, final)
    return 1 - (1 - final) * (step - warmup - hold + 1) / (steps - warmup - hold)


def _from_the_start(step, warmup, hold, steps, final):
    if step < warmup + hold:
        return schedule(step, warmup, hold, steps, final)
    return final + (1 - final) * (1 - math.sqrt((step + 1) / steps))


def _root_of_the_rest(step, warmup, hold, steps, final):
    if step < warmup + hold:
        return schedule(step, warmup, hold, steps, final)
    way = (step - warmup - hold + 1) / (steps - warmup - hold)
    return final + (1 - final) * math.sqrt(1 - way)


SCHEDULE = Exercise(
    "schedule",
    _observe_schedule,
    schedule,
    "It rises, holds, falls by the square root, and the last step is at the final value.",
    {
        "from zero": Mistake(
            _from_zero,
            "the first step of the warm-up has the multiplier 0: a step that changes nothing.",
            "what is the multiplier in step 0, and in the last step of the warm-up?",
        ),
        "never final": Mistake(
            _never_final,
            "the fall begins one step late, so that the last step is not at the final value.",
            "print the last two values.",
        ),
        "floor": Mistake(
            _floor,
            "the final value is a floor that the curve runs into, not the place where it ends.",
            "the curve goes from 1 to `final`; which share of that way is gone at each step?",
        ),
        "straight": Mistake(
            _straight,
            "the fall is a straight line.",
            "where is the square root?",
        ),
        "from the start": Mistake(
            _from_the_start,
            "the fall counts its way from step 0, so that it jumps where it begins.",
            "the way of the fall begins when the hold ends.",
        ),
        "root of the rest": Mistake(
            _root_of_the_rest,
            "the root is taken of the way that is left, so that the curve falls late instead of early.",
            "one minus the root is not the root of one minus.",
        ),
    },
)


# --- early stopping: a relative threshold, and a start ------------------------------------------------


def _curve(draw: random.Random) -> tuple[list[float], int, float, str, int]:
    length, mode = draw.randint(9, 16), draw.choice(["min", "max"])
    top, slope = draw.randint(3, length), draw.choice([0.02, 0.05])
    values = [round(0.6 - slope * abs(i - top) + draw.gauss(0, 0.02), 3) for i in range(length)]
    if draw.random() < 0.5:
        values[draw.randrange(1, length)] = math.nan
    if mode == "min":
        values = [round(1.2 - value, 3) for value in values]
    return values, draw.randint(1, 4), draw.choice([0.0, 0.0311, 0.0713]), mode, draw.randint(0, 4)


def _observe_stopping(attempt: Callable[..., Any], seed: int) -> dict[str, Any]:
    draw = random.Random(fold_in(seed, 21, 3))
    seen = {}
    for _ in range(CURVES):
        values, patience, min_delta, mode, start = _curve(draw)
        told = ", ".join(f"{value:g}" for value in values)
        problem = f"(stop, best) of [{told}] with {patience}, {min_delta}, {mode!r}, {start}"
        seen[problem] = _whole(attempt(list(values), patience, min_delta, mode, start))
    return seen


def _whole(told: Any) -> Any:
    try:
        stop, best = told
        return int(stop), int(best)
    except (TypeError, ValueError):
        return told


CURVES = 72  # enough that each mistake shows on one of them, and differs there from the others


def early_stopping(
    values: list[float], patience: int, min_delta: float, mode: str, start: int
) -> tuple[int, int]:
    """The answer: indices of the evaluation that ends the run, and of the best one."""
    return _stopping(values, patience, min_delta, mode, start)


def _stopping(
    values,
    patience,
    min_delta,
    mode,
    start,
    *,
    relative=True,
    nan_is_good=False,
    best_of_all=True,
    counts_before=False,
):
    sign = 1 if mode == "max" else -1
    best, best_value, to_beat, bad = 0, -math.inf, None, 0
    for i, value in enumerate(values):
        if math.isnan(value) and not nan_is_good:
            improved = False
        else:
            margin = 0 if to_beat is None else min_delta * (abs(to_beat) if relative else 1)
            improved = to_beat is None or not sign * (value - to_beat) <= margin
            if not sign * value <= best_value and (best_of_all or improved):
                best, best_value = i, sign * value
        if improved:
            to_beat, bad = value, 0
        elif i >= start or counts_before:
            bad += 1
        if bad >= patience and i >= start:
            return i, best
    return len(values) - 1, best


def _one_too_many(values, patience, min_delta, mode, start):
    return _stopping(values, patience + 1, min_delta, mode, start)


def _absolute(values, patience, min_delta, mode, start):
    return _stopping(values, patience, min_delta, mode, start, relative=False)


def _nan_is_good(values, patience, min_delta, mode, start):
    return _stopping(values, patience, min_delta, mode, start, nan_is_good=True)


def _best_needs_the_margin(values, patience, min_delta, mode, start):
    return _stopping(values, patience, min_delta, mode, start, best_of_all=False)


def _start_forgotten(values, patience, min_delta, mode, start):
    return _stopping(values, patience, min_delta, mode, 0)


def _counts_before_the_start(values, patience, min_delta, mode, start):
    return _stopping(values, patience, min_delta, mode, start, counts_before=True)


def _mode_forgotten(values, patience, min_delta, mode, start):
    return _stopping(values, patience, min_delta, "max", start)


STOPPING = Exercise(
    "early_stopping",
    _observe_stopping,
    early_stopping,
    "It counts bad evaluations from the start on, and remembers the best of all.",
    {
        "one too many": Mistake(
            _one_too_many,
            "it stops one evaluation late: patience is the number of bad evaluations that end the run.",
            "with patience 1, which evaluation ends the run?",
        ),
        "absolute": Mistake(
            _absolute,
            "`min_delta` is taken as a difference; here it is a share of the value to beat.",
            "what does 0.05 ask of a loss of 2, and of a loss of 0.1?",
        ),
        "nan is good": Mistake(
            _nan_is_good,
            "a NaN counts as an improvement, and then nothing improves on it any more.",
            "every comparison with NaN is false; which way round did you ask?",
        ),
        "best needs the margin": Mistake(
            _best_needs_the_margin,
            "a value that is better by less than the margin is not remembered as the best.",
            "the margin decides about patience; the best is the best.",
        ),
        "start forgotten": Mistake(
            _start_forgotten,
            "evaluations before `start` end the run.",
            "which evaluations may count?",
        ),
        "counts before the start": Mistake(
            _counts_before_the_start,
            "bad evaluations before `start` are counted, so that patience is used up when counting should begin.",
            "from which evaluation on does a bad one count?",
        ),
        "mode forgotten": Mistake(
            _mode_forgotten,
            'with mode "min" it still waits for larger values.',
            "try a falling loss.",
        ),
    },
)


EXERCISES = {exercise.name: exercise for exercise in (MIXUP, SCHEDULE, STOPPING)}

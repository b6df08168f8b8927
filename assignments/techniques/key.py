"""The key to the assignment on techniques: reference solutions, known mistakes and their feedback.

It stays with the instructor; the grader reads `EXERCISES`. The private functions next to a
reference solution are the known mistakes.
"""

import math
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnlab.check import Exercise, Mistake
from cnnlab.rng import fold_in, generator


# --- mixup with a weight for each image -----------------------------------------------------------


def _observe_mixup(attempt: Callable[..., Any], seed: int) -> dict[str, Any]:
    g = generator(seed, 21, 1)
    labels, lam, permutation = torch.tensor([0, 1]), torch.tensor([0.2, 0.7]), torch.tensor([1, 0])
    two = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
    pixels, rows = attempt(two, labels, 2, lam, permutation)
    problem = "the pixels [0, 1], labels=[0, 1], lam=[0.2, 0.7], permutation=[1, 0]"
    few = {
        f"your mixture of {problem}": pixels.flatten(),
        f"your targets, row by row, for {problem}": rows.flatten(),
    }
    n = int(torch.randint(5, 9, (), generator=g))
    num_classes = int(torch.randint(3, 7, (), generator=g))
    images = torch.rand(n, 3, 4, 4, generator=g)
    labels = torch.randint(num_classes, (n,), generator=g)
    labels[:2] = torch.tensor([0, num_classes - 1])  # at least two classes
    lam = torch.rand(n, generator=g)
    lam[:2] = torch.tensor([0.2, 0.7])  # one on each side of a half
    permutation = torch.arange(n).roll(1)  # no image is paired with itself
    mixed, targets = attempt(images, labels, num_classes, lam, permutation)
    return {
        **few,
        f"your tensor of {n} mixed images": mixed,
        f"your tensor of targets for {n} images of {num_classes} classes": targets,
    }


def mixup(
    images: Tensor, labels: Tensor, num_classes: int, lam: Tensor, permutation: Tensor
) -> tuple[Tensor, Tensor]:
    """Mix each image and its target with its partner's; the image gets the larger weight.

    Args:
        images: (N, C, H, W).
        labels: class indices, (N,).
        num_classes: K.
        lam: between 0 and 1 for each image, (N,); its weight is max(lam, 1 - lam).
        permutation: index of the partner of each image, (N,).

    Returns:
        Mixed images (N, C, H, W) and soft targets (N, K).
    """
    return _mix(images, labels, num_classes, torch.maximum(lam, 1 - lam), permutation)


def _mix(
    images: Tensor, labels: Tensor, num_classes: int, weight: Tensor, permutation: Tensor
) -> tuple[Tensor, Tensor]:
    """Return weight * x + (1 - weight) * x[permutation] for the images and for their targets."""
    targets = F.one_hot(labels, num_classes).float()
    w = weight[:, None, None, None]
    return (
        w * images + (1 - w) * images[permutation],
        weight[:, None] * targets + (1 - weight)[:, None] * targets[permutation],
    )


def _first_weight_for_all(images, labels, num_classes, lam, permutation):
    return mixup(images, labels, num_classes, lam[:1].expand_as(lam), permutation)


def _swapped(images, labels, num_classes, lam, permutation):
    return _mix(images, labels, num_classes, torch.minimum(lam, 1 - lam), permutation)


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
    "Each image gets the larger of its two weights, and the targets are mixed with the same "
    "weights as the images.",
    hint="which weight has an image, which its partner, and are the targets mixed alike?",
    task="`mixup(images, labels, num_classes, lam, permutation) -> (images, targets)`",
    worth={"mixture|mixed images": 0.5, "targets": 0.5},
    mistakes={
        "smaller share": Mistake(
            _mix,
            "an image with λ below one half gets the smaller weight, so it ends up closer to its "
            "partner than to itself.",
            "which of λ and 1 - λ does the text ask for?",
        ),
        "one share": Mistake(
            _first_weight_for_all,
            "you mix all images with the weight of the first one.",
            "`lam` has N entries; which shape broadcasts against (N, C, H, W)?",
        ),
        "swapped": Mistake(
            _swapped,
            "you give the larger weight to the partner.",
            "try λ = 1: each image should come out as it went in",
        ),
        "hard targets": Mistake(
            _hard_targets,
            "you mix the images, but not the targets.",
            "what is the correct target for an image that is 0.7 cat and 0.3 dog?",
        ),
        "half targets": Mistake(
            _half_targets,
            "you mix the targets half and half, whatever λ is.",
            "images and targets have the same weights",
        ),
        "in place": Mistake(
            _in_place,
            "you have changed the batch you were given.",
            "make new tensors; the caller may still need the old ones",
        ),
    },
)


# --- a schedule that rises, holds and falls -------------------------------------------------------


def _observe_schedule(attempt: Callable[..., Any], seed: int) -> dict[str, Any]:
    rng = random.Random(fold_in(seed, 21, 2))
    warmup, hold, fall = rng.randint(3, 6), rng.randint(3, 6), rng.randint(6, 12)
    final = rng.choice([0.05, 0.1, 0.2])

    def phase(step: int, w: int, h: int) -> str:
        return "warm-up" if step < w else "hold" if step < w + h else "fall"

    return {
        f"your multiplier at step {step} ({phase(step, w, h)}) for warmup={w}, hold={h}, "
        f"steps={n}, final={final}": attempt(step, w, h, n, final)
        for w, h in ((warmup, hold), (0, hold), (warmup, 0), (0, 0))
        for n in (w + h + fall,)
        for step in range(n)
    }


def schedule(step: int, warmup: int, hold: int, steps: int, final: float) -> float:
    """Return the multiplier of the base learning rate in one step.

    It is 1/w, 2/w, ... 1 in the warm-up, then 1, then falls with the square root to `final`.
    """
    if step < warmup:
        return (step + 1) / warmup
    if step < warmup + hold:
        return 1.0
    progress = (step - warmup - hold + 1) / (steps - warmup - hold)
    return final + (1 - final) * (1 - math.sqrt(progress))


def _with_fall(fall: Callable[[int, int, float], float]) -> Callable[..., float]:
    """Build a schedule with another fall, given the step of the fall from 1, its length and end."""

    def attempt(step: int, warmup: int, hold: int, steps: int, final: float) -> float:
        start = warmup + hold
        if step < start:
            return schedule(step, warmup, hold, steps, final)
        return fall(step - start + 1, steps - start, final)

    return attempt


def _from_zero(step, warmup, hold, steps, final):
    return step / warmup if step < warmup else schedule(step, warmup, hold, steps, final)


def _from_the_start(step, warmup, hold, steps, final):
    if step < warmup + hold:
        return schedule(step, warmup, hold, steps, final)
    return final + (1 - final) * (1 - math.sqrt((step + 1) / steps))


SCHEDULE = Exercise(
    "schedule",
    _observe_schedule,
    schedule,
    "Your schedule rises, holds and falls with the square root, and its last step is at the final "
    "value.",
    hint="in which phase is this step, and how many steps of the phase are done?",
    task="`schedule(step, warmup, hold, steps, final) -> multiplier`",
    worth={r"\(warm-up|\(hold": 0.5, r"\(fall": 0.5},
    mistakes={
        "from zero": Mistake(
            _from_zero,
            "your warm-up starts with a multiplier of 0, so its first step changes nothing.",
            "what should the multiplier be in step 0, and in the last step of the warm-up?",
        ),
        "never final": Mistake(
            _with_fall(lambda k, n, final: final + (1 - final) * (1 - math.sqrt((k - 1) / n))),
            "your fall begins one step late, so the last step isn't at the final value.",
            "print the last two values",
        ),
        "floor": Mistake(
            _with_fall(lambda k, n, final: max(final, 1 - math.sqrt(k / n))),
            "your curve falls towards 0 and is cut off at the final value, so it gets there too "
            "early.",
            "the curve runs from 1 to `final`; which fraction of that range is gone at each step?",
        ),
        "straight": Mistake(
            _with_fall(lambda k, n, final: 1 - (1 - final) * k / n),
            "your fall is a straight line.",
            "where does the square root come in?",
        ),
        "from the start": Mistake(
            _from_the_start,
            "your fall counts its progress from step 0, so the multiplier jumps where the fall "
            "begins.",
            "how many steps of the fall are done when the hold ends?",
        ),
        "root of the rest": Mistake(
            _with_fall(lambda k, n, final: final + (1 - final) * math.sqrt(1 - k / n)),
            "you take the square root of what is left of the fall, so your curve falls late "
            "instead of early.",
            "one minus a square root isn't the square root of one minus something",
        ),
    },
)


# --- early stopping with a relative threshold and a start -----------------------------------------

# Lengths of the curves: short ones to read, long ones so that each mistake differs from the others.
LENGTHS = (*range(4, 9), *(6, 7, 8) * 3, *range(9, 17), *range(9, 17), *range(9, 17), *(16,) * 24)


def _observe_stopping(attempt: Callable[..., Any], seed: int) -> dict[str, Any]:
    rng = random.Random(fold_in(seed, 21, 3))
    stops, bests = {}, {}
    for length in LENGTHS:
        values, patience, min_delta, mode, start = _draw_curve(rng, length)
        curve = ", ".join(f"{value:g}" for value in values)
        settings = f"patience={patience}, min_delta={min_delta}, mode={mode!r}, start={start}"
        stop, best = attempt(values, patience, min_delta, mode, start)
        stops[f"your stop for [{curve}], {settings}"] = stop
        bests[f"your best for [{curve}], {settings}"] = best
    return {**stops, **bests}


def _draw_curve(rng: random.Random, length: int) -> tuple[list[float], int, float, str, int]:
    """Draw a noisy validation curve and a setting.

    Returns:
        values, patience, min_delta, mode and start.
    """
    mode = rng.choice(["min", "max"])
    top, slope = rng.randint(length // 3, length), rng.choice([0.02, 0.05])
    values = [round(0.6 - slope * abs(i - top) + rng.gauss(0, 0.02), 2) for i in range(length)]
    if rng.random() < 0.5:
        values[rng.randrange(1, length)] = math.nan
    if mode == "min":
        values = [round(1.2 - value, 2) for value in values]
    # The values have two decimals, and no product of one with a threshold has: no rounding decides.
    return values, rng.randint(1, 4), rng.choice([0.0, 0.0311, 0.0713]), mode, rng.randint(0, 4)


def early_stopping(
    values: list[float], patience: int, min_delta: float, mode: str, start: int
) -> tuple[int, int]:
    """Return the indices of the evaluation that ends the run and of the best one."""
    return _stop_and_best(values, patience, min_delta, mode, start)


def _stop_and_best(
    values: list[float],
    patience: int,
    min_delta: float,
    mode: str,
    start: int,
    *,
    relative: bool = True,
    nan_is_good: bool = False,
    best_needs_margin: bool = False,
    counts_before_start: bool = False,
) -> tuple[int, int]:
    """Return what `early_stopping` does, or a mistaken version of it.

    Args:
        relative: whether `min_delta` is a fraction of the value to beat.
        nan_is_good: whether NaN counts as an improvement.
        best_needs_margin: whether a new best has to be better by more than the margin.
        counts_before_start: whether bad evaluations before `start` use up the patience.
    """
    sign = 1 if mode == "max" else -1
    best, best_score, to_beat, bad = 0, -math.inf, None, 0
    for i, value in enumerate(values):
        if math.isnan(value) and not nan_is_good:
            improved = False
        else:
            # The comparisons are negated because they are false for NaN.
            margin = 0 if to_beat is None else min_delta * (abs(to_beat) if relative else 1)
            improved = to_beat is None or not sign * (value - to_beat) <= margin
            if not sign * value <= best_score and (improved or not best_needs_margin):
                best, best_score = i, sign * value
        if improved:
            to_beat, bad = value, 0
        elif i >= start or counts_before_start:
            bad += 1
        if bad >= patience and i >= start:
            return i, best
    return len(values) - 1, best


def _one_too_many(values, patience, min_delta, mode, start):
    return early_stopping(values, patience + 1, min_delta, mode, start)


def _ignores_start(values, patience, min_delta, mode, start):
    return early_stopping(values, patience, min_delta, mode, 0)


def _ignores_mode(values, patience, min_delta, mode, start):
    return early_stopping(values, patience, min_delta, "max", start)


STOPPING = Exercise(
    "early_stopping",
    _observe_stopping,
    early_stopping,
    "Your function counts bad evaluations from `start` on, and returns the best of all evaluations "
    "up to the stop.",
    hint="go through the curve by hand: which value is to beat, and which ones were bad?",
    task="`early_stopping(values, patience, min_delta, mode, start) -> (stop, best)`",
    worth={"your stop": 0.5, "your best": 0.5},
    mistakes={
        "one too many": Mistake(
            _one_too_many,
            "you stop one evaluation late: `patience` is the number of bad evaluations that ends "
            "the run.",
            "with a patience of 1, which evaluation ends the run?",
        ),
        "absolute": Mistake(
            partial(_stop_and_best, relative=False),
            "you use `min_delta` as a difference, but here it is a fraction of the value to beat.",
            "how large a gain does 0.05 demand of a loss of 2, and of a loss of 0.1?",
        ),
        "nan is good": Mistake(
            partial(_stop_and_best, nan_is_good=True),
            "you count NaN as an improvement, and then nothing ever improves on it.",
            "every comparison with NaN is False; which comparison do you use?",
        ),
        "best needs the margin": Mistake(
            partial(_stop_and_best, best_needs_margin=True),
            "you don't remember a value as the best if it is better by less than the margin.",
            "the margin decides about the patience; does it also decide which value is best?",
        ),
        "start forgotten": Mistake(
            _ignores_start,
            "you let evaluations before `start` end the run.",
            "which evaluations may count as bad?",
        ),
        "counts before the start": Mistake(
            partial(_stop_and_best, counts_before_start=True),
            "you count bad evaluations before `start`, so some of the patience is used up when "
            "counting should begin.",
            "which is the first evaluation that may count as bad?",
        ),
        "mode forgotten": Mistake(
            _ignores_mode,
            'with mode "min" you still wait for larger values.',
            "try a falling loss",
        ),
    },
)


EXERCISES = {exercise.name: exercise for exercise in (MIXUP, SCHEDULE, STOPPING)}

"""Checks for the exercises: each says what is right, or which misconception it is.

>>> from cnnlab import check
>>> check.evaluate(lambda model, loader: 0.5)
✘ evaluate: ...

Beside each check live a right answer and several wrong ones; the tests hold the check against all of them.
"""

from collections.abc import Callable, Mapping
from types import EllipsisType
from typing import Any

from cnnlab.check import (
    chapter01,
    chapter02,
    chapter03,
    chapter04,
    chapter05,
    chapter06,
    chapter07,
    chapter08,
)
from cnnlab.check.core import Exercise, Mistake, Outcome


__all__ = [
    "EXERCISES",
    "Exercise",
    "Mistake",
    "Outcome",
    "batch_norm",
    "best_setting",
    "choose_augmentations",
    "clip_by_norm",
    "cosine",
    "cutmix",
    "diagnose_case",
    "dropout",
    "early_stopping",
    "ema_update",
    "ensemble",
    "evaluate",
    "he_std",
    "jitter",
    "log_uniform",
    "mixup",
    "next_range",
    "one_cycle",
    "random_flip",
    "score",
    "soft_cross_entropy",
    "split",
    "train_one_epoch",
    "update_ratio",
    "warmup_cosine",
]

EXERCISES: dict[str, Exercise] = {
    exercise.name: exercise
    for exercise in (
        chapter01.EPOCH,
        chapter01.EVALUATE,
        chapter01.SPLIT,
        chapter02.BATCH_NORM,
        chapter02.DROPOUT,
        chapter02.HE_STD,
        chapter03.FLIP,
        chapter03.JITTER,
        chapter03.CHOICE,
        chapter04.MIXUP,
        chapter04.CUTMIX,
        chapter04.SOFT_CROSS_ENTROPY,
        chapter05.COSINE,
        chapter05.WARMUP_COSINE,
        chapter05.ONE_CYCLE,
        chapter06.STOPPING,
        chapter06.EMA_UPDATE,
        chapter06.ENSEMBLE,
        chapter07.CLIPPING,
        chapter07.RATIO,
        chapter07.DIAGNOSIS,
        chapter08.LOG_UNIFORM,
        chapter08.BEST,
        chapter08.NEXT_RANGE,
    )
}


def train_one_epoch(fn: Callable[..., float]) -> None:
    """Check chapter 1, `train_one_epoch(model, loader, optimizer, loss_fn) -> mean loss`."""
    print(EXERCISES["train_one_epoch"].judge(fn))


def evaluate(fn: Callable[..., float]) -> None:
    """Check chapter 1, `evaluate(model, loader) -> accuracy`, a share between 0 and 1."""
    print(EXERCISES["evaluate"].judge(fn))


def split(fn: Callable[..., Any]) -> None:
    """Check chapter 1, `split(n, n_valid, n_test, seed) -> (train, valid, test)`, three lists of indices."""
    print(EXERCISES["split"].judge(fn))


def batch_norm(fn: Callable[..., Any]) -> None:
    """Check chapter 2, `batch_norm(x, scale, shift, eps)`, the forward pass in training mode."""
    print(EXERCISES["batch_norm"].judge(fn))


def dropout(fn: Callable[..., Any]) -> None:
    """Check chapter 2, `dropout(x, p, draws, training)`, in its inverted form."""
    print(EXERCISES["dropout"].judge(fn))


def he_std(fn: Callable[..., float]) -> None:
    """Check chapter 2, `he_std(weight)`, the standard deviation that He's scheme gives a layer."""
    print(EXERCISES["he_std"].judge(fn))


def random_flip(fn: Callable[..., Any]) -> None:
    """Check chapter 3, `random_flip(images, p, generator) -> images`, each image by itself."""
    print(EXERCISES["random_flip"].judge(fn))


def jitter(fn: Callable[..., Any]) -> None:
    """Check chapter 3, `jitter(images, scale, shift) -> images`, scale * pixel + shift for each image."""
    print(EXERCISES["jitter"].judge(fn))


def choose_augmentations(fn: Callable[..., Any]) -> None:
    """Check chapter 3, `choose_augmentations(task) -> set of names` of what keeps the label."""
    print(EXERCISES["choose_augmentations"].judge(fn))


def mixup(fn: Callable[..., Any]) -> None:
    """Check chapter 4, `mixup(images, targets, lam, permutation) -> (images, targets)`."""
    print(EXERCISES["mixup"].judge(fn))


def cutmix(fn: Callable[..., Any]) -> None:
    """Check chapter 4, `cutmix(images, targets, box, permutation) -> (images, targets)`."""
    print(EXERCISES["cutmix"].judge(fn))


def soft_cross_entropy(fn: Callable[..., Any]) -> None:
    """Check chapter 4, `soft_cross_entropy(logits, targets) -> mean loss`, for targets that are shares."""
    print(EXERCISES["soft_cross_entropy"].judge(fn))


def cosine(fn: Callable[..., float]) -> None:
    """Check chapter 5, `cosine(step, steps, final) -> multiplier`."""
    print(EXERCISES["cosine"].judge(fn))


def warmup_cosine(fn: Callable[..., float]) -> None:
    """Check chapter 5, `warmup_cosine(step, warmup, steps) -> multiplier`; `steps` is the whole run."""
    print(EXERCISES["warmup_cosine"].judge(fn))


def one_cycle(fn: Callable[..., float]) -> None:
    """Check chapter 5, `one_cycle(step, steps, peak_fraction, div_factor, final_div_factor) -> multiplier`."""
    print(EXERCISES["one_cycle"].judge(fn))


def early_stopping(fn: Callable[..., Any]) -> None:
    """Check chapter 6, `early_stopping(values, patience, min_delta, mode) -> (stop, best)`, two indices."""
    print(EXERCISES["early_stopping"].judge(fn))


def ema_update(fn: Callable[..., Any]) -> None:
    """Check chapter 6, `ema_update(average, weights, step, decay) -> new list of tensors`."""
    print(EXERCISES["ema_update"].judge(fn))


def ensemble(fn: Callable[..., Any]) -> None:
    """Check chapter 6, `ensemble(logits) -> probabilities`, (M, N, K) -> (N, K)."""
    print(EXERCISES["ensemble"].judge(fn))


def clip_by_norm(fn: Callable[..., Any]) -> None:
    """Check chapter 7, `clip_by_norm(gradients, max_norm) -> new list of tensors`."""
    print(EXERCISES["clip_by_norm"].judge(fn))


def update_ratio(fn: Callable[..., float]) -> None:
    """Check chapter 7, `update_ratio(before, after)`, the length of a step in units of the weights."""
    print(EXERCISES["update_ratio"].judge(fn))


def diagnose_case(fn: Callable[..., str]) -> None:
    """Check chapter 7, `diagnose_case(vitals) -> name of the fault`, or "something else"."""
    print(EXERCISES["diagnose_case"].judge(fn))


def log_uniform(fn: Callable[..., float]) -> None:
    """Check chapter 8, `log_uniform(u, low, high) -> value`, for a uniform draw `u` between 0 and 1."""
    print(EXERCISES["log_uniform"].judge(fn))


def best_setting(fn: Callable[..., Any]) -> None:
    """Check chapter 8, `best_setting(table) -> (rate, decay)` with the best mean over seeds."""
    print(EXERCISES["best_setting"].judge(fn))


def next_range(fn: Callable[..., Any]) -> None:
    """Check chapter 8, `next_range(rates, scores) -> (low, high)`, where to search next."""
    print(EXERCISES["next_range"].judge(fn))


def score(predictions: Mapping[str, tuple[Any, Any]], within: float = 0.1) -> None:
    """Hold your predictions against what was measured, and print the score.

    Args:
        predictions: question -> (your guess, what was measured). A guess of `...` was not made.
        within: how far a guessed number may be off to count.

    >>> score({"Which is better?": ("a", "a"), "By how much?": (0.5, 0.1), "Why?": (..., "b")})
    ✔ Which is better? You said a.
    ✘ By how much? You said 0.5, measured: 0.1.
    · Why? Measured: b.
    1 of 2 predictions were right.
    """
    right = [_tell(question, *pair, within) for question, pair in predictions.items()]
    made = [r for r in right if r is not None]
    print(
        f"{sum(made)} of {len(made)} predictions were right." if made else "No prediction was made."
    )


def _tell(question: str, guess: Any, truth: Any, within: float) -> bool | None:
    shown = f"{truth:.3g}" if isinstance(truth, float) else str(truth)
    if isinstance(guess, EllipsisType):
        print(f"· {question} Measured: {shown}.")
        return None
    number = isinstance(guess, int | float) and isinstance(truth, int | float)
    right = abs(guess - truth) <= within if number else guess == truth
    print(
        f"✔ {question} You said {guess}."
        if right
        else f"✘ {question} You said {guess}, measured: {shown}."
    )
    return bool(right)

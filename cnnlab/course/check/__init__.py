"""Checks for the exercises: each says what is right, or which misconception it is.

>>> from cnnlab import check
>>> check.evaluate(lambda model, loader: 0.5)
✘ evaluate: ...

Beside each check live a right answer and several wrong ones; the tests hold the check against all of them.
"""

from collections.abc import Callable, Mapping
from types import EllipsisType
from typing import Any

from cnnlab.course.check import (
    chapter01,
    chapter02,
    chapter03,
    chapter04,
    chapter05,
    chapter06,
    chapter07,
    chapter08,
    chapter09,
    chapter10,
    chapter11,
    chapter12,
    chapter13,
)
from cnnlab.course.check.core import Exercise, Mistake, Outcome
from cnnlab.course.check.grading import grade


__all__ = [
    "EXERCISES",
    "Exercise",
    "Mistake",
    "Outcome",
    "accumulate",
    "accuracy_interval",
    "adjust_logits",
    "balanced_accuracy",
    "batch_norm",
    "best_setting",
    "choose_augmentations",
    "class_weights",
    "clip_by_norm",
    "cosine",
    "cutmix",
    "diagnose_case",
    "dropout",
    "early_stopping",
    "ema_update",
    "ensemble",
    "evaluate",
    "freeze",
    "grade",
    "he_std",
    "jitter",
    "layerwise_lr",
    "leaks",
    "log_uniform",
    "mixup",
    "next_range",
    "one_cycle",
    "prepare",
    "random_flip",
    "replace_head",
    "sample_weights",
    "score",
    "soft_cross_entropy",
    "split",
    "steps_to_pay",
    "sure_mistakes",
    "train_frozen",
    "train_one_epoch",
    "trained_stages",
    "unscale_and_clip",
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
        chapter09.HEAD,
        chapter09.FREEZE,
        chapter09.PREPARE,
        chapter10.LAYERWISE_LR,
        chapter10.TRAINED_STAGES,
        chapter10.TRAIN_FROZEN,
        chapter11.CLASS_WEIGHTS,
        chapter11.SAMPLE_WEIGHTS,
        chapter11.BALANCED_ACCURACY,
        chapter11.ADJUST_LOGITS,
        chapter12.UNSCALING,
        chapter12.ACCUMULATING,
        chapter12.PAYING,
        chapter13.INTERVAL,
        chapter13.LEAKS,
        chapter13.SURE,
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


def replace_head(fn: Callable[..., Any]) -> None:
    """Check chapter 9, `replace_head(model, num_classes) -> model`, whose head is `model.fc`."""
    print(EXERCISES["replace_head"].judge(fn))


def freeze(fn: Callable[..., Any]) -> None:
    """Check chapter 9, `freeze(model)`, called when an epoch begins: `model.body` stands still."""
    print(EXERCISES["freeze"].judge(fn))


def prepare(fn: Callable[..., Any]) -> None:
    """Check chapter 9, `prepare(images, mean, std)`, uint8 BGR (N, H, W, 3) to normalised RGB (N, 3, H, W)."""
    print(EXERCISES["prepare"].judge(fn))


def layerwise_lr(fn: Callable[..., Any]) -> None:
    """Check chapter 10, `layerwise_lr(trained, lr, decay) -> rates`, one a stage, bottom to top."""
    print(EXERCISES["layerwise_lr"].judge(fn))


def trained_stages(fn: Callable[..., Any]) -> None:
    """Check chapter 10, `trained_stages(finished, at_epochs) -> booleans`, one a stage, bottom to top."""
    print(EXERCISES["trained_stages"].judge(fn))


def train_frozen(fn: Callable[..., None]) -> None:
    """Check chapter 10, `train_frozen(model)`: training mode, but frozen norms in evaluation mode."""
    print(EXERCISES["train_frozen"].judge(fn))


def class_weights(fn: Callable[..., Any]) -> None:
    """Check chapter 11, `class_weights(counts) -> (K,)`, with a mean weight of 1 over the samples."""
    print(EXERCISES["class_weights"].judge(fn))


def sample_weights(fn: Callable[..., Any]) -> None:
    """Check chapter 11, `sample_weights(labels) -> (N,)`, for a sampler that draws all classes equally often."""
    print(EXERCISES["sample_weights"].judge(fn))


def balanced_accuracy(fn: Callable[..., float]) -> None:
    """Check chapter 11, `balanced_accuracy(confusion)`, true classes down, answers across."""
    print(EXERCISES["balanced_accuracy"].judge(fn))


def adjust_logits(fn: Callable[..., Any]) -> None:
    """Check chapter 11, `adjust_logits(logits, counts, tau) -> logits` as if all classes were equally frequent."""
    print(EXERCISES["adjust_logits"].judge(fn))


def accuracy_interval(fn: Callable[..., Any]) -> None:
    """Check chapter 13, `accuracy_interval(right, n) -> (low, high)`, Wilson's interval at 95 %."""
    print(EXERCISES["accuracy_interval"].judge(fn))


def leaks(fn: Callable[..., Any]) -> None:
    """Check chapter 13, `leaks(train, test) -> list` of the numbers of test pictures that are training pictures."""
    print(EXERCISES["leaks"].judge(fn))


def sure_mistakes(fn: Callable[..., Any]) -> None:
    """Check chapter 13, `sure_mistakes(logits, labels, n) -> list` of numbers, the surest wrong answer first."""
    print(EXERCISES["sure_mistakes"].judge(fn))


def unscale_and_clip(fn: Callable[..., Any]) -> None:
    """Check chapter 12, `unscale_and_clip(gradients, scale, max_norm) -> new list`, or None after an overflow."""
    print(EXERCISES["unscale_and_clip"].judge(fn))


def accumulate(fn: Callable[..., float]) -> None:
    """Check chapter 12, `accumulate(model, optimizer, loss_fn, images, labels, size) -> mean loss`, one step."""
    print(EXERCISES["accumulate"].judge(fn))


def steps_to_pay(fn: Callable[..., float]) -> None:
    """Check chapter 12, `steps_to_pay(cost, before, after) -> whole number of steps`, or `math.inf`."""
    print(EXERCISES["steps_to_pay"].judge(fn))


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

"""Checks for the exercises: each confirms a correct function, or names the misconception.

>>> from cnnlab import check
>>> check.evaluate(lambda model, loader: 0.5)
✘ evaluate: ...

Every exercise comes with a reference solution and several known mistakes. The tests make sure that
the check accepts the first and recognises each of the others.
"""

from collections.abc import Callable, Mapping
from numbers import Real
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
    "early_stopping",
    "ema_update",
    "ensemble",
    "evaluate",
    "fold_batch_norm",
    "freeze",
    "grade",
    "init_std",
    "jitter",
    "layerwise_lr",
    "leaks",
    "log_uniform",
    "mixup",
    "next_range",
    "one_cycle",
    "prediction",
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
        chapter02.INIT_STD,
        chapter02.BATCH_NORM,
        chapter02.FOLD_BATCH_NORM,
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
    """Check chapter 1, `evaluate(model, loader) -> accuracy`, a fraction between 0 and 1."""
    print(EXERCISES["evaluate"].judge(fn))


def split(fn: Callable[..., Any]) -> None:
    """Check chapter 1, `split(n, n_valid, n_test, seed) -> (train, valid, test)`, index lists."""
    print(EXERCISES["split"].judge(fn))


def batch_norm(fn: Callable[..., Any]) -> None:
    """Check chapter 2, `batch_norm(x, scale, shift, eps)`, the forward pass in training mode."""
    print(EXERCISES["batch_norm"].judge(fn))


def fold_batch_norm(fn: Callable[..., Any]) -> None:
    """Check chapter 2, `fold_batch_norm(conv, norm) -> (weight, bias)`, for inference."""
    print(EXERCISES["fold_batch_norm"].judge(fn))


def init_std(fn: Callable[..., float]) -> None:
    """Check chapter 2, `init_std(weight, activation, z)`, which keeps the size of a signal."""
    print(EXERCISES["init_std"].judge(fn))


def random_flip(fn: Callable[..., Any]) -> None:
    """Check chapter 3, `random_flip(images, p, generator) -> images`, one decision per image."""
    print(EXERCISES["random_flip"].judge(fn))


def jitter(fn: Callable[..., Any]) -> None:
    """Check chapter 3, `jitter(images, scale, shift) -> images`, with a pair per image."""
    print(EXERCISES["jitter"].judge(fn))


def choose_augmentations(fn: Callable[..., Any]) -> None:
    """Check chapter 3, `choose_augmentations(task) -> set of names` that preserve the label."""
    print(EXERCISES["choose_augmentations"].judge(fn))


def mixup(fn: Callable[..., Any]) -> None:
    """Check chapter 4, `mixup(images, targets, lam, permutation) -> (images, targets)`."""
    print(EXERCISES["mixup"].judge(fn))


def cutmix(fn: Callable[..., Any]) -> None:
    """Check chapter 4, `cutmix(images, targets, box, permutation) -> (images, targets)`."""
    print(EXERCISES["cutmix"].judge(fn))


def soft_cross_entropy(fn: Callable[..., Any]) -> None:
    """Check chapter 4, `soft_cross_entropy(logits, targets) -> mean loss`, for soft targets."""
    print(EXERCISES["soft_cross_entropy"].judge(fn))


def cosine(fn: Callable[..., float]) -> None:
    """Check chapter 5, `cosine(step, steps, final) -> multiplier`."""
    print(EXERCISES["cosine"].judge(fn))


def warmup_cosine(fn: Callable[..., float]) -> None:
    """Check chapter 5, `warmup_cosine(step, warmup, steps) -> multiplier`; `steps` is the total."""
    print(EXERCISES["warmup_cosine"].judge(fn))


def one_cycle(fn: Callable[..., float]) -> None:
    """Check chapter 5, `one_cycle(step, steps, ...) -> multiplier`.

    The full signature is `one_cycle(step, steps, peak_fraction, div_factor, final_div_factor)`.
    """
    print(EXERCISES["one_cycle"].judge(fn))


def early_stopping(fn: Callable[..., Any]) -> None:
    """Check chapter 6, `early_stopping(values, patience, min_delta, mode) -> (stop, best)`."""
    print(EXERCISES["early_stopping"].judge(fn))


def ema_update(fn: Callable[..., Any]) -> None:
    """Check chapter 6, `ema_update(average, weights, step, decay) -> new list of tensors`."""
    print(EXERCISES["ema_update"].judge(fn))


def ensemble(fn: Callable[..., Any]) -> None:
    """Check chapter 6, `ensemble(logits) -> probabilities`, from (M, N, K) to (N, K)."""
    print(EXERCISES["ensemble"].judge(fn))


def clip_by_norm(fn: Callable[..., Any]) -> None:
    """Check chapter 7, `clip_by_norm(gradients, max_norm) -> new list of tensors`."""
    print(EXERCISES["clip_by_norm"].judge(fn))


def update_ratio(fn: Callable[..., float]) -> None:
    """Check chapter 7, `update_ratio(before, after)`, the relative size of an update."""
    print(EXERCISES["update_ratio"].judge(fn))


def diagnose_case(fn: Callable[..., str]) -> None:
    """Check chapter 7, `diagnose_case(vitals) -> name of the fault`, or "something else"."""
    print(EXERCISES["diagnose_case"].judge(fn))


def log_uniform(fn: Callable[..., float]) -> None:
    """Check chapter 8, `log_uniform(u, low, high) -> value`, for a uniform draw `u` from 0 to 1."""
    print(EXERCISES["log_uniform"].judge(fn))


def best_setting(fn: Callable[..., Any]) -> None:
    """Check chapter 8, `best_setting(table) -> (learning rate, decay)`, best mean over seeds."""
    print(EXERCISES["best_setting"].judge(fn))


def next_range(fn: Callable[..., Any]) -> None:
    """Check chapter 8, `next_range(rates, scores) -> (low, high)`, the range to search next."""
    print(EXERCISES["next_range"].judge(fn))


def replace_head(fn: Callable[..., Any]) -> None:
    """Check chapter 9, `replace_head(model, num_classes) -> model`; the head is `model.fc`."""
    print(EXERCISES["replace_head"].judge(fn))


def freeze(fn: Callable[..., Any]) -> None:
    """Check chapter 9, `freeze(model)`, which freezes `model.body` at the start of each epoch."""
    print(EXERCISES["freeze"].judge(fn))


def prepare(fn: Callable[..., Any]) -> None:
    """Check chapter 9, `prepare(images, mean, std) -> normalised images`.

    It turns uint8 BGR images (N, H, W, 3) into normalised RGB images (N, 3, H, W).
    """
    print(EXERCISES["prepare"].judge(fn))


def layerwise_lr(fn: Callable[..., Any]) -> None:
    """Check chapter 10, `layerwise_lr(trained, lr, decay) -> learning rates`.

    It returns one learning rate per stage, bottom to top.
    """
    print(EXERCISES["layerwise_lr"].judge(fn))


def trained_stages(fn: Callable[..., Any]) -> None:
    """Check chapter 10, `trained_stages(finished, at_epochs) -> booleans`.

    It returns one boolean per stage, bottom to top.
    """
    print(EXERCISES["trained_stages"].judge(fn))


def train_frozen(fn: Callable[..., None]) -> None:
    """Check chapter 10, `train_frozen(model)`: train mode, but frozen batch norm in eval mode."""
    print(EXERCISES["train_frozen"].judge(fn))


def class_weights(fn: Callable[..., Any]) -> None:
    """Check chapter 11, `class_weights(counts) -> (K,)`, with mean 1 over the samples."""
    print(EXERCISES["class_weights"].judge(fn))


def sample_weights(fn: Callable[..., Any]) -> None:
    """Check chapter 11, `sample_weights(labels) -> (N,)`.

    The weights are for a sampler that should draw all classes equally often.
    """
    print(EXERCISES["sample_weights"].judge(fn))


def balanced_accuracy(fn: Callable[..., float]) -> None:
    """Check chapter 11, `balanced_accuracy(confusion)`; rows are true classes."""
    print(EXERCISES["balanced_accuracy"].judge(fn))


def adjust_logits(fn: Callable[..., Any]) -> None:
    """Check chapter 11, `adjust_logits(logits, counts, tau) -> logits`.

    It returns the logits for a world in which all classes are equally frequent.
    """
    print(EXERCISES["adjust_logits"].judge(fn))


def accuracy_interval(fn: Callable[..., Any]) -> None:
    """Check chapter 13, `accuracy_interval(right, n) -> (low, high)`, the 95 % Wilson interval."""
    print(EXERCISES["accuracy_interval"].judge(fn))


def leaks(fn: Callable[..., Any]) -> None:
    """Check chapter 13, `leaks(train, test) -> list`.

    It returns the indices of the test images that are also training images.
    """
    print(EXERCISES["leaks"].judge(fn))


def sure_mistakes(fn: Callable[..., Any]) -> None:
    """Check chapter 13, `sure_mistakes(logits, labels, n) -> list`.

    It returns the indices of the most confident incorrect predictions, the most confident first.
    """
    print(EXERCISES["sure_mistakes"].judge(fn))


def unscale_and_clip(fn: Callable[..., Any]) -> None:
    """Check chapter 12, `unscale_and_clip(gradients, scale, max_norm) -> new list`.

    After an overflow, it returns None.
    """
    print(EXERCISES["unscale_and_clip"].judge(fn))


def accumulate(fn: Callable[..., float]) -> None:
    """Check chapter 12, `accumulate(model, optimizer, loss_fn, images, labels, size) -> mean loss`.

    It takes a single optimizer step.
    """
    print(EXERCISES["accumulate"].judge(fn))


def steps_to_pay(fn: Callable[..., float]) -> None:
    """Check chapter 12, `steps_to_pay(cost, before, after) -> number of steps`, or `math.inf`."""
    print(EXERCISES["steps_to_pay"].judge(fn))


def score(predictions: Mapping[str, tuple[Any, Any]], within: float = 0.1) -> None:
    """Compare your predictions with the results, and print how many were correct.

    Args:
        predictions: question -> (your prediction, the result). A prediction of `...` is skipped.
            A result that is a number was measured by a cell; any other result is the answer.
        within: how far a predicted number may be from the result and still count as correct.

    >>> score({"Which is better?": ("a", "a"), "By how much?": (0.5, 0.1), "Why?": (..., "b")})
    ✔ Which is better? You predicted a. Answer: a.
    ✘ By how much? You predicted 0.5. Measured: 0.1.
    · Why? Answer: b.
    1 of 2 predictions were correct.
    """
    judged = [_compare(question, *pair, within) for question, pair in predictions.items()]
    correct = [c for c in judged if c is not None]
    if correct:
        print(f"{sum(correct)} of {len(correct)} predictions were correct.")
    else:
        print("You made no predictions.")


def prediction(question: str, guess: Any, result: Any = None, *, within: float = 0.1) -> None:
    """Compare one prediction with the result, in the cell after its experiment.

    Args:
        question: the question that the prediction answers.
        guess: your prediction; `...` means that you made none.
        result: what the experiment gave.
        within: how far a predicted number may be from the result and still count as correct.

    >>> prediction("Which is better?", "a", "a")
    ✔ Which is better? You predicted a. Answer: a.
    """
    _compare(question, guess, result, within)


def _compare(question: str, prediction: Any, result: Any, within: float) -> bool | None:
    """Print one line about a prediction; return whether it is correct, or None if skipped."""
    measured = isinstance(result, Real) and not isinstance(result, bool)
    shown = f"Measured: {result:.3g}." if measured else f"Answer: {result}."
    if isinstance(prediction, EllipsisType):
        print(f"· {question} {shown}")
        return None
    if measured and isinstance(prediction, Real):
        correct = abs(float(prediction) - float(result)) <= within
    else:
        correct = prediction == result
    print(f"{'✔' if correct else '✘'} {question} You predicted {prediction}. {shown}")
    return bool(correct)

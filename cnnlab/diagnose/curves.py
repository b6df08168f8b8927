"""Recognise well-known patterns in learning curves, one function per pattern.

The thresholds are rules of thumb, and each finding states its own.
"""

import math
from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any

from cnnlab.diagnose.finding import Finding
from cnnlab.training.checks.options import positive_int
from cnnlab.training.history import History


if TYPE_CHECKING:
    from pandas import DataFrame

# The columns of a history, as lists with one value per epoch.
Curves = Mapping[str, list[float]]


def flat_start(curves: Curves) -> Finding | None:
    """Recognise a training loss that is flat for a quarter of the run and then falls by a third."""
    loss = curves["train_loss"]
    n_flat = next((k for k, v in enumerate(loss) if v < 0.95 * loss[0]), len(loss))
    if n_flat < max(3, len(loss) // 4) or min(loss[n_flat:], default=loss[0]) > 0.67 * loss[0]:
        return None
    return Finding(
        "flat then a drop",
        f"the training loss stayed within 5 % of {loss[0]:.2f} for {n_flat} epochs, then fell to "
        f"{min(loss):.2f}",
        "these epochs were spent on escaping from a bad start",
        "He initialisation, batch norm, warm-up, or a larger learning rate at the beginning",
    )


def early_decay(curves: Curves) -> Finding | None:
    """Recognise a loss that fell well until the learning rate was lowered, and hardly since."""
    if "lr" not in curves:
        return None
    lr, loss = curves["lr"], curves["train_loss"]
    decay = next((k for k, value in enumerate(lr) if value <= 0.11 * max(lr[: k + 1])), None)
    if decay is None or not 2 <= decay <= len(loss) // 2:
        return None
    drop_before, drop_since = loss[decay - 2] - loss[decay - 1], loss[decay] - loss[-1]
    was_falling = drop_before > 0.05 * loss[decay - 2]
    if not was_falling or drop_since > 0.15 * loss[decay] or loss[-1] < 0.2 * loss[0]:
        return None
    return Finding(
        "decayed too early",
        f"the training loss fell by {drop_before:.2f} per epoch until the learning rate dropped to "
        f"{lr[decay]:.2g} after epoch {decay}; in the {len(loss) - decay} epochs since then it "
        f"only fell from {loss[decay]:.2f} to {loss[-1]:.2f}",
        "with a small learning rate the run can't get to the low loss it was heading for",
        "lower the learning rate later: a longer schedule, or cosine over the whole run",
    )


def stuck(curves: Curves) -> Finding | None:
    """Recognise a training loss that hasn't moved for a third of the run.

    If it is still high the run is underfitting, else it has reached a plateau.
    """
    loss = curves["train_loss"]
    third = len(loss) // 3
    late, earlier = sum(loss[-third:]) / third, sum(loss[-2 * third : -third]) / third
    if loss[-1] < 0.15 * loss[0] or earlier - late > 0.05 * earlier:
        return None
    if early_decay(curves) is not None:
        return None
    evidence = (
        f"the mean training loss of the last {third} epochs is {late:.2f}; for the {third} epochs "
        f"before, it was {earlier:.2f}"
    )
    if late > 0.6 * loss[0]:
        return Finding(
            "underfitting",
            f"{evidence}; it began at {loss[0]:.2f}",
            "the model doesn't even fit the training data, so it can't do well on other data",
            "a larger learning rate, a longer run, a wider or deeper model, less augmentation or "
            "weight decay",
        )
    return Finding(
        "plateau",
        evidence,
        "the steps are too large to reach a lower loss, or the model has reached its capacity",
        "lower the learning rate (step, cosine or plateau); if that doesn't help, a larger model",
    )


def unfinished(curves: Curves) -> Finding | None:
    """Recognise a loss that is lowest at the end and still falling.

    Over the last third of the run it fell by 3 % per epoch, and by 0.5 % of its first value.
    """
    loss = curves.get("valid_loss", curves["train_loss"])
    third = max(2, len(loss) // 3)
    drop = (loss[-third] - loss[-1]) / (third - 1)
    if loss[-1] > min(loss) or drop < max(0.03 * loss[-third], 0.005 * loss[0]):
        return None
    return Finding(
        "still rising",
        f"over the last {third} epochs the loss fell by {drop:.3f} per epoch, and the last epoch "
        "is the best",
        "the run ended while the model was still improving",
        "more epochs, or a larger learning rate for the same number of epochs",
    )


def overfit(curves: Curves) -> Finding | None:
    """Recognise a validation loss that rises again while the training loss keeps falling.

    It must rise by 15 %, and by 2 % of the first training loss.
    """
    if "valid_loss" not in curves:
        return None
    train, valid = curves["train_loss"], curves["valid_loss"]
    best = min(range(len(valid)), key=valid.__getitem__)
    late = sum(valid[-2:]) / 2
    rise = late - valid[best]
    if best > len(valid) - 3 or rise < max(0.15 * valid[best], 0.02 * train[0]):
        return None
    if train[-1] > 0.9 * train[best]:
        return None
    return Finding(
        "overfitting",
        f"since epoch {best + 1} the validation loss rose from {valid[best]:.2f} to {late:.2f}, "
        f"while the training loss fell from {train[best]:.2f} to {train[-1]:.2f}",
        "the model memorises details of the training images that don't generalise",
        "early stopping, augmentation, weight decay, dropout, more data, or a smaller model",
    )


# In the order in which the findings are reported.
PATTERNS = (flat_start, early_decay, stuck, unfinished, overfit)


def negative(curves: Curves) -> Finding | None:
    """Recognise a negative loss of a classifier, which a cross-entropy can't have."""
    if not any(name.endswith("_acc") for name in curves):
        return None  # another kind of loss, which may be negative
    values = [value for name, curve in curves.items() if name.endswith("_loss") for value in curve]
    lowest = min(values, default=0.0)
    if lowest > -0.01:
        return None
    return Finding(
        "negative loss",
        f"the loss fell to {lowest:.3g}, and a cross-entropy is never below 0",
        "it can fall without end while the model learns nothing, so no curve can be trusted",
        "look at what the loss gets: NLLLoss takes log-probabilities, CrossEntropyLoss takes "
        "logits, and BCELoss takes probabilities and targets in [0, 1]",
    )


def unlike(curves: Curves, n_classes: int | None) -> Finding | None:
    """Recognise validation results at chance level, or worse, although training goes well.

    Training goes well if its loss has halved and its accuracy is 0.3 above that of the validation.
    With K classes, the validation is at chance level if

    - its accuracy is at most 1.1/K + 0.05 (and its loss never fell below 0.75 log K), or
    - its accuracy is at most 3.5/K, or 0.35, and its loss never fell below 0.97 log K, or
    - its accuracy stays at 1/2 or less within 0.02, and its loss at that of guessing, or
    - its loss never fell below 1.25 log K, or below 5 log K with any accuracy, or
    - there is no accuracy, and its loss stays the same within 1 %.

    Where K isn't known, the training loss of the first epoch stands for log K, because training
    starts from there. Then the second rule doesn't apply, and 1.5 stands for 1.25.
    """
    train, lowest = curves["train_loss"], min(curves.get("valid_loss", [0.0]))
    if not 0 < train[0] < math.inf or train[-1] > 0.5 * train[0] or "valid_loss" not in curves:
        return None
    log_k = math.log(n_classes) if n_classes else max(train[0], math.log(2))
    # A model that could classify before the fit starts far below log K.
    from_scratch = "train_acc" not in curves or curves["train_acc"][0] < 0.75
    if "valid_acc" in curves:
        broken = lowest > 5 * log_k and (n_classes is not None or from_scratch)
        broken |= _at_chance(curves, lowest, log_k, n_classes is not None, from_scratch)
        accuracy = _late(curves["valid_acc"])
        seen = f"the validation accuracy is {accuracy:.2f} and its loss at least {lowest:.2f}"
    else:
        broken = max(curves["valid_loss"]) <= 1.01 * lowest and lowest >= 0.9 * train[0]
        broken |= n_classes is not None and lowest > 0.97 * log_k
        seen = f"the validation loss never fell below {lowest:.2f}"
    if not broken:
        return None
    return Finding(
        "training and validation data are not alike",
        f"{seen}, which is no better than chance, while the training loss fell from "
        f"{train[0]:.2f} to {train[-1]:.2f}",
        "in ordinary overfitting the validation is good at first; here, nothing that the model "
        "learns from the training data holds for the validation data",
        "show a batch of each exactly as the model gets it, and compare the scale of the pixels, "
        "the labels and the order of the classes; and shuffle the training data",
    )


def _at_chance(
    curves: Curves, lowest: float, log_k: float, known: bool, from_scratch: bool
) -> bool:
    """Apply the rules of `unlike` to a validation with an accuracy."""
    accuracies, chance = curves["valid_acc"], math.exp(-min(log_k, 50.0))
    accuracy = _late(accuracies)
    if "train_acc" in curves and _late(curves["train_acc"]) < accuracy + 0.3:
        return False
    if from_scratch and max(accuracies) - min(accuracies) <= 0.02 and 0 < accuracy <= 0.51:
        guess = max(-math.log(accuracy), curves["valid_loss"][0])
        if lowest >= 0.9 * guess:
            return True
    if known:
        poor = accuracy <= min(3.5 * chance, 0.35) and lowest > 0.97 * log_k
        return poor or accuracy <= 1.1 * chance + 0.05 or lowest > 1.25 * log_k
    if accuracy <= 1.1 * chance + 0.05 and lowest >= 0.75 * log_k:
        return True
    return from_scratch and lowest > 1.5 * log_k


def unshuffled(curves: Curves) -> Finding | None:
    """Recognise training data in the order of their classes.

    With one class per batch the model predicts the class of the batch before. The training accuracy
    is then less than half of the validation accuracy, and that is the same within 0.02 in every
    epoch, because the last class is predicted for every image.
    """
    if "train_acc" not in curves or "valid_acc" not in curves:
        return None
    train, valid = _late(curves["train_acc"]), curves["valid_acc"]
    if max(valid) - min(valid) > 0.02 or train > 0.5 * min(valid) or min(valid) > 0.6:
        return None
    return Finding(
        "training data not shuffled",
        f"the training accuracy is {train:.2f}, which is below chance level, and the validation "
        f"accuracy stays at {valid[-1]:.2f}",
        "if the data come class by class, the model forgets one class while it learns the next",
        "cnnlab.loader(data, batch_size, shuffle=True)",
    )


def _late(values: list[float]) -> float:
    """Return the mean of the last third of the epochs."""
    last = values[-(len(values) // 3) :]
    return sum(last) / len(last)


def diagnose(history: "History | DataFrame", n_classes: int | None = None) -> list[Finding]:
    """Look for well-known patterns in the learning curves of a run.

    The patterns are "flat then a drop", "plateau", "decayed too early", "still rising",
    "overfitting" and "underfitting". Three more mean that something is broken, and are reported
    alone: "training and validation data are not alike", "training data not shuffled" and "negative
    loss". The thresholds are rules of thumb, and each finding states its own. A healthy run gives
    no finding.

    Args:
        history: of a fit of at least six epochs, or its `.to_pandas()`.
        n_classes: the number of classes. Without it, it is estimated from the training loss of the
            first epoch, which is too low for a model that could classify before this fit.

    Returns:
        The findings; an empty list if no pattern fits, or if the run is too short to tell, or if
        the loss of a model that doesn't classify is negative.

    Raises:
        ValueError: n_classes is not a number of classes.
        TypeError: `history` is not the history of a run.

    >>> import pandas as pd
    >>> down = [2.5 * 0.7**k for k in range(12)]
    >>> up = [2.0, 1.5, 1.1, 0.9, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6]
    >>> [f.name for f in diagnose(pd.DataFrame({"train_loss": down, "valid_loss": up}))]
    ['overfitting']
    """
    if n_classes is not None and positive_int("n_classes", n_classes, "a number of classes") == 1:
        raise ValueError("n_classes must be at least 2; leave it out if there are no classes")
    history = getattr(history, "history", history)  # of a trainer
    if not isinstance(history, History | Mapping) and not hasattr(history, "columns"):
        raise TypeError(f"diagnose takes the history of a run, got {type(history).__name__}")
    frame = history.to_pandas() if isinstance(history, History) else history
    columns = {str(name): frame[name].tolist() for name in frame}
    curves = {name: values for name, values in columns.items() if all(map(_is_number, values))}
    if not curves.get("train_loss"):
        return []
    broken = negative(curves)
    if broken is None and len(frame) >= 6:
        broken = unlike(curves, n_classes) or unshuffled(curves)
    if broken is not None:
        return [broken]
    if len(frame) < 6 or min(curves["train_loss"] + curves.get("valid_loss", [])) < 0:
        return []  # too short; or the patterns' thresholds are fractions of a positive loss
    findings = [pattern(curves) for pattern in PATTERNS]
    return [finding for finding in findings if finding is not None]


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not math.isnan(value)

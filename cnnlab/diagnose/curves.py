"""Recognise well-known patterns in learning curves, one function per pattern.

The thresholds are rules of thumb, and each finding states its own.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cnnlab.diagnose.finding import Finding
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


def diagnose(history: "History | DataFrame") -> list[Finding]:
    """Look for well-known patterns in the learning curves of a run.

    The patterns are "flat then a drop", "plateau", "decayed too early", "still rising",
    "overfitting" and "underfitting". Their thresholds are rules of thumb, and each finding states
    its own. A healthy run gives no finding.

    Args:
        history: of a fit of at least six epochs, or its `.to_pandas()`.

    Returns:
        The findings; an empty list if no pattern fits, or if the run is too short to tell.

    >>> import pandas as pd
    >>> down = [2.5 * 0.7**k for k in range(12)]
    >>> up = [2.0, 1.5, 1.1, 0.9, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6]
    >>> [f.name for f in diagnose(pd.DataFrame({"train_loss": down, "valid_loss": up}))]
    ['overfitting']
    """
    frame = history.to_pandas() if isinstance(history, History) else history
    if len(frame) < 6:
        return []
    curves = {str(name): frame[name].tolist() for name in frame if frame[name].notna().all()}
    findings = [pattern(curves) for pattern in PATTERNS]
    return [finding for finding in findings if finding is not None]

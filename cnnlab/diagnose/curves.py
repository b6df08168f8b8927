"""Read learning curves: recognise the known shapes. The thresholds are rules of thumb; each is given in its finding."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cnnlab.diagnose.finding import Finding
from cnnlab.training.history import History


if TYPE_CHECKING:
    from pandas import DataFrame

Curve = Mapping[str, list[float]]


def flat_start(curve: Curve) -> Finding | None:
    """The training loss hardly moves for the first quarter of the run and then falls by a third."""
    loss = curve["train_loss"]
    flat = next((k for k, v in enumerate(loss) if v < 0.95 * loss[0]), len(loss))
    if flat < max(3, len(loss) // 4) or min(loss[flat:], default=loss[0]) > 0.67 * loss[0]:
        return None
    return Finding(
        "flat then a drop",
        f"the training loss stayed within 5 % of {loss[0]:.2f} for {flat} epochs, then fell to {min(loss):.2f}",
        "these epochs were spent on getting away from a bad start",
        "He initialisation, batch norm, warm-up, or a larger rate at the beginning",
    )


def early_decay(curve: Curve) -> Finding | None:
    """The loss was falling well until the rate dropped, and has hardly moved since."""
    if "lr" not in curve:
        return None
    rate, loss = curve["lr"], curve["train_loss"]
    small = next((k for k, r in enumerate(rate) if r <= 0.11 * max(rate[: k + 1])), None)
    if small is None or not 2 <= small <= len(loss) // 2:
        return None
    before, since = loss[small - 2] - loss[small - 1], loss[small] - loss[-1]
    falling = before > 0.05 * loss[small - 2]
    if not falling or since > 0.15 * loss[small] or loss[-1] < 0.2 * loss[0]:
        return None
    return Finding(
        "decayed too early",
        f"the training loss fell by {before:.2f} an epoch until the rate dropped to {rate[small]:.2g} after "
        f"epoch {small}; in the {len(loss) - small} epochs since it fell from {loss[small]:.2f} to {loss[-1]:.2f}",
        "with a small rate the run can no longer reach what it was on its way to",
        "let the rate fall later: a longer schedule, or cosine over the whole run",
    )


def stuck(curve: Curve) -> Finding | None:
    """The training loss has not moved for the last third: still high is underfitting, else a plateau."""
    loss = curve["train_loss"]
    third = len(loss) // 3
    late, earlier = sum(loss[-third:]) / third, sum(loss[-2 * third : -third]) / third
    if loss[-1] < 0.15 * loss[0] or earlier - late > 0.05 * earlier:
        return None
    if early_decay(curve) is not None:
        return None
    seen = f"the mean training loss of the last {third} epochs is {late:.2f}, of the {third} before {earlier:.2f}"
    if late > 0.6 * loss[0]:
        return Finding(
            "underfitting",
            f"{seen}; it began at {loss[0]:.2f}",
            "the model does not even fit the training data, so it cannot do well on others",
            "a larger rate or longer run, a wider or deeper model, less augmentation and weight decay",
        )
    return Finding(
        "plateau",
        seen,
        "the steps are too coarse to go lower, or the model has given what it can",
        "lower the rate (step, cosine or plateau); if that changes nothing, a larger model",
    )


def unfinished(curve: Curve) -> Finding | None:
    """The validation loss is lowest at the end and still fell by 3 % an epoch, and by 0.5 % of its start."""
    loss = curve.get("valid_loss", curve["train_loss"])
    third = max(2, len(loss) // 3)
    gain = (loss[-third] - loss[-1]) / (third - 1)
    if loss[-1] > min(loss) or gain < max(0.03 * loss[-third], 0.005 * loss[0]):
        return None
    return Finding(
        "still rising",
        f"over the last {third} epochs the loss fell by {gain:.3f} an epoch, and the last epoch is the best",
        "the run ended before it was done",
        "more epochs, or a larger rate for the same number",
    )


def overfit(curve: Curve) -> Finding | None:
    """The validation loss has turned up, by 15 % and by 2 % of where training began, while that kept falling."""
    if "valid_loss" not in curve:
        return None
    train, valid = curve["train_loss"], curve["valid_loss"]
    best = min(range(len(valid)), key=valid.__getitem__)
    late = sum(valid[-2:]) / 2
    rise = late - valid[best]
    if best > len(valid) - 3 or rise < max(0.15 * valid[best], 0.02 * train[0]):
        return None
    if train[-1] > 0.9 * train[best]:
        return None
    return Finding(
        "overfitting",
        f"since epoch {best + 1} the validation loss rose from {valid[best]:.2f} to {late:.2f} while the training "
        f"loss fell from {train[best]:.2f} to {train[-1]:.2f}",
        "the model learns what only the training images share",
        "early stopping, augmentation, weight decay, dropout, more data, a smaller model",
    )


# In the order in which they are told.
PATTERNS = (flat_start, early_decay, stuck, unfinished, overfit)


def diagnose(history: "History | DataFrame") -> list[Finding]:
    """Read learning curves: say which of the known patterns they show.

    The patterns are "flat then a drop", "plateau", "decayed too early", "still rising", "overfitting" and
    "underfitting". Their thresholds are rules of thumb, each given in the finding; a healthy run gives none.

    Args:
        history: of a fit of at least six epochs, or its `.to_pandas()`.

    Returns:
        The findings; an empty list when no pattern fits, or the run is too short to tell.

    >>> import pandas as pd
    >>> down = [2.5 * 0.7**k for k in range(12)]
    >>> up = [2.0, 1.5, 1.1, 0.9, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6]
    >>> [f.name for f in diagnose(pd.DataFrame({"train_loss": down, "valid_loss": up}))]
    ['overfitting']
    """
    frame = history.frame() if isinstance(history, History) else history
    if len(frame) < 6:
        return []
    curve = {str(name): frame[name].tolist() for name in frame if frame[name].notna().all()}
    return [f for f in (look(curve) for look in PATTERNS) if f is not None]

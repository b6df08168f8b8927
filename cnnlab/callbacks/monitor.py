"""Watch a column of the history: find it, compare its values, refuse one that says nothing."""

import math
from numbers import Real
from typing import Any, Literal

from torch import Tensor

from cnnlab.training.checks import check_mode, check_number
from cnnlab.training.hooks import Run


Mode = Literal["min", "max"]

# What the splits are called, here and in other libraries.
_SPLITS = {
    "": "",
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "val", "validation"), "valid"),
}


def check_monitor(name: Any, mode: str) -> None:
    """Refuse a monitor that can't be the name of a column, or a mode other than "min" and "max".

    Raises:
        TypeError: the name is not a string.
        ValueError: the mode is neither.
    """
    if not isinstance(name, str):
        raise TypeError(f"monitor must be the name of a column of the history, got {name!r:.60}")
    check_mode(mode)


def check_column(trainer: Run, name: str) -> None:
    """Refuse a column that this fit can't have, before the first step.

    Callbacks can add columns, so an unknown name is no error before the first epoch.

    Raises:
        ValueError: the trainer calls this column something else, or it needs validation data or an
            EMA.
    """
    if any(map(_may_add_columns, getattr(trainer, "callbacks", ()))):
        return
    metrics = {"loss": "loss", "acc": "acc", "accuracy": "acc"}
    metrics |= {own: own for own in getattr(trainer, "metrics", ())}
    averaged, rest = name.startswith("ema_"), name.removeprefix("ema_")
    ending = next((m for m in metrics if rest == m or rest.endswith(f"_{m}")), None)
    split = rest.removesuffix(ending or "").removesuffix("_")
    if ending is None or split not in _SPLITS:
        return
    metric, split = metrics[ending], _SPLITS[split]
    if not split:
        raise ValueError(
            f"the history has no column {name!r}: monitor 'train_{metric}' or, with validation "
            f"data, 'valid_{metric}'"
        )
    column = f"{'ema_' if averaged else ''}{split}_{metric}"
    if split == "valid" and not trainer.has_validation:
        raise ValueError(
            f"{column} needs validation data: fit(train, valid, epochs=...), or monitor "
            f"'train_{metric}'"
        )
    if averaged and trainer.ema is None:
        raise ValueError(f"{column} needs a moving average: Trainer(..., ema=EMA(model))")
    if column != name:
        raise ValueError(f"the history has no column {name!r}: it is called {column!r}")


def _may_add_columns(callback: Any) -> bool:
    """Return whether a callback of somebody's own does something at the end of an epoch."""
    hook = getattr(type(callback), "on_epoch_end", None)
    return not getattr(hook, "__module__", "cnnlab").startswith("cnnlab")


def metric(trainer: Run, name: str) -> float:
    """Return a column of the history for the epoch that has just finished.

    Raises:
        ValueError: there is no such column, with a list of those that exist; or it's no number.
    """
    row = trainer.history.epochs[-1]
    if name in row:
        if not isinstance(row[name], Real | Tensor):
            raise ValueError(f"{name} is {row[name]!r:.40}, and only a number can be monitored")
        return float(row[name])
    if name.endswith("_acc"):
        hint = "; there is an accuracy only for a model that gives each sample one class"
    elif "valid" in name and not trainer.has_validation:
        hint = "; pass validation data to get more: fit(train, valid)"
    else:
        hint = ""
    raise ValueError(f"the history has no column {name!r}; it has {', '.join(row)}{hint}")


def number(trainer: Run, name: str) -> float:
    """Return `metric`, or refuse a column that has never been a number.

    NaN in a single epoch is a bad epoch, but a column that is NaN from the start says nothing.

    Raises:
        ValueError: there is no such column, or it has been NaN in every epoch so far.
    """
    value = metric(trainer, name)
    if all(math.isnan(row.get(name, math.nan)) for row in trainer.history.epochs):
        check_number(name, value)
    return value


def improvement(value: float, best: float, mode: Mode) -> float:
    """Return by how much a value is better than the best one; NaN if either of them is NaN."""
    return best - value if mode == "min" else value - best

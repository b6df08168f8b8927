"""Explore early stopping: turn patience and min_delta, see where a recorded run would have stopped."""

from collections.abc import Sequence
from functools import partial

from cnnlab.callbacks.early_stopping import Mode, replay
from cnnlab.course.widgets.core import Explorer
from cnnlab.plots import Plot, stopping
from cnnlab.training.checks import check_mode


def early_stopping(
    values: Sequence[float],
    mode: Mode = "max",
    *,
    label: str = "validation accuracy",
    judged: Sequence[float] | None = None,
    patience: Sequence[int] = (1, 2, 3, 4, 6, 8),
    min_delta: Sequence[float] = (0.0, 0.01, 0.02, 0.05, 0.1),
) -> Explorer:
    """Return an explorer of patience and min_delta on a recorded curve.

    What it shows is what `callbacks.EarlyStopping` does with these values.

    Args:
        values: what was measured, one number an epoch.
        mode: whether `"max"` or `"min"` is good.
        label: what the values are, with their unit.
        judged: the same run measured on other images, which play no part in the choice; shown at the epoch
            that is restored.
        patience: the settings of the first slider, two or more.
        min_delta: the settings of the second, two or more.

    Raises:
        ValueError: there is no value, or not one judged value for each.

    >>> early_stopping([0.5, 0.7, 0.6, 0.6, 0.65])
    Explorer of patience (1 ... 8), min_delta (0 ... 0.1) with 4 frames
    """
    check_mode(mode)
    curve = [float(value) for value in values]
    other = None if judged is None else [float(value) for value in judged]
    if not curve or (other is not None and len(other) != len(curve)):
        raise ValueError(
            f"expected a value for each epoch, got {len(curve)} values"
            + ("" if other is None else f" and {len(other)} judged ones")
        )
    short, long = patience[0], patience[len(patience) // 2]
    return Explorer(
        partial(draw, curve, other, mode, label),
        {"patience": patience, "min_delta": min_delta},
        frames=[
            {"patience": short},
            {"patience": long},
            {"patience": long, "min_delta": min_delta[-1]},
            {"patience": patience[-1]},
        ],
    )


def draw(
    values: list[float],
    judged: list[float] | None,
    mode: Mode,
    label: str,
    *,
    patience: int,
    min_delta: float,
) -> Plot:
    """Draw the curve up to the stop, what would have come after it, and the epoch that is restored.

    Args:
        values: one number an epoch.
        judged: on other images, or None.
        mode: whether `"max"` or `"min"` is good.
        label: what the values are.
        patience: epochs in a row without improvement that end the run.
        min_delta: what an improvement must exceed.
    """
    stop, best = replay(values, mode, patience, min_delta)
    return stopping(values, stop, best, label=label, judged=judged)

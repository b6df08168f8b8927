"""Explore early stopping: see where a recorded run stops at a given patience and min_delta."""

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
    """Return an explorer of patience and min_delta, applied to a recorded curve.

    It shows what `callbacks.EarlyStopping` does with these values.

    Args:
        values: the monitored metric, one value per epoch.
        mode: `"max"` if higher values are better, `"min"` if lower ones are.
        label: name of the metric, with its unit.
        judged: the same metric on other images, such as the test set, which play no part in the
            choice; shown for the restored epoch.
        patience: at least two values for the first slider.
        min_delta: at least two values for the second slider.

    Raises:
        ValueError: there are no values, or `judged` has a different length.

    >>> early_stopping([0.5, 0.7, 0.6, 0.6, 0.65])
    Explorer of patience (1 ... 8), min_delta (0 ... 0.1) with 4 frames
    """
    check_mode(mode)
    curve = [float(value) for value in values]
    judged_curve = None if judged is None else [float(value) for value in judged]
    if not curve:
        raise ValueError("values must have one value per epoch, and it is empty")
    if judged_curve is not None and len(judged_curve) != len(curve):
        raise ValueError(
            f"values and judged must have one value per epoch each; got {len(curve)} values and "
            f"{len(judged_curve)} judged values"
        )
    short, long = patience[0], patience[len(patience) // 2]
    return Explorer(
        partial(draw, curve, judged_curve, mode, label),
        {"patience": patience, "min_delta": min_delta},
        frames=[
            {"patience": short},
            {"patience": long},
            {"patience": long, "min_delta": min_delta[-1]},
            {"patience": patience[-1]},
        ],
        labels={"min_delta": "min_delta"},
        words={"patience": lambda epochs: f"{epochs} epoch{'s' * (epochs != 1)}"},
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
    """Plot the curve up to the stop, the epochs that were not needed, and the restored epoch.

    Args:
        values: the monitored metric, one value per epoch.
        judged: the same metric on other images, or None.
        mode: `"max"` if higher values are better, `"min"` if lower ones are.
        label: name of the metric, with its unit.
        patience: number of epochs in a row without an improvement after which the run stops.
        min_delta: the smallest change that doesn't count: an improvement must exceed it.
    """
    stop, best = replay(values, mode, patience, min_delta)
    return stopping(values, stop, best, label=label, judged=judged)

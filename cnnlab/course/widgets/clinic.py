"""Explore the curves of broken runs, each beside those of a healthy one."""

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from cnnlab.course.widgets.core import Explorer
from cnnlab.plots import Plot, lines


if TYPE_CHECKING:
    from pandas import DataFrame

# measure -> its columns with what the legend calls them, the label of the axis, which axes are logarithmic
MEASURES = {
    "loss": ({"train_loss": "training", "valid_loss": "validation"}, "loss (nats)", "y"),
    "accuracy": ({"train_acc": "training", "valid_acc": "validation"}, "accuracy", ""),
    "gradient norm": ({"grad_norm_max": "largest"}, "gradient norm of a step", "y"),
    "update ratio": ({"log10_update_ratio": "median"}, "log10 of step / weight", ""),
}


def sick_curves(recorded: "Mapping[str, DataFrame]", healthy: "DataFrame") -> Explorer:
    """Return an explorer of recorded runs: choose the fault and what to look at.

    Args:
        recorded: fault -> `history.frame()` of a run with it, with `GradNormLog` and `UpdateRatioLog`; two or more.
        healthy: of a run without a fault.

    >>> import pandas as pd
    >>> run = pd.DataFrame({"train_loss": [2.0, 1.0], "train_acc": [0.2, 0.6]})
    >>> sick_curves({"slow": run, "dead": run}, run)
    Explorer of fault (slow ... dead), measure (loss ... update ratio) with 2 frames
    """
    names = tuple(recorded)
    spread = names[:: max(1, len(names) // 4)][:4]
    frames = [{"fault": name, "measure": "loss"} for name in spread]
    return Explorer(
        partial(draw, recorded, healthy),
        {"fault": names, "measure": tuple(MEASURES)},
        frames=frames,
    )


def draw(
    recorded: "Mapping[str, DataFrame]", healthy: "DataFrame", *, fault: str, measure: str
) -> Plot:
    """Draw one measure of a broken run and of the healthy one over the epochs.

    Args:
        recorded: fault -> table.
        healthy: table.
        fault: which of the recorded.
        measure: one of `MEASURES`.
    """
    columns, label, log = MEASURES[measure]
    runs = {fault: recorded[fault], "healthy": healthy}
    epochs = max(map(len, runs.values()))
    series = {}
    for run, table in runs.items():
        for column, part in columns.items():
            values = table[column].tolist() if column in table else []
            if values:
                series[f"{run}, {part}"] = values + [math.nan] * (epochs - len(values))
    short = len(recorded[fault])
    broken = f" The run broke off after {short} of them." if short < epochs else ""
    return lines(
        range(1, epochs + 1),
        series,
        xlabel="epochs finished",
        ylabel=label,
        message=f"{fault} beside a healthy run, over {epochs} epochs.{broken}",
        log=log,
    )

"""Explore the learning curves of broken runs, each next to those of a healthy run."""

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from cnnlab.course.widgets.core import Explorer
from cnnlab.plots import Plot, lines


if TYPE_CHECKING:
    from pandas import DataFrame

# For each measure: its columns and their names in the legend, the axis label, the logarithmic axes.
MEASURES = {
    "loss": ({"train_loss": "training", "valid_loss": "validation"}, "loss (nats)", "y"),
    "accuracy": ({"train_acc": "training", "valid_acc": "validation"}, "accuracy", ""),
    "gradient norm": ({"grad_norm_max": "largest"}, "gradient norm of a step", "y"),
    "update ratio": ({"log10_update_ratio": "median"}, "log10 of step size / weight size", ""),
}


def sick_curves(recorded: "Mapping[str, DataFrame]", healthy: "DataFrame") -> Explorer:
    """Return an explorer of recorded runs, in which you choose the fault and the measure to plot.

    Args:
        recorded: for each of two or more faults, the `history.frame()` of a run that has it. The
            runs need the callbacks `GradNormLog` and `UpdateRatioLog`.
        healthy: the same table of a run without a fault.

    >>> import pandas as pd
    >>> run = pd.DataFrame({"train_loss": [2.0, 1.0], "train_acc": [0.2, 0.6]})
    >>> sick_curves({"slow": run, "dead": run}, run)
    Explorer of fault (slow ... dead), measure (loss ... update ratio) with 2 frames
    """
    names = tuple(recorded)
    sample = names[:: max(1, len(names) // 4)][:4]
    return Explorer(
        partial(draw, recorded, healthy),
        {"fault": names, "measure": tuple(MEASURES)},
        frames=[{"fault": name, "measure": "loss"} for name in sample],
    )


def draw(
    recorded: "Mapping[str, DataFrame]", healthy: "DataFrame", *, fault: str, measure: str
) -> Plot:
    """Plot one measure of a broken and a healthy run for each epoch.

    Args:
        recorded: for each fault, the table of its run.
        healthy: the table of the healthy run.
        fault: a key of `recorded`.
        measure: a key of `MEASURES`.
    """
    columns, label, log = MEASURES[measure]
    runs = {fault: recorded[fault], "healthy": healthy}
    epochs = max(map(len, runs.values()))
    series: dict[str, dict[str, list[float]]] = {}
    for run, table in runs.items():
        for column, name in columns.items():
            values = table[column].tolist() if column in table else []
            if values:
                padding = [math.nan] * (epochs - len(values))
                series.setdefault(run, {})[name] = values + padding
    finished = len(recorded[fault])
    failure = f" The broken run failed after {finished} of them." if finished < epochs else ""
    return lines(
        range(1, epochs + 1),
        series,
        xlabel="finished epochs",
        ylabel=label,
        message=f"{fault} (left), beside a healthy run over {epochs} epochs.{failure}",
        log=log,
    )

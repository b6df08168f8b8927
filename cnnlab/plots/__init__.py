"""The figures of the course, safe for colour-blind readers and with alt text made from the data.

A plotting function takes arrays or tables and returns a `Plot`, which a notebook displays. The
figures don't use `pyplot`, so nothing is drawn twice and your own matplotlib style doesn't change.
"""

from cnnlab.plots.comparisons import arrows, heatmap, histogram, intervals, layers, parts, trials
from cnnlab.plots.core import COLOURS, GREY, LINES, MARKERS, STYLE, Plot
from cnnlab.plots.pictures import image_grid, prediction, soft_labels
from cnnlab.plots.planes import probability_map
from cnnlab.plots.runs import curves, lines, schedule_beside_runs, schedules, stopping, trend


__all__ = [
    "COLOURS",
    "GREY",
    "LINES",
    "MARKERS",
    "STYLE",
    "Plot",
    "arrows",
    "curves",
    "heatmap",
    "histogram",
    "image_grid",
    "intervals",
    "layers",
    "lines",
    "parts",
    "prediction",
    "probability_map",
    "schedule_beside_runs",
    "schedules",
    "soft_labels",
    "stopping",
    "trend",
    "trials",
]

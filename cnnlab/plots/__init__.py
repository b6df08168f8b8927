"""Every figure of the course: colour-blind safe, with alt text made from the data.

A plotting function takes plain arrays or tables and returns a `Plot`, which a notebook shows by itself. The
figures never touch `pyplot`: nothing is drawn twice, and no style of yours is changed.
"""

from cnnlab.plots.comparisons import arrows, heatmap, histogram, intervals, layers, parts, trials
from cnnlab.plots.core import COLOURS, GREY, LINES, MARKERS, STYLE, Plot
from cnnlab.plots.pictures import image_grid, soft_labels
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
    "schedule_beside_runs",
    "schedules",
    "soft_labels",
    "stopping",
    "trend",
    "trials",
]

"""The drawn diagrams of the course, made by code.

Each function returns a `cnnlab.plots.Plot`, 700 pixels wide, whose title states its message. The
values in a diagram are computed when it is drawn: shapes and parameters from the real network,
gradients by autograd, the ranges of number formats from `torch.finfo`.

>>> from cnnlab import diagrams
>>> diagrams.confusion().alt.partition(". ")[0]
'Recall reads along a row of the confusion matrix, precision down a column'
"""

from cnnlab.course.diagrams.averages import averaged_weights
from cnnlab.course.diagrams.chapters import chapter_map
from cnnlab.course.diagrams.evaluation import confusion
from cnnlab.course.diagrams.networks import freezing, network, normalisation
from cnnlab.course.diagrams.poster import debugging
from cnnlab.course.diagrams.processes import all_reduce, workers
from cnnlab.course.diagrams.searching import search
from cnnlab.course.diagrams.steps import accumulation, learning_rates, loss_scaling


__all__ = [
    "accumulation",
    "all_reduce",
    "averaged_weights",
    "chapter_map",
    "confusion",
    "debugging",
    "freezing",
    "learning_rates",
    "loss_scaling",
    "network",
    "normalisation",
    "search",
    "workers",
]

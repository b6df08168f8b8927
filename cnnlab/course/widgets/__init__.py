"""Explorers: move a slider and see what changes; without a kernel, see a grid of fixed plots.

>>> from cnnlab import widgets
>>> widgets.Explorer
<class 'cnnlab.course.widgets.core.Explorer'>
"""

from cnnlab.course.widgets.augmentation import augmentation
from cnnlab.course.widgets.clinic import sick_curves
from cnnlab.course.widgets.core import Explorer
from cnnlab.course.widgets.mixing import mixing
from cnnlab.course.widgets.schedules import schedules
from cnnlab.course.widgets.search import search_space
from cnnlab.course.widgets.stopping import early_stopping


__all__ = [
    "Explorer",
    "augmentation",
    "early_stopping",
    "mixing",
    "schedules",
    "search_space",
    "sick_curves",
]

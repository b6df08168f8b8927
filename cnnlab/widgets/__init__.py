"""Explorers: turn a knob, see what it does. Without a kernel each shows a grid of still pictures.

>>> from cnnlab import widgets
>>> widgets.Explorer
<class 'cnnlab.widgets.core.Explorer'>
"""

from cnnlab.widgets.augmentation import augmentation
from cnnlab.widgets.clinic import sick_curves
from cnnlab.widgets.core import Explorer
from cnnlab.widgets.mixing import mixing
from cnnlab.widgets.schedules import schedules
from cnnlab.widgets.search import search_space
from cnnlab.widgets.stopping import early_stopping


__all__ = [
    "Explorer",
    "augmentation",
    "early_stopping",
    "mixing",
    "schedules",
    "search_space",
    "sick_curves",
]

"""Explorers: turn a knob, see what it does. Without a kernel each shows a grid of still pictures.

>>> from cnnlab import widgets
>>> widgets.Explorer
<class 'cnnlab.widgets.core.Explorer'>
"""

from cnnlab.widgets.core import Explorer


__all__ = ["Explorer"]

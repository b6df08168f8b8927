"""Augmentation of a whole batch at once, with parameters of its own for each image.

>>> import torch
>>> augment = Augment(flip=0.5, crop_pad=4, brightness=0.2)
>>> augment(torch.rand(8, 3, 32, 32)).shape
torch.Size([8, 3, 32, 32])

`core` says what is drawn and in which order it is applied; `geometry` moves pixels, `colour` changes them.
"""

from cnnlab.augment.core import Augment, Params, ramp


__all__ = ["Augment", "Params", "ramp"]

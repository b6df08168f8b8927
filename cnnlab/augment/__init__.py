"""Augment a whole batch at once, with separate random parameters for each image.

>>> import torch
>>> augment = Augment(flip=0.5, crop_pad=4, brightness=0.2)
>>> augment(torch.rand(8, 3, 32, 32)).shape
torch.Size([8, 3, 32, 32])

`core` holds the options and applies them in order, `draws` draws the random parameters, `geometry`
moves pixels and `colour` changes their values. `mixing` is mixup and CutMix.
"""

from cnnlab.augment.core import Augment, Params, ramp


__all__ = ["Augment", "Params", "ramp"]

"""The networks of the course, weight initialisation, pretrained networks, and replaceable heads.

Every network from `small_resnet` or `pretrained` takes images (N, C, H, W) with pixels in [0, 1]
and returns logits (N, K). Its first layer normalises the pixels, so the normalisation is saved and
loaded with the weights and can't be forgotten.
"""

from cnnlab.models.backbones import Backbone, pretrained
from cnnlab.models.classification import classify
from cnnlab.models.efficientnet import EfficientNetLite0
from cnnlab.models.initial import initialise
from cnnlab.models.parts import replace_head, stages
from cnnlab.models.resnet import Block, Normalize, SmallResNet, small_resnet


__all__ = [
    "Backbone",
    "Block",
    "EfficientNetLite0",
    "Normalize",
    "SmallResNet",
    "classify",
    "initialise",
    "pretrained",
    "replace_head",
    "small_resnet",
    "stages",
]

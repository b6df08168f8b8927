"""The networks of the course, how they begin, pretrained ones, and how to give one a new head.

Every model takes pixels in [0, 1], shape (N, C, H, W), and returns logits, shape (N, K). What centres the
pixels is the model's first layer, so it is saved and loaded with the weights and cannot be forgotten.
"""

from cnnlab.models.backbones import Backbone, pretrained
from cnnlab.models.initial import initialise
from cnnlab.models.parts import replace_head, stages
from cnnlab.models.resnet import Block, Normalize, SmallResNet, small_resnet


__all__ = [
    "Backbone",
    "Block",
    "Normalize",
    "SmallResNet",
    "initialise",
    "pretrained",
    "replace_head",
    "small_resnet",
    "stages",
]

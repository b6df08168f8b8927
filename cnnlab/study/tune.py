"""Tune hyperparameters: the learning-rate range test, random search and grid search."""

from cnnlab.study.lr_find import LRCurve, lr_find
from cnnlab.study.search import (
    Choice,
    LogUniform,
    Space,
    Uniform,
    grid_search,
    random_search,
    refine,
)


__all__ = [
    "Choice",
    "LRCurve",
    "LogUniform",
    "Space",
    "Uniform",
    "grid_search",
    "lr_find",
    "random_search",
    "refine",
]

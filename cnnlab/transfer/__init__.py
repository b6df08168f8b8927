"""Transfer learning: strategies, freezing, learning rates per stage, and frozen features."""

from cnnlab.training.modes import train_mode
from cnnlab.transfer.advice import Advice, advise
from cnnlab.transfer.features import extract_features, linear_probe
from cnnlab.transfer.freezing import freeze, unfreeze
from cnnlab.transfer.param_groups import param_groups
from cnnlab.transfer.retrieval import Retrieval, retrieval


__all__ = [
    "Advice",
    "Retrieval",
    "advise",
    "extract_features",
    "freeze",
    "linear_probe",
    "param_groups",
    "retrieval",
    "train_mode",
    "unfreeze",
]

"""cnnlab: train convolutional networks, and see what each technique is worth.

>>> import cnnlab
>>> data = cnnlab.load("pocket", n_train=240, n_valid=60, n_test=60)
>>> len(data.classes)
12

What a first look needs is here; the rest lies in the modules, each of which is a page to be read: `schedules`,
`mixing`, `augment`, `data`, `models`, `transfer`, `checkpoint`, `trainer`, `callbacks`, `averaging`, `tune`, `diagnose`,
`symptoms`, `experiment`, `distributed`, `plots`, `check`, `clinic`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from cnnlab.data import DataBundle, from_folder, load, loader
from cnnlab.experiment import compare
from cnnlab.models import initialise, pretrained, replace_head, small_resnet, stages
from cnnlab.schedules import attach
from cnnlab.trainer import Callback, History, StopTraining, Trainer


if TYPE_CHECKING:
    from cnnlab import (
        augment,
        averaging,
        callbacks,
        check,
        checkpoint,
        clinic,
        data,
        diagnose,
        distributed,
        errors,
        experiment,
        mixing,
        models,
        plots,
        schedules,
        symptoms,
        trainer,
        transfer,
        tune,
    )
    from cnnlab.session import setup

__version__ = "0.1.0"

__all__ = [
    "Callback",
    "DataBundle",
    "History",
    "StopTraining",
    "Trainer",
    "attach",
    "augment",
    "averaging",
    "callbacks",
    "check",
    "checkpoint",
    "clinic",
    "compare",
    "data",
    "diagnose",
    "distributed",
    "errors",
    "experiment",
    "from_folder",
    "initialise",
    "load",
    "loader",
    "mixing",
    "models",
    "plots",
    "pretrained",
    "replace_head",
    "schedules",
    "setup",
    "small_resnet",
    "stages",
    "symptoms",
    "trainer",
    "transfer",
    "tune",
]


def __getattr__(name: str) -> Any:
    """Load a module when it is asked for, `cnnlab.tune`; and `cnnlab.setup` likewise."""
    if name == "setup":
        return importlib.import_module("cnnlab.session").setup
    if name in __all__:
        return importlib.import_module(f"cnnlab.{name}")
    raise AttributeError(f"module 'cnnlab' has no attribute {name!r}")

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
        search,
        symptoms,
        trainer,
        transfer,
        tune,
    )
    from cnnlab.data import DataBundle, from_folder, load, loader
    from cnnlab.experiment import compare
    from cnnlab.models import initialise, pretrained, replace_head, small_resnet, stages
    from cnnlab.schedules import attach
    from cnnlab.session import setup
    from cnnlab.trainer import Callback, History, StopTraining, Trainer

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
    "search",
    "setup",
    "small_resnet",
    "stages",
    "symptoms",
    "trainer",
    "transfer",
    "tune",
]


# Loaded when asked for, so that the command answers at once, and `cnnlab doctor` also where torch is missing or broken.
_HOMES = {
    "cnnlab.data": ("DataBundle", "from_folder", "load", "loader"),
    "cnnlab.experiment": ("compare",),
    "cnnlab.models": ("initialise", "pretrained", "replace_head", "small_resnet", "stages"),
    "cnnlab.schedules": ("attach",),
    "cnnlab.session": ("setup",),
    "cnnlab.trainer": ("Callback", "History", "StopTraining", "Trainer"),
}


def __getattr__(name: str) -> Any:
    """Load a name, `cnnlab.Trainer`, or a module, `cnnlab.tune`, when it is asked for."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    if name in __all__:
        return importlib.import_module(f"cnnlab.{name}")
    raise AttributeError(f"module 'cnnlab' has no attribute {name!r}")


def __dir__() -> "list[str]":  # quoted for a Python too old, which `__main__` turns away
    return sorted({*globals(), *__all__})

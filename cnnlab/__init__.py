"""cnnlab: train convolutional networks, and see what each technique is worth.

>>> import cnnlab
>>> data = cnnlab.load("pocket", n_train=240, n_valid=60, n_test=60)
>>> len(data.classes)
12

The names you need first are here. Everything else is in the modules: `schedules`, `mixing`,
`augment`, `data`, `models`, `transfer`, `checkpoint`, `trainer`, `callbacks`, `averaging`, `tune`,
`search`, `diagnose`, `symptoms`, `experiment`, `distributed`, `plots`, `errors`, `check`, `clinic`,
`emergency`, `widgets`.
"""

import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from cnnlab.version import __version__ as __version__


if TYPE_CHECKING:
    from cnnlab import augment, callbacks, data, diagnose, errors, models, plots, transfer
    from cnnlab.augment import mixing
    from cnnlab.course import check, clinic, emergency, widgets
    from cnnlab.course.session import setup
    from cnnlab.data import DataBundle, from_folder, load, loader
    from cnnlab.diagnose import symptoms
    from cnnlab.models import classify, initialise, pretrained, replace_head, small_resnet, stages
    from cnnlab.study import experiment, tune
    from cnnlab.study import shared_search as search
    from cnnlab.study.experiment import compare
    from cnnlab.training import averaging, checkpoint, distributed, schedules, trainer
    from cnnlab.training.history import History
    from cnnlab.training.hooks import Callback, StopTraining
    from cnnlab.training.schedules import attach
    from cnnlab.training.trainer import Trainer

# Everything is imported on first use, so that the command line answers at once, and `cnnlab doctor`
# runs even where
# torch is missing or broken.
_NAMES = {
    "Callback": "cnnlab.training.hooks",
    "DataBundle": "cnnlab.data",
    "History": "cnnlab.training.history",
    "StopTraining": "cnnlab.training.hooks",
    "Trainer": "cnnlab.training.trainer",
    "attach": "cnnlab.training.schedules",
    "classify": "cnnlab.models",
    "compare": "cnnlab.study.experiment",
    "from_folder": "cnnlab.data",
    "initialise": "cnnlab.models",
    "load": "cnnlab.data",
    "loader": "cnnlab.data",
    "pretrained": "cnnlab.models",
    "replace_head": "cnnlab.models",
    "setup": "cnnlab.course.session",
    "small_resnet": "cnnlab.models",
    "stages": "cnnlab.models",
}

# The public modules whose file is deeper in the package: `cnnlab.schedules` is
# `cnnlab.training.schedules`.
_MODULES = {
    "autograde": "cnnlab.course.autograde",
    "averaging": "cnnlab.training.averaging",
    "check": "cnnlab.course.check",
    "checkpoint": "cnnlab.training.checkpoint",
    "cli": "cnnlab.course.cli",
    "clinic": "cnnlab.course.clinic",
    "diagrams": "cnnlab.course.diagrams",
    "distributed": "cnnlab.training.distributed",
    "doctor": "cnnlab.course.doctor",
    "emergency": "cnnlab.course.emergency",
    "experiment": "cnnlab.study.experiment",
    "mixing": "cnnlab.augment.mixing",
    "schedules": "cnnlab.training.schedules",
    "search": "cnnlab.study.shared_search",
    "session": "cnnlab.course.session",
    "symptoms": "cnnlab.diagnose.symptoms",
    "trainer": "cnnlab.training.trainer",
    "tune": "cnnlab.study.tune",
    "widgets": "cnnlab.course.widgets",
}

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
    "classify",
    "clinic",
    "compare",
    "data",
    "diagnose",
    "distributed",
    "emergency",
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
    "widgets",
]


class _PublicModules(MetaPathFinder, Loader):
    """Import `cnnlab.schedules`, and anything inside it, as `cnnlab.training.schedules`."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> "ModuleSpec | None":
        real_name = _real_name(fullname)
        return ModuleSpec(fullname, self) if real_name and find_spec(real_name) else None

    def create_module(self, spec: ModuleSpec) -> Any:
        module = import_module(_real_name(spec.name))
        # importlib is about to replace it by the spec of the short name.
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: Any) -> None:
        module.__spec__ = module.__spec__.loader_state


def _real_name(fullname: str) -> str:
    """Return where the code of a public module is, or "" for any other name.

    >>> _real_name("cnnlab.check.core")
    'cnnlab.course.check.core'
    """
    package, _, rest = fullname.partition(".")
    public, dot, inside = rest.partition(".")
    return f"{_MODULES[public]}{dot}{inside}" if package == __name__ and public in _MODULES else ""


if not any(type(finder).__qualname__ == _PublicModules.__qualname__ for finder in sys.meta_path):
    sys.meta_path.insert(0, _PublicModules())


def __getattr__(name: str) -> Any:
    """Import a name such as `cnnlab.Trainer`, or a module such as `cnnlab.tune`, on first use."""
    if name in _NAMES:
        return getattr(import_module(_NAMES[name]), name)
    if name in __all__ or name in _MODULES:
        return import_module(f"cnnlab.{name}")
    raise AttributeError(f"module 'cnnlab' has no attribute {name!r}")


def __dir__() -> "list[str]":  # quoted for a Python too old, which `__main__` turns away
    return sorted({*globals(), *__all__})

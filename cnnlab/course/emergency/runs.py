"""A finished run of a patient's script, and what was counted during it."""

from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from torch import Tensor


class Unfit(Exception):
    """A script doesn't run, or doesn't return what it should; the message completes "It ..."."""


@dataclass
class Telemetry:
    """What was counted while a script ran.

    Attributes:
        steps: number of optimizer steps.
        backwards: number of backward passes.
        lrs: learning rate of the first parameter group, at every step.
        norms: gradient norm of all parameters, at every step.
        stale: number of backward passes that added to the gradient of an earlier step.
    """

    steps: int = 0
    backwards: int = 0
    lrs: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    stale: int = 0


@dataclass(frozen=True)
class Run:
    """A finished run of a script.

    Attributes:
        module: the script's namespace.
        result: what `train` returned.
        images: new images that the script never saw.
        labels: their labels.
        telemetry: what was counted during training.
        seed: the seed that `train` got.
    """

    module: ModuleType
    result: Any
    images: Tensor
    labels: Tensor
    telemetry: Telemetry
    seed: int

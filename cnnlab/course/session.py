"""`setup`, the first line of every chapter, fixes whatever could differ between two runs."""

import random
from dataclasses import dataclass
from numbers import Integral

import numpy as np
import torch

from cnnlab.course.heap import keep_freed_memory
from cnnlab.course.profile import apply_profile
from cnnlab.course.tracebacks import shorten_tracebacks
from cnnlab.training.options import best_device


__all__ = [
    "Session",
    "setup",
]


@dataclass(frozen=True)
class Session:
    """The settings that `setup` chose.

    Attributes:
        device: where to train.
        profile: "smoke", "laptop" or "gpu".
        seed: the seed of the global generators.
    """

    device: torch.device
    profile: str
    seed: int

    def __str__(self) -> str:
        from cnnlab.version import __version__

        torch_version = torch.__version__.partition("+")[0]
        return (
            f"cnnlab {__version__}, torch {torch_version}, device {self.device} "
            f"({torch.get_num_threads()} threads), profile {self.profile}, seed {self.seed}"
        )


def setup(seed: int = 0) -> Session:
    """Choose the device, fix the seeds, set the plotting style, and print the settings.

    In a notebook, the stop button then shows one line instead of a traceback. If cnnlab refuses an
    argument, the traceback shows your own lines and the message; `%tb` shows all of it.

    On Linux the process then keeps the memory that it frees, which makes training steps on a CPU
    faster; the environment variable `CNNLAB_MALLOC=0` switches this off.

    Args:
        seed: for the global generators of Python, numpy and torch.

    Returns:
        The settings.

    Raises:
        ValueError: the seed isn't a whole number, or numpy can't take it.

    >>> setup().seed  # doctest: +ELLIPSIS
    cnnlab ..., profile laptop, seed 0
    0
    """
    import matplotlib as mpl

    from cnnlab.plots import STYLE

    if not (isinstance(seed, Integral) and 0 <= seed < 2**32):
        raise ValueError(f"seed must be a whole number from 0 to 2**32 - 1, got {seed!r}; use 0")
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - other libraries draw from this generator
    torch.manual_seed(seed)
    mpl.rcParams.update(STYLE)
    shorten_tracebacks()
    keep_freed_memory()
    session = Session(best_device(), apply_profile(), seed)
    print(session)  # noqa: T201
    return session

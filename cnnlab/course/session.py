"""`setup`, the first line of every chapter, fixes whatever could differ between two runs."""

import os
import random
from dataclasses import dataclass
from numbers import Integral

import numpy as np
import torch

from cnnlab.course import processors
from cnnlab.course.heap import OFF, keep_freed_memory
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
            f"({_threads(torch.get_num_threads())}), profile {self.profile}, "
            f"seed {self.seed}"
        )


def setup(seed: int = 0, *, threads: int | str | None = "available") -> Session:
    """Choose the device, fix the seeds, set the plotting style, and print the settings.

    In a notebook, the stop button then shows one line instead of a traceback. If cnnlab refuses an
    argument, the traceback shows your own lines and the message; `%tb` shows all of it.

    On Linux the process then keeps the memory that it frees, which makes training steps on a CPU
    faster; the environment variable `CNNLAB_MALLOC=0` switches this off.

    torch starts as many threads as the machine has cores. In a container or a batch job that may
    use fewer of them, the threads wait for each other, and training may take many times as long. So
    their number is lowered to that of the processors this process may use, and this is printed.

    Args:
        seed: for the global generators of Python, numpy and torch.
        threads: the most threads that torch computes with: `"available"`, as described above, or a
            number, or None, which leaves torch as it is. The number is never raised. For
            `"available"`, the environment variable `CNNLAB_THREADS` can say another number, or 0
            for None.

    Returns:
        The settings.

    Raises:
        ValueError: the seed isn't a whole number, or numpy can't take it; or `threads` is none of
            these.

    >>> setup(threads=None).seed  # doctest: +ELLIPSIS
    cnnlab ..., profile laptop, seed 0
    0
    """
    import matplotlib as mpl

    from cnnlab.plots import STYLE

    if not (isinstance(seed, Integral) and 0 <= seed < 2**32):
        raise ValueError(f"seed must be a whole number from 0 to 2**32 - 1, got {seed!r}; use 0")
    most = _most_threads(threads)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - other libraries draw from this generator
    torch.manual_seed(seed)
    mpl.rcParams.update(STYLE)
    shorten_tracebacks()
    keep_freed_memory()
    _lower_threads(most)
    session = Session(best_device(), apply_profile(), seed)
    print(session)  # noqa: T201
    return session


def _most_threads(threads: int | str | None) -> int | None:
    """Return the largest number of threads that is wanted, or None to leave it to torch.

    >>> _most_threads(2), _most_threads(None)
    (2, None)
    """
    if threads == "available":
        return _available_threads()
    if threads is None or (isinstance(threads, Integral) and threads >= 1):
        return threads
    raise ValueError(
        f"threads must be a number from 1, None or 'available', got {threads!r}; leave it out to "
        "use the processors that are available"
    )


def _available_threads() -> int | None:
    setting = os.environ.get("CNNLAB_THREADS", "").strip().lower()
    if setting in OFF:
        return None
    if setting.isdecimal():
        return int(setting) or None
    if not setting:
        return processors.available()
    raise ValueError(
        f"CNNLAB_THREADS is {setting!r}, but it must be a number of threads, or 0 to leave it to "
        "torch; unset it to use the processors that are available"
    )


def _lower_threads(most: int | None) -> None:
    """Lower torch's number of threads to `most`, and say so; never raise it."""
    before = torch.get_num_threads()
    if most is None or before <= most:
        return
    torch.set_num_threads(most)
    print(  # noqa: T201
        f"torch computes with {_threads(most)} instead of {before}, because this process may "
        f"use no more. To keep {before}, restart and write setup(threads=None)."
    )


def _threads(n: int) -> str:
    return f"{n} thread{'' if n == 1 else 's'}"

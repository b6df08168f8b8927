"""The exceptions of cnnlab. Each message says what was wrong, what is allowed, and what to do."""

from collections.abc import Callable


__all__ = [
    "CheckpointError",
    "ClaimNotSupported",
    "CnnlabError",
    "DataError",
    "DownloadError",
    "NonFiniteError",
    "OutOfMemory",
]


class CnnlabError(Exception):
    """The base class of the errors that are not a plain `ValueError` or `TypeError`."""


class DataError(CnnlabError, ValueError):
    """The data can't be used: a broken image, a missing folder, an impossible label."""


class DownloadError(CnnlabError, OSError):
    """A data set or a file of weights is not on this machine, and the download failed."""


class CheckpointError(CnnlabError):
    """A checkpoint is damaged, was not written by cnnlab, or belongs to another model."""


class NonFiniteError(CnnlabError, ArithmeticError):
    """A loss, gradient, output or input is NaN or infinite.

    In training, the weights are those from before that batch.
    """


class OutOfMemory(CnnlabError, RuntimeError):
    """A batch didn't fit into the memory of the device; the weights are those from before it."""


class ClaimNotSupported(CnnlabError, AssertionError):
    """The interval of the measured difference doesn't support the claim."""


def holds(condition: Callable[[], bool]) -> bool:
    """Return whether a condition on an argument holds; False if the argument is no number at all.

    >>> lr = "0.1"
    >>> holds(lambda: 0 <= lr < 1)
    False
    """
    try:
        return bool(condition())
    except (TypeError, ValueError, RuntimeError):  # a string; a tensor with several entries
        return False

"""The exceptions of cnnlab. Each message says what was given, what is allowed, and the way out."""

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
    """What every error of this library that is not a plain `ValueError` or `TypeError` inherits from."""


class DataError(CnnlabError, ValueError):
    """The data cannot be trained on as they are: a broken image, a missing folder, an impossible label."""


class DownloadError(CnnlabError, OSError):
    """A data set or a weights file is neither on this machine nor to be had from the network."""


class CheckpointError(CnnlabError):
    """A checkpoint is damaged, is not one of ours, or belongs to another model."""


class NonFiniteError(CnnlabError, ArithmeticError):
    """A loss or a gradient became NaN or infinite; the weights are those from before the bad batch."""


class OutOfMemory(CnnlabError, RuntimeError):
    """A batch did not fit into the memory of the device; the weights are those from before it."""


class ClaimNotSupported(CnnlabError, AssertionError):
    """The measured interval does not support the sentence that was claimed."""

"""Set training and evaluation mode, and restore it afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def train_mode(model: nn.Module) -> nn.Module:
    """Put a model in training mode, but every frozen batch norm in evaluation mode.

    A batch norm whose weight and bias are frozen keeps its running statistics and uses them, so a frozen part
    computes the same in training as in use. This is Keras' rule; it is read off the parameters each time, so
    neither `train()` nor a resumed run can undo it. A norm without parameters (`affine=False`) belongs to the
    smallest module around it that has some, and is frozen with it: all that `state_dict` shows of a frozen
    module stays as it is.

    Args:
        model: changed in place.

    Returns:
        The same model.

    >>> norm = nn.BatchNorm2d(4).requires_grad_(False)
    >>> train_mode(nn.Sequential(norm, nn.ReLU())).training, norm.training
    (True, False)
    """
    model.train()
    for norm in frozen_norms(model):
        norm.eval()
    return model


def frozen_norms(model: nn.Module, frozen: bool = False) -> Iterator[nn.Module]:
    """Yield the norms with running statistics that `train_mode` leaves in evaluation mode.

    Args:
        model: the module to look through.
        frozen: whether what lies around it is.
    """
    parameters = list(model.parameters())
    if parameters:
        frozen = not any(p.requires_grad for p in parameters)
    if frozen and isinstance(model, nn.modules.batchnorm._NormBase):
        yield model
    for child in model.children():
        yield from frozen_norms(child, frozen)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Put a model in evaluation mode for a while; every module goes back to the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training


class rollback_norm_stats:
    """A context that restores the running statistics of batch-norm layers if the block raises an error.

    It can be entered many times, and searches the model only once.
    """

    def __init__(self, model: nn.Module) -> None:
        norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
        self.buffers = [b for norm in norms for b in norm.buffers(recurse=False)]

    def __enter__(self) -> None:
        self.saved = [b.clone() for b in self.buffers]

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            with torch.no_grad():
                for buffer, saved in zip(self.buffers, self.saved, strict=True):
                    buffer.copy_(saved)

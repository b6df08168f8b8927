"""Freeze and unfreeze parts of a model."""

from typing import TypeVar

from torch import nn

from cnnlab.training.modes import check_model


M = TypeVar("M", bound=nn.Module)


def freeze(module: M) -> M:
    """Freeze a module: set `requires_grad` to False and the gradient to None for its parameters.

    The parameters may stay in the optimizer. A gradient that wasn't removed would still be applied
    at the next step, together with its momentum. If you write your own training loop, call
    `train_mode(model)` instead of `model.train()`, as `Trainer` does. Otherwise the batch-norm
    layers of the module would keep updating their running statistics.

    Returns:
        The same module.

    Raises:
        TypeError: it isn't a module.

    >>> [p.requires_grad for p in freeze(nn.Linear(2, 1)).parameters()]
    [False, False]
    """
    check_model(module, "what is frozen")
    for parameter in module.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None
    return module


def unfreeze(module: M) -> M:
    """Unfreeze a module: set `requires_grad` to True for all its parameters.

    Returns:
        The same module.

    Raises:
        TypeError: it isn't a module.

    >>> all(p.requires_grad for p in unfreeze(freeze(nn.Linear(2, 2))).parameters())
    True
    """
    check_model(module, "what is unfrozen")
    for parameter in module.parameters():
        if not parameter.requires_grad:
            parameter.requires_grad_(True)
            parameter.grad = None
    return module

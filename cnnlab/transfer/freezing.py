"""Stop and resume the training of a part of a model."""

from typing import TypeVar

from torch import nn


M = TypeVar("M", bound=nn.Module)


def freeze(module: M) -> M:
    """Stop training a module: its parameters want no gradient, and lose the one they have.

    A gradient left behind would still be applied, and so would the momentum that it feeds. The parameters may
    stay in the optimizer. In a loop of your own call `train_mode(model)` instead of `model.train()`, as
    `Trainer` does: else the module's batch norms go on adapting their statistics.

    Returns:
        The same module.

    >>> [p.requires_grad for p in freeze(nn.Linear(2, 1)).parameters()]
    [False, False]
    """
    for parameter in module.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None
    return module


def unfreeze(module: M) -> M:
    """Train all parameters of a module again, beginning without a gradient.

    Returns:
        The same module.

    >>> all(p.requires_grad for p in unfreeze(freeze(nn.Linear(2, 2))).parameters())
    True
    """
    for parameter in module.parameters():
        if not parameter.requires_grad:
            parameter.requires_grad_(True)
            parameter.grad = None
    return module

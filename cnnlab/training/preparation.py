"""Bring loss and optimizer to the device and the number type of the model."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab.losses import CROSS_ENTROPIES, LossFn


def prepare_loss(loss_fn: Any, model: nn.Module, device: torch.device) -> LossFn:
    """Return the loss, by default the cross-entropy, with its class weights on the device.

    Class weights may be a list, a numpy array or a tensor of any number type.
    """
    if loss_fn is None:
        return F.cross_entropy
    dtype = weights_dtype(model)
    if isinstance(loss_fn, nn.Module):
        loss_fn.to(device)
        weight = getattr(loss_fn, "weight", None)
        if isinstance(weight, Tensor) and weight.dtype != dtype and not list(loss_fn.parameters()):
            loss_fn.to(dtype)
    elif isinstance(loss_fn, partial) and loss_fn.func in CROSS_ENTROPIES:
        weight = loss_fn.keywords.get("weight")
        if weight is not None:
            on_device = torch.as_tensor(weight).to(device, dtype)
            return partial(loss_fn.func, *loss_fn.args, **loss_fn.keywords | {"weight": on_device})
    return loss_fn


def weights_dtype(model: nn.Module) -> torch.dtype:
    """Return the number type of the first weights of a model; float32 if it has none."""
    parameters = (p for p in model.parameters() if p.is_floating_point())
    return next((p.dtype for p in parameters), torch.float32)


def takes_indices(model: nn.Module) -> bool:
    """Return whether the first layer is an embedding, so that integers aren't images in 0..255."""
    layers = (m for m in model.modules() if list(m.parameters(recurse=False)))
    return isinstance(next(layers, None), nn.Embedding)


def move_state(optimizer: torch.optim.Optimizer) -> None:
    """Move what an optimizer remembers of each parameter to the device of the parameter."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.ndim and value.device != parameter.device:
                state[name] = value.to(parameter.device)

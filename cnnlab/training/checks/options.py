"""Checks before anything runs: the options of the trainer."""

from collections.abc import Mapping
from functools import partial
from numbers import Real
from operator import index
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from cnnlab.training import distributed


Options = Any  # `TrainerOptions`, which this file checks and so can't import
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def check_options(options: Options, device: torch.device) -> None:
    """Refuse options that contradict each other or don't exist on the device.

    Raises:
        TypeError: an option has the wrong type.
        ValueError: everything else.
    """
    _check_types(options)
    _check_belongs_together(options)
    loss_fn = options.loss_fn
    settings = (
        loss_fn.keywords if isinstance(loss_fn, partial) else getattr(loss_fn, "__dict__", {})
    )
    if settings.get("reduction") == "sum":
        raise ValueError(
            "loss_fn sums the losses of a batch, so the size of a step would depend on the batch "
            "size: "
            'leave out reduction="sum"'
        )
    if options.clip_norm is not None and options.clip_value is not None:
        raise ValueError("use either clip_norm or clip_value, not both; clip_norm=1.0 is common")
    for name in ("clip_norm", "clip_value"):
        value = getattr(options, name)
        if value is not None and not (isinstance(value, Real) and float(value) > 0):
            raise ValueError(
                f"{name} must be a positive number, got {value!r}; leave it out to clip nothing"
            )
    if options.microbatch is not None:
        positive_int("microbatch", options.microbatch, "a number of samples")
    if options.precision not in PRECISIONS:
        names = ", ".join(map(repr, PRECISIONS))
        raise ValueError(f"precision must be one of {names}; got {options.precision!r}")
    if options.precision == "fp16" and device.type != "cuda":
        raise ValueError(
            f"fp16 needs a CUDA device and this one is {device.type}: use bf16 or fp32"
        )
    if device.type == "mps":
        _check_mps(options.model)


def _check_mps(model: nn.Module) -> None:
    """Refuse what Apple's GPUs can't do."""
    if distributed.launched():
        raise ValueError(
            "several processes can't train together on MPS, which can't exchange gradients: use "
            "device='cpu', or start Python without torchrun"
        )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.dtype in (torch.float64, torch.complex128):
            raise ValueError(
                f"{name} is {tensor.dtype}, which doesn't exist on MPS: convert the model with "
                "model.float(), or use device='cpu'"
            )


def _check_types(options: Options) -> None:
    kinds = {"model": nn.Module, "optimizer": torch.optim.Optimizer}
    for name, kind in kinds.items():
        value = getattr(options, name)
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be a torch {kind.__name__}, got {value!r:.60}")
    if isinstance(options.optimizer, torch.optim.LBFGS):
        raise TypeError(
            "LBFGS evaluates the loss several times per step, which the trainer doesn't do: use "
            "SGD, Adam or AdamW, or write your own loop"
        )
    check_loss_type(options.loss_fn)
    for name in ("ema", "scheduler", "plateau"):
        value = getattr(options, name)
        if isinstance(value, type):
            raise TypeError(f"{name} is the class {value.__name__}: create it first")
    if not (options.ema is None or hasattr(options.ema, "update")):
        raise TypeError(f"ema must be a cnnlab.averaging.EMA(model), got {options.ema!r:.60}")
    if hasattr(type(options.ema), "on_step_end"):  # such as SWA
        name = type(options.ema).__name__
        raise TypeError(
            f"{name} is a callback: pass it as callbacks=[...]; ema= takes an EMA(model)"
        )
    callbacks = options.callbacks
    if not isinstance(callbacks, list | tuple) or not all(
        hasattr(type(callback), "on_step_end") and hasattr(callback, "order")
        for callback in callbacks
    ):
        raise TypeError(
            f"callbacks must be a list of callbacks, objects of a subclass of cnnlab.Callback, got "
            f"{callbacks!r:.60}"
        )
    if len({id(callback) for callback in callbacks}) < len(callbacks):
        raise ValueError("a callback is listed twice, so it would count each epoch twice")
    if not (options.plateau is None or hasattr(options.plateau, "mode")):
        raise TypeError(
            f"plateau must be a cnnlab.schedules.Plateau(optimizer), got {options.plateau!r:.60}"
        )
    if not (options.scheduler is None or hasattr(options.scheduler, "step")):
        raise TypeError(
            "scheduler must be attached to the optimizer, and a schedule alone is only a function: "
            "use cnnlab.schedules.attach(optimizer, schedule)"
        )
    if isinstance(options.scheduler, ReduceLROnPlateau):
        raise TypeError(
            "scheduler steps once per optimizer update, and ReduceLROnPlateau once per epoch: "
            "pass it as plateau="
        )
    metrics = options.metrics
    if metrics is not None and not (
        isinstance(metrics, Mapping) and all(map(callable, metrics.values()))
    ):
        raise TypeError(
            "metrics must be a dictionary from names to functions (outputs, targets) -> mean, "
            f"such as {{'mae': torch.nn.functional.l1_loss}}; got {metrics!r:.60}"
        )
    for name in metrics or ():
        if not (isinstance(name, str) and name):
            raise TypeError(f"the name of a metric must be a string such as 'mae', got {name!r}")
    if metrics and (taken := {"loss", "acc"} & set(metrics)):
        raise ValueError(
            f"the name {min(taken)!r} is taken by the trainer: give the metric another name"
        )


def check_loss_type(loss_fn: Any) -> None:
    """Refuse a class, or something that can't be called, as a loss."""
    if isinstance(loss_fn, type):
        raise TypeError(f"loss_fn is the class {loss_fn.__name__}: create it, {loss_fn.__name__}()")
    if not (loss_fn is None or callable(loss_fn)):
        raise TypeError(
            f"loss_fn must be a function (outputs, targets) -> loss, got {loss_fn!r:.60}"
        )


def _check_belongs_together(options: Options) -> None:
    for name in ("scheduler", "plateau"):
        controlled = getattr(getattr(options, name), "optimizer", options.optimizer)
        if controlled is not options.optimizer:
            raise ValueError(
                f"the {name} controls a different optimizer and would have no effect; create it "
                "from this one"
            )
    source = getattr(options.ema, "source", options.model)
    if source not in (options.model, getattr(options.model, "_orig_mod", None)):
        raise ValueError("the ema averages a different model; create it from this one: EMA(model)")
    if options.scheduler is not None and options.plateau is not None:
        raise ValueError(
            "use either scheduler or plateau, not both: at its next step the scheduler would "
            "overwrite the learning rate that plateau has set"
        )


def positive_int(name: str, value: Any, meaning: str) -> int:
    """Return an integer, also one of numpy's, that is at least 1."""
    try:
        number = index(value)
    except TypeError:
        number = 0
    if isinstance(value, bool) or number < 1:
        raise ValueError(f"{name} must be {meaning}, at least 1; got {value!r}")
    return number


def as_device(device: Any) -> torch.device:
    """Return the device, if this machine has it.

    Raises:
        ValueError: there is no such device here, or no such kind of device.
    """
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise ValueError(
            f"there is no device {device!r} here ({reason}); leave out device= to get the best "
            "one, or use 'cpu'"
        ) from None
    return chosen

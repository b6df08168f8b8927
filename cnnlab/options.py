"""Checks of a trainer, its loader and its optimizer before the first step."""

from functools import partial
from numbers import Real
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from cnnlab.batches import check_batches, last_batch
from cnnlab.errors import DataError
from cnnlab.guards import class_weights


PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def check_options(
    *,
    model: Any,
    optimizer: Any,
    loss_fn: Any,
    scheduler: Any,
    plateau: Any,
    ema: Any,
    callbacks: Any,
    clip_norm: float | None,
    clip_value: float | None,
    precision: str,
    microbatch: int | None,
    device: torch.device,
) -> None:
    """Refuse options of the trainer that contradict each other or do not exist here.

    Raises:
        TypeError: the scheduler is a bare function, or another argument is of another kind.
        ValueError: everything else.
    """
    for name, value, kind in (
        ("model", model, nn.Module),
        ("optimizer", optimizer, torch.optim.Optimizer),
    ):
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be a torch {kind.__name__}, got {value!r:.60}")
    if not (loss_fn is None or callable(loss_fn)):
        raise TypeError(f"loss_fn takes a function (logits, targets) -> loss, got {loss_fn!r:.60}")
    if not (ema is None or hasattr(ema, "update")):
        raise TypeError(f"ema= takes cnnlab.averaging.EMA(model), got {ema!r:.60}")
    are_callbacks = isinstance(callbacks, list | tuple) and all(
        hasattr(type(c), "on_step_end") for c in callbacks
    )
    if not are_callbacks:
        raise TypeError(f"callbacks= takes a list of callbacks, got {callbacks!r:.60}")
    if plateau is not None and not hasattr(plateau, "mode"):
        raise TypeError(f"plateau= takes cnnlab.schedules.Plateau(optimizer), got {plateau!r:.60}")
    if scheduler is not None and not hasattr(scheduler, "step"):
        raise TypeError(
            "scheduler= takes a scheduler that is attached to the optimizer; a schedule alone is a "
            "function: pass cnnlab.schedules.attach(optimizer, schedule)"
        )
    if isinstance(scheduler, ReduceLROnPlateau):
        raise TypeError("scheduler= steps once an update; give ReduceLROnPlateau as plateau=")
    for name, steered in {"scheduler": scheduler, "plateau": plateau}.items():
        if steered is not None and getattr(steered, "optimizer", optimizer) is not optimizer:
            raise ValueError(
                f"the {name} is attached to another optimizer, so it would change nothing here; make it of this one"
            )
    if ema is not None and getattr(ema, "source", model) is not model:
        raise ValueError("the ema averages another model; make it of this one: EMA(model)")
    given = loss_fn.keywords if isinstance(loss_fn, partial) else getattr(loss_fn, "__dict__", {})
    if given.get("reduction") == "sum":
        raise ValueError(
            "loss_fn adds up the losses of a batch, and the size of a step would depend on how many there are: "
            'leave out reduction="sum"'
        )
    if scheduler is not None and plateau is not None:
        raise ValueError(
            "scheduler and plateau together: at its next step the scheduler would erase what plateau "
            "did to the rate; choose one"
        )
    if clip_norm is not None and clip_value is not None:
        raise ValueError("clip_norm and clip_value together; choose one, clip_norm=1.0 is usual")
    for name, value in {"clip_norm": clip_norm, "clip_value": clip_value}.items():
        if value is not None and not (isinstance(value, Real) and value > 0):
            raise ValueError(
                f"{name} must be a positive number, got {value!r}; leave it out to clip nothing"
            )
    if microbatch is not None and not (isinstance(microbatch, int) and microbatch >= 1):
        raise ValueError(f"microbatch counts samples, at least 1; got {microbatch!r}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision may be {', '.join(map(repr, PRECISIONS))}; got {precision!r}")
    if precision == "fp16" and device.type != "cuda":
        raise ValueError(f"fp16 needs a CUDA device, this is {device.type}: use bf16 or fp32")


def as_device(device: Any) -> torch.device:
    """Return the device, if this machine has it.

    Raises:
        ValueError: it has not, or there is no such kind of device.
    """
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise ValueError(
            f"no device {device!r} here ({reason}); leave device= out for the best there is, or use 'cpu'"
        ) from None
    return found


def memory_layout(channels_last: bool, precision: str, device: torch.device) -> torch.memory_format:
    """Return how weights and images are laid out: as they come, unless channels_last is wanted.

    With bf16 on a processor the channels always stay outside. There a convolution over channels-last maps of one
    pixel (torch 2.15) never writes the gradient of the weights that saw nothing but padding: it is whatever was in
    the memory before.

    >>> memory_layout(True, "fp32", torch.device("cpu")), memory_layout(True, "bf16", torch.device("cpu"))
    (torch.channels_last, torch.contiguous_format)
    """
    if precision != "fp32" and device.type == "cpu":
        return torch.contiguous_format
    return torch.channels_last if channels_last else torch.preserve_format


def check_loader(loader: Any, model: nn.Module) -> None:
    """Refuse a training loader that would give nothing, or a last batch that batch norm cannot use.

    Raises:
        TypeError: it cannot be iterated over.
        DataError: there is no batch, or the last one would hold a single image.
    """
    check_batches(loader)
    normalises = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    if normalises and last_batch(loader) == 1 and loader.batch_size != 1:
        raise DataError(
            f"the loader cuts its samples into batches of {loader.batch_size} and leaves a last batch of one, "
            "which batch norm cannot normalise: use drop_last=True or another batch size"
        )


def check_balance(loader: Any, loss_fn: Any) -> None:
    """Refuse class weights that are not positive, and those that correct an imbalance for the second time.

    Raises:
        ValueError: a weight is 0 or less, or the loader has a weighted sampler and the loss class weights.
    """
    weights = class_weights(loss_fn)
    if weights is not None and not (weights > 0).all():
        raise ValueError(
            f"class weights must be positive, got {weights.tolist()}: a batch of classes that weigh nothing "
            "has no mean loss; leave such classes out of the data"
        )
    sampler = getattr(loader, "sampler", None)
    weighs = weights is not None or getattr(loss_fn, "weight", None) is not None
    if weighs and hasattr(sampler, "weights"):
        raise ValueError(
            f"{type(sampler).__name__} and class weights together correct the imbalance twice, and the rare "
            "classes win too often: leave out the sampler, or the weight of the loss"
        )


def check_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss_fn: Any = None
) -> None:
    """Refuse an optimizer that would move nothing of the model, or only what the model once was.

    Raises:
        ValueError: everything is frozen, or the optimizer was made for another model.
    """
    losses = loss_fn.parameters() if isinstance(loss_fn, nn.Module) else ()
    own = {id(p): p for p in model.parameters()}
    held = {id(p): p for group in optimizer.param_groups for p in group["params"]}
    if not own.keys() & held.keys():
        raise ValueError(
            "the optimizer holds no parameter of this model; make it anew from model.parameters()"
        )
    strange = held.keys() - own.keys() - {id(p) for p in losses}
    left_out = [n for n, p in model.named_parameters() if p.requires_grad and id(p) not in held]
    if strange and left_out:
        raise ValueError(
            f"the optimizer holds {len(strange)} tensors that the model has not, and lacks {left_out[0]}: the model "
            "has changed since. Make the optimizer after replace_head"
        )
    if not any(p.requires_grad for p in held.values()):
        raise ValueError("every parameter is frozen, there is nothing to train: unfreeze a part")

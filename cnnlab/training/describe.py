"""Print a trainer as the loop that it runs, with its options filled in."""

from functools import partial
from typing import Any

from torch import Tensor, nn

from cnnlab.augment import Augment
from cnnlab.training.options import TrainerOptions


def describe(options: TrainerOptions) -> str:
    """Return the training loop that belongs to some options as Python-like text, without the steps that its options leave out.

    >>> import torch
    >>> from cnnlab.training.options import TrainerOptions
    >>> model = nn.Linear(2, 2)
    >>> print(describe(TrainerOptions(model, torch.optim.SGD(model.parameters(), lr=0.1), clip_norm=1.0)))
    for epoch in range(epochs):
        model.train()  # Linear, 6 parameters, on cpu
        for images, targets in train:
            optimizer.zero_grad()
            loss = cross_entropy(model(images), targets)
            loss.backward()
            clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()  # SGD, lr=0.1
        evaluate(model, valid)
    """
    epoch = _lines(
        (1, "model.train()", f"{_model(options.model)}, on {options.device}"),
        (1, "for images, targets in train:", ""),
        *((2, f"images, targets = {name}", "") for name in _transforms(options.batch_transform)),
        *_forward_backward(options),
        *_optimizer_step(options),
        (1, "evaluate(model, valid)", ""),
        (1, "evaluate(ema.model, valid)", "") if options.ema is not None else None,
        (1, f"plateau.step({_monitored(options.plateau)})", _name(options.plateau))
        if options.plateau is not None
        else None,
        *((1, "callback.on_epoch_end(trainer)", _name(c)) for c in options.callbacks),
    )
    return "for epoch in range(epochs):\n" + epoch


Row = tuple[int, str, str] | None  # indentation, code, comment


def _forward_backward(options: TrainerOptions) -> list[Row]:
    rows: list[Row] = [(2, "optimizer.zero_grad()", "")]
    inner = 2
    if options.microbatch is not None:
        rows.append(
            (
                2,
                f"for images, targets in split(images, targets, {options.microbatch}):",
                "microbatches",
            )
        )
        inner += 1
    if options.low_precision is not None:
        rows.append(
            (inner, f"with torch.autocast({str(options.device)!r}, {options.low_precision}):", "")
        )
    indent = inner + (options.low_precision is not None)
    rows.append((indent, f"loss = {_loss(options.loss_fn)}", ""))
    scaled = options.precision == "fp16"
    rows.append((inner, "scaler.scale(loss).backward()" if scaled else "loss.backward()", ""))
    return rows


def _optimizer_step(options: TrainerOptions) -> list[Row]:
    scaled = options.precision == "fp16"
    optimizer = options.optimizer
    rates = sorted({float(group["lr"]) for group in optimizer.param_groups})
    rate = f"lr={rates[0]:g}" if len(rates) == 1 else f"lr={rates[0]:g} to {rates[-1]:g}"
    return [
        (2, "scaler.unscale_(optimizer)", "") if scaled else None,
        (2, f"clip_grad_norm_(model.parameters(), {options.clip_norm})", "")
        if options.clip_norm is not None
        else None,
        (2, f"clip_grad_value_(model.parameters(), {options.clip_value})", "")
        if options.clip_value is not None
        else None,
        (
            2,
            "scaler.step(optimizer)" if scaled else "optimizer.step()",
            f"{_name(optimizer)}, {rate}",
        ),
        (2, "ema.update()", f"decay={getattr(options.ema, 'decay', '?')}")
        if options.ema is not None
        else None,
        (2, "scheduler.step()", _schedule(options.scheduler))
        if options.scheduler is not None
        else None,
    ]


def _lines(*rows: Row) -> str:
    return "\n".join(
        "    " * indent + code + (f"  # {comment}" if comment else "")
        for indent, code, comment in filter(None, rows)
    )


def _model(model: nn.Module) -> str:
    size = sum(p.numel() for p in model.parameters())
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    return f"{_name(model)}, {size:,} parameters" + (f" ({frozen:,} frozen)" if frozen else "")


def _transforms(transform: Any) -> list[str]:
    """Return a call for each batch transform, in the order in which they are applied."""
    if transform is None:
        return []
    if isinstance(transform, list | tuple):
        return [call for part in transform for call in _transforms(part)]
    if isinstance(transform, Augment):
        return ["augment(images), targets"]
    return [f"{_name(transform)}(images, targets)"]


def _loss(loss_fn: Any) -> str:
    """Return the call of the loss, with the options that `functools.partial` has fixed."""
    options = loss_fn.keywords if isinstance(loss_fn, partial) else {}
    fixed = [f"{k}={'...' if isinstance(v, Tensor) else repr(v)}" for k, v in options.items()]
    arguments = ", ".join(["model(images)", "targets", *fixed])
    return f"{_name(loss_fn) or 'cross_entropy'}({arguments})"


def _schedule(scheduler: Any) -> str:
    schedule = getattr(scheduler, "schedule", None)
    return _name(schedule if schedule is not None else scheduler)


def _monitored(plateau: Any) -> str:
    return "valid_acc" if getattr(plateau, "mode", "min") == "max" else "valid_loss"


def _name(thing: Any) -> str:
    """Return the name of a function, or of the class of anything else.

    >>> _name(partial(print)), _name(nn.ReLU()), _name(None)
    ('print', 'ReLU', '')
    """
    if thing is None:
        return ""
    if isinstance(thing, partial):
        return _name(thing.func)
    name = getattr(thing, "__qualname__", None) or type(thing).__qualname__
    return name.partition(".<locals>")[0].rpartition(".")[2]

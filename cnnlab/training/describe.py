"""Print a trainer as the loop that it runs, with its options filled in."""

from functools import partial
from typing import Any

from torch import Tensor, nn

from cnnlab.augment import Augment
from cnnlab.training.options import TrainerOptions


def describe(options: TrainerOptions) -> str:
    """Return the training loop as Python-like text, with only the steps that the options turn on.

    >>> import torch
    >>> from cnnlab.training.options import TrainerOptions
    >>> model = nn.Linear(2, 2)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> print(describe(TrainerOptions(model, optimizer, clip_norm=1.0, device="cpu")))
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
    epoch = [
        f"model.train()  # {_model(options.model)}, on {options.device}",
        "for images, targets in train:",
        *_indented(_step(options)),
        "evaluate(model, valid)",
    ]
    if options.ema is not None:
        epoch.append("evaluate(ema.model, valid)")
    if options.plateau is not None:
        metric = "valid_acc" if options.plateau.mode == "max" else "valid_loss"
        epoch.append(f"plateau.step({metric})  # {_name(options.plateau)}")
    epoch += [f"callback.on_epoch_end(trainer)  # {_name(c)}" for c in options.callbacks]
    return "\n".join(["for epoch in range(epochs):", *_indented(epoch)])


def _step(options: TrainerOptions) -> list[str]:
    """Return the lines of one step, from the batch to the scheduler."""
    scaled = options.precision == "fp16"
    lines = [f"images, targets = {call}" for call in _transforms(options.batch_transform)]
    lines.append("optimizer.zero_grad()")
    lines += _forward_backward(options)
    if scaled:
        lines.append("scaler.unscale_(optimizer)")
    if options.clip_norm is not None:
        lines.append(f"clip_grad_norm_(model.parameters(), {options.clip_norm})")
    if options.clip_value is not None:
        lines.append(f"clip_grad_value_(model.parameters(), {options.clip_value})")
    call = "scaler.step(optimizer)" if scaled else "optimizer.step()"
    lines.append(f"{call}  # {_name(options.optimizer)}, {_learning_rates(options)}")
    if options.ema is not None:
        lines.append(f"ema.update()  # {_name(options.ema)}")
    if options.scheduler is not None:
        schedule = getattr(options.scheduler, "schedule", options.scheduler)
        lines.append(f"scheduler.step()  # {_name(schedule)}")
    return lines


PART = "model(images_part), targets_part"


def _forward_backward(options: TrainerOptions) -> list[str]:
    lines = [f"loss = {_loss(options.loss_fn)}"]
    if options.low_precision is not None:
        autocast = f"with torch.autocast({str(options.device)!r}, {options.low_precision}):"
        lines = [autocast, *_indented(lines)]
    lines.append(
        "scaler.scale(loss).backward()" if options.precision == "fp16" else "loss.backward()"
    )
    if options.microbatch is not None:
        lines = [line.replace("model(images), targets", PART) for line in lines]
        lines[-1] = lines[-1].replace("loss", "(loss * len(targets_part) / len(targets))", 1)
        split = f"zip(images.split({options.microbatch}), targets.split({options.microbatch}))"
        lines = [f"for images_part, targets_part in {split}:", *_indented(lines)]
    return lines


def _indented(lines: list[str]) -> list[str]:
    return ["    " + line for line in lines]


def _learning_rates(options: TrainerOptions) -> str:
    rates = sorted({float(group["lr"]) for group in options.optimizer.param_groups})
    return f"lr={rates[0]:g}" if len(rates) == 1 else f"lr={rates[0]:g} to {rates[-1]:g}"


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
    return name.partition(".<locals>")[0].rpartition(".")[2].lstrip("_")  # cosine.<locals>.<lambda>

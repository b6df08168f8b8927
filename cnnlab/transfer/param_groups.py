"""Parameter groups for an optimizer, with learning rates per stage and selective weight decay."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from cnnlab.errors import holds
from cnnlab.models.parts import stages as split
from cnnlab.training.checks.wording import few


# A module, or a list of modules and parameters.
Stage = nn.Module | Sequence[nn.Module | nn.Parameter]


def param_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float = 0.0,
    *,
    layer_decay: float | None = None,
    head_lr: float | None = None,
    stages: Sequence[Stage] | None = None,
) -> list[dict[str, Any]]:
    """Return parameter groups with smaller learning rates for lower stages.

    The stage d steps below the head (which has d = 0) gets the learning rate lr · layer_decay^d.
    Biases and all other one-dimensional parameters, such as the scale of a batch-norm layer, get no
    weight decay. Every parameter is in exactly one group, even if it is frozen, so you can unfreeze
    it later without changing the optimizer. Freezing doesn't change the depth of other stages.

    Args:
        model: any model that `models.stages` can split, or any model at all with `stages`.
        lr: learning rate of the head.
        weight_decay: for the weights of convolutions and linear layers.
        layer_decay: factor from each stage to the one below it, above 0 and at most 1; 0.5 to 0.9
            is common. By default all stages have the same learning rate.
        head_lr: a different learning rate for the head; it doesn't change the stages below.
        stages: your own stages from bottom to top, by default `models.stages(model)`. Each is a
            module, or a list of modules and parameters, and together they hold every parameter. A
            parameter in two of them belongs to the one closer to the head.

    Returns:
        Groups with `params`, `lr`, `weight_decay` and `name`, starting with the head. A schedule
        from `schedules.attach` keeps the ratios of their learning rates.

    Raises:
        ValueError: a value is out of range, `models.stages` can't split the model, or your stages
            lack a parameter or have one of another model.
        TypeError: a stage is neither a module nor a list of modules and parameters.

    Howard & Ruder 2018, section 3.2, https://arxiv.org/abs/1801.06146 (factor 1 / 2.6);
    Clark et al. 2020, https://arxiv.org/abs/2003.10555 (0.8 to 0.9).

    >>> model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 2))
    >>> groups = param_groups(model, lr=0.1, layer_decay=0.5)
    >>> [(g["name"], g["lr"], len(g["params"])) for g in groups]
    [('head', 0.1, 1), ('head, no decay', 0.1, 1), ('head - 1', 0.05, 1)]
    """
    factor = 1.0 if layer_decay is None else layer_decay
    if not holds(lambda: 0 < factor <= 1):
        raise ValueError(f"layer_decay must be above 0 and at most 1, got {layer_decay!r}")
    rates = (lr, lr if head_lr is None else head_lr)
    if not holds(lambda: all(0 < r < math.inf for r in rates) and 0 <= weight_decay < math.inf):
        raise ValueError(
            "learning rates must be positive and weight_decay must not be negative; got "
            f"lr={lr!r}, head_lr={head_lr!r} and weight_decay={weight_decay!r}"
        )
    listed = [_parameters(stage) for stage in (split(model) if stages is None else stages)]
    _check_complete(model, listed)
    names = {id(p): name for name, p in model.named_parameters()}
    # A parameter that two stages share belongs to the one closer to the head.
    groups, grouped = [], set[int]()
    for depth, parameters in enumerate(reversed(listed)):
        stage_lr = head_lr if depth == 0 and head_lr is not None else lr * factor**depth
        named = [(names[id(p)], p) for p in parameters if id(p) not in grouped]
        grouped |= {id(p) for _, p in named}
        groups += _split_by_decay(
            named, f"head - {depth}" if depth else "head", stage_lr, weight_decay
        )
    return groups


def _parameters(stage: Stage) -> list[nn.Parameter]:
    """Return the parameters of a stage, each once."""
    parts = [stage] if isinstance(stage, nn.Module) else stage
    if not isinstance(parts, list | tuple) or not all(
        isinstance(part, nn.Module | nn.Parameter) for part in parts
    ):
        raise TypeError(
            "a stage must be a module, or a list of modules and parameters, such as "
            f"[model.conv1, model.bn1]; got {stage!r:.60}"
        )
    parameters: dict[int, nn.Parameter] = {}
    for part in parts:
        for parameter in [part] if isinstance(part, nn.Parameter) else part.parameters():
            parameters[id(parameter)] = parameter
    return list(parameters.values())


def _check_complete(model: nn.Module, listed: Sequence[Sequence[nn.Parameter]]) -> None:
    """Refuse stages that don't hold exactly the parameters of the model."""
    own = {id(p): name for name, p in model.named_parameters()}
    held = {id(p) for parameters in listed for p in parameters}
    missing = [name for number, name in own.items() if number not in held]
    if missing:
        raise ValueError(
            f"stages= lacks {len(missing)} parameters of the model, {few(missing)}: every "
            "parameter must be in a stage, even if it is frozen"
        )
    if held - own.keys():
        raise ValueError(
            f"stages= has {len(held - own.keys())} parameters that are not in the model; take the "
            "stages from the same model, after replace_head"
        )


def _split_by_decay(
    named: Sequence[tuple[str, Tensor]], name: str, lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Return one group with weight decay and one without, leaving out empty groups."""
    not_decayed = [p for n, p in named if p.ndim <= 1 or n.endswith("bias")]
    decayed = [p for n, p in named if not (p.ndim <= 1 or n.endswith("bias"))]
    groups = [
        {"params": decayed, "lr": lr, "weight_decay": weight_decay, "name": name},
        {"params": not_decayed, "lr": lr, "weight_decay": 0.0, "name": f"{name}, no decay"},
    ]
    return [group for group in groups if group["params"]]

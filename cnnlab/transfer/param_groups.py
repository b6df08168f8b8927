"""Parameter groups for an optimizer, with learning rates per stage and selective weight decay."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from cnnlab.models import stages


def param_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float = 0.0,
    *,
    layer_decay: float | None = None,
    head_lr: float | None = None,
) -> list[dict[str, Any]]:
    """Return parameter groups with smaller learning rates for lower stages.

    The stage d steps below the head (which has d = 0) gets the learning rate lr · layer_decay^d.
    Biases and all other one-dimensional parameters, such as the scale of a batch-norm layer, get no
    weight decay. Every parameter is in exactly one group, even if it is frozen, so you can unfreeze
    it later without changing the optimizer. Freezing doesn't change the depth of other stages.

    Args:
        model: a model that `models.stages` can split.
        lr: learning rate of the head.
        weight_decay: for the weights of convolutions and linear layers.
        layer_decay: factor from each stage to the one below it, above 0 and at most 1; 0.5 to 0.9
            is common. By default all stages have the same learning rate.
        head_lr: a different learning rate for the head; it doesn't change the stages below.

    Returns:
        Groups with `params`, `lr`, `weight_decay` and `name`, starting with the head. A schedule
        from `schedules.attach` keeps the ratios of their learning rates.

    Raises:
        ValueError: a value is out of range, or `models.stages` can't split the model.

    Howard & Ruder 2018, section 3.2, https://arxiv.org/abs/1801.06146 (factor 1 / 2.6);
    Clark et al. 2020, https://arxiv.org/abs/2003.10555 (0.8 to 0.9).

    >>> model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 2))
    >>> groups = param_groups(model, lr=0.1, layer_decay=0.5)
    >>> [(g["name"], g["lr"], len(g["params"])) for g in groups]
    [('head', 0.1, 1), ('head, no decay', 0.1, 1), ('head - 1', 0.05, 1)]
    """
    factor = 1.0 if layer_decay is None else layer_decay
    if not 0 < factor <= 1:
        raise ValueError(f"layer_decay must be above 0 and at most 1, got {layer_decay}")
    if not (lr > 0 and weight_decay >= 0 and (head_lr is None or head_lr > 0)):
        raise ValueError(
            "learning rates must be positive and weight_decay must not be negative; got "
            f"lr={lr}, head_lr={head_lr} and weight_decay={weight_decay}"
        )
    # A parameter that two stages share belongs to the one closer to the head.
    groups, grouped = [], set[int]()
    for depth, stage in enumerate(reversed(stages(model))):
        stage_lr = head_lr if depth == 0 and head_lr is not None else lr * factor**depth
        named = [(n, p) for n, p in stage.named_parameters() if id(p) not in grouped]
        grouped |= {id(p) for _, p in named}
        groups += _split_by_decay(
            named, f"head - {depth}" if depth else "head", stage_lr, weight_decay
        )
    return groups


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

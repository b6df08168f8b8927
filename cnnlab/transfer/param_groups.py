"""Parameter groups for an optimizer: smaller learning rates towards the bottom, no weight decay where it does harm."""

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
    """Return parameter groups for an optimizer: smaller rates towards the bottom, no decay where it does harm.

    The stage at depth d below the head (d = 0) gets the rate lr * layer_decay^d. Biases and everything with
    one dimension, such as the scale of a norm, get no weight decay. Every parameter is in exactly one group,
    the frozen ones too, and freezing does not change the depth of others: what is unfrozen later is ready.

    Args:
        model: split by `models.stages`.
        lr: rate of the head.
        weight_decay: of the weights of convolutions and linear layers.
        layer_decay: factor from each stage to the one below it, above 0 and at most 1; 0.5 to 0.9 are usual.
        head_lr: another rate for the head alone; the stages below it keep those they have.

    Returns:
        Groups with `params`, `lr`, `weight_decay` and `name`, the head first. A schedule of
        `schedules.attach` keeps the ratios of their rates.

    Raises:
        ValueError: a number is outside of its range, or `models.stages` cannot split the model.

    Howard & Ruder 2018, section 3.2, https://arxiv.org/abs/1801.06146 (factor 1 / 2.6); Clark et al. 2020,
    https://arxiv.org/abs/2003.10555 (0.8 to 0.9).

    >>> groups = param_groups(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), lr=0.1, layer_decay=0.5)
    >>> [(g["name"], g["lr"], len(g["params"])) for g in groups]
    [('head', 0.1, 1), ('head, no decay', 0.1, 1), ('head - 1', 0.05, 1), ('head - 1, no decay', 0.05, 1)]
    """
    factor = 1.0 if layer_decay is None else layer_decay
    if not 0 < factor <= 1:
        raise ValueError(f"layer_decay must be above 0 and at most 1, got {layer_decay}")
    if not (lr > 0 and weight_decay >= 0 and (head_lr is None or head_lr > 0)):
        raise ValueError(
            f"rates must be positive and weight_decay not negative; got lr={lr}, head_lr={head_lr} and "
            f"weight_decay={weight_decay}"
        )
    groups, seen = [], set[int]()
    for depth, stage in enumerate(reversed(stages(model))):
        rate = head_lr if depth == 0 and head_lr is not None else lr * factor**depth
        fresh = [(n, p) for n, p in stage.named_parameters() if id(p) not in seen]
        seen |= {id(p) for _, p in fresh}
        groups += _split(fresh, f"head - {depth}" if depth else "head", rate, weight_decay)
    return groups


def _split(
    named: Sequence[tuple[str, Tensor]], name: str, lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """One group with weight decay and one without; none of them empty."""
    plain = [p for n, p in named if p.ndim <= 1 or n.endswith("bias")]
    decayed = [p for n, p in named if not (p.ndim <= 1 or n.endswith("bias"))]
    groups = [
        {"params": decayed, "lr": lr, "weight_decay": weight_decay, "name": name},
        {"params": plain, "lr": lr, "weight_decay": 0.0, "name": f"{name}, no decay"},
    ]
    return [group for group in groups if group["params"]]

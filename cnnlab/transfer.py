"""Go on with a network that was trained on something else: which strategy, what to freeze, which rates.

What its features are worth as they are is measured in `features`; those functions are here, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from torch import Tensor, nn

from cnnlab.features import Retrieval, extract_features, linear_probe, retrieval
from cnnlab.models import stages
from cnnlab.modes import train_mode


__all__ = [
    "Advice",
    "Retrieval",
    "advise",
    "extract_features",
    "freeze",
    "linear_probe",
    "param_groups",
    "retrieval",
    "train_mode",
    "unfreeze",
]

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


@dataclass(frozen=True)
class Advice:
    """What to do with a pretrained network.

    Attributes:
        strategy: "feature extraction", "top layers", "fine-tuning" or "full training".
        reason: why, in a sentence.
    """

    strategy: str
    reason: str


def advise(n_per_class: float, similarity: float | Literal["high", "low"]) -> Advice:
    """Return the strategy of the 2 x 2 rule: how much data there is, and how similar it is to the old.

    A rule of thumb to begin with, not a law: measure it against the neighbouring strategy. Chapter 10 does, and for a
    few different images the rule loses there to full training. "A few" means fewer than 100 images a class.

    | | similar | different |
    |---|---|---|
    | a few images | feature extraction | top layers |
    | many images | fine-tuning | full training |

    Args:
        n_per_class: labelled images a class.
        similarity: of the new data to those the network has learnt from, "high" or "low", or your guess as a
            number from 0 to 1; 0.5 and more counts as high.

    Raises:
        ValueError: there is less than one image a class, or the similarity is neither.

    A. Karpathy, CS231n notes, "Transfer Learning", https://cs231n.github.io/transfer-learning/; Yosinski et al.
    2014, https://arxiv.org/abs/1411.1792.

    >>> advise(10, "high").strategy
    'feature extraction'
    """
    level = (
        {"high": 1.0, "low": 0.0}.get(similarity, -1.0)
        if isinstance(similarity, str)
        else similarity
    )
    if not 0 <= level <= 1:
        raise ValueError(f"similarity is 'high', 'low' or from 0 to 1, got {similarity!r}")
    if not n_per_class >= 1:
        raise ValueError(f"n_per_class must be at least 1, got {n_per_class}")
    return _ADVICE[n_per_class >= 100, level >= 0.5]


# (many images, similar) -> what to do
_ADVICE = {
    (False, True): Advice(
        "feature extraction",
        "a few images would make a large network overfit, and its features fit already: freeze it and train "
        "a new head",
    ),
    (False, False): Advice(
        "top layers",
        "the upper features belong to the old task, but the images are too few to learn the lower ones anew: "
        "freeze the bottom, train the top stages at a small rate",
    ),
    (True, True): Advice(
        "fine-tuning",
        "there is enough to train every stage, and the old weights are close to the goal: train all at a rate "
        "10 to 100 times smaller, the head first",
    ),
    (True, False): Advice(
        "full training",
        "there is enough to learn every feature anew: train all at a usual rate, from the old weights, which "
        "are seldom worse than random ones",
    ),
}

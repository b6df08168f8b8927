"""Chapter 10: a rate for each stage, a plan for thawing them, and norms that stay frozen."""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cnnlab.course.check.core import Exercise, Mistake, Observation
from cnnlab.rng import fold_in, generator


# --- layerwise_lr ---------------------------------------------------------------------------------


def _observe_rates(attempt: Callable[..., Any], seed: int) -> Observation:
    draw = random.Random(fold_in(seed, 10, 1))
    lr, decay = 10 ** draw.uniform(-3, -1), draw.uniform(0.3, 0.8)
    n = draw.randint(4, 6)
    plans = {
        "all stages trained": [True] * n,
        "the two lowest frozen": [False, False] + [True] * (n - 2),
        "one in the middle frozen": [stage != n - 2 for stage in range(n)],
    }
    seen: dict[str, Any] = {}
    for name, trained in plans.items():
        before = list(trained)
        seen[f"rates in units of lr ({name})"] = _in_units(attempt(trained, lr, decay), lr)
        seen[f"your argument left alone ({name})"] = trained == before
    return seen


def _in_units(rates: Any, lr: float) -> Any:
    """Small rates are compared as precisely as large ones."""
    if not isinstance(rates, list | tuple):
        return rates
    return [float(rate / lr) if isinstance(rate, int | float) else rate for rate in rates]


def layerwise_lr(trained: Sequence[bool], lr: float, decay: float) -> list[float]:
    """The answer: lr times the decay to the power of the depth below the head; 0 for what is frozen."""
    top = len(trained) - 1
    return [lr * decay ** (top - l) if used else 0.0 for l, used in enumerate(trained)]


def _upside_down(trained, lr, decay):  # type: ignore[no-untyped-def]
    return [lr * decay**i if used else 0.0 for i, used in enumerate(trained)]


def _head_first(trained, lr, decay):  # type: ignore[no-untyped-def]
    return layerwise_lr(trained, lr, decay)[::-1]


def _head_decayed(trained, lr, decay):  # type: ignore[no-untyped-def]
    return layerwise_lr(trained, lr * decay, decay)


def _divided(trained, lr, decay):  # type: ignore[no-untyped-def]
    return layerwise_lr(trained, lr, 1 / decay)


def _linear(trained, lr, decay):  # type: ignore[no-untyped-def]
    top = len(trained) - 1
    return [lr * (1 - (1 - decay) * (top - i)) if used else 0.0 for i, used in enumerate(trained)]


def _two_rates(trained, lr, decay):  # type: ignore[no-untyped-def]
    *body, head = trained
    return [*(lr * decay if used else 0.0 for used in body), lr if head else 0.0]


def _frozen_not_counted(trained, lr, decay):  # type: ignore[no-untyped-def]
    rates, depth = [], 0
    for used in reversed(trained):
        rates.append(lr * decay**depth if used else 0.0)
        depth += used
    return rates[::-1]


def _frozen_keep_rates(trained, lr, decay):  # type: ignore[no-untyped-def]
    return layerwise_lr([True] * len(trained), lr, decay)


def _frozen_left_out(trained, lr, decay):  # type: ignore[no-untyped-def]
    rates = layerwise_lr(trained, lr, decay)
    return [rate for rate, used in zip(rates, trained, strict=True) if used]


def _multipliers(trained, lr, decay):  # type: ignore[no-untyped-def]
    return layerwise_lr(trained, 1.0, decay)


LAYERWISE_LR = Exercise(
    name="layerwise_lr",
    observe=_observe_rates,
    answer=layerwise_lr,
    praise="The head has the full rate, each stage below a share of the one above, and freezing shifts nobody.",
    mistakes={
        "upside down": Mistake(
            _upside_down,
            "the rates grow smaller towards the head: the new layer learns slowest, and the pixels' layer fastest.",
            "the list goes from the bottom to the top; which stage has the depth 0?",
        ),
        "head first": Mistake(
            _head_first,
            "the numbers are right, but they stand in the wrong order: head first.",
            "`trained[0]` is the stem; your first number must be its rate",
        ),
        "head decayed": Mistake(
            _head_decayed,
            "every exponent is one too large: the head itself does not get the full rate.",
            "what is L - l for the head, where l = L?",
        ),
        "divided": Mistake(
            _divided,
            "the rates grow towards the bottom: you divide by the decay, or the exponent has the wrong sign.",
            "a decay below 1 should make the rates of the lower stages smaller",
        ),
        "linear": Mistake(
            _linear,
            "each stage loses the same amount; it should lose the same share.",
            "with a decay of 0.5 and five stages, does your lowest rate stay above zero?",
        ),
        "two rates": Mistake(
            _two_rates,
            "there are only two rates, one for the head and one for all below it.",
            "which power of the decay belongs to a stage two below the head?",
        ),
        "frozen not counted": Mistake(
            _frozen_not_counted,
            "a frozen stage is left out of the count, so freezing one changes the rates of those below it.",
            "the depth of a stage is its place in the network, whether or not the others learn",
        ),
        "frozen keep rates": Mistake(
            _frozen_keep_rates,
            "frozen stages are given a rate as well.",
            "what does `trained` tell you, stage by stage?",
        ),
        "frozen left out": Mistake(
            _frozen_left_out,
            "the list is too short: the frozen stages are missing, so a rate can no longer be matched to its stage.",
            "return one number for each stage, 0.0 for a frozen one",
        ),
        "multipliers": Mistake(
            _multipliers,
            "these are multipliers; the rate of the head is not `lr`.",
            "where does `lr` enter?",
        ),
    },
)


# --- trained_stages -------------------------------------------------------------------------------


def _observe_plan(attempt: Callable[..., Any], seed: int) -> Observation:
    draw = random.Random(fold_in(seed, 10, 2))
    first = draw.randint(2, 3)
    apart = [first, first + draw.randint(2, 3), first + draw.randint(5, 7)]
    together = [first, first, first + draw.randint(2, 4)]
    at_once = [0, draw.randint(2, 4)]
    seen: dict[str, Any] = {}
    for plan in (apart, together, at_once):
        for epoch in range(plan[-1] + 3):
            seen[f"after {epoch} epochs with {plan}"] = _as_list(attempt(epoch, list(plan)))
    return seen


def _as_list(returned: Any) -> Any:
    return [*returned] if isinstance(returned, list | tuple) else returned


def trained_stages(finished: int, at_epochs: Sequence[int]) -> list[bool]:
    """The answer: bottom to top; a stage trains once its number of epochs is finished, the head always."""
    return [*(at <= finished for at in reversed(at_epochs)), True]


def _one_late(finished, at_epochs):  # type: ignore[no-untyped-def]
    return trained_stages(finished - 1, at_epochs)


def _one_early(finished, at_epochs):  # type: ignore[no-untyped-def]
    return trained_stages(finished + 1, at_epochs)


def _bottom_up(finished, at_epochs):  # type: ignore[no-untyped-def]
    return [*(at <= finished for at in at_epochs), True]


def _head_at_the_front(finished, at_epochs):  # type: ignore[no-untyped-def]
    return trained_stages(finished, at_epochs)[::-1]


def _only_the_newest(finished, at_epochs):  # type: ignore[no-untyped-def]
    trained = trained_stages(finished, at_epochs)
    newest = trained.index(True)
    return [stage == newest for stage in range(len(trained))]


def _head_stops(finished, at_epochs):  # type: ignore[no-untyped-def]
    *body, _ = trained_stages(finished, at_epochs)
    return [*body, not any(body)]


def _head_missing(finished, at_epochs):  # type: ignore[no-untyped-def]
    return trained_stages(finished, at_epochs)[:-1]


def _only_in_that_epoch(finished, at_epochs):  # type: ignore[no-untyped-def]
    return [*(at == finished for at in reversed(at_epochs)), True]


def _turned_round(finished, at_epochs):  # type: ignore[no-untyped-def]
    return [not trains for trains in trained_stages(finished, at_epochs)]


def _all_at_once(finished, at_epochs):  # type: ignore[no-untyped-def]
    return [at_epochs[0] <= finished] * len(at_epochs) + [True]


TRAINED_STAGES = Exercise(
    name="trained_stages",
    observe=_observe_plan,
    answer=trained_stages,
    praise="The head always trains, the others join from the top down, and none of them leaves again.",
    mistakes={
        "one late": Mistake(
            _one_late,
            "each stage joins one epoch too late.",
            "with `at_epochs=[2]`, two finished epochs are enough: < or <= ?",
        ),
        "one early": Mistake(
            _one_early,
            "each stage joins one epoch too early.",
            "`finished` counts the epochs that are done, not the one that is about to begin",
        ),
        "bottom up": Mistake(
            _bottom_up,
            "the stem joins first: the plan goes from the top down, your list from the bottom up.",
            "to which stage does `at_epochs[0]` belong?",
        ),
        "head at the front": Mistake(
            _head_at_the_front,
            "the list stands on its head: the stem comes first, the head last.",
            "which entry should always be True?",
        ),
        "only the newest": Mistake(
            _only_the_newest,
            "only the stage that joined last is trained; the others have stopped again.",
            "a stage that has joined stays",
        ),
        "head stops": Mistake(
            _head_stops,
            "the head stops learning when the first stage joins.",
            "who always trains?",
        ),
        "head missing": Mistake(
            _head_missing,
            "one entry is missing: that of the head.",
            "how many stages are there when `at_epochs` has three numbers?",
        ),
        "only in that epoch": Mistake(
            _only_in_that_epoch,
            "a stage trains for the one epoch in which it joins, and is frozen again.",
            "== or <= ?",
        ),
        "turned round": Mistake(
            _turned_round,
            "you tell which stages are frozen; asked is which are trained.",
            "True means: it learns",
        ),
        "all at once": Mistake(
            _all_at_once,
            "all stages join at the first number.",
            "each stage has a number of its own",
        ),
    },
)


# --- train_frozen ---------------------------------------------------------------------------------


class _Net(nn.Module):
    """A frozen body with a norm at two depths, a norm of which only the scale is frozen, a head with dropout."""

    def __init__(self) -> None:
        super().__init__()
        low = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.body = nn.Sequential(low, nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
        self.top = nn.Sequential(nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5), nn.ReLU())
        self.partly = nn.BatchNorm2d(5)
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(5, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 3, H, W) to (N, 3)."""
        return self.head(self.partly(self.top(self.body(x))).mean(dim=(2, 3)))


def _net(seed: int) -> _Net:
    torch.manual_seed(seed)
    net = _Net()
    for norm in _norms(net):
        nn.init.normal_(norm.running_mean, std=0.5)  # type: ignore[arg-type]
        nn.init.uniform_(norm.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    for parameter in (*net.body.parameters(), net.partly.weight):
        parameter.requires_grad_(False)
    return net


def _norms(net: nn.Module) -> Iterator[nn.BatchNorm2d]:
    return (module for module in net.modules() if isinstance(module, nn.BatchNorm2d))


def _observe_modes(attempt: Callable[..., Any], seed: int) -> Observation:
    net = _net(fold_in(seed, 10, 3))
    net.train(seed % 2 == 0)  # from either mode
    wants = [p.requires_grad for p in net.parameters()]
    images = torch.rand(8, 3, 6, 6, generator=generator(seed, 10, 4))
    with torch.no_grad():
        attempt(net)
        seen: dict[str, Any] = {
            f"{name} in training mode": getattr(net.get_submodule(name), "training", None)
            for name in ("body.0.1", "body.2", "top.1", "partly", "head.0")
        }
        seen["what the frozen body computes"] = net.body(images)
        net(images)
    seen |= {f"running mean {i} after a batch": n.running_mean for i, n in enumerate(_norms(net))}
    seen["who wants a gradient"] = [p.requires_grad for p in net.parameters()] == wants
    return seen


def train_frozen(model: nn.Module) -> None:
    """The answer: everything to training mode, then every norm without a trainable parameter back."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and not any(
            p.requires_grad for p in module.parameters()
        ):
            module.eval()


def _undone(model):  # type: ignore[no-untyped-def]
    train_frozen(model)
    model.train()


def _all_norms(model):  # type: ignore[no-untyped-def]
    model.train()
    for norm in _norms(model):
        norm.eval()


def _any_frozen(model):  # type: ignore[no-untyped-def]
    model.train()
    for norm in _norms(model):
        norm.train(all(p.requires_grad for p in norm.parameters()))


def _all_eval(model):  # type: ignore[no-untyped-def]
    model.eval()


def _no_statistics(model):  # type: ignore[no-untyped-def]
    model.train()
    for norm in _norms(model):
        if not any(p.requires_grad for p in norm.parameters()):
            norm.track_running_stats = False


def _by_own_parameters(model):  # type: ignore[no-untyped-def]
    for module in model.modules():
        module.training = any(p.requires_grad for p in module.parameters(recurse=False))


def _wrong_way_round(model):  # type: ignore[no-untyped-def]
    model.train()
    for norm in _norms(model):
        norm.train(not any(p.requires_grad for p in norm.parameters()))


def _children_only(model):  # type: ignore[no-untyped-def]
    model.train()
    for module in (m for child in model.children() for m in (child, *child.children())):
        if isinstance(module, nn.BatchNorm2d) and not any(
            p.requires_grad for p in module.parameters()
        ):
            module.eval()


def _unfreezes(model):  # type: ignore[no-untyped-def]
    train_frozen(model)
    model.requires_grad_(True)


TRAIN_FROZEN = Exercise(
    name="train_frozen",
    observe=_observe_modes,
    answer=train_frozen,
    praise="What is frozen computes the same in training as in use, and everything else trains.",
    mistakes={
        "undone by train": Mistake(
            _undone,
            "every norm is in training mode: the frozen ones were never put in evaluation mode, or `model.train()` "
            "came after it and undid it.",
            "`model.train()` reaches every module; what must come after it, each time?",
        ),
        "all norms": Mistake(
            _all_norms,
            "the norms that are trained stand in evaluation mode as well.",
            "how do you tell a frozen norm from one that learns?",
        ),
        "any frozen": Mistake(
            _any_frozen,
            "a norm of which one parameter is frozen and the other learns counts as frozen.",
            "frozen is a norm none of whose parameters wants a gradient",
        ),
        "all in evaluation mode": Mistake(
            _all_eval,
            "the whole model is in evaluation mode: no dropout, and the norms that learn keep old statistics.",
            "begin with training mode for all",
        ),
        "track_running_stats": Mistake(
            _no_statistics,
            "the statistics stand still, but in training mode the norm still divides by those of the batch, so the "
            "frozen part computes something else than in use. A momentum of 0 would do the same.",
            "a norm uses its running statistics in one mode alone; which?",
        ),
        "dropout off": Mistake(
            _by_own_parameters,
            "what has no parameters of its own, such as dropout, was left in evaluation mode.",
            "begin with training mode for all",
        ),
        "wrong way round": Mistake(
            _wrong_way_round,
            "the frozen norms train, and those that learn are in evaluation mode.",
            "`requires_grad` says who learns",
        ),
        "nested norms missed": Mistake(
            _children_only,
            "norms deeper inside are missed: you look at children, not at all modules.",
            "`model.children()` or `model.modules()`?",
        ),
        "unfreezes": Mistake(
            _unfreezes,
            "the modes are right, but the frozen parameters want gradients again.",
            "`train()` and `eval()` are about modes; leave `requires_grad` alone",
        ),
    },
)

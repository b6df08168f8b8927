"""Check the exercises of chapter 10: mixed weights, gradual unfreezing, frozen batch norm.

The public functions are the reference solutions; the private ones next to them are known mistakes.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cnnlab.course.check.core import Exercise, Mistake, Observation, Prediction
from cnnlab.rng import fold_in, generator


# --- interpolate_weights --------------------------------------------------------------------------

State = dict[str, Tensor]
COUNTER = "norm.num_batches_tracked"


def _states(seed: int) -> tuple[State, State]:
    """Return two small state dicts with weights, statistics and a counter."""
    rng = generator(seed, 10, 1)

    def quarters(*shape: int) -> Tensor:
        return torch.randint(-8, 9, shape, generator=rng) / 4

    def state(counter: int) -> State:
        return {
            "conv.weight": quarters(2, 2),
            "norm.running_mean": quarters(2),
            COUNTER: torch.tensor(counter),
            "head.weight": quarters(1, 2).double(),
        }

    first = state(40 + seed % 5)
    second = state(61 + seed % 7)
    for name in ("conv.weight", "norm.running_mean", "head.weight"):
        second[name] += 3  # so that no entry is equal by chance
    return first, second


def _observe_interpolation(attempt: Callable[..., Any], seed: int) -> Observation:
    before, after = _states(fold_in(seed, 10, 1))
    given = [tensor.data_ptr() for state in (before, after) for tensor in state.values()]
    result = attempt(dict(before), dict(after), 0.25)
    names = [name for name in before if name in result]
    shared = [name for name in names if result[name].data_ptr() in given]
    values = {
        f"`{name}` at alpha=0.25, with before={before[name].tolist()} and "
        f"after={after[name].tolist()},": result[name]
        for name in names
    }
    end = attempt(dict(before), dict(after), 1.0)
    return {
        "a name is missing from your state dict.": len(names) < len(before),
        "your state dict has a name that isn't in `after`.": len(result) > len(names),
        **{f"the dtype of `{name}`": str(result[name].dtype) for name in names},
        **values,
        "`conv.weight` at alpha=1": end.get("conv.weight"),
        "a tensor you return shares its memory with one that you were given.": bool(shared),
    }


def interpolate_weights(before: State, after: State, alpha: float) -> State:
    """Return (1 - alpha) * before + alpha * after per tensor, with the counters of `after`."""
    return {
        name: (1 - alpha) * before[name] + alpha * tensor
        if tensor.is_floating_point()
        else tensor.clone()
        for name, tensor in after.items()
    }


def _swapped(before, after, alpha):  # type: ignore[no-untyped-def]
    return interpolate_weights(after, before, alpha) | {COUNTER: after[COUNTER].clone()}


def _added(before, after, alpha):  # type: ignore[no-untyped-def]
    mixed = interpolate_weights(before, after, alpha)
    floats = {name for name, tensor in after.items() if tensor.is_floating_point()}
    return {n: before[n] + alpha * after[n] if n in floats else mixed[n] for n in mixed}


def _average(before, after, alpha):  # type: ignore[no-untyped-def]
    return interpolate_weights(before, after, 0.5)


def _statistics_of_before(before, after, alpha):  # type: ignore[no-untyped-def]
    mixed = interpolate_weights(before, after, alpha)
    return {n: before[n].clone() if "running" in n else mixed[n] for n in mixed}


def _statistics_of_after(before, after, alpha):  # type: ignore[no-untyped-def]
    mixed = interpolate_weights(before, after, alpha)
    return {n: after[n].clone() if "running" in n else mixed[n] for n in mixed}


def _counter_of_before(before, after, alpha):  # type: ignore[no-untyped-def]
    return interpolate_weights(before, after, alpha) | {COUNTER: before[COUNTER].clone()}


def _counters_mixed(before, after, alpha):  # type: ignore[no-untyped-def]
    counter = (1 - alpha) * before[COUNTER] + alpha * after[COUNTER]
    return interpolate_weights(before, after, alpha) | {COUNTER: counter}


def _counters_rounded(before, after, alpha):  # type: ignore[no-untyped-def]
    counter = ((1 - alpha) * before[COUNTER] + alpha * after[COUNTER]).round().long()
    return interpolate_weights(before, after, alpha) | {COUNTER: counter}


def _counters_left_out(before, after, alpha):  # type: ignore[no-untyped-def]
    mixed = interpolate_weights(before, after, alpha)
    return {name: tensor for name, tensor in mixed.items() if tensor.is_floating_point()}


def _counter_not_copied(before, after, alpha):  # type: ignore[no-untyped-def]
    return interpolate_weights(before, after, alpha) | {COUNTER: after[COUNTER]}


def _all_float32(before, after, alpha):  # type: ignore[no-untyped-def]
    mixed = interpolate_weights(before, after, alpha)
    return {n: t.float() if t.is_floating_point() else t for n, t in mixed.items()}


INTERPOLATE_WEIGHTS = Exercise(
    name="interpolate_weights",
    task="`interpolate_weights(before, after, alpha) -> state dict`, a mixture of two",
    observe=_observe_interpolation,
    answer=interpolate_weights,
    praise="Weights and statistics are mixed, the counters are those of `after`, and neither "
    "state dict has changed.",
    hint="what should come out of one weight, 1.0 before and 3.0 after, at alpha=0.25?",
    mistakes={
        "swapped": Mistake(
            _swapped,
            "you give `before` the weight alpha, so alpha=1 returns the state before fine-tuning.",
            "which of the two states is at alpha=0?",
        ),
        "added": Mistake(
            _added,
            "your two fractions don't add up to 1: `before` counts in full.",
            "by what is `before` multiplied in the formula?",
        ),
        "average": Mistake(
            _average,
            "you always return the mean of the two states.",
            "where does alpha come in?",
        ),
        "statistics of before": Mistake(
            _statistics_of_before,
            "you take the running statistics of `before` as they are, but they belong to its "
            "weights.",
            "is a running mean a float tensor?",
        ),
        "statistics of after": Mistake(
            _statistics_of_after,
            "you take the running statistics of `after` as they are, but they belong to its "
            "weights.",
            "is a running mean a float tensor?",
        ),
        "counter of before": Mistake(
            _counter_of_before,
            "you take the counter of `before`.",
            "which of the two does the text ask for?",
        ),
        "counters mixed": Mistake(
            _counters_mixed,
            "you mix the counter too, which makes it a float.",
            "which method of a tensor tells you whether it holds floats?",
        ),
        "counters rounded": Mistake(
            _counters_rounded,
            "you mix the counters and round the result.",
            "take the counter of `after` as it is",
        ),
        "counters left out": Mistake(
            _counters_left_out,
            "you leave the counters out, so `load_state_dict` would refuse your result.",
            "return every name, also those that aren't mixed",
        ),
        "counter not copied": Mistake(
            _counter_not_copied,
            "the counter you return is the tensor of `after` itself, so training on would change "
            "both.",
            "which method copies a tensor?",
        ),
        "all float32": Mistake(
            _all_float32,
            "you turn every tensor into float32.",
            "each tensor keeps its dtype",
        ),
    },
)


# --- trained_stages -------------------------------------------------------------------------------


def _observe_plan(attempt: Callable[..., Any], seed: int) -> Observation:
    rng = random.Random(fold_in(seed, 10, 2))
    first = rng.randint(2, 3)
    two = [first, first + 2]
    one_by_one = [first, first + rng.randint(2, 3), first + rng.randint(5, 7)]
    two_together = [first, first, first + rng.randint(2, 4)]
    from_the_start = [0, rng.randint(2, 4)]
    return {
        f"your list for finished={finished}, at_epochs={at_epochs}": attempt(
            finished, list(at_epochs)
        )
        for at_epochs in (two, one_by_one, two_together, from_the_start)
        for finished in range(at_epochs[-1] + 3)
    }


def trained_stages(finished: int, at_epochs: Sequence[int]) -> list[bool]:
    """Return which stages train, bottom to top: those whose epoch is reached, and the head."""
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
    *backbone, _ = trained_stages(finished, at_epochs)
    return [*backbone, not any(backbone)]


def _head_missing(finished, at_epochs):  # type: ignore[no-untyped-def]
    return trained_stages(finished, at_epochs)[:-1]


def _only_in_that_epoch(finished, at_epochs):  # type: ignore[no-untyped-def]
    return [*(at == finished for at in reversed(at_epochs)), True]


def _inverted(finished, at_epochs):  # type: ignore[no-untyped-def]
    return [not trains for trains in trained_stages(finished, at_epochs)]


def _all_at_once(finished, at_epochs):  # type: ignore[no-untyped-def]
    return [at_epochs[0] <= finished] * len(at_epochs) + [True]


TRAINED_STAGES = Exercise(
    name="trained_stages",
    task="`trained_stages(finished, at_epochs) -> booleans`, one per stage, bottom to top",
    observe=_observe_plan,
    answer=trained_stages,
    praise="The head always trains, the other stages join from the top down, and a stage that has "
    "joined keeps training.",
    hint="which entry of `at_epochs` belongs to which stage, and is its epoch reached?",
    mistakes={
        "one late": Mistake(
            _one_late,
            "each stage joins one epoch too late.",
            "with `at_epochs=[2]`, two finished epochs are enough: do you need < or <=?",
        ),
        "one early": Mistake(
            _one_early,
            "each stage joins one epoch too early.",
            "`finished` counts completed epochs, not the one that is about to start",
        ),
        "bottom up": Mistake(
            _bottom_up,
            "your stem joins first, because `at_epochs` is ordered from the top down and your list "
            "from the bottom up.",
            "which stage does `at_epochs[0]` belong to?",
        ),
        "head at the front": Mistake(
            _head_at_the_front,
            "your list is in reverse order, with the head first and the stem last.",
            "which entry should always be True?",
        ),
        "only the newest": Mistake(
            _only_the_newest,
            "only the stage that joined last is trained, and the ones before it are frozen again.",
            "once a stage has joined, should it ever stop training?",
        ),
        "head stops": Mistake(
            _head_stops,
            "your head stops training when the first stage joins.",
            "which stage trains in every epoch?",
        ),
        "head missing": Mistake(
            _head_missing,
            "your list is one entry short: the head is missing.",
            "how many stages are there when `at_epochs` has three entries?",
        ),
        "only in that epoch": Mistake(
            _only_in_that_epoch,
            "each stage trains only in the epoch in which it joins, and is frozen again after it.",
            "do you need == or <=?",
        ),
        "turned round": Mistake(
            _inverted,
            "you return which stages are frozen, but the exercise asks which ones train.",
            "True means that the stage trains",
        ),
        "all at once": Mistake(
            _all_at_once,
            "all stages join at the first epoch in `at_epochs`.",
            "each stage has an entry of its own in `at_epochs`",
        ),
    },
)


# --- train_frozen ---------------------------------------------------------------------------------


class Net(nn.Module):
    """A network with every kind of batch-norm layer: frozen, trained and partly frozen.

    The frozen backbone has batch-norm layers at two depths, only the weight of `partly` is frozen,
    and the backbone and the head have dropout. That of the backbone drops nothing, so that its
    output can be compared.
    """

    def __init__(self) -> None:
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.0))
        self.backbone = nn.Sequential(stem, nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
        self.top = nn.Sequential(nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5), nn.ReLU())
        self.partly = nn.BatchNorm2d(5)
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(5, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits (N, 3) from images (N, 3, H, W)."""
        return self.head(self.partly(self.top(self.backbone(x))).mean(dim=(2, 3)))


def _net(seed: int) -> Net:
    """Build a network with random running statistics and a frozen backbone."""
    torch.manual_seed(seed)
    net = Net()
    for norm in _batch_norms(net):
        nn.init.normal_(norm.running_mean, std=0.5)  # type: ignore[arg-type]
        nn.init.uniform_(norm.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    for parameter in (*net.backbone.parameters(), net.partly.weight):
        parameter.requires_grad_(False)
    return net


def _batch_norms(net: nn.Module) -> Iterator[nn.BatchNorm2d]:
    return (module for module in net.modules() if isinstance(module, nn.BatchNorm2d))


def _is_frozen(module: nn.Module) -> bool:
    """Tell whether none of the parameters of a module is trained."""
    return not any(p.requires_grad for p in module.parameters())


def _observe_modes(attempt: Callable[..., Any], seed: int) -> Observation:
    net = _net(fold_in(seed, 10, 3))
    net.train(seed % 2 == 0)  # the exercise must work from either mode
    requires_grad = [p.requires_grad for p in net.parameters()]
    images = torch.rand(8, 3, 6, 6, generator=generator(seed, 10, 4))
    observation: dict[str, Any] = {}
    with torch.no_grad():
        attempt(net)
        pairs = list(zip(requires_grad, (p.requires_grad for p in net.parameters()), strict=True))
        observation["a frozen parameter requires gradients afterwards: only set modes."] = (
            False,
            True,
        ) in pairs
        observation["you freeze a parameter that was trained: only set modes."] = (
            True,
            False,
        ) in pairs
        observation["`model` itself is in evaluation mode."] = not net.training
        for name in ("backbone.0.1", "backbone.2"):
            frozen = getattr(net.get_submodule(name), "training", None)
            observation[f"the frozen batch-norm layer `{name}` is in training mode."] = frozen
        for name, layer in {
            "top.1": "batch-norm layer `top.1`, which is trained,",
            "partly": "batch-norm layer `partly`, whose bias is trained,",
            "head.0": "dropout layer `head.0`",
            "backbone.0.3": "dropout layer `backbone.0.3`, in the frozen backbone,",
        }.items():
            evaluates = not getattr(net.get_submodule(name), "training", None)
            observation[f"the {layer} is in evaluation mode."] = evaluates
        observation["the output of the frozen backbone"] = net.backbone(images)
        net(images)
    for i, norm in enumerate(_batch_norms(net)):
        observation[f"the running mean of batch-norm layer {i} after a batch"] = norm.running_mean
    return observation


def train_frozen(model: nn.Module) -> None:
    """Put a model in training mode and its frozen batch-norm layers in evaluation mode."""
    model.train()
    for norm in _batch_norms(model):
        if _is_frozen(norm):
            norm.eval()


def _undone(model):  # type: ignore[no-untyped-def]
    train_frozen(model)
    model.train()


def _all_norms(model):  # type: ignore[no-untyped-def]
    model.train()
    for norm in _batch_norms(model):
        norm.eval()


def _any_frozen(model):  # type: ignore[no-untyped-def]
    model.train()
    for norm in _batch_norms(model):
        norm.train(all(p.requires_grad for p in norm.parameters()))


def _all_eval(model):  # type: ignore[no-untyped-def]
    model.eval()


def _whole_backbone(model):  # type: ignore[no-untyped-def]
    model.train()
    model.backbone.eval()


def _no_statistics(model):  # type: ignore[no-untyped-def]
    model.train()
    for norm in _batch_norms(model):
        if _is_frozen(norm):
            norm.track_running_stats = False


def _by_own_parameters(model):  # type: ignore[no-untyped-def]
    for module in model.modules():
        module.training = any(p.requires_grad for p in module.parameters(recurse=False))


def _inverted_modes(model):  # type: ignore[no-untyped-def]
    model.train()
    for norm in _batch_norms(model):
        norm.train(_is_frozen(norm))


def _children_only(model):  # type: ignore[no-untyped-def]
    model.train()
    for module in (m for child in model.children() for m in (child, *child.children())):
        if isinstance(module, nn.BatchNorm2d) and _is_frozen(module):
            module.eval()


def _unfreezes(model):  # type: ignore[no-untyped-def]
    train_frozen(model)
    model.requires_grad_(True)


_START_IN_TRAINING_MODE = "start by putting everything in training mode"
TRAIN_FROZEN = Exercise(
    name="train_frozen",
    task="`train_frozen(model)`: train mode, but frozen batch norm in eval mode",
    observe=_observe_modes,
    answer=train_frozen,
    praise="Frozen batch-norm layers compute the same in training as at inference, and everything "
    "else is in training mode.",
    hint="which layers are batch norm, and which of them have no trained parameter?",
    mistakes={
        "undone by train": Mistake(
            _undone,
            "every batch-norm layer is in training mode at the end, the frozen ones too.",
            "which layers do you put in evaluation mode, and when do you call `model.train()`?",
        ),
        "all norms": Mistake(
            _all_norms,
            "you also put the batch-norm layers that are trained in evaluation mode.",
            "how can you tell a frozen batch-norm layer from one that is trained?",
        ),
        "any frozen": Mistake(
            _any_frozen,
            "you treat a batch-norm layer as frozen when only one of its two parameters is.",
            "how many of its parameters may still require a gradient in a frozen layer?",
        ),
        "all in evaluation mode": Mistake(
            _all_eval,
            "the whole model is in evaluation mode, so dropout is off and the batch-norm layers "
            "that are trained keep their old statistics.",
            _START_IN_TRAINING_MODE,
        ),
        "whole backbone": Mistake(
            _whole_backbone,
            "you put everything in the frozen backbone in evaluation mode, dropout included.",
            "which kind of layer should be in evaluation mode, whatever its name is?",
        ),
        "track_running_stats": Mistake(
            _no_statistics,
            "the frozen layers keep their statistics, but in training mode they normalise with "
            "those of the batch, so they compute something else at inference.",
            "which mode uses running statistics?",
        ),
        "dropout off": Mistake(
            _by_own_parameters,
            "modules without parameters of their own, such as dropout, are in evaluation mode.",
            _START_IN_TRAINING_MODE,
        ),
        "wrong way round": Mistake(
            _inverted_modes,
            "your modes are swapped: the frozen batch-norm layers are in training mode, and the "
            "ones that are trained in evaluation mode.",
            "`requires_grad` is True for a parameter that is trained",
        ),
        "nested norms missed": Mistake(
            _children_only,
            "you miss the batch-norm layers that are nested deeper, because you only look at "
            "children.",
            "do you need `model.children()` or `model.modules()`?",
        ),
        "unfreezes": Mistake(
            _unfreezes,
            "the frozen parameters require gradients afterwards.",
            "`train()` and `eval()` only set modes; leave `requires_grad` alone",
        ),
    },
)

EXERCISES = (INTERPOLATE_WEIGHTS, TRAINED_STAGES, TRAIN_FROZEN)

PREDICTIONS = (
    Prediction(
        question="How many of the 23 names survive a learning rate of 0.001?",
        text=(
            "A network pretrained on ImageNet names 23 photographs. It's fine-tuned on 240 "
            "images of traffic signs for twenty steps, all layers at a learning rate of 0.001. "
            "For how many of the 23 photographs does the old head still give the same name?"
        ),
        answer=0.0,
        why=(
            "Training on a new task destroys what a network knew about the old one. This is "
            "catastrophic forgetting."
        ),
        section="What a network forgets",
        within=2,
    ),
    Prediction(
        question="What do all layers gain with five photographs per class?",
        text=(
            "A pretrained network gets five photographs per class. How much accuracy does "
            "fine-tuning all layers gain over a linear classifier on its frozen features? (0.1 "
            "is a gain of ten points, -0.1 a loss.)"
        ),
        answer=0.057,
        why=(
            "It gains six points on average, but the 95 % interval is -2 to 13 points. Five "
            "runs with so few photographs can't tell whether it helps."
        ),
        section="How much of the network: the 2 x 2 table",
        within=0.08,
    ),
    Prediction(
        question="How much accuracy on digits is lost at 0.03?",
        text=(
            "A pretrained network gets ten digits per class. Its head is trained first, then "
            "all layers for a hundred steps. How much test accuracy on the digits is lost with "
            "a learning rate of 0.03 instead of 0.001? (0.1 is ten points.)"
        ),
        answer=0.192,
        why=(
            "At 0.03 the features are overwritten, and a hundred digits are too few to replace "
            "them."
        ),
        section="How fast",
        within=0.05,
    ),
    Prediction(
        question="What does the network predict for (0, 1)?",
        text=(
            "A linear network predicts `v * (b1 * x1 + b2 * x2)`. It starts with v = 0 and b1 = "
            "b2 = 1, and all three are trained with small steps until it's perfect on x = (1, "
            "0), whose target is 1. What does it predict for x = (0, 1), whose target is 1, "
            "too?"
        ),
        answer=0.789,
        why=(
            "The head and the first feature find a new agreement: v is about 0.79 and b1 about "
            "1.27. No training image touches b2, so it's still 1."
        ),
        section="In what order",
    ),
    Prediction(
        question="Which γ is best at the harmful learning rate?",
        text=(
            "A pretrained network with a random head is fine-tuned at a learning rate of 0.01, "
            "which harms its features. Each stage gets γ times the learning rate of the stage "
            "above it. Which γ gives the best accuracy on the new task?"
        ),
        answer="0.1",
        why=(
            "The features lose more than half of what they knew at this learning rate, so "
            "slowing the backbone down protects them."
        ),
        section="Not every stage alike",
        options=("0.1", "0.5", "0.9"),
    ),
    Prediction(
        question="How much accuracy does the old head lose?",
        text=(
            "All weights of a backbone are frozen, and a new head is trained on other images "
            "while batch norm is in training mode. How much accuracy does the old head lose on "
            "its own task? (0.1 is ten points.)"
        ),
        answer=0.084,
        why="The running statistics of batch norm move, although no weight of the backbone does.",
        section="Frozen is not frozen: batch norm",
        within=0.05,
    ),
    Prediction(
        question="How much do new statistics gain, without labels?",
        text=(
            "The images change from easy signs to wild ones, and the accuracy falls by about "
            "forty points. By how much does it rise if only the batch-norm statistics are "
            "measured again, on wild images without labels? (0.1 is ten points.)"
        ),
        answer=0.1,
        why=(
            "Part of the shift is in the mean and the variance of the features, and these need "
            "no labels."
        ),
        section="When the images change: domain shift",
        within=0.05,
    ),
)

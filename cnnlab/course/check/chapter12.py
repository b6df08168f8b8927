"""Chapter 12: unscale before clipping, accumulate a gradient in parts, work out when compiling has paid."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab.course.check.core import Exercise, Mistake, Observation
from cnnlab.rng import fold_in, fork_rng, generator


# --- unscale_and_clip -----------------------------------------------------------------------------


def _observe_unscaling(attempt: Callable[..., Any], seed: int) -> Observation:
    draw = generator(seed, 12, 1)
    true = [torch.randn(shape, generator=draw) for shape in ((4, 3), (5,), (2, 2, 3))]
    true[1] *= 3  # so that the tensors are clipped by different factors where each is taken alone
    limit = 0.5 + torch.rand((), generator=draw).item()
    scale = 2.0 ** int(torch.randint(10, 17, (), generator=draw))
    seen: dict[str, Any] = {}
    for name, length in (("long", 8 * limit), ("short", 0.5 * limit)):
        share = length / _length(true)
        given = [g * share * scale for g in true]
        before = [g.clone() for g in given]
        seen[f"what becomes of a {name} gradient"] = _listed(attempt(given, scale, limit))
        seen[f"the {name} gradient you were given"] = "left alone" if _same(before, given) else "-"
    for name, number in (("infinite", math.inf), ("NaN", math.nan)):
        spoiled = [g * scale for g in true]
        spoiled[1][2] = number
        seen[f"the answer to an entry that is {name}"] = _listed(attempt(spoiled, scale, limit))
    nothing = [torch.zeros(2), torch.zeros(3)]
    seen["a gradient of zeros"] = _listed(attempt(nothing, scale, limit))
    return seen


def _listed(answer: Any) -> Any:
    return None if answer is None else list(answer)


def _same(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def _length(gradients: Sequence[Tensor]) -> float:
    return math.sqrt(sum(g.square().sum().item() for g in gradients))


def _clipped(gradients: Sequence[Tensor], max_norm: float) -> list[Tensor]:
    norm = _length(gradients)
    factor = min(1.0, max_norm / norm) if norm else 1.0
    return [g * factor for g in gradients]


def unscale_and_clip(
    gradients: Sequence[Tensor], scale: float, max_norm: float
) -> list[Tensor] | None:
    """The answer: the true gradients first, their norm, and only then the limit."""
    true = [g / scale for g in gradients]
    return _clipped(true, max_norm) if math.isfinite(_length(true)) else None


def _clip_first(gradients, scale, max_norm):  # type: ignore[no-untyped-def]
    if not math.isfinite(_length(gradients)):
        return None
    return [g / scale for g in _clipped(gradients, max_norm)]


def _never_unscales(gradients, scale, max_norm):  # type: ignore[no-untyped-def]
    return _clipped(gradients, max_norm) if math.isfinite(_length(gradients)) else None


def _never_clips(gradients, scale, max_norm):  # type: ignore[no-untyped-def]
    return [g / scale for g in gradients] if math.isfinite(_length(gradients)) else None


def _no_look_at_overflow(gradients, scale, max_norm):  # type: ignore[no-untyped-def]
    return _clipped([g / scale for g in gradients], max_norm)


def _zeros_after_overflow(gradients, scale, max_norm):  # type: ignore[no-untyped-def]
    found = unscale_and_clip(gradients, scale, max_norm)
    return [torch.zeros_like(g) for g in gradients] if found is None else found


def _infinite_only(gradients, scale, max_norm):  # type: ignore[no-untyped-def]
    true = [g / scale for g in gradients]
    return None if _length(true) == math.inf else _clipped(true, max_norm)


def _each_alone(gradients, scale, max_norm):  # type: ignore[no-untyped-def]
    if not math.isfinite(_length(gradients)):
        return None
    return [_clipped([g / scale], max_norm)[0] for g in gradients]


def _unscales_in_place(gradients, scale, max_norm):  # type: ignore[no-untyped-def]
    for g in gradients:
        g.div_(scale)
    return (
        _no_look_at_overflow(gradients, 1.0, max_norm)
        if math.isfinite(_length(gradients))
        else None
    )


UNSCALING = Exercise(
    name="unscale_and_clip",
    observe=_observe_unscaling,
    answer=unscale_and_clip,
    praise="The true gradient is clipped, and a step with an overflow is left out.",
    mistakes={
        "clip before unscale": Mistake(
            _clip_first,
            "you clip the scaled gradient and divide by the scale afterwards: every step becomes thousands of "
            "times too short.",
            "of which gradient is `max_norm` the limit?",
        ),
        "never unscales": Mistake(
            _never_unscales,
            "the scale is never taken out: short gradients come out thousands of times too long.",
            "what did the loss get multiplied by, and what does the chain rule make of it?",
        ),
        "never clips": Mistake(
            _never_clips,
            "the scale is gone, but a long gradient stays long.",
            "what should happen when the norm exceeds `max_norm`?",
        ),
        "no look at overflow": Mistake(
            _no_look_at_overflow,
            "after an overflow you return numbers: NaN would go into the weights and never leave them.",
            "what is the norm when one entry is infinite?",
        ),
        "zeros after an overflow": Mistake(
            _zeros_after_overflow,
            "after an overflow you return zeros. With momentum or weight decay a step with a gradient of zeros "
            "still moves the weights.",
            "the step is to be left out, not to be taken with zeros",
        ),
        "infinite, but not NaN": Mistake(
            _infinite_only,
            "infinity is noticed, NaN is not: it equals nothing, not even itself.",
            "`math.isfinite` knows both",
        ),
        "each tensor alone": Mistake(
            _each_alone,
            "each tensor is clipped by its own norm, which turns the direction of the whole.",
            "one norm over all tensors, one factor for all tensors",
        ),
        "in place": Mistake(
            _unscales_in_place,
            "the values are right, but the gradients you were given have been changed.",
            "names that end with an underscore, `*=` and `/=` change a tensor",
        ),
    },
)


# --- accumulate -----------------------------------------------------------------------------------


class _Watched(nn.Module):
    """A linear model that writes down each forward and each backward pass."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with fork_rng():
            torch.manual_seed(fold_in(seed, 12, 2))
            self.layer = nn.Linear(6, 3)
        self.passes: list[str] = []

    def forward(self, images: Tensor) -> Tensor:
        self.passes.append(f"forward {len(images)}")
        logits = self.layer(images)
        if logits.requires_grad:
            logits.register_hook(lambda g: self.passes.append(f"backward {len(g)}"))
        return logits


def _observe_accumulating(attempt: Callable[..., Any], seed: int) -> Observation:
    draw = generator(seed, 12, 3)
    seen: dict[str, Any] = {}
    for name, n, size in (("4 + 4 + 2", 10, 4), ("3 in parts of 4", 3, 4)):
        images = torch.randn(n, 6, generator=draw)
        labels = torch.randint(0, 3, (n,), generator=draw)
        model = _Watched(seed)
        for p in model.parameters():  # what an earlier batch has left
            p.grad = torch.randn(p.shape, generator=draw)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
        loss = attempt(model, optimizer, F.cross_entropy, images, labels, size)
        weights = torch.cat([p.detach().flatten() for p in model.parameters()])
        seen[f"the weights after {name}"] = weights
        seen[f"the loss of {name}"] = loss if isinstance(loss, float) else type(loss).__name__
        seen[f"the passes of {name}"] = ", ".join(model.passes)
    return seen


def accumulate(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    size: int,
) -> float:
    """The answer: a part weighs by its share of the pictures, and there is one step."""
    return _in_parts(model, optimizer, loss_fn, images, labels, size, lambda n: n / len(images))


def _in_parts(model, optimizer, loss_fn, images, labels, size, weight):  # type: ignore[no-untyped-def]
    optimizer.zero_grad()
    total = 0.0
    for x, y in zip(images.split(size), labels.split(size), strict=True):
        loss = loss_fn(model(x), y) * weight(len(x))
        loss.backward()
        total += loss.item()
    optimizer.step()
    return total


def _configured_number(model, optimizer, loss_fn, images, labels, size):  # type: ignore[no-untyped-def]
    parts = max(len(images) // size, 1)
    return _in_parts(model, optimizer, loss_fn, images, labels, size, lambda n: 1 / parts)


def _mean_of_means(model, optimizer, loss_fn, images, labels, size):  # type: ignore[no-untyped-def]
    parts = math.ceil(len(images) / size)
    return _in_parts(model, optimizer, loss_fn, images, labels, size, lambda n: 1 / parts)


def _by_full_parts(model, optimizer, loss_fn, images, labels, size):  # type: ignore[no-untyped-def]
    return _in_parts(model, optimizer, loss_fn, images, labels, size, lambda n: size / len(images))


def _undivided(model, optimizer, loss_fn, images, labels, size):  # type: ignore[no-untyped-def]
    return _in_parts(model, optimizer, loss_fn, images, labels, size, lambda n: 1.0)


def _forgets_the_rest(model, optimizer, loss_fn, images, labels, size):  # type: ignore[no-untyped-def]
    whole = max(len(images) // size, 1) * size
    return accumulate(model, optimizer, loss_fn, images[:whole], labels[:whole], size)


def _step_for_each_part(model, optimizer, loss_fn, images, labels, size):  # type: ignore[no-untyped-def]
    total = 0.0
    for x, y in zip(images.split(size), labels.split(size), strict=True):
        optimizer.zero_grad()
        loss = loss_fn(model(x), y) * len(x) / len(images)
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total


def _zeroes_in_the_loop(model, optimizer, loss_fn, images, labels, size):  # type: ignore[no-untyped-def]
    total = 0.0
    for x, y in zip(images.split(size), labels.split(size), strict=True):
        optimizer.zero_grad()
        loss = loss_fn(model(x), y) * len(x) / len(images)
        loss.backward()
        total += loss.item()
    optimizer.step()
    return total


def _no_zero_grad(model, optimizer, loss_fn, images, labels, size):  # type: ignore[no-untyped-def]
    total = 0.0
    for x, y in zip(images.split(size), labels.split(size), strict=True):
        loss = loss_fn(model(x), y) * len(x) / len(images)
        loss.backward()
        total += loss.item()
    optimizer.step()
    return total


def _one_backward(model, optimizer, loss_fn, images, labels, size):  # type: ignore[no-untyped-def]
    optimizer.zero_grad()
    total = torch.zeros(())
    for x, y in zip(images.split(size), labels.split(size), strict=True):
        total = total + loss_fn(model(x), y) * len(x) / len(images)
    total.backward()
    optimizer.step()
    return total.item()


def _all_at_once(model, optimizer, loss_fn, images, labels, size):  # type: ignore[no-untyped-def]
    return accumulate(model, optimizer, loss_fn, images, labels, len(images))


def _loss_of_the_last(model, optimizer, loss_fn, images, labels, size):  # type: ignore[no-untyped-def]
    parts: list[float] = []

    def remember(logits: Tensor, y: Tensor) -> Tensor:
        loss = loss_fn(logits, y)
        parts.append(loss.item())
        return loss

    accumulate(model, optimizer, remember, images, labels, size)
    return parts[-1]


def _loss_as_tensor(model, optimizer, loss_fn, images, labels, size):  # type: ignore[no-untyped-def]
    return torch.tensor(accumulate(model, optimizer, loss_fn, images, labels, size))


ACCUMULATING = Exercise(
    name="accumulate",
    observe=_observe_accumulating,
    answer=accumulate,
    praise="Each picture weighs the same, there is one step, and only one part is in memory at a time.",
    mistakes={
        "divides by the configured number of parts": Mistake(
            _configured_number,
            "you divide by N // size, the number of full parts: with a short part left over there is one more, "
            "and the step is too long.",
            "count the parts of 10 pictures in parts of 4",
        ),
        "mean of means": Mistake(
            _mean_of_means,
            "each part weighs the same, so a picture in the short last part weighs more than one in the others.",
            "the mean of [1, 1, 1, 1], [1, 1, 1, 1] and [5, 5] is not the mean of 1, 1 and 5",
        ),
        "the last part weighs as a full one": Mistake(
            _by_full_parts,
            "every part weighs size / N, the last one too, though it holds fewer pictures: the weights do not "
            "sum to 1.",
            "how many pictures are in this part?",
        ),
        "not divided at all": Mistake(
            _undivided,
            "the mean losses of the parts are added up as they are: with k parts the step is k times too long.",
            "what share of the batch is this part?",
        ),
        "forgets the remainder": Mistake(
            _forgets_the_rest,
            "the pictures behind the last full part are never used.",
            "N // size parts do not cover N pictures",
        ),
        "a step for each part": Mistake(
            _step_for_each_part,
            "the optimizer steps after every part: later parts are measured with other weights, and momentum "
            "and schedules count every step.",
            "how often should the weights change in a batch?",
        ),
        "zero_grad in the loop": Mistake(
            _zeroes_in_the_loop,
            "`zero_grad` is called for every part, so only the gradient of the last one is left.",
            "what adds up in `.grad`, and when should it start from zero?",
        ),
        "no zero_grad": Mistake(
            _no_zero_grad,
            "what was in `.grad` before is still in it.",
            "backward adds to `.grad`; who empties it?",
        ),
        "one backward pass at the end": Mistake(
            _one_backward,
            "the step is right, but all parts wait in memory for one backward pass at the end, so nothing is "
            "saved.",
            "when can what a part has kept be given free?",
        ),
        "all at once": Mistake(
            _all_at_once,
            "the step is right, but the whole batch passes through the model at once: that is what did not fit.",
            "`images.split(size)` cuts a batch into parts",
        ),
        "loss of the last part": Mistake(
            _loss_of_the_last,
            "the step is right; the loss you return is that of the last part alone.",
            "add up the losses, each with its share",
        ),
        "loss as a tensor": Mistake(
            _loss_as_tensor,
            "the loss you return is a tensor, a plain number is asked for.",
            "`.item()` makes a number of it",
        ),
    },
)


# --- steps_to_pay ---------------------------------------------------------------------------------


def _observe_paying(attempt: Callable[..., Any], seed: int) -> Observation:
    draw = generator(seed, 12, 4)
    # Whole numbers in binary, so that no division is in doubt.
    before = int(torch.randint(40, 80, (), generator=draw)) / 1024
    saving = int(torch.randint(7, 20, (), generator=draw)) / 1024
    steps = int(torch.randint(300, 900, (), generator=draw))
    after = before - saving
    told = {
        "when it comes out even": attempt(steps * saving, before, after),
        "when it does not come out even": attempt((steps + 0.25) * saving, before, after),
        "when a step is no faster": attempt(steps * saving, before, before),
        "when a step is slower": attempt(steps * saving, after, before),
    }
    return {when: "never" if number == math.inf else number for when, number in told.items()}


def steps_to_pay(cost: float, before: float, after: float) -> float:
    """The answer: cost / saving, rounded up."""
    saving = before - after
    return math.ceil(cost / saving) if saving > 0 else math.inf


def _by_the_plain_step(cost, before, after):  # type: ignore[no-untyped-def]
    return math.ceil(cost / before) if before > after else math.inf


def _by_the_compiled_step(cost, before, after):  # type: ignore[no-untyped-def]
    return math.ceil(cost / after) if before > after else math.inf


def _rounded_down(cost, before, after):  # type: ignore[no-untyped-def]
    return math.floor(cost / (before - after)) if before > after else math.inf


def _one_too_many(cost, before, after):  # type: ignore[no-untyped-def]
    return math.floor(cost / (before - after)) + 1 if before > after else math.inf


def _not_rounded(cost, before, after):  # type: ignore[no-untyped-def]
    return cost / (before - after) if before > after else math.inf


def _negative(cost, before, after):  # type: ignore[no-untyped-def]
    return math.ceil(cost / (before - after)) if before != after else math.inf


def _size_of_the_difference(cost, before, after):  # type: ignore[no-untyped-def]
    return steps_to_pay(cost, max(before, after), min(before, after))


PAYING = Exercise(
    name="steps_to_pay",
    observe=_observe_paying,
    answer=steps_to_pay,
    praise="What it costs over what a step saves, rounded up, and never where nothing is saved.",
    mistakes={
        "divided by the plain step": Mistake(
            _by_the_plain_step,
            "you say how many plain steps the compiling is worth; the compiled run has to take its steps as well.",
            "what does a single step save?",
        ),
        "divided by the compiled step": Mistake(
            _by_the_compiled_step,
            "you divide by the time of a compiled step; what pays the cost back is what a step saves.",
            "what does a single step save?",
        ),
        "rounded down": Mistake(
            _rounded_down,
            "rounded down: at that step the compiled run still lies behind.",
            "after 2.3 steps means after the third",
        ),
        "one too many": Mistake(
            _one_too_many,
            "one too many where it comes out even: equal counts as paid.",
            "which function of `math` rounds up, and leaves whole numbers alone?",
        ),
        "not rounded": Mistake(
            _not_rounded,
            "the formula is right; asked for is a whole number of steps.",
            "which function of `math` rounds up?",
        ),
        "negative steps": Mistake(
            _negative,
            "a compiled step that is slower gives a negative number of steps; it never pays.",
            "what if `after` exceeds `before`?",
        ),
        "size of the difference": Mistake(
            _size_of_the_difference,
            "a compiled step that is slower counts as a saving: the sign of the difference is lost.",
            "what if `after` exceeds `before`?",
        ),
    },
)

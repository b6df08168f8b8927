"""Check the exercises of chapter 12: unscaling, gradient accumulation, and when compiling pays off.

The public functions are the reference solutions; the private ones next to them are known mistakes.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab.course.check.compare import agree, short
from cnnlab.course.check.core import Exercise, Mistake, Observation
from cnnlab.rng import fold_in, fork_rng, generator


# --- unscale_and_clip -----------------------------------------------------------------------------


def _observe_unscaling(attempt: Callable[..., Any], seed: int) -> Observation:
    g = generator(seed, 12, 1)
    observation: dict[str, Any] = {}
    for entries, max_norm in (
        ([[6.0, 8.0]], 100.0),
        ([[6.0, 8.0]], 1.0),
        ([[6.0], [8.0]], 1.0),
        ([[math.inf, 8.0]], 1.0),
        ([[6.0], [math.nan]], 1.0),
        ([[0.0, 0.0]], 1.0),
    ):
        answer = attempt([torch.tensor(entry) for entry in entries], 2.0, max_norm)
        name = f"your result for gradients={short(entries)}, scale=2, max_norm={max_norm:g}"
        observation[name] = None if answer is None else [entry.tolist() for entry in answer]
    true = [torch.randn(shape, generator=g) for shape in ((4, 3), (5,), (2, 2, 3))]
    true[1] *= 3  # unequal norms, so that clipping each tensor alone shows
    max_norm = 0.5 + torch.rand((), generator=g).item()
    scale = 2.0 ** int(torch.randint(10, 17, (), generator=g))
    for name, norm in (("long", 8 * max_norm), ("short", 0.5 * max_norm)):
        gradients = [gradient * (norm / _norm(true)) * scale for gradient in true]
        observation[f"your result for a {name} gradient"] = attempt(gradients, scale, max_norm)
    return observation


def _norm(gradients: Sequence[Tensor]) -> float:
    return math.sqrt(sum(g.square().sum().item() for g in gradients))


def _clip(gradients: Sequence[Tensor], max_norm: float) -> list[Tensor]:
    norm = _norm(gradients)
    factor = min(1.0, max_norm / norm) if norm else 1.0
    return [g * factor for g in gradients]


def _none_after_overflow(
    attempt: Callable[..., list[Tensor]],
) -> Callable[..., list[Tensor] | None]:
    """Wrap an attempt to return None if any gradient is infinite or NaN."""

    def wrapped(gradients: Sequence[Tensor], scale: float, max_norm: float) -> list[Tensor] | None:
        return attempt(gradients, scale, max_norm) if math.isfinite(_norm(gradients)) else None

    return wrapped


def unscale_and_clip(
    gradients: Sequence[Tensor], scale: float, max_norm: float
) -> list[Tensor] | None:
    """Return the true gradients, clipped to `max_norm`; None if any is infinite or NaN."""
    true = [g / scale for g in gradients]
    return _clip(true, max_norm) if math.isfinite(_norm(true)) else None


@_none_after_overflow
def _clip_first(gradients, scale, max_norm):  # type: ignore[no-untyped-def]
    return [g / scale for g in _clip(gradients, max_norm)]


@_none_after_overflow
def _never_unscales(gradients, scale, max_norm):  # type: ignore[no-untyped-def]
    return _clip(gradients, max_norm)


@_none_after_overflow
def _never_clips(gradients, scale, max_norm):  # type: ignore[no-untyped-def]
    return [g / scale for g in gradients]


def _ignores_overflow(gradients, scale, max_norm):  # type: ignore[no-untyped-def]
    return _clip([g / scale for g in gradients], max_norm)


def _zeros_after_overflow(gradients, scale, max_norm):  # type: ignore[no-untyped-def]
    clipped = unscale_and_clip(gradients, scale, max_norm)
    return [torch.zeros_like(g) for g in gradients] if clipped is None else clipped


def _infinite_only(gradients, scale, max_norm):  # type: ignore[no-untyped-def]
    true = [g / scale for g in gradients]
    return None if _norm(true) == math.inf else _clip(true, max_norm)


@_none_after_overflow
def _each_alone(gradients, scale, max_norm):  # type: ignore[no-untyped-def]
    return [_clip([g / scale], max_norm)[0] for g in gradients]


def _unscales_in_place(gradients, scale, max_norm):  # type: ignore[no-untyped-def]
    for g in gradients:
        g.div_(scale)
    return unscale_and_clip(gradients, 1.0, max_norm)


UNSCALING = Exercise(
    name="unscale_and_clip",
    task="`unscale_and_clip(gradients, scale, max_norm) -> new list`, or None after an overflow",
    observe=_observe_unscaling,
    answer=unscale_and_clip,
    praise="You clip the true gradient, and a step that overflows is skipped.",
    hint="unscale first; then: is any entry not finite, and is the whole norm above `max_norm`?",
    mistakes={
        "clip before unscale": Mistake(
            _clip_first,
            "you clip the scaled gradient and divide by the scale afterwards, so every step is "
            "thousands of times too short.",
            "which gradient does `max_norm` limit, the scaled one or the true one?",
        ),
        "never unscales": Mistake(
            _never_unscales,
            "you never divide by the scale, so short gradients come out thousands of times too "
            "long.",
            "the loss was multiplied by `scale`; what does that do to its gradients?",
        ),
        "never clips": Mistake(
            _never_clips,
            "you remove the scale, but a long gradient stays long.",
            "what should happen when the norm exceeds `max_norm`?",
        ),
        "no look at overflow": Mistake(
            _ignores_overflow,
            "you return gradients even after an overflow, so NaN would get into the weights and "
            "stay there.",
            "what is the norm when one entry is infinite?",
        ),
        "zeros after an overflow": Mistake(
            _zeros_after_overflow,
            "after an overflow you return zeros, but with momentum or weight decay a step with "
            "zero gradients still moves the weights.",
            "the step should be skipped, not taken with zeros",
        ),
        "infinite, but not NaN": Mistake(
            _infinite_only,
            "you notice infinity but not NaN, which isn't equal to anything, not even itself.",
            "`math.isfinite` is False for both",
        ),
        "each tensor alone": Mistake(
            _each_alone,
            "you clip each tensor by its own norm, which changes the direction of the gradient.",
            "all tensors together have one norm, so how many factors do you need?",
        ),
        "in place": Mistake(
            _unscales_in_place,
            "you change the gradients you were given.",
            "methods that end with an underscore, `*=` and `/=` change a tensor in place",
        ),
    },
)


# --- accumulate -----------------------------------------------------------------------------------


class Net(nn.Module):
    """A linear model that records its forward and backward passes.

    Attributes:
        passes: "forward" and "backward", each with the number of images.
        leftover: for each backward pass, whether `.grad` holds anything when it begins.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        with fork_rng():
            torch.manual_seed(fold_in(seed, 12, 2))
            self.layer = nn.Linear(6, 3)
        self.passes: list[tuple[str, int]] = []
        self.leftover: list[bool] = []

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits (N, 3) from images (N, 6)."""
        self.passes.append(("forward", len(images)))
        logits = self.layer(images)
        if logits.requires_grad:
            logits.register_hook(self._record_backward)
        return logits

    def _record_backward(self, gradient: Tensor) -> None:
        self.passes.append(("backward", len(gradient)))
        grads = [p.grad for p in self.parameters()]
        self.leftover.append(any(grad is not None and bool(grad.any()) for grad in grads))

    def weights(self) -> Tensor:
        """Return a copy of all weights as one vector."""
        return torch.cat([p.detach().flatten() for p in self.parameters()])


def _observe_accumulating(attempt: Callable[..., Any], seed: int) -> Observation:
    g = generator(seed, 12, 3)
    observation: dict[str, Any] = {}
    for n, size in ((10, 4), (3, 4)):
        images = torch.randn(n, 6, generator=g)
        labels = torch.randint(0, 3, (n,), generator=g)
        model = Net(seed)
        before = model.weights()
        whole = torch.autograd.grad(
            F.cross_entropy(model.layer(images), labels), list(model.parameters())
        )
        length = 0.5 * torch.cat([gradient.flatten() for gradient in whole]).norm()
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=g)  # left over from an earlier batch
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
        losses: list[float] = []
        steps: list[int] = []
        optimizer.register_step_post_hook(lambda *arguments, steps=steps: steps.append(1))
        loss = attempt(model, optimizer, _recording(losses), images, labels, size)
        case = f"for {n} images with size={size}"
        sizes = [size for name, size in model.passes if name == "forward"]
        order = [name for name, _ in model.passes]
        step = model.weights() - before
        first, *later = model.leftover or [False]
        observation |= {
            f"the list of your microbatches {case}": sizes,
            f"the number of backward passes {case}": order.count("backward"),
            f"all forward passes come before the first backward pass {case}.": (
                len(sizes) > 1 and order == sorted(order, reverse=True)
            ),
            f"at your first `backward()`, `.grad` holds an earlier batch {case}.": first,
            f"at a later `backward()`, the gradients before it are gone {case}.": not all(later),
            f"the number of optimizer steps {case}": len(steps),
            f"the length of your step, as a multiple of the correct one, {case}": float(
                step.norm() / length
            ),
            f"the direction of your step {case}": step / step.norm().clamp(min=1e-12),
            f"you return the loss of the last microbatch only {case}.": (
                len(losses) > 1
                and any(
                    agree(loss, losses[-1] * weight)
                    for weight in (1, 1 / len(losses), n % size / n)
                )
            ),
            f"your mean loss {case}": loss,
        }
    return observation


def _recording(losses: list[float]) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a loss function that appends each of its values to a list."""

    def loss_fn(logits: Tensor, labels: Tensor) -> Tensor:
        loss = F.cross_entropy(logits, labels)
        losses.append(loss.item())
        return loss

    return loss_fn


def accumulate(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    size: int,
) -> float:
    """Take one step on a batch in microbatches of at most `size` images; return its mean loss."""
    optimizer.zero_grad()
    total = 0.0
    for x, y in zip(images.split(size), labels.split(size), strict=True):
        loss = loss_fn(model(x), y) * len(x) / len(images)
        loss.backward()
        total += loss.item()
    optimizer.step()
    return total


def _accumulator(
    weight: Callable[[int, int, int], float] = lambda n, n_batch, size: n / n_batch,
    zero_grad: Literal["once", "each time", "never"] = "once",
    step: Literal["once", "each time"] = "once",
) -> Callable[..., float]:
    """Build a variant of `accumulate`.

    Args:
        weight: the weight of a microbatch's loss, given the number of images in the microbatch and
            in the batch, and `size`.
        zero_grad: whether to call `zero_grad` per batch ("once") or per microbatch ("each time").
        step: whether to step per batch or per microbatch.
    """

    def attempt(model, optimizer, loss_fn, images, labels, size):  # type: ignore[no-untyped-def]
        if zero_grad == "once":
            optimizer.zero_grad()
        total = 0.0
        for x, y in zip(images.split(size), labels.split(size), strict=True):
            if zero_grad == "each time":
                optimizer.zero_grad()
            loss = loss_fn(model(x), y) * weight(len(x), len(images), size)
            loss.backward()
            if step == "each time":
                optimizer.step()
            total += loss.item()
        if step == "once":
            optimizer.step()
        return total

    return attempt


def _drops_the_remainder(model, optimizer, loss_fn, images, labels, size):  # type: ignore[no-untyped-def]
    n_used = max(len(images) // size, 1) * size
    return accumulate(model, optimizer, loss_fn, images[:n_used], labels[:n_used], size)


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


def _last_loss(model, optimizer, loss_fn, images, labels, size):  # type: ignore[no-untyped-def]
    losses: list[float] = []

    def recording_loss_fn(logits: Tensor, y: Tensor) -> Tensor:
        loss = loss_fn(logits, y)
        losses.append(loss.item())
        return loss

    accumulate(model, optimizer, recording_loss_fn, images, labels, size)
    return losses[-1]


def _loss_as_tensor(model, optimizer, loss_fn, images, labels, size):  # type: ignore[no-untyped-def]
    return torch.tensor(accumulate(model, optimizer, loss_fn, images, labels, size))


ACCUMULATING = Exercise(
    name="accumulate",
    task="`accumulate(model, optimizer, loss_fn, images, labels, size) -> mean loss`, in a "
    "single step",
    observe=_observe_accumulating,
    answer=accumulate,
    praise="Every image has the same weight, there is one step per batch, and only one microbatch "
    "is in memory at a time.",
    hint="what happens once per batch, what per microbatch, and with which weight?",
    mistakes={
        "divides by the configured number of parts": Mistake(
            _accumulator(weight=lambda n, n_batch, size: 1 / max(n_batch // size, 1)),
            "you divide by N // size, the number of full microbatches, but a short one is left "
            "over, so the step is too long.",
            "how many microbatches of at most 4 images does a batch of 10 have?",
        ),
        "mean of means": Mistake(
            _accumulator(weight=lambda n, n_batch, size: 1 / math.ceil(n_batch / size)),
            "you give every microbatch the same weight, so an image in the short last one counts "
            "for more than the others.",
            "the mean of [1, 1, 1, 1], [1, 1, 1, 1] and [5, 5] isn't the mean of 1, 1 and 5",
        ),
        "the last part weighs as a full one": Mistake(
            _accumulator(weight=lambda n, n_batch, size: size / n_batch),
            "you give every microbatch the weight size / N, even the last one, which has fewer "
            "images, so the weights don't add up to 1.",
            "how many images are in this microbatch?",
        ),
        "not divided at all": Mistake(
            _accumulator(weight=lambda n, n_batch, size: 1.0),
            "you add up the mean losses of the microbatches as they are, so with k of them the "
            "step is about k times too long.",
            "which fraction of the batch is this microbatch?",
        ),
        "forgets the remainder": Mistake(
            _drops_the_remainder,
            "you never use the images after the last full microbatch.",
            "N // size microbatches don't always cover all N images",
        ),
        "a step for each part": Mistake(
            _accumulator(zero_grad="each time", step="each time"),
            "the optimizer steps after every microbatch, so later ones see different weights, and "
            "momentum and the schedule count every step.",
            "how many times should the weights change per batch?",
        ),
        "zero_grad in the loop": Mistake(
            _accumulator(zero_grad="each time"),
            "you call `zero_grad` for every microbatch, so only the gradient of the last one is "
            "left.",
            "what accumulates in `.grad`, and when should it be reset?",
        ),
        "no zero_grad": Mistake(
            _accumulator(zero_grad="never"),
            "you add to the old gradients that were in `.grad` when your function was called.",
            "`backward` adds to `.grad`; where do you clear it?",
        ),
        "one backward pass at the end": Mistake(
            _one_backward,
            "all microbatches stay in memory until the one backward pass at the end, so nothing is "
            "saved.",
            "when can the activations of a microbatch be freed?",
        ),
        "all at once": Mistake(
            _all_at_once,
            "the whole batch goes through the model at once, which is what doesn't fit in memory.",
            "`images.split(size)` cuts a batch into microbatches",
        ),
        "loss of the last part": Mistake(
            _last_loss,
            "you return the loss of the last microbatch only.",
            "add up the losses, each weighted by its fraction of the batch",
        ),
        "loss as a tensor": Mistake(
            _loss_as_tensor,
            "you return the loss as a tensor, but the exercise asks for a plain number.",
            "`.item()` turns a tensor with one value into a number",
        ),
    },
)


# --- steps_to_pay ---------------------------------------------------------------------------------


def _observe_paying(attempt: Callable[..., Any], seed: int) -> Observation:
    g = generator(seed, 12, 4)
    # Multiples of 1/1024 are exact in binary, so rounding errors can't change the result.
    before = int(torch.randint(40, 80, (), generator=g)) / 1024
    saving = int(torch.randint(7, 20, (), generator=g)) / 1024
    steps = int(torch.randint(300, 900, (), generator=g))
    problems = (
        (12.0, 5.0, 3.0),
        (13.0, 5.0, 3.0),
        (15.0, 9.0, 5.0),
        (12.0, 5.0, 5.0),
        (12.0, 3.0, 5.0),
        (steps * saving, before, before - saving),
        ((steps + 0.25) * saving, before, before - saving),
        (steps * saving, before - saving, before),
    )
    return {
        f"your result for cost={c:g}, before={b:g}, after={a:g}": _as_int(attempt(c, b, a))
        for c, b, a in problems
    }


def _as_int(steps: Any) -> Any:
    """Convert 6.0 to 6, because `numpy.ceil` returns floats; return anything else as it is."""
    return int(steps) if isinstance(steps, float) and steps.is_integer() else steps


def steps_to_pay(cost: float, before: float, after: float) -> float:
    """Return the cost divided by the time that a step saves, rounded up; inf if it saves none."""
    saving = before - after
    return math.ceil(cost / saving) if saving > 0 else math.inf


def _inf_if_no_faster(
    formula: Callable[[float, float, float], float],
) -> Callable[[float, float, float], float]:
    """Wrap a formula for the number of steps to return inf if a step is no faster than before."""

    def attempt(cost: float, before: float, after: float) -> float:
        return formula(cost, before, after) if before > after else math.inf

    return attempt


def _negative(cost, before, after):  # type: ignore[no-untyped-def]
    return math.ceil(cost / (before - after)) if before != after else math.inf


def _absolute_difference(cost, before, after):  # type: ignore[no-untyped-def]
    return steps_to_pay(cost, max(before, after), min(before, after))


PAYING = Exercise(
    name="steps_to_pay",
    task="`steps_to_pay(cost, before, after) -> number of steps`, or `math.inf`",
    observe=_observe_paying,
    answer=steps_to_pay,
    praise="You divide the cost by the time that each step saves and round up, and compiling "
    "never pays off if a step saves nothing.",
    hint="how much time does one step save, and how often does that fit into the cost?",
    mistakes={
        "divided by the plain step": Mistake(
            _inf_if_no_faster(lambda cost, before, after: math.ceil(cost / before)),
            "you divide by the time of an uncompiled step, as if the compiled steps took no time.",
            "how much time does a single step save?",
        ),
        "divided by the compiled step": Mistake(
            _inf_if_no_faster(lambda cost, before, after: math.ceil(cost / after)),
            "you divide by the time of a compiled step, but that isn't what you gain by taking it.",
            "how much time does a single step save?",
        ),
        "rounded down": Mistake(
            _inf_if_no_faster(lambda cost, before, after: math.floor(cost / (before - after))),
            "you round down, but after that many steps the compiled run is still behind.",
            "if 2.3 steps would pay the cost back, how many whole steps do you need?",
        ),
        "one too many": Mistake(
            _inf_if_no_faster(lambda cost, before, after: math.floor(cost / (before - after)) + 1),
            "you return one step too many when the division has no remainder: once both runs took "
            "equally long, compiling has paid off.",
            "which function of `math` rounds up but leaves whole numbers alone?",
        ),
        "not rounded": Mistake(
            _inf_if_no_faster(lambda cost, before, after: cost / (before - after)),
            "the exercise asks for a whole number of steps.",
            "which function of `math` rounds up?",
        ),
        "negative steps": Mistake(
            _negative,
            "you return a negative number of steps if a compiled step is slower, but then "
            "compiling never pays off.",
            "what should you return when `after` is larger than `before`?",
        ),
        "size of the difference": Mistake(
            _absolute_difference,
            "you ignore the sign of the difference, so a slower compiled step counts as a saving.",
            "what should you return when `after` is larger than `before`?",
        ),
    },
)

EXERCISES = (UNSCALING, ACCUMULATING, PAYING)

"""Check the exercises of chapter 12: timing, gradient accumulation, and unscaling.

The public functions are the reference solutions; the private ones next to them are known mistakes.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab.course.check.compare import agree, short
from cnnlab.course.check.core import Exercise, Mistake, Observation, Prediction
from cnnlab.rng import fold_in, fork_rng, generator


# --- time_variants --------------------------------------------------------------------------------

Step = Callable[[], None]


class Device:
    """A simulated GPU with its clock: a call returns after 1 s, and its work goes on.

    Attributes:
        calls: the names of the steps that were called, in order.
        reads: how often the clock was read.
        waits: how often `synchronize` was called.
        early: whether it was ever read while the device was still working.
    """

    def __init__(self, durations: Mapping[str, Sequence[float]]) -> None:
        self.durations = {name: list(seconds) for name, seconds in durations.items()}
        self.now = self.busy_until = 0.0
        self.calls: list[str] = []
        self.reads, self.waits, self.early = 0, 0, False

    def steps(self) -> dict[str, Step]:
        """Return the steps by name; the n-th call of a step has its n-th duration."""
        return {name: self._step(name) for name in self.durations}

    def _step(self, name: str) -> Step:
        def step() -> None:
            n = self.calls.count(name)
            seconds = self.durations[name][min(n, len(self.durations[name]) - 1)]
            self.calls.append(name)
            self.busy_until = max(self.busy_until, self.now) + seconds
            self.now += 1.0

        return step

    def clock(self) -> float:
        """Return the seconds so far."""
        self.reads += 1
        self.early |= self.busy_until > self.now
        return self.now

    def synchronize(self) -> None:
        """Wait until the device has done its work."""
        self.waits += 1
        self.now = max(self.now, self.busy_until)


def _observe_timing(attempt: Callable[..., Any], seed: int) -> Observation:
    g = generator(seed, 12, 5)
    observation: dict[str, Any] = {}
    # The first duration is that of the warm-up. Median, mean, minimum and last value all differ.
    base = 4.0 + int(torch.randint(0, 8, (), generator=g))
    for rounds in (3, 5):
        tail = [base + 9.0, base, base + 1.0, base + 2.0, base + 20.0]
        device = Device({"a": [90.0, *tail[:rounds]], "b": [70.0, *(2 * t for t in tail[:rounds])]})
        answer = attempt(device.steps(), rounds, device.clock, device.synchronize)
        case = f"for steps a and b and rounds={rounds}"
        observation |= {
            f"the number of calls of each step {case}": [
                device.calls.count("a"),
                device.calls.count("b"),
            ],
            f"the order of your calls {case}": " ".join(device.calls),
            f"you never read `clock()` {case}.": device.reads == 0,
            f"you never call `synchronize()` {case}.": device.waits == 0,
            f"you read the clock while the device is still working {case}.": device.early,
            f"the names in your result {case}": sorted(answer)
            if isinstance(answer, Mapping)
            else answer,
            f"your seconds {case}": [answer["a"], answer["b"]]
            if isinstance(answer, Mapping) and {"a", "b"} <= {*answer}
            else answer,
        }
    return observation


def time_variants(
    variants: Mapping[str, Step],
    rounds: int,
    clock: Callable[[], float],
    synchronize: Callable[[], None],
) -> dict[str, float]:
    """Return the median seconds of each variant; the variants alternate, after a warm-up."""
    return _timer()(variants, rounds, clock, synchronize)


def _timer(
    summary: Callable[[Sequence[float]], float] = statistics.median,
    warm_up: Literal["left out", "counted", "none"] = "left out",
    order: Literal["alternating", "one by one"] = "alternating",
    waits: Literal["both", "before", "after", "never"] = "both",
) -> Callable[..., dict[str, float]]:
    """Build a variant of `time_variants`.

    Args:
        summary: what to make of the times of a variant.
        warm_up: whether each variant is called once more, first, and whether that call counts.
        order: whether the variants alternate, or each takes all its rounds at once.
        waits: when to call `synchronize`, before and after the step.
    """

    def attempt(variants, rounds, clock, synchronize):  # type: ignore[no-untyped-def]
        times: dict[str, list[float]] = {name: [] for name in variants}

        def measure(name: str, count: bool) -> None:
            if waits in ("both", "before"):
                synchronize()
            start = clock()
            variants[name]()
            if waits in ("both", "after"):
                synchronize()
            if count:
                times[name].append(clock() - start)

        turns = range(rounds if warm_up == "none" else rounds + 1)
        counted = {turn: warm_up != "left out" or turn > 0 for turn in turns}
        if order == "alternating":
            for turn in turns:
                for name in variants:
                    measure(name, counted[turn])
        else:
            for name in variants:
                for turn in turns:
                    measure(name, counted[turn])
        return {name: summary(values) for name, values in times.items()}

    return attempt


def _warms_up_unwatched(variants, rounds, clock, synchronize):  # type: ignore[no-untyped-def]
    for step in variants.values():
        step()
    return _timer(warm_up="none", waits="after")(variants, rounds, clock, synchronize)


TIMING = Exercise(
    name="time_variants",
    task="`time_variants(variants, rounds, clock, synchronize) -> {name: median seconds}`",
    observe=_observe_timing,
    answer=time_variants,
    praise="You leave out the warm-up, let the variants alternate, wait for the device, and take "
    "the median.",
    hint="what happens before the first round, within a round, and around each reading of the "
    "clock?",
    mistakes={
        "no warm-up": Mistake(
            _timer(warm_up="none"),
            "you never call a step without timing it, so the first round also measures one-time "
            "work such as allocating memory.",
            "how often should each step be called in all?",
        ),
        "warm-up counted": Mistake(
            _timer(warm_up="counted"),
            "the time of the warm-up call is among those of which you take the median.",
            "which call takes by far the longest, and should it count?",
        ),
        "one variant after the other": Mistake(
            _timer(order="one by one"),
            "you time all rounds of one step before the next one, so a slow minute of the machine "
            "hits only one of them.",
            "which loop should be the outer one, that over rounds or that over steps?",
        ),
        "no synchronize": Mistake(
            _timer(waits="never"),
            "you never wait for the device, so you measure how fast Python hands out the work.",
            "a call returns before its work is done; what waits for it?",
        ),
        "synchronize only before": Mistake(
            _timer(waits="before"),
            "you stop the clock before the device has done the step.",
            "what has to be finished when you read the clock for the second time?",
        ),
        "synchronize only after": Mistake(
            _warms_up_unwatched,
            "you wait after each step but not before it, so the first one also waits for the "
            "warm-up.",
            "what may the device still be doing when you read the clock for the first time?",
        ),
        "mean": Mistake(
            _timer(statistics.fmean),
            "you take the mean, which a single slow call spoils.",
            "which average ignores an outlier?",
        ),
        "minimum": Mistake(
            _timer(min),
            "you take the fastest call; the exercise asks for the median.",
            "what does `statistics.median` return?",
        ),
        "sum": Mistake(
            _timer(sum),
            "you return the seconds of all rounds together.",
            "how many seconds does a single call take?",
        ),
    },
)


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
            self.layer: nn.Module = nn.Linear(6, 3)
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


# --- accumulate_pixels ----------------------------------------------------------------------------

IGNORED = -100  # the default `ignore_index` of `F.cross_entropy`


class PixelNet(Net):
    """A model with one prediction per pixel: images (N, 1, 2, 2), logits (N, 3, 2, 2)."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        with fork_rng():
            torch.manual_seed(fold_in(seed, 12, 6))
            self.layer = nn.Conv2d(1, 3, 1)


# How many of the four pixels of each image have a label, and the size of the microbatches.
_PIXEL_CASES = (((4, 4, 1, 0, 2), 2), ((3, 1, 0, 0), 2))


def _observe_pixels(attempt: Callable[..., Any], seed: int) -> Observation:
    g = generator(seed, 12, 7)
    observation: dict[str, Any] = {}
    for labelled, size in _PIXEL_CASES:
        n = len(labelled)
        images = torch.randn(n, 1, 2, 2, generator=g)
        labels = torch.randint(0, 3, (n, 2, 2), generator=g)
        for image, count in enumerate(labelled):
            labels[image].view(-1)[count:] = IGNORED
        model = PixelNet(seed)
        before = model.weights()
        whole = torch.autograd.grad(
            F.cross_entropy(model.layer(images), labels), list(model.parameters())
        )
        length = 0.5 * torch.cat([gradient.flatten() for gradient in whole]).norm()
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=g)  # left over from an earlier batch
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        steps: list[int] = []
        optimizer.register_step_post_hook(lambda *arguments, steps=steps: steps.append(1))
        loss = attempt(model, optimizer, images, labels, size)
        case = f"for images with {list(labelled)} labelled pixels and size={size}"
        order = [name for name, _ in model.passes]
        sizes = [n_images for name, n_images in model.passes if name == "forward"]
        step = model.weights() - before
        first, *later = model.leftover or [False]
        observation |= {
            f"more than {size} images pass through the model at a time {case}.": (
                max(sizes, default=0) > size
            ),
            f"all forward passes come before the first backward pass {case}.": (
                len(sizes) > 1 and order == sorted(order, reverse=True)
            ),
            f"at your first `backward()`, `.grad` holds an earlier batch {case}.": first,
            f"at a later `backward()`, the gradients before it are gone {case}.": (
                bool(later) and not all(later)
            ),
            f"the number of optimizer steps {case}": len(steps),
            f"your step contains NaN {case}.": bool(step.isnan().any()),
            f"the length of your step, as a multiple of the correct one, {case}": float(
                step.norm() / length
            ),
            f"the direction of your step {case}": step / step.norm().clamp(min=1e-12),
            f"your mean loss {case}": loss,
        }
    return observation


def accumulate_pixels(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    size: int,
) -> float:
    """Take one step on the mean loss over all labelled pixels of a batch; return that loss."""
    return _pixel_accumulator()(model, optimizer, images, labels, size)


def _labelled(labels: Tensor) -> int:
    return int((labels != IGNORED).sum())


def _weight_by_pixels(sum_of_losses: Tensor, y: Tensor, labels: Tensor, parts: int) -> Tensor:
    return sum_of_losses / _labelled(labels)


def _weight_by_images(sum_of_losses: Tensor, y: Tensor, labels: Tensor, parts: int) -> Tensor:
    return sum_of_losses / max(_labelled(y), 1) * len(y) / len(labels)


def _mean_of_means(sum_of_losses: Tensor, y: Tensor, labels: Tensor, parts: int) -> Tensor:
    return sum_of_losses / max(_labelled(y), 1) / parts


def _sum_of_means(sum_of_losses: Tensor, y: Tensor, labels: Tensor, parts: int) -> Tensor:
    return sum_of_losses / max(_labelled(y), 1)


def _all_pixels(sum_of_losses: Tensor, y: Tensor, labels: Tensor, parts: int) -> Tensor:
    return sum_of_losses / labels.numel()


def _not_divided(sum_of_losses: Tensor, y: Tensor, labels: Tensor, parts: int) -> Tensor:
    return sum_of_losses


def _empty_is_nan(sum_of_losses: Tensor, y: Tensor, labels: Tensor, parts: int) -> Tensor:
    share = _labelled(y) / _labelled(labels)
    return sum_of_losses / torch.tensor(float(_labelled(y))) * share


def _pixel_accumulator(
    weigh: Callable[[Tensor, Tensor, Tensor, int], Tensor] = _weight_by_pixels,
    zero_grad: Literal["once", "each time", "never"] = "once",
    step: Literal["once", "each time"] = "once",
    returns: Literal["total", "last"] = "total",
) -> Callable[..., float]:
    """Build a variant of `accumulate_pixels`.

    Args:
        weigh: computes a microbatch's contribution from its sum of losses, its labels, the labels
            of the batch, and the number of microbatches.
        zero_grad: whether to call `zero_grad` per batch ("once") or per microbatch ("each time").
        step: whether to step per batch or per microbatch.
        returns: the sum of the contributions, or the last one.
    """

    def attempt(model, optimizer, images, labels, size):  # type: ignore[no-untyped-def]
        if zero_grad == "once":
            optimizer.zero_grad()
        pieces = list(zip(images.split(size), labels.split(size), strict=True))
        losses = []
        for x, y in pieces:
            if zero_grad == "each time":
                optimizer.zero_grad()
            sum_of_losses = F.cross_entropy(model(x), y, reduction="sum")
            loss = weigh(sum_of_losses, y, labels, len(pieces))
            loss.backward()
            if step == "each time":
                optimizer.step()
            losses.append(loss.item())
        if step == "once":
            optimizer.step()
        return sum(losses) if returns == "total" else losses[-1]

    return attempt


def _pixels_at_once(model, optimizer, images, labels, size):  # type: ignore[no-untyped-def]
    return accumulate_pixels(model, optimizer, images, labels, len(images))


def _pixels_one_backward(model, optimizer, images, labels, size):  # type: ignore[no-untyped-def]
    optimizer.zero_grad()
    total = torch.zeros(())
    for x, y in zip(images.split(size), labels.split(size), strict=True):
        total = total + F.cross_entropy(model(x), y, reduction="sum") / _labelled(labels)
    total.backward()
    optimizer.step()
    return total.item()


PIXELS = Exercise(
    name="accumulate_pixels",
    task="`accumulate_pixels(model, optimizer, images, labels, size) -> mean loss`, in a single "
    "step",
    observe=_observe_pixels,
    answer=accumulate_pixels,
    praise="Every labelled pixel of the batch has the same weight, wherever the cuts are. That's "
    "the bug of 2024, fixed.",
    hint="what does the mean loss of the whole batch divide by, and when do you know that number?",
    mistakes={
        "weighs by images": Mistake(
            _pixel_accumulator(_weight_by_images),
            "you weigh a microbatch by its images, but the loss is a mean over labelled pixels, "
            "of which some images have more.",
            "what would `F.cross_entropy` divide by, if the whole batch came at once?",
        ),
        "mean of means": Mistake(
            _pixel_accumulator(_mean_of_means),
            "you take the mean of the microbatches' means, although they have different numbers "
            "of labelled pixels. That was the bug of 2024.",
            "what would `F.cross_entropy` divide by, if the whole batch came at once?",
        ),
        "sum of means": Mistake(
            _pixel_accumulator(_sum_of_means),
            "you add up the microbatches' mean losses, each divided by its own labelled pixels.",
            "by how many pixels should every loss be divided, wherever the cuts are?",
        ),
        "divides by all pixels": Mistake(
            _pixel_accumulator(_all_pixels),
            "you divide by all pixels, but those with the label -100 don't count, so the step is "
            "too short.",
            "which pixels does the mean of `F.cross_entropy` leave out?",
        ),
        "not divided at all": Mistake(
            _pixel_accumulator(_not_divided),
            "you add up the losses of all pixels and never divide, so the step is too long.",
            "the step should be that of the *mean* loss: over how many pixels?",
        ),
        "NaN from an empty microbatch": Mistake(
            _pixel_accumulator(_empty_is_nan),
            "you take the mean over a microbatch without any labelled pixel, which is 0/0. Its "
            "weight is 0, and 0 times NaN is NaN.",
            "which `reduction` of `F.cross_entropy` can't divide by zero?",
        ),
        "a step for each part": Mistake(
            _pixel_accumulator(zero_grad="each time", step="each time"),
            "the optimizer steps after every microbatch.",
            "how many times should the weights change per batch?",
        ),
        "zero_grad in the loop": Mistake(
            _pixel_accumulator(zero_grad="each time"),
            "you call `zero_grad` for every microbatch, so only the gradient of the last one is "
            "left.",
            "what accumulates in `.grad`, and when should it be reset?",
        ),
        "no zero_grad": Mistake(
            _pixel_accumulator(zero_grad="never"),
            "you add to the old gradients that were in `.grad` when your function was called.",
            "`backward` adds to `.grad`; where do you clear it?",
        ),
        "one backward pass at the end": Mistake(
            _pixels_one_backward,
            "all microbatches stay in memory until the one backward pass at the end, so nothing is "
            "saved.",
            "when can the activations of a microbatch be freed?",
        ),
        "all at once": Mistake(
            _pixels_at_once,
            "the whole batch goes through the model at once, which is what doesn't fit in memory.",
            "`images.split(size)` cuts a batch into microbatches",
        ),
        "loss of the last part": Mistake(
            _pixel_accumulator(returns="last"),
            "you return the contribution of the last microbatch only.",
            "add up the contributions",
        ),
    },
)

EXERCISES = (TIMING, ACCUMULATING, PIXELS, UNSCALING)

PREDICTIONS = (
    Prediction(
        question="How many bytes per weight does autocast take with AdamW?",
        text=(
            "How many bytes per weight does training with autocast to bfloat16 and AdamW take, "
            "for the weights, the gradients and the optimizer together?"
        ),
        answer=16,
        why=(
            "Weights, gradients and AdamW's two averages all stay in 32 bits. Autocast saves "
            "activations."
        ),
        section="Sixteen bits",
        within=0.5,
    ),
    Prediction(
        question="Two processes with batch norm: the same model or another one?",
        text=(
            "A network with batch norm is trained by two processes with 16 images each "
            "(DistributedDataParallel). Is the result the same as with one process and 32 "
            "images?"
        ),
        answer="different",
        why=(
            "Batch norm sees only the images of its own process. `nn.SyncBatchNorm` exchanges "
            "the statistics."
        ),
        section="Several processes",
        options=("same", "different"),
    ),
)

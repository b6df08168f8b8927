"""Find a learning rate, search a space of hyperparameters, and narrow it down."""

import copy
import inspect
import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cnnlab.augment import Augment, as_batch_transform
from cnnlab.batches import training_batches
from cnnlab.errors import NonFiniteError
from cnnlab.guards import check_batch, check_targets
from cnnlab.modes import train_mode
from cnnlab.rng import fold_in, preserved, seed_at


if TYPE_CHECKING:
    from pandas import DataFrame

    from cnnlab.plots import Plot


@dataclass(frozen=True)
class LRCurve:
    """The losses of a run whose learning rate rose from step to step.

    Attributes:
        rates: of the first parameter group, one a step, evenly spaced in log rate.
        losses: as measured; the sweep ends where they are no longer finite or four times the best.
    """

    rates: list[float]
    losses: list[float]

    def smoothed(self, beta: float = 0.9) -> list[float]:
        """Return the exponential moving average of the losses, corrected for its start from zero.

        After k losses the average holds a share 1 - beta^k of them; dividing by it makes a constant loss
        come out constant (Kingma & Ba 2015, section 3, do the same for moments).
        """
        average, out = 0.0, []
        for k, loss in enumerate(self.losses, start=1):
            average = beta * average + (1 - beta) * loss
            out.append(average / (1 - beta**k))
        return out

    def suggest(self) -> float | None:
        """Return the rate at which the loss falls most steeply in log rate; None when it never falls.

        The slope at a rate is that of the straight line through the losses around it, a sixth of the ladder,
        by least squares: a single noisy loss cannot decide. It is a place to start from, never applied by itself.
        Smith 2017, section 3.3, https://arxiv.org/abs/1506.01186, with the slope taken against log rate.
        """
        n = len(self.losses)
        half = max(2, n // 12)
        if n < 2 * half + 1:
            return None
        x, y = np.log(self.rates), np.array(self.losses)
        centres = range(half, n - half)
        slopes = [
            np.polyfit(x[i - half : i + half + 1], y[i - half : i + half + 1], 1)[0]
            for i in centres
        ]
        steepest = int(np.argmin(slopes))
        return self.rates[centres[steepest]] if slopes[steepest] < 0 else None

    def plot(self) -> "Plot":
        """Draw loss against rate, measured and smoothed, on a logarithmic axis."""
        from cnnlab import plots

        found = self.suggest()
        advice = f"steepest at {found:.2g}" if found is not None else "it never falls"
        return plots.lines(
            self.rates,
            {"measured": self.losses, "smoothed": self.smoothed()},
            xlabel="learning rate",
            ylabel="training loss (nats)",
            message=f"The loss while the rate rises: {advice}.",
            log="x",
        )


def lr_find(
    model: nn.Module,
    optimizer: Optimizer,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    loader: Iterable,
    *,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 100,
    batch_transform: Any = None,
) -> LRCurve:
    """Train a copy for some steps while the learning rate grows from `low` to `high`, and record the loss.

    Model, optimizer, loader and all random generators stay as they are, also when it raises: the sweep runs on
    copies. Groups keep the ratio of their rates. A loader shorter than `steps` is read again in the order of its
    next epoch.

    Args:
        model: as it is now; usually fresh.
        optimizer: over its parameters, with its momentum and weight decay.
        loss_fn: (logits, targets) -> mean loss.
        loader: training batches.
        low: first rate of the first group.
        high: last rate of the first group.
        steps: rates on the ladder, evenly spaced in log rate.
        batch_transform: the one the training will use.

    Returns:
        The curve; `.suggest()` reads it, `.plot()` draws it.

    Raises:
        ValueError: not 0 < low < high, fewer than two steps, or the loader has no batch.
        NonFiniteError: the very first loss is NaN or infinite.

    >>> batches = [(torch.randn(8, 2), torch.arange(8) % 2)]
    >>> net = nn.Linear(2, 2)
    >>> curve = lr_find(net, torch.optim.SGD(net.parameters(), lr=1), nn.CrossEntropyLoss(), batches, steps=5)
    >>> [f"{rate:.2g}" for rate in curve.rates]
    ['1e-06', '5.6e-05', '0.0032', '0.18', '10']
    """
    if not 0 < low < high or steps < 2:
        raise ValueError(
            f"lr_find needs 0 < low < high and two or more steps, got {low}, {high}, {steps}"
        )
    # One deepcopy of the pair makes the new optimizer point at the new model.
    model, optimizer = copy.deepcopy((model, optimizer))
    transform, device = as_batch_transform(batch_transform), next(model.parameters()).device
    first = optimizer.param_groups[0]["lr"] or 1.0
    ratios = [group["lr"] / first for group in optimizer.param_groups]
    ladder = [low * (high / low) ** (i / (steps - 1)) for i in range(steps)]
    losses: list[float] = []
    with preserved(), _untouched(loader) as source, _steps_kept(batch_transform):
        train_mode(model)
        for i, (rate, batch) in enumerate(zip(ladder, _endless(source), strict=False)):
            seed_at(0, i, 2)
            for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
                group["lr"] = rate * ratio
            images, targets = (t.to(device) for t in check_batch(batch))
            images, targets = transform(images, targets, i)
            optimizer.zero_grad()
            logits = model(images)
            check_targets(logits, targets)
            loss = loss_fn(logits, targets)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if not math.isfinite(losses[-1]) or losses[-1] > 4 * min(losses):
                break
    if not math.isfinite(losses[-1]):
        losses.pop()
    if not losses:
        raise NonFiniteError(
            f"the loss is not finite at the lowest rate, {low:g}, so no rate is to blame; "
            "cnnlab.diagnose.nan_hunt finds where it begins"
        )
    return LRCurve(ladder[: len(losses)], losses)


@dataclass(frozen=True)
class Uniform:
    """Numbers between `low` and `high`, all equally likely."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"Uniform needs low < high, got {self.low} and {self.high}")

    def sample(self, draw: random.Random) -> float:
        """Draw a number."""
        return draw.uniform(self.low, self.high)

    def narrowed(self, values: Sequence[float]) -> "Uniform":
        """Return the range of `values` with a margin of a tenth of this one, inside this one."""
        margin = (self.high - self.low) / 10
        return Uniform(max(self.low, min(values) - margin), min(self.high, max(values) + margin))


@dataclass(frozen=True)
class LogUniform:
    """Positive numbers between `low` and `high` whose logarithm is uniform: each decade as likely as another."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise ValueError(f"LogUniform needs 0 < low < high, got {self.low} and {self.high}")

    def sample(self, draw: random.Random) -> float:
        """Draw a number."""
        value = math.exp(draw.uniform(math.log(self.low), math.log(self.high)))
        return min(max(value, self.low), self.high)  # exp(log(x)) may miss x by a last digit

    def narrowed(self, values: Sequence[float]) -> "LogUniform":
        """Return the range of `values` with a margin of a tenth of this one in log, inside this one."""
        margin = (self.high / self.low) ** 0.1
        return LogUniform(max(self.low, min(values) / margin), min(self.high, max(values) * margin))


@dataclass(frozen=True)
class Choice:
    """One of some options, all equally likely."""

    options: Sequence[Any]

    def __post_init__(self) -> None:
        if not len(self.options):
            raise ValueError("Choice needs at least one option")

    def sample(self, draw: random.Random) -> Any:
        """Draw an option."""
        return self.options[draw.randrange(len(self.options))]

    def narrowed(self, values: Sequence[Any]) -> "Choice":
        """Return the options that are among `values`, in their old order."""
        return Choice([option for option in self.options if option in values])


Space = Mapping[str, Uniform | LogUniform | Choice]


def random_search(
    objective: Callable[..., float], space: Space, n: int, seed: int = 0, *, jobs: int = 1
) -> "DataFrame":
    """Try `n` settings drawn from a space.

    Trial i is a function of (seed, i) alone: a longer search begins with the shorter one, and processes beside
    each other draw the same as one. When few of the parameters matter, random trials see more values of
    those than a grid of the same size (Bergstra & Bengio 2012, https://jmlr.org/papers/v13/bergstra12a.html).

    Args:
        objective: called with the parameters by name, or with one dictionary when it takes a single argument
            of another name; returns a score, higher is better.
        space: name -> `LogUniform`, `Uniform` or `Choice`.
        n: trials.
        seed: chooses them.
        jobs: processes at a time; the objective must then be a function of a module.

    Returns:
        A row a trial, in the order of the trials: trial, the parameters, score, error. A trial that raised has
        a NaN score and its error; the others are not lost with it.

    Raises:
        ValueError: no trial, or an empty space.

    >>> table = random_search(lambda rate: -abs(rate - 0.1), {"rate": LogUniform(1e-3, 1)}, 3)
    >>> list(table.columns)
    ['trial', 'rate', 'score', 'error']
    """
    if n < 1 or not space:
        raise ValueError(
            f"a search needs a trial and a parameter, got n={n} and {len(space)} parameters"
        )
    drawn = []
    for trial in range(n):
        draw = random.Random(fold_in(seed, trial))
        drawn.append({name: values.sample(draw) for name, values in space.items()})
    return _evaluate(objective, drawn, jobs)


def grid_search(
    objective: Callable[..., float], space: Mapping[str, Choice | Sequence[Any]], *, jobs: int = 1
) -> "DataFrame":
    """Try every combination of options; the last parameter changes fastest.

    Args:
        objective: as in `random_search`.
        space: name -> `Choice`, or a list of options.
        jobs: processes at a time.

    Returns:
        A table as that of `random_search`.

    Raises:
        ValueError: a parameter is a range; a grid needs options.

    >>> len(grid_search(lambda a, b: a + b, {"a": [1, 2], "b": [10, 20, 30]}))
    6
    """
    for name, values in space.items():
        if isinstance(values, Uniform | LogUniform):
            raise ValueError(  # noqa: TRY004 - the value does not fit, not its type alone
                f"{name} is a {type(values).__name__}; a grid needs options: Choice([0.01, 0.1, 1.0])"
            )
    axes = [v.options if isinstance(v, Choice) else v for v in space.values()]
    combinations = itertools.product(*axes)
    return _evaluate(objective, [dict(zip(space, c, strict=True)) for c in combinations], jobs)


def refine(space: Space, results: "DataFrame", top: int = 3) -> dict[str, Any]:
    """Narrow a space down to where the best trials lie: coarse first, then fine.

    Args:
        space: as it was searched.
        results: what the search returned.
        top: trials that count as best; NaN scores never do.

    Returns:
        A space inside the old one: the range of the best trials and a margin of a tenth on each side.

    Raises:
        ValueError: fewer than `top` trials have a score.

    >>> import pandas as pd
    >>> results = pd.DataFrame({"depth": [2, 5, 8], "score": [0.5, 0.9, 0.7]})
    >>> refine({"depth": Uniform(0, 10)}, results, top=2)
    {'depth': Uniform(low=4.0, high=9.0)}
    """
    best = results.dropna(subset=["score"]).nlargest(top, "score")
    if top < 1 or len(best) < top:
        raise ValueError(f"refine needs top={top} trials with a score, there are {len(best)}")
    return {name: values.narrowed(best[name].tolist()) for name, values in space.items()}


def _evaluate(objective: Callable[..., float], settings: list[dict], jobs: int) -> "DataFrame":
    import pandas as pd

    if jobs == 1:
        outcomes = [_try(objective, setting) for setting in settings]
    else:
        from joblib import Parallel, delayed  # comes with scikit-learn

        outcomes = Parallel(n_jobs=jobs)(delayed(_try)(objective, s) for s in settings)
    rows = [
        {"trial": i, **setting, **outcome}
        for i, (setting, outcome) in enumerate(zip(settings, outcomes, strict=True))
    ]
    frame = pd.DataFrame(rows)
    for name in settings[0] if settings else ():
        if any(setting[name] is None for setting in settings):  # pandas would make NaN of it
            frame[name] = pd.Series([setting[name] for setting in settings], dtype=object)
    return frame


def _try(objective: Callable[..., float], setting: dict[str, Any]) -> dict[str, Any]:
    """Score of one setting; an error is kept beside the scores of the others."""
    try:
        inspect.signature(objective).bind(**setting)
    except TypeError:
        call: Callable[[], float] = lambda: objective(setting)
    else:
        call = lambda: objective(**setting)
    try:
        return {"score": float(call()), "error": ""}
    except Exception as error:  # noqa: BLE001 - a search of a night must not end with one bad trial
        return {"score": math.nan, "error": f"{type(error).__name__}: {error}"}


@contextmanager
def _untouched(loader: Iterable) -> Iterator[Iterable]:
    """The loader to sweep over; where it stands and its own generators are put back on exit."""
    holders: list[Any] = [loader, getattr(loader, "sampler", None)]
    generators = [
        h.generator for h in holders if isinstance(getattr(h, "generator", None), torch.Generator)
    ]
    states = [generator.get_state() for generator in generators]
    try:
        yield copy.copy(loader) if hasattr(loader, "seek") else loader
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


@contextmanager
def _steps_kept(transform: Any) -> Iterator[None]:
    """Put back the steps at which augmentations stand, whose strength may depend on them."""
    parts = transform if isinstance(transform, list | tuple) else [transform]
    with ExitStack() as stack:
        for part in parts:
            if isinstance(part, list | tuple):
                stack.enter_context(_steps_kept(part))
            elif isinstance(part, Augment):
                stack.callback(setattr, part, "step", part.step)
        yield


def _endless(loader: Iterable) -> Iterator[Any]:
    """Training batches, epoch after epoch."""
    for epoch in itertools.count():
        empty = True
        for batch in training_batches(loader, 0, epoch, 0):
            empty = False
            yield batch
        if empty:
            raise ValueError("the loader gave no batch; use a list or a loader with data")

"""Search a space of hyperparameters, at random or on a grid, and narrow it down."""

import inspect
import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cnnlab.rng import fold_in


if TYPE_CHECKING:
    from pandas import DataFrame


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

"""Search hyperparameters at random or on a grid, and narrow the space around the best trials."""

import inspect
import itertools
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnlab.errors import holds
from cnnlab.rng import fold_in
from cnnlab.study.runs import describe_error, number_of_jobs, run_all
from cnnlab.training.checks.options import positive_int


if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Uniform:
    """A uniform distribution over the numbers from `low` to `high`."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _as_plain_numbers(self)
        if not holds(lambda: -math.inf < self.low < self.high < math.inf):
            raise ValueError(
                f"Uniform needs low < high, got low={self.low!r} and high={self.high!r}"
            )

    def sample(self, rng: random.Random) -> float:
        """Draw a number."""
        return rng.uniform(self.low, self.high)

    def narrowed(self, values: Sequence[float]) -> "Uniform":
        """Return the range of `values` with a margin on each side, within this range.

        The margin is a tenth of this range.
        """
        margin = (self.high - self.low) / 10
        return Uniform(max(self.low, min(values) - margin), min(self.high, max(values) + margin))


@dataclass(frozen=True)
class LogUniform:
    """A distribution over the numbers from `low` to `high` whose logarithm is uniform.

    Each decade is equally likely. `low` must be positive.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        _as_plain_numbers(self)
        if not holds(lambda: 0 < self.low < self.high < math.inf):
            raise ValueError(
                f"LogUniform needs 0 < low < high, got low={self.low!r} and high={self.high!r}"
            )

    def sample(self, rng: random.Random) -> float:
        """Draw a number."""
        value = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        # Clamped, because exp(log(x)) can differ from x in its last digit.
        return min(max(value, self.low), self.high)

    def narrowed(self, values: Sequence[float]) -> "LogUniform":
        """Return the range of `values` with a margin on each side, within this range.

        The margin is a tenth of this range on the log scale.
        """
        margin = (self.high / self.low) ** 0.1
        return LogUniform(max(self.low, min(values) / margin), min(self.high, max(values) * margin))


@dataclass(frozen=True)
class Choice:
    """A uniform distribution over a list of options."""

    options: Sequence[Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", _as_options(self.options))
        if not len(self.options):
            raise ValueError("Choice needs at least one option")

    def sample(self, rng: random.Random) -> Any:
        """Draw an option."""
        return self.options[rng.randrange(len(self.options))]

    def narrowed(self, values: Sequence[Any]) -> "Choice":
        """Return the options that are among `values`, in their original order."""
        return Choice([option for option in self.options if option in values])


Space = Mapping[str, Uniform | LogUniform | Choice]


def _as_plain_numbers(values: Uniform | LogUniform) -> None:
    """Turn numpy's numbers into Python's."""
    for name in ("low", "high"):
        value = getattr(values, name)
        if isinstance(value, np.generic):
            object.__setattr__(values, name, value.item())


def _as_options(options: Any) -> Sequence[Any]:
    """Return a list of options, with numpy's numbers as Python's.

    Raises:
        TypeError: it is a single text or number, or has no order.
    """
    if hasattr(options, "tolist"):  # an array, or a column of a table
        options = options.tolist()
    if isinstance(options, str | set | frozenset) or not isinstance(options, Iterable):
        raise TypeError(
            f"options must be in a list, such as Choice(['a', 'b']); got {options!r:.80}"
        )
    if not isinstance(options, Sequence):
        options = list(options)
    if any(isinstance(option, np.generic) for option in options):
        return [o.item() if isinstance(o, np.generic) else o for o in options]
    return options


def random_search(
    objective: Callable[..., float], space: Space, n: int, seed: int = 0, *, jobs: int = 1
) -> "DataFrame":
    """Evaluate an objective for `n` settings drawn at random from a space.

    After Ctrl-C, or the stop button of a notebook, the trials that have finished are returned. The
    trial that was cut short never counts.

    The setting of trial i depends on (seed, i) only. So a longer search begins with the same trials
    as a shorter one, and the number of processes makes no difference. If only a few of the
    parameters matter, a random search tries more values of those than a grid of the same size
    (Bergstra & Bengio 2012, https://jmlr.org/papers/v13/bergstra12a.html).

    Args:
        objective: returns a score, higher is better. It is called with the parameters by name; if
            its only argument has another name, it gets them all in one dictionary.
        space: name -> `LogUniform`, `Uniform` or `Choice`.
        n: the number of trials.
        seed: determines the settings.
        jobs: the number of parallel processes. With more than one, the objective must be a function
            from a module, not from a notebook.

    Returns:
        A table with one row per trial, in the order of the trials: trial, the parameters, score,
        error. If a trial raised an error, its score is NaN and the search continues.

    Raises:
        ValueError: n is less than 1, or the space is empty.
        TypeError: the space isn't a dictionary of `LogUniform`, `Uniform` and `Choice`.
        KeyboardInterrupt: after an interrupt, if no trial has finished.

    >>> table = random_search(lambda lr: -abs(lr - 0.1), {"lr": LogUniform(1e-3, 1)}, n=3)
    >>> list(table.columns)
    ['trial', 'lr', 'score', 'error']
    """
    n = check_search(space, n)
    settings = []
    for trial in range(n):
        rng = random.Random(fold_in(seed, trial))
        settings.append({name: values.sample(rng) for name, values in space.items()})
    return _evaluate(objective, settings, jobs)


def grid_search(
    objective: Callable[..., float], space: Mapping[str, Choice | Sequence[Any]], *, jobs: int = 1
) -> "DataFrame":
    """Evaluate an objective for every combination of options; the last parameter varies fastest.

    Args:
        objective: as in `random_search`.
        space: name -> `Choice`, or a list of options.
        jobs: the number of parallel processes.

    Returns:
        A table with the same columns as that of `random_search`, also after an interrupt.

    Raises:
        ValueError: a parameter has a range instead of options.
        TypeError: the options of a parameter aren't in a list.
        KeyboardInterrupt: after an interrupt, if no trial has finished.

    >>> len(grid_search(lambda a, b: a + b, {"a": [1, 2], "b": [10, 20, 30]}))
    6
    """
    if not isinstance(space, Mapping) or not space:
        raise ValueError(
            f"a grid needs options by name, such as {{'lr': [0.1, 1.0]}}; got {space!r:.80}"
        )
    for name, values in space.items():
        _check_name(name)
        if isinstance(values, Uniform | LogUniform):
            raise ValueError(  # noqa: TRY004 - the value doesn't fit here, its type is allowed elsewhere
                f"{name} is a {type(values).__name__}, and a grid needs options: "
                "Choice([0.01, 0.1, 1.0])"
            )
    options = [v.options if isinstance(v, Choice) else _as_options(v) for v in space.values()]
    if not all(map(len, options)):
        raise ValueError(f"every parameter of a grid needs at least one option, got {space!r:.80}")
    settings = [dict(zip(space, values, strict=True)) for values in itertools.product(*options)]
    return _evaluate(objective, settings, jobs)


def refine(space: Space, results: "DataFrame", top: int = 3) -> dict[str, Any]:
    """Narrow a space around the best trials, so that a fine search can follow a coarse one.

    Args:
        space: the space that was searched.
        results: the table that the search returned.
        top: the number of best trials; those with a NaN score never count.

    Returns:
        A space inside the old one: for each parameter, the range of the best trials plus a tenth of
        the old range on each side.

    Raises:
        ValueError: fewer than `top` trials have a score.

    >>> import pandas as pd
    >>> results = pd.DataFrame({"depth": [2, 5, 8], "score": [0.5, 0.9, 0.7]})
    >>> refine({"depth": Uniform(0, 10)}, results, top=2)
    {'depth': Uniform(low=4.0, high=9.0)}
    """
    missing = [name for name in ("score", *space) if name not in results]
    if missing:
        raise ValueError(
            f"the results have no column {missing[0]!r}: refine takes the table that a search over "
            "this space returned"
        )
    top = positive_int("top", top, "a number of trials")
    best = results.dropna(subset=["score"]).nlargest(top, "score")
    if len(best) < top:
        raise ValueError(
            f"top must be at least 1 and at most the number of trials with a score; got top={top} "
            f"and {len(best)} trials"
        )
    return {name: values.narrowed(best[name].tolist()) for name, values in space.items()}


def check_search(space: Space, n: Any) -> int:
    """Return the number of trials, also if it is one of numpy's.

    Raises:
        ValueError: there is no trial or no parameter.
        TypeError: the values of a parameter are none of the three kinds.
    """
    try:
        n_trials = index(n)
    except TypeError:
        n_trials = 0
    if not isinstance(space, Mapping):
        raise TypeError(
            f"a space must be a dictionary {{'lr': LogUniform(1e-4, 1)}}, got {space!r:.80}"
        )
    if n_trials < 1 or not space:
        raise ValueError(
            "a search needs at least one trial and one parameter, got "
            f"n={n!r} and {len(space)} parameters"
        )
    for name, values in space.items():
        _check_name(name)
        if not isinstance(values, Uniform | LogUniform | Choice):
            raise TypeError(
                f"the values of {name} must be a LogUniform(low, high), a Uniform(low, high) or a "
                f"Choice([...]), got {values!r:.80}"
            )
    return n_trials


def _check_name(name: str) -> None:
    """Refuse a parameter that the table of results couldn't tell from its own columns."""
    if name in ("trial", "score", "error"):
        raise ValueError(
            f"a parameter can't be called {name!r}, because the table of results has a column of "
            "that name: give it another one"
        )


def _evaluate(objective: Callable[..., float], settings: list[dict], jobs: int) -> "DataFrame":
    """Run one trial per setting, and return those that finish as a table."""
    import pandas as pd

    calls = [partial(_run_trial, objective, setting) for setting in settings]
    outcomes = run_all(calls, number_of_jobs(jobs))
    rows = []
    for trial, (setting, outcome) in enumerate(zip(settings, outcomes, strict=True)):
        if outcome is not None:  # None after an interrupt
            # The error of a trial is in its value; this one is of its process, which was killed.
            result = outcome.value if outcome.error is None else _failed(outcome.error)
            rows.append({"trial": trial, **setting, **result})
    frame = pd.DataFrame(rows)
    for name in settings[0] if settings else ():
        if any(row[name] is None for row in rows):  # pandas would turn None into NaN
            frame[name] = pd.Series([row[name] for row in rows], dtype=object)
    return frame


def _run_trial(objective: Callable[..., float], setting: dict[str, Any]) -> dict[str, Any]:
    """Return the score of one setting; if the objective raises an error, NaN and the error."""
    try:
        inspect.signature(objective).bind(**setting)
    except TypeError:
        call: Callable[[], float] = lambda: objective(setting)
    else:
        call = lambda: objective(**setting)
    try:
        return {"score": float(call()), "error": ""}
    except Exception as error:  # noqa: BLE001 - one failed trial must not end an overnight search
        return _failed(error)


def _failed(error: Exception) -> dict[str, Any]:
    return {"score": math.nan, "error": describe_error(error)}

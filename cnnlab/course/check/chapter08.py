"""Check the exercises of chapter 8: log-uniform draws, the best setting and the next search range.

The public functions are the reference solutions; the private ones next to them are known mistakes.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cnnlab.course.check.compare import agree, short
from cnnlab.course.check.core import Exercise, Mistake, Observation
from cnnlab.rng import fold_in


Row = dict[str, float]  # one run: "rate", "decay", "seed" and "valid_acc"
Setting = tuple[float, float]  # (learning rate, weight decay)


# --- log_uniform ----------------------------------------------------------------------------------


def _observe_log_uniform(attempt: Callable[..., Any], seed: int) -> Observation:
    rng = random.Random(fold_in(seed, 8, 1))
    few = {
        f"your value for u={u:g}, low=0.01, high=1": attempt(u, 0.01, 1.0) for u in (0.0, 0.5, 1.0)
    }
    first, again = attempt(0.5, 0.01, 1.0), attempt(0.5, 0.01, 1.0)
    low, high = 10 ** rng.uniform(-6, -3), 10 ** rng.uniform(-1.8, 1)
    draws = (0.0, round(rng.uniform(0.1, 0.45), 2), round(rng.uniform(0.55, 0.9), 2), 1.0)
    # Divided by `low`, small values are compared as precisely as large ones.
    many = {
        f"your value, divided by low, for u={u}, low={low:.3g}, high={high:.3g}": attempt(
            u, low, high
        )
        / low
        for u in draws
    }
    return {
        "the same `u` gives two different values: the caller has drawn it.": not agree(
            first, again
        ),
        **few,
        **many,
    }


def log_uniform(u: float, low: float, high: float) -> float:
    """Return the value whose logarithm is the fraction `u` of the way from log low to log high."""
    return low * (high / low) ** u


def _between(u: float, a: float, b: float) -> float:
    """Interpolate linearly from `a` at u = 0 to `b` at u = 1."""
    return a + u * (b - a)


def _exp_of_log10(u, low, high):  # type: ignore[no-untyped-def]
    return math.exp(_between(u, math.log10(low), math.log10(high)))


def _power_of_ten_of_log(u, low, high):  # type: ignore[no-untyped-def]
    return 10.0 ** _between(u, math.log(low), math.log(high))


def _swapped(u, low, high):  # type: ignore[no-untyped-def]
    return log_uniform(1 - u, low, high)


def _still_a_log(u, low, high):  # type: ignore[no-untyped-def]
    return _between(u, math.log(low), math.log(high))


def _still_a_log10(u, low, high):  # type: ignore[no-untyped-def]
    return _between(u, math.log10(low), math.log10(high))


def _log_of_uniform(u, low, high):  # type: ignore[no-untyped-def]
    return math.log(_between(u, low, high))


def _without_low(u, low, high):  # type: ignore[no-untyped-def]
    return (high / low) ** u


def _whole_decades(u, low, high):  # type: ignore[no-untyped-def]
    return 10.0 ** round(_between(u, math.log10(low), math.log10(high)))


LOG_UNIFORM = Exercise(
    name="log_uniform",
    task="`log_uniform(u, low, high) -> value`, for a uniform draw `u` from 0 to 1",
    observe=_observe_log_uniform,
    answer=log_uniform,
    praise="Every decade between low and high gets the same fraction of the draws.",
    hint="which should be uniform between its two ends: the value or its logarithm?",
    mistakes={
        "uniform": Mistake(
            _between,
            "you draw uniformly between the ends, so nearly all values fall into the last decade.",
            "which should be uniform, the value or its logarithm?",
        ),
        "exp of log10": Mistake(
            _exp_of_log10,
            "you take the logarithm with base 10, but convert back with base e.",
            "at u = 0 you should get back low: which function undoes the logarithm you started "
            "with?",
        ),
        "power of ten of log": Mistake(
            _power_of_ten_of_log,
            "you take the logarithm with base e, but convert back with base 10.",
            "at u = 0 you should get back low: which function undoes the logarithm you started "
            "with?",
        ),
        "low and high swapped": Mistake(
            _swapped,
            "you have swapped the ends: u = 0 gives high and u = 1 gives low.",
            "put u = 0 into your formula",
        ),
        "still a logarithm": Mistake(
            _still_a_log,
            "you return the logarithm of the value, which is negative for a small learning rate.",
            "you took the logarithm; how do you get back from it?",
        ),
        "still a logarithm of base ten": Mistake(
            _still_a_log10,
            "you return the exponent, for example -3 where the value should be 0.001.",
            "you took the logarithm; how do you get back from it?",
        ),
        "low left out": Mistake(
            _without_low,
            "your values run from 1 to high / low instead of from low to high.",
            "put u = 0 into your formula",
        ),
        "logarithm of a uniform value": Mistake(
            _log_of_uniform,
            "you draw uniformly first and then take the logarithm, but it should be the other way "
            "round.",
            "between which two numbers should you interpolate?",
        ),
        "whole decades": Mistake(
            _whole_decades,
            "you round the exponent, so only powers of ten can come out.",
            "a learning rate of 0.03 should be possible",
        ),
    },
)


# --- best_setting ---------------------------------------------------------------------------------


def _runs(setting: Setting, *accuracies: float) -> list[Row]:
    rate, decay = setting
    return [
        {"rate": rate, "decay": decay, "seed": seed, "valid_acc": accuracy}
        for seed, accuracy in enumerate(accuracies)
    ]


def _draw_table(rng: random.Random) -> list[Row]:
    """Draw runs of nine settings, in which each mistake picks a different setting."""
    lrs = rng.sample((0.01, 0.02, 0.05, 0.1, 0.2, 0.5), 5)
    decays = rng.sample((1e-4, 5e-4, 1e-3), 2)
    here, other = decays
    shift = rng.uniform(-0.05, 0.02)
    a, b, c, d, e = lrs
    groups = [
        _runs((a, here), 0.74 + shift, 0.81 + shift, 0.76 + shift),  # the best mean
        _runs((a, other), 0.11, 0.08, 0.14),  # the worst; makes lr `a` bad on average
        _runs((b, here), 0.98, 0.41, 0.43 + shift),  # the best single run
        _runs((b, other), math.nan, 0.93 + shift, 0.91 + shift),  # good where it didn't diverge
        _runs((c, here), 0.66, 0.64, 0.65, 0.67, 0.63 + shift),  # the most runs
        _runs((c, other), 0.31, 0.33, 0.89 + shift),  # the best last run
        _runs((d, here), 0.71 + shift, 0.70 + shift, 0.69 + shift),  # lr `d` is best on average
        _runs((d, other), 0.69 + shift, 0.68 + shift, 0.67 + shift),
    ]
    rng.shuffle(groups)
    # A setting whose mean is NaN comes first, because `max` keeps a NaN that it meets first.
    groups.insert(0, _runs((e, here), 0.33, math.nan, 0.28))
    return [row for group in groups for row in group]


def _draw_tie(rng: random.Random) -> list[Row]:
    """Draw runs of three settings, of which the first two have exactly the same mean."""
    first, second, third = rng.sample((0.01, 0.03, 0.1, 0.3), 3)
    step = rng.choice((1, 2)) / 16
    return (
        _runs((first, 1e-4), 0.75 - step, 0.75 + step)
        + _runs((second, 1e-4), 0.75 + step / 2, 0.75 - step / 2)
        + _runs((third, 1e-4), 0.5, 0.25)
    )


def _observe_best(attempt: Callable[..., Any], seed: int) -> Observation:
    rng = random.Random(fold_in(seed, 8, 2))
    few: tuple[dict[Setting, list[float]], ...] = (
        {(0.1, 0.0): [0.9, 0.1], (0.2, 0.0): [0.6, 0.7]},
        {(0.1, 0.0): [0.5, 0.5, 0.5], (0.2, 0.0): [0.7]},
        {(0.1, 0.0): [0.9, math.nan], (0.2, 0.0): [0.3, 0.4]},
        {(0.1, 0.0): [0.5, 0.6], (0.1, 0.01): [0.7, 0.8], (0.2, 0.0): [0.7, 0.7]},
        {(0.1, 0.0): [0.5, 0.5], (0.2, 0.0): [0.5, 0.5]},
    )
    tables = {}
    for groups in few:
        shown = " and ".join(
            f"{short(values)} at {short(setting)}" for setting, values in groups.items()
        )
        table = [row for setting, values in groups.items() for row in _runs(setting, *values)]
        tables[f"your setting, given {shown},"] = table
    tables["your setting for a table with nine settings"] = _draw_table(rng)
    tables["your setting for a table in which two are equally good"] = _draw_tie(rng)
    return {name: attempt(table) for name, table in tables.items()}


def _group(table: Sequence[Row]) -> dict[Setting, list[float]]:
    """Collect the accuracies of each setting, in the order of the table."""
    groups: dict[Setting, list[float]] = {}
    for row in table:
        groups.setdefault((row["rate"], row["decay"]), []).append(row["valid_acc"])
    return groups


def _group_converged(table: Sequence[Row]) -> dict[Setting, list[float]]:
    """Collect the accuracies of each setting that never diverged."""
    return {s: v for s, v in _group(table).items() if not any(map(math.isnan, v))}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _argmax(
    groups: Mapping[Setting, Sequence[float]],
    score: Callable[[Sequence[float]], float] = _mean,
) -> Setting:
    """Return the first setting with the highest score of its accuracies."""
    return max(groups, key=lambda setting: score(groups[setting]))


def best_setting(table: Sequence[Row]) -> Setting:
    """Return the first setting with the best mean over seeds, of those that never diverged."""
    return _argmax(_group_converged(table))


def _luckiest(table):  # type: ignore[no-untyped-def]
    runs = [row for row in table if not math.isnan(row["valid_acc"])]
    best = max(runs, key=lambda row: row["valid_acc"])
    return best["rate"], best["decay"]


def _nan_wins(table):  # type: ignore[no-untyped-def]
    return _argmax(_group(table))  # no mean is larger than a NaN at the front


def _survivors(table):  # type: ignore[no-untyped-def]
    return _argmax(_group([row for row in table if not math.isnan(row["valid_acc"])]))


def _nan_is_zero(table):  # type: ignore[no-untyped-def]
    return _argmax(_group([{**r, "valid_acc": _or_zero(r["valid_acc"])} for r in table]))


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _worst(table):  # type: ignore[no-untyped-def]
    return _argmax(_group_converged(table), lambda values: -_mean(values))


def _largest_sum(table):  # type: ignore[no-untyped-def]
    return _argmax(_group_converged(table), sum)


def _last_seed(table):  # type: ignore[no-untyped-def]
    return _argmax(_group_converged(table), lambda values: values[-1])


def _rate_first(table):  # type: ignore[no-untyped-def]
    groups = _group_converged(table)
    by_lr: dict[float, list[float]] = {}
    for (lr, _), values in groups.items():
        by_lr.setdefault(lr, []).extend(values)
    best = max(by_lr, key=lambda lr: _mean(by_lr[lr]))
    return _argmax({setting: v for setting, v in groups.items() if setting[0] == best})


def _last_of_equals(table):  # type: ignore[no-untyped-def]
    return _argmax(dict(reversed(_group_converged(table).items())))


def _returns_the_mean(table):  # type: ignore[no-untyped-def]
    return max(_mean(values) for values in _group_converged(table).values())


BEST = Exercise(
    name="best_setting",
    task="`best_setting(table) -> (learning rate, decay)`, best mean over seeds",
    observe=_observe_best,
    answer=best_setting,
    praise="You compare means over seeds, and you rule out every setting that diverged.",
    hint="what is the mean of each setting, and which ones have a NaN?",
    mistakes={
        "the luckiest run": Mistake(
            _luckiest,
            "you pick the best single run, but its setting did poorly with the other seeds.",
            "which setting has the largest mean over its seeds?",
        ),
        "NaN wins": Mistake(
            _nan_wins,
            "a setting with a NaN comes out as the best, because no number compares as larger "
            "than NaN.",
            "`max` keeps its current value when a comparison with NaN is False; look for NaN "
            "before you compare",
        ),
        "only the survivors": Mistake(
            _survivors,
            "you leave out the diverged runs and average the rest of their setting, as if nothing "
            "had happened.",
            "would you use a setting that diverges with one seed in three?",
        ),
        "NaN counts as 0": Mistake(
            _nan_is_zero,
            "you count a diverged run as an accuracy of 0, so its setting can still win.",
            "would you use a setting that diverges with one seed in three?",
        ),
        "the worst": Mistake(
            _worst,
            "you return the setting with the smallest mean accuracy.",
            "is a higher accuracy better or worse?",
        ),
        "sum": Mistake(
            _largest_sum,
            "you compare sums, so a setting with more runs wins.",
            "settings can have different numbers of seeds",
        ),
        "the last seed": Mistake(
            _last_seed,
            "you compare only the last run of each setting, because it overwrites the earlier "
            "ones.",
            "a dictionary holds one value per key; how can that value hold several accuracies?",
        ),
        "the rate first": Mistake(
            _rate_first,
            "you choose a learning rate by averaging over the weight decays, and only then a "
            "weight decay.",
            "a setting is a pair; which key should you group by?",
        ),
        "the last of equals": Mistake(
            _last_of_equals,
            "of two settings with the same mean you take the later one, but the exercise asks for "
            "the first in the table.",
            "should you compare with `>` or with `>=`?",
        ),
        "returns the mean": Mistake(
            _returns_the_mean,
            "you return the best mean, but the exercise asks for its setting, (rate, decay).",
            "keep each mean together with its setting",
        ),
    },
)


# --- next_range -----------------------------------------------------------------------------------


def _observe_next(attempt: Callable[..., Any], seed: int) -> Observation:
    rng = random.Random(fold_in(seed, 8, 3))
    trials = [
        ([0.1, 0.01, 1.0], [0.9, 0.5, 0.6]),
        ([0.1, 0.01, 1.0], [0.6, 0.8, 0.5]),
        ([0.1, 0.01, 1.0], [0.6, 0.5, 0.8]),
        ([0.1, 0.01, 1.0], [0.8, 0.5, math.nan]),
        ([0.01, 1.0, 0.1], [math.nan, 0.5, 0.8]),
    ]
    observation = {
        f"your range for rates={short(rates)}, scores={short(scores)}": attempt(rates, scores)
        for rates, scores in trials
    }
    low, high = observation[next(iter(observation))]
    nan_is_best = any(
        agree(observation[f"your range for rates={short(rates)}, scores={short(scores)}"], around)
        for (rates, scores), around in zip(trials[3:], ((0.1, 10.0), (0.001, 0.1)), strict=True)
    )
    cases = {"in the middle": 2, "at the lower end": 0, "at the upper end": 5}
    for place, peak in cases.items():
        six = _draw_trials(rng, peak, n_diverged=0)
        observation[f"your range for six rates with the best {place}"] = attempt(*six)
    six = _draw_trials(rng, 3, n_diverged=2)
    observation["your range for six rates, of which all above the best diverged,"] = attempt(*six)
    return {
        "you take a learning rate that diverged, with the score NaN, for the best.": nan_is_best,
        "for rates=[0.1, 0.01, 1], scores=[0.9, 0.5, 0.6], 0.1 isn't inside your range.": not (
            min(low, high) < 0.1 < max(low, high)
        ),
        **observation,
    }


def _draw_trials(
    rng: random.Random, peak: int, *, n_diverged: int
) -> tuple[list[float], list[float]]:
    """Draw six learning rates in random order, and scores with a single peak.

    Args:
        rng: source of the draws.
        peak: rank of the best learning rate, 0 for the smallest.
        n_diverged: number of the largest learning rates whose score is NaN.

    Returns:
        The learning rates and their scores.
    """
    start = rng.uniform(-3, -2)
    rates = [10 ** (start + 0.5 * k + rng.uniform(-0.1, 0.1)) for k in range(6)]
    scores = [0.9 - 0.12 * abs(k - peak) - rng.uniform(0, 0.05) for k in range(6)]
    scores[6 - n_diverged :] = [math.nan] * n_diverged
    # The neighbours of the best rate in the list must not be its neighbours in size.
    others = [k for k in range(6) if k != peak]
    while True:
        rng.shuffle(others)
        at = rng.randrange(1, 5)
        order = [*others[:at], peak, *others[at:]]
        if abs(order[at - 1] - peak) > 1 and abs(order[at + 1] - peak) > 1:
            return [rates[k] for k in order], [scores[k] for k in order]


def next_range(rates: Sequence[float], scores: Sequence[float]) -> tuple[float, float]:
    """Return the neighbours of the best rate; at an end, go a decade beyond it instead."""
    return _neighbours(rates, scores, 10.0)


def _best_of(rates: Sequence[float], scores: Sequence[float]) -> float:
    """Return the rate with the highest score, leaving out those that diverged."""
    return max((s, r) for r, s in zip(rates, scores, strict=True) if not math.isnan(s))[1]


def _neighbours(
    rates: Sequence[float], scores: Sequence[float], factor: float
) -> tuple[float, float]:
    """Return the next smaller and larger rate; where there is none, extend the best by `factor`."""
    best = _best_of(rates, scores)
    low = max((r for r in rates if r < best), default=best / factor)
    high = min((r for r in rates if r > best), default=best * factor)
    return low, high


def _never_extends(rates, scores):  # type: ignore[no-untyped-def]
    return _neighbours(rates, scores, 1.0)


def _wrong_side(rates, scores):  # type: ignore[no-untyped-def]
    best = _best_of(rates, scores)
    low, high = _neighbours(rates, scores, 1.0)
    if low == best:
        return best, high * 10
    return (low / 10, best) if high == best else (low, high)


def _adds_a_step(rates, scores):  # type: ignore[no-untyped-def]
    best = _best_of(rates, scores)
    low, high = _neighbours(rates, scores, 1.0)
    if low == best:
        return best - (high - best), high
    return (low, best + (best - low)) if high == best else (low, high)


def _as_they_came(rates, scores):  # type: ignore[no-untyped-def]
    i = rates.index(_best_of(rates, scores))
    low = rates[i - 1] if i > 0 else rates[i] / 10
    high = rates[i + 1] if i + 1 < len(rates) else rates[i] * 10
    return low, high


def _without_the_diverged(rates, scores):  # type: ignore[no-untyped-def]
    converged = [(r, s) for r, s in zip(rates, scores, strict=True) if not math.isnan(s)]
    return next_range([r for r, _ in converged], [s for _, s in converged])


def _worst_rate(rates, scores):  # type: ignore[no-untyped-def]
    return next_range(rates, [-s for s in scores])


def _always_a_decade(rates, scores):  # type: ignore[no-untyped-def]
    best = _best_of(rates, scores)
    return best / 10, best * 10


def _whole_range(rates, scores):  # type: ignore[no-untyped-def]
    return min(rates), max(rates)


NEXT_RANGE = Exercise(
    name="next_range",
    task="`next_range(rates, scores) -> (low, high)`, the range to search next",
    observe=_observe_next,
    answer=next_range,
    praise="You narrow the search down to the neighbours of the best learning rate, and you go "
    "beyond an end that wins.",
    hint="which rate is the best, and what was tried just below and just above it?",
    mistakes={
        "never extends": Mistake(
            _never_extends,
            "when the best learning rate is the smallest or the largest you tried, your range "
            "stops right there.",
            "you tried nothing beyond an end that wins; can you be sure that the peak isn't "
            "further out?",
        ),
        "extends on the wrong side": Mistake(
            _wrong_side,
            "you extend the range on the side where the scores get worse.",
            "if the smallest learning rate won, on which side could an even better one be?",
        ),
        "adds a step": Mistake(
            _adds_a_step,
            "beyond an end you extend the range by a difference, which can even give a negative "
            "learning rate.",
            "learning rates are compared by their ratios, not by their differences",
        ),
        "neighbours in the list": Mistake(
            _as_they_came,
            "you take the neighbours in the list, but the trials are in no particular order.",
            "which learning rates are the next smaller and the next larger one?",
        ),
        "without the diverged": Mistake(
            _without_the_diverged,
            "you drop the learning rates that diverged before you look for neighbours, so your "
            "range goes beyond them.",
            "a learning rate that diverged was tried as well; what does it tell you?",
        ),
        "the worst rate": Mistake(
            _worst_rate,
            "your range is centred on the learning rate with the lowest score.",
            "is a high score good or bad?",
        ),
        "always a decade": Mistake(
            _always_a_decade,
            "you take a decade on both sides, whatever the neighbours are.",
            "the peak lies between the neighbours; you already know that it gets worse beyond them",
        ),
        "the whole range": Mistake(
            _whole_range,
            "you return the whole range that you have already searched.",
            "which learning rates are next to the best one?",
        ),
    },
)

EXERCISES = (LOG_UNIFORM, BEST, NEXT_RANGE)

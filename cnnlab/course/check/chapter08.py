"""Chapter 8: draw over decades, read a table of runs, decide where to search next."""

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

from cnnlab.course.check.core import Exercise, Mistake, Observation
from cnnlab.rng import fold_in


Row = dict[str, float]
Setting = tuple[float, float]


# --- log_uniform ----------------------------------------------------------------------------------


def _observe_log_uniform(attempt: Callable[..., Any], seed: int) -> Observation:
    draw = random.Random(fold_in(seed, 8, 1))
    low, high = 10 ** draw.uniform(-6, -3), 10 ** draw.uniform(-1.8, 1)
    shares = (0.0, round(draw.uniform(0.1, 0.45), 2), round(draw.uniform(0.55, 0.9), 2), 1.0)
    return {f"value / low at u = {u}": _in_units(attempt(u, low, high), low) for u in shares}


def _in_units(value: Any, unit: float) -> Any:
    """Values of all sizes are compared as precisely in units of the smallest one."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value / unit) if number else value


def log_uniform(u: float, low: float, high: float) -> float:
    """The answer: the logarithm goes evenly from that of `low` to that of `high`."""
    return low * (high / low) ** u


def _uniform(u, low, high):  # type: ignore[no-untyped-def]
    return low + u * (high - low)


def _between(u: float, a: float, b: float) -> float:
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
    return math.log(_uniform(u, low, high))


def _whole_decades(u, low, high):  # type: ignore[no-untyped-def]
    return 10.0 ** round(_between(u, math.log10(low), math.log10(high)))


LOG_UNIFORM = Exercise(
    name="log_uniform",
    observe=_observe_log_uniform,
    answer=log_uniform,
    praise="Each decade between low and high gets the same share of the draws.",
    mistakes={
        "uniform": Mistake(
            _uniform,
            "the ends are right, but between them the values are uniform: nearly all lie in the last decade.",
            "what should be uniform, the value or its logarithm?",
        ),
        "exp of log10": Mistake(
            _exp_of_log10,
            "the logarithm has base ten, and the way back has base e.",
            "at u = 0 you should get back low: which function undoes the one you began with?",
        ),
        "power of ten of log": Mistake(
            _power_of_ten_of_log,
            "the logarithm has base e, and the way back has base ten.",
            "at u = 0 you should get back low: which function undoes the one you began with?",
        ),
        "low and high swapped": Mistake(
            _swapped,
            "u = 0 gives high and u = 1 gives low: the two are swapped.",
            "put u = 0 into your formula",
        ),
        "still a logarithm": Mistake(
            _still_a_log,
            "you return the logarithm of the value, a negative number for a small rate.",
            "you went to the logarithm; how do you come back?",
        ),
        "still a logarithm of base ten": Mistake(
            _still_a_log10,
            "you return the exponent, for instance -3 where 0.001 is asked for.",
            "you went to the logarithm; how do you come back?",
        ),
        "logarithm of a uniform value": Mistake(
            _log_of_uniform,
            "you draw uniformly first and take the logarithm then; it should be the other way round.",
            "between which two numbers do you go evenly?",
        ),
        "whole decades": Mistake(
            _whole_decades,
            "you round the exponent, so only powers of ten can come out.",
            "a rate of 0.03 should be possible",
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


def _table(draw: random.Random) -> list[Row]:
    """Rows of nine settings; each way to misread them leads to another one."""
    rates = draw.sample((0.01, 0.02, 0.05, 0.1, 0.2, 0.5), 5)
    decays = draw.sample((1e-4, 5e-4, 1e-3), 2)
    here, other = decays
    off = draw.uniform(-0.05, 0.02)
    a, b, c, d, e = rates
    groups = [
        _runs((a, here), 0.74 + off, 0.81 + off, 0.76 + off),  # the best mean
        _runs((a, other), 0.11, 0.08, 0.14),  # the worst, so this rate is bad on average
        _runs((b, here), 0.98, 0.41, 0.43 + off),  # the luckiest run
        _runs((b, other), math.nan, 0.93 + off, 0.91 + off),  # good where it survived
        _runs((c, here), 0.66, 0.64, 0.65, 0.67, 0.63 + off),  # the most runs
        _runs((c, other), 0.31, 0.33, 0.89 + off),  # the best last run
        _runs((d, here), 0.71 + off, 0.70 + off, 0.69 + off),  # the best rate on average
        _runs((d, other), 0.69 + off, 0.68 + off, 0.67 + off),
    ]
    draw.shuffle(groups)
    groups.insert(0, _runs((e, here), 0.33, math.nan, 0.28))  # NaN in front stays in front of `max`
    return [row for group in groups for row in group]


def _tied(draw: random.Random) -> list[Row]:
    """Three settings, the first two equal in the mean to the last bit."""
    first, second, third = draw.sample((0.01, 0.03, 0.1, 0.3), 3)
    step = draw.choice((1, 2)) / 16
    return (
        _runs((first, 1e-4), 0.75 - step, 0.75 + step)
        + _runs((second, 1e-4), 0.75 + step / 2, 0.75 - step / 2)
        + _runs((third, 1e-4), 0.5, 0.25)
    )


def _observe_best(attempt: Callable[..., Any], seed: int) -> Observation:
    draw = random.Random(fold_in(seed, 8, 2))
    return {
        "the best setting": attempt(_table(draw)),
        "the best setting, when two are equally good": attempt(_tied(draw)),
    }


def _groups(table: Sequence[Row]) -> dict[Setting, list[float]]:
    found: dict[Setting, list[float]] = {}
    for row in table:
        found.setdefault((row["rate"], row["decay"]), []).append(row["valid_acc"])
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _sound(table: Sequence[Row]) -> dict[Setting, list[float]]:
    return {s: v for s, v in _groups(table).items() if not any(map(math.isnan, v))}


def best_setting(table: Sequence[Row]) -> Setting:
    """The answer: the best mean over seeds; a setting that diverged once is out, of equals the first stays."""
    means = {setting: _mean(values) for setting, values in _sound(table).items()}
    return max(means, key=lambda setting: means[setting])


def _luckiest(table):  # type: ignore[no-untyped-def]
    runs = [row for row in table if not math.isnan(row["valid_acc"])]
    best = max(runs, key=lambda row: row["valid_acc"])
    return best["rate"], best["decay"]


def _nan_wins(table):  # type: ignore[no-untyped-def]
    means = {setting: _mean(values) for setting, values in _groups(table).items()}
    return max(means, key=lambda setting: means[setting])  # nothing is larger than a NaN in front


def _survivors(table):  # type: ignore[no-untyped-def]
    alive = {s: [v for v in values if not math.isnan(v)] for s, values in _groups(table).items()}
    return max(alive, key=lambda setting: _mean(alive[setting]))


def _worst(table):  # type: ignore[no-untyped-def]
    sound = _sound(table)
    return min(sound, key=lambda setting: _mean(sound[setting]))


def _largest_sum(table):  # type: ignore[no-untyped-def]
    sound = _sound(table)
    return max(sound, key=lambda setting: sum(sound[setting]))


def _last_seed(table):  # type: ignore[no-untyped-def]
    sound = _sound(table)
    return max(sound, key=lambda setting: sound[setting][-1])


def _rate_first(table):  # type: ignore[no-untyped-def]
    sound = _sound(table)
    by_rate: dict[float, list[float]] = {}
    for (rate, _), values in sound.items():
        by_rate.setdefault(rate, []).extend(values)
    best = max(by_rate, key=lambda rate: _mean(by_rate[rate]))
    return max((s for s in sound if s[0] == best), key=lambda setting: _mean(sound[setting]))


def _last_of_equals(table):  # type: ignore[no-untyped-def]
    sound = dict(reversed(_sound(table).items()))
    return max(sound, key=lambda setting: _mean(sound[setting]))


def _returns_the_mean(table):  # type: ignore[no-untyped-def]
    return max(_mean(values) for values in _sound(table).values())


BEST = Exercise(
    name="best_setting",
    observe=_observe_best,
    answer=best_setting,
    praise="Means over seeds are compared, and a setting that diverged once is out.",
    mistakes={
        "the luckiest run": Mistake(
            _luckiest,
            "you pick the single best run; its setting did poorly with the other seeds.",
            "whose mean over seeds is the largest?",
        ),
        "NaN wins": Mistake(
            _nan_wins,
            "a setting with a NaN comes out as the best: no number is larger than NaN, nor smaller.",
            "`max` keeps what it has when a comparison with NaN is False; look for NaN before you compare",
        ),
        "only the survivors": Mistake(
            _survivors,
            "the diverged runs are left out and the rest of their setting is averaged, as if nothing had happened.",
            "would you use a setting that diverges with one seed of three?",
        ),
        "the worst": Mistake(
            _worst,
            "you return the setting with the smallest mean accuracy.",
            "is more accuracy better or worse?",
        ),
        "sum": Mistake(
            _largest_sum,
            "you compare sums, so a setting with more runs wins.",
            "settings may have different numbers of seeds",
        ),
        "the last seed": Mistake(
            _last_seed,
            "each setting counts with its last run alone; earlier seeds were overwritten.",
            "a dictionary holds one value a key: collect a list",
        ),
        "the rate first": Mistake(
            _rate_first,
            "you average over the decays as well, choose a rate, and then a decay.",
            "a setting is a pair: which key do you group by?",
        ),
        "the last of equals": Mistake(
            _last_of_equals,
            "of two settings with the same mean you take the later one; the first in the table is asked for.",
            "`>` or `>=`?",
        ),
        "returns the mean": Mistake(
            _returns_the_mean,
            "you return the best mean; its setting (rate, decay) is asked for.",
            "keep each mean together with its setting",
        ),
    },
)


# --- next_range -----------------------------------------------------------------------------------


def _observe_next(attempt: Callable[..., Any], seed: int) -> Observation:
    draw = random.Random(fold_in(seed, 8, 3))
    seen = {}
    cases = {"in the middle": 2, "at the lower end": 0, "at the upper end": 5}
    for where, peak in cases.items():
        seen[f"where to go on, the best {where}"] = attempt(*_trials(draw, peak, diverged=0))
    above = "where to go on, all rates above the best diverged"
    seen[above] = attempt(*_trials(draw, 3, diverged=2))
    return seen


def _trials(draw: random.Random, peak: int, *, diverged: int) -> tuple[list[float], list[float]]:
    """Six rates in any order, and their scores with one peak; the largest may have diverged."""
    start = draw.uniform(-3, -2)
    rates = [10 ** (start + 0.5 * k + draw.uniform(-0.1, 0.1)) for k in range(6)]
    scores = [0.9 - 0.12 * abs(k - peak) - draw.uniform(0, 0.05) for k in range(6)]
    scores[6 - diverged :] = [math.nan] * diverged
    # No neighbour of the best in the list is its neighbour in size, so that the two are told apart.
    order = [k for k in range(6) if k != peak]
    while True:
        draw.shuffle(order)
        at = draw.randrange(1, 5)
        mixed = [*order[:at], peak, *order[at:]]
        if abs(mixed[at - 1] - peak) > 1 and abs(mixed[at + 1] - peak) > 1:
            return [rates[k] for k in mixed], [scores[k] for k in mixed]


def next_range(rates: Sequence[float], scores: Sequence[float]) -> tuple[float, float]:
    """The answer: between the neighbours of the best rate; where there is none, a decade beyond it."""
    return _next(rates, scores, 10.0)


def _best_of(rates: Sequence[float], scores: Sequence[float]) -> float:
    pairs = [(s, r) for r, s in zip(rates, scores, strict=True) if not math.isnan(s)]
    return max(pairs)[1]


def _next(rates: Sequence[float], scores: Sequence[float], factor: float) -> tuple[float, float]:
    best = _best_of(rates, scores)
    low = max((r for r in rates if r < best), default=best / factor)
    high = min((r for r in rates if r > best), default=best * factor)
    return low, high


def _never_extends(rates, scores):  # type: ignore[no-untyped-def]
    return _next(rates, scores, 1.0)


def _wrong_side(rates, scores):  # type: ignore[no-untyped-def]
    best = _best_of(rates, scores)
    low, high = _next(rates, scores, 1.0)
    if low == best:
        return best, high * 10
    return (low / 10, best) if high == best else (low, high)


def _adds_a_step(rates, scores):  # type: ignore[no-untyped-def]
    best = _best_of(rates, scores)
    low, high = _next(rates, scores, 1.0)
    if low == best:
        return best - (high - best), high
    return (low, best + (best - low)) if high == best else (low, high)


def _as_they_came(rates, scores):  # type: ignore[no-untyped-def]
    i = rates.index(_best_of(rates, scores))
    low = rates[i - 1] if i > 0 else rates[i] / 10
    high = rates[i + 1] if i + 1 < len(rates) else rates[i] * 10
    return low, high


def _without_the_diverged(rates, scores):  # type: ignore[no-untyped-def]
    alive = [(r, s) for r, s in zip(rates, scores, strict=True) if not math.isnan(s)]
    return next_range([r for r, _ in alive], [s for _, s in alive])


def _worst_rate(rates, scores):  # type: ignore[no-untyped-def]
    return next_range(rates, [-s for s in scores])


def _always_a_decade(rates, scores):  # type: ignore[no-untyped-def]
    best = _best_of(rates, scores)
    return best / 10, best * 10


def _whole_range(rates, scores):  # type: ignore[no-untyped-def]
    return min(rates), max(rates)


NEXT_RANGE = Exercise(
    name="next_range",
    observe=_observe_next,
    answer=next_range,
    praise="You narrow down between the neighbours, and go beyond an end that wins.",
    mistakes={
        "never extends": Mistake(
            _never_extends,
            "when the best rate is the smallest or the largest one tried, your range stops right there.",
            "nothing was tried beyond an end that wins; is the peak known to be inside?",
        ),
        "extends on the wrong side": Mistake(
            _wrong_side,
            "the range is extended on the side where it got worse.",
            "the smallest rate won: in which direction is something better to be hoped for?",
        ),
        "adds a step": Mistake(
            _adds_a_step,
            "beyond an end you go on by adding a difference; that may even give a negative rate.",
            "rates are compared by factors",
        ),
        "neighbours in the list": Mistake(
            _as_they_came,
            "you take the neighbours in the list, but the trials came in any order.",
            "which rates are the next smaller and the next larger one?",
        ),
        "without the diverged": Mistake(
            _without_the_diverged,
            "you throw the diverged rates away and then take the best for an end: the range goes where all diverged.",
            "a diverged rate has been tried, and says something",
        ),
        "the worst rate": Mistake(
            _worst_rate,
            "the range lies around the rate with the smallest score.",
            "is a high score good?",
        ),
        "always a decade": Mistake(
            _always_a_decade,
            "you take a decade on both sides whatever the neighbours say.",
            "between the neighbours lies the peak; beyond them you know that it is worse",
        ),
        "the whole range": Mistake(
            _whole_range,
            "you return the range that was searched already.",
            "which rates may lie beside the peak?",
        ),
    },
)

"""Check the exercises of chapter 8: the best setting, the next range and successive halving.

The public functions are the reference solutions; the private ones next to them are known mistakes.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cnnlab.course.check.compare import agree, short
from cnnlab.course.check.core import Exercise, Mistake, Observation, Prediction
from cnnlab.rng import fold_in


Row = dict[str, float]  # one run: "rate", "decay", "seed" and "valid_acc"
Setting = tuple[float, float]  # (learning rate, weight decay)


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
    """Draw runs of three settings, of which the first two have exactly the same mean.

    The second has the larger learning rate, so a comparison of pairs (mean, setting) returns it.
    """
    third, first, second = sorted(rng.sample((0.01, 0.03, 0.1, 0.3), 3))
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
        {(0.2, 0.0): [0.5, 0.5], (0.1, 0.0): [0.5, 0.5]},
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


def _best_seed(table):  # type: ignore[no-untyped-def]
    return _argmax(_group_converged(table), max)


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


def _larger_of_equals(table):  # type: ignore[no-untyped-def]
    return max((_mean(values), setting) for setting, values in _group_converged(table).items())[1]


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
        "the best seed": Mistake(
            _best_seed,
            "you rank the settings by their best run, so one lucky seed decides.",
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
        "the larger of equals": Mistake(
            _larger_of_equals,
            "of two settings with the same mean you take the one with the larger learning rate, "
            "not the first in the table.",
            "what does Python compare next if two tuples begin with the same number?",
        ),
        "returns the mean": Mistake(
            _returns_the_mean,
            "you return the best mean, but the exercise asks for its setting, (rate, decay).",
            "keep each mean together with its setting",
        ),
    },
)


# --- next_range -----------------------------------------------------------------------------------


TAKES_NAN = "you take a learning rate that diverged, with the score NaN, for the best."
NAN_STAYS = "`max` keeps a NaN that it meets first, because `0.8 > nan` is False"


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
        TAKES_NAN: nan_is_best,
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


def _sorts_only_the_rates(rates, scores):  # type: ignore[no-untyped-def]
    return next_range(sorted(rates), scores)


def _around(rates, best):  # type: ignore[no-untyped-def]
    return next_range(rates, [float(rate == best) for rate in rates])


def _nan_stays(rates, scores):  # type: ignore[no-untyped-def]
    return _around(rates, rates[scores.index(max(scores))])


def _nan_is_largest(rates, scores):  # type: ignore[no-untyped-def]
    diverged = [rate for rate, score in zip(rates, scores, strict=True) if math.isnan(score)]
    return _around(rates, diverged[0]) if diverged else next_range(rates, scores)


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
        "sorts only the rates": Mistake(
            _sorts_only_the_rates,
            "you sort the rates but not the scores, so each rate gets the score of another.",
            "how can a score stay together with its rate while you sort?",
        ),
        "NaN stays the best": Mistake(_nan_stays, TAKES_NAN, NAN_STAYS),
        "NaN is the largest": Mistake(
            _nan_is_largest,
            "your range lies around a learning rate that diverged, as if NaN were the largest.",
            "`np.argmax` takes the first NaN; which trials can't be the best?",
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

# --- successive_halving ---------------------------------------------------------------------------

Curve = Sequence[float]  # the validation accuracy after each epoch
SMALL: list[tuple[list[list[float]], int]] = [
    ([[0.3, 0.4, 0.9], [0.5, 0.4, 0.1], [0.4, 0.6, 0.6]], 3),
    ([[0.5, 0.2, 0.1], [0.1, 0.8, 0.9], [0.4, 0.6, 0.4], [0.3, 0.4, 0.5]], 2),
    ([[0.2, 0.9], [0.6, 0.1]], 3),
]


def _observe_halving(attempt: Callable[..., Any], seed: int) -> Observation:
    rng = random.Random(fold_in(seed, 8, 4))
    problems = {f"curves={curves}, eta={eta}": (curves, eta) for curves, eta in SMALL}
    for eta, n in ((2, rng.randrange(9, 15)), (3, rng.randrange(11, 17)), (3, 27)):
        accuracies = rng.sample(range(100, 1000), 12 * n)
        curves = [[a / 1000 for a in accuracies[i::n]] for i in range(n)]
        problems[f"{n} curves and eta={eta}"] = curves, eta
    observation = {}
    for name, (curves, eta) in problems.items():
        winner, epochs = attempt([list(curve) for curve in curves], eta)
        observation[f"your winner for {name}"] = winner
        observation[f"your number of epochs for {name}"] = epochs
    return observation


def successive_halving(curves: Sequence[Curve], eta: int) -> tuple[int, int]:
    """Return the trial that is left at the end, and the epochs that all trials were trained for."""
    return _halve(curves, eta)


def _at_rung(curve: Curve, epoch: int) -> float:
    """Return the accuracy after `epoch` epochs."""
    return curve[epoch - 1]


def _up_to_rung(curve: Curve, epoch: int) -> float:
    return max(curve[:epoch])


def _final(curve: Curve, epoch: int) -> float:
    return curve[-1]


def _one_epoch_late(curve: Curve, epoch: int) -> float:
    return curve[epoch]


def _low_is_good(curve: Curve, epoch: int) -> float:
    return -curve[epoch - 1]


def _halve(
    curves: Sequence[Curve],
    eta: int,
    *,
    score: Callable[[Curve, int], float] = _at_rung,
    keep: Callable[[int, int], int] = lambda n, eta: n // eta,
    grow: Callable[[int, int], int] = lambda epoch, eta: epoch * eta,
    restart: bool = False,
    rungs: float = math.inf,
    finish: bool = False,
) -> tuple[int, int]:
    """Train all trials for an epoch, then the best of them for longer, until one is left.

    Args:
        curves: the validation accuracies of each trial after each epoch.
        eta: one trial in `eta` survives a rung, and `eta` times the epochs are the next rung.
        score: what the trials are ranked by, given a curve and the epoch of the rung.
        keep: the number of trials that survive, given the number before and `eta`.
        grow: the epoch of the next rung, given that of this one and `eta`.
        restart: whether each rung trains its trials from the start.
        rungs: the largest number of rungs.
        finish: whether the last trial is trained up to one more rung.

    Returns:
        The index of the winner, and the number of epochs of all trials together.
    """
    left = list(range(len(curves)))
    epoch, before, total = 1, 0, 0
    while len(left) > 1 and rungs > 0:
        total += len(left) * (epoch if restart else epoch - before)
        ranked = sorted(left, key=lambda i: -score(curves[i], min(epoch, len(curves[i]) - 1)))
        left = ranked[: max(1, keep(len(left), eta))]
        epoch, before, rungs = grow(epoch, eta), epoch, rungs - 1
    return left[0], total + (epoch - before) * finish


def _peeks_at_the_end(curves, eta):  # type: ignore[no-untyped-def]
    return _halve(curves, eta, score=_final)


def _best_epoch(curves, eta):  # type: ignore[no-untyped-def]
    return _halve(curves, eta, score=_up_to_rung)


def _index_too_high(curves, eta):  # type: ignore[no-untyped-def]
    return _halve(curves, eta, score=_one_epoch_late)


def _keeps_the_worst(curves, eta):  # type: ignore[no-untyped-def]
    return _halve(curves, eta, score=_low_is_good)


def _pays_twice(curves, eta):  # type: ignore[no-untyped-def]
    return _halve(curves, eta, restart=True)


def _always_half(curves, eta):  # type: ignore[no-untyped-def]
    return _halve(curves, eta, keep=lambda n, _: n // 2)


def _always_three(curves, eta):  # type: ignore[no-untyped-def]
    return successive_halving(curves, 3)


def _always_a_third(curves, eta):  # type: ignore[no-untyped-def]
    return _halve(curves, eta, keep=lambda n, _: n // 3)


def _always_three_times(curves, eta):  # type: ignore[no-untyped-def]
    return _halve(curves, eta, grow=lambda epoch, _: 3 * epoch)


def _drops_one_in_eta(curves, eta):  # type: ignore[no-untyped-def]
    return _halve(curves, eta, keep=lambda n, eta: n - max(1, n // eta))


def _rounds_up(curves, eta):  # type: ignore[no-untyped-def]
    return _halve(curves, eta, keep=lambda n, eta: -(-n // eta))


def _one_more_epoch(curves, eta):  # type: ignore[no-untyped-def]
    return _halve(curves, eta, grow=lambda epoch, _: epoch + 1)


def _one_rung(curves, eta):  # type: ignore[no-untyped-def]
    return _halve(curves, eta, rungs=1)


def _trains_the_winner(curves, eta):  # type: ignore[no-untyped-def]
    return _halve(curves, eta, finish=True)


def _swapped(curves, eta):  # type: ignore[no-untyped-def]
    return successive_halving(curves, eta)[::-1]


def _without_halving(curves, eta):  # type: ignore[no-untyped-def]
    n_epochs = len(curves[0])
    return max(range(len(curves)), key=lambda i: curves[i][-1]), n_epochs * len(curves)


HALVING = Exercise(
    name="successive_halving",
    task="`successive_halving(curves, eta) -> (winner, epochs)`",
    observe=_observe_halving,
    answer=successive_halving,
    praise="You rank by what was known at each rung, and each epoch is paid for once.",
    hint="write down by hand which trials are left after each rung",
    mistakes={
        "peeks at the end": Mistake(
            _peeks_at_the_end,
            "you rank the trials by their last accuracy, which nobody knows yet at that rung.",
            "for how many epochs has each trial been trained when you decide?",
        ),
        "the best epoch so far": Mistake(
            _best_epoch,
            "you rank the trials by their best epoch so far, but the rung asks for the accuracy "
            "at its own epoch.",
            "what is the accuracy of each trial *at* the rung?",
        ),
        "one epoch too late": Mistake(
            _index_too_high,
            "you read each curve one epoch too late: a list starts at index 0.",
            "at which index is the accuracy after one epoch?",
        ),
        "keeps the worst": Mistake(
            _keeps_the_worst,
            "you keep the trials with the lowest accuracy.",
            "`sorted` puts small values first",
        ),
        "pays twice": Mistake(
            _pays_twice,
            "you count the earlier epochs again at every rung, but a trial continues where it "
            "stopped.",
            "from the rung at epoch 1 to the one at epoch 3, how many epochs does a trial train?",
        ),
        "always half": Mistake(
            _always_half,
            "you keep half of the trials, whatever eta is.",
            "how many of nine trials are left if eta is 3?",
        ),
        "always three": Mistake(
            _always_three,
            "you use 3 instead of eta.",
            "how many of four trials are left if eta is 2, and after which epoch is the second "
            "rung?",
        ),
        "always a third": Mistake(
            _always_a_third,
            "you keep a third of the trials, whatever eta is.",
            "how many of four trials are left if eta is 2?",
        ),
        "always three times as long": Mistake(
            _always_three_times,
            "your rungs are at epochs 1, 3 and 9, whatever eta is.",
            "where is the second rung if eta is 2?",
        ),
        "drops one in eta": Mistake(
            _drops_one_in_eta,
            "you drop one trial in eta, but one in eta should be kept.",
            "how many of nine trials are left if eta is 3?",
        ),
        "rounds up": Mistake(
            _rounds_up,
            "you round the number of survivors up, but the exercise rounds it down.",
            "four trials are left and eta is 3: how many go on?",
        ),
        "one more epoch": Mistake(
            _one_more_epoch,
            "your rungs are one epoch apart, but each should be eta times as far as the one "
            "before.",
            "with eta = 3 the rungs are at epochs 1, 3, 9 and so on",
        ),
        "one rung": Mistake(
            _one_rung,
            "you cut the trials down only once, although several are left after that.",
            "when should your loop end?",
        ),
        "trains the winner": Mistake(
            _trains_the_winner,
            "you train the last trial up to one more rung, but the tournament ends when one is "
            "left.",
            "after which rung is only one trial left?",
        ),
        "swapped": Mistake(
            _swapped,
            "you return the two numbers in the wrong order.",
            "the winner comes first, then the number of epochs",
        ),
        "no halving": Mistake(
            _without_halving,
            "you train every trial to the end, which costs the most epochs there can be.",
            "after which epoch should the first trials stop?",
        ),
    },
)

EXERCISES = (BEST, NEXT_RANGE, HALVING)

PREDICTIONS = (
    Prediction(
        question="Validation accuracy with a learning rate of 0.001?",
        text=(
            "A small network trains for three epochs on twelve classes. The best learning rates "
            "reach an accuracy above 0.6. What does a learning rate of 0.001 reach? (Guessing "
            "gives 0.08.)"
        ),
        answer=0.228,
        why=(
            "At 0.001 the network has hardly moved after three epochs. The learning rate "
            "decides here, and weight decay hardly matters."
        ),
        section="One setting decides",
    ),
    Prediction(
        question="What fraction of the uniform draws lies above 0.1?",
        text=(
            "Learning rates are drawn uniformly between 0.00001 and 1, which is five decades. "
            "What fraction of the draws, from 0 to 1, lies above 0.1?"
        ),
        answer=0.9,
        why="The four lower decades share one trial in ten. Draw learning rates log-uniformly.",
        section="Draw over decades",
    ),
    Prediction(
        question="In what fraction of the pairs does random search beat the grid?",
        text=(
            "A grid of 3 x 3 and a random search with nine trials tune the learning rate and "
            "the weight decay, and only the learning rate matters. In what fraction of the "
            "pairs, from 0 to 1, does random search find the better network? (A tie counts as "
            "half.)"
        ),
        answer=0.608,
        why=(
            "Random search tries nine learning rates instead of three. But it's luck as well, "
            "so it wins by about one point and not always."
        ),
        section="Grid, random or Sobol points?",
    ),
    Prediction(
        question="By how much does the best of 27 look better than it is?",
        text=(
            "Each of 27 networks has a true accuracy of 0.6 and is evaluated on sixty images. "
            "By how much does the best of the 27 look better than it is, on average? (A point "
            "is 0.01.)"
        ),
        answer=0.12,
        why=(
            "The best of many noisy results is partly the luckiest. This is the winner's curse, "
            "and it makes the validation accuracy of a tuned network too high."
        ),
        section="The winner's curse",
        within=0.04,
    ),
    Prediction(
        question="Tuned for 12 epochs, or the default for 96?",
        text=(
            "Which has the higher test accuracy: a tuned network that was trained for 12 "
            "epochs, or the default settings, trained for 96?"
        ),
        answer="no clear difference",
        why=(
            "Tuning gains much at the same number of epochs, but the default comes close if it "
            "trains eight times as long."
        ),
        section="Seven steps, and what they buy",
        options=("tuned", "default", "no clear difference"),
    ),
    Prediction(
        question="What fraction finds a difference between a network and itself?",
        text=(
            "Each of 400 experimenters compares a network with itself on five seeds, and adds "
            "one seed at a time until the 95 % interval of the difference excludes zero or "
            "there are forty seeds. What fraction of them, from 0 to 1, ends with a significant "
            "difference?"
        ),
        answer=0.28,
        why=(
            "Whenever you look, you have another chance to be fooled. Fix the number of seeds "
            "beforehand, and one in twenty is still fooled."
        ),
        section="A lab on fooling yourself",
        within=0.05,
    ),
)

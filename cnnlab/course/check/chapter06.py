"""Check the exercises of chapter 6: early stopping, the moving average and the ensemble.

The public functions are the reference solutions; the private ones next to them are known mistakes.
"""

import itertools
import math
import operator
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cnnlab.course.check.core import Exercise, Mistake, Observation
from cnnlab.rng import fold_in, generator


Stop = tuple[int, int]

# --- early stopping -------------------------------------------------------------------------------

# Lengths of the curves: short ones to read, long ones so that each mistake differs from the others.
LENGTHS = (*range(3, 7), *(5, 6, 7) * 5, *range(8, 17), *range(8, 17), *range(8, 17))


def _observe_stopping(attempt: Callable[..., Any], seed: int) -> Observation:
    rng = random.Random(fold_in(seed, 6, 1))
    few: list[tuple[list[float], int, float, str]] = [
        ([0.5, 0.4], 1, 0.0, "max"),
        ([0.5, 0.6], 1, 0.0, "min"),
        ([0.5, 0.4, 0.6, 0.5, 0.7], 2, 0.0, "max"),
        ([0.5, 0.52, 0.54, 0.6], 2, 0.05, "max"),
        ([math.nan, 0.5, 0.6, 0.4], 2, 0.0, "max"),
        ([0.5, math.nan, 0.4, 0.6], 2, 0.0, "max"),
    ]
    stops, bests = {}, {}
    for values, patience, min_delta, mode in [*few, *(_draw_curve(rng, n) for n in LENGTHS)]:
        curve = ", ".join(f"{value:g}" for value in values)
        problem = f"for [{curve}], patience={patience}, min_delta={min_delta:g}, mode={mode!r}"
        stop, best = attempt(values, patience, min_delta, mode)
        stops[f"your stop {problem}"], bests[f"your best {problem}"] = stop, best
    five = [0.5, 0.6, 0.7, 0.4, 0.3]
    pairs = [tuple(attempt(five, 2, 0.0, mode)) for mode in ("min", "max")]
    return {
        f"for {five}, your result is the same with mode='min' and 'max'.": pairs[0] == pairs[1],
        "your `best` is larger than your `stop`: weights from after the stop don't exist.": any(
            best > stop for best, stop in zip(bests.values(), stops.values(), strict=True)
        ),
        **stops,
        **bests,
    }


def _draw_curve(rng: random.Random, length: int) -> tuple[list[float], int, float, str]:
    """Draw a noisy validation curve, with or without a decline, ties and a NaN, and a setting.

    Returns:
        values, patience, min_delta and mode.
    """
    mode = rng.choice(["min", "max"])
    top, slope = rng.randint(length // 3, length + 2), rng.choice([0.02, 0.05])
    noise = rng.choice([0.01, 0.03])
    values = [round(0.6 - slope * abs(i - top) + rng.gauss(0, noise), 2) for i in range(length)]
    if rng.random() < 0.5:
        values[min(top, length - 1)] = values[min(top, length - 1) - 1]  # a tie
    if rng.random() < 0.5:
        values[0 if rng.random() < 0.5 else rng.randrange(1, length)] = math.nan
    if mode == "min":
        values = [round(1 - value, 2) for value in values]
    # At least one value up to the stop is a number.
    patience = rng.randint(2 if math.isnan(values[0]) else 1, 4 if length > 7 else 2)
    # The values have two decimals and the thresholds lie in between, so rounding can't decide.
    return values, patience, rng.choice([0.0, 0.025, 0.055]), mode


def early_stopping(values: list[float], patience: int, min_delta: float, mode: str) -> Stop:
    """Return the index where training stops and the index whose weights are restored."""
    scores = _scores(values, mode)
    stop = _stop(_improvements(scores, min_delta), patience)
    return stop, _best(scores, stop)


def _scores(values: Sequence[float], mode: str) -> list[float]:
    """Negate the values in mode "min", so that larger is better."""
    return list(values) if mode == "max" else [-value for value in values]


def _improvements(
    scores: Sequence[float],
    min_delta: float,
    to_beat: float = -math.inf,
    exceeds: Callable[[float, float], bool] = operator.gt,
) -> list[bool]:
    """Mark each score that exceeds the last marked one by more than `min_delta`; NaN never does."""
    marks = []
    for score in scores:
        marks.append(exceeds(score, to_beat + min_delta))
        to_beat = score if marks[-1] else to_beat
    return marks


def _stop(improvements: Sequence[bool], patience: int) -> int:
    """Return the index where `patience` evaluations in a row haven't improved, or the last one."""
    bad = 0
    for i, improved in enumerate(improvements):
        bad = 0 if improved else bad + 1
        if bad >= patience:
            return i
    return len(improvements) - 1


def _last(improvements: Sequence[bool]) -> int:
    """Return the index of the last improvement, or 0 if there is none."""
    return max((i for i, improved in enumerate(improvements) if improved), default=0)


def _best(scores: Sequence[float], stop: int) -> int:
    """Return the index of the first largest score up to and including `stop`."""
    return _last(_improvements(scores[: stop + 1], 0.0))


def _n_plus_one(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    return early_stopping(values, patience + 1, min_delta, mode)


def _nan_improves(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    def improvements(scores, min_delta):  # type: ignore[no-untyped-def]
        return _improvements(scores, min_delta, exceeds=lambda a, b: not a <= b)

    scores = _scores(values, mode)
    stop = _stop(improvements(scores, min_delta), patience)
    return stop, _last(improvements(scores[: stop + 1], 0.0))


def _first_is_best(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    first, *rest = _scores(values, mode)
    stop = _stop([True, *_improvements(rest, min_delta, to_beat=first)], patience)
    return stop, _last([True, *_improvements(rest[:stop], 0.0, to_beat=first)])


def _restores_only_when_stopped(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    stop, best = early_stopping(values, patience, min_delta, mode)
    # One more bad value prolongs the run only if nothing has stopped it.
    goes_on = early_stopping([*values, math.nan], patience, min_delta, mode)[0] > stop
    return stop, len(values) - 1 if goes_on else best


def _returns_the_last(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    stop, _ = early_stopping(values, patience, min_delta, mode)
    return stop, stop


def _patience_ago(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    stop, _ = early_stopping(values, patience, min_delta, mode)
    return stop, max(stop - patience, 0)


def _against_the_previous(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    scores = _scores(values, mode)
    pairs = itertools.pairwise([-math.inf, *scores])
    stop = _stop([score > previous + min_delta for previous, score in pairs], patience)
    return stop, _best(scores, stop)


def _always_min(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    return early_stopping(values, patience, min_delta, "min")


def _never_reset(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    scores = _scores(values, mode)
    improvements = _improvements(scores, min_delta)
    bad = [i for i, improved in enumerate(improvements) if not improved]
    stop = bad[patience - 1] if len(bad) >= patience else len(values) - 1
    return stop, _best(scores, stop)


def _to_beat_creeps(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    scores = _scores(values, mode)
    bests = itertools.accumulate(scores, max, initial=-math.inf)  # `max` passes over a later NaN
    improvements = [score > best + min_delta for best, score in zip(bests, scores, strict=False)]
    stop = _stop(improvements, patience)
    return stop, _best(scores, stop)


def _best_needs_min_delta(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    improvements = _improvements(_scores(values, mode), min_delta)
    stop = _stop(improvements, patience)
    return stop, _last(improvements[: stop + 1])


def _without_min_delta(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    return early_stopping(values, patience, 0.0, mode)


def _ties_take_the_later(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    stop, best = early_stopping(values, patience, min_delta, mode)
    return stop, max(i for i in range(stop + 1) if values[i] == values[best])


def _looks_ahead(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    stop, _ = early_stopping(values, patience, min_delta, mode)
    return stop, _best(_scores(values, mode), len(values) - 1)


def _best_first(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    return early_stopping(values, patience, min_delta, mode)[::-1]


def _counted_from_one(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    stop, best = early_stopping(values, patience, min_delta, mode)
    return stop + 1, best + 1


STOPPING = Exercise(
    name="early_stopping",
    task="`early_stopping(values, patience, min_delta, mode) -> (stop, best)`",
    observe=_observe_stopping,
    answer=early_stopping,
    praise="Your function waits exactly as long as the patience, never counts NaN as an "
    "improvement, and always restores the best evaluation up to the stop.",
    hint="go through this curve by hand: which value is to beat, and how many were bad?",
    mistakes={
        "N + 1": Mistake(
            _n_plus_one,
            "you wait for one evaluation more than `patience` allows.",
            "with a patience of 1, the first evaluation that doesn't improve ends the run; should "
            "you compare with > or with >=?",
        ),
        "NaN improves": Mistake(
            _nan_improves,
            "NaN counts as an improvement, because every comparison with NaN is False and you "
            "test for `not worse`.",
            "test whether the value is better, not whether it fails to be worse",
        ),
        "NaN poisons the best": Mistake(
            _first_is_best,
            "you take the first value as the best without comparing it; if it is NaN, nothing "
            "ever beats it.",
            "which starting value is beaten by every number but not by NaN?",
        ),
        "restores only when stopped early": Mistake(
            _restores_only_when_stopped,
            "when nothing stops the run early, you return the last evaluation instead of the best "
            "one.",
            "is the last epoch the best one just because the run was allowed to finish?",
        ),
        "restores the last": Mistake(
            _returns_the_last,
            "your second index is where training ends, but by then the model hasn't improved for "
            "a while.",
            "which weights do you want to keep?",
        ),
        "restores stop minus patience": Mistake(
            _patience_ago,
            "you count back from the stop by the patience, but the best evaluation can be "
            "elsewhere, for example in a run that nothing stopped.",
            "remember the best evaluation when you meet it",
        ),
        "compares with the previous": Mistake(
            _against_the_previous,
            "you compare each value with the one before it, so a curve that gets worse in a "
            "zigzag never ends the run.",
            "which value must a new one beat?",
        ),
        "mode ignored": Mistake(
            _always_min,
            "you always look for the smallest value, but the smallest accuracy is the worst one.",
            "what should change when `mode` is 'max'?",
        ),
        "counter never reset": Mistake(
            _never_reset,
            "you count bad evaluations over the whole run, but the patience applies to bad "
            "evaluations in a row.",
            "what should happen to the counter when an evaluation improves?",
        ),
        "the value to beat creeps": Mistake(
            _to_beat_creeps,
            "your value to beat follows every tiny gain, so you stop a curve that improves slowly "
            "but steadily.",
            "when may the value to beat change, if gains below `min_delta` don't count?",
        ),
        "the best needs min_delta": Mistake(
            _best_needs_min_delta,
            "you don't restore an evaluation that is only slightly better, because its gain is "
            "below `min_delta`.",
            "`min_delta` decides when to lose patience; does it also decide which weights are "
            "better?",
        ),
        "min_delta ignored": Mistake(
            _without_min_delta,
            "any gain, however small, restarts your patience.",
            "where should `min_delta` come in?",
        ),
        "ties take the later": Mistake(
            _ties_take_the_later,
            "of two equally good evaluations you restore the later one, but the exercise asks for "
            "the earlier one.",
            "should you compare with > or with >=?",
        ),
        "looks ahead": Mistake(
            _looks_ahead,
            "your best evaluation comes after the stop, but those epochs were never trained.",
            "look only at the values up to the stop",
        ),
        "the best first": Mistake(
            _best_first,
            "you return (best, stop), but the exercise asks for (stop, best).",
            "the stop is never smaller than the best",
        ),
        "counted from one": Mistake(
            _counted_from_one,
            "you count evaluations from 1, but the exercise asks for indices into `values`.",
            "`enumerate` starts at 0",
        ),
    },
)


# --- the moving average ---------------------------------------------------------------------------


def _observe_ema(attempt: Callable[..., Any], seed: int) -> Observation:
    g, rng = generator(seed, 6, 2), random.Random(fold_in(seed, 6, 2))
    observation: dict[str, Any] = {}
    for step in (0, 5, 1000):
        (average,) = attempt([torch.tensor([1.0])], [torch.tensor([3.0])], step, 0.9)
        problem = f"average=[1], weights=[3], step={step}, decay=0.9"
        observation[f"your new average for {problem}"] = average
    decay = round(rng.uniform(0.9, 0.99), 3)
    for step in (0, rng.randint(3, 20), round(40 / (1 - decay))):
        average = [torch.randn(size, generator=g) for size in ((3, 2), (4,))]
        weights = [1 + torch.rand(tensor.shape, generator=g) + tensor for tensor in average]
        answer = attempt(average, weights, step, decay)
        observation[f"your list of averages at step={step} with decay={decay}"] = answer
    return observation


def ema_update(
    average: list[Tensor], weights: list[Tensor], step: int, decay: float
) -> list[Tensor]:
    """Return d * average + (1 - d) * weights, where d rises from 0.1 at step 0 up to `decay`."""
    return _blend(average, weights, min(decay, _warm_up(step)))


def _warm_up(step: int) -> float:
    """Return the decay that the warm-up allows after `step` finished updates."""
    return (1 + step) / (10 + step)


def _blend(average: list[Tensor], weights: list[Tensor], d: float) -> list[Tensor]:
    """Return d * average + (1 - d) * weights as new tensors."""
    return [d * old + (1 - d) * new for old, new in zip(average, weights, strict=True)]


def _no_warm_up(average, weights, step, decay):  # type: ignore[no-untyped-def]
    return _blend(average, weights, decay)


def _swapped(average, weights, step, decay):  # type: ignore[no-untyped-def]
    return ema_update(weights, average, step, decay)


def _in_place(average, weights, step, decay):  # type: ignore[no-untyped-def]
    d = min(decay, _warm_up(step))
    for old, new in zip(average, weights, strict=True):
        old.mul_(d).add_(new, alpha=1 - d)
    return average


def _max(average, weights, step, decay):  # type: ignore[no-untyped-def]
    return _blend(average, weights, max(decay, _warm_up(step)))


def _never_at_the_decay(average, weights, step, decay):  # type: ignore[no-untyped-def]
    return _blend(average, weights, _warm_up(step))


def _from_one(average, weights, step, decay):  # type: ignore[no-untyped-def]
    return ema_update(average, weights, step + 1, decay)


def _equal_average(average, weights, step, decay):  # type: ignore[no-untyped-def]
    return _blend(average, weights, step / (step + 1))


EMA_UPDATE = Exercise(
    name="ema_update",
    task="`ema_update(average, weights, step, decay) -> new list of tensors`",
    observe=_observe_ema,
    answer=ema_update,
    praise="Your update does what `averaging.EMA` does, both early and late in a run.",
    hint="which fraction of itself does the average keep at this step?",
    mistakes={
        "no warm-up": Mistake(
            _no_warm_up,
            "your decay is the same from the first step on, so the random initial weights stay in "
            "the average for a long time.",
            "how large is (1 + t) / (10 + t) at t = 0?",
        ),
        "roles swapped": Mistake(
            _swapped,
            "you have swapped the average and the weights, so the average jumps almost to the "
            "newest weights.",
            "the decay is the fraction that the *average* keeps of itself",
        ),
        "in place": Mistake(
            _in_place,
            "you overwrite the average that you were given, which belongs to the caller.",
            "an operation whose name ends in an underscore changes its tensor; return new tensors",
        ),
        "max for min": Mistake(
            _max,
            "you take the larger of the two decays.",
            "the decay should start small and never exceed `decay`",
        ),
        "never at the decay": Mistake(
            _never_at_the_decay,
            "your warm-up never ends: the decay keeps rising towards 1, until the average hardly "
            "moves.",
            "what is `decay` for?",
        ),
        "counted from one": Mistake(
            _from_one,
            "your warm-up is one step ahead; `step` counts the finished updates, so it is 0 at "
            "the first call.",
            "put t = 0 into the formula for the first update",
        ),
        "equal average": Mistake(
            _equal_average,
            "you compute the equal average of all weights so far, as SWA does, and it never "
            "forgets the earliest ones.",
            "a moving average forgets; which fraction of itself does it keep in each step?",
        ),
    },
)


# --- the ensemble ---------------------------------------------------------------------------------


def _observe_ensemble(attempt: Callable[..., Any], seed: int) -> Observation:
    g, rng = generator(seed, 6, 3), random.Random(fold_in(seed, 6, 3))
    members, samples, classes = rng.randint(3, 5), rng.randint(6, 9), rng.randint(10, 12)
    logits = torch.randn(members, samples, classes, generator=g)
    logits *= torch.linspace(1, 5, members).view(-1, 1, 1)  # the members differ in confidence
    (row,) = attempt(torch.tensor([[[4.0, 0.0]], [[0.0, 1.0]]]))
    return {
        "your row for an image to which two members give the logits [4, 0] and [0, 1]": row,
        f"your result for {members} members, {samples} samples, {classes} classes": attempt(logits),
    }


def ensemble(logits: Tensor) -> Tensor:
    """Return the mean of the members' probabilities, (M, N, K) -> (N, K)."""
    return logits.softmax(dim=2).mean(dim=0)


def _averages_logits(logits):  # type: ignore[no-untyped-def]
    return logits.mean(dim=0).softmax(dim=1)


def _mean_of_logits(logits):  # type: ignore[no-untyped-def]
    return logits.mean(dim=0)


def _majority_vote(logits):  # type: ignore[no-untyped-def]
    votes = torch.nn.functional.one_hot(logits.argmax(dim=2), logits.shape[2])
    return votes.float().mean(dim=0)


def _over_the_members(logits):  # type: ignore[no-untyped-def]
    return logits.softmax(dim=0).mean(dim=0)


def _over_the_samples(logits):  # type: ignore[no-untyped-def]
    return logits.softmax(dim=1).mean(dim=0)


def _sum_of_probabilities(logits):  # type: ignore[no-untyped-def]
    return logits.softmax(dim=2).sum(dim=0)


def _softmax_twice(logits):  # type: ignore[no-untyped-def]
    return logits.softmax(dim=2).mean(dim=0).softmax(dim=1)


def _classes_only(logits):  # type: ignore[no-untyped-def]
    return ensemble(logits).argmax(dim=1)


ENSEMBLE = Exercise(
    name="ensemble",
    task="`ensemble(logits) -> probabilities`, from (M, N, K) to (N, K)",
    observe=_observe_ensemble,
    answer=ensemble,
    praise="You average probabilities, so each row of the result sums to 1.",
    hint="which axis holds the classes, and which one the members?",
    mistakes={
        "averages logits": Mistake(
            _averages_logits,
            "you average the logits before the softmax, so a member with large logits outweighs "
            "the others.",
            "what should each member contribute, so that all of them count the same?",
        ),
        "logits, no softmax": Mistake(
            _mean_of_logits,
            "you return logits: some are negative, and the rows don't sum to 1.",
            "how do you turn logits into probabilities?",
        ),
        "majority vote": Mistake(
            _majority_vote,
            "you count votes, so a member that hesitates between two classes contributes only its "
            "first choice.",
            "average how likely each member finds every class, not just the class it picks",
        ),
        "softmax over the members": Mistake(
            _over_the_members,
            "your softmax runs over the members, so it compares the members' logits for one class "
            "instead of comparing the classes.",
            "along which of the axes (M, N, K) should the probabilities sum to 1?",
        ),
        "softmax over the samples": Mistake(
            _over_the_samples,
            "your softmax runs over the samples, so the prediction for one image depends on the "
            "other images.",
            "along which of the axes (M, N, K) should the probabilities sum to 1?",
        ),
        "sum for mean": Mistake(
            _sum_of_probabilities,
            "you add up the probabilities, so each row sums to the number of members.",
            "a probability is at most 1",
        ),
        "softmax twice": Mistake(
            _softmax_twice,
            "you apply another softmax to the average, which makes every prediction nearly "
            "uniform.",
            "the mean of probabilities is already a probability",
        ),
        "classes only": Mistake(
            _classes_only,
            "you return class indices, but the exercise asks for probabilities of shape (N, K).",
            "leave it to the caller to choose a class",
        ),
    },
)

EXERCISES = (STOPPING, EMA_UPDATE, ENSEMBLE)

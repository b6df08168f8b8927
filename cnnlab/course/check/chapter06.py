"""Check the exercises of chapter 6: early stopping, the moving average and matched units.

The public functions are the reference solutions; the private ones next to them are known mistakes.
"""

import itertools
import math
import operator
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cnnlab.course.check.core import Exercise, Mistake, Observation, Prediction
from cnnlab.rng import fold_in, generator


Stop = tuple[int, int]

# --- early stopping -------------------------------------------------------------------------------

# Lengths of the curves: short ones are easy to read, long ones tell each mistake from the others.
LENGTHS = (*range(3, 7), *(5, 6, 7) * 5, *range(8, 17), *range(8, 17), *range(8, 17))


def _observe_stopping(attempt: Callable[..., Any], seed: int) -> Observation:
    rng = random.Random(fold_in(seed, 6, 1))
    few: list[tuple[list[float], int, float, str]] = [
        # One rule after the other: the end, the mode, `min_delta`, and NaN.
        ([0.5, 0.6, 0.7, 0.6], 2, 0.0, "max"),
        ([0.5, 0.6, 0.55, 0.57, 0.7], 2, 0.0, "max"),
        ([0.5, 0.4, 0.6, 0.5, 0.7], 2, 0.0, "max"),
        ([0.9, 0.7, 0.8, 0.75, 0.6], 2, 0.0, "min"),
        ([0.5, 0.52, 0.54, 0.6], 2, 0.05, "max"),
        ([0.9, 0.88, 0.86, 0.8], 2, 0.05, "min"),
        ([0.5, math.nan, 0.4, 0.3, 0.6], 2, 0.0, "max"),
        ([math.nan, 0.5, 0.6, 0.4], 2, 0.0, "max"),
    ]
    facts: dict[str, Any] = {}
    impossible = False
    for values, patience, min_delta, mode in [*few, *(_draw_curve(rng, n) for n in LENGTHS)]:
        curve = ", ".join(f"{value:g}" for value in values)
        problem = f"for [{curve}], patience={patience}, min_delta={min_delta:g}, mode={mode!r}"
        stop, best = attempt(values, patience, min_delta, mode)
        impossible |= bool(best > stop)
        facts |= {f"your stop {problem}": stop, f"your best {problem}": best}
    five = [0.5, 0.6, 0.7, 0.4, 0.3]
    pairs = [tuple(attempt(five, 2, 0.0, mode)) for mode in ("min", "max")]
    return {
        f"for {five}, your result is the same with mode='min' and 'max'.": pairs[0] == pairs[1],
        "your `best` is larger than your `stop`: weights from after the stop don't exist.": (
            impossible
        ),
        **facts,
    }


def _draw_curve(rng: random.Random, length: int) -> tuple[list[float], int, float, str]:
    """Draw the settings, and a noisy validation curve that may decline, have a tie or have a NaN.

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


def _always_max(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    return early_stopping(values, patience, min_delta, "max")


def _starts_at_zero(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    scores = _scores(values, mode)
    stop = _stop(_improvements(scores, min_delta, to_beat=0.0), patience)
    return stop, _last(_improvements(scores[: stop + 1], 0.0, to_beat=0.0))


def _delta_helps_min(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    scores = _scores(values, mode)
    # In mode "min", `value < best + min_delta`.
    delta = min_delta if mode == "max" else -min_delta
    stop = _stop(_improvements(scores, delta), patience)
    return stop, _best(scores, stop)


def _tie_resets(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    scores = _scores(values, mode)
    stop = _stop(_improvements(scores, min_delta, exceeds=operator.ge), patience)
    return stop, _best(scores, stop)


def _first_is_bad(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    scores = _scores(values, mode)
    stop = _stop(_improvements(scores, min_delta, to_beat=scores[0]), patience)
    return stop, _last(_improvements(scores[: stop + 1], 0.0, to_beat=scores[0]))


def _nan_skipped(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    there = [i for i, value in enumerate(values) if not math.isnan(value)]
    stop, best = early_stopping([values[i] for i in there], patience, min_delta, mode)
    scores = _scores([values[i] for i in there], mode)
    bad = [not improved for improved in _improvements(scores, min_delta)][: stop + 1]
    if bad[-patience:] == [True] * patience:
        return there[stop], there[best]
    return len(values) - 1, there[best]


def _the_stop_when_stopped(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    stop, best = early_stopping(values, patience, min_delta, mode)
    goes_on = early_stopping([*values, math.nan], patience, min_delta, mode)[0] > stop
    return stop, best if goes_on else stop


def _swapped_when_stopped(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    stop, best = early_stopping(values, patience, min_delta, mode)
    goes_on = early_stopping([*values, math.nan], patience, min_delta, mode)[0] > stop
    return (stop, best) if goes_on else (best, stop)


def _past_the_end(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    stop, best = early_stopping(values, patience, min_delta, mode)
    goes_on = early_stopping([*values, math.nan], patience, min_delta, mode)[0] > stop
    return stop + goes_on, best


def _never_stops(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    return early_stopping(values, len(values) + 1, min_delta, mode)


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
    hint="go through this curve by hand: which value must be beaten, and how many in a row failed?",
    mistakes={
        "N + 1": Mistake(
            _n_plus_one,
            "you wait one evaluation longer than `patience` allows.",
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
            "remember the best evaluation when you reach it",
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
        "always the largest": Mistake(
            _always_max,
            "you always look for the largest value, but the largest loss is the worst one.",
            "what should change when `mode` is 'min'?",
        ),
        "starts at zero": Mistake(
            _starts_at_zero,
            "your first value to beat is 0, which no loss can beat in mode 'min'.",
            "which starting value is beaten by every number, in both modes?",
        ),
        "min_delta helps in mode min": Mistake(
            _delta_helps_min,
            "in mode 'min', you accept a value that is a little *worse* than the value to beat.",
            "by how much must a loss fall to be an improvement? On which side is `min_delta`?",
        ),
        "a tie resets": Mistake(
            _tie_resets,
            "a tie resets your patience counter, but it isn't an improvement.",
            "should you compare with > or with >=?",
        ),
        "the first is bad": Mistake(
            _first_is_bad,
            "you compare the first value with itself, so it counts as an evaluation without "
            "improvement.",
            "which starting value is beaten by every number but not by NaN?",
        ),
        "NaN skipped": Mistake(
            _nan_skipped,
            "you skip NaN, but it must count as an evaluation without improvement.",
            "what should a NaN do to the patience counter?",
        ),
        "the stop when stopped": Mistake(
            _the_stop_when_stopped,
            "when the patience runs out, you restore the evaluation where training ends instead of "
            "the best one.",
            "which weights do you want to keep?",
        ),
        "swapped when stopped": Mistake(
            _swapped_when_stopped,
            "when the patience runs out, you return (best, stop) instead of (stop, best).",
            "compare the `return` inside your loop with the one behind it",
        ),
        "past the end": Mistake(
            _past_the_end,
            "when nothing stops the run, your stop is the number of values, which is one too "
            "large for an index.",
            "which index does the last of three values have?",
        ),
        "never stops": Mistake(
            _never_stops,
            "your run never ends early: your stop is always the last index.",
            "what should happen when `patience` evaluations in a row haven't improved?",
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
            "any gain, however small, resets your patience counter.",
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
    changes_model, needs_gradients = False, False
    weights: dict[str, Any] = {}
    statistics: dict[str, Any] = {}

    def update(average: nn.Module, model: nn.Module, step: int, decay: float) -> None:
        nonlocal changes_model, needs_gradients
        average.requires_grad_(False)
        before = [tensor.clone() for tensor in model.state_dict().values()]
        attempt(average, model, step, decay)
        after = zip(before, model.state_dict().values(), strict=True)
        changes_model |= not all(torch.equal(old, new) for old, new in after)
        needs_gradients |= any(p.requires_grad for p in average.parameters())

    for step in (0, 5, 1000):
        average, model = _network([[1.0]], mean=1.0, batches=1), _network([[3.0]], 2.0, batches=7)
        update(average, model, step, 0.9)
        problem = f"the model's weight 3, step={step} and decay=0.9"
        state = average.state_dict()
        weights[f"the average of the weight 1 with {problem}"] = state["0.weight"].item()
        at = f"at step={step}"
        mean, count = state["1.running_mean"].item(), state["1.num_batches_tracked"].item()
        statistics[f"the running mean of your average (the model's is 2) {at}"] = mean
        statistics[f"the `num_batches_tracked` of your average {at}"] = count
    decay = round(rng.uniform(0.9, 0.99), 3)
    for step in (0, rng.randint(3, 20), round(40 / (1 - decay))):
        average, model = (
            _network(torch.randn(3, 2, generator=g) + shift, mean=shift, batches=7)
            for shift in (0.0, 2.0)
        )
        update(average, model, step, decay)
        name = f"the weights of your average at step={step} with decay={decay}"
        weights[name] = average.state_dict()["0.weight"]
    return {
        "you change the model that is being trained: only read its tensors.": changes_model,
        "the weights of your average require gradients now.": needs_gradients,
        **weights,
        **statistics,
    }


def _network(weight: Any, mean: float, batches: int) -> nn.Sequential:
    """Return a linear layer and a batch-norm layer with a running mean and a count of batches."""
    weight = torch.as_tensor(weight)
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    norm = nn.BatchNorm1d(weight.shape[0])
    linear.weight.data.copy_(weight)
    running_mean, count = norm.running_mean, norm.num_batches_tracked
    assert running_mean is not None and count is not None  # noqa: PT018 - for the type checker
    running_mean.fill_(mean)
    count.fill_(batches)
    return nn.Sequential(linear, norm)


def ema_update(average: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Move each weight of the average towards the model's, and copy the buffers, in place."""
    _blend(average, model, min(decay, _warm_up(step)))
    _copy_buffers(average, model)


def _warm_up(step: int) -> float:
    """Return the decay that the warm-up allows after `step` finished updates."""
    return (1 + step) / (10 + step)


@torch.no_grad()
def _blend(average: nn.Module, model: nn.Module, d: float) -> None:
    """Replace each weight w of the average with d * w + (1 - d) * v, where v is the model's."""
    for old, new in zip(average.parameters(), model.parameters(), strict=True):
        old.copy_(d * old + (1 - d) * new)


def _copy_buffers(average: nn.Module, model: nn.Module) -> None:
    for old, new in zip(average.buffers(), model.buffers(), strict=True):
        old.copy_(new)


def _no_warm_up(average, model, step, decay):  # type: ignore[no-untyped-def]
    _blend(average, model, decay)
    _copy_buffers(average, model)


def _swapped(average, model, step, decay):  # type: ignore[no-untyped-def]
    _blend(average, model, 1 - min(decay, _warm_up(step)))
    _copy_buffers(average, model)


def _into_the_model(average, model, step, decay):  # type: ignore[no-untyped-def]
    with torch.no_grad():
        d = min(decay, _warm_up(step))
        for old, new in zip(average.parameters(), model.parameters(), strict=True):
            new.copy_(d * old + (1 - d) * new)


def _max(average, model, step, decay):  # type: ignore[no-untyped-def]
    _blend(average, model, max(decay, _warm_up(step)))
    _copy_buffers(average, model)


def _never_at_the_decay(average, model, step, decay):  # type: ignore[no-untyped-def]
    _blend(average, model, _warm_up(step))
    _copy_buffers(average, model)


def _from_one(average, model, step, decay):  # type: ignore[no-untyped-def]
    ema_update(average, model, step + 1, decay)


def _no_buffers(average, model, step, decay):  # type: ignore[no-untyped-def]
    _blend(average, model, min(decay, _warm_up(step)))


def _blended_buffers(average, model, step, decay):  # type: ignore[no-untyped-def]
    d = min(decay, _warm_up(step))
    _blend(average, model, d)
    for old, new in zip(average.buffers(), model.buffers(), strict=True):
        old.copy_(d * old + (1 - d) * new if old.is_floating_point() else new)


def _with_gradients(average, model, step, decay):  # type: ignore[no-untyped-def]
    d = min(decay, _warm_up(step))
    for old, new in zip(average.parameters(), model.parameters(), strict=True):
        old.copy_(d * old + (1 - d) * new)
    _copy_buffers(average, model)


def _nothing(average, model, step, decay):  # type: ignore[no-untyped-def]
    pass


def _rebinds(average, model, step, decay):  # type: ignore[no-untyped-def]
    # `old = d * old + (1 - d) * new` changes only what the name `old` means.
    _copy_buffers(average, model)


def _copies(average, model, step, decay):  # type: ignore[no-untyped-def]
    average.load_state_dict(model.state_dict())


EMA_UPDATE = Exercise(
    name="ema_update",
    task="`ema_update(average, model, step, decay)`, which changes `average` in place",
    observe=_observe_ema,
    answer=ema_update,
    praise="Your update does what `averaging.EMA` does, early and late in a run, buffers included.",
    hint="weights are blended, buffers are copied: what does yours do at step 0?",
    mistakes={
        "no warm-up": Mistake(
            _no_warm_up,
            "your decay is the same from the first step on, so the random initial weights stay in "
            "the average for a long time.",
            "how large is (1 + t) / (10 + t) at t = 0?",
        ),
        "roles swapped": Mistake(
            _swapped,
            "your average keeps the fraction 1 - d of itself, so it jumps almost to the newest "
            "weights.",
            "the decay is the fraction that the *average* keeps of itself",
        ),
        "into the model": Mistake(
            _into_the_model,
            "you write the average into the model that is being trained, so you change the run.",
            "which of the two modules should change?",
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
        "buffers forgotten": Mistake(
            _no_buffers,
            "you leave the buffers as they were, so batch norm keeps the statistics of the "
            "untrained network.",
            "what does `model.buffers()` give you that `model.parameters()` doesn't?",
        ),
        "buffers averaged": Mistake(
            _blended_buffers,
            "you average the running statistics, but the exercise asks you to copy all buffers.",
            "running statistics are moving averages already",
        ),
        "gradients recorded": Mistake(
            _with_gradients,
            "autograd records your update, so the average requires gradients and holds on to "
            "every earlier step.",
            "under which context manager does torch record nothing?",
        ),
        "weights stay": Mistake(
            _rebinds,
            "the weights of your average are still what they were: `old = ...` gives the name "
            "`old` a new tensor and leaves the module alone.",
            "which method writes values into a tensor?",
        ),
        "nothing changes": Mistake(
            _nothing,
            "your function leaves `average` unchanged, both its weights and its buffers.",
            "change it in place; what you return or assign to a name is lost",
        ),
        "copied": Mistake(
            _copies,
            "you copy the model into the average, which forgets everything before this step.",
            "which fraction of itself should the average keep?",
        ),
    },
)


# --- matched units --------------------------------------------------------------------------------

Layers = tuple[Tensor, Tensor, Tensor]  # incoming weights (H, D), biases (H,), outgoing (K, H)


def _observe_matching(attempt: Callable[..., Any], seed: int) -> Observation:
    g = generator(seed, 6, 3)
    plain, outgoing, biases = _shifted_units(g, noise=0.0), _equal_incoming(), _equal_weights()
    problems = {
        "two units, swapped": (_absolute_value(), _reordered(_absolute_value(), [1, 0])),
        "units that differ only in their outgoing weights": (
            outgoing,
            _reordered(outgoing, [2, 0, 1]),
        ),
        "units that differ only in their biases": (biases, _reordered(biases, [2, 0, 1])),
        "five units": (plain, _reordered(plain, [3, 0, 4, 1, 2])),
        "six units, with noise": (
            first := _shifted_units(g, noise=0.0, units=6),
            _reordered(_noisy(first, g), [1, 2, 3, 4, 5, 0]),
        ),
    }
    another_function = False
    facts = {}
    for name, (first, second) in problems.items():
        incoming, bias, outgoing_weights = attempt(list(first), list(second))
        x = torch.randn(8, first[0].shape[1], generator=generator(seed, 6, 4))
        wanted = _forward(second, x)
        got = _forward((incoming, bias, outgoing_weights), x)
        another_function |= not torch.allclose(got, wanted, atol=1e-4)
        facts[f"your incoming weights for {name}"] = incoming
        facts[f"your biases for {name}"] = bias
        facts[f"your outgoing weights for {name}"] = outgoing_weights
    complaint = "the network that you return doesn't compute the same function as `second`."
    return {complaint: another_function, **facts}


def _absolute_value() -> Layers:
    """Return the network |x| = relu(x) + relu(-x)."""
    return torch.tensor([[1.0], [-1.0]]), torch.zeros(2), torch.ones(1, 2)


def _equal_incoming() -> Layers:
    return torch.ones(3, 1), torch.zeros(3), torch.tensor([[1.0, 2, 0], [0, -1, 2]])


def _equal_weights() -> Layers:
    """Return three units whose biases alone tell them apart.

    Without a product of biases for each pair, all orders are equally similar.
    """
    return torch.ones(3, 2), torch.tensor([-1.0, 0.5, 2.0]), torch.ones(2, 3)


def _shifted_units(g: torch.Generator, noise: float, units: int = 5) -> Layers:
    """Draw a network whose units differ in size, so that one is similar to several others."""
    size = torch.linspace(0.7, 2.0, units)[:, None]
    incoming = size * (1 + torch.randn(units, 4, generator=g))
    bias = torch.randn(units, generator=g)
    return incoming, bias, (size * torch.randn(units, 3, generator=g)).T.contiguous()


def _noisy(layers: Layers, g: torch.Generator) -> Layers:
    incoming, bias, outgoing = (
        tensor + 0.2 * torch.randn(tensor.shape, generator=g) for tensor in layers
    )
    return incoming, bias, outgoing


def _reordered(layers: Sequence[Tensor], order: Any) -> Layers:
    incoming, bias, outgoing = layers
    return incoming[order], bias[order], outgoing[:, order]


def _forward(layers: Sequence[Tensor], x: Tensor) -> Tensor:
    incoming, bias, outgoing = layers
    return (x @ incoming.T + bias).relu() @ outgoing.T


def match_units(first: Sequence[Tensor], second: Sequence[Tensor]) -> Layers:
    """Reorder the hidden units of the second network to match the first as well as possible."""
    return _reordered(second, _assignment(_similarity(first, second)))


def _similarity(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Return the inner product of all weights of each pair of units, (H, H)."""
    with_incoming = first[0] @ second[0].T
    return with_incoming + torch.outer(first[1], second[1]) + first[2].T @ second[2]


def _assignment(similarity: Tensor, maximize: bool = True) -> Tensor:
    from scipy.optimize import linear_sum_assignment  # here, because it takes time to import

    scores = similarity.detach().numpy()
    return torch.as_tensor(linear_sum_assignment(scores, maximize=maximize)[1])


def _biases_stay(first, second):  # type: ignore[no-untyped-def]
    incoming, _, outgoing = match_units(first, second)
    return incoming, second[1], outgoing


def _outgoing_stay(first, second):  # type: ignore[no-untyped-def]
    incoming, bias, _ = match_units(first, second)
    return incoming, bias, second[2]


def _minimised(first, second):  # type: ignore[no-untyped-def]
    return _reordered(second, _assignment(_similarity(first, second), maximize=False))


def _greedy(first, second):  # type: ignore[no-untyped-def]
    return _reordered(second, _similarity(first, second).argmax(dim=1))


def _inverse(first, second):  # type: ignore[no-untyped-def]
    return _reordered(second, _assignment(_similarity(first, second)).argsort())


def _first_reordered(first, second):  # type: ignore[no-untyped-def]
    return match_units(second, first)


def _incoming_only(first, second):  # type: ignore[no-untyped-def]
    return _reordered(second, _assignment(first[0] @ second[0].T))


def _without_outgoing(first, second):  # type: ignore[no-untyped-def]
    similarity = first[0] @ second[0].T + torch.outer(first[1], second[1])
    return _reordered(second, _assignment(similarity))


def _elementwise_biases(first, second):  # type: ignore[no-untyped-def]
    similarity = first[0] @ second[0].T + first[1] * second[1] + first[2].T @ second[2]
    return _reordered(second, _assignment(similarity))


def _without_biases(first, second):  # type: ignore[no-untyped-def]
    return _reordered(second, _assignment(first[0] @ second[0].T + first[2].T @ second[2]))


def _averaged(first, second):  # type: ignore[no-untyped-def]
    matched = match_units(first, second)
    return tuple((a + b) / 2 for a, b in zip(first, matched, strict=True))


def _unmatched(first, second):  # type: ignore[no-untyped-def]
    return tuple(second)


MATCH_UNITS = Exercise(
    name="match_units",
    task="`match_units(first, second) -> (incoming, bias, outgoing)`",
    observe=_observe_matching,
    answer=match_units,
    praise="Your network computes what `second` computes, and its units are in the same order as "
    "in `first`.",
    hint="which pairs of units do you compare, and what moves along with a unit?",
    mistakes={
        "biases stay": Mistake(
            _biases_stay,
            "you reorder the weights but not the biases, so each unit gets another unit's bias.",
            "what belongs to a hidden unit, besides its incoming weights?",
        ),
        "outgoing weights stay": Mistake(
            _outgoing_stay,
            "you leave the outgoing weights in their old order, so the next layer reads the wrong "
            "units.",
            "along which axis of `outgoing` do the hidden units lie?",
        ),
        "least similar": Mistake(
            _minimised,
            "you pair the units that are least similar.",
            "does `linear_sum_assignment` look for a small or a large sum, by default?",
        ),
        "one unit for several": Mistake(
            _greedy,
            "you choose the most similar unit for each unit of `first`, so some are used twice and "
            "others are lost.",
            "how do you get a one-to-one assignment?",
        ),
        "inverse order": Mistake(
            _inverse,
            "you apply the inverse of the order that you found.",
            "row i of the similarity belongs to unit i of `first`; which unit of `second` fits?",
        ),
        "the first is reordered": Mistake(
            _first_reordered,
            "you reorder `first` and return it, but `first` sets the order.",
            "which of the two networks should change?",
        ),
        "incoming weights only": Mistake(
            _incoming_only,
            "you compare only the incoming weights, so units that differ elsewhere look the same.",
            "which other weights tell two units apart?",
        ),
        "outgoing weights left out": Mistake(
            _without_outgoing,
            "you leave the outgoing weights out of the similarity.",
            "two units can read the same and still do different things; where does it show?",
        ),
        "biases left out": Mistake(
            _without_biases,
            "you leave the biases out of the similarity.",
            "what else tells two units apart, if they read the same and are read in the same way?",
        ),
        "biases multiplied elementwise": Mistake(
            _elementwise_biases,
            "you multiply bias i only with bias i, and add the same values to every row of the "
            "similarity, which changes no order.",
            "which shape has `first[1] * second[1]`, and how many pairs of units are there?",
        ),
        "averaged": Mistake(
            _averaged,
            "you return the average of both networks, but the exercise asks for the matched one.",
            "leave averaging to the caller",
        ),
        "not reordered": Mistake(
            _unmatched,
            "you return `second` in its old order.",
            "index with the order that you found: `incoming[order]`",
        ),
    },
)

EXERCISES = (STOPPING, EMA_UPDATE, MATCH_UNITS)

PREDICTIONS = (
    Prediction(
        question="After which epoch is the test accuracy highest?",
        text=(
            "Four in ten training labels are wrong, and a small network trains for sixteen "
            "epochs. After which epoch is its mean test accuracy highest, without an average of "
            "the weights?"
        ),
        answer=4,
        why=(
            "The network learns what the signs have in common first, and memorises the wrong "
            "labels afterwards. That's why early stopping helps here."
        ),
        section="Wrong labels",
        within=1,
    ),
    Prediction(
        question="After which evaluation does the run end?",
        text=(
            "The validation accuracies are 0.50, 0.60, 0.58, 0.62, 0.61, 0.63, 0.60 and 0.66. "
            "With a patience of 2 and a `min_delta` of 0.05, after which of them does training "
            "end? Count from 0."
        ),
        answer=3,
        why=(
            "0.60 is the last improvement by more than 0.05. The next two evaluations, 0.58 and "
            "0.62, aren't improvements, so the run ends there."
        ),
        section="Early stopping, exactly",
        within=0,
    ),
    Prediction(
        question="What does stopping gain at a learning rate of 0.005?",
        text=(
            "Four in ten training labels are wrong, but the learning rate is only 0.005, a "
            "tenth of the one at which early stopping had gained much. By how many points does "
            "early stopping change the test accuracy? (Negative if it hurts.)"
        ),
        answer=0.2,
        why=(
            "At this learning rate the network had not begun to memorise much, so there was "
            "nothing to rescue."
        ),
        section="The same labels at another learning rate",
        within=2,
        unit="points",
    ),
    Prediction(
        question="What does the EMA gain with correct labels?",
        text=(
            "All labels are correct, and the learning rate is constant. At the end of the run, "
            "by how many points does the moving average of the weights (EMA) beat the live "
            "weights?"
        ),
        answer=1.84,
        why="The live weights jump around at a constant learning rate, and an average doesn't.",
        section="Averaging weights over the steps of a run",
        within=1,
        unit="points",
    ),
    Prediction(
        question="What does an EMA reach at a constant learning rate?",
        text=(
            "A cosine without an average reaches an accuracy of 0.792. What does a moving "
            "average of the weights (EMA) reach at a constant learning rate, in the same study?"
        ),
        answer=0.8169,
        why="The average does what the decay would have done, without giving up large steps.",
        section="Averaging weights over the steps of a run",
        within=0.01,
    ),
    Prediction(
        question="How far apart are the two kinds of ensemble?",
        text=(
            "An ensemble of four networks can average the probabilities or the logits. By how "
            "many points do the accuracies of the two differ? (0 or more.)"
        ),
        answer=0.06,
        why=(
            "For accuracy it doesn't matter which you average. The loss is slightly lower with "
            "probabilities."
        ),
        section="Averaging predictions",
        within=0.5,
        unit="points",
    ),
    Prediction(
        question="How far is an ensemble ahead of a run of four times the length?",
        text=(
            "An ensemble averages the predictions of four networks. By how many points is it "
            "more accurate than one network that trained for four times as long? (Negative if "
            "it's behind.)"
        ),
        answer=-0.4,
        why=(
            "After runs as short as these, longer training buys as much accuracy as an "
            "ensemble. What only the ensemble buys is better probabilities."
        ),
        section="Averaging predictions",
        within=1.5,
        unit="points",
    ),
    Prediction(
        question="How accurate is a network with the mean weights of two runs?",
        text=(
            "You average the weights of two networks that were trained independently, and "
            "collect the batch-norm statistics again. What accuracy does the result have? "
            "(Guessing gives 0.08.)"
        ),
        answer=0.243,
        why=(
            "The order of the channels is arbitrary, so two networks almost never use the same "
            "channel for the same job. Match the channels first."
        ),
        section="Averaging the weights of independent runs",
    ),
)

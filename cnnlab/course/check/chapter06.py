"""Chapter 6: when a run ends and which weights it leaves, the moving average, the ensemble."""

import math
import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cnnlab.course.check.core import Exercise, Mistake, Observation
from cnnlab.rng import fold_in, generator


Stop = tuple[int, int]

# --- early stopping -------------------------------------------------------------------------------


def _curve(draw: random.Random) -> tuple[list[float], int, float, str]:
    """A measured curve as they come, and a setting: rise, noise, a fall or none, a NaN now and then."""
    length, mode = draw.randint(8, 16), draw.choice(["min", "max"])
    top, slope = draw.randint(3, length + 2), draw.choice([0.02, 0.05])
    noise = draw.choice([0.01, 0.03])
    values = [round(0.6 - slope * abs(i - top) + draw.gauss(0, noise), 2) for i in range(length)]
    if draw.random() < 0.5:
        values[min(top, length - 1)] = values[min(top, length - 1) - 1]  # a tie
    if draw.random() < 0.5:
        values[0 if draw.random() < 0.5 else draw.randrange(1, length)] = math.nan
    if mode == "min":
        values = [round(1 - value, 2) for value in values]
    patience = draw.randint(2 if math.isnan(values[0]) else 1, 4)  # a number comes before the stop
    # Thresholds between two hundredths, so that no rounding decides.
    return values, patience, draw.choice([0.0, 0.025, 0.055]), mode


def _observe_stopping(attempt: Callable[..., Any], seed: int) -> Observation:
    draw = random.Random(fold_in(seed, 6, 1))
    seen = {}
    for _ in range(CURVES):
        values, patience, min_delta, mode = _curve(draw)
        told = ", ".join(f"{value:g}" for value in values)
        problem = f"(stop, best) of [{told}] with {patience}, {min_delta}, {mode!r}"
        seen[problem] = _whole(attempt(list(values), patience, min_delta, mode))
    return seen


def _whole(answer: Any) -> Any:
    """Two whole numbers as a pair, whatever they came in; anything else as it is."""
    try:
        stop, best = answer
        return int(stop), int(best)
    except (TypeError, ValueError):
        return answer


CURVES = 36  # enough that each mistake shows on one of them, and differs there from the others


def early_stopping(values: list[float], patience: int, min_delta: float, mode: str) -> Stop:
    """The answer: indices of the evaluation that ends training, and of the one whose weights are restored."""
    sign = 1 if mode == "max" else -1
    best, best_value, to_beat, bad = 0, -math.inf, -math.inf, 0
    for i, value in enumerate(values):
        score = sign * value
        if score > best_value:
            best, best_value = i, score
        if score > to_beat + min_delta:
            to_beat, bad = score, 0
        else:
            bad += 1
        if bad >= patience:
            return i, best
    return len(values) - 1, best


def _n_plus_one(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    return early_stopping(values, patience + 1, min_delta, mode)


def _nan_improves(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    sign = 1 if mode == "max" else -1
    best, best_value, to_beat, bad = 0, -math.inf, -math.inf, 0
    for i, value in enumerate(values):
        score = sign * value
        if not score <= best_value:
            best, best_value = i, score
        if not score <= to_beat + min_delta:
            to_beat, bad = score, 0
        else:
            bad += 1
        if bad >= patience:
            return i, best
    return len(values) - 1, best


def _first_is_best(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    sign = 1 if mode == "max" else -1
    best, best_value, to_beat, bad = 0, sign * values[0], sign * values[0], 0
    for i, value in enumerate(values[1:], start=1):
        score = sign * value
        if score > best_value:
            best, best_value = i, score
        if score > to_beat + min_delta:
            to_beat, bad = score, 0
        else:
            bad += 1
        if bad >= patience:
            return i, best
    return len(values) - 1, best


def _restores_only_when_stopped(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    stop, best = early_stopping(values, patience, min_delta, mode)
    # With one more bad value a run that was not stopped goes on, one that was stopped does not.
    goes_on = early_stopping([*values, math.nan], patience, min_delta, mode)[0] > stop
    return stop, len(values) - 1 if goes_on else best


def _returns_the_last(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    stop, _ = early_stopping(values, patience, min_delta, mode)
    return stop, stop


def _patience_ago(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    stop, _ = early_stopping(values, patience, min_delta, mode)
    return stop, max(stop - patience, 0)


def _against_the_previous(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    sign = 1 if mode == "max" else -1
    best, best_value, previous, bad = 0, -math.inf, -math.inf, 0
    for i, value in enumerate(values):
        score = sign * value
        if score > best_value:
            best, best_value = i, score
        bad = 0 if score > previous + min_delta else bad + 1
        previous = score
        if bad >= patience:
            return i, best
    return len(values) - 1, best


def _always_min(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    return early_stopping(values, patience, min_delta, "min")


def _never_reset(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    sign = 1 if mode == "max" else -1
    best, best_value, to_beat, bad = 0, -math.inf, -math.inf, 0
    for i, value in enumerate(values):
        score = sign * value
        if score > best_value:
            best, best_value = i, score
        if score > to_beat + min_delta:
            to_beat = score
        else:
            bad += 1
        if bad >= patience:
            return i, best
    return len(values) - 1, best


def _to_beat_creeps(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    sign = 1 if mode == "max" else -1
    best, best_value, bad = 0, -math.inf, 0
    for i, value in enumerate(values):
        score = sign * value
        bad = 0 if score > best_value + min_delta else bad + 1
        if score > best_value:
            best, best_value = i, score
        if bad >= patience:
            return i, best
    return len(values) - 1, best


def _best_needs_min_delta(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    sign = 1 if mode == "max" else -1
    best, to_beat, bad = 0, -math.inf, 0
    for i, value in enumerate(values):
        score = sign * value
        if score > to_beat + min_delta:
            best, to_beat, bad = i, score, 0
        else:
            bad += 1
        if bad >= patience:
            return i, best
    return len(values) - 1, best


def _without_min_delta(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    return early_stopping(values, patience, 0.0, mode)


def _ties_take_the_later(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    stop, best = early_stopping(values, patience, min_delta, mode)
    return stop, max(i for i in range(stop + 1) if values[i] == values[best] or i == best)


def _looks_ahead(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    stop, _ = early_stopping(values, patience, min_delta, mode)
    return stop, early_stopping(values, len(values) + 1, 0.0, mode)[1]


def _counted_from_one(values, patience, min_delta, mode):  # type: ignore[no-untyped-def]
    stop, best = early_stopping(values, patience, min_delta, mode)
    return stop + 1, best + 1


STOPPING = Exercise(
    name="early_stopping",
    observe=_observe_stopping,
    answer=early_stopping,
    praise="It waits as long as it says, forgives no NaN, and always leaves the best weights of those it saw.",
    mistakes={
        "N + 1": Mistake(
            _n_plus_one,
            "it waits for one evaluation more than `patience` says.",
            "with patience 1 the first evaluation that does not improve ends the run; compare with >= or with >?",
        ),
        "NaN improves": Mistake(
            _nan_improves,
            "NaN counts as an improvement: every comparison with NaN is False, and yours asks for `not worse`.",
            "ask whether the value is better, not whether it fails to be worse",
        ),
        "NaN poisons the best": Mistake(
            _first_is_best,
            "the first value is the best without being compared; if it is NaN, nothing ever beats it.",
            "with which value to beat can you begin, so that any number is better and NaN is not?",
        ),
        "restores only when stopped early": Mistake(
            _restores_only_when_stopped,
            "when the run ends by itself, you return the last evaluation instead of the best.",
            "is the last epoch of a run better because nobody stopped it?",
        ),
        "restores the last": Mistake(
            _returns_the_last,
            "the second number is where training ends. By then it has not improved for a while.",
            "which weights do you want to keep?",
        ),
        "restores stop minus patience": Mistake(
            _patience_ago,
            "you count back from the stop by the patience. The best evaluation may lie elsewhere: after a tiny gain "
            "that `min_delta` does not count, or in a run that nothing stopped.",
            "note the best evaluation when you meet it",
        ),
        "compares with the previous": Mistake(
            _against_the_previous,
            "each value is compared with the one before it. A curve that falls in a zigzag then goes on for ever.",
            "which value must a new one beat?",
        ),
        "mode ignored": Mistake(
            _always_min,
            "you always look for the smallest value; of an accuracy that is the worst.",
            "what should `mode='max'` turn around?",
        ),
        "counter never reset": Mistake(
            _never_reset,
            "bad evaluations are added up over the whole run; the patience counts those in a row.",
            "what happens to the counter when an evaluation improves?",
        ),
        "the value to beat creeps": Mistake(
            _to_beat_creeps,
            "the value to beat follows every tiny gain. A curve that improves slowly but steadily is then stopped, "
            "for no single step exceeds `min_delta`.",
            "patience and restoring need one best value each; which of them asks for more than `min_delta`?",
        ),
        "the best needs min_delta": Mistake(
            _best_needs_min_delta,
            "a slightly better evaluation is not restored, because its lead is below `min_delta`.",
            "`min_delta` says when to lose patience; does it also say which weights are better?",
        ),
        "min_delta ignored": Mistake(
            _without_min_delta,
            "any gain, however small, renews the patience.",
            "where does `min_delta` enter?",
        ),
        "ties take the later": Mistake(
            _ties_take_the_later,
            "of two equally good evaluations you restore the later one; the earlier one is asked for.",
            "> or >= ?",
        ),
        "looks ahead": Mistake(
            _looks_ahead,
            "the best evaluation lies behind the stop: those epochs were never trained.",
            "look only at the values up to the stop",
        ),
        "counted from one": Mistake(
            _counted_from_one,
            "you count evaluations from 1; indices into `values` are asked for.",
            "`enumerate` begins at 0",
        ),
    },
)


# --- the moving average ---------------------------------------------------------------------------


def _observe_ema(attempt: Callable[..., Any], seed: int) -> Observation:
    g, draw = generator(seed, 6, 2), random.Random(fold_in(seed, 6, 2))
    decay = draw.uniform(0.9, 0.99)
    steps = {
        "after the first update (step 0)": 0,
        "while the decay still rises": draw.randint(3, 20),
        "when the decay has risen": round(40 / (1 - decay)),
    }
    seen: dict[str, Any] = {}
    for when, step in steps.items():
        average = [torch.randn(size, generator=g) for size in ((3, 2), (4,))]
        weights = [1 + torch.rand(part.shape, generator=g) + part for part in average]
        before = [[part.clone() for part in parts] for parts in (average, weights)]
        returned = attempt(average, weights, step, decay)
        seen[f"the average {when}"] = _as_list(returned)
        untouched = all(
            torch.equal(part, old)
            for parts, olds in zip((average, weights), before, strict=True)
            for part, old in zip(parts, olds, strict=True)
        )
        seen[f"average and weights left alone {when}"] = untouched
    return seen


def _as_list(returned: Any) -> Any:
    return [*returned] if isinstance(returned, list | tuple) else returned


def ema_update(
    average: list[Tensor], weights: list[Tensor], step: int, decay: float
) -> list[Tensor]:
    """The answer: d times the average plus 1 - d times the weights, d rising from 0.1 to the decay."""
    d = min(decay, (1 + step) / (10 + step))
    return [d * old + (1 - d) * new for old, new in zip(average, weights, strict=True)]


def _blend(average, weights, d):  # type: ignore[no-untyped-def]
    return [d * old + (1 - d) * new for old, new in zip(average, weights, strict=True)]


def _no_warm_up(average, weights, step, decay):  # type: ignore[no-untyped-def]
    return _blend(average, weights, decay)


def _swapped(average, weights, step, decay):  # type: ignore[no-untyped-def]
    return _blend(average, weights, 1 - min(decay, (1 + step) / (10 + step)))


def _in_place(average, weights, step, decay):  # type: ignore[no-untyped-def]
    d = min(decay, (1 + step) / (10 + step))
    for old, new in zip(average, weights, strict=True):
        old.mul_(d).add_(new, alpha=1 - d)
    return average


def _max(average, weights, step, decay):  # type: ignore[no-untyped-def]
    return _blend(average, weights, max(decay, (1 + step) / (10 + step)))


def _never_at_the_decay(average, weights, step, decay):  # type: ignore[no-untyped-def]
    return _blend(average, weights, (1 + step) / (10 + step))


def _from_one(average, weights, step, decay):  # type: ignore[no-untyped-def]
    return ema_update(average, weights, step + 1, decay)


def _equal_average(average, weights, step, decay):  # type: ignore[no-untyped-def]
    return _blend(average, weights, step / (step + 1))


EMA_UPDATE = Exercise(
    name="ema_update",
    observe=_observe_ema,
    answer=ema_update,
    praise="It takes the step that `averaging.EMA` takes, at the beginning of a run and late in it.",
    mistakes={
        "no warm-up": Mistake(
            _no_warm_up,
            "the decay is the same from the first step on, so the random first weights stay in the average for long.",
            "how large is (1 + t) / (10 + t) at t = 0?",
        ),
        "roles swapped": Mistake(
            _swapped,
            "the average and the weights have changed places: the average jumps to nearly the newest weights.",
            "the decay is what the *average* keeps of itself",
        ),
        "in place": Mistake(
            _in_place,
            "the numbers are right, but the average that was handed to you has been overwritten.",
            "an operation whose name ends in an underscore changes its tensor; return new ones",
        ),
        "max for min": Mistake(
            _max,
            "you take the larger of the two decays.",
            "the decay should begin small and never exceed `decay`",
        ),
        "never at the decay": Mistake(
            _never_at_the_decay,
            "the warm-up never ends: the decay goes on rising towards 1, and the average stands still.",
            "what is `decay` for?",
        ),
        "counted from one": Mistake(
            _from_one,
            "the warm-up is a step ahead: `step` counts finished updates, 0 at the first call.",
            "put t = 0 into the formula for the first update",
        ),
        "equal average": Mistake(
            _equal_average,
            "this is the equal average of all weights so far, as SWA takes it, first weights included.",
            "a moving average forgets; what share does it keep of itself in each step?",
        ),
    },
)


# --- the ensemble ---------------------------------------------------------------------------------


def _observe_ensemble(attempt: Callable[..., Any], seed: int) -> Observation:
    g, draw = generator(seed, 6, 3), random.Random(fold_in(seed, 6, 3))
    members, samples, classes = draw.randint(3, 5), draw.randint(6, 9), draw.randint(10, 12)
    logits = torch.randn(members, samples, classes, generator=g)
    logits *= torch.linspace(1, 5, members).view(-1, 1, 1)  # one member is surer than the other
    before = logits.clone()
    returned = attempt(logits)
    return {"what you return": returned, "the logits left alone": torch.equal(logits, before)}


def ensemble(logits: Tensor) -> Tensor:
    """The answer: the mean over the members of their probabilities, (M, N, K) -> (N, K)."""
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
    observe=_observe_ensemble,
    answer=ensemble,
    praise="A mean of probabilities; its rows sum to 1.",
    mistakes={
        "averages logits": Mistake(
            _averages_logits,
            "the logits are averaged before the softmax, so a member with large logits speaks louder than the rest.",
            "what should each member contribute, so that all count the same?",
        ),
        "logits, no softmax": Mistake(
            _mean_of_logits,
            "what you return are logits: some are negative, and the rows do not sum to 1.",
            "how do logits become probabilities?",
        ),
        "majority vote": Mistake(
            _majority_vote,
            "you count votes: a member that hesitates between two classes says no more than its first choice.",
            "average what the members say, not what they choose",
        ),
        "softmax over the members": Mistake(
            _over_the_members,
            "the softmax runs over the members: it asks which member has the largest logit for a class.",
            "which of the axes (M, N, K) should sum to 1?",
        ),
        "softmax over the samples": Mistake(
            _over_the_samples,
            "the softmax runs over the samples: an answer then depends on the other images.",
            "which of the axes (M, N, K) should sum to 1?",
        ),
        "sum for mean": Mistake(
            _sum_of_probabilities,
            "the probabilities are added up, so a row sums to the number of members.",
            "a probability is at most 1",
        ),
        "softmax twice": Mistake(
            _softmax_twice,
            "there is another softmax on top of the average, which makes every answer nearly even.",
            "the mean of probabilities is a probability already",
        ),
        "classes only": Mistake(
            _classes_only,
            "you return class numbers; the probabilities (N, K) are asked for.",
            "leave the choice to whoever uses the ensemble",
        ),
    },
)

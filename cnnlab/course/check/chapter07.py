"""Check the exercises of chapter 7: gradient clipping, update ratios and diagnosing a run.

The public functions are the reference solutions; the private ones next to them are known mistakes.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cnnlab.course.check.compare import short
from cnnlab.course.check.core import Exercise, Mistake, Observation
from cnnlab.course.spelling import recognise
from cnnlab.rng import fold_in, generator


# --- clip_by_norm ---------------------------------------------------------------------------------


def _observe_clipping(attempt: Callable[..., Any], seed: int) -> Observation:
    rng = generator(seed, 7, 1)
    observation: dict[str, Any] = {}
    same = False
    for entries, max_norm in (
        ([[3.0, 4.0]], 1.0),
        ([[0.3, 0.4]], 1.0),
        ([[3.0], [4.0]], 1.0),
        ([[6.0, 8.0]], 5.0),
        ([[0.0, 0.0]], 1.0),
    ):
        gradients = [torch.tensor(g) for g in entries]
        answer = attempt(gradients, max_norm)
        name = f"your result for gradients={short(entries)}, max_norm={max_norm:g}"
        observation[name] = [g.tolist() for g in answer]
        same |= any(new is old for new in answer for old in gradients)
    raw = [torch.randn(shape, generator=rng) for shape in ((4, 3), (5,), (2, 2, 3))]
    raw[1] *= 3  # so that clipping each tensor alone would scale them by different factors
    max_norm = 0.5 + 1.5 * torch.rand((), generator=rng).item()
    for name, (low, high) in (("long", (5, 20)), ("short", (0.2, 0.8))):
        fraction = torch.rand((), generator=rng).item()
        norm = max_norm * (low + fraction * (high - low))
        gradients = [g * (norm / _norm(raw)) for g in raw]
        observation[f"your result for a {name} gradient"] = attempt(gradients, max_norm)
    return {"you return a tensor that you were given: make a new one.": same, **observation}


def _norm(gradients: Sequence[Tensor]) -> float:
    """Return the norm of all gradients taken together as one vector."""
    return math.sqrt(sum(g.square().sum().item() for g in gradients))


def clip_by_norm(gradients: Sequence[Tensor], max_norm: float) -> list[Tensor]:
    """Scale all gradients by one factor, at most 1, so that their norm is at most `max_norm`."""
    norm = _norm(gradients)
    factor = min(1.0, max_norm / norm) if norm else 1.0
    return [g * factor for g in gradients]


def _each_alone(gradients, max_norm):  # type: ignore[no-untyped-def]
    return [clip_by_norm([g], max_norm)[0] for g in gradients]


def _always_scales(gradients, max_norm):  # type: ignore[no-untyped-def]
    norm = _norm(gradients)
    return [g * (max_norm / norm) if norm else g.clone() for g in gradients]


def _by_value(gradients, max_norm):  # type: ignore[no-untyped-def]
    return [g.clamp(-max_norm, max_norm) for g in gradients]


def _in_place(gradients, max_norm):  # type: ignore[no-untyped-def]
    for g, clipped in zip(gradients, clip_by_norm(gradients, max_norm), strict=True):
        g.copy_(clipped)
    return gradients


def _no_root(gradients, max_norm):  # type: ignore[no-untyped-def]
    squares = _norm(gradients) ** 2
    return [g * min(1.0, max_norm / squares) if squares else g.clone() for g in gradients]


def _to_length_one(gradients, max_norm):  # type: ignore[no-untyped-def]
    norm = _norm(gradients)
    return [g / norm if norm > max_norm else g.clone() for g in gradients]


def _sum_of_norms(gradients, max_norm):  # type: ignore[no-untyped-def]
    norm = sum(g.norm().item() for g in gradients)
    return [g * min(1.0, max_norm / norm) if norm else g.clone() for g in gradients]


CLIPPING = Exercise(
    name="clip_by_norm",
    task="`clip_by_norm(gradients, max_norm) -> new list of tensors`",
    observe=_observe_clipping,
    answer=clip_by_norm,
    praise="You scale the whole gradient by one factor that is never above 1, so its direction "
    "stays the same.",
    hint="compute the norm of all gradients together: is it above `max_norm`?",
    mistakes={
        "each tensor alone": Mistake(
            _each_alone,
            "you clip each tensor by its own norm, which changes the direction of the whole "
            "gradient.",
            "all tensors together form one long vector; how long is it?",
        ),
        "scales up": Mistake(
            _always_scales,
            "you scale every gradient to the length `max_norm`, short ones too, so the small "
            "gradients near a minimum get blown up.",
            "when should the gradient stay as it is?",
        ),
        "by value": Mistake(
            _by_value,
            "you limit each entry separately; that is clipping by value, and it changes the "
            "direction of the gradient.",
            "the direction stays the same if every entry is multiplied by the same factor",
        ),
        "in place": Mistake(
            _in_place,
            "you change the tensors that you were given, but the exercise asks for new ones.",
            "which of your operations write into the tensor they are called on?",
        ),
        "no square root": Mistake(
            _no_root,
            "you use the sum of squares as the norm, so you clip gradients to the wrong length.",
            "compute the length of the vector (3, 4) with your formula",
        ),
        "length one": Mistake(
            _to_length_one,
            "you scale a long gradient to length 1, whatever `max_norm` is.",
            "where should `max_norm` enter the factor?",
        ),
        "sum of norms": Mistake(
            _sum_of_norms,
            "you add the norms of the tensors, but the lengths of the pieces don't add up to the "
            "length of the whole.",
            "the squared lengths do add up",
        ),
    },
)


# --- update_ratio ---------------------------------------------------------------------------------


def _observe_ratio(attempt: Callable[..., Any], seed: int) -> Observation:
    rng = generator(seed, 7, 2)
    observation: dict[str, Any] = {}
    for before, after in (([3.0, 4.0], [3.0, 4.5]), ([3.0, -4.0], [3.3, -4.4])):
        ratio = attempt(torch.tensor(before), torch.tensor(after))
        observation[f"your ratio for before={short(before)}, after={short(after)}"] = ratio
    weights = 0.3 + torch.randn(5, 4, generator=rng)
    for name, size in (("small", 1e-3), ("large", 0.3)):
        step = size * (0.5 + torch.randn(5, 4, generator=rng))
        ratio = attempt(weights.clone(), weights + step)
        observation[f"your ratio for a {name} step of 20 weights"] = ratio
    return observation


def update_ratio(before: Tensor, after: Tensor) -> float:
    """Return the norm of the step divided by the norm of the weights."""
    return ((after - before).norm() / before.norm()).item()


def _not_the_difference(before, after):  # type: ignore[no-untyped-def]
    return (after.norm() / before.norm()).item()


def _difference_of_norms(before, after):  # type: ignore[no-untyped-def]
    return ((after.norm() - before.norm()).abs() / before.norm()).item()


def _means(before, after):  # type: ignore[no-untyped-def]
    return ((after - before).mean() / before.mean()).item()


def _mean_of_ratios(before, after):  # type: ignore[no-untyped-def]
    return ((after - before) / before).abs().mean().item()


def _inverted(before, after):  # type: ignore[no-untyped-def]
    return (before.norm() / (after - before).norm()).item()


def _deviations(before, after):  # type: ignore[no-untyped-def]
    return ((after - before).std() / before.std()).item()


def _squared(before, after):  # type: ignore[no-untyped-def]
    return ((after - before).square().sum() / before.square().sum()).item()


def _by_the_new_weights(before, after):  # type: ignore[no-untyped-def]
    return ((after - before).norm() / after.norm()).item()


def _logarithm(before, after):  # type: ignore[no-untyped-def]
    return math.log10(update_ratio(before, after))


def _tensor(before, after):  # type: ignore[no-untyped-def]
    return (after - before).norm() / before.norm()


RATIO = Exercise(
    name="update_ratio",
    task="`update_ratio(before, after)`, the relative size of an update",
    observe=_observe_ratio,
    answer=update_ratio,
    praise="Your ratio is the norm of the step divided by the norm of the weights.",
    hint="which tensor is the step, and how long are the step and the weights?",
    mistakes={
        "not the difference": Mistake(
            _not_the_difference,
            "you compare the norms of the weights before and after, and their ratio is close to 1 "
            "for every small step.",
            "which tensor holds only the step?",
        ),
        "difference of norms": Mistake(
            _difference_of_norms,
            "you compute how much the length changes, so weights that turn without growing would "
            "seem to stand still.",
            "subtract first, then take the norm",
        ),
        "means": Mistake(
            _means,
            "you compare means, in which positive and negative entries cancel, so the ratio can "
            "even be negative.",
            "which measure of size is never negative?",
        ),
        "mean of ratios": Mistake(
            _mean_of_ratios,
            "you average one ratio per entry, so the weights near 0 decide the result.",
            "compute one size for the whole step and one for all weights, and divide at the end",
        ),
        "inverted": Mistake(
            _inverted,
            "you divide the weights by the step, but it should be the step by the weights.",
            "a healthy ratio is about 0.001, not 1000",
        ),
        "by the new weights": Mistake(
            _by_the_new_weights,
            "you divide by the size of the weights after the step.",
            "which weights did the step start from?",
        ),
        "logarithm": Mistake(
            _logarithm,
            "you return the logarithm of the ratio, but the exercise asks for the ratio itself.",
            "a ratio of two lengths is never negative",
        ),
        "deviations": Mistake(
            _deviations,
            "you use standard deviations, so a step that shifts every weight by the same amount "
            "would count as zero.",
            "measure sizes from zero, not from the mean",
        ),
        "no square root": Mistake(
            _squared,
            "you compare squares, so a ratio of 0.001 comes out as 0.000001.",
            "what is missing between a sum of squares and a length?",
        ),
        "returns a tensor": Mistake(
            _tensor,
            "you return a tensor, but the exercise asks for a plain number.",
            "`.item()` reads the number out of a tensor",
        ),
    },
)


# --- diagnose_case --------------------------------------------------------------------------------

OTHER = "something else"
NAMES = (
    "not normalised",
    "dead ReLUs",
    "rate too high",
    "rate too low",
    "eval mode forgotten",
    "class imbalance",
    OTHER,
)
# The correct answer to the last three cases is `OTHER`.
CASES = (
    "not normalised",
    "dead ReLUs",
    "rate too high",
    "rate too low",
    "eval mode forgotten",
    "class imbalance",
    "standardised pixels",
    "shuffled labels",
    "overfitting",
)


def _draw_vitals(case: str, rng: random.Random) -> tuple[dict[str, float], dict[str, float]]:
    """Draw the vital signs of a run in the given case, at a safe distance from every limit.

    Returns:
        The vital signs of a healthy run, and those in which this case differs.
    """

    def draw(low: float, high: float) -> float:
        return round(rng.uniform(low, high), 3)

    high_accuracy, low_accuracy = draw(0.85, 0.97), draw(0.12, 0.25)
    healthy = {
        "pixel_low": 0.0,
        "pixel_high": draw(0.98, 1.0),
        "silent_share": draw(0.0, 0.1),
        "log10_update_ratio": draw(-3.0, -1.7),
        "train_acc": draw(0.9, 1.0),
        "valid_acc": high_accuracy,
        "valid_acc_again": high_accuracy,
        "worst_recall": draw(0.6, 0.8),
    }
    untrained = {
        "train_acc": low_accuracy,
        "valid_acc": low_accuracy,
        "valid_acc_again": low_accuracy,
        "worst_recall": 0.0,
    }
    overfit_accuracy = draw(0.5, 0.6)
    changes: Mapping[str, dict[str, float]] = {
        "not normalised": {"pixel_high": 255.0},
        "dead ReLUs": {"silent_share": draw(0.8, 1.0), "log10_update_ratio": -12.0} | untrained,
        "rate too high": {"log10_update_ratio": draw(-0.9, -0.2)} | untrained,
        "rate too low": {"log10_update_ratio": draw(-7.0, -5.0)} | untrained,
        "eval mode forgotten": {
            "valid_acc": draw(0.3, 0.5),
            "valid_acc_again": high_accuracy,
            "worst_recall": draw(0.3, 0.5),
        },
        "class imbalance": {"worst_recall": draw(0.0, 0.08)},
        "standardised pixels": {"pixel_low": draw(-2.4, -1.8), "pixel_high": draw(2.3, 2.8)},
        "shuffled labels": untrained,
        "overfitting": {
            "train_acc": 1.0,
            "valid_acc": overfit_accuracy,
            "valid_acc_again": overfit_accuracy,
        },
    }
    return healthy, changes[case]


def _observe_diagnosis(attempt: Callable[..., Any], seed: int) -> Observation:
    rng = random.Random(fold_in(seed, 7, 3))
    cases = list(CASES)
    rng.shuffle(cases)
    strange, diagnoses = set(), {}
    for case in cases:
        healthy, signs = _draw_vitals(case, rng)
        typed = attempt(healthy | signs)
        name = recognise(typed, NAMES) if isinstance(typed, str) else typed
        if name is None and typed is not None:
            strange.add(typed)
        few = ", ".join(f"{sign}={value:g}" for sign, value in list(signs.items())[:3])
        diagnoses[f"your diagnosis of a run with {few}"] = name or typed
    return {"the set of names that you return": strange, **diagnoses}


def diagnose_case(vitals: Mapping[str, float]) -> str:
    """Return the name of the fault, looking at inputs, gradients, steps and evaluation in turn."""
    if vitals["pixel_high"] > 2 and vitals["pixel_low"] >= 0:
        return "not normalised"
    if vitals["silent_share"] > 0.5:
        return "dead ReLUs"
    if vitals["log10_update_ratio"] > -1.2:
        return "rate too high"
    if vitals["log10_update_ratio"] < -4.2:
        return "rate too low"
    if abs(vitals["valid_acc"] - vitals["valid_acc_again"]) > 0.1:
        return "eval mode forgotten"
    if vitals["worst_recall"] < 0.2 and vitals["valid_acc"] > 0.6:
        return "class imbalance"
    return OTHER


def _swapped(vitals):  # type: ignore[no-untyped-def]
    opposite = {"rate too high": "rate too low", "rate too low": "rate too high"}
    answer = diagnose_case(vitals)
    return opposite.get(answer, answer)


def _no_logarithm(vitals):  # type: ignore[no-untyped-def]
    answer = diagnose_case(vitals)
    before_steps = answer in ("not normalised", "dead ReLUs")
    return answer if before_steps else "rate too low"  # a negative number is below 10^-4.2


def _rate_before_units(vitals):  # type: ignore[no-untyped-def]
    return diagnose_case({**vitals, "silent_share": 0.0})


def _high_pixels(vitals):  # type: ignore[no-untyped-def]
    return "not normalised" if vitals["pixel_high"] > 2 else diagnose_case(vitals)


def _gap_is_eval(vitals):  # type: ignore[no-untyped-def]
    if vitals["train_acc"] - vitals["valid_acc"] > 0.2 and diagnose_case(vitals) == OTHER:
        return "eval mode forgotten"
    return diagnose_case(vitals)


def _recall_alone(vitals):  # type: ignore[no-untyped-def]
    if vitals["worst_recall"] < 0.2 and diagnose_case(vitals) == OTHER:
        return "class imbalance"
    return diagnose_case(vitals)


def _one_direction(vitals):  # type: ignore[no-untyped-def]
    if vitals["valid_acc"] < vitals["valid_acc_again"]:
        return diagnose_case({**vitals, "valid_acc_again": vitals["valid_acc"]})
    return diagnose_case(vitals)


def _accuracy_alone(vitals):  # type: ignore[no-untyped-def]
    return diagnose_case({**vitals, "worst_recall": 1.0})


DIAGNOSIS = Exercise(
    name="diagnose_case",
    task="`diagnose_case(vitals) -> name of the fault`, or 'something else'",
    observe=_observe_diagnosis,
    answer=diagnose_case,
    praise="You look at the inputs first, then at the gradients, the steps and the evaluation.",
    hint="what does each of these signs say, and which one do you look at first?",
    mistakes={
        "high and low swapped": Mistake(
            _swapped,
            "you read large steps as a low learning rate, and small steps as a high one.",
            "a logarithm of -0.5 means a ratio of about 0.3; a logarithm of -6 means one millionth",
        ),
        "no logarithm": Mistake(
            _no_logarithm,
            "you treat the logarithm of the ratio as the ratio itself, so every healthy run looks "
            "too slow.",
            "-2 stands for 0.01",
        ),
        "rate before units": Mistake(
            _rate_before_units,
            "you blame a low learning rate, but weights without any gradient stand still at every "
            "learning rate.",
            "which number tells you whether there is a gradient at all, and when is it read?",
        ),
        "high pixels alone": Mistake(
            _high_pixels,
            "you judge by the largest pixel alone, but normalised pixels can be 2 or more as well.",
            "look at the smallest pixel too",
        ),
        "any gap": Mistake(
            _gap_is_eval,
            "you treat any gap between training and validation as a forgotten eval mode, but "
            "overfitting causes a gap as well.",
            "what happens without eval mode when the validation is computed again?",
        ),
        "one direction": Mistake(
            _one_direction,
            "you find two different validation accuracies suspicious only if the second is lower.",
            "which function gives the size of a difference, whatever its sign is?",
        ),
        "recall alone": Mistake(
            _recall_alone,
            "you judge by the worst recall alone, but a run that has learnt nothing misses "
            "classes too.",
            "class imbalance hides behind a good accuracy: look at two numbers",
        ),
        "accuracy alone": Mistake(
            _accuracy_alone,
            "you trust a good accuracy, although the model misses almost all images of one class.",
            "which number looks at each class separately?",
        ),
    },
)

EXERCISES = (CLIPPING, RATIO, DIAGNOSIS)

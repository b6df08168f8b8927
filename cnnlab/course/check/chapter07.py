"""Chapter 7: clip a gradient, measure a step, read the vital signs of a run."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cnnlab.course.check.core import Exercise, Mistake, Observation
from cnnlab.rng import fold_in, generator


# --- clip_by_norm ---------------------------------------------------------------------------------


def _observe_clipping(attempt: Callable[..., Any], seed: int) -> Observation:
    draw = generator(seed, 7, 1)
    raw = [torch.randn(shape, generator=draw) for shape in ((4, 3), (5,), (2, 2, 3))]
    raw[1] *= 3  # so that the tensors are clipped by different factors where each is taken alone
    length = _length(raw)
    limit = 0.5 + 1.5 * torch.rand((), generator=draw).item()
    seen: dict[str, Any] = {}
    for name, wanted in (("long", (5, 20)), ("short", (0.2, 0.8))):
        share = torch.rand((), generator=draw).item()
        size = limit * (wanted[0] + share * (wanted[1] - wanted[0]))
        given = [g * (size / length) for g in raw]
        before = [g.clone() for g in given]
        returned = attempt(given, limit)
        seen[f"what becomes of a {name} gradient"] = list(returned)
        seen[f"the {name} gradient you were given"] = "left alone" if _same(before, given) else "-"
    seen["a gradient of zeros"] = list(attempt([torch.zeros(2), torch.zeros(3)], limit))
    return seen


def _same(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def _length(gradients: Sequence[Tensor]) -> float:
    return math.sqrt(sum(g.square().sum().item() for g in gradients))


def clip_by_norm(gradients: Sequence[Tensor], max_norm: float) -> list[Tensor]:
    """The answer: one factor for all tensors, at most 1, from the norm of all of them together."""
    norm = _length(gradients)
    factor = min(1.0, max_norm / norm) if norm else 1.0
    return [g * factor for g in gradients]


def _each_alone(gradients, max_norm):  # type: ignore[no-untyped-def]
    return [clip_by_norm([g], max_norm)[0] for g in gradients]


def _always_scales(gradients, max_norm):  # type: ignore[no-untyped-def]
    norm = _length(gradients)
    return [g * (max_norm / norm) if norm else g.clone() for g in gradients]


def _by_value(gradients, max_norm):  # type: ignore[no-untyped-def]
    return [g.clamp(-max_norm, max_norm) for g in gradients]


def _in_place(gradients, max_norm):  # type: ignore[no-untyped-def]
    for g, clipped in zip(gradients, clip_by_norm(gradients, max_norm), strict=True):
        g.copy_(clipped)
    return gradients


def _no_root(gradients, max_norm):  # type: ignore[no-untyped-def]
    squares = _length(gradients) ** 2
    return [g * min(1.0, max_norm / squares) if squares else g.clone() for g in gradients]


def _to_length_one(gradients, max_norm):  # type: ignore[no-untyped-def]
    norm = _length(gradients)
    return [g / norm if norm > max_norm else g.clone() for g in gradients]


def _sum_of_norms(gradients, max_norm):  # type: ignore[no-untyped-def]
    norm = sum(g.norm().item() for g in gradients)
    return [g * min(1.0, max_norm / norm) if norm else g.clone() for g in gradients]


CLIPPING = Exercise(
    name="clip_by_norm",
    observe=_observe_clipping,
    answer=clip_by_norm,
    praise="One factor for the whole gradient, never above 1, and the direction stays.",
    mistakes={
        "each tensor alone": Mistake(
            _each_alone,
            "each tensor is clipped by its own norm, which turns the gradient of the whole network.",
            "all tensors together are one long vector; which length does it have?",
        ),
        "scales up": Mistake(
            _always_scales,
            "every gradient comes out with the length of the limit, short ones too: small gradients near a minimum "
            "would be blown up.",
            "when should nothing happen?",
        ),
        "by value": Mistake(
            _by_value,
            "each entry is cut at the limit: that is clipping by value, and it turns the gradient.",
            "the same factor for every entry keeps the direction",
        ),
        "in place": Mistake(
            _in_place,
            "the tensors you were given are changed; new ones were asked for.",
            "which of your operations write into the tensor they are called on?",
        ),
        "no square root": Mistake(
            _no_root,
            "the sum of squares is taken for the norm, so gradients are clipped far below the limit.",
            "compute the length of the vector (3, 4) with your formula",
        ),
        "length one": Mistake(
            _to_length_one,
            "a long gradient comes out with length 1, whatever the limit is.",
            "where does max_norm enter the factor?",
        ),
        "sum of norms": Mistake(
            _sum_of_norms,
            "the norms of the tensors are added; lengths of parts do not add up to the length of the whole.",
            "what adds up is the squares",
        ),
    },
)


# --- update_ratio ---------------------------------------------------------------------------------


def _observe_ratio(attempt: Callable[..., Any], seed: int) -> Observation:
    draw = generator(seed, 7, 2)
    before = 0.3 + torch.randn(5, 4, generator=draw)
    seen: dict[str, Any] = {}
    for name, size in (("a small step", 1e-3), ("a large step", 0.3)):
        step = size * (0.5 + torch.randn(5, 4, generator=draw))
        seen[name] = attempt(before.clone(), before + step)
    return seen


def update_ratio(before: Tensor, after: Tensor) -> float:
    """The answer: the length of the step in units of the length of the weights."""
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


def _tensor(before, after):  # type: ignore[no-untyped-def]
    return (after - before).norm() / before.norm()


RATIO = Exercise(
    name="update_ratio",
    observe=_observe_ratio,
    answer=update_ratio,
    praise="The length of the step in units of the length of the weights.",
    mistakes={
        "not the difference": Mistake(
            _not_the_difference,
            "you compare the sizes of the weights before and after; that is near 1 for every step.",
            "which tensor holds the step alone?",
        ),
        "difference of norms": Mistake(
            _difference_of_norms,
            "this is the change of the length. Weights that turn without growing would seem to stand still.",
            "subtract first, then take the norm",
        ),
        "means": Mistake(
            _means,
            "means are compared: positive and negative entries cancel, and the number can have any sign.",
            "which measure of size has no sign?",
        ),
        "mean of ratios": Mistake(
            _mean_of_ratios,
            "you average the ratio of each entry, and entries near 0 decide everything.",
            "one size for the whole step, one for all the weights; divide at the end",
        ),
        "inverted": Mistake(
            _inverted,
            "this is weights by step; step by weights was asked for.",
            "a healthy ratio is about 0.001, not 1000",
        ),
        "deviations": Mistake(
            _deviations,
            "standard deviations leave out what all entries have in common: a step that shifts all of them would "
            "count as none.",
            "the norm measures from zero, not from the mean",
        ),
        "no square root": Mistake(
            _squared,
            "squares are compared, so a ratio of 0.001 comes out as 0.000001.",
            "what is missing between a sum of squares and a length?",
        ),
        "returns a tensor": Mistake(
            _tensor,
            "you return a tensor; a plain number is asked for.",
            "`.item()` reads the number out of a tensor",
        ),
    },
)


# --- diagnose_case --------------------------------------------------------------------------------

OTHER = "something else"


def _vitals(fault: str, draw: random.Random) -> dict[str, float]:
    """Numbers as a run with that fault shows them, clear of the limits."""
    good = draw.uniform(0.85, 0.97)
    bad = draw.uniform(0.12, 0.25)
    vitals = {
        "pixel_low": 0.0,
        "pixel_high": draw.uniform(0.98, 1.0),
        "silent_share": draw.uniform(0.0, 0.1),
        "log10_update_ratio": draw.uniform(-3.0, -1.7),
        "train_acc": draw.uniform(0.9, 1.0),
        "valid_acc": good,
        "valid_acc_again": good,
        "worst_recall": draw.uniform(0.6, 0.8),
    }
    failed = {"train_acc": bad, "valid_acc": bad, "valid_acc_again": bad, "worst_recall": 0.0}
    wrong = draw.uniform(0.3, 0.5)
    poor = draw.uniform(0.5, 0.6)
    changes: Mapping[str, dict[str, float]] = {
        "not normalised": {"pixel_high": 255.0},
        "dead ReLUs": failed
        | {"silent_share": draw.uniform(0.8, 1.0), "log10_update_ratio": -12.0},
        "rate too high": failed | {"log10_update_ratio": draw.uniform(-0.9, -0.2)},
        "rate too low": failed | {"log10_update_ratio": draw.uniform(-7.0, -5.0)},
        "eval mode forgotten": {"valid_acc": wrong, "worst_recall": draw.uniform(0.3, 0.5)},
        "class imbalance": {"worst_recall": draw.uniform(0.0, 0.08)},
        "standardised pixels": {
            "pixel_low": draw.uniform(-2.4, -1.8),
            "pixel_high": draw.uniform(2.3, 2.8),
        },
        "shuffled labels": failed,
        "overfitting": {"valid_acc": poor, "valid_acc_again": poor, "train_acc": 1.0},
    }
    return vitals | changes[fault]


def _observe_diagnosis(attempt: Callable[..., Any], seed: int) -> Observation:
    draw = random.Random(fold_in(seed, 7, 3))
    faults = [
        "not normalised",
        "dead ReLUs",
        "rate too high",
        "rate too low",
        "eval mode forgotten",
        "class imbalance",
        "standardised pixels",
        "shuffled labels",
        "overfitting",
    ]
    draw.shuffle(faults)
    seen = {}
    for fault in faults:
        vitals = _vitals(fault, draw)
        told = ", ".join(f"{name} {value:.3g}" for name, value in vitals.items())
        seen[f"your answer to ({told})"] = attempt(vitals)
    return seen


def diagnose_case(vitals: Mapping[str, float]) -> str:
    """The answer: what comes first in the run is asked first."""
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
    pair = {"rate too high": "rate too low", "rate too low": "rate too high"}
    answer = diagnose_case(vitals)
    return pair.get(answer, answer)


def _no_logarithm(vitals):  # type: ignore[no-untyped-def]
    answer = diagnose_case(vitals)
    early = answer in ("not normalised", "dead ReLUs")
    return answer if early else "rate too low"  # every logarithm here is below 10^-4.2


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


def _accuracy_alone(vitals):  # type: ignore[no-untyped-def]
    return diagnose_case({**vitals, "worst_recall": 1.0})


DIAGNOSIS = Exercise(
    name="diagnose_case",
    observe=_observe_diagnosis,
    answer=diagnose_case,
    praise="Inputs first, then gradients, then steps, then the measurement.",
    mistakes={
        "high and low swapped": Mistake(
            _swapped,
            "large steps are taken for a low rate and small ones for a high rate.",
            "a logarithm of -0.5 is a ratio of 0.3; one of -6 is a millionth",
        ),
        "no logarithm": Mistake(
            _no_logarithm,
            "the ratio is compared as if it were no logarithm: every healthy run seems too slow.",
            "-2 stands for 0.01",
        ),
        "rate before units": Mistake(
            _rate_before_units,
            "weights without any gradient stand still at every rate; you call that a low rate.",
            "which number tells whether there is a gradient at all, and should it be asked before the steps?",
        ),
        "high pixels alone": Mistake(
            _high_pixels,
            "pixels that were centred and scaled reach 2 and more as well; they are not what 0 to 255 is.",
            "look at the lowest pixel too",
        ),
        "any gap": Mistake(
            _gap_is_eval,
            "a gap between training and validation is overfitting as well; a forgotten eval mode is a validation that "
            "changes when it is made again.",
            "which two of the numbers should be the same?",
        ),
        "recall alone": Mistake(
            _recall_alone,
            "a run that learnt nothing misses classes too. Imbalance hides behind a good accuracy.",
            "look at two numbers, not at one",
        ),
        "accuracy alone": Mistake(
            _accuracy_alone,
            "a good accuracy is taken for a good model, although a class is missed.",
            "which number looks at each class by itself?",
        ),
    },
)

"""Chapter 13: an interval for an accuracy, pictures that are in two parts, the mistakes that were made surely."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cnnlab.course.check.core import Exercise, Mistake, Observation
from cnnlab.rng import generator


# --- accuracy_interval ----------------------------------------------------------------------------


def _observe_interval(attempt: Callable[..., Any], seed: int) -> Observation:
    draw = generator(seed, 13, 1)
    n = int(torch.randint(15, 400, (), generator=draw))
    few = int(torch.randint(1, 4, (), generator=draw))
    middle = int(torch.randint(n // 3, n // 2, (), generator=draw))
    cases = {"all are right": n, "nearly all are right": n - few, "some are right": middle}
    return {
        f"the interval when {k} ({right} of {n})": attempt(right, n) for k, right in cases.items()
    }


Z = 1.96  # a normal number is farther from its mean in one case of twenty


def accuracy_interval(right: int, n: int) -> tuple[float, float]:
    """The answer: Wilson's interval, the accuracies that are less than 1.96 of their own deviations away."""
    p = right / n
    middle = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return middle - half, middle + half


def _wald(right, n):  # type: ignore[no-untyped-def]
    p = right / n
    half = Z * math.sqrt(p * (1 - p) / n)
    return p - half, p + half


def _wald_cut(right, n):  # type: ignore[no-untyped-def]
    low, high = _wald(right, n)
    return max(low, 0.0), min(high, 1.0)


def _one_deviation(right, n):  # type: ignore[no-untyped-def]
    p = right / n
    middle = (p + 1 / (2 * n)) / (1 + 1 / n)
    half = 1 / (1 + 1 / n) * math.sqrt(p * (1 - p) / n + 1 / (4 * n**2))
    return middle - half, middle + half


def _in_percent(right, n):  # type: ignore[no-untyped-def]
    low, high = accuracy_interval(right, n)
    return 100 * low, 100 * high


def _middle_and_half(right, n):  # type: ignore[no-untyped-def]
    low, high = accuracy_interval(right, n)
    return (low + high) / 2, (high - low) / 2


def _no_shift(right, n):  # type: ignore[no-untyped-def]
    p = right / n
    low, high = accuracy_interval(right, n)
    half = (high - low) / 2
    return p - half, p + half


def _no_root(right, n):  # type: ignore[no-untyped-def]
    p = right / n
    middle = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * (p * (1 - p) / n + Z**2 / (4 * n**2))
    return middle - half, middle + half


INTERVAL = Exercise(
    name="accuracy_interval",
    observe=_observe_interval,
    answer=accuracy_interval,
    praise="Even when all answers are right, the interval says what they cannot exclude.",
    mistakes={
        "deviation at the measured accuracy": Mistake(
            _wald,
            "this is p ± 1.96 √(p (1 − p) / n): when all are right it has no width, and near 1 it exceeds 1.",
            "the deviation belongs to the true accuracy, not to the one you saw: use Wilson's formula",
        ),
        "the same, cut at 0 and 1": Mistake(
            _wald_cut,
            "cutting p ± 1.96 √(p (1 − p) / n) at 1 hides the problem: when all are right, the width is still 0.",
            "can 20 right answers out of 20 prove an accuracy of 1?",
        ),
        "one deviation": Mistake(
            _one_deviation,
            "the interval is about half as wide as it should be: z is 1, which holds in two cases of three only.",
            "which z leaves out one case in twenty?",
        ),
        "in per cent": Mistake(
            _in_percent,
            "you return per cent.",
            "shares lie between 0 and 1, as everywhere in the course",
        ),
        "middle and half width": Mistake(
            _middle_and_half,
            "you return the middle and half the width, not the two ends.",
            "(low, high)",
        ),
        "around the measured accuracy": Mistake(
            _no_shift,
            "the width is right, but the interval lies around the measured accuracy; Wilson's middle is drawn "
            "towards one half.",
            "what is added to p in the numerator?",
        ),
        "no square root": Mistake(
            _no_root, "the square root is missing: you added variances.", "a deviation is a root"
        ),
    },
)


# --- leaks ----------------------------------------------------------------------------------------


def _observe_leaks(attempt: Callable[..., Any], seed: int) -> Observation:
    """Test pictures of which some are in the training part, at another place, one of them twice."""
    draw = generator(seed, 13, 2)
    train = torch.randint(0, 256, (12, 3, 8, 8), generator=draw, dtype=torch.uint8)
    test = torch.randint(0, 256, (9, 3, 8, 8), generator=draw, dtype=torch.uint8)
    places = torch.randperm(9, generator=draw)
    sources = 9 + torch.randperm(3, generator=draw)  # beyond the length of the test part
    test[places[:3]] = train[sources]
    test[places[3]] = train[sources[0]]
    # The same channel means, in another order; and one pixel of difference: neither is a leak.
    test[places[4]] = train[0].flip(2)
    test[places[5]] = train[1]
    test[places[5], 0, 0, 0] ^= 1
    test[places[6]] = test[places[7]]  # twice in the test part only
    test[places[8]] = train[places[8]]  # and one copy that does stand at its place
    before = train.clone(), test.clone()
    found = attempt(train, test)
    kept = torch.equal(train, before[0]) and torch.equal(test, before[1])
    return {"the leaked numbers": _plain(found), "the pictures are left as they were": kept}


def _plain(found: Any) -> Any:
    if isinstance(found, Tensor):
        return found.tolist()
    return [int(i) for i in found] if isinstance(found, list | tuple) else found


def leaks(train: Tensor, test: Tensor) -> list[int]:
    """The answer: which test pictures have the very pixels of a training picture, wherever that one stands."""
    known = {picture.numpy().tobytes() for picture in train}
    return [i for i, picture in enumerate(test) if picture.numpy().tobytes() in known]


def _same_place(train, test):  # type: ignore[no-untyped-def]
    return [i for i, (a, b) in enumerate(zip(train, test)) if torch.equal(a, b)]  # noqa: B905


def _any_pixel(train, test):  # type: ignore[no-untyped-def]
    return [i for i, picture in enumerate(test) if (train == picture).any()]


def _by_mean(train, test):  # type: ignore[no-untyped-def]
    def mean(x):  # type: ignore[no-untyped-def]
        return tuple(x.sum(dim=(1, 2)).tolist())

    known = {mean(picture) for picture in train}
    return [i for i, picture in enumerate(test) if mean(picture) in known]


def _nearly(train, test):  # type: ignore[no-untyped-def]
    gaps = (test[:, None].int() - train[None].int()).abs().amax(dim=(2, 3, 4))
    return (gaps.amin(dim=1) <= 1).nonzero().flatten().tolist()


def _of_train(train, test):  # type: ignore[no-untyped-def]
    return leaks(test, train)


def _flags(train, test):  # type: ignore[no-untyped-def]
    found = leaks(train, test)
    return [i in found for i in range(len(test))]


def _also_twins(train, test):  # type: ignore[no-untyped-def]
    return [
        i
        for i, a in enumerate(test)
        if any(torch.equal(a, b) for b in train)
        or any(torch.equal(a, b) for j, b in enumerate(test) if j != i)
    ]


def _once(train, test):  # type: ignore[no-untyped-def]
    numbers: list[int] = []
    for a in train:
        equal = [i for i, b in enumerate(test) if torch.equal(a, b)]
        numbers += equal[:1]
    return sorted(numbers)


def _by_object(train, test):  # type: ignore[no-untyped-def]
    known = set(train)
    return [i for i, picture in enumerate(test) if picture in known]


LEAKS = Exercise(
    name="leaks",
    observe=_observe_leaks,
    answer=leaks,
    praise="Every test picture that is also a training picture is found, wherever it stands there.",
    mistakes={
        "same place": Mistake(
            _same_place,
            "you compare picture i with picture i: a copy stands anywhere in the other part.",
            "look each test picture up among all training pictures",
        ),
        "one equal pixel": Mistake(
            _any_pixel,
            "one equal pixel is enough for you, and nearly every picture shares one with another.",
            "all pixels have to be equal at once: `any` over what, `all` over what?",
        ),
        "equal means": Mistake(
            _by_mean,
            "you compare sums or means of the pixels: a mirrored picture has the same.",
            "compare the pixels themselves",
        ),
        "nearly equal": Mistake(
            _nearly,
            "you report pictures that differ a little, too; here exact copies are asked for.",
            "nearly equal pictures are worth a look, but they are another question",
        ),
        "training numbers": Mistake(
            _of_train,
            "you return numbers of training pictures.",
            "which part do you want to throw pictures out of?",
        ),
        "flags": Mistake(
            _flags,
            "you return one True or False a picture, not the numbers.",
            "`enumerate`, or `nonzero`",
        ),
        "twins in the test part": Mistake(
            _also_twins,
            "you also report pictures that are twice in the test part, but not in the training part.",
            "compare across the parts only",
        ),
        "one copy each": Mistake(
            _once,
            "when a training picture is in the test part twice, you find the first copy only.",
            "go through the test pictures, not through the training pictures",
        ),
        "compared as objects": Mistake(
            _by_object,
            "you find nothing: `in` a set compares tensors by who they are, not by what they hold.",
            "make something of each picture that equals when the pixels do, such as its bytes",
        ),
    },
)


# --- sure_mistakes --------------------------------------------------------------------------------


def _observe_sure(attempt: Callable[..., Any], seed: int) -> Observation:
    """Logits of very different scale, so that the largest logit and the surest answer differ."""
    draw = generator(seed, 13, 3)
    logits = torch.randn(40, 4, generator=draw)
    logits += 8 * torch.randn(
        40, 1, generator=draw
    )  # moves all logits of a picture, and no probability
    logits *= 1 + 2 * torch.rand(40, 1, generator=draw)
    labels = logits.argmax(1)
    wrong = torch.randperm(40, generator=draw)[:15]
    labels[wrong] = (labels[wrong] + 1 + torch.randint(0, 3, (15,), generator=draw)) % 4
    before = logits.clone(), labels.clone()
    found = {f"the surest {n}": _plain(attempt(logits, labels, n)) for n in (5, 15, 30)}
    kept = torch.equal(logits, before[0]) and torch.equal(labels, before[1])
    return {**found, "logits and labels are left as they were": kept}


def sure_mistakes(logits: Tensor, labels: Tensor, n: int) -> list[int]:
    """The answer: the wrong answers, by the probability of what was answered, the surest first."""
    confidence, answers = logits.softmax(dim=1).max(dim=1)
    order = confidence.argsort(descending=True)
    return order[answers[order] != labels[order]][:n].tolist()


def _by_logit(logits, labels, n):  # type: ignore[no-untyped-def]
    confidence, answers = logits.max(dim=1)
    order = confidence.argsort(descending=True)
    return order[answers[order] != labels[order]][:n].tolist()


def _with_right_ones(logits, labels, n):  # type: ignore[no-untyped-def]
    return logits.softmax(dim=1).amax(dim=1).argsort(descending=True)[:n].tolist()


def _cut_first(logits, labels, n):  # type: ignore[no-untyped-def]
    confidence, answers = logits.softmax(dim=1).max(dim=1)
    order = confidence.argsort(descending=True)[:n]
    return order[answers[order] != labels[order]].tolist()


def _unsurest(logits, labels, n):  # type: ignore[no-untyped-def]
    confidence, answers = logits.softmax(dim=1).max(dim=1)
    order = confidence.argsort()
    return order[answers[order] != labels[order]][:n].tolist()


def _by_truth(logits, labels, n):  # type: ignore[no-untyped-def]
    p = logits.softmax(dim=1)
    truth = p[torch.arange(len(p)), labels]
    order = truth.argsort()
    return order[p.argmax(1)[order] != labels[order]][:n].tolist()


def _places_among_wrong(logits, labels, n):  # type: ignore[no-untyped-def]
    confidence, answers = logits.softmax(dim=1).max(dim=1)
    return confidence[answers != labels].argsort(descending=True)[:n].tolist()


def _unsorted(logits, labels, n):  # type: ignore[no-untyped-def]
    return (logits.argmax(1) != labels).nonzero().flatten()[:n].tolist()


def _over_pictures(logits, labels, n):  # type: ignore[no-untyped-def]
    confidence, answers = logits.softmax(dim=0).max(dim=1)
    order = confidence.argsort(descending=True)
    return order[answers[order] != labels[order]][:n].tolist()


SURE = Exercise(
    name="sure_mistakes",
    observe=_observe_sure,
    answer=sure_mistakes,
    praise="Wrong answers only, the surest first, by the probability of the answer that was given.",
    mistakes={
        "largest logit": Mistake(
            _by_logit,
            "you sort by the largest logit; logits of two pictures cannot be compared, for a constant added to all "
            "logits of a picture changes no probability.",
            "what turns logits into shares of 1?",
        ),
        "right answers too": Mistake(
            _with_right_ones,
            "right answers are in your list.",
            "compare the answers with the labels before you cut",
        ),
        "cut before the choice": Mistake(
            _cut_first,
            "you take the n surest answers first and drop the right ones then, so fewer than n are left.",
            "drop first, cut afterwards",
        ),
        "unsurest first": Mistake(
            _unsurest, "the order is the other way round.", "`descending=True`"
        ),
        "by the true class": Mistake(
            _by_truth,
            "you sort by the probability of the true class; asked is that of the answer.",
            "a network may be unsure between two wrong classes: is that a sure mistake?",
        ),
        "places among the wrong ones": Mistake(
            _places_among_wrong,
            "your numbers count the wrong answers, not the pictures.",
            "after you have picked some rows, row 0 is no longer picture 0",
        ),
        "not sorted": Mistake(
            _unsorted, "these are wrong answers, but not by how sure they are.", "`argsort`"
        ),
        "softmax over the pictures": Mistake(
            _over_pictures,
            "the softmax runs over the pictures instead of the classes.",
            "the shares of one picture should sum to 1: which dimension holds its classes?",
        ),
    },
)

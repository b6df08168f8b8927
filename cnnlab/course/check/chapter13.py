"""Check the exercises of chapter 13: an accuracy's interval, leaked images, confident mistakes.

The public functions are the reference solutions; the private ones next to them are known mistakes.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cnnlab.course.check.compare import short
from cnnlab.course.check.core import Exercise, Mistake, Observation
from cnnlab.rng import generator


# --- accuracy_interval ----------------------------------------------------------------------------


def _observe_interval(attempt: Callable[..., Any], seed: int) -> Observation:
    g = generator(seed, 13, 1)
    n = int(torch.randint(15, 400, (), generator=g))
    few = int(torch.randint(1, 4, (), generator=g))
    some = int(torch.randint(n // 3, n // 2, (), generator=g))
    observation: dict[str, Any] = {}
    for correct, total in ((8, 10), (10, 10), (0, 10), (n, n), (n - few, n), (some, n)):
        low, high = attempt(correct, total)
        problem = f"of your interval for {correct} correct out of {total}"
        if correct == 8:
            observation["the first end of your interval is above the second."] = low > high
            observation["the first end of your interval isn't between 0 and 1."] = not 0 <= low <= 1
        observation[f"the centre {problem}"] = (low + high) / 2
        observation[f"the half-width {problem}"] = (high - low) / 2
    return observation


Z = 1.96  # a standard normal variable lies outside ±Z in one case of twenty


def accuracy_interval(correct: int, n: int) -> tuple[float, float]:
    """Return the ends of Wilson's 95 % interval for an accuracy, given `correct` of `n` images.

    Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953.
    """
    return _wilson(correct / n, n, Z)


def _wilson(p: float, n: int, z: float) -> tuple[float, float]:
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return centre - half, centre + half


def _wald(correct, n):  # type: ignore[no-untyped-def]
    p = correct / n
    half = Z * math.sqrt(p * (1 - p) / n)
    return p - half, p + half


def _clipped_wald(correct, n):  # type: ignore[no-untyped-def]
    low, high = _wald(correct, n)
    return max(low, 0.0), min(high, 1.0)


def _one_standard_deviation(correct, n):  # type: ignore[no-untyped-def]
    return _wilson(correct / n, n, 1)


def _in_per_cent(correct, n):  # type: ignore[no-untyped-def]
    low, high = accuracy_interval(correct, n)
    return 100 * low, 100 * high


def _centre_and_half_width(correct, n):  # type: ignore[no-untyped-def]
    low, high = accuracy_interval(correct, n)
    return (low + high) / 2, (high - low) / 2


def _not_shifted(correct, n):  # type: ignore[no-untyped-def]
    p = correct / n
    _, half = _centre_and_half_width(correct, n)
    return p - half, p + half


def _integer_division(correct, n):  # type: ignore[no-untyped-def]
    return _wilson(correct // n, n, Z)


def _no_square_root(correct, n):  # type: ignore[no-untyped-def]
    p = correct / n
    centre, _ = _centre_and_half_width(correct, n)
    half = Z / (1 + Z**2 / n) * (p * (1 - p) / n + Z**2 / (4 * n**2))
    return centre - half, centre + half


INTERVAL = Exercise(
    name="accuracy_interval",
    task="`accuracy_interval(right, n) -> (low, high)`, the 95 % Wilson interval",
    observe=_observe_interval,
    answer=accuracy_interval,
    praise="Even when every prediction is correct, your interval shows which accuracies can't be "
    "ruled out.",
    hint="put p, n and z = 1.96 into Wilson's formula: the centre first, then the half-width",
    mistakes={
        "deviation at the measured accuracy": Mistake(
            _wald,
            "your interval is p ± 1.96 √(p (1 − p) / n), which has no width when every prediction "
            "is correct.",
            "the standard deviation depends on the true accuracy, not on the one you observed",
        ),
        "the same, cut at 0 and 1": Mistake(
            _clipped_wald,
            "clipping p ± 1.96 √(p (1 − p) / n) at 0 and 1 hides the problem: when all is correct, "
            "your interval still has no width.",
            "do 20 correct predictions out of 20 prove that the accuracy is 1?",
        ),
        "one deviation": Mistake(
            _one_standard_deviation,
            "your interval is only about half as wide as it should be, because z = 1 covers about "
            "two cases in three.",
            "which z leaves out one case in twenty?",
        ),
        "in per cent": Mistake(
            _in_per_cent,
            "you return percentages.",
            "an accuracy is a fraction between 0 and 1, here as in the whole course",
        ),
        "middle and half width": Mistake(
            _centre_and_half_width,
            "you return the centre and the half-width of the interval instead of its two ends.",
            "the result should be (low, high)",
        ),
        "around the measured accuracy": Mistake(
            _not_shifted,
            "your interval is centred on the observed accuracy. Wilson's is shifted towards one "
            "half.",
            "what is added to p in the numerator?",
        ),
        "integer division": Mistake(
            _integer_division,
            "your interval is as if nothing were correct, unless everything is: `//` rounds down.",
            "which operator divides and keeps the fraction?",
        ),
        "no square root": Mistake(
            _no_square_root,
            "you use a variance where the formula has a standard deviation.",
            "how do you get a standard deviation from a variance?",
        ),
    },
)


# --- leaks ----------------------------------------------------------------------------------------


def _observe_leaks(attempt: Callable[..., Any], seed: int) -> Observation:
    """Draw test images of which five are in the training set, two of them as the same image."""
    g = generator(seed, 13, 2)
    train = torch.randint(0, 256, (12, 3, 8, 8), generator=g, dtype=torch.uint8)
    test = torch.randint(0, 256, (9, 3, 8, 8), generator=g, dtype=torch.uint8)
    targets = torch.randperm(9, generator=g)
    # Copies come from beyond the length of the test set, so that they're at another position there.
    sources = 9 + torch.randperm(3, generator=g)
    test[targets[:3]] = train[sources]
    test[targets[3]] = train[sources[0]]
    # An image with the same channel means, and one that differs in a single pixel: no leaks.
    test[targets[4]] = train[0].flip(2)
    test[targets[5]] = train[1]
    test[targets[5], 0, 0, 0] ^= 1
    # An image that is in the test set twice, and a leak at the same position in both sets.
    test[targets[6]] = test[targets[7]]
    test[targets[8]] = train[targets[8]]
    few = {
        f"your list for one-pixel images train={known}, test={new}": _as_list(
            attempt(*(torch.tensor(x, dtype=torch.uint8).view(-1, 1, 1, 1) for x in (known, new)))
        )
        for known, new in (
            ([10, 50, 90], [90, 200, 10]),
            ([10, 50, 90], [50, 50]),
            ([70, 70, 30], [20, 70]),
        )
    }
    found = [*few.values(), _as_list(attempt(train, test))]
    return {
        "your list contains an index twice.": any(len({*f}) < len(f) for f in found),
        "your list isn't in rising order.": any(f != sorted(f) for f in found),
        **few,
        "your list for nine images": found[-1],
    }


def _as_list(answer: Any) -> Any:
    """Convert a tensor, or a list of tensors with one value, to a list."""
    if isinstance(answer, Tensor):
        return answer.tolist()
    if isinstance(answer, list | tuple):
        return [i.item() if isinstance(i, Tensor) and i.numel() == 1 else i for i in answer]
    return answer


def leaks(train: Tensor, test: Tensor) -> list[int]:
    """Return the indices of the test images that equal a training image pixel for pixel."""
    known = {image.numpy().tobytes() for image in train}
    return [i for i, image in enumerate(test) if image.numpy().tobytes() in known]


def _same_position(train, test):  # type: ignore[no-untyped-def]
    pairs = zip(train, test, strict=False)
    return [i for i, (a, b) in enumerate(pairs) if torch.equal(a, b)]


def _any_pixel(train, test):  # type: ignore[no-untyped-def]
    return [i for i, image in enumerate(test) if (train == image).any()]


def _by_mean(train, test):  # type: ignore[no-untyped-def]
    def channel_sums(image):  # type: ignore[no-untyped-def]
        return tuple(image.sum(dim=(1, 2)).tolist())

    known = {channel_sums(image) for image in train}
    return [i for i, image in enumerate(test) if channel_sums(image) in known]


def _nearly_equal(train, test):  # type: ignore[no-untyped-def]
    gaps = (test[:, None].int() - train[None].int()).abs().amax(dim=(2, 3, 4))
    return (gaps.amin(dim=1) <= 1).nonzero().flatten().tolist()


def _of_train(train, test):  # type: ignore[no-untyped-def]
    return leaks(test, train)


def _flags(train, test):  # type: ignore[no-untyped-def]
    indices = leaks(train, test)
    return [i in indices for i in range(len(test))]


def _also_within_test(train, test):  # type: ignore[no-untyped-def]
    return [
        i
        for i, a in enumerate(test)
        if any(torch.equal(a, b) for b in train)
        or any(torch.equal(a, b) for j, b in enumerate(test) if j != i)
    ]


def _first_copies(train, test):  # type: ignore[no-untyped-def]
    indices: list[int] = []
    for a in train:
        equal = [i for i, b in enumerate(test) if torch.equal(a, b)]
        indices += equal[:1]
    return sorted(indices)


def _for_each_training_image(train, test):  # type: ignore[no-untyped-def]
    return sorted(i for a in train for i, b in enumerate(test) if torch.equal(a, b))


def _by_identity(train, test):  # type: ignore[no-untyped-def]
    known = set(train)
    return [i for i, image in enumerate(test) if image in known]


LEAKS = Exercise(
    name="leaks",
    task="`leaks(train, test) -> list`, the indices of the test images that are also training "
    "images",
    observe=_observe_leaks,
    answer=leaks,
    praise="You find every test image that is also in the training set, at any position.",
    hint="which test images equal a training image in every pixel, wherever it is?",
    mistakes={
        "same place": Mistake(
            _same_position,
            "you compare image i only with image i, but a copy can be anywhere in the training "
            "set.",
            "look up each test image among all training images",
        ),
        "one equal pixel": Mistake(
            _any_pixel,
            "you count two images as equal if they share a single pixel, which nearly all images "
            "do.",
            "all pixels have to be equal at once: where do you need `any`, and where `all`?",
        ),
        "equal means": Mistake(
            _by_mean,
            "you compare sums or means of the pixels, but a mirrored image has the same ones.",
            "compare the pixels themselves",
        ),
        "nearly equal": Mistake(
            _nearly_equal,
            "you also report images that differ slightly, but the exercise asks for exact copies.",
            "near-duplicates are worth a look too, but not in this exercise",
        ),
        "training numbers": Mistake(
            _of_train,
            "you return the indices of training images.",
            "which of the two sets do you want to remove images from?",
        ),
        "flags": Mistake(
            _flags,
            "you return one True or False per image instead of a list of indices.",
            "`enumerate` and `nonzero` can both turn flags into indices",
        ),
        "twins in the test part": Mistake(
            _also_within_test,
            "you also report images that are in the test set twice but not in the training set.",
            "compare only images from different sets",
        ),
        "one copy each": Mistake(
            _first_copies,
            "if a training image is in the test set twice, you find only the first copy.",
            "loop over the test images, not over the training images",
        ),
        "once per training image": Mistake(
            _for_each_training_image,
            "you report a test image twice if two training images equal it.",
            "how many times should you look at each test image?",
        ),
        "compared as objects": Mistake(
            _by_identity,
            "you find nothing, because a set compares tensors by identity, not by their values.",
            "turn each image into something that is equal whenever the pixels are, such as its "
            "bytes",
        ),
    },
)


# --- sure_mistakes --------------------------------------------------------------------------------


def _observe_mistakes(attempt: Callable[..., Any], seed: int) -> Observation:
    """Draw logits on different scales: the largest logit isn't the most confident prediction."""
    g = generator(seed, 13, 3)
    logits = torch.randn(40, 4, generator=g)
    # A constant per image changes its logits, but none of its probabilities.
    logits += 8 * torch.randn(40, 1, generator=g)
    logits *= 1 + 2 * torch.rand(40, 1, generator=g)
    labels = logits.argmax(1)
    incorrect = torch.randperm(40, generator=g)[:15]
    labels[incorrect] = (labels[incorrect] + 1 + torch.randint(0, 3, (15,), generator=g)) % 4
    three, truth = [[2.0, 0.0], [0.0, 1.0], [0.0, 3.0]], [1, 1, 0]  # only image 1 is correct
    few = {
        f"your list for logits={short(three)}, labels={truth}, n={n}": _as_list(
            attempt(torch.tensor(three), torch.tensor(truth), n)
        )
        for n in (2, 1, 3)
    }
    first, *_ = few.values()
    complaint = {"your list contains a correct prediction.": bool({*first} & {1})}
    many = {
        f"your list for 40 images and n={n}": _as_list(attempt(logits, labels, n))
        for n in (5, 15, 30)
    }
    return {**complaint, **few, **many}


def sure_mistakes(logits: Tensor, labels: Tensor, n: int) -> list[int]:
    """Return the indices of the n most confident incorrect predictions, most confident first."""
    confidence, predictions = logits.softmax(dim=1).max(dim=1)
    return _ranked(confidence, predictions != labels)[:n]


def _ranked(scores: Tensor, mask: Tensor) -> list[int]:
    """Return the indices where the mask is True, largest score first."""
    order = scores.argsort(descending=True)
    return order[mask[order]].tolist()


def _by_logit(logits, labels, n):  # type: ignore[no-untyped-def]
    largest, predictions = logits.max(dim=1)
    return _ranked(largest, predictions != labels)[:n]


def _correct_ones_too(logits, labels, n):  # type: ignore[no-untyped-def]
    return logits.softmax(dim=1).amax(dim=1).argsort(descending=True)[:n].tolist()


def _cut_first(logits, labels, n):  # type: ignore[no-untyped-def]
    predictions = logits.argmax(dim=1)
    return [i for i in _correct_ones_too(logits, labels, n) if predictions[i] != labels[i]]


def _least_confident_first(logits, labels, n):  # type: ignore[no-untyped-def]
    confidence, predictions = logits.softmax(dim=1).max(dim=1)
    return _ranked(-confidence, predictions != labels)[:n]


def _by_true_class(logits, labels, n):  # type: ignore[no-untyped-def]
    p = logits.softmax(dim=1)
    p_true = p[torch.arange(len(p)), labels]
    return _ranked(-p_true, p.argmax(1) != labels)[:n]


def _positions_among_incorrect(logits, labels, n):  # type: ignore[no-untyped-def]
    confidence, predictions = logits.softmax(dim=1).max(dim=1)
    return confidence[predictions != labels].argsort(descending=True)[:n].tolist()


def _unsorted(logits, labels, n):  # type: ignore[no-untyped-def]
    return (logits.argmax(1) != labels).nonzero().flatten()[:n].tolist()


def _softmax_over_images(logits, labels, n):  # type: ignore[no-untyped-def]
    confidence, predictions = logits.softmax(dim=0).max(dim=1)
    return _ranked(confidence, predictions != labels)[:n]


SURE = Exercise(
    name="sure_mistakes",
    task="`sure_mistakes(logits, labels, n) -> list`, the most confident incorrect predictions "
    "first",
    observe=_observe_mistakes,
    answer=sure_mistakes,
    praise="You return incorrect predictions only, the most confident first, sorted by the "
    "probability of the predicted class.",
    hint="which predictions are incorrect, how probable is each, and in which order?",
    mistakes={
        "largest logit": Mistake(
            _by_logit,
            "you sort by the largest logit, but logits of different images can't be compared: a "
            "constant added to all logits of an image changes none of its probabilities.",
            "what turns logits into probabilities?",
        ),
        "right answers too": Mistake(
            _correct_ones_too,
            "your list contains correct predictions.",
            "compare the predictions with the labels before you cut the list",
        ),
        "cut before the choice": Mistake(
            _cut_first,
            "you take the n most confident predictions first and then remove the correct ones, so "
            "fewer than n are left.",
            "in which order should you filter and cut?",
        ),
        "unsurest first": Mistake(
            _least_confident_first,
            "your order is reversed, with the least confident mistakes first.",
            "in which direction does `argsort` sort by default?",
        ),
        "by the true class": Mistake(
            _by_true_class,
            "you sort by the probability of the true class, but the exercise asks for the "
            "probability of the predicted class.",
            "is a network that hesitates between two wrong classes making a confident mistake?",
        ),
        "places among the wrong ones": Mistake(
            _positions_among_incorrect,
            "your indices count the incorrect predictions, not the images.",
            "once you have selected some rows, row 0 is no longer image 0",
        ),
        "not sorted": Mistake(
            _unsorted,
            "you return incorrect predictions, but they aren't sorted by confidence.",
            "look at `argsort`",
        ),
        "softmax over the pictures": Mistake(
            _softmax_over_images,
            "your softmax runs over the images instead of the classes.",
            "the probabilities of one image should add up to 1; which dimension holds its classes?",
        ),
    },
)

EXERCISES = (INTERVAL, LEAKS, SURE)

"""Check the exercises of chapter 11: balanced accuracy, thresholds, sample weights, frequencies.

The public functions are the reference solutions; the private ones next to them are known mistakes.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cnnlab.course.check.compare import agree, short
from cnnlab.course.check.core import Exercise, Mistake, Observation, Prediction
from cnnlab.rng import generator


NUM_CLASSES = 5


def _counts(seed: int) -> Tensor:
    """Draw the number of images of each class, int64 (K,): imbalanced, and not sorted by size."""
    g = generator(seed, 11)
    tiers = torch.tensor([3, 7, 15, 31, 63])
    jitter = torch.randint(0, 3, (NUM_CLASSES,), generator=g)
    return (tiers + jitter)[torch.randperm(NUM_CLASSES, generator=g)]


def _as_tensor(answer: Any) -> Any:
    """Convert numbers, lists, arrays and tensors to float32; return anything else as it is."""
    try:
        return torch.as_tensor(answer, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        return answer


# --- sample_weights -------------------------------------------------------------------------------


def _observe_sample_weights(attempt: Callable[..., Any], seed: int) -> Observation:
    six = torch.tensor([0, 0, 0, 1, 1, 2])
    few = _as_tensor(attempt(six.clone()))
    counts = _counts(seed)
    labels = torch.repeat_interleave(torch.arange(NUM_CLASSES), counts)
    labels = labels[torch.randperm(len(labels), generator=generator(seed, 12))]
    weights = _as_tensor(attempt(labels.clone()))
    # The sampler divides by the sum, so any scale is correct.
    probabilities = weights / weights.sum()
    observation: dict[str, Any] = {
        f"the number of weights for {len(labels)} labels": len(weights),
        "the number of weights for labels=[0, 0, 0, 1, 1, 2]": len(few),
        "your probability of each image": probabilities,
    }
    if few.shape == six.shape and weights.shape == labels.shape:
        name = "your probability of each class for labels=[0, 0, 0, 1, 1, 2]"
        small = {name: torch.zeros(3).index_add(0, six, few / few.sum())}
        classes = torch.zeros(NUM_CLASSES).index_add(0, labels, probabilities)
        never = {"some of the images are never drawn: their weight is 0.": bool((few == 0).any())}
        observation = {**never, **small, "your probability of each class": classes, **observation}
    return observation


def sample_weights(labels: Tensor) -> Tensor:
    """Return one over the count of each sample's class, (N,)."""
    return (1 / torch.bincount(labels))[labels]


def _samples_per_class(labels):  # type: ignore[no-untyped-def]
    return 1 / torch.bincount(labels)


def _samples_counts(labels):  # type: ignore[no-untyped-def]
    return torch.bincount(labels)[labels].float()


def _samples_equal(labels):  # type: ignore[no-untyped-def]
    return torch.ones(len(labels))


def _samples_sorted(labels):  # type: ignore[no-untyped-def]
    counts = torch.bincount(labels)
    return (1 / counts).repeat_interleave(counts)


def _samples_squared(labels):  # type: ignore[no-untyped-def]
    return (1 / torch.bincount(labels) ** 2)[labels]


def _samples_one_minus_fraction(labels):  # type: ignore[no-untyped-def]
    counts = torch.bincount(labels)
    return (1 - counts / counts.sum())[labels]


def _samples_square_root(labels):  # type: ignore[no-untyped-def]
    return (1 / torch.bincount(labels).sqrt())[labels]


def _samples_rarest(labels):  # type: ignore[no-untyped-def]
    counts = torch.bincount(labels)
    return (counts == counts.min()).float()[labels]


_CLASS_TOTAL = "what should the weights of all images of one class add up to?"
SAMPLE_WEIGHTS = Exercise(
    name="sample_weights",
    task="`sample_weights(labels) -> (N,)`, weights with which a sampler draws all classes "
    "equally often",
    observe=_observe_sample_weights,
    answer=sample_weights,
    praise="There is one weight per image, and every class is drawn equally often on average.",
    hint="what should the weights of one class add up to?",
    mistakes={
        "one weight per class": Mistake(
            _samples_per_class,
            "you return one weight per class, but the sampler reads them as the weights of the "
            "first K images and would draw only those.",
            "the sampler returns indices into the data set; how many images are there?",
        ),
        "common classes more often": Mistake(
            _samples_counts,
            "you give each image the count of its class as its weight, so the common classes are "
            "drawn even more often.",
            "which images should be drawn more often than in a plain shuffle?",
        ),
        "all alike": Mistake(
            _samples_equal,
            "you give all images the same weight, so the draws are as imbalanced as the data.",
            _CLASS_TOTAL,
        ),
        "labels taken for sorted": Mistake(
            _samples_sorted,
            "your weights are sorted by class, but the images aren't, so most images get the "
            "weight of another class.",
            "weight i belongs to image i; which class does image i have?",
        ),
        "squared": Mistake(
            _samples_squared,
            "you divide by the count twice. Dividing once balances the classes; dividing twice "
            "draws the rarest class most often.",
            _CLASS_TOTAL,
        ),
        "one minus the share": Mistake(
            _samples_one_minus_fraction,
            "one minus the fraction is nearly the same for most classes, so the draws stay nearly "
            "as imbalanced as the data.",
            _CLASS_TOTAL,
        ),
        "square root": Mistake(
            _samples_square_root,
            "one over the square root of the count goes only half-way, so the classes aren't drawn "
            "equally often.",
            _CLASS_TOTAL,
        ),
        "rarest class alone": Mistake(
            _samples_rarest,
            "only images of the rarest class can be drawn.",
            "every image should have a chance of being drawn",
        ),
    },
)


# --- balanced_accuracy ----------------------------------------------------------------------------


def _observe_balanced_accuracy(attempt: Callable[..., Any], seed: int) -> Observation:
    g = generator(seed, 13)
    confusion = torch.randint(0, 6, (NUM_CLASSES, NUM_CLASSES), generator=g)
    confusion += torch.diag(_counts(seed) + 5)
    # Here one class has no images, although the network predicts it for some.
    class_absent = confusion.clone()
    class_absent[int(torch.randint(0, NUM_CLASSES, (), generator=g))] = 0
    tables = {
        "[[8, 2], [1, 1]]": torch.tensor([[8, 2], [1, 1]]),
        "[[8, 2], [0, 0]]": torch.tensor([[8, 2], [0, 0]]),
        "[[6, 0], [3, 0]]": torch.tensor([[6, 0], [3, 0]]),
        f"{NUM_CLASSES} classes": confusion,
        f"{NUM_CLASSES} classes, of which one has no images,": class_absent,
    }
    return {
        f"your balanced accuracy for {name}": _as_float(attempt(table))
        for name, table in tables.items()
    }


def _as_float(answer: Any) -> Any:
    """Convert a number or a tensor with a single value to a float."""
    value = _as_tensor(answer)
    return float(value) if isinstance(value, Tensor) and value.ndim == 0 else value


def balanced_accuracy(confusion: Tensor) -> float:
    """Return the mean recall of the classes that have images."""
    return float(_recalls(confusion)[confusion.sum(dim=1) > 0].mean())


def _recalls(confusion: Tensor) -> Tensor:
    """Return the recall of each class; NaN for a class without images."""
    return confusion.diag() / confusion.sum(dim=1)


def _balanced_accuracy_plain(confusion):  # type: ignore[no-untyped-def]
    return float(confusion.diag().sum() / confusion.sum())


def _balanced_accuracy_precision(confusion):  # type: ignore[no-untyped-def]
    return balanced_accuracy(confusion.T)


def _balanced_accuracy_nan(confusion):  # type: ignore[no-untyped-def]
    return float(_recalls(confusion).mean())


def _balanced_accuracy_zero(confusion):  # type: ignore[no-untyped-def]
    return float(_recalls(confusion).nan_to_num(0.0).mean())


def _balanced_accuracy_one(confusion):  # type: ignore[no-untyped-def]
    return float(_recalls(confusion).nan_to_num(1.0).mean())


def _balanced_accuracy_sum(confusion):  # type: ignore[no-untyped-def]
    return float(_recalls(confusion).nansum())


def _balanced_accuracy_found_only(confusion):  # type: ignore[no-untyped-def]
    return float(_recalls(confusion)[confusion.diag() > 0].mean())


def _balanced_accuracy_worst(confusion):  # type: ignore[no-untyped-def]
    return float(_recalls(confusion)[confusion.sum(dim=1) > 0].min())


_WHICH_CLASSES = "over which classes can you take the mean?"
BALANCED_ACCURACY = Exercise(
    name="balanced_accuracy",
    task="`balanced_accuracy(confusion)`; rows are true classes",
    observe=_observe_balanced_accuracy,
    answer=balanced_accuracy,
    praise="You take the mean of the recalls, and leave out classes without images.",
    hint="what is the recall of each class that has images, and what is their mean?",
    mistakes={
        "plain accuracy": Mistake(
            _balanced_accuracy_plain,
            "you return the plain accuracy, in which a class with many images counts for more.",
            "divide within each class before you take the mean",
        ),
        "columns": Mistake(
            _balanced_accuracy_precision,
            "you divide by the column sums, so you get the mean precision: which predictions are "
            "correct, not which images are found.",
            "the rows are the true classes; which sum counts all images of one class?",
        ),
        "absent class makes it NaN": Mistake(
            _balanced_accuracy_nan,
            "a class without images gives 0 / 0, and one NaN makes the whole mean NaN.",
            _WHICH_CLASSES,
        ),
        "absent class counts as 0": Mistake(
            _balanced_accuracy_zero,
            "you count a class without images as a recall of 0, as if all of its images had been "
            "missed.",
            _WHICH_CLASSES,
        ),
        "missed class left out": Mistake(
            _balanced_accuracy_found_only,
            "you leave out a class that has images but no correct prediction. Its recall is 0.",
            "which classes have no recall at all, and which have a recall of 0?",
        ),
        "absent class counts as 1": Mistake(
            _balanced_accuracy_one,
            "you count a class without images as a recall of 1, as if all of its images had been "
            "found.",
            _WHICH_CLASSES,
        ),
        "sum": Mistake(
            _balanced_accuracy_sum,
            "you return the sum of the recalls, but an accuracy is never larger than 1.",
            "how many recalls did you add up?",
        ),
        "one number per class": Mistake(
            _recalls,
            "you return one recall per class, but the exercise asks for a single number.",
            "what does the balanced accuracy do with the recalls?",
        ),
        "worst class": Mistake(
            _balanced_accuracy_worst,
            "you return the recall of the worst class, which is worth knowing but isn't the "
            "balanced accuracy.",
            "what does the balanced accuracy do with the recalls?",
        ),
    },
)


# --- cheapest_threshold ---------------------------------------------------------------------------


# Small problems: (scores, positives, cost of a miss, cost of a false alarm).
_FEW: tuple[tuple[list[float], list[bool], float, float], ...] = (
    ([0.2, 0.6, 0.8], [False, True, True], 1.0, 1.0),
    ([0.2, 0.4, 0.6], [True, False, True], 5.0, 1.0),
    ([0.2, 0.4, 0.6], [False, True, False], 1.0, 5.0),
    ([0.3, 0.3, 0.7], [True, False, False], 3.0, 2.0),
    ([0.1, 0.5, 0.9], [True, False, True], 1.0, 1.0),
)


def _draw_scores(seed: int) -> tuple[Tensor, Tensor]:
    """Draw scores (N,) with ties, and booleans that are more often True for large scores."""
    g = generator(seed, 15)
    scores = torch.randint(1, 30, (40,), generator=g) / 32
    return scores, torch.rand(40, generator=g) < 0.6 * scores


def _observe_threshold(attempt: Callable[..., Any], seed: int) -> Observation:
    observation: dict[str, Any] = {}
    for scores, positive, miss, alarm in _FEW:
        given = (
            f"scores={short(scores)}, positive={short(positive)}, miss={miss:g}, alarm={alarm:g}"
        )
        observation[f"your threshold for {given}"] = attempt(
            torch.tensor(scores), torch.tensor(positive), miss, alarm
        )
    drawn, positives = _draw_scores(seed)
    for miss, alarm in ((4.0, 1.0), (1.0, 1.0), (1.0, 3.0)):
        name = f"your threshold for 40 random scores with miss={miss:g}, alarm={alarm:g}"
        observation[name] = attempt(drawn.clone(), positives.clone(), miss, alarm)
    return observation


def _total(scores: Tensor, positive: Tensor, threshold: float, miss: float, alarm: float) -> float:
    """Return the cost of one threshold."""
    raised = scores >= threshold
    return float((positive & ~raised).sum()) * miss + float((raised & ~positive).sum()) * alarm


def _descending(scores: Tensor) -> list[float]:
    """Return the candidates, the largest first."""
    found: list[float] = scores.unique().flip(0).tolist()
    return [math.inf, *found]


def cheapest_threshold(scores: Tensor, positive: Tensor, miss: float, alarm: float) -> float:
    """Return the largest of the thresholds with the smallest cost on these images."""
    best, lowest = math.inf, math.inf
    for threshold in _descending(scores):
        cost = _total(scores, positive, threshold, miss, alarm)
        if cost < lowest:
            best, lowest = threshold, cost
    return best


def _threshold_swapped(scores, positive, miss, alarm):  # type: ignore[no-untyped-def]
    return cheapest_threshold(scores, positive, alarm, miss)


def _threshold_equal_costs(scores, positive, miss, alarm):  # type: ignore[no-untyped-def]
    return cheapest_threshold(scores, positive, 1, 1)


def _threshold_formula(scores, positive, miss, alarm):  # type: ignore[no-untyped-def]
    return alarm / (alarm + miss)


def _threshold_finite(scores, positive, miss, alarm):  # type: ignore[no-untyped-def]
    return min(_descending(scores)[1:], key=lambda t: _total(scores, positive, t, miss, alarm))


def _threshold_smallest(scores, positive, miss, alarm):  # type: ignore[no-untyped-def]
    candidates = _descending(scores)[::-1]
    return min(candidates, key=lambda t: _total(scores, positive, t, miss, alarm))


def _threshold_above(scores, positive, miss, alarm):  # type: ignore[no-untyped-def]
    def cost(t: float) -> float:
        raised = scores > t
        return float((positive & ~raised).sum() * miss + (raised & ~positive).sum() * alarm)

    return min(_descending(scores), key=cost)


def _threshold_splits_ties(scores, positive, miss, alarm):  # type: ignore[no-untyped-def]
    order = scores.argsort(descending=True, stable=True)
    scores, positive = scores[order], positive[order]
    n_missed = positive.sum() - positive.cumsum(0)
    cost = n_missed * miss + (~positive).cumsum(0) * alarm
    cost = torch.cat([positive.sum()[None] * miss, cost])
    return [math.inf, *scores.tolist()][int(cost.argmin())]


def _threshold_costliest(scores, positive, miss, alarm):  # type: ignore[no-untyped-def]
    return max(_descending(scores), key=lambda t: _total(scores, positive, t, miss, alarm))


def _threshold_cost(scores, positive, miss, alarm):  # type: ignore[no-untyped-def]
    best = cheapest_threshold(scores, positive, miss, alarm)
    return _total(scores, positive, best, miss, alarm)


def _threshold_misses_only(scores, positive, miss, alarm):  # type: ignore[no-untyped-def]
    return cheapest_threshold(scores, positive, miss, 0.0)


_ONE_CANDIDATE = "take one candidate: which images raise an alarm, and which of these are negative?"
CHEAPEST_THRESHOLD = Exercise(
    name="cheapest_threshold",
    task="`cheapest_threshold(scores, positive, miss, alarm) -> float`, one of the scores or "
    "infinity",
    observe=_observe_threshold,
    answer=cheapest_threshold,
    praise="You compare the total cost of every threshold that makes a difference, and raising no "
    "alarm is one of them.",
    hint="write down the cost of every candidate for three scores; which is the smallest?",
    mistakes={
        "costs swapped": Mistake(
            _threshold_swapped,
            "you charge `miss` for a false alarm and `alarm` for a missed positive.",
            "a miss is a positive image without an alarm",
        ),
        "costs ignored": Mistake(
            _threshold_equal_costs,
            "you count all mistakes alike, so your threshold doesn't depend on the costs.",
            "what does each of the two kinds of mistakes cost?",
        ),
        "the formula": Mistake(
            _threshold_formula,
            "you return alarm / (alarm + miss), which is correct for calibrated probabilities. "
            "These are only scores.",
            "what does each threshold cost on the images that you're given?",
        ),
        "no infinity": Mistake(
            _threshold_finite,
            "you never consider raising no alarm at all, so the highest score always raises one.",
            "what if every alarm costs more than it saves?",
        ),
        "smallest of equals": Mistake(
            _threshold_smallest,
            "of equally cheap thresholds you return the smallest, but the exercise asks for the "
            "largest.",
            "in which order do you try the candidates, and when does one replace the best so far?",
        ),
        "above": Mistake(
            _threshold_above,
            "you raise an alarm only above the threshold, but a score equal to it counts too.",
            "`>` or `>=`?",
        ),
        "ties split": Mistake(
            _threshold_splits_ties,
            "you cut between images with equal scores, as if one of them could raise an alarm "
            "without the other.",
            "after sorting, at which positions can a threshold lie?",
        ),
        "the most expensive": Mistake(
            _threshold_costliest,
            "you return the threshold with the largest cost.",
            "is a cost something to maximise?",
        ),
        "the cost itself": Mistake(
            _threshold_cost,
            "you return the smallest cost, but the exercise asks for its threshold.",
            "which candidate does this cost belong to?",
        ),
        "misses only": Mistake(
            _threshold_misses_only,
            "you don't charge for false alarms, so a low threshold costs nothing.",
            _ONE_CANDIDATE,
        ),
    },
)


# --- change_frequencies ---------------------------------------------------------------------------


def _observe_frequencies(attempt: Callable[..., Any], seed: int) -> Observation:
    observation: dict[str, Any] = {}
    for few, counts, expected in (
        ([0.0, 0.0], [10.0, 30.0], [1.0, 1.0]),
        ([0.0, 0.0], [10.0, 10.0], [1.0, 3.0]),
        ([1.0, 0.0], [10.0, 30.0], [10.0, 30.0]),
        ([1.0, 0.0], [10.0, 30.0], [3.0, 1.0]),
        ([0.0, 0.0, 0.0], [10.0, 30.0, 20.0], [3.0, 1.0, 0.0]),
    ):
        given = f"logits=[{short(few)}], counts={short(counts)}, expected={short(expected)}"
        observation[f"your tensor of probabilities for {given}"] = attempt(
            torch.tensor([few]), torch.tensor(counts), torch.tensor(expected)
        )
    g, drawn = generator(seed, 16), _counts(seed)
    logits = 2 * torch.randn(3, NUM_CLASSES, generator=g)
    frequencies = 0.1 + torch.rand(NUM_CLASSES, generator=g)
    name = f"your tensor of probabilities for three images and {NUM_CLASSES} classes"
    result = observation[name] = attempt(logits, drawn, frequencies)
    rows = torch.as_tensor(result).sum(dim=1)
    complaint = "the rows of your result don't add up to 1."
    return {complaint: not agree(rows, torch.ones(len(logits))), **observation}


def change_frequencies(logits: Tensor, counts: Tensor, expected: Tensor) -> Tensor:
    """Return probabilities (N, K) for classes that occur as expected."""
    return (logits - counts.log() + expected.log()).softmax(dim=1)


def _frequencies_swapped(logits, counts, expected):  # type: ignore[no-untyped-def]
    return (logits + counts.log() - expected.clamp(min=1e-12).log()).softmax(dim=1)


def _frequencies_equal(logits, counts, expected):  # type: ignore[no-untyped-def]
    return (logits - counts.log()).softmax(dim=1)


def _frequencies_not_removed(logits, counts, expected):  # type: ignore[no-untyped-def]
    return (logits + expected.log()).softmax(dim=1)


def _frequencies_unchanged(logits, counts, expected):  # type: ignore[no-untyped-def]
    return logits.softmax(dim=1)


def _frequencies_no_log(logits, counts, expected):  # type: ignore[no-untyped-def]
    shift = expected / expected.sum() - counts / counts.sum()
    return (logits + shift).softmax(dim=1)


def _frequencies_unnormalised(logits, counts, expected):  # type: ignore[no-untyped-def]
    ratio = (expected / expected.sum()) / (counts / counts.sum())
    return logits.softmax(dim=1) * ratio


def _frequencies_logits(logits, counts, expected):  # type: ignore[no-untyped-def]
    return logits - counts.log() + expected.log()


def _frequencies_scaled_logits(logits, counts, expected):  # type: ignore[no-untyped-def]
    return (logits * expected / counts).softmax(dim=1)


def _frequencies_over_images(logits, counts, expected):  # type: ignore[no-untyped-def]
    return (logits - counts.log() + expected.log()).softmax(dim=0)


def _frequencies_base_ten(logits, counts, expected):  # type: ignore[no-untyped-def]
    return (logits - counts.log10() + expected.log10()).softmax(dim=1)


_BAYES = "which frequencies are in the network's probabilities, and which should be?"
CHANGE_FREQUENCIES = Exercise(
    name="change_frequencies",
    task="`change_frequencies(logits, counts, expected) -> (N, K)`, probabilities where the "
    "classes occur as expected",
    observe=_observe_frequencies,
    answer=change_frequencies,
    praise="You take the training frequencies out and put the expected ones in, and every row is "
    "a distribution.",
    hint=_BAYES,
    mistakes={
        "swapped": Mistake(
            _frequencies_swapped,
            "you put the training frequencies in a second time and take the expected ones out.",
            _BAYES,
        ),
        "expected ignored": Mistake(
            _frequencies_equal,
            "your probabilities are for classes that occur equally often: `expected` isn't used.",
            "after you've removed the training frequencies, which ones come in?",
        ),
        "training not removed": Mistake(
            _frequencies_not_removed,
            "you add the expected frequencies, but those of the training set are still in the "
            "logits.",
            _BAYES,
        ),
        "unchanged": Mistake(
            _frequencies_unchanged,
            "you return the softmax of the logits, which is correct only where the classes occur "
            "as in training.",
            _BAYES,
        ),
        "no logarithm": Mistake(
            _frequencies_no_log,
            "you add fractions to logits. Logits are log-probabilities up to a constant, so "
            "multiplying a probability adds a logarithm.",
            "if you multiply a probability by a number, what happens to its logarithm?",
        ),
        "not normalised": Mistake(
            _frequencies_unnormalised,
            "the rows of your result don't add up to 1: after multiplying, probabilities have to "
            "be normalised again.",
            "what is the sum of each row?",
        ),
        "logits": Mistake(
            _frequencies_logits,
            "you return logits, but the exercise asks for probabilities.",
            "which function turns logits into probabilities?",
        ),
        "logits scaled": Mistake(
            _frequencies_scaled_logits,
            "you multiply the logits by the ratio of the frequencies, but it's the probabilities "
            "that should be multiplied by it.",
            "if you multiply a probability by a number, what happens to its logarithm?",
        ),
        "over the images": Mistake(
            _frequencies_over_images,
            "your columns add up to 1 instead of your rows, so the images compete with each other.",
            "over which dimension does softmax normalise?",
        ),
        "base ten": Mistake(
            _frequencies_base_ten,
            "you use the logarithm to base 10, but softmax uses base e, so less than half of the "
            "change is made.",
            "which logarithm is the inverse of `exp`?",
        ),
    },
)

EXERCISES = (BALANCED_ACCURACY, CHEAPEST_THRESHOLD, SAMPLE_WEIGHTS, CHANGE_FREQUENCIES)

PREDICTIONS = (
    Prediction(
        question="How far is the accuracy above the balanced accuracy?",
        text=(
            "Twelve classes of traffic signs have 10 to 400 training images each, and training "
            "corrects nothing. By how much does the accuracy, with the class fractions of the "
            "training set, exceed the balanced accuracy? (0.1 is ten points.)"
        ),
        answer=0.16,
        why="The rare classes hardly count in the accuracy, and their recall is low.",
        section="Accuracy hides the rare classes",
        within=0.08,
    ),
    Prediction(
        question="What fraction of the women who are called back has cancer?",
        text=(
            "In a screening, 6 in 1,000 women have cancer. 87 % of the cancers are found, and "
            "11 % of the healthy women are called back. What fraction of the women who are "
            "called back, from 0 to 1, has cancer?"
        ),
        answer=0.046,
        why=(
            "There are 166 healthy women for each ill one, so most of those who are called back "
            "are healthy, although the test is good."
        ),
        section="Precision, thresholds and costs",
        within=0.03,
    ),
    Prediction(
        question="With which labels does the scale of the weights matter?",
        text=(
            "You multiply all class weights by 1,000. With which labels does the loss of "
            "`F.cross_entropy` change? Hard labels are class indices, and soft labels are "
            "probabilities."
        ),
        answer="soft",
        why=(
            "With hard labels PyTorch divides by the sum of the weights, so the scale cancels. "
            "With soft labels it divides by the number of samples."
        ),
        section="Class weights and oversampling",
        options=("hard", "soft", "both", "neither"),
    ),
    Prediction(
        question="Both at once: change in the recall of the common classes?",
        text=(
            "Training on imbalanced classes uses class weights and oversampling at once. By how "
            "much does the mean recall of the four most common classes change, compared with "
            "plain training? Give a difference; a negative number means that it falls."
        ),
        answer=-0.32,
        why=(
            "Both corrections do the same job, so together they correct twice, and the common "
            "classes pay for it."
        ),
        section="Class weights and oversampling",
    ),
    Prediction(
        question="What is the probability of B where A is twice as common?",
        text=(
            "A came nine times as often as B in training, and for an image the network gives A "
            "the probability 0.75 and B 0.25. What is the probability of B in a place where A "
            "is twice as common as B?"
        ),
        answer=0.6,
        why="Dividing by 9 : 1 leaves 1 : 3, and multiplying by 2 : 1 gives 2 : 3.",
        section="After training: adjust the logits",
        within=0.02,
    ),
    Prediction(
        question="Adjusted logits: gain in the recall of the rare classes?",
        text=(
            "A network was trained on twelve imbalanced classes. By how much does the mean "
            "recall of its four rarest classes rise if the logarithms of the class fractions "
            "are subtracted from its logits? (0.1 is ten points.)"
        ),
        answer=0.171,
        why=(
            "The adjustment trains nothing and costs twelve subtractions per image. The common "
            "classes pay for it with some of their recall."
        ),
        section="After training: adjust the logits",
        within=0.06,
    ),
    Prediction(
        question="Focal loss: change in the balanced accuracy?",
        text=(
            "Ten classes of photographs have 10 to 500 images each. Without class weights, by "
            "how much does the focal loss change the balanced accuracy, compared with "
            "cross-entropy? Give a difference, such as 0.02 or -0.02."
        ),
        answer=0.0,
        why="The focal loss was made for easy samples, and rare isn't the same as hard.",
        section="Losses for a long tail",
        within=0.02,
    ),
)

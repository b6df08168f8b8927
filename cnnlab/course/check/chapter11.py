"""Check the exercises of chapter 11: class and sample weights, balanced accuracy, adjusted logits.

The public functions are the reference solutions; the private ones next to them are known mistakes.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cnnlab.course.check.compare import agree, short
from cnnlab.course.check.core import Exercise, Mistake, Observation
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


# --- class_weights --------------------------------------------------------------------------------


def _observe_class_weights(attempt: Callable[..., Any], seed: int) -> Observation:
    few = _as_tensor(attempt(torch.tensor([10, 30])))
    counts = _counts(seed)
    weights = _as_tensor(attempt(counts.clone()))
    observation: dict[str, Any] = {"your tensor of weights for counts=[10, 30]": few}
    if isinstance(weights, Tensor) and weights.shape == counts.shape:
        observation["the mean weight of a sample"] = float((weights * counts).sum() / counts.sum())
        ratio = weights[counts.argmax()] / weights[counts.argmin()]
        observation["the weight of the most common class over that of the rarest"] = float(ratio)
    return {**observation, f"your tensor of weights for counts={short(counts.tolist())}": weights}


def class_weights(counts: Tensor) -> Tensor:
    """Return N / (K n): every class has the same total weight, a sample weighs 1 on average."""
    return counts.sum() / (len(counts) * counts)


def _weights_proportional(counts):  # type: ignore[no-untyped-def]
    return len(counts) * counts / counts.sum()


def _weights_fractions(counts):  # type: ignore[no-untyped-def]
    return counts / counts.sum()


def _weights_inverse(counts):  # type: ignore[no-untyped-def]
    return 1 / counts


def _weights_inverse_fraction(counts):  # type: ignore[no-untyped-def]
    return counts.sum() / counts


def _scale_to_sum(weights: Tensor, total: float) -> Tensor:
    return total * weights / weights.sum()


def _weights_sum_to_k(counts):  # type: ignore[no-untyped-def]
    return _scale_to_sum(1 / counts, len(counts))


def _weights_sum_to_one(counts):  # type: ignore[no-untyped-def]
    return _scale_to_sum(1 / counts, 1)


def _weights_most_common_is_one(counts):  # type: ignore[no-untyped-def]
    return counts.max() / counts


def _weights_one_minus_fraction(counts):  # type: ignore[no-untyped-def]
    return 1 - counts / counts.sum()


def _weights_squared(counts):  # type: ignore[no-untyped-def]
    inverse = 1 / counts**2
    return inverse * counts.sum() / (inverse * counts).sum()


def _weights_floored(counts):  # type: ignore[no-untyped-def]
    return counts.sum() // (len(counts) * counts)


_SUM_IS_N = "weight times count, added up over the classes: what should that give?"
CLASS_WEIGHTS = Exercise(
    name="class_weights",
    task="`class_weights(counts) -> (K,)`, with mean 1 over the samples",
    observe=_observe_class_weights,
    answer=class_weights,
    praise="Every class has the same total weight, and the mean weight of a sample is 1.",
    hint="a class with half the images weighs twice as much; what is the mean over all samples?",
    mistakes={
        "common classes weigh more": Mistake(
            _weights_proportional,
            "you give the common classes the largest weights, which makes the imbalance worse.",
            "which class should have the largest weight?",
        ),
        "shares": Mistake(
            _weights_fractions,
            "you return the fraction of the images in each class, so the common classes get the "
            "largest weights.",
            "which class should have the largest weight?",
        ),
        "not normalised": Mistake(
            _weights_inverse,
            "the mean weight of a sample is far below 1, so a loss that divides by N becomes that "
            "much smaller, and so do its gradients.",
            _SUM_IS_N,
        ),
        "number of classes forgotten": Mistake(
            _weights_inverse_fraction,
            "the mean weight of a sample is K instead of 1: there are K classes, and you divide "
            "only by the fraction of each.",
            _SUM_IS_N,
        ),
        "weights sum to K": Mistake(
            _weights_sum_to_k,
            "your weights have a mean of 1 over the classes, but not over the samples, most of "
            "which are in classes with small weights.",
            _SUM_IS_N,
        ),
        "weights sum to 1": Mistake(
            _weights_sum_to_one,
            "your weights add up to 1, so the mean weight of a sample is far below 1.",
            _SUM_IS_N,
        ),
        "commonest class weighs 1": Mistake(
            _weights_most_common_is_one,
            "none of your weights is below 1, so the mean weight of a sample is above 1, like a "
            "larger learning rate.",
            _SUM_IS_N,
        ),
        "one minus the share": Mistake(
            _weights_one_minus_fraction,
            "one minus the fraction is nearly the same for a class with 3 images and one with 30 "
            "of many.",
            "a class with half as many images should get twice the weight",
        ),
        "squared": Mistake(
            _weights_squared,
            "you divide by the square of the count, so the rare classes now have a larger total "
            "weight than the common ones.",
            "a class with half as many images should get twice the weight, not four times",
        ),
        "integer division": Mistake(
            _weights_floored,
            "you round the weights down to whole numbers, so common classes get the weight 0 and "
            "the network never learns them.",
            "what does `7 // 10` give?",
        ),
    },
)


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
        "one weight a class": Mistake(
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
        "one number a class": Mistake(
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


# --- adjust_logits --------------------------------------------------------------------------------


def _observe_adjust(attempt: Callable[..., Any], seed: int) -> Observation:
    g, counts = generator(seed, 14), _counts(seed)
    observation: dict[str, Any] = {}
    # Softmax ignores a constant added to all logits of an image, and so should the check.
    for few, tau in (([0.0, 0.0], 1.0), ([1.0, 0.0], 0.0), ([1.0, 0.0], 0.5)):
        row = _as_tensor(attempt(torch.tensor([few]), torch.tensor([10, 30]), tau))[0]
        name = f"the softmax of your logits for logits=[{short(few)}], counts=[10, 30], tau={tau:g}"
        observation[name] = row.softmax(dim=0)
    logits = 2 * torch.randn(4, NUM_CLASSES, generator=g)
    plain = _as_tensor(attempt(logits.clone(), counts.clone(), 1.0))
    observation = {
        "you return probabilities instead of logits.": any(
            agree(plain.sum(dim), torch.ones(plain.shape[1 - dim])) for dim in (0, 1)
        ),
        **observation,
    }
    between = 0.5 + 0.3 * torch.rand((), generator=g).item()
    for tau in (1.0, between, 0.0):
        answer = _as_tensor(attempt(logits.clone(), counts.clone(), tau))
        name = f"the softmax of your result for {NUM_CLASSES} classes with tau={tau:.2f}"
        observation[name] = answer.softmax(dim=1)
    return observation


def adjust_logits(logits: Tensor, counts: Tensor, tau: float) -> Tensor:
    """Return the logits minus tau times the log of each class's fraction of the data."""
    return logits - tau * (counts / counts.sum()).log()


def _adjust_added(logits, counts, tau):  # type: ignore[no-untyped-def]
    return adjust_logits(logits, counts, -tau)


def _adjust_no_log(logits, counts, tau):  # type: ignore[no-untyped-def]
    return logits - tau * counts / counts.sum()


def _adjust_no_tau(logits, counts, tau):  # type: ignore[no-untyped-def]
    return adjust_logits(logits, counts, 1.0)


def _adjust_log10(logits, counts, tau):  # type: ignore[no-untyped-def]
    return logits - tau * (counts / counts.sum()).log10()


def _adjust_divided(logits, counts, tau):  # type: ignore[no-untyped-def]
    return logits / (counts / counts.sum()) ** tau


def _adjust_probabilities(logits, counts, tau):  # type: ignore[no-untyped-def]
    return adjust_logits(logits, counts, tau).softmax(dim=1)


def _adjust_ratios(logits, counts, tau):  # type: ignore[no-untyped-def]
    return logits.softmax(dim=1) / (counts / counts.sum()) ** tau


def _adjust_in_place(logits, counts, tau):  # type: ignore[no-untyped-def]
    logits -= tau * (counts / counts.sum()).log()
    return logits


_DIVIDE_IN_LOGS = "if you divide a probability by a number, what happens to its logarithm?"
ADJUST_LOGITS = Exercise(
    name="adjust_logits",
    task="`adjust_logits(logits, counts, tau) -> logits`, for a world of equally frequent classes",
    observe=_observe_adjust,
    answer=adjust_logits,
    praise="Classes that were common in training lose their head start, and tau = 0 changes "
    "nothing.",
    hint="what happens to a logit when its probability is divided by a fraction?",
    mistakes={
        "added": Mistake(
            _adjust_added,
            "you make the common classes win even more often, because you add the logarithm of "
            "the fraction, as a loss does in training.",
            "which sign has the logarithm, and which classes should gain?",
        ),
        "no logarithm": Mistake(
            _adjust_no_log,
            "you subtract the fraction itself. Logits are log-probabilities up to a constant, so "
            "you have to work with logarithms.",
            _DIVIDE_IN_LOGS,
        ),
        "tau ignored": Mistake(
            _adjust_no_tau,
            "your result doesn't depend on tau.",
            "tau = 0 should leave every prediction as it is",
        ),
        "base ten": Mistake(
            _adjust_log10,
            "you use the logarithm to base 10, but softmax uses base e, so your adjustment is less "
            "than half as strong as it should be.",
            "which logarithm is the inverse of `exp`?",
        ),
        "logits divided": Mistake(
            _adjust_divided,
            "you divide the logits by the fraction, but it's the probabilities that should be "
            "divided by it.",
            _DIVIDE_IN_LOGS,
        ),
        "probabilities": Mistake(
            _adjust_probabilities,
            "you return probabilities instead of logits. A second softmax would make them all "
            "nearly equal.",
            "is your last step needed?",
        ),
        "ratios of probabilities": Mistake(
            _adjust_ratios,
            "you return ratios of probabilities instead of logits.",
            "do the same with logarithms: what does a ratio become?",
        ),
        "in place": Mistake(
            _adjust_in_place,
            "you change the logits you were given, so with another tau you would adjust them a "
            "second time.",
            "`x -= y` changes the caller's tensor, `x = x - y` makes a new one",
        ),
    },
)

EXERCISES = (CLASS_WEIGHTS, SAMPLE_WEIGHTS, BALANCED_ACCURACY, ADJUST_LOGITS)

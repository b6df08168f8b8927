"""Chapter 11: weights of classes and of samples, a metric that sees rare classes, logits without the prior."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cnnlab.course.check.core import Exercise, Mistake, Observation
from cnnlab.rng import generator


K = 5


def _counts(seed: int) -> Tensor:
    """Images of each class, some ten times as many as others, in no order, int64 (K,)."""
    g = generator(seed, 11)
    tiers = torch.tensor([3, 7, 15, 31, 63])
    wobble = torch.randint(0, 3, (K,), generator=g)
    return (tiers + wobble)[torch.randperm(K, generator=g)]


def _numbers(returned: Any) -> Any:
    """Lists, arrays and tensors of any precision become float32; what is no numbers stays as it is."""
    try:
        return torch.as_tensor(returned, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        return returned


# --- class_weights --------------------------------------------------------------------------------


def _observe_class_weights(attempt: Callable[..., Any], seed: int) -> Observation:
    counts = _counts(seed)
    returned = attempt(counts.clone())
    weights = _numbers(returned)
    seen: dict[str, Any] = {"the weights": weights}
    if isinstance(weights, Tensor) and weights.shape == counts.shape:
        seen["the mean weight of a sample"] = float((weights * counts).sum() / counts.sum())
        seen["the weight of the commonest class over that of the rarest"] = float(
            weights[counts.argmax()] / weights[counts.argmin()]
        )
    return seen


def class_weights(counts: Tensor) -> Tensor:
    """The answer: N / (K n), so that each class has the same say and a sample weighs 1 on average."""
    return counts.sum() / (len(counts) * counts)


def _weights_shares(counts):  # type: ignore[no-untyped-def]
    return len(counts) * counts / counts.sum()


def _weights_plain_shares(counts):  # type: ignore[no-untyped-def]
    return counts / counts.sum()


def _weights_inverse(counts):  # type: ignore[no-untyped-def]
    return 1 / counts


def _weights_inverse_share(counts):  # type: ignore[no-untyped-def]
    return counts.sum() / counts


def _weights_sum_to(counts: Tensor, total: float) -> Tensor:
    inverse = 1 / counts
    return total * inverse / inverse.sum()


def _weights_sum_to_k(counts):  # type: ignore[no-untyped-def]
    return _weights_sum_to(counts, len(counts))


def _weights_sum_to_one(counts):  # type: ignore[no-untyped-def]
    return _weights_sum_to(counts, 1)


def _weights_of_the_commonest(counts):  # type: ignore[no-untyped-def]
    return counts.max() / counts


def _weights_rest(counts):  # type: ignore[no-untyped-def]
    return 1 - counts / counts.sum()


def _weights_squared(counts):  # type: ignore[no-untyped-def]
    inverse = 1 / counts**2
    return inverse * counts.sum() / (inverse * counts).sum()


def _weights_floored(counts):  # type: ignore[no-untyped-def]
    return counts.sum() // (len(counts) * counts)


_SIZE = "multiply each weight by the count of its class and add up: the sum should be N"
CLASS_WEIGHTS = Exercise(
    name="class_weights",
    observe=_observe_class_weights,
    answer=class_weights,
    praise="Each class has the same total weight, and a sample weighs 1 on average.",
    mistakes={
        "common classes weigh more": Mistake(
            _weights_shares,
            "the common classes get the large weights: you would make the imbalance worse.",
            "which class should have the largest weight?",
        ),
        "shares": Mistake(
            _weights_plain_shares,
            "you return the share of each class, so the common ones weigh most.",
            "which class should have the largest weight?",
        ),
        "not normalised": Mistake(
            _weights_inverse,
            "the ratios are right, but a sample weighs far less than 1 on average. A loss that divides by N, not by "
            "the sum of the weights, shrinks with it, and so do the gradients.",
            _SIZE,
        ),
        "number of classes forgotten": Mistake(
            _weights_inverse_share,
            "the ratios are right, but a sample weighs K on average instead of 1: you divide by the share of a class, "
            "and there are K shares.",
            _SIZE,
        ),
        "weights sum to K": Mistake(
            _weights_sum_to_k,
            "the ratios are right, and the mean over the classes is 1; the mean over the samples is smaller, for most "
            "samples belong to classes with small weights.",
            _SIZE,
        ),
        "weights sum to 1": Mistake(
            _weights_sum_to_one,
            "the ratios are right, but the weights sum to 1, so that a sample weighs far less than 1 on average.",
            _SIZE,
        ),
        "commonest class weighs 1": Mistake(
            _weights_of_the_commonest,
            "the ratios are right, but no weight is below 1: a sample weighs more than 1 on average, as with a larger "
            "learning rate.",
            _SIZE,
        ),
        "one minus the share": Mistake(
            _weights_rest,
            "one minus the share is nearly the same for all classes that are not very common: a class with 3 images "
            "and one with 30 get almost equal weights.",
            "half the images should mean twice the weight",
        ),
        "squared": Mistake(
            _weights_squared,
            "the weights go with one over the square of the count: the rare classes now have more say than the "
            "common ones.",
            "half the images should mean twice the weight, not four times",
        ),
        "integer division": Mistake(
            _weights_floored,
            "the weights are whole numbers, and those of the common classes became 0: they would not be learnt.",
            "what does `7 // 10` give?",
        ),
    },
)


# --- sample_weights -------------------------------------------------------------------------------


def _observe_sample_weights(attempt: Callable[..., Any], seed: int) -> Observation:
    counts = _counts(seed)
    labels = torch.repeat_interleave(torch.arange(K), counts)
    labels = labels[torch.randperm(len(labels), generator=generator(seed, 12))]
    before = labels.clone()
    weights = _numbers(attempt(labels))
    if not isinstance(weights, Tensor) or weights.ndim != 1:
        return {"the weights": weights}
    # A sampler divides by the sum itself, so any scale is right.
    chances = weights / weights.sum()
    seen: dict[str, Any] = {
        "the number of weights": len(weights),
        "the images that can be drawn": int((weights > 0).sum()),
        "the labels are untouched": torch.equal(labels, before),
        "the chance of each image": chances,
    }
    if len(weights) == len(before):
        seen["the chance of each class"] = torch.zeros(K).index_add(0, before, chances)
    return seen


def sample_weights(labels: Tensor) -> Tensor:
    """The answer: each sample shares the chance of its class with the others of that class."""
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


def _samples_rest(labels):  # type: ignore[no-untyped-def]
    counts = torch.bincount(labels)
    return (1 - counts / counts.sum())[labels]


def _samples_root(labels):  # type: ignore[no-untyped-def]
    return (1 / torch.bincount(labels).sqrt())[labels]


def _samples_rarest(labels):  # type: ignore[no-untyped-def]
    counts = torch.bincount(labels)
    return (counts == counts.min()).float()[labels]


SAMPLE_WEIGHTS = Exercise(
    name="sample_weights",
    observe=_observe_sample_weights,
    answer=sample_weights,
    praise="One weight an image, and every class is drawn equally often on average.",
    mistakes={
        "one weight a class": Mistake(
            _samples_per_class,
            "there is one weight for each class, and the sampler takes them for the weights of the first K images: it "
            "would draw these few again and again, and never any other.",
            "the sampler returns positions in the data set; how many are there?",
        ),
        "common classes more often": Mistake(
            _samples_counts,
            "each image weighs as much as its class has images: the common classes are drawn even more often.",
            "which images should be drawn more often than in a plain shuffle?",
        ),
        "all alike": Mistake(
            _samples_equal,
            "all images have the same weight, so the classes come as often as they are: nothing is balanced.",
            "what must the weights of the images of one class add up to?",
        ),
        "labels taken for sorted": Mistake(
            _samples_sorted,
            "the weights stand in the order of the classes, but the images are not sorted by class: most images get "
            "the weight of another class.",
            "weight i belongs to image i: let the labels look it up",
        ),
        "squared": Mistake(
            _samples_squared,
            "you divide twice by the count: once is enough for balance, twice draws the rarest class most often.",
            "what must the weights of the images of one class add up to?",
        ),
        "one minus the share": Mistake(
            _samples_rest,
            "one minus the share is nearly the same for most classes: the draws stay nearly as imbalanced as the data.",
            "what must the weights of the images of one class add up to?",
        ),
        "square root": Mistake(
            _samples_root,
            "one over the square root of the count goes half the way: some people do that on purpose, but the classes "
            "are not drawn equally often.",
            "what must the weights of the images of one class add up to?",
        ),
        "rarest class alone": Mistake(
            _samples_rarest,
            "only the rarest class can be drawn.",
            "every image must have a chance",
        ),
    },
)


# --- balanced_accuracy ----------------------------------------------------------------------------


def _observe_balanced_accuracy(attempt: Callable[..., Any], seed: int) -> Observation:
    g = generator(seed, 13)
    confusion = torch.randint(0, 6, (K, K), generator=g)
    confusion += torch.diag(_counts(seed) + 5)
    absent = confusion.clone()
    absent[int(torch.randint(0, K, (), generator=g))] = 0  # no image of that class, some answers
    return {
        "the balanced accuracy": _number(attempt(confusion)),
        "with a class that has no image": _number(attempt(absent)),
    }


def _number(returned: Any) -> Any:
    number = _numbers(returned)
    return float(number) if isinstance(number, Tensor) and number.ndim == 0 else number


def balanced_accuracy(confusion: Tensor) -> float:
    """The answer: the mean recall of the classes that there are."""
    images = confusion.sum(dim=1)
    present = images > 0
    return float((confusion.diag()[present] / images[present]).mean())


def _balanced_accuracy_plain(confusion):  # type: ignore[no-untyped-def]
    return float(confusion.diag().sum() / confusion.sum())


def _balanced_accuracy_precision(confusion):  # type: ignore[no-untyped-def]
    return balanced_accuracy(confusion.T)


def _balanced_accuracy_nan(confusion):  # type: ignore[no-untyped-def]
    return float((confusion.diag() / confusion.sum(dim=1)).mean())


def _balanced_accuracy_zero(confusion):  # type: ignore[no-untyped-def]
    return float((confusion.diag() / confusion.sum(dim=1).clamp(min=1)).mean())


def _balanced_accuracy_one(confusion):  # type: ignore[no-untyped-def]
    return float((confusion.diag() / confusion.sum(dim=1)).nan_to_num(1.0).mean())


def _balanced_accuracy_sum(confusion):  # type: ignore[no-untyped-def]
    return float((confusion.diag() / confusion.sum(dim=1)).nansum())


def _balanced_accuracy_list(confusion):  # type: ignore[no-untyped-def]
    return confusion.diag() / confusion.sum(dim=1)


def _balanced_accuracy_worst(confusion):  # type: ignore[no-untyped-def]
    images = confusion.sum(dim=1)
    return float((confusion.diag() / images)[images > 0].min())


BALANCED_ACCURACY = Exercise(
    name="balanced_accuracy",
    observe=_observe_balanced_accuracy,
    answer=balanced_accuracy,
    praise="It is the mean of the recalls, and a class without images has none.",
    mistakes={
        "plain accuracy": Mistake(
            _balanced_accuracy_plain,
            "that is the plain accuracy: a class counts as much as it has images.",
            "divide within each class before you take the mean",
        ),
        "columns": Mistake(
            _balanced_accuracy_precision,
            "you divide by the sums of the columns, which gives the mean precision: how many of the answers are right, "
            "not how many of the images are found.",
            "true classes go down; which sum holds all images of one class?",
        ),
        "absent class makes it NaN": Mistake(
            _balanced_accuracy_nan,
            "right while every class has an image; a class without any gives 0 / 0, and one NaN spoils the mean.",
            "over which classes can you take the mean at all?",
        ),
        "absent class counts as 0": Mistake(
            _balanced_accuracy_zero,
            "a class without images counts as if none of its images had been found, though there were none.",
            "over which classes can you take the mean at all?",
        ),
        "absent class counts as 1": Mistake(
            _balanced_accuracy_one,
            "a class without images counts as if all of its images had been found, though there were none.",
            "over which classes can you take the mean at all?",
        ),
        "sum": Mistake(
            _balanced_accuracy_sum,
            "that is the sum of the recalls; no accuracy is larger than 1.",
            "how many recalls did you add up?",
        ),
        "one number a class": Mistake(
            _balanced_accuracy_list,
            "these are the recalls, one a class; one number is asked for.",
            "what does balanced accuracy do with the recalls?",
        ),
        "worst class": Mistake(
            _balanced_accuracy_worst,
            "that is the recall of the worst class: worth knowing, but another number.",
            "what does balanced accuracy do with the recalls?",
        ),
    },
)


# --- adjust_logits --------------------------------------------------------------------------------


def _observe_adjust(attempt: Callable[..., Any], seed: int) -> Observation:
    g, counts = generator(seed, 14), _counts(seed)
    logits = 2 * torch.randn(4, K, generator=g)
    tau = 0.5 + 0.3 * torch.rand((), generator=g).item()
    seen: dict[str, Any] = {}
    for name, strength in (("tau = 1", 1.0), (f"tau = {tau:.2f}", tau), ("tau = 0", 0.0)):
        given = logits.clone()
        returned = _numbers(attempt(given, counts.clone(), strength))
        # The same number added to all logits of an image changes nothing.
        fits = isinstance(returned, Tensor) and returned.shape == logits.shape
        seen[f"the softmax of what you return, {name}"] = (
            returned.softmax(dim=1) if fits else returned
        )
        seen[f"the logits you were given are untouched, {name}"] = torch.equal(given, logits)
    return seen


def adjust_logits(logits: Tensor, counts: Tensor, tau: float) -> Tensor:
    """The answer: take the logarithm of each class's share away."""
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


ADJUST_LOGITS = Exercise(
    name="adjust_logits",
    observe=_observe_adjust,
    answer=adjust_logits,
    praise="A class that was common in training loses its head start, and tau = 0 changes nothing.",
    mistakes={
        "added": Mistake(
            _adjust_added,
            "the common classes win even more: the logarithm of the share is added. That is the form for the loss "
            "in training, not for a finished network.",
            "a share is below 1; what sign has its logarithm, and which classes should gain?",
        ),
        "no logarithm": Mistake(
            _adjust_no_log,
            "you take the share away, not its logarithm: logits are logarithms, and a share of probability becomes "
            "a difference there only as a logarithm.",
            "to divide a probability by the share, what do you do to its logarithm?",
        ),
        "tau ignored": Mistake(
            _adjust_no_tau,
            "right for tau = 1, but tau is not used.",
            "tau = 0 should leave every answer as it is",
        ),
        "base ten": Mistake(
            _adjust_log10,
            "the logarithm has base ten, and softmax has base e: the adjustment is less than half of what it "
            "should be.",
            "which logarithm undoes `exp`?",
        ),
        "logits divided": Mistake(
            _adjust_divided,
            "you divide the logits by the share; it is the probabilities that are divided by it.",
            "to divide a probability by the share, what do you do to its logarithm?",
        ),
        "probabilities": Mistake(
            _adjust_probabilities,
            "the answers are right, but you return probabilities, and logits are asked for: whoever applies softmax "
            "again makes them all nearly alike.",
            "leave out the last step",
        ),
        "ratios of probabilities": Mistake(
            _adjust_ratios,
            "the largest is where it should be, but you return ratios of probabilities, and logits are asked for.",
            "the same thing with logarithms: a ratio becomes a difference",
        ),
        "in place": Mistake(
            _adjust_in_place,
            "the values are right, but the logits you were given have changed: with another tau you would adjust "
            "them a second time.",
            "`x -= y` changes the tensor of the caller, `x = x - y` makes a new one",
        ),
    },
)

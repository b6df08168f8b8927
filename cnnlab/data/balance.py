"""Class balance: loss weights, samplers, stratified splits, and imbalance made on purpose."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Sampler

from cnnlab import rng
from cnnlab.data.arrays import as_labels
from cnnlab.data.images import ImageSet
from cnnlab.errors import holds


Labels = Tensor | Sequence[int]


def class_weights(
    labels: Labels, scheme: Literal["balanced", "effective"] = "balanced", *, beta: float = 0.999
) -> Tensor:
    """Compute one loss weight per class, larger for rare classes.

    The mean weight over the samples is 1, which keeps the size of the loss and so the meaning of
    the learning rate.

    Args:
        labels: integers in 0 .. K-1, each of them present, (N,).
        scheme: "balanced" uses the weight 1 / n for a class of n samples. "effective" uses
            (1 - beta) / (1 - beta ** n), because the samples of a large class resemble each other.
            Cui et al. 2019, equation 2, https://arxiv.org/abs/1901.05555; there the weights of the
            classes sum to K.
        beta: for "effective", in [0, 1). With 0 all weights are equal; towards 1 they become
            "balanced".

    Returns:
        float32 (K,).

    Raises:
        ValueError: a class in 0 .. K-1 has no sample, or the scheme or beta isn't allowed.
        TypeError: `labels` is something else, such as the data set that has the labels.

    >>> class_weights([0, 0, 0, 1]).tolist()
    [0.6666666865348816, 2.0]
    """
    counts = _counts(labels)
    if scheme not in ("balanced", "effective"):
        raise ValueError(f"scheme must be 'balanced' or 'effective', got {scheme!r}")
    if not holds(lambda: 0 <= beta < 1):
        raise ValueError(f"beta must be at least 0 and less than 1, got {beta!r}; 0.999 is common")
    weights = 1 / counts if scheme == "balanced" else (1 - beta) / (1 - beta**counts)
    return (weights * counts.sum() / (weights * counts).sum()).float()


def logit_adjustment(labels: Labels, tau: float = 1.0) -> Tensor:
    """Compute tau * log(fraction of each class), which corrects logits for the class frequencies.

    Subtract it from the logits of a trained model to predict as if all classes were equally
    frequent. Or add it to the logits inside the training loss, so that the model learns the
    correction. Menon et al. 2021, section 4, https://arxiv.org/abs/2007.07314.

    Args:
        labels: of the training set, integers in 0 .. K-1, each of them present, (N,).
        tau: strength; 0 changes nothing, 1 is exact for calibrated probabilities.

    Returns:
        float32 (K,), none of them positive for tau >= 0.

    Raises:
        ValueError: a class in 0 .. K-1 has no sample, or tau isn't a finite number.
        TypeError: `labels` is something else, such as the data set that has the labels.

    >>> logits = torch.log(torch.tensor([[0.75, 0.25]]))
    >>> (logits - logit_adjustment([0, 0, 0, 1])).softmax(1)
    tensor([[0.5000, 0.5000]])
    """
    if not holds(lambda: math.isfinite(tau)):
        raise ValueError(f"tau must be a finite number, got {tau!r}; 1 is exact in theory")
    counts = _counts(labels)
    return (tau * (counts / counts.sum()).log()).float()


def balanced_sampler(labels: Labels, seed: int = 0) -> "BalancedSampler":
    """Return a sampler that draws every class equally often on average, with replacement.

    Args:
        labels: integers in 0 .. K-1, (N,).
        seed: determines the draws, together with the epoch.

    Raises:
        ValueError: a class in 0 .. K-1 has no sample.

    >>> sampler = balanced_sampler([0, 0, 0, 1])
    >>> len(sampler), len(sampler.order(epoch=7))
    (4, 4)
    """
    return BalancedSampler(labels, seed)


class BalancedSampler(Sampler[int]):
    """Draw N images per epoch with replacement, with probability proportional to 1 / class size.

    In a torch `DataLoader`, the sampler advances its epoch at the end of each pass. A
    `cnnlab.loader` asks for the epoch that it needs. `weights` has one entry per sample, (N,).
    """

    def __init__(self, labels: Labels, seed: int = 0) -> None:
        self.seed, self.epoch = seed, 0
        numbers = as_labels(labels)
        self.weights = (1 / _counts(numbers))[numbers]

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next pass; the `Trainer` calls this."""
        self.epoch = epoch

    def order(self, epoch: int) -> Tensor:
        """Return the indices that are drawn in an epoch, int64 (N,)."""
        generator = rng.generator(self.seed, epoch)
        return torch.multinomial(self.weights, len(self), replacement=True, generator=generator)

    def __len__(self) -> int:
        return len(self.weights)

    def __iter__(self) -> Iterator[int]:
        yield from self.order(self.epoch).tolist()
        self.epoch += 1


def imbalance(
    dataset: ImageSet, counts: Sequence[int] | Mapping[str, int], seed: int = 0
) -> ImageSet:
    """Return a set with `counts[k]` images of class k, drawn without replacement.

    Args:
        dataset: is not changed.
        counts: one number per class, or class name -> number.
        seed: determines which images are drawn. With the same seed, a larger count contains all
            images of a smaller one.

    Raises:
        ValueError: a class has too few images, or the counts don't fit the classes.
        TypeError: it isn't a set of images, such as the training set of a bundle.

    >>> pixels = torch.zeros(6, 1, 2, 2, dtype=torch.uint8)
    >>> few = imbalance(ImageSet(pixels, [0, 0, 0, 1, 1, 1], ["cat", "dog"]), [3, 1])
    >>> few.labels.bincount().tolist()
    [3, 1]
    """
    _check_set(dataset, "imbalance", "select")
    n_draws = counts_per_class(counts, dataset.classes)
    available = torch.bincount(dataset.labels, minlength=len(n_draws)).tolist()
    too_few = [c for c, n, m in zip(dataset.classes, n_draws, available, strict=True) if n > m]
    if too_few:
        raise ValueError(
            f"counts={n_draws} needs more images than there are of {', '.join(too_few)}. The "
            f"data set has {dict(zip(dataset.classes, available, strict=True))}"
        )
    chosen = [_shuffled(dataset.labels, k, seed)[:n] for k, n in enumerate(n_draws)]
    return dataset.select(torch.cat(chosen).sort().values)


def label_noise(dataset: ImageSet, rate: float, seed: int = 0) -> ImageSet:
    """Return the set with round(rate * N) labels changed to another class at random.

    Args:
        dataset: is not changed; the result has its labels in `clean_labels`.
        rate: fraction of wrong labels, in [0, 1].
        seed: determines which labels change, and to which class.

    Raises:
        ValueError: the rate is not in [0, 1], or there is only one class.
        TypeError: it isn't an `ImageSet`.

    >>> pixels = torch.zeros(6, 1, 2, 2, dtype=torch.uint8)
    >>> noisy = label_noise(ImageSet(pixels, [0, 0, 0, 1, 1, 1], ["cat", "dog"]), rate=0.5)
    >>> int((noisy.labels != noisy.clean_labels).sum())
    3
    """
    _check_set(dataset, "label_noise", "images")
    n, n_classes = len(dataset), len(dataset.classes)
    if not holds(lambda: 0 <= rate <= 1):
        raise ValueError(f"the rate of label noise must be between 0 and 1, got {rate!r}")
    if rate > 0 and n_classes < 2:
        raise ValueError(f"label noise needs at least two classes, but there is {n_classes}")
    generator = rng.generator(seed)
    wrong = torch.randperm(n, generator=generator)[: round(rate * n)]
    steps = torch.randint(1, max(2, n_classes), (n,), generator=generator)[: len(wrong)]
    labels = dataset.labels.clone()
    # 1 to K-1 classes further, so never the same class.
    labels[wrong] = (labels[wrong] + steps) % n_classes
    return ImageSet(dataset.images, labels, dataset.classes, clean_labels=dataset.clean_labels)


def stratified_split(
    labels: Tensor, n: int, seed: int = 0, copies: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Split at random into two sets with the same class proportions.

    Args:
        labels: (N,).
        n: size of the second set. It's smaller if n would leave a class without images in the first
            set.
        seed: determines which images go where.
        copies: samples with the same number stay together, (N,); by default each is on its own.

    Returns:
        The indices of the first and of the second set, both in ascending order.

    >>> [indices.tolist() for indices in stratified_split(torch.tensor([0, 0, 0, 0, 1, 1]), 3)]
    [[0, 3, 4], [1, 2, 5]]
    """
    counts = torch.bincount(labels)
    quota = n * counts.double() / max(1, len(labels))
    upper = (counts - 1).clamp(min=0)
    take = quota.floor().long().minimum(upper)
    for k in (take - quota).argsort(stable=True).tolist():  # the largest remainders first
        if take.sum() < n and take[k] < upper[k]:
            take[k] += 1
    chosen = [_shuffled(labels, k, seed) for k in range(len(take))]
    if copies is None:
        chosen = [indices[:m] for indices, m in zip(chosen, take.tolist(), strict=True)]
    else:
        chosen = [
            _whole_groups(indices, copies[indices], m)
            for indices, m in zip(chosen, take.tolist(), strict=True)
        ]
    in_second = torch.zeros(len(labels), dtype=torch.bool)
    in_second[torch.cat(chosen)] = True
    return (~in_second).nonzero().flatten(), in_second.nonzero().flatten()


def _whole_groups(indices: Tensor, groups: Tensor, n: int) -> Tensor:
    """Return about n of the indices, in order, without dividing a group.

    At most n, unless every group is larger; then one group, if that doesn't leave too few.
    """
    members: dict[int, list[int]] = {}
    for i, group in zip(indices.tolist(), groups.tolist(), strict=True):
        members.setdefault(group, []).append(i)
    chosen: list[int] = []
    for group_members in members.values():
        if len(chosen) + len(group_members) <= n:
            chosen += group_members
    if n and not chosen and len(members) > 1:
        chosen = min(members.values(), key=len)
    return torch.tensor(chosen, dtype=torch.int64)


def counts_per_class(
    counts: Sequence[int] | Mapping[str, int], classes: Sequence[str]
) -> list[int]:
    """Return the counts in the order of the classes; raise ValueError if they don't fit them."""
    if hasattr(counts, "to_dict"):  # a Series, such as value_counts, isn't in the order of classes
        by_class: Any = counts.to_dict()
        by_number = set(by_class) == set(range(len(classes)))
        counts = [by_class[k] for k in range(len(classes))] if by_number else by_class
    if isinstance(counts, Mapping) and set(counts) == set(classes):
        counts = [counts[name] for name in classes]
    fit = holds(lambda: len(counts) == len(classes) and min(counts) >= 0)  # type: ignore[operator]
    if isinstance(counts, Mapping) or not fit:
        raise ValueError(
            f"counts must give one number, 0 or more, per class of {tuple(classes)}; got {counts}"
        )
    if any(n != int(n) for n in counts):
        raise ValueError(f"counts must be whole numbers, got {counts}")
    return [int(n) for n in counts]


def _check_set(dataset: Any, function: str, needed: str) -> None:
    """Raise TypeError for anything but a set of images that has the attribute that is needed."""
    if not all(hasattr(dataset, name) for name in ("labels", "classes", needed)):
        hint = "make one with cnnlab.data.ImageSet(images, labels, classes)"
        if hasattr(dataset, "train"):
            hint = "pass its training set, data.train"
        raise TypeError(f"{function} takes an ImageSet, got {type(dataset).__name__}: {hint}")


def _shuffled(labels: Tensor, label: int, seed: int) -> Tensor:
    """Return the indices of one class in random order."""
    indices = (labels == label).nonzero().flatten()
    return indices[torch.randperm(len(indices), generator=rng.generator(seed, label))]


def _counts(labels: Labels) -> Tensor:
    """Count the samples of each class, float64 (K,); raise ValueError if a class is empty."""
    numbers = as_labels(labels)
    present, counts = numbers.unique(return_counts=True)
    if len(present) and present[0] < 0:
        raise ValueError(
            f"labels must be integers from 0 on, got {int(present[0])}. Leave out the samples that "
            "have no label"
        )
    if not len(present) or present[-1] >= len(present):
        first = next(k for k in range(len(present) + 1) if k not in present)
        raise ValueError(
            f"the labels contain no sample of class {first}. All the labels 0 to K-1 must occur, "
            "because an empty class can't have a weight"
        )
    return counts.double()

"""How many images each class has: weights, samplers, splits, and imbalance made on purpose."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import Sampler

from cnnlab import rng
from cnnlab.data.images import ImageSet


Labels = Tensor | Sequence[int]


def class_weights(
    labels: Labels, scheme: Literal["balanced", "effective"] = "balanced", *, beta: float = 0.999
) -> Tensor:
    """Return one loss weight a class, larger for rare classes; the mean weight of the samples is 1.

    Args:
        labels: integers in 0 .. K-1, each of them present, (N,).
        scheme: "balanced" weighs a class by 1 / n; "effective" by (1 - beta) / (1 - beta ** n),
            which counts near copies in a large class less. Cui et al. 2019, equation 2,
            https://arxiv.org/abs/1901.05555. The paper makes the weights of the classes sum to K;
            ours keep the size of the loss, and with it the meaning of the learning rate.
        beta: of "effective", in [0, 1): 0 weighs all alike, towards 1 it becomes "balanced".

    Returns:
        float32 (K,).

    Raises:
        ValueError: a class in 0 .. K-1 has no sample, or the scheme is unknown.

    >>> class_weights([0, 0, 0, 1]).tolist()
    [0.6666666865348816, 2.0]
    """
    counts = _counts(labels)
    if scheme not in ("balanced", "effective") or not 0 <= beta < 1:
        raise ValueError(
            f"scheme={scheme!r}, beta={beta}: use 'balanced' or 'effective', beta in [0, 1)"
        )
    weights = 1 / counts if scheme == "balanced" else (1 - beta) / (1 - beta**counts)
    return (weights * counts.sum() / (weights * counts).sum()).float()


def logit_adjustment(labels: Labels, tau: float = 1.0) -> Tensor:
    """Return tau * log(share of each class), which corrects logits for classes that are rare in training.

    Subtract it from the logits of a trained model to judge all classes as if they were equally frequent, or
    add it to the logits inside the training loss, which then learns the correction. Menon et al. 2021,
    section 4, https://arxiv.org/abs/2007.07314.

    Args:
        labels: of the training part, integers in 0 .. K-1, each of them present, (N,).
        tau: strength; 0 changes nothing, 1 is exact for calibrated probabilities.

    Returns:
        float32 (K,), none of them positive for tau >= 0.

    Raises:
        ValueError: a class in 0 .. K-1 has no sample.

    >>> logits = torch.log(torch.tensor([[0.75, 0.25]]))
    >>> (logits - logit_adjustment([0, 0, 0, 1])).softmax(1)
    tensor([[0.5000, 0.5000]])
    """
    counts = _counts(labels)
    return (tau * (counts / counts.sum()).log()).float()


def balanced_sampler(labels: Labels, seed: int = 0) -> "BalancedSampler":
    """Return a sampler that draws every class equally often on average, with replacement.

    Args:
        labels: integers in 0 .. K-1, (N,).
        seed: with the epoch, chooses the draws.

    Raises:
        ValueError: a class in 0 .. K-1 has no sample.

    >>> sampler = balanced_sampler([0, 0, 0, 1])
    >>> len(sampler), len(sampler.order(epoch=7))
    (4, 4)
    """
    return BalancedSampler(labels, seed)


class BalancedSampler(Sampler[int]):
    """Draws N of N images an epoch with replacement, with weight 1 / (images of the class).

    In a torch `DataLoader` it counts its own epochs, one a finished pass; `loader` asks it for the
    epoch it needs. `weights` is (N,), one a sample: weights of classes would draw the first K
    images only.
    """

    def __init__(self, labels: Labels, seed: int = 0) -> None:
        self.seed, self.epoch = seed, 0
        self.weights = (1 / _counts(labels))[torch.as_tensor(labels)]

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next pass is; the `Trainer` does."""
        self.epoch = epoch

    def order(self, epoch: int) -> Tensor:
        """Return the indices drawn in that epoch, int64 (N,)."""
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
        dataset: left as it is.
        counts: one number a class, or class name -> number.
        seed: chooses the images; with one seed a smaller count lies inside a larger.

    Raises:
        ValueError: a class has fewer images than asked for, or the classes do not fit.

    >>> pixels = torch.zeros(6, 1, 2, 2, dtype=torch.uint8)
    >>> few = imbalance(ImageSet(pixels, [0, 0, 0, 1, 1, 1], ["cat", "dog"]), [3, 1])
    >>> few.labels.bincount().tolist()
    [3, 1]
    """
    wanted = per_class(counts, dataset.classes)
    have = torch.bincount(dataset.labels, minlength=len(wanted)).tolist()
    short = [c for c, n, m in zip(dataset.classes, wanted, have, strict=True) if n > m]
    if short:
        raise ValueError(
            f"counts={wanted} asks for more images than there are of {', '.join(short)}; "
            f"there are {dict(zip(dataset.classes, have, strict=True))}"
        )
    orders = [_shuffled(dataset.labels, k, seed)[:n] for k, n in enumerate(wanted)]
    return dataset.select(torch.cat(orders).sort().values)


def label_noise(dataset: ImageSet, rate: float, seed: int = 0) -> ImageSet:
    """Return the set with some labels wrong: round(rate * N) of them, changed to any other class.

    Args:
        dataset: left as it is; its labels stay in `.clean_labels` of the result.
        rate: share of wrong labels, in [0, 1].
        seed: chooses which, and what they become.

    Raises:
        ValueError: the rate is no share, or there is no other class.

    >>> pixels = torch.zeros(6, 1, 2, 2, dtype=torch.uint8)
    >>> noisy = label_noise(ImageSet(pixels, [0, 0, 0, 1, 1, 1], ["cat", "dog"]), rate=0.5)
    >>> int((noisy.labels != noisy.clean_labels).sum())
    3
    """
    n, n_classes = len(dataset), len(dataset.classes)
    if not 0 <= rate <= 1 or (rate > 0 and n_classes < 2):
        raise ValueError(
            f"rate={rate} with {n_classes} classes: use 0 to 1, and two classes or more"
        )
    generator = rng.generator(seed)
    wrong = torch.randperm(n, generator=generator)[: round(rate * n)]
    steps = torch.randint(1, max(2, n_classes), (n,), generator=generator)[: len(wrong)]
    labels = dataset.labels.clone()
    labels[wrong] = (labels[wrong] + steps) % n_classes  # 1 to K-1 classes further: never the same
    return ImageSet(dataset.images, labels, dataset.classes, clean_labels=dataset.clean_labels)


def split(labels: Tensor, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Split at random in two, each class in proportion; the first part keeps every class.

    Args:
        labels: (N,).
        n: size of the second part; smaller where the classes are too small for it.
        seed: chooses the images.

    Returns:
        The indices of the rest and of the n taken, both in ascending order.

    >>> [part.tolist() for part in split(torch.tensor([0, 0, 0, 0, 1, 1]), 3)]
    [[0, 3, 4], [1, 2, 5]]
    """
    counts = torch.bincount(labels)
    quota = n * counts.double() / max(1, len(labels))
    most = (counts - 1).clamp(min=0)
    take = quota.floor().long().minimum(most)
    for k in (take - quota).argsort(stable=True).tolist():  # the largest remainders first
        if take.sum() < n and take[k] < most[k]:
            take[k] += 1
    taken = [_shuffled(labels, k, seed)[:m] for k, m in enumerate(take.tolist())]
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[torch.cat(taken)] = True
    return (~chosen).nonzero().flatten(), chosen.nonzero().flatten()


def per_class(counts: Sequence[int] | Mapping[str, int], classes: Sequence[str]) -> list[int]:
    """Return the counts in the order of the classes; ValueError when they do not fit them."""
    if isinstance(counts, Mapping) and set(counts) == set(classes):
        counts = [counts[name] for name in classes]
    if isinstance(counts, Mapping) or len(counts) != len(classes) or min(counts) < 0:
        raise ValueError(
            f"counts={counts}: give one number, 0 or more, for each of {tuple(classes)}"
        )
    return [int(n) for n in counts]


def _shuffled(labels: Tensor, label: int, seed: int) -> Tensor:
    """The indices of one class in a random order."""
    indices = (labels == label).nonzero().flatten()
    return indices[torch.randperm(len(indices), generator=rng.generator(seed, label))]


def _counts(labels: Labels) -> Tensor:
    """How many samples each class has, float64 (K,), none of them zero."""
    counts = torch.bincount(torch.as_tensor(labels)).double()
    absent = (counts == 0).nonzero().flatten().tolist()
    if absent or not len(counts):
        raise ValueError(f"no sample of class {absent or 0}: a class without samples has no weight")
    return counts

"""Mixup and CutMix: train on blends of two images, with the blend of their labels as the target.

Every image gets another one of its batch as a partner: the batch, rolled by a random number of
places. So each image is a partner exactly once and none is its own, and nothing has to be gathered
in a new order. The batch must be shuffled, as training batches are: rolling a batch that is sorted
by class would mostly pair images of one class.

What is random is drawn first, on the CPU, and applied second, by the pure function `blend`.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from numbers import Real

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from cnnlab.augment.geometry import box_masks
from cnnlab.errors import DataError
from cnnlab.losses import soft_cross_entropy


__all__ = [
    "CutMix",
    "Either",
    "MixUp",
    "blend",
    "either",
    "sample_beta",
    "sample_boxes",
    "soft_cross_entropy",
    "soft_targets",
]

Batch = tuple[Tensor, Tensor]


class _Mixing:
    """What `MixUp` and `CutMix` share: the options, and the order of what happens."""

    def __init__(self, alpha: float, num_classes: int, *, per_sample: bool = True) -> None:
        if not 0 < alpha < math.inf:
            raise ValueError(
                f"alpha must be positive, got {alpha}; to mix nothing, leave this transform out"
            )
        if num_classes < 2:
            raise ValueError(f"num_classes counts the classes, at least 2; got {num_classes}")
        self.alpha, self.num_classes, self.per_sample = alpha, num_classes, per_sample

    def __call__(
        self, images: Tensor, targets: Tensor, generator: Generator | None = None
    ) -> Batch:
        """Return mixed images (N, C, H, W) and soft targets (N, K); the arguments are not changed.

        Args:
            images: float (N, C, H, W).
            targets: class numbers int64 (N,), or soft targets float (N, K).
            generator: of the CPU; torch's global one by default.

        Raises:
            DataError: the images are not float, or the targets do not fit.
        """
        soft = soft_targets(images, targets, self.num_classes)
        n, _, height, width = images.shape
        other = sample_beta(self.alpha, n if self.per_sample else 1, generator)  # 1 - λ, as λ is
        partner_weight = self._partner_weight(other, height, width, generator)
        shift = int(torch.randint(1, n, (), generator=generator)) if n > 1 else 0
        return blend(images, soft, partner_weight.to(images.device).expand(n, -1, -1, -1), shift)

    def _partner_weight(
        self, share: Tensor, height: int, width: int, generator: Generator | None
    ) -> Tensor:
        """Return the partner's share of each pixel, (n, 1, 1, 1) or (n, 1, H, W), from 1 - λ (n,)."""
        raise NotImplementedError


class MixUp(_Mixing):
    """Blend each image with its partner: λ of itself, 1 - λ of the other, with λ ~ Beta(α, α).

    Zhang et al. 2018, https://arxiv.org/abs/1710.09412. Their code draws one λ for a batch; one for
    each image averages over more of them at the same price.

    Args:
        alpha: α > 0; the larger, the closer λ to 1/2. 0.2 is usual on ImageNet, 1 on CIFAR.
        num_classes: K, the length of a soft target.
        per_sample: draw a λ for each image; False draws one for the batch.

    Raises:
        ValueError: alpha is not positive, or there are fewer than two classes.

    >>> images, targets = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 1])
    >>> mixed, soft = MixUp(alpha=1.0, num_classes=3)(images, targets)
    >>> mixed.shape, soft.shape
    (torch.Size([4, 3, 8, 8]), torch.Size([4, 3]))
    """

    def _partner_weight(
        self, share: Tensor, height: int, width: int, generator: Generator | None
    ) -> Tensor:
        return share[:, None, None, None]


class CutMix(_Mixing):
    """Paste a rectangle of its partner into each image; the labels mix as the areas do.

    The rectangle has the shape of the image, the area 1 - λ with λ ~ Beta(α, α), and its centre
    anywhere. What sticks out is cut off, and λ is computed again from the pixels that were really
    replaced. Yun et al. 2019, https://arxiv.org/abs/1905.04899, there with one box for a batch.

    Args:
        alpha: α > 0; the paper takes 1, which makes every area equally likely.
        num_classes: K, the length of a soft target.
        per_sample: draw a rectangle for each image; False draws one for the batch.

    Raises:
        ValueError: alpha is not positive, or there are fewer than two classes.

    >>> images, targets = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 1])
    >>> mixed, soft = CutMix(alpha=1.0, num_classes=3)(images, targets)
    >>> torch.allclose(soft.sum(dim=1), torch.ones(4))
    True
    """

    def _partner_weight(
        self, share: Tensor, height: int, width: int, generator: Generator | None
    ) -> Tensor:
        return box_masks(sample_boxes(share, height, width, generator), height, width)


def either(*transforms: Callable[..., Batch], p: Sequence[float] | None = None) -> "Either":
    """Return a transform that applies one of several to each batch, drawn anew every time.

    Where the probabilities sum to less than 1, the rest of the batches stays as it is. Their class
    numbers still become one-hot rows if one of the transforms mixes labels, so that the loss and
    the log meet one form of targets in the whole run.

    Args:
        transforms: (images, targets, generator=None) -> (images, targets), as `MixUp` and `CutMix`.
        p: the probability of each; equal by default.

    Raises:
        ValueError: there is no transform, p does not fit, or the transforms count other classes.
        TypeError: p is a single number.

    >>> mix = either(MixUp(0.2, num_classes=3), CutMix(1.0, num_classes=3), p=(0.25, 0.25))
    >>> mix(torch.rand(2, 3, 8, 8), torch.tensor([0, 1]))[1].shape
    torch.Size([2, 3])
    """
    if isinstance(p, Real):
        raise TypeError(f"p holds a probability for each transform, as in p=({p},); got {p}")
    chances = [1 / len(transforms) for _ in transforms] if p is None else list(p)
    if not transforms or len(chances) != len(transforms):
        raise ValueError(
            f"either(a, b, p=(0.5, 0.5)) takes a probability for each transform; got "
            f"{len(transforms)} transforms and p={p}"
        )
    if min(chances) < 0 or sum(chances) > 1 + 1e-9:
        raise ValueError(f"p holds probabilities that sum to at most 1, got {p}")
    counts = {t.num_classes for t in transforms if hasattr(t, "num_classes")}
    if len(counts) > 1:
        raise ValueError(f"the transforms disagree about num_classes: {sorted(counts)}; use one")
    return Either(transforms, chances, *counts)


@dataclass(frozen=True)
class Either:
    """What `either` returns: `transforms`, the chance of each, and K if one of them mixes labels.

    >>> either(MixUp(0.2, num_classes=3)).num_classes
    3
    """

    transforms: Sequence[Callable[..., Batch]]
    chances: Sequence[float]
    num_classes: int | None = None

    def __call__(
        self, images: Tensor, targets: Tensor, generator: Generator | None = None
    ) -> Batch:
        """Apply the transform that is drawn, if any, to images (N, C, H, W) and their targets."""
        point = torch.rand((), generator=generator, dtype=torch.float64).item()
        index = bisect_right(list(accumulate(self.chances)), point)
        if index < len(self.transforms):
            own = () if generator is None else (generator,)
            return self.transforms[index](images, targets, *own)
        if self.num_classes is None:
            return images, targets
        return images, soft_targets(images, targets, self.num_classes)


# What is drawn.


def sample_beta(alpha: float, n: int, generator: Generator | None = None) -> Tensor:
    """Draw n numbers from Beta(α, α), float32 (n,), by a formula that holds for every α > 0.

    With U, V uniform and w = U^(1/α), T = cos(2πV) √((1 - w) / w) is a Student t variable with 2α
    degrees of freedom, over √2α (Bailey 1994, https://doi.org/10.2307/2153537), and then
    (1 + T / √(1 + T²)) / 2 is Beta(α, α). Here z = T √w, because w may be 0.

    >>> bool((sample_beta(0.2, 1000).mean() - 0.5).abs() < 0.1)
    True
    """
    u, v = torch.rand(2, n, dtype=torch.float64, generator=generator)
    w = u ** (1 / alpha)
    z = torch.cos(2 * math.pi * v) * torch.sqrt(1 - w)
    return ((1 + z / torch.sqrt(w + z * z)) / 2).float()


def sample_boxes(
    share: Tensor, height: int, width: int, generator: Generator | None = None
) -> Tensor:
    """Draw rectangles that cover a share of an image each, and clip them to the image.

    Args:
        share: of the area, before clipping, (n,).
        height: H in pixels.
        width: W in pixels.
        generator: of the CPU; torch's global one by default.

    Returns:
        int64 (n, 4): top, left, bottom, right in pixels; the last two are outside.

    >>> sample_boxes(torch.ones(1), 8, 8).shape
    torch.Size([1, 4])
    """
    size = torch.tensor([height, width])
    centre = (torch.rand(len(share), 2, generator=generator) * size).long()
    half = (0.5 * share.sqrt()[:, None] * size).long()
    low, high = (centre - half).clamp(min=0), torch.minimum(centre + half, size)
    return torch.cat([low, high], dim=1)


# How it is applied.


def blend(images: Tensor, soft: Tensor, partner_weight: Tensor, shift: int) -> Batch:
    """Mix image i with image i - shift, counted round the batch, and their targets alike.

    A target takes the mean of what the pixels of its image take, so the two cannot disagree.

    Args:
        images: float (N, C, H, W).
        soft: targets (N, K).
        partner_weight: the partner's share of each pixel, 0 .. 1; (N, 1, 1, 1) or (N, 1, H, W).
        shift: by how many places the batch is rolled, 0 .. N - 1.

    >>> images = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
    >>> blend(images, torch.eye(2), torch.tensor([0.25, 0.5]).view(2, 1, 1, 1), 1)[1]
    tensor([[0.7500, 0.2500],
            [0.5000, 0.5000]])
    """
    mixed, n = torch.empty_like(images), len(images)
    weight = partner_weight.to(images.dtype)
    halves = [(slice(shift, n), slice(n - shift)), (slice(shift), slice(n - shift, n))]
    for here, there in halves:  # views of the rolled batch: no copy of the partners is made
        torch.lerp(images[here], images[there], weight[here], out=mixed[here])
    share = partner_weight.mean(dim=(1, 2, 3)).to(soft)[:, None]
    return mixed, torch.lerp(soft, soft.roll(shift, dims=0), share)


def soft_targets(images: Tensor, targets: Tensor, num_classes: int) -> Tensor:
    """Return float targets (N, K): one-hot rows for class numbers (N,), soft targets as they are.

    Raises:
        DataError: the images are not float (N, C, H, W), or the targets do not fit them or K.

    >>> soft_targets(torch.rand(2, 1, 4, 4), torch.tensor([0, 1]), num_classes=2)
    tensor([[1., 0.],
            [0., 1.]])
    """
    if images.ndim != 4 or not images.is_floating_point():
        raise DataError(
            f"mixing needs float images (N, C, H, W), got {images.dtype} of shape "
            f"{tuple(images.shape)}; from uint8 pixels: images.float() / 255"
        )
    if targets.shape == (len(images), num_classes) and targets.is_floating_point():
        return targets
    if targets.shape != (len(images),) or targets.dtype != torch.int64:
        raise DataError(
            f"targets are {targets.dtype} of shape {tuple(targets.shape)}; they must be int64 "
            f"({len(images)},) class numbers or float ({len(images)}, {num_classes}) class weights"
        )
    if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < num_classes:
        raise DataError(
            f"labels run from {int(targets.min())} to {int(targets.max())}, but with "
            f"num_classes={num_classes} they are 0 to {num_classes - 1}: use len(data.classes)"
        )
    return F.one_hot(targets, num_classes).float()

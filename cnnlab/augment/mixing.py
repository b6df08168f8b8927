"""Mixup and CutMix: train on blends of two images, with the blend of their labels as the target.

The partner of each image is another image of its batch: the batch is rolled by a random number of
positions. So every image is the partner of exactly one other image and never of itself, and no
permuted copy of the batch is needed. The batch must be shuffled, as training batches are; rolling a
batch that is sorted by class would mostly pair images of the same class.

Random values are drawn first, on the CPU, and then applied by `blend`, which is a pure function.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from itertools import accumulate
from numbers import Real
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from cnnlab.augment.core import Augment
from cnnlab.augment.geometry import box_masks
from cnnlab.devices import to_device
from cnnlab.errors import DataError, holds
from cnnlab.losses import soft_cross_entropy, total_weight


__all__ = [
    "CutMix",
    "Either",
    "MixUp",
    "blend",
    "box_masks",
    "either",
    "sample_beta",
    "sample_boxes",
    "soft_cross_entropy",
    "soft_targets",
    "total_weight",
]

Batch = tuple[Tensor, Tensor]


class _Mixing:
    """The common part of `MixUp` and `CutMix`: the options and the order of the steps."""

    def __init__(self, alpha: float, num_classes: int, *, per_sample: bool = True) -> None:
        if not holds(lambda: 0 < alpha < math.inf):
            raise ValueError(
                f"alpha must be positive and finite, got {alpha!r}; to train without mixing, leave "
                "this transform out"
            )
        if not holds(lambda: num_classes >= 2 and num_classes % 1 == 0):
            raise ValueError(
                f"num_classes must be a whole number of at least 2, got {num_classes!r}"
            )
        self.alpha, self.num_classes, self.per_sample = alpha, int(num_classes), per_sample

    def __call__(
        self, images: Tensor, targets: Tensor, generator: Generator | None = None
    ) -> Batch:
        """Return mixed images (N, C, H, W) and soft targets (N, K); the inputs are not changed.

        Args:
            images: float (N, C, H, W).
            targets: class indices int64 (N,), or soft targets float (N, K).
            generator: a CPU generator; by default torch's global one.

        Raises:
            DataError: the images are not float, or the targets don't match the images.
        """
        soft = soft_targets(images, targets, self.num_classes)
        n = len(images)
        # Beta(α, α) is symmetric: 1 - λ has the same distribution as λ and can be drawn directly.
        fraction = sample_beta(self.alpha, n if self.per_sample else 1, generator)
        partner_weight = self._partner_weight(fraction, images, generator)
        shift = int(torch.randint(1, n, (), generator=generator)) if n > 1 else 0
        return blend(images, soft, partner_weight.expand(n, -1, -1, -1), shift)

    def _partner_weight(
        self, fraction: Tensor, images: Tensor, generator: Generator | None
    ) -> Tensor:
        """Return the partner's weight in each pixel, (n, 1, 1, 1) or (n, 1, H, W), on the device.

        Args:
            fraction: 1 - λ, the fraction that the partner contributes, (n,), on the CPU.
            images: (N, C, H, W), on the device.
            generator: a CPU generator; None for torch's global one.
        """
        raise NotImplementedError


class MixUp(_Mixing):
    """Blend each image with a partner, λ · image + (1 - λ) · partner, with λ ~ Beta(α, α).

    Zhang et al. 2018, https://arxiv.org/abs/1710.09412. Their code draws one λ per batch; one per
    image averages over more values of λ at the same cost.

    Args:
        alpha: α > 0; a larger α draws λ closer to 1/2. 0.2 is common on ImageNet, 1 on CIFAR.
        num_classes: K, the length of a soft target.
        per_sample: draw one λ per image; False draws one λ per batch.

    Raises:
        ValueError: alpha is not positive, or there are fewer than two classes.

    >>> images, targets = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 1])
    >>> mixed, soft = MixUp(alpha=1.0, num_classes=3)(images, targets)
    >>> mixed.shape, soft.shape
    (torch.Size([4, 3, 8, 8]), torch.Size([4, 3]))
    """

    def _partner_weight(
        self, fraction: Tensor, images: Tensor, generator: Generator | None
    ) -> Tensor:
        return to_device(fraction, images.device)[:, None, None, None]


class CutMix(_Mixing):
    """Paste a rectangle of a partner into each image, and mix the labels in proportion to area.

    The rectangle has the aspect ratio of the image and covers a fraction 1 - λ of its area, with
    λ ~ Beta(α, α) and a uniformly random centre. It is clipped to the image, and λ is computed
    again from the pixels that were actually replaced. Yun et al. 2019,
    https://arxiv.org/abs/1905.04899, draw one box per batch.

    Args:
        alpha: α > 0; the paper uses 1, which makes every area equally likely.
        num_classes: K, the length of a soft target.
        per_sample: draw one rectangle per image; False draws one per batch.

    Raises:
        ValueError: alpha is not positive, or there are fewer than two classes.

    >>> images, targets = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 1])
    >>> mixed, soft = CutMix(alpha=1.0, num_classes=3)(images, targets)
    >>> torch.allclose(soft.sum(dim=1), torch.ones(4))
    True
    """

    def _partner_weight(
        self, fraction: Tensor, images: Tensor, generator: Generator | None
    ) -> Tensor:
        height, width = images.shape[2:]
        boxes = sample_boxes(fraction, height, width, generator)
        return box_masks(to_device(boxes, images.device), height, width)


def either(
    *transforms: Augment | Callable[..., Batch], p: Sequence[float] | None = None
) -> "Either":
    """Return a transform that applies one of several transforms to each batch, chosen at random.

    If the probabilities sum to less than 1, the remaining batches are left unchanged. Their class
    indices still become one-hot targets if one of the transforms mixes labels, so that the loss and
    the log get the same kind of targets during the whole run.

    Args:
        transforms: (images, targets, generator=None) -> (images, targets), such as `MixUp`, or an
            `Augment`, which leaves the targets unchanged.
        p: the probability of each transform; by default all are equally likely.

    Raises:
        ValueError: there is no transform, p doesn't match the transforms, or they disagree about
            num_classes.
        TypeError: p is a single number, or a transform doesn't take images and targets.

    >>> mix = either(MixUp(0.2, num_classes=3), CutMix(1.0, num_classes=3), p=(0.25, 0.25))
    >>> mix(torch.rand(2, 3, 8, 8), torch.tensor([0, 1]))[1].shape
    torch.Size([2, 3])
    """
    if isinstance(p, Real):
        raise TypeError(f"p must list one probability per transform, as in p=({p},); got {p}")
    chances = [1 / len(transforms) for _ in transforms] if p is None else list(p)
    if not transforms or len(chances) != len(transforms):
        raise ValueError(
            f"either needs at least one transform and one probability for each, as in "
            f"either(a, b, p=(0.5, 0.5)); got {len(transforms)} transforms and p={p}"
        )
    if not holds(lambda: all(chance >= 0 for chance in chances) and sum(chances) <= 1 + 1e-9):
        raise ValueError(f"p must hold probabilities that sum to at most 1, got {p!r}")
    for transform in transforms:
        if not callable(transform):
            raise TypeError(
                "either takes functions (images, targets) -> (images, targets) and Augments, got "
                f"{transform!r:.60}"
            )
        if not isinstance(transform, Augment):
            check_takes_batch(transform, "either", generator=True)
    counts = {t.num_classes for t in transforms if hasattr(t, "num_classes")}
    if len(counts) > 1:
        raise ValueError(
            f"the transforms have different num_classes, {sorted(counts)}; use the same for all"
        )
    return Either(transforms, chances, *counts)


@dataclass(frozen=True)
class Either:
    """Apply one of several transforms to each batch; `either` builds it.

    Attributes:
        transforms: (images, targets, generator=None) -> (images, targets), or an `Augment`.
        chances: the probability of each transform.
        num_classes: K, if one of the transforms mixes labels.

    >>> either(MixUp(0.2, num_classes=3)).num_classes
    3
    """

    transforms: Sequence[Augment | Callable[..., Batch]]
    chances: Sequence[float]
    num_classes: int | None = None

    def __call__(
        self, images: Tensor, targets: Tensor, generator: Generator | None = None
    ) -> Batch:
        """Choose a transform, or none, and apply it to images (N, C, H, W) and their targets."""
        point = torch.rand((), generator=generator, dtype=torch.float64).item()
        index = bisect_right(list(accumulate(self.chances)), point)
        transform = self.transforms[index] if index < len(self.transforms) else None
        if isinstance(transform, Augment):
            images = transform(images, generator)
        elif transform is not None:
            rest = () if generator is None else (generator,)  # a plain function takes no generator
            return transform(images, targets, *rest)
        if self.num_classes is None:
            return images, targets
        return images, soft_targets(images, targets, self.num_classes)

    def set_step(self, step: int) -> None:
        """Set the step of every `Augment` inside; the `Trainer` calls this."""
        for transform in self.transforms:
            if isinstance(transform, Augment):
                transform.step = step
            elif isinstance(transform, Either):
                transform.set_step(step)


def check_takes_batch(transform: Any, caller: str, generator: bool = False) -> None:
    """Refuse a transform that can't be called with images and targets.

    Args:
        transform: a function or a module.
        caller: what calls it, for the message.
        generator: whether it may need a generator as well.

    Raises:
        TypeError: it takes other arguments, for example the images alone.
    """
    call = transform.forward if isinstance(transform, nn.Module) else transform
    failure = None
    for arguments in [("images", "targets"), ("images", "targets", "generator")][: 1 + generator]:
        try:
            signature(call).bind(*arguments)
        except ValueError:
            return  # a function written in C has no signature
        except TypeError as error:
            failure = failure or error
        else:
            return
    name = getattr(transform, "__name__", type(transform).__name__)
    raise TypeError(
        f"{caller} calls {name} with images and targets, but it doesn't take these two "
        f"({failure}); for the images alone: lambda images, targets: (f(images), targets)"
    )


# Drawing random values.


def sample_beta(alpha: float, n: int, generator: Generator | None = None) -> Tensor:
    """Draw n values from Beta(α, α), float32 (n,), with a formula that works for every α > 0.

    For uniform U and V and w = U^(1/α), the variable T = cos(2πV) √((1 - w) / w) has a Student t
    distribution with 2α degrees of freedom, divided by √(2α) (Bailey 1994,
    https://doi.org/10.2307/2153537). Then (1 + T / √(1 + T²)) / 2 has the distribution Beta(α, α).
    The code uses z = T √w, because w may be 0.

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
    """Draw rectangles at random positions and clip them to the image.

    Args:
        share: the fraction of the image's area that each covers before clipping, (n,).
        height: H in pixels.
        width: W in pixels.
        generator: a CPU generator; by default torch's global one.

    Returns:
        int64 (n, 4): top, left, bottom, right in pixels; bottom and right are exclusive.

    >>> sample_boxes(torch.ones(1), 8, 8).shape
    torch.Size([1, 4])
    """
    size = torch.tensor([height, width])
    centre = (torch.rand(len(share), 2, generator=generator) * size).long()
    half = (0.5 * share.sqrt()[:, None] * size).long()
    low, high = (centre - half).clamp(min=0), torch.minimum(centre + half, size)
    return torch.cat([low, high], dim=1)


# Applying them.


def blend(images: Tensor, soft: Tensor, partner_weight: Tensor, shift: int) -> Batch:
    """Mix image i with image (i - shift) mod N, and their targets with the same weights.

    The weight of the partner's target is the mean of its pixel weights, so images and targets
    always agree.

    Args:
        images: float (N, C, H, W).
        soft: soft targets (N, K).
        partner_weight: the partner's weight in each pixel, in [0, 1]; (N, 1, 1, 1) or (N, 1, H, W).
        shift: by how many positions the batch is rolled, 0 to N - 1.

    >>> images = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
    >>> blend(images, torch.eye(2), torch.tensor([0.25, 0.5]).view(2, 1, 1, 1), 1)[1]
    tensor([[0.7500, 0.2500],
            [0.5000, 0.5000]])
    """
    mixed, n = torch.empty_like(images), len(images)
    weight = partner_weight.to(images.dtype)
    halves = [(slice(shift, n), slice(n - shift)), (slice(shift), slice(n - shift, n))]
    # The two halves of the rolled batch are views, so the partners are not copied.
    for rows, partners in halves:
        torch.lerp(images[rows], images[partners], weight[rows], out=mixed[rows])
    target_weight = partner_weight.mean(dim=(1, 2, 3)).to(soft)[:, None]
    return mixed, torch.lerp(soft, soft.roll(shift, dims=0), target_weight)


def soft_targets(images: Tensor, targets: Tensor, num_classes: int) -> Tensor:
    """Return float targets (N, K): one-hot targets for class indices, soft targets unchanged.

    Args:
        images: float (N, C, H, W).
        targets: class indices int64 (N,), or soft targets float (N, K).
        num_classes: K.

    Raises:
        DataError: the images are not float (N, C, H, W), or the targets don't match them or K.

    >>> soft_targets(torch.rand(2, 1, 4, 4), torch.tensor([0, 1]), num_classes=2)
    tensor([[1., 0.],
            [0., 1.]])
    """
    if images.ndim != 4 or not images.is_floating_point():
        raise DataError(
            f"mixing needs float images (N, C, H, W), got {images.dtype} of shape "
            f"{tuple(images.shape)}; convert uint8 pixels with images.float() / 255"
        )
    if targets.shape == (len(images), num_classes) and targets.is_floating_point():
        return targets
    if targets.shape != (len(images),) or targets.dtype != torch.int64:
        raise DataError(
            f"got targets of type {targets.dtype} and shape {tuple(targets.shape)}; they must be "
            f"class indices, int64 ({len(images)},), or soft targets, float ({len(images)}, "
            f"{num_classes})"
        )
    if targets.is_cuda:  # reading the labels would mean to wait; NaN becomes the loss instead
        one_hot = targets[:, None] == torch.arange(num_classes, device=targets.device)
        return torch.where(one_hot.any(1, keepdim=True), one_hot.float(), math.nan)
    if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < num_classes:
        raise DataError(
            f"got labels from {int(targets.min())} to {int(targets.max())}, but num_classes="
            f"{num_classes} allows only 0 to {num_classes - 1}; set num_classes=len(data.classes), "
            "and leave out samples without a label, which have no target to mix"
        )
    return F.one_hot(targets, num_classes).float()


inside = box_masks  # the name of the first edition, kept for one version

"""The course's small residual network, the normalisation of its input, and pretrained networks."""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from operator import index
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from cnnlab.errors import holds
from cnnlab.models.classification import top_classes
from cnnlab.models.initial import initialise


if TYPE_CHECKING:
    import pandas as pd

Norm = Literal["batch", "layer", "none"]

_NORMS = ("batch", "layer", "none")


class Normalize(nn.Module):
    """Normalise each channel: (pixel - mean) / std.

    Args:
        mean: one value per channel, in the units of the pixels, or one for all channels.
        std: likewise; positive.

    Raises:
        ValueError: std isn't positive.

    >>> Normalize(0.5, 0.25)(torch.ones(1, 3, 2, 2)).unique().item()
    2.0
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, mean: float | Sequence[float] | Tensor, std: float | Sequence[float] | Tensor
    ) -> None:
        super().__init__()
        mean, std = torch.as_tensor(mean).float(), torch.as_tensor(std).float()
        if not (std > 0).all():
            raise ValueError(f"std must be positive, got {std.tolist()}")
        self.register_buffer("mean", mean.reshape(-1, 1, 1))
        self.register_buffer("std", std.reshape(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return the normalised images, in the same shape."""
        return (images - self.mean).div_(self.std)

    def extra_repr(self) -> str:
        """Show mean and std when the module is printed."""
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"


class Backbone(nn.Module):
    """A network from elsewhere preceded by the normalisation it was trained with.

    It takes pixels in [0, 1], like every model of the course.

    Attributes:
        normalize: the normalisation.
        net: the network itself.
        size: side in pixels of the images it was trained on; `DataBundle.transform` resizes a data
            set to it. Set a smaller one to save time.
        classes: the names of the classes of its original head; empty once the head was replaced.
    """

    def __init__(
        self, net: nn.Module, normalize: Normalize, size: int, classes: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.normalize, self.net, self.size, self.classes = normalize, net, size, tuple(classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits: (N, 3, H, W) -> (N, K)."""
        return self.net(self.normalize(images))

    def classify(self, images: Any, top: int = 3) -> "pd.DataFrame":
        """Return the most probable classes of each image, with their probabilities.

        It needs the head that the network was pretrained with: `pretrained(name, None)` keeps it.
        An ImageNet network can only predict its 1,000 classes: there is no class for "something
        else".

        Args:
            images: (N, C, H, W) or (C, H, W), float in [0, 1], which keep their size; or an image
                of PIL, the path of an image file, or a list of those, each of which is cropped to a
                square of `size` pixels.
            top: number of classes per image.

        Returns:
            One row per image, named after its file. The columns are `class` and `probability`
            (rounded to three digits) of the most probable class, `class 2` and `probability 2` of
            the next one, and so on.

        Raises:
            ValueError: the head was replaced, or `top` is out of range.
            DataError: the images have another shape or another range of values, or a file isn't an
                image.
            NonFiniteError: a logit is NaN or infinite.
            TypeError: `images` is something else.

        >>> from cnnlab.models import pretrained
        >>> from PIL import Image
        >>> from sklearn.datasets import load_sample_image
        >>> flower = Image.fromarray(load_sample_image("flower.jpg"))
        >>> pretrained("efficientnet_lite0", None).classify(flower)["class"].tolist()
        ['daisy']
        """
        if not self.classes:
            raise ValueError(
                "the model has no class names, because its head is new; classify needs the "
                'original head, as in pretrained("efficientnet_lite0", None)'
            )
        return top_classes(self, images, self.classes, size=self.size, top=top)


class Block(nn.Module):
    """Two 3 x 3 convolutions with a shortcut around them; the first halves the side of the image.

    He et al. 2016, figure 2, with a projection shortcut, https://arxiv.org/abs/1512.03385.
    """

    def __init__(self, channels: int, width: int, norm: Norm) -> None:
        super().__init__()
        # Normalisation subtracts the mean, so a bias in front of it would have no effect.
        bias = norm == "none"
        self.conv1 = nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=bias)
        self.norm1 = _norm(norm, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=bias)
        self.norm2 = _norm(norm, width)
        self.shortcut = nn.Sequential(
            nn.Conv2d(channels, width, 1, stride=2, bias=bias), _norm(norm, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, width, H/2, W/2)."""
        out = self.norm1(self.conv1(x)).relu()
        out = self.norm2(self.conv2(out))
        return (out + self.shortcut(x)).relu()


class SmallResNet(nn.Module):
    """The course's network: stem, residual blocks, global average pooling, linear layer.

    Attributes:
        size: side in pixels of the images it was pretrained on, for `DataBundle.transform`; None if
            it wasn't.
    """

    size: int | None = None

    def __init__(
        self, num_classes: int, in_channels: int, width: int, depth: int, norm: Norm, dropout: float
    ) -> None:
        super().__init__()
        # Roughly the mean and standard deviation of the pixels in photographs.
        self.normalize = Normalize(0.45, 0.25)
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, stride=2, padding=1, bias=norm == "none"),
            _norm(norm, width),
            nn.ReLU(),
        )
        widths = [width * 2**i for i in range(depth + 1)]
        self.blocks = nn.Sequential(*(Block(a, b, norm) for a, b in pairwise(widths)))
        self.head = build_head(nn.Linear(widths[-1], num_classes), dropout)

    def features(self, images: Tensor) -> Tensor:
        """Return the features in front of the head: (N, C, H, W) -> (N, width * 2**depth)."""
        return self.blocks(self.stem(self.normalize(images))).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits: (N, C, H, W) -> (N, K)."""
        return self.head(self.features(images))


def small_resnet(
    num_classes: int,
    in_channels: int = 3,
    width: int = 16,
    depth: int = 2,
    norm: Norm = "batch",
    dropout: float = 0.0,
) -> SmallResNet:
    """Build the course's small residual network, with He initialisation.

    With the default options it has about 73 thousand parameters and trains on about two thousand
    images per second on one CPU core. The stem and each block halve the side of the image, so a
    32 x 32 image becomes a 4 x 4 feature map.

    Args:
        num_classes: K, the number of logits.
        in_channels: C of the images, which are (N, C, H, W) with pixels in [0, 1].
        width: number of channels after the stem; each block doubles it.
        depth: number of residual blocks.
        norm: `"batch"`, `"layer"` (over the channels and pixels of one sample) or `"none"`.
        dropout: fraction of the features that is set to zero in front of the linear layer.

    Returns:
        A module that maps images (N, C, H, W) to logits (N, K).

    Raises:
        ValueError: an argument is out of range.

    He et al. 2016, https://arxiv.org/abs/1512.03385.

    >>> small_resnet(12)(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 12])
    """
    numbers = (num_classes, in_channels, width)
    if not holds(lambda: min(map(index, numbers)) >= 1 and index(depth) >= 0):
        raise ValueError(
            "num_classes, in_channels and width must be whole numbers of at least 1, and depth of "
            f"at least 0; got num_classes={num_classes!r}, in_channels={in_channels!r}, "
            f"width={width!r}, depth={depth!r}"
        )
    if norm not in _NORMS:
        raise ValueError(f"norm must be one of {', '.join(map(repr, _NORMS))}; got {norm!r}")
    check_dropout(dropout)
    return initialise(SmallResNet(num_classes, in_channels, width, depth, norm, dropout))


def build_head(linear: nn.Linear, dropout: float) -> nn.Sequential:
    """Return the head of a `SmallResNet`: dropout, then a linear layer."""
    return nn.Sequential(OrderedDict(dropout=nn.Dropout(dropout), linear=linear))


def check_dropout(dropout: float) -> None:
    """Refuse a dropout probability outside [0, 1)."""
    if not holds(lambda: 0 <= dropout < 1):
        raise ValueError(f"dropout must be at least 0 and below 1, got {dropout!r}")


def _norm(kind: Norm, channels: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    # One group means statistics over the channels and pixels of each sample: layer normalisation
    # (Ba et al. 2016, https://arxiv.org/abs/1607.06450).
    return nn.GroupNorm(1, channels) if kind == "layer" else nn.Identity()

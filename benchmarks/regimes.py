"""The networks and data that the trainers train: three regimes, the same in every run."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab import rng


CLASSES = 10


@dataclass(frozen=True)
class Regime:
    """A network and its data.

    Attributes:
        name: the title of its table.
        network: builds the network.
        shape: the shape of an image, (C, H, W).
        batch_size: images per batch.
        steps: batches per epoch.
        epochs: the number of epochs that are timed.
        goal: the largest acceptable ratio of cnnlab's time to that of a loop by hand.
        with_metrics: whether that loop computes the loss and the accuracy, or nothing.
    """

    name: str
    network: Callable[[], nn.Module]
    shape: tuple[int, int, int]
    batch_size: int
    steps: int
    epochs: int
    goal: float
    with_metrics: bool = False

    def net(self) -> nn.Module:
        """Build the network, with the same initial weights in every call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.network()

    def data(self) -> "MemoryLoader":
        """Return the batches, the same ones in every call."""
        generator = torch.Generator().manual_seed(1)
        n = self.batch_size * self.steps
        images = torch.randn(n, *self.shape, generator=generator)
        labels = torch.randint(CLASSES, (n,), generator=generator)
        return MemoryLoader(images, labels, self.batch_size)


class MemoryLoader:
    """Index two tensors in memory to make batches, in a new order for each epoch.

    The orders are the same as those of `cnnlab.loader`.
    """

    def __init__(self, images: Tensor, labels: Tensor, batch_size: int) -> None:
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.images) // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        batches = self.indices(self.epoch)
        self.epoch += 1
        for indices in batches:
            yield self.images[indices], self.labels[indices]

    def to(self, device: torch.device | str) -> "MemoryLoader":
        """Return a loader of the same batches whose tensors are on a device."""
        return MemoryLoader(self.images.to(device), self.labels.to(device), self.batch_size)

    def indices(self, epoch: int) -> tuple[Tensor, ...]:
        """Return the image indices of each batch of an epoch."""
        order = torch.randperm(len(self.images), generator=rng.generator(0, epoch))
        return order.split(self.batch_size)


def tiny() -> nn.Module:
    """Build a network of 90 weights, so that nearly all the time of a step is the framework's."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, CLASSES),
    )


def small() -> nn.Module:
    """Build a network of 19 thousand weights in three convolutions."""
    stages = [
        *convolution(1, 16),
        nn.MaxPool2d(2),
        *convolution(16, 32),
        nn.MaxPool2d(2),
        *convolution(32, 48),
    ]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, CLASSES))


def resnet() -> nn.Module:
    """Build a network of 175 thousand weights in six residual blocks."""
    sizes = [(16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)]
    blocks = [Residual(*size) for size in sizes]
    return nn.Sequential(
        *convolution(3, 16), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES)
    )


def convolution(channels: int, width: int, stride: int = 1) -> list[nn.Module]:
    """Return the layers of a 3 × 3 convolution with batch norm and ReLU."""
    return [nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]


class Residual(nn.Module):
    """Two convolutions and a shortcut around them."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *convolution(channels, width, stride), *convolution(width, width)[:2]
        )
        self.shortcut = nn.Sequential()
        if channels != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, width, H / stride, W / stride)."""
        return F.relu(self.body(x) + self.shortcut(x))


REGIMES = {
    "Z": Regime(
        name="90 weights, 8 px, batches of 16",
        network=tiny,
        shape=(1, 8, 8),
        batch_size=16,
        steps=50,
        epochs=61,
        goal=1.15,
        with_metrics=True,
    ),
    "T16": Regime(
        name="19 thousand weights, 16 px, batches of 64",
        network=small,
        shape=(1, 16, 16),
        batch_size=64,
        steps=25,
        epochs=21,
        goal=1.02,
    ),
    "R": Regime(
        name="175 thousand weights, 32 px, batches of 128",
        network=resnet,
        shape=(3, 32, 32),
        batch_size=128,
        steps=4,
        epochs=9,
        goal=1.02,
    ),
}
SHORT = replace(REGIMES["Z"], steps=10)

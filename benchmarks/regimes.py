"""What the trainers train: three networks with their data, always the same."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab import rng


CLASSES = 10


@dataclass(frozen=True)
class Regime:
    """A network and its data. `epochs` are timed, `goal` is for cnnlab's ratio."""

    name: str
    network: Callable[[], nn.Module]
    shape: tuple[int, int, int]
    batch_size: int
    steps: int
    epochs: int
    goal: float

    def net(self) -> nn.Module:
        """Return the network, always with the same weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.network()

    def data(self) -> "Memory":
        """Return the batches, always the same ones."""
        draw = torch.Generator().manual_seed(1)
        n = self.batch_size * self.steps
        images = torch.randn(n, *self.shape, generator=draw)
        return Memory(images, torch.randint(CLASSES, (n,), generator=draw), self.batch_size)


class Memory:
    """Batches by indexing two tensors, in a new order for each pass; the same orders as those of `cnnlab.loader`."""

    def __init__(self, images: Tensor, labels: Tensor, batch_size: int) -> None:
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.images) // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        indices = self.indices(self.epoch)
        self.epoch += 1
        for chosen in indices:
            yield self.images[chosen], self.labels[chosen]

    def indices(self, epoch: int) -> tuple[Tensor, ...]:
        """Return which images each batch of an epoch takes."""
        order = torch.randperm(len(self.images), generator=rng.generator(0, epoch))
        return order.split(self.batch_size)


def tiny() -> nn.Module:
    """90 weights: almost all of a step is the framework."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, CLASSES),
    )


def small() -> nn.Module:
    """19 thousand weights in three convolutions."""
    stages = [
        *convolution(1, 16),
        nn.MaxPool2d(2),
        *convolution(16, 32),
        nn.MaxPool2d(2),
        *convolution(32, 48),
    ]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, CLASSES))


def resnet() -> nn.Module:
    """175 thousand weights in six residual blocks."""
    plan = [(16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)]
    blocks = [Residual(*sizes) for sizes in plan]
    return nn.Sequential(
        *convolution(3, 16), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES)
    )


def convolution(channels: int, width: int, stride: int = 1) -> list[nn.Module]:
    """A 3 x 3 convolution with batch norm and ReLU."""
    return [nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]


class Residual(nn.Module):
    """Two convolutions with a shortcut around them."""

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
        epochs=25,
        goal=1.15,
    ),
    "T16": Regime(
        name="19 thousand weights, 16 px, batches of 64",
        network=small,
        shape=(1, 16, 16),
        batch_size=64,
        steps=25,
        epochs=11,
        goal=1.02,
    ),
    "R": Regime(
        name="175 thousand weights, 32 px, batches of 128",
        network=resnet,
        shape=(3, 32, 32),
        batch_size=128,
        steps=4,
        epochs=9,
        goal=1.01,
    ),
}
SHORT = replace(REGIMES["Z"], steps=10)

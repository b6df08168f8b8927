"""What a step measures. On a GPU the numbers stay there until they're read."""

from typing import Any, NamedTuple

from torch import Tensor

from cnnlab.devices import Numbers
from cnnlab.losses import RunningMeans


Number = Tensor | float


class Part(NamedTuple):
    """The measurements of a microbatch, see `RunningMeans.add`."""

    loss: Number
    normalizer: Number
    samples: int
    correct: Number
    counted: int
    metrics: dict[str, Number]

    def read(self) -> "Part":
        """Return the same measurements as numbers."""
        return self.filled(Numbers(self.values()).read())

    def values(self) -> list[Number]:
        """Return everything that may be a tensor."""
        return [self.loss, self.normalizer, self.correct, *self.metrics.values()]

    def filled(self, numbers: list[float]) -> "Part":
        """Return the measurements with these numbers in place of `values`."""
        loss, normalizer, correct, *metrics = numbers
        named: dict[str, Number] = dict(zip(self.metrics, metrics, strict=True))
        return self._replace(loss=loss, normalizer=normalizer, correct=correct, metrics=named)

    def add_to(self, means: RunningMeans) -> None:
        """Add the measurements to means."""
        accuracy = float(self.correct), self.counted
        metrics = {name: float(value) for name, value in self.metrics.items()}
        means.add(float(self.loss), float(self.normalizer), self.samples, accuracy, metrics)


class Step:
    """The measurements of a step, and what it takes to undo it.

    Attributes:
        step: its number, from 0.
        batch: its number in the epoch, from 0.
        lr: the learning rate of the first parameter group.
        norm: the norm of the gradient before clipping; a number once it's read.
        means: the means of the batch, once they're read.
        before: the state before the step that later steps change, for `RunAhead`.
    """

    def __init__(self, step: int, batch: int, lr: float, before: Any) -> None:
        self.step, self.batch, self.lr, self.before = step, batch, lr, before
        self.parts: list[Part] = []
        self.norm: Any = 0.0
        self.means = RunningMeans()
        self._numbers: Numbers | None = None

    def send(self) -> None:
        """Start to copy the measurements to the host, without waiting for them."""
        self._numbers = Numbers([v for part in self.parts for v in part.values()] + [self.norm])

    def read(self, metrics: Any) -> None:
        """Wait for the measurements: fill the means, and turn the norm into a number.

        Args:
            metrics: the names of the metrics.
        """
        self.means = RunningMeans(metrics)
        if not self.norm.is_cuda:  # on the CPU, no copy is needed
            self.norm = self.norm.item()
            for part in self.parts:
                part.add_to(self.means)
            return
        if self._numbers is None:
            self.send()
        assert self._numbers is not None
        *numbers, self.norm = self._numbers.read()
        for part in self.parts:
            n = len(part.values())
            part.filled(numbers[:n]).add_to(self.means)
            numbers = numbers[n:]

"""Time two things in turn, A B A B ..., and say what their ratio is and how far it can be trusted.

What counts is the time of the processor, with one thread. On a machine that is shared with other
work, or changes its clock, seconds of different minutes cannot be compared; those of two turns that
follow each other can. So each turn of a contestant is divided by the turn of the reference beside
it, and the median of these ratios is kept. The reference against itself shows what is left of the
noise.
"""

import gc
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from time import process_time
from typing import Any

import torch


LARGE = 6_000_000  # numbers, 24 MB: just below the 32 MB from which a block is always returned


@dataclass
class Pairs:
    """Seconds of a contestant, and of the reference in the turn beside it.

    >>> pairs = Pairs(own=[2.0, 6.0, 3.0], reference=[1.0, 2.0, 2.0])
    >>> pairs.ratios, pairs.ratio
    ([2.0, 3.0, 1.5], 2.0)
    """

    own: list[float] = field(default_factory=list)
    reference: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """The contestant's time over the reference's, pair by pair."""
        return [a / b for a, b in zip(self.own, self.reference, strict=True)]

    @property
    def ratio(self) -> float:
        """The median of the ratios: above 1, the contestant is slower than the reference."""
        return median(self.ratios)

    @property
    def interval(self) -> tuple[float, float]:
        """Where the true median ratio lies with a confidence of at least 95 %; see `median_interval`."""
        return median_interval(self.ratios)


def median_interval(values: list[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return an interval for the median that holds whatever the distribution is, made of two of the values.

    Each value falls below the true median with probability 1/2, so the k-th smallest and the k-th
    largest enclose it with probability 1 - 2 P(Binomial(n, 1/2) < k). The largest k is taken that
    keeps the confidence (Conover, Practical Nonparametric Statistics, 3rd edition, section 3.2).
    Outliers move it little; doubts about the machine are not in it.

    Args:
        values: independent measurements.
        confidence: the least probability that the interval encloses the median.

    Returns:
        (low, high); two NaN when there are too few values, for 95 % fewer than six.

    >>> median_interval([9.0, 1.0, 2.0, 8.0, 3.0, 7.0, 4.0, 6.0, 5.0])
    (2.0, 8.0)
    >>> median_interval([1.0, 2.0, 3.0])
    (nan, nan)
    """
    n, ordered = len(values), sorted(values)
    missed, k = 2 / 2**n, 0  # probability that the extremes do not enclose it
    while missed <= 1 - confidence + 1e-12:
        k += 1
        missed += 2 * math.comb(n, k) / 2**n
    return (ordered[k - 1], ordered[-k]) if k else (math.nan, math.nan)


def seconds(turn: Callable[[], Any], clock: Callable[[], float] = process_time) -> float:
    """Return the seconds of a call, by default those of this process on the processor."""
    start = clock()
    turn()
    return round(clock() - start, 9)  # as a table of rows keeps it


def in_turn(
    reference: Callable[[], Any],
    contestants: Mapping[str, Callable[[], Any]],
    rounds: int,
    clock: Callable[[], float] = process_time,
) -> dict[str, Pairs]:
    """Time every contestant beside the reference, in as many rounds; an extra first one is for warming up.

    Who of a pair goes first changes from round to round, so that a machine which slows down favours
    neither.

    >>> list(in_turn(lambda: 1, {"same": lambda: 1}, rounds=2))
    ['same']
    """
    results = {name: Pairs() for name in contestants}
    with at_work():
        for number in range(rounds + 1):
            for name, contestant in contestants.items():
                order = (contestant, reference) if number % 2 else (reference, contestant)
                first, second = (seconds(turn, clock) for turn in order)
                if number:
                    own, other = (first, second) if number % 2 else (second, first)
                    results[name].own.append(own)
                    results[name].reference.append(other)
    return results


class Turns:
    """Time a contestant that owns its loop: to be called at the start of each of its turns, here epochs.

    Each call ends the contestant's turn and takes a turn of the reference. The first pair is for
    warming up, and the contestant's last turn is not counted, since nothing marks its end: n + 2
    calls make n pairs.
    """

    def __init__(self, reference: Callable[[], Any]) -> None:
        self.reference = reference
        self._times = Pairs()
        self._since: float | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Change turns; the arguments are whatever the contestant gives to its hooks."""
        if self._since is not None:
            self._times.own.append(process_time() - self._since)
        self._times.reference.append(seconds(self.reference))
        self._since = process_time()

    @property
    def pairs(self) -> Pairs:
        """The pairs that count."""
        return Pairs(self._times.own[1:], self._times.reference[1:-1])


@contextmanager
def at_work() -> Iterator[None]:
    """Let this process be as one that has trained for a while.

    What exists is hidden from the garbage collector, so that nobody pays for what others have
    imported. And one large block is given back, as a training step gives back its activations. The
    C library of Linux keeps smaller blocks for the next caller from then on; until then it returns
    them, and the system clears each anew, which takes longer than what is measured here.
    """
    gc.collect()
    gc.freeze()
    torch.ones(LARGE)
    try:
        yield
    finally:
        gc.unfreeze()

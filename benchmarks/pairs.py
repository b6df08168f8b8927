"""Time two functions alternately, and estimate the ratio of their times with an interval.

All times are CPU times of a single thread. On a shared machine, or on one that changes its clock
frequency, you can't compare seconds from different minutes, but you can compare two turns that
follow each other. So the time of each turn of a contestant is divided by the time of the reference
in the turn next to it, and the result is the median of these ratios. Timing the reference against
itself shows how much noise is left.
"""

import gc
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from time import process_time
from typing import Any

from cnnlab.course.heap import keep_freed_memory


@dataclass
class Pairs:
    """The seconds of a contestant's turns and of the reference's turns next to them.

    >>> pairs = Pairs(own=[2.0, 6.0, 3.0], reference=[1.0, 2.0, 2.0])
    >>> pairs.ratios, pairs.ratio
    ([2.0, 3.0, 1.5], 2.0)
    """

    own: list[float] = field(default_factory=list)
    reference: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """The contestant's time divided by the reference's, for each pair."""
        return [a / b for a, b in zip(self.own, self.reference, strict=True)]

    @property
    def ratio(self) -> float:
        """The median of the ratios; above 1, the contestant is slower than the reference."""
        return median(self.ratios)

    @property
    def interval(self) -> tuple[float, float]:
        """A 95 % confidence interval for the median ratio; see `median_interval`."""
        return median_interval(self.ratios)


def median_interval(values: list[float], confidence: float = 0.95) -> tuple[float, float]:
    """Compute a distribution-free confidence interval for the median.

    The ends of the interval are two of the values. Each value falls below the true median with
    probability 1/2, so the k-th smallest and the k-th largest value enclose it with probability
    1 - 2 P(Binomial(n, 1/2) < k). The function uses the largest k that still gives the confidence
    (Conover, Practical Nonparametric Statistics, 3rd edition, section 3.2). Outliers hardly change
    the interval. It covers only random variation, not a bias of the machine.

    Args:
        values: independent measurements.
        confidence: the smallest acceptable probability that the interval encloses the median.

    Returns:
        (low, high), or (NaN, NaN) for too few values; 95 % needs at least six.

    >>> median_interval([9.0, 1.0, 2.0, 8.0, 3.0, 7.0, 4.0, 6.0, 5.0])
    (2.0, 8.0)
    >>> median_interval([1.0, 2.0, 3.0])
    (nan, nan)
    """
    n, ordered = len(values), sorted(values)
    missed, k = 2 / 2**n, 0  # probability that the two extremes don't enclose the median
    while missed <= 1 - confidence + 1e-12:
        k += 1
        missed += 2 * math.comb(n, k) / 2**n
    return (ordered[k - 1], ordered[-k]) if k else (math.nan, math.nan)


def time_call(function: Callable[[], Any], clock: Callable[[], float] = process_time) -> float:
    """Return the seconds that a call takes, by default in CPU time of this process."""
    start = clock()
    function()
    return round(clock() - start, 9)  # the precision of the CSV file


def in_turn(
    reference: Callable[[], Any],
    contestants: Mapping[str, Callable[[], Any]],
    rounds: int,
    clock: Callable[[], float] = process_time,
) -> dict[str, Pairs]:
    """Time every contestant in turn with the reference, for `rounds` rounds after a warm-up round.

    The order within a pair alternates from round to round, so a machine that gradually slows down
    favours neither of the two.

    Args:
        reference: takes one turn of the reference.
        contestants: name -> a function that takes one turn of this contestant.
        rounds: the number of pairs per contestant.
        clock: returns the time in seconds.

    Returns:
        The pairs of each contestant.

    >>> list(in_turn(lambda: 1, {"same": lambda: 1}, rounds=2))
    ['same']
    """
    results = {name: Pairs() for name in contestants}
    with warmed_up():
        for number in range(rounds + 1):
            for name, contestant in contestants.items():
                order = (contestant, reference) if number % 2 else (reference, contestant)
                first, second = (time_call(turn, clock) for turn in order)
                if number:
                    own, other = (first, second) if number % 2 else (second, first)
                    results[name].own.append(own)
                    results[name].reference.append(other)
    return results


class Turns:
    """Time a contestant that runs its own loop, through a hook at the start of each of its epochs.

    Each call ends the contestant's turn and then takes a turn of the reference. The first pair is a
    warm-up. The contestant's last turn doesn't count, because no call marks its end. So n + 2 calls
    give n pairs.
    """

    def __init__(
        self, reference: Callable[[], Any], clock: Callable[[], float] | None = None
    ) -> None:
        self.reference, self.clock = reference, clock or process_time
        self._times = Pairs()
        self._start: float | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Switch turns; the arguments, which depend on the contestant's hooks, are ignored."""
        if self._start is not None:
            self._times.own.append(self.clock() - self._start)
        self._times.reference.append(time_call(self.reference, self.clock))
        self._start = self.clock()

    @property
    def pairs(self) -> Pairs:
        """The pairs without the warm-up and without the unfinished last turn."""
        return Pairs(self._times.own[1:], self._times.reference[1:-1])


@contextmanager
def warmed_up() -> Iterator[None]:
    """Give every contestant the same process: few objects to collect, and memory that it keeps.

    Existing objects are hidden from the garbage collector, so that no contestant pays for what
    another library created on import. And the process keeps freed memory, as it does after
    `cnnlab.setup()`. Otherwise malloc on Linux would return each large block to the system, which
    has to clear it again for the next call; that takes longer than many of the operations timed
    here.
    """
    keep_freed_memory()
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()

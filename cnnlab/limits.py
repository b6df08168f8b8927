"""Limits on how much work a session does: fewer images and seeds, for a quick pass.

The library itself never changes them. A course, a test suite or a notebook sets them once, at its
start:

>>> limits.max_seeds = 2
>>> limits.reset()
"""

from dataclasses import dataclass, fields


@dataclass
class Limits:
    """Upper bounds on the work of `data.load` and `experiment.compare`.

    Attributes:
        data_fraction: the fraction of the requested images that a generated data set contains.
        max_seeds: the largest number of seeds that `compare` runs; None for no limit.
        judge_claims: whether `Results.claim` raises an error for a claim that the numbers don't
            support. With very few seeds a correct claim would often fail.
    """

    data_fraction: float = 1.0
    max_seeds: int | None = None
    judge_claims: bool = True

    def reset(self) -> None:
        """Remove every limit."""
        for field in fields(self):
            setattr(self, field.name, field.default)


limits = Limits()

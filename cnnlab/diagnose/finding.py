"""The result of every diagnosis: what was noticed, why it matters, and what to try."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """A problem that a diagnosis noticed.

    Attributes:
        name: a short, fixed name, such as "overfitting".
        seen: the evidence, with its numbers.
        why: why it matters.
        advice: what to try.
    """

    name: str
    seen: str
    why: str
    advice: str

    def __str__(self) -> str:
        return f"{self.name}: {self.seen}\n  Why it matters: {self.why}\n  Try: {self.advice}"

    __repr__ = __str__

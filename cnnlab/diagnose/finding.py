"""What every diagnosis returns: something that was noticed, why it matters, and what to try."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """Something that was seen, and what to make of it.

    Attributes:
        name: short and fixed, such as "overfitting".
        seen: what was measured, with its numbers.
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

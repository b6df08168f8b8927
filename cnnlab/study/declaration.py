"""What a comparison sets out to show, written down before it runs.

If you look at twenty differences, one of them is likely to be "significant" by chance alone. So a
study declares its question and its few claims first, and any other claim is exploratory.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from cnnlab.errors import holds


RELATIONS = (">", "<", "~")
BUDGET = ("labels", "steps", "tuning_runs")


@dataclass(frozen=True)
class Claim:
    """One comparison of two variants, with its direction and margin.

    Attributes:
        a: the name of a variant.
        relation: ">" (a exceeds b by more than `by`), "<" (b exceeds a by more than `by`), or "~"
            (they differ by less than `by`).
        b: the name of the other variant.
        by: the margin in units of the metric. For "~", a difference that would matter in practice.
            With ">", a negative margin claims that a isn't much worse: by=-0.01 allows one point.
        metric: the metric; by default the one that the whole comparison is about.

    Raises:
        ValueError: the relation is unknown, `by` isn't a number, or "~" has no margin.

    >>> Claim("mixup", ">", "plain", by=0.01)
    Claim(a='mixup', relation='>', b='plain', by=0.01, metric='')
    """

    a: str
    relation: str
    b: str
    by: float = 0.0
    metric: str = ""

    def __post_init__(self) -> None:
        if self.relation not in RELATIONS:
            raise ValueError(f"relation must be '>', '<' or '~', got {self.relation!r}")
        if not holds(lambda: math.isfinite(self.by)):
            raise ValueError(
                f"by must be a number, the margin in units of the metric; got {self.by!r}"
            )
        if self.relation == "~" and not self.by > 0:
            raise ValueError("'~' needs a margin that is larger than 0: claim(a, '~', b, by=0.02)")

    def same_as(self, other: "Claim") -> bool:
        """Return whether two claims say the same, as "a > b" and "b < a" do."""
        return self._normal_form() == other._normal_form()

    def _normal_form(self) -> tuple[Any, ...]:
        if self.relation == "~":
            return "~", frozenset((self.a, self.b)), self.by, self.metric
        larger, smaller = (self.a, self.b) if self.relation == ">" else (self.b, self.a)
        return ">", larger, smaller, self.by, self.metric


@dataclass(frozen=True)
class Unit:
    """The source of variation between seeds, which determines what the confidence intervals cover.

    Make one with `fresh_data`, `splits` or `fixed_data`.

    Attributes:
        text: what a table says about it.
        overlap: n_test / n_train for splits of one data set, else 0.
    """

    text: str
    overlap: float = 0.0


def fresh_data() -> Unit:
    """Declare that every seed draws its own data, so a claim is about all data of this kind.

    >>> fresh_data().text
    'every seed draws its own data'
    """
    return Unit("every seed draws its own data")


def splits(n_train: int, n_test: int) -> Unit:
    """Declare that every seed splits the same data set anew.

    Two splits share most of their images, so their results vary less than the results on new data
    would. The intervals are widened accordingly, by the corrected resampled t-test (Nadeau & Bengio
    2003), and a claim is about splits of this set.

    Args:
        n_train: the number of training samples of each split.
        n_test: the number of samples that each split is evaluated on.

    Raises:
        ValueError: a number is less than 1.

    >>> splits(1000, 250).overlap
    0.25
    """
    if n_train < 1 or n_test < 1:
        raise ValueError(f"a split has at least one sample, got n_train={n_train}, n_test={n_test}")
    text = f"over splits of this set ({n_train} for training, {n_test} for evaluation)"
    return Unit(text, n_test / n_train)


def fixed_data(reason: str) -> Unit:
    """Declare that all seeds use the same data, and why; a claim is about re-training on them.

    Raises:
        ValueError: the reason is empty.

    >>> fixed_data("the set is given").text
    'all seeds share the same data (the set is given)'
    """
    if not reason.strip():
        raise ValueError(
            "fixed_data needs a reason why all seeds share the same data, as in "
            "fixed_data('the set is given')"
        )
    return Unit(f"all seeds share the same data ({reason})")


@dataclass(frozen=True)
class Declaration:
    """The question of a comparison, and the claims that it will be judged by.

    Attributes:
        question: one sentence that ends in a question mark.
        claims: the confirmatory claims, few of them. Holm's correction counts all of them.
        unit: what differs between the seeds: `fresh_data()`, `splits(...)` or `fixed_data(...)`.
        fixed: what is the same for every variant.
        unequal: variant -> the reason why it gets more or fewer labels, steps or tuning runs than
            the others. Without a reason, such a variant can't be part of a claim.

    >>> Declaration(
    ...     "Does mixup help with few labels?",
    ...     claims=[Claim("mixup", ">", "plain", by=0.01)],
    ...     unit=fresh_data(),
    ...     fixed="20 labels per class, the network, 40 epochs of SGD",
    ... ).unit.text
    'every seed draws its own data'
    """

    question: str
    claims: Sequence[Claim] = ()
    unit: Unit | None = None
    fixed: str = ""
    unequal: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "claims", tuple(self.claims))
        for claim in self.claims:
            if not isinstance(claim, Claim):
                raise TypeError(
                    f"claims must be a list of Claim('a', '>', 'b'), got {claim!r:.80} in it"
                )
        if self.unit is not None and not isinstance(self.unit, Unit):
            raise TypeError(
                f"unit must be fresh_data(), splits(...) or fixed_data(...), got {self.unit!r}"
            )

    def bind(self, variants: Iterable[str], metric: str) -> "Declaration":
        """Return the declaration with the metric of each claim filled in.

        Raises:
            ValueError: a claim names no variant, or two claims are the same.
        """
        names, claims = list(variants), []
        for name in [name for claim in self.claims for name in (claim.a, claim.b)] + [
            *self.unequal
        ]:
            if name not in names:
                raise ValueError(
                    f"the declaration names {name!r} in a claim or in unequal, but the variants "
                    f"are {', '.join(map(repr, names))}"
                )
        for claim in self.claims:
            claims.append(replace(claim, metric=claim.metric or metric))
            if any(claims[-1].same_as(earlier) for earlier in claims[:-1]):
                raise ValueError(f"the declaration contains the same claim twice: {claims[-1]}")
        return replace(self, claims=tuple(claims))

    def to_json(self, variants: Iterable[str], seeds: int, metric: str) -> str:
        """Return everything that was declared as one line of JSON."""
        record = asdict(self.bind(variants, metric))
        record |= {"variants": list(variants), "seeds": seeds, "metric": metric}
        return json.dumps(record, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Declaration":
        """Read what `to_json` wrote."""
        record = json.loads(text)
        unit = record["unit"]
        return cls(
            record["question"],
            [Claim(**claim) for claim in record["claims"]],
            unit and Unit(**unit),
            record["fixed"],
            record["unequal"],
        )


def budget(labels: int, steps: int, tuning_runs: int = 0) -> dict[str, int]:
    """Return the labels, steps and tuning runs of a run, as metrics to return beside its result.

    A claim about two variants is refused if one of them was given more labels, steps or tuning
    runs than the other, unless the declaration gives a reason in `unequal`.

    Args:
        labels: the number of labels, including the validation labels if anything was chosen by
            them.
        steps: the number of optimizer steps.
        tuning_runs: the number of runs from which the settings of this variant were chosen.

    >>> {"test_acc": 0.8} | budget(labels=1200, steps=300)
    {'test_acc': 0.8, 'labels': 1200, 'steps': 300, 'tuning_runs': 0}
    """
    return dict(zip(BUDGET, (labels, steps, tuning_runs), strict=True))

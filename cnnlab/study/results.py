"""The metrics of a comparison: tables, differences with intervals, and claims about them."""

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO
from itertools import dropwhile
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cnnlab.errors import ClaimNotSupported
from cnnlab.files import user_path, write_whole
from cnnlab.limits import limits
from cnnlab.plots.core import readable
from cnnlab.study.declaration import BUDGET, Claim, Declaration, Unit
from cnnlab.study.intervals import FEW, holm, is_fraction, p_value, t_interval


if TYPE_CHECKING:
    from pandas import DataFrame

    from cnnlab.plots import Plot


class Difference(NamedTuple):
    """The mean difference of two variants, and the ends of its 95 % confidence interval.

    >>> print(Difference(0.019, -0.004, 0.042))
    +0.019, 95 % CI -0.004 to +0.042
    """

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f}, 95 % CI {self.low:+.3f} to {self.high:+.3f}"


@dataclass(frozen=True)
class Verdict:
    """A claim about two variants, and whether the measured difference supports it.

    Attributes:
        claim: the claim in words.
        supported: whether the numbers support the claim.
        mean: the mean difference.
        low: the lower end of its 95 % confidence interval.
        high: the upper end.
        judged: False if `limits.judge_claims` is off, because there are too few seeds to judge by.
        declared: whether the claim was declared before the run; otherwise it is exploratory.
        p: twice the one-sided p-value, corrected for the number of declared claims (Holm 1979).
        n_claims: the number of claims that p is corrected for.
        sentence: the result in words, with the difference and its interval or its runs.
    """

    claim: str
    supported: bool
    mean: float
    low: float
    high: float
    judged: bool = True
    declared: bool = False
    p: float = nan
    n_claims: int = 1
    sentence: str = ""

    def __str__(self) -> str:
        outcome = "supported" if self.supported else "not supported"
        outcome = outcome if self.judged else "not judged (too few seeds)"
        p = "p < 0.001" if self.p < 0.001 else f"p = {self.p:.3f}"
        if self.n_claims > 1:
            p += f" after Holm's correction for {self.n_claims} claims"
        kind = f"declared before the run, {p}" if self.declared else "exploratory"
        return f"{self.sentence or self.claim}\n  {kind}: {outcome}"

    __repr__ = __str__


class Results:
    """The metrics of every variant and every seed of a comparison.

    Args:
        rows: one dictionary per run, with `variant`, `seed` and the metrics.
        metric: the metric that tables, differences and claims use.
        notes: where stored results come from.
        unfinished: one dictionary per run that raised an error or was interrupted, with `variant`,
            `seed` and `error`.
        declaration: what was declared before the runs, if anything was.
    """

    def __init__(
        self,
        rows: list[dict[str, Any]],
        metric: str,
        notes: Mapping[str, str] | None = None,
        unfinished: Sequence[Mapping[str, Any]] = (),
        declaration: Declaration | None = None,
    ) -> None:
        self.rows, self.metric = rows, metric
        self.notes = dict(notes or {})
        self.unfinished = list(unfinished)
        self.declaration = declaration

    def on(self, metric: str) -> "Results":
        """Return the same runs with another metric to compare, and the same declaration.

        >>> runs = [{"variant": "a", "seed": 0, "acc": 0.8, "loss": 0.6}]
        >>> Results(runs, "acc").on("loss").values("a")
        array([0.6])
        """
        return Results(self.rows, metric, self.notes, self.unfinished, self.declaration)

    @property
    def unit(self) -> Unit | None:
        """What differs between the seeds, if it was declared."""
        return self.declaration.unit if self.declaration is not None else None

    @property
    def names(self) -> list[str]:
        """The names of the variants, in the order of their first finished runs."""
        return list(dict.fromkeys(row["variant"] for row in [*self.rows, *self.unfinished]))

    def values(self, name: str) -> np.ndarray:
        """Return the metric of a variant as an array (n,), in the order of the seeds.

        Raises:
            ValueError: there is no such variant, or its runs don't have the metric.
        """
        return np.array([row[self.metric] for row in self._runs(name)], dtype=float)

    def _runs(self, name: str) -> list[dict[str, Any]]:
        """Return the rows of a variant."""
        if name not in self.names:
            names = ", ".join(map(repr, self.names))
            raise ValueError(f"there is no variant {name!r}; the variants are {names}")
        rows = [row for row in self.rows if row["variant"] == name]
        if any(self.metric not in row for row in rows):
            raise ValueError(
                f"the runs of {name!r} have no metric {self.metric!r}; they have "
                f"{', '.join(map(repr, rows[0]))}"
            )
        return rows

    def frame(self) -> "DataFrame":
        """Return a table with one row per run: variant, seed, metrics."""
        import pandas as pd

        return pd.DataFrame(self.rows)

    def table(self) -> "DataFrame":
        """Return a table with one row per variant: mean, low, high, sd, n.

        low and high are the ends of the 95 % t interval of the mean, and n is the number of runs
        that have finished. With fewer than five runs they are NaN, and the printed table shows the
        runs instead, because an interval of two or three runs says more about luck than about
        the variant. The interval of an accuracy stays between 0 and 1.
        """
        import pandas as pd

        rows = []
        for name in self.names:
            values = self.values(name)
            mean, low, high = self._interval(values)
            std = float(values.std(ddof=1)) if len(values) > 1 and isfinite(mean) else nan
            rows.append({"variant": name, "mean": mean, "low": low, "high": high, "sd": std})
            rows[-1]["n"] = len(values)
        return pd.DataFrame(rows).set_index("variant")

    def _interval(self, values: np.ndarray) -> tuple[float, float, float]:
        """Return mean, low and high; the ends are NaN for fewer than five runs."""
        mean, low, high = t_interval(values, self._overlap)
        if len(values) < FEW:
            return mean, nan, nan
        if is_fraction(self.metric, values):
            low, high = max(0.0, low), min(1.0, high)
        return mean, low, high

    @property
    def _overlap(self) -> float:
        return self.unit.overlap if self.unit is not None else 0.0

    def difference(self, a: str, b: str) -> Difference:
        """Compute the mean of a - b and its 95 % confidence interval, from the pairs of runs.

        Both variants ran with the same seeds, so any effect that a seed has on both cancels out.
        The interval is a paired t interval (Student 1908), which assumes that the differences are
        roughly normally distributed. For splits of one data set it is widened, because they share
        images (Nadeau & Bengio 2003). If a run of one of them hasn't finished, its seed is left
        out for both, with a warning.

        Returns:
            (mean, low, high), which print as "+0.019, 95 % CI -0.004 to +0.042".

        Raises:
            ValueError: a metric is NaN or infinite, or fewer than two seeds have finished for both.
        """
        differences, left_out = self._differences(a, b)
        if left_out:
            message = f"the difference of {a!r} and {b!r} leaves out {left_out}{self._why(a, b)}"
            warnings.warn(message, UserWarning, stacklevel=2)
        return Difference(*t_interval(differences, self._overlap))

    def _differences(self, a: str, b: str) -> tuple[np.ndarray, str]:
        """Return a - b for each seed that both have, and in words which seeds are left out."""
        runs = self._runs(a), self._runs(b)
        seeds = [[row.get("seed") for row in rows] for rows in runs]
        if seeds[0] != seeds[1] and any(len(set(own)) < len(own) for own in seeds):
            raise ValueError(f"{a!r} and {b!r} can't be paired: a seed occurs several times")
        common = [seed for seed in seeds[0] if seed in seeds[1]]
        x, y = (
            np.array([row[self.metric] for row in rows if row.get("seed") in common], dtype=float)
            for rows in runs
        )
        if seeds[0] != seeds[1]:  # the runs of b in the order of a
            order = [seed for seed in seeds[1] if seed in common]
            y = y[[order.index(seed) for seed in common]]
        missing = {run["seed"] for run in self.unfinished if run["variant"] in (a, b)}
        left_out = _seeds(missing | {*seeds[0], *seeds[1]} - {*common})
        if len(common) < 2:
            raise ValueError(
                f"a difference needs two or more seeds, and {a!r} and {b!r} have {len(common)} in "
                f"common{self._why(a, b)}. Run compare again"
            )
        for name, values in ((a, x), (b, y)):
            bad = [seed for seed, value in zip(common, values, strict=True) if not isfinite(value)]
            if bad:
                raise ValueError(
                    f"{self.metric} of {name!r} is NaN or infinite with {_seeds(bad)}, so there is "
                    "no difference to compute: find out why, or leave these seeds out for both"
                )
        return x - y, left_out

    def _why(self, *names: str) -> str:
        runs = [run for run in self.unfinished if run["variant"] in names]
        return f": {listed(runs)}" if runs else ""

    def claim(self, a: str, relation: str, b: str, by: float = 0.0) -> Verdict:
        """Claim that one variant is better, and raise an error unless the numbers support it.

        A claim is supported if the whole 95 % interval of the difference agrees with it. If it was
        declared before the runs, its p-value is corrected for the number of declared claims
        (Holm 1979); if it wasn't, the verdict calls it exploratory.

        Args:
            a: the name of a variant.
            relation: ">" (a exceeds b by more than `by`), "<" (b exceeds a by more than `by`), or
                "~" (they differ by less than `by`).
            b: the name of the other variant.
            by: the margin, in units of the metric; "~" needs one.

        Returns:
            The verdict, which prints as a sentence with the difference and its interval.

        Raises:
            ClaimNotSupported: the numbers don't support the claim. If `limits.judge_claims` is off,
                this error isn't raised.
            ValueError: runs of these variants haven't finished, a metric is NaN or infinite, or one
                of them was given more labels, steps or tuning runs than the other.
        """
        verdict = self.verdict(a, relation, b, by)
        if verdict.judged and not verdict.supported:
            raise ClaimNotSupported(
                f"{verdict}. Claim what the results show instead, or run more seeds; don't search "
                "for seeds that agree with the claim"
            )
        return verdict

    def verdict(self, a: str, relation: str, b: str, by: float = 0.0) -> Verdict:
        """Return what `claim` returns, also if the numbers don't support the claim.

        Use it for a claim that was declared and then not confirmed.

        Raises:
            ValueError: the relation or a variant is unknown; and as in `claim`.

        >>> rows = [{"variant": v, "seed": i, "acc": 0.5 + i / 50} for v in "ab" for i in range(5)]
        >>> print(Results(rows, "acc").verdict("a", ">", "b"))
        a > b in accuracy? The difference is +0.0 points (95 % CI 0.0 to 0.0)
          exploratory: not supported
        """
        claim = Claim(a, relation, b, by, self.metric)
        differences = self._complete_differences(a, b)
        self._check_budgets(a, b)
        p, n_claims = p_value(differences, relation, by, self._overlap), 1
        declared = self._declared(claim)
        if declared is not None:
            family = [self._p_of(other) for other in self._family]
            p, n_claims = holm(family)[self._family.index(declared)], len(family)
        mean, low, high = t_interval(differences, self._overlap)
        return Verdict(
            _claim_in_words(claim),
            p < 0.05,
            mean,
            low,
            high,
            limits.judge_claims,
            declared is not None,
            p,
            n_claims,
            self._sentence(claim, differences, p < 0.05),
        )

    @property
    def _family(self) -> list[Claim]:
        return list(self.declaration.claims) if self.declaration is not None else []

    def _declared(self, claim: Claim) -> Claim | None:
        """Return the declared claim that says the same, if there is one."""
        return next((other for other in self._family if claim.same_as(other)), None)

    def _p_of(self, claim: Claim) -> float:
        """Return the uncorrected p-value of a declared claim."""
        differences = self.on(claim.metric)._complete_differences(claim.a, claim.b)
        return p_value(differences, claim.relation, claim.by, self._overlap)

    def _complete_differences(self, a: str, b: str) -> np.ndarray:
        """Return a - b for every seed, or raise a ValueError if a run hasn't finished."""
        differences, left_out = self._differences(a, b)
        if left_out:
            raise ValueError(
                f"{a!r} and {b!r} haven't both finished {left_out}{self._why(a, b)}. A claim needs "
                "every run, because leaving some out could decide it: run compare again, and look "
                "at difference() meanwhile"
            )
        return differences

    def _check_budgets(self, a: str, b: str) -> None:
        """Raise a ValueError if two variants were given different labels, steps or tuning runs."""
        unequal = self.declaration.unequal if self.declaration is not None else {}
        if a in unequal or b in unequal:
            return
        for column in BUDGET:
            x, y = ({row.get(column) for row in self._runs(name)} for name in (a, b))
            if x != y:
                what = column.replace("_", " ")
                raise ValueError(
                    f"{a!r} was given {_amounts(x)} {what} and {b!r} {_amounts(y)}, so their "
                    "results can't be compared. Give both the same, or say why they differ in the "
                    f"declaration: unequal={{{b!r}: 'the reason'}}"
                )

    def _sentence(self, claim: Claim, differences: np.ndarray, supported: bool) -> str:
        """Return the result in words: "a beats b in accuracy by 1.9 points (95 % CI ...)"."""
        values = np.concatenate([self.values(claim.a), self.values(claim.b)])
        percent = is_fraction(self.metric, values)
        factor, digits = (100, 1) if percent else (1, 3)
        flip = -1 if claim.relation == "<" and supported else 1
        mean, low, high = (factor * x for x in t_interval(flip * differences, self._overlap))
        if len(differences) < FEW:
            runs = ", ".join(f"{factor * flip * x:+.{digits}f}" for x in differences)
            evidence = f"{len(differences)} runs: {runs}"
        else:
            evidence = f"95 % CI {low:.{digits}f} to {high:.{digits}f}"
        a, b, metric = claim.a, claim.b, readable(self.metric)
        margin = f"{factor * abs(claim.by):g}"
        unit = " points" if percent else ""
        margin += unit.removesuffix("s") if margin == "1" else unit
        signed = f"{mean:+.{digits}f}{unit} ({evidence})"
        amount = f"{mean:.{digits}f}{unit} ({evidence})"
        if claim.relation == "~":
            relation = "differ by less" if supported else "may differ by more"
            return f"{a} and {b} {relation} than {margin} in {metric}: {signed}"
        if not supported:
            question = f"{a} {claim.relation} {b}{_margin(claim.by, margin)} in {metric}?"
            return f"{question} The difference is {signed}"
        if claim.by < 0:
            return f"{a} {claim.relation} {b}{_margin(claim.by, margin)} in {metric}: {signed}"
        claimed = f"; claimed: more than {margin}" if claim.by else ""
        if percent and claim.relation == ">":
            return f"{a} beats {b} in {metric} by {amount}{claimed}"
        level = "higher" if claim.relation == ">" else "lower"
        return f"{a} has a {level} {metric} than {b}, by {amount}{claimed}"

    def plot(
        self,
        stored: "Results | None" = None,
        *,
        message: str | None = None,
        label: str | None = None,
    ) -> "Plot":
        """Draw every run as a tick, and the mean of each variant with its interval as a bar.

        Args:
            stored: the results of a longer study, drawn in grey beside the variants of the same
                name.
            message: the title, one sentence that states the main point; by default, it names the
                variants with the highest and the lowest mean.
            label: words for the metric, with its unit; by default, its name spelt out.
        """
        from cnnlab import plots

        stored_summary = stored._summary() if stored is not None else {}
        return plots.intervals(
            {name: self.values(name) for name in self.names},
            self._summary(),
            label=label or self.metric,
            stored={k: v for k, v in stored_summary.items() if k in self.names},
            message=message,
        )

    def _summary(self) -> dict[str, tuple[float, float, float]]:
        """Return (mean, low, high) of each variant, by name."""
        return {name: self._interval(self.values(name)) for name in self.names}

    def save(self, path: str | Path) -> None:
        """Write a CSV table with one row per run, after `#` lines with the metric and the notes.

        A leading `~` in the path is your home folder.
        """
        notes = {"metric": self.metric, **self.notes}
        if self.unfinished:
            notes["unfinished"] = json.dumps(self.unfinished)
        header = "".join(f"# {key}: {value}\n" for key, value in notes.items())
        table = self.frame().round(6).to_csv(index=False, lineterminator="\n")
        write_whole(user_path(path), (header + table).encode())

    @classmethod
    def load(cls, path: str | Path) -> "Results":
        """Read a table that `save` wrote.

        Raises:
            ValueError: `save` didn't write this file.
        """
        import pandas as pd

        lines = user_path(path).read_text(encoding="utf-8").splitlines()
        notes = dict(line[2:].split(": ", 1) for line in lines if line.startswith("# "))
        metric = notes.pop("metric", None)
        if metric is None:
            raise ValueError(
                f"{path} has no line '# metric: ...'; load only tables that Results.save wrote"
            )
        unfinished = json.loads(notes.pop("unfinished", "[]"))
        declared = notes.get("declaration")
        declaration = None if declared is None else Declaration.from_json(declared)
        table = "\n".join(dropwhile(lambda line: line.startswith("# "), lines))
        frame = pd.read_csv(StringIO(table))
        # A name such as "None" or "0.1" stays as it is.
        names = pd.read_csv(StringIO(table), usecols=["variant"], dtype=str, keep_default_na=False)
        frame["variant"] = names["variant"]
        rows: Any = frame.to_dict("records")
        return cls(rows, metric, notes, unfinished, declaration)

    def _repr_html_(self) -> str:
        return self._printed().to_html(float_format="{:.3f}".format) + "".join(
            f"<p>{escape(note)}</p>" for note in self._notes()
        )

    def __repr__(self) -> str:
        lines = [f"Results in {self.metric}:", str(self._printed().round(3)), *self._notes()]
        return "\n".join(lines)

    def _printed(self) -> "DataFrame":
        """Return the table, with the runs instead of the interval if they are few."""
        table = self.table()
        if table["n"].max() >= FEW:
            return table
        runs = [" ".join(f"{value:.3f}" for value in self.values(name)) for name in table.index]
        return table[["mean"]].assign(runs=runs, n=table["n"])

    def _notes(self) -> list[str]:
        """Return what the intervals are about, and which runs are unfinished."""
        notes = [] if self.unit is None else [f"Each row: {self.unit.text}."]
        if self.unfinished:
            n = len(self.unfinished)
            runs = listed(self.unfinished)
            notes.append(f"{n} of {n + len(self.rows)} runs are unfinished: {runs}")
        return notes


def _claim_in_words(claim: Claim) -> str:
    """Return a claim with its margin and its metric."""
    if claim.relation == "~":
        return f"{claim.a} and {claim.b} differ by less than {claim.by:g} in {claim.metric}"
    margin = _margin(claim.by, f"{abs(claim.by):g}")
    return f"{claim.a} {claim.relation} {claim.b}{margin} in {claim.metric}"


def _margin(by: float, amount: str) -> str:
    """Return a margin in words; a negative one allows the first variant to be a little worse."""
    if not by:
        return ""
    return f" by more than {amount}" if by > 0 else f", or worse by less than {amount},"


def _amounts(values: Iterable[Any]) -> str:
    """Return the different values of a column, or "an unknown number of"."""
    known = sorted({value for value in values if value is not None and isfinite(value)})
    return " or ".join(f"{value:g}" for value in known) or "an unknown number of"


def _seeds(seeds: Iterable[Any]) -> str:
    """Return seeds in words; "" if there are none.

    >>> _seeds([2, 0]), _seeds({1})
    ('seeds 0, 2', 'seed 1')
    """
    listed = sorted(seeds, key=lambda seed: (str(type(seed)), seed))
    return f"seed{'s' * (len(listed) > 1)} {', '.join(map(str, listed))}" if listed else ""


def listed(unfinished: Sequence[Mapping[str, Any]], limit: int = 3) -> str:
    """Return the runs that didn't finish, and why."""
    runs = [f"{run['variant']}, seed {run['seed']} ({run['error']})" for run in unfinished[:limit]]
    more = len(unfinished) - len(runs)
    return " ".join("; ".join(runs).split()) + (f"; and {more} more" if more > 0 else "")

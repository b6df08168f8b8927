"""Compare variants over seeds, and hold sentences against the interval that was measured.

One run says little: another seed moves an accuracy by several points. `compare` runs every variant with the same
seeds, and a claim holds only when the whole interval of the difference supports it.
"""

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cnnlab.errors import ClaimNotSupported
from cnnlab.files import write_whole
from cnnlab.limits import Limits, limits


if TYPE_CHECKING:
    from pandas import DataFrame

    from cnnlab.plots import Plot


__all__ = [
    "Results",
    "Verdict",
    "compare",
    "study",
]


Variant = Callable[[int], float | Mapping[str, float]]


@dataclass(frozen=True)
class Verdict:
    """A claim that was held against an interval.

    Attributes:
        claim: the sentence.
        supported: whether the whole interval lies on the claimed side.
        mean: mean of the difference.
        low: lower end of its interval.
        high: upper end.
        judged: False where `limits.judge_claims` is off, because too little was run to judge by.
    """

    claim: str
    supported: bool
    mean: float
    low: float
    high: float
    judged: bool = True

    def __str__(self) -> str:
        state = "supported" if self.supported else "NOT supported"
        state = state if self.judged else "not judged (too few seeds)"
        interval = f"difference {self.mean:+.3f}, 95 % interval {self.low:+.3f} to {self.high:+.3f}"
        return f"{self.claim}\n  {interval}: {state}"

    __repr__ = __str__


def compare(
    variants: Mapping[str, Variant],
    seeds: Sequence[int] | int,
    *,
    metric: str = "test_acc",
    jobs: int = 1,
) -> "Results":
    """Run every variant with every seed.

    Args:
        variants: name -> function of the seed that trains and returns the number to compare, or a dictionary
            of numbers that holds `metric`.
        seeds: the seeds, or how many to take, from 0. At most `limits.max_seeds` of them are run.
        metric: which number to compare when a variant returns several.
        jobs: processes at a time. Each variant must then be a function of a module, not of a notebook.

    Returns:
        All numbers, with means, intervals and differences.

    Raises:
        ValueError: fewer than two seeds, a seed given twice, no variant, or a result without `metric`.

    >>> results = compare({"a": lambda seed: 0.8 + seed / 100, "b": lambda seed: 0.5 + seed / 100}, 5)
    >>> results.difference("a", "b")
    (0.3, 0.3, 0.3)
    """
    chosen = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    chosen = chosen[: limits.max_seeds]
    if not variants:
        raise ValueError("compare needs at least one variant: {'name': function of the seed}")
    if len(chosen) < 2 or len(set(chosen)) < len(chosen):
        raise ValueError(f"compare needs two or more different seeds, got {chosen}")
    tasks = [(name, seed) for seed in chosen for name in variants]
    if jobs == 1:
        values = [variants[name](seed) for name, seed in tasks]
    else:
        from joblib import Parallel, delayed  # comes with scikit-learn

        values = Parallel(n_jobs=jobs)(
            delayed(_run)(variants[name], seed, limits) for name, seed in tasks
        )
    rows = [
        {"variant": name, "seed": seed, **_as_row(value, metric, name)}
        for (name, seed), value in zip(tasks, values, strict=True)
    ]
    return Results(rows, metric)


def study(
    script: str | Path,
    variants: Mapping[str, Variant],
    seeds: Sequence[int] | int,
    *,
    metric: str = "valid_acc",
    jobs: int = 1,
) -> "Results":
    """Compare at more length than a chapter can afford, and keep the numbers beside the script that made them.

    Args:
        script: `__file__` of the script; the table gets its name with the ending `.csv`.
        variants: as `compare` takes them.
        seeds: likewise.
        metric: which number to compare.
        jobs: processes at a time, each with its share of the cores.

    Returns:
        The numbers, which `Results.load` reads again. The table also tells versions, date and duration.
    """
    start = time.perf_counter()
    results = compare(variants, seeds, metric=metric, jobs=jobs)
    results.notes = {
        "made by": Path(script).name,
        "versions": f"torch {torch.__version__.partition('+')[0]}, Python {platform.python_version()}",
        "date": time.strftime("%Y-%m-%d"),
        "seconds": f"{time.perf_counter() - start:.0f} with {jobs} process(es)",
    }
    results.save(Path(script).with_suffix(".csv"))
    return results


class Results:
    """What `compare` measured: one number a variant and seed.

    Args:
        rows: dictionaries with `variant`, `seed` and the metrics.
        metric: the one that tables, differences and claims are about.
        notes: where the numbers come from, for those that were stored.
    """

    def __init__(
        self, rows: list[dict[str, Any]], metric: str, notes: Mapping[str, str] | None = None
    ) -> None:
        self.rows, self.metric = rows, metric
        self.notes = dict(notes or {})

    @property
    def names(self) -> list[str]:
        """The variants, in the order they were given."""
        return list(dict.fromkeys(row["variant"] for row in self.rows))

    def values(self, name: str) -> np.ndarray:
        """Return the metric of a variant, one number a seed, in the order of the seeds."""
        if name not in self.names:
            raise ValueError(f"no variant {name!r}; there is {', '.join(map(repr, self.names))}")
        return np.array([row[self.metric] for row in self.rows if row["variant"] == name])

    def frame(self) -> "DataFrame":
        """Return every run as a table: variant, seed, metrics."""
        import pandas as pd

        return pd.DataFrame(self.rows)

    def table(self) -> "DataFrame":
        """Return a row a variant: mean, low and high (95 % t interval of the mean), sd, n."""
        import pandas as pd

        rows = []
        for name in self.names:
            values = self.values(name)
            mean, low, high = _t_interval(values)
            rows.append(
                {"variant": name, "mean": mean, "low": low, "high": high}
                | {"sd": float(values.std(ddof=1)), "n": len(values)}
            )
        return pd.DataFrame(rows).set_index("variant")

    def difference(self, a: str, b: str) -> tuple[float, float, float]:
        """Return mean, low and high of a - b: the 95 % t interval of the differences seed by seed.

        Both variants ran with the same seeds, so what a seed does to both cancels out. Student 1908; the
        interval assumes that the differences are roughly normal.
        """
        return _t_interval(self.values(a) - self.values(b))

    def claim(self, a: str, relation: str, b: str, by: float = 0.0) -> Verdict:
        """State that one variant is better, and fail unless the whole interval says so.

        Args:
            a: a variant.
            relation: ">" (a is larger than b by more than `by`), "<", or "~" (they differ by less than `by`).
            b: the other variant.
            by: a margin in units of the metric; "~" needs one.

        Returns:
            The verdict, which prints as a sentence with its numbers.

        Raises:
            ClaimNotSupported: the interval does not lie on the claimed side. Not where `limits.judge_claims` is off.
        """
        mean, low, high = self.difference(a, b)
        margin = f" by more than {by:g}" if by else ""
        match relation:
            case ">":
                sentence, supported = f"{a} > {b}{margin} in {self.metric}", low > by
            case "<":
                sentence, supported = f"{a} < {b}{margin} in {self.metric}", high < -by
            case "~":
                if by <= 0:
                    raise ValueError("'~' needs a margin: claim(a, '~', b, by=0.02)")
                sentence = f"{a} and {b} differ by less than {by:g} in {self.metric}"
                supported = -by < low and high < by
            case _:
                raise ValueError(f"a claim is '>', '<' or '~', got {relation!r}")
        verdict = Verdict(sentence, supported, mean, low, high, judged=limits.judge_claims)
        if verdict.judged and not supported:
            raise ClaimNotSupported(
                f"{verdict}. Say what the numbers show instead, or measure more seeds; "
                "do not look for a seed that agrees"
            )
        return verdict

    def plot(self, stored: "Results | None" = None) -> "Plot":
        """Draw every run as a stroke, the mean and its interval as a bar.

        Args:
            stored: results of a longer study, drawn in grey beside the variants of the same name.
        """
        from cnnlab import plots

        beside = stored._summary() if stored is not None else {}
        return plots.intervals(
            {name: self.values(name) for name in self.names},
            self._summary(),
            label=self.metric,
            stored={k: v for k, v in beside.items() if k in self.names},
        )

    def _summary(self) -> dict[str, tuple[float, float, float]]:
        return {name: _t_interval(self.values(name)) for name in self.names}

    def save(self, path: str | Path) -> None:
        """Write a table with a row a run, below lines that begin with # and hold the metric and the notes."""
        notes = {"metric": self.metric, **self.notes}
        head = "".join(f"# {key}: {value}\n" for key, value in notes.items())
        table = self.frame().round(6).to_csv(index=False, lineterminator="\n")
        write_whole(Path(path), (head + table).encode())

    @classmethod
    def load(cls, path: str | Path) -> "Results":
        """Read what `save` wrote.

        Raises:
            ValueError: the file is not such a table.
        """
        import pandas as pd

        lines = Path(path).read_text(encoding="utf-8").splitlines()
        notes = dict(line[2:].split(": ", 1) for line in lines if line.startswith("# "))
        metric = notes.pop("metric", None)
        if metric is None:
            raise ValueError(
                f"{path} does not say its metric; it should be written by Results.save"
            )
        frame = pd.read_csv(path, comment="#")
        return cls(frame.to_dict("records"), metric, notes)  # type: ignore[arg-type]

    def _repr_html_(self) -> str:
        return self.table().to_html(float_format="{:.3f}".format)

    def __repr__(self) -> str:
        return f"Results in {self.metric}:\n{self.table().round(3)}"


def _run(variant: Variant, seed: int, session: Limits) -> float | Mapping[str, float]:
    """Run a variant in another process, under the limits of this one."""
    vars(limits).update(vars(session))
    return variant(seed)


def _as_row(value: float | Mapping[str, float], metric: str, name: str) -> dict[str, float]:
    if not isinstance(value, Mapping):
        return {metric: float(value)}
    if metric not in value:
        raise ValueError(
            f"variant {name!r} returned {', '.join(map(repr, value))}, but not the metric {metric!r}"
        )
    return {k: float(v) for k, v in value.items()}


def _t_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """Mean and the ends of its t interval; the rounding hides the noise of float arithmetic."""
    from scipy.stats import ttest_1samp  # comes with scikit-learn

    mean = float(values.mean())
    if np.ptp(values) < 1e-12 * max(
        1.0, abs(mean)
    ):  # where scipy would warn about its own rounding
        low = high = mean
    else:
        low, high = ttest_1samp(values, 0).confidence_interval(level)
    return round(mean, 12), round(float(low), 12), round(float(high), 12)

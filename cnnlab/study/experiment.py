"""Compare variants over several seeds, and check claims against confidence intervals.

A single run says little, because another seed can change an accuracy by several points. `compare`
runs every variant with the same seeds, and a claim is supported only if the whole confidence
interval of the difference agrees with it.
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
    """A claim about two variants, and whether the measured difference supports it.

    Attributes:
        claim: the claim in words.
        supported: whether the whole confidence interval agrees with the claim.
        mean: the mean difference.
        low: the lower end of its 95 % confidence interval.
        high: the upper end.
        judged: False if `limits.judge_claims` is off, because there are too few seeds to judge by.
    """

    claim: str
    supported: bool
    mean: float
    low: float
    high: float
    judged: bool = True

    def __str__(self) -> str:
        outcome = "supported" if self.supported else "not supported"
        outcome = outcome if self.judged else "not judged (too few seeds)"
        interval = f"95 % confidence interval {self.low:.3f} to {self.high:.3f}"
        return f"{self.claim}\n  difference {self.mean:+.3f}, {interval}: {outcome}"

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
        variants: name -> a function of the seed that trains a model and returns the metric, or a
            dictionary of metrics that contains `metric`.
        seeds: the seeds, or their number n for the seeds 0 to n - 1. At most `limits.max_seeds` of
            them are run.
        metric: the metric to compare if a variant returns several.
        jobs: the number of parallel processes. With more than one, the variants must be functions
            from a module, not from a notebook.

    Returns:
        The metrics of every run, with means, confidence intervals and differences.

    Raises:
        ValueError: there are fewer than two seeds, a repeated seed or no variant, or a variant
            doesn't return `metric`.

    >>> variants = {"a": lambda seed: 0.8 + seed / 100, "b": lambda seed: 0.5 + seed / 100}
    >>> results = compare(variants, seeds=5)
    >>> results.difference("a", "b")
    (0.3, 0.3, 0.3)
    """
    seed_list = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    seed_list = seed_list[: limits.max_seeds]
    if not variants:
        raise ValueError("compare needs at least one variant, as {'name': function of the seed}")
    if len(seed_list) < 2 or len(set(seed_list)) < len(seed_list):
        raise ValueError(f"compare needs two or more different seeds, got {seed_list}")
    tasks = [(name, seed) for seed in seed_list for name in variants]
    if jobs == 1:
        results = [variants[name](seed) for name, seed in tasks]
    else:
        from joblib import Parallel, delayed  # installed with scikit-learn

        results = Parallel(n_jobs=jobs)(
            delayed(_run_in_worker)(variants[name], seed, limits) for name, seed in tasks
        )
    rows = [
        {"variant": name, "seed": seed, **_as_row(result, metric, name)}
        for (name, seed), result in zip(tasks, results, strict=True)
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
    """Run a comparison that takes too long for a chapter, and save its table beside the script.

    Args:
        script: `__file__` of the script; the table has the same name with the ending `.csv`.
        variants: as in `compare`.
        seeds: as in `compare`.
        metric: the metric to compare.
        jobs: the number of parallel processes, which divide the cores among them.

    Returns:
        The results, which `Results.load` reads from the table. The table also records versions,
        date and duration.
    """
    start = time.perf_counter()
    results = compare(variants, seeds, metric=metric, jobs=jobs)
    torch_version = torch.__version__.partition("+")[0]
    results.notes = {
        "made by": Path(script).name,
        "versions": f"torch {torch_version}, Python {platform.python_version()}",
        "date": time.strftime("%Y-%m-%d"),
        "seconds": f"{time.perf_counter() - start:.0f} with {jobs} process(es)",
    }
    results.save(Path(script).with_suffix(".csv"))
    return results


class Results:
    """The metrics of every variant and every seed of a comparison.

    Args:
        rows: one dictionary per run, with `variant`, `seed` and the metrics.
        metric: the metric that tables, differences and claims use.
        notes: where stored results come from.
    """

    def __init__(
        self, rows: list[dict[str, Any]], metric: str, notes: Mapping[str, str] | None = None
    ) -> None:
        self.rows, self.metric = rows, metric
        self.notes = dict(notes or {})

    @property
    def names(self) -> list[str]:
        """The names of the variants, in the order they were passed."""
        return list(dict.fromkeys(row["variant"] for row in self.rows))

    def values(self, name: str) -> np.ndarray:
        """Return the metric of a variant as an array (n,), in the order of the seeds."""
        if name not in self.names:
            names = ", ".join(map(repr, self.names))
            raise ValueError(f"there is no variant {name!r}; the variants are {names}")
        return np.array([row[self.metric] for row in self.rows if row["variant"] == name])

    def frame(self) -> "DataFrame":
        """Return a table with one row per run: variant, seed, metrics."""
        import pandas as pd

        return pd.DataFrame(self.rows)

    def table(self) -> "DataFrame":
        """Return a table with one row per variant: mean, low, high, sd, n.

        low and high are the ends of the 95 % t interval of the mean.
        """
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
        """Compute the mean of a - b and its 95 % confidence interval, from the pairs of runs.

        Both variants ran with the same seeds, so any effect that a seed has on both cancels out.
        The interval is a paired t interval (Student 1908), which assumes that the differences are
        roughly normally distributed.

        Returns:
            (mean, low, high).
        """
        return _t_interval(self.values(a) - self.values(b))

    def claim(self, a: str, relation: str, b: str, by: float = 0.0) -> Verdict:
        """Claim that one variant is better, and raise an error unless the whole interval agrees.

        Args:
            a: the name of a variant.
            relation: ">" (a exceeds b by more than `by`), "<" (b exceeds a by more than `by`), or
                "~" (they differ by less than `by`).
            b: the name of the other variant.
            by: the margin, in units of the metric; "~" needs one.

        Returns:
            The verdict, which prints as the claim, the interval and the outcome.

        Raises:
            ClaimNotSupported: the interval doesn't agree with the claim. If `limits.judge_claims`
                is off, this error isn't raised.
        """
        mean, low, high = self.difference(a, b)
        margin = f" by more than {by:g}" if by else ""
        match relation:
            case ">":
                claim, supported = f"{a} > {b}{margin} in {self.metric}", low > by
            case "<":
                claim, supported = f"{a} < {b}{margin} in {self.metric}", high < -by
            case "~":
                if by <= 0:
                    raise ValueError(
                        "'~' needs a margin that is larger than 0: claim(a, '~', b, by=0.02)"
                    )
                claim = f"{a} and {b} differ by less than {by:g} in {self.metric}"
                supported = -by < low and high < by
            case _:
                raise ValueError(f"relation must be '>', '<' or '~', got {relation!r}")
        verdict = Verdict(claim, supported, mean, low, high, judged=limits.judge_claims)
        if verdict.judged and not supported:
            raise ClaimNotSupported(
                f"{verdict}. Claim what the results show instead, or run more seeds; don't search "
                "for seeds that agree with the claim"
            )
        return verdict

    def plot(self, stored: "Results | None" = None) -> "Plot":
        """Draw every run as a tick, and the mean of each variant with its interval as a bar.

        Args:
            stored: the results of a longer study, drawn in grey beside the variants of the same
                name.
        """
        from cnnlab import plots

        stored_summary = stored._summary() if stored is not None else {}
        return plots.intervals(
            {name: self.values(name) for name in self.names},
            self._summary(),
            label=self.metric,
            stored={k: v for k, v in stored_summary.items() if k in self.names},
        )

    def _summary(self) -> dict[str, tuple[float, float, float]]:
        """Return (mean, low, high) of each variant, by name."""
        return {name: _t_interval(self.values(name)) for name in self.names}

    def save(self, path: str | Path) -> None:
        """Write a CSV table with one row per run, after `#` lines with the metric and the notes."""
        notes = {"metric": self.metric, **self.notes}
        header = "".join(f"# {key}: {value}\n" for key, value in notes.items())
        table = self.frame().round(6).to_csv(index=False, lineterminator="\n")
        write_whole(Path(path), (header + table).encode())

    @classmethod
    def load(cls, path: str | Path) -> "Results":
        """Read a table that `save` wrote.

        Raises:
            ValueError: `save` didn't write this file.
        """
        import pandas as pd

        lines = Path(path).read_text(encoding="utf-8").splitlines()
        notes = dict(line[2:].split(": ", 1) for line in lines if line.startswith("# "))
        metric = notes.pop("metric", None)
        if metric is None:
            raise ValueError(
                f"{path} has no line '# metric: ...'; load only tables that Results.save wrote"
            )
        frame = pd.read_csv(path, comment="#")
        return cls(frame.to_dict("records"), metric, notes)  # type: ignore[arg-type]

    def _repr_html_(self) -> str:
        return self.table().to_html(float_format="{:.3f}".format)

    def __repr__(self) -> str:
        return f"Results in {self.metric}:\n{self.table().round(3)}"


def _run_in_worker(variant: Variant, seed: int, parent: Limits) -> float | Mapping[str, float]:
    """Run a variant in a worker process, with the limits of the parent process."""
    vars(limits).update(vars(parent))
    return variant(seed)


def _as_row(result: float | Mapping[str, float], metric: str, name: str) -> dict[str, float]:
    """Turn the result of a variant into metrics by name."""
    if not isinstance(result, Mapping):
        return {metric: float(result)}
    if metric not in result:
        raise ValueError(
            f"variant {name!r} returned {', '.join(map(repr, result))}, but not the metric "
            f"{metric!r}; return it too, or choose another metric"
        )
    return {k: float(v) for k, v in result.items()}


def _t_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """Compute the mean and the ends of its t interval, rounded to hide floating-point noise."""
    from scipy.stats import ttest_1samp  # installed with scikit-learn

    mean = float(values.mean())
    # For equal values the interval is a point, but scipy would warn about a loss of precision.
    if np.ptp(values) < 1e-12 * max(1.0, abs(mean)):
        return round(mean, 12), round(mean, 12), round(mean, 12)
    low, high = ttest_1samp(values, 0).confidence_interval(level)
    return round(mean, 12), round(float(low), 12), round(float(high), 12)

"""Compare variants over several seeds, and check claims against confidence intervals.

A single run says little, because another seed can change an accuracy by several points. `compare`
runs every variant with the same seeds, and a claim is supported only if the whole confidence
interval of the difference agrees with it.
"""

import json
import platform
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from io import StringIO
from itertools import dropwhile
from math import isfinite, nan
from numbers import Integral
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cnnlab.errors import ClaimNotSupported
from cnnlab.files import write_whole
from cnnlab.limits import limits
from cnnlab.study.runs import describe_error, number_of_jobs, run_all, say


if TYPE_CHECKING:
    from pandas import DataFrame

    from cnnlab.plots import Plot


__all__ = [
    "Results",
    "Verdict",
    "compare",
    "study",
]


INTERRUPTED = "interrupted"
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

    A run that raises an error doesn't end the others: its error stands in `Results.unfinished`.
    After Ctrl-C, or the stop button of a notebook, the runs that have finished are returned. The
    run that was cut short never counts.

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
        Exception: the error of the first run, if every run raises one.
        KeyboardInterrupt: after an interrupt, if no run has finished.

    >>> variants = {"a": lambda seed: 0.8 + seed / 100, "b": lambda seed: 0.5 + seed / 100}
    >>> results = compare(variants, seeds=5)
    >>> results.difference("a", "b")
    (0.3, 0.3, 0.3)
    """
    seed_list = _seed_list(seeds)[: limits.max_seeds]
    if not variants:
        raise ValueError("compare needs at least one variant, as {'name': function of the seed}")
    if len(seed_list) < 2 or len(set(seed_list)) < len(seed_list):
        raise ValueError(f"compare needs two or more different seeds, got {seed_list}")
    tasks = [(name, seed) for seed in seed_list for name in variants]
    calls = [partial(_run, variants[name], seed, metric, name) for name, seed in tasks]
    outcomes = run_all(calls, number_of_jobs(jobs), fatal=MissingMetric)
    rows, unfinished, errors = [], [], []
    for (name, seed), outcome in zip(tasks, outcomes, strict=True):
        run = {"variant": name, "seed": seed}
        if outcome is None:
            unfinished.append(run | {"error": INTERRUPTED})
        elif outcome.error is not None:
            errors.append(outcome.error)
            unfinished.append(run | {"error": describe_error(outcome.error)})
        else:
            rows.append(run | outcome.value)
    if errors and not rows:
        errors[0].add_note(f"all {len(errors)} runs raised an error; this is the first one")
        raise errors[0]
    if errors:
        raised = [run for run in unfinished if run["error"] != INTERRUPTED]
        say(f"{len(raised)} of {len(tasks)} runs raised an error: {_listed(raised)}")
    return Results(rows, metric, unfinished=unfinished)


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
        script: `__file__` of the script; the table has the same name with the ending `.csv`. If
            runs are unfinished, it ends in `.partial.csv`, and an earlier table stays as it is.
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
    path = Path(script).with_suffix(".csv")
    if results.unfinished:
        path = path.with_suffix(".partial.csv")
        say(f"The table is incomplete, so it was saved as {path.name}")
    results.save(path)
    return results


class Results:
    """The metrics of every variant and every seed of a comparison.

    Args:
        rows: one dictionary per run, with `variant`, `seed` and the metrics.
        metric: the metric that tables, differences and claims use.
        notes: where stored results come from.
        unfinished: one dictionary per run that raised an error or was interrupted, with `variant`,
            `seed` and `error`.
    """

    def __init__(
        self,
        rows: list[dict[str, Any]],
        metric: str,
        notes: Mapping[str, str] | None = None,
        unfinished: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.rows, self.metric = rows, metric
        self.notes = dict(notes or {})
        self.unfinished = list(unfinished)

    @property
    def names(self) -> list[str]:
        """The names of the variants, in the order of their first finished runs."""
        return list(dict.fromkeys(row["variant"] for row in [*self.rows, *self.unfinished]))

    def values(self, name: str) -> np.ndarray:
        """Return the metric of a variant as an array (n,), in the order of the seeds."""
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
        that have finished. An interval needs two of them.
        """
        import pandas as pd

        rows = []
        for name in self.names:
            values = self.values(name)
            mean, low, high = _t_interval(values)
            std = float(values.std(ddof=1)) if isfinite(low) else nan
            rows.append({"variant": name, "mean": mean, "low": low, "high": high, "sd": std})
            rows[-1]["n"] = len(values)
        return pd.DataFrame(rows).set_index("variant")

    def difference(self, a: str, b: str) -> tuple[float, float, float]:
        """Compute the mean of a - b and its 95 % confidence interval, from the pairs of runs.

        Both variants ran with the same seeds, so any effect that a seed has on both cancels out.
        The interval is a paired t interval (Student 1908), which assumes that the differences are
        roughly normally distributed. If a run of one of them hasn't finished, its seed is left out
        for both, with a warning.

        Returns:
            (mean, low, high).

        Raises:
            ValueError: a metric is NaN or infinite, or fewer than two seeds have finished for both.
        """
        differences, left_out = self._differences(a, b)
        if left_out:
            message = f"the difference of {a!r} and {b!r} leaves out {left_out}{self._why(a, b)}"
            warnings.warn(message, UserWarning, stacklevel=2)
        return _t_interval(differences)

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
        return f": {_listed(runs)}" if runs else ""

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
            ValueError: runs of these variants haven't finished, or a metric is NaN or infinite.
        """
        differences, left_out = self._differences(a, b)
        if left_out:
            raise ValueError(
                f"{a!r} and {b!r} haven't both finished {left_out}{self._why(a, b)}. A claim needs "
                "every run, because leaving some out could decide it: run compare again, and look "
                "at difference() meanwhile"
            )
        mean, low, high = _t_interval(differences)
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
            message: the title, what the reader should see; by default, it names the variants with
                the highest and the lowest mean.
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
        return {name: _t_interval(self.values(name)) for name in self.names}

    def save(self, path: str | Path) -> None:
        """Write a CSV table with one row per run, after `#` lines with the metric and the notes."""
        notes = {"metric": self.metric, **self.notes}
        if self.unfinished:
            notes["unfinished"] = json.dumps(self.unfinished)
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
        unfinished = json.loads(notes.pop("unfinished", "[]"))
        table = "\n".join(dropwhile(lambda line: line.startswith("# "), lines))
        frame = pd.read_csv(StringIO(table))
        # A name such as "None" or "0.1" stays as it is.
        names = pd.read_csv(StringIO(table), usecols=["variant"], dtype=str, keep_default_na=False)
        frame["variant"] = names["variant"]
        return cls(frame.to_dict("records"), metric, notes, unfinished)  # type: ignore[arg-type]

    def _repr_html_(self) -> str:
        table = self.table().to_html(float_format="{:.3f}".format)
        return table + (f"<p>{escape(self._note())}</p>" if self.unfinished else "")

    def __repr__(self) -> str:
        return f"Results in {self.metric}:\n{self.table().round(3)}" + (
            f"\n{self._note()}" if self.unfinished else ""
        )

    def _note(self) -> str:
        n = len(self.unfinished)
        return f"{n} of {n + len(self.rows)} runs are unfinished: {_listed(self.unfinished)}"


class MissingMetric(ValueError):
    """A variant doesn't return the metric to compare."""


def _run(variant: Variant, seed: int, metric: str, name: str) -> dict[str, float]:
    """Run a variant with a seed, and return its metrics by name."""
    result = variant(seed)
    if not isinstance(result, Mapping):
        result = {metric: result}
    if metric not in result:
        raise MissingMetric(
            f"variant {name!r} returned {', '.join(map(repr, result))}, but not the metric "
            f"{metric!r}; return it too, or choose another metric"
        )
    try:
        return {k: float(v) for k, v in result.items()}
    except (TypeError, ValueError):
        raise TypeError(
            f"variant {name!r} returned {result!r:.80}; return the metric as a number, or a "
            "dictionary of numbers"
        ) from None


def _seed_list(seeds: Any) -> list[Any]:
    """Return the seeds themselves, with numpy's integers as Python's."""
    try:
        return list(range(index(seeds)))
    except TypeError:
        return [int(seed) if isinstance(seed, Integral) else seed for seed in seeds]


def _seeds(seeds: Iterable[Any]) -> str:
    """Return seeds in words; "" if there are none.

    >>> _seeds([2, 0]), _seeds({1})
    ('seeds 0, 2', 'seed 1')
    """
    listed = sorted(seeds, key=lambda seed: (str(type(seed)), seed))
    return f"seed{'s' * (len(listed) > 1)} {', '.join(map(str, listed))}" if listed else ""


def _listed(unfinished: Sequence[Mapping[str, Any]], limit: int = 3) -> str:
    """Return the runs that didn't finish, and why."""
    runs = [f"{run['variant']}, seed {run['seed']} ({run['error']})" for run in unfinished[:limit]]
    more = len(unfinished) - len(runs)
    return " ".join("; ".join(runs).split()) + (f"; and {more} more" if more > 0 else "")


def _t_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """Compute the mean and the ends of its t interval, rounded to hide floating-point noise.

    The ends are NaN for a single value, and if a value is NaN or infinite.
    """
    from scipy.stats import ttest_1samp  # installed with scikit-learn

    if len(values) < 2 or not np.isfinite(values).all():
        return (float(values.mean()) if len(values) else nan), nan, nan
    mean = float(values.mean())
    # For equal values the interval is a point, but scipy would warn about a loss of precision.
    if np.ptp(values) < 1e-12 * max(1.0, abs(mean)):
        return round(mean, 12), round(mean, 12), round(mean, 12)
    low, high = ttest_1samp(values, 0).confidence_interval(level)
    return round(mean, 12), round(float(low), 12), round(float(high), 12)

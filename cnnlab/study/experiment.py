"""Compare variants over several seeds, and check claims against confidence intervals.

A single run says little, because another seed can change an accuracy by several points. `compare`
runs every variant with the same seeds, and a claim is supported only if the whole confidence
interval of the difference agrees with it. `compare_declared` and `study` also write down, before
the first run, what the comparison sets out to show.
"""

import hashlib
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from numbers import Integral
from operator import index
from pathlib import Path
from typing import Any

import torch

from cnnlab.files import user_path
from cnnlab.limits import limits
from cnnlab.study.declaration import Claim, Declaration, budget, fixed_data, fresh_data, splits
from cnnlab.study.results import Difference, Results, Verdict, listed
from cnnlab.study.runs import Outcome, describe_error, number_of_jobs, run_all, say


__all__ = [
    "Claim",
    "Declaration",
    "Difference",
    "Results",
    "Verdict",
    "budget",
    "compare",
    "compare_declared",
    "fixed_data",
    "fresh_data",
    "splits",
    "study",
]


INTERRUPTED = "interrupted"
Variant = Callable[[int], float | Mapping[str, float]]
Run = tuple[str, Any]  # variant and seed


def compare(
    variants: Mapping[str, Variant],
    seeds: Sequence[int] | int,
    *,
    metric: str = "test_acc",
    jobs: int = 1,
) -> Results:
    """Run every variant with every seed.

    A run that raises an error doesn't end the others: its error stands in `Results.unfinished`.
    After Ctrl-C, or the stop button of a notebook, the runs that have finished are returned. The
    run that was cut short never counts. In a notebook or a terminal, a bar shows how many runs have
    finished and how much time is left.

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
        TypeError: `variants` isn't a dictionary of functions, or `seeds` is neither a number nor a
            list.
        Exception: the error of the first run, if every run raises one.
        KeyboardInterrupt: after an interrupt, if no run has finished.

    >>> variants = {"a": lambda seed: 0.8 + seed / 100, "b": lambda seed: 0.5 + seed / 100}
    >>> results = compare(variants, seeds=5)
    >>> results.difference("a", "b")
    Difference(mean=0.3, low=0.3, high=0.3)
    """
    return _run_missing(variants, _checked_seeds(variants, seeds), metric, jobs)


def compare_declared(
    declaration: Declaration,
    variants: Mapping[str, Variant],
    seeds: Sequence[int] | int,
    *,
    metric: str = "test_acc",
    jobs: int = 1,
) -> Results:
    """Compare variants as `compare` does, after declaring what the comparison sets out to show.

    Args:
        declaration: the question, the claims, and what differs between the seeds.
        variants: as in `compare`.
        seeds: as in `compare`.
        metric: the metric to compare; a claim may name another one.
        jobs: as in `compare`.

    Returns:
        The results. `Results.claim` corrects the declared claims for their number, and calls any
        other claim exploratory.

    Raises:
        ValueError: the declaration names a variant that doesn't exist; and as in `compare`.
        TypeError: as in `compare`.

    >>> question = Declaration("Is a better than b?", [Claim("a", ">", "b")], fresh_data())
    >>> variants = {"a": lambda seed: 0.8 + seed / 100, "b": lambda seed: 0.5 + seed / 50}
    >>> print(compare_declared(question, variants, seeds=5).claim("a", ">", "b"))
    a beats b in test accuracy by 28.0 points (95 % CI 26.0 to 30.0)
      declared before the run, p < 0.001: supported
    """
    bound = declaration.bind(variants, metric)
    results = compare(variants, seeds, metric=metric, jobs=jobs)
    results.declaration = bound
    return results


def _run_missing(
    variants: Mapping[str, Variant],
    seeds: Sequence[Any],
    metric: str,
    jobs: int,
    earlier: Mapping[Run, dict[str, Any]] | None = None,
    save: Callable[[Results], object] | None = None,
) -> Results:
    """Make every run that isn't in `earlier`, and call `save` with the results after each."""
    tasks = [(name, seed) for seed in seeds for name in variants]
    rows = dict(earlier or {})
    missing = [task for task in tasks if task not in rows]
    unfinished = dict.fromkeys(missing, INTERRUPTED)
    errors: list[Exception] = []

    def results() -> Results:
        return Results(
            [rows[task] for task in tasks if task in rows],
            metric,
            unfinished=[
                {"variant": task[0], "seed": task[1], "error": unfinished[task]}
                for task in tasks
                if task in unfinished
            ],
        )

    def take(number: int, outcome: Outcome) -> None:
        task = missing[number]
        if outcome.error is not None:
            errors.append(outcome.error)
            unfinished[task] = describe_error(outcome.error)
            return
        del unfinished[task]
        run = {"variant": task[0], "seed": task[1]}
        rows[task] = run | outcome.value | run  # a variant may return its seed too
        if save is not None:
            save(results())

    calls = [partial(run_variant, variants[name], seed, metric, name) for name, seed in missing]
    run_all(calls, number_of_jobs(jobs), fatal=MissingMetric, take=take)
    if errors and not rows:
        errors[0].add_note(f"all {len(errors)} runs raised an error; this is the first one")
        raise errors[0]
    if errors:
        raised = [run for run in results().unfinished if run["error"] != INTERRUPTED]
        say(f"{len(raised)} of {len(tasks)} runs raised an error: {listed(raised)}")
    return results()


def study(
    script: str | Path,
    variants: Mapping[str, Variant],
    seeds: Sequence[int] | int,
    *,
    metric: str = "valid_acc",
    jobs: int = 1,
    declaration: Declaration | None = None,
    table: str | Path | None = None,
) -> Results:
    """Run a comparison that takes too long for a chapter, and save its table beside the script.

    Each finished run is saved at once, in a table that ends in `.partial.csv`. If the study is
    interrupted, the next call continues from there, unless the script or a module beside it has
    changed since.

    Args:
        script: `__file__` of the script.
        variants: as in `compare`.
        seeds: as in `compare`.
        metric: the metric to compare.
        jobs: the number of parallel processes, which divide the cores among them.
        declaration: what the study sets out to show. It is saved before the first run.
        table: the table; by default it has the name of the script with the ending `.csv`. If runs
            are unfinished, an earlier table stays as it is.

    Returns:
        The results, which `Results.load` reads from the table. The table also records the
        declaration, versions, date and duration.
    """
    start = time.perf_counter()
    seed_list = _checked_seeds(variants, seeds)
    script = user_path(script)
    path = script.with_suffix(".csv") if table is None else user_path(table)
    partial_path = path.with_suffix(".partial.csv")
    notes = {"made by": script.name}
    bound = None if declaration is None else declaration.bind(variants, metric)
    if bound is not None:
        notes["declaration"] = bound.to_json(variants, len(seed_list), metric)
    notes |= {"versions": _versions(), "sources": _sources(script)}
    earlier = _finished_runs(partial_path, notes, metric)
    if earlier:
        say(f"Going on after {len(earlier)} finished runs in {partial_path.name}")
    date = time.strftime("%Y-%m-%d")

    def save(results: Results) -> None:
        results.notes, results.declaration = notes | {"date": date}, bound
        results.save(partial_path)

    save(Results(list(earlier.values()), metric))
    results = _run_missing(variants, seed_list, metric, jobs, earlier, save)
    save(results)
    if results.unfinished:
        say(f"The table is incomplete, so it was saved as {partial_path.name}")
        return results
    seconds = f"{time.perf_counter() - start:.0f} with {jobs} process(es)"
    results.notes["seconds"] = seconds + (", continued" if earlier else "")
    del results.notes["sources"]  # only for a partial table
    results.save(path)
    partial_path.unlink()
    return results


def _versions() -> str:
    torch_version = torch.__version__.partition("+")[0]
    return f"torch {torch_version}, Python {platform.python_version()}"


def _sources(script: Path) -> str:
    """Return a hash of the script and of the modules beside it that it has imported."""
    folder = script.resolve().parent
    files = {script.resolve()}
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file and Path(file).resolve().parent == folder:
            files.add(Path(file).resolve())
    digest = hashlib.sha256()
    for path in sorted(files):
        with suppress(OSError):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _finished_runs(path: Path, notes: Mapping[str, str], metric: str) -> dict[Run, dict[str, Any]]:
    """Return the runs of a partial table, if the same script made them with the same versions."""
    if not path.exists():
        return {}
    stored = Results.load(path)
    same = all(stored.notes.get(key) == value for key, value in notes.items())
    if not same or stored.metric != metric:
        say(f"{path.name} was made by another version of this study, so it begins anew")
        return {}
    return {(row["variant"], row["seed"]): row for row in stored.rows}


class MissingMetric(ValueError):
    """A variant doesn't return the metric to compare."""


def run_variant(variant: Variant, seed: int, metric: str, name: str) -> dict[str, float]:
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


def _checked_seeds(variants: Mapping[str, Variant], seeds: Any) -> list[Any]:
    """Return the seeds themselves, at most `limits.max_seeds`, with numpy's integers as Python's.

    Raises:
        ValueError: there are fewer than two, one occurs twice, or there is no variant.
    """
    try:
        seed_list = list(range(index(seeds)))
    except TypeError:
        if isinstance(seeds, str) or not isinstance(seeds, Iterable):
            raise TypeError(
                f"seeds must be a number of seeds, or a list such as [0, 1, 2]; got {seeds!r}"
            ) from None
        seed_list = [int(seed) if isinstance(seed, Integral) else seed for seed in seeds]
    seed_list = seed_list[: limits.max_seeds]
    if not isinstance(variants, Mapping) or not all(map(callable, variants.values())):
        raise TypeError(
            f"variants must be a dictionary {{'name': function of the seed}}, got {variants!r:.60}"
        )
    if not variants:
        raise ValueError("compare needs at least one variant, as {'name': function of the seed}")
    if len(seed_list) < 2 or len(set(seed_list)) < len(seed_list):
        raise ValueError(f"compare needs two or more different seeds, got {seed_list}")
    return seed_list

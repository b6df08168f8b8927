"""Repeat the stored studies with new seeds, and report which of their claims hold again."""

import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from cnnlab.course import notebooks
from cnnlab.errors import CnnlabError
from cnnlab.files import write_whole
from cnnlab.study.experiment import Claim, Results, Verdict, study


if TYPE_CHECKING:
    from pandas import DataFrame


FIRST_SEED = 10_000  # the studies use seeds from 0, and their settings were chosen with some of 100


@dataclass(frozen=True)
class Repeated:
    """A declared claim with its first result and its second.

    Attributes:
        study: the name of the study.
        claim: the claim in words.
        first: the first difference with its interval.
        supported: whether the first table supports the claim.
        again: the difference with new seeds.
        held: whether the new table supports the claim, too.
        unit: what differs between the seeds of the study.
        date: the day of the new runs.
    """

    study: str
    claim: str
    first: str
    supported: bool
    again: str
    held: bool
    unit: str
    date: str


def scripts(names: Sequence[str] = ()) -> list[Path]:
    """Return the scripts of the named studies, or of all that declare something.

    Args:
        names: such as "04_few_labels".

    Raises:
        FileNotFoundError: there is no such study.
        CnnlabError: a named study declares nothing, so there is nothing that could hold.
    """
    folder = notebooks.root() / "chapters" / "studies"
    known = {path.stem: path for path in sorted(folder.glob("*.py")) if path.stem != "common"}
    missing = [name for name in names if name not in known]
    if missing:
        raise FileNotFoundError(
            f"there is no study {missing[0]!r}; the studies are {', '.join(known)}"
        )
    chosen = [known[name] for name in names or known]
    silent = [path for path in chosen if "\nDECLARATION = " not in path.read_text(encoding="utf-8")]
    if names and silent:
        raise CnnlabError(f"{silent[0].name} has no DECLARATION, so it claims nothing to repeat")
    return [path for path in chosen if path not in silent]


def replicate(
    names: Sequence[str] = (),
    *,
    out: Path | None = None,
    report: Path | None = None,
    say: Callable[[str], object] = print,
) -> "DataFrame":
    """Run studies again with new seeds, and compare every declared claim with its first result.

    Each finished run is stored at once, so an interrupted replication continues from there. The
    report contains the claims of all the studies that have been repeated so far. A study whose data
    aren't on this machine is left out, with a line that says so.

    Args:
        names: the studies; by default all that declare something.
        out: a folder for the new tables; by default `_build/replication` in the course.
        report: a CSV file for the report; by default `chapters/studies/replication.csv`.
        say: called with a line after each study.

    Returns:
        A table with one row per claim and the columns of `Repeated`.
    """
    import pandas as pd

    if out is None:
        out = notebooks.own_root() / "_build" / "replication"
    if report is None:
        report = notebooks.own_root() / "chapters" / "studies" / "replication.csv"
    out.mkdir(parents=True, exist_ok=True)
    chosen = scripts(names)
    rows: list[Any] = []
    if report.exists():
        rows = pd.read_csv(report).to_dict("records")
    for number, script in enumerate(chosen, start=1):
        try:
            claims = repeat(script, out / f"{script.stem}.csv")
        except FileNotFoundError as error:
            say(f"{number}/{len(chosen)} {script.stem}: left out, because {error}")
            continue
        if claims is None:
            raise KeyboardInterrupt
        rows = [row for row in rows if row["study"] != script.stem]
        rows += [asdict(claim) for claim in claims]
        rows.sort(key=lambda row: row["study"])
        write_whole(report, pd.DataFrame(rows).to_csv(index=False, lineterminator="\n").encode())
        supported = [claim for claim in claims if claim.supported]
        held = sum(claim.held for claim in supported)
        say(f"{number}/{len(chosen)} {script.stem}: {held} of {len(supported)} claims held")
    return pd.DataFrame(rows)


def repeat(script: Path, table: Path) -> list[Repeated] | None:
    """Run one study with new seeds, unless its new table is complete, and compare its claims.

    Returns:
        One entry per declared claim, or None if the study was interrupted.
    """
    first = Results.load(script.with_suffix(".csv"))
    with imported(script) as module:
        seeds = range(FIRST_SEED, FIRST_SEED + module.SEEDS)
        text = module.DECLARATION.to_json(module.VARIANTS, module.SEEDS, module.METRIC)
        if not (table.exists() and Results.load(table).notes.get("declaration") == text):
            with one_thread():
                results = study(
                    script, module.VARIANTS, seeds, metric=module.METRIC,
                    declaration=module.DECLARATION, table=table,
                )  # fmt: skip
            if results.unfinished:
                return None
    again = Results.load(table)
    assert again.declaration is not None
    return [_compare(script.stem, claim, first, again) for claim in again.declaration.claims]


def summary(report: "DataFrame") -> str:
    """Return the sentence of the front page, such as "9 of 10 claims held".

    >>> import pandas as pd
    >>> summary(pd.DataFrame({"supported": [True, True, False], "held": [True, False, True]}))
    '1 of 2 claims held'
    """
    supported = report[report["supported"]]
    return f"{int(supported['held'].sum())} of {len(supported)} claims held"


def table(report: "DataFrame") -> "DataFrame":
    """Return the report as a reader needs it: the claims, both results, and what held in words.

    >>> import pandas as pd
    >>> claim = Repeated("02", "a > b", "+0.1", True, "+0.0", False, "", "2026-11-29")
    >>> table(pd.DataFrame([asdict(claim)])).to_dict("records")[0]["held"]
    'no'
    """
    names = {"claim": "declared claim", "first": "first result", "again": "with new seeds"}
    held = report["held"].map({True: "yes", False: "no"})
    shown = report.assign(held=held.where(report["supported"], "wasn't supported at first"))
    return shown[["study", *names, "held"]].rename(columns=names)


def markdown(report: "DataFrame") -> str:
    """Return the report as a Markdown table, in which claims that didn't hold stand out."""
    shown = table(report)
    lines = [f"| {' | '.join(shown.columns)} |", "|---" * len(shown.columns) + "|"]
    for *cells, held in shown.itertuples(index=False):
        lines.append(f"| {' | '.join([*cells, held if held != 'no' else '**no**'])} |")
    return "\n".join(lines) + "\n"


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute as the studies do: the number of threads affects the last bits of a sum."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def imported(script: Path) -> Iterator[ModuleType]:
    """Import a study with its own folder on the path, as if it were run, for a `with` block."""
    before = set(sys.modules)
    spec = importlib.util.spec_from_file_location(script.stem, script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(script.parent))
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(script.parent))
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file and Path(file).parent == script.parent:
                del sys.modules[name]


def _compare(name: str, claim: Claim, first: Results, again: Results) -> Repeated:
    before, after = judge(first, claim), judge(again, claim)
    unit = again.unit.text if again.unit is not None else ""
    return Repeated(
        name,
        after.claim,
        _numbers(before),
        before.supported,
        _numbers(after),
        after.supported,
        unit,
        again.notes["date"],
    )


def judge(results: Results, claim: Claim) -> Verdict:
    """Judge a declared claim, which names its metric, with the runs of a table."""
    return results.on(claim.metric).verdict(claim.a, claim.relation, claim.b, claim.by)


def _numbers(verdict: Verdict) -> str:
    return f"{verdict.mean:+.3f} ({verdict.low:+.3f} to {verdict.high:+.3f})"

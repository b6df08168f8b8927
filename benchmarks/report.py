"""Tables of results: one Markdown file to read and one CSV file to compute with for each benchmark."""

import argparse
import csv
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import torch

from benchmarks.pairs import Pairs


RESULTS = Path(__file__).with_name("results")


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        what: the contestant.
        pairs: its times beside the reference's.
        goal: what the ratio should be at most, or at least when `at_least` is set; None where there
            is no goal.
        at_least: see `goal`.
        note: a word on what differs.
        unit: how many steps or images a turn has; times are given for one of them.
    """

    what: str
    pairs: Pairs
    goal: float | None = None
    at_least: bool = False
    note: str = ""
    unit: int = 1

    @property
    def verdict(self) -> str:
        """The goal, and whether the median keeps it."""
        if self.goal is None:
            return ""
        kept = self.pairs.ratio >= self.goal if self.at_least else self.pairs.ratio <= self.goal
        return (
            f"{'at least' if self.at_least else 'at most'} {self.goal:g}: {'yes' if kept else 'no'}"
        )


@dataclass(frozen=True)
class Table:
    """Rows that share a reference.

    Attributes:
        title: what is compared.
        reference: what every ratio is divided by.
        per: what a time is of, "step" or "image".
        rows: in the order in which they are shown.
    """

    title: str
    reference: str
    per: str
    rows: Sequence[Row]

    def markdown(self) -> str:
        """Return the table as Markdown."""
        lines = [
            f"## {self.title}",
            "",
            f"| | time / {self.reference} | 95 % interval | per {self.per} | goal | |",
            "|---|---:|---|---:|---|---|",
            *(self._line(row) for row in self.rows),
        ]
        return "\n".join(lines)

    def _line(self, row: Row) -> str:
        low, high = row.pairs.interval
        own = sorted(row.pairs.own)[len(row.pairs.own) // 2] / row.unit
        between = "too few pairs" if math.isnan(low) else f"{digits(low)} to {digits(high)}"
        return f"| {row.what} | {digits(row.pairs.ratio)} | {between} | {duration(own)} | {row.verdict} | {row.note} |"


def digits(value: float) -> str:
    """Write a positive number with three decimals below 2, and with three figures above.

    >>> digits(1.0234), digits(37.26), digits(1234.5)
    ('1.023', '37.3', '1234')
    """
    if value < 2:
        return f"{value:.3f}"
    return f"{value:.{max(0, 2 - int(math.log10(value)))}f}"


def duration(value: float) -> str:
    """Write seconds in the unit that suits them.

    >>> duration(3.2), duration(0.0021), duration(0.00041)
    ('3.20 s', '2.10 ms', '410 µs')
    """
    for unit, size in (("s", 1), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:.{max(0, 2 - int(math.log10(value / size)))}f} {unit}"
    return f"{value * 1e6:.0f} µs"


def parser(name: str) -> argparse.ArgumentParser:
    """Return a parser of the arguments that every benchmark takes: `short`, and `out`, the folder for the tables."""
    every = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}")
    every.add_argument("--short", action="store_true", help="in seconds; the numbers mean nothing")
    every.add_argument("--out", type=Path, help="folder for the tables; benchmarks/results")
    return every


def options(
    name: str,
    arguments: Sequence[str] | None = None,
    extended: argparse.ArgumentParser | None = None,
) -> argparse.Namespace:
    """Read the arguments, by `parser(name)` or by one that was extended; from here on torch has one thread."""
    chosen = (extended or parser(name)).parse_args(arguments)
    if chosen.out is None and not chosen.short:
        chosen.out = RESULTS
    torch.set_num_threads(1)
    return chosen


def installed(names: Sequence[str], *, of: str) -> list[str]:
    """Return those of the modules that can be imported, and say which cannot."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        print(
            f"{of}: {', '.join(missing)} not installed, so left out; `make bench` installs the "
            "peers."
        )
    return [name for name in names if name not in missing]


def write(
    name: str,
    title: str,
    words: str,
    tables: Sequence[Table],
    packages: Sequence[str],
    out: Path | None,
    measured: str = "one thread used; processor time",
) -> str:
    """Print a page of tables; with a folder, write it there as `name.md`, and its rows as `name.csv`.

    Args:
        name: of the files.
        title: heading of the page.
        words: what is measured and how to read it.
        tables: the results.
        packages: distributions whose versions matter.
        out: the folder, or None to print only.
        measured: on what beside the processor, and by which clock.

    Returns:
        The page.
    """
    body = "\n\n".join(table.markdown() for table in tables)
    page = f"# {title}\n\n{words}\n\n{body}\n\n{circumstances(name, packages, measured)}\n"
    print(page)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}.md").write_text(page, encoding="utf-8")
        _write_rows(out / f"{name}.csv", tables)
    return page


def _write_rows(path: Path, tables: Sequence[Table]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["table", "what", "pair", "seconds", "reference_seconds", "units"])
        for table in tables:
            for row in table.rows:
                times = zip(row.pairs.own, row.pairs.reference, strict=True)
                for number, (own, reference) in enumerate(times):
                    numbers = [number, f"{own:.9f}", f"{reference:.9f}", row.unit]
                    rows.writerow([table.title, row.what, *numbers])


def circumstances(name: str, packages: Sequence[str], measured: str) -> str:
    """Return the machine, the versions and the command behind a page."""
    versions = [f"{p} {v}" for p in ("torch", *packages) if (v := _version(p))]
    return (
        f"{processor()}; {os.cpu_count()} cores, {measured}, medians over pairs of turns. "
        f"Python {platform.python_version()}, {', '.join(versions)}.\n"
        f"Made by `python -m benchmarks.{name}` on {datetime.now(UTC):%Y-%m-%d}."
    )


def processor() -> str:
    """Return the name of the processor, or its family where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package).partition("+")[0]
    except metadata.PackageNotFoundError:
        return None

"""Write the tables of a benchmark: a Markdown file to read, and a CSV file with every time."""

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
        name: the contestant.
        pairs: the times of the contestant and of the reference.
        goal: an upper bound for the ratio, or a lower bound if `at_least` is set; None for no goal.
        at_least: whether the goal is a lower bound.
        note: a remark for the last column.
        unit: the number of steps or images per turn; the table shows the time of one of them.
    """

    name: str
    pairs: Pairs
    goal: float | None = None
    at_least: bool = False
    note: str = ""
    unit: int = 1

    @property
    def verdict(self) -> str:
        """The goal, and whether the median ratio meets it."""
        if self.goal is None:
            return ""
        ratio, goal = self.pairs.ratio, self.goal
        met = ratio >= goal if self.at_least else ratio <= goal
        return f"{'at least' if self.at_least else 'at most'} {goal:g}: {'yes' if met else 'no'}"


@dataclass(frozen=True)
class Table:
    """Rows that share a reference.

    Attributes:
        title: the heading of the table.
        reference: the name of the contestant that all times are divided by.
        per: the unit of a time, such as "step" or "image".
        rows: in the order of the table.
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
        interval = "too few pairs" if math.isnan(low) else f"{digits(low)} to {digits(high)}"
        cells = [row.name, digits(row.pairs.ratio), interval, duration(own), row.verdict, row.note]
        return f"| {' | '.join(cells)} |"


def digits(value: float) -> str:
    """Format a positive number, with three decimals below 2 and three significant digits above.

    >>> digits(1.0234), digits(37.26), digits(1234.5)
    ('1.023', '37.3', '1234')
    """
    if value < 2:
        return f"{value:.3f}"
    return f"{value:.{max(0, 2 - int(math.log10(value)))}f}"


def duration(value: float) -> str:
    """Format a time in seconds, in the unit that suits its size.

    >>> duration(3.2), duration(0.0021), duration(0.00041)
    ('3.20 s', '2.10 ms', '410 µs')
    """
    for unit, size in (("s", 1), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:.{max(0, 2 - int(math.log10(value / size)))}f} {unit}"
    return f"{value * 1e6:.0f} µs"


def parser(name: str) -> argparse.ArgumentParser:
    """Return a parser for `--short` and `--out`, the options of every benchmark."""
    common = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}")
    common.add_argument("--short", action="store_true", help="a quick test of the code only")
    common.add_argument("--out", type=Path, help="folder of the tables (benchmarks/results)")
    return common


def options(
    name: str,
    arguments: Sequence[str] | None = None,
    extended: argparse.ArgumentParser | None = None,
) -> argparse.Namespace:
    """Parse the command line, and limit torch to one thread from here on.

    Args:
        name: the name of the benchmark.
        arguments: the command line; by default that of this process.
        extended: a parser with further options; by default `parser(name)`.
    """
    args = (extended or parser(name)).parse_args(arguments)
    if args.out is None and not args.short:
        args.out = RESULTS
    torch.set_num_threads(1)
    return args


def installed(names: Sequence[str], *, of: str) -> list[str]:
    """Return the modules that can be imported, and print the missing ones.

    Args:
        names: names of modules.
        of: the benchmark that needs them, for the message.
    """
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        print(
            f"{of}: left out because not installed: {', '.join(missing)}. "
            "`make bench` installs all of them."
        )
    return [name for name in names if name not in missing]


def write(
    name: str,
    title: str,
    description: str,
    tables: Sequence[Table],
    packages: Sequence[str],
    out: Path | None,
    conditions: str = "one thread, CPU time",
) -> str:
    """Print a page of tables, and save it as `name.md` and its times as `name.csv`.

    Args:
        name: the name of the two files, without a suffix.
        title: heading of the page.
        description: the paragraph under the heading: what is timed, and how to read the tables.
        tables: the results.
        packages: distributions whose versions are listed.
        out: the folder of the files, or None to only print the page.
        conditions: the hardware besides the processor, and the clock.

    Returns:
        The page.
    """
    body = "\n\n".join(table.markdown() for table in tables)
    page = f"# {title}\n\n{description}\n\n{body}\n\n{footer(name, packages, conditions)}\n"
    print(page)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}.md").write_text(page, encoding="utf-8")
        _write_rows(out / f"{name}.csv", tables)
    return page


def _write_rows(path: Path, tables: Sequence[Table]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["table", "what", "pair", "seconds", "reference_seconds", "units"])
        for table in tables:
            for row in table.rows:
                pairs = zip(row.pairs.own, row.pairs.reference, strict=True)
                for number, (own, reference) in enumerate(pairs):
                    values = [number, f"{own:.9f}", f"{reference:.9f}", row.unit]
                    writer.writerow([table.title, row.name, *values])


def footer(name: str, packages: Sequence[str], conditions: str) -> str:
    """Return the last lines of a page: the machine, the versions and the command."""
    versions = [f"{p} {v}" for p in ("torch", *packages) if (v := _version(p))]
    return (
        f"{processor()}; {os.cpu_count()} cores; {conditions}; medians over pairs of turns. "
        f"Python {platform.python_version()}, {', '.join(versions)}.\n"
        f"Made by `python -m benchmarks.{name}` on {datetime.now(UTC):%Y-%m-%d}."
    )


def processor() -> str:
    """Return the name of the processor, or its architecture if the system doesn't give a name."""
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

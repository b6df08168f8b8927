"""Compare the intervals that the chapters quote with the stored studies and their own outputs.

A chapter quotes "3.6 points (2.1 to 5.0)". Such an interval must be one of a stored study or of
its replication, or be computed in the chapter itself. After a change in a chapter, execute it and
run

    python tests/test_numbers.py EXECUTED.ipynb ...

which prints every decimal number in its text that is in no table and in no output. What it prints
was quoted from a paper, computed by hand, or is wrong.
"""

import itertools
import re
import sys
import warnings
from functools import lru_cache
from pathlib import Path

import pandas as pd
import pytest

from cnnlab.experiment import Results


ROOT = Path(__file__).parents[1]
STUDIES = ROOT / "chapters" / "studies"
NUMBER = r"[+−-]?\d+(?:\.\d+)?"
INTERVAL = re.compile(
    rf"(?P<before>[^()]{{0,60}})\((?:[^()]*\s)?(?P<low>{NUMBER}) to (?P<high>{NUMBER})[^()\d]*\)"
)
WORDS = [
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
ESTIMATE = rf"({NUMBER}|\b(?:{'|'.join(WORDS)})\b)"
# Printed by a cell of the chapter; `python tests/test_numbers.py` finds them in its outputs.
LIVE = {
    ("01", "0.2", "3.6"), ("05", "0.1", "3.0"), ("05", "0.2", "13.6"), ("08", "−0.5", "+2.3"),
    ("09", "−0.3", "18.5"), ("10", "−0.02", "0.27"), ("11", "11", "16"), ("11", "6", "9"),
    ("13", "0.55", "0.70"), ("13", "0.80", "0.91"),
}  # fmt: skip
# Of the second run of a study, for comparisons that no claim is about; `make replicate` leaves its
# table in `_build/replication`.
REPEATED = {("13", "−2.1", "4.5"), ("13", "−1.7", "0.7")}


def text_of(script: Path) -> str:
    """Return the Markdown of a chapter in one line."""
    cells = re.split(r"^# %%", script.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = (re.sub(r"^# ?", "", c, flags=re.MULTILINE) for c in cells if c[:11] == " [markdown]")
    return re.sub(r"\s+", " ", "\n".join(lines))


def value(number: str) -> float:
    return float(number.replace("−", "-"))


def rounds_to(exact: float, number: str) -> bool:
    decimals = len(number.partition(".")[2])
    return abs(exact - value(number)) <= 0.5 * 10**-decimals + 1e-9


@lru_cache
def stored(chapter: str) -> list[tuple[float, float, float]]:
    """Return mean, low and high of every variant and every difference in a chapter's studies."""
    found = replicated(chapter)
    for path in sorted(STUDIES.glob(f"{chapter}_*.csv")):
        if "# metric: " not in path.read_text(encoding="utf-8"):
            continue  # learning curves
        results = Results.load(path)
        for metric in set(results.frame().columns) - {"variant", "seed"}:
            try:
                table = results.on(metric).table()
            except (ValueError, TypeError):  # not of every variant, or no number
                continue
            found += list(table[["mean", "low", "high"]].itertuples(index=False, name=None))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about seeds that only one of two variants has
                found += list(_differences(results.on(metric)))
    return found


def replicated(chapter: str) -> list[tuple[float, float, float]]:
    """Return mean, low and high of every claim of a chapter with the seeds of its replication."""
    claims = pd.read_csv(STUDIES / "replication.csv")
    again = claims.loc[claims["study"].str.startswith(f"{chapter}_"), "again"]
    ends = again.str.extract(r"(\S+) \((\S+) to (\S+)\)").astype(float)
    return list(ends.itertuples(index=False, name=None))


def _differences(results: Results):
    names = results.names if len(results.names) < 60 else results.names[:2]
    for pair in itertools.combinations(names, 2):
        try:
            yield tuple(results.difference(*pair))
        except ValueError:  # a run without this metric
            continue


def matches(chapter: str, low: str, high: str) -> list[float]:
    """Return the means of all known intervals with these ends, as fractions or in points."""
    return [
        mean * scale
        for mean, *ends in stored(chapter)
        for scale in (1, 100, -1, -100)
        for ends_scaled in [sorted(end * scale for end in ends)]
        if rounds_to(ends_scaled[0], low) and rounds_to(ends_scaled[1], high)
    ]


def intervals(script: Path) -> list[tuple[str, str, str]]:
    """Return each interval in the text of a chapter: the words before it, and both ends."""
    found = INTERVAL.finditer(text_of(script))
    return [
        (m["before"], m["low"], m["high"])
        for m in found
        if value(m["low"]) < value(m["high"]) and "minutes" not in m[0]
    ]


CHAPTERS = sorted((ROOT / "chapters").glob("[0-9]*_*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("script", CHAPTERS, ids=lambda script: script.stem)
def test_intervals_are_those_of_the_stored_studies(script):
    chapter = script.name[:2]
    for before, low, high in intervals(script):
        if (chapter, low, high) in LIVE | REPEATED:
            continue
        means = matches(chapter, low, high)
        assert means, f"no study of chapter {chapter} has the interval: {before}({low} to {high})"
        numbers = [
            str(WORDS.index(found) + 1) if found in WORDS else found.lstrip("+−-")
            for found in re.findall(ESTIMATE, before)
        ]
        if re.search(rf"{ESTIMATE}(?: points?)? ?$", before):  # the bracket belongs to a number
            given = any(rounds_to(abs(mean), n) for mean in means for n in numbers)
            assert given, f"{before}({low} to {high}) is the interval of {means}"


def test_the_list_of_intervals_computed_in_a_chapter_is_up_to_date():
    quoted = {(s.name[:2], low, high) for s in CHAPTERS for _, low, high in intervals(s)}
    assert quoted >= LIVE | REPEATED
    assert len(quoted) > 100


def numbers(text: str) -> set[str]:
    """Return the numbers with a decimal point in a text."""
    return {n.replace("−", "-") for n in re.findall(r"(?<![\d.])[−-]?\d+\.\d+(?![\d.])", text)}


def report(notebook: Path) -> list[str]:
    """Return the decimal numbers of an executed chapter that no table and no cell contains."""
    import nbformat

    cells = nbformat.read(notebook, as_version=4).cells
    text = " ".join(cell.source for cell in cells if cell.cell_type == "markdown")
    text = re.sub(r"\]\([^)]*\)", "]", text)  # addresses
    code = [cell for cell in cells if cell.cell_type == "code"]
    shown = " ".join([*(c.source for c in code), *(str(o) for c in code for o in c.outputs)])
    known = [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", shown.replace("−", "-"))]
    known += [x for row in stored(notebook.name[:2]) for x in row]
    return sorted(
        number
        for number in numbers(text)
        if not any(rounds_to(abs(x) * k, number.lstrip("-")) for x in known for k in (1, 100))
    )


if __name__ == "__main__":
    for name in sys.argv[1:]:
        found = ", ".join(report(Path(name)))
        sys.stdout.write(f"{name}: {found or 'every number is in a table or an output'}\n")

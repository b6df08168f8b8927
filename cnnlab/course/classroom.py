"""Let a class repeat a study together: everybody runs one seed, and the tables are merged."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cnnlab.course.replicate import imported, judge, one_thread, scripts
from cnnlab.errors import CnnlabError
from cnnlab.plots.core import COLOURS, GREY, Plot, finish, new_axes, readable
from cnnlab.study.declaration import Claim
from cnnlab.study.experiment import run_variant
from cnnlab.study.results import Difference, Results, Verdict


FIRST_SEED = 20_000  # so that no seed of the class is one of the stored study or of `replicate`
_PANEL = 1.7  # inches


@dataclass(frozen=True)
class Merged:
    """What a class measured, beside the stored study.

    Attributes:
        study: name of the study.
        room: the runs of the class.
        stored: the stored table of the course.
    """

    study: str
    room: Results
    stored: Results

    @property
    def n(self) -> int:
        """The number of seeds, one per student."""
        return len({row["seed"] for row in self.room.rows})

    def claims(self) -> list[tuple[Claim, Verdict, Verdict]]:
        """Judge each declared claim with the runs of the class, and with the stored ones."""
        assert self.stored.declaration is not None
        return [
            (claim, judge(self.room, claim), judge(self.stored, claim))
            for claim in self.stored.declaration.claims
        ]

    def growing(self, claim: Claim) -> Iterator[tuple[int, Difference]]:
        """Yield the number of students and the difference, as one after the other joins."""
        seeds = list(dict.fromkeys(row["seed"] for row in self.room.rows))
        for n in range(2, len(seeds) + 1):
            rows = [row for row in self.room.rows if row["seed"] in seeds[:n]]
            results = Results(rows, claim.metric, declaration=self.room.declaration)
            yield n, results.difference(claim.a, claim.b)

    def __str__(self) -> str:
        lines = [f"{self.n} students"]
        for _, room, stored in self.claims():
            lines += [
                f"{room.claim}",
                f"  the room:  {_interval(room)}: {_supported(room)}",
                f"  stored:    {_interval(stored)}: {_supported(stored)}",
            ]
        return "\n".join(lines)

    def plot(self) -> Plot:
        """Draw how the interval of each claim shrinks as students join, and the stored one."""
        claims = self.claims()
        figure, axes = new_axes(len(claims), height=0.5 + _PANEL * len(claims), share="col")
        values = []
        for (claim, room, stored), axis in zip(claims, axes[:, 0], strict=True):
            steps = list(self.growing(claim))
            n = [step for step, _ in steps]
            low, high = ([getattr(d, end) for _, d in steps] for end in ("low", "high"))
            axis.axhspan(stored.low, stored.high, color=GREY, alpha=0.3, label="stored study")
            axis.axhline(stored.mean, color=GREY)
            axis.fill_between(n, low, high, color=COLOURS[0], alpha=0.25, label="95 % interval")
            axis.plot(n, [d.mean for _, d in steps], color=COLOURS[0], marker=".", label="the room")
            axis.axhline(0, color="black", linewidth=0.8)
            # The first intervals, of two or three students, would hide all the others.
            ends = [*low[1:], *high[1:], stored.low, stored.high, 0.0]
            edge = 0.1 * (max(ends) - min(ends)) or 0.01
            axis.set_ylim(min(ends) - edge, max(ends) + edge)
            words = re.sub(r"(?<= in )\w+$", lambda metric: readable(metric[0]), room.claim)
            axis.set_title(words, loc="left", fontsize=9)
            values.append(f"{words}. The room: {_interval(room)}; stored: {_interval(stored)}")
        axes[-1, 0].set_xlabel("number of students")
        axes[-1, 0].xaxis.get_major_locator().set_params(integer=True)
        supported = sum(room.supported for _, room, _ in claims)
        message = (
            f"{self.study}, {self.n} students: their runs support {supported} of {len(claims)} "
            "declared claims"
        )
        return finish(figure, message, " ".join(values))


def seconds_per_seed(names: Sequence[str] = ()) -> dict[str, float]:
    """Return how long one seed of a study took, in seconds of one core, the fastest first.

    Args:
        names: the studies; all by default.
    """
    found = {}
    for script in scripts(names):
        table = script.with_suffix(".csv")
        if table.exists():
            results = Results.load(table)
            n = len({row["seed"] for row in results.rows})
            found[script.stem] = float(results.notes["seconds"].split()[0]) / n
    return dict(sorted(found.items(), key=lambda item: item[1]))


def run(name: str, seed: int, out: Path) -> Path:
    """Run every variant of a study with one seed, and write the table.

    Args:
        name: name of the study, such as `04_few_labels`.
        seed: from 0; no two students may have the same.
        out: a folder, which is created if it doesn't exist.

    Returns:
        The table, `NAME-SEED.csv` in the folder.

    Raises:
        CnnlabError: the seed is negative.
        FileNotFoundError: there is no such study, or its data aren't on this machine.
    """
    if seed < 0:
        raise CnnlabError(f"the seed is {seed}, but it must be 0 or more")
    (script,) = scripts([name])
    with one_thread(), imported(script) as module:
        own = FIRST_SEED + seed
        rows = [
            {"variant": variant, "seed": own} | run_variant(train, own, module.METRIC, variant)
            for variant, train in module.VARIANTS.items()
        ]
        bound = module.DECLARATION.bind(module.VARIANTS, module.METRIC)
        text = bound.to_json(module.VARIANTS, module.SEEDS, module.METRIC)
    out.mkdir(parents=True, exist_ok=True)
    table = out / f"{name}-{seed}.csv"
    results = Results(rows, module.METRIC, {"made by": script.name, "declaration": text})
    results.notes["digest"] = _digest(results)
    results.save(table)
    return table


def merge(name: str, places: Iterable[Path]) -> Merged:
    """Put the tables of a class together.

    Args:
        name: name of the study.
        places: tables that `run` wrote, or folders with such tables.

    Raises:
        CnnlabError: there are fewer than three tables, one of them was edited or belongs to another
            study or to another version of it, or two have the same seed.
    """
    (script,) = scripts([name])
    stored = Results.load(script.with_suffix(".csv"))
    assert stored.declaration is not None
    files: list[Path] = []
    for place in places:
        files += sorted(place.glob(f"{name}-*.csv")) if place.is_dir() else [place]
    owner: dict[int, Path] = {}
    rows = []
    for file in files:
        results = _table(file, stored.metric)
        if results.declaration != stored.declaration or set(results.names) != set(stored.names):
            raise CnnlabError(
                f"{file} isn't a table of {name}, or of another version of the course"
            )
        if results.notes.get("digest") != _digest(results):
            raise CnnlabError(
                f"{file} isn't as `cnnlab study` wrote it: its numbers don't fit its digest. Ask "
                "for the original file, or for a new one: the same seed gives the same numbers"
            )
        for seed in {row["seed"] for row in results.rows}:
            if seed in owner:
                raise CnnlabError(
                    f"{file} and {owner[seed]} have the same seed, {seed - FIRST_SEED}. Run one of "
                    "them again with another --seed"
                )
            owner[seed] = file
        rows += results.rows
    if len(owner) < 3:
        raise CnnlabError(
            f"an interval needs the tables of three or more students, and there are {len(owner)}. "
            f"Each student makes one with `cnnlab study {name} --seed N`"
        )
    room = Results(rows, stored.metric, declaration=stored.declaration)
    return Merged(name, room, stored)


def _table(file: Path, metric: str) -> Results:
    """Read the table of a student, which may be half a file, or edited by hand."""
    try:
        results = Results.load(file)
        for name in results.names:
            results.on(metric).values(name).astype(float)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CnnlabError(
            f"{file} is damaged, or isn't a table that `cnnlab study --seed` wrote ("
            f"{str(error).splitlines()[0]}). Take it out, or ask for it once more"
        ) from error
    return results


def _digest(results: Results) -> str:
    """Return a digest of the runs of a table.

    It notices an accident, such as a number changed in a spreadsheet. It doesn't stop anybody who
    wants to deceive, because anybody can compute it.
    """
    runs = results.frame().round(6).to_csv(index=False)  # as the file has them
    return hashlib.sha256(runs.encode()).hexdigest()[:16]


def _interval(verdict: Verdict) -> str:
    return f"{verdict.mean:+.3f} (95 % CI {verdict.low:+.3f} to {verdict.high:+.3f})"


def _supported(verdict: Verdict) -> str:
    return "supported" if verdict.supported else "not supported"

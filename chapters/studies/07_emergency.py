"""Measure how wrong every script of the emergency room is, beside its twin.

What varies is the script: as it is admitted, or its healthy twin. Both train
on the same seeds, and everything is measured on images that the script never
sees. Each seed draws its own signs and gauges, or splits scikit-learn's
digits anew. A script passes a seed if it keeps the rules of its discharge on
that seed alone. The result is the fraction of all patients that pass; the
columns hold what each patient reports and what it really gets. The settings
of the patients were chosen on the two or three seeds of their discharge, and
the claim was written before this study ran. Afterwards we noticed that half
of it can't fail: a twin is judged beside itself, so it always passes. What
counts are the sick scripts, and the accuracies of both.
"""

from functools import cache, partial

from common import run_study

from cnnlab.emergency.examination import examine
from cnnlab.emergency.records import (
    NUMBERS,
    healthy_script,
    record,
    sick_script,
)
from cnnlab.experiment import Claim, Declaration, budget, splits
from cnnlab.rng import fold_in


SEEDS = 5
METRIC = "passed"
DECLARATION = Declaration(
    "Are the scripts of the emergency room wrong, and their twins right?",
    claims=[Claim("healthy", ">", "sick", by=0.8)],
    unit=splits(1297, 500),
    fixed="every script with its own settings, one seed at a time",
)


@cache
def facts(n: int, seed: int, healthy: bool) -> dict[str, float]:
    """Return what one script does with a seed that its discharge never uses."""
    script = healthy_script(n) if healthy else sick_script(n)
    return examine(n, script, [fold_in(seed, 73, n) % 2**31])


def outcome(seed: int, *, healthy: bool) -> dict[str, float]:
    """Return the fraction of patients that pass, and the facts of each."""
    results: dict[str, float] = {}
    for n in NUMBERS:
        own, twin = facts(n, seed, healthy), facts(n, seed, True)
        results[f"{n:02} passed"] = float(record(n).judge(own, twin)[0])
        counted = ("steps", "backwards", "stale")
        results |= {
            f"{n:02} {name}": value
            for name, value in own.items()
            if name not in counted
        }
    passed = [results[f"{n:02} passed"] for n in NUMBERS]
    steps = sum(facts(n, seed, healthy)["steps"] for n in NUMBERS)
    return (
        {METRIC: sum(passed) / len(passed)}
        | results
        | budget(labels=1297, steps=int(steps))
    )


VARIANTS = {
    "sick": partial(outcome, healthy=False),
    "healthy": partial(outcome, healthy=True),
}


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC, DECLARATION)

"""Check the exercises of chapter 5: learning rate schedules as functions of the step.

The public functions are the reference solutions; the private ones next to them are known mistakes.
"""

import math
import random
from collections.abc import Callable
from typing import Any

from cnnlab.course.check.core import Exercise, Mistake, Observation
from cnnlab.rng import fold_in


def _half_cosine(start: float, end: float, progress: float) -> float:
    """Interpolate from `start` at progress 0 to `end` at progress 1, along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def _never_ends(attempt: Callable[..., Any]) -> Mistake:
    """Describe the mistake of a schedule whose progress grows beyond 1."""
    return Mistake(
        attempt,
        "after the last step the multiplier climbs again, because the cosine is periodic.",
        "a run may last longer than planned: what should the progress be from then on?",
    )


# --- cosine ---------------------------------------------------------------------------------------


def _observe_cosine(attempt: Callable[..., Any], seed: int) -> Observation:
    rng = random.Random(fold_in(seed, 5, 1))
    steps, final = rng.randrange(12, 60, 4), round(rng.uniform(0.05, 0.3), 2)
    after = steps + rng.randrange(steps // 4, steps // 2)
    places = (0, steps // 4, steps // 2, steps - 1, steps, after)
    values = [attempt(step, steps, final) for step in places]
    first, quarter, *_, last, _ = values
    return {
        "your curve is a straight line.": first != last
        and math.isclose(quarter, first + (last - first) * (steps // 4) / steps),
        **{
            f"your multiplier at step {step} of {steps} with final={final}": value
            for step, value in zip(places, values, strict=True)
        },
    }


def cosine(step: int, steps: int, final: float) -> float:
    """Return the multiplier: half a cosine from 1 to `final` at `steps`, then constant."""
    return _half_cosine(1, final, min(step / steps, 1))


def _climbs_again(step, steps, final):  # type: ignore[no-untyped-def]
    return _half_cosine(1, final, step / steps)


def _degrees(step, steps, final):  # type: ignore[no-untyped-def]
    return final + (1 - final) * (1 + math.cos(180 * min(step / steps, 1))) / 2


def _half_the_angle(step, steps, final):  # type: ignore[no-untyped-def]
    return final + (1 - final) * (1 + math.cos(math.pi / 2 * min(step / steps, 1))) / 2


def _quarter_wave(step, steps, final):  # type: ignore[no-untyped-def]
    return final + (1 - final) * math.cos(math.pi / 2 * min(step / steps, 1))


def _whole_turn(step, steps, final):  # type: ignore[no-untyped-def]
    return final + (1 - final) * (1 + math.cos(2 * math.pi * min(step / steps, 1))) / 2


def _floor_added(step, steps, final):  # type: ignore[no-untyped-def]
    return final + _half_cosine(1, 0, min(step / steps, 1))


def _floor_cut(step, steps, final):  # type: ignore[no-untyped-def]
    return max(final, _half_cosine(1, 0, min(step / steps, 1)))


def _ends_a_step_early(step, steps, final):  # type: ignore[no-untyped-def]
    return _half_cosine(1, final, min(step / (steps - 1), 1))


def _upside_down(step, steps, final):  # type: ignore[no-untyped-def]
    return _half_cosine(final, 1, min(step / steps, 1))


COSINE = Exercise(
    name="cosine",
    task="`cosine(step, steps, final) -> multiplier`",
    observe=_observe_cosine,
    answer=cosine,
    praise="Your curve starts at 1, falls along half a cosine, reaches the floor at the last step "
    "and stays there.",
    hint="what is the cosine of your angle at the start, half-way and at the end?",
    mistakes={
        "climbs again": _never_ends(_climbs_again),
        "degrees": Mistake(
            _degrees,
            "your angle is in degrees, but `math.cos` expects radians, so the multiplier jumps up "
            "and down.",
            "half a turn is 180 degrees; how much is that in radians?",
        ),
        "half the angle": Mistake(
            _half_the_angle,
            "your angle only reaches a quarter of a turn, so the curve has fallen only half-way "
            "at the end.",
            "at which angle is the cosine -1?",
        ),
        "quarter of a wave": Mistake(
            _quarter_wave,
            "you use a quarter of a cosine wave, which is steepest at the end, where the curve "
            "should be flat.",
            "half a wave goes from +1 to -1; how can you map that range to 1 and 0?",
        ),
        "whole turn": Mistake(
            _whole_turn,
            "your angle makes a whole turn, so the multiplier is back at the top at the end.",
            "at which angle is the cosine -1?",
        ),
        "floor added": Mistake(
            _floor_added,
            "you add the floor to a curve from 1 to 0, so the multiplier starts above 1.",
            "the curve should run *between* 1 and the floor; how large is that range?",
        ),
        "floor cut off": Mistake(
            _floor_cut,
            "your curve falls towards 0 and is cut off at the floor, so it reaches the floor too "
            "early.",
            "the curve should run *between* 1 and the floor; how large is that range?",
        ),
        "ends a step early": Mistake(
            _ends_a_step_early,
            "your curve reaches the floor one step too early.",
            "what should the progress be at `step == steps`, and what should it be one step "
            "before that?",
        ),
        "upside down": Mistake(
            _upside_down,
            "your curve is upside down: it rises from the floor to 1.",
            "try step 0 by hand; the cosine of 0 is 1",
        ),
    },
)


# --- warm-up, then cosine -------------------------------------------------------------------------


def _observe_warmup(attempt: Callable[..., Any], seed: int) -> Observation:
    rng = random.Random(fold_in(seed, 5, 2))
    warmup, decay = rng.randrange(4, 12), rng.randrange(16, 60, 2)
    steps = warmup + decay
    after = steps + rng.randrange(10, 30)
    places = (0, warmup // 2, warmup - 1, warmup, warmup + 1, warmup + decay // 2, steps, after)
    problems = [*((step, warmup, steps) for step in places), (0, 0, decay), (decay // 2, 0, decay)]
    values = [attempt(*problem) for problem in problems]
    top, next_value, middle = values[3:6]
    return {
        "your fall is a straight line.": top != middle
        and math.isclose(next_value, top + (middle - top) * 2 / decay),
        **{
            f"your multiplier at step {step} with warmup={up} and steps={n}": value
            for (step, up, n), value in zip(problems, values, strict=True)
        },
    }


def warmup_cosine(step: int, warmup: int, steps: int) -> float:
    """Return the multiplier: linear from 0 to 1 at `warmup`, then half a cosine to 0 at `steps`."""
    if step < warmup:
        return step / warmup
    return _half_cosine(1, 0, min((step - warmup) / (steps - warmup), 1))


def _cosine_from_the_start(step, warmup, steps):  # type: ignore[no-untyped-def]
    return step / warmup if step < warmup else _half_cosine(1, 0, min(step / steps, 1))


def _product(step, warmup, steps):  # type: ignore[no-untyped-def]
    return min(step / max(warmup, 1), 1) * _half_cosine(1, 0, min(step / steps, 1))


def _peak_a_step_late(step, warmup, steps):  # type: ignore[no-untyped-def]
    return warmup_cosine(step, warmup + 1, steps)


def _peak_a_step_early(step, warmup, steps):  # type: ignore[no-untyped-def]
    if step < warmup:
        return (step + 1) / warmup
    return _half_cosine(1, 0, min((step - warmup) / (steps - warmup), 1))


def _steps_after_the_peak(step, warmup, steps):  # type: ignore[no-untyped-def]
    return step / warmup if step < warmup else _half_cosine(1, 0, min((step - warmup) / steps, 1))


def _integer_division(step, warmup, steps):  # type: ignore[no-untyped-def]
    return step // warmup if step < warmup else warmup_cosine(step, warmup, steps)


def _climbs_again_after_warmup(step, warmup, steps):  # type: ignore[no-untyped-def]
    if step < warmup:
        return step / warmup
    return _half_cosine(1, 0, (step - warmup) / (steps - warmup))


WARMUP_COSINE = Exercise(
    name="warmup_cosine",
    task="`warmup_cosine(step, warmup, steps) -> multiplier`; `steps` is the total",
    observe=_observe_warmup,
    answer=warmup_cosine,
    praise="Your curve rises in a straight line to exactly 1, falls without a jump, and is 0 from "
    "the last step on.",
    hint="is this step in the rise or in the fall, and what fraction of it has passed?",
    mistakes={
        "cosine from the start": Mistake(
            _cosine_from_the_start,
            "your cosine counts from step 0, so it has already fallen when the warm-up ends, and "
            "the multiplier never reaches 1.",
            "at `step == warmup`, how many steps of the cosine should have passed?",
        ),
        "product": Mistake(
            _product,
            "you multiply the warm-up by a cosine that counts from step 0, so the multiplier "
            "never reaches 1.",
            "the two phases come one after the other, not at the same time",
        ),
        "peak a step late": Mistake(
            _peak_a_step_late,
            "your peak comes one step too late.",
            "at `step == warmup` the multiplier should be 1",
        ),
        "peak a step early": Mistake(
            _peak_a_step_early,
            "your warm-up is one step ahead: it doesn't start at 0, and it reaches 1 too early.",
            "try step 0 and step `warmup - 1` by hand",
        ),
        "steps after the peak": Mistake(
            _steps_after_the_peak,
            "your cosine takes `steps` steps after the warm-up, so it reaches 0 too late; `steps` "
            "is the length of the whole run.",
            "how many steps are left when the warm-up is over?",
        ),
        "integer division": Mistake(
            _integer_division,
            "your multiplier is 0 during the whole warm-up, because `//` rounds down.",
            "which operator divides and keeps the fraction?",
        ),
        "climbs again": _never_ends(_climbs_again_after_warmup),
    },
)


# --- one-cycle ------------------------------------------------------------------------------------


def _observe_one_cycle(attempt: Callable[..., Any], seed: int) -> Observation:
    rng = random.Random(fold_in(seed, 5, 3))
    steps = 8 * rng.randrange(3, 9)
    # Each fraction of the steps is a whole number, so rounding can't make a difference.
    fraction = rng.choice((0.125, 0.25, 0.375))
    peak = int(fraction * steps)
    div, final_div = rng.choice((5, 10, 20)), rng.choice((50, 100, 200))
    after = steps + rng.randrange(steps // 4, steps // 2)
    settings = f"peak_fraction={fraction}, div_factor={div}, final_div_factor={final_div}"
    places = (0, peak // 3, peak, peak + 1, peak + (steps - peak) // 4, steps, after)
    values = [attempt(step, steps, fraction, div, final_div) for step in places]
    first, third, top, *_, last, _ = values
    straight = first + (top - first) * (peak // 3) / peak
    return {
        "your run starts at 1/`final_div_factor`, where it should end.": math.isclose(
            first, 1 / final_div
        ),
        "your run ends at 1/`div_factor`, where it should start.": math.isclose(last, 1 / div),
        "your multiplier falls before the peak.": third < first or top < third,
        "your rise is a straight line.": first < top and math.isclose(third, straight),
        **{
            f"your multiplier at step {step} of {steps} with {settings}": value
            for step, value in zip(places, values, strict=True)
        },
    }


def one_cycle(
    step: int,
    steps: int,
    peak_fraction: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> float:
    """Return the multiplier: half a cosine up from 1/div_factor, another to 1/final_div_factor."""
    peak = peak_fraction * steps
    if step < peak:
        return _half_cosine(1 / div_factor, 1, step / peak)
    return _half_cosine(1, 1 / final_div_factor, min((step - peak) / (steps - peak), 1))


def _final_relative_to_the_start(step, steps, peak_fraction, div_factor, final_div_factor):  # type: ignore[no-untyped-def]
    return one_cycle(step, steps, peak_fraction, div_factor, div_factor * final_div_factor)


def _fall_from_the_start(step, steps, peak_fraction, div_factor, final_div_factor):  # type: ignore[no-untyped-def]
    if step < peak_fraction * steps:
        return one_cycle(step, steps, peak_fraction, div_factor, final_div_factor)
    return _half_cosine(1, 1 / final_div_factor, min(step / steps, 1))


def _straight_lines(step, steps, peak_fraction, div_factor, final_div_factor):  # type: ignore[no-untyped-def]
    peak = peak_fraction * steps
    if step < peak:
        return 1 / div_factor + (1 - 1 / div_factor) * step / peak
    return 1 + (1 / final_div_factor - 1) * min((step - peak) / (steps - peak), 1)


def _peak_in_the_middle(step, steps, peak_fraction, div_factor, final_div_factor):  # type: ignore[no-untyped-def]
    return one_cycle(step, steps, 0.5, div_factor, final_div_factor)


def _starts_at_zero(step, steps, peak_fraction, div_factor, final_div_factor):  # type: ignore[no-untyped-def]
    if step < peak_fraction * steps:
        return _half_cosine(0, 1, step / (peak_fraction * steps))
    return one_cycle(step, steps, peak_fraction, div_factor, final_div_factor)


def _falls_to_zero(step, steps, peak_fraction, div_factor, final_div_factor):  # type: ignore[no-untyped-def]
    peak = peak_fraction * steps
    if step < peak:
        return one_cycle(step, steps, peak_fraction, div_factor, final_div_factor)
    return _half_cosine(1, 0, min((step - peak) / (steps - peak), 1))


def _back_to_the_start(step, steps, peak_fraction, div_factor, final_div_factor):  # type: ignore[no-untyped-def]
    return one_cycle(step, steps, peak_fraction, div_factor, div_factor)


def _climbs_again_after_the_cycle(step, steps, peak_fraction, div_factor, final_div_factor):  # type: ignore[no-untyped-def]
    peak = peak_fraction * steps
    if step < peak:
        return one_cycle(step, steps, peak_fraction, div_factor, final_div_factor)
    return _half_cosine(1, 1 / final_div_factor, (step - peak) / (steps - peak))


ONE_CYCLE = Exercise(
    name="one_cycle",
    task="`one_cycle(step, steps, peak_fraction, div_factor, final_div_factor) -> multiplier`",
    observe=_observe_one_cycle,
    answer=one_cycle,
    praise="Your cycle rises from 1/div_factor to 1 at the peak, falls to 1/final_div_factor at "
    "the last step, and stays there.",
    hint="is this step in the rise or in the fall, and what fraction of it has passed?",
    mistakes={
        "final relative to the start": Mistake(
            _final_relative_to_the_start,
            "you divide the *first* learning rate by `final_div_factor`, as torch does; in this "
            "exercise it divides the peak.",
            "which of the two factors should the last multiplier depend on, and which should it "
            "not?",
        ),
        "back to the start": Mistake(
            _back_to_the_start,
            "your cycle ends where it began, but the last learning rate should be far below the "
            "first.",
            "which argument haven't you used?",
        ),
        "fall from the start": Mistake(
            _fall_from_the_start,
            "your fall counts from step 0, so the multiplier drops suddenly at the peak.",
            "at the peak, how many steps of the fall have passed, and how many does the fall have "
            "in all?",
        ),
        "straight lines": Mistake(
            _straight_lines,
            "you use straight lines, as the paper does; this exercise asks for half cosines.",
            "you have already written a smooth fall; a rise is a fall with its ends swapped",
        ),
        "peak in the middle": Mistake(
            _peak_in_the_middle,
            "your peak is always in the middle of the run, whatever `peak_fraction` is.",
            "at which step should the peak be?",
        ),
        "starts at zero": Mistake(
            _starts_at_zero,
            "your rise starts at 0 instead of 1/`div_factor`.",
            "what should the multiplier be at step 0?",
        ),
        "falls to zero": Mistake(
            _falls_to_zero,
            "your fall ends at 0 instead of 1/`final_div_factor`.",
            "what should the multiplier be at the last step?",
        ),
        "climbs again": _never_ends(_climbs_again_after_the_cycle),
    },
)

EXERCISES = (COSINE, WARMUP_COSINE, ONE_CYCLE)

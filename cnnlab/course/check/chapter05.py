"""Chapter 5: schedules as functions of the step, from the formula to the last step."""

import math
import random
from collections.abc import Callable
from typing import Any

from cnnlab.course.check.core import Exercise, Mistake, Observation
from cnnlab.rng import fold_in


def _seen(attempt: Callable[..., Any], places: dict[str, int], *settings: float) -> Observation:
    """The multipliers of an attempt at some steps, each under the name of its place."""
    return {where: _number(attempt(step, *settings)) for where, step in places.items()}


def _number(value: Any) -> Any:
    """A whole number is as good as a float: 1 is 1.0."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _fall(start: float, end: float, progress: float) -> float:
    """From `start` at progress 0 to `end` at progress 1, along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


# --- cosine ---------------------------------------------------------------------------------------


def _observe_cosine(attempt: Callable[..., Any], seed: int) -> Observation:
    draw = random.Random(fold_in(seed, 5, 1))
    steps = draw.randrange(20, 200, 4)
    places = {
        "the multiplier at the start": 0,
        "a quarter of the way": steps // 4,
        "half-way": steps // 2,
        "one step before the end": steps - 1,
        "at the end": steps,
        "after the end": steps + draw.randrange(steps // 4, steps // 2),
    }
    return _seen(attempt, places, steps, draw.uniform(0.05, 0.3))


def cosine(step: int, steps: int, final: float) -> float:
    """The answer: half a cosine from 1 to `final` at `steps`, and `final` ever after."""
    return _fall(1, final, min(step / steps, 1))


def _climbs_again(step, steps, final):  # type: ignore[no-untyped-def]
    return _fall(1, final, step / steps)


def _degrees(step, steps, final):  # type: ignore[no-untyped-def]
    return final + (1 - final) * (1 + math.cos(180 * min(step / steps, 1))) / 2


def _half_the_angle(step, steps, final):  # type: ignore[no-untyped-def]
    return final + (1 - final) * (1 + math.cos(math.pi / 2 * min(step / steps, 1))) / 2


def _quarter_wave(step, steps, final):  # type: ignore[no-untyped-def]
    return final + (1 - final) * math.cos(math.pi / 2 * min(step / steps, 1))


def _whole_turn(step, steps, final):  # type: ignore[no-untyped-def]
    return final + (1 - final) * (1 + math.cos(2 * math.pi * min(step / steps, 1))) / 2


def _floor_added(step, steps, final):  # type: ignore[no-untyped-def]
    return final + _fall(1, 0, min(step / steps, 1))


def _floor_cut(step, steps, final):  # type: ignore[no-untyped-def]
    return max(final, _fall(1, 0, min(step / steps, 1)))


def _ends_a_step_early(step, steps, final):  # type: ignore[no-untyped-def]
    return _fall(1, final, min(step / (steps - 1), 1))


def _upside_down(step, steps, final):  # type: ignore[no-untyped-def]
    return _fall(final, 1, min(step / steps, 1))


COSINE = Exercise(
    name="cosine",
    observe=_observe_cosine,
    answer=cosine,
    praise="It starts at 1, passes the middle half-way, reaches the floor at the last step and stays there.",
    mistakes={
        "climbs again": Mistake(
            _climbs_again,
            "past its end the rate climbs again, for a cosine goes on for ever.",
            "a run may last longer than planned; what should the progress be from then on?",
        ),
        "degrees": Mistake(
            _degrees,
            "the angle is in degrees, but `math.cos` takes radians: the rate jumps up and down.",
            "half a turn is 180 degrees; what is it in radians?",
        ),
        "half the angle": Mistake(
            _half_the_angle,
            "the angle ends at a quarter of a turn, so the fall stops half-way.",
            "at which angle is the cosine -1?",
        ),
        "quarter of a wave": Mistake(
            _quarter_wave,
            "this is a quarter of a wave: it is steepest at its end, where it should be flat.",
            "half a wave runs from +1 to -1; how do you map that onto 1 to 0?",
        ),
        "whole turn": Mistake(
            _whole_turn,
            "the angle makes a whole turn, so the rate is back at the top at the end.",
            "at which angle is the cosine -1?",
        ),
        "floor added": Mistake(
            _floor_added,
            "the floor is added to the whole curve, so it starts above 1.",
            "the curve should run *between* 1 and the floor; how large is that span?",
        ),
        "floor cut off": Mistake(
            _floor_cut,
            "the curve runs towards 0 and is cut off at the floor, which it then reaches too early.",
            "the curve should run *between* 1 and the floor; how large is that span?",
        ),
        "ends a step early": Mistake(
            _ends_a_step_early,
            "the floor is reached a step too early.",
            "what should the progress be at `step == steps`, and what is it one step before?",
        ),
        "upside down": Mistake(
            _upside_down,
            "the curve is upside down: it rises from the floor to 1.",
            "try step 0: the cosine of 0 is 1",
        ),
    },
)


# --- warm-up, then cosine -------------------------------------------------------------------------


def _observe_warmup(attempt: Callable[..., Any], seed: int) -> Observation:
    draw = random.Random(fold_in(seed, 5, 2))
    warmup, fall = draw.randrange(6, 30), draw.randrange(40, 160, 2)
    steps = warmup + fall
    places = {
        "the multiplier at the start": 0,
        "half-way up": warmup // 2,
        "one step before the peak": warmup - 1,
        "at the peak": warmup,
        "one step after the peak": warmup + 1,
        "half-way down": warmup + fall // 2,
        "at the end": steps,
        "after the end": steps + draw.randrange(10, 30),
    }
    return _seen(attempt, places, warmup, steps)


def warmup_cosine(step: int, warmup: int, steps: int) -> float:
    """The answer: a straight line from 0 to 1 at `warmup`, then half a cosine to 0 at `steps`."""
    if step < warmup:
        return step / warmup
    return _fall(1, 0, min((step - warmup) / (steps - warmup), 1))


def _cosine_from_the_start(step, warmup, steps):  # type: ignore[no-untyped-def]
    return step / warmup if step < warmup else _fall(1, 0, min(step / steps, 1))


def _product(step, warmup, steps):  # type: ignore[no-untyped-def]
    return min(step / warmup, 1) * _fall(1, 0, min(step / steps, 1))


def _peak_a_step_late(step, warmup, steps):  # type: ignore[no-untyped-def]
    return warmup_cosine(step, warmup + 1, steps)


def _peak_a_step_early(step, warmup, steps):  # type: ignore[no-untyped-def]
    if step < warmup:
        return (step + 1) / warmup
    return _fall(1, 0, min((step - warmup) / (steps - warmup), 1))


def _steps_after_the_peak(step, warmup, steps):  # type: ignore[no-untyped-def]
    return step / warmup if step < warmup else _fall(1, 0, min((step - warmup) / steps, 1))


def _climbs_again_after_warmup(step, warmup, steps):  # type: ignore[no-untyped-def]
    return step / warmup if step < warmup else _fall(1, 0, (step - warmup) / (steps - warmup))


WARMUP_COSINE = Exercise(
    name="warmup_cosine",
    observe=_observe_warmup,
    answer=warmup_cosine,
    praise="Straight up to exactly 1, down without a jump, 0 at the last step and after it.",
    mistakes={
        "cosine from the start": Mistake(
            _cosine_from_the_start,
            "the cosine counts from step 0, so it has already fallen when the warm-up is over: 1 is never "
            "reached.",
            "how many steps of the fall have been taken at `step == warmup`?",
        ),
        "product": Mistake(
            _product,
            "the warm-up is multiplied with a cosine that counts from step 0, so 1 is never reached.",
            "one after the other, not both at once",
        ),
        "peak a step late": Mistake(
            _peak_a_step_late,
            "the peak comes a step too late.",
            "at `step == warmup` the multiplier should be 1",
        ),
        "peak a step early": Mistake(
            _peak_a_step_early,
            "the warm-up is a step ahead: it does not start at 0 and reaches 1 a step too early.",
            "try step 0 and step `warmup - 1` by hand",
        ),
        "steps after the peak": Mistake(
            _steps_after_the_peak,
            "the fall takes `steps` steps of its own, so 0 is reached too late; `steps` is the whole run.",
            "how many steps are left when the warm-up is over?",
        ),
        "climbs again": Mistake(
            _climbs_again_after_warmup,
            "past its end the rate climbs again, for a cosine goes on for ever.",
            "a run may last longer than planned; what should the progress be from then on?",
        ),
    },
)


# --- one-cycle ------------------------------------------------------------------------------------


def _observe_one_cycle(attempt: Callable[..., Any], seed: int) -> Observation:
    draw = random.Random(fold_in(seed, 5, 3))
    steps = 8 * draw.randrange(6, 30)
    fraction = draw.choice(
        (0.125, 0.25, 0.375)
    )  # times steps: a whole number, so rounding is no matter
    top = int(fraction * steps)
    places = {
        "the multiplier at the start": 0,
        "a third of the way up": top // 3,
        "at the peak": top,
        "one step after the peak": top + 1,
        "a quarter of the way down": top + (steps - top) // 4,
        "at the end": steps,
        "after the end": steps + draw.randrange(steps // 4, steps // 2),
    }
    div, final = draw.uniform(4, 30), draw.uniform(50, 200)
    return _seen(attempt, places, steps, fraction, div, final)


def one_cycle(
    step: int,
    steps: int,
    peak_fraction: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> float:
    """The answer: half a cosine up from 1/div_factor to 1, and another down to 1/final_div_factor."""
    top = peak_fraction * steps
    if step < top:
        return _fall(1 / div_factor, 1, step / top)
    return _fall(1, 1 / final_div_factor, min((step - top) / (steps - top), 1))


def _final_relative_to_the_start(step, steps, peak_fraction, div_factor, final_div_factor):  # type: ignore[no-untyped-def]
    return one_cycle(step, steps, peak_fraction, div_factor, div_factor * final_div_factor)


def _fall_from_the_start(step, steps, peak_fraction, div_factor, final_div_factor):  # type: ignore[no-untyped-def]
    if step < peak_fraction * steps:
        return one_cycle(step, steps, peak_fraction, div_factor, final_div_factor)
    return _fall(1, 1 / final_div_factor, min(step / steps, 1))


def _straight_lines(step, steps, peak_fraction, div_factor, final_div_factor):  # type: ignore[no-untyped-def]
    top = peak_fraction * steps
    if step < top:
        return 1 / div_factor + (1 - 1 / div_factor) * step / top
    return 1 + (1 / final_div_factor - 1) * min((step - top) / (steps - top), 1)


def _peak_in_the_middle(step, steps, peak_fraction, div_factor, final_div_factor):  # type: ignore[no-untyped-def]
    return one_cycle(step, steps, 0.5, div_factor, final_div_factor)


def _starts_at_zero(step, steps, peak_fraction, div_factor, final_div_factor):  # type: ignore[no-untyped-def]
    if step < peak_fraction * steps:
        return _fall(0, 1, step / (peak_fraction * steps))
    return one_cycle(step, steps, peak_fraction, div_factor, final_div_factor)


def _back_to_the_start(step, steps, peak_fraction, div_factor, final_div_factor):  # type: ignore[no-untyped-def]
    return one_cycle(step, steps, peak_fraction, div_factor, div_factor)


def _climbs_again_after_the_cycle(step, steps, peak_fraction, div_factor, final_div_factor):  # type: ignore[no-untyped-def]
    top = peak_fraction * steps
    if step < top:
        return one_cycle(step, steps, peak_fraction, div_factor, final_div_factor)
    return _fall(1, 1 / final_div_factor, (step - top) / (steps - top))


ONE_CYCLE = Exercise(
    name="one_cycle",
    observe=_observe_one_cycle,
    answer=one_cycle,
    praise="Up from 1/div_factor to 1 at the peak, down to 1/final_div_factor at the last step, and flat after it.",
    mistakes={
        "final relative to the start": Mistake(
            _final_relative_to_the_start,
            "the last rate is the *first* one over `final_div_factor`, as in torch; here the peak is divided.",
            "by which of the two factors is the last multiplier decided, and by which is it not?",
        ),
        "back to the start": Mistake(
            _back_to_the_start,
            "the cycle ends where it began; the last rate should be far below the first.",
            "which argument have you not used?",
        ),
        "fall from the start": Mistake(
            _fall_from_the_start,
            "the fall counts from step 0, so the rate jumps down right after the rise.",
            "how many steps of the fall have been taken at the peak, and how many does it have?",
        ),
        "straight lines": Mistake(
            _straight_lines,
            "these are straight lines, as in the paper; the exercise asks for half cosines.",
            "you have written a smooth fall before; a rise is a fall with its ends swapped",
        ),
        "peak in the middle": Mistake(
            _peak_in_the_middle,
            "the peak lies in the middle, whatever `peak_fraction` says.",
            "at which step should the peak be?",
        ),
        "starts at zero": Mistake(
            _starts_at_zero,
            "the rise starts at 0 instead of 1/`div_factor`.",
            "what should the multiplier be at step 0?",
        ),
        "climbs again": Mistake(
            _climbs_again_after_the_cycle,
            "past its end the rate climbs again, for a cosine goes on for ever.",
            "a run may last longer than planned; what should the progress be from then on?",
        ),
    },
)

import copy
import functools
import math
import types

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import SGD, AdamW
from torch.optim import lr_scheduler as torch_schedules

from cnnlab import schedules as s


def sgd(*rates, **options):
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in rates]
    return SGD(groups, lr=1.0, **options)


def rates_of(optimizer, scheduler, steps):
    """The rate of each group at each of the steps, as an optimizer would use it."""
    seen = []
    for _ in range(steps):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return np.array(seen).T


EVERY = {
    "constant": s.constant(),
    "linear": s.linear(40, 0.1),
    "step": s.step(7, 0.5),
    "multistep": s.multistep([5, 20], 0.3),
    "cosine": s.cosine(40, 0.05),
    "inverse_sqrt": s.inverse_sqrt(10),
    "warm_restarts": s.warm_restarts(6, 2, 0.01),
    "warmup": s.warmup(8, s.cosine(32), 0.1),
    "one_cycle": s.one_cycle(40),
}


@pytest.mark.parametrize("name", EVERY)
def test_every_schedule_is_a_pure_function_between_zero_and_one(name):
    schedule = EVERY[name]
    forwards = [schedule(t) for t in range(60)]
    backwards = [schedule(t) for t in reversed(range(60))][::-1]
    assert forwards == backwards
    assert all(0 <= v <= 1 for v in forwards)
    assert max(forwards) == pytest.approx(1)


@pytest.mark.parametrize("name", EVERY)
def test_trace_attach_and_the_function_itself_agree_and_keep_the_ratio_of_groups(name):
    optimizer = sgd(1.0, 0.1)
    top, low = rates_of(optimizer, s.attach(optimizer, EVERY[name]), 60)
    np.testing.assert_array_equal(top, s.trace(EVERY[name], 60))
    np.testing.assert_allclose(low, 0.1 * top, rtol=1e-12)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (s.step(30), lambda o: torch_schedules.StepLR(o, 30)),
        (s.multistep([30, 80], 0.2), lambda o: torch_schedules.MultiStepLR(o, [30, 80], 0.2)),
        (s.linear(100, 0.1), lambda o: torch_schedules.LinearLR(o, 1.0, 0.1, 100)),
        (s.cosine(100, 0.01), lambda o: torch_schedules.CosineAnnealingLR(o, 100, 0.01)),
        (
            s.warm_restarts(10, 2, 0.1),
            lambda o: torch_schedules.CosineAnnealingWarmRestarts(o, 10, 2, 0.1),
        ),
        (
            s.warmup(10, s.cosine(90), 0.1),
            lambda o: torch_schedules.SequentialLR(
                o,
                [
                    torch_schedules.LinearLR(o, 0.1, 1.0, 10),
                    torch_schedules.CosineAnnealingLR(o, 90),
                ],
                [10],
            ),
        ),
    ],
    ids=["step", "multistep", "linear", "cosine", "warm restarts", "warm-up and cosine"],
)
@pytest.mark.filterwarnings("ignore:The epoch parameter:UserWarning")
def test_equals_the_scheduler_of_torch(ours, theirs):
    optimizer = sgd(1.0)
    np.testing.assert_allclose(
        s.trace(ours, 100), rates_of(optimizer, theirs(optimizer), 100)[0], atol=1e-13
    )


def test_one_cycle_equals_torch_where_both_count_alike():
    # torch reaches its end at total_steps - 1 and its peak one step before pct_start * total_steps
    optimizer = sgd(1.0, momentum=0.9)
    torch_cycle = torch_schedules.OneCycleLR(
        optimizer, 1.0, total_steps=101, pct_start=31 / 101, final_div_factor=1e4 / 25
    )
    momenta = []
    rates = []
    for _ in range(101):
        rates.append(optimizer.param_groups[0]["lr"])
        momenta.append(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        if len(rates) < 101:
            torch_cycle.step()
    np.testing.assert_allclose(s.trace(s.one_cycle(100), 101), rates, atol=1e-13)
    np.testing.assert_allclose(s.trace(s.one_cycle_momentum(100), 101), momenta, atol=1e-13)


def test_worked_table_step_decay():
    values = [s.step(30)(t) for t in (1, 29, 30, 59, 60)]
    assert values == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_worked_table_cosine():
    values = [s.cosine(100)(t) for t in (0, 25, 50, 75, 100)]
    root = math.sqrt(0.5)
    assert values == pytest.approx([1, (1 + root) / 2, 0.5, (1 - root) / 2, 0], abs=1e-15)


def test_cosine_stays_down_where_torch_climbs_again():
    assert s.cosine(10)(15) == s.cosine(10)(10) == 0


@given(st.integers(1, 500), st.integers(1, 500), st.floats(0, 1), st.floats(0, 1))
def test_warm_up_reaches_the_base_rate_and_then_its_end_without_a_jump(ramp, fall, start, final):
    schedule = s.warmup(ramp, s.cosine(fall, final), start)
    values = s.trace(schedule, ramp + fall + 1)
    assert values[0] == pytest.approx(start)
    assert values[ramp] == 1.0
    assert values[-1] == pytest.approx(final)
    largest = max((1 - start) / ramp, (1 - final) * math.pi / 2 / fall)
    assert np.abs(np.diff(values)).max() <= largest + 1e-12


@given(st.integers(2, 2000), st.floats(0.05, 0.95))
def test_one_cycle_mirrors_its_momentum(steps, fraction):
    rate = s.trace(s.one_cycle(steps, fraction, 10, 10), steps + 1)
    momentum = s.trace(s.one_cycle_momentum(steps, 0.8, 0.9, fraction), steps + 1)
    np.testing.assert_allclose((rate - 0.1) / 0.9, (0.9 - momentum) / 0.1, atol=1e-9)


@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_attached_momentum_reaches_every_group(kind):
    optimizer = kind([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = s.attach(optimizer, s.one_cycle(10), s.one_cycle_momentum(10))
    group = optimizer.param_groups[0]
    for t in range(11):
        value = group["betas"][0] if "betas" in group else group["momentum"]
        assert value == s.one_cycle_momentum(10)(t)
        optimizer.step()
        scheduler.step()


def test_a_schedule_leaves_momentum_alone_unless_asked():
    optimizer = sgd(0.1)
    scheduler = s.attach(optimizer, s.one_cycle(10))
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["momentum"] == 0


def test_momentum_for_an_optimizer_without_one_is_refused():
    optimizer = torch.optim.Adagrad([torch.zeros(1, requires_grad=True)])
    with pytest.raises(ValueError, match="Adagrad has no momentum"):
        s.attach(optimizer, s.one_cycle(10), s.one_cycle_momentum(10))


@pytest.mark.parametrize("name", EVERY)
def test_a_resumed_schedule_goes_on_where_it_was(name):
    optimizer = sgd(1.0)
    whole = rates_of(optimizer, s.attach(optimizer, EVERY[name]), 30)[0]
    first = sgd(1.0)
    scheduler = s.attach(first, EVERY[name])
    rates_of(first, scheduler, 11)
    second = sgd(1.0)
    resumed = s.attach(second, EVERY[name])
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    np.testing.assert_array_equal(rates_of(second, resumed, 19)[0], whole[11:])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: s.cosine(0),
        lambda: s.linear(-1),
        lambda: s.step(0),
        lambda: s.warm_restarts(0),
        lambda: s.warmup(0, s.constant()),
        lambda: s.one_cycle(10, peak_fraction=1.0),
        lambda: s.one_cycle_momentum(10, low=0.9, high=0.5),
    ],
)
def test_an_impossible_length_or_share_is_refused_when_the_schedule_is_made(wrong):
    with pytest.raises(ValueError, match="got"):
        wrong()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (0.5, "got 0.5"),
        (s.cosine, r"returns a function: call it first, cosine\(\.\.\.\)"),
        (s.one_cycle, "one_cycle returns a function"),
        (functools.partial(s.linear, final=0.1), "partial returns a function"),
        (s.constant, "constant can't be called with a step alone"),
        (s.multistep, "multistep can't be called"),
        (s.warmup, "warmup can't be called"),
        (lambda: 1.0, "can't be called with a step alone"),
        (lambda step: None, "returns None, not a number"),
        (lambda step: "fast", "returns 'fast', not a number"),
    ],
)
def test_what_is_not_a_schedule_is_refused_when_it_is_attached(wrong, message):
    optimizer = sgd(0.1)
    for use in (
        lambda: s.attach(optimizer, wrong),
        lambda: s.attach(optimizer, s.constant(), wrong if wrong != 0.5 else "low"),
        lambda: s.warmup(3, wrong),
    ):
        with pytest.raises(TypeError, match="a schedule is a function of the step"):
            use()
    with pytest.raises(TypeError, match=message):
        s.attach(optimizer, wrong)
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert "initial_lr" not in optimizer.param_groups[0]


def test_any_function_that_returns_a_number_is_a_schedule():
    for schedule in (lambda step: 1, lambda step: np.float32(0.5), lambda step: torch.tensor(0.5)):
        s.attach(sgd(0.1), s.warmup(2, schedule))


@pytest.mark.parametrize("mult", [0.5, 0.0, -1, math.nan, math.inf])
def test_cycles_that_become_shorter_would_never_end(mult):
    with pytest.raises(ValueError, match="mult must be at least 1"):
        s.warm_restarts(10, mult)


def test_a_schedule_that_ends_knows_its_length_and_every_schedule_its_name():
    lengths = {
        s.linear(40): 40,
        s.cosine(30): 30,
        s.one_cycle(20): 20,
        s.one_cycle_momentum(20): 20,
        s.warmup(5, s.cosine(30)): 35,
        s.warmup(5, s.warmup(2, s.linear(3))): 10,
    }
    for schedule, length in lengths.items():
        assert isinstance(schedule, types.FunctionType)
        assert schedule.steps == length
        assert schedule(length) == schedule(length + 7)
    endless = (s.constant(), s.step(3), s.multistep([3]), s.inverse_sqrt(), s.warm_restarts(4))
    for schedule in (*endless, s.warmup(5, s.constant())):
        assert not hasattr(schedule, "steps")
    for name, schedule in EVERY.items():
        assert schedule.__qualname__.partition(".")[0] == name


# --- learning rates set by hand -------------------------------------------------------------------


def test_a_learning_rate_set_by_hand_before_a_second_attach_is_noticed():
    optimizer = sgd(0.1, 0.01)
    rates_of(optimizer, s.attach(optimizer, s.linear(10)), 4)
    s.attach(optimizer, s.linear(10))  # a second one starts from the base learning rates
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.01]
    optimizer.param_groups[1]["lr"] = 1e-3
    with pytest.raises(
        ValueError, match=r"group 1 was set to 0.001.*\[1\]\['initial_lr'\] = 0.001"
    ):
        s.attach(optimizer, s.cosine(10))
    optimizer.param_groups[1]["initial_lr"] = 1e-3  # what the message says
    s.attach(optimizer, s.cosine(10))
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 1e-3]
    optimizer.param_groups[0]["initial_lr"] = 0.2  # without setting lr, which attach sets
    s.attach(optimizer, s.cosine(10))
    assert [group["lr"] for group in optimizer.param_groups] == [0.2, 1e-3]
    for group in optimizer.param_groups:
        group.pop("initial_lr")
        group["lr"] = 0.3  # a fresh start
    s.attach(optimizer, s.cosine(10))
    assert [group["lr"] for group in optimizer.param_groups] == [0.3, 0.3]


def test_a_learning_rate_set_by_hand_after_a_warm_up_from_zero_is_noticed_too():
    optimizer = sgd(0.1)
    s.attach(optimizer, s.warmup(10, s.cosine(90)))
    assert optimizer.param_groups[0]["lr"] == 0
    optimizer.param_groups[0]["lr"] = 1e-3
    with pytest.raises(ValueError, match=r"was set to 0\.001"):
        s.attach(optimizer, s.cosine(10))


def test_resuming_and_new_groups_are_no_learning_rates_set_by_hand():
    first, second = sgd(0.1), sgd(0.1)
    scheduler, resumed = s.attach(first, s.linear(10)), s.attach(second, s.linear(10))
    rates_of(first, scheduler, 3)
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    second.add_param_group({"params": [torch.zeros(1, requires_grad=True)], "lr": 0.5})
    s.attach(second, s.linear(10))
    assert [group["lr"] for group in second.param_groups] == [0.1, 0.5]
    assert copy.deepcopy(second).state_dict() == second.state_dict()


@pytest.mark.parametrize(("patience", "acts_at"), [(1, 2), (2, 3), (3, None)])
def test_plateau_acts_at_the_given_number_of_bad_evaluations_also_of_negative_numbers(
    patience, acts_at
):
    optimizer = sgd(1.0, 0.1)
    plateau = s.Plateau(optimizer, factor=0.5, patience=patience)
    acted = None
    for k, value in enumerate((-1.0, -0.95, -0.92), start=1):  # worse and worse
        plateau.step(value)
        if optimizer.param_groups[0]["lr"] < 1 and acted is None:
            acted = k
    assert acted == acts_at
    if acts_at:
        assert optimizer.param_groups[1]["lr"] == 0.1 * optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_plateau_takes_nan_for_a_bad_evaluation_and_small_gains_for_none(mode):
    optimizer = sgd(1.0)
    plateau = s.Plateau(optimizer, mode, patience=3, min_delta=0.1)
    sign = -1 if mode == "min" else 1
    for value in (math.nan, 1.0 * sign, math.nan, 1.05 * sign):
        plateau.step(value)
    assert optimizer.param_groups[0]["lr"] == 1.0
    plateau.step(1.09 * sign)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


def test_an_impossible_plateau_is_refused():
    for wrong in ({"mode": "auto"}, {"factor": 1.0}, {"patience": 0}, {"min_delta": -1}):
        with pytest.raises(ValueError, match="got"):
            s.Plateau(sgd(1.0), **wrong)

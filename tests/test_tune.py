import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from test_trainer import dataset, net, same
from torch import nn
from torch.utils.data import DataLoader

from cnnlab.augment import Augment, ramp
from cnnlab.data.loaders import loader
from cnnlab.errors import NonFiniteError
from cnnlab.tune import (
    Choice,
    LogUniform,
    LRCurve,
    Uniform,
    grid_search,
    lr_find,
    random_search,
    refine,
)


def sweep(model=None, optimizer=None, loss_fn=None, data=None, **options):
    model = model or net()
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    data = data or loader(dataset(), 8, shuffle=True)
    return lr_find(model, optimizer, loss_fn or nn.CrossEntropyLoss(), data, **options)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("kind", ["ours", "torch"])
def test_a_sweep_leaves_model_optimizer_loader_and_random_numbers_alone_also_when_it_raises(
    fails, kind
):
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    if kind == "ours":
        data = loader(dataset(), 8, shuffle=True)
        data.seek(3, 2)
    else:
        data = DataLoader(dataset(), 8, shuffle=True, generator=torch.Generator().manual_seed(4))
    nn.functional.cross_entropy(model(dataset().tensors[0]), dataset().tensors[1]).backward()
    optimizer.step()
    model.eval()

    def broken(logits, targets):
        broken.calls += 1
        if fails and broken.calls == 7:
            raise RuntimeError("in the middle")
        return nn.functional.cross_entropy(logits, targets)

    def everything():
        where = (data.epoch, data._first_batch) if kind == "ours" else data.generator.get_state()
        modes = [m.training for m in model.modules()]
        return [
            copy.deepcopy(s)
            for s in (
                model.state_dict(),
                optimizer.state_dict(),
                torch.get_rng_state(),
                where,
                modes,
            )
        ]

    before = everything()
    for _ in range(2):
        broken.calls = 0
        if fails:
            with pytest.raises(RuntimeError, match="in the middle"):
                sweep(model, optimizer, broken, data, steps=20)
        else:
            sweep(model, optimizer, broken, data, steps=20)
        assert same(before, everything())


def test_the_ladder_is_even_in_log_rate_and_keeps_the_ratio_of_groups():
    seen = []

    class Spy(torch.optim.SGD):
        def step(self, closure=None):
            seen.append([group["lr"] for group in self.param_groups])
            return super().step(closure)

    model = net()
    groups = [{"params": model[0].parameters(), "lr": 0.01}, {"params": model[6].parameters()}]
    curve = sweep(model, Spy(groups, lr=0.1), low=1e-5, high=1e-2, steps=31)
    gaps = [math.log(b / a) for a, b in zip(curve.rates, curve.rates[1:], strict=False)]
    assert gaps == pytest.approx([math.log(1000) / 30] * 30)
    assert (curve.rates[0], curve.rates[-1]) == pytest.approx((1e-5, 1e-2))
    assert all(high == pytest.approx(10 * low) for low, high in seen)


def test_two_sweeps_measure_the_same():
    assert sweep().losses == sweep().losses


def test_a_sweep_ends_where_the_loss_is_no_longer_finite():
    curve = sweep(net(norm=False), low=1.0, high=1e30, steps=30)
    assert len(curve.losses) < 30
    assert all(map(math.isfinite, curve.losses))
    assert curve.suggest() is None or math.isfinite(curve.suggest())


@given(st.floats(-4, -1))
def test_the_suggestion_is_where_the_loss_falls_most_steeply_in_log_rate(centre):
    rates = [10 ** (-6 + 7 * i / 199) for i in range(200)]
    losses = [2 - math.tanh(2 * (math.log10(r) - centre)) for r in rates]
    found = LRCurve(rates, losses).suggest()
    assert math.log10(found) == pytest.approx(centre, abs=0.05)  # a step of the ladder is 0.035


@given(st.integers(0, 10**6))
def test_noise_of_a_tenth_of_the_fall_moves_the_suggestion_by_less_than_a_decade(seed):
    draw = np.random.default_rng(seed)
    rates = [10 ** (-6 + 7 * i / 99) for i in range(100)]
    losses = [1 - math.tanh(2 * (math.log10(r) + 2)) + draw.normal(scale=0.1) for r in rates]
    assert abs(math.log10(LRCurve(rates, losses).suggest()) + 2) < 1


def test_a_constant_loss_stays_constant_when_smoothed_and_gives_no_suggestion():
    curve = LRCurve([0.1, 0.2, 0.4, 0.8], [2.3] * 4)
    assert curve.smoothed() == pytest.approx([2.3] * 4)
    assert (
        LRCurve([0.1, 0.2, 0.4, 0.8], [4.0, 3.0, 2.0, 1.0]).suggest() is None
    )  # too short to tell
    rising = LRCurve([0.1, 0.2, 0.4, 0.8, 1.6], [1.0, 2.0, 3.0, 4.0, 5.0])
    assert rising.suggest() is None
    assert "never falls" in rising.plot().alt


@pytest.mark.parametrize("wrong", [{"low": 0}, {"low": 2, "high": 1}, {"steps": 1}])
def test_an_impossible_ladder_is_refused(wrong):
    with pytest.raises(ValueError, match="0 < low < high"):
        sweep(**wrong)


SPACE = {
    "rate": LogUniform(1e-4, 1.0),
    "decay": Uniform(0.0, 0.1),
    "norm": Choice(["batch", "none"]),
}


def objective(rate, decay, norm):
    return -abs(math.log10(rate) + 2) - decay - (norm == "none")


@pytest.mark.slow
def test_a_longer_search_begins_with_the_shorter_one_and_processes_do_not_matter():
    short, long = random_search(objective, SPACE, 5, 3), random_search(objective, SPACE, 9, 3)
    beside = random_search(objective, SPACE, 9, 3, jobs=2)
    assert long.head(5).equals(short)
    assert long.equals(beside)
    assert not random_search(objective, SPACE, 5, 4).equals(short)


def test_log_uniform_numbers_are_as_many_in_each_decade():
    rates = random_search(lambda p: 0.0, {"rate": LogUniform(1e-4, 1.0)}, 4000)["rate"]
    decades = rates.map(math.log10).map(math.floor).value_counts()
    assert set(decades.index) == {-4, -3, -2, -1}
    assert abs(decades - 1000).max() < 110  # four standard deviations


def test_an_objective_may_take_names_or_one_dictionary():
    by_name = random_search(objective, SPACE, 4)
    by_dictionary = random_search(lambda setting: objective(**setting), SPACE, 4)
    assert by_name.equals(by_dictionary)


def test_a_trial_that_raises_does_not_take_the_others_with_it():
    def fragile(rate):
        if rate > 0.01:
            raise RuntimeError("diverged")
        return rate

    table = random_search(fragile, {"rate": LogUniform(1e-4, 1.0)}, 20)
    failed = table["rate"] > 0.01
    assert failed.any()
    assert (table["score"].isna() == failed).all()
    assert set(table.loc[failed, "error"]) == {"RuntimeError: diverged"}


def test_a_grid_is_every_combination_once():
    table = grid_search(lambda a, b: a * b, {"a": Choice([1, 2, 3]), "b": [10, 20]})
    assert sorted(zip(table["a"], table["b"], strict=True)) == [
        (a, b) for a in (1, 2, 3) for b in (10, 20)
    ]
    assert (table["score"] == table["a"] * table["b"]).all()
    with pytest.raises(ValueError, match="a grid needs options"):
        grid_search(lambda a: a, {"a": Uniform(0, 1)})


@given(st.integers(0, 1000), st.integers(1, 5))
def test_a_refined_space_lies_in_the_old_one_and_holds_the_best_trials(seed, top):
    results = random_search(objective, SPACE, 12, seed)
    finer = refine(SPACE, results, top)
    best = results.nlargest(top, "score")
    for name in ("rate", "decay"):
        assert SPACE[name].low <= finer[name].low <= best[name].min()
        assert best[name].max() <= finer[name].high <= SPACE[name].high
    assert set(finer["norm"].options) == set(best["norm"])
    with pytest.raises(ValueError, match="there are 12"):
        refine(SPACE, results, 13)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Uniform(1, 1),
        lambda: LogUniform(0, 1),
        lambda: Choice([]),
        lambda: random_search(objective, SPACE, 0),
    ],
)
def test_an_empty_space_or_search_is_refused(wrong):
    with pytest.raises(ValueError, match="needs"):
        wrong()


def test_the_range_test_puts_back_the_step_of_an_augmentation_and_names_a_loss_that_is_nan():
    augment = Augment(flip=1.0, strength=ramp(0, 1, 100))
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    images, labels = torch.rand(8, 3, 2, 2), torch.arange(8) % 2
    lr_find(net, optimizer, F.cross_entropy, [(images, labels)], steps=9, batch_transform=[augment])
    assert augment.step == 0
    with pytest.raises(NonFiniteError, match="no rate is to blame"):
        lr_find(net, optimizer, F.cross_entropy, [(images / 0, labels)], steps=9)


def test_none_is_an_option_like_any_other():
    found = random_search(lambda d: 1.0 if d is None else 0.0, {"d": Choice([None, 0.1, 0.5])}, 12)
    assert any(value is None for value in found["d"])
    best = refine({"d": Choice([None, 0.1, 0.5])}, found, top=1)
    assert best["d"].options == [None]

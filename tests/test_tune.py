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
def test_a_range_test_leaves_model_optimizer_loader_and_generators_alone_even_if_it_raises(
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
        position = (data.epoch, data._first_batch) if kind == "ours" else data.generator.get_state()
        modes = [m.training for m in model.modules()]
        states = [model.state_dict(), optimizer.state_dict(), torch.get_rng_state()]
        return copy.deepcopy([*states, position, modes])

    before = everything()
    for _ in range(2):
        broken.calls = 0
        if fails:
            with pytest.raises(RuntimeError, match="in the middle"):
                sweep(model, optimizer, broken, data, steps=20)
        else:
            sweep(model, optimizer, broken, data, steps=20)
        assert same(before, everything())


def test_learning_rates_are_log_spaced_and_keep_the_ratio_of_the_groups():
    rates = []

    class Spy(torch.optim.SGD):
        def step(self, closure=None):
            rates.append([group["lr"] for group in self.param_groups])
            return super().step(closure)

    model = net()
    groups = [{"params": model[0].parameters(), "lr": 0.01}, {"params": model[6].parameters()}]
    curve = sweep(model, Spy(groups, lr=0.1), low=1e-5, high=1e-2, steps=31)
    gaps = [math.log(b / a) for a, b in zip(curve.rates, curve.rates[1:], strict=False)]
    assert gaps == pytest.approx([math.log(1000) / 30] * 30)
    assert (curve.rates[0], curve.rates[-1]) == pytest.approx((1e-5, 1e-2))
    assert all(high == pytest.approx(10 * low) for low, high in rates)


def test_two_range_tests_give_the_same_losses():
    assert sweep().losses == sweep().losses


def test_a_range_test_ends_before_the_loss_is_no_longer_finite():
    curve = sweep(net(norm=False), low=1.0, high=1e30, steps=30)
    assert len(curve.losses) < 30
    assert all(map(math.isfinite, curve.losses))
    assert curve.suggest() is None or math.isfinite(curve.suggest())


@given(st.floats(-4, -1))
def test_the_suggestion_is_where_the_loss_falls_most_steeply(centre):
    rates = [10 ** (-6 + 7 * i / 199) for i in range(200)]
    losses = [2 - math.tanh(2 * (math.log10(r) - centre)) for r in rates]
    suggestion = LRCurve(rates, losses).suggest()
    # Neighbouring learning rates differ by 0.035 decades.
    assert math.log10(suggestion) == pytest.approx(centre, abs=0.05)


@given(st.integers(0, 10**6))
def test_noise_of_a_tenth_of_the_drop_moves_the_suggestion_by_less_than_a_decade(seed):
    draw = np.random.default_rng(seed)
    rates = [10 ** (-6 + 7 * i / 99) for i in range(100)]
    losses = [1 - math.tanh(2 * (math.log10(r) + 2)) + draw.normal(scale=0.1) for r in rates]
    assert abs(math.log10(LRCurve(rates, losses).suggest()) + 2) < 1


def test_a_constant_loss_stays_constant_when_smoothed_and_gives_no_suggestion():
    curve = LRCurve([0.1, 0.2, 0.4, 0.8], [2.3] * 4)
    assert curve.smoothed() == pytest.approx([2.3] * 4)
    too_short = LRCurve([0.1, 0.2, 0.4, 0.8], [4.0, 3.0, 2.0, 1.0])
    assert too_short.suggest() is None
    rising = LRCurve([0.1, 0.2, 0.4, 0.8, 1.6], [1.0, 2.0, 3.0, 4.0, 5.0])
    assert rising.suggest() is None
    assert "never falls" in rising.plot().alt


@pytest.mark.parametrize("wrong", [{"low": 0}, {"low": 2, "high": 1}, {"steps": 1}])
def test_an_impossible_range_of_learning_rates_is_refused(wrong):
    with pytest.raises(ValueError, match="0 < low < high"):
        sweep(**wrong)


SPACE = {
    "lr": LogUniform(1e-4, 1.0),
    "decay": Uniform(0.0, 0.1),
    "norm": Choice(["batch", "none"]),
}


def objective(lr, decay, norm):
    return -abs(math.log10(lr) + 2) - decay - (norm == "none")


@pytest.mark.slow
def test_a_longer_search_begins_with_the_shorter_one_in_any_number_of_processes():
    short, long = random_search(objective, SPACE, 5, 3), random_search(objective, SPACE, 9, 3)
    parallel = random_search(objective, SPACE, 9, 3, jobs=2)
    assert long.head(5).equals(short)
    assert long.equals(parallel)
    assert not random_search(objective, SPACE, 5, 4).equals(short)


def test_log_uniform_draws_equally_often_from_each_decade():
    rates = random_search(lambda p: 0.0, {"lr": LogUniform(1e-4, 1.0)}, 4000)["lr"]
    decades = rates.map(math.log10).map(math.floor).value_counts()
    assert set(decades.index) == {-4, -3, -2, -1}
    assert abs(decades - 1000).max() < 110  # four standard deviations


def test_an_objective_takes_the_parameters_by_name_or_in_one_dictionary():
    by_name = random_search(objective, SPACE, 4)
    by_dictionary = random_search(lambda setting: objective(**setting), SPACE, 4)
    assert by_name.equals(by_dictionary)


def test_a_trial_that_raises_does_not_stop_the_others():
    def fragile(lr):
        if lr > 0.01:
            raise RuntimeError("diverged")
        return lr

    table = random_search(fragile, {"lr": LogUniform(1e-4, 1.0)}, 20)
    failed = table["lr"] > 0.01
    assert failed.any()
    assert (table["score"].isna() == failed).all()
    assert set(table.loc[failed, "error"]) == {"RuntimeError: diverged"}


def test_a_grid_search_tries_every_combination_once():
    table = grid_search(lambda a, b: a * b, {"a": Choice([1, 2, 3]), "b": [10, 20]})
    assert sorted(zip(table["a"], table["b"], strict=True)) == [
        (a, b) for a in (1, 2, 3) for b in (10, 20)
    ]
    assert (table["score"] == table["a"] * table["b"]).all()
    with pytest.raises(ValueError, match="a grid needs options"):
        grid_search(lambda a: a, {"a": Uniform(0, 1)})


@given(st.integers(0, 1000), st.integers(1, 5))
def test_a_refined_space_lies_in_the_old_one_and_contains_the_best_trials(seed, top):
    results = random_search(objective, SPACE, 12, seed)
    finer = refine(SPACE, results, top)
    best = results.nlargest(top, "score")
    for name in ("lr", "decay"):
        assert SPACE[name].low <= finer[name].low <= best[name].min()
        assert best[name].max() <= finer[name].high <= SPACE[name].high
    assert set(finer["norm"].options) == set(best["norm"])
    with pytest.raises(ValueError, match="top=13 and 12 trials"):
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


def test_the_range_test_restores_the_step_of_an_augmentation_and_reports_a_loss_that_is_nan():
    augment = Augment(flip=1.0, strength=ramp(0, 1, 100))
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    images, labels = torch.rand(8, 3, 2, 2), torch.arange(8) % 2
    lr_find(net, optimizer, F.cross_entropy, [(images, labels)], steps=9, batch_transform=[augment])
    assert augment.step == 0
    with pytest.raises(NonFiniteError, match="learning rate is not the cause"):
        lr_find(net, optimizer, F.cross_entropy, [(images / 0, labels)], steps=9)


def test_none_is_a_valid_option():
    space = {"d": Choice([None, 0.1, 0.5])}
    results = random_search(lambda d: 1.0 if d is None else 0.0, space, 12)
    assert any(value is None for value in results["d"])
    best = refine(space, results, top=1)
    assert best["d"].options == [None]

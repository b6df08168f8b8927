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
from cnnlab.augment.mixing import either
from cnnlab.data.loaders import loader
from cnnlab.errors import DataError, NonFiniteError
from cnnlab.models import small_resnet
from cnnlab.schedules import attach, cosine, warmup
from cnnlab.trainer import Callback, Trainer
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

    model = net(norm=False)
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


# --- the range test refuses what would give a wrong suggestion ------------------------------------


def sgd(model, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def test_an_attached_schedule_makes_no_difference():
    model = net()
    optimizer = torch.optim.SGD(
        [{"params": model[:3].parameters(), "lr": 0.01}, {"params": model[3:].parameters()}], lr=0.1
    )
    expected = sweep(model, optimizer)
    scheduler = attach(optimizer, warmup(10, cosine(90)))
    assert optimizer.param_groups[0]["lr"] == 0
    assert sweep(model, optimizer).losses == expected.losses
    optimizer.step()
    for _ in range(30):
        scheduler.step()
    assert sweep(model, optimizer).losses == expected.losses
    optimizer = torch.optim.SGD(
        [{"params": model[:3].parameters(), "lr": 0.01}, {"params": model[3:].parameters()}], lr=0.1
    )
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    assert optimizer.param_groups[0]["lr"] == 0
    assert sweep(model, optimizer).losses == expected.losses


def test_a_learning_rate_of_0_is_refused_in_the_first_group_and_kept_in_another():
    model = net()
    with pytest.raises(ValueError, match=r"first one must be positive, and they are 0: .*lr=0\.1"):
        sweep(model, sgd(model, lr=0.0))
    groups = [{"params": model[:3].parameters()}, {"params": model[3:].parameters(), "lr": 0.0}]
    assert len(sweep(model, torch.optim.SGD(groups, lr=0.1)).losses) > 50
    optimizer = torch.optim.SGD(reversed(groups), lr=0.1)
    with pytest.raises(ValueError, match=r"they are 0, 0\.1"):
        sweep(model, optimizer)


def test_an_optimizer_that_does_not_train_the_model_is_refused():
    model = net()
    with pytest.raises(ValueError, match="no parameter of this model"):
        sweep(model, sgd(net()))
    with pytest.raises(ValueError, match="neither frozen nor in the optimizer"):
        sweep(model, sgd(model[6]))
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="every parameter is frozen"):
        sweep(model, sgd(model))
    with pytest.raises(TypeError, match="LBFGS"):
        sweep(net(), torch.optim.LBFGS(net().parameters()))
    with pytest.raises(TypeError, match=r"create it, CrossEntropyLoss\(\)"):
        sweep(loss_fn=nn.CrossEntropyLoss)


def test_data_that_are_no_batches_are_refused():
    with pytest.raises(TypeError, match=r"cnnlab\.loader\(dataset, batch_size=64\)"):
        sweep(data=dataset())
    with pytest.raises(DataError, match="single sample"):
        sweep(data=list(dataset()))
    samples = [(image, int(label)) for image, label in dataset()]
    with pytest.raises(DataError, match=r"single sample.*cnnlab\.loader"):
        sweep(data=samples)
    with pytest.raises(DataError, match="gave no batch"):
        lr_find(net(), sgd(net()), None, [])
    with pytest.raises(ValueError, match="can be read only once"):
        sweep(data=iter(loader(dataset(), 8)))
    small = small_resnet(3, width=4)
    with pytest.raises(DataError, match="labels run from 0 to 4"):
        sweep(small, sgd(small))


def test_a_bad_image_is_not_taken_for_the_end_of_the_useful_learning_rates():
    images, labels = dataset().tensors
    bad = images[:8].clone()
    bad[3, 0, 0, 0] = torch.nan
    batches = [(images[:8], labels[:8])] * 30 + [(bad, labels[:8])]
    with pytest.raises(NonFiniteError, match=r"batch 31 .* in image 3, so the learning"):
        sweep(data=batches)


def test_any_loss_works_with_its_own_targets_and_number_types():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 1))
    x = torch.rand(64, 3, 2, 2)
    y = x.mean((1, 2, 3))[:, None]
    expected = lr_find(model, sgd(model), F.mse_loss, [(x, y)], steps=50, high=0.1)
    assert expected.suggest() is not None
    doubles = [(x.double().numpy(), y.numpy())]
    assert lr_find(model, sgd(model), F.mse_loss, doubles, steps=50, high=0.1) == expected
    # A loss may be negative: less a constant, it suggests the same.
    lower = lr_find(
        model, sgd(model), lambda o, t: F.mse_loss(o, t) - 9, [(x, y)], steps=50, high=0.1
    )
    assert len(lower.losses) == 50
    assert lower.suggest() == expected.suggest()
    with pytest.raises(DataError, match="compares entry by entry"):
        lr_find(model, sgd(model), F.mse_loss, [(x, y[:, 0])])
    numbered = [(x, (y[:, 0] > 0.5).int())]
    two = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    assert lr_find(two, sgd(two), loader=numbered).losses  # int32 labels, the default loss


def test_a_batch_whose_targets_are_all_ignored_is_passed_over():
    images, labels = dataset().tensors
    ignored = torch.full_like(labels, -100)
    curve = sweep(net(dropout=0.0), data=[(images, labels), (images, ignored)], steps=40)
    assert len(curve.losses) == 40
    assert [math.isfinite(loss) for loss in curve.losses] == [True, False] * 20
    assert all(map(math.isfinite, curve.smoothed()))


def test_a_loss_with_state_of_its_own_is_left_alone():
    class Centres(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, logits, targets):
            self.calls += 1
            return F.cross_entropy(logits * self.scale, targets)

    model, loss_fn = net(), Centres()
    optimizer = torch.optim.SGD([*model.parameters(), *loss_fn.parameters()], lr=0.1)
    sweep(model, optimizer, loss_fn)
    assert loss_fn.calls == 0
    assert loss_fn.scale.grad is None


def test_a_distributed_sampler_keeps_its_epoch():
    data = dataset()
    sampler = torch.utils.data.DistributedSampler(data, num_replicas=1, rank=0)
    sampler.set_epoch(7)
    sweep(data=DataLoader(data, 8, sampler=sampler), steps=20)
    assert sampler.epoch == 7


# --- when a sweep ends ----------------------------------------------------------------------------


def replayed(losses, steps=100):
    """Sweep with a loss that takes the given values in turn, again and again."""
    values = iter(losses * (1 + steps // len(losses)))

    def loss_fn(logits, targets):
        return logits.sum() * 0 + next(values)

    return sweep(net(norm=False), None, loss_fn, steps=steps)


@pytest.mark.parametrize("losses", [[0.1, 0.5], [0.01, 1.0], [1.0, 0.02, 0.4], [1e-3, 0.3, 0.2]])
def test_the_noise_of_single_batches_does_not_end_a_sweep(losses):
    assert len(replayed(losses).losses) == 100


@pytest.mark.parametrize("size", [4, 16])
def test_a_partly_trained_network_is_swept_beyond_the_noise_of_small_batches(size):
    torch.manual_seed(0)
    labels = torch.arange(96) % 2
    images = torch.randn(96, 3, 8, 8) / 4 + labels[:, None, None, None]
    labels[:6] = 1 - labels[:6]
    data = torch.utils.data.TensorDataset(images, labels)
    model = net(dropout=0.0)
    trainer = Trainer(model, sgd(model, 0.03), device="cpu", progress=False)
    trainer.fit(loader(data, 16, shuffle=True), epochs=5)
    curve = lr_find(model, sgd(model), nn.CrossEntropyLoss(), loader(data, size, shuffle=True))
    assert len(curve.losses) > 60


@pytest.mark.parametrize("after", [[9.0] * 3, [50.0, 9e9], [7.9, 8.1, 30.0]])
def test_an_explosion_ends_a_sweep_at_the_loss_with_which_it_begins(after):
    losses = [2.0] * 40 + after
    losses += [1e12] * (100 - len(losses))
    curve = replayed(losses)
    first = next(k for k, loss in enumerate(losses) if loss > 8)
    assert curve.losses == pytest.approx(losses[: first + 1])


def test_a_fall_from_a_peak_is_no_suggestion():
    rates = [10 ** (-6 + 7 * i / 99) for i in range(100)]
    falling = [2 - math.tanh(2 * (math.log10(r) + 3)) for r in rates]
    peak = [*falling[:90], 6.0, *falling[91:]]
    assert LRCurve(rates, peak).suggest() == LRCurve(rates, falling).suggest()
    exploded = [2.3, 1e6] + [2.3] * 98
    assert LRCurve(rates, [2.3] * 50 + [30.0] + [2.4] * 49).suggest() is None
    assert LRCurve(rates, [2.3] * 100).suggest() is None
    assert len(replayed(exploded).losses) == 2


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", [0, 7, 50, 99])
def test_a_loss_that_is_not_finite_does_not_prevent_a_suggestion(bad, where):
    rates = [10 ** (-6 + 7 * i / 99) for i in range(100)]
    losses = [2 - math.tanh(2 * (math.log10(r) + 2)) for r in rates]
    expected = LRCurve(rates, losses).suggest()
    losses[where] = bad
    curve = LRCurve(rates, losses)
    assert curve.suggest() == pytest.approx(expected, rel=0.2)
    assert len(curve.smoothed()) == 100
    assert sum(map(math.isnan, curve.smoothed())) == (where == 0)


# --- a trainer, and several sweeps ----------------------------------------------------------------


def test_a_trainer_is_swept_as_it_trains():
    """A fit whose callback sets the same learning rates has the same losses."""

    class Sweep(Callback):
        def __init__(self, rates):
            self.rates = iter(rates)

        def on_fit_start(self, trainer):
            trainer.optimizer.param_groups[0]["lr"] = next(self.rates)

        def on_step_end(self, trainer):
            trainer.optimizer.param_groups[0]["lr"] = next(self.rates, 0.0)

    loss_fn = nn.CrossEntropyLoss(weight=torch.arange(1.0, 6.0), label_smoothing=0.1)
    options = {"clip_norm": 0.1, "microbatch": 3, "precision": "bf16"}
    options |= {"batch_transform": lambda images, targets: (images.flip(3), targets)}
    batches = list(loader(dataset(), 8))

    def trainer(model, **more):
        return Trainer(model, sgd(model), loss_fn, device="cpu", progress=False, **options, **more)

    model = net(dropout=0.0, norm=False)
    ours = trainer(model)
    before = copy.deepcopy(ours.state_dict())
    curve = lr_find(ours, batches, low=1e-3, high=3.0, steps=len(batches))
    assert same(before, ours.state_dict())
    assert len(curve.losses) == len(batches)
    other = net(dropout=0.0, norm=False)
    fit = trainer(other, callbacks=[Sweep(curve.rates)]).fit(batches, epochs=1)
    assert curve.losses == pytest.approx(fit.steps["loss"].tolist(), rel=1e-6)
    plain = lr_find(model, sgd(model), loss_fn, batches, low=1e-3, high=3.0, steps=len(batches))
    assert plain.losses != curve.losses


def test_a_trainer_takes_only_a_loader_beside_it():
    model = net()
    trainer = Trainer(model, sgd(model), device="cpu", progress=False)
    data = loader(dataset(), 8, shuffle=True)
    expected = lr_find(model, sgd(model), None, data, steps=20)
    assert lr_find(trainer, data, steps=20) == lr_find(trainer, loader=data, steps=20) == expected
    wrong = [
        lambda: lr_find(trainer),
        lambda: lr_find(trainer, data, F.cross_entropy),
        lambda: lr_find(trainer, data, batch_transform=Augment()),
        lambda: lr_find(trainer, data, loader=data),
    ]
    for call in wrong:
        with pytest.raises(TypeError, match="only a loader beside it"):
            call()
    for call in (lambda: lr_find(model, data), lambda: lr_find(model, sgd(model), data)):
        with pytest.raises(TypeError, match="needs a loader"):
            call()


@pytest.mark.parametrize("kind", ["ours", "torch", "list"])
def test_several_sweeps_say_how_much_the_suggestion_spreads(kind):
    data = loader(dataset(), 8, shuffle=True)
    if kind == "torch":
        data = DataLoader(dataset(), 8, shuffle=True)
    if kind == "list":
        data = list(data)
    options = {"low": 1e-4, "high": 3.0, "steps": 40}
    one = sweep(data=data, **options)
    curve = sweep(data=data, seeds=np.int64(3), **options)
    assert (curve.rates, curve.losses) == (one.rates, one.losses)
    assert len({tuple(c.losses) for c in (one, *curve.others)}) == 3
    suggestions = sorted(c.suggest() for c in (one, *curve.others))
    assert curve.spread() == (suggestions[0], suggestions[2])
    assert curve.suggest() == suggestions[1]
    assert f"median of 3 sweeps, {suggestions[0]:.2g} to {suggestions[2]:.2g}" in str(curve)
    assert str(curve) in curve.plot().alt
    assert sweep(data=data, seeds=3, **options) == curve
    assert one.spread() == (one.suggest(), one.suggest())
    assert "sweeps" not in str(one)


def test_sweeps_without_a_suggestion_are_counted():
    rates = [0.1, 0.2, 0.4, 0.8, 1.6]
    rising, falling = ([float(i) for i in range(5)], [5.0 - i for i in range(5)])
    curve = LRCurve(rates, rising, [LRCurve(rates, falling), LRCurve(rates, rising)])
    assert curve.suggest() == 0.4
    assert "In 2 of them it never falls." in str(curve)
    assert LRCurve(rates, rising).spread() is None
    with pytest.raises(ValueError, match="seeds must be the number of sweeps"):
        sweep(seeds=0)


# --- numpy's numbers in a search ------------------------------------------------------------------


def test_spaces_take_numpy_numbers_and_arrays():
    space = {
        "lr": LogUniform(np.float64(1e-4), np.int64(1)),
        "width": Choice(np.array([8, 16])),
        "decay": Uniform(np.float32(0), np.float32(0.5)),
        "drop": Choice([np.float64(0.25), None]),
    }
    plain = {
        "lr": LogUniform(1e-4, 1),
        "width": Choice([8, 16]),
        "decay": Uniform(0.0, 0.5),
        "drop": Choice([0.25, None]),
    }
    assert space == plain
    calls = []

    def objective(**setting):
        calls.append(setting)
        return setting["lr"]

    table = random_search(objective, space, np.int64(6), np.int64(3), jobs=np.int64(1))
    assert table.equals(random_search(objective, plain, 6, 3))
    assert {type(value) for call in calls for value in call.values()} <= {float, int, type(None)}
    found = grid_search(lambda a: a, {"a": np.logspace(-2, 0, 3)}).a.tolist()
    assert found == pytest.approx([0.01, 0.1, 1.0])
    finer = refine(space, table, np.int64(2))
    assert set(finer["width"].options) <= {8, 16}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Choice("sgd"), "in a list"),
        (lambda: Choice({"sgd", "adam"}), "in a list"),
        (lambda: Choice(3), "in a list"),
        (lambda: grid_search(lambda o: 0, {"o": "sgd"}), "in a list"),
        (lambda: random_search(lambda lr: 0, {"lr": [0.1, 0.2]}, 3), r"a\s+Choice\(\[...\]\), got"),
    ],
)
def test_options_that_are_no_list_are_refused(call, message):
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: Uniform(0, math.inf),
        lambda: LogUniform(1, math.inf),
        lambda: Uniform(math.nan, 1),
        lambda: random_search(objective, SPACE, 2.5),
    ],
)
def test_numbers_that_define_no_search_are_refused(call):
    with pytest.raises(ValueError, match="needs"):
        call()


def test_a_sweep_cuts_microbatches_as_the_trainer_does():
    """9 samples in microbatches of 4 would leave a single one, which batch norm can't use."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Trainer(model, sgd, microbatch=4, device="cpu", progress=False)
    curve = lr_find(trainer, [(torch.rand(9, 3, 2, 2), torch.arange(9) % 2)], steps=5)
    assert len(curve.losses) == 5


def test_the_step_of_an_augmentation_inside_either_is_restored():
    augment = Augment(flip=0.5, strength=ramp(0, 1, 10))
    mix = either(augment, p=(0.5,))
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [(torch.rand(8, 3, 8, 8), torch.arange(8) % 4)]
    lr_find(model, optimizer, None, batches, steps=6, batch_transform=[mix])
    assert augment.step == 0


@pytest.mark.parametrize("name", ["trial", "score", "error"])
def test_a_parameter_with_the_name_of_a_column_is_refused(name):
    for search in (
        lambda: random_search(lambda **values: 1.0, {name: Uniform(0, 1)}, 2),
        lambda: grid_search(lambda **values: 1.0, {name: [1, 2]}),
    ):
        with pytest.raises(ValueError, match=f"a parameter can't be called '{name}'"):
            search()


@pytest.mark.parametrize("space", [{}, {"a": []}, [1, 2]])
def test_a_grid_without_options_is_refused(space):
    with pytest.raises(ValueError, match=r"a grid needs options|at least one option"):
        grid_search(lambda a: 1.0, space)


def test_bounds_and_tops_that_are_no_numbers_are_named():
    table = random_search(lambda lr: lr, {"lr": Uniform(0, 1)}, 4)
    for top in ("3", 2.5, None):
        with pytest.raises(ValueError, match="top must be a number of trials"):
            refine({"lr": Uniform(0, 1)}, table, top)
    with pytest.raises(ValueError, match="no column 'wd'"):
        refine({"wd": Uniform(0, 1)}, table)
    with pytest.raises(TypeError, match="a space must be a dictionary"):
        random_search(lambda lr: lr, [("lr", Uniform(0, 1))], 2)
    for kind in (Uniform, LogUniform):
        with pytest.raises(ValueError, match=r"low='0\.1'"):
            kind("0.1", 1)

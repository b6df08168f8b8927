import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_trainer import StopAt, batches, dataset, make, net, noisy, same
from torch import nn
from torch.utils.data import DataLoader, SubsetRandomSampler, WeightedRandomSampler

from cnnlab.averaging import EMA, SWA, ensemble, update_bn
from cnnlab.callbacks import SnapshotEnsemble
from cnnlab.data.loaders import loader
from cnnlab.errors import DataError, NonFiniteError
from cnnlab.models import replace_head
from cnnlab.trainer import Callback
from cnnlab.transfer import extract_features, freeze


WEIGHTS = st.lists(st.floats(-100, 100), min_size=1, max_size=30)


def scalar(value=0.0):
    model = nn.Linear(1, 1, bias=False).double()
    model.weight.data.fill_(value)
    return model


def trained(**options):
    """A model whose norms and weights are no longer what they were made."""
    trainer = make(net(**options))
    trainer.fit(batches(), epochs=1)
    return trainer.model


TRAINED = trained()


def pointers(model):
    return {tensor.data_ptr() for tensor in model.state_dict().values()}


# --- EMA ------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(WEIGHTS, st.floats(0, 0.9999))
def test_the_moving_average_of_a_scalar_has_its_closed_form(values, decay):
    model = scalar(values[0])
    ema = EMA(model, decay)
    shares = [1.0]  # of the first weights, of those after the first step, ...
    for t, value in enumerate(values[1:]):
        model.weight.data.fill_(value)
        ema.update()
        d = min(decay, (1 + t) / (10 + t))
        shares = [share * d for share in shares] + [1 - d]
    assert sum(shares) == pytest.approx(1)
    expected = sum(share * value for share, value in zip(shares, values, strict=True))
    assert ema.model.weight.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert ema.updates == len(values) - 1


def test_after_five_hundred_steps_the_random_start_is_forgotten():
    model = scalar(1.0)
    ema = EMA(model, 0.999)
    model.weight.data.fill_(0.0)
    for _ in range(500):
        ema.update()
    assert ema.model.weight.item() < 1e-9
    assert 0.999**500 > 0.6  # what a constant decay would have kept


def test_before_its_first_update_the_average_is_the_model_and_it_takes_no_part_in_training():
    model = trained()
    model(torch.rand(4, 3, 8, 8)).sum().backward()
    ema = EMA(model)
    assert same(ema.model.state_dict(), model.state_dict())
    assert not any(m.training for m in ema.model.modules())
    assert not any(p.requires_grad or p.grad is not None for p in ema.model.parameters())
    assert pointers(model).isdisjoint(pointers(ema.model))


def test_without_decay_the_average_is_the_live_model_buffers_included_and_shares_nothing_with_it():
    model = net()
    ema = EMA(model, decay=0.0)
    make(model, ema=ema, batch_transform=noisy).fit(batches(), loader(dataset(1), 16), epochs=2)
    assert ema.model[1].num_batches_tracked == 10
    assert same(ema.model.state_dict(), model.state_dict())
    assert pointers(model).isdisjoint(pointers(ema.model))


def test_the_statistics_are_those_of_the_live_model_and_the_weights_are_not():
    model = net()
    ema = EMA(model, decay=0.9)
    make(model, ema=ema).fit(batches(), epochs=2)
    assert same(ema.model[1].running_var, model[1].running_var)
    assert not same(ema.model[0].weight, model[0].weight)


def test_the_average_is_updated_once_a_step_and_validated_beside_the_model():
    model = net()
    ema = EMA(model)
    trainer = make(model, ema=ema, microbatch=3)
    history = trainer.fit(batches(), loader(dataset(1), 16), epochs=2)
    assert ema.updates == trainer.step == 10
    measured = trainer.evaluate(loader(dataset(1), 16), model=ema.model)
    row = history.frame().iloc[-1]
    assert (row["ema_valid_loss"], row["ema_valid_acc"]) == (measured["loss"], measured["acc"])


@pytest.mark.parametrize("average", ["ema", "swa"])
@pytest.mark.parametrize("stop", [3, 5])
def test_an_average_survives_a_restart_bit_for_bit(stop, average, tmp_path):
    def run(*extra):
        model = net()
        if average == "ema":
            return make(model, ema=EMA(model, 0.95), callbacks=extra, batch_transform=noisy)
        return make(model, callbacks=[SWA(model), *extra], batch_transform=noisy)

    whole, first, second = run(), run(StopAt(stop)), run()
    whole.fit(batches(), epochs=2)
    first.fit(batches(), epochs=2)
    first.save(tmp_path / "run.pt")
    second.load(tmp_path / "run.pt")
    second.fit(batches(), epochs=2)
    assert same(whole.state_dict(), second.state_dict())


@pytest.mark.parametrize("decay", [-0.1, 1.0, math.nan])
def test_a_decay_outside_of_its_range_is_refused(decay):
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        EMA(net(), decay)


# --- SWA ------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(WEIGHTS)
def test_the_equal_average_of_a_scalar_is_the_mean(values):
    model = scalar(1e9)  # what it was before does not count
    swa = SWA(model)
    for value in values:
        model.weight.data.fill_(value)
        swa.update()
    assert swa.model.weight.item() == pytest.approx(sum(values) / len(values), rel=1e-9, abs=1e-9)
    assert swa.n_averaged == len(values)


def test_the_average_of_equal_weights_is_the_model_to_the_bit_and_in_use():
    model = trained()
    swa = SWA(model)
    for _ in range(5):
        swa.update()
    assert same(swa.model.state_dict(), model.state_dict())
    update_bn(swa.model, loader(dataset(), 8))
    update_bn(model, loader(dataset(), 8))
    images = dataset(1).tensors[0]
    torch.testing.assert_close(swa.model(images), model.eval()(images).detach(), rtol=0, atol=0)


def test_as_a_callback_it_averages_the_ends_of_exactly_the_stated_epochs():
    kept = {}

    class Keep(Callback):
        def on_epoch_end(self, trainer):
            kept[trainer.epoch] = trainer.model[0].weight.detach().clone()

    model = net()
    swa = SWA(model, start_epoch=2)
    make(model, callbacks=[swa, Keep()]).fit(batches(), epochs=4)
    assert swa.n_averaged == 2
    torch.testing.assert_close(swa.model[0].weight, (kept[3] + kept[4]) / 2, rtol=0, atol=1e-7)
    with pytest.raises(ValueError, match="start_epoch"):
        SWA(model, start_epoch=-1)


# --- batch-norm statistics ------------------------------------------------------------------------


def watched(model, index, images):
    """What module `index` receives when all images pass in one batch."""
    with torch.no_grad():
        return copy.deepcopy(model).eval()[:index](images)


@settings(deadline=None, max_examples=15)
@given(st.integers(2, 46), st.integers(0, 5))
def test_the_statistics_are_those_of_all_the_data_however_the_batches_are_cut(size, seed):
    model = copy.deepcopy(TRAINED)
    data = dataset(seed)
    update_bn(model, loader(data, size))
    seen = watched(model, 1, data.tensors[0])  # (46, 8, 8, 8)
    torch.testing.assert_close(model[1].running_mean, seen.mean((0, 2, 3)))
    torch.testing.assert_close(model[1].running_var, seen.transpose(0, 1).flatten(1).var(1))
    assert model[1].num_batches_tracked == math.ceil(46 / size)


def test_one_batch_of_everything_agrees_with_torch():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
    )
    twin = copy.deepcopy(model)
    update_bn(model, loader(dataset(), 46))
    torch.optim.swa_utils.update_bn([dataset().tensors[0]], twin)
    for index in (1, 4):
        for name in ("running_mean", "running_var"):
            torch.testing.assert_close(getattr(model[index], name), getattr(twin[index], name))


def test_large_values_lose_no_digits():
    norm = nn.BatchNorm1d(1)
    values = torch.tensor([[10000.0], [10001.0], [10002.0], [10003.0]])
    update_bn(norm, [values[:2], values[2:]])
    assert norm.running_mean.item() == 10001.5
    assert norm.running_var.item() == pytest.approx(5 / 3)


def test_measuring_statistics_touches_nothing_else():
    model = nn.Sequential(*trained(dropout=0.9), nn.BatchNorm1d(5))
    freeze(model[1])
    model[7].momentum = 0.3
    model.train()
    model[2].eval()
    modes = [m.training for m in model.modules()]
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    train = loader(dataset(), 8, shuffle=True)
    train.seek(1)
    update_bn(model, DataLoader(dataset(1), 8, shuffle=True))  # it draws from the global generator
    update_bn(model, train)
    assert torch.equal(torch.rand(2), expected)
    assert train.epoch == 1
    assert [m.training for m in model.modules()] == modes
    assert model[7].momentum == 0.3
    assert not model[1]._forward_pre_hooks
    changed = {name for name, value in model.state_dict().items() if not same(value, before[name])}
    assert changed == {"7.running_mean", "7.running_var", "7.num_batches_tracked"}
    # no dropout was active: the last norm saw what it sees in use
    seen = watched(model, 7, dataset().tensors[0])
    torch.testing.assert_close(model[7].running_mean, seen.mean(0))


@pytest.mark.parametrize("kind", [EMA, SWA])
def test_in_an_average_the_norms_count_as_frozen_that_are_frozen_in_the_model(kind):
    model = nn.Sequential(*trained(), nn.BatchNorm1d(5))
    average = kind(model)
    freeze(model[1])  # after the average was made
    average.update()
    before = copy.deepcopy(average.model.state_dict())
    update_bn(average.model, loader(dataset(1), 8))
    changed = {n for n, v in average.model.state_dict().items() if not same(v, before[n])}
    assert changed == {"7.running_mean", "7.running_var", "7.num_batches_tracked"}
    frozen = freeze(copy.deepcopy(model))
    before = copy.deepcopy(frozen.state_dict())
    update_bn(frozen, loader(dataset(1), 8))
    assert same(before, frozen.state_dict())


@pytest.mark.parametrize("data", [[], [torch.rand(4, 3, 8, 8), torch.rand(4, 9, 8, 8)]])
def test_data_that_cannot_be_measured_leave_the_statistics_as_they_were(data):
    model = trained()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises((ValueError, RuntimeError), match=r"no batch|9 channels"):
        update_bn(model, data)
    assert same(before, model.state_dict())
    assert not model[1]._forward_pre_hooks


def test_a_norm_that_no_image_passes_keeps_its_statistics():
    model = trained()
    spare = model[0].spare = nn.BatchNorm2d(3)  # in the model, but not in its forward pass
    spare.running_mean.fill_(0.5)
    before = copy.deepcopy(spare.state_dict())
    update_bn(model, loader(dataset(1), 8))
    assert same(spare.state_dict(), before)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_leave_the_statistics_as_they_were(value):
    model = trained()
    before = copy.deepcopy(model.state_dict())
    images = dataset().tensors[0].clone()
    images[3, 0, 0, 0] = value
    with pytest.raises(NonFiniteError, match="nothing was changed"):
        update_bn(model, [images[:8], images[8:]])
    assert same(before, model.state_dict())


def test_a_compiled_model_gets_the_statistics_of_a_plain_one():
    """torch doesn't see hooks that are added after it has compiled the same modes."""
    model = trained()
    compiled = copy.deepcopy(model)
    compiled.compile(backend="eager")
    wrapped = torch.compile(copy.deepcopy(model), backend="eager")
    images = dataset().tensors[0]
    for network in (compiled, wrapped):
        network.eval()
        network.get_submodule("1" if network is compiled else "_orig_mod.1").train()
        with torch.no_grad():
            network(images[:8])
    for network in (model, compiled, wrapped):
        update_bn(network, images[8:40].split(8))  # batches of another size would compile again
    for other in (compiled, wrapped):
        assert same([*model.buffers()], [*other.buffers()])
    test = [images]
    torch.testing.assert_close(
        ensemble([compiled, wrapped], loader=test), ensemble([model], loader=test)
    )


def test_statistics_take_batches_of_images_alone_arrays_and_other_number_types():
    images = dataset().tensors[0]
    expected = trained()
    update_bn(expected, [images])
    for batch in ((images,), [images], images.numpy(), images.double(), (images, "paths", 3)):
        model = trained()
        update_bn(model, [batch])
        assert same(expected.state_dict(), model.state_dict())
    with pytest.raises(DataError, match="uint8"):
        update_bn(trained(), [(images * 255).byte()])


# --- averages of unusual models -------------------------------------------------------------------


@pytest.mark.parametrize("kind", [EMA, SWA])
def test_weights_that_were_infinite_before_the_first_update_are_forgotten(kind):
    model = nn.Linear(2, 2)
    model.weight.data[0, 0] = math.inf
    model.bias.data[0] = math.nan
    average = kind(model)
    nn.init.ones_(model.weight)
    nn.init.ones_(model.bias)
    average.update()
    assert same(average.model.state_dict(), model.state_dict())


@pytest.mark.parametrize("kind", [EMA, SWA])
def test_a_model_without_parameters_can_be_averaged(kind):
    model = nn.Sequential(nn.BatchNorm2d(3, affine=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    average = kind(model)
    model(torch.rand(4, 3, 8, 8))
    average.update()
    assert same(average.model.state_dict(), model.state_dict())


class Late(nn.Module):
    """It makes a buffer at its first forward pass, and another one gets a new shape."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)
        self.register_buffer("queue", torch.zeros(1))
        self.register_buffer("count", None)

    def forward(self, x):
        if not hasattr(self, "scale"):
            self.register_buffer("scale", x.abs().mean(), persistent=False)
            self.queue, self.count = torch.zeros(3), torch.ones(2)
        return self.linear(x / self.scale)


@pytest.mark.parametrize("kind", [EMA, SWA])
def test_buffers_that_are_made_later_are_copied_too(kind):
    model = Late()
    average = kind(model)
    model(torch.rand(3, 4))
    for _ in range(2):
        average.update()
        assert same(dict(average.model.named_buffers()), dict(model.named_buffers()))
    assert same(average.model.state_dict(), model.state_dict())
    assert pointers(model).isdisjoint(pointers(average.model))


@pytest.mark.parametrize("kind", [EMA, SWA])
def test_an_average_from_before_the_model_changed_is_refused(kind):
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    average = kind(model)
    # A single row would be broadcast, and with dropout there is one more module.
    for num_classes, dropout in ((5, 0.0), (1, 0.0), (3, 0.1)):
        replace_head(model, num_classes, dropout)
        with pytest.raises(ValueError, match=rf"{kind.__name__}\(model\) after replace_head"):
            average.update()
    assert average.model[1].out_features == 3
    with pytest.raises(ValueError, match="lazy layers"):
        kind(nn.LazyLinear(3))


# --- stale statistics -----------------------------------------------------------------------------


def test_an_equal_average_has_stale_statistics_until_they_are_computed():
    model = trained()
    swa = SWA(model)
    trainer = make(model)
    test = loader(dataset(1), 16)
    trainer.evaluate(test, model=swa.model)  # no update: it is the model
    swa.update()
    trainer.evaluate(test, model=swa.model)  # the weights of one step, with their statistics
    swa.update()
    for use in (
        lambda: trainer.evaluate(test, model=swa.model),
        lambda: ensemble([swa.model], loader=test),
        lambda: extract_features(swa.model, test),
    ):
        with pytest.warns(UserWarning, match="update_bn"):
            use()
    update_bn(swa.model, test)
    trainer.evaluate(test, model=swa.model)
    swa.update()
    with pytest.warns(UserWarning, match="update_bn"):
        trainer.evaluate(test, model=swa.model)


@pytest.mark.parametrize("fresh", [False, True])
def test_a_checkpoint_knows_whether_the_statistics_are_stale(fresh):
    model = trained()
    swa = SWA(model)
    swa.update()
    swa.update()
    if fresh:
        update_bn(swa.model, loader(dataset(), 16))
    other = SWA(model)
    other.load_state_dict(copy.deepcopy(swa.state_dict()))
    assert any(getattr(m, "stale_statistics", False) for m in other.model.modules()) is not fresh
    old = {k: v for k, v in swa.state_dict().items() if k != "stale"}  # from an earlier version
    other.load_state_dict(old)
    assert other.model[1].stale_statistics


def test_averages_whose_statistics_fit_are_not_stale():
    model = trained()
    ema = EMA(model)
    for _ in range(3):
        ema.update()
    plain = SWA(net(norm=False))
    frozen = SWA(freeze(copy.deepcopy(model)))
    for average in (plain, frozen):
        average.update()
        average.update()
    trainer = make(model)
    for average in (ema, plain, frozen):
        trainer.evaluate(loader(dataset(1), 16), model=average.model)


def test_a_new_run_starts_a_new_average():
    model = net()
    swa = SWA(model)
    make(model, callbacks=[swa]).fit(batches(), epochs=3)
    assert swa.model[1].stale_statistics
    make(model, callbacks=[swa, StopAt(2)]).fit(batches(), epochs=1)
    assert swa.n_averaged == 0
    assert not swa.model[1].stale_statistics


# --- ensembles ------------------------------------------------------------------------------------


def test_an_ensemble_is_the_mean_of_the_probabilities_from_models_as_from_logits():
    models = [trained(), net(), net(norm=False)]
    for model in models:
        model.train()
    trainer = make()
    test = loader(dataset(1), 7, shuffle=True)
    logits = [trainer.predict(test, model=model) for model in models]
    by_hand = sum(rows.exp() / rows.exp().sum(1, keepdim=True) for rows in logits) / 3
    for given_as in (models, logits, torch.stack(logits), [models[0], *logits[1:]]):
        torch.testing.assert_close(ensemble(given_as, loader=test), by_hand)
    assert all(model.training for model in models)
    torch.testing.assert_close(by_hand.sum(1), torch.ones(46))


def test_a_member_that_is_sure_counts_no_more_than_the_others():
    sure, others = torch.tensor([[50.0, 0.0]]), [torch.tensor([[0.0, 1.5]])] * 2
    assert torch.stack([sure, *others]).mean(0).argmax() == 0
    assert ensemble([sure, *others]).argmax() == 1
    assert ensemble([sure * 1000, *others]).isfinite().all()


def test_snapshots_make_an_ensemble():
    snapshots = SnapshotEnsemble(5)
    trainer = make(callbacks=[snapshots])
    trainer.fit(batches(), epochs=2)
    test = loader(dataset(1), 16)
    members = snapshots.models(trainer.model)
    torch.testing.assert_close(
        ensemble(members, loader=test),
        ensemble([trainer.predict(test, model=member) for member in members]),
    )


def test_an_ensemble_reads_every_loader_in_the_order_of_the_data_set_or_refuses():
    model = trained()
    ordered = ensemble([model], loader=[dataset(1).tensors[0]])
    data = dataset(1)
    weights = torch.ones(len(data))
    for shuffled in (
        DataLoader(data, 7, shuffle=True, drop_last=True),
        DataLoader(data, 7, sampler=WeightedRandomSampler(weights, 10)),
        loader(data, 7, shuffle=True, drop_last=True),
    ):
        torch.testing.assert_close(ensemble([model], loader=shuffled), ordered)
    with pytest.raises(DataError, match="SubsetRandomSampler decides"):
        ensemble([model], loader=DataLoader(data, 7, sampler=SubsetRandomSampler([3, 1])))


def test_an_ensemble_takes_arrays_and_images_alone():
    model, images = trained(), dataset(1).tensors[0]
    expected = ensemble([model], loader=[images])
    logits = make().predict([images], model=model).numpy()
    torch.testing.assert_close(ensemble([logits]), expected)
    for batch in ((images,), images.double(), images.numpy(), (images.numpy(), None)):
        torch.testing.assert_close(ensemble([model], loader=[batch]), expected)
    for wrong in ((images * 255).byte(), images.permute(0, 2, 3, 1), images[:, 0]):
        with pytest.raises(DataError, match="images"):
            ensemble([model], loader=[wrong])


def test_a_member_that_predicts_nan_is_named():
    rows = torch.zeros(4, 3)
    rows[2, 1] = math.nan
    with pytest.raises(NonFiniteError, match=r"member 1 .* NaN for 1 of 4 samples.* position 2"):
        ensemble([torch.zeros(4, 3), rows])
    masked = torch.tensor([[0.0, -math.inf]])
    assert ensemble([masked]).tolist() == [[1.0, 0.0]]


def test_ensembles_that_cannot_be_are_refused():
    rows = torch.zeros(4, 3)
    with pytest.raises(ValueError, match=r"ensemble\(models, loader=test\)"):
        ensemble([net()])
    for members in ([], [rows, rows[:3]], [rows[0]]):
        with pytest.raises(ValueError, match=r"the same shape \(N, K\)"):
            ensemble(members)
    with pytest.raises(ValueError, match="no batch"):
        ensemble([net()], loader=[])

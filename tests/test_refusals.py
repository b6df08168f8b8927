"""What the trainer refuses or notices, because the result would be wrong."""

import copy
import math
import random
import re
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from test_trainer import StopAt, same
from torch import nn
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    StepLR,
)
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    Sampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import cnnlab
from cnnlab import schedules
from cnnlab.augment import Augment, ramp
from cnnlab.averaging import EMA, SWA
from cnnlab.callbacks import Checkpoint
from cnnlab.data import balanced_sampler, loader
from cnnlab.errors import CheckpointError, DataError, NonFiniteError
from cnnlab.models import replace_head, small_resnet
from cnnlab.trainer import Callback, Trainer
from cnnlab.transfer import param_groups
from cnnlab.tune import lr_find


N, K = 24, 4
G = torch.Generator().manual_seed(0)
IMAGES, LABELS = torch.rand(N, 3, 8, 8, generator=G), torch.arange(N) % K
DATA = TensorDataset(IMAGES, LABELS)


def net(norm=False):
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8) if norm else nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, K))


def make(model=None, parameters=None, lr=0.1, schedule=None, **options):
    model = net() if model is None else model
    parameters = model.parameters() if parameters is None else parameters
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=0.9)
    if schedule is not None:
        options["scheduler"] = schedule(optimizer)
    return Trainer(model, optimizer, device="cpu", progress=False, **options)


def attached(schedule):
    return lambda optimizer: schedules.attach(optimizer, schedule)


# --- samplers and order ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sampler",
    [
        balanced_sampler(LABELS[:10]),
        WeightedRandomSampler(torch.ones(10), N),
        SubsetRandomSampler(range(N + 1)),
        RandomSampler(range(10)),
        WeightedRandomSampler(torch.ones(K), N),  # a weight per class instead of one per sample
        DistributedSampler(TensorDataset(IMAGES[:10]), 1, 0),
    ],
)
def test_a_sampler_of_another_data_set_is_refused(sampler):
    with pytest.raises(DataError, match=f"the data set has {N}"):
        make().fit(DataLoader(DATA, 4, sampler=sampler), epochs=1)


class Mean(nn.Module):
    """Logits that name the image, so that an order can be seen."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(K))

    def forward(self, images):
        return images.mean((1, 2, 3))[:, None] * self.scale


@pytest.mark.parametrize(
    "batches",
    [
        loader(DATA, 5, shuffle=True),
        loader(DATA, 5, sampler=balanced_sampler(LABELS)),
        DataLoader(DATA, 5, shuffle=True),
        DataLoader(DATA, 5, drop_last=True),
        DataLoader(DATA, 5, shuffle=True, drop_last=True),
        DataLoader(DATA, 5, sampler=WeightedRandomSampler(torch.ones(N), N)),
        DataLoader(DATA, 5, shuffle=True, generator=torch.Generator()),
    ],
)
def test_predictions_are_rows_in_the_order_of_the_data_set_and_evaluations_see_every_sample(
    batches,
):
    trainer = make(Mean())
    wanted = Mean()(IMAGES).detach()
    torch.testing.assert_close(trainer.predict(batches), wanted)
    everything = trainer.evaluate([(IMAGES, LABELS)])
    assert trainer.evaluate(batches) == pytest.approx(everything, rel=1e-5)
    assert len(list(batches)) in (4, 5)  # the loader itself goes on as before


@pytest.mark.parametrize(
    "batches",
    [
        DataLoader(DATA, 5, sampler=SubsetRandomSampler([3, 1, 2])),
        DataLoader(DATA, batch_sampler=BatchSampler(SubsetRandomSampler([3, 1, 2]), 2, False)),
    ],
)
def test_predictions_whose_rows_would_belong_to_unknown_samples_are_refused(batches):
    with pytest.raises(DataError, match="use a loader without a sampler, on a Subset"):
        make().predict(batches)
    assert math.isfinite(make().evaluate(batches)["loss"])


def test_a_subset_is_read_in_its_own_order():
    subset = Subset(DATA, [5, 3, 8])
    torch.testing.assert_close(
        make(Mean()).predict(DataLoader(subset, 2, shuffle=True)),
        Mean()(IMAGES[[5, 3, 8]]).detach(),
    )


@pytest.mark.parametrize("form", ["pair", "alone", "tuple of one", "array"])
def test_predictions_take_images_in_every_usual_form(form):
    batch = {"pair": (IMAGES, LABELS), "alone": IMAGES, "tuple of one": (IMAGES,)}
    batch = batch.get(form, IMAGES.numpy())
    assert make().predict([batch]).shape == (N, K)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (IMAGES, TypeError, r"for a single batch, pass a list: \[images\]"),
        ([(IMAGES * 255).byte()], DataError, "images.float"),
        ([IMAGES[0]], DataError, r"batch dimension is missing: use images\[None\]"),
        ([IMAGES.permute(0, 2, 3, 1)], DataError, "permute"),
    ],
)
def test_predictions_are_guarded_like_training(given, error, message):
    with pytest.raises(error, match=message):
        make().predict(given)


@pytest.mark.parametrize("make_loader", [DataLoader, loader])
def test_data_sorted_by_class_are_noticed_unless_they_are_shuffled(make_loader):
    ordered = TensorDataset(IMAGES, LABELS.sort().values)
    with pytest.warns(UserWarning, match=r"sorted by class.*shuffle=True"):
        make().fit(make_loader(ordered, 4), epochs=1)
    make().fit(make_loader(ordered, 4, shuffle=True), epochs=1)
    make().fit(make_loader(ordered, N), epochs=1)  # all in one batch
    make().fit(make_loader(DATA, 4), epochs=1)


def test_classes_that_are_numbered_differently_are_refused():
    train, valid = copy.copy(DATA), copy.copy(DATA)
    train.classes, valid.classes = ["a", "b", "c", "d"], ["b", "c", "d"]
    with pytest.raises(ValueError, match="different classes, a, b, c, d and b, c, d"):
        make().fit(DataLoader(train, 8), DataLoader(valid, 8), epochs=1)


class Replicas(RandomSampler):
    num_replicas = 2


def test_a_sampler_that_divides_the_data_among_processes_is_refused():
    with pytest.raises(DataError, match="would divide them twice"):
        make().fit(DataLoader(DATA, 4, sampler=Replicas(DATA)), epochs=1)


def test_a_microbatch_never_leaves_a_single_sample_to_batch_norm():
    make(net(norm=True), microbatch=7).fit(DataLoader(DATA, 8), epochs=1)


def test_a_learning_rate_that_was_refused_leaves_the_schedule_in_step():
    class Meddle(Callback):
        def on_step_end(self, trainer):
            if trainer.step == 2:
                set_by_hand(trainer)

    trainer = make(schedule=attached(schedules.linear(30)), callbacks=[Meddle()])
    with pytest.raises(ValueError, match="the scheduler set it to"):
        trainer.fit(loader(DATA, 8), epochs=2)
    assert trainer.step == trainer.scheduler.last_epoch == 2


# --- what trains ----------------------------------------------------------------------------------


def test_parameters_that_would_never_train_are_named():
    model = net()
    with pytest.raises(ValueError, match=r"2 parameters are neither frozen .*: 0.weight, 0.bias"):
        make(model, model[4].parameters()).fit(loader(DATA, 8), epochs=1)
    cnnlab.transfer.freeze(model[0])
    make(model, model[4].parameters()).fit(loader(DATA, 8), epochs=1)


def test_a_part_that_is_unfrozen_later_and_not_in_the_optimizer_is_named():
    model = net()
    cnnlab.transfer.freeze(model[0])

    class Unfreeze(Callback):
        def on_epoch_start(self, trainer):
            if trainer.epoch == 1:
                cnnlab.transfer.unfreeze(model[0])

    trainer = make(model, model[4].parameters(), callbacks=[Unfreeze()])
    with pytest.raises(ValueError, match="neither frozen nor in the optimizer"):
        trainer.fit(loader(DATA, 8), epochs=2)
    assert trainer.epoch == 1


def test_parameters_of_the_loss_belong_in_the_optimizer():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, logits, targets):
            return F.cross_entropy(logits * self.scale, targets)

    with pytest.raises(ValueError, match=r"loss has parameters .*: scale"):
        make(loss_fn=Scaled()).fit(loader(DATA, 8), epochs=1)


def test_what_was_made_before_the_model_changed_is_refused():
    model = small_resnet(7, width=4)
    ema = EMA(model)
    replace_head(model, K)
    with pytest.raises(ValueError, match=r"create EMA\(model\) after replace_head"):
        make(model, ema=ema).fit(loader(DATA, 8), epochs=1)
    model = small_resnet(7, width=4)
    swa = SWA(model)
    replace_head(model, K)
    with pytest.raises(ValueError, match=r"create SWA\(model\) after replace_head"):
        make(model, callbacks=[swa]).fit(loader(DATA, 8), epochs=1)


def test_a_group_added_after_the_schedule_is_refused():
    model = net()
    trainer = make(model, model[0].parameters(), schedule=attached(schedules.cosine(3)))
    trainer.optimizer.add_param_group({"params": model[4].parameters()})
    with pytest.raises(ValueError, match="attach it again after add_param_group"):
        trainer.fit(loader(DATA, 8), epochs=1)
    model = net()
    trainer = make(model, model[0].parameters(), schedule=lambda o: StepLR(o, 9))
    trainer.optimizer.add_param_group({"params": model[4].parameters()})
    with pytest.raises(ValueError, match="attach it again after add_param_group"):
        trainer.fit(loader(DATA, 8), epochs=1)


def test_lbfgs_is_refused():
    model = net()
    with pytest.raises(TypeError, match="LBFGS evaluates the loss several times"):
        Trainer(model, torch.optim.LBFGS(model.parameters()), device="cpu")


def test_class_weights_that_are_no_numbers_are_refused():
    for bad in (math.inf, math.nan, 0.0):
        loss_fn = nn.CrossEntropyLoss(torch.tensor([1.0, bad, 1.0, 1.0]))
        with pytest.raises(ValueError, match="class weights must be positive"):
            make(loss_fn=loss_fn).fit(loader(DATA, 8), epochs=1)


def test_too_few_class_weights_are_counted():
    with pytest.raises(DataError, match="but the loss has 3 class weights"):
        make(loss_fn=nn.CrossEntropyLoss(torch.ones(3))).fit(loader(DATA, 8), epochs=1)


def test_a_weight_that_is_a_parameter_is_no_class_weight():
    class ArcFace(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.eye(K))

        def forward(self, features, targets):
            return F.cross_entropy(features @ self.weight, targets)

    model, loss_fn = net(), ArcFace()
    trainer = make(model, [*model.parameters(), *loss_fn.parameters()], loss_fn=loss_fn)
    trainer.fit(loader(DATA, 8, sampler=balanced_sampler(LABELS)), epochs=1)


def test_frozen_batch_norm_takes_a_last_batch_of_one():
    model = net(norm=True)
    odd = TensorDataset(IMAGES[:9], LABELS[:9])
    with pytest.raises(DataError, match="last batch has a single image"):
        make(model).fit(DataLoader(odd, 4), epochs=1)
    cnnlab.transfer.freeze(model[1])
    make(model).fit(DataLoader(odd, 4), epochs=1)


# --- schedules ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schedule",
    [
        attached(schedules.one_cycle(3)),
        attached(schedules.cosine(3)),
        lambda optimizer: StepLR(optimizer, 2),
        lambda optimizer: CosineAnnealingLR(optimizer, T_max=2),
    ],
    ids=["one_cycle", "cosine", "StepLR", "CosineAnnealingLR"],
)
def test_a_schedule_counted_in_epochs_is_noticed(schedule):
    with pytest.warns(UserWarning, match="Schedules count optimizer steps, .* ends at step 36"):
        make(schedule=schedule).fit(loader(DATA, 8, shuffle=True), epochs=12)


def test_a_one_cycle_of_torch_that_is_too_short_is_refused_before_the_first_step():
    trainer = make(schedule=lambda o: OneCycleLR(o, 0.1, total_steps=12))
    with pytest.raises(ValueError, match="was made for 12 steps, and this run has 36"):
        trainer.fit(loader(DATA, 8, shuffle=True), epochs=12)
    assert trainer.step == 0


@pytest.mark.parametrize(
    "schedule",
    [
        lambda optimizer: StepLR(optimizer, 9),  # 18 of the 36 steps are at 1 % or below
        lambda optimizer: MultiStepLR(optimizer, [9, 18]),  # at exactly 1 %
        lambda optimizer: ExponentialLR(optimizer, 0.01 ** (1 / 18)),
    ],
)
def test_a_torch_schedule_that_spends_half_of_the_run_at_1_percent_is_noticed(schedule):
    with pytest.warns(UserWarning, match=r"at most 1 % of its maximum in 18 of the 36 steps"):
        make(schedule=schedule).fit(loader(DATA, 8, shuffle=True), epochs=12)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (lambda o: CosineAnnealingLR(o, 9), "rises and falls again: T_max=9, and this run has 36"),
        (lambda o: StepLR(o, 3), "at most 1 % of its maximum in 30 of the 36 steps"),
        (lambda o: PolynomialLR(o, 9), "at most 1 % of its maximum in 27 of the 36 steps"),
        (lambda o: LambdaLR(o, lambda t: -1.0 if t == 20 else 1.0), "-0.1 at step 20"),
    ],
    ids=["CosineAnnealingLR", "StepLR", "PolynomialLR", "LambdaLR"],
)
def test_a_torch_schedule_is_compared_with_the_rest_of_a_run_that_goes_on(schedule, message):
    batches = loader(DATA, 8, shuffle=True)
    trainer = make(schedule=schedule)
    trainer.fit(batches, epochs=3)
    with pytest.raises((UserWarning, ValueError), match=message):
        trainer.fit(batches, epochs=12)


@pytest.mark.parametrize(
    "schedule", [lambda o: CosineAnnealingLR(o, 36), lambda o: MultiStepLR(o, [15, 27])]
)
def test_the_end_of_a_torch_schedule_that_fits_is_not_mentioned(schedule, tmp_path):
    batches = loader(DATA, 8, shuffle=True)
    trainer = make(schedule=schedule)
    trainer.fit(batches, epochs=11)
    trainer.save(tmp_path / "run.pt")
    again = make(schedule=schedule)
    again.load(tmp_path / "run.pt")
    again.fit(batches, epochs=12)
    assert len(again.history.steps) == 36


def test_a_schedule_much_longer_than_the_run_is_noticed():
    with pytest.warns(UserWarning, match="a schedule of 360 steps, of which this run has only 36"):
        make(schedule=attached(schedules.cosine(360))).fit(loader(DATA, 8), epochs=12)


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.cosine(36),
        schedules.one_cycle(36),
        schedules.warmup(6, schedules.cosine(30)),
        schedules.step(12),
        schedules.multistep([18, 27]),
        schedules.linear(36, final=0.1),
        schedules.inverse_sqrt(),
        schedules.warm_restarts(6),
        schedules.constant(),
    ],
)
def test_a_schedule_that_fits_is_not_mentioned(schedule):
    make(schedule=attached(schedule)).fit(loader(DATA, 8), epochs=12)


def test_a_cyclic_schedule_of_torch_rises_and_falls_once_per_step():
    trainer = make(schedule=lambda o: CyclicLR(o, 0.01, 0.1, step_size_up=3))
    rates = trainer.fit(loader(DATA, 8), epochs=4).steps["lr"].round(3).tolist()
    assert rates == [0.01, 0.04, 0.07, 0.1, 0.07, 0.04] * 2


def set_by_hand(trainer):
    trainer.optimizer.param_groups[0]["lr"] = 1e-3


@pytest.mark.parametrize("scheduler", ["ours", "torch"])
@pytest.mark.parametrize("when", ["before", "between", "during"])
def test_a_learning_rate_set_behind_the_back_of_the_schedule_is_refused(scheduler, when):
    class Meddle(Callback):
        def on_epoch_start(self, trainer):
            if when == "during" and trainer.epoch == 1:
                set_by_hand(trainer)

    ours = attached(schedules.constant())
    schedule = ours if scheduler == "ours" else lambda o: StepLR(o, 100)
    trainer = make(schedule=schedule, callbacks=[Meddle()])
    if when == "between":
        trainer.fit(loader(DATA, 8), epochs=1)
    if when != "during":
        set_by_hand(trainer)
    with pytest.raises(ValueError, match=r"group 0 is 0\.001, but the scheduler set it to 0\.1"):
        trainer.fit(loader(DATA, 8), epochs=2)


# --- resuming -------------------------------------------------------------------------------------


class Noisy(torch.utils.data.Dataset):
    """Images with noise from numpy's and Python's global generators."""

    def __len__(self):
        return N

    def __getitem__(self, i):
        noise = np.random.rand(3, 8, 8).astype("float32")  # noqa: NPY002
        return IMAGES[i] + torch.from_numpy(noise) * 0.1, LABELS[i]


LOADERS = {
    "generator": lambda: DataLoader(
        DATA, 5, shuffle=True, generator=torch.Generator().manual_seed(9)
    ),
    "generator of the sampler": lambda: DataLoader(
        DATA, 5, sampler=RandomSampler(DATA, generator=torch.Generator().manual_seed(9))
    ),
    "batch sampler": lambda: DataLoader(
        DATA, batch_sampler=BatchSampler(RandomSampler(DATA, generator=torch.Generator()), 5, False)
    ),
    "numpy noise": lambda: DataLoader(Noisy(), 5, shuffle=True),
    "ours": lambda: loader(DATA, 5, shuffle=True),
}


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("stop", [3, 5, 7])
def test_a_run_with_any_loader_resumes_exactly(kind, stop):
    whole, resumed = make(), make()
    np.random.seed(5)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    whole.fit(LOADERS[kind](), epochs=3)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    stopped = make(callbacks=[StopAt(stop)])
    stopped.fit(LOADERS[kind](), epochs=3)
    state = stopped.state_dict()
    state["callbacks"] = []
    resumed.load_state_dict(state)
    used = LOADERS[kind]()
    list(used)  # the loader has been used before
    resumed.fit(used, epochs=3)
    assert same(whole.model.state_dict(), resumed.model.state_dict())


@pytest.mark.parametrize("make_loader", [DataLoader, loader])
def test_continuing_an_epoch_with_another_batch_size_is_refused(make_loader):
    trainer = make(callbacks=[StopAt(2)])
    trainer.fit(make_loader(DATA, 4), epochs=2)
    with pytest.raises(CheckpointError, match=r"6 batches of 4 and 2 of them .* 3 batches of 8"):
        trainer.fit(make_loader(DATA, 8), epochs=2)
    trainer.fit(make_loader(DATA, 4), epochs=1)
    trainer.fit(make_loader(DATA, 8), epochs=2)  # at the end of an epoch it is fine


def test_the_loader_is_where_it_was_after_a_fit_that_was_stopped():
    batches = loader(DATA, 4)
    make(callbacks=[StopAt(2)]).fit(batches, epochs=1)
    assert len(list(batches)) == 6


def test_a_fit_without_anything_left_to_do_says_so(capsys):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Trainer(model, optimizer, device="cpu")
    trainer.fit(loader(DATA, 8), epochs=2)
    trainer.fit(loader(DATA, 8), epochs=2)
    assert "fit(..., epochs=4) trains 2 more" in capsys.readouterr().out


def test_a_compiled_model_is_saved_and_resumed(tmp_path):
    def compiled():
        return make(torch.compile(net(), backend="eager"), callbacks=[Checkpoint(tmp_path / "run")])

    trainer = compiled()
    trainer.fit(loader(DATA, 8), epochs=1)
    again = compiled()
    again.load(tmp_path / "run")
    assert again.epoch == 1


def test_a_prefix_that_a_wrapper_added_is_named():
    state = make().state_dict()
    state["model"] = {f"module.{k}": v for k, v in state["model"].items()}
    with pytest.raises(CheckpointError, match=r"begin with 'module\.'"):
        make().load_state_dict(state)
    compiled = make().state_dict()
    compiled["model"] = {f"_orig_mod.{k}": v for k, v in compiled["model"].items()}
    with pytest.raises(CheckpointError, match=r"begin with '_orig_mod\.'"):
        make().load_state_dict(compiled)
    with pytest.raises(CheckpointError, match="the checkpoint is that of a plain model"):
        make(torch.compile(net())).load_state_dict(make().state_dict())


# --- fp16, averages -------------------------------------------------------------------------------


def test_a_gradient_that_is_never_finite_ends_the_run():
    class Poison(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * math.nan

    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net()

        def forward(self, images):
            return Poison.apply(self.net(images))

    trainer = make(Broken())
    trainer.scaler = torch.amp.GradScaler("cpu", enabled=True)
    with pytest.raises(NonFiniteError, match="gradient"):
        trainer.fit(loader(DATA, 8), epochs=50)
    assert trainer.history.skipped_steps == 25


def test_averaged_weights_without_statistics_are_noticed():
    model = net(norm=True)
    swa = SWA(model)
    trainer = make(model, callbacks=[swa])
    trainer.fit(loader(DATA, 8), epochs=2)
    with pytest.warns(UserWarning, match="call cnnlab.averaging.update_bn"):
        trainer.evaluate(loader(DATA, 8), model=swa.model)
    cnnlab.averaging.update_bn(swa.model, loader(DATA, 8))
    trainer.evaluate(loader(DATA, 8), model=swa.model)


def test_a_negative_step_of_any_kind_of_loss_is_allowed_where_it_may_be_negative():
    def negative(outputs, targets):
        return -F.cosine_similarity(outputs, F.one_hot(targets, K).float()).mean()

    history = make(loss_fn=negative).fit(loader(DATA, 8), epochs=1)
    assert math.isfinite(history.epochs[0]["train_loss"])


def test_partial_losses_keep_their_options():
    loss_fn = partial(F.cross_entropy, label_smoothing=0.1)
    wanted = F.cross_entropy(net()(IMAGES), LABELS, label_smoothing=0.1).item()
    assert make(loss_fn=loss_fn).evaluate([(IMAGES, LABELS)])["loss"] == pytest.approx(wanted)


# --- loaders in disguise --------------------------------------------------------------------------


class Counting(torch.utils.data.Dataset):
    """Add noise from a generator of its own, as transforms of other libraries do."""

    def __init__(self, generator):
        self.generator, self.labels = generator, LABELS

    def __len__(self):
        return N

    def __getitem__(self, index):
        return IMAGES[index] + 0.1 * float(self.generator.random()), LABELS[index]


@pytest.mark.parametrize("kind", ["numpy", "python", "sampler"])
def test_generators_inside_the_data_set_or_the_sampler_are_seeded_for_each_epoch(kind, tmp_path):
    generator = random.Random(3) if kind == "python" else np.random.default_rng(3)
    dataset = DATA if kind == "sampler" else Counting(generator)
    sampler = RandomSampler(dataset, generator=torch.Generator().manual_seed(5))
    batches = DataLoader(dataset, batch_sampler=BatchSampler(sampler, 4, False))
    whole = make()
    whole.fit(batches, epochs=2)
    first, second = make(callbacks=[StopAt(8)]), make()
    first.fit(batches, epochs=2)
    first.save(tmp_path / "run.pt")
    second.load(tmp_path / "run.pt")
    second.fit(batches, epochs=2)
    assert same(whole.model.state_dict(), second.model.state_dict())


@pytest.mark.slow
def test_workers_that_outlive_an_epoch_go_on_as_new_ones(tmp_path):
    dataset = Counting(np.random.default_rng(3))
    batches = DataLoader(dataset, 6, shuffle=True, num_workers=1, persistent_workers=True)
    whole = make()
    whole.fit(batches, epochs=2)
    first, second = make(), make()
    first.fit(batches, epochs=1)
    first.save(tmp_path / "run.pt")
    second.load(tmp_path / "run.pt")
    second.fit(batches, epochs=2)
    assert same(whole.model.state_dict(), second.model.state_dict())


def test_a_sampler_inside_a_batch_sampler_is_seen():
    weighted = WeightedRandomSampler(torch.ones(N), N)
    batches = DataLoader(DATA, batch_sampler=BatchSampler(weighted, 5, True))
    trainer = make()
    assert torch.equal(trainer.predict(batches), trainer.predict(loader(DATA, 5)))
    assert trainer.evaluate(batches) == trainer.evaluate(loader(DATA, 5))
    short = BatchSampler(WeightedRandomSampler(torch.ones(N - 1), N - 1), 5, False)
    with pytest.raises(DataError, match="23 weights, but the data set has 24"):
        trainer.fit(DataLoader(DATA, batch_sampler=short), epochs=1)
    with_weights = Trainer(
        trainer.model, trainer.optimizer, nn.CrossEntropyLoss(torch.ones(K)), device="cpu"
    )
    with pytest.raises(ValueError, match="twice"):
        with_weights.fit(batches, epochs=1)


def test_an_evaluation_never_drops_the_samples_of_a_sampler_of_ones_own():
    chosen = SubsetRandomSampler(range(10))
    trainer = make()
    dropping = trainer.evaluate(DataLoader(DATA, 4, sampler=chosen, drop_last=True))
    everything = trainer.evaluate(DataLoader(Subset(DATA, range(10)), 4))
    assert dropping["loss"] == pytest.approx(everything["loss"], rel=1e-6)
    in_order = DataLoader(DATA, 4, sampler=range(N))
    assert trainer.predict(in_order).shape == (N, K)


@pytest.mark.parametrize(
    ("labels", "noticed"),
    [
        (torch.arange(N) // 6, True),
        ((torch.arange(N) // 6).flip(0), True),
        (torch.tensor([2, 0, 3, 1]).repeat_interleave(6), True),
        (torch.arange(N) % 4, False),
        (torch.zeros(N, dtype=torch.int64), False),  # a single class is another mistake
        (torch.arange(N) // 2, False),  # two images per class: every order has short runs
    ],
)
def test_runs_of_one_class_are_noticed_in_any_order_and_through_a_subset(labels, noticed):
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 12))
    for dataset in (TensorDataset(IMAGES, labels), Subset(TensorDataset(IMAGES, labels), range(N))):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            make(model).fit(DataLoader(dataset, 3), epochs=1)
        assert noticed == any("sorted by class" in str(w.message) for w in caught)


def test_a_pair_of_tensors_is_no_loader():
    with pytest.raises(TypeError, match="pass a list"):
        make().predict((IMAGES, LABELS.float()))


class Own(Sampler):
    def __len__(self):
        return N // 4

    def __iter__(self):
        return iter(torch.randperm(N).view(-1, 4).tolist())


def test_a_batch_sampler_that_decides_the_order_is_named():
    with pytest.raises(DataError, match="but Own decides which samples"):
        make().predict(DataLoader(DATA, batch_sampler=Own()))


def test_a_generator_that_was_read_before_is_no_validation():
    batches = ((images, labels) for images, labels in DataLoader(DATA, 8))
    assert len(list(batches)) == 3
    with pytest.raises(DataError, match="it is a generator that was read before"):
        make().fit(DataLoader(DATA, 8), batches, epochs=1)


def test_rows_that_belong_to_no_sample_are_refused():
    with pytest.raises(DataError, match="for 8 samples"):
        make(nn.Sequential(net(), nn.Flatten(0), nn.Unflatten(0, (-1, 1)))).predict([IMAGES[:8]])


# --- settings on resume ---------------------------------------------------------------------------


def test_settings_that_a_checkpoint_replaces_are_said_once(tmp_path):
    first = make()
    first.fit(DataLoader(DATA, 8), epochs=1)
    first.save(tmp_path / "run.pt")
    with pytest.warns(UserWarning, match=r"lr=0.01, and the checkpoint 0.1"):
        make(lr=0.01).load(tmp_path / "run.pt")
    weighted = [
        Trainer(m, torch.optim.SGD(m.parameters(), lr=0.1), nn.CrossEntropyLoss(w), device="cpu")
        for m, w in ((net(), torch.ones(K)), (net(), torch.arange(1.0, K + 1)))
    ]
    weighted[0].save(tmp_path / "weighted.pt")
    with pytest.raises(CheckpointError, match="class weights"):
        weighted[1].load(tmp_path / "weighted.pt")


def test_continuing_an_epoch_of_another_length_is_refused():
    batches = list(zip(IMAGES.split(4), LABELS.split(4), strict=True))
    trainer = make(callbacks=[StopAt(2)])
    trainer.fit(batches, epochs=1)
    trainer.callbacks.clear()
    with pytest.raises(CheckpointError, match="has 3 batches of unknown size"):
        trainer.fit(batches[:3], epochs=1)


def test_parameters_that_belong_to_nothing_are_noticed():
    model, other = net(), nn.Linear(2, 2)
    trainer = make(model, [*model.parameters(), *other.parameters()])
    with pytest.warns(UserWarning, match="holds 2 tensors that are in neither"):
        trainer.fit(DataLoader(DATA, 8), epochs=1)


# --- schedules of torch ---------------------------------------------------------------------------


def test_schedules_inside_a_schedule_are_simulated():
    def sequential(optimizer):
        warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=2)
        short = CosineAnnealingLR(optimizer, T_max=4)
        return torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, short], [2])

    trainer = make(schedule=sequential)
    trainer.fit(DataLoader(DATA, 4), epochs=1)  # 2 + 4 steps: it fits
    with pytest.warns(UserWarning, match="rises and falls again"):
        make(schedule=lambda o: CosineAnnealingLR(o, T_max=4)).fit(DataLoader(DATA, 2), epochs=1)
    with pytest.warns(UserWarning, match="40 steps, of which this run has only 12"):
        make(schedule=lambda o: CosineAnnealingLR(o, T_max=40)).fit(DataLoader(DATA, 2), epochs=1)
    restarts = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts
    make(schedule=lambda o: restarts(o, 3)).fit(DataLoader(DATA, 2), epochs=1)


def test_a_rate_that_is_not_finite_is_refused_before_the_first_step():
    trainer = make(schedule=attached(lambda step: math.nan if step == 3 else 1.0))
    with pytest.raises(ValueError, match="nan at step 3"):
        trainer.fit(DataLoader(DATA, 4), epochs=1)
    assert trainer.step == 0


def test_a_learning_rate_in_a_tensor_survives_the_simulation():
    trainer = make(lr=torch.tensor(0.1), schedule=lambda o: StepLR(o, 100, 0.5))
    trainer.fit(DataLoader(DATA, 2), epochs=1)
    assert float(trainer.optimizer.param_groups[0]["lr"]) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "picture",
    ["mug.jpg", Path("mug.jpg"), Image.new("RGB", (8, 8)), np.zeros((8, 8, 3), "uint8")],
    ids=["text", "path", "PIL", "array"],
)
def test_a_single_image_is_told_what_to_call(picture):
    name = repr(str(picture)) if isinstance(picture, str | Path) else "image"
    call = re.escape(f"call cnnlab.classify(trainer.model, {name}, data.classes)")
    for use in (make().predict, make().evaluate):
        with pytest.raises(TypeError, match=f"got .*To classify a single image, {call}"):
            use(picture)
    with pytest.raises(DataError, match=f"got .*To classify a single image, {call}"):
        make().predict([picture])


def test_none_instead_of_a_loader_is_told_what_to_call():
    for use in (make().predict, make().evaluate, lambda none: make().fit(none, epochs=1)):
        with pytest.raises(TypeError, match=r"got None; make one with cnnlab\.loader.*classify\("):
            use(None)


class Peeks(Callback):
    """Look at the outputs after each step, as people write it."""

    def __init__(self, back_to_training):
        self.back_to_training = back_to_training

    def on_step_end(self, trainer):
        trainer.model.eval()
        with torch.no_grad():
            trainer.model(IMAGES[:4])
        if self.back_to_training:
            trainer.model.train()


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("back_to_training", [False, True])
def test_a_callback_that_changes_the_mode_does_not_change_the_training(frozen, back_to_training):
    runs = []
    for callbacks in ([], [Peeks(back_to_training)]):
        model = net(norm=True)
        if frozen:
            cnnlab.transfer.freeze(model[1])
        make(model, callbacks=callbacks).fit(loader(DATA, 8), epochs=2)
        runs.append(model)
    assert same(runs[0].state_dict(), runs[1].state_dict())


def test_an_average_that_was_never_updated_is_noticed(tmp_path):
    model = net(norm=True)
    forgotten, late = EMA(model), SWA(model, start_epoch=5)
    trainer = make(model, callbacks=[late])
    trainer.evaluate(loader(DATA, 8), model=forgotten.model)  # before the training it is the model
    trainer.fit(loader(DATA, 8), epochs=2)
    for average in (forgotten, late):
        with pytest.warns(UserWarning, match="this average was never updated"):
            trainer.evaluate(loader(DATA, 8), model=average.model)
    late.update(model)
    trainer.predict(loader(DATA, 8), model=late.model)
    reloaded = SWA(net(norm=True))
    reloaded.load_state_dict(late.state_dict())
    trainer.predict(loader(DATA, 8), model=reloaded.model)


@pytest.mark.parametrize("average", [EMA, SWA])
def test_the_average_of_a_loaded_run_knows_what_is_frozen(average, tmp_path):
    def run(frozen):
        model = net(norm=True)
        if frozen:
            cnnlab.transfer.freeze(model[1])
        averaged = average(model)
        options = {"ema": averaged} if average is EMA else {"callbacks": [averaged]}
        return make(model, **options), averaged.model

    trainer, _ = run(frozen=True)
    trainer.fit(loader(DATA, 8), epochs=2)
    trainer.save(tmp_path / "run.pt")
    resumed, averaged = run(frozen=False)
    resumed.load(tmp_path / "run.pt")
    before = averaged[1].running_mean.clone()
    cnnlab.averaging.update_bn(averaged, loader(DATA, 8))
    assert torch.equal(averaged[1].running_mean, before)


def test_an_average_or_a_trainer_in_place_of_a_model_is_named():
    trainer, batches = make(), loader(DATA, 8)
    ema = EMA(trainer.model)
    uses = (
        lambda x: trainer.evaluate(batches, model=x),
        lambda x: trainer.predict(batches, model=x),
        lambda x: cnnlab.averaging.update_bn(x, batches),
        lambda x: cnnlab.averaging.ensemble([x], loader=batches),
        lambda x: cnnlab.transfer.extract_features(x, batches),
        lambda x: cnnlab.diagnose.overfit_one_batch(x, DATA[:8], F.cross_entropy),
        lambda x: cnnlab.diagnose.nan_hunt(x, DATA[:8], F.cross_entropy),
        lambda x: cnnlab.transfer.freeze(x),
        EMA,
    )
    for use in uses:
        with pytest.raises(TypeError, match=r"must be a torch Module, got EMA: pass ema\.model"):
            use(ema)
        with pytest.raises(TypeError, match=r"got Trainer: pass trainer\.model"):
            use(trainer)
        with pytest.raises(TypeError, match="got str"):
            use("best")


@pytest.mark.parametrize("lr", [-0.1, math.nan, math.inf, "0.1"])
def test_a_learning_rate_that_cannot_work_is_refused(lr):
    trainer = make()
    trainer.optimizer.param_groups[0]["lr"] = lr
    with pytest.raises(ValueError, match=r"learning rate of parameter group 0 is .*at least 0"):
        trainer.fit(loader(DATA, 8), epochs=1)
    assert trainer.step == 0


def test_a_schedule_that_goes_below_zero_is_refused():
    falling = attached(lambda step: 1 - step)
    with pytest.raises(ValueError, match=r"learning rate -1\.0 at step 2: .*at least 0"):
        make(schedule=falling).fit(loader(DATA, 8), epochs=1)
    trainer = make(schedule=falling)
    with pytest.raises(ValueError, match=r"group 0 is -0\.1: it must be at least 0"):
        trainer.fit((batch for batch in loader(DATA, 4)), epochs=1)  # a generator has no length
    assert trainer.step == 2


def test_training_with_a_learning_rate_of_zero_is_noticed():
    with pytest.warns(UserWarning, match="every learning rate is 0 and there is no schedule"):
        make(lr=0.0).fit(loader(DATA, 8), epochs=1)
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = schedules.attach(optimizer, schedules.warmup(2, schedules.cosine(7)))
    forgotten = Trainer(model, optimizer, device="cpu", progress=False)
    with pytest.warns(UserWarning, match=r"attached .* stays at 0: pass .*scheduler="):
        forgotten.fit(loader(DATA, 8), epochs=1)
    given = Trainer(model, optimizer, scheduler=schedule, device="cpu", progress=False)
    given.fit(loader(DATA, 8), epochs=3)
    again = Trainer(model, optimizer, scheduler=schedule, device="cpu", progress=False)
    with pytest.warns(UserWarning, match="is 0 in every step of this run. Attach a new schedule"):
        again.fit(loader(DATA, 8), epochs=3)


def test_a_callback_listed_twice_is_refused():
    log = cnnlab.callbacks.GradNormLog()
    with pytest.raises(ValueError, match="a callback is listed twice"):
        make(callbacks=[log, log])

    class Duck:
        def on_step_end(self, trainer):
            pass

    with pytest.raises(TypeError, match=r"a subclass of cnnlab\.Callback"):
        make(callbacks=[Duck()])


@pytest.mark.parametrize(
    ("name", "kind"), [("ema", EMA), ("scheduler", StepLR), ("plateau", schedules.Plateau)]
)
def test_a_class_in_place_of_an_object_is_named(name, kind):
    with pytest.raises(TypeError, match=f"{name} is the class {kind.__name__}: create it first"):
        make(**{name: kind})


def test_an_average_of_the_model_inside_a_compiled_one_is_accepted():
    model = net()
    compiled = torch.compile(model, backend="eager")
    ema = EMA(model, 0.5)
    make(compiled, ema=ema).fit(loader(DATA, 8), epochs=1)
    assert ema.updates == 3


@pytest.mark.parametrize("divisor", [math.nan, math.inf, -1, None, torch.ones(2)])
def test_a_divisor_that_is_no_number_names_the_method(divisor):
    class Own(nn.Module):
        def normalizer(self, targets):
            return divisor

        def forward(self, outputs, targets):
            return F.cross_entropy(outputs, targets)

    with pytest.raises(ValueError, match=r"Own\.normalizer\(targets\) must return the divisor"):
        make(loss_fn=Own()).fit(loader(DATA, 8), epochs=1)


def test_a_layer_called_normalizer_is_no_divisor():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.normalizer = nn.LayerNorm(K, elementwise_affine=False)

        def forward(self, outputs, targets):
            return F.cross_entropy(self.normalizer(outputs), targets)

    make(loss_fn=Own()).fit(loader(DATA, 8), epochs=1)


def test_logits_for_a_loss_of_probabilities_are_refused():
    batches = [(IMAGES, F.one_hot(LABELS, K).float())]
    for loss_fn in (nn.BCELoss(), F.binary_cross_entropy):
        trainer = make(loss_fn=loss_fn)
        for use in (lambda t: t.fit(batches, epochs=1), lambda t: t.evaluate(batches)):
            with pytest.raises(DataError, match=r"takes probabilities, .* use BCEWithLogitsLoss"):
                use(trainer)
    make(nn.Sequential(net(), nn.Sigmoid()), loss_fn=nn.BCELoss()).fit(batches, epochs=1)


@pytest.mark.parametrize("value", ["a", None])
def test_a_monitored_column_that_is_no_number_is_named(value):
    class Adds(Callback):
        def on_epoch_end(self, trainer):
            trainer.history.epochs[-1]["note"] = value

    stopping = cnnlab.callbacks.EarlyStopping("note", "max", patience=2)
    with pytest.raises(ValueError, match="only a number can be monitored"):
        make(callbacks=[Adds(), stopping]).fit(loader(DATA, 8), epochs=2)


@pytest.mark.parametrize(
    ("n", "size", "sizes"),
    [(7, 3, [3, 2, 2]), (10, 3, [3, 3, 2, 2]), (13, 4, [4, 3, 3, 3]), (9, 4, [3, 3, 3])],
)
def test_a_microbatch_never_has_a_single_sample_if_that_can_be_avoided(n, size, sizes):
    pieces = cnnlab.training.gradients.microbatches(size, torch.arange(n), torch.arange(n))
    pieces = list(pieces)
    assert [len(images) for images, _, _ in pieces] == sizes
    assert torch.equal(torch.cat([images for images, _, _ in pieces]), torch.arange(n))
    assert [last for *_, last in pieces] == [False] * (len(sizes) - 1) + [True]
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.BatchNorm1d(4))
    batches = [(IMAGES[:n], LABELS[:n])]
    trainer = make(model, microbatch=size)
    trainer.fit(batches, epochs=1)
    cnnlab.tune.lr_find(trainer, batches, steps=5)


# Strings, NaN and infinity where a number is meant; each call names what is wrong.
TEXT, NAN, INF = "0.5", math.nan, math.inf
X, Y = torch.rand(4, 3, 8, 8), torch.arange(4)


def sgd():
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        *((lambda v=v: schedules.cosine(v), "steps must be positive, got") for v in (TEXT, None)),
        *((lambda v=v: schedules.cosine(9, final=v), "final must be") for v in (TEXT, NAN, -1)),
        *((lambda v=v: schedules.linear(9, final=v), "final must be") for v in (TEXT, INF, -1)),
        *((lambda v=v: schedules.step(9, gamma=v), "gamma must be") for v in (TEXT, NAN, -0.5)),
        *((lambda v=v: schedules.multistep([9], gamma=v), "gamma must") for v in (TEXT, NAN, -1)),
        *((lambda v=v: schedules.multistep(v), "milestones must be a") for v in (30, ["30"], [-1])),
        (lambda: schedules.warmup(3, schedules.constant(), start=-1), "start must be at least 0"),
        (lambda: schedules.warm_restarts(3, mult="2"), "mult must be at least 1"),
        (lambda: schedules.warm_restarts(3, final=-1), "final must be"),
        (lambda: schedules.one_cycle(9, peak_fraction=TEXT), "peak_fraction must be"),
        (lambda: schedules.one_cycle_momentum(9, low=TEXT), "momentum needs"),
        (lambda: schedules.attach("sgd", schedules.constant()), "attach takes an optimizer"),
        *((lambda v=v: schedules.Plateau(sgd(), patience=v), "Plateau") for v in ("2", NAN, 2.5)),
        *((lambda v=v: schedules.Plateau(sgd(), min_delta=v), "Plateau") for v in (TEXT, NAN)),
        *(
            (lambda v=v: schedules.Plateau(sgd(), min_lr=v), "Plateau needs")
            for v in (TEXT, NAN, -1)
        ),
        (lambda: schedules.Plateau(sgd(), factor=TEXT), "Plateau needs"),
        *((lambda v=v: EMA(net(), v), "decay must be") for v in (TEXT, None)),
        *((lambda v=v: SWA(net(), start_epoch=v), "epoch must") for v in ("1", NAN, INF, 2.5)),
        (lambda: cnnlab.mixing.MixUp(TEXT, K), "alpha must be positive"),
        *((lambda v=v: cnnlab.mixing.MixUp(1, v), "classes must") for v in ("4", None, NAN, 2.5)),
        (lambda: cnnlab.mixing.either(cnnlab.mixing.MixUp(1, K), p=("1",)), "p must hold"),
        (lambda: cnnlab.mixing.MixUp(1, K)(X, Y - 100), "leave out samples without a label"),
        (lambda: cnnlab.mixing.soft_cross_entropy(X, Y, smoothing=TEXT), "smoothing must be"),
        *(
            (lambda v=v: Augment(noise=v), "noise must be at least 0 and")
            for v in (TEXT, INF, None)
        ),
        *((lambda v=v: Augment(crop_pad=v), "crop_pad must be") for v in ("4", INF)),
        *(
            (lambda v=v: Augment(scale=v), "scale must be")
            for v in (0.5, (1,), (1, 1, 1), (1, INF))
        ),
        (lambda: Augment(flip=1, strength="1")(X), "strength must be"),
        (lambda: Augment(flip=1)(X.numpy()), "needs a tensor"),
        (lambda: Augment(flip=1)(X, 0), r"must be a torch\.Generator"),
        *((lambda v=v: ramp(0, 1, v), "ramp needs") for v in ("5", INF)),
        *((lambda v=v: small_resnet(v), "num_classes") for v in ("3", 3.0, NAN)),
        (lambda: small_resnet(3, width=2.5), "width"),
        (lambda: small_resnet(3, dropout=TEXT), "dropout must be"),
        *((lambda v=v: replace_head(net(), v), "num_classes must") for v in ("4", 4.0, NAN, None)),
        *((lambda v=v: param_groups(net(), v), "learning rates must be") for v in (TEXT, INF)),
        (lambda: param_groups(net(), 0.1, layer_decay=TEXT), "layer_decay must be"),
        *((lambda v=v: retrieve(v), "k must be between 1 and 4") for v in ("1", 1.5, None)),
        (lambda: cnnlab.transfer.linear_probe((X[:, 0, 0], Y + 0.5), (X[:, 0, 0], Y)), "whole"),
        (lambda: cnnlab.transfer.advise("10", "high"), "n_per_class must be"),
        (lambda: cnnlab.transfer.advise(10, None), "similarity must be"),
        (lambda: cnnlab.data.class_weights([0, 1], "effective", beta=TEXT), "beta must be"),
        (lambda: cnnlab.data.balance.logit_adjustment([0, 1], NAN), "tau must be"),
        *((lambda v=v: cnnlab.load("pocket", n_train=v), "n_train must") for v in ("60", 2.5, NAN)),
        (lambda: cnnlab.load(None), "there is no data set None"),
        (lambda: loader(DATA, 8, sampler="random"), "a sampler must give indices"),
        (lambda: loader(DATA, 8, sampler=5), "a sampler must give indices"),
        (lambda: make().load(None), "a path must be a string"),
        (lambda: Checkpoint(None), "a path must be a string"),
        *(
            (lambda v=v: lr_find(make(), [(X, Y)], low=v), "lr_find needs 0 <")
            for v in (TEXT, None)
        ),
        (lambda: lr_find(make(loss_fn=negative_weights()), [(X, Y)]), "class weights must be"),
    ],
)
def test_an_argument_that_is_no_usable_number_is_named(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def retrieve(k):
    return cnnlab.transfer.retrieval(X.flatten(1), Y % 2, X.flatten(1), Y % 2, k=k)


def negative_weights():
    return nn.CrossEntropyLoss(weight=-torch.ones(K))


@pytest.mark.parametrize("value", [1.0, NAN, -0.5, "0.9"])
def test_a_momentum_that_no_optimizer_can_use_is_refused(value):
    def momentum(step):
        return value if step == 2 else 0.9

    trainer = make(schedule=lambda o: schedules.attach(o, schedules.constant(), momentum=momentum))
    with pytest.raises(ValueError, match=r"a momentum is at least 0 and below 1.*at step 2"):
        trainer.fit(loader(DATA, 8), epochs=1)


def test_class_weights_in_a_list_and_whole_floats_are_taken():
    logits, labels = torch.randn(4, K), torch.arange(4)
    in_a_list = cnnlab.mixing.soft_cross_entropy(logits, labels, weight=[1.0, 2.0, 3.0, 4.0])
    tensor = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert torch.equal(in_a_list, F.cross_entropy(logits, labels, tensor))
    assert cnnlab.mixing.MixUp(1.0, 4.0)(X, Y)[1].shape == (4, 4)

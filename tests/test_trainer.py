import copy
import dataclasses
import functools
import inspect
import math
import re
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from cnnlab.augment import Augment, ramp
from cnnlab.averaging import EMA
from cnnlab.callbacks import EarlyStopping
from cnnlab.data import ImageSet, balanced_sampler, class_weights, loader
from cnnlab.errors import CheckpointError, DataError, NonFiniteError, OutOfMemory
from cnnlab.mixing import MixUp, soft_cross_entropy
from cnnlab.models import replace_head, small_resnet
from cnnlab.schedules import Plateau, attach, cosine, one_cycle, one_cycle_momentum
from cnnlab.trainer import Callback, StopTraining, Trainer
from cnnlab.training import gradients
from cnnlab.training.explain import explain_oom
from cnnlab.training.gradients import gradient_norm
from cnnlab.training.options import TrainerOptions
from cnnlab.training.preparation import move_state


N, K = 46, 5


def dataset(seed=0, n=N):
    g = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.rand(n, 3, 8, 8, generator=g), torch.arange(n) % K)


IMAGES, LABELS = dataset().tensors


def net(*, dropout=0.3, norm=True):
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8) if norm else nn.Identity(),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(8, K),
    )


def noisy(images, targets):
    """A random batch transform that mixes images and labels, as mixup does."""
    share = torch.rand(())
    order = torch.randperm(len(images))
    soft = F.one_hot(targets, K).float()
    return images.lerp(images[order], share), soft.lerp(soft[order], share)


def make(model=None, *, rate=0.1, schedule=None, momentum=None, **options):
    model = model or net()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=1e-3)
    if schedule is not None:
        options["scheduler"] = attach(optimizer, schedule, momentum)
    return Trainer(model, optimizer, device="cpu", progress=False, **options)


def batches(n=8, **options):
    return loader(dataset(), n, shuffle=True, seed=1, **options)


make_plain = make


class StopAt(Callback):
    """End the run after a number of steps."""

    def __init__(self, step):
        self.at = step

    def on_step_end(self, trainer):
        if trainer.step == self.at:
            raise StopTraining("enough")


def same(a, b):
    """Two states hold the same bits, whatever they are made of."""
    if isinstance(a, torch.Tensor):
        return (
            a.dtype == b.dtype
            and torch.equal(a.isnan(), b.isnan())
            and torch.equal(a.nan_to_num(nan=0.0), b.nan_to_num(nan=0.0))
        )
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a if k != "seconds")
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (math.isnan(a) and math.isnan(b))


def test_the_trainer_gives_the_weights_of_the_loop_written_by_hand():
    train = batches()
    by_hand = net(dropout=0.0)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    for _ in range(3):
        by_hand.train()
        for images, targets in train:
            optimizer.zero_grad()
            F.cross_entropy(by_hand(images), targets).backward()
            optimizer.step()
    trainer = make(net(dropout=0.0))
    trainer.fit(batches(), epochs=3)
    assert same(trainer.model.state_dict(), by_hand.state_dict())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stop", range(1, 10))
def test_a_run_stopped_after_any_step_and_resumed_equals_one_never_interrupted(
    stop, precision, tmp_path
):
    options = {
        "schedule": one_cycle(10),
        "momentum": one_cycle_momentum(10),
        "batch_transform": [Augment(flip=0.5, rotate=20, noise=0.1, strength=ramp(0, 1, 8)), noisy],
        "clip_norm": 0.5,
        "precision": precision,
    }

    def make(**more):
        model = net()
        return make_plain(model, ema=EMA(model), **more)

    valid = loader(dataset(1), 16)
    whole = make(**options)
    whole.fit(batches(), valid, epochs=2)
    assert whole.step == 10

    first = make(callbacks=[StopAt(stop)], **options)
    first.fit(batches(), valid, epochs=2)
    assert first.step == stop
    first.save(tmp_path / "run.pt")
    torch.manual_seed(99)
    second = make(**options)
    second.load(tmp_path / "run.pt")
    second.fit(batches(), valid, epochs=2)
    one, two = whole.state_dict(), second.state_dict()
    one.pop("callbacks"), two.pop("callbacks")
    assert same(one, two)


@pytest.mark.parametrize("stop", [1, 4, 6])
def test_a_plain_torch_loader_that_shuffles_resumes_exactly_too(stop):
    def torch_loader():
        return DataLoader(dataset(), 10, shuffle=True)

    whole = make()
    whole.fit(torch_loader(), epochs=2)
    first = make(callbacks=[StopAt(stop)])
    first.fit(torch_loader(), epochs=2)
    second = make()
    second.load_state_dict(first.state_dict())
    second.fit(torch_loader(), epochs=2)
    assert same(whole.model.state_dict(), second.model.state_dict())


class Augmented(torch.utils.data.Dataset):
    """Images with a random transform, drawn from torch's global generator as torchvision's are."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return IMAGES[index] + 0.1 * torch.randn(3, 8, 8), int(LABELS[index])


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("stop", [2, 5])
def test_a_plain_torch_loader_whose_data_set_augments_resumes_exactly(stop, workers):
    def torch_loader():
        return DataLoader(Augmented(), 10, shuffle=True, num_workers=workers)

    torch.manual_seed(1)
    whole = make()
    whole.fit(torch_loader(), epochs=2)
    torch.manual_seed(2)
    first = make(callbacks=[StopAt(stop)])
    first.fit(torch_loader(), epochs=2)
    torch.manual_seed(3)
    second = make()
    second.load_state_dict(first.state_dict())
    second.fit(torch_loader(), epochs=2)
    assert same(whole.model.state_dict(), second.model.state_dict())


def test_a_resumed_epoch_sees_each_image_once_and_epochs_differ():
    seen = []

    def watch(images, targets):
        seen.append(images.sum(dim=(1, 2, 3)))
        return images, targets

    first = make(callbacks=[StopAt(7)], batch_transform=watch)
    first.fit(batches(drop_last=False), epochs=2)
    second = make(batch_transform=watch)
    second.load_state_dict(first.state_dict())
    second.fit(batches(drop_last=False), epochs=2)
    one, two = torch.cat(seen[:6]), torch.cat(seen[6:])
    assert torch.equal(one.sort().values, two.sort().values)
    assert not torch.equal(one, two)


def test_validating_changes_nothing_in_the_training():
    with_valid, without = make(), make()
    with_valid.fit(batches(), DataLoader(dataset(1), 4, shuffle=True), epochs=2)
    without.fit(batches(), epochs=2)
    assert same(with_valid.model.state_dict(), without.model.state_dict())


def test_the_users_random_numbers_go_on_as_if_no_fit_had_been():
    trainer = make(batch_transform=noisy)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    trainer.fit(batches(), loader(dataset(), 8), epochs=1)
    trainer.predict(batches())
    assert torch.equal(torch.rand(3), expected)


def test_epochs_is_the_total_of_all_calls():
    trainer = make()
    trainer.fit(batches(), epochs=2)
    history = trainer.fit(batches(), epochs=2)
    assert trainer.epoch == 2
    trainer.fit(batches(), epochs=3)
    assert list(history.frame()["epoch"]) == [1, 2, 3]
    whole = make()
    whole.fit(batches(), epochs=3)
    assert same(trainer.model.state_dict(), whole.model.state_dict())


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 16])
def test_microbatches_of_any_size_give_the_gradient_of_the_whole_batch(size, weighted):
    def run(microbatch):
        weight = torch.tensor([1.0, 5.0, 0.5, 2.0, 1.0]) if weighted else None
        loss = nn.CrossEntropyLoss(weight=weight, label_smoothing=0.1)
        trainer = make(
            net(dropout=0.0, norm=False), loss_fn=loss, microbatch=microbatch, schedule=one_cycle(6)
        )
        trainer.fit(batches(16, drop_last=False), epochs=2)
        return trainer

    whole, parts = run(None), run(size)
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)  # the order of float32 sums differs
    one, two = whole.history, parts.history
    assert list(one.steps["lr"]) == list(two.steps["lr"])
    assert one.frame()["train_loss"].to_numpy() == pytest.approx(
        two.frame()["train_loss"].to_numpy(), rel=1e-5
    )
    assert list(one.frame()["train_acc"]) == list(two.frame()["train_acc"])


@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 5.0, 0.5, 2.0, 1.0])])
def test_metrics_do_not_depend_on_the_batch_size(weight):
    trainer = make(loss_fn=nn.CrossEntropyLoss(weight=weight))
    results = [trainer.evaluate(loader(dataset(), n)) for n in (1, 3, 7, N)]
    logits = trainer.predict(loader(dataset(), 5))
    labels = dataset().tensors[1]
    expected = F.cross_entropy(logits, labels, weight=weight).item()
    for result in results:
        assert result["loss"] == pytest.approx(expected, rel=1e-6)
        assert result["acc"] == (logits.argmax(1) == labels).sum().item() / N


def test_prediction_row_i_belongs_to_sample_i_even_if_the_loader_shuffles_and_drops():
    trainer = make()
    trainer.fit(batches(), epochs=1)
    with torch.no_grad():
        expected = trainer.model(dataset().tensors[0])
    torch.testing.assert_close(trainer.predict(batches(4)), expected)


def test_measuring_leaves_modes_and_the_loader_as_they_were():
    model = net()
    model[1].eval()
    trainer = make(model)
    train = batches()
    before = copy.deepcopy(model.state_dict())
    trainer.evaluate(train)
    trainer.predict(train)
    assert (model.training, model[1].training, model[5].training) == (True, False, True)
    assert train.epoch == 0
    assert same(model.state_dict(), before)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("clip", [{"clip_norm": 1.0}, {"clip_value": 1.0}])
def test_one_clipped_step_moves_a_weight_by_exactly_the_rate(clip, scaled):
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(5.0)
    trainer = Trainer(
        model,
        torch.optim.SGD(model.parameters(), lr=1.0),
        lambda logits, targets: (3 * logits).mean(),
        device="cpu",
        progress=False,
        **clip,
    )
    trainer.scaler = torch.amp.GradScaler("cpu", enabled=scaled)
    trainer.fit([(torch.ones(4, 1), torch.zeros(4, 1))], epochs=1)
    assert model.weight.item() == pytest.approx(4.0, abs=1e-5)
    assert trainer.history.steps["grad_norm"][0] == pytest.approx(3.0)


@pytest.mark.parametrize("joined", [0, 2**20])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_norm_of_a_gradient_is_torchs_whether_its_parts_are_joined_or_not(
    joined, layout, monkeypatch
):
    monkeypatch.setattr(gradients, "SMALL", joined)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(20, 2), nn.Linear(2, 2))
    model.to(memory_format=layout)
    model[3].requires_grad_(False)
    model(torch.rand(4, 3, 4, 4)).square().sum().backward()
    parts = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(parts) == 4
    wanted = nn.utils.get_total_norm(parts)
    torch.testing.assert_close(gradient_norm(model.parameters()), wanted)
    assert gradient_norm(model[3].parameters()) == 0


@pytest.mark.parametrize("bad", [0, 1])
def test_a_target_that_is_not_finite_is_named_in_every_batch(bad):
    batches = [(torch.rand(4, 3, 8, 8), torch.rand(4, K)) for _ in range(2)]
    batches[bad][1][2, 0] = math.nan
    with pytest.raises(NonFiniteError, match=r"1 of 20 target values are NaN .* samples 2 of"):
        make(loss_fn=nn.MSELoss()).fit(batches, epochs=1)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_poisoned_batch_raises_before_the_step_and_leaves_no_trace(poison):
    data = dataset()
    data.tensors[0][20, 1, 2, 3] = poison
    trainer = make()
    with pytest.raises(NonFiniteError, match=r"epoch 1, batch 3 \(step 2\): 1 of \d+ pixel values"):
        trainer.fit(loader(data, 8), epochs=1)
    clean = make(callbacks=[StopAt(2)])
    clean.fit(loader(dataset(), 8), epochs=1)
    assert same(trainer.model.state_dict(), clean.model.state_dict())
    assert same(trainer.optimizer.state_dict(), clean.optimizer.state_dict())


@pytest.mark.parametrize("clip", [{}, {"clip_norm": 1.0}, {"clip_value": 1.0}])
def test_one_infinite_gradient_stops_the_step_whether_or_not_it_is_clipped(clip):
    class Kink(nn.Module):
        def forward(self, x):
            return x + (x - x.detach()).abs().sqrt()  # the value is right, the slope infinite

    trainer = make(nn.Sequential(net(dropout=0), Kink()), **clip)
    before = trainer.state_dict()
    with pytest.raises(NonFiniteError, match=r"gradient of 0\.0\.weight is not finite"):
        trainer.fit(batches(), epochs=1)
    assert same(trainer.state_dict(), before)


def test_overflowing_steps_of_loss_scaling_are_left_out_counted_and_end_in_training():
    # CUDA alone offers fp16 to users; the scaler itself works here as it does there.
    trainer = make(
        net(dropout=0),
        rate=1e-7,
        loss_fn=lambda logits, targets: 1e6 * F.cross_entropy(logits, targets),
        schedule=one_cycle(10),
    )
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-40)
    before = copy.deepcopy(dict(trainer.model.named_parameters()))
    history = trainer.fit(batches(), epochs=2)
    assert history.skipped_steps == 1
    assert trainer.step == 10
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(1e-7 * one_cycle(10)(10))
    moved = dict(trainer.model.named_parameters())
    assert all(not torch.equal(before[n], moved[n]) for n in moved)
    assert all(p.isfinite().all() for p in moved.values())


def test_an_exploding_run_names_the_loss_and_keeps_finite_weights():
    trainer = make(net(norm=False), rate=1e20)
    with pytest.raises(NonFiniteError, match=r"although the images are finite|gradient of"):
        trainer.fit(batches(), epochs=50)
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_a_wish_to_stop_waits_until_every_callback_was_called():
    calls = []

    class Log(Callback):
        order = 5

        def on_epoch_end(self, trainer):
            calls.append(trainer.epoch)

    class Stop(Callback):
        def on_epoch_end(self, trainer):
            raise StopTraining("seen enough")

    history = make(callbacks=[Log(), Stop()]).fit(batches(), epochs=5)
    assert calls == [1]
    assert history.stop_reason == "seen enough"
    assert history.partial is None


def test_a_fit_that_reaches_its_end_has_no_stop_reason_from_an_earlier_one():
    trainer = make(callbacks=[StopAt(2)])
    assert trainer.fit(batches(), epochs=1).stop_reason is not None
    assert trainer.fit(batches(), epochs=1).stop_reason is None
    assert trainer.history.partial is None


def test_hooks_come_in_order_and_the_last_one_however_the_fit_ends():
    calls = []

    class Log(Callback):
        def __getattribute__(self, name):
            if name.startswith("on_"):
                calls.append(name)
            return super().__getattribute__(name)

    make(callbacks=[Log()]).fit(batches(23, drop_last=False), epochs=1)
    assert calls == [
        "on_fit_start",
        "on_epoch_start",
        "on_step_end",
        "on_step_end",
        "on_epoch_end",
        "on_fit_end",
    ]
    calls.clear()
    with pytest.raises(NonFiniteError):
        make(callbacks=[Log()]).fit(
            [(torch.full((4, 3, 8, 8), math.nan), torch.zeros(4).long())], epochs=1
        )
    assert calls[-1] == "on_fit_end"


def test_the_model_is_ready_for_use_after_a_fit():
    trainer = make()
    trainer.fit(batches(), epochs=1)
    assert not any(m.training for m in trainer.model.modules())


def test_plateau_lowers_the_rate_when_the_validation_loss_stops_falling():
    model = net(norm=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, eps=0)
    optimizer.param_groups[0]["lr"] = 1e-12  # too small to improve anything
    trainer = Trainer(model, optimizer, plateau=plateau, device="cpu", progress=False)
    history = trainer.fit(batches(), loader(dataset(), 8), epochs=4)
    assert optimizer.param_groups[0]["lr"] < 1e-12
    assert list(history.frame()["lr"]) == sorted(history.frame()["lr"], reverse=True)


def test_a_plateau_whose_threshold_takes_worse_for_better_is_refused():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = {"loss_fn": lambda logits, targets: -logits.square().mean() - 1, "device": "cpu"}
    relative = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    with pytest.raises(ValueError, match="would count a worse value"):
        Trainer(model, optimizer, plateau=relative, progress=False, **options).fit(
            batches(), loader(dataset(), 8), epochs=1
        )
    absolute = Plateau(optimizer)
    Trainer(model, optimizer, plateau=absolute, progress=False, **options).fit(
        batches(), loader(dataset(), 8), epochs=1
    )


def test_training_accuracy_of_mixed_targets_is_not_reported():
    history = make(batch_transform=noisy).fit(batches(), epochs=1)
    assert history.frame()["train_acc"].isna().all()


def test_a_frozen_batch_norm_stays_as_it_is():
    model = net()
    model[0].requires_grad_(False)
    model[1].requires_grad_(False)
    before = copy.deepcopy([model[0].state_dict(), model[1].state_dict()])
    make(model).fit(batches(), epochs=2)
    assert same(before, [model[0].state_dict(), model[1].state_dict()])


def test_what_was_frozen_when_a_run_was_saved_is_frozen_again_after_loading():
    def partly_frozen():
        model = net()
        model[0].requires_grad_(False)
        return model

    whole = make(partly_frozen())
    whole.fit(batches(), epochs=2)
    first = make(partly_frozen())
    first.fit(batches(), epochs=1)
    second = make(net())  # nobody froze it here
    second.load_state_dict(first.state_dict())
    second.fit(batches(), epochs=2)
    assert same(whole.model.state_dict(), second.model.state_dict())
    assert not second.model[0].weight.requires_grad


@pytest.mark.parametrize(
    ("other", "names"),
    [
        (lambda: nn.Sequential(*net()[:6], nn.Linear(8, 3)), "6.weight is .5, 8. in the file"),
        (lambda: net()[:6], "6.bias is not in the model"),
        (lambda: nn.Sequential(*net(), nn.Linear(K, K)), "7.bias is not in the file"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_by_name_and_changes_nothing(other, names):
    state = make().state_dict()
    trainer = make(other())
    before = trainer.state_dict()
    with pytest.raises(CheckpointError, match=names):
        trainer.load_state_dict(state)
    assert same(trainer.state_dict(), before)


def test_a_state_is_a_copy_that_more_training_does_not_change():
    model = net()
    trainer = make(model, ema=EMA(model))
    trainer.fit(batches(), epochs=1)
    state = trainer.state_dict()
    before = copy.deepcopy(state)
    trainer.fit(batches(), epochs=2)
    assert same(state, before)
    assert not same(trainer.state_dict(), before)


@pytest.mark.parametrize("part", ["optimizer", "model", "history", "scaler", "means", "callbacks"])
def test_a_missing_or_garbled_part_of_a_checkpoint_raises_and_changes_nothing(part):
    saved = make()
    saved.fit(batches(), epochs=1)
    for ruin in (lambda s: s.pop(part), lambda s: s.update({part: {"garbage": 1}})):
        state = saved.state_dict()
        ruin(state)
        trainer = make()
        before = trainer.state_dict()
        if part == "scaler" and part in state:
            continue  # a disabled scaler has no state to be wrong
        with pytest.raises(CheckpointError):
            trainer.load_state_dict(state)
        assert same(trainer.state_dict(), before)


def test_a_run_resumed_with_another_seed_or_without_its_schedule_is_refused():
    with pytest.raises(CheckpointError, match="seed=0, this trainer has seed=1"):
        make(seed=1).load_state_dict(make().state_dict())
    with pytest.raises(CheckpointError, match="made with scheduler="):
        make().load_state_dict(make(schedule=one_cycle(5)).state_dict())


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((IMAGES, LABELS + 1), "labels run from 1 to 5, but the model has 5 classes"),
        ((IMAGES, LABELS - 1), "labels run from -1 to 3"),
        ((IMAGES, LABELS[:, None]), r"squeeze\(1\)"),
        ((IMAGES, F.one_hot(LABELS, K)), r"argmax\(1\)"),
        ((IMAGES, LABELS.float()), r"targets.long\(\)"),
        (((IMAGES * 255).byte(), LABELS), r"images.float\(\) / 255"),
        ((IMAGES[:0], LABELS[:0]), "this batch is empty"),
        ((IMAGES[..., :0], LABELS), "this batch is empty"),
        ((IMAGES.permute(0, 2, 3, 1), LABELS), r"permute\(0, 3, 1, 2\)"),
        (
            (torch.rand(N, 3, 32, 3), LABELS),
            r"permute\(0, 3, 1, 2\)",
        ),  # the second size fits by chance
        ((IMAGES[:, :1], LABELS), "in_channels=1"),
        ((IMAGES[0], LABELS[:3]), "batch dimension is missing"),
        ((IMAGES, LABELS[:-1]), "46 images but 45 targets"),
        ((IMAGES,), r"a pair \(images, targets\)"),
        ((IMAGES, ["cat"] * N), "targets must be tensors, got list; number the classes"),
        ((IMAGES[:, 0], LABELS), r"channel dimension is missing: use images\[:, None\]"),
        ((IMAGES[0], 3), "a single sample, an image of shape .* and the label 3"),
        ((IMAGES, LABELS, LABELS), r"a pair \(images, targets\), got tuple of 3"),
    ],
)
def test_a_wrong_batch_is_explained_at_the_door_and_leaves_no_trace(batch, message):
    trainer = make()
    before = trainer.state_dict()
    with pytest.raises(DataError, match=message):
        trainer.fit([batch], epochs=1)
    assert same(trainer.state_dict(), before)
    with pytest.raises(DataError, match=message):
        trainer.evaluate([batch])


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (lambda: DataLoader(dataset(n=4), 8, drop_last=True), "no batch: 4 samples, batch size 8"),
        (lambda: DataLoader(dataset(n=17), 8), "last batch has a single image"),
        (lambda: loader(dataset(n=17), 8), "last batch has a single image"),
        (list, "empty"),
        (lambda: iter([]), "read only once"),
    ],
)
def test_a_loader_that_cannot_train_is_refused_before_the_first_step(train, message):
    trainer = make()
    with pytest.raises(DataError, match=message):
        trainer.fit(train(), epochs=1)
    assert trainer.step == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp16"}, "fp16 needs a CUDA device"),
        ({"precision": "half"}, "precision must be one of"),
        ({"clip_norm": 1.0, "clip_value": 1.0}, "not both"),
        ({"clip_norm": -1.0}, "positive"),
        ({"microbatch": 0}, "at least 1"),
        ({"microbatch": 2.5}, "at least 1; got 2.5"),
        ({"clip_norm": "1"}, "positive number, got '1'"),
        ({"loss_fn": nn.CrossEntropyLoss(weight=torch.arange(5.0))}, "must be positive"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options).fit(batches(), epochs=1)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", 7.5])
def test_a_device_that_is_not_there_is_told(device):
    model = net()
    with pytest.raises(ValueError, match=r"no device .*leave out device="):
        Trainer(model, torch.optim.SGD(model.parameters()), device=device)


def weighted(n):
    return nn.CrossEntropyLoss(weight=torch.ones(n))


@pytest.mark.parametrize(
    ("loss_fn", "targets", "message"),
    [
        (
            nn.MSELoss(),
            LABELS.float(),
            r"MSELoss compares .*must be float of shape .*got float32 of shape \(46,\)",
        ),
        (F.mse_loss, LABELS[:, None].float(), "mse_loss compares entry by entry"),
        (nn.BCEWithLogitsLoss(), F.one_hot(LABELS, K), "BCEWithLogitsLoss compares .*int64"),
        (weighted(4), LABELS.clamp(max=3), "4 class weights, but the model has 5 classes"),
        (weighted(K), LABELS + 1, "labels run from 1 to 5"),
        (weighted(K), LABELS.float(), r"targets.long\(\)"),
        (
            functools.partial(soft_cross_entropy, weight=torch.ones(K)),
            LABELS[:, None],
            r"float \(N, 5\)",
        ),
        (functools.partial(soft_cross_entropy, weight=torch.ones(K)), LABELS - 100, "labels run"),
    ],
)
def test_a_loss_that_does_not_fit_the_targets_is_explained_before_it_is_called(
    loss_fn, targets, message
):
    trainer = make(loss_fn=loss_fn)
    before = trainer.state_dict()
    with pytest.raises(DataError, match=message):
        trainer.fit([(IMAGES, targets)], epochs=1)
    assert same(trainer.state_dict(), before)


@pytest.mark.parametrize(
    ("loss_fn", "given"),
    [
        (lambda logits, targets: logits, r"shape \(8, 5\)"),
        (lambda logits, targets: 1.0, "1.0"),
        (lambda logits, targets: torch.tensor(1.0), r"shape \(\)"),
    ],
)
def test_a_loss_without_a_gradient_is_refused(loss_fn, given):
    with pytest.raises(TypeError, match=f"loss_fn must return a scalar.*got {given}"):
        make(loss_fn=loss_fn).fit(batches(), epochs=1)


def test_a_later_batch_with_other_channels_is_explained_too():
    with pytest.raises(DataError, match="in_channels=1"):
        make().fit([(IMAGES, LABELS), (IMAGES[:, :1], LABELS)], epochs=1)


def test_a_batch_transform_that_gives_something_else_is_told():
    for transform, told in (
        (lambda x, y: None, "a pair"),
        (lambda x, y: (x[:1], y), "1 images but 8"),
    ):
        with pytest.raises(DataError, match=told):
            make(batch_transform=transform).fit(batches(), epochs=1)


@pytest.mark.parametrize("options", [{"microbatch": 1}, {}])
def test_a_single_value_for_batch_norm_is_explained_and_leaves_no_trace(options):
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), net())
    trainer = make(model, **options)
    before = trainer.state_dict()
    size = len(LABELS) if options else 1
    with pytest.raises(
        DataError, match=r"one value per channel .input shape \[1, 8, 1, 1\].*microbatch"
    ):
        trainer.fit([(IMAGES[:size], LABELS[:size])], epochs=1)
    assert same(trainer.state_dict(), before)


def test_a_linear_layer_of_another_size_is_explained():
    model = nn.Sequential(nn.Flatten(), nn.Linear(100, K))
    with pytest.raises(
        DataError, match=r"takes 100 features per sample and got 192.*in_features=192"
    ):
        make(model).fit(batches(), epochs=1)


def test_plateau_needs_validation_data_and_no_other_scheduler():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    with pytest.raises(ValueError, match="would overwrite"):
        Trainer(model, optimizer, scheduler=attach(optimizer, one_cycle(5)), plateau=plateau)
    with pytest.raises(ValueError, match="needs validation data"):
        Trainer(model, optimizer, plateau=plateau, device="cpu").fit(batches(), epochs=1)


def test_a_bare_schedule_function_is_told_how_to_be_attached():
    model = net()
    with pytest.raises(TypeError, match="attach"):
        Trainer(model, torch.optim.SGD(model.parameters()), scheduler=one_cycle(5))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda m, o: Trainer("resnet", o), "model must be a torch Module, got 'resnet'"),
        (lambda m, o: Trainer(m, None), "optimizer must be a torch Optimizer, got None"),
        (lambda m, o: Trainer(m, o, plateau=3), "plateau must be"),
        (lambda m, o: Trainer(m, o, batch_transform=3), "batch_transform must be"),
        (lambda m, o: Trainer(m, o, loss_fn=3), "loss_fn must be a function"),
        (lambda m, o: Trainer(m, o, ema=0.99), "ema must be"),
        (lambda m, o: Trainer(m, o, callbacks=Callback()), "must be a list of callbacks"),
        (lambda m, o: Trainer(m, o, callbacks=None), "must be a list of callbacks"),
        (
            lambda m, o: Trainer(m, o, device="cpu").fit(None, epochs=1),
            "yields batches, got None; make one",
        ),
    ],
)
def test_an_argument_of_another_kind_is_named(wrong, message):
    model = net()
    with pytest.raises(TypeError, match=message):
        wrong(model, torch.optim.SGD(model.parameters()))


@pytest.mark.parametrize(
    "data", [dataset(), ImageSet((255 * IMAGES).byte(), LABELS, list("abcde"))]
)
def test_a_data_set_in_place_of_a_loader_is_told_how_to_become_batches(data):
    with pytest.raises(TypeError, match=r"make one from a data set with cnnlab\.loader"):
        make().fit(data, epochs=1)


def test_an_optimizer_that_would_move_nothing_is_refused():
    model, other = net(), net()
    with pytest.raises(ValueError, match="no parameter of this model"):
        Trainer(model, torch.optim.SGD(other.parameters()), device="cpu").fit(batches(), epochs=1)
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="every parameter is frozen"):
        make(model).fit(batches(), epochs=1)


def test_a_batch_that_does_not_fit_into_memory_says_what_does_and_leaves_no_trace():
    class Full(nn.Module):
        def forward(self, x):
            if len(x) > 4:
                raise torch.OutOfMemoryError("Tried to allocate 20.00 GiB. GPU 0 has no more.")
            return x

    trainer = make(nn.Sequential(net(), Full()))
    before = trainer.state_dict()
    with pytest.raises(
        OutOfMemory, match=r"not enough memory for 8 images of shape \(3, 8, 8\).*microbatch=4"
    ):
        trainer.fit(batches(8), epochs=1)
    assert same(trainer.state_dict(), before)
    trainer.microbatch = 4
    trainer.fit(batches(8), epochs=1)


def test_what_to_try_next_when_memory_runs_out_goes_down_by_halves_to_single_images():
    tried, microbatch = [], None
    while True:
        try:
            with explain_oom(torch.zeros(100, 3, 8, 8), microbatch):
                raise torch.OutOfMemoryError("full")
        except OutOfMemory as error:
            if "microbatch=" not in str(error):
                break
            microbatch = int(str(error).partition("microbatch=")[2].partition(",")[0])
            tried.append(microbatch)
    assert tried == [50, 25, 12, 6, 3, 1]


def test_other_runtime_errors_come_through_as_they_are():
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match=r"^something else$"):
        make(nn.Sequential(net(), Broken())).fit(batches(8), epochs=1)


def test_class_weights_with_mixed_targets_need_the_loss_that_keeps_its_scale():
    weight = torch.tensor([1.0, 5.0, 0.5, 2.0, 1.0])
    with pytest.raises(ValueError, match="soft_cross_entropy"):
        make(loss_fn=nn.CrossEntropyLoss(weight=weight), batch_transform=noisy).fit(
            batches(), epochs=1
        )
    loss = functools.partial(soft_cross_entropy, weight=weight)
    make(loss_fn=loss, batch_transform=noisy).fit(batches(), epochs=1)


@pytest.mark.parametrize("kind", ["ours", "torch"])
def test_a_balanced_sampler_and_class_weights_together_are_refused_and_each_alone_is_not(kind):
    labels = dataset().tensors[1]
    if kind == "ours":
        data = loader(dataset(), 8, sampler=balanced_sampler(labels))
    else:
        weights = class_weights(labels)[labels]
        data = DataLoader(dataset(), 8, sampler=WeightedRandomSampler(weights.tolist(), N))
    weighted = nn.CrossEntropyLoss(weight=class_weights(labels))
    with pytest.raises(ValueError, match="twice"):
        make(loss_fn=weighted).fit(data, epochs=1)
    make().fit(data, epochs=1)
    make(loss_fn=weighted).fit(batches(), epochs=1)


@pytest.mark.parametrize("epochs", [0, -1, 1.5])
def test_epochs_must_be_a_positive_whole_number(epochs):
    with pytest.raises(ValueError, match="total number of epochs"):
        make().fit(batches(), epochs=epochs)


def test_progress_in_a_log_is_one_line_an_epoch(capsys):
    model = net()
    trainer = Trainer(model, torch.optim.SGD(model.parameters()), device="cpu")
    trainer.fit(batches(), loader(dataset(), 8), epochs=2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("epoch 2  train_loss ")
    assert "valid_acc" in lines[1]


def test_a_bar_is_drawn_when_asked_for_and_closed_at_the_end(capsys):
    model = net()
    trainer = Trainer(model, torch.optim.SGD(model.parameters()), device="cpu", progress=True)
    trainer.fit(batches(), epochs=2)
    shown = capsys.readouterr().err
    assert "10/10" in shown
    assert "train_loss" in shown


def test_bf16_on_a_cpu_never_trains_on_what_happens_to_lie_in_memory():
    """With channels last, torch leaves gradients of 3 x 3 kernels over one pixel unwritten."""
    kept = []

    class Litter(Callback):
        def on_step_end(self, trainer):
            kept[:] = [torch.full((2**n,), math.nan) for n in range(3, 13) for _ in range(4)]
            kept.clear()  # gives the memory back as it is

    images, labels = torch.rand(16, 3, 2, 2), torch.arange(16) % 3
    batches = list(zip(images.split(2), labels.split(2), strict=True))
    for _ in range(5):
        model = small_resnet(3, width=4, depth=1).to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        options = {"precision": "bf16", "channels_last": True, "callbacks": [Litter()]}
        trainer = Trainer(model, optimizer, device="cpu", progress=False, **options)
        trainer.fit(batches, epochs=2)


def test_channels_last_changes_the_layout_and_not_the_result():
    plain, inner = make(net(dropout=0)), make(net(dropout=0), channels_last=True)
    plain.fit(batches(), epochs=1)
    inner.fit(batches(), epochs=1)
    for a, b in zip(plain.model.parameters(), inner.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)  # other kernels, other sums


def test_history_shows_one_row_an_epoch_and_one_a_step():
    trainer = make(schedule=one_cycle(10))
    history = trainer.fit(batches(), loader(dataset(), 8), epochs=2)
    frame = history.frame()
    assert list(frame.columns) == [
        "epoch", "lr", "train_loss", "train_acc", "valid_loss", "valid_acc", "seconds",
    ]  # fmt: skip
    assert list(history.steps.columns) == ["step", "lr", "loss", "grad_norm"]
    assert len(history.steps) == 10
    assert history.steps["lr"][3] == pytest.approx(0.1 * one_cycle(10)(3))
    assert "2 epochs" in repr(history)
    assert "validation loss" in history.plot().alt


# --- what a reader of the design tried ------------------------------------------------------------


def few(n=33, size=8):
    return TensorDataset(torch.rand(n, 3, size, size), torch.arange(n) % 3)


def small(model=None, **options):
    model = small_resnet(3, width=4, depth=1) if model is None else model
    optimizer = options.pop("optimizer", None) or torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9
    )
    return Trainer(model, optimizer, device="cpu", progress=False, **options)


def test_a_loader_that_leaves_out_its_last_image_is_taken_and_a_sampler_is_counted():
    data = few()
    small().fit(loader(data, 32, shuffle=True), epochs=1)
    small().fit(loader(data, 32, sampler=balanced_sampler(data.tensors[1])), epochs=1)
    small().fit(loader(data, 16, sampler=list(range(32))), epochs=1)
    for refused in (
        DataLoader(few(32), 16, sampler=torch.utils.data.SubsetRandomSampler(range(17))),
        loader(data, 32, shuffle=True, drop_last=False),
    ):
        with pytest.raises(DataError, match="last batch has a single image"):
            small().fit(refused, epochs=1)


def test_what_is_no_loader_is_refused_for_validation_before_the_first_step():
    data, trainer = few(), small()
    for valid, error in ((data, TypeError), ([], DataError)):
        with pytest.raises(error, match=r"yields batches|gave no batch"):
            trainer.fit(loader(data, 11), valid, epochs=1)
    with pytest.raises(TypeError, match=r"cnnlab\.loader"):
        trainer.evaluate(data)
    assert trainer.step == 0


def test_numpy_integers_are_seeds_like_any_other():
    runs = []
    for seed in (3, np.int64(3)):
        torch.manual_seed(0)
        runs.append(small(seed=seed))
        runs[-1].fit(loader(few(), 11), epochs=1)
    assert same(runs[0].state_dict()["history"]["steps"], runs[1].state_dict()["history"]["steps"])


def test_a_sampler_counts_no_epochs_of_measuring():
    data = few()
    sums = []
    for measure in (False, True):
        torch.manual_seed(0)
        trainer = small()
        batches = DataLoader(data, 11, sampler=balanced_sampler(data.tensors[1]))
        if measure:
            trainer.evaluate(batches)
        trainer.fit(batches, epochs=2)
        sums.append(sum(float(p.detach().sum()) for p in trainer.model.parameters()))
    assert sums[0] == sums[1]


def test_class_weights_in_a_partial_function_weigh_as_those_of_the_module_do():
    weight, data = torch.tensor([1.0, 5.0, 20.0]), few()
    forms = nn.CrossEntropyLoss(weight=weight), functools.partial(F.cross_entropy, weight=weight)
    norms, losses = [], []
    for loss_fn in forms:
        for microbatch in (None, 4):
            torch.manual_seed(0)
            model = small_resnet(3, width=4, depth=1, norm="none")
            trainer = small(model, loss_fn=loss_fn, microbatch=microbatch)
            losses.append(trainer.evaluate(loader(data, 4 if microbatch else 33))["loss"])
            trainer.fit(loader(data, 33), epochs=1)
            norms.append(trainer.grad_norm)
    assert norms == pytest.approx([norms[0]] * 4, rel=1e-4)
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-4)
    with pytest.raises(ValueError, match="soft_cross_entropy"):
        small(loss_fn=forms[1], batch_transform=MixUp(1.0, 3)).fit(loader(data, 33), epochs=1)


def test_a_sampler_and_class_weights_are_refused_in_every_form():
    weight, data = torch.tensor([1.0, 5.0, 20.0]), few()
    batches = loader(data, 11, sampler=balanced_sampler(data.tensors[1]))
    for func in (soft_cross_entropy, F.cross_entropy):
        with pytest.raises(ValueError, match="twice"):
            small(loss_fn=functools.partial(func, weight=weight)).fit(batches, epochs=1)


def test_parts_that_belong_to_something_else_are_refused():
    model = small_resnet(3, width=4, depth=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match="as plateau="):
        small(model, scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer))
    with pytest.raises(ValueError, match="controls a different optimizer"):
        small(model, scheduler=attach(optimizer, one_cycle(6)))
    with pytest.raises(ValueError, match="averages a different model"):
        small(model, ema=EMA(small_resnet(3, width=4, depth=1)))
    for loss_fn in (
        nn.CrossEntropyLoss(reduction="sum"),
        functools.partial(F.cross_entropy, reduction="sum"),
    ):
        with pytest.raises(ValueError, match="sums the losses"):
            small(model, loss_fn=loss_fn)
    replace_head(model, 3)
    with pytest.raises(ValueError, match="after replace_head"):
        small(model, optimizer=optimizer).fit(loader(few(), 11), epochs=1)


def test_a_checkpoint_of_another_optimizer_or_with_other_moments_is_refused():
    def trained(kind=torch.optim.SGD, **options):
        model = small_resnet(3, width=4, depth=1)
        trainer = small(model, optimizer=kind(model.parameters(), lr=0.1, **options))
        trainer.fit(loader(few(), 11), epochs=1)
        return trainer

    with pytest.raises(CheckpointError, match="the optimizer of the checkpoint is AdamW"):
        trained().load_state_dict(trained(torch.optim.AdamW).state_dict())
    trainer = trained(momentum=0.9)
    state = trainer.state_dict()
    state["optimizer"]["state"][0]["momentum_buffer"] = torch.zeros(2)
    with pytest.raises(CheckpointError, match="momentum_buffer of parameter 0"):
        trainer.load_state_dict(state)
    with pytest.raises(CheckpointError, match="not whole numbers"):
        trainer.load_state_dict(trainer.state_dict() | {"epoch": "x"})


def test_every_callback_hears_of_the_end_and_the_first_error_is_the_one_that_is_told():
    heard = []

    class Step(Callback):
        def on_step_end(self, trainer):
            raise ValueError("original")

    class End(Callback):
        def on_fit_end(self, trainer):
            heard.append("end")
            raise OSError("disk")

    class Last(Callback):
        def on_fit_end(self, trainer):
            heard.append("last")
            raise StopTraining("too late")

    with pytest.raises(ValueError, match="original") as told:
        small(callbacks=[Step(), End(), Last()]).fit(loader(few(), 11), epochs=1)
    assert heard == ["end", "last"]
    assert any("disk" in note for note in told.value.__notes__)
    with pytest.raises(OSError, match="disk"):
        small(callbacks=[End(), Last()]).fit(loader(few(), 11), epochs=1)
    assert heard == ["end", "last"] * 2


def test_a_loss_that_learns_is_part_of_the_checkpoint():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.temperature = nn.Parameter(torch.ones(()))

        def forward(self, logits, targets):
            return F.cross_entropy(logits / self.temperature, targets)

    def made():
        torch.manual_seed(0)
        model, loss_fn = small_resnet(3, width=4, depth=1), Scaled()
        optimizer = torch.optim.SGD([*model.parameters(), *loss_fn.parameters()], lr=0.1)
        return small(model, optimizer=optimizer, loss_fn=loss_fn)

    data = few()
    whole, cut, resumed = made(), made(), made()
    whole.fit(loader(data, 11), epochs=2)
    cut.fit(loader(data, 11), epochs=1)
    resumed.load_state_dict(cut.state_dict())
    resumed.fit(loader(data, 11), epochs=2)
    assert same(whole.state_dict()["model"], resumed.state_dict()["model"])
    assert whole.loss_fn.temperature == resumed.loss_fn.temperature != 1
    with pytest.raises(CheckpointError, match="other parameters or buffers"):
        small().load_state_dict(cut.state_dict())


def test_a_fit_that_begins_while_another_error_is_handled_still_tells_its_own():
    class End(Callback):
        def on_fit_end(self, trainer):
            raise OSError("disk")

    try:
        raise ValueError("another one, before")
    except ValueError:
        with pytest.raises(OSError, match="disk"):
            small(callbacks=[End()]).fit(loader(few(), 11), epochs=1)


def test_a_printed_trainer_is_its_loop_with_the_options_filled_in():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plain = str(Trainer(model, optimizer, device="cpu", progress=False))
    assert "loss = cross_entropy(model(images), targets)\n" in plain
    assert "optimizer.step()  # SGD, lr=0.1\n" in plain
    for option in ("ema", "clip", "autocast", "scheduler", "plateau", "split", "callback"):
        assert option not in plain
    full = str(
        Trainer(
            model,
            optimizer,
            partial(F.cross_entropy, label_smoothing=0.1),
            scheduler=attach(optimizer, cosine(10)),
            batch_transform=[Augment(flip=0.5), MixUp(0.2, 5)],
            clip_norm=1.0,
            precision="bf16",
            microbatch=16,
            ema=EMA(model),
            callbacks=[EarlyStopping("valid_loss", "min", patience=3)],
            device="cpu",
            progress=False,
        )
    )
    lines = [line.partition("  #")[0].strip() for line in full.splitlines()]
    assert lines == [
        "for epoch in range(epochs):",
        "model.train()",
        "for images, targets in train:",
        "images, targets = augment(images), targets",
        "images, targets = MixUp(images, targets)",
        "optimizer.zero_grad()",
        "for images_part, targets_part in zip(images.split(16), targets.split(16)):",
        "with torch.autocast('cpu', torch.bfloat16):",
        "loss = cross_entropy(model(images_part), targets_part, label_smoothing=0.1)",
        "(loss * len(targets_part) / len(targets)).backward()",
        "clip_grad_norm_(model.parameters(), 1.0)",
        "optimizer.step()",
        "ema.update()",
        "scheduler.step()",
        "evaluate(model, valid)",
        "evaluate(ema.model, valid)",
        "callback.on_epoch_end(trainer)",
    ]
    assert "scheduler.step()  # cosine\n" in full
    assert repr(Trainer(model, optimizer, device="cpu")).startswith(
        "Trainer(Sequential, SGD, on cpu"
    )


def test_each_option_of_the_trainer_is_declared_once():
    assert Trainer.__init__ is TrainerOptions.__init__
    names = [field.name for field in dataclasses.fields(TrainerOptions)]
    assert names[:3] == ["model", "optimizer", "loss_fn"]
    documented = re.findall(r"^    (\w+): ", inspect.getdoc(Trainer), re.MULTILINE)
    assert [name for name in documented if name in names] == names


def test_memory_that_runs_out_in_a_transform_or_in_the_optimizer_is_explained():
    def full(*_):
        raise torch.OutOfMemoryError("Tried to allocate 20.00 GiB. GPU 0 has no more.")

    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    batches = [(torch.rand(8, 3, 8, 8), torch.zeros(8, dtype=torch.int64))]

    def trainer_of(**options):
        optimizer = torch.optim.Adam(model.parameters())
        return Trainer(model, optimizer, device="cpu", progress=False, **options)

    with pytest.raises(OutOfMemory, match="8 images"):
        trainer_of(batch_transform=lambda images, targets: full()).fit(batches, epochs=1)
    trainer = trainer_of()
    trainer.optimizer.step = full
    with pytest.raises(OutOfMemory, match="not enough memory for the optimizer state"):
        trainer.fit(batches, epochs=1)


def test_average_weights_and_momentum_go_where_the_model_goes():
    model = net()
    average, weight = EMA(model), torch.ones(K)
    trainer = Trainer(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        partial(F.cross_entropy, weight=weight),
        ema=average,
        device="meta",  # a device like any other, on a machine without a GPU
    )
    assert {p.device.type for p in average.model.parameters()} == {"meta"}
    assert trainer.loss_fn.keywords["weight"].device.type == "meta"
    assert weight.device.type == "cpu"
    parameter = nn.Parameter(torch.zeros(2, device="meta"))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    optimizer.state[parameter]["momentum_buffer"] = torch.zeros(2)
    move_state(optimizer)
    assert optimizer.state[parameter]["momentum_buffer"].device.type == "meta"


def test_a_relu_that_works_in_place_changes_nothing():
    states = []
    for inplace in (False, True):
        model = net(dropout=0.0)
        model[2] = nn.ReLU(inplace=inplace)
        trainer = make(model, microbatch=5)
        trainer.fit(batches(), batches(), epochs=2)
        states.append(trainer.model.state_dict())
    assert same(*states)

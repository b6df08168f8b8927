"""Tasks other than single-label classification: any loss, model output and metric."""

import math
from collections import namedtuple
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_trainer import StopAt, same
from torch import nn

import cnnlab
from cnnlab import losses
from cnnlab.data import loader
from cnnlab.errors import CheckpointError, DataError, NonFiniteError
from cnnlab.mixing import MixUp, soft_cross_entropy
from cnnlab.trainer import Trainer


N, K = 24, 4
G = torch.Generator().manual_seed(0)
IMAGES = torch.rand(N, 3, 8, 8, generator=G)
LABELS = torch.randint(K, (N,), generator=G)
PIXEL_LABELS = torch.randint(K, (N, 8, 8), generator=G)
UNLABELLED = torch.rand(N, 8, 8, generator=G) < 0.4
AREAS = IMAGES.mean((1, 2, 3))[:, None]
TAGS = (torch.rand(N, K, generator=G) < 0.5).float()


def net(outputs=K, pixels=False):
    torch.manual_seed(1)
    if pixels:
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, outputs, 1))
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, outputs))
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), *head)


def make(model, loss_fn=None, **options):
    parameters = [*model.parameters()]
    if isinstance(loss_fn, nn.Module):
        parameters += loss_fn.parameters()
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    return Trainer(model, optimizer, loss_fn, device="cpu", progress=False, **options)


def cut(images, targets, size=8):
    return list(zip(images.split(size), targets.split(size), strict=True))


class Focal(nn.CrossEntropyLoss):
    """A loss that divides by the number of samples, written as many do."""

    def forward(self, logits, targets):
        ce = F.cross_entropy(logits, targets, self.weight, reduction="none")
        return ((1 - (-ce).exp()) ** 2 * ce).mean()


WEIGHT = torch.tensor([1.0, 2.0, 0.5, 4.0])
# name -> outputs per sample or pixel, whether there is one per pixel, loss, targets
TASKS = {
    "classes": (K, False, nn.CrossEntropyLoss(), LABELS),
    "ignored labels": (
        K, False, nn.CrossEntropyLoss(ignore_index=255),
        torch.where(torch.arange(N) % 3 == 0, 255, LABELS),
    ),
    "torch's -100, weighted": (
        K, False, nn.CrossEntropyLoss(WEIGHT), torch.where(torch.arange(N) % 3 == 0, -100, LABELS),
    ),
    "focal": (K, False, Focal(WEIGHT), LABELS),
    "log-probabilities": (K, False, lambda x, y: F.nll_loss(x.log_softmax(1), y), LABELS),
    "soft targets": (K, False, nn.CrossEntropyLoss(), TAGS.add(0.1).softmax(1)),
    "soft, weighted": (
        K, False, partial(soft_cross_entropy, weight=WEIGHT), TAGS.add(0.1).softmax(1),
    ),
    "regression": (1, False, nn.MSELoss(), AREAS),
    "regression, huber": (1, False, F.smooth_l1_loss, AREAS),
    "several labels": (K, False, nn.BCEWithLogitsLoss(), TAGS),
    "pixels": (K, True, nn.CrossEntropyLoss(), PIXEL_LABELS),
    "pixels, ignored": (
        K, True, nn.CrossEntropyLoss(ignore_index=255), PIXEL_LABELS.masked_fill(UNLABELLED, 255),
    ),
    "pixels, ignored and weighted": (
        K, True, nn.CrossEntropyLoss(WEIGHT, ignore_index=255),
        PIXEL_LABELS.masked_fill(UNLABELLED, 255),
    ),
}  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("microbatch", [1, 5, 8])
def test_gradient_accumulation_gives_the_gradient_of_the_whole_batch(task, microbatch):
    outputs, pixels, loss_fn, targets = TASKS[task]
    whole, parts = (make(net(outputs, pixels), loss_fn, microbatch=m) for m in (None, microbatch))
    histories = [t.fit(cut(IMAGES, targets, 12), epochs=2) for t in (whole, parts)]
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    a, b = (h.steps["loss"].to_numpy() for h in histories)
    np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_an_evaluation_does_not_depend_on_how_the_samples_are_cut_into_batches(task):
    outputs, pixels, loss_fn, targets = TASKS[task]
    trainer = make(net(outputs, pixels), loss_fn)
    one = trainer.evaluate(cut(IMAGES, targets, N))
    several = trainer.evaluate(cut(IMAGES, targets, 5))
    assert one == pytest.approx(several, rel=1e-5, nan_ok=True)
    with torch.no_grad():
        wanted = loss_fn(trainer.model(IMAGES), targets).item()
    assert one["loss"] == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_the_loss_of_an_epoch_is_that_of_plain_torch(task):
    outputs, pixels, loss_fn, targets = TASKS[task]
    model, trainer = net(outputs, pixels), make(net(outputs, pixels), loss_fn)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses_by_hand = []
    for images, wanted in cut(IMAGES, targets):
        optimizer.zero_grad()
        loss = loss_fn(model(images), wanted)
        loss.backward()
        optimizer.step()
        losses_by_hand.append(loss.item())
    history = trainer.fit(cut(IMAGES, targets), epochs=1)
    np.testing.assert_allclose(history.steps["loss"], losses_by_hand, rtol=1e-6)
    for a, b in zip(model.parameters(), trainer.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("task", TASKS)
def test_there_is_an_accuracy_only_where_it_means_something(task):
    outputs, pixels, loss_fn, targets = TASKS[task]
    trainer = make(net(outputs, pixels), loss_fn)
    history = trainer.fit(cut(IMAGES, targets), cut(IMAGES, targets), epochs=1)
    means_something = task in (
        "classes", "ignored labels", "torch's -100, weighted", "focal", "log-probabilities",
    )  # fmt: skip
    soft = task.startswith("soft")
    assert ("valid_acc" in history.to_pandas()) == (means_something or soft)
    if soft:
        assert math.isnan(history.epochs[0]["valid_acc"])


def test_ignored_labels_count_neither_as_correct_nor_as_incorrect():
    labels = torch.where(torch.arange(N) % 2 == 0, -100, LABELS)
    trainer = make(net())
    accuracy = trainer.evaluate(cut(IMAGES, labels))["acc"]
    answers = trainer.predict(cut(IMAGES, labels)).argmax(1)
    assert accuracy == (answers == labels)[labels >= 0].double().mean().item()


def test_a_batch_whose_targets_are_all_ignored_changes_no_gradient():
    labels = LABELS.clone()
    labels[8:16] = -100
    trainer = make(net())
    history = trainer.fit(cut(IMAGES, labels), epochs=1)
    steps = history.steps
    assert math.isnan(steps["loss"][1])
    assert steps["grad_norm"][1] == 0
    assert math.isfinite(history.epochs[0]["train_loss"])
    assert math.isfinite(trainer.evaluate(cut(IMAGES, labels))["loss"])


@pytest.mark.parametrize("weight", [None, torch.ones(K)])
def test_an_epoch_in_which_every_target_is_ignored_is_refused(weight):
    trainer = make(net(), nn.CrossEntropyLoss(weight, ignore_index=255))
    with pytest.raises(DataError, match=r"target of this epoch is ignored.*ignore_index 255"):
        trainer.fit(cut(IMAGES, LABELS * 0 + 255), epochs=1)
    with pytest.raises(DataError, match=r"every target of this evaluation is.*the ignore_index 2"):
        trainer.evaluate(cut(IMAGES, LABELS * 0 + 255))
    assert trainer.epoch == 0


def test_one_hot_targets_have_an_accuracy():
    trainer = make(net())
    one_hot = F.one_hot(LABELS, K).float()
    assert trainer.evaluate(cut(IMAGES, one_hot)) == pytest.approx(
        trainer.evaluate(cut(IMAGES, LABELS))
    )


# --- metrics --------------------------------------------------------------------------------------


def mae(outputs, targets):
    return (outputs - targets).abs().mean()


def test_metrics_are_means_over_the_samples_in_history_evaluation_and_plot():
    trainer = make(net(1), nn.MSELoss(), metrics={"mae": mae})
    history = trainer.fit(cut(IMAGES, AREAS, 10), cut(IMAGES, AREAS, 10), epochs=2)
    table = history.to_pandas()
    assert {"train_mae", "valid_mae"} <= set(table)
    with torch.no_grad():
        wanted = mae(trainer.model(IMAGES), AREAS).item()
    assert table["valid_mae"].iloc[-1] == pytest.approx(wanted, rel=1e-5)
    assert trainer.evaluate(cut(IMAGES, AREAS, 7))["mae"] == pytest.approx(wanted, rel=1e-5)
    assert "mae" in history.plot().alt
    assert "accuracy" not in history.plot().alt


@pytest.mark.parametrize("microbatch", [None, 3])
def test_training_metrics_are_those_of_the_batches_before_each_step(microbatch):
    model = net(1)
    with torch.no_grad():
        wanted = mae(model(IMAGES), AREAS).item()
    trainer = make(net(1), nn.MSELoss(), metrics={"mae": mae}, microbatch=microbatch)
    history = trainer.fit([(IMAGES, AREAS)], epochs=1)
    assert history.epochs[0]["train_mae"] == pytest.approx(wanted, rel=1e-5)


def test_metrics_of_a_resumed_run_are_those_of_the_whole_run(tmp_path):
    data = torch.utils.data.TensorDataset(IMAGES, AREAS)

    def made(*callbacks):
        return make(net(1), nn.MSELoss(), metrics={"mae": mae}, callbacks=list(callbacks))

    whole, resumed = made(), made()
    whole.fit(loader(data, 5, shuffle=True), epochs=2)
    broken_off = made(StopAt(6))
    broken_off.fit(loader(data, 5, shuffle=True), epochs=2)
    resumed.load(broken_off.save(tmp_path / "run.pt"))
    resumed.fit(loader(data, 5, shuffle=True), epochs=2)
    drop = ["seconds"]
    assert (
        resumed.history.to_pandas()
        .drop(columns=drop)
        .equals(whole.history.to_pandas().drop(columns=drop))
    )


@pytest.mark.parametrize(
    ("metrics", "error", "message"),
    [
        ([mae], TypeError, "dictionary from names to functions"),
        ({"mae": 3}, TypeError, "dictionary from names to functions"),
        ({"acc": mae}, ValueError, "'acc' is taken"),
    ],
)
def test_metrics_of_another_kind_are_refused(metrics, error, message):
    with pytest.raises(error, match=message):
        make(net(1), nn.MSELoss(), metrics=metrics)


# --- outputs other than a tensor ------------------------------------------------------------------


class Wrapped(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.net, self.wrap = net(), wrap

    def forward(self, images):
        return self.wrap(self.net(images))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("wrap", "unwrap"),
    [
        (lambda x: {"out": x, "aux": x * 2}, lambda o: o["out"]),
        (lambda x: (x, x * 2), lambda o: o[0]),
    ],
)
def test_a_model_that_returns_several_things_trains_with_a_loss_that_takes_them(
    wrap, unwrap, precision
):
    loss_fn = lambda outputs, targets: F.cross_entropy(unwrap(outputs), targets)
    plain = make(net(), precision=precision)
    wrapped = make(Wrapped(wrap), loss_fn, precision=precision)
    for trainer in (plain, wrapped):
        trainer.fit(cut(IMAGES, LABELS), cut(IMAGES, LABELS), epochs=2)
    assert same(plain.model.state_dict(), wrapped.model.net.state_dict())
    one, two = (t.history.epochs[-1]["valid_loss"] for t in (plain, wrapped))
    assert one == pytest.approx(two)
    with pytest.raises(TypeError, match="predict returns a tensor, but the model returns a"):
        wrapped.predict(cut(IMAGES, LABELS))


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda x: {"out": x}, r"a dict with the keys 'out'.*outputs\['out'\]"),
        (lambda x: (x, x), r"returns a tuple.*outputs\[0\]"),
        (namedtuple("Outputs", "logits"), r"returns a Outputs.*outputs\[0\]"),
        (lambda x: SimpleNamespace(logits=x), r"SimpleNamespace.*outputs\.logits"),
    ],
)
def test_the_usual_loss_says_which_part_of_the_outputs_it_needs(wrap, message):
    with pytest.raises(DataError, match=message):
        make(Wrapped(wrap)).fit(cut(IMAGES, LABELS), epochs=1)


@pytest.mark.parametrize(
    ("model", "targets", "loss_fn", "message"),
    [
        (net(K, pixels=True), LABELS, None, r"logits must be \(N, K\).*nn.Flatten"),
        (nn.Sequential(net(1), nn.Flatten(0)), LABELS, None, r"logits must be \(N, K\)"),
        (net(), LABELS, nn.NLLLoss(), "takes log-probabilities.*log_softmax"),
        (net(), TAGS.softmax(1), nn.KLDivLoss(reduction="batchmean"), "takes log-probabilities"),
        (net(1), AREAS[:, 0], nn.MSELoss(), r"must be float of shape \(8, 1\)"),
    ],
)
def test_outputs_that_do_not_fit_the_loss_are_explained(model, targets, loss_fn, message):
    with pytest.raises(DataError, match=message):
        make(model, loss_fn).fit(cut(IMAGES, targets), epochs=1)


def test_an_image_that_is_not_flattened_is_explained():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Linear(8, K))
    with pytest.raises(DataError, match=r"put nn.Flatten\(\) before it"):
        make(model).fit(cut(IMAGES, LABELS), epochs=1)


def test_gradients_that_are_switched_off_are_named():
    with torch.no_grad(), pytest.raises(TypeError, match="gradients are switched off"):
        make(net()).fit(cut(IMAGES, LABELS), epochs=1)


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_a_forward_pass_without_gradients_is_named(off):
    model = Wrapped(torch.nn.Identity())
    model.forward = off()(model.forward)
    with pytest.raises(TypeError, match=r"outputs of the model have no gradient.*no_grad\(\)"):
        make(model).fit(cut(IMAGES, LABELS), epochs=1)
    with pytest.raises(TypeError, match="outputs of the model have no gradient"):
        cnnlab.diagnose.overfit_one_batch(model, (IMAGES, LABELS), F.cross_entropy)


def test_a_loss_of_a_single_entry_is_a_loss():
    plain, boxed = make(net()), make(net(), lambda o, y: F.cross_entropy(o, y)[None])
    for trainer in (plain, boxed):
        trainer.fit(cut(IMAGES, LABELS), epochs=1)
    assert same(plain.model.state_dict(), boxed.model.state_dict())


def test_a_loss_that_decides_for_itself_gets_whatever_targets_there_are():
    def embedding_loss(outputs, targets):  # eight classes, and four numbers per image
        centres = torch.eye(8)[targets][:, :K]
        return (outputs - centres).square().mean()

    labels = torch.arange(N) % 8
    history = make(net(), embedding_loss).fit(cut(IMAGES, labels), epochs=1)
    assert math.isfinite(history.epochs[0]["train_loss"])


# --- losses with a state of their own -------------------------------------------------------------


class Centres(nn.Module):
    """A parameter that learns, and a buffer that moves whenever the loss is computed."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("running", torch.zeros(K))

    def forward(self, logits, targets):
        if self.training:
            self.running.lerp_(logits.detach().mean(0), 0.1)
        else:
            self.running += 1  # careless, and still no reason for an evaluation to change training
        return F.cross_entropy(logits * self.scale - self.running, targets)


def test_the_state_of_a_loss_is_saved_and_an_evaluation_leaves_it_alone(tmp_path):
    def made():
        return make(net(), Centres())

    plain, evaluated, cut_off, resumed = (made() for _ in range(4))
    plain.fit(cut(IMAGES, LABELS), epochs=2)
    evaluated.fit(cut(IMAGES, LABELS), cut(IMAGES, LABELS), epochs=2)
    assert same(plain.loss_fn.state_dict(), evaluated.loss_fn.state_dict())
    assert same(plain.model.state_dict(), evaluated.model.state_dict())
    cut_off.fit(cut(IMAGES, LABELS), epochs=1)
    resumed.load(cut_off.save(tmp_path / "run.pt"))
    resumed.fit(cut(IMAGES, LABELS), epochs=2)
    assert same(plain.loss_fn.state_dict(), resumed.loss_fn.state_dict())
    assert plain.loss_fn.scale != 1
    with pytest.raises(CheckpointError, match="other parameters or buffers"):
        make(net()).load(tmp_path / "run.pt")


def test_a_falsy_loss_is_not_replaced():
    class Empty(nn.ModuleList):
        def forward(self, logits, targets):
            return F.cross_entropy(logits, targets) * 3

    assert make(net(), Empty()).evaluate(cut(IMAGES, LABELS))["loss"] == pytest.approx(
        3 * make(net()).evaluate(cut(IMAGES, LABELS))["loss"]
    )


def test_a_loss_says_what_it_divides_by():
    class PerObject(nn.Module):
        def normalizer(self, targets):
            return float(targets.sum())

        def forward(self, outputs, targets):
            return (outputs.sigmoid() - targets).square().sum() / targets.sum()

    whole, parts = (make(net(), PerObject(), microbatch=m) for m in (None, 5))
    for trainer in (whole, parts):
        trainer.fit(cut(IMAGES, TAGS, 12), epochs=1)
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("weight", [[1.0, 2.0, 1.0, 1.0], np.array([1.0, 2.0, 1.0, 1.0])])
def test_class_weights_of_any_kind_are_converted(weight):
    as_list = make(net(), partial(F.cross_entropy, weight=weight))
    tensor = torch.as_tensor(weight, dtype=torch.float64)
    as_double = make(net(), nn.CrossEntropyLoss(weight=tensor))
    wanted = make(net(), nn.CrossEntropyLoss(weight=tensor.float()))
    values = [t.evaluate(cut(IMAGES, LABELS))["loss"] for t in (as_list, as_double, wanted)]
    assert values[0] == values[1] == values[2]


def test_a_loss_class_without_brackets_is_named():
    with pytest.raises(TypeError, match=r"create it, CrossEntropyLoss\(\)"):
        make(net(), nn.CrossEntropyLoss)


# --- conversions that lose nothing, and number types ----------------------------------------------


@pytest.mark.parametrize(
    "batch",
    [
        (IMAGES.double(), LABELS),
        (IMAGES, LABELS.int()),
        (IMAGES, LABELS.byte()),
        (IMAGES.numpy(), LABELS.numpy()),
        (IMAGES.double().numpy(), LABELS.numpy().astype("int32")),
    ],
)
def test_arrays_and_other_number_types_are_converted(batch):
    plain, converted = make(net()), make(net())
    plain.fit([(IMAGES, LABELS)], epochs=1)
    converted.fit([batch], epochs=1)
    assert same(plain.model.state_dict(), converted.model.state_dict())
    assert converted.predict([batch]).shape == (N, K)


def test_numpy_integers_count_as_integers():
    trainer = make(net(), microbatch=np.int64(5))
    trainer.fit(cut(IMAGES, LABELS), epochs=np.int64(2))
    assert trainer.epoch == 2
    for epochs in (0, 2.0, True, "2"):
        with pytest.raises(ValueError, match="epochs must be the total number"):
            make(net()).fit(cut(IMAGES, LABELS), epochs=epochs)


def test_a_model_in_double_precision_trains():
    trainer = make(net().double())
    trainer.fit(cut(IMAGES, LABELS), epochs=1)
    assert trainer.predict(cut(IMAGES, LABELS)).dtype == torch.float32
    assert next(trainer.model.parameters()).dtype == torch.float64


def test_token_indices_go_into_an_embedding():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, K))
    trainer = make(model)
    tokens = torch.randint(10, (N, 3))
    trainer.fit(cut(tokens, LABELS), epochs=1)
    assert trainer.predict([tokens]).shape == (N, K)


def test_whole_numbers_that_are_no_classes_have_no_accuracy():
    def loss_fn(outputs, counts):
        return F.poisson_nll_loss(outputs.mean(1), counts)

    (row,) = make(net(), loss_fn).fit(cut(IMAGES, LABELS + K), epochs=1).epochs
    assert "train_loss" in row
    assert "train_acc" not in row


def test_images_in_0_to_255_are_noticed():
    with pytest.warns(UserWarning, match="divide the images by 255"):
        make(net()).fit(cut(IMAGES * 255, LABELS), epochs=1)


# --- what is not a number -------------------------------------------------------------------------


def test_a_broken_validation_image_is_named():
    images = IMAGES.clone()
    images[13, 0, 2, 3] = math.nan
    trainer = make(net())
    with pytest.raises(NonFiniteError, match=r"evaluation, batch 2: .* in image 5 of the batch"):
        trainer.fit(cut(IMAGES, LABELS), cut(images, LABELS), epochs=1)
    with pytest.raises(NonFiniteError, match="image 5"):
        trainer.evaluate(cut(images, LABELS))


def test_a_plateau_that_watches_what_is_never_a_number_is_refused():
    mixed = cut(IMAGES, TAGS.softmax(1))
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plateau = cnnlab.schedules.Plateau(optimizer, mode="max", patience=1)
    trainer = Trainer(model, optimizer, plateau=plateau, device="cpu", progress=False)
    with pytest.raises(ValueError, match=r"valid_acc is NaN .*monitor the loss"):
        trainer.fit(mixed, mixed, epochs=2)


def test_mixing_still_trains_with_the_usual_loss():
    trainer = make(net(), batch_transform=MixUp(0.4, K))
    history = trainer.fit(cut(IMAGES, LABELS), epochs=1)
    assert math.isnan(history.epochs[0]["train_acc"])


def test_what_is_known_of_a_loss():
    assert losses.ignore_index(F.cross_entropy) == -100
    assert losses.ignore_index(nn.CrossEntropyLoss(ignore_index=7)) == 7
    assert losses.ignore_index(Focal()) is None
    assert losses.class_weights(Focal(WEIGHT)) is None


def test_ignored_samples_predicted_as_the_ignored_class_are_not_correct():
    labels = torch.tensor([0, 1, 2])
    assert losses.count_correct(torch.eye(3), labels, ignored=0) == (2, 2)


def test_a_new_epoch_may_have_other_metrics_and_one_in_progress_may_not(tmp_path):
    def made(metrics, *callbacks):
        return make(net(1), nn.MSELoss(), metrics=metrics, callbacks=list(callbacks))

    first = made({"mae": mae})
    first.fit(cut(IMAGES, AREAS), epochs=1)
    first.save(tmp_path / "whole.pt")
    other = made({"other": mae})
    other.load(tmp_path / "whole.pt")
    other.fit(cut(IMAGES, AREAS), epochs=2)
    assert math.isfinite(other.history.epochs[-1]["train_other"])
    broken_off = made({"mae": mae}, StopAt(2))
    broken_off.fit(cut(IMAGES, AREAS), epochs=1)
    broken_off.save(tmp_path / "cut.pt")
    with pytest.raises(CheckpointError, match=r"metrics \['mae'\], this trainer has"):
        made({"other": mae}).load(tmp_path / "cut.pt")


def test_metrics_get_full_precision_outputs():
    seen = set()

    def metric(outputs, targets):
        seen.add(outputs.dtype)
        return outputs.numpy().mean()

    make(net(), precision="bf16", metrics={"mean": metric}).fit(
        cut(IMAGES, LABELS), cut(IMAGES, LABELS), epochs=1
    )
    assert seen == {torch.float32}


# --- what an accuracy and a metric may not do -----------------------------------------------------


def test_an_accuracy_needs_classes():
    def of(outputs, targets, loss_fn):
        return "acc" in make(net(outputs), loss_fn).evaluate(cut(IMAGES, targets))

    own = Own()
    assert of(K, LABELS, own)
    assert not of(1, LABELS, lambda x, y: (x[:, 0] - y).pow(2).mean())  # a count, of one output
    assert not of(K, LABELS + 30, lambda x, y: (x.sum(1) - y).pow(2).mean())
    assert not of(K, TAGS, lambda x, y: F.mse_loss(x.sigmoid(), y))
    assert of(K, F.one_hot(LABELS, K).float(), lambda x, y: F.cross_entropy(x, y))


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls, self.center = 0, None
        self.register_buffer("mean", None)

    def forward(self, outputs, targets):
        self.calls += 1
        self.mean = outputs.detach().mean(0)
        return F.cross_entropy(outputs, targets)


def test_an_evaluation_leaves_counts_and_late_buffers_of_a_loss_alone():
    own = Own()
    make(net(), own).evaluate(cut(IMAGES, LABELS))
    assert own.calls == 0
    assert own.mean is None
    assert own.training


def test_a_metric_can_neither_change_the_training_nor_hide_its_name():
    def greedy(outputs, targets):
        torch.rand(3)
        outputs.zero_()
        targets.zero_()
        return 1.0

    def trained(**options):
        drop = nn.Sequential(nn.Dropout(0.5), net())
        trainer = make(drop, microbatch=3, **options)
        trainer.fit(cut(IMAGES, LABELS), epochs=2)  # in the second, the targets are read again
        row = trainer.history.epochs[-1]
        return drop.state_dict(), row["train_acc"], row["train_ce"]

    plain = trained(metrics={"ce": F.cross_entropy})
    measured = trained(metrics={"greedy": greedy, "ce": F.cross_entropy})
    assert same(plain[0], measured[0])
    assert plain[1:] == measured[1:]
    with pytest.raises(TypeError, match="metric 'each' must return one number"):
        make(net(), metrics={"each": lambda x, y: x}).evaluate(cut(IMAGES, LABELS))
    with pytest.raises(ZeroDivisionError) as info:
        make(net(), metrics={"bad": lambda x, y: 1 / 0}).evaluate(cut(IMAGES, LABELS))
    assert "in the metric 'bad'" in info.value.__notes__
    with pytest.raises(TypeError, match="name of a metric"):
        make(net(), metrics={"": mae})


def test_a_batch_where_a_metric_is_not_defined_does_not_count():
    values = iter([0.25, math.nan, 0.75])
    row = make(net(), metrics={"auc": lambda x, y: next(values)}).evaluate(cut(IMAGES, LABELS))
    assert row["auc"] == 0.5
    row = make(net(), metrics={"auc": lambda x, y: math.nan}).evaluate(cut(IMAGES, LABELS))
    assert math.isnan(row["auc"])


@pytest.mark.parametrize(
    ("outputs", "loss_fn", "targets", "message"),
    [
        (K, nn.BCEWithLogitsLoss(), TAGS * 2, "between 0 and 1, got 0 to 2"),
        (K, None, TAGS + 1, "use BCEWithLogitsLoss"),
        (K, None, TAGS * 0, "with sums from 0 to 0"),
        (1, None, LABELS * 0, "always 0"),
        (1, nn.MSELoss(), AREAS.clone().index_fill_(0, torch.tensor([2]), math.nan), "samples 2"),
        (K, nn.CrossEntropyLoss(ignore_index=-1), LABELS * 0 - 1, "every target of this eval"),
    ],
)
def test_targets_that_mean_nothing_to_the_loss_are_refused(outputs, loss_fn, targets, message):
    with pytest.raises((DataError, NonFiniteError), match=message):
        make(net(outputs), loss_fn).evaluate(cut(IMAGES, targets))


def test_log_probabilities_may_be_along_any_axis():
    model = nn.Sequential(nn.Conv2d(3, K, 1), nn.Flatten(2), nn.LogSoftmax(2))
    target = torch.full((N, K, 64), 1 / 64)
    row = make(model, nn.KLDivLoss(reduction="batchmean")).evaluate(cut(IMAGES, target))
    assert math.isfinite(row["loss"])


def test_what_a_transform_returns_is_converted_like_a_batch():
    def in_double(images, targets):
        return images.double(), targets.int()

    trainer = make(net(), batch_transform=in_double)
    trainer.fit(cut(IMAGES, LABELS), epochs=1)
    doubles = make(net(1), nn.MSELoss())
    doubles.fit(cut(IMAGES.double(), AREAS.double()), epochs=1)
    assert math.isfinite(doubles.history.epochs[-1]["train_loss"])


def test_an_embedding_somewhere_inside_does_not_make_images_integers():
    class Conditioned(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.place = net(), nn.Embedding(3, K)

        def forward(self, x):
            return self.body(x) + self.place(torch.zeros(len(x), dtype=torch.long))

    with pytest.raises(DataError, match="images are uint8"):
        make(Conditioned()).evaluate(cut((IMAGES * 255).to(torch.uint8), LABELS))
    make(Conditioned()).evaluate(cut(IMAGES.double(), LABELS))


def test_outputs_keep_their_class():
    class Outputs(dict):
        @property
        def logits(self):
            return self["logits"]

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = net()

        def forward(self, x):
            return Outputs(logits=self.body(x), name="x")

    trainer = make(
        Wrapped(),
        lambda out, y: F.cross_entropy(out.logits, y),
        metrics={"acc1": lambda out, y: (out.logits.argmax(1) == y).float().mean()},
    )
    trainer.fit(cut(IMAGES, LABELS), epochs=1)
    assert 0 <= trainer.history.epochs[-1]["train_acc1"] <= 1

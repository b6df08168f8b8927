"""Warnings from the first step, epoch and validation of a fit, and from predictions."""

import math

import pytest
import torch
import torch.nn.functional as F
from test_refusals import DATA, IMAGES, LABELS, K, N, make, net
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset

from cnnlab.augment import Augment
from cnnlab.averaging import SWA, update_bn
from cnnlab.callbacks import Checkpoint
from cnnlab.data import load, loader
from cnnlab.mixing import MixUp
from cnnlab.models import small_resnet
from cnnlab.models.tracing import trace
from cnnlab.trainer import Trainer
from cnnlab.training.checks.look import _Labels


SORTED = torch.arange(N) // 6


def cut(images, labels, size=3):
    return list(zip(images.split(size), labels.split(size), strict=True))


# --- labels in the order of the batches -----------------------------------------------------------


class Own(Dataset):
    """A data set that doesn't say which labels it has."""

    def __init__(self, labels=SORTED):
        self.of_each = labels

    def __len__(self):
        return N

    def __getitem__(self, i):
        return IMAGES[i], int(self.of_each[i])


@pytest.mark.parametrize(
    "train",
    [
        DataLoader(Own(), 3),
        loader(Own(), 3),
        cut(IMAGES, SORTED),
        [(images.numpy(), labels.numpy()) for images, labels in cut(IMAGES, SORTED)],
    ],
    ids=["torch", "ours", "list", "arrays"],
)
def test_batches_that_come_class_by_class_are_noticed_in_the_first_epoch(train):
    trainer = make()
    message = "come class by class: 8 of 8 batches .* shuffle=True"
    with pytest.warns(UserWarning, match=message) as caught:
        trainer.fit(train, epochs=1)
    assert caught[0].filename == __file__
    trainer.fit(DataLoader(Own(), 3, shuffle=True), epochs=2)


RARE = torch.zeros(N, dtype=torch.int64).index_fill(0, torch.tensor([7]), 1)


@pytest.mark.parametrize(
    ("labels", "size", "loss_fn"),
    [
        (LABELS, 3, None),
        (RARE, 3, None),  # every order of these has long runs
        (RARE * 0, 3, None),
        (SORTED, 12, None),  # no batch has a single class
        (SORTED, 1, None),  # every batch has
        (F.one_hot(SORTED).float(), 3, nn.MSELoss()),
    ],
)
def test_other_batches_are_not_taken_for_sorted_ones(labels, size, loss_fn):
    make(loss_fn=loss_fn).fit(cut(IMAGES, labels, size), epochs=2)


def test_shuffled_labels_never_look_sorted():
    g = torch.Generator().manual_seed(0)
    for _ in range(2000):
        labels = _Labels()
        rare = torch.rand((), generator=g) / 2
        for batch in (torch.rand(40, generator=g) < rare).split(2):
            labels.add(batch.tolist())
        assert not labels.are_sorted()


# --- outputs --------------------------------------------------------------------------------------


class Positive(nn.Module):
    """Ends with a function instead of a layer."""

    def __init__(self):
        super().__init__()
        self.net, self.relu = net(), nn.ReLU()

    def forward(self, images):
        return F.relu(self.net(images))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(net(), nn.Softmax(1)), "outputs of the model are probabilities"),
        (nn.Sequential(net(), nn.ReLU()), "the model ends with ReLU"),
        (nn.Sequential(net(), nn.Sigmoid()), "the model ends with Sigmoid"),
        (Positive(), "the model ends with relu"),
    ],
)
def test_outputs_that_are_no_logits_are_noticed_at_the_first_step(model, message):
    trainer = make(model)
    with pytest.warns(UserWarning, match=message) as caught:
        trainer.fit(cut(IMAGES, LABELS, 8), epochs=2)
    assert len(caught) == 1
    assert caught[0].filename == __file__


class Hidden(nn.Module):
    """Registers its ReLU last, but doesn't end with it."""

    def __init__(self):
        super().__init__()
        self.last, self.relu = nn.Linear(192, K), nn.ReLU()
        nn.init.ones_(self.last.bias)
        nn.init.zeros_(self.last.weight)

    def forward(self, images):
        return self.last(self.relu(images.flatten(1)))


@pytest.mark.parametrize(
    ("model", "loss_fn"),
    [
        (Hidden(), None),
        (nn.Sequential(net(), nn.LogSoftmax(1)), nn.NLLLoss()),
        (nn.Sequential(net(), nn.Softmax(1)), lambda p, y: F.nll_loss(p.log(), y)),
        (nn.Sequential(net(), nn.Unflatten(1, (K, 1)), nn.Flatten()), None),
    ],
)
def test_outputs_that_fit_their_loss_are_not_mentioned(model, loss_fn):
    make(model, loss_fn=loss_fn).fit(cut(IMAGES, LABELS, 8), epochs=1)


def test_the_last_call_of_a_network_is_known():
    assert trace(Positive()).last() == "relu"
    assert trace(Hidden()).last() == "Linear"
    assert trace(nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Sigmoid()))).last() == "Sigmoid"


def many(n):
    data = TensorDataset(IMAGES[:1].expand(n, -1, -1, -1), torch.arange(n) % K)
    return loader(data, 20, shuffle=True)


def test_far_more_outputs_than_classes_are_noticed():
    def wide():
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 1000))

    named = TensorDataset(IMAGES, LABELS)
    named.classes = list("abcd")
    message = "has 1000 outputs, but the data have 4 classes.* num_classes=4"
    for train in (loader(Subset(named, range(20)), 8), many(100)):
        with pytest.warns(UserWarning, match=message):
            make(wide()).fit(train, epochs=1)
    make(wide()).fit(many(80), epochs=1)  # so few labels may be a part of all
    make(nn.Sequential(nn.Flatten(), nn.Linear(192, 2 * K))).fit(many(100), epochs=1)


# --- the scale of the validation images -----------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "valid"),
    [
        ((IMAGES - 0.45) / 0.25, IMAGES),  # ImageNet's
        (IMAGES, (IMAGES - 0.5) / 0.05),
        (IMAGES, IMAGES / 255),
        (IMAGES.numpy(), ((IMAGES - 0.5) / 0.25).numpy()),
    ],
)
def test_a_validation_on_another_scale_is_noticed(train, valid):
    trainer = make()
    with pytest.warns(UserWarning, match="images are on different scales") as caught:
        trainer.fit([(train, LABELS)], [(valid, LABELS)], epochs=2)
    assert len(caught) == 1
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("train", "valid"),
    [
        (IMAGES, IMAGES / 5 + 0.4),  # pale
        ((IMAGES - 0.5) / 0.25, (IMAGES / 5 - 0.1) / 0.25),
        (IMAGES, torch.zeros(4, 3, 8, 8)),  # too few to tell
        (IMAGES * math.nan, IMAGES),
    ],
)
def test_images_that_only_look_different_are_not_mentioned(train, valid):
    model, labels = nn.Sequential(nn.Flatten(), nn.Linear(192, K)), LABELS[: len(valid)]
    if isinstance(train, torch.Tensor) and train.isnan().any():
        model.insert(0, nn.ReLU())
        model = nn.Sequential(Cleaned(), model)
    make(model).fit([(train, LABELS)], [(valid, labels)], epochs=1)


class Cleaned(nn.Module):
    def forward(self, images):
        return images.nan_to_num(0.0)


@pytest.mark.parametrize("transform", [None, Augment(crop_pad=4, brightness=0.4), MixUp(1.0, 10)])
def test_augmented_and_mixed_data_of_the_course_are_not_mentioned(transform):
    for name in ("pocket", "glyphs", "digits"):
        options = {} if name == "digits" else {"n_train": 64, "n_valid": 64, "n_test": 16}
        data = load(name, **options)
        model = small_resnet(len(data.classes), width=4)
        mix = MixUp(1.0, len(data.classes)) if isinstance(transform, MixUp) else transform
        train = loader(data.train.select(range(32)), 16, shuffle=True)
        valid = loader(data.valid.select(range(32)), 16)
        make(model, batch_transform=mix).fit(train, valid, epochs=1)


# --- classes --------------------------------------------------------------------------------------


def named(classes):
    data = TensorDataset(IMAGES, LABELS % len(classes))
    data.classes = list(classes)
    return data


INSIDE = {
    "Subset": lambda data: Subset(data, range(12)),
    "Subset of a Subset": lambda data: Subset(Subset(data, range(12)), range(8)),
    "ConcatDataset": lambda data: ConcatDataset([data, DATA]),
    "random_split": lambda data: torch.utils.data.random_split(data, [12, 12])[1],
}


@pytest.mark.parametrize("inside", INSIDE)
def test_classes_are_compared_through_parts_and_by_evaluate(inside, tmp_path):
    train, other = (
        DataLoader(INSIDE[inside](named(classes)), 4, shuffle=True) for classes in ("abcd", "bcd")
    )
    with pytest.raises(ValueError, match="different classes, a, b, c, d and b, c, d"):
        make().fit(train, other, epochs=1)
    trainer = make(callbacks=[Checkpoint(tmp_path)])
    trainer.fit(train, train, epochs=1)
    with pytest.raises(ValueError, match="different classes, a, b, c, d and b, c, d"):
        trainer.evaluate(other)
    trainer.evaluate(DataLoader(DATA, 4))  # which says nothing about its classes
    trainer.evaluate(other, model=net())  # another model may have been trained on these
    trainer.predict(other)


def test_parts_of_the_training_data_that_are_numbered_apart_are_refused():
    mixed = ConcatDataset([named("abcd"), named("abdc")])
    with pytest.raises(ValueError, match="different classes, a, b, c, d and a, b, d, c"):
        make().fit(DataLoader(mixed, 4, shuffle=True), DataLoader(DATA, 4), epochs=1)


# --- predictions ----------------------------------------------------------------------------------


def test_predictions_that_are_no_numbers_are_noticed_and_numbered():
    images = IMAGES.clone()
    images[13, 0, 2, 3] = math.nan
    trainer = make()
    with pytest.warns(UserWarning, match=r"1 of 24 samples .* \(13 in the data set\): look at"):
        outputs = trainer.predict(loader(TensorDataset(images, LABELS), 8))
    assert outputs.isnan().any(1).nonzero().flatten().tolist() == [13]
    nn.init.constant_(trainer.model[0].bias, math.nan)
    with pytest.warns(UserWarning, match="24 of 24 samples .*0.bias was not finite"):
        trainer.predict(loader(DATA, 8))


def test_a_class_that_is_left_out_of_a_prediction_is_not_mentioned():
    class Masked(nn.Module):
        def forward(self, images):
            return torch.tensor([-math.inf, 1.0, 2.0]).expand(len(images), 3)

    assert make().predict([IMAGES], model=Masked()).shape == (N, 3)


def test_predictions_of_averaged_weights_without_statistics_are_noticed():
    model = net(norm=True)
    swa = SWA(model)
    trainer = make(model, callbacks=[swa])
    trainer.fit(loader(DATA, 8), epochs=2)
    with pytest.warns(UserWarning, match="call cnnlab.averaging.update_bn") as caught:
        trainer.predict(loader(DATA, 8), model=swa.model)
    assert caught[0].filename == __file__
    update_bn(swa.model, loader(DATA, 8))
    trainer.predict(loader(DATA, 8), model=swa.model)


# --- epochs of a single step ----------------------------------------------------------------------


def printed(capsys, train, epochs=2, progress=None, fits=1):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Trainer(model, optimizer, device="cpu", progress=progress)
    for number in range(fits):
        trainer.fit(train, epochs=epochs * (number + 1))
    return [line for line in capsys.readouterr().out.splitlines() if "one step" in line]


def first(n):
    return TensorDataset(IMAGES[:n], LABELS[:n])


@pytest.mark.parametrize("make_loader", [loader, DataLoader], ids=["ours", "torch"])
def test_an_epoch_of_one_step_is_said_once_beside_the_progress(make_loader, capsys):
    (line,) = printed(capsys, make_loader(first(20), 64, shuffle=True), fits=2)
    assert line == (
        "each epoch is one step, because 20 samples are less than a batch of 64; batch_size=4 "
        "takes 5"
    )


def test_samples_that_are_dropped_in_every_epoch_are_said(capsys):
    (line,) = printed(capsys, loader(first(20), 16, shuffle=True))
    assert "of 20 samples only one batch of 16 is used in each epoch; batch_size=4 takes 5" in line


@pytest.mark.parametrize(
    ("train", "options"),
    [
        (loader(first(20), 20), {}),  # the whole set, on purpose
        (loader(first(20), 10), {}),
        (loader(first(20), 64), {"progress": False}),
        (loader(first(20), 64), {"epochs": 1}),
        (loader(first(4), 64), {}),
        ([(IMAGES, LABELS)], {}),
    ],
    ids=["full batch", "two steps", "silent", "one epoch", "four samples", "a list"],
)
def test_other_epochs_are_not_remarked_on(train, options, capsys):
    assert printed(capsys, train, **options) == []

import copy
import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from test_trainer import IMAGES, LABELS, K, dataset, make, net, same
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import cnnlab
from cnnlab.diagnose import (
    check_data,
    diagnose,
    grad_norms,
    initial_loss,
    nan_hunt,
    overfit_one_batch,
    update_ratios,
)
from cnnlab.errors import DataError
from cnnlab.trainer import Trainer
from cnnlab.training.history import History


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(label_smoothing=0.2),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 9.0, 0.1, 1.0, 2.0])),
    ],
)
def test_equal_logits_have_loss_log_k_with_any_smoothing_and_class_weights(loss):
    model = net()
    nn.init.zeros_(model[6].weight)
    nn.init.zeros_(model[6].bias)
    observed, expected = initial_loss(model, DataLoader(dataset(), 7), loss)
    assert expected == pytest.approx(math.log(K))
    assert observed == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "measure",
    [
        lambda m: initial_loss(m, DataLoader(dataset(), 7, shuffle=True), nn.CrossEntropyLoss()),
        lambda m: overfit_one_batch(m, (IMAGES[:8], LABELS[:8]), nn.CrossEntropyLoss(), steps=5),
        lambda m: nan_hunt(m, (IMAGES, LABELS), nn.CrossEntropyLoss()),
        grad_norms,
        lambda m: update_ratios({n: p.detach().clone() for n, p in m.named_parameters()}, m),
        lambda m: check_data(dataset()),
    ],
)
def test_measuring_changes_nothing(measure):
    assert_nothing_changes(measure)


def assert_nothing_changes(measure):
    """Check that measuring leaves weights, buffers, modes, gradients and generators alone."""
    model = net()
    model[1].eval()
    before = copy.deepcopy([model.state_dict(), torch.get_rng_state()])
    modes = [m.training for m in model.modules()]
    measure(model)
    assert same(before, [model.state_dict(), torch.get_rng_state()])
    assert modes == [m.training for m in model.modules()]
    assert all(p.grad is None for p in model.parameters())


def test_a_sound_network_memorises_ten_images_and_one_with_a_bug_does_not():
    batch = IMAGES[:10], LABELS[:10]
    losses = overfit_one_batch(net(), batch, nn.CrossEntropyLoss(), steps=300, lr=0.02)
    assert len(losses) == 301
    assert losses[-1] < 0.01
    broken = net()
    broken[2] = nn.Threshold(1e9, 0.0)  # always 0, so only the class frequencies can be learnt
    assert overfit_one_batch(broken, batch, nn.CrossEntropyLoss())[-1] > math.log(K) - 0.1


@pytest.mark.parametrize(
    ("fault", "name", "seen"),
    [
        ("none", None, None),
        ("image", "images", "1 of 8832"),
        ("weight", "weights", "0.bias"),
        ("buffer", "weights", "1.running_var"),
        ("module", "forward", "5 (Scale)"),
        ("loss", "loss", "the loss of finite logits"),
        ("gradient", "gradient", "gradient of 0.weight"),
    ],
)
def test_nan_hunt_names_the_origin_of_the_first_nan(fault, name, seen):
    class Scale(nn.Module):
        def forward(self, x):
            return x * 1e30 * 1e30

    class Root(nn.Module):
        def forward(self, x):
            return (x - x).sqrt() + x  # finite, but the slope of sqrt at 0 is infinite

    model, images, loss = net(), IMAGES.clone(), nn.CrossEntropyLoss()
    if fault == "image":
        images[0, 0, 0, 0] = math.nan
    elif fault == "weight":
        model[0].bias.data[2] = math.inf
    elif fault == "buffer":
        model[1].running_var[0] = math.nan
    elif fault == "module":
        model[5] = Scale()
    elif fault == "loss":
        loss = lambda logits, targets: (logits.softmax(1) * 0).log().mean()
    elif fault == "gradient":
        model[2] = Root()
    finding = nan_hunt(model, (images, LABELS), loss)
    if name is None:
        assert finding is None
    else:
        assert finding.name == name
        assert seen in finding.seen


def test_gradient_norms_and_update_ratios_of_one_sgd_step():
    model = nn.Linear(3, 2)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    model(torch.ones(1, 3)).sum().backward()
    norms = grad_norms(model)
    assert norms["weight"] == pytest.approx(math.sqrt(6))
    optimizer.step()
    ratios = update_ratios(before, model)
    for name in norms:
        assert ratios[name] == pytest.approx(0.25 * norms[name] / before[name].norm().item())
    with pytest.raises(ValueError, match="live parameter"):
        update_ratios(dict(model.named_parameters()), model)


GOOD = torch.rand(40, 3, 6, 6, generator=torch.Generator().manual_seed(0))
CLASS_INDICES = torch.arange(40) % 4


COPIES = [0] * 20 + list(range(20))


class Named(TensorDataset):
    classes = ("a", "b", "c", "d", "e")


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (TensorDataset(GOOD, CLASS_INDICES), []),
        (TensorDataset(GOOD * 255, CLASS_INDICES), ["range"]),
        (TensorDataset(GOOD * 2 - 1, CLASS_INDICES), ["normalised already"]),
        (TensorDataset((GOOD - 0.45) / 0.25, CLASS_INDICES), ["normalised already"]),
        (
            TensorDataset(GOOD.clone().index_fill_(0, torch.tensor([3]), math.nan), CLASS_INDICES),
            ["not finite"],
        ),
        (
            TensorDataset(GOOD.clone().index_fill_(0, torch.tensor([3]), 0.5), CLASS_INDICES),
            ["constant images"],
        ),
        (TensorDataset(GOOD[COPIES], CLASS_INDICES[COPIES]), ["duplicates"]),
        (TensorDataset(GOOD[COPIES], CLASS_INDICES), ["duplicates", "contradictory labels"]),
        (TensorDataset(GOOD, CLASS_INDICES - 1), ["labels out of range"]),
        (Named(GOOD, CLASS_INDICES), ["missing classes"]),
        (Named(GOOD, CLASS_INDICES + 3), ["labels out of range"]),
        (TensorDataset(GOOD, (torch.arange(40) > 38).long()), ["imbalance"]),
        (TensorDataset(GOOD[:0], CLASS_INDICES[:0]), ["empty"]),
    ],
)
def test_each_problem_of_a_data_set_is_found_and_no_other(data, names):
    findings = check_data(data)
    assert [f.name for f in findings] == names
    assert all(f.seen and f.why and f.advice and f.name in str(f) for f in findings)


class Items:
    """A data set with these items."""

    def __init__(self, images, labels):
        self.items = list(zip(images, labels, strict=True))

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


class Odd(Items):
    """A data set whose items are not pairs, or raise an error."""

    def __init__(self, item):
        self.item = item

    def __len__(self):
        return 3

    def __getitem__(self, index):
        if isinstance(self.item, Exception):
            raise self.item
        return self.item


def pixels(image):
    return (image.permute(1, 2, 0).numpy() * 255).astype("uint8")


LABELS_40 = CLASS_INDICES.tolist()


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (Items([Image.fromarray(pixels(x)) for x in GOOD], LABELS_40), ["not tensors"]),
        (Items(GOOD.tolist(), LABELS_40), ["not tensors"]),
        (Items(["cat.png"] * 40, LABELS_40), ["not tensors"]),
        (Items([pixels(x) for x in GOOD], LABELS_40), ["layout", "range"]),
        (TensorDataset(GOOD.permute(0, 2, 3, 1), CLASS_INDICES), ["layout"]),
        (TensorDataset(GOOD[:, 0], CLASS_INDICES), ["layout"]),
        (TensorDataset(GOOD[:, None], CLASS_INDICES), ["layout"]),
        (TensorDataset(torch.zeros(4, 3, 0, 5), CLASS_INDICES[:4]), ["layout"]),
        (TensorDataset((GOOD * 255).byte(), CLASS_INDICES), ["range"]),
        (TensorDataset((GOOD > 0.5).byte(), CLASS_INDICES), ["range"]),
        (Items([(x.numpy() * 4095).astype(">u2") for x in GOOD], LABELS_40), ["range"]),
        (TensorDataset((GOOD * 255).to(torch.uint16), CLASS_INDICES), ["range"]),
        (TensorDataset(GOOD * 4095 / 65535, CLASS_INDICES), ["nearly black"]),
        (TensorDataset(GOOD / 255, CLASS_INDICES), ["nearly black"]),
        (TensorDataset(GOOD.bfloat16(), CLASS_INDICES), []),
        (TensorDataset(GOOD.double(), CLASS_INDICES.int()), []),
        (Items([x.numpy()[:, ::-1] for x in GOOD], np.array(LABELS_40)), []),
        (Items(GOOD, [*LABELS_40[:-1], "cat"]), ["label type"]),
        (Items(GOOD, ["cat", "dog"] * 20), ["label type"]),
        (Items(GOOD, np.array(["cat", "dog"] * 20)), ["label type"]),
        (Items(GOOD, [None] * 40), ["label type"]),
        (Items(GOOD, [{"boxes": GOOD}] * 40), ["label type"]),
        (Items(GOOD, [*LABELS_40[:-1], math.nan]), ["labels not finite"]),
        (Items(GOOD, [*LABELS_40[:-1], math.inf]), ["labels not finite"]),
        (TensorDataset(GOOD, CLASS_INDICES.float()), ["label type"]),
        (TensorDataset(GOOD, torch.full((40,), 0.7)), ["label type"]),
        (TensorDataset(GOOD, CLASS_INDICES > 1), ["label type"]),
        (TensorDataset(GOOD, CLASS_INDICES[:, None]), ["label type"]),
        (TensorDataset(GOOD, torch.ones(40, 3).long()), ["label type"]),
        (Items(GOOD, [torch.zeros(k % 3 + 1) for k in range(40)]), ["label type"]),
        (TensorDataset(GOOD, F.one_hot(CLASS_INDICES)), ["one-hot labels"]),
        (TensorDataset(GOOD, F.one_hot(CLASS_INDICES).float()), ["one-hot labels"]),
        # what only the loss can judge: several answers, soft labels, a regression, masks
        (TensorDataset(GOOD, (torch.eye(4)[CLASS_INDICES] + torch.eye(4)[0]).clamp(max=1)), []),
        (TensorDataset(GOOD, torch.full((40, 4), 0.25)), []),
        (TensorDataset(GOOD, torch.arange(40.0)[:, None]), []),
        (TensorDataset(GOOD, torch.zeros(40, 6, 6, dtype=torch.int64)), []),
        (TensorDataset(GOOD, CLASS_INDICES.where(CLASS_INDICES < 3, -100)), []),
        (TensorDataset(GOOD, torch.full((40,), -100)), ["missing classes"]),
        (TensorDataset(GOOD, CLASS_INDICES + 10**12), ["missing classes"]),
        (TensorDataset(GOOD, CLASS_INDICES * 0), ["one class"]),
        (TensorDataset(GOOD, CLASS_INDICES.sort().values), ["sorted by class"]),
        (TensorDataset(GOOD, CLASS_INDICES.sort(descending=True).values), ["sorted by class"]),
        (TensorDataset(GOOD, CLASS_INDICES, CLASS_INDICES), ["items"]),
        (Odd({"image": GOOD[0], "label": 1}), ["items"]),
        (Odd(GOOD[0]), ["items"]),
        (Odd(None), ["items"]),
        (Odd(OSError("broken file")), ["unreadable"]),
        (GOOD, ["not a data set"]),
        (GOOD.numpy(), ["not a data set"]),
        ((GOOD, CLASS_INDICES), ["not a data set"]),
        ([(GOOD, CLASS_INDICES)], ["not a data set"]),
        ({"train": GOOD}, ["not a data set"]),
        (None, ["not a data set"]),
        (3, ["not a data set"]),
        ("photos", ["not a data set"]),
        (list(zip(GOOD, LABELS_40, strict=True)), []),
        (zip(GOOD, LABELS_40, strict=True), []),
    ],
)
def test_whatever_training_would_refuse_is_a_finding(data, names):
    findings = check_data(data)
    assert [f.name for f in findings] == names
    assert all(f.seen and f.why and f.advice and f.name in str(f) for f in findings)


def test_a_loader_stands_for_its_data_set_and_a_bundle_for_its_splits():
    by_class = TensorDataset(GOOD, CLASS_INDICES.sort().values)
    for make_loader in (cnnlab.loader, DataLoader):
        assert [f.name for f in check_data(make_loader(by_class, 8))] == ["sorted by class"]
        assert check_data(make_loader(by_class, 8, shuffle=True)) == []
    bundle = cnnlab.load("pocket", n_train=48, n_valid=48, n_test=48, level="easy")
    assert check_data(bundle) == []
    bundle.valid.images.zero_()
    findings = check_data(bundle)
    assert "constant images" in [f.name for f in findings]
    assert all(f.seen.startswith("valid set: ") for f in findings)


def test_a_large_data_set_is_sampled_so_that_no_class_is_missed_by_its_position():
    images = torch.rand(4000, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    assert check_data(TensorDataset(images, torch.arange(4000) % 2), limit=400) == []
    by_class = TensorDataset(images, torch.arange(4000) // 2000)
    assert [f.name for f in check_data(by_class, limit=400)] == ["sorted by class"]


@pytest.mark.parametrize(
    "measure",
    [
        lambda m, b, f: initial_loss(m, [b], f),
        lambda m, b, f: overfit_one_batch(m, b, f, steps=2),
        lambda m, b, f: nan_hunt(m, b, f),
    ],
)
def test_batches_are_converted_or_refused_as_in_a_fit(measure):
    loss = nn.CrossEntropyLoss()
    expected = measure(net(), (IMAGES, LABELS), loss)
    for batch in (
        (IMAGES.numpy(), LABELS.numpy()),
        (IMAGES.double(), LABELS.int()),
        [IMAGES, LABELS.byte()],
    ):
        assert measure(net(), batch, loss) == expected
    for batch, message in (
        ((IMAGES.permute(0, 2, 3, 1), LABELS), "channels last"),
        (((IMAGES * 255).byte(), LABELS), "images are uint8"),
        ((IMAGES, LABELS + 5), "labels run from 5"),
        ((IMAGES, LABELS.float()), "class indices are float32"),
        ((IMAGES, LABELS[:3]), "3 targets"),
    ):
        with pytest.raises(DataError, match=message):
            measure(net(), batch, loss)
    with pytest.raises(DataError, match="NLLLoss takes log-probabilities"):
        measure(net(), (IMAGES, LABELS), nn.NLLLoss())
    # a loss of another kind gets targets of its own kind
    measure(net(), (IMAGES, torch.zeros(len(IMAGES), K)), nn.BCEWithLogitsLoss())
    measure(net(), (IMAGES, torch.zeros(len(IMAGES), K)), nn.MSELoss())


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [torch.compile, lambda model: model.compile() or model])
def test_compiled_models_are_measured_uncompiled(wrap):
    batch, loss = (IMAGES[:8], LABELS[:8]), nn.CrossEntropyLoss()
    plain, compiled = net(), wrap(net())
    assert initial_loss(compiled, [batch], loss) == initial_loss(plain, [batch], loss)
    assert overfit_one_batch(compiled, batch, loss, steps=2) == overfit_one_batch(
        plain, batch, loss, steps=2
    )

    class Root(nn.Module):
        def forward(self, x):
            return x * 1e30 * 1e30

    plain[5] = Root()
    assert nan_hunt(wrap(plain), batch, loss).name == "forward"


def test_nan_hunt_finds_targets_that_are_not_finite():
    targets = torch.zeros(len(IMAGES), K)
    targets[1, 2] = math.nan
    finding = nan_hunt(net(), (IMAGES, targets), nn.MSELoss())
    assert finding.name == "targets"
    assert f"1 of {targets.numel()} values of the targets are NaN" in finding.seen


def test_a_data_set_or_a_loader_in_the_wrong_place_is_refused_in_a_sentence():
    data, loss = TensorDataset(IMAGES, LABELS), nn.CrossEntropyLoss()
    with pytest.raises(TypeError, match=r"make one from a data set with cnnlab.loader"):
        initial_loss(net(), data, loss)
    with pytest.raises(TypeError, match=r"for a single batch pass \[\(images, targets\)\]"):
        initial_loss(net(), (IMAGES, LABELS), loss)
    for measure in (overfit_one_batch, nan_hunt):
        with pytest.raises(DataError, match=r"takes a single batch.*next\(iter\(loader\)\)"):
            measure(net(), DataLoader(data, 8), loss)
        with pytest.raises(DataError, match=r"takes a single batch.*iter\(cnnlab.loader\(data"):
            measure(net(), data, loss)


def test_the_expected_loss_is_that_of_equal_probabilities_or_not_a_number():
    batch = [(IMAGES, torch.zeros(len(IMAGES), K))]
    assert initial_loss(net(), batch, nn.BCEWithLogitsLoss())[1] == math.log(2)
    assert math.isnan(initial_loss(net(), batch, nn.MSELoss())[1])
    one = nn.Sequential(nn.Flatten(), nn.LazyLinear(1))
    one(IMAGES)
    observed, expected = initial_loss(one, [(IMAGES, LABELS)], lambda x, y: x.square().mean())
    assert math.isnan(expected)
    assert math.isfinite(observed)
    pixels = nn.Conv2d(3, 7, 1)
    masks = torch.zeros(len(IMAGES), *IMAGES.shape[2:], dtype=torch.int64)
    assert initial_loss(pixels, [(IMAGES, masks)], nn.CrossEntropyLoss())[1] == math.log(7)


def test_a_negative_loss_is_no_passed_test():
    def without_log_softmax(logits, targets):
        return -logits[range(len(targets)), targets].mean()

    with pytest.warns(UserWarning, match=r"the loss fell to -.*so the result is not a pass"):
        losses = overfit_one_batch(net(), (IMAGES[:8], LABELS[:8]), without_log_softmax, lr=0.1)
    assert losses[-1] < 0


def test_a_frozen_model_and_a_loss_per_sample_are_refused_and_a_loss_with_weights_is_trained():
    batch = IMAGES[:8], LABELS[:8]
    with pytest.raises(ValueError, match="every parameter is frozen"):
        overfit_one_batch(net().requires_grad_(False), batch, nn.CrossEntropyLoss())
    assert nan_hunt(net().requires_grad_(False), batch, nn.CrossEntropyLoss()) is None
    with pytest.raises(TypeError, match="reduction='mean'"):
        overfit_one_batch(net(), batch, nn.CrossEntropyLoss(reduction="none"))

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, logits, targets):
            return F.cross_entropy(logits * self.scale, targets)

    loss = Scaled()
    overfit_one_batch(net(), batch, loss, steps=3)
    nan_hunt(net(), batch, loss)
    assert loss.scale.item() == 1
    assert loss.scale.grad is None


def falling(n, start=2.5, rate=0.75, floor=0.1):
    return [floor + (start - floor) * rate**k for k in range(n)]


def frame(train, valid=None, lr=None):
    table = pd.DataFrame({"train_loss": train, "lr": lr or [0.1] * len(train)})
    if valid is not None:
        table["valid_loss"] = valid
    return table


PATTERNS = {
    "flat then a drop": frame([2.5] * 6 + falling(14, 2.3, 0.6), [2.5] * 6 + falling(14, 2.3, 0.6)),
    "plateau": frame(falling(6, floor=1.0) + [1.1] * 12, falling(6, floor=1.0) + [1.1] * 12),
    "underfitting": frame([2.5, 2.4, *[2.35] * 12], [2.5, 2.4, *[2.35] * 12]),
    "decayed too early": frame(
        [2.5, 2.1, 1.8, 1.55, *[1.45] * 12],
        [2.5, 2.1, 1.8, 1.55, *[1.45] * 12],
        [0.1] * 4 + [0.001] * 12,
    ),
    "still rising": frame(falling(8, rate=0.85, floor=0), falling(8, rate=0.85, floor=0)),
    "overfitting": frame(falling(16), falling(6, floor=0.8) + [1.2 + 0.05 * k for k in range(10)]),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_each_pattern_of_the_curves_is_found_and_no_other(name):
    assert [f.name for f in diagnose(PATTERNS[name])] == [name]


NOT_ALIKE = "training and validation data are not alike"
GOOD_TRAINING = [0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.99, 1.0, 1.0]
RISING = [1.5 + 0.3 * k for k in range(12)]
DOWN = falling(12, start=1.35, floor=0.02)


def table(train_loss=DOWN, **columns):
    columns = {k: v if isinstance(v, list) else [v] * len(train_loss) for k, v in columns.items()}
    return pd.DataFrame({"train_loss": train_loss, **columns})


@pytest.mark.parametrize(
    ("curves", "n_classes", "names"),
    [
        # at or below chance, beside a good training
        (table(train_acc=GOOD_TRAINING, valid_loss=RISING, valid_acc=0.25), None, [NOT_ALIKE]),
        (table(train_acc=GOOD_TRAINING, valid_loss=RISING, valid_acc=0.30), None, [NOT_ALIKE]),
        (table(train_acc=GOOD_TRAINING, valid_loss=RISING, valid_acc=0.0), None, [NOT_ALIKE]),
        (table(train_acc=GOOD_TRAINING, valid_loss=RISING, valid_acc=0.25), 4, [NOT_ALIKE]),
        (table(valid_loss=RISING, valid_acc=0.25), 4, [NOT_ALIKE]),
        (table(valid_loss=RISING), 4, [NOT_ALIKE]),
        (table(valid_loss=math.log(4), valid_acc=0.25), None, [NOT_ALIKE]),
        (table(falling(12), valid_loss=math.log(10), valid_acc=0.1), None, [NOT_ALIKE]),
        (table(falling(12), valid_loss=math.log(10)), None, [NOT_ALIKE]),
        (table(falling(12), valid_loss=math.log(10)), 10, [NOT_ALIKE]),
        # far above log K from the first epoch on: only some classes are numbered apart
        (table(train_acc=GOOD_TRAINING, valid_loss=[3.0] * 12, valid_acc=0.5), 4, [NOT_ALIKE]),
        # overfitting, even of a model that is poor on other data
        (
            table(
                falling(12, start=2.2),
                train_acc=GOOD_TRAINING,
                valid_loss=[1.9, 1.6, *(1.7 + 0.1 * k for k in range(10))],
                valid_acc=0.4,
            ),
            10,
            ["overfitting"],
        ),
        # overfitting of a model that could classify before the fit
        (
            table(
                [0.1 * 0.7**k for k in range(12)],
                train_acc=[0.96] * 3 + [1.0] * 9,
                valid_loss=[1.5 + 0.1 * k for k in range(12)],
                valid_acc=0.65,
            ),
            None,
            ["overfitting"],
        ),
        # regressions and losses of your own have no chance level
        (table(falling(12, 300), valid_loss=[290.0, 280, *range(285, 405, 12)]), None,
         ["overfitting"]),
        (table([-1.0 - k for k in range(12)], valid_loss=[-1.0] * 6 + [-0.9] * 6), None, []),
        # a validation that is good, and one beside a training that isn't
        (table(train_acc=GOOD_TRAINING, valid_loss=falling(12, 1.2, rate=0.5), valid_acc=0.9),
         4, []),
        (table([1.39] * 12, train_acc=0.25, valid_loss=1.39, valid_acc=0.25), 4, ["underfitting"]),
        # each batch has a single class
        (table([1.9] * 12, train_acc=0.0, valid_loss=1.5, valid_acc=0.25), None,
         ["training data not shuffled"]),
        # a cross-entropy below 0
        (table([-1.0 * 2**k for k in range(12)], train_acc=0.3), None, ["negative loss"]),
        (table([1.0, 0.5, -3.0], train_acc=0.3), None, ["negative loss"]),
        (table(valid_loss=[1.0] * 11 + [-4.0], valid_acc=0.3), None, ["negative loss"]),
    ],
)  # fmt: skip
def test_a_broken_validation_a_broken_loss_and_sorted_data_are_no_overfitting(
    curves, n_classes, names
):
    findings = diagnose(curves, n_classes)
    assert [f.name for f in findings] == names
    assert all(f.seen and f.why and f.advice for f in findings)


def easy_classes(n, seed):
    """Four classes of images, each with its own pattern."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 4
    patterns = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(9))
    return 0.5 * patterns[labels] + 0.5 * torch.rand(n, 3, 8, 8, generator=draw), labels


def normalised(images):
    return (images - 0.5) / 0.05


BREAK = {
    "nothing": lambda images, labels: (normalised(images), labels),
    "not normalised": lambda images, labels: (images, labels),
    "0..255, normalised": lambda images, labels: (normalised(images * 255), labels),
    "divided twice": lambda images, labels: (normalised(images / 255), labels),
    "inverted": lambda images, labels: (-normalised(images), labels),
    "shifted": lambda images, labels: (normalised(images), (labels + 1) % 4),
    "in another order": lambda images, labels: (normalised(images), 3 - labels),
    "without images": lambda images, labels: (normalised(images).roll(7, dims=0), labels),
}


@pytest.mark.parametrize("name", BREAK)
def test_real_runs_with_a_broken_validation_are_told_apart_from_healthy_ones(name):
    torch.manual_seed(0)
    model = cnnlab.small_resnet(4, width=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    trainer = cnnlab.Trainer(model, optimizer, device="cpu", progress=False)
    images, labels = easy_classes(96, 1)
    train = cnnlab.loader(TensorDataset(normalised(images), labels), 16, shuffle=True)
    valid = cnnlab.loader(TensorDataset(*BREAK[name](*easy_classes(64, 2))), 64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="pixel values run from")
        warnings.filterwarnings("ignore", message="training and validation images are on diff")
        history = trainer.fit(train, valid, epochs=12)
    for n_classes in (None, 4):
        names = {f.name for f in diagnose(history, n_classes)}
        assert "overfitting" not in names
        assert (NOT_ALIKE in names) == (name != "nothing")


def test_the_number_of_classes_must_be_one():
    for n in (1, 0, 2.5, "4"):
        with pytest.raises(ValueError, match="n_classes"):
            diagnose(table(), n)
    assert diagnose(History()) == []


@pytest.mark.parametrize("seed", range(20))
def test_a_healthy_run_gives_no_finding(seed):
    draw = torch.Generator().manual_seed(seed)
    noise = 1 + 0.02 * torch.randn(24, generator=draw)
    train = [v * n for v, n in zip(falling(24), noise.tolist(), strict=True)]
    valid = [v * n for v, n in zip(falling(24, floor=0.3), noise.flip(0).tolist(), strict=True)]
    assert diagnose(frame(train, valid)) == []


def test_a_tiny_rise_of_the_validation_loss_is_not_overfitting():
    valid = [*falling(10, rate=0.5, floor=0.05), 0.06, 0.07, 0.07]
    assert diagnose(frame(falling(13, rate=0.6, floor=0.02), valid)) == []


def test_a_short_run_is_not_judged_and_a_history_can_replace_its_table():
    assert diagnose(frame([2.5] * 5)) == []
    trainer = make(rate=1e-9)
    history = trainer.fit(DataLoader(dataset(), 16), epochs=8)
    assert (
        [f.name for f in diagnose(history)]
        == [f.name for f in diagnose(history.frame())]
        == ["underfitting"]
    )


def test_an_initial_loss_without_a_target_or_a_batch_is_refused():
    loss = nn.CrossEntropyLoss(ignore_index=9)
    with pytest.raises(ValueError, match="every target of the first ten batches is ignored"):
        initial_loss(net(), [(IMAGES, LABELS * 0 + 9)], loss)
    with pytest.raises(ValueError, match=r"gave no batch; pass a list or a cnnlab\.loader"):
        initial_loss(net(), iter([]), loss)


def test_a_batch_whose_targets_are_all_ignored_does_not_count_in_the_initial_loss():
    loss = nn.CrossEntropyLoss(ignore_index=9)
    model, batches = net(), [(IMAGES, LABELS), (IMAGES, LABELS * 0 + 9)]
    assert initial_loss(model, batches, loss) == initial_loss(model, batches[:1], loss)


def test_a_loss_that_is_no_number_is_no_passed_test():
    images, labels = IMAGES[:8], LABELS[:8]
    with pytest.warns(UserWarning, match="nan after 2 steps, so the model failed the test"):
        overfit_one_batch(net(), (images * math.nan, labels), nn.CrossEntropyLoss(), steps=2)
    ignored = torch.full((8,), -100)
    with pytest.raises(DataError, match="every target of this batch is ignored"):
        overfit_one_batch(net(), (images, ignored), nn.CrossEntropyLoss(), steps=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({"steps": v}, "steps must be a number of optimizer steps") for v in (0, -3, 2.5, "5")),
        *(({"lr": v}, "lr must be a positive number") for v in (0, -1, math.nan, math.inf, "0.1")),
    ],
)
def test_overfitting_one_batch_needs_steps_and_a_learning_rate(options, message):
    with pytest.raises(ValueError, match=message):
        overfit_one_batch(net(), (IMAGES[:8], LABELS[:8]), nn.CrossEntropyLoss(), **options)


def test_a_loss_class_is_told_to_be_created():
    with pytest.raises(TypeError, match="is the class CrossEntropyLoss: create it"):
        overfit_one_batch(net(), (IMAGES[:8], LABELS[:8]), nn.CrossEntropyLoss)


@pytest.mark.parametrize("before", [{}, {"other": torch.zeros(2)}, [torch.zeros(2)]])
def test_update_ratios_without_a_parameter_of_the_model_are_refused(before):
    with pytest.raises(ValueError, match="before has none of the model's parameters"):
        update_ratios(before, nn.Linear(2, 2))


def test_update_ratios_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"shape \(3,\), the parameter \(2,\)"):
        update_ratios({"bias": torch.zeros(3)}, nn.Linear(2, 2))


def test_diagnose_takes_a_trainer_and_names_anything_else():
    model = net()
    trainer = Trainer(model, torch.optim.SGD(model.parameters(), lr=0.1), progress=False)
    assert diagnose(trainer) == diagnose(trainer.history)
    for wrong in (None, "history", [{"epoch": 1}]):
        with pytest.raises(TypeError, match="diagnose takes the history of a run, got"):
            diagnose(wrong)

import copy
import math

import pandas as pd
import pytest
import torch
from test_trainer import IMAGES, LABELS, K, dataset, make, net, same
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from cnnlab.diagnose import (
    check_data,
    diagnose,
    grad_norms,
    initial_loss,
    nan_hunt,
    overfit_one_batch,
    update_ratios,
)


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
        (TensorDataset(GOOD[[0] * 20 + list(range(20))], CLASS_INDICES), ["duplicates"]),
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

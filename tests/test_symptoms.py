import copy
import math

import pytest
import torch
import torch.nn.functional as F
from test_diagnose import assert_nothing_changes
from test_trainer import IMAGES, LABELS, K, dataset
from torch import nn
from torch.utils.data import TensorDataset

from cnnlab.models import small_resnet
from cnnlab.symptoms import (
    VITALS,
    eval_outputs,
    judge,
    label_signal,
    moved_statistics,
    recalls,
    shared_share,
    silent_share,
    sums_to_one,
    unregistered_layers,
)


BATCH = IMAGES[:32], LABELS[:32]


@pytest.mark.parametrize(
    "measure",
    [
        lambda m: silent_share(m, BATCH, F.cross_entropy),
        lambda m: eval_outputs(m, IMAGES),
        lambda m: moved_statistics(m, m),
        lambda m: shared_share(dataset(), dataset()),
    ],
)
def test_measuring_changes_nothing(measure):
    assert_nothing_changes(measure)


def test_units_whose_relu_is_always_off_are_silent_even_if_frozen():
    model = small_resnet(K, width=4, norm="none")
    images, labels = torch.rand(16, 3, 32, 32), torch.arange(16) % K
    assert silent_share(model, (images, labels), F.cross_entropy) < 0.2
    with torch.no_grad():
        model.stem[0].bias -= 100
    frozen = model.requires_grad_(False)
    fraction = silent_share(frozen, (images, labels), F.cross_entropy)
    # At least the 4 filters of the stem get no gradient.
    assert fraction >= 4 / sum(len(p) for p in model.parameters() if p.ndim > 1)
    assert not any(p.requires_grad for p in frozen.parameters())


def test_shuffled_labels_have_no_signal():
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (300,), generator=draw)
    signs = torch.rand(4, 3, 16, 16, generator=draw)
    images = signs[labels] + 0.2 * torch.rand(300, 3, 16, 16, generator=draw)
    signal, chance = label_signal(images, labels)
    assert signal > 0.9
    assert chance == pytest.approx(torch.bincount(labels).max().item() / 300)
    shuffled, _ = label_signal(images, labels[torch.randperm(300, generator=draw)])
    assert shuffled < chance + 0.1


def test_an_image_counts_as_shared_only_if_every_byte_is_equal():
    images = torch.rand(10, 3, 4, 4)
    other = images[:5].clone()
    other[0, 0, 0, 0] += 1e-3
    assert shared_share(TensorDataset(images, images), TensorDataset(other, other)) == 0.8


def test_recalls_are_computed_per_class_and_nan_without_samples():
    logits = F.one_hot(torch.tensor([0, 0, 1, 1]), 3).float()
    per_class = recalls(logits, torch.tensor([0, 1, 1, 1]))
    assert per_class[:2] == pytest.approx([1, 2 / 3])
    assert math.isnan(per_class[2])


def test_only_statistics_of_frozen_layers_are_reported_and_only_if_they_moved():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    model[0].requires_grad_(False)
    before = copy.deepcopy(model)
    model[0].eval()
    model(torch.rand(8, 3, 4, 4))
    assert moved_statistics(before, model) == []
    model.train()
    model(torch.rand(8, 3, 4, 4))
    assert moved_statistics(before, model) == ["0.running_mean", "0.running_var"]


def test_probabilities_are_distinguished_from_logits():
    logits = torch.randn(20, K)
    assert sums_to_one(logits.softmax(dim=1))
    assert not sums_to_one(logits)
    assert not sums_to_one(logits.sigmoid())


HEALTHY = {
    "first_loss": 1.9,
    "log_classes": 1.8,
    "silent_share": 0.0,
    "label_signal": 0.9,
    "chance": 0.2,
    "log10_update_ratio": -2.0,
    "grad_norm_peak": 3.0,
    "sums_to_one": 0.0,
    "valid_acc": 0.9,
    "valid_acc_again": 0.9,
    "worst_recall": 0.8,
    "shared_share": 0.0,
    "moved_statistics": 0.0,
    "unregistered_layers": 0.0,
    "n_outputs": 4.0,
    "n_classes": 4.0,
    "lowest_output": -3.0,
}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("initial loss", {"first_loss": 30.0}),
        ("dead units", {"silent_share": 0.9}),
        ("labels without images", {"label_signal": 0.22}),
        ("steps too large", {"log10_update_ratio": -0.5}),
        ("steps too small", {"log10_update_ratio": -6.0}),
        ("exploding gradients", {"grad_norm_peak": 1e5}),
        ("softmax inside", {"sums_to_one": 1.0}),
        ("train-mode validation", {"valid_acc": 0.3}),
        ("missed class", {"worst_recall": 0.0}),
        ("leak", {"shared_share": 0.3}),
        ("frozen statistics move", {"moved_statistics": 4.0}),
        ("unregistered layers", {"unregistered_layers": 1.0}),
        ("too many outputs", {"n_outputs": 1000.0}),
        ("activation at the end", {"lowest_output": 0.0}),
        ("softmax inside", {"lowest_output": 0.0, "sums_to_one": 1.0}),
    ],
)
def test_each_symptom_gives_its_finding_and_a_healthy_run_gives_none(name, change):
    assert judge(HEALTHY) == []
    (finding,) = judge(HEALTHY | change)
    assert finding.name == name
    assert finding.seen
    assert finding.why
    assert finding.advice


def test_a_softmax_over_the_batch_is_an_activation_at_the_end():
    outputs = eval_outputs(nn.Sequential(nn.Flatten(), nn.Linear(192, K), nn.Softmax(0)), IMAGES)
    vitals = {"lowest_output": outputs.min().item(), "sums_to_one": float(sums_to_one(outputs))}
    assert [finding.name for finding in judge(vitals)] == ["activation at the end"]


def test_layers_in_lists_and_dictionaries_are_named_and_registered_ones_are_not():
    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = [nn.Linear(2, 2), nn.ReLU()]
            self.by_name = {"a": nn.Linear(2, 2)}
            self.sizes, self.activations = [1, 2], [nn.ReLU()]

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Inner()
            self.good = nn.ModuleList([nn.Linear(2, 2)])
            self.order = [self.good[0]]  # registered above

    assert unregistered_layers(Outer()) == ["inner.layers", "inner.by_name"]
    assert unregistered_layers(small_resnet(K, width=4)) == []


def test_missing_vital_signs_are_not_judged():
    assert judge({}) == []
    assert judge(dict.fromkeys(VITALS, math.nan)) == []
    assert set(HEALTHY) == set(VITALS)


def test_a_run_at_chance_is_not_reported_as_missing_a_class():
    assert judge(HEALTHY | {"valid_acc": 0.2, "valid_acc_again": 0.2, "worst_recall": 0.0}) == []


def test_a_weight_without_gradient_is_not_reported_as_a_small_step():
    names = [f.name for f in judge(HEALTHY | {"log10_update_ratio": -12.0, "silent_share": 1.0})]
    assert names == ["dead units"]

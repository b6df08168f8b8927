"""Class weights, balanced sampling, imbalance, label noise and stratified splits."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch.utils.data import DataLoader, TensorDataset

from cnnlab.data import (
    ImageSet,
    balanced_sampler,
    class_weights,
    imbalance,
    label_noise,
    loader,
    logit_adjustment,
)
from cnnlab.data.balance import stratified_split


counts_of = st.lists(st.integers(1, 30), min_size=2, max_size=6)


def labels_with(counts):
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


def numbered(counts):
    """Return images whose first pixel is their number."""
    labels = labels_with(counts)
    images = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)
    return ImageSet(images, labels, [f"class {k}" for k in range(len(counts))])


@given(counts=counts_of)
@settings(deadline=None)
def test_balanced_weights_are_those_of_scikit_learn(counts):
    labels = labels_with(counts).numpy()
    expected = compute_class_weight("balanced", classes=np.arange(len(counts)), y=labels)
    torch.testing.assert_close(class_weights(labels), torch.tensor(expected).float())


@given(counts=counts_of, beta=st.sampled_from([0.0, 0.9, 0.999]))
@settings(deadline=None)
def test_effective_weights_follow_the_effective_number_of_samples(counts, beta):
    # The effective number of n samples is 1 + beta + ... + beta**(n - 1).
    effective = torch.tensor([sum(beta**i for i in range(n)) for n in counts])
    weights = class_weights(labels_with(counts), "effective", beta=beta)
    ratios = weights * effective
    torch.testing.assert_close(ratios, ratios[:1].expand_as(ratios), rtol=1e-4, atol=0)
    torch.testing.assert_close(weights[labels_with(counts)].mean(), torch.tensor(1.0))


@pytest.mark.parametrize("labels", [[0, 2, 2], [1, 1], []])
def test_a_class_without_samples_is_an_error(labels):
    for weigh in (class_weights, balanced_sampler):
        with pytest.raises(ValueError, match="no sample of class"):
            weigh(torch.tensor(labels, dtype=torch.int64))


def test_an_unknown_scheme_or_beta_is_an_error():
    with pytest.raises(ValueError, match="'balanced' or 'effective', got 'fair'"):
        class_weights([0, 1], "fair")
    with pytest.raises(ValueError, match="less than 1, got 1"):
        class_weights([0, 1], "effective", beta=1)


def test_balanced_sampling_weights_samples_so_that_classes_are_equally_frequent():
    labels = labels_with([900, 90, 10])
    sampler = balanced_sampler(labels, seed=3)
    assert len(sampler.weights) == len(sampler) == 1000
    sums = torch.tensor([sampler.weights[labels == k].sum() for k in range(3)])
    torch.testing.assert_close(sums, torch.ones(3, dtype=sums.dtype), check_dtype=False)
    drawn = torch.bincount(labels[sampler.order(0)], minlength=3)
    # 1000 draws at 1/3: standard deviation 15; 75 is five of them.
    assert (drawn - 1000 / 3).abs().max() < 75


def test_balanced_sampling_depends_only_on_seed_and_epoch():
    labels = [0, 0, 0, 0, 0, 0, 1]
    orders = {
        (seed, epoch): balanced_sampler(labels, seed).order(epoch).tolist()
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len({str(order) for order in orders.values()}) == 4
    sampler = balanced_sampler(labels, 1)
    dataset = TensorDataset(torch.arange(7))
    for epoch in (0, 1):
        (torchs,) = next(iter(DataLoader(dataset, 7, sampler=balanced_sampler(labels, 1))))
        assert torchs.tolist() == orders[1, 0]
        assert list(sampler) == orders[1, epoch]
    assert [x.tolist() for (x,) in loader(dataset, 7, sampler=balanced_sampler(labels, 1))] == [
        orders[1, 0]
    ]


@given(data=st.data(), counts=counts_of, seed=st.integers(0, 3))
@settings(deadline=None, max_examples=40)
def test_imbalance_keeps_the_requested_number_of_each_class(data, counts, seed):
    dataset = numbered(counts)
    requested = [data.draw(st.integers(0, n)) for n in counts]
    imbalanced = imbalance(dataset, requested, seed)
    assert torch.bincount(imbalanced.labels, minlength=len(counts)).tolist() == requested
    numbers = imbalanced.images[:, 0, 0, 0].long()
    assert len(numbers.unique()) == len(numbers)
    assert torch.equal(dataset.labels[numbers], imbalanced.labels)


def test_imbalance_takes_class_names_and_names_classes_that_are_too_small():
    dataset = numbered([3, 2])
    imbalanced = imbalance(dataset, {"class 1": 1, "class 0": 2})
    assert imbalanced.labels.tolist() == [0, 0, 1]
    with pytest.raises(ValueError, match=r"more images than there are of class 1"):
        imbalance(dataset, [3, 5])
    with pytest.raises(ValueError, match="one number, 0 or more, per class"):
        imbalance(dataset, [3])


@given(counts=counts_of, rate=st.floats(0, 1), seed=st.integers(0, 3))
@settings(deadline=None, max_examples=40)
def test_label_noise_changes_exactly_its_fraction_of_the_labels(counts, rate, seed):
    dataset = numbered(counts)
    before = dataset.labels.clone()
    noisy = label_noise(dataset, rate, seed)
    assert int((noisy.labels != before).sum()) == round(rate * len(before))
    assert torch.equal(noisy.clean_labels, before)
    assert torch.equal(dataset.labels, before)
    assert torch.equal(noisy.labels, label_noise(dataset, rate, seed).labels)


@pytest.mark.parametrize("true", [0, 3])
def test_wrong_labels_are_spread_evenly_over_the_other_classes(true):
    labels = torch.full((3000,), true)
    dataset = ImageSet(torch.zeros(3000, 1, 1, 1, dtype=torch.uint8), labels, "abcd")
    counts = torch.bincount(label_noise(dataset, 1.0).labels, minlength=4).tolist()
    assert counts.pop(true) == 0
    # 3000 draws at 1/3: standard deviation 26; 130 is five of them.
    assert max(abs(n - 1000) for n in counts) < 130


def test_noise_added_twice_keeps_the_clean_labels_through_a_selection():
    dataset = numbered([4, 4])
    twice = label_noise(label_noise(dataset, 0.5, 0), 0.5, 1).select([7, 0, 3])
    assert twice.clean_labels.tolist() == [1, 0, 0]


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan")])
def test_a_rate_outside_zero_to_one_is_an_error(rate):
    with pytest.raises(ValueError, match="rate of label noise must be between 0 and 1"):
        label_noise(numbered([2, 2]), rate)


@given(counts=counts_of, fraction=st.floats(0.05, 0.6), seed=st.integers(0, 3))
@settings(deadline=None, max_examples=60)
def test_a_stratified_split_is_a_partition_in_proportion(counts, fraction, seed):
    labels = labels_with(counts)
    n = round(fraction * len(labels))
    rest, second = stratified_split(labels, n, seed)
    assert sorted(rest.tolist() + second.tolist()) == list(range(len(labels)))
    assert len(torch.bincount(labels[rest]).nonzero()) == len(counts)
    assert len(second) <= n
    if min(counts) > 2:
        assert len(second) == n
        quota = n * torch.tensor(counts) / len(labels)
        n_second = torch.bincount(labels[second], minlength=len(counts))
        assert (n_second - quota).abs().max() < 1


@given(counts=counts_of, tau=st.floats(0, 3))
@settings(deadline=None)
def test_adjusted_probabilities_are_those_of_equally_frequent_classes(counts, tau):
    # Bayes: p(class | image) is proportional to p(image | class) times the frequency of the class.
    frequency = torch.tensor(counts, dtype=torch.float64) / sum(counts)
    likelihood = torch.rand(7, len(counts), dtype=torch.float64)
    logits = (likelihood * frequency**tau).log()
    adjusted = (logits - logit_adjustment(labels_with(counts), tau)).softmax(dim=1)
    torch.testing.assert_close(
        adjusted, likelihood / likelihood.sum(dim=1, keepdim=True), rtol=1e-5, atol=1e-6
    )


def test_label_noise_needs_a_second_class():
    with pytest.raises(ValueError, match="at least two classes, but there is 1"):
        label_noise(numbered([4]), 0.5)

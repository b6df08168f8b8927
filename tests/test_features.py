"""Compare features, probes and retrieval with their definitions."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_trainer import K, batches, dataset, make, net, same
from torch import nn
from torch.utils.data import DataLoader, SubsetRandomSampler, WeightedRandomSampler

from cnnlab.data.loaders import loader
from cnnlab.errors import DataError
from cnnlab.models import replace_head, small_resnet
from cnnlab.transfer import extract_features, linear_probe, retrieval


def resnet(**options):
    torch.manual_seed(0)
    return small_resnet(K, width=4, **options)


# --- features -------------------------------------------------------------------------------------


def test_features_are_the_input_of_the_head_for_every_image_in_order():
    model = resnet(dropout=0.5)
    make(model).fit(batches(), epochs=1)
    model.train()
    modes = [m.training for m in model.modules()]
    before = copy.deepcopy(model.state_dict())
    train = loader(dataset(), 8, shuffle=True)
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    features, labels = extract_features(model, train)
    assert torch.equal(torch.rand(2), expected)
    assert [m.training for m in model.modules()] == modes
    assert same(before, model.state_dict())
    assert train.epoch == 0
    assert not model.head.linear._forward_pre_hooks
    images, classes = dataset().tensors
    with torch.no_grad():
        torch.testing.assert_close(features, model.eval().features(images))
    assert torch.equal(labels, classes)
    assert (features.dtype, features.shape) == (torch.float32, (46, 16))


def test_features_of_any_model_are_the_input_of_its_last_linear_layer():
    model = replace_head(net(dropout=0.0), 9, dropout=0.5)
    features, _ = extract_features(model, loader(dataset(), 7))
    with torch.no_grad():
        torch.testing.assert_close(features, model.eval()[:6](dataset().tensors[0]))


def test_models_without_a_head_and_empty_loaders_are_refused():
    with pytest.raises(ValueError, match="no linear layer"):
        extract_features(nn.Sequential(nn.Conv2d(3, 4, 1)), batches())
    with pytest.raises(ValueError, match="gave no batch"):
        extract_features(net(), [])

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, images):
            return self.linear(self.linear(images.mean((1, 2))))

    with pytest.raises(ValueError, match="ran 12 times for 6 batches"):
        extract_features(Twice(), loader(dataset(), 8))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: torch.compile(model, backend="eager"),
        lambda model: (model.compile(backend="eager"), model)[1],
    ],
    ids=["wrapped", "in place"],
)
def test_a_compiled_model_has_the_features_of_a_plain_one(wrap):
    model = resnet()
    expected, _ = extract_features(model, batches())
    compiled = wrap(copy.deepcopy(model))
    with torch.no_grad():
        compiled.eval()(dataset().tensors[0][:8])  # compiled before the hook is there
    features, _ = extract_features(compiled, batches())
    assert torch.equal(features, expected)


def test_features_are_read_in_the_order_of_the_data_set_whatever_the_loader():
    model, data = resnet(), dataset()
    expected, labels = extract_features(model, [data.tensors])
    for shuffled in (
        DataLoader(data, 8, shuffle=True, drop_last=True),
        DataLoader(data, 8, sampler=WeightedRandomSampler(torch.ones(len(data)), 5)),
        loader(data, 8, shuffle=True, drop_last=True),
    ):
        features, found = extract_features(model, shuffled)
        torch.testing.assert_close(features, expected)
        assert torch.equal(found, labels)
    with pytest.raises(DataError, match="SubsetRandomSampler decides"):
        extract_features(model, DataLoader(data, 8, sampler=SubsetRandomSampler([3, 1])))


def test_features_of_images_without_labels_of_arrays_and_of_other_number_types():
    model, (images, labels) = resnet(), dataset().tensors
    expected, _ = extract_features(model, [(images, labels)])
    for batch in (images, (images,), [images], images.numpy(), images.double()):
        features, found = extract_features(model, [batch])
        assert torch.equal(features, expected)
        assert found.shape == (0,)
    features, found = extract_features(model, [(images.numpy(), labels.numpy())])
    assert torch.equal(features, expected)
    assert torch.equal(found, labels)
    for wrong in (
        (images * 255).byte(),  # the normalisation would make floats of them without a word
        (images.permute(0, 2, 3, 1), labels),
        (images, labels[:-1]),
    ):
        with pytest.raises(DataError, match="images"):
            extract_features(model, [wrong])
    with pytest.raises(DataError, match="only 1 of 2 batches"):
        extract_features(model, [(images, labels), images])


class HeadFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.hidden = nn.Linear(6, K), nn.Linear(8, 6)
        self.body = net(dropout=0.0)[:5]

    def forward(self, images):
        return self.fc(self.hidden(self.body(images)).relu())


def test_the_head_is_the_layer_that_runs_last_not_the_one_written_down_last():
    model = HeadFirst().eval()
    features, _ = extract_features(model, batches())
    with torch.no_grad():
        expected = model.hidden(model.body(dataset().tensors[0])).relu()
    torch.testing.assert_close(features, expected)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused_with_their_rows(value):
    x, y = torch.rand(6, 2), torch.arange(6) % 2
    bad = x.clone()
    bad[4, 1] = value
    for call in (
        lambda: linear_probe((bad, y), (x, y)),
        lambda: linear_probe((x, y), (bad, y)),
        lambda: retrieval(bad, y, x, y, k=1),
        lambda: retrieval(x, y, bad, y, k=1),
        lambda: retrieval(x, y, x, bad[:, 1], k=1),
    ):
        with pytest.raises(ValueError, match=r"1 of 6 rows.*NaN or infinite.*at rows 4"):
            call()


def test_probe_and_retrieval_take_lists_arrays_and_series():
    x, y = torch.rand(20, 3), torch.arange(20) % 2
    shuffled = pd.Series(y.numpy(), index=np.random.default_rng(0).permutation(20))
    for labels in (y.tolist(), y.numpy().astype(np.uint8), shuffled):
        assert linear_probe((x.tolist(), labels), (x.numpy(), labels)) == linear_probe(
            (x, y), (x, y)
        )
        assert retrieval(x, labels, x.numpy(), labels, k=3) == retrieval(x, y, x, y, k=3)
    with pytest.raises(ValueError, match=r"must be numbers.*classes\.index"):
        linear_probe((x, ["cat"] * 20), (x, y))


@pytest.mark.parametrize("kind", ["logistic", "svm"])
def test_a_linear_probe_does_not_depend_on_the_units_and_offsets_of_the_features(kind):
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 3
    features = torch.randn(120, 4, generator=g) + 4 * F.one_hot(labels, 4)
    rescaled = features * torch.tensor([1e-4, 1.0, 1e3, 1.0]) + torch.tensor(
        [0.0, 100.0, 0.0, -5.0]
    )
    scores = []
    for x in (features, rescaled):
        train, test = (x[:80], labels[:80]), (x[80:], labels[80:])
        scores += [linear_probe(train, test, kind), linear_probe(train, test, kind)]
    assert min(scores) > 0.9
    assert len(set(scores)) == 1
    arrays = [tuple(tensor.numpy() for tensor in pair) for pair in (train, test)]
    assert linear_probe(*arrays, kind) == scores[0]
    nonsense = torch.randn(120, 4, generator=g)
    assert linear_probe((nonsense[:80], labels[:80]), (nonsense[80:], labels[80:]), kind) < 0.6


def test_a_linear_probe_is_standardised_with_the_training_features_only():
    train = (torch.tensor([[0.0], [1.0], [2.0], [3.0]]), torch.tensor([0, 0, 1, 1]))
    # Standardised with its own mean and standard deviation, it would lie on both sides.
    shifted = torch.tensor([[10.0], [11.0]])
    assert linear_probe(train, (shifted, torch.tensor([1, 1]))) == 1.0


def test_linear_probe_refuses_arguments_that_do_not_fit():
    x, y = torch.rand(6, 2), torch.arange(6) % 2
    with pytest.raises(ValueError, match="'logistic' or 'svm'"):
        linear_probe((x, y), (x, y), "forest")
    with pytest.raises(ValueError, match="train has 2 features per image, but test has 1"):
        linear_probe((x, y), (x[:, :1], y))
    with pytest.raises(ValueError, match="all labels in train are 0"):
        linear_probe((x, y * 0), (x, y))
    with pytest.raises(ValueError, match=r"features must be \(N, D\)"):
        linear_probe((x, y[:5]), (x, y))


# --- retrieval ------------------------------------------------------------------------------------


def reference(query, query_labels, gallery, gallery_labels, k, exclude_self):
    """Compute the metrics by definition, one query and one neighbour at a time."""
    rows = []
    for i, q in enumerate(query):
        similar = [
            (-float(q @ g / max(np.linalg.norm(q) * np.linalg.norm(g), 1e-12)), j)
            for j, g in enumerate(gallery)
            if not (exclude_self and i == j)
        ]
        relevant = [query_labels[i] == gallery_labels[j] for _, j in sorted(similar)]
        total = sum(relevant)
        if total:
            hits = [n for n in range(1, k + 1) if relevant[n - 1]]
            average = sum(sum(relevant[:n]) / n for n in hits) / min(k, total)
            rows.append([len(hits) / k, len(hits) / total, bool(hits), average])
    return np.mean(rows, axis=0), len(rows)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(2, 12), st.integers(1, 4), st.booleans(), st.data())
def test_retrieval_agrees_with_the_definitions_of_its_metrics(
    seed, n_gallery, n_classes, exclude_self, data
):
    rng = np.random.default_rng(seed)
    n_query = n_gallery if exclude_self else int(rng.integers(1, 6))
    gallery = rng.normal(size=(n_gallery, 3))
    query = gallery if exclude_self else rng.normal(size=(n_query, 3))
    gallery_labels = rng.integers(n_classes, size=n_gallery)
    query_labels = gallery_labels if exclude_self else rng.integers(n_classes, size=n_query)
    k = data.draw(st.integers(1, n_gallery - exclude_self))
    arguments = list(map(torch.from_numpy, (query, query_labels, gallery, gallery_labels)))
    if not any(sum(gallery_labels == label) > exclude_self for label in query_labels):
        with pytest.raises(ValueError, match="no query has"):
            retrieval(*arguments, k=k, exclude_self=exclude_self)
        return
    expected, n_queries = reference(query, query_labels, gallery, gallery_labels, k, exclude_self)
    result = retrieval(*arguments, k=k, exclude_self=exclude_self)
    metrics = [result.precision, result.recall, result.hit_rate, result.mean_ap]
    assert metrics == pytest.approx(list(expected), rel=1e-6)
    assert result.n_queries == n_queries
    assert result.neighbours.shape == (n_query, k)


def test_a_query_is_excluded_by_its_index_but_its_duplicate_is_not():
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    labels = torch.tensor([0, 0, 1, 1])
    result = retrieval(features, labels, features, labels, k=1, exclude_self=True)
    assert result.neighbours[:2].tolist() == [[1], [0]]
    # Of several equally similar items, the first.
    assert result.neighbours[2:].tolist() == [[0], [2]]
    assert result.recall == 0.75  # each query has one relevant item
    # Without exclude_self every query retrieves itself.
    assert retrieval(features, labels, features, labels, k=1).precision == 1.0


def test_many_queries_are_computed_in_chunks():
    g = torch.Generator().manual_seed(0)
    gallery, query = torch.randn(20, 3, generator=g), torch.randn(2500, 3, generator=g)
    result = retrieval(query, torch.zeros(2500), gallery, torch.zeros(20), k=3)
    nearest = F.cosine_similarity(query[:, None], gallery[None], dim=2).topk(3).indices
    assert torch.equal(result.neighbours, nearest)
    labels = torch.zeros(2500)
    others = retrieval(query, labels, query, labels, k=3, exclude_self=True).neighbours
    assert not (others == torch.arange(2500)[:, None]).any()


def test_retrieval_refuses_arguments_that_do_not_fit():
    x, y = torch.rand(5, 2), torch.arange(5) % 2
    for k, exclude_self, message in (
        (0, False, "between 1 and 5"),
        (6, False, "between 1 and 5"),
        (5, True, "between 1 and 4"),
    ):
        with pytest.raises(ValueError, match=message):
            retrieval(x, y, x, y, k=k, exclude_self=exclude_self)
    with pytest.raises(ValueError, match="4 queries and 5 items"):
        retrieval(x[:4], y[:4], x, y, k=1, exclude_self=True)
    with pytest.raises(ValueError, match="queries have 2 features, but the gallery has 1"):
        retrieval(x, y, x[:, :1], y, k=1)

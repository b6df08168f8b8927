"""What the features of a network are worth without training it further: take them, probe them, retrieve by them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab.batches import in_order
from cnnlab.models.parts import last_linear
from cnnlab.modes import eval_mode
from cnnlab.rng import preserved


Labelled = tuple[Any, Any]  # features (N, D) and labels (N,): tensors or numpy arrays


def extract_features(model: nn.Module, loader: Iterable) -> tuple[Tensor, Tensor]:
    """Return what the last linear layer of a model receives, for each image, and the labels.

    Runs in evaluation mode and leaves no trace: modes, statistics and random generators stay as they are.

    Args:
        model: any classifier with a linear head.
        loader: yields (images, labels). A `cnnlab.loader` is read in dataset order and to its end, even if it
            shuffles for training; give it images without augmentation.

    Returns:
        Features, float32 (N, D), and labels, (N,), on the CPU.

    Raises:
        ValueError: there is no linear layer, or it is not used once a batch, or there is no batch.

    >>> from cnnlab.models import small_resnet
    >>> batches = [(torch.rand(5, 3, 32, 32), torch.arange(5))]
    >>> features, labels = extract_features(small_resnet(10, width=4), batches)
    >>> features.shape, labels.shape
    (torch.Size([5, 16]), torch.Size([5]))
    """
    _, head = last_linear(model)
    rows: list[Tensor] = []
    labels: list[Tensor] = []
    handle = head.register_forward_pre_hook(
        lambda module, inputs: rows.append(inputs[0].detach().flatten(1).float().cpu())
    )
    try:
        with preserved(), torch.no_grad(), eval_mode(model):
            for images, targets in in_order(loader):
                model(images.to(head.weight.device))
                labels.append(targets.cpu())
    finally:
        handle.remove()
    if not labels:
        raise ValueError("the loader to take features from gave no batch; its data set is empty")
    if len(rows) != len(labels):
        raise ValueError(
            f"the last linear layer of {type(model).__name__} ran {len(rows)} times for {len(labels)} batches, "
            "so its input is not the features of the images"
        )
    return torch.cat(rows), torch.cat(labels)


def linear_probe(
    train: Labelled, test: Labelled, kind: Literal["logistic", "svm"] = "logistic"
) -> float:
    """Return the accuracy on `test` of a linear classifier fitted to `train`: how far features alone go.

    Each feature is centred and scaled by its mean and deviation in `train`. The same data give the same number.

    Args:
        train: features (N, D) and labels (N,), from `extract_features`.
        test: likewise; it plays no part in the fit.
        kind: `"logistic"` regression (softmax) or a linear `"svm"` (one against the rest, squared hinge loss),
            both with scikit-learn's standard penalty, C = 1.

    Raises:
        ValueError: the kind is unknown, shapes do not fit, or `train` has a single class.

    Alain & Bengio 2016, https://arxiv.org/abs/1610.01644.

    >>> features = torch.tensor([[0.0], [0.1], [5.0], [5.1]])
    >>> linear_probe((features, torch.tensor([0, 0, 1, 1])), (torch.tensor([[4.0]]), torch.tensor([1])))
    1.0
    """
    if kind not in ("logistic", "svm"):
        raise ValueError(f"kind may be 'logistic' or 'svm', got {kind!r}")
    (x, y), (x_test, y_test) = map(_labelled, (train, test))
    if x.shape[1] != x_test.shape[1]:
        raise ValueError(f"train has {x.shape[1]} features, test {x_test.shape[1]}")
    if len(y.unique()) < 2:
        raise ValueError(f"the training labels hold one class, {y.unique().tolist()}; two or more")
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    classifier = LogisticRegression(max_iter=5000) if kind == "logistic" else LinearSVC(dual=False)
    probe = make_pipeline(StandardScaler(), classifier).fit(x.double().numpy(), y.numpy())
    return float(probe.score(x_test.double().numpy(), y_test.numpy()))


@dataclass(frozen=True)
class Retrieval:
    """How well the nearest neighbours of a query share its label; the numbers are means over the queries.

    Attributes:
        precision: share of right ones among the k nearest.
        recall: share of all right ones in the gallery that are among the k nearest.
        hit_rate: share of queries with a right one among the k nearest, called Recall@k in metric learning.
        mean_ap: mean average precision at k: the mean, over the right ones that k places could hold, of the
            precision at the place where each is found, 0 for one that is not.
        n_queries: queries that count: those whose label is in the gallery at all, themselves excluded.
        neighbours: indices into the gallery, nearest first, (Q, k), for all Q queries.
    """

    precision: float
    recall: float
    hit_rate: float
    mean_ap: float
    n_queries: int
    neighbours: Tensor = field(repr=False, compare=False)


def retrieval(
    query: Tensor,
    query_labels: Tensor,
    gallery: Tensor,
    gallery_labels: Tensor,
    *,
    k: int,
    exclude_self: bool = False,
) -> Retrieval:
    """Find the k images of a gallery that are most similar to each query, and count those of its class.

    Similarity is the cosine of the angle between features; of equal ones the earlier in the gallery comes first.

    Args:
        query: features (Q, D).
        query_labels: (Q,).
        gallery: features (G, D).
        gallery_labels: (G,).
        k: neighbours to look at.
        exclude_self: query i is item i of the gallery; it is neither found nor counted among those to be found.
            Others that look the same as it are.

    Raises:
        ValueError: k is larger than what can be found, shapes do not fit, or no query has a partner.

    >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    >>> labels = torch.tensor([0, 0, 1, 1])
    >>> retrieval(features, labels, features, labels, k=1, exclude_self=True)
    Retrieval(precision=1.0, recall=1.0, hit_rate=1.0, mean_ap=1.0, n_queries=4)
    """
    (query, query_labels), (gallery, gallery_labels) = map(
        _labelled, ((query, query_labels), (gallery, gallery_labels))
    )
    _check_retrieval(query, gallery, k, exclude_self)
    own = torch.arange(len(query)) if exclude_self else None
    neighbours = _nearest(query, gallery, k, own)
    right = (gallery_labels[neighbours] == query_labels[:, None]).double()  # (Q, k)
    n_right = (query_labels[:, None] == gallery_labels).sum(1) - int(exclude_self)  # (Q,)
    counts = n_right > 0
    if not counts.any():
        raise ValueError(
            "no query has an item of its class in the gallery, so nothing can be found"
        )
    right, n_right = right[counts], n_right[counts]
    precision_at = right.cumsum(1) / torch.arange(
        1, k + 1
    )  # (Q, k): among the first, first two, ...
    average = (precision_at * right).sum(1) / n_right.clamp(max=k)
    return Retrieval(
        precision=right.mean().item(),
        recall=(right.sum(1) / n_right).mean().item(),
        hit_rate=right.amax(1).mean().item(),
        mean_ap=average.mean().item(),
        n_queries=len(right),
        neighbours=neighbours,
    )


def _nearest(query: Tensor, gallery: Tensor, k: int, own: Tensor | None) -> Tensor:
    """The indices of the k most similar items, (Q, k), some thousand queries at a time."""
    targets, found = F.normalize(gallery, dim=1), []
    for rows in torch.arange(len(query)).split(1024):
        similarity = F.normalize(query[rows], dim=1) @ targets.T
        if own is not None:
            similarity[torch.arange(len(rows)), own[rows]] = -torch.inf
        found.append(similarity.sort(dim=1, descending=True, stable=True).indices[:, :k])
    return torch.cat(found)


def _check_retrieval(query: Tensor, gallery: Tensor, k: int, exclude_self: bool) -> None:
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(f"queries have {query.shape[1]} features, the gallery {gallery.shape[1]}")
    if exclude_self and len(query) != len(gallery):
        raise ValueError(
            f"exclude_self means that query i is item i of the gallery, but there are {len(query)} queries "
            f"and {len(gallery)} items"
        )
    available = len(gallery) - exclude_self
    if not 1 <= k <= available:
        raise ValueError(f"k must lie between 1 and the {available} items to be found, got {k}")


def _labelled(pair: Labelled) -> tuple[Tensor, Tensor]:
    """Features (N, D) and labels (N,) as tensors on the CPU."""
    features, labels = (torch.as_tensor(part).detach().cpu() for part in pair)
    if features.ndim != 2 or labels.shape != features.shape[:1] or not len(labels):
        raise ValueError(
            f"features must be (N, D) and labels (N,), got {tuple(features.shape)} and {tuple(labels.shape)}"
        )
    return features.float(), labels

"""Image retrieval by the cosine similarity of features."""

from dataclasses import dataclass, field
from operator import index

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnlab.errors import holds
from cnnlab.transfer.features import as_tensors


@dataclass(frozen=True)
class Retrieval:
    """The result of a retrieval; an item is relevant if it has the label of the query.

    The metrics are means over the queries that have at least one relevant item in the gallery.

    Attributes:
        precision: fraction of the k nearest items that are relevant (precision@k).
        recall: fraction of all relevant items that are among the k nearest (recall@k).
        hit_rate: fraction of queries with a relevant item among the k nearest. Papers on metric
            learning call this Recall@K.
        mean_ap: mean average precision at k. The average precision of a query is the sum of the
            precision at the rank of each relevant item among the k nearest, divided by the number
            of relevant items or by k, whichever is smaller.
        n_queries: number of queries with a relevant item in the gallery.
        neighbours: indices into the gallery, nearest first, int64 (Q, k), for all Q queries.
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
    """Find the k gallery items most similar to each query, and count those of the same class.

    Items are ranked by cosine similarity; of two equally similar items, the one with the smaller
    index comes first.

    Args:
        query: features (Q, D).
        query_labels: labels (Q,).
        gallery: features (G, D).
        gallery_labels: labels (G,).
        k: number of neighbours.
        exclude_self: whether query i is item i of the gallery. That item is then neither retrieved
            nor counted as relevant; duplicates of it at other indices are.

    Raises:
        ValueError: k is too large, the shapes don't fit, a feature is NaN, or no query has a
            relevant item.

    >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    >>> labels = torch.tensor([0, 0, 1, 1])
    >>> retrieval(features, labels, features, labels, k=1, exclude_self=True)
    Retrieval(precision=1.0, recall=1.0, hit_rate=1.0, mean_ap=1.0, n_queries=4)
    """
    (query, query_labels), (gallery, gallery_labels) = map(
        as_tensors, ((query, query_labels), (gallery, gallery_labels))
    )
    _check_retrieval(query, gallery, k, exclude_self)
    neighbours = _nearest(query, gallery, k, exclude_self)
    hits = (gallery_labels[neighbours] == query_labels[:, None]).double()  # (Q, k)
    n_relevant = (query_labels[:, None] == gallery_labels).sum(1) - int(exclude_self)  # (Q,)
    answerable = n_relevant > 0
    if not answerable.any():
        raise ValueError(
            "no query has an item of its class in the gallery; check that both use the same labels"
        )
    hits, n_relevant = hits[answerable], n_relevant[answerable]
    precision_at = hits.cumsum(1) / torch.arange(1, k + 1)  # at ranks 1 to k, (Q, k)
    average_precision = (precision_at * hits).sum(1) / n_relevant.clamp(max=k)
    return Retrieval(
        precision=hits.mean().item(),
        recall=(hits.sum(1) / n_relevant).mean().item(),
        hit_rate=hits.amax(1).mean().item(),
        mean_ap=average_precision.mean().item(),
        n_queries=len(hits),
        neighbours=neighbours,
    )


def _nearest(query: Tensor, gallery: Tensor, k: int, exclude_self: bool) -> Tensor:
    """Return the indices of the k most similar items, (Q, k), computed 1024 queries at a time."""
    items, neighbours = F.normalize(gallery, dim=1), []
    for rows in torch.arange(len(query)).split(1024):
        similarity = F.normalize(query[rows], dim=1) @ items.T
        if exclude_self:
            similarity[torch.arange(len(rows)), rows] = -torch.inf
        neighbours.append(similarity.sort(dim=1, descending=True, stable=True).indices[:, :k])
    return torch.cat(neighbours)


def _check_retrieval(query: Tensor, gallery: Tensor, k: int, exclude_self: bool) -> None:
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"queries have {query.shape[1]} features, but the gallery has {gallery.shape[1]}"
        )
    if exclude_self and len(query) != len(gallery):
        raise ValueError(
            "with exclude_self=True, query i must be item i of the gallery, but there are "
            f"{len(query)} queries and {len(gallery)} items"
        )
    available = len(gallery) - exclude_self
    if not holds(lambda: 1 <= index(k) <= available):
        raise ValueError(
            f"k must be between 1 and {available}, the number of items to search; got {k!r}"
        )

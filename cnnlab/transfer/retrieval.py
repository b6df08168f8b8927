"""Image retrieval by the cosine similarity of features."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnlab.transfer.features import as_labelled


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
        as_labelled, ((query, query_labels), (gallery, gallery_labels))
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

"""Extract the features of a frozen network, and fit a linear classifier to them."""

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab.errors import DataError
from cnnlab.models.parts import last_linear, uncompiled
from cnnlab.rng import fork_rng
from cnnlab.training.batches import evaluation_batches
from cnnlab.training.checks import check_batch
from cnnlab.training.checks.wording import few
from cnnlab.training.intake import Intake
from cnnlab.training.modes import (
    check_model,
    eager_mode,
    eval_mode,
    warn_if_stale_statistics,
)
from cnnlab.training.transforms import no_transform


# Features (N, D) and labels (N,), tensors or numpy arrays.
FeaturesAndLabels = tuple[Any, Any]


def extract_features(model: nn.Module, loader: Iterable) -> tuple[Tensor, Tensor]:
    """Return the input of the last linear layer for every image, and the labels.

    The model runs in evaluation mode. Its modes and batch-norm statistics and torch's random
    generators are left as they were.

    Args:
        model: any classifier with a linear head.
        loader: yields (images, labels), or images alone, without augmentation. A `cnnlab.loader` or
            a torch `DataLoader` is read completely and in data-set order, even if it shuffles for
            training.

    Returns:
        Features, float32 (N, D), and labels (N,), on the CPU; for images alone, labels (0,).

    Raises:
        ValueError: there is no linear layer, it doesn't run exactly once per batch, or an iterable
            without a length gives no batch.
        DataError: the loader is empty, the batches don't fit the model, or a sampler decides which
            samples the loader reads, so the rows have no order.
        TypeError: the model or the loader has the wrong type, such as a data set.

    >>> from cnnlab.models import small_resnet
    >>> batches = [(torch.rand(5, 3, 32, 32), torch.arange(5))]
    >>> features, labels = extract_features(small_resnet(10, width=4), batches)
    >>> features.shape, labels.shape
    (torch.Size([5, 16]), torch.Size([5]))
    """
    check_model(model)
    _, head = last_linear(uncompiled(model))
    device = head.weight.device
    intake = Intake(model, F.cross_entropy, no_transform, device, torch.preserve_format)
    features: list[Tensor] = []
    labels: list[Tensor] = []
    n_batches = 0
    warn_if_stale_statistics(model)
    handle = head.register_forward_pre_hook(
        lambda module, inputs: features.append(inputs[0].detach().flatten(1).float().cpu())
    )
    try:
        with fork_rng(), torch.no_grad(), eval_mode(model), eager_mode():
            for batch in evaluation_batches(loader, by_position=True):
                images = batch
                if isinstance(batch, list | tuple) and len(batch) > 1:
                    images, targets = check_batch(batch)
                    labels.append(targets.cpu())
                model(intake.prediction_images(images))
                n_batches += 1
    finally:
        handle.remove()
    if not n_batches:
        raise ValueError(
            "the loader gave no batch, so there are no features; is its data set empty?"
        )
    if len(features) != n_batches:
        raise ValueError(
            f"the last linear layer of {type(model).__name__} ran {len(features)} times for "
            f"{n_batches} batches, so its inputs are not the features of the images; it must run "
            "exactly once per batch"
        )
    if labels and len(labels) != n_batches:
        raise DataError(f"only {len(labels)} of {n_batches} batches have labels")
    return torch.cat(features), torch.cat(labels or [torch.empty(0, dtype=torch.int64)])


def linear_probe(
    train: FeaturesAndLabels, test: FeaturesAndLabels, kind: Literal["logistic", "svm"] = "logistic"
) -> float:
    """Fit a linear classifier to the features in `train` and return its accuracy on `test`.

    Each feature is standardised with its mean and standard deviation in `train`. The result is
    deterministic.

    Args:
        train: features (N, D) and labels (N,), from `extract_features`.
        test: likewise; not used in the fit.
        kind: `"logistic"` for logistic regression (softmax), or `"svm"` for a linear SVM (one
            versus rest, squared hinge loss); both with scikit-learn's default penalty, C = 1.

    Raises:
        ValueError: the kind is unknown, the shapes don't fit, a feature is NaN, or `train` has only
            one class.

    Alain & Bengio 2016, https://arxiv.org/abs/1610.01644.

    >>> train = torch.tensor([[0.0], [0.1], [5.0], [5.1]]), torch.tensor([0, 0, 1, 1])
    >>> linear_probe(train, (torch.tensor([[4.0]]), torch.tensor([1])))
    1.0
    """
    if kind not in ("logistic", "svm"):
        raise ValueError(f"kind must be 'logistic' or 'svm', got {kind!r}")
    (x, y), (x_test, y_test) = map(as_tensors, (train, test))
    if x.shape[1] != x_test.shape[1]:
        raise ValueError(
            f"train has {x.shape[1]} features per image, but test has {x_test.shape[1]}"
        )
    if not torch.equal(y, y.round()):
        raise ValueError("labels must be class indices, but those in train aren't whole numbers")
    if len(y.unique()) < 2:
        raise ValueError(
            f"a probe needs at least two classes, but all labels in train are {y[0].item():g}"
        )
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    classifier = LogisticRegression(max_iter=5000) if kind == "logistic" else LinearSVC(dual=False)
    probe = make_pipeline(StandardScaler(), classifier).fit(x.double().numpy(), y.numpy())
    return float(probe.score(x_test.double().numpy(), y_test.numpy()))


def as_tensors(pair: FeaturesAndLabels) -> tuple[Tensor, Tensor]:
    """Return features (N, D) and labels (N,) as finite tensors on the CPU; refuse anything else."""
    features, labels = map(_as_tensor, pair)
    if features.ndim != 2 or labels.shape != features.shape[:1] or not len(labels):
        raise ValueError(
            f"features must be (N, D) and labels (N,) with N > 0; got {tuple(features.shape)} and "
            f"{tuple(labels.shape)}"
        )
    features = features.float()
    bad = (~features.isfinite()).any(1) | ~labels.isfinite()
    if bad.any():
        raise ValueError(
            f"{int(bad.sum())} of {len(bad)} rows of features and labels are NaN or infinite, "
            f"at rows {few(bad.nonzero().flatten().tolist())}: leave these images out, or clean "
            "them"
        )
    return features, labels


def _as_tensor(values: Any) -> Tensor:
    """Return a tensor, an array or a series as a tensor on the CPU."""
    if isinstance(values, Tensor):
        return values.detach().cpu()
    array = np.array(values)  # a copy: the array of a pandas series is read-only
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"features and labels must be numbers, got {array.dtype}; number the classes: "
            "labels = [classes.index(name) for name in names]"
        )
    return torch.as_tensor(array)

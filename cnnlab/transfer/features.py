"""What the features of a network are worth without training it further: take them, probe them, retrieve by them."""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cnnlab.models.parts import last_linear
from cnnlab.rng import fork_rng
from cnnlab.training.batches import evaluation_batches
from cnnlab.training.modes import eval_mode


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
        with fork_rng(), torch.no_grad(), eval_mode(model):
            for images, targets in evaluation_batches(loader):
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
    (x, y), (x_test, y_test) = map(as_labelled, (train, test))
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


def as_labelled(pair: Labelled) -> tuple[Tensor, Tensor]:
    """Features (N, D) and labels (N,) as tensors on the CPU."""
    features, labels = (torch.as_tensor(part).detach().cpu() for part in pair)
    if features.ndim != 2 or labels.shape != features.shape[:1] or not len(labels):
        raise ValueError(
            f"features must be (N, D) and labels (N,), got {tuple(features.shape)} and {tuple(labels.shape)}"
        )
    return features.float(), labels

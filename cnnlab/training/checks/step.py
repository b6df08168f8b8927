"""Checks inside a step: outputs, loss, gradient."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab.errors import DataError, NonFiniteError
from cnnlab.losses import (
    are_probabilities,
    class_weights,
    ignore_index,
    is_binary,
    is_cross_entropy,
    is_elementwise,
    loss_name,
)
from cnnlab.training.checks.batch import check_class_indices
from cnnlab.training.checks.wording import dtype_name, few


def check_targets(
    outputs: Any, targets: Tensor, loss_fn: Any = F.cross_entropy, *, wait: bool = True
) -> None:
    """Compare targets with the outputs of the model, as far as the loss is known.

    A cross-entropy gets logits and class indices or soft targets; on CUDA anything else would kill
    the process. A loss that compares entry by entry gets two tensors of the same shape. Every other
    loss decides for itself.

    Args:
        outputs: of the model.
        targets: perhaps on the CPU, where reading them takes no waiting.
        loss_fn: the loss.
        wait: whether to read outputs and soft targets that are on a GPU. Class indices are always
            read.

    Raises:
        DataError: the outputs or the targets don't fit the loss.
    """
    if loss_fn is F.cross_entropy and _are_class_indices(outputs, targets):
        return
    if is_elementwise(loss_fn):
        _check_same_shape(_tensor(outputs, loss_fn), targets, loss_fn, wait)
    elif is_cross_entropy(loss_fn):
        _check_classification(_tensor(outputs, loss_fn), targets, loss_fn, wait)
    elif wait and loss_name(loss_fn) in ("KLDivLoss", "kl_div"):
        _check_log_probabilities(_tensor(outputs, loss_fn), loss_fn)


def _are_class_indices(logits: Any, targets: Tensor) -> bool:
    """Return whether targets are labels (N,) of logits (N, K), as nearly always."""
    if not isinstance(logits, Tensor) or logits.ndim != 2 or targets.dtype != torch.int64:
        return False
    if targets.ndim != 1 or targets.shape[0] != logits.shape[0] or logits.shape[1] < 2:
        return False
    labels = targets.tolist()
    return bool(labels) and min(labels) >= 0 and max(labels) < logits.shape[1]


def _tensor(outputs: Any, loss_fn: Any) -> Tensor:
    if isinstance(outputs, Tensor):
        return outputs
    what = type(outputs).__name__
    if isinstance(outputs, Mapping):
        what += f" with the keys {few(map(repr, outputs))}"
        part = f"outputs[{next(iter(outputs), 'out')!r}]"
    else:
        part = "outputs[0]" if isinstance(outputs, Sequence) else "outputs.logits"
    raise DataError(
        f"the model returns a {what}, but {loss_name(loss_fn)} takes a tensor. Choose a part of "
        f"it: loss_fn=lambda outputs, targets: F.cross_entropy({part}, targets)"
    )


def _check_same_shape(outputs: Tensor, targets: Tensor, loss_fn: Any, wait: bool) -> None:
    if targets.shape == outputs.shape and targets.is_floating_point():
        if not wait:
            return
        if is_binary(loss_fn) and (targets.min() < 0 or targets.max() > 1):
            raise DataError(
                f"{loss_name(loss_fn)} takes targets between 0 and 1, got {targets.min():g} to "
                f"{targets.max():g}: scale them, or use MSELoss for a regression"
            )
        if loss_name(loss_fn) in ("BCELoss", "binary_cross_entropy"):
            low, high = (float(x) for x in outputs.detach().aminmax())
            if low < 0 or high > 1:
                raise DataError(
                    f"{loss_name(loss_fn)} takes probabilities, but the outputs run from {low:.3g} "
                    f"to {high:.3g}: use BCEWithLogitsLoss, which takes logits"
                )
        return
    raise DataError(
        f"{loss_name(loss_fn)} compares entry by entry, so targets must be float of shape "
        f"{tuple(outputs.shape)}, as the outputs are; got {dtype_name(targets)} of shape "
        f"{tuple(targets.shape)}. Use targets.float() and view_as, or cross-entropy for class "
        "indices"
    )


def _check_classification(logits: Tensor, targets: Tensor, loss_fn: Any, wait: bool) -> None:
    _check_logits(logits, len(targets), loss_fn, wait)
    shape, ignored = tuple(targets.shape), ignore_index(loss_fn)
    n, k, *space = logits.shape
    if targets.shape == logits.shape and targets.is_floating_point():
        if ignored is not None and ignored >= 0:
            raise DataError(
                f"targets are mixed or soft, but ignore_index={ignored} needs class indices: leave "
                "out ignore_index, or the mixing"
            )
        if wait:
            _check_probabilities(targets)
        return
    if shape == (n, *space) and not targets.is_floating_point():
        check_class_indices(targets, k, ignored)
    elif space and shape[1:] != tuple(space):
        raise DataError(
            f"logits have shape {tuple(logits.shape)}, but targets {shape}: for one label per "
            "image logits must be (N, K), so put nn.AdaptiveAvgPool2d(1) and nn.Flatten() before "
            f"the last layer; for one label per pixel targets must be {(n, *space)}"
        )
    elif targets.shape == logits.shape:
        raise DataError(
            f"targets are one-hot {dtype_name(targets)} of shape {shape}: use targets.argmax(1) "
            "for class indices, or targets.float() for soft targets"
        )
    elif shape == (n, 1):
        raise DataError(f"targets have shape {(n, 1)}: use targets.squeeze(1), shape {(n,)}")
    elif targets.ndim != 1 + len(space):
        raise DataError(
            f"targets have shape {shape}; they must be class indices {(n, *space)} or soft targets "
            f"{tuple(logits.shape)}"
        )
    else:
        check_class_indices(targets, k, ignored)


def _check_logits(logits: Tensor, n_samples: int, loss_fn: Any, wait: bool) -> None:
    if logits.ndim < 2:
        raise DataError(
            f"logits must be (N, K), one score per class, got shape {tuple(logits.shape)}: "
            "flatten with nn.Flatten(), which keeps the batch dimension"
        )
    n, k = logits.shape[:2]
    if k == 1:
        raise DataError(
            f"the model has a single output (logits of shape {tuple(logits.shape)}), and the "
            "cross-entropy of a single class is always 0: use num_classes=2, or "
            "BCEWithLogitsLoss with float targets of the same shape"
        )
    weights = class_weights(loss_fn)
    if weights is not None and len(weights) != k:
        raise DataError(f"the loss has {len(weights)} class weights, but the model has {k} classes")
    if wait and "nll" in loss_name(loss_fn).lower():
        _check_log_probabilities(logits, loss_fn)
    if n != n_samples:
        raise DataError(
            f"the model returns {n} rows for {n_samples} samples: flatten with nn.Flatten(), or "
            "x.flatten(1), which keep the batch dimension"
        )


def _check_probabilities(targets: Tensor) -> None:
    if not are_probabilities(targets):
        sums = targets.sum(1)
        raise DataError(
            "soft targets of a cross-entropy are probabilities, at least 0 and with a sum of 1 "
            f"per sample; here they start at {targets.min():.3g}, with sums from {sums.min():.3g} "
            f"to {sums.max():.3g}. For several labels per image use BCEWithLogitsLoss"
        )


def _check_log_probabilities(outputs: Tensor, loss_fn: Any) -> None:
    outputs = outputs.detach().float()
    axes = [1] if is_cross_entropy(loss_fn) else range(1, outputs.ndim)
    deviations = {axis: outputs.logsumexp(axis) for axis in axes}
    sums = min(deviations.values(), key=lambda sums: float(sums.abs().max()))
    if sums.abs().max() > 0.05:
        raise DataError(
            f"{loss_name(loss_fn)} takes log-probabilities, whose exponentials sum to 1, but here "
            f"they sum to {sums.exp().flatten()[0]:.3g}: add log_softmax(1) at the end of the "
            "model, or use CrossEntropyLoss on its logits"
        )


def check_loss(loss: Any, outputs: Any = None) -> Tensor:
    """Return the loss as a scalar, if it has a gradient.

    Args:
        loss: what the loss function returned.
        outputs: of the model, to tell which of the two has lost the gradient.

    Raises:
        TypeError: the loss is not a single number, or doesn't depend on the model.
    """
    if isinstance(loss, Tensor) and loss.numel() == 1 and loss.requires_grad:
        return loss if loss.ndim == 0 else loss.reshape(())
    if isinstance(loss, Tensor) and loss.numel() == 1 and not torch.is_grad_enabled():
        raise TypeError(
            "gradients are switched off, so nothing can be trained: leave the torch.no_grad() or "
            "torch.inference_mode() block, or call torch.set_grad_enabled(True)"
        )
    got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)[:60]
    if isinstance(loss, Tensor) and loss.numel() == 1:
        if isinstance(outputs, Tensor) and not outputs.requires_grad:
            raise TypeError(
                "the outputs of the model have no gradient, so nothing can be trained: leave "
                "torch.no_grad(), torch.inference_mode() and detach() out of its forward pass"
            )
        got += " without a gradient"
    raise TypeError(
        f"loss_fn must return a scalar tensor computed from the outputs of the model, got {got}; "
        "use reduction='mean', and only torch's operations"
    )


def loss_value(loss: Any) -> float:
    """Return the number that a loss is, without asking for a gradient.

    Raises:
        TypeError: it isn't a single number.
    """
    try:
        return float(loss)
    except (TypeError, ValueError, RuntimeError):
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)[:60]
        raise TypeError(
            f"loss_fn must return a single number, got {got}; use reduction='mean'"
        ) from None


def check_finite(
    loss: float, grad_norm: float, model: nn.Module, images: Tensor | None, where: str
) -> None:
    """Refuse a step whose loss or gradient is NaN or infinite, and name what went wrong first.

    Args:
        loss: of the batch.
        grad_norm: of its whole gradient.
        model: with the gradients of the step.
        images: the batch; None if the step is over, and images and gradients are gone.
        where: the step, in words.

    Raises:
        NonFiniteError: the loss or the norm of the gradient is not finite.
    """
    if abs(loss) < float("inf") and abs(grad_norm) < float("inf"):
        return
    if images is None:
        raise NonFiniteError(
            f"{where}: the loss is {loss:.4g}, and the norm of the gradient {grad_norm:.4g}. No "
            "step was taken: weights and batch-norm statistics are as before this batch. Try a "
            "smaller learning rate, clip_norm=1.0 or warm-up; with an optimizer without fused=True "
            "this message names the cause"
        )
    gradients = [
        n for n, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()
    ]
    cause = _bad_images(images) or _bad_weights(model)
    if not cause and not abs(loss) < float("inf"):
        cause = f"the loss is {loss} although the images are finite"
    elif not cause:
        name = (gradients or ["the weights"])[0]
        cause = f"the loss is {loss:.4g}, but the gradient of {name} is not finite"
    raise NonFiniteError(
        f"{where}: {cause}. No step was taken: weights and batch-norm statistics are as before "
        "this batch. Try a smaller learning rate, clip_norm=1.0 or warm-up, or find the layer with "
        "cnnlab.diagnose.nan_hunt"
    )


def check_finite_evaluation(loss: float, model: nn.Module, images: Tensor, number: int) -> None:
    """Refuse an evaluation whose loss is NaN or infinite, and name the images.

    Raises:
        NonFiniteError: the loss of this batch is not finite.
    """
    if abs(loss) < float("inf"):
        return
    cause = _bad_images(images) or _bad_weights(model)
    raise NonFiniteError(
        f"evaluation, batch {number + 1}: "
        + (cause or f"the loss is {loss} although images and weights are finite")
        + ". The model is unchanged"
    )


def warn_if_not_finite(outputs: Tensor, model: nn.Module) -> None:
    """Warn about predictions that are NaN or infinite; -inf may be a class that is left out."""
    bad = ~(outputs < float("inf")).flatten(1).all(1)
    if not bad.any():
        return
    samples = bad.nonzero().flatten().tolist()
    cause = _bad_weights(model) or (
        "look at these images, and find the layer with cnnlab.diagnose.nan_hunt"
    )
    warnings.warn(
        f"the outputs for {len(samples)} of {len(outputs)} samples are NaN or infinite, and the "
        f"argmax of NaN is class 0 ({few(samples)} in the data set): {cause}",
        UserWarning,
        stacklevel=3,
    )


def _bad_images(images: Tensor) -> str:
    """Return which images of a batch have values that are not finite; "" if there is none."""
    if not images.is_floating_point():
        return ""
    bad = ~torch.isfinite(images.flatten(1))
    if not bad.any():
        return ""
    which = bad.any(1).nonzero().flatten().tolist()
    images_are = "image" if len(which) == 1 else "images"
    return (
        f"{int(bad.sum())} of {images.numel()} pixel values are NaN or infinite, in {images_are} "
        f"{few(which)} of the batch; clean the data"
    )


def _bad_weights(model: nn.Module) -> str:
    for name, p in model.named_parameters():
        if not torch.isfinite(p).all():
            return f"{name} was not finite before this step; start again from a checkpoint"
    return ""

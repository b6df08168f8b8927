"""Set training and evaluation mode, and restore it afterwards."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cnnlab.models.modes import eval_mode


def check_model(model: Any, name: str = "model") -> None:
    """Refuse anything but a module; an average and a trainer have theirs in `.model`.

    Raises:
        TypeError: it isn't one.
    """
    if not isinstance(model, nn.Module):
        inside = isinstance(getattr(model, "model", None), nn.Module)
        kind = type(model).__name__
        way_out = f"pass {kind.lower()}.model" if inside else "pass the network itself"
        raise TypeError(f"{name} must be a torch Module, got {kind}: {way_out}")


def train_mode(model: nn.Module) -> nn.Module:
    """Put a model in training mode, but its frozen batch-norm layers in evaluation mode.

    A batch-norm layer whose weight and bias are frozen uses its running statistics and doesn't
    update them, so a frozen part of the model computes the same in training as at inference. This
    is Keras' rule. It depends only on which parameters are frozen now, so neither `train()` nor a
    resumed run can undo it. A layer without parameters (`affine=False`) counts as frozen if the
    smallest module around it that has parameters is frozen.

    Args:
        model: changed in place.

    Returns:
        The same model.

    >>> norm = nn.BatchNorm2d(4).requires_grad_(False)
    >>> train_mode(nn.Sequential(norm, nn.ReLU())).training, norm.training
    (True, False)
    """
    model.train()
    for norm in frozen_norms(model):
        norm.eval()
    return model


def frozen_norms(model: nn.Module, frozen: bool = False) -> Iterator[nn.Module]:
    """Yield the batch-norm layers that `train_mode` leaves in evaluation mode.

    Args:
        model: the module to search.
        frozen: whether the module around it is frozen.
    """
    parameters = list(model.parameters())
    if parameters:
        frozen = not any(p.requires_grad for p in parameters)
    if frozen and isinstance(model, nn.modules.batchnorm._NormBase):
        yield model
    for child in model.children():
        yield from frozen_norms(child, frozen)


class Rollback:
    """Restore batch-norm statistics and the buffers of a loss if a `with` block raises an error.

    It can be entered many times, and searches the modules only once. `copies` and `restore` do the
    same for a step whose error is found later.
    """

    def __init__(self, model: nn.Module, loss_fn: Any = None) -> None:
        norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
        buffers = [b for norm in norms for b in norm.buffers(recurse=False)]
        buffers += loss_fn.buffers() if isinstance(loss_fn, nn.Module) else []
        # Those of one number type are copied in one call.
        types = {buffer.dtype for buffer in buffers}
        self.groups = [[b for b in buffers if b.dtype == dtype] for dtype in types]
        self.saved = [[b.clone() for b in group] for group in self.groups]

    def __enter__(self) -> None:
        if self.groups:
            _copy(self.groups, self.saved)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            _copy(self.saved, self.groups)

    @torch.no_grad()
    def copies(self) -> list[Tensor]:
        """Return the present values, joined to one vector per number type."""
        return [torch.cat([b.flatten() for b in group]) for group in self.groups]

    @torch.no_grad()
    def restore(self, copies: list[Tensor]) -> None:
        """Restore what `copies` returned."""
        for buffers, joined in zip(self.groups, copies, strict=True):
            for buffer, values in zip(buffers, joined.split([b.numel() for b in buffers])):  # noqa: B905
                buffer.copy_(values.view_as(buffer))


@torch.no_grad()
def _copy(sources: list[list[Tensor]], targets: list[list[Tensor]]) -> None:
    for group, copies in zip(targets, sources, strict=True):
        torch._foreach_copy_(group, copies)


@contextmanager
def unchanged_loss(loss_fn: Any) -> Iterator[None]:
    """Put a loss in evaluation mode in a `with` block, and restore it afterwards.

    A loss may keep a running value, such as the centre of each class or a count of its calls, and
    an evaluation must not change it.
    """
    if not isinstance(loss_fn, nn.Module):
        yield
        return
    saved = [(module, dict(vars(module)), dict(module._buffers)) for module in loss_fn.modules()]
    values = {name: buffer.clone() for name, buffer in loss_fn.named_buffers()}
    with eval_mode(loss_fn):
        try:
            yield
        finally:
            for module, attributes, buffers in saved:
                vars(module).update(attributes)
                module._buffers.clear()
                module._buffers.update(buffers)
            with torch.no_grad():
                for name, buffer in loss_fn.named_buffers():
                    buffer.copy_(values[name])


@contextmanager
def eager_mode() -> Iterator[None]:
    """Run compiled models uncompiled in a `with` block, so that their hooks are called."""
    if "torch._dynamo" not in sys.modules:  # nothing has been compiled
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def warn_if_stale_statistics(model: nn.Module) -> None:
    """Warn about averaged weights whose batch-norm statistics were never computed for them."""
    if any(getattr(module, "stale_statistics", False) for module in model.modules()):
        warnings.warn(
            "these averaged weights have the batch-norm statistics of another network: call "
            "cnnlab.averaging.update_bn(model, loader) before you evaluate them",
            UserWarning,
            stacklevel=4,
        )

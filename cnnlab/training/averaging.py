"""Average weights over the course of training, or predictions over several models.

Averaged weights need batch-norm statistics that fit them. The moving average (EMA) copies those of
the model in training; for the equal average (SWA), re-estimate them with `update_bn`.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from cnnlab.errors import NonFiniteError, holds
from cnnlab.rng import fork_rng
from cnnlab.training.batches import evaluation_batches
from cnnlab.training.hooks import Callback, Run
from cnnlab.training.intake import Intake
from cnnlab.training.modes import (
    Rollback,
    check_model,
    eager_mode,
    eval_mode,
    frozen_norms,
    warn_if_stale_statistics,
)
from cnnlab.training.transforms import no_transform


__all__ = [
    "EMA",
    "SWA",
    "ensemble",
    "update_bn",
]


Norm = nn.modules.batchnorm._BatchNorm


class _Average:
    """A copy of a model that follows it: parameters by averaging, buffers by copying.

    Attributes:
        model: the copy, in evaluation mode, not trainable; it shares no memory with the original.
    """

    def __init__(self, model: nn.Module) -> None:
        check_model(model)
        if any(is_lazy(p) for p in model.parameters()):
            raise ValueError(
                "the model has lazy layers, which have no weights yet: pass one batch through it "
                "before you average it"
            )
        self.source = model
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.model.zero_grad(set_to_none=True)  # nobody needs a copy of the gradients
        self._requires_grad: list[bool] | None = None
        self._record_frozen_norms(model)
        self._note_updates(0)

    @torch.no_grad()
    def _move_towards(self, source: nn.Module, fraction: float) -> None:
        """Move each parameter by a fraction of its distance to the source, and copy the buffers."""
        own, other = ([p.detach() for p in m.parameters()] for m in (self.model, source))
        modules = [list(m.modules()) for m in (self.model, source)]
        shapes = [[p.shape for p in parameters] for parameters in (own, other)]
        if shapes[0] != shapes[1] or len(modules[0]) != len(modules[1]):
            raise ValueError(
                f"the {type(self).__name__} was made before the model changed: create "
                f"{type(self).__name__}(model) after replace_head"
            )
        if self._follow_device(source):
            own = [p.detach() for p in self.model.parameters()]
        if own and fraction == 1:
            torch._foreach_copy_(own, other)  # even if the average isn't finite
        elif own:
            torch._foreach_lerp_(own, other, fraction)
        for mine, theirs in zip(*modules, strict=True):
            _copy_buffers(theirs, mine)
        self._record_frozen_norms(source)

    def _follow_device(self, source: nn.Module) -> bool:
        """Move the average if its source has moved since it was copied; return whether it did."""
        for mine, theirs in zip(_tensors(self.model), _tensors(source), strict=False):
            if mine.device != theirs.device:
                self.model.to(theirs.device)
                return True
            break  # the first one tells
        return False

    def _load(self, weights: dict[str, Tensor]) -> None:
        self.model.load_state_dict(weights)
        self._follow_device(self.source)
        self._record_frozen_norms(self.source)

    def _note_updates(self, n: int) -> None:
        """Mark an average without any update, which still is the model it was made from."""
        self.model.never_updated = n == 0  # type: ignore[assignment]

    def _is_finite(self) -> bool:
        return all(bool(p.isfinite().all()) for p in self.model.parameters())

    def _record_frozen_norms(self, source: nn.Module) -> None:
        """Mark the batch-norm layers that train in the source: nothing trains in the copy."""
        requires_grad = [p.requires_grad for p in source.parameters()]
        if requires_grad == self._requires_grad:
            return
        self._requires_grad = requires_grad
        frozen = set(frozen_norms(source))
        for mine, theirs in zip(self.model.modules(), source.modules(), strict=True):
            if isinstance(mine, Norm):
                mine.trains_in_source = theirs not in frozen  # type: ignore[assignment]


def _copy_buffers(source: nn.Module, target: nn.Module) -> None:
    """Copy the buffers of a single module, also those that it got after it was copied itself."""
    for name, buffer in source._buffers.items():
        own = target._buffers.get(name)
        if own is not None and buffer is not None and own.shape == buffer.shape:
            own.copy_(buffer)
        else:
            persistent = name not in source._non_persistent_buffers_set
            value = None if buffer is None else buffer.detach().clone()
            target.register_buffer(name, value, persistent=persistent)


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


class EMA(_Average):
    """Keep an exponential moving average of the weights: w_avg <- d w_avg + (1 - d) w.

    The decay d warms up with the number t of updates, d_t = min(decay, (1 + t) / (10 + t)). With a
    constant 0.999, the random initial weights would still make up 60 % of the average after 500
    steps. Batch-norm statistics and other buffers are copied from the model.

    Args:
        model: the model in training; before the first update the average equals it.
        decay: at least 0 and below 1. 0.999 averages over about the last thousand steps; 0 copies
            the model.

    Attributes:
        model: the average, in evaluation mode.
        updates: finished updates.

    Raises:
        ValueError: the decay is outside [0, 1).
        TypeError: the model is not a module.

    Polyak & Juditsky 1992; Tarvainen & Valpola 2017, https://arxiv.org/abs/1703.01780. The warm-up
    of the decay follows TensorFlow's `ExponentialMovingAverage`.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> _ = model.weight.data.fill_(0.0)
    >>> ema = EMA(model)
    >>> _ = model.weight.data.fill_(1.0)
    >>> ema.update()
    >>> round(ema.model.weight.item(), 4)
    0.9
    """

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        if not holds(lambda: 0 <= decay < 1):
            raise ValueError(
                f"decay must be at least 0 and below 1, got {decay!r}; 0.999 is common"
            )
        super().__init__(model)
        self.decay, self.updates = decay, 0

    def update(self, model: nn.Module | None = None) -> None:
        """Add the weights to the average; `Trainer(ema=...)` calls it after each optimizer step.

        Args:
            model: by default the model that the average was made from.
        """
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        if self.updates == 0 and not self._is_finite():
            decay = 0.0  # such a start would never be forgotten
        self._move_towards(self.source if model is None else model, 1 - decay)
        self.updates += 1
        self._note_updates(self.updates)

    def state_dict(self) -> dict[str, Any]:
        """Return the average and the number of updates."""
        return {"model": self.model.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._load(state["model"])
        self.updates = int(state["updates"])
        self._note_updates(self.updates)


class SWA(_Average, Callback):
    """Keep the plain average of a model's weights at several points of training.

    As a callback it adds the weights at the end of each epoch after `start_epoch`. Without a
    trainer, call `update` yourself. The averaged network has never seen data, so re-estimate its
    batch-norm statistics with `update_bn` before you use it. SWA helps most at a large constant or
    cyclic learning rate, where the weights move around a minimum.

    Args:
        model: the model in training; before the first update the average equals it.
        start_epoch: as a callback, skip this many epochs at the beginning.

    Attributes:
        model: the average, in evaluation mode.
        n_averaged: the number of updates so far.

    Raises:
        ValueError: start_epoch is not a whole number from 0 on.
        TypeError: the model is not a module.

    Izmailov et al. 2018, https://arxiv.org/abs/1803.05407.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> swa = SWA(model)
    >>> for weight in (1.0, 2.0, 6.0):
    ...     _ = model.weight.data.fill_(weight)
    ...     swa.update()
    >>> round(swa.model.weight.item(), 4), swa.n_averaged
    (3.0, 3)
    """

    def __init__(self, model: nn.Module, *, start_epoch: int = 0) -> None:
        if not holds(lambda: start_epoch >= 0 and start_epoch % 1 == 0):
            raise ValueError(
                f"start_epoch must be a whole number of epochs, at least 0; got {start_epoch!r}"
            )
        super().__init__(model)
        self.start_epoch, self.n_averaged = start_epoch, 0

    def update(self, model: nn.Module | None = None) -> None:
        """Add the current weights to the average.

        Args:
            model: by default the model that the average was made from.
        """
        self._move_towards(self.source if model is None else model, 1 / (self.n_averaged + 1))
        self.n_averaged += 1
        self._note_updates(self.n_averaged)
        self._mark_statistics(self.n_averaged > 1)

    def _mark_statistics(self, stale: bool) -> None:
        """Note whether the batch-norm statistics are those of another network, the source.

        Frozen layers aren't affected, because they have the same statistics in every network.
        `update_bn` removes the mark.
        """
        norms = set(_norms_to_update(self.model))
        for module in self.model.modules():
            if isinstance(module, Norm):
                module.stale_statistics = stale and module in norms  # type: ignore[assignment]

    def on_fit_start(self, trainer: Run) -> None:
        """Start a new average for a new run."""
        if trainer.step == 0:
            self._move_towards(trainer.model, 1)
            self.n_averaged = 0
            self._note_updates(0)
            self._mark_statistics(False)

    def on_epoch_end(self, trainer: Run) -> None:
        """Add the weights at the end of the epoch."""
        if trainer.epoch > self.start_epoch:
            self.update(trainer.model)

    def state_dict(self) -> dict[str, Any]:
        """Return the average, the number of updates, and whether its statistics are stale."""
        stale = any(getattr(module, "stale_statistics", False) for module in self.model.modules())
        return {"model": self.model.state_dict(), "n_averaged": self.n_averaged, "stale": stale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._load(state["model"])
        self.n_averaged = int(state["n_averaged"])
        self._note_updates(self.n_averaged)
        self._mark_statistics(bool(state.get("stale", self.n_averaged > 1)))


def update_bn(model: nn.Module, loader: Iterable) -> None:
    """Re-estimate the running statistics of a model's batch-norm layers on all samples of a loader.

    This takes one pass in data-set order, without gradients. Each layer gets the mean and the
    variance of all its inputs, and every sample has the same weight whatever the batch size. As in
    training, a layer's inputs depend on the batch statistics of the layers below it, so large
    batches are better. Frozen batch-norm layers keep their statistics. Everything else is in
    evaluation mode, so dropout is off. Modes, momenta and random generators are restored
    afterwards.

    Args:
        model: changed in place. In the model of an `EMA` or `SWA`, a layer counts as frozen if it
            is frozen in the model in training.
        loader: yields (images, targets), or images alone, without strong augmentation, mixup or
            CutMix.

    Raises:
        DataError: the loader is empty; nothing was changed.
        ValueError: an iterable without a length gave no batch, and nothing was changed; or a batch
            has a single value per channel.
        NonFiniteError: the inputs of a layer are NaN or infinite; nothing was changed.

    Izmailov et al. 2018, section 3.2, https://arxiv.org/abs/1803.05407.

    >>> norm = nn.BatchNorm1d(1)
    >>> update_bn(norm, [torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [7.0], [9.0]])])
    >>> norm.running_mean.item(), norm.running_var.item()
    (5.0, 10.0)
    """
    check_model(model)
    norms = _norms_to_update(model)
    if not norms:
        return
    with fork_rng(), torch.no_grad(), eval_mode(model), eager_mode(), ExitStack() as stack:
        moments = [stack.enter_context(_recorded(norm)) for norm in norms]
        stack.enter_context(Rollback(model))
        n_batches = 0
        for images in _images(evaluation_batches(loader), model):
            model(images)
            n_batches += 1
        if not n_batches:
            raise ValueError("the loader gave no batch to compute the statistics from")
        if not all(inputs.is_finite() for inputs in moments):
            raise NonFiniteError(
                "the inputs of a batch-norm layer are NaN or infinite, so its statistics would be "
                "too; nothing was changed. Clean the images, or start again from a checkpoint"
            )
    for norm, inputs in zip(norms, moments, strict=True):
        if inputs.count:
            norm.running_mean.copy_(inputs.mean)
            norm.running_var.copy_(inputs.variance())
            norm.num_batches_tracked.fill_(n_batches)
            norm.stale_statistics = False


class _Moments:
    """The mean and the sum of squared deviations of a stream of batches, per channel.

    Batches are combined with the formula of Chan, Golub & LeVeque 1983, which doesn't lose digits
    the way E[x^2] - E[x]^2 does.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.squares = torch.zeros((), dtype=torch.float64)

    def add(self, x: Tensor) -> None:
        """Add a batch (N, C, ...)."""
        values = x.detach().float().transpose(0, 1).flatten(1)  # (C, N * H * W)
        variance, mean = (part.cpu().double() for part in torch.var_mean(values, 1, correction=0))
        n, total = values.shape[1], self.count + values.shape[1]
        distance = mean - self.mean
        self.mean = self.mean + distance * n / total
        self.squares = self.squares + variance * n + distance**2 * n * self.count / total
        self.count = total

    def is_finite(self) -> bool:
        """Return whether every value so far was finite."""
        return bool(self.squares.isfinite().all())

    def variance(self) -> Tensor:
        """Return the unbiased variance, (C,), which is what batch norm stores."""
        return self.squares / (self.count - 1)


@contextmanager
def _recorded(norm: Any) -> Iterator[_Moments]:
    """Put a batch-norm layer in training mode and record the moments of its inputs."""
    moments = _Moments()
    handle = norm.register_forward_pre_hook(lambda module, inputs: moments.add(inputs[0]))
    norm.train()
    try:
        yield moments
    finally:
        handle.remove()


def _norms_to_update(model: nn.Module) -> list[Any]:
    frozen = set(frozen_norms(model))
    return [
        norm
        for norm in model.modules()
        if isinstance(norm, Norm)
        and norm.track_running_stats
        and getattr(norm, "trains_in_source", norm not in frozen)
    ]


def ensemble(
    models_or_logits: Sequence[nn.Module | Tensor] | Tensor, *, loader: Iterable | None = None
) -> Tensor:
    """Average the predicted probabilities of several models, (N, K) on the CPU.

    Probabilities are averaged rather than logits, so a very confident member counts no more than
    the others, and the rows still sum to 1.

    Args:
        models_or_logits: models, or their logits (N, K) as `Trainer.predict` returns them, or a
            tensor (M, N, K).
        loader: the data to predict on, needed for models: yields (images, targets), or images
            alone, and is read in data-set order. The models predict in evaluation mode and are left
            as they were.

    Raises:
        ValueError: there are no members, models come without a loader, an iterable without a length
            gives no batch, or the shapes differ.
        DataError: the loader is empty, or a sampler decides which samples it reads, so the rows
            have no order.
        NonFiniteError: a member predicts NaN.

    Hansen & Salamon 1990; Lakshminarayanan et al. 2017, https://arxiv.org/abs/1612.01474.

    >>> ensemble([torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 100.0]])])
    tensor([[0.2500, 0.7500]])
    """
    members = [_logits(member, loader) for member in models_or_logits]
    shapes = {tuple(logits.shape) for logits in members}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise ValueError(
            "an ensemble needs one or more members whose logits have the same shape (N, K), got "
            f"{sorted(shapes)}"
        )
    probabilities = torch.stack([logits.softmax(1) for logits in members])
    for number, rows in enumerate(probabilities):
        if bad := rows.isnan().any(1).nonzero().flatten().tolist():
            raise NonFiniteError(
                f"member {number} of the ensemble predicts NaN for {len(bad)} of {len(rows)} "
                f"samples, the first at position {bad[0]}: leave it out, or clean the data"
            )
    return probabilities.mean(0)


def _logits(member: nn.Module | Tensor, loader: Iterable | None) -> Tensor:
    if isinstance(member, Tensor | np.ndarray):
        return torch.as_tensor(member).detach().float().cpu()
    if loader is None:
        raise ValueError("models need data to predict on: ensemble(models, loader=test)")
    check_model(member, "a member of the ensemble")
    warn_if_stale_statistics(member)
    with fork_rng(), torch.no_grad(), eval_mode(member), eager_mode():
        batches = evaluation_batches(loader, by_position=True)
        rows = [member(images).float().cpu() for images in _images(batches, member)]
    if not rows:
        raise ValueError("the loader gave no batch to predict on")
    return torch.cat(rows)


def _images(batches: Iterable, model: nn.Module) -> Iterator[Tensor]:
    """Yield the images of batches, checked and converted as in training, on the model's device."""
    device = next((tensor.device for tensor in _tensors(model)), torch.device("cpu"))
    intake = Intake(model, F.cross_entropy, no_transform, device, torch.preserve_format)
    for batch in batches:
        yield intake.prediction_images(batch[0] if isinstance(batch, list | tuple) else batch)

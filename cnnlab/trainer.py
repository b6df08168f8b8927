"""The training loop. Read `fit`, then `_train_epoch`, then `_update`: that is all that happens in training.

The rest of the file prepares the loop (`__init__`), measures (`evaluate`, `predict`) and remembers
(`state_dict`, `save`, `load`).
"""

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cnnlab import checkpoint, distributed, resume
from cnnlab.augment import as_batch_transform
from cnnlab.batches import check_batches, in_order, n_batches, training_batches
from cnnlab.errors import CheckpointError, DataError
from cnnlab.guards import (
    check_batch,
    check_finite,
    check_images,
    check_loss,
    check_plateau,
    check_targets,
    gradient_norm,
    mass,
    memory_explained,
    shapes_explained,
)
from cnnlab.history import History, Sums, n_correct
from cnnlab.hooks import Callback, StopTraining
from cnnlab.interrupts import Interrupts
from cnnlab.modes import eval_mode, norms_kept_on_error, train_mode
from cnnlab.options import (
    PRECISIONS,
    as_device,
    check_balance,
    check_loader,
    check_optimizer,
    check_options,
    memory_layout,
)
from cnnlab.progress import Progress
from cnnlab.rng import preserved, seed_at


__all__ = ["Callback", "History", "StopTraining", "Trainer", "best_device"]


class Trainer:
    """Train a model: batches in, optimizer steps out, everything else where it belongs.

    Args:
        model: maps images (N, C, H, W) to logits (N, K).
        optimizer: over the model's parameters, all of them, the frozen ones too.
        loss_fn: (logits, targets) -> mean loss; cross-entropy by default, for class numbers (N,) and for class
            weights (N, K).
        scheduler: what `cnnlab.schedules.attach` returns, or any torch scheduler; steps once per update.
        plateau: `cnnlab.schedules.Plateau`, or torch's `ReduceLROnPlateau`; steps once per epoch, with the validation loss, or with the
            validation accuracy when its mode is "max". Not together with `scheduler`.
        batch_transform: changes each training batch on the device: a `cnnlab.augment.Augment`, whose step is
            kept up to date; a `MixUp` or `CutMix`; any (images, targets) -> (images, targets); or a list of these.
        clip_norm: largest norm of the whole gradient; a longer one is scaled down to it.
        clip_value: largest size of each entry of the gradient. Not together with `clip_norm`.
        precision: "fp32", "bf16" (autocast) or "fp16" (autocast and loss scaling; CUDA only).
        microbatch: samples that pass through the model at a time. The gradient is that of the whole batch, the
            memory that of a part. Batch norm sees the parts.
        ema: a `cnnlab.averaging.EMA` of the model; updated once per step and validated beside the model.
        callbacks: objects with the hooks of `Callback`.
        seed: with the epoch and the step it decides every random draw of the training.
        device: where to train; by default CUDA, else MPS, else the CPU.
        channels_last: lay images and weights out with the channels innermost; not for bf16 on a CPU.
        compile: compile the model in place with `torch.compile`; pays on long runs only.
        progress: True for a bar, False for silence; by default a bar, or plain lines in a log.

    Raises:
        ValueError: two arguments contradict each other, or the precision does not exist on the device.

    While a fit runs, torch's global generators are seeded at each step; after it they are as they were before.
    Under torchrun several processes train the model together: see `cnnlab.distributed`.

    >>> import cnnlab
    >>> data = cnnlab.load("pocket", n_train=96, n_valid=48, n_test=48, level="easy")
    >>> model = cnnlab.small_resnet(len(data.classes), width=4)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    >>> trainer = Trainer(model, optimizer, device="cpu", progress=False)
    >>> history = trainer.fit(cnnlab.loader(data.train, 32, shuffle=True), epochs=2)
    >>> len(history.frame())
    2
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss_fn: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        scheduler: LRScheduler | None = None,
        plateau: Any = None,
        batch_transform: Any = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        precision: str = "fp32",
        microbatch: int | None = None,
        ema: Any = None,
        callbacks: Sequence[Callback] = (),
        seed: int = 0,
        device: str | torch.device | None = None,
        channels_last: bool = False,
        compile: bool = False,
        progress: bool | None = None,
    ) -> None:
        self.device = as_device(device) if device is not None else best_device()
        check_options(
            model=model,
            optimizer=optimizer,
            loss_fn=loss_fn,
            scheduler=scheduler,
            plateau=plateau,
            ema=ema,
            callbacks=callbacks,
            clip_norm=clip_norm,
            clip_value=clip_value,
            precision=precision,
            microbatch=microbatch,
            device=self.device,
        )
        distributed.join(self.device)  # if torchrun has started several processes
        self.model, self.optimizer = model.to(self.device), optimizer
        self.loss_fn = loss_fn or F.cross_entropy
        if isinstance(self.loss_fn, nn.Module):
            self.loss_fn.to(self.device)  # class weights live beside the logits
        self.scheduler, self.plateau, self.ema = scheduler, plateau, ema
        self.batch_transform = as_batch_transform(batch_transform)
        self.clip_norm, self.clip_value, self.microbatch = clip_norm, clip_value, microbatch
        self.seed = seed
        distributed.made_equal(self.model, ema and ema.model)
        shown = [] if progress is False else [Progress(bar=progress)]
        self.callbacks = sorted([*callbacks, *shown], key=lambda callback: callback.order)

        self.layout = memory_layout(channels_last, precision, self.device)
        self.model.to(memory_format=self.layout)
        if compile:
            self.model.compile()  # in place: torch.compile(model) would rename every key of a checkpoint
        low = None if precision == "fp32" else PRECISIONS[precision]
        self.autocast = torch.autocast(self.device.type, low) if low else nullcontext()
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")

        self.epoch = 0  # finished epochs
        self.batch = 0  # finished batches of the epoch under way
        self.step = 0  # finished optimizer steps
        self.steps_planned: int | None = None
        self.grad_norm = float("nan")
        self.shape: torch.Size | None = None  # of the last image
        self.history = History()
        self.sums = Sums()

    def fit(self, train: Iterable, valid: Iterable | None = None, *, epochs: int) -> History:
        """Train until `epochs` epochs are done in all; to resume, load a checkpoint and call it again.

        Args:
            train: yields (images, targets): a `cnnlab.loader`, a torch `DataLoader`, a list of batches.
            valid: measured after each epoch; it never changes the training.
            epochs: the absolute total, those of earlier calls included.

        Returns:
            The history, which is also `trainer.history`.

        Raises:
            DataError: there is no batch, or the batches do not fit the model.
            NonFiniteError: a loss or a gradient is NaN or infinite; the weights are from before that batch.
            KeyboardInterrupt: after Ctrl-C in a script. In a notebook the fit just ends, and can go on.
        """
        self.steps_planned = self._plan(train, valid, epochs)
        with preserved(), Interrupts() as interrupts, self._tidy_end():
            self._emit("on_fit_start")
            while self.epoch < epochs:
                self._train_epoch(train, interrupts)
                self._end_epoch(valid)
                interrupts.check()
        distributed.together()
        interrupts.obey()
        return self.history

    def _train_epoch(self, loader: Iterable, interrupts: Interrupts) -> None:
        """Go through the rest of the epoch under way, one optimizer step a batch."""
        self._emit("on_epoch_start")
        train_mode(self.model)  # after the callbacks, which may have frozen or unfrozen a part
        self.parallel = distributed.parallel(self.model)  # in one process, the model itself
        self.norms_kept = norms_kept_on_error(self.model)
        # Closed, so that an error or a wish to stop ends the worker processes too.
        with closing(training_batches(loader, self.seed, self.epoch, self.batch)) as batches:
            for batch in batches:
                images, targets = self._move(batch)
                seed_at(self.seed, self.epoch, self.step)
                images, targets = check_batch(self.batch_transform(images, targets, self.step))
                distributed.seed_apart(self.seed, self.epoch, self.step)
                self._update(images, targets)
                self._emit("on_step_end")
                interrupts.check()

    def _update(self, images: Tensor, targets: Tensor) -> None:
        """Take one optimizer step in which every sample of the batch weighs the same."""
        total, loss, correct = mass(self.loss_fn, targets), 0.0, 0.0
        self.optimizer.zero_grad(set_to_none=True)
        # A batch that is refused leaves no trace.
        with memory_explained(images, self.microbatch), shapes_explained(), self.norms_kept:
            for part, wanted, last in self._parts(images, targets):
                with distributed.quiet_until_last(self.parallel, last):
                    with self.autocast:
                        logits = self.parallel(part)
                        check_targets(logits, wanted, self.loss_fn)
                        part_loss = check_loss(self.loss_fn(logits, wanted))
                    share = mass(self.loss_fn, wanted) / total  # the last part may be smaller
                    # The gradients of several processes are averaged, and should be summed.
                    self.scaler.scale(part_loss * (share * distributed.processes())).backward()
                loss, correct = loss + part_loss.item() * share, correct + n_correct(logits, wanted)
            loss, correct = distributed.summed(loss, correct)
            self.scaler.unscale_(self.optimizer)  # clip true gradients, not scaled ones
            self._check_and_clip(loss, images)
        self._step_optimizer()
        if self.ema is not None:
            self.ema.update()
        self._record(loss, correct, total, len(images))
        if self.scheduler is not None:
            self.scheduler.step()

    def evaluate(self, loader: Iterable, *, model: nn.Module | None = None) -> dict[str, float]:
        """Measure a model on every sample of a loader, in evaluation mode, without leaving a trace.

        Args:
            loader: yields (images, targets). A `cnnlab.loader` is read in dataset order and to its end, even
                if it shuffles and drops for training.
            model: the model to measure; the trainer's own by default.

        Returns:
            `{"loss": mean loss over the samples, "acc": share of right answers}`.

        Several processes take turns with the batches, so every one of them has to call it.
        """
        model = self.model if model is None else model
        distributed.made_equal(model)  # the statistics of the norms differ
        sums = Sums()
        with preserved(), torch.no_grad(), eval_mode(model):
            for number, batch in enumerate(in_order(loader)):
                if not distributed.own_turn(number):
                    continue
                images, targets = self._move(batch)
                with memory_explained(images, None), self.autocast:
                    logits = model(images)
                check_targets(logits, targets, self.loss_fn)
                loss = self.loss_fn(logits.float(), targets).item()
                sums.add(
                    loss, n_correct(logits, targets), len(targets), mass(self.loss_fn, targets)
                )
        sums.add_up()
        if not sums.count:
            raise DataError("the loader to evaluate on gave no batch; its data set is empty")
        return sums.means()

    def predict(self, loader: Iterable, *, model: nn.Module | None = None) -> Tensor:
        """Return the logits of every sample, (N, K) on the CPU, row i for sample i of the data set.

        Args:
            loader: yields (images, targets), or images alone. A `cnnlab.loader` is read in dataset order.
            model: the model to ask; the trainer's own by default.
        """
        model = self.model if model is None else model
        rows = []
        with preserved(), torch.no_grad(), eval_mode(model):
            for batch in in_order(loader):
                images = batch if isinstance(batch, Tensor) else check_batch(batch)[0]
                with self.autocast:
                    rows.append(model(images.to(self.device)).float().cpu())
        if not rows:
            raise DataError("the loader to predict on gave no batch; its data set is empty")
        return torch.cat(rows)

    def save(self, path: str | Path) -> Path:
        """Write the whole run to a file, whole or not at all; `load` goes on from it bit for bit.

        Of several processes the first one writes.
        """
        if not distributed.is_first():
            return Path(path)
        return checkpoint.save(resume.state_of(self), path)

    def load(self, path: str | Path) -> None:
        """Go back to where a saved run was.

        Args:
            path: a file of `save`, or a folder of the `Checkpoint` callback, whose newest whole file is taken.

        Raises:
            FileNotFoundError: there is nothing.
            CheckpointError: the file is damaged, or belongs to another model; nothing has been changed.
        """
        path = Path(path)
        state = checkpoint.load_newest(path) if path.is_dir() else checkpoint.load(path)
        self.load_state_dict(state)

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of all that a run must remember. Random generators are not in it: see `rng.py`."""
        return copy.deepcopy(resume.state_of(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned; on an error everything stays as it was."""
        resume.check(self, state)
        before = self.state_dict()
        try:
            resume.restore(self, state)
        except Exception as error:
            resume.restore(self, before)
            raise CheckpointError(f"the checkpoint does not fit this run: {error}") from error

    # What the loop leans on, in the order in which it calls.

    def _plan(self, train: Iterable, valid: Iterable | None, epochs: int) -> int | None:
        """Check what can be checked before the first step; return the steps in all, if the loader knows."""
        if not isinstance(epochs, int) or epochs < 1:
            raise ValueError(f"epochs is the total number of epochs, at least 1; got {epochs!r}")
        check_loader(train, self.model)
        if self.plateau is not None and valid is None:
            raise ValueError(
                "plateau watches the validation data, and there is none: fit(train, valid)"
            )
        if valid is not None:
            check_batches(valid)
        check_balance(train, self.loss_fn)
        check_optimizer(self.model, self.optimizer, self.loss_fn)
        length = n_batches(train)
        if length is None:
            return None
        return self.step + max((epochs - self.epoch) * length - self.batch, 0)

    @contextmanager
    def _tidy_end(self) -> Iterator[None]:
        """However a fit ends: note why, leave the model ready for use, tell the callbacks."""
        self.history.stop_reason = self.history.partial = None
        self._clock, fault = time.perf_counter(), None
        try:
            yield
        except StopTraining as wish:
            self.history.stop_reason = str(wish)
        except BaseException as error:
            fault = error
            raise
        finally:
            if self.batch:
                self.history.partial = {"epoch": self.epoch + 1, "batches": self.batch}
            self.model.eval()
            self._close_callbacks(fault)

    def _close_callbacks(self, fault: BaseException | None) -> None:
        """Tell every callback that the fit is over, also when the fit has failed, or another callback does."""
        failures: list[Exception] = []
        for callback in self._own_callbacks():
            try:
                callback.on_fit_end(self)
            except StopTraining:
                pass  # it has stopped
            except Exception as error:  # noqa: BLE001 - whatever it is, the others are to be told
                failures.append(error)
        told = fault or next(iter(failures), None)
        for failure in failures:
            if told is not None and failure is not told:
                told.add_note(f"at the end of the fit: {failure!r}")
        if fault is None and told is not None:
            raise told

    def _emit(self, hook: str) -> None:
        """Call a hook of every callback; a wish to stop waits until all have been called."""
        wish = None
        for callback in self._own_callbacks():
            try:
                getattr(callback, hook)(self)
            except StopTraining as stop:
                wish = wish or stop
        if wish is not None:
            raise wish

    def _own_callbacks(self) -> Iterator[Callback]:
        """Those that this process calls: of several processes the first one writes."""
        return (c for c in self.callbacks if distributed.is_first() or not c.writes)

    def _move(self, batch: Any) -> tuple[Tensor, Tensor]:
        images, targets = check_batch(batch)
        if self.batch == 0 or images.shape[1:] != self.shape:
            check_images(images, self.model)
            self.shape = images.shape[1:]
        if images.ndim == 4:
            images = images.to(self.device, memory_format=self.layout, non_blocking=True)
        else:
            images = images.to(self.device, non_blocking=True)
        return images, targets.to(self.device, non_blocking=True)

    def _parts(self, images: Tensor, targets: Tensor) -> Iterable[tuple[Tensor, Tensor, bool]]:
        """The share of this process in parts that fit into memory, and whether it is the last one."""
        images, targets = distributed.own_share(images), distributed.own_share(targets)
        size = self.microbatch or len(images)
        if size >= len(images):
            yield images, targets, True
            return
        for start in range(0, len(images), size):
            end = start + size
            yield images[start:end], targets[start:end], end >= len(images)

    def _check_and_clip(self, loss: float, images: Tensor) -> None:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = gradient_norm(parameters)
        self.grad_norm = norm.item()
        may_overflow = self.scaler.is_enabled() and math.isfinite(loss)
        # An overflow of scaled gradients is fp16's daily life: that step is left out.
        if not may_overflow:
            where = f"epoch {self.epoch + 1}, batch {self.batch + 1} (step {self.step})"
            check_finite(loss, self.grad_norm, self.model, images, where)
        if self.clip_norm is not None:
            clip_grads_with_norm_(parameters, self.clip_norm, norm)
        if self.clip_value is not None:
            clip_grad_value_(parameters, self.clip_value)

    def _step_optimizer(self) -> None:
        scale = self.scaler.get_scale()
        if self.step == 0 and self.scaler.is_enabled():
            # torch takes a first step that is left out for a scheduler called before its optimizer.
            self.optimizer._opt_called = True  # type: ignore[attr-defined]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.history.skipped_steps += self.scaler.get_scale() < scale
        self.step, self.batch = self.step + 1, self.batch + 1

    def _record(self, loss: float, correct: float, total: float, count: int) -> None:
        rows = self.history.step_rows
        rows["lr"].append(float(self.optimizer.param_groups[0]["lr"]))
        rows["loss"].append(loss)
        rows["grad_norm"].append(self.grad_norm)
        self.sums.add(loss, correct, count, total)

    def _end_epoch(self, valid: Iterable | None) -> None:
        """Close the epoch: measure, write its row, tell plateau and the callbacks."""
        if not self.batch:
            raise DataError(
                "the training loader gave no batch; a generator can be read only once, use a list or a loader"
            )
        train = self.sums.means()
        row = {
            "epoch": self.epoch + 1,
            "lr": self.history.step_rows["lr"][-1],
            "train_loss": train["loss"],
            "train_acc": train["acc"],
        }
        if valid is not None:
            row |= {f"valid_{k}": v for k, v in self.evaluate(valid).items()}
            if self.ema is not None:
                averaged = self.evaluate(valid, model=self.ema.model)
                row |= {f"ema_valid_{k}": v for k, v in averaged.items()}
        now = time.perf_counter()
        row["seconds"], self._clock = now - self._clock, now
        self.history.epochs.append(row)
        self.epoch, self.batch, self.sums = self.epoch + 1, 0, Sums()
        if self.plateau is not None:
            watched = row["valid_acc" if self.plateau.mode == "max" else "valid_loss"]
            check_plateau(self.plateau, watched)
            self.plateau.step(watched)
        self._emit("on_epoch_end")


def best_device() -> torch.device:
    """Return CUDA when there is a GPU, each process its own; else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return distributed.own_gpu()
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")

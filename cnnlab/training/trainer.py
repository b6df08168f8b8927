"""The training loop. Read `fit`, `_train_epoch`, `_update` and `_forward_backward`, in this order.

The rest of the file prepares the loop (`__post_init__`), evaluates (`evaluate`, `predict`) and
saves (`state_dict`, `save`, `load`).
"""

import copy
import math
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cnnlab.errors import CheckpointError, DataError
from cnnlab.files import user_path
from cnnlab.losses import (
    LossFn,
    RunningMeans,
    class_weights,
    classifies,
    count_correct,
    ignore_index,
    loss_divisor,
    normalizer,
)
from cnnlab.rng import fork_rng, seed_at
from cnnlab.training import checkpoint, distributed, resume
from cnnlab.training.ahead import RunAhead
from cnnlab.training.batches import evaluation_batches, training_batches
from cnnlab.training.checks import (
    FirstLook,
    batch_layout,
    check_classes,
    check_finite,
    check_finite_evaluation,
    check_fit,
    check_learning_rates,
    check_loss,
    check_optimizer,
    check_plateau,
    check_same_batches,
    check_schedule_length,
    check_targets,
    class_lists,
    loss_value,
    n_batches,
    one_step_note,
    warn_if_not_finite,
)
from cnnlab.training.describe import describe
from cnnlab.training.explain import explain_oom, explain_shape_errors, optimizer_oom
from cnnlab.training.gradients import clip_gradients, gradient_norm, microbatches
from cnnlab.training.history import History
from cnnlab.training.hooks import Callback, StopTraining
from cnnlab.training.intake import Intake
from cnnlab.training.interrupts import Interrupts
from cnnlab.training.measured import Part, Step
from cnnlab.training.modes import (
    Rollback,
    check_model,
    eval_mode,
    frozen_norms,
    train_mode,
    unchanged_loss,
    warn_if_stale_statistics,
)
from cnnlab.training.options import Metric, TrainerOptions, best_device, memory_layout
from cnnlab.training.outputs import as_float, detached, measure, zero_loss
from cnnlab.training.preparation import move_state, prepare_loss
from cnnlab.training.progress import Progress
from cnnlab.training.transforms import wrap_batch_transform


__all__ = ["Callback", "History", "StopTraining", "Trainer", "best_device"]

MAX_SKIPPED = 25  # fp16 steps in a row with a non-finite gradient: the run has diverged
NO_TARGET = (
    "every target of this {} is ignored, so there is no loss to average: each is the ignore_index "
    "{}, or has class weight 0. Check the labels and the class weights"
)
NO_BATCH = (
    "the loader gave no batch: its data set is empty, or it is a generator that was read before"
)


class Trainer(TrainerOptions):
    """Train a model, one optimizer step per batch; logging, saving and stopping are callbacks.

    `print(trainer)` shows the loop with your options filled in.

    Args:
        model: maps images (N, C, H, W) to logits (N, K).
        optimizer: over all parameters of the model, including the frozen ones. On a GPU, create
            SGD, Adam or AdamW with `fused=True`: then no step waits for the GPU. With any other
            optimizer, each step waits once, to see that its gradient is finite.
        loss_fn: (outputs, targets) -> mean loss; by default cross-entropy, for class indices (N,)
            and for soft targets (N, K). A loss of your own counts as a mean over the samples; if it
            divides by something else, such as the number of boxes, give it a method
            `normalizer(targets)` that returns this number.
        scheduler: what `cnnlab.schedules.attach` returns, or any torch scheduler; steps once per
            update.
        plateau: `cnnlab.schedules.Plateau` or torch's `ReduceLROnPlateau`; steps once per epoch
            with the validation loss, or with the validation accuracy if its mode is "max". Not
            together with `scheduler`.
        batch_transform: changes each training batch on the device: a `cnnlab.augment.Augment`,
            whose step is kept up to date; a `MixUp` or `CutMix`; any (images, targets) -> (images,
            targets); or a list of these.
        clip_norm: largest norm of the whole gradient; a longer gradient is scaled down to it.
        clip_value: largest absolute value of each entry of the gradient. Not together with
            `clip_norm`.
        precision: "fp32", "bf16" (autocast) or "fp16" (autocast and loss scaling; CUDA only).
        microbatch: samples per forward pass (gradient accumulation). The gradient is the same as
            for the whole batch, but only one microbatch has to fit in memory. Batch norm computes
            its statistics per microbatch.
        ema: a `cnnlab.averaging.EMA` of the model; updated once per step, and evaluated on the
            validation data too.
        callbacks: objects with the hooks of `Callback`.
        seed: with the epoch and the step, it determines every random number that torch draws.
        device: where to train; by default CUDA if there is a GPU, else the CPU. Apple's GPU is used
            only if you ask for it, with "mps". It has never been tested: compare a short run with
            the CPU first. It can't train in float64, in fp16 or in several processes.
        channels_last: use the channels-last memory format for images and weights; not with bf16 on
            a CPU.
        compile: compile the model in place with `torch.compile`; worth it only for long runs.
        progress: True for a progress bar, False for silence; by default a bar, or plain lines in a
            log.
        metrics: names -> functions (outputs, targets) -> mean over the batch, such as `{"mae":
            torch.nn.functional.l1_loss}`. They are averaged over the samples and appear in the
            history as `train_mae`, `valid_mae`. Models that classify get the accuracy by default.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: two arguments contradict each other, or the precision doesn't exist on the
            device.

    During a fit, torch's global generators are seeded at each step; afterwards they are as they
    were before. So two fits at the same time need two processes, not two threads. Under torchrun
    several processes train the model together: see `cnnlab.distributed`.

    >>> import cnnlab
    >>> data = cnnlab.load("pocket", n_train=96, n_valid=48, n_test=48, level="easy")
    >>> model = cnnlab.small_resnet(len(data.classes), width=4)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    >>> trainer = Trainer(model, optimizer, device="cpu", progress=False)
    >>> history = trainer.fit(cnnlab.loader(data.train, 32, shuffle=True), epochs=2)
    >>> len(history.to_pandas())
    2
    """

    # Types of these options once `__post_init__` has filled in the defaults.
    loss_fn: LossFn
    device: torch.device
    callbacks: list[Callback]
    metrics: dict[str, Metric]

    _look: FirstLook  # of the fit in progress

    # `TrainerOptions` is a dataclass: its `__init__` stores the arguments, then calls this.
    def __post_init__(self) -> None:
        """Check the options, move the model to the device and start at step 0."""
        super().__post_init__()
        distributed.init_process_group(self.device)  # if torchrun has started several processes
        self.model.to(self.device)
        self.loss_fn = prepare_loss(self.loss_fn, self.model, self.device)
        move_state(self.optimizer)
        self.transform = wrap_batch_transform(self.batch_transform)
        if self.ema is not None:
            self.ema.model.to(self.device)
        distributed.broadcast_from_rank0(self.model, self.ema and self.ema.model, self.loss_fn)
        progress = [] if self.progress is False else [Progress(bar=self.progress)]
        self.callbacks = sorted([*self.callbacks, *progress], key=lambda callback: callback.order)

        self.memory_format = memory_layout(self.channels_last, self.precision, self.device)
        self.model.to(memory_format=self.memory_format)
        if self.compile:
            # In place: torch.compile(model) would rename every key of a checkpoint.
            self.model.compile()
        low = self.low_precision
        self.autocast = torch.autocast(self.device.type, low) if low else nullcontext()
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

        self.epoch = 0  # finished epochs
        self.batch = 0  # finished batches of the epoch in progress
        self.step = 0  # optimizer steps, including those that fp16 skipped
        self.steps_planned: int | None = None
        self._grad_norm = float("nan")
        self.history = History()
        self.metrics = dict(self.metrics or {})
        self.means = RunningMeans(self.metrics)  # of the epoch in progress
        self.skipped_in_a_row = 0
        self._ahead = RunAhead(self, self._check_finite, self._write_row)
        self.has_validation = False
        # Batch size and number of batches: of the last step's loader, and of the one in this fit.
        self.last_loader_shape: tuple[int | None, int | None] | None = None
        self._loader_shape: tuple[int | None, int | None] | None = None
        self._classes: list[list[Any]] = []  # of the data in the last fit
        self._clock = 0.0

    def fit(self, train: Iterable, valid: Iterable | None = None, *, epochs: int) -> History:
        """Train until `epochs` epochs are finished in total; to resume, load a checkpoint first.

        Args:
            train: yields (images, targets): a `cnnlab.loader`, a torch `DataLoader` or a list.
            valid: evaluated after each epoch; it never changes the training.
            epochs: the total number, including those of earlier calls.

        Returns:
            The history, which is also `trainer.history`.

        Raises:
            DataError: there is no batch or no target that counts, or a batch doesn't fit the model.
            NonFiniteError: a loss or gradient is NaN or infinite. The weights are those from before
                that batch, even on a GPU with a fused optimizer (the error comes two steps later).
            KeyboardInterrupt: after Ctrl-C, or the stop button of a notebook; after SIGTERM it is
                SystemExit (143). The run stays consistent: call fit again to continue it.
        """
        epochs = check_fit(self, train, valid, epochs)
        self._prepare_fit(train, valid, epochs)
        with fork_rng(), Interrupts() as interrupts, self._finalize(), self._ahead.all_read():
            self._emit("on_fit_start")
            while self.epoch < epochs:
                self._train_epoch(train, interrupts)
                self._end_epoch(valid, interrupts)
                interrupts.stop_if_requested()
        distributed.barrier()
        interrupts.raise_if_interrupted()
        return self.history

    def _train_epoch(self, loader: Iterable, interrupts: Interrupts) -> None:
        """Train on the remaining batches of the epoch in progress, one optimizer step per batch."""
        self._emit("on_epoch_start")
        check_optimizer(self.model, self.optimizer, self.loss_fn)
        # Must follow the callbacks, because they may have frozen or unfrozen part of the model.
        train_mode(self.model)
        self.parallel = distributed.wrap_parallel(self.model)  # in one process, the model itself
        self.rollback = Rollback(self.model, self.loss_fn)  # of a step that is refused
        frozen = list(frozen_norms(self.model))
        intake = self._intake(self.model)
        self._ahead.start()
        # Closed, so that an error or a stop request ends the worker processes too.
        with closing(training_batches(loader, self.seed, self.epoch, self.batch)) as batches:
            for batch in batches:
                seed_at(self.seed, self.epoch, self.step)
                self._first_look.training_batch(batch)
                images, targets, on_host = intake.training_batch(batch, self.step)
                distributed.seed_rank(self.seed, self.epoch, self.step)
                self._update(images, targets, on_host)
                self._emit("on_step_end")
                if not self.model.training or [norm for norm in frozen if norm.training]:
                    train_mode(self.model)  # a callback has called model.eval() or model.train()
                interrupts.stop_if_requested()

    def _update(self, images: Tensor, targets: Tensor, on_host: Tensor) -> None:
        """Take one optimizer step in which every sample of the batch has the same weight."""
        check_learning_rates(self.scheduler, self.optimizer)
        step = self._begin_step()
        with self.rollback:  # an error leaves no trace in the batch-norm statistics
            self._forward_backward(step, images, targets, on_host)
            self._check_and_clip(step, images)
        self._step_optimizer()
        if self.ema is not None:
            self.ema.update()
        self._record(step)
        if self.scheduler is not None:
            self.scheduler.step()

    # Evaluate and predict.

    def evaluate(self, loader: Iterable, *, model: nn.Module | None = None) -> dict[str, float]:
        """Evaluate a model on every sample of a loader, in evaluation mode, without side effects.

        Args:
            loader: yields (images, targets). A `cnnlab.loader` is read completely and in data-set
                order, even if it shuffles and drops for training.
            model: the model to evaluate; by default the one in training.

        Returns:
            `{"loss": mean loss over the samples, "acc": fraction of correct predictions, ...}`,
            with the metrics of the trainer, and without an accuracy for a model that doesn't
            classify.

        Raises:
            NonFiniteError: the loss of a batch is NaN or infinite; the message names the images.
            ValueError: the classes of the data aren't those of the data in the last fit.
            DataError: there is no batch or no target that counts, or a batch doesn't fit the model.
            OutOfMemory: a batch doesn't fit in the memory of the device.
            TypeError: the loader or the model has the wrong type, such as a data set.

        Several processes share the batches, so each of them has to call it.
        """
        model = self._checked(model)
        if model is self.model or (self.ema is not None and model is self.ema.model):
            check_classes(self._classes, loader)
        return self._evaluate(loader, model)

    def _evaluate(
        self, loader: Iterable, model: nn.Module, interrupts: Interrupts | None = None
    ) -> dict[str, float]:
        if model is self.model or (self.ema is not None and model is self.ema.model):
            distributed.broadcast_buffers(model)  # each process has its own batch-norm statistics
        intake, means = self._intake(model), RunningMeans(self.metrics)
        with (
            fork_rng(),
            torch.no_grad(),
            eval_mode(model),
            unchanged_loss(self.loss_fn),
            distributed.raised_together(),
        ):
            for number, batch in enumerate(evaluation_batches(loader)):
                if interrupts is not None and distributed.world_size() == 1:
                    interrupts.stop_if_requested()
                if not distributed.is_local_batch(number):
                    continue
                images, targets = intake.evaluation_batch(batch)
                if interrupts is not None:
                    self._first_look.validation_batch(batch)
                with explain_oom(images), explain_shape_errors(len(images)), self.autocast:
                    outputs = as_float(model(images))
                check_targets(outputs, targets, self.loss_fn)
                total = normalizer(self.loss_fn, targets)
                loss = loss_value(self.loss_fn(outputs, targets)) if total else 0.0
                check_finite_evaluation(loss, model, images, number)
                self._measure(outputs, targets, targets, loss, total).read().add_to(means)
        means.reduce(distributed.all_reduce_sum)
        if not means.samples:
            raise DataError(NO_BATCH)
        if not means.normalizer:
            raise DataError(NO_TARGET.format("evaluation", ignore_index(self.loss_fn)))
        return means.means()

    def predict(self, loader: Iterable, *, model: nn.Module | None = None) -> Tensor:
        """Return the logits (N, K) on the CPU, with row i for sample i of the data set.

        A warning lists the samples whose logits are NaN or infinite.

        Args:
            loader: yields (images, targets), or images alone. A `cnnlab.loader` is read in data-set
                order.
            model: the model that predicts; by default the one in training.

        Raises:
            DataError: there is no batch, the model returns the wrong number of rows, or a sampler
                decides which samples the loader reads, so the rows have no order.
            OutOfMemory: a batch doesn't fit in the memory of the device.
            TypeError: the model's output is not a tensor, or the loader or the model has the wrong
                type, such as a data set.
        """
        model = self._checked(model)
        intake, rows = self._intake(model), []
        with fork_rng(), torch.no_grad(), eval_mode(model):
            for batch in evaluation_batches(loader, by_position=True):
                images = intake.prediction_images(batch)
                with explain_oom(images), explain_shape_errors(len(images)), self.autocast:
                    outputs = model(images)
                if not isinstance(outputs, Tensor):
                    raise TypeError(
                        "predict returns a tensor, but the model returns a "
                        f"{type(outputs).__name__}: wrap it in a module that returns the part you "
                        "need"
                    )
                if outputs.shape[:1] != images.shape[:1]:
                    raise DataError(
                        f"the model returns shape {tuple(outputs.shape)} for {len(images)} "
                        "samples: flatten with nn.Flatten(), or x.flatten(1), which keep the batch "
                        "dimension"
                    )
                rows.append(outputs.float().cpu())
        if not rows:
            raise DataError(NO_BATCH)
        outputs = torch.cat(rows)
        warn_if_not_finite(outputs, model)
        return outputs

    def _checked(self, model: nn.Module | None) -> nn.Module:
        """Return the model to evaluate, and warn about an average that isn't ready for it."""
        model = self.model if model is None else model
        check_model(model)
        warn_if_stale_statistics(model)
        if self.step and getattr(model, "never_updated", False):
            warnings.warn(
                "this average was never updated, so it has the weights from before the training: "
                "pass the EMA as Trainer(..., ema=ema), the SWA as callbacks=[swa], with a "
                "start_epoch that the run reaches",
                UserWarning,
                stacklevel=3,
            )
        return model

    def _intake(self, model: nn.Module) -> Intake:
        return Intake(model, self.loss_fn, self.transform, self.device, self.memory_format)

    # Save and load.

    def save(self, path: str | Path) -> Path:
        """Write the whole run to a file, atomically; after `load` it continues bit for bit.

        Of several processes only the first one writes.
        """
        if not distributed.is_rank0():
            return user_path(path)
        self._ahead.read()
        return checkpoint.save(resume.state_of(self), path)

    def load(self, path: str | Path) -> None:
        """Return to the point where a run was saved.

        Args:
            path: a file written by `save`, or a folder of the `Checkpoint` callback, whose newest
                complete file is loaded.

        Raises:
            FileNotFoundError: there is no such file, or no checkpoint in the folder.
            CheckpointError: the file is damaged, or belongs to another model; nothing has been
                changed.
        """
        path = user_path(path)
        state = checkpoint.load_newest(path) if path.is_dir() else checkpoint.load(path)
        self.load_state_dict(state)

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of all that a run needs to continue; no generator states, see `rng.py`."""
        self._ahead.read()
        return copy.deepcopy(resume.state_of(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; after an error everything is as it was."""
        resume.check(self, state)
        before = self.state_dict()
        try:
            resume.restore(self, state)
        except Exception as error:
            resume.restore(self, before)
            raise CheckpointError(f"the checkpoint doesn't fit this run: {error}") from error

    # The parts of a step.

    def _begin_step(self) -> Step:
        """Delete the gradients of the last step, and begin to measure the next one."""
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None  # what optimizer.zero_grad() does, in a tenth of the time
        lr = float(self.optimizer.param_groups[0]["lr"])
        return Step(self.step, self.batch, lr, self._ahead.before())

    def _forward_backward(
        self, step: Step, images: Tensor, targets: Tensor, on_host: Tensor
    ) -> None:
        """Compute the gradient of a batch, and note its loss, accuracy and metrics."""
        try:
            self._add_gradients(step, images, targets, on_host)
        except Exception:
            with self._explained(images):
                raise
        distributed.average_gradients(self.loss_fn)
        self.scaler.unscale_(self.optimizer)  # so that the true gradients are checked and clipped

    def _add_gradients(self, step: Step, images: Tensor, targets: Tensor, on_host: Tensor) -> None:
        """Add up the gradients of the microbatches, weighted so that every sample counts alike."""
        whole_divisor = self._divisor(targets, on_host)
        pieces = microbatches(self.microbatch, images, targets, on_host)
        for number, (images_part, targets_part, host_part, last) in enumerate(pieces):
            whole = targets_part is targets  # False with microbatches or several processes
            divisor = whole_divisor if whole else self._divisor(targets_part, host_part)
            has_targets = isinstance(divisor, Tensor) or divisor > 0
            with distributed.no_sync_until_last(self.parallel, last):
                with self.autocast, distributed.raised_together(number == 0):
                    outputs = self.parallel(images_part)
                    check_targets(outputs, host_part, self.loss_fn, wait=self._ahead.waits)
                    self._first_look.outputs(outputs, self.model)
                    if has_targets:
                        loss = check_loss(self.loss_fn(outputs, targets_part), outputs)
                    else:  # every target is ignored, and a mean over nothing would be NaN
                        loss = zero_loss(outputs)
                # DistributedDataParallel averages the gradients of the processes; we need the sum.
                fraction = divisor / whole_divisor if has_targets else 0.0
                share = loss if whole else loss * (fraction * distributed.world_size())
                self.scaler.scale(share).backward()
            part = self._measure(outputs, targets_part, host_part, loss.detach(), divisor)
            step.parts.append(part)

    def _divisor(self, targets: Tensor, on_host: Tensor) -> Tensor | float:
        """Return the divisor of the mean loss; a tensor if reading it would mean to wait."""
        weight = class_weights(self.loss_fn)
        if weight is not None and not on_host.is_cuda:
            weight = self._ahead.class_weights
        value = loss_divisor(self.loss_fn, targets, on_host, weight)
        return value if self._ahead.on and on_host.is_cuda else float(value)

    def _measure(
        self, outputs: Any, targets: Tensor, on_host: Tensor, loss: Tensor | float, divisor: Any
    ) -> Part:
        """Return the loss, the accuracy and the metrics of a batch; on a GPU they aren't read."""
        correct: Tensor | float = 0.0
        counted = 0
        if classifies(self.loss_fn, outputs, on_host):
            ignored = ignore_index(self.loss_fn)
            correct, counted = count_correct(outputs, targets, ignored, on_host)
        metrics = {}
        if self.metrics:
            with torch.no_grad(), fork_rng():
                outputs = as_float(detached(outputs))
                metrics = {k: measure(k, fn, outputs, targets) for k, fn in self.metrics.items()}
        return Part(loss, divisor, len(targets), correct, counted, metrics)

    def _check_and_clip(self, step: Step, images: Tensor) -> None:
        """Refuse a loss or gradient that is not finite, and clip the gradients."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = step.norm = gradient_norm(parameters)
        if self._ahead.on:
            self._ahead.skip_if_not_finite(step)
        else:
            step.read(self.metrics)
            if distributed.world_size() > 1:
                step.means.reduce(distributed.all_reduce_sum)
            self._check_finite(step, images)
        clip_gradients(parameters, norm, self.clip_norm, self.clip_value)

    def _check_finite(self, step: Step, images: Tensor | None = None) -> None:
        """Refuse a step whose loss or gradient is not finite."""
        loss = step.means.mean_loss if step.means.normalizer else 0.0
        # Scaled fp16 gradients overflow now and then; such a step changes nothing.
        may_overflow = self.scaler.is_enabled() and math.isfinite(loss)
        if not may_overflow or self.skipped_in_a_row >= MAX_SKIPPED:
            where = f"epoch {self.epoch + 1}, batch {step.batch + 1} (step {step.step})"
            check_finite(loss, step.norm, self.model, images, where)

    def _step_optimizer(self) -> None:
        """Update the weights, unless fp16 gradients overflowed, and count the step."""
        if self.step == 0 and self.scaler.is_enabled():
            # If this step is skipped, torch would warn that the scheduler was called before it.
            self.optimizer._opt_called = True  # type: ignore[attr-defined]
        try:
            if self._ahead.on:
                self.optimizer.step()  # does nothing if its `found_inf` is 1
            else:
                self.scaler.step(self.optimizer)
        except torch.OutOfMemoryError as error:
            raise optimizer_oom(error) from error
        self.scaler.update()
        self.step += 1

    def _record(self, step: Step) -> None:
        """Add the step to the history and to the means of the epoch, if its numbers are here."""
        self.batch += 1
        self.last_loader_shape = self._loader_shape
        if self._ahead.on:
            self._ahead.add(step)
        else:
            self._write_row(step)

    def _write_row(self, step: Step) -> None:
        """Add a step that was read to the history and to the means of the epoch."""
        skipped = self.scaler.is_enabled() and not math.isfinite(step.norm)
        self.history.skipped_steps += skipped
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if skipped else 0
        self._grad_norm = step.norm
        self.history.add_step(step.lr, step.means.mean_loss, step.norm)
        self.means.merge(step.means)

    @property
    def grad_norm(self) -> float:
        """The norm of the last gradient, before clipping; on a GPU, it's waited for."""
        self._ahead.read()
        return self._grad_norm

    @contextmanager
    def _explained(self, images: Tensor) -> Iterator[None]:
        """Explain torch's errors in a step on these images."""
        n = len(images) if self.microbatch is None and distributed.world_size() == 1 else None
        with explain_oom(images, self.microbatch), explain_shape_errors(n):
            yield

    # Around the epochs: what the loop needs before, after and between them.

    def _prepare_fit(self, train: Iterable, valid: Iterable | None, epochs: int) -> None:
        """Count the steps of the run, and say what doesn't fit: schedule, batches, epochs."""
        self._continue_saved_run()
        check_same_batches(self.batch, self.last_loader_shape, train)
        self._loader_shape, self.has_validation = batch_layout(train), valid is not None
        self._classes, self._first_look = class_lists(train), FirstLook(train, self.loss_fn)
        length = n_batches(train)
        distributed.check_equal("batches per epoch", -1 if length is None else length)
        self.steps_planned = None
        if length is not None:
            self.steps_planned = self.step + max((epochs - self.epoch) * length - self.batch, 0)
        if self.epoch >= epochs:
            done = f"{self.epoch} of {epochs} epoch{'s are' if epochs > 1 else ' is'} done"
            self._say(
                f"{done}, so there is nothing to do; fit(..., epochs={self.epoch + epochs}) trains "
                f"{epochs} more"
            )
        elif self.scheduler is not None:
            check_learning_rates(self.scheduler, self.optimizer)
            rates = self.history.step_rows["lr"]
            check_schedule_length(self.scheduler, self.step, self.steps_planned, rates)
        if self.step == 0 and epochs > 1 and (note := one_step_note(train)):
            self._say(note)

    def _continue_saved_run(self) -> None:
        """Load the run that a callback such as `Checkpoint(folder, resume=True)` has saved."""
        folders = (getattr(callback, "resume_from", None) for callback in self.callbacks)
        folder = next((folder for folder in folders if folder is not None), None)
        if self.step > 0 or folder is None or not checkpoint.listed(folder):
            return
        self.load(folder)
        self._say(f"continuing {folder} from epoch {self.epoch}, step {self.step}")

    def _say(self, line: str) -> None:
        """Print a line above the progress, unless the trainer is silent."""
        if self.progress is not False and distributed.is_rank0():
            sys.stdout.write(f"{line}\n")

    def _end_epoch(self, valid: Iterable | None, interrupts: Interrupts) -> None:
        """Validate, write the row of the epoch, and call plateau and callbacks."""
        self._ahead.read()
        if not self.batch:
            raise DataError(
                "the training loader gave no batch; a generator can be read only once, so use a "
                "list or a loader"
            )
        if not self.means.normalizer:
            raise DataError(NO_TARGET.format("epoch", ignore_index(self.loss_fn)))
        self._first_look.end_of_epoch()
        row = {"epoch": self.epoch + 1, "lr": self.history.step_rows["lr"][-1]}
        row |= {f"train_{k}": v for k, v in self.means.means().items()}
        if valid is not None:
            means = self._evaluate(valid, self.model, interrupts)
            row |= {f"valid_{k}": v for k, v in means.items()}
            if self.ema is not None:
                means = self._evaluate(valid, self.ema.model, interrupts)
                row |= {f"ema_valid_{k}": v for k, v in means.items()}
        now = time.perf_counter()
        row["seconds"], self._clock = now - self._clock, now
        self.history.epochs.append(row)
        self.epoch, self.batch, self.means = self.epoch + 1, 0, RunningMeans(self.metrics)
        if self.plateau is not None:
            name = "valid_acc" if self.plateau.mode == "max" else "valid_loss"
            check_plateau(self.plateau, name, row)
            self.plateau.step(row[name])
        self._emit("on_epoch_end")

    @contextmanager
    def _finalize(self) -> Iterator[None]:
        """Finish a fit, whether it completed, stopped or failed."""
        self.history.stop_reason = self.history.partial = None
        self._clock = time.perf_counter()
        fault = None
        try:
            yield
        except StopTraining as stop:
            self.history.stop_reason = str(stop)
        except BaseException as error:
            fault = error
            raise
        finally:
            if self.batch:
                self.history.partial = {"epoch": self.epoch + 1, "batches": self.batch}
            self.model.eval()
            self._close_callbacks(fault)

    def _close_callbacks(self, fault: BaseException | None) -> None:
        """Run `on_fit_end` of every callback, even if the fit or another callback has failed."""
        failures: list[Exception] = []
        for callback in self._active_callbacks():
            try:
                callback.on_fit_end(self)
            except StopTraining:
                pass  # it has stopped
            except Exception as error:  # noqa: BLE001 - whatever it is, the other callbacks must run
                failures.append(error)
        reported = fault or (failures.pop(0) if failures else None)
        for failure in failures:
            assert reported is not None
            reported.add_note(f"at the end of the fit: {failure!r}")
        if fault is None and reported is not None:
            raise reported

    def _emit(self, hook: str) -> None:
        """Call a hook of every callback; a request to stop takes effect after all of them."""
        stop_request = None
        for callback in self._active_callbacks():
            try:
                getattr(callback, hook)(self)
            except StopTraining as stop:
                stop_request = stop_request or stop
        if distributed.any_rank(stop_request is not None):
            raise stop_request or StopTraining("stopped by a callback of another process")

    def _active_callbacks(self) -> Iterator[Callback]:
        """Return the callbacks that this process calls: only the first process writes."""
        return (c for c in self.callbacks if not c.writes or distributed.is_rank0())

    def __str__(self) -> str:
        return describe(self)

    def __repr__(self) -> str:
        model, optimizer = type(self.model).__name__, type(self.optimizer).__name__
        return (
            f"Trainer({model}, {optimizer}, on {self.device}, epoch {self.epoch}, step {self.step})"
        )

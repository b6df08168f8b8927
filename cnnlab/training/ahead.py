"""Let the host run ahead of a GPU: it reads the numbers of a step while later ones are computed.

With a fused optimizer, the host puts a step into the queue of the GPU without waiting for any
number. It reads them when two more steps are in the queue, or before a callback looks at the step.
If one of them shows a step that isn't finite, a flag on the GPU has kept that step and the later
ones from changing a weight, and the rest of their traces is undone.
"""

import copy
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from cnnlab.errors import NonFiniteError
from cnnlab.losses import class_weights
from cnnlab.training import distributed
from cnnlab.training.hooks import Callback
from cnnlab.training.measured import Step
from cnnlab.training.progress import Progress


AHEAD = 2  # steps queued on the GPU before the values of the oldest one are read
CHECKED = 100  # checks that make the host wait run only at every 100th step


class RunAhead:
    """The steps of a run whose numbers are still on the GPU.

    Args:
        trainer: the `Trainer` of the run.
        check: called with a step that was read; raises NonFiniteError if it isn't finite.
        record: called with a step that was read and that `check` accepted; in fp16 its gradient may
            have overflowed.

    Attributes:
        on: whether the host runs ahead in the epoch in progress.
        steps: the steps that haven't been read, the oldest first.
        class_weights: those of the loss on the host, where the labels are counted, or None.
    """

    def __init__(
        self, trainer: Any, check: Callable[[Step], None], record: Callable[[Step], None]
    ) -> None:
        self.trainer, self.check, self.record = trainer, check, record
        self.on = False
        self.steps: deque[Step] = deque()
        self.class_weights: Tensor | None = None
        self._longest = AHEAD  # steps in the queue
        self._failed: Tensor | None = None  # on the GPU: 1 after a step that isn't finite, else 0

    def start(self) -> None:
        """Decide for an epoch whether the host may run ahead."""
        optimizer, device = self.trainer.optimizer, self.trainer.device
        fused = all(group.get("fused") for group in optimizer.param_groups)
        self.on = fused and device.type == "cuda" and distributed.world_size() == 1
        self._longest = 0 if any(map(_looks_at_steps, self.trainer.callbacks)) else AHEAD
        weight = class_weights(self.trainer.loss_fn)
        self.class_weights = None if weight is None else torch.as_tensor(weight).cpu()
        vars(optimizer).pop("found_inf", None)
        self._failed = torch.zeros((), device=device) if self.on else None

    @property
    def waits(self) -> bool:
        """Whether this step may wait for the GPU to check values."""
        return not self.on or self.trainer.step % CHECKED == 0

    def before(self) -> Any:
        """Return the state before a step, as far as undoing it later needs it."""
        if not self.on:
            return None
        trainer = self.trainer
        schedule = None if trainer.scheduler is None else trainer.scheduler.state_dict()
        settings = [
            {name: value for name, value in group.items() if name != "params"}
            for group in trainer.optimizer.param_groups
        ]
        ema = None if trainer.ema is None else copy.deepcopy(trainer.ema.state_dict())
        return trainer.rollback.copies(), ema, len(trainer.optimizer.state), schedule, settings

    def skip_if_not_finite(self, step: Step) -> None:
        """Make the optimizer skip this step and all later ones if it isn't finite.

        In fp16, a gradient that overflowed skips this step alone.
        """
        assert self._failed is not None
        norm = step.norm
        losses = torch.stack([torch.as_tensor(part.loss).to(norm) for part in step.parts])
        bad_loss, bad_norm = ~losses.isfinite().all(), ~norm.isfinite()
        failed = bad_loss if self.trainer.scaler.is_enabled() else bad_loss | bad_norm
        self._failed = torch.maximum(self._failed, failed.float())
        # A fused optimizer does nothing if this is 1. GradScaler uses it in the same way.
        self.trainer.optimizer.found_inf = torch.maximum(self._failed, bad_norm.float())
        step.send()

    def add(self, step: Step) -> None:
        """Put a step into the queue, and read the oldest one if the queue is full."""
        self.steps.append(step)
        while len(self.steps) > self._longest:
            self._read_oldest()

    def read(self) -> None:
        """Read the numbers of all steps in the queue."""
        while self.steps:
            self._read_oldest()

    @contextmanager
    def all_read(self) -> Iterator[None]:
        """Leave no step unread, however a fit ends, and let the history read them meanwhile."""
        self.trainer.history.read_steps = self.read
        try:
            yield
        finally:
            try:
                self.read()
            finally:
                del self.trainer.history.read_steps
                vars(self.trainer.optimizer).pop("found_inf", None)

    def _read_oldest(self) -> None:
        step = self.steps.popleft()
        step.read(self.trainer.metrics)
        try:
            self.check(step)
        except NonFiniteError:
            self._undo(step)
            raise
        self.record(step)

    def _undo(self, step: Step) -> None:
        """Go back to before a step that failed; it and all later ones have changed no weight."""
        self.steps.clear()
        trainer, optimizer = self.trainer, self.trainer.optimizer
        buffers, ema, n_states, schedule, settings = step.before
        trainer.step, trainer.batch = step.step, step.batch
        trainer.rollback.restore(buffers)
        if trainer.ema is not None:
            trainer.ema.load_state_dict(ema)
        for parameter in list(optimizer.state)[n_states:]:  # made by a step that was skipped
            del optimizer.state[parameter]
        if trainer.scheduler is not None:
            trainer.scheduler.load_state_dict(schedule)
        for group, values in zip(optimizer.param_groups, settings, strict=True):
            group.update(values)


def _looks_at_steps(callback: Callback) -> bool:
    """Return whether a callback must not see a step that may have to be undone."""
    own = type(callback).on_step_end is not Callback.on_step_end
    return own and not isinstance(callback, Progress)  # which only counts steps

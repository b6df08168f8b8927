"""What a callback is: something that watches a fit, remembers, and may ask it to stop."""

from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from cnnlab.trainer import Trainer


class StopTraining(Exception):
    """Raise it in a callback to end the run cleanly; the text is kept as `history.stop_reason`."""


class Callback:
    """Watch a fit: override the hooks you need. Each receives the trainer and nothing else.

    A callback reads the trainer and keeps its own memory, which goes into the checkpoint through `state_dict`.
    All callbacks see a hook before a wish to stop takes effect. Those with a higher `order` come later; the one
    that saves comes last. Of several processes under torchrun each calls its callbacks, but those that set `writes`
    are called in the first one only; the others must decide by numbers that are equal in all.

    >>> class Greeter(Callback):
    ...     def on_fit_start(self, trainer):
    ...         print("hello from step", trainer.step)
    """

    order = 0
    writes = False  # files, or on the screen

    def on_fit_start(self, trainer: "Trainer") -> None:
        """Called once a fit, before the first step."""

    def on_epoch_start(self, trainer: "Trainer") -> None:
        """Called before the first step of an epoch, and again when a run resumes inside one."""

    def on_step_end(self, trainer: "Trainer") -> None:
        """Called after each optimizer step; the gradients are still there."""

    def on_epoch_end(self, trainer: "Trainer") -> None:
        """Called after the validation of an epoch; `trainer.history` has its row."""

    def on_fit_end(self, trainer: "Trainer") -> None:
        """Called once a fit, however it ends."""

    def state_dict(self) -> dict[str, Any]:
        """Return what must survive a restart: numbers, strings, tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""

"""Ctrl-C and SIGTERM, handled between two steps, when everything is in a consistent state."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from cnnlab.training import distributed
from cnnlab.training.hooks import StopTraining


class Interrupts:
    """Record SIGINT and SIGTERM in a `with` block; only a second SIGINT stops it at once.

    Signals can only be caught in the main thread. In any other thread this does nothing.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._handlers_before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers_before[number] = signal.signal(number, self._record)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _record(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    def stop_if_requested(self) -> None:
        """End the fit here if this process, or another one in the same training, got a signal.

        Raises:
            StopTraining: a signal was received.
        """
        if self.received is None and distributed.world_size() == 1:
            return
        numbers = (signal.SIGTERM, signal.SIGINT)
        received = distributed.all_reduce_sum(*(float(self.received == n) for n in numbers))
        if any(received):  # every process ends in the same way
            self.received = numbers[0] if received[0] else numbers[1]
            raise StopTraining(f"stopped by {signal.Signals(self.received).name}")

    def raise_if_interrupted(self) -> None:
        """Raise the exception that belongs to a recorded signal, after the run has been cleaned up.

        The stop button of a notebook is a SIGINT too. It stops the whole cell, so that a loop over
        several fits doesn't continue with a run that was cut short.

        Raises:
            KeyboardInterrupt: after SIGINT.
            SystemExit: with code 143 after SIGTERM.
        """
        if self.received == signal.SIGTERM:
            raise SystemExit(143)
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt

"""Ctrl-C and SIGTERM, taken between two steps, where everything is whole."""

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from cnnlab import distributed
from cnnlab.hooks import StopTraining


class Interrupts:
    """While it is open, note SIGINT and SIGTERM instead of dying of them; a second SIGINT is obeyed at once.

    Signals can only be caught in the main thread. Elsewhere this does nothing.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    def check(self) -> None:
        """End the fit at this point if a signal has come, to this process or to one that trains with it.

        Raises:
            StopTraining: it has.
        """
        if distributed.any_of(self.received is not None):
            kind = signal.Signals(self.received).name if self.received else "a signal"
            raise StopTraining(f"stopped by {kind}")

    def obey(self) -> None:
        """Do what the signal asks for, once the run is tidy.

        In a notebook or at an IPython prompt Ctrl-C just ends the fit: the user stays at work.

        Raises:
            KeyboardInterrupt: after SIGINT in a script.
            SystemExit: with code 143 after SIGTERM.
        """
        if self.received == signal.SIGTERM:
            raise SystemExit(143)
        if self.received == signal.SIGINT and not in_ipython():
            raise KeyboardInterrupt


def in_ipython() -> bool:
    """Tell whether a person sits at a notebook or an IPython prompt."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None

"""Show the progress of a fit or of many: a bar in a notebook or a terminal, lines in a log."""

import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Real
from typing import Any

from cnnlab.plots.core import in_ipython
from cnnlab.training.hooks import Callback, Run


SECONDS = 1.0  # between two signs of life of a long piece of work


class Progress(Callback):
    """Show a progress bar with the metrics of the last epoch, or print one line per epoch.

    Args:
        bar: True for a bar, False for lines; by default a bar in notebooks and terminals, and lines
            in a log, a pipe or a page of the book.
    """

    writes = True

    def __init__(self, bar: bool | None = None) -> None:
        self.bar = bar
        self._bar: Any = None

    def on_fit_start(self, trainer: Run) -> None:
        """Open the bar."""
        if self.bar or (self.bar is None and _is_interactive()):
            self._bar = _tqdm()(
                total=trainer.steps_planned, initial=trainer.step, unit="step", leave=True
            )

    def on_step_end(self, trainer: Run) -> None:
        """Advance by one step."""
        if self._bar is not None:
            self._bar.update()

    def on_epoch_end(self, trainer: Run) -> None:
        """Show the metrics of the epoch."""
        row = trainer.history.epochs[-1]
        shown = {
            _in_one_line(name): f"{value:.3f}"
            for name, value in row.items()
            if name.startswith(("train_", "valid_", "ema_valid_")) and isinstance(value, Real)
        }
        if self._bar is not None:
            self._bar.set_description(f"epoch {trainer.epoch}", refresh=False)
            self._bar.set_postfix(shown)
        else:
            text = "  ".join(f"{name} {value}" for name, value in shown.items())
            sys.stdout.write(f"epoch {trainer.epoch}  {text}  {row['seconds']:.1f} s\n")
            sys.stdout.flush()

    def on_fit_end(self, trainer: Run) -> None:
        """Close the bar, however the fit ended."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


@contextmanager
def long_work(
    what: str, total: int | None = None, unit: str = "step", *, show: bool = True
) -> Iterator[Callable[[int], None]]:
    """Show in a `with` block how much work is done and how much time is left, once a second.

    The bar appears after a second, and disappears at the end. In a log nothing is shown.

    Args:
        what: what is being done, such as "runs".
        total: how many units of work there are, or None if that can't be told.
        unit: what is counted.
        show: False for work that is part of other work with a bar.

    Yields:
        A function that takes how many units are done so far.

    >>> with long_work("runs", total=2, unit="run") as done:
    ...     done(1)
    """
    if not (show and _is_interactive()):
        yield lambda done: None
        return
    start, bar_class = time.time(), _tqdm()
    state: dict[str, int | None] = {"done": 0, "total": total}
    finished = threading.Event()

    def move_to(done: int) -> None:
        state["done"] = done

    def tick() -> None:  # a run can take minutes, in which nothing else would move
        if finished.wait(max(0.0, start + SECONDS - time.time())):
            return
        bar = bar_class(desc=what, total=total, unit=unit, leave=False, smoothing=0)
        bar.start_t = start
        going_on = True
        while going_on:
            bar.n = state["done"]
            bar.refresh()
            going_on = not finished.wait(SECONDS)
        bar.n, bar.total = state["done"], state["total"]
        bar.close()

    ticker = threading.Thread(target=tick, daemon=True)
    ticker.start()
    try:
        yield move_to
        state["total"] = state["done"]  # a search may end early; it isn't drawn as a failure
    finally:
        finished.set()
        ticker.join()


def _in_one_line(name: str) -> str:
    r"""Return the name of a metric in one line, with characters that can't be shown as `?`.

    >>> _in_one_line("valid_mean\nerror")
    'valid_mean error'
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return " ".join(name.split()).encode(encoding, "replace").decode(encoding)


def _is_interactive() -> bool:
    """Return whether somebody can watch a bar move."""
    if os.environ.get("CNNLAB_STATIC"):  # set while the book is built
        return False
    return in_ipython() or sys.stderr.isatty()


def _tqdm() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without ipywidgets it warns, and draws with characters
        from tqdm.auto import tqdm
    return tqdm

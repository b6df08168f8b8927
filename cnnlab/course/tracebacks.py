"""Show short tracebacks in a notebook: only your own lines if the library refused an argument."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from traceback import walk_tb
from types import TracebackType
from typing import Any

from cnnlab.course.frames import PACKAGE, is_library
from cnnlab.errors import CnnlabError
from cnnlab.plots.core import ipython_shell


STOPPED = "Stopped. Run the cell again to start it from the beginning."
STOPPED_FIT = "Stopped. Call fit again to continue where it was."
MORE = "Only your own lines are shown above. To see those of cnnlab too, run %tb in a new cell."


def shorten_tracebacks() -> None:
    """Let IPython show one line after the stop button, and short tracebacks of refused arguments.

    This does nothing outside IPython, or if it has another handler of exceptions already.
    """
    shell = ipython_shell()
    if shell is not None and not shell.custom_exceptions:
        shell.set_custom_exc((KeyboardInterrupt, CnnlabError, ValueError, TypeError), _show)


def _show(
    shell: Any,
    kind: type[BaseException],
    error: BaseException,
    trace: TracebackType,
    tb_offset: int | None = None,
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        stopped = STOPPED_FIT if _in_fit_of_cell(trace) else STOPPED
        shell._last_traceback = [stopped]  # the kernel's reply, instead of that of an older error
        print(stopped)  # noqa: T201
        return
    own = _own_lines(trace) if _raised_here(trace) else None
    if own is None:
        shell.showtraceback((kind, error, trace), tb_offset=tb_offset)
        return
    with _short_chain(error):
        lines = shell.InteractiveTB.structured_traceback(kind, error, own, tb_offset=0)
    # IPython asks the exception for its traceback, and still remembers the whole one for %tb.
    error._render_traceback_ = lambda: [*lines, MORE]  # type: ignore[attr-defined]
    try:
        shell.showtraceback((kind, error, trace))
    finally:
        del error._render_traceback_  # type: ignore[attr-defined]


def _in_fit_of_cell(trace: TracebackType) -> bool:
    """Return whether a cell itself called `Trainer.fit`, so that its trainer is still there."""
    codes = [frame.f_code for frame, _ in walk_tb(trace)]
    return any(
        caller.co_name.startswith(("<module>", "<cell line"))
        and called.co_qualname == "Trainer.fit"
        for caller, called in pairwise(codes)
    )


def _raised_here(trace: TracebackType) -> bool:
    """Return whether the innermost frame of a traceback is one of cnnlab."""
    while trace.tb_next is not None:
        trace = trace.tb_next
    return _file(trace).startswith(PACKAGE)


def _own_lines(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback with the frames in cells and files that belong to no library."""
    if trace is None:
        return None
    rest = _own_lines(trace.tb_next)
    if not _is_own(_file(trace)):
        return rest
    return TracebackType(rest, trace.tb_frame, trace.tb_lasti, trace.tb_lineno)


def _is_own(file: str) -> bool:
    if file.startswith("<"):  # such as "<string>" of a dataclass; IPython calls its input so too
        return file.startswith("<ipython-input")
    return not is_library(file)


def _file(trace: TracebackType) -> str:
    return trace.tb_frame.f_code.co_filename


@contextmanager
def _short_chain(error: BaseException) -> Iterator[None]:
    """Leave out the causes of an error, in a `with` block, up to those with own lines in them."""
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is None:
        yield
        return
    before = error.__cause__, error.__suppress_context__, cause.__traceback__
    own = _own_lines(cause.__traceback__)
    if own is None:
        error.__cause__ = None  # which also hides the context
    else:
        cause.__traceback__ = own
    try:
        with _short_chain(cause):
            yield
    finally:
        error.__cause__, error.__suppress_context__, cause.__traceback__ = before

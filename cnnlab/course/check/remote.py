"""Call a submitted function in a separate process, so that a grader doesn't have to trust it."""

import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import IO, Any, Self

from torch import Tensor

from cnnlab.course.check import wire


STARTUP_SECONDS = 180  # importing torch takes long on a busy machine
# SIGXCPU, which a process without processor time left gets; shells and containers add 128.
OUT_OF_TIME = (-24, 24 + 128)
MEMORY = 8 * 2**30


class AnswerError(Exception):
    """A submitted function raised an error, ended its process, took too long or sent nonsense.

    The message continues the sentence "your function ...".
    """


class NotDefined(AnswerError):
    """The submitted cell defines no such function, perhaps because it isn't valid Python."""


class Unwritten(NotImplementedError):
    """A submitted function raised NotImplementedError itself: it isn't written yet."""


class GraderError(RuntimeError):
    """The answer couldn't be run, for a reason that isn't the student's: no points are given."""


class Remote:
    r"""A function that is defined by source code and called in another process; a context manager.

    The process runs only the set-up and the answer, so the result doesn't depend on the order in
    which a student ran the cells of a notebook, or on its other cells. It can't see the grader's
    files (`worker` explains the limits of that), and it replies with plain values (`wire`).

    Args:
        setup: the instructor's source code, which runs first.
        answer: the student's source code, which defines the function.
        function: name of the function.
        command: command that starts Python; by default this Python. To use a container, pass for
            example `["docker", "run", "--rm", "-i", "--network=none", IMAGE, "python"]`.
        seconds: limit of the processor time for all calls together. An answer that waits or sleeps
            is stopped by the clock, after six times this and ten seconds; so is any on Windows.
        memory: memory limit in bytes.
        readable: files and folders that may be read, beside the installed libraries.

    Attributes:
        fault: the last `GraderError`, for callers that handle all exceptions of a call alike.

    >>> with Remote("import math", "def area(r):\n    return math.pi * r**2", "area") as area:
    ...     round(area(2.0), 2)
    12.57
    """

    def __init__(
        self,
        setup: str,
        answer: str,
        function: str,
        *,
        command: Sequence[str] = (),
        seconds: float = 60.0,
        memory: int = MEMORY,
        readable: Sequence[str] = (),
    ) -> None:
        self._job: dict[str, Any] = {
            "setup": setup,
            "answer": answer,
            "function": function,
            "seconds": seconds,
            "memory": memory,
            "readable": list(readable),
        }
        self.fault: GraderError | None = None
        self._python = [*(command or [sys.executable])]
        self._command = [*self._python, "-I", "-m", "cnnlab.course.check.worker"]
        self._seconds = seconds
        self._on_clock = self._clock_left = 6 * seconds + 10
        self._failure: str | None = None  # why the process ended

    def beside(self, setup: str, answer: str, function: str, *, seconds: float) -> "Remote":
        """Return a function in another process with the same command, memory and files.

        A key uses it to run what an answer returned, such as a script.

        >>> with Remote("", "f = lambda: '1 + 1'", "f") as f:
        ...     with f.beside("", "g = lambda x: eval(x)", "g", seconds=10.0) as g:
        ...         g(f())
        2
        """
        return Remote(
            setup,
            answer,
            function,
            command=self._python,
            seconds=seconds,
            memory=self._job["memory"],
            readable=self._job["readable"],
        )

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(
            prefix="cnnlab-answer-", ignore_cleanup_errors=True
        )
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=self._folder.name,
                env=_environment(self._folder.name),
                start_new_session=True,
            )
        except OSError as error:
            self._folder.cleanup()
            raise GraderError(
                f"can't start {self._command[0]}, which should run the answer: {error}"
            ) from error
        self._replies: queue.Queue[Any] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            self._request(self._job, STARTUP_SECONDS)
        except AnswerError as error:
            self._terminate()
            log = self._stream("stderr").read().decode(errors="replace")[-2000:]
            self._close()
            command = " ".join(self._command)
            raise GraderError(
                f"the process for the answer didn't start: {command} {error}. Its error output:\n"
                f"{log}"
            ) from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._terminate()
        self._close()

    def __call__(self, *arguments: Any) -> Any:
        """Call the function, and repeat here what it changes in its arguments in place.

        Raises:
            Unwritten: the function raised NotImplementedError itself.
            NotDefined: the cell defines no such function.
            AnswerError: the function raised another error, ended its process, took too long, or
                returned a value that can't be sent.
            GraderError: a library needed a file that the sandbox refuses.
        """
        start = time.monotonic()
        reply = self._request(list(arguments), self._clock_left)
        self._clock_left -= time.monotonic() - start
        match reply:
            case {"result": result, "changed": dict(changed)}:
                _copy_changes(changed, arguments)
                return result
            case {"kind": "unwritten"}:
                raise Unwritten
            case {"kind": "undefined", "error": str(message)}:
                raise NotDefined(message)
            case {"kind": "grader", "error": str(message)}:
                self.fault = GraderError(
                    f"a library that the answer uses met the sandbox: {message}. That isn't the "
                    "student's fault, so no points are written. If the library needs this file, "
                    "add it to c.Judge.readable in nbgrader_config.py"
                )
                raise self.fault
            case {"error": str(message)}:
                raise AnswerError(message)
        raise AnswerError("sent a reply that the grader can't read")

    def _request(self, message: Any, seconds: float) -> Any:
        """Send a message and return the reply; without one, end the process for good."""
        if self._failure is None:
            try:
                wire.send(self._stream("stdin"), message)
                reply = self._replies.get(timeout=max(seconds, 0.0))
            except queue.Empty:
                self._failure = (
                    f"took longer than {self._on_clock:g} seconds on the clock and was stopped"
                )
            except OSError:
                self._failure = self._why_ended()
            else:
                if not isinstance(reply, Exception):
                    return reply
                ended = isinstance(reply, EOFError)
                self._failure = self._why_ended() if ended else f"sent {reply}"
            self._terminate()
        raise AnswerError(self._failure)

    def _why_ended(self) -> str:
        """Say why a process that closed its streams did so."""
        with suppress(subprocess.TimeoutExpired):
            if self._process.wait(3) in OUT_OF_TIME:
                return (
                    f"took longer than {self._seconds:g} seconds of processor time and was stopped"
                )
        return "ended its process"

    def _listen(self) -> None:
        """Put every reply of the process in the queue, and at the end the error that ended it."""
        try:
            while True:
                self._replies.put(wire.receive(self._stream("stdout")))
        except (EOFError, ValueError, TypeError, OSError) as error:
            self._replies.put(error)

    def _stream(self, name: str) -> IO[bytes]:
        return getattr(self._process, name)

    def _terminate(self) -> None:
        """End the process and its children: SIGTERM first, for containers, and then SIGKILL."""
        if os.name == "nt":
            self._process.kill()
            return
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal_number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(3)

    def _close(self) -> None:
        """Close the streams and delete the folder of the process."""
        for name in ("stdin", "stdout", "stderr"):
            with suppress(OSError):  # the pipe is broken and still holds unsent bytes
                self._stream(name).close()
        self._folder.cleanup()


def _copy_changes(changed: dict[str, Any], arguments: Sequence[Any]) -> None:
    """Copy the in-place changes that the function made to its own arguments back to ours."""
    for index, value in changed.items():
        argument = arguments[int(index)]
        if (
            isinstance(argument, Tensor)
            and isinstance(value, Tensor)
            and argument.shape == value.shape
        ):
            argument.copy_(value)
        elif isinstance(argument, list) and isinstance(value, list):
            argument[:] = value


def _environment(folder: str) -> dict[str, str]:
    """Return the environment variables Python needs to start, without any others of the grader."""
    inherited = ("PATH", "SYSTEMROOT", "LANG", "LC_ALL", "DOCKER_HOST")
    own = {"HOME": folder, "TMPDIR": folder, "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    return {name: os.environ[name] for name in inherited if name in os.environ} | own

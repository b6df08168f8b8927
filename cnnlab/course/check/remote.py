"""A handed-in function in a process of its own, so that a grader can call it and trust nothing of it."""

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


STARTS_IN = 180  # seconds that importing torch may take on a busy machine
MEMORY = 8 * 2**30


class AnswerError(Exception):
    """What a handed-in function did instead of returning: raised, ended, took too long."""


class GraderError(RuntimeError):
    """The process for the answer did not come up; the answer was not looked at."""


class Remote:
    r"""A function defined by source code, called in another process; a context manager.

    The process runs the set-up and the answer and nothing else of a notebook, so that neither the order in which a
    student ran the cells nor what other cells did matters. It sees no file of the grader's (`worker` says how far to
    trust that) and its replies are plain values (`wire`).

    Args:
        setup: source that runs first; the instructor's own.
        answer: source that defines the function; the student's.
        function: its name.
        command: the Python that runs it; a container is put here, as in
            `["docker", "run", "--rm", "-i", "--network=none", IMAGE, "python"]`.
        seconds: that all calls together may take.
        memory: bytes it may use.

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
    ) -> None:
        self._order = {
            "setup": setup,
            "answer": answer,
            "function": function,
            "seconds": seconds,
            "memory": memory,
        }
        self._command = [*(command or [sys.executable]), "-I", "-m", "cnnlab.course.check.worker"]
        self._seconds = self._left = seconds
        self._gone: str | None = None

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
            raise GraderError(f"cannot start {self._command[0]} for the answer: {error}") from error
        self._replies: queue.Queue[Any] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            self._ask(self._order, STARTS_IN)
        except AnswerError as error:
            self._end()
            told = self._stream("stderr").read().decode(errors="replace")[-2000:]
            self._close()
            command = " ".join(self._command)
            raise GraderError(
                f"{command} did not get ready: it {error}. It wrote:\n{told}"
            ) from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()
        self._close()

    def __call__(self, *arguments: Any) -> Any:
        """Call the function; what it changes in a tensor or a list, it changes here as well.

        Raises:
            NotImplementedError: the function did.
            AnswerError: it raised, ended its process, took too long, or returned what is no plain value.
        """
        start = time.monotonic()
        reply = self._ask(list(arguments), self._left)
        self._left -= time.monotonic() - start
        match reply:
            case {"result": result, "changed": dict(changed)}:
                _bring_back(changed, arguments)
                return result
            case {"kind": "NotImplementedError"}:
                raise NotImplementedError
            case {"error": str(told)}:
                raise AnswerError(told)
        raise AnswerError("sent what is no reply")

    def _ask(self, question: Any, seconds: float) -> Any:
        """Send a line and wait for one; the process is gone for good when none comes."""
        if self._gone is None:
            try:
                wire.send(self._stream("stdin"), question)
                reply = self._replies.get(timeout=max(seconds, 0.0))
            except queue.Empty:
                self._gone = f"took longer than {self._seconds:g} seconds and was stopped"
            except OSError:
                self._gone = "ended its process"
            else:
                if not isinstance(reply, Exception):
                    return reply
                sent = "ended its process" if isinstance(reply, EOFError) else f"sent {reply}"
                self._gone = sent
            self._end()
        raise AnswerError(self._gone)

    def _listen(self) -> None:
        try:
            while True:
                self._replies.put(wire.receive(self._stream("stdout")))
        except (EOFError, ValueError, TypeError, OSError) as error:
            self._replies.put(error)

    def _stream(self, name: str) -> IO[bytes]:
        return getattr(self._process, name)

    def _end(self) -> None:
        """End the process and all it started: kindly, so that a container ends as well, then at once."""
        if os.name == "nt":
            self._process.kill()
            return
        for how in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, how)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(3)

    def _close(self) -> None:
        for name in ("stdin", "stdout", "stderr"):
            with suppress(OSError):  # what was not sent yet cannot be sent any more
                self._stream(name).close()
        self._folder.cleanup()


def _bring_back(changed: dict[str, Any], arguments: Sequence[Any]) -> None:
    """Do to the arguments in place what the function did to its copies."""
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
    """What a Python needs to start, and no word about the grader."""
    kept = ("PATH", "SYSTEMROOT", "LANG", "LC_ALL", "DOCKER_HOST")
    own = {"HOME": folder, "TMPDIR": folder, "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    return {name: os.environ[name] for name in kept if name in os.environ} | own

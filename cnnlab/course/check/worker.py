"""The process in which a handed-in answer runs, behind a fence; `remote.Remote` starts it and talks to it.

The fence keeps accidents and plain attempts inside: the answer can read the installed libraries and its own empty
folder, write only there, and neither connect, nor start, nor end a process. It is made of audit hooks, and those hold
nobody who calls C code on purpose: that takes a container (see the page on grading).
"""

import linecache
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from cnnlab.course.check import wire


ANSWER = "<answer>"
PATHS = {  # audit events -> how many of their arguments are paths that would be changed
    "os.chmod": 1,
    "os.chown": 1,
    "os.link": 2,
    "os.mkdir": 1,
    "os.remove": 1,
    "os.rename": 2,
    "os.rmdir": 1,
    "os.symlink": 2,
    "os.truncate": 1,
    "os.utime": 1,
}
REFUSED = (
    *("os.exec", "os.fork", "os.forkpty", "os.kill", "os.killpg", "os.posix_spawn", "os.spawn"),
    *("os.startfile", "os.system", "subprocess.Popen", "pty.spawn", "signal.pthread_kill"),
    *("socket.bind", "socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.sendmsg"),
    *("os.chdir", "os.fchdir", "os.listxattr", "os.setxattr", "os.removexattr", "ctypes.addressof"),
)


def main() -> None:
    """Read the order, run the set-up and the answer, then answer calls until the other side hangs up."""
    told, tell = _lines()
    order = wire.receive(told)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(order["setup"], "<set-up>", "exec"), namespace)  # noqa: S102 - the instructor's own
    wire.send(tell, "ready")
    os.dup2(1, 2)
    _limit(order["seconds"], order["memory"])
    _fence(Path.cwd())
    failure = _tried(_define, order["answer"], namespace)
    while True:
        try:
            arguments = wire.receive(told)
        except EOFError:
            return
        reply = failure or _tried(_call, namespace, order["function"], arguments)
        try:
            wire.send(tell, reply)
        except TypeError as error:
            wire.send(
                tell,
                {"kind": "TypeError", "error": f"returned what the grader cannot read: {error}"},
            )


def _lines() -> tuple[IO[bytes], IO[bytes]]:
    """The two lines to the grader; what the answer prints or reads goes nowhere."""
    told, tell = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (
        0,
        1,
    ):  # not yet the third: what goes wrong with the set-up is for the instructor
        os.dup2(nowhere, number)
    return told, tell


def _define(answer: str, namespace: dict[str, Any]) -> dict[str, Any]:
    linecache.cache[ANSWER] = (len(answer), None, answer.splitlines(keepends=True), ANSWER)
    exec(compile(answer, ANSWER, "exec"), namespace)  # noqa: S102 - this is what the process is for
    return {}


def _call(namespace: dict[str, Any], function: str, arguments: list[Any]) -> dict[str, Any]:
    before = [wire.pack(argument) for argument in arguments]
    result = namespace[function](*arguments)
    after = {
        str(i): argument for i, argument in enumerate(arguments) if wire.pack(argument) != before[i]
    }
    return {"result": result, "changed": after}


def _tried(attempt: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What came of it; an exception in words, with the student's own line."""
    try:
        return attempt(*arguments)
    except BaseException as error:  # noqa: BLE001 - SystemExit is an answer's way out as well
        own = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == ANSWER]
        line = own[-1].lineno if own else getattr(error, "lineno", None)
        where = f", in line {line} of your cell: `{own[-1].line}`" if own else ""
        where = where or (f", in line {line} of your cell" if line else "")
        kind = type(error).__name__
        return {"kind": kind, "error": f"raised {kind}: {str(error)[:500]}{where}"}


def _limit(seconds: float, memory: int) -> None:
    """An end to processor time, memory and files, where the system knows such limits."""
    try:
        import resource
    except ImportError:  # Windows
        return
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    for kind, most in (
        (
            resource.RLIMIT_CPU,
            int(used + 2 * seconds) + 10,
        ),  # two cores busy until the grader looks
        (resource.RLIMIT_DATA, memory),
        (resource.RLIMIT_FSIZE, 2**28),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (most, most))


def _fence(own: Path) -> None:
    """From here on, in this process and for good."""
    own = own.resolve()
    roots = {
        sys.prefix,
        sys.base_prefix,
        sys.exec_prefix,
        str(Path(__file__).parents[2]),
    }
    readable = [own, Path(os.devnull), *(Path(root).resolve() for root in [*roots, *_libraries()])]

    def inside(path: Any, allowed: list[Path]) -> bool:
        if isinstance(path, int) or path is None:
            return True  # a file that is open already
        found = Path(os.path.realpath(os.fsdecode(path)))
        return any(found == root or root in found.parents for root in allowed)

    def guard(event: str, arguments: tuple[Any, ...]) -> None:
        if event in REFUSED:
            raise PermissionError(f"{event} is not open to an answer")
        if event == "open":
            path, mode, flags = arguments
            writes = (mode and set(mode) & set("wax+")) or (flags or 0) & (os.O_WRONLY | os.O_RDWR)
            allowed = [own, Path(os.devnull)] if writes else readable
        elif event in ("ctypes.dlopen", "os.listdir", "os.scandir"):
            path, allowed = arguments[0] or own, readable
        elif event in PATHS:
            for path in arguments[: PATHS[event]]:
                if not inside(path, [own]):
                    raise PermissionError(f"{event}: an answer changes nothing outside its folder")
            return
        else:
            return
        if not inside(path, allowed):
            raise PermissionError(f"{event} {path!r}: not open to an answer")

    sys.addaudithook(guard)


def _libraries() -> list[str]:
    """What scikit-learn and torch look at late: the system's own libraries and its word on processors."""
    import threadpoolctl

    threadpoolctl.threadpool_info()  # it asks for the C library once, and remembers
    return [
        "/lib",
        "/lib64",
        "/usr/lib",
        "/usr/lib64",
        "/usr/local/lib",
        "/proc/self",
        "/proc/cpuinfo",
        "/sys",
    ]


if __name__ == "__main__":
    main()

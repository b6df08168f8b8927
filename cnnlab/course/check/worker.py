"""The process in which a submitted answer runs, inside a sandbox; `remote.Remote` starts it.

The sandbox stops accidents and simple attempts to cheat. The answer can read the installed
libraries and its own empty folder, it can write only in that folder, and it can't use the network
or start or end processes. The sandbox consists of audit hooks, which don't stop an answer that
calls C code on purpose; that takes a container (see `remote.Remote`).
"""

import linecache
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from cnnlab.course.check import wire
from cnnlab.course.check.attempt import is_unwritten


ANSWER = "<answer>"
PATHS = {  # audit event -> how many of its arguments are paths that the call would change
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
    """Run the set-up and the answer, then answer calls until the grader closes the stream."""
    requests, replies = _open_streams()
    job = wire.receive(requests)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(job["setup"], "<set-up>", "exec"), namespace)  # noqa: S102 - the instructor's code
    wire.send(replies, "ready")
    os.dup2(1, 2)
    _limit_resources(job["seconds"], job["memory"])
    _install_sandbox(Path.cwd())
    failure = _run(_define, job["answer"], namespace)
    while True:
        try:
            arguments = wire.receive(requests)
        except EOFError:
            return
        # Lines that fail below a function, such as a call to try it out, don't spoil it.
        defined = callable(namespace.get(job["function"]))
        reply = (not defined and failure) or _run(_call, namespace, job["function"], arguments)
        try:
            wire.send(replies, reply)
        except TypeError as error:
            message = f"returned a value that the grader can't read: {error}"
            wire.send(replies, {"kind": "TypeError", "error": message})


def _open_streams() -> tuple[IO[bytes], IO[bytes]]:
    """Return the streams from and to the grader, and discard what the answer reads or prints."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    devnull = os.open(os.devnull, os.O_RDWR)
    # stderr stays open for now: it shows the instructor the errors of the set-up.
    for descriptor in (0, 1):
        os.dup2(devnull, descriptor)
    return requests, replies


def _define(answer: str, namespace: dict[str, Any]) -> dict[str, Any]:
    """Run the student's source code, and let tracebacks show its lines."""
    linecache.cache[ANSWER] = (len(answer), None, answer.splitlines(keepends=True), ANSWER)
    exec(compile(answer, ANSWER, "exec"), namespace)  # noqa: S102 - the purpose of this process
    return {}


def _call(namespace: dict[str, Any], function: str, arguments: list[Any]) -> dict[str, Any]:
    """Call the student's function; return its result and the arguments it changed in place."""
    before = [wire.pack(argument) for argument in arguments]
    result = namespace[function](*arguments)
    changed = {
        str(i): argument for i, argument in enumerate(arguments) if wire.pack(argument) != before[i]
    }
    return {"result": result, "changed": changed}


def _run(step: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Run a step and return its result, or its exception with the line of the student's cell."""
    try:
        return step(*arguments)
    except BaseException as error:  # noqa: BLE001 - an answer can also raise SystemExit
        own = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == ANSWER]
        line = own[-1].lineno if own else getattr(error, "lineno", None)
        where = f", in line {line} of your cell" if line else ""
        code = f": `{own[-1].line}`" if own else ""
        kind = type(error).__name__
        says = f"raised {kind}: {str(error)[:90]}{where}{code}"
        return {"kind": "unwritten" if is_unwritten(error) else kind, "error": says}


def _limit_resources(seconds: float, memory: int) -> None:
    """Limit processor time, memory and file sizes, on systems that support it."""
    try:
        import resource
    except ImportError:  # Windows
        return
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    limits = {
        # Two busy cores can use twice the seconds before the grader stops the process.
        resource.RLIMIT_CPU: int(used + 2 * seconds) + 10,
        resource.RLIMIT_DATA: memory,
        resource.RLIMIT_FSIZE: 2**28,
        resource.RLIMIT_CORE: 0,
    }
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))


def _install_sandbox(own: Path) -> None:
    """Restrict this process, for good, to the libraries and its own folder."""
    own = own.resolve()
    roots = {sys.prefix, sys.base_prefix, sys.exec_prefix, str(Path(__file__).parents[2])}
    readable = [own, Path(os.devnull), *(Path(root).resolve() for root in [*roots, *_libraries()])]

    def inside(path: Any, allowed: list[Path]) -> bool:
        if isinstance(path, int) or path is None:
            return True  # a file that is already open
        real = Path(os.path.realpath(os.fsdecode(path)))
        return any(real == root or root in real.parents for root in allowed)

    def guard(event: str, arguments: tuple[Any, ...]) -> None:
        if event in REFUSED:
            raise PermissionError(f"{event} is not allowed in an answer")
        if event == "open":
            path, mode, flags = arguments
            writes = (mode and set(mode) & set("wax+")) or (flags or 0) & (os.O_WRONLY | os.O_RDWR)
            allowed = [own, Path(os.devnull)] if writes else readable
        elif event in ("ctypes.dlopen", "os.listdir", "os.scandir"):
            path, allowed = arguments[0] or own, readable
        elif event in PATHS:
            for path in arguments[: PATHS[event]]:
                if not inside(path, [own]):
                    raise PermissionError(f"{event}: an answer can only change its own folder")
            return
        else:
            return
        if not inside(path, allowed):
            raise PermissionError(f"{event} {path!r} is not allowed in an answer")

    sys.addaudithook(guard)


def _libraries() -> list[str]:
    """Return the system paths that scikit-learn and torch read after their import."""
    import threadpoolctl

    threadpoolctl.threadpool_info()  # looks up the C library now; the sandbox would refuse it later
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

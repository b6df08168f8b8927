"""The process in which a submitted answer runs, inside a sandbox; `remote.Remote` starts it.

The sandbox stops accidents and simple attempts to cheat. The answer can read the installed
libraries and its own empty folder, it can write only in that folder, and it can't open a connection
or start or end processes. The sandbox consists of audit hooks, which don't stop an answer that
calls C code on purpose; that takes a container (see `remote.Remote`).

The answer runs statement by statement. One that fails is put aside, and those that only try the
function out, below it, aren't run at all: neither says whether the function is correct.
"""

import ast
import linecache
import math
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any

from cnnlab.course.check import wire
from cnnlab.course.check.attempt import is_unwritten


ANSWER = "<answer>"
# What can change a function from below it; the rest only calls it, prints, or draws.
DEFINES = (
    *(ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef),
    *(ast.Assign, ast.AnnAssign, ast.AugAssign, ast.If, ast.Try, ast.With),
)
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
    _install_sandbox(Path.cwd(), job["readable"])
    failure = _define(job["answer"], job["function"], namespace)
    while True:
        try:
            arguments = wire.receive(requests)
        except EOFError:
            return
        if callable(namespace.get(job["function"])):
            reply = _run(_call, namespace, job["function"], arguments)
        else:
            reply = _undefined(failure)
        if reply.get("kind") == "NameError":
            reply["error"] += f"; {_why_missing(failure)}"
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


def _define(answer: str, function: str, namespace: dict[str, Any]) -> dict[str, Any]:
    """Run the student's source code, and return the first failure, if there is one.

    If the name of the function is given to a result as well, the function keeps it.
    """
    linecache.cache[ANSWER] = (len(answer), None, answer.splitlines(keepends=True), ANSWER)
    try:
        statements = ast.parse(answer, ANSWER).body
    except BaseException as error:  # noqa: BLE001 - such as a null byte or too many brackets
        return _failure(error)
    last = max(
        (i for i, s in enumerate(statements) if _binds(s, function)), default=len(statements)
    )
    failure: dict[str, Any] = {}
    found = None
    for number, statement in enumerate(statements):
        if number > last and _only_tries_out(statement):
            continue
        reply = _run(_execute, statement, namespace)
        failure = failure or reply
        value = namespace.get(function)
        found = value if callable(value) else found
    if found is not None:
        namespace[function] = found
    return failure


def _binds(statement: ast.stmt, function: str) -> bool:
    """Return whether a statement defines the function; an `if` or `try` around it doesn't count."""
    return getattr(statement, "name", None) == function


def _only_tries_out(statement: ast.stmt) -> bool:
    """Return whether a statement below a function can't change what the function does."""
    is_main = isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test)
    return is_main or not isinstance(statement, DEFINES)


def _execute(statement: ast.stmt, namespace: dict[str, Any]) -> dict[str, Any]:
    code = compile(ast.Module([statement], []), ANSWER, "exec")
    exec(code, namespace)  # noqa: S102 - the purpose of this process
    return {}


def _undefined(failure: dict[str, Any]) -> dict[str, Any]:
    """Return the reply of a cell that defines no such function."""
    if failure.get("kind") in ("unwritten", "grader"):
        return failure
    why = f"; your cell {failure['error']}" if failure else " in your cell"
    return {"kind": "undefined", "error": f"isn't defined{why}"}


def _why_missing(failure: dict[str, Any]) -> str:
    """Say why the function may miss a name."""
    if failure:
        return f"before that, your cell {failure['error']}"
    return "the grader runs only the set-up and this cell"


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
        return _failure(error)


def _failure(error: BaseException) -> dict[str, Any]:
    """Return the reply that describes an error."""
    causes: list[BaseException | None] = [error, error.__cause__, error.__context__]
    for cause in causes:
        if isinstance(cause, Refused) and cause.is_of_library:
            return {"kind": "grader", "error": str(cause)}
    own = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == ANSWER]
    line = own[-1].lineno if own else getattr(error, "lineno", None)
    where = f", in line {line} of your cell" if line else ""
    code = f": `{own[-1].line}`" if own else ""
    kind = "PermissionError" if isinstance(error, Refused) else type(error).__name__
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    says = f"raised {kind}: {message[:90]}{where}{code}"
    return {"kind": "unwritten" if is_unwritten(error) else kind, "error": says}


class Refused(PermissionError):
    """The sandbox refused something.

    Attributes:
        is_of_library: whether an installed library wanted to read a file that the answer didn't
            name. That is a matter of the installation, and no fault of the student's.
    """

    is_of_library = False


def _limit_resources(seconds: float, memory: int) -> None:
    """Limit processor time, memory and file sizes, on systems that support it.

    A process that has used up its time gets SIGXCPU, and five seconds later SIGKILL.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    limits = {
        resource.RLIMIT_DATA: memory,
        resource.RLIMIT_FSIZE: 2**28,
        resource.RLIMIT_CORE: 0,
    }
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))
    stop = math.ceil(used + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (stop, stop + 5))


def _install_sandbox(own: Path, readable_too: Sequence[str] = ()) -> None:
    """Restrict this process, for good, to the libraries and its own folder."""
    own = own.resolve()
    roots = {sys.prefix, sys.base_prefix, sys.exec_prefix, str(Path(__file__).parents[2])}
    # Libraries can be elsewhere, by a `.pth` file; but the source of the course has the answers.
    roots |= {path for path in sys.path if path and not _is_source(Path(path))}
    roots |= {*_libraries(), *readable_too}
    readable = [own, Path(os.devnull), *(Path(root).resolve() for root in roots)]

    def inside(path: Any, allowed: list[Path]) -> bool:
        if isinstance(path, int) or path is None:
            return True  # a file that is already open
        real = Path(os.path.realpath(os.fsdecode(path)))
        return any(real == root or root in real.parents for root in allowed)

    def guard(event: str, arguments: tuple[Any, ...]) -> None:
        if event in REFUSED:
            raise Refused(f"{event} is not allowed in an answer")
        if event == "open":
            path, mode, flags = arguments
            writes = (mode and set(mode) & set("wax+")) or (flags or 0) & (os.O_WRONLY | os.O_RDWR)
            allowed = [own, Path(os.devnull)] if writes else readable
        elif event in ("ctypes.dlopen", "os.listdir", "os.scandir"):
            path, allowed = arguments[0] or own, readable
        elif event in PATHS:
            for path in arguments[: PATHS[event]]:
                if not inside(path, [own]):
                    raise Refused(f"{event}: an answer can only change its own folder")
            return
        else:
            return
        if not inside(path, allowed):
            refused = Refused(f"{event} {path!r} is not allowed in an answer")
            refused.is_of_library = allowed is readable and _is_of_library(path, sys._getframe(1))
            raise refused

    sys.addaudithook(guard)


def _is_source(folder: Path) -> bool:
    """Return whether a folder is the source of a project, and not a place for libraries."""
    return (folder / "pyproject.toml").is_file() or (folder / "assignments").is_dir()


def _is_of_library(path: Any, frame: FrameType | None) -> bool:
    """Return whether an installed library opens a file of its own accord.

    Args:
        path: what is opened.
        frame: where; the frames that called it follow.
    """
    opened_by = None
    while frame is not None:
        file = frame.f_code.co_filename
        if file == ANSWER:
            opened_by = opened_by or ANSWER
            known = [*frame.f_locals.values(), *frame.f_globals.values(), *frame.f_code.co_consts]
            if any(type(value) is str and value == str(path) for value in known):
                return False
            if any(isinstance(value, Path) and str(value) == str(path) for value in known):
                return False
        elif {"site-packages", "dist-packages"} & {*Path(file).parts}:
            opened_by = opened_by or file
        frame = frame.f_back
    return opened_by not in (None, ANSWER)


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

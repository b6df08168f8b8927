"""Atomic file writes: after a crash the file is complete or absent."""

import contextlib
import os
import uuid
from pathlib import Path


def user_path(path: str | os.PathLike[str]) -> Path:
    """Return a path with a leading `~` expanded; a name like `~backup` stays if no user has it.

    >>> user_path("~/run") == Path.home() / "run"
    True
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"a path must be a string or a Path, such as 'runs/a'; got {path!r:.60}")
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser refuses ~backup


def output_folder(path: str | os.PathLike[str], owner: str) -> Path:
    """Return a folder to write to, which needn't exist yet.

    Args:
        path: where it is; a leading `~` is the home folder.
        owner: what will write to it, for the message.

    Raises:
        ValueError: the path is empty, or a file.
    """
    folder = user_path(path)
    if not os.fspath(path) or folder.is_file():
        problem = "is a file" if os.fspath(path) else "names no folder"
        raise ValueError(
            f"{owner} writes to a folder, and {os.fspath(path)!r} {problem}: use a name like 'run'"
        )
    return folder


def write_whole(path: Path, data: bytes) -> None:
    """Write a file atomically: write a temporary file, flush it to disk, then rename it."""
    # Not with tempfile, whose files only their owner can read, also after the rename.
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with unfinished.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # Windows and some network drives can't sync a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

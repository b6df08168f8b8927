"""Files that are there whole or not at all, whenever the process ends."""

import contextlib
import os
import uuid
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Write beside `path`, make it durable, then rename: the rename is what cannot be half done."""
    # Not tempfile: its files are readable by their owner alone, and so would be what they become.
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
    with contextlib.suppress(OSError):  # Windows and some network drives cannot sync a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

"""Checkpoint files: written atomically, and verified when they are read.

A checkpoint is what `torch.save` writes, followed by its SHA-256 digest. `torch.load` can read the
file, but only `load` notices a flipped bit or a missing end.
"""

import hashlib
import io
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnnlab.errors import CheckpointError
from cnnlab.files import user_path, write_whole


__all__ = [
    "listed",
    "load",
    "load_newest",
    "number",
    "numbered",
    "prune",
    "save",
]


_MARK = b"cnnlab-sha256:"
_TAIL = len(_MARK) + hashlib.sha256().digest_size
# How a complete file of `torch.save` ends, which is a ZIP archive without a comment.
_ZIP_END, _ZIP_TAIL = b"PK\x05\x06", 22


def save(state: Mapping[str, Any], path: str | Path) -> Path:
    """Write a state to a file atomically: a crash leaves the old file or the new one, never half.

    Args:
        state: tensors, numbers, strings, None, and lists, tuples and dictionaries of these. Numpy
            scalars, numpy arrays and paths are converted. Anything else is refused now, not when
            the file is read.
        path: the file; its folder is created if needed. A leading `~` is your home folder.

    Returns:
        The path.

    Raises:
        TypeError: something in `state` could not be read back.
        CheckpointError: the disk is full, or the folder can't be written to. An older file is
            untouched.
    """
    path = user_path(path)
    if not path.name:
        raise CheckpointError(f"{str(path)!r} is not the name of a file: use a name like 'run.pt'")
    buffer = io.BytesIO()
    torch.save(_plain(state, "state"), buffer)
    payload = buffer.getvalue()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, payload + _MARK + hashlib.sha256(payload).digest())
    except OSError as error:
        raise CheckpointError(
            f"can't write {path}: {error.strerror or error}. An older file of that name is "
            "untouched; free some space or choose another folder, and save again"
        ) from error
    return path


def load(path: str | Path) -> dict[str, Any]:
    """Read a state that `save` wrote, onto the CPU.

    Only tensors and plain values are accepted, so a file can't run code.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is damaged or cut short, or wasn't written by `save`; or it is a
            folder.
    """
    path = user_path(path)
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; load_newest reads its newest checkpoint")
    data = path.read_bytes()
    payload, tail = data[:-_TAIL], data[-_TAIL:]
    if not tail.startswith(_MARK) and data[-_ZIP_TAIL:].startswith(_ZIP_END):
        raise CheckpointError(
            f"{path} was not written by Trainer.save: it has no digest at its end. If these are "
            f"weights saved by torch.save, use model.load_state_dict(torch.load({str(path)!r}, "
            "weights_only=True))"
        )
    if not tail.startswith(_MARK):
        raise CheckpointError(
            f"{path} was cut short, or is not a checkpoint of cnnlab ({len(data)} bytes, no digest "
            "at the end); use an older checkpoint"
        )
    if hashlib.sha256(payload).digest() != tail[len(_MARK) :]:
        raise CheckpointError(
            f"{path} is damaged: its digest doesn't match its contents; use an older checkpoint"
        )
    try:
        return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception as error:  # it has a valid digest, but contains more than plain values
        raise CheckpointError(
            f"{path} contains something other than tensors and plain values, so it is refused: "
            f"{error}"
        ) from error


def numbered(folder: str | Path, number: int) -> Path:
    """Return the path of the checkpoint in a folder that belongs to step `number`."""
    return user_path(folder) / f"step-{number:08d}.pt"


def number(path: Path) -> int:
    """Return the step in the name of a checkpoint; -1 for any other file name.

    >>> number(numbered("run", 40))
    40
    """
    match = re.fullmatch(r"step-(\d+)\.pt", path.name)
    return int(match[1]) if match else -1


def listed(folder: str | Path) -> list[Path]:
    """Return the numbered checkpoints of a folder, sorted by step, oldest first."""
    return sorted((p for p in user_path(folder).glob("step-*") if number(p) >= 0), key=number)


def load_newest(folder: str | Path) -> dict[str, Any]:
    """Read the newest undamaged checkpoint of a folder.

    Raises:
        FileNotFoundError: the folder contains no checkpoint.
        CheckpointError: none of them can be read; each is named with its fault.
    """
    paths = listed(folder)
    if not paths:
        raise FileNotFoundError(f"no checkpoint (step-*.pt) in {folder}")
    faults = []
    for path in reversed(paths):
        try:
            return load(path)
        except CheckpointError as error:
            faults.append(str(error))
    raise CheckpointError("none of the checkpoints can be read:\n" + "\n".join(faults))


def prune(folder: str | Path, keep: int, newest: int | None = None) -> None:
    """Delete all but the newest `keep` numbered checkpoints; call it after the new one is written.

    Files with a number above `newest`, the one just written, are damaged or belong to another run.
    They are left alone and don't count.
    """
    paths = [path for path in listed(folder) if newest is None or number(path) <= newest]
    for path in paths[:-keep]:
        path.unlink(missing_ok=True)


def _plain(value: Any, where: str) -> Any:
    """Copy a value, with everything in it converted to types that a safe load returns."""
    match value:
        case Tensor():
            return value.detach().cpu().clone()
        case bool() | None:
            return value
        case np.ndarray():
            return torch.from_numpy(value.copy())
        case np.generic():
            return value.item()
        case int():
            return int(value)
        case float():
            return float(value)
        case str():
            return str(value)
        case os.PathLike():
            return os.fspath(value)
        case Mapping():
            return {_plain(k, where): _plain(v, f"{where}[{k!r}]") for k, v in value.items()}
        case tuple():
            return tuple(_plain(v, f"{where}[{i}]") for i, v in enumerate(value))
        case list():
            return [_plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    raise TypeError(
        f"{where} is a {type(value).__name__}, which can't be saved in a checkpoint; "
        "use tensors, numbers, strings, lists and dictionaries"
    )

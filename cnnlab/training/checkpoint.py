"""Files that a killed process cannot spoil: written whole or not at all, checked when they are read.

A checkpoint is what `torch.save` writes, followed by a SHA-256 digest of it. `torch.load` reads the file as it
is; `load` here also notices a flipped bit or a missing tail, which `torch.load` does not.
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
from cnnlab.files import write_whole


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


def save(state: Mapping[str, Any], path: str | Path) -> Path:
    """Write a state to a file in one piece: after a crash the old file or the new one is there, never half.

    Args:
        state: tensors, numbers, strings, None, and lists, tuples and dictionaries of these. Numpy scalars and
            arrays and paths are turned into such; anything else is refused here, not when it is read.
        path: the file; its folder is made when it is missing.

    Returns:
        The path.

    Raises:
        TypeError: something in `state` could not be read back.
        CheckpointError: the disk is full, or the folder cannot be written. An older file is untouched.
    """
    path = Path(path)
    buffer = io.BytesIO()
    torch.save(_plain(state, "state"), buffer)
    payload = buffer.getvalue()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, payload + _MARK + hashlib.sha256(payload).digest())
    except OSError as error:
        raise CheckpointError(
            f"could not write {path}: {error.strerror or error}. What was there before is untouched; "
            "free some space or choose another folder, and save again"
        ) from error
    return path


def load(path: str | Path) -> dict[str, Any]:
    """Read a state that `save` wrote, on the CPU.

    Only tensors and plain values are accepted; a file cannot run code.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is damaged, cut short, or was not written by `save`.
    """
    data = Path(path).read_bytes()
    payload, tail = data[:-_TAIL], data[-_TAIL:]
    if not tail.startswith(_MARK):
        raise CheckpointError(
            f"{path} was cut short or is no checkpoint of cnnlab ({len(data)} bytes, no digest at its "
            "end); use an older checkpoint"
        )
    if hashlib.sha256(payload).digest() != tail[len(_MARK) :]:
        raise CheckpointError(
            f"{path} is damaged: its digest does not match its contents; use an older checkpoint"
        )
    try:
        return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception as error:  # whoever wrote it, it holds more than tensors and plain values
        raise CheckpointError(
            f"{path} holds something other than tensors and plain values, and is refused: {error}"
        ) from error


def numbered(folder: str | Path, number: int) -> Path:
    """Return the path of checkpoint `number` (a count of steps) in a folder."""
    return Path(folder) / f"step-{number:08d}.pt"


def number(path: Path) -> int:
    """Return the number in the name of a checkpoint; -1 for the name of anything else.

    >>> number(numbered("run", 40))
    40
    """
    match = re.fullmatch(r"step-(\d+)\.pt", path.name)
    return int(match[1]) if match else -1


def listed(folder: str | Path) -> list[Path]:
    """Return the numbered checkpoints of a folder, oldest first, by their number and not by their name."""
    return sorted((p for p in Path(folder).glob("step-*") if number(p) >= 0), key=number)


def load_newest(folder: str | Path) -> dict[str, Any]:
    """Read the newest checkpoint of a folder that is whole, passing over damaged ones.

    Raises:
        FileNotFoundError: the folder holds no checkpoint.
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
    raise CheckpointError("no checkpoint can be read:\n" + "\n".join(faults))


def prune(folder: str | Path, keep: int, newest: int | None = None) -> None:
    """Delete all but the newest `keep` numbered checkpoints; call it after the new one is written.

    Files numbered above `newest`, the one just written, are left alone and do not count: they are damaged, or
    of another run.
    """
    paths = [path for path in listed(folder) if newest is None or number(path) <= newest]
    for path in paths[:-keep]:
        path.unlink(missing_ok=True)


def _plain(value: Any, where: str) -> Any:
    """Copy `value`, with everything in it as a type that a safe load gives back."""
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
        f"{where} is a {type(value).__name__}, which a checkpoint cannot hold; "
        "keep tensors, numbers, strings, lists and dictionaries"
    )

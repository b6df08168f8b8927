"""Generated images, kept on disk between sessions under a key of everything they depend on.

The cache may be deleted at any time, may be damaged, or may be impossible to write: nothing but
time is lost. `CNNLAB_CACHE` names another folder for it.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from operator import index
from pathlib import Path
from typing import Any

import platformdirs
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from cnnlab.files import write_whole


Tensors = dict[str, Tensor]


def folder() -> Path:
    """Return the folder of this user's cache: `CNNLAB_CACHE`, or the platform's usual one."""
    named = os.environ.get("CNNLAB_CACHE")
    return Path(named) if named else Path(platformdirs.user_cache_dir("cnnlab"))


def cached(make: Callable[[], Tensors], name: str, **parameters: Any) -> Tensors:
    """Return what `make` returns, from the disk where it has been made before.

    Args:
        make: the work to be saved; a function of the parameters alone.
        name: begins the name of the file.
        parameters: all that the result depends on, a version number of the code among them.
    """
    path = folder() / f"{name}-{_key(parameters)}.safetensors"
    found = _read(path)
    if found is None:
        found = make()
        _write(path, found)
    return found


def _key(parameters: dict[str, Any]) -> str:
    text = json.dumps(parameters, sort_keys=True, default=index)
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


def _read(path: Path) -> Tensors | None:
    """The tensors of the file; None when there is no such file, or it is damaged."""
    try:
        tensors = load(path.read_bytes())
    except (OSError, SafetensorError):
        return None
    digest = tensors.pop("digest", None)
    return tensors if digest is not None and torch.equal(digest, _digest(tensors)) else None


def _write(path: Path, tensors: Tensors) -> None:
    """Keep the tensors, unless there is no room, no permission, or on Windows another process that reads the file."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, save({**tensors, "digest": _digest(tensors)}))


def _digest(tensors: Tensors) -> Tensor:
    """A digest of names and contents: safetensors itself does not notice a changed pixel."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)

"""A cache on disk for generated images, with one file for every combination of parameters.

You can delete the cache at any time. If it is damaged or can't be written, nothing is lost but
time. `CNNLAB_CACHE` names another folder for it.
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

from cnnlab.files import user_path, write_whole


Tensors = dict[str, Tensor]


def folder() -> Path:
    """Return the folder of this user's cache: `CNNLAB_CACHE`, or the usual one of the system."""
    override = os.environ.get("CNNLAB_CACHE")
    return user_path(override) if override else Path(platformdirs.user_cache_dir("cnnlab"))


def cached(make: Callable[[], Tensors], name: str, **parameters: Any) -> Tensors:
    """Return the result of `make()`, read from the cache if it was computed before.

    Args:
        make: computes the tensors, from the parameters alone.
        name: the start of the file name.
        parameters: everything that the result depends on, including a version number of the code.
    """
    path = folder() / f"{name}-{_key(parameters)}.safetensors"
    tensors = _read(path)
    if tensors is None:
        tensors = make()
        _write(path, tensors)
    return tensors


def _key(parameters: dict[str, Any]) -> str:
    """Return a digest of the parameters for the file name."""
    text = json.dumps(parameters, sort_keys=True, default=index)
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


def _read(path: Path) -> Tensors | None:
    """Return the tensors in a file; None if the file doesn't exist or is damaged."""
    try:
        tensors = load(path.read_bytes())
    except (OSError, SafetensorError):
        return None
    digest = tensors.pop("digest", None)
    return tensors if digest is not None and torch.equal(digest, _digest(tensors)) else None


def _write(path: Path, tensors: Tensors) -> None:
    """Write the tensors to a file; do nothing if that isn't possible.

    The disk may be full, the folder may be read-only, or on Windows another process may be reading
    the file.
    """
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, save({**tensors, "digest": _digest(tensors)}))


def _digest(tensors: Tensors) -> Tensor:
    """Return a digest of names and values; safetensors itself doesn't notice a changed pixel."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)

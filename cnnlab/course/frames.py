"""Tell the code of a student from that of a library, by the file that it's in."""

import os
import sysconfig
from pathlib import Path

import numpy as np
import torch


PACKAGE = str(Path(__file__).parents[1])
_FOLDERS = tuple(
    os.path.join(folder, "")  # noqa: PTH118 - the final separator matters
    for folder in (
        *(sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")),
        *(str(Path(module.__file__ or "").parent) for module in (torch, np)),
        PACKAGE,
    )
)


def is_library(file: str) -> bool:
    """Return whether a file belongs to Python, to an installed package or to cnnlab.

    >>> is_library(os.__file__), is_library("01_training_loop.py")
    (True, False)
    """
    installed = {"site-packages", "dist-packages"} & {*Path(file).parts}
    return bool(installed) or file.startswith(("<frozen ", *_FOLDERS))

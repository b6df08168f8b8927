"""Settings of every test and every chapter: nothing reaches the network or the user's own folders."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest


OFFLINE = Path(__file__).parent / "tests" / "offline"
sys.path.insert(0, str(OFFLINE))
# --doctest-modules would import these to look for examples: a chapter would run as a script.
collect_ignore_glob = ["chapters/*.py", "tests/offline/*.py"]
_scratch = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Set what this process and, through the environment, every kernel and sub-process works with."""
    import loopback

    loopback.install()
    if hasattr(config, "workerinput"):
        return  # a worker of pytest-xdist inherits the rest
    config.stash[_scratch] = scratch = tempfile.mkdtemp(prefix="cnnlab-tests-")
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(OFFLINE), *others])
    os.environ["CNNLAB_CACHE"] = str(Path(scratch, "cache"))
    os.environ["IPYTHONDIR"] = str(Path(scratch, "ipython"))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove what `pytest_configure` made."""
    if scratch := config.stash.get(_scratch, None):
        shutil.rmtree(scratch, ignore_errors=True)

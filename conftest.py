"""Settings of all tests and chapters: offline, no folders of the user, a time budget."""

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest


OFFLINE = Path(__file__).parent / "tests" / "offline"
sys.path.insert(0, str(OFFLINE))
# --doctest-modules would import these, and so run a chapter as a script.
collect_ignore_glob = [
    *("chapters/*.py", "chapters/studies/*.py", "tests/offline/*.py"),
    "cnnlab/course/emergency/sick/*.py",
]
# What needs nbgrader, which can't be installed beside the IPython of Google Colab.
GRADING = [
    *(f"cnnlab/course/{name}.py" for name in ("autograde", "items", "plain")),
    *(f"tests/test_{name}.py" for name in ("assignments", "formgrader", "plain")),
]
if find_spec("nbgrader") is None:
    collect_ignore_glob += GRADING

# Processor seconds that a chapter may use: 90 on each of two cores, 15 in the smoke profile.
BUDGET = {"laptop": 2 * 90, "smoke": 2 * 15, "gpu": 3600}
GRACE = 3.0  # a slow or busy machine may take this many times the seconds a chapter states
_scratch = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Configure this process and, through the environment, every kernel and subprocess."""
    import loopback

    loopback.install()
    if hasattr(config, "workerinput"):
        return  # a worker of pytest-xdist inherits the rest
    config.stash[_scratch] = scratch = tempfile.mkdtemp(prefix="cnnlab-tests-")
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(OFFLINE), *others])
    os.environ["CNNLAB_CACHE"] = str(Path(scratch, "cache"))
    os.environ["IPYTHONDIR"] = str(Path(scratch, "ipython"))


def pytest_report_header() -> str | None:
    """Name the tests that are left out."""
    return None if find_spec("nbgrader") else f"no nbgrader, so without {', '.join(GRADING)}"


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove what `pytest_configure` created."""
    if scratch := config.stash.get(_scratch, None):
        shutil.rmtree(scratch, ignore_errors=True)


@pytest.hookimpl(tryfirst=True)  # before `-m "not slow"` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every cell of a chapter as slow, and put the files with slow tests first.

    Each worker takes the next file from the list, so the small ones should be at its end.
    """
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker("slow")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """After a cell with predictions, compare what it measured with the stored answers."""
    yield
    outputs = getattr(item, "test_outputs", None)
    if outputs and "check.prediction(" in item.cell.source:
        from cnnlab.course.profile import profile

        if profile() == "laptop":
            compare_answers(item.cell.source, "".join(o.get("text", "") for o in outputs))


def compare_answers(source: str, printed: str) -> None:
    """Compare what a cell printed with the stored answers to its predictions.

    Args:
        source: the cell.
        printed: what it printed: the verdicts of `check.prediction`, without a guess.

    Raises:
        AssertionError: a result differs from the stored answer by more than half its tolerance.
    """
    from cnnlab.course.check.modules import chapter_modules

    shown = re.sub(r"\s", "", printed)  # lines are wrapped
    for module in chapter_modules().values():
        for stored in module.PREDICTIONS:
            if f'"{stored.question}"' not in source:
                continue
            verdict = shown.partition(re.sub(r"\s", "", stored.question))[2]
            found = re.match(r"(?:Measured:|Theansweris)(-?\d+(?:\.\d+)?(?:e-?\d+)?)", verdict)
            if stored.options:
                agrees = verdict.startswith(re.sub(r"\s", "", f"The answer is {stored.answer}."))
            else:
                agrees = found and abs(float(found[1]) - stored.answer) <= stored.within / 2
            assert agrees, f"{stored.question} stored: {stored.answer}, printed: {verdict[:40]}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """After the last cell of a chapter, compare the time its kernel used with the budget."""
    kernel = getattr(item.parent, "kernel", None)
    last = nextitem is None or nextitem.parent is not item.parent
    spent = _processor_seconds(kernel.km.provisioner.pid) if kernel and last else 0.0
    yield
    if spent:
        from cnnlab.course.profile import profile

        allowed = BUDGET[profile()]
        if profile() == "laptop":
            allowed = min(allowed, GRACE * stated_seconds(item.path))
        assert spent <= allowed, f"{item.path.name} used {spent:.0f} s, it may use {allowed:.0f} s"


def stated_seconds(notebook: Path) -> int:
    """Return what the table on top of a chapter says: `| to run | 43 seconds ... |`."""
    found = re.search(r"\| to run \| (\d+) seconds", notebook.read_text(encoding="utf-8"))
    assert found, f"{notebook.name} does not say '| to run | 43 seconds on ... |' on top"
    return int(found[1])


def _processor_seconds(pid: int) -> float:
    import psutil

    process = psutil.Process(pid)
    every = [process, *process.children(recursive=True)]
    return sum(sum(p.cpu_times()[:4]) for p in every)

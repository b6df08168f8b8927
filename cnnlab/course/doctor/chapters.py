"""Checks of the chapters: does each script match its notebook, and how long will each take here?"""

import re
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from cnnlab.course import notebooks
from cnnlab.course.doctor.lines import Line, failure, ok, warning
from cnnlab.course.profile import ProfileError, profile


# Processor seconds that the training step below took where the chapters were timed.
REFERENCE = 0.030
# At this many times the reference, a chapter takes several minutes.
SLOW = 4.0
# If a step takes this many times as long as with one thread, the threads only slow each other down.
CROWDED = 1.5
STATED = re.compile(r"\| to run \| (\d+) seconds")


def chosen_profile() -> Iterator[Line]:
    """Check that `CNNLAB_PROFILE` names a profile."""
    try:
        yield ok("profile", profile())
    except ProfileError as error:
        yield failure("profile", str(error), "unset CNNLAB_PROFILE, or set it to one of these")


def pairing() -> Iterator[Line]:
    """Compare each notebook of a checkout with its script."""
    scripts = [s for path in find_chapters() if (s := path.with_suffix(".py")).is_file()]
    if not scripts:
        yield ok("pairing", "this is not a checkout, so there are no scripts to compare with")
    elif find_spec("jupytext") is None:
        yield ok("pairing", "not compared: only authors need it, and jupytext isn't installed")
    elif differing := [path.stem for path in scripts if not _match(path)]:
        fix = (
            "if the notebooks contain your answers, work on a copy instead: "
            "`cnnlab lab` creates one; authors run `make fix`"
        )
        yield warning("pairing", f"script and notebook differ: {', '.join(differing)}", fix)
    else:
        yield ok("pairing", f"{len(scripts)} scripts match their notebooks")


def _match(script: Path) -> bool:
    """Return whether a script and its notebook have the same cells with the same tags."""
    import jupytext

    def cells(path: Path) -> list[Any]:
        notebook = jupytext.read(path)
        return [(c.cell_type, c.source, c.metadata.get("tags", [])) for c in notebook.cells]

    return cells(script) == cells(script.with_suffix(".ipynb"))


def costs() -> Iterator[Line]:
    """Scale the running time that each chapter states by the speed of a training step here."""
    import torch

    threads = torch.get_num_threads()
    seconds = {n: step_seconds(n) for n in sorted({1, threads})}
    scale = seconds[threads] / REFERENCE
    finding = (
        f"a training step takes {1000 * seconds[threads]:.0f} ms here at the moment, and "
        f"{1000 * REFERENCE:.0f} ms where the chapters were timed: expect about {scale:.1f} times "
        "the seconds that they state"
    )
    if seconds[threads] > CROWDED * seconds[1]:
        finding += f"; with one thread instead of {threads} it takes {1000 * seconds[1]:.0f} ms"
        fix = (
            "other programs are using the processor: close them, or set OMP_NUM_THREADS=1 before "
            "you start JupyterLab"
        )
        yield warning("speed", finding, fix)
    elif scale > SLOW:
        fix = (
            "close other programs; for a first look set CNNLAB_PROFILE=smoke, which uses an eighth "
            "of the images"
        )
        yield warning("speed", finding, fix)
    else:
        yield ok("speed", finding)
    notebook_paths = find_chapters()
    if not notebook_paths:
        finding = "none beside the installed cnnlab, and none in the current folder"
        fix = "run cnnlab in the folder of the course, or in the folder of your copy"
        yield warning("chapters", finding, fix)
    for path in notebook_paths:
        if stated := STATED.search(path.read_text(encoding="utf-8")):
            here = scale * int(stated[1])
            yield ok(path.stem, f"about {here:.0f} s to run here; the chapter states {stated[1]} s")


def find_chapters() -> list[Path]:
    """Return the notebooks of the course; outside of it, the chapters in the current folder."""
    try:
        return notebooks.chapters()
    except FileNotFoundError:
        paths = sorted(Path.cwd().glob("*.ipynb"))
        return [path for path in paths if STATED.search(path.read_text("utf-8"))]


def step_seconds(threads: int, duration: float = 0.7) -> float:
    """Return the median seconds of a training step of `small_resnet` on 64 random images.

    Args:
        threads: how many threads torch uses meanwhile.
        duration: seconds to spend on the timing, after two warm-up steps.
    """
    import torch
    import torch.nn.functional as F

    from cnnlab.models import small_resnet
    from cnnlab.rng import fork_rng
    from cnnlab.training.options import best_device

    device = best_device()
    with fork_rng():
        model = small_resnet(12).to(device)
        images = torch.rand(64, 3, 32, 32).to(device)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)

    def step() -> float:
        start = time.perf_counter()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), torch.zeros(64, dtype=torch.long, device=device))
        loss.backward()
        optimizer.step()
        loss.item()  # waits for a GPU
        return time.perf_counter() - start

    previous_threads = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        step(), step()
        seconds, end = [step()], time.perf_counter() + duration
        while time.perf_counter() < end:
            seconds.append(step())
    finally:
        torch.set_num_threads(previous_threads)
    return median(seconds)

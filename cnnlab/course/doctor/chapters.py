"""The chapters: whether a script and its notebook agree, and what each will cost on this machine."""

import re
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from cnnlab.course import notebooks
from cnnlab.course.doctor.lines import Line, broken, fine, look
from cnnlab.course.profile import ProfileError, profile


REFERENCE = 0.030  # processor seconds of the step below, where the chapters were timed
SLOW = 4.0  # times the reference, where a chapter takes some minutes
CROWDED = 1.5  # times the seconds of one thread, where more threads only get into each other's way
STATED = re.compile(r"\| to run \| (\d+) seconds")


def chosen_profile() -> Iterator[Line]:
    """How much the chapters may cost."""
    try:
        yield fine("profile", profile())
    except ProfileError as error:
        yield broken("profile", str(error), "unset CNNLAB_PROFILE, or set it to one of these")


def pairing() -> Iterator[Line]:
    """In a checkout, a notebook that differs from its script: a student's answers, or an author's slip."""
    scripts = [s for path in found_chapters() if (s := path.with_suffix(".py")).is_file()]
    if not scripts:
        yield fine("pairing", "this is no checkout: there are no scripts")
    elif find_spec("jupytext") is None:
        yield fine("pairing", "not compared: only authors need it, and jupytext is not installed")
    elif differ := [path.stem for path in scripts if not _equal(path)]:
        way_out = "if these are your answers, keep them apart with `cnnlab lab --student DIR`; as an author, call `make fix`"
        yield look("pairing", f"script and notebook differ: {', '.join(differ)}", way_out)
    else:
        yield fine("pairing", f"{len(scripts)} scripts and their notebooks are equal")


def _equal(script: Path) -> bool:
    import jupytext

    def cells(path: Path) -> list[Any]:
        return [
            (c.cell_type, c.source, c.metadata.get("tags", [])) for c in jupytext.read(path).cells
        ]

    return cells(script) == cells(script.with_suffix(".ipynb"))


def costs() -> Iterator[Line]:
    """The seconds that each chapter states, scaled by the speed of a training step here."""
    import torch

    threads = torch.get_num_threads()
    seconds = {n: step_seconds(n) for n in sorted({1, threads})}
    scale = seconds[threads] / REFERENCE
    found = (
        f"a training step takes {1000 * seconds[threads]:.0f} ms here, as busy as it is now, and "
        f"{1000 * REFERENCE:.0f} ms where the chapters were timed: their seconds, times {scale:.1f}, are a rough guide"
    )
    if seconds[threads] > CROWDED * seconds[1]:
        ratio = f"; with one thread instead of {threads} it takes {1000 * seconds[1]:.0f} ms"
        way_out = "other programs use the processor: end them, or set OMP_NUM_THREADS=1 before you start JupyterLab"
        yield look("speed", found + ratio, way_out)
    elif scale > SLOW:
        way_out = "end other programs; for a first look set CNNLAB_PROFILE=smoke, which takes an eighth of the images"
        yield look("speed", found, way_out)
    else:
        yield fine("speed", found)
    every = found_chapters()
    if not every:
        way_out = "clone the repository of the course, and call cnnlab in its folder or in that of your copy"
        yield look(
            "chapters", "none beside the installed cnnlab, and none in the current folder", way_out
        )
    for path in every:
        if stated := STATED.search(path.read_text(encoding="utf-8")):
            told = f"about {scale * int(stated[1]):.0f} s to run here; it states {stated[1]} s"
            yield fine(path.stem, told)


def found_chapters() -> list[Path]:
    """Return the notebooks of the course; away from it, those of the current folder."""
    try:
        return notebooks.chapters()
    except FileNotFoundError:
        return [
            p for p in sorted(Path.cwd().glob("*.ipynb")) if STATED.search(p.read_text("utf-8"))
        ]


def step_seconds(threads: int, patience: float = 0.7) -> float:
    """Return the median seconds of a training step of the course's small network on 64 random images.

    Args:
        threads: of torch, for as long as this takes.
        patience: seconds to spend on it, after two steps that warm up.
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
        begun = time.perf_counter()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), torch.zeros(64, dtype=torch.long, device=device))
        loss.backward()
        optimizer.step()
        loss.item()  # waits for a GPU
        return time.perf_counter() - begun

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        step(), step()
        seconds, end = [step()], time.perf_counter() + patience
        while time.perf_counter() < end:
            seconds.append(step())
    finally:
        torch.set_num_threads(before)
    return median(seconds)

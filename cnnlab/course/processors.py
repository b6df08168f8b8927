"""Count the processors that this process may really use, on a machine that may have more."""

import os
from collections.abc import Iterator
from pathlib import Path


# Where Linux lists the control groups of this process, and what they may use.
GROUPS = Path("/proc/self/cgroup")
LIMITS = Path("/sys/fs/cgroup")


def available() -> int:
    """Return how many processors this process may use at the same time, at least 1.

    A batch system or `taskset` ties a process to some of the processors (its affinity). A container
    gives its control group a quota of processor time, which is rounded down: with 1.5 processors,
    two threads would be stopped a quarter of the time, and each waits for the other.

    >>> 1 <= available() <= os.cpu_count()
    True
    """
    tied = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([tied, *_quotas()])))


def _quotas() -> Iterator[float]:
    """Yield the quota of each control group of this process, and of the groups around them."""
    try:
        lines = GROUPS.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # Version 1 has one tree per controller. In a container, a path may be that of the host.
        trees = [LIMITS / controllers, LIMITS / "cpu"] if controllers else [LIMITS]
        group = Path(path.lstrip("/"))
        for tree in trees:
            for folder in (group, *group.parents):
                if (quota := _quota(tree / folder)) > 0:
                    yield quota


def _quota(folder: Path) -> float:
    """Return the quota in processors that a control group has; 0 if it has none."""
    try:
        if (file := folder / "cpu.max").is_file():
            quota, period = file.read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{x}_us").read_text() for x in ("quota", "period"))
        return int(quota) / int(period)
    except (OSError, ValueError):  # there is no such file, or it says "max"
        return 0.0

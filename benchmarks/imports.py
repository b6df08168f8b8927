"""Time the import of cnnlab and of other libraries, compared with the import of torch.

All but one of the libraries import torch themselves. Each import runs in its own Python process,
and its time is the CPU time of the whole process, including its start.
"""

import os
import subprocess
import sys
from functools import partial

from benchmarks.pairs import in_turn
from benchmarks.report import Row, Table, installed, options, write


# The imports at the top of a script that trains or augments with each library.
MODULES = (
    "accelerate",
    "kornia.augmentation",
    "albumentations",
    "ignite.engine",
    "skorch",
    "torchvision",
    "timm",
    "lightning",
    "keras",
    "fastai.vision.all",
)
PACKAGES = {"ignite": "pytorch-ignite"}  # module -> distribution, where the names differ
OWN = {
    "**cnnlab**": "import cnnlab",
    "**cnnlab**, its trainer": "import cnnlab; cnnlab.Trainer",
}
SHORT = {"**cnnlab**": "import cnnlab"}
GOAL = 1.05


def run(statement: str) -> None:
    """Run a statement in a new process, with one thread and without network requests."""
    settings = {"KERAS_BACKEND": "torch", "NO_ALBUMENTATIONS_UPDATE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", statement]
    subprocess.run(command, env=os.environ | settings, check=True, capture_output=True)


def children_cpu_time() -> float:
    """Return the CPU seconds of all finished child processes."""
    times = os.times()
    return times.children_user + times.children_system


def contestants() -> dict[str, str]:
    """Return the rows: name -> import statement."""
    available = installed([module.partition(".")[0] for module in MODULES], of="imports")
    peers = [module for module in MODULES if module.partition(".")[0] in available]
    return {"torch, again": "import torch"} | OWN | {f"`{m}`": f"import {m}" for m in peers}


def table(statements: dict[str, str], rounds: int) -> Table:
    """Time every import, in turn with the import of torch."""
    turns = {name: partial(run, statement) for name, statement in statements.items()}
    pairs = in_turn(partial(run, "import torch"), turns, rounds, clock=children_cpu_time)
    rows = [Row(name, pairs[name], GOAL if name in OWN else None) for name in turns]
    return Table("A new Python that imports", "`import torch`", "import", rows)


DESCRIPTION = (
    "Each ratio is the CPU time of a process that only imports the module, divided by the CPU time "
    "of a process that only imports torch."
)


def main(arguments: list[str] | None = None) -> list[Table]:
    """Run the benchmark and write its tables."""
    args = options("imports", arguments)
    tables = [table(SHORT if args.short else contestants(), rounds=1 if args.short else 9)]
    names = [module.partition(".")[0] for module in MODULES]
    packages = [PACKAGES.get(name, name) for name in names]
    write("imports", "Imports", DESCRIPTION, tables, packages, args.out)
    return tables


if __name__ == "__main__":
    main()

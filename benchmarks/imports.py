"""What it costs to import cnnlab and its peers, beside torch, which all but one of them bring in.

Each import runs in a Python of its own; its processor time is that of the finished process, start
included.
"""

import os
import subprocess
import sys
from functools import partial

from benchmarks.pairs import in_turn
from benchmarks.report import Row, Table, installed, options, write


MODULES = (  # what a script for training or augmentation begins with
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
PACKAGES = {"ignite": "pytorch-ignite"}  # where the distribution has another name than the module
OWN = {
    "**cnnlab**": "import cnnlab",
    "**cnnlab**, its trainer": "import cnnlab; cnnlab.Trainer",
}
SHORT = {"**cnnlab**": "import cnnlab"}
GOAL = 1.05


def run(statement: str) -> None:
    """Run a statement in a new process, with one thread and no question to the network."""
    quiet = {"KERAS_BACKEND": "torch", "NO_ALBUMENTATIONS_UPDATE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", statement]
    subprocess.run(command, env=os.environ | quiet, check=True, capture_output=True)


def spent_by_children() -> float:
    """Return the processor seconds of all processes that this one has started and that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def contestants() -> dict[str, str]:
    """Return the names of the rows and the statements behind them."""
    tops = installed([module.partition(".")[0] for module in MODULES], of="imports")
    peers = [module for module in MODULES if module.partition(".")[0] in tops]
    return {"torch, again": "import torch"} | OWN | {f"`{m}`": f"import {m}" for m in peers}


def table(statements: dict[str, str], rounds: int) -> Table:
    """Time every import beside that of torch."""
    turns = {name: partial(run, statement) for name, statement in statements.items()}
    pairs = in_turn(partial(run, "import torch"), turns, rounds, clock=spent_by_children)
    rows = [Row(name, pairs[name], GOAL if name in OWN else None) for name in turns]
    return Table("A new Python that imports", "`import torch`", "import", rows)


WORDS = "Processor time of a process that imports the module and ends, over one that imports torch."


def main(arguments: list[str] | None = None) -> list[Table]:
    """Measure and report."""
    chosen = options("imports", arguments)
    tables = [table(SHORT if chosen.short else contestants(), rounds=1 if chosen.short else 9)]
    tops = [module.partition(".")[0] for module in MODULES]
    write("imports", "Imports", WORDS, tables, [PACKAGES.get(t, t) for t in tops], chosen.out)
    return tables


if __name__ == "__main__":
    main()

"""The command `cnnlab`: open the chapters, execute them, make a book and copies of them, examine this machine."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cnnlab.errors import CnnlabError
from cnnlab.version import __version__


__all__ = [
    "assignment",
    "book",
    "copy",
    "doctor",
    "lab",
    "main",
    "pretrain",
    "run",
]


_WELCOME = """\
JupyterLab starts, and a browser opens on it. If none does, copy the address with `token=` that appears below into one;
the token keeps others out. To come from another computer, call there first: ssh -L 8888:localhost:8888 THIS-MACHINE
Begin with 01_training_loop.ipynb. Leave this terminal open: Ctrl-C in it, twice, ends JupyterLab."""
# JupyterLab tells only what matters, asks no server for news of itself, and encrypts what it says to a kernel.
_QUIET = (
    "--log-level=WARN",
    "--LabApp.news_url=None",
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    "--KernelManager.transport_encryption=auto",
)
_PORT = "If a port is taken, name another, as in `cnnlab lab --port 8899`."
_HINT = "; `cnnlab doctor` tells what is missing or broken"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 failed, 2 called wrongly, 130 stopped by hand."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if arguments.command is None and not rest:
        parser.print_help()
        return 0
    if rest and arguments.command is not lab:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    arguments.rest = rest
    try:
        return arguments.command(arguments)
    except (CnnlabError, ImportError, OSError) as error:
        print(f"cnnlab: {error}{_HINT if isinstance(error, ImportError) else ''}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("cnnlab: stopped", file=sys.stderr)
        return 130


def lab(arguments: argparse.Namespace) -> int:
    """Open JupyterLab on the chapters, on this machine alone and behind its token."""
    from cnnlab.course import notebooks

    notebooks.require("jupyterlab", extra="lab")
    from jupyterlab.labapp import main as jupyterlab

    options = [*_QUIET, *arguments.rest]
    if arguments.student is not None:
        from cnnlab.course import products

        options.insert(
            0, f"--ServerApp.root_dir={products.kept(arguments.student.expanduser()).resolve()}"
        )
    elif not any(option.startswith("--ServerApp.root_dir") for option in options):
        options.insert(0, f"--ServerApp.root_dir={notebooks.root() / 'chapters'}")
    print(_WELCOME, flush=True)
    try:
        return jupyterlab(options) or 0
    except SystemExit as stop:
        if stop.code:
            print("cnnlab: JupyterLab did not start, for the reason above.", _PORT, file=sys.stderr)
        return int(bool(stop.code))


def run(arguments: argparse.Namespace) -> int:
    """Execute chapters, several at a time, and print the seconds of each as it ends."""
    from cnnlab.course import notebooks

    begin, total = time.perf_counter(), 0.0
    chapters = notebooks.chapters(arguments.chapters)
    _say(f"{arguments.jobs} at a time; most take about a minute.")
    for chapter, seconds in notebooks.run_all(chapters, arguments.jobs, arguments.cell_timeout):
        print(f"{chapter.stem:<32}{seconds:6.1f} s", flush=True)
        total += seconds
    print(f"{'all':<32}{total:6.1f} s, in {time.perf_counter() - begin:.0f} s by the clock")
    return 0


def book(arguments: argparse.Namespace) -> int:
    """Build the book and say where it lies."""
    from cnnlab.course.book import build_book

    _say(
        "Every chapter is executed, which takes some ten minutes the first time, and then a page a chapter written."
    )
    print(f"The book begins at {build_book(arguments.out)}")
    return 0


def copy(arguments: argparse.Namespace) -> int:
    """Write the copy for students or for instructors."""
    from cnnlab.course import products

    make = {"student": products.student, "instructor": products.instructor}[arguments.name]
    print(f"The chapters are in {make(arguments.out, force=arguments.force)}")
    return 0


def assignment(arguments: argparse.Namespace) -> int:
    """Write a graded assignment for nbgrader."""
    from cnnlab.course import products

    made = products.assignment(
        arguments.name, arguments.out, student_seed=arguments.student_seed, force=arguments.force
    )
    print(f"The assignment is in {made}; its README.md says how to hand it out and grade it")
    return 0


def pretrain(arguments: argparse.Namespace) -> int:
    """Train glyphnet again and say what it reached."""
    _say("16,000 glyphs are drawn, then the network trains on them: some minutes.")
    from cnnlab.course.pretrain import Recipe
    from cnnlab.course.pretrain import pretrain as make

    card = make(arguments.out, Recipe(seed=arguments.seed))
    accuracy, seconds = card["accuracy"]["test"], card["processor_seconds"]
    print(f"glyphnet: {accuracy:.1%} of the test glyphs, {seconds} s of the processor")
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    """Examine this installation and this machine, and print a report to paste."""
    from cnnlab.course import doctor

    lines = doctor.examine()
    print(doctor.report(lines))
    return int(any(line.verdict is doctor.Verdict.BROKEN for line in lines))


def _say(text: str) -> None:
    """Tell a person at a terminal what is about to take long."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cnnlab",
        description=__doc__,
        epilog="Begin with `cnnlab lab`. When something does not work: `cnnlab doctor`.",
    )
    parser.add_argument("--version", action="version", version=f"cnnlab {__version__}")
    parser.set_defaults(command=None)
    commands = parser.add_subparsers(metavar="COMMAND")

    command = commands.add_parser(
        "lab",
        help="open the chapters in JupyterLab",
        description="Open the chapters in JupyterLab. Other options, such as --no-browser, are JupyterLab's.",
    )
    command.add_argument(
        "--student", type=Path, metavar="DIR", help="on your own copy in DIR, made the first time"
    )
    command.set_defaults(command=lab)

    command = commands.add_parser(
        "doctor", help="report what is installed, what this machine can do, and what is broken"
    )
    command.set_defaults(command=doctor)

    command = commands.add_parser("run", help="execute chapters and print the seconds of each")
    command.add_argument(
        "chapters", nargs="*", metavar="CHAPTER", help="1, 01_training_loop or a path"
    )
    command.add_argument(
        "--cell-timeout", type=int, default=300, metavar="SECONDS", help="for one cell (300)"
    )
    command.add_argument(
        "--jobs", type=_positive, default=2, metavar="N", help="chapters at a time (2)"
    )
    command.set_defaults(command=run)

    command = commands.add_parser("book", help="build the Jupyter Book")
    command.add_argument(
        "--out", type=Path, metavar="DIR", help="the book goes into DIR/_build/html"
    )
    command.set_defaults(command=book)

    for name, told in (("student", "without answers"), ("instructor", "with answers and notes")):
        command = commands.add_parser(name, help=f"write a copy of the chapters {told}")
        command.add_argument("out", type=Path, metavar="OUT", help="a folder that is not there yet")
        command.add_argument(
            "--force", action="store_true", help="move what is there to OUT.1, OUT.2, ..."
        )
        command.set_defaults(command=copy, name=name)

    command = commands.add_parser("assignment", help="write a graded assignment for nbgrader")
    command.add_argument("name", metavar="NAME", help="a folder of assignments/")
    command.add_argument("out", type=Path, metavar="OUT", help="a folder that is not there yet")
    command.add_argument(
        "--student-seed", type=int, default=0, metavar="N", help="of the student's data (0)"
    )
    command.add_argument(
        "--force", action="store_true", help="move what is there to OUT.1, OUT.2, ..."
    )
    command.set_defaults(command=assignment)

    command = commands.add_parser(
        "pretrain", help="make glyphnet, the network that ships with the course, again"
    )
    command.add_argument(
        "--out", type=Path, metavar="DIR", help="the folder for the weights (the package's own)"
    )
    command.add_argument("--seed", type=int, default=0, help="of glyphs, weights and order (0)")
    command.set_defaults(command=pretrain)
    return parser

"""The command `cnnlab`: open the chapters, execute them, build the book, make glyphnet again."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cnnlab.errors import CnnlabError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 failed, 2 called wrongly."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and arguments.command is not lab:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    arguments.rest = rest
    try:
        return arguments.command(arguments)
    except (CnnlabError, FileNotFoundError, ModuleNotFoundError, PermissionError) as error:
        print(f"cnnlab: {error}", file=sys.stderr)
        return 1


def lab(arguments: argparse.Namespace) -> int:
    """Open JupyterLab on the chapters, on this machine alone and behind its token."""
    from cnnlab import course

    course.require("jupyterlab", extra="lab")
    from jupyterlab.labapp import main as jupyterlab

    options = list(arguments.rest)
    if not any(option.startswith("--ServerApp.root_dir") for option in options):
        options.insert(0, f"--ServerApp.root_dir={course.root() / 'chapters'}")
    return jupyterlab(options) or 0


def run(arguments: argparse.Namespace) -> int:
    """Execute chapters one after another and print the seconds of each."""
    from cnnlab import course

    total = 0.0
    for chapter in course.chapters(arguments.chapters):
        print(f"{chapter.stem:<32}", end="", flush=True)
        try:
            seconds = course.run(chapter, cell_timeout=arguments.cell_timeout)
        except course.ChapterError:
            print("  failed", flush=True)
            raise
        print(f"{seconds:6.1f} s", flush=True)
        total += seconds
    print(f"{'all':<32}{total:6.1f} s")
    return 0


def book(arguments: argparse.Namespace) -> int:
    """Build the book and say where it lies."""
    from cnnlab import course

    print(f"The book begins at {course.build_book(arguments.out)}")
    return 0


def copy(arguments: argparse.Namespace) -> int:
    """Write the copy for students or for instructors."""
    from cnnlab import products

    make = {"student": products.student, "instructor": products.instructor}[arguments.name]
    print(f"The chapters are in {make(arguments.out, force=arguments.force)}")
    return 0


def pretrain(arguments: argparse.Namespace) -> int:
    """Train glyphnet again and say what it reached."""
    from cnnlab.pretrain import Recipe
    from cnnlab.pretrain import pretrain as make

    card = make(arguments.out, Recipe(seed=arguments.seed))
    accuracy, seconds = card["accuracy"]["test"], card["processor_seconds"]
    print(f"glyphnet: {accuracy:.1%} of the test glyphs, {seconds} s of the processor")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cnnlab", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser(
        "lab",
        help="open the chapters in JupyterLab",
        description="Open the chapters in JupyterLab. Other options, such as --no-browser, are JupyterLab's.",
    )
    command.set_defaults(command=lab)

    command = commands.add_parser("run", help="execute chapters and print the seconds of each")
    command.add_argument(
        "chapters", nargs="*", metavar="CHAPTER", help="1, 01_training_loop or a path"
    )
    command.add_argument(
        "--cell-timeout", type=int, default=300, metavar="SECONDS", help="for one cell (300)"
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

    command = commands.add_parser(
        "pretrain", help="make glyphnet, the network that ships with the course, again"
    )
    command.add_argument(
        "--out", type=Path, metavar="DIR", help="the folder for the weights (the package's own)"
    )
    command.add_argument("--seed", type=int, default=0, help="of glyphs, weights and order (0)")
    command.set_defaults(command=pretrain)
    return parser

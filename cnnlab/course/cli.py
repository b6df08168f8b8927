"""The command `cnnlab`: open, execute, copy and publish the chapters, and examine this machine."""

import argparse
import math
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from cnnlab.errors import CnnlabError
from cnnlab.files import user_path
from cnnlab.version import __version__


__all__ = [
    "assignment",
    "book",
    "check_key",
    "colab",
    "copy",
    "doctor",
    "items",
    "lab",
    "main",
    "pretrain",
    "questions",
    "run",
    "slides",
    "study",
]


_WELCOME = """\
JupyterLab is starting and will open in your browser. If it doesn't, copy the address with `token=`
that appears below into your browser. The token keeps other people out. If this is a remote machine,
run this on your own computer first: ssh -L 8888:localhost:8888 THIS-MACHINE
Leave this terminal open while you work. Press Ctrl-C twice to quit."""
_BOOK_IS_BUILT = """\
The first page of the book is {page}
The search finds pages, but can't show what they say, as long as the book is opened from files.
To search with excerpts, run this and open http://127.0.0.1:8000
    {serve}"""
# With one of these, the user says which folder JupyterLab shows.
_ROOT_OPTIONS = ("--ServerApp.root_dir", "--notebook-dir")
_PORT_HINT = "If the port is in use, choose another one, for example `cnnlab lab --port 8899`."
_IMPORT_HINT = "; run `cnnlab doctor` to see what is missing or broken"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    The codes are 0 for success, 1 for a failure, 2 for wrong arguments, and 130 for Ctrl-C.
    """
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
        hint = _IMPORT_HINT if isinstance(error, ImportError) else ""
        print(f"cnnlab: {error}{hint}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("cnnlab: stopped", file=sys.stderr)
        return 130


def lab(arguments: argparse.Namespace) -> int:
    """Open a student's copy or the chapters in JupyterLab, for this machine only, with a token."""
    from cnnlab.course import copies, notebooks
    from cnnlab.course import lab as settings

    notebooks.require("jupyterlab", extra="lab")
    from jupyterlab.labapp import main as jupyterlab

    folder, start = None, None
    if arguments.source:
        folder = notebooks.own_root() / "chapters"
    elif not any(option.startswith(_ROOT_OPTIONS) for option in arguments.rest):
        folder, start = _open_copy(arguments.student or copies.default_folder())
    settings.prepare_environment()
    options = settings.options(arguments.rest, folder=folder, start=start)
    print(_WELCOME, flush=True)
    try:
        return jupyterlab(options) or 0
    except SystemExit as stop:
        if stop.code:
            message = "cnnlab: JupyterLab didn't start, for the reason printed above."
            print(message, _PORT_HINT, file=sys.stderr)
        return int(bool(stop.code))


def _open_copy(out: Path) -> tuple[Path, str]:
    """Create a student's copy or bring it up to date; return its folder and its start page."""
    from cnnlab.course import copies, products

    out = user_path(out).resolve()
    for sentence in copies.prepare(out):
        print(sentence)
    print(f"Your copy of the course is {out}. An update never overwrites what you write there.")
    return out, products.START


def run(arguments: argparse.Namespace) -> int:
    """Execute chapters, several at a time, and print how long each one took."""
    from cnnlab.course import copies, notebooks

    start, total = time.perf_counter(), 0.0
    here = Path.cwd()
    chapters = notebooks.chapters(arguments.chapters, here if copies.is_copy(here) else None)
    _announce(f"Running {arguments.jobs} at a time; most chapters take about a minute.")
    for chapter, seconds in notebooks.run_all(chapters, arguments.jobs, arguments.cell_timeout):
        print(f"{chapter.stem:<32}{seconds:6.1f} s", flush=True)
        total += seconds
    print(f"{'all':<32}{total:6.1f} s, in {time.perf_counter() - start:.0f} s by the clock")
    return 0


def book(arguments: argparse.Namespace) -> int:
    """Build the book and print where it is."""
    from cnnlab.course.book import build_book, build_pdf

    _announce("Executing every chapter takes about ten minutes the first time; the pages follow.")
    options = {"engine": arguments.engine, "student": arguments.student}
    if arguments.pdf:
        print(f"The book is {build_pdf(arguments.out, **options)}")
        return 0
    page = build_book(arguments.out, **options)
    server = ["-m", "http.server", "8000", "--bind", "127.0.0.1", "--directory", str(page.parent)]
    print(_BOOK_IS_BUILT.format(page=page, serve=shlex.join([sys.executable, *server])))
    return 0


def copy(arguments: argparse.Namespace) -> int:
    """Write a copy of the chapters for students or for instructors, or restore some of them."""
    from cnnlab.course import copies, products

    if arguments.restore:
        for sentence in copies.restore(user_path(arguments.out), arguments.restore):
            print(sentence)
        return 0
    write = {"student": products.student, "instructor": products.instructor}[arguments.kind]
    folder = write(arguments.out, force=arguments.force)
    print(f"The chapters are in {folder}")
    if arguments.wheel:
        products.add_wheel(folder, user_path(arguments.wheel))
        print("The wheel is in it too: `pip install -r requirements.txt` in the folder installs it")
    return 0


def colab(arguments: argparse.Namespace) -> int:
    """Write the students' notebooks for Google Colab and Kaggle."""
    from cnnlab.course import colab

    out = colab.write(
        user_path(arguments.out),
        arguments.repository,
        branch=arguments.branch,
        folder=arguments.folder,
        package=arguments.package,
        force=arguments.force,
    )
    print(f"The notebooks are in {out}. Commit and push them: Colab opens them from GitHub.")
    return 0


def assignment(arguments: argparse.Namespace) -> int:
    """Write a graded assignment for nbgrader, or give each student of a course their own seed."""
    from cnnlab.course import assignments, otter

    into = user_path(arguments.into) if arguments.into else None
    rules = user_path(arguments.rules) if arguments.rules else None
    if arguments.roster:
        if into is None:
            raise assignments.AssignmentError("--roster FILE needs --into COURSE as well")
        n = assignments.hand_out(arguments.name, into, user_path(arguments.roster))
        print(f"{n} notebooks to hand out are in {into / 'handout'}, each with its own seed")
        return 0
    if (arguments.out is None) == (into is None):
        raise assignments.AssignmentError(
            "say where to write: OUT for the folder of a new course, or --into COURSE"
        )
    if arguments.otter:
        if into is not None:
            raise assignments.AssignmentError("--otter writes a folder of its own: say OUT")
        folder = otter.write(
            arguments.name,
            arguments.out,
            student_seed=arguments.student_seed,
            rules=rules,
            force=arguments.force,
        )
        print(f"The assignment is in {folder}; read in its README.md what otter can't do")
        return 0
    folder = assignments.write(
        arguments.name,
        arguments.out,
        into=into,
        student_seed=arguments.student_seed,
        rules=rules,
        force=arguments.force,
    )
    print(f"The assignment is in {folder}; its README.md explains how to hand it out and grade it")
    return 0


def slides(arguments: argparse.Namespace) -> int:
    """Make a deck of slides of each named chapter."""
    from cnnlab.course import notebooks, slides

    for chapter in notebooks.chapters(arguments.chapters):
        _announce(f"Executing {chapter.stem} takes about a minute.")
        print(f"{slides.write(chapter, user_path(arguments.out))}: open it in a browser")
    print("Press S for the speaker's notes, with answers to the questions, and ? for all keys.")
    return 0


def check_key(arguments: argparse.Namespace) -> int:
    """Examine a key that an instructor wrote; the exit code is 1 if anything is wrong."""
    from cnnlab.course import keys

    wrong = 0
    for name, found in keys.problems(user_path(arguments.key), arguments.seeds):
        print(
            f"✘ {name}" if found else f"✔ {name}: the solution passes, every mistake is recognised"
        )
        for sentence in found:
            print(f"    {sentence}")
        wrong += len(found)
    return int(wrong > 0)


def items(arguments: argparse.Namespace) -> int:
    """Count the misconceptions in the graded submissions of an assignment."""
    from cnnlab.course import items

    course = user_path(arguments.course)
    for item in items.write(course, arguments.name):
        print(f"{item.question} ({item.n} submissions)")
        for what, n in item.counts.items():
            print(f"{100 * n / item.n:5.0f} %  {what}")
    print(f"{course / 'items'} has the table and the figure")
    return 0


def study(arguments: argparse.Namespace) -> int:
    """List the studies, run one seed of a study, or merge the tables of a class."""
    from cnnlab.course import classroom

    if arguments.name is None:
        for name, seconds in classroom.seconds_per_seed().items():
            print(f"{name:<28}{seconds:6.0f} s for one seed, on one core")
        return 0
    if arguments.merge:
        merged = classroom.merge(arguments.name, map(user_path, arguments.merge))
        print(merged)
        picture = user_path(arguments.out) / f"{arguments.name}.svg"
        picture.parent.mkdir(parents=True, exist_ok=True)
        merged.plot().save(picture)
        print(f"{picture} shows how the intervals shrink")
        return 0
    if arguments.seed is None:
        raise CnnlabError("say --seed N, with a number that nobody else has, or --merge FILES")
    seconds = classroom.seconds_per_seed([arguments.name]).get(arguments.name, math.nan)
    _announce(f"The stored study took {seconds:.0f} s per seed.")
    table = classroom.run(arguments.name, arguments.seed, user_path(arguments.out))
    print(
        f"Your seed is in {table}. Give the file to the person who merges the tables of the class."
    )
    return 0


def questions(arguments: argparse.Namespace) -> int:
    """Write the questions about exercises and predictions for Moodle and Anki."""
    from cnnlab.course import questions

    n = questions.write(user_path(arguments.out), arguments.chapters)
    print(f"{n} questions are in {arguments.out}: moodle.xml for Moodle, anki.txt for Anki")
    return 0


def pretrain(arguments: argparse.Namespace) -> int:
    """Train glyphnet again and print its accuracy."""
    _announce("Drawing 16,000 glyphs and training the network on them takes a few minutes.")
    from cnnlab.course.pretrain import Recipe
    from cnnlab.course.pretrain import pretrain as train_and_save

    card = train_and_save(arguments.out, Recipe(seed=arguments.seed))
    accuracy, seconds = card["accuracy"]["test"], card["processor_seconds"]
    print(f"glyphnet: test accuracy {accuracy:.1%}, {seconds} s of processor time")
    return 0


def replicate(arguments: argparse.Namespace) -> int:
    """Repeat the stored studies with new seeds, and print which claims hold again."""
    from cnnlab.course import replicate

    _announce("The studies take hours. Stop with Ctrl-C; the same command goes on from there.")
    report = replicate.replicate(arguments.studies, say=partial(print, flush=True))
    print(replicate.markdown(report))
    print(f"{replicate.summary(report)}; chapters/studies/replication.csv has the report")
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    """Examine this installation and this machine, and print a report to paste into a question."""
    from cnnlab.course import doctor

    lines = doctor.examine()
    print(doctor.report(lines))
    return int(any(line.verdict is doctor.Verdict.BROKEN for line in lines))


def _announce(text: str) -> None:
    """Print what is about to take a while, if a person is watching the terminal."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr)


# The arguments of each command.


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cnnlab",
        description=__doc__,
        epilog="Start with `cnnlab lab`. If something doesn't work, run `cnnlab doctor`.",
    )
    parser.add_argument("--version", action="version", version=f"cnnlab {__version__}")
    parser.set_defaults(command=None)
    add_command = parser.add_subparsers(metavar="COMMAND").add_parser
    _add_lab(add_command)
    add_command(
        "doctor", help="report what is installed, what this machine can do, and what is broken"
    ).set_defaults(command=doctor)
    _add_run(add_command)
    _add_book(add_command)
    _add_copy(add_command, "student", "without answers")
    _add_copy(add_command, "instructor", "with answers and notes")
    _add_colab(add_command)
    _add_assignment(add_command)
    _add_slides(add_command)
    _add_check_key(add_command)
    _add_items(add_command)
    _add_questions(add_command)
    _add_pretrain(add_command)
    _add_replicate(add_command)
    _add_study(add_command)
    return parser


AddCommand = Callable[..., argparse.ArgumentParser]


def _add_lab(add_command: AddCommand) -> None:
    parser = add_command(
        "lab",
        help="open your copy of the course in JupyterLab",
        description="Open your copy of the course in JupyterLab. The first call creates it; later "
        "calls open it again and add what is new in the course, without touching what you have "
        "changed. Any other option, such as --no-browser, is passed to JupyterLab.",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--student",
        type=Path,
        metavar="DIR",
        help="the folder of your copy (default: the current folder if it is a copy, or else "
        "~/cnnlab-course)",
    )
    which.add_argument(
        "--source",
        action="store_true",
        help="for authors and instructors: open the chapters themselves, with their solutions",
    )
    parser.set_defaults(command=lab)


def _add_run(add_command: AddCommand) -> None:
    parser = add_command("run", help="execute chapters and print how long each one takes")
    parser.add_argument(
        "chapters",
        nargs="*",
        metavar="CHAPTER",
        help="1, 01_training_loop or a path; all chapters by default",
    )
    parser.add_argument(
        "--cell-timeout",
        type=int,
        default=300,
        metavar="SECONDS",
        help="time limit for one cell (default: 300)",
    )
    parser.add_argument(
        "--jobs",
        type=_positive_integer,
        default=2,
        metavar="N",
        help="chapters to execute at the same time (default: 2)",
    )
    parser.set_defaults(command=run)


def _add_book(add_command: AddCommand) -> None:
    parser = add_command("book", help="build the book, as pages or as a PDF")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="write the book to DIR/_build/html, DIR/_build/sphinx or DIR/_build/book.pdf "
        "(default: the folder of the course; the current folder if the course is installed; for "
        "students, _build/student in it)",
    )
    parser.add_argument(
        "--engine",
        choices=("jupyter-book", "sphinx"),
        default="jupyter-book",
        help="Jupyter Book 1 (default), or Sphinx alone, whose current version needs an "
        "environment of its own: pip install 'cnnlab[sphinx]'",
    )
    parser.add_argument(
        "--pdf", action="store_true", help="print it to one PDF, with Chromium, Chrome or Edge"
    )
    parser.add_argument(
        "--student",
        action="store_true",
        help="a book for students, without solutions and without pages for instructors",
    )
    parser.set_defaults(command=book)


def _add_copy(add_command: AddCommand, kind: str, contents: str) -> None:
    parser = add_command(kind, help=f"write a copy of the chapters {contents}")
    _add_destination(parser)
    parser.set_defaults(command=copy, kind=kind, restore=[], wheel=None)
    if kind == "student":
        parser.add_argument(
            "--restore",
            action="append",
            default=[],
            metavar="CHAPTER",
            help="bring a chapter, such as 03, back as it was in the copy OUT; your version is "
            "renamed, and nothing else changes (may be repeated)",
        )
        parser.add_argument(
            "--wheel",
            type=Path,
            metavar="FILE",
            help="put this wheel of cnnlab into the copy, so that the folder is all that students "
            "need to install the course",
        )


def _add_colab(add_command: AddCommand) -> None:
    parser = add_command(
        "colab",
        help="write the students' notebooks for Google Colab and Kaggle, which install cnnlab",
    )
    _add_destination(parser)
    parser.add_argument(
        "--repository",
        required=True,
        metavar="URL",
        help="where you publish OUT, such as https://github.com/OWNER/NAME",
    )
    parser.add_argument(
        "--branch",
        default="main",
        metavar="NAME",
        help="the branch that you publish (default: main)",
    )
    parser.add_argument(
        "--folder",
        metavar="PATH",
        help="where OUT will be in the repository; . for its top (default: the name of OUT)",
    )
    parser.add_argument(
        "--package",
        metavar="WHAT",
        help="what pip installs: a version, such as cnnlab==0.2.0, or the address of a wheel "
        "(default: the repository, if it is a copy of cnnlab's)",
    )
    parser.set_defaults(command=colab)


def _add_assignment(add_command: AddCommand) -> None:
    parser = add_command("assignment", help="write a graded assignment for nbgrader")
    parser.add_argument("name", metavar="NAME", help="the name of a folder in assignments/")
    _add_destination(parser, nargs="?")
    parser.add_argument(
        "--into",
        type=Path,
        metavar="COURSE",
        help="add it to a course that may have others already, instead of OUT",
    )
    parser.add_argument(
        "--roster",
        type=Path,
        metavar="FILE",
        help="after `nbgrader generate_assignment`, write one notebook per student, each with its "
        "own seed; the first column of this CSV file has the students",
    )
    parser.add_argument(
        "--student-seed", type=int, default=0, metavar="N", help="seed of the data (default: 0)"
    )
    parser.add_argument(
        "--rules",
        type=Path,
        metavar="FILE",
        help="Markdown with your rules on deadlines, resubmission, working together and AI "
        "assistants (default: assignments/rules.md)",
    )
    parser.add_argument(
        "--otter",
        action="store_true",
        help="write it for otter-grader and Gradescope instead, which can't isolate an answer",
    )
    parser.set_defaults(command=assignment)


def _add_slides(add_command: AddCommand) -> None:
    parser = add_command(
        "slides", help="make a deck of slides of a chapter, as one HTML file that works offline"
    )
    parser.add_argument(
        "chapters", nargs="+", metavar="CHAPTER", help="1, 01_training_loop or a path"
    )
    parser.add_argument(
        "--out", default="slides", metavar="DIR", help="the folder for the decks (default: slides)"
    )
    parser.set_defaults(command=slides)


def _add_check_key(add_command: AddCommand) -> None:
    parser = add_command(
        "check-key", help="try the solution and every known mistake of your own key many times"
    )
    parser.add_argument("key", metavar="FILE", help="a Python file with a dict `EXERCISES`")
    parser.add_argument(
        "--seeds",
        type=_positive_integer,
        default=200,
        metavar="N",
        help="how often each is judged, on other random problems (default: 200)",
    )
    parser.set_defaults(command=check_key)


def _add_items(add_command: AddCommand) -> None:
    parser = add_command(
        "items", help="count the misconceptions in the graded submissions of an assignment"
    )
    parser.add_argument("name", metavar="NAME", help="the name of the assignment")
    parser.add_argument("course", type=Path, metavar="COURSE", help="the folder of the course")
    parser.set_defaults(command=items)


def _add_questions(add_command: AddCommand) -> None:
    parser = add_command(
        "questions", help="write questions about exercises and predictions for Moodle and Anki"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write to")
    parser.add_argument(
        "chapters",
        type=_chapter_number,
        nargs="*",
        metavar="CHAPTER",
        help="the number of a chapter, such as 4; all chapters by default",
    )
    parser.set_defaults(command=questions)


def _add_pretrain(add_command: AddCommand) -> None:
    parser = add_command(
        "pretrain", help="train glyphnet, the network that comes with the course, again"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="the folder for the weights (default: the one in the package)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="seed of the glyphs, the initial weights and the batches (default: 0)",
    )
    parser.set_defaults(command=pretrain)


def _add_replicate(add_command: AddCommand) -> None:
    parser = add_command(
        "replicate", help="repeat the stored studies with new seeds, and compare their claims"
    )
    parser.add_argument(
        "studies",
        nargs="*",
        metavar="STUDY",
        help="such as 04_few_labels; all that declare claims by default",
    )
    parser.set_defaults(command=replicate)


def _add_study(add_command: AddCommand) -> None:
    parser = add_command(
        "study", help="repeat a stored study as a class, with one seed per student"
    )
    parser.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="such as 04_few_labels; without a name, the studies and their seconds are listed",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--seed", type=int, metavar="N", help="run one seed and write its table")
    what.add_argument(
        "--merge",
        nargs="+",
        metavar="FILE",
        help="tables of the class, or folders with them: judge the claims and draw the intervals",
    )
    parser.add_argument(
        "--out",
        default=".",
        metavar="DIR",
        help="the folder for the table or the figure (default: the current one)",
    )
    parser.set_defaults(command=study)


def _add_destination(parser: argparse.ArgumentParser, nargs: str | None = None) -> None:
    parser.add_argument(
        "out", type=Path, nargs=nargs, metavar="OUT", help="a folder that doesn't exist yet"
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="if OUT exists, rename it to OUT.1, OUT.2, ... instead of stopping",
    )


def _positive_integer(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text!r}")
    return int(text)


def _chapter_number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(
            f"must be the number of a chapter, such as 4; got {text!r}"
        )
    return int(text)

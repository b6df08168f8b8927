"""The wheel is the course, away from the repository and without a network."""

import html as html_module
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import urllib.request
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest

from cnnlab.course import assignments, products


ROOT = Path(__file__).parents[1]
OFFLINE = ROOT / "tests" / "offline"
CONTENT = "cnnlab/course/content"
FOLDERS = ("chapters", "assignments", "_ext", "_static")
TOC = """format: jb-book
root: chapters/B_checklist
chapters:
- file: chapters/00_first_network
- file: chapters/D_library
"""
OWN_TOC = """format: jb-book
root: chapters/my_campus
chapters:
- file: chapters/05_schedules
- file: chapters/00_first_network
- file: chapters/instructor/grading
"""
TEXT = {".html", ".ipynb", ".js", ".md", ".txt", ".json", ".py"}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the source distribution and, from it, the wheel, as the release does."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    return path


def tracked(*paths: str) -> set[str]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *paths]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name for name in listed.split("\0") if name and (ROOT / name).is_file()}


def test_the_wheel_has_every_file_of_the_course_and_no_output(wheel):
    assert wheel.stat().st_size < 3e6
    with zipfile.ZipFile(wheel) as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist()}
    assert tracked("cnnlab") <= files.keys()
    found = {name.removeprefix(f"{CONTENT}/") for name in files if name.startswith(CONTENT)}
    settings = ("_toc.yml", "_config.yml", "myst.yml", "LICENSE", "LICENSE-TEXT.md")
    expected = tracked(*FOLDERS, *settings)
    assert expected - found == {
        "chapters/ruff.toml",
        *(name for name in expected if re.fullmatch(r"chapters/(\d\d|[A-Z])_\w+\.py", name)),
    }
    assert found <= expected
    for name in found:
        assert files[f"{CONTENT}/{name}"] == (ROOT / name).read_bytes()
        if name.endswith(".ipynb"):
            cells = json.loads(files[f"{CONTENT}/{name}"])["cells"]
            assert not any(cell.get("outputs") for cell in cells)


class Installed(NamedTuple):
    """An environment with the wheel, and an empty folder to work in."""

    command: str
    content: Path
    work: Path
    env: dict[str, str]

    def run(self, *arguments: str, folder: Path | None = None) -> str:
        """Run `cnnlab` in the folder and return what it prints."""
        done = subprocess.run(
            [self.command, *arguments], cwd=folder or self.work, env=self.env,
            capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Iterator[Installed]:
    """Install the wheel alone; all that it needs comes from the environment of the tests.

    In the end its files are as they were installed, and nothing has asked for the network.
    """
    folder = tmp_path_factory.mktemp("elsewhere").resolve()
    base = folder / "venv"
    venv.create(base, symlinks=os.name != "nt")
    places = sysconfig.get_paths("venv", vars={"base": str(base), "platbase": str(base)})
    python = Path(places["scripts"], "python.exe" if os.name == "nt" else "python")
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*command, "--no-index", "--no-deps", str(wheel)], check=True)
    ours = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    Path(places["purelib"], "ours.pth").write_text("\n".join(ours))
    (work := folder / "home").mkdir()
    share = Path(sys.prefix, "share", "jupyter")
    env = {name: value for name, value in os.environ.items() if not name.startswith("JUPYTER")}
    env |= {
        "CNNLAB_PROFILE": "smoke",
        "CNNLAB_REFUSED": str(folder / "refused.txt"),
        "HOME": str(work),
        "USERPROFILE": str(work),
        "JUPYTERLAB_DIR": str(share / "lab"),
        "JUPYTER_PATH": str(share),
        "JUPYTER_CONFIG_PATH": str(Path(sys.prefix, "etc", "jupyter")),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(OFFLINE),
    }
    content = Path(places["purelib"], CONTENT)
    before = snapshot(content)
    yield Installed(str(python.with_name("cnnlab")), content, work, env)
    assert snapshot(content) == before
    assert not (folder / "refused.txt").exists()


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


def test_doctor_finds_nothing_broken_and_every_chapter(installed):
    report = installed.run("doctor")
    assert "Nothing is broken" in report
    assert "there are no scripts to compare with" in report
    chapters = [path.stem for path in installed.content.glob("chapters/*_*.ipynb")]
    assert len(chapters) > 13
    assert all(re.search(rf"^fine +{name} ", report, re.MULTILINE) for name in chapters)


def test_a_chapter_runs(installed):
    assert re.search(r"^00_first_network +\d", installed.run("run", "0"), re.MULTILINE)


def test_a_notebook_for_colab_runs_alone_in_an_empty_folder(installed):
    installed.run("colab", "lessons", "--repository", "https://github.com/ann/course")
    alone = installed.work / "content"
    alone.mkdir()
    notebook = alone / "04_mixing.ipynb"  # it reads tables of studies
    shutil.copy(installed.work / "lessons" / notebook.name, notebook)
    assert "04_mixing" in installed.run("run", str(notebook))
    assert list((alone / "studies").glob("*.csv"))


def test_the_copies_and_an_assignment_are_those_of_the_checkout(installed, tmp_path):
    products.student(tmp_path / "student")
    products.instructor(tmp_path / "instructor")
    assignments.write("techniques", tmp_path / "techniques")
    installed.run("student", "student")
    installed.run("instructor", "instructor")
    installed.run("assignment", "techniques", "techniques")
    for name in ("student", "instructor", "techniques"):
        assert snapshot(installed.work / name) == snapshot(tmp_path / name)


def test_a_book_is_built_in_the_current_folder(installed):
    toc = installed.content / "_toc.yml"
    full = toc.read_bytes()
    toc.write_text(TOC)  # the whole book takes minutes
    try:
        output = installed.run("book")
    finally:
        toc.write_bytes(full)
    page = installed.work / "_build" / "html" / "chapters" / "00_first_network.html"
    assert str(page.parents[1] / "index.html") in output
    assert "<img" in page.read_text(encoding="utf-8")


def test_a_course_of_ones_own_in_another_order_as_student_book_slides_and_copy(installed):
    """Two chapters, the second first, and a notebook of one's own with its key."""
    own = installed.work / "own"
    shutil.copytree(installed.content, own)
    (own / "_toc.yml").write_text(OWN_TOC)
    (own / "chapters" / "campus_key.py").write_text("MEAN = 3\n")
    source = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell("# Our campus\n\nOur chapter 5 is elsewhere."),
            nbformat.v4.new_code_cell("from campus_key import MEAN\n\nMEAN"),
            nbformat.v4.new_code_cell("the_solution = 4711", metadata={"tags": ["solution"]}),
            nbformat.v4.new_markdown_cell("For tutors.", metadata={"tags": ["instructor"]}),
        ]
    )
    nbformat.write(source, own / "chapters" / "my_campus.ipynb")
    page = own / "_build" / "student" / "_build" / "html" / "index.html"
    assert f"The first page of the book is {page}" in installed.run("book", "--student", folder=own)
    html = (page.parent / "chapters" / "05_schedules.html").read_text(encoding="utf-8")
    assert "<h1>1. Learning-rate schedules" in html
    assert "section 2.7" not in html
    assert "not in this course" in html
    assert "Our chapter 5 is" in (page.parent / "chapters" / "my_campus.html").read_text()

    secrets = [line for path in (own / "chapters").glob("*.ipynb") for line in hidden_lines(path)]
    assert len(secrets) > 500
    files = [path for path in page.parent.rglob("*") if path.suffix in TEXT]
    everything = "\n".join(path.read_text("utf-8", "replace") for path in files)
    assert (page.parent / "_sources" / "chapters" / "my_campus.ipynb") in files
    for line in secrets:
        for shown in {line, html_module.escape(line), json.dumps(line)[1:-1]}:
            assert shown not in everything

    installed.run("slides", "2", folder=own)
    assert "<h1>2. Your first network" in (own / "slides" / "00_first_network.html").read_text()
    copy = installed.work / "own-copy"
    installed.run("student", str(copy), folder=own)
    assert "my_campus" in installed.run("run", "my_campus", folder=copy)
    assert "Nothing is broken" in installed.run("doctor", folder=copy)
    report = installed.run("doctor", folder=own)
    chapters = re.findall(r"^fine +(\d\d_\w+|my_\w+)", report, re.MULTILINE)
    assert chapters == ["05_schedules", "00_first_network"]


def hidden_lines(path: Path) -> set[str]:
    """Return the lines of solutions and notes that no student may see in any other cell."""
    hidden: set[str] = set()
    shown = ""
    for cell in nbformat.read(path, as_version=4).cells:
        if products.HIDDEN & set(cell.metadata.get("tags", ())):
            hidden |= {line.strip() for line in cell.source.splitlines()}
        else:
            shown += cell.source
    return {line for line in hidden if len(line) > 40 and line not in shown}


def test_lab_opens_a_copy_in_the_home_folder_and_keeps_the_work_in_it(installed):
    mine = installed.work / "cnnlab-course"
    process = subprocess.Popen(
        [installed.command, "lab", "--no-browser", "--allow-root"], cwd=installed.work,
        env=installed.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    output = ""
    assert process.stdout is not None
    while "http://127.0.0.1" not in output and (line := process.stdout.readline()):
        output += line
    try:
        assert f"Your copy of the course is {mine}." in output
        address = re.search(r"(http://127\S+?)/lab/tree/(\S+)\?(token=\w+)", output)
        assert address, output
        server, start, token = address.groups()
        assert start == products.START
        assert "JupyterLab" in fetch(f"{server}/lab/tree/{start}?{token}")
        page = json.loads(fetch(f"{server}/api/contents/{start}?{token}"))
        assert page["content"]["cells"][0]["source"].startswith("# ")
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()

    # An upgrade changes two chapters, and the student has worked in one of them.
    (first, second) = sorted(installed.content.glob("chapters/0[01]_*.ipynb"))
    (mine / first.name).write_text("hours of work")
    old = {path: path.read_bytes() for path in (first, second)}
    try:
        for path, content in old.items():
            path.write_bytes(content.replace(b'"source": [\n    "', b'"source": [\n    "New: ', 1))
        output = installed.run("lab", "--version")  # JupyterLab's option: it ends at once
    finally:
        for path, content in old.items():
            path.write_bytes(content)
    assert (mine / first.name).read_text() == "hours of work"
    assert f"{first.stem}_new.ipynb" in output
    assert "New: " in (mine / second.name).read_text(encoding="utf-8")


def fetch(url: str) -> str:
    for _ in range(120):
        try:
            with urllib.request.urlopen(url, timeout=30) as response:
                return response.read().decode()
        except OSError:
            time.sleep(0.25)
    pytest.fail(f"nothing answers at {url.partition('?')[0]}")


def test_the_source_cannot_be_opened_for_changes(installed):
    done = subprocess.run(
        [installed.command, "lab", "--source"], cwd=installed.work, env=installed.env,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "cnnlab instructor DIR" in done.stderr


def test_an_editable_installation_uses_the_checkout(tmp_path):
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    command += ["--no-build-isolation", "--target", str(tmp_path), "--editable", str(ROOT)]
    subprocess.run(command, check=True)
    paths = [path for pth in tmp_path.glob("*.pth") for path in pth.read_text().split()]
    assert [Path(path) for path in paths] == [ROOT]
    assert shutil.which("cnnlab", path=str(tmp_path / "bin")) or os.name == "nt"

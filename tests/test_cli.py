import contextlib
import importlib.util
import json
import os
import shlex
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

import cnnlab
from cnnlab import cli, course
from cnnlab.course import book, notebooks, products


@pytest.fixture
def notebook(tmp_path):
    def write(*sources: str, name: str = "07_toy.ipynb") -> Path:
        cells = [nbformat.v4.new_code_cell(source) for source in sources]
        path = tmp_path / name
        nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
        return path

    return write


@pytest.mark.slow
def test_run_prints_the_seconds_of_each_chapter_and_leaves_the_file_alone(notebook, capsys):
    path = notebook("a = 1", "assert a == 1")
    before = path.read_bytes()
    assert cli.main(["run", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["07_toy", "all"]
    assert 0 < float(lines[0].split()[1]) < 60
    assert path.read_bytes() == before


@pytest.mark.slow
def test_run_works_in_the_folder_of_the_chapter(notebook):
    path = notebook("import pathlib; assert pathlib.Path('07_toy.ipynb').exists()")
    assert course.run(path) > 0


@pytest.mark.slow
def test_a_failure_names_chapter_cell_and_error(notebook, capsys):
    path = notebook("a = 1", "b = a / 0\nc = 2", "print('never')")
    assert cli.main(["run", str(path)]) == 1
    out, err = capsys.readouterr()
    assert not out
    assert "07_toy, cell 2 of 3, `b = a / 0`" in err
    assert "ZeroDivisionError" in err
    assert "\x1b[" not in err


@pytest.mark.slow
def test_two_chapters_share_the_cores_and_a_failure_cancels_those_that_wait(notebook, capsys):
    """Each notebook waits for a file of the other, so run in turn they would never end."""
    touch = "import pathlib, time, os; pathlib.Path('{0}').touch()"
    wait = "while not pathlib.Path('{1}').exists(): time.sleep(0.1)"
    threads = f"assert os.environ['OMP_NUM_THREADS'] == '{os.environ.get('OMP_NUM_THREADS', '1')}'"
    paths = [
        notebook(*(cell.format(*names) for cell in (touch, wait)), threads, name=f"0{i}_toy.ipynb")
        for i, names in enumerate([("a", "b"), ("b", "a")])
    ]
    assert cli.main(["run", *map(str, paths)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split()[0] for line in lines) == ["00_toy", "01_toy", "all"]
    broken = notebook("1 / 0", name="02_toy.ipynb")
    waits = [notebook("1", name=f"{i}_toy.ipynb") for i in range(10, 20)]
    assert cli.main(["run", "--jobs", "1", str(broken), *map(str, waits)]) == 1
    out, err = capsys.readouterr()
    assert "02_toy, cell 1 of 1" in err
    assert len(out.splitlines()) <= 2


@pytest.mark.slow
def test_a_hanging_cell_is_stopped(notebook, capsys):
    path = notebook("import time", "time.sleep(600)")
    start = time.monotonic()
    assert cli.main(["run", "--cell-timeout", "1", str(path)]) == 1
    assert time.monotonic() - start < 60
    assert "07_toy, cell 2 of 2, `time.sleep(600)`" in (err := capsys.readouterr().err)
    assert "longer than 1 s" in err


@pytest.mark.slow
def test_a_dead_kernel_is_noticed_at_once_and_its_output_is_shown(notebook):
    path = notebook("import os", "os.write(2, b'out of ' + b'luck'); os._exit(3)")
    start = time.monotonic()
    with pytest.raises(course.ChapterError, match=r"(?s)cell 2 of 2.*out of luck"):
        course.run(path, cell_timeout=120)
    assert time.monotonic() - start < 60


@pytest.mark.slow
def test_a_chapter_runs_without_a_writable_home_folder(notebook, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    for name in ("CNNLAB_CACHE", "XDG_CACHE_HOME", "IPYTHONDIR", "MPLCONFIGDIR", "TORCH_HOME"):
        monkeypatch.delenv(name, raising=False)
    home = str(tmp_path / "file" / "home")  # not even root can create a folder inside a file
    monkeypatch.setenv("HOME", home)
    monkeypatch.setenv("USERPROFILE", home)
    path = notebook(
        "import torch, cnnlab\n"
        "data = cnnlab.load('pocket', n_train=48, n_valid=24, n_test=24)\n"
        "model = cnnlab.pretrained('glyphnet', len(data.classes))\n"
        "trainer = cnnlab.Trainer(model, torch.optim.SGD(model.parameters(), lr=0.01))\n"
        "trainer.fit(cnnlab.loader(data.train, 16, shuffle=True), epochs=1).plot()",
        "data.show()",
    )
    assert cli.main(["run", str(path)]) == 0, capsys.readouterr().err
    assert {entry.name for entry in tmp_path.iterdir()} == {"07_toy.ipynb", "file"}


def test_chapters_are_found_by_number_name_and_path(notebook):
    (zeroth, first), path = course.chapters()[:2], notebook("1")
    assert all(course.chapters([name]) == [zeroth] for name in ("0", "00", zeroth.stem))
    assert all(course.chapters([name]) == [first] for name in ("1", "01", first.stem))
    assert course.chapters([str(path), "1"]) == [path, first]


def test_in_a_students_copy_its_own_chapters_are_run(tmp_path, monkeypatch, capsys):
    mine, run = products.student(tmp_path / "mine"), []
    monkeypatch.setattr(notebooks, "run_all", lambda chapters, *_: run.extend(chapters) or [])
    monkeypatch.chdir(mine)
    assert cli.main(["run", "3"]) == 0
    assert run == [mine / "03_augmentation.ipynb"]


def test_an_unknown_chapter_raises_an_error_that_lists_the_known_ones(capsys):
    assert cli.main(["run", "99"]) == 1
    err = capsys.readouterr().err
    assert "no chapter '99'" in err
    assert "01_" in err


def test_without_chapters_the_error_says_what_to_do(tmp_path, monkeypatch, capsys):
    installed = tmp_path / "site-packages" / "cnnlab" / "course" / "notebooks.py"
    monkeypatch.setattr(notebooks, "__file__", str(installed))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run"]) == 1
    err = capsys.readouterr().err
    assert "open your copy of it with `cnnlab lab --student DIR`" in err
    assert "repository" not in err


@pytest.mark.parametrize(
    ("command", "module", "extra"),
    [("lab", "jupyterlab", "lab"), ("run", "nbclient", "lab"), ("book", "jupyter_book", "course")],
)
def test_a_missing_extra_is_named(command, module, extra, monkeypatch, capsys):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        notebooks, "find_spec", lambda name: None if name == module else find_spec(name)
    )
    assert cli.main([command]) == 1
    assert f"{module} is not installed" in (err := capsys.readouterr().err)
    assert f".[{extra}]" in err


@pytest.fixture
def home(monkeypatch, tmp_path):
    """An empty home folder, which is the current folder too."""
    folder = tmp_path / "home"
    folder.mkdir()
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(folder))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def opened(monkeypatch, home):
    """The options that JupyterLab is started with; it doesn't really start."""
    from jupyterlab import labapp

    given = []
    monkeypatch.setattr(labapp, "main", given.extend)
    for name in ("PATH", "JUPYTER_CONFIG_PATH"):  # what `lab` changes is undone in the end
        monkeypatch.setenv(name, os.environ.get(name, ""))
    return given


def test_lab_opens_the_start_page_of_a_copy_in_the_home_folder(opened, home, capsys):
    assert cli.main(["lab", "--no-browser", "--port=8899"]) == 0
    copy = home / "cnnlab-course"
    assert f"--ServerApp.root_dir={copy}" in opened
    assert "--LabApp.default_url=/lab/tree/START_HERE.ipynb" in opened
    assert opened[-2:] == ["--no-browser", "--port=8899"]
    assert (copy / "START_HERE.ipynb").is_file()
    assert f"Created {copy}, your own copy" in capsys.readouterr().out
    assert cli.main(["lab"]) == 0
    out = capsys.readouterr().out
    assert f"Your copy of the course is {copy}." in out
    assert "Created" not in out
    assert [path.name for path in home.iterdir()] == ["cnnlab-course"]


def test_lab_opens_the_copy_in_which_it_is_called(opened, home, tmp_path, monkeypatch):
    mine = products.student(tmp_path / "mine")
    monkeypatch.chdir(mine)
    assert cli.main(["lab"]) == 0
    assert f"--ServerApp.root_dir={mine}" in opened
    assert not list(home.iterdir())


def test_without_the_course_lab_opens_a_copy_as_it_is(opened, tmp_path, monkeypatch):
    mine = products.student(tmp_path / "mine")
    (mine / "02_normalisation.ipynb").unlink()
    monkeypatch.setattr(notebooks, "__file__", str(tmp_path / "a" / "b" / "c" / "notebooks.py"))
    monkeypatch.chdir(mine)
    assert cli.main(["lab"]) == 0
    assert f"--ServerApp.root_dir={mine}" in opened
    assert not (mine / "02_normalisation.ipynb").exists()
    assert cli.main(["student", ".", "--restore", "2"]) == 0
    assert (mine / "02_normalisation.ipynb").is_file()


def test_the_source_is_opened_only_if_it_is_asked_for(opened, home):
    assert cli.main(["lab", "--source"]) == 0
    assert f"--ServerApp.root_dir={course.root() / 'chapters'}" in opened
    assert not any(option.startswith("--LabApp.default_url") for option in opened)
    assert not list(home.iterdir())
    with pytest.raises(SystemExit):
        cli.main(["lab", "--source", "--student", "mine"])


def test_lab_keeps_token_and_address_and_an_option_that_is_given_wins(opened, tmp_path, home):
    given = [f"--ServerApp.root_dir={tmp_path}", "--log-level=DEBUG"]
    assert cli.main(["lab", *given]) == 0
    assert opened[-2:] == given
    names = [option.partition("=")[0] for option in opened]
    assert len(names) == len(set(names))
    assert not [name for name in names if "token" in name.lower() or "ip" in name.split(".")[-1:]]
    assert "--KernelManager.transport_encryption=auto" in opened
    assert not list(home.iterdir())


def test_in_lab_cells_and_terminals_find_this_cnnlab(opened, monkeypatch):
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "mine")
    for _ in range(2):
        assert cli.main(["lab", "--source"]) == 0
        assert os.environ["PATH"].split(os.pathsep)[0] == sysconfig.get_path("scripts")
        settings, mine = os.environ["JUPYTER_CONFIG_PATH"].split(os.pathsep)
    assert mine == "mine"
    assert Path(settings, "labconfig", "default_setting_overrides.json").is_file()


def test_lab_says_what_to_do_if_no_browser_opens(opened, capsys):
    assert cli.main(["lab"]) == 0
    out = capsys.readouterr().out
    assert "copy the address with `token=`" in out
    assert "Ctrl-C" in out


def test_lab_creates_a_copy_once_and_opens_it_from_then_on(opened, tmp_path, home):
    copy = tmp_path / "mine"
    for _ in range(2):
        assert cli.main(["lab", "--student", str(copy), "--no-browser"]) == 0
        assert f"--ServerApp.root_dir={copy}" in opened
        (copy / "01_training_loop.ipynb").write_text("hours of work")
        opened.clear()
    assert (copy / "01_training_loop.ipynb").read_text() == "hours of work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "mine"]


@pytest.mark.parametrize("kind", ["other", "file", "source"])
def test_lab_refuses_a_folder_that_is_not_a_copy(kind, opened, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("hours of work")
    (tmp_path / "file").write_text("hours of work")
    folder = course.root() / "chapters" if kind == "source" else tmp_path / kind
    assert cli.main(["lab", "--student", str(folder)]) == 1
    err = capsys.readouterr().err
    assert str(folder) in err
    assert "choose a folder that doesn't exist yet" in err
    assert ("with its answers" in err) == (kind == "source")
    assert opened == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "home", "other"]


def test_if_jupyterlab_does_not_start_a_hint_is_printed(opened, monkeypatch, capsys):
    from jupyterlab import labapp

    monkeypatch.setattr(labapp, "main", lambda options: sys.exit(1))
    assert cli.main(["lab", "--port", "8888"]) == 1
    assert "cnnlab lab --port 8899`, or with make `make lab ARGS=" in capsys.readouterr().err


def test_without_a_command_the_help_is_shown(capsys):
    assert cli.main([]) == 0
    out = capsys.readouterr().out
    assert "Start with `cnnlab lab`" in out
    assert "doctor" in out


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"cnnlab {cnnlab.__version__}\n"


def test_a_built_book_comes_with_a_line_that_serves_it(tmp_path, monkeypatch, capsys):
    (tmp_path / "index.html").write_text("the first page")
    monkeypatch.setattr(book, "build_book", lambda out, **_: tmp_path / "index.html")
    assert cli.main(["book"]) == 0
    output = capsys.readouterr().out
    assert str(tmp_path / "index.html") in output
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    line = output.splitlines()[-1].replace(" 8000 ", f" {port} ")
    server = subprocess.Popen(shlex.split(line), stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=5) as page:
                    assert page.read() == b"the first page"
                break
            time.sleep(0.1)
        else:
            pytest.fail(f"`{line}` serves nothing")
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "stopped"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
        (ImportError("libcudart.so is missing"), 1, "run `cnnlab doctor`"),
    ],
)
def test_errors_are_printed_without_a_traceback(error, code, message, monkeypatch, capsys):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(notebooks, "chapters", fail)
    assert cli.main(["run"]) == code
    assert message in capsys.readouterr().err


def test_an_unknown_profile_is_reported(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CNNLAB_PROFILE", "huge")
    assert cli.main(["book", "--out", str(tmp_path)]) == 1
    assert "CNNLAB_PROFILE is 'huge'" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="a stand-in for an old Python")
def test_an_old_python_is_refused_with_one_sentence():
    """An old Python must be able to read all that comes before the check, so not cnnlab.course."""
    code = (
        "import runpy, sys; sys.version_info = (3, 10, 13)\n"
        "try: runpy.run_module('cnnlab', run_name='__main__')\n"
        "finally: print('cnnlab.course' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "cnnlab needs Python 3.11.4 or newer, and this is 3.10.13\n"
    assert done.stdout == "False\n"


def test_an_unknown_option_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", "--no-browser"])
    assert stop.value.code == 2
    assert "--no-browser" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["run", "--jobs", "0"])
    assert "must be a positive integer, got '0'" in capsys.readouterr().err


def test_python_dash_m_runs_the_same_command():
    done = subprocess.run(
        [sys.executable, "-m", "cnnlab", "--help"], capture_output=True, text=True, check=True
    )
    assert all(command in done.stdout for command in ("lab", "run", "book"))


def test_cached_outputs_are_dropped_when_the_library_changes(tmp_path, monkeypatch, capsys):
    cached = tmp_path / ".jupyter_cache" / "outputs.json"

    def survives(library: str) -> bool:
        package = tmp_path / "cnnlab" / "course"
        package.mkdir(parents=True, exist_ok=True)
        (package / "book.py").write_text(library)
        monkeypatch.setattr(book, "__file__", str(package / "book.py"))
        cached.parent.mkdir(exist_ok=True)
        cached.write_text(json.dumps({}))
        book._drop_outdated_outputs(tmp_path)
        return cached.exists()

    monkeypatch.delenv("CNNLAB_PROFILE", raising=False)
    assert [survives("a = 1"), survives("a = 1")] == [False, True]
    assert capsys.readouterr().out == ""
    assert not survives("a = 2")
    assert capsys.readouterr().out == (
        "cnnlab, torch or the profile has changed, so every chapter is executed again\n"
    )
    monkeypatch.setenv("CNNLAB_PROFILE", "smoke")
    assert not survives("a = 2")

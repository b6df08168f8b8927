"""The notebooks for Colab and Kaggle, where each is alone and cnnlab isn't installed."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import nbformat
import pytest

from cnnlab import cli, course
from cnnlab.course import colab, products


REPOSITORY = "https://github.com/ann/course"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return colab.write(tmp_path_factory.mktemp("out") / "lessons", REPOSITORY + ".git")


def read(path):
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    return notebook.cells


def first_cell(package=f"git+{REPOSITORY}@main"):
    return colab._INSTALL.replace("PACKAGE", colab._requirement(package))


# --- what is written ------------------------------------------------------------------------------


def test_each_chapter_has_a_button_a_first_cell_and_no_answers(written):
    paths = sorted(written.glob("*.ipynb"))
    assert [path.name for path in paths] == [path.name for path in course.chapters()]
    for path in paths:
        badge, install, title, *_ = cells = read(path)
        place = f"ann/course/blob/main/lessons/{path.name}"
        assert f"](https://colab.research.google.com/github/{place})" in badge.source
        assert (
            f"](https://kaggle.com/kernels/welcome?src=https://github.com/{place})" in badge.source
        )
        assert install.source == first_cell()
        assert title.source.startswith("# ")
        assert not any(products.HIDDEN & {*cell.metadata.get("tags", [])} for cell in cells)


def test_no_page_has_a_link_that_needs_a_folder(written):
    linked = 0
    for path in sorted(written.glob("*.ipynb")):
        text = "\n".join(cell.source for cell in read(path) if cell.cell_type == "markdown")
        assert not re.findall(r"\]\((?!https?:)[^\s()#]+", text), path.name
        linked += text.count("/github/ann/course/blob/main/lessons/0")
    assert linked > len(course.chapters()), "links between the chapters lead to Colab"


def test_the_readme_has_a_button_for_each_chapter_and_says_where_they_lead(written):
    text = (written / "README.md").read_text(encoding="utf-8")
    assert text.count("[![Open in Colab]") == len(course.chapters())
    assert f"{REPOSITORY}, `main/lessons`" in text
    assert not (written / products.START).exists()


def test_branch_folder_and_package_can_be_chosen(tmp_path, monkeypatch):
    monkeypatch.setattr(products, "write_student_files", one_page)
    options = ["--branch", "2027", "--folder", ".", "--package", "cnnlab==0.2.0"]
    assert cli.main(["colab", str(tmp_path / "a"), "--repository", REPOSITORY, *options]) == 0
    badge, install, page = read(tmp_path / "a" / "01_a.ipynb")
    assert "/github/ann/course/blob/2027/01_a.ipynb)" in badge.source
    assert '"cnnlab[colab]==0.2.0"' in install.source
    assert f"![x]({REPOSITORY}/raw/2027/p/x.png)" in page.source
    assert f"[g]({REPOSITORY}/blob/2027/g.md#a)" in page.source
    assert "[h](https://h)" in page.source
    assert "[gone](gone.md)" in page.source


def one_page(folder):
    (folder / "p").mkdir(parents=True)
    for name in ("p/x.png", "g.md", products.START):
        (folder / name).touch()
    text = "# A\n![x](p/x.png) [g](g.md#a) [h](https://h) [gone](gone.md)"
    page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
    nbformat.write(page, folder / "01_a.ipynb")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--repository", "https://gitlab.com/ann/course"],
            "must be an address such as https://gi",
        ),
        (["--repository", "ann/course"], "got 'ann/course'"),
        (["--repository", REPOSITORY, "--package", "torch"], "cnnlab==0.2.0, or an address"),
        (["--repository", REPOSITORY, "--package", 'https://a/"'], "got 'https://a/\"'"),
    ],
)
def test_what_colab_cannot_open_or_pip_cannot_install_is_refused(
    tmp_path, capsys, arguments, message
):
    assert cli.main(["colab", str(tmp_path / "out"), *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# --- the first cell -------------------------------------------------------------------------------


@pytest.fixture
def without_cnnlab(monkeypatch, tmp_path):
    """An empty folder, in a process that can't find cnnlab."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "cnnlab" else find(name)
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    return tmp_path


@pytest.fixture
def pip(monkeypatch):
    """Record what pip is asked to install, and let it succeed."""
    asked = []
    monkeypatch.setattr(
        subprocess,
        "run",
        lambda command, **_: asked.append(command) or SimpleNamespace(returncode=0),
    )
    return asked


def on(host, monkeypatch):
    if host == "Colab":
        monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    else:
        monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")


@pytest.mark.parametrize("host", ["Colab", "Kaggle"])
def test_the_first_cell_installs_cnnlab_and_brings_the_tables(
    without_cnnlab, pip, monkeypatch, host
):
    on(host, monkeypatch)
    exec(first_cell(), {})  # noqa: S102 - our own code
    package = f"cnnlab[colab] @ git+{REPOSITORY}@main"
    assert pip == [[sys.executable, "-m", "pip", "install", "--quiet", package]]
    assert list((without_cnnlab / "studies").glob("*.csv"))


def test_where_cnnlab_is_installed_the_first_cell_installs_nothing(pip, monkeypatch, tmp_path):
    on("Colab", monkeypatch)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies").mkdir()
    exec(first_cell(), {})  # noqa: S102 - our own code
    assert pip == []
    assert not list((tmp_path / "studies").iterdir()), "a folder that is there stays as it is"


def test_when_pip_refuses_the_message_says_why_and_what_to_do(without_cnnlab, monkeypatch):
    on("Colab", monkeypatch)
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # the real pip, without a network
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(RuntimeError) as refused:
        exec(first_cell("cnnlab==99"), {})  # noqa: S102 - our own code
    message = str(refused.value)
    assert "pip couldn't install 'cnnlab[colab]==99'" in message
    assert "No matching distribution found" in message
    assert "On Kaggle, switch on Internet" in message
    assert message.endswith("Then run this cell again.")


def test_elsewhere_the_first_cell_changes_no_environment(without_cnnlab, pip):
    with pytest.raises(
        RuntimeError, match=r"In a terminal, run: pip install 'cnnlab\[colab\] @ git"
    ):
        exec(first_cell(), {})  # noqa: S102 - our own code
    assert pip == []
    assert not Path("studies").exists()

"""Test that the appendices agree with the chapters, with the library and with Keras."""

import importlib
import inspect
import operator
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from test_structure import LAYERS

import cnnlab
from cnnlab import course


CHAPTERS = Path(__file__).parents[1] / "chapters"
LETTERS = "alpha|beta|gamma|delta|epsilon|eta|theta|lambda|mu|pi|rho|phi|sigma|tau|omega|Sigma"
GREEK = re.compile(rf"\\((?:var)?(?:{LETTERS}))(?![a-zA-Z])")


def text(name):
    return (CHAPTERS / name).read_text(encoding="utf-8")


# --- B and C --------------------------------------------------------------------------------------


def test_the_checklist_is_short_and_each_item_links_to_its_chapter():
    items = re.findall(r"^(\d+)\. (.*(?:\n {3,}.*)*)", text("B_checklist.md"), re.MULTILINE)
    assert [int(number) for number, _ in items] == [*range(1, len(items) + 1)]
    assert len(items) <= 40
    for _, item in items:
        assert re.search(r"\(\[(\d+)\]\(0?\1_\w+\.ipynb\)\)\.$", item), item


def test_every_greek_letter_of_the_chapters_is_in_the_glossary():
    used = {letter for script in CHAPTERS.glob("*.py") for letter in GREEK.findall(text(script))}
    assert len(used) > 8
    assert used <= set(GREEK.findall(text("C_glossary.md")))


def test_the_terms_of_the_glossary_are_sorted_and_unique():
    table = text("C_glossary.md").partition("## Terms")[2]
    terms = [line.split("|")[1].strip().lower() for line in table.splitlines() if "](" in line]
    assert terms == sorted(set(terms))


# --- D --------------------------------------------------------------------------------------------

MODULES = [f"cnnlab.{n}" for n in re.findall(r"\(library/(\w+)\.md\)", text("D_library.md"))]


def public(module):
    """Return the functions and classes of a module that the reference shows, by name."""
    imported = importlib.import_module(module)
    objects = {name: getattr(imported, name) for name in imported.__all__}
    return {n: o for n, o in objects.items() if inspect.isfunction(o) or inspect.isclass(o)}


def test_the_reference_has_every_public_module_and_name():
    objects = {name: getattr(cnnlab, name) for name in cnnlab.__all__}
    modules = {f"cnnlab.{name}" for name, value in objects.items() if inspect.ismodule(value)}
    assert modules <= set(MODULES)
    page = text("D_library.md")
    for name in objects.keys() - {module.partition(".")[2] for module in modules}:
        assert f"{{py:obj}}`cnnlab.{name} <cnnlab." in page, name


def test_the_table_lists_the_pages_of_the_modules_from_the_bottom_layer_up():
    order = [module.partition(".")[2] for module in MODULES]
    homes = [cnnlab._MODULES.get(name, f"cnnlab.{name}").split(".")[1] for name in order]
    assert homes == sorted(homes, key=LAYERS.index)
    rows = re.findall(r"^\| \[(\w+)\]\(library/\1\.md\) \| \S", text("D_library.md"), re.MULTILINE)
    assert rows == order
    assert sorted(path.stem for path in (CHAPTERS / "library").iterdir()) == sorted(order)


@pytest.mark.parametrize("module", MODULES)
def test_every_name_in_the_reference_has_a_docstring(module):
    assert inspect.getdoc(importlib.import_module(module))
    page = text(f"library/{module.partition('.')[2]}.md")
    assert page.startswith(f"# {module}\n")
    assert f".. automodule:: {module}\n   :members:\n" in page
    for name, value in public(module).items():
        assert value.__doc__, f"{module}.{name} has no docstring"
        methods = vars(value).items() if inspect.isclass(value) else ()
        for method, function in methods:
            if inspect.isfunction(function) and not method.startswith("_"):
                assert inspect.getdoc(getattr(value, method)), f"{module}.{name}.{method}"


# --- A --------------------------------------------------------------------------------------------


@pytest.fixture
def without_keras(tmp_path, monkeypatch):
    """Make `import keras` fail in kernels, as if Keras weren't installed."""
    tmp_path.joinpath("keras.py").write_text("raise ModuleNotFoundError('No module named keras')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}")
    monkeypatch.setenv("CNNLAB_PROFILE", "smoke")


@pytest.mark.slow
def test_appendix_a_runs_without_keras_and_explains_how_to_install_it(without_keras):
    chapter = nbformat.read(CHAPTERS / "A_keras.ipynb", as_version=4)
    folder = {"metadata": {"path": str(CHAPTERS)}}
    NotebookClient(chapter, kernel_name="python3", timeout=300, resources=folder).execute()
    outputs = [o for cell in chapter.cells for o in cell.get("outputs", [])]
    text_output = "".join(output.get("text", "") for output in outputs)
    assert 'pip install "cnnlab[keras]"' in text_output
    assert "Keras is not installed" in text_output


@pytest.mark.slow
def test_the_keras_names_in_the_dictionary_exist(tmp_path):
    names = sorted(set(re.findall(r"`(keras\.[\w.]+)`", text("A_keras.py"))) - {"keras.json"})
    assert len(names) > 20
    code = "import keras, operator, sys; [operator.attrgetter(n[6:])(keras) for n in sys.argv[1:]]"
    env = os.environ | {"KERAS_BACKEND": "torch", "KERAS_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code, *names], env=env, check=True)


def test_the_cnnlab_names_in_the_dictionary_exist():
    table = text("A_keras.py").partition("## A.9")[2].partition("## A.10")[0]
    column = [row.split("|")[2] for row in table.splitlines() if row.count("|") == 5]
    names = [n for cell in column for n in re.findall(r"`((?!torch\b)\w+\.?[\w.]*)[`(]", cell)]
    assert len(names) > 20
    for name in set(names) - {"AdaptiveAvgPool2d", "TrivialAugmentWide"}:
        assert operator.attrgetter(name)(cnnlab), name


@pytest.mark.slow
def test_appendix_a_writes_no_keras_settings_to_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CNNLAB_PROFILE", "smoke")
    course.run(CHAPTERS / "A_keras.ipynb")
    assert not (tmp_path / ".keras").exists()

"""The files around the library agree with it and with each other."""

import ast
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import jupytext
import nbformat
import pytest
import yaml
from jupytext.cli import jupytext as jupytext_command
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from rattler import MatchSpec


ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CHAPTERS = sorted((ROOT / "chapters").glob("[0-9A-Z]*.py"))


# --- chapters -------------------------------------------------------------------------------------


def test_there_are_chapters():
    assert CHAPTERS
    assert {path.stem for path in CHAPTERS} == {p.stem for p in (ROOT / "chapters").glob("*.ipynb")}


@pytest.mark.parametrize("script", CHAPTERS, ids=lambda path: path.stem)
def test_script_and_notebook_are_equal(script):
    def cells(path):
        return [
            (cell.cell_type, cell.source, cell.metadata.get("tags", []))
            for cell in jupytext.read(path).cells
        ]

    assert cells(script) == cells(script.with_suffix(".ipynb")), "call `make fix`"


@pytest.mark.parametrize("script", CHAPTERS, ids=lambda path: path.stem)
def test_notebook_is_stripped_and_has_ids(script):
    notebook = nbformat.read(script.with_suffix(".ipynb"), as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5), "cells have ids since 4.5"
    assert max(Counter(cell.id for cell in notebook.cells).values()) == 1
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code), "call `make fix`"
    assert set(notebook.metadata) <= {"jupytext", "kernelspec"}
    assert notebook.metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("script", CHAPTERS, ids=lambda path: path.stem)
def test_a_new_cell_leaves_the_ids_of_the_others(script, tmp_path):
    for source in (script, script.with_suffix(".ipynb"), ROOT / "jupytext.toml"):
        shutil.copy(source, tmp_path)
    twin = tmp_path / script.with_suffix(".ipynb").name
    before = [cell.id for cell in nbformat.read(twin, as_version=4).cells]
    copy = tmp_path / script.name
    copy.write_text(copy.read_text().replace("# %%", "# %%\n1 + 1\n\n# %%", 1))
    jupytext_command(["--quiet", "--sync", str(copy)])
    after = [cell.id for cell in nbformat.read(twin, as_version=4).cells]
    assert after[1:] == before


def test_table_of_contents_lists_each_chapter_once():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    parts = toc.get("parts", [toc])
    files = [entry["file"] for part in parts for entry in part["chapters"]]
    for file in (toc["root"], *files):
        assert list(ROOT.glob(f"{file}.*")), f"_toc.yml lists {file}, which is not there"
    listed = [Path(file).name for file in files]
    pages = {path.stem for path in (ROOT / "chapters").glob("*.md")} - {"index"}
    assert [name for name in listed if name not in pages] == [path.stem for path in CHAPTERS]
    assert [name for name in listed if re.match("[A-Z]_", name)] == sorted(
        {path.stem for path in (ROOT / "chapters").glob("[A-Z]_*")}
    )
    assert listed[-1] == "references"


def test_sphinx_alone_knows_every_setting_of_the_book(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])  # the settings add to it
    settings = runpy.run_path(str(ROOT / "_ext" / "conf.py"))  # refuses what it doesn't know
    assert "CC BY 4.0" in settings["html_theme_options"]["extra_footer"]


def test_jupyter_book_2_has_the_same_table_of_contents():
    from cnnlab.course import toc

    assert (ROOT / "myst.yml").read_text() == toc.myst(ROOT), "run make fix"


@pytest.mark.parametrize(
    ("page", "begin", "folder"),
    [("chapters/index.md", r"^(?:\d+|- [A-Z])\. ", ""), ("README.md", "", "chapters/")],
)
def test_pages_link_to_the_chapters_there_are(page, begin, folder):
    text = (ROOT / page).read_text()
    links = re.findall(begin + r"\[[^]]*\]\(([^)]+)\.ipynb\)", text, re.MULTILINE)
    assert links == [folder + path.stem for path in CHAPTERS]


@pytest.mark.parametrize("page", ["index", "START_HERE"])
def test_the_first_link_of_a_start_page_leads_to_the_first_chapter(page):
    text = (ROOT / "chapters" / f"{page}.md").read_text()
    link = re.search(r"\[([^]]*)\]\((\w+)\.ipynb\)", text)
    assert link
    assert link[2] == CHAPTERS[0].stem
    assert f"chapter {int(CHAPTERS[0].stem[:2])}" in link[1]


# --- settings -------------------------------------------------------------------------------------


def test_conda_environment_agrees_with_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert set(environment) == {"name", "channels", "dependencies"}
    *conda, pip = environment["dependencies"]
    specs = {
        spec.name.normalized: spec for spec in (MatchSpec(text, strict=True) for text in conda)
    }
    assert set(specs) == {"python", "pip"}, "everything else is named in pyproject.toml alone"
    python = str(specs["python"].version).removesuffix(".*")
    assert re.fullmatch(r"3\.\d+", python)
    assert SpecifierSet(PROJECT["requires-python"]).contains(python)
    assert list(pip) == ["pip"]
    for requirement in pip["pip"]:
        extra = re.fullmatch(r"-e \.\[(\w+)\]", requirement)
        assert extra, f"{requirement!r} is not this package"
        assert extra[1] in PROJECT["optional-dependencies"]


# Stands for Python: it makes environments with nothing but itself in them, and notes what else it's
# asked for. A uv that's asked for another build of PyTorch can't reach its address.
PYTHON = """#!/bin/sh
case "$*" in
    "-m venv"*) for folder; do :; done; mkdir -p "$folder/bin"; cp "$0" "$folder/bin/python"; exit;;
    *"uv pip install"*) echo "$*" >> asked.txt;;
esac
case "$*" in *--torch-backend=unreachable*) echo "Failed to fetch" >&2; exit 2;; esac
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    ("torch", "flags", "says"),
    [
        ("", [""], ""),
        ("cpu", ["--torch-backend=cpu "], ""),
        ("unreachable", ["--torch-backend=unreachable ", ""], "the usual one is installed instead"),
    ],
)
def test_make_installs_the_build_of_pytorch_that_is_asked_for(tmp_path, torch, flags, says):
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (python := tmp_path / "python").write_text(PYTHON)
    python.chmod(0o755)
    command = ["make", ".venv/.lab", f"PYTHON={python}", f"TORCH={torch}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    usual = (
        "-m uv pip install --quiet --compile-bytecode --python .venv/bin/python {}--editable .[lab]"
    )
    assert (tmp_path / "asked.txt").read_text().splitlines() == [usual.format(f) for f in flags]
    assert says in done.stdout
    assert bool(says) == ("TORCH=unreachable can't be had" in done.stdout)
    assert "pip tries now" not in done.stdout


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_names_the_version_of_a_python_that_is_too_old(tmp_path):
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (old := tmp_path / "old").write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo Python 3.11.2 && exit\nexit 1\n'
    )
    old.chmod(0o755)
    for python, says in ((old, "Python 3.11.2"), (tmp_path / "none", "missing")):
        command = ["make", "lab", f"PYTHON={python}"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode
        assert f"needs Python 3.11.4 or newer, and {python} is {says}." in done.stderr
    assert not (tmp_path / ".venv").exists()


def bounds(*extras: str) -> dict[str, SpecifierSet]:
    """The versions that pyproject.toml allows of what the library and some extras need."""
    lines = [*PROJECT["dependencies"]]
    for extra in extras:
        lines += PROJECT["optional-dependencies"][extra]
    return {(r := Requirement(line)).name: r.specifier for line in lines}


def test_every_bound_says_from_which_version_on():
    """The tests with the lowest versions would install ancient ones without it."""
    for name, versions in bounds(*PROJECT["optional-dependencies"]).items():
        assert name == "cnnlab" or {"==", ">="} & {v.operator for v in versions}, name


def test_a_dependency_has_the_same_bound_in_each_extra():
    seen: dict[str, SpecifierSet] = {}
    for extra in set(PROJECT["optional-dependencies"]) - {"bench"}:  # an environment of its own
        for name, versions in bounds(extra).items():
            if name != "cnnlab":
                assert seen.setdefault(name, versions) == versions, (extra, name)


def test_on_colab_nothing_that_is_installed_has_to_be_upgraded():
    lines = (ROOT / "tests" / "constraints-colab.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    allowed = bounds("colab", "lab")
    assert {pin.name for pin in pins} - {"ipython"} <= set(allowed)
    for pin in pins:
        (version,) = pin.specifier
        assert version.operator == "=="
        assert version.version in allowed.get(pin.name, SpecifierSet()), pin
    assert bounds("colab").items() <= bounds("lab").items(), "make lab installs it too"


def dependencies() -> list[str]:
    extras = PROJECT["optional-dependencies"].values()
    every = [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]
    return sorted({Requirement(line).name for line in every} - {"cnnlab"})


@pytest.mark.parametrize("name", dependencies())
def test_each_dependency_has_its_reason(name):
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert re.search(rf"^- .*`{re.escape(name)}`.*: \w", text, re.MULTILINE)


def test_citation_agrees_with_pyproject():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == "MIT"
    assert PROJECT["license"] == "MIT AND CC-BY-4.0"  # code and text
    assert citation["authors"] == PROJECT["authors"]
    assert PROJECT["authors"][0]["name"] in (ROOT / "LICENSE").read_text()


# --- what no file may contain ---------------------------------------------------------------------


# Written so that this file does not match itself.
FORBIDDEN = {
    "a package registry": (
        r"pypi[.]org|pythonhosted[.]org|anaconda[.]org|npmjs[.](org|com)|/opt/(wheels|pypi)"
    ),
    "a path of one machine": r"(?<![\w.])/(work|root|home|Users)/\w",
    "a server open to the network": r"0[.]0[.]0[.]0",
    "a server without a token": (
        r"""[.]token=["']?(?:[\s,)\]]|$)|[.]token\s*=\s*(?:''|""|["']?\s*$)"""
    ),
    "a server that answers other hosts or pages": (
        r"disable[_]check_xsrf|allow[_]remote_access|allow[_]origin|[.]ip\s*=\s*.?[*:]|--ip[ "
        r"=].?[*:]"
    ),
    "a server run by root": r"--allow[-]root",
    "unsafe loading": r"weights[_]only\s*=\s*False",
}
MAY = {
    "a path of one machine": {"Dockerfile"},  # the only user of a container
    # In a container, CI is root.
    "a server run by root": {
        "tests/test_lab.py",
        "tests/test_formgrader.py",
        "tests/test_wheel.py",
    },
    "unsafe loading": {
        "tests/test_assignments.py",
        "tests/test_grading.py",
    },  # what a hostile answer does
}


def texts() -> dict[str, str]:
    """Every text file that is tracked, or would be after `git add`."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    contents = {name: ROOT / name for name in listed.split("\0") if name}
    raw = {name: path.read_bytes() for name, path in contents.items() if path.is_file()}
    return {name: data.decode() for name, data in raw.items() if b"\0" not in data[:8192]}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_contains(what):
    found = [
        f"{name}:{number}: {line.strip()}"
        for name, text in texts().items()
        if name not in MAY.get(what, ())
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(FORBIDDEN[what], line)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("what", "example"),
    [
        ("a package registry", "https://pypi" + ".org/simple"),
        ("a path of one machine", "see /ho" + "me/ann/cnnlab"),
        ("a server open to the network", "--ip=0.0." + "0.0"),
        ("a server without a token", "--IdentityProvider.tok" + "en=''"),
        ("a server without a token", "['--IdentityProvider.tok" + "en=']"),
        ("a server without a token", "c.ServerApp.tok" + "en = ''"),
        ("a server that answers other hosts or pages", "--ServerApp.allow" + "_origin='*'"),
        ("a server that answers other hosts or pages", "--ServerApp.disable" + "_check_xsrf=True"),
        ("a server that answers other hosts or pages", "--i" + "p=*"),
        ("a server that answers other hosts or pages", "c.ServerApp.i" + "p = '*'"),
        ("a server run by root", "--allow" + "-root"),
        ("unsafe loading", "torch.load(path, weights_" + "only=False)"),
    ],
)
def test_the_patterns_match_what_they_are_meant_for(what, example):
    assert re.search(FORBIDDEN[what], example)


def test_no_script_in_a_notebook():
    assert not [
        name for name, text in texts().items() if name.endswith("ipynb") and "<script" in text
    ]


# --- what may not be called -----------------------------------------------------------------------


# What runs code that lies in a file.
UNSAFE = {
    f"{module}.{name}"
    for module in (
        "pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "jsonpickle",
    )
    for name in ("load", "loads", "Unpickler", "decode")
} | {
    "shelve.open", "pandas.read_pickle", "pandas.io.pickle.read_pickle", "yaml.unsafe_load",
    "yaml.full_load", "yaml.load", "torch.jit.load", "torch.package.PackageImporter",
    "builtins.eval",
}  # fmt: skip
SAFE_WHEN = {  # call -> the argument that must be there, and its value
    "torch.load": ("weights_only", True),
    "torch.hub.load_state_dict_from_url": ("weights_only", True),
    "numpy.load": ("allow_pickle", False),
}


def unsafe_calls(source: str) -> list[str]:
    """Calls that could run code from a file, as `line: name`, under whatever name."""
    tree, known = ast.parse(source), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {
                a.asname or a.name.split(".")[0]: a.name if a.asname else a.name.split(".")[0]
                for a in node.names
            }
        elif isinstance(node, ast.ImportFrom):
            known |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name | ast.Attribute):
            continue
        first, *rest = ast.unparse(node.func).split(".")
        name = ".".join([known.get(first, first), *rest])
        wanted = SAFE_WHEN.get(name)
        given = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
        if name in UNSAFE or (wanted and given.get(wanted[0]) is not wanted[1]):
            found.append(f"{node.lineno}: {name}")
    return found


def test_nothing_is_loaded_in_a_way_that_runs_code():
    scripts = {name: text for name, text in texts().items() if name.endswith(".py")}
    assert len(scripts) > 100
    found = {name: calls for name, text in scripts.items() if (calls := unsafe_calls(text))}
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle; pickle.loads(data)",
        "import pickle as harmless; harmless.load(file)",
        "from dill import load as read; read(file)",
        "import joblib\ndef f(): return joblib.load('model')",
        "import torch; torch.load('a.pt')",
        "import torch; torch.load('a.pt', weights_only=not safe)",
        "from torch import load; load('a.pt')",
        "import torch; torch.jit.load('a.pt')",
        "import numpy as np; np.load('a.npy')",
        "import pandas as pd; pd.read_pickle('a')",
    ],
)
def test_an_unsafe_call_is_found_under_any_name(source):
    assert len(unsafe_calls(source)) == 1


def test_safe_calls_are_not_found():
    safe = "import pickle, torch, numpy as np; pickle.dumps(1); torch.load('a', weights_only=True)"
    assert unsafe_calls(safe + "; np.load('a', allow_pickle=False); json.load(f)") == []


# --- workflows ------------------------------------------------------------------------------------


WORKFLOWS = {
    path.name: yaml.safe_load(path.read_text())
    for path in (ROOT / ".github/workflows").glob("*.yml")
}


def steps(workflow: dict) -> list[dict]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_may_little_and_takes_its_actions_from_a_commit(name):
    workflow = WORKFLOWS[name]
    assert set(workflow) <= {"name", True, "permissions", "env", "jobs"}  # YAML reads `on` as True
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert {"runs-on", "steps", "timeout-minutes"} <= set(job)
        needed = job.get("needs", [])
        needed = {needed} if isinstance(needed, str) else set(needed)
        assert needed <= set(workflow["jobs"])
    for step in steps(workflow):
        assert ("uses" in step) != ("run" in step)
        # What strangers can write, such as the name of a branch, may not become part of a script.
        assert "${{" not in step.get("run", ""), step
    text = (ROOT / ".github/workflows" / name).read_text()
    used = re.findall(r"uses: (.*)", text)
    assert len(used) == sum("uses" in step for step in steps(workflow))
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action
    assert "secrets." not in text


def test_every_week_each_system_and_both_ends_of_the_bounds_are_tried():
    weekly = WORKFLOWS["weekly.yml"]
    assert set(weekly[True]) == {"schedule", "workflow_dispatch"}
    matrix = weekly["jobs"]["tests"]["strategy"]["matrix"]
    assert [name.partition("-")[0] for name in matrix["os"]] == ["ubuntu", "macos", "windows"]
    pythons = {*matrix["python"], *(more["python"] for more in matrix["include"])}
    assert pythons == {"3.11", "3.12", "3.13", "3.14"}
    # "3.11" installs the newest 3.11.
    allowed = SpecifierSet(PROJECT["requires-python"])
    assert all(allowed.contains(f"{python}.99") for python in pythons)
    edges = weekly["jobs"]["edges"]["strategy"]["matrix"]["include"]
    makefile = (ROOT / "Makefile").read_text()
    assert {edge["target"] for edge in edges} == set(re.findall(r"(?m)^(test-[a-z]+):", makefile))
    commands = "\n".join(step.get("run", "") for step in steps(weekly))
    assert "pip_audit" in commands
    assert weekly["jobs"]["audit"]["if"] == "vars.CNNLAB_OFFLINE != 'true'"


def test_a_release_is_published_without_a_token_and_by_one_job_alone():
    release = WORKFLOWS["release.yml"]
    assert release[True] == {"release": {"types": ["published"]}}
    publish = release["jobs"].pop("publish")
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["environment"] == "release"
    assert not any(
        "run" in step for step in publish["steps"]
    )  # nothing of ours runs beside the identity
    assert all("permissions" not in job for job in release["jobs"].values())

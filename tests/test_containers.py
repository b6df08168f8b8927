"""Compare the files for Docker, Binder and development containers with the project."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from cnnlab.course.cli import main


ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
INSTRUCTIONS = re.findall(r"(?m)^([A-Z]+) (.*(?:\\\n.*)*)", DOCKERFILE)
SCRIPTS = {"Dockerfile": DOCKERFILE, "binder/postBuild": (ROOT / "binder/postBuild").read_text()}


def test_the_image_has_a_supported_python_and_so_has_binder():
    versions = {
        re.search(r"FROM python:(3\.\d+)-slim", DOCKERFILE)[1],
        (ROOT / "binder" / "runtime.txt").read_text().strip().removeprefix("python-"),
    }
    known = {line.rpartition(" ")[2] for line in PROJECT["classifiers"] if "Python :: 3." in line}
    assert versions <= known


def test_students_in_the_container_are_no_administrators():
    kinds = [kind for kind, _ in INSTRUCTIONS]
    assert ("USER", "student") in INSTRUCTIONS
    assert kinds.index("RUN") < kinds.index("USER") < kinds.index("CMD")


@pytest.mark.parametrize("name", SCRIPTS)
def test_make_targets_commands_and_extras_exist(name, capsys):
    script = "".join(f"{line}\n" for line in SCRIPTS[name].splitlines() if not line.startswith("#"))
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake (?:\$\(VENV\)|\.venv)(/\.\w+)", script):
        assert f"\n$(VENV){target}:" in makefile
    for command in re.findall(r"(?:\bcnnlab|-m cnnlab) ([a-z][a-z-]*)", script):
        with pytest.raises(SystemExit) as end:
            main([command, "--help"])
        assert end.value.code == 0
    capsys.readouterr()
    for extra in re.findall(r"'\.\[(\w+)\]'", script):
        assert extra in PROJECT["optional-dependencies"]


def test_binder_runs_its_script():
    listed = subprocess.run(
        ["git", "ls-files", "--stage", "binder/postBuild"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert listed.startswith("100755"), "git must store it as executable"
    assert SCRIPTS["binder/postBuild"].startswith("#!/bin/bash\n")


def test_the_development_container_builds_the_same_image():
    path = ROOT / ".devcontainer" / "devcontainer.json"
    settings = json.loads(path.read_text())
    assert (path.parent / settings["build"]["dockerfile"]).resolve() == ROOT / "Dockerfile"
    assert set(settings["build"]["args"]) <= set(re.findall(r"(?m)^ARG (\w+)", DOCKERFILE))
    assert ("USER", settings["remoteUser"]) in INSTRUCTIONS


def test_nothing_heavy_is_sent_to_docker():
    ignored = set((ROOT / ".dockerignore").read_text().split())
    assert {".git", ".venv", "_build"} <= ignored

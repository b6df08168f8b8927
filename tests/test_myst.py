"""Test that Jupyter Book 2, whose engine is mystmd, reads every page of the course."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import playwright
import pytest
from test_public_api import SIGNATURES

from cnnlab.course import notebooks


pytestmark = pytest.mark.slow
ROOT = notebooks.root()
# What it ignores, because it's for another program.
IGNORED = re.compile(
    r"_toc\.yml|'jupytext' extra keys|key ignored: file_format|\(in bibliography\)$"
)
# mystmd comes without Node, but Playwright has one. It also asks for the version of npm, which it
# then doesn't use.
NODE = Path(playwright.__file__).with_name("driver") / "node"
NPM = "#!/bin/sh\necho 11.0.0\n"
# The theme of Jupyter Book is on the web. This one draws nothing.
THEME = "myst: v1\nkind: site\ntitle: none\n"


@dataclass
class Build:
    """What one build left: its messages, and the tree of each page by the name of its file."""

    log: str
    pages: dict[str, dict[str, Any]]


def build(folder: Path, *, python: bool) -> Build:
    """Let mystmd read a copy of the course without a network, with or without Python at hand."""
    caches = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "studies")
    for name in ("chapters", "_ext", "_static"):
        shutil.copytree(ROOT / name, folder / name, ignore=caches)
    settings = (ROOT / "myst.yml").read_text()
    assert "template: book-theme" in settings
    (folder / "myst.yml").write_text(settings.replace("book-theme", "theme"))
    (folder / "theme").mkdir()
    (folder / "theme" / "template.yml").write_text(THEME)
    programs = folder / "bin"
    programs.mkdir()
    (programs / "node").symlink_to(NODE)
    (programs / "npm").write_text(NPM)
    (programs / "npm").chmod(0o755)
    refused = folder / "refused"
    others = [str(Path(sys.executable).parent), os.environ["PATH"]]
    env = os.environ | {
        "PATH": os.pathsep.join([str(programs), *(others if python else [])]),
        "CNNLAB_REFUSED": str(refused),
        "NODE_OPTIONS": f"--require={Path(__file__).with_name('offline')}/loopback.cjs",
    }
    (package,) = find_spec("mystmd_py").submodule_search_locations
    command = ["node", f"{package}/myst.cjs", "build", "--site", "--strict", "--ci"]
    result = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    log = result.stdout + result.stderr
    assert result.returncode == 0, log[-5000:]
    hosts = set(refused.read_text().split()) if refused.exists() else set()
    assert not {h for h in hosts if not h.startswith("registry.")}  # is there a newer mystmd?
    pages = map(json.loads, (p.read_text() for p in folder.glob("_build/site/content/*.json")))
    return Build(log, {page["location"].removeprefix("/"): page["mdast"] for page in pages})


def nodes(tree: dict[str, Any], kind: str) -> Iterator[dict[str, Any]]:
    """Go through the nodes of one type in a page."""
    if tree["type"] == kind:
        yield tree
    for child in tree.get("children") or ():
        yield from nodes(child, kind)


def text(tree: dict[str, Any]) -> str:
    return tree.get("value") or "".join(text(child) for child in tree.get("children") or ())


@pytest.fixture(scope="module")
def book(tmp_path_factory) -> Build:
    return build(tmp_path_factory.mktemp("myst"), python=True)


def test_every_page_is_read_without_an_unknown_directive_role_or_link(book):
    listed = {str(page.relative_to(ROOT)) for page in notebooks.pages()}
    library = {str(page.relative_to(ROOT)) for page in ROOT.glob("chapters/library/*.md")}
    assert set(book.pages) == listed | library
    warnings = [line for line in book.log.splitlines() if "⚠" in line or "⛔" in line]
    assert not [line for line in warnings if not IGNORED.search(line)]
    raw = [name for name, page in book.pages.items() if any(nodes(page, "mystDirective"))]
    assert not raw


def test_appendix_d_becomes_markdown(book):
    modules = [page for name, page in book.pages.items() if "/library/" in name]
    headings = {text(heading) for page in modules for heading in nodes(page, "heading")}
    for name in SIGNATURES:
        assert name.partition(".")[2] in headings, name


def test_without_python_appendix_d_says_how_to_read_it(tmp_path):
    book = build(tmp_path, python=False)
    assert "help(cnnlab.schedules)" in text(book.pages["chapters/library/schedules.md"])

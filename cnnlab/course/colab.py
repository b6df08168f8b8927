"""Write the chapters for Google Colab and Kaggle, which open notebooks one by one from GitHub.

There, a notebook is alone on a machine that knows neither cnnlab nor the files beside the notebook.
So its first cell installs cnnlab if it isn't there, and gets the tables of the studies from the
package; all its links lead to GitHub.

>>> print(badge("https://github.com/ann/course/blob/main/colab/00_first_network.ipynb")[:60])
[![Open in Colab](https://colab.research.google.com/assets/c
"""

import re
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cnnlab.course import notebooks, products
from cnnlab.errors import CnnlabError


__all__ = ["ColabError", "badge", "bring_tables", "write"]

COLAB = "https://colab.research.google.com"
_REPOSITORY = re.compile(r"(https://github\.com/([\w.-]+/[\w.-]+?))(\.git)?/?")
_LINK = re.compile(r"\]\(([^\s():#]+)(#[^\s()]*)?\)")  # in Markdown, to a file beside the page

# PACKAGE is what pip installs. On Colab, the title is all that is shown of the cell.
_INSTALL = """\
# @title Run this cell first: it installs cnnlab where it's missing
import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("cnnlab") is None:
    package = "PACKAGE"
    if "google.colab" not in sys.modules and "KAGGLE_KERNEL_RUN_TYPE" not in os.environ:
        raise RuntimeError(f"cnnlab isn't installed. In a terminal, run: pip install '{package}'")
    print("Installing cnnlab; this takes about a minute.")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", package]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(
            f"pip couldn't install '{package}'. It says:\\n{done.stderr.strip()[-600:]}\\n\\n"
            "On Kaggle, switch on Internet in the notebook's settings. Then run this cell again."
        )
    importlib.invalidate_caches()

from cnnlab.course import colab

colab.bring_tables()"""

_KEEP = (
    "This machine is deleted some time after you leave. To keep what you write, choose *File*, "
    "then *Save a copy in Drive* on Colab, or *Save Version* on Kaggle."
)
_README = """# The course on Google Colab and Kaggle

Each notebook has a button that opens it on Colab. Solutions and notes for instructors aren't in
here.

The links lead to {place}:
commit this folder there, and push it. The first cell of each notebook installs
`{package}`.

{rows}
"""


class ColabError(CnnlabError, ValueError):
    """The notebooks can't be written for this repository or this package."""


def write(
    out: Path,
    repository: str,
    *,
    branch: str = "main",
    folder: str | None = None,
    package: str | None = None,
    force: bool = False,
) -> Path:
    """Write the students' notebooks with a button for Colab and a first cell that installs cnnlab.

    Args:
        out: a folder that doesn't exist yet. You publish it in the repository.
        repository: the address of the repository on GitHub.
        branch: the branch that you publish.
        folder: where `out` will be in the repository, `"."` for its top (default: the name of
            `out`).
        package: what pip installs: a version such as `"cnnlab==0.2.0"`, or the address of a wheel
            (default: the repository itself, which must then be a copy of this one).
        force: as in `products.student`.

    Returns:
        The folder.

    Raises:
        ColabError: `repository` isn't on GitHub, or `package` is neither of the two.
        ExistsError: `out` exists, and `force` is not set. Nothing is changed.
    """
    notebooks.require("nbformat", extra="lab")
    import nbformat

    found = _REPOSITORY.fullmatch(repository)
    if not found:
        raise ColabError(
            "Colab opens notebooks from GitHub, so the repository must be an address such as "
            f"https://github.com/OWNER/NAME; got {repository!r}"
        )
    wanted = _requirement(package or f"git+{found[1]}@{branch}")
    path = Path(folder if folder is not None else out.name).as_posix()
    place = "/".join([branch] if path == "." else [branch, quote(path)])
    rows = []
    with products.new_folder(out, force) as new:
        products.write_student_files(new)
        (new / products.START).unlink()  # it describes a folder on the student's own machine
        for page in sorted(new.rglob("*.ipynb")):
            name = quote(page.relative_to(new).as_posix())
            notebook = products.read_notebook(page)
            title = notebook.cells[0].source.partition("\n")[0].lstrip("# ")
            address = f"{found[1]}/blob/{place}/{name}"
            _prepare(notebook, page, address, wanted)
            nbformat.write(notebook, page)
            rows.append(f"- [{title}]({name}) {badge(address)}")
        readme = {"place": f"{found[1]}, `{place}`", "package": wanted, "rows": "\n".join(rows)}
        (new / "README.md").write_text(_README.format(**readme), encoding="utf-8")
    return out


def badge(address: str) -> str:
    """Return Markdown with a button for Colab and a link for Kaggle.

    Args:
        address: that of the notebook on GitHub, `https://github.com/OWNER/NAME/blob/BRANCH/...`.
    """
    button = f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({_on_colab(address)})"
    return f"{button} [Open in Kaggle](https://kaggle.com/kernels/welcome?src={address})"


def bring_tables() -> None:
    """Copy the tables of the studies into the current folder, unless it has a folder `studies`."""
    studies = Path("studies")
    if not studies.exists():
        tables = notebooks.shipped() / "chapters" / "studies"
        shutil.copytree(tables, studies, ignore=shutil.ignore_patterns("__pycache__"))


def _on_colab(address: str) -> str:
    return address.replace("https://github.com", f"{COLAB}/github", 1)


def _requirement(package: str) -> str:
    """Return what pip installs, with the extra for Colab."""
    if "://" in package and not re.search(r"[\"'\s]", package):
        return f"cnnlab[colab] @ {package}"
    if re.fullmatch(r"cnnlab([=<>~!][^\"'\s]+)?", package):
        return package.replace("cnnlab", "cnnlab[colab]", 1)
    raise ColabError(
        "--package must be a version, such as cnnlab==0.2.0, or an address, such as "
        f"https://example.org/cnnlab-0.2.0-py3-none-any.whl; got {package!r}"
    )


def _prepare(notebook: Any, page: Path, address: str, package: str) -> None:
    """Put the button and the first cell into a notebook, and make its links absolute."""
    import nbformat

    def absolute(found: re.Match[str]) -> str:
        target, anchor = found[1], found[2] or ""
        if not (page.parent / target).is_file():
            return found[0]
        there = f"{address.rpartition('/')[0]}/{target}"
        if target.endswith(".ipynb"):
            there = _on_colab(there)
        elif not target.endswith(".md"):
            there = there.replace("/blob/", "/raw/", 1)
        return f"]({there}{anchor})"

    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _LINK.sub(absolute, cell.source)
    button = nbformat.v4.new_markdown_cell(f"{badge(address)}\n\n{_KEEP}", id="colab-badge")
    install = nbformat.v4.new_code_cell(
        _INSTALL.replace("PACKAGE", package), id="colab-install", metadata={"cellView": "form"}
    )
    notebook.cells[:0] = [button, install]

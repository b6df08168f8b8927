"""What is installed: Python, the packages and what they need of each other, the kernel, the sliders."""

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from cnnlab.course.doctor.lines import Line, broken, fenced, fine, look, told
from cnnlab.version import __version__


PIP = f"{sys.executable} -m pip install"
_MODULES = {
    "pillow": "PIL",
    "scikit-learn": "sklearn",
}  # those with another name than their package
_ASK = "import importlib.util as u; print('has', u.find_spec('cnnlab') is not None)"


def python() -> Iterator[Line]:
    """The interpreter, and the environment it belongs to."""
    yield fine("Python", f"{platform.python_version()} in {sys.prefix}")


def packages() -> Iterator[Line]:
    """Cnnlab itself, and each package that it and its extra `lab` ask for."""
    place = f"{__version__} in {Path(__file__).parents[2]}"
    try:
        wanted = requires("cnnlab") or []
    except PackageNotFoundError:
        yield broken(
            "cnnlab",
            f"{place}, which is not installed",
            f"notebooks will not find it; call {PIP} -e '.[lab]' in the folder of the course",
        )
        return
    yield fine("cnnlab", place)
    for text in wanted:
        if "extra ==" not in text or re.search(r"extra == .lab.", text):
            name = re.split(r"[^\w.-]", text)[0]
            yield from fenced(name, partial(_package, name, text))


def _package(name: str, text: str) -> Iterator[Line]:
    """One package: is it there, new enough, and does it import?"""
    bad = look if "extra ==" in text else broken
    asked = text.partition(";")[0].strip()
    install = f"call {PIP} '{asked}'"
    try:
        installed = version(name)
    except PackageNotFoundError:
        yield bad(name, "not installed", install)
        return
    from packaging.requirements import Requirement

    if not Requirement(text).specifier.contains(installed, prereleases=True):
        yield bad(name, f"{installed}, and cnnlab asks for {asked}", install)
        return
    try:
        import_module(_MODULES.get(name, name.replace("-", "_")))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a package may raise anything
        again = f"install it again: {PIP} --force-reinstall '{asked}'"
        yield bad(name, f"{installed} is there and does not import: {told(error)}", again)
        return
    yield fine(name, installed)


def torchvision() -> Iterator[Line]:
    """Torch and torchvision are built for each other, or the second computes nothing."""
    from packaging.requirements import Requirement

    found = f"torch {version('torch')}, torchvision {version('torchvision')}"
    both = "torch + torchvision"
    together = f"install both again, together: {PIP} --upgrade torch torchvision"
    for asked in map(Requirement, requires("torchvision") or []):
        if asked.name == "torch" and not asked.specifier.contains(
            version("torch"), prereleases=True
        ):
            yield broken(both, f"{found}, which asks for torch{asked.specifier}", together)
            return
    try:
        import torch
        from torchvision.ops import nms

        nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except Exception as error:  # noqa: BLE001 - as above
        yield broken(both, f"{found} do not work together: {told(error)}", together)
        return
    yield fine(both, f"{found} fit each other")


def kernel() -> Iterator[Line]:
    """The Python that runs the cells, which need not be the one that runs this."""
    if find_spec("jupyter_client") is None:
        yield look("kernel", "no Jupyter is installed here", f"call {PIP} jupyterlab ipykernel")
        return
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        spec = KernelSpecManager().get_kernel_spec("python3")
    except NoSuchKernel:
        yield broken("kernel", "there is none called python3", f"call {PIP} ipykernel")
        return
    command, folder = spec.argv[0], spec.resource_dir
    if _is_this_python(command):
        yield fine("kernel", "python3 is this environment")
        return
    found = f"python3 is another environment, {command}, says {folder}"
    away = f"call {sys.executable} -m jupyter kernelspec remove python3, and it is this one again"
    problem = _ask(command, {**os.environ, **spec.env})
    yield broken("kernel", f"{found}; {problem}", away) if problem else look("kernel", found, away)


def _is_this_python(command: str) -> bool:
    """Jupyter replaces a bare `python` by its own; of a path, the folder tells the environment."""
    major, minor = sys.version_info[:2]
    if command in ("python", f"python{major}", f"python{major}.{minor}"):
        return True
    folder = Path(shutil.which(command) or command).parent
    return folder.is_dir() and folder.samefile(Path(sys.executable).parent)


def _ask(command: str, environment: dict[str, str]) -> str:
    """What is wrong with another Python, or nothing."""
    with tempfile.TemporaryDirectory() as elsewhere:  # in a checkout, any Python finds cnnlab
        try:
            done = subprocess.run(
                [command, "-c", _ASK], cwd=elsewhere, env=environment,
                capture_output=True, text=True, timeout=30, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"it does not start: {told(error)}"
    return "" if "has True" in done.stdout else "it has no cnnlab"


def widgets() -> Iterator[Line]:
    """Sliders need a package in the kernel and an extension in JupyterLab."""
    way_out = f"call {PIP} --force-reinstall 'ipywidgets>=8.1', and start JupyterLab again"
    if find_spec("ipywidgets") is None:
        yield look("sliders", "none without ipywidgets: explorers are still pictures", way_out)
        return
    from jupyter_core.paths import jupyter_path

    extension = Path("@jupyter-widgets", "jupyterlab-manager", "package.json")
    if any(Path(folder, extension).is_file() for folder in jupyter_path("labextensions")):
        yield fine("sliders", "ipywidgets and its extension of JupyterLab are there")
    else:
        yield look("sliders", "none: JupyterLab lacks the extension for ipywidgets", way_out)

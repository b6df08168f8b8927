"""Start JupyterLab for the course: on the start page, without questions, with readable lines."""

import os
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from cnnlab.course import products


# `labconfig` has other defaults than JupyterLab's: it doesn't ask about news, file names have the
# whole column, Markdown is shown rendered. A reader's own settings win. `custom` limits the lines.
SETTINGS = Path(__file__).with_name("lab_settings")


def options(given: Sequence[str], *, folder: Path | None, start: str | None = None) -> list[str]:
    """Return the options for JupyterLab, ending with the given ones, which win.

    Args:
        given: what the user typed after `cnnlab lab`.
        folder: what JupyterLab shows; `None` to leave this to `given`.
        start: the notebook in `folder` to open; JupyterLab decides by default.
    """
    ours = {
        "--log-level": "WARN",
        # No server is asked for news or updates, and messages to kernels are encrypted.
        "--LabApp.news_url": "None",
        "--LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
        "--KernelManager.transport_encryption": "auto",
        "--LabApp.custom_css": "True",
        "--ServerApp.tornado_settings": repr({"static_custom_path": [str(SETTINGS / "custom")]}),
    }
    if folder is not None:
        ours["--ServerApp.root_dir"] = str(folder)
    if start is not None and folder is not None:
        ours["--LabApp.default_url"] = f"/lab/tree/{start}"
        # Open tabs are remembered in the copy. Those of other projects would be missing here.
        ours["--LabApp.workspaces_dir"] = str(folder / products.STATE / "workspaces")
    names = {option.partition("=")[0] for option in given}
    return [f"{name}={value}" for name, value in ours.items() if name not in names] + [*given]


def prepare_environment() -> None:
    """Let JupyterLab find its settings, and terminals and `!cnnlab` in cells this `cnnlab`."""
    _prepend("JUPYTER_CONFIG_PATH", str(SETTINGS))
    _prepend("PATH", sysconfig.get_path("scripts"))


def _prepend(variable: str, folder: str) -> None:
    present = [part for part in os.environ.get(variable, "").split(os.pathsep) if part]
    os.environ[variable] = os.pathsep.join([folder, *(part for part in present if part != folder)])

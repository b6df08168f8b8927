"""Find the modules of the chapters, each with its exercises."""

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType


def chapter_modules() -> dict[int, ModuleType]:
    """Import `chapter00`, `chapter01` and so on, and return them by number, in order."""
    package = __name__.rpartition(".")[0]
    names = sorted(module.name for module in iter_modules([str(Path(__file__).parent)]))
    return {
        int(name.removeprefix("chapter")): import_module(f"{package}.{name}")
        for name in names
        if name.startswith("chapter")
    }

"""The package is a stack of folders, without circles, and the library needs no course."""

import ast
import importlib
import os
import pydoc
import shutil
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from importlib.util import find_spec
from pathlib import Path

import pytest

import cnnlab


PACKAGE = Path(cnnlab.__file__).parent
# Bottom up: a file imports only from its own folder and from those before it.
LAYERS = [
    "version", "errors", "rng", "files", "limits", "devices", "losses",  # the ground: single files
    "plots", "augment", "data", "models", "training", "transfer", "callbacks", "study", "diagnose",
    "course", "__init__", "__main__",
]  # fmt: skip
# The sick scripts are data: no module imports them.
SICK = PACKAGE / "course" / "emergency" / "sick"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != SICK)


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path: Path) -> set[Path]:
    """The files of the package that a file imports, anywhere in it and for types too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write imports in full"
            names |= {(f"{node.module}.{alias.name}", node.module) for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {(alias.name, alias.name) for alias in node.names}
    found = {file_of(name) or file_of(module or "") for name, module in names}
    return {file for file in found if file is not None} - {path}


def file_of(name: str) -> Path | None:
    package, *parts = name.split(".")
    if package != "cnnlab":
        return None
    place = PACKAGE.joinpath(*parts)
    if place.is_dir():
        return place / "__init__.py"
    return place.with_suffix(".py") if place.with_suffix(".py").is_file() else None


GRAPH = {path: imported(path) for path in FILES}


def test_there_are_at_most_twenty_things_to_find_at_the_top():
    assert len([entry for entry in PACKAGE.iterdir() if entry.name != "__pycache__"]) <= 20


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path):
    here = LAYERS.index(layer(path))
    above = {
        str(file.relative_to(PACKAGE)) for file in GRAPH[path] if LAYERS.index(layer(file)) > here
    }
    assert not above, f"{layer(path)} stands below {', '.join(sorted(above))}"


def test_every_layer_exists():
    assert {layer(path) for path in FILES} == set(LAYERS)


def test_no_file_imports_itself_through_others():
    # A package's own __init__ offers what its files define: the face of the folder, not a part of a
    # circle.
    graph = {
        path: {file for file in files if file != path.parent / "__init__.py"}
        for path, files in GRAPH.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(str(file.relative_to(PACKAGE)) for file in error.args[1]))


def test_no_folder_is_imported_by_one_below_it_in_a_roundabout_way():
    folders = {name: set() for name in LAYERS}
    for path, files in GRAPH.items():
        folders[layer(path)] |= {layer(file) for file in files} - {layer(path)}
    TopologicalSorter(folders).prepare()  # raises CycleError


# --- the library without the course ---------------------------------------------------------------

ALONE = """
import sys
# An editable installation would find the course in the checkout.
sys.meta_path = [f for f in sys.meta_path if "editable" not in getattr(f, "__module__", "")]
import torch
import cnnlab
from cnnlab import checkpoint, tune
from cnnlab.callbacks import Checkpoint, EarlyStopping

data = cnnlab.load("pocket", n_train=96, n_valid=48, n_test=48, level="easy")

def trainer(folder):
    torch.manual_seed(0)
    model = cnnlab.small_resnet(len(data.classes), width=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    callbacks = [Checkpoint(folder), EarlyStopping("valid_loss", "min", patience=9)]
    return cnnlab.Trainer(model, optimizer, device="cpu", progress=False, callbacks=callbacks)

train, valid = cnnlab.loader(data.train, 32, shuffle=True), cnnlab.loader(data.valid, 48)
whole = trainer("whole").fit(train, valid, epochs=2)
trainer("cut").fit(train, valid, epochs=1)
resumed = trainer("cut")
resumed.load("cut")
assert resumed.fit(train, valid, epochs=2).steps.equals(whole.steps)

table = tune.random_search(lambda lr: -lr, {"lr": tune.LogUniform(1e-3, 1)}, 3)
assert len(table) == 3
results = cnnlab.compare({"a": lambda seed: 1.0 + seed, "b": lambda seed: seed}, 3)
results.claim("a", ">", "b")
assert not [name for name in sys.modules if name.startswith("cnnlab.course")]
try:
    cnnlab.check
except ModuleNotFoundError:
    print("no course")
"""


@pytest.mark.slow
def test_training_resuming_searching_and_comparing_need_no_course(tmp_path):
    shutil.copytree(
        PACKAGE, tmp_path / "cnnlab", ignore=shutil.ignore_patterns("course", "__pycache__")
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}"}
    script = tmp_path / "alone.py"
    script.write_text(ALONE)
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "no course\n"


# --- public modules whose file is deeper in the package -------------------------------------------


# Grading needs the extra instructor.
MODULES = {name for name in cnnlab._MODULES if name != "autograde" or find_spec("nbgrader")}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_public_module_is_the_module_itself_under_a_shorter_name(name):
    short = importlib.import_module(f"cnnlab.{name}")
    assert short is importlib.import_module(cnnlab._MODULES[name])
    assert short is getattr(cnnlab, name)
    assert short.__name__ == short.__spec__.name == cnnlab._MODULES[name]


@pytest.mark.parametrize(
    "code",
    [
        "import cnnlab.schedules; cosine = cnnlab.schedules.cosine",
        "import cnnlab; cosine = cnnlab.schedules.cosine",
        "from cnnlab import schedules; cosine = schedules.cosine",
        "from cnnlab.schedules import cosine",
        "import cnnlab.schedules as s; cosine = s.cosine",
    ],
)
def test_every_way_to_import_a_public_module_gives_the_same_function(code):
    code += "\nfrom cnnlab.training.schedules import cosine as real; assert cosine is real"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_module_inside_a_public_one_is_loaded_once():
    code = (
        "import cnnlab.check.core, sys; from cnnlab.course.check import core; "
        "assert cnnlab.check.core is core; assert sys.modules['cnnlab.check.core'] is core"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_public_module_can_be_reloaded():
    code = (
        "import importlib, cnnlab.schedules; importlib.reload(cnnlab.schedules); "
        "assert cnnlab.schedules.__name__ == 'cnnlab.training.schedules'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_module_that_does_not_exist_is_not_found():
    with pytest.raises(ModuleNotFoundError, match=r"cnnlab\.nonsense"):
        importlib.import_module("cnnlab.nonsense")
    with pytest.raises(ModuleNotFoundError, match=r"cnnlab\.check\.nonsense") as caught:
        importlib.import_module("cnnlab.check.nonsense")
    assert caught.value.name == "cnnlab.check.nonsense"  # pydoc asks for it
    assert pydoc.locate("cnnlab.check.Exercise.judge") is not None


def test_what_a_public_module_offers_is_listed():
    public = {*cnnlab._MODULES, *(name for name in cnnlab.__all__ if name.islower())}
    for name in public:
        module = importlib.import_module(f"cnnlab.{name}") if name in MODULES else None
        assert module is None or module.__all__, f"cnnlab.{name} has no __all__"

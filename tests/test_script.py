"""`chapters/train.py` is the plain code of the chapters, and it trains as `Trainer` does."""

import ast
import importlib.util
import subprocess
import sys

import nbformat
import pytest
import torch

import cnnlab
from cnnlab import course
from cnnlab.course import products, script


PATH = course.notebooks.root() / "chapters" / products.SCRIPT


def notebook(tmp_path, name, *cells):
    title, *rest = cells
    nodes = [nbformat.v4.new_markdown_cell(title)]
    for source in rest:
        tags = [] if source.startswith("import") else ["plain"]
        nodes.append(nbformat.v4.new_code_cell(source, metadata={"tags": tags}))
    nbformat.write(nbformat.v4.new_notebook(cells=nodes), tmp_path / name)
    return tmp_path / name


def lines_of(text):
    return [line for line in text.splitlines() if line and not line.startswith(("#", '"', "Th"))]


@pytest.fixture(scope="module")
def plain():
    spec = importlib.util.spec_from_file_location("plain_script", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- the script -----------------------------------------------------------------------------------


def test_the_committed_script_is_the_assembly_of_the_chapters():
    assert PATH.read_text() == script.assemble(course.chapters()), "call `make fix`"


def test_the_script_imports_only_torch_torchvision_and_the_standard_library():
    tree = ast.parse(PATH.read_text())
    modules = {a.name for node in tree.body if isinstance(node, ast.Import) for a in node.names}
    modules |= {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    packages = {module.partition(".")[0] for module in modules}
    assert "torch" in packages
    assert packages - sys.stdlib_module_names <= {"torch", "torchvision"}


def test_ruff_accepts_the_script():
    ruff = [sys.executable, "-m", "ruff"]
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run([*ruff, *command, PATH], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_fit_gives_the_weights_of_trainer_bit_for_bit(plain):
    data = cnnlab.load("pocket", seed=3, n_train=100, n_valid=50)
    dataset = plain.ImageDataset(data.train.images, data.train.labels)
    valid = plain.ImageDataset(data.valid.images, data.valid.labels)
    batches = list(plain.make_loader(dataset, 32, shuffle=True, seed=5))
    assert [len(images) for images, _ in batches] == [32, 32, 32]
    valid_loader = plain.make_loader(valid, 32, shuffle=False, seed=0)

    def new():
        torch.manual_seed(7)
        model = plain.SmallResNet(12) if hasattr(plain, "SmallResNet") else cnnlab.small_resnet(12)
        return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    model, optimizer = new()
    history = plain.fit(model, batches, valid_loader, optimizer, 2, torch.device("cpu"))
    expected, optimizer = new()
    trainer = cnnlab.Trainer(expected, optimizer, device="cpu", progress=False)
    trainer.fit(batches, cnnlab.loader(data.valid, 32), epochs=2)
    weights = model.state_dict()
    assert all(torch.equal(weights[k], v) for k, v in expected.state_dict().items())
    frame = trainer.history.to_pandas()
    assert [loss for loss, _ in history] == pytest.approx(frame["train_loss"].tolist())
    assert [accuracy for _, accuracy in history] == pytest.approx(frame["valid_acc"].tolist())


def test_a_loader_of_the_script_repeats_its_order_and_changes_it_in_each_epoch(plain):
    images = torch.arange(10, dtype=torch.uint8).reshape(10, 1, 1, 1).expand(10, 3, 2, 2)
    dataset = plain.ImageDataset(images, torch.arange(10), transform=lambda image: 255 - image)
    image, label = dataset[4]
    assert (image.dtype, image.max().item(), int(label)) == (
        torch.float32,
        pytest.approx(251 / 255),
        4,
    )

    def orders(seed):
        loader = plain.make_loader(dataset, 4, shuffle=True, seed=seed)
        return [torch.cat([labels for _, labels in loader]).tolist() for _ in range(2)]

    assert orders(0) == orders(0)
    assert orders(0) != orders(1)
    assert orders(0)[0] != orders(0)[1]
    assert len(orders(0)[0]) == 8
    assert len(plain.make_loader(dataset, 4, shuffle=False, seed=0)) == 3


# --- its assembly ---------------------------------------------------------------------------------


def test_a_later_definition_replaces_the_earlier_one_in_its_place(tmp_path):
    first = notebook(
        tmp_path,
        "01_a.ipynb",
        "# 1. First",
        "import math\nimport unused",
        "A = 1\n\n\n# About f.\ndef f():\n    return math.pi\n\n\ndef g():\n    return A",
    )
    second = notebook(
        tmp_path,
        "02_b.ipynb",
        "# 2. Second\n\nText.",
        "from torch import zeros\nfrom torch import Tensor\nimport torch\n\n\n"
        "@torch.no_grad()\ndef f():\n    return zeros(1), Tensor\n\n\nclass C:\n    pass",
    )
    text = script.assemble([first, second])
    assert lines_of(text)[1:] == [
        "import torch",
        "from torch import Tensor, zeros",
        "A = 1",
        "@torch.no_grad()",
        "def f():",
        "    return zeros(1), Tensor",
        "def g():",
        "    return A",
        "class C:",
        "    pass",
    ]
    headings = [line.strip("#- ") for line in text.splitlines() if line.startswith("# ---")]
    assert headings == [f"Chapter {t}" for t in ("1. First", "2. Second", "1. First", "2. Second")]
    assert "# About f." in script.assemble([first])
    assert "import math" in script.assemble([first])
    exec(text, {})  # noqa: S102


def test_a_long_import_gets_a_line_for_each_name(tmp_path):
    names = [f"a_rather_long_name_{i}" for i in range(6)]
    uses = "\n".join(f"    {name}" for name in names)
    path = notebook(
        tmp_path,
        "01_a.ipynb",
        "# 1. A",
        f"from torch import {', '.join(names)}\n\n\ndef f():\n{uses}",
    )
    assert "from torch import (\n    a_rather_long_name_0,\n" in script.assemble([path])


@pytest.mark.parametrize("line", ["print(1)", "lower = 1", "A = B = 1", "if True:\n    A = 1"])
def test_a_cell_with_anything_else_is_refused(tmp_path, line):
    path = notebook(tmp_path, "01_a.ipynb", "# 1. First", f"A = 2\n{line}")
    with pytest.raises(script.PlainCellError, match=r"chapter 1\. First: a cell tagged plain"):
        script.assemble([path])


def test_the_script_is_in_a_students_copy(tmp_path):
    products.student(tmp_path / "copy")
    assert (tmp_path / "copy" / products.SCRIPT).read_bytes() == PATH.read_bytes()

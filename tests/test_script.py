"""`chapters/train.py` is the plain code of the chapters, and it trains as `Trainer` does."""

import ast
import importlib.util
import re
import shutil
import subprocess
import sys
from functools import partial

import nbformat
import pytest
import torch
from PIL import Image

import cnnlab
from cnnlab import course
from cnnlab.averaging import EMA
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


# --- the command line -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sign_folder(tmp_path_factory):
    """A folder as a student has it: train/<class>/ and test/<class>/ with PNG files."""
    folder = tmp_path_factory.mktemp("signs")
    data = cnnlab.load("pocket", seed=1, n_train=96, n_valid=12, n_test=24)
    for name in ("train", "test"):
        split = getattr(data, name)
        for i, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
            path = folder / name / data.classes[label] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return folder


def test_the_script_runs_from_the_command_line(sign_folder, tmp_path):
    options = ["--epochs", "2", "--mix", "--max-norm", "1", "--test", sign_folder / "test"]
    options += ["--balanced", "--microbatch", "16", "--bf16"]
    done = subprocess.run(
        [sys.executable, PATH, sign_folder / "train", *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    first, one, two, test = done.stdout.splitlines()
    assert re.fullmatch(r"first loss \d\.\d\d, log K = 2\.48", first)
    assert re.fullmatch(r"epoch 1: loss \d\.\d{3}, valid \d\.\d{3}", one)
    assert two.startswith("epoch 2: ")
    assert re.fullmatch(r"test accuracy \d\.\d{3}", test)
    assert (tmp_path / "run.pt").exists()


def test_the_command_line_gives_the_averaged_weights_of_trainer_bit_for_bit(
    plain, sign_folder, tmp_path
):
    train, out = sign_folder / "train", tmp_path / "run.pt"
    options = ["--no-augment", "--epochs=2", "--batch-size=16", "--valid=0.25", "--seed=3"]
    model = plain.main([str(train), *options, f"--out={out}"])

    torch.manual_seed(3)
    images, labels, classes = plain.load_folder(train, 32)
    held_out, known = plain.split_classes(labels, 0.25, 3)
    assert sorted(torch.cat([held_out, known]).tolist()) == list(range(96))
    assert labels[held_out].bincount().tolist() == [2] * 12  # of the eight of each class
    dataset = plain.ImageDataset(images[known], labels[known])
    expected = plain.SmallResNet(len(classes)).apply(plain.init_weights)
    groups = plain.decay_groups(expected, 5e-4)
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    trainer = cnnlab.Trainer(
        expected,
        optimizer,
        scheduler=plain.make_schedule(optimizer, 1, 8),
        ema=EMA(expected, 0.99),
        device="cpu",
        progress=False,
    )
    for epoch in range(2):
        trainer.fit(list(plain.make_loader(dataset, 16, True, 3 + epoch)), epochs=epoch + 1)
    average = trainer.ema.model.state_dict()
    assert len(average) > 10
    assert all(torch.equal(average[name], value) for name, value in model.state_dict().items())


def test_the_command_line_refuses_a_batch_that_is_never_full(plain, sign_folder, tmp_path):
    arguments = [str(sign_folder / "train"), "--batch-size=97", f"--out={tmp_path / 'run.pt'}"]
    with pytest.raises(SystemExit, match=r"72 training images don't fill a batch of 97"):
        plain.main(arguments)


def test_a_test_folder_without_one_of_the_classes_is_judged_by_the_labels_of_training(
    plain, sign_folder, tmp_path, monkeypatch
):
    train, test = sign_folder / "train", tmp_path / "test"
    shutil.copytree(train, test)
    shutil.rmtree(test / min(path.name for path in test.iterdir()))
    labels = []

    def evaluate(model, loader, device):
        labels.append(loader.dataset.labels)
        return 0.0

    monkeypatch.setattr(plain, "evaluate_model", evaluate)
    plain.main([str(train), "--epochs=1", f"--test={test}", f"--out={tmp_path / 'run.pt'}"])
    assert labels[-1].unique().tolist() == list(range(1, 12))


def test_the_pretrained_network_takes_pixels_and_normalises_them_itself(plain, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(plain, "load_backbone", partial(plain.load_backbone, weights=None))
    model = plain.build_model(3, pretrained=True).eval()
    images = torch.rand(2, 3, 64, 64)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    assert torch.equal(model(images), model[1]((images - mean) / std))
    assert model(images).shape == (2, 3)


def test_frozen_trains_the_head_of_the_pretrained_network_alone(
    plain, sign_folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(plain, "load_backbone", partial(plain.load_backbone, weights=None))
    options = ["--pretrained", "--frozen", "--epochs=1", f"--out={tmp_path / 'run.pt'}"]
    trained = plain.main([str(sign_folder / "train"), *options]).state_dict()
    torch.manual_seed(0)
    new = plain.build_model(12, pretrained=True).state_dict()
    changed = {name for name in new if not torch.equal(new[name], trained[name])}
    assert changed == {"1.fc.weight", "1.fc.bias"}


def test_a_run_that_was_interrupted_goes_on_to_the_same_weights(
    plain, sign_folder, tmp_path, monkeypatch
):
    arguments = [str(sign_folder / "train"), "--epochs=2", f"--out={tmp_path / 'run.pt'}"]
    expected = plain.main(arguments).state_dict()
    save = plain.save_checkpoint

    def save_and_lose_power(*args, **parts):
        save(*args, **parts)
        raise KeyboardInterrupt

    monkeypatch.setattr(plain, "save_checkpoint", save_and_lose_power)
    with pytest.raises(KeyboardInterrupt):
        plain.main(arguments)
    monkeypatch.setattr(plain, "save_checkpoint", save)
    resumed = plain.main([*arguments, "--resume"]).state_dict()
    assert all(torch.equal(expected[name], value) for name, value in resumed.items())


def test_resume_and_patience_are_refused_together(plain, tmp_path, capsys):
    with pytest.raises(SystemExit):
        plain.main([str(tmp_path), "--resume", "--patience=2"])
    assert "--patience can't go on" in capsys.readouterr().err


def test_patience_ends_the_run_and_keeps_the_best_epoch(
    plain, sign_folder, tmp_path, monkeypatch, capsys
):
    accuracies = iter([0.3, 0.5, 0.4, 0.4, 0.9])
    averages = []

    def evaluate(model, loader, device):
        averages.append({name: value.clone() for name, value in model.module.state_dict().items()})
        return next(accuracies)

    monkeypatch.setattr(plain, "evaluate_model", evaluate)
    options = ["--epochs=5", "--patience=2", "--lr=0.01", f"--out={tmp_path / 'run.pt'}"]
    best = plain.main([str(sign_folder / "train"), *options]).state_dict()
    assert len(averages) == 4
    assert all(torch.equal(averages[1][name], value) for name, value in best.items())
    assert not all(torch.equal(averages[3][name], value) for name, value in best.items())
    assert "epoch 4: " in capsys.readouterr().out


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


def test_a_function_main_is_called_when_the_script_is_run(tmp_path):
    path = notebook(tmp_path, "01_a.ipynb", "# 1. A", "def main():\n    print('it runs')")
    (tmp_path / "a.py").write_text(script.assemble([path]))
    done = subprocess.run(
        [sys.executable, tmp_path / "a.py"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "it runs\n"


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

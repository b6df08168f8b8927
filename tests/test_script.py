"""`chapters/train.py` is the plain code of the chapters, and it trains as `Trainer` does."""

import ast
import importlib.util
import re
import shutil
import subprocess
import sys
from urllib.error import URLError

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DistributedSampler

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


def test_the_script_imports_only_torch_torchvision_pillow_and_the_standard_library():
    tree = ast.parse(PATH.read_text())
    modules = {a.name for node in tree.body if isinstance(node, ast.Import) for a in node.names}
    modules |= {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    packages = {module.partition(".")[0] for module in modules}
    assert "torch" in packages
    assert packages - sys.stdlib_module_names <= {"torch", "torchvision", "PIL"}


def test_ruff_accepts_the_script():
    ruff = [sys.executable, "-m", "ruff"]
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run([*ruff, *command, PATH], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_its_loop_gives_the_weights_of_trainer_bit_for_bit(plain):
    data = cnnlab.load("pocket", seed=3, n_train=100, n_valid=50)
    dataset = plain.ImageDataset(data.train.images, data.train.labels)
    valid = plain.ImageDataset(data.valid.images, data.valid.labels)
    batches = list(plain.make_loader(dataset, 32, shuffle=True, seed=5))
    assert [len(images) for images, _ in batches] == [32, 32, 32]
    valid_loader = plain.make_loader(valid, 32, shuffle=False, seed=0)

    def new():
        torch.manual_seed(7)
        model = plain.SmallResNet(12)
        return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    model, optimizer = new()
    history = []
    for _ in range(2):
        loss = plain.train_epoch(model, batches, optimizer, F.cross_entropy, "cpu")
        history.append((loss, plain.evaluate_model(model, valid_loader, "cpu")))
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
    options = ["--small", "--epochs", "2", "--mix", "--max-norm", "1"]
    options += ["--balanced", "--microbatch", "16", "--bf16", "--test", sign_folder / "test"]
    done = subprocess.run(
        [sys.executable, PATH, sign_folder / "train", *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    counts, first, one, two, test = done.stdout.splitlines()
    assert counts.startswith("images per class: {'keep left': 8, ")
    assert re.fullmatch(r"first loss \d\.\d\d, log K = 2\.48", first)
    assert re.fullmatch(r"epoch 1: loss \d\.\d{3}, valid \d\.\d{3}", one)
    assert two.startswith("epoch 2: ")
    assert re.fullmatch(r"test accuracy \d\.\d{3}", test)
    assert (tmp_path / "run.pt").exists()


def test_the_command_line_gives_the_averaged_weights_of_trainer_bit_for_bit(
    plain, sign_folder, tmp_path
):
    train, out = sign_folder / "train", tmp_path / "run.pt"
    options = ["--small", "--no-augment", "--epochs=2", "--batch-size=16", "--valid=0.25"]
    model = plain.main([str(train), *options, "--seed=3", f"--out={out}"])

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


@pytest.mark.slow
def test_two_processes_average_their_gradients_and_the_first_one_reports(
    plain, sign_folder, tmp_path
):
    train, out = sign_folder / "train", tmp_path / "run.pt"
    options = ["--small", "--no-augment", "--epochs=2", "--batch-size=32", f"--out={out}"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--local-addr=localhost", "--nproc-per-node=2", PATH, train, *options]
    done = subprocess.run(torchrun, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^\w+", done.stdout, re.MULTILINE) == ["images", "first", "epoch", "epoch"]

    torch.manual_seed(0)
    images, labels, classes = plain.load_folder(train, 32)
    _, known = plain.split_classes(labels, 0.2, 0)
    model = plain.SmallResNet(len(classes)).apply(plain.init_weights)
    optimizer = torch.optim.SGD(plain.decay_groups(model, 5e-4), lr=0.1, momentum=0.9)
    n_steps = len(known) // 2 // 16
    scheduler = plain.make_schedule(optimizer, 1, 2 * n_steps)
    for epoch in range(2):
        orders = [
            list(DistributedSampler(known, 2, rank, seed=epoch, drop_last=True)) for rank in (0, 1)
        ]
        for step in range(n_steps):
            shares = [known[order[16 * step :][:16]] for order in orders]
            model.train()
            statistics = None
            optimizer.zero_grad()
            for share in shares:  # batch norm sees one share, and keeps the first one's statistics
                loss = F.cross_entropy(model(images[share] / 255), labels[share])
                (loss / 2).backward()
                statistics = statistics or {n: b.clone() for n, b in model.named_buffers()}
            for name, buffer in model.named_buffers():
                buffer.copy_(statistics[name])
            optimizer.step()
            scheduler.step()
    trained = torch.load(out, weights_only=True)["model"]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(trained[name], value, rtol=1e-3, atol=1e-5)


def test_several_processes_are_refused_where_each_would_decide_for_itself(plain, monkeypatch):
    monkeypatch.setattr(plain, "setup_ddp", lambda: (0, 2))
    for option in ("--balanced", "--patience=3"):
        with pytest.raises(SystemExit, match="need a single process"):
            plain.main(["photos", option])


def test_a_batch_that_would_never_be_full_holds_all_training_images(plain, sign_folder, tmp_path):
    out = tmp_path / "run.pt"
    plain.main(
        [str(sign_folder / "train"), "--small", "--batch-size=97", "--epochs=1", f"--out={out}"]
    )
    optimizer = torch.load(out, weights_only=True)["optimizer"]
    assert any(value.any() for value in first_momenta(optimizer)), "it made a step"


def first_momenta(optimizer):
    return [state["momentum_buffer"] for state in optimizer["state"].values()]


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
    options = ["--small", "--epochs=1", f"--test={test}", f"--out={tmp_path / 'run.pt'}"]
    plain.main([str(train), *options])
    assert labels[-1].unique().tolist() == list(range(1, 12))


def without_weights(load_backbone):
    """Build ResNet-18 with random weights, whatever weights are asked for."""
    return lambda num_classes, weights: load_backbone(num_classes, None)


def test_the_pretrained_network_takes_pixels_and_normalises_them_itself(plain, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(plain, "load_backbone", without_weights(plain.load_backbone))
    model = plain.build_model(3, small=False).eval()
    images = torch.rand(2, 3, 64, 64)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    assert torch.equal(model(images), model[1]((images - mean) / std))
    assert model(images).shape == (2, 3)


def test_frozen_trains_the_head_of_the_pretrained_network_alone(
    plain, sign_folder, tmp_path, monkeypatch
):
    asked = []

    def load_backbone(num_classes, weights):
        asked.append(weights)
        return original(num_classes, None)

    original = plain.load_backbone
    monkeypatch.setattr(plain, "load_backbone", load_backbone)
    out = tmp_path / "run.pt"
    options = ["--frozen", "--size=32", "--epochs=1", f"--out={out}"]
    trained = plain.main([str(sign_folder / "train"), *options]).state_dict()
    torch.manual_seed(0)
    new = plain.build_model(12, small=False).state_dict()
    changed = {name for name in new if not torch.equal(new[name], trained[name])}
    assert changed == {"1.fc.weight", "1.fc.bias"}
    assert asked == [plain.ResNet18_Weights.DEFAULT] * 2, "the real network is the default"
    plain.predict(out, next(sign_folder.rglob("*.png")))
    assert asked[2] is None, "a prediction downloads nothing"


def test_without_the_internet_the_script_names_the_network_that_needs_none(plain, monkeypatch):
    def offline(*args, **kwargs):
        raise URLError("no route")

    monkeypatch.setattr(plain, "resnet18", offline)
    with pytest.raises(SystemExit, match=r"can't download ResNet-18: .*no route.*; --small needs"):
        plain.build_model(3, small=False)


@pytest.mark.parametrize("options", [["--epochs=2"], ["--epochs=9", "--patience=2"]])
def test_a_run_that_was_interrupted_goes_on_to_the_same_weights(
    plain, sign_folder, tmp_path, monkeypatch, options
):
    out = tmp_path / "run.pt"
    arguments = [str(sign_folder / "train"), "--small", *options, f"--out={out}"]
    save, accuracies = plain.save_checkpoint, [0.5, 0.4, 0.3]

    def save_and_lose_power(*args, **facts):
        save(*args, **facts)
        raise KeyboardInterrupt

    curve = iter(accuracies + accuracies)
    monkeypatch.setattr(plain, "evaluate_model", lambda *args: next(curve))
    expected = plain.main(arguments).state_dict()
    epochs = torch.load(out, weights_only=True)["epoch"]
    assert epochs == (3 if "--patience=2" in options else 2)
    curve = iter(accuracies)
    monkeypatch.setattr(plain, "save_checkpoint", save_and_lose_power)
    with pytest.raises(KeyboardInterrupt):
        plain.main(arguments)
    monkeypatch.setattr(plain, "save_checkpoint", save)
    resumed = plain.main([*arguments, "--resume"]).state_dict()
    assert all(torch.equal(expected[name], value) for name, value in resumed.items())
    assert torch.load(out, weights_only=True)["epoch"] == epochs


def test_patience_ends_the_run_and_keeps_the_best_epoch(
    plain, sign_folder, tmp_path, monkeypatch, capsys
):
    accuracies = iter([0.3, 0.5, 0.4, 0.4, 0.9])
    averages = []

    def evaluate(model, loader, device):
        averages.append({name: value.clone() for name, value in model.module.state_dict().items()})
        return next(accuracies)

    monkeypatch.setattr(plain, "evaluate_model", evaluate)
    out = tmp_path / "run.pt"
    options = ["--small", "--epochs=5", "--patience=2", "--lr=0.01", f"--out={out}"]
    best = plain.main([str(sign_folder / "train"), *options]).state_dict()
    assert len(averages) == 4
    assert all(torch.equal(averages[1][name], value) for name, value in best.items())
    assert not all(torch.equal(averages[3][name], value) for name, value in best.items())
    assert "epoch 4: " in capsys.readouterr().out

    image = next(sign_folder.rglob("*.png"))
    model = plain.SmallResNet(12).eval()
    model.load_state_dict(best)
    with torch.no_grad():
        expected = model(plain.load_image(image, 32)[None] / 255).softmax(dim=1).max().item()
    assert plain.predict(out, image)[1] == expected, "it predicts with the best epoch"


# --- images and folders of one's own --------------------------------------------------------------


@pytest.fixture
def halves():
    """An image of 12 x 8 pixels, white above and black below."""
    image = Image.new("RGB", (8, 12))
    image.paste("white", (0, 0, 8, 6))
    return image


def test_a_photograph_is_turned_as_the_phone_was_held(plain, halves, tmp_path):
    lying = halves.transpose(Image.Transpose.ROTATE_90)  # as the sensor saw it
    exif = Image.Exif()
    exif[0x112] = 6  # turn it clockwise to show it
    for suffix in ("jpg", "png"):
        lying.save(tmp_path / f"phone.{suffix}", exif=exif)
        pixels = plain.load_image(tmp_path / f"phone.{suffix}", 8)
        assert (pixels.shape, pixels.dtype) == ((3, 8, 8), torch.uint8)
        assert pixels[:, 0].min() > 250
        assert pixels[:, -1].max() < 5
    lying.save(tmp_path / "none.png")
    assert plain.load_image(tmp_path / "none.png", 8)[:, :, 0].min() > 250, "lies without it"


def test_images_of_every_usual_kind_look_the_same(plain, halves, tmp_path):
    clear = halves.convert("RGBA")
    clear.paste((200, 0, 0, 0), (0, 0, 8, 6))  # transparent above, red underneath
    clear.save(tmp_path / "rgba.png")
    halves.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    halves.convert("L").save(tmp_path / "grey.jpg", quality=100)
    halves.convert("P").save(tmp_path / "palette.png")
    deep = np.asarray(halves.convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "sixteen.png")
    Image.fromarray(deep // 2).save(tmp_path.parent / "dim.png")
    assert plain.load_image(tmp_path.parent / "dim.png", 8)[:, 0].max() == 127, "not clipped at 255"
    for path in tmp_path.iterdir():
        pixels = plain.load_image(path, 8)
        assert (pixels.shape, pixels.dtype) == ((3, 8, 8), torch.uint8), path
        assert pixels[:, :3].min() > 240, path
        assert pixels[:, -3:].max() < 15, path


def test_a_damaged_file_is_named(plain, halves, tmp_path):
    halves.resize((80, 80)).save(tmp_path / "whole.jpg")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes((tmp_path / "whole.jpg").read_bytes()[:700])
    with pytest.raises(
        SystemExit, match=r"can't read .*broken\.jpg: (Truncated|image file is trunc)"
    ):
        plain.load_image(broken, 8)
    broken.write_text("no image")
    with pytest.raises(SystemExit, match=r"can't read .*broken\.jpg: cannot identify"):
        plain.load_image(broken, 8)


def test_a_folder_that_cannot_be_learnt_from_is_refused(plain, halves, tmp_path):
    def train(*options):
        plain.main(
            [str(tmp_path), "--small", "--epochs=1", f"--out={tmp_path / 'run.pt'}", *options]
        )

    with pytest.raises(SystemExit, match=r"Couldn't find any class folder"):
        train()
    for name in ("a", "a", "b"):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        halves.save(folder / f"{len(list(folder.iterdir()))}.png")
    (tmp_path / "a" / "notes.txt").write_text("is left out")
    (tmp_path / "notes.txt").write_text("is left out")
    with pytest.raises(SystemExit, match=r"at least two classes of two images"):
        train()
    halves.save(tmp_path / "b" / "1.png")
    train()
    test = tmp_path.parent / f"{tmp_path.name}_test"
    (test / "c").mkdir(parents=True)
    halves.save(test / "c" / "0.png")
    with pytest.raises(SystemExit, match=r"has no images of \{'c'\}"):
        train(f"--test={test}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match=r"no valid file for the classes empty"):
        train()


def test_the_file_of_a_run_alone_names_the_class_of_an_image(plain, sign_folder, tmp_path, capsys):
    out, image = tmp_path / "run.pt", next((sign_folder / "test").rglob("*.png"))
    options = ["--small", "--size=24", "--epochs=1", f"--out={out}"]
    model = plain.main([str(sign_folder / "train"), *options]).eval()
    with torch.no_grad():
        probabilities = model(plain.load_image(image, 24)[None] / 255).softmax(dim=1)[0]
    classes = sorted(path.name for path in (sign_folder / "train").iterdir())
    name, probability = plain.predict(out, image)
    assert (name, probability) == (classes[probabilities.argmax()], probabilities.max().item())
    capsys.readouterr()
    assert plain.main([str(image), "--predict", f"--out={out}"]) is None
    assert capsys.readouterr().out == f"{name}, p = {probability:.2f}\n"

    state = torch.load(out, weights_only=True)
    torch.save({key: state[key] for key in ("model", "ema", "epoch")}, out)  # as it once was
    with pytest.raises(SystemExit, match=r"run\.pt has no class names: train it again"):
        plain.predict(out, image)


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


def test_what_main_does_not_need_is_left_out(tmp_path):
    cell = "import math\nimport re\n\nA = 1\nB = 2\n\n\ndef f():\n    return A, math.pi\n\n\n"
    cell += "def g():\n    return B, re\n\n\ndef main():\n    f()"
    path = notebook(
        tmp_path, "01_a.ipynb", "# 1. A", cell.replace("import math", "C = 3\nimport math")
    )
    text = script.assemble([path])
    assert lines_of(text)[1:6] == [
        "import math",
        "A = 1",
        "def f():",
        "    return A, math.pi",
        "def main():",
    ]
    assert "B" not in text


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

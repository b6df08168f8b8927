"""Pretrained networks: the one that ships, and torchvision's from its cache or not at all."""

import json
import pickle
import time
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load
from torch import nn
from torch.utils.data import Dataset

from cnnlab import cli, data
from cnnlab.course import pretrain as recipes
from cnnlab.data import ImageSet, loader
from cnnlab.errors import CheckpointError, DownloadError
from cnnlab.models import Backbone, SmallResNet, backbones, pretrained, small_resnet, stages
from cnnlab.transfer import param_groups


FAMILIES = {
    "resnet18": 6,
    "resnet50": 6,
    "vgg11_bn": 7,
    "densenet121": 6,
    "mobilenet_v2": 6,
    "mobilenet_v3_small": 7,
    "efficientnet_b0": 6,
    "convnext_tiny": 6,
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Torch's cache in a folder of the test: the place of resnet18's weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder / "resnet18-f37072fd.pth"


# --- glyphnet ---------------------------------------------------------------------------------------------------


def test_glyphnet_needs_no_network_and_gets_a_head_of_its_own(no_network):
    model = pretrained("glyphnet", 10)
    assert isinstance(model, SmallResNet)
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert all(p.dtype == torch.float32 and p.requires_grad for p in model.parameters())
    stored = load(backbones.GLYPHNET.read_bytes())
    assert torch.equal(model.stem[0].weight, stored["stem.0.weight"].float())
    assert no_network == []


def test_what_is_written_beside_the_weights_is_true_of_them():
    card = json.loads(backbones.GLYPHNET.with_suffix(".json").read_text())
    assert backbones.GLYPHNET.stat().st_size <= 500_000
    assert card["recipe"] == vars(recipes.Recipe())
    assert card["processor_seconds"] <= 240
    assert card["versions"]["glyphs"] == data.glyphs.VERSION, "other glyphs: call `cnnlab pretrain`"
    model = small_resnet(97, width=backbones.WIDTH)
    model.load_state_dict(load(backbones.GLYPHNET.read_bytes()))
    test = data.load("glyphs", n_train=97, n_valid=97).test
    with torch.no_grad():
        right = [
            (model.eval()(images).argmax(1) == labels).float()
            for images, labels in loader(test, 500)
        ]
    assert torch.cat(right).mean().item() == pytest.approx(card["accuracy"]["test"], abs=0.003)


def test_damaged_weights_are_noticed(tmp_path, monkeypatch):
    copy = tmp_path / "glyphnet.safetensors"
    contents = bytearray(backbones.GLYPHNET.read_bytes())
    contents[200_000] ^= 1
    copy.write_bytes(contents)
    copy.with_suffix(".json").write_bytes(backbones.GLYPHNET.with_suffix(".json").read_bytes())
    monkeypatch.setattr(backbones, "GLYPHNET", copy)
    with pytest.raises(CheckpointError, match="cnnlab pretrain"):
        pretrained("glyphnet", 10)


def test_without_weights_it_is_the_same_network_from_scratch():
    torch.manual_seed(0)
    fresh, shipped = pretrained("glyphnet", 5, weights=None), pretrained("glyphnet", 5)
    shapes = [[p.shape for p in model.parameters()] for model in (fresh, shipped)]
    assert shapes[0] == shapes[1]
    assert not torch.equal(fresh.stem[0].weight, shipped.stem[0].weight)


@pytest.mark.slow
def test_the_recipe_still_leads_to_glyphnet_as_a_short_version_shows(tmp_path, monkeypatch, capsys):
    short = recipes.Recipe(n_train=4000, epochs=5, batch_size=32, lr=0.1)  # an eighth of the work
    monkeypatch.setattr(recipes, "Recipe", lambda seed: short)
    assert cli.main(["pretrain", "--out", str(tmp_path)]) == 0
    assert "of the test glyphs" in capsys.readouterr().out
    card = json.loads((tmp_path / "glyphnet.json").read_text())
    assert card["accuracy"]["test"] > 0.08  # 0.14 when it was made, 0.01 by chance
    monkeypatch.setattr(backbones, "GLYPHNET", tmp_path / "glyphnet.safetensors")
    assert pretrained("glyphnet", 3)(torch.rand(1, 3, 32, 32)).shape == (1, 3)


# --- torchvision ------------------------------------------------------------------------------------------------


def test_weights_in_the_cache_are_taken_without_asking_the_network(hub, no_network):
    theirs = torchvision.models.resnet18(weights=None)
    torch.save(theirs.state_dict(), hub)
    model = pretrained("resnet18", 3)
    assert isinstance(model, Backbone)
    assert no_network == []
    ours = model.net.state_dict()
    for name, value in theirs.state_dict().items():
        assert name.startswith("fc.") or torch.equal(ours[name], value), name
    assert model.net.fc.out_features == 3
    assert model.size == 224
    images = torch.rand(2, 3, 64, 64)
    preset = torchvision.models.ResNet18_Weights.DEFAULT.transforms()
    normal = torchvision.transforms.functional.normalize(images, preset.mean, preset.std)
    torch.testing.assert_close(model.eval()(images), model.net(normal))


def test_offline_and_not_in_the_cache_it_says_so_and_offers_glyphnet(hub, no_network):
    begun = time.perf_counter()
    with pytest.raises(
        DownloadError, match=r'resnet18-f37072fd.pth.*pretrained\("glyphnet", ...\)'
    ):
        pretrained("resnet18", 3)
    assert time.perf_counter() - begun < 5
    assert no_network
    assert list(hub.parent.iterdir()) == []


class _Hostile:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize("kind", ["cut", "empty", "text", "other", "hostile"])
def test_a_bad_file_in_the_cache_is_named_and_runs_nothing(
    hub, no_network, kind, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    if kind == "other":
        torch.save(torchvision.models.resnet34(weights=None).state_dict(), hub)
    elif kind == "hostile":
        hub.write_bytes(pickle.dumps(_Hostile()))
    else:
        torch.save(torchvision.models.resnet18(weights=None).state_dict(), hub)
        whole = hub.read_bytes()
        hub.write_bytes({"cut": whole[:9000], "empty": b"", "text": b"<html>"}[kind])
    with pytest.raises(CheckpointError, match="delete it"):
        pretrained("resnet18", 3)
    assert not Path("ran").exists()
    assert no_network == []


@pytest.mark.parametrize(
    ("name", "weights", "told"),
    [
        ("resnet19", "default", "Did you mean 'resnet18'"),
        ("glyphnett", "default", "'glyphnet'"),
        ("googlenet", "default", "two outputs"),
        ("squeezenet1_0", "default", "no linear layer"),
        ("resnet18", "IMAGENET1K_V9", "IMAGENET1K_V1"),
        ("glyphnet", "imagenet", "default"),
    ],
)
def test_what_does_not_exist_is_refused_before_the_network_is_asked(
    no_network, name, weights, told
):
    with pytest.raises(ValueError, match=told):
        pretrained(name, 3, weights=weights)
    assert no_network == []


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param, pretrained(request.param, 3, weights=None)


def test_stages_hold_every_weight_once_in_the_order_in_which_it_is_used(family):
    name, model = family
    found = stages(model)
    assert len(found) == FAMILIES[name]
    assert sorted(id(p) for stage in found for p in stage.parameters()) == sorted(
        map(id, model.parameters())
    )
    where = {module: i for i, stage in enumerate(found) for module in stage.modules()}
    used = []
    hooks = [
        module.register_forward_pre_hook(lambda module, _: used.append(where[module]))
        for module in where
        if not list(module.children())
    ]
    with torch.no_grad():
        model.eval()(torch.rand(1, 3, 64, 64))
    for hook in hooks:
        hook.remove()
    assert used == sorted(used)
    assert set(used) == set(range(len(found)))
    assert isinstance(found[-1], nn.Linear)


def test_the_rates_of_a_family_fall_from_stage_to_stage_and_leave_nothing_out(family):
    _, model = family
    groups = param_groups(model, lr=0.1, layer_decay=0.5)
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))
    assert {g["lr"] for g in groups} == {0.1 * 0.5**d for d in range(len(stages(model)))}


# --- the size of the pictures -----------------------------------------------------------------------------------


def bundle(side=16):
    images = torch.randint(0, 256, (6, 3, side, side), dtype=torch.uint8)
    part = ImageSet(images, [0, 1] * 3, ["cat", "dog"])
    return data.DataBundle("two", part, part.select([0, 1]), None)


def test_a_bundle_comes_in_the_size_of_the_model():
    larger = bundle().transform(pretrained("resnet18", 2, weights=None))
    assert larger.train.shape == (3, 224, 224)
    assert larger.counts() == {"cat": 3, "dog": 3}
    assert isinstance(larger.train, Dataset)
    images, labels = next(iter(loader(larger.train, 4)))
    assert images.shape == (4, 3, 224, 224)
    assert labels.tolist() == [0, 1, 0, 1]
    assert images.min() >= 0
    assert images.max() <= 1
    assert larger.subset(per_class=1).train.shape == (3, 224, 224)


def test_resizing_there_and_back_keeps_the_picture():
    smooth = torch.linspace(0, 255, 16).to(torch.uint8).expand(1, 3, 16, 16).contiguous()
    part = ImageSet(smooth, [0], ["ramp"])
    larger = part.resized(64)
    assert larger.resized(16) is part
    back = ImageSet(larger.pixels(torch.tensor([0])), [0], ["ramp"]).resized(16)
    assert (back.pixels(torch.tensor([0])).int() - smooth.int()).abs().max() <= 4


def test_a_model_that_takes_any_size_gets_the_pictures_as_they_are():
    whole = bundle()
    assert whole.transform(pretrained("glyphnet", 2)) is whole


def test_oblong_pictures_are_cut_in_the_middle():
    images = torch.zeros(1, 3, 10, 30, dtype=torch.uint8)
    images[..., 10:20] = 255
    square = ImageSet(images, [0], ["bar"]).resized(10).pixels(torch.tensor([0]))
    assert (square == 255).all()

"""`classify` names what is on one image, whatever form it has, and leaves the model as it is."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import cnnlab
from cnnlab import plots
from cnnlab.data import from_folder, loader
from cnnlab.errors import DataError, NonFiniteError
from cnnlab.models import classification


CLASSES = ("mug", "plate", "spoon")
PIXELS = np.random.default_rng(0).integers(0, 256, (60, 90, 3)).astype("uint8")  # (H, W, C)
PHOTO = Image.fromarray(PIXELS)


@pytest.fixture(scope="module")
def glyphnet():
    torch.manual_seed(0)
    return cnnlab.pretrained("glyphnet", 3)


@pytest.fixture
def path(tmp_path):
    PHOTO.save(tmp_path / "mug.png")
    return tmp_path / "mug.png"


def test_every_form_of_an_image_gets_the_same_probabilities(glyphnet, path, monkeypatch):
    monkeypatch.setenv("HOME", str(path.parent))
    monkeypatch.setenv("USERPROFILE", str(path.parent))
    expected = cnnlab.classify(glyphnet, path, CLASSES)
    assert expected.columns.tolist() == ["class", "probability"]
    channels_first = torch.from_numpy(PIXELS).permute(2, 0, 1)
    opaque = np.dstack([PIXELS, np.full((60, 90), 255, "uint8")])
    for image in (
        str(path), "~/mug.png", PHOTO, PIXELS, channels_first, channels_first[None], opaque
    ):  # fmt: skip
        assert cnnlab.classify(glyphnet, image, list(CLASSES)).equals(expected)
    for image in (channels_first / 255, PIXELS / 255, channels_first.double() / 255):
        table = cnnlab.classify(glyphnet, image, CLASSES)  # resized without rounding to 8 bits
        assert table["class"].tolist() == expected["class"].tolist()
        np.testing.assert_allclose(table["probability"], expected["probability"], atol=0.02)


def test_the_probabilities_are_those_of_the_same_file_in_a_data_set(glyphnet, tmp_path):
    for k, name in enumerate(CLASSES):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.fromarray(np.roll(PIXELS, 7 * k + i, axis=1)).save(tmp_path / name / f"{i}.png")
    data = from_folder(tmp_path, size=32, test=0.3)
    trainer = cnnlab.Trainer(glyphnet, torch.optim.SGD(glyphnet.parameters(), 0.1), device="cpu")
    rows = trainer.predict(loader(data.train, 64)).softmax(1)
    pixels = [image.numpy().tobytes() for image in data.train.images]
    images = dict(zip(pixels, rows, strict=True))
    found = 0
    for file in sorted(tmp_path.glob("*/*.png")):
        pixels = cnnlab.data.folder.decode(file, 32)
        if pixels.numpy().tobytes() in images:
            row, found = images[pixels.numpy().tobytes()], found + 1
            table = cnnlab.classify(glyphnet, file, data.classes)
            values, indices = row.topk(3)
            assert table["class"].tolist() == [CLASSES[k] for k in indices]
            np.testing.assert_allclose(table["probability"], values, atol=1e-6)
    assert found == len(data.train)


def test_modes_weights_and_random_numbers_stay_as_they_were(glyphnet):
    model = copy.deepcopy(glyphnet).train()
    model.blocks[0].eval()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    cnnlab.classify(model, PHOTO, CLASSES)
    assert model.training
    assert model.stem[1].training
    assert not model.blocks[0].norm1.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_size_is_that_of_the_model_unless_it_is_given(glyphnet):
    seen = []
    hook = glyphnet.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    cnnlab.classify(glyphnet, PHOTO, CLASSES)
    cnnlab.classify(glyphnet, torch.rand(3, 32, 50), CLASSES, size=48)
    hook.remove()
    assert seen == [(1, 3, 32, 32), (1, 3, 48, 48)]
    with pytest.raises(ValueError, match=r"doesn't say how large its images are; pass .*size=32"):
        cnnlab.classify(cnnlab.small_resnet(3), PHOTO, CLASSES)


@pytest.mark.parametrize("image", [PHOTO, PHOTO.convert("L"), PIXELS[:, :, 0], torch.rand(1, 9, 9)])
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_coloured_images_fit_grey_and_coloured_models(image, channels):
    model = cnnlab.small_resnet(3, in_channels=channels)
    assert len(cnnlab.classify(model, image, CLASSES, size=28)) == 3


def test_of_two_classes_two_are_shown_and_of_many_the_most_probable(glyphnet):
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    classes = list("abcde")
    every = cnnlab.classify(model, PHOTO, classes, size=2, top=9)
    assert sorted(every["class"]) == classes
    assert every["probability"].sum() == pytest.approx(1)
    assert every["probability"].is_monotonic_decreasing
    assert cnnlab.classify(model, PHOTO, classes, size=2, top=2).equals(every[:2])


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        ("nowhere.jpg", DataError, r"nowhere\.jpg: there is no such file, seen from the current"),
        ("/nowhere/mug.jpg", DataError, r"/nowhere/mug\.jpg: there is no such file$"),
        ("Cut.PNG", DataError, r"Cut\.PNG: .*; did you mean cut\.png\?$"),
        ("text", DataError, r"did you mean text\.jpg\?$"),
        ("https://example.org/cat.jpg", DataError, "web address; download the image"),
        ("text.jpg", DataError, r"text\.jpg: not an image in one of the formats"),
        ("cut.png", DataError, r"cut\.png: it is damaged or incomplete, .*truncated"),
        (".", DataError, "it is a folder; an image is a single file"),
        (None, TypeError, "takes the path of an image, a PIL image, or pixels.*got NoneType"),
        ([PHOTO], TypeError, r"one image, got a list of 1: call it for each.*trainer\.predict"),
        (torch.rand(2, 3, 8, 8), DataError, r"one image, got 2 .*trainer\.predict"),
        (torch.rand(3, 8, 8) * 255, DataError, r"run from .* by 255"),
        (torch.rand(4, 8, 8), DataError, r"transparency, leave it out: images\[:, :3\]"),
        (
            torch.zeros(5, 8, 8).byte(),
            DataError,
            r"1 or 3 channels; got \(1, 5, 8, 8\)",
        ),
        (torch.rand(8), DataError, r"got \(8,\)"),
        (Image.new("LAB", (8, 8)), DataError, "LAB"),
    ],
)
def test_what_is_no_image_is_refused_in_one_sentence(
    glyphnet, path, image, error, message, monkeypatch
):
    monkeypatch.chdir(path.parent)
    path.with_name("text.jpg").write_bytes(b"this is no image")
    path.with_name("cut.png").write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(error, match=message) as caught:
        cnnlab.classify(glyphnet, image, CLASSES)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("classes", "error", "message"),
    [
        (CLASSES[:2], ValueError, "returns 3 logits, but there are 2 class names: pass those of"),
        (None, TypeError, r"a list of names .*data\.classes, got NoneType"),
        ("mug", TypeError, r"a list of names .*data\.classes, got str"),
        (3, TypeError, r"a list of names .*data\.classes, got int"),
    ],
)
def test_classes_that_do_not_fit_are_refused(glyphnet, classes, error, message):
    with pytest.raises(error, match=message):
        cnnlab.classify(glyphnet, PHOTO, classes)


def test_a_trainer_an_impossible_top_and_a_broken_model_are_refused(glyphnet):
    model = copy.deepcopy(glyphnet)
    trainer = cnnlab.Trainer(model, torch.optim.SGD(model.parameters(), 0.1), device="cpu")
    with pytest.raises(TypeError, match=r"takes a model, got Trainer: pass trainer\.model"):
        cnnlab.classify(trainer, PHOTO, CLASSES)
    for top in (0, 1.5, "2"):
        with pytest.raises(ValueError, match="top must be a whole number, 1 or more"):
            cnnlab.classify(model, PHOTO, CLASSES, top=top)
    with pytest.raises(ValueError, match=r"outputs of shape \(1, 3, 32, 32\), no logits"):
        cnnlab.classify(nn.Identity(), PHOTO, CLASSES, size=32)
    model.head.linear.weight.data.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="NaN or infinite logits"):
        cnnlab.classify(model, PHOTO, CLASSES)


def test_a_notebook_shows_the_image_beside_its_classes(glyphnet, path, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    table = cnnlab.classify(glyphnet, path, CLASSES)
    assert shown == []
    monkeypatch.setattr(classification, "in_ipython", lambda: True)
    assert cnnlab.classify(glyphnet, path, CLASSES).equals(table)
    (plot,) = shown
    best, p = table["class"][0], table["probability"][0]
    title = f"Most probable class of mug.png: {best} ({p:.3f})."
    assert plot.figure.get_suptitle() == title
    assert plot.alt.startswith(f"{title} An image of 32 x 32 pixels beside")
    bars = plot.figure.axes[1]
    assert [tick.get_text() for tick in bars.get_yticklabels()] == table["class"].tolist()
    assert [bar.get_width() for bar in bars.patches] == pytest.approx(table["probability"].tolist())
    assert plot.figure.axes[0].images[0].get_array().shape == (32, 32, 3)
    assert plot.png()


def test_many_long_names_fit_beside_the_image():
    names = {f"a rather long name of a class, number {i}": 0.1 for i in range(10)}
    plot = plots.prediction(torch.rand(1, 8, 8), names, message="Ten classes.")
    plot.figure.draw_without_rendering()
    left = min(t.get_window_extent().x0 for t in plot.figure.axes[1].get_yticklabels())
    assert left > plot.figure.axes[0].get_window_extent().x1

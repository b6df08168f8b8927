"""The photographs that come with scikit-learn and scikit-image."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from cnnlab.data import load, loader, photos
from cnnlab.models import pretrained


def image(bundle, name):
    """Return one photograph as floats, (3, H, W)."""
    return bundle.train.images[bundle.classes.index(name)].float()


def test_each_photograph_is_a_class_of_its_own_and_there_is_nothing_to_validate_on(no_network):
    bundle = load("photos")
    assert bundle.classes == tuple(sorted(bundle.classes))
    assert bundle.train.labels.tolist() == [*range(23)]
    assert bundle.train.images.shape == (23, 3, 224, 224)
    assert len(bundle.valid) == 0
    assert bundle.test is None
    assert set(bundle.counts().values()) == {1}
    assert no_network == []


def test_the_names_belong_to_the_photographs():
    bundle = load("photos", size=64)
    # The centre of each, as red, green and blue.
    centres = {n: image(bundle, n)[:, 24:40, 24:40].mean(dim=(1, 2)) for n in bundle.classes}
    red, green, blue = centres["flower"]
    assert red > green > 2 * blue  # orange
    red, green, blue = centres["retina"]
    assert red > 2 * max(green, blue)
    assert centres["horse"].max() < 100  # black, and white where the file is transparent:
    assert (image(bundle, "horse")[:, :3, :3] == 255).all()
    assert centres["clock_motion"].std() == 0  # grey
    left, right = image(bundle, "motorcycle_left"), image(bundle, "motorcycle_right")
    assert 0 < (left - right).abs().mean() < (left - image(bundle, "chelsea")).abs().mean()


def test_they_are_those_of_scikit_image_itself():
    import skimage.data

    mine = load("photos", size=300)
    for name in ("chelsea", "coffee"):
        theirs = getattr(skimage.data, name)()
        side = min(theirs.shape[:2])
        top, left = ((n - side) // 2 for n in theirs.shape[:2])
        square = Image.fromarray(theirs[top : top + side, left : left + side]).resize((300, 300))
        expected = torch.from_numpy(np.array(square)).permute(2, 0, 1)
        assert (image(mine, name) - expected).abs().mean() < 6


def test_they_are_loaded_resized_and_shown_like_other_data():
    bundle = load("photos", size=32)
    images, labels = next(iter(loader(bundle.train, 23)))
    assert images.shape == (23, 3, 32, 32)
    assert labels.tolist() == [*range(23)]
    assert bundle.mean.shape == (3,)
    larger = bundle.transform(pretrained("resnet18", 3, weights=None))
    assert larger.train.shape == larger.valid.shape == (3, 224, 224)
    assert "23 training images of photos" in bundle.show().alt
    with pytest.raises(ValueError, match="empty"):
        loader(bundle.valid, 4)


def test_the_seed_draws_nothing():
    assert torch.equal(
        load("photos", size=8, seed=1).train.images, load("photos", size=8).train.images
    )


@pytest.mark.parametrize("size", [0, 2.5, None])
def test_an_impossible_size_is_refused(size):
    with pytest.raises((TypeError, ValueError), match="size must be"):
        load("photos", size=size)


def test_the_source_and_licence_of_each_is_documented():
    rows = re.findall(r"^ *\| `(\w+)` \| (.+) \| (.+) \|$", photos.load.__doc__, re.MULTILINE)
    assert sorted(name for name, _, _ in rows) == list(load("photos", size=8).classes)


def test_without_scikit_image_the_error_says_what_to_install(monkeypatch):
    find = photos.find_spec
    monkeypatch.setattr(photos, "find_spec", lambda name: None if name == "skimage" else find(name))
    with pytest.raises(ImportError, match=r'load\("photos"\) needs.*: pip install scikit-image$'):
        load("photos")


def test_neither_package_is_imported():
    code = (
        "import sys, cnnlab; cnnlab.load('photos', size=8); "
        "print(sorted({'sklearn', 'skimage'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""The generated sets: what a seed, a size, a nuisance and a damaged cache may change."""

import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from PIL import features

from cnnlab.data import cache, digits, glyphs, load, pocket, scenes


SMALL = {
    "pocket": {"n_train": 60, "n_valid": 24, "n_test": 24, "level": "wild"},
    "glyphs": {"n_train": 97, "n_valid": 20, "n_test": 20},
    "digits": {},
}
# The mean level and a digest of the training images of SMALL, made with seed 0. The means hold
# wherever the library runs. The digests hold where letters are drawn and photographs decoded by
# these versions; another version may move single levels. A change of ours must raise VERSION of the
# set, or cached images of the old kind live on; `python tests/test_data_generated.py` prints the
# new table.
VERSIONS = {"freetype2": "2.14.3", "jpg": "6.2"}
CHECKSUMS = {
    "pocket": (95.12, "ab50289329d55c0d"),
    "glyphs": (119.84, "0841a24d90e80149"),
    "digits": (120.37, "f4cb16453fba5e72"),
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CNNLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CNNLAB_PROFILE", raising=False)
    return tmp_path / "cache"


def signs(part="train", n=24, seed=0, **changes):
    nuisances = pocket.LEVELS["medium"].with_(**changes)
    return pocket.make(part, [n] * 12, n, seed, nuisances)


def checksum(name):
    images = load(name, **SMALL[name]).train.images
    digest = hashlib.blake2b(images.numpy().tobytes(), digest_size=8).hexdigest()
    return round(images.double().mean().item(), 2), digest


@pytest.mark.parametrize("name", SMALL)
def test_a_seed_gives_the_recorded_images(name):
    mean, digest = checksum(name)
    assert mean == pytest.approx(CHECKSUMS[name][0], abs=0.02)
    if {key: features.version(key) for key in VERSIONS} == VERSIONS:
        assert digest == CHECKSUMS[name][1]


@pytest.mark.slow
def test_a_process_with_other_threads_makes_the_same_images(tmp_path):
    environment = {**os.environ, "CNNLAB_CACHE": str(tmp_path / "other"), "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True, check=True
    )
    table = json.loads(done.stdout.rpartition("}\n{")[0] + "}")
    assert table == {name: list(checksum(name)) for name in SMALL}


@pytest.mark.parametrize("nuisance", [field.name for field in fields(pocket.Nuisances)])
def test_one_nuisance_changes_nothing_but_its_own_effect(nuisance):
    stronger = (0.5, 0.6) if nuisance in ("scale", "gain", "blur", "noise") else 0.9
    plain, labels = signs()
    changed, same_labels = signs(**{nuisance: stronger})
    back, _ = signs(**{nuisance: getattr(pocket.LEVELS["medium"], nuisance)})
    assert torch.equal(labels, same_labels)
    assert torch.equal(plain, back)
    assert not torch.equal(plain, changed)
    # Pictures of the same sign over the same photo correlate more than those of two signs.
    a, b = (x.double().flatten(1) for x in (plain, changed))
    paired = torch.nn.functional.cosine_similarity(a - a.mean(0), b - b.mean(0)).mean()
    strangers = torch.nn.functional.cosine_similarity(
        a - a.mean(0), b.roll(1, 0) - b.mean(0)
    ).mean()
    assert paired > strangers + 0.15


def test_light_and_blur_and_noise_off_leave_pure_signs_over_photos():
    off = {"gain": 1.0, "gradient": 0, "cast": 0, "blur": 0, "noise": 0, "fade": 0, "occlusion": 0}
    pictures, labels = signs(n=240, rotation=0, scale=1.0, shift=0, shear=0, **off)
    stops = pictures[labels == pocket.CLASSES.index("no entry")]
    white = stops[:, :, 15:17, 15:17].double().mean(dim=(0, 2, 3))
    torch.testing.assert_close(white.round(), torch.tensor([240.0, 240, 235]).double())


@pytest.mark.parametrize(("n", "more"), [(1, 2), (239, 250), (241, 600)])
def test_a_picture_does_not_depend_on_how_many_there_are(n, more):
    few, many = signs(n=n), signs(n=more)
    assert torch.equal(few[0], many[0][:n])
    assert torch.equal(few[1], many[1][:n])
    glyphs_few, glyphs_many = (glyphs.make("train", [9] * 97, m, 0)[0] for m in (n, more))
    assert torch.equal(glyphs_few, glyphs_many[:n])


@pytest.mark.parametrize("n", [13, 100, 375])
def test_classes_are_even_to_within_one(n):
    counts = load("pocket", n_train=n, n_valid=12, n_test=12).counts().values()
    assert sum(counts) == n
    assert max(counts) - min(counts) <= 1


def test_counts_pick_from_the_pictures_of_the_balanced_set():
    counts = [30, 1, 0, 4, 30, 2, 2, 2, 2, 2, 2, 25]
    images, labels = pocket.make("train", counts, sum(counts), 0, pocket.LEVELS["medium"])
    every, all_labels = signs(n=360)
    for k, n in enumerate(counts):
        assert torch.equal(images[labels == k], every[all_labels == k][:n])
    named = dict(zip(pocket.CLASSES, counts, strict=True))
    assert load("pocket", counts=named, n_valid=12, n_test=12).counts() == named


@pytest.mark.parametrize("make", [signs, lambda p, s: glyphs.make(p, [1] * 97, 24, s)])
def test_parts_and_seeds_have_pictures_of_their_own(make):
    made = [
        make(part, seed=s)[0] if make is signs else make(part, s)[0]
        for part in scenes.PARTS
        for s in (0, 1)
    ]
    pictures = torch.cat(made).flatten(1)
    assert len(pictures.unique(dim=0)) == len(pictures) == 6 * 24


def test_no_photo_region_serves_both_training_and_test():
    width = scenes.photos().shape[3]
    ramp = torch.linspace(0, 1, width, dtype=torch.float64).expand_as(scenes.photos())
    units = scenes.draw(500, 6, 0).units
    for half, (low, high) in {"left": (0, 0.6), "right": (0.6, 1)}.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scenes, "photos", lambda: ramp)
            crops = scenes.backgrounds(units, half)
        assert low - 1e-3 < crops.min() < low + 0.05
        assert high - 0.05 < crops.max() < high + 1e-3


def test_training_and_test_share_no_font(monkeypatch):
    used = {}
    draw = pocket.bank
    for part in scenes.PARTS:
        record = lambda fonts, part=part: used.setdefault(part, set(fonts)) and draw(fonts)
        monkeypatch.setattr(pocket, "bank", record)
        signs(part)
    assert used["train"] == used["valid"]
    assert used["train"].isdisjoint(used["test"])


def test_keep_left_is_the_mirror_image_of_keep_right():
    left, right = (
        pocket.bank(pocket.FONTS)[pocket.CLASSES.index(f"keep {s}")] for s in ("left", "right")
    )
    torch.testing.assert_close(left.flip(-1), right, atol=0.1, rtol=0)


def test_every_class_looks_unlike_every_other():
    for fonts in (pocket.FONTS, pocket.TEST_FONTS):
        means = pocket.bank(fonts).mean(dim=1).flatten(1)
        distances = torch.cdist(means, means) + 99 * torch.eye(12)
        assert distances.min() > 3


def test_every_glyph_is_drawn_in_every_font():
    bank = glyphs._bank()
    assert bank.shape == (97, 9, 3, 1, 48, 48)
    ink = bank.double().mean(dim=(3, 4, 5))
    assert (ink[:, :, 1] > 4).all()
    assert (ink[:, :, 0] > ink[:, :, 1]).all()
    assert (ink[:, :, 1] > ink[:, :, 2]).all()
    boxes = bank[:, :, 1].flatten(0, 1).flatten(1).unique(dim=0)
    assert len(boxes) > 0.9 * 97 * 9  # a font without a letter would draw the same box for all


def test_digits_are_scikit_learns_in_disjoint_stratified_parts():
    from sklearn.datasets import load_digits

    plain = load("digits", plain=True)
    parts = [plain.train, plain.valid, plain.test]
    assert [len(p) for p in parts] == [960, 237, 600]
    pictures = torch.cat([p.images for p in parts]).flatten(1)
    assert len(pictures.unique(dim=0)) == 1797
    sums = torch.cat([p.images[:, 0].double().sum(dim=(1, 2)) for p in parts])
    theirs = torch.from_numpy(load_digits().images).sum(dim=(1, 2)) / 16 * 255 * 3.5**2
    torch.testing.assert_close(sums.sort().values, theirs.sort().values, rtol=0.02, atol=60)
    for part in parts:
        share = torch.bincount(part.labels) / len(part)
        assert (share - 0.1).abs().max() < 0.01


def test_the_same_digit_keeps_its_label_when_painted():
    strokes, labels = digits._handwritten()
    wild = load("digits").test
    plain = load("digits", plain=True).test
    assert torch.equal(wild.labels, plain.labels)
    assert labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert strokes.shape == (1797, 1, 8, 8)


def test_blur_equals_a_gaussian_filter_with_mirrored_ends():
    from scipy.ndimage import gaussian_filter

    images = torch.rand(3, 2, 32, 32, dtype=torch.float64)
    sigmas = [0.0, 0.7, 1.5]
    blurred = scenes.blur(images, torch.tensor(sigmas).double())
    for image, sigma, result in zip(images, sigmas, blurred, strict=True):
        for channel, got in zip(image, result, strict=True):
            expected = gaussian_filter(channel.numpy(), sigma, mode="mirror", radius=6)
            torch.testing.assert_close(got, torch.from_numpy(expected))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"level": "hard"}, "use easy, medium, wild"),
        ({"rotation": -1}, "rotation=-1: give a number between 0 and 180"),
        ({"scale": (1.0, 0.5)}, "scale=.*pair"),
        ({"rotation": (0, 5)}, "rotation=.*give a number between"),
        ({"noise": float("nan")}, "noise=nan"),
        ({"counts": [1] * 11}, "one number, 0 or more, for each"),
        ({"n_train": 0}, "n_train=0"),
        ({"label_noise": 2}, "rate=2"),
    ],
)
def test_impossible_knobs_are_refused_with_their_bounds(knobs, message):
    with pytest.raises(ValueError, match=message):
        load("pocket", **{"n_train": 12, "n_valid": 12, "n_test": 12, **knobs})


def test_label_noise_touches_the_training_part_alone():
    bundle = load("pocket", n_train=60, n_valid=24, n_test=24, label_noise=0.5)
    clean = load("pocket", n_train=60, n_valid=24, n_test=24)
    assert int((bundle.train.labels != bundle.train.clean_labels).sum()) == 30
    assert torch.equal(bundle.train.clean_labels, clean.train.labels)
    assert torch.equal(bundle.valid.labels, clean.valid.labels)


@pytest.mark.parametrize("name", SMALL)
def test_the_smoke_profile_makes_an_eighth(name, smoke):
    bundle = load(
        name, **({} if name == "digits" else {"n_train": 2400, "n_valid": 24, "n_test": 96})
    )
    sizes = [len(part) for part in (bundle.train, bundle.valid, bundle.test)]
    expected = {"pocket": [300, 24, 48], "glyphs": [388, 24, 96], "digits": [120, 40, 75]}
    assert sizes == expected[name]
    assert min(bundle.counts().values()) >= 4


def tensors():
    return {"images": torch.arange(24, dtype=torch.uint8), "labels": torch.arange(3)}


def test_a_second_load_reads_what_the_first_has_made(own_cache):
    made = []
    for parameters in ({"seed": 0}, {"seed": 0}, {"seed": 1}):
        found = cache.cached(lambda p=parameters: made.append(p) or tensors(), "set", **parameters)
        assert all(torch.equal(found[key], value) for key, value in tensors().items())
    assert made == [{"seed": 0}, {"seed": 1}]
    assert len(list(own_cache.iterdir())) == 2


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "text", "foreign", "folder"])
def test_a_damaged_cache_file_is_made_again(own_cache, damage):
    from safetensors.torch import save

    cache.cached(tensors, "set", seed=0)
    (path,) = own_cache.iterdir()
    good = path.read_bytes()
    flipped = good[:-40] + bytes([good[-40] ^ 1]) + good[-39:]
    broken = {
        "empty": b"",
        "cut": good[:-7],
        "flipped": flipped,
        "text": b"<html>",
        "foreign": save(tensors()),
    }
    path.unlink()
    path.mkdir() if damage == "folder" else path.write_bytes(broken[damage])
    found = cache.cached(tensors, "set", seed=0)
    assert all(torch.equal(found[key], value) for key, value in tensors().items())
    assert damage == "folder" or path.read_bytes() == good


def test_without_a_writable_folder_there_is_no_cache_and_no_complaint(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CNNLAB_CACHE", str(tmp_path / "file" / "below"))
    assert torch.equal(cache.cached(tensors, "set", seed=0)["labels"], torch.arange(3))


def test_a_failed_write_leaves_no_file_behind(own_cache, monkeypatch):
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    cache.cached(tensors, "set", seed=0)
    assert list(own_cache.iterdir()) == []


def _write_and_read(_):
    return cache.cached(tensors, "set", seed=0)["labels"].tolist()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
def test_processes_that_write_at_once_all_read_the_whole(own_cache):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.map(_write_and_read, range(40)) == [[0, 1, 2]] * 40
    assert len(list(own_cache.iterdir())) == 1


if __name__ == "__main__":
    print(json.dumps({name: checksum(name) for name in SMALL}, indent=4))  # noqa: T201
    print({key: features.version(key) for key in VERSIONS})  # noqa: T201

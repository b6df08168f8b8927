"""The generated data sets: what a seed, a size, a nuisance and a damaged cache can change."""

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
# The mean level and a digest of the training images of SMALL with seed 0. The means are the same
# everywhere. The digests need these versions of the libraries that draw letters and decode
# photographs, because another version may change single levels. If you change the images, increase
# VERSION of the data set, or old images stay in the caches; `python tests/test_data_generated.py`
# prints the new table.
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


def signs(split="train", n=24, seed=0, **changes):
    nuisances = pocket.LEVELS["medium"].with_(**changes)
    return pocket.make(split, [n] * 12, n, seed, nuisances)


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
def test_a_process_with_more_threads_makes_the_same_images(tmp_path):
    environment = {**os.environ, "CNNLAB_CACHE": str(tmp_path / "other"), "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True, check=True
    )
    table = json.loads(done.stdout.rpartition("}\n{")[0] + "}")
    assert table == {name: list(checksum(name)) for name in SMALL}


@pytest.mark.parametrize("nuisance", [field.name for field in fields(pocket.Nuisances)])
def test_one_nuisance_changes_only_its_own_effect(nuisance):
    stronger = (0.5, 0.6) if nuisance in ("scale", "gain", "blur", "noise") else 0.9
    plain, labels = signs()
    changed, same_labels = signs(**{nuisance: stronger})
    back, _ = signs(**{nuisance: getattr(pocket.LEVELS["medium"], nuisance)})
    assert torch.equal(labels, same_labels)
    assert torch.equal(plain, back)
    assert not torch.equal(plain, changed)
    # Images of the same sign over the same photo correlate more than those of different signs.
    a, b = (x.double().flatten(1) for x in (plain, changed))
    same = torch.nn.functional.cosine_similarity(a - a.mean(0), b - b.mean(0)).mean()
    different = torch.nn.functional.cosine_similarity(
        a - a.mean(0), b.roll(1, 0) - b.mean(0)
    ).mean()
    assert same > different + 0.15


def test_without_nuisances_there_are_clean_signs_over_photographs():
    off = {"gain": 1.0, "gradient": 0, "cast": 0, "blur": 0, "noise": 0, "fade": 0, "occlusion": 0}
    images, labels = signs(n=240, rotation=0, scale=1.0, shift=0, shear=0, **off)
    stops = images[labels == pocket.CLASSES.index("no entry")]
    white = stops[:, :, 15:17, 15:17].double().mean(dim=(0, 2, 3))
    torch.testing.assert_close(white.round(), torch.tensor([240.0, 240, 235]).double())


@pytest.mark.parametrize(("n", "more"), [(1, 2), (239, 250), (241, 600)])
def test_an_image_does_not_depend_on_the_number_of_images(n, more):
    few, many = signs(n=n), signs(n=more)
    assert torch.equal(few[0], many[0][:n])
    assert torch.equal(few[1], many[1][:n])
    glyphs_few, glyphs_many = (glyphs.make("train", [9] * 97, m, 0)[0] for m in (n, more))
    assert torch.equal(glyphs_few, glyphs_many[:n])


@pytest.mark.parametrize("n", [13, 100, 375])
def test_class_sizes_differ_by_at_most_one(n):
    counts = load("pocket", n_train=n, n_valid=12, n_test=12).counts().values()
    assert sum(counts) == n
    assert max(counts) - min(counts) <= 1


def test_counts_select_from_the_images_of_the_balanced_set():
    counts = [30, 1, 0, 4, 30, 2, 2, 2, 2, 2, 2, 25]
    images, labels = pocket.make("train", counts, sum(counts), 0, pocket.LEVELS["medium"])
    all_images, all_labels = signs(n=360)
    for k, n in enumerate(counts):
        assert torch.equal(images[labels == k], all_images[all_labels == k][:n])
    by_name = dict(zip(pocket.CLASSES, counts, strict=True))
    assert load("pocket", counts=by_name, n_valid=12, n_test=12).counts() == by_name


@pytest.mark.parametrize(
    "make", [signs, lambda split, seed: glyphs.make(split, [1] * 97, 24, seed)]
)
def test_each_split_and_each_seed_has_its_own_images(make):
    sets = [make(split, seed=seed)[0] for split in scenes.SPLITS for seed in (0, 1)]
    images = torch.cat(sets).flatten(1)
    assert len(images.unique(dim=0)) == len(images) == 6 * 24


def test_training_and_test_use_different_regions_of_the_photographs():
    width = scenes.photos().shape[3]
    ramp = torch.linspace(0, 1, width, dtype=torch.float64).expand_as(scenes.photos())
    uniform = scenes.draw(500, 6, 0).uniform
    for half, (low, high) in {"left": (0, 0.6), "right": (0.6, 1)}.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scenes, "photos", lambda: ramp)
            crops = scenes.backgrounds(uniform, half)
        assert low - 1e-3 < crops.min() < low + 0.05
        assert high - 0.05 < crops.max() < high + 1e-3


def test_training_and_test_share_no_font(monkeypatch):
    used = {}
    draw = pocket.bank
    for split in scenes.SPLITS:
        record = lambda fonts, split=split: used.setdefault(split, set(fonts)) and draw(fonts)
        monkeypatch.setattr(pocket, "bank", record)
        signs(split)
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


def test_digits_are_scikit_learns_in_disjoint_stratified_splits():
    from sklearn.datasets import load_digits

    plain = load("digits", plain=True)
    splits = [plain.train, plain.valid, plain.test]
    assert [len(split) for split in splits] == [960, 237, 600]
    images = torch.cat([split.images for split in splits]).flatten(1)
    assert len(images.unique(dim=0)) == 1797
    sums = torch.cat([split.images[:, 0].double().sum(dim=(1, 2)) for split in splits])
    theirs = torch.from_numpy(load_digits().images).sum(dim=(1, 2)) / 16 * 255 * 3.5**2
    torch.testing.assert_close(sums.sort().values, theirs.sort().values, rtol=0.02, atol=60)
    for split in splits:
        fractions = torch.bincount(split.labels) / len(split)
        assert (fractions - 0.1).abs().max() < 0.01


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
    for image, sigma, blurred_image in zip(images, sigmas, blurred, strict=True):
        for channel, blurred_channel in zip(image, blurred_image, strict=True):
            expected = gaussian_filter(channel.numpy(), sigma, mode="mirror", radius=6)
            torch.testing.assert_close(blurred_channel, torch.from_numpy(expected))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"level": "hard"}, "level must be one of 'easy', 'medium', 'wild'; got 'hard'"),
        ({"rotation": -1}, "rotation must be a number between 0 and 180, got -1"),
        (
            {"scale": (1.0, 0.5)},
            "scale must be a number or a pair .*between 0.05 and 10, got .1.0, 0.5.",
        ),
        ({"rotation": (0, 5)}, "rotation must be a number between"),
        ({"noise": float("nan")}, "noise must be .* got nan"),
        ({"counts": [1] * 11}, "one number, 0 or more, per class"),
        ({"n_train": 0}, "n_train=0 gives no images"),
        ({"counts": [0] * 12}, "counts=.* gives no images"),
        ({"label_noise": 2}, "between 0 and 1, got 2"),
    ],
)
def test_options_out_of_bounds_are_an_error_that_states_the_bounds(knobs, message):
    with pytest.raises(ValueError, match=message):
        load("pocket", **{"n_train": 12, "n_valid": 12, "n_test": 12, **knobs})


def test_label_noise_changes_only_the_training_set():
    bundle = load("pocket", n_train=60, n_valid=24, n_test=24, label_noise=0.5)
    clean = load("pocket", n_train=60, n_valid=24, n_test=24)
    assert int((bundle.train.labels != bundle.train.clean_labels).sum()) == 30
    assert torch.equal(bundle.train.clean_labels, clean.train.labels)
    assert torch.equal(bundle.valid.labels, clean.valid.labels)


@pytest.mark.parametrize("name", SMALL)
def test_the_smoke_profile_makes_an_eighth_of_the_images(name, smoke):
    options = {} if name == "digits" else {"n_train": 2400, "n_valid": 24, "n_test": 96}
    bundle = load(name, **options)
    sizes = [len(split) for split in (bundle.train, bundle.valid, bundle.test)]
    expected = {"pocket": [300, 24, 48], "glyphs": [388, 24, 96], "digits": [120, 40, 75]}
    assert sizes == expected[name]
    assert min(bundle.counts().values()) >= 4


def tensors():
    return {"images": torch.arange(24, dtype=torch.uint8), "labels": torch.arange(3)}


def test_a_second_load_reads_the_cache_of_the_first(own_cache):
    calls = []
    for parameters in ({"seed": 0}, {"seed": 0}, {"seed": 1}):
        make = lambda p=parameters: calls.append(p) or tensors()
        cached = cache.cached(make, "set", **parameters)
        assert all(torch.equal(cached[key], value) for key, value in tensors().items())
    assert calls == [{"seed": 0}, {"seed": 1}]
    assert len(list(own_cache.iterdir())) == 2


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "text", "foreign", "folder"])
def test_a_damaged_cache_file_is_made_again(own_cache, damage):
    from safetensors.torch import save

    cache.cached(tensors, "set", seed=0)
    (path,) = own_cache.iterdir()
    good = path.read_bytes()
    flipped = good[:-40] + bytes([good[-40] ^ 1]) + good[-39:]
    contents = {
        "empty": b"",
        "cut": good[:-7],
        "flipped": flipped,
        "text": b"<html>",
        "foreign": save(tensors()),
    }
    path.unlink()
    path.mkdir() if damage == "folder" else path.write_bytes(contents[damage])
    again = cache.cached(tensors, "set", seed=0)
    assert all(torch.equal(again[key], value) for key, value in tensors().items())
    assert damage == "folder" or path.read_bytes() == good


def test_without_a_writable_folder_there_is_no_cache_and_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
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
def test_processes_that_write_at_the_same_time_read_complete_files(own_cache):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.map(_write_and_read, range(40)) == [[0, 1, 2]] * 40
    assert len(list(own_cache.iterdir())) == 1


if __name__ == "__main__":
    print(json.dumps({name: checksum(name) for name in SMALL}, indent=4))  # noqa: T201
    print({key: features.version(key) for key in VERSIONS})  # noqa: T201

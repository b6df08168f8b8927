import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn
from torch.utils.data import TensorDataset
from torchvision.transforms import InterpolationMode, RandomHorizontalFlip, v2
from torchvision.transforms.v2 import functional as TF

from cnnlab.augment import Augment, Params, core, ramp
from cnnlab.data.loaders import loader
from cnnlab.errors import DataError
from cnnlab.mixing import MixUp
from cnnlab.trainer import Callback, StopTraining, Trainer
from cnnlab.training.transforms import wrap_batch_transform


S = 16
EVERYTHING = {
    "flip": 0.5,
    "vflip": 0.5,
    "rotate": 20.0,
    "translate": 0.2,
    "scale": (0.7, 1.3),
    "shear": 10.0,
    "crop_pad": 3,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.2,
    "blur": 1.0,
    "noise": 0.1,
    "erase": 0.5,
}
SINGLE = [{name: value} for name, value in EVERYTHING.items()] + [{"resized_crop": (0.3, 0.9)}]
MODES = {"nearest": InterpolationMode.NEAREST, "bilinear": InterpolationMode.BILINEAR}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def photos(n=12, size=S, width=None, channels=3, seed=0):
    small = torch.rand(n, channels, 5, 5, generator=rng(seed))
    return F.interpolate(small, size=(size, width or size), mode="bilinear")


def one_by_one(images, function):
    return torch.stack([function(image, i) for i, image in enumerate(images)])


def framed(image, i, params, resize=InterpolationMode.NEAREST_EXACT):
    """Crop and mirror one image by torchvision's functions."""
    size = list(image.shape[1:])
    if params.window is not None:
        top, left, height, width = (int(part[i]) for part in params.window)
        if [height, width] == size:
            image = TF.crop(image, top, left, height, width)
        else:
            image = TF.resized_crop(image, top, left, height, width, size, resize)
    if params.flip is not None and params.flip[i]:
        image = TF.horizontal_flip(image)
    if params.vflip is not None and params.vflip[i]:
        image = TF.vertical_flip(image)
    return image


def moved(image, i, params, mode):
    """And apply the affine map."""
    resize = InterpolationMode.BILINEAR if mode == "bilinear" else InterpolationMode.NEAREST_EXACT
    image = framed(image, i, params, resize)
    if params.affine is None:
        return image
    angle, shear, scale, right, down = (float(part[i]) for part in params.affine)
    return TF.affine(image, angle, [right, down], scale, [shear, 0.0], MODES[mode])


def clear_of_a_tie(images, params, got):
    """Where a shift by a thousandth of a pixel changes nothing: a centre between two pixels may round to either."""
    clear = torch.ones_like(got, dtype=torch.bool)
    if params.affine is None:
        return clear
    for x, y in itertools.product((-1e-3, 1e-3), repeat=2):
        affine = params.affine._replace(right=params.affine.right + x, down=params.affine.down + y)
        clear &= Augment().apply(images, params._replace(affine=affine)) == got
    return clear


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("crop", [{}, {"crop_pad": 4}, {"resized_crop": (0.2, 1.0)}])
@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    flip=st.sampled_from([0, 0.5]),
    vflip=st.sampled_from([0, 0.5]),
    affine=st.booleans(),
    height=st.sampled_from([16, 21]),
    channels=st.sampled_from([1, 3]),
)
def test_with_the_same_parameters_the_pixels_are_those_of_torchvision(
    mode, crop, seed, flip, vflip, affine, height, channels
):
    images = photos(size=height, width=18, channels=channels, seed=seed)
    turned = {"rotate": 40, "translate": 0.2, "scale": (0.6, 1.5), "shear": 20} if affine else {}
    augment = Augment(flip=flip, vflip=vflip, interpolation=mode, **crop, **turned)
    params = augment.sample(len(images), height, 18, rng(seed))
    wanted = one_by_one(images, lambda image, i: moved(image, i, params, mode))
    got = Augment(interpolation=mode).apply(images, params)
    if mode == "nearest":
        clear = clear_of_a_tie(images, params, got)
        assert clear.float().mean() > 0.99
        assert torch.equal(got[clear], wanted[clear])
    else:
        assert torch.allclose(got, wanted, atol=2e-4)


COLOURS = {
    "brightness": TF.adjust_brightness,
    "contrast": TF.adjust_contrast,
    "saturation": TF.adjust_saturation,
    "hue": TF.adjust_hue,
    "blur": lambda image, sigma: TF.gaussian_blur(image, [7, 7], [sigma, sigma]),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", COLOURS)
def test_with_the_same_factor_each_colour_is_that_of_torchvision(name, channels):
    images = photos(channels=channels)
    factors = {"hue": torch.linspace(-0.5, 0.5, 12), "blur": torch.linspace(0.7, 1, 12)}
    factor = factors.get(name, torch.linspace(0, 2.5, 12))
    got = Augment().apply(images, Params(**{name: factor}))
    wanted = one_by_one(images, lambda image, i: COLOURS[name](image, float(factor[i])))
    assert torch.allclose(got, wanted, atol=1e-5)


def test_the_colours_follow_each_other_as_in_torchvision():
    images = photos()
    params = Augment(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.4).sample(12, S, S, rng())

    def in_turn(image, i):
        for name in ("brightness", "contrast", "saturation", "hue"):
            image = COLOURS[name](image, float(getattr(params, name)[i]))
        return image

    assert torch.allclose(Augment().apply(images, params), one_by_one(images, in_turn), atol=1e-5)


def statistics(images):
    half = images.shape[3] // 2
    return {
        "mean": images.mean((1, 2, 3)),
        "std": images.std((1, 2, 3)),
        "corner": images[:, :, 0, 0].mean(1),
        "red": images[:, 0].mean((1, 2)),
        "asymmetry": images[..., :half].mean((1, 2, 3)) - images[..., half:].mean((1, 2, 3)),
        "black": (images == 0).all(1).float().mean((1, 2)),
    }


PIPELINES = {
    "crop_pad": (
        {"crop_pad": 4, "rotate": 15},
        [v2.RandomCrop(S, padding=4), v2.RandomRotation(15)],
    ),
    "resized_crop": (
        {"resized_crop": (0.2, 1.0), "translate": 0.2, "scale": (0.8, 1.2), "shear": 10},
        [
            v2.RandomResizedCrop(S, (0.2, 1.0), interpolation=InterpolationMode.NEAREST_EXACT),
            v2.RandomAffine(0, (0.2, 0.2), (0.8, 1.2), 10),
        ],
    ),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_the_statistics_are_those_of_torchvisions_random_transforms(name):
    ours, theirs = PIPELINES[name]
    images = photos(50).repeat(16, 1, 1, 1)
    torch.manual_seed(1)
    jitter = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2}
    pipeline = v2.Compose(
        [
            v2.ColorJitter(0.2, 0.2, 0.2),
            theirs[0],
            v2.RandomHorizontalFlip(),
            theirs[1],
            v2.RandomErasing(0.5),
        ]
    )
    wanted = statistics(torch.stack([pipeline(image) for image in images]))
    got = statistics(Augment(**jitter, **ours, flip=0.5, erase=0.5)(images, rng(2)))
    for key in wanted:
        p = stats.ks_2samp(got[key].numpy(), wanted[key].numpy()).pvalue
        assert p > 0.01, f"{key}: p = {p:.4f}"


@pytest.mark.parametrize(("height", "width"), [(24, 24), (14, 40)])
def test_rectangles_are_drawn_as_those_of_torchvision(height, width):
    n, image = 3000, torch.empty(3, height, width)
    torch.manual_seed(0)
    erasing, cropping = v2.RandomErasing(1.0), v2.RandomResizedCrop(8, (0.1, 1.0))
    theirs = [erasing.make_params([image]) for _ in range(n)]
    sides = [
        (p["i"], p["j"], p["i"] + p["h"], p["j"] + p["w"]) for p in theirs if p["v"] is not None
    ]
    boxes = Augment(erase=1.0).sample(n, height, width, rng(1)).erase
    boxes = boxes[boxes[:, 2] > boxes[:, 0]]
    assert (
        stats.fisher_exact([[len(boxes), n - len(boxes)], [len(sides), n - len(sides)]]).pvalue
        > 0.01
    )
    windows = Augment(resized_crop=(0.1, 1.0)).sample(n, height, width, rng(1)).window
    theirs = [cropping.make_params([image]) for _ in range(n)]
    wanted = [[p[key] for key in ("top", "left", "height", "width")] for p in theirs]
    for ours, other in [
        *zip(boxes.T, zip(*sides, strict=True), strict=True),
        *zip(windows, zip(*wanted, strict=True), strict=True),
    ]:
        assert stats.ks_2samp(ours.numpy(), other).pvalue > 0.01


def test_the_noise_has_the_deviation_that_was_drawn():
    images = torch.full((64, 3, 32, 32), 0.5)
    params = Augment(noise=0.1).sample(64, 32, 32, rng())
    spread = (Augment().apply(images, params) - images).std(dim=(1, 2, 3))
    assert torch.allclose(spread, params.noise, rtol=0.08)
    assert stats.kstest(params.noise.numpy(), stats.uniform(0, 0.1).cdf).pvalue > 0.01


@pytest.mark.parametrize("options", [*SINGLE, EVERYTHING], ids=lambda o: "+".join(o)[:20])
@pytest.mark.parametrize("channels", [1, 3])
class TestEveryAugmentation:
    def test_draws_for_each_image_alone(self, options, channels):
        same = photos(1, channels=channels).expand(32, -1, -1, -1)
        out = Augment(**options)(same, rng())
        distinct = len(out.flatten(1).unique(dim=0))
        if channels == 1 and options.keys() & {"saturation", "hue"} and len(options) == 1:
            assert distinct == 1
        else:
            assert distinct >= (2 if options.keys() & {"flip", "vflip"} else 8)

    def test_keeps_shape_type_range_and_the_callers_tensor(self, options, channels):
        whole = photos(8, size=12, width=20, channels=channels)
        before = whole.clone()
        out = Augment(**options)(whole[1:7], rng())
        assert out.shape == (6, channels, 12, 20)
        assert out.dtype == torch.float32
        assert 0 <= out.min() <= out.max() <= 1
        assert torch.equal(whole, before)

    def test_belongs_to_the_generator_or_to_the_global_one(self, options, channels):
        images, augment = photos(32, channels=channels), Augment(**options)
        state = torch.get_rng_state()
        one, two = augment(images, rng(1)), augment(images, rng(1))
        assert torch.equal(state, torch.get_rng_state())
        assert torch.equal(one, two)
        torch.manual_seed(3)
        one = augment(images)
        torch.manual_seed(3)
        assert torch.equal(one, augment(images))

    def test_of_strength_0_changes_nothing_and_of_strength_1_is_itself(self, options, channels):
        images = photos(channels=channels)
        assert torch.equal(Augment(**options, strength=0.0)(images), images)
        assert torch.equal(
            Augment(**options, strength=1)(images, rng()), Augment(**options)(images, rng())
        )

    def test_is_applied_in_parts_as_in_one(self, options, channels, monkeypatch):
        if "noise" in options:
            pytest.skip("each part has noise of its own")
        images, augment = photos(channels=channels), Augment(**options)
        one = augment(images, rng())
        monkeypatch.setattr(core, "CHUNK", 5 * images[0].numel())
        assert torch.allclose(augment(images, rng()), one, atol=1e-6)


def test_images_with_the_channels_innermost_get_the_same_pixels():
    images, augment = photos(), Augment(**EVERYTHING)
    inner = images.to(memory_format=torch.channels_last)
    assert torch.allclose(augment(inner, rng()), augment(images, rng()), atol=1e-5)


def test_the_noise_of_two_parts_differs(monkeypatch):
    images = torch.full((10, 1, S, S), 0.5)
    monkeypatch.setattr(core, "CHUNK", 5 * S * S)
    params = Params(noise=torch.full((10,), 0.1), noise_seed=3)
    out = Augment().apply(images, params)
    assert not torch.equal(out[0], out[5])
    assert torch.equal(out, Augment().apply(images, params))


@pytest.mark.parametrize("strength", [0.25, 0.5])
def test_the_strength_multiplies_sizes_and_chances(strength):
    now = Augment(**EVERYTHING, strength=strength).now()
    assert now.rotate == 20 * strength
    assert now.erase == 0.5 * strength
    assert now.crop_pad == round(3 * strength)
    assert now.scale == pytest.approx((1 - 0.3 * strength, 1 + 0.3 * strength))
    area = Augment(resized_crop=(0.2, 0.8), strength=strength).now().resized_crop
    assert area == pytest.approx((1 - 0.8 * strength, 1 - 0.2 * strength))


@pytest.mark.parametrize("size", [20, 64])  # at 64, a box at a time
def test_the_erased_share_is_that_of_the_boxes(size):
    images = torch.ones(500, 1, size, size)
    params = Augment(erase=0.7).sample(500, size, size, rng())
    top, left, bottom, right = params.erase.T
    erased = (Augment().apply(images, params) == 0).sum(dim=(1, 2, 3))
    assert images.all(), "the argument is not changed"
    assert torch.equal(erased, (bottom - top) * (right - left))
    assert stats.binomtest(int((erased > 0).sum()), 500, 0.7).pvalue > 0.01


def test_what_a_crop_cut_away_does_not_come_back_by_a_rotation():
    images = torch.ones(200, 1, S, S)
    params = Augment(crop_pad=6, rotate=45).sample(200, S, S, rng())
    cut = Augment(crop_pad=6).apply(images, params._replace(affine=None))
    turned = Augment(crop_pad=6, rotate=45).apply(images, params)
    assert turned.sum() <= cut.sum() * 1.02


@pytest.mark.parametrize("channels", [2, 4])
def test_images_of_another_form_are_refused(channels):
    for wrong in (
        torch.rand(2, channels, 8, 8),
        torch.rand(3, 8, 8),
        torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
    ):
        with pytest.raises(DataError, match="float images"):
            Augment(flip=0.5)(wrong)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"flip": 1.1}, "flip must lie"),
        ({"hue": 0.6}, "hue must lie"),
        ({"rotate": -1}, "rotate must lie"),
        ({"noise": math.nan}, "noise must lie"),
        ({"scale": (1.2, 0.8)}, "smallest"),
        ({"scale": (0, 1)}, "smallest"),
        ({"resized_crop": (0.5, 1.5)}, "smallest"),
        ({"resized_crop": (0.5, 1), "crop_pad": 2}, "choose one"),
        ({"interpolation": "cubic"}, "bilinear"),
    ],
)
def test_numbers_out_of_range_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        Augment(**options)


@pytest.mark.parametrize("strength", [-0.1, 1.5, lambda step: 2.0])
def test_a_strength_outside_0_to_1_is_refused(strength):
    with pytest.raises(ValueError, match="strength"):
        Augment(flip=0.5, strength=strength)(torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize("wrong", [(0, 2, 10), (-1, 1, 10), (0, 1, 0)])
def test_a_ramp_out_of_range_is_refused(wrong):
    with pytest.raises(ValueError, match="ramp needs"):
        ramp(*wrong)


# --- in the Trainer -------------------------------------------------------------------------------


K = 4


class Watch(Callback):
    """Keep the batches that reach the model, and stop after a step."""

    def __init__(self, stop=None):
        self.seen, self.stop = [], stop

    def on_fit_start(self, trainer):
        trainer.model.register_forward_pre_hook(lambda _, args: self.seen.append(args[0].clone()))

    def on_step_end(self, trainer):
        if trainer.step == self.stop:
            raise StopTraining("enough")


def run(transform, *callbacks, epochs=2, load=None, workers=0, n=24):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, K))
    trainer = Trainer(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        batch_transform=transform,
        callbacks=callbacks,
        device="cpu",
        progress=False,
    )
    if load is not None:
        trainer.load_state_dict(load)
    data = TensorDataset(photos(n, size=8), torch.arange(n) % K)
    trainer.fit(loader(data, 6, shuffle=True, workers=workers), epochs=epochs)
    return trainer


def test_the_trainer_advances_the_strength_with_its_steps():
    steps = []

    def strength(step):
        steps.append(step)
        return 0.5

    augment = Augment(flip=0.5, strength=strength)
    run(augment)
    assert steps == list(range(8))
    assert augment.step == 7


def test_a_ramp_that_begins_at_0_gives_the_raw_images_first_and_others_later():
    plain, ramped = Watch(), Watch()
    run(None, plain)
    run(Augment(brightness=0.9, strength=ramp(0, 1, 4)), ramped)
    changed = [(a - b).abs().mean() for a, b in zip(plain.seen, ramped.seen, strict=True)]
    assert changed[0] == 0
    assert 0 < changed[1] < changed[4]


@pytest.mark.parametrize("workers", [0, 2])
def test_at_strength_0_the_model_sees_the_raw_data(workers):
    plain, zero = Watch(), Watch()
    run(None, plain)
    run(Augment(**EVERYTHING, strength=0), zero, workers=workers)
    assert len(plain.seen) == 8
    assert all(map(torch.equal, plain.seen, zero.seen))


@pytest.mark.parametrize("stop", [1, 3, 4, 6])
def test_a_resumed_run_with_augmentation_and_mixup_is_bitwise_that_without_a_break(stop):
    def transform():
        return [Augment(**EVERYTHING, strength=ramp(0.1, 1, 6)), MixUp(0.5, K)]

    whole = run(transform())
    first = run(transform(), Watch(stop))
    assert first.step == stop
    second = run(transform(), load=first.state_dict())
    for one, two in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("workers", [0, 2])
def test_no_image_is_drawn_alike_twice_over_epochs_and_workers(workers):
    watch = Watch()
    run(Augment(brightness=0.5, rotate=30), watch, epochs=3, workers=workers)
    seen = torch.cat(watch.seen).flatten(1)
    assert len(seen) == 72
    assert len(seen.unique(dim=0)) == 72


def test_what_the_trainer_may_be_given():
    images, labels = photos(4), torch.arange(4)
    for nothing in (None, [], ()):
        assert wrap_batch_transform(nothing)(images, labels, 0) == (images, labels)
    augment = Augment(brightness=0.5)
    dark = wrap_batch_transform([augment, lambda x, y: (x * 0, y + 1), [lambda x, y: (x + 1, y)]])
    got = dark(images, labels, 5)
    assert augment.step == 5
    assert torch.equal(got[0], torch.ones_like(images))
    assert torch.equal(got[1], labels + 1)
    with pytest.raises(TypeError, match="batch_transform takes"):
        wrap_batch_transform("flip")
    for of_images_alone in (RandomHorizontalFlip(), nn.Flatten(), lambda images: images):
        with pytest.raises(TypeError, match="the images alone"):
            wrap_batch_transform([of_images_alone])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("options", SINGLE, ids=lambda o: next(iter(o)))
def test_on_a_gpu_the_same_generator_augments_the_same(options):
    images, augment = photos(16), Augment(**options)
    here, there = augment(images, rng(1)), augment(images.cuda(), rng(1))
    assert there.is_cuda
    if "noise" not in options:
        assert ((here - there.cpu()).abs() < 1e-4).float().mean() > 0.999


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("options", SINGLE, ids=lambda o: next(iter(o)))
def test_every_operation_keeps_the_number_type(options, dtype):
    images, augment = photos(4), Augment(**options)
    changed = augment(images.to(dtype), rng(1))
    assert changed.dtype == dtype
    if "noise" not in options:  # its draws differ between number types
        far = (changed.float() - augment(images, rng(1))).abs() > 0.02
        assert far.float().mean() < 0.02

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

from cnnlab.augment import Augment, Params, core, geometry, ramp
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


def for_each_image(images, function):
    return torch.stack([function(image, i) for i, image in enumerate(images)])


def crop_and_flip(image, i, params, resize=InterpolationMode.NEAREST_EXACT):
    """Crop and mirror one image with torchvision's functions."""
    size = list(image.shape[1:])
    if params.window is not None:
        top, left, height, width = (int(column[i]) for column in params.window)
        if [height, width] == size:
            image = TF.crop(image, top, left, height, width)
        else:
            image = TF.resized_crop(image, top, left, height, width, size, resize)
    if params.flip is not None and params.flip[i]:
        image = TF.horizontal_flip(image)
    if params.vflip is not None and params.vflip[i]:
        image = TF.vertical_flip(image)
    return image


def crop_flip_affine(image, i, params, mode):
    """Crop, mirror and apply the affine map to one image with torchvision's functions."""
    resize = InterpolationMode.BILINEAR if mode == "bilinear" else InterpolationMode.NEAREST_EXACT
    image = crop_and_flip(image, i, params, resize)
    if params.affine is None:
        return image
    angle, shear, scale, right, down = (float(column[i]) for column in params.affine)
    return TF.affine(image, angle, [right, down], scale, [shear, 0.0], MODES[mode])


def no_ties(images, params, result):
    """Return where shifting by a thousandth of a pixel changes nothing.

    A sampling point halfway between two pixels may be rounded to either of them.
    """
    stable = torch.ones_like(result, dtype=torch.bool)
    if params.affine is None:
        return stable
    for x, y in itertools.product((-1e-3, 1e-3), repeat=2):
        affine = params.affine._replace(right=params.affine.right + x, down=params.affine.down + y)
        stable &= Augment().apply(images, params._replace(affine=affine)) == result
    return stable


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
def test_the_same_parameters_give_the_same_pixels_as_torchvision(
    mode, crop, seed, flip, vflip, affine, height, channels
):
    images = photos(size=height, width=18, channels=channels, seed=seed)
    ranges = {"rotate": 40, "translate": 0.2, "scale": (0.6, 1.5), "shear": 20} if affine else {}
    augment = Augment(flip=flip, vflip=vflip, interpolation=mode, **crop, **ranges)
    params = augment.sample(len(images), height, 18, rng(seed))
    expected = for_each_image(images, lambda image, i: crop_flip_affine(image, i, params, mode))
    result = Augment(interpolation=mode).apply(images, params)
    if mode == "nearest":
        stable = no_ties(images, params, result)
        assert stable.float().mean() > 0.99
        assert torch.equal(result[stable], expected[stable])
    else:
        assert torch.allclose(result, expected, atol=2e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_crops_far_outside_and_other_layouts_give_the_same_pixels_as_torchvision(dtype):
    images = photos(n=4, width=9).to(dtype).to(memory_format=torch.channels_last)
    whole = geometry.Window.whole(4, S, 9)
    window = whole._replace(top=torch.tensor([-40, 3, 0, 15]), left=torch.tensor([2, 40, -9, -8]))
    params = Params(window=window, flip=torch.tensor([True, False, True, True]))
    expected = for_each_image(images, lambda image, i: crop_and_flip(image, i, params))
    assert torch.equal(Augment().apply(images, params), expected)


COLOURS = {
    "brightness": TF.adjust_brightness,
    "contrast": TF.adjust_contrast,
    "saturation": TF.adjust_saturation,
    "hue": TF.adjust_hue,
    "blur": lambda image, sigma: TF.gaussian_blur(image, [7, 7], [sigma, sigma]),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", COLOURS)
def test_the_same_factor_gives_the_same_colours_as_torchvision(name, channels):
    images = photos(channels=channels)
    factors = {"hue": torch.linspace(-0.5, 0.5, 12), "blur": torch.linspace(0.7, 1, 12)}
    factor = factors.get(name, torch.linspace(0, 2.5, 12))
    result = Augment().apply(images, Params(**{name: factor}))
    expected = for_each_image(images, lambda image, i: COLOURS[name](image, float(factor[i])))
    assert torch.allclose(result, expected, atol=1e-5)


def test_the_colour_operations_run_in_a_fixed_order():
    images = photos()
    params = Augment(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.4).sample(12, S, S, rng())

    def in_order(image, i):
        for name in ("brightness", "contrast", "saturation", "hue"):
            image = COLOURS[name](image, float(getattr(params, name)[i]))
        return image

    expected = for_each_image(images, in_order)
    assert torch.allclose(Augment().apply(images, params), expected, atol=1e-5)


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
def test_random_transforms_have_the_same_statistics_as_torchvisions(name):
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
    expected = statistics(torch.stack([pipeline(image) for image in images]))
    result = statistics(Augment(**jitter, **ours, flip=0.5, erase=0.5)(images, rng(2)))
    for key in expected:
        p = stats.ks_2samp(result[key].numpy(), expected[key].numpy()).pvalue
        assert p > 0.01, f"{key}: p = {p:.4f}"


@pytest.mark.parametrize(("height", "width"), [(24, 24), (14, 40)])
def test_rectangles_have_the_same_distribution_as_torchvisions(height, width):
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
    crops = [[p[key] for key in ("top", "left", "height", "width")] for p in theirs]
    for ours, other in [
        *zip(boxes.T, zip(*sides, strict=True), strict=True),
        *zip(windows, zip(*crops, strict=True), strict=True),
    ]:
        assert stats.ks_2samp(ours.numpy(), other).pvalue > 0.01


def test_the_noise_has_the_standard_deviation_that_was_drawn():
    images = torch.full((64, 3, 32, 32), 0.5)
    params = Augment(noise=0.1).sample(64, 32, 32, rng())
    std = (Augment().apply(images, params) - images).std(dim=(1, 2, 3))
    assert torch.allclose(std, params.noise, rtol=0.08)
    assert stats.kstest(params.noise.numpy(), stats.uniform(0, 0.1).cdf).pvalue > 0.01


@pytest.mark.parametrize("options", [*SINGLE, EVERYTHING], ids=lambda o: "+".join(o)[:20])
@pytest.mark.parametrize("channels", [1, 3])
class TestEveryAugmentation:
    def test_draws_separate_parameters_for_each_image(self, options, channels):
        same = photos(1, channels=channels).expand(32, -1, -1, -1)
        out = Augment(**options)(same, rng())
        distinct = len(out.flatten(1).unique(dim=0))
        if channels == 1 and options.keys() & {"saturation", "hue"} and len(options) == 1:
            assert distinct == 1
        else:
            assert distinct >= (2 if options.keys() & {"flip", "vflip"} else 8)

    def test_keeps_shape_dtype_range_and_the_input_tensor(self, options, channels):
        whole = photos(8, size=12, width=20, channels=channels)
        before = whole.clone()
        out = Augment(**options)(whole[1:7], rng())
        assert out.shape == (6, channels, 12, 20)
        assert out.dtype == torch.float32
        assert 0 <= out.min() <= out.max() <= 1
        assert torch.equal(whole, before)

    def test_depends_only_on_its_generator_or_on_the_global_one(self, options, channels):
        images, augment = photos(32, channels=channels), Augment(**options)
        state = torch.get_rng_state()
        one, two = augment(images, rng(1)), augment(images, rng(1))
        assert torch.equal(state, torch.get_rng_state())
        assert torch.equal(one, two)
        torch.manual_seed(3)
        one = augment(images)
        torch.manual_seed(3)
        assert torch.equal(one, augment(images))

    def test_changes_nothing_at_strength_0_and_is_complete_at_strength_1(self, options, channels):
        images = photos(channels=channels)
        assert torch.equal(Augment(**options, strength=0.0)(images), images)
        assert torch.equal(
            Augment(**options, strength=1)(images, rng()), Augment(**options)(images, rng())
        )

    def test_gives_the_same_result_in_chunks_as_at_once(self, options, channels, monkeypatch):
        if "noise" in options:
            pytest.skip("each chunk gets its own noise")
        images, augment = photos(channels=channels), Augment(**options)
        whole = augment(images, rng())
        monkeypatch.setattr(core, "CHUNK", 5 * images[0].numel())
        assert torch.allclose(augment(images, rng()), whole, atol=1e-6)


def test_channels_last_images_get_the_same_pixels():
    images, augment = photos(), Augment(**EVERYTHING)
    channels_last = images.to(memory_format=torch.channels_last)
    assert torch.allclose(augment(channels_last, rng()), augment(images, rng()), atol=1e-5)


def test_without_strength_an_image_of_any_shape_stays_whole():
    images = torch.rand(4, 3, 40, 20, generator=rng())
    assert torch.equal(Augment(resized_crop=(0.1, 0.5), strength=0.0)(images), images)


def test_the_noise_of_two_batches_differs():
    augment, generator = Augment(noise=0.1), rng()
    one, two = (augment.sample(2, 8, 8, generator) for _ in range(2))
    assert one.noise_seed != two.noise_seed


def test_an_image_smaller_than_the_blur_can_be_blurred():
    images = torch.full((2, 3, 4, 6), 0.5)
    torch.testing.assert_close(Augment(blur=3.0)(images, rng()), images)


def test_a_blur_of_zero_leaves_the_image_as_it_is():
    images = torch.rand(2, 3, 8, 8, generator=rng())
    blurred = Augment().apply(images, Params(blur=torch.tensor([0.0, 1.0])))
    assert torch.equal(blurred[0], images[0])
    assert not torch.equal(blurred[1], images[1])


def test_the_noise_of_two_chunks_differs(monkeypatch):
    images = torch.full((10, 1, S, S), 0.5)
    monkeypatch.setattr(core, "CHUNK", 5 * S * S)
    params = Params(noise=torch.full((10,), 0.1), noise_seed=3)
    out = Augment().apply(images, params)
    assert not torch.equal(out[0], out[5])
    assert torch.equal(out, Augment().apply(images, params))


@pytest.mark.parametrize("strength", [0.25, 0.5])
def test_the_strength_multiplies_sizes_and_probabilities(strength):
    now = Augment(**EVERYTHING, strength=strength).now()
    assert now.rotate == 20 * strength
    assert now.erase == 0.5 * strength
    assert now.crop_pad == round(3 * strength)
    assert now.scale == pytest.approx((1 - 0.3 * strength, 1 + 0.3 * strength))
    area = Augment(resized_crop=(0.2, 0.8), strength=strength).now().resized_crop
    assert area == pytest.approx((1 - 0.8 * strength, 1 - 0.2 * strength))


@pytest.mark.parametrize("size", [20, 64])  # 64 is large enough to erase one box at a time
def test_exactly_the_pixels_in_the_boxes_are_erased(size):
    images = torch.ones(500, 1, size, size)
    params = Augment(erase=0.7).sample(500, size, size, rng())
    top, left, bottom, right = params.erase.T
    erased = (Augment().apply(images, params) == 0).sum(dim=(1, 2, 3))
    assert images.all(), "the input is not changed"
    assert torch.equal(erased, (bottom - top) * (right - left))
    assert stats.binomtest(int((erased > 0).sum()), 500, 0.7).pvalue > 0.01


def test_a_rotation_does_not_bring_back_what_the_crop_has_removed():
    images = torch.ones(200, 1, S, S)
    params = Augment(crop_pad=6, rotate=45).sample(200, S, S, rng())
    cropped = Augment(crop_pad=6).apply(images, params._replace(affine=None))
    rotated = Augment(crop_pad=6, rotate=45).apply(images, params)
    assert rotated.sum() <= cropped.sum() * 1.02


@pytest.mark.parametrize("channels", [2, 4])
def test_images_of_another_shape_or_type_are_refused(channels):
    for wrong in (
        torch.rand(2, channels, 8, 8),
        torch.rand(3, 8, 8),
        torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
    ):
        with pytest.raises(DataError, match="float images"):
            Augment(flip=0.5)(wrong)


VALUES = ("brightness", "contrast", "saturation", "hue", "noise")


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize(
    ("scale", "shift"), [(255, 0), (4.4, -2.1), (2, -1), (1, -0.13), (1.1, 0), (math.inf, 0)]
)
def test_operations_on_values_refuse_pixels_outside_0_to_1(name, scale, shift):
    images = torch.rand(4, 3, 8, 8, generator=rng()) + 0.001
    bad = images * scale + shift
    augment = Augment(flip=0.5, **{name: 0.3})
    augment(images)
    with pytest.raises(DataError, match=rf"{name} needs pixels in \[0, 1\], got .* by 255"):
        augment(bad)
    with pytest.raises(DataError, match=name):
        augment.apply(bad, augment.sample(4, 8, 8))
    one = images.clone()
    one[2] = bad[2]
    with pytest.raises(DataError, match=name):
        augment(one)
    growing = Augment(strength=ramp(0, 1, 10), **{name: 0.3})
    growing(bad)  # nothing is changed yet
    growing.step = 1
    with pytest.raises(DataError, match=name):
        growing(bad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rounding_outside_0_to_1_is_no_other_range(dtype):
    images = torch.rand(4, 3, 8, 8, generator=rng()).to(dtype)
    images[0, 0, 0, 0], images[0, 0, 0, 1] = -0.004, 1.004
    Augment(**dict.fromkeys(VALUES, 0.3))(images)


def test_operations_on_places_take_any_values():
    images = torch.randn(8, 3, S, S, generator=rng()) * 100
    flipped = Augment(flip=1.0)(images)
    torch.testing.assert_close(flipped, images.flip(3))
    places = {name: value for name, value in EVERYTHING.items() if name not in VALUES}
    assert Augment(**places)(images).min() < -50
    assert Augment(brightness=0.5)(images[:0]).shape == (0, 3, S, S)


def test_a_fit_stops_at_images_that_an_augmentation_would_cut_off():
    images = torch.rand(12, 3, 8, 8) * 4 - 2
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, K))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    augment = Augment(flip=0.5, contrast=0.2)
    trainer = Trainer(model, optimizer, batch_transform=augment, device="cpu", progress=False)
    with pytest.raises(DataError, match="normalise after the augmentation"):
        trainer.fit(loader(TensorDataset(images, torch.arange(12) % K), 4), epochs=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flip": 1.1}, "flip must be between 0 and 1"),
        ({"hue": 0.6}, "hue must be between 0 and 0.5"),
        ({"rotate": -1}, "rotate must be between"),
        ({"noise": math.nan}, "noise must be at least 0"),
        ({"scale": (1.2, 0.8)}, "smallest <= largest, got"),
        ({"scale": (0, 1)}, "smallest"),
        ({"resized_crop": (0.5, 1.5)}, "largest <= 1, got"),
        ({"resized_crop": (0.5, 1), "crop_pad": 2}, "use only one"),
        ({"interpolation": "cubic"}, "bilinear"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
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


class Recorder(Callback):
    """Keep the batches that reach the model, and stop after a given step."""

    def __init__(self, stop=None):
        self.batches, self.stop = [], stop

    def on_fit_start(self, trainer):
        def record(model, inputs):
            self.batches.append(inputs[0].clone())

        trainer.model.register_forward_pre_hook(record)

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


def test_a_ramp_from_0_starts_with_the_raw_images():
    plain, ramped = Recorder(), Recorder()
    run(None, plain)
    run(Augment(brightness=0.9, strength=ramp(0, 1, 4)), ramped)
    pairs = zip(plain.batches, ramped.batches, strict=True)
    difference = [(a - b).abs().mean() for a, b in pairs]
    assert difference[0] == 0
    assert 0 < difference[1] < difference[4]


@pytest.mark.parametrize("workers", [0, 2])
def test_at_strength_0_the_model_gets_the_raw_images(workers):
    plain, zero = Recorder(), Recorder()
    run(None, plain)
    run(Augment(**EVERYTHING, strength=0), zero, workers=workers)
    assert len(plain.batches) == 8
    assert all(map(torch.equal, plain.batches, zero.batches))


@pytest.mark.parametrize("stop", [1, 3, 4, 6])
def test_a_resumed_run_with_augmentation_and_mixup_is_bitwise_equal_to_an_uninterrupted_one(stop):
    def transform():
        return [Augment(**EVERYTHING, strength=ramp(0.1, 1, 6)), MixUp(0.5, K)]

    whole = run(transform())
    first = run(transform(), Recorder(stop))
    assert first.step == stop
    second = run(transform(), load=first.state_dict())
    for one, two in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("workers", [0, 2])
def test_no_two_epochs_or_workers_repeat_a_draw(workers):
    recorder = Recorder()
    run(Augment(brightness=0.5, rotate=30), recorder, epochs=3, workers=workers)
    images = torch.cat(recorder.batches).flatten(1)
    assert len(images) == 72
    assert len(images.unique(dim=0)) == 72


def test_the_trainer_takes_an_augment_a_function_or_a_list_of_them():
    images, labels = photos(4), torch.arange(4)
    for nothing in (None, [], ()):
        assert wrap_batch_transform(nothing)(images, labels, 0) == (images, labels)
    augment = Augment(brightness=0.5)
    dark = wrap_batch_transform([augment, lambda x, y: (x * 0, y + 1), [lambda x, y: (x + 1, y)]])
    new_images, new_labels = dark(images, labels, 5)
    assert augment.step == 5
    assert torch.equal(new_images, torch.ones_like(images))
    assert torch.equal(new_labels, labels + 1)
    with pytest.raises(TypeError, match="batch_transform must be"):
        wrap_batch_transform("flip")
    for function_of_images in (RandomHorizontalFlip(), nn.Flatten(), lambda images: images):
        with pytest.raises(TypeError, match="the images alone"):
            wrap_batch_transform([function_of_images])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("options", SINGLE, ids=lambda o: next(iter(o)))
def test_a_generator_gives_the_same_augmentation_on_a_gpu(options):
    images, augment = photos(16), Augment(**options)
    on_cpu, on_gpu = augment(images, rng(1)), augment(images.cuda(), rng(1))
    assert on_gpu.is_cuda
    if "noise" not in options:
        assert ((on_cpu - on_gpu.cpu()).abs() < 1e-4).float().mean() > 0.999


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("options", SINGLE, ids=lambda o: next(iter(o)))
def test_every_operation_keeps_the_dtype(options, dtype):
    images, augment = photos(4), Augment(**options)
    augmented = augment(images.to(dtype), rng(1))
    assert augmented.dtype == dtype
    if "noise" not in options:  # torch draws different noise for each dtype
        differs = (augmented.float() - augment(images, rng(1))).abs() > 0.02
        assert differs.float().mean() < 0.02

import itertools
import sys
import time

import pytest
import torch

from cnnlab import widgets


# Not by an import statement, because widgets.augmentation is the function of that name.
MODULE = sys.modules["cnnlab.course.widgets.augmentation"]


def explorer(n=8, dtype=torch.float32):
    pixels = torch.arange(n * 3 * 16 * 16).remainder(251).view(n, 3, 16, 16)
    return widgets.augmentation(pixels.byte() if dtype == torch.uint8 else pixels / 255)


@pytest.fixture
def drawn(monkeypatch):
    """The images of each plot, in the order of drawing."""
    image_lists = []
    image_grid = MODULE.image_grid

    def recorded_image_grid(images, *titles, **options):
        image_lists.append(images)
        return image_grid(images, *titles, **options)

    monkeypatch.setattr(MODULE, "image_grid", recorded_image_grid)
    return image_lists


def test_every_corner_of_the_settings_can_be_drawn():
    ends = {name: (values[0], values[-1]) for name, values in explorer().controls.items()}
    for corner in itertools.product(*ends.values()):
        settings = dict(zip(ends, corner, strict=True))
        alt = MODULE.draw(torch.rand(1, 3, 16, 16), **settings).alt
        assert (f"rotation up to {settings['rotate']} degrees" in alt) == (settings["rotate"] > 0)
        assert ("no augmentation" in alt) == (not any(settings.values()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
@pytest.mark.parametrize("n", [1, 9])
def test_it_accepts_any_number_of_images_float_or_uint8(n, dtype):
    page = explorer(n, dtype).grid()
    assert page.count("<img") == page.count("alt=") == 4
    assert f"{min(n, 8)} images with no augmentation" in page
    assert f"{min(n, 8)} images with rotation up to 20 degrees, shift up to 0.1" in page


def test_the_images_keep_their_titles():
    page = widgets.augmentation(torch.rand(9, 3, 8, 8), list("abcdefghi")).picture(rotate=20)
    assert "a, b, c, d, e, f, g, h" in page
    with pytest.raises(ValueError, match="3 images are shown, but there are 2 titles"):
        widgets.augmentation(torch.rand(3, 3, 8, 8), ["a", "b"])


def test_with_all_strengths_at_zero_the_images_are_shown_as_they_are(drawn):
    explorer().picture()
    pixels = torch.arange(8 * 3 * 16 * 16).remainder(251).view(8, 3, 16, 16) / 255
    assert torch.equal(drawn[-1], pixels)


def test_a_slider_does_not_change_the_random_draws_of_the_others(drawn):
    augmenter = explorer()
    augmenter.picture()
    augmenter.picture(erase=1.0)
    erased = (drawn[-1] == 0) & (drawn[-2] > 0)
    assert erased.flatten(1).any(dim=1).all()
    augmenter.picture(erase=1.0, brightness=0.3, rotate=20)
    assert (drawn[-1][erased] == 0).all()


def test_the_same_settings_give_the_same_picture(drawn):
    for _ in range(2):
        explorer().picture(rotate=35, blur=1.0)
    assert torch.equal(drawn[0], drawn[1])


def test_a_redraw_is_quick():
    augmenter = explorer()
    augmenter.picture()
    start = time.process_time()
    augmenter.picture(rotate=35, translate=0.2, zoom=0.3, brightness=0.3, blur=1.0, erase=0.5)
    assert time.process_time() - start < 1  # about a tenth of that on a quiet core


def test_there_must_be_an_image():
    with pytest.raises(ValueError, match=r"at least one image to show, got shape \(0, 3, 8, 8\)"):
        widgets.augmentation(torch.zeros(0, 3, 8, 8))


def test_the_sliders_say_how_far_a_change_goes():
    rotate, translate, zoom, brightness, blur, erase, _ = explorer(2).live().children
    assert [label for label, _ in rotate.options][::5] == ["off", "up to 90°"]
    assert translate.options[1][0] == "up to 10 % of the image"
    assert zoom.options[1][0] == "0.85 to 1.15 times"
    assert brightness.options[-1][0] == "0.1 to 1.9 times"
    assert blur.options[3][0] == "up to 1.5 pixels"
    assert erase.options[1][0] == "in 25 % of the images"

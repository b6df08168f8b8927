import itertools
import sys
import time

import pytest
import torch

from cnnlab import widgets


def explorer(n=8, dtype=torch.float32):
    pixels = torch.arange(n * 3 * 16 * 16).remainder(251).view(n, 3, 16, 16)
    return widgets.augmentation(pixels.byte() if dtype == torch.uint8 else pixels / 255)


@pytest.fixture
def drawn(monkeypatch):
    """The images that the last picture showed."""
    shown = []
    module = sys.modules["cnnlab.course.widgets.augmentation"]  # the function of that name hides it
    real = module.image_grid

    def keep(images, **options):
        shown.append(images)
        return real(images, **options)

    monkeypatch.setattr(module, "image_grid", keep)
    return shown


def test_every_corner_of_the_settings_can_be_drawn():
    draw = sys.modules["cnnlab.course.widgets.augmentation"].draw
    ends = {name: (values[0], values[-1]) for name, values in explorer().controls.items()}
    for corner in itertools.product(*ends.values()):
        settings = dict(zip(ends, corner, strict=True))
        assert (
            f"rotation up to {settings['rotate']}" in draw(torch.rand(1, 3, 16, 16), **settings).alt
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
@pytest.mark.parametrize("n", [1, 9])
def test_it_takes_any_number_of_images_and_bytes_too(n, dtype):
    page = explorer(n, dtype).grid()
    assert page.count("<img") == page.count("alt=") == 4
    assert f"{min(n, 8)} images at rotation" in page


def test_with_all_strengths_at_zero_the_images_are_shown_as_they_are(drawn):
    explorer().picture()
    pixels = torch.arange(8 * 3 * 16 * 16).remainder(251).view(8, 3, 16, 16) / 255
    assert torch.equal(drawn[-1], pixels)


def test_a_slider_leaves_the_draws_of_the_others_alone(drawn):
    every = explorer()
    every.picture()
    every.picture(erase=1.0)
    erased = (drawn[-1] == 0) & (drawn[-2] > 0)
    assert erased.flatten(1).any(dim=1).all()
    every.picture(erase=1.0, brightness=0.3, rotate=20)
    assert (drawn[-1][erased] == 0).all()


def test_the_same_settings_give_the_same_picture(drawn):
    for _ in range(2):
        explorer().picture(rotate=35, blur=1.0)
    assert torch.equal(drawn[0], drawn[1])


def test_a_redraw_is_quick():
    every = explorer()
    every.picture()
    start = time.process_time()
    every.picture(rotate=35, translate=0.2, zoom=0.3, brightness=0.3, blur=1.0, erase=0.5)
    assert time.process_time() - start < 1  # about a tenth of that on a quiet core


def test_there_must_be_an_image():
    with pytest.raises(ValueError, match="needs an image to show, got none"):
        widgets.augmentation(torch.zeros(0, 3, 8, 8))

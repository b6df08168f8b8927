import asyncio
import sys
from types import SimpleNamespace

import pytest

from cnnlab import plots
from cnnlab.widgets import Explorer


def draw(slope, start):
    return plots.lines(
        [0, 1], {"line": [start, start + slope]}, xlabel="x", ylabel="y", message=f"Slope {slope}."
    )


def explorer():
    return Explorer(
        draw,
        {"slope": [1, 2, 3], "start": [0.0, 0.5]},
        frames=[{"slope": 2}, {"slope": 3, "start": 0.5}],
    )


@pytest.fixture
def shown(monkeypatch):
    """What a cell shows: the bundles that reach the front end."""
    bundles = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: bundles.append(data))
    return bundles


def behind(kernel, monkeypatch):
    shell = SimpleNamespace(kernel=object()) if kernel else None
    monkeypatch.setattr("IPython.core.getipython.get_ipython", lambda: shell)


def test_without_a_kernel_there_are_still_frames_with_captions_and_alt_texts(shown, monkeypatch):
    behind(False, monkeypatch)
    explorer()._ipython_display_()
    (bundle,) = shown
    page = bundle["text/html"]
    assert page.count("<img") == page.count("alt=") == 2
    assert "slope 2, start 0" in page
    assert "Slope 3. y against x: line from 0.5 to 3.5" in page


def test_a_kernel_adds_sliders_below_the_frames_but_not_in_a_book(shown, monkeypatch):
    behind(True, monkeypatch)
    monkeypatch.delenv("CNNLAB_STATIC", raising=False)
    explorer()._ipython_display_()
    assert ["text/html" in bundle for bundle in shown] == [True, False]
    assert "application/vnd.jupyter.widget-view+json" in shown[1]
    shown.clear()
    monkeypatch.setenv("CNNLAB_STATIC", "1")
    explorer()._ipython_display_()
    assert len(shown) == 1


def test_without_ipywidgets_the_frames_remain(shown, monkeypatch):
    behind(True, monkeypatch)
    monkeypatch.delenv("CNNLAB_STATIC", raising=False)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    explorer()._ipython_display_()
    assert len(shown) == 1


def test_a_moved_slider_replaces_the_whole_picture():
    box = explorer().live()
    slope, start, picture = box.children
    before = picture.value
    slope.value = 3
    assert picture.value != before
    assert "line from 0 to 3" in picture.value
    start.value = 0.5
    assert "line from 0.5 to 3.5" in picture.value
    slope.value, start.value = 2, 0.0
    assert picture.value == before


def test_a_drawing_that_fails_leaves_the_last_picture():
    def fragile(n):
        if n == 2:
            raise RuntimeError("no picture")
        return draw(n, 0)

    slider, picture = Explorer(fragile, {"n": [1, 2]}, frames=[{"n": 1}]).live().children
    before = picture.value
    with pytest.raises(RuntimeError):
        slider.value = 2
    assert picture.value == before


def test_the_picture_that_the_next_press_asks_for_is_drawn_before():
    drawn = []

    def noted(n, m):
        drawn.append((n, m))
        return draw(n, m)

    async def pressed():
        box = Explorer(noted, {"n": [1, 2, 3, 4], "m": [0, 1, 2]}, frames=[{"n": 2}]).live()
        assert drawn == [(2, 0)]
        await asyncio.sleep(0.01)  # the cell ends, and the kernel is free
        while len(drawn) < 4:
            await asyncio.sleep(0.01)
        assert set(drawn) == {(2, 0), (3, 0), (1, 0), (2, 1)}
        box.children[0].value = 3
        assert len(drawn) == 4
        box.children[0].value = 4  # before anything could be drawn ahead of 3
        assert drawn[4:] == [(4, 0)]
        while len(drawn) < 6:
            await asyncio.sleep(0.01)
        assert drawn[5:] == [(4, 1)]

    asyncio.run(pressed())


@pytest.mark.parametrize(
    ("controls", "frames", "message"),
    [
        ({"slope": [1]}, [{}], r"'slope' needs two or more values, got \[1\]"),
        ({"slope": [1, 2]}, [], "needs a frame"),
        ({"slope": [1, 2]}, [{"slop": 1}], "no control 'slop'; there is slope"),
        ({"slope": [1, 2.5]}, [{"slope": 3}], "slope is 3; it can be 1, 2.5"),
    ],
)
def test_a_wrong_explorer_says_what_is_wrong(controls, frames, message):
    with pytest.raises(ValueError, match=message):
        Explorer(draw, controls, frames)

import asyncio
import sys
from types import SimpleNamespace

import pytest

from cnnlab import plots
from cnnlab.widgets import Explorer


def draw(slope, start):
    line = [start, start + slope]
    return plots.lines([0, 1], {"line": line}, xlabel="x", ylabel="y", message=f"Slope {slope}.")


def explorer():
    return Explorer(
        draw,
        {"slope": [1, 2, 3], "start": [0.0, 0.5]},
        frames=[{"slope": 2}, {"slope": 3, "start": 0.5}],
    )


@pytest.fixture
def displayed(monkeypatch):
    """The MIME bundles that a cell sends to the front end."""
    bundles = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: bundles.append(data))
    return bundles


def set_kernel(kernel, monkeypatch):
    shell = SimpleNamespace(kernel=object()) if kernel else None
    monkeypatch.setattr("IPython.core.getipython.get_ipython", lambda: shell)


def test_without_a_kernel_the_frames_have_captions_and_alt_texts(displayed, monkeypatch):
    set_kernel(False, monkeypatch)
    explorer()._ipython_display_()
    (bundle,) = displayed
    page = bundle["text/html"]
    assert page.count("<img") == page.count("alt=") == 2
    assert "slope 2, start 0" in page
    assert "<script" not in page
    assert "<style" not in page
    assert "Slope 3. Y against x: line from 0.5 to 3.5" in page


def test_a_kernel_adds_sliders_above_the_frames_but_not_in_a_book(displayed, monkeypatch):
    pytest.importorskip("ipywidgets", minversion="8")
    set_kernel(True, monkeypatch)
    monkeypatch.delenv("CNNLAB_STATIC", raising=False)
    explorer()._ipython_display_()
    assert ["text/html" in bundle for bundle in displayed] == [False, True]
    assert "application/vnd.jupyter.widget-view+json" in displayed[0]
    assert displayed[1]["text/html"].count("<img") == 2
    displayed.clear()
    monkeypatch.setenv("CNNLAB_STATIC", "1")
    explorer()._ipython_display_()
    assert len(displayed) == 1


def test_without_ipywidgets_the_frames_remain(displayed, monkeypatch):
    set_kernel(True, monkeypatch)
    monkeypatch.delenv("CNNLAB_STATIC", raising=False)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    explorer()._ipython_display_()
    assert len(displayed) == 1


@pytest.mark.parametrize(("version", "bundles"), [("7.7.1", 1), ("8.0.0", 2)])
def test_on_ipywidgets_7_as_on_colab_the_frames_remain(displayed, monkeypatch, version, bundles):
    set_kernel(True, monkeypatch)
    monkeypatch.delenv("CNNLAB_STATIC", raising=False)
    ipywidgets = pytest.importorskip("ipywidgets", minversion="8")
    monkeypatch.setattr(ipywidgets, "__version__", version)
    explorer()._ipython_display_()
    assert len(displayed) == bundles
    page = displayed[-1]["text/html"]
    assert page.count("<img") == 2
    assert ("<script" in page) == (bundles == 2)


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


def test_a_label_names_a_control_in_the_caption_and_at_the_slider():
    labelled = Explorer(
        lambda slope, first_value: draw(slope, first_value),
        {"slope": [1, 2], "first_value": [0.0, 0.5]},
        frames=[{}],
        labels={"slope": "steepness"},
    )
    descriptions = [slider.description for slider in labelled.live().children[:2]]
    assert descriptions == ["steepness", "first value"]
    assert "steepness 1, first value 0" in labelled.grid()


def test_a_slider_and_a_caption_say_a_value_in_words():
    shown = Explorer(
        draw,
        {"slope": [1, 2], "start": [0.0, 0.5]},
        frames=[{"slope": 2}],
        words={"slope": "up to {}°".format},
    )
    slope, start, _ = shown.live().children
    assert slope.options == (("up to 1°", 1), ("up to 2°", 2))
    assert start.options == (("0", 0.0), ("0.5", 0.5))
    assert "slope up to 2°, start 0" in shown.grid()


def test_when_drawing_fails_the_last_picture_stays():
    def fragile(n):
        if n == 2:
            raise RuntimeError("no picture")
        return draw(n, 0)

    slider, picture = Explorer(fragile, {"n": [1, 2]}, frames=[{"n": 1}]).live().children
    before = picture.value
    with pytest.raises(RuntimeError):
        slider.value = 2
    assert picture.value == before


def test_the_pictures_next_to_the_current_one_are_drawn_in_advance():
    drawn = []

    def recorded_draw(n, m):
        drawn.append((n, m))
        return draw(n, m)

    async def press_keys():
        box = Explorer(recorded_draw, {"n": [1, 2, 3, 4], "m": [0, 1, 2]}, frames=[{"n": 2}]).live()
        assert drawn == [(2, 0)]
        await asyncio.sleep(0.01)  # the cell has ended, and the kernel is idle
        while len(drawn) < 4:
            await asyncio.sleep(0.01)
        assert set(drawn) == {(2, 0), (3, 0), (1, 0), (2, 1)}
        box.children[0].value = 3
        assert len(drawn) == 4
        box.children[0].value = 4  # before any neighbour of 3 could be drawn
        assert drawn[4:] == [(4, 0)]
        while len(drawn) < 6:
            await asyncio.sleep(0.01)
        assert drawn[5:] == [(4, 1)]

    asyncio.run(press_keys())


@pytest.mark.parametrize(
    ("controls", "frames", "message"),
    [
        ({"slope": [1]}, [{}], r"'slope' needs at least two values to choose from, got \[1\]"),
        ({"slope": [1, 2]}, [], "at least one frame"),
        ({"slope": [1, 2]}, [{"slop": 1}], "no control 'slop'; the controls are slope"),
        ({"slope": [1, 2.5]}, [{"slope": 3}], "slope can't be 3; choose one of 1, 2.5"),
    ],
)
def test_a_wrong_argument_is_refused_with_its_name_and_value(controls, frames, message):
    with pytest.raises(ValueError, match=message):
        Explorer(draw, controls, frames)

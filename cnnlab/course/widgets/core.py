"""A plot with controls: sliders where a kernel can redraw the plot, and fixed frames elsewhere.

A preview on GitHub has no kernel, so an explorer also sends a grid of frames. JupyterLab hides them
as long as the sliders are there. Each redraw replaces the whole image at once, so you never see
half of a plot. A page of the book gets sliders over plots that were drawn when it was built.
"""

import asyncio
import html
import io
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, Any

from cnnlab.course.widgets import still as pages
from cnnlab.plots import Plot


if TYPE_CHECKING:
    from ipywidgets import VBox

# Beside sliders that answer, JupyterLab hides the frames; a page without a kernel shows them. The
# last rule gives the words beside a slider the room that ipywidgets keeps for a number.
STYLE = """
.jp-NotebookPanel .jp-OutputArea:has(.cnnlab-sliders) .cnnlab-frames { display: none; }
.cnnlab-sliders .widget-label { font-weight: 600; text-align: left; }
.cnnlab-sliders .widget-readout { min-width: 15em; max-width: none; text-align: left; }
"""

# ipywidgets gives the handle of a slider no name, and its number instead of its label as the value.
# Both are on the screen, so this copies them to where a screen reader looks.
NAMES_FOR_SCREEN_READERS = """
(() => {
  const copy = (handle, name, value) => {
    if (value && handle.getAttribute(name) !== value) handle.setAttribute(name, value);
  };
  const name = () => {
    for (const slider of document.querySelectorAll(".cnnlab-sliders .widget-slider")) {
      const text = part => slider.querySelector(part)?.textContent.trim();
      for (const handle of slider.querySelectorAll(".noUi-handle")) {
        copy(handle, "aria-label", text(".widget-label"));
        copy(handle, "aria-valuetext", text(".widget-readout"));
      }
      const words = slider.querySelector(".widget-readout");
      if (words) words.tabIndex = -1;  // Tab goes from slider to slider
    }
  };
  window.cnnlabSliderNames?.disconnect();
  window.cnnlabSliderNames = new MutationObserver(name);
  window.cnnlabSliderNames.observe(document.body, {
    subtree: true, childList: true, attributes: true, attributeFilter: ["aria-valuetext"]
  });
  name();
})();
"""


class Explorer:
    """A plot that depends on a few settings, each with a slider.

    Args:
        draw: takes one keyword argument per control and returns a `Plot`. The same settings must
            always give the same plot.
        controls: for each control, the values of its slider from left to right.
        frames: the settings to show without a kernel. A control that a frame leaves out has its
            first value.
        labels: names of controls for the reader, where they differ from the keyword argument.
        words: for a control, the function that turns a value into what its slider and a caption
            say, such as `"up to {}°".format`; without one it is the value itself.
        still: for some controls, the values that their sliders have in the book, where every
            setting is drawn in advance. At most 24 settings are; by default evenly spaced values
            of as many controls as that allows.

    Raises:
        ValueError: a control has fewer than two values, there is no frame, or a frame or `still`
            has an unknown control or value.

    >>> from cnnlab import plots
    >>> def draw(n):
    ...     series = {"n x": [0, n]}
    ...     return plots.lines([0, 1], series, xlabel="x", ylabel="y", message=f"Slope {n}.")
    >>> Explorer(draw, {"n": [1, 2, 3]}, frames=[{"n": 1}, {"n": 3}])
    Explorer of n (1 ... 3) with 2 frames
    """

    def __init__(
        self,
        draw: Callable[..., Plot],
        controls: Mapping[str, Sequence[Any]],
        frames: Sequence[Mapping[str, Any]],
        labels: Mapping[str, str] | None = None,
        words: Mapping[str, Callable[[Any], str]] | None = None,
        still: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        self.controls = {name: tuple(values) for name, values in controls.items()}
        for name, values in self.controls.items():
            if len(values) < 2:
                raise ValueError(
                    f"control {name!r} needs at least two values to choose from, got {list(values)}"
                )
        if not frames:
            raise ValueError(
                "an explorer needs at least one frame to show where there is no kernel; "
                "frames=[{}] shows the first value of every control"
            )
        self.frames = [self._complete(frame) for frame in frames]
        spelled_out = {name: name.replace("_", " ") for name in self.controls}
        self.labels = spelled_out | dict(labels or {})
        self.words = dict.fromkeys(self.controls, _short) | dict(words or {})
        start = self.frames[0]
        offered: dict[str, Sequence[Any]] = dict(self.controls)
        if still:
            offered = {name: (value,) for name, value in start.items()}
        for name, chosen in (still or {}).items():
            for value in chosen:
                self._complete({name: value})
            offered[name] = [v for v in self.controls[name] if v in (*chosen, start[name])]
        self._still = pages.thinned(offered, start)
        self._draw = draw
        self._prefetch_task: asyncio.Task[None] | None = None
        self._cached_html = lru_cache(maxsize=64)(lambda *values: self._html(draw, values))

    def picture(self, **settings: Any) -> str:
        """Return the plot at some settings as HTML, with its alt text."""
        return self._cached_html(*self._complete(settings).values())

    def grid(self) -> str:
        """Return the frames next to each other as HTML, each below a caption with its settings."""
        cells = (
            '<figure style="display: inline-block; margin: 0 1em 1em 0; max-width: 100%">'
            f"<figcaption>{html.escape(self._caption(frame))}</figcaption>{self.picture(**frame)}</figure>"
            for frame in self.frames
        )
        return f"<div>{''.join(cells)}</div>"

    def still(self) -> str:
        """Return sliders over plots that are all in the page, as HTML that needs no kernel."""
        start, choices = self.frames[0], {k: v for k, v in self._still.items() if len(v) > 1}
        sliders = (
            pages.slider(self.labels[k], [self.words[k](v) for v in values], values.index(start[k]))
            for k, values in choices.items()
        )
        settings = [dict(zip(self._still, v, strict=True)) for v in product(*self._still.values())]
        settings += [frame for frame in self.frames if frame not in settings]
        figures = (
            pages.figure(self._small(each), self._caption(each), frame=each in self.frames)
            for each in settings
        )
        return pages.page(sliders, figures)

    def live(self) -> "VBox":
        """Return the sliders and the plot below them as one widget; the arrow keys move a slider.

        Raises:
            ModuleNotFoundError: ipywidgets is not installed.
        """
        import ipywidgets

        start = self.frames[0]
        sliders = {
            name: ipywidgets.SelectionSlider(
                options=[(self.words[name](value), value) for value in values],
                value=start[name],
                description=self.labels[name],
                style={"description_width": "11em"},
                layout={"width": "100%", "max_width": "52em"},
            )
            for name, values in self.controls.items()
        }
        image = ipywidgets.HTML(self.picture(**start))

        def redraw(change: Any) -> None:
            settings = {name: slider.value for name, slider in sliders.items()}
            image.value = self.picture(**settings)
            self._start_prefetch(settings)

        for slider in sliders.values():
            slider.observe(redraw, names="value")
        self._start_prefetch(start)
        box = ipywidgets.VBox([*sliders.values(), image])
        box.add_class("cnnlab-sliders")
        return box

    def __repr__(self) -> str:
        ranges = (f"{k} ({_short(v[0])} ... {_short(v[-1])})" for k, v in self.controls.items())
        return f"Explorer of {', '.join(ranges)} with {len(self.frames)} frames"

    def _ipython_display_(self) -> None:
        from IPython.display import display

        if os.environ.get("CNNLAB_STATIC") == "1":
            display({"text/html": self.still(), "text/plain": repr(self)}, raw=True)
            return
        frames = f'<div class="cnnlab-frames">{self.grid()}</div>'
        if _has_live_kernel():
            bundle = self.live()._repr_mimebundle_()
            display({**bundle, "text/plain": "(Run this cell to get sliders.)"}, raw=True)
            frames += f"<style>{STYLE}</style><script>{NAMES_FOR_SCREEN_READERS}</script>"
        display({"text/html": frames, "text/plain": repr(self)}, raw=True)

    def _start_prefetch(self, settings: Mapping[str, Any]) -> None:
        """Start to draw the plots that the next key press may need, while the kernel is idle."""
        if self._prefetch_task is not None:
            self._prefetch_task.cancel()
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # without a kernel there are no key presses
        self._prefetch_task = loop.create_task(self._prefetch_neighbours(settings))

    async def _prefetch_neighbours(self, settings: Mapping[str, Any]) -> None:
        for (name, values), step in product(self.controls.items(), (1, -1)):
            await asyncio.sleep(0.1)  # so that a key press in the meantime is handled first
            index = values.index(settings[name]) + step
            if 0 <= index < len(values):
                with suppress(Exception):  # the error appears when this plot is really needed
                    self.picture(**{**settings, name: values[index]})

    def _complete(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Fill in the first value of each control that is missing, and refuse unknown settings."""
        for name, value in settings.items():
            if name not in self.controls:
                known = ", ".join(self.controls)
                raise ValueError(f"there is no control {name!r}; the controls are {known}")
            if value not in self.controls[name]:
                allowed = ", ".join(_short(v) for v in self.controls[name])
                raise ValueError(f"{name} can't be {_short(value)}; choose one of {allowed}")
        return {name: settings.get(name, values[0]) for name, values in self.controls.items()}

    def _html(self, draw: Callable[..., Plot], values: tuple[Any, ...]) -> str:
        plot = draw(**dict(zip(self.controls, values, strict=True)))
        return _FixedSizePlot(plot.figure, plot.alt)._repr_html_()

    def _small(self, settings: Mapping[str, Any]) -> str:
        plot = self._draw(**settings)
        return pages.StillPlot(plot.figure, plot.alt)._repr_html_()

    def _caption(self, settings: Mapping[str, Any]) -> str:
        return ", ".join(f"{self.labels[k]} {self.words[k](v)}" for k, v in settings.items())


class _FixedSizePlot(Plot):
    """A plot that is not cropped, so it doesn't jump when a slider moves.

    It is also faster, because `savefig` draws a plot twice to find out where to crop it.
    """

    def png(self, dpi: int = 96) -> bytes:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        buffer = io.BytesIO()
        self.figure.set_dpi(dpi)
        FigureCanvasAgg(self.figure).print_png(buffer, pil_kwargs={"compress_level": 1})
        return buffer.getvalue()


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _has_live_kernel() -> bool:
    """Return whether live sliders work: in a kernel with ipywidgets."""
    from IPython.core.getipython import get_ipython

    return hasattr(get_ipython(), "kernel") and _has_current_ipywidgets()


def _has_current_ipywidgets() -> bool:
    """Return whether ipywidgets can be imported, and isn't version 7, as it still is on Colab.

    Version 7 has another protocol, and its widgets can't give a MIME bundle.
    """
    try:
        import ipywidgets
    except ImportError:
        return False
    return int(ipywidgets.__version__.partition(".")[0]) >= 8

"""A figure with controls: still pictures everywhere, sliders where a kernel can answer.

A book page and a preview on GitHub have no kernel, so an explorer always shows a grid of frames first. With a
kernel it shows its controls below them. The picture is replaced whole, so it is never half drawn.
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

from cnnlab.plots import Plot


if TYPE_CHECKING:
    from ipywidgets import VBox


class Explorer:
    """A plot as a function of a few settings.

    Args:
        draw: takes one keyword argument a control and returns the `Plot`; the same settings give the same plot.
        controls: name -> the values it can take, in the order of the slider.
        frames: the settings that are shown where nothing can be moved; a control that a frame leaves out has
            its first value.

    Raises:
        ValueError: a control without two values, no frame, or a frame with an unknown control or value.

    >>> from cnnlab import plots
    >>> def draw(n):
    ...     return plots.lines([0, 1], {"n x": [0, n]}, xlabel="x", ylabel="y", message=f"Slope {n}.")
    >>> Explorer(draw, {"n": [1, 2, 3]}, frames=[{"n": 1}, {"n": 3}])
    Explorer of n (1 ... 3) with 2 frames
    """

    def __init__(
        self,
        draw: Callable[..., Plot],
        controls: Mapping[str, Sequence[Any]],
        frames: Sequence[Mapping[str, Any]],
    ) -> None:
        self.controls = {name: tuple(values) for name, values in controls.items()}
        for name, values in self.controls.items():
            if len(values) < 2:
                raise ValueError(f"control {name!r} needs two or more values, got {list(values)}")
        if not frames:
            raise ValueError("an explorer needs a frame to show where there is no kernel")
        self.frames = [self._complete(frame) for frame in frames]
        self._ahead: asyncio.Task[None] | None = None
        self._picture = lru_cache(maxsize=64)(lambda *values: self._html(draw, values))

    def picture(self, **settings: Any) -> str:
        """Return the picture at some settings as HTML, with its alt text."""
        return self._picture(*self._complete(settings).values())

    def grid(self) -> str:
        """Return the frames side by side as HTML, each under its settings."""
        cells = (
            '<figure style="display: inline-block; margin: 0 1em 1em 0; max-width: 100%">'
            f"<figcaption>{html.escape(self._caption(frame))}</figcaption>{self.picture(**frame)}</figure>"
            for frame in self.frames
        )
        return f"<div>{''.join(cells)}</div>"

    def live(self) -> "VBox":
        """Return the sliders and the picture under them as one widget; the arrow keys move a slider.

        Raises:
            ModuleNotFoundError: ipywidgets is not installed.
        """
        import ipywidgets

        start = self.frames[0]
        sliders = {
            name: ipywidgets.SelectionSlider(
                options=[(_short(value), value) for value in values],
                value=start[name],
                description=name.replace("_", " "),
                style={"description_width": "9em"},
                layout={"width": "28em"},
            )
            for name, values in self.controls.items()
        }
        picture = ipywidgets.HTML(self.picture(**start))

        def redraw(change: Any) -> None:
            now = {name: slider.value for name, slider in sliders.items()}
            picture.value = self.picture(**now)
            self._draw_ahead(now)

        for slider in sliders.values():
            slider.observe(redraw, names="value")
        self._draw_ahead(start)
        return ipywidgets.VBox([*sliders.values(), picture])

    def __repr__(self) -> str:
        ranges = (f"{k} ({_short(v[0])} ... {_short(v[-1])})" for k, v in self.controls.items())
        return f"Explorer of {', '.join(ranges)} with {len(self.frames)} frames"

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display({"text/html": self.grid(), "text/plain": repr(self)}, raw=True)
        if _kernel_answers():
            shown = self.live()._repr_mimebundle_()
            display({**shown, "text/plain": "(the same with sliders)"}, raw=True)

    def _draw_ahead(self, now: Mapping[str, Any]) -> None:
        """Begin to draw what the next key press may ask for, as long as the kernel has nothing else to do."""
        if self._ahead is not None:
            self._ahead.cancel()
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # outside a kernel nobody presses keys
        self._ahead = loop.create_task(self._draw_neighbours(now))

    async def _draw_neighbours(self, now: Mapping[str, Any]) -> None:
        for (name, values), step in product(self.controls.items(), (1, -1)):
            await asyncio.sleep(0.1)  # a press that has come meanwhile is answered first
            place = values.index(now[name]) + step
            if 0 <= place < len(values):
                with suppress(Exception):  # what fails is told when it is asked for
                    self.picture(**{**now, name: values[place]})

    def _complete(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        for name, value in settings.items():
            if name not in self.controls:
                raise ValueError(f"no control {name!r}; there is {', '.join(self.controls)}")
            if value not in self.controls[name]:
                allowed = ", ".join(_short(v) for v in self.controls[name])
                raise ValueError(f"{name} is {_short(value)}; it can be {allowed}")
        return {name: settings.get(name, values[0]) for name, values in self.controls.items()}

    def _html(self, draw: Callable[..., Plot], values: tuple[Any, ...]) -> str:
        plot = draw(**dict(zip(self.controls, values, strict=True)))
        return _Uncropped(plot.figure, plot.alt)._repr_html_()

    def _caption(self, settings: Mapping[str, Any]) -> str:
        return ", ".join(f"{k.replace('_', ' ')} {_short(v)}" for k, v in settings.items())


class _Uncropped(Plot):
    """A plot that keeps its size: it does not jump, and is drawn once; `savefig` draws twice."""

    def png(self, dpi: int = 96) -> bytes:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        buffer = io.BytesIO()
        self.figure.set_dpi(dpi)
        FigureCanvasAgg(self.figure).print_png(buffer, pil_kwargs={"compress_level": 1})
        return buffer.getvalue()


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _kernel_answers() -> bool:
    """Whether a slider would be answered: a kernel runs this cell, and not for a page of the book."""
    from importlib.util import find_spec

    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    static = os.environ.get("CNNLAB_STATIC") == "1"
    return not static and hasattr(shell, "kernel") and find_spec("ipywidgets") is not None

"""Sliders that work offline in a page without a kernel, over plots that were drawn before.

Every plot is in the page as an ordinary image with its alt text. A script shows one of them at a
time; without scripts, and on paper, the frames of the explorer are shown below each other.
"""

import html
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cnnlab.plots import Plot


# How many plots a page gets for one explorer. Each takes 5 to 40 kilobytes.
MOST = 24
COLOURS = 64  # in an image; a plot has fewer, and photographs lose nothing that shows

STYLE = """
.cnnlab-still:not(.ready) :is(.controls, figure:not(.frame)) { display: none; }
.cnnlab-still.ready figure:not(.shown) { display: none; }
.cnnlab-still figure { margin: 0 0 1em; }
.cnnlab-still.ready figcaption { display: none; }
.cnnlab-still .controls { /* the padding leaves room for the ring of the focus */
  display: grid; grid-template-columns: max-content minmax(0, 24em) 1fr; gap: 0 1em; padding: 4px;
}
.cnnlab-still label {
  display: grid; grid-column: 1 / -1; grid-template-columns: subgrid; align-items: center;
}
.cnnlab-still input { width: 100%; height: 1.8em; accent-color: #0072b2; }
@media (max-width: 576px) { /* name and value share a line, and the slider has its own */
  .cnnlab-still .controls { grid-template-columns: max-content 1fr; }
  .cnnlab-still input { grid-area: 2 / 1 / auto / -1; }
}
.cnnlab-still .said { position: absolute; width: 1px; height: 1px; overflow: hidden; }
@media print {
  .cnnlab-still .controls { display: none; }
  .cnnlab-still.ready figure.frame { display: block; }
  .cnnlab-still.ready figure:not(.frame) { display: none; }
  .cnnlab-still.ready figcaption { display: block; }
}
"""

# The class `ready` says that the script runs. The number of a figure counts through the sliders
# like the digits of a number: the last slider changes fastest.
SCRIPT = """
(() => {
  const root = document.currentScript.closest(".cnnlab-still");
  const sliders = [...root.querySelectorAll("input")];
  const figures = [...root.querySelectorAll("figure")];
  const said = root.querySelector(".said");
  const show = (event) => {
    let index = 0;
    for (const slider of sliders) {
      const words = JSON.parse(slider.dataset.words)[slider.value];
      index = index * (Number(slider.max) + 1) + Number(slider.value);
      slider.setAttribute("aria-valuetext", words);
      slider.parentElement.querySelector("span").textContent = words;
    }
    figures.forEach((figure, i) => figure.classList.toggle("shown", i === index));
    if (event) said.textContent = figures[index].querySelector("img").alt.split(/[.!?] /)[0];
  };
  sliders.forEach((slider) => slider.addEventListener("input", show));
  root.classList.add("ready");
  show();
})();
"""


def thinned(
    controls: Mapping[str, Sequence[Any]], start: Mapping[str, Any]
) -> dict[str, tuple[Any, ...]]:
    """Choose the values that a page offers: evenly spaced ones, and the first controls have more.

    Args:
        controls: for each control, all its values.
        start: the value that each control begins with, which is always among the chosen ones.

    >>> thinned({"a": range(5), "b": range(9), "c": "xy"}, {"a": 0, "b": 3, "c": "y"})
    {'a': (0, 1, 2, 3, 4), 'b': (0, 3, 5, 8), 'c': ('y',)}
    """
    chosen, room = {}, MOST
    for name, values in controls.items():
        n, first = min(len(values), room), list(values).index(start[name])
        places = [round(i * (len(values) - 1) / (n - 1)) for i in range(n)] if n > 1 else [first]
        nearest = min(range(n), key=lambda i: abs(places[i] - first))
        places[nearest] = first
        chosen[name] = tuple(values[place] for place in places)
        room //= n
    return chosen


def slider(label: str, words: Sequence[str], start: int) -> str:
    """Return a slider with its name and, in words, its value."""
    value, every = html.escape(words[start]), html.escape(json.dumps(words))
    return (
        f'<label><b>{html.escape(label)}</b><input type="range" min="0" max="{len(words) - 1}" '
        f'value="{start}" autocomplete="off" aria-valuetext="{value}" '
        f'data-words="{every}"><span aria-hidden="true">{value}</span></label>'
    )


def figure(picture: str, caption: str, *, frame: bool) -> str:
    """Return a plot below its settings; `frame` says whether it's also shown without scripts."""
    kind = ' class="frame"' if frame else ""
    return f"<figure{kind}><figcaption>{html.escape(caption)}</figcaption>{picture}</figure>"


def page(sliders: Iterable[str], figures: Iterable[str]) -> str:
    """Return the sliders above the figures, of which the script shows one at a time."""
    return (
        f'<style>{STYLE}</style><div class="cnnlab-still"><div class="controls">'
        f'{"".join(sliders)}</div>{"".join(figures)}<p class="said" role="status"></p>'
        f"<script>{SCRIPT}</script></div>"
    )


class StillPlot(Plot):
    """A plot as a small file: not cropped, with a limited number of colours."""

    def png(self, dpi: int = 96) -> bytes:
        """Return the figure as the bytes of a PNG file with a palette."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from PIL import Image

        self.figure.set_dpi(dpi)
        canvas = FigureCanvasAgg(self.figure)
        canvas.draw()
        image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(COLOURS)
        buffer = io.BytesIO()
        image.save(buffer, format="PNG", optimize=True)
        return buffer.getvalue()

"""The drawn diagrams: nothing overlaps or is clipped, and the values in them are right."""

import base64
import functools
import inspect
import io
import itertools
import math
import re
import time

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.text import Text
from PIL import Image
from sklearn.metrics import precision_score, recall_score
from torch import nn

import cnnlab
from cnnlab import course
from cnnlab.course import diagrams
from cnnlab.course.diagrams import chapters, networks, poster, processes, searching, steps
from cnnlab.course.diagrams.evaluation import COUNTS
from cnnlab.models import small_resnet
from cnnlab.symptoms import judge
from cnnlab.transfer import freeze


NAMES = diagrams.__all__
SHOWN = 700  # pixels: the width at which the book shows a figure
VARIANTS = {
    "network, 1 block": lambda: diagrams.network(small_resnet(2, width=4, depth=1)),
    "network, 3 blocks": lambda: diagrams.network(small_resnet(100, depth=3, norm="layer")),
    "network, no norm": lambda: diagrams.network(small_resnet(10, in_channels=1, norm="none")),
}
DRAWN = {name: getattr(diagrams, name) for name in NAMES} | VARIANTS


@functools.cache
def plot(name):
    return DRAWN[name]()


@functools.cache
def drawn(name):
    """A diagram with its renderer, 1 pixel per unit of its canvas."""
    figure = plot(name).figure
    figure.set_dpi(96)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return figure, canvas.get_renderer()


@functools.cache
def texts(name):
    """What is written in a diagram: (words, bounding box, artist)."""
    figure, renderer = drawn(name)
    return [
        (text.get_text(), text.get_window_extent(renderer), text)
        for text in figure.findobj(Text)
        if text.get_visible() and text.get_text()
    ]


def words(name):
    return [text for text, _, _ in texts(name)]


@functools.cache
def patches(name, *kinds):
    figure, renderer = drawn(name)
    found = [patch for patch in figure.axes[0].patches if patch.get_gid() in kinds]
    return [(patch, patch.get_window_extent(renderer)) for patch in found]


def overlap(a, b, slack=0.0):
    return min(a.x1, b.x1) - max(a.x0, b.x0) > slack and min(a.y1, b.y1) - max(a.y0, b.y0) > slack


def inside(a, b, margin=0.0):
    return (
        a.x0 >= b.x0 + margin
        and a.x1 <= b.x1 - margin
        and a.y0 >= b.y0 + margin
        and a.y1 <= b.y1 - margin
    )


def arrow_points(name):
    """The corners of each arrow, in pixels."""
    figure, _ = drawn(name)
    return [
        figure.axes[0].transData.transform(patch._path_original.vertices)
        for patch, _ in patches(name, "arrow")
    ]


def luminance(colour):
    """Relative luminance as in WCAG 2."""
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour))
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


# --- every diagram --------------------------------------------------------------------------------


def test_every_public_diagram_is_a_function_that_needs_no_argument():
    for name in NAMES:
        function = getattr(diagrams, name)
        assert inspect.isfunction(function)
        assert all(
            p.default is not p.empty for p in inspect.signature(function).parameters.values()
        )


@pytest.mark.parametrize("name", NAMES)
def test_a_diagram_is_drawn_in_a_second_or_so(name):
    DRAWN[name]().png()  # loads fonts and layers
    start = time.process_time()
    DRAWN[name]().png()
    assert time.process_time() - start < 3  # 0.3 to 1.5 seconds where nothing else runs


@pytest.mark.parametrize("name", DRAWN)
def test_the_title_is_the_first_sentence_of_the_alt_text(name):
    title = drawn(name)[0].axes[0].texts[0]
    assert title.get_fontweight() == "bold"
    assert title.get_fontsize() == max(text.get_fontsize() for _, _, text in texts(name))
    assert plot(name).alt.split(". ")[0] == " ".join(title.get_text().split())
    assert plot(name).alt.endswith(".")
    assert "\n" not in plot(name).alt


@pytest.mark.parametrize("name", DRAWN)
def test_an_image_is_as_wide_as_a_page_of_the_book_and_nothing_is_cropped(name):
    with Image.open(io.BytesIO(plot(name).png())) as image:
        assert image.size == pytest.approx(drawn(name)[0].get_size_inches() * 96, abs=1)
        assert image.width == (793 if name == "debugging" else SHOWN)
        # A white border all around, also where an artist would not count for the crop.
        grey = np.asarray(image.convert("L"))
    for edge in (grey[:12], grey[-12:], grey[:, :14], grey[:, -14:]):
        assert edge.min() == 255


@pytest.mark.parametrize("name", DRAWN)
def test_no_text_overlaps_another(name):
    for (a, box_a, _), (b, box_b, _) in itertools.combinations(texts(name), 2):
        assert not overlap(box_a, box_b), f"{a!r} overlaps {b!r}"


@pytest.mark.parametrize("name", DRAWN)
def test_a_text_is_either_inside_a_box_or_outside_of_it(name):
    for text, extent, _ in texts(name):
        boxes = [(p.get_zorder(), box) for p, box in patches(name, "box", "face")]
        # What lies below the box that the text is written in may end anywhere.
        lowest = max((z for z, box in boxes if inside(extent, box)), default=0)
        for box in (box for z, box in boxes if z >= lowest):
            clear = not overlap(extent, box) or inside(extent, box, margin=1)
            assert clear, f"{text!r} crosses the edge of a box at {box.x0:.0f}, {box.y0:.0f}"


@pytest.mark.parametrize("name", DRAWN)
def test_no_arrow_crosses_a_text(name):
    for points in arrow_points(name):
        for a, b in itertools.pairwise(points):
            along = np.linspace(a, b, 200)
            for text, box, _ in texts(name):
                hit = (along >= box.min).all(axis=1) & (along <= box.max).all(axis=1)
                assert not hit.any(), f"an arrow crosses {text!r}"


@pytest.mark.parametrize("name", DRAWN)
def test_every_arrow_starts_and_ends_at_something(name):
    things = [box for _, box in patches(name, "box", "face")] + [box for _, box, _ in texts(name)]
    for points in arrow_points(name):
        assert len(points) > 1
        for x, y in (points[0], points[-1]):
            near = [
                math.hypot(max(box.x0 - x, x - box.x1, 0), max(box.y0 - y, y - box.y1, 0))
                for box in things
            ]
            assert min(near) < 10


@pytest.mark.parametrize("name", DRAWN)
def test_the_smallest_letters_can_be_read_at_the_width_of_the_book(name):
    figure, _ = drawn(name)
    scale = SHOWN / figure.get_size_inches()[0]  # pixels per inch
    for text, _, artist in texts(name):
        height = artist.get_fontsize() / 72 * scale
        assert height >= 8.5, text
        assert height * (0.7 if "^" in text else 1) >= 7.9, text  # a power


@pytest.mark.parametrize("name", DRAWN)
def test_text_stands_out_from_what_is_behind_it(name):
    for text, extent, artist in texts(name):
        behind = [
            (patch.get_zorder(), patch.get_facecolor())
            for patch, box in patches(name, "box")
            if inside(extent, box) and patch.get_facecolor()[3] > 0
        ]
        fill = max(behind, default=(0, (1, 1, 1, 1)), key=lambda item: item[0])[1]
        light, dark = sorted((luminance(fill), luminance(artist.get_color())), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{text!r} on {to_hex(fill)}"


@pytest.mark.parametrize("name", [name for name in DRAWN if name != "confusion"])
def test_boxes_that_mean_different_things_differ_in_grey_too(name):
    looks = {
        (to_hex(patch.get_facecolor()), patch.get_hatch(), patch.get_linestyle())
        for patch, _ in patches(name, "box")
        if patch.get_facecolor()[3] > 0
    }
    for (a, *style_a), (b, *style_b) in itertools.combinations(looks, 2):
        assert style_a != style_b or abs(luminance(a) - luminance(b)) > 0.08, f"{a} and {b}"


@pytest.mark.parametrize("name", NAMES)
def test_a_diagram_has_at_most_one_legend_and_no_style_of_its_reader(name):
    before = plot(name).png()
    with mpl.rc_context({"font.family": "serif", "font.size": 20}):
        other = DRAWN[name]()
        assert other.png() == before
    assert sum(axis.get_legend() is not None for axis in other.figure.axes) <= 1


def test_drawing_leaves_the_random_numbers_and_the_style_alone():
    state, style = torch.get_rng_state(), dict(mpl.rcParams)
    for name in NAMES:
        DRAWN[name]()
    assert torch.equal(torch.get_rng_state(), state)
    assert dict(mpl.rcParams) == style


# --- the map of the chapters ----------------------------------------------------------------------


def numbers_in(text):
    """The numbers in "chapters 1, 2 and 9 to 11"."""
    spans = re.sub(
        r"(\d+) to (\d+)", lambda m: " ".join(map(str, range(int(m[1]), int(m[2]) + 1))), text
    )
    return {int(number) for number in re.findall(r"\d+", spans)}


def test_the_map_has_every_chapter_of_the_book():
    numbered = {int(path.stem[:2]) for path in course.chapters() if path.stem[:2].isdecimal()}
    assert numbered <= set(chapters.CHAPTERS), (
        "add the new chapter to CHAPTERS in diagrams/chapters.py"
    )
    assert set(chapters.numbers_in_the_book()) == numbered
    assert [text for text in words("chapter_map") if text.isdecimal()] == sorted(
        map(str, numbered), key=int
    )


@pytest.mark.parametrize("number", chapters.numbers_in_the_book())
def test_the_map_says_what_the_box_at_the_top_of_a_chapter_says(number):
    (script,) = (course.root() / "chapters").glob(f"{number:02}_*.py")
    (row,) = re.findall(r"^# \| you need \| (.*) \|$", script.read_text(), re.MULTILINE)
    chapter, named = chapters.CHAPTERS[number], numbers_in(row)
    told = f"{script.name} says `{row}`, CHAPTERS in diagrams/chapters.py says {chapter}"
    assert max(chapter.needs + chapter.helps, default=-1) < number, told
    assert named <= chapters.needed_by(number) | set(chapter.helps), told
    assert {*chapter.needs, *chapter.helps} & set(chapters.numbers_in_the_book()) <= named, told


def test_the_map_leaves_out_chapters_that_the_book_leaves_out(monkeypatch):
    for kept in ([1, 2, 9, 10], [0, *chapters.numbers_in_the_book()]):
        names = {number: str(number) for number in kept}
        monkeypatch.setattr(chapters, "numbers_in_the_book", lambda names=names: names)
        figure = diagrams.chapter_map().figure
        boxes = [patch for patch in figure.axes[0].patches if patch.get_gid() == "box"]
        assert len(boxes) == len(set(kept))
        written = [text.get_text() for text in figure.findobj(Text)]
        assert sum(text.endswith("start here") for text in written) == 1


def test_the_map_has_the_numbers_of_the_positions(monkeypatch):
    monkeypatch.setattr(chapters, "numbers_in_the_book", lambda: {9: "1", 2: "2", 1: "3"})
    drawn = diagrams.chapter_map()
    written = [text.get_text() for text in drawn.figure.findobj(Text)]
    assert [text for text in written if text.isdecimal()] == ["3", "2", "1"]
    assert "Transfer\nlearning" in written, "a narrow box has no room for more words"
    assert "Chapter 1 needs 2." in drawn.alt
    assert "after chapter 2" not in drawn.alt


# --- the network ----------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_shapes_and_counts_are_those_of_the_model(depth):
    model = small_resnet(7, in_channels=1, width=8, depth=depth).train()
    with torch.no_grad():
        x, sizes = torch.zeros(2, 1, 32, 32), [(1, 32, 32)]
        for part in (model.stem, *model.blocks):
            x = part(x)
            sizes.append(tuple(x.shape[1:]))
    expected = [" × ".join(map(str, size)) for size in sizes] + [str(8 * 2**depth), "7"]
    shown = diagrams.network(model)
    written = [text.get_text() for text in shown.figure.findobj(Text)]
    assert [text for text in written if text in expected] == expected
    for part in (model.stem, *model.blocks, model.head, model):
        assert any(f"{sum(p.numel() for p in part.parameters()):,}" in text for text in written)
    assert "becomes 7 scores" in shown.alt


def test_a_drawn_model_is_left_as_it_was():
    model = small_resnet(3, width=4).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    diagrams.network(model)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_layers_inside_a_block_are_named_after_what_they_are():
    assert words("network").count("batch\nnorm") == 3
    assert words("network, 3 blocks").count("layer\nnorm") == 3
    assert not [text for text in words("network, no norm") if "norm" in text]
    assert words("network").count("conv 1 × 1\nstride 2") == 1


@pytest.mark.parametrize(
    ("model", "said"),
    [(small_resnet(2, depth=0), "0 blocks"), (small_resnet(2, width=1, depth=4), "4 blocks"),
     (nn.Linear(2, 2), "Linear")],
)  # fmt: skip
def test_a_model_that_does_not_fit_on_the_page_is_refused(model, said):
    with pytest.raises(ValueError, match=rf"{said}: small_resnet\(12, depth=2\)"):
        diagrams.network(model)


# --- norms and freezing ---------------------------------------------------------------------------


def test_what_a_norm_averages_over():
    image, channel = networks.NORMALISED
    batch = torch.zeros(networks.IMAGES, networks.CHANNELS, dtype=torch.bool)
    layer, group = batch.clone(), batch.clone()
    batch[:, channel] = True
    layer[image] = True
    group[image, :3] = True  # the first of two groups of three channels
    assert torch.equal(networks.maps_averaged(nn.BatchNorm2d(6)), batch)
    assert torch.equal(networks.maps_averaged(nn.GroupNorm(1, 6)), layer)
    assert torch.equal(networks.maps_averaged(nn.GroupNorm(2, 6)), group)
    # The course's own layer norm.
    assert isinstance(small_resnet(2, norm="layer").stem[1], nn.GroupNorm)
    assert "4 maps × 9 pixels\n= 36 values in one mean" in words("normalisation")
    assert "6 maps × 9 pixels\n= 54 values in one mean" in words("normalisation")
    assert "3 maps × 9 pixels\n= 27 values in one mean" in words("normalisation")
    assert words("normalisation").count("works on a single image") == 2
    assert words("normalisation").count("needs the other images") == 1


def test_each_rung_trains_as_many_parameters_as_it_says():
    model = small_resnet(12)
    sizes = [sum(p.numel() for p in part.parameters())
             for part in (model.stem, *model.blocks, model.head)]  # fmt: skip
    total = sum(sizes)
    for kept in (1, 2, 3, 4):
        count = sum(sizes[-kept:])
        assert f"{count:,} ({100 * count / total:.0f} %)" in words("freezing")
    strategies = ["feature extraction", "top layers", "fine-tuning", "full training"]
    assert [text for text in words("freezing") if text in strategies] == strategies
    dashed = [patch for patch, _ in patches("freezing", "box") if patch.get_linestyle() == "--"]
    assert len(dashed) == 3 + 2 + 1 + 1  # frozen stages on the rungs, and the legend
    assert networks.parameter_count(freeze(model), trainable=True) == 0


# --- steps ----------------------------------------------------------------------------------------


def test_a_grid_tries_fewer_values_than_other_searches_and_sobol_points_leave_smaller_gaps():
    trials = searching.strategies()
    values = {name: sorted({u for u, _ in points}) for name, points in trials.items()}
    assert [len(points) for points in trials.values()] == [9, 9, 9]
    assert [len(values[name]) for name in values] == [3, 9, 9]
    gaps = {
        name: max(b - a for a, b in itertools.pairwise([0.0, *own, 1.0]))
        for name, own in values.items()
    }
    assert gaps["Sobol"] < min(gaps["random"], gaps["grid, 3 x 3"])
    shown = "".join(text.get_text() for text in diagrams.search().figure.axes[0].texts)
    assert f"largest gap {gaps['Sobol']:.2f}" in shown


@pytest.mark.parametrize(
    ("rate", "verdict"), [(0.1, "crawls"), (0.5, "arrives"), (1.8, "overshoots"), (2.1, "diverges")]
)
def test_gradient_descent_on_a_parabola(rate, verdict):
    assert rate in steps.RATES
    path = steps.descend(rate)
    assert path == pytest.approx([4 * (1 - rate) ** k for k in range(6)])
    assert steps.verdict(path) == verdict
    assert f"loss 8 → {path[-1] ** 2 / 2:.2g}" in words("learning_rates")
    assert f"{rate:g} {verdict}" in plot("learning_rates").alt


def test_the_pieces_of_a_batch_add_up():
    gradients = [-target for target in steps.TARGETS]
    pieces = [gradients[:4], gradients[4:8], gradients[8:]]
    shown = words("accumulation")
    for piece in pieces:
        for value in piece:
            assert f"{value + 0:.0f}".replace("-", "−") in shown
        assert f"{sum(piece) / len(piece):.1f}" in shown
        assert f"× {len(piece)}/10" in shown
        assert f"{sum(piece) / 10:.1f}" in shown
    mean = sum(gradients) / 10
    assert f"sum\n{mean:.1f}" in shown
    assert f"mean\n{mean:.1f}" in shown
    wrong = sum(sum(piece) / len(piece) for piece in pieces) / 3
    assert f"{wrong:.1f}" != f"{mean:.1f}"
    assert any(f"would give {wrong:.1f} instead" in text for text in shown)
    # What is rounded to one digit adds up on paper too.
    assert sum(round(sum(piece) / 10, 1) for piece in pieces) == pytest.approx(round(mean, 1))


def test_the_ranges_of_the_number_formats():
    assert pytest.approx(2**-25) == 10**steps.ZERO
    assert np.float16(2**-25) == 0 < np.float16(2**-25 * 1.01)
    shown = words("loss_scaling")
    assert "3 digits, up to 65,504" in shown
    assert "7 digits, up to 3.4 · $10^{38}$" in shown
    assert "2 digits, up to 3.4 · $10^{38}$" in shown
    bars = [box for patch, box in patches("loss_scaling", "box") if box.height > 15]
    # Decades from the smallest number to the smallest with all digits, and to the largest.
    decades = [(math.log10(2) * a, math.log10(2) * b) for a, b in ((23, 254), (7, 254), (10, 30))]
    widths = [box.width for box in bars]
    assert widths == pytest.approx(
        [width * bars[1].width / decades[0][1] for pair in decades for width in pair], rel=0.02
    )


def test_what_fp16_makes_of_the_gradients():
    gradients = steps.layer_gradients().double().numpy()
    assert len(gradients) > 100_000
    shown = words("loss_scaling")
    lost = []
    for scale in (1.0, 65536.0):
        with np.errstate(over="ignore"):
            half = (gradients * scale).astype(np.float16)
        few = (half > 0) & (half < 2.0**-14)
        lost.append(few.mean())
        for fraction, effect in (((half == 0).mean(), "become 0"), (few.mean(), "lose digits")):
            percent = f"{100 * fraction:.1f}" if fraction < 0.1 else f"{100 * fraction:.0f}"
            assert f"{percent} % {effect}" in shown
    assert lost[0] > 0.2
    assert lost[1] < 0.01


# --- processes ------------------------------------------------------------------------------------


def test_all_reduce_adds_up_to_the_gradient_of_the_batch():
    gradients = [-target for target in steps.TARGETS]
    contributions = [sum(gradients[rank::3]) / 10 for rank in range(3)]
    shown = words("all_reduce")
    for rank, value in enumerate(contributions):
        n = len(gradients[rank::3])
        assert f"gradient × {n}/10\n{value:.1f}" in shown
        assert f"process {rank}" in shown
    assert shown.count(f"gradient\n{sum(gradients) / 10:.1f}") == 3
    terms = " + ".join(f"{value:.1f}" for value in contributions)
    assert f"all-reduce:  {terms}  =  {sum(gradients) / 10:.1f}" in shown


@pytest.mark.parametrize("load", [1, 3])
@pytest.mark.parametrize("train", [1, 4])
@pytest.mark.parametrize("workers", [0, 1, 2, 3, 5])
def test_the_simulated_loader_is_possible(load, train, workers, monkeypatch):
    monkeypatch.setattr(processes, "LOAD", load)
    monkeypatch.setattr(processes, "TRAIN", train)
    monkeypatch.setattr(processes, "BATCHES", 17)
    tasks = processes.simulate(workers)
    loads = {task.batch: task for task in tasks if task.loads}
    trains = {task.batch: task for task in tasks if not task.loads}
    assert set(loads) == set(trains) == set(range(17))
    for row in range(workers + 1):  # no process does two things at once
        own = sorted((task.start, task.end) for task in tasks if task.row == row)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(own))
    for batch, task in trains.items():
        assert task.row == 0
        assert task.start >= loads[batch].end
        assert task.end - task.start == train
        if workers:
            started = [k for k, other in loads.items() if other.start < task.start]
            assert max(started) - batch < processes.PREFETCH * workers
    end = trains[16].end
    assert end >= max(17 * train + load, 17 * load / max(1, workers) + train)
    if workers == 0:
        assert end == 17 * (load + train)
    if workers == 1:
        assert end == max(17 * load + train, load + 17 * train)


def test_three_workers_are_enough():
    ends = {k: max(task.end for task in processes.simulate(k)) for k in (0, 1, 3)}
    assert ends == {0: 24, 1: 19, 3: 9}
    assert processes.waits(processes.simulate(3)) == [(0, 3)]
    assert processes.waits(processes.simulate(0)) == []
    assert len(processes.waits(processes.simulate(1))) == processes.BATCHES
    for end in ends.values():
        assert f"done at {end}" in words("workers")


# --- evaluation -----------------------------------------------------------------------------------


def test_recall_and_precision_are_those_of_the_matrix():
    labels = [i for i, row in enumerate(COUNTS) for j, n in enumerate(row) for _ in range(n)]
    guesses = [j for i, row in enumerate(COUNTS) for j, n in enumerate(row) for _ in range(n)]
    shown = words("confusion")
    for i, (recall, precision) in enumerate(
        zip(
            recall_score(labels, guesses, average=None),
            precision_score(labels, guesses, average=None),
            strict=True,
        )
    ):
        hits = COUNTS[i][i]
        assert f"{hits} / {sum(COUNTS[i])}  =  {100 * recall:.0f} %" in shown
        predicted = sum(row[i] for row in COUNTS)
        assert f"{hits} / {predicted}\n= {100 * precision:.0f} %" in shown
    assert "76 / 100  =  76 %" in shown
    assert all(f"{n}" in shown for row in COUNTS for n in row)


# --- the poster -----------------------------------------------------------------------------------


def test_the_poster_fills_a_sheet_of_a4(tmp_path):
    plot("debugging").save(tmp_path / "debugging.pdf")
    box = re.search(rb"/MediaBox \[ ?([\d. ]+)\]", (tmp_path / "debugging.pdf").read_bytes())
    sides = [float(number) / 72 * 25.4 for number in box[1].split()]
    assert sides == pytest.approx([0, 0, 210, 297], abs=0.1)


def test_the_poster_is_shown_as_wide_as_a_page():
    data = re.search(r"base64,([^\"]+)", plot("debugging")._repr_html_())[1]
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert SHOWN - 10 <= image.width <= SHOWN


def test_every_tool_on_the_poster_exists():
    for question in poster.QUESTIONS:
        calls = re.findall(
            r"\b(?:cnnlab\.)?([a-z]\w*(?:\.\w+)+)", question.tool + " " + question.advice
        )
        assert calls
        for call in calls:
            found = {"nn": nn, "model": nn.Module}.get(call.split(".")[0], cnnlab)
            path = call.split(".")[found is not cnnlab :]
            functools.reduce(getattr, path, found)
        assert question.words.endswith("?")
        assert question.words in words("debugging")
        assert question.advice in words("debugging")


def test_the_poster_follows_the_order_of_the_chapter():
    stages = [stage for stage, _ in itertools.groupby(q.stage for q in poster.QUESTIONS)]
    assert stages == ["data", "fresh network", "first steps", "curves", "evaluation"]
    assert len(arrow_points("debugging")) == 2 * len(poster.QUESTIONS)


def test_the_limits_on_the_poster_are_those_of_the_library():
    looks = " ".join(question.look for question in poster.QUESTIONS)
    assert f"{math.log(12):.2f}. Suspicious: twice as much" in looks
    assert judge({"first_loss": 2.1 * math.log(12), "log_classes": math.log(12)})
    assert not judge({"first_loss": 1.9 * math.log(12), "log_classes": math.log(12)})
    assert "from −4.2 to −1.2" in looks
    assert all(judge({"log10_update_ratio": value}) for value in (-4.3, -1.1))
    assert not any(judge({"log10_update_ratio": value}) for value in (-4.1, -1.3))
    assert "within 0.1 of the accuracy" in looks
    assert judge({"valid_acc": 0.8, "valid_acc_again": 0.69})
    assert not judge({"valid_acc": 0.8, "valid_acc_again": 0.71})

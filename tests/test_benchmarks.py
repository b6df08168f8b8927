"""Test the statistics of the benchmarks, that they compare like with like, and that each runs."""

import csv
import doctest
import itertools
import math
from dataclasses import replace
from importlib.util import find_spec

import PIL.Image
import pytest
import torch

import cnnlab
from benchmarks import (
    augment,
    channels_last,
    cifar10,
    gpu,
    imports,
    loops,
    mixing,
    pairs,
    profile,
    regimes,
    report,
    trainer,
)
from benchmarks.pairs import Pairs, Turns, in_turn, median_interval


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


# --- statistics -----------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [pairs, report, cifar10])
def test_examples(module):
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(
    # from a table of the sign test: for 95 %, the k-th of n values from each end
    ("n", "k"),
    [(6, 1), (8, 1), (9, 2), (11, 2), (12, 3), (15, 4), (20, 6), (25, 8), (50, 18)],
)
def test_the_ends_of_the_interval_match_a_table_of_the_sign_test(n, k):
    values = [float(v) for v in range(1, n + 1)]
    assert median_interval(values[::-1]) == (k, n + 1 - k)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_too_few_values_give_a_nan_interval(n):
    assert all(math.isnan(end) for end in median_interval([1.0] * n))


def test_the_interval_covers_the_median_in_95_percent_of_trials_even_for_skewed_values():
    generator = torch.Generator().manual_seed(0)
    # exponential distribution, whose median is log 2
    samples = torch.rand(4000, 9, generator=generator).log().neg()
    covered = 0
    for row in samples.tolist():
        low, high = median_interval(row)
        covered += low <= math.log(2) <= high
    # exactly 1 - 2 (1 + 9) / 2**9 = 0.961; 0.011 is 3.5 standard errors of 4000 trials
    assert covered / 4000 == pytest.approx(0.961, abs=0.011)


def test_an_outlier_changes_neither_the_ratio_nor_the_interval():
    clean = Pairs(own=[2.0] * 9, reference=[1.0] * 9)
    noisy = Pairs(own=[2.0] * 8 + [200.0], reference=[1.0] * 9)
    assert (noisy.ratio, noisy.interval) == (clean.ratio, clean.interval) == (2.0, (2.0, 2.0))


# --- taking turns ---------------------------------------------------------------------------------


class Clock:
    """A clock that only moves when a turn is taken, by the cost of that turn."""

    def __init__(self):
        self.now, self.order = 0.0, ""

    def turn(self, name, cost):
        def take(*_):
            self.now += cost
            self.order += name

        return take


def test_the_order_in_a_pair_alternates_and_the_first_round_does_not_count():
    clock = Clock()
    times = in_turn(clock.turn("r", 2.0), {"x": clock.turn("x", 3.0)}, 3, clock=lambda: clock.now)
    assert clock.order == "rx" + "xr" + "rx" + "xr"
    assert times["x"] == Pairs(own=[3.0] * 3, reference=[2.0] * 3)


def test_a_loop_with_a_hook_gives_a_pair_per_epoch_except_the_first_and_the_last(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(pairs, "process_time", lambda: clock.now)
    monkeypatch.setattr(pairs, "time_call", lambda turn, clock: (turn(), 2.0)[1])
    turns = Turns(clock.turn("r", 2.0))
    for _ in range(5):
        turns("any", hook="arguments")
        clock.turn("x", 3.0)()
    assert clock.order == "rx" * 5
    assert turns.pairs == Pairs(own=[3.0] * 3, reference=[2.0] * 3)


def test_the_verdict_compares_the_median_with_the_goal():
    row = report.Row("x", Pairs(own=[2.0, 3.0, 9.0], reference=[1.0, 1.0, 1.0]), goal=3.0)
    assert row.verdict == "at most 3: yes"
    assert report.Row("x", row.pairs, goal=2.9).verdict == "at most 2.9: no"
    assert report.Row("x", row.pairs, goal=3.1, at_least=True).verdict == "at least 3.1: no"


# --- like with like -------------------------------------------------------------------------------


def train_weights(train, regime, epochs=2):
    net = regime.net()
    train(net, regime.data(), epochs, lambda *_, **__: None)
    return list(net.parameters())


@pytest.mark.parametrize("name", ["Z", "T16"])
def test_cnnlab_ends_with_exactly_the_weights_of_the_bare_loop(name, capsys):
    regime = replace(regimes.REGIMES[name], steps=8)
    bare = train_weights(loops.train_bare_loop, regime)
    own = train_weights(loops.train_cnnlab, regime)
    assert all(torch.equal(a, b) for a, b in zip(bare, own, strict=True))
    start = list(regime.net().parameters())
    assert not any(torch.equal(a, b) for a, b in zip(bare, start, strict=True))


INSTALLED = [name for name, (module, _) in loops.PEERS.items() if find_spec(module)]


@pytest.mark.parametrize("name", INSTALLED)
@pytest.mark.filterwarnings("default")  # warnings of other libraries are no failure
def test_each_other_library_ends_with_the_weights_of_the_bare_loop(name, capsys):
    regime = replace(regimes.REGIMES["Z"], steps=20)
    bare = train_weights(loops.train_bare_loop, regime)
    own = train_weights(loops.PEERS[name][1], regime)
    # Keras multiplies the learning rate into the momentum; the others agree exactly.
    tolerance = {"rtol": 0, "atol": 1e-3 if "Keras" in name else 0}
    torch.testing.assert_close(own, bare, **tolerance)


def test_the_networks_have_the_sizes_in_the_names_of_the_regimes():
    sizes = {
        name: sum(p.numel() for p in regime.net().parameters())
        for name, regime in regimes.REGIMES.items()
    }
    assert sizes == {"Z": 90, "T16": 19258, "R": 175258}


def pipelines():
    setting = augment.Setting(size=32, pad=4, batch=64, full=True, rounds=1)
    factories = {
        name: factory for name, (module, factory, _) in augment.PEERS.items() if find_spec(module)
    }
    factories["cnnlab"] = augment.cnnlab_pipeline
    return [pytest.param(setting, factory, id=name) for name, factory in factories.items()]


@pytest.mark.parametrize(("setting", "factory"), pipelines())
@pytest.mark.filterwarnings("default")
def test_every_pipeline_changes_each_image_differently(setting, factory):
    torch.manual_seed(0)
    source = setting.images()[:1].expand(64, -1, -1, -1).contiguous()
    indices = torch.arange(64)
    out = factory(setting, source)(indices)
    plain = augment.no_augmentation(setting, source)(indices)
    assert out.shape == plain.shape
    assert out.dtype == torch.float32
    assert len({image.numpy().tobytes() for image in out}) == 64
    # Black pixels enter at the border, so the mean falls, by less than one standard deviation.
    assert -1.0 < float(out.mean() - plain.mean()) < 0.2


@pytest.mark.parametrize("name", mixing.contestants())
def test_every_mix_keeps_the_shape_and_the_input_and_its_targets_sum_to_one(name):
    images, labels = torch.rand(16, 3, 8, 8), torch.randint(mixing.CLASSES, (16,))
    before = images.clone()
    mixed, targets = mixing.contestants()[name](images, labels)
    assert mixed.shape == images.shape
    assert torch.equal(images, before)
    if "copy" not in name:
        torch.testing.assert_close(targets.sum(1), torch.ones(16))


def test_both_layouts_end_with_the_same_weights():
    make = channels_last.MODELS["small_resnet"]
    weights = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        model = make()
        channels_last.training_steps(lambda model=model: model, layout, 2)()
        weights.append([p.detach() for p in model.parameters()])
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-4)


# --- every script runs ----------------------------------------------------------------------------

SCRIPTS = [trainer, augment, mixing, imports, channels_last, profile]
ON_A_GPU = [cifar10, gpu]


@pytest.mark.parametrize("script", SCRIPTS + ON_A_GPU, ids=lambda m: m.__name__.partition(".")[2])
@pytest.mark.filterwarnings("default")
def test_the_short_mode_runs_and_writes_its_tables(script, tmp_path, capsys):
    tables = script.main(["--short", "--out", str(tmp_path)])
    name = script.__name__.partition(".")[2]
    page, shown = (tmp_path / f"{name}.md").read_text(), capsys.readouterr().out
    assert page in shown
    assert "torch 2" in page
    with (tmp_path / f"{name}.csv").open() as file:
        rows = {(row["table"], row["what"]) for row in csv.DictReader(file)}
    assert rows == {(table.title, row.name) for table in tables for row in table.rows}
    assert all(row.pairs.ratio > 0 for table in tables for row in table.rows)


def test_a_library_that_is_not_installed_is_left_out_with_a_message(capsys):
    assert report.installed(["torch", "no_such_peer"], of="a test") == ["torch"]
    assert "left out because not installed: no_such_peer." in capsys.readouterr().out


STORED = sorted(report.RESULTS.glob("*.csv"))


def test_every_script_has_a_stored_table_unless_it_needs_a_gpu():
    required, optional = (
        {m.__name__.partition(".")[2] for m in group} for group in (SCRIPTS, ON_A_GPU)
    )
    assert required <= {path.stem for path in STORED} <= required | optional


@pytest.mark.skipif(torch.cuda.is_available(), reason="tests what happens without a GPU")
def test_without_a_gpu_the_benchmarks_for_one_refuse_to_run(tmp_path):
    with pytest.raises(SystemExit, match="needs a GPU"):
        cifar10.main([])
    with pytest.raises(SystemExit, match="no CUDA GPU on this machine, so nothing was measured"):
        gpu.main(["--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="add --short"):
        gpu.main(["--device", "cpu", "--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_a_failed_test_on_the_gpu_is_reported_after_writing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "TESTS", ["tests/no_such_file.py"])
    with pytest.raises(SystemExit, match="some tests failed"):
        gpu.main(["--short", "--device", "cpu", "--out", str(tmp_path)])
    assert "The tests: " in (tmp_path / "gpu.md").read_text()


def test_no_seed_is_begun_when_the_time_is_over():
    def contestant(seed, epochs):
        return cifar10.Run(0.9, 1.0, 2.0)

    other = lambda seed, epochs: contestant(seed, epochs)
    own, others = cifar10.race(contestant, other, seeds=5, epochs=1, until=0.0)
    assert len(own) == len(others) == 1


def test_airbench_gets_the_images_of_the_recipe(tmp_path):
    data = cnnlab.load("pocket", n_train=24, n_valid=12, n_test=12, level="easy")
    cifar10.write_for_airbench(data, tmp_path)
    stored = torch.load(tmp_path / "train.pt", weights_only=True)
    assert stored["images"].shape == (24, 32, 32, 3)
    assert torch.equal(stored["images"][3].permute(2, 0, 1), data.train[3][0].mul(255).byte())
    assert torch.equal(stored["labels"], data.train.labels)


def test_cifar_10_is_read_from_folders_of_jpeg_files(tmp_path):
    for split, n in (("train", 3), ("test", 2)):
        for number, name in enumerate(("airplane", "cat")):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(n):
                colour = (100 * number + 20 * i, 10 * n, 50)
                PIL.Image.new("RGB", (32, 32), colour).save(folder / f"{i}.jpg")
    data = cifar10.load_cifar10(tmp_path)
    assert (len(data.train), len(data.test), data.classes) == (6, 4, ("airplane", "cat"))


def test_a_race_alternates_the_order_and_runs_both_contestants_with_each_seed():
    turns = []

    def contestant(name):
        return lambda seed, epochs: turns.append((name, seed)) or cifar10.Run(0.9, seed + 1.0, 2.0)

    own, other = cifar10.race(contestant("own"), contestant("other"), seeds=2, epochs=3)
    assert turns == [("other", 0), ("own", 0), ("own", 1), ("other", 1)]
    assert [run.training for run in own] == [run.training for run in other] == [1, 2]
    (training, user) = cifar10.table(own, other, "other").rows
    assert training.verdict == "at most 1.15: yes"
    assert user.pairs.own == [2, 2]


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_a_stored_table_has_at_least_nine_pairs_and_shows_their_median(path):
    page = path.with_suffix(".md").read_text()
    with path.open() as file:
        rows = list(csv.DictReader(file))
    groups = itertools.groupby(rows, key=lambda row: (row["table"], row["what"]))
    for (_, what), group in groups:
        members = list(group)
        times = [[float(row[key]) for row in members] for key in ("seconds", "reference_seconds")]
        assert len(members) >= 9
        lines = [line for line in page.splitlines() if line.startswith(f"| {what} |")]
        assert any(f"| {report.digits(Pairs(*times).ratio)} |" in line for line in lines), what

"""The benchmarks: their statistics, that they compare equals, and that each runs."""

import csv
import doctest
import itertools
import math
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

from benchmarks import (
    augment,
    channels_last,
    cifar10,
    imports,
    loops,
    mixing,
    pairs,
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
    ("n", "k"),  # from the table of the sign test: the k-th of n from each end, for 95 %
    [(6, 1), (8, 1), (9, 2), (11, 2), (12, 3), (15, 4), (20, 6), (25, 8), (50, 18)],
)
def test_the_interval_takes_the_values_that_the_sign_test_names(n, k):
    values = [float(v) for v in range(1, n + 1)]
    assert median_interval(values[::-1]) == (k, n + 1 - k)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_too_few_values_give_no_interval(n):
    assert all(math.isnan(end) for end in median_interval([1.0] * n))


def test_the_interval_holds_in_95_of_100_trials_even_for_skewed_numbers():
    draw = torch.Generator().manual_seed(0)
    samples = torch.rand(4000, 9, generator=draw).log().neg()  # exponential: the median is log 2
    caught = 0
    for row in samples.tolist():
        low, high = median_interval(row)
        caught += low <= math.log(2) <= high
    # 1 - 2 (1 + 9) / 2**9 = 0.961; 3.5 standard errors of 4000 trials are 0.011
    assert caught / 4000 == pytest.approx(0.961, abs=0.011)


def test_an_outlier_moves_neither_the_ratio_nor_the_interval():
    quiet = Pairs(own=[2.0] * 9, reference=[1.0] * 9)
    loud = Pairs(own=[2.0] * 8 + [200.0], reference=[1.0] * 9)
    assert (loud.ratio, loud.interval) == (quiet.ratio, quiet.interval) == (2.0, (2.0, 2.0))


# --- taking turns ---------------------------------------------------------------------------------


class Clock:
    """A clock that stands still until something takes its time."""

    def __init__(self):
        self.now, self.order = 0.0, ""

    def takes(self, name, cost):
        def turn(*_):
            self.now += cost
            self.order += name

        return turn


def test_turns_alternate_who_goes_first_and_the_first_round_does_not_count():
    clock = Clock()
    times = in_turn(clock.takes("r", 2.0), {"x": clock.takes("x", 3.0)}, 3, clock=lambda: clock.now)
    assert clock.order == "rx" + "xr" + "rx" + "xr"
    assert times["x"] == Pairs(own=[3.0] * 3, reference=[2.0] * 3)


def test_a_contestant_that_owns_its_loop_gives_a_pair_for_each_turn_but_the_first_and_the_last(
    monkeypatch,
):
    clock = Clock()
    monkeypatch.setattr(pairs, "process_time", lambda: clock.now)
    monkeypatch.setattr(pairs, "seconds", lambda turn: (turn(), 2.0)[1])
    turns = Turns(clock.takes("r", 2.0))
    for _ in range(5):
        turns("what", hooks="give")
        clock.takes("x", 3.0)()
    assert clock.order == "rx" * 5
    assert turns.pairs == Pairs(own=[3.0] * 3, reference=[2.0] * 3)


def test_a_goal_is_kept_or_missed_by_the_median():
    row = report.Row("x", Pairs(own=[2.0, 3.0, 9.0], reference=[1.0, 1.0, 1.0]), goal=3.0)
    assert row.verdict == "at most 3: yes"
    assert report.Row("x", row.pairs, goal=2.9).verdict == "at most 2.9: no"
    assert report.Row("x", row.pairs, goal=3.1, at_least=True).verdict == "at least 3.1: no"


# --- equals ---------------------------------------------------------------------------------------


def trained(train, regime, epochs=2):
    net = regime.net()
    train(net, regime.data(), epochs, lambda *_, **__: None)
    return list(net.parameters())


@pytest.mark.parametrize("name", ["Z", "T16"])
def test_cnnlab_computes_the_weights_of_the_bare_loop_to_the_bit(name, capsys):
    regime = replace(regimes.REGIMES[name], steps=8)
    bare, own = trained(loops.by_bare_loop, regime), trained(loops.by_cnnlab, regime)
    assert all(torch.equal(a, b) for a, b in zip(bare, own, strict=True))
    start = list(regime.net().parameters())
    assert not any(torch.equal(a, b) for a, b in zip(bare, start, strict=True))


THERE = [name for name, (module, _) in loops.PEERS.items() if find_spec(module)]


@pytest.mark.parametrize("name", THERE)
@pytest.mark.filterwarnings("default")  # the peers have their own ideas
def test_each_peer_computes_the_weights_of_the_bare_loop(name, capsys):
    regime = replace(regimes.REGIMES["Z"], steps=20)
    bare, own = trained(loops.by_bare_loop, regime), trained(loops.PEERS[name][1], regime)
    # Keras multiplies the rate into the momentum; the others differ by nothing.
    tolerance = {"rtol": 0, "atol": 1e-3 if "Keras" in name else 0}
    torch.testing.assert_close(own, bare, **tolerance)


def test_the_networks_have_the_sizes_that_their_names_say():
    sizes = {
        name: sum(p.numel() for p in regime.net().parameters())
        for name, regime in regimes.REGIMES.items()
    }
    assert sizes == {"Z": 90, "T16": 19258, "R": 175258}


def changes():
    setting = augment.Setting(size=32, pad=4, batch=64, full=True, rounds=1)
    there = [n for n, (module, _, _) in augment.PEERS.items() if find_spec(module)]
    makers = {name: augment.PEERS[name][1] for name in there} | {"cnnlab": augment.by_cnnlab}
    return [pytest.param(setting, by, id=name) for name, by in makers.items()]


@pytest.mark.parametrize(("setting", "by"), changes())
@pytest.mark.filterwarnings("default")
def test_every_contestant_changes_each_image_in_its_own_way(setting, by):
    torch.manual_seed(0)
    source = setting.images()[:1].expand(64, -1, -1, -1).contiguous()
    chosen = torch.arange(64)
    out = by(setting, source)(chosen)
    plain = augment.by_nobody(setting, source)(chosen)
    assert out.shape == plain.shape
    assert out.dtype == torch.float32
    assert len({image.numpy().tobytes() for image in out}) == 64
    # Black comes in at the border and nothing is scaled: the mean falls by a part of a deviation.
    assert -1.0 < float(out.mean() - plain.mean()) < 0.2


@pytest.mark.parametrize("name", mixing.contestants())
def test_every_mix_keeps_the_size_of_a_batch_and_most_give_targets_that_sum_to_one(name):
    images, labels = torch.rand(16, 3, 8, 8), torch.randint(mixing.CLASSES, (16,))
    before = images.clone()
    mixed, targets = mixing.contestants()[name](images, labels)
    assert mixed.shape == images.shape
    assert torch.equal(images, before)
    if "copy" not in name:
        torch.testing.assert_close(targets.sum(1), torch.ones(16))


def test_both_layouts_take_the_same_steps():
    make = channels_last.MODELS["small_resnet"]
    losses = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        model = make()
        channels_last.steps(lambda model=model: model, layout, 2)()
        losses.append([p.detach() for p in model.parameters()])
    torch.testing.assert_close(*losses, rtol=1e-3, atol=1e-4)


# --- every script runs ----------------------------------------------------------------------------

SCRIPTS = [trainer, augment, mixing, imports, channels_last]
ON_A_GPU = [cifar10]


@pytest.mark.parametrize("script", SCRIPTS + ON_A_GPU, ids=lambda m: m.__name__.partition(".")[2])
@pytest.mark.filterwarnings("default")
def test_the_short_mode_runs_and_writes_its_tables(script, tmp_path, capsys):
    tables = script.main(["--short", "--out", str(tmp_path)])
    name = script.__name__.partition(".")[2]
    page, shown = (tmp_path / f"{name}.md").read_text(), capsys.readouterr().out
    assert page in shown
    assert "torch 2" in page
    with (tmp_path / f"{name}.csv").open() as file:
        written = {(row["table"], row["what"]) for row in csv.DictReader(file)}
    assert written == {(table.title, row.what) for table in tables for row in table.rows}
    assert all(row.pairs.ratio > 0 for table in tables for row in table.rows)


def test_a_peer_that_is_missing_is_left_out_with_a_sentence(capsys):
    assert report.installed(["torch", "no_such_peer"], of="a test") == ["torch"]
    assert "no_such_peer not installed" in capsys.readouterr().out


STORED = sorted(report.RESULTS.glob("*.csv"))


def test_every_script_has_its_stored_table_but_those_that_need_a_gpu_may_wait_for_one():
    names, waiting = (
        {m.__name__.partition(".")[2] for m in group} for group in (SCRIPTS, ON_A_GPU)
    )
    assert names <= {path.stem for path in STORED} <= names | waiting


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_without_a_gpu_the_clock_of_cifar10_does_not_start():
    with pytest.raises(SystemExit, match="needs a GPU"):
        cifar10.main([])


def test_a_race_changes_who_goes_first_and_keeps_the_seeds_together():
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
def test_a_stored_table_has_nine_pairs_or_more_and_shows_their_median(path):
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

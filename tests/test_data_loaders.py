"""The order of the batches depends only on (seed, epoch), and so do their random transforms."""

import functools
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    random_split,
)

from cnnlab import Trainer, rng
from cnnlab.data import ImageSet, balanced_sampler, loader
from cnnlab.data.seeding import find_generators
from cnnlab.errors import DataError
from cnnlab.training.hooks import Callback


def numbers(n):
    """Return a data set whose items are their own indices."""
    return TensorDataset(torch.arange(n))


def images(n=10):
    pixels = torch.randint(0, 256, (n, 3, 4, 4), generator=rng.generator(3), dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(n) % 2, ("even", "odd"))


class Noisy(Dataset):
    """Items that draw from all three global generators, as transforms by other authors do."""

    def __init__(self, n=7, dies=False):
        self.n, self.dies, self.read = n, dies, []

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        if self.dies:
            os._exit(1)
        self.read.append(index)
        noise = torch.rand(()).item() + np.random.rand() + random.random()  # noqa: NPY002
        return torch.tensor(noise, dtype=torch.float64), index


def read(batches):
    return [x.tolist() for x, *_ in batches]


def global_states():
    numpy_state = str(np.random.get_state())  # noqa: NPY002
    return torch.get_rng_state().tolist(), numpy_state, random.getstate()


@given(
    n=st.integers(1, 40),
    batch_size=st.integers(1, 12),
    shuffle=st.booleans(),
    drop_last=st.sampled_from([None, False]),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 5),
)
@settings(deadline=None, max_examples=60)
def test_batches_are_the_epochs_permutation_cut_into_pieces(
    n, batch_size, shuffle, drop_last, seed, epoch
):
    batches = loader(numbers(n), batch_size, seed=seed, shuffle=shuffle, drop_last=drop_last)
    batches.seek(epoch)
    order = torch.randperm(n, generator=rng.generator(seed, epoch)).tolist()
    expected = order if shuffle else list(range(n))
    pieces = [expected[i : i + batch_size] for i in range(0, n, batch_size)]
    if shuffle and drop_last is None and len(pieces) > 1 and len(pieces[-1]) < batch_size:
        pieces.pop()
    assert len(batches) == len(pieces)
    assert read(batches) == pieces


@given(data=st.data(), n=st.integers(1, 30), batch_size=st.integers(1, 8))
@settings(deadline=None, max_examples=40)
def test_a_pass_started_at_batch_k_equals_the_end_of_the_whole_pass(data, n, batch_size):
    batches = loader(numbers(n), batch_size, shuffle=True)
    k = data.draw(st.integers(0, len(batches)))
    batches.seek(3)
    whole = read(batches)
    batches.seek(3, k)
    assert read(batches) == whole[k:]
    assert batches.epoch == 4


def test_each_epoch_and_each_seed_has_its_own_order():
    orders = {
        tuple(loader(numbers(30), 4, seed=seed, shuffle=True).indices(epoch).tolist())
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(orders) == 16


def test_the_epoch_advances_at_the_end_of_a_pass_not_at_its_start():
    batches = loader(numbers(9), 3, shuffle=True)
    first = next(iter(batches))
    assert (batches.epoch, first[0].tolist()) == (0, read(batches)[0])
    assert batches.epoch == 1
    assert read(batches) == read_epoch(1)
    batches.seek(5, 1)
    next(iter(batches))
    assert read(batches) == read_epoch(5)[1:]
    assert read(batches) == read_epoch(6)


def read_epoch(epoch):
    batches = loader(numbers(9), 3, shuffle=True)
    batches.seek(epoch)
    return read(batches)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_seek_during_a_pass_is_not_undone_by_the_end_of_that_pass(workers):
    batches = loader(Noisy(9), 3, shuffle=True, workers=workers)
    for number, _ in enumerate(batches):
        if number == 1:
            batches.seek(7)
    assert batches.epoch == 7


@pytest.mark.parametrize("workers", [0, 2])
def test_nested_passes_each_give_a_whole_epoch(workers):
    batches = loader(Noisy(4), 2, shuffle=True, drop_last=False, workers=workers)
    outer = []
    for _, indices in batches:
        outer += indices.tolist()
        assert sorted(i for _, inner in batches for i in inner.tolist()) == [0, 1, 2, 3]
    assert sorted(outer) == [0, 1, 2, 3]


@pytest.mark.parametrize("epoch", [0, 2])
def test_random_transforms_do_not_depend_on_the_number_of_workers(epoch):
    def epoch_of(workers):
        batches = loader(Noisy(), 3, seed=1, shuffle=True, workers=workers)
        batches.seek(epoch)
        return read(batches)

    assert epoch_of(0) == epoch_of(1) == epoch_of(2)


def test_random_transforms_differ_between_images_epochs_and_seeds():
    drawn = []
    for seed in range(3):
        batches = loader(Noisy(), 7, seed=seed)
        drawn += [value for _ in range(3) for batch in read(batches) for value in batch]
    assert len(set(drawn)) == 3 * 3 * 7


@pytest.mark.parametrize("workers", [0, 2])
def test_persistent_workers_draw_new_numbers_in_each_epoch(workers):
    batches = loader(Noisy(), 3, workers=workers)
    passes = [read(batches) for _ in range(3)]
    assert len({str(p) for p in passes}) == 3
    batches.seek(1)
    assert read(batches) == passes[1]


def test_the_numbers_of_a_random_transform_depend_on_seed_epoch_and_index():
    (values,) = read(loader(Noisy(), 7, seed=4))
    seed = rng.fold_in(4, 0, 2)
    from_torch = torch.rand((), generator=torch.Generator().manual_seed(seed)).item()
    from_numpy = np.random.RandomState(seed % 2**32).rand()
    assert values[2] == from_torch + from_numpy + random.Random(seed).random()


@pytest.mark.parametrize("workers", [0, 2])
def test_reading_does_not_change_the_global_generators(workers):
    before = global_states()
    list(loader(Noisy(), 3, shuffle=True, workers=workers))
    list(loader(Noisy(), 3, sampler=RandomSampler(range(7))))
    next(iter(loader(images(), 3, shuffle=True)))
    assert global_states() == before


def test_skipped_batches_are_not_loaded():
    dataset = Noisy(8)
    batches = loader(dataset, 2, shuffle=True)
    batches.seek(1, batch=3)
    list(batches)
    assert dataset.read == batches.indices(1)[6:].tolist()


@pytest.mark.parametrize(
    "wrap",
    [lambda d: d, lambda d: Subset(d, [7, 1, 4, 4, 0]), lambda d: random_split(d, [4, 6])[0]],
)
def test_whole_batches_equal_single_items_stacked(wrap):
    dataset = wrap(images())
    batches = loader(dataset, 3, shuffle=True, drop_last=False)
    pixels, labels = (torch.cat(tensors) for tensors in zip(*batches, strict=True))
    items = [dataset[i] for i in batches.indices(0).tolist()]
    assert torch.equal(pixels, torch.stack([image for image, _ in items]))
    assert pixels.dtype == torch.float32
    assert labels.tolist() == [label for _, label in items]
    assert labels.dtype == torch.int64


def test_nested_subsets_are_read_correctly():
    dataset = Subset(Subset(numbers(10), [9, 8, 7, 6]), [2, 0])
    assert read(loader(dataset, 2)) == [[7, 9]]


def test_a_subset_counts_from_the_end_as_a_list_does_and_refuses_what_is_not_there():
    dataset = Subset(Subset(numbers(10), [9, 8, 7, 6]), [-1, 0])
    assert read(loader(dataset, 4)) == [[6, 9]]
    for index in (4, -5):
        with pytest.raises(DataError, match=f"index {index} of a data set with 4 items"):
            loader(Subset(Subset(numbers(10), [9, 8, 7, 6]), [0, index]), 2)


def test_the_getitem_of_a_subclass_is_used():
    class Negative(ImageSet):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return -image, label

    plain = images()
    negative = Negative(plain.images, plain.labels, plain.classes)
    (batch,), (negated,) = loader(plain, 10), loader(negative, 10)
    assert torch.equal(negated[0], -batch[0])


def test_batches_of_a_tensor_dataset_keep_their_types():
    dataset = TensorDataset(torch.arange(6, dtype=torch.uint8), torch.ones(6, 2))
    x, y = next(iter(loader(dataset, 4)))
    assert (x.dtype, y.shape) == (torch.uint8, (4, 2))


def test_data_is_moved_to_the_device_and_indexed_there():
    batches = loader(images(), 3, shuffle=True, device="meta")
    pixels, labels = next(iter(batches))
    assert (pixels.device.type, labels.device.type, pixels.shape) == ("meta", "meta", (3, 3, 4, 4))
    (x, _), *_ = loader(Noisy(), 3, device="meta")
    assert x.device.type == "meta"


def test_an_ordered_loader_reads_everything_once_in_data_set_order():
    batches = loader(numbers(10), 4, shuffle=True)
    list(batches)
    ordered = batches.ordered()
    assert read(ordered) == read(ordered) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert (batches.epoch, len(batches), len(ordered)) == (1, 2, 3)


def test_an_ordered_loader_keeps_a_sampler_and_always_gives_its_first_epoch():
    batches = loader(numbers(9), 4, sampler=SubsetRandomSampler([5, 6, 7, 8, 0]))
    once = read(batches.ordered())
    list(batches)
    batches.seek(3, 1)
    assert read(batches.ordered()) == once
    assert sorted(chain(*once)) == [0, 5, 6, 7, 8]


@pytest.mark.parametrize(
    "sampler",
    [
        RandomSampler(range(9)),
        RandomSampler(range(9), generator=torch.Generator().manual_seed(1)),
        WeightedRandomSampler([0.1] * 8 + [5.0], 9),
        balanced_sampler([0, 0, 0, 0, 0, 0, 0, 1, 1]),
    ],
    ids=["random", "own generator", "weighted", "balanced"],
)
def test_every_sampler_depends_only_on_seed_and_epoch(sampler):
    batches = loader(numbers(9), 3, sampler=sampler)
    passes = [read(batches) for _ in range(4)]
    assert len({str(p) for p in passes}) > 1
    batches.seek(2, 1)
    assert read(batches) == passes[2][1:]


def test_the_generator_of_a_sampler_is_not_changed():
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    list(loader(numbers(9), 3, sampler=RandomSampler(range(9), generator=generator)))
    assert torch.equal(generator.get_state(), before)
    assert generator.initial_seed() == 1


@pytest.mark.parametrize(
    "indices", [[3, 1, 1], range(2, 5), torch.tensor([4, 0, 2]), np.array([2])]
)
def test_a_sequence_of_indices_is_read_in_its_order(indices):
    batches = loader(numbers(5), 2, sampler=indices, drop_last=False)
    assert list(chain(*read(batches))) == [int(i) for i in indices]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be 1 or more, got 0"),
        (
            {"batch_size": 6, "drop_last": True},
            "5 images are less than one batch of 6.*batch_size=5 or less",
        ),
        ({"batch_size": 2, "shuffle": True, "sampler": [1]}, "sampler determines the order"),
        ({"batch_size": 2, "sampler": [1, 5]}, "from 1 to 5, but the data set has 5 images"),
        ({"batch_size": 2, "sampler": []}, "selects none of the 5 images"),
    ],
)
def test_impossible_arguments_are_an_error_that_says_what_to_do(arguments, message):
    with pytest.raises(ValueError, match=message):
        loader(numbers(5), **arguments)


def test_data_without_length_or_items_is_an_error():
    class Endless(IterableDataset):
        def __iter__(self):
            return iter(())

    with pytest.raises(TypeError, match="Endless has no length"):
        loader(Endless(), 2)
    with pytest.raises(ValueError, match="empty"):
        loader(numbers(0), 2)
    with pytest.raises(TypeError, match=r"one integer per image, got torch\.float32"):
        loader(numbers(5), 2, sampler=torch.tensor([0.5]))


def test_seeking_beyond_the_epoch_is_an_error():
    with pytest.raises(ValueError, match="an epoch has 3 batches"):
        loader(numbers(9), 3).seek(0, 4)


def test_the_death_of_a_worker_is_a_data_error():
    with pytest.raises(DataError, match="workers=0"):
        list(loader(Noisy(dies=True), 3, workers=1))


def test_the_only_batch_is_kept_even_if_it_is_too_small():
    assert [len(x) for (x,) in loader(numbers(3), 8, shuffle=True)] == [3]


def test_torchs_own_loader_reads_our_data_sets():
    x, y = next(iter(DataLoader(images(), 4)))
    ours = next(iter(loader(images(), 4)))
    assert torch.equal(x, ours[0])
    assert torch.equal(y, ours[1])


class OwnGenerators(Dataset):
    """Noise from generators that the data set and its transforms hold, which is common."""

    def __init__(self, n=8):
        self.n, self.draw = n, np.random.default_rng(0)
        self.transforms = [functools.partial(self.add, torch.Generator().manual_seed(0))]
        self.old, self.plain = np.random.RandomState(0), random.Random(0)

    def __len__(self):
        return self.n

    def add(self, generator, x):
        return x + torch.rand((), generator=generator, dtype=torch.float64)

    def __getitem__(self, index):
        x = torch.tensor(self.draw.random() + self.old.rand() + self.plain.random())
        return self.transforms[0](x), index


def test_a_generator_in_the_data_set_draws_new_numbers_in_each_worker_and_epoch():
    def drawn(workers):
        batches = loader(OwnGenerators(), 2, workers=workers)
        return [value for _ in range(3) for batch in read(batches) for value in batch]

    without_workers = drawn(0)
    assert len(set(without_workers)) == 24
    assert drawn(2) == without_workers


def test_every_kind_of_generator_is_found_and_not_changed():
    dataset = OwnGenerators()
    before = dataset.draw.bit_generator.state, dataset.plain.getstate()
    list(loader(Subset(dataset, range(6)), 2))
    assert (dataset.draw.bit_generator.state, dataset.plain.getstate()) == before
    generators = find_generators(Subset(dataset, range(6)))
    assert {type(g).__name__ for g in generators} == {"Generator", "RandomState", "Random"}
    assert len(generators) == 4


def test_the_generator_behind_a_method_in_a_partial_is_found():
    class Noise:
        def __init__(self):
            self.draw = np.random.default_rng(0)

        def add(self, strength, x):
            return x + strength * self.draw.random()

    noise = Noise()
    assert find_generators({"transform": functools.partial(noise.add, 0.1)}) == [noise.draw]


class Faulty(Noisy):
    """Item 20 fails in the given way."""

    def __init__(self, fail):
        super().__init__(40)
        self.fail = fail

    def __getitem__(self, index):
        if index == 20:
            self.fail()
        return super().__getitem__(index)


def die():
    os._exit(1)


def be_killed():
    os.kill(os.getpid(), signal.SIGBUS)


def raise_error():
    raise ValueError("a broken file")


def fill_shared_memory():
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # the next tensor does not fit


@pytest.mark.parametrize(
    ("fail", "kind", "message"),
    [
        (die, DataError, "a worker process died; use workers=0"),
        (be_killed, DataError, "workers=0"),
        (fill_shared_memory, DataError, "memory that worker processes share"),
        (raise_error, ValueError, "a broken file"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_failing_worker_is_explained_and_no_process_is_left(fail, kind, message):
    others = set(multiprocessing.active_children())
    with pytest.raises(kind, match=message) as kept:  # as a notebook keeps the traceback
        list(loader(Faulty(fail), 2, workers=2))
    deadline = time.monotonic() + 5
    while set(multiprocessing.active_children()) - others and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not set(multiprocessing.active_children()) - others
    assert kept


NOTEBOOK = """
import multiprocessing
import torch
from cnnlab.data import loader
from cnnlab.errors import DataError

class Mine(torch.utils.data.Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, index):
        return torch.tensor(index), index

multiprocessing.set_start_method("spawn")
print(len(list(loader(Mine(), 2))))
try:
    list(loader(Mine(), 2, workers=1))
except DataError as error:
    print(error)
"""


def test_a_class_in_a_notebook_is_an_error_for_workers_that_cannot_import_it():
    run = [sys.executable, "-c", NOTEBOOK]  # a main module without a file, as a notebook has
    done = subprocess.run(run, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.startswith("2\nMine is defined in this notebook")
    assert "Use workers=0, or move the class to a .py file" in done.stdout


SCRIPT = """
import multiprocessing, sys
import numpy as np
from cnnlab.data import loader

class Draws:
    def __init__(self):
        self.draw = np.random.default_rng(0)
    def __len__(self):
        return 4
    def __getitem__(self, index):
        return self.draw.random(), index

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    print([x.tolist() for x, _ in loader(Draws(), 2, workers=int(sys.argv[2]))])
"""


@pytest.mark.slow
def test_workers_that_start_as_new_processes_give_the_same_numbers(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    outputs = set()
    for kind, workers in (("fork", "0"), ("spawn", "1")):
        run = [sys.executable, script, kind, workers]
        outputs.add(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    assert len(outputs) == 1


# --- what a data set can do wrong -----------------------------------------------------------------


class Endless(Dataset):
    """Item 5 reads from an iterator that has ended."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return next(iter(())) if index == 5 else (torch.zeros(3, 8, 8), index)


class Pictures(Dataset):
    """PIL images, or arrays of different sizes, or items of different lengths."""

    def __init__(self, kind):
        self.kind = kind

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if self.kind == "PIL":
            return Image.new("RGB", (8, 8)), index
        if self.kind == "lengths":
            return (torch.zeros(3, 8, 8), index)[: 1 + index % 2]
        if self.kind == "None":
            return (torch.zeros(3, 8, 8) if index else None), index
        size = 8 + index % 3
        image = torch.zeros(3, size, 8)
        return (image.numpy() if self.kind == "numpy" else image), index


def linear():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 9))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Trainer(model, optimizer, device="cpu", progress=False)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_item_that_raises_stop_iteration_is_named(workers):
    with pytest.raises(DataError, match=r"^item 5 of the data set \(Endless\) raised StopItera"):
        list(loader(Endless(), 2, workers=workers))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("use", ["fit", "evaluate", "predict"])
def test_an_item_that_raises_stop_iteration_does_not_end_an_epoch_of_torchs_loader(workers, use):
    batches = DataLoader(Endless(), 2, num_workers=workers)
    trainer = linear()
    with pytest.raises(DataError, match=r"item in batch 2 of the data set \(Endless\) raised Stop"):
        trainer.fit(batches, epochs=1) if use == "fit" else getattr(trainer, use)(batches)


EXPLAINED = {
    "PIL": r"PIL images, which can't be stacked.*transforms\.ToTensor\(\)",
    "sizes": r"shapes, such as \(3, 8, 8\) and \(3, 9, 8\).*transforms\.Resize",
    "numpy": r"shapes, such as \(3, 8, 8\) and \(3, 9, 8\).*transforms\.Resize",
    "lengths": r"different lengths, \[1, 2\]: return \(image, label\)",
    "None": "contains None",
}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", EXPLAINED)
def test_items_that_cannot_be_stacked_are_explained_in_a_sentence(kind, workers):
    with pytest.raises(DataError, match=EXPLAINED[kind]) as caught:
        list(loader(Pictures(kind), 4, workers=workers))
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("kind", ["PIL", "sizes"])
def test_items_of_torchs_loader_are_explained_too(kind):
    for use in (lambda x: linear().fit(x, epochs=1), lambda x: linear().evaluate(x)):
        with pytest.raises(DataError, match=r"ToTensor|Resize"):
            use(DataLoader(Pictures(kind), 4))


def test_the_states_of_the_generators_are_read_once_a_batch(monkeypatch):
    reads = []
    get_state = np.random.get_state
    monkeypatch.setattr(np.random, "get_state", lambda *args: reads.append(0) or get_state(*args))
    list(loader(Noisy(12), 4))
    assert len(reads) == 3


def test_a_loader_is_whole_after_a_resumed_fit_was_interrupted():
    dataset = TensorDataset(torch.zeros(24, 192), torch.arange(24) % 9)

    class Stop(Callback):
        at = 2

        def on_step_end(self, run):
            if run.step == self.at:
                raise KeyboardInterrupt

    def make():
        model = torch.nn.Linear(192, 9)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return Trainer(
            model, optimizer, device="cpu", progress=False, callbacks=[stop := Stop()]
        ), stop

    batches = loader(dataset, 4, shuffle=True)
    trainer, stop = make()
    for at in (2, 3):  # the second time in the middle of the epoch that was continued
        stop.at = at
        with pytest.raises(KeyboardInterrupt):
            trainer.fit(batches, epochs=1)
    assert trainer.step == 3
    assert batches.epoch == 0
    assert len(list(batches)) == 6


UNGUARDED = """
import multiprocessing, sys
import torch
from torch.utils.data import Dataset
from cnnlab.data import loader

class Mine(Dataset):
    def __init__(self, function):
        self.function = function
    def __len__(self):
        return 4
    def __getitem__(self, index):
        return torch.tensor(self.function(index)), index

multiprocessing.set_start_method("spawn", force=True)
list(loader(Mine(abs), 2, workers=1))
"""

GUARDED = """
if __name__ == "__main__":
    for function in (lambda i: i, type("Local", (), {"__call__": lambda self, i: i})()):
        try:
            list(loader(Mine(function), 2, workers=1))
        except Exception as error:
            print(type(error).__name__, error)
    print(len(list(loader(Mine(abs), 2, workers=1))))
"""


def run_script(tmp_path, text):
    script = tmp_path / "my_training.py"
    script.write_text(text)
    run = [sys.executable, script]
    return subprocess.run(run, capture_output=True, text=True, check=False, timeout=120)


def test_a_script_without_a_main_guard_is_told_so_before_any_worker_starts(tmp_path):
    done = run_script(tmp_path, UNGUARDED)
    assert done.returncode == 1
    assert 'my_training.py does under if __name__ == "__main__":, or use workers=0' in done.stderr
    assert done.stderr.count("Traceback") == 1


def test_what_cannot_be_sent_to_workers_is_named(tmp_path):
    body = UNGUARDED.replace("list(loader(Mine(abs), 2, workers=1))", "")
    done = run_script(tmp_path, body + GUARDED)
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["DataError", "DataError", "2"], done.stderr
    for line in lines[:2]:
        assert "the data set can't be sent to worker processes" in line
        assert "use workers=0" in line

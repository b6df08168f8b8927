# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 12. Faster and bigger
#
# In October 2024, Benjamin Marie reported that fine-tuning runs got worse when each batch was cut into small pieces to
# save memory. Mathematically, the training should be the same. Daniel and Michael Han, the brothers behind the library
# Unsloth, tracked it down. The losses of the pieces were combined with the wrong weights, in their own code, in Hugging
# Face's `transformers`, and in many other trainers. The mistake had been described in 2021, and it survived because
# nothing crashes and the loss still falls ([Unsloth](https://unsloth.ai/blog/gradient), [Hugging
# Face](https://huggingface.co/blog/gradient_accumulation)). In 12.3 you'll repair it.
#
# That's the risk of this whole chapter. Every technique promises the same training in less time or memory. So we ask
# two questions about each: how much does it save *here*, and is it really the same training?
#
# **You will be able to** time a step with the right clock, keep a network supplied with data, split a batch without
# changing its gradient, train in sixteen bits, work out when compiling pays off, and train with several processes.
#
# | | |
# |---|---|
# | to read | 50 minutes, with the code |
# | exercises | 75 minutes, and 40 for the code review at the end |
# | to run | 30 seconds on one core of a laptop; no internet, no GPU |
# | you need | chapter 1; chapter 7 helps, for clipping |

# %% tags=["setup"]
import logging
import math
import os
import statistics
import subprocess
import sys
import time
from functools import lru_cache
from time import perf_counter, process_time

# Two libraries would otherwise print notes about missing GPUs.
os.environ["KINETO_LOG_LEVEL"] = "99"
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)

import pandas as pd
import torch
import torch.distributed as dist
import torch.nn.functional as F
from studies.common import (
    RandomDraws,
    correct_predictions,
    cpu_trainer,
    run_in_processes,
    seeded_resnet,
    sgd,
    train_in_precision,
)
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils import benchmark
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    TensorDataset,
)

import cnnlab
from cnnlab import check, diagrams, plots
from cnnlab.augment import Augment
from cnnlab.averaging import EMA
from cnnlab.experiment import (
    Claim,
    Declaration,
    Results,
    compare_declared,
    fresh_data,
)

lab = cnnlab.setup(seed=0)
data = cnnlab.load("pocket", n_train=480, n_valid=480, n_test=96)
K = len(data.classes)  # twelve classes
images, labels = next(
    iter(cnnlab.loader(data.train, 64, shuffle=True, seed=10))
)

# %% [markdown]
# ## 12.1 Three clocks
#
# Before you make anything faster, find out what is slow. Python has two clocks for that. `time.perf_counter()` measures
# **wall-clock time**: how long you wait, as a clock on the wall would show it. `time.process_time()` measures
# **processor time**. It counts the seconds that processor cores have worked for this process, added up over its
# threads.
#
# ### Predict
#
# A step waits for 50 ms, as it might for a disk, and computes nothing. How many milliseconds does `process_time` show?

# %% tags=["predict"]
my_processor_ms = ...  # a number of milliseconds


# %% tags=["experiment"]
def wait():
    time.sleep(0.05)


def work_elsewhere():
    """Start another Python process, which computes for a while."""
    code = "sum(range(2_000_000))"
    subprocess.run([sys.executable, "-c", code], check=True)


network = seeded_resnet(0)


def forward():
    network(images)


for step in (wait, work_elsewhere, forward):
    wall, processor = perf_counter(), process_time()
    step()  # called for the first time
    wall, processor = perf_counter() - wall, process_time() - processor
    timer = benchmark.Timer("step()", globals={"step": step})
    repeated = timer.blocked_autorange(min_run_time=0.1)
    if step is wait:
        processor_ms = round(1000 * processor)
    print(step.__name__)
    print(f"  perf_counter:  {1000 * wall:.1f} ms")
    print(f"  process_time:  {1000 * processor:.1f} ms")
    print(f"  Timer, median: {1000 * repeated.median:.1f} ms")

# %% tags=["check"]
check.prediction(
    "What does process_time show for a wait of 50 ms?",
    my_processor_ms,
    processor_ms,
    within=5,
    unit="ms",
)

# %% [markdown]
# **Processor time doesn't see waiting**, and it doesn't see other processes. If four worker processes load your data,
# it reports loading as nearly free. And because it adds up threads, a step on eight threads can look up to eight times
# as long as it is. So time training with `perf_counter`.
#
# The wall clock also counts the time that your program waits for others. That's why you leave out a warm-up (the first
# call allocates memory and chooses algorithms), repeat the measurement, and take the median.
# `torch.utils.benchmark.Timer`, in the third column, does this for a single function, on one thread. On a busy machine,
# processor time is a good second opinion if one thread of one process does all the work. That's how we timed the steps
# in 12.2 and 12.5.
#
# On a GPU, a call returns *before* its work is done. `torch.cuda.synchronize()` waits for the work. Without it you
# measure how fast Python queues the work.
#
# ### Exercise 1: `time_variants` (medium, 15 minutes)
#
# Compare several ways to take a step. `variants` is a dictionary of functions. First call each once as a warm-up. Then
# run `rounds` rounds; in each round, every variant is called and timed once, in the order of the dictionary. They
# alternate so that a slow minute of the machine hits all of them. Call `synchronize()` right before you read `clock()`,
# every time. Return a dictionary with the median seconds of each variant.
#
# <details>
# <summary><b>Hint: the order of the calls is wrong</b></summary>
#
# With two variants and three rounds it should be a b, a b, a b, a b. The first pair is the warm-up.
#
# </details>
#
# <details>
# <summary><b>Hint: the clock is read too early</b></summary>
#
# After the warm-up the device may still be working. Does your first reading of the clock wait for it?
#
# </details>


# %% tags=["exercise"]
def time_variants(variants, rounds, clock, synchronize):
    """Return the median seconds of each variant by its name."""
    raise NotImplementedError


# %% tags=["check"]
check.time_variants(time_variants)


# %% tags=["solution", "hide-cell"]
# Solution
def time_variants(variants, rounds, clock, synchronize):
    """Return the median seconds of each variant by its name."""
    for step in variants.values():
        step()
    times = {name: [] for name in variants}
    for _ in range(rounds):
        for name, step in variants.items():
            synchronize()
            start = clock()
            step()
            synchronize()
            times[name].append(clock() - start)
    return {name: statistics.median(times[name]) for name in variants}


check.time_variants(time_variants)

# %% [markdown]
# ## 12.2 Feeding the network
#
# A training step has four parts: get the batch, forward, backward, update the weights. To time them, read the clock
# between them. As an example, take the light augmentation of chapter 3, a flip and a shift. You can do it in two ways.
# **In whole batches**: the images are in memory, one indexing operation makes a batch, and `Augment` changes all 64
# images at once, each in its own way. **One image at a time**: a data set returns image number $i$ on request,
# augmented, and a loader stacks 64 of them. Most tutorials do the latter.


# %%
class OneAtATime(Dataset):
    """Return one augmented image at a time, as a data set of files does."""

    def __init__(self, split, augment):
        self.split, self.augment = split, augment

    def __len__(self):
        return len(self.split)

    def __getitem__(self, index):
        image, label = self.split[index]
        return self.augment(image[None])[0], label


LIGHT = Augment(flip=0.5, crop_pad=4)
PARTS = ("data", "forward", "backward", "optimizer")


def time_parts(batches, transform, steps=5):
    """Return the median milliseconds of each part of a training step."""
    model = seeded_resnet(0)
    optimizer = sgd(model, 0.05)
    times = {part: [] for part in PARTS}
    source = iter(batches)
    for _ in range(min(steps, len(batches))):
        clock = [perf_counter()]
        x, y = next(source)
        x = transform(x)
        clock.append(perf_counter())
        loss = F.cross_entropy(model(x), y)
        clock.append(perf_counter())
        loss.backward()
        clock.append(perf_counter())
        optimizer.step()
        optimizer.zero_grad()
        clock.append(perf_counter())
        for part, start, end in zip(PARTS, clock, clock[1:], strict=False):
            times[part].append(1000 * (end - start))
    return {part: statistics.median(ms) for part, ms in times.items()}


in_memory = cnnlab.loader(data.train, 64, shuffle=True)
one_at_a_time = cnnlab.loader(OneAtATime(data.train, LIGHT), 64, shuffle=True)
time_parts(in_memory, LIGHT)  # a warm-up
plots.parts(
    {
        "whole batches": time_parts(in_memory, LIGHT),
        "one image at a time": time_parts(one_at_a_time, nn.Identity()),
    },
    label="time of a step",
    unit="ms",
    message="The four parts of a training step on this machine.",
)

# %% [markdown]
# These milliseconds are from *your* machine, so we make no claim about them. How much do you gain if you make one part
# faster? If a part takes the fraction $p$ of the time and becomes $s$ times as fast, the whole step becomes
#
# $$ \frac{1}{(1 - p) + p / s} $$
#
# times as fast (Amdahl [1967](https://doi.org/10.1145/1465482.1465560)). A part that takes 4 % of the time isn't worth
# your afternoon, because even removing it gains only 4 %. If a part takes 80 % and you make it twice as fast, the whole
# step is 1.7 times as fast.
#
# To see what happens inside forward and backward, let `torch.profiler` record every operation. (The first time, it
# takes some seconds to start.)
#
# ```python
# with torch.profiler.profile() as recorded:
#     F.cross_entropy(model(images), labels).backward()
# print(recorded.key_averages().table(sort_by="self_cpu_time_total"))
# recorded.export_chrome_trace("trace.json")
# ```
#
# In the table, look for the operations that take most of the time. In our networks they are the convolutions. The trace
# opens at [ui.perfetto.dev](https://ui.perfetto.dev) as a timeline, which shows most clearly when a GPU waits for data.
#
# Your machine is probably busy with other things as well, so here are the times of one that wasn't. The study
# `studies/12_steps.py` compared eight ways to take a step, on one thread.

# %% tags=["experiment"]
steps = Results.load("studies/12_steps.csv")
print(steps.notes["machine"], "|", steps.notes["date"])
print(steps.claim("plain, again", "~", "plain", by=0.1))
print(steps.verdict("one image at a time", ">", "plain, again", by=0.2))
print(
    steps.verdict(
        "Augment, one image at a time", ">", "Augment, whole batches", by=1
    )
)
print(steps.claim("Augment, whole batches", "~", "plain, again", by=0.15))
steps.plot(
    label="time of a step / time of a plain step",
    message="Augmenting one image at a time slows a step down more than "
    "anything else.",
)

# %% [markdown]
# The plain step was timed twice, and the two times differ by 1 %, so we can trust differences of a few per cent.
# Augmenting whole batches costs 7 % of a plain step. Fetching one image at a time costs 14 % even without augmentation.
# Augmenting one image at a time instead of whole batches costs 80 % of a plain step.
#
# The last two differences are clear, and yet their claims failed. We had declared margins of 20 % and 100 %, because a
# first study had shown 48 % and 180 %, on a slower machine that had other work to do. **The size of a speed-up belongs
# to a machine**, so measure on yours.
#
# If you augment one image at a time, that takes 47 % of the step. By Amdahl's law, free loading would make such a step
# 1.9 times as fast.
#
# The work on the pixels is the same either way. The cost is in Python: every image needs about a dozen calls, and each
# call has an overhead of microseconds, whether it works on the three thousand values of one image or on the two hundred
# thousand of a batch. The larger the images, the less this overhead matters.
#
# ### Workers
#
# If the images don't fit into memory, you have to load them one at a time, because each must be read and decoded. Then
# let other processes do it. `DataLoader(..., num_workers=4)` (in `cnnlab`, `loader(..., workers=4)`) starts four
# **worker processes**, which prepare the next batches while the network trains on this one.

# %%
diagrams.workers()

# %% [markdown]
# With $w$ workers on free cores, a step takes, at best,
#
# $$ \max\!\left( t_{\mathrm{train}}, \; \frac{t_{\mathrm{data}}}{w} \right)
# \quad\text{instead of}\quad t_{\mathrm{train}} + t_{\mathrm{data}} . $$
#
# ### Predict
#
# The study `studies/12_workers.py` waits 3 ms for each of the 64 images of a batch, as for a slow disk. Training on the
# batch takes about 11 ms. With *one* worker, what fraction of the time without workers does an epoch take?

# %% tags=["predict"]
my_one_worker = ...  # between 0 and 1

# %% tags=["experiment"]
workers = Results.load("studies/12_workers.csv")
one_worker = workers.values("waits, 1 worker").mean()
print(workers.verdict("waits, 1 worker", "<", "waits, 0 workers", by=0.05))
print(workers.claim("waits, 2 workers", "<", "waits, 1 worker", by=0.1))
print(
    workers.claim("computes, 2 workers", "<", "computes, 0 workers", by=0.1)
)
processor = workers.on("processor_ratio")
print(processor.claim("computes, 4 workers", ">", "computes, 0 workers"))
workers.plot(
    label="elapsed time / elapsed time without workers",
    message="Waiting overlaps in any number of workers; computing needs a "
    "core for each.",
)

# %% tags=["check"]
check.prediction(
    "What fraction of the time does an epoch take with one worker?",
    my_one_worker,
    one_worker,
)

# %% [markdown]
# One worker saves 1.5 %, less than the 5 % that we had declared. Without workers a batch costs $192 + 11$ ms. A single
# worker still has to wait for every image itself, and 192 of 203 ms is 95 %. The formula is a best case. Here an epoch
# has only four batches, none of them is loaded before the epoch begins, and the workers have to be started.
#
# Two workers wait at the same time, so an epoch takes 53 % of the time. Four take 34 %, although the formula says 24 %:
# each of them loads one batch of the epoch, so training still waits 192 ms for the first one.
#
# Waiting needs no processor, so it overlaps even on one core. Computing needs a core of its own, and this machine has
# two. Two computing workers take 57 % of the time, and four aren't faster (59 %). Workers don't make computing cheaper
# either: with four of them, all processes together use 9 % more processor time.
#
# ### What else a loader can do
#
# | option of `DataLoader` | what it does | when |
# |---|---|---|
# | `num_workers=4` | loads in four processes | files; free cores |
# | `persistent_workers=True` | keeps the workers from one epoch to the next | short epochs, most of all where starting a process takes seconds: on macOS and Windows, and on Linux since Python 3.14 |
# | `prefetch_factor=2` | each worker prepares this many batches ahead (2 is the default) | loading times that vary a lot |
# | `pin_memory=True` | puts batches into memory from which the GPU copies directly; `.to(device, non_blocking=True)` then copies while the GPU computes | GPU |
#
# ### Random numbers in workers
#
# Chapter 7 began with a bug: every worker drew the same random numbers, so their augmentations were copies.
# `RandomDraws` in `studies/common.py` draws a random number for each image in four ways. The fourth is a generator of
# its own, made once, in the `__init__` of the data set. Here are the draws for the first image of each of two workers.

# %% tags=["experiment"]
seeded = torch.Generator().manual_seed(0)
first, second = DataLoader(
    RandomDraws(n=2), batch_size=None, num_workers=2, generator=seeded
)
for name in first:
    print(f"{name:14} {first[name]:.4f}  {second[name]:.4f}")

# %% [markdown]
# Only the data set's own generator repeats itself. Before PyTorch 1.9 (2021), `np.random` was copied too, and most
# warnings on the internet are about that. Today `DataLoader` seeds `random`, `torch` and `np.random` differently in
# each worker. How would you repair a generator that you keep in the data set?
#
# <details>
# <summary><b>Answer</b></summary>
#
# `DataLoader` can't seed it. Make the generator in a `worker_init_fn`, with `torch.initial_seed()`, which differs
# between workers. Or derive it from the epoch and the image's index. `cnnlab.loader` does the latter, so its batches
# don't depend on the number of workers.
#
# </details>
#
# **What would change it.** A GPU makes $t_{\mathrm{train}}$ many times shorter, so loading on the CPU becomes the
# bottleneck. The fastest recipes for small images keep the whole data set on the GPU and augment it there, in whole
# batches. Larger data sets are stored in a few large files (WebDataset, FFCV) instead of a million small ones, or
# decoded on the GPU (NVIDIA DALI).
#
# ## 12.3 A batch that doesn't fit
#
# For the backward pass, most layers store their inputs. In a CNN, these **activations** fill the memory, not the
# weights, and they grow with the batch. If a batch doesn't fit, cut it into **microbatches** and pass them through the
# network one after the other. Their gradients add up in `.grad`, as they always do until you clear them, and you take
# the step at the end. This is **gradient accumulation**. If $L_j$ is the mean loss of microbatch $j$ with $n_j$ of the
# $N$ images, then
#
# $$ L = \frac{1}{N} \sum_{i=1}^{N} \ell_i = \sum_j \frac{n_j}{N} \, L_j, \qquad
# \nabla L = \sum_j \frac{n_j}{N} \, \nabla L_j . $$
#
# So each microbatch has the weight $n_j / N$, its fraction of the batch. The next cell counts what PyTorch keeps for
# the backward pass, and draws an example of the weights. (Ignore the column for bfloat16 until 12.4.)


# %% tags=["experiment"]
def stored_megabytes(n, dtype=None):
    """Return the MiB that a forward pass of n images keeps for backward."""
    model = seeded_resnet(0)
    weights = {p.data_ptr() for p in model.parameters()}
    sizes = {}

    def note_size(tensor):  # called for each tensor that PyTorch keeps
        if tensor.data_ptr() not in weights:
            memory = tensor.untyped_storage()
            sizes[memory.data_ptr()] = memory.nbytes()
        return tensor

    def as_it_is(tensor):
        return tensor

    x, y = torch.zeros(n, 3, 32, 32), torch.zeros(n).long()
    autocast = torch.autocast("cpu", dtype, enabled=dtype is not None)
    with saved_tensors_hooks(note_size, as_it_is), autocast:
        loss = F.cross_entropy(model(x), y)
    del loss
    return sum(sizes.values()) / 2**20


for n in (256, 64, 16, 1):
    sizes = stored_megabytes(n), stored_megabytes(n, torch.bfloat16)
    print(f"{n:4} images: {sizes[0]:5.2f} MiB, ", end="")
    print(f"{sizes[1]:5.2f} MiB in bfloat16 (12.4)")
diagrams.accumulation()

# %% [markdown]
# Microbatches of 16 need a sixteenth of the activation memory of 256 images. Much code divides by the number of
# microbatches instead of weighting each by its size. Here are the usual lines, with microbatches of the loader's size,
# in groups of `k`:
#
# ```python
# for i, (images, labels) in enumerate(loader):
#     loss = F.cross_entropy(model(images), labels) / k
#     loss.backward()
#     if (i + 1) % k == 0:
#         optimizer.step()
#         scheduler.step()
#         optimizer.zero_grad()
# ```
#
# That's correct as long as all microbatches have the same size and the number of batches is a multiple of `k`. If it
# isn't a multiple, the last gradients of an epoch are left in `.grad` and slip into the next epoch's first step. And if
# one microbatch is short, `1 / k` is the wrong weight for it. The last line of the diagram shows what that does to 10
# images in microbatches of 4, 4 and 2.
#
# ### Exercise 2: `accumulate` (medium, 20 minutes)
#
# Take **one** optimizer step on a batch of $N$ images, of which at most `size` pass through the model at a time; `size`
# need not divide $N$. Take the step that the mean loss over the whole batch would give, but use no more memory than one
# microbatch needs, so run its backward pass before the next one's forward pass. `loss_fn(logits, labels)` is a mean
# over images. There may be old gradients in `.grad`. Return the mean loss of the batch as a plain number.
#
# <details>
# <summary><b>Hint: correct if size divides N, and wrong otherwise</b></summary>
#
# The last microbatch is shorter. How much should one of its images count, compared with an image in another one?
#
# </details>
#
# <details>
# <summary><b>Hint: the gradient is correct, but the memory isn't</b></summary>
#
# A loss that waits for its `backward()` keeps all the activations of its microbatch.
#
# </details>


# %% tags=["exercise"]
def accumulate(model, optimizer, loss_fn, images, labels, size):
    """Take one step on the batch in microbatches; return its mean loss."""
    raise NotImplementedError


# %% tags=["check"]
check.accumulate(accumulate)


# %% tags=["solution", "hide-cell"]
# Solution
def accumulate(model, optimizer, loss_fn, images, labels, size):
    """Take one step on the batch in microbatches; return its mean loss."""
    optimizer.zero_grad()
    total = 0.0
    for x, y in zip(images.split(size), labels.split(size), strict=True):
        loss = loss_fn(model(x), y) * len(x) / len(images)
        loss.backward()
        total += loss.item()
    optimizer.step()
    return total


check.accumulate(accumulate)

# %% [markdown]
# ### Is it the same training?
#
# `Trainer(microbatch=16)` does this. To see whether it trains the same model, we train with whole batches and with
# microbatches from the same seed, and compare the weights. The last batch is short, and the microbatches don't divide
# it. All values have 64 bits here, so that a mistake can't hide in the rounding. (This takes a few seconds.)


# %%
@lru_cache
def weights_after(seed, norm, microbatch=None):
    """Return all weights after two epochs as one vector."""
    model = seeded_resnet(seed, width=8, norm=norm).double()
    trainer = cpu_trainer(
        model, sgd(model, 0.05), seed, microbatch=microbatch
    )
    split = cnnlab.load("pocket", seed=seed, n_train=100, n_test=12).train
    batches = cnnlab.loader(
        split, 40, shuffle=True, seed=seed, drop_last=False
    )
    trainer.fit(batches, epochs=2)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def distance(a, b):
    """Return the distance of two weight vectors, relative to their length."""
    return ((a - b).norm() / a.norm()).item()


def with_layer_norm(seed):
    whole = weights_after(seed, "layer")
    return distance(whole, weights_after(seed, "layer", microbatch=16))


def with_batch_norm(seed):
    whole = weights_after(seed, "batch")
    return distance(whole, weights_after(seed, "batch", microbatch=16))


def another_seed(seed):
    other = weights_after(seed + 100, "layer")
    return distance(weights_after(seed, "layer"), other)


same_training = compare_declared(
    Declaration(
        "Do microbatches train the same model as whole batches?",
        [
            Claim("batch norm", ">", "layer norm", by=0.001),
            Claim("batch norm", "<", "another seed", by=0.5),
        ],
        fresh_data(),
    ),
    {
        "layer norm": with_layer_norm,
        "batch norm": with_batch_norm,
        "another seed": another_seed,
    },
    seeds=5,
    metric="distance of the weights",
)
largest = same_training.values("layer norm").max()
print("layer norm, largest distance below 1e-12:", bool(largest < 1e-12))
print(same_training.claim("batch norm", ">", "layer norm", by=0.001))
print(same_training.claim("batch norm", "<", "another seed", by=0.5))
print(steps.claim("microbatches of 16", ">", "plain, again", by=0.2))
same_training

# %% [markdown]
# With layer norm it's the same model, to the last digits of 64 bits. **Batch norm breaks it**, because it normalises by
# the statistics of the images that pass together, and that's now a microbatch. With 32 images and more it's usually
# harmless (*ghost batch norm*, [Hoffer et al. 2017](https://arxiv.org/abs/1705.08741)). With two or four, use group
# norm ([Wu & He 2018](https://arxiv.org/abs/1803.08494)) or frozen statistics (chapter 9).
#
# Two more things differ from a whole batch. Dropout draws other masks, which does no harm. Which loss can't be
# accumulated like this at all?
#
# <details>
# <summary><b>Answer</b></summary>
#
# One that compares the images of a batch with each other, as in contrastive learning. It isn't a mean over images.
#
# </details>
#
# And accumulation takes time: on our small network 36 % more, because every microbatch repeats the calls of a step.
#
# ### The bug of 2024
#
# A language model predicts tokens, and its loss is the mean over the tokens of the *batch*. The trainers took the mean
# over the tokens of each *microbatch* and divided by the number of microbatches. So a token in a short text counted
# more than one in a long text:
#
# | microbatch | should weigh | weighed | a token counts |
# |---|---|---|---|
# | 1,000 tokens | 1000/2010 | 1/3 | 0.67 times what it should |
# | 1,000 tokens | 1000/2010 | 1/3 | 0.67 times |
# | 10 tokens | 10/2010 | 1/3 | 67 times |
#
# The cure is to divide the sum of all losses by the tokens of the whole batch, which you have to count first. A year
# later, the same bug was reported in Andrej Karpathy's nanochat ([pull requests
# 59](https://github.com/karpathy/nanochat/pull/59) and [400](https://github.com/karpathy/nanochat/pull/400)). Image
# models get it wherever the loss isn't a plain mean over images: with class weights (chapter 11), boxes, or pixels.
#
# ### Exercise 3: `accumulate_pixels` (hard, 25 minutes)
#
# The model gives logits for each pixel, (N, K, H, W). The labels (N, H, W) are −100 where nobody has labelled a pixel,
# and `F.cross_entropy` leaves these out. Take **one** step on the mean loss over all labelled pixels of the batch, with
# at most `size` images in memory at a time, and return that loss as a number. A microbatch may have no labels at all.
#
# <details>
# <summary><b>Hint: the length of my step is wrong</b></summary>
#
# Write down what `F.cross_entropy` would divide by, if the whole batch came at once. Is it known before the first
# microbatch?
#
# </details>
#
# <details>
# <summary><b>Hint: NaN</b></summary>
#
# What's the mean of no numbers at all? And their sum?
#
# </details>


# %% tags=["exercise"]
def accumulate_pixels(model, optimizer, images, labels, size):
    """Take one step on the mean loss over all labelled pixels."""
    raise NotImplementedError


# %% tags=["check"]
check.accumulate_pixels(accumulate_pixels)


# %% tags=["solution", "hide-cell"]
# Solution
def accumulate_pixels(model, optimizer, images, labels, size):
    """Take one step on the mean loss over all labelled pixels."""
    optimizer.zero_grad()
    labelled = (labels != -100).sum().item()
    total = 0.0
    for x, y in zip(images.split(size), labels.split(size), strict=True):
        loss = F.cross_entropy(model(x), y, reduction="sum") / labelled
        loss.backward()
        total += loss.item()
    optimizer.step()
    return total


check.accumulate_pixels(accumulate_pixels)

# %% [markdown]
# ## 12.4 Sixteen bits
#
# A float32 spends one bit on the sign, 8 on the exponent (its range), and 23 on the significand (its binary digits). A
# leading 1 isn't stored, so it really has 24 binary digits. With 16 bits you have to choose. **float16** (fp16 for
# short) keeps 11 digits and little range. **bfloat16** (bf16) keeps the range and 8 digits. **TF32** isn't a format to
# store values in, but a way to multiply: the GPU rounds the factors of each product to 11 digits and keeps the range of
# float32.
#
# What do so few digits do to a sum? Take 4,000 copies of one photograph and compute their mean, which should be the
# photograph again. Each of the three sums below is kept in another format.

# %%
for kind in (torch.float32, torch.float16, torch.bfloat16):
    info = torch.finfo(kind)
    smallest = info.smallest_normal * info.eps  # with one digit left
    name = str(kind).removeprefix("torch.")
    print(
        f"{name:9} {smallest:.0e} to {info.max:.0e}, after 1 comes ", end=""
    )
    print(f"1 + {info.eps:.0e}")

photos = cnnlab.load("photos", size=128)
coffee = photos.train.images[photos.classes.index("coffee")] / 255
COPIES = 4000
means = []
for kind in (torch.float32, torch.float16, torch.bfloat16):
    total, photo = torch.zeros_like(coffee, dtype=kind), coffee.to(kind)
    for _ in range(COPIES):
        total += photo
    means.append(total.float() / COPIES)
ones = torch.ones(1, COPIES, dtype=torch.bfloat16)
print("4,000 ones, as a bfloat16 matrix product:", (ones @ ones.T).item())
plots.image_grid(
    torch.stack(means).clamp(0, 1),
    ["summed in float32", "summed in float16", "summed in bfloat16"],
    columns=3,
    alt="The mean of 4,000 equal photographs, summed in three formats",
    message="A long sum in sixteen bits stops growing.",
)

# %% [markdown]
# Once a sum is a few hundred times as large as the next term, bfloat16 rounds the addition away, and the sum stops
# growing. In float16 this happens too, but only at a few thousand times. A convolution is a sum of hundreds or
# thousands of products, and yet the matrix product above is exact. That's because it **multiplies 16-bit values,
# accumulates the products in float32**, and rounds once, at the end. Hardware that's made for sixteen bits works like
# this.
#
# **Mixed precision** ([Micikevicius et al. 2018](https://arxiv.org/abs/1710.03740)) builds on this. `torch.autocast`
# chooses a format for each operation:
#
# | in sixteen bits | in float32 |
# |---|---|
# | the inputs and outputs of convolutions and matrix products | the sums inside them |
# | most activations that are stored for the backward pass | statistics of batch norm, softmax, losses, long sums |
# | | weights, their gradients, the optimizer's state |
#
# The weights stay in float32 because a step changes them by about a thousandth (chapter 7), and in bfloat16,
# $1 + 0.001 = 1$: a thousand such steps would change nothing.
#
# So what do you save? Activations take about half the memory, as you've seen in 12.3. (For a single image, the 16-bit
# copies of the weights take more than that saves.) And GPUs that are made for sixteen bits compute several times as
# fast. On our CPU, which has instructions for bfloat16, a step took 15 % less time. On an older one without them, it
# took about 10 % *longer*. So measure before you switch it on.
#
# Is it the same training? Not bit for bit, so compare accuracies. Your three pairs of runs below are short and take
# some seconds. The grey marks come from the study `studies/12_precision.py`, which calls the same function with twice
# the images, larger batches, six epochs and six seeds.


# %% tags=["experiment"]
def short_run(seed, precision):
    signs = cnnlab.load("pocket", seed=seed, n_train=480, n_valid=2400)
    trainer = train_in_precision(
        signs, seed, batch_size=32, epochs=4, precision=precision
    )
    correct = correct_predictions(trainer, signs.valid)
    return correct.double().mean().item()


def in_float32(seed):
    return short_run(seed, "fp32")


def in_bfloat16(seed):
    return short_run(seed, "bf16")


live = cnnlab.compare(
    {"float32": in_float32, "bfloat16": in_bfloat16},
    seeds=3,
    metric="valid_acc",
)
precision = Results.load("studies/12_precision.csv")
print(steps.verdict("bf16", "<", "plain, again"))
print(precision.claim("bfloat16", "~", "float32", by=0.02))
live.plot(
    precision,
    message="Training in bfloat16 is as accurate as training in float32.",
)

# %% [markdown]
# In the study, bfloat16 and float32 differ by 0.1 points (95 % CI −0.3 to 0.5), well within the declared 2 points. The
# 15 % less time is an exploratory result, because we declared no claim about it.
#
# ### Bytes per weight
#
# Find the bug in the textbook. A table in one of the texts that this course builds on gives the bytes per weight. For
# float32 it has 4 for the weight and 4 for its gradient, for mixed precision "2 bytes (mostly)" and 4, and for pure
# bfloat16 2 and 2. AdamW keeps two more values per weight (chapter 1), so float32 takes $4 + 4 + 8 = 16$ bytes in all.
#
# ### Predict
#
# How many bytes per weight does training with autocast and AdamW take, for weights, gradients and optimizer together?

# %% tags=["predict"]
my_bytes_per_weight = ...  # a number


# %% tags=["experiment"]
def bytes_per_weight(dtype, autocast):
    """Return the bytes of weights, gradients and AdamW's state."""
    model = seeded_resnet(0, norm="layer").to(dtype)
    optimizer = torch.optim.AdamW(model.parameters())
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = F.cross_entropy(model(images.to(dtype)), labels)
    loss.backward()
    optimizer.step()
    weights = list(model.parameters())
    state = [
        t for of_one in optimizer.state.values() for t in of_one.values()
    ]
    n = sum(p.numel() for p in weights)
    tensors = {
        "weights": weights,
        "gradients": [p.grad for p in weights],
        "optimizer": [t for t in state if t.ndim],  # without the step count
    }
    sizes = {
        name: sum(t.nbytes for t in ts) / n for name, ts in tensors.items()
    }
    return sizes | {"sum": sum(sizes.values())}


bytes_table = pd.DataFrame(
    {
        "float32": bytes_per_weight(torch.float32, autocast=False),
        "autocast to bfloat16": bytes_per_weight(
            torch.float32, autocast=True
        ),
        "pure bfloat16": bytes_per_weight(torch.bfloat16, autocast=False),
    }
).T
bytes_table

# %% tags=["check"]
check.prediction(
    "How many bytes per weight does autocast take with AdamW?",
    my_bytes_per_weight,
    bytes_table.loc["autocast to bfloat16", "sum"],
    within=0.5,
)

# %% [markdown]
# The table's "2 bytes" is wrong for autocast. **Autocast saves nothing on the weights**, and it even makes a 16-bit
# copy of them for the forward pass. It saves activations, which are most of a CNN's memory in training. Pure bfloat16
# does halve everything, but then small steps are rounded away, unless you add something like stochastic rounding.
#
# In large language models, the weights and what belongs to them often need more memory than the activations: billions
# of weights with 16 bytes each. That's why people shard the state over many GPUs (12.6), use 8-bit optimizers, or train
# a few extra weights only (LoRA).
#
# ### Gradients too small for float16
#
# NVIDIA's GPUs before 2020 (V100, T4) have units for float16 and none for bfloat16. The trouble with float16 is its
# range. Gradients of activations are small, because the mean over the batch divides them. The remedy is **loss
# scaling**. Multiply the loss by $S$, and every gradient is $S$ times as large. Before the step, divide the gradients
# of the weights, which are in float32, by $S$.
#
# Does it matter? The study `studies/12_precision.py` rounds every gradient that flows back to float16, for the mean
# loss over 64 images and for a loss that's 4,096 times as small, with a learning rate that's 4,096 times as high. In
# exact arithmetic both runs are the same. Gradients that small are common: each pixel gets one if the loss is a mean
# over a map of 64 × 64 pixels.

# %% tags=["claim"]
HALF, SMALL = "float16 gradients", "float16 gradients, loss / 4096"
print(precision.claim(HALF, "~", "float32", by=0.02))
print(precision.claim(SMALL, "<", "float32", by=0.1))
print(precision.claim(f"{SMALL}, scaled by 65536", "~", "float32", by=0.02))
diagrams.loss_scaling()

# %% [markdown]
# With the plain loss, the accuracy **without scaling was the same to within half a point** (+0.1 points, 95 % CI −0.3
# to 0.4), although float16 rounds some gradients to zero. With the small loss the same network loses 28 points (16 to
# 40), and scaling repairs it: it's within half a point of float32 again. From the loss alone you can't tell which of
# the two cases you have, so with float16 always scale. It costs next to nothing.
#
# ### The order matters
#
# `torch.amp.GradScaler` finds $S$ by trying. It begins with $2^{16}$. If a gradient is infinite or NaN, the step is
# **skipped** and $S$ is halved. After two thousand good steps in a row, $S$ is doubled. One step goes like this:
#
# 1. `scaler.scale(loss).backward()`: all gradients are $S$ times too large;
# 2. `scaler.unscale_(optimizer)`: now they're correct;
# 3. clip, or log the norm;
# 4. `scaler.step(optimizer)`: takes the step, unless something has overflowed;
# 5. `scaler.update()`: chooses the next $S$.
#
# Try it with a single weight, the loss $3w$, a learning rate of 1, and a limit of 1 for the norm. The step should have
# length 1. How long is it if you swap 2 and 3? Think before you run the cell.


# %%
def one_step(unscale_first, scale=2.0**16):
    """Take a step with the loss 3w; return its length and the next scale."""
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    scaler.scale(3 * weight.sum()).backward()
    if unscale_first:
        scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_([weight], max_norm=1.0)
    scaler.step(optimizer)  # unscales, if that wasn't done yet
    scaler.update()
    return abs(weight.item()), scaler.get_scale()


print(f"unscale, then clip: a step of {one_step(True)[0]:.6f}")
print(f"clip, then unscale: a step of {one_step(False)[0]:.6f}")
length, next_scale = one_step(True, scale=2.0**127)  # 3 * 2**127 overflows
print(f"overflow: a step of {length:.6f}")
print("the scale after the overflow is halved:", next_scale == 2.0**126)

# %% [markdown]
# If you clip first, you cut a gradient that's 65,536 times too long to length 1, and then `step` divides it by 65,536
# as well. There's no error and no NaN. The network just stands still.
#
# ### Exercise 4: `unscale_and_clip` (medium, 15 minutes)
#
# You get the gradients of a loss that was multiplied by `scale`, as a list of tensors. Return the gradients that the
# optimizer should use, as new tensors. Remove the scale. Then, if their common norm (over all tensors together) exceeds
# `max_norm`, shorten them to it. If anything has overflowed, so that an entry is infinite or NaN, return `None`,
# because the step should be skipped.
#
# <details>
# <summary><b>Hint: the result is thousands of times too short</b></summary>
#
# Which gradient does `max_norm` limit, the one that you were given or the true one?
#
# </details>
#
# <details>
# <summary><b>Hint: NaN comes out where None is expected</b></summary>
#
# An infinite entry makes the norm infinite, and NaN makes it NaN. `math.isfinite` is False for both.
#
# </details>


# %% tags=["exercise"]
def unscale_and_clip(gradients, scale, max_norm):
    """Return the gradients for the optimizer, or None after an overflow."""
    raise NotImplementedError


# %% tags=["check"]
check.unscale_and_clip(unscale_and_clip)


# %% tags=["solution", "hide-cell"]
# Solution
def unscale_and_clip(gradients, scale, max_norm):
    """Return the gradients for the optimizer, or None after an overflow."""
    true = [g / scale for g in gradients]
    norm = math.sqrt(sum(g.square().sum().item() for g in true))
    if not math.isfinite(norm):
        return None
    factor = min(1.0, max_norm / norm) if norm else 1.0
    return [g * factor for g in true]


check.unscale_and_clip(unscale_and_clip)

# %% [markdown]
# **What would change it.** NVIDIA's GPUs since 2020 (A100, RTX 30) and TPUs have bfloat16, which needs no scaling,
# because it has the range of float32. [Kalamkar et al. 2019](https://arxiv.org/abs/1905.12322) trained many kinds of
# networks with it, with the settings of float32 and the same results. It's today's default. Some of the largest
# language models have gone on to 8 bits (FP8) for their matrix products, with a scale per block of values, and still
# accumulate with more.
#
# ## 12.5 Four switches
#
# ### Compiling
#
# PyTorch runs one operation after the other. Each writes its result to memory, and the next one reads it from there.
# `model.compile()` ([Ansel et al. 2024](https://doi.org/10.1145/3620665.3640366)) looks at the whole network first and
# generates code that does several operations at once. So the first step takes long, and all later ones are shorter. Say
# compiling takes $c$ seconds, a step $t$ seconds before and $t'$ seconds after. Then it pays off after $c\,/\,(t-t')$
# steps.
#
# On a CPU, compiling needs a C++ compiler, and it takes more time than this chapter may take. So
# `studies/12_compile.py` timed it five times, each time in a fresh process with an empty cache. Compiling took 17
# seconds, and a plain step 12 ms.
#
# ### Predict
#
# After how many steps does compiling our small network pay off, on one core? Guess how much shorter a compiled step is,
# and calculate. (Anything from half to one and a half times the measured number counts.)

# %% tags=["predict"]
my_break_even = ...  # a number of steps

# %% tags=["experiment"]
compiling = Results.load("studies/12_compile.csv")
timings = compiling.frame().query("variant == 'compiled'")
saved_ms = timings.plain_ms - timings.compiled_ms
paid_after = 1000 * timings.seconds_to_compile / saved_ms
cost = timings.seconds_to_compile.mean()
before = timings.plain_ms.mean() / 1000
after = timings.compiled_ms.mean() / 1000
break_even = round(cost / (before - after))
print(f"compiling takes {cost:.0f} s, as long as {cost / before:,.0f} steps")
print(f"it pays off after {break_even:,} steps on average;")
print(f"the five runs: {paid_after.min():,.0f} to {paid_after.max():,.0f}")
print(compiling.claim("compiled", "<", "plain", by=0.2))
print(steps.claim("channels last", "<", "plain, again", by=0.05))
step_numbers = list(range(0, 8001, 1000))
plots.lines(
    step_numbers,
    {
        "plain": [n * before for n in step_numbers],
        "compiled": [cost + n * after for n in step_numbers],
    },
    xlabel="training steps",
    ylabel="processor time (s)",
    message="Compiling costs time at first and saves time later.",
)

# %% tags=["check"]
check.prediction(
    "After how many steps does compiling pay off?",
    my_break_even,
    break_even,
    within=break_even / 2,
    unit="steps",
)

# %% [markdown]
# A compiled step takes 29 % less time (95 % CI 21 to 38). Yet most runs of this course end before compiling has paid
# off. The same holds when you try ten settings for two minutes each, unless the compiler finds its earlier work in its
# cache. If a network trains for hours on a GPU, seventeen seconds or even a few minutes hardly matter.
#
# The second claim is about **channels last**. PyTorch stores an image channel by channel, but the fastest convolutions
# want all channels of a pixel side by side. `model.to(memory_format=torch.channels_last)`, and the same for the images,
# changes the layout and no shape (`Trainer(channels_last=True)` does both). It saved 13 % of a step.
#
# The other two switches are for NVIDIA's GPUs. `cudnn.benchmark` tries several algorithms for each new shape of a
# convolution and keeps the fastest. **TF32** (12.4) works on GPUs since 2020. PyTorch uses it in convolutions by
# default, but in matrix products, such as the linear layers of a transformer, only if you ask for it. If two GPUs
# disagree in the fourth digit, this is often why. The table has a fifth switch, for the optimizer.
#
# | switch | changes the result | pays off |
# |---|---|---|
# | `torch.set_float32_matmul_precision("high")` | from the fourth digit on | float32 matrix products on a GPU since 2020 |
# | `torch.backends.cudnn.benchmark = True` | by rounding, and from run to run | all batches have one shape |
# | channels last | by rounding | convolutions, most of all in sixteen bits on a GPU |
# | `model.compile()` | by rounding | long runs; batches of one shape (`drop_last=True`), or it has to compile again |
# | `AdamW(..., fused=True)` | by rounding | many small weight tensors on a GPU |
#
# ## 12.6 Several processes
#
# With several GPUs, each gets a process with a copy of the network. Every process computes the gradient of its share of
# the batch. Then they average their gradients (**all-reduce**), so all of them take the same step. PyTorch's
# `DistributedDataParallel` (DDP) starts the exchange while the backward pass is still running ([Li et al.
# 2020](https://arxiv.org/abs/2006.15704)).

# %%
diagrams.all_reduce()

# %% [markdown]
# The next cell has all of it in plain PyTorch: the training in one process, and then the same in several. The comments
# mark the lines that DDP adds. Other processes can't see your notebook, so `run_in_processes` writes the function into
# a file and starts it with `torchrun`, which tells each process its number, the **rank**. They exchange gradients with
# `gloo`, a library that works on CPUs. Everything is in 64 bits, as in 12.3. (The cell takes some seconds, most of them
# for imports.)
#
# ### Predict
#
# With batch norm, do two processes with 16 images each train the same model as one process with 32?

# %% tags=["predict"]
my_batch_norm_in_two = ...  # "same" or "different"


# %% tags=["experiment"]
def train_alone(norm):
    """Train a network in one process; return its weights."""
    split = cnnlab.load("pocket", seed=3, n_train=96, n_test=12).train
    dataset = TensorDataset(split.images / 255, split.labels)
    sampler = DistributedSampler(dataset, 1, 0, seed=0)  # for its order
    loader = DataLoader(dataset, 32, sampler=sampler)
    model = seeded_resnet(0, width=8, norm=norm).double()
    optimizer = sgd(model, 0.05)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(x.double()), y).backward()
            optimizer.step()
    return dict(model.named_parameters())


def train_together(path):
    """Train networks with all processes; the first one saves them."""
    dist.init_process_group("gloo")  # "nccl" for GPUs
    rank, n = dist.get_rank(), dist.get_world_size()  # who am I?
    split = cnnlab.load("pocket", seed=3, n_train=96, n_test=12).train
    dataset = TensorDataset(split.images / 255, split.labels)
    sampler = DistributedSampler(dataset, n, rank, seed=0)  # my share
    loader = DataLoader(dataset, 32 // n, sampler=sampler)  # smaller
    trained = {}
    for norm in ("layer", "batch"):
        model = seeded_resnet(0, width=8, norm=norm).double()
        parallel = DDP(model)  # averages the gradients
        optimizer = sgd(model, 0.05)
        for epoch in range(2):
            sampler.set_epoch(epoch)  # or every epoch has the same order
            for x, y in loader:
                optimizer.zero_grad()
                F.cross_entropy(parallel(x.double()), y).backward()
                optimizer.step()
        trained[norm] = model.state_dict()  # without the wrapper
    if rank == 0:  # one of them saves
        torch.save(trained, path)
    dist.destroy_process_group()


two_processes = run_in_processes(train_together, n=2)
apart = {}
for norm, weights in two_processes.items():
    alone = train_alone(norm)
    both = [
        torch.cat([w[k].flatten() for k in alone]) for w in (alone, weights)
    ]
    apart[norm] = distance(*both)
print("layer norm: distance below 1e-12:", apart["layer"] < 1e-12)
print(f"batch norm: distance {apart['batch']:.3f}")
batch_norm_in_two = "same" if apart["batch"] < 1e-12 else "different"

# %% tags=["check"]
check.prediction(
    "Two processes with batch norm: the same model or another one?",
    my_batch_norm_in_two,
    batch_norm_in_two,
    options=["same", "different"],
)

# %% [markdown]
# It's accumulation once more, side by side instead of one after the other, and batch norm sees only the images of one
# process. (`nn.SyncBatchNorm.convert_sync_batchnorm(model)` exchanges its statistics as well, on GPUs, with a message
# in every batch-norm layer.) The traps are the same, too:
#
# | trap | why |
# |---|---|
# | unequal shares | DDP takes the mean of the processes' mean gradients. `DistributedSampler` repeats images to make the shares equal. With losses per token or pixel, the bug of 2024 is back. |
# | the batch size | The batch size of a `DataLoader` counts the images of one process. With 64 on eight GPUs you train with 512, and the learning rate has to follow (chapter 8, [Goyal et al. 2017](https://arxiv.org/abs/1706.02677)). |
# | accumulation | Forward and backward of all microbatches but the last belong in `with model.no_sync():`, or the gradients are exchanged every time. |
# | waiting forever | All processes must take part in every exchange. If one takes a step fewer, the others wait. |
#
# In `cnnlab`, the batch size is the size of the whole batch, and unequal shares are weighted. You start your script
# with `torchrun` and change nothing in it. Appendix F does this on several machines.
#
# Is it faster? Only if a step takes much longer than exchanging its gradients. For our network, starting the processes
# alone takes longer than the training. If the weights and their 16 bytes each don't fit on one GPU, **FSDP**
# (`torch.distributed.fsdp.fully_shard`) or ZeRO ([Rajbhandari et al. 2020](https://arxiv.org/abs/1910.02054)) shard
# them over the processes.
#
# ## 12.7 In plain PyTorch
#
# This is the final version of the loop that began in chapter 1: microbatches, autocast and loss scaling join the
# scheduler and clipping. For mixed precision, pass a `dtype`, and with float16 a `GradScaler` too. If you pass no
# scaler, the loop uses a disabled one, which does nothing. `set_train_mode` comes from chapter 9. The averaged weights
# of chapter 6 are updated by a hook of the optimizer, so they need no line here, and a skipped step doesn't update
# them. The schedule moves on even then.
#
# The cell after the loop has what DDP adds to a script (12.6), and two of the switches of 12.5. `setup_ddp` joins the
# processes that `torchrun` has started; without `torchrun` it does nothing.


# %% tags=["plain"]
from train import set_train_mode


def train_epoch(
    model,
    loader,
    optimizer,
    loss_fn,
    device,
    scheduler=None,
    max_norm=None,
    microbatch=None,
    dtype=None,
    scaler=None,
):
    """Train for one epoch; return the mean loss over the samples."""
    set_train_mode(model)
    device, total, count = torch.device(device), 0.0, 0
    autocast = torch.autocast(device.type, dtype, enabled=dtype is not None)
    scaler = scaler or torch.amp.GradScaler(enabled=False)
    for images, targets in loader:
        images = images.to(device, non_blocking=True)
        targets = targets.to(device, non_blocking=True)
        n, size = len(images), microbatch or len(images)
        optimizer.zero_grad()
        for x, y in zip(images.split(size), targets.split(size), strict=True):
            with autocast:
                loss = loss_fn(model(x), y) * (len(x) / n)
            scaler.scale(loss).backward()
            total += loss.item() * n
        if max_norm is not None:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        scaler.step(optimizer)
        scaler.update()
        if scheduler is not None:
            scheduler.step()
        count += n
    return total / count


# %% tags=["plain"]
def setup_ddp():
    """Join the processes of torchrun; return rank and number (0, 1 alone)."""
    if "RANK" not in os.environ:
        return 0, 1
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return dist.get_rank(), dist.get_world_size()


def ddp_loader(dataset, batch_size, seed, **options):
    """Return a DataLoader of this process's share of the data."""
    sampler = DistributedSampler(dataset, seed=seed, drop_last=True)
    share = max(1, batch_size // dist.get_world_size())
    return DataLoader(dataset, share, sampler=sampler, **options)


def use_fast_kernels():
    """Allow TF32, and let cuDNN choose the fastest convolutions."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True


# %%
batches = list(cnnlab.loader(data.train, 32, shuffle=True, seed=0))
CPU = torch.device("cpu")


def plain_weights(**options):
    """Return the weights after an epoch of the plain loop."""
    model = seeded_resnet(0, width=8)
    optimizer = sgd(model, 0.05)
    train_epoch(model, batches, optimizer, F.cross_entropy, CPU, **options)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def trainer_weights(**options):
    """Return the weights after an epoch of `Trainer`."""
    model = seeded_resnet(0, width=8)
    trainer = cpu_trainer(model, sgd(model, 0.05), seed=0, **options)
    trainer.fit(batches, epochs=1)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


BF16 = torch.bfloat16
scaler = torch.amp.GradScaler("cpu")
assert torch.equal(plain_weights(), trainer_weights())
assert torch.equal(
    plain_weights(dtype=BF16, microbatch=16),
    trainer_weights(precision="bf16", microbatch=16),
)
clipped = trainer_weights(clip_norm=0.5, microbatch=16)
assert distance(clipped, plain_weights(max_norm=0.5, microbatch=16)) < 1e-5
scaled = plain_weights(dtype=BF16, microbatch=16, scaler=scaler)
assert torch.equal(scaled, plain_weights(dtype=BF16, microbatch=16))
assert setup_ddp() == (0, 1)
print("plain PyTorch and cnnlab agree in all four runs")

# %% [markdown]
# The first two comparisons are bit for bit. With clipping they agree up to rounding, because `cnnlab` adds up the
# squares of the gradient in another order. In the last one, a loss scale changes nothing: multiplying by a power of two
# and dividing by it again is exact, as long as nothing leaves the range.
#
# ### Exercise 5: a code review (open, 40 minutes)
#
# This script looks like many that you'll find. It runs on four GPUs, and the loss falls. `ACCUMULATE` is 4. What's
# wrong, what does each mistake cost, and what would you write instead?
#
# ```python
# # torchrun --nproc-per-node 4 finetune.py
# dist.init_process_group("nccl")
# torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
# model = DDP(build_model().cuda())
# optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
# sampler = DistributedSampler(train_set)
# loader = DataLoader(train_set, 64, sampler=sampler, num_workers=8)
# scheduler = CosineAnnealingLR(optimizer, T_max=EPOCHS * len(loader))
# scaler = torch.amp.GradScaler("cuda")
#
# for epoch in range(EPOCHS):
#     start = time.process_time()
#     for i, (images, labels) in enumerate(loader):
#         images, labels = images.cuda(), labels.cuda()
#         with torch.autocast("cuda", dtype=torch.float16):
#             loss = F.cross_entropy(model(images), labels)
#         scaler.scale(loss).backward()
#         clip_grad_norm_(model.parameters(), 1.0)
#         if i % ACCUMULATE == 0:
#             scaler.step(optimizer)
#             scaler.update()
#             optimizer.zero_grad()
#         scheduler.step()
#     seconds = time.process_time() - start
#     print(f"{len(train_set) / seconds:.0f} images per second")
#     torch.save(model.state_dict(), "last.pt")
# ```
#
# | points | for |
# |---|---|
# | 5 | any five of the seven bugs that change the training, the measurement or the saved file, each with its line, its effect and the fix |
# | 2 | two lines that only cost time |
# | 1 | a line that looks wrong and isn't, with the reason |
# | 2 | a test on a CPU, in one process, that fails on this loop and passes on yours |

# %%
# Your review: the lines, what each costs, and your test.

# %% [markdown]
# ## Make it bigger
#
# CIFAR-10 against the clock: how many seconds until a network classifies 94 % of the test set correctly? Stanford's
# DAWNBench asked this in 2017, and since then the answer has fallen from minutes to seconds. Most of the tricks are in
# this course: a short one-cycle schedule (chapter 5), augmentation in whole batches on the GPU, label smoothing
# (chapter 4), averaged weights (chapter 6), and the switches of this chapter.
#
# | who | accuracy | seconds on one A100 |
# |---|---|---|
# | [Jordan 2024](https://arxiv.org/abs/2404.00498), not compiled | 94.0 % | 3.83 |
# | the same, compiled | 94.0 % | 3.29 |
# | the same with the optimizer [Muon](https://kellerjordan.github.io/posts/muon/) (December 2024) | 94 % | 2.6 |
# | Jordan 2024, for 96 % | 96.0 % | 46.3 |
#
# These times start when everything is compiled and warm. Network and tricks were made for the purpose, so a course's
# network won't come near. With `CNNLAB_PROFILE=gpu`, the cell below runs our recipe and prints the accuracy on the test
# set and your seconds, with and without compiling. It downloads 170 MB once. `python -m benchmarks.cifar10` runs it for
# ten seeds, in turns with Jordan's code.
#
# On a machine with several GPUs, put the cell into a file, with the imports and `lab` from the top of the chapter, and
# start it with `torchrun --nproc-per-node 4 file.py`.


# %% tags=["bigger"]
def against_the_clock(photos, seed=0, epochs=20, width=64, compile=True):
    """Train on CIFAR-10 with all switches; return history and trainer."""
    torch.manual_seed(seed)
    model = cnnlab.small_resnet(10, width=width, depth=3)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=0.4,
        momentum=0.9,
        weight_decay=5e-4,
        nesterov=True,
    )
    train = cnnlab.loader(
        photos.train, 512, shuffle=True, seed=seed, device=lab.device
    )  # the images are on the GPU, as bytes
    steps = epochs * len(train)
    trainer = cnnlab.Trainer(
        model,
        optimizer,
        nn.CrossEntropyLoss(label_smoothing=0.1),
        scheduler=cnnlab.attach(
            optimizer,
            cnnlab.schedules.one_cycle(steps),
            cnnlab.schedules.one_cycle_momentum(steps),
        ),
        batch_transform=Augment(flip=0.5, crop_pad=4),
        precision="bf16",  # "fp16" on GPUs before 2020
        ema=EMA(model, decay=0.99),
        channels_last=True,
        compile=compile,
        seed=seed,
        device=lab.device,
    )
    return trainer.fit(train, epochs=epochs), trainer


if lab.profile == "gpu":
    photos = cnnlab.load("cifar10", download=True)
    history, trainer = against_the_clock(photos)
    seconds = history.frame().seconds
    test = cnnlab.loader(photos.test, 1000, device=lab.device)
    print(f"test accuracy {trainer.evaluate(test)['acc']:.4f}")
    averaged = trainer.evaluate(test, model=trainer.ema.model)
    print(f"of the averaged weights {averaged['acc']:.4f}")
    print(f"{seconds.sum():.1f} s with compiling")
    steady = seconds[1:].mean() * len(seconds)
    print(f"{steady:.1f} s without, from the epochs after the first")
else:
    print("left out: set CNNLAB_PROFILE=gpu to run it")

# %% tags=["hide-input"]
check.quiz(12)

# %% [markdown]
# ## Key points
#
# - Measure before you optimise: in wall-clock time, after a warm-up, with the variants in turns, and with the median.
#   Processor time doesn't see waiting or worker processes.
# - Images in memory, and augmentation in whole batches, saved most on small images. Workers are for data that have to
#   be read or decoded. One worker hides at most the shorter of the two times, loading and training.
# - Weight a microbatch, or a process, by the number of things that the mean is taken over: images, tokens, pixels. Then
#   you get the gradient of the whole batch, except for batch norm and dropout.
# - float16 lacks range, bfloat16 lacks digits, and both need float32 for sums and for weights. Mixed precision saves
#   activations, not weights. With float16: scale, unscale, clip, step.
# - Compiling pays off after its cost divided by what each step saves. Channels last costs one line, so try it.
# - Every technique of this chapter changes results only by rounding, batch norm or the draws of dropout. If accuracy
#   moves by more than another seed would move it, look for a bug.
#
# **Your recipe so far** gains the complete loop: images in memory or persistent workers, bfloat16 where the hardware
# has it, channels last, microbatches weighted by their size, and `torchrun` if there's more than one GPU.
#
# ## Common mistakes
#
# | what you see | what it often is |
# |---|---|
# | the GPU idles and one core is busy | images are loaded and augmented one at a time |
# | loading looks free, and epochs are slow | processor time was measured, and the workers do the work |
# | more workers, no gain | the cores are busy, or training is the slow part by now |
# | every epoch starts with a pause | workers are started anew: `persistent_workers=True` |
# | a layer is slow on the GPU, and another one next time | clock read without `synchronize` |
# | accumulation trains worse than whole batches | divided by the number of microbatches, though they're unequal; or batch norm in tiny ones |
# | NaN with accumulation, only now and then | a microbatch in which nothing is labelled |
# | with clipping and float16 the network stands still | clipped before unscaling |
# | NaN in float16 and none in float32 | an overflow in the forward pass; loss scaling can't help, bfloat16 does |
# | two GPUs train differently | the batch size is per process; no `set_epoch`; batch norm |
# | the whole job hangs | one process takes fewer steps, or only one calls something that waits for all |
# | it compiles once more at the end of the first epoch | the last batch has another shape: `drop_last=True` |
#
# ## References
#
# - G. Amdahl, *Validity of the single processor approach to achieving large scale computing capabilities*, 1967,
#   [doi:10.1145/1465482.1465560](https://doi.org/10.1145/1465482.1465560)
# - P. Goyal et al., *Accurate, large minibatch SGD: Training ImageNet in 1 hour*, 2017,
#   [arXiv:1706.02677](https://arxiv.org/abs/1706.02677)
# - E. Hoffer, I. Hubara and D. Soudry, *Train longer, generalize better: closing the generalization gap in large batch
#   training of neural networks*, 2017, [arXiv:1705.08741](https://arxiv.org/abs/1705.08741)
# - Y. Wu and K. He, *Group normalization*, 2018, [arXiv:1803.08494](https://arxiv.org/abs/1803.08494)
# - P. Micikevicius et al., *Mixed precision training*, 2018, [arXiv:1710.03740](https://arxiv.org/abs/1710.03740)
# - D. Kalamkar et al., *A study of BFLOAT16 for deep learning training*, 2019,
#   [arXiv:1905.12322](https://arxiv.org/abs/1905.12322)
# - S. Li et al., *PyTorch distributed: Experiences on accelerating data parallel training*, 2020,
#   [arXiv:2006.15704](https://arxiv.org/abs/2006.15704)
# - S. Rajbhandari, J. Rasley, O. Ruwase and Y. He, *ZeRO: Memory optimizations toward training trillion parameter
#   models*, 2020, [arXiv:1910.02054](https://arxiv.org/abs/1910.02054)
# - J. Ansel et al., *PyTorch 2: Faster machine learning through dynamic Python bytecode transformation and graph
#   compilation*, 2024, [doi:10.1145/3620665.3640366](https://doi.org/10.1145/3620665.3640366)
# - D. Han and M. Han, *Bugs in LLM training: gradient accumulation fix*, 2024,
#   [unsloth.ai](https://unsloth.ai/blog/gradient)
# - L. Debut et al., *Fixing gradient accumulation*, 2024,
#   [huggingface.co](https://huggingface.co/blog/gradient_accumulation)
# - K. Jordan, *94% on CIFAR-10 in 3.29 seconds on a single GPU*, 2024,
#   [arXiv:2404.00498](https://arxiv.org/abs/2404.00498)
# - K. Jordan et al., *Muon: An optimizer for hidden layers in neural networks*, 2024,
#   [kellerjordan.github.io](https://kellerjordan.github.io/posts/muon/)

# %% [markdown] tags=["instructor", "remove-cell"]
# ## When you are short of time
#
# 12.1, 12.3 and the story of 2024 make a session of their own, with exercise 3 as homework. Start the two processes of
# 12.6 if there's time. 12.5 can be read.
#
# ## A session of ninety minutes
#
# | minutes | what | sections | who |
# |---|---|---|---|
# | 10 | The wall clock or the processor's clock: vote and run | 12.1 | the room |
# | 15 | Exercise 1 | 12.1 | everybody |
# | 15 | Where a step spends its time; Amdahl's law on paper; predict one worker | 12.2 | everybody |
# | 10 | The weights of unequal microbatches by hand, and the story of 2024 | 12.3 | you |
# | 15 | Exercise 2 | 12.3 | everybody |
# | 10 | A sum that stops growing; vote on the bytes per weight | 12.4 | the room |
# | 5 | Two processes: the same model, or not? | 12.6 | you |
# | 10 | Questions for the room | | the room |
#
# ## Exercise 5, a model answer
#
# Seven bugs change the training, the measurement or the file; any five get the points:
#
# - `loss` isn't divided by `ACCUMULATE`, so the gradient is four times too large. AdamW hardly notices, but the
#   clipping does, and SGD would.
# - `clip_grad_norm_` comes before `scaler.unscale_`, so it clips gradients that are 65,536 times too long. With SGD the
#   network would stand still. AdamW divides by the gradient's size, so the loss still falls, which hides the bug.
# - It clips after each microbatch, so it clips partial sums and not the gradient of the batch.
# - `i % ACCUMULATE == 0` is true for the first microbatch, so the first step of an epoch uses one microbatch. Write
#   `(i + 1) % ACCUMULATE == 0`, and take care of what is left at the end of an epoch.
# - `sampler.set_epoch(epoch)` is missing, so every epoch has the same order.
# - `time.process_time` sees neither the workers nor most of the waiting, so the reported speed is too high.
#   (`len(train_set)` is correct: that's what the four processes did together.)
# - All four processes write `last.pt` at the same time, and its names begin with `module.`. Save
#   `model.module.state_dict()` on rank 0. (Optimizer, scheduler, scaler and epoch are missing too.)
#
# Two that cost time: DDP exchanges gradients after every microbatch (`model.no_sync()`), and the loader has no
# `persistent_workers` and no `pin_memory` with `non_blocking=True`. All processes print.
#
# Not wrong: `scheduler.step()` after every microbatch, because `T_max` counts microbatches too. Nor the backward pass
# outside autocast, which is how it should be.
#
# A test: one batch of eight images, a `GradScaler("cpu")`, SGD, `ACCUMULATE = 4` microbatches of two. The step must
# have the length of the whole batch's step.
#
# ## Questions for the room
#
# - Loading takes four fifths of a step. Which three things would you try, and in which order? (First, augment in whole
#   batches instead of one image at a time: that needs no hardware, and in the study it saved 80 % of a plain step. Then
#   use workers, as many as there are free cores. Then make reading itself cheaper, with smaller files or images that
#   are decoded once. By Amdahl's law, all of it together can make a step five times as fast at most.)
# - One worker saved 1.5 %. Why not half? (Because loading and training take very different times. The worker still has
#   to wait 3 ms for each of the 64 images, so a batch takes 192 ms instead of 192 + 11, and that's 95 %. Starting the
#   worker takes time, too, and so does training on the last batch of an epoch. Two workers wait at the same time, and
#   they bring it down to 53 %.)
# - Two processes gave the same model. Which layers would break that, and would you notice? (Batch norm, because each
#   process normalises with the statistics of its own share, and dropout, because the processes draw other masks. The
#   loss falls all the same, so you wouldn't notice. You see it only if you compare the weights with those of a single
#   process, in 64 bits so that rounding can't hide it.)
# - When is it right not to make something faster? (When the gain can't pay back its cost. A part that takes 4 % of a
#   step gains at most 4 %, and most runs of this course would end before compiling has paid off. It's also right when
#   the change makes the results differ from those you want to compare with, or when nobody waits for the run.)
#
# ## Exam questions
#
# **Question 1.** A batch of 100 images passes through the network as microbatches of 32, 32, 32 and 4. Their mean
# losses are 1.0, 1.0, 1.0 and 3.0. What's the mean loss of the batch? A program takes the mean of the four means
# instead. What does it get, and how much more than it should does an image of the last microbatch count in the
# gradient? When is the program right? Which layer makes even the correct sum differ from the whole batch?
#
# **Answer.** The mean loss is (96 · 1 + 4 · 3) / 100 = 1.08. The program gets 6 / 4 = 1.5. An image should count 1/100,
# and in the last microbatch it counts 1/4 · 1/4 = 1/16, which is 6.25 times as much; the others count 0.78 times what
# they should. The program is right if all microbatches have the same size, or more precisely the same number of the
# things that the mean is taken over: images, tokens or labelled pixels. Batch norm differs, because it normalises with
# the statistics of a microbatch.
#
# **Question 2.** Training in float16 multiplies the loss by 65,536 before the backward pass. Why? The true gradient has
# a norm of 0.5, and you clip at 1. Which gradient reaches the optimizer if you divide by the scale first and then clip,
# and which if you do it the other way round? Why does the second order go unnoticed with Adam more easily than with
# SGD? Why does bfloat16 need no scale?
#
# **Answer.** Small gradients lie below the range of float16 and would be rounded to zero. Multiplying the loss makes
# all of them larger, and dividing afterwards, in float32, restores them. Divided first, the norm is 0.5, which is below
# the limit, so the gradient stays as it is. Clipped first, a norm of 32,768 is cut to 1 and then divided by 65,536, so
# the step is 32,768 times too short. With SGD the network stands still. Adam divides each gradient by its own size, so
# its steps are nearly as long as before, and the loss falls. bfloat16 has the range of float32, so nothing is lost at
# the small end; it lacks digits.

# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 8. Choosing hyperparameters
#
# **Questions.** Which values are worth a try at all? Is a tidy grid better than chance? How do you draw a learning
# rate? What do you do first, and what next? And how far can you trust the number of the winner?
#
# **Afterwards you can** lay out a search, draw rates over decades, narrow a range down and notice when to widen it,
# read a table of runs, change the batch size on purpose, keep a record, and share a search among machines.
#
# | | |
# |---|---|
# | to read | 35 minutes |
# | to run | 70 seconds on one core of a laptop; no internet, no GPU |
# | you need | chapters 1 and 5 |

# %% tags=["setup"]
import math
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from studies.common import correct_or_chance, train_with_setting

import cnnlab
from cnnlab import callbacks, check, diagnose, plots, tune, widgets
from cnnlab.experiment import (
    Claim,
    Declaration,
    Results,
    compare_declared,
    fresh_data,
)
from cnnlab.rng import fold_in, generator

lab = cnnlab.setup(seed=0)
data = cnnlab.load("pocket", seed=200, n_train=600, n_test=96)
K = len(data.classes)  # twelve classes

# %% [markdown]
# ## 8.1 Where to begin
#
# The weights are learnt; the **hyperparameters** are what you fix before: the learning rate, the weight decay, the
# batch size, how many epochs. Nobody knows the right values for your data beforehand. But there are ranges in which
# they usually lie. These are rules of thumb, collected from practice and from [Bengio
# 2012](https://arxiv.org/abs/1206.5533) and [Smith 2018](https://arxiv.org/abs/1803.09820). They are no laws: where
# your best value lies at an end of a range, go beyond it.
#
# | what | usual range | draw it |
# |---|---|---|
# | learning rate, SGD with momentum 0.9 | 0.01 to 0.1; with batch norm and one-cycle up to 1 | log-uniformly |
# | learning rate, Adam and AdamW | 1e-4 to 3e-3 | log-uniformly |
# | learning rate, RMSprop | 1e-4 to 1e-3 | log-uniformly |
# | learning rate, fine-tuning | a tenth to a hundredth of those (chapter 10) | log-uniformly |
# | weight decay, SGD and Adam | 1e-4 to 1e-3 | log-uniformly |
# | weight decay, AdamW (apart from the gradient, chapter 2) | 1e-2 to 1e-1 | log-uniformly |
# | momentum | 0.9, sometimes 0.8 to 0.99 | $1 - m$ log-uniformly |
# | dropout before the head | 0.3 to 0.5 | uniformly |
# | batch size | 32 to 256 | powers of two |
# | patience of early stopping | 10 to 20 epochs | not at all: choose it |
#
# If you can tune one thing only, tune the learning rate. And with every change of another thing (batch size,
# normalisation, network) the best rate may move. A rate found for one setting is a first guess for the next.
#
# ## 8.2 Draw over decades
#
# Learning rates act by factors. From 0.001 to 0.002 changes as much as from 0.1 to 0.2. So it is the *logarithm* that
# should be uniform. With $u$ uniform between 0 and 1, a **log-uniform** number between $a$ and $b$ is
#
# $$ x = \exp\bigl( \log a + u \, (\log b - \log a) \bigr) = a \left( \frac{b}{a} \right)^u, \qquad
# p(x) = \frac{1}{x \, \log (b/a)} . $$
#
# The base of the logarithm does not matter as long as you come back with the same one.
#
# ### Predict
#
# A friend draws rates *uniformly* between 0.00001 and 1, five decades. What share of the draws lies above 0.1, in the
# last of the five?

# %% tags=["predict"]
my_share_above_a_tenth = ...

# %%
ranges = {
    "uniform": tune.Uniform(1e-5, 1),
    "log-uniform": tune.LogUniform(1e-5, 1),
}
drawn = {
    name: torch.tensor(
        tune.random_search(lambda rate: rate, {"rate": kind}, 2000)["rate"]
    )
    for name, kind in ranges.items()
}
above = {name: (x > 0.1).float().mean().item() for name, x in drawn.items()}
for name, share in above.items():
    print(f"{name}: {share:.0%} of the draws above 0.1")
assert abs(above["uniform"] - 0.9) < 0.03  # nine tenths of the length
assert abs(above["log-uniform"] - 1 / 5) < 0.03  # one decade of five

plots.histogram(
    {name: x.log10().numpy() for name, x in drawn.items()},
    label="log10 of the learning rate drawn",
    message="Nine in ten uniform draws fall into the last decade.",
)

# %% tags=["check"]
check.prediction(
    "What fraction of the uniform draws lies above 0.1?",
    my_share_above_a_tenth,
    above["uniform"],
)

# %% [markdown]
# Uniform draws leave the four lower decades one trial in ten, and the lowest of them one in ten thousand. What this
# costs a search you will see in 8.4.
#
# ## 8.3 A map, so that searches can be repeated
#
# One search proves nothing: it may be lucky. To compare ways of searching you must search many times, and real
# training is too slow for that. So a script, `studies/08_search.py`, has trained a network for each of twenty learning
# rates and three weight decays, with twelve seeds (images, weights and order are new for each). The runs are short. A
# search can be *played* on this table: for each setting it asks for, it is given the recorded run of the nearest
# setting.
#
# Do the recorded numbers come out again here? We train with three of the settings. `train_with_setting` is in
# `studies/common.py`, because the script calls it too, and `train_with_setting??` in a cell of your own shows its code. It
# returns the trainer, or `None` if the loss overflowed. Such a run counts as random guessing.


# %% tags=["experiment"]
def accuracy(trainer, dataset):
    """Return the accuracy; a run that overflowed can only guess."""
    return correct_or_chance(trainer, dataset).mean().item()


def accuracy_of_seed(seed, lr):
    signs = cnnlab.load(
        "pocket", seed=seed, n_train=600, n_valid=480, n_test=96
    )
    trainer = train_with_setting(
        signs, seed, lr=lr, weight_decay=1e-4, epochs=3
    )
    return accuracy(trainer, signs.valid)


def low_lr(seed):
    return accuracy_of_seed(seed, lr=0.001)


def middle_lr(seed):
    return accuracy_of_seed(seed, lr=10**-1.25)


def high_lr(seed):
    return accuracy_of_seed(seed, lr=1.0)


study = Results.load("studies/08_search.csv")
live = cnnlab.compare(
    {
        "lr 0.001, decay 1e-4": low_lr,
        "lr 0.056, decay 1e-4": middle_lr,
        "lr 1, decay 1e-4": high_lr,
    },
    seeds=2,
    metric="valid_acc",
)
live.plot(
    study,
    message="Of these three learning rates, the middle one trains best.",
)

# %% [markdown]
# The ticks are the two runs of this cell, and the grey marks are the twelve runs of the study. Now the whole table, with one
# line per weight decay:

# %%
runs = study.frame()
means = runs.pivot_table("valid_acc", "log_rate", "log_decay")
plots.lines(
    10.0**means.index,
    {
        f"weight decay 1e{log_decay:.0f}": means[log_decay]
        for log_decay in means
    },
    xlabel="learning rate",
    ylabel="mean validation accuracy",
    message="The learning rate decides; the weight decay hardly matters.",
    log="x",
)

# %%
over_rates = means.mean(axis=1).std()  # of the twenty means over decays
over_decays = means.mean(axis=0).std()  # of the three means over rates
print(f"spread over the rates {over_rates:.3f}, decays {over_decays:.3f}")
assert over_rates > 5 * over_decays

# %% tags=["claim"]
good = "lr 0.056, decay 1e-4"
print(study.claim(good, ">", "lr 0.001, decay 1e-4", by=0.2))
print(study.claim(good, ">", "lr 1, decay 1e-4", by=0.05))
little, much = "lr 0.056, decay 1e-5", "lr 0.056, decay 1e-3"
print(study.claim(much, "~", little, by=0.02))

# %% [markdown]
# One parameter matters, the other does not, in runs of three epochs. (Weight decay needs time to act, chapter 2.) You
# would not have known before which of the two it is. That is the usual situation, and it decides between the two ways
# to search.
#
# ## 8.4 Grid or chance
#
# A **grid** tries every combination: three rates times three decays are nine runs. But it has tried only *three*
# rates, each of them three times over. **Random search** draws each run anew, so nine runs try nine rates *and* nine
# decays ([Bergstra & Bengio 2012](https://jmlr.org/papers/v13/bergstra12a.html)). With $d$ parameters and $n$ trials
# a grid sees $n^{1/d}$ values of each.
#
# There is also a promise that holds for any number of parameters. If the best share $p$ of the space is good enough
# for you, then $n$ independent draws miss it with probability $(1-p)^n$. So
#
# $$ P(\text{at least one hit}) = 1 - (1 - p)^n . $$

# %%
for n in (9, 20, 60):
    print(f"{n} draws hit the best 5 %: {1 - 0.95**n:.2f}")
assert 1 - 0.95**59 > 0.95  # fifty-nine suffice, in any dimension

# %% [markdown]
# First a toy whose truth we know: a bump of height 1, its place unknown. In `one matters` the score depends on $x$
# nearly alone, in `both matter` on the distance in both directions. The grid is the one of textbooks, in the middle
# of nine equal squares.


# %% tags=["experiment"]
def toy(seed, kind, strategy, n=9):
    """Best score of a search for a bump somewhere in the unit square."""
    g = torch.Generator().manual_seed(seed)
    at_x, at_y = torch.rand(2, generator=g).tolist()

    def objective(x, y):
        near_x = math.exp(-(((x - at_x) / 0.1) ** 2))
        if kind == "one matters":
            return 0.95 * near_x + 0.05 * math.exp(-(((y - at_y) / 0.1) ** 2))
        away = math.hypot(x - at_x, y - at_y)
        return math.exp(-((away / 0.2) ** 2))

    if strategy == "grid":
        middles = [1 / 6, 3 / 6, 5 / 6]
        table = tune.grid_search(objective, {"x": middles, "y": middles})
    else:
        square = {"x": tune.Uniform(0, 1), "y": tune.Uniform(0, 1)}
        table = tune.random_search(objective, square, n, seed)
    return float(table["score"].max())


def toys(kind, claim):
    return compare_declared(
        Declaration(
            f"Which search finds a bump better if {kind}?",
            claims=[claim],
            unit=fresh_data(),
            fixed="nine trials",
        ),
        {
            "grid": lambda seed: toy(seed, kind, "grid"),
            "random": lambda seed: toy(seed, kind, "random"),
        },
        seeds=200,
        metric="best score of 9 trials",
    )


one_matters = toys("one matters", Claim("random", ">", "grid"))
both_matter = toys("both matter", Claim("grid", ">", "random"))

# %% tags=["claim"]
print(one_matters.claim("random", ">", "grid"))
print(both_matter.claim("grid", ">", "random"))

# %% [markdown]
# Chance wins where one parameter matters. Where both do, equally, the grid is the better one: it leaves no large
# hole, as random points do. Random search is no magic. It is a bet that few of your parameters matter.
#
# ### Predict
#
# Now play with the recorded runs. Each of 180 searches has nine trials, over learning rates from 0.0001 to 5.6 and
# decays from 0.00001 to 0.001. In what fraction of the pairs will random search have found a better network than the
# grid? (0.5 would be a draw.)

# %% tags=["predict"]
my_share_of_wins = ...

# %% [markdown]
# Two precautions make it fair. A grid with fixed points may happen to hit the best rate, or happen to miss it, every
# time; so each grid is shifted by a random offset, within the spacing of its points. And the judge isn't the number
# that the choice was made by: a search chooses by the accuracy on 480 validation images, and the network that it
# chooses is judged on 2,400 other images of the same kind.
#
# How many results is that? Not 180, although there are 180 searches of each kind: fifteen searches share the recorded
# runs of one seed, so a lucky run among them is found again and again. The unit is the seed. The cell takes the mean
# of the fifteen searches of a seed first, and compares twelve means with twelve means. The three claims were written
# down before the runs of this table existed.

# %% tags=["experiment"]
RATES = tune.LogUniform(1e-4, 10**0.75)
DECAYS = tune.LogUniform(1e-5, 1e-3)
SPACE = {"rate": RATES, "decay": DECAYS}
SEEDS, SEARCHES = 12, 15  # recorded seeds, and searches on the runs of each
column = {
    metric: runs.set_index(["seed", "log_rate", "log_decay"])[
        metric
    ].to_dict()
    for metric in ("valid_acc", "few_acc", "others_acc")
}


def cell(rate, decay):
    """The recorded setting that lies nearest, in logarithms."""
    log_rate = min(means.index, key=lambda r: abs(r - math.log10(rate)))
    log_decay = min(means, key=lambda d: abs(d - math.log10(decay)))
    return log_rate, log_decay


def recorded(seed, metric="valid_acc"):
    """An objective that looks up the run of a seed instead of training."""
    return lambda rate, decay: column[metric][seed, *cell(rate, decay)]


def shifted(kind, n, offset):
    """n points, evenly spaced in the logarithm, from an offset in [0, 1)."""
    return [
        kind.low * (kind.high / kind.low) ** ((i + offset) / n)
        for i in range(n)
    ]


def judged(seed, table):
    """Accuracy of the chosen network on the other images."""
    best = table.loc[table["score"].idxmax()]
    return recorded(seed, "others_acc")(best["rate"], best["decay"])


def grid(n_rates, n_decays):
    def search(seed, draw):
        right, up = torch.rand(2, generator=generator(draw)).tolist()
        options = {
            "rate": shifted(RATES, n_rates, right),
            "decay": shifted(DECAYS, n_decays, up),
        }
        return judged(seed, tune.grid_search(recorded(seed), options))

    return search


def at_random(rates):
    def search(seed, draw):
        space = {"rate": rates, "decay": DECAYS}
        return judged(
            seed, tune.random_search(recorded(seed), space, 9, draw)
        )

    return search


def results_of(search, seed, times=SEARCHES):
    """Return the results of several searches on the runs of one seed."""
    return [search(seed, fold_in(seed, i)) for i in range(times)]


def mean_of(search, times=SEARCHES):
    return lambda seed: sum(results_of(search, seed, times)) / times


searches = compare_declared(
    Declaration(
        "Which strategy finds the better network with nine trials?",
        claims=[
            Claim("random", ">", "grid 3 x 3"),
            Claim("random", ">", "random, rate uniform", by=0.05),
            Claim("grid 9 x 1", ">", "random"),
        ],
        unit=fresh_data(),
        fixed="nine trials, the space, the recorded runs of a seed",
    ),
    {
        "grid 3 x 3": mean_of(grid(3, 3)),
        "random": mean_of(at_random(RATES)),
        "random, rate uniform": mean_of(
            at_random(tune.Uniform(RATES.low, RATES.high))
        ),
        "grid 9 x 1": mean_of(grid(9, 1)),
    },
    seeds=SEEDS,
    metric="accuracy",
)
searches.plot(
    label="accuracy of the chosen network on other images",
    message="Random search beats the 3 x 3 grid, but a grid of nine learning rates beats both.",
)

# %% tags=["claim"]
print(searches.claim("random", ">", "grid 3 x 3"))
print(searches.claim("random", ">", "random, rate uniform", by=0.05))
print(searches.claim("grid 9 x 1", ">", "random"))

# %%
pairs = [
    (seed, i, a, b)
    for seed in range(SEEDS)
    for i, (a, b) in enumerate(
        zip(
            results_of(at_random(RATES), seed),
            results_of(grid(3, 3), seed),
            strict=True,
        )
    )
]
win_fraction = sum(a > b for _, _, a, b in pairs) / len(pairs)
print(
    f"random search found the better network in {win_fraction:.0%} of pairs"
)

as_if_independent = Results(
    [
        {"variant": name, "seed": (seed, i), "accuracy": value}
        for seed, i, a, b in pairs
        for name, value in (("random", a), ("grid", b))
    ],
    "accuracy",
)
print("180 searches:", as_if_independent.difference("random", "grid"))
print("12 seeds:    ", searches.difference("random", "grid 3 x 3"))

# %% tags=["check"]
check.prediction(
    "In what fraction of the pairs does random search win?",
    my_share_of_wins,
    win_fraction,
)

# %% [markdown]
# Random search finds better networks than the square grid on average, by 1.2 points (0.5 to 2.0). It doesn't win every
# time, because the peak of this landscape is wide, and three learning rates often hit it.
#
# Look at the last two intervals. If you count 180 searches as 180 independent results, the interval is narrower than it
# has any right to be. In our first study that decided the verdict. It had 200 searches on the runs of only five seeds,
# which gave +0.2 to +1.6 points, and we called that a win. But the means of the five seeds gave −0.5 to +2.3. And fifty
# searches hadn't been enough for an interval above zero, so we had gone on to two hundred. If you may go on until you
# like what you see, you'll sooner or later like it. That's why we ran the study again, with twelve seeds and with the
# claims written down first. So ask of every interval what was drawn independently, how many times, and who decided when
# to stop.
#
# Drawing the rate uniformly cost far more, since most of its trials went to rates at which nothing learns. And `grid
# 9 x 1` is what you could do if you *knew* that the rate matters and the decay does not: nine rates, evenly spaced.
# It beat chance. But to know it is what the search is for.
#
# ### What would change it
#
# **More parameters.** Add a third one to the search, which does nothing at all in these runs (it has the name
# `idle`), and give both strategies twenty-seven trials. The grid is now three by three by three, and sees three rates
# still.


# %% tags=["experiment"]
def with_idle(strategy):
    def search(seed, draw):
        def objective(rate, decay, idle):
            return recorded(seed)(rate, decay)

        idle = tune.Uniform(0, 1)
        if strategy == "random":
            space = {"rate": RATES, "decay": DECAYS, "idle": idle}
            found = tune.random_search(objective, space, 27, draw)
        else:
            right, up = torch.rand(2, generator=generator(draw)).tolist()
            options = {
                "rate": shifted(RATES, 3, right),
                "decay": shifted(DECAYS, 3, up),
                "idle": [1 / 6, 3 / 6, 5 / 6],
            }
            found = tune.grid_search(objective, options)
        return judged(seed, found)

    return mean_of(search, times=4)


changed = compare_declared(
    Declaration(
        "Does a third parameter that does nothing hurt the grid?",
        claims=[Claim("random, 27 trials", ">", "grid 3 x 3 x 3")],
        unit=fresh_data(),
        fixed="27 trials, the space, the recorded runs of a seed",
    ),
    {
        "grid 3 x 3 x 3": with_idle("grid"),
        "random, 27 trials": with_idle("random"),
    },
    seeds=SEEDS,
    metric="accuracy",
)
changed.plot(
    label="accuracy of the chosen network on other images",
    message="With a third parameter that doesn't matter, random search beats the grid.",
)

# %% tags=["claim"]
changed.claim("random, 27 trials", ">", "grid 3 x 3 x 3")

# %% [markdown]
# So the case for chance grows with the number of parameters that do not matter. Try the number of trials and the luck
# of the draw:

# %% tags=["widget"]
widgets.search_space(study)

# %% [markdown]
# Ticks at the axes show the learning rates and decays that were tried. Count them.
#
# ## 8.5 The winner's curse
#
# The winner of a search has the best validation accuracy. It won because it is good, and because it was lucky on
# these pictures. With more contestants there is more luck at the top. For $n$ networks that are *equally* good, with
# the true accuracy $p$ and a validation part of $m$ pictures, the measured accuracy has the standard deviation
# $\sqrt{p(1-p)/m}$, and the best of $n$ exceeds $p$ on average by no more than about
#
# $$ \sqrt{2 \log n} \; \sqrt{\frac{p (1-p)}{m}} , $$
#
# a bound for the largest of $n$ normal numbers, which is somewhat above the truth for small $n$.
#
# ### Predict
#
# Twenty-seven networks, each in truth right with probability 0.6, are measured on sixty pictures. The best looks like
# more than 0.6. By how much, on average? (A number such as 0.02.)

# %% tags=["predict"]
my_optimism = ...

# %% tags=["experiment"]
P, M = 0.6, 60


def best_of(n, m=M):
    """How much the best of n equally good networks seems better than it is."""

    def contest(seed):
        g = torch.Generator().manual_seed(seed)
        right = torch.rand(27, m, generator=g) < P  # 27 networks, m pictures
        return right[:n].float().mean(dim=1).max().item() - P

    return contest


guessers = compare_declared(
    Declaration(
        "How much better than it is does the best of several networks look?",
        claims=[
            Claim("best of 27", ">", "best of 1", by=0.05),
            Claim("best of 27", ">", "best of 27, 960 pictures", by=0.05),
        ],
        unit=fresh_data(),
        fixed="networks that are all correct with probability 0.6",
    ),
    {
        "best of 1": best_of(1),
        "best of 3": best_of(3),
        "best of 9": best_of(9),
        "best of 27": best_of(27),
        "best of 27, 960 pictures": best_of(27, 960),
    },
    seeds=40,
    metric="optimism",
)
bound = math.sqrt(2 * math.log(27) * P * (1 - P) / M)
print(f"the bound for 27 networks and 60 pictures: {bound:.3f}")
guessers.plot(
    label="apparent accuracy minus true accuracy",
    message="The more guessers and the fewer images, the better the best of them looks.",
)

# %% tags=["claim"]
print(guessers.claim("best of 27", ">", "best of 1", by=0.05))
print(guessers.claim("best of 27", ">", "best of 27, 960 pictures", by=0.05))

# %% tags=["check"]
check.prediction(
    "By how much does the best of 27 look better than it is?",
    my_optimism,
    guessers.values("best of 27").mean(),
    within=0.03,
)

# %% [markdown]
# No network has become any better from left to right, there were only more of them. Now real networks. The study kept
# the accuracy on the first sixty validation images of each run, `few_acc`, and the accuracy on 2,400 other images of the
# same kind. Choose by the first and judge by the second. (The test set wouldn't do here: its fonts are new, so the
# difference would be part luck, part fonts.) The last row is the best of 27 guessers once more.


# %% tags=["experiment"]
def optimism(n):
    """Search with n trials on sixty pictures; what remains on the others?"""

    def search(seed, draw):
        found = tune.random_search(recorded(seed, "few_acc"), SPACE, n, draw)
        return float(found["score"].max()) - judged(seed, found)

    return mean_of(search, times=4)


def guessers_of(n):
    """The same with n equally good networks, four contests per seed."""
    return mean_of(lambda seed, draw: best_of(n)(draw), times=4)


curse = compare_declared(
    Declaration(
        "Does the winner of a longer search look better than it is?",
        claims=[
            Claim("best of 27", ">", "best of 1"),
            Claim("best of 27 guessers", ">", "best of 27", by=0.03),
        ],
        unit=fresh_data(),
        fixed="sixty pictures to choose by, the space, the recorded runs",
    ),
    {f"best of {n}": optimism(n) for n in (1, 3, 9, 27)}
    | {"best of 27 guessers": guessers_of(27)},
    seeds=SEEDS,
    metric="optimism",
)
curse.plot(
    label="score of the best trial minus its true accuracy",
    message="The more trials, the more optimistic is the score of the best one.",
)

# %% tags=["claim"]
curse.claim("best of 27", ">", "best of 1")

# %% [markdown]
# So the validation accuracy of a tuned network is no estimate of what it will do: it is what it was chosen for. What
# helps: a validation part that is not small; a second run of the finalists, with other seeds; and at the very end,
# once, the test part.
#
# ### What would change it
#
# With real networks there is less to gain from luck than with the guessers, for two reasons. Most settings are so bad
# that no luck makes them win, so there are fewer true contestants than trials. And all networks are asked the same
# sixty pictures: what is hard for one is hard for the others, which shifts them together and decides nothing between
# them. The more alike your trials are, and that is what a fine search makes them, the more does luck decide.

# %% tags=["claim"]
curse.claim("best of 27 guessers", ">", "best of 27", by=0.03)

# %% [markdown]
# ## 8.6 The seven steps
#
# When there is a new data set on the table, where do you begin? This order is well known from the lectures
# of CS231n, whose [notes](https://cs231n.github.io/neural-networks-3/) explain most of the steps; in our words:
#
# 1. **Check the first loss.** Without training it should be near $\log K$ (chapter 7).
# 2. **Overfit a tiny batch.** A network that cannot learn a dozen pictures by heart has a bug, not a bad rate.
# 3. **Find a rate at which the loss falls**, and falls soon: within a hundred steps (chapter 5).
# 4. **Search coarsely**: wide ranges around that rate, few epochs, many trials.
# 5. **Refine**: narrower ranges around the best, fewer trials, more epochs.
# 6. **Look at the curves** of the best. The number at the end does not tell whether a run was still rising,
#    overfitted or shook.
# 7. **Go back** to 4 or 5 with what you saw, until it no longer pays.
#
# Each step is cheaper than the next one, and spares you many of them. Steps 1 to 3:

# %%
torch.manual_seed(0)
fresh = cnnlab.small_resnet(K)
batches = cnnlab.loader(data.train, 32, shuffle=True, seed=0)

first, expected = diagnose.initial_loss(fresh, batches, F.cross_entropy)
print(f"1. the first loss is {first:.2f}, log {K} is {expected:.2f}")
assert abs(first - expected) < 1

tiny = data.train.images[:12].float() / 255, data.train.labels[:12]
losses = diagnose.overfit_one_batch(fresh, tiny, F.cross_entropy, steps=60)
print(f"2. twelve pictures: the loss falls to {losses[-1]:.4f}")
assert losses[-1] < 0.1

optimizer = torch.optim.SGD(fresh.parameters(), lr=0.1, momentum=0.9)
ladder = tune.lr_find(
    fresh, optimizer, F.cross_entropy, batches, low=1e-4, high=1, steps=60
)
print(f"3. the loss falls most steeply at a rate of {ladder.suggest():.2g}")
ladder.plot()

# %% [markdown]
# Step 4. Eight short runs over four decades of rates, which hold what step 3 found well inside, two epochs each. The
# pictures are new ones, not those of the table of 8.3. `tune.random_search` draws and runs the trials. A trial that
# raises an error would get a NaN and keep its message, and the others would go on.


# %% tags=["experiment"]
def score(rate, decay, epochs):
    trainer = train_with_setting(
        data, 0, lr=rate, weight_decay=decay, epochs=epochs
    )
    return accuracy(trainer, data.valid)


def two_epochs(rate, decay):
    return score(rate, decay, epochs=2)


def five_epochs(rate, decay):
    return score(rate, decay, epochs=5)


wide = {
    "rate": tune.LogUniform(1e-4, 1),
    "decay": tune.LogUniform(1e-5, 1e-2),
}
coarse = tune.random_search(two_epochs, wide, 8, seed=0)
coarse.sort_values("score", ascending=False).round(5)

# %%
plots.trials(
    coarse,
    "rate",
    "decay",
    label="valid_acc",
    xlabel="learning rate",
    ylabel="weight decay",
    message="Eight short trials show which learning rates to refine.",
)

# %% [markdown]
# Step 5. `tune.refine` takes the range of the best trials and adds a margin of a tenth of the old range (of its
# logarithm, for a log-uniform one) on both sides, never beyond the old ends. `top=3` because the best one alone may
# have been lucky. Then fewer trials with more epochs:

# %% tags=["experiment"]
narrow = tune.refine(wide, coarse, top=3)
for name, kind in narrow.items():
    print(f"{name}: from {kind.low:.1e} to {kind.high:.1e}")
    assert wide[name].low <= kind.low < kind.high <= wide[name].high

fine = tune.random_search(five_epochs, narrow, 5, seed=1)
fine.sort_values("score", ascending=False).round(5)

# %% [markdown]
# Do not compare the two tables with each other: the second had more epochs. Within each, the order counts. And keep
# in mind that a ranking after two epochs is a guess about the ranking after fifty. Large rates often look worse early
# and better late, and weight decay and dropout do nothing at first but cost. Let the fine search decide on those.
#
# Step 6, the curves of the winner:

# %%
best = fine.loc[fine["score"].idxmax()]
winner = train_with_setting(
    data,
    0,
    lr=best["rate"],
    weight_decay=best["decay"],
    epochs=5,
    valid=cnnlab.loader(data.valid, 256),
)
winner.history.plot()

# %% [markdown]
# And step 7: is the best rate at an end of what was tried? Then the peak may lie beyond, and the range must move.
# Exercise 3 makes a function of that. A warning that belongs here too: `refine` alone never looks beyond the first
# range. It narrows.
#
# ## 8.7 Batch size
#
# A batch of $B$ pictures gives a gradient $g_B$, a mean over the batch. It scatters about the gradient $g$ of the
# whole training part. When pictures are drawn independently, the **gradient noise** falls like any variance of a
# mean,
#
# $$ \mathrm{E} \, \lVert g_B - g \rVert^2 = \frac{1}{B} \operatorname{tr} \Sigma , $$
#
# with the covariance $\Sigma$ of the gradients of single pictures. Measured on a network that has had some training
# (in evaluation mode, so that batch norm does not couple the pictures):

# %%
measured = train_with_setting(
    data, 0, lr=0.03, weight_decay=1e-4, epochs=1
).model.eval()


def gradient(index):
    """Gradient of the mean loss over some training pictures, as one vector."""
    images = data.train.images[index].float() / 255
    loss = F.cross_entropy(measured(images), data.train.labels[index])
    parts = torch.autograd.grad(loss, list(measured.parameters()))
    return torch.cat([part.flatten() for part in parts])


whole = gradient(torch.arange(len(data.train)))
g = torch.Generator().manual_seed(0)
noise = {}
for size, times in ((8, 160), (32, 80), (128, 40)):
    draws = [
        torch.randint(len(data.train), (size,), generator=g)
        for _ in range(times)
    ]
    away = [(gradient(d) - whole).square().sum().item() for d in draws]
    noise[size] = sum(away) / len(away)
    print(f"batch {size}: noise {noise[size]:.3f}")
ratio = noise[8] / noise[128]
print(f"sixteen times the pictures: {ratio:.0f} times less noise")
assert 6 < ratio < 40  # a few loud batches make it an uncertain number

# %% [markdown]
# So what changes when you change *nothing but* the batch size, from 32 to 128?
#
# - In an epoch there are four times fewer steps. At the same rate and the same number of epochs the weights get less
#   far. This is the effect that people meet first and put down to other causes.
# - Each step is less noisy. With momentum $m$ the noise in the weights goes with $\eta / (B (1 - m))$ ([Smith et al.
#   2018](https://arxiv.org/abs/1711.00489)), so a larger batch is like a smaller rate.
# - Batch norm sees statistics of more pictures (chapter 2), an epoch may be faster, the memory for activations grows
#   fourfold.
#
# The **linear scaling rule** ([Goyal et al. 2017](https://arxiv.org/abs/1706.02677)) follows from the first point:
# $k$ small steps with rate $\eta$ go about as far as one step with rate $k \eta$, as long as the gradient changes
# little in between. So with a batch $k$ times larger take a learning rate $k$ times larger, and warm it up (chapter 5).
# For large learning rates it no longer holds. The study `studies/08_batch.py` trains six epochs on 600 signs, new ones
# for each of ten seeds, with a learning rate of 0.01 for batches of 32. Its four claims were declared before it ran:

# %%
batch_study = Results.load("studies/08_batch.csv")
batch_study.plot(
    message="At the same learning rate and epochs, batches of 128 fall behind; as many steps bring them level."
)

# %% tags=["claim"]
small, large = "batch 32, lr 0.01", "batch 128, lr 0.01"
scaled, as_many = "batch 128, lr 0.04", "batch 128, lr 0.01, as many steps"
print(batch_study.claim(small, ">", large, by=0.1))
print(batch_study.claim(scaled, ">", large, by=0.05))
print(batch_study.claim(small, ">", scaled))
print(batch_study.claim(as_many, "~", small, by=0.02))

# %% [markdown]
# With the same learning rate and the same number of epochs, the larger batch is far behind. Four times the learning rate
# gives part of that back, but not all: the rule is about steps in which the gradient changes little, and in the first
# steps of a fresh network everything changes. The last row has as many steps as the small batch, which takes 27 epochs
# instead of six on the same signs. There the two batch sizes end within two points of each other. It was the number of
# steps that made the difference. So before you say anything about batch sizes, ask for the learning rate *and* the
# number of steps.
#
# ## 8.8 Keep a record
#
# After thirty runs nobody remembers which was which. Let each run write down its settings and its curves while it
# goes on. `CSVLog` needs nothing and writes a table that any program reads. `TensorBoardLog` writes for
# [TensorBoard](https://www.tensorflow.org/tensorboard), which draws the runs over each other in a browser. Give each
# run a folder of its own whose name tells the setting:

# %%
with tempfile.TemporaryDirectory() as folder:
    run = Path(folder, "rate=0.03,decay=1e-4,seed=0")
    record = [callbacks.CSVLog(run / "history.csv")]
    if find_spec("tensorboard"):
        record.append(callbacks.TensorBoardLog(run))
    train_with_setting(
        data,
        0,
        lr=0.03,
        weight_decay=1e-4,
        epochs=2,
        valid=cnnlab.loader(data.valid, 256),
        callbacks=record,
    )
    table = (run / "history.csv").read_text().splitlines()
    events = list(run.glob("events.out.tfevents.*"))

print(f"history.csv: a header and {len(table) - 1} rows")
assert len(table) == 3
if events:
    print("and the events for TensorBoard")
else:
    print("TensorBoard is not installed: pip install 'cnnlab[log]'")

# %% [markdown]
# In your own work the folder stays, for example `runs`. Then, in a terminal, `tensorboard --logdir runs` shows all of
# them; open the address it prints. What a record needs besides the curves: the version of the code, the seed, and
# every setting, those you did not touch too.
#
# ## 8.9 A search on several machines
#
# Trials do not need each other, so a search is easily shared. On one machine, `tune.random_search(..., jobs=4)` runs
# four trials at a time: trial $i$ is a function of the seed and of $i$ alone, so the table is the same. Two machines
# need a place where each tells the others what it has tried. [Optuna](https://optuna.org) ([Akiba et al.
# 2019](https://arxiv.org/abs/1907.10902)) calls it a **storage**. The simplest is a journal: a file to which every
# process appends a line for each thing it does, under a lock. Here is a whole worker. It takes the path of the
# journal and its own seed:

# %%
worker = """
import math, sys
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

journal, seed = sys.argv[1], int(sys.argv[2])
lock = JournalFileOpenLock(journal)
storage = JournalStorage(JournalFileBackend(journal, lock_obj=lock))
optuna.logging.set_verbosity(optuna.logging.WARNING)

def objective(trial):  # here you would train, and return valid_acc
    rate = trial.suggest_float("rate", 1e-4, 1, log=True)
    trial.set_user_attr("worker", seed)
    return 1 - (math.log10(rate) + 1.2) ** 2

study = optuna.create_study(
    study_name="signs",
    storage=storage,
    direction="maximize",
    load_if_exists=True,  # the first worker makes it, the others join
    sampler=optuna.samplers.TPESampler(seed=seed),
)
study.optimize(objective, n_trials=8)
"""

# %% [markdown]
# `suggest_float(..., log=True)` is our log-uniform. The sampler, TPE, is no plain random search: after some random
# trials it prefers places near good ones ([Bergstra et al.
# 2011](https://papers.nips.cc/paper/4443-algorithms-for-hyper-parameter-optimization)), and it learns from the trials
# of the *other* workers too. Each worker has its own seed, or all would begin with the same draws. The next cell
# starts two workers at the same time, as you would in two terminals:

# %%
if find_spec("optuna"):
    with tempfile.TemporaryDirectory() as folder:
        script, journal = Path(folder, "worker.py"), Path(folder, "signs.log")
        script.write_text(worker)
        both = [
            subprocess.Popen(
                [sys.executable, str(script), str(journal), str(seed)]
            )
            for seed in (0, 1)
        ]
        assert [process.wait() for process in both] == [0, 0]

        from optuna import load_study
        from optuna.storages import JournalStorage, journal as journals

        lock = journals.JournalFileOpenLock(str(journal))
        backend = journals.JournalFileBackend(str(journal), lock_obj=lock)
        shared = load_study(
            study_name="signs", storage=JournalStorage(backend)
        )
        by = [trial.user_attrs["worker"] for trial in shared.trials]
    print(f"{len(by)} trials in one journal, from workers {sorted(set(by))}")
    assert len(by) == 16
    assert by.count(0) == by.count(1) == 8
else:
    print("Optuna is not installed: pip install 'cnnlab[search]'")

# %% [markdown]
# For two processes on one machine, in two terminals:
#
# ```
# python worker.py signs.log 0
# python worker.py signs.log 1
# ```
#
# For two machines put the journal into a folder that both have mounted, and start one worker on each:
#
# ```
# machine-a$ python worker.py /nfs/signs.log 0
# machine-b$ python worker.py /nfs/signs.log 1
# ```
#
# Then look, from either: `optuna best-trial --study-name signs --storage /nfs/signs.log` (Optuna calls this command
# experimental), or `load_study` as above. A worker that is killed takes nothing with it but its own trial; start
# it again (with another seed) and it joins. Where no folder is shared, a database takes the place of the journal:
# `storage="postgresql://user@host/signs"` in `create_study`, the rest stays. Do not put SQLite on a network drive,
# its locks do not hold there. And a warning: with several workers the order of trials depends on who is faster, so
# such a search cannot be repeated exactly. Keep its table.
#
# The library has such a worker, `cnnlab.search.shared_search`: give it an objective, a space as in 8.6, a number of
# trials and a storage, and call it on as many machines as you have. It hands your objective a callback, `prune`, for
# the trainer. That reports `valid_acc` after each epoch, and ends a run which is worse than half of the others were at
# the same epoch: most of the time then goes to the promising ones.

# %% [markdown]
# ## Exercises
#
# ### Exercise 1: `log_uniform` (easy, 8 minutes)
#
# Turn a uniform draw `u` between 0 and 1 into a log-uniform value: `low` for 0, `high` for 1.


# %% tags=["exercise"]
def log_uniform(u, low, high):
    """Return the log-uniform value between low and high that belongs to u."""
    raise NotImplementedError


# %% tags=["check"]
check.log_uniform(log_uniform)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: the ends are right, the middle is not</b></summary>
#
# Between 0.001 and 0.1 half-way lies 0.01, not 0.05.
#
# </details>
#
# <details>
# <summary><b>Hint: already the ends are wrong</b></summary>
#
# Which function undoes `math.log10`, and which undoes `math.log`?
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def log_uniform(u, low, high):
    """Return the log-uniform value between low and high that belongs to u."""
    return low * (high / low) ** u


check.log_uniform(log_uniform)

# %% [markdown]
# ### Exercise 2: `best_setting` (medium, 15 minutes)
#
# `table` is a list of runs, such as `{"rate": 0.1, "decay": 1e-4, "seed": 0, "valid_acc": 0.71}`. A setting is a pair
# `(rate, decay)` and may have one run or several, with different seeds. A run that diverged has the accuracy
# `float("nan")`. Return the setting with the best mean over its seeds. A setting that diverged with any seed is out.
# Of equally good settings the one that comes first in the table wins.


# %% tags=["exercise"]
def best_setting(table):
    """Return the (rate, decay) with the best mean accuracy over seeds."""
    raise NotImplementedError


# %% tags=["check"]
check.best_setting(best_setting)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: a setting with NaN wins</b></summary>
#
# `nan > 0.9` is False, and so is `0.9 > nan`. `math.isnan` tells.
#
# </details>
#
# <details>
# <summary><b>Hint: the setting with the most runs wins</b></summary>
#
# Are you comparing sums?
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def best_setting(table):
    """Return the (rate, decay) with the best mean accuracy over seeds."""
    runs_of = {}
    for row in table:
        setting = row["rate"], row["decay"]
        runs_of.setdefault(setting, []).append(row["valid_acc"])
    means = {
        setting: sum(values) / len(values)
        for setting, values in runs_of.items()
        if not any(math.isnan(value) for value in values)
    }
    return max(means, key=means.get)


check.best_setting(best_setting)

# %% [markdown]
# ### Exercise 3: `next_range` (medium, 15 minutes)
#
# You have tried some rates, in any order; `scores[i]` is the accuracy at `rates[i]`, or NaN where the run diverged.
# Return `(low, high)`, the range to search next. Between the next smaller and the next larger rate that was tried
# lies the peak. When the best rate is the smallest one tried, nobody knows what is below: then `low` is a tenth of
# it. When it is the largest, `high` is ten times it. A rate that diverged was tried as well.


# %% tags=["exercise"]
def next_range(rates, scores):
    """Return (low, high), where to search for a better rate."""
    raise NotImplementedError


# %% tags=["check"]
check.next_range(next_range)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: wrong when all larger rates diverged</b></summary>
#
# Leave them out when you look for the best, but not when you look for its neighbours.
#
# </details>
#
# <details>
# <summary><b>Hint: the neighbours are wrong</b></summary>
#
# The list is in the order of the trials. Which rates are smaller than the best, and which of them is the largest?
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def next_range(rates, scores):
    """Return (low, high), where to search for a better rate."""
    pairs = zip(scores, rates, strict=True)
    _, best = max(pair for pair in pairs if not math.isnan(pair[0]))
    low = max((r for r in rates if r < best), default=best / 10)
    high = min((r for r in rates if r > best), default=best * 10)
    return low, high


check.next_range(next_range)

# %% [markdown]
# ## Make it bigger
#
# The coarse search on CIFAR-10. It downloads 170 MB once and wants a GPU, so it runs only when the environment
# variable `CNNLAB_PROFILE` is `gpu`. Then refine it with `tune.refine`, and put the Optuna worker of 8.9 in its
# place.

# %% tags=["bigger"]
if lab.profile == "gpu":
    photos = cnnlab.load("cifar10", download=True)

    def on_photos(rate, decay):
        torch.manual_seed(0)
        model = cnnlab.small_resnet(num_classes=10, width=32, depth=3)
        optimizer = torch.optim.SGD(
            model.parameters(), lr=rate, momentum=0.9, weight_decay=decay
        )
        trainer = cnnlab.Trainer(model, optimizer)
        trainer.fit(
            cnnlab.loader(photos.train, 128, shuffle=True),
            cnnlab.loader(photos.valid, 512),
            epochs=3,
        )
        return float(trainer.history.frame()["valid_acc"].iloc[-1])

    print(tune.random_search(on_photos, wide, 20))
else:
    print("left out: set CNNLAB_PROFILE=gpu to run it")

# %% [markdown]
# ## Key points
#
# - Draw rates and decays log-uniformly. Tune the learning rate first.
# - Random search tries as many values of each parameter as it has trials, a grid only a root of that. Few parameters
#   matter, and you do not know which: that is why chance wins, where it wins.
# - Coarse first, with few epochs; then finer, with more. A best value at an end of the range means: move the range.
# - The winner is partly lucky. Its validation accuracy is too high, the more so the more trials and the fewer
#   pictures. Repeat the finalists with other seeds, and open the test part once.
# - A larger batch means fewer and less noisy steps. Scale the learning rate with it, and never compare batch sizes without
#   naming the learning rate and the number of steps.
# - Write down every run.
#
# ## Common mistakes
#
# | what you see | what it often is |
# |---|---|
# | nearly all trials diverge | rates drawn uniformly, or a range that is far too high |
# | the best value is the smallest or largest tried | the range ends too early |
# | the winner is much worse when it is trained again | chosen by one run, or by a small validation part |
# | "larger batches generalise worse" | the same rate and epochs, so a fraction of the steps |
# | a coarse search discards weight decay and dropout | too few epochs for them to act |
# | two workers report the same trials | the same seed, or each has a study of its own: no shared storage |
# | a setting with NaN heads the table | NaN compared with numbers |
#
# ## References
#
# - J. Bergstra and Y. Bengio, *Random search for hyper-parameter optimization*, 2012,
#   [jmlr.org/papers/v13/bergstra12a.html](https://jmlr.org/papers/v13/bergstra12a.html)
# - J. Bergstra, R. Bardenet, Y. Bengio and B. Kégl, *Algorithms for hyper-parameter optimization*, 2011,
#   [papers.nips.cc/paper/4443](https://papers.nips.cc/paper/4443-algorithms-for-hyper-parameter-optimization)
# - Y. Bengio, *Practical recommendations for gradient-based training of deep architectures*, 2012,
#   [arXiv:1206.5533](https://arxiv.org/abs/1206.5533)
# - A. Karpathy, *CS231n: neural networks part 3: learning and evaluation*,
#   [cs231n.github.io/neural-networks-3](https://cs231n.github.io/neural-networks-3/)
# - P. Goyal and others, *Accurate, large minibatch SGD: training ImageNet in 1 hour*, 2017,
#   [arXiv:1706.02677](https://arxiv.org/abs/1706.02677)
# - S. L. Smith, P.-J. Kindermans, C. Ying and Q. V. Le, *Don't decay the learning rate, increase the batch size*,
#   2018, [arXiv:1711.00489](https://arxiv.org/abs/1711.00489)
# - L. N. Smith, *A disciplined approach to neural network hyper-parameters: part 1*, 2018,
#   [arXiv:1803.09820](https://arxiv.org/abs/1803.09820)
# - T. Akiba, S. Sano, T. Yanase, T. Ohta and M. Koyama, *Optuna: a next-generation hyperparameter optimization
#   framework*, 2019, [arXiv:1907.10902](https://arxiv.org/abs/1907.10902)

# %% [markdown] tags=["instructor", "remove-cell"]
# ## When you are short of time
#
# 8.2, 8.4 and 8.5. The winner's curse takes five minutes and changes how people read tables.
#
# ## Questions for the room
#
# - Random beat the grid by one point only. Why is it still the better habit?
# - 180 searches on the runs of twelve seeds: why are these not 180 results? Which other numbers of this course have a
#   unit that is easy to get wrong?
# - You have 27 trials. How many seeds, how many settings?
# - Would you publish the best run, the mean of the best setting, or something else?

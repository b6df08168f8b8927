# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 10. Fine-tuning
#
# **Questions.** A pretrained network is more than a store of features: you can train it on. How much of it, at which
# rate, in which order? What is destroyed when the rate is too large? What becomes of the norms? Which strategy fits
# which task, and does the rule that everybody quotes hold? And what if the pictures themselves change?
#
# **Afterwards you can** set rates stage by stage, write a plan for unfreezing, keep frozen norms frozen, measure how
# far features have drifted, choose a strategy by a comparison and not by hearsay, and use pictures without labels when
# the light has changed.
#
# | | |
# |---|---|
# | to read | 35 minutes |
# | to run | 65 seconds on one core of a laptop; no internet, no GPU |
# | you need | chapters 1, 2 and 9; chapter 5 helps |

# %% tags=["setup"]
from functools import lru_cache

import pandas as pd
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from studies.common import (
    accuracy_of,
    drift,
    fine_tune,
    fit_head,
    new_glyphnet,
)
from torch import nn

import cnnlab
from cnnlab import check, plots, schedules, transfer
from cnnlab.callbacks import GradualUnfreeze
from cnnlab.data import imbalance
from cnnlab.experiment import (
    Claim,
    Declaration,
    Results,
    compare_declared,
    splits,
)
from cnnlab.models.backbones import GLYPHNET
from cnnlab.transfer import extract_features, freeze, train_mode, unfreeze

lab = cnnlab.setup(seed=0)
STAGES = ("stem", "block 1", "block 2", "head")
DIGITS = splits(960, 600)  # every seed splits the same digits anew
STEPS = 10 if lab.profile == "smoke" else 100  # of a run


@lru_cache  # a cell that runs again does not draw again
def ten_each(target, seed):
    """Return ten training images per class, and the test images."""
    options = {"n_train": 960, "n_test": 2400} if target == "pocket" else {}
    data = cnnlab.load(target, seed=seed, **options)
    few = imbalance(data.train, [10] * len(data.classes), seed)
    return few, data.test


# %% [markdown]
# ## 10.1 How much of the network
#
# Chapter 9 used the features as they are: the network was frozen, and a new head was trained on features that were
# computed once. You begin the same way here. `new_glyphnet` returns the pretrained network with a new head that belongs
# to a seed, and `fit_head` trains this head alone, which is quick and safe. Both are in `studies/common.py`, because
# the stored studies of this chapter call them too, and `fit_head??` in a cell of your own shows the code.

# %%
few, test = ten_each("digits", 0)
model = new_glyphnet(0, 10)
fit_head(model, few)
print(f"test accuracy {accuracy_of(model, test):.3f}")
stages = cnnlab.stages(model)  # bottom to top; the last one is the head
for name, stage in zip(STAGES, stages, strict=True):
    print(f"{name:8} {sum(p.numel() for p in stage.parameters()):7,} weights")

# %% [markdown]
# Then it can go on learning with the rest. There are four **strategies**, by how much of the network moves:
#
# | strategy | what learns | rate |
# |---|---|---|
# | **feature extraction** | the head | usual |
# | **top layers** | the head first, then also the upper stages | small |
# | **fine-tuning** | the head first, then everything | small: 10 to 100 times below the usual one |
# | **full training** | everything at once, from the old weights | usual |
#
# Which one? The rule that is taught everywhere (Karpathy, [CS231n](https://cs231n.github.io/transfer-learning/)) asks
# two questions: how many labelled images you have, and how similar they are to those of the old task. `transfer.advise`
# knows it by heart, in a common form (for few and different images those notes would rather fit a linear classifier to
# lower features):

# %%
rule = pd.DataFrame(
    {
        f"{similarity} similarity": {
            f"{n} images a class": transfer.advise(n, similarity).strategy
            for n in (10, 100)
        }
        for similarity in ("high", "low")
    }
)
rule

# %% [markdown]
# The reasons sound good. Few images cannot determine many weights, so train few weights; features that belong to
# another task do not help, so train more of them. But are they measured? Two studies did it on all four fields. Similar
# to printed letters are handwritten digits (`chapters/studies/10_strategies.py`, five seeds, each with its own split of
# the same digits). Different are traffic signs (`10_strategies_signs.py`, six seeds, each with signs of its own). The
# usual rate is 0.01, the small one 0.001, both of AdamW; on each field everything that trains takes
# the same number of steps. The rates were chosen with other seeds, on the fields with few images; the hundred and fifty
# steps on the fields with many were what there was time for.
#
# ### Predict
#
# Ten traffic signs a class. Which strategy has the highest accuracy: `"feature extraction"`, `"top layers"`,
# `"fine-tuning"` or `"full training"`?

# %% tags=["predict"]
my_strategy_for_ten_signs = ...

# %% [markdown]
# First, run a small part of it yourself, with three seeds. `fine_tune` trains whatever isn't frozen, and the studies
# call it too (`fine_tune??` shows its code). It gives AdamW the groups of `param_groups`, without weight decay where it
# does harm (chapter 2), and a learning rate that falls along a cosine.


# %% tags=["experiment"]
def signs_head_only(seed):
    few, test = ten_each("pocket", seed)
    model = new_glyphnet(seed, 12)
    fit_head(model, few)
    return accuracy_of(model, test)


def signs_full_training(seed):
    few, test = ten_each("pocket", seed)
    model = new_glyphnet(seed, 12)
    fine_tune(model, few, seed, lr=0.01, steps=STEPS)
    return accuracy_of(model, test)


live_signs = cnnlab.compare(
    {
        "feature extraction, 10 signs a class": signs_head_only,
        "full training, 10 signs a class": signs_full_training,
    },
    seeds=3,
    metric="test_acc",
)
similar = Results.load("studies/10_strategies.csv")
different = Results.load("studies/10_strategies_signs.csv")
live_signs.plot(
    different,
    message="On signs, full training beats feature extraction, even with ten images per class.",
)

# %% [markdown]
# Your runs are coloured, and those of the study are grey. All four fields, as means:

# %%
STRATEGIES = (
    "feature extraction",
    "top layers",
    "fine-tuning",
    "full training",
    "from scratch",
)
FIELDS = {
    "10 digits": ("similar", 10),
    "100 digits": ("similar", 100),
    "10 signs": ("different", 10),
    "100 signs": ("different", 100),
}


def named(strategy, field):
    """The name of a strategy on a field, as the studies have it."""
    return f"{strategy}, {field} a class"


def study_of(field):
    """The study that has this field."""
    return similar if "digits" in field else different


plots.heatmap(
    [
        [
            study_of(field).values(named(strategy, field)).mean()
            for field in FIELDS
        ]
        for strategy in STRATEGIES
    ],
    STRATEGIES,
    list(FIELDS),
    label="test accuracy (mean of the runs)",
    xlabel="training images per class",
    ylabel="strategy",
    message="Full training is best on signs, but not with ten digits per "
    "class.",
)

# %% tags=["check"]
check.prediction(
    "Best strategy for ten signs per class?",
    my_strategy_for_ten_signs,
    max(
        STRATEGIES[:4],
        key=lambda s: different.values(named(s, "10 signs")).mean(),
    ),
    options=STRATEGIES[:4],
)

# %% [markdown]
# Now hold the rule against it, field by field. For each, the strategy the rule names, the best mean of the four, and
# the interval of the difference. (The winner was picked from the very runs it is judged by, so take a small gap for
# less than it looks.)

# %%
rows = []
for field, (similarity, n) in FIELDS.items():
    stored = study_of(field)
    level = "high" if similarity == "similar" else "low"
    told = transfer.advise(n, level).strategy
    best = max(
        STRATEGIES[:4], key=lambda s: stored.values(named(s, field)).mean()
    )
    gap = stored.difference(named(best, field), named(told, field))
    rows.append(
        {
            "field": field,
            "the rule": told,
            "best mean": best,
            "gap": str(gap),
        }
    )
pd.DataFrame(rows).set_index("field")

# %% [markdown]
# **Ten digits.** The rule is right to be gentle: full training throws away much of what was there. Moving the upper
# stages as well as the head has a higher mean than the head alone, by about two points, but these five splits can't
# rule out that it's no better. Whether the lower stages move too makes no difference to speak of.

# %% tags=["claim"]
ten = "10 digits"
print(
    similar.claim(
        named("top layers", ten), ">", named("full training", ten), by=0.02
    )
)
print(
    similar.verdict(
        named("top layers", ten), ">", named("feature extraction", ten)
    )
)
print(
    similar.claim(
        named("fine-tuning", ten), "~", named("top layers", ten), by=0.02
    )
)

# %% [markdown]
# **Ten signs.** Here the rule doesn't hold. It says: few images, so don't move much. Yet moving everything, at the large
# rate, is clearly the best. Features of letters are of little use for signs. The head alone on top of them is about as
# good as a network from scratch, give or take two points, and a hundred small steps, it seems, don't lead far from them.
# (Full training differs in two things: the large rate, and no head first. This study can't tell which of them it was.)

# %% tags=["claim"]
ten = "10 signs"
print(
    different.claim(
        named("full training", ten), ">", named("top layers", ten), by=0.02
    )
)
print(
    different.verdict(
        named("feature extraction", ten),
        "~",
        named("from scratch", ten),
        by=0.02,
    )
)

# %% [markdown]
# **A hundred signs.** The rule says full training, and so do the runs. **A hundred digits.** It says fine-tuning, and
# that is better than the head alone. Full training is level with fine-tuning, give or take two points.

# %% tags=["claim"]
hundred = "100 signs"
print(
    different.claim(
        named("full training", hundred),
        ">",
        named("fine-tuning", hundred),
        by=0.02,
    )
)
hundred = "100 digits"
print(
    similar.claim(
        named("fine-tuning", hundred),
        ">",
        named("feature extraction", hundred),
    )
)
print(
    similar.verdict(
        named("full training", hundred),
        "~",
        named("fine-tuning", hundred),
        by=0.02,
    )
)

# %% [markdown]
# In these four fields, with this small network, **the similarity matters more than the number of labels**. You need not
# guess the similarity, because you can measure it. Where frozen features beat a network from scratch by far, they are
# worth protecting. Where they don't, let go of them. Starting from the old weights pays even then:

# %% tags=["claim"]
for field, by in (
    ("10 digits", 0.1),
    ("10 signs", 0.02),
    ("100 signs", 0.02),
):
    old, new = named("full training", field), named("from scratch", field)
    print(study_of(field).claim(old, ">", new, by=by))

# %% [markdown]
# ### What would change it
#
# - **Time.** All arms of a field took the same hundred or hundred and fifty steps, on purpose; a network from scratch
#   would catch up with more of them, and a small rate would get further. A claim about labels saved needs a longer
#   scratch arm (chapter 9).
# - **The size of the network.** glyphnet has 163 thousand weights below its head. With millions of them there is more to overfit with,
#   and more to protect.
# - **The rates.** Two were compared. The next section looks at what lies between.
#
# So take the rule for what it is, a place to begin, and compare it with its neighbour on the validation part.
#
# %% [markdown]
# ## 10.2 How large a rate
#
# The weights of a fresh network are worth nothing, so a large step costs nothing. Pretrained weights are worth what the
# old task has put into them, and a step of the usual size can undo that before the new task has had its say. Hence the
# old advice: **10 to 100 times smaller** than the usual rate.
#
# What "undo" means can be measured. Take pictures that have nothing to do with the new task, here glyphs, and their
# features before and after, $f_0(x)$ and $f(x)$. The **drift** is the change relative to the size,
#
# $$ \text{drift} = \sqrt{\frac{\sum_x \lVert f(x) - f_0(x) \rVert^2}{\sum_x \lVert f_0(x) \rVert^2}} . $$
#
# A drift alone is no damage: turned features are as good as before. So the study of this section,
# `chapters/studies/10_rates.py`, also asks what the drifted features still know of the old task: it fits a linear probe
# (chapter 9) to read glyphs off them.
#
# And in which order? A new head is random. Its first gradients are large and say little, yet they run down through the
# whole network and bend features to please a head that knows nothing. [Kumar et al.
# 2022](https://arxiv.org/abs/2202.10054) show it for two-layer linear networks, and measure it on ten data sets with
# shifted test images: on those, fine-tuning from a random head did worse than the head alone; the head first and then
# everything, **LP-FT** (linear probe, then fine-tune), did better than both.
#
# ### Predict
#
# Ten digits a class, the head first, then everything for a hundred steps. At a rate of 0.03 instead of 0.001, how much
# test accuracy do you lose? (0.1 would be ten points.)

# %% tags=["predict"]
my_loss_by_a_large_rate = ...


# %% tags=["experiment"]
@lru_cache
def glyph_loader(seed):
    """Glyphs that glyphnet was not trained on, drawn anew for each seed."""
    glyphs = cnnlab.load(
        "glyphs", seed=1 + seed, n_train=97, n_valid=97, n_test=485
    )
    return cnnlab.loader(glyphs.test, 485)


@lru_cache
def as_shipped(seed):
    """The features of these glyphs before anything has been trained."""
    return extract_features(new_glyphnet(0, 10), glyph_loader(seed))[0]


def head_first(seed, lr):
    """Train the head, then all layers at a learning rate; 0 stops before."""
    few, test = ten_each("digits", seed)
    model = new_glyphnet(seed, 10)
    fit_head(model, few)
    if lr:
        fine_tune(model, few, seed, lr=lr, steps=STEPS)
    after, _ = extract_features(model, glyph_loader(seed))
    return {
        "test_acc": accuracy_of(model, test),
        "drift": drift(as_shipped(seed), after),
    }


def head_only(seed):
    return head_first(seed, lr=0)


def small_lr(seed):
    return head_first(seed, lr=0.001)


def large_lr(seed):
    return head_first(seed, lr=0.03)


live_rates = cnnlab.compare(
    {
        "head only": head_only,
        "head first, rate 0.001": small_lr,
        "head first, rate 0.03": large_lr,
    },
    seeds=3,
    metric="test_acc",
)
stored_rates = Results.load("studies/10_rates.csv")
live_rates.plot(
    stored_rates,
    message="At a learning rate of 0.03, fine-tuning is worse than training the head alone.",
)

# %% [markdown]
# Your three runs are coloured. The study, in grey, has five seeds and two more learning rates. Each seed splits the same
# digits anew, so its intervals are widened (chapter 9), and draws its own glyphs.

# %%
rates = (0.001, 0.003, 0.01, 0.03)
at_rates = (
    stored_rates.frame()
    .groupby("variant")[["test_acc", "old_task", "drift"]]
    .mean()
)
by_rate = at_rates.loc[
    ["head only", *(f"head first, rate {r}" for r in rates)]
]
by_rate.round(3)

# %%
body = by_rate.iloc[1:]
plots.lines(
    rates,
    {
        title: {
            "all layers trained": body[column].tolist(),
            "head only, features as shipped": [by_rate[column].iloc[0]]
            * len(rates),
        }
        for title, column in (
            ("new task: digits", "test_acc"),
            ("old task: a probe for glyphs", "old_task"),
        )
    },
    xlabel="learning rate of AdamW",
    ylabel="accuracy (mean of five runs)",
    message="The larger the learning rate, the less is left of the features.",
    log="x",
)

# %% [markdown]
# At the small rate the mean is two points above the head alone, although five splits can't rule out that nothing is
# gained, and the old task hardly suffers. At the rate a fresh network would be trained with, the new task is far worse
# off than if you had left the body alone, and little can be read of the glyphs any more. The features have been
# overwritten, and a hundred digits are too few to replace them by better ones.

# %% tags=["claim"]
old_task = stored_rates.on("old_task")
print(stored_rates.verdict("head first, rate 0.001", ">", "head only"))
print(stored_rates.claim("head first, rate 0.03", "<", "head only", by=0.05))
print(old_task.claim("head first, rate 0.03", "<", "head only", by=0.1))
print(
    "drift, rate 0.03 - rate 0.001:",
    stored_rates.on("drift").difference(
        "head first, rate 0.03", "head first, rate 0.001"
    ),
)

# %% tags=["check"]
check.prediction(
    "How much test accuracy is lost at 0.03?",
    my_loss_by_a_large_rate,
    stored_rates.difference(
        "head first, rate 0.001", "head first, rate 0.03"
    )[0],
    within=0.05,
)

# %% [markdown]
# But the drift alone says little: already at the small rate it is a third of the features' size, and a probe reads the
# glyphs about as well as before. What it destroys counts, not how far it goes. And remember the signs: there full
# training at 0.01 was the best of all. A small rate protects; whether there is something to protect is another
# question.
#
# ### What would change it
#
# Fewer steps, or a larger batch, do less at the same rate, and so does SGD at another scale of rates altogether: "10 to
# 100 times smaller" is meant relative to what the same optimizer takes for a network from scratch. Try a factor of 10
# first, then its neighbours.
#
# %% [markdown]
# ## 10.3 Not every stage alike
#
# Lower stages look for edges and corners, which serve nearly every task; upper ones for the parts of letters (chapter
# 9). So they need not move alike. **Layer-wise rates** shrink by a factor from each stage to the one below: with the
# stages $l = 0, \dots, L$ from the bottom to the top, where $L$ is the head,
#
# $$ \eta_l = \eta \, \gamma^{\,L-l}, \qquad 0 < \gamma \le 1 . $$
#
# Howard and Ruder ([2018](https://arxiv.org/abs/1801.06146)) took $\gamma = 1/2.6$; 0.5 to 0.9 are usual, the larger
# the more stages there are. With twelve stages and $\gamma = 0.5$ the lowest would move two thousand times slower than
# the head, and might as well be frozen.

# %%
groups = transfer.param_groups(
    new_glyphnet(0, 10), lr=0.003, weight_decay=0.01, layer_decay=0.4
)
for group in groups:
    print(
        f"{group['name']:18} rate {group['lr']:.2e}, "
        f"weight decay {group['weight_decay']}"
    )
assert abs(groups[-1]["lr"] - 0.003 * 0.4**3) < 1e-12

# %% [markdown]
# `attach` multiplies each group's own rate, so any schedule keeps the ratios. (Some libraries write a factor into the
# groups that only their own schedulers read. With others all stages then train at one rate, and nothing complains:
# print the rates of the optimizer after the first step.)
#
# **Gradual unfreezing**, from the same paper, moves them one after the other: first the head, then the stage below, and
# so on down. By the time the lower stages may move, the gradients that reach them come from a head that knows
# something. `GradualUnfreeze` follows a plan: `at_epochs[0]` is the number of finished epochs after which the stage
# below the head joins, `at_epochs[1]` that of the next one.


# %%
class Watch(cnnlab.Callback):
    """Prints which stages learn whenever that has changed."""

    order = -10  # after the one that unfreezes

    def on_fit_start(self, trainer):
        self.said = None

    def on_epoch_start(self, trainer):
        learning = [
            name
            for name, stage in zip(
                STAGES, cnnlab.stages(trainer.model), strict=True
            )
            if all(p.requires_grad for p in stage.parameters())
        ]
        if learning != self.said:
            print(f"after {trainer.epoch:2} epochs: {', '.join(learning)}")
        self.said = learning


few, test = ten_each("digits", 0)
model = new_glyphnet(0, 10)
plan = GradualUnfreeze(cnnlab.stages(model), at_epochs=[8, 16, 24])
fine_tune(model, few, 0, lr=0.003, steps=STEPS, callbacks=[plan, Watch()])
print(f"test accuracy {accuracy_of(model, test):.3f}")

# %% [markdown]
# All parameters are in the optimizer from the beginning; a frozen one has no gradient, and the optimizer leaves it
# alone. (Not one whose gradient is *zero*: momentum and weight decay would still move it. So `freeze` drops the
# gradient.)
#
# The third way is **warm-up** (chapter 5): the rate of all stages begins at zero, so that the head can settle while
# hardly anything moves.
#
# Which of them repairs a random head? All begin at the same weights with the same random head and the same largest
# rate, 0.003, and take the same hundred steps; those that train the head first have spent a little more, on it alone.

# %%
ways = (
    "random head",
    "random head, warm-up",
    "random head, layer-wise rates",
    "random head, gradual",
    "head first, rate 0.003",
)
at_rates.loc[list(ways)].round(3)

# %% [markdown]
# Training the head first has the highest mean, and gradual unfreezing, which does the same in small steps, is not far
# behind. We declared that both beat the random head, and neither claim is supported:

# %% tags=["claim"]
print(stored_rates.verdict("head first, rate 0.003", ">", "random head"))
print(stored_rates.verdict("random head, gradual", ">", "random head"))
print(
    "old task, layer-wise rates - random head:",
    old_task.difference("random head, layer-wise rates", "random head"),
)

# %% [markdown]
# The estimates are five and four points, but on other digits the gain could be zero. What the intervals do show is that
# layer-wise rates spare what the network knew of glyphs. And **warm-up** hardly changed the accuracy, by a point at most
# in either direction. It delays the steps of all stages alike, and when the rate is up, the head is still young.

# %% tags=["claim"]
stored_rates.verdict("random head, warm-up", "~", "random head", by=0.01)

# %%
for way in ways:
    print(f"{way} - head only:", stored_rates.difference(way, "head only"))

# %% [markdown]
# At this rate, none of these ways has a mean that is clearly above that of the head alone. The right order doesn't make
# up for a rate that is too large.
#
# ### What would change it
#
# Depth. With four stages there is not much to spare by going through them one by one; the methods were made for
# networks of dozens of layers. And the rate: at a small one all ways lie closer together, for nothing moves far.
#
# %% [markdown]
# ## 10.4 Frozen is not frozen: the norms
#
# Freezing means: no gradient. But a batch norm has two numbers a channel that no gradient ever touches, its running
# mean and variance (chapter 2). In training mode it divides by the statistics of the batch, and moves its running ones
# towards them, frozen or not. Chapter 9 showed them move in a body of which everything was frozen, and the way out: in
# `cnnlab` the `Trainer`, or `train_mode` in a loop of your own, leaves a norm in evaluation mode when none of its
# parameters learns, which is the rule of Keras too. In plain PyTorch it happens to everybody once, for `model.train()`
# undoes every `.eval()` before it.
#
# What does it cost? You freeze all but the head and train the head in a loop of your own, with `train_mode(model)` and
# with `model.train()`. Afterwards you measure two things: the digits, and the **old task**. The file that ships with
# the course has the old head for 97 glyphs still in it. Put back on top of the body, of which no weight was trained, it
# should be right as often as before.
#
# ### Predict
#
# How many points of accuracy does the old head lose when the norms move? (0.1 would be ten points.)

# %% tags=["predict"]
my_loss_of_the_old_head = ...


# %% tags=["experiment"]
def old_accuracy(model, seed):
    """Accuracy on glyphs with the body of the model and the old head."""
    features, labels = extract_features(model, glyph_loader(seed))
    file = load_file(GLYPHNET)
    weight = file["head.linear.weight"].float()
    bias = file["head.linear.bias"].float()
    answers = F.linear(features, weight, bias).argmax(dim=1)
    return (answers == labels).float().mean().item()


@lru_cache
def frozen_body(seed, to_training):
    """Train the head in a loop of your own; `to_training` sets the modes."""
    few, test = ten_each("digits", seed)
    model = new_glyphnet(seed, 10)
    for stage in cnnlab.stages(model)[:-1]:
        freeze(stage)
    optimizer = torch.optim.AdamW(model.head.parameters(), lr=0.01)
    batches = cnnlab.loader(few, 32, shuffle=True, seed=seed)
    for _ in range(20):
        to_training(model)
        for images, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
    return {
        "test_acc": accuracy_of(model, test),
        "old_head": old_accuracy(model, seed),
    }


live_norms = compare_declared(
    Declaration(
        "Does the old head survive norms that move?",
        [Claim("norms moving", "<", "norms kept", by=0.05)],
        DIGITS,
    ),
    {
        "norms kept": lambda seed: frozen_body(seed, train_mode),
        "norms moving": lambda seed: frozen_body(seed, nn.Module.train),
    },
    seeds=5,
    metric="old_head",
)
live_norms.plot(
    label="accuracy of the old head on the old task",
    message="Batch-norm statistics that keep moving damage the old task.",
)

# %% tags=["claim"]
print(live_norms.verdict("norms moving", "<", "norms kept", by=0.05))
print("moving - kept:", live_norms.difference("norms moving", "norms kept"))

# %% tags=["check"]
check.prediction(
    "How much accuracy does the old head lose?",
    my_loss_of_the_old_head,
    live_norms.difference("norms kept", "norms moving")[0],
    within=0.05,
)

# %% [markdown]
# The old head lost about eight points. That it lost more than five was declared, and isn't quite supported by five splits
# of the same digits, but it did lose something: the whole interval is below zero.
#
# Not one weight of the body was trained, and yet it is another body. Whoever shares a backbone among several heads, or
# keeps features in a file (as `fit_head` does) and later feeds images to the network, runs into this. And the new task?

# %%
gain = live_norms.on("test_acc").difference("norms moving", "norms kept")
print("digits, moving - kept:", gain)

# %% [markdown]
# On the digits it did no harm to speak of, and on average it even gained a little. The moving statistics are those of
# the new images, which can be worth something by itself. Don't rely on it: with small batches, or batches in which some
# classes are missing, the statistics are a matter of chance. If you want the statistics of new images, measure them on
# purpose (section 10.6), and know that the old head is lost.
#
# ### What would change it
#
# Letting the norms learn. In fine-tuning everything, they are trained, and move with all the rest. You can freeze them
# and train the convolutions around them, which is usual where batches hold only a few large images, as in detection.
# The study tried it on digits, at the rate 0.003:

# %%
gap = stored_rates.difference(
    "head first, frozen norms", "head first, rate 0.003"
)
print("frozen - trained norms:", gap)

# %% [markdown]
# With batches of 32, freezing the norms changed the accuracy by a few points at most, in one direction or the other.
# %% [markdown]
# ## 10.5 The head: shallow or deep, with dropout
#
# A **shallow** head is one linear layer. A **deep** one has a hidden layer, and so an opinion of its own. Both can have
# dropout (chapter 2): 0.2 to 0.5 before a shallow head is usual, 0.5 and then 0.3 in a deep one, which has more to
# learn by heart with. On stored features a head costs a second, so this you can try out at once: ten digits a class,
# five seeds, and features that are never dropped in the body.


# %% tags=["experiment"]
def shallow(p):
    return nn.Sequential(nn.Dropout(p), nn.Linear(96, 10))


def deep(first, second):
    return nn.Sequential(
        nn.Dropout(first),
        nn.Linear(96, 128),
        nn.ReLU(),
        nn.Dropout(second),
        nn.Linear(128, 10),
    )


HEADS = {  # and the rate of AdamW, chosen with other seeds
    "shallow": (lambda: shallow(0.0), 0.01),
    "shallow, dropout 0.3": (lambda: shallow(0.3), 0.01),
    "deep": (lambda: deep(0.0, 0.0), 0.003),
    "deep, dropout 0.5 and 0.3": (lambda: deep(0.5, 0.3), 0.003),
}


@lru_cache
def digit_features(seed):
    """Features and labels of the few training images, and of the test."""
    few, test = ten_each("digits", seed)
    model = new_glyphnet(seed, 10)
    return [
        extract_features(model, part)
        for part in (cnnlab.loader(few, 256), cnnlab.loader(test, 300))
    ]


@lru_cache
def with_head(seed, name):
    """Train a head on features; its accuracy and loss on the test images."""
    (x, y), (x_test, y_test) = digit_features(seed)
    make, rate = HEADS[name]
    torch.manual_seed(seed)
    head = make().train()
    optimizer = torch.optim.AdamW(head.parameters(), rate, weight_decay=0.01)
    for _ in range(200):
        optimizer.zero_grad()
        F.cross_entropy(head(x), y).backward()
        optimizer.step()
    with torch.no_grad():
        logits = head.eval()(x_test)
    right = (logits.argmax(dim=1) == y_test).float().mean()
    loss = F.cross_entropy(logits, y_test)
    return {"test_acc": right.item(), "test_loss": loss.item()}


live_heads = compare_declared(
    Declaration(
        "Does a deep head need dropout?",
        [Claim("deep, dropout 0.5 and 0.3", "<", "deep")],
        DIGITS,
    ),
    {name: lambda seed, name=name: with_head(seed, name) for name in HEADS},
    seeds=5,
    metric="test_loss",
)
live_heads.plot(
    message="On average, dropout lowers the test loss of the deep head."
)

# %% [markdown]
# What is drawn is the loss, which also punishes a head that is overconfident. The deep head without dropout has the
# highest one, but the five splits disagree about how much dropout helps:

# %% tags=["claim"]
live_heads.verdict("deep, dropout 0.5 and 0.3", "<", "deep")

# %%
by_accuracy = live_heads.on("test_acc")
for a, b in (
    ("shallow, dropout 0.3", "shallow"),
    ("deep, dropout 0.5 and 0.3", "deep"),
    ("deep", "shallow"),
):
    print(f"{a} - {b}, accuracy:", by_accuracy.difference(a, b))

# %% [markdown]
# **In accuracy the heads are within a few points of each other**: dropout gained about one point on average, with an
# interval of four or five points on either side, and the hidden layer half a point. A hundred images and 96 good
# features leave a hidden layer little to do. Begin with the shallow head.
#
# %% [markdown]
# ## 10.6 When the pictures change: domain shift
#
# So far the task changed. Often the task stays and the pictures change: another camera, another season. This is a
# **domain shift**, and you have the means to make one: the course's signs come in levels. The study
# `chapters/studies/10_shift.py` trains a network on twelve hundred `easy` signs, and then sends it into the `wild`. Each of
# its six seeds draws its own signs, 5,000 of each kind for evaluation.

# %%
shown = [
    cnnlab.load(
        "pocket", seed=0, level=level, n_train=12, n_valid=12, n_test=12
    ).train.images[:6]
    for level in ("easy", "wild")
]
plots.image_grid(
    torch.cat(shown),
    ["easy"] * 6 + ["wild"] * 6,
    columns=6,
    alt="Six signs, clean above, changed below",
    message="Wild signs are darker, blurred or partly covered.",
)

# %% [markdown]
# What can you do about it? Take a few labelled pictures from the wild, five a class, and fine-tune; the head alone, or
# everything at a small rate. But there is also something to be had without any label. Batch norm divides by the mean
# and the variance of *easy* signs. Pictures from the wild have others, and those can be measured without knowing what
# is in the pictures: one pass over six hundred of them, `averaging.update_bn` from chapter 6, no gradient. [Li et al.
# 2016](https://arxiv.org/abs/1603.04779) call it adaptive batch normalisation.
#
# ### Predict
#
# By how much does measuring the statistics anew raise the accuracy on wild signs? (0.1 would be ten points.)

# %% tags=["predict"]
my_gain_without_labels = ...

# %%
shift = Results.load("studies/10_shift.csv")
shift.plot(
    message="New batch-norm statistics, without any label, gain almost as much as fine-tuning on five labels."
)

# %% [markdown]
# First the damage: the same network, the same twelve classes, test signs in the same new fonts.

# %% tags=["claim"]
as_it_is = [row for row in shift.rows if row["variant"] == "as it is"]
levels = Results(
    [
        {"variant": level, "seed": row["seed"], "test_acc": row[column]}
        for level, column in (("easy", "easy_acc"), ("wild", "test_acc"))
        for row in as_it_is
    ],
    "test_acc",
)
levels.claim("easy", ">", "wild", by=0.3)

# %% [markdown]
# Then the cures. Without a single label:

# %% tags=["claim"]
shift.claim("statistics from wild images", ">", "as it is", by=0.05)

# %% tags=["check"]
check.prediction(
    "How much do new statistics gain, without labels?",
    my_gain_without_labels,
    shift.difference("statistics from wild images", "as it is")[0],
    within=0.05,
)

# %% [markdown]
# With five labels a class, to fine-tune everything is better than to train the head alone. Part of that needed no label either: norms that
# learn are in training mode, so fine-tuning everything also measures their statistics anew, by the way.

# %% tags=["claim"]
shift.claim("everything on five labels", ">", "head on five labels")

# %% [markdown]
# Are sixty labels worth more than the free statistics? We declared two claims about that:

# %% tags=["claim"]
print(
    shift.verdict(
        "everything on five labels", ">", "statistics from wild images"
    )
)
print(
    shift.claim(
        "everything, then statistics", ">", "statistics from wild images"
    )
)
for a, b in (
    ("everything, then statistics", "everything on five labels"),
    ("statistics, then head", "statistics from wild images"),
):
    print(f"{a} - {b}:", shift.difference(a, b))

# %% [markdown]
# Hardly. Fine-tuning everything on sixty labels is ahead of the free statistics by about one point, and it could be level
# with them. Together, everything fine-tuned and the statistics measured at the end, they are ahead of the statistics
# alone by one or two points. A new head on top of the new statistics adds nothing, and may even cost a little. What came
# with the old task is worth far more than the labels: from scratch, the same sixty signs lead nowhere.

# %% tags=["claim"]
shift.claim(
    "everything on five labels", ">", "from scratch on five labels", by=0.1
)

# %% [markdown]
# None of the cures saw easy signs again. What did each of them cost there?

# %%
easy = shift.on("easy_acc")
for name in easy.names[1:-1]:
    print(f"{name}:", easy.difference(name, "as it is"))

# %% tags=["claim"]
easy.claim("head on five labels", "<", "as it is")

# %% [markdown]
# Every cure forgot something, which is called **catastrophic forgetting** when it is severe. New statistics cost about a
# point on easy signs, fine-tuning everything three or four, and training the head alone on five labels per class seven
# or eight. If easy signs will come again, keep some of them in the training set.
#
# ### What would change it
#
# Statistics repair what statistics broke: brightness, contrast, blur, colour. They cannot repair new classes, other
# fonts or other frequencies of the classes; if your six hundred pictures show mostly one class, they will do harm. And
# the wild signs were wild in known ways: augmentation while training on easy ones (chapter 3) would have prevented part
# of the fall.

# %% [markdown]
# ## Exercises
#
# ### Exercise 1: `layerwise_lr` (easy, 8 minutes)
#
# Return the rate of each stage, bottom to top, as a list. `trained[l]` says whether stage $l$ learns; the last stage is
# the head. A stage that learns gets $\eta \, \gamma^{L-l}$ with $\eta$ = `lr` and $\gamma$ = `decay`, a frozen one 0.0.
# The depth of a stage is its place in the network: freezing one must not change the rates of the others.


# %% tags=["exercise"]
def layerwise_lr(trained, lr, decay):
    """Return one rate a stage, bottom to top."""
    raise NotImplementedError


# %% tags=["check"]
check.layerwise_lr(layerwise_lr)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: the rates are upside down</b></summary>
#
# `enumerate` counts from the bottom, where the depth is largest. What is the depth of stage 0 when there are four?
#
# </details>
#
# <details>
# <summary><b>Hint: right until something is frozen</b></summary>
#
# Work out all rates first, as if everything learnt. Then set some of them to zero.
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def layerwise_lr(trained, lr, decay):
    """Return one rate a stage, bottom to top."""
    top = len(trained) - 1
    return [
        lr * decay ** (top - stage) if learns else 0.0
        for stage, learns in enumerate(trained)
    ]


check.layerwise_lr(layerwise_lr)

# %% [markdown]
# ### Exercise 2: `trained_stages` (medium, 10 minutes)
#
# The plan behind `GradualUnfreeze`. `at_epochs` has one number for each stage below the head, **from the top down**:
# with `[1, 3]` the stage below the head learns as soon as one epoch is finished, the one below it after three. Given
# how many epochs are finished, return which stages learn in the next one: a list of booleans, **bottom to top**, the
# head last. Two stages may join at the same time.


# %% tags=["exercise"]
def trained_stages(finished, at_epochs):
    """Return which stages learn, bottom to top, as a list of booleans."""
    raise NotImplementedError


# %% tags=["check"]
check.trained_stages(trained_stages)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: an epoch too late</b></summary>
#
# Epochs count from 1 for people and from 0 for loops. `finished` is the number of epochs that are done: 0 before the
# first.
#
# </details>
#
# <details>
# <summary><b>Hint: the wrong stage joins first</b></summary>
#
# The two lists run in opposite directions.
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def trained_stages(finished, at_epochs):
    """Return which stages learn, bottom to top, as a list of booleans."""
    below_the_head = [at <= finished for at in reversed(at_epochs)]
    return [*below_the_head, True]


check.trained_stages(trained_stages)

# %% [markdown]
# ### Exercise 3: `train_frozen` (hard, 15 minutes)
#
# Write what `train_mode` does: put a model in training mode, but each `nn.BatchNorm2d` none of whose parameters learns
# in evaluation mode, wherever it sits. Norms that learn, or of which one parameter learns, train; so does dropout, in
# frozen parts as well. Who wants a gradient stays as it is. The model may come to you in any mode.


# %% tags=["exercise"]
def train_frozen(model):
    """Put a model in training mode, its frozen norms in evaluation mode."""
    raise NotImplementedError


# %% tags=["check"]
check.train_frozen(train_frozen)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: every norm is in training mode</b></summary>
#
# `model.train()` reaches every module inside. What comes before it is lost.
#
# </details>
#
# <details>
# <summary><b>Hint: some norms are missed</b></summary>
#
# `children()` looks one level deep, `modules()` all the way down.
#
# </details>
#
# <details>
# <summary><b>Hint: the statistics stand still, and the output still differs</b></summary>
#
# Standing still is half of it. Which statistics does a norm *use* in training mode?
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def train_frozen(model):
    """Put a model in training mode, its frozen norms in evaluation mode."""
    model.train()
    for module in model.modules():
        learns = any(p.requires_grad for p in module.parameters())
        if isinstance(module, nn.BatchNorm2d) and not learns:
            module.eval()


check.train_frozen(train_frozen)

# %% [markdown]
# ## Make it bigger
#
# A ResNet-18 that has seen a million photographs, on CIFAR-10: the head first, then everything with layer-wise rates.
# It downloads the weights (45 MB) and the pictures (170 MB) once and wants a GPU, so it runs only when the environment
# variable `CNNLAB_PROFILE` is `gpu`.

# %% tags=["bigger"]
if lab.profile == "gpu":
    model = cnnlab.pretrained("resnet18", 10)
    photos = cnnlab.load("cifar10", download=True).transform(model)
    train = cnnlab.loader(photos.train, 128, shuffle=True)
    valid = cnnlab.loader(photos.valid, 256)
    body = cnnlab.stages(model)[:-1]
    for rate, learn in ((1e-3, freeze), (1e-4, unfreeze)):
        for stage in body:
            learn(stage)
        optimizer = torch.optim.AdamW(
            transfer.param_groups(model, rate, 0.01, layer_decay=0.65)
        )
        schedule = schedules.warmup(
            len(train), schedules.cosine(2 * len(train))
        )
        cnnlab.Trainer(
            model, optimizer, scheduler=cnnlab.attach(optimizer, schedule)
        ).fit(train, valid, epochs=3)
else:
    print("left out: set CNNLAB_PROFILE=gpu to run it")

# %% [markdown]
# ## Key points
#
# - Train the head first, on frozen features; then, if at all, the rest. A random head bends the features below it.
# - Rates of 0.1 to 0.01 of the usual one protect features that are worth it. What a large rate destroys can be
#   measured: drift, and a probe for the old task.
# - Whether the features are worth protecting is measured as well: frozen features against a network from scratch.
# - On our four fields the similarity of the tasks decided more than the number of labels; the rule of the 2 x 2 table
#   was too timid on a few images of a different kind.
# - Layer-wise rates, gradual unfreezing and warm-up are ways to spare the lower stages. They need all parameters in the
#   optimizer from the beginning.
# - Freezing parameters does not freeze batch norm. `train_mode` after each `model.train()`, or a `Trainer` that does
#   it.
# - When the pictures change and the task stays, measure the batch-norm statistics on new pictures. It needs no label.
#
# ## Common mistakes
#
# | what you see | what it often is |
# |---|---|
# | the first epochs of fine-tuning are worse than the head alone | a random head, a rate of the usual size, or both |
# | fine-tuning changes nothing | the rate is too small for the steps, or the parameters are still frozen |
# | a stage is unfrozen and does not move | its parameters never came into the optimizer |
# | a frozen stage moves | zero gradients instead of none: momentum and weight decay go on; or it is a norm |
# | layer-wise rates, and all stages learn alike | the scheduler wrote one rate into all groups; print them |
# | features kept in a file do not fit the network any more | norms in training mode while the body was "frozen" |
# | good on the validation part, poor in use | the pictures have changed: look at them, measure the statistics |
#
# ## References
#
# - Y. Li and others, *Revisiting batch normalization for practical domain adaptation*, 2016, [arXiv:1603.04779](https://arxiv.org/abs/1603.04779)
# - J. Howard and S. Ruder, *Universal language model fine-tuning for text classification*, 2018, [arXiv:1801.06146](https://arxiv.org/abs/1801.06146)
# - A. Kumar and others, *Fine-tuning can distort pretrained features and underperform out-of-distribution*, 2022, [arXiv:2202.10054](https://arxiv.org/abs/2202.10054)
# - A. Karpathy, *Transfer learning*, notes of the course CS231n,
#   [cs231n.github.io](https://cs231n.github.io/transfer-learning/)

# %% [markdown] tags=["instructor", "remove-cell"]
# ## When you are short of time
#
# 10.1 and 10.4. Let the room vote on the four fields of the table before the heatmap is shown, and write the votes
# beside it.
#
# ## Questions for the room
#
# - The rule names two questions. Which of them could you answer by a measurement before you begin, and by which?
# - No weight of the body was trained, and the old head lost points. What else in a network changes without a gradient?
# - Sixty labels or six hundred pictures without: which would you order first for a new camera, and why?

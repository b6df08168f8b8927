# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 11. Imbalanced classes
#
# **Questions.** How can a network be right nine times in ten and useless? What do class weights do, what does
# oversampling do, and why not both? What can you still do when training is over? What does each of them cost?
#
# **Afterwards you can** read a confusion matrix, choose a metric that sees rare classes, write class weights and
# weights for a sampler without their usual mistakes, adjust a finished network to other class frequencies, and say
# who pays for it.
#
# | | |
# |---|---|
# | to read | 30 minutes |
# | to run | 65 seconds on one core of a laptop; no internet, no GPU |
# | you need | chapter 1; chapter 4 for the last section |

# %% tags=["setup"]
from functools import lru_cache

import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.dummy import DummyClassifier
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    classification_report,
    confusion_matrix,
)
from studies.common import imbalance_metrics, train_imbalanced
from torch.utils.data import WeightedRandomSampler

import cnnlab
from cnnlab import check, diagnose, plots
from cnnlab.data import balanced_sampler, imbalance, logit_adjustment
from cnnlab.experiment import Results
from cnnlab.mixing import soft_cross_entropy

lab = cnnlab.setup(seed=0)


@lru_cache
def signs(seed):
    """Return balanced signs that belong to the seed."""
    return cnnlab.load(
        "pocket", seed=seed, n_train=2400, n_valid=480, n_test=2400
    )


data = signs(0)
K = len(data.classes)  # twelve classes

# %% [markdown]
# ## 11.1 Count first
#
# There are many give-way signs in a city and few level crossings. Data that were collected and not made are nearly
# always **imbalanced**: some classes have many images, others few. So before anything else, count. The next cell
# makes an imbalanced set from the balanced one. The counts grow from class to class by the same factor, up to forty
# times as many; which sign gets which count is drawn by lot, because some signs are harder than others, and the rare
# one should not always be the same.


# %%
most = data.train.labels.bincount().min().item()
COUNTS = [round(most / 40 ** (k / (K - 1))) for k in range(K)]


def imbalanced(seed):
    """Training images of the seed, of some classes many, of others few."""
    lot = torch.randperm(K, generator=torch.Generator().manual_seed(seed))
    whole = signs(seed).train
    return imbalance(whole, [COUNTS[i] for i in lot.tolist()], seed)


few = imbalanced(0)
counts = few.labels.bincount(minlength=K)  # (K,)
table = pd.DataFrame({"class": few.classes, "images": counts.tolist()})
table["share"] = (table.images / len(few)).round(3)
table = table.sort_values("images", ignore_index=True)
table

# %%
print(diagnose.check_data(few))
shares = counts / counts.sum()

# %% [markdown]
# ### The metric that lies
#
# Here is the simplest classifier of all: it looks at no image and always says the commonest class. Let 950 of 1,000
# signs be speed limits, and 50 stop signs:

# %%
truth = [0] * 950 + [1] * 50  # 0: speed limit, 1: stop
nothing = [[0]] * 1000  # it looks at no image
lazy = DummyClassifier(strategy="most_frequent").fit(nothing, truth)
said = lazy.predict(nothing)
print(
    classification_report(
        truth, said, target_names=["limit", "stop"], zero_division=0
    )
)
assert accuracy_score(truth, said) == 0.95
assert balanced_accuracy_score(truth, said) == 0.5

# %% [markdown]
# An accuracy of 0.95, and the car never stops. The table of scikit-learn shows it in the line of the stop sign: its
# **recall**, the share of its images that are found, is zero.
#
# All such numbers come out of the **confusion matrix**: $C_{ij}$ counts the images of class $i$ that were taken for
# class $j$. True classes go down, answers across. The recall of class $k$ is
#
# $$ r_k = \frac{C_{kk}}{\sum_j C_{kj}}, $$
#
# and two summaries differ only in how they weigh the recalls. With $\pi_k$, the share of class $k$ among the images,
#
# $$ \text{accuracy} = \sum_k \pi_k \, r_k, \qquad
# \text{balanced accuracy} = \frac{1}{K} \sum_k r_k . $$
#
# The accuracy asks how often you will be right if signs come as they came in the data. The **balanced accuracy**
# ([Brodersen et al. 2010](https://doi.org/10.1109/ICPR.2010.764)) asks how often, if all classes came equally often;
# whoever looks at no image gets $1/K$. Neither is wrong. They answer different questions, and with imbalanced data
# you must know which one you asked.
#
# Our test set has 200 images of each class. So its plain accuracy *is* the balanced one. If you take your test images
# from the same source as the training images, as nearly everybody does, you measure the other. You need no second
# test set to see it: weigh the recalls by the shares of the training part.
#
# ### Predict
#
# We train a network on the imbalanced images and don't correct anything. By how much does its accuracy on the class
# proportions of the training set exceed its balanced accuracy? (0.1 would be ten points.)
#
# `train_imbalanced` trains with or without the corrections of this chapter, and `imbalance_metrics` evaluates. Both
# are in `studies/common.py`, because the stored study calls them too, and `train_imbalanced??` in a cell of your own
# shows the code.

# %% tags=["predict"]
my_hidden_gap = ...


# %%
@lru_cache  # a cell that runs again doesn't train again
def trained(seed, weighted=False, oversampled=False):
    """Train with the images of a seed; return validation and test logits."""
    trainer = train_imbalanced(
        imbalanced(seed),
        seed,
        batch_size=32,
        epochs=10,
        weighted=weighted,
        oversampled=oversampled,
    )
    return [
        trainer.predict(cnnlab.loader(split, 256))
        for split in (signs(seed).valid, signs(seed).test)
    ]


def evaluated(logits, seed, split, tau=0.0):
    """Return the metrics of logits for a balanced split, adjusted by tau."""
    bundle = cnnlab.DataBundle("signs", imbalanced(seed), split, test=split)
    metrics, _ = imbalance_metrics(logits, bundle, tau)
    return metrics


logits = trained(0)[1]
answers = logits.argmax(dim=1)
plain = evaluated(logits, 0, data.test)
print("balanced accuracy:                 {balanced_acc:.3f}".format(**plain))
print(
    "accuracy with the training shares: {train_like_acc:.3f}".format(**plain)
)

# scikit-learn reaches both through weights of the test images:
as_in_training = accuracy_score(
    data.test.labels, answers, sample_weight=shares[data.test.labels]
)
assert abs(as_in_training - plain["train_like_acc"]) < 1e-6
right = accuracy_score(data.test.labels, answers)
assert abs(right - plain["balanced_acc"]) < 1e-6

# %% tags=["check"]
check.prediction(
    "How much larger is the accuracy than the balanced accuracy?",
    my_hidden_gap,
    plain["train_like_acc"] - plain["balanced_acc"],
)

# %% [markdown]
# And the confusion matrix of the same network, the rarest class on top. Look for the columns that collect what does
# not belong to them, and for the rows from which it comes.

# %%
rank = counts.argsort(stable=True)
matrix = confusion_matrix(data.test.labels, answers, labels=rank)
plots.heatmap(
    matrix / matrix.sum(axis=1, keepdims=True),
    [f"{few.classes[k]} ({counts[k]})" for k in rank],
    [few.classes[k] for k in rank],
    label="fraction of the true class",
    xlabel="prediction",
    ylabel="true class (and its training images)",
    message="Rare signs are often taken for common ones.",
)

# %% [markdown]
# One run of one network is an anecdote. The stored study (`studies/11_balancing.py`) has eight seeds. Each of them draws
# its own images and decides which class is rare, with more training images than here and 4,800 test images. Its settings
# were chosen on other images with other seeds.

# %%
study = Results.load("studies/11_balancing.csv")
columns = ["balanced_acc", "rare_recall", "common_recall", "train_like_acc"]
study.frame().groupby("variant", sort=False)[columns].mean().round(3)

# %% tags=["claim"]
plain_rows = [row for row in study.rows if row["variant"] == "plain"]
two_questions = Results(
    [
        {"variant": name, "seed": row["seed"], "accuracy": row[column]}
        for row in plain_rows
        for name, column in (
            ("with the training shares", "train_like_acc"),
            ("balanced", "balanced_acc"),
        )
    ],
    "accuracy",
)
two_questions.claim("with the training shares", ">", "balanced")

# %% [markdown]
# The same networks, the same answers, and two very different school reports. The accuracy hides the rare signs,
# because they hardly count in it.
#
# ## 11.2 Weights, or more draws
#
# A rare class has little to say because it makes up little of the loss. There are two ways to give it more.
#
# **Class weights** multiply the loss of a sample by a weight that belongs to its class:
#
# $$ L = \frac{\sum_i w_{y_i} \, \ell_i}{\sum_i w_{y_i}}, \qquad w_k = \frac{N}{K \, n_k}, $$
#
# with $n_k$ images of class $k$ and $N$ in all (the source that scikit-learn names for its `class_weight="balanced"` is
# [King and Zeng 2001](https://doi.org/10.1093/oxfordjournals.pan.a004868)). Then each class has the same total weight
# $n_k w_k = N / K$. The factor $N/K$ only sets the size: a sample weighs 1 on average, so that the loss, and with it
# the learning rate, keep their meaning. Softer weights are possible, too: `class_weights(labels, "effective")` counts
# near copies in a large class less ([Cui et al. 2019](https://arxiv.org/abs/1901.05555)).
#
# **Oversampling** leaves the loss alone and draws the images of rare classes more often, each image with a chance
# proportional to $1 / n_{y_i}$. Then every class comes equally often.

# %%
weight = cnnlab.data.class_weights(few.labels)  # (K,)
assert torch.allclose(weight, len(few) / (K * counts))
assert abs(weight[few.labels].mean() - 1) < 1e-5

sampler = balanced_sampler(few.labels, seed=0)
one_epoch = sampler.order(epoch=0)  # (N,) indices
of_class = {
    "weight": weight.round(decimals=2),
    "drawn in an epoch": few.labels[one_epoch].bincount(minlength=K),
    "different ones": few.labels[one_epoch.unique()].bincount(minlength=K),
}
table.assign(**{name: v[rank].tolist() for name, v in of_class.items()})

# %% [markdown]
# Read the last two columns. Oversampling makes no new images: it shows the few rare ones over and over. And since an
# epoch still has $N$ draws, it leaves out most of the common ones until a later epoch.
#
# On average both are the same loss: a class counts $1/K$. They differ in the way. With weights a rare image comes
# once an epoch, with one large step. With oversampling it comes many times, with many small ones.
#
# ### The trap
#
# PyTorch's `WeightedRandomSampler` takes one weight **per sample**. Give it one per class, and it says nothing:

# %%
draws = torch.Generator().manual_seed(0)
trapped = WeightedRandomSampler(weight, num_samples=len(few), generator=draws)
drawn = set(trapped)
print(f"drawn: the images number {sorted(drawn)}, of {len(few)}")
assert max(drawn) < K

# %% [markdown]
# It took the twelve weights for those of the first twelve images, and a whole epoch consists of these. It wants one for
# each image; `balanced_sampler` does that for you, and exercise 2 is about it.
#
# ### Why not both
#
# Each of the two brings every class to the same say. Do both, and you have corrected twice. What a network then
# learns can be seen without images. Let it have biases and nothing else, so that all it can learn is how often to
# expect each class. The best answer of such a network is
#
# $$ p_k \propto n_k \cdot d_k \cdot w_k, $$
#
# with $d_k$ the factor by which a sample of the class is drawn more often. Plain training gives the shares, one
# correction makes all classes equal, two turn the shares upside down: $p_k \propto 1 / n_k$.


# %%
def blind(labels, weight=None):
    """Train K biases, and nothing else, on these labels; return what they say."""
    bias = torch.zeros(K, requires_grad=True)
    steps = torch.optim.LBFGS(
        [bias], max_iter=200, line_search_fn="strong_wolfe"
    )

    def loss():
        steps.zero_grad()
        value = F.cross_entropy(
            bias.expand(len(labels), K), labels, weight=weight
        )
        value.backward()
        return value

    steps.step(loss)
    return bias.detach().softmax(dim=0)


as_drawn = torch.arange(K)  # with a balanced sampler, on average
learnt = {
    "plain": blind(few.labels),
    "class weights": blind(few.labels, weight),
    "oversampling": blind(as_drawn),
    "both": blind(as_drawn, weight),
}
assert torch.allclose(learnt["plain"], shares, atol=1e-3)
assert torch.allclose(learnt["class weights"], torch.tensor(1 / K), atol=1e-3)
assert torch.allclose(learnt["oversampling"], torch.tensor(1 / K), atol=1e-3)
upside_down = (1 / counts) / (1 / counts).sum()
assert torch.allclose(learnt["both"], upside_down, atol=1e-3)

plots.lines(
    counts[rank].tolist(),
    {
        "plain": learnt["plain"][rank].tolist(),
        "class weights, or oversampling": learnt["class weights"][
            rank
        ].tolist(),
        "both": learnt["both"][rank].tolist(),
    },
    xlabel="training images of the class",
    ylabel="learnt fraction of the class",
    message="One correction makes all classes equal; two turn the fractions "
    "upside down.",
    log="xy",
)

# %% [markdown]
# A network that sees images uses these expectations where an image leaves it in doubt. PyTorch does not warn you: the
# loss does not know what the sampler drew, and the sampler does not know what the loss weighs. It happens more easily
# than it seems, when the sampler stands in one file and the loss in another. Our `Trainer` looks at both:

# %%
model = cnnlab.small_resnet(num_classes=K)
careful = cnnlab.Trainer(
    model,
    torch.optim.SGD(model.parameters(), lr=0.1),
    torch.nn.CrossEntropyLoss(weight),
    progress=False,
)
twice = cnnlab.loader(few, batch_size=32, sampler=sampler)
try:
    careful.fit(twice, epochs=1)
except ValueError as refused:
    print(refused)
else:
    raise AssertionError("it should refuse")

# %% [markdown]
# `train_imbalanced` hides its weights from this check, in a loss function of its own, so that you can see what happens.
#
# ### Predict
#
# Both at once, against plain training. By how much does the mean recall of the four *common* classes change? (A
# negative number means that it falls.)

# %% tags=["predict"]
my_change_for_common_classes = ...

# %% tags=["experiment"]


def without_correction(seed):
    _, logits = trained(seed)
    return evaluated(logits, seed, signs(seed).test)


def class_weighted(seed):
    _, logits = trained(seed, weighted=True)
    return evaluated(logits, seed, signs(seed).test)


def oversampled(seed):
    _, logits = trained(seed, oversampled=True)
    return evaluated(logits, seed, signs(seed).test)


def weighted_and_oversampled(seed):
    _, logits = trained(seed, weighted=True, oversampled=True)
    return evaluated(logits, seed, signs(seed).test)


live = cnnlab.compare(
    {
        "plain": without_correction,
        "class weights": class_weighted,
        "oversampling": oversampled,
        "both": weighted_and_oversampled,
    },
    seeds=3,
    metric="balanced_acc",
)
live.plot(
    study,
    message="Oversampling raises the balanced accuracy; class weights on top of it undo the gain.",
)

# %% [markdown]
# Your runs are coloured, and the study is grey. Three runs are too few to tell these methods apart, so the claims are
# about the study. Balanced accuracy first:

# %% tags=["claim"]
print(study.claim("oversampling", ">", "plain"))
print(study.verdict("class weights", ">", "plain"))
print(study.claim("both", "<", "oversampling", by=0.02))
print("both - plain:", study.difference("both", "plain"))

# %% [markdown]
# Oversampling helps. Class weights, which are recommended most often, have a mean about one point above plain training,
# and they may help by four points or cost one. Both at once is worse than oversampling alone, and it may well be worse
# than doing nothing.
#
# Who gains, who pays? Here is the recall of each class against its number of training images, the mean over the runs
# of the study.

# %%
recalls = (
    study.frame()
    .groupby("variant")[[f"recall_{i + 1}" for i in range(K)]]
    .mean()
)
images = [10, 14, 20, 27, 38, 53, 75, 105, 146, 205, 286, 400]
plots.lines(
    images,
    {
        name: recalls.loc[name].tolist()
        for name in ("plain", "class weights", "oversampling", "both")
    },
    xlabel="training images of the class",
    ylabel="recall (mean of eight runs)",
    message="Corrections lift the rare classes; both at once sink the common ones.",
    log="x",
)

# %% tags=["claim"]
rare = study.on("rare_recall")  # the four rarest classes
common = study.on("common_recall")  # the four commonest
print(common.claim("both", "<", "plain", by=0.1))
for a, b in (
    ("class weights", "plain"),
    ("oversampling", "plain"),
    ("both", "class weights"),
):
    print(f"{a} - {b}, rare classes:  ", rare.difference(a, b))
    print(f"{a} - {b}, common classes:", common.difference(a, b))

# %% tags=["check"]
check.prediction(
    "Both at once: change in the recall of the common classes?",
    my_change_for_common_classes,
    live.on("common_recall").difference("both", "plain")[0],
)

# %% [markdown]
# So class weights did do something. The rare classes gained about eleven points, but the common ones paid about as much.
# Correcting twice costs the common classes some thirty points, and the rare ones have little more from it than from class
# weights alone.
#
# And on signs that come as they came in training?

# %% tags=["claim"]
train_like = study.on("train_like_acc")
for name in ("class weights", "oversampling", "both"):
    print(f"{name} - plain:", train_like.difference(name, "plain"))

# %% [markdown]
# Class weights cost accuracy there, and so does the double correction. Oversampling costs less, about three points, give
# or take three. On average oversampling and class weights are the same loss, and yet they end in different places. One
# reason may be in the table of the study: the column `fitted` has the accuracy on the *training* images at the end.

# %%
study.frame().groupby("variant", sort=False)[["fitted"]].mean().round(3)

# %% tags=["claim"]
fitted = study.on("fitted")
gap = fitted.difference("oversampling", "class weights")
print("training images, oversampling - class weights:", gap)

# %% [markdown]
# With oversampling the rare images are soon memorised, and then they contribute little: a sample that is classified
# correctly and confidently has next to no gradient. With class weights each rare image comes as a rare, large jolt, and
# after as many steps fewer images are fitted. That would explain the difference; this study doesn't prove it.

# %% [markdown]
# ## 11.3 After training: adjust the logits
#
# So far you changed the training. But what a trained network says already holds all you need. If it is calibrated,
# its probabilities are, by Bayes' rule,
#
# $$ p(k \mid x) \propto p(x \mid k) \, \pi_k : $$
#
# how well the image fits the class, times how often the class came in training. You want an answer for classes that
# come equally often, so divide by $\pi_k$. To logits $z_k$, which are logarithms, that is a subtraction:
#
# $$ \hat{y} = \operatorname*{argmax}_k \; \bigl( z_k - \tau \log \pi_k \bigr). $$
#
# This is **logit adjustment** ([Menon et al. 2021](https://arxiv.org/abs/2007.07314)). With $\tau = 1$ it is exact
# for calibrated probabilities, with $\tau = 0$ it does nothing. Networks are seldom calibrated (chapter 4), so treat
# $\tau$ as something to choose on validation images.
#
# By hand: an image fits class B three times as well as class A, but A came nine times as often. The network rightly
# says A, and where both come equally often it should say B.

# %%
fits = torch.tensor([1.0, 3.0])  # p(x | k)
came = torch.tensor([0.9, 0.1])  # the shares in training
z = (fits * came).log()
print(f"as trained: {z.softmax(dim=0)}")

adjusted = z - logit_adjustment([0] * 9 + [1])
print(f"adjusted:   {adjusted.softmax(dim=0)}")
assert torch.allclose(adjusted.softmax(dim=0), fits / fits.sum())

# For any other shares, add their logarithm: a place where A comes twice as often.
there = (adjusted + torch.tensor([2 / 3, 1 / 3]).log()).softmax(dim=0)
assert torch.allclose(there, torch.tensor([2 / 5, 3 / 5]))

# %% [markdown]
# ### Predict
#
# By how much does the mean recall of the four *rare* classes rise when the logits of the plain networks are adjusted
# with $\tau = 1$? Nothing is trained again.

# %% tags=["predict"]
my_gain_for_rare_classes = ...

# %% tags=["experiment"]


def adjusted_on_validation(seed, tau):
    """Adjust the logits of the plain network of a seed."""
    logits, _ = trained(seed)
    return evaluated(logits, seed, signs(seed).valid, tau)


taus = [i / 4 for i in range(9)]
seeds = sorted({row["seed"] for row in live.rows})
dial = pd.DataFrame(
    {"tau": tau, **adjusted_on_validation(seed, tau)}
    for tau in taus
    for seed in seeds
)
dial = dial.groupby("tau").mean()
plots.lines(
    taus,
    {
        "balanced accuracy": dial.balanced_acc.tolist(),
        "recall of the four rarest": dial.rare_recall.tolist(),
        "recall of the four commonest": dial.common_recall.tolist(),
        "accuracy with training proportions": dial.train_like_acc.tolist(),
    },
    xlabel="tau, the strength of the adjustment",
    ylabel="accuracy or recall on validation images",
    message="The strength of the adjustment trades common classes for rare "
    "ones.",
)

# %% [markdown]
# Turn the dial to the right, and rare classes win what common ones lose. The balanced accuracy has a maximum between.
# The accuracy with the training shares falls all the way: for signs that come as they came in training, the network
# was right to expect the common ones.


# %%
def logit_adjusted(seed):
    _, logits = trained(seed)
    return evaluated(logits, seed, signs(seed).test, tau=1.0)


adjusted_runs = cnnlab.compare(
    {
        "plain": without_correction,
        "logit adjustment": logit_adjusted,
        "class weights": class_weighted,
    },
    seeds=3,
    metric="balanced_acc",
)
adjusted_runs.plot(
    study,
    message="Adjusting the logits raises the balanced accuracy of the same network.",
)

# %% [markdown]
# Nothing was trained for the row in the middle: it is the plain networks, with twelve numbers subtracted.

# %% tags=["claim"]
print(study.claim("logit adjustment", ">", "plain"))
for name, metric in (("rare classes", rare), ("common classes", common)):
    gain = metric.difference("logit adjustment", "plain")
    print(f"adjusted - plain, {name}:", gain)
gain = train_like.difference("logit adjustment", "plain")
print("adjusted - plain, with the training fractions:", gain)

# %% tags=["check"]
check.prediction(
    "Adjusted logits: gain in the recall of the rare classes?",
    my_gain_for_rare_classes,
    adjusted_runs.on("rare_recall").difference("logit adjustment", "plain")[
        0
    ],
)

# %% [markdown]
# The rare classes gain a lot; the common ones and the accuracy with the training shares pay. How does it compare with
# what had to be trained?

# %% tags=["claim"]
print(study.verdict("logit adjustment", "~", "oversampling", by=0.02))
for name in ("oversampling", "class weights"):
    print(f"adjusted - {name}:", study.difference("logit adjustment", name))
    gain = rare.difference("logit adjustment", name)
    print(f"adjusted - {name}, rare classes:", gain)

# %% [markdown]
# In balanced accuracy it's about as good as oversampling, at most two points better and one point worse. Compared with
# class weights, the estimate is almost three points in its favour, with an interval from zero to five or six. The rare
# classes gain more from it than from either. And it's free, so try it first.
#
# ### In the loss
#
# You can also *add* $\tau \log \pi_k$ to the logits inside the training loss, and use the logits without it afterwards.
# Then the network learns the rest, and what it says needs no adjustment.

# %% tags=["claim"]
for name in ("plain", "logit adjustment", "class weights"):
    gain = study.difference("adjusted in the loss", name)
    print(f"adjusted in the loss - {name}:", gain)

# %% [markdown]
# The form in the loss is ahead of the adjustment after training by less than a point or just over one, and ahead of class
# weights by about three.
#
# ### What would change it
#
# Time. [Byrd and Lipton 2019](https://arxiv.org/abs/1812.03372) found that weights in the loss matter early and fade as
# training goes on, as long as the network can answer every training image rightly: where no loss is left, there is
# nothing to weigh. A second study (`studies/11_longer.py`, six seeds) trains three times as long on the same images.

# %%
longer = Results.load("studies/11_longer.csv")
assert longer.frame().fitted.min() > 0.99
of_variant = longer.frame().groupby("variant", sort=False)
of_variant[[*columns, "fitted"]].mean().round(3)

# %% tags=["claim"]
same_seeds = set(longer.frame().seed)
rows = [row for row in study.rows if row["seed"] in same_seeds] + longer.rows
rare_by_length = Results(rows, "rare_recall")


def gains(a, b):
    """What a variant adds to the recall of the rare classes, seed by seed."""
    return (rare_by_length.values(a) - rare_by_length.values(b)).tolist()


by_length = {
    "weights, short run": gains("class weights", "plain"),
    "weights, long run": gains("class weights, long", "plain, long"),
    "adjustment, long run": gains("logit adjustment, long", "plain, long"),
}
gained = Results(
    [
        {"variant": name, "seed": seed, "gain of the rare classes": value}
        for name, values in by_length.items()
        for seed, value in zip(sorted(same_seeds), values, strict=True)
    ],
    "gain of the rare classes",
)
for a, b in (
    ("weights, long run", "weights, short run"),
    ("adjustment, long run", "weights, long run"),
):
    print(f"{a} - {b}:", gained.difference(a, b))
gained.plot(
    label="gain in recall of the rare classes",
    message="In a long run, class weights gain less; logit adjustment still works.",
)

# %% tags=["claim"]
by_method = longer.on("balanced_acc")
print(by_method.claim("logit adjustment, long", ">", "plain, long"))
print(by_method.verdict("class weights, long", ">", "plain, long"))
print(
    longer.on("rare_recall").claim(
        "logit adjustment, long", ">", "class weights, long"
    )
)
gain = Results(rows, "balanced_acc").difference("plain, long", "plain")
print("plain, long - plain:", gain)

# %% [markdown]
# After the long run every network classifies all its training images correctly, and the gain of the rare classes from
# class weights has shrunk from thirteen points to four, as the paper says. In balanced accuracy nothing is left of it,
# give or take two points. The adjustment has kept most of its gain, because it acts after training, on the predictions
# for images that aren't fitted. And look at the last line: **longer training alone** raised the balanced accuracy of the
# plain network by about eight points. Before you correct an imbalance, make sure that the network is trained.
#
# %% [markdown]
# ## 11.4 With mixed images
#
# Mixup and CutMix (chapter 4) give a picture two labels, so it has two class weights. The weighted mean becomes
#
# $$ L = - \frac{\sum_i \sum_k w_k \, \tilde{t}_{ik} \log p_{ik}}{\sum_i \sum_k w_k \, \tilde{t}_{ik}}, $$
#
# and `cnnlab.mixing.soft_cross_entropy(logits, targets, weight)` computes it. For soft labels `F.cross_entropy`
# divides by $N$ instead. Our weights are 1 on average over the whole set, so you might think that it makes no
# difference. But a batch is small, and whether it holds one of the rarest images is chance:

# %%
draws = torch.Generator().manual_seed(0)
batch = few.labels[torch.randint(len(few), (100, 32), generator=draws)]

wanted = F.one_hot(batch[0], K).float()
guess = torch.zeros(32, K)  # a network that knows nothing
divided_by_n = F.cross_entropy(guess, wanted, weight)
factor = divided_by_n / soft_cross_entropy(guess, wanted, weight)

mean_weight = weight[batch].mean(dim=1)  # one for each of 100 batches
assert torch.allclose(factor, mean_weight[0])
print(f"from {mean_weight.min():.2f} to {mean_weight.max():.2f}")
assert mean_weight.max() > 1.5 * mean_weight.min()

# %% [markdown]
# The loss of PyTorch is the weighted mean times the mean weight of the batch: larger in some batches, smaller in others.
# So one batch takes a much larger step than another, for no better reason than the lot. With weights that are not 1 on average, all
# steps would be too large or too small besides.

# %% tags=["claim"]
for a, b in (
    ("CutMix, class weights", "CutMix"),
    ("CutMix, logit adjustment", "CutMix"),
    ("CutMix", "plain"),
    ("CutMix, class weights", "class weights"),
):
    print(f"{a} - {b}:", study.difference(a, b))

# %% [markdown]
# With CutMix class weights are worth a lot, and so is the adjustment. But look at the other two lines: **in this short
# run CutMix itself did harm**, above all to the rare classes, and the weights only bought back what it had cost.
# Chapter 4 found that mixing takes time to pay with right labels; with few images of a class and few epochs it did
# not pay here. If you mix for another reason, wrong labels for one, correct the imbalance as well.

# %% [markdown]
# ## Exercises
#
# ### Exercise 1: `class_weights` (easy, 5 minutes)
#
# `counts` holds the number of images of each class, (K,). Return one weight a class: each class gets the same total
# weight, and a sample weighs 1 on average.


# %% tags=["exercise"]
def class_weights(counts):
    """Return a weight for each class, (K,), from its number of images, (K,)."""
    raise NotImplementedError


# %% tags=["check"]
check.class_weights(class_weights)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: the ratios are right, the size is not</b></summary>
#
# All weights may be multiplied by one number. Which number makes $\sum_k n_k w_k = N$?
#
# </details>
#
# <details>
# <summary><b>Hint: whole numbers, or zeros</b></summary>
#
# `//` rounds down. `/` of two integer tensors gives what you want.
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def class_weights(counts):
    """Return a weight for each class, (K,), from its number of images, (K,)."""
    return counts.sum() / (len(counts) * counts)


check.class_weights(class_weights)

# %% [markdown]
# ### Exercise 2: `sample_weights` (easy, 10 minutes)
#
# Return what `WeightedRandomSampler` wants: from the labels (N,) the weights with which all classes come equally
# often. The scale is yours, the sampler divides by the sum.


# %% tags=["exercise"]
def sample_weights(labels):
    """Return a weight for each sample, (N,), from the class numbers, (N,)."""
    raise NotImplementedError


# %% tags=["check"]
check.sample_weights(sample_weights)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: the number of weights is K</b></summary>
#
# You have a table with one number a class. What does `table[labels]` give?
#
# </details>
#
# <details>
# <summary><b>Hint: the number is right, the chances are not</b></summary>
#
# Try it with the labels 0, 1, 0, 0. What should the weights of the three zeros add up to, compared with that of the
# one? And at which position does the one stand?
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def sample_weights(labels):
    """Return a weight for each sample, (N,), from the class numbers, (N,)."""
    return (1 / torch.bincount(labels))[labels]


check.sample_weights(sample_weights)

# %% [markdown]
# ### Exercise 3: `balanced_accuracy` (medium, 10 minutes)
#
# Work out the balanced accuracy from a confusion matrix, true classes down and answers across. A class without any
# image has no recall: leave it out. Return a number.


# %% tags=["exercise"]
def balanced_accuracy(confusion):
    """Return the mean recall from a confusion matrix (K, K)."""
    raise NotImplementedError


# %% tags=["check"]
check.balanced_accuracy(balanced_accuracy)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: a number that is a little off</b></summary>
#
# Sum over rows or over columns? All images of class $k$ stand in one of them, all answers "class $k$" in the other.
#
# </details>
#
# <details>
# <summary><b>Hint: NaN</b></summary>
#
# 0 / 0. Find out which rows have a sum above zero, and take the mean over these.
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def balanced_accuracy(confusion):
    """Return the mean recall from a confusion matrix (K, K)."""
    images = confusion.sum(dim=1)
    present = images > 0
    return (confusion.diag()[present] / images[present]).mean().item()


check.balanced_accuracy(balanced_accuracy)

# %% [markdown]
# ### Exercise 4: `adjust_logits` (medium, 10 minutes)
#
# From the logits (N, K) of a network and the number of training images of each class (K,), return logits as if all
# classes had come equally often, with strength `tau`. Leave the logits you are given as they are.


# %% tags=["exercise"]
def adjust_logits(logits, counts, tau):
    """Return logits (N, K) without what the class shares of the training added."""
    raise NotImplementedError


# %% tags=["check"]
check.adjust_logits(adjust_logits)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: the common classes win even more</b></summary>
#
# The logarithm of a share is negative. Subtracting it adds something, and the more the rarer the class.
#
# </details>
#
# <details>
# <summary><b>Hint: not logits, or not any more</b></summary>
#
# Do not apply softmax at the end, and do not use `-=` on what belongs to the caller.
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def adjust_logits(logits, counts, tau):
    """Return logits (N, K) without what the class shares of the training added."""
    return logits - tau * (counts / counts.sum()).log()


check.adjust_logits(adjust_logits)

# %% [markdown]
# ## Make it bigger
#
# CIFAR-10 with a long tail, the first class a hundred times as large as the last. It downloads 170 MB once and wants a
# GPU, so it runs only when the environment variable `CNNLAB_PROFILE` is `gpu`. Then add augmentation (chapter 3), and
# see which of the arms gains most from it.

# %% tags=["bigger"]
if lab.profile == "gpu":
    photos = cnnlab.load("cifar10", download=True)
    largest = photos.train.labels.bincount().min().item()
    tail = imbalance(
        photos.train, [round(largest / 100 ** (k / 9)) for k in range(10)]
    )
    for weights in (None, cnnlab.data.class_weights(tail.labels)):
        torch.manual_seed(0)
        model = cnnlab.small_resnet(num_classes=10, width=32, depth=3)
        optimizer = torch.optim.SGD(
            model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4
        )
        batches = cnnlab.loader(tail, 128, shuffle=True)
        schedule = cnnlab.schedules.cosine(60 * len(batches))
        trainer = cnnlab.Trainer(
            model,
            optimizer,
            torch.nn.CrossEntropyLoss(weights),
            scheduler=cnnlab.attach(optimizer, schedule),
        )
        trainer.fit(batches, epochs=60)
        told = trainer.predict(cnnlab.loader(photos.test, 512)).cpu()
        for tau in (0.0, 1.0):
            adjusted = told - logit_adjustment(tail.labels, tau)
            print(
                balanced_accuracy_score(
                    photos.test.labels, adjusted.argmax(1)
                )
            )
else:
    print("left out: set CNNLAB_PROFILE=gpu to run it")

# %% [markdown]
# ## Key points
#
# - Count first. Then choose the metric by the question: how often right as the classes come, or with every class alike?
# - Accuracy is the mean of the recalls weighted by shares, balanced accuracy the plain mean. Look at the recalls.
# - Class weights $N / (K n_k)$ make each class count the same and leave the size of the loss.
# - A sampler takes a weight for each sample. Oversampling shows no new images.
# - One correction, not two: with both, the rare class becomes the common one.
# - Class weights fade in a long run that fits every training image, and a longer run may help the rare classes by itself.
# - Logit adjustment needs no training at all. Try it first; $\tau$ is a dial.
# - Nothing is free. What the rare classes gain, the common ones pay, and so does the accuracy with the training shares.
#
# ## Common mistakes
#
# | what you see | what it often is |
# |---|---|
# | high accuracy, one class never found | imbalance, and a metric that weighs by shares |
# | the training loss is near zero at once, validation at chance | per-class weights in the sampler: a dozen images again and again |
# | rare classes are said far too often | sampler and class weights together |
# | class weights on, and training diverges or hardly moves | weights that are not 1 on average over the samples |
# | class weights on, mixing on, jumpy steps | a loss for soft labels that divides by $N$ |
# | balanced accuracy is NaN, or lower than every recall | a class without test images |
# | rare recalls jump from epoch to epoch | a handful of validation images: look at the counts there, too |
# | validation far too good with oversampling | oversampled before the split: copies on both sides |
#
# ## References
#
# - K. H. Brodersen, C. S. Ong, K. E. Stephan and J. M. Buhmann, *The balanced accuracy and its posterior distribution*, 2010, [doi:10.1109/ICPR.2010.764](https://doi.org/10.1109/ICPR.2010.764)
# - G. King and L. Zeng, *Logistic regression in rare events data*, 2001, [doi:10.1093/oxfordjournals.pan.a004868](https://doi.org/10.1093/oxfordjournals.pan.a004868)
# - A. K. Menon, S. Jayasumana, A. S. Rawat, H. Jain, A. Veit and S. Kumar, *Long-tail learning via logit adjustment*, 2021, [arXiv:2007.07314](https://arxiv.org/abs/2007.07314)
# - J. Byrd and Z. C. Lipton, *What is the effect of importance weighting in deep learning?*, 2019, [arXiv:1812.03372](https://arxiv.org/abs/1812.03372)
# - Y. Cui, M. Jia, T.-Y. Lin, Y. Song and S. Belongie, *Class-balanced loss based on effective number of samples*, 2019, [arXiv:1901.05555](https://arxiv.org/abs/1901.05555)

# %% [markdown] tags=["instructor", "remove-cell"]
# ## When you are short of time
#
# 11.1 and 11.3. The metric that lies is a demonstration of five minutes, logit adjustment one of ten; 11.2 can be
# read.
#
# ## Questions for the room
#
# - Who pays for the gain of the rare classes? Find a use in which that is right, and one in which it is not.
# - Which shares do you expect in service, and who tells you?
# - Class weights are what everybody recommends; here they gained one point of balanced accuracy, with an interval from -1 to +4. What now?

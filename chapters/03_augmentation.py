# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 3. Data augmentation
#
# In 2012, AlexNet had 60 million weights and 1.2 million photographs to learn them from, and it overfit. Its authors
# couldn't get more photographs. So they cropped each one at random and mirrored half of them, on the fly, while the
# network was busy with the batch before. Without this, they wrote, they'd have had to use a much smaller network
# ([Krizhevsky et al.
# 2012](https://papers.nips.cc/paper/4824-imagenet-classification-with-deep-convolutional-neural-networks)). Almost
# every vision model since has been trained on images that nobody took. How much do they help, when do they hurt, and
# how do you choose them?
#
# **You will be able to** choose augmentations from what you know about a task, give them sensible starting strengths,
# write the same pipeline in torchvision and for whole batches, find the bugs that raise no error, and say what an
# augmentation gained, and compared with what.
#
# | | |
# |---|---|
# | to read | 40 minutes, with the code |
# | exercises | 65 minutes |
# | to run | 30 seconds on one core of a laptop, without internet access or a GPU |
# | you need | chapter 1; knowing batch norm helps |

# %% tags=["setup"]
import torch
from studies.common import (
    SHIFTS,
    accuracies_under_shifts,
    correct_predictions,
    in_points,
    shifted_signs,
    train_on_easy_signs,
)
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.utils import draw_bounding_boxes

import cnnlab
from cnnlab import check, diagrams, widgets
from cnnlab.augment import Augment, Params
from cnnlab.augment.geometry import Window
from cnnlab.experiment import (
    Claim,
    Declaration,
    Results,
    compare_declared,
    fresh_data,
)
from cnnlab.plots import heatmap, image_grid

lab = cnnlab.setup(seed=0)

# %% [markdown]
# ## 3.1 More images than you have
#
# **Data augmentation** changes each training image at random, every time the network sees it, and keeps its label. The
# classic recipe for photographs has two ingredients. A **flip** mirrors the image with probability one half. A
# **shift** pads it with a black border and cuts out a window of the original size at a random position.
#
# Here is what a network would see of one photograph in ten epochs.

# %%
photos = cnnlab.load("photos", size=96)
china = photos.train.images[photos.classes.index("china")] / 255

flip_and_shift = Augment(flip=0.5, crop_pad=12)  # an eighth of the side

torch.manual_seed(5)
ten_epochs = flip_and_shift(china.expand(10, -1, -1, -1))
image_grid(
    ten_epochs,
    [f"epoch {epoch}" for epoch in range(1, 11)],
    columns=5,
    alt="One photograph, mirrored and shifted in ten ways",
    message="In ten epochs, the network sees ten versions of the photograph.",
)

# %% [markdown]
# ### Predict
#
# Take 5,000 small photographs from CIFAR-10, which has ten classes such as cat, ship and truck, and train a small
# residual network for twenty epochs. On other photographs of the same kind it reaches an accuracy of about 0.53. Now
# train it again with flips and shifts by up to four of the 32 pixels, and with nothing else changed. By how much does
# the accuracy change? Write a difference, such as 0.02 or -0.02.
#
# Training on photographs takes too long for a chapter that you run, so the answer comes from a **stored study**: the
# script `studies/03_photos.py` ran in advance, with five seeds, and saved its table. Each seed drew its own
# photographs. The claims were declared before the runs. Accuracies are those on test photographs, which are never
# augmented.

# %% tags=["predict"]
my_gain_on_photographs = ...  # such as 0.02 or -0.02

# %% tags=["experiment"]
on_photos = Results.load("studies/03_photos.csv")
gain = on_photos.difference("flip and shift", "none").mean
on_photos.plot(
    message="Flips and shifts change the accuracy on photographs by "
    f"{100 * gain:+.0f} points.",
)

# %% tags=["claim"]
print(on_photos.claim("flip and shift", ">", "none", by=0.05))
print(on_photos.claim("flip and shift", ">", "strong", by=0.05))
print("strong - none:", in_points(on_photos.difference("strong", "none")))
memorised = on_photos.on("training accuracy")
print(memorised.claim("none", ">", "flip and shift", by=0.1))

# %% tags=["check"]
check.prediction(
    "Gain from flips and shifts?", my_gain_on_photographs, gain, within=0.03
)

# %% [markdown]
# That's a large gain for one line of code. The training accuracy, in the last claim, shows where it comes from.
#
# Without augmentation the network **memorises**: it classifies every training photograph correctly, and just over
# half of the others. With flips and shifts, it hardly ever sees the same image twice. It can't memorise pixels any
# more, so it has to find what the versions have in common.
#
# ### What would change this result
#
# **Strength.** The variant `strong` adds rotation, zoom, colours and erasing. In twenty epochs, it gains nothing over
# training without augmentation. Harder images need more epochs, and in 3.3 you'll see how much difference more time can
# make.
#
# **More data.** Augmentation stands in for images that you lack. The more photographs you have, the less it gains.
#
# **The task.** All ten classes of CIFAR-10 survive mirroring. In 3.4 you'll meet classes that don't.
#
# *How this was measured.* The study used a copy of CIFAR-10 in JPEG format, so accuracies on the original files may
# differ slightly. Trial runs came first, and its script lists them, so we knew which way the claims were likely to go.
#
# ### Exercise 1: `random_flip` (easy, 10 minutes)
#
# Mirror each image of a batch (N, C, H, W) left to right with probability `p`, independently of the others. Draw from
# the generator you are given, and leave the caller's images as they are.


# %% tags=["exercise"]
def random_flip(images, p, generator):
    """Return the images, each mirrored with probability p."""
    raise NotImplementedError


# %% tags=["check"]
check.random_flip(random_flip)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: either all images are mirrored, or none</b></summary>
#
# A single random number makes a single decision. `torch.rand` can give you as many as there are images.
#
# </details>
#
# <details>
# <summary><b>Hint: "size of tensor a must match"</b></summary>
#
# Your decisions have shape (N,) and the images have four axes. Give the decisions three more axes of length one; then
# `torch.where` does the rest.
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def random_flip(images, p, generator):
    """Return the images, each mirrored with probability p."""
    flip = torch.rand(len(images), generator=generator) < p
    return torch.where(flip[:, None, None, None], images.flip(3), images)


check.random_flip(random_flip)

# %% [markdown]
# ## 3.2 What may change, and what must not
#
# A flip leaves a ship a ship, but it turns "keep left" into "keep right". Everything in this chapter rests on one
# assumption: the label $y$ doesn't depend on the random transform $t$,
#
# $$ p(y \mid t(x)) = p(y \mid x) \quad \text{for all } t \in T. $$
#
# Such transforms are called **label-preserving**, and the task is **invariant** to them. The library can't know which
# ones they are. That depends on your task, so you have to write them down. Training then minimises the mean loss over
# images *and* transforms,
#
# $$ L(w) = \frac{1}{N} \sum_{i=1}^{N} \mathbb{E}_{t \sim T} \, \ell\big(f(t(x_i); w), \, y_i\big), $$
#
# where the **expectation** $\mathbb{E}_{t \sim T}$ is the mean over random transforms $t$. Each epoch estimates it by
# one draw per image ([Simard et al. 2003](https://doi.org/10.1109/ICDAR.2003.1227801); [Chen et al.
# 2020](https://arxiv.org/abs/1907.10905)). Only training images are augmented. Validation and test images stand in for
# the real world, so they stay as they are.
#
# (You may change images at test time for another reason. In **test-time augmentation**, the network predicts several
# label-preserving versions of an image, and you average its predictions. AlexNet averaged ten crops and flips, which
# lowered its top-5 error from 18.3 % to 17.0 % and made inference ten times as expensive. Say so when you report it.)
#
# Here are the usual techniques, applied far too strongly so that you can see what they do. Ask yourself for each pair:
# would you still give both images their labels?

# %%
signs = cnnlab.load(
    "pocket", level="easy", n_train=480, n_valid=12, n_test=12
)
sign_images = signs.train.images[:36] / 255
limit_30 = v2.functional.resize(sign_images[10], [96, 96])

TECHNIQUES = {
    "original": Augment(),
    "rotation": Augment(rotate=40),
    "shift": Augment(translate=0.3),
    "zoom": Augment(scale=(0.5, 0.7)),
    "shear": Augment(shear=30),
    "resized crop": Augment(resized_crop=(0.3, 0.5)),
    "flip": Augment(flip=1.0),
    "vertical flip": Augment(vflip=1.0),
    "brightness": Augment(brightness=0.6),
    "contrast": Augment(contrast=0.9),
    "saturation": Augment(saturation=1.0),
    "hue": Augment(hue=0.4),
    "blur": Augment(blur=6.0),
    "noise": Augment(noise=0.4),
    "erasing": Augment(erase=1.0),
}

torch.manual_seed(3)
changed = []
for augment in TECHNIQUES.values():
    changed.append(augment(torch.stack([china, limit_30])))
image_grid(
    torch.cat(changed),
    [name for name in TECHNIQUES for _ in range(2)],
    columns=10,
    alt="A photograph and a sign under each technique",
    message="A change that is harmless on a photograph can ruin a sign.",
)

# %% [markdown]
# **Moving pixels.** Rotation, shift, zoom and shear together are one **affine map** about the centre of the image,
#
# $$ \begin{pmatrix} x' \\ y' \end{pmatrix} = s \begin{pmatrix} \cos\theta & -\sin\theta \\ \sin\theta & \cos\theta \end{pmatrix}
# \begin{pmatrix} 1 & -\tan\varphi \\ 0 & 1 \end{pmatrix} \begin{pmatrix} x \\ y \end{pmatrix} +
# \begin{pmatrix} t_x \\ t_y \end{pmatrix}. $$
#
# Here $s$ is the zoom, $\theta$ the rotation, $\varphi$ the shear and $(t_x, t_y)$ the shift. The map is applied
# backwards: for every output pixel we look up its source, and where the source lies outside the image, the pixel
# becomes black. A **random resized crop** cuts out a window and stretches it to the original size ([Szegedy et al.
# 2015](https://arxiv.org/abs/1409.4842)).
#
# **Changing values.** **Colour jitter** computes scale × pixel + shift and clips the result to [0, 1]. **Brightness**
# uses a scale alone. **Contrast** with factor $c$ scales by $c$ and shifts by $(1 - c)\,m$, where $m$ is the mean grey
# of the image, so it moves every pixel towards or away from the mean: with $c = m = 0.5$, a pixel of 0.8 becomes 0.65.
# **Saturation** does the same with the grey of each pixel, and **hue** moves every colour around the colour circle.
# **Blur** and **noise** imitate a poor lens and a poor sensor.
#
# **Removing pixels.** Two methods from 2017 are often confused. **Cutout** ([DeVries & Taylor
# 2017](https://arxiv.org/abs/1708.04552)) blanks one square of fixed size in *every* image. Its centre can be anywhere,
# so part of the square may fall outside. **Random erasing** ([Zhong et al. 2017](https://arxiv.org/abs/1708.04896))
# acts only with some probability, chooses the size and shape of a rectangle at random, and fills it with random values.


# %%
def cutout(image, size):
    """Blank a square of `size` pixels around a random centre."""
    height, width = image.shape[-2:]
    top = torch.randint(height, ()).item() - size // 2
    left = torch.randint(width, ()).item() - size // 2
    holed = image.clone()
    rows = slice(max(top, 0), max(top + size, 0))
    columns = slice(max(left, 0), max(left + size, 0))
    holed[..., rows, columns] = 0.5  # grey, close to the mean
    return holed


# Its random values are standard normal, made for normalised images, so the
# figure below clips them to [0, 1].
random_erasing = v2.RandomErasing(p=0.5, value="random")
torch.manual_seed(6)
five_cut = torch.stack([cutout(china, 48) for _ in range(5)])
five_erased = torch.stack([random_erasing(china) for _ in range(5)])
image_grid(
    torch.cat([five_cut, five_erased.clamp(0, 1)]),
    ["cutout"] * 5 + ["random erasing"] * 5,
    columns=5,
    alt="Five versions of a photograph from each method",
    message="Cutout removes a square from every image; random erasing leaves "
    "whether, where and how much to chance.",
)

# %% [markdown]
# ### Starting strengths
#
# Begin at the lower end, look at twenty images *with their labels*, and go up while the validation accuracy does.
#
# | augmentation | usual range | start with | careful where |
# |---|---|---|---|
# | rotation | ±15° to ±30° | ±15° | orientation is the label: 6 and 9, arrows |
# | shift | 5 to 15 % of the side | 4 of 32 pixels | small objects near the edge |
# | zoom | 0.8 to 1.2 | 0.9 to 1.1 | size is the label |
# | resized crop | 70 to 100 % of the area | 80 to 100 % | the crop can miss the object |
# | flip | probability 0.5 | 0.5, or not at all | text, left and right, hearts |
# | vertical flip | probability 0.5 | not at all | almost everywhere but in views from above |
# | brightness, contrast, saturation | ±0.1 to ±0.3 | ±0.2 | brightness is the label: X-rays |
# | hue | ±0.02 to ±0.1 | ±0.05 | colour is the label: ripe fruit |
# | blur | σ up to 3 % of the side | 1 of 32 pixels | fine details are the label |
# | noise | σ of 0.02 to 0.1 | 0.05 | likewise |
# | random erasing | probability 0.2 to 0.5, 2 to 33 % of the area | 0.25 | small objects: it can remove them |
# | cutout | a quarter to half of the side | 8 of 32 pixels | likewise |
#
# ImageNet recipes go down to crops of 8 % of the area, because their runs are long and tolerate the crops that miss
# the object. One side effect is that objects look larger in training than at test time ([Touvron et al.
# 2019](https://arxiv.org/abs/1906.06423)).
#
# Here are eight signs with their labels. Turn up the rotation until you'd give one of them another label, and look at
# the table again. Then turn it off, and do the same with the shift, the zoom and the erasing. Which sign fails first?

# %% tags=["widget"]
sign_names = [signs.classes[label] for label in signs.train.labels[:8]]
widgets.augmentation(sign_images, sign_names)

# %% [markdown]
# ### Exercise 2: `choose_augmentations` (medium, 15 minutes)
#
# For each of six tasks, return the *set* of names of the augmentations that keep the label. Ask two questions. Does
# the changed image certainly have the same label? Could you meet such an image later? If both answers are yes, it
# belongs in the set. Where opinions can differ, the check accepts either.
#
# | task | the label says |
# |---|---|
# | `"handwritten digits"` | which of 0 to 9 |
# | `"land use from satellites"` | wood, field, town or water, seen from straight above |
# | `"heart on the left or on the right, in chest X-rays"` | on which side the heart lies |
# | `"keep left or keep right, the signs"` | which of the two signs |
# | `"ripe or green tomatoes"` | whether the tomato in the image is red |
# | `"lens with or without a fine scratch"` | whether there is a scratch, one pixel wide, anywhere on the lens, which is round and fits into the image |
#
# | augmentation | what it does |
# |---|---|
# | `"small rotation"` | up to 10 degrees |
# | `"any rotation"` | up to 180 degrees |
# | `"flip"`, `"vertical flip"` | left to right, top to bottom |
# | `"shift"` | by up to a tenth of the side; it cuts off nothing important, except perhaps a scratch |
# | `"light"` | brightness and contrast, slightly |
# | `"hue"` | any turn of the colour circle |
# | `"blur"` | as by a poor lens |
# | `"erasing"` | blackens a rectangle of up to a third of the image |


# %% tags=["exercise"]
def choose_augmentations(task):
    """Return the set of augmentations that keep the label of the task."""
    raise NotImplementedError


# %% tags=["check"]
check.choose_augmentations(choose_augmentations)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: how to write it down</b></summary>
#
# Use a dictionary from the task to a set, and one look-up in it.
#
# </details>
#
# <details>
# <summary><b>Hint: which ones to doubt</b></summary>
#
# Take two classes, and look for a transform that turns one into the other. Then take the smallest thing that decides
# the label, and look for a transform that removes it.
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def choose_augmentations(task):
    """Return the set of augmentations that keep the label of the task."""
    turns = {"small rotation", "any rotation"}
    flips = {"flip", "vertical flip"}
    keeping = {
        "handwritten digits": {"small rotation", "shift", "light"},
        "land use from satellites": turns | flips | {"shift", "light"},
        "heart on the left or on the right, in chest X-rays": {
            "small rotation",
            "shift",
            "light",
        },
        "keep left or keep right, the signs": {
            "small rotation",
            "shift",
            "light",
            "blur",
        },
        "ripe or green tomatoes": turns | {"flip", "shift", "blur"},
        "lens with or without a fine scratch": turns | flips | {"light"},
    }
    return keeping[task]


check.choose_augmentations(choose_augmentations)

# %% [markdown]
# ## 3.3 Each augmentation against its own shift
#
# Suppose your training images were taken in even light with a level camera: PocketSigns of level `easy`. In
# deployment, conditions differ. A change between training and deployment is called a **distribution shift**
# ([Hendrycks & Dietterich 2019](https://arxiv.org/abs/1903.12261) evaluate fifteen of them on ImageNet). PocketSigns
# can show the *same* test signs with one property changed, so a difference in accuracy is due to that property alone.
#
# ### Predict
#
# You train four networks on clean, easy signs: without augmentation, with colour jitter (`"light"`), with zoom and
# shift (`"zoom and shift"`), and with a horizontal flip (`"flip"`). Each is evaluated on clean test signs, on zoomed
# ones and in unusual light. Which one is best in unusual light? And by how much does training with flips change the
# accuracy on *clean* signs? Write a difference, such as 0.02 or -0.02. (The cell after your predictions trains twenty
# networks, which takes about half a minute.)

# %%
examples = []
for shift in SHIFTS:
    examples.append(shifted_signs(0, shift, n_test=12).images[:4])
image_grid(
    torch.cat(examples),
    [name for name in SHIFTS for _ in range(4)],
    columns=8,
    alt="Four signs under each shift",
    message="Each shift changes one property of the signs; the last one "
    "changes all.",
)

# %% tags=["predict"]
# "none", "light", "zoom and shift" or "flip":
my_best_in_unusual_light = ...
my_change_by_the_flip = ...  # such as 0.02 or -0.02

# %% tags=["experiment"]
LIGHT = Augment(brightness=0.6, contrast=0.4, saturation=0.4, hue=0.05)
ZOOM = Augment(scale=(0.55, 1.0), translate=0.15)
FLIP = Augment(flip=0.5)
LIVE_SHIFTS = ["clean", "light", "zoom and shift"]


def evaluated(seed, augment=None):
    """Train for six epochs; return the accuracy under three shifts."""
    trainer = train_on_easy_signs(seed, augment, epochs=6)
    result = accuracies_under_shifts(trainer, seed, LIVE_SHIFTS, n_test=960)
    test = shifted_signs(seed, "clean", n_test=960)
    correct = correct_predictions(trainer, test).float()
    for label, name in enumerate(test.classes):
        result[name] = correct[test.labels == label].mean().item()
    return result


def with_light(seed):
    return evaluated(seed, LIGHT)


def with_zoom(seed):
    return evaluated(seed, ZOOM)


def with_flip(seed):
    return evaluated(seed, FLIP)


live = compare_declared(
    Declaration(
        "Does an augmentation help against the shift that it resembles?",
        claims=[
            Claim("light", ">", "none", metric="light accuracy"),
            Claim(
                "zoom and shift",
                ">",
                "none",
                metric="zoom and shift accuracy",
            ),
            Claim("none", ">", "flip"),
        ],
        unit=fresh_data(),
    ),
    {
        "none": evaluated,
        "light": with_light,
        "zoom and shift": with_zoom,
        "flip": with_flip,
    },
    seeds=5,
    metric="clean accuracy",
)


def matrix(results, rows, shifts, message):
    """Draw the gain over training without augmentation, in points."""
    columns = [f"{shift} accuracy" for shift in shifts]
    means = 100 * results.frame().groupby("variant")[columns].mean()
    plain = means.loc["none"]
    return heatmap(
        (means.loc[rows] - plain).round(1) + 0,  # no -0.0
        rows,
        [f"{s} ({plain[f'{s} accuracy']:.0f} %)" for s in shifts],
        label="gain (points)",
        xlabel="test images (accuracy without augmentation)",
        ylabel="trained with",
        message=message,
    )


best_on = {
    shift: live.on(f"{shift} accuracy").table()["mean"].idxmax()
    for shift in LIVE_SHIFTS
}
matrix(
    live,
    ["light", "zoom and shift", "flip"],
    LIVE_SHIFTS,
    "Best "
    + ", ".join(f"on {s} signs: {name}" for s, name in best_on.items())
    + ".",
)

# %% tags=["claim"]
print(live.on("light accuracy").claim("light", ">", "none"))
zoomed = live.on("zoom and shift accuracy")
print(zoomed.claim("zoom and shift", ">", "none"))
print(live.claim("none", ">", "flip"))

# %% tags=["check"]
check.prediction(
    "Best in unusual light?",
    my_best_in_unusual_light,
    best_on["light"],
    options=["none", "light", "zoom and shift", "flip"],
)
check.prediction(
    "How does the flip change the accuracy on clean signs?",
    my_change_by_the_flip,
    live.difference("flip", "none").mean,
    within=0.05,
)

# %% [markdown]
# Six epochs are few, and there are more augmentations and shifts. The stored study `studies/03_shifts.py` trained one
# network per augmentation and seed, with eight seeds and for twenty epochs each. It declared six claims before it ran;
# two of them are the ones above, with a margin of five points. Each cell below is a gain over no augmentation. The last
# column is PocketSigns of level `wild`, where everything shifts at once.

# %%
stored = Results.load("studies/03_shifts.csv")
SINGLE = [
    "rotation",
    "zoom and shift",
    "light",
    "blur",
    "noise",
    "erasing",
    "erasing, random values",
    "flip",
    "all but flip",
]
matrix(
    stored,
    SINGLE,
    list(SHIFTS),
    "Against rotation, zoom, light and blur, the augmentation of that name "
    "gains most.",
)


# %% tags=["claim"]
def tell(shift, a, b="none"):
    """Print the difference of two variants in accuracy under a shift."""
    difference = stored.on(f"{shift} accuracy").difference(a, b)
    print(f"{shift} accuracy, {a} - {b}: {in_points(difference)}")


for name in ("light", "zoom and shift"):
    print(stored.on(f"{name} accuracy").claim(name, ">", "none", by=0.05))
tell("rotation", "rotation")
tell("blur", "blur")
tell("occlusion", "erasing")
tell("occlusion", "erasing, random values")
tell("clean", "erasing")
lost = Results(
    [
        row | {"lost": row["clean accuracy"] - row["occlusion accuracy"]}
        for row in stored.rows
    ],
    "lost",
)
for name in ("none", "erasing"):
    print(f"lost to occlusion, {name}: {100 * lost.values(name).mean():.1f}")
print("none - erasing:", in_points(lost.difference("none", "erasing")))
tell("noise", "noise")
tell("clean", "noise")

# %% [markdown]
# The diagonal stands out, but two rows don't fit the pattern.
#
# **Erasing gains next to nothing against occlusion**, half a point on average, whether the holes are black or filled
# with random values. But look at what the occlusion *costs*: 5.4 points without erasing and 2.7 points with it. So
# erasing halves the damage, and it loses about as much on clean signs, 2.3 points (1.2 to 3.4). Perhaps twenty epochs
# are too few for its harder images.
#
# **Noise gains nearly as much on clean signs as on noisy ones.** That's the mark of a regulariser (chapter 2), which
# makes training images harder to memorise. Our test noise is also weak: it costs the plain network only 1.4 points, so
# there's little to win back.
#
# ### What would change this result
#
# **Time.** Zoom and shift buys its robustness with a large loss on clean signs. But augmented images are harder to
# fit. So the study also has runs of sixty epochs, with this augmentation and, to be fair, without it.
#
# **The data.** Easy signs all look alike, so there's little variety to add. The study `studies/03_few_signs.py` takes
# varied signs of level `medium`, only 240 of them, and trains for a hundred epochs, with a one-cycle schedule (chapter
# 5) and weight decay. It tests on signs of the same level, so there's no shift at all. Its variant `mild` is close to
# the starting strengths of 3.2, and `strong` is the augmentation `all but flip` from the matrix above.

# %% tags=["claim"]
tell("clean", "zoom and shift")
tell("clean", "zoom and shift, 60 epochs", "none, 60 epochs")
tell("zoom and shift", "zoom and shift, 60 epochs", "none, 60 epochs")
print("\nFew signs, no shift:")
on_signs = Results.load("studies/03_few_signs.csv")
# mild: rotation by up to 10 degrees, zoom of 0.85 to 1.15, shifts by 8 % of
# the side, brightness by up to 0.3, contrast by up to 0.2
print(on_signs.claim("mild", ">", "none", by=0.03))
print(on_signs.claim("mild", ">", "strong", by=0.03))
print("strong - none:", in_points(on_signs.difference("strong", "none")))

# %% [markdown]
# After twenty epochs, zoom and shift costs 17 points on clean signs. After sixty it costs 3, compared with a plain
# network that was trained just as long, and it gains 34 under its own shift. So most of the price was a lack of time.
# When you add augmentation, give the run more epochs before you judge it, and give them to the baseline too.
#
# On few, varied signs and in a long run, a mild augmentation gains nine points even where nothing shifts. The strong
# one gains 1.3 points (−0.6 to 3.3), which may be nothing. (In a trial run of fifty epochs, the mild one gained nothing
# either.) So augmentation isn't only insurance against shifts, but without one, it needed varied images, enough epochs
# and a modest strength to gain anything here.
#
# ## 3.4 Twin results: where a flip changes the label
#
# What does the flip gain on its own, without the random shift of 3.1, on photographs and on signs? Here are both
# results, for the same augmentation with the same probability. The stored results on photographs are in grey. The signs
# that you've just trained on are in colour.

# %%
plain_and_flip = [
    row for row in live.rows if row["variant"] in ("none", "flip")
]
flip_gains = [
    100 * results.difference("flip", "none").mean
    for results in (on_photos, live)
]
Results(plain_and_flip, "clean accuracy").plot(
    on_photos,
    label="accuracy on clean test images (grey: photographs)",
    message="The flip changes the accuracy by {:+.0f} points on photographs "
    "and by {:+.0f} points on signs.".format(*flip_gains),
)

# %% tags=["claim"]
print("On photographs:")
print(on_photos.claim("flip", ">", "none", by=0.02))
print("\nOn signs:")
arrows = stored.on("keep left or right accuracy")
print(arrows.claim("none", ">", "flip", by=0.2))
tell("other signs", "flip")
tell("other signs", "flip with its label")
tell("keep left or right", "flip with its label")
tell("keep left or right", "zoom and shift")
tell("keep left or right", "zoom and shift, 60 epochs", "zoom and shift")

by_class = 100 * live.frame().groupby("variant")[list(signs.classes)].mean()
heatmap(
    (by_class.loc[["flip"]] - by_class.loc["none"]).round() + 0,
    ["flip - none"],
    signs.classes,
    label="points",
    message="Training with flips costs most accuracy at keep left and keep "
    "right.",
)

# %% [markdown]
# The mirror image of "keep left" *is* "keep right". With flips, the network sees every arrow equally often under both
# labels, and nothing it could learn tells them apart. No error is raised; it looks like a hard task. So look at
# single classes whenever you add an augmentation. (Which of the two arrows loses more is left to chance.)
#
# The ten other signs lose four to five points on average, most of it on the speed limits, though none is the mirror
# image of another. With flips, the network has to learn mirrored digits too, in the same number of epochs.
#
# **What would change this result.** Change the label along with the image: a flipped "keep left" is a perfectly good
# "keep right". The variant `flip with its label` does so, and leaves text alone. This undoes the damage, and compared
# with no flip it gains a point on the arrows and nothing that we can see elsewhere.
#
# **A symptom is not a diagnosis.** After twenty epochs of zoom and shift, the accuracy on the arrows is near one half
# too, although nothing was mirrored. Such arrows are slower to learn, and more epochs fix that. They don't fix the
# flip, because its labels contradict each other.
#
# ## 3.5 One pipeline, and where it runs
#
# An augmentation can run in two places. **torchvision's** transforms (`torchvision.transforms.v2`, not the older module)
# change one image at a time, inside the data set, in the worker processes that load the next batches while
# the network trains. The diagram shows what these workers save.

# %%
diagrams.workers()

# %% [markdown]
# The other place is the device of the network, on the whole batch. `cnnlab.augment.Augment` does this. You give it to
# the `Trainer` as `batch_transform`, and it draws separate parameters for each image. For tiny images that's faster
# and needs no workers, and it works on a GPU.
#
# | library in 2026 | works on | what to know |
# |---|---|---|
# | **torchvision v2** | one image, or sample with boxes and masks | the default; BSD licence |
# | **kornia** | batches on the GPU, differentiable | parameters per image; Apache 2.0 |
# | **albumentations** | one NumPy array (H, W, C), fast on CPUs | MIT, but unmaintained since June 2025 |
# | **AlbumentationsX** | the same, its successor | AGPL-3.0 or a commercial licence: ask before you ship it |
#
# An albumentations pipeline reads like this ([Buslaev et al. 2020](https://doi.org/10.3390/info11020125)):
#
# ```python
# import albumentations as A
#
# train_transform = A.Compose([
#     A.HorizontalFlip(p=0.5),
#     A.RandomBrightnessContrast(p=0.2),  # each by up to 0.2
#     A.GaussNoise(std_range=(0.02, 0.1), p=0.2),  # its default is 0.2 to 0.44
#     A.Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
# ])
# changed = train_transform(image=array)["image"]
# ```
#
# If an image comes with **boxes** or a **mask**, they have to move with it, because a label such as "cat at pixels 20
# to 90" must stay true as well. That's what v2 was made for. A sample can be a dictionary with an image, its boxes and
# its label. When the image is rotated, its box is rotated too, and then enlarged to an upright box that contains it.

# %%
cat = photos.train.images[photos.classes.index("chelsea")]
box = tv_tensors.BoundingBoxes(
    [[8, 18, 88, 88]], format="XYXY", canvas_size=(96, 96)
)
sample = {"image": tv_tensors.Image(cat), "boxes": box, "label": "cat"}
smooth = v2.InterpolationMode.BILINEAR  # see the third trap in 3.6
turn = v2.Compose(
    [
        v2.RandomHorizontalFlip(p=1.0),
        v2.RandomRotation(20, interpolation=smooth),
    ]
)
torch.manual_seed(0)
turned = turn(sample)
drawn = [
    draw_bounding_boxes(s["image"], s["boxes"], width=2, colors="red")
    for s in (sample, turned)
]
image_grid(
    torch.stack(drawn),
    [f"{s['label']}: {s['boxes'][0].tolist()}" for s in (sample, turned)],
    columns=2,
    alt="A photograph of a cat with its box, before and after",
    message="The box is flipped and turned with the image.",
)

# %% [markdown]
# ### A trap that raises no error
#
# torchvision's transforms also *accept* a batch. They then treat it as one item, such as the frames of a video, and
# draw **one set of parameters for all images**. Over many batches, the factors have the same distribution either way.
# Does it matter? The study trained in both ways, with the same colour jitter, and tested in unusual light.

# %% tags=["claim"]
in_light = stored.on("light accuracy")
print(in_light.claim("light", ">", "light, one draw per batch", by=0.05))
tell("light", "light")
tell("light", "light, one draw per batch")

torch.manual_seed(4)
all_alike = v2.ColorJitter(brightness=0.8)(sign_images[:8])
each_its_own = Augment(brightness=0.8)(sign_images[:8])
image_grid(
    torch.cat([all_alike, each_its_own]),
    ["one per batch"] * 8 + ["one per image"] * 8,
    alt="Eight signs in each row",
    message="With one draw per batch, all images get the same brightness.",
)

# %% [markdown]
# About a quarter of the benefit is left. Batch norm (chapter 2) divides by the standard deviation over the batch. A
# brightness that all images share is divided out again in the first layer, so the network hardly notices it. At test
# time the layer divides by its *running* statistics instead. They don't adapt to the light of a test image, and the
# network never learnt to cope without that. The remaining benefit probably comes from contrast, saturation and hue,
# which aren't factors that all images share.
#
# ### Exercise 3: `shift_each` (hard, 25 minutes)
#
# Write the shift of 3.1 for a whole batch: move image $i$ down by `down[i]` pixels and right by `right[i]` pixels, and
# fill the uncovered pixels with 0. The offsets are integers of shape (N,); negative ones move up and left. Don't change
# the caller's images. A loop over the images is accepted, but try to do without.


# %% tags=["exercise"]
def shift_each(images, down, right):
    """Return images (N, C, H, W), each moved by its own offsets."""
    raise NotImplementedError


# %% tags=["check"]
check.shift_each(shift_each)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: where to begin</b></summary>
#
# Work backwards. For each image and each output row, compute which input row it shows: a table of shape (N, H). Do
# the same for the columns.
#
# </details>
#
# <details>
# <summary><b>Hint: indices outside the image</b></summary>
#
# A negative index counts from the end, and a large one raises an error. Remember first which indices lie outside,
# then clamp them, and blacken those pixels at the end.
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def shift_each(images, down, right):
    """Return images (N, C, H, W), each moved by its own offsets."""
    n, _, height, width = images.shape
    rows = torch.arange(height) - down[:, None]  # source rows, (N, H)
    columns = torch.arange(width) - right[:, None]  # (N, W)
    row_inside = (rows >= 0) & (rows < height)
    column_inside = (columns >= 0) & (columns < width)
    image = torch.arange(n)[:, None, None]
    row = rows.clamp(0, height - 1)[:, :, None]
    column = columns.clamp(0, width - 1)[:, None, :]
    moved = images[image, :, row, column].permute(0, 3, 1, 2)
    inside = row_inside[:, :, None] & column_inside[:, None, :]
    return moved * inside[:, None]


check.shift_each(shift_each)

# %% [markdown]
# ## 3.6 The order of transforms
#
# With most transforms, the order matters. One order has proved itself, which is also the order inside a camera:
# **geometry and colour first, then conversion to floats in [0, 1], then erasing and normalising.** Here are two ways to
# get it wrong.

# %%
one = torch.full((3, 4, 4), 200, dtype=torch.uint8)
print("converted:", v2.ToDtype(torch.float32, scale=True)(one).max().item())
print("without scale=True:", v2.ToDtype(torch.float32)(one).max().item())

normalise = v2.Normalize(signs.mean.tolist(), signs.std.tolist())
normalised = normalise(sign_images)
jittered = v2.functional.adjust_brightness(normalised, 1.0)
lost = (jittered != normalised).float().mean().item()
print(f"values changed by jitter with a factor of 1: {lost:.0%}")

erase = v2.RandomErasing(p=1.0)
torch.manual_seed(3)
erased_first = normalise(erase(china))
torch.manual_seed(3)
erased_last = erase(normalise(china))
mean, std = signs.mean.view(3, 1, 1), signs.std.view(3, 1, 1)
image_grid(
    torch.stack([china, erased_first * std + mean, erased_last * std + mean]),
    ["original", "erased, then normalised", "normalised, then erased"],
    columns=3,
    alt="A photograph three times",
    message="Erased before normalising, the rectangle is black; erased "
    "afterwards, it has the mean colour.",
)

# %% [markdown]
# Jitter with a factor of 1 should change nothing. After normalising, it destroys more than half of all values,
# because it clips to [0, 1] and normalised pixels are centred on zero. Erasing is different: both orders are common.
# Just don't compare a run with one order to a run with the other.
#
# A third trap is just as silent. `RandomRotation` and `RandomAffine` copy the *nearest* pixel unless you write
# `interpolation=v2.InterpolationMode.BILINEAR`. (`Augment` does the same without `interpolation="bilinear"`.) On digits
# of eight pixels, that breaks strokes.
#
# ### Exercise 4: find the bugs in the textbook (open, 15 minutes)
#
# A tutorial prints this pipeline for a data set of German road signs. The images are uint8 tensors of 64 pixels. The
# code runs without an error, and the network hardly learns. Write down every problem that you find, what its
# *symptom* would be, and a corrected pipeline.
#
# ```python
# transform = v2.Compose([
#     v2.RandomResizedCrop(64, scale=(0.08, 1.0)),
#     v2.RandomHorizontalFlip(p=0.5),
#     v2.RandomErasing(p=0.2),
#     v2.RandomRotation(15),
#     v2.RandomAffine(degrees=0, translate=(0.1, 0.1)),
#     v2.ToDtype(torch.float32),
#     v2.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
#     v2.ColorJitter(brightness=0.2, contrast=0.2, hue=0.1),
# ])
# train_set = ImageDataset(train_images, train_labels, transform)
# valid_set = ImageDataset(valid_images, valid_labels, transform)
# ```
#
# <details>
# <summary><b>Rubric: open it when you've written down your list</b></summary>
#
# | points | for |
# |---|---|
# | 2 | the flip exchanges labels (and which classes show it) |
# | 2 | `scale=True` is missing, and what `Normalize` then produces |
# | 2 | jitter after normalising |
# | 1 | erasing before the geometry: the hole is turned, and black corners are added |
# | 1 | two affine maps where one would do, so pixels are resampled twice |
# | 1 | both copy the nearest pixel, because `interpolation` is missing |
# | 1 | crops of 8 % of the area miss the digits of a speed limit |
# | 2 | validation images are augmented, and you say how the accuracy then behaves |
# | 2 | the corrected pipeline runs on a uint8 image and returns values near -2 to 2.5 |
# | 1 | a check that would have caught most of it: look at one batch, undo the normalisation, print the range |
#
# </details>

# %%
# Your corrected pipeline. Try it on signs.train.images[10].

# %% [markdown]
# ## 3.7 Policies: let an algorithm choose
#
# Choosing by hand means setting a dozen ranges. A **policy** replaces them with one or two numbers, or none.
#
# **AutoAugment** ([Cubuk et al. 2019](https://arxiv.org/abs/1805.09501)) uses **reinforcement learning**: a recurrent
# network, the *controller*, proposes pairs of operations with probabilities and strengths. A small network is trained
# with them, its validation accuracy is the reward, and the controller is updated to propose what earned more. On
# CIFAR-10 the search took 5,000 GPU hours, so people use the published lists. **RandAugment** ([Cubuk et al.
# 2020](https://arxiv.org/abs/1909.13719)) drops the search: $n$ random operations per image, all of one strength $m$.
# **TrivialAugment** ([Müller & Hutter 2021](https://arxiv.org/abs/2103.10158)) has nothing to tune: one operation per
# image, at a random strength. **AugMix** ([Hendrycks et al. 2020](https://arxiv.org/abs/1912.02781)) blends several
# random chains into one image.
#
# In 2026, a usual recipe for training from scratch is a crop, a flip, RandAugment or TrivialAugment, random erasing,
# and mixup or CutMix (chapter 4). All four policies are in torchvision. They take uint8 images one at a time and come
# before the conversion.

# %%
POLICIES = {
    "AutoAugment": v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10),
    "RandAugment": v2.RandAugment(num_ops=2, magnitude=9),
    "TrivialAugment": v2.TrivialAugmentWide(),
}
torch.manual_seed(0)
china_pixels = photos.train.images[photos.classes.index("china")]
drawn = []
for policy in POLICIES.values():
    drawn += [policy(china_pixels) for _ in range(6)]
image_grid(
    torch.stack(drawn),
    [name for name in POLICIES for _ in range(6)],
    columns=6,
    alt="Six versions of a photograph from each policy",
    message="Policies change a photograph in many ways, some drastic.",
)

# %% tags=["claim"]
print(stored.on("all accuracy").claim("TrivialAugment", ">", "none", by=0.05))
tell("clean", "TrivialAugment")
tell("clean", "all but flip")
tell("all", "TrivialAugment", "all but flip")

# %% [markdown]
# No policy knows your task: AutoAugment's list for CIFAR-10 inverts colours, so don't use it where colour is the label.
# For the signs, TrivialAugment gains 20 points where everything shifts, and costs two points on clean signs. It comes
# within three points of the ranges that we chose by hand with these shifts in mind, but only at a strength that is too
# large for twenty epochs: ours cost 18 points on clean signs. Section 3.8 compares them again at other strengths.
#
# ## 3.8 Strength over time
#
# The strength need not stay the same during training. `Augment(..., strength=ramp(0, 1, steps))` multiplies all
# ranges and probabilities by a number that grows from 0 to 1: easy images first, hard ones later, a **curriculum**
# ([Bengio et al. 2009](https://doi.org/10.1145/1553374.1553380)). The `Trainer` tells the `Augment` which step it's
# at.
#
# ### Predict
#
# The study has four variants with all augmentations but the flip, evaluated where everything shifts at once.
# `"constant"` has full strength throughout, `"half"` half of it. `"growing"` goes from 0 to 1, and `"fading"` uses the
# same strengths in reverse. Which one is best?

# %% tags=["predict"]
my_best_strength = ...  # "constant", "half", "growing" or "fading"

# %% tags=["claim"]
under_all = stored.on("all accuracy")
STRENGTHS = {
    "constant": "all but flip",
    "growing": "all but flip, growing",
    "fading": "all but flip, fading",
    "half": "all but flip, half",
}
print(under_all.claim("all but flip, growing", ">", "all but flip, fading"))
tell("all", "all but flip, growing", "all but flip")
tell("all", "all but flip, growing", "all but flip, half")
tell("clean", "all but flip, growing")
tell("clean", "all but flip, half")
print("\nCompared with TrivialAugment:")
tell("all", "all but flip, growing", "TrivialAugment")
tell("all", "all but flip, half", "TrivialAugment")

# %% tags=["check"]
means = under_all.table()["mean"]
best_strength = max(STRENGTHS, key=lambda name: means[STRENGTHS[name]])
check.prediction(
    "Best strength?", my_best_strength, best_strength, options=STRENGTHS
)

# %% [markdown]
# Growing beats fading by 13 points with the same strengths, so at this length their *order* matters. Growing also gives
# back most of what full strength costs on clean signs. The study can't tell whether the growth itself helps. What helps
# may simply be that the hard images come last, while the learning rate falls to zero and the weights settle.
#
# **And TrivialAugment?** At half strength, our own ranges are 3.7 points ahead of it where everything shifts (1.0 to
# 6.4), though they cost 6.5 points on clean signs. With growing strength they're 11.5 points ahead (10.1 to 12.9) and
# cost 1.7 points on clean signs. So TrivialAugment is a good first thing to try, because nothing has to be tuned.
# Knowledge of the task, well dosed, beats it here. (These comparisons weren't declared before the study.)
#
# **What would change this result.** Longer runs: in 3.3, zoom and shift caught up with three times the epochs. The
# opposite order has its supporters too. Detectors such as YOLOX ([Ge et al. 2021](https://arxiv.org/abs/2107.08430))
# switch their strongest augmentations *off* for the last epochs, so that the network ends on images like those it will
# meet. These are mixup (chapter 4) and **mosaic**, which joins quarters of four images into one. Look at it: what would
# you do with the label of a whole image here, and why is a *detector*, which finds boxes, better off?

# %%
names = ["chelsea", "coffee", "china", "flower", "rocket", "motorcycle_left"]
scenes = photos.train.images[[photos.classes.index(name) for name in names]]
torch.manual_seed(1)
mosaics = []
for _ in range(4):
    four = scenes[torch.randperm(6)[:4]]
    row, column = torch.randint(24, 73, (2,)).tolist()  # where they meet
    mosaic = four[0].clone()
    mosaic[:, :row, column:] = four[1, :, :row, column:]
    mosaic[:, row:, :column] = four[2, :, row:, :column]
    mosaic[:, row:, column:] = four[3, :, row:, column:]
    mosaics.append(mosaic)
image_grid(
    torch.stack(mosaics),
    ["mosaic"] * 4,
    columns=4,
    alt="Four images, each made of parts of four photographs",
    message="A mosaic cuts most objects, and gives each image four scenes.",
)

# %% [markdown]
# A mosaic has no single label. A detector only has to move its boxes and to clip them, as in 3.5. Where objects have
# masks, **copy-paste** moves them into other images ([Ghiasi et al. 2021](https://arxiv.org/abs/2012.07177)).
#
# **Images from a generator.** A diffusion model can invent training images. Added to ImageNet, they raised its accuracy
# ([Azizi et al. 2023](https://arxiv.org/abs/2304.08466)). But they bring what the generator learnt from its own
# photographs, and training on suitable photographs of that collection worked as well or better ([Geng et al.
# 2024](https://arxiv.org/abs/2406.05184)). Test on real images, whatever you train on.
#
# <details>
# <summary><b>Beyond images: text and speech</b></summary>
#
# Text is augmented with synonyms and random deletions ([Wei & Zou 2019](https://arxiv.org/abs/1901.11196)) or by
# translating it to another language and back ([Sennrich et al. 2016](https://arxiv.org/abs/1511.06709)), and speech by
# masking times and frequencies ([Park et al. 2019](https://arxiv.org/abs/1904.08779)). The assumption of 3.2 is the
# same: delete the word "not", and the label of a film review has changed.
#
# </details>
#
# ## In plain PyTorch
#
# This function is all you need for the recipe of 3.1. Give its result to the data set of chapter 1,
# `ImageDataset(images, labels, transform=train_transform(32))`, and use no transform for the validation set. Our
# `small_resnet` normalises its input itself. For another network, add `v2.Normalize` at the end, and to the validation
# set too.
#
# The two libraries draw their random numbers differently. So the second cell lists all 162 images that
# `Augment(flip=0.5, crop_pad=4)` can make of one sign, 9 × 9 positions and two orientations, and asks whether
# torchvision's results are among them, bit for bit.

# %% tags=["plain"]
import torch
from torchvision.transforms import v2


def train_transform(size):
    """Return the transform of a uint8 training image (3, size, size)."""
    return v2.Compose(
        [
            v2.RandomCrop(size, padding=size // 8),
            v2.RandomHorizontalFlip(p=0.5),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )


# %%
pixels = signs.train.images[10]
as_float = v2.functional.to_dtype(pixels, torch.float32, scale=True)
offsets = torch.arange(-4, 5)
top, left, mirrored = torch.cartesian_prod(
    offsets, offsets, torch.tensor([0, 1])
).unbind(dim=1)
side = torch.full_like(top, 32)
possible = Augment(flip=0.5, crop_pad=4).apply(
    as_float.expand(162, -1, -1, -1),
    Params(window=Window(top, left, side, side), flip=mirrored.bool()),
)

torch.manual_seed(0)
transform = train_transform(32)
made = torch.stack([transform(pixels) for _ in range(500)])
same = (made[:, None] == possible).flatten(2).all(dim=2)  # (500, 162)
assert same.any(dim=1).all()
print(f"{same.any(dim=0).sum()} of {len(possible)} images occurred")
print(f"{same[:, mirrored.bool()].any(dim=1).float().mean():.0%} mirrored")

# %% [markdown]
# ## Make it bigger
#
# The stored study used a tenth of CIFAR-10 and twenty epochs. This cell uses all of it, on a GPU. It downloads 170 MB
# once and runs only when the environment variable `CNNLAB_PROFILE` is `gpu`.

# %% tags=["bigger"]
if lab.profile == "gpu":
    cifar = cnnlab.load("cifar10", download=True)

    def on_cifar(seed, augment=None):
        """Train on all of CIFAR-10; return the test accuracy."""
        torch.manual_seed(seed)
        model = cnnlab.small_resnet(num_classes=10, width=32, depth=3)
        optimizer = torch.optim.SGD(
            model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4
        )
        batches = cnnlab.loader(cifar.train, 128, shuffle=True, seed=seed)
        one_cycle = cnnlab.schedules.one_cycle(15 * len(batches))
        trainer = cnnlab.Trainer(
            model,
            optimizer,
            scheduler=cnnlab.attach(optimizer, one_cycle),
            batch_transform=augment,
            seed=seed,
        )
        trainer.fit(batches, epochs=15)
        return trainer.evaluate(cnnlab.loader(cifar.test, 512))["acc"]

    def with_flip_and_shift(seed):
        return on_cifar(seed, Augment(crop_pad=4, flip=0.5))

    bigger = cnnlab.compare(
        {"none": on_cifar, "flip and shift": with_flip_and_shift}, seeds=3
    )
    print(bigger)
else:
    print("left out: set CNNLAB_PROFILE=gpu to run it")

# %% tags=["hide-input"]
check.quiz(3)

# %% [markdown]
# ## Key points
#
# - Augmentation states what the label doesn't depend on. That knowledge comes from the task, not from the library.
# - Flips and shifts gained about ten points here (a small network, 5,000 photographs, 20 epochs). Start there.
# - It helps most against the shift it resembles. Evaluate it there, and on clean images, and on single classes.
# - Augmented training takes longer. Give the baseline the same epochs before you compare.
# - Draw parameters for each image, never once per batch.
# - Geometry and colour first, then conversion to [0, 1], then erasing and normalising. Never augment validation
#   images.
#
# **The recipe so far.** The recipe of chapters 1 and 2 now has a random shift and, where the task allows it, a flip.
#
# ## Common mistakes
#
# | what you see | what it often is |
# |---|---|
# | two classes near one half, the others fine | a transform that turns one into the other; or too few epochs |
# | colour jitter does nothing | it's drawn once per batch, and batch norm divides it out |
# | half of the pixels are exactly 0 | colour jitter after normalising |
# | every worker process gives the same "random" images | a NumPy generator inside the data set, copied to all workers |
# | validation accuracy above training accuracy throughout | training accuracy is computed on augmented images; that's fine |
# | validation accuracy changes with every evaluation | the validation images are augmented as well |
# | augmentation "doesn't help" | too few epochs, or a test without the shift it's meant for |
#
# ## References
#
# - A. Krizhevsky, I. Sutskever and G. Hinton, *ImageNet classification with deep convolutional neural networks*, 2012,
#   [papers.nips.cc](https://papers.nips.cc/paper/4824-imagenet-classification-with-deep-convolutional-neural-networks)
# - P. Simard, D. Steinkraus and J. Platt, *Best practices for convolutional neural networks applied to visual
#   document analysis*, 2003, [doi:10.1109/ICDAR.2003.1227801](https://doi.org/10.1109/ICDAR.2003.1227801)
# - S. Chen, E. Dobriban and J. Lee, *A group-theoretic framework for data augmentation*, 2020,
#   [arXiv:1907.10905](https://arxiv.org/abs/1907.10905)
# - C. Szegedy, W. Liu, Y. Jia, P. Sermanet, S. Reed, D. Anguelov, D. Erhan, V. Vanhoucke and A. Rabinovich, *Going deeper with convolutions*, 2015, [arXiv:1409.4842](https://arxiv.org/abs/1409.4842)
# - H. Touvron, A. Vedaldi, M. Douze and H. Jégou, *Fixing the train-test resolution discrepancy*, 2019,
#   [arXiv:1906.06423](https://arxiv.org/abs/1906.06423)
# - Z. Zhong, L. Zheng, G. Kang, S. Li and Y. Yang, *Random erasing data augmentation*, 2017,
#   [arXiv:1708.04896](https://arxiv.org/abs/1708.04896)
# - T. DeVries and G. Taylor, *Improved regularization of convolutional neural networks with cutout*, 2017,
#   [arXiv:1708.04552](https://arxiv.org/abs/1708.04552)
# - A. Buslaev, V. Iglovikov, E. Khvedchenya, A. Parinov, M. Druzhinin and A. Kalinin, *Albumentations: fast and
#   flexible image augmentations*, 2020, [doi:10.3390/info11020125](https://doi.org/10.3390/info11020125)
# - E. Riba, D. Mishkin, D. Ponsa, E. Rublee and G. Bradski, *Kornia: an open source differentiable computer vision
#   library for PyTorch*, 2020, [arXiv:1910.02190](https://arxiv.org/abs/1910.02190)
# - D. Hendrycks and T. Dietterich, *Benchmarking neural network robustness to common corruptions and perturbations*,
#   2019, [arXiv:1903.12261](https://arxiv.org/abs/1903.12261)
# - E. Cubuk, B. Zoph, D. Mané, V. Vasudevan and Q. Le, *AutoAugment: learning augmentation policies from data*, 2019,
#   [arXiv:1805.09501](https://arxiv.org/abs/1805.09501)
# - E. Cubuk, B. Zoph, J. Shlens and Q. Le, *RandAugment: practical automated data augmentation with a reduced search
#   space*, 2020, [arXiv:1909.13719](https://arxiv.org/abs/1909.13719)
# - S. Müller and F. Hutter, *TrivialAugment: tuning-free yet state-of-the-art data augmentation*, 2021,
#   [arXiv:2103.10158](https://arxiv.org/abs/2103.10158)
# - D. Hendrycks, N. Mu, E. Cubuk, B. Zoph, J. Gilmer and B. Lakshminarayanan, *AugMix: a simple data processing
#   method to improve robustness and uncertainty*, 2020, [arXiv:1912.02781](https://arxiv.org/abs/1912.02781)
# - Y. Bengio, J. Louradour, R. Collobert and J. Weston, *Curriculum learning*, 2009,
#   [doi:10.1145/1553374.1553380](https://doi.org/10.1145/1553374.1553380)
# - Z. Ge, S. Liu, F. Wang, Z. Li and J. Sun, *YOLOX: exceeding YOLO series in 2021*, 2021,
#   [arXiv:2107.08430](https://arxiv.org/abs/2107.08430)
# - G. Ghiasi, Y. Cui, A. Srinivas, R. Qian, T.-Y. Lin, E. D. Cubuk, Q. V. Le and B. Zoph, *Simple copy-paste is a strong data augmentation method for instance segmentation*, 2021, [arXiv:2012.07177](https://arxiv.org/abs/2012.07177)
# - S. Azizi, S. Kornblith, C. Saharia, M. Norouzi and D. J. Fleet, *Synthetic data from diffusion models improves
#   ImageNet classification*, 2023, [arXiv:2304.08466](https://arxiv.org/abs/2304.08466)
# - S. Geng, C.-Y. Hsieh, V. Ramanujan, M. Wallingford, C.-L. Li, P. W. Koh and R. Krishna, *The unmet promise of synthetic training images: Using retrieved real images performs better*, 2024, [arXiv:2406.05184](https://arxiv.org/abs/2406.05184)
# - J. Wei and K. Zou, *EDA: easy data augmentation techniques for boosting performance on text classification tasks*,
#   2019, [arXiv:1901.11196](https://arxiv.org/abs/1901.11196)
# - R. Sennrich, B. Haddow and A. Birch, *Improving neural machine translation models with monolingual data*, 2016,
#   [arXiv:1511.06709](https://arxiv.org/abs/1511.06709)
# - D. S. Park, W. Chan, Y. Zhang, C.-C. Chiu, B. Zoph, E. D. Cubuk and Q. V. Le, *SpecAugment: a simple data augmentation method for automatic speech recognition*, 2019,
#   [arXiv:1904.08779](https://arxiv.org/abs/1904.08779)

# %% [markdown] tags=["instructor", "remove-cell"]
# ## When you are short of time
#
# The photographs of 3.1, the matrix of 3.3 and the flip of 3.4 are the lesson: thirty minutes. 3.5 to 3.8 can be read
# at home.
#
# ## A session of ninety minutes
#
# | minutes | what | sections | who |
# |---|---|---|---|
# | 10 | Ten versions of a photograph; predict the gain on photographs | 3.1 | you, with a vote |
# | 10 | Exercise 1 | 3.1 | everybody |
# | 10 | Turn up each slider until somebody would give a sign another label | 3.2 | pairs |
# | 15 | Exercise 2, then compare the sets of two pairs | 3.2 | pairs |
# | 15 | The matrix of augmentations and shifts: predict, run, and read the diagonal | 3.3 | everybody |
# | 10 | The flip: the same line of code gains on photographs and ruins two signs | 3.4 | the room |
# | 10 | Exercise 4, the bugs in a pipeline | 3.6 | pairs |
# | 10 | Questions for the room | | the room |
#
# ## Exercise 4, a corrected pipeline
#
# `RandomAffine(15, translate=(0.1, 0.1), scale=(0.8, 1.1), interpolation=v2.InterpolationMode.BILINEAR)`, then
# `ColorJitter(0.2, 0.2)`, `ToDtype(torch.float32, scale=True)`, `RandomErasing(p=0.2)` and `Normalize(...)`, without
# the flip; for validation only the conversion and `Normalize`.
#
# ## Questions for the room
#
# - In which task is a flip right, in which is it wrong, and in which does it depend on the country? (It's right for
#   cats and trucks, where it gained 5.6 points in the study of 3.1. It's wrong for "keep left" and "keep right", for
#   text, and for the side of the heart. It depends on the country where the side of the road matters: a mirrored street
#   scene is a real one in a country that drives on the other side, and a dangerous mistake at home.)
# - After twenty epochs, two networks guess at the arrows. One was trained with flips and the other with zoom and shift.
#   Which of them can be saved by training longer? (Only the second. Its arrows are at 54 % after twenty epochs and at
#   97 % after sixty, because they were only slow to learn. With flips, every arrow comes equally often under both
#   labels, so no number of epochs helps. The symptom is the same, and the cause isn't.)
# - Erasing gained half a point against occlusion here. What would you try before you conclude that it never helps?
#   (More epochs, for the baseline as well. It halves the damage, from 5.4 points to 2.7, but it costs 2.3 points on
#   clean signs, and for zoom and shift such a cost fell from 17 points to 3 between twenty and sixty epochs. Then try a
#   smaller probability and more varied images.)
# - Exercise 4: which of the bugs would a look at a single batch have shown, and which wouldn't? (It shows the missing
#   scale, the jitter after normalising, the turned holes with black corners, and the crops without digits. It shows the
#   flip only if you look at the labels, too. It can't show that the validation images are augmented, because that's
#   another loader, and you'd need to zoom in to see pixels that were resampled twice.)
# - An augmentation is a statement about the world. Whose job is it to make it: the engineer's or the expert's? (The
#   expert knows what leaves a label alone, for example that brightness decides in an X-ray. The engineer knows what the
#   code really does to the pixels. So let the expert look at twenty augmented images with their labels and say which of
#   them are wrong, before anything is trained.)
#
# ## Exam questions
#
# **Question 1.** A program draws one brightness factor for each *batch* and multiplies all its images by it. The
# training hardly makes the network any more robust to unusual light, although over many batches the factors have the
# right distribution. Explain this for a network that begins with a convolution without bias and a batch norm. Why is a
# factor for each image different?
#
# **Answer.** If all images of a batch are multiplied by c, so are the outputs of the convolution, their mean and their
# standard deviation. Batch norm subtracts this mean and divides by this standard deviation, so c cancels: the network
# sees the same values as without augmentation. At inference the layer uses running statistics, which don't follow the
# light of the image, and the network never learnt to cope with that. If each image has its own factor, the statistics
# of the batch are those of the mixture, so the differences between the images stay, and the network has to learn to
# ignore them.
#
# **Question 2.** You have 3,000 microscope images of cells and the labels "dividing" and "not dividing". A dividing
# cell can be recognised by a fine line. The slides lie in any orientation, and the brightness differs between
# microscopes. Which of these do you use: any rotation, flips, brightness, blur, erasing? How do you find out whether
# your choice has helped?
#
# **Answer.** Rotation and flips keep the label, because a slide has no up or down. A slight change of brightness does
# too, and it resembles the microscopes you haven't seen. Blur and erasing can remove the line and with it the label, so
# leave them out. Look at augmented images with their labels first. Then compare with training without augmentation,
# with the same number of epochs for both and several seeds. Evaluate on images that aren't augmented, for each class,
# and also on images from another microscope, because that's where the gain should show.

"""The order in which to debug a training run, as a poster on one sheet of A4."""

import math
from itertools import groupby
from typing import NamedTuple

from cnnlab.course.diagrams.canvas import BLUE, DPI, MUTED, ORANGE, WARNING, Canvas, tint
from cnnlab.plots import Plot


WIDTH, HEIGHT = 210 / 25.4 * DPI, 297 / 25.4 * DPI
LOG_K = math.log(12)  # the course's data has twelve classes


class Question(NamedTuple):
    """A question of the poster.

    Attributes:
        stage: the part of the run that it is about.
        words: the question; yes is good.
        look: where you see the answer.
        tool: the call of cnnlab that helps.
        advice: what to try if the answer is no, in lines.
    """

    stage: str
    words: str
    look: str
    tool: str
    advice: str


QUESTIONS = (
    Question(
        "data",
        "Do the labels belong to the images?",
        "Look at a batch exactly as the network gets it.",
        "symptoms.label_signal(images, labels)",
        "Shuffle images and labels together. Check the\n"
        "order of the classes, and a sample of labels\nby eye: no curve shows you wrong ones.",
    ),
    Question(
        "data",
        "Are the pixels what the network expects?",
        "Range, order of channels, normalisation, no NaN.",
        "diagnose.check_data(dataset)",
        "Divide bytes by 255. Give a pretrained network\n"
        "the size and the normalisation that it was\ntrained with.",
    ),
    Question(
        "fresh network",
        "Is the first loss near log K?",
        f"For 12 classes that is {LOG_K:.2f}. Suspicious: twice as much.",
        "diagnose.initial_loss(model, loader, loss_fn)",
        "Check the range of the pixels. Use He\n"
        "initialisation, and put a norm after each\nconvolution.",
    ),
    Question(
        "fresh network",
        "Does every layer get a gradient?",
        "After the first backward() no gradient norm is 0.",
        "diagnose.grad_norms(model)",
        "Weights of zero or dead ReLUs: He initialisation.\n"
        "Frozen by mistake: unfreeze. Layers in a plain\nlist: nn.ModuleList.",
    ),
    Question(
        "fresh network",
        "Can the network memorise ten images?",
        "The loss falls to nearly 0 within 100 steps.",
        "diagnose.overfit_one_batch(model, batch, loss_fn)",
        "There is a bug in the model, the loss or the\n"
        "optimizer. Return logits, not probabilities; call\nzero_grad, backward, step.",
    ),
    Question(
        "first steps",
        "Are the loss and its gradients finite?",
        "Find the first NaN: data, loss, layer or gradient.",
        "diagnose.nan_hunt(model, batch, loss_fn)",
        "Remove broken images. Compute the loss from\n"
        "logits, which avoids log 0. Lower the learning\nrate, warm up, or clip: clip_norm=1.0.",
    ),
    Question(
        "first steps",
        "Are the steps of a healthy size?",
        "About 1/1000 of a weight: log10 from −4.2 to −1.2.",
        "callbacks.UpdateRatioLog()",
        "Too large: a learning rate ten times smaller.\n"
        "Too small: ten times larger. The range test\nfinds one: tune.lr_find.",
    ),
    Question(
        "curves",
        "Does the training loss fall far enough?",
        "Plateau, underfitting, or decayed too early?",
        "diagnose.diagnose(history)",
        "Train longer, or let the learning rate decay\n"
        "later. Then try a larger network, and weaker\naugmentation and regularisation.",
    ),
    Question(
        "curves",
        "Does the validation loss fall along with it?",
        "If it turns upwards, the network overfits.",
        "diagnose.diagnose(history)",
        "First ask the next two questions. Then augment\n"
        "or mix images, use pretrained weights or weight\ndecay, or stop early.",
    ),
    Question(
        "evaluation",
        "Does a second evaluation agree?",
        "In evaluation mode, to within 0.1 of the accuracy.",
        "trainer.Trainer.evaluate(loader)",
        "Call model.eval(). Preprocess validation images\n"
        "as in training. Keep frozen batch norm\nin evaluation mode while you train.",
    ),
    Question(
        "evaluation",
        "Is every validation image new?",
        "No copy or near copy of one is in the training set.",
        "symptoms.shared_share(train, valid)",
        "Remove copies before you split the data. Keep\n"
        "near copies, such as frames of one video, in\nthe same split.",
    ),
    Question(
        "evaluation",
        "Is the recall of every class good enough?",
        "The confusion matrix shows what accuracy hides.",
        "symptoms.recalls(logits, labels)",
        "Weight rare classes in the loss, or draw them\n"
        "more often, but not both. Collect more images\nof them.",
    ),
)


def debugging() -> Plot:
    """Draw the decision tree for a run that doesn't learn: what to ask first, and what to try.

    It fills a sheet of A4: `debugging().save("debugging.pdf")`.

    >>> debugging().alt.partition(". ")[0]
    'Check causes before effects: the first no tells you what to try'
    """
    page = Canvas(
        "Check causes before effects:\nthe first no tells you what to try",
        note="Debugging a training run. Start at the top. At the first no, stop and change one "
        "thing. Then start again.",
        height=HEIGHT,
        width=WIDTH,
        margin=40,
        size=19,
    )
    left, top, pitch, height = 40.0, 122.0, 78.5, 59.0
    x, wide, answer = left + 36, 334.0, 452.0
    for row, question in enumerate(QUESTIONS):
        y = top + row * pitch
        asked = page.box(x, y, wide, height, line=1.3)
        page.text(x + 14, y + 15, question.words, size=10, bold=True, ha="left")
        page.text(x + 14, y + 33, question.look, size=8.3, ha="left")
        page.text(x + 14, y + 48, question.tool, size=7.6, mono=True, colour=MUTED, ha="left")
        advice = page.box(
            answer, y, WIDTH - left - answer, height, fill=tint(ORANGE, 0.13), edge=ORANGE
        )
        page.text(answer + 12, advice.centre[1], question.advice, size=8.3, ha="left", spacing=1.3)
        page.arrow(asked.right, advice.left, colour=ORANGE, line=1.6)
        page.text(asked.right[0] + 19, asked.right[1] - 9, "no", bold=True, colour=WARNING)
        page.arrow(asked.bottom, (asked.bottom[0], y + pitch))
        page.text(asked.bottom[0] + 9, y + height + 9.5, "yes", size=8.5, bold=True, ha="left")
    end = top + len(QUESTIONS) * pitch
    last = "Healthy. Repeat the run with other seeds, and open the test set once, at the end."
    page.box(
        x, end, WIDTH - left - x, 32, last, fill=BLUE, edge=BLUE, colour="white", bold=True, size=10
    )
    row = 0
    for number, (stage, group) in enumerate(groupby(QUESTIONS, lambda q: q.stage), 1):
        count = len(list(group))
        y, length = top + row * pitch, (count - 1) * pitch + height
        page.box(left, y, 24, length, fill=BLUE, edge=BLUE)
        page.text(
            left + 12, y + length / 2, f"{number}  {stage}", size=9.5, bold=True, colour="white",
            rotation=90,
        )  # fmt: skip
        row += count
    steps = " ".join(
        f"{i}. {q.words} ({q.tool}) If not: {' '.join(q.advice.split())}"
        for i, q in enumerate(QUESTIONS, 1)
    )
    return page.plot(f"A poster with {len(QUESTIONS)} questions. {steps} In the end: {last}")

"""A finished run of the clinic, and the plots and numbers you can examine it with."""

import copy
import math
import statistics
from functools import cached_property

import torch.nn.functional as F
from torch import Tensor

from cnnlab import plots
from cnnlab.course.clinic.plans import Plan, Record, validate
from cnnlab.diagnose import grad_norms, initial_loss, symptoms
from cnnlab.rng import fork_rng
from cnnlab.training.modes import train_mode


# Vital sign -> its unit and what it means.
MEANINGS = {
    "log_classes": ("nats", "loss of a network to which all classes are equally likely"),
    "first_loss": ("nats", "loss of the model before its first step, on the first batch"),
    "last_loss": ("nats", "training loss of the last epoch"),
    "train_acc": ("", "training accuracy of the last epoch, 0 to 1"),
    "valid_acc": ("", "validation accuracy as the run computed it, 0 to 1"),
    "valid_acc_again": ("", "the same, computed again in evaluation mode"),
    "worst_recall": ("", "fraction of the validation images of the worst class that are found"),
    "pixel_low": ("", "smallest pixel value that the model received"),
    "pixel_high": ("", "largest pixel value that the model received"),
    "label_signal": ("", "accuracy of a linear classifier on the batches that the model received"),
    "chance": ("", "accuracy of always predicting the most frequent class"),
    "shared_share": ("", "fraction of the validation images that are also training images"),
    "silent_share": ("", "fraction of the units that get no gradient at all"),
    "log10_update_ratio": ("", "log10 of the relative size of a step; -3 means one thousandth"),
    "grad_norm_peak": ("", "largest gradient norm of a step, divided by the median"),
    "sums_to_one": ("yes or no", "1 if the outputs of the model are positive and sum to 1"),
    "moved_statistics": ("values", "running statistics that changed without trained weights"),
}


class Vitals(dict[str, float]):
    """The vital signs of a run, by name; they are shown with their units and meanings.

    >>> Vitals(first_loss=1.7918)
    first_loss           1.79 nats       loss of the model before its first step, on the first batch
    """

    def __repr__(self) -> str:
        return "\n".join(
            f"{name:18} {value:>6.3g} {unit:10} {meaning}"
            for name, value in self.items()
            for unit, meaning in [MEANINGS.get(name, ("", ""))]
        )


class Case:
    """A finished run and its evidence.

    Args:
        n: number of the case.
        seed: seed of the clinic.
        title: name of the case in plots and messages.
        plan: the settings of the run.
        record: the results of the run.

    Attributes:
        train: the training set, a data set of (image, label) with `images`, `labels` and `classes`.
        valid: the validation set, with the same attributes.
        fresh: the model before its first step.
        model: the model after its last step.
        history: the history of the run; besides the curves it has the columns `grad_norm_mean`,
            `grad_norm_max` and `log10_update_ratio`.
        ended: the error that stopped the run, or "" if it finished.
        batch: the first training batch, (images, labels), as the model received it.
        loss_fn: cross-entropy.
    """

    def __init__(self, n: int, seed: int, title: str, plan: Plan, record: Record) -> None:
        self.n, self.seed, self.title = n, seed, title
        self._plan, self._first_samples = plan, record.first_samples
        self.train, self.valid, self.classes = plan.train, plan.valid, plan.train.classes
        self.fresh, self.model, self.history = record.fresh, record.model, record.history
        self.ended, self.loss_fn = record.ended, F.cross_entropy
        self.batch = tuple(tensor[: plan.batch_size] for tensor in record.first_samples)

    def curves(self) -> plots.Plot:
        """Plot loss and accuracy of each epoch, or `steps()` if no epoch was finished."""
        return self.history.plot() if self.history.epochs else self.steps()

    def steps(self) -> plots.Plot:
        """Plot the loss and the gradient norm of each step, one above the other."""
        steps = self.history.steps
        return plots.lines(
            steps["step"].tolist(),
            {"loss (nats)": steps["loss"].tolist(), "gradient norm": steps["grad_norm"].tolist()},
            xlabel="optimizer step",
            ylabel="",
            message=f"{self.title}: loss and gradient norm of each step.",
            log="y",
            stacked=True,
        )

    def pictures(self, n: int = 16) -> plots.Plot:
        """Show n images of the first batch as the model received them, with their labels."""
        images, labels = (tensor[:n] for tensor in self.batch)
        low, high = images.amin(), images.amax()
        if low < 0 or high > 1:
            images = (images - low) / (high - low)
        titles = [self.classes[k] for k in labels.tolist()]
        return plots.image_grid(images, titles, alt=f"{self.title}: its first training images")

    def gradients(self) -> plots.Plot:
        """Plot the gradient norm of each weight of the fresh model, on the first batch."""
        norms = {name: max(norm, 1e-12) for name, norm in self._first_gradients().items()}
        return plots.layers(
            norms,
            label="gradient norm of the fresh model (0 is drawn at 1e-12)",
            message=f"{self.title}: gradient norm of each weight before the first step.",
        )

    def confusion(self) -> plots.Plot:
        """Plot the confusion matrix of the validation set, as fractions of the true class."""
        predicted, labels = self._logits.argmax(dim=1), self.valid.labels
        k = len(self.classes)
        counts = F.one_hot(labels * k + predicted, k * k).sum(dim=0).view(k, k).float()
        fractions = counts / counts.sum(dim=1, keepdim=True)
        return plots.heatmap(
            fractions.tolist(),
            self.classes,
            self.classes,
            label="fraction of the true class",
            xlabel="prediction",
            ylabel="true class",
            message=f"{self.title}: true classes in rows, predictions in columns.",
        )

    def measure(self, batch_size: int) -> float:
        """Return the validation accuracy, computed as the run computed it, with your batch size."""
        return validate(self._plan, self.model, batch_size)[1]

    def vitals(self) -> Vitals:
        """Return the vital signs: those of `symptoms.judge`, and more from history and pixels.

        They are a dictionary that prints as a table with units and meanings.
        """
        images, labels = self._first_samples
        observed, expected = initial_loss(self.fresh, [self.batch], self.loss_fn)
        signal, chance = symptoms.label_signal(images, labels)
        if len(images) < 200:
            signal = math.nan  # the run stopped before there were enough samples
        norms = self.history.step_rows["grad_norm"]
        last = self.history.epochs[-1] if self.history.epochs else {}
        first = self.history.epochs[0] if self.history.epochs else {}
        valid_acc_again = (self._logits.argmax(dim=1) == self.valid.labels).float().mean().item()
        return Vitals(
            {
                "log_classes": expected,
                "first_loss": observed,
                "last_loss": last.get("train_loss", math.nan),
                "train_acc": last.get("train_acc", math.nan),
                "valid_acc": last.get("valid_acc", math.nan),
                "valid_acc_again": valid_acc_again,
                "worst_recall": min(symptoms.recalls(self._logits, self.valid.labels)),
                "pixel_low": images.min().item(),
                "pixel_high": images.max().item(),
                "label_signal": signal,
                "chance": chance,
                "shared_share": symptoms.shared_share(self.train, self.valid),
                "silent_share": symptoms.silent_share(
                    self.fresh, (images[:64], labels[:64]), self.loss_fn
                ),
                "log10_update_ratio": first.get("log10_update_ratio", math.nan),
                "grad_norm_peak": max(norms) / statistics.median(norms),
                "sums_to_one": float(symptoms.sums_to_one(self._logits)),
                "moved_statistics": float(len(symptoms.moved_statistics(self.fresh, self.model))),
            }
        )

    def __repr__(self) -> str:
        epochs = len(self.history.epochs)
        last = self.history.epochs[-1] if epochs else {}
        metrics = ", ".join(
            f"{name.replace('_', ' ')} {last[name]:.3g}"
            for name in ("train_loss", "train_acc", "valid_loss", "valid_acc")
            if name in last
        )
        error = f"; stopped with an error: {self.ended}" if self.ended else ""
        return (
            f"{self.title}: {len(self.train)} training and {len(self.valid)} validation images of "
            f"{len(self.classes)} classes, {epochs} epochs; "
            f"{metrics or 'no epoch was finished'}{error}"
        )

    @cached_property
    def _logits(self) -> Tensor:
        """Outputs of the trained model on the validation set, in evaluation mode, (N, K)."""
        return symptoms.eval_outputs(self.model, self.valid.images)

    def _first_gradients(self) -> dict[str, float]:
        with fork_rng():
            model = train_mode(copy.deepcopy(self.fresh))
            images, labels = self.batch
            self.loss_fn(model(images), labels).backward()
        return grad_norms(model)

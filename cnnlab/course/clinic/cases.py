"""What lies on the table: a run that is over, and the ways to look at it."""

import copy
import math
import statistics
from functools import cached_property

import torch.nn.functional as F
from torch import Tensor

from cnnlab import plots
from cnnlab.course.clinic.plans import Plan, Record, measure
from cnnlab.diagnose import grad_norms, initial_loss, symptoms
from cnnlab.rng import fork_rng
from cnnlab.training.modes import train_mode


class Case:
    """A run and its evidence.

    Args:
        n: number of the case.
        seed: of the clinic.
        title: what to call it.
        plan: how it was set up.
        record: what came of it.

    Attributes:
        train: the training part, a dataset of (image, label) with `images`, `labels` and `classes`.
        valid: the validation part.
        fresh: the model before its first step.
        model: the model after its last.
        history: with `grad_norm_mean`, `grad_norm_max` and `log10_update_ratio` beside the curves.
        ended: why the run broke off, or "".
        batch: the first training batch, (images, labels), as the model got it.
        loss_fn: cross-entropy.
    """

    def __init__(self, n: int, seed: int, title: str, plan: Plan, record: Record) -> None:
        self.n, self.seed, self.title = n, seed, title
        self._plan, self._seen = plan, record.seen
        self.train, self.valid, self.classes = plan.train, plan.valid, plan.train.classes
        self.fresh, self.model, self.history = record.fresh, record.model, record.history
        self.ended, self.loss_fn = record.ended, F.cross_entropy
        self.batch = tuple(part[: plan.batch] for part in record.seen)

    def curves(self) -> plots.Plot:
        """Draw loss and accuracy over the epochs; over the steps where no epoch was finished."""
        return self.history.plot() if self.history.epochs else self.steps()

    def steps(self) -> plots.Plot:
        """Draw loss and gradient norm of each step."""
        steps = self.history.steps
        return plots.lines(
            steps["step"].tolist(),
            {"loss": steps["loss"].tolist(), "gradient norm": steps["grad_norm"].tolist()},
            xlabel="optimizer step",
            ylabel="loss (nats), gradient norm",
            message=f"{self.title}.",
            log="y",
        )

    def pictures(self, n: int = 16) -> plots.Plot:
        """Show the beginning of the first batch as the model got it, each picture under its label."""
        images, labels = (part[:n] for part in self.batch)
        low, high = images.amin(), images.amax()
        if low < 0 or high > 1:
            images = (images - low) / (high - low)
        titles = [self.classes[k] for k in labels.tolist()]
        return plots.image_grid(images, titles, alt=f"{self.title}, its first training pictures")

    def gradients(self) -> plots.Plot:
        """Draw the norm of each weight's gradient on the first batch, for the fresh model."""
        norms = {name: max(norm, 1e-12) for name, norm in self._first_gradients().items()}
        return plots.layers(
            norms,
            label="gradient norm of the fresh model (0 is drawn at 1e-12)",
            message=f"{self.title}.",
        )

    def confusion(self) -> plots.Plot:
        """Draw which class was taken for which, as shares of the true class."""
        predicted, labels = self._outputs.argmax(dim=1), self.valid.labels
        k = len(self.classes)
        counts = F.one_hot(labels * k + predicted, k * k).sum(dim=0).view(k, k).float()
        shares = counts / counts.sum(dim=1, keepdim=True)
        return plots.heatmap(
            shares.tolist(),
            self.classes,
            self.classes,
            label="share of the true class",
            message=f"{self.title}: true class down, answer across.",
        )

    def measure(self, batch_size: int) -> float:
        """Return the validation accuracy as the run measures it, in batches of a size of your choice."""
        return measure(self._plan, self.model, batch_size)[1]

    def vitals(self) -> dict[str, float]:
        """Return the vital signs, those that `symptoms.judge` knows and what the history and the pixels say."""
        images, labels = self._seen
        observed, expected = initial_loss(self.fresh, [self.batch], self.loss_fn)
        signal, chance = symptoms.label_signal(images, labels)
        if len(images) < 200:
            signal = math.nan  # the run broke off before there was enough to tell
        norms = self.history.step_rows["grad_norm"]
        last = self.history.epochs[-1] if self.history.epochs else {}
        first = self.history.epochs[0] if self.history.epochs else {}
        again = (self._outputs.argmax(dim=1) == self.valid.labels).float().mean().item()
        found = symptoms.recalls(self._outputs, self.valid.labels)
        return {
            "log_classes": expected,
            "first_loss": observed,
            "last_loss": last.get("train_loss", math.nan),
            "train_acc": last.get("train_acc", math.nan),
            "valid_acc": last.get("valid_acc", math.nan),
            "valid_acc_again": again,
            "worst_recall": min(found),
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
            "sums_to_one": float(symptoms.sums_to_one(self._outputs)),
            "moved_statistics": float(len(symptoms.moved_statistics(self.fresh, self.model))),
        }

    def __repr__(self) -> str:
        done, last = (
            len(self.history.epochs),
            self.history.epochs[-1] if self.history.epochs else {},
        )
        told = ", ".join(
            f"{name.replace('_', ' ')} {last[name]:.3g}"
            for name in ("train_loss", "train_acc", "valid_loss", "valid_acc")
            if name in last
        )
        broken = f"; broke off: {self.ended}" if self.ended else ""
        return (
            f"{self.title}: {len(self.train)} training and {len(self.valid)} validation images of "
            f"{len(self.classes)} classes, {done} epochs; {told or 'no epoch finished'}{broken}"
        )

    @cached_property
    def _outputs(self) -> Tensor:
        """What the trained model says of the validation part, in evaluation mode."""
        return symptoms.asked(self.model, self.valid.images)

    def _first_gradients(self) -> dict[str, float]:
        with fork_rng():
            model = train_mode(copy.deepcopy(self.fresh))
            images, labels = self.batch
            self.loss_fn(model(images), labels).backward()
        return grad_norms(model)

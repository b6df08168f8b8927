"""Patient 18: small batches, here those of the good scanners, count as much as large ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from torch import Tensor

from cnnlab.course.emergency.controls import report_on_random_labels
from cnnlab.course.emergency.examination import classification
from cnnlab.course.emergency.records import Record, Rule, accurate, honest, within_budget
from cnnlab.course.emergency.runs import Run
from cnnlab.course.emergency.worlds import withheld_digits
from cnnlab.rng import fold_in


@contextmanager
def _scanned(admitted: ModuleType, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield scans of the withheld digits."""
    with withheld_digits(admitted, seed) as (images, labels):
        yield admitted.scan(images, fold_in(seed, 74) % 2**31)[0], labels


def _observe(run: Run) -> dict[str, float]:
    """Measure the classifier, and its report where nothing can be learnt."""
    return classification(run) | {"control": report_on_random_labels(run)}


MEAN = "    return sum(accuracies) / len(accuracies)\n"
APPEND = "accuracies.append((predict(model, x[i]) == y[i]).float().mean().item())"
REPORT = "evaluate(model, x[700:], y[700:], scanner[700:])"

RECORD = Record(
    complaint="We validate on the same scanners in the same proportions, but report too much.",
    cause="mean of batch means",
    repairs={
        "    accuracies = []\n": "    hits = []\n",
        APPEND: "hits += (predict(model, x[i]) == y[i]).tolist()",
        MEAN: "    return sum(hits) / len(hits)\n",
    },
    wrong={
        "a lower number": {MEAN: "    return sum(accuracies) / len(accuracies) - 0.16\n"},
        "the median": {MEAN: "    return sorted(accuracies)[len(accuracies) // 2]\n"},
        "batches of one scanner each": {"size=512": "size=1024"},
        "smaller batches": {"size=512": "size=50"},
        "dropout": {"nn.Flatten(), ": "nn.Flatten(), nn.Dropout(0.5), "},
    },
    right={
        "a weighted mean": {
            "    accuracies = []\n": "    correct = total = 0\n",
            APPEND: (
                "correct, total = correct + (predict(model, x[i]) == y[i]).sum(), total + len(i)"
            ),
            MEAN: "    return correct.item() / total\n",
        },
        "all at once": {
            REPORT: "(predict(model, x[700:]) == y[700:]).float().mean().item()",
        },
        "batches of one image": {"size=512": "size=1"},
    },
    world=_scanned,
    rules=(
        honest(0.05),
        accurate(),
        within_budget(),
        Rule(
            lambda own, twin: abs(own["control"] - 0.1) <= 0.06,
            "the numbers agree now, but with random labels, where nothing can be learnt, it "
            "reports {own[control]:.2f}.",
        ),
    ),
    observe=_observe,
    seeds=3,
)

"""The 2 x 2 rule of transfer learning: where to begin, by amount and similarity of the data."""

from dataclasses import dataclass
from typing import Literal

from cnnlab.errors import holds


@dataclass(frozen=True)
class Advice:
    """A strategy for training a pretrained network on a new task.

    Attributes:
        strategy: "feature extraction", "top layers", "fine-tuning" or "full training".
        reason: one sentence that explains why.
    """

    strategy: str
    reason: str


def advise(n_per_class: float, similarity: float | Literal["high", "low"]) -> Advice:
    """Return the strategy that the 2 x 2 rule of transfer learning recommends for a data set.

    The rule is a guideline of lectures on computer vision. The notes of CS231n put it like this:

    | | similar | different |
    |---|---|---|
    | small | linear classifier on the features | linear classifier on an earlier stage |
    | large | fine-tune the whole network | train it all, from pretrained or random weights |

    For large, similar data, later lectures recommend fine-tuning only a few of the last layers. For
    small, different data, they say that a linear classifier or fine-tuning is worth trying, without
    a guarantee. That is why each strategy comes with a `reason`:

    | | similar | different |
    |---|---|---|
    | small | "feature extraction" | "top layers": one of two things to try |
    | large | "fine-tuning": more layers with more images | "full training": all layers |

    None of the lectures says what "small" is: here it is fewer than 100 images per class. Compare
    the strategy with its neighbours on validation images, as the chapter on fine-tuning does.

    Args:
        n_per_class: number of labelled images per class.
        similarity: of the new data to the data the network was pretrained on: "high", "low", or
            your estimate from 0 to 1, where 0.5 and above counts as high.

    Raises:
        ValueError: there is less than one image per class, or the similarity is out of range.

    A. Karpathy, CS231n notes, "Transfer Learning", https://cs231n.github.io/transfer-learning/;
    Yosinski et al. 2014, https://arxiv.org/abs/1411.1792.

    >>> advise(10, "high").strategy
    'feature extraction'
    """
    level = (
        {"high": 1.0, "low": 0.0}.get(similarity, -1.0)
        if isinstance(similarity, str)
        else similarity
    )
    if not holds(lambda: 0 <= level <= 1):
        raise ValueError(
            f"similarity must be 'high', 'low' or a number from 0 to 1, got {similarity!r}"
        )
    if not holds(lambda: n_per_class >= 1):
        raise ValueError(f"n_per_class must be at least 1, got {n_per_class!r}")
    return _ADVICE[n_per_class >= 100, level >= 0.5]


# (many images, similar) -> advice
_ADVICE = {
    (False, True): Advice(
        "feature extraction",
        "a large network would overfit a few images, and its features already suit the new task, "
        "so freeze the backbone and train a linear classifier on its features",
    ),
    (False, False): Advice(
        "top layers",
        "this is the hardest case and success is not guaranteed: the upper features are specific "
        "to the old task, and a few images cannot replace them, so compare a linear classifier on "
        "the features of an earlier stage with careful fine-tuning of the top layers",
    ),
    (True, True): Advice(
        "fine-tuning",
        "the features suit the new task and there are enough images to improve them, so train the "
        "head first, then a few of the later stages, and more of them the more images you have, "
        "with a learning rate 10 to 100 times smaller than from scratch",
    ),
    (True, False): Advice(
        "full training",
        "there are enough images to change every feature, so train all stages: starting from the "
        "pretrained weights is often worthwhile even here, and training from scratch is possible",
    ),
}

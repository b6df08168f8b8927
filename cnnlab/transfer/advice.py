"""The 2 x 2 rule of transfer learning: a strategy for each amount and similarity of the data."""

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
    """Return the strategy that the 2 x 2 rule recommends for a new data set.

    The rule is a starting point, so compare its strategy with the neighbouring ones. In chapter 10
    it loses to full training when there are only a few images and they are different from the old
    ones. "A few" means fewer than 100 images per class.

    | | similar | different |
    |---|---|---|
    | a few images | feature extraction | top layers |
    | many images | fine-tuning | full training |

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
        "so freeze the backbone and train only a new head",
    ),
    (False, False): Advice(
        "top layers",
        "the upper features are specific to the old task, but there are too few images to learn "
        "the lower ones again, so freeze the lower stages and train the top ones with a small "
        "learning rate",
    ),
    (True, True): Advice(
        "fine-tuning",
        "there are enough images to train every stage, and the pretrained weights are already "
        "close to good ones, so train the head first, and then all stages with a learning rate 10 "
        "to 100 times smaller than usual",
    ),
    (True, False): Advice(
        "full training",
        "there are enough images to learn every feature again, so train all stages with the usual "
        "learning rate, starting from the pretrained weights, which are rarely worse than random "
        "ones",
    ),
}

"""The 2 x 2 rule of transfer learning: which strategy for how much data, and how similar."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Advice:
    """What to do with a pretrained network.

    Attributes:
        strategy: "feature extraction", "top layers", "fine-tuning" or "full training".
        reason: why, in a sentence.
    """

    strategy: str
    reason: str


def advise(n_per_class: float, similarity: float | Literal["high", "low"]) -> Advice:
    """Return the strategy of the 2 x 2 rule: how much data there is, and how similar it is to the old.

    A rule of thumb to begin with, not a law: measure it against the neighbouring strategy. Chapter 10 does, and for a
    few different images the rule loses there to full training. "A few" means fewer than 100 images a class.

    | | similar | different |
    |---|---|---|
    | a few images | feature extraction | top layers |
    | many images | fine-tuning | full training |

    Args:
        n_per_class: labelled images a class.
        similarity: of the new data to those the network has learnt from, "high" or "low", or your guess as a
            number from 0 to 1; 0.5 and more counts as high.

    Raises:
        ValueError: there is less than one image a class, or the similarity is neither.

    A. Karpathy, CS231n notes, "Transfer Learning", https://cs231n.github.io/transfer-learning/; Yosinski et al.
    2014, https://arxiv.org/abs/1411.1792.

    >>> advise(10, "high").strategy
    'feature extraction'
    """
    level = (
        {"high": 1.0, "low": 0.0}.get(similarity, -1.0)
        if isinstance(similarity, str)
        else similarity
    )
    if not 0 <= level <= 1:
        raise ValueError(f"similarity is 'high', 'low' or from 0 to 1, got {similarity!r}")
    if not n_per_class >= 1:
        raise ValueError(f"n_per_class must be at least 1, got {n_per_class}")
    return _ADVICE[n_per_class >= 100, level >= 0.5]


# (many images, similar) -> what to do
_ADVICE = {
    (False, True): Advice(
        "feature extraction",
        "a few images would make a large network overfit, and its features fit already: freeze it and train "
        "a new head",
    ),
    (False, False): Advice(
        "top layers",
        "the upper features belong to the old task, but the images are too few to learn the lower ones anew: "
        "freeze the bottom, train the top stages at a small rate",
    ),
    (True, True): Advice(
        "fine-tuning",
        "there is enough to train every stage, and the old weights are close to the goal: train all at a rate "
        "10 to 100 times smaller, the head first",
    ),
    (True, False): Advice(
        "full training",
        "there is enough to learn every feature anew: train all at a usual rate, from the old weights, which "
        "are seldom worse than random ones",
    ),
}

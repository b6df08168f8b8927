"""The options of a trainer: each is declared once, and all are checked together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cnnlab.losses import LossFn
from cnnlab.training import distributed
from cnnlab.training.checks import PRECISIONS, as_device, check_options
from cnnlab.training.hooks import Callback


Metric = Callable[[Any, Tensor], Any]  # (outputs, targets) -> mean over the batch


@dataclass(eq=False, repr=False)
class TrainerOptions:
    """The arguments of `Trainer`, which explains each of them.

    Raises:
        TypeError: an option has the wrong type.
        ValueError: two options contradict each other, or one doesn't exist on the device.
    """

    model: nn.Module
    optimizer: Optimizer
    loss_fn: LossFn | None = None
    _: KW_ONLY
    scheduler: LRScheduler | None = None
    plateau: Any = None
    batch_transform: Any = None
    clip_norm: float | None = None
    clip_value: float | None = None
    precision: str = "fp32"
    microbatch: int | None = None
    ema: Any = None
    callbacks: Sequence[Callback] = ()
    seed: int = 0
    device: str | torch.device | None = None
    channels_last: bool = False
    compile: bool = False
    progress: bool | None = None
    metrics: Mapping[str, Metric] | None = None

    def __post_init__(self) -> None:
        self.device = as_device(self.device) if self.device is not None else best_device()
        check_options(self, self.device)

    @property
    def low_precision(self) -> torch.dtype | None:
        """The number type of mixed precision; None in full precision."""
        return None if self.precision == "fp32" else PRECISIONS[self.precision]


def best_device() -> torch.device:
    """Return CUDA if there is a GPU (each process its own), else the CPU.

    Apple's MPS is never chosen, because nothing in cnnlab has been tested on it. To try it, ask for
    it: `device="mps"`.
    """
    return distributed.local_gpu() if torch.cuda.is_available() else torch.device("cpu")


def memory_layout(channels_last: bool, precision: str, device: torch.device) -> torch.memory_format:
    """Return the memory format of weights and images: unchanged, unless `channels_last` is set.

    With bf16 on a CPU the channels always come first. There, a channels-last convolution over 1 x 1
    maps (torch 2.15) leaves the gradient of the weights that saw only padding unwritten, so that it
    contains whatever was in memory before.

    >>> memory_layout(True, "fp32", torch.device("cpu"))
    torch.channels_last
    >>> memory_layout(True, "bf16", torch.device("cpu"))
    torch.contiguous_format
    """
    if precision != "fp32" and device.type == "cpu":
        return torch.contiguous_format
    return torch.channels_last if channels_last else torch.preserve_format

"""Copy tensors to a GPU, and numbers from it, without waiting for it.

A GPU works through a queue. When the host reads a number, or copies from ordinary memory, it waits
until the queue is empty; then the GPU has nothing to do until the host has filled the queue again.
Copies from and to pinned memory take their place in the queue instead.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; a copy to a GPU goes through pinned memory.

    >>> to_device(torch.ones(2), torch.device("cpu"))
    tensor([1., 1.])
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class Numbers:
    """Numbers that may still be on their way from a GPU; all of them come in one copy.

    Args:
        values: scalar tensors, or numbers that the host knows already.

    >>> Numbers([torch.tensor(0.5), 2]).read()
    [0.5, 2]
    """

    def __init__(self, values: Sequence[Tensor | float]) -> None:
        self.values = values
        waiting = [v.detach().double() for v in values if isinstance(v, Tensor) and v.is_cuda]
        self._copies = self._arrived = None
        if waiting:
            self._copies = torch.stack(waiting).to("cpu", non_blocking=True)
            self._arrived = torch.cuda.current_stream(waiting[0].device).record_event()

    def read(self) -> list[float]:
        """Return the numbers; wait for those that haven't arrived yet."""
        if self._arrived is None or self._copies is None:
            return [v.item() if isinstance(v, Tensor) else v for v in self.values]
        self._arrived.synchronize()
        copies = iter(self._copies.tolist())
        return [
            (next(copies) if v.is_cuda else v.item()) if isinstance(v, Tensor) else v
            for v in self.values
        ]

"""Several processes that train one model, started by torchrun. In a single process everything here does nothing.

    torchrun --nproc-per-node 2 train.py

Every process runs the same script. Each sees every batch, in the one order that belongs to the seed, transforms it
as one process would, and trains on its own share of it; the gradients are summed before the step. So the batch size,
the schedule and the steps are those of one process, and so is the result, up to rounding, where nothing looks at
several samples at a time or draws random numbers for each: batch norm sees the share, and dropout draws anew for it.

Paszke et al. 2019, https://arxiv.org/abs/1912.01703; Li et al. 2020, https://arxiv.org/abs/2006.15704.
"""

import atexit
import os
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cnnlab.errors import DataError
from cnnlab.rng import seed_at


__all__ = [
    "all_reduce_sum",
    "any_rank",
    "barrier",
    "broadcast_from_rank0",
    "init_process_group",
    "is_local_batch",
    "is_rank0",
    "launched",
    "local_gpu",
    "no_sync_until_last",
    "rank",
    "seed_rank",
    "shard",
    "world_size",
    "wrap_parallel",
]


AVAILABLE = dist.is_available()  # a torch can be built without it


def launched() -> bool:
    """Tell whether this process was started by torchrun, or by something else that sets the same variables.

    >>> launched()
    False
    """
    return AVAILABLE and {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys()


def world_size() -> int:
    """Return how many processes train together; 1 without torchrun, and before a Trainer is made."""
    return dist.get_world_size() if _initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0; process 0 writes and prints."""
    return dist.get_rank() if _initialized() else 0


def is_rank0() -> bool:
    """Tell whether this process is the one that writes and prints."""
    return rank() == 0


def local_gpu() -> torch.device:
    """Return the CUDA device of this process: on each machine they are dealt out in turn."""
    return (
        torch.device("cuda", int(os.environ["LOCAL_RANK"])) if launched() else torch.device("cuda")
    )


def init_process_group(device: torch.device) -> None:
    """Meet the other processes, if there are any: over NCCL on GPUs, over gloo elsewhere. Once is enough."""
    if not launched() or _initialized():
        return
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    store, number, count = next(iter(dist.rendezvous("env://")))
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=dist.PrefixStore(_job_attempt(), store),
        rank=number,
        world_size=count,
        device_id=device if on_gpu else None,
    )
    atexit.register(_destroy)


def wrap_parallel(model: nn.Module) -> nn.Module:
    """Return the model for the forward pass: behind torch's wrapper, which averages gradients, or as it is.

    Made anew for each epoch, since the wrapper knows only the parameters that are trained when it is made.
    """
    return DistributedDataParallel(model) if world_size() > 1 else model


def no_sync_until_last(model: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Exchange gradients after the last part of a batch only. To be held around forward and backward."""
    if isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    return nullcontext()


def seed_rank(*counters: int) -> None:
    """Put the random numbers of every process but the first in a state of its own, so that dropout differs."""
    if rank():
        seed_at(*counters, rank())


def shard(batch: Tensor) -> Tensor:
    """Return the samples of a batch that this process trains on: every n-th of them.

    Raises:
        DataError: there are fewer samples than processes.
    """
    if world_size() == 1:
        return batch  # not even a view of it
    if len(batch) < world_size():
        raise DataError(
            f"a batch of {len(batch)} cannot be shared by {world_size()} processes: use larger batches, or "
            "drop_last=True"
        )
    return batch[rank() :: world_size()]


def is_local_batch(number: int) -> bool:
    """Tell whether this process measures the batch of that number."""
    return number % world_size() == rank()


def all_reduce_sum(*values: float) -> list[float]:
    """Return each value summed over the processes, in float64; every process has to call it."""
    if world_size() == 1:
        return list(values)
    total = torch.tensor(values, dtype=torch.float64, device=_exchange_device())
    dist.all_reduce(total)
    return total.tolist()


def any_rank(flag: bool) -> bool:
    """Tell whether the flag is up in any process; every process has to call it."""
    return all_reduce_sum(float(flag))[0] > 0


def broadcast_from_rank0(*modules: nn.Module | None) -> None:
    """Give every process the weights and statistics that the first one has."""
    if world_size() == 1:
        return
    for module in modules:
        for tensor in module.state_dict().values() if module is not None else ():
            dist.broadcast(tensor, src=0)


def barrier() -> None:
    """Wait until every process is here: what the first one has written is there for the others."""
    any_rank(False)


def _exchange_device() -> torch.device:
    """Where tensors must lie to be exchanged."""
    on_gpu = dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")


def _job_attempt() -> str:
    """A name for this life of the job.

    torchrun keeps its store when it restarts the processes, and with it the addresses of the dead ones: without a
    name of their own the new processes now and then call those, and fail or wait for ever (torch 2.15). Several
    machines count their restarts apart, so there the name is left alone.
    """
    alone = os.environ.get("GROUP_WORLD_SIZE", "1") == "1"
    return f"life {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0') if alone else 'any'}"


def _initialized() -> bool:
    return AVAILABLE and dist.is_initialized()


def _destroy() -> None:
    if _initialized():
        dist.destroy_process_group()

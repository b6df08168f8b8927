"""Training with several processes (torchrun). In a single process nothing here has an effect.

    torchrun --nproc-per-node 2 train.py

Every process runs the same script. Each of them reads every batch, in the same order, transforms
the whole batch as a single process would, and trains on its own shard of it. The gradients are
summed before the step. So batch size, schedule and steps are those of a single process, and the
result is the same up to rounding. The exceptions are layers that look at several samples or draw
random numbers: batch norm sees only the shard, and dropout draws different numbers for it.

Paszke et al. 2019, https://arxiv.org/abs/1912.01703; Li et al. 2020,
https://arxiv.org/abs/2006.15704.
"""

import atexit
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cnnlab.errors import DataError
from cnnlab.rng import seed_at


__all__ = [
    "all_reduce_sum",
    "any_rank",
    "average_gradients",
    "barrier",
    "broadcast_buffers",
    "broadcast_from_rank0",
    "check_equal",
    "init_process_group",
    "is_local_batch",
    "is_rank0",
    "launched",
    "local_gpu",
    "no_sync_until_last",
    "raised_together",
    "rank",
    "seed_rank",
    "shard",
    "world_size",
    "wrap_parallel",
]


AVAILABLE = dist.is_available()  # torch can be built without it


def launched() -> bool:
    """Return whether torchrun, or a launcher that sets its variables, started this process.

    >>> launched()
    False
    """
    return AVAILABLE and {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys()


def world_size() -> int:
    """Return the number of processes; 1 without torchrun, and before the first Trainer is made."""
    return dist.get_world_size() if _initialized() else 1


def rank() -> int:
    """Return the index of this process, from 0; process 0 writes and prints."""
    return dist.get_rank() if _initialized() else 0


def is_rank0() -> bool:
    """Return whether this is the process that writes and prints."""
    return rank() == 0


def local_gpu() -> torch.device:
    """Return the CUDA device of this process: on each machine, one device per process."""
    return (
        torch.device("cuda", int(os.environ["LOCAL_RANK"])) if launched() else torch.device("cuda")
    )


def init_process_group(device: torch.device) -> None:
    """Connect to the other processes, if there are any: by NCCL on GPUs, by gloo elsewhere."""
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
    """Wrap the model in DistributedDataParallel; in a single process, return it unchanged.

    Call it for each epoch, because the wrapper only knows the parameters that were trainable when
    it was made.
    """
    return DistributedDataParallel(model) if world_size() > 1 else model


def no_sync_until_last(model: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Exchange gradients only after the last microbatch: a context for forward and backward."""
    if isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    return nullcontext()


def seed_rank(*counters: int) -> None:
    """Seed every process but the first with its rank, so that dropout differs between them."""
    if rank():
        seed_at(*counters, rank())


def shard(batch: Tensor) -> Tensor:
    """Return the samples of a batch that this process trains on: every n-th one for n processes.

    Raises:
        DataError: there are fewer samples than processes.
    """
    if world_size() == 1:
        return batch
    if len(batch) < world_size():
        raise DataError(
            f"a batch of {len(batch)} can't be divided among {world_size()} processes: use larger "
            "batches, or drop_last=True"
        )
    return batch[rank() :: world_size()]


def is_local_batch(number: int) -> bool:
    """Return whether this process evaluates the batch with that number."""
    return number % world_size() == rank()


def all_reduce_sum(*values: float) -> list[float]:
    """Sum each value over the processes, in float64; every process has to call it."""
    if world_size() == 1:
        return list(values)
    total = torch.tensor(values, dtype=torch.float64, device=_exchange_device())
    dist.all_reduce(total)
    return total.tolist()


def any_rank(flag: bool) -> bool:
    """Return whether the flag is true in any process; every process has to call it."""
    return flag if world_size() == 1 else all_reduce_sum(float(flag))[0] > 0


def broadcast_from_rank0(*modules: Any) -> None:
    """Copy the weights and buffers of the first process to all the others."""
    if world_size() == 1:
        return
    for module in modules:
        for tensor in module.state_dict().values() if isinstance(module, nn.Module) else ():
            dist.broadcast(tensor, src=0)


def broadcast_buffers(module: nn.Module) -> None:
    """Copy the buffers of the first process, such as batch-norm statistics, to all the others."""
    if world_size() > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def raised_together(in_all: bool = True) -> AbstractContextManager[None]:
    """Raise an error of a `with` block in every process, so that none waits for one that failed.

    Args:
        in_all: whether every process gets here. The second microbatch may be in one only.
    """
    return _raised_together() if in_all and world_size() > 1 else nullcontext()


@contextmanager
def _raised_together() -> Iterator[None]:
    failure = None
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is, the others have to know
        failure = error
    if any_rank(failure is not None):
        raise failure or RuntimeError("another process of this training failed, see its message")


def average_gradients(loss_fn: Any) -> None:
    """Average the gradients of a loss with parameters, as DistributedDataParallel does for a model.

    Its buffers, such as running centres, become those of the first process.
    """
    if world_size() == 1 or not isinstance(loss_fn, nn.Module):
        return
    for parameter in filter(lambda p: p.requires_grad, loss_fn.parameters()):
        if parameter.grad is None:  # in this process nothing counted
            parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce(parameter.grad)
        parameter.grad /= world_size()
    broadcast_buffers(loss_fn)


def check_equal(name: str, value: float) -> None:
    """Refuse a number that differs between the processes; every process has to call it.

    Raises:
        DataError: it differs, so the processes would wait for each other forever.
    """
    total, squares = all_reduce_sum(value, value * value)
    if squares * world_size() != total * total:
        raise DataError(
            f"the processes have different numbers of {name}, {value:g} in process {rank()}: every "
            "process reads the same loader, and trains on its own samples of each batch"
        )


def barrier() -> None:
    """Wait until every process gets here, so that all can read what the first one wrote."""
    any_rank(False)


def _exchange_device() -> torch.device:
    """Return the device on which tensors can be exchanged."""
    on_gpu = dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")


def _job_attempt() -> str:
    """Return a name for this attempt, so that restarted processes don't read old addresses.

    torchrun keeps its store when it restarts the processes, together with the addresses of the dead
    ones. Without a name of their own, the new processes sometimes connect to those, and fail or
    wait forever (torch 2.15). Several machines count their restarts separately, so there every
    attempt has the same name.
    """
    one_machine = os.environ.get("GROUP_WORLD_SIZE", "1") == "1"
    return f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0') if one_machine else 'any'}"


def _initialized() -> bool:
    return AVAILABLE and dist.is_initialized()


def _destroy() -> None:
    if _initialized():
        dist.destroy_process_group()

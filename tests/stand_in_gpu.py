"""A stand-in for a GPU: tensors on the CPU that behave as if it took a wait to read them."""

import inspect
from contextlib import contextmanager
from types import SimpleNamespace
from unittest import mock

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only


GPU = torch.device("cuda")
READS = {
    *("item", "tolist", "numpy", "cpu", "nonzero", "equal", "allclose", "unique", "masked_select"),
    *("__bool__", "__int__", "__float__", "__index__", "__contains__", "__format__"),
}


class HostWaits(AssertionError):
    """The host would have waited for the GPU."""


class OnGPU(Tensor):
    """A tensor that counts as being on the GPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __deepcopy__(self, memo):
        twin = self.detach().clone().as_subclass(OnGPU)
        twin = nn.Parameter(twin, self.requires_grad) if isinstance(self, nn.Parameter) else twin
        memo[id(self)] = twin
        return twin


def _move_buffers(module, *args, **kwargs):
    """Take the place of `Module.to`; parameters are moved before they're given to an optimizer."""
    for part in module.modules() if GPU in args else ():
        for name, buffer in part._buffers.items():
            part._buffers[name] = None if buffer is None else buffer.as_subclass(OnGPU)
    return module


def _two_devices(tensors):
    """Whether tensors on a GPU meet others on the CPU, which CUDA takes only as scalars."""
    return any(x.ndim and not isinstance(x, OnGPU) for x in tensors)


class StandInGPU(TorchFunctionMode):
    """While it's entered, the device "cuda" exists: its tensors are marked tensors on the CPU.

    Attributes:
        strict: whether to raise `HostWaits` if the host reads from the GPU, or copies to it from
            memory that isn't pinned.
    """

    current = None

    def __init__(self):
        super().__init__()
        self.strict = False

    def __enter__(self):
        StandInGPU.current = self
        stream = SimpleNamespace(record_event=lambda: SimpleNamespace(synchronize=lambda: None))
        self.patches = [
            mock.patch.object(torch.cuda, "current_stream", return_value=stream),
            mock.patch.object(nn.Module, "to", _move_buffers),
        ]
        for patch in self.patches:
            patch.start()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        StandInGPU.current = None
        for patch in self.patches:
            patch.stop()

    def move(self, model):
        """Move a model, in place."""
        for module in model.modules():
            for name, p in module._parameters.items():
                if p is not None:
                    module._parameters[name] = nn.Parameter(p.detach().as_subclass(OnGPU))
        _move_buffers(model, GPU)

    @contextmanager
    def absent(self):
        """Run a block as on a machine without a GPU."""
        self.__exit__(None, None, None)
        try:
            yield
        finally:
            self.__enter__()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        on_gpu = any(isinstance(x, OnGPU) for x in tensors)
        if func == Tensor.is_cuda.__get__:
            return on_gpu
        if func == Tensor.device.__get__:
            return GPU if on_gpu else torch.device("cpu")
        name = func.__name__
        if name == "pin_memory":
            pinned = args[0].clone()
            pinned.is_in_pinned_memory = True
            return pinned
        if name == "to":
            return self._to(func, args, kwargs)
        if on_gpu and name in READS:
            self._wait(f"reads a tensor with {name}")
            if name == "cpu":
                return args[0].clone().as_subclass(Tensor)
        elif on_gpu and name == "__getitem__":
            masks = [x for x in tree_leaves(args[1]) if isinstance(x, Tensor)]
            if any(x.dtype in (torch.bool, torch.uint8) for x in masks):
                self._wait("selects by a mask, whose size has to be read")
        if "device" in kwargs and kwargs["device"] is not None:
            on_gpu = torch.device(kwargs["device"]).type == "cuda"
            kwargs["device"] = "cpu"
            if on_gpu and name in ("tensor", "as_tensor") and not tensors:
                self._wait("copies Python numbers")
        elif name == "copy_" and _two_devices(tensors):
            self._wait("copies from memory that isn't pinned, or to the CPU")
        elif on_gpu and not name.startswith("__") and _two_devices(tensors):
            raise RuntimeError(f"{name} got tensors on two devices")
        out = func(*args, **kwargs)
        if not on_gpu or name == "__deepcopy__":
            return out
        marked = tree_map_only(Tensor, lambda x: x.as_subclass(OnGPU), out)
        return out if isinstance(out, Tensor) and isinstance(out, OnGPU) else marked

    def _to(self, func, args, kwargs):
        """Copy between devices: without waiting only from pinned memory, or with non_blocking."""
        source, *rest = args
        there = here = isinstance(source, OnGPU)
        kept = []
        for value in rest:
            if isinstance(value, Tensor):
                there = isinstance(value, OnGPU)
                kept.append(value.dtype)
            elif isinstance(value, str | torch.device):
                there = torch.device(value).type == "cuda"
            else:
                kept.append(value)
        if kwargs.get("device") is not None:
            there = torch.device(kwargs.pop("device")).type == "cuda"
        # torch's optimizers group tensors by their true device, which is the CPU.
        in_torch = "/torch/" in inspect.currentframe().f_back.f_back.f_code.co_filename
        if here and not there and in_torch:
            there = True
        asked = kwargs.get("non_blocking", False)
        if there and not here and not (asked and hasattr(source, "is_in_pinned_memory")):
            self._wait("copies from memory that isn't pinned")
        if here and not there and not asked:
            self._wait("copies to the CPU")
        out = func(source, *kept, **kwargs)
        if there:
            return out.as_subclass(OnGPU)
        return out.clone().as_subclass(Tensor) if here else out

    def _wait(self, why):
        if self.strict:
            raise HostWaits(f"the host waits: it {why}")

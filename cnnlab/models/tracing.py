"""Find the order in which the layers of a network run, without running it."""

import copy
import warnings
from collections.abc import Sequence
from inspect import signature
from itertools import pairwise

from torch import fx, nn

from cnnlab.rng import fork_rng


class Calls:
    """The calls in a forward pass: which layers run, in which order, and on whose outputs.

    Layers and parameters are named as in `named_modules` and `named_parameters`. A layer of torch
    is one call; it isn't known what happens inside it.
    """

    def __init__(self, graph: fx.Graph, model: nn.Module) -> None:
        self.nodes, self.model = list(graph.nodes), model

    def positions(self, name: str) -> list[int]:
        """Return where a module or parameter is used, in the order of all calls.

        A layer inside a layer of torch is used where that one is.
        """
        return [
            i
            for i, node in enumerate(self.nodes)
            if self._is_inside(node, name)
            or (node.op == "call_module" and name.startswith(f"{node.target}."))
        ]

    def is_known(self, name: str) -> bool:
        """Return whether it is known what happens inside a module."""
        return any(self._is_inside(node, name) and node.target != name for node in self.nodes)

    def run_in_sequence(self, names: Sequence[str]) -> bool:
        """Return whether there are calls of these modules, and each gets what the last one made."""
        starts = {name: positions[0] for name in names if (positions := self.positions(name))}
        ordered = sorted(starts, key=lambda name: starts[name])
        return bool(ordered) and all(
            any(self._is_inside(node, a) for node in self._sources(self.nodes[starts[b]]))
            for a, b in pairwise(ordered)
        )

    def output_layers(self) -> list[str]:
        """Return the layers with weights that compute the outputs, in the order in which they run.

        Layers with one-dimensional parameters alone, such as batch norm, don't count.
        """
        return [
            name
            for node in self._sources(self.nodes[-1], until_weights=True)
            if (name := self._layer_with_weights(node)) is not None
        ]

    def last(self) -> str | None:
        """Return the type of the layer, or the name of the function, that returns the outputs."""
        node = self.nodes[-1].args[0]
        if not isinstance(node, fx.Node):
            return None
        if node.op == "call_module":
            return type(self.model.get_submodule(str(node.target))).__name__
        return str(getattr(node.target, "__name__", node.target))

    def _sources(self, node: fx.Node, until_weights: bool = False) -> list[fx.Node]:
        """Return all nodes that a node depends on; optionally only up to layers with weights."""
        needed: set[fx.Node] = set()
        waiting = list(node.all_input_nodes)
        while waiting:
            source = waiting.pop()
            if source not in needed:
                needed.add(source)
                if not (until_weights and self._layer_with_weights(source) is not None):
                    waiting += source.all_input_nodes
        return [source for source in self.nodes if source in needed]

    def _layer_with_weights(self, node: fx.Node) -> str | None:
        """Return the layer whose weights a node uses, unless they belong to the whole model."""
        if node.op not in ("call_module", "get_attr"):
            return None
        name = str(node.target)
        name = name if node.op == "call_module" else name.rpartition(".")[0]
        parameters = self.model.get_submodule(name).parameters()
        return name if name and any(p.ndim >= 2 for p in parameters) else None

    @staticmethod
    def _is_inside(node: fx.Node, name: str) -> bool:
        return node.op in ("call_module", "get_attr") and f"{node.target}.".startswith(f"{name}.")


class _Symbol(fx.Proxy):
    def __len__(self) -> int:
        return 1  # the batch size, which doesn't change what runs


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True  # or forward passes that change a buffer would really do it

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Symbol(node, self)


def trace(model: nn.Module) -> Calls | None:
    """Return the calls of a forward pass in evaluation mode; None if `torch.fx` can't follow it.

    Nothing is computed: a copy of the model that shares its tensors is given symbols instead of
    images. A forward pass that depends on the values or the shapes of the images can't be followed,
    and with old versions of torch neither can one that assigns to a buffer.

    >>> calls = trace(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)))
    >>> calls.positions("2"), calls.output_layers()
    ([3], ['2'])
    """
    shared = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    try:
        with fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            twin = copy.deepcopy(model, shared).eval()
            for module in twin.modules():  # the hooks of the user must not see symbols
                module._forward_hooks.clear()
                module._forward_pre_hooks.clear()
            options = signature(twin.forward).parameters.values()
            defaults = {p.name: p.default for p in options if p.default is not p.empty}
            return Calls(_Tracer().trace(twin, defaults), model)
    except Exception:  # noqa: BLE001 - code of the user may raise anything
        return None

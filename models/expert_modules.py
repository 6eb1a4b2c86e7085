"""Where a model of transformers keeps its routed experts: found by the shape of its modules, not by its name.

Most implementations have an experts module whose ``forward`` takes the chosen ids and their weights. Blocks that are
built otherwise are listed by the name of their class. Needs no import of torch: it looks at the modules it is given.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

INDEX_ARGUMENTS = ("top_k_index", "router_indices", "selected_experts", "topk_indices", "topk_idx")
WEIGHT_ARGUMENTS = ("top_k_weights", "routing_weights", "topk_weights")


class Block(NamedTuple):
    """How a block whose experts module is not given ids and weights keeps its experts.

    Attributes:
        experts: gives the modules that hold the experts' weights.
        num_experts: gives E.
    """

    experts: Callable[[Any], tuple[Any, ...]]
    num_experts: Callable[[Any], int]


class Experts(NamedTuple):
    """The routed experts of one layer: path of the block or experts module, modules with the weights, E."""

    name: str
    modules: tuple[Any, ...]
    num_experts: int


def _experts(block: Any) -> tuple[Any, ...]:
    return (block.experts,)


def _jet(block: Any) -> tuple[Any, ...]:
    return (block.input_linear, block.output_linear)


def _router_experts(block: Any) -> int:
    return int(block.router.num_experts)


BLOCKS = {
    "Llama4TextMoe": Block(_experts, _router_experts),
    "JetMoeMoE": Block(_jet, _router_experts),
    "JetMoeMoA": Block(_jet, _router_experts),
    "SwitchTransformersSparseMLP": Block(_experts, _router_experts),
    "NllbMoeSparseMLP": Block(_experts, _router_experts),
    "DogeCDMoE": Block(lambda block: (block.down_embed, block.up_embed), lambda block: int(block.num_keys**2)),
}
"""By the class name of the block."""


def find_experts(model: Any) -> Iterator[Experts]:
    """Yield the routed experts of every layer of a model, in the order of its modules."""
    inside: set[str] = set()
    for name, module in model.named_modules():
        block = BLOCKS.get(type(module).__name__)
        if block is not None:
            inside.add(name)
            yield Experts(name, block.experts(module), block.num_experts(module))
        elif expert_arguments(module) is not None and name.rpartition(".")[0] not in inside:
            yield Experts(name, (module,), routed_experts(module))


def expert_arguments(module: Any) -> tuple[list[str], str, str] | None:
    """Return the parameter names of a module's ``forward``, and which of them are ids and weights, or None.

    ``type(module).forward`` is looked at: the instance's own may have been replaced by a wrapper.
    """
    forward = getattr(type(module), "forward", None)
    if forward is None:
        return None
    try:
        names = list(inspect.signature(forward).parameters)[1:]
    except (TypeError, ValueError):
        return None
    index = next((name for name in names if name in INDEX_ARGUMENTS), None)
    weight = next((name for name in names if name in WEIGHT_ARGUMENTS), None)
    return None if index is None or weight is None else (names, index, weight)


def routed_experts(experts: Any) -> int:
    """Return E of an experts module: its attribute, or the first dimension of its weights."""
    for name in ("num_routed_experts", "num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"):
        value = getattr(experts, name, None)
        if isinstance(value, int):
            return value
    return max(int(p.shape[0]) for p in experts.parameters() if p.ndim == 3)

"""Where a model routes: its MoE layers, found by the shape of their modules rather than by the model's name.

Most implementations have an experts module whose ``forward`` takes the chosen ids and their weights, beside a router.
What those arguments hold is what is executed, so they are what is recorded. Models built otherwise have an adapter in
`families`, which reads the router's output.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from lrcsim.base.errors import ConfigError
from lrcsim.models.expert_modules import BLOCKS, expert_arguments, routed_experts
from lrcsim.recorder import families
from lrcsim.traces.choose_layers import ATTENTION

ROUTER = re.compile(r"(Router|Gate|Gating)$")

Chosen = tuple[Any, Any]
"""Expert ids (integer) and their weights (float), tensors [tokens, k]; the id is -1 where no expert ran."""


@dataclass(frozen=True)
class Site:
    """One MoE layer of a model.

    Attributes:
        name: path of the module that is watched.
        watched: that module.
        before: whether `read` takes the arguments that the module is called with (True), or its output (False).
        read: turns what the watched module got or gave into the `Chosen`.
        router: the module that scores the experts, or None when there is no separate one.
        experts: the modules that hold the routed experts' weights.
        num_experts: routed experts, E.
        logits: turns the router's output into scores [tokens, E], or None.
        guess: turns the router's output into the `Chosen` of a prediction, or None when it does not tell.
        stack: 0, or 1 for the decoder of an encoder-decoder model.
        block: index of the layer among its stack's blocks.
    """

    name: str
    watched: Any
    before: bool
    read: Callable[..., Chosen]
    router: Any
    experts: tuple[Any, ...]
    num_experts: int
    logits: Callable[[Any], Any] | None
    guess: Callable[[Any], Chosen] | None
    stack: int
    block: int

    @property
    def expert_bytes(self) -> int | None:
        """Bytes of one routed expert's weights as they are in memory, or None when they cannot be told apart."""
        total = 0
        for module in self.experts:
            apart = hasattr(module, "keys")  # a module for each expert; else tensors of all of them, experts first
            for parameter in module.parameters():
                if parameter.ndim < 2 and not apart:  # a norm that the experts share
                    continue
                experts = parameter.shape[0] if parameter.ndim == 3 and not apart else self.num_experts
                total += parameter.numel() * parameter.element_size() // experts
        return total or None


def find_sites(model: Any) -> list[Site]:
    """List the MoE layers of a model in the order in which they run: of a block, attention comes first.

    Raises:
        ConfigError: there are none, or the model is of a family that cannot be recorded (the message says why).
    """
    families.refuse(model.config)
    sites = sorted(_sites(model), key=lambda site: (site.stack, site.block, not ATTENTION.search(site.name)))
    if not sites:
        raise ConfigError(
            f"the model ({model.config.model_type}, {type(model).__name__}) has no MoE layers that lrcsim can find: "
            "it is dense, or built in a way that docs/recorder.md does not list"
        )
    return sites


def _sites(model: Any) -> Iterator[Site]:
    modules = dict(model.named_modules())
    for name, module in modules.items():
        parent = modules.get(name.rpartition(".")[0])
        stack = int(bool(model.config.is_encoder_decoder) and "decoder" in name.split("."))
        block = next((int(part) for part in name.split(".") if part.isdecimal()), 0)
        adapter = families.ADAPTERS.get(type(module).__name__)
        if adapter is not None:
            router = adapter.router(module)
            read = adapter.read(module)
            kept = BLOCKS[type(module).__name__]
            yield Site(
                name=name, watched=router, before=False, read=read, router=router, experts=kept.experts(module),
                num_experts=kept.num_experts(module), logits=adapter.logits, guess=read, stack=stack, block=block,
            )  # fmt: skip
            continue
        arguments = expert_arguments(module)
        if arguments is None or type(parent).__name__ in families.ADAPTERS:
            continue
        router = _router_beside(parent)
        experts = routed_experts(module)
        correct = families.corrected(module)
        yield Site(
            name=name, watched=module, before=True, read=_reader(*arguments, correct), router=router, experts=(module,),
            num_experts=experts, logits=families.first_logits(experts) if router is not None else None,
            guess=_guesser(getattr(parent, "top_k", None), correct) if router is not None else None, stack=stack,
            block=block,
        )  # fmt: skip


def _router_beside(parent: Any) -> Any:
    """Return the router among a block's children: the one called gate or router, else the one of such a class."""
    if parent is None:
        return None
    children = dict(parent.named_children())
    for name in ("router", "gate"):
        if name in children:
            return children[name]
    return next((child for child in children.values() if ROUTER.search(type(child).__name__)), None)


def _reader(
    names: list[str], index: str, weight: str, correct: Callable[[Any, Any], Any] | None
) -> Callable[..., Chosen]:
    at_index, at_weight = names.index(index), names.index(weight)

    def read(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Chosen:
        ids = kwargs[index] if index in kwargs else args[at_index]
        weights = kwargs[weight] if weight in kwargs else args[at_weight]
        if correct is not None:
            ids = correct(ids, weights)
        return ids, weights

    return read


def _guesser(top_k: int | None, correct: Callable[[Any, Any], Any] | None) -> Callable[[Any], Chosen]:
    """Return what reads ids and weights from a router's output: its integer tensor and the float one of that shape.

    A router that gives scores only (DBRX) chooses their top-k.
    """

    def guess(output: Any) -> Chosen:
        parts = output if isinstance(output, tuple) else (output,)
        ids = next((part for part in parts if not part.is_floating_point()), None)
        if ids is None:
            best = parts[0].reshape(-1, parts[0].shape[-1]).topk(int(top_k or 1), dim=-1)
            return best.indices, best.values
        weights = next(part for part in parts if part.is_floating_point() and part.shape == ids.shape)
        return (ids if correct is None else correct(ids, weights)), weights

    return guess

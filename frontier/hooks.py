"""The recorder's hooks turned round: what a MoE layer of a running model is about to execute can be replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from lrcsim.base.errors import ConfigError
from lrcsim.models.expert_modules import expert_arguments
from lrcsim.recorder import families
from lrcsim.recorder.sites import Site, find_sites


@dataclass
class Routed:
    """What a MoE layer is about to run: tensors of all tokens of a forward pass.

    Attributes:
        site: the layer.
        ids: int [tokens, k], as the router chose them.
        weights: float [tokens, k].
        scores: the router's scores, float [tokens, E]; None where it has no module of its own.
    """

    site: Site
    ids: Any
    weights: Any
    scores: Any


Replace = Callable[[Routed], tuple[Any, Any] | None]
"""Returns ids and weights [tokens, k] to run in place of the router's, or None: as it was."""


def _as_it_was(_: Routed) -> None:
    return None


class Hooks:
    """Hooks on every MoE layer of a model, which ask ``replace`` before its experts run.

    Args:
        model: a transformers model, in evaluation mode.

    Attributes:
        sites: the MoE layers.
        replace: asked in the order in which layers run.

    Raises:
        ConfigError: the model has no MoE layers that can be found, or is built so that a choice cannot be replaced.
    """

    def __init__(self, model: Any) -> None:
        _refuse(model)
        self.model = model
        self.sites = find_sites(model)
        for site in self.sites:
            if not site.before and _block_of(model, site) not in WRITERS:
                raise ConfigError(
                    f"the experts of {_block_of(model, site)} are not given ids and weights that could be replaced: "
                    "models of this kind can be recorded, and rules replayed on the trace (lrcsim run --route)"
                )
        self.replace: Replace = _as_it_was
        self._scores: dict[int, Any] = {}

    @contextmanager
    def on(self) -> Iterator[None]:
        """Hang the hooks on the model, and take them off again."""
        handles: list[Any] = []
        try:
            for number, site in enumerate(self.sites):
                if site.before:
                    if site.router is not None:
                        handles.append(site.router.register_forward_hook(self._note_scores(number, site)))
                    hook = self._before_experts(number, site)
                    handles.append(site.watched.register_forward_pre_hook(hook, with_kwargs=True))
                else:
                    writer = WRITERS[_block_of(self.model, site)]
                    handles.append(site.watched.register_forward_hook(self._after_router(site, writer)))
            with families.mended(self.model):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _note_scores(self, number: int, site: Site) -> Any:
        read = site.logits

        def hook(_module: Any, _args: Any, output: Any) -> None:
            if read is not None:
                self._scores[number] = read(output)

        return hook

    def _before_experts(self, number: int, site: Site) -> Any:
        arguments = expert_arguments(site.watched)
        assert arguments is not None  # `find_sites` found them
        names, index, weight = arguments

        def hook(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            ids, weights = site.read(args, kwargs)
            found = self._asked(site, ids, weights, self._scores.pop(number, None))
            if found is None:
                return None
            args, kwargs = list(args), dict(kwargs)  # type: ignore[assignment]
            for name, value, old in zip((index, weight), found, (ids, weights), strict=True):
                new = value.to(old.dtype).reshape(old.shape)
                if name in kwargs:
                    kwargs[name] = new
                else:
                    args[names.index(name)] = new  # type: ignore[index]
            return tuple(args), kwargs

        return hook

    def _after_router(self, site: Site, writer: Callable[[Any, Any, Any], Any]) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> Any:
            ids, weights = site.read(output)
            scores = None if site.logits is None else site.logits(output)
            found = self._asked(site, ids, weights, scores)
            return None if found is None else writer(output, *found)

        return hook

    def _asked(self, site: Site, ids: Any, weights: Any, scores: Any) -> tuple[Any, Any] | None:
        k = ids.shape[-1]
        return self.replace(Routed(site, ids.reshape(-1, k), weights.reshape(-1, k), scores))


def _llama4(output: Any, ids: Any, weights: Any) -> Any:
    """Write into the router's output: weights [tokens, E], 0 for all but the chosen experts; and its logits."""
    scores, *rest = output
    written = torch.zeros_like(scores).scatter(-1, ids, weights.to(scores.dtype))
    return (written, *rest)


WRITERS: dict[str, Callable[[Any, Any, Any], Any]] = {"Llama4TextMoe": _llama4}
"""By the class name of the block: how a choice is put into its router's output."""


def _block_of(model: Any, site: Site) -> str:
    return type(model.get_submodule(site.name)).__name__


def _refuse(model: Any) -> None:
    """Refuse a model that is run otherwise than token after token.

    Raises:
        ConfigError: with the reason.
    """
    if model.config.is_encoder_decoder:
        raise ConfigError(
            f"{type(model).__name__} has an encoder, whose tokens do not follow each other: give a decoder-only model"
        )
    for kind in sorted({model.config.model_type, model.config.get_text_config().model_type} & families.ALONE.keys()):
        raise ConfigError(
            f"models of type {kind!r} cannot be run with a rule token by token: in them {families.ALONE[kind]}"
        )

"""Hooks that note what every MoE layer runs, and the arrays made of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from lrcsim.base.errors import ConfigError
from lrcsim.recorder import families
from lrcsim.recorder.outputs import predicted_ids, predicts_tokens
from lrcsim.recorder.passes import Columns, Frames, sorted_by_weight, stacked
from lrcsim.recorder.predict import GatePredictor
from lrcsim.recorder.sites import find_sites
from lrcsim.traces import LayerTable
from lrcsim.traces.choose_layers import choose_layers

JOIN_TOKENS = 2_048
"""Rows (tokens of forward passes) after which what the hooks noted is joined and moved to the host's memory.

Until then only references to the router's own small tensors are kept, so a hook costs an append.
"""


@dataclass
class _Noted:
    """Tensors noted for one layer in one forward pass."""

    site: int
    ids: Any
    weights: Any
    logits: Any = None
    inputs: Any = None
    predictions: dict[int, Any] = field(default_factory=dict)


class Capture:
    """Hooks on all MoE layers of a model, and on its output, while `on` is active.

    Args:
        model: a transformers model, in evaluation mode.
        logits: also keep the router's scores of all experts.
        inputs: also keep what each router is given.
        ahead: also ask the gates of the next 1, 2, ... ``ahead`` layers about each layer's hidden state.
        layers: which MoE layers, as `choose_layers` reads it; None: all. The others run as ever, and count for nothing:
            ``ahead`` goes from one recorded layer to the next.

    Raises:
        ConfigError: the model has no MoE layers that can be recorded, or ``layers`` means none of them.
    """

    def __init__(
        self, model: Any, *, logits: bool = False, inputs: bool = False, ahead: int = 0, layers: str | None = None
    ) -> None:
        self.model = model
        self.sites = find_sites(model)
        if layers is not None:
            chosen = choose_layers(layers, len(self.sites), [site.name for site in self.sites])
            self.sites = [self.sites[number] for number in chosen]
        self.logits = logits
        self.inputs = inputs
        self.ahead = ahead
        self.predicts = predicts_tokens(model)
        self._next_gate = GatePredictor(ahead)
        self._order: dict[int, list[int]] = {}  # of each stack: sites as they fire in one forward pass
        self._frame: list[_Noted] = []
        self._scores: dict[int, Any] = {}
        self._given: dict[int, Any] = {}
        self._guesses: dict[int, dict[int, Any]] = {}
        self._waiting: dict[int, list[list[_Noted]]] = {}
        self._predicted: dict[int, list[Any]] = {}  # of each stack and waiting frame, int32 [rows]
        self._waiting_rows = 0
        self._rows: dict[int, list[int]] = {}
        self._joined: dict[int, list[Columns]] = {}
        self._top_k: dict[int, list[int]] = {}  # of each stack, by layer
        if logits and any(site.logits is None or site.router is None for site in self.sites):
            raise ConfigError(f"--logits: the router of {self.sites[0].name} cannot be found, leave the option out")
        if inputs and any(site.router is None for site in self.sites):
            raise ConfigError(f"--router-inputs: the router of {self.sites[0].name} cannot be found, leave it out")

    @contextmanager
    def on(self) -> Iterator[Capture]:
        """Hang the hooks on the model, and take them off again; meanwhile `families.mended` holds."""
        handles: list[Any] = []
        try:
            for number, site in enumerate(self.sites):
                if site.router is not None and (self.logits or self.inputs or self.ahead):
                    handles.append(site.router.register_forward_hook(self._on_router(number), with_kwargs=True))
                if site.before:
                    hook = self._before_experts(number)
                    handles.append(site.watched.register_forward_pre_hook(hook, with_kwargs=True))
                else:
                    handles.append(site.watched.register_forward_hook(self._after_router(number)))
            if self.model.config.is_encoder_decoder:
                handles.append(self.model.get_encoder().register_forward_hook(self._end_of_frame))
            handles.append(self.model.register_forward_hook(self._end_of_frame))
            with families.mended(self.model):
                yield self
        finally:
            for handle in handles:
                handle.remove()

    def _before_experts(self, number: int) -> Any:
        read = self.sites[number].read

        def hook(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._note(number, *read(args, kwargs))

        return hook

    def _after_router(self, number: int) -> Any:
        read = self.sites[number].read

        def hook(_module: Any, _args: Any, output: Any) -> None:
            self._note(number, *read(output))

        return hook

    def _note(self, number: int, ids: Any, weights: Any) -> None:
        if self._next_gate.asking:  # a gate asked about another layer's state
            return
        scores, given = self._scores.pop(number, None), self._given.pop(number, None)
        self._frame.append(_Noted(number, ids, weights, scores, given, self._guesses.pop(number, {})))

    def _on_router(self, number: int) -> Any:
        site = self.sites[number]

        def hook(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if self._next_gate.asking:
                return
            if self.logits and site.logits is not None:
                self._scores[number] = site.logits(output)
            if self.inputs:
                self._given[number] = args[0] if args else next(iter(kwargs.values()))
            if self.ahead:
                self._guesses[number] = self._next_gate.ask(site, args, kwargs)

        return hook

    def _end_of_frame(self, _module: Any, _args: Any, output: Any) -> None:
        """Put what was noted in this forward pass (of one stack) in the order of the layers."""
        if not self._frame:
            return
        noted, self._frame = self._frame, []
        self._next_gate.forget()
        stack = self.sites[noted[0].site].stack
        fired = [entry.site for entry in noted]
        order = self._order.setdefault(stack, fired)
        if fired != order:
            raise ConfigError(
                f"the model ran other MoE layers than before ({len(fired)}, then {len(order)}): it cannot be recorded"
            )
        rows = noted[0].ids.numel() // noted[0].ids.shape[-1]
        self._rows.setdefault(stack, []).append(rows)
        self._waiting.setdefault(stack, []).append(noted)
        if self.predicts:
            self._predicted.setdefault(stack, []).append(predicted_ids(output, rows, noted[0].ids.device))
        self._waiting_rows += rows
        if self._waiting_rows >= JOIN_TOKENS:
            self._join()

    def _join(self) -> None:
        """Bring what waits to the host, [rows, layers of the stack, K] each, and the predicted tokens, [rows]."""
        for stack, frames in self._waiting.items():
            layers: list[Columns] = []
            for at in range(len(frames[0])):
                noted = [frame[at] for frame in frames]
                columns = {
                    "experts": _rows([entry.ids for entry in noted]).to(torch.int32),
                    "weights": _rows([entry.weights for entry in noted]).float(),
                }
                if self.logits:
                    columns["logits"] = _rows([entry.logits for entry in noted]).half()
                if self.inputs:
                    columns["router_inputs"] = _rows([entry.inputs for entry in noted]).half()
                for distance in range(1, self.ahead + 1):
                    guesses = [_guess(entry, distance) for entry in noted]
                    columns[f"predictions/{distance}"] = _rows(guesses).to(torch.int32)
                layers.append({name: data.cpu().numpy() for name, data in columns.items()})
            self._top_k.setdefault(stack, [layer["experts"].shape[1] for layer in layers])
            joined = stacked(layers)
            if self.predicts:
                joined["predicted_ids"] = torch.cat(self._predicted[stack]).cpu().numpy()
            self._joined.setdefault(stack, []).append(joined)
        self._waiting, self._predicted, self._waiting_rows = {}, {}, 0

    def take(self) -> dict[int, Frames]:
        """Return what ran since the last call, by stack (0, and 1 for a decoder beside an encoder).

        Ids come in rank order, by falling weight.
        """
        if self._waiting_rows:
            self._join()
        rows, joined = self._rows, self._joined
        self._rows, self._joined = {}, {}
        taken: dict[int, Frames] = {}
        for stack, parts in joined.items():
            columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            sorted_by_weight(columns["experts"], columns["weights"])
            taken[stack] = Frames(rows[stack], columns)
        return taken

    def forget(self) -> None:
        """Drop what ran since the last `take`."""
        self._frame, self._waiting, self._waiting_rows, self._rows, self._joined = [], {}, 0, {}, {}
        self._scores, self._given, self._guesses, self._predicted = {}, {}, {}, {}
        self._next_gate.forget()

    def layers(self) -> LayerTable:
        """Describe the layers that ran, in the order in which they did, an encoder's first.

        Raises:
            ConfigError: nothing ran so far.
        """
        ran = [self.sites[number] for number in self._ran()]
        sizes = [site.expert_bytes for site in ran]
        return LayerTable.build(
            len(ran),
            [site.num_experts for site in ran],
            [k for stack in sorted(self._top_k) for k in self._top_k[stack]],
            expert_bytes=None if None in sizes else [size for size in sizes if size is not None],
            block=[site.block for site in ran],
            stack=[site.stack for site in ran],
            num_shared=families.shared(self.model.config),
            stack_names=("encoder", "decoder") if self.model.config.is_encoder_decoder else ("decoder",),
        )

    def layer_names(self) -> list[str]:
        """Name the module behind each layer of `layers`."""
        return [self.sites[number].name for number in self._ran()]

    def _ran(self) -> list[int]:
        if not self._order:
            raise ConfigError("no MoE layer of the model ran")
        return [number for stack in sorted(self._order) for number in self._order[stack]]


def _rows(parts: list[Any]) -> Any:
    """Join tensors of several passes, [..., width] each, to [rows, width]."""
    return torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])


def _guess(entry: _Noted, distance: int) -> Any:
    found = entry.predictions.get(distance)
    return torch.full_like(entry.ids, -1) if found is None else found

"""A trace of some of another's MoE layers."""

from __future__ import annotations

from pathlib import Path

from lrcsim.base.errors import TraceError
from lrcsim.traces.choose_layers import choose_layers
from lrcsim.traces.importers.source import Progress
from lrcsim.traces.trace import RoutingTrace
from lrcsim.traces.writer import TraceWriter

BY_LAYER = ("experts", "weights", "logits", "router_inputs", "residency", "predictions/")
"""Beginnings of the names of columns with an axis of layers, [tokens, L, ...]."""


def select_layers(
    trace: RoutingTrace, out_path: str | Path, wanted: str, progress: Progress = lambda _done, _total: None
) -> list[int]:
    """Write a trace with some of the MoE layers, in bounded memory; tokens, requests and labels stay as they are.

    A token of a stack of which no layer is left stays too, without routing.

    Args:
        trace: the trace.
        out_path: the trace to write; an existing file is replaced, when the new one is complete.
        wanted: which layers, as `choose_layers` reads it.
        progress: called now and then with the tokens done and the total.

    Returns:
        The layers kept, by their numbers in ``trace``.

    Raises:
        ConfigError: no layer is meant.
        TraceError: the trace is damaged, or the file cannot be written.
    """
    out_path = Path(out_path)
    if trace.path is not None and out_path.exists() and out_path.samefile(trace.path):
        raise TraceError(f"{out_path}: is the trace itself; name another output")
    named = trace.provenance.get("layers")
    names = [str(name) for name in named] if isinstance(named, list) and len(named) == len(trace.layers) else None
    kept = choose_layers(wanted, len(trace.layers), names)
    layers = trace.layers.at(kept)
    about = {**trace.provenance, "selected_layers": kept}
    about.pop("converted", None)  # that is of the whole
    if names is not None:
        about["layers"] = [names[layer] for layer in kept]
    widths = {"logits": int(layers.num_experts.max())}
    if "router_inputs" in trace.columns:
        widths["router_inputs"] = trace.columns["router_inputs"].shape[2]
    with TraceWriter(out_path, layers, model=trace.model, provenance=about) as writer:
        for request in range(trace.num_requests):
            writer.begin_request(None if trace.domains is None else trace.domains[request] or None)
            stop = int(trace.offsets[request + 1])
            for low in range(int(trace.offsets[request]), stop, TraceWriter.BLOCK):
                high = min(low + TraceWriter.BLOCK, stop)
                columns = {name: trace.read(name, low, high) for name in trace.columns}
                for name in columns:
                    if name.startswith(BY_LAYER):
                        columns[name] = columns[name][:, kept, : widths.get(name, int(layers.top_k.max()))]
                writer.append(columns)
                progress(high, trace.num_tokens)
    return kept

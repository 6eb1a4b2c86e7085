"""The model that a trace was recorded from: as recorded, or the built-in one of its name; and whether it can be one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lrcsim.base.errors import ConfigError, did_you_mean
from lrcsim.models.geometry import Geometry
from lrcsim.models.geometry_values import read_geometry
from lrcsim.models.huggingface import geometry_from_dict
from lrcsim.models.load import load_geometry, model_names
from lrcsim.traces import RoutingTrace

SHAPE = ("layers", "hidden", "experts", "top_k", "expert_width", "shared_experts", "moe_layers", "vocab")
"""Where a built-in model has these of the recorded config, it is the model that ran."""


def geometry_of(trace: RoutingTrace) -> Geometry:
    """Return the geometry of the model that a trace is of.

    What was recorded counts: a model of the same name may have been made in another size. Where that is a geometry
    (``geometry`` in the provenance, as ``lrcsim record MODEL.gguf`` keeps it), it is returned. The built-in geometry of
    the name is returned where the recorded config (``config`` in the provenance, as ``lrcsim record`` keeps it) is of
    the same shape, is missing, or cannot be read; else the config's, under the trace's name.

    Raises:
        ConfigError: the name is not a built-in model's, and no geometry or config was recorded that can be read.
    """
    if (exact := _geometry(trace)) is not None:
        return exact
    try:
        named = load_geometry(trace.model)
    except ConfigError:
        named = None
    recorded = _recorded(trace)
    if named is not None and (recorded is None or _same(named, recorded)):
        return named
    if recorded is not None:
        return recorded
    raise ConfigError(
        f"time needs the model's geometry, and the trace's model {trace.model!r} is not a built-in one: "
        "say which it is with --model NAME (lrcsim models lists them) or --model FILE.gguf or config.json"
        + did_you_mean(trace.model, model_names())
    )


def _geometry(trace: RoutingTrace) -> Geometry | None:
    values = trace.provenance.get("geometry")
    if not isinstance(values, Mapping):
        return None
    try:
        return replace(read_geometry(values), name=trace.model)
    except ConfigError:
        return None


def _recorded(trace: RoutingTrace) -> Geometry | None:
    config = trace.provenance.get("config")
    if not isinstance(config, Mapping):
        return None
    try:
        return geometry_from_dict(config, name=trace.model)
    except ConfigError:
        return None


def _same(a: Geometry, b: Geometry) -> bool:
    return all(getattr(a, name) == getattr(b, name) for name in SHAPE)


def check_trace(geometry: Geometry, trace: RoutingTrace) -> None:
    """Check that a trace can be of this model: as many MoE layers, experts and top-k.

    Args:
        geometry: the model.
        trace: the trace.

    Raises:
        ConfigError: one of them differs.
    """
    layers = trace.layers
    found = [("MoE layers", {len(layers)}, len(geometry.moe_layers))]
    found += [("experts per layer", set(layers.num_experts.tolist()), geometry.experts)]
    found += [("experts per token", set(layers.top_k.tolist()), geometry.top_k)]
    for what, traced, modelled in found:
        if traced == {modelled}:
            continue
        given = " to ".join(str(count) for count in sorted({min(traced), max(traced)}))
        fix = "give the model that was traced (lrcsim models lists them, the path of its config.json will do)"
        if what == "experts per token" and len(traced) == 1:
            fix += f", or {geometry.name}:top_k={given} where the engine used {given} of {modelled}"
        raise ConfigError(f"the trace has {given} {what}, the model {geometry.name} {modelled}: {fix}")

"""The machine a trace is run on, with everything looked up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lrcsim.base.errors import ConfigError, check_choice
from lrcsim.base.reprs import short_repr
from lrcsim.hardware import HardwareProfile, load_profile
from lrcsim.models import Geometry, check_trace, expert_bytes, full_name, geometry_of, load_geometry, matching_dtype
from lrcsim.policies import make_policy
from lrcsim.runtimes import Runtime, RuntimeDocument, load_runtime
from lrcsim.runtimes.machine_under import machine_under
from lrcsim.simulator.cache.capacity import PoolSize, bytes_of, resolve_capacity
from lrcsim.simulator.cache.pool import Pool, pool_view
from lrcsim.simulator.serving.steps import Step
from lrcsim.simulator.setup.admission import no_uploads
from lrcsim.simulator.setup.costs import RooflineCosts
from lrcsim.simulator.setup.low_copy import LowCopy
from lrcsim.simulator.setup.miss_actions import Load, MissAction, make_action
from lrcsim.simulator.setup.options import Options
from lrcsim.simulator.setup.prefetchers import NoPrefetch, Prefetcher, make_prefetcher
from lrcsim.traces import LayerTable, RoutingTrace

ENGINES = ("auto", "events", "compiled")
KV_BYTES = 2.0  # per number of the KV cache: bf16
SAME_FORMAT = 0.01
"""Share by which all experts may differ from the trace's and be of its format: files of one choose tensors to spare."""
DRAM_FOR_EXPERTS = 0.9  # of main memory, where it cannot hold all experts and nobody says how much


@dataclass(frozen=True)
class Platform:
    """A machine with everything looked up and checked against a trace.

    Attributes:
        profile: the machine, as the runtime uses it (`machine_under`).
        runtime: what runs the model there.
        geometry: the model.
        dtype: as its weights are stored.
        sizes: bytes of an expert of each MoE layer, or for each layer those of each expert, where they differ.
        costs: seconds of compute.
        action: what to do with misses.
        prefetcher: what to bring ahead, or None.
        overlap: whether transfers run beside compute.
        dram: room for experts in main memory; None: all are there.
        dram_policy: the eviction policy there.
        engine: which engine was asked for.
    """

    profile: HardwareProfile
    runtime: Runtime
    geometry: Geometry
    dtype: str
    sizes: list[int] | list[list[int]]
    costs: RooflineCosts
    action: MissAction
    prefetcher: Prefetcher | None
    overlap: bool
    dram: PoolSize | None
    dram_policy: str
    engine: str

    __repr__ = short_repr

    @property
    def flat_sizes(self) -> list[int]:
        """Bytes of an expert of each MoE layer, or of each expert by key where those of a layer differ."""
        return [size for row in self.sizes for size in (row if isinstance(row, list) else [row])]

    @property
    def on_demand(self) -> bool:
        """Whether the cache sees what a plain replay does: misses are loaded, nothing comes ahead, room is constant."""
        return self.loads_all and self.prefetcher is None and not self.profile.kv_shared

    @property
    def loads_all(self) -> bool:
        """Whether every miss is loaded, whoever else calls a rule ``load``."""
        return type(self.action) is Load

    def dram_pool(self, trace: RoutingTrace) -> Pool | None:
        """Make the empty cache in main memory, if there is one."""
        if self.dram is None:
            return None
        size = self.dram
        return Pool(size, make_policy(self.dram_policy), pool_view(size, trace))

    def kv_bytes(self, sequences: int, tokens: int) -> float:
        """Return the bytes of the KV cache of so many requests of ``tokens`` each."""
        return KV_BYTES * sequences * self.geometry.kv_values(tokens)

    def shrink(self, pools: int) -> Callable[[Step, Pool], int] | None:
        """Return what a step's KV cache takes from each of the pools, in its unit; None where it takes nothing."""
        if not self.profile.kv_shared:
            return None

        def taken(step: Step, pool: Pool) -> int:
            requests = len(step.sequences)
            share = self.kv_bytes(requests, -(-step.size.context // max(requests, 1))) / pools
            unit = 1 if pool.in_bytes else max(_largest(self.sizes[layer]) for layer in pool.view.layers)
            return int(-(-share // unit))

        return taken

    def to_dict(self) -> dict[str, Any]:
        """Return the options as resolved, JSON values."""
        profile = self.profile
        return {
            "hardware": profile.name,
            "runtime": self.runtime.name,
            "model": full_name(self.geometry),
            "dtype": self.dtype,
            "expert_bytes": self.sizes,
            "overlap": self.overlap,
            "miss": self.action.label(),
            "prefetch": "none" if self.prefetcher is None else self.prefetcher.label(),
            "dram": None if self.dram is None else self.dram.capacity,
            "dram_unit": None if self.dram is None else ("experts" if self.dram.bytes_per_expert is None else "bytes"),
            "dram_policy": None if self.dram is None else self.dram_policy,
            "kv_shared": profile.kv_shared,
        }


def resolve(machine: Options, trace: RoutingTrace, low: LowCopy | None = None) -> Platform:
    """Look up profile, model, action and prefetcher, and check that they fit the trace and each other.

    Args:
        machine: the options.
        trace: what is run.
        low: which experts are in low precision; None: all are in one.

    Raises:
        ConfigError: something is unknown, or does not fit; one line.
        PolicyError: there is no such prefetcher, or no such policy for main memory, or a user's class cannot be made.
    """
    given = machine.hardware
    assert given is not None  # `Run.of` asks for a machine only where one is named
    if isinstance(given, HardwareProfile):
        if machine.overrides:
            raise ConfigError("overrides are for a profile given by name or file; make them in load_profile()")
        profile = given
    else:
        profile = load_profile(given, machine.overrides)
    if not profile.links:
        raise ConfigError(
            f"hardware {profile.name} has neither pcie nor nvme, so there is nothing to load experts over: "
            "add one, as in --set nvme=nvme-gen4"
        )
    geometry = _geometry(machine.model, trace)
    check_trace(geometry, trace)
    as_traced = machine.dtype is None and geometry.stored is None  # a file says itself how large things are
    known = trace.expert_bytes if as_traced else None
    of_experts = expert_bytes(geometry, machine.dtype) if known is None else known
    check_choice("engine", machine.engine, ENGINES)
    runtime = _runtime(machine.runtime, profile)
    profile = machine_under(profile, runtime)
    action = make_action(machine.miss, profile)
    if "weights" in action.needs and "weights" not in trace.columns:
        raise ConfigError(
            f"miss action {action.label()!r} looks at router weights, which this trace does not have: "
            "use load, cpu or split, or record the trace with weights"
        )
    from_trace = machine.dtype is not None or as_traced
    layers = trace.layers.with_expert_bytes(of_experts)
    dense = trace.layers.dense_bytes if from_trace and _stored_as_traced(trace.layers, layers) else None
    dtype = machine.dtype
    if as_traced and dense is not None:  # then the output matrix is stored as the trace's experts are, too
        dtype = matching_dtype(geometry, trace)
    if low is not None:
        of_experts = low.sizes(of_experts, geometry)
        layers = layers.with_expert_bytes(of_experts)
    assert layers.expert_bytes is not None  # just given
    costs = RooflineCosts(geometry, profile, dtype, layers.expert_bytes, KV_BYTES, runtime, dense)
    overlap = machine.overlap and runtime.loads.overlap != "none"
    if action.admits and (reason := no_uploads(profile, overlap)):
        raise ConfigError(f"miss action {action.label()!r} uploads beside compute, and {reason}")
    return Platform(
        profile=profile,
        runtime=runtime,
        geometry=geometry,
        dtype=dtype or geometry.dtype,
        sizes=layers.expert_bytes.tolist(),
        costs=costs,
        action=action,
        prefetcher=_prefetcher(machine, trace, runtime, overlap),
        overlap=overlap,
        dram=_dram(machine, profile, layers),
        dram_policy=machine.dram_policy,
        engine=machine.engine,
    )


def check_memory(
    platform: Platform, trace: RoutingTrace, pools: Sequence[PoolSize], cache: object, batch: int = 1
) -> None:
    """Check that the cache fits where it is to be, beside the weights that every token uses and the KV cache.

    Raises:
        ConfigError: it does not; with the numbers.
    """
    profile, dtype = platform.profile, platform.dtype
    where, memory = ("main memory", profile.dram.memory) if profile.gpu is None or profile.unified else (
        "GPU memory", profile.gpu.memory
    )  # fmt: skip
    wanted, dense, kv = memory_needed(platform, trace, pools, batch)
    if wanted + dense + kv <= memory:
        return
    left = memory - dense - kv
    fix = (
        f"give a cache of {left // 2**20} MiB or less"
        if left >= 2**20
        else "that leaves no room for experts: use a smaller dtype or another machine"
    )
    raise ConfigError(
        f"cache {cache!r} takes {human(wanted)}, with {human(dense)} of other weights ({dtype}) and {human(kv)} of KV "
        f"cache this exceeds the {human(memory)} of {where} of {profile.name}: {fix}"
    )


def memory_needed(
    platform: Platform, trace: RoutingTrace, pools: Sequence[PoolSize], batch: int = 1
) -> tuple[int, int, int]:
    """Return the bytes of the full cache, of the weights that every token uses, and of the KV cache at its longest.

    Where the KV cache takes its room from the expert cache (``kv_shared``) it adds nothing.
    """
    cache = bytes_of(pools, trace.layers.with_expert_bytes(platform.sizes))
    assert cache is not None  # the sizes are known
    dense = platform.costs.dense_bytes
    longest = int(np.diff(trace.offsets).max(initial=0))
    return cache, dense, 0 if platform.profile.kv_shared else int(platform.kv_bytes(batch, longest))


def human(amount: float) -> str:
    """Write bytes in GiB or MiB."""
    return f"{amount / 2**30:,.1f} GiB" if amount >= 2**30 else f"{amount / 2**20:,.1f} MiB"


def _geometry(model: str | Path | Geometry | None, trace: RoutingTrace) -> Geometry:
    if isinstance(model, Geometry):
        return model
    if model is not None:
        return load_geometry(model)
    return geometry_of(trace)


def _stored_as_traced(traced: LayerTable, layers: LayerTable) -> bool:
    """Return whether the weights are stored as they were in the engine that was traced."""
    known, now = traced.mean_bytes, layers.mean_bytes
    assert now is not None  # the sizes of what is run
    return known is not None and abs(now.sum() - known.sum()) <= SAME_FORMAT * known.sum()


def _largest(size: int | list[int]) -> int:
    """Return the bytes of the largest expert of a layer."""
    return size if isinstance(size, int) else max(size)


def _runtime(given: str | Path | RuntimeDocument | Runtime, profile: HardwareProfile) -> Runtime:
    if isinstance(given, Runtime):
        return given
    if not isinstance(given, RuntimeDocument | str | Path):
        raise ConfigError(f"runtime {given!r} is no name and no path of a TOML file: lrcsim runtimes lists them")
    return (given if isinstance(given, RuntimeDocument) else load_runtime(given)).on(profile)


def _prefetcher(machine: Options, trace: RoutingTrace, runtime: Runtime, overlap: bool) -> Prefetcher | None:
    prefetcher = make_prefetcher(machine.prefetch)
    if isinstance(prefetcher, NoPrefetch):
        return None
    if not overlap:
        why = "leave out --no-overlap" if not machine.overlap else f"runtime {runtime.name} does not overlap them"
        raise ConfigError(f"prefetch {prefetcher.label()!r} needs transfers that run beside compute: {why}")
    distance = int(getattr(prefetcher, "distance", 1))
    if "predictions" in prefetcher.needs and f"predictions/{distance}" not in trace.columns:
        recorded = sorted(name for name in trace.columns if name.startswith("predictions/"))
        raise ConfigError(
            f"prefetch {prefetcher.label()!r} needs recorded predictions {distance} layers ahead, the trace has "
            f"{', '.join(recorded) or 'none'}: record them (lrcsim record --predict-next) or use another prefetcher"
        )
    return prefetcher


def _dram(machine: Options, profile: HardwareProfile, layers: LayerTable) -> PoolSize | None:
    """Return the room for experts in main memory, None where it holds them all."""
    assert layers.layer_bytes is not None  # the sizes are known by now
    assert layers.expert_bytes is not None
    total = int(layers.layer_bytes.sum())
    policy = make_policy(machine.dram_policy)
    if policy.needs & {"future", "weights", "profile"} or policy.bypass or policy.refills:
        raise ConfigError(
            f"dram policy {machine.dram_policy!r} needs more than main memory knows: use one of the plain ones, as lru"
        )
    if profile.device_link is None:
        if machine.dram is not None:
            raise ConfigError(
                f"dram {machine.dram!r}: on {profile.name} the cache itself is in main memory: leave dram out"
            )
        return None
    if machine.dram is None:
        if total <= profile.dram.memory:
            return None
        if not profile.storage_links:
            raise ConfigError(
                f"the experts take {human(total)}, {profile.name} has {human(profile.dram.memory)} of main memory and "
                "no nvme: use a smaller dtype, more memory (--set dram.memory=...) or --set nvme=nvme-gen4"
            )
        spec = f"{int(profile.dram.memory * DRAM_FOR_EXPERTS)}B"
    else:
        spec = machine.dram
    size = resolve_capacity(spec, layers, "model")[0]
    largest = 1 if size.bytes_per_expert is not None else int(layers.expert_bytes.max())
    if min(size.capacity * largest, total) > profile.dram.memory:
        raise ConfigError(
            f"dram {machine.dram!r} is more than the {human(profile.dram.memory)} of main memory of {profile.name}: "
            "give less, or --set dram.memory=..."
        )
    holds = size.capacity >= (total if size.bytes_per_expert is not None else layers.total_experts)
    if holds:
        return None
    if not profile.storage_links:
        raise ConfigError(
            f"dram {machine.dram!r} does not hold all experts ({human(total)}), and {profile.name} has no nvme for the "
            "rest: give all, or --set nvme=nvme-gen4"
        )
    return size

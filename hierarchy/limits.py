"""How short a run could have been: by its compute, by its links, by the optimal policy with perfect prefetch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.hierarchy.machine import Platform
from lrcsim.hierarchy.times import Tally
from lrcsim.hierarchy.work import steps_of
from lrcsim.simulator.replay import Counts, Replay
from lrcsim.simulator.result import Bound
from lrcsim.simulator.schedule import Schedule
from lrcsim.traces import DECODE

__all__ = ["Limits", "compute_only", "time_limits"]

Phases = npt.NDArray[np.float64]  # [2], seconds of prefill and of decode


@dataclass(frozen=True)
class Limits:
    """Lower bounds on time, each float64 [2]: seconds of prefill, of decode.

    Attributes:
        compute_only: all experts resident: compute, synchronisation, nothing else (experts skipped stay skipped).
        link_bound: the bytes this run moved over its slowest link, at its full bandwidth, without a pause.
        link: that link's name, empty where nothing was moved.
        optimum: the greater of ``compute_only`` and of moving the misses of the optimal policy: loads can come ahead,
            but no fewer are possible. None where misses are not simply loaded, or the optimum is not known.
        proven: False where ``optimum`` rests on farthest next use among experts of unequal size, a good heuristic.
        tokens: decoded.
        measured: what the run took.
        busy: by resource, the share of the run that it was at work.
    """

    compute_only: Phases
    link_bound: Phases
    link: str
    optimum: Phases | None
    proven: bool
    tokens: int
    measured: Phases
    busy: dict[str, float]

    @property
    def binds(self) -> dict[str, Any]:
        """The resource that was at work for the greatest share of the run, and that share."""
        name = max(self.busy, key=lambda resource: self.busy[resource])
        return {"resource": name, "busy": self.busy[name], "all": self.busy}

    def to_dict(self) -> dict[str, Any]:
        """Return the bounds as JSON values; ``ratio`` is the run's time over the bound's."""
        parts = {"compute_only": self.compute_only, "link_bound": self.link_bound}
        if self.optimum is not None:
            parts["optimum"] = self.optimum
        result: dict[str, Any] = {}
        for name, (prefill, decode) in parts.items():
            total = prefill + decode
            result[name] = {
                "total_s": total,
                "decode_s": decode,
                "decode_tokens_per_s": self.tokens / decode if decode > 0 else None,
                "ratio": float(self.measured.sum() / total) if total > 0 else None,
                "decode_ratio": float(self.measured[DECODE] / decode) if decode > 0 else None,
            }
        result["link_bound"]["link"] = self.link or None
        if "optimum" in result:
            result["optimum"]["proven"] = self.proven
        return result


def time_limits(job: Replay, platform: Platform, tally: Tally, counts: Counts, best: Bound | None) -> Limits:
    """Work out the bounds of a run.

    Args:
        job: what was run.
        platform: on what.
        tally: what it took.
        counts: hits, misses and loads.
        best: hit rates of the optimal policy; None where they are not known.
    """
    steps = tally.by_step()
    decode = np.frombuffer(bytes(tally.phases), np.uint8) == DECODE
    measured = _by_phase(steps[:, 1] - steps[:, 0], decode)
    assert counts.loads is not None  # Residency counts them
    assert counts.loaded_bytes is not None
    overhead = _by_phase(steps[:, 3], decode) - platform.profile.expert_overhead * counts.loads
    # without experts on the CPU all was computed where the model runs, whether it was resident or not
    compute = compute_only(job, platform) if tally.on_cpu else _by_phase(steps[:, 2], decode)
    shortest = compute + np.maximum(overhead, 0.0)
    loaded = counts.loaded_bytes + np.array(tally.prefetch.issued_by_phase)
    needs = {name: use.bytes / use.bandwidth for name, use in tally.links.items() if use.bytes}
    link = max(needs, key=lambda name: needs[name]) if needs else ""
    share = loaded / loaded.sum() if loaded.sum() else np.zeros(2)
    path = platform.profile.pcie or platform.profile.nvme
    optimum = None
    if best is not None and platform.action.name == "load" and path is not None:
        accesses = counts.accesses.sum(axis=1)
        rates = np.array([best.prefill_hit_rate or 0.0, best.decode_hit_rate or 0.0])
        size = float(counts.accesses.sum(axis=0) @ platform.sizes) / max(float(accesses.sum()), 1.0)  # mean of a use
        optimum = np.maximum(shortest, (1 - rates) * accesses * size / path.bandwidth)
    busy = {"gpu" if platform.profile.gpu else "cpu": tally.compute, "overhead": tally.overhead}
    busy["cpu"] = busy.get("cpu", 0.0) + tally.cpu
    busy |= {name: use.busy_s for name, use in tally.links.items()}
    return Limits(
        compute_only=shortest,
        link_bound=needs.get(link, 0.0) * share,
        link=link,
        optimum=optimum,
        proven=best is not None and best.proven,
        tokens=tally.decode_tokens(),
        measured=measured,
        busy={name: seconds / tally.total if tally.total else 0.0 for name, seconds in busy.items()},
    )


def compute_only(job: Replay, platform: Platform) -> Phases:
    """Return the seconds of compute with all experts resident, float64 [2]: prefill, decode."""
    costs, seconds = platform.costs, [0.0, 0.0]
    for step in steps_of(Schedule(job.trace, job.prefill)):
        took = costs.after(step.size)
        for work in step.layers:
            took += costs.before(work.layer, step.size)
            took += sum(costs.expert(work.layer, tokens) for tokens in work.tokens or [1] * len(work.keys))
        seconds[step.phase] += took
    return np.array(seconds)


def _by_phase(values: npt.NDArray[np.float64], decode: npt.NDArray[np.bool_]) -> Phases:
    return np.array([values[~decode].sum(), values[decode].sum()])

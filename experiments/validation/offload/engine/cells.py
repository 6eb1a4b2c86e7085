"""What is run: cells by name, the run of lrcsim that each is, and what lrcsim counts in every step of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError
from lrcsim.simulator.serving.steps import steps_of
from lrcsim.simulator.setup.miss_actions import Cpu, Load
from lrcsim.simulator.setup.outcomes import Outcome
from lrcsim.simulator.setup.prefetchers import Oracle, proposals
from lrcsim.simulator.setup.run import Run
from lrcsim.simulator.time.residency import Residency
from lrcsim.traces import RoutingTrace
from lrcsim.traces.schedule import Schedule

PATTERN = re.compile(r"(?:all|(lru|static)-(\d+))(-serial)?(-oracle1)?(-cpu)?(?:-batch(\d+))?")
COUNTS = ("accesses", "loads", "prefetched")


@dataclass(frozen=True)
class EngineCell:
    """One way to run the model; ``lru-12-oracle1`` in files.

    Attributes:
        policy: ``"lru"``, or ``"static"``: the experts that the whole trace uses most, there from the beginning.
        slots: experts of each layer on the device; None: all of them, each loaded when it is first used.
        overlap: whether to compute while experts are on their way.
        prefetch: whether the next layer's experts are brought ahead, known by oracle.
        cpu: whether misses run on the processor, instead of being loaded.
        batch: sequences at once.
    """

    policy: str = "lru"
    slots: int | None = None
    overlap: bool = True
    prefetch: bool = False
    cpu: bool = False
    batch: int = 1

    @classmethod
    def of(cls, name: str) -> EngineCell:
        """Read a name.

        Raises:
            ConfigError: it is none, or nothing that the engine runs.
        """
        found = PATTERN.fullmatch(name)
        if found is None:
            raise ConfigError(
                f"cell {name!r} is not understood: all, lru-N or static-N-cpu, and behind it -serial, -oracle1, -batchN"
            )
        policy, slots, serial, oracle, cpu, batch = found.groups()
        cell = cls(policy or "lru", int(slots) if slots else None, not serial, bool(oracle), bool(cpu), int(batch or 1))
        if (cell.policy == "static") != cell.cpu or (cell.prefetch and not cell.overlap) or cell.batch < 1:
            raise ConfigError(f"cell {name!r} is none: static and -cpu go together, -oracle1 and -serial do not")
        return cell

    @property
    def name(self) -> str:
        """As in the names of files."""
        parts = ["all" if self.slots is None else f"{self.policy}-{self.slots}"]
        flags = {
            "serial": not self.overlap,
            "oracle1": self.prefetch,
            "cpu": self.cpu,
            f"batch{self.batch}": self.batch > 1,
        }
        return "-".join(parts + [flag for flag, on in flags.items() if on])

    def capacity(self, experts: int) -> int:
        """Return the experts of each layer that stay on the device."""
        return experts if self.slots is None else self.slots

    def trace_of(self, trace: RoutingTrace, tokens: int) -> RoutingTrace:
        """Return what this cell runs of a trace of decoded tokens.

        One request of the first ``tokens``; or as many requests as run at once, one after the other out of the trace,
        ``tokens`` each, fewer where it is too short.

        Raises:
            ConfigError: there is not a token for each.
        """
        each = min(tokens, trace.num_tokens // self.batch)
        if not each:
            raise ConfigError(f"the trace has {trace.num_tokens} decoded tokens: {self.name} needs {self.batch}")
        experts = np.asarray(trace.read("experts", 0, self.batch * each))
        return RoutingTrace.from_arrays(
            experts,
            num_experts=trace.num_experts,
            offsets=np.arange(self.batch + 1) * each,
            phase=np.ones(len(experts), np.uint8),
            expert_bytes=None if trace.expert_bytes is None else trace.expert_bytes.tolist(),
            model=trace.model,
        )

    def options(self, trace: RoutingTrace) -> dict[str, Any]:
        """Return the options of `lrcsim.simulator.simulate` for a trace of `trace_of`, those of a machine left out."""
        options: dict[str, Any] = {
            "policy": self.policy,
            "cache": str(self.capacity(trace.num_experts)),
            "scope": "layer",
        }
        if self.policy == "static":
            options["profile"] = trace
        return options | {"batch": self.batch}

    def machine_options(self) -> dict[str, Any]:
        """Return the options that go with a machine only."""
        return {
            "overlap": self.overlap,
            "prefetch": "oracle:1" if self.prefetch else "none",
            "miss": "cpu" if self.cpu else "load",
        }


def cells_for(k: int, *, all_of: bool = True) -> list[EngineCell]:
    """Return the cells of a model with k experts per token, those that tell most first.

    Args:
        k: experts per token.
        all_of: seven; else the two that a second model is checked by.
    """
    few, many = 2 * k, 4 * k
    names = [f"lru-{few}", "all"]
    if all_of:
        names += [f"lru-{many}", f"lru-{few}-oracle1", f"static-{many}-cpu", f"lru-{few}-serial", f"lru-{many}-batch4"]
    return [EngineCell.of(name) for name in names]


def table_of(cell: EngineCell, trace: RoutingTrace) -> npt.NDArray[np.int64]:
    """Return int64 [steps, layers, batch * k], the routing of a trace of `trace_of`, by steps of all its requests."""
    experts = np.asarray(trace.read("experts", 0, trace.num_tokens)).astype(np.int64)
    by_request = experts.reshape(cell.batch, -1, trace.num_layers, trace.top_k)
    return np.ascontiguousarray(by_request.transpose(1, 2, 0, 3)).reshape(by_request.shape[1], trace.num_layers, -1)


def most_used(table: npt.NDArray[np.int64], experts: int, slots: int) -> list[list[int]]:
    """Return for each layer the ``slots`` keys used most, ties to the smaller id."""
    found = []
    for layer in range(table.shape[1]):
        ids = table[:, layer]
        uses = np.bincount(ids[ids >= 0], minlength=experts)
        found.append([layer * experts + int(one) for one in np.argsort(-uses, kind="stable")[:slots]])
    return found


def expected(cell: EngineCell, trace: RoutingTrace) -> dict[str, npt.NDArray[np.int64]]:
    """Return what lrcsim counts: int64 [steps] by name of `COUNTS`.

    The simulator's own caches (`Residency`) are walked through its own schedule, as its engine does, only without time.
    """
    run = Run.of(trace, bounds=False, **cell.options(trace))
    residency = Residency(run, Cpu() if cell.cpu else Load())
    oracle = Oracle() if cell.prefetch else None
    rows = []
    for step in steps_of(Schedule(run.trace, run.prefill)):
        residency.begin(step)
        accesses = loads = prefetched = 0
        for place, work in enumerate(step.layers):
            found = residency.look_up(step, work)
            accesses += len(work.keys)
            loads += len(found.decision.get(Outcome.LOADED, []))
            protected = set(work.keys)
            for key in proposals(oracle, step, place) if oracle is not None else ():
                if residency.bring_ahead(key, step, work.layer, protected):
                    prefetched += 1
                    protected.add(key)
            residency.evicted.clear()
        rows.append((accesses, loads, prefetched))
    return dict(zip(COUNTS, np.array(rows, np.int64).T, strict=True))

"""One rule after the other on a running model: what it costs, what it saves, and how fast a machine would run it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lrcsim.base.progress import Progress
from lrcsim.frontier.caches import Caches
from lrcsim.frontier.closed_loop import ClosedLoop, Ran
from lrcsim.frontier.deciders import Decider, RouteDecider, SkipDecider
from lrcsim.frontier.open_loop import foretold
from lrcsim.frontier.quality import quality
from lrcsim.frontier.router_choice import RouterChoice
from lrcsim.frontier.routers import refuse_share, routers
from lrcsim.frontier.rules import NONE, Compared
from lrcsim.frontier.unfinished import Row
from lrcsim.recorder import families
from lrcsim.recorder.with_transformers import TransformersRunner
from lrcsim.simulator import simulate
from lrcsim.simulator.setup.options import Options
from lrcsim.simulator.setup.run import Run
from lrcsim.traces import LayerTable, RoutingTrace

if TYPE_CHECKING:
    from lrcsim.recorder.requests import Request


class OneRule:
    """Measures one rule after the other.

    Args:
        loop: the model.
        ran: what it ran without a rule.
        run: the caches, on the trace of that.
        asked: all options.
        runner: of the recorder, for what traces say of the model.
        requests: what is run.
    """

    def __init__(
        self,
        loop: ClosedLoop,
        ran: Ran,
        run: Run,
        asked: Options,
        runner: TransformersRunner,
        requests: Sequence[Request],
    ) -> None:
        self.loop, self.plain, self.run, self.asked = loop, ran, run, asked
        self.runner, self.requests = runner, requests
        self._choices: list[RouterChoice] | None = None

    def row(self, rule: Compared, progress: Progress | None) -> Row:
        """Run the model with a rule and return all figures; ``none`` is what has been run."""
        decider, ran, trace = None, self.plain, self.run.trace
        ahead = foretold(None, self.run)
        if rule.label != NONE:
            decider = self._decider(rule)
            ran = self.loop.run(decider, progress)
            trace = trace_of(ran, self.requests, self.runner)
            ahead = foretold(self._decider(rule), self.run)
        found = quality(ran, self.plain)
        row: Row = {
            "rule": rule.label,
            **({} if rule.source is None else {"source_sha256": rule.source}),
            "loss": found.loss,
            "loss_difference": found.difference,
            "loss_interval": None if found.interval is None else list(found.interval),
            "changed_tokens": found.changed,
            "hit_rate": ahead.hit_rate,
            "loads_per_access": ahead.loads_per_access,
            "agreement": 1.0,
            "mass_kept": 1.0,
        }
        if decider is not None:
            caches, kept = decider.caches, decider.kept
            row |= {
                "hit_rate": 1 - caches.misses / caches.accesses,
                "loads_per_access": (caches.misses - caches.left_out) / caches.accesses,
                "agreement": kept.agreement,
                "mass_kept": kept.mass_kept,
            }
        row["open_loop"] = ahead._asdict()
        row["tokens_per_s"] = self._speed(rule, trace)
        return row

    def _decider(self, rule: Compared) -> Decider:
        caches = Caches(self.run)
        if rule.skip is not None:
            return SkipDecider(rule.skip, caches)
        assert rule.route is not None  # the rule is not none
        if self._choices is None:
            self._choices = routers(self.loop.model, self.plain, self.run.trace)
        refuse_share(rule, self._choices)
        return RouteDecider(rule.route, caches, self._choices)

    def _speed(self, rule: Compared, trace: RoutingTrace) -> float | None:
        """Return the tokens per second of what ran, on the machine; None without one."""
        if self.asked.hardware is None:
            return None
        told = self.asked.given() | {"bounds": False}
        if rule.skip is not None:
            told["miss"] = rule.skip.label()
        speed = simulate(trace, **told).to_dict()["time"]["decode_tokens_per_s"]
        return None if speed is None else float(speed)


def trace_of(ran: Ran, requests: Sequence[Request], runner: TransformersRunner) -> RoutingTrace:
    """Return what ran as a trace, a plain token stream."""
    sites, config = ran.sites, runner.model.config
    sizes = [site.expert_bytes for site in sites]
    layers = LayerTable.build(
        len(sites),
        [site.num_experts for site in sites],
        (ran.columns["experts"] >= 0).any(axis=0).sum(axis=1),
        expert_bytes=None if None in sizes else [size for size in sizes if size is not None],
        block=[site.block for site in sites],
        num_shared=families.shared(config),
    )
    columns: dict[str, Any] = dict(ran.columns)
    return RoutingTrace.from_arrays(
        num_experts=int(layers.num_experts.max()),
        offsets=np.cumsum([0, *(len(request.ids) for request in requests)]),
        domains=None if all(request.domain is None for request in requests) else [r.domain or "" for r in requests],
        layers=layers,
        model=runner.name,
        provenance={"model_id": runner.name, "synthetic": False, "recorder": "lrcsim frontier", **_model_about(runner)},
        **columns,
    )


def _model_about(runner: TransformersRunner) -> dict[str, Any]:
    about = runner.about()
    return {name: about[name] for name in ("config", "versions", "device", "dtype") if name in about}

"""How long before its use a prediction is there, on a machine, and how many experts a link brings in that time."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lrcsim.base.errors import ConfigError
from lrcsim.simulator.setup.run import Run
from lrcsim.simulator.time.time_bounds import computed
from lrcsim.traces import DECODE, RoutingTrace


@dataclass(frozen=True)
class Lead:
    """The lead of a prediction in decode, where no layer waits for an expert.

    Attributes:
        hardware: name of the machine.
        layers: layers ahead.
        seconds: until the layer predicted is routed: so many times the mean of a layer's compute and overhead. A layer
            that waits makes it longer.
        expert_s: seconds in which the slowest link on the way carries an expert, of mean size, its latency left out.
        experts: that it carries within ``seconds``.
    """

    hardware: str
    layers: int
    seconds: float
    expert_s: float
    experts: float

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


def lead_of(trace: RoutingTrace, ahead: int, **machine: Any) -> Lead:
    """Work out the lead.

    Args:
        trace: the held-out requests.
        ahead: layers ahead.
        machine: options of a run, ``hardware`` among them.

    Raises:
        ConfigError: the machine or the model is unknown, or nothing is decoded.
    """
    run = Run.of(trace, cache="1x", **machine)
    platform = run.platform
    assert platform is not None  # hardware is given
    resident, _ = computed(run, platform)
    phase = trace.phase
    tokens = trace.num_tokens if phase is None else int((phase == DECODE).sum())
    if not tokens:
        raise ConfigError(
            "the lead of a prediction is that in decode, and no token held out is decoded: give another share"
        )
    layer_s = float(resident[DECODE]) / tokens / trace.num_layers + platform.profile.layer_overhead
    slowest = min(link.bandwidth for link in platform.profile.load_links)
    expert_s = sum(platform.flat_sizes) / len(platform.flat_sizes) / slowest
    seconds = ahead * layer_s
    return Lead(platform.profile.name, ahead, seconds, expert_s, seconds / expert_s)

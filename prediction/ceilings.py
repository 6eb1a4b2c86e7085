"""What better prediction or better eviction could give: one trace on one machine, a row for each ceiling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from lrcsim.base.progress import Progress, part_of
from lrcsim.policies import make_policy
from lrcsim.simulator.baselines import Baselines
from lrcsim.simulator.result import Result
from lrcsim.simulator.setup.admission import no_uploads
from lrcsim.simulator.simulate import simulate
from lrcsim.simulator.time.run_in_time import FEW, much_follows
from lrcsim.simulator.time.time_bounds import free_loads
from lrcsim.traces import DECODE, RoutingTrace

DISTANCES = (1, 2, 4)
"""Layers ahead of the perfect predictions."""

ADMITTING = "cpu,admit:1"
"""The background admission that is run: the first upload of a layer-step is worth most (docs/misses.md)."""


@dataclass(frozen=True)
class Ceiling:
    """A row of the table; all of decode alone.

    Attributes:
        name: what is run, or computed.
        bounds: what no real way of this kind exceeds; of the first rows: what they are.
        tokens_per_s: of decode.
        hit_rate: experts resident or on their way when used; None where no caches are run.
        bytes_per_token: moved over the link that moved most, prefetched for nothing too; None where it is not known.
        stall: share of the time in which the model's device waits.
        proven: whether nothing of the kind named can be faster, whatever the policy; the others are runs.
    """

    name: str
    bounds: str
    tokens_per_s: float | None
    hit_rate: float | None
    bytes_per_token: float | None
    stall: float | None
    proven: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


def ceilings(
    trace: RoutingTrace,
    *,
    recorded: str | None = None,
    learned: tuple[RoutingTrace, str] | None = None,
    policy: Any = "lru",
    progress: Progress | None = None,
    **options: Any,
) -> list[Ceiling]:
    """Run a trace under every predictor, and work out the bounds.

    Args:
        trace: what is run.
        recorded: the prefetcher of its recorded predictions, as ``"next-gate:1"``; None: it has none.
        learned: the same tokens with a predictor's predictions, and the prefetcher that replays them.
        policy: of eviction, with all predictors; those that load of their own accord (`Policy.refills`) go with none,
            and the rows of prediction are left out.
        progress: told of parts of the work.
        options: of `simulate`, ``hardware`` and ``cache`` among them; ``miss`` and ``prefetch`` are not.

    Returns:
        Rows, the run without prediction first, all hits last.

    Raises:
        ConfigError: an option is not allowed, or goes not with prefetching.
        PolicyError: the policy is unknown, or knows the future, which goes not with prefetching.
    """
    runs: list[tuple[str, str, RoutingTrace, Any, str]] = [("no prefetching", "what there is", trace, policy, "none")]
    ahead = not make_policy(policy).refills
    if recorded is not None and ahead:
        runs.append(("recorded predictions", "a gate, asked early", trace, policy, recorded))
    if learned is not None and ahead:
        own, prefetch = learned
        runs.append(("learned predictor", "linear, held out", own, policy, prefetch))
    runs += [
        (f"perfect, {distance} ahead", "prediction", trace, policy, f"oracle:{distance}")
        for distance in DISTANCES
        if ahead and distance < trace.num_layers
    ]
    runs += [
        ("optimum", "eviction on demand", trace, "belady", "none"),
        ("optimum, bypass", "eviction on demand", trace, "belady-bypass", "none"),
    ]
    if trace.num_tokens * trace.num_layers * len(runs) > FEW:
        much_follows()
    rows, last = [], None
    for place, (name, bounds, own, tried, prefetch) in enumerate(runs):
        told = part_of(progress, place, len(runs))
        last = simulate(own, tried, bounds=tried == "belady-bypass", prefetch=prefetch, progress=told, **options)
        rows.append(_row(name, bounds, last))
    assert last is not None  # there are always some
    assert last.timed is not None  # on a machine
    machine, on_cpu = last.timed.platform, None
    if machine.profile.gpu is not None:
        if not no_uploads(machine.profile, machine.overlap):
            admitted = simulate(trace, policy, bounds=False, miss=ADMITTING, **options)
            rows.append(_row("CPU, admit 1", "background admission", admitted))
        on_cpu = simulate(trace, "lru", bounds=False, miss="cpu", **options)
    return [*rows, *_computed(last, on_cpu)]


def _row(name: str, bounds: str, result: Result) -> Ceiling:
    timed = result.timed
    assert timed is not None  # on a machine
    time = timed.tally.to_dict()["time"]
    moved = [float(moved[DECODE]) for moved in timed.tally.moved.values()]
    tokens = timed.tally.decode_tokens()
    return Ceiling(
        name,
        bounds,
        time["decode_tokens_per_s"],
        result.phase_rate(DECODE),
        max(moved, default=0.0) / tokens if tokens else None,
        time["decode"]["stall_s"] / time["decode_s"] if time["decode_s"] > 0 else None,
    )


def _computed(result: Result, beside: Result | None) -> Iterator[Ceiling]:
    """Yield the bounds that no caches are run for.

    Args:
        result: a run of the optimum with bypass: what it needs at least, any policy needs.
        beside: a run whose misses are computed on the CPU; None where the model runs there. Its bound divides each
            layer-step's experts between the two at best, whatever is resident: background admission cannot take less.
    """
    timed, run = result.timed, result.run
    assert timed is not None
    limits, tokens = timed.limits, timed.tally.decode_tokens()
    assert limits is not None
    alone = float(limits.compute_only[DECODE])
    if limits.optimum is not None:
        least = Baselines(run).least_bytes(
            timed.platform.flat_sizes, True, free_loads(timed.tally, timed.counts), timed.counts.accesses
        )
        seconds = float(limits.optimum[DECODE])
        yield Ceiling(
            "fewest bytes, early",
            "evict and prefetch",
            _rate(tokens, seconds),
            None,
            least.decode / tokens if tokens else None,
            1 - alone / seconds if seconds > 0 else None,
            proven=True,
        )
    if beside is not None:
        assert beside.timed is not None
        assert beside.timed.limits is not None
        seconds = float(beside.timed.limits.compute_only[DECODE])
        admitted = ("CPU, uploads free", "background admission")
        yield Ceiling(*admitted, _rate(tokens, seconds), None, None, None, proven=True)
    seconds = float(limits.resident[DECODE])
    yield Ceiling("all hits", "the link", _rate(tokens, seconds), 1.0, 0.0, 0.0, proven=True)


def _rate(tokens: int, seconds: float) -> float | None:
    return tokens / seconds if tokens and seconds > 0 else None

"""What a run took: seconds by step, by resource, and what was prefetched for nothing."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.reprs import short_repr
from lrcsim.simulator.serving.steps import LayerStep, Step, StepTable
from lrcsim.simulator.serving.uses import Uses
from lrcsim.simulator.setup.outcomes import LOSSY, NOT_LOADED, Decision, Outcome
from lrcsim.traces import DECODE, PREFILL

if TYPE_CHECKING:
    from lrcsim.simulator.time.links import LinkServer
    from lrcsim.simulator.time.residency import Residency


@dataclass(frozen=True)
class LinkUse:
    """How much a link carried.

    Attributes:
        bytes: moved in all; not what was still under way at the end.
        busy_s: seconds with a transfer on it.
        bandwidth: bytes/s it has.
    """

    bytes: int
    busy_s: float
    bandwidth: float


@dataclass
class PrefetchUse:
    """What became of prefetched bytes.

    Attributes:
        issued: bytes asked for.
        useful: bytes of experts that had arrived when they were first used.
        late: bytes of experts that were on their way when they were first used.
        wasted: bytes of experts that were evicted unused, or never used.
        displaced: experts evicted to make room for prefetches.
        displaced_missed: of those, the experts that missed when they were next used.
    """

    issued: int = 0
    useful: int = 0
    late: int = 0
    wasted: int = 0
    displaced: int = 0
    displaced_missed: int = 0


@dataclass
class UploadUse:
    """What became of experts brought behind everything urgent: those admitted, or those a policy pins anew.

    Attributes:
        issued: bytes asked for.
        useful: bytes of experts that were used where the model runs before they left the cache.
        wasted: bytes of those that left it unused, under way or not, or were never used.
        late_uses: uses of experts that were still under way: run on the CPU, or waited for.
        before: bytes that were there before the first step, at no time: the model was being loaded.
    """

    issued: int = 0
    useful: int = 0
    wasted: int = 0
    late_uses: int = 0
    before: int = 0

    def to_dict(self) -> dict[str, int]:
        """Return them as JSON values."""
        return {
            "issued_bytes": self.issued,
            "useful_bytes": self.useful,
            "wasted_bytes": self.wasted,
            "late_uses": self.late_uses,
        }


@dataclass
class GivenUp:
    """How much router weight a lossy rule gave up: for each token and layer the share of the token's weight there.

    Attributes:
        tokens: [2] by phase, tokens that used experts, summed over layers; 0 where there is no such rule.
        shares: [outcomes, 2], the shares of router weight, summed over tokens and layers.
    """

    tokens: list[int] = field(default_factory=lambda: [0, 0])
    shares: list[list[float]] = field(default_factory=lambda: [[0.0, 0.0] for _ in Outcome])

    def add(self, decision: Decision, keys: list[int], uses: Uses, phase: int) -> None:
        """Add a layer-step of so many tokens, with what became of those of its ``keys`` that missed."""
        self.tokens[phase] += uses.tokens
        lossy = [outcome for outcome in decision if outcome.lossy]
        if lossy:
            share = dict(zip(keys, uses.share_of(len(keys)), strict=True))
            for outcome in lossy:
                self.shares[outcome][phase] += sum(share[key] for key in decision[outcome])

    def mean(self, outcome: Outcome, phase: int | None = None) -> float:
        """Return the mean share of a token in a layer, 0 to 1; of one phase, or of both."""
        tokens = sum(self.tokens) if phase is None else self.tokens[phase]
        shares = self.shares[outcome]
        return (sum(shares) if phase is None else shares[phase]) / tokens if tokens else 0.0


@dataclass
class Tally:
    """Everything that is counted in seconds.

    Attributes:
        residency: the caches, whose counts belong to it; None where they were compiled.
        compute: seconds of the GPU (of the CPU, on a machine without one).
        overhead: seconds of synchronisation and bookkeeping.
        cpu: seconds of the CPU with experts that missed.
        total: seconds in all.
        steps: for each step in order: begin, end, compute, overhead, CPU; seconds.
        phases: phase of each step.
        idle: seconds in which no request was there.
        arrivals: seconds at which each request arrived; empty: when its first step began.
        first_step: by request, (its arrival, end of the step that gave its first token).
        emitted: tokens that came out of each step; of a prefill step one for each request in it.
        gaps: for each decode step of each request, the seconds per token since the end of its last step.
        gap_tokens: tokens that came after each of these gaps.
        links: use of each link.
        moved: by link, bytes that moved in prefill steps, in decode steps.
        prefetch: what became of prefetched bytes.
        admitted: what became of experts that ran on the CPU when they missed, and were uploaded for later uses.
        repinned: what became of those that the policy loads of its own accord.
        outcomes: [outcomes, 2], misses by what became of them, by phase.
        given_up: router weight of the uses that a lossy rule left out, replaced or served in low precision.
        alone: float64 [2, 2], what `lrcsim.simulator.time.time_bounds.computed` returns, where it was added up along
            the way; else None.
    """

    residency: Residency | None
    compute: float = 0.0
    overhead: float = 0.0
    cpu: float = 0.0
    total: float = 0.0
    steps: array[float] = field(default_factory=lambda: array("d"))
    phases: bytearray = field(default_factory=bytearray)
    idle: float = 0.0
    arrivals: dict[int, float] = field(default_factory=dict)
    emitted: array[int] = field(default_factory=lambda: array("q"))
    gaps: array[float] = field(default_factory=lambda: array("d"))
    gap_tokens: array[int] = field(default_factory=lambda: array("q"))
    first_step: dict[int, tuple[float, float]] = field(default_factory=dict)
    links: dict[str, LinkUse] = field(default_factory=dict)
    moved: dict[str, list[float]] = field(default_factory=dict)
    prefetch: PrefetchUse = field(default_factory=PrefetchUse)
    admitted: UploadUse = field(default_factory=UploadUse)
    repinned: UploadUse = field(default_factory=UploadUse)
    outcomes: list[list[int]] = field(default_factory=lambda: [[0, 0] for _ in Outcome])
    given_up: GivenUp = field(default_factory=GivenUp)
    alone: npt.NDArray[np.float64] | None = None

    __repr__ = short_repr

    def __post_init__(self) -> None:
        """Start with nothing under way."""
        self._unused: dict[int, tuple[PrefetchUse | UploadUse, int]] = {}  # brought and not used yet: kind, bytes
        self._displaced: set[int] = set()
        self._at_begin = (0.0, 0.0, 0.0)
        self._moved_at_begin: dict[str, float] = {}
        self._last_end: dict[int, float] = {}  # by request: of its last step
        self._decoding: set[int] = set()

    def begin(self, links: dict[str, LinkServer]) -> None:
        """Take note that a step begins."""
        self._at_begin = (self.compute, self.overhead, self.cpu)
        self._moved_at_begin = {name: link.moved() for name, link in links.items()}

    def end(self, step: Step, begin: float, end: float, links: dict[str, LinkServer]) -> None:
        """Take note that it has ended."""
        for name, link in links.items():
            moved = self.moved.setdefault(name, [0.0, 0.0])
            moved[step.phase] += link.moved() - self._moved_at_begin[name]
        compute, overhead, cpu = self._at_begin
        self.steps.extend((begin, end, self.compute - compute, self.overhead - overhead, self.cpu - cpu))
        self.phases.append(step.phase)
        tokens = step.emitted or (1,) * len(step.sequences)
        self.emitted.append(sum(tokens))
        for request, given in zip(step.sequences, tokens, strict=True):
            self._given(request, step.phase, begin, end, given)

    def extend(self, steps: npt.NDArray[np.float64], phases: npt.NDArray[np.uint8], table: StepTable) -> None:
        """Take note of many steps at once, which run one after the other.

        Args:
            steps: float64 [n, 5] as `by_step`; at least one.
            phases: uint8 [n].
            table: which requests get tokens out of them.
        """
        self.steps.frombytes(steps.tobytes())
        self.phases += phases.tobytes()
        self.emitted.frombytes(np.add.reduceat(table.emitted, table.starts[:-1]).tobytes())
        if len(table.sequences) == len(steps) and (np.diff(table.sequences) >= 0).all():
            self._extend_alone(steps[:, 0], steps[:, 1], phases, table)
            return
        begins, ends, kinds = steps[:, 0].tolist(), steps[:, 1].tolist(), phases.tolist()
        given = zip(
            np.repeat(np.arange(len(steps)), np.diff(table.starts)).tolist(),
            table.sequences.tolist(),
            table.emitted.tolist(),
            strict=True,
        )
        for step, request, emitted in given:
            self._given(request, kinds[step], begins[step], ends[step], emitted)

    def _extend_alone(
        self,
        begin: npt.NDArray[np.float64],
        end: npt.NDArray[np.float64],
        phases: npt.NDArray[np.uint8],
        table: StepTable,
    ) -> None:
        """Take note of the tokens of steps that each are of one request, one request after the other."""
        got = np.flatnonzero(table.emitted)  # else none of the tokens that count ran
        begin, end, phases, requests, given = (
            begin[got],
            end[got],
            phases[got],
            table.sequences[got],
            table.emitted[got],
        )
        decode, new = phases == DECODE, np.diff(requests, prepend=-1) != 0
        before = np.append(0.0, end[:-1])[: len(end)]  # end of the request's last step
        for i in np.flatnonzero(new).tolist():
            before[i] = self._last_end.get(int(requests[i]), float(begin[i]))
        self.gaps.frombytes(((end - before) / given)[decode].tobytes())
        self.gap_tokens.frombytes(given[decode].tobytes())
        for i in np.flatnonzero(~decode | new).tolist():
            if i and not new[i] and decode[i - 1]:
                self._decoding.add(int(requests[i]))
            self._token_given(int(requests[i]), int(phases[i]), float(begin[i]), float(end[i]))
        self._decoding.update(requests[decode].tolist())
        last = np.flatnonzero(np.append(new[1:], True))[: len(end)]
        self._last_end.update(zip(requests[last].tolist(), end[last].tolist(), strict=True))

    def _given(self, request: int, phase: int, begin: float, end: float, emitted: int) -> None:
        """Take note that a request got tokens out of a step, or none."""
        if emitted == 0:  # none of the tokens that count ran
            return
        self._token_given(request, phase, begin, end)
        if phase == DECODE:
            self._decoding.add(request)
            self.gaps.append((end - self._last_end.get(request, begin)) / emitted)
            self.gap_tokens.append(emitted)
        self._last_end[request] = end

    def _token_given(self, request: int, phase: int, begin: float, end: float) -> None:
        """Take note of a step that may give a request its first token: the last one before it decodes."""
        known = self.first_step.get(request)
        if known is None or (phase == PREFILL and request not in self._decoding):
            self.first_step[request] = (self.arrivals.get(request, begin) if known is None else known[0], end)

    def count(self, decision: Decision, work: LayerStep, phase: int) -> None:
        """Take note of what happened to the misses of a layer-step."""
        for outcome, keys in decision.items():
            self.outcomes[outcome][phase] += len(keys)
        if work.uses is not None:
            self.given_up.add(decision, work.keys, work.uses, phase)
        if self._displaced:
            back = self._displaced.intersection(chain.from_iterable(decision.values()))
            self._displaced -= back
            self.prefetch.displaced_missed += len(back)

    def misses(self, outcome: Outcome) -> int:
        """Return how many misses came to an outcome, in both phases."""
        return sum(self.outcomes[outcome])

    def prefetched(self, key: int, size: int) -> None:
        """Take note that an expert is brought ahead."""
        self.uploaded(key, size, self.prefetch)

    def uploaded(self, key: int, size: int, kind: PrefetchUse | UploadUse) -> None:
        """Take note that an expert is brought behind everything urgent."""
        kind.issued += size
        self._unused[key] = kind, size
        self._displaced.discard(key)

    def used(self, key: int, late: bool) -> None:
        """Take note that an expert is used where the model runs: a resident one, or one that is waited for."""
        if key in self._unused:
            kind, size = self._unused.pop(key)
            if late and isinstance(kind, PrefetchUse):
                kind.late += size
                return
            kind.useful += size
            if isinstance(kind, UploadUse):
                kind.late_uses += late

    def used_on_cpu(self, key: int) -> None:
        """Take note that an expert runs on the CPU because its upload is still under way."""
        kind, _ = self._unused[key]
        assert isinstance(kind, UploadUse)  # prefetches are waited for
        kind.late_uses += 1

    def evicted(self, key: int, for_prefetch: bool) -> None:
        """Take note that an expert left the cache."""
        self._waste(key)
        if for_prefetch:
            self.prefetch.displaced += 1
            self._displaced.add(key)

    def emptied(self) -> None:
        """Take note that the cache was emptied."""
        self._waste(*self._unused)
        self._displaced.clear()

    def _waste(self, *keys: int) -> None:
        """Take note of what will not be used any more, if it was not."""
        for key in keys:
            if key in self._unused:
                kind, size = self._unused.pop(key)
                kind.wasted += size

    def finish(self, now: float, links: dict[str, LinkServer]) -> None:
        """Close the account."""
        self.total = now
        self._waste(*self._unused)
        self.links = {
            name: LinkUse(round(link.moved()), link.busy(), link.link.bandwidth) for name, link in links.items()
        }

    def by_step(self) -> npt.NDArray[np.float64]:
        """Return float64 [steps, 5]: begin, end, compute, overhead, CPU of each step, in seconds."""
        return np.frombuffer(self.steps, np.float64).reshape(-1, 5) if self.steps else np.zeros((0, 5))

    def decode_tokens(self) -> int:
        """Return the tokens that came out of decode steps."""
        emitted, phases = np.array(self.emitted, np.int64), np.frombuffer(bytes(self.phases), np.uint8)
        return int(emitted[phases == DECODE].sum())

    def to_dict(self) -> dict[str, Any]:
        """Return ``time``, ``links``, ``prefetch``, ``missed`` as JSON values; seconds unless a name says otherwise."""
        steps = self.by_step()
        phases = np.frombuffer(bytes(self.phases), np.uint8)
        wall = steps[:, 1] - steps[:, 0]
        decode = phases == DECODE
        decode_s, prefill_s = float(wall[decode].sum()), float(wall[~decode].sum())
        decode_tokens = self.decode_tokens()
        per_token = np.repeat(np.array(self.gaps) * 1e3, np.array(self.gap_tokens, np.int64))
        first = np.array([end - begin for begin, end in self.first_step.values()]) * 1e3
        time = {
            "total_s": self.total,
            "prefill_s": prefill_s,
            "decode_s": decode_s,
            "decode_tokens_per_s": decode_tokens / decode_s if decode_s > 0 else None,
            "decode_ms_per_token": decode_s * 1e3 / decode_tokens if decode_tokens else None,
            "compute_s": self.compute,
            "stall_s": max(self.total - self.compute - self.overhead - self.idle, 0.0),
            "idle_s": self.idle,
            "overhead_s": self.overhead,
            "cpu_s": self.cpu,
            "decode": {
                "compute_s": float(steps[decode, 2].sum()),
                "stall_s": float(np.maximum(wall - steps[:, 2] - steps[:, 3], 0.0)[decode].sum()),
                "overhead_s": float(steps[decode, 3].sum()),
                "cpu_s": float(steps[decode, 4].sum()),
            },
            "ttft_ms": percentiles(first),
            "tpot_ms": percentiles(per_token),
        }
        links = {
            name: {
                "bytes": use.bytes,
                "busy_s": use.busy_s,
                "utilization": use.busy_s / self.total if self.total > 0 else 0.0,
                "bandwidth": use.bandwidth,
            }
            for name, use in self.links.items()
        }
        prefetch = self.prefetch
        return {
            "time": time,
            "links": links,
            "prefetch": {
                "issued_bytes": prefetch.issued,
                "useful_bytes": prefetch.useful,
                "late_bytes": prefetch.late,
                "wasted_bytes": prefetch.wasted,
                "displaced": prefetch.displaced,
                "displaced_missed": prefetch.displaced_missed,
            },
            "admitted": self.admitted.to_dict(),
            "repinned": self.repinned.to_dict() | {"before_bytes": self.repinned.before},
            "missed": {
                **{outcome.label: self.misses(outcome) for outcome in NOT_LOADED},
                **self._weights_given_up(None),
                "prefill": self._weights_given_up(PREFILL),
                "decode": self._weights_given_up(DECODE),
            },
        }

    def _weights_given_up(self, phase: int | None) -> dict[str, float]:
        return {f"{outcome.label}_weight": self.given_up.mean(outcome, phase) for outcome in LOSSY}


def percentiles(values: npt.NDArray[np.float64]) -> dict[str, float] | None:
    """Return mean, p50, p90, p99 and the greatest; None without values."""
    if not len(values):
        return None
    p50, p90, p99 = np.percentile(values, [50, 90, 99])
    return {
        "mean": float(values.mean()),
        "p50": float(p50),
        "p90": float(p90),
        "p99": float(p99),
        "max": float(values.max()),
    }

"""What trace-match proposes, compiled: hand-solved, and against its definition and the class."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
from drawn_runs import job_of
from helpers import trace
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcsim.simulator.serving.steps import Step, steps_of
from lrcsim.simulator.setup.prefetchers import make_prefetcher
from lrcsim.simulator.time.event_ahead import proposer
from lrcsim.traces import RoutingTrace
from lrcsim.traces.schedule import Schedule


def compiled(spec: str, routing: RoutingTrace, prefill: str = "step", target: int | None = None) -> list[list[int]]:
    """Return the keys proposed at each layer-step, block by block."""
    ahead = proposer(make_prefetcher(spec), job_of(routing))
    assert ahead is not None
    found = []
    for block in Schedule(routing, prefill).blocks(target):
        if len(block.layer):
            starts, keys = ahead.propose(routing, block, None)
            found += [keys[low:high].tolist() for low, high in pairwise(starts.tolist())]
    return found


def by_class(spec: str, routing: RoutingTrace, prefill: str = "step") -> list[list[int]]:
    """Return the same, as SimPy asks."""
    asked = make_prefetcher(spec)
    asked.trace, asked.stride = routing, routing.num_experts
    asked.num_layers, asked.top_k = routing.num_layers, routing.top_k
    asked.reset()
    steps = steps_of(Schedule(routing, prefill))
    return [list(asked.propose(step, place)) for step in steps for place in range(len(step.layers))]


def test_hand_solved() -> None:
    # As in test_prefetchers: six experts a layer, so that 1.4 is key 10 and 2.5 is 17; while request 1 runs only
    # request 0 is known, request 2 starts like request 1.
    routing = trace("0|1|2", "3|4|5", "3|0|5", offsets=[0, 1, 2, 3])
    assert compiled("trace-match", routing) == [[], [], [], [7], [14], [], [10], [17], []]
    assert compiled("trace-match:width=2", routing)[6:] == [[10, 17], [17], []]
    assert compiled("trace-match:1,width=2", routing)[6:] == [[10, 17], [17], []]
    # Shares and distance: 2.3 before 1.1 and 1.2, which are of equal score.
    ranked = trace("0|1|3", "0|2|3", "0|1|3", offsets=[0, 2, 3])
    assert compiled("trace-match:width=3", ranked)[6] == [15, 7, 8]
    # Requests 0 and 1 are like request 2 to the same degree: the older one. With room for one it is forgotten.
    equal = trace("0|1", "0|2", "0|3", offsets=[0, 1, 2, 3])
    assert [compiled(f"trace-match:{kept}", equal)[4] for kept in (2, 1)] == [[7], [8]]


def defined(steps: list[Step], layers: int, stride: int, kept: int, width: int) -> list[list[list[int]]]:
    """Return of each layer-step what may be proposed, of every request that is nearest but for rounding."""
    library: list[list[list[float]]] = []
    uses = [[0] * stride for _ in range(layers)]
    request, found = -1, []
    for step in steps:
        for work in step.layers:
            if step.request != request:
                if any(map(any, uses)):
                    library = [*library, [[use / max(sum(row), 1) for use in row] for row in uses]][-kept:]
                uses, request = [[0] * stride for _ in range(layers)], step.request
            for key in work.keys:
                uses[work.layer][key % stride] += 1
            if not library or work.layer + 1 >= layers:
                found.append([[]])
                continue
            likeness = []
            for other in library:
                cosines = [
                    sum(a * b for a, b in zip(mine, row, strict=True)) / (math.hypot(*mine) * math.hypot(*row) or 1)
                    for mine, row in zip(uses, other, strict=True)
                    if any(mine)
                ]
                likeness.append(sum(cosines) / len(cosines))
            allowed = []
            for other, like in zip(library, likeness, strict=True):
                if like >= max(likeness) - 1e-9:
                    scored = [
                        (
                            -(other[layer][expert] + 1e-8) * (1 - (layer - work.layer) / (layers + 1)),
                            layer * stride + expert,
                        )
                        for layer in range(work.layer + 1, layers)
                        for expert in range(stride)
                        if other[layer][expert]
                    ]
                    allowed.append([key for _, key in sorted(scored)[:width]])
            found.append(allowed)
    return found


@settings(max_examples=80)
@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=7),
    layers=st.integers(1, 4),
    experts=st.integers(1, 6),
    kept=st.sampled_from([1, 2, 3, 1000]),
    width=st.integers(1, 9),
    prompts=st.booleans(),
    target=st.integers(1, 12),
    seed=st.integers(0, 2**32),
)
def test_as_defined_and_as_the_class(
    lengths: list[int], layers: int, experts: int, kept: int, width: int, prompts: bool, target: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    tokens = sum(lengths)
    ids = rng.random((tokens, layers, experts)).argsort(axis=2)[:, :, : int(rng.integers(1, experts + 1))]
    ids[rng.random(ids.shape) < rng.choice([0, 0.4])] = -1
    routing = RoutingTrace.from_arrays(
        ids,
        num_experts=experts,
        offsets=np.cumsum([0, *lengths]),
        phase=(rng.random(tokens) < 0.5).astype(int) if prompts else None,
    )
    spec = f"trace-match:{kept},width={width}"
    found = compiled(spec, routing, target=target)
    assert found == by_class(spec, routing)
    wanted = defined(list(steps_of(Schedule(routing))), layers, experts, kept, width)
    assert len(found) == len(wanted)
    for proposed, allowed in zip(found, wanted, strict=True):
        assert proposed in allowed


def test_a_real_trace() -> None:
    routing, tokens = RoutingTrace.open(), 300
    short = RoutingTrace.from_arrays(
        routing.read("experts", 0, tokens), num_experts=routing.num_experts, offsets=[*range(0, tokens, 20), tokens]
    )
    for spec in ("trace-match", "trace-match:3,width=20"):
        assert compiled(spec, short) == by_class(spec, short)


def test_without_the_compiler() -> None:
    """The kernels as plain Python: index errors and wrong types show here."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", __file__]
    done = subprocess.run(
        [*command, "-k", "hand_solved or defined"],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout

"""One trace made two: requests to fit on, and requests to test on.

What is made of a trace (expert popularity, a division of a budget, a trained policy) is tested on other requests than
those it was made of, or the test says what hindsight would do. Requests with the same prompt, and the turns of one
chat, go to the same part, or the test would see them again; within a domain the parts follow the trace's order, so that
both have every domain.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError
from lrcsim.traces.duplicates import groups
from lrcsim.traces.trace import RoutingTrace
from lrcsim.traces.writer import TraceWriter


def fit_part(trace: RoutingTrace, share: float = 0.5) -> npt.NDArray[np.bool_]:
    """Say which requests are for fitting.

    Of the g-th group of requests that belong together of each domain (from 0, in the trace's order) those are, with
    which the count of groups for fitting reaches the next whole number: ``floor((g + 1) share) > floor(g share)``.

    Args:
        trace: the routing trace.
        share: of the groups that are for fitting, above 0 and below 1.

    Returns:
        bool [requests].

    Raises:
        ConfigError: the share is not allowed, or one of the parts would be empty.
    """
    if not 0 < share < 1:
        raise ConfigError(f"share {share:g} is not allowed: it lies between 0 and 1, as 0.5")
    of_request = groups(trace)
    number = int(of_request.max(initial=-1)) + 1
    first = np.full(number, trace.num_requests)
    np.minimum.at(first, of_request, np.arange(trace.num_requests))
    labels = [""] * number if trace.domains is None else [trace.domains[at] for at in first]
    chosen, seen = np.zeros(number, bool), dict.fromkeys(labels, 0)
    for group, label in enumerate(labels):
        before = seen[label]
        chosen[group] = int((before + 1) * share + 1e-9) > int(before * share + 1e-9)
        seen[label] = before + 1
    fits: npt.NDArray[np.bool_] = chosen[of_request]
    if fits.all() or not fits.any():
        raise ConfigError(
            f"of {trace.num_requests:,} requests with {number:,} different prompts in {len(seen):,} "
            f"domain{'s' * (len(seen) != 1)} a share of {share:g} leaves one part empty: give another share"
        )
    return fits


def save_part(trace: RoutingTrace, path: str | Path, requests: npt.NDArray[np.int64], part: str) -> int:
    """Write some requests of a trace as a trace of its own.

    Args:
        trace: the routing trace.
        path: where to; an existing file is replaced.
        requests: int64 [n], which, in their order.
        part: what it is, for the provenance.

    Returns:
        The number of its tokens.

    Raises:
        TraceError: the file cannot be written, or the trace is damaged.
    """
    whole = {"file": None if trace.path is None else trace.path.name, "requests": trace.num_requests}
    if trace.path is not None:
        whole["sha256"] = trace.file_sha256()
    provenance = {**trace.provenance, "part": {"of": whole, "part": part, "requests": len(requests)}}
    provenance.pop("converted", None)  # that is of the whole
    with TraceWriter(path, trace.layers, model=trace.model, provenance=provenance) as writer:
        for request in requests.tolist():
            writer.begin_request(None if trace.domains is None else trace.domains[request])
            low, high = int(trace.offsets[request]), int(trace.offsets[request + 1])
            for start in range(low, high, writer.BLOCK):
                stop = min(start + writer.BLOCK, high)
                writer.append({name: trace.read(name, start, stop) for name in trace.columns})
        return writer.tokens

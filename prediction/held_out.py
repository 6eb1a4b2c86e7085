"""Which requests a predictor is fitted on, and which it is tested on; the latter as a trace of their own.

Requests with the same prompt go to the same part, or the test would see them again. A trace in which all prompts are
one (a single request, most often) is divided in time: its beginning fits, its end tests, and whoever reports says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError
from lrcsim.traces import DECODE, RoutingTrace
from lrcsim.traces.duplicates import groups

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class HeldOut:
    """A trace in two parts.

    Attributes:
        by: what was divided: ``"request"``, or ``"time"`` where there is one prompt only.
        fit: bool [tokens], those to fit on.
        test: int64 [n], tokens to test on, ascending.
        offsets: int64 [requests held out + 1], into ``test``.
        requests: int64 [requests held out], their numbers in the trace.
        counted: bool [n], tokens of ``test`` that recall counts: the decoded ones, all in a trace without phases.
    """

    by: Literal["request", "time"]
    fit: npt.NDArray[np.bool_]
    test: Ints
    offsets: Ints
    requests: Ints
    counted: npt.NDArray[np.bool_]

    def request_of(self) -> Ints:
        """Return int64 [n], which of the held-out requests each token of ``test`` is of, from 0."""
        return np.repeat(np.arange(len(self.requests)), np.diff(self.offsets))

    def to_dict(self) -> dict[str, Any]:
        """Return the sizes of the parts as JSON values."""
        return {
            "by": self.by,
            "fit_tokens": int(self.fit.sum()),
            "test_requests": len(self.requests),
            "test_tokens": len(self.test),
            "counted_tokens": int(self.counted.sum()),
        }


def hold_out(trace: RoutingTrace, share: float, seed: int = 0) -> HeldOut:
    """Divide a trace.

    Args:
        trace: the routing trace.
        share: of the different prompts, or of a single request's tokens, that is tested on; above 0 and below 1.
        seed: of the draw of prompts.

    Raises:
        ConfigError: the share is not allowed, a part would be empty, or nothing decoded would be tested on.
    """
    if not 0 < share < 1:
        raise ConfigError(f"hold-out {share:g} is not allowed: it lies between 0 and 1, as 0.25")
    of_request = groups(trace)
    number = int(of_request.max(initial=-1)) + 1
    if number > 1:
        by: Literal["request", "time"] = "request"
        wanted = min(max(round(number * share), 1), number - 1)
        chosen = np.random.default_rng(seed).permutation(number)[:wanted]
        requests = np.flatnonzero(np.isin(of_request, chosen))
        ranges = [np.arange(trace.offsets[one], trace.offsets[one + 1]) for one in requests]
        test = np.concatenate(ranges)
    else:
        by, requests = "time", np.arange(trace.num_requests)
        first = trace.num_tokens - max(round(trace.num_tokens * share), 1)
        requests = requests[trace.offsets[1:] > first]
        test = np.arange(first, trace.num_tokens)
    fit = np.ones(trace.num_tokens, bool)
    fit[test] = False
    held = np.searchsorted(test, trace.offsets[np.append(requests, requests[-1] + 1)])
    held[1:] = np.searchsorted(test, trace.offsets[requests + 1])
    phase = trace.phase
    counted = np.ones(len(test), bool) if phase is None else phase[test] == DECODE
    if not fit.any() or not counted.any():
        what = "fit on" if not fit.any() else "test on: nothing held out is decoded"
        raise ConfigError(
            f"of {trace.num_tokens:,} tokens in {trace.num_requests:,} requests a hold-out of {share:g} leaves nothing "
            f"to {what}; give another share, or a trace of more requests"
        )
    return HeldOut(by, fit, test, held.astype(np.int64), requests.astype(np.int64), counted)


def held_out_trace(trace: RoutingTrace, parts: HeldOut, predictions: Mapping[int, npt.NDArray[Any]]) -> RoutingTrace:
    """Return the tokens tested on as a trace of their own, in memory.

    Args:
        trace: the routing trace.
        parts: which tokens.
        predictions: by distance, int [n, L, p], in place of those recorded; distances not named keep theirs.

    Raises:
        TraceError: the trace is damaged.
    """
    columns: dict[str, Any] = {name: trace.column(name)[parts.test] for name in trace.columns}
    kind = columns["experts"].dtype
    columns |= {f"predictions/{distance}": ids.astype(kind) for distance, ids in predictions.items()}
    part = {"requests": parts.requests.tolist(), "tokens": len(parts.test), "divided_by": parts.by, "part": "held out"}
    if trace.path is not None:
        part |= {"file": trace.path.name, "sha256": trace.file_sha256()}
    about = {**trace.provenance, "part": part}
    about.pop("converted", None)  # that is of the whole
    domains = None if trace.domains is None else [trace.domains[one] for one in parts.requests.tolist()]
    return RoutingTrace(trace.layers, columns, parts.offsets, domains=domains, model=trace.model, provenance=about)

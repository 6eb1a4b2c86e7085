"""What ran of a request: the one rule by which rows of routing become positions, for every importer and `record`.

A request has a prompt of P tokens and G generated ones. The last generated token is sampled and never run, so a
complete answer ran P + G - 1 positions (P if nothing was generated), and a source that leaves out the first S has

    rows = P + G - 1 - S.

The first P positions are prefill, the others decode. Of the prompt the first C may have come out of a prefix cache:
these did not run, whatever rows a server returns for them. Some sources have a row for the last token too (P + G rows):
it was routed, so it ran.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import TraceError

FARTHEST_START = 1 << 20
"""Positions before the first row, at most: a number in a small file must not become a huge trace."""


@dataclass(frozen=True)
class Sent:
    """What a source says of one request; None: it does not say.

    Attributes:
        rows: positions with routing.
        prompt: tokens of the prompt, P.
        made: generated tokens, G.
        start: position of the first row, S.
        cached: prompt tokens that came out of the prefix cache, C.
        aborted: whether the request was ended before it was complete, so that rows may be missing at its end.
    """

    rows: int
    prompt: int | None = None
    made: int | None = None
    start: int | None = None
    cached: int | None = None
    aborted: bool = False


@dataclass(frozen=True)
class Ran:
    """Where the rows of a request belong.

    Attributes:
        tokens: positions of the request in a trace, those not recorded included: ``start`` + rows.
        prompt: the first ``prompt`` positions are prefill, the others decode; None: that is not known.
        start: position of the first row; those before were not sent.
        cached: the first ``cached`` positions did not run; rows for them are dropped.
        aborted: whether rows are missing at the end.
        surplus: whether there is a row for the last generated token too.
    """

    tokens: int
    prompt: int | None
    start: int = 0
    cached: int = 0
    aborted: bool = False
    surplus: bool = False

    @property
    def not_sent(self) -> int:
        """Positions that ran, as far as is known, and have no row."""
        return max(0, self.start - self.cached)


def settle(sent: Sent) -> Ran:
    """Say which positions the rows of a request are, which of them are prefill, and which did not run.

    Args:
        sent: what the source says. A start that it does not say follows from rows, P and G; it is 0 where one of these
            is missing. A prompt length that it does not say follows from rows, start and G.

    Raises:
        TraceError: a number is negative, or they cannot all be true of one request.
    """
    for name in ("rows", "prompt", "made", "start", "cached"):
        value = getattr(sent, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 31):
            raise TraceError(f"{_said(sent)}: {name} must be a whole number from 0 to 2147483647")
    start, surplus, short = _start(sent)
    if start > FARTHEST_START:
        raise TraceError(
            f"{_said(sent)}: the first row would be position {start:,}, allowed is {FARTHEST_START:,} at most; "
            "are the numbers right?"
        )
    tokens = start + sent.rows
    prompt = sent.prompt
    if prompt is None and sent.made is not None:
        prompt = tokens + 1 - sent.made if sent.made else tokens
        if prompt < 0:
            raise TraceError(f"{_said(sent)}: the generated tokens alone have more rows than that")
    cached = sent.cached or 0
    if prompt is not None and cached > prompt:
        raise TraceError(f"{_said(sent)}: more of the prompt is cached than there is")
    # a hit of the whole prompt: its last token runs all the same, to give the first generated one
    cached = max(0, min(cached, (tokens if prompt is None else prompt) - 1))
    if prompt is not None:
        prompt = min(prompt, tokens)
    return Ran(tokens, prompt, start, min(cached, tokens), short, surplus)


def _start(sent: Sent) -> tuple[int, bool, bool]:
    """Return the position of the first row, whether there is a surplus row, and whether rows are missing at the end."""
    if sent.prompt is None:
        return sent.start or 0, False, False
    if sent.made is None:
        start = sent.start or 0
        if start + sent.rows < sent.prompt - 1 and not sent.aborted:  # only the last token's row may be missing
            raise TraceError(
                f"{_said(sent)}: that is not all of the prompt, and it does not say how many tokens were generated, "
                "so the rows cannot be placed"
            )
        return start, False, start + sent.rows < sent.prompt
    complete = sent.prompt + max(sent.made - 1, 0)
    absent = complete - sent.rows - (sent.start or 0)
    if absent in (0, -1) and (absent == 0 or sent.made > 0):
        return sent.start or 0, absent == -1, False
    if absent > 0 and sent.start is None and not sent.aborted:
        return absent, False, False
    if absent > 0 and sent.aborted:
        return sent.start or 0, False, True
    raise TraceError(f"{_said(sent)}: a complete answer has {complete:,} rows (the last token is not run)")


def _said(sent: Sent) -> str:
    """Return the numbers that a source gives, for a message."""
    parts = [f"has routing of {sent.rows} tokens"]
    if sent.start is not None:
        parts.append(f"from position {sent.start}")
    if sent.prompt is not None:
        parts.append(f"for a prompt of {sent.prompt} tokens")
    if sent.cached is not None:
        parts.append(f"({sent.cached} of them cached)")
    if sent.made is not None:
        parts.append(f"and {sent.made} generated tokens")
    return " ".join(parts)[:240]


def lay_out(
    experts: npt.NDArray[np.signedinteger], ran: Ran, low: int = 0, high: int | None = None
) -> npt.NDArray[np.int32]:
    """Put rows at their positions; -1 where there is none, or where the position did not run.

    Args:
        experts: int [rows, L, k] expert ids, of all rows.
        ran: as `settle` says.
        low: first position wanted.
        high: first position not wanted any more; None: to the end.

    Returns:
        int32 [high - low, L, k] expert ids.
    """
    high = ran.tokens if high is None else min(high, ran.tokens)
    placed = np.full((max(0, high - low), *experts.shape[1:]), -1, np.int32)
    first = max(low, ran.start, ran.cached)
    if first < high:
        placed[first - low :] = experts[first - ran.start : high - ran.start]
    return placed


def phases(ran: Ran) -> npt.NDArray[np.uint8] | None:
    """Return uint8 [tokens], 0 prefill and 1 decode; None where the prompt's length is not known."""
    if ran.prompt is None:
        return None
    return (np.arange(ran.tokens) >= ran.prompt).astype(np.uint8)


@dataclass
class Tally:
    """Sums over the requests of a file, for its notices.

    Attributes:
        requests: requests settled.
        prompt: prompt tokens, where known.
        cached: prompt tokens that did not run, as their source says.
        supposed: prompt tokens that are taken as not run.
        not_sent: positions without a row before the first row.
        aborted: requests whose rows end early.
        surplus: requests with a row for the last token.
        unphased: requests whose prompt length is not known.
    """

    requests: int = 0
    prompt: int = 0
    cached: int = 0
    supposed: int = 0
    not_sent: int = 0
    aborted: int = 0
    surplus: int = 0
    unphased: int = 0

    def add(self, ran: Ran, told: bool = True) -> None:
        """Count one request; ``told``: its source says what was cached, else it is supposed, from what repeats."""
        self.requests += 1
        self.prompt += ran.prompt or 0
        if told:
            self.cached += ran.cached
        else:
            self.supposed += ran.cached
        self.not_sent += ran.not_sent
        self.aborted += ran.aborted
        self.surplus += ran.surplus
        self.unphased += ran.prompt is None

    def notices(self) -> list[str]:
        """Say what is not recorded, and why; one line each."""
        said = []
        if self.cached:
            said.append(
                f"{self.cached:,} of {self.prompt:,} prompt tokens came out of the prefix cache (cached_tokens): "
                "not run, left out (-1); --cached-prefix keep counts them as run"
            )
        if self.supposed:
            said.append(
                f"{self.supposed:,} of {self.prompt:,} prompt tokens repeat earlier requests, have no cached_tokens of "
                "their own and were left out (-1, --cached-prefix drop): at most so many came out of a prefix cache"
            )
        if self.not_sent:
            said.append(f"{self.not_sent:,} tokens before the first row of their request were not sent: left out (-1)")
        if self.aborted:
            said.append(
                f"{self.aborted:,} of {self.requests:,} requests end early (aborted): what they ran is in the trace"
            )
        if self.surplus:
            said.append(f"{self.surplus:,} of {self.requests:,} requests have routing of the last token too: it counts")
        return said


def laid(columns: Mapping[str, npt.NDArray[Any]], ran: Ran) -> dict[str, npt.NDArray[Any]]:
    """Put the per-token columns of a request (``experts`` and others) at their positions, and add its phases."""
    placed: dict[str, npt.NDArray[Any]] = {"experts": lay_out(columns["experts"], ran)}
    for name, values in columns.items():
        if name != "experts":
            empty = {"residency": 255, "token_ids": -1, "predicted_ids": -1}.get(
                name, -1 if name.startswith("predictions") else 0
            )
            spread = np.full((ran.tokens, *values.shape[1:]), empty, values.dtype)
            spread[ran.start :] = values
            placed[name] = spread
    phase = phases(ran)
    if phase is not None:
        placed["phase"] = phase
    return placed

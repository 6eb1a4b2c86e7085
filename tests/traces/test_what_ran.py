"""The rule by which rows become positions, against requests written out token by token."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrcsim.base.errors import TraceError
from lrcsim.traces.what_ran import FARTHEST_START, Ran, Sent, Tally, laid, lay_out, phases, settle

# By hand. Prompt a b c d, generated e f g: the model ran a b c d (prefill) e f (decode), g never.
# Asked from position 2 on, a server returns rows of c d e f; if a b c came out of the prefix cache, only d e f ran.


@pytest.mark.parametrize(
    ("sent", "ran"),
    [
        (Sent(6, 4, 3), Ran(6, 4)),
        (Sent(4, 4, 3), Ran(6, 4, start=2)),  # the start follows
        (Sent(4, 4, 3, start=2), Ran(6, 4, start=2)),
        (Sent(4, 4, 3, cached=3), Ran(6, 4, start=2, cached=3)),
        (Sent(6, 4, 3, cached=4), Ran(6, 4, cached=3)),  # the last prompt token always runs
        (Sent(1, 4, 3), Ran(6, 4, start=5)),  # even of the decode only the last row
        (Sent(4, 4, 1), Ran(4, 4)),
        (Sent(4, 4, 0), Ran(4, 4)),  # nothing generated: the prompt ran
        (Sent(3, 4, 0), Ran(4, 4, start=1)),
        (Sent(7, 4, 3), Ran(7, 4, surplus=True)),
        (Sent(6, 4), Ran(6, 4)),
        (Sent(3, 4), Ran(3, 3, aborted=True)),  # the last prompt token has no row
        (Sent(6, None, 3), Ran(6, 4)),
        (Sent(4, None, 3, start=2), Ran(6, 4, start=2)),
        (Sent(4, None, 0), Ran(4, 4)),
        (Sent(2, None, 3), Ran(2, 0)),  # decode rows alone
        (Sent(6), Ran(6, None)),
        (Sent(6, start=2), Ran(8, None, start=2)),
        (Sent(2, 4, 1, aborted=True), Ran(2, 2, aborted=True)),  # stopped in the prompt
        (Sent(2, 4, aborted=True), Ran(2, 2, aborted=True)),
        (Sent(6, 4, 3, aborted=True), Ran(6, 4)),
        (Sent(0, 4, 3), Ran(6, 4, start=6)),
    ],
)
def test_by_hand(sent: Sent, ran: Ran) -> None:
    assert settle(sent) == ran


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (Sent(8, 4, 3), "routing of 8 tokens for a prompt of 4 tokens and 3 generated tokens: a complete answer has 6"),
        (Sent(5, 4, 0), "a complete answer has 4"),
        (Sent(6, 4, 3, start=2), "from position 2"),
        (Sent(2, 4, 3, start=2), "from position 2"),
        (Sent(1, None, 3), "more rows than that"),
        (Sent(6, 40), "not all of the prompt"),
        (Sent(6, 4, 3, cached=5), "more of the prompt is cached"),
        (Sent(6, 4, -1), "made must be"),
        (Sent(6, True), "prompt must be"),
        (Sent(6, 1 << 40), "prompt must be"),
        (Sent(2, 60_000_000, start=60_000_000), "the first row would be position 60,000,000"),
        (Sent(2, 60_000_000, 3), "the first row would be"),
        (Sent(2, start=FARTHEST_START + 1), "the first row would be"),
    ],
)
def test_impossible(sent: Sent, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        settle(sent)


@given(
    prompt=st.integers(1, 6),
    made=st.integers(0, 6),
    start=st.integers(0, 12),
    cached=st.integers(0, 6),
    says=st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans()),
)
def test_whatever_is_said(prompt: int, made: int, start: int, cached: int, says: tuple[bool, ...]) -> None:
    # written out: the token at each position, and whether it ran; the model's choice for position p is expert p
    ran = [("prefill", p >= min(cached, prompt - 1)) for p in range(prompt)] + [("decode", True)] * max(0, made - 1)
    start, cached = min(start, len(ran)), min(cached, prompt)
    rows = np.arange(len(ran))[start:].reshape(-1, 1, 1)
    says_prompt, says_made, says_start, says_cached = says
    if not (says_start or (says_prompt and says_made)):
        start, rows = 0, np.arange(len(ran)).reshape(-1, 1, 1)  # then nobody can know of a start
    settled = settle(
        Sent(
            len(rows),
            prompt if says_prompt else None,
            made if says_made else None,
            start if says_start else None,
            cached if says_cached else None,
        )
    )
    want = [p if p >= start and (r or not says_cached) else -1 for p, (_, r) in enumerate(ran)]
    got = lay_out(rows, settled)[:, 0, 0].tolist()
    if not (says_prompt or says_made) and cached == prompt:
        at = prompt - 1  # nobody can know which is the prompt's last token; the last of all ran in any case
        want[at : at + 1] = got[at : at + 1] if at < len(ran) - 1 else want[at : at + 1]
    assert got == want
    phase = phases(settled)
    if says_prompt or says_made:
        assert phase is not None
        assert ["prefill" if value == 0 else "decode" for value in phase] == [which for which, _ in ran]
    else:
        assert phase is None
    low = min(2, settled.tokens)
    assert lay_out(rows, settled, low, low + 3)[:, 0, 0].tolist() == want[low : low + 3]


def test_tally() -> None:
    tally = Tally()
    assert tally.notices() == []
    for sent in (Sent(6, 4, 3, cached=3), Sent(4, 4, 3), Sent(7, 4, 3), Sent(2, 4, 1, aborted=True), Sent(3)):
        tally.add(settle(sent))
    tally.add(settle(Sent(6, 4, 3, cached=2)), told=False)
    assert (tally.prompt, tally.cached, tally.supposed, tally.not_sent, tally.unphased) == (18, 3, 2, 2, 1)
    assert [notice.split(":")[0] for notice in tally.notices()] == [
        "3 of 18 prompt tokens came out of the prefix cache (cached_tokens)",
        "2 of 18 prompt tokens repeat earlier requests, have no cached_tokens of their own and were left out (-1, "
        "--cached-prefix drop)",
        "2 tokens before the first row of their request were not sent",
        "1 of 6 requests end early (aborted)",
        "1 of 6 requests have routing of the last token too",
    ]


def test_token_ids_of_positions_that_were_not_sent_are_unknown() -> None:
    # Rows of positions 2 and 3 alone: of 0 and 1 neither the token is known nor what was predicted there.
    columns = {"experts": np.zeros((2, 1, 1), int), "token_ids": np.array([7, 8]), "predicted_ids": np.array([8, 9])}
    placed = laid(columns, Ran(4, 4, start=2))
    assert placed["token_ids"].tolist() == [-1, -1, 7, 8]
    assert placed["predicted_ids"].tolist() == [-1, -1, 8, 9]

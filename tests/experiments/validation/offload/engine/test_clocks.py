"""Happens-before: what an agent has waited for it may use, and nothing else."""

from __future__ import annotations

import pytest

from lrcsim.experiments.validation.offload.engine.clocks import HOST, Clocks, MisuseError, join

COPY, COMPUTE = 1, 2
SLOT = [("slot", 0)]


def waits(clocks: Clocks, who: int, whom: int) -> None:
    join(clocks.known[who], dict(clocks.known[whom]))


def test_a_place_is_read_after_its_write_was_waited_for() -> None:
    clocks = Clocks()
    clocks.act(COPY, writes=SLOT)
    with pytest.raises(MisuseError, match=r"\('slot', 0\) is read before what stream 1 does with it is waited for"):
        clocks.act(COMPUTE, reads=SLOT)
    waits(clocks, COMPUTE, COPY)
    clocks.act(COMPUTE, reads=SLOT)


def test_a_place_is_written_after_every_read_was_waited_for() -> None:
    clocks = Clocks()
    clocks.act(COPY, writes=SLOT)
    waits(clocks, COMPUTE, COPY)
    clocks.act(COMPUTE, reads=SLOT)
    with pytest.raises(MisuseError, match="written before what stream 2"):
        clocks.act(COPY, writes=SLOT)


def test_what_the_host_has_seen_is_seen_by_whatever_it_enqueues_later() -> None:
    # compute reads; the host waits for it; the copy that it then enqueues may overwrite
    clocks = Clocks()
    clocks.act(COPY, writes=SLOT)
    waits(clocks, COMPUTE, COPY)
    clocks.act(COMPUTE, reads=SLOT)
    waits(clocks, HOST, COMPUTE)
    clocks.act(COPY, writes=SLOT)


def test_what_a_stream_does_later_is_not_seen_by_an_earlier_wait() -> None:
    clocks = Clocks()
    clocks.act(COPY, writes=SLOT)
    waits(clocks, COMPUTE, COPY)
    clocks.act(COPY, writes=[("slot", 1)])
    clocks.act(COMPUTE, reads=SLOT)
    with pytest.raises(MisuseError, match="slot', 1"):
        clocks.act(COMPUTE, reads=[("slot", 1)])


def test_the_host_writes_only_what_nobody_reads_any_more() -> None:
    clocks = Clocks()
    clocks.act(HOST, writes=[("ring", 0)])
    clocks.act(COMPUTE, reads=[("ring", 0)], writes=[("work", 0)])
    with pytest.raises(MisuseError, match="ring"):
        clocks.act(HOST, writes=[("ring", 0)])
    with pytest.raises(MisuseError, match="read before"):
        clocks.act(HOST, reads=[("work", 0)])


def test_what_was_never_written_is_not_read() -> None:
    with pytest.raises(MisuseError, match="never written"):
        Clocks().act(COMPUTE, reads=SLOT)


def test_an_agent_may_read_and_write_a_place_at_once() -> None:
    clocks = Clocks()
    for _ in range(3):
        clocks.act(COMPUTE, writes=SLOT)
        clocks.act(COMPUTE, reads=SLOT, writes=SLOT)

"""What becomes of misses, and what the names of the actions mean."""

from __future__ import annotations

import pytest
from helpers import link, machine

from lrcsim.errors import ConfigError
from lrcsim.hardware import HardwareProfile
from lrcsim.hierarchy.actions import ACTIONS, Decision, make_action
from lrcsim.hierarchy.work import Work


def work(weights: list[float] | None = None, tokens: list[int] | None = None) -> Work:
    """Return a layer-step over experts 0 to 4, of which the tests let 1 to 4 miss."""
    return Work(0, [0, 1, 2, 3, 4], tokens, weights, None)


MISSED = [1, 2, 3, 4]
WEIGHTS = [0.4, 0.3, 0.1, 0.05, 0.15]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("load", Decision(load=[1, 2, 3, 4])),
        ("cpu", Decision(cpu=[1, 2, 3, 4])),
        ("split:0.5", Decision(load=[1, 2], cpu=[3, 4])),
        ("split:0", Decision(cpu=[1, 2, 3, 4])),
        ("split:1", Decision(load=[1, 2, 3, 4])),
        ("skip", Decision(load=[1, 2, 4], skip=[3])),  # below 0.1: expert 2 is not
        ("skip:0.2", Decision(load=[1], skip=[2, 3, 4])),
        ("substitute:0.12", Decision(load=[1, 4], substitute=[2, 3])),
        ("low:0.12", Decision(load=[1, 4], low=[2, 3])),
        ("low:1,0.5", Decision(low=[1, 2, 3, 4])),
    ],
)
def test_decisions(spec: str, expected: Decision) -> None:
    assert make_action(spec, machine()).decide(MISSED, work(WEIGHTS)) == expected


@pytest.mark.parametrize(("missed", "loads"), [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)])
def test_split_rounds_to_the_nearest_number(missed: int, loads: int) -> None:
    # 0.4 of 1 to 5: 0.4, 0.8, 1.2, 1.6, 2.0
    decided = make_action("split:0.4", machine()).decide(list(range(missed)), Work(0, list(range(5)), None, None, None))
    assert len(decided.load) == loads
    assert len(decided.cpu) == missed - loads


def test_split_loads_what_most_tokens_use_in_batch_order() -> None:
    # Tokens of experts 1 to 4: 1, 3, 1, 2: 2 and 4 are loaded.
    decided = make_action("split:0.5", machine()).decide(MISSED, work(tokens=[9, 1, 3, 1, 2]))
    assert decided == Decision(load=[2, 4], cpu=[1, 3])


@pytest.mark.parametrize(
    ("hardware", "name"),
    [
        (machine(link(300)), "split:0.75"),  # q* = 300 / (300 + 100): the CPU of the test machine draws 100 bytes/s
        (machine(pcie=None, nvme=link(25)), "split:0.2"),
        (machine(pcie=None), "split:1"),  # nothing to wait for
    ],
)
def test_split_balances_link_and_cpu_by_default(hardware: HardwareProfile, name: str) -> None:
    assert make_action("split", hardware).name == name


def test_names_are_written_out_and_make_the_same_action() -> None:
    names = [make_action(spec, machine()).name for spec in ACTIONS]
    assert names == ["load", "cpu", "split:0.5", "skip:0.1", "substitute:0.1", "low:0.1,0.25"]
    assert [make_action(name, machine()).name for name in names] == names
    assert [make_action(name, machine()).needs_weights for name in names] == [False] * 3 + [True] * 3
    assert make_action("low:0.1,0.5", machine()).fraction == 0.5


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("lod", "miss action 'lod' is not known, use load, cpu, split, skip, substitute, low; did you mean 'load'?"),
        ("load:1", "miss action 'load' takes no parameter, given '1'"),
        ("split:1.5", "miss action 'split:1.5': '1.5' is no number from 0 to 1"),
        ("split:half", "'half' is no number from 0 to 1"),
        ("skip:-0.1", "'-0.1' is no number from 0 to 1"),
        ("skip:nan", "'nan' is no number from 0 to 1"),
        ("skip:0.1,0.2", "miss action 'skip' takes one parameter, the threshold, given '0.1,0.2'"),
        ("low:0.1,2", "'2' is no number from 0 to 1"),
    ],
)
def test_what_cannot_be_made_says_so(spec: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_action(spec, machine())
    assert message in str(caught.value)

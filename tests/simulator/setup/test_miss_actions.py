"""What becomes of misses, and what the names of the actions mean."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from helpers import link, machine, trace

from lrcsim.base.configurable import Param
from lrcsim.base.errors import ConfigError, TraceError
from lrcsim.hardware import HardwareProfile
from lrcsim.simulator.serving.steps import LayerStep, steps_of
from lrcsim.simulator.serving.uses import uses_of
from lrcsim.simulator.setup.miss_actions import ACTIONS, MissAction, _parameters, make_action
from lrcsim.simulator.setup.outcomes import Decision, Outcome, decision
from lrcsim.traces.schedule import Schedule


def work(*tokens: str, weights: Sequence[Sequence[float]]) -> LayerStep:
    """Return a layer-step of tokens such as ``"012"``, the experts of each, with a row of weights for each."""
    routing = trace(*tokens, experts=7, weights=[[list(row)] for row in weights], phase=[0] * len(tokens))
    (step,) = steps_of(Schedule(routing), uses=True)
    return step.layers[0]


def one_token() -> LayerStep:
    """Return a token that uses experts 0 to 4, of which the tests let 1 to 4 miss."""
    return work("01234", weights=[[0.4, 0.3, 0.1, 0.05, 0.15]])


def decide(spec: str, missed: list[int], step: LayerStep, residents: int = 6) -> Decision:
    return decision(missed, make_action(spec, machine()).decide(missed, step, lambda: residents))


NAMED = {
    "load": Outcome.LOADED, "cpu": Outcome.ON_CPU, "skip": Outcome.SKIPPED, "substitute": Outcome.SUBSTITUTED,
    "low": Outcome.LOW_PRECISION,
}  # fmt: skip


def becomes(**keys: list[int]) -> Decision:
    """Return a decision of keys, each named by the action that decides so."""
    return {NAMED[name]: chosen for name, chosen in keys.items()}


MISSED = [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("load", becomes(load=[1, 2, 3, 4])),
        ("cpu", becomes(cpu=[1, 2, 3, 4])),
        ("split:0.5", becomes(load=[1, 2], cpu=[3, 4])),
        ("split:0", becomes(cpu=[1, 2, 3, 4])),
        ("split:1", becomes(load=[1, 2, 3, 4])),
        ("skip", becomes(load=[1, 2, 4], skip=[3])),  # below 0.1: expert 2 is not
        ("skip:0.2", becomes(load=[1], skip=[2, 3, 4])),
        ("substitute:0.12", becomes(load=[1, 4], substitute=[2, 3])),
        ("low:0.12", becomes(load=[1, 4], low=[2, 3])),
        ("low:1,0.5", becomes(low=[1, 2, 3, 4])),  # 0, which is there, is the token's first
    ],
)
def test_decisions(spec: str, expected: Decision) -> None:
    assert decide(spec, MISSED, one_token()) == expected


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        # Token 0 has 0.625 / 0.25 / 0.125 for 0, 1, 2; token 1 has 0.75 / 0.25 for 1 and 3. All miss. The mean over the
        # two tokens is 0.3125, 0.5, 0.0625, 0.125. Last uses come in the order 0, 2, 1, 3.
        ("skip:0.1", becomes(load=[0, 2, 1, 3])),  # by the mean 2 would be skipped: 0.0625
        ("skip:0.2", becomes(load=[0, 1, 3], skip=[2])),  # by the mean 3 too
        ("skip:0.3", becomes(load=[0, 1], skip=[2, 3])),  # token 0 could do without 1, token 1 needs it
        ("low:0.3", becomes(load=[0, 1], low=[2, 3])),
        ("skip:0.7", becomes(load=[0, 1], skip=[2, 3])),  # 0 is token 0's first
        ("skip:0.7,keep=0", becomes(load=[1], skip=[0, 2, 3])),
        ("low:0.7,keep=0", becomes(load=[1], low=[0, 2, 3])),
        ("skip:1,keep=0", becomes(skip=[0, 2, 1, 3])),
        ("skip:1,keep=2", becomes(load=[0, 1, 3], skip=[2])),
        ("skip:1,keep=3", becomes(load=[0, 2, 1, 3])),
        ("skip:0,keep=0", becomes(load=[0, 2, 1, 3])),  # nothing is below 0
    ],
)
def test_a_miss_is_loaded_where_one_token_needs_it(spec: str, expected: Decision) -> None:
    step = work("012", "13_", weights=[[0.625, 0.25, 0.125], [0.75, 0.25, 0]])
    assert step.keys == [0, 2, 1, 3]
    assert decide(spec, step.keys, step) == expected


def test_weights_are_shares_of_the_token() -> None:
    # A router of sigmoids times 2.5: 1.5, 0.75 and 0.25 are 0.6, 0.3 and 0.1 of it. As good as equal is not below.
    for scale in (1, 2.5, 100, 1e-6):
        step = work("012", weights=[[0.6 * scale, 0.3 * scale, 0.1 * scale]])
        assert decide("skip:0.1", [0, 1, 2], step) == becomes(load=[0, 1, 2])
        assert decide("skip:0.11", [0, 1, 2], step) == becomes(load=[0, 1], skip=[2])


def test_a_tokens_first_is_its_heaviest_and_rank_decides_among_equals() -> None:
    step = work("012", weights=[[0.25, 0.5, 0.25]])  # not in rank order
    assert decide("skip:1", [0, 1, 2], step) == becomes(load=[1], skip=[0, 2])
    assert decide("skip:1,keep=2", [0, 1, 2], step) == becomes(load=[0, 1], skip=[2])
    even = work("210", weights=[[0.25, 0.25, 0.25]])
    assert decide("skip:1", [2, 1, 0], even) == becomes(load=[2], skip=[1, 0])


def test_what_was_not_recorded_never_counts() -> None:
    # 0.5 and 0.25 are all there is: shares of 2/3 and 1/3, whatever stands where nothing was recorded.
    for nothing in (0.0, 9.0, float("nan"), -1.0):
        step = work("_01", weights=[[nothing, 0.25, 0.5]])
        assert decide("skip:0.3", [0, 1], step) == becomes(load=[0, 1])
        assert decide("skip:0.4", [0, 1], step) == becomes(load=[1], skip=[0])


def test_a_token_without_weight_keeps_its_first() -> None:
    step = work("01", weights=[[0.0, 0.0]])
    assert decide("skip:0.1", [0, 1], step) == becomes(load=[0], skip=[1])


@pytest.mark.parametrize(
    ("weight", "said"),
    [
        (-0.5, "router weight -0.5.*: skip, substitute and low compare"),
        (float("nan"), "router weight nan, must be a finite number"),  # where the trace is read
        (float("inf"), "router weight inf, must be a finite number"),
    ],
)
def test_weights_that_have_no_shares_are_refused(weight: float, said: str) -> None:
    routing = trace("01", "01", "01", "01", weights=[[[0.75, 0.25]]] * 4)
    assert routing.weights is not None
    routing.weights[3, 0, 1] = weight  # as a file may have it
    with pytest.raises(TraceError, match=f"^token 3, layer 0: {said}"):
        list(steps_of(Schedule(routing), uses=True))
    first, *_, last = Schedule(routing).blocks(1)
    assert len(list(uses_of(routing, first))) == len(first.layer)
    with pytest.raises(TraceError, match=r"^token 3, layer 0: router weight"):
        list(uses_of(routing, last))


def test_each_token_has_its_own_stand_ins() -> None:
    # 0 and 1 are resident, nothing else. Token 0 uses 0: only 1 can stand in, for one of its 2 and 3; the heavier one,
    # 3, is loaded. Token 1 uses neither: both can, for 2 and 4. Token 2 uses 0 and 1: none can, 5 is loaded.
    step = work("023", "624", "015", weights=[[0.75, 0.0625, 0.1875], [0.75, 0.125, 0.125], [0.5, 0.375, 0.125]])
    missed = [key for key in step.keys if key not in (0, 1)]
    decided = decide("substitute:0.2", missed, step, residents=2)
    assert sorted(decided[Outcome.SUBSTITUTED]) == [2, 4]
    assert sorted(decided[Outcome.LOADED]) == [3, 5, 6]
    assert decide("substitute:0.2", missed, step, residents=6) == becomes(
        load=[6], substitute=[key for key in missed if key != 6]
    )


def test_what_is_there_needs_no_stand_in() -> None:
    # 0 is resident and light; 1 stands in for 3, the only expert to be replaced.
    step = work("230", weights=[[0.5, 0.25, 0.25]])
    assert decide("substitute:0.3", [2, 3], step, residents=2) == becomes(load=[2], substitute=[3])


@pytest.mark.parametrize(("missed", "loads"), [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)])
def test_split_rounds_to_the_nearest_number(missed: int, loads: int) -> None:
    # 0.4 of 1 to 5: 0.4, 0.8, 1.2, 1.6, 2.0
    decided = decide("split:0.4", list(range(missed)), LayerStep(0, list(range(5)), None, None, None))
    assert len(decided.get(Outcome.LOADED, [])) == loads
    assert len(decided.get(Outcome.ON_CPU, [])) == missed - loads


def test_split_loads_what_most_tokens_use_in_batch_order() -> None:
    # Tokens of experts 1 to 4: 1, 3, 1, 2: 2 and 4 are loaded.
    decided = decide("split:0.5", MISSED, LayerStep(0, [0, 1, 2, 3, 4], [9, 1, 3, 1, 2], None, None))
    assert decided == becomes(load=[2, 4], cpu=[1, 3])


@pytest.mark.parametrize(
    ("hardware", "name"),
    [
        (machine(link(300)), "split:0.75"),  # q* = 300 / (300 + 100): the CPU of the test machine draws 100 bytes/s
        (machine(pcie=None, nvme=link(25)), "split:0.2"),
        (machine(None, link(25), link(300, name="usb")), "split:0.2"),  # one link after the other: the slower counts
        (machine(pcie=None), "split:1"),  # nothing to wait for
    ],
)
def test_split_balances_link_and_cpu_by_default(hardware: HardwareProfile, name: str) -> None:
    assert make_action("split", hardware).label() == name


def test_names_are_written_out_and_make_the_same_action() -> None:
    names = [make_action(spec, machine()).label() for spec in ACTIONS]
    assert names == ["load", "cpu", "split:0.5", "skip:0.1", "substitute:0.1", "low:0.1,0.25"]
    assert [make_action(name, machine()).label() for name in names] == names
    assert ["weights" in make_action(name, machine()).needs for name in names] == [False] * 3 + [True] * 3
    assert make_action("low:0.1,0.5", machine()).fraction == 0.5
    for name in ("skip:0.1,keep=0", "substitute:0.2,keep=2", "low:0.1,0.25,keep=0", "low:0.2,0.5,keep=3"):
        assert make_action(name, machine()).label() == name
    for short, name in (
        ("skip:keep=0", "skip:0.1,keep=0"), ("low:0.2,keep=0", "low:0.2,0.25,keep=0"), ("skip:0.1,keep=1", "skip:0.1"),
    ):  # fmt: skip
        assert make_action(short, machine()).label() == name


@pytest.mark.parametrize(("size", "fraction", "expected"), [(100, 0.25, 25), (10, 0.25, 2), (3, 0.1, 1), (100, 0, 1)])
def test_bytes_of_a_low_precision_copy(size: int, fraction: float, expected: int) -> None:
    assert make_action(f"low:0.1,{fraction}", machine()).bytes_of(Outcome.LOW_PRECISION, size) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("lod", f"miss action 'lod' is not known, use {', '.join(ACTIONS)}; did you mean 'load'?"),
        ("load:1", "miss action 'load' takes no parameter, given '1'"),
        ("split:1.5", "miss action 'split:1.5': '1.5' is no number from 0 to 1"),
        ("split:half", "'half' is no number from 0 to 1"),
        ("skip:-0.1", "'-0.1' is no number from 0 to 1"),
        ("skip:nan", "'nan' is no number from 0 to 1"),
        ("skip:0.1,0.2", "miss action 'skip' takes one parameter, the threshold, given '0.1,0.2'"),
        ("low:0.1,2", "'2' is no number from 0 to 1"),
        ("low:0.1,0.5,0.5", "takes two numbers, threshold and share of the bytes, given '0.1,0.5,0.5'"),
        ("skip:0.1,keep=-1", "keep must be the number of experts that a token never loses, 0 or more, given '-1'"),
        ("skip:0.1,keep=", "0 or more, given ''"),
        ("skip:keep=1.5", "0 or more, given '1.5'"),
        ("low:0.1,0.25,kep=1", "there is no option 'kep', only keep=N; did you mean 'keep'?"),
        ("skip:0.1,", "miss action 'skip' takes one parameter, the threshold, given '0.1,'"),
        ("low:,0.5", "'' is no number from 0 to 1"),
        ("load:keep=1", "miss action 'load' takes no parameter, given 'keep=1'"),
    ],
)
def test_what_cannot_be_made_says_so(spec: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_action(spec, machine())
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "said"),
    [("skip:0.1,keep=2,keep=3", "says keep twice"), (f"low:keep={'9' * 5000}", "never loses, 0 or more")],
)
def test_odd_keeps_are_refused_in_one_line(spec: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        make_action(spec, machine())
    assert len(str(caught.value)) < 200


class Above(MissAction):
    """Load a number of misses, as a built-in action with a parameter that is a whole number would."""

    name = "above"
    params = (Param("loads", 2, "misses that are loaded", minimum=0),)


def test_a_parameter_may_be_a_whole_number_of_any_name() -> None:
    assert _parameters(Above, "above:3", "3") == _parameters(Above, "above:loads=3", "loads=3") == {"loads": 3}
    for text, message in (
        ("-1", "loads must be at least 0, given -1"),
        ("x", "loads must be a whole number, given 'x'"),
        ("lods=1", "there is no option 'lods', only loads=N; did you mean 'loads'?"),
        ("1,2", "takes one parameter, the loads, given '1,2'"),
    ):
        with pytest.raises(ConfigError, match=re.escape(message)):
            _parameters(Above, f"above:{text}", text)

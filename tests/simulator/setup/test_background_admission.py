"""Which misses are admitted, and what the options of ``cpu`` mean."""

from __future__ import annotations

import pytest
from helpers import link, machine

from lrcsim.base.errors import ConfigError
from lrcsim.runtimes import IDEAL
from lrcsim.simulator.setup.admission import Admission, Prices, no_uploads
from lrcsim.simulator.setup.costs import FixedCosts
from lrcsim.simulator.setup.miss_actions import Cpu, loaded_share, make_action


def test_most_tokens_first_then_batch_order() -> None:
    # 5, 3 and 8 miss, used by 1, 4 and 4 tokens: 3 before 8, as it stands first; 5 last.
    for number, chosen in ((0, set()), (1, {3}), (2, {3, 8}), (3, {3, 8, 5}), (9, {3, 8, 5})):
        assert Admission(number).choose([5, 3, 8], 0, [1, 4, 4], None) == chosen
    assert Admission(2).choose([5, 3, 8], 0, None, None) == {5, 3}


def test_touches_count_from_the_last_admission() -> None:
    rule = Admission(1, touches=2)
    assert rule.choose([4], 0, None, None) == set()
    assert rule.choose([4, 7], 0, None, None) == {4}
    assert rule.choose([4], 0, None, None) == set()  # it has left the cache: one touch since
    assert rule.choose([4, 7], 0, None, None) == {4}  # both have two; only one is taken, and 7 keeps its two
    assert rule.choose([7], 0, None, None) == {7}


def test_payback_is_the_time_lost_to_the_cpu() -> None:
    # 100 bytes at 80 bytes/s are 1.25 s of the link. On the CPU an expert takes 1 s; on the GPU half a second per
    # token: half a second is lost with one token, nothing with two, and half a second won with three.
    prices = Prices(FixedCosts(expert_s=0.5, cpu_bytes=100, cpu_rate=100), machine(link(80)), [100] * 3)
    assert prices.upload == [1.25] * 3
    assert [prices.saved(0, tokens, 0) for tokens in (1, 2, 3)] == [0.5, 0, -0.5]
    rule = Admission(9, payback=True)
    found = [rule.choose([2], 0, [tokens], prices) for tokens in (1, 1, 2, 3, 1, 1, 1)]
    assert found == [set(), set(), set(), set(), set(), {2}, set()]  # .5, 1, 1, .5, 1, 1.5: paid back; then anew


def test_payback_takes_what_is_just_enough_though_sums_round() -> None:
    # Ten times 0.1 s is a second, and a little less in binary.
    prices = Prices(FixedCosts(expert_s=0.9, cpu_bytes=100, cpu_rate=100), machine(link(100)), [100])
    rule = Admission(1, payback=True)
    assert [rule.choose([0], 0, None, prices) for _ in range(10)] == [set()] * 9 + [{0}]


def test_what_an_upload_takes_of_the_link() -> None:
    # Three chunks, each with its overhead, at the bandwidth of a lane; latency is not the link's time.
    one = link(100, latency=5, overhead=0.25, chunk=40)
    prices = Prices(FixedCosts(), machine(one), [100, 40], IDEAL)
    assert prices.upload == [3 * 0.25 + 1, 0.25 + 0.4]


@pytest.mark.parametrize(
    ("spec", "admit", "touches", "payback", "label"),
    [
        ("cpu", 0, 1, 0, "cpu"),
        ("cpu,admit:0", 0, 1, 0, "cpu"),
        ("cpu,admit:4", 4, 1, 0, "cpu,admit:4"),
        ("cpu,admit:4,touches:2,payback", 4, 2, 1, "cpu,admit:4,touches:2,payback"),
        ("cpu:admit=4,payback", 4, 1, 1, "cpu,admit:4,payback"),
        (" cpu , touches:1 , admit=2", 2, 1, 0, "cpu,admit:2"),
    ],
)
def test_how_it_is_written(spec: str, admit: int, touches: int, payback: int, label: str) -> None:
    made = make_action(spec, machine())
    assert isinstance(made, Cpu)
    assert (made.admit, made.touches, made.payback, made.label()) == (admit, touches, payback, label)
    assert make_action(label, machine()).label() == label
    assert loaded_share(made) == (None if admit else 0.0)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("cpu,admit", "miss action 'cpu,admit': admit must be a whole number, given ''"),
        ("cpu,admit:-1", "miss action 'cpu,admit:-1': admit must be at least 0, given -1"),
        ("cpu,admit:1.5", "miss action 'cpu,admit:1.5': admit must be a whole number, given '1.5'"),
        ("cpu,admit:1,touches:0", "miss action 'cpu,admit:1,touches:0': touches must be at least 1, given 0"),
        ("cpu,admit:1,admit:2", "miss action 'cpu,admit:1,admit:2' says admit twice"),
        (
            "cpu,touches:2",
            "miss action 'cpu,touches:2': touches is of admission, and nothing is admitted: give cpu, or ",
        ),
        (
            "cpu,admits:2",
            "there is no option 'admits', give cpu, or cpu,admit:4 with touches:2 or payback behind it; did",
        ),
        ("cpu:0.5", "miss action 'cpu:0.5': there is no option '0.5', give cpu, or cpu,admit:4"),
    ],
)
def test_what_is_written_wrong(spec: str, says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        make_action(spec, machine())
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_where_nothing_can_be_uploaded() -> None:
    assert no_uploads(machine(), overlap=True) == ""
    assert no_uploads(machine(), overlap=False).startswith("transfers do not run beside compute")
    assert no_uploads(machine(None, link()), overlap=True).startswith("test has no link from main memory to a GPU")

"""Lists of the values that options have: of every plug-in, with the parameters that it takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrcsim.base.configurable import Configurable
from lrcsim.base.errors import ConfigError
from lrcsim.policies import BUILT_IN
from lrcsim.policies.routing import RULES
from lrcsim.simulator.setup.miss_actions import ACTIONS, cpu_parameters
from lrcsim.simulator.setup.option_lists import join_list, split_list
from lrcsim.simulator.setup.prefetchers import PREFETCHERS

NUMBERS = st.sampled_from(["1", "0.25", "-1", "2e3"])
OF_THEIR_OWN = st.sampled_from(["mine.py:X", "mine.py:X:a=1,b=2", "pkg.mod:X:3,b=fast", "a b/c.py:Y"])


def plugins(kinds: dict[str, type[Configurable]]) -> st.SearchStrategy[str]:
    """Names, with none, some or all of the parameters, by place or by name."""

    def of(name: str) -> st.SearchStrategy[str]:
        parameters = [
            st.one_of(NUMBERS, NUMBERS.map(lambda number, of=one.name: f"{of}={number}")) for one in kinds[name].params
        ]
        some = st.integers(0, len(parameters)).flatmap(lambda count: st.tuples(*parameters[:count]))
        return some.map(lambda given: f"{name}:{','.join(given)}" if given else name)

    return st.one_of(st.sampled_from(sorted(kinds)).flatmap(of), OF_THEIR_OWN)


CPU = st.builds("cpu,admit:{}{}{}".format, st.integers(1, 4), st.sampled_from(["", ",touches:3"]),
                st.sampled_from(["", ",payback"]))  # fmt: skip
VALUES = {
    "policy": st.one_of(plugins(BUILT_IN), plugins(BUILT_IN).map("admit2:8+{}".format)),
    "prefetch": plugins(PREFETCHERS),
    "route": plugins(RULES.built_in),
    "miss": st.one_of(plugins({name: one for name, one in ACTIONS.items() if name != "cpu"}), CPU, st.just("cpu")),
    "dtype": st.sampled_from(["bf16", "q4_k_m", "q4_k,down=q6_k", "q4_k_m,0-3=q8_0,40-47:ffn_up=bf16"]),
    "cache": st.sampled_from(["2x", "16", "25%", "4GiB"]),
    "hardware": st.sampled_from(["rtx-4090", "RTX 4090", "my machine.toml", "rtx-3060+ddr5-5600-2ch"]),
}


@pytest.mark.parametrize("option", VALUES)
def test_what_is_joined_comes_apart_again_and_needs_no_semicolon(option: str) -> None:
    @given(st.lists(VALUES[option], min_size=1, max_size=4, unique=True))
    def holds(values: list[str]) -> None:
        text = join_list(option, values)
        assert split_list(option, text) == values
        assert ";" not in text

    holds()


def test_by_hand() -> None:
    assert split_list("policy", "lru,admit2:8+s3-fifo:share=0.2,threshold=1,lfu") == [
        "lru", "admit2:8+s3-fifo:share=0.2,threshold=1", "lfu",
    ]  # fmt: skip
    assert split_list("miss", "split,cpu,admit:4,touches:2,low:0.1,0.25,cpu") == [
        "split", "cpu,admit:4,touches:2", "low:0.1,0.25", "cpu",
    ]  # fmt: skip
    assert split_list("acceptance", "0.6,0.8,0.6") == ["0.6", "0.8"]
    assert split_list("acceptance", "2,0,3") == ["2,0,3"]
    assert join_list("cache", ["8,8,16", "2x"]) == "8,8,16;2x"
    assert join_list("acceptance", ["1", "0"]) == "1;0"


def test_every_parameter_of_cpu_goes_on() -> None:
    (one,) = split_list("miss", "cpu,admit:2,touches:3,payback")
    assert cpu_parameters(one, one.partition(",")[2]) == {"admit": 2, "touches": 3, "payback": 1}


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(ConfigError, match="--dram-policy ', ' is an empty list"):
        split_list("dram_policy", ", ")

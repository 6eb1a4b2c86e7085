"""Names, parameters, plug-ins, and policies that misbehave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lrcsim.base.errors import PolicyError
from lrcsim.policies import BUILT_IN, FAMILIES, Policy, ScorePolicy, make_policy
from lrcsim.simulator import simulate
from lrcsim.traces import RoutingTrace

TRACE = RoutingTrace.from_arrays(np.arange(60).reshape(20, 3, 1) % 7, num_experts=7)


def test_every_policy_says_what_it_is() -> None:
    for policy in BUILT_IN.values():
        assert policy.name == policy.name.lower()
        assert policy.summary.endswith((".", ":"))
        assert policy.source
        assert all(param.help for param in policy.params)
    assert sum(map(len, FAMILIES.values())) == len(BUILT_IN), "two policies share a name"


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_label_makes_the_same_policy(name: str) -> None:
    policy = make_policy(name)
    again = make_policy(policy.label())
    assert type(again) is type(policy)
    assert again.label() == policy.label()


def test_parameters() -> None:
    assert make_policy("sch-lookahead:4").label() == "sch-lookahead:m=4"
    assert make_policy("S3FIFO: share = 0.2 , threshold=1").label() == "s3-fifo:share=0.2,threshold=1"
    assert make_policy("min").name == "belady"
    assert make_policy("sch:8").label() == "sch-lookahead:m=8"
    assert make_policy("segment-optimal:m=4").label() == "sch-static:m=4"
    assert make_policy("lfu_decay:half_life=64").label() == "lfu-decay:half_life=64.0"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("lrru", "did you mean 'lru'"),
        ("", "there is no policy ''; `lrcsim policies` lists them"),
        ("lruu", r"there is no policy 'lruu'; did you mean 'lru'\? `lrcsim policies` lists them"),
        ("lru:3", "lru has no parameters"),
        ("random:sead=3", "did you mean 'seed'"),
        ("sch-lookahead:m=0", "m must be at least 1, given 0"),
        ("sch-lookahead:m=1.5", "m must be a whole number"),
        ("sch-lookahead:m=nan", "m must be a whole number"),
        ("slru:share=1.5", "share must be 0 to 1"),
        ("slru:share=nan", "share must be 0 to 1"),
        ("slru:share=x", "share must be a number, given 'x'"),
        ("slru:0.1,share=0.2", "share is given twice"),
        ("nowhere.py:Mine", "nowhere.py does not exist"),
        ("no.such.module:Mine", "cannot be loaded: ModuleNotFoundError"),
        ("lrcsim.policies", "names a module but no class"),
        ("lrcsim.policies:Polcy", "did you mean 'Policy'"),
        ("lrcsim.policies:make_policy", "no class derived from"),
        (3, "must be a name, a class of Policy or an object"),
    ],
)
def test_refused(spec: str, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        make_policy(spec)


MINE = """
from lrcsim.policies import Param, ScorePolicy

class Mine(ScorePolicy):
    "Evict the smallest key."
    params = (Param("sign", 1, "1 or -1"),)
    def score(self, key):
        return self.sign * key
"""


def test_a_class_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    one = simulate(TRACE, f"{file}:Mine", 3)
    other = simulate(TRACE, f"{file}:Mine:sign=-1", 3)
    assert one.config["policy"] == "Mine:sign=1"
    assert one.hit_rate != other.hit_rate


def test_a_file_that_does_not_run(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("import nothing_of_that_name")
    with pytest.raises(
        PolicyError, match="cannot be loaded: ModuleNotFoundError: No module named 'nothing_of_that_name'"
    ):
        make_policy(f"{file}:Mine")


def test_a_class_in_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "my_package_of_policies"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert make_policy("my_package_of_policies.mine:Mine").name == "Mine"


class Base(ScorePolicy):
    """Least recent; the tests break one method at a time."""

    def score(self, key: int) -> float:
        return 0.0


def broken(**methods: object) -> type[Policy]:
    return type("Broken", (Base,), methods)


def fails(*_: object) -> None:
    raise KeyError("oops")


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (broken(victim=lambda self, protected: None), r"returned None, which is not resident"),
        (broken(victim=lambda self, protected: 999), r"returned expert 999 .*which is not resident"),
        (broken(victim=lambda self, protected: next(iter(protected))), r"which belongs to the current batch"),
        (broken(victim=lambda self, protected: []), r"failed at step 2, layer 0: TypeError"),
        (broken(access=fails), r"failed at step 0, layer 0: KeyError: 'oops'"),
        (broken(evicted=fails), r"failed at step 2, layer 0"),
        (broken(reset=fails), r"failed in reset\(\): KeyError"),
        (broken(score=fails), r"failed at step 2"),
        (broken(refills=True, refill=lambda self: range(7)), r"refill\(\) asks for 7, the pool holds 2"),
    ],
)
def test_a_policy_that_breaks_its_contract(policy: type[Policy], message: str) -> None:
    trace = RoutingTrace.from_arrays(np.arange(20).reshape(20, 1, 1) % 7, num_experts=7)
    with pytest.raises(PolicyError, match=message):
        simulate(trace, policy, 2, bounds=False)


def test_needs_must_be_known() -> None:
    with pytest.raises(PolicyError, match="can only need"):
        type("Odd", (Policy,), {"needs": frozenset({"luck"})})


def test_one_object_cannot_serve_many_layers() -> None:
    with pytest.raises(PolicyError, match="one object per layer"):
        simulate(TRACE, make_policy("lru"), 2)
    assert (
        simulate(TRACE, make_policy("lru"), 2, scope="model").hit_rate
        == simulate(TRACE, "lru", 2, scope="model").hit_rate
    )


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("mrs", "needs router weights"),
        ("score-ema", "needs router weights"),
        ("static", "needs a profile: .*--profile"),
    ],
)
def test_a_policy_that_the_trace_cannot_serve(policy: str, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        simulate(TRACE, policy, 2)


def test_a_bypassing_policy_is_refused_where_insertion_is_forced() -> None:
    with pytest.raises(PolicyError, match="inserts every expert"):
        simulate(TRACE, "belady-bypass", 2, access="paper")

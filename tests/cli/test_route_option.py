"""``--route`` as a user meets it: run, curve, and the errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrcsim.simulator import hit_rate_curve, simulate
from lrcsim.traces import RoutingTrace


@pytest.fixture
def trace_file(tmp_path: Path) -> str:
    logits = np.random.default_rng(0).normal(size=(80, 2, 8)).astype(np.float32)
    experts = np.argsort(-logits, axis=2)[:, :, :2]
    path = tmp_path / "t.h5"
    RoutingTrace.from_arrays(experts, num_experts=8, logits=logits, model="toy").save(path)
    return str(path)


def test_run(lrcsim: Callable[..., Any], trace_file: str) -> None:
    code, out, err = lrcsim("run", trace_file, "--route", "prior:0.2", "--cache", "4")
    assert (code, err) == (0, "")
    lines = [line.split("  ")[0] for line in out.splitlines()]
    assert lines[3:7] == ["hit rate", "lru + prior:0.2", "lru without prior:0.2", "belady (optimum)"]
    told = simulate(RoutingTrace.open(trace_file), cache=4, route="prior:0.2").to_dict()["route"]
    text = " ".join(out.split())
    assert f"prior:0.2: {100 * told['agreement']:.1f} % of the experts are the router's own choice" in text
    assert "unmodified, softmax assumed: the trace has no weights)" in text
    assert f"{told['loads_per_access']:.4f} loads per access of the router's choice, " in text


def test_json(lrcsim: Callable[..., Any], trace_file: str) -> None:
    code, out, _ = lrcsim("run", trace_file, "--route", "window:1,4", "--cache", "4", "--json", "-")
    data = json.loads(out)
    assert code == 0
    assert data["config"]["route"] == data["route"]["rule"] == "window:1,4"
    assert data["run"]["options"]["route"] == "window:1,4"
    assert list(data["route"]) == [
        "rule", "router", "engine", "agreement", "mass_kept", "kl_nats", "kl_nats_unmodified", "prefill", "decode",
        "loads", "loads_per_access", "without",
    ]  # fmt: skip


def test_curve_at_listed_sizes(lrcsim: Callable[..., Any], trace_file: str) -> None:
    told = ("curve", trace_file, "--route", "prior:0.2", "--cache", "3,5", "--json", "-")
    code, out, _ = lrcsim(*told, "--policy", "lru,fifo")
    data, trace = json.loads(out), RoutingTrace.open(trace_file)
    assert code == 0
    assert data["capacities"] == [3, 5]
    assert data["config"]["route"] == "prior:0.2"
    assert list(data["hit_rate"]) == ["lru", "lru + prior:0.2", "fifo", "fifo + prior:0.2"]
    for name in ("lru", "fifo"):
        for rule in (None, "prior:0.2"):
            rates = data["hit_rate"][name if rule is None else f"{name} + {rule}"]
            assert rates == [simulate(trace, name, size, route=rule).hit_rate for size in (3, 5)]


def test_curve_of_prompts_divides_by_the_accesses_at_each_size() -> None:
    """Of a prompt of many tokens that prefer residents fewer experts are used."""
    logits = np.random.default_rng(1).normal(size=(60, 1, 9))
    experts = np.argsort(-logits, axis=2)[:, :, :2]
    phase = ([0] * 8 + [1] * 2) * 6
    trace = RoutingTrace.from_arrays(
        experts, num_experts=9, logits=logits, phase=phase, offsets=np.arange(0, 61, 10), provenance={"logits": "raw"}
    )
    curve = hit_rate_curve(trace, capacities=[2, 4, 6], route="prior:0.5")
    alone = [simulate(trace, cache=size, route="prior:0.5") for size in (2, 4, 6)]
    assert len({int(one.counts.accesses.sum()) for one in alone}) > 1
    assert curve.hit_rate.tolist() == [one.hit_rate for one in alone]
    assert curve.prefill_hit_rate is not None
    assert curve.prefill_hit_rate.tolist() == [one.phase_rate(0) for one in alone]
    assert (curve.exact_at_all, curve.proven, curve.policy) == (False, False, "lru + prior:0.5")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("run", "--route", "prior"), "this trace has none: record them with lrcsim record --logits"),
        (("run", "--route", "priors"), "there is no routing rule 'priors', there are prior, window, substitute"),
        (("curve", "--route", "none", "--allocate", "2x", "--policy", "lru"), ""),
    ],
)
def test_errors(lrcsim: Callable[..., Any], arguments: tuple[str, ...], told: str) -> None:
    code, _, err = lrcsim(*arguments)
    assert (code, told in err) == (1 if told else 0, True)
    assert err.count("\n") == (1 if told else 0)


def test_allocate_has_no_rule(lrcsim: Callable[..., Any], trace_file: str) -> None:
    code, _, err = lrcsim("curve", trace_file, "--route", "prior", "--allocate", "2x")
    assert code == 1
    assert "route 'prior' cannot be used here: rules go with run, curve and sweeps" in err


def test_a_report_does_not_run_a_rule_that_a_result_names(
    lrcsim: Callable[..., Any], tmp_path: Path, trace_file: str
) -> None:
    result, rule = tmp_path / "r.json", tmp_path / "mine.py"
    assert lrcsim("run", trace_file, "--route", "prior:0.1", "--json", str(result)).code == 0
    rule.write_text("import pathlib\npathlib.Path(__file__).with_suffix('.ran').touch()\n")
    data = json.loads(result.read_text())
    data["run"]["options"]["route"] = f"{rule}:Mine"
    result.write_text(json.dumps(data))
    assert lrcsim("report", str(result), "-o", str(tmp_path / "r.html")).code == 0
    assert not rule.with_suffix(".ran").exists()

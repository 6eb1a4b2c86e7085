"""Measures of experts: cases solved by hand, and their definitions on drawn traces.

Domains: segments of 1 token, one layer of 2 experts, top-1. Domain a uses expert 0 three times of four, domain b once
of four: 3/4 and 1/4, mean 1/2, standard deviation sqrt(2 * (1/4)^2 / 1) = 0.354, over the mean 0.707. Expert 1 alike.

Vocabulary: token 5 occurs 20 times, 15 with expert 0 first and 5 with expert 1; token 6 occurs 20 times, always with
expert 1; token 7 occurs 19 times. Expert 0 wins token 5: 0.75. Expert 1 wins token 6: 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import naive_metrics as naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lrcsim.simulator.metrics.windows
from lrcsim.base.errors import ConfigError
from lrcsim.simulator import expert_measures, srp
from lrcsim.simulator.metrics.specialisation import (
    activation_by_domain,
    domain_specialisation,
    pearson,
    vocabulary_specialisation,
)
from lrcsim.traces import LayerTable, RoutingTrace


def one_layer(ids: list[int], **options: Any) -> RoutingTrace:
    return RoutingTrace.from_arrays(np.array(ids)[:, None, None], num_experts=2, **options)


def test_domain_specialisation_by_hand() -> None:
    trace = one_layer([0, 0, 1, 0, 1, 0, 1, 1], offsets=[0, 4, 8], domains=["a", "b"])
    assert domain_specialisation(trace, 1)[0] == pytest.approx([0.5**0.5, 0.5**0.5])
    with pytest.raises(ConfigError, match="all requests are 'a'"):
        domain_specialisation(trace, 1, domains=["a", "a"])


def test_vocabulary_specialisation_by_hand() -> None:
    experts = [0] * 15 + [1] * 5 + [1] * 20 + [0] * 19
    trace = one_layer(experts, token_ids=[5] * 20 + [6] * 20 + [7] * 19)
    assert vocabulary_specialisation(trace).tolist() == [[0.75, 1.0]]
    # By predicted token, whatever is read: 15 of 20 positions that predict 8 go to expert 0, all others to expert 1.
    trace = one_layer(experts, predicted_ids=[8] * 20 + [9] * 20 + [-1] * 19)
    assert vocabulary_specialisation(trace, "predicted").tolist() == [[0.75, 1.0]]
    with pytest.raises(ConfigError, match="the trace has no token ids"):
        vocabulary_specialisation(trace)
    trace = one_layer(experts, token_ids=[5] * 20 + [6] * 20 + [7] * 19)
    with pytest.raises(ConfigError, match="the trace has no predicted token ids"):
        vocabulary_specialisation(trace, "predicted")
    # By the next token: 5 follows 19 times (too few), 6 follows 20 times: once after the last 5 and 19 times after 6,
    # with expert 1 always; 7 follows 19 times. Expert 0 wins no token.
    out = vocabulary_specialisation(trace, "out")
    assert out[0, 1] == 1.0
    assert np.isnan(out[0, 0])


def test_load_by_hand() -> None:
    # Expert 0 takes three of four uses: rates 3/4 and 1/4, standard deviation 0.354, the busiest 1.5 times the mean.
    measures = expert_measures(one_layer([0, 0, 1, 0]), 1)
    assert measures.load_imbalance == pytest.approx(0.125**0.5)
    assert measures.busiest.tolist() == [1.5]
    assert measures.missing["domain"].startswith("the trace does not say which domain")
    assert measures.missing["vocabulary_in"].startswith("the trace has no token ids")


@st.composite
def traces(draw: st.DrawFn) -> RoutingTrace:
    tokens, num_layers = draw(st.integers(1, 20)), draw(st.integers(1, 2))
    num_experts = draw(st.lists(st.integers(1, 4), min_size=num_layers, max_size=num_layers))
    top_k = [draw(st.integers(1, min(2, number))) for number in num_experts]
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    ids = np.full((tokens, num_layers, max(top_k)), -1)
    for layer, (number, k) in enumerate(zip(num_experts, top_k, strict=True)):
        ids[:, layer, :k] = rng.random((tokens, number)).argsort(axis=1)[:, :k]
    if draw(st.booleans()):
        ids[rng.random(ids.shape) < 0.2] = -1
    ends = sorted(draw(st.lists(st.integers(0, tokens), max_size=4)))
    return RoutingTrace.from_arrays(
        ids,
        num_experts=num_experts,
        layers=LayerTable.build(num_layers, num_experts, top_k),
        offsets=[0, *ends, tokens],
        domains=[draw(st.sampled_from("abc")) for _ in range(len(ends) + 1)],
        token_ids=rng.integers(-1, 4, tokens),
        predicted_ids=rng.integers(-1, 4, tokens),
    )


@given(trace=traces(), data=st.data())
def test_domains_follow_the_definition(trace: RoutingTrace, data: st.DataObject) -> None:
    m = data.draw(st.integers(1, int(np.diff(trace.offsets).max())))
    assert trace.domains is not None
    experts = [[[e for e in layer if e >= 0] for layer in token] for token in trace.experts.tolist()]
    counts = naive.counts(experts, trace.offsets.tolist(), trace.layers.num_experts.tolist(), m)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lrcsim.simulator.metrics.windows, "BLOCK_IDS", 0)
        found = activation_by_domain(trace, m, ["all"] * trace.num_requests)[0]
        whole = srp(trace, m, level="expert").groups
        assert whole is not None
        np.testing.assert_allclose(found, whole.activation, rtol=1e-13)
        if len(set(trace.domains)) < 2:
            return
        values = domain_specialisation(trace, m)
    for layer, number in enumerate(trace.layers.num_experts.tolist()):
        for expert in range(trace.num_experts):
            expected = naive.domain_specialisation(counts, trace.domains, layer, expert, m) if expert < number else None
            if expected is None:
                assert np.isnan(values[layer, expert])
            else:
                assert values[layer, expert] == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("kind", ["in", "predicted", "out"])
@given(trace=traces(), occurrences=st.integers(1, 3))
def test_vocabulary_follows_the_definition(kind: Any, trace: RoutingTrace, occurrences: int) -> None:
    read = trace.predicted_ids if kind == "predicted" else trace.token_ids
    assert read is not None
    ids = read.tolist()
    ids = naive.next_ids(ids, trace.offsets.tolist()) if kind == "out" else ids
    if all(ids.count(token) < occurrences for token in range(4)):
        with pytest.raises(ConfigError, match="no token id occurs"):
            vocabulary_specialisation(trace, kind, occurrences=occurrences)
        return
    found = vocabulary_specialisation(trace, kind, occurrences=occurrences)
    assert found.shape == (trace.num_layers, trace.num_experts)
    for layer in range(trace.num_layers):
        first = trace.experts[:, layer, 0].tolist()
        expected = naive.vocabulary_specialisation(first, ids, trace.num_experts, occurrences)
        assert found[layer].tolist() == pytest.approx([np.nan if v is None else v for v in expected], nan_ok=True)


def test_layers_are_taken_in_parts_when_the_tables_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    ids = rng.random((70_000, 3, 4)).argsort(axis=2)[:, :, :2]
    trace = RoutingTrace.from_arrays(
        ids, num_experts=4, offsets=[0, 65_536, 70_000], token_ids=rng.integers(0, 9, 70_000)
    )
    whole = [vocabulary_specialisation(trace, kind) for kind in ("in", "out")]
    monkeypatch.setattr("lrcsim.simulator.metrics.specialisation.MOST_TABLE_BYTES", 1)
    parts = [vocabulary_specialisation(trace, kind, jobs=1) for kind in ("in", "out")]
    np.testing.assert_equal(whole, parts)
    # The last token of the first request has no next one, although the block goes on with another request.
    out = naive.next_ids(trace.token_ids.tolist(), [0, 65_536, 70_000])  # type: ignore[union-attr]
    expected = np.zeros((9, 4))
    np.add.at(expected, (np.array(out)[np.array(out) >= 0], ids[np.array(out) >= 0, 0, 0]), 1)
    share = expected.max(axis=1) / expected.sum(axis=1)
    owner = expected.argmax(axis=1)
    assert np.nanmean(whole[1][0]) == pytest.approx(np.mean([share[owner == e].mean() for e in set(owner.tolist())]))


def test_correlation_is_pearsons_over_experts_that_have_both() -> None:
    a, b = np.array([1.0, 2, 3, 4, np.nan]), np.array([2.0, 1, 5, np.nan, 7])
    assert pearson(a, b) == pytest.approx(np.corrcoef(a[:3], b[:3])[0, 1])
    assert pearson(a, np.full(5, 2.0)) is None
    assert pearson(a, np.full(5, np.nan)) is None


def test_all_measures_of_one_trace() -> None:
    rng = np.random.default_rng(0)
    ids = rng.random((2_000, 2, 8)).argsort(axis=2)[:, :, :2]
    trace = RoutingTrace.from_arrays(
        ids,
        num_experts=8,
        offsets=range(0, 2001, 100),
        domains=["a", "b"] * 10,
        token_ids=rng.integers(0, 20, 2_000),
        predicted_ids=rng.integers(0, 10, 2_000),
    )
    measures = expert_measures(trace, 16, jobs=1)
    assert measures.missing == {}
    assert list(measures.present()) == [
        "activation",
        "domain",
        "vocabulary_in",
        "vocabulary_predicted",
        "vocabulary_out",
    ]
    assert measures.mean("activation") == pytest.approx(0.25)
    for name, values in measures.present().items():
        assert measures.correlation(name) == pytest.approx(pearson(measures.srp, values))
    # Given labels must fit the requests; a measure that is merely not to be had is no error.
    with pytest.raises(ConfigError, match="one label per request"):
        expert_measures(trace, 16, domains=["a"])


def test_kinds() -> None:
    with pytest.raises(ConfigError, match="use 'in', 'predicted' or 'out'"):
        vocabulary_specialisation(one_layer([0, 1], token_ids=[0, 0]), "pred")  # type: ignore[arg-type]


CHECKPOINT = Path(__file__).resolve().parents[3] / "experiments/model_family/checkpoint_traces/teacher_forced.h5"


def test_predicted_tokens_of_a_recorded_model_follow_the_definition() -> None:
    if not CHECKPOINT.is_file():
        pytest.skip(f"needs {CHECKPOINT.name} of the repository")
    with RoutingTrace.open(CHECKPOINT) as trace:
        assert trace.predicted_ids is not None
        assert (trace.predicted_ids >= 0).all()  # teacher-forced: every position has an output
        ids, first = trace.predicted_ids.tolist(), trace.experts[:, 0, 0].tolist()
        found = vocabulary_specialisation(trace, "predicted")
        expected = naive.vocabulary_specialisation(first, ids, trace.num_experts, 20)
    assert found[0].tolist() == pytest.approx([np.nan if v is None else v for v in expected], nan_ok=True)
    assert np.isfinite(found).any(axis=1).all()

"""One trace made two."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trace_files import make_trace

from lrcsim.base.errors import ConfigError
from lrcsim.traces import RoutingTrace
from lrcsim.traces.split import fit_part, save_part


def trace_of(prompts: list[int], domains: list[str] | None = None) -> RoutingTrace:
    """A request of one token for each prompt."""
    ids = np.array(prompts).reshape(-1, 1, 1)
    return RoutingTrace.from_arrays(ids, num_experts=64, offsets=np.arange(len(prompts) + 1), domains=domains)


def test_every_second_prompt_and_equal_ones_together() -> None:
    assert fit_part(trace_of([0, 1, 2, 3])).tolist() == [False, True, False, True]
    assert fit_part(trace_of([0, 1, 0, 2, 1, 3])).tolist() == [False, True, False, False, True, True]
    assert fit_part(trace_of([0, 1, 2, 3]), 0.25).tolist() == [False, False, False, True]
    assert fit_part(trace_of([0, 1, 2, 3]), 0.75).tolist() == [False, True, True, True]


def test_each_domain_alike() -> None:
    found = fit_part(trace_of([0, 1, 2, 3, 4, 5], ["a", "b", "b", "a", "a", "a"]))
    assert found.tolist() == [False, False, True, True, False, True]


@pytest.mark.parametrize("share", [0, 1, -0.5, float("nan")])
def test_no_share(share: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        fit_part(trace_of([0, 1]), share)


def test_nothing_left_for_a_part() -> None:
    for prompts in ([0], [0, 0, 0]):
        with pytest.raises(ConfigError, match="leaves one part empty"):
            fit_part(trace_of(prompts))


@given(st.lists(st.tuples(st.integers(0, 20), st.sampled_from("ab")), min_size=2, max_size=30), st.floats(0.05, 0.95))
def test_the_parts_have_no_prompt_in_common_and_the_share_in_each_domain(
    requests: list[tuple[int, str]], share: float
) -> None:
    prompts = [prompt + 21 * "ab".index(domain) for prompt, domain in requests]  # a prompt has one domain
    trace = trace_of(prompts, [domain for _, domain in requests])
    try:
        fits = fit_part(trace, share)
    except ConfigError:
        return
    mine = {prompt for prompt, fit in zip(prompts, fits, strict=True) if fit}
    assert mine.isdisjoint(prompt for prompt, fit in zip(prompts, fits, strict=True) if not fit)
    for low in (0, 21):
        every = {prompt for prompt in prompts if low <= prompt < low + 21}
        assert len(mine & every) == int(len(every) * share + 1e-9)


def test_what_is_written(tmp_path: Path) -> None:
    whole = make_trace(3, tokens=40, requests=6, token_ids=True, residency=True, ragged=True, missing=0.1)
    whole.save(tmp_path / "whole.h5")
    with RoutingTrace.open(tmp_path / "whole.h5") as opened:
        tokens = save_part(opened, tmp_path / "part.h5", np.array([1, 4]), "fit")
        sha256 = opened.file_sha256()
    with RoutingTrace.open(tmp_path / "part.h5") as part:
        bounds = [slice(*whole.offsets[at : at + 2]) for at in (1, 4)]
        assert part.num_tokens == tokens == sum(one.stop - one.start for one in bounds)
        for name in whole.columns:
            np.testing.assert_array_equal(part.column(name), np.concatenate([whole.column(name)[at] for at in bounds]))
        assert whole.domains is not None
        assert part.domains == [whole.domains[1], whole.domains[4]]
        assert part.provenance["part"] == {
            "of": {"file": "whole.h5", "requests": 6, "sha256": sha256},
            "part": "fit",
            "requests": 2,
        }


def test_the_command(lrcsim, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    make_trace(3, tokens=40, requests=6, domains=False).save(tmp_path / "t.h5")
    names = ("--fit", tmp_path / "f.h5", "--test", tmp_path / "e.h5")
    outcome = lrcsim("trace", "split", tmp_path / "t.h5", *names)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.count("tokens in 3 requests") == 2
    with RoutingTrace.open(tmp_path / "f.h5") as fit, RoutingTrace.open(tmp_path / "e.h5") as test:
        assert fit.num_tokens + test.num_tokens == 40
    same = lrcsim("trace", "split", tmp_path / "t.h5", "--fit", tmp_path / "f.h5", "--test", tmp_path / "f.h5")
    assert same.code == 1
    over = lrcsim("trace", "split", tmp_path / "t.h5", "--fit", tmp_path / "t.h5", "--test", tmp_path / "e.h5")
    assert over.code == 1

"""The paper's figures: the statement on traces made for it, curves against lrcsim's own, the whole command."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lrcsim.base.errors import ConfigError
from lrcsim.experiments.paper.__main__ import main
from lrcsim.experiments.paper.claims import JUDGES, outcome_of
from lrcsim.experiments.paper.curves import request_curves, shuffled
from lrcsim.experiments.paper.inputs import Input, mean_loss, opened, requests_of
from lrcsim.experiments.paper.intervals import difference, fisher_interval, same_texts, wilson
from lrcsim.experiments.paper.knee import CRITERIA
from lrcsim.experiments.paper.measure import MeasuredTrace, PaperOptions, measure
from lrcsim.experiments.paper.published import published
from lrcsim.experiments.paper.report import PaperSection, words
from lrcsim.experiments.paper.sections_models import model_sections
from lrcsim.experiments.paper.throughput import geometry_for, prompted
from lrcsim.experiments.paper.two_x import knees_of, knees_of_published, verdict
from lrcsim.simulator import ExpertMeasures, hit_rate_curve, sch, srp
from lrcsim.traces import RoutingTrace

QUICK = PaperOptions(draws=40, segments=(4, 16), hardware=None)
SCH = "sch-lookahead:16"
E, K, L, TOKENS, REQUESTS = 32, 4, 2, 64, 6


def made(pool: int, *, noise: float = 0.0, seed: int = 0, phase: bool = False, predicted: bool = False) -> RoutingTrace:
    """Requests that each draw their experts from ``pool`` of 32 per layer; a share of tokens draws from all."""
    rng = np.random.default_rng(seed)
    ids = np.empty((REQUESTS * TOKENS, L, K), int)
    for request in range(REQUESTS):
        own = [rng.permutation(E)[:pool] for _ in range(L)]
        for token in range(request * TOKENS, (request + 1) * TOKENS):
            for layer in range(L):
                ids[token, layer] = rng.permutation(E if rng.random() < noise else own[layer])[:K]
    return RoutingTrace.from_arrays(
        ids,
        num_experts=E,
        offsets=range(0, len(ids) + 1, TOKENS),
        domains=["law", "code"] * (REQUESTS // 2),
        token_ids=rng.integers(0, 5, len(ids)),
        predicted_ids=rng.integers(0, 5, len(ids)) if predicted else None,
        phase=(np.arange(len(ids)) % TOKENS >= 32).astype(np.uint8) if phase else None,
        model="made",
        provenance={"training": {"validation_loss": {"law": 2.0, "code": 4.0}}},
    )


def verdicts(trace: RoutingTrace) -> dict[str, str]:
    return {knee.criterion: knee.verdict for knee in knees_of(request_curves(trace, SCH, "model"), QUICK)}


# --- the statement ---------------------------------------------------------------------------------------------------


def test_it_holds_where_requests_use_twice_the_active_experts() -> None:
    # All 8 of a request's experts fit 2x: everything hits from there on. What comes before is not straight, as a cache
    # that looks ahead makes the most of little room, so the two criteria of a slope near the first 1x are met sooner.
    found = verdicts(made(2 * K))
    holds = {"chord", "chord to all", "balance", "bend", "below 10"}
    assert {name for name, word in found.items() if word == "holds"} >= holds
    assert {knee.size for knee in knees_of(request_curves(made(2 * K), SCH, "model"), QUICK)[:3]} <= {
        1.875,
        1.9375,
        2.0,
    }


def test_it_holds_by_none_where_requests_use_only_the_active_experts() -> None:
    # The same 4 experts for every token of a request: all hits at 1x, nothing more to gain.
    trace = made(K)
    assert request_curves(trace, SCH, "model").rate(np.array([1.0, 4.0])).tolist() == [1.0, 1.0]
    assert verdicts(trace) == dict.fromkeys((criterion.name for criterion in CRITERIA), "does not hold")


def test_too_few_experts_have_no_knee_at_two() -> None:
    ids = np.random.default_rng(0).random((40, 1, 8)).argsort(axis=2)[:, :, :4]
    trace = RoutingTrace.from_arrays(ids, num_experts=8, offsets=[0, 20, 40])  # all experts are 2x
    assert knees_of(request_curves(trace, SCH, "model"), QUICK) == []


def test_one_request_has_a_knee_without_an_interval() -> None:
    (knee, *_) = knees_of(request_curves(requests_of(made(2 * K), [0]), SCH, "model"), QUICK)
    assert (knee.interval, knee.share, knee.verdict) == (None, None, "one request")


def test_verdicts_by_share() -> None:
    assert [verdict(share) for share in (1, 0.95, 0.94, 0.06, 0.05, 0)] == [
        *("holds", "holds", "undecided"),
        *("undecided", "does not hold", "does not hold"),
    ]


def test_published_curves_are_judged_with_the_error_of_reading_them() -> None:
    # 40 points per 1x up to 2x, then 5: the knee is far from its neighbours, reading errors do not move it.
    sizes = np.arange(1, 17) / 4
    curve = np.minimum(0.4 * sizes, 0.8 + 0.05 * (sizes - 2))
    knees = {knee.criterion: knee for knee in knees_of_published(curve.tolist(), 8, 100, 0)}
    assert knees["chord"].interval == (2.0, 2.0)
    assert {knee.verdict for knee in knees.values()} == {"holds"}


def test_wilson_and_fisher_by_hand() -> None:
    # 0 of 10: centre z2/20, half the same, over 1 + z2/10: 0 to z2 / (10 + z2), z2 = 3.8415
    assert wilson(0, 10) == pytest.approx((0, 3.8415 / 13.8415), abs=1e-5)
    assert wilson(5, 10)[0] + wilson(5, 10)[1] == pytest.approx(1)
    # r = 0: tanh of +- 1.96 / sqrt(103 - 3) = +- 0.196
    assert fisher_interval(0.0, 103) == pytest.approx((-np.tanh(0.196), np.tanh(0.196)), abs=1e-5)
    assert fisher_interval(0.5, 3) is None
    assert fisher_interval(1.0, 10) == (1, 1)


def test_outcomes_of_several_traces() -> None:
    assert outcome_of([]) == "not testable"
    assert outcome_of([True, True]) == "found"
    assert outcome_of([False]) == "not found"
    assert outcome_of([None], "depends on the criterion") == "depends on the criterion"
    assert outcome_of([True, None, False, True]) == "found in 2, not found in 1, undecided in 1"


# --- curves request by request ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["layer", "model"])
def test_requests_add_up_to_lrcsims_own_curves(scope: str) -> None:
    trace = made(10, noise=0.3)
    for policy in ("lru", "lfu", "belady"):
        curve = hit_rate_curve(trace, policy, scope=scope, access="paper")  # type: ignore[arg-type]
        found = request_curves(trace, policy, scope)  # type: ignore[arg-type]
        assert found.accesses.sum() == trace.experts.size
        np.testing.assert_allclose(found.rate(curve.relative), curve.hit_rate, rtol=0, atol=1e-12)
    for definition in ("lookahead", "static"):
        whole = sch(trace, 16, "2x", definition=definition, scope=scope, bootstrap=30, seed=3)  # type: ignore[arg-type]
        found = request_curves(trace, f"sch-{definition}:16", scope)  # type: ignore[arg-type]
        np.testing.assert_allclose(found.rate(whole.relative), whole.hit_rate, rtol=0, atol=1e-12)
        assert found.interval(2.0, 30, 3) == pytest.approx(whole.interval)  # the same resamples
        if definition == "lookahead" and scope == "layer":
            np.testing.assert_allclose(found.layers_at(2.0), whole.by_layer)


def test_between_whole_experts_a_curve_is_straight() -> None:
    curve = request_curves(made(10), "lru", "layer")
    ends = curve.rate(np.array([1.0, 1.25]))
    assert curve.rate(np.array([1.125]))[0] == pytest.approx(ends.mean())
    assert curve.rate(np.array([0.0]))[0] == 0


def test_random_order_keeps_the_tokens_and_takes_their_locality() -> None:
    trace = made(2 * K)
    other = shuffled(trace, 1)
    assert sorted(map(tuple, other.experts[:, 0].tolist())) == sorted(map(tuple, trace.experts[:, 0].tolist()))
    assert other.offsets.tolist() == trace.offsets.tolist()
    rates = [request_curves(one, SCH, "model").rate(np.array([2.0]))[0] for one in (trace, other)]
    assert rates[0] == 1
    assert rates[1] < 0.8


# --- inputs ----------------------------------------------------------------------------------------------------------


def given(label: str, trace: RoutingTrace, paper: str | None = None) -> Input:
    return Input(label, label, "generated" if trace.phase is not None else "teacher-forced", trace, paper)


def test_traces_are_named_and_grouped(tmp_path: Path) -> None:
    made(8).save(tmp_path / "share1.seed2.teacher_forced.h5")
    made(8, phase=True).save(tmp_path / "x.h5")
    with opened([str(tmp_path / "share1.seed2.teacher_forced.h5"), f"share1.generated={tmp_path / 'x.h5'}"]) as inputs:
        assert [(one.label, one.variant, one.kind, one.paper) for one in inputs] == [
            ("share1.seed2.teacher_forced", "share1.seed2", "teacher-forced", "toy.share1"),
            ("share1.generated", "share1", "generated", "toy.share1"),
        ]
    with pytest.raises(ConfigError, match="two traces are called 'x'"), opened([str(tmp_path / "x.h5")] * 2):
        pass
    with pytest.raises(ConfigError, match="write name=path"), opened(["=x.h5"]):
        pass


def test_the_loss_is_found_in_the_provenance() -> None:
    trace = made(8)
    assert mean_loss(trace) == 3.0
    trace.provenance = {"training": "{'validation_loss': 2.5}"}
    assert mean_loss(trace) == 2.5
    trace.provenance = {"about": "{nothing"}
    assert mean_loss(trace) is None


def test_differences_on_the_same_texts_are_paired() -> None:
    a, b = made(6, noise=0.1, seed=1), made(8, noise=0.1, seed=1)
    b.columns["token_ids"] = a.columns["token_ids"]
    one, two = (MeasuredTrace(given("a", a)), MeasuredTrace(given("b", b)))
    for measured in (one, two):
        measured.srp[16] = srp(measured.source.trace, 16, bootstrap=200, seed=2)
    assert same_texts(one.source, two.source)
    value, ends = difference(one, two, 16)
    assert value == one.srp[16].value - two.srp[16].value > 0
    assert one.srp[16].draws is not None
    assert two.srp[16].draws is not None
    ordered = np.sort(one.srp[16].draws - two.srp[16].draws)
    assert ends == pytest.approx((2 * value - ordered[195], 2 * value - ordered[5]))
    b.columns["token_ids"] = a.read("token_ids", 0, a.num_tokens) + 1
    b._loaded.clear()
    assert not same_texts(one.source, two.source)
    apart = difference(one, two, 16)[1]
    assert apart is not None
    assert apart[0] < value < apart[1]


def test_a_trace_without_domains_ids_and_long_requests_says_so() -> None:
    ids = np.random.default_rng(0).random((40, 1, 8)).argsort(axis=2)[:, :, :2]
    found = measure(given("short", RoutingTrace.from_arrays(ids, num_experts=8, offsets=range(0, 41, 10))), QUICK)
    assert list(found.srp) == [4]
    assert set(found.missing) == {"segments", "m = 16", "loss"}
    longer = measure(given("long", RoutingTrace.from_arrays(ids, num_experts=8, offsets=[0, 20, 40])), QUICK)
    assert "one label per request" in longer.missing["domains"]
    assert "no token ids" in longer.missing["vocabulary_in"]


# --- throughput ------------------------------------------------------------------------------------------------------


def test_prompts_are_as_in_the_papers_runs() -> None:
    part = prompted(made(8), 100)
    assert part.num_requests == 2  # the first that make 100 tokens
    assert part.phase is not None
    assert part.phase.reshape(2, 64).sum(axis=1).tolist() == [4, 4]  # 15/16 of 64 are 60
    own = prompted(made(8, phase=True), 64)
    assert own.phase is not None
    assert own.phase.tolist() == [0] * 32 + [1] * 32


def test_the_shape_is_the_toys_the_models_own_or_the_one_asked_for() -> None:
    bundled = given("b", RoutingTrace.open("bundled:teacher-forced"))
    assert geometry_for(MeasuredTrace(bundled), QUICK).name == "the paper's baseline"
    assert geometry_for(MeasuredTrace(replace(bundled, paper="toy.nolb")), QUICK).name == "the paper's nolb"
    with pytest.raises(ConfigError, match="63"):
        geometry_for(MeasuredTrace(replace(bundled, paper="toy.share1")), QUICK)
    with pytest.raises(ConfigError, match="--model"):
        geometry_for(MeasuredTrace(given("made", made(8))), QUICK)


# --- the report ------------------------------------------------------------------------------------------------------


def test_specialisation_has_all_three_vocabularies_beside_the_papers() -> None:
    found = [
        measure(given("baseline", made(8, noise=0.2, predicted=True), "toy.baseline"), QUICK),
        measure(given("other", made(8, noise=0.2)), QUICK),
    ]
    section = next(one for one in model_sections(found) if one.name == "specialisation")
    rows = [row for row in section.tables[0].rows if row["trace"] == "baseline"]
    kinds = ["domains", "routed tokens", "predicted tokens", "next tokens"]
    assert [row["specialisation in"] for row in rows] == kinds
    theirs = published().toy["baseline"]["vocabulary_predicted"]
    assert [rows[2]["paper: mean"], rows[2]["paper: correlation"]] == theirs
    assert rows[2]["mean"] == found[0].experts.mean("vocabulary_predicted")  # type: ignore[union-attr]
    assert section.not_there() == ["other: the trace has no predicted token ids, vocabulary specialisation needs them"]


@pytest.mark.parametrize(("predicted", "expected"), [(None, True), ("srp", None), ("noise", True)])
def test_domains_are_held_against_each_vocabulary_that_is_known(predicted: str | None, expected: bool | None) -> None:
    # SRP goes with domains at almost 1, with routed and next tokens hardly: domains win, unless the predicted tokens
    # that the trace may hold go with it as well.
    rng = np.random.default_rng(0)
    values, noise = rng.random((4, 50)), rng.random((4, 50))
    experts = ExpertMeasures(
        segment=16,
        srp=values,
        activation=np.full((4, 50), 0.1),
        domain=values + 0.01 * noise,
        vocabulary_in=rng.random((4, 50)),
        vocabulary_predicted=None if predicted is None else values + 0.01 * noise if predicted == "srp" else noise,
        vocabulary_out=rng.random((4, 50)),
        missing={},
    )
    ((told, holds),) = JUDGES["domains"]([MeasuredTrace(given("x", made(8)), experts=experts)], QUICK)
    assert holds is expected
    assert ("vocabulary predicted" in told) == (predicted is not None)


def test_a_section_lists_its_tables_and_says_once_what_is_missing() -> None:
    section = PaperSection("srp_layer", ["twice", "twice"])
    section.table("srp_layer", [])
    assert section.tables == []
    assert section.markdown("figures").count("* twice") == 1
    assert section.markdown("figures").endswith("No data.")
    section.table("srp_layer_range", [{"x": 1}])
    assert section.tables[0].caption == "Range over layers at m = 16."
    assert published().quantity["layers"]["source"] in section.tables[0].foot
    assert section.markdown("figures").endswith("Data: `data/srp_layer_range.csv`.")


def test_every_finding_has_a_judge_and_every_table_known_sources() -> None:
    assert [one["judge"] for one in words()["claims"]["findings"]] != []
    assert {one["judge"] for one in words()["claims"]["findings"]} == {*JUDGES, "post", "rises"}
    for section in words().values():
        for table in section["tables"].values():
            assert set(table.get("sources", [])) <= set(published().quantity)
            assert set(table) <= {"caption", "sources", "digits", "shown"}


def test_a_difference_counts_only_beside_another_seed() -> None:
    """12 experts a request instead of 8 lower SRP far beyond the interval; how far a seed alone goes takes a seed."""
    base, seed, shared = (
        measure(given(name, made(pool, noise=0.1, seed=pool), key), QUICK)
        for name, pool, key in (
            ("baseline", 8, "toy.baseline"),
            ("baseline.seed1", 9, "toy.baseline"),
            ("share1", 12, "toy.share1"),
        )
    )
    ((told, counts),) = JUDGES["shared"]([base, shared], QUICK)
    assert (counts, told.endswith(", no other seed of the baseline is given")) == (None, True)
    ((told, counts),) = JUDGES["shared"]([base, seed, shared], QUICK)
    assert (counts, "another seed of the baseline is" in told) == (True, True)
    for found, sign in (([base, shared], "undecided"), ([base, seed, shared], "same")):
        section = next(one for one in model_sections(found) if one.name == "designs")
        assert section.tables[0].rows[-1]["sign"] == sign


def test_the_whole_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, pool in (("baseline", 8), ("baseline.seed1", 9), ("share1", 12), ("nolb", 6)):
        made(pool, noise=0.1, seed=pool).save(tmp_path / f"{name}.teacher_forced.h5")
    (tmp_path / "training").mkdir()
    for percent, pool in ((10, 12), (100, 8)):
        made(pool, noise=0.1).save(tmp_path / f"training/baseline.at{percent}.teacher_forced.h5")
    series = [str(tmp_path / f"training/baseline.at{percent}.teacher_forced.h5") for percent in (10, 100)]
    made(8, phase=True).save(tmp_path / "baseline.generated.h5")
    traces = sorted(str(path) for path in tmp_path.glob("*.h5"))
    pair = "baseline.teacher_forced:nolb.teacher_forced"
    out = tmp_path / "out"
    main([*traces, "-o", str(out), "--quick", "--pair", pair, "--series", *series, "--json", "-"])
    printed = json.loads(capsys.readouterr().out)
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert printed == results
    text = (out / "results.md").read_text(encoding="utf-8")
    for name in re.findall(r"\]\((figures/.*?)\)", text):
        assert (out / name).stat().st_size > 5_000
    for name in re.findall(r"`(data/.*?)`", text):
        assert (out / name).read_text(encoding="utf-8").count("\n") > 1
    assert {path.name for path in (out / "data").iterdir()} == {
        f"{n}.csv" for s in results["sections"].values() for n in s["tables"]
    }
    found = {row["the paper"]: row["outcome"] for row in results["sections"]["claims"]["tables"]["claims"]["rows"]}
    assert found["routing is locally consistent"] == "found"
    assert found["shared experts lower it"] == "found"  # 12 experts a request instead of 8
    assert found["in the toy study a model without load-balancing loss has more of it"] == "found"
    assert found["in the toy study a stronger load-balancing loss leaves less of it"] == "not testable"
    assert found["training makes routing more consistent (not of the paper)"] == "found"
    values = results["sections"]["series"]["tables"]["series"]["rows"]
    assert [(row["trace"], row["experts of the last"]) for row in values][-1] == ("baseline.at100.teacher_forced", 1.0)
    changes = {row["measure"]: row for row in results["sections"]["post_training"]["tables"]["post_training"]["rows"]}
    before, after = (results["sections"]["srp"]["tables"]["srp"]["rows"], changes["SRP, m = 16"])
    assert after["before"] in [value for row in before for value in row.values()]
    assert all("at10" not in row["trace"] for row in results["traces"][:-2])
    designs = {row["trace"]: row for row in results["sections"]["designs"]["tables"]["designs"]["rows"]}
    assert designs["baseline.teacher_forced"]["against baseline"] is None
    assert designs["baseline.seed1.teacher_forced"]["sign"] == "another seed"
    assert designs["share1.teacher_forced"]["sign"] == designs["nolb.teacher_forced"]["sign"] == "same"
    shapes = results["sections"]["throughput"]["missing"]
    assert any("baseline.teacher_forced" in line and "MoE layers" in line for line in shapes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.h5"], "missing.h5"),
        (["bundled:teacher-forced", "--pair", "a:b"], "no trace is called 'a'"),
        (["bundled:teacher-forced", "--hardware", "rtx-409", "--quick"], "rtx-4090"),
        (["bundled:teacher-forced", "--figures", "srps"], "there is no figure 'srps'"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "-o", str(tmp_path / "out")])
    assert stop.value.code == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("Error: ")
    assert message in error
    assert not (tmp_path / "out" / "results.md").exists()

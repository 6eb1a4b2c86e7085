"""The paper's figures: names, which models are shown, both kinds of tokens, names beside points, router scores."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("matplotlib")

from matplotlib.text import Text

from lrcsim.experiments.paper import (
    figures_balance,
    figures_cache,
    figures_domains,
    figures_experts,
    figures_models,
    figures_sample,
    figures_series,
    figures_srp,
    figures_two_x,
)
from lrcsim.experiments.paper.__main__ import main
from lrcsim.experiments.paper.figures import MOST, panels, shown_in, shown_models
from lrcsim.experiments.paper.inputs import Input
from lrcsim.experiments.paper.measure import MeasuredTrace, PaperOptions, measure
from lrcsim.experiments.paper.names import REAL, TOYS, models_in, short_name
from lrcsim.experiments.paper.published import key_of, published
from lrcsim.experiments.paper.sample import router_scores
from lrcsim.plots.figure import open_figure
from lrcsim.plots.labels import SIZE, place_names
from lrcsim.plots.settings import WIDTHS, sized
from lrcsim.traces import RoutingTrace

QUICK = PaperOptions(draws=10, segments=(4, 16), hardware=None)


def made(seed: int, *, phase: bool = False) -> RoutingTrace:
    """Two domains of two requests of 40 tokens, 2 layers, 2 of 8 experts, with token ids and weights."""
    rng = np.random.default_rng(seed)
    ids = (rng.random((160, 2, 8)) + 0.5 * rng.random((4, 1, 8)).repeat(40, axis=0)).argsort(axis=2)[:, :, :2]
    trace = RoutingTrace.from_arrays(
        ids,
        num_experts=8,
        offsets=[0, 40, 80, 120, 160],
        domains=["a", "a", "b", "b"],
        token_ids=rng.integers(0, 4, 160),
        weights=np.full(ids.shape, 0.5, np.float32),
        phase=np.tile(np.repeat([0, 1], 20), 4) if phase else None,
    )
    trace.provenance = {"validation_loss": 2.0 + seed}
    return trace


def given_as(variant: str, kind: str = "teacher-forced", seed: int = 0) -> Input:
    label = f"{variant}.{kind.replace('-', '_')}"
    trace = made(seed, phase=kind == "generated")
    return Input(label, variant, kind, trace, key_of(variant, "made"))  # type: ignore[arg-type]


def unmeasured(*variants: str) -> list[MeasuredTrace]:
    kinds = {"g": "generated", "t": "teacher-forced"}
    return [MeasuredTrace(given_as(name, kinds[kind])) for kind, name in (one.split(":") for one in variants)]


@pytest.fixture(scope="module")
def found() -> list[MeasuredTrace]:
    """Two variants of both kinds, another seed, and a model that the paper does not know."""
    sources = [
        *(given_as("baseline", kind) for kind in ("generated", "teacher-forced")),
        given_as("baseline.seed1", seed=1),
        *(given_as("nolb", kind, 2) for kind in ("generated", "teacher-forced")),
        given_as("mine", seed=3),
    ]
    return [measure(source, QUICK) for source in sources]


# --- names -----------------------------------------------------------------------------------------------------------


def test_models_have_the_papers_names() -> None:
    names = [
        model.name for model in models_in(unmeasured("t:share1", "t:share1.seed2", "t:toy-nolb", "t:olmoe", "t:my"))
    ]
    assert names == ["1ShrExp", "1ShrExp (3)", "NoLB", "OLMoE", "my"]
    assert short_name(given_as("share1.seed1", "generated")) == "1ShrExp (2), generated"


def test_every_published_model_has_a_name_and_letters_of_its_own() -> None:
    assert set(published().toy) < set(TOYS)
    assert set(published().real) == set(REAL)
    for names in (TOYS, REAL):
        for column in zip(*names.values(), strict=True):
            assert len(set(column)) == len(column)


def test_traces_of_a_model_are_put_together() -> None:
    models = models_in(unmeasured("g:nolb", "t:mine", "t:nolb", "t:baseline_s1", "g:baseline", "t:nolb_s1"))
    assert [(m.name, m.place, m.seed) for m in models] == [
        *(("Baseline", 0, 0), ("Baseline (2)", 0, 1)),
        *(("NoLB", 1, 0), ("NoLB (2)", 1, 1), ("mine", 2, 0)),
    ]
    kinds = {m.name: [one.source.kind for one in m.traces] for m in models}
    assert kinds["NoLB"] == ["teacher-forced", "generated"]
    assert kinds["Baseline"] == ["generated"]


def test_two_traces_of_one_kind_and_models_of_one_name_are_called_by_their_labels() -> None:
    first, second = unmeasured("t:mine", "t:mine")
    object.__setattr__(second.source, "label", "mine-2")
    assert [model.name for model in models_in([first, second])] == ["mine", "mine-2"]
    one, two = unmeasured("t:nolb", "t:toy-nolb")  # both NoLB
    assert sorted(model.name for model in models_in([one, two])) == ["nolb.teacher_forced", "toy-nolb.teacher_forced"]


def test_every_variant_is_shown_before_a_second_seed() -> None:
    names = [*(f"t:{name}" for name in list(TOYS)[:11]), "t:baseline.seed1", "t:share1.seed1", "g:top2"]
    shown = [model.name for model in shown_models(unmeasured(*names))]
    assert len(shown) == MOST
    assert shown[:2] == ["Baseline", "Baseline (2)"]
    assert "1ShrExp (2)" not in shown
    assert {one.source.kind for one in shown_in(unmeasured(*names))} == {"teacher-forced"}


# --- figures ---------------------------------------------------------------------------------------------------------


@contextmanager
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Give the figures that would be written within, laid out."""
    figures: list[Any] = []

    def keep(figure: Any, path: str) -> None:
        figure.draw_without_rendering()
        figures.append(figure)

    with monkeypatch.context() as patch:
        patch.setattr("lrcsim.plots.figure.write_figure", keep)
        yield figures


DRAWINGS = {
    "srp": figures_srp.srp_by_length,
    "srp_group": figures_srp.group_sizes,
    "srp_layer": figures_srp.by_layer,
    "srp_position": figures_srp.positions,
    "srp_domain": figures_domains.domains,
    "domain_activation": lambda path, found: figures_domains.domain_pairs(path, found, "activation"),
    "domain_consistency": lambda path, found: figures_domains.domain_pairs(path, found, "srp"),
    "srp_expert": figures_experts.experts,
    "specialisation": lambda path, found: figures_experts.specialisation(path, found, "domain"),
    "vocabulary_out": lambda path, found: figures_experts.specialisation(path, found, "vocabulary_out"),
    "specialisation_models": figures_experts.specialisation_of_models,
    "sch": figures_cache.sch_by_size,
    "sch_layer": figures_cache.sch_layers,
    "policies": figures_cache.policies,
    "designs": figures_models.designs,
    "correlations": figures_models.hit_rates,
    "loss": lambda path, found: figures_models.loss(path, [one for one in found if one.source.kind != "generated"]),
    "two_x": figures_two_x.two_x,
    "case": figures_sample.case,
    "sample": figures_sample.sample,
    "balance": figures_balance.local_and_global,
    "pairs": lambda path, found: figures_series.pairs(path, [(found[0], found[-1])]),
    "series": lambda path, found: figures_series.series(path, [found[:3], [found[0], found[-1]]]),
}


@pytest.mark.parametrize("size", WIDTHS)
@pytest.mark.parametrize("name", DRAWINGS)
def test_every_figure_fits_its_page(
    name: str, size: Any, found: list[MeasuredTrace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No words beyond the edge, no title over another, no file names; the height of a page is enough."""
    long = "a-model-whose-name-is-far-too-long-for-any-panel-of-a-column-or-even-of-a-page"
    mine = replace(found[5], source=replace(found[5].source, variant=long, label=long))
    with kept(monkeypatch) as figures, sized(size):
        DRAWINGS[name](str(tmp_path / "a.png"), [*found[:5], mine])
    (figure,) = figures
    wide, high = figure.get_size_inches()
    assert wide == WIDTHS[size]
    assert high <= 9
    titles = [axes.title.get_window_extent() for axes in figure.axes if axes.get_title()]
    legends = [text.get_window_extent() for legend in figure.legends for text in legend.get_texts()]
    ticks = [text.get_window_extent() for axes in figure.axes for text in axes.get_yticklabels() if text.get_visible()]
    for box in (*titles, *legends, *ticks):
        assert box.x0 >= figure.bbox.x0 - 1
        assert box.x1 <= figure.bbox.x1 + 1
    for i, a in enumerate(titles):
        assert not any(a.overlaps(b) for b in titles[:i])
    named = [axis.label for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) if axis.label.get_text()]
    labels = [label.get_window_extent() for label in named if label.get_visible()]
    for i, a in enumerate(labels):
        assert min(a.x0, a.y0) >= -1
        assert (a.x1 <= figure.bbox.x1 + 1, a.y1 <= figure.bbox.y1 + 1) == (True, True)
        assert not any(a.overlaps(b) for b in labels[:i])
    words = "\n".join(text.get_text() for text in figure.findobj(Text))
    assert "teacher_forced" not in words
    assert ".h5" not in words


@pytest.mark.parametrize("name", ["srp", "srp_layer", "srp_position", "sch", "sch_layer", "policies"])
def test_generated_tokens_are_dashed_beside_the_others(
    name: str, found: list[MeasuredTrace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kept(monkeypatch) as figures:
        DRAWINGS[name](str(tmp_path / "a.png"), found[:2])  # one model, both kinds
    dashes = [line.get_linestyle() for line in figures[0].axes[0].lines if len(line.get_xdata()) > 1]
    assert dashes.count("--") > 0
    assert dashes.count("-") >= dashes.count("--")
    assert {"teacher-forced", "generated"} <= {text.get_text() for text in figures[0].legends[0].get_texts()}
    with kept(monkeypatch) as figures:
        DRAWINGS[name](str(tmp_path / "a.png"), found[1:2])
    assert "--" not in [line.get_linestyle() for line in figures[0].axes[0].lines]


def test_two_models_stand_side_by_side_and_few_show_both_kinds(
    found: list[MeasuredTrace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kept(monkeypatch) as figures:
        figures_experts.experts(str(tmp_path / "a.png"), [found[1], found[4]])
        figures_experts.experts(str(tmp_path / "a.png"), [*found[:2], *found[3:5]])
    assert [axes.get_title() for axes in figures[0].axes[:2]] == ["Baseline", "NoLB"]
    assert figures[0].axes[0].get_subplotspec().rowspan == figures[0].axes[1].get_subplotspec().rowspan
    titles = [axes.get_title() for axes in figures[1].axes if axes.get_title()]
    assert titles == ["Baseline", "Baseline, generated", "NoLB", "NoLB, generated"]


def test_beyond_six_models_seeds_share_the_panel_of_their_variant(
    found: list[MeasuredTrace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [MeasuredTrace(given_as(name), srp=found[1].srp) for name in list(TOYS)[:6]] + [found[2], found[5]]
    with kept(monkeypatch) as figures:
        figures_srp.srp_by_length(str(tmp_path / "a.png"), many)
    titles = [axes.get_title() for axes in figures[0].axes if axes.get_title()]
    assert titles == ["Baseline", "FewerExp", "ActMore", "ActFewer", "1ShrExp", "2ShrExp", "mine"]
    assert sum(line.get_alpha() is not None for line in figures[0].axes[0].lines[22:]) >= 1


def test_a_measure_that_is_new_is_drawn_where_it_is_present(
    found: list[MeasuredTrace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Specialisation by predicted tokens comes with traces that hold predictions."""
    measures = found[1].experts
    assert measures is not None
    present = measures.present()
    monkeypatch.setattr(type(measures), "present", lambda self: present | {"vocabulary_predicted": self.srp / 2})
    with kept(monkeypatch) as figures:
        figures_experts.specialisation(str(tmp_path / "a.png"), found[1:2], "vocabulary_predicted")
    theirs = published().toy["baseline"]["vocabulary_predicted"][1]
    assert figures[0].axes[0].get_title() == f"Baseline\nr = +1.00, paper {theirs:+.2f}"


def test_panels_serve_other_figures(found: list[MeasuredTrace], tmp_path: Path) -> None:
    drawn = []
    for axes, one in panels(str(tmp_path / "a.svg"), found):
        axes.plot([0, 1])
        drawn.append(one.label)
    assert drawn == [
        "baseline.teacher_forced",
        "baseline.seed1.teacher_forced",
        "nolb.teacher_forced",
        "mine.teacher_forced",
    ]
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", (tmp_path / "a.svg").read_text(encoding="utf-8"))
    assert [texts.count(name) for name in ("Baseline", "Baseline (2)", "NoLB", "mine")] == [1, 1, 1, 1]


# --- names beside points ---------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=14))
def test_names_lie_neither_over_each_other_nor_beyond_the_axes(points: list[tuple[float, float]]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3, 2))
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set(xlim=(-0.2, 1.2), ylim=(-0.2, 1.2))
    left_out = place_names({axes: [(x, y, f"M{i}") for i, (x, y) in enumerate(points)]})
    assert len(left_out) + len(axes.texts) == len(points)
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in axes.texts]  # without the lines to their points
    for i, a in enumerate(boxes):
        assert a.x0 >= axes.bbox.x0 - 1
        assert a.x1 <= axes.bbox.x1 + 1
        assert not any(a.overlaps(b) for b in boxes[:i])


def test_a_lone_point_has_its_name_on_the_right(tmp_path: Path) -> None:
    with open_figure(str(tmp_path / "a.png"), figsize=(7, 3)) as (_, axes):
        axes.plot(0.5, 0.5, "o")
        axes.set(xlim=(0, 1), ylim=(0, 1))
        assert place_names({axes: [(0.5, 0.5, "BL"), (0.7, 0.7, "")]}) == []
        (text,) = axes.texts
        across, up = text.get_position()
        assert up == 0
        wide = 2 * (across - 3.5)  # it begins 3.5 points beside the point
        assert 1.0 * SIZE < wide < 1.8 * SIZE  # of two letters


# --- router scores ---------------------------------------------------------------------------------------------------


def test_scores_by_hand() -> None:
    # Token 0 gives expert 2 0.75 and expert 0 0.25; token 1 was routed to expert 1 alone (-1: none).
    ids = np.array([[[2, 0]], [[1, -1]]])
    weights = np.array([[[0.75, 0.25]], [[1.0, 0.0]]], np.float32)
    trace = RoutingTrace.from_arrays(ids, num_experts=3, offsets=[0, 2], weights=weights)
    what, scores = router_scores(trace, 0, 2, 0)
    assert what == "weight"
    np.testing.assert_allclose(scores, [[0.25, np.nan, 0.75], [np.nan, 1, np.nan]])
    what, scores = router_scores(RoutingTrace.from_arrays(ids, num_experts=3, offsets=[0, 2]), 0, 2, 0)
    assert what == ""  # nothing but which
    np.testing.assert_allclose(scores, [[1, np.nan, 1], [np.nan, 1, np.nan]])


def test_logits_become_scores_of_all_experts() -> None:
    # softmax of log 1, log 1, log 2
    logits = np.log(np.array([[[1, 1, 2]]], np.float32))
    trace = RoutingTrace.from_arrays(np.array([[[2, 0]]]), num_experts=3, offsets=[0, 1], logits=logits)
    what, scores = router_scores(trace, 0, 1, 0)
    assert what == "router score"
    np.testing.assert_allclose(scores, [[0.25, 0.25, 0.5]], atol=1e-3)


def test_of_several_models_the_most_and_the_least_consistent_are_shown(found: list[MeasuredTrace]) -> None:
    order = sorted(shown_in(found), key=lambda one: one.srp[16].value)
    assert [one for one, _ in figures_sample.chosen(found)] == [order[-1], order[0]]
    (one, high), (same, low) = figures_sample.chosen(found[5:])
    assert one is same
    assert one.case is not None
    assert np.nanmean(one.case[high]) >= np.nanmean(one.case[low])


# --- the command -----------------------------------------------------------------------------------------------------


def test_formats_and_size_and_a_trace_that_allows_few_figures(tmp_path: Path) -> None:
    """Requests of 10 tokens: no segments of 16, so no experts, domains, case study."""
    ids = np.random.default_rng(0).random((40, 1, 8)).argsort(axis=2)[:, :, :2]
    RoutingTrace.from_arrays(ids, num_experts=8, offsets=range(0, 41, 10)).save(tmp_path / "short.h5")
    out = tmp_path / "out"
    some = ["--figures", "srp,loss", "--size", "column", "--format", "pdf,svg,pdf", "--hardware", "none", "--quick"]
    main([str(tmp_path / "short.h5"), "-o", str(out), *some])
    assert sorted(path.name for path in (out / "figures").iterdir()) == ["loss.pdf", "loss.svg", "srp.pdf", "srp.svg"]
    assert b"/MediaBox [ 0 0 237.6 " in (out / "figures" / "srp.pdf").read_bytes()  # 3.3 inches of 72 points
    report = (out / "results.md").read_text(encoding="utf-8")
    assert "![SRP against segment length](figures/srp.svg)" in report  # a page cannot show a PDF
    assert "| short | short | teacher-forced |" in report  # a trace and its name in figures
    main([str(tmp_path / "short.h5"), "-o", str(out), *some[:4], "--format", "pdf", *some[6:]])
    assert "\n[SRP against segment length](figures/srp.pdf)" in (out / "results.md").read_text(encoding="utf-8")


def test_an_unknown_format_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["x.h5", "-o", str(tmp_path / "out"), "--format", "png,sgv"])
    assert "'sgv' is no format of figures, these are: png, svg, pdf; did you mean 'svg'?" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

"""Pages as people see them, in headless Chromium."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_files import POLICIES, Results, html_of, load, unseen

from lrcsim.reports import make_page, read_inputs


class Watched:
    """A page in the browser, and whatever it says or asks for."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.said: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))

    def open(self, path: Path) -> None:
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-drawn]", state="attached")


@pytest.fixture(scope="module")
def report(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a page with every kind of section."""
    page = make_page(read_inputs([results.timed]), unseen, policies=POLICIES)
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html_of(page), encoding="utf-8")
    return path


@pytest.fixture
def view(browser: Any) -> Iterator[Any]:
    """Open a page at a size and in a colour scheme; closed in the end."""
    contexts = []

    def at(path: Path, width: int = 1100, scheme: str = "light") -> Watched:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        watched = Watched(context.new_page())
        watched.open(path)
        return watched

    yield at
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def desktop(browser: Any, report: Path) -> Iterator[Watched]:
    """Give the page on a wide, light screen, opened once: it is large."""
    context = browser.new_context(viewport={"width": 1100, "height": 900}, color_scheme="light")
    watched = Watched(context.new_page())
    watched.open(report)
    yield watched
    context.close()


def expect(found: Any) -> Any:
    """Return assertions that wait for what they say."""
    return pytest.importorskip("playwright.sync_api").expect(found)


def hover(page: Any, figure: str, x: float, y: float) -> Any:
    """Move the mouse to a point of a figure's data; return where tooltips are shown."""
    plot = page.locator(f"#{figure}-plot")
    plot.scroll_into_view_if_needed()
    place = plot.evaluate(
        """(plot, [x, y]) => {
            const {xaxis, yaxis} = plot._fullLayout, box = plot.getBoundingClientRect();
            return [box.x + xaxis._offset + xaxis.d2p(x), box.y + yaxis._offset + yaxis.d2p(y)];
        }""",
        [x, y],
    )
    page.mouse.move(place[0] - 1, place[1])
    page.mouse.move(*place)
    return page.locator(f"#{figure}-plot .hoverlayer")


def test_everything_is_drawn_without_a_word_or_a_request(desktop: Watched, report: Path) -> None:
    page = desktop.page
    titles = page.locator("h2").all_inner_texts()
    assert [title.split(":")[0] for title in titles] == [
        *("Hit rate", "Time", "Every cache size", "Other policies", "Residency", "Local routing consistency"),
        *("Local routing consistency", "Configuration and provenance"),
    ]
    figures = page.locator("figure")
    assert figures.count() == 8
    for figure in figures.all():
        assert figure.locator(".plot .main-svg").first.bounding_box()["width"] > 300
        assert figure.locator("h3").inner_text()
        assert len(figure.locator("figcaption").inner_text()) > 20
        assert figure.locator("details tbody tr").count() > 0  # the numbers, for those who do not see the drawing
    assert "lfu with a cache of 2x" in page.locator("#answer").inner_text()
    assert desktop.said == []
    assert desktop.asked == [report.as_uri()]


def test_tooltips_have_the_values(desktop: Watched, results: Results) -> None:
    rate = load(results.timed)["cache"]["per_layer_hit_rate"][3]
    expect(hover(desktop.page, "run1-layers", 3, rate / 2)).to_have_text(f"layer 3: {100 * rate:.1f}%")
    time = load(results.timed)["time"]
    computing = time["decode_ms_per_token"] * time["decode"]["compute_s"] / time["decode_s"]
    expect(hover(desktop.page, "run1-token", computing / 2, 0)).to_have_text(f"computing{computing:.4g} ms")
    curve = load(results.curve)
    at = curve["relative"].index(2.0)
    tip = hover(desktop.page, "run1-curve-curves", 2.0, 0.5)
    expect(tip).to_contain_text(f"lru : {100 * curve['hit_rate']['lru'][at]:.1f}% (16 experts)")
    expect(tip).to_contain_text(f"belady : {100 * curve['hit_rate']['belady'][at]:.1f}% (16 experts)")


def test_the_map_of_experts_names_what_happened(desktop: Watched) -> None:
    page = desktop.page
    drawn = page.evaluate("document.getElementById('run1-experts-plot').data[0].customdata")
    kinds = ((row, i, kind) for row, every in enumerate(drawn) for i, kind in enumerate(every))
    expert, step = next((row, i) for row, i, kind in kinds if kind == "miss, loaded")
    expect(hover(page, "run1-experts", step, expert)).to_have_text(f"step {step}, expert {expert}: miss, loaded")
    page.select_option("select[data-figure=run1-experts]", label="layer 7")
    other = page.evaluate("document.getElementById('run1-experts-plot').data[0].customdata")
    assert other != drawn


def test_the_legend_hides_a_line(desktop: Watched) -> None:
    lines = desktop.page.locator("#run1-curve-curves-plot .scatterlayer .trace")
    expect(lines).to_have_count(3)
    desktop.page.locator("#run1-curve-curves-plot .legendtoggle").first.click()
    expect(lines).to_have_count(2)
    assert desktop.said == []


def test_the_page_may_not_reach_the_network(desktop: Watched) -> None:
    reached = desktop.page.evaluate("fetch('https://example.org/').then(() => 'reached', () => 'refused')")
    assert reached == "refused"
    assert any("Content Security Policy" in text for text in desktop.said)
    desktop.said.clear()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(view: Any, report: Path, scheme: str) -> None:
    watched = view(report, width=390, scheme=scheme)
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= 390
    for summary in watched.page.locator("summary").all():
        summary.click()
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= 390
    paper = watched.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    assert watched.said == []


def test_print_has_the_answer_and_the_figures(view: Any, report: Path, tmp_path: Path) -> None:
    watched = view(report, scheme="dark")  # paper is white whatever the screen is
    pdf = tmp_path / "report.pdf"
    watched.page.pdf(path=pdf, format="A4")
    assert watched.page.evaluate("'print' in document.documentElement.dataset") is False
    assert watched.said == []
    if shutil.which("pdftotext") is None:
        assert pdf.read_bytes().startswith(b"%PDF")
        return
    text = subprocess.run(["pdftotext", pdf, "-"], capture_output=True, text=True, check=True).stdout
    assert "lfu with a cache of 2x" in " ".join(text.split())
    assert "MoE layer" in text  # the title of an axis: figures are there

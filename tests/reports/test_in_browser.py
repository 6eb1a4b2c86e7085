"""Pages as people see them, in headless Chromium."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_files import POLICIES, Results, embedded, html_of, load, unseen

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


def hover(page: Any, figure: str, across: float, down: float) -> Any:
    """Move the mouse to a place of a figure, in parts of its SVG; return its tooltip."""
    plot = page.locator(f"#{figure}-plot")
    plot.scroll_into_view_if_needed()
    box = plot.locator("svg").bounding_box()
    page.mouse.move(box["x"] + across * box["width"] - 1, box["y"] + down * box["height"])
    page.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"])
    return plot.locator(".tip")


def middle_of(page: Any, figure: str, what: str, number: int = 0) -> tuple[float, float]:
    """Return where the middle of something drawn is, in parts of the figure's SVG."""
    plot = page.locator(f"#{figure}-plot")
    plot.scroll_into_view_if_needed()
    whole, part = plot.locator("svg").bounding_box(), plot.locator(f"svg {what}").nth(number).bounding_box()
    x, y = part["x"] + part["width"] / 2 - whole["x"], part["y"] + part["height"] / 2 - whole["y"]
    return x / whole["width"], y / whole["height"]


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
        assert figure.locator(".plot > svg").bounding_box()["width"] > 300
        assert figure.locator("h3").inner_text()
        assert len(figure.locator("figcaption").inner_text()) > 20
        assert figure.locator("details tbody tr").count() > 0  # the numbers, for those who do not see the drawing
    assert "lfu with a cache of 2x" in page.locator("#answer").inner_text()
    assert desktop.said == []
    assert desktop.asked == [report.as_uri()]


def test_tooltips_have_the_values(desktop: Watched, results: Results) -> None:
    page = desktop.page
    rate = load(results.timed)["cache"]["per_layer_hit_rate"][3]
    tip = hover(page, "run1-layers", *middle_of(page, "run1-layers", "rect", 3))
    expect(tip).to_have_text(f"MoE layer 3: {100 * rate:.1f} %")
    time = load(results.timed)["time"]
    computing = time["decode_ms_per_token"] * time["decode"]["compute_s"] / time["decode_s"]
    tip = hover(page, "run1-token", *middle_of(page, "run1-token", "rect"))
    expect(tip).to_have_text(f"computing, this run: {computing:.4g}")
    curve = load(results.curve)
    at = curve["relative"].index(2.0)
    across, _ = middle_of(page, "run1-curve-curves", ".upright")  # the run has 2x
    tip = hover(page, "run1-curve-curves", across, 0.5)
    expect(tip).to_contain_text("2x (16 experts)")
    expect(tip).to_contain_text(f"lru: {100 * curve['hit_rate']['lru'][at]:.1f} %")
    expect(tip).to_contain_text(f"belady: {100 * curve['hit_rate']['belady'][at]:.1f} %")


def test_bars_are_as_long_as_their_values(desktop: Watched, report: Path) -> None:
    [view] = embedded(report.read_text())["run1-token"]
    values = [value for mark in view["marks"] for value in mark["values"]]
    boxes = [rect.bounding_box() for rect in desktop.page.locator("#run1-token-plot .mark rect").all()]
    per_ms = boxes[0]["width"] / values[0]
    assert [box["width"] for box in boxes] == pytest.approx([per_ms * value for value in values], abs=0.1)
    for before, after in itertools.pairwise(boxes[:3]):  # the parts of a token follow one another
        assert after["x"] == pytest.approx(before["x"] + before["width"], abs=0.1)
    assert {round(box["x"]) for box in boxes[3:]} == {round(boxes[0]["x"])}


def test_the_keyboard_finds_the_values_too(desktop: Watched, results: Results) -> None:
    page, rates = desktop.page, load(results.timed)["cache"]["per_layer_hit_rate"]
    page.locator("#run1-layers-plot").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    tip = page.locator("#run1-layers-plot .tip")
    expect(tip).to_have_text(f"MoE layer 1: {100 * rates[1]:.1f} %")
    assert tip.get_attribute("role") == "status"  # a screen reader says it
    page.keyboard.press("Escape")
    expect(tip).to_be_hidden()


def test_the_map_of_experts_names_what_happened(desktop: Watched, report: Path) -> None:
    page = desktop.page
    first, *_, last = embedded(report.read_text())["run1-experts"]
    [heat] = first["marks"]
    expert, step = next((e, row.index("3")) for e, row in enumerate(heat["rows"]) if "3" in row)
    image = page.locator("#run1-experts-plot image")
    box, whole = image.bounding_box(), page.locator("#run1-experts-plot svg").bounding_box()
    x = box["x"] - whole["x"] + box["width"] * (step + 0.5) / len(heat["rows"][0])
    y = box["y"] - whole["y"] + box["height"] * (expert + 0.5) / len(heat["rows"])
    tip = hover(page, "run1-experts", x / whole["width"], y / whole["height"])
    expect(tip).to_have_text(f"step {step}, expert {expert}: miss, loaded")
    drawn = image.get_attribute("href")
    page.select_option("select[data-figure=run1-experts]", label=last["label"])
    assert image.get_attribute("href") != drawn


def test_the_legend_hides_a_line(desktop: Watched) -> None:
    lines = desktop.page.locator("#run1-curve-curves-plot .mark")
    expect(lines).to_have_count(3)
    button = desktop.page.locator("#run1-curve-curves-legend button").first
    button.click()
    expect(lines).to_have_count(2)
    expect(button).to_have_attribute("aria-pressed", "false")
    button.click()
    expect(lines).to_have_count(3)
    assert desktop.said == []


CONTRAST = """() => {
  const light = (text) => text.match(/[0-9.]+/g).slice(0, 3).map(Number).map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const paper = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (!/, 0\\)$/.test(colour)) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const found = {};
  for (const element of document.querySelectorAll("main *")) {
    if (![...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim())) continue;
    const style = getComputedStyle(element), drawn = element instanceof SVGElement;
    const [a, b] = [light(drawn ? style.fill : style.color), light(paper(element))];
    found[`${element.tagName}.${element.getAttribute("class")}`] = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  }
  return found;
}"""
"""Contrast of text by element, as WCAG 2.1 defines it: https://www.w3.org/TR/WCAG21/#dfn-contrast-ratio"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(view: Any, report: Path, scheme: str) -> None:
    found = view(report, scheme=scheme).page.evaluate(CONTRAST)
    assert len(found) > 15
    assert {what: ratio for what, ratio in found.items() if ratio < 4.5} == {}


def test_headings_are_in_order_and_figures_have_words(desktop: Watched) -> None:
    page = desktop.page
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map((one) => Number(one.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    for plot in page.locator("[role=img]").all():
        for name in plot.get_attribute("aria-labelledby").split():
            assert page.locator(f"#{name}").inner_text()


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
    plain = "".join(text.split())
    assert "lfuwithacacheof2x" in plain
    assert "MoElayer" in plain  # the title of an axis: figures are there
    cells = watched.page.evaluate("[...document.querySelectorAll('td, th')].map((one) => one.textContent)")
    assert len(cells) > 100
    words = {word for cell in cells for word in cell.split()}  # long cells have several lines, beside other cells
    assert {word for word in words if word not in plain} == set()  # no number is cut or left out
    assert watched.page.evaluate("document.querySelectorAll('details[open]').length") == 0

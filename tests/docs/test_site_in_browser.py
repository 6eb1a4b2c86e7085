"""The site as a reader opens it from disk, in headless Chromium: wide and on a phone, light, dark and printed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

PAGES = (
    "index.html", "from-vllm.html", "figures.html", "questions/does-it-fit.html", "questions/which-of-these.html",
    "tutorial.html", "notebook.html", "examples.html", "plan.html", "validation.html", "profiles.html", "cli.html",
    "api/simulator.html", "benchmarks.html", "experiments/paper.html",
)  # fmt: skip
READABLE = 4.5
"""The contrast of text with its ground that WCAG 2.2 asks for, criterion 1.4.3."""
CONTRAST = """all => {
    const light = (text) => {
        const parts = text.match(/[\\d.]+/g).map(Number);
        const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        const [r, g, b] = parts.slice(0, 3).map((v) => linear(v / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const solid = (text) => text !== "transparent" && !/, 0\\)$/.test(text);
    const paper = (node) => {
        for (; node; node = node.parentElement) {
            const found = getComputedStyle(node).backgroundColor;
            if (solid(found)) return found;
        }
        return "rgb(255, 255, 255)";
    };
    const between = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const nodes = all.slice(0, 8).flatMap((code) => [code, ...code.querySelectorAll("span")]);
    const shown = nodes.filter((node) => node.textContent.trim() && node.getClientRects().length);
    return Math.min(21, ...shown.map((node) => between(light(getComputedStyle(node).color), light(paper(node)))));
}"""
"""The least contrast in the first blocks of code of a page, by WCAG's formula."""


class Reader:
    """A page in the browser, whatever it says, and whatever it asks for that is not on this disk."""

    def __init__(self, page: Any, site: Path) -> None:
        self.page, self.site = page, site
        self.said: list[str] = []
        self.fetched: list[str] = []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("requestfailed", self.failed)
        page.on("request", lambda request: self.fetched.append(request.url))

    def failed(self, request: Any) -> None:
        """Note what was not there; what the browser gave up since the page was left is none of it."""
        if request.failure != "net::ERR_ABORTED":
            self.said.append(f"{request.failure}: {request.url}")

    def open(self, name: str) -> None:
        self.said.clear()
        self.fetched.clear()
        self.page.goto((self.site / name).as_uri())

    def fits(self) -> bool:
        """Say whether the page is no wider than its window."""
        return bool(self.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))

    def contrast(self) -> float:
        """Return the least contrast of code, as soon as no colour is on its way to another."""
        self.page.wait_for_function("document.getAnimations().length === 0")
        return float(self.page.locator(".md-typeset pre > code").evaluate_all(CONTRAST))

    def quiet(self) -> bool:
        """Say whether nothing was complained of, and nothing came from elsewhere."""
        return not self.said and {urlsplit(url).scheme for url in self.fetched} <= {"file", "data", "about"}


@pytest.fixture(scope="module", params=["light", "dark"])
def phone(request: pytest.FixtureRequest, browser: Any, site: Path) -> Iterator[Reader]:
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=request.param)
    yield Reader(context.new_page(), site)
    context.close()


@pytest.fixture(scope="module")
def desk(browser: Any, site: Path) -> Iterator[Reader]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="dark")
    yield Reader(context.new_page(), site)
    context.close()


@pytest.mark.parametrize("name", PAGES)
def test_a_phone_shows_it_without_sideways_scrolling(phone: Reader, name: str) -> None:
    phone.open(name)
    assert phone.fits()
    wide = "all => all.filter(at => at.scrollWidth > at.clientWidth + 1).map(at => getComputedStyle(at).overflowX)"
    boxes = phone.page.locator(".md-typeset__scrollwrap, .md-typeset pre > code")
    assert set(boxes.evaluate_all(wide)) <= {"auto", "scroll"}  # what is too wide scrolls within itself
    assert phone.contrast() >= READABLE
    assert phone.quiet(), phone.said


@pytest.mark.parametrize("name", PAGES)
def test_a_desk_shows_it(desk: Reader, name: str) -> None:
    desk.open(name)
    assert desk.fits()
    assert desk.quiet(), desk.said


def test_search_finds_and_opens_a_page_from_disk(desk: Reader) -> None:
    desk.open("questions/which-cache-size.html")  # in a folder: addresses are relative
    desk.page.locator(".md-search__input").click()
    desk.page.keyboard.type("prefetch")
    first = desk.page.locator(".md-search-result__item a").first
    first.wait_for()
    titles = desk.page.locator(".md-search-result__item h1").all_inner_texts()
    assert "Prefetchers" in titles
    first.click()
    desk.page.wait_for_url("**/*.html?h=prefetch*")
    assert "refetch" in desk.page.locator("article mark").first.inner_text()  # what was looked for is marked
    assert desk.quiet(), desk.said


@pytest.mark.parametrize("name", ["questions/does-it-fit.html", "tutorial.html"])
def test_paper_has_the_text_alone_and_loses_none_of_it(desk: Reader, name: str) -> None:
    desk.open(name)
    desk.page.emulate_media(media="print")
    try:
        assert not desk.page.locator(".md-sidebar").first.is_visible()
        assert not desk.page.locator(".md-header").is_visible()
        blocks = desk.page.locator(".md-typeset pre > code")
        wraps = blocks.evaluate_all("all => all.map(at => getComputedStyle(at).whiteSpace)")
        assert set(wraps) == {"pre-wrap"}  # what would scroll on a screen would be cut
        assert desk.contrast() >= READABLE  # the page was dark on the screen
        ground = desk.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground in ("rgb(255, 255, 255)", "rgba(0, 0, 0, 0)")
        assert len(desk.page.pdf()) > 10_000
    finally:
        desk.page.emulate_media(media="screen")
    assert desk.quiet(), desk.said


def test_the_scheme_is_the_reader_s(phone: Reader) -> None:
    phone.open("index.html")
    wanted = phone.page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    shown = phone.page.locator("body").get_attribute("data-md-color-scheme")
    assert shown == ("slate" if wanted else "default")

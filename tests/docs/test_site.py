"""The documentation site builds without a warning, is complete, and needs nothing from elsewhere."""

from __future__ import annotations

import importlib
import re
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("mkdocs")  # in the extras test and docs
ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "errors", "frontier", "hardware", "models", "planner", "policies", "recorder", "reports", "runtimes", "simulator",
    "sweeps", "traces",
)  # fmt: skip
LOADED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "link": "href",
}
QUIET = {"canonical", "prev", "next"}  # links that a browser does not load


class Page(HTMLParser):
    """What a page refers to, and what may be referred to in it."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors |= {value for key in ("id", "name") if (value := given.get(key))}
        if tag == "a" and given.get("href"):
            self.links.append(str(given["href"]))
        if tag in LOADED and given.get(LOADED[tag]) and given.get("rel") not in QUIET:
            self.loaded.append(str(given[LOADED[tag]]))


def parsed(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def test_links_and_anchors_lead_somewhere(site: Path) -> None:
    pages = {path: parsed(path) for path in site.rglob("*.html")}
    assert len(pages) > 25
    broken = []
    for path, page in pages.items():
        for link in page.links + page.loaded:
            split = urlsplit(link)
            if split.scheme or split.netloc or path.name == "404.html":  # 404.html is served from any depth
                continue
            target = (path.parent / unquote(split.path)).resolve() if split.path else path
            if target.is_dir():
                target /= "index.html"
            if not target.is_file():
                broken.append(f"{path.relative_to(site)}: {link}")
            elif split.fragment and target in pages and unquote(split.fragment) not in pages[target].anchors:
                broken.append(f"{path.relative_to(site)}: {link} (no such anchor)")
    assert broken == []


def test_nothing_comes_from_elsewhere(site: Path) -> None:
    """Scripts, styles, pictures and fonts; also what a script of the theme would load for a page that asks for it."""
    outside = defaultdict(list)
    for path in site.rglob("*.html"):
        for address in parsed(path).loaded:
            if urlsplit(address).scheme not in ("", "data") or urlsplit(address).netloc:
                outside[path.name].append(address)
        assert 'class="mermaid"' not in path.read_text(encoding="utf-8"), f"{path}: diagrams are drawn by a script"
    for path in site.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        for address in re.findall(r"url\(\s*['\"]?([^'\")]+)", text) + re.findall(r"@import\s+['\"]([^'\"]+)", text):
            if not address.startswith("data:") and (urlsplit(address).scheme or urlsplit(address).netloc):
                outside[path.name].append(address)
    assert not outside


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_in_the_reference(site: Path, package: str) -> None:
    names = importlib.import_module(f"lrcsim.{package}").__all__
    anchors = parsed(site / "api" / f"{package}.html").anchors
    assert [name for name in names if f"lrcsim.{package}.{name}" not in anchors] == []


def test_every_package_with_public_names_is_in_the_reference() -> None:
    """Those that only hold scripts or the command line are described elsewhere."""
    found = {path.parent.name for path in ROOT.glob("*/__init__.py") if "__all__" in path.read_text(encoding="utf-8")}
    assert found - {"cli", "experiments", "hierarchy"} <= set(PACKAGES)  # the last is an old name of others


def test_every_policy_command_profile_and_model_has_its_place(site: Path) -> None:
    from lrcsim.cli.main import COMMANDS
    from lrcsim.hardware import profile_names
    from lrcsim.models import model_names
    from lrcsim.policies import BUILT_IN
    from lrcsim.simulator.setup.prefetchers import PREFETCHERS

    def headings(name: str) -> list[str]:
        text = (site / name).read_text(encoding="utf-8")
        return re.findall(r"<h[23] id=[^>]*>([^<]+)<", text)

    assert set(BUILT_IN) <= set(headings("policies.html"))
    assert set(PREFETCHERS) <= set(headings("prefetchers.html"))
    assert set(profile_names()) <= set(headings("profiles.html"))
    commands = {heading.split()[1] for heading in headings("cli.html") if heading.startswith("lrcsim ")}
    assert commands == set(COMMANDS)
    models = (site / "models.html").read_text(encoding="utf-8")
    assert [name for name in model_names() if f"<code>{name}</code>" not in models] == []


def test_every_command_of_the_gallery_has_its_pictures(site: Path) -> None:
    """A light one and a dark one each; without the hook the page would build without any, and no warning."""
    commands = re.findall(r"--plot ([\w.-]+?)\.(?:png|svg|pdf)", (ROOT / "docs" / "figures.md").read_text("utf-8"))
    loaded = [Path(urlsplit(target).path) for target in parsed(site / "figures.html").loaded if "figures/" in target]
    assert len(commands) > 15
    assert len(loaded) >= 2 * len(commands)
    assert all((site / target).stat().st_size > 0 for target in loaded)


def test_every_page_is_in_the_navigation(site: Path) -> None:
    """Documents of docs/ and the experiments' READMEs, whether mkdocs.yml names them or not."""
    linked = {(site / unquote(urlsplit(link).path)).resolve() for link in parsed(site / "index.html").links}
    docs = [path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")]
    pages = [str(path).replace("README", "index") for path in docs]
    readmes = [*(ROOT / "experiments").glob("*/README.md"), *(ROOT / "experiments").glob("validation/*/README.md")]
    pages += [f"experiments/{path.parent.name}.html" for path in readmes]
    assert [page for page in pages if (site / page).resolve() not in linked] == []

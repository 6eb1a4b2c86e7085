"""mkdocs hook: pages that stand outside docs/, and links that work both in the repository and on the site.

In the repository a link is relative to the page's own file. Here every such link is resolved against the repository,
and written anew for the place the page has on the site. A link to what a page is made of (a script of examples/, the
folder of the policies) leads to that page; one to another file that is no page becomes its text alone.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGES = {  # path in the repository -> path on the site
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "traces/FORMAT.md": "trace-format.md",
    "benchmarks/NOTES.md": "benchmarks.md",
}
MADE_OF = {  # path in the repository -> the page that another hook makes of it
    "policies": "policies.md",
    "simulator/setup/prefetchers.py": "prefetchers.md",
    "hardware/data/profiles": "profiles.md",
    "models/data": "models.md",
    "runtimes/data": "runtime-keys.md",
    "examples": "examples.md",
    "examples/from_log_to_decision.ipynb": "notebook.md",
}
EXPERIMENTS = "Held against"  # their READMEs go under this heading
PICTURES = {".png", ".svg", ".jpg"}
FENCE = re.compile(r"^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)
SOURCE = re.compile(r'(?P<before>\bsrc(?:set)?=")(?P<target>[^"]+)(?=")')
"""Where an HTML picture lies: those for light and dark pages need HTML."""
LINK = re.compile(r"(?P<text>!?\[(?:[^\[\]]|\[[^\]]*\])*\])\((?P<target>[^)\s]+)\)")


def experiments() -> dict[str, str]:
    """Return the experiments' pages and pictures, by path in the repository; the values are paths on the site."""
    found = {}
    folder = ROOT / "experiments"
    for path in sorted([*folder.glob("*/*"), *folder.glob("validation/*/*")]):
        name = path.relative_to(ROOT).as_posix()
        if path.name == "README.md":
            found[name] = f"experiments/{path.parent.name}.md"
        elif path.suffix == ".md":
            found[name] = f"experiments/{path.parent.name}-{path.stem}.md"
        elif path.suffix in PICTURES:
            found[name] = name
    return found


def places() -> dict[str, str]:
    """Return every page and picture by its path in the repository; the values are paths on the site."""
    docs = ROOT / "docs"
    shown = [*sorted(docs.rglob("*.md")), *sorted(docs.glob("pictures/*.svg"))]
    own = {path.relative_to(ROOT).as_posix(): path.relative_to(docs).as_posix() for path in shown}
    return own | PAGES | experiments()


def made_of() -> dict[str, str]:
    """Return what pages are made of, by its path in the repository; the values are places on the site."""
    scripts = {f"examples/{path.name}": f"examples.md#{path.stem}" for path in (ROOT / "examples").glob("*.py")}
    return MADE_OF | scripts


def title(path: Path) -> str:
    """Return a page's first heading."""
    return next(line.lstrip("# ") for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# "))


def _names(nav: list[Any]) -> set[str]:
    found: set[str] = set()
    for entry in nav:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        found |= _names(value) if isinstance(value, list) else {value}
    return found


def on_config(config: Any) -> Any:
    """Put into the navigation what stands in docs/ and experiments/ and is not named there."""
    placed = _names(config.nav)
    (studies,) = [section[EXPERIMENTS] for section in config.nav if EXPERIMENTS in section]
    more = []
    for path, page in places().items():
        if page in placed or not path.startswith(("docs/", "experiments/")):
            continue
        if path.endswith("/README.md"):
            studies.append({title(ROOT / path): page})
        elif path.startswith("docs/") and path.endswith(".md"):
            more.append({title(ROOT / path): page})
    if more:
        config.nav.append({"More": more})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages and pictures that are not in docs/."""
    from mkdocs.structure.files import File

    for path, place in (PAGES | experiments()).items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:  # noqa: ARG001  # passed by name
    """Write the page's links for the site; a page of a question is short and needs no table of contents."""
    if page.file.src_uri.startswith("questions/"):
        page.meta["hide"] = ["toc"]
    known = places() | made_of()
    here = {place: path for path, place in places().items()}.get(page.file.src_uri)
    if here is None:  # a page made by reference.py or api.py, with links for the site
        return markdown

    def at(path: str) -> str:
        return posixpath.relpath(known[path], posixpath.dirname(page.file.src_uri) or ".")

    def site_source(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(here), match["target"]))
        return match["before"] + (at(path) if path in known else match["target"])

    def site_link(match: re.Match[str]) -> str:
        text, target = match["text"], match["target"]
        path, hash_, anchor = target.partition("#")
        if not path or ":" in path:  # within the page, or elsewhere in the world
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(here), path))
        if path in known:
            return f"{text}({at(path)}{hash_}{anchor})"
        if not (ROOT / path).exists():
            return match[0]  # mkdocs says that it leads nowhere
        return text[1:-1]

    def on_site(text: str) -> str:
        return SOURCE.sub(site_source, LINK.sub(site_link, text))

    parts, end = [], 0
    for fence in FENCE.finditer(markdown):  # code stays as it is
        parts += [on_site(markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, on_site(markdown[end:])])

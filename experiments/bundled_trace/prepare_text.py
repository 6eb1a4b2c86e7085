"""Collect free text of six domains from installed Debian packages: one training and one validation file per domain.

Nothing is downloaded. What is missing is named together with the package that holds it.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

BLOCK_BYTES = 16 * 1024
VALIDATION_EVERY = 20
NOTICE = re.compile(r"copyright|licen[sc]e", re.IGNORECASE)


@dataclass(frozen=True)
class Domain:
    """One domain: where its text comes from, under which licence, and how to read it."""

    name: str
    packages: tuple[str, ...]
    needs: tuple[str, ...]
    source: str
    licence: str
    copyright: str
    read: Callable[[Path], list[str]]


def read_prose(root: Path) -> list[str]:
    """Read the King James Bible, without verse numbers, as the package's own program prints it."""
    command = [str(root / "bin/bible"), "-f", "-p", str(root / "lib"), "gen1:1-rev22:21"]
    printed = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    return ["\n".join(line.partition(" ")[2] for line in printed.splitlines())]


def read_dictionary(root: Path) -> list[str]:
    """Read WordNet as dictionary entries: 'word, word (part of speech): gloss'."""
    entries: list[str] = []
    for part in ("noun", "verb", "adj", "adv"):
        for line in (root / f"share/wordnet/data.{part}").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("  "):
                continue
            head, _, gloss = line.partition(" | ")
            fields = head.split()
            words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
            entries.append(f"{', '.join(words).replace('_', ' ')} ({part}): {gloss.strip()}")
    return ["\n".join(entries)]


def read_without_notices(paths: list[Path]) -> list[str]:
    """Read files, leaving out those that carry a copyright or licence notice of their own."""
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in paths]
    return [text for text in texts if not NOTICE.search(text)]


def read_python(root: Path) -> list[str]:
    """Read Python's standard library, without tables, configuration and other projects' modules."""
    library = root / "lib/python3.11"
    skipped = {"dist-packages", "encodings", "pydoc_data", "__pycache__"}
    paths = [path for path in sorted(library.rglob("*.py")) if not skipped & set(path.relative_to(library).parts)]
    return read_without_notices([path for path in paths if not path.name.startswith("_sysconfigdata")])


def read_c(root: Path) -> list[str]:
    """Read the stb single-file libraries (whole) and CPython's headers."""
    stb = [path.read_text(encoding="utf-8", errors="replace") for path in sorted((root / "include/stb").glob("*.h"))]
    return stb + read_without_notices(sorted((root / "include/python3.11").rglob("*.h")))


def read_mathematics(root: Path) -> list[str]:
    """Read Metamath's set.mm: explanations and statements; compressed proofs are cut out."""
    text = (root / "share/metamath/databases/set.mm").read_text(encoding="utf-8", errors="replace")
    return [re.sub(r"\$=.*?\$\.", "$.", text, flags=re.DOTALL)]


class TextOfPage(HTMLParser):
    """Gathers the text of an HTML page; script, style and drawings are left out."""

    HIDDEN = frozenset({"script", "style", "svg", "title"})
    BREAKS = frozenset({"p", "br", "div", "li", "tr", "h1", "h2", "h3", "h4", "pre", "dt", "dd"})

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Count hidden elements and break lines at blocks."""
        self.hidden += tag in self.HIDDEN
        if tag in self.BREAKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        """Leave a hidden element."""
        self.hidden -= tag in self.HIDDEN and self.hidden > 0

    def handle_data(self, data: str) -> None:
        """Keep visible text."""
        if not self.hidden:
            self.parts.append(data)


def read_documentation(root: Path) -> list[str]:
    """Read SQLite's documentation as plain text, without generated indexes."""
    texts: list[str] = []
    seen_lines: set[str] = set()
    for path in sorted((root / "share/doc/sqlite3").rglob("*.html")):
        if re.search(r"crossref|keyword_index|requirements|docs\.html|sitemap", path.name):
            continue
        page = TextOfPage()
        page.feed(path.read_text(encoding="utf-8", errors="replace"))
        text = re.sub(r"[ \t]+\n", "\n", "".join(page.parts))
        lines: list[str] = []
        for line in re.sub(r"\n{3,}", "\n\n", text).splitlines():
            if len(line) > 40 and line in seen_lines:
                continue  # the same passage is shown on several pages
            seen_lines.add(line)
            lines.append(line)
        texts.append(re.sub(r"\n{3,}", "\n\n", "\n".join(lines)))
    return texts


PYTHON_COPYRIGHT = "Copyright (c) 2001-2023 Python Software Foundation; All Rights Reserved"

DOMAINS = (
    Domain(
        name="prose",
        packages=("bible-kjv", "bible-kjv-text"),
        needs=("bin/bible", "lib/bible.data"),
        source="King James Version of the Bible",
        licence="public domain (1611, copyright expired)",
        copyright="none",
        read=read_prose,
    ),
    Domain(
        name="dictionary",
        packages=("wordnet-base",),
        needs=("share/wordnet/data.noun",),
        source="WordNet 3.0 entries",
        licence="WordNet 3.0 licence (permissive, with a notice)",
        copyright="WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved.",
        read=read_dictionary,
    ),
    Domain(
        name="python",
        packages=("libpython3.11-stdlib",),
        needs=("lib/python3.11/argparse.py",),
        source="Python 3.11 standard library, files without a notice of their own",
        licence="PSF-2.0",
        copyright=PYTHON_COPYRIGHT,
        read=read_python,
    ),
    Domain(
        name="c",
        packages=("libstb-dev", "libpython3.11-dev"),
        needs=("include/stb/stb_image.h", "include/python3.11/Python.h"),
        source="stb libraries; CPython 3.11 headers without a notice of their own",
        licence="stb: public domain (or MIT, at choice); CPython: PSF-2.0",
        copyright=PYTHON_COPYRIGHT,
        read=read_c,
    ),
    Domain(
        name="mathematics",
        packages=("metamath-databases",),
        needs=("share/metamath/databases/set.mm",),
        source="Metamath set.mm, comments and statements without proofs",
        licence="CC0-1.0",
        copyright="none (waived)",
        read=read_mathematics,
    ),
    Domain(
        name="documentation",
        packages=("sqlite3-doc",),
        needs=("share/doc/sqlite3/about.html",),
        source="SQLite documentation",
        licence="public domain",
        copyright="none (dedicated to the public domain)",
        read=read_documentation,
    ),
)


def cut_blocks(text: str) -> list[str]:
    """Cut a text at line ends into blocks of about BLOCK_BYTES characters."""
    blocks: list[str] = []
    lines: list[str] = []
    size = 0
    for line in text.splitlines(keepends=True):
        lines.append(line)
        size += len(line)
        if size >= BLOCK_BYTES:
            blocks.append("".join(lines))
            lines, size = [], 0
    if lines:
        blocks.append("".join(lines))
    return blocks


def package_version(package: str) -> str:
    """Ask for the installed version of a Debian package: 'unknown' where dpkg cannot tell."""
    try:
        command = ["dpkg-query", "--show", "--showformat=${Version}", package]
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def main() -> None:
    """Write <out>/<domain>.{train,val}.txt and <out>/sources.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="where Debian packages are installed, e.g. /usr")
    parser.add_argument("--out", type=Path, required=True, help="folder for the text")
    parser.add_argument("--max-bytes", type=int, default=6_000_000, help="at most this much text of each domain")
    arguments = parser.parse_args()

    missing = [d.packages for d in DOMAINS if not all((arguments.root / need).exists() for need in d.needs)]
    if missing:
        sys.exit("missing: apt-get install " + " ".join(package for packages in missing for package in packages))

    arguments.out.mkdir(parents=True, exist_ok=True)
    sources: dict[str, object] = {}
    for domain in DOMAINS:
        blocks = cut_blocks("\n\n".join(domain.read(arguments.root)))
        wanted = min(len(blocks), arguments.max_bytes // BLOCK_BYTES)
        blocks = [blocks[i * len(blocks) // wanted] for i in range(wanted)]
        held_out = blocks[VALIDATION_EVERY // 2 :: VALIDATION_EVERY]
        training = [block for i, block in enumerate(blocks) if i % VALIDATION_EVERY != VALIDATION_EVERY // 2]
        for split, part in (("train", training), ("val", held_out)):
            (arguments.out / f"{domain.name}.{split}.txt").write_text("".join(part), encoding="utf-8")
        sources[domain.name] = {
            "source": domain.source,
            "licence": domain.licence,
            "copyright": domain.copyright,
            "packages": {package: package_version(package) for package in domain.packages},
            "train_characters": sum(map(len, training)),
            "validation_characters": sum(map(len, held_out)),
        }
        print(domain.name, sources[domain.name])
    (arguments.out / "sources.json").write_text(json.dumps(sources, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

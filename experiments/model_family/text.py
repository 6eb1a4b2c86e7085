"""Free text of six domains from installed Debian packages: one training and one validation file per domain.

Token ids can be turned back to text, and the traces hold token ids, so every source is in the public domain (or CC0),
or may be used as if it were: nobody needs to be asked or named. Nothing is downloaded; what is missing is named with
its package.
"""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import tomllib
from collections.abc import Callable
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

from lrcsim.base.errors import ConfigError

BLOCK_BYTES = 16 * 1024
VALIDATION_EVERY = 20
MOST_BYTES = 6_000_000
"""At most this much text of each domain."""
NOTICE = re.compile(r"copyright|licen[sc]e", re.IGNORECASE)


def read_prose(root: Path) -> list[str]:
    """Read the King James Bible, without verse numbers, as the package's own program prints it."""
    command = [str(root / "bin/bible"), "-f", "-p", str(root / "lib"), "gen1:1-rev22:21"]
    printed = subprocess.run(command, capture_output=True, check=True, text=True, encoding="utf-8").stdout
    return ["\n".join(line.partition(" ")[2] for line in printed.splitlines())]


DICT_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def read_dict(path: Path) -> str:
    """Read a dictionary of the DICT protocol: its entries in their order, without its own description.

    An index line is: headword, offset and length in the uncompressed file, in base-64 digits.
    """

    def number(digits: str) -> int:
        value = 0
        for digit in digits:
            value = 64 * value + DICT_DIGITS.index(digit)
        return value

    data = gzip.decompress(path.with_suffix(".dict.dz").read_bytes())
    places = set()
    for line in path.with_suffix(".index").read_text(encoding="utf-8").splitlines():
        word, offset, length = line.split("\t")
        if not word.startswith("00"):
            places.add((number(offset), number(length)))
    return "\n".join(data[start : start + size].decode("utf-8", "replace") for start, size in sorted(places))


def read_dictionary(root: Path) -> list[str]:
    """Read the Jargon File and the Devil's Dictionary."""
    return [read_dict(root / "share/dictd/jargon"), read_dict(root / "share/dictd/devil")]


def read_python(root: Path) -> list[str]:
    """Read the modules of yt-dlp, without tables and files that carry a notice of their own."""
    folder = root / "lib/python3/dist-packages/yt_dlp"
    paths = [path for path in sorted(folder.rglob("*.py")) if path.name != "lazy_extractors.py"]
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in paths]
    return [text for text in texts if not NOTICE.search(text)]


def read_c(root: Path) -> list[str]:
    """Read the stb single-file libraries."""
    return [path.read_text(encoding="utf-8", errors="replace") for path in sorted((root / "include/stb").glob("*.h"))]


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


READERS: dict[str, Callable[[Path], list[str]]] = {
    "prose": read_prose,
    "dictionary": read_dictionary,
    "python": read_python,
    "c": read_c,
    "mathematics": read_mathematics,
    "documentation": read_documentation,
}
"""By domain of text.toml: its texts, from the root of the installed packages."""


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
        return subprocess.run(command, capture_output=True, check=True, text=True, encoding="utf-8").stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def prepare(out: Path, root: Path = Path("/usr")) -> list[str]:
    """Write <out>/<domain>.{train,val}.txt and, last, <out>/sources.json; do nothing where that is there.

    Returns:
        The names of the domains.

    Raises:
        ConfigError: a package is not installed.
    """
    if (out / "sources.json").exists():
        return list(json.loads((out / "sources.json").read_text(encoding="utf-8")))
    about = tomllib.loads(resources.files("lrcsim.experiments.model_family").joinpath("text.toml").read_text("utf-8"))
    absent = [domain for domain in about.values() if not all((root / need).exists() for need in domain["needs"])]
    if absent:
        names = " ".join(package for domain in absent for package in domain["packages"])
        raise ConfigError(f"the text to train on is not all there: apt-get install {names}")
    out.mkdir(parents=True, exist_ok=True)
    sources: dict[str, object] = {}
    for name, domain in about.items():
        blocks = cut_blocks("\n\n".join(READERS[name](root)))
        wanted = min(len(blocks), MOST_BYTES // BLOCK_BYTES)
        blocks = [blocks[i * len(blocks) // wanted] for i in range(wanted)]
        held_out = blocks[VALIDATION_EVERY // 2 :: VALIDATION_EVERY]
        training = [block for i, block in enumerate(blocks) if i % VALIDATION_EVERY != VALIDATION_EVERY // 2]
        for split, part in (("train", training), ("val", held_out)):
            (out / f"{name}.{split}.txt").write_text("".join(part), encoding="utf-8")
        sources[name] = {
            "source": domain["source"],
            "licence": domain["licence"],
            "packages": {package: package_version(package) for package in domain["packages"]},
            "train_characters": sum(map(len, training)),
            "validation_characters": sum(map(len, held_out)),
        }
    (out / "sources.json").write_text(json.dumps(sources, indent=2) + "\n", encoding="utf-8")
    return list(sources)

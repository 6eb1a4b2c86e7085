"""Find runtimes, and write one as TOML."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from os.path import isfile  # unlike that of Path, it takes a name that is too long
from pathlib import Path

from lrcsim.base.documents import parse_toml, read_text
from lrcsim.base.errors import ConfigError, did_you_mean
from lrcsim.base.units import format_quantity
from lrcsim.runtimes.document import RuntimeDocument, read_document
from lrcsim.runtimes.runtime import IDEAL, PARTS, Runtime, keys

DATA = resources.files("lrcsim.runtimes").joinpath("data")


@cache
def runtimes() -> dict[str, RuntimeDocument]:
    """Return the built-in runtimes by name, ``ideal`` first."""
    found = {IDEAL.name: RuntimeDocument(IDEAL.name, IDEAL.description, released=False)}
    for entry in sorted(DATA.iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".toml"):
            name = entry.name.removesuffix(".toml")
            found[name] = read_document(name, tomllib.loads(entry.read_text("utf-8")), f"runtime {name}")
    return found


def runtime_names() -> list[str]:
    """Return the names of the built-in runtimes."""
    return list(runtimes())


def load_runtime(spec: str | Path) -> RuntimeDocument:
    """Read a runtime.

    Args:
        spec: a built-in name (case does not matter), or the path of a TOML file.

    Raises:
        ConfigError: nothing of that name, or a value that is unknown or wrong; one line.
    """
    text = str(spec)
    known = {name.lower(): document for name, document in runtimes().items()}
    if text.lower() in known:
        return known[text.lower()]
    path = Path(text)
    if path.suffix == ".toml" or isfile(path):
        where = f"runtime {text}"
        return read_document(path.stem, parse_toml(read_text(path, where, ConfigError), where, ConfigError), where)
    hint = did_you_mean(text, known) or f"; there are {', '.join(runtime_names())}"
    raise ConfigError(f"there is no runtime {text!r}: give a built-in name or the path of a TOML file{hint}")


def written(path: str, value: object) -> str:
    """Return a number at a path, ``"device.layer"``, as a document has it: ``"76 us"``."""
    part, _, key = path.partition(".")
    kind = keys(part)[key.rpartition(".")[2]].kind
    if kind == "share":
        return f"{100 * float(str(value)):.6g} %"
    if kind == "seconds/byte":
        return f"{1e9 * float(str(value)):.6g} ms/MB"
    if kind in ("seconds", "bytes/s"):
        return format_quantity(float(str(value)), kind)
    return str(value).lower() if isinstance(value, bool) else str(value)


def to_toml(runtime: Runtime) -> str:
    """Write what a runtime makes of one machine as a document that `load_runtime` reads to the same numbers."""
    lines = [f"description = {_quoted(runtime.description)}"]
    for part in PARTS:
        rows = []
        for key, about in keys(part).items():
            value = runtime.at(f"{part}.{key}")
            if value is None or value == getattr(PARTS[part](), key):
                continue
            text = written(f"{part}.{key}", value)
            shown = text if about.kind in ("count", "flag") else _quoted(text)
            source = runtime.sources.get(f"{part}.{key}", "")
            rows.append(f"{key} = {{ value = {shown}, source = {_quoted(source)} }}" if source else f"{key} = {shown}")
        lines += ["", f"[{part}]", *rows] if rows else []
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in escaped) + '"'

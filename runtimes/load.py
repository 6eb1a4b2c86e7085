"""Find runtimes, and write one as TOML."""

from __future__ import annotations

import tomllib
from decimal import Decimal
from functools import cache
from importlib import resources
from os.path import isfile  # unlike that of Path, it takes a name that is too long
from pathlib import Path

from lrcsim.base.documents import parse_toml, read_text, toml_text
from lrcsim.base.errors import ConfigError, did_you_mean
from lrcsim.base.units import format_quantity
from lrcsim.runtimes.document import RuntimeDocument, per_byte, read_document
from lrcsim.runtimes.runtime import IDEAL, PARTS, Runtime, keys

DATA = resources.files("lrcsim.runtimes").joinpath("data")


@cache
def runtimes() -> dict[str, RuntimeDocument]:
    """Return the built-in runtimes by name, ``ideal`` first."""
    found = {IDEAL.name: RuntimeDocument(IDEAL.name, IDEAL.description, released=False)}
    tables = {
        entry.name.removesuffix(".toml"): tomllib.loads(entry.read_text("utf-8"))
        for entry in sorted(DATA.iterdir(), key=lambda entry: entry.name.removesuffix(".toml"))
        if entry.name.endswith(".toml")
    }
    for name, table in sorted(tables.items(), key=lambda item: "base" in item[1]):  # those that others are based on
        found[name] = read_document(name, table, f"runtime {name}", found)
    return {name: found[name] for name in (IDEAL.name, *tables)}


def runtime_names() -> list[str]:
    """Return the names of the built-in runtimes."""
    return list(runtimes())


def read_toml(name: str, text: str) -> RuntimeDocument:
    """Read a runtime of a ``name`` from the ``text`` that `to_toml` wrote.

    Raises:
        ConfigError: it is not TOML, or a value is unknown or wrong; one line.
    """
    where = f"runtime {name}"
    return read_document(name, parse_toml(text, where, ConfigError), where)


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
        table = parse_toml(read_text(path, where, ConfigError), where, ConfigError)
        return read_document(path.stem, table, where, runtimes())
    hint = did_you_mean(text, known) or f"; there are {', '.join(runtime_names())}"
    raise ConfigError(f"there is no runtime {text!r}: give a built-in name or the path of a TOML file{hint}")


def written(path: str, value: object) -> str:
    """Return a number at a path, ``"device.layer"``, as a document has it, exactly: ``"76 us"``."""
    part, _, key = path.partition(".")
    kind = keys(part)[key.rpartition(".")[2]].kind
    if kind == "share":
        return f"{_plain(Decimal(repr(value)) * 100)} %"
    if kind == "seconds/byte":
        text = f"{_plain(Decimal(repr(value)) * 10**9)} ms/MB"
        return text if per_byte(text) == value else f"{value!r} s/B"
    if kind in ("seconds", "bytes/s"):
        return format_quantity(float(str(value)), kind)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _plain(number: Decimal) -> str:
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def to_toml(runtime: Runtime | RuntimeDocument) -> str:
    """Write a runtime, or one on a machine, as a document that `load_runtime` reads to the same numbers."""
    lines = [f"description = {toml_text(runtime.description)}"]
    if isinstance(runtime, RuntimeDocument):
        for name in ("engine", "url", "released", "formats", "strategies", "devices"):
            value = getattr(runtime, name)
            if value != getattr(RuntimeDocument(""), name):
                lines.append(f"{name} = {_literal(value)}")
        numbers = runtime.numbers
    else:
        numbers = {f"{part}.{key}": runtime.at(f"{part}.{key}") for part in PARTS for key in keys(part)}
        numbers = {path: value for path, value in numbers.items() if value != IDEAL.at(path)}
    tables: dict[str, list[str]] = {}
    for path, value in numbers.items():
        table, _, key = path.rpartition(".")
        text, source = written(path, value), runtime.sources.get(path, "")
        shown = text if keys(path.partition(".")[0])[key].kind in ("count", "flag") else toml_text(text)
        line = f"{key} = {{ value = {shown}, source = {toml_text(source)} }}" if source else f"{key} = {shown}"
        tables.setdefault(table, ["", f"[{table}]"]).append(line)
    cores = runtime.cores if isinstance(runtime, RuntimeDocument) else {runtime.isa: runtime.core}
    for isa, rates in cores.items():
        for name, rate in rates.items():
            path = f"core.{isa}.{name}" if isinstance(runtime, RuntimeDocument) else f"core.{name}"
            source = f", source = {toml_text(text)}" if (text := runtime.sources.get(path, "")) else ""
            decode, prompt = format_quantity(rate.decode, "bytes/s"), format_quantity(rate.prompt, "FLOP/s")
            line = f"{name} = {{ decode = {toml_text(decode)}, prompt = {toml_text(prompt)}{source} }}"
            tables.setdefault(f"core.{isa}", ["", f"[core.{isa}]"]).append(line)
    return "\n".join([*lines, *(line for table in tables.values() for line in table)]) + "\n"


def _literal(value: str | bool | tuple[str, ...]) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(toml_text, value))}]"
    return str(value).lower() if isinstance(value, bool) else toml_text(value)

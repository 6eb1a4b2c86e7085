"""A runtime's TOML document, and what it says of one machine.

description = "..."
released = true
strategies = ["all-resident", "n-cpu-moe"]

[device]                    # for any device
layer = { value = "60 us", source = "..." }
[device.metal]              # and where it differs, by kind of device
layer = "118 us"
[cpu.desktop]               # by class of processor
share = "108 %"
[loads]
overlap = "none"
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from typing import Any

from lrcsim.base.errors import ConfigError, check_choice, did_you_mean
from lrcsim.base.units import parse_quantity
from lrcsim.hardware import HardwareProfile
from lrcsim.models.formats import find_format, format_names
from lrcsim.runtimes.machine_kinds import CPU_CLASSES, DEVICE_KINDS, cpu_class, device_kind
from lrcsim.runtimes.runtime import OVERLAPS, PARTS, CoreRate, Key, Kind, Runtime, keys

VARIANTS: dict[str, tuple[str, ...]] = {"device": DEVICE_KINDS, "cpu": CPU_CLASSES, "loads": DEVICE_KINDS}
"""What a part may have numbers of its own for."""

CORE_KINDS: dict[str, Kind] = {"decode": "bytes/s", "prompt": "FLOP/s"}
INSTRUCTION_SETS = ("avx2", "avx512", "neon")
LESSER: dict[str, tuple[str, ...]] = {"avx512": ("avx2",)}
"""Instruction sets whose rates hold where there are none of one's own: it has them too."""

TEXTS = ("description", "url", "engine", "base")
FORMATS = ("gguf", "checkpoint", "mlx", "any")


@dataclass(frozen=True)
class RuntimeDocument:
    """A runtime on every machine.

    Attributes:
        name: of the built-in runtime, or the stem of its file.
        description: one line for people.
        engine: the program, as command lines name it.
        url: where it is found.
        released: whether people can install it and have all this; a fork or a proposal is not.
        strategies: ways of running a model that it has, as `lrcsim plan` names them; empty: any.
        devices: kinds of device that it runs on; empty: any.
        formats: of weights that it takes: ``"gguf"``, ``"checkpoint"``, ``"mlx"``, ``"any"``.
        numbers: by path, ``"device.layer"`` or ``"device.metal.layer"``.
        sources: where each number is from, by the same path.
        cores: what one core gets through, by instruction set and format.
    """

    name: str
    description: str = ""
    engine: str = ""
    url: str = ""
    released: bool = True
    strategies: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    formats: str = "any"
    numbers: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    cores: dict[str, dict[str, CoreRate]] = field(default_factory=dict)

    def on(self, profile: HardwareProfile) -> Runtime:
        """Return what it makes of a machine: the numbers of its kind of device and its class of processor.

        Raises:
            ConfigError: it does not run on such a device, or the profile says a kind that is not known.
        """
        if not self.numbers and not self.cores and not self.devices:
            return Runtime(self.name, self.description)
        kind = device_kind(profile)
        if self.devices and kind not in self.devices:
            raise ConfigError(
                f"runtime {self.name} runs on {', '.join(self.devices)}, and {profile.name} is {kind}: "
                "take another runtime (lrcsim runtimes) or another machine"
            )
        chosen = {"device": kind, "cpu": cpu_class(profile), "loads": kind}
        parts: dict[str, Any] = {}
        sources: dict[str, str] = {}
        for part, made in PARTS.items():
            values = {}
            for key in keys(part):
                for path in (f"{part}.{chosen[part]}.{key}", f"{part}.{key}"):
                    if path in self.numbers:
                        values[key] = self.numbers[path]
                        sources[f"{part}.{key}"] = self.sources.get(path, "")
                        break
            parts[part] = made(**values)
        isa = next((name for name in (profile.cpu.isa, *LESSER.get(profile.cpu.isa, ())) if name in self.cores), "")
        core = self.cores.get(isa, {})
        sources |= {f"core.{name}": self.sources.get(f"core.{isa}.{name}", "") for name in core}
        return Runtime(self.name, self.description, **parts, core=core, isa=isa, sources=sources)

    def offers(self, strategy: str, profile: HardwareProfile) -> bool:
        """Return whether it has a way of running a model, the ``strategy``, on the device of a ``profile``."""
        here = not self.devices or device_kind(profile) in self.devices
        return here and (not self.strategies or strategy in self.strategies)


def read_document(
    name: str, table: Mapping[str, Any], where: str, built_in: Mapping[str, RuntimeDocument] | None = None
) -> RuntimeDocument:
    """Read and check a document.

    Args:
        name: the runtime's.
        table: the TOML.
        where: what messages begin with.
        built_in: runtimes that it may be based on.

    Raises:
        ConfigError: a key is unknown, a value of the wrong kind or out of bounds.
    """
    about: dict[str, Any] = {}
    numbers: dict[str, Any] = {}
    sources: dict[str, str] = {}
    cores: dict[str, dict[str, CoreRate]] = {}
    for key, value in table.items():
        if key in PARTS:
            _read_part(key, value, where, numbers, sources)
        elif key == "core":
            cores = _read_cores(value, where, sources)
        else:
            about[key] = _about(key, value, where)
    base = _base(about.pop("base", ""), built_in or {}, where)
    kept = {path: value for path, value in base.numbers.items() if not _said(path, numbers)}
    return replace(
        base,
        name=name,
        **about,
        numbers=kept | numbers,
        sources={path: text for path, text in base.sources.items() if not _said(path, numbers)} | sources,
        cores=base.cores | {isa: base.cores.get(isa, {}) | rates for isa, rates in cores.items()},
    )


def _base(name: str, built_in: Mapping[str, RuntimeDocument], where: str) -> RuntimeDocument:
    if not name:
        return RuntimeDocument("")
    if name not in built_in:
        hint = did_you_mean(name, built_in) or f"; there are {', '.join(built_in)}"
        raise ConfigError(f"{where}: base: {name!r} is no built-in runtime{hint}")
    return built_in[name]


def _said(path: str, numbers: Mapping[str, Any]) -> bool:
    """Return whether a number is given anew: at its own path, or for all kinds of machine."""
    part, _, rest = path.partition(".")
    return path in numbers or f"{part}.{rest.rpartition('.')[2]}" in numbers


def _read_part(part: str, table: object, where: str, numbers: dict[str, Any], sources: dict[str, str]) -> None:
    for key, value in _table(part, table, where).items():
        entries = {f"{part}.{key}": value}
        if key in VARIANTS[part]:
            entries = {f"{part}.{key}.{inner}": one for inner, one in _table(f"{part}.{key}", value, where).items()}
        for path, given in entries.items():
            name = path.rpartition(".")[2]
            known = keys(part)
            if name not in known:
                choices = [*known, *(VARIANTS[part] if path.count(".") == 1 else ())]
                hint = did_you_mean(name, choices) or f"; there are {', '.join(choices)}"
                raise ConfigError(f"{where}: {path} is no number of a runtime{hint}")
            plain, source = _entry(path, given, where)
            numbers[path] = _read(path, known[name], plain, where)
            if source:
                sources[path] = source


def _read_cores(table: object, where: str, sources: dict[str, str]) -> dict[str, dict[str, CoreRate]]:
    """Read ``[core.ISA]``: rates by format of weights."""
    found: dict[str, dict[str, CoreRate]] = {}
    for isa, formats in _table("core", table, where).items():
        check_choice(f"{where}: core: instruction set", isa, INSTRUCTION_SETS)
        found[isa] = {}
        for name, entry in _table(f"core.{isa}", formats, where).items():
            path = f"core.{isa}.{name}"
            if find_format(name) is None:
                hint = did_you_mean(name, format_names())
                raise ConfigError(f"{where}: {path}: {name!r} is no format of weights{hint}")
            if not isinstance(entry, Mapping) or not {*CORE_KINDS} <= {*entry} <= {*CORE_KINDS, "source"}:
                raise ConfigError(
                    f'{where}: {path}: write {{ decode = "17 GB/s", prompt = "63 GFLOP/s", source = "..." }}'
                )
            rates = [_read(path, Key(kind, ""), entry[key], where) for key, kind in CORE_KINDS.items()]
            found[isa][name] = CoreRate(*rates)
            if entry.get("source"):
                sources[path] = str(entry["source"])
    return found


def _about(key: str, value: object, where: str) -> Any:
    known = [*TEXTS, "released", "strategies", "devices", "formats", *PARTS, "core"]
    if key not in known:
        hint = did_you_mean(key, known) or f"; there are {', '.join(known)}"
        raise ConfigError(f"{where}: {key} is no key of a runtime{hint}")
    if key == "released":
        if not isinstance(value, bool):
            raise ConfigError(f"{where}: released: {value!r} is neither true nor false")
        return value
    if key in ("strategies", "devices"):
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise ConfigError(f'{where}: {key}: {value!r} is no list of names: write ["...", "..."]')
        for one in value if key == "devices" else ():
            check_choice(f"{where}: devices", one, DEVICE_KINDS)
        return tuple(value)
    if not isinstance(value, str):
        raise ConfigError(f"{where}: {key}: {value!r} is no text")
    if key == "formats":
        check_choice(f"{where}: formats", value, FORMATS)
    return value


def _table(path: str, value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: {path} is no table: write [{path}], and its numbers below it")
    return value


def _entry(path: str, value: object, where: str) -> tuple[object, str]:
    if not isinstance(value, Mapping):
        return value, ""
    source = value.get("source", "")
    if set(value) - {"value", "source"} or "value" not in value or not isinstance(source, str):
        raise ConfigError(f'{where}: {path} is a table: write {{ value = ..., source = "..." }} or the plain value')
    return value["value"], source


def _read(path: str, key: Key, given: object, where: str) -> Any:
    try:
        if key.kind == "overlap":
            check_choice("overlap", given, OVERLAPS)
            return given
        if key.kind == "flag":
            if not isinstance(given, bool):
                raise ConfigError(f"{given!r} is neither true nor false")
            return given
        if key.kind == "count":
            if isinstance(given, bool) or not isinstance(given, int) or given < 1:
                raise ConfigError(f"{given!r} is no whole number of at least 1")
            return given
        if key.kind == "share":
            return _share(given)
        if key.kind == "seconds/byte":
            return per_byte(given)
        value = parse_quantity(given, key.kind)
        if key.kind in ("bytes/s", "FLOP/s") and value == 0:
            raise ConfigError(f"{given!r} must be above 0")
        return value
    except ConfigError as error:
        raise ConfigError(f"{where}: {path}: {error}") from None


def _share(given: object) -> float:
    """Read ``"83 %"``."""
    text = str(given).strip()
    try:  # decimal: 83 % is 0.83, the float nearest to it
        value = float(Decimal(text.removesuffix("%").strip()) / 100) if text.endswith("%") else -1.0
    except InvalidOperation:
        value = -1.0
    if not 0 < value <= 4:
        raise ConfigError(f'{given!r} is no share: write "83 %", above 0 % and at most 400 %')
    return value


def per_byte(given: object) -> float:
    """Read ``"0.12 ms/MB"``: a time over a size."""
    time, slash, size = str(given).partition("/")
    if given == 0 and not isinstance(given, bool):
        return 0.0
    if not slash:
        raise ConfigError(f'{given!r} is no time per size: write "0.12 ms/MB"')
    amount = parse_quantity(size.strip() if size.strip()[:1].isdigit() else f"1 {size.strip()}", "bytes")
    if amount == 0:
        raise ConfigError(f"{given!r}: the size must be above 0")
    seconds = parse_quantity(time.strip(), "seconds")
    return float(Decimal(repr(seconds)) / Decimal(repr(amount)))

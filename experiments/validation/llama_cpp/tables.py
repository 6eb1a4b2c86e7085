"""The results as Markdown tables: medians over the rounds, p10 to p90 in brackets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lrcsim.base.tables import Table

Row = dict[str, Any]


def as_markdown(result: Row) -> str:
    """Return everything that was measured, as people read it."""
    work, measured = result["work"], result["measured"]
    speed = (
        f"speeds in tokens/s of the thread's processor time; prompt of {work['prompt']}, then {work['decode']} decoded"
    )
    tables = [
        Table(part, f"{part.capitalize()}: {speed}.", list(_models(measured, work, part)))
        for part in ("decode", "prompt")
    ]
    tables.append(Table("profile", "What the machine was in those rounds.", list(_profile(measured))))
    if measured["lines"]:
        caption = "Seconds of a token = bytes / bandwidth + layers x cost, through the two models of each round."
        tables.append(Table("lines", caption, [_line(name, line) for name, line in measured["lines"].items()]))
    if result["formats"]:
        caption = "Experts of each format, one core: what the 6 of 8 experts add that a token has in one of two models."
        tables.append(Table("formats", caption, [_format(one) for one in result["formats"]]))
    return "\n\n".join(table.markdown() for table in tables) + "\n"


def _models(measured: Row, work: Row, part: str) -> Iterator[Row]:
    """Yield the rows of ``"prompt"`` or of ``"decode"``."""
    key, tokens = ("prompt", work["prompt"]) if part == "prompt" else ("token", 1)
    for model in measured["models"]:
        for variant, found in model["variants"].items():
            row = {
                "model": f"{model['model']} {model['dtype']}",
                "variant": variant,
                "measured": _speed(tokens, found[f"{key}_s"]),
                "on the wall": _speed(tokens, found[f"{key}_wall_s"]),
            }
            for name in ("plan", "run", "by_format"):
                says = found.get(name)
                shown = name.replace("_", " ")
                row[shown] = says and f"{tokens / says[f'{key}_s']:.1f}"
                row[f"error of {shown}"] = says and f"{100 * says[f'{part}_error']:+.1f} %"
            if part == "decode":
                rate = model["token_bytes"] / found["token_s"]["median"]
                row["GB/s"] = f"{rate / 1e9:.1f}"
                row["of what a core reads"] = f"{100 * rate / measured['core_reads']['median']:.0f} %"
            yield row


def _profile(measured: Row) -> Iterator[Row]:
    units = {"bandwidth": (1e-9, "GB/s"), "compute": (1e-9, "GFLOP/s"), "overhead": (1e6, "us")}
    for path, found in measured["machine"].items():
        scale, unit = units[path.rpartition(".")[2]]
        yield {"number": path, "median (p10 to p90)": f"{_scaled(found, scale)} {unit}"}
    yield {"number": "a core reads", "median (p10 to p90)": f"{_scaled(measured['core_reads'], 1e-9)} GB/s"}


def _line(variant: str, line: Row) -> Row:
    return {
        "variant": variant,
        "GB/s": _scaled(line["bytes_per_s"], 1e-9),
        "us per layer": _scaled(line["layer_s"], 1e6),
    }


def _format(one: Row) -> Row:
    return {
        "format": one["format"],
        "variant": one["variant"],
        "repacked": "yes" if one["repacked"] else "no",
        "decode GB/s": _scaled(one["decode_bytes_per_s"], 1e-9),
        "in cache": _scaled(one["cached_decode_bytes_per_s"], 1e-9),
        "decode GFLOP/s": _scaled(one["decode_operations_per_s"], 1e-9),
        "prompt GFLOP/s": _scaled(one["prompt_operations_per_s"], 1e-9),
        "ms per token besides": _scaled(one["rest_s"], 1e3),
    }


def _speed(tokens: float, seconds: Row) -> str:
    return f"{tokens / seconds['median']:.1f} ({tokens / seconds['p90']:.1f} to {tokens / seconds['p10']:.1f})"


def _scaled(found: Row, scale: float) -> str:
    low, middle, high = (scale * found[name] for name in ("p10", "median", "p90"))
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"

"""Cells of a table as exact numbers and words, whatever type the file gives them; what does not fit is refused."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lrcsim.base.errors import TraceError
from lrcsim.traces.importers.names import plain

PREFILL_WORDS = (
    *("0", "prefill", "prefilling", "prompt", "pp", "p", "prompt_processing", "prompt_eval", "prefill_phase"),
    *("encode", "context", "ctx", "input", "extend", "decoder_prompt", "chunked_prefill", "prompt_phase"),
    *("pre_fill", "prefill_step", "prefill_token", "prompt_token", "prompt_tokens"),
)
DECODE_WORDS = (
    *("1", "decode", "decoding", "generated", "generation", "generate", "generating", "gen", "tg", "g", "d"),
    *("output", "completion", "response", "token_generation", "text_generation", "decoder_generated", "decode_phase"),
    *("generation_phase", "dec", "decode_step", "decode_token", "generated_token", "generated_tokens", "token_phase"),
)
YES, NO = ("true", "1", "yes", "t", "y"), ("false", "0", "no", "f", "n")
NAMED = {
    "layer": (
        r"(?i)^(?:.*[._/ ])?(?:layers?|blk|blocks?|h)[._/ -]?(\d+)(?:[._/ ].*)?$",
        r"^\D*?[A-Za-z_.]\D*?(\d+)\D*$",
    ),
    "expert": (r"(?i)^(?:.*[./])?(?:experts?|exp|e|#)[._/ -]?(\d+)$",),
}
"""How names say a number: ``model.layers.3.mlp`` and ``blk.3``; ``expert_5``, ``E5`` and ``mlp.experts.5``."""

LONGEST_NAME = 1_000
"""Characters of a layer's name that is looked at: Python's expressions take quadratic time on longer ones."""

EXACT = 1 << 53
"""Largest whole number that a float holds exactly."""


def place(row: int) -> str:
    """Name a row for a message."""
    return f"row {row} (counted from 1 under the column names)"


def decoded(column: Any) -> Any:
    """Return a column without dictionary encoding, with plain strings and plain lists."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return decoded(column.dictionary_decode())
    if pa.types.is_large_string(kind) or _is(kind, "is_string_view"):
        return column.cast(pa.string())
    if is_listed(kind) and not pa.types.is_list(kind):
        return column.cast(pa.list_(kind.value_type))
    return column


def is_listed(kind: pa.DataType) -> bool:
    """Tell whether the items of a type are lists, of whatever layout."""
    tests = ("is_list", "is_large_list", "is_fixed_size_list", "is_list_view", "is_large_list_view")
    return any(_is(kind, test) for test in tests)


def _is(kind: pa.DataType, test: str) -> bool:
    return bool(getattr(pa.types, test, lambda _: False)(kind))


def integers(name: str, column: Any, first_row: int, parents: npt.NDArray[np.int64] | None = None) -> Any:
    """Return a column as int64, refusing what is no whole number of that size; nulls stay.

    Args:
        name: our name of the column.
        column: of any integer, float, decimal, text or dictionary type.
        first_row: number of the first row, for messages.
        parents: int [items], the row of each item, counted from 0, where a row has several.

    Raises:
        TraceError: a value has a fraction, is no number, or is beyond 64 bits.
    """
    column = decoded(column)
    kind = column.type
    if kind == pa.int64():
        return column
    if pa.types.is_integer(kind) or pa.types.is_null(kind):
        try:
            return column.cast(pa.int64())
        except pa.ArrowInvalid:
            bad = np.asarray(column.fill_null(0).to_numpy(zero_copy_only=False)) > np.uint64(np.iinfo(np.int64).max)
            _refuse(name, column, bad, first_row, parents, "is out of all range")
    if pa.types.is_floating(kind):
        values = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
        empty = column.is_null().to_numpy(zero_copy_only=False) | np.isnan(values)
        with np.errstate(invalid="ignore"):
            bad = ~empty & ~((np.floor(values) == values) & (np.abs(values) <= EXACT))
        if bad.any():
            _refuse(name, column, bad, first_row, parents, "is no whole number")
        return pa.array(np.where(empty, 0, values).astype(np.int64), mask=empty)
    if pa.types.is_decimal(kind):
        try:
            return column.cast(pa.int64())
        except pa.ArrowInvalid:
            values = np.array([v is not None and (v != int(v) or abs(v) >= 2**63) for v in column.to_pylist()])
            _refuse(name, column, values, first_row, parents, "is no whole number")
    if pa.types.is_string(kind):
        return _integers_of_text(name, column, first_row, parents)
    raise TraceError(f"{name} must be whole numbers, the column is {str(kind)[:80]}")


def _integers_of_text(name: str, column: Any, first_row: int, parents: npt.NDArray[np.int64] | None) -> Any:
    text = pc.utf8_trim(column, characters=" \t\r\n\"'")
    text = pc.if_else(pc.is_in(text, value_set=pa.array(["", "null", "NULL", "None", "NaN", "nan", "NA"])), None, text)
    for named in NAMED.get(name, ()):
        text = pc.replace_substring_regex(text, named, r"\1")
    whole = pc.replace_substring_regex(text, r"^\+?(-?\d+)\.0*$", r"\1")
    try:
        return whole.cast(pa.int64())
    except pa.ArrowInvalid:
        found = pc.match_substring_regex(whole, r"^-?\d{1,18}$").fill_null(True).to_numpy(zero_copy_only=False)
        exact = [v is None or good or _fits(v) for v, good in zip(whole.to_pylist(), found.tolist(), strict=True)]
        if all(exact):
            return pa.array([None if v is None else int(float(v)) for v in whole.to_pylist()], pa.int64())
        return _refuse(name, column, ~np.array(exact), first_row, parents, "is no whole number in 64 bits")


def layer_prefixes(column: Any) -> set[str]:
    """Return what stands before the number in the names of layers (``model.layers.``), in lower case."""
    column = decoded(column)
    if not pa.types.is_string(column.type):
        return set()
    names = pc.unique(column).drop_null()
    found = set()
    names = names.filter(pc.less_equal(pc.utf8_length(names), LONGEST_NAME))
    for name in names.filter(pc.match_substring_regex(names, r"[A-Za-z_]")).to_pylist():
        match = next((match for named in NAMED["layer"] if (match := re.match(named, name.strip()))), None)
        if match is not None:
            found.add(name.strip()[: match.start(1)].lower())
    return found


def _fits(text: str) -> bool:
    """Tell whether a number written in another way (1e3) is whole and exact."""
    if len(text) > 40 or re.fullmatch(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?", text) is None:
        return False
    value = float(text)
    return value == value // 1 and abs(value) <= EXACT


def numbers(name: str, column: Any, first_row: int) -> Any:
    """Return a column as float32; nulls stay.

    Raises:
        TraceError: a value is no number.
    """
    column = decoded(column)
    if column.type == pa.float32():
        return column
    try:
        if pa.types.is_string(column.type):
            column = pc.utf8_trim(column, characters=" \t\r\n\"'")
            column = pc.replace_substring_regex(column, r"^([+-]?\d*),(\d+([eE][+-]?\d+)?)$", r"\1.\2")  # 0,5
        if pa.types.is_decimal(column.type) or pa.types.is_string(column.type):
            column = column.cast(pa.float64())
        return column.cast(pa.float32(), safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        at = 0
        if pa.types.is_string(column.type):
            good = pc.match_substring_regex(
                column, r"^[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?$|^(?i:[+-]?(nan|inf|infinity))$"
            )
            at = int(np.argmin(good.fill_null(True).to_numpy(zero_copy_only=False)))
        raise TraceError(
            f"{name} must be numbers, item {first_row + at} (counted from 1) is not "
            f"({' '.join(str(error).split())[:120]})"
        ) from None


def as_text(column: Any) -> Any:
    """Return a column as strings; whole numbers written as floats lose their ``.0``."""
    column = decoded(column)
    if pa.types.is_floating(column.type):
        values = column.to_numpy(zero_copy_only=False)
        with np.errstate(invalid="ignore"):
            if not (np.floor(values) != values)[~np.isnan(values)].any() and (np.abs(values) <= EXACT).all():
                return column.cast(pa.int64()).cast(pa.string())
    return column.cast(pa.string())


def as_request(column: Any) -> Any:
    """Return what tells requests apart as int64 or as strings.

    Raises:
        TraceError: the column holds lists or the like.
    """
    column = decoded(column)
    if pa.types.is_integer(column.type) and column.type != pa.uint64():
        return column.cast(pa.int64())
    if pa.types.is_nested(column.type):
        raise TraceError(f"the column of requests holds {column.type}, must be numbers or text")
    if pa.types.is_binary(column.type) or pa.types.is_fixed_size_binary(column.type):
        return pa.array([None if v is None else v.hex() for v in column.to_pylist()], pa.string())
    return as_text(column)


def as_phases(theirs: str, column: Any, first_row: int) -> npt.NDArray[np.int64]:
    """Return phases as people write them as 0 (prefill) and 1 (decode); columns like ``is_prefill`` hold yes or no.

    Raises:
        TraceError: a word is not known.
    """
    name = plain(theirs)
    encoded = pc.dictionary_encode(as_text(column))
    text = pc.utf8_lower(pc.utf8_trim(encoded.dictionary, characters=" \t\r\n\"'"))
    text = pc.replace_substring_regex(text, r"^<?[a-z_]\w*\.([a-z_]+)(: .*>)?$", r"\1")  # Phase.PREFILL
    text = pc.replace_substring_regex(text, r"[\s\-]+", "_")
    text = pc.replace_substring_regex(text, r"^(\d+)\.0+$", r"\1")
    text = pc.replace_substring_regex(text, r"^([a-z_]+?)_?(\d+|\(\d+\))$", r"\1")  # prefill_0, prefill(128)
    asks_decode = name.startswith(("is_dec", "is_gen")) or name == "decode"
    if asks_decode or name.startswith(("is_prefill", "is_prompt")) or name == "prefill":
        first: tuple[str, ...] = NO if asks_decode else YES
        second: tuple[str, ...] = YES if asks_decode else NO
        allowed = "true or false, 1 or 0"
    else:
        first, second = PREFILL_WORDS, DECODE_WORDS
        allowed = "0, prefill, prompt, pp ..., or 1, decode, generated, tg ..."
        if name in ("stage", "mode", "forward_mode"):  # numbers here mean something else
            first, second = first[1:], second[1:]
            allowed = "prefill, prompt, pp ..., or decode, generated, tg ..."
    code = pc.index_in(text, value_set=pa.array([*first, *second]))
    if code.null_count:
        unknown = code.is_null().to_numpy(zero_copy_only=False)
        at = int(np.argmax(unknown[encoded.indices.to_numpy()]))
        raise TraceError(
            f"{place(first_row + at)}: phase {str(column[at].as_py())[:40]!r} in column {theirs!r}, allowed "
            f"{allowed}; leave the column out with --columns phase=none"
        )
    decode: npt.NDArray[np.int64] = (code.to_numpy() >= len(first)).astype(np.int64)
    return np.asarray(decode[encoded.indices.to_numpy()], np.int64)


def _refuse(
    name: str,
    column: Any,
    bad: npt.NDArray[np.bool_],
    first_row: int,
    parents: npt.NDArray[np.int64] | None,
    why: str,
) -> Any:
    at = int(np.argmax(bad))
    row = first_row + (at if parents is None else int(parents[at]))
    raise TraceError(f"{place(row)}: {name} {' '.join(str(column[at].as_py()).split())[:60]} {why}")

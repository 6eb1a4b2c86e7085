"""The fields of an answer of an inference server, each of which may be left out, null, or of a wrong type."""

from __future__ import annotations

from typing import Any

from lrcsim.base.errors import TraceError

Json = dict[str, Any]

EXTRAS = ("sglext", "sgl_ext", "nvext", "meta_info")
"""Objects in which servers put what the OpenAI-compatible API has no field for."""

CACHED = ("cached_tokens", "num_cached_tokens")


def cached_in(body: Json, usage: Json) -> int | None:
    """Return the prompt tokens out of the prefix cache, where the answer says it in one of its places."""
    details = [object_in(usage, name) for name in ("prompt_tokens_details", "input_tokens_details")]
    for where in (object_in(body, "meta_info"), *details, usage, body):
        for name in CACHED:
            count = count_in(where, name)
            if count is not None:
                return count
    for name in EXTRAS:
        split = object_in(object_in(body, name), "cached_tokens_details")
        parts = [count_in(split, tier) for tier in ("device", "host", "storage")]
        if any(part is not None for part in parts):
            return sum(part or 0 for part in parts)
    return None


def object_in(where: Json, name: str) -> Json:
    """Return an object that may be left out or null.

    Raises:
        TraceError: it is something else.
    """
    value = where.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        if name in EXTRAS or name in ("engine_data", "lrcsim"):
            return {}
        raise TraceError(f"is not of the form that servers send ({name} is {type(value).__name__}, must be an object)")
    return value


def count_in(where: Json, name: str) -> int | None:
    """Return a count that may be left out or null.

    Raises:
        TraceError: it is something else; `settle` refuses negative ones, with the other numbers.
    """
    value = where.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 1 << 31:
        raise TraceError(f"is not of the form that servers send ({name} is {repr(value)[:40]}, must be a whole number)")
    return value


def ids_in(where: Json, name: str) -> list[int] | None:
    """Return token ids that may be left out or null.

    Raises:
        TraceError: they are something else.
    """
    value = where.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or not all(type(number) is int and -1 <= number < 1 << 31 for number in value):
        raise TraceError(f"has token ids that are no 32-bit integers ({name})")
    return value


def first_ids(places: list[tuple[Json, str]]) -> list[int] | None:
    """Return the token ids of the first place that has any."""
    return next((ids for where, name in places if (ids := ids_in(where, name)) is not None), None)


def nth_ids(extras: Json, name: str, number: int) -> Json:
    """Return ``{"ids": ...}`` of a list with one entry for each choice, where there is one."""
    value = extras.get(name)
    if isinstance(value, list) and number < len(value) and isinstance(value[number], list):
        return {"ids": value[number]}
    return {}


def nothing(given: object) -> bool:
    """Whether routing was left out, null or empty."""
    return given is None or given in ("", [])


def reason_of(where: Json) -> tuple[str, str]:
    """Return the finish reason and its message."""
    reason = where.get("finish_reason")
    if isinstance(reason, dict):
        return str(reason.get("type")), str(reason.get("message") or "")[:200]
    return str(reason), ""


def was_aborted(reason: tuple[str, str]) -> bool:
    """Whether a finish reason, as of `reason_of`, says that a request was ended before it was complete."""
    return reason[0] in ("abort", "aborted", "error", "cancelled")


def why_none(reason: tuple[str, str], what: str) -> str:
    """Say that something is missing, with the finish reason where that explains it."""
    if was_aborted(reason):
        return f"{what} (finish_reason {reason[0]}{': ' + reason[1] if reason[1] else ''})"
    return what

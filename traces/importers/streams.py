"""Streamed answers, saved chunk by chunk, joined to the answers that they would have been.

A chunk is known by its ``delta``, by an object ``...chunk``, by a finish reason that is still null, or by an answer of
the same id that is not finished yet. What comes last counts; token ids of chunks are joined.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

OPEN = 256
"""Streams that may be mixed with each other: a server's requests at a time."""

SENT_ONCE = ("routed_experts", "prompt_token_ids")
"""What only one chunk of a choice has."""

AFTER_THE_END = ("routed_experts", "sglext", "sgl_ext", "nvext")
"""What may come in a chunk of its own when a choice has its finish reason."""

Json = dict[str, Any]


def joined(values: Iterable[Json]) -> Iterator[Json]:
    """Yield whole answers of answers and chunks of answers, in the order in which they begin."""
    streams: dict[str, _Stream] = {}
    for value in values:
        name = _name(value)
        open_one = streams.get(name)
        if open_one is None and not _is_chunk(value):
            yield from _drain(streams, 0)
            yield value
            continue
        if open_one is not None and not open_one.takes(value):
            yield from _drain(streams, 0)
            open_one = None
            if not _is_chunk(value):
                yield value
                continue
        if open_one is None:
            streams[name] = open_one = _Stream()
        open_one.add(value)
        yield from _drain(streams, OPEN)
    yield from _drain(streams, 0)


def _drain(streams: dict[str, _Stream], keep: int) -> Iterator[Json]:
    while len(streams) > keep:
        yield streams.pop(next(iter(streams))).answer


def _name(value: Json) -> str:
    meta = value.get("meta_info")
    for where in (meta if isinstance(meta, dict) else {}, value):
        for key in ("id", "request_id", "rid"):
            if isinstance(where.get(key), str):
                return str(where[key])
    return ""


def _choices(value: Json) -> list[Json]:
    choices = value.get("choices")
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []


def _is_chunk(value: Json) -> bool:
    kind = value.get("object")
    if isinstance(kind, str) and kind.endswith(".chunk"):
        return True
    meta = value.get("meta_info")
    if isinstance(meta, dict):
        unfinished = "finish_reason" in meta and meta["finish_reason"] is None
        return unfinished and (meta.get("routed_experts") is None or _name(value) != "")
    return any("delta" in choice or choice.get("finish_reason", "") is None for choice in _choices(value))


class _Stream:
    """One answer as far as it has come."""

    def __init__(self) -> None:
        self.answer: Json = {}
        self.choices: dict[int, Json] = {}
        self.done: set[int] = set()

    def takes(self, value: Json) -> bool:
        """Whether a value goes on with this answer, rather than being another one of the same id."""
        if "meta_info" in self.answer or "meta_info" in value:
            return "meta_info" in self.answer and "meta_info" in value and not self.done
        for choice in _choices(value):
            own = self.choices.get(_index(choice), {})
            again = any(own.get(key) is not None and choice.get(key) is not None for key in SENT_ONCE)
            if again or (_index(choice) in self.done and not any(choice.get(key) is not None for key in AFTER_THE_END)):
                return False
        return True

    def add(self, value: Json) -> None:
        """Take a chunk."""
        meta = value.get("meta_info")
        if isinstance(meta, dict):
            _update(self.answer, value)
            if meta.get("finish_reason") is not None:
                self.done.add(0)
            return
        _update(self.answer, {key: part for key, part in value.items() if key != "choices"})
        for choice in _choices(value):
            own = self.choices.setdefault(_index(choice), {})
            before, ids = own.get("token_ids"), choice.get("token_ids")
            if isinstance(before, list) and isinstance(ids, list):
                before += ids
                choice = {key: part for key, part in choice.items() if key != "token_ids"}
            _update(own, choice)
            if choice.get("finish_reason") is not None:
                self.done.add(_index(choice))
        self.answer["choices"] = list(self.choices.values())


def _index(choice: Json) -> int:
    index = choice.get("index", 0)
    return index if isinstance(index, int) else 0


def _update(own: Json, new: Json) -> None:
    """Take what is new, into the objects inside as well; null takes nothing back."""
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(own.get(key), dict):
            _update(own[key], value)
        elif value is not None or key not in own:
            own[key] = dict(value) if isinstance(value, dict) else value

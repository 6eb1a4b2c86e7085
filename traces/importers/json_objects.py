"""The objects in a file of JSON, JSON lines or server-sent events, one at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lrcsim.base.errors import TraceError
from lrcsim.traces.importers.files import open_bytes, read_some

CHUNK = 4 << 20
BEGINS = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:[{\[]|data:|event:|id:|:)")
"""How a file of answers begins."""

EVENT_LINE = re.compile(r"(?:data:(?:[ \t]*\[DONE\])?|(?:event|id|retry):[^\n]*(?=\n)|:[^\n]*(?=\n))")
"""What server-sent events have around their JSON."""

EVENT_LETTERS = "deir:"


def objects(path: Path, report: Callable[[int], None]) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON file, of lists of them, JSON lines or server-sent events, holding one at a time.

    A null in their place comes as an object with an error.

    Raises:
        TraceError: the file is no JSON, is truncated, or holds something other than objects.
    """
    decoder = json.JSONDecoder()
    stream, position, size = open_bytes(path)
    text, at, count, more = "", 0, 0, True
    pending = b""
    with stream:
        while True:
            at = _skip(text, at)
            try:
                if at == len(text):
                    raise json.JSONDecodeError("nothing", text, at)
                value, at = decoder.raw_decode(text, at)
            except (ValueError, RecursionError) as error:
                unfinished = isinstance(error, json.JSONDecodeError) and (
                    error.pos >= len(text) - 16
                    or error.msg.startswith("Unterminated")
                    or (text[at] in EVENT_LETTERS and "\n" not in text[at:])
                )
                if more and unfinished:
                    data = pending + read_some(path, stream, max(CHUNK, len(text) - at))
                    more = len(data) > len(pending)
                    report(position() if more else size)
                    try:
                        fresh = data.decode()
                        pending = b""
                    except UnicodeDecodeError as cut:  # perhaps in the middle of a character
                        if len(data) - cut.start > 3 or not more:
                            raise TraceError("is no UTF-8 text") from None
                        fresh, pending = data[: cut.start].decode(), data[cut.start :]
                    text, at = text[at:] + fresh, 0
                    continue
                if at == len(text):
                    if count == 0:
                        raise TraceError("holds no JSON object") from None
                    return
                what = "is truncated" if unfinished else "is no JSON"
                raise TraceError(f"response {count + 1} {what} ({str(error)[:120]})") from None
            if value is None:
                value = {"error": "null"}
            if not isinstance(value, dict):
                raise TraceError(f"response {count + 1} is no JSON object")
            count += 1
            yield value


def _skip(text: str, at: int) -> int:
    """Return where the next value begins: after blanks, brackets, and the lines around server-sent events."""
    while at < len(text):
        if text[at] in " \t\r\n,[]\ufeff":
            at += 1
        elif text[at] in EVENT_LETTERS and (line := EVENT_LINE.match(text, at)) is not None:
            at = line.end()
        else:
            break
    return at

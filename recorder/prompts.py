"""Prompts from text files, JSON lines or standard input, one at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrcsim.base.errors import TraceError, did_you_mean

TEXT_KEYS = ("prompt", "text")
KEYS = (*TEXT_KEYS, "messages", "token_ids", "domain")


@dataclass(frozen=True)
class Prompt:
    """One prompt: exactly one of text, messages and token ids.

    Attributes:
        text: plain text; in a chat model it becomes the user's message.
        messages: a conversation, ``[{"role": ..., "content": ...}, ...]``, for the model's chat template.
        token_ids: ids of the model's own vocabulary, used as they are.
        domain: label of the request.
    """

    text: str | None = None
    messages: list[dict[str, Any]] | None = None
    token_ids: tuple[int, ...] | None = None
    domain: str | None = None


def read_prompts(
    lines: Iterable[str], *, where: str, domain: str | None = None, whole: bool = False
) -> Iterator[Prompt]:
    """Read prompts from the lines of a file, holding one at a time.

    JSON lines if the first line that is not blank begins with ``{``, else text. A line of JSON has ``prompt`` (or
    ``text``), ``messages`` or ``token_ids``, and may have ``domain``; other keys are ignored.

    Args:
        lines: with their line ends.
        where: name of the file, for messages.
        domain: label of the prompts that have none.
        whole: a text file is one document; otherwise every line that is not blank is a prompt.

    Raises:
        TraceError: a line is no JSON object or lacks a prompt; or there is no prompt at all.
    """
    count, as_json = 0, None
    text: list[str] = []
    for number, line in enumerate(lines, start=1):
        if as_json is None and line.strip():
            as_json = line.lstrip().startswith("{")
        if as_json is None or (not line.strip() and not (whole and not as_json)):
            continue
        if as_json:
            count += 1
            yield _from_json(line, f"{where}: line {number}", domain)
        elif whole:
            text.append(line)
        else:
            count += 1
            yield Prompt(text=line.strip("\r\n"), domain=domain)
    if text:
        count += 1
        yield Prompt(text="".join(text), domain=domain)
    if count == 0:
        raise TraceError(f"{where}: holds no prompts; give one per line, or JSON lines with 'prompt'")


def count_prompts(path: Path, whole: bool) -> int | None:
    """Count the prompts of a file in one quick pass; None where that is not known (a text that is one document)."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        filled = (line for line in lines if line.strip())
        first = next(filled, "")
        if whole and not first.lstrip().startswith("{"):
            return None
        return int(bool(first)) + sum(1 for _ in filled)


def _from_json(line: str, where: str, domain: str | None) -> Prompt:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise TraceError(f"{where} is no JSON ({error})") from None
    if not isinstance(value, dict):
        raise TraceError(f"{where} is no JSON object, needs for example {{'prompt': 'text', 'domain': 'code'}}")
    label = value.get("domain", domain)
    if label is not None and not isinstance(label, str):
        raise TraceError(f"{where} has a domain that is no text: {label!r}")
    given = [key for key in KEYS[:-1] if value.get(key) is not None]
    if len(given) != 1:
        hint = "" if given else next((did_you_mean(key, KEYS) for key in value if did_you_mean(key, KEYS)), "")
        found = " and ".join(given) or "none of them (it has " + ", ".join(map(repr, list(value)[:6])) + ")"
        raise TraceError(f"{where} needs one of {', '.join(KEYS[:-1])}, has {found}{hint}")
    key = given[0]
    content = value[key]
    if key in TEXT_KEYS:
        if not isinstance(content, str):
            raise TraceError(f"{where} has a {key!r} that is no text")
        return Prompt(text=content, domain=label)
    if key == "messages":
        if (
            not isinstance(content, list)
            or not content
            or not all(isinstance(m, dict) and "role" in m for m in content)
        ):
            raise TraceError(f"{where} has 'messages' that are no list of {{'role', 'content'}}")
        return Prompt(messages=content, domain=label)
    if not isinstance(content, list) or not content or not all(type(i) is int and 0 <= i < 1 << 31 for i in content):
        raise TraceError(f"{where} has 'token_ids' that are no list of ids")
    return Prompt(token_ids=tuple(content), domain=label)

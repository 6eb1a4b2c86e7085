"""From prompts to the token ids that a model runs: chat templates, packing into samples, batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lrcsim.base.errors import ConfigError, brief
from lrcsim.recorder.prompts import Prompt

PIECE = 1 << 16
"""Characters of a document that are tokenised at a time when packing; a piece ends at a line's end."""


@dataclass(frozen=True)
class Request:
    """Token ids to run, and their label. ``number`` counts the requests of a recording from 0."""

    ids: list[int]
    domain: str | None
    number: int

    def digest(self, before: bytes) -> bytes:
        """Extend a digest of the requests before by this one."""
        data = np.asarray(self.ids, dtype="<i8").tobytes()
        return hashlib.sha256(before + str(self.domain).encode() + b"\0" + data).digest()


def encoded(prompts: Iterable[Prompt], tokenizer: Any, chat: bool | None) -> Iterator[Request]:
    """Turn every prompt into one request.

    Args:
        prompts: the prompts.
        tokenizer: of the model, or None when all prompts are token ids.
        chat: put texts into the chat template as the user's message; None: if the model has a template.

    Raises:
        ConfigError: a prompt needs a tokenizer or a template that the model has not, or is empty.
    """
    for number, prompt in enumerate(prompts):
        where = f"prompt {number + 1}"
        if prompt.token_ids is not None:
            ids = list(prompt.token_ids)
        elif tokenizer is None:
            raise ConfigError(f"{where} is text, and the model has no tokenizer: give token_ids (JSON lines)")
        else:
            template = getattr(tokenizer, "chat_template", None)
            messages = prompt.messages
            if messages is None and (template if chat is None else chat):
                messages = [{"role": "user", "content": prompt.text}]
            if messages is None:
                ids = list(tokenizer(prompt.text)["input_ids"])
            elif not template:
                raise ConfigError(
                    f"{where} needs a chat template, and the model has none: leave out --chat, or messages"
                )
            else:
                ids = _templated(tokenizer, messages, where, add_generation_prompt=True)
        if not ids:
            raise ConfigError(f"{where} is empty: it has no tokens")
        yield Request(ids, prompt.domain, number)


def packed(prompts: Iterable[Prompt], tokenizer: Any, length: int, separator: int | None) -> Iterator[Request]:
    """Join the documents of each domain, a separator after each, and cut them into samples of equal length.

    This is the setting of the local-routing-consistency paper. What is left of a domain at the end is a shorter sample.

    Args:
        prompts: the documents.
        tokenizer: of the model, or None when all documents are token ids.
        length: tokens of a sample.
        separator: token id after each document (end of text), or None.

    Raises:
        ConfigError: a document needs a tokenizer or a template that the model has not.
    """
    waiting: dict[str | None, list[int]] = {}
    number = 0
    for at, prompt in enumerate(prompts):
        buffer = waiting.setdefault(prompt.domain, [])
        for ids in _pieces(prompt, tokenizer, f"document {at + 1}"):
            buffer += ids
            start = 0
            while len(buffer) - start >= length:
                yield Request(buffer[start : start + length], prompt.domain, number)
                number, start = number + 1, start + length
            del buffer[:start]
        if separator is not None:
            buffer.append(separator)
    for domain, buffer in waiting.items():
        for start in range(0, len(buffer), length):  # a separator may have filled one more sample
            yield Request(buffer[start : start + length], domain, number)
            number += 1


def batches(requests: Iterable[Request], size: int, equal: bool) -> Iterator[list[Request]]:
    """Group requests in their order, ``size`` at most; with ``equal``, only such of the same length."""
    batch: list[Request] = []
    for request in requests:
        if batch and (len(batch) == size or (equal and len(batch[0].ids) != len(request.ids))):
            yield batch
            batch = []
        batch.append(request)
    if batch:
        yield batch


def _pieces(prompt: Prompt, tokenizer: Any, where: str) -> Iterator[list[int]]:
    if prompt.token_ids is not None:
        yield list(prompt.token_ids)
        return
    if tokenizer is None:
        raise ConfigError(f"{where} is text, and the model has no tokenizer: give token_ids (JSON lines)")
    if prompt.messages is not None:
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError(f"{where} has messages, and the model has no chat template: give it as text")
        yield _templated(tokenizer, prompt.messages, where, add_generation_prompt=False)
        return
    text = prompt.text or ""
    start = 0
    while start < len(text):
        stop = len(text) if len(text) - start <= PIECE else text.find("\n", start + PIECE) + 1 or len(text)
        yield list(tokenizer(text[start:stop], add_special_tokens=False)["input_ids"])
        start = stop


def _templated(tokenizer: Any, messages: list[dict[str, Any]], where: str, *, add_generation_prompt: bool) -> list[int]:
    try:
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=add_generation_prompt, tokenize=False)
    except Exception as error:  # templates are programs of the model's makers and raise what they like
        raise ConfigError(f"{where} does not fit the model's chat template ({brief(error)})") from None
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])

"""Reading prompts, packing, batching: no model needed."""

from __future__ import annotations

import re
from typing import Any

import pytest

from lrcsim.base.errors import ConfigError, TraceError
from lrcsim.recorder.prompts import Prompt, read_prompts
from lrcsim.recorder.requests import Request, batches, encoded, packed


def read(text: str, **options: Any) -> list[Prompt]:
    return list(read_prompts(text.splitlines(keepends=True), where="p", **options))


def test_every_line_of_a_text_is_a_prompt() -> None:
    assert read("one\n\n  two \n") == [Prompt(text="one"), Prompt(text="  two ")]
    assert read("one\r\n", domain="d") == [Prompt(text="one", domain="d")]


def test_a_whole_text_is_one_document() -> None:
    assert read("\none\n\ntwo\n", whole=True) == [Prompt(text="one\n\ntwo\n")]


def test_json_lines() -> None:
    text = (
        '\n{"prompt": "a", "domain": "code", "id": 3}\n{"text": "b"}\n\n'
        '{"token_ids": [1, 2]}\n{"messages": [{"role": "user"}]}'
    )
    assert read(text, domain="rest", whole=True) == [
        Prompt(text="a", domain="code"),
        Prompt(text="b", domain="rest"),
        Prompt(token_ids=(1, 2), domain="rest"),
        Prompt(messages=[{"role": "user"}], domain="rest"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "p: holds no prompts; give one per line, or JSON lines with 'prompt'"),
        ("\n \n", "p: holds no prompts"),
        ('{"prompt": "a"}\nb\n', "p: line 2 is no JSON"),
        ('{"prompts": "a"}', "p: line 1 needs one of prompt, text, messages, token_ids, has none of them (it has "
         "'prompts'); did you mean 'prompt'?"),
        ('{"prompt": "a", "text": "b"}', "has prompt and text"),
        ('{"prompt": 3}', "p: line 1 has a 'prompt' that is no text"),
        ('{"prompt": "a", "domain": 3}', "p: line 1 has a domain that is no text: 3"),
        ('{"token_ids": []}', "p: line 1 has 'token_ids' that are no list of ids"),
        ('{"token_ids": [true]}', "no list of ids"),
        ('{"messages": "hi"}', "p: line 1 has 'messages' that are no list"),
    ],
)  # fmt: skip
def test_what_is_wrong_and_where(text: str, message: str) -> None:
    with pytest.raises(TraceError, match=re.escape(message)):
        read(text)


def tokens(*lengths_and_domains: tuple[int, str]) -> list[Prompt]:
    start = 10
    made = []
    for length, domain in lengths_and_domains:
        made.append(Prompt(token_ids=tuple(range(start, start + length)), domain=domain))
        start += length
    return made


def test_packing_by_hand() -> None:
    # Samples of 4; separator 0. Domain a: 10 11 12 0 | 18 19 20 21 | 22 0. Domain b: 13 14 15 16 | 17 0.
    documents = tokens((3, "a"), (5, "b"), (5, "a"))
    found = [(request.ids, request.domain, request.number) for request in packed(documents, None, 4, 0)]
    assert found == [
        ([13, 14, 15, 16], "b", 0),
        ([10, 11, 12, 0], "a", 1),
        ([18, 19, 20, 21], "a", 2),
        ([22, 0], "a", 3),
        ([17, 0], "b", 4),
    ]
    assert [r.ids for r in packed(tokens((3, "a"), (1, "a")), None, 4, None)] == [[10, 11, 12, 13]]


class Letters:
    """A tokenizer: the codes of the letters, after a start token."""

    chat_template = None

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [1] * add_special_tokens + [ord(c) for c in text]}


class Chatty(Letters):
    chat_template = "a template"

    def apply_chat_template(self, messages: Any, add_generation_prompt: bool, tokenize: bool) -> str:
        return "".join(f"<{m['role']}>{m['content']}" for m in messages) + ">" * add_generation_prompt


def test_encoding_with_and_without_a_template() -> None:
    def ids(prompt: Prompt, tokenizer: Any, chat: bool | None = None) -> list[int]:
        return next(encoded([prompt], tokenizer, chat)).ids

    assert ids(Prompt(text="ab"), Letters()) == [1, 97, 98]
    assert ids(Prompt(text="ab"), Chatty(), chat=False) == [1, 97, 98]
    assert ids(Prompt(text="ab"), Chatty()) == [ord(c) for c in "<user>ab>"]  # a template brings its own start
    assert ids(Prompt(messages=[{"role": "system", "content": "x"}]), Chatty()) == [ord(c) for c in "<system>x>"]
    assert ids(Prompt(token_ids=(4, 5)), None) == [4, 5]
    assert next(packed([Prompt(text="ab")], Letters(), 9, 2)).ids == [97, 98, 2]


@pytest.mark.parametrize(
    ("prompt", "tokenizer", "chat", "message"),
    [
        (Prompt(text="a"), None, None, "prompt 1 is text, and the model has no tokenizer: give token_ids"),
        (Prompt(text="a"), Letters(), True, "prompt 1 needs a chat template, and the model has none"),
        (Prompt(messages=[{"role": "user"}]), Letters(), None, "needs a chat template"),
        (Prompt(messages=[{"role": "user"}]), Chatty(), None, "does not fit the model's chat template (KeyError"),
    ],
)
def test_prompts_that_do_not_fit_the_model(prompt: Prompt, tokenizer: Any, chat: bool | None, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        list(encoded([prompt], tokenizer, chat))


def test_batches_keep_the_order() -> None:
    requests = [Request([0] * length, None, at) for at, length in enumerate((4, 4, 4, 2, 4))]
    assert [[r.number for r in batch] for batch in batches(requests, 2, equal=False)] == [[0, 1], [2, 3], [4]]
    assert [[r.number for r in batch] for batch in batches(requests, 2, equal=True)] == [[0, 1], [2], [3], [4]]


def test_digest_tells_prompts_apart() -> None:
    one, two = Request([1, 2], None, 0), Request([1, 2], "d", 0)
    assert one.digest(b"") != two.digest(b"")
    assert one.digest(b"") != one.digest(one.digest(b""))

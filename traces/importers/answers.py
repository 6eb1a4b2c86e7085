"""What one answer of an inference server says of its routing: vLLM, SGLang, and gateways before them.

Routing stands in a choice (``routed_experts``), in the extras of a choice or of the answer (``sglext``, ``sgl_ext``,
``nvext``, ``nvext.engine_data``), or in ``meta_info``. What stands at the answer's level is the first choice's. Counts
are in ``usage`` (sums over the choices), ``meta_info``, and as lists of token ids, which are looked at first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeGuard

import numpy as np

from lrcsim.base.errors import TraceError
from lrcsim.traces.importers import answer_fields as fields
from lrcsim.traces.importers.answer_fields import Json
from lrcsim.traces.importers.placing import Routed, Said
from lrcsim.traces.importers.source import Options
from lrcsim.traces.importers.wire import Wire, decode_array


@dataclass
class Answer:
    """What is in one answer.

    Attributes:
        routed: its requests with routing.
        without: why there is none, for each of its requests without.
        unsent_choices: further choices, where a server sends the first one's routing only.
        model: name of the model, or None.
        domain: label that `lrcsim record` noted, or None.
        shared_cache: whether one number of cached tokens stands for several prompts: their sum (SGLang) or that of the
            last (vLLM).
        one_for_choices: whether one number of cached tokens stands for several choices of one prompt.
        run_before: whether the cached tokens are a prompt that SGLang ran in a pass of its own, before its choices.
    """

    routed: list[Routed] = field(default_factory=list)
    without: list[str] = field(default_factory=list)
    unsent_choices: int = 0
    model: str | None = None
    domain: str | None = None
    shared_cache: bool = False
    one_for_choices: bool = False
    run_before: bool = False


def read_answer(value: Json, options: Options) -> Answer:
    """Read one answer of whichever server.

    Args:
        value: the JSON object: an answer, or a batch runner's or client's line around one.
        options: ``num_layers`` and ``top_k``, for routing that was sent flattened.

    Raises:
        TraceError: it is no answer of a server, or its routing or its counts are not of a form that servers send.
    """
    body, problem = _unwrapped(value)
    noted = fields.object_in(value, "lrcsim")
    domain = noted.get("domain")
    answer = Answer(domain=domain if isinstance(domain, str) else None)
    if noted.get("skipped") is not None:
        return answer  # lrcsim record has said so
    if problem is not None:
        answer.without.append(problem)
        return answer
    model = body.get("model")
    if not (model is None or isinstance(model, str)):
        raise TraceError("has a model that is no text")
    answer.model = model
    choices = body.get("choices")
    if choices is None and isinstance(body.get("meta_info"), dict):
        _native(body, answer, options)
    elif isinstance(choices, list) and all(isinstance(choice, dict) for choice in choices):
        _openai(body, choices, answer, options)
    else:
        raise TraceError("has no list of 'choices' and no 'meta_info', is it a response of a vLLM or SGLang server?")
    return answer


def _unwrapped(value: Json) -> tuple[Json, str | None]:
    """Return the answer inside a batch runner's line, ``{"custom_id", "response": {"body": ...}}``, and what failed."""
    inner = value.get("response")
    body = value
    if isinstance(inner, dict):
        status = inner.get("status_code")
        body = inner["body"] if isinstance(inner.get("body"), dict) else inner
        if isinstance(status, int) and status >= 400:
            return body, _failed(body) or f"status {status}"
    return body, _failed(body) or (_failed(value) if body is not value else None)


def _failed(body: Json) -> str | None:
    """Return the message of an error that a server sent in place of an answer."""
    if isinstance(body.get("choices"), list) and body["choices"]:
        return None
    error = body.get("error")
    if body.get("object") == "error":
        error = body.get("message") or "error"
    if error is None and "choices" not in body and "meta_info" not in body:
        error = body.get("detail")
    if error is None or error is False:
        return None
    if isinstance(error, dict):
        error = error.get("message") or error
    return "error: " + " ".join(str(error)[:200].split())


def _native(body: Json, answer: Answer, options: Options) -> None:
    """Read an answer of SGLang's own API."""
    meta = body["meta_info"]
    given = meta.get("routed_experts")
    if fields.nothing(given):
        answer.without.append(fields.why_none(fields.reason_of(meta), "meta_info has no 'routed_experts'"))
        return
    made = fields.count_in(meta, "completion_tokens")
    output = fields.ids_in(body, "output_ids")
    if output is not None and made is not None and len(output) != made:
        output = None  # a stream's last piece may hold its own tokens only
    said = Said(
        decode_array(given, options, meta.get("routed_experts_dtype", "int32")),
        prompt_ids=fields.first_ids([(body, "prompt_token_ids"), (body, "input_ids")]),  # the latter is our recorder's
        made_ids=output,
        prompt=fields.count_in(meta, "prompt_tokens"),
        made=made,
        start=fields.count_in(meta, "routed_experts_start_len"),
        cached=fields.cached_in(body, {}),
        aborted=fields.was_aborted(fields.reason_of(meta)),
    )
    answer.routed.append(said.placed())


def _openai(body: Json, choices: list[Json], answer: Answer, options: Options) -> None:
    """Read an answer of an OpenAI-compatible API."""
    usage = fields.object_in(body, "usage")
    total_prompt, total_made = fields.count_in(usage, "prompt_tokens"), fields.count_in(usage, "completion_tokens")
    prompt_part = body.get("prompt_routed_experts")
    before = None if prompt_part is None else decode_array(prompt_part, options)
    found: list[Said] = []
    for number, choice in enumerate(choices):
        read = _choice(body, choice, number, before, options)
        if isinstance(read, Said):
            found.append(read)
        elif number > 0 and any(
            not fields.nothing(_routing_in(fields.object_in(body, name), 0)) for name in fields.EXTRAS
        ):
            answer.unsent_choices += 1
        else:
            answer.without.append(read)
    if not choices:
        answer.without.append("has no choices")
    cached = fields.cached_in(body, usage)
    if len(choices) == 1:
        prompt, made = total_prompt, total_made
    else:
        prompt, made = _prompt_of_each(found, body, len(choices), total_prompt, total_made), None
        if cached and _several_prompts(found, body, total_prompt, prompt):
            answer.shared_cache, cached = True, None
        if answer.unsent_choices and 0 < (cached or 0) <= (total_prompt or 0):
            # SGLang's TokenizerManager._handle_batch_request: "Cache the common prefix for parallel sampling"
            answer.run_before, cached = True, None
        answer.one_for_choices = bool(cached) and any(own.cached is None for own in found[1:])
    for own in found:
        own.prompt = prompt if own.prompt is None else own.prompt
        own.made = made if own.made is None else own.made
        own.cached = cached if own.cached is None else own.cached
        _with_whole_prompt(own)
        _without_echo(own)
        answer.routed.append(own.placed())


def _with_whole_prompt(own: Said) -> None:
    """Where the prompt's rows came apart and are not fewer than its tokens, none is missing before them."""
    if own.prompt_rows is None:
        return
    prompt = own.prompt if own.prompt_ids is None else len(own.prompt_ids)
    if prompt is None or own.prompt_rows >= prompt:
        own.prompt, own.start = own.prompt_rows, 0


def _without_echo(own: Said) -> None:
    """Take an echoed prompt out of the generated tokens."""
    if own.prompt_ids is None or own.made_ids is None or own.made is None:
        return
    prompt = len(own.prompt_ids)
    if len(own.made_ids) == prompt + own.made and own.made_ids[:prompt] == own.prompt_ids:
        own.made_ids = own.made_ids[prompt:]


def _choice(body: Json, choice: Json, number: int, before: Wire | None, options: Options) -> Said | str:
    """Read a choice; return why there is no routing, as text, where there is none."""
    given, extras = choice.get("routed_experts"), {}
    for where, place in [(choice, name) for name in fields.EXTRAS] + [(body, name) for name in fields.EXTRAS]:
        found = fields.object_in(where, place)
        if fields.nothing(given) and (where is choice or number == 0 or _is_list_of_text(found.get("routed_experts"))):
            extras, given = found, _routing_in(found, number)
    if choice.get("prompt_routed_experts") is not None:  # of its own, where there are several prompts
        before = decode_array(choice["prompt_routed_experts"], options)
    more = len(fields.ids_in(choice, "token_ids") or []) > 1
    if fields.nothing(given) and (before is None or more or fields.was_aborted(fields.reason_of(choice))):
        return fields.why_none(fields.reason_of(choice), "a choice has no 'routed_experts'")
    meta = fields.object_in(choice, "meta_info")
    dtype = extras.get("routed_experts_dtype", "int32")
    wire = decode_array(given, options, dtype) if before is None else _together(before, given, options)
    first = [fields.object_in(body, name) for name in fields.EXTRAS] if number == 0 else []
    engine = fields.object_in(fields.object_in(body, "nvext"), "engine_data") if number == 0 else {}
    made_ids = [(choice, "token_ids"), *((extra, "completion_token_ids") for extra in (engine, *first))]
    made_ids += [(fields.nth_ids(extra, "output_ids", number), "ids") for extra in first]
    return Said(
        wire,
        prompt_ids=fields.first_ids(
            [(body, "prompt_token_ids"), (choice, "prompt_token_ids"), *((extra, "input_ids") for extra in first)]
        ),
        made_ids=fields.first_ids(made_ids),
        prompt=fields.count_in(meta, "prompt_tokens"),
        made=fields.count_in(meta, "completion_tokens"),
        start=fields.count_in(extras, "routed_experts_start_len"),
        cached=fields.cached_in({"meta_info": meta, **{key: choice.get(key) for key in fields.CACHED}}, {}),
        aborted=fields.was_aborted(fields.reason_of(choice)),
        prompt_rows=None if before is None else len(before.experts),
    )


def _routing_in(extras: Json, number: int) -> object:
    """Return the routing in a server's extras; a placeholder does not hide the one in ``engine_data``."""
    given = extras.get("routed_experts")
    if _is_list_of_text(given):
        given = given[number] if number < len(given) else None
    inner = fields.object_in(extras, "engine_data").get("routed_experts")
    return inner if inner is not None and not isinstance(given, dict | list) else given


def _is_list_of_text(given: object) -> TypeGuard[list[Any]]:
    return isinstance(given, list) and len(given) > 0 and all(part is None or isinstance(part, str) for part in given)


def _together(prompt: Wire, given: object, options: Options) -> Wire:
    """Join the prompt's rows, sent once, and a choice's (vLLM 0.21)."""
    if fields.nothing(given):
        return prompt
    generated = decode_array(given, options)
    if generated.experts.shape[1:] != prompt.experts.shape[1:]:
        raise TraceError(
            f"prompt_routed_experts has [layers, k] = {list(prompt.experts.shape[1:])}, "
            f"routed_experts {list(generated.experts.shape[1:])}"
        )
    return Wire(np.concatenate([prompt.experts, generated.experts]), prompt.start)


def _several_prompts(found: list[Said], body: Json, total: int | None, of_each: int | None) -> bool:
    """Whether the choices belong to different prompts, as far as can be seen."""
    if fields.ids_in(body, "prompt_token_ids") is not None:
        return False
    ids = [choice.prompt_ids for choice in found]
    if all(own is not None for own in ids):
        return any(own != ids[0] for own in ids) or (bool(ids) and total is not None and total != len(ids[0] or []))
    return of_each is None


def _prompt_of_each(found: list[Said], body: Json, choices: int, prompt: int | None, made: int | None) -> int | None:
    """Return the prompt's length where several choices have one prompt, None where each has its own or none is known.

    ``usage`` has the sum over a list of prompts, but the length of the one prompt of n choices.
    """
    if prompt is None or not found:
        return None
    rows = [len(choice.wire.experts) for choice in found]
    own = [None if choice.made_ids is None else len(choice.made_ids) for choice in found]
    if all(count is not None for count in own):
        lengths = [row + 1 - max(count or 0, 1) for row, count in zip(rows, own, strict=True)]
        if all(length == prompt for length in lengths):
            return prompt
        if len(found) == choices and sum(lengths) == prompt and "object" in body:  # token-in-token-out has one prompt
            return None
    elif made is not None and len(found) == choices:
        if sum(rows) + len(rows) - made == choices * prompt:
            return prompt
        if sum(rows) + len(rows) - made == prompt:
            return None
    if body.get("object") != "text_completion" or _one_prompt_fits(rows[0], choices, prompt, made):
        return prompt
    return None


def _one_prompt_fits(rows: int, choices: int, prompt: int, made: int | None) -> bool:
    """Whether the first choice's rows go with one prompt of n choices."""
    return made is not None and 1 <= rows + 1 - prompt <= made - (choices - 1)

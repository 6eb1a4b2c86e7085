"""Which positions of a request ran, from the answers of every server, against requests written out token by token."""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lrcsim.base.errors import TraceError
from lrcsim.traces import RoutingTrace, check_file
from lrcsim.traces.importers import FORMATS, ImportReport, Options, import_trace

LAYERS, EXPERTS, TOP_K = 2, 12, 2
SHAPE = Options(num_layers=LAYERS, top_k=TOP_K, num_experts=EXPERTS)
Json = dict[str, Any]
Ids = npt.NDArray[np.int64]


def routing(tokens: int, seed: int = 0) -> Ids:
    """Give distinct rows: position p chooses p and p + 1 in layer 0, p + 2 and p + 3 in layer 1 (modulo E)."""
    first = (np.arange(tokens) + 3 * seed).reshape(-1, 1, 1)
    return (first + np.array([[[0, 1], [2, 3]]])) % EXPERTS


def npy(array: Ids, dtype: str = "uint8") -> str:
    file = io.BytesIO()
    np.save(file, array.astype(dtype))
    return base64.b64encode(file.getvalue()).decode()


def flat(array: Ids, dtype: str = "<i4") -> str:
    return base64.b64encode(array.astype(dtype).tobytes()).decode()


def described(array: Ids, dtype: str = "uint8", **extra: object) -> Json:
    return {"data": flat(array, dtype), "shape": list(array.shape), "dtype": dtype} | extra


def openai(choice: Json, usage: Json | None = None, **extra: object) -> Json:
    given = {"index": 0, "text": "", "finish_reason": "length"} | choice
    return {"id": "c", "model": "m", "choices": [given], "usage": usage} | extra


def native(**meta: object) -> Json:
    return {"text": "", "meta_info": {"finish_reason": {"type": "length"}} | meta}


def read(
    path: Path, *answers: object, options: Options = SHAPE, form: str = "jsonl"
) -> tuple[RoutingTrace, ImportReport]:
    """Import answers, and return the trace in memory and the report."""
    source, out = path / "answers.json", path / "out.h5"
    lines = [json.dumps(answer) for answer in answers]
    text = {
        "jsonl": "\n".join(lines),
        "list": json.dumps(answers),
        "sse": "".join(f"data: {line}\n\n" for line in lines) + "data: [DONE]\n\n",
    }[form]
    source.write_text(text)
    report = import_trace(source, out, options=options)
    assert check_file(out) == []
    with RoutingTrace.open(out) as trace:
        columns = {name: trace.read(name, 0, trace.num_tokens) for name in trace.columns}
        offsets = trace.offsets.copy()
        blocks = trace.layers.block.tolist()
    back = RoutingTrace.from_arrays(
        columns["experts"], num_experts=EXPERTS, offsets=offsets, phase=columns.get("phase"),
        token_ids=columns.get("token_ids"),
    )  # fmt: skip
    assert blocks == list(range(back.num_layers)) or back.num_layers < max(blocks) + 1
    return back, report


# --- by hand: a prompt of 4 tokens, 3 generated; positions 0 to 5 ran, the first 4 are prefill -----------------------


@pytest.fixture(params=["choice", "nvext", "engine_data", "sglext", "sgl_ext", "choice sglext", "choice nvext"])
def place(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def put(place: str, routed: object, usage: Json) -> Json:
    where, _, inner = place.rpartition(" ")
    if place == "choice":
        return openai({"routed_experts": routed}, usage)
    extras = {"engine_data": {"routed_experts": routed}} if inner == "engine_data" else {"routed_experts": routed}
    name = "nvext" if inner == "engine_data" else inner
    return openai({name: extras}, usage) if where == "choice" else openai({}, usage, **{name: extras})


@pytest.mark.parametrize("wire", ["npy", "described", "flattened", "lists"])
def test_every_place_and_wire(place: str, wire: str, tmp_path: Path) -> None:
    rows = routing(6)[2:]
    sent = {"npy": npy(rows), "described": described(rows, start=2), "flattened": flat(rows), "lists": rows.tolist()}
    usage = {"prompt_tokens": 4, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 3}}
    trace, report = read(tmp_path, put(place, sent[wire], usage))
    assert trace.phase is not None
    assert trace.phase.tolist() == [0, 0, 0, 0, 1, 1]
    assert trace.experts[:3].max() == -1
    np.testing.assert_array_equal(trace.experts[3:], routing(6)[3:])
    assert report.notices[0].startswith("3 of 4 prompt tokens came out of the prefix cache (cached_tokens): not run")
    assert report.format == ("sglang" if "sgl" in place else "vllm")


def test_prompt_and_generation_apart(tmp_path: Path) -> None:
    """Version 0.21: the prompt's rows beside the choices, or in them where there are several prompts."""
    rows, usage = routing(6), {"prompt_tokens": 4, "completion_tokens": 3}
    apart = openai({"routed_experts": rows[4:].tolist()}, usage, prompt_routed_experts=rows[:4].tolist())
    inside = openai({"routed_experts": rows[4:].tolist(), "prompt_routed_experts": rows[:4].tolist()}, usage)
    later = openai({"routed_experts": rows[4:].tolist()}, usage, prompt_routed_experts=rows[2:4].tolist())
    trace, report = read(tmp_path, apart, inside, later)
    np.testing.assert_array_equal(trace.experts[:12], np.concatenate([rows, rows]))
    assert trace.experts[12:14].max() == -1
    np.testing.assert_array_equal(trace.experts[14:], rows[2:])
    assert trace.phase is not None
    assert trace.phase.tolist() == [0, 0, 0, 0, 1, 1] * 3
    assert report.notices[0].startswith("2 tokens before the first row")
    # one token generated: nothing of it ran; more, and their routing was dropped
    for nothing in (None, []):
        one = openai(
            {"routed_experts": nothing}, {**usage, "completion_tokens": 1}, prompt_routed_experts=rows[:4].tolist()
        )
        trace, _ = read(tmp_path, one)
        np.testing.assert_array_equal(trace.experts, rows[:4])
    dropped = openai({"routed_experts": None, "token_ids": [1, 2, 3]}, usage, prompt_routed_experts=rows[:4].tolist())
    trace, report = read(tmp_path, apart, dropped)
    assert (report.requests, report.notices[0].startswith("1 request without routing")) == (1, True)


def test_native_answers(tmp_path: Path) -> None:
    rows = routing(6)
    counts = {"prompt_tokens": 4, "completion_tokens": 3}
    whole = native(**counts, routed_experts=flat(rows), cached_tokens=0, indexer_topk="AAAA")
    later = native(**counts, routed_experts=flat(rows[2:]), cached_tokens=3, routed_experts_start_len=2)
    trace, report = read(tmp_path, [whole, later])  # n > 1, or several prompts: a list
    np.testing.assert_array_equal(trace.experts[:6], rows)
    np.testing.assert_array_equal(trace.experts[9:], rows[3:])
    assert (trace.experts[6:9] == -1).all()
    assert report.requests == 2
    with pytest.raises(TraceError, match=r"response 1: .* from position 1 for a prompt of 4 .*check --num-layers"):
        read(tmp_path, native(**counts, routed_experts=flat(rows[2:]), routed_experts_start_len=1))


def test_two_choices_of_one_prompt_and_two_prompts(tmp_path: Path) -> None:
    a, b = routing(6), routing(8, 1)  # 3 and 5 generated after 4
    choices = [{"index": i, "finish_reason": "stop", "routed_experts": npy(rows)} for i, rows in enumerate([a, b])]
    one_prompt = {"choices": choices, "usage": {"prompt_tokens": 4, "completion_tokens": 8}}
    trace, _ = read(tmp_path, one_prompt)
    assert trace.phase is not None
    assert trace.phase.tolist() == [0] * 4 + [1] * 2 + [0] * 4 + [1] * 4
    # a list of prompts, of 4 and 6 tokens: usage has sums; the tokens generated say which is which
    for choice, made in zip(choices, (3, 3), strict=True):
        choice["token_ids"] = [9] * made
    two_prompts = {
        "object": "text_completion",
        "choices": choices,
        "usage": {"prompt_tokens": 10, "completion_tokens": 6},
    }
    trace, _ = read(tmp_path, two_prompts)
    assert trace.phase is not None
    assert trace.phase.tolist() == [0] * 4 + [1] * 2 + [0] * 6 + [1] * 2
    # n = 2 from position 2 on, as /inference/v1/generate sends it
    choices = [{"index": i, "token_ids": [9] * 3, "routed_experts": npy(a[2:])} for i in range(2)]
    trace, _ = read(tmp_path, {"choices": choices, "usage": {"prompt_tokens": 4, "completion_tokens": 6}})
    assert trace.phase is not None
    assert trace.phase.tolist() == [0, 0, 0, 0, 1, 1] * 2
    assert (trace.experts[[0, 1, 6, 7]] == -1).all()


def test_cached_tokens_of_several_prompts_are_a_sum(tmp_path: Path) -> None:
    rows = routing(6)
    choices = [
        {"index": i, "token_ids": [9] * 3, "prompt_token_ids": [i, 2, 3, 4], "routed_experts": npy(rows)}
        for i in (0, 1)
    ]
    usage = {"prompt_tokens": 8, "completion_tokens": 6, "prompt_tokens_details": {"cached_tokens": 3}}
    trace, report = read(tmp_path, {"choices": choices, "usage": usage})
    assert trace.experts.min() >= 0
    assert any("cached_tokens of several prompts in one sum" in notice for notice in report.notices)


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("kind", ["chat.completion", "text_completion"])
def test_sglang_sends_the_first_choice_only(kind: str, n: int, tmp_path: Path) -> None:
    choices = [{"index": i, "finish_reason": "stop"} for i in range(n)]
    usage = {"prompt_tokens": 4, "completion_tokens": 3 * n, "prompt_tokens_details": None}
    answer = {"object": kind, "choices": choices, "usage": usage, "sglext": {"routed_experts": flat(routing(6))}}
    trace, report = read(tmp_path, answer)
    assert trace.phase is not None
    assert trace.phase.tolist() == [0] * 4 + [1] * 2
    assert any(notice.startswith(f"{n - 1} further choice") for notice in report.notices)
    read(tmp_path, answer, options=Options(num_layers=LAYERS, top_k=TOP_K, num_experts=EXPERTS, stop_on_error=True))


def test_a_start_that_contradicts_the_usage(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 4, "completion_tokens": 1}  # a gateway counted its last attempt only
    trace, report = read(tmp_path, openai({"routed_experts": described(routing(6)[2:], start=2)}, usage))
    assert trace.phase is not None
    assert trace.phase.tolist() == [0] * 4 + [1] * 2
    assert any("own start contradicts" in notice for notice in report.notices)


def test_a_stop_string_that_cut_tokens_off(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 4, "completion_tokens": 3}
    trace, _ = read(tmp_path, openai({"routed_experts": npy(routing(6)), "token_ids": [1, 2]}, usage))
    assert trace.phase is not None
    assert trace.phase.tolist() == [0] * 4 + [1] * 2


def test_an_echoed_prompt(tmp_path: Path) -> None:
    choice = {"routed_experts": npy(routing(6)), "prompt_token_ids": [5, 6, 7, 8], "token_ids": [5, 6, 7, 8, 1, 2, 3]}
    trace, _ = read(tmp_path, openai(choice, {"prompt_tokens": 4, "completion_tokens": 3}))
    assert trace.token_ids is not None
    assert trace.token_ids.tolist() == [5, 6, 7, 8, 1, 2]


# --- drawn: rows x prompt x generated x start x cached, each said or not ---------------------------------------------


@st.composite
def answers(draw: st.DrawFn) -> tuple[Json, list[int], list[int], bool]:
    """An answer; the row that each position must have (-1: none), its phases, and whether it says enough."""
    prompt, made = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    ran = prompt + made - 1
    cached = draw(st.integers(0, prompt))
    start = draw(st.integers(0, ran - 1))
    say_prompt, say_made, say_start, say_cached = (draw(st.booleans()) for _ in range(4))
    forms = ["ids", "usage", "described", "native", "sglext", "nvext", "split", "stream"]
    form = draw(st.sampled_from(forms))
    says_start = say_start and form in ("described", "native", "nvext", "sglext")
    if form == "split" or not (says_start or (say_prompt and say_made)):
        start = 0
    rows = routing(ran)[start:]
    usage = {"prompt_tokens": prompt if say_prompt else None, "completion_tokens": made if say_made else None}
    if say_cached:
        usage["prompt_tokens_details"] = {"cached_tokens": cached}
    starts = {"start": start} if says_start else {}
    if form == "ids":
        choice: Json = {"routed_experts": npy(rows)}
        choice |= {"prompt_token_ids": list(range(prompt))} if say_prompt else {}
        choice |= {"token_ids": list(range(made))} if say_made else {}
        answer = openai(choice, {name: usage[name] for name in usage if "details" in name})
    elif form == "usage":
        answer = openai({"routed_experts": npy(rows, "uint16")}, usage)
    elif form == "described":
        answer = openai({"routed_experts": described(rows, "int8", **starts)}, usage)
    elif form == "nvext":
        answer = openai({}, usage, nvext={"routed_experts": described(rows, "int16", **starts)})
    elif form == "native":
        meta = {name: count for name, count in usage.items() if "details" not in name}
        meta |= {"cached_tokens": cached} if say_cached else {}
        meta |= {"routed_experts_start_len": start} if says_start else {}
        answer = native(routed_experts=flat(rows), **meta)
    elif form == "sglext":
        extras = {"routed_experts": flat(rows)} | ({"routed_experts_start_len": start} if says_start else {})
        answer = openai({}, usage, sglext=extras)
    elif form == "split":
        say_prompt = True
        answer = openai({"routed_experts": rows[prompt:].tolist()}, usage, prompt_routed_experts=rows[:prompt].tolist())
    else:
        answer = openai({"routed_experts": npy(rows), "object": "x"}, usage)
    left = min(cached, (prompt if say_prompt or say_made else ran) - 1) if say_cached else 0
    want = [at if at >= start and at >= left else -1 for at in range(ran)]
    phase = [0] * prompt + [1] * (made - 1)
    return answer, want, phase, say_prompt or say_made


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(drawn=answers(), keep=st.booleans(), form=st.sampled_from(["jsonl", "list", "sse"]))
def test_whatever_servers_say(
    drawn: tuple[Json, list[int], list[int], bool], keep: bool, form: str, tmp_path: Path
) -> None:
    answer, want, phase, enough = drawn
    options = Options(
        num_layers=LAYERS, top_k=TOP_K, num_experts=EXPERTS, cached_prefix="keep" if keep else None,
        phase=None if enough else "none",
    )  # fmt: skip
    if keep:
        first = next((at for at, row in enumerate(want) if row >= 0), len(want))
        start = len(want) - len(_rows_sent(answer))
        want = [at if at >= start else -1 for at in range(len(want))]
        assert first >= start
    full = routing(len(want))
    trace, _ = read(tmp_path, answer, options=options, form=form)
    expected = np.where(np.array(want)[:, None, None] >= 0, full, -1)
    np.testing.assert_array_equal(trace.experts, expected)
    if enough:
        assert trace.phase is not None
        assert trace.phase.tolist() == phase
    else:
        assert trace.phase is None
        with pytest.raises(TraceError, match="does not say how many tokens its prompt has"):
            read(tmp_path, answer)


def _rows_sent(answer: Json) -> Ids:
    from lrcsim.traces.importers.answers import read_answer

    return read_answer(answer, SHAPE).routed[0].experts.astype(np.int64)


# --- cached prefixes that the file does not tell ---------------------------------------------------------------------


def turn(prompt: list[int], made: list[int], cached: int | None = None, seed: int = 0) -> Json:
    choice = {"routed_experts": npy(routing(len(prompt) + len(made) - 1, seed)), "prompt_token_ids": prompt}
    usage: Json = {"prompt_tokens": len(prompt), "completion_tokens": len(made)}
    if cached is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": cached}
    return openai(choice | {"token_ids": made}, usage)


# By hand. Turn 1: prompt 0..39, generated 40..49, so positions 0..48 ran. Turn 2: prompt 0..59; its first 49 tokens are
# those that ran, and all but its last token might be cached. Turn 3: prompt 0..59 again: 59 of them.
TURNS = [turn([*range(40)], [*range(40, 50)]), turn([*range(60)], [7, 7]), turn([*range(60)], [8, 8])]


def test_turns_that_repeat_earlier_ones(tmp_path: Path) -> None:
    trace, report = read(tmp_path, *TURNS)
    assert trace.experts.min() >= 0
    (notice,) = [text for text in report.notices if "repeat" in text]
    assert notice.startswith("108 of 120 prompt tokens repeat earlier requests")
    assert "--cached-prefix drop" in notice
    assert "--cached-prefix keep" in notice

    trace, report = read(tmp_path, *TURNS, options=Options(num_experts=EXPERTS, cached_prefix="drop"))
    lengths = np.diff(trace.offsets).tolist()
    idle = (trace.experts < 0).all(axis=(1, 2))
    per_turn = [int(part.sum()) for part in np.split(idle, trace.offsets[1:-1])]
    assert (lengths, per_turn) == ([49, 61, 61], [0, 49, 59])
    (notice,) = report.notices
    assert notice.startswith(
        "108 of 160 prompt tokens repeat earlier requests, have no cached_tokens of their own and were"
    )
    assert "at most" in notice

    trace, report = read(tmp_path, *TURNS, options=Options(num_experts=EXPERTS, cached_prefix="keep"))
    assert trace.experts.min() >= 0
    assert report.notices == []


def test_what_the_file_says_goes_before_what_repeats(tmp_path: Path) -> None:
    said = [TURNS[0], turn([*range(60)], [7, 7], cached=48), turn([*range(60)], [8, 8], cached=0)]
    for option in (None, "drop"):
        trace, report = read(tmp_path, *said, options=Options(num_experts=EXPERTS, cached_prefix=option))
        idle = (trace.experts < 0).all(axis=(1, 2))
        assert [int(part.sum()) for part in np.split(idle, trace.offsets[1:-1])] == [0, 48, 0]
        assert not any("repeat" in notice for notice in report.notices)
    trace, report = read(tmp_path, *said, options=Options(num_experts=EXPERTS, cached_prefix="keep"))
    assert trace.experts.min() >= 0
    assert report.notices == ["48 prompt tokens came out of the prefix cache and count as run (--cached-prefix keep)"]


def test_a_template_is_no_repeated_turn(tmp_path: Path) -> None:
    _, report = read(tmp_path, turn([1, 2, 3, *range(50, 70)], [5]), turn([1, 2, 3, *range(80, 99)], [5]))
    assert report.notices == []


# By hand. Without token ids the same three turns are known by their routing: what a server returns of a cached prefix
# is what it returned before. Of turn 2 the rows 0..48 are those that turn 1 ran, of turn 3 all 60 of the prompt.
@pytest.mark.parametrize(
    ("order", "repeated"), [([0, 1, 2], [0, 49, 59]), ([1, 0, 2], [0, 39, 59]), ([2, 1, 0], [0, 59, 39])]
)
def test_turns_without_token_ids(order: list[int], repeated: list[int], tmp_path: Path) -> None:
    random = np.random.default_rng(0).random((70, LAYERS, EXPERTS)).argsort(axis=2)[:, :, :TOP_K]
    ran = [49, 61, 61]  # prompts of 40, 60, 60
    rows = [random[:49], np.concatenate([random[:49], random[49:61]]), np.concatenate([random[:60], random[69:]])]
    counts = [{"prompt_tokens": p, "completion_tokens": r + 1 - p} for p, r in zip([40, 60, 60], ran, strict=True)]
    turns = [openai({"routed_experts": npy(rows[i])}, counts[i]) for i in order]
    _, report = read(tmp_path, *turns)
    assert any("prompt tokens repeat earlier requests" in notice for notice in report.notices)
    trace, report = read(tmp_path, *turns, options=Options(num_experts=EXPERTS, cached_prefix="drop"))
    idle = (trace.experts < 0).all(axis=(1, 2))
    assert [int(part.sum()) for part in np.split(idle, trace.offsets[1:-1])] == repeated
    _, report = read(tmp_path, *turns, options=Options(num_experts=EXPERTS, cached_prefix="keep"))
    assert report.notices == []


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(data=st.data(), drop=st.booleans())
def test_routing_tells_what_token_ids_tell(data: st.DataObject, drop: bool, tmp_path: Path) -> None:
    """Turns, branches and repeats of conversations, read with and without their token ids."""
    sequences: list[list[int]] = []
    fresh = itertools.count()
    turns: list[tuple[list[int], list[int]]] = []
    for _ in range(data.draw(st.integers(1, 5))):
        earlier = data.draw(st.sampled_from([[], *sequences]))
        prompt = earlier[: data.draw(st.integers(0, len(earlier)))] + [
            next(fresh) for _ in range(data.draw(st.integers(1, 20)))
        ]
        made = [next(fresh) for _ in range(data.draw(st.integers(1, 12)))]
        turns.append((prompt, made))
        sequences.append([*prompt, *made][:-1])
    rows = np.random.default_rng(0).random((next(fresh) + 1, 6, EXPERTS)).argsort(axis=2)[:, :, :TOP_K]  # of each id
    answers = [
        openai(
            {"routed_experts": npy(rows[[*prompt, *made][:-1]]), "prompt_token_ids": prompt, "token_ids": made},
            {"prompt_tokens": len(prompt), "completion_tokens": len(made)},
        )
        for prompt, made in turns
    ]
    options = Options(num_experts=EXPERTS, cached_prefix="drop" if drop else None)
    by_ids, said = read(tmp_path, *answers, options=options)
    for answer in answers:
        del answer["choices"][0]["prompt_token_ids"], answer["choices"][0]["token_ids"]
    by_rows, said_by_rows = read(tmp_path, *answers, options=options)
    idle = [(trace.experts < 0).all(axis=(1, 2)) for trace in (by_ids, by_rows)]
    for low, high in itertools.pairwise(by_ids.offsets.tolist()):
        told, seen = (int(part[low:high].sum()) for part in idle)
        assert seen == (told if told >= 8 else 0)
    if not drop and not any("repeat" in notice for notice in said.notices):
        assert said_by_rows.notices == said.notices


def test_an_empty_prompt(tmp_path: Path) -> None:
    answer = openai({"routed_experts": npy(routing(4))}, {"prompt_tokens": 0, "completion_tokens": 5})
    trace, report = read(tmp_path, answer, answer)
    assert (trace.experts.min() >= 0, report.notices) == (True, [])
    assert trace.phase is not None
    assert trace.phase.tolist() == [1] * 8


def test_few_equal_rows_are_no_repeated_turn(tmp_path: Path) -> None:
    one = openai({"routed_experts": npy(routing(9))}, {"prompt_tokens": 7, "completion_tokens": 3})
    _, report = read(tmp_path, one, one)
    assert report.notices == []


def test_choices_of_one_prompt_and_one_count_of_cached_tokens(tmp_path: Path) -> None:
    rows = routing(22)  # 20 prompt tokens, 3 generated
    choices = [{"index": i, "finish_reason": "stop", "routed_experts": npy(rows)} for i in (0, 1)]
    answer = {"choices": choices, "usage": {"prompt_tokens": 20, "completion_tokens": 6}}
    _, report = read(tmp_path, answer)  # vLLM runs the prompt once, and takes it out of its cache for the second
    assert report.notices[0].startswith("19 of 20 prompt tokens repeat earlier requests")
    answer["usage"] = {**COUNTS_OF_20, "prompt_tokens_details": {"cached_tokens": 16}}
    trace, report = read(tmp_path, answer)
    assert (trace.experts < 0).all(axis=(1, 2)).sum() == 32
    assert report.notices[1].startswith("1 response gives one cached_tokens for several choices (n > 1)")


COUNTS_OF_20 = {"prompt_tokens": 20, "completion_tokens": 6}


def test_more_cached_tokens_than_the_prompt_has(tmp_path: Path) -> None:
    # SGLang until 2025 added those of all choices (19 + 19), and those of a request that it had retracted and run again
    sums = {**COUNTS_OF_20, "prompt_tokens_details": {"cached_tokens": 38}}
    extras = {"sglext": {"routed_experts": flat(routing(22))}}
    answer = {"object": "chat.completion", "choices": [{"index": 0}, {"index": 1}], "usage": sums, **extras}
    again = native(routed_experts=flat(routing(22, 1)), prompt_tokens=20, completion_tokens=3, cached_tokens=21)
    trace, report = read(tmp_path, answer, again)
    assert trace.experts.min() >= 0
    assert any(notice.startswith("2 of 2 requests have more cached_tokens than") for notice in report.notices)


# --- lines without routing -------------------------------------------------------------------------------------------

ABORTED = openai({"finish_reason": "abort", "routed_experts": None}, {"prompt_tokens": 4, "completion_tokens": 0})


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (ABORTED, "finish_reason abort"),
        (openai({"routed_experts": None}, {"prompt_tokens": 4, "completion_tokens": 3}), "no 'routed_experts'"),
        (openai({"routed_experts": ""}, None), "no 'routed_experts'"),
        ({"choices": [], "usage": None}, "has no choices"),
        ({"error": {"message": "the prompt is too long", "code": 400}}, "error: the prompt is too long"),
        ({"object": "error", "message": "the prompt is too long", "code": 400}, "error: the prompt is too long"),
        ({"detail": [{"msg": "field required"}]}, "field required"),
        ({"custom_id": "a", "response": {"status_code": 400, "body": {"error": {"message": "too long"}}}}, "too long"),
        ({"custom_id": "a", "response": None, "error": {"message": "expired"}}, "expired"),
        (native(routed_experts=None, prompt_tokens=4), "no 'routed_experts'"),
        (native(finish_reason={"type": "abort", "message": "client left"}), "client left"),
        (None, "null"),
    ],
)
def test_a_line_without_routing_is_skipped(bad: object, why: str, tmp_path: Path) -> None:
    good = turn([1, 2, 3, 4], [5, 6, 7])
    trace, report = read(tmp_path, good, bad, bad, good, options=SHAPE)
    assert (report.requests, trace.num_tokens) == (2, 12)
    notice = report.notices[0]
    assert notice.startswith("2 requests without routing skipped, the first at ")
    assert "answers.json: response 2: " in notice
    assert why in notice
    stop = Options(num_layers=LAYERS, top_k=TOP_K, num_experts=EXPERTS, stop_on_error=True)
    with pytest.raises(TraceError, match=r"response 2: .*--stop-on-error"):
        read(tmp_path, good, bad, good, options=stop)
    with pytest.raises(TraceError, match="holds no routed experts"):
        import_trace(_file(tmp_path, bad), tmp_path / "out.h5", "vllm")


def _file(folder: Path, *answers: object) -> Path:
    path = folder / "bad.json"
    path.write_text("\n".join(map(json.dumps, answers)))
    return path


def test_an_aborted_answer_with_routing(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 40, "completion_tokens": 3}
    trace, report = read(tmp_path, openai({"finish_reason": "abort", "routed_experts": npy(routing(6))}, usage))
    assert trace.phase is not None
    assert trace.phase.tolist() == [0] * 6
    assert report.notices == ["1 of 1 requests end early (aborted): what they ran is in the trace"]


# --- layers and rows of zeros ----------------------------------------------------------------------------------------


def test_zero_layers_of_a_top_1_model(tmp_path: Path) -> None:
    rows = np.zeros((6, 3, 1), np.int64)
    rows[:, 1, 0] = [0, 3, 1, 4, 1, 5]
    answer = openai({"routed_experts": npy(rows)}, {"prompt_tokens": 4, "completion_tokens": 3})
    trace, report = read(tmp_path, answer, options=Options(num_experts=EXPERTS))
    assert trace.experts.shape == (6, 1, 1)
    assert report.notices == [
        "2 of 3 layers hold only zeros (dense layers), left out: 0, 2; "
        "if a router is stuck at expert 0, --keep-zero-layers keeps them"
    ]
    trace, report = read(tmp_path, answer, options=Options(num_experts=EXPERTS, keep_zero_layers=True))
    np.testing.assert_array_equal(trace.experts, rows)


def test_rows_of_zeros(tmp_path: Path) -> None:
    good, rows = turn([1, 2, 3, 4], [5, 6, 7]), routing(6)
    rows[3] = 0
    holed = openai({"routed_experts": npy(rows)}, {"prompt_tokens": 4, "completion_tokens": 3})
    with pytest.raises(TraceError, match=r"answers.json: response 2: row 3 \(token 3\) .*--drop-zero-rows"):
        read(tmp_path, good, holed)
    options = Options(num_experts=EXPERTS, drop_zero_rows=True)
    trace, _ = read(tmp_path, good, holed, options=options)
    assert (trace.experts[9] == -1).all()
    assert (np.delete(trace.experts, 9, axis=0) >= 0).all()


def test_what_the_check_finds_names_the_response(tmp_path: Path) -> None:
    rows = routing(6)
    rows[3, 1] = [5, 5]
    bad = openai({"routed_experts": npy(rows)}, {"prompt_tokens": 4, "completion_tokens": 3})
    with pytest.raises(TraceError, match=r"answers.json: response 2: token 9, layer 1: expert 5 stands twice"):
        read(tmp_path, turn([1, 2, 3, 4], [5, 6, 7]), bad)


# --- what JSON allows and no server sends ----------------------------------------------------------------------------

GOOD = {"routed_experts": npy(routing(6))}
COUNTS = {"prompt_tokens": 4, "completion_tokens": 3}


@pytest.mark.parametrize(
    "answer",
    [
        openai(GOOD, {**COUNTS, "prompt_tokens": True}),
        openai(GOOD, {**COUNTS, "prompt_tokens": 4.0}),
        openai(GOOD, {**COUNTS, "prompt_tokens": "4"}),
        openai(GOOD, {**COUNTS, "prompt_tokens": 10**7}),
        openai(GOOD, {**COUNTS, "prompt_tokens": 1 << 40}),
        openai(GOOD, {**COUNTS, "completion_tokens": -1}),
        openai(GOOD, {**COUNTS, "completion_tokens": float("nan")}),
        openai(GOOD, {**COUNTS, "prompt_tokens_details": {"cached_tokens": -5}}),
        openai(GOOD, {**COUNTS, "prompt_tokens_details": {"cached_tokens": [4]}}),
        openai(GOOD, {**COUNTS, "prompt_tokens_details": 3}),
        openai({**GOOD, "token_ids": "abc"}, COUNTS),
        openai({**GOOD, "token_ids": [1, True]}, COUNTS),
        openai({**GOOD, "prompt_token_ids": [1 << 31]}, COUNTS),
        openai({"routed_experts": 3}, COUNTS),
        openai({"routed_experts": True}, COUNTS),
        openai({"routed_experts": [[[0, True], [1, 2]]] * 6}, COUNTS),
        openai({"routed_experts": [[[0, 1.5], [1, 2]]] * 6}, COUNTS),
        openai({"routed_experts": [[[0, 10**30], [1, 2]]] * 6}, COUNTS),
        openai({"routed_experts": described(routing(6), start=60_000_000)}, {"prompt_tokens": 60_000_000}),
        openai({"routed_experts": described(routing(6), start=True)}, COUNTS),
        openai({"routed_experts": described(routing(6)) | {"shape": [6, 2, True]}}, COUNTS),
        openai({"routed_experts": described(routing(6)) | {"shape": [1 << 40, 1 << 40, 2]}}, COUNTS),
        openai({"routed_experts": described(routing(6)) | {"dtype": ["uint8"]}}, COUNTS),
        openai(GOOD, COUNTS, model=3),
        {"choices": [3]},
        {"choices": {}},
        native(routed_experts=flat(routing(6)), prompt_tokens="x"),
    ],
)
def test_wrong_types_end_in_one_line(answer: Json, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"answers.json: response 2") as error:
        read(tmp_path, turn([1, 2, 3, 4], [5, 6, 7]), answer)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700


def test_a_small_file_cannot_ask_for_a_large_trace(tmp_path: Path) -> None:
    lines = [openai({"routed_experts": described(routing(6), start=1_000_000)}, {"prompt_tokens": 1_000_000})] * 3
    with pytest.raises(TraceError, match="too much for its size"):
        read(tmp_path, *lines)


# --- streams ---------------------------------------------------------------------------------------------------------


def chunks(name: str, prompt: int, made: int, *, usage: bool) -> list[Json]:
    """Give what vLLM streams of a completion: a token each, the routing in the last chunk, then the usage."""
    parts: list[Json] = []
    for at in range(made):
        last = at == made - 1
        choice: Json = {"index": 0, "text": "x", "finish_reason": "length" if last else None, "token_ids": [at]}
        choice["prompt_token_ids"] = list(range(prompt)) if at == 0 else None
        choice["routed_experts"] = npy(routing(prompt + made - 1)) if last else None
        parts.append({"id": name, "object": "text_completion", "model": "m", "choices": [choice]})
    if usage:
        counts = {"prompt_tokens": prompt, "completion_tokens": made, "prompt_tokens_details": {"cached_tokens": 1}}
        parts.append({"id": name, "object": "text_completion", "choices": [], "usage": counts})
    return parts


@pytest.mark.parametrize("form", ["sse", "jsonl", "list"])
@pytest.mark.parametrize("mixed", [False, True])
def test_streams(form: str, mixed: bool, tmp_path: Path) -> None:
    a, b = chunks("a", 4, 3, usage=True), chunks("b", 2, 3, usage=True)
    pairs = itertools.zip_longest(a, b)
    values = [part for pair in pairs for part in pair if part] if mixed else a + b
    trace, report = read(tmp_path, *values, form=form)
    assert report.requests == 2
    assert trace.phase is not None
    assert trace.phase.tolist() == [0] * 4 + [1] * 2 + [0] * 2 + [1] * 2
    assert trace.token_ids is not None
    assert trace.token_ids.tolist() == [0, 1, 2, 3, 0, 1, 0, 1, 0, 1]
    assert (trace.experts[:, 0, 0] < 0).tolist() == [True] + [False] * 5 + [True] + [False] * 3


@pytest.mark.parametrize("chunk", [7, 40])
def test_server_sent_events_across_chunks(chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrcsim.traces.importers.json_objects.CHUNK", chunk)
    lines = [json.dumps(part) for part in chunks("a", 4, 3, usage=True)]
    around = ": a comment, to keep the connection alive\r\n\r\nevent: message of a long name\r\nid: 3\r\ndata:"
    text = "\ufeff" + "".join(f"{around}{line}\r\n\r\n" for line in lines) + "retry: 100\r\ndata: [DONE]\r\n\r\n"
    (tmp_path / "stream.txt").write_text(text)
    report = import_trace(tmp_path / "stream.txt", tmp_path / "out.h5")
    assert (report.format, report.requests, report.tokens) == ("vllm", 1, 6)


def test_a_phase_for_what_does_not_say_it(tmp_path: Path) -> None:
    silent = openai({"routed_experts": npy(routing(5))})
    options = Options(num_experts=EXPERTS, phase="decode")
    trace, _ = read(tmp_path, turn([1, 2, 3, 4], [5, 6, 7]), silent, options=options)
    assert trace.phase is not None
    assert trace.phase.tolist() == [0, 0, 0, 0, 1, 1] + [1] * 5


def test_answers_of_one_id_without_a_finish_reason_are_no_chunks(tmp_path: Path) -> None:
    answer = turn([1, 2, 3, 4], [5, 6, 7])
    answer["choices"][0]["finish_reason"] = None
    _, report = read(tmp_path, answer, answer)
    assert (report.requests, report.tokens) == (2, 12)


def test_a_stream_that_broke_off_is_skipped(tmp_path: Path) -> None:
    values = chunks("a", 4, 3, usage=False)[:2] + chunks("b", 2, 3, usage=False)
    _, report = read(tmp_path, *values, form="sse")
    assert report.requests == 1
    assert report.notices[0].startswith("1 request without routing skipped")


@pytest.mark.parametrize("name", ["sglext", "sgl_ext", "routed_experts"])
def test_routing_after_the_finish_reason(name: str, tmp_path: Path) -> None:
    """Each of two choices ends, and then gets its routing in a chunk of its own."""
    kind = {"id": "c", "object": "chat.completion.chunk", "model": "m"}
    empty: Json = {"delta": {}, "finish_reason": None}
    given = npy(routing(6)) if name == "routed_experts" else {"routed_experts": flat(routing(6))}
    values: list[Json] = [
        *({**kind, "choices": [{"index": i, "delta": {"content": "x"}, "finish_reason": None}]} for i in (0, 1, 0, 1)),
        *({**kind, "choices": [{"index": i, "delta": {}, "finish_reason": "stop"}]} for i in (0, 1)),
        *({**kind, "choices": [{"index": i, **empty, name: given}]} for i in (0, 1)),
        {**kind, "choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 6}},
    ]
    trace, report = read(tmp_path, *values, *values, form="sse")
    assert (report.requests, report.notices) == (4, [])
    assert trace.phase is not None
    assert trace.phase.tolist() == ([0] * 4 + [1] * 2) * 4


def test_a_stream_with_routing_so_far_in_each_chunk(tmp_path: Path) -> None:
    values = [
        native(
            id="s", finish_reason={"type": "length"} if made == 3 else None, prompt_tokens=4, completion_tokens=made,
            routed_experts=flat(routing(3 + made)),
        )
        for made in (1, 2, 3)
    ]  # fmt: skip
    trace, report = read(tmp_path, *values, form="sse")
    assert (report.requests, trace.num_tokens) == (1, 6)


def test_streams_of_sglang(tmp_path: Path) -> None:
    meta = {"id": "s", "prompt_tokens": 4}
    values = [
        {"text": "x", "output_ids": [1], "meta_info": {**meta, "completion_tokens": 1, "finish_reason": None}},
        {
            "text": "xx",
            "output_ids": [1, 2, 3],
            "meta_info": {
                **meta, "completion_tokens": 3, "finish_reason": {"type": "length"}, "cached_tokens": 1,
                "routed_experts": flat(routing(6)),
            },
        },
    ]  # fmt: skip
    trace, report = read(tmp_path, *values, form="sse")
    assert (report.requests, trace.num_tokens, report.unrecorded) == (1, 6, LAYERS * TOP_K)
    kind = {"id": "c", "object": "chat.completion.chunk", "model": "m"}
    values = [
        {**kind, "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}]},
        {**kind, "choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]},
        {**kind, "choices": [], "sglext": {"routed_experts": flat(routing(6))}},
        {**kind, "choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 3}},
    ]
    trace, report = read(tmp_path, *values, form="sse")
    assert (report.format, trace.num_tokens) == ("sglang", 6)
    assert trace.phase is not None
    assert trace.phase.tolist() == [0] * 4 + [1] * 2


# --- folders, and the command line -----------------------------------------------------------------------------------


def test_a_folder_of_answers_is_read_as_one_file(tmp_path: Path) -> None:
    folder = tmp_path / "answers"
    folder.mkdir()
    for number, answer in enumerate([*TURNS, {"error": {"message": "too long"}}, ABORTED]):
        (folder / f"turn{number}.json").write_text(json.dumps(answer, indent=1))
    out = tmp_path / "out.h5"
    report = import_trace(folder, out, options=Options(num_experts=EXPERTS))
    assert report.requests == 3
    assert report.notices[0].startswith(f"2 requests without routing skipped, the first at {folder / 'turn3.json'}: ")
    assert report.notices[1].startswith("108 of 120 prompt tokens repeat earlier requests")
    report = import_trace(folder, out, options=Options(num_experts=EXPERTS, cached_prefix="drop"))
    assert report.unrecorded == 108 * LAYERS * TOP_K


def test_drop_says_where_it_can_do_nothing(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 4, "completion_tokens": 3}
    options = Options(num_experts=EXPERTS, cached_prefix="drop")
    _, report = read(tmp_path, openai({"routed_experts": npy(routing(6)[2:])}, usage), options=options)
    assert report.notices[1:] == [
        "1 of 1 requests have neither cached_tokens nor token ids nor the routing of their first tokens: what came out "
        "of a prefix cache cannot be told, --cached-prefix drop left nothing out of them"
    ]


def test_options_on_the_command_line(lrcsim: Any, tmp_path: Path) -> None:
    source = _file(tmp_path, *TURNS, ABORTED)
    out = tmp_path / "out.h5"
    code, said, err = lrcsim("trace", "import", source, "-o", out, "--cached-prefix", "drop")
    assert code == 0, err
    assert "Note: 1 request without routing skipped" in err
    assert f"{108 * LAYERS * TOP_K} expert positions not recorded" in said or "108" in said
    code, _, err = lrcsim("trace", "import", source, "-o", out, "--stop-on-error")
    assert (code, err.count("\n")) == (1, 1)
    assert "response 4: a choice has no 'routed_experts' (finish_reason abort)" in err
    code, _, err = lrcsim("trace", "import", source, "-o", out, "--cached-prefix", "maybe")
    assert (code, "use 'drop' or 'keep'" in err) == (1, True)
    (tmp_path / "rows.csv").write_text("token,layer,expert\n0,0,1\n")
    code, _, err = lrcsim("trace", "import", tmp_path / "rows.csv", "-o", out, "--stop-on-error")
    assert (code, "has no use for stop-on-error" in err) == (1, True)


def test_the_example_of_the_page(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "importing.md").read_text()
    (text,) = re.findall(r"^```json\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    trace, report = read(tmp_path, json.loads(text), options=Options(num_experts=6))
    assert trace.phase is not None
    assert trace.phase.tolist() == [0, 0, 1, 1]
    assert trace.experts[:, 0].tolist() == [[-1, -1], [4, 5], [0, 1], [3, 4]]
    assert report.notices[0].startswith("1 of 2 prompt tokens came out of the prefix cache")
    for name in FORMATS["vllm"].options - {"expert_bytes", "model", "num_experts"}:
        assert f"--{name.replace('_', '-')}" in page

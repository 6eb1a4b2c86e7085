"""One trace in every layout that people write: all must come in as the same arrays, or be refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from trace_files import imported, random_experts

from lrcsim.base.errors import ConfigError, TraceError
from lrcsim.traces.importers import Options, csv_text, import_trace, parse_columns, regroup
from lrcsim.traces.importers.values import DECODE_WORDS, PREFILL_WORDS

anywhere = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TOP_K = 3


class Drawn:
    """A few requests [tokens, layers, k] with phases and weights."""

    def __init__(self, seed: int, requests: int, layers: int) -> None:
        rng = np.random.default_rng(seed)
        self.experts = [random_experts(rng, int(n), layers, 9, TOP_K) for n in rng.integers(2, 6, requests)]
        self.prompts = [int(rng.integers(1, len(request))) for request in self.experts]
        self.weights = [rng.random(request.shape).round(3).astype(np.float32) for request in self.experts]
        self.layers = layers

    def cells(self) -> list[dict[str, object]]:
        """One dict per token and layer."""
        return [
            {
                "request": r,
                "phase": "prefill" if t < self.prompts[r] else "decode",
                "token": t,
                "layer": layer,
                "experts": request[t, layer].tolist(),
                "weights": self.weights[r][t, layer].tolist(),
            }
            for r, request in enumerate(self.experts)
            for t in range(len(request))
            for layer in range(self.layers)
        ]

    def long(self) -> list[dict[str, object]]:
        rows = []
        for cell in self.cells():
            experts, weights = cell.pop("experts"), cell.pop("weights")
            rows += [
                {**cell, "rank": rank, "expert": experts[rank], "weight": weights[rank]}  # type: ignore[index]
                for rank in range(TOP_K)
            ]
        return rows


def as_csv(path: Path, rows: list[dict[str, object]], delimiter: str = ",", header: bool = True) -> Path:
    def cell(value: object) -> str:
        return '"' + " ".join(map(str, value)) + '"' if isinstance(value, list) else str(value)

    lines = [delimiter.join(rows[0])] if header else []
    lines += [delimiter.join(cell(value) for value in row.values()) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def as_jsonl(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def as_parquet(path: Path, rows: list[dict[str, object]]) -> Path:
    parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=5)
    return path


def wide(drawn: Drawn) -> list[dict[str, object]]:
    rows = []
    for cell in drawn.cells():
        experts, weights = cell.pop("experts"), cell.pop("weights")
        by_rank = {f"e{k}": experts[k] for k in range(TOP_K)} | {f"w{k}": weights[k] for k in range(TOP_K)}  # type: ignore[index]
        rows.append(cell | by_rank)
    return rows


def per_token(drawn: Drawn) -> list[dict[str, object]]:
    return [
        {
            "request": r,
            "is_prefill": t < drawn.prompts[r],
            "experts": request[t].tolist(),
            "weights": drawn.weights[r][t].tolist(),
        }
        for r, request in enumerate(drawn.experts)
        for t in range(len(request))
    ]


def per_request(drawn: Drawn) -> list[dict[str, object]]:
    return [
        {"prompt_len": drawn.prompts[r], "routed_experts": request.tolist(), "weights": drawn.weights[r].tolist()}
        for r, request in enumerate(drawn.experts)
    ]


def interleaved(drawn: Drawn) -> list[dict[str, object]]:
    rows = drawn.long()
    rows.sort(key=lambda row: (row["token"], row["layer"]))
    rows.sort(key=lambda row: row["token"])  # type: ignore[arg-type,return-value]
    first = {row["request"]: at for at, row in reversed(list(enumerate(rows)))}
    assert sorted(first, key=lambda r: first[r]) == list(range(len(drawn.experts)))
    return rows


def nested_rows(drawn: Drawn) -> list[dict[str, object]]:
    found = []
    for r in range(len(drawn.experts)):
        rows = [row for row in drawn.long() if row["request"] == r]
        inner = [
            {"layer": w["layer"], "token_idx": w["token"], "expert_idx": w["expert"], "gate_weight": w["weight"]}
            for w in rows
        ]
        found.append({"model_id": "toy", "prompt_len": drawn.prompts[r], "activations": inner})
    return found


def floats(drawn: Drawn) -> list[dict[str, object]]:
    return [row | {"token": float(row["token"]), "expert": float(row["expert"])} for row in drawn.long()]  # type: ignore[arg-type]


LAYOUTS: dict[str, Callable[[Drawn, Path], Path]] = {
    "long.csv": lambda d, f: as_csv(f / "t.csv", d.long()),
    "long.tsv": lambda d, f: as_csv(f / "t.tsv", d.long(), "\t"),
    "long semicolons": lambda d, f: as_csv(f / "t.csv", d.long(), ";"),
    "long spaces": lambda d, f: as_csv(f / "t.txt", d.long(), "  "),
    "long.jsonl": lambda d, f: as_jsonl(f / "t.jsonl", d.long()),
    "long.parquet": lambda d, f: as_parquet(f / "t.parquet", d.long()),
    "lists.csv": lambda d, f: as_csv(f / "t.csv", d.cells()),
    "lists.jsonl": lambda d, f: as_jsonl(f / "t.jsonl", d.cells()),
    "lists.parquet": lambda d, f: as_parquet(f / "t.parquet", d.cells()),
    "wide.csv": lambda d, f: as_csv(f / "t.csv", wide(d)),
    "wide.jsonl": lambda d, f: as_jsonl(f / "t.jsonl", wide(d)),
    "wide.parquet": lambda d, f: as_parquet(f / "t.parquet", wide(d)),
    "per token.jsonl": lambda d, f: as_jsonl(f / "t.jsonl", per_token(d)),
    "per token.parquet": lambda d, f: as_parquet(f / "t.parquet", per_token(d)),
    "per request.jsonl": lambda d, f: as_jsonl(f / "t.jsonl", per_request(d)),
    "per request.parquet": lambda d, f: as_parquet(f / "t.parquet", per_request(d)),
    "interleaved.csv": lambda d, f: as_csv(f / "t.csv", interleaved(d)),
    "interleaved.parquet": lambda d, f: as_parquet(f / "t.parquet", interleaved(d)),
    "rows inside.jsonl": lambda d, f: as_jsonl(f / "t.jsonl", nested_rows(d)),
    "floats.csv": lambda d, f: as_csv(f / "t.csv", floats(d)),
    "floats.jsonl": lambda d, f: as_jsonl(f / "t.jsonl", floats(d)),
    "headerless.csv": lambda d, f: as_csv(f / "t.csv", wide(d), header=False),
}
POSITIONS = f"request=1,phase=2,token=3,layer=4,expert=5-{4 + TOP_K},weight={5 + TOP_K}-{4 + 2 * TOP_K}"


@pytest.mark.parametrize("layout", LAYOUTS)
@given(seed=st.integers(0, 10**6), requests=st.integers(1, 4), layers=st.integers(1, 3))
@anywhere
def test_every_layout_is_the_same_trace(layout: str, seed: int, requests: int, layers: int, tmp_path: Path) -> None:
    drawn = Drawn(seed, requests, layers)
    path = LAYOUTS[layout](drawn, tmp_path)
    columns = parse_columns(POSITIONS) if layout == "headerless.csv" else {}
    back, report = imported(path, tmp_path, num_experts=9, columns=columns)
    with back:
        np.testing.assert_array_equal(back.experts, np.concatenate(drawn.experts))
        np.testing.assert_allclose(back.weights, np.concatenate(drawn.weights), rtol=1e-6)
        np.testing.assert_array_equal(back.offsets, np.cumsum([0, *map(len, drawn.experts)]))
        assert back.phase is not None
        wanted = np.concatenate([np.arange(len(e)) >= p for e, p in zip(drawn.experts, drawn.prompts, strict=True)])
        np.testing.assert_array_equal(back.phase, wanted)
    assert (report.layers, report.num_experts, report.top_k) == (layers, 9, TOP_K)
    assert (report.prefill, report.decode) == (sum(drawn.prompts), sum(map(len, drawn.experts)) - sum(drawn.prompts))


@given(seed=st.integers(0, 10**6), requests=st.integers(1, 3), layers=st.integers(2, 4), chunk=st.integers(1, 3))
@anywhere
def test_logs_of_llama_cpp(seed: int, requests: int, layers: int, chunk: int, tmp_path: Path) -> None:
    """A prompt is computed in pieces, layer after layer, its last layer for the last token alone."""
    drawn = Drawn(seed, requests, layers)
    rows: list[str] = []
    pairs: list[str] = ["layer,expert"]
    wanted = [request.copy() for request in drawn.experts]
    uneven = False
    for r, request in enumerate(drawn.experts):
        prompt = drawn.prompts[r]
        pieces = [(low, min(low + chunk, prompt)) for low in range(0, prompt, chunk)]
        uneven |= any(high - low == 1 for low, high in pieces[1:]) or chunk == 1
        for low, high in pieces:
            for layer in range(layers):
                first = low if layer < layers - 1 else high - 1
                wanted[r][low:first, layer] = -1
                for token in range(first, high):
                    rows.append(f"{token - high},{layer}," + ",".join(map(str, request[token, layer])))
                    pairs += [f"{layer},{expert}" for expert in request[token, layer]]
        for token in range(prompt, len(request)):
            for layer in range(layers):
                rows.append(f"{token - prompt},{layer}," + ",".join(map(str, request[token, layer])))
                pairs += [f"{layer},{expert}" for expert in request[token, layer]]
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    back, _ = imported(tmp_path / "t.csv", tmp_path, num_experts=9)
    with back:
        np.testing.assert_array_equal(back.experts, np.concatenate(wanted))
        np.testing.assert_array_equal(back.offsets, np.cumsum([0, *map(len, wanted)]))
        assert back.phase is not None
        assert back.phase.tolist() == [
            int(t >= p) for e, p in zip(drawn.experts, drawn.prompts, strict=True) for t in range(len(e))
        ]
    (tmp_path / "p.csv").write_text("\n".join(pairs) + "\n")
    back, _ = imported(tmp_path / "p.csv", tmp_path, num_experts=9, top_k=TOP_K)
    with back:
        np.testing.assert_array_equal(back.experts, np.concatenate(wanted))
        if not uneven and all(p > 1 for p in drawn.prompts):  # a piece of one token looks like decode
            np.testing.assert_array_equal(back.offsets, np.cumsum([0, *map(len, wanted)]))


def small(folder: Path, text: str, name: str = "t.csv", **options: object):  # type: ignore[no-untyped-def]
    (folder / name).write_text(text)
    if "columns" in options:
        options["columns"] = parse_columns(str(options["columns"]))
    return imported(folder / name, folder, **options)


@pytest.mark.parametrize("word", PREFILL_WORDS)
def test_words_of_prefill(word: str, tmp_path: Path) -> None:
    text = f"phase,token,layer,expert\n{word.upper().replace('_', '-')},0,0,1\ndecode,1,0,2\n"
    with small(tmp_path, text)[0] as back:
        assert back.phase.tolist() == [0, 1]


@pytest.mark.parametrize("word", DECODE_WORDS)
def test_words_of_decode(word: str, tmp_path: Path) -> None:
    with small(tmp_path, f"phase,token,layer,expert\npp,0,0,1\n{word.replace('_', ' ')},1,0,2\n")[0] as back:
        assert back.phase.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("is_prefill", "True", "False"),
        ("is_prompt", "1", "0"),
        ("is_decode", "false", "true"),
        ("is_generated", "0", "1.0"),
    ],
)
def test_phases_as_yes_and_no(name: str, first: str, second: str, tmp_path: Path) -> None:
    with small(tmp_path, f"{name},token,layer,expert\n{first},0,0,1\n{second},1,0,2\n")[0] as back:
        assert back.phase.tolist() == [0, 1]


def test_numbers_of_a_stage_are_no_phases(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="--columns phase=none"):
        small(tmp_path, "stage,token,layer,expert\n0,0,0,1\n1,1,0,2\n")
    with small(tmp_path, "stage,token,layer,expert\n0,0,0,1\n1,1,0,2\n", columns="phase=none")[0] as back:
        assert back.phase is None


def test_a_log_without_phases_is_said_to_be_one(tmp_path: Path) -> None:
    text = "request,token,layer,expert\na,0,0,1\na,1,0,2\nb,0,0,1\nb,1,0,0\n"
    back, report = small(tmp_path, text)
    back.close()
    assert any("--prompt-tokens" in notice and "--phase" in notice for notice in report.notices)
    back, report = small(tmp_path, text, prompt_tokens="1")
    with back:
        assert back.phase.tolist() == [0, 1, 0, 1]
    assert (report.prefill, report.decode) == (2, 2)
    assert not any("--prompt-tokens" in notice for notice in report.notices)


def test_prompt_tokens_of_a_column(tmp_path: Path) -> None:
    # Request a: prompt of 1, b: prompt of 2.
    text = "request,token,layer,expert,n\na,0,0,1,1\na,1,0,2,1\nb,0,0,1,2\nb,1,0,0,2\n"
    with small(tmp_path, text, prompt_tokens="n")[0] as back:
        assert back.phase.tolist() == [0, 1, 0, 0]
    with pytest.raises(TraceError, match="prompt_tokens 1 and 2"):
        small(tmp_path, text.replace("a,1,0,2,1", "a,1,0,2,2"), prompt_tokens="n")
    with pytest.raises(ConfigError, match="exclude each other"):
        small(tmp_path, text, prompt_tokens="n", phase="decode")
    with pytest.raises(ConfigError, match="phases of its own"):
        small(tmp_path, "phase,token,layer,expert\n0,0,0,1\n", prompt_tokens="1")


def test_positions_before_the_first_row_were_not_sent(tmp_path: Path) -> None:
    # A prompt of 5, rows from position 3 on: 3 not sent, 2 prefill, 1 decode.
    text = "token,layer,expert,prompt_len\n3,0,1,5\n4,0,2,5\n5,0,0,5\n"
    back, report = small(tmp_path, text)
    with back:
        assert back.experts.ravel().tolist() == [-1, -1, -1, 1, 2, 0]
        assert back.phase.tolist() == [0, 0, 0, 0, 0, 1]
    assert (report.not_run, report.prefill, report.decode) == (3, 2, 1)


def test_positions_counted_from_one_or_throughout_begin_at_the_first(tmp_path: Path) -> None:
    # Prompts of 3 and 9. Request a counts from 1; b goes on where a ended: nothing is missing before either.
    rows = [
        f"{request},{token},0,0,{prompt}\n"
        for request, first, prompt in (("a", 1, 3), ("b", 4, 9))
        for token in range(first, first + prompt)
    ]
    back, report = small(tmp_path, "request,token,layer,expert,prompt_len\n" + "".join(rows))
    with back:
        assert back.offsets.tolist() == [0, 3, 12]
        assert back.phase.tolist() == [0] * 12
    assert (report.not_run, report.prefill) == (0, 12)


def test_cached_prefix_and_start_of_nested_lists(tmp_path: Path) -> None:
    # Prompt 4, generated 3: complete are 6 rows, 5 are there, so the first was not sent; 2 came out of the cache.
    request = {"prompt_len": 4, "generated_tokens": 3, "num_cached_tokens": 2, "token_ids": [7, 8, 9, 10, 11]}
    request["routed_experts"] = [[[t % 3]] for t in range(1, 6)]
    back, report = small(tmp_path, json.dumps(request) + "\n", "t.jsonl")
    with back:
        assert back.experts.ravel().tolist() == [-1, -1, 2, 0, 1, 2]
        assert back.phase.tolist() == [0, 0, 0, 0, 1, 1]
    assert report.not_run == 2
    assert any("prefix cache" in notice for notice in report.notices)


def test_negative_numbers_are_the_prompt(tmp_path: Path) -> None:
    text = "request,pos,layer,expert\na,-2,0,1\na,-1,0,2\na,0,0,1\nb,-1,0,0\nb,0,0,1\n"
    with small(tmp_path, text)[0] as back:
        assert back.phase.tolist() == [0, 0, 1, 0, 1]


def test_interleaved_requests_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regroup, "IN_MEMORY", 10)
    monkeypatch.setattr(regroup, "FILES", 3)
    drawn = Drawn(3, 4, 2)
    back, report = imported(as_csv(tmp_path / "t.csv", interleaved(drawn)), tmp_path)
    with back:
        np.testing.assert_array_equal(back.experts, np.concatenate(drawn.experts))
    assert any("4 requests are interleaved" in notice for notice in report.notices)


@pytest.mark.parametrize("option", ["e0", "e1"])
def test_no_hint_leads_to_one_rank_of_several(option: str, tmp_path: Path) -> None:
    text = "pos,layer,e0,e1,w0,w1\n0,0,1,2,.5,.5\n1,0,2,0,.6,.4\n"
    with small(tmp_path, text)[0] as back:
        assert back.experts.tolist() == [[[1, 2]], [[2, 0]]]
    with pytest.raises(TraceError, match=r"one of 2 columns e0 to e1.*expert=e0-e1"):
        small(tmp_path, text, columns=f"expert={option}")
    back, report = small(tmp_path, text, columns="expert=e0-e0")
    with back:
        assert back.top_k == 1
    assert any("columns left out: e1" in notice for notice in report.notices)


@pytest.mark.parametrize(
    "header",
    [
        "expert_0,expert_1",
        "expert0,expert1",
        "id0,id1",
        "topk_0,topk_1",
        "top1_expert,top2_expert",
        "expert[0],expert[1]",
    ],
)
def test_names_of_columns_by_rank(header: str, tmp_path: Path) -> None:
    with small(tmp_path, f"Token Index,Layer.ID,{header}\n0,0,1,2\n1,0,2,0\n")[0] as back:
        assert back.experts.tolist() == [[[1, 2]], [[2, 0]]]


def test_ranks_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = ",".join(f"e{k}" for k in reversed(range(12)))
    with small(tmp_path, f"token,layer,{names}\n0,0,{','.join(map(str, reversed(range(12))))}\n")[0] as back:
        assert back.experts.ravel().tolist() == list(range(12))


BASE = {"request": ["a", "a", "b"], "token": [0, 1, 0], "layer": [0, 0, 0], "expert": [1, 2, 0]}


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("request", pa.large_string()),
        ("request", pa.string_view()),
        ("request", pa.dictionary(pa.int32(), pa.large_string())),
        ("expert", pa.uint64()),
        ("expert", pa.float64()),
        ("expert", pa.decimal128(10, 2)),
        ("expert", pa.large_string()),
        ("expert", pa.dictionary(pa.int8(), pa.int64())),
        ("layer", pa.uint8()),
        ("token", pa.uint16()),
    ],
)
def test_types_of_parquet(column: str, kind: pa.DataType, tmp_path: Path) -> None:
    columns = {name: pa.array(values) for name, values in BASE.items()}
    if pa.types.is_dictionary(kind):
        columns[column] = columns[column].cast(kind.value_type).dictionary_encode()
    else:
        columns[column] = columns[column].cast(
            pa.string()
            if pa.types.is_large_string(kind)
            else pa.decimal128(38, 2)
            if pa.types.is_decimal(kind)
            else kind
        )
        columns[column] = columns[column].cast(kind)
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    back, _ = imported(tmp_path / "t.parquet", tmp_path)
    with back:
        assert back.experts.ravel().tolist() == [1, 2, 0]
        assert back.offsets.tolist() == [0, 2, 3]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("layer_id,expert_id,count\n0,0,5\n0,1,4\n", {}, "holds counts .*not a trace"),
        ("layer_id,expert_id,count\n0,0,5\n0,1,4\n", {"columns": "token=count"}, "holds counts"),
        ("layer,expert,freq\n0,0,5\n0,1,4\n", {"top_k": 1}, "holds counts"),
        ("layer,expert,hits\n0,0,5\n0,1,4\n", {"columns": "token=hits"}, "holds counts"),
        ("layer,expert\n0,0\n0,1\n", {}, "give --top-k"),
        ("layer,expert\n0,0\n0,1\n0,2\n1,0\n", {"top_k": 2}, "3 rows, no multiple of --top-k 2"),
        ("token,layer,logits\n0,0,[0.1 0.5]\n", {}, "give --top-k"),
        ("token,layer,logits\n0,0,[0.1 0.5]\n", {"top_k": 3}, "logits of 2 experts"),
        ("token,layer,logits\n0,0,[0.1 0.5]\n1,0,[0.1 nan]\n", {"top_k": 1}, "row 2 .* finite"),
        ("token,layer,logits\n0,0,[0.1 0.5]\n1,0,[0.1]\n", {"top_k": 1}, "row 2 .*logits of 1 experts"),
        ("model_type,num_hidden_layers,num_experts\n1,2,4\n", {}, "is a model's config, not a trace: `lrcsim models"),
        ("a,b\n1,2\n", {}, "'token'.*'layer'.*'expert'.*docs/importing.md"),
        ("0,0,1,2\n1,0,2,3\n", {}, "expert=3-4"),
        ("token,layer,e0,e1,e3\n0,0,1,2,3\n", {}, "without a gap"),
        ("token,layer,expert,expert_0,expert_1\n0,0,1,2,3\n", {}, "may be the experts"),
        ("token,layer,expert,Expert\n0,0,1,2\n", {}, "several columns named"),
        ("token,layer,expert\n0,0,1\n1,0,2\n2,0,1\n0,0,2\n", {}, "do not stand together"),
        ("token,layer,rank,expert\n0,0,0,1\n1,0,0,1\n0,0,0,2\n", {}, "rank 0 is given twice"),
        ("token,layer,rank,expert,token_id\n0,0,0,1,7\n0,0,1,2,9\n", {}, "token ids 9 and 7|token ids 7 and 9"),
        ("token,layer,expert,token_id\n0,0,1,4294967301\n", {}, "token 0: token_id 4294967301"),
        ("token,layer,expert,token_id\n0,0,1,2147483648\n", {}, "token_id 2147483648, allowed -1..2147483647"),
        ("token,layer,experts\n0,0,[1 2]\n,0,[3 4]\n", {}, "row 2 .*has no token"),
        ("token,layer,expert,residency\n0,0,1,3\n", {}, "residency .*allowed 0 .miss."),
        ("phase,token,layer,expert\n0,0,0,1\n1,0,1,2\n", {}, "prefill at layer 0 and decode at layer 1"),
        ("domain,token,layer,expert\na,0,0,1\nb,1,0,2\n", {}, "domain 'a' and of 'b'"),
        ("token,layer,expert\n0,0,4.5\n", {}, "row 1 .*expert 4.5"),
        ("token,layer,expert\n0,0,1e400\n", {}, "expert 1e400"),
        ("token,layer,expert\n0,0,1\n", {"columns": "token=none"}, "give --top-k"),
    ],
)  # fmt: skip
def test_refused_in_one_line(text: str, options: dict[str, object], message: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    if "columns" in options:
        options = options | {"columns": parse_columns(str(options["columns"]))}
    with pytest.raises(TraceError, match=message) as caught:
        import_trace(tmp_path / "t.csv", tmp_path / "out.h5", options=Options(**options))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


@pytest.mark.parametrize("late", ["7.0", '"7"', " 7"])
def test_a_late_cell_that_is_no_plain_integer(late: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands beyond the first block of the file, when rows were already read as numbers."""
    monkeypatch.setattr(csv_text, "BLOCK", 4096)
    rows = [f"{t},0,{t % 7}" for t in range(3_000)]
    rows[-2] = rows[-2].rsplit(",", 1)[0] + f",{late}"
    (tmp_path / "t.csv").write_text("token,layer,expert\n" + "\n".join(rows) + "\n")
    back, report = imported(tmp_path / "t.csv", tmp_path, phase="decode")
    with back:
        assert report.tokens == 3_000
        assert back.experts[-3:].ravel().tolist() == [(3_000 - 3) % 7, 7, (3_000 - 1) % 7]


def test_files_put_one_after_the_other(tmp_path: Path) -> None:
    text = "token,layer,expert\n0,0,1\n1,0,2\n"
    with small(tmp_path, text + text.replace("0,0,1", "0,0,0"))[0] as back:
        assert back.offsets.tolist() == [0, 2, 4]
        assert back.experts.ravel().tolist() == [1, 2, 0, 2]
    text = "request," + text.replace("0,0,1", "a,0,0,1").replace("1,0,2", "a,1,0,2")
    with small(tmp_path, text + text)[0] as back:
        assert back.offsets.tolist() == [0, 2, 4]


def test_a_log_that_starts_again_is_another_request(tmp_path: Path) -> None:
    rows = "0,0,1\n0,1,2\n1,0,2\n1,1,0\n"
    back, report = small(tmp_path, "token,layer,expert\n" + rows + rows)
    with back:
        assert back.offsets.tolist() == [0, 2, 4]
        assert back.top_k == 1
    assert any("a new one starts: 2" in notice for notice in report.notices)


def test_turns_of_conversations(tmp_path: Path) -> None:
    text = "conversation_id,turn,token,layer,expert\n0,0,0,0,1\n0,1,0,0,2\n1,0,0,0,1\n"
    with small(tmp_path, text)[0] as back:
        assert back.num_requests == 3


def test_a_position_beside_the_token_is_its_number(tmp_path: Path) -> None:
    back, report = small(tmp_path, "pos,token,layer,expert\n0,99,0,1\n1,99,0,2\n")
    with back:
        assert back.num_tokens == 2
    assert any("'token' is taken for the token itself" in notice for notice in report.notices)


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("start", ["", "\ufeff", "# n_expert=9\n\n"])
def test_line_endings(ending: str, start: str, tmp_path: Path) -> None:
    text = (start + "token,layer,expert\n0,0,1\n1,0,2\n").replace("\n", ending)
    (tmp_path / "t.csv").write_bytes(text.encode())
    back, _ = imported(tmp_path / "t.csv", tmp_path)
    with back:
        assert back.experts.ravel().tolist() == [1, 2]


def test_layers_by_the_name_of_their_module(tmp_path: Path) -> None:
    with small(tmp_path, "token,layer,expert\n0,model.layers.3.mlp.gate,1\n0,model.layers.12.mlp.gate,2\n")[0] as back:
        assert back.layers.block.tolist() == [3, 12]


def test_a_token_without_experts_still_is_one(tmp_path: Path) -> None:
    rows = [{"token": t, "layer": 0, "experts": e} for t, e in enumerate([[0, 1], [], [2, 1]])]
    with small(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "t.jsonl")[0] as back:
        assert back.experts.tolist() == [[[0, 1]], [[-1, -1]], [[2, 1]]]


def test_metadata_records_begin_requests(tmp_path: Path) -> None:
    head = {"record_type": "metadata", "num_experts": 9, "experts_per_token": 1, "model_id": "toy"}
    row = {
        "record_type": "routing_selection",
        "phase": "prompt",
        "token_position": 0,
        "layer": 0,
        "selected_experts": [1],
    }
    text = "".join(json.dumps(value) + "\n" for value in [head, row, head, row | {"selected_experts": [2]}])
    back, report = small(tmp_path, text, "t.jsonl")
    with back:
        assert (back.num_experts, back.model, back.num_requests) == (9, "toy", 2)
    assert report.notices == []


@pytest.mark.parametrize(
    "text",
    [
        '[{"token": 0, "layer": 0, "expert": 1},\n {"token": 1, "layer": 0, "expert": 2}]',
        '{"rows": [{"token": 0, "layer": 0, "expert": 1}, {"token": 1, "layer": 0, "expert": 2}]}',
        "[[[1]], [[2]]]",
        "[[[[1]], [[2]]]]",
        '{\n "model_id": "m",\n "traces": [{"experts": [[[1]], [[2]]]}]\n}',
    ],
)
def test_json_that_is_not_in_lines(text: str, tmp_path: Path) -> None:
    with small(tmp_path, text, "t.json", phase="none")[0] as back:
        assert back.experts.ravel().tolist() == [1, 2]
        assert back.num_requests == 1


FIELD = {
    "column_per_rank.csv": ({}, (7, 1, 3, 2, None, None)),
    "llama_moe_trace_noheader.csv": ({}, (12, 1, 3, 2, 7, 5)),
    "llama_moe_trace_two_catenated.csv": ({}, (24, 2, 3, 2, 14, 10)),
    "llamacpp_layer_expert.csv": ({"top_k": 2}, (12, 1, 3, 2, 7, 5)),
    "jsonl_metadata_first.jsonl": ({}, (12, 1, 3, 2, 7, 5)),
    "jsonl_trace_per_line.jsonl": ({}, (14, 2, 3, 2, None, None)),
    "parquet_per_layer": ({}, (20, 1, 2, 2, None, None)),
    "recorder_per_token.pt": ({}, (10, 1, 3, 2, 10, 0)),
    "proxy_request_0.npz": ({}, (12, 1, 3, 2, None, None)),
    "topk_named.npz": ({}, (10, 1, 3, 2, None, None)),
    "router_logits_only.npz": ({"top_k": 2}, (10, 1, 3, 2, None, None)),
    "layer_first.npz": ({"layer_first": True}, (10, 1, 3, 2, None, None)),
}
"""Tokens, requests, layers, top-k, prefill and decode tokens of the inputs that people have."""


@pytest.mark.parametrize("name", FIELD)
def test_inputs_as_people_have_them(name: str, shared_traces: Path, tmp_path: Path) -> None:
    options, wanted = FIELD[name]
    path = shared_traces.parent / "field" / name
    if not path.exists():
        pytest.skip("this input is not here")
    back, report = imported(path, tmp_path, **options)
    back.close()
    assert (report.tokens, report.requests, report.layers, report.top_k, report.prefill, report.decode) == wanted
    assert report.unrecorded == 0


@pytest.mark.parametrize("name", ["expert_counts.csv", "recorder_stat.pt"])
def test_counts_of_the_field_are_no_trace(name: str, shared_traces: Path, tmp_path: Path) -> None:
    path = shared_traces.parent / "field" / name
    if not path.exists():
        pytest.skip("this input is not here")
    with pytest.raises(TraceError, match="not a trace"):
        import_trace(path, tmp_path / "out.h5")


def test_a_late_number_of_the_second_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ranks, tokens are read in the second pass only; the rows before the odd cell must not come twice."""
    monkeypatch.setattr(csv_text, "BLOCK", 4096)
    rows = [f"{t},0,0,{t % 7}" for t in range(3_000)]
    rows[-2] = "2998.0,0,0,5"
    (tmp_path / "t.csv").write_text("token,layer,rank,expert\n" + "\n".join(rows) + "\n")
    back, report = imported(tmp_path / "t.csv", tmp_path, phase="decode")
    with back:
        assert report.tokens == 3_000
        assert back.experts.ravel().tolist() == [*(t % 7 for t in range(2_998)), 5, 2_999 % 7]


@pytest.mark.parametrize("bad", [1.5, float("inf"), 1e20, -1e300])
def test_floats_that_are_no_whole_numbers(bad: float, tmp_path: Path) -> None:
    parquet.write_table(pa.table(BASE | {"expert": pa.array([1.0, 2.0, bad])}), tmp_path / "t.parquet")
    with pytest.raises(TraceError, match=r"row 3 .*is no whole number"):
        import_trace(tmp_path / "t.parquet", tmp_path / "o.h5")


def test_more_requests_than_a_batch(tmp_path: Path) -> None:
    rows = [{"experts": [[[r % 5]], [[(r + 1) % 5]]], "prompt_len": 1} for r in range(600)]
    back, _ = imported(as_parquet(tmp_path / "t.parquet", rows), tmp_path)  # type: ignore[arg-type]
    with back:
        assert back.num_requests == 600
        assert back.experts.ravel().tolist() == [e for r in range(600) for e in (r % 5, (r + 1) % 5)]


def test_answers_of_the_python_api_of_vllm(tmp_path: Path) -> None:
    # Prompt of 2, 2 generated: 3 rows. The list of the prompt's tokens says how many they are.
    flat = {"prompt_token_ids": [7, 8], "token_ids": [9, 10], "routed_experts": [[[0]], [[1]], [[2]]]}
    text = json.dumps(flat) + "\n" + json.dumps(flat | {"prompt_token_ids": [7]}) + "\n"
    back, report = small(tmp_path, text, "t.jsonl")
    with back:
        assert back.phase.tolist() == [0, 0, 1, 0, 1, 1]
        assert back.token_ids is None
    assert any("token ids left out" in notice for notice in report.notices)
    outputs = [{"index": 0, "routed_experts": flat["routed_experts"]}, {"index": 1, "routed_experts": [[[2]], [[1]]]}]
    nested = {"request_id": "0", "prompt_token_ids": [7, 8], "outputs": outputs}
    back, _ = small(tmp_path, json.dumps(nested) + "\n" + json.dumps(nested) + "\n", "t.jsonl")
    with back:
        assert back.phase.tolist() == [0, 0, 1, 0, 0] * 2
        assert back.num_requests == 4


def test_metadata_without_record_types(tmp_path: Path) -> None:
    rows = [{"model": "toy", "n_expert": 9}, *({"token": t, "layer": 0, "expert": t % 3} for t in range(5))]
    back, _ = small(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "t.jsonl")
    with back:
        assert (back.num_tokens, back.num_experts, back.model) == (5, 9, "toy")


@pytest.mark.parametrize("columns", ["", "token=n"])
def test_a_table_of_experts_is_no_trace_whatever_its_columns_are_called(columns: str, tmp_path: Path) -> None:
    rows = [f"{layer},{expert},{(layer + 3) * expert + 1}" for layer in range(3) for expert in range(16)]
    with pytest.raises(TraceError, match="not a trace" if columns else "give --top-k"):
        small(tmp_path, "layer,expert,n\n" + "\n".join(rows) + "\n", columns=columns)
    header = "layer," + ",".join(f"expert_{e}" for e in range(16))
    rows = [f"{layer}," + ",".join(str(e * 7 + layer) for e in range(16)) for layer in range(3)]
    with pytest.raises(TraceError, match="look like counts"):
        small(tmp_path, header + "\n" + "\n".join(rows) + "\n")

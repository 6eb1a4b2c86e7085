"""Tables of other writers: names, words, cells and records as programs print them; what is no trace in any order."""

import json
import random
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from trace_files import imported, random_experts

from lrcsim.base.errors import ConfigError, TraceError
from lrcsim.traces.importers import Options

TOKENS, LAYERS, TOP_K = 12, 3, 2
EXPERTS = random_experts(np.random.default_rng(5), TOKENS, LAYERS, 8, TOP_K)
PHASE = np.array([0] * 5 + [1] * 2 + [0] * 3 + [1] * 2)
OFFSETS = [0, 7, 12]
"""Two requests: 5 prompt and 2 generated tokens, then 3 and 2."""

Cell = Callable[[int, int, int], object]
"""What stands in a column for a token, a layer and a rank."""


def request(token: int, *_: int) -> int:
    return int(token >= 7)


def number(token: int, *_: int) -> int:
    return token - OFFSETS[token >= 7]


LONG: dict[str, Cell] = {
    "request": request,
    "phase": lambda t, *_: ("prefill", "decode")[PHASE[t]],
    "token": number,
    "layer": lambda _t, layer, _r: layer,
    "rank": lambda _t, _l, rank: rank,
    "expert": lambda t, layer, rank: EXPERTS[t, layer, rank],
}


def text(columns: dict[str, Cell], sep: str = ",", ranks: int = TOP_K) -> str:
    cells = [(t, la, r) for t in range(TOKENS) for la in range(LAYERS) for r in range(ranks)]
    return "\n".join([sep.join(columns), *(sep.join(str(f(*at)) for f in columns.values()) for at in cells), ""])


def renamed(ours: str, theirs: str, cell: Cell | None = None) -> dict[str, Cell]:
    return {(theirs if name == ours else name): (cell or f if name == ours else f) for name, f in LONG.items()}


def assert_imported(path: Path, folder: Path, **options: object) -> None:
    back, _ = imported(path, folder, **options)
    with back:
        np.testing.assert_array_equal(back.experts, EXPERTS)
        np.testing.assert_array_equal(back.phase, PHASE)
        assert list(back.offsets) == OFFSETS


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("request", "requestId"),
        ("request", "sample_index"),
        ("request", "Dialogue No"),
        ("phase", "isPrefill"),
        ("phase", "is_gen"),
        ("phase", "inference_phase"),
        ("token", "tokenPosition"),
        ("token", "Step ID"),
        ("layer", "layerIndex"),
        ("layer", "decoder_layer"),
        ("expert", "expertId"),
        ("expert", "chosen_expert"),
    ],
)
def test_names(ours: str, theirs: str, tmp_path: Path) -> None:
    cell: Cell | None = None
    if theirs.startswith("is"):
        cell = lambda t, *_: (PHASE[t] == 1) == (theirs == "is_gen")  # noqa: E731
    (tmp_path / "t.csv").write_text(text(renamed(ours, theirs, cell)))
    assert_imported(tmp_path / "t.csv", tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        ("ForwardMode.EXTEND", "ForwardMode.DECODE"),
        ("<Phase.PREFILL: 1>", "<Phase.DECODE: 2>"),
        ("'prefill'", "'decode'"),
        ("Pre-Fill", "dec"),
        ("prefill_0", "decode_3"),
        ("prefill(128)", "decode(1)"),
        ("prompt phase", "token phase"),
    ],
)
def test_words_of_a_phase(words: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text(renamed("phase", "phase", lambda t, *_: words[PHASE[t]])))
    assert_imported(tmp_path / "t.csv", tmp_path)


@pytest.mark.parametrize("form", ["transformer.h.{}.moe.w2", "llama4.layers.{}.router", "h.{}.mlp", "blk.{}.exps8"])
def test_names_of_layers(form: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text(renamed("layer", "layer", lambda _t, layer, _r: form.format(layer))))
    assert_imported(tmp_path / "t.csv", tmp_path)


def test_layers_of_two_stacks_do_not_become_one(tmp_path: Path) -> None:
    # Tokens 0 to 4 run through the encoder, 5 and 6 through the decoder: encoder.layers.0 is not decoder.layers.0.
    cell: Cell = lambda t, layer, _r: f"{'decoder' if PHASE[t] else 'encoder'}.layers.{layer}.mlp"  # noqa: E731
    (tmp_path / "t.csv").write_text(text(renamed("layer", "layer", cell)))
    with pytest.raises(TraceError, match=r"'decoder.layers.N' and 'encoder.layers.N'.*number the layers throughout"):
        imported(tmp_path / "t.csv", tmp_path)


def test_names_of_one_layer_may_end_in_several_ways(tmp_path: Path) -> None:
    cell: Cell = lambda t, layer, _r: f"model.layers.{layer}.{'mlp' if PHASE[t] else 'mlp.gate'}"  # noqa: E731
    (tmp_path / "t.csv").write_text(text(renamed("layer", "layer", cell)))
    assert_imported(tmp_path / "t.csv", tmp_path)


def test_thousands_of_columns_take_no_time(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text({**LONG, **{f"c{at}": lambda *_: 0 for at in range(3_000)}}))
    before = time.process_time()
    assert_imported(tmp_path / "t.csv", tmp_path)
    assert time.process_time() - before < 10  # 27 with a look at every pair of names


@pytest.mark.parametrize("form", ["expert_{}", "E{}", "Expert {}", "model.layers.0.mlp.experts.{}", "#{}", "{}e0"])
def test_names_of_experts(form: str, tmp_path: Path) -> None:
    cell: Cell = lambda t, layer, rank: form.format(EXPERTS[t, layer, rank])  # noqa: E731
    (tmp_path / "t.csv").write_text(text(renamed("expert", "expert", cell)))
    assert_imported(tmp_path / "t.csv", tmp_path)


def test_a_shared_expert_is_no_routed_one(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text(renamed("expert", "expert", lambda *_: "mlp.shared_experts.1")))
    with pytest.raises(TraceError, match=r"mlp.shared_experts.1 is no whole number"):
        imported(tmp_path / "t.csv", tmp_path)


LISTS: dict[str, Callable[[list[int]], str]] = {
    "array": lambda ids: f"array({ids}, dtype=int32)",
    "tensor": lambda ids: f"tensor([{ids}], device='cuda:0', dtype=torch.int32)",
    "np.int64": lambda ids: str([f"np.int64({e})" for e in ids]).replace("'", ""),
    "words": lambda ids: " ".join(f"E{e}" for e in ids),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_as_programs_print_them(name: str, tmp_path: Path) -> None:
    columns = {name: f for name, f in LONG.items() if name not in ("rank", "expert")}
    columns["experts"] = lambda t, layer, _r: f'"{LISTS[name](EXPERTS[t, layer].tolist())}"'
    (tmp_path / "t.csv").write_text(text(columns, ranks=1))
    assert_imported(tmp_path / "t.csv", tmp_path)


def test_a_row_of_several_tokens_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('token,layer,experts\n0,0,"tensor([[1, 2], [3, 4]])"\n1,0,"tensor([[5, 6]])"\n')
    with pytest.raises(TraceError, match="holds lists in a list"):
        imported(tmp_path / "t.csv", tmp_path)


@pytest.mark.parametrize("cell", ["E7=0.5 E4=0.5", "E7=0.5,E4=0.5", "7:0.5 4:0.5", "7-4", "tensor(7=1, a=2)"])
def test_other_cells_are_refused(cell: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f'token,layer,experts\n0,0,"{cell}"\n1,0,"{cell}"\n')
    with pytest.raises(TraceError, match="is no whole number"):
        imported(tmp_path / "t.csv", tmp_path)


def test_weights_with_a_decimal_comma(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text({**LONG, "weight": lambda *_: "0,5"}, sep=";"))
    assert_imported(tmp_path / "t.csv", tmp_path)
    back, _ = imported(tmp_path / "t.csv", tmp_path)
    with back:
        assert back.weights is not None
        assert (back.weights == 0.5).all()


@pytest.mark.parametrize("kind", [pa.list_view(pa.int32()), pa.large_list_view(pa.int64()), pa.string()])
def test_lists_of_all_layouts(kind: pa.DataType, tmp_path: Path) -> None:
    at = [(t, layer, 0) for t in range(TOKENS) for layer in range(LAYERS)]
    table = {name: [f(*place) for place in at] for name, f in LONG.items() if name not in ("rank", "expert")}
    ids = [EXPERTS[t, layer].tolist() for t, layer, _ in at]
    table["expert"] = pa.array(list(map(str, ids)) if kind == pa.string() else ids, kind)
    parquet.write_table(pa.table(table), tmp_path / "t.parquet")
    assert_imported(tmp_path / "t.parquet", tmp_path)


@pytest.mark.parametrize("lines", [True, False])
def test_records_without_routing_are_counted(lines: bool, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {**{n: LONG[n](t, la, 0) for n in ("request", "phase", "token", "layer")}, "experts": EXPERTS[t, la].tolist()}
        for t in range(TOKENS)
        for la in range(LAYERS)
    ]
    rows[9:9] = [{"event": "tick"}]
    rows += [{"num_experts": 8, "done": True}]
    written = "".join(json.dumps(row) + "\n" for row in rows) if lines else json.dumps(rows)
    (tmp_path / "t.json").write_text(written)
    assert_imported(tmp_path / "t.json", tmp_path)
    _, report = imported(tmp_path / "t.json", tmp_path)
    assert "records without routing were left out: 2" in report.notices


@pytest.mark.parametrize("options", [{"top_k": 2}, {"columns": {"token": "mean"}}, {"columns": {"token": "step"}}])
@pytest.mark.parametrize("order", ["by use", "shuffled", "in order"])
def test_every_expert_once_is_no_trace(options: dict[str, object], order: str, tmp_path: Path) -> None:
    rng = random.Random(3)
    rows = []
    for step in range(2):
        for layer in range(4):
            experts = [(rng.randint(0, 5), expert) for expert in range(8)]
            if order == "by use":
                experts.sort(reverse=True)
            elif order == "shuffled":
                rng.shuffle(experts)
            rows += [f"{step},{layer},{expert},{mean}" for mean, expert in experts]
    (tmp_path / "t.csv").write_text("\n".join(["step,layer,expert,mean", *rows, ""]))
    if "top_k" in options:
        options = {**options, "columns": {"token": "none"}}
    with pytest.raises(TraceError, match="not a trace"):
        imported(tmp_path / "t.csv", tmp_path, **options)


def test_the_order_of_rows_does_not_replace_what_columns_say(tmp_path: Path) -> None:
    # With --top-k alone the requests and phases of the file would be lost: 1 + 11 tokens of one request.
    (tmp_path / "t.csv").write_text(text(renamed("token", "i")))
    for options in ({}, {"top_k": 2}):
        with pytest.raises(TraceError, match=r"beside 'request', 'phase'; .*--columns token=NAME"):
            imported(tmp_path / "t.csv", tmp_path, **options)
    assert_imported(tmp_path / "t.csv", tmp_path, columns={"token": "i"})


@pytest.mark.parametrize("content", ["utf-16", "latin-1"])
def test_other_encodings_are_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(text({**LONG, "note": lambda *_: "é"}).encode(content))
    with pytest.raises(TraceError, match="save it as UTF-8"):
        imported(tmp_path / "t.csv", tmp_path)


@pytest.mark.parametrize(("member", "says"), [("a.csv", r"without arrays \(a.csv\)"), ("xl/workbook.xml", "Excel")])
def test_other_zips_are_named(member: str, says: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr(member, "x")
    with pytest.raises(TraceError, match=says):
        imported(tmp_path / "t.zip", tmp_path)


def test_a_number_of_prompt_tokens_without_end() -> None:
    with pytest.raises(ConfigError, match="5000 digits"):
        Options(prompt_tokens="9" * 5_000)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("phase", np.array(["prefill", "decode"])[PHASE]),
        ("is_prefill", PHASE == 0),
        ("is_decode", PHASE),
        ("phase", PHASE.astype(bool)),
    ],
)
def test_phases_in_arrays(name: str, values: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", experts=EXPERTS, offsets=np.array(OFFSETS), **{name: values})
    assert_imported(tmp_path / "t.npz", tmp_path)


@pytest.mark.parametrize("form", ["model.layers.{}.mlp.gate", "model/layers/{}/topk_ids", "blk_{}", "layer_{}"])
def test_arrays_per_layer_by_the_names_of_modules(form: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", **{form.format(la): EXPERTS[:, la] for la in range(LAYERS)})
    back, _ = imported(tmp_path / "t.npz", tmp_path)
    with back:
        np.testing.assert_array_equal(back.experts, EXPERTS)


@pytest.mark.parametrize("line", ["ggml_debug:   ffn_moe_topk-0 = (i32) VIEW(a) = {8, 5, 1, 1}",
                                  "common_debug_cb_eval:   ffn_norm-0 = (f32) MUL(a, b) = {64, 5, 1, 1}",
                                  "0.01 I ffn_moe_topk-11 = (i32) VIEW(a) = {8, 1, 1, 1}"])  # fmt: skip
def test_llama_cpp_s_printed_tensors_are_refused_with_the_way_out(line: str, tmp_path: Path) -> None:
    """The middle of rows is not in them (`...`), so they are no table, whatever columns are named."""
    path = tmp_path / "eval.log"
    path.write_text(f"llama_model_loader: loaded\n{line}\n   [ 12, 3, 55, ..., 18, 22, 1],\n", encoding="utf-8")
    with pytest.raises(TraceError, match=r"llama-eval-callback.*lrcsim record MODEL\.gguf"):
        imported(path, tmp_path)

"""The paper's safetensors: topk, rank and logits, one file per layer, keyed by dataset."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from trace_files import imported, random_experts

from lrcsim.base.errors import TraceError
from lrcsim.traces.importers import Options, import_trace
from lrcsim.traces.importers.safetensors import open_tensors, to_float

LAYERS, EXPERTS, TOP_K, SAMPLES, TOKENS = 3, 16, 4, 2, 10
DATASETS = ("c4", "github")
Logits = dict[str, np.ndarray]


def logits(seed: int, experts: int = EXPERTS) -> list[Logits]:
    """For each layer, router scores by dataset, float32 [samples, tokens, E], that bfloat16 holds exactly."""
    rng = np.random.default_rng(seed)
    order = rng.random((LAYERS, len(DATASETS), SAMPLES, TOKENS, experts)).argsort(axis=-1)
    return [dict(zip(DATASETS, layer.astype(np.float32) / 4 - 1, strict=True)) for layer in order]


def ranks(scores: np.ndarray) -> np.ndarray:
    """Double argsort, in 8 signed bits: what the paper's second step stores."""
    return scores.argsort(axis=-1).argsort(axis=-1).astype(np.int8)


def topk(scores: np.ndarray) -> np.ndarray:
    return np.argsort(-scores, axis=-1)[..., :TOP_K].astype(np.int8)


def write(folder: Path, layers: list[Logits], first: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    for at, tensors in enumerate(layers, start=first):
        save_file(tensors, folder / f"olmoe_{at:02d}.safetensors")
    return folder


def expected(layers: list[Logits]) -> np.ndarray:
    """[tokens, L, k], dataset after dataset, sample after sample."""
    best = [np.concatenate([np.argsort(-layer[name], axis=-1)[..., :TOP_K] for name in DATASETS]) for layer in layers]
    return np.stack(best, axis=2).reshape(-1, LAYERS, TOP_K)


def transformed(layers: list[Logits], function) -> list[Logits]:  # type: ignore[no-untyped-def]
    return [{name: np.ascontiguousarray(function(scores)) for name, scores in layer.items()} for layer in layers]


@pytest.mark.parametrize("kind", ["topk", "rank", "logits float32", "logits float16"])
def test_every_kind(kind: str, tmp_path: Path) -> None:
    scores = logits(1)
    function = {
        "topk": topk,
        "rank": ranks,
        "logits float32": lambda s: s,
        "logits float16": lambda s: s.astype(np.float16),
    }[kind]
    source = write(tmp_path / "in", transformed(scores, function))
    options = {} if kind == "topk" else {"top_k": TOP_K}
    back, report = imported(source, tmp_path, **options)
    with back:
        np.testing.assert_array_equal(back.experts, expected(scores))
        assert back.domains == ["c4", "c4", "github", "github"]
        assert back.offsets.tolist() == [0, 10, 20, 30, 40]
        assert back.phase is None
        assert back.model == "olmoe"
        assert back.num_experts == EXPERTS
    assert report.format == "moe-lrc"
    assert bool(report.notices) == (kind == "topk")


def test_bfloat16_logits(tmp_path: Path) -> None:
    scores = logits(2)
    source = tmp_path / "in"
    source.mkdir()
    for at, layer in enumerate(scores):
        bits = {name: (array.view(np.uint32) >> 16).astype("<u2") for name, array in layer.items()}
        save_file(bits, source / f"olmoe_{at:02d}.safetensors")
        raw = (source / f"olmoe_{at:02d}.safetensors").read_bytes()
        length = int.from_bytes(raw[:8], "little")
        header = raw[8 : 8 + length].replace(b'"U16"', b'"BF16"')
        out = len(header).to_bytes(8, "little") + header + raw[8 + length :]
        (source / f"olmoe_{at:02d}.safetensors").write_bytes(out)
    back, _ = imported(source, tmp_path, top_k=TOP_K)
    with back:
        np.testing.assert_array_equal(back.experts, expected(scores))
    kind, tensor = open_tensors(source / "olmoe_00.safetensors")["c4"]
    np.testing.assert_array_equal(to_float(kind, tensor), scores[0]["c4"])


def test_more_than_128_experts_wrap_in_int8(tmp_path: Path) -> None:
    scores = logits(3, experts=200)
    back, _ = imported(write(tmp_path / "in", transformed(scores, ranks)), tmp_path, top_k=TOP_K)
    with back:
        np.testing.assert_array_equal(back.experts, expected(scores))
        assert back.num_experts == 200


def test_layers_keep_their_block_numbers(tmp_path: Path) -> None:
    source = write(tmp_path / "in", transformed(logits(1), topk), first=1)
    back, _ = imported(source, tmp_path, num_experts=EXPERTS)
    with back:
        assert back.layers.block.tolist() == [1, 2, 3]


def test_a_pattern_chooses_one_model_of_a_folder(tmp_path: Path) -> None:
    source = write(tmp_path / "in", transformed(logits(1), topk))
    save_file({"c4": np.zeros((1, 1, 1), np.int8)}, source / "phi_00.safetensors")
    with pytest.raises(TraceError, match="holds 2 models"):
        import_trace(source, tmp_path / "out.h5")
    back, _ = imported(f"{source}/olmoe_*.safetensors", tmp_path)
    with back:
        assert back.num_layers == LAYERS


def rank_of(*shape: int) -> np.ndarray:
    return (
        random_experts(np.random.default_rng(0), shape[0] * shape[1], 1, shape[2], shape[2])
        .reshape(shape)
        .astype(np.int8)
    )


@pytest.mark.parametrize(
    ("layers", "options", "message"),
    [
        ([{"c4": rank_of(2, 5, 8)}], {}, "ranks of 8 experts: give --top-k"),
        ([{"c4": np.ones((2, 5, 8), np.float32)}], {}, "logits of 8 experts: give --top-k"),
        ([{"c4": np.full((2, 5, 8), np.nan, np.float32)}], {"top_k": 2}, "finite"),
        ([{"c4": rank_of(2, 5, 8)}], {"top_k": 9}, "--top-k says 9"),
        ([{"c4": rank_of(2, 5, 8)}, {"cc": rank_of(2, 5, 8)}], {"top_k": 2}, "datasets"),
        ([{"c4": rank_of(2, 5, 8)}, {"c4": rank_of(2, 6, 8)}], {"top_k": 2}, "encoder and decoder"),
        ([{"c4": np.zeros((5, 8), np.int8)}], {"top_k": 2}, r"must be \[samples"),
        ([{"c4": np.full((2, 5, 2), 3, np.int8)}], {}, "stands twice"),
        ([{"c4": rank_of(2, 5, 8), "cc": rank_of(2, 5, 4)}], {"top_k": 2}, "differ"),
    ],
)
def test_bad_tensors(layers: list[Logits], options: dict[str, int], message: str, tmp_path: Path) -> None:
    source = write(tmp_path / "in", layers)
    with pytest.raises(TraceError, match=message):
        import_trace(source, tmp_path / "out.h5", options=Options(**options))  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("damage", ["cut", "length", "header", "empty", "bigger"])
def test_damaged_files(damage: str, tmp_path: Path) -> None:
    file = tmp_path / "m_00.safetensors"
    save_file({"c4": rank_of(2, 5, 8)}, file)
    raw = file.read_bytes()
    file.write_bytes(
        {
            "cut": raw[:-3],
            "length": b"\xff" * 8 + raw[8:],
            "header": raw[:8] + b"x" + raw[9:],
            "empty": raw[:5],
            "bigger": raw.replace(b"[2,5,8]", b"[2,9,8]"),
        }[damage]
    )
    with pytest.raises(TraceError, match=r"m_00\.safetensors"):
        import_trace(file, tmp_path / "out.h5", options=Options(top_k=2))
    assert not (tmp_path / "out.h5").exists()


def test_names_must_say_the_layer(tmp_path: Path) -> None:
    save_file({"c4": rank_of(2, 5, 8)}, tmp_path / "routing.safetensors")
    with pytest.raises(TraceError, match="MODEL_LAYER"):
        import_trace(tmp_path / "routing.safetensors", tmp_path / "out.h5")


@pytest.mark.parametrize("bad", [2**32 + 3, 2**31, 65_535, -(2**32) - 1])
def test_ids_beyond_the_range_never_wrap(bad: int, tmp_path: Path) -> None:
    ids = transformed(logits(1), topk)
    ids = [{name: values.astype(np.int64) for name, values in layer.items()} for layer in ids]
    ids[1]["github"][1, 4, 2] = bad
    with pytest.raises(TraceError, match=rf"olmoe_01.*token 4 of a sample: expert id {bad}"):
        import_trace(write(tmp_path / "in", ids), tmp_path / "out.h5", options=Options(num_experts=EXPERTS))
    assert not (tmp_path / "out.h5").exists()


def test_ranks_broken_in_a_later_sample(tmp_path: Path) -> None:
    broken = transformed(logits(1), ranks)
    broken[2]["c4"][1, 7] = 0
    with pytest.raises(TraceError, match=r"olmoe_02.*'c4': the ranks of token 7 of a sample"):
        import_trace(write(tmp_path / "in", broken), tmp_path / "out.h5", options=Options(top_k=TOP_K))


@pytest.mark.parametrize("function", [ranks, lambda scores: scores])
def test_another_number_of_experts_than_the_file_has(function, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    source = write(tmp_path / "in", transformed(logits(1), function))
    with pytest.raises(TraceError, match="of 16 experts, --num-experts says 64"):
        import_trace(source, tmp_path / "out.h5", options=Options(top_k=TOP_K, num_experts=64))


def ids(seed: int, tokens: int = TOKENS) -> Logits:
    rng = np.random.default_rng(seed)
    return {name: rng.integers(0, 50_000, (SAMPLES, tokens)) for name in DATASETS}


def beside(root: Path, read: Logits | None, predicted: Logits | None, model: str = "olmoe") -> None:
    """Token ids where the paper's scripts put them: texts in data/merged, the argmax of the output in output/pred."""
    for folder, tensors in (("data/merged", read), ("output/pred", predicted)):
        if tensors is not None:
            (root / folder).mkdir(parents=True)
            save_file(tensors, root / folder / f"{model}.safetensors")


def test_token_ids_come_along(tmp_path: Path) -> None:
    read, predicted = ids(3), ids(4)
    beside(tmp_path, read, predicted)
    source = write(tmp_path / "output" / "rank", transformed(logits(1), ranks))
    back, report = imported(source, tmp_path, top_k=TOP_K)
    with back:
        np.testing.assert_array_equal(back.experts, expected(logits(1)))
        assert back.token_ids is not None
        assert back.token_ids.tolist() == np.concatenate([read[name].ravel() for name in DATASETS]).tolist()
        assert back.predicted_ids is not None
        assert back.predicted_ids.tolist() == np.concatenate([predicted[name].ravel() for name in DATASETS]).tolist()
    assert report.notices == [
        "token ids taken from data/merged/olmoe.safetensors",
        "predicted ids taken from pred/olmoe.safetensors",
    ]


def test_token_ids_that_do_not_fit_are_left_out_and_named(tmp_path: Path) -> None:
    beside(tmp_path, ids(3, TOKENS + 1), {"c4": ids(4)["c4"]})
    back, report = imported(write(tmp_path / "output" / "topk", transformed(logits(1), topk)), tmp_path)
    with back:
        assert set(back.columns) == {"experts"}
    assert report.notices[1:] == [
        "data/merged/olmoe.safetensors left out: it has not the samples and tokens of the routing ('c4')",
        "pred/olmoe.safetensors left out: it has not the samples and tokens of the routing ('github')",
    ]


def test_an_encoder_has_no_predictions_of_its_own(tmp_path: Path) -> None:
    beside(tmp_path, None, ids(4), "nllb")
    source = tmp_path / "output" / "topk"
    source.mkdir()
    save_file(transformed(logits(1), topk)[0], source / "nllb_00.safetensors")
    back, report = imported(source, tmp_path)
    with back:
        assert set(back.columns) == {"experts"}
    assert "nllb has an encoder and a decoder" in report.notices[-1]


def test_token_ids_are_checked(tmp_path: Path) -> None:
    bad = ids(4)
    bad["github"][0, 3] = 2**31
    beside(tmp_path, None, bad)
    source = write(tmp_path / "output" / "topk", transformed(logits(1), topk))
    with pytest.raises(TraceError, match=r"token 23: predicted token id 2147483648, allowed"):
        import_trace(source, tmp_path / "out.h5")
    (tmp_path / "output/pred/olmoe.safetensors").unlink()
    save_file(
        {name: values.astype(np.float32) for name, values in ids(4).items()}, tmp_path / "output/pred/olmoe.safetensors"
    )
    with pytest.raises(TraceError, match=r"'c4' must be integers, is F32"):
        import_trace(source, tmp_path / "out.h5")

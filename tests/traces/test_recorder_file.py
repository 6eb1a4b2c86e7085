"""SGLang's expert distribution recorder: a file of torch.save, read without torch and without running it."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trace_files import imported, random_experts

from lrcsim.base.errors import TraceError
from lrcsim.traces.importers import import_trace
from lrcsim.traces.importers.torch_file import load

torch = pytest.importorskip("torch")


def record(experts: np.ndarray, positions: list[int], mode: int, **more: Any) -> dict[str, Any]:
    """One forward pass as the recorder keeps it: eight columns, -1 beyond k."""
    tokens, layers, k = experts.shape
    ids = np.full((layers, tokens, 8), -1, np.int32)
    ids[:, :, :k] = experts.transpose(1, 0, 2)
    return {
        "forward_pass_id": 0,
        "rank": 0,
        "gatherer_key": "primary",
        "input_ids": [100 + p for p in positions],
        "positions": positions,
        "extend_seq_lens": more.pop("extend_seq_lens", None),
        "forward_mode": mode,
        "topk_ids_of_layer": torch.from_numpy(ids),
        "misc_objects": [],
        "global_physical_count": torch.zeros((layers, 8), dtype=torch.int32),
        **more,
    }


def save(path: Path, records: list[dict[str, Any]], mapping: Any = None) -> Path:
    torch.save({"records": records, "last_physical_to_logical_map": mapping}, path)
    return path


def test_two_requests_through_their_passes(tmp_path: Path) -> None:
    # Prompts of 3 and 2 in one pass, then two decode passes of both, the second request coming first in the last.
    experts = random_experts(np.random.default_rng(1), 9, 2, 8, 2)
    records = [
        record(experts[:5], [0, 1, 2, 0, 1], 1, extend_seq_lens=[3, 2]),
        record(experts[5:7], [3, 2], 2),
        record(experts[7:], [3, 4], 2),
        record(experts[:0], [], 4),
    ]
    back, report = imported(save(tmp_path / "r.pt", records), tmp_path)
    with back:
        assert back.experts.tolist() == experts[[0, 1, 2, 5, 8, 3, 4, 6, 7]].tolist()
        assert back.offsets.tolist() == [0, 5, 9]
        assert back.phase is not None
        assert back.phase.tolist() == [0, 0, 0, 1, 1, 0, 0, 1, 1]
        assert back.token_ids is not None
        assert back.token_ids[:5].tolist() == [100, 101, 102, 103, 104]
    assert (report.format, report.top_k, report.layers) == ("recorder", 2, 2)


def test_chunks_cached_prefixes_and_copies_of_experts(tmp_path: Path) -> None:
    # Positions 0..1 came out of the cache; 2..3 and 4 are chunks of one prompt. Physical experts 8..15 copy 0..7.
    experts = random_experts(np.random.default_rng(2), 4, 2, 8, 2)
    records = [
        record(experts[:2] + 8, [2, 3], 1, extend_seq_lens=[2]),
        record(experts[2:3], [4], 1, extend_seq_lens=[1]),
        record(experts[3:], [5], 2),
    ]
    mapping = torch.arange(16).repeat(2, 1) % 8
    back, report = imported(save(tmp_path / "r.pt", records, mapping), tmp_path)
    with back:
        assert (back.experts[:2] == -1).all()
        np.testing.assert_array_equal(back.experts[2:], experts)
        assert back.num_experts == 8
        assert back.phase is not None
        assert back.phase.tolist() == [0, 0, 0, 0, 0, 1]
    assert report.not_run == 2


def test_dense_layers_have_no_experts(tmp_path: Path) -> None:
    experts = random_experts(np.random.default_rng(3), 2, 3, 8, 2)
    experts[:, 0] = -1
    back, _ = imported(save(tmp_path / "r.pt", [record(experts, [0, 1], 1, extend_seq_lens=[2])]), tmp_path)
    with back:
        assert back.layers.block.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"rank": 0, "logical_count": torch.zeros((1, 2, 8), dtype=torch.int64)}, "holds counts"),
        ({"records": [{"global_physical_count": torch.zeros((2, 8))}]}, "counts, not a trace"),
        ({"records": []}, "no records"),
        ([1, 2], "no records"),
        (
            {"records": [{"topk_ids_of_layer": torch.zeros((2, 1, 8), dtype=torch.int32), "forward_mode": 2}]},
            "positions",
        ),
    ],
)
def test_what_is_no_recording(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "r.pt")
    with pytest.raises(TraceError, match=message):
        import_trace(tmp_path / "r.pt", tmp_path / "o.h5")


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('ran')",)


@pytest.mark.parametrize("value", [Evil(), {"records": [Evil()]}, np.random.default_rng, Path("x")])
def test_nothing_of_a_file_is_run(value: object, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "r.pt", "w") as archive:
        archive.writestr("r/data.pkl", pickle.dumps(value, 2))
    with pytest.raises(TraceError, match="is not read"):
        import_trace(tmp_path / "r.pt", tmp_path / "o.h5")


def test_tensors_beyond_their_bytes_are_refused(tmp_path: Path) -> None:
    torch.save({"records": torch.arange(4)}, tmp_path / "good.pt")
    assert load(tmp_path / "good.pt")["records"].tolist() == [0, 1, 2, 3]
    torch.save({"records": torch.arange(4).expand(1000, 4)}, tmp_path / "wide.pt")
    with pytest.raises(TraceError, match="beyond its"):
        load(tmp_path / "wide.pt")
    data = (tmp_path / "good.pt").read_bytes()
    for cut in (10, 200, len(data) - 30):
        (tmp_path / "cut.pt").write_bytes(data[:cut])
        with pytest.raises(TraceError):
            load(tmp_path / "cut.pt")


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "int64", "float16", "float32", "float64", "bool"])
def test_tensors_of_every_type_and_stride(dtype: str, tmp_path: Path) -> None:
    tensor = torch.arange(24).reshape(2, 3, 4).to(getattr(torch, dtype))
    torch.save([tensor.transpose(0, 2), tensor[1:, ::2]], tmp_path / "t.pt")
    turned, part = load(tmp_path / "t.pt")
    np.testing.assert_array_equal(turned, tensor.transpose(0, 2).numpy())
    np.testing.assert_array_equal(part, tensor[1:, ::2].numpy())

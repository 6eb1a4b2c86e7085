"""Folders: a file per request, a file per layer, and what is in the way."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from trace_files import imported, random_experts

from lrcsim.base.errors import TraceError
from lrcsim.traces.importers import Options, import_trace


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def draw(seed: int, tokens: int, layers: int = 2) -> np.ndarray:
    return random_experts(np.random.default_rng(seed), tokens, layers, 8, 2)


def test_files_are_requests_in_natural_order(folder: Path, tmp_path: Path) -> None:
    wanted = []
    for number in (0, 2, 10):
        wanted.append(draw(number, 3 + number))
        np.savez(folder / f"r{number}.npz", routed_experts=wanted[-1])
    (folder / "README.md").write_text("notes\n")
    back, report = imported(folder, tmp_path, prompt_tokens="2")
    with back:
        np.testing.assert_array_equal(back.experts, np.concatenate(wanted))
        assert back.offsets.tolist() == [0, 3, 8, 21]
        assert back.phase is not None
        assert int((back.phase == 0).sum()) == 6
    assert report.format == "folder"
    assert any("README.md" in notice for notice in report.notices)
    assert sum("number of experts not given" in notice for notice in report.notices) == 1


def test_tables_and_folders_in_it(folder: Path, tmp_path: Path) -> None:
    for name, expert in (("b/1.csv", 5), ("a/1.csv", 1), ("a/0.csv", 2)):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"token,layer,expert\n0,0,{expert}\n")
    back, _ = imported(folder, tmp_path)
    with back:
        assert back.experts.ravel().tolist() == [2, 1, 5]
        assert back.num_experts == 6
        assert back.num_requests == 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("b.npz", None, "several formats .*a.csv is table.*b.npz is npz"),
        ("b.csv", "token,layer,expert\n0,3,1\n", "b.csv: has block"),
        ("b.csv", "token,layer,experts\n0,0,1 2\n", "b.csv: has top_k"),
        ("b.csv", "a,b\n1,2\n", "b.csv: no column is named like 'token'"),
        ("b.csv", "phase,token,layer,expert\n0,0,0,1\n", "b.csv: has the columns"),
        ("b.png", b"\x89PNG\r\n\x1a\n", None),
        ("b.bin", bytes(range(256)), "b.bin: is of no known format"),
        ("b.csv", "", "b.csv: is empty"),
    ],
)
def test_what_does_not_fit_is_named(
    name: str, content: object, message: str | None, folder: Path, tmp_path: Path
) -> None:
    (folder / "a.csv").write_text("token,layer,expert\n0,0,1\n")
    if content is None:
        np.savez(folder / name, experts=draw(1, 2))
    else:
        (folder / name).write_bytes(content if isinstance(content, bytes) else str(content).encode())
    if message is None:
        assert imported(folder, tmp_path)[1].requests == 1
        return
    with pytest.raises(TraceError, match=message):
        import_trace(folder, tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()


def layer_files(folder: Path, experts: np.ndarray, first: int = 2) -> None:
    for at in range(experts.shape[1]):
        columns = {
            "scores": pa.array([[0.6, 0.4]] * len(experts), pa.list_(pa.float16())),
            "indices": pa.array(experts[:, at].tolist(), pa.list_(pa.int16())),
        }
        parquet.write_table(pa.table(columns), folder / f"layer_{first + at:02}.parquet", row_group_size=7)


def test_a_file_per_layer(folder: Path, tmp_path: Path) -> None:
    experts = draw(3, 20, 3)
    layer_files(folder, experts)
    back, report = imported(folder, tmp_path, num_experts=8)
    with back:
        np.testing.assert_array_equal(back.experts, experts)
        assert back.layers.block.tolist() == [2, 3, 4]
        assert back.weights is not None
        np.testing.assert_allclose(back.weights[0, 0], [0.6, 0.4], atol=1e-3)
    assert report.format == "layers"


def test_files_per_layer_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    layer_files(folder, draw(3, 20, 2))
    parquet.write_table(pa.table({"indices": [[1, 2]]}), folder / "layer_09.parquet")
    with pytest.raises(TraceError, match=r"layer_09\.parquet: has 1 rows, layer_02.parquet has 20"):
        import_trace(folder, tmp_path / "out.h5")
    parquet.write_table(pa.table({"indices": [[1, 2]] * 19 + [[1]]}), folder / "layer_09.parquet")
    with pytest.raises(TraceError, match="row 20 lists 1 values"):
        import_trace(folder, tmp_path / "out.h5", options=Options(num_experts=8))
    parquet.write_table(pa.table({"indices": [[1, 2]] * 19 + [[1, 2**40]]}), folder / "layer_09.parquet")
    with pytest.raises(TraceError, match=r"row 20: expert id out of all range in \[1, 1099511627776\]"):
        import_trace(folder, tmp_path / "out.h5", options=Options(num_experts=8))


def test_a_folder_around_folders_of_layers(folder: Path, tmp_path: Path) -> None:
    (folder / "iter_1").mkdir()
    layer_files(folder / "iter_1", draw(3, 4, 2))
    with pytest.raises(TraceError, match=r"import one of them, for example .*iter_1"):
        import_trace(folder, tmp_path / "out.h5")

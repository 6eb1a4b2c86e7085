"""The engine on the stub: it counts what lrcsim counts, computes what all experts in memory give, and waits for all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from engine_toy import CELLS, EXPERTS, LAYERS, K, toy_bench, toy_engine, toy_trace  # noqa: E402

from lrcsim.experiments.validation.offload.engine.bench import DisagreementError  # noqa: E402
from lrcsim.experiments.validation.offload.engine.cells import COUNTS, EngineCell, expected  # noqa: E402
from lrcsim.experiments.validation.offload.engine.clocks import MisuseError  # noqa: E402
from lrcsim.experiments.validation.offload.engine.engine import COLUMNS, Engine  # noqa: E402
from lrcsim.experiments.validation.offload.engine.experts import split  # noqa: E402
from lrcsim.experiments.validation.offload.engine.products import WAYS  # noqa: E402
from lrcsim.experiments.validation.offload.engine.stub import StubDevice, StubStream  # noqa: E402
from lrcsim.simulator import simulate  # noqa: E402


class Directly:
    """The same model as written in a textbook, in float32, with every expert in memory; one token at a time.

    The weights are the engine's; the order of operations and the precision are not.
    """

    def __init__(self, engine: Engine) -> None:
        self.dense, self.host, self.shape = engine.model.dense, engine.model.host, engine.shape
        self.keys: list[list[Any]] = [[] for _ in range(LAYERS)]
        self.values: list[list[Any]] = [[] for _ in range(LAYERS)]
        self.x = self.dense.head[-1].float()

    @staticmethod
    def norm(x: Any) -> Any:
        return x / (x.square().mean() + 1e-6).sqrt()

    def step(self, routing: np.ndarray) -> Any:
        """Run a token through all layers; return the scores of all tokens of the vocabulary."""
        of = self.shape.geometry
        x = self.x
        for layer, weights in enumerate(self.dense.layers):
            mixed = weights.qkv.float() @ self.norm(x)
            q, k, v = mixed.view(-1, of.head_dim).split([of.heads, of.kv_heads, of.kv_heads])
            self.keys[layer].append(k)
            self.values[layer].append(v)
            outputs = []
            for head in range(of.heads):
                own = head // (of.heads // of.kv_heads)
                scores = torch.stack([key[own] @ q[head] for key in self.keys[layer]]) / of.head_dim**0.5
                shares = torch.softmax(scores, 0)
                outputs.append(sum(s * value[own] for s, value in zip(shares, self.values[layer], strict=True)))
            x = x + weights.o.float() @ torch.cat(outputs)
            h = self.norm(x)
            top = torch.softmax(torch.topk(weights.router.float() @ h, K).values, 0)
            for rank, expert in enumerate(routing[layer].tolist()):
                gate_up, down = split(self.host[layer * EXPERTS + expert].float(), self.shape)
                gate, up = (gate_up @ h).chunk(2)
                x = x + top[rank] * (down @ (gate * torch.sigmoid(gate) * up))
        return self.dense.head.float() @ self.norm(x)

    def goes_on_with(self, token: int) -> None:
        """Enter the next step as the engine does."""
        self.x = self.dense.head[len(self.dense.head) - 1 - token].float()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CELLS)
def test_every_cell_gives_the_token_that_all_experts_in_memory_give(name: str, way: str) -> None:
    engine = toy_engine(StubDevice(), name, way)
    batch = engine.cell.batch
    models = [Directly(engine) for _ in range(batch)]
    for routing in engine.table:
        engine.step()
        for sequence, (model, token) in enumerate(zip(models, engine.token, strict=True)):
            scores = model.step(routing[:, sequence * K : (sequence + 1) * K])
            spread = float(scores.max() - scores.mean())
            assert float(scores.max() - scores[token]) < 0.05 * spread  # bfloat16: the likeliest, or one as likely
            model.goes_on_with(token)


@pytest.mark.parametrize("name", CELLS)
def test_counts_of_every_step_are_lrcsims(name: str) -> None:
    engine = toy_engine(StubDevice(), name)
    cell = EngineCell.of(name)
    own = cell.trace_of(toy_trace(), 8)
    counted, totals = expected(cell, own), dict.fromkeys(COUNTS, 0)
    for step in range(len(engine.table)):
        counts = engine.step()
        for column in COUNTS:
            assert getattr(counts, column) == counted[column][step]
            totals[column] += getattr(counts, column)
    found = simulate(
        own, hardware="h200", model=engine.shape.geometry, dtype="bf16", bounds=False, **cell.options(own),
        **cell.machine_options(),
    ).to_dict()  # fmt: skip
    assert totals["accesses"] == found["cache"]["accesses"]
    assert totals["prefetched"] * engine.shape.expert_bytes == found["prefetch"]["issued_bytes"]
    if not cell.cpu:
        assert totals["loads"] == found["cache"]["accesses"] - found["cache"]["hits"]


@pytest.mark.parametrize("name", ["lru-8", "lru-8-serial", "lru-8-oracle1", "static-8-cpu"])
def test_an_engine_runs_again_from_the_beginning(name: str) -> None:
    engine = toy_engine(StubDevice(), name)
    first = []
    for _ in range(4):
        engine.step()
        first.append(engine.token)
    engine.reset()
    for tokens in first:
        engine.step()
        assert engine.token == tokens


def no_wait(*_: object) -> None:
    """In place of a wait."""


@pytest.mark.parametrize("name", ["lru-8", "lru-8-serial", "lru-8-oracle1"])
def test_an_expert_that_is_not_waited_for_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = toy_engine(StubDevice(), name)
    monkeypatch.setattr(StubStream, "wait", no_wait)
    with pytest.raises(MisuseError, match=r"\('slot', \d+\) is read before what stream \d+"):
        [engine.step() for _ in range(3)]


def test_routing_that_is_not_waited_for_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = toy_engine(StubDevice(), "lru-8")
    for known, _, _ in engine.moments.layers:
        monkeypatch.setattr(known, "synchronize", no_wait)
    with pytest.raises(MisuseError, match=r"\('ids', 0\) is read before"):
        engine.step()


def test_a_bench_leaves_out_what_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    # 3 layers x 16 slots x 3,072 bytes = 147,456 do not fit into 100,000 less a sixteenth, 3 x 8 do
    monkeypatch.setattr(StubDevice, "free_bytes", lambda _: 100_000)
    bench = toy_bench(StubDevice(), ("all", "lru-8"))
    assert [cell.name for cell in bench.cells] == ["lru-8"]
    assert bench.left_out == ["all: 0.0 GiB of experts do not fit into the 0.0 GiB that the device has left"]


def test_rows_have_the_columns_and_parts_that_add_up() -> None:
    bench = toy_bench(StubDevice(), ("lru-8", "lru-8-oracle1"))
    for cell in bench.cells:
        rows: list[dict[str, Any]] = []
        assert bench.run(cell, rows, float("inf"))
        assert [tuple(row) for row in rows] == [COLUMNS] * 6
        for row in rows:
            assert row["read_bytes"] == (row["loads"] + row["prefetched"]) * bench.shape.expert_bytes
            parts = sum(row[name] for name in ("dense_ms", "resident_ms", "arriving_ms", "output_ms"))
            assert 0 < parts <= row["wall_ms"] + 1e-3


def test_time_that_is_up_ends_a_cell() -> None:
    bench, rows = toy_bench(StubDevice(), ("lru-8",)), []  # type: ignore[var-annotated]
    assert not bench.run(bench.cells[0], rows, 0.0)
    assert rows == []


def test_another_count_than_lrcsims_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from lrcsim.experiments.validation.offload.engine import bench as module

    bench = toy_bench(StubDevice(), ("lru-8",))
    monkeypatch.setattr(module, "expected", lambda *of: {**expected(*of), "loads": np.zeros(6, int)})
    with pytest.raises(DisagreementError, match=r"lru-8, step 1: loads \d+ on the device, 0 by lrcsim"):
        bench.run(bench.cells[0], [], float("inf"))


def test_micro_benchmarks_have_the_names_of_the_earlier_engine() -> None:
    found = toy_bench(StubDevice(), ("lru-8",)).micro()
    assert {"burst_s", "size_s", "experts_s", "dense_s", "dense_8_layers_s", "head_s"} <= found.keys()
    assert {"launch_s", "launch_100_s", "d2h_s", "cpu_expert_1_threads_s"} <= found.keys()
    assert list(found["experts_s"]) == ["1", "2", "3", "4", "6", "8"]
    assert list(found["burst_s"]) == ["1", "2", "3", "4", "6", "8", "16"]
    assert all(value > 0 for value in found["size_s"].values())


def test_the_cells_are_named_as_their_files() -> None:
    for name in (*CELLS, "lru-12-oracle1", "static-24-cpu", "lru-24"):
        assert EngineCell.of(name).name == name


def test_torch_is_not_imported_by_what_needs_no_device(tmp_path: Path) -> None:
    import subprocess
    import sys

    modules = "folder, predicted, command"
    code = "; ".join(f"import lrcsim.experiments.validation.offload.engine.{name}" for name in modules.split(", "))
    subprocess.run([sys.executable, "-c", f"import sys; {code}; assert 'torch' not in sys.modules"], check=True)


def test_a_way_that_computes_something_else_or_fails_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    from lrcsim.experiments.validation.offload.engine.products import Products

    def wrong(self: Products, layer: int, slots: Any, count: int) -> Any:
        return right(self, layer, slots.flip(0), count)

    right = Products._gathered
    bench = toy_bench(StubDevice(), ("lru-8",))
    assert all(isinstance(bench.ways[way], float) for way in WAYS)
    monkeypatch.setattr(Products, "_gathered", wrong)
    bench = toy_bench(StubDevice(), ("lru-8",))
    assert bench.way == "grouped"
    assert str(bench.ways["gathered"]).startswith("computes something else")

    def failing(*_: Any) -> Any:
        raise RuntimeError("no kernel for this\nand more")

    monkeypatch.setattr(Products, "_grouped", failing)
    with pytest.raises(RuntimeError, match=r"no way to compute experts works here.*fails: no kernel for this"):
        toy_bench(StubDevice(), ("lru-8",))
    monkeypatch.undo()
    monkeypatch.setattr(StubDevice, "grouped", False)
    assert toy_bench(StubDevice(), ("lru-8",)).way == "gathered"

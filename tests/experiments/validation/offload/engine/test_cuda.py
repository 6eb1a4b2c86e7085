"""The device of a GPU, over a torch whose ``cuda`` is a fake: every call that it makes exists and is made in order."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from engine_toy import toy_engine  # noqa: E402

from lrcsim.experiments.validation.offload.__main__ import main  # noqa: E402
from lrcsim.experiments.validation.offload.engine import cuda  # noqa: E402
from lrcsim.experiments.validation.offload.engine.cuda import CudaDevice  # noqa: E402
from lrcsim.experiments.validation.offload.engine.products import WAYS  # noqa: E402
from lrcsim.experiments.validation.offload.engine.stub import StubDevice, recorder  # noqa: E402


class Stream:
    """As `torch.cuda.Stream`, priority -1 or 0."""

    def __init__(self, priority: int = 0) -> None:
        assert priority in (-1, 0)

    def wait_event(self, event: Event) -> None:
        assert event.at is not None


class Event:
    """As `torch.cuda.Event`."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.timing = enable_timing
        self.at: int | None = None

    def record(self, stream: Stream) -> None:
        assert isinstance(stream, Stream)
        Cuda.now += 1
        self.at = Cuda.now

    def synchronize(self) -> None:
        assert self.at is not None

    def query(self) -> bool:
        return bool(self.at is not None and self.at % 2)

    def elapsed_time(self, later: Event) -> float:
        assert self.timing
        assert later.timing
        assert self.at is not None
        assert later.at is not None
        return float(later.at - self.at)


class CUDAGraph:
    """As `torch.cuda.CUDAGraph`: captured on a stream that is not the default one, with a pool."""

    def capture_begin(self, pool: Any = None, capture_error_mode: str = "global") -> None:
        assert pool == Cuda.POOL
        assert Cuda.current is not Cuda.default
        self.recorder = recorder(torch)
        self.recorder.__enter__()

    def capture_end(self) -> None:
        self.recorder.__exit__(None, None, None)

    def replay(self) -> None:
        self.recorder.replay()


class Cuda:
    """As `torch.cuda`."""

    Stream, Event, CUDAGraph = Stream, Event, CUDAGraph
    POOL = (0, 1)
    now = 0
    default = current = Stream()

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def get_device_name() -> str:
        return "a fake"

    @staticmethod
    def get_device_capability() -> tuple[int, int]:
        return 9, 0

    @staticmethod
    def graph_pool_handle() -> tuple[int, int]:
        return Cuda.POOL

    @staticmethod
    def synchronize() -> None:
        pass

    @staticmethod
    def empty_cache() -> None:
        pass

    @staticmethod
    def mem_get_info() -> tuple[int, int]:
        return 1 << 28, 1 << 30

    @staticmethod
    def set_stream(stream: Stream) -> None:
        Cuda.current = stream

    @staticmethod
    @contextlib.contextmanager
    def stream(stream: Stream) -> Iterator[None]:
        before, Cuda.current = Cuda.current, stream
        yield
        Cuda.current = before


class Torch:
    """torch, with this ``cuda``, and memory of the processor whatever is asked for."""

    cuda = Cuda

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def empty(*shape: int, dtype: Any, pin_memory: bool = False, device: str | None = None) -> Any:
        assert pin_memory == (device is None)
        return torch.empty(*shape, dtype=dtype)


@pytest.fixture
def _faked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "import_torch", Torch)
    monkeypatch.setattr(CudaDevice, "where", "cpu")


@pytest.mark.usefixtures("_faked")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["lru-8", "lru-3-oracle1", "lru-8-serial", "static-8-cpu", "lru-8-batch4"])
def test_tokens_are_the_stubs(name: str, way: str) -> None:
    engine, stub = toy_engine(CudaDevice(), name, way), toy_engine(StubDevice(), name, way)
    for _ in range(len(engine.table)):
        assert engine.step() is engine.counts
        stub.step()
        assert engine.token == stub.token
        assert min(engine.moments.parts().values()) >= 0


@pytest.mark.usefixtures("_faked")
def test_the_whole_command_as_on_a_gpu(tmp_path: Path) -> None:
    config = {
        "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "num_hidden_layers": 2, "num_experts": 64,
        "num_experts_per_tok": 4, "hidden_size": 32, "moe_intermediate_size": 16, "intermediate_size": 16,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 64, "torch_dtype": "bfloat16",
        "tie_word_embeddings": False, "mlp_only_layers": [], "decoder_sparse_step": 1,
    }  # fmt: skip
    (tmp_path / "my.toy").mkdir()
    path = tmp_path / "my.toy" / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    out = tmp_path / "out"
    main(["--gpu", "--no-calibrate", "--hardware", "h200", "--models", str(path), "--tokens", "3", "--out", str(out),
          "--unique", "9", "--repetitions", "1", "--seconds", "3600"])  # fmt: skip
    page = (out / "results.md").read_text("utf-8")
    assert "a fake, torch" in page
    for cell in ("lru-8", "all", "lru-16", "lru-8-oracle1", "static-16-cpu", "lru-8-serial", "lru-16-batch4"):
        assert f"| {cell} |" in page
    assert "failed" not in page

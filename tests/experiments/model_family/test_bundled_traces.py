"""The bundled traces are what the model that the repository holds does: its first requests are recorded again."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrcsim.traces import RoutingTrace
from lrcsim.traces.trace import BUNDLED

REASON = "torch and transformers are not installed (pip install 'lrcsim[record]')"
torch = pytest.importorskip("torch", reason=REASON)
transformers = pytest.importorskip("transformers", reason=REASON)

from lrcsim.recorder import Settings, record  # noqa: E402
from lrcsim.recorder.model import load  # noqa: E402
from lrcsim.recorder.prompts import Prompt  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and transformers warn of their own affairs

FAMILY = Path(__file__).resolve().parents[3] / "experiments/model_family"
TIE = 1e-4
"""Router logits this near may change places between machines: they are of the order of 1, computed in float32."""


@pytest.fixture(scope="module")
def model() -> Any:
    return load(str(FAMILY / "checkpoint"), device="cpu", dtype="fp32")


def first_request(trace: RoutingTrace) -> tuple[Any, Any]:
    """Token ids and experts of the first request."""
    end = int(trace.offsets[1])
    assert trace.token_ids is not None
    return trace.token_ids[:end].tolist(), trace.experts[:end]


@pytest.mark.parametrize("name", BUNDLED)
def test_one_pass_over_the_first_request_gives_its_ids(name: str, model: Any, tmp_path: Path) -> None:
    with RoutingTrace.open(name) as trace:
        ids, experts = first_request(trace)
    settings = Settings(teacher_forced=True, sample_tokens=len(ids), logits=True)
    record(model, [Prompt(token_ids=tuple(ids))], tmp_path / "again.h5", settings)
    with RoutingTrace.open(tmp_path / "again.h5") as again:
        found, logits = again.experts, again.column("logits")
    assert found.shape == experts.shape
    different = np.argwhere((found != experts).any(axis=2))
    if len(different):  # on another machine: the first difference, in the order of computing, must be a tie
        layer_first = different[np.lexsort((different[:, 0], different[:, 1]))][0]
        here, there = found[tuple(layer_first)], experts[tuple(layer_first)]
        scores = logits[tuple(layer_first)].astype(float)
        assert np.abs(np.sort(scores[here]) - np.sort(scores[there])).max() < TIE
    assert (found == experts).mean() > 0.98


def test_generating_the_first_request_again_gives_the_same_trace(model: Any, tmp_path: Path) -> None:
    with RoutingTrace.open() as trace:
        ids, experts = first_request(trace)
        assert trace.phase is not None
        prompt = ids[: int((trace.phase[: len(ids)] == 0).sum())]
        about = trace.provenance
    same = (about["versions"]["torch"], about["training"]["device"]) == (
        torch.__version__, f"cpu ({platform.machine()})",
    )  # fmt: skip
    if not same:
        pytest.skip("sampled again only with the torch and the kind of machine of the recording")
    settings = Settings(max_new_tokens=about["settings"]["max_new_tokens"], seed=about["settings"]["seed"])
    record(model, [Prompt(token_ids=tuple(prompt))], tmp_path / "again.h5", settings)
    with RoutingTrace.open(tmp_path / "again.h5") as again:
        assert again.token_ids is not None
        assert again.token_ids.tolist() == ids
        assert (again.experts == experts).all()


def test_every_shipped_trace_is_good_and_small() -> None:
    from lrcsim.traces import check_file

    paths = sorted((FAMILY / "traces").glob("*.h5"))
    assert {"baseline.teacher_forced.h5", "baseline.seed1.teacher_forced.h5"} <= {path.name for path in paths}
    for path in paths:
        assert check_file(path) == []
        assert path.stat().st_size <= 3_000_000
    assert sum(path.stat().st_size for path in paths) <= 30_000_000


def test_the_bundled_traces_have_everything() -> None:
    sizes = 0
    for name in BUNDLED:
        with RoutingTrace.open(name) as trace:
            assert {"weights", "token_ids", "predictions/1", "predictions/2", "predictions/3"} <= trace.columns.keys()
            assert len(set(trace.domains or [])) == 6
            assert trace.token_ids is not None
            assert trace.token_ids.min() >= 0
            assert trace.path is not None
            sizes += trace.path.stat().st_size
    assert sizes <= 8_000_000

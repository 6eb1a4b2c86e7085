"""The traces beside the checkpoint are what that model does, recorded again; the bundled and the family's are whole."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrcsim.traces import RoutingTrace
from lrcsim.traces.trace import BUNDLED

REASON = "torch and transformers are not installed (pip install '.[record]')"
torch = pytest.importorskip("torch", reason=REASON)
transformers = pytest.importorskip("transformers", reason=REASON)

from lrcsim.experiments.model_family.record import trace_name  # noqa: E402
from lrcsim.experiments.model_family.variants import SCALES, VARIANTS  # noqa: E402
from lrcsim.recorder import Settings, record  # noqa: E402
from lrcsim.recorder.model import load  # noqa: E402
from lrcsim.recorder.prompts import Prompt  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and transformers warn of their own affairs

FAMILY = Path(__file__).resolve().parents[3] / "experiments/model_family"
OF_CHECKPOINT = FAMILY / "checkpoint_traces"
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


@pytest.mark.parametrize("name", ["generated.h5", "teacher_forced.h5"])
def test_one_pass_over_the_first_request_gives_its_ids(name: str, model: Any, tmp_path: Path) -> None:
    with RoutingTrace.open(OF_CHECKPOINT / name) as trace:
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
    with RoutingTrace.open(OF_CHECKPOINT / "generated.h5") as trace:
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


def traces_in(folder: str) -> list[Path]:
    return sorted((FAMILY / folder).glob("*.h5"))


def test_every_shipped_trace_is_good_and_small() -> None:
    from lrcsim.traces import check_file

    paths = [path for folder in ("traces", "checkpoint_traces", "series") for path in traces_in(folder)]
    for path in paths:
        assert check_file(path) == []
        assert path.stat().st_size <= 3_000_000
    assert sum(path.stat().st_size for path in paths) <= 30_000_000


def test_the_family_is_all_variants_of_one_scale_and_device() -> None:
    found, samples = set(), set()
    for path in traces_in("traces"):
        with RoutingTrace.open(path) as trace:
            training = trace.provenance["training"]
            name, seed, kind = training["variant"]["name"], training["seed"], path.name.split(".")[-2]
            assert path.name == trace_name(name, seed, kind)
            assert training["variant"] == asdict(VARIANTS[name])
            assert training["scale"] == asdict(SCALES["gpu"])
            assert training["device"] == "NVIDIA H200"
            assert trace.provenance["device"] == "cuda:0 (NVIDIA H200)"
            assert len(set(trace.domains or [])) == 6
            found.add((name, seed, kind))
            if kind == "teacher_forced":
                assert trace.token_ids is not None
                samples.add(bytes(trace.token_ids))
    seeds = [(name, 0) for name in VARIANTS] + [(name, 1) for name in ("baseline", "share1", "sparse2")]
    assert found == {(name, seed, kind) for name, seed in seeds for kind in ("generated", "teacher_forced")}
    assert len(samples) == 1  # all saw the same text: differences can be paired


def test_the_series_is_one_training_on_one_text() -> None:
    paths = [FAMILY / "series" / trace_name("baseline", 0, "teacher_forced", percent) for percent in (10, 30, 100)]
    assert sorted(paths) == traces_in("series")
    samples, trained, experts = [], [], []
    for path in paths:
        assert path.stat().st_size <= 500_000
        with RoutingTrace.open(path) as trace:
            assert trace.token_ids is not None
            samples.append(bytes(trace.token_ids))
            trained.append(trace.provenance["training"])
            experts.append(bytes(trace.experts))
    assert [one["steps_trained"] for one in trained] == [75, 225, 750]
    assert [one["training_tokens"] for one in trained] == [230_400, 691_200, 2_304_000]  # 6 domains, a row of 512
    for name in ("variant", "scale", "seed"):
        assert trained[0][name] == trained[1][name] == trained[2][name]
    losses = [sum(one["validation_loss"].values()) for one in trained]
    assert losses == sorted(losses, reverse=True)
    assert len(set(samples)) == 1
    assert len(set(experts)) == 3


def test_each_training_s_run_is_that_of_its_traces() -> None:
    for path in traces_in("traces"):
        with RoutingTrace.open(path) as trace:
            told = trace.provenance["training"]
        run = FAMILY / "runs" / f"{told['variant']['name']}.{told['seed']}"
        assert json.loads((run / "training.json").read_text(encoding="utf-8")) == told


@pytest.mark.parametrize("name", BUNDLED)
def test_the_bundled_traces_have_everything(name: str) -> None:
    with RoutingTrace.open(name) as trace:
        assert {"weights", "token_ids", "predictions/1", "predictions/2", "predictions/3"} <= trace.columns.keys()
        assert len(set(trace.domains or [])) == 6
        assert trace.token_ids is not None
        assert trace.token_ids.min() >= 0
        assert trace.provenance["training"]["device"] == "NVIDIA H200"
        assert trace.path is not None
        assert trace.path.stat().st_size <= 8_000_000

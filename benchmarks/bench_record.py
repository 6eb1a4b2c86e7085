"""What does recording cost, and does its memory stay bounded?

Overhead: a model of OLMoE's shape in small (16 layers, 64 experts, top-8, random weights) generates the same requests
plainly and while being recorded, in turn within one run; CPU time of one thread, the median of the pairs' ratios. What
is recorded is checked: the same tokens, and the ids that a plain hook on the routers saw.

Memory: 10 M tokens x 16 layers x top-8 through the store, as a fast model would give them, in a process of its own
whose peak is read from the system; the trace is then compared with what was given.

    python benchmarks/bench_record.py [overhead] [memory [MILLIONS_OF_TOKENS]]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

PROMPT, MADE, PAIRS, BATCH = 64, 96, 7, 1
LAYERS, EXPERTS, TOP_K = 16, 64, 8
REQUEST = 5_000  # tokens of one request in the memory test
MOST_MIB = 1_024


def overhead() -> None:
    """Print the share of time that recording adds to generation, with and without what is optional."""
    import torch
    from transformers import OlmoeConfig, OlmoeForCausalLM

    from lrcsim.recorder import Prompt, Settings, record
    from lrcsim.recorder.capture import Capture
    from lrcsim.recorder.model import Loaded
    from lrcsim.recorder.requests import Request
    from lrcsim.recorder.runs import generate
    from lrcsim.traces import RoutingTrace

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = OlmoeConfig(
        vocab_size=32_000, hidden_size=256, intermediate_size=128, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=4, num_experts=EXPERTS, num_experts_per_tok=TOP_K, eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    model = OlmoeForCausalLM(config).eval()
    size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    requests = [Request(torch.randint(0, 32_000, (PROMPT,)).tolist(), None, number) for number in range(BATCH)]
    options = {"max_new_tokens": MADE, "temperature": 0.8, "seed": 0}

    class Unwatched(Capture):
        """The same call of generate(), without a hook."""

        def take(self) -> dict[int, object]:  # type: ignore[override]
            raise StopIteration

    def plain() -> list[int]:
        sequences: list[int] = []
        unwatched = Unwatched(model)
        keep = model.generate

        def note(**given: object) -> object:
            output = keep(**given)
            sequences.extend(output[0].tolist())
            return output

        model.generate = note
        try:
            generate(unwatched, requests, **options)
        except StopIteration:
            pass
        finally:
            del model.generate
        return sequences

    def recorded(capture: Capture) -> dict[str, np.ndarray]:
        with capture.on():
            return generate(capture, requests, **options)[0]

    seen: list[torch.Tensor] = []
    hooks = [
        layer.mlp.gate.register_forward_hook(lambda _, __, out: seen.append(out[2])) for layer in model.model.layers
    ]
    tokens = plain()
    for hook in hooks:
        hook.remove()
    ids = torch.cat([torch.stack(seen[at : at + LAYERS], dim=1) for at in range(0, len(seen), LAYERS)]).numpy()
    columns = recorded(Capture(model))
    assert tokens[:-1] == columns["token_ids"].tolist()
    assert (columns["experts"] == ids).all()

    print(f"OLMoE of {size:.0f} M parameters, {LAYERS} layers, {PROMPT} + {MADE} tokens, batch {BATCH}, one thread")
    for name, given in (
        ("ids and weights", {}),
        ("and scores", {"logits": True}),
        ("and predictions 3 ahead", {"logits": True, "ahead": 3}),
    ):
        print(f"{name:<26}{_ratio(plain, lambda given=given: recorded(Capture(model, **given))):+7.1%}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.h5"
        prompts = [Prompt(token_ids=tuple(request.ids)) for request in requests]

        def whole() -> None:
            record(Loaded(model, None, "bench"), prompts, out, Settings(max_new_tokens=MADE))

        print(f"{'a whole small recording':<26}{_ratio(plain, whole):+7.1%}   ({BATCH} request, files included)")
        with RoutingTrace.open(out) as trace:
            assert (trace.experts == ids).all()


def _ratio(plain: object, recorded: object) -> float:
    ratios = []
    for pair in range(PAIRS):
        seconds = {}
        for run in (plain, recorded) if pair % 2 else (recorded, plain):  # neither always goes first
            started = time.process_time()
            run()  # type: ignore[operator]
            seconds[run is plain] = time.process_time() - started
        ratios.append(seconds[False] / seconds[True])
    return statistics.median(ratios) - 1


def memory(millions: float) -> None:
    """Print peak memory, time and size of a long recording."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.h5"
        command = [sys.executable, __file__, "stub", str(millions), str(out)]
        peak = float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])
        assert peak < MOST_MIB, f"{peak:.0f} MiB, {MOST_MIB} are allowed"
        from lrcsim.traces import RoutingTrace

        with RoutingTrace.open(out) as trace:
            requests = trace.num_requests
            assert trace.num_tokens == requests * REQUEST >= millions * 1e6
            for number in (0, requests // 2, requests - 1):
                low = int(trace.offsets[number])
                assert (trace.read("experts", low, low + REQUEST) == stub_request(number)["experts"]).all()


def stub_request(number: int) -> dict[str, np.ndarray]:
    """Return columns of one request as a runner gives them."""
    random = np.random.default_rng(number)
    first = random.integers(0, EXPERTS, (REQUEST, LAYERS, 1), dtype=np.int32)
    weights = np.broadcast_to(np.linspace(0.2, 0.05, TOP_K, dtype=np.float16), (REQUEST, LAYERS, TOP_K))
    return {
        "experts": (first + 7 * np.arange(TOP_K, dtype=np.int32)) % EXPERTS,
        "weights": weights,
        "token_ids": random.integers(0, 50_000, REQUEST, dtype=np.int32),
        "phase": (np.arange(REQUEST) >= 1_000).astype(np.uint8),
    }


def stub(millions: float, out: Path) -> None:
    """Put requests through the store, and say what it took; in a process of its own."""
    import resource

    from lrcsim.recorder.store import Store
    from lrcsim.recorder.workspace import Workspace
    from lrcsim.traces import LayerTable

    started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    layers, begun = LayerTable.build(LAYERS, EXPERTS, TOP_K), time.perf_counter()
    with Workspace(out, {}) as workspace, Store(workspace) as store:
        for number in range(int(-(-millions * 1e6 // REQUEST))):
            store.add([("stub", stub_request(number))], layers, ["layer"] * LAYERS, str(number))
        recorded = time.perf_counter() - begun
        parts = len(store.parts)
        store.finish("stub", {"synthetic": True})
        tokens = store.tokens
        workspace.discard()
    joined = time.perf_counter() - begun - recorded
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{tokens / 1e6:g} M tokens: {recorded:.0f} s into {parts} parts, {joined:.0f} s to join them, "
        f"{out.stat().st_size / 1e6:.0f} MB; peak {peak:.0f} MiB, {started:.0f} MiB before it began",
        file=sys.stderr,
    )
    print(peak)


def main() -> None:
    """Run what the arguments say."""
    given = sys.argv[1:] or ["overhead", "memory"]
    if given[0] == "stub":
        stub(float(given[1]), Path(given[2]))
        return
    if "overhead" in given:
        overhead()
    if "memory" in given:
        memory(float(given[-1]) if given[-1] != "memory" else 10.0)


if __name__ == "__main__":
    main()

"""The configurations that `freeze.py` keeps, by name: pairs of options covered, every command, wrong inputs."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

Case = dict[str, Any]
Row = dict[str, Any]

LAYERS = {"small.h5": 8, "forced.h5": 8, "uneven.h5": 8, "made.h5": 5, "qwen.h5": 48, "gptoss.h5": 24}
BYTES = {"small.h5": "21MiB", "forced.h5": "25MB", "uneven.h5": "6MiB", "made.h5": "50kB", "qwen.h5": "4000MiB",
         "gptoss.h5": "3GiB"}  # fmt: skip
MODELS = {"qwen.h5": "qwen3-30b-a3b:top_k=6", "gptoss.h5": "gpt-oss-20b"}
WITHOUT_WEIGHTS = ("gptoss.h5",)

MACHINES = ("rtx-4090", "rtx-3090", "phone", "phone-ufs", "apple-m4-max", "desktop-cpu", "jetson-agx-orin",
            "rtx-4090+pcie3-x8+ddr4-3200-2ch", "machine.toml")  # fmt: skip
UNIFIED = ("phone", "phone-ufs", "apple-m4-max", "desktop-cpu", "jetson-agx-orin")
PREFETCHERS = ("none", "oracle:1", "oracle:3", "next-gate", "next-gate:distance=2", "popularity", "temporal",
               "transition", "trace-match")  # fmt: skip
MISSES = ("load", "cpu", "split", "split:0.4", "skip:0.1", "skip:0.2,keep=0", "substitute:0.1", "low:0.1",
          "low:0.2,0.4")  # fmt: skip


def make_cases() -> dict[str, Case]:
    """Return all configurations by name."""
    policies = listed("policies")
    parts: tuple[Iterator[tuple[str, Case]], ...] = (
        replays(policies), by_hand(), timed(), curves(policies), metrics(), plans(), tables(), files(), helps(),
        wrong(),
        wrong_calls(),
    )  # fmt: skip
    return {name: case for part in parts for name, case in part}


def listed(what: str) -> list[dict[str, Any]]:
    """Return what ``lrcsim policies`` and its like list."""
    import json
    import tempfile
    from pathlib import Path

    from freeze_run import command

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "out.json")
        command([what, "--json", str(file)])
        rows: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return rows


def pairs_cover(options: dict[str, list[Any]], repair: Callable[[Row], None], seed: int) -> Iterator[Row]:
    """Draw rows of options until every pair of values that can stand together has stood together.

    Args:
        options: values of each option.
        repair: changes a row so that its options go together.
        seed: of the draws.
    """
    rng = random.Random(seed)
    names = list(options)
    missing = {
        ((one, repr(a)), (other, repr(b)))
        for one, other in combinations(names, 2) for a in options[one] for b in options[other]
    }  # fmt: skip
    useless = 0
    while missing and useless < 60:
        drawn = []
        for _ in range(25):
            row = {name: rng.choice(values) for name, values in options.items()}
            (one, a), (other, b) = rng.choice(sorted(missing))
            row[one] = next(value for value in options[one] if repr(value) == a)
            row[other] = next(value for value in options[other] if repr(value) == b)
            repair(row)
            pairs = set(combinations([(name, repr(row[name])) for name in names], 2)) & missing
            drawn.append((len(pairs), row, pairs))
        gained, row, pairs = max(drawn, key=lambda one: one[0])
        useless = 0 if gained else useless + 1
        missing -= pairs
        if gained:
            yield row


def named(kind: str, row: Row) -> str:
    """Return a name that says what is not at its default."""
    return " ".join([kind, *(f"{name}={value}" for name, value in row.items() if value is not None)])


def size_for(size: str, trace: str, scope: str) -> Any:
    """Return a cache size: ``bytes`` and ``list`` depend on the trace."""
    if size == "bytes":
        return BYTES[trace]
    if size == "list":
        return [("8", "2x", "25%", "6")[i % 4] for i in range(LAYERS[trace])] if scope == "layer" else "2x"
    return size


def replays(policies: list[dict[str, Any]]) -> Iterator[tuple[str, Case]]:
    """Yield every policy with every rule, kind of step, size and trace."""
    about = {policy["name"]: policy for policy in policies}
    options: dict[str, list[Any]] = {
        "policy": [*about, "slru:share=0.5", "sch-lookahead:m=4", "mine.py:Sticky", "mine.py:Patient"],
        "trace": list(LAYERS),
        "scope": ["layer", "model"],
        "access": ["coresident", "sequential", "paper"],
        "prefill": [None, "step", "chunk:7", "token"],
        "warm": [None, True, False],
        "cache": ["1x", "2x", "20%", "bytes", "list"],
    }

    def repair(row: Row) -> None:
        known = about.get(row["policy"].partition(":")[0], {})
        if row["access"] == "paper" and known.get("bypass"):
            row["access"] = "sequential"
        if row["access"] == "paper":
            row["warm"], row["prefill"] = None, None
        if row["trace"] in WITHOUT_WEIGHTS and "weights" in known.get("needs", ()):
            row["trace"] = "small.h5"
        if row["scope"] == "model" and row["cache"] == "list":
            row["cache"] = "bytes"

    for row in pairs_cover(options, repair, 1):
        args = {name: value for name, value in row.items() if name != "trace" and value is not None}
        args["cache"] = size_for(row["cache"], row["trace"], row["scope"])
        if "profile" in about.get(row["policy"].partition(":")[0], {}).get("needs", ()):
            args["profile"] = "self"
        yield named("replay", row), {"call": "simulate", "trace": row["trace"], "args": args}


def by_hand() -> Iterator[tuple[str, Case]]:
    """Yield replays of several requests at once, and of sizes that are seldom met."""
    base = {"policy": "lru", "cache": "2x"}
    served: list[Row] = [
        {"batch": 3},
        {"batch": 2, "batching": "static", "prefill": "chunk:16"},
        {"speculative": [3, 0.7], "seed": 5},
        {"speculative": [2, [2, 0, 1]], "scope": "model"},
        {"batch": 4, "speculative": [4, 0.5], "policy": "s3-fifo", "warm": False},
        {"batch": 2, "access": "sequential", "policy": "belady"},
        {"batch": 2, "policy": "static", "profile": "self"},
        {"batch": 2, "profile": "forced.h5", "policy": "pinned-lru", "trace": "small.h5"},
        {"cache": 0}, {"cache": 1}, {"cache": 3, "access": "sequential"}, {"cache": "100%"}, {"cache": "0.5x"},
        {"cache": "3", "scope": "model"}, {"bounds": False}, {"cache": "1000"},
    ]  # fmt: skip
    for options in served:
        for trace in ("small.h5", "made.h5"):
            if options.get("trace", trace) == trace:
                args = base | {name: value for name, value in options.items() if name != "trace"}
                yield named(f"served {trace}", options), {"call": "simulate", "trace": trace, "args": args}


def timed() -> Iterator[tuple[str, Case]]:
    """Yield runs on machines: pairs of machine, prefetcher, miss action, storage, batch, engine ..."""
    options: dict[str, list[Any]] = {
        "hardware": list(MACHINES),
        "trace": ["small.h5", "uneven.h5", "qwen.h5", "gptoss.h5"],
        "policy": ["lru", "lfu", "fifo", "arc", "mrs", "s3-fifo", "lfu-decay", "least-stale-layer", "dali", "belady",
                   "mine.py:Sticky"],
        "cache": ["1x", "2x", "25%", "bytes"],
        "scope": ["layer", "model"],
        "prefill": [None, "chunk:16"],
        "warm": [None, False],
        "overlap": [None, False],
        "miss": list(MISSES),
        "prefetch": [*PREFETCHERS, "ahead.py:SameAgain"],
        "dram": [None, "50%", "30%"],
        "dram_policy": [None, "lfu-decay", "fifo"],
        "batch": [None, 4],
        "batching": [None, "static"],
        "speculative": [None, [3, 0.7]],
        "arrivals": [None, "poisson:20"],
        "engine": [None, "events", "compiled"],
        "link": [None, "pcie.bandwidth=2GB/s", "pcie.chunk=1MiB", "nvme.lanes=1"],
        "dtype": [None, "q4_k_m"],
    }  # fmt: skip

    def repair(row: Row) -> None:
        if row["hardware"] in UNIFIED:
            row["dram"] = None
        if row["engine"] == "compiled":
            row |= dict.fromkeys(("dram", "arrivals", "batch", "speculative")) | {"prefetch": "none"}
            row["miss"] = row["miss"] if row["miss"] in ("load", "cpu") else "load"
            row["policy"] = row["policy"].replace("mine.py:Sticky", "lru")
        if row["policy"] == "belady" or row["overlap"] is False:
            row["prefetch"] = "none"
        if row["prefetch"].startswith("oracle"):
            row["arrivals"] = None
        if row["prefetch"].startswith("next-gate"):
            row["trace"] = "small.h5"
        if row["trace"] in WITHOUT_WEIGHTS:
            row["policy"] = "lru" if row["policy"] == "mrs" else row["policy"]
            row["miss"] = row["miss"] if row["miss"] in MISSES[:4] else "load"
        if row["dram"] is None:
            row["dram_policy"] = None
        if row["batch"] is None:
            row["batching"] = None
        if row["link"] and row["link"].startswith("pcie") and not row["hardware"].startswith(("rtx", "machine")):
            row["link"] = "nvme.lanes=1"

    for row in pairs_cover(options, repair, 2):
        args = {name: value for name, value in row.items() if name not in ("trace", "link") and value is not None}
        args["cache"] = size_for(row["cache"], row["trace"], row["scope"])
        args["model"] = MODELS.get(row["trace"], "lrcsim-toy-baseline")
        if row["link"]:
            args["overrides"] = [row["link"]]
        yield named("timed", row), {"call": "simulate", "trace": row["trace"], "args": args}
    for machine in listed("hardware"):
        profile = {"hardware": machine["name"], "model": "lrcsim-toy-baseline", "cache": "2x"}
        yield f"machine {machine['name']}", {"call": "simulate", "trace": "small.h5", "args": profile}
        seldom: Row = profile | {"prefetch": "transition", "miss": "low:0.2"}
        seldom |= {} if machine["name"] in UNIFIED else {"dram": "40%"}
        yield f"machine {machine['name']} busy", {"call": "simulate", "trace": "small.h5", "args": seldom}
    on_gpu: Row = {"hardware": "rtx-3090", "model": "lrcsim-toy-baseline", "cache": "2x", "scope": "model"}
    more: list[Row] = [
        *({"prefetch": name, "overrides": ["pcie.bandwidth=2GB/s"]} for name in PREFETCHERS),
        *({"miss": name, "overrides": ["pcie.bandwidth=2GB/s"]} for name in MISSES),
        *({"miss": name, "dram": "50%", "prefetch": "popularity"} for name in MISSES),
        *({"engine": engine, "overlap": on} for engine in ("events", "compiled") for on in (True, False)),
        {"policy": "mrs", "prefetch": "transition", "overrides": ["kv_shared=true"]},
        {"overrides": ["kv_shared=true", "gpu.memory=140MiB"]},
        {"policy": "lfu-decay", "overrides": ["kv_shared=true", "gpu.memory=140MiB"], "prefetch": "temporal"},
        {"dram": "50%", "dram_policy": "lfu-decay"},
        {"arrivals": [0.0, 0.004], "batch": 2},
        {"policy": "static", "profile": "self"},
        {"policy": "belady-bypass"},
        {"batch": 2, "batching": "static", "speculative": [3, 0.6], "arrivals": "poisson:200", "seed": 3},
    ]
    for row in more:
        yield named("timed by hand", row), {"call": "simulate", "trace": "small.h5", "args": on_gpu | row}


def curves(policies: list[dict[str, Any]]) -> Iterator[tuple[str, Case]]:
    """Yield the curve of every policy, and pairs of the other options for the commonest."""
    for policy in policies:
        profile = {"profile": "self"} if "profile" in policy["needs"] else {}
        for trace, scope in (("small.h5", "layer"), ("made.h5", "model")):
            args = {"policy": policy["name"], "scope": scope, "jobs": 1} | profile
            yield f"curve {policy['name']} {trace}", {"call": "curve", "trace": trace, "args": args}
    options: dict[str, list[Any]] = {
        "policy": ["lru", "lfu", "belady", "belady-bypass", "sch-lookahead:m=8", "sch-static:m=8", "arc", "sieve",
                   "lfru", "mrs", "hobbit", "mine.py:Patient", "mine.py:Sticky"],
        "trace": ["small.h5", "made.h5", "forced.h5", "qwen.h5", "gptoss.h5"],
        "scope": ["layer", "model"],
        "access": ["coresident", "sequential", "paper"],
        "prefill": [None, "chunk:7", "token"],
        "warm": [None, True, False],
        "capacities": [None, [1, 4, 9], "bytes"],
    }  # fmt: skip

    def repair(row: Row) -> None:
        if row["access"] == "paper":
            row["warm"], row["prefill"] = None, None
            row["policy"] = row["policy"] if row["policy"] not in ("belady-bypass", "sch-static:m=8") else "lru"
        if row["trace"] in WITHOUT_WEIGHTS and row["policy"] == "mrs":
            row["policy"] = "lru"

    for row in pairs_cover(options, repair, 3):
        args = {name: value for name, value in row.items() if name != "trace" and value is not None} | {"jobs": 1}
        if row["capacities"] == "bytes":
            args["capacities"] = [BYTES[row["trace"]]]
        yield named("curve of", row), {"call": "curve", "trace": row["trace"], "args": args}


def metrics() -> Iterator[tuple[str, Case]]:
    """Yield SRP and SCH in both definitions."""
    for trace in ("small.h5", "forced.h5", "made.h5", "qwen.h5", "gptoss.h5"):
        for segment in (1, 4, 16):
            yield f"srp {trace} {segment}", {"call": "srp", "trace": trace, "args": {"segment": segment}}
            for definition in ("static", "lookahead"):
                for scope, size in (("layer", "2x"), ("model", "1x"), ("layer", 12)):
                    args: Row = {"segment": segment, "cache": size, "definition": definition, "scope": scope}
                    yield named(f"sch {trace}", args), {"call": "sch", "trace": trace, "args": args}


def commands(*lines: str) -> Case:
    """Return a configuration of command lines, written as one types them."""
    return {"commands": [line.split() for line in lines]}


def plans() -> Iterator[tuple[str, Case]]:
    """Yield plans of models on machines."""
    asked = (
        "lrcsim-toy-baseline --hardware rtx-3090 --vram 66MiB --reserve 8MiB --context 1k --trace small.h5",
        "lrcsim-toy-baseline --hardware rtx-3090 --vram 66MiB --reserve 8MiB --context 1k --traces .",
        "olmoe-1b-7b --hardware rtx-3090 --dtype q4_k_m --vram 2560MiB",
        "qwen3-30b-a3b --hardware rtx-4090 --dtype q4_k_m",
        "qwen3-30b-a3b --hardware rtx-4060-laptop --dtype q4_k_m --context 32k --kv-dtype q8_0",
        "qwen3-30b-a3b:top_k=6 --hardware phone --dtype q4_k_m --trace qwen.h5",
        "gpt-oss-20b --hardware rtx-4060-laptop --trace gptoss.h5",
        "gpt-oss-120b --hardware rtx-4090",
        "gpt-oss-120b --hardware apple-m4-max --ram 64GiB",
        "deepseek-v3 --hardware rtx-4060-laptop",
        "deepseek-v3 --hardware h200 --set pcie.bandwidth=25GB/s",
        "mixtral-8x7b --hardware desktop-cpu --dtype q4_k_m",
        "qwen3-235b-a22b --hardware rtx-5090 --dtype q4_k_m --ram 256GiB",
        "olmoe-1b-7b --hardware h100-sxm",
        "config.json --hardware rtx-3090",
    )
    for line in asked:
        yield f"plan {line}", commands(f"plan --model {line} --json out.json")


def tables() -> Iterator[tuple[str, Case]]:
    """Yield what the commands list and show, and what they make of small traces."""
    for what in ("policies", "hardware", "models"):
        yield f"list {what}", commands(f"{what} --json out.json", what)
        for one in listed(what):
            yield (
                f"show {what} {one['name']}",
                commands(f"{what} {one['name']} --json out.json", f"{what} {one['name']}"),
            )
    machine = "--hardware rtx-3090 --model lrcsim-toy-baseline"
    lines = (
        "models config.json --json out.json", "models qwen3-30b-a3b --dtype q4_k_m,0-3=q8_0 --json out.json",
        "models qwen3-30b-a3b:top_k=6 --json out.json",
        "hardware rtx-4090+pcie3-x8 --set nvme=nvme-gen5 --toml out.toml --json out.json",
        "hardware machine.toml --json out.json",
        "run small.h5 --json out.json", "run made.h5 --policy belady --scope model --json out.json",
        "run qwen.h5 --scope model --cache 4000MiB --cold --json out.json",
        "run small.h5 --expert-bytes 1MiB --cache 40MiB --profile self --policy static --json out.json",
        f"run small.h5 {machine} --timeline time.json --plot out.svg --json out.json",
        f"run small.h5 {machine} --batch 2 --arrivals arrivals.txt --json out.json",
        f"run small.h5 {machine} --draft 3 --acceptance 2,0,3 --timeline time.json --json out.json",
        f"run small.h5 {machine} --miss skip:0.5,keep=0 --prefetch next-gate --dram 50% --json out.json",
        "run qwen.h5 --hardware phone --model qwen3-30b-a3b:top_k=6 --cache 4000MiB --scope model --json out.json",
        "curve small.h5 --json out.json --csv out.csv --plot out.svg",
        "curve small.h5 made.h5 --policy lru,arc,sch-lookahead:16 --json out.json --csv out.csv",
        "curve made.h5 --allocate 2x --json out.json",
        "curve uneven.h5 --allocate 4MiB --policy lru,belady --json out.json",
        "curve uneven.h5 --cache 1MiB,6MiB --policy lru,fifo --json out.json",
        "curve qwen.h5 --allocate 25% --policy lru,lfu --json out.json",
        "srp small.h5 -m 4,16 --json out.json --csv out.csv --plot out.svg",
        "srp small.h5 -m 4 --specialisation --bootstrap 200 --json out.json",
        *(f"srp made.h5 -m 4,8 --by {by} --bootstrap 50 --json out.json --csv out.csv"
          for by in ("stack", "layer", "domain", "expert", "position")),
        "srp small.h5 forced.h5 --json out.json --confidence 80 --seed 2",
        "sch small.h5 -m 4,16 --cache 1x,2x,16 --json out.json --csv out.csv --plot out.svg",
        "sch made.h5 -m 4 --definition lookahead --scope model --bootstrap 100 --json out.json",
        "sch made.h5 -m 4 --by layer --bootstrap 100 --json out.json --csv out.csv",
        *(f"trace {what} {trace} --json out.json" for what in ("info", "check")
          for trace in ("small.h5", "forced.h5", "uneven.h5", "made.h5", "wrong.h5", "qwen.h5")),
        "trace info", "trace info small.h5 --quick --json out.json", "trace check bundled:generated",
        "calibrate --from-run qwen.csv --trace qwen.h5 --model qwen3-30b-a3b:top_k=6 --scope model --cache 4000MiB "
        "--cold -o out.toml --json out.json --plot out.svg",
    )  # fmt: skip
    for line in lines:
        yield line, commands(line)


def files() -> Iterator[tuple[str, Case]]:
    """Yield sweeps, reports, exports and imports: what one command writes, the next reads."""
    sweep = "sweep sweep.toml -o t.parquet --jobs 1"
    yield "sweep", commands(
        "sweep sweep.toml -o t.parquet --dry-run", sweep, sweep, "results t.parquet",
        "results t.parquet --json all.json",
        "results t.parquet --best hit_rate --per scope,cache --json best.json",
        "results t.parquet --pareto hit_rate,cache_bytes --csv front.csv --plot front.svg",
        "results t.parquet --pivot policy cache hit_rate --csv pivot.csv --plot pivot.svg",
        "results t.parquet --columns policy,misses --limit 3", "results t.parquet --best decode_tokens_per_s:max",
        "report t.parquet -o page.html --json page.json",
    )  # fmt: skip
    where = [
        ["results", "t.parquet", "--where", text, "--json", "some.json"] for text in ("policy = 'lru'", "polcy = 1")
    ]
    yield "sweep where", {"commands": [sweep.split(), *where]}
    machine = "--hardware rtx-3090 --model lrcsim-toy-baseline"
    yield (
        "report of a run",
        commands(
            "run small.h5 --json a.json", "report a.json -o page.html --json page.json --policies lru,fifo,belady"
        ),
    )
    yield (
        "report of times",
        commands(
            f"run small.h5 {machine} --policy lfu --json a.json",
            "report a.json -o page.html --json page.json --request 1",
        ),
    )
    yield "report of all", commands(
        "run small.h5 --json a.json", "curve small.h5 --json b.json", "srp small.h5 -m 4,16 --json c.json",
        "sch small.h5 -m 4 --json d.json",
        "report a.json b.json c.json d.json -o page.html --json page.json --without map",
        "report b.json -o two.html", "report c.json d.json -o three.html", "report a.json -o four.html --without all",
    )  # fmt: skip
    for trace in ("small.h5", "made.h5", "forced.h5"):
        for name in ("a.npz", "a.csv"):
            yield (
                f"export {trace} {name}",
                commands(
                    f"trace export {trace} -o {name} --json out.json", f"trace import {name} -o back.h5 --json in.json"
                ),
            )
        yield (
            f"export {trace} oracleGeneral",
            commands(
                f"trace export {trace} -o a.oracleGeneral --json out.json",
                f"trace export {trace} -o b.oracleGeneral --layer 2 --prefill chunk:8 --json two.json",
            ),
        )
    yield (
        "import",
        commands(
            "trace import t.csv -o a.h5 --json a.json --model m --expert-bytes 100",
            "trace import t.csv -o b.h5 --columns weight=none --num-experts 9 --json b.json",
        ),
    )


def helps() -> Iterator[tuple[str, Case]]:
    """Yield the help of every command."""
    import click

    from lrcsim.cli.main import cli

    names = [[name] for name in cli.list_commands(click.Context(cli))]
    names += [["trace", name] for name in ("info", "check", "import", "export")]
    for name in [[], *names]:
        yield " ".join(["help", *name]), {"commands": [[*name, "--help"]]}


def wrong() -> Iterator[tuple[str, Case]]:
    """Yield wrong command lines; each says in one line what is wrong."""
    machine = "small.h5 --hardware rtx-3090 --model lrcsim-toy-baseline"
    plan = "plan --model lrcsim-toy-baseline --hardware rtx-3090"
    lines = {
        "": ["runn", "run --cach 2x", "run a b", "results", "trace", "policies lfuu", "hardware rtx-409",
             "models olmoo",
             "hardware badmachine.toml", "hardware badunit.toml", "hardware rtx-4090 --set pcie.bandwith=1GB/s",
             "hardware rtx-4090+pcie9", "models broken.json", "models other.json", "models olmoe-1b-7b --dtype q4_k_n"],
        "run": ["absent.h5", ".", "text.h5", "bundled:generate", "wrong.h5"],
        "run small.h5": [
            "--policy lruu", "--policy static", "--policy nowhere.py:Mine", "--policy mine.py:Nothing",
            "--policy mine.py:NotAPolicy", "--policy mine.py:Half", "--policy mine.py:Broken",
            "--policy mine.py:Failing",
            "--policy syntax.py:Oops", "--policy no.such.module:Class", "--policy mine.py:Sticky:spre=2",
            "--policy sch-lookahead:0", "--policy sch-lookahead:x", "--policy slru:share=2", "--policy slru:shar=0.5",
            "--cache 2y", "--cache -3", "--cache 0%", "--cache 101%", "--cache 1,2", "--cache 99999999999999999999",
            "--cache 1,2,3 --scope model", "--cache 1.5", "--scope global", "--access strict", "--access paper --warm",
            "--access paper --prefill step", "--access paper --batch 2",
            "--access paper --policy static --profile self",
            "--prefill all", "--prefill chunk:0", "--profile absent.h5", "--profile made.h5 --policy static",
            "--expert-bytes 0", "--expert-bytes big", "--json absent/out.json", "--json small.h5", "--batch 0",
            "--batching sometimes", "--draft 0", "--draft 2 --acceptance 1.5", "--acceptance 0.5",
            "--arrivals poisson:3",
            "--miss cpu", "--set pcie.lanes=2", "--no-overlap", "--timeline x.json", "--plot x.gif", "--dram 50%",
            "--engine events", "--prefetch oracle", "--model olmoe-1b-7b", "--dtype bf16",
        ],
        "run gptoss.h5": ["--policy mrs", "--hardware rtx-4090 --miss skip:0.1"],
        f"run {machine}": [
            "--set pcie.bandwith=2GB/s", "--set pcie.bandwidth=-2GB/s", "--set pcie.bandwidth",
            "--set pcie.bandwidth=2",
            "--model qwen3-30b-a3b", "--dtype q4_k_n", "--miss evict", "--miss skip", "--miss skip:2", "--miss load:1",
            "--miss skip:0.1,keep=no", "--miss low:0.1,2", "--miss skip:0.1,kep=1", "--miss split:x",
            "--prefetch orcle",
            "--prefetch oracle:0", "--prefetch next-gate:distance=9", "--prefetch oracle --policy belady",
            "--prefetch transition --policy static --profile self", "--prefetch mine.py:Sticky", "--engine fast",
            "--engine compiled --prefetch oracle", "--engine compiled --miss skip:0.1", "--dram 0%", "--dram 200%",
            "--dram much", "--dram 99TiB", "--dram 50% --dram-policy lruu", "--dram-policy lfu", "--access paper",
            "--access sequential", "--arrivals never", "--arrivals badarrivals.txt", "--arrivals poisson:0",
            "--cache 4000GiB", "--set gpu.memory=1MiB", "--plot x.gif", "--seed -1", "--hardware text.h5",
        ],
        "curve small.h5": ["--policy lru,lfuu", "--policy mrs:alpha=2", "--scope modle", "--access pape",
                           "--plot c.jpg",
                           "--csv absent/c.csv", "--cache 2x", "--cache 8,1GiB", "--allocate lots", "--allocate 2,2,2",
                           "--allocate 2x --policy fifo", "--jobs 0", "--json a.json --csv a.json"],
        "srp small.h5": ["-m 0", "-m x", "-m 100000", "--by colour", "--bootstrap -1", "--confidence 101"],
        "srp qwen.h5": ["--by domain", "--specialisation"],
        "sch small.h5": ["--definition best", "--cache 2y", "-m 0", "--cache 0.1MiB", "--scope all"],
        "sch uneven.h5 -m 4": ["--cache 4MiB --scope model", "--cache 4MiB"],
        plan: ["--context lots", "--context 0", "--vram 24", "--vram many", "--dtype q4_k_n", "--kv-dtype q8",
               "--trace nowhere.h5", "--traces nowhere", "--model olmoo", "--hardware rtx-309", "--reserve 99GiB",
               "--hardware desktop-cpu --vram 8GiB", "--set pcie.bandwith=1GB/s"],
        "sweep": ["absent.toml", "badsweep.toml", "badvalue.toml", "badsyntax.toml", "sweep.toml -o t.csv",
                  "sweep.toml --jobs 2 --workers 2"],
        "results": ["absent.parquet", "small.h5", "t.csv"],
        "report": ["absent.json", "small.h5", "broken.json", "other.json", "other.json -o page.pdf"],
        "trace": ["import absent.csv -o a.h5", "import bad.csv -o a.h5", "import t.csv -o a.h5 --format tabel",
                  "import t.csv -o a.h5 --num-experts 2", "import t.csv -o absent/a.h5", "import t.csv -o t.csv",
                  "import t.csv -o a.h5 --columns tokn=token", "import t.csv -o a.h5 --phase warm",
                  "import t.csv -o a.h5 --top-k 3", "import text.h5 -o a.h5", "export small.h5 -o a.xyz",
                  "export small.h5 -o a.npz --format zip", "export small.h5 -o a.oracleGeneral --layer 99",
                  "export small.h5 -o a.npz --layer 1", "info text.h5", "check absent.h5"],
        "calibrate": ["--from-run absent.csv --trace small.h5", "--trace small.h5", "--from-run t.csv",
                      "--from-run t.csv --trace small.h5 --overlap maybe",
                      "--from-run t.csv --trace small.h5 --loss cubes",
                      "--from-run t.csv --trace small.h5 --column wall=nothing"],
        "record": ["", "model", "model --prompts absent.txt -o a.h5",
                   "--from-vllm x --from-sglang y --prompts t.csv -o a.h5"],
    }  # fmt: skip
    for start, endings in lines.items():
        for ending in endings:
            line = f"{start} {ending}".strip()
            yield f"wrong: {line}", commands(line)


def wrong_calls() -> Iterator[tuple[str, Case]]:
    """Yield wrong arguments of the functions that command lines cannot give."""
    calls: list[tuple[str, Row]] = [
        ("simulate", {"scope": 3}), ("simulate", {"cache": 1.5}), ("simulate", {"cache": -1}),
        ("simulate", {"cache": []}),
        ("simulate", {"warm": 1}), ("simulate", {"hardware": "rtx-4090", "record": True}),
        ("simulate", {"hardware": "rtx-4090", "mis": "load"}), ("simulate", {"mis": "load"}),
        ("simulate", {"log": True}),
        ("simulate", {"hardware": "rtx-4090", "overlap": "yes"}),
        ("simulate", {"hardware": "rtx-4090", "overrides": "a=1"}),
        ("simulate", {"hardware": "rtx-4090", "miss": 3}), ("simulate", {"hardware": 3}), ("simulate", {"policy": 3}),
        ("simulate", {"arrivals": [0.0]}), ("simulate", {"arrivals": [0.0], "hardware": "rtx-4090"}),
        ("simulate", {"speculative": [1]}), ("simulate", {"speculative": [1, -1]}), ("simulate", {"batch": "two"}),
        ("simulate", {"profile": 3, "policy": "static"}), ("simulate", {"prefill": "chunk:x"}),
        ("curve", {"capacities": []}), ("curve", {"capacities": ["2x"]}), ("curve", {"scope": "x"}),
        ("curve", {"policy": "static"}), ("srp", {"segment": 0}), ("srp", {"segment": 1.5}),
        ("sch", {"segment": 16, "definition": "best"}), ("sch", {"segment": 16, "cache": "1,2"}),
    ]  # fmt: skip
    for function, args in calls:
        yield f"wrong call {function} {args}", {"call": function, "trace": "small.h5", "args": args}

"""Two examples for every command, which its help ends with."""

from __future__ import annotations

import click

EXAMPLES: dict[str, tuple[str, ...]] = {
    "run": (
        "lrcsim run --policy lru --cache 2x",
        "lrcsim run mine.h5 --policy s3-fifo --hardware rtx-4090 --miss split",
    ),
    "plan": (
        "lrcsim plan gpt-oss-120b --hardware rtx-4090 --ram 64GiB",
        "lrcsim plan qwen3-30b-a3b --hardware auto --trace mine.h5",
    ),
    "curve": ("lrcsim curve --policy lru,lfu,belady", "lrcsim curve mine.h5 --cache 1x,2x,4x --plot curve.png"),
    "compare": (
        "lrcsim compare --policy lru,lfu,s3-fifo --cache 1x,2x,4x",
        "lrcsim compare mine.h5 --policy lru,mine.py:X --prefetch none,next-gate --miss load,split --hardware rtx-4090",
    ),
    "frontier": (
        'lrcsim frontier model --prompts prompts.txt --cache 2x --rules "none;prior:0.1,0.2"',
        'lrcsim frontier model --prompts prompts.txt --rules "none;skip:0.1" --hardware rtx-4090 --plot quality.pdf',
    ),
    "predict": ("lrcsim predict mine.h5 --from token", "lrcsim predict mine.h5 --from token,experts -o predicted.h5"),
    "ceilings": (
        "lrcsim ceilings mine.h5 --hardware rtx-4090 --cache 2x",
        "lrcsim ceilings mine.h5 --hardware rtx-4090 --from experts --json ceilings.json",
    ),
    "sweep": ("lrcsim sweep links.toml --dry-run", "lrcsim sweep links.toml --jobs 8 -o links.parquet"),
    "results": (
        "lrcsim results links.parquet --best decode_tokens_per_s --per hardware",
        "lrcsim results links.parquet --where \"policy = 'lru'\" --csv lru.csv",
    ),
    "report": ("lrcsim report run.json -o run.html", "lrcsim report run.json curve.json compare.json -o all.html"),
    "srp": ("lrcsim srp mine.h5", "lrcsim srp mine.h5 other.h5 -m 16,64 --plot srp.pdf"),
    "sch": ("lrcsim sch mine.h5", "lrcsim sch mine.h5 --definition lookahead --scope model --csv sch.csv"),
    "balance": ("lrcsim balance mine.h5", "lrcsim balance mine.h5 other.h5 -m 16,64 --plot balance.pdf"),
    "trace info": ("lrcsim trace info", "lrcsim trace info mine.h5 --json facts.json"),
    "trace check": ("lrcsim trace check mine.h5", "lrcsim trace check mine.h5 --json -"),
    "trace import": (
        "lrcsim trace import routing.csv -o mine.h5",
        "lrcsim trace import answers.json -o mine.h5 --model qwen3-30b-a3b",
    ),
    "trace export": ("lrcsim trace export mine.h5 -o mine.npz", "lrcsim trace export mine.h5 -o mine.csv"),
    "trace convert": (
        "lrcsim trace convert mine.h5 -o newer.h5",
        "lrcsim trace convert mine.h5 -o newer.h5 --json newer.json",
    ),
    "trace select": (
        "lrcsim trace select mine.h5 -o first.h5 --layers 0-7",
        "lrcsim trace select mine.h5 -o some.h5 --layers 0,12,23",
    ),
    "trace split": (
        "lrcsim trace split mine.h5 --fit fit.h5 --test test.h5",
        "lrcsim trace split mine.h5 --fit fit.h5 --test test.h5 --json split.json",
    ),
    "record": (
        "lrcsim record Qwen/Qwen3-30B-A3B --prompts prompts.txt -o mine.h5",
        "lrcsim record model.gguf --prompts prompts.txt -o mine.h5 --max-new-tokens 64",
    ),
    "policies": ("lrcsim policies", "lrcsim policies s3-fifo"),
    "prefetchers": ("lrcsim prefetchers", "lrcsim prefetchers next-gate"),
    "miss-actions": ("lrcsim miss-actions", "lrcsim miss-actions split"),
    "routes": ("lrcsim routes", "lrcsim routes prior"),
    "hardware": ("lrcsim hardware", "lrcsim hardware rtx-3060+ddr5-5600-2ch --set pcie.bandwidth=25.6GB/s"),
    "runtimes": ("lrcsim runtimes", "lrcsim runtimes llama.cpp --hardware rtx-4090"),
    "calibrate": (
        "lrcsim calibrate -o this.toml",
        "lrcsim calibrate --from-run run.csv --trace mine.h5 --model qwen3-30b-a3b -o fitted.toml",
    ),
    "models": ("lrcsim models", "lrcsim models mixtral-8x7b --dtype q4_k_m"),
    "completion": ("lrcsim completion bash", "lrcsim completion fish"),
}
"""By the command's words."""


def with_examples(words: str, command: click.Command) -> click.Command:
    """Give a command, and those below it, their examples as the last lines of its help."""
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            with_examples(f"{words} {name}", below)
    elif words in EXAMPLES:
        command.epilog = "\n".join(["\b", "Examples:", *(f"  {line}" for line in EXAMPLES[words])])
    return command

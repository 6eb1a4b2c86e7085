"""Many rules on one model and one machine: a row for each, the Pareto front and its knee."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrcsim.base.errors import ConfigError
from lrcsim.base.progress import Progress, part_of
from lrcsim.frontier.asked import checked
from lrcsim.frontier.closed_loop import ClosedLoop
from lrcsim.frontier.front import knee, knee_in_words, pareto
from lrcsim.frontier.one_rule import OneRule, trace_of
from lrcsim.frontier.rules import NONE, Compared, source_of
from lrcsim.frontier.unfinished import Row, Unfinished
from lrcsim.policies import make_policy
from lrcsim.recorder import Prompt, Settings
from lrcsim.recorder.model import Loaded
from lrcsim.recorder.session import requests_of
from lrcsim.recorder.with_transformers import TransformersRunner
from lrcsim.simulator.setup.options import Options
from lrcsim.simulator.setup.run import Run, plain
from lrcsim.traces import RoutingTrace

if TYPE_CHECKING:
    from lrcsim.recorder.requests import Request


@dataclass(frozen=True)
class Frontier:
    """What `measure` found.

    Attributes:
        rows: one for each rule, ``none`` first: JSON values by name (docs/frontier.md).
        front: labels of the rules that no other beats in both loss and speed, the least loss first.
        knee: label of the rule beyond which more speed costs more than on average along the front; None: there is none.
        about: model, text, options and versions, JSON values.
        trace: what the model ran without a rule, with the logits of its routers where they tell.
        notices: what the user should know of the model.
    """

    rows: list[Row]
    front: list[str]
    knee: str | None
    about: dict[str, Any]
    trace: RoutingTrace = field(repr=False)
    notices: Sequence[str] = ()

    @property
    def words(self) -> str:
        """The knee as a sentence."""
        return knee_in_words(self.rows, self.front, self.knee)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            **self.about,
            "rows": self.rows,
            "front": self.front,
            "knee": {"rule": self.knee, "words": self.words},
        }


def measure(
    loaded: Loaded,
    prompts: Iterable[Prompt],
    rules: Sequence[Compared],
    *,
    sample_tokens: int = 512,
    limit: int | None = None,
    out: str | Path | None = None,
    restart: bool = False,
    one_at_a_time: bool | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Frontier:
    """Run a model with each rule, its caches in the loop, and say what each costs in quality and brings in speed.

    Args:
        loaded: model and tokenizer, from `lrcsim.recorder.model.load`.
        prompts: texts, packed into samples as ``lrcsim record --teacher-forced`` does; each is a request. What is left
            at the end of a text may be one token alone, and then is left out: there is nothing to predict.
        rules: from `lrcsim.frontier.rules.parse_rules`.
        sample_tokens: length of a sample.
        limit: samples at most; None: all.
        out: the output, beside which finished rules are kept until `finished` is called; None: nothing is kept.
        restart: drop what an earlier run left there.
        one_at_a_time: run tokens one by one; None: where one pool serves all layers.
        progress: told how far it is, in tokens.
        options: of a run (`lrcsim.simulator.setup.options.Options`): ``policy``, ``cache``, ``scope``, ``access``,
            ``warm``, ``profile``, ``expert_bytes``, and with ``hardware`` those of the machine.

    Raises:
        ConfigError: model, prompts, rules and options do not go together.
        PolicyError: the policy knows the future, or a user's policy or rule failed.
    """
    asked = checked(options, rules)
    runner = TransformersRunner(loaded, Settings(teacher_forced=True, sample_tokens=sample_tokens, limit=limit))
    requests = [request for request in requests_of(runner, prompts, runner.settings) if len(request.ids) > 1]
    if not requests:
        raise ConfigError("the texts have no sample of two tokens, which a loss needs: give longer ones")
    if asked.scope == "model" and one_at_a_time is False:
        raise ConfigError("with one pool for all layers tokens must run one at a time: leave one_at_a_time out")
    single = asked.scope == "model" if one_at_a_time is None else one_at_a_time
    loop = ClosedLoop(loaded.model, requests, one_at_a_time=single)
    determined = _determined(runner, requests, asked, single)
    unfinished = Unfinished(out, determined, restart=restart)
    kept = {rule.label for rule in rules if unfinished.has(rule)}
    parts = 1 + sum(rule.label not in kept for rule in rules if rule.label != NONE)
    ran = loop.run(progress=part_of(progress, 0, parts))
    trace = trace_of(ran, requests, runner)
    run = Run.of(trace, **asked.given("cache"))
    one = OneRule(loop, ran, run, asked, runner, requests)
    first = one.row(Compared(NONE), None)
    unfinished.begin(first)
    rows, done = [], 1
    for rule in rules:
        if rule.label == NONE:
            row = first
        elif rule.label in kept:
            row = unfinished.rows[rule.label]
        else:
            row = one.row(rule, part_of(progress, done, parts))
            unfinished.add(row)
            done += 1
        rows.append(row)
    cost, worth = [row["loss"] for row in rows], [_worth(row) for row in rows]
    front = pareto(cost, worth)
    at = knee(cost, worth, front)
    about = determined | {"requests": len(requests), "tokens": trace.num_tokens, "capacity": run.config()["capacity"]}
    labels = [str(row["rule"]) for row in rows]
    return Frontier(
        rows, [labels[i] for i in front], None if at is None else labels[at], about, trace, tuple(runner.notices)
    )


def finished(out: str | Path) -> None:
    """Remove what `measure` kept beside an output that is written now."""
    path = Path(out).with_name(f".{Path(out).name}.rules.jsonl")
    path.unlink(missing_ok=True)


def _worth(row: Row) -> float:
    """Return what is the better the more there is of it: tokens per second, without a machine experts not loaded."""
    speed = row["tokens_per_s"]
    return -float(row["loads_per_access"]) if speed is None else float(speed)


def _determined(
    runner: TransformersRunner, requests: Sequence[Request], asked: Options, single: bool
) -> dict[str, Any]:
    digest, policy = b"", source_of(make_policy(asked.policy))
    for request in requests:
        digest = request.digest(digest)
    return {
        **runner.determined(),
        "text_sha256": hashlib.sha256(digest).hexdigest(),
        "options": {name: plain(value) for name, value in asked.given().items()},
        **({} if policy is None else {"policy_sha256": policy}),
        "one_at_a_time": single,
        "versions": {"lrcsim": version("lrcsim"), **runner.about()["versions"]},
    }

"""Many rules on one model and one machine: a row for each, the Pareto front and its knee."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lrcsim.base.errors import ConfigError, PolicyError
from lrcsim.base.progress import Progress, part_of
from lrcsim.frontier.caches import Caches
from lrcsim.frontier.closed_loop import ClosedLoop, Ran
from lrcsim.frontier.deciders import Decider, RouteDecider, SkipDecider
from lrcsim.frontier.front import knee, pareto
from lrcsim.frontier.open_loop import foretold
from lrcsim.frontier.quality import quality
from lrcsim.frontier.router_choice import RouterChoice
from lrcsim.frontier.routers import refuse_share, routers
from lrcsim.frontier.rules import NONE, Compared, source_of
from lrcsim.frontier.unfinished import Row, Unfinished
from lrcsim.policies import make_policy
from lrcsim.recorder import Prompt, Settings, families
from lrcsim.recorder.model import Loaded
from lrcsim.recorder.session import requests_of
from lrcsim.recorder.with_transformers import TransformersRunner
from lrcsim.simulator import simulate
from lrcsim.simulator.setup.options import Options
from lrcsim.simulator.setup.run import Run, plain
from lrcsim.traces import LayerTable, RoutingTrace

if TYPE_CHECKING:
    from lrcsim.recorder.requests import Request

REFUSED = {
    "prefill": "every token is a step of its own here",
    "route": "the rules are what is compared",
    "batch": "tokens of one request follow each other here",
    "speculative": "tokens are given, not drafted",
    "arrivals": "tokens are given, one request after the other",
    "miss": "the rules are what is compared, and all other misses are loaded",
    "prefetch": "the caches of the running model load on demand",
}
"""Options of a run that say nothing here, and why."""

SAME_LOSS = 1e-6
"""Nats by which the loss of a model may differ from what an earlier, stopped run found: those of two processes."""


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
    asked = _checked(options, rules)
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
    kept = {rule.label for rule in rules if _is_kept(rule, unfinished)}
    parts = 1 + sum(rule.label not in kept for rule in rules if rule.label != NONE)
    ran = loop.run(progress=part_of(progress, 0, parts))
    trace = _trace(ran, requests, runner)
    run = Run.of(trace, **asked.given("cache"))
    one = _One(loop, ran, run, asked, runner, requests)
    first = one.row(Compared(NONE), None)
    _same_as_before(unfinished, first, out)
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


class _One:
    """Measures one rule after the other.

    Args:
        loop: the model.
        ran: what it ran without a rule.
        run: the caches, on the trace of that.
        asked: all options.
        runner: of the recorder, for what traces say of the model.
        requests: what is run.
    """

    def __init__(
        self,
        loop: ClosedLoop,
        ran: Ran,
        run: Run,
        asked: Options,
        runner: TransformersRunner,
        requests: Sequence[Request],
    ) -> None:
        self.loop, self.plain, self.run, self.asked = loop, ran, run, asked
        self.runner, self.requests = runner, requests
        self._choices: list[RouterChoice] | None = None

    def row(self, rule: Compared, progress: Progress | None) -> Row:
        """Run the model with a rule and return all figures; ``none`` is what has been run."""
        decider, ran, trace = None, self.plain, self.run.trace
        ahead = foretold(None, self.run)
        if rule.label != NONE:
            decider = self._decider(rule)
            ran = self.loop.run(decider, progress)
            trace = _trace(ran, self.requests, self.runner)
            ahead = foretold(self._decider(rule), self.run)
        found = quality(ran, self.plain)
        row: Row = {
            "rule": rule.label,
            **({} if rule.source is None else {"source_sha256": rule.source}),
            "loss": found.loss,
            "loss_difference": found.difference,
            "loss_interval": None if found.interval is None else list(found.interval),
            "changed_tokens": found.changed,
            "hit_rate": ahead.hit_rate,
            "loads_per_access": ahead.loads_per_access,
            "agreement": 1.0,
            "mass_kept": 1.0,
        }
        if decider is not None:
            caches, kept = decider.caches, decider.kept
            row |= {
                "hit_rate": 1 - caches.misses / caches.accesses,
                "loads_per_access": (caches.misses - caches.left_out) / caches.accesses,
                "agreement": kept.agreement,
                "mass_kept": kept.mass_kept,
            }
        row["open_loop"] = ahead._asdict()
        row["tokens_per_s"] = self._speed(rule, trace)
        return row

    def _decider(self, rule: Compared) -> Decider:
        caches = Caches(self.run)
        if rule.skip is not None:
            return SkipDecider(rule.skip, caches)
        assert rule.route is not None  # the rule is not none
        if self._choices is None:
            self._choices = routers(self.loop.model, self.plain, self.run.trace)
        refuse_share(rule, self._choices)
        return RouteDecider(rule.route, caches, self._choices)

    def _speed(self, rule: Compared, trace: RoutingTrace) -> float | None:
        """Return the tokens per second of what ran, on the machine; None without one."""
        if self.asked.hardware is None:
            return None
        told = self.asked.given() | {"bounds": False}
        if rule.skip is not None:
            told["miss"] = rule.skip.label()
        speed = simulate(trace, **told).to_dict()["time"]["decode_tokens_per_s"]
        return None if speed is None else float(speed)


def knee_in_words(rows: Sequence[Mapping[str, Any]], front: Sequence[str], label: str | None) -> str:
    """Say what the rule at the knee brings and costs.

    >>> none = {"rule": "none", "loss_difference": 0.0, "loads_per_access": 0.5, "tokens_per_s": 10.0}
    >>> prior = {"rule": "prior:0.1", "loss_difference": 0.002, "loads_per_access": 0.3, "tokens_per_s": 16.0}
    >>> knee_in_words([none, prior | {"loss_interval": [0.001, 0.003]}], ["none", "prior:0.1"], "prior:0.1")
    'prior:0.1: 1.60x the speed for +0.0020 nats (95 % interval +0.0010 to +0.0030)'
    """
    by_rule = {row["rule"]: row for row in rows}
    none = by_rule[NONE]
    if label is None:
        return f"no knee: of the rules, {', '.join(front)} are beaten by no other in both loss and speed"
    if label == NONE:
        return "the knee is at none: every rule costs more than it brings, by the mean along the front"
    row = by_rule[label]
    if row["tokens_per_s"] is None:
        share = row["loads_per_access"] / none["loads_per_access"]
        brings = f"{share:.2f}x the loads"
    else:
        brings = f"{row['tokens_per_s'] / none['tokens_per_s']:.2f}x the speed"
    text = f"{label}: {brings} for {row['loss_difference']:+.4f} nats"
    if row.get("loss_interval") is None:
        return text
    low, high = row["loss_interval"]
    shown = ", no difference shown" if low <= 0 <= high else ""
    return f"{text} (95 % interval {low:+.4f} to {high:+.4f}{shown})"


def _worth(row: Row) -> float:
    """Return what is the better the more there is of it: tokens per second, without a machine experts not loaded."""
    speed = row["tokens_per_s"]
    return -float(row["loads_per_access"]) if speed is None else float(speed)


def _checked(options: dict[str, Any], rules: Sequence[Compared]) -> Options:
    """Return the options, and refuse what no running model could have.

    Raises:
        ConfigError: an option says nothing here, or does not go with a rule.
        PolicyError: the policy knows the future.
    """
    asked = Options.of(options)
    for name in options:
        if name in REFUSED and name in asked.given():
            raise ConfigError(f"option {name!r} cannot be used with frontier: {REFUSED[name]}; leave it out")
    if asked.access == "paper":
        raise ConfigError(
            "access 'paper' looks whole tokens up, and a running model asks layer by layer: use access 'coresident'"
        )
    if asked.access == "sequential" and any(rule.skip is not None for rule in rules):
        raise ConfigError("skip leaves misses of a layer-step out: use access 'coresident', or leave skip out")
    if "future" in make_policy(asked.policy).needs:
        raise PolicyError(
            f"policy {make_policy(asked.policy).name} needs to know the uses to come, which a running model does not: "
            "use another policy"
        )
    return asked


def _trace(ran: Ran, requests: Sequence[Request], runner: TransformersRunner) -> RoutingTrace:
    """Return what ran as a trace, a plain token stream."""
    sites, config = ran.sites, runner.model.config
    sizes = [site.expert_bytes for site in sites]
    layers = LayerTable.build(
        len(sites),
        [site.num_experts for site in sites],
        (ran.columns["experts"] >= 0).any(axis=0).sum(axis=1),
        expert_bytes=None if None in sizes else [size for size in sizes if size is not None],
        block=[site.block for site in sites],
        num_shared=families.shared(config),
    )
    columns: dict[str, Any] = dict(ran.columns)
    return RoutingTrace.from_arrays(
        num_experts=int(layers.num_experts.max()),
        offsets=np.cumsum([0, *(len(request.ids) for request in requests)]),
        domains=None if all(request.domain is None for request in requests) else [r.domain or "" for r in requests],
        layers=layers,
        model=runner.name,
        provenance={"model_id": runner.name, "synthetic": False, "recorder": "lrcsim frontier", **_model_about(runner)},
        **columns,
    )


def _model_about(runner: TransformersRunner) -> dict[str, Any]:
    about = runner.about()
    return {name: about[name] for name in ("config", "versions", "device", "dtype") if name in about}


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


def _is_kept(rule: Compared, unfinished: Unfinished) -> bool:
    """Return whether an earlier run did a rule; a user's only if its file is still the same."""
    row = unfinished.rows.get(rule.label)
    return row is not None and row.get("source_sha256") == rule.source


def _same_as_before(unfinished: Unfinished, row: Row, out: str | Path | None) -> None:
    """Refuse rows of an earlier run of the same name on other weights.

    Raises:
        ConfigError: they are.
    """
    before = unfinished.rows.get(NONE)
    if before is None:
        unfinished.add(row)
    elif abs(before["loss"] - row["loss"]) > SAME_LOSS:
        raise ConfigError(
            f"{out}: an unfinished run is there in which the model had a loss of {before['loss']:.6f} nats, now it is "
            f"{row['loss']:.6f}: other weights; use --restart"
        )

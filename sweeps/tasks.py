"""What a sweep has to do: what identifies a run, which runs share a pass, what is done already."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal, NamedTuple

from lrcsim.base.errors import ConfigError
from lrcsim.policies import make_policy
from lrcsim.simulator.compiled.engine_for import engine_for
from lrcsim.simulator.setup.expert_sizes import FILES
from lrcsim.simulator.time.run_in_time import FEW
from lrcsim.sweeps.checks import check_values
from lrcsim.sweeps.files import file_in, located, sum_of_model, trace_path
from lrcsim.sweeps.one_name import with_one_name
from lrcsim.sweeps.options import options
from lrcsim.sweeps.spec import Spec, Values
from lrcsim.traces import RoutingTrace
from lrcsim.traces.files import sha256_of

SHARED = {"trace"} | {name for name, option in options().items() if option.group == "cache" and name != "route"}
"""Options that a shared pass knows; a run that is told anything else is simulated by itself."""

SIZES_PER_PASS = 8
"""Cache sizes in one pass of a policy that is run at each of them; a stack policy gets all from one."""


@dataclass(frozen=True)
class PlannedRun:
    """One run, ready to be sent to any process.

    Attributes:
        key: what identifies it: a hash of everything that its result depends on.
        values: as in the spec, machines and models by their one name; what is not there has its default.
        files: SHA-256 of the files its values name, other than the trace, by option.
        trace_sha256: of the trace's file.
    """

    key: str
    values: Values
    files: dict[str, str]
    trace_sha256: str


@dataclass(frozen=True)
class Task:
    """Runs for one worker: one, or several that differ in their cache size and share a pass.

    Attributes:
        kind: ``"pass"``: one pass gives all; ``"replay"``: one run, hits alone; ``"timed"``: one run on a machine.
        runs: what to give rows for.
        folder: where relative paths start.
        lrcsim: version that made the plan; a worker of another one refuses.
        many: whether there are so many runs on a machine that it pays to compile the event loop for them at once.
    """

    kind: Literal["pass", "replay", "timed"]
    runs: tuple[PlannedRun, ...]
    folder: str
    lrcsim: str
    many: bool = False

    @property
    def trace(self) -> str:
        """The trace's name, as in the spec."""
        return _told(self.runs[0].values, "trace")

    @property
    def opened(self) -> tuple[str, str]:
        """What a worker has to open: the trace, and the size of its experts."""
        return self.trace, _told(self.runs[0].values, "expert_bytes")


@dataclass(frozen=True)
class TaskList:
    """Everything a sweep has to do.

    Attributes:
        spec: what was asked for.
        runs: in the order of the spec, each once.
    """

    spec: Spec
    runs: list[PlannedRun]

    def tasks(self, done: Iterable[str] = (), *, share: bool = True) -> list[Task]:
        """Return what is left to do, the runs of a trace together so that a worker reads it once.

        Args:
            done: keys of runs that are not to be done again.
            share: False: every run by itself, to see that sharing changes nothing.
        """
        finished, groups, engines = set(done), dict[str, list[PlannedRun]](), dict[str, str]()
        folder, mine, tasks = str(self.spec.folder), version("lrcsim"), list[Task]()
        traces = _about_traces(self.runs, self.spec.folder)
        left = [run for run in self.runs if run.key not in finished and "hardware" in run.values]
        many = sum(traces[_told(run.values, "trace")].layer_steps for run in left) > FEW
        for run in self.runs:
            if run.key in finished:
                continue
            trace = _told(run.values, "trace")
            policy = _told(run.values, "policy")
            if policy not in engines:
                engines[policy] = engine_for(make_policy(located(policy, self.spec.folder)), hits_only=True)
            unequal = traces[trace].unequal or _sized_one_by_one(run.values)
            shares = share and run.values.keys() <= SHARED and not unequal and engines[policy] != "python"
            if shares:
                same = {name: value for name, value in run.values.items() if name != "cache"}
                groups.setdefault(json.dumps(same, sort_keys=True), []).append(run)
            else:
                timed = "hardware" in run.values
                tasks.append(Task("timed" if timed else "replay", (run,), folder, mine, timed and many))
        for group in groups.values():
            policy = _told(group[0].values, "policy")
            size = len(group) if engines[policy] == "stack" else SIZES_PER_PASS
            for start in range(0, len(group), size):
                tasks.append(Task("pass", tuple(group[start : start + size]), folder, mine))
        order = {opened: number for number, opened in enumerate(dict.fromkeys(task.opened for task in tasks))}
        return sorted(tasks, key=lambda task: order[task.opened])


def divide(spec: Spec) -> TaskList:
    """Check a spec's values, and give each run its key.

    A key depends on the run's values, on the contents of the trace and of every other file that they name, and on
    lrcsim's version. Runs that are the same are done once, however their values were written (`one_name`).

    Raises:
        ConfigError: a value is wrong.
        TraceError: a trace cannot be opened.
    """
    check_values(spec)
    sums: dict[str, str] = {}

    def sum_of(path: str) -> str:
        if path not in sums:
            try:
                sums[path] = sum_of_model(path) if path.lower().endswith(".gguf") else sha256_of(path)
            except OSError as error:
                raise ConfigError(f"{spec.source}: {path} cannot be read: {error.strerror}") from None
        return sums[path]

    runs: dict[str, PlannedRun] = {}
    mine = version("lrcsim")
    for values in with_one_name(spec.runs, spec.folder):
        trace = sum_of(trace_path(_told(values, "trace"), spec.folder))
        found = {name: file_in(value, spec.folder) for name, value in values.items() if name != "trace"}
        files = {name: sum_of(str(file[0])) for name, file in found.items() if file is not None}
        text = json.dumps([mine, trace, files, values], sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        runs.setdefault(key, PlannedRun(key, values, files, trace))
    return TaskList(spec, list(runs.values()))


def _told(values: Values, name: str) -> str:
    """Return what a run is told of an option, or the option's default."""
    return str(values.get(name, options()[name].default))


def _sized_one_by_one(values: Values) -> bool:
    """Return whether a run is told sizes of experts that may differ: a list, a file of them, or two precisions."""
    given = values.get("expert_bytes")
    return "low_copy" in values or isinstance(given, list) or (isinstance(given, str) and Path(given).suffix in FILES)


class _About(NamedTuple):
    """What a plan has to know of a trace.

    Attributes:
        unequal: whether its experts differ in bytes: there the bytes loaded do not follow from the hits.
        layer_steps: tokens times layers.
    """

    unequal: bool
    layer_steps: int


def _about_traces(runs: Sequence[PlannedRun], folder: Path) -> dict[str, _About]:
    found = {}
    for name in {_told(run.values, "trace") for run in runs}:
        with RoutingTrace.open(trace_path(name, folder)) as trace:
            unequal = trace.expert_bytes is not None and len(set(trace.expert_bytes.ravel().tolist())) > 1
            found[name] = _About(unequal, trace.num_tokens * trace.num_layers)
    return found
